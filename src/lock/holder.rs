//! Who holds a lock, and whether they still live.

use std::fs;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// The variable by which the commands of a run are known when it has died.
pub const RUN: &str = "COMPOSE_ZD_RUN";

/// A process, told so that others can see whether it lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
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
pub struct Holder {
    /// Nobody else's.
    pub token: String,
    /// What it does: `deploy app`.
    pub command: String,
    /// `user@host`.
    pub by: String,
    /// RFC 3339.
    pub since: String,
    #[serde(flatten)]
    pub process: Process,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    Lives,
    Dead,
    /// It runs elsewhere: only the signs that it leaves on the engine tell.
    Elsewhere,
}

impl Process {
    /// This one. What the machine does not tell stays empty, and then only signs of life tell.
    pub fn this() -> Process {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        Process {
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

    /// Whether it lives, as far as this one can see; `stat` is the kernel's line about a process.
    fn life(&self, here: &Process, stat: impl Fn(u32) -> Option<String>) -> Life {
        let known = !self.boot.is_empty() && !self.started.is_empty();
        let same = (&self.boot, &self.namespace) == (&here.boot, &here.namespace);
        match (known && same, stat(self.pid).as_deref().and_then(start_of)) {
            (false, _) => Life::Elsewhere,
            (true, Some(started)) if started == self.started => Life::Lives,
            (true, _) => Life::Dead,
        }
    }
}

/// When a process started. Its name may hold spaces and brackets, and a zombie does nothing any more.
fn start_of(stat: &str) -> Option<String> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    (state != "Z" && state != "X").then(|| fields.nth(18).map(String::from))?
}

impl Holder {
    pub fn this(command: &str, by: String) -> Holder {
        let process = Process::this();
        let now = SystemTime::now();
        let nanos = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        Holder {
            token: format!("{by}-{}-{}-{nanos}", process.pid, process.started),
            command: command.into(),
            by,
            since: humantime::format_rfc3339_seconds(now).to_string(),
            process,
        }
    }

    /// As a lock has it; one that says nothing we know was made by nobody we know.
    pub fn read(text: &str) -> Holder {
        let unknown =
            || Holder { command: "something else".into(), by: "somebody".into(), ..Holder::default() };
        serde_json::from_str(text).unwrap_or_else(|_| unknown())
    }

    pub fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Whether commands that it started still run, after it has died on this machine.
    pub fn has_orphans(&self) -> bool {
        self.life() == Life::Dead && self.process.has_orphans()
    }

    pub fn life(&self) -> Life {
        let stat = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        self.process.life(&Process::this(), stat)
    }
}

impl std::fmt::Display for Holder {
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
mod tests {
    use super::*;

    const STAT: &str = "42 (a )b( c) S 1 42 42 0 -1 4194560 1 0 0 0 1 1 0 0 20 0 1 0 777 1 2 3";

    fn process(pid: u32) -> Process {
        Process { pid, started: "777".into(), boot: "b".into(), namespace: "n".into() }
    }

    fn stat(pid: u32) -> Option<String> {
        (pid == 42).then(|| STAT.to_string())
    }

    #[test]
    fn a_process_lives_as_long_as_its_number_is_its_own() {
        assert_eq!(process(42).life(&process(1), stat), Life::Lives);
        assert_eq!(process(43).life(&process(1), stat), Life::Dead);
        let earlier = Process { started: "776".into(), ..process(42) };
        assert_eq!(earlier.life(&process(1), stat), Life::Dead);
    }

    #[test]
    fn a_zombie_is_dead() {
        let zombie = |_| Some(STAT.replace(") S", ") Z"));
        assert_eq!(process(42).life(&process(1), zombie), Life::Dead);
    }

    #[test]
    fn a_process_of_another_namespace_or_machine_cannot_be_seen() {
        let elsewhere = Process { namespace: "m".into(), ..process(42) };
        assert_eq!(elsewhere.life(&process(1), stat), Life::Elsewhere);
        let other = Process { boot: "c".into(), ..process(43) };
        assert_eq!(other.life(&process(1), stat), Life::Elsewhere);
        assert_eq!(Process::default().life(&Process::default(), stat), Life::Elsewhere);
    }

    #[test]
    fn a_command_of_a_run_is_known_by_its_mark() {
        let run = Process { pid: 1, started: "no other test's".into(), ..Process::default() };
        assert!(!run.has_orphans());
        let mut child = std::process::Command::new("sleep").arg("60").env(RUN, run.mark()).spawn().unwrap();
        // Between fork and exec it has the environment of this process.
        while !run.has_orphans() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!run.has_orphans());
    }

    #[test]
    fn this_process_lives() {
        assert_eq!(Holder::this("deploy", "me@here".into()).life(), Life::Lives);
    }

    #[test]
    fn a_holder_is_read_as_it_was_written() {
        let holder = Holder::this("deploy a\"b\n", "me@here".into());
        assert_eq!(Holder::read(&holder.text()), holder);
        assert_eq!(Holder::read("what is this").to_string(), "`something else` by somebody");
    }

    #[test]
    fn an_age_is_told_whatever_zone_the_clock_is_in() {
        let seconds = |a: &str, b: &str| age(a, b).map(|d| d.as_secs());
        assert_eq!(seconds("2026-01-02T03:04:05Z", "2026-01-02T03:05:05.123456789Z"), Some(60));
        assert_eq!(seconds("2026-01-02T04:04:05+01:00", "2026-01-02T03:04:35Z"), Some(30));
        assert_eq!(seconds("2026-01-01T21:34:05-05:30", "2026-01-02T03:04:06Z"), Some(1));
        assert_eq!(seconds("2026-01-02T03:04:05Z", "2026-01-02T03:04:00Z"), Some(0));
        assert_eq!(seconds("yesterday", "2026-01-02T03:04:00Z"), None);
        assert_eq!(seconds("ä", "2026-01-02T03:04:00Z"), None);
    }
}
