//! First answers of services that were started. A container that runs does not prove that its service answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::error::{Error, Exit};
use crate::health::{ProbeResult, Prober, ReadinessProbe};
use crate::model::{Project, Service};
use crate::observe;
use crate::proxy::{self, Backend, Proxy};
use crate::report::Report;
use crate::report::event::{Answer, Event};
use crate::targets::is_member;
use crate::wait::{self, StopSignal, WaitResult};

/// Interval of the probes.
const POLL: Duration = Duration::from_millis(500);

/// Interval at which a bad answer is reported.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Number of last log lines that are shown of a silent service.
const LOG_LINES: u32 = 10;

/// A started instance, and its probe.
struct Started {
    service: String,
    container: Container,
    probe: ReadinessProbe,
    /// Ports of which one has to listen, for a service without a check of its own.
    ports: Vec<u16>,
    /// True if the file has a check: `x-zd.health`.
    is_configured: bool,
    timeout: Duration,
    deadline: Duration,
}

/// Waits until these started services answer: those with `x-zd.health`, and those that get requests from outside. A service
/// without a check may speak any protocol: one of its ports has to listen, and no answer may be a server error.
///
/// Returns the error of a service without a check, which is no reason to undo its start.
///
/// # Errors
/// A service that does not pass its check; a signal.
pub fn wait(
    docker: &Docker,
    project: &Project,
    services: &[String],
    report: Report,
    stop: &StopSignal,
) -> Result<Option<Error>, Error> {
    let mut silent = find(docker, project, services).map_err(Error::from_error)?;
    let Some(deadline) = silent.iter().map(|started| started.deadline).max() else { return Ok(None) };
    let mut answers: Vec<String> = Vec::new();
    let mut reported = Instant::now();
    let waited = wait::until(POLL, deadline, stop, || {
        (silent, answers) = std::mem::take(&mut silent)
            .into_iter()
            .filter_map(|started| started.bad_answer(docker).map(|answer| (started, answer)))
            .unzip();
        if reported.elapsed() >= REPORT_INTERVAL {
            reported = Instant::now();
            for (started, answer) in silent.iter().zip(&answers) {
                let name = started.container.short_name(&project.name);
                report.event(Event::NotReady(Answer { name, answer: answer.clone() }));
            }
        }
        Ok::<_, Error>(silent.is_empty().then_some(()))
    })?;
    match waited {
        WaitResult::Done(()) => Ok(None),
        WaitResult::Interrupted(signal) => Err(Error::interrupted(signal)),
        WaitResult::TimedOut => {
            let failed: Vec<(&Started, &String)> = silent.iter().zip(&answers).collect();
            let (configured, others): (Vec<_>, Vec<_>) =
                failed.into_iter().partition(|(s, _)| s.is_configured);
            if !configured.is_empty() {
                return Err(error(docker, project, &configured));
            }
            Ok(Some(error(docker, project, &others)))
        }
    }
}

/// Instances that have to answer.
fn find(docker: &Docker, project: &Project, services: &[String]) -> Result<Vec<Started>> {
    let judged = |name: &&String| {
        let service = &project.services[*name];
        service.data_store().is_none() && !proxy::is_proxy_image(&service.image)
    };
    let names: Vec<&str> = services.iter().filter(judged).map(String::as_str).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let containers = docker.containers()?;
    let proxies = observe::detect(docker, project, &containers)?;
    let own = containers.iter().filter(|c| c.is_running() && is_member(project, c, &names));
    let is_proxy = |c: &Container| proxies.iter().any(|p| p.is_in(c) && !p.routes_nowhere());
    Ok(own.filter(|c| !is_proxy(c)).filter_map(|c| Started::new(project, c, &proxies)).collect())
}

impl Started {
    fn new(project: &Project, container: &Container, proxies: &[Arc<dyn Proxy>]) -> Option<Started> {
        let service: &Service = project.services.get(container.compose()?.1)?;
        let is_configured = service.settings.http.is_some();
        let backend = Backend::from(container);
        if !is_configured && !proxies.iter().any(|p| p.routes_to(&backend)) {
            return None;
        }
        let probe = observe::probe(service, container, proxies).ok()?;
        let ports = match &probe {
            ReadinessProbe::Http(http) if http.proxy.is_none() && !is_configured => {
                container.published().map(|(port, _)| port).chain([http.port]).collect()
            }
            ReadinessProbe::Http(http) => vec![http.port],
            ReadinessProbe::Connect(port) => vec![*port],
            // Docker runs the healthcheck, and the wait for the start has seen its result.
            _ => return None,
        };
        let (timeout, deadline) = (service.settings.timing.timeout, service.settings.timing.deadline);
        let (service, container) = (service.name.clone(), container.clone());
        Some(Started { service, container, probe, ports, is_configured, timeout, deadline })
    }

    /// Answer of an instance that does not serve; `None` also if nothing can probe it.
    fn bad_answer(&self, docker: &Docker) -> Option<String> {
        let prober = Prober::new(docker, self.timeout).ok()?;
        let answer = prober.probe(&self.probe, &self.container).ok()?;
        let listens = || {
            let connects = |port: &u16| {
                prober
                    .probe(&ReadinessProbe::Connect(*port), &self.container)
                    .map_or(true, |answer| answer.ready)
            };
            self.ports.iter().any(connects)
        };
        is_bad(&answer, self.is_configured, listens).then_some(answer.text)
    }
}

/// True for an answer that proves a service without a check does not serve: a server error, or no port that listens.
fn is_bad(answer: &ProbeResult, is_configured: bool, listens: impl FnOnce() -> bool) -> bool {
    match answer {
        ProbeResult { ready: true, .. } => false,
        _ if is_configured => true,
        ProbeResult { code: Some(_), .. } => true,
        ProbeResult { code: None, .. } => !listens(),
    }
}

fn error(docker: &Docker, project: &Project, failed: &[(&Started, &String)]) -> Error {
    let (first, _) = failed[0];
    let limit = humantime::format_duration(first.deadline);
    let mut names: Vec<String> = failed.iter().map(|(started, _)| format!("`{}`", started.service)).collect();
    names.dedup();
    let verb = if names.len() == 1 { "runs, and gives" } else { "run, and give" };
    let error =
        Error::new(Exit::StillServing, format!("{} {verb} no good answer after {limit}", names.join(", ")));
    let hint = if first.is_configured {
        "see what the service answers, or set another `x-zd.health` (`--health-path`, `--health-deadline`)"
            .into()
    } else {
        format!(
            "it was left running; `docker compose logs {0}` shows its messages; a wrong port is corrected in \
             `services.{0}.ports` or in the route of the proxy, and `services.{0}.x-zd.health` sets another check",
            first.service
        )
    };
    let add = |error: Error, (started, answer): &(&Started, &String)| {
        let name = started.container.short_name(&project.name);
        let lines = docker.logs(&started.container.id, LOG_LINES).unwrap_or_default();
        let error = error.detail(&format!("{name}: {answer}"));
        if lines.is_empty() {
            return error.detail(&format!("{name} printed nothing"));
        }
        let lines: String = lines.iter().map(|line| format!("  {line}\n")).collect();
        error.detail(&format!("last lines of {name}:")).detail(&lines)
    };
    failed.iter().fold(error, add).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_without_a_check_may_speak_any_protocol() {
        let answer = |ready, code| ProbeResult { ready, code, text: String::new() };
        let bad = |answer: &ProbeResult, is_configured, listens| is_bad(answer, is_configured, || listens);
        let (good, none) = (answer(true, Some(200)), answer(false, None));
        for is_configured in [true, false] {
            assert!(!bad(&good, is_configured, false));
            assert!(bad(&answer(false, Some(500)), is_configured, true));
            assert!(bad(&none, is_configured, false), "nothing listens");
        }
        assert!(!bad(&none, false, true), "another protocol");
        assert!(bad(&none, true, true), "the check of the file fails");
    }
}
