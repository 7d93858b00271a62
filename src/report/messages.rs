//! The wording of every event and warning.

use std::fmt;
use std::time::Duration;

use super::event::{Event, StepEvent, Warning};

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Deploying { target, proxies, .. } if proxies.is_empty() => {
                write!(f, "deploying `{target}`")
            }
            Event::Deploying { target, proxies, .. } => {
                write!(f, "deploying `{target}` behind {}", proxies.join(", "))
            }
            Event::Prepared { change: what } => f.write_str(what),
            Event::WouldPrepare { change: what } => write!(f, "would do: {what}"),
            Event::Plan { target, .. } => write!(f, "plan for `{target}`"),
            Event::Step(note) => note.fmt(f),
            Event::Created { names } => write!(f, "created {}", list(names)),
            Event::Started { names } => write!(f, "started {}", list(names)),
            Event::Ready { name, answer } => write!(f, "{name} is ready: {answer}"),
            Event::NotReady { name, answer } => write!(f, "{name} is not ready yet: {answer}"),
            Event::Routed { in_rotation: inside, out_of_rotation: outside } if outside.is_empty() => {
                write!(f, "in rotation: {}", list(inside))
            }
            Event::Routed { in_rotation: inside, out_of_rotation: outside } => {
                write!(f, "in rotation: {}; out: {}", list(inside), list(outside))
            }
            Event::Draining { names } => write!(f, "draining {}", list(names)),
            Event::Drained { names } => write!(f, "no request in flight: {}", list(names)),
            Event::Stopped { names } => write!(f, "stopped {}", list(names)),
            Event::Removed { names } => write!(f, "removed {}", list(names)),
            Event::StartingDependencies { services } => {
                write!(f, "starting what it depends on: {}", list(services))
            }
            Event::Building { services } => write!(f, "building {}", list(services)),
            Event::Pulling { services } => write!(f, "pulling {}", list(services)),
            Event::Delayed { seconds: time } => {
                write!(f, "waiting {} before the next batch", seconds(*time))
            }
            Event::Monitoring { names, in_service: after, old_instances: beside, proxied, seconds: time } => {
                let (new, after) = (list(names), seconds(*after));
                match beside.len() {
                    0 if *proxied => write!(f, "{new} in rotation after {after}")?,
                    0 => write!(f, "{new} in service after {after}")?,
                    _ => write!(f, "{new} in service after {after}, and {} as well", list(beside))?,
                }
                let them = plural(names.len(), "it", "them");
                write!(f, "; watching {them} for {} (Ctrl-C goes back)", rounded(*time))
            }
            Event::Failed { names } => write!(f, "{} failed", list(names)),
            Event::Exited { names } => write!(f, "{} died", list(names)),
            Event::OneByOne { targets, seconds: time } => {
                write!(f, "one after the other: {}", quoted(targets))?;
                match time.is_zero() {
                    true => Ok(()),
                    false => write!(f, "; new instances are watched for {} in all", rounded(*time)),
                }
            }
            Event::Dependents { rolled, restarted } => {
                let part = |names: &[String], what: &str| {
                    (!names.is_empty()).then(|| format!("{} {what} after it", quoted(names)))
                };
                let parts = [part(rolled, "is rolled"), part(restarted, "restarts")];
                let parts: Vec<String> = parts.into_iter().flatten().collect();
                write!(f, "`depends_on.….restart: true`: {}", parts.join(", "))
            }
            Event::Restarting { services } => write!(f, "restarting {}", quoted(services)),
            Event::StoppingFirst { service } => write!(
                f,
                "`{service}` holds a writable volume, so the old instance stops first (`order: start-first` keeps it)"
            ),
            Event::JobRunning { service } => write!(f, "running `{service}`"),
            Event::JobDone { service } => write!(f, "`{service}` is done"),
            Event::LeftAlone { services } => write!(
                f,
                "changed as well, but neither named nor routed to, so left alone: {}",
                quoted(services)
            ),
            Event::ImageOverrideEnded { service, image, previous_image: ran, release } => write!(
                f,
                "`{service}` goes back to the file's image {image}; release {release} ran {ran} (`--image`)"
            ),
            Event::Imported { release, services } => {
                write!(f, "what ran of {} is kept as release {release}", quoted(services))
            }
            Event::NotImported { services } => write!(
                f,
                "what runs of {} was not deployed by compose-zd, and with another file: no later `rollback` can \
                 go back to it",
                quoted(services)
            ),
            Event::Unchanged { release, restored_release: None } => write!(f, "release {release}"),
            Event::Unchanged { release, restored_release: Some(to) } => {
                write!(f, "release {release}, which puts back release {to}")
            }
            Event::DeployingStack { stack, services } => {
                write!(f, "stack `{stack}`: Swarm is given {}", list(services))
            }
            Event::SwarmRollback { services } => {
                write!(f, "Swarm puts back what it had before of {}", list(services))
            }
            Event::TaskRunning { name, node, running: current, desired: wanted } => {
                write!(f, "{name} runs on {node} ({current} of {wanted})")
            }
            Event::SwarmJobDone { service, tasks } => {
                write!(f, "`{service}`: {tasks} of {tasks} tasks completed")
            }
            Event::WaitingForLock { owner: holder } => write!(f, "waiting for {holder}"),
            Event::LockTakenOver { owner: holder } => {
                write!(f, "{holder} was killed; what it left is brought in order")
            }
            Event::Recovering { release } => {
                write!(f, "going on with release {release}, which a killed run left half done")
            }
            Event::Paused => f.write_str("pausing where it is"),
            Event::RollingBack => f.write_str("going back to what served before"),
            Event::Interrupted => {
                f.write_str("interrupted; once more leaves at once, and the next deploy tidies up")
            }
            Event::NoWitness { reason: why } => write!(f, "no witness: {why}"),
            Event::Witness(seen) => write!(f, "witness {}: {}", seen.url, seen.summary),
            Event::Deployed {
                target,
                serving,
                release,
                restored_release: back_to,
                in_service,
                seconds: took,
            } => {
                match back_to {
                    Some(to) => write!(f, "`{target}` is back on release {to} (as release {release})")?,
                    None => write!(f, "`{target}` is deployed as release {release}")?,
                }
                let (serving, after, took) = (list(serving), seconds(*in_service), seconds(*took));
                write!(f, ": {serving} in service after {after}")?;
                if after == took { Ok(()) } else { write!(f, ", done after {took}") }
            }
            Event::Warning { message: text, .. } => write!(f, "warning: {text}"),
            Event::Command { arguments: words, seconds: took } => {
                write!(f, "$ docker {words}  ({:.3}s)", took.as_secs_f64())
            }
            Event::Output { line } => f.write_str(line),
            Event::Error { message, details, hint, .. } => {
                write!(f, "error: {message}")?;
                details.iter().try_for_each(|d| write!(f, "\n  {d}"))?;
                hint.iter().try_for_each(|h| write!(f, "\nhint: {h}"))
            }
        }
    }
}

/// `step 3 of 9, batch 1 of 2: wait until ready: app-3`
impl fmt::Display for StepEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {} of {}", self.number, self.steps)?;
        if self.batches > 1 {
            write!(f, ", batch {} of {}", self.batch, self.batches)?;
        }
        write!(f, ": {}", self.doing())
    }
}

impl StepEvent {
    /// What is going on, without names.
    pub fn doing(&self) -> &'static str {
        match self.verb.as_str() {
            "create" => "creating",
            "gate" => "keeping new instances out of rotation",
            "start" => "starting",
            "wait_ready" => "waiting until ready",
            "route" => "switching the proxy",
            "drain" => "draining",
            "delay" => "waiting between two batches",
            "monitor" => "watching the new instances",
            "stop" => "stopping",
            "remove" => "removing",
            _ => "cleaning up",
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
            Warning::DrainTimeout { names, limit, requests, unsure } => {
                let upto = if *unsure > 0 { "up to " } else { "" };
                let open = plural(requests + unsure, "request in flight", "requests in flight");
                let when = match limit {
                    Some(limit) => format!("after {} (`x-zd.drain.timeout`)", humantime::format_duration(*limit)),
                    None => "at the second signal".into(),
                };
                write!(f, "{} still had {upto}{} {open} {when}; stopped all the same", list(names), requests + unsure)
            }
            Warning::FinishingAfterSignal => f.write_str(
                "the new release serves, so this run is finished, and not taken back: it still drains and stops what served \
                 before; a second signal ends the drain",
            ),
            Warning::DrainCutShort => f.write_str(
                "what served before is stopped now, whatever it still answers; another signal leaves at once",
            ),
            Warning::HookFailed { name, hook: what, output: said } => write!(f, "{what} of {name} failed: {said}"),
            Warning::ProxyNotPrepared(text)
            | Warning::TimelineNotWritten(text)
            | Warning::Compose(text)
            | Warning::ExpectedLoss(text)
            | Warning::Ignored(text)
            | Warning::WitnessLost(text)
            | Warning::ServingNotReady(text)
            | Warning::TaskNotRunning(text) => f.write_str(text),
            Warning::WitnessSilent { url, outcome: said } => write!(
                f,
                "`{url}` did not answer before the switch, so there is no witness (`x-zd.witness.url`): {said}"
            ),
            Warning::NotRestarted { services, reason: why } => {
                write!(f, "the new release serves, and {} could not be restarted: {why}", quoted(services))
            }
            Warning::FailuresTolerated { target, failed, slots, reason: why } => write!(
                f,
                "{failed} of {slots} new instances of `{target}` failed, which may be; the old ones stay in their place: {why}"
            ),
            Warning::Other(text) => f.write_str(text),
            Warning::StateInBuildContext { service, folder } => write!(
                f,
                "the build of `{service}` sends `{folder}` along, where resolved secrets are kept: add it to \
                 `.dockerignore`, or keep it elsewhere with `--state-dir`"
            ),
            Warning::CleanupFailed(text) => {
                write!(f, "the new release serves, but cleaning up failed: {text}")
            }
            Warning::ProxyMarksLeft(text) => {
                write!(
                    f,
                    "what served before serves, but a proxy still has marks of ours, which the next run removes: {text}"
                )
            }
            Warning::TooManyTasks(service) => write!(
                f,
                "more tasks of `{service}` run than are wanted: Swarm may keep two in a slot whose node was lost; \
                 `docker service ps` shows them"
            ),
            Warning::RestoredNotReady(text) => {
                write!(f, "went back to it although it does not answer as ready: {text}")
            }
            Warning::NotRestored(text) => {
                write!(f, "an instance that served before does not start again: {text}")
            }
            Warning::OutOfMemory(name) => write!(
                f,
                "the kernel killed a process of {name} for want of memory; {name} runs on: raise its `mem_limit`"
            ),
            Warning::Exited(names) => write!(f, "{} no longer runs, and gets no requests", list(names)),
            Warning::WeakProbe(service) => write!(
                f,
                "`{service}` has no healthcheck and no `x-zd.health`: any answer below 500 counts as ready; set `x-zd.health.path`"
            ),
        }
    }
}

/// Rounded up: nobody wants to read nanoseconds.
pub fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

/// Whole seconds without a fraction.
fn rounded(time: Duration) -> String {
    let text = seconds(time);
    text.strip_suffix(".0s").map_or_else(|| text.clone(), |whole| format!("{whole}s"))
}

fn plural<'a>(count: usize, one: &'a str, many: &'a str) -> &'a str {
    match count {
        1 => one,
        _ => many,
    }
}

fn list(names: &[String]) -> String {
    names.join(", ")
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_that_reached_its_limit_says_how_much_was_cut() {
        let warning = Warning::DrainTimeout {
            names: vec!["app-1".into()],
            limit: Some(Duration::from_secs(30)),
            requests: 1,
            unsure: 0,
        };
        assert_eq!(
            warning.to_string(),
            "app-1 still had 1 request in flight after 30s (`x-zd.drain.timeout`); stopped all the same"
        );
    }
}
