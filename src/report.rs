//! The only printer: progress to stderr, the result to stdout. Every event has its wording here.

use std::fmt;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::plan::Plan;

/// Something that a person who watches a deploy wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Deploying {
        target: String,
        proxies: Vec<String>,
    },
    Prepared(String),
    WouldPrepare(String),
    Created(String),
    Started(String),
    Ready {
        name: String,
        answer: String,
    },
    Routed {
        inside: String,
        outside: String,
    },
    Draining(String),
    Idle(String),
    Stopped(String),
    Removed(String),
    StartingNeeded(String),
    Building(String),
    Pulling(String),
    GoingBack,
    Interrupted,
    Delayed(Duration),
    Monitoring(String, Duration),
    /// A worker that holds a volume.
    StopFirst(String),
    /// One-shots.
    Running(String),
    Ran(String),
    /// Services whose part of the file has changed, and that nobody asked for.
    LeftAlone(Vec<String>),
    /// A service that ran another image than its file names.
    BackToFile {
        service: String,
        image: String,
        ran: String,
        release: u32,
    },
    /// What ran before compose-zd came is now a release.
    Adopted {
        release: u32,
        services: String,
    },
    NotAdopted(String),
    Release {
        number: u32,
        to: Option<u32>,
    },
    Paused,
    /// Another run has its turn.
    Waiting(String),
    /// Of a run that was killed.
    TookOver(String),
    /// What a killed run was to put in place.
    Recovering(u32),
    /// A stack's file goes to Swarm.
    Sending {
        stack: String,
        services: String,
    },
    /// Swarm's own rollback is told to begin.
    OwnWayBack(String),
    /// A task of Swarm has come to run.
    TaskRuns {
        name: String,
        node: String,
        current: usize,
        wanted: usize,
    },
}

/// Something that went other than hoped, but does not end the deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    NoProxy(String),
    /// What a proxy will lose, with the fix.
    Loss(String),
    DrainLimit {
        names: String,
        limit: Duration,
        requests: usize,
        /// Connections of which the proxy does not tell whether they are idle.
        unsure: usize,
    },
    Hook {
        name: String,
        what: &'static str,
        said: String,
    },
    NotPrepared(String),
    /// New instances failed, but no more than may.
    Tolerated {
        target: String,
        failed: usize,
        slots: usize,
        why: String,
    },
    /// A release could not be written down or tidied up.
    Release(String),
    /// The state folder is part of what an image is built from.
    InBuildContext {
        service: String,
        folder: String,
    },
    LeftBehind(String),
    /// As above, where the old release serves.
    MarksLeft(String),
    NotReadyAgain(String),
    /// Instances in rotation that ended, and whose failure no longer counts.
    Died(String),
    WeakProbe(String),
    /// Compose's own, about the file.
    Compose(String),
    /// A key of the file that Swarm does not obey.
    Ignored(String),
    /// Why a task of Swarm does not get there.
    Task(String),
    /// More tasks of a service run than are wanted.
    TooMany(String),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Deploying { target, proxies } if proxies.is_empty() => {
                write!(f, "deploying `{target}`")
            }
            Event::Deploying { target, proxies } => {
                write!(f, "deploying `{target}` behind {}", proxies.join(", "))
            }
            Event::Prepared(text) => f.write_str(text),
            Event::WouldPrepare(text) => write!(f, "would do: {text}"),
            Event::Created(names) => write!(f, "created {names}"),
            Event::Started(names) => write!(f, "started {names}"),
            Event::Ready { name, answer } => write!(f, "{name} is ready: {answer}"),
            Event::Routed { inside, outside } if outside.is_empty() => {
                write!(f, "in rotation: {inside}")
            }
            Event::Routed { inside, outside } => write!(f, "in rotation: {inside}; out: {outside}"),
            Event::Draining(names) => write!(f, "draining {names}"),
            Event::Idle(names) => write!(f, "no request in flight: {names}"),
            Event::Stopped(names) => write!(f, "stopped {names}"),
            Event::Removed(names) => write!(f, "removed {names}"),
            Event::StartingNeeded(names) => write!(f, "starting what it depends on: {names}"),
            Event::Building(names) => write!(f, "building {names}"),
            Event::Pulling(names) => write!(f, "pulling {names}"),
            Event::Delayed(time) => write!(f, "waiting {} before the next batch", seconds(*time)),
            Event::Monitoring(names, time) => write!(f, "watching {names} for {}", seconds(*time)),
            Event::StopFirst(service) => write!(
                f,
                "`{service}` holds a writable volume, so the old instance stops first (`order: start-first` keeps it)"
            ),
            Event::Running(service) => write!(f, "running `{service}`"),
            Event::Ran(service) => write!(f, "`{service}` is done"),
            Event::LeftAlone(services) => write!(
                f,
                "changed as well, but neither named nor routed to, so left alone: {}",
                services.iter().map(|s| format!("`{s}`")).collect::<Vec<_>>().join(", ")
            ),
            Event::BackToFile { service, image, ran, release } => write!(
                f,
                "`{service}` goes back to the file's image {image}; release {release} ran {ran} (`--image`)"
            ),
            Event::Adopted { release, services } => {
                write!(f, "what ran of {services} is kept as release {release}")
            }
            Event::NotAdopted(services) => write!(
                f,
                "what runs of {services} was not deployed by compose-zd, and with another file: no later `rollback` can \
                 go back to it"
            ),
            Event::Release { number, to: None } => write!(f, "release {number}"),
            Event::Release { number, to: Some(to) } => {
                write!(f, "release {number}, which puts back release {to}")
            }
            Event::Sending { stack, services } => write!(f, "stack `{stack}`: Swarm is given {services}"),
            Event::OwnWayBack(services) => write!(f, "Swarm puts back what it had before of {services}"),
            Event::TaskRuns { name, node, current, wanted } => {
                write!(f, "{name} runs on {node} ({current} of {wanted})")
            }
            Event::Waiting(holder) => write!(f, "waiting for {holder}"),
            Event::TookOver(holder) => write!(f, "{holder} was killed; what it left is brought in order"),
            Event::Recovering(number) => {
                write!(f, "going on with release {number}, which a killed run left half done")
            }
            Event::Paused => f.write_str("pausing where it is"),
            Event::GoingBack => f.write_str("going back to what served before"),
            Event::Interrupted => {
                f.write_str("interrupted; once more leaves at once, and the next deploy tidies up")
            }
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::NoProxy(target) => {
                write!(
                    f,
                    "no proxy found in front of `{target}`: instances are replaced once ready, but nothing is drained"
                )
            }
            Warning::DrainLimit { names, limit, requests, unsure } => write!(
                f,
                "{names} still had {}{} {} after {} (`x-zd.drain.timeout`); stopped all the same",
                if *unsure > 0 { "up to " } else { "" },
                requests + unsure,
                plural(requests + unsure, "request in flight", "requests in flight"),
                humantime::format_duration(*limit)
            ),
            Warning::Hook { name, what, said } => write!(f, "{what} of {name} failed: {said}"),
            Warning::NotPrepared(text)
            | Warning::Compose(text)
            | Warning::Loss(text)
            | Warning::Ignored(text)
            | Warning::Task(text) => f.write_str(text),
            Warning::Tolerated { target, failed, slots, why } => write!(
                f,
                "{failed} of {slots} new instances of `{target}` failed, which may be; the old ones stay in their place: {why}"
            ),
            Warning::Release(text) => f.write_str(text),
            Warning::InBuildContext { service, folder } => write!(
                f,
                "the build of `{service}` sends `{folder}` along, where resolved secrets are kept: add it to \
                 `.dockerignore`, or keep it elsewhere with `--state-dir`"
            ),
            Warning::LeftBehind(text) => {
                write!(f, "the new release serves, but cleaning up failed: {text}")
            }
            Warning::MarksLeft(text) => {
                write!(
                    f,
                    "what served before serves, but a proxy still has marks of ours, which the next run removes: {text}"
                )
            }
            Warning::TooMany(service) => write!(
                f,
                "more tasks of `{service}` run than are wanted: Swarm may keep two in a slot whose node was lost; \
                 `docker service ps` shows them"
            ),
            Warning::NotReadyAgain(text) => {
                write!(f, "went back to it although it does not answer as ready: {text}")
            }
            Warning::Died(names) => write!(f, "{names} no longer runs, and gets no requests"),
            Warning::WeakProbe(service) => write!(
                f,
                "`{service}` has no healthcheck and no `x-zd.health`: any answer below 500 counts as ready; set `x-zd.health.path`"
            ),
        }
    }
}

fn table(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let head: Vec<String> = head.iter().map(|h| h.to_string()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(rows).collect();
    let widest = |n: usize| all.iter().filter_map(|row| row.get(n)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|n| widest(n).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    all.into_iter().map(line).collect()
}

/// Rounded up: nobody wants to read nanoseconds.
fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    match count {
        1 => one,
        _ => many,
    }
}

/// A target whose new release serves.
#[derive(Debug, Clone)]
pub struct Deployed<'a> {
    pub target: &'a str,
    pub serving: String,
    pub release: u32,
    /// The release that was put back.
    pub back_to: Option<u32>,
    pub took: Duration,
}

/// How much is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    Quiet,
    Normal,
    /// With every docker command.
    Verbose,
}

/// Prints. A stream that is closed is no reason to stop a rollout, so nothing here fails.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    detail: Detail,
    start: Instant,
}

impl Report {
    pub fn new(detail: Detail) -> Self {
        Report { detail, start: Instant::now() }
    }

    /// Time since the start, as the last column of the result.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub fn event(&self, event: &Event) {
        if self.detail != Detail::Quiet {
            self.progress(&event.to_string());
        }
    }

    pub fn warn(&self, warning: &Warning) {
        self.progress(&format!("warning: {warning}"));
    }

    pub fn command(&self, words: &str, took: Duration) {
        if self.detail == Detail::Verbose {
            self.progress(&format!("$ docker {words}  ({:.3}s)", took.as_secs_f64()));
        }
    }

    pub fn plan(&self, target: &str, plan: &Plan) {
        match plan.steps.is_empty() {
            true => self.result(&format!("`{target}`: nothing has to change")),
            false => self.result(format!("plan for `{target}`:\n{plan}").trim_end()),
        }
    }

    /// What would become of a stack, a line each service.
    pub fn stack_plan(&self, stack: &str, lines: &[String]) {
        self.result(&format!("plan for stack `{stack}`:\n  {}", lines.join("\n  ")));
    }

    /// Something that was asked for, a line.
    pub fn say(&self, text: &str) {
        self.result(text);
    }

    /// Columns as wide as what is in them.
    pub fn table(&self, head: &[&str], rows: &[Vec<String>]) {
        table(head, rows).iter().for_each(|line| self.result(line));
    }

    /// Services of a stack that Swarm itself has put back.
    pub fn put_back(&self, stack: &str, services: &[String]) {
        let names: Vec<String> = services.iter().map(|s| format!("`{s}`")).collect();
        self.result(&format!("stack `{stack}`: {} is what it was before", names.join(", ")));
    }

    pub fn deployed(&self, done: &Deployed) {
        let seconds = done.took.as_secs_f64();
        let Deployed { target, serving, release, back_to, .. } = done;
        match back_to {
            Some(to) => self.result(&format!(
                "`{target}` is back on release {to} (as release {release}): {serving} in service after {seconds:.1}s"
            )),
            None => self.result(&format!(
                "`{target}` is deployed as release {release}: {serving} in service after {seconds:.1}s"
            )),
        }
    }

    /// A second signal: what is half done stays so.
    pub fn leaves_at_once() {
        let text = "leaving at once; the service goes on as it is now, and the next `compose-zd deploy`, `rollback` or \
                    `recover` brings it to one release";
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// A newer run deploys in this one's place.
    pub fn superseded(&self, project: &str) {
        self.result(&format!("`{project}`: superseded by a newer run, which deploys in its place"));
    }

    /// Nothing was left half done.
    pub fn in_order(&self, project: &str, release: Option<u32>) {
        match release {
            Some(number) => self.result(&format!("`{project}` is in order: release {number}")),
            None => self.result(&format!("`{project}` is in order: no release yet")),
        }
    }

    fn result(&self, text: &str) {
        let _ = writeln!(std::io::stdout(), "{text}");
    }

    pub fn fault(fault: &Fault) {
        let _ = writeln!(std::io::stderr(), "error: {fault}");
    }

    fn progress(&self, text: &str) {
        let seconds = self.start.elapsed().as_secs_f64();
        let _ = writeln!(std::io::stderr(), "{seconds:>6.1}s  {text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_that_reached_its_limit_says_how_much_was_cut() {
        let warning = Warning::DrainLimit {
            names: "app-1".into(),
            limit: Duration::from_secs(30),
            requests: 1,
            unsure: 0,
        };
        assert_eq!(
            warning.to_string(),
            "app-1 still had 1 request in flight after 30s (`x-zd.drain.timeout`); stopped all the same"
        );
    }
}
