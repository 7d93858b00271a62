//! Times that scripts in a container print.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Margin of a comparison of two clocks of a machine.
const SLACK: f64 = 1.0;

/// Clock of a machine: seconds since the boot, and since 1970 at the same moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clock {
    boot: f64,
    unix: f64,
}

impl Clock {
    /// Parses `UPTIME TIME`.
    pub fn parse(text: &str) -> Option<Clock> {
        parse_clock(text).map(|(boot, unix)| Clock { boot, unix })
    }

    /// True if this moment is surely later than one in hundredths of a second since the boot.
    pub fn is_later(&self, moment: SystemTime, ticks: u64) -> bool {
        let unix = moment.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64();
        unix > self.unix - self.boot + ticks as f64 / 100.0 + SLACK
    }
}

/// Parses `UPTIME TIME`: seconds since the boot, and since 1970 at the same moment.
pub fn parse_clock(text: &str) -> Option<(f64, f64)> {
    let (uptime, time) = text.split_once(' ')?;
    Some((uptime.parse().ok()?, parse_time(time)?))
}

/// Parses `2026-11-21 03:36:30.388117391 +0000`, as GNU's and busybox's `stat -c %y` print it, into seconds since 1970.
pub fn parse_time(text: &str) -> Option<f64> {
    let mut parts = text.split_whitespace();
    let (date, time, zone) = (parts.next()?, parts.next()?, parts.next()?);
    let stamp = humantime::parse_rfc3339(&format!("{date}T{time}Z")).ok()?;
    let local = stamp.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs_f64();
    let zone: i32 = zone.parse().ok().filter(|z| (-9999..=9999).contains(z))?;
    Some(local - f64::from(zone / 100 * 3600 + zone % 100 * 60))
}
