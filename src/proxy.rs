//! Interface of the proxy adapters, and the rotation that they set. An adapter only builds commands for the proxy
//! and parses their output. So tests compare commands by equality, and a dry run prints them.

pub mod apache;
pub mod caddy;
#[cfg(test)]
#[path = "tests/proxy_contract/contract.rs"]
mod contract;
pub mod converge;
pub mod dockercloud;
pub mod effects;
pub mod file_reload;
pub mod haproxy;
pub mod kit;
pub mod nginx;
pub mod nginx_proxy;
pub mod port;
pub mod public_route;
mod tcp_migrate;
pub mod traefik;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::docker::inspect::{BRIDGE, Container, RELAY};
use crate::docker::{CommandResult, Exec};
use crate::error::Error;
use crate::finding::Finding;
pub use effects::{Action, Change, Namespace, Query};
pub use file_reload::{FileReload, ProxyFiles, ReadBy};
use kit::connections::{self, Connection, Judge, Verdict};
use public_route::PublicRoute;

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
    /// Ports of the container, each with an address of the host that leads to it.
    pub published: Vec<(u16, SocketAddr)>,
}

impl Endpoint {
    /// True for a relay, which answers no check of the proxy while it holds requests.
    pub fn is_relay(&self) -> bool {
        self.labels.get(BRIDGE).is_some_and(|kind| kind == RELAY)
    }
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
    /// Addresses of the containers outside the rollouts, for a proxy that [`Abilities::gives_addresses`].
    pub others: BTreeSet<IpAddr>,
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
        published: c.published().collect(),
    };
    routed.map(endpoint).collect()
}

/// Requests that an instance is still answering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InFlight {
    Exact(usize),
    /// `exact` requests by the proxy's own count, and all connections to the instance, busy or idle.
    Connections {
        exact: usize,
        open: Vec<Connection>,
        /// Time for which connections cannot have received a new request, where the kernel's times are not known.
        quiet: Duration,
        /// True if the service is known to have WebSockets or event streams, which may be silent.
        has_streams: bool,
    },
}

impl InFlight {
    /// Requests by a single sample, and true if there may be fewer.
    pub fn at_most(&self) -> (usize, bool) {
        let open = self.judged(&mut Judge::default());
        (open.requests + open.maybe_idle, open.maybe_idle > 0)
    }

    fn judged(&self, judge: &mut Judge) -> OpenRequests {
        let none = OpenRequests { quiet: Duration::MAX, ..OpenRequests::default() };
        match self {
            InFlight::Exact(exact) => OpenRequests { requests: *exact, ..none },
            InFlight::Connections { exact, open, quiet, has_streams } => {
                judged_connections(judge, open, *has_streams, *exact, *quiet)
            }
        }
    }
}

/// The exact requests use some of the connections.
fn judged_connections(
    judge: &mut Judge,
    open: &[Connection],
    has_streams: bool,
    exact: usize,
    quiet: Duration,
) -> OpenRequests {
    let now = Instant::now();
    let verdicts: Vec<Verdict> = open.iter().map(|c| judge.judge(c, has_streams, now)).collect();
    let busy = verdicts.iter().filter(|v| **v == Verdict::Busy).count();
    let silent = |verdict: &Verdict| match verdict {
        Verdict::Unknown(silent) => Some(silent.unwrap_or(quiet)),
        Verdict::Busy | Verdict::Idle => None,
    };
    let unknown = verdicts.iter().filter_map(silent);
    let requests = busy.max(exact);
    let maybe_idle = unknown.clone().count().min(open.len().saturating_sub(requests));
    let quiet = unknown.min().filter(|_| maybe_idle > 0).unwrap_or(Duration::MAX);
    OpenRequests { requests, maybe_idle, quiet, is_sampled: true }
}

/// State of the running proxy for the endpoints of one query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyState {
    /// Ids of the endpoints in rotation.
    pub routed: BTreeSet<String>,
    /// Ids of the endpoints in rotation that get no request, because the proxy's own check of them fails.
    pub failing: BTreeSet<String>,
    /// True if all running processes of the proxy have applied its current configuration.
    pub config_applied: bool,
    /// Requests in flight by endpoint id; a missing endpoint has none.
    pub in_flight: BTreeMap<String, InFlight>,
    /// True if a retired process of the proxy still runs. The process may send a late request to the previous rotation.
    pub has_retired_process: bool,
}

impl ProxyState {
    /// True if the running proxy sends new requests exactly to the instances inside.
    pub fn confirms(&self, rotation: &Rotation) -> bool {
        let routed = |e: &Endpoint| self.routed.contains(&e.id);
        let preexisting = |e: &Endpoint| rotation.preexisting.contains(&e.id);
        let is_as_desired = |e: &Endpoint| {
            if preexisting(e) { routed(e) || e.unhealthy } else { routed(e) && !self.failing.contains(&e.id) }
        };
        self.config_applied
            && rotation.inside.iter().all(is_as_desired)
            && !rotation.outside.iter().any(routed)
    }

    /// Open requests of the instances outside, and connections that may be idle.
    pub fn open_requests(&self, rotation: &Rotation, judge: &mut Judge) -> OpenRequests {
        let counts = rotation.outside.iter().filter_map(|e| self.in_flight.get(&e.id));
        let none = InFlight::Exact(0).judged(judge);
        counts.map(|count| count.judged(judge)).fold(none, OpenRequests::and)
    }
}

/// Requests and connections to the instances that leave the rotation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenRequests {
    pub requests: usize,
    /// Open connections that are idle or carry a request.
    pub maybe_idle: usize,
    /// Time for which these connections cannot have received a new request.
    pub quiet: Duration,
    /// True if connections were judged by a sample, so that a single one does not prove that they are idle.
    pub is_sampled: bool,
}

impl OpenRequests {
    fn and(self, other: OpenRequests) -> OpenRequests {
        OpenRequests {
            requests: self.requests + other.requests,
            maybe_idle: self.maybe_idle + other.maybe_idle,
            quiet: self.quiet.min(other.quiet),
            is_sampled: self.is_sampled || other.is_sampled,
        }
    }

    /// True if no request is in flight, and all open connections have been quiet for the limit.
    pub fn is_drained(&self, limit: Duration) -> bool {
        self.requests == 0 && (self.maybe_idle == 0 || self.quiet >= limit)
    }
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
    pub others: BTreeSet<IpAddr>,
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

    /// Rotation that the proxy has to confirm.
    fn rotation(&self) -> Option<&Rotation> {
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

/// Abilities of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// True if the changes do not depend on the state. They run before the first query, with no answer, and again
    /// from time to time.
    pub is_blind: bool,
    /// True if the changes of a rollout reload the proxy, which then reads its changed files.
    pub reloads: bool,
    /// True if the adapter assigns addresses to servers of the proxy. The adapter must not take a server of another
    /// rollout, or of a container outside all rollouts.
    pub gives_addresses: bool,
    /// Time for which a retired process of the proxy may still accept a request. A drained instance is stopped only
    /// after this time.
    pub late_requests: Duration,
    /// Longest wait for the proxy's own discovery to find the instances.
    pub discovery_timeout: Duration,
    /// Interval at which a reached goal is pursued again, for a proxy whose state expires.
    pub renewal: Option<Duration>,
    /// True if the proxy can send requests to a relay, which answers none of the proxy's own checks.
    pub can_hold: bool,
}

impl Default for Abilities {
    fn default() -> Self {
        Abilities {
            is_blind: false,
            reloads: false,
            gives_addresses: false,
            late_requests: Duration::ZERO,
            discovery_timeout: Duration::from_secs(30),
            renewal: None,
            can_hold: true,
        }
    }
}

/// Facts about a rollout for which a proxy is prepared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RolloutShape {
    /// Value of `x-zd.proxy.tune`: true if a change may stay in the running proxy.
    pub tune: bool,
    /// Number of instances that start at the same time.
    pub starting: usize,
    pub project: String,
    /// Services of the rollout, each with all its DNS names.
    pub services: Vec<(String, Vec<String>)>,
    /// The same services as the proxy's discovery sees them.
    pub backends: Vec<Backend>,
    /// DNS names of the other services of the same run, each of which has its own rotation.
    pub names_in_same_run: Vec<String>,
}

impl RolloutShape {
    pub fn names(&self) -> impl Iterator<Item = &[String]> {
        self.services.iter().map(|(_, names)| names.as_slice())
    }
}

/// File or folder that a container will have as a mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountedFile {
    /// Text of a file; names of the files in a folder, one a line.
    pub text: String,
    pub read_only: bool,
}

/// Lookup of the file that a container will have at a path, by its Compose file.
pub type FileLookup<'a> = &'a dyn Fn(&str) -> Option<MountedFile>;

/// Proxy that does not run yet.
pub struct Planned<'a> {
    pub files: FileLookup<'a>,
    /// Number of instances behind it.
    pub present: usize,
}

/// What a proxy's configuration means for a rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    /// Requirement that the configuration does not meet, with the fix.
    pub refused: Option<Error>,
    pub risks: Vec<Finding>,
    /// Risks that only `check` reports, because they do not affect a deploy.
    pub advice: Vec<Finding>,
}

impl Audit {
    /// Adds a check, unless an earlier one has refused.
    pub fn and(mut self, check: impl FnOnce() -> Result<Vec<Finding>, Error>) -> Audit {
        match self.refused.is_none().then(check) {
            Some(Ok(risks)) => self.risks.extend(risks),
            Some(Err(error)) => self.refused = Some(error),
            None => {}
        }
        self
    }
}

/// Service or container, with the properties by which a proxy's discovery selects its routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backend {
    /// Compose project.
    pub project: String,
    pub service: String,
    /// All DNS names that Docker resolves to the container.
    pub names: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// Network names.
    pub networks: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// Exposed TCP ports.
    pub exposed: Vec<u16>,
    /// True for a running container, false for a future one.
    pub is_running: bool,
}

impl Backend {
    /// Value of an environment variable.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }
}

impl From<&Container> for Backend {
    fn from(container: &Container) -> Self {
        let pairs = container.config.env.iter().filter_map(|e| e.split_once('='));
        let (project, service) = container.compose().unwrap_or_default();
        Backend {
            project: project.into(),
            service: service.into(),
            names: container.names(),
            environment: pairs.map(|(k, v)| (k.into(), v.into())).collect(),
            labels: container.config.labels.clone(),
            networks: container.networks().map(String::from).collect(),
            addresses: container.addresses().collect(),
            exposed: container.exposed_tcp(),
            is_running: container.is_running(),
        }
    }
}

/// Place where a proxy runs.
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "only the toy adapter of the contract uses some of them so far")
)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place<'a> {
    Container(&'a ProxyContainer),
    /// Process on this machine, outside containers.
    HostProcess {
        title: &'a str,
        pid: u32,
    },
    /// Published port of a service, which the engine itself forwards.
    Port {
        title: &'a str,
        service: &'a str,
        /// Reason why this run cannot lead the port to another container.
        obstacle: Option<&'a str>,
    },
}

impl<'a> Place<'a> {
    /// Kind and container name, process or service, for messages.
    pub fn name(&self) -> String {
        match self {
            Place::Container(place) => place.name(),
            Place::HostProcess { title, pid } => format!("{title} (process {pid})"),
            Place::Port { title, service, .. } => format!("{title} of `{service}`"),
        }
    }

    pub fn is_port(self) -> bool {
        matches!(self, Place::Port { .. })
    }

    pub fn container(self) -> Option<&'a Container> {
        match self {
            Place::Container(place) => Some(&place.container),
            Place::HostProcess { .. } | Place::Port { .. } => None,
        }
    }
}

/// Container of a proxy. Its networks decide which instances the proxy can reach.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProxyContainer {
    /// Kind of the proxy, for messages.
    pub title: &'static str,
    pub container: Container,
}

impl ProxyContainer {
    pub fn new(title: &'static str, container: &Container) -> Self {
        ProxyContainer { title, container: container.clone() }
    }

    /// Kind and container name, for messages.
    pub fn name(&self) -> String {
        format!("{} `{}`", self.title, self.container.name())
    }

    /// Script in the container.
    pub fn sh(&self, script: impl Into<String>) -> Exec {
        Exec::sh(&self.container.id, script)
    }

    /// Query for the open connections to endpoints.
    pub fn connections_to(&self, endpoints: &[Endpoint]) -> Query {
        let Container { id, state, .. } = &self.container;
        let of = Namespace::Container { id: id.clone(), pid: state.pid };
        Query::Sockets { of, to: connections::addresses(endpoints) }
    }

    /// Error about the proxy, before anything was changed.
    pub fn refused(&self, why: impl Display, hint: impl Into<String>) -> Error {
        Error::unchanged(format!("{}: {why}", self.name())).hint(hint)
    }

    /// True if the container shares a network with a backend.
    pub fn reaches(&self, backend: &Backend) -> bool {
        backend.networks.iter().any(|n| self.container.networks().any(|own| own == n))
    }

    /// Like [`ProxyContainer::reaches`]; a container on the host's own network reaches all.
    pub fn reaches_via_host(&self, backend: &Backend) -> bool {
        let is_on_host = self.container.networks().any(|own| own == "host");
        self.reaches(backend) || (is_on_host && !backend.networks.is_empty())
    }
}

/// Route of a proxy to a backend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteInfo {
    /// Port that the proxy sends requests to.
    pub port: Option<u16>,
    /// Host name by which the proxy routes to the backend.
    pub host: Option<String>,
    /// True if the proxy sends FastCGI, uwsgi or gRPC, not HTTP.
    pub not_http: bool,
    /// Time after which the proxy gives up on an answer, if its configuration has one.
    pub answer_timeout: Option<Duration>,
    /// Public routes, the simplest first; empty if the proxy's configuration does not name them.
    pub public: Vec<PublicRoute>,
}

/// Proxy in front of some services, with its configuration.
pub trait Proxy: Send + Sync {
    fn place(&self) -> Place<'_>;

    /// Name of the place, for messages.
    fn name(&self) -> String {
        self.place().name()
    }

    /// Container of the proxy, unless it runs outside containers.
    fn container(&self) -> Option<&Container> {
        self.place().container()
    }

    fn is_in(&self, container: &Container) -> bool {
        self.container().is_some_and(|own| own.id == container.id)
    }

    fn is_running(&self) -> bool {
        self.container().is_none_or(Container::is_running)
    }

    /// Address at which the engine's machine reaches a port of the proxy.
    fn published_address(&self, port: u16) -> Option<SocketAddr> {
        self.container()?.published_address(port)
    }

    /// True if the proxy's discovery routes to this backend.
    fn routes_to(&self, backend: &Backend) -> bool;

    /// True if the program may also serve files only, and its configuration routes to no other host.
    fn routes_nowhere(&self) -> bool {
        false
    }

    /// The route to a backend.
    fn route_to(&self, backend: &Backend) -> RouteInfo;

    /// Command that prints the proxy's own configuration; `None` if the settings of the container have it all.
    fn introduction(&self) -> Option<Exec> {
        None
    }

    /// Parses the output of `introduction`.
    fn learn(&mut self, _output: &CommandResult) {}

    /// Requirements and risks of a rollout by the proxy's own configuration: of a running proxy, or of one that does not
    /// run yet.
    fn audit(&self, shape: &RolloutShape, planned: Option<&Planned>) -> Audit;

    /// Reason why the proxy may route to these backends although its configuration does not name them.
    fn doubt(&self, _backends: &[Backend]) -> Option<String> {
        None
    }

    /// Files and folders that may name further backends, beyond the rules of [`Proxy::routes_to`].
    fn route_files(&self) -> Vec<String> {
        Vec::new()
    }

    /// Files that the proxy reads, and how it reads them again after a change.
    fn files(&self) -> ProxyFiles {
        ProxyFiles::default()
    }

    /// Parses the configuration of a proxy that does not run yet. Returns true if these files have the configuration.
    fn learn_files(&mut self, _files: FileLookup) -> bool {
        true
    }

    /// Requests that a prepared proxy will still lose. `answers` are those to the queries of [`Goal::Patched`].
    fn losses(&self, _answers: &[CommandResult], _shape: &RolloutShape) -> Vec<Finding> {
        Vec::new()
    }

    fn abilities(&self) -> Abilities;

    /// Queries for what [`Proxy::advance`] needs for the goal.
    fn queries(&self, goal: &Goal) -> Vec<Query>;

    /// State of the running proxy by the answers to [`Proxy::queries`], and the next step towards the goal.
    ///
    /// # Errors
    /// An answer that cannot be parsed, and a goal that the proxy cannot reach, with the fix.
    fn advance(&self, answers: &[CommandResult], goal: &Goal) -> Result<(ProxyState, Next), Error>;

    /// Query for the reasons why the proxy does not confirm a rotation.
    fn diagnose(&self) -> Query;

    /// Details of the error, from the output of `diagnose`.
    fn diagnosis(&self, output: &CommandResult) -> String {
        output.stderr_or_stdout().into()
    }
}

pub type BoxedProxy = Box<dyn Proxy>;

/// Support for one kind of proxy.
pub struct Adapter {
    pub kind: &'static str,
    /// True if an image name is that of such a proxy.
    pub is_image: fn(&str) -> bool,
    /// Setting by which a service requests a route, also without a running proxy.
    pub route_setting: fn(&Backend) -> Option<&'static str>,
    /// Recognises a container, running or not, among all others.
    pub detect: fn(&Container, &[Container]) -> Option<BoxedProxy>,
    /// Proxy whose kind the user has set.
    pub declared: fn(&Container) -> BoxedProxy,
}

/// All adapters; the first that recognises a container gets it.
pub const ADAPTERS: [Adapter; 7] = [
    nginx_proxy::ADAPTER,
    nginx::ADAPTER,
    apache::ADAPTER,
    dockercloud::ADAPTER,
    haproxy::ADAPTER,
    caddy::ADAPTER,
    traefik::ADAPTER,
];

/// All proxies among these containers, running or not.
pub fn detect(containers: &[Container]) -> Vec<Box<dyn Proxy>> {
    let proxy = |c: &Container| ADAPTERS.iter().find_map(|adapter| (adapter.detect)(c, containers));
    // A pin is made of the image of its proxy.
    containers.iter().filter(|c| !c.is_pin()).filter_map(proxy).collect()
}

fn boxed<P: Proxy + 'static>(proxy: P) -> Box<dyn Proxy> {
    Box::new(proxy)
}

/// Proxy in a container whose kind the user has set.
///
/// # Errors
/// A kind without an adapter.
pub fn declared(kind: &str, container: &Container) -> Result<Box<dyn Proxy>, Error> {
    let adapter = ADAPTERS.iter().find(|a| a.kind == kind).ok_or_else(|| unknown_kind(kind))?;
    Ok((adapter.declared)(container))
}

/// Error for a proxy kind without an adapter.
pub fn unknown_kind(kind: &str) -> Error {
    let kinds: Vec<String> =
        ADAPTERS.iter().map(|a| a.kind).chain([port::KIND, "none"]).map(|k| format!("`{k}`")).collect();
    Error::usage(format!("`x-zd.proxy.kind`: unknown proxy kind `{kind}`"))
        .hint(format!("set `x-zd.proxy.kind` (or `--proxy-kind`) to {}", kinds.join(" or ")))
}

/// True if the image name is that of a proxy with an adapter.
pub fn is_proxy_image(image: &str) -> bool {
    ADAPTERS.iter().any(|adapter| (adapter.is_image)(image))
}

/// Environment variable or labels by which a service requests a route, also without a running proxy.
pub fn route_setting(backend: &Backend) -> Option<&'static str> {
    ADAPTERS.iter().find_map(|adapter| (adapter.route_setting)(backend))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn endpoint(id: &str) -> Endpoint {
        Endpoint { id: id.into(), ..Endpoint::default() }
    }

    #[test]
    fn a_place_outside_containers_has_a_name_and_no_container() {
        let process = Place::HostProcess { title: "nginx", pid: 7 };
        let port = Place::Port { title: "port", service: "app", obstacle: None };
        assert_eq!([process.name(), port.name()], ["nginx (process 7)", "port of `app`"]);
        assert!(process.container().is_none() && port.container().is_none());
    }

    #[test]
    fn a_rotation_is_confirmed_by_exactly_its_set_in_the_running_proxy() {
        let rotation =
            Rotation { inside: vec![endpoint("new")], outside: vec![endpoint("old")], ..Rotation::default() };
        let state = |routed: &[&str], config_applied| ProxyState {
            routed: routed.iter().map(|r| r.to_string()).collect(),
            config_applied,
            ..ProxyState::default()
        };
        assert!(state(&["new"], true).confirms(&rotation));
        assert!(state(&["new", "another service"], true).confirms(&rotation));
        assert!(!state(&["new"], false).confirms(&rotation));
        assert!(!state(&["new", "old"], true).confirms(&rotation));
        assert!(!state(&[], true).confirms(&rotation));
    }

    #[test]
    fn an_unhealthy_instance_that_was_in_rotation_before_is_not_waited_for() {
        let preexisting = BTreeSet::from(["old".to_string()]);
        let unhealthy = Endpoint { unhealthy: true, ..endpoint("old") };
        let inside = |old: Endpoint| Rotation {
            inside: vec![old, endpoint("new")],
            preexisting: preexisting.clone(),
            ..Rotation::default()
        };
        let state = |routed: &[&str], failing: &[&str]| ProxyState {
            routed: routed.iter().map(|r| r.to_string()).collect(),
            failing: failing.iter().map(|f| f.to_string()).collect(),
            config_applied: true,
            ..ProxyState::default()
        };
        assert!(state(&["old", "new"], &["old"]).confirms(&inside(endpoint("old"))));
        assert!(!state(&["old", "new"], &["new"]).confirms(&inside(endpoint("old"))));
        assert!(state(&["new"], &[]).confirms(&inside(unhealthy)));
        assert!(!state(&["new"], &[]).confirms(&inside(endpoint("old"))));
    }

    #[test]
    fn connections_without_a_new_request_for_the_limit_are_not_waited_for() {
        let rotation =
            Rotation { inside: vec![], outside: vec![endpoint("a"), endpoint("b")], ..Rotation::default() };
        let connection = |port| Connection {
            local: SocketAddr::from(([10, 0, 0, 2], port)),
            remote: SocketAddr::from(([10, 0, 0, 3], 3000)),
            traffic: None,
        };
        let quiet = Duration::from_secs(4);
        let open = (0..5).map(connection).collect();
        let connections = InFlight::Connections { exact: 2, open, quiet, has_streams: false };
        let in_flight = [("a".to_string(), connections), ("b".to_string(), InFlight::Exact(1))];
        let state = ProxyState { in_flight: in_flight.into(), ..ProxyState::default() };
        let expected = OpenRequests { requests: 3, maybe_idle: 3, quiet, is_sampled: true };
        assert_eq!(state.open_requests(&rotation, &mut Judge::default()), expected);
        let limit = Duration::from_secs(30);
        let is_drained = |requests, unsure, seconds| {
            let quiet = Duration::from_secs(seconds);
            OpenRequests { requests, maybe_idle: unsure, quiet, is_sampled: false }.is_drained(limit)
        };
        assert!(is_drained(0, 0, 0) && is_drained(0, 3, 30));
        assert!(!is_drained(1, 0, 30) && !is_drained(0, 3, 29));
    }

    #[test]
    fn an_unknown_kind_of_proxy_is_refused_with_the_kinds_there_are() {
        let error = declared("envoy", &Container::default()).err().unwrap();
        assert!(ADAPTERS.iter().all(|a| error.to_string().contains(&format!("`{}`", a.kind))), "{error}");
    }
}
