//! The time axis, and the scale of latencies.

use std::time::Duration;

/// A time axis from 0 to `end`, `width` units long.
#[derive(Debug, Clone, Copy)]
pub struct TimeAxis {
    pub left: f64,
    pub width: f64,
    pub end: Duration,
}

impl TimeAxis {
    pub fn x(&self, at: Duration) -> f64 {
        let whole = self.end.as_secs_f64().max(0.001);
        self.left + self.width * (at.as_secs_f64() / whole).min(1.0)
    }

    /// Ticks at round times: 0, and at most `max` others.
    pub fn ticks(&self, max: usize) -> Vec<Duration> {
        let steps =
            [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
        let end = self.end.as_secs_f64();
        let fits = |step: &&f64| end / **step <= max as f64;
        // A rollout too long for these steps is divided into equal parts.
        let step = steps.iter().find(fits).copied().unwrap_or(end / max.max(1) as f64);
        let count = (end / step).floor() as usize;
        (0..=count).map(|n| Duration::from_secs_f64(n as f64 * step)).collect()
    }
}

/// `1.5 s`, `2 min`
pub fn label(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s >= 120.0 => format!("{} min", one_decimal(s / 60.0)),
        s => format!("{} s", one_decimal(s)),
    }
}

/// `2.74`, in seconds, to distinguish short phases.
pub fn two_decimals(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}

fn one_decimal(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map_or(text.clone(), String::from)
}

/// Height of a latency on a logarithmic scale, from 0 (1 ms or less) to 1 (`max`). So a reload of 30 ms and a timeout
/// of 5 s are both visible.
pub fn log_height(took: Duration, max: Duration) -> f64 {
    let log = |time: Duration| (time.as_secs_f64() * 1000.0).max(1.0).log10();
    (log(took) / log(max).max(0.001)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn ticks_are_round_and_fit_the_axis() {
        let ticks = |end: u64, max| {
            let axis = TimeAxis { left: 0.0, width: 100.0, end: ms(end) };
            axis.ticks(max).into_iter().map(label).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(ticks(6300, 8), "0 s, 1 s, 2 s, 3 s, 4 s, 5 s, 6 s");
        assert_eq!(ticks(6300, 4), "0 s, 2 s, 4 s, 6 s");
        assert_eq!(ticks(400, 5), "0 s, 0.1 s, 0.2 s, 0.3 s, 0.4 s");
        assert_eq!(ticks(700_000, 4), "0 s, 5 min, 10 min");
        assert_eq!(ticks(0, 4), "0 s");
        for end in [1, 99, 12_345, 9_999_999] {
            let axis = TimeAxis { left: 0.0, width: 1.0, end: ms(end) };
            assert!(axis.ticks(5).len() <= 6, "{end}");
        }
    }

    #[test]
    fn latencies_have_a_logarithmic_scale() {
        let all = [log_height(ms(0), ms(1000)), log_height(ms(1), ms(1000)), log_height(ms(1000), ms(1000))];
        assert_eq!(all, [0.0, 0.0, 1.0]);
        assert!((log_height(ms(10), ms(1000)) - 1.0 / 3.0).abs() < 1e-9);
        assert_eq!(log_height(ms(5000), ms(1000)), 1.0);
    }
}
