//! Adapter for a published port without any proxy: rules of the machine's firewall lead new connections to a stand-in
//! while the owner of the port is replaced. Without rules they lead to the owner.

pub mod firewall;
pub mod machine;
#[cfg(test)]
mod properties;
pub mod protocol;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::{
    Abilities, Action, Audit, Backend, Change, Endpoint, Goal, InFlight, Namespace, Next, Place, Planned,
    Proxy, ProxyState, Query, RolloutShape, RouteInfo,
};
use crate::docker::CommandResult;
use crate::docker::inspect::{BRIDGE, Container};
use crate::error::Error;

use crate::model::{Order, Project, Service};
use crate::proxy::kit::connections::{self, Connection};
use crate::proxy::public_route::PublicRoute;
use firewall::{Firewall, Forward, Listings, owner_of};
use protocol::Protocol;

/// Kind of this adapter in `x-zd.proxy.kind`.
pub const KIND: &str = "port";

/// Ports of containers that speak TLS.
const TLS_PORTS: [u16; 2] = [443, 8443];

/// Published port of a service.
pub struct PublishedPort {
    title: String,
    project: String,
    service: String,
    /// Start of the comment of each rule.
    owner: String,
    /// Forwards, the one for readiness probes first.
    forwards: Vec<Forward>,
    /// Protocol of each port of the container, as far as a running instance has told it.
    protocols: BTreeMap<u16, Protocol>,
    /// The machine's firewall, or the reason why it cannot be used.
    firewall: Result<Firewall, String>,
}

impl PublishedPort {
    pub fn new(project: &Project, service: &Service, firewall: Result<Firewall, String>) -> PublishedPort {
        let forwards = forwards(service);
        let ports: Vec<String> = forwards.iter().map(|f| f.published.to_string()).collect();
        PublishedPort {
            title: format!("published port {}", ports.join(", ")),
            project: project.name.clone(),
            service: service.name.clone(),
            owner: format!("compose-zd {}/{}", project.name, service.name),
            forwards,
            protocols: BTreeMap::new(),
            firewall,
        }
    }

    /// Takes the protocols of the ports into account, by the port of a running instance.
    #[must_use]
    pub fn with_protocols(mut self, protocol: impl Fn(u16) -> Protocol) -> PublishedPort {
        let targets = self.forwards.iter().map(|f| f.target);
        self.protocols = targets.collect::<BTreeSet<u16>>().into_iter().map(|t| (t, protocol(t))).collect();
        self.forwards.sort_by_key(|f| self.protocols[&f.target]);
        self
    }

    fn speaks_other(&self, forward: &Forward) -> bool {
        self.protocols.get(&forward.target) == Some(&Protocol::Other)
    }

    /// Error of a change without the right to it. The preflight refuses such a deploy before.
    fn refusal(&self, reason: &str) -> Error {
        Error::unchanged(format!(
            "the {} of `{}` cannot be led to a stand-in: {reason}",
            self.title, self.service
        ))
    }

    fn leads_to(&self, firewall: &Firewall, listings: &Listings, endpoint: &Endpoint) -> bool {
        is_bridge(endpoint)
            && runs(endpoint)
            && firewall.leads_to(listings, &self.forwards, &self.owner, endpoint)
    }

    fn state(&self, firewall: &Firewall, answers: &Answers, endpoints: &[Endpoint]) -> ProxyState {
        let bridges: Vec<&Endpoint> =
            endpoints.iter().filter(|e| self.leads_to(firewall, &answers.listings, e)).collect();
        let owners = endpoints.iter().filter(|e| !is_bridge(e) && runs(e));
        let routed = if bridges.is_empty() { owners.collect() } else { bridges.clone() };
        // Rules for a part of the clients do not count.
        let changes = firewall.changes(&answers.listings, self.rules(), bridges.first().copied());
        ProxyState {
            routed: routed.into_iter().map(|e| e.id.clone()).collect(),
            config_applied: changes.is_empty(),
            in_flight: answers.in_flight.clone(),
            ..ProxyState::default()
        }
    }

    fn rules(&self) -> (&str, &[Forward]) {
        (&self.owner, &self.forwards)
    }

    fn next(&self, firewall: &Firewall, listings: &Listings, goal: &Goal) -> Next {
        match goal {
            Goal::Rotation(rotation) => {
                let has_owner = rotation.inside.iter().any(|e| !is_bridge(e) && runs(e));
                let bridge = rotation.inside.iter().find(|e| !has_owner && is_bridge(e) && runs(e));
                if bridge.is_none() && !has_owner {
                    Next::Wait
                } else {
                    self.lead(firewall, listings, bridge)
                }
            }
            Goal::HandedBack(discovery) => {
                let all = &discovery.endpoints;
                let has_owner = all.iter().any(|e| !is_bridge(e) && runs(e));
                let bridge = all.iter().find(|e| !has_owner && self.leads_to(firewall, listings, e));
                match self.lead(firewall, listings, bridge) {
                    Next::Run(changes) => Next::Finish(changes),
                    next => next,
                }
            }
            Goal::Observed(_) | Goal::Patched(_) | Goal::Gated(_) => Next::Done,
        }
    }

    /// Leads new connections to a bridge, or to the owner. A guard that outlives this run removes the rules when the
    /// bridge ends, so it starts before the first rule.
    fn lead(&self, firewall: &Firewall, listings: &Listings, bridge: Option<&Endpoint>) -> Next {
        let mut changes = firewall.changes(listings, self.rules(), bridge);
        if changes.is_empty() {
            return Next::Done;
        }
        let unguarded = bridge.filter(|to| !Firewall::has_rules(listings, &owner_of(&self.owner, to)));
        if let Some(bridge) = unguarded {
            changes.insert(0, self.guard(firewall, bridge));
        }
        Next::Run(changes)
    }

    fn guard(&self, firewall: &Firewall, bridge: &Endpoint) -> Change {
        let (owner, pid) = (owner_of(&self.owner, bridge), bridge.pid.to_string());
        let words = ["__helper", "guard-port", "--owner", &owner, "--pid", &pid, &firewall.v4];
        let words = words.into_iter().chain(firewall.v6.as_deref()).map(String::from);
        Action::Detached(words.collect()).into()
    }
}

fn is_bridge(endpoint: &Endpoint) -> bool {
    endpoint.labels.contains_key(BRIDGE)
}

fn runs(endpoint: &Endpoint) -> bool {
    !endpoint.addresses.is_empty()
}

/// Parsed answers to the queries.
struct Answers<'a> {
    listings: Listings<'a>,
    in_flight: BTreeMap<String, InFlight>,
}

impl PublishedPort {
    fn parse<'a>(
        &self,
        firewall: &Firewall,
        answers: &'a [CommandResult],
        endpoints: &[Endpoint],
    ) -> Answers<'a> {
        let count = firewall.list_commands().len().min(answers.len());
        let (listings, connections) = answers.split_at(count);
        let listings: Vec<&str> = listings.iter().map(|answer| answer.stdout.as_str()).collect();
        let running = endpoints.iter().filter(|e| runs(e));
        let in_flight =
            running.zip(connections.chunks(2)).map(|(e, answers)| (e.id.clone(), open_connections(answers)));
        Answers { listings: Listings::new(&listings), in_flight: in_flight.collect() }
    }
}

/// Connections of clients to an instance. Those from this machine, also by the engine's own program, have the kernel's
/// times of their client's side. All others are only known at the instance, where idle and busy ones look alike.
fn open_connections(answers: &[CommandResult]) -> InFlight {
    let mut open = connections::parse(answers.first());
    let accepted = connections::parse(answers.get(1)).into_iter();
    let elsewhere: Vec<Connection> =
        accepted.filter(|accepted| !open.iter().any(|c| c.local == accepted.remote)).collect();
    open.extend(elsewhere.into_iter().map(|c| Connection { traffic: None, ..c }));
    InFlight::Connections { exact: 0, open, quiet: Duration::ZERO, has_streams: false }
}

impl Proxy for PublishedPort {
    fn place(&self) -> Place<'_> {
        let obstacle = self.firewall.as_ref().err().map(String::as_str);
        Place::Port { title: &self.title, service: &self.service, obstacle }
    }

    fn routes_to(&self, backend: &Backend) -> bool {
        backend.project == self.project && backend.service == self.service
    }

    fn route_to(&self, _backend: &Backend) -> RouteInfo {
        let public = |f: &Forward| PublicRoute::at(f.published, TLS_PORTS.contains(&f.target));
        let is_public = |f: &&Forward| TLS_PORTS.contains(&f.target) || !self.speaks_other(f);
        RouteInfo {
            port: self.forwards.first().map(|f| f.target),
            not_http: self.forwards.first().is_some_and(|f| self.speaks_other(f)),
            public: self.forwards.iter().filter(is_public).map(public).collect(),
            ..RouteInfo::default()
        }
    }

    fn published_address(&self, port: u16) -> Option<SocketAddr> {
        self.forwards.iter().find(|f| f.published == port).map(Forward::address)
    }

    fn audit(&self, _shape: &RolloutShape, _planned: Option<&Planned>) -> Audit {
        Audit::default()
    }

    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    fn queries(&self, goal: &Goal) -> Vec<Query> {
        let Ok(firewall) = &self.firewall else { return Vec::new() };
        let ports: Vec<u16> = self.forwards.iter().map(|f| f.target).collect();
        let endpoints = goal.endpoints();
        let running = endpoints.iter().filter(|e| runs(e));
        let connections = running.flat_map(|e| {
            let here = Namespace::Process(std::process::id());
            [
                Query::Sockets { of: here, to: connections::remotes(e, &ports) },
                Query::Accepted { pid: e.pid, ports: ports.clone() },
            ]
        });
        firewall.list_commands().into_iter().map(Query::Host).chain(connections).collect()
    }

    fn advance(&self, answers: &[CommandResult], goal: &Goal) -> Result<(ProxyState, Next), Error> {
        // Without the right to change it, the port leads to its owner.
        let none = Firewall::default();
        let firewall = match (&self.firewall, goal) {
            (Ok(firewall), _) => firewall,
            (Err(_), Goal::Observed(_) | Goal::HandedBack(_)) => &none,
            (Err(reason), _) => return Err(self.refusal(reason)),
        };
        let endpoints = goal.endpoints();
        let answers = self.parse(firewall, answers, &endpoints);
        let state = self.state(firewall, &answers, &endpoints);
        Ok((state, self.next(firewall, &answers.listings, goal)))
    }

    fn diagnose(&self) -> Query {
        let command = self.firewall.as_ref().ok().and_then(|f| f.list_commands().into_iter().next());
        Query::Host(command.unwrap_or_else(|| vec!["true".into()]))
    }
}

/// Fixed TCP ports of a service.
pub fn forwards(service: &Service) -> Vec<Forward> {
    let forward = |port: &crate::model::Port| {
        let published = port.fixed()?;
        let ip = port.host_ip.as_ref().and_then(|ip| ip.parse().ok());
        let ip = ip.filter(|ip: &std::net::IpAddr| !ip.is_unspecified());
        (port.protocol() == "tcp").then_some(Forward { ip, published, target: port.target })
    };
    service.ports.iter().filter_map(forward).collect()
}

/// Port of an instance behind the host port that the file leads to this port. An instance of another version may listen
/// elsewhere.
pub fn port_of(service: &Service, instance: &Container, target: u16) -> u16 {
    let published: Vec<u16> =
        forwards(service).iter().filter(|f| f.target == target).map(|f| f.published).collect();
    let of_instance = instance.published().find(|(_, address)| published.contains(&address.port()));
    of_instance.map_or(target, |(port, _)| port)
}

/// True if a stand-in or a relay can serve for the published TCP ports of a service, as far as their number and data go.
/// Other keys that keep a second instance from starting have findings of their own.
pub fn can_have_stand_in(service: &Service) -> bool {
    let kind = service.settings.proxy.kind.as_deref();
    let is_wanted = kind == Some(KIND);
    let holds = service.hold_cause(&service.update).is_some();
    let is_open = kind.is_none()
        && service.settings.proxy.container.is_none()
        && (holds || service.single_writer().is_none());
    (is_wanted || is_open)
        && !forwards(service).is_empty()
        && service.network_mode.as_ref().is_none_or(|mode| mode == "bridge")
        && !service.starts_by_compose
        && service.replicas().is_none_or(|n| n == 1)
        && (holds || service.update.order != Some(Order::StopFirst))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FlagLayers;

    #[test]
    fn a_port_is_led_elsewhere_where_two_instances_may_run_or_requests_may_wait() {
        let can = |keys: &str| {
            let port = "ports: [{target: 80, published: '80', protocol: tcp}]";
            let yaml = format!("name: p\nservices: {{app: {{image: app, {port}, {keys}}}}}");
            let project = Project::read(&yaml, "compose.yaml", &FlagLayers::default()).unwrap();
            can_have_stand_in(&project.services["app"])
        };
        let sqlite = "volumes: [{type: volume, source: v, target: /data/app.sqlite3}]";
        let postgres = "volumes: [{type: volume, source: v, target: /var/lib/postgresql/data}]";
        assert!(can("") && can(sqlite) && can("deploy: {update_config: {order: stop-first}}"));
        assert!(!can(postgres));
        let no_hold = "x-zd: {hold: 0s}, deploy: {update_config: {order: stop-first}}";
        assert!(!can(no_hold) && !can(&format!("{sqlite}, x-zd: {{hold: 0s}}")));
    }

    #[test]
    fn readiness_asks_the_first_port_that_speaks_http() {
        let ports = [2222, 3000, 4000].map(|n| format!("{{target: {n}, published: '{n}', protocol: tcp}}"));
        let yaml = format!("name: p\nservices: {{app: {{image: app, ports: [{}]}}}}", ports.join(", "));
        let project = Project::read(&yaml, "compose.yaml", &FlagLayers::default()).unwrap();
        let route = |protocols: [Protocol; 3]| {
            let port = PublishedPort::new(&project, &project.services["app"], Err(String::new()));
            let route =
                port.with_protocols(|n| protocols[usize::from(n / 1000 - 2)]).route_to(&Backend::default());
            (route.port.unwrap(), route.not_http, route.public.len())
        };
        use Protocol::{Closed, Http, Other, Unknown};
        assert_eq!(route([Other, Http, Http]), (3000, false, 2));
        assert_eq!(route([Unknown, Closed, Http]), (4000, false, 3));
        assert_eq!(route([Other, Unknown, Closed]), (3000, false, 2));
        assert_eq!(route([Closed, Other, Other]), (3000, true, 1));
        assert_eq!(route([Closed; 3]), (2222, false, 3));
    }
}
