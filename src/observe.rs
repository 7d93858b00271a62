//! Snapshot of a target: reads its containers and proxies, and separates new instances from old ones.

pub mod container_files;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::docker::inspect::{CONFIG_HASH, Container, ContainerConfig, Healthcheck, Image};
use crate::docker::{Docker, relay};
use crate::error::Error;
use crate::health::{self, ProbeTarget, Prober, ReadinessProbe};
use crate::model::{HttpHealth, Project, Service};
use crate::observed::{Generation, Instance, InstanceKey, InstanceState, Observed};
use crate::proxy::converge::Pursuit;
use crate::proxy::port::protocol::Protocol;
use crate::proxy::port::{self, PublishedPort};
use crate::proxy::{self, Backend, Goal, InFlight, Proxy};
use crate::targets::{Target, backend, is_member, listening_services};
use crate::wait::{self, StopSignal, WaitResult};
use container_files::StoppedFiles;

/// Version that a new instance has.
#[derive(Default)]
pub struct DesiredVersion {
    /// Accepted configuration hashes, by service. A restored release may have the hash of its file and the one of
    /// its record.
    pub hashes: BTreeMap<String, Vec<String>>,
    /// Images, by service.
    pub images: BTreeMap<String, Image>,
    /// Ids of containers to replace even if they are up to date (`--force`).
    pub forced: BTreeSet<String>,
}

impl DesiredVersion {
    /// Reads the version of the file; `known_images` were read already, by reference.
    pub fn read(
        docker: &Docker,
        project: &Project,
        targets: &[Target],
        mut known_images: BTreeMap<String, Image>,
    ) -> Result<DesiredVersion> {
        let services = targets.iter().flat_map(Target::services);
        let references: BTreeSet<&str> =
            services.clone().map(|s| project.services[s].image.as_str()).collect();
        std::thread::scope(|scope| {
            let hashes = scope.spawn(|| docker.hashes());
            let mut known = BTreeMap::new();
            for reference in references {
                let image = known_images.remove(reference).map(Some);
                known.insert(reference, image.map_or_else(|| docker.image(reference), Ok)?);
            }
            let image = |s: &str| known[project.services[s].image.as_str()].clone();
            let hashes = hashes.join().expect("no panic in a read")?;
            Ok(DesiredVersion {
                images: services.filter_map(|s| Some((s.to_string(), image(s)?))).collect(),
                hashes: hashes.into_iter().map(|(service, hash)| (service, vec![hash])).collect(),
                forced: BTreeSet::new(),
            })
        })
    }

    /// Accepts more hashes.
    pub fn add_hashes(&mut self, more: BTreeMap<String, String>) {
        for (service, hash) in more {
            let known = self.hashes.entry(service).or_default();
            if !known.contains(&hash) {
                known.push(hash);
            }
        }
    }

    fn generation(&self, service: &str, container: &Container) -> Generation {
        if self.matches(service, container) && !self.forced.contains(&container.id) {
            Generation::New
        } else {
            Generation::Old
        }
    }

    /// True if a container has the desired configuration and image.
    pub fn matches(&self, service: &str, container: &Container) -> bool {
        let hash = container.label(CONFIG_HASH);
        let hashes = self.hashes.get(service).map_or(&[][..], Vec::as_slice);
        let same_config = hash.is_some_and(|h| hashes.iter().any(|accepted| accepted == h));
        same_config && self.images.get(service).is_some_and(|i| i.id == container.image_id)
    }

    /// Container of a new instance, as a probe and a proxy will see it.
    pub fn preview(&self, project: &str, service: &Service) -> Container {
        let image = self.images.get(&service.name).cloned().unwrap_or_default();
        let mut environment = image.config.env;
        environment.extend(service.environment.iter().map(|(k, v)| format!("{k}={v}")));
        let mut exposed = image.config.exposed_ports;
        exposed.extend(service.exposed().iter().map(|p| (p.clone(), serde_json::Value::Null)));
        let own = service.healthcheck().clone().map(|test| Healthcheck { test, ..Healthcheck::default() });
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
        Container::planned(config, &service.networks, &service.names)
    }
}

/// Timeout for reading a proxy's own configuration.
const CONFIG_TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout and interval of the retries during an undo.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_POLL: Duration = Duration::from_millis(500);

/// Time that a crashed container may take to restart: the engine waits longer after each failure.
const RESTART_TIMEOUT: Duration = Duration::from_secs(5);

/// State of the instances in all proxies, by container id.
#[derive(Default)]
struct ProxyTraffic {
    routed: BTreeSet<String>,
    failing: BTreeSet<String>,
    in_flight: BTreeMap<String, InFlight>,
}

/// Observed state for the planner, and the containers behind it.
pub struct TargetSnapshot {
    pub observed: Observed,
    pub containers: BTreeMap<InstanceKey, Container>,
    /// In-flight requests by container id. A proxy leaves out a container without requests.
    pub in_flight: BTreeMap<String, InFlight>,
    /// Ids of containers that fail a proxy's own check.
    pub failing: BTreeSet<String>,
}

type ProbeOf = fn(&Service, &Container, &[Arc<dyn Proxy>]) -> Result<ReadinessProbe, Error>;

type IsReady<'r> = &'r dyn Fn(&str, &Container) -> Result<bool>;

/// Retries until an observation succeeds.
fn with_retry(look: impl Fn() -> Result<TargetSnapshot>) -> Result<TargetSnapshot, Error> {
    let mut last = Error::unchanged("nothing was observed");
    let waited = wait::until(RETRY_POLL, RETRY_TIMEOUT, &StopSignal::default(), || match look() {
        Ok(snapshot) => Ok::<_, Error>(Some(snapshot)),
        Err(error) => {
            last = Error::from_error(error);
            Ok(None)
        }
    })?;
    match waited {
        WaitResult::Done(snapshot) => Ok(snapshot),
        WaitResult::TimedOut | WaitResult::Interrupted(_) => Err(last),
    }
}

/// Reader for the state of one target.
pub struct TargetReader<'a> {
    pub docker: &'a Docker,
    pub project: &'a Project,
    pub desired: &'a DesiredVersion,
    pub target: &'a Target,
    pub proxies: Vec<Arc<dyn Proxy>>,
}

impl TargetReader<'_> {
    /// Readiness probe for a new instance of each service.
    ///
    /// # Errors
    /// A service without any probe.
    pub fn probes(&self) -> Result<Vec<(&str, ReadinessProbe)>, Error> {
        let services = self.target.services().into_iter();
        let probe = |name| {
            let service = &self.project.services[name];
            let preview = self.desired.preview(&self.project.name, service);
            Ok((name, probe(service, &preview, &self.proxies)?))
        };
        services.map(probe).collect()
    }

    /// Container of a new instance, before it exists.
    pub fn preview(&self, service: &str) -> Container {
        self.desired.preview(&self.project.name, &self.project.services[service])
    }

    /// Backends of the target for a proxy's discovery: its running instances, and the new ones.
    pub fn backends(&self, containers: &[Container]) -> Vec<Backend> {
        let services = self.target.services();
        let runs = |c: &&Container| c.is_running() && is_member(self.project, c, &services);
        let running = containers.iter().filter(runs).map(Backend::from);
        let coming = services.iter().map(|name| {
            let service = &self.project.services[*name];
            Backend {
                names: service.names.clone(),
                ..Backend::from(&self.desired.preview(&self.project.name, service))
            }
        });
        running.chain(coming).collect()
    }

    /// Services of the target, each with every DNS name of its running and new instances.
    pub fn names(&self, backends: &[Backend]) -> Vec<(String, Vec<String>)> {
        let of = |service: &str| {
            let its = backends.iter().filter(|b| b.service == service);
            let names: BTreeSet<String> = its.flat_map(|b| b.names.iter().cloned()).collect();
            (service.to_string(), names.into_iter().collect())
        };
        self.target.services().into_iter().map(of).collect()
    }

    /// Reads the containers and observes the target.
    pub fn observe(&self) -> Result<TargetSnapshot> {
        self.observe_containers(self.members()?)
    }

    fn members(&self) -> Result<Vec<Container>> {
        let mut members = Vec::new();
        for service in self.target.services() {
            members.extend(self.docker.containers_of(&self.project.name, service)?);
        }
        Ok(members)
    }

    /// Observes the target, and retries while a proxy restarts.
    ///
    /// # Errors
    /// The last failure.
    pub fn observe_with_retry(&self) -> Result<TargetSnapshot, Error> {
        with_retry(|| self.observe())
    }

    /// Like [`TargetReader::observe_with_retry`], without a readiness probe, so that a new instance that hangs
    /// delays no undo.
    pub fn observe_for_undo(&self) -> Result<TargetSnapshot, Error> {
        with_retry(|| {
            let members = self.members()?;
            self.snapshot(members, &|_, container| Ok(!container.is_failing()))
        })
    }

    /// Waits for an engine that restarts. True if it answers a new connection; one that ends still answers its open ones.
    pub fn wait_for_engine(&self) -> bool {
        let answers = || Ok::<_, Error>(self.docker.answers().then_some(()));
        let waited = wait::until(RETRY_POLL, RETRY_TIMEOUT, &StopSignal::default(), answers);
        matches!(waited, Ok(WaitResult::Done(())))
    }

    /// Waits a short time for crashed containers to restart. True if there were any.
    pub fn wait_for_restarts(&self, containers: &BTreeMap<InstanceKey, Container>) -> Result<bool, Error> {
        let restarts = |c: &&Container| c.state.status == "restarting";
        let ids: Vec<String> = containers.values().filter(restarts).map(|c| c.id.clone()).collect();
        wait::until(RETRY_POLL, RESTART_TIMEOUT, &StopSignal::default(), || {
            let now = self.docker.inspect(&ids).map_err(Error::from_error)?;
            Ok::<_, Error>((!now.iter().any(|c| restarts(&c))).then_some(()))
        })?;
        Ok(!ids.is_empty())
    }

    /// Observes the target by containers that were just read.
    pub fn observe_containers(&self, containers: Vec<Container>) -> Result<TargetSnapshot> {
        self.snapshot(containers, &|service, container| match container.is_relay() {
            // A relay that forwards already hides requests in flight, so a new rollout needs another one.
            true => Ok(self.docker.relay_status(&container.id).is_some_and(|s| s.forwarding_to.is_none())),
            false => self.is_ready(service, container),
        })
    }

    fn snapshot(&self, containers: Vec<Container>, is_ready: IsReady) -> Result<TargetSnapshot> {
        let services = self.target.services();
        let is_member_of_target = |c: &Container| is_member(self.project, c, &services);
        let mut members: Vec<Container> = containers.into_iter().filter(is_member_of_target).collect();
        members.sort_by_key(|c| (c.compose().map(|(_, s)| s.to_string()), c.number()));
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

    /// Name of a container without the project. One with a fixed name has the name with which it may be set aside: the key
    /// stays when it is renamed.
    fn key(&self, container: &Container) -> InstanceKey {
        let named = match self.has_fixed_name(container) {
            true => container.clone().named(&container.set_aside_name()),
            false => container.clone(),
        };
        named.short_name(&self.project.name)
    }

    /// The container has the name in the `container_name` of its service, or had it until it was set aside.
    fn has_fixed_name(&self, container: &Container) -> bool {
        let (_, service) = container.compose().expect("only members are observed");
        let fixed = self.project.services[service].container_name.as_deref();
        !container.is_bridge() && fixed == Some(container.fixed_name())
    }

    /// State in the proxies; `None` without a proxy.
    fn traffic(&self, members: &[Container]) -> Result<Option<ProxyTraffic>> {
        let mut traffic = ProxyTraffic::default();
        for proxy in &self.proxies {
            let endpoints = proxy::endpoints(proxy.as_ref(), members.iter());
            let reading = Pursuit::new(self.docker, proxy.as_ref(), Goal::Observed(endpoints)).state()?;
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
        let (_, service) = container.compose().expect("only members are observed");
        let state = InstanceState::read(&container.state.status);
        let generation = self.desired.generation(service, container);
        let runs = state == InstanceState::Running;
        let is_named = !container.is_bridge();
        let ready = match (runs, generation) {
            (false, _) => false,
            (true, _) if container.is_relay() => is_ready(service, container)?,
            // An old instance may not have the health path of a new one.
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
            is_bridge: container.is_bridge(),
            is_set_aside: is_named && container.is_set_aside()
                || self.has_fixed_name(container) && container.name() != container.fixed_name(),
            has_failed: state == InstanceState::Exited && container.has_failed(),
        })
    }

    /// True if an instance answers its readiness probe.
    pub fn is_ready(&self, service: &str, container: &Container) -> Result<bool> {
        self.answers(service, container, probe)
    }

    /// True if an instance that another version of the file made answers a probe.
    pub fn is_ready_of_other_version(&self, service: &str, container: &Container) -> Result<bool> {
        self.answers(service, container, probe_of_other_version)
    }

    fn answers(&self, service: &str, container: &Container, probe: ProbeOf) -> Result<bool> {
        let service = &self.project.services[service];
        let probe = probe(service, container, &self.proxies)?;
        let prober = Prober::new(self.docker, service.settings.timing.timeout)?;
        Ok(prober.probe(&probe, container).is_ok_and(|result| result.ready))
    }
}

/// All proxies of the engine, running or not. The configuration is read only from proxies that share a network with
/// the project, because all others may be another project's.
pub fn detect(docker: &Docker, project: &Project, containers: &[Container]) -> Result<Vec<Arc<dyn Proxy>>> {
    let is_ours = |c: &&Container| c.compose().is_some_and(|(name, _)| name == project.name);
    let of_file = project.services.values().flat_map(|s| s.networks.iter().map(String::as_str));
    let of_running = containers.iter().filter(is_ours).flat_map(Container::networks);
    let networks: BTreeSet<&str> = of_file.chain(of_running).chain(["host"]).collect();
    let named: BTreeSet<&str> =
        project.services.values().filter_map(|s| s.settings.proxy.container.as_deref()).collect();
    let is_near =
        |c: &Container| c.networks().any(|n| networks.contains(n)) || named.iter().any(|n| is_named(c, n));
    let one = |proxy: Box<dyn Proxy>| {
        if proxy.container().is_none_or(is_near) { with_config(docker, proxy) } else { Ok(proxy) }
    };
    let mut found = proxy::detect(containers).into_iter().map(one).collect::<Result<Vec<_>>>()?;
    let listening =
        listening_services(project, containers, |s| is_proxy(project, s, found.iter().map(AsRef::as_ref)));
    found.iter_mut().for_each(|proxy| proxy.learn_services(&listening));
    let mut proxies: Vec<Arc<dyn Proxy>> = found.into_iter().map(Arc::from).collect();
    proxies.extend(published_ports(docker, project, containers, &proxies));
    Ok(proxies)
}

/// True for a service with a container that is a proxy.
fn is_proxy<'p>(
    project: &Project,
    service: &Service,
    proxies: impl IntoIterator<Item = &'p dyn Proxy>,
) -> bool {
    let is_own = |c: &Container| is_member(project, c, &[&service.name]);
    proxies.into_iter().any(|p| !p.routes_nowhere() && p.container().is_some_and(is_own))
}

/// Published ports of services to which no proxy routes, where a stand-in can serve meanwhile.
fn published_ports(
    docker: &Docker,
    project: &Project,
    containers: &[Container],
    proxies: &[Arc<dyn Proxy>],
) -> Vec<Arc<dyn Proxy>> {
    let members = |service: &Service| {
        let name = service.name.clone();
        containers.iter().filter(move |c| is_member(project, c, &[&name]))
    };
    let is_routed = |service: &Service| {
        let coming = backend(project, service);
        let mut backends = members(service).map(Backend::from).chain([coming.clone()]);
        proxy::route_setting(&coming).is_some() || backends.any(|b| proxies.iter().any(|p| p.routes_to(&b)))
    };
    let is_alone = |service: &Service| {
        let is_declared = service.settings.proxy.kind.is_some();
        let is_proxy = || proxy::is_proxy_image(&service.image) || project.pair(&service.name).is_some();
        is_declared || !(is_proxy() || is_routed(service))
    };
    let alone = project.services.values().filter(|s| port::can_have_stand_in(s) && is_alone(s));
    let proxy = |service: &Service| -> Arc<dyn Proxy> {
        let running: Vec<&Container> = members(service).filter(|c| c.is_running()).collect();
        let firewall = port::machine::firewall(docker, running.iter().copied());
        let is_here = firewall.is_ok();
        let port = PublishedPort::new(project, service, firewall);
        let is_owner = |c: &&Container| !c.is_bridge();
        let instance = running.iter().copied().find(is_owner).filter(|c| is_here && needs_port(service, c));
        Arc::new(match instance.and_then(|c| c.addresses().next()) {
            Some(ip) => port.with_protocols(|target| Protocol::at((ip, target).into())),
            None => port,
        })
    };
    alone.map(proxy).collect()
}

/// The readiness probe of a service is a request to a port that nothing names.
fn needs_port(service: &Service, instance: &Container) -> bool {
    match &service.settings.http {
        Some(health) => health.port.is_none(),
        None => instance.healthcheck().is_none(),
    }
}

fn is_named(container: &Container, name: &str) -> bool {
    container.name() == name || container.id.starts_with(name)
}

/// A proxy with its configuration: of the running process, or of the files that a stopped container has.
fn with_config(docker: &Docker, mut proxy: Box<dyn Proxy>) -> Result<Box<dyn Proxy>> {
    if let Some(exec) = proxy.introduction().filter(|_| proxy.is_running()) {
        proxy.learn(&docker.query(&exec.with_limit(CONFIG_TIMEOUT))?);
    } else if let Some(container) = proxy.container().filter(|c| !c.is_running()).cloned() {
        let files = StoppedFiles::new(docker, &container);
        proxy.learn_files(&|path| files.find(path));
    }
    Ok(proxy)
}

/// Running proxies in front of a target, or the one that `x-zd.proxy` names.
///
/// # Errors
/// The named proxy is missing, stopped or of an unknown kind.
pub fn proxies_of(
    docker: &Docker,
    project: &Project,
    target: &Target,
    containers: &[Container],
    all: &[Arc<dyn Proxy>],
) -> Result<Vec<Arc<dyn Proxy>>> {
    let settings = &project.services[target.services()[0]].settings.proxy;
    match (settings.kind.as_deref(), settings.container.as_deref()) {
        (Some("none"), _) => return Ok(Vec::new()),
        (kind, Some(name)) => return Ok(vec![named_proxy(docker, project, name, kind, containers, all)?]),
        _ => {}
    }
    let backends = backends(project, target, containers);
    let is_port = settings.kind.as_deref() == Some(port::KIND);
    let is_in_front = |p: &&Arc<dyn Proxy>| {
        p.is_running() && (!is_port || p.place().is_port()) && backends.iter().any(|b| p.routes_to(b))
    };
    Ok(all.iter().filter(is_in_front).cloned().collect())
}

/// Backends of a target for a proxy's discovery: its containers, and the services of the file.
fn backends(project: &Project, target: &Target, containers: &[Container]) -> Vec<Backend> {
    let services = target.services();
    let members = containers.iter().filter(|c| is_member(project, c, &services));
    let new = services.iter().map(|s| backend(project, &project.services[*s]));
    members.map(Backend::from).chain(new).collect()
}

fn named_proxy(
    docker: &Docker,
    project: &Project,
    name: &str,
    kind: Option<&str>,
    containers: &[Container],
    all: &[Arc<dyn Proxy>],
) -> Result<Arc<dyn Proxy>> {
    let container = containers.iter().find(|c| is_named(c, name));
    let container = container.ok_or_else(|| {
        Error::usage(format!(
            "container `{name}` does not exist (`x-zd.proxy.container` or `--proxy-container`)"
        ))
        .hint("`docker ps` lists the running containers")
        .rule(&"proxy-missing")
    })?;
    if !container.is_running() {
        return Err(Error::unchanged(format!("the proxy `{name}` {}", container.down_state()))
            .hint(container.remedy())
            .rule(&"proxy-down")
            .into());
    }
    if let Some(kind) = kind {
        let mut proxy = with_config(docker, proxy::declared(kind, container)?)?;
        proxy.learn_services(&listening_services(project, containers, |s| {
            is_proxy(project, s, all.iter().map(AsRef::as_ref))
        }));
        return Ok(proxy.into());
    }
    all.iter().find(|p| p.is_in(container)).cloned().ok_or_else(|| {
        Error::usage(format!("`{name}` is not a known proxy"))
            .hint("set its kind with `x-zd.proxy.kind` or `--proxy-kind`")
            .rule(&"unknown-proxy-kind")
            .into()
    })
}

/// Readiness probe for an instance of a service.
///
/// # Errors
/// A service without any probe.
pub fn probe(
    service: &Service,
    container: &Container,
    proxies: &[Arc<dyn Proxy>],
) -> Result<ReadinessProbe, Error> {
    choose_by(service, container, proxies, health::choose_probe)
}

/// Readiness probe for an instance that another version of the file made.
///
/// # Errors
/// A service without any probe.
pub fn probe_of_other_version(
    service: &Service,
    container: &Container,
    proxies: &[Arc<dyn Proxy>],
) -> Result<ReadinessProbe, Error> {
    choose_by(service, container, proxies, health::choose_probe_of_other_version)
}

type ChooseProbe = fn(&str, Option<&HttpHealth>, &Container, ProbeTarget) -> Result<ReadinessProbe, Error>;

fn choose_by(
    service: &Service,
    container: &Container,
    proxies: &[Arc<dyn Proxy>],
    choose: ChooseProbe,
) -> Result<ReadinessProbe, Error> {
    if container.is_relay() {
        return Ok(ReadinessProbe::Healthcheck(relay::status_command()));
    }
    let backend = Backend::from(container);
    let proxy = proxies.iter().find(|p| p.routes_to(&backend));
    let route = proxy.map(|p| p.route_to(&backend)).unwrap_or_default();
    let is_port = proxy.is_some_and(|p| p.place().is_port());
    let port = route.port.map(|port| if is_port { port::port_of(service, container, port) } else { port });
    let target = ProbeTarget {
        routed: proxy.is_some(),
        port,
        host: route.host.as_deref(),
        container: proxy.and_then(|p| p.container()),
        not_http: route.not_http,
        is_other_program: service.is_other_program(),
    };
    choose(&service.name, service.settings.http.as_ref(), container, target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FlagLayers;

    #[test]
    fn a_new_instance_has_every_name_by_which_a_proxy_may_know_its_service() {
        let yaml = "name: p\nservices: {app: {image: a, container_name: shop, networks: {front: {aliases: [web]}}}}\n\
                    networks: {front: {name: p_front}}";
        let project = Project::read(yaml, "compose.yaml", &FlagLayers::default()).unwrap();
        let names = DesiredVersion::default().preview("p", &project.services["app"]).names();
        for name in ["app", "shop", "web", "shop.p_front"] {
            assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
        }
    }
}
