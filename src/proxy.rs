//! Interface of the proxy adapters. An adapter only builds commands for the proxy and parses their output. So tests
//! compare commands by equality, and a dry run prints them.

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
mod place;
pub mod port;
pub mod public_route;
mod rotation;
mod state;
mod tcp_migrate;
pub mod traefik;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;

use crate::docker::inspect::Container;
use crate::docker::{CommandResult, Exec};
use crate::error::Error;
use crate::finding::Finding;
pub use effects::{Action, Change, Namespace, Query};
pub use file_reload::{FileReload, ProxyFiles, ReadBy};
pub use place::{Place, ProxyContainer};
use public_route::PublicRoute;
pub use rotation::{Discovery, Endpoint, Goal, Next, OtherContainers, Rotation, endpoints, other_containers};
pub use state::{InFlight, OpenRequests, ProxyState};

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
    /// Number of instances in rotation at the end.
    pub serving: usize,
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

/// Service of the project with a TCP port and no data store. A proxy may route to it without a setting of the service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListeningService {
    pub project: String,
    pub service: String,
    /// Most likely a web service that clients reach by a proxy.
    pub is_web: bool,
    /// Labels in the file, which running instances may not have yet.
    pub labels: BTreeMap<String, String>,
    /// Container of its proxy, by `x-zd.proxy.container`.
    pub proxy: Option<String>,
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

/// Route that a proxy gives to a service without a setting of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultRoute {
    /// Requests that match it, if known: `Host(`app-shop`)`.
    pub rule: Option<String>,
    /// Setting of the proxy that defines the route.
    pub cause: &'static str,
    /// Settings of the service by which a deploy keeps the route, or the proxy drops it.
    pub hint: String,
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

    /// Services that a proxy's discovery may route to without a setting of theirs.
    fn learn_services(&mut self, _services: &[ListeningService]) {}

    /// Route to a backend that a rollout leaves as it is, because most likely no client uses it.
    fn default_route(&self, _backend: &Backend) -> Option<DefaultRoute> {
        None
    }

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

    /// Details of the error about a rotation of these instances, from the output of `diagnose`.
    fn diagnosis(&self, output: &CommandResult, _endpoints: &[Endpoint]) -> String {
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
    use super::*;

    #[test]
    fn an_unknown_kind_of_proxy_is_refused_with_the_kinds_there_are() {
        let error = declared("envoy", &Container::default()).err().unwrap();
        assert!(ADAPTERS.iter().all(|a| error.to_string().contains(&format!("`{}`", a.kind))), "{error}");
    }
}
