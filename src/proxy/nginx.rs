//! Adapter of nginx with a configuration of the user's. nginx resolves names only at its start and at a reload, which
//! gates new instances. Pins in its hosts file and one reload switch the rotation, and the start of its workers confirms
//! it. Connections in nginx's network namespace count as requests in flight.

mod audit;
mod config;
mod routes;
pub mod scripts;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::kit::hosts::{self, Loaded, PinnedService};
use super::kit::{sockets, version};
use super::{
    Abilities, Adapter, Audit, Backend, Change, Discovery, Endpoint, FileLookup, Goal, Next, Place, Planned,
    Proxy, ProxyContainer, ProxyFiles, ProxyState, Query, RolloutShape, Rotation, RouteInfo, boxed,
};
use crate::docker::inspect::Container;
use crate::docker::{CommandResult, Exec};
use crate::error::Error;
use crate::finding::Finding;
use routes::{Pass, Routes, Upstream};
use state::NginxState;

/// File that compose-zd adds to a folder of nginx's configuration. nginx reads it first.
const KEEPALIVE_FILE: &str = "00-compose-zd.conf";

/// Time for which a worker that a reload retired keeps idle client connections open.
/// Source: nginx `keepalive_min_timeout`, since 1.27.4.
const KEEPALIVE_MIN_TIMEOUT: Duration = Duration::from_secs(5);

const KEEPALIVE_SINCE: [u32; 3] = [1, 27, 4];

/// Default of `proxy_read_timeout`.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

const TITLE: &str = "nginx";

pub const ADAPTER: Adapter = Adapter {
    kind: TITLE,
    // Such an image may also serve files only.
    is_image: |_| false,
    route_setting: |_| None,
    detect: |container, _| detect(container).map(boxed),
    declared: |container| boxed(Nginx::new(container)),
};

#[derive(Debug, Clone, PartialEq)]
pub struct Nginx {
    place: ProxyContainer,
    settings: NginxSettings,
}

/// Configuration of nginx, and what its container permits.
#[derive(Debug, Clone, Default, PartialEq)]
struct NginxSettings {
    routes: Routes,
    /// False until the configuration was read.
    is_known: bool,
    /// Error of nginx's own test of its configuration, or of reading it.
    error: String,
    version: Option<[u32; 3]>,
    writer: HostsWriter,
    /// Names in the hosts file of lines that are not compose-zd's.
    fixed_names: BTreeSet<String>,
    /// Folder that nginx includes in `http` and that belongs to the container alone.
    own_folder: Option<String>,
}

/// Way to write the hosts file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum HostsWriter {
    /// The container's own user is root.
    #[default]
    User,
    /// A command as root.
    Root,
    /// A container beside the proxy: the proxy's own file system is read-only.
    Sidecar,
}

/// Recognises nginx by its image, its program, or the environment of the official image. Its configuration tells whether
/// it is a proxy.
pub fn detect(container: &Container) -> Option<Nginx> {
    let is_program = container.programs().any(|program| ["nginx", "openresty"].contains(&program));
    let is_nginx =
        is_image(&container.config.image) || is_program || container.env("NGINX_VERSION").is_some();
    is_nginx.then(|| Nginx::new(container))
}

/// True for the images `nginx`, `nginx-unprivileged` and `openresty` of any registry.
fn is_image(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or_default();
    let name = name.split([':', '@']).next().unwrap_or_default();
    ["nginx", "nginx-unprivileged", "openresty"].contains(&name)
}

impl Nginx {
    pub fn new(container: &Container) -> Self {
        Nginx { place: ProxyContainer::new(TITLE, container), settings: NginxSettings::default() }
    }

    /// Passes to a backend, each with the upstream that is the backend's.
    fn passes_to<'n>(&'n self, names: &'n [String]) -> impl Iterator<Item = (&'n Pass, &'n Upstream)> {
        self.settings.routes.to(|host| names.iter().any(|name| name.eq_ignore_ascii_case(host)))
    }

    /// Passes to a backend by name or by address.
    fn has_route_to(&self, backend: &Backend) -> bool {
        let addresses: Vec<String> = backend.addresses.iter().map(ToString::to_string).collect();
        self.passes_to(&backend.names).next().is_some() || self.passes_to(&addresses).next().is_some()
    }

    /// Names of the configuration among these.
    fn used_names(&self, names: &[String]) -> BTreeSet<String> {
        self.passes_to(names).map(|(_, upstream)| upstream.host.clone()).collect()
    }

    /// Services of these endpoints, with the names that have to be pinned.
    fn services(&self, endpoints: &[Endpoint]) -> Vec<PinnedService> {
        let mut services: BTreeMap<&str, PinnedService> = BTreeMap::new();
        for endpoint in endpoints {
            let project = endpoint.labels.get("com.docker.compose.project").cloned().unwrap_or_default();
            let service = services.entry(&endpoint.service).or_insert_with(|| PinnedService {
                project,
                service: endpoint.service.clone(),
                names: BTreeSet::new(),
            });
            service.names.extend(self.used_names(&endpoint.names));
        }
        services.into_values().filter(|service| !service.names.is_empty()).collect()
    }

    /// Services of a rollout, before any of its instances is known.
    fn services_of(&self, shape: &RolloutShape) -> Vec<PinnedService> {
        let service = |(service, names): &(String, Vec<String>)| PinnedService {
            project: shape.project.clone(),
            service: service.clone(),
            names: self.used_names(names),
        };
        shape.services.iter().map(service).filter(|service| !service.names.is_empty()).collect()
    }

    /// Script that writes the hosts file.
    fn write(&self, script: String) -> Change {
        let exec = self.place.sh(script);
        match self.settings.writer {
            HostsWriter::User => exec,
            HostsWriter::Root => Exec { options: as_root(&[]), ..exec },
            HostsWriter::Sidecar => self.sidecar(exec, &[]),
        }
        .into()
    }

    /// The command in a container that shares nginx's network, and so its hosts file, and its processes.
    fn sidecar(&self, exec: Exec, options: &[&str]) -> Exec {
        let processes = format!("container:{}", self.place.container.id);
        let options = [options, &["--pid", &processes]].concat();
        Exec {
            sidecar_image: Some(self.place.container.config.image.clone()),
            options: options.into_iter().map(String::from).collect(),
            ..exec
        }
    }

    /// Start of the watcher of a service's pins.
    fn watch(&self, service: &PinnedService) -> Change {
        let exec = self.place.sh(hosts::watcher_script(service, scripts::TITLES));
        match self.settings.writer {
            HostsWriter::User | HostsWriter::Root => Exec { options: as_root(&["--detach"]), ..exec },
            HostsWriter::Sidecar => {
                let label = format!("compose-zd.watcher={}/{}", service.project, service.service);
                self.sidecar(exec, &["--detach", "--label", &label])
            }
        }
        .into()
    }

    /// Pins for all services, with a reload if nginx still has other addresses.
    fn pin(
        &self,
        state: &NginxState,
        services: &[PinnedService],
        addresses: &BTreeSet<IpAddr>,
        needs_reload: bool,
    ) -> Vec<Change> {
        let mut changes: Vec<Change> =
            services.iter().filter(|s| !state.is_watched(s)).map(|s| self.watch(s)).collect();
        for service in services {
            let was = state.pins_of(service).map(|pins| pins.addresses()).unwrap_or_default();
            changes.push(self.write(hosts::pin_script(service, addresses, &was, needs_reload)));
        }
        if needs_reload {
            changes.push(self.place.sh(scripts::reload()).into());
        }
        changes
    }
}

/// Options of a command as root in a container.
fn as_root(more: &[&str]) -> Vec<String> {
    [more, &["--user", "0"]].concat().into_iter().map(String::from).collect()
}

fn addresses(endpoints: &[Endpoint]) -> BTreeSet<IpAddr> {
    endpoints.iter().flat_map(|e| e.addresses.iter().copied()).collect()
}

impl Proxy for Nginx {
    fn place(&self) -> Place<'_> {
        Place::Container(&self.place)
    }

    fn routes_to(&self, backend: &Backend) -> bool {
        self.place.reaches(backend) && self.has_route_to(backend)
    }

    fn route_to(&self, backend: &Backend) -> RouteInfo {
        let passes: Vec<(&Pass, &Upstream)> = self.passes_to(&backend.names).collect();
        let main = passes.iter().find(|(pass, _)| pass.is_http).or(passes.first());
        let mut public: Vec<_> = passes.iter().flat_map(|(pass, _)| pass.public.clone()).collect();
        public.sort_by_key(|route| route.path.len());
        public.dedup();
        RouteInfo {
            port: main.and_then(|(_, upstream)| upstream.port),
            host: main.and_then(|(pass, _)| pass.host_header.clone()),
            not_http: main.is_some_and(|(pass, _)| !pass.is_http),
            answer_timeout: Some(self.settings.routes.read_timeout.unwrap_or(READ_TIMEOUT)),
            public,
        }
    }

    fn routes_nowhere(&self) -> bool {
        self.settings.routes.passes.is_empty() && (self.settings.is_known || !self.is_running())
    }

    fn introduction(&self) -> Option<Exec> {
        Some(self.place.sh(scripts::introduction()))
    }

    fn learn(&mut self, output: &CommandResult) {
        self.settings = NginxSettings::parse(output, &self.place.container);
    }

    fn learn_files(&mut self, files: FileLookup) -> bool {
        self.settings = NginxSettings::planned(files, &self.place.container);
        self.settings.is_known
    }

    fn files(&self) -> ProxyFiles {
        scripts::files(&self.place)
    }

    fn audit(&self, shape: &RolloutShape, planned: Option<&Planned>) -> Audit {
        Audit::default().and(|| self.check(shape, planned.is_some()))
    }

    fn doubt(&self, _backends: &[Backend]) -> Option<String> {
        let why = if self.settings.error.contains("executable file not found") {
            "its image has no shell, so its configuration cannot be read"
        } else {
            "its configuration cannot be read"
        };
        (!self.settings.is_known).then(|| why.into())
    }

    fn losses(&self, _answers: &[CommandResult], shape: &RolloutShape) -> Vec<Finding> {
        self.closes_idle_clients(shape.tune).into_iter().collect()
    }

    /// A late request comes within twice `keepalive_min_timeout`. A client may send one more request over its
    /// connection to a retired worker. A slow upload gets as long again, because its worker picks the instance when
    /// the body is complete.
    fn abilities(&self) -> Abilities {
        Abilities { reloads: true, late_requests: KEEPALIVE_MIN_TIMEOUT * 2, ..Abilities::default() }
    }

    fn queries(&self, goal: &Goal) -> Vec<Query> {
        vec![self.place.sh(scripts::state(&sockets::remotes(&goal.endpoints()))).into()]
    }

    fn advance(&self, answers: &[CommandResult], goal: &Goal) -> Result<(ProxyState, Next), Error> {
        let output = answers.first().cloned().unwrap_or_default();
        let state = NginxState::parse(&output.stdout).ok_or_else(|| {
            let message = format!("{}: cannot read its state", self.name());
            Error::unchanged(message).detail(output.stderr_or_stdout())
        })?;
        let endpoints = goal.endpoints();
        let services = self.services(&endpoints);
        let next = match goal {
            Goal::Observed(_) => Next::Done,
            Goal::Patched(shape) => {
                self.check_run(shape)?;
                self.prepare(&state, shape)
            }
            Goal::Gated(rotation) => self.gate(&state, &services, rotation),
            Goal::Rotation(rotation) => self.route(&state, &services, &addresses(&rotation.inside)),
            Goal::HandedBack(discovery) => self.hand_back(&state, &services, discovery),
        };
        Ok((state.of(&endpoints, &services), next))
    }

    fn diagnose(&self) -> Query {
        self.place.sh(scripts::test()).into()
    }
}

impl Nginx {
    /// Starts the watchers, which need no pin to act when a killed run is followed by Compose.
    fn prepare(&self, state: &NginxState, shape: &RolloutShape) -> Next {
        let services = self.services_of(shape);
        let unwatched = services.iter().filter(|s| !state.is_watched(s));
        let watchers = unwatched.map(|service| self.watch(service));
        let changes: Vec<Change> = watchers.chain(self.keepalive_patch(shape.tune)).collect();
        if changes.is_empty() { Next::Done } else { Next::Finish(changes) }
    }

    /// A new instance gets no request before a reload. Pins keep it so if another program reloads nginx.
    fn gate(&self, state: &NginxState, services: &[PinnedService], rotation: &Rotation) -> Next {
        let (inside, outside) = (addresses(&rotation.inside), addresses(&rotation.outside));
        let is_gated = |service: &PinnedService| {
            state.pins_of(service).is_some_and(|pins| {
                pins.is_settled() && inside.is_subset(&pins.pins.now) && pins.pins.now.is_disjoint(&outside)
            })
        };
        if inside.is_empty() || services.iter().all(is_gated) {
            return Next::Done;
        }
        // Without pins nginx has the instances inside, unless it was restarted while those outside ran.
        let is_fresh = services.iter().all(|s| state.pins_of(s).is_none()) && outside.is_empty();
        if is_fresh {
            return Next::Run(self.pin(state, services, &inside, false));
        }
        self.route(state, services, &inside)
    }

    /// Pins exactly these addresses. nginx has them once its workers are newer than the pins.
    fn route(&self, state: &NginxState, services: &[PinnedService], inside: &BTreeSet<IpAddr>) -> Next {
        if inside.is_empty() {
            return Next::Wait;
        }
        let all: Vec<_> = services.iter().map(|service| state.pins_of(service)).collect();
        let is_pinned =
            |pins: &Option<state::ServicePins>| pins.as_ref().is_some_and(|p| p.pins.now == *inside);
        let is_loaded = |pins: &Option<state::ServicePins>| pins.as_ref().is_some_and(|p| p.is_settled());
        let is_unchanged = |pins: &Option<state::ServicePins>| {
            pins.as_ref().is_some_and(|p| p.loaded != Loaded::Mixed && p.addresses() == *inside)
        };
        let is_recent = |pins: &Option<state::ServicePins>| {
            pins.as_ref().is_none_or(|p| p.is_settled() || state.is_recent(p.pins.since))
        };
        match () {
            () if all.iter().all(|p| is_pinned(p) && is_loaded(p)) => Next::Done,
            () if all.iter().all(is_unchanged) => Next::Run(self.pin(state, services, inside, false)),
            () if all.iter().all(is_pinned) && all.iter().all(is_recent) => Next::Wait,
            () => Next::Run(self.pin(state, services, inside, true)),
        }
    }

    /// Removes the pins once they are what Docker's DNS says. nginx keeps the addresses without a reload.
    fn hand_back(&self, state: &NginxState, services: &[PinnedService], discovery: &Discovery) -> Next {
        let running = addresses(&discovery.endpoints);
        let pinned: Vec<&PinnedService> = services.iter().filter(|s| state.pins_of(s).is_some()).collect();
        if pinned.is_empty() {
            return Next::Done;
        }
        match if running.is_empty() { Next::Done } else { self.route(state, services, &running) } {
            Next::Done => {
                Next::Finish(pinned.into_iter().map(|s| self.write(hosts::unpin_script(s))).collect())
            }
            next => next,
        }
    }
}

impl NginxSettings {
    fn parse(output: &CommandResult, container: &Container) -> NginxSettings {
        let Some((head, dump)) = output.stdout.split_once("@config\n") else {
            return NginxSettings { error: output.stderr_or_stdout().into(), ..NginxSettings::default() };
        };
        let head_lines = |mark: &'static str| head.lines().filter_map(move |line| line.strip_prefix(mark));
        let files = config::files(dump);
        let folders = dump.lines().filter_map(|line| line.strip_prefix("@writable "));
        let is_included = |folder: &&str| included_folders(&files).iter().any(|own| own == folder);
        let own_folder = folders.filter(is_included).find(|folder| !container.has_mount_above(folder));
        let is_root = head_lines("@user ").any(|id| id.trim() == "0");
        let writer = match head_lines("@hosts ").next() {
            Some("ro") => HostsWriter::Sidecar,
            _ if is_root => HostsWriter::User,
            _ => HostsWriter::Root,
        };
        NginxSettings {
            routes: routes::routes(&config::expand(&files)),
            is_known: !files.is_empty(),
            error: head_lines("@error ").collect::<Vec<_>>().join("\n"),
            version: head_lines("@version ").find_map(parse_version),
            writer,
            fixed_names: head_lines("@host ").flat_map(fixed_names).collect(),
            own_folder: own_folder.map(String::from),
        }
    }

    /// Configuration of the mounted files of a container that does not run yet. Without any, the image's own is unknown,
    /// and that of the official image serves files.
    fn planned(files: FileLookup, container: &Container) -> NginxSettings {
        let mounted = config::mounted(files, container);
        let is_known =
            mounted.len() > 1 || mounted[0].1 != config::DEFAULT_MAIN || is_image(&container.config.image);
        NginxSettings {
            routes: routes::routes(&config::expand(&mounted)),
            is_known,
            version: container.env("NGINX_VERSION").and_then(version::parse),
            ..NginxSettings::default()
        }
    }
}

/// Folders of patterns such as `/etc/nginx/conf.d/*.conf` that the main file includes in `http`.
fn included_folders(files: &config::Files) -> Vec<String> {
    let main = files.first().map(|(_, text)| config::parse(text)).unwrap_or_default();
    let http = main.iter().filter(|d| d.name == "http").flat_map(|d| &d.block);
    let patterns = http.filter(|d| d.name == "include").map(|d| d.arg(0));
    patterns.filter_map(|pattern| Some(pattern.strip_suffix("/*.conf")?.to_string())).collect()
}

/// Version in `nginx version: nginx/1.29.5`, also of openresty.
fn parse_version(line: &str) -> Option<[u32; 3]> {
    version::parse(line.rsplit_once('/')?.1)
}

/// Names of a line of a hosts file, unless the line is a pin.
fn fixed_names(line: &str) -> impl Iterator<Item = String> {
    let text = if line.contains(" # compose-zd ") { "" } else { line.split('#').next().unwrap_or_default() };
    text.split_whitespace().skip(1).map(String::from)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub mod properties;
