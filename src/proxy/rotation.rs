//! Rotation that a proxy has to set: its instances, the goals of a rollout, and the next step towards one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use super::{Backend, Change, Proxy, RolloutShape};
use crate::docker::Exec;
use crate::docker::inspect::{BRIDGE, Container, RELAY};

/// Instance or other container to which a proxy routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Full container id.
    pub id: String,
    /// Container name, which Docker's DNS resolves once the container has started.
    pub name: String,
    /// All DNS names that Docker resolves to the container.
    pub names: Vec<String>,
    /// Compose service, which is also a DNS name of the container.
    pub service: String,
    /// Addresses on the networks that the container shares with the proxy; empty before it starts.
    pub addresses: Vec<IpAddr>,
    /// Port that the proxy sends requests to.
    pub port: Option<u16>,
    pub labels: BTreeMap<String, String>,
    /// True if the container runs and its healthcheck reports `unhealthy` or `starting`.
    pub unhealthy: bool,
    /// First process, by its number on the engine's machine; 0 if the container does not run.
    pub pid: u32,
    /// Last start, by the engine's clock; `None` if the container never started.
    pub started: Option<SystemTime>,
    /// Ports of the container, each with an address of the host that leads to it.
    pub published: Vec<(u16, SocketAddr)>,
}

impl Endpoint {
    /// True for a relay, which answers no check of the proxy while it holds requests.
    pub fn is_relay(&self) -> bool {
        self.labels.get(BRIDGE).is_some_and(|kind| kind == RELAY)
    }
}

/// DNS names of containers, by address.
pub type OtherContainers = BTreeMap<IpAddr, Vec<String>>;

/// Addresses and names of containers.
pub fn other_containers<'c>(containers: impl Iterator<Item = &'c Container>) -> OtherContainers {
    let mut all = OtherContainers::new();
    for container in containers {
        let names = container.names();
        container.addresses().for_each(|address| all.entry(address).or_default().extend(names.clone()));
    }
    all
}

/// Desired rotation of a proxy: the instances to which it must send new requests, and the instances to which it must not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rotation {
    pub inside: Vec<Endpoint>,
    pub outside: Vec<Endpoint>,
    /// Ids of the instances inside that were in rotation before. A switch does not wait for those that are unhealthy.
    pub preexisting: BTreeSet<String>,
    /// True if the instances that get requests fail. The proxy then has to admit the instances inside at once, even
    /// if it cannot drop the instances outside.
    pub urgent: bool,
    /// Ids of the instances outside whose process has ended.
    pub exited: BTreeSet<String>,
    /// Containers outside the rollouts, for a proxy that [`super::Abilities::gives_addresses`].
    pub others: OtherContainers,
    /// True if something else has replaced instances. A proxy that keeps addresses, and cannot tell them, then has to
    /// look all names up again.
    pub may_be_stale: bool,
}

impl Rotation {
    pub fn all(&self) -> Vec<Endpoint> {
        [&self.inside[..], &self.outside[..]].concat()
    }

    /// Instances outside whose process has ended.
    pub fn exited_endpoints(&self) -> Vec<Endpoint> {
        self.outside.iter().filter(|e| self.exited.contains(&e.id)).cloned().collect()
    }
}

/// Endpoints of the containers to which the proxy routes.
pub fn endpoints<'c>(proxy: &dyn Proxy, containers: impl Iterator<Item = &'c Container>) -> Vec<Endpoint> {
    let routed = containers.filter(|c| proxy.routes_to(&Backend::from(*c)));
    let endpoint = |c: &Container| Endpoint {
        id: c.id.clone(),
        name: c.name().into(),
        names: c.names(),
        service: c.compose().map(|(_, service)| service.to_string()).unwrap_or_default(),
        addresses: proxy
            .container()
            .map_or_else(|| c.addresses().collect(), |own| c.addresses_reached_from(own)),
        port: proxy.route_to(&Backend::from(c)).port,
        labels: c.config.labels.clone(),
        unhealthy: c.is_unhealthy(),
        pid: c.state.pid,
        started: c.started(),
        published: c.published().collect(),
    };
    routed.map(endpoint).collect()
}

/// Desired state of a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Goal {
    /// No change; only the state of these endpoints is read.
    Observed(Vec<Endpoint>),
    /// The proxy is prepared, so that its rotation can be set.
    Patched(RolloutShape),
    /// The instances outside, which have not started yet, get no request when they start.
    Gated(Rotation),
    /// New requests go to exactly the instances inside.
    Rotation(Rotation),
    /// The proxy's own discovery has the route again, without marks of these endpoints and of removed containers.
    HandedBack(Discovery),
}

/// Instances that a proxy's own discovery has to find.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discovery {
    pub endpoints: Vec<Endpoint>,
    /// Ids of all containers of the engine.
    pub existing: Vec<String>,
    /// See [`Rotation::others`].
    pub others: OtherContainers,
}

impl Goal {
    /// All endpoints whose state matters.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        match self {
            Goal::Observed(endpoints) => endpoints.clone(),
            Goal::Patched(_) => Vec::new(),
            Goal::Gated(rotation) | Goal::Rotation(rotation) => rotation.all(),
            Goal::HandedBack(discovery) => discovery.endpoints.clone(),
        }
    }

    /// True if the next step depends on the proxy's state.
    pub fn needs_state(&self) -> bool {
        !matches!(self, Goal::Patched(_) | Goal::HandedBack(_))
    }

    /// True if a proxy that keeps addresses may have others than those of the instances.
    pub fn may_be_stale(&self) -> bool {
        self.rotation().is_some_and(|rotation| rotation.may_be_stale)
    }

    /// Rotation that the proxy has to confirm.
    pub(super) fn rotation(&self) -> Option<&Rotation> {
        match self {
            Goal::Rotation(rotation) => Some(rotation),
            _ => None,
        }
    }
}

/// Next step towards a goal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// The goal is reached. Only the state decides on [`Goal::Rotation`].
    Done,
    /// The proxy has to act first.
    Wait,
    Run(Vec<Change>),
    /// The goal is reached once these have run.
    Finish(Vec<Change>),
}

impl Next {
    pub fn run(exec: Exec) -> Next {
        Next::Run(vec![exec.into()])
    }

    pub fn finish(exec: Exec) -> Next {
        Next::Finish(vec![exec.into()])
    }

    /// Runs the command if there is one, and else waits.
    pub fn run_or_wait(exec: Option<Exec>) -> Next {
        exec.map_or(Next::Wait, Next::run)
    }

    pub fn changes(&self) -> &[Change] {
        match self {
            Next::Run(changes) | Next::Finish(changes) => changes,
            Next::Done | Next::Wait => &[],
        }
    }
}
