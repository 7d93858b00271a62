//! Pins: lines in the hosts file of a proxy's container, which fix a name for a program that resolves names only at its
//! start and at a reload. The lines hide Docker's DNS for the name. Docker writes the file anew when the container
//! restarts.

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
    fn pattern(&self) -> String {
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

/// Program that has to reload for its pins: patterns of the shell's `case` for the titles of its processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Titles {
    pub master: &'static str,
    /// Processes that take new requests.
    pub worker: &'static str,
    pub reload_signal: &'static str,
}

/// First words of the script of a service's watcher, by which the watcher is recognised.
pub fn watcher_mark(service: &PinnedService) -> String {
    format!("{} watcher", service.mark())
}

/// Script that watches the pins of a service until they are gone, as root in the container. A killed compose-zd leaves
/// pins, and Compose then gives the service other addresses. The watcher:
/// - finishes a reload that a change of the pins needs,
/// - keeps only pins of running instances, and removes the pins if none of their instances runs any more,
/// - after 15 minutes removes pins that fix nothing.
///
/// Docker's DNS lists the running instances. A name with a dot at its end is not looked up in the hosts file.
/// The watcher starts before the first pin. Without pins it ends after two minutes. Of two watchers the first one stays.
pub fn watcher_script(service: &PinnedService, titles: Titles) -> String {
    let names: Vec<String> = service.names.iter().map(|name| format!("{name}.")).collect();
    let Titles { master, worker, reload_signal } = titles;
    format!(
        "# {mark}
end={end}
names={names}
{WRITE}
live() {{ for n in $names; do
  if command -v nslookup >/dev/null; then nslookup $n 2>/dev/null | sed -n '3,$s/^Address[ 0-9]*: *//p'
  else getent ahosts $n; fi
done | while read -r a rest; do echo $a; done | sort -u; }}
pins() {{ sed -n \"s| .*$end||p\" /etc/hosts | grep -v '^#' | sort -u; }}
processes() {{ master= oldest= 
for p in /proc/[0-9]*; do
  title=; read -r title < $p/cmdline
  case $title in
    {master}) master=${{p#/proc/}} ;;
    {worker}) read -r s < $p/stat || continue; set -- ${{s##*) }}
      [ -n \"$oldest\" ] && [ ${{20}} -ge $oldest ] || oldest=${{20}} ;;
  esac
done 2>/dev/null; }}
reload() {{ processes; [ -n \"$oldest\" ] && [ $oldest -gt $1 ] && return; [ -z \"$master\" ] || kill -{reload_signal} $master; return 1; }}
for p in /proc/[0-9]*; do
  title=; read -r title < $p/cmdline
  case $title in *\"# {mark}\") [ ${{p#/proc/}} -ge $$ ] || exit 0 ;; esac
done 2>/dev/null
base=$(live) was_pinned= due=0 late=0 lost=0 n=0 left=120
while sleep 1; do
  {TICKS}
  n=$((n+1)) all=$(live)
  if grep -q \"$end\" /etc/hosts; then
    was_pinned=1 left=120 here= gone=
    since=$(sed -n \"s|^# since \\([0-9]*\\) .*$end|\\1|p\" /etc/hosts)
    for a in $(pins); do case \"
$all
\" in *\"
$a
\"*) here=\"$here $a\" ;; *) gone=1 ;; esac; done
    processes
    if [ ${{since:-0}} -gt 0 ] && [ -n \"$oldest\" ] && [ $oldest -le $since ]; then late=$((late+1)); else late=0; fi
    [ $late -lt 3 ] || {{ reload $since; late=1; }}
    [ -n \"$all\" ] || continue
    [ -n \"$gone\" ] && lost=$((lost+1)) || lost=0
    if [ -z \"$here\" ]; then write; base=$all due=$now left=60
    elif [ $lost -ge 5 ]; then
      set -- \"# since $now was  # {owner}\"
      for a in $here; do for m in $names; do set -- \"$@\" \"$a ${{m%.}} # {owner}\"; done; done
      write \"$@\"
    elif [ $n -ge 900 ] && [ $late = 0 ] && [ \"$(pins)\" = \"$all\" ]; then write; exit; fi
  else
    [ -z \"$was_pinned\" ] || [ $due -gt 0 ] || [ $left -le 60 ] || exit
    left=$((left-1))
    [ $left -gt 0 ] || exit
    same=; for a in $base; do case \"
$all
\" in *\"
$a
\"*) same=1 ;; esac; done
    [ -n \"$same\" ] || [ -z \"$all\" ] || {{ base=$all due=$now left=60; }}
  fi
  [ $due = 0 ] || {{ [ -n \"$all\" ] && reload $due && due=0; }}
done",
        mark = watcher_mark(service),
        end = shell::word(&service.pattern()),
        names = shell::word(&names.join(" ")),
        owner = service.mark(),
    )
}
