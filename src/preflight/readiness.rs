//! Findings on readiness probes: one that proves little, and serving instances that do not pass the probe of new ones.
//! A probe that is wrong is reported at once, and not only at the deadline.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::error::Error;
use crate::finding::Finding;
use crate::health::{ProbeResult, Prober, ReadinessProbe};
use crate::model::{Project, Service};
use crate::observe::{self, TargetReader};
use crate::proxy::Proxy;

/// Timeout for one answer: no deploy waits longer for it.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Age below which an instance may still be starting.
const STARTING: Duration = Duration::from_secs(5);

/// An instance that serves, and its probe.
pub struct ServingInstance<'a> {
    service: &'a Service,
    container: &'a Container,
    /// Name without the project.
    name: String,
    probe: ReadinessProbe,
}

impl<'a> ServingInstance<'a> {
    /// Instances whose old and new version both have a network probe. The command of a healthcheck is not run for
    /// this.
    ///
    /// # Errors
    /// A service without any probe.
    pub fn select(
        reader: &TargetReader<'a>,
        proxies: &[Arc<dyn Proxy>],
        containers: impl Iterator<Item = &'a Container>,
    ) -> Result<Vec<ServingInstance<'a>>, Error> {
        let probes = reader.probes()?;
        let by_command = |name: &str| {
            probes.iter().any(|(s, p)| *s == name && matches!(p, ReadinessProbe::Healthcheck(_)))
        };
        let all = containers.filter_map(|container| ServingInstance::new(reader.project, container, proxies));
        Ok(all.filter(|instance| !by_command(&instance.service.name)).collect())
    }

    fn new(
        project: &'a Project,
        container: &'a Container,
        proxies: &[Arc<dyn Proxy>],
    ) -> Option<ServingInstance<'a>> {
        let service = project.services.get(container.compose()?.1)?;
        let probe = observe::probe(service, container, proxies).ok()?;
        let is_started = container.age().is_none_or(|age| age >= STARTING);
        let name = container.short_name(&project.name);
        let is_outside = matches!(probe, ReadinessProbe::Http(_) | ReadinessProbe::Connect(_));
        let is_judged = is_outside && is_started && container.is_running();
        is_judged.then_some(ServingInstance { service, container, name, probe })
    }

    fn timeout(&self) -> Duration {
        self.service.settings.timing.timeout
    }

    /// Result of one probe; `None` if the timeout was too short to judge.
    fn probe_once(&self, prober: &Prober) -> Option<ProbeResult> {
        let start = Instant::now();
        let result = prober.probe(&self.probe, self.container).ok()?;
        let is_judged = self.timeout() <= TIMEOUT || start.elapsed() < TIMEOUT;
        (result.ready || is_judged).then_some(result)
    }
}

/// Notes on instances that serve and do not pass. Queries all at the same time.
///
/// # Errors
/// No HTTP client can be made.
pub fn not_ready(docker: &Docker, serving: &[ServingInstance]) -> Result<Vec<Finding>> {
    let mut probers: BTreeMap<Duration, Prober> = BTreeMap::new();
    for timeout in serving.iter().map(|instance| instance.timeout().min(TIMEOUT)) {
        if let Entry::Vacant(free) = probers.entry(timeout) {
            free.insert(Prober::new(docker, timeout)?);
        }
    }
    let query = |instance: &ServingInstance| instance.probe_once(&probers[&instance.timeout().min(TIMEOUT)]);
    let results: Vec<Option<ProbeResult>> = thread::scope(|scope| {
        let threads: Vec<_> = serving.iter().map(|instance| scope.spawn(|| query(instance))).collect();
        threads.into_iter().map(|t| t.join().expect("no panic in a probe")).collect()
    });
    let mut by_service: BTreeMap<&str, Vec<(&ServingInstance, ProbeResult)>> = BTreeMap::new();
    for (instance, result) in
        serving.iter().zip(results).filter_map(|(instance, result)| Some((instance, result?)))
    {
        by_service.entry(&instance.service.name).or_default().push((instance, result));
    }
    let failing = |(service, all): (&str, Vec<(&ServingInstance, ProbeResult)>)| {
        let failed: Vec<_> = all.iter().filter(|(_, result)| !result.ready).collect();
        let (first, result) = failed.first()?;
        let names: Vec<&str> = failed.iter().map(|(instance, _)| instance.name.as_str()).collect();
        let message = format!("{}: {}", not_passing(&names, all.len()), result.text);
        Some(Finding::note("serving-not-ready", message, hint(&first.probe)).of_service(service))
    };
    Ok(by_service.into_iter().filter_map(failing).collect())
}

/// Names of the failing instances, of those that were queried.
fn not_passing(names: &[&str], queried: usize) -> String {
    let list = names.join(", ");
    match (queried, names.len()) {
        (1, _) => format!("{list} serves now and does not pass the probe of new instances"),
        (all, failed) if all == failed => {
            format!("{list} serve now and do not pass the probe of new instances")
        }
        (all, _) => format!("of {all} instances that serve now, {list} would not pass the probe of new ones"),
    }
}

fn hint(probe: &ReadinessProbe) -> &'static str {
    match probe {
        ReadinessProbe::Connect(_) => {
            "unless the new version listens there, correct the port or give it a `healthcheck`"
        }
        _ => "unless the new version passes, set `x-zd.health.path` or `x-zd.health.port`",
    }
}

/// Note on a probe that proves little.
pub fn weak(service: &str, probe: &ReadinessProbe) -> Option<Finding> {
    let (rule, message) = match probe {
        ReadinessProbe::Http(http) if probe.is_weak() => (
            WEAK,
            format!(
                "`{service}` has no healthcheck and no `x-zd.health`: any answer below 500 to `GET {}` at port {} counts as \
                 ready",
                http.health.path, http.port
            ),
        ),
        ReadinessProbe::Connect(port) => (
            WEAK,
            format!(
                "`{service}` has no healthcheck, and its proxy does not speak HTTP to it: a connection to port {port} counts as \
                 ready"
            ),
        ),
        ReadinessProbe::Running => (
            "no-readiness",
            format!(
                "no probe checks whether a new instance of `{service}` is ready: a running instance counts as ready"
            ),
        ),
        ReadinessProbe::Http(_) | ReadinessProbe::Healthcheck(_) | ReadinessProbe::Either(..) => return None,
    };
    let hint = format!("set `services.{service}.healthcheck`, or `services.{service}.x-zd.health.path`");
    Some(Finding::note(rule, message, hint).of_service(service))
}

const WEAK: &str = "weak-readiness";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failing_instances_are_named() {
        let one = "app-1 serves now and does not pass the probe of new instances";
        assert_eq!(not_passing(&["app-1"], 1), one);
        let all = "app-1, app-2 serve now and do not pass the probe of new instances";
        assert_eq!(not_passing(&["app-1", "app-2"], 2), all);
        let some = "of 3 instances that serve now, app-2 would not pass the probe of new ones";
        assert_eq!(not_passing(&["app-2"], 3), some);
    }
}
