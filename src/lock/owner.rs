//! Owner of a lock, and the check whether its process is alive.

use std::fs;
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

/// Environment variable of all commands of a run. A later run finds commands of a killed run by it.
pub const RUN_VARIABLE: &str = "COMPOSE_ZD_RUN";

/// Process, with the facts by which another process can check whether it is alive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: u32,
    /// Start in clock ticks since the boot. It differs between processes that had the same number.
    pub started: String,
    /// Id of the machine's boot.
    pub boot: String,
    /// Pid namespace of the number.
    pub namespace: String,
}

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

/// Liveness of the process that owns a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    Alive,
    Dead,
    /// The process is on another machine or hidden: only its heartbeats on the engine show that it is alive.
    NotVisible,
}

impl ProcessId {
    /// The current process. Facts that the machine does not report stay empty; then only heartbeats count.
    pub fn current() -> ProcessId {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        ProcessId {
            pid: std::process::id(),
            started: start_time(&read("/proc/self/stat")).unwrap_or_default(),
            boot: read("/proc/sys/kernel/random/boot_id").trim().into(),
            namespace: namespace.to_string_lossy().into(),
        }
    }

    /// Value of [`RUN_VARIABLE`] in the environment of its commands.
    pub fn run_mark(&self) -> String {
        format!("{}-{}", self.pid, self.started)
    }

    /// True if a command that the process started still runs.
    pub fn has_orphans(&self) -> bool {
        let mark = format!("{RUN_VARIABLE}={}", self.run_mark());
        let is_marked =
            |environment: Vec<u8>| environment.split(|b| *b == 0).any(|variable| variable == mark.as_bytes());
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        // Another user's processes cannot be read, so another user's orphans are not found.
        entries.filter_map(|entry| fs::read(entry.path().join("environ")).ok()).any(is_marked)
    }

    /// Liveness, as far as this process can find out. `stat` reads `/proc/PID/stat`, which the kernel may hide
    /// (`hidepid`). `exists` is true if a process with this number exists.
    fn liveness(
        &self,
        current: &ProcessId,
        stat: impl Fn(u32) -> Option<String>,
        exists: impl Fn(u32) -> bool,
    ) -> Liveness {
        let is_known = !self.boot.is_empty() && !self.started.is_empty();
        let is_same_machine = (&self.boot, &self.namespace) == (&current.boot, &current.namespace);
        if !is_known || !is_same_machine {
            return Liveness::NotVisible;
        }
        match stat(self.pid).map(|stat| start_time(&stat)) {
            Some(Some(started)) if started == self.started => Liveness::Alive,
            // A hidden process may be another one with the same number.
            None if exists(self.pid) => Liveness::NotVisible,
            _ => Liveness::Dead,
        }
    }
}

/// True if a process with this number exists. A process of another user may be hidden, and refuses the signal.
fn process_exists(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| matches!(test_kill_process(pid), Ok(()) | Err(Errno::PERM)))
}

/// Start time of a process, from `/proc/PID/stat`; `None` for a zombie, which has ended. The name of the process, in
/// brackets, may contain spaces and brackets.
fn start_time(stat: &str) -> Option<String> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    (state != "Z" && state != "X").then(|| fields.nth(18).map(String::from))?
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
        let stat = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        self.process.liveness(&ProcessId::current(), stat, process_exists)
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
mod tests;
