//! The only printer: progress to stderr, the result to stdout. Every event has its wording here.

use std::fmt;
use std::io::Write;
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::plan::Plan;

/// Something that a person who watches a deploy wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Deploying { target: String, proxies: Vec<String> },
    Prepared(String),
    WouldPrepare(String),
    Created(String),
    Started(String),
    Ready { name: String, answer: String },
    Routed { inside: String, outside: String },
    Draining(String),
    Idle(String),
    Stopped(String),
    Removed(String),
    StartingNeeded(String),
    Building(String),
    Pulling(String),
    GoingBack,
    Interrupted,
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
    NotFollowed {
        service: String,
        keys: Vec<String>,
    },
    LeftBehind(String),
    NotReadyAgain(String),
    WeakProbe(String),
    /// Compose's own, about the file.
    Compose(String),
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
            Warning::NotPrepared(text) | Warning::Compose(text) | Warning::Loss(text) => f.write_str(text),
            Warning::NotFollowed { service, keys } => write!(
                f,
                "`services.{service}.deploy.update_config`: {} not followed by this version",
                keys.iter().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")
            ),
            Warning::LeftBehind(text) => {
                write!(f, "the new release serves, but cleaning up failed: {text}")
            }
            Warning::NotReadyAgain(text) => {
                write!(f, "went back to it although it does not answer as ready: {text}")
            }
            Warning::WeakProbe(service) => write!(
                f,
                "`{service}` has no healthcheck and no `x-zd.health`: any answer below 500 counts as ready; set `x-zd.health.path`"
            ),
        }
    }
}

fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    match count {
        1 => one,
        _ => many,
    }
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

    pub fn deployed(&self, target: &str, serving: &str, took: Duration) {
        let seconds = took.as_secs_f64();
        self.result(&format!("`{target}` is deployed: {serving} in service after {seconds:.1}s"));
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
