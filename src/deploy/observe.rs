//! One moment of a target: reads the containers and the proxies, and tells new instances from old ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::targets::{Target, backend};
use crate::docker::inspect::{CONFIG_HASH, Container, ContainerConfig, Healthcheck, Image};
use crate::docker::{CommandResult, Docker};
use crate::drain;
use crate::error::Error;
use crate::health::{Prober, ReadinessProbe};
use crate::model::{Project, Service};
use crate::observed::{Generation, Instance, InstanceKey, InstanceState, Observed};
use crate::proxy::{self, Backend, InFlight, Proxy};
use crate::rollout;
use crate::wait::{self, StopSignal, WaitResult};

/// What tells a new instance from an old one.
#[derive(Default)]
pub struct DesiredVersion {
    /// The configuration hashes that count, by service: a release that is put back may have one as the file gave it,
    /// and one as its record does.
    pub hashes: BTreeMap<String, Vec<String>>,
    /// By service.
    pub images: BTreeMap<String, Image>,
    /// Ids of containers that are to be replaced whatever they are (`--force`).
    pub replaced: BTreeSet<String>,
}

impl DesiredVersion {
    /// `seen` are images that were just looked at, by reference.
    ///
    /// # Errors
    /// No engine, or Compose's own.
    pub fn read(
        docker: &Docker,
        project: &Project,
        targets: &[Target],
        mut seen: BTreeMap<String, Image>,
    ) -> Result<DesiredVersion> {
        let services = targets.iter().flat_map(Target::services);
        let references: BTreeSet<&str> =
            services.clone().map(|s| project.services[s].image.as_str()).collect();
        std::thread::scope(|scope| {
            let hashes = scope.spawn(|| docker.hashes());
            let mut known = BTreeMap::new();
            for reference in references {
                let image = seen.remove(reference).map(Some);
                known.insert(reference, image.map_or_else(|| docker.image(reference), Ok)?);
            }
            let image = |s: &str| known[project.services[s].image.as_str()].clone();
            let hashes = hashes.join().expect("no panic in a read")?;
            Ok(DesiredVersion {
                images: services.filter_map(|s| Some((s.to_string(), image(s)?))).collect(),
                hashes: hashes.into_iter().map(|(service, hash)| (service, vec![hash])).collect(),
                replaced: BTreeSet::new(),
            })
        })
    }

    /// Takes in hashes that count as well.
    pub fn add_hashes(&mut self, more: BTreeMap<String, String>) {
        for (service, hash) in more {
            let known = self.hashes.entry(service).or_default();
            if !known.contains(&hash) {
                known.push(hash);
            }
        }
    }

    fn generation(&self, service: &str, container: &Container) -> Generation {
        match self.fits(service, container) && !self.replaced.contains(&container.id) {
            true => Generation::New,
            false => Generation::Old,
        }
    }

    /// Whether a container has the configuration and the image that are wanted.
    pub fn fits(&self, service: &str, container: &Container) -> bool {
        let hash = container.label(CONFIG_HASH);
        let hashes = self.hashes.get(service).map_or(&[][..], Vec::as_slice);
        let same_config = hash.is_some_and(|h| hashes.iter().any(|wanted| wanted == h));
        same_config && self.images.get(service).is_some_and(|i| i.id == container.image_id)
    }

    /// What a new instance will look like to a probe and to a proxy, before there is one.
    pub fn preview(&self, project: &str, service: &Service) -> Container {
        let image = self.images.get(&service.name).cloned().unwrap_or_default();
        let mut environment = image.config.env;
        environment.extend(service.environment.iter().map(|(k, v)| format!("{k}={v}")));
        let mut exposed = image.config.exposed_ports;
        exposed.extend(service.exposed.iter().map(|p| (p.clone(), serde_json::Value::Null)));
        let own = service.healthcheck.clone().map(|test| Healthcheck { test, ..Healthcheck::default() });
        let mut labels = image.config.labels;
        labels.extend(service.labels.clone());
        labels.insert("com.docker.compose.project".into(), project.into());
        labels.insert("com.docker.compose.service".into(), service.name.clone());
        let config = ContainerConfig {
            env: environment,
            labels,
            exposed_ports: exposed,
            healthcheck: own.or(image.config.healthcheck),
            ..ContainerConfig::default()
        };
        Container::planned(config, &service.networks)
    }
}

/// Limit for reading a proxy's own configuration.
const INTRODUCTION: Duration = Duration::from_secs(30);

/// How long, and how often, the way back tries to see what there is.
const PATIENCE: Duration = Duration::from_secs(30);
const PATIENCE_POLL: Duration = Duration::from_millis(500);

/// How long one may take to restart that has died: the engine waits longer after each failure.
const RESTART: Duration = Duration::from_secs(5);

/// What proxies tell of instances, by id.
#[derive(Default)]
struct ProxyTraffic {
    routed: BTreeSet<String>,
    failing: BTreeSet<String>,
    in_flight: BTreeMap<String, InFlight>,
}

/// What the planner sees, and the containers behind it.
pub struct TargetSnapshot {
    pub observed: Observed,
    pub containers: BTreeMap<InstanceKey, Container>,
    /// Requests that each container is answering, by id, where a proxy tells; it does not name those that have none.
    pub in_flight: BTreeMap<String, InFlight>,
    /// Ids of containers that a proxy's own check finds down.
    pub failing: BTreeSet<String>,
}

/// Whether a new instance of a service is ready.
type IsReady<'r> = &'r dyn Fn(&str, &Container) -> Result<bool>;

/// Looks until it gets to see something.
fn patiently(look: impl Fn() -> Result<TargetSnapshot>) -> Result<TargetSnapshot, Error> {
    let mut last = Error::unchanged("nothing was looked at");
    let seen = wait::until(PATIENCE_POLL, PATIENCE, &StopSignal::default(), || match look() {
        Ok(snapshot) => Ok::<_, Error>(Some(snapshot)),
        Err(error) => {
            last = Error::from_error(error);
            Ok(None)
        }
    })?;
    match seen {
        WaitResult::Done(snapshot) => Ok(snapshot),
        WaitResult::TimedOut | WaitResult::Interrupted(_) => Err(last),
    }
}

/// Looks at one target.
pub struct TargetReader<'a> {
    pub docker: &'a Docker,
    pub project: &'a Project,
    pub wanted: &'a DesiredVersion,
    pub target: &'a Target,
    pub proxies: Vec<Arc<dyn Proxy>>,
}

impl TargetReader<'_> {
    /// How a new instance of each service will be asked whether it is ready.
    ///
    /// # Errors
    /// A service with nothing to ask.
    pub fn probes(&self) -> Result<Vec<(&str, ReadinessProbe)>, Error> {
        let services = self.target.services().into_iter();
        let probe = |name| {
            let service = &self.project.services[name];
            let preview = self.wanted.preview(&self.project.name, service);
            Ok((name, rollout::probe(service, &preview, &self.proxies)?))
        };
        services.map(probe).collect()
    }

    /// What a new instance of a service will look like, before there is one.
    pub fn preview(&self, service: &str) -> Container {
        self.wanted.preview(&self.project.name, &self.project.services[service])
    }

    /// The target as a proxy's discovery sees it: what runs of it, and what is to come.
    pub fn backends(&self, containers: &[Container]) -> Vec<Backend> {
        let services = self.target.services();
        let runs = |c: &&Container| c.is_running() && is_member(self.project, c, &services);
        let running = containers.iter().filter(runs).map(Backend::from);
        let coming = services.iter().map(|name| {
            let service = &self.project.services[*name];
            Backend {
                names: service.names.clone(),
                ..Backend::from(&self.wanted.preview(&self.project.name, service))
            }
        });
        let drained = |b: Backend| {
            let settings = &self.project.services[&b.service].settings;
            Backend { has_drain_command: settings.drain_command.is_some(), ..b }
        };
        running.chain(coming).map(drained).collect()
    }

    /// Each of its services, with every name that Docker's DNS has for what runs of it and for what is to come.
    pub fn names(&self, backends: &[Backend]) -> Vec<(String, Vec<String>)> {
        let of = |service: &str| {
            let its = backends.iter().filter(|b| b.service == service);
            let names: BTreeSet<String> = its.flat_map(|b| b.names.iter().cloned()).collect();
            (service.to_string(), names.into_iter().collect())
        };
        self.target.services().into_iter().map(of).collect()
    }

    /// Reads the containers anew, and looks.
    ///
    /// # Errors
    /// No engine, or a proxy that does not answer.
    pub fn look(&self) -> Result<TargetSnapshot> {
        self.look_at(self.members()?)
    }

    fn members(&self) -> Result<Vec<Container>> {
        let mut members = Vec::new();
        for service in self.target.services() {
            members.extend(self.docker.containers_of(&self.project.name, service)?);
        }
        Ok(members)
    }

    /// Looks until it gets to see something: on the way back a proxy that restarts is worth waiting for.
    ///
    /// # Errors
    /// The last reason why there is nothing to see.
    pub fn look_patiently(&self) -> Result<TargetSnapshot, Error> {
        patiently(|| self.look())
    }

    /// The same on the way back, where no new instance is asked whether it is ready: nobody waits for the answer of one
    /// that may hang.
    ///
    /// # Errors
    /// As [`Viewer::look_patiently`].
    pub fn look_back(&self) -> Result<TargetSnapshot, Error> {
        patiently(|| {
            let members = self.members()?;
            self.snapshot(members, &|_, container| Ok(!container.is_failing()))
        })
    }

    /// Waits a moment for those that restart by themselves. Tells whether there were any.
    ///
    /// # Errors
    /// No engine.
    pub fn sees_restart(&self, containers: &BTreeMap<InstanceKey, Container>) -> Result<bool, Error> {
        let restarts = |c: &&Container| c.state.status == "restarting";
        let ids: Vec<String> = containers.values().filter(restarts).map(|c| c.id.clone()).collect();
        wait::until(PATIENCE_POLL, RESTART, &StopSignal::default(), || {
            let now = self.docker.inspect(&ids).map_err(Error::from_error)?;
            Ok::<_, Error>((!now.iter().any(|c| restarts(&c))).then_some(()))
        })?;
        Ok(!ids.is_empty())
    }

    /// Looks at containers that were read just now.
    ///
    /// # Errors
    /// A proxy that does not answer.
    pub fn look_at(&self, containers: Vec<Container>) -> Result<TargetSnapshot> {
        self.snapshot(containers, &|service, container| self.is_ready(service, container))
    }

    fn snapshot(&self, containers: Vec<Container>, is_ready: IsReady) -> Result<TargetSnapshot> {
        let services = self.target.services();
        let ours = |c: &Container| is_member(self.project, c, &services);
        let mut members: Vec<Container> = containers.into_iter().filter(ours).collect();
        members.sort_by_key(|c| (c.compose().map(|(_, s)| s.to_string()), rollout::number(c)));
        let traffic = self.traffic(&members)?;
        let routed = traffic.as_ref().map(|traffic| &traffic.routed);
        let instances = members.iter().map(|c| self.instance(c, routed, is_ready));
        let instances = instances.collect::<Result<_>>()?;
        let ProxyTraffic { in_flight, failing, .. } = traffic.unwrap_or_default();
        Ok(TargetSnapshot {
            observed: Observed { instances, proxied: !self.proxies.is_empty() },
            containers: members.iter().map(|c| (self.key(c), c.clone())).collect(),
            in_flight,
            failing,
        })
    }

    fn key(&self, container: &Container) -> InstanceKey {
        rollout::short_name(&self.project.name, container)
    }

    /// None where there is no proxy to tell.
    fn traffic(&self, members: &[Container]) -> Result<Option<ProxyTraffic>> {
        let mut traffic = ProxyTraffic::default();
        for proxy in &self.proxies {
            let endpoints = proxy::endpoints(proxy.as_ref(), members.iter());
            let answer: CommandResult =
                drain::answered(self.docker, &proxy.question(&endpoints), &proxy.name())?;
            let reading = proxy.read(&answer, &endpoints)?;
            traffic.routed.extend(reading.routed);
            traffic.failing.extend(reading.failing);
            traffic.in_flight.extend(reading.in_flight);
        }
        Ok((!self.proxies.is_empty()).then_some(traffic))
    }

    fn instance(
        &self,
        container: &Container,
        routed: Option<&BTreeSet<String>>,
        is_ready: IsReady,
    ) -> Result<Instance> {
        let (_, service) = container.compose().expect("only members are looked at");
        let state = InstanceState::read(&container.state.status);
        let generation = self.wanted.generation(service, container);
        let runs = state == InstanceState::Running;
        let ready = match (runs, generation) {
            (false, _) => false,
            // An old instance may not know the path that a new one is asked for.
            (true, Generation::Old) => !container.is_failing(),
            (true, Generation::New) => is_ready(service, container)?,
        };
        Ok(Instance {
            key: self.key(container),
            service: service.into(),
            generation,
            state,
            routed: routed.map_or(runs, |ids| ids.contains(&container.id)),
            ready,
            age: container.age().filter(|_| runs),
        })
    }

    fn is_ready(&self, service: &str, container: &Container) -> Result<bool> {
        let service = &self.project.services[service];
        let probe = rollout::probe(service, container, &self.proxies)?;
        let asker = Prober::new(self.docker, service.settings.pace.timeout)?;
        Ok(asker.probe(&probe, container).is_ok_and(|answer| answer.ready))
    }
}

/// Whether a container belongs to one of these services of the project.
pub fn is_member(project: &Project, container: &Container, services: &[&str]) -> bool {
    let ours = |(name, service): (&str, &str)| name == project.name && services.contains(&service);
    container.compose().is_some_and(ours)
}

/// Every proxy of the engine, running or not; those that run where services of the project are reached are asked for what
/// their containers do not tell, and no others: they may be other people's.
///
/// # Errors
/// No engine.
pub fn detect(docker: &Docker, project: &Project, containers: &[Container]) -> Result<Vec<Arc<dyn Proxy>>> {
    let is_ours = |c: &&Container| c.compose().is_some_and(|(name, _)| name == project.name);
    let of_file = project.services.values().flat_map(|s| s.networks.iter().map(String::as_str));
    let of_running = containers.iter().filter(is_ours).flat_map(Container::networks);
    let networks: BTreeSet<&str> = of_file.chain(of_running).chain(["host"]).collect();
    let named: BTreeSet<&str> =
        project.services.values().filter_map(|s| s.settings.proxy.container.as_deref()).collect();
    let is_near =
        |c: &Container| c.networks().any(|n| networks.contains(n)) || named.iter().any(|n| is_named(c, n));
    let one = |proxy: Box<dyn Proxy>| match is_near(proxy.container()) {
        true => introduced(docker, proxy),
        false => Ok(proxy.into()),
    };
    proxy::detect(containers).into_iter().map(one).collect()
}

fn is_named(container: &Container, name: &str) -> bool {
    container.name() == name || container.id.starts_with(name)
}

fn introduced(docker: &Docker, mut proxy: Box<dyn Proxy>) -> Result<Arc<dyn Proxy>> {
    if let Some(exec) = proxy.introduction().filter(|_| proxy.container().is_running()) {
        proxy.learn(&docker.query(&exec.with_limit(INTRODUCTION))?);
    }
    Ok(proxy.into())
}

/// The proxies that run in front of a target; the one that `x-zd.proxy` names where detection is wrong.
///
/// # Errors
/// A named proxy that is not there, does not run, or is of no known kind.
pub fn fronting(
    docker: &Docker,
    project: &Project,
    target: &Target,
    containers: &[Container],
    all: &[Arc<dyn Proxy>],
) -> Result<Vec<Arc<dyn Proxy>>> {
    let settings = &project.services[target.services()[0]].settings.proxy;
    match (settings.kind.as_deref(), settings.container.as_deref()) {
        (Some("none"), _) => return Ok(Vec::new()),
        (kind, Some(name)) => return Ok(vec![named(docker, name, kind, containers, all)?]),
        _ => {}
    }
    let backends = backends(project, target, containers);
    let fronts = |p: &&Arc<dyn Proxy>| p.container().is_running() && backends.iter().any(|b| p.routes_to(b));
    Ok(all.iter().filter(fronts).cloned().collect())
}

/// A target as a proxy's discovery sees it: its containers, and what the file says of those to come.
fn backends(project: &Project, target: &Target, containers: &[Container]) -> Vec<Backend> {
    let services = target.services();
    let members = containers.iter().filter(|c| is_member(project, c, &services));
    let wanted = services.iter().map(|s| backend(project, &project.services[*s]));
    members.map(Backend::from).chain(wanted).collect()
}

fn named(
    docker: &Docker,
    name: &str,
    kind: Option<&str>,
    containers: &[Container],
    all: &[Arc<dyn Proxy>],
) -> Result<Arc<dyn Proxy>> {
    let found = containers.iter().find(|c| is_named(c, name));
    let container = found.ok_or_else(|| {
        Error::usage(format!(
            "there is no container `{name}` (`x-zd.proxy.container` or `--proxy-container`)"
        ))
        .hint("`docker ps` lists those that run")
        .rule(&"proxy-missing")
    })?;
    if !container.is_running() {
        return Err(Error::unchanged(format!("the proxy `{name}` is {}", container.state.status))
            .hint(crate::preflight::remedy(container))
            .rule(&"proxy-down")
            .into());
    }
    if let Some(kind) = kind {
        return introduced(docker, proxy::declared(kind, container)?);
    }
    all.iter().find(|p| p.container().id == container.id).cloned().ok_or_else(|| {
        Error::usage(format!("`{name}` is no proxy that can be recognised"))
            .hint("say what it is with `x-zd.proxy.kind` (or `--proxy-kind`)")
            .rule(&"unknown-proxy-kind")
            .into()
    })
}
