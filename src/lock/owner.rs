//! Owner of a lock, and the check whether its process is alive.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::process::{Liveness, ProcessId};

/// Owner, as written in the lock's record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockOwner {
    /// Unique text of this owner.
    pub token: String,
    /// Command of the run, such as `deploy app`.
    pub command: String,
    /// `user@host`.
    pub by: String,
    /// RFC 3339.
    pub since: String,
    #[serde(flatten)]
    pub process: ProcessId,
}

impl LockOwner {
    pub fn current(command: &str, by: String) -> LockOwner {
        let process = ProcessId::current();
        let now = SystemTime::now();
        let nanos = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        LockOwner {
            token: format!("{by}-{}-{}-{nanos}", process.pid, process.started),
            command: command.into(),
            by,
            since: humantime::format_rfc3339_seconds(now).to_string(),
            process,
        }
    }

    /// Parses the text of a lock. A text that cannot be parsed belongs to an unknown owner.
    pub fn parse(text: &str) -> LockOwner {
        let unknown = || LockOwner {
            command: "another program".into(),
            by: "an unknown user".into(),
            ..LockOwner::default()
        };
        serde_json::from_str(text).unwrap_or_else(|_| unknown())
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// True if commands of the owner still run, after the owner has died on this machine.
    pub fn has_orphans(&self) -> bool {
        self.liveness() == Liveness::Dead && self.process.has_orphans()
    }

    pub fn liveness(&self) -> Liveness {
        self.process.liveness()
    }
}

impl std::fmt::Display for LockOwner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` by {}", self.command, self.by)?;
        match self.process.pid {
            0 => Ok(()),
            pid => write!(f, ", process {pid}, since {}", self.since),
        }
    }
}

/// Time from `moment` to `now`, both by the same clock and in RFC 3339 with any offset.
pub fn age(moment: &str, now: &str) -> Option<Duration> {
    Some(parse_time(now)?.duration_since(parse_time(moment)?).unwrap_or_default())
}

fn parse_time(text: &str) -> Option<SystemTime> {
    let text = text.trim();
    if let Ok(time) = humantime::parse_rfc3339(text) {
        return Some(time);
    }
    // The engine writes the time of a volume in its own time zone: `2026-01-02T03:04:05+01:00`.
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (sign, (hours, minutes)) = (offset.chars().next()?, offset.get(1..)?.split_once(':')?);
    let offset = Duration::from_secs(hours.parse::<u64>().ok()? * 3600 + minutes.parse::<u64>().ok()? * 60);
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    match sign {
        '+' => local.checked_sub(offset),
        '-' => local.checked_add(offset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_read_as_it_was_written() {
        let owner = LockOwner::current("deploy a\"b\n", "me@here".into());
        assert_eq!(LockOwner::parse(&owner.to_json()), owner);
        assert_eq!(LockOwner::parse("what is this").to_string(), "`another program` by an unknown user");
    }

    #[test]
    fn an_age_is_right_in_every_time_zone() {
        let seconds = |a: &str, b: &str| age(a, b).map(|d| d.as_secs());
        assert_eq!(seconds("2026-01-02T03:04:05Z", "2026-01-02T03:05:05.123456789Z"), Some(60));
        assert_eq!(seconds("2026-01-02T04:04:05+01:00", "2026-01-02T03:04:35Z"), Some(30));
        assert_eq!(seconds("2026-01-01T21:34:05-05:30", "2026-01-02T03:04:06Z"), Some(1));
        assert_eq!(seconds("2026-01-02T03:04:05Z", "2026-01-02T03:04:00Z"), Some(0));
        assert_eq!(seconds("yesterday", "2026-01-02T03:04:00Z"), None);
        assert_eq!(seconds("ä", "2026-01-02T03:04:00Z"), None);
    }
}
