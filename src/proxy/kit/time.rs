//! Durations in the configurations of proxies.

use std::time::Duration;

/// Parses `30s`, `1m30s` or a number, which has this unit.
pub fn parse(text: &str, unit: &str) -> Option<Duration> {
    let is_number = text.chars().all(|c| c.is_ascii_digit());
    let text = if is_number { format!("{text}{unit}") } else { text.to_string() };
    humantime::parse_duration(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_the_unit_of_its_proxy() {
        let seconds = |text: &str, unit: &str| parse(text, unit).map(|time| time.as_secs_f64());
        assert_eq!([seconds("60", "s"), seconds("500", "ms")], [Some(60.0), Some(0.5)]);
        assert_eq!([seconds("1m30s", "s"), seconds("2h", "ms")], [Some(90.0), Some(7200.0)]);
        assert_eq!([seconds("", "s"), seconds("$x", "s"), seconds("1x", "s")], [None; 3]);
    }
}
