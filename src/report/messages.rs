//! Text of every event and warning.

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
            Event::Prepared { change } => f.write_str(change),
            Event::WouldPrepare { change } => write!(f, "would do: {change}"),
            Event::Plan { target, .. } => write!(f, "plan for `{target}`"),
            Event::Step(step) => step.fmt(f),
            Event::Created { names } => write!(f, "created {}", list(names)),
            Event::Started { names } => write!(f, "started {}", list(names)),
            Event::Ready { name, answer } => write!(f, "{name} is ready: {answer}"),
            Event::NotReady { name, answer } => write!(f, "{name} is not ready yet: {answer}"),
            Event::Routed { in_rotation, out_of_rotation } if out_of_rotation.is_empty() => {
                write!(f, "in rotation: {}", list(in_rotation))
            }
            Event::Routed { in_rotation, out_of_rotation } => {
                write!(f, "in rotation: {}; out: {}", list(in_rotation), list(out_of_rotation))
            }
            Event::Draining { names } => write!(f, "draining {}", list(names)),
            Event::Drained { names } => write!(f, "no request in flight: {}", list(names)),
            Event::Stopped { names } => write!(f, "stopped {}", list(names)),
            Event::Removed { names } => write!(f, "removed {}", list(names)),
            Event::StartingDependencies { services } => {
                write!(f, "starting dependencies: {}", list(services))
            }
            Event::Building { services } => write!(f, "building {}", list(services)),
            Event::Pulling { services } => write!(f, "pulling {}", list(services)),
            Event::Delayed { seconds: time } => {
                write!(f, "waiting {} before the next batch", seconds(*time))
            }
            Event::Monitoring { names, in_service, old_instances, proxied, seconds: time } => {
                let (new, after) = (list(names), seconds(*in_service));
                match old_instances.len() {
                    0 if *proxied => write!(f, "{new} in rotation after {after}")?,
                    0 => write!(f, "{new} in service after {after}")?,
                    _ => write!(
                        f,
                        "{new} in service after {after}, while {} keeps working",
                        list(old_instances)
                    )?,
                }
                let them = plural(names.len(), "it", "them");
                write!(f, "; watching {them} for {} (Ctrl-C rolls back)", rounded(*time))
            }
            Event::Failed { names } => write!(f, "{} failed", list(names)),
            Event::Exited { names } => write!(f, "{} exited", list(names)),
            Event::OneByOne { targets, seconds: time } => {
                write!(f, "one after the other: {}", quoted(targets))?;
                if time.is_zero() {
                    Ok(())
                } else {
                    write!(f, "; watching the new instances takes {} in all", rounded(*time))
                }
            }
            Event::Dependents { rolled, restarted } => {
                let clause = |names: &[String], action: &str| {
                    (!names.is_empty()).then(|| format!("{} {action}", quoted(names)))
                };
                let clauses =
                    [clause(rolled, "is replaced afterwards"), clause(restarted, "restarts afterwards")];
                let clauses: Vec<String> = clauses.into_iter().flatten().collect();
                write!(f, "`depends_on.….restart: true`: {}", clauses.join(", "))
            }
            Event::Restarting { services } => write!(f, "restarting {}", quoted(services)),
            Event::StoppingFirst { service } => write!(
                f,
                "`{service}` holds a writable volume, so the old instance stops before the new one starts (`order: start-first` runs both)"
            ),
            Event::JobRunning { service } => write!(f, "running job `{service}`"),
            Event::JobDone { service } => write!(f, "job `{service}` completed"),
            Event::LeftAlone { services } => write!(
                f,
                "changed, but neither named nor behind a proxy, so not deployed: {}",
                quoted(services)
            ),
            Event::ImageOverrideEnded { service, image, previous_image, release } => write!(
                f,
                "`{service}` returns to the image of the file, {image}; release {release} ran {previous_image} (`--image`)"
            ),
            Event::Imported { release, services } => {
                write!(f, "recorded the running {} as release {release}", quoted(services))
            }
            Event::NotImported { services } => write!(
                f,
                "{} runs a configuration that is not in the file and was not deployed by compose-zd: a rollback \
                 cannot restore it",
                quoted(services)
            ),
            Event::Unchanged { release, restored_release: None } => write!(f, "release {release}"),
            Event::Unchanged { release, restored_release: Some(to) } => {
                write!(f, "release {release}, which restores release {to}")
            }
            Event::DeployingStack { stack, services } => {
                write!(f, "stack `{stack}`: deploying {} to Swarm", list(services))
            }
            Event::SwarmRollback { services } => {
                write!(f, "Swarm rolls back {}", list(services))
            }
            Event::TaskRunning { name, node, running, desired } => {
                write!(f, "{name} runs on {node} ({running} of {desired})")
            }
            Event::SwarmJobDone { service, tasks } => {
                write!(f, "`{service}`: {tasks} of {tasks} tasks completed")
            }
            Event::WaitingForLock { owner } => write!(f, "waiting for {owner}"),
            Event::LockTakenOver { owner } => {
                write!(f, "{owner} was killed; this run has taken over the lock")
            }
            Event::Recovering { release } => {
                write!(f, "resuming release {release}, which a killed run did not finish")
            }
            Event::Paused => f.write_str("pausing; every instance stays as it is"),
            Event::RollingBack => f.write_str("rolling back"),
            Event::Interrupted => f.write_str(
                "interrupted; a second signal ends this run at once, and the next deploy cleans up",
            ),
            Event::NoWitness { reason } => write!(f, "no witness: {reason}"),
            Event::Witness(report) => write!(f, "witness {}: {}", report.url, report.summary),
            Event::Deployed { target, serving, release, restored_release, in_service, seconds: took } => {
                match restored_release {
                    Some(to) => write!(f, "`{target}` is back on release {to} (as release {release})")?,
                    None => write!(f, "`{target}` is deployed as release {release}")?,
                }
                let (serving, after, took) = (list(serving), seconds(*in_service), seconds(*took));
                write!(f, ": {serving} in service after {after}")?;
                if after == took { Ok(()) } else { write!(f, ", done after {took}") }
            }
            Event::Warning { message, .. } => write!(f, "warning: {message}"),
            Event::Command { arguments, seconds: took } => {
                write!(f, "$ docker {arguments}  ({:.3}s)", took.as_secs_f64())
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
        write!(f, ": {}", self.activity())
    }
}

impl StepEvent {
    /// Activity of the step, without names.
    pub fn activity(&self) -> &'static str {
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
                let up_to = if *unsure > 0 { "up to " } else { "" };
                let open = plural(requests + unsure, "request in flight", "requests in flight");
                let when = match limit {
                    Some(limit) => format!("after {} (`x-zd.drain.timeout`)", humantime::format_duration(*limit)),
                    None => "at the second signal".into(),
                };
                write!(f, "{} still had {up_to}{} {open} {when}; stopped anyway", list(names), requests + unsure)
            }
            Warning::FinishingAfterSignal => f.write_str(
                "the new release serves, so this run finishes instead of rolling back: it drains and stops the old \
                 instances; a second signal ends the drain",
            ),
            Warning::DrainCutShort => f.write_str(
                "stopping the old instances now, with requests in flight; another signal ends this run at once",
            ),
            Warning::HookFailed { name, hook, output } => write!(f, "{hook} of {name} failed: {output}"),
            Warning::ProxyNotPrepared(text)
            | Warning::TimelineNotWritten(text)
            | Warning::Compose(text)
            | Warning::ExpectedLoss(text)
            | Warning::Ignored(text)
            | Warning::WitnessLost(text)
            | Warning::ServingNotReady(text)
            | Warning::TaskNotRunning(text) => f.write_str(text),
            Warning::WitnessSilent { url, outcome } => write!(
                f,
                "`{url}` did not answer before the switch, so no witness probes it (`x-zd.witness.url`): {outcome}"
            ),
            Warning::NotRestarted { services, reason } => {
                write!(f, "the new release serves, and {} could not be restarted: {reason}", quoted(services))
            }
            Warning::FailuresTolerated { target, failed, slots, reason } => write!(
                f,
                "{failed} of {slots} new instances of `{target}` failed, within `max_failure_ratio`; the old ones keep serving: {reason}"
            ),
            Warning::Other(text) => f.write_str(text),
            Warning::StateInBuildContext { service, folder } => write!(
                f,
                "the build context of `{service}` contains `{folder}`, which holds resolved secrets: add it to \
                 `.dockerignore`, or move it with `--state-dir`"
            ),
            Warning::CleanupFailed(text) => {
                write!(f, "the new release serves, but cleaning up failed: {text}")
            }
            Warning::ProxyMarksLeft(text) => {
                write!(
                    f,
                    "the old release serves, but a proxy still has settings of compose-zd; the next run removes them: {text}"
                )
            }
            Warning::TooManyTasks(service) => write!(
                f,
                "`{service}` runs more tasks than it should: Swarm may keep two in a slot whose node was lost; \
                 `docker service ps {service}` lists them"
            ),
            Warning::RestoredNotReady(text) => {
                write!(f, "rolled back to an instance that is not ready: {text}")
            }
            Warning::NotRestored(text) => {
                write!(f, "an old instance does not start again: {text}")
            }
            Warning::OutOfMemory(name) => write!(
                f,
                "the kernel killed a process of {name} because memory ran out; {name} still runs: raise its `mem_limit`"
            ),
            Warning::Exited(names) => write!(f, "{} exited and receives no requests", list(names)),
            Warning::WeakProbe(service) => write!(
                f,
                "`{service}` has no healthcheck and no `x-zd.health`: any answer below 500 counts as ready; set `x-zd.health.path`"
            ),
        }
    }
}

/// Seconds with one decimal.
pub fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

/// Seconds with one decimal, or without a fraction if they are whole.
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
    fn a_drain_timeout_reports_the_requests_that_were_cut() {
        let warning = Warning::DrainTimeout {
            names: vec!["app-1".into()],
            limit: Some(Duration::from_secs(30)),
            requests: 1,
            unsure: 0,
        };
        assert_eq!(
            warning.to_string(),
            "app-1 still had 1 request in flight after 30s (`x-zd.drain.timeout`); stopped anyway"
        );
    }
}
