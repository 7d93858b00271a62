//! Adapter of nginx with a configuration of the user's. nginx resolves names only at its start and at a reload, which
//! gates new instances. Pins in its hosts file and one reload switch the rotation, and the start of its workers confirms
//! it. Connections in nginx's network namespace count as requests in flight.

mod audit;
mod config;
mod routes;
pub mod scripts;
mod state;

use std::collections::BTreeSet;
use std::time::Duration;

use super::kit::hosts::switch::{HostsSwitch, HostsWriter, PinnedServices, addresses};
use super::kit::passes::Passes;
use super::kit::{directive, hosts, sockets, version};
use super::{
    Abilities, Adapter, Audit, Backend, Change, FileLookup, Goal, Next, Place, Planned, Proxy,
    ProxyContainer, ProxyFiles, ProxyState, Query, RolloutShape, RouteInfo, boxed,
};
use crate::docker::inspect::Container;
use crate::docker::{CommandResult, Exec};
use crate::error::Error;
use crate::finding::Finding;
use crate::model::image_name;
use routes::Routes;
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
    ["nginx", "nginx-unprivileged", "openresty"].contains(&image_name(image))
}

impl Nginx {
    pub fn new(container: &Container) -> Self {
        Nginx { place: ProxyContainer::new(TITLE, container), settings: NginxSettings::default() }
    }
}

impl Proxy for Nginx {
    fn place(&self) -> Place<'_> {
        Place::Container(&self.place)
    }

    fn routes_to(&self, backend: &Backend) -> bool {
        self.place.reaches(backend) && self.passes().has_route_to(backend)
    }

    fn route_to(&self, backend: &Backend) -> RouteInfo {
        let answer_timeout = Some(self.settings.routes.read_timeout.unwrap_or(READ_TIMEOUT));
        RouteInfo { answer_timeout, ..self.passes().route_to(backend) }
    }

    fn routes_nowhere(&self) -> bool {
        self.passes().0.is_empty() && (self.settings.is_known || !self.is_running())
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
        let services = self.passes().services(&endpoints);
        let pinned = PinnedServices { state: &state, services: &services };
        let next = match goal {
            Goal::Observed(_) => Next::Done,
            Goal::Patched(shape) => {
                self.check_run(shape)?;
                self.prepare(&state, shape)
            }
            Goal::Gated(rotation) => self.hosts().gate(pinned, rotation),
            Goal::Rotation(rotation) => self.hosts().route(pinned, &addresses(&rotation.inside)),
            Goal::HandedBack(discovery) => self.hosts().hand_back(pinned, discovery),
        };
        Ok((state.of(goal, &services), next))
    }

    fn diagnose(&self) -> Query {
        self.place.sh(scripts::test()).into()
    }
}

impl Nginx {
    fn passes(&self) -> &Passes {
        &self.settings.routes.passes
    }

    fn hosts(&self) -> HostsSwitch<'_> {
        HostsSwitch {
            place: &self.place,
            writer: self.settings.writer,
            program: scripts::PROGRAM,
            needs_reload: true,
        }
    }

    fn prepare(&self, state: &NginxState, shape: &RolloutShape) -> Next {
        let services = self.passes().services_of(shape);
        let watchers = self.hosts().missing_watchers(PinnedServices { state, services: &services });
        let changes: Vec<Change> = watchers.into_iter().chain(self.keepalive_patch(shape.tune)).collect();
        if changes.is_empty() { Next::Done } else { Next::Finish(changes) }
    }
}

impl NginxSettings {
    fn parse(output: &CommandResult, container: &Container) -> NginxSettings {
        let Some((head, dump)) = output.stdout.split_once("@config\n") else {
            return NginxSettings { error: output.stderr_or_stdout().into(), ..NginxSettings::default() };
        };
        let head_lines = |mark: &'static str| head.lines().filter_map(move |line| line.strip_prefix(mark));
        let files = directive::files(dump);
        let folders = dump.lines().filter_map(|line| line.strip_prefix("@writable "));
        let is_included = |folder: &&str| included_folders(&files).iter().any(|own| own == folder);
        let own_folder = folders.filter(is_included).find(|folder| !container.has_mount_above(folder));
        NginxSettings {
            routes: routes::routes(&config::expand(&files)),
            is_known: !files.is_empty(),
            error: head_lines("@error ").collect::<Vec<_>>().join("\n"),
            version: head_lines("@version ").find_map(parse_version),
            writer: HostsWriter::parse(head),
            fixed_names: hosts::fixed_names(head),
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
fn included_folders(files: &directive::Files) -> Vec<String> {
    let main = files.first().map(|(_, text)| config::parse(text)).unwrap_or_default();
    let http = main.iter().filter(|d| d.name == "http").flat_map(|d| &d.block);
    let patterns = http.filter(|d| d.name == "include").map(|d| d.arg(0));
    patterns.filter_map(|pattern| Some(pattern.strip_suffix("/*.conf")?.to_string())).collect()
}

/// Version in `nginx version: nginx/1.29.5`, also of openresty.
fn parse_version(line: &str) -> Option<[u32; 3]> {
    version::parse(line.rsplit_once('/')?.1)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub mod properties;
