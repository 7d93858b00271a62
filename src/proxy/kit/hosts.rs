//! Pins: lines in the hosts file of a proxy's container, which fix a name for a program that resolves names only at its
//! start and at a reload. The lines hide Docker's DNS for the name. Docker writes the file anew when the container
//! restarts.

pub mod audit;
pub mod switch;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use crate::shell;

/// Pins of one service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pins {
    /// Moment of the last change that needs a reload, in ticks since boot; 0 if the program already had these addresses.
    pub since: u64,
    /// Addresses that the program had before that change.
    pub was: BTreeSet<IpAddr>,
    /// Addresses to which the names are fixed.
    pub now: BTreeSet<IpAddr>,
    /// True if a mark confirms the reload, for a program whose processes do not tell.
    pub is_reloaded: bool,
}

/// Pins of a service, with the names that they fix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedService {
    pub project: String,
    pub service: String,
    pub names: BTreeSet<String>,
}

/// State of a program's processes and pins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    /// All processes have read the pins.
    Now,
    /// No process has read the pins since the last change.
    Before,
    /// Some processes have.
    Mixed,
}

impl Pins {
    /// Pins of a service in the lines of a hosts file, if there are any.
    pub fn parse<'l>(lines: impl Iterator<Item = &'l str>, owner: &PinnedService) -> Option<Pins> {
        let end = format!(" # {}", owner.mark());
        let mut own = lines.filter_map(|line| line.strip_suffix(&end)).peekable();
        own.peek()?;
        let mut pins = Pins::default();
        for line in own {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["#", "since", since, "was", ref was @ ..] => {
                    pins.since = since.parse().unwrap_or_default();
                    let addresses = was.first().map_or("", |all| all).split(',');
                    pins.was = addresses.filter_map(|address| address.parse().ok()).collect();
                }
                ["#", "reloaded"] => pins.is_reloaded = true,
                [address, ..] => pins.now.extend(address.parse::<IpAddr>().ok()),
                [] => {}
            }
        }
        Some(pins)
    }

    /// State by the start of each process, in ticks since boot.
    pub fn loaded(&self, started: &[u64]) -> Loaded {
        let newer = started.iter().filter(|ticks| **ticks > self.since).count();
        match newer {
            _ if self.since == 0 => Loaded::Now,
            0 => Loaded::Before,
            newer if newer == started.len() => Loaded::Now,
            _ => Loaded::Mixed,
        }
    }
}

impl PinnedService {
    /// Mark at the end of each line.
    pub fn mark(&self) -> String {
        format!("compose-zd {}/{}", self.project, self.service)
    }

    /// Basic regular expression of the end of a line.
    pub fn pattern(&self) -> String {
        format!(" # {}$", self.mark().replace('.', "\\."))
    }
}

/// Text of a tick counter in a script: hundredths of a second since boot, as in the `stat` of a process.
const TICKS: &str = "read -r up rest < /proc/uptime; now=${up%.*}${up#*.}";

/// Function of a script that replaces the lines of a service by its arguments. The file is a mount, so it is written in
/// place. Other projects may write at the same moment.
const WRITE: &str = "write() {
  { flock -x 9 2>/dev/null
  kept=$(grep -v \"$end\" /etc/hosts) || exit 1
  printf '%s\\n' \"$kept\" \"$@\" > /etc/hosts; } 9>> /etc/hosts
}";

/// Script that fixes the names of a service to the addresses. `needs_reload` if the program still has `was`.
pub fn pin_script(
    service: &PinnedService,
    addresses: &BTreeSet<IpAddr>,
    was: &BTreeSet<IpAddr>,
    needs_reload: bool,
) -> String {
    let mark = service.mark();
    let listed: Vec<String> = was.iter().map(ToString::to_string).collect();
    let since = if needs_reload { "$now" } else { "0" };
    let mut lines = format!("\"# since {since} was {} # {mark}\"", listed.join(","));
    for name in &service.names {
        for address in addresses {
            let line = format!("{address} {name} # {mark}");
            write!(lines, " {}", shell::word(&line)).expect("a string grows");
        }
    }
    format!("# pin the addresses\nend={}\n{WRITE}\n{TICKS}\nwrite {lines}", shell::word(&service.pattern()))
}

/// Script that removes the lines of a service.
pub fn unpin_script(service: &PinnedService) -> String {
    format!("# remove the pins\nend={}\n{WRITE}\nwrite", shell::word(&service.pattern()))
}

/// Part of a script that prints the user of the container, and whether and how its hosts file can be written.
pub const INTRODUCTION: &str = r#"echo "@user $(id -u)"
sed -n 's|^[^ ]* /etc/hosts [^ ]* \([^ ,]*\).*|@hosts \1|p' /proc/mounts
sed 's/^/@host /' /etc/hosts"#;

/// Names in the hosts file of lines that are not compose-zd's, by the output of [`INTRODUCTION`].
pub fn fixed_names(output: &str) -> BTreeSet<String> {
    let lines = output.lines().filter_map(|line| line.strip_prefix("@host "));
    let foreign = lines.filter(|line| !line.contains(" # compose-zd "));
    let text = foreign.map(|line| line.split('#').next().unwrap_or_default());
    text.flat_map(|line| line.split_whitespace().skip(1)).map(String::from).collect()
}

/// First words of the script of a service's watcher, by which the watcher is recognised.
pub fn watcher_mark(service: &PinnedService) -> String {
    format!("{} watcher", service.mark())
}

/// Script that watches the pins of a service until they are gone, as root in the container. A killed compose-zd leaves
/// pins, and Compose then gives the service other addresses.
/// `functions` are those of the program: `is_loaded MOMENT` is true if all its processes that take new requests are newer,
/// `send_reload` makes it reload, and `each_second` runs while there are pins.
pub fn watcher_script(service: &PinnedService, functions: &str) -> String {
    let names: Vec<String> = service.names.iter().map(|name| format!("{name}.")).collect();
    let variables = [
        ("mark", watcher_mark(service)),
        ("owner", service.mark()),
        ("end", service.pattern()),
        ("names", names.join(" ")),
    ];
    let variables = variables.map(|(name, value)| format!("{name}={}\n", shell::word(&value)));
    format!("# {}\n{}{WRITE}\n{functions}\n{WATCHER}", watcher_mark(service), variables.concat())
}

/// Source of the watcher.
const WATCHER: &str = include_str!("watcher.sh");

#[cfg(test)]
mod tests;
