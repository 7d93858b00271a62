//! The chart of a timeline: a bar for each phase of an instance, and the requests of the witness below. All positions
//! are percentages, so that one chart fits every screen.

use std::time::Duration;

use super::escape;
use super::{Marker, Timeline, spans};
use crate::report::probes::Sample;
use crate::report::timeline_model::{InstancePhase, InstanceTrack};

/// Most ticks after 0.
const TICKS: usize = 10;
/// Shortest distance between two labels of markers, in percent.
const LABEL_DISTANCE: f64 = 12.0;
/// Letters of a name that have room; the style sheet cuts longer names.
const NAME_LETTERS: usize = 24;

/// A time axis from 0 to this time.
#[derive(Debug, Clone, Copy)]
struct TimeAxis(Duration);

impl TimeAxis {
    /// Position in percent.
    fn percent(self, at: Duration) -> f64 {
        100.0 * (at.as_secs_f64() / self.0.as_secs_f64().max(0.001)).min(1.0)
    }

    /// Ticks at round times: 0, and at most `max` others.
    fn ticks(self, max: usize) -> Vec<Duration> {
        let steps =
            [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
        let end = self.0.as_secs_f64();
        // A rollout too long for these steps is divided into equal parts.
        let step = steps.into_iter().find(|step| end / step <= max as f64).unwrap_or(end / max.max(1) as f64);
        let count = (end / step).floor() as usize;
        (0..=count).map(|n| Duration::from_secs_f64(n as f64 * step)).collect()
    }
}

/// `1.5 s`, `2 min`
pub fn label(time: Duration) -> String {
    let (number, unit) = match time.as_secs_f64() {
        seconds if seconds >= 120.0 => (seconds / 60.0, "min"),
        seconds => (seconds, "s"),
    };
    format!("{} {unit}", (number * 10.0).round() / 10.0)
}

/// Draws the timeline as an element of HTML.
pub fn draw(timeline: &Timeline) -> String {
    let axis = TimeAxis(timeline.end);
    let title = escape(&format!("timeline of {}; the table below has the same contents", timeline.title));
    let letters = timeline.tracks.iter().map(|t| t.name.chars().count()).max();
    let names = letters.unwrap_or(0).clamp(8, NAME_LETTERS) + 3;
    let rows: String = timeline.tracks.iter().map(|track| row(track, axis)).collect();
    let (grid, markers, witness) =
        (grid(axis), markers(&timeline.markers, axis), witness(&timeline.samples, axis));
    format!(
        r#"<div class="chart" role="img" aria-label="{title}" style="--names: {names}ch">
<div class="plot">
{grid}{markers}</div>
{rows}{witness}</div>
"#
    )
}

fn grid(axis: TimeAxis) -> String {
    let tick = |at: Duration| {
        let (left, label) = (axis.percent(at), label(at));
        format!(
            r#"<i style="left: {left:.2}%"></i><span class="tick" style="left: {left:.2}%">{label}</span>"#
        ) + "\n"
    };
    axis.ticks(TICKS).into_iter().map(tick).collect()
}

/// Vertical lines across all bars. A label is left out if it would overlap the previous one.
fn markers(markers: &[Marker], axis: TimeAxis) -> String {
    let mut free_from = 0.0;
    let marker = |marker: &Marker| {
        let (left, name) = (axis.percent(marker.at), marker.label);
        let has_room = left >= free_from;
        let text = if has_room { name } else { "" };
        free_from = if has_room { left + LABEL_DISTANCE } else { free_from };
        let title = format!("{name} at {}", label(marker.at));
        format!(
            r#"<i class="mark" style="left: {left:.2}%" title="{title}"></i><span class="what" style="left: {left:.2}%">{text}</span>"#
        ) + "\n"
    };
    markers.iter().map(marker).collect()
}

fn row(track: &InstanceTrack, axis: TimeAxis) -> String {
    let name = escape(&track.name);
    let bar = |(from, to, phase): (Duration, Duration, InstancePhase)| {
        let (left, class) = (axis.percent(from), css_class(phase));
        let width = axis.percent(to) - left;
        let title = format!("{name} {phase}: {} to {}", label(from), label(to));
        format!(r#"<i class="{class}" style="left: {left:.2}%; width: {width:.2}%" title="{title}"></i>"#)
    };
    let shown = spans(track, axis.0).into_iter().filter(|(.., phase)| *phase != InstancePhase::Removed);
    let bars: String = shown.map(bar).collect();
    let class = if track.new { "new" } else { "old" };
    format!("<div class=\"row\"><b class=\"{class}\">{name}</b><div>{bars}</div></div>\n")
}

/// Latencies on a logarithmic scale, 1 ms at the bottom; lost requests are crosses at the top.
fn witness(samples: &[Sample], axis: TimeAxis) -> String {
    let Some(longest) = samples.iter().map(|s| s.took).max() else { return String::new() };
    let longest = longest.max(Duration::from_millis(100));
    let level = |(ms, label): &(u64, &str)| {
        let bottom = log_percent(Duration::from_millis(*ms), longest);
        format!(r#"<i class="level" style="bottom: {bottom:.1}%"><small>{label}</small></i>"#)
    };
    let levels = [(1, "1 ms"), (10, "10 ms"), (100, "100 ms"), (1000, "1 s"), (10_000, "10 s")];
    let levels = levels.iter().filter(|(ms, _)| Duration::from_millis(*ms) <= longest).map(level);
    let dot = |sample: &Sample| {
        let (left, bottom) = (axis.percent(sample.at), log_percent(sample.took, longest));
        let (outcome, at) = (sample.outcome, label(sample.at));
        match sample.lost {
            true => {
                format!(r#"<i class="lost" style="left: {left:.2}%" title="lost at {at}: {outcome}">×</i>"#)
            }
            false => format!(r#"<i class="dot" style="left: {left:.2}%; bottom: {bottom:.1}%"></i>"#),
        }
    };
    let marks: String = levels.chain(samples.iter().map(dot)).collect();
    format!("<div class=\"row witness\"><b>witness</b><div>{marks}</div></div>\n")
}

/// Height of a latency on a logarithmic scale, from 0 (1 ms or less) to 100 (`max`). So a reload of 30 ms and a
/// timeout of 5 s are both visible.
fn log_percent(took: Duration, max: Duration) -> f64 {
    let log = |time: Duration| (time.as_secs_f64() * 1000.0).max(1.0).log10();
    100.0 * (log(took) / log(max).max(0.001)).min(1.0)
}

/// Class of a phase in the style sheet.
pub fn css_class(phase: InstancePhase) -> String {
    phase.to_string().replace(' ', "-")
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
            TimeAxis(ms(end)).ticks(max).into_iter().map(label).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(ticks(6300, 8), "0 s, 1 s, 2 s, 3 s, 4 s, 5 s, 6 s");
        assert_eq!(ticks(6300, 4), "0 s, 2 s, 4 s, 6 s");
        assert_eq!(ticks(400, 5), "0 s, 0.1 s, 0.2 s, 0.3 s, 0.4 s");
        assert_eq!(ticks(700_000, 4), "0 s, 5 min, 10 min");
        assert_eq!(ticks(0, 4), "0 s");
        for end in [1, 99, 12_345, 9_999_999] {
            assert!(TimeAxis(ms(end)).ticks(5).len() <= 6, "{end}");
        }
    }

    #[test]
    fn latencies_have_a_logarithmic_scale() {
        let all =
            [log_percent(ms(0), ms(1000)), log_percent(ms(1), ms(1000)), log_percent(ms(1000), ms(1000))];
        assert_eq!(all, [0.0, 0.0, 100.0]);
        assert!((log_percent(ms(10), ms(1000)) - 100.0 / 3.0).abs() < 1e-9);
        assert_eq!(log_percent(ms(5000), ms(1000)), 100.0);
    }
}
