//! Readiness of what serves now, by the probe that new instances will have to pass: a probe that is wrong is reported at
//! once, and not only at the deadline.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::error::Error;
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

/// Instances of a service that serve and do not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReadyInstances {
    pub service: String,
    names: Vec<String>,
    /// Number of instances that were queried.
    queried: usize,
    /// The first one's answer.
    result: String,
    pub fix: &'static str,
}

impl fmt::Display for NotReadyInstances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.names.join(", ");
        match (self.queried, self.names.len()) {
            (1, _) => write!(f, "{names} serves now and does not pass the probe of new instances")?,
            (of, failed) if of == failed => {
                write!(f, "{names} serve now and do not pass the probe of new instances")?;
            }
            (of, _) => {
                write!(f, "of {of} instances that serve now, {names} would not pass the probe of new ones")?;
            }
        }
        write!(f, ": {}", self.result)
    }
}

/// Queries all at the same time.
///
/// # Errors
/// No HTTP client can be made.
pub fn not_ready(docker: &Docker, serving: &[ServingInstance]) -> Result<Vec<NotReadyInstances>> {
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
    let failed = |(service, all): (&str, Vec<(&ServingInstance, ProbeResult)>)| {
        let bad: Vec<&(&ServingInstance, ProbeResult)> =
            all.iter().filter(|(_, result)| !result.ready).collect();
        let (first, result) = bad.first()?;
        Some(NotReadyInstances {
            service: service.into(),
            names: bad.iter().map(|(instance, _)| instance.name.clone()).collect(),
            queried: all.len(),
            result: result.text.clone(),
            fix: fix(&first.probe),
        })
    };
    Ok(by_service.into_iter().filter_map(failed).collect())
}

fn fix(probe: &ReadinessProbe) -> &'static str {
    match probe {
        ReadinessProbe::Connect(_) => {
            "unless the new version listens there, correct the port or give it a `healthcheck`"
        }
        _ => "unless the new version passes, set `x-zd.health.path` or `x-zd.health.port`",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(names: &[&str], of: usize) -> String {
        let names = names.iter().map(|n| n.to_string()).collect();
        let result = "GET u → 404".into();
        NotReadyInstances { service: "app".into(), names, queried: of, result, fix: "" }.to_string()
    }

    #[test]
    fn the_failing_instances_are_named_with_an_answer() {
        let one = "app-1 serves now and does not pass the probe of new instances: GET u → 404";
        assert_eq!(listed(&["app-1"], 1), one);
        let all = "app-1, app-2 serve now and do not pass the probe of new instances: GET u → 404";
        assert_eq!(listed(&["app-1", "app-2"], 2), all);
        let some = "of 3 instances that serve now, app-2 would not pass the probe of new ones: GET u → 404";
        assert_eq!(listed(&["app-2"], 3), some);
    }
}
