//! Who holds a lock, and whether they still live.

use std::fs;
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use serde::{Deserialize, Serialize};

/// The variable by which the commands of a run are known when it has died.
pub const RUN: &str = "COMPOSE_ZD_RUN";

/// A process, told so that others can see whether it lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: u32,
    /// In clock ticks since the start of the machine: a number that is used again is another process.
    pub started: String,
    /// The start of the machine.
    pub boot: String,
    /// Numbers of processes mean something in one pid namespace only.
    pub namespace: String,
}

/// What a lock says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockOwner {
    /// Nobody else's.
    pub token: String,
    /// What it does: `deploy app`.
    pub command: String,
    /// `user@host`.
    pub by: String,
    /// RFC 3339.
    pub since: String,
    #[serde(flatten)]
    pub process: ProcessId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    Lives,
    Dead,
    /// It runs elsewhere, or is hidden: only the signs that it leaves on the engine tell.
    Elsewhere,
}

impl ProcessId {
    /// This one. What the machine does not tell stays empty, and then only signs of life tell.
    pub fn this() -> ProcessId {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        ProcessId {
            pid: std::process::id(),
            started: start_of(&read("/proc/self/stat")).unwrap_or_default(),
            boot: read("/proc/sys/kernel/random/boot_id").trim().into(),
            namespace: namespace.to_string_lossy().into(),
        }
    }

    /// What the commands that it starts carry in their environment, as [`RUN`].
    pub fn mark(&self) -> String {
        format!("{}-{}", self.pid, self.started)
    }

    /// Whether any command that it started still runs.
    pub fn has_orphans(&self) -> bool {
        let mark = format!("{RUN}={}", self.mark());
        let is_marked =
            |environment: Vec<u8>| environment.split(|b| *b == 0).any(|one| one == mark.as_bytes());
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        // Another user's cannot be read, and another user's run cannot be looked after.
        entries.filter_map(|entry| fs::read(entry.path().join("environ")).ok()).any(is_marked)
    }

    /// Whether it lives, as far as this one can see; `stat` is the kernel's line about a process, which it may hide
    /// (`hidepid`), and `exists` whether a signal would reach one.
    fn life(
        &self,
        here: &ProcessId,
        stat: impl Fn(u32) -> Option<String>,
        exists: impl Fn(u32) -> bool,
    ) -> Liveness {
        let known = !self.boot.is_empty() && !self.started.is_empty();
        let same = (&self.boot, &self.namespace) == (&here.boot, &here.namespace);
        if !known || !same {
            return Liveness::Elsewhere;
        }
        match stat(self.pid).map(|stat| start_of(&stat)) {
            Some(Some(started)) if started == self.started => Liveness::Lives,
            // A hidden process may be another one by now.
            None if exists(self.pid) => Liveness::Elsewhere,
            _ => Liveness::Dead,
        }
    }
}

/// Whether a process of this number exists; a process of another user may be hidden, and refuses the signal.
fn exists(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| matches!(test_kill_process(pid), Ok(()) | Err(Errno::PERM)))
}

/// When a process started. Its name may hold spaces and brackets, and a zombie does nothing any more.
fn start_of(stat: &str) -> Option<String> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    (state != "Z" && state != "X").then(|| fields.nth(18).map(String::from))?
}

impl LockOwner {
    pub fn this(command: &str, by: String) -> LockOwner {
        let process = ProcessId::this();
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

    /// As a lock has it; one that says nothing we know was made by nobody we know.
    pub fn read(text: &str) -> LockOwner {
        let unknown =
            || LockOwner { command: "something else".into(), by: "somebody".into(), ..LockOwner::default() };
        serde_json::from_str(text).unwrap_or_else(|_| unknown())
    }

    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether commands that it started still run, after it has died on this machine.
    pub fn has_orphans(&self) -> bool {
        self.life() == Liveness::Dead && self.process.has_orphans()
    }

    pub fn life(&self) -> Liveness {
        let stat = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        self.process.life(&ProcessId::this(), stat, exists)
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

/// How long ago a moment was; both by the same clock, in RFC 3339 with any offset.
pub fn age(moment: &str, now: &str) -> Option<Duration> {
    Some(instant(now)?.duration_since(instant(moment)?).unwrap_or_default())
}

fn instant(text: &str) -> Option<SystemTime> {
    let text = text.trim();
    if let Ok(time) = humantime::parse_rfc3339(text) {
        return Some(time);
    }
    // The engine writes volumes' times in its own zone: `2026-01-02T03:04:05+01:00`.
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
