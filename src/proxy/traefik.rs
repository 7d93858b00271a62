//! Traefik with its docker provider. Where Traefik also watches a directory of routes, an override file of ours
//! controls the route during a rollout. Otherwise its own discovery controls the route, and compose-zd only
//! watches it through the API.

mod checks;
mod constraints;
mod cookie;
mod labels;
mod override_file;
mod public_route;
mod scripts;
mod state;
mod static_config;
mod version_check;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::kit::sockets;
use super::{
    Abilities, Adapter, Audit, Backend, Change, Endpoint, FileLookup, Goal, InFlight, Next, Place, Planned,
    Proxy, ProxyContainer, ProxyState, Query, RolloutShape, Rotation, RouteInfo, boxed,
};
use crate::docker::inspect::Container;
use crate::docker::{CommandResult, Exec};
use crate::error::Error;
use crate::finding::Finding;
use labels::{HttpLabels, Labels};
use scripts::OverrideFile;
use state::TraefikState;
use static_config::TraefikStaticConfig;
use version_check::{Api, VersionCheck};

/// A middleware may delay a request for a moment and then send it to the previous route.
const LATE_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// Longest delay of Traefik's discovery, in addition to its throttle duration.
const DISCOVERY_DELAY: Duration = Duration::from_secs(2);

/// A foreign server that discovery still has after this time is not a stopped instance, but another server with
/// the same route.
const OTHER_SERVERS_WAIT: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, PartialEq)]
pub struct Traefik {
    place: ProxyContainer,
    config: TraefikStaticConfig,
    /// Query for the version of our file that is in force.
    version_check: Option<VersionCheck>,
    /// The API, where it needs no password.
    api: Option<Api>,
    /// HTTP client in the image.
    tool: Option<String>,
}

pub const ADAPTER: Adapter = Adapter {
    kind: "traefik",
    is_image,
    route_setting: |backend| requests_route(&backend.labels).then_some("the labels `traefik.…`"),
    detect: |container, _| detect(container).map(boxed),
    declared: |container| boxed(Traefik::new(container)),
};

/// The official image, a derived one, or a container whose process is traefik.
pub fn detect(container: &Container) -> Option<Traefik> {
    let is_traefik_flag = |word: &String| {
        let flag = word.to_lowercase();
        ["--providers.", "--entrypoints."].iter().any(|start| flag.starts_with(start))
    };
    let is_process = container.args.iter().any(is_traefik_flag)
        || container.programs().any(|program| program == "traefik");
    let is_derived =
        container.label("org.opencontainers.image.source") == Some("https://github.com/traefik/traefik");
    (is_image(&container.config.image) || is_derived || is_process).then(|| Traefik::new(container))
}

/// `traefik`, from any registry; not `traefik/whoami`.
pub fn is_image(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or("");
    name.split([':', '@']).next() == Some("traefik")
}

/// The labels request a route from Traefik.
pub fn requests_route(labels: &Labels) -> bool {
    match labels::enabled(labels) {
        Some(enabled) => enabled,
        None => labels::mention_a_route(labels),
    }
}

/// Host and path of a request that matches a router of these labels; none where their rules need more.
pub fn request_from_labels(labels: &Labels) -> Option<(Option<String>, String)> {
    HttpLabels::parse(labels).rules().find_map(public_route::request)
}

impl Traefik {
    pub fn new(container: &Container) -> Self {
        let mut traefik = Traefik {
            place: ProxyContainer::new("traefik", container),
            config: TraefikStaticConfig::default(),
            version_check: None,
            api: None,
            tool: None,
        };
        traefik.configure(TraefikStaticConfig::read(container, None));
        traefik
    }

    fn configure(&mut self, settings: TraefikStaticConfig) {
        (self.version_check, self.api) = (VersionCheck::find(&settings), Api::without_password(&settings));
        self.config = settings;
    }

    fn has_route_directory(&self) -> bool {
        self.config.directory().is_some()
    }

    /// The docker provider's constraints accept a backend; none where they cannot be evaluated.
    fn matches_constraints(&self, backend: &Backend) -> Option<bool> {
        let mut labels = backend.labels.clone();
        labels.insert("com.docker.compose.project".into(), backend.project.clone());
        labels.insert("com.docker.compose.service".into(), backend.service.clone());
        constraints::matches(self.config.constraints(), &labels)
    }

    /// Our override file, and the query for its version.
    fn override_file<'a>(&'a self, name: &'a str) -> Option<(OverrideFile<'a>, &'a VersionCheck)> {
        let directory = self.config.directory()?;
        Some((OverrideFile { directory, name }, self.version_check.as_ref()?))
    }

    /// The API, and the host by which it answers.
    fn api(&self, name: &str) -> Option<(Api, String)> {
        let without_password = self.api.clone().map(|api| (api, "localhost".into()));
        let via_file = || {
            Some((
                Api::via_override_file(&self.config, self.version_check.as_ref()?)?,
                override_file::check_host(name),
            ))
        };
        without_password.or_else(|| via_file().filter(|_| self.has_route_directory()))
    }

    fn parse_state(&self, output: &CommandResult) -> Result<TraefikState, Error> {
        let state = TraefikState::parse(&output.stdout).filter(|s| self.has_route_directory() || s.has_api);
        state.ok_or_else(|| {
            Error::unchanged(format!("{}: cannot read its routes", self.name()))
                .detail(output.stderr_or_stdout())
        })
    }

    /// Command that writes the override file for a rotation, unless it is written already.
    fn pin_command(&self, state: &TraefikState, rotation: &Rotation) -> Option<Exec> {
        let text = override_file::file_text(&self.config, self.version_check.as_ref()?, rotation)?;
        let name = override_file::name(&rotation.all())?;
        let (file, _) = self.override_file(&name)?;
        (state.file.as_deref() != Some(&text)).then(|| {
            let exec = self.place.sh(scripts::write_script(&file, &sockets::remotes(&rotation.all())));
            Exec { stdin: Some(text), ..exec }
        })
    }

    /// Ids of the endpoints that get requests, by our file or by Traefik's own discovery.
    fn routed(&self, state: &TraefikState, endpoints: &[Endpoint]) -> BTreeSet<String> {
        let servers = match &state.file {
            Some(file) => Some(override_file::servers(file)),
            None => state.discovered().filter(|_| !self.has_route_directory()),
        };
        let is_routed = |e: &&Endpoint| match &servers {
            Some(servers) => e.addresses.iter().any(|a| servers.contains(a)),
            None => !e.addresses.is_empty() && !e.unhealthy,
        };
        endpoints.iter().filter(is_routed).map(|e| e.id.clone()).collect()
    }

    /// Progress of Traefik's own discovery towards exactly the servers of our file.
    fn discovery_state(&self, state: &TraefikState, file: &str, endpoints: &[Endpoint]) -> DiscoveryState {
        let servers = override_file::servers(file);
        let inside = with_addresses(endpoints, &servers);
        if inside.is_empty() && !servers.is_empty() {
            return DiscoveryState::CaughtUp; // the file has no running server
        }
        if inside.iter().any(|e| e.unhealthy) {
            return DiscoveryState::Behind;
        }
        match state.discovered() {
            Some(found) if !discovery_matches(state, &found, &inside, endpoints) => DiscoveryState::Behind,
            Some(found) if found.len() <= inside.len() => DiscoveryState::CaughtUp,
            Some(_) => after_wait(state, OTHER_SERVERS_WAIT),
            None => after_wait(state, self.config.throttle().saturating_add(DISCOVERY_DELAY)),
        }
    }
}

/// Progress of Traefik's own discovery.
enum DiscoveryState {
    CaughtUp,
    Behind,
    /// Nothing shows the progress, so compose-zd waits for the longest delay.
    Unknown,
}

fn after_wait(state: &TraefikState, limit: Duration) -> DiscoveryState {
    match state.waited() {
        None => DiscoveryState::Unknown,
        Some(waited) if waited >= limit => DiscoveryState::CaughtUp,
        Some(_) => DiscoveryState::Behind,
    }
}

/// Discovery has found exactly the instances inside, of all endpoints, and routes to them.
fn discovery_matches(
    state: &TraefikState,
    found: &BTreeSet<IpAddr>,
    inside: &[&Endpoint],
    endpoints: &[Endpoint],
) -> bool {
    let routers = inside.first().map(|e| HttpLabels::parse(&e.labels).router_names()).unwrap_or_default();
    with_addresses(endpoints, found) == inside && state.are_used_by(&routers)
}

/// Endpoints that have one of these addresses.
fn with_addresses<'a>(endpoints: &'a [Endpoint], addresses: &BTreeSet<IpAddr>) -> Vec<&'a Endpoint> {
    endpoints.iter().filter(|e| e.addresses.iter().any(|a| addresses.contains(a))).collect()
}

impl Proxy for Traefik {
    fn place(&self) -> Place<'_> {
        Place::Container(&self.place)
    }

    /// Backends that request a route and that Traefik accepts. With `exposedByDefault` Traefik routes to
    /// everything with a port; only backends whose labels name a route count.
    fn routes_to(&self, backend: &Backend) -> bool {
        let is_proxy = self.place.container.compose() == Some((&backend.project, &backend.service));
        let enabled = labels::enabled(&backend.labels);
        let has_labels = enabled == Some(true) || labels::mention_a_route(&backend.labels);
        let is_exposed = enabled.unwrap_or(self.config.exposes_by_default());
        let is_accepted = || self.matches_constraints(backend) != Some(false);
        let requests_route = self.config.has("providers.docker") && has_labels && is_exposed;
        requests_route && !is_proxy && is_accepted() && self.place.reaches_via_host(backend)
    }

    fn route_to(&self, backend: &Backend) -> RouteInfo {
        let http = HttpLabels::parse(&backend.labels);
        let default = labels::default_rule(self.config.default_rule(), &backend.labels);
        RouteInfo {
            port: http.port().or(backend.exposed.first().copied()),
            host: http.rules().find_map(labels::host).or_else(|| labels::host(&default?)),
            not_http: false,
            public: public_route::public_routes(&self.config, &backend.labels),
        }
    }

    fn introduction(&self) -> Option<Exec> {
        Some(self.place.sh(scripts::config_script(&static_config::files(&self.place.container))))
    }

    fn learn(&mut self, output: &CommandResult) {
        let (head, file) = match output.stdout.split_once("@file ") {
            Some((head, rest)) => (head, rest.split_once('\n')),
            None => (output.stdout.as_str(), None),
        };
        self.tool = head.trim().strip_prefix("@tool ").map(String::from);
        self.configure(TraefikStaticConfig::read(&self.place.container, file));
    }

    /// Uses the arguments, where there is no file. The image is assumed to be the official one, which has wget.
    fn learn_files(&mut self, files: FileLookup) -> bool {
        let names = static_config::files(&self.place.container);
        let file = names.iter().find_map(|name| Some((name.as_str(), files(name)?.text)));
        self.tool = Some("wget".into());
        self.configure(TraefikStaticConfig::read(
            &self.place.container,
            file.as_ref().map(|(name, text)| (*name, text.as_str())),
        ));
        self.config.has("providers.docker")
    }

    fn doubt(&self, _backends: &[Backend]) -> Option<String> {
        if !self.config.has("providers") {
            return Some("its static configuration cannot be read, or has no provider".into());
        }
        let provider = self.config.remote_provider()?;
        Some(format!("its provider `{provider}` has routes that compose-zd does not read"))
    }

    fn route_files(&self) -> Vec<String> {
        self.config.route_files().map(String::from).collect()
    }

    fn audit(&self, shape: &RolloutShape, planned: Option<&Planned>) -> Audit {
        let directory = || planned.map_or(Ok(()), |planned| self.foresee(planned.files)).map(|()| Vec::new());
        Audit::default().and(|| self.check(&shape.backends)).and(directory)
    }

    fn abilities(&self) -> Abilities {
        Abilities {
            steers: self.has_route_directory(),
            late_requests: LATE_REQUEST_GRACE,
            ..Abilities::default()
        }
    }

    fn queries(&self, goal: &Goal) -> Vec<Query> {
        match goal {
            Goal::Patched(_) => self.inspect(),
            _ => vec![self.question(&goal.endpoints()).into()],
        }
    }

    fn advance(&self, answers: &[CommandResult], goal: &Goal) -> Result<(ProxyState, Next), Error> {
        let output = answers.first().cloned().unwrap_or_default();
        let state =
            if goal.needs_state() { self.read(&output, &goal.endpoints())? } else { ProxyState::default() };
        let next = match goal {
            Goal::Observed(_) => Next::Done,
            Goal::Patched(shape) => Next::Finish(self.prepare(answers, shape)?),
            // Fixes the route as it is, so that changes in discovery have no effect.
            Goal::Gated(rotation) if self.holds(&output, rotation) => Next::Done,
            Goal::Gated(rotation) => Next::run_or_wait(self.route(&output, rotation)),
            Goal::Rotation(rotation) => Next::run_or_wait(self.route(&output, rotation)),
            Goal::HandedBack(discovery) => self.hand_back(&output, &discovery.endpoints),
        };
        Ok((state, next))
    }

    fn diagnose(&self) -> Query {
        let (directory, check) = (self.config.directory(), self.version_check.as_ref());
        self.place.sh(scripts::diagnosis_script(directory, check, self.api.as_ref())).into()
    }
}

impl Traefik {
    fn foresee(&self, files: FileLookup) -> Result<(), Error> {
        let mounted = self.config.directory().and_then(|directory| Some((directory, files(directory)?)));
        if let Some((directory, mount)) = mounted {
            let stdout = if mount.read_only { "@readonly" } else { "" }.to_string();
            self.check_directory(
                directory,
                &CommandResult { code: Some(0), stdout, ..CommandResult::default() },
            )?;
        }
        Ok(())
    }

    fn check(&self, backends: &[Backend]) -> Result<Vec<Finding>, Error> {
        self.check_settings()?;
        backends.iter().try_for_each(|b| self.check_labels(b))?;
        if self.has_route_directory() { self.check_query_access() } else { self.check_discovery(backends) }
    }

    fn inspect(&self) -> Vec<Query> {
        let directory = self.config.directory();
        directory.map(|d| self.place.sh(scripts::directory_script(d)).into()).into_iter().collect()
    }

    /// Changes nothing, and only checks that the directory is writable.
    fn prepare(&self, outputs: &[CommandResult], _shape: &RolloutShape) -> Result<Vec<Change>, Error> {
        if let (Some(directory), [output]) = (self.config.directory(), outputs) {
            self.check_directory(directory, output)?;
        }
        Ok(Vec::new())
    }

    fn holds(&self, output: &CommandResult, rotation: &Rotation) -> bool {
        let state = TraefikState::parse(&output.stdout).filter(TraefikState::is_file_applied);
        !self.has_route_directory()
            || state.is_some_and(|s| s.file.is_some() && self.pin_command(&s, rotation).is_none())
    }

    fn route(&self, output: &CommandResult, rotation: &Rotation) -> Option<Exec> {
        self.pin_command(&TraefikState::parse(&output.stdout)?, rotation)
    }

    fn question(&self, endpoints: &[Endpoint]) -> Exec {
        let name = override_file::name(endpoints).unwrap_or_default();
        let service_names: BTreeSet<String> =
            endpoints.iter().flat_map(|e| HttpLabels::parse(&e.labels).service_names()).collect();
        let api = self.api(&name);
        let api = api.as_ref().map(|(api, host)| (api, host.as_str()));
        let services = scripts::services_script(api, &service_names.into_iter().collect::<Vec<_>>());
        let remotes = sockets::remotes(endpoints);
        self.place.sh(match self.override_file(&name) {
            Some((file, check)) => {
                scripts::state_script(&file, check, self.api.as_ref(), &remotes, &services)
            }
            None => scripts::discovery_script(&remotes, &services),
        })
    }

    fn read(&self, output: &CommandResult, endpoints: &[Endpoint]) -> Result<ProxyState, Error> {
        let state = self.parse_state(output)?;
        self.check_foreign_routers(&state, endpoints)?;
        let idle = self.config.idle_timeout();
        let in_flight = endpoints.iter().map(|e| (e.id.clone(), state.in_flight(e, idle)));
        Ok(ProxyState {
            routed: self.routed(&state, endpoints),
            failing: BTreeSet::new(),
            config_applied: !self.has_route_directory() || state.is_file_applied(),
            in_flight: in_flight.collect(),
            has_retired_process: state.file.is_some()
                && endpoints.iter().any(|e| HttpLabels::parse(&e.labels).has_middlewares()),
        })
    }

    fn hand_back(&self, output: &CommandResult, endpoints: &[Endpoint]) -> Next {
        let name = override_file::name(endpoints).unwrap_or_default();
        let (Some(state), Some((file, _))) = (TraefikState::parse(&output.stdout), self.override_file(&name))
        else {
            return if self.has_route_directory() { Next::Wait } else { Next::Done };
        };
        let Some(text) = &state.file else {
            return match (&state.served_version, state.has_leftovers()) {
                (Some(_), _) => Next::Wait,
                (None, true) => Next::run(self.place.sh(scripts::remove_leftovers(&file))),
                (None, false) => Next::Done,
            };
        };
        match self.discovery_state(&state, text, endpoints) {
            DiscoveryState::CaughtUp => Next::run(self.place.sh(scripts::remove_script(&file))),
            DiscoveryState::Unknown => Next::run(self.place.sh(scripts::mark_script(&file))),
            DiscoveryState::Behind => Next::Wait,
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod properties;
