//! Adapter of Apache httpd as a reverse proxy, with a configuration of the user's. A child of Apache resolves a name at
//! its first request to it, and keeps the address for life. Pins in its hosts file gate new instances, and one graceful
//! restart switches the rotation. With `disablereuse=on` Apache resolves the name for each request, and needs no restart.

mod audit;
mod config;
mod routes;
mod scripts;
mod state;

use std::collections::BTreeSet;
use std::time::Duration;

use super::kit::hosts::switch::{HostsSwitch, HostsWriter, PinnedServices, addresses};
use super::kit::passes::Passes;
use super::kit::{connections, directive, hosts};
use super::{
    Abilities, Adapter, Audit, Backend, FileLookup, Goal, Next, Place, Planned, Proxy, ProxyContainer,
    ProxyFiles, ProxyState, Query, RolloutShape, RouteInfo, boxed,
};
use crate::docker::inspect::Container;
use crate::docker::{CommandResult, Exec};
use crate::error::Error;
use crate::finding::Finding;
use crate::model::image_name;
use routes::Routes;
use state::ApacheState;

const KIND: &str = "apache";

const TITLE: &str = "Apache";

/// Default of `Timeout`, which is the time for an answer.
const TIMEOUT: Duration = Duration::from_secs(60);

pub const ADAPTER: Adapter = Adapter {
    kind: KIND,
    // Such an image may also serve files, or be the app.
    is_image: |_| false,
    route_setting: |_| None,
    detect: |container, _| detect(container).map(boxed),
    declared: |container| boxed(Apache::new(container)),
};

#[derive(Debug, Clone, PartialEq)]
pub struct Apache {
    place: ProxyContainer,
    settings: ApacheSettings,
}

/// Configuration of Apache, and what its container permits.
#[derive(Debug, Clone, Default, PartialEq)]
struct ApacheSettings {
    routes: Routes,
    /// False until the configuration was read.
    is_known: bool,
    /// Error of Apache's own test of its configuration, or of reading it.
    error: String,
    /// Module that handles connections: `event`, `worker` or `prefork`; empty if unknown.
    mpm: String,
    writer: HostsWriter,
    /// Names in the hosts file of lines that are not compose-zd's.
    fixed_names: BTreeSet<String>,
}

/// Names of Apache's programs, and of the scripts that start it.
const PROGRAMS: [&str; 6] =
    ["httpd", "httpd-foreground", "apache2", "apache2-foreground", "apache2ctl", "apachectl"];

/// Recognises Apache by its image, its program, or the environment of the official images. Its configuration tells
/// whether it is a proxy.
pub fn detect(container: &Container) -> Option<Apache> {
    let is_program = container.programs().any(|program| PROGRAMS.contains(&program));
    let has_variable = ["HTTPD_VERSION", "APACHE_CONFDIR"].iter().any(|name| container.env(name).is_some());
    (is_image(&container.config.image) || is_program || has_variable).then(|| Apache::new(container))
}

/// True for the images `httpd`, `apache2` and `apache` of any registry.
fn is_image(image: &str) -> bool {
    ["httpd", "apache2", "apache"].contains(&image_name(image))
}

impl Apache {
    pub fn new(container: &Container) -> Self {
        Apache { place: ProxyContainer::new(TITLE, container), settings: ApacheSettings::default() }
    }

    fn passes(&self) -> &Passes {
        &self.settings.routes.passes
    }

    /// True if Apache keeps the address of one of these names.
    fn needs_restart(&self, names: &[String]) -> bool {
        self.passes().to(names).any(|(_, upstream)| !upstream.is_dynamic)
    }

    fn hosts(&self, names: &[String]) -> HostsSwitch<'_> {
        HostsSwitch {
            place: &self.place,
            writer: self.settings.writer,
            program: scripts::PROGRAM,
            needs_reload: self.needs_restart(names),
        }
    }

    /// Starts the watchers, which act when a killed run is followed by Compose.
    fn prepare(&self, state: &ApacheState, shape: &RolloutShape) -> Next {
        let services = self.passes().services_of(shape);
        let pinned = PinnedServices { state, services: &services };
        match self.hosts(&[]).missing_watchers(pinned) {
            changes if changes.is_empty() => Next::Done,
            changes => Next::Finish(changes),
        }
    }
}

impl Proxy for Apache {
    fn place(&self) -> Place<'_> {
        Place::Container(&self.place)
    }

    fn routes_to(&self, backend: &Backend) -> bool {
        self.place.reaches(backend) && self.passes().has_route_to(backend)
    }

    fn route_to(&self, backend: &Backend) -> RouteInfo {
        let answer_timeout = Some(self.settings.routes.answer_timeout.unwrap_or(TIMEOUT));
        RouteInfo { answer_timeout, ..self.passes().route_to(backend) }
    }

    fn routes_nowhere(&self) -> bool {
        self.passes().0.is_empty() && (self.settings.is_known || !self.is_running())
    }

    fn introduction(&self) -> Option<Exec> {
        Some(self.place.sh(scripts::introduction()))
    }

    fn learn(&mut self, output: &CommandResult) {
        self.settings = ApacheSettings::parse(output, &self.place.container);
    }

    fn learn_files(&mut self, files: FileLookup) -> bool {
        self.settings = ApacheSettings::planned(files, &self.place.container);
        self.settings.is_known
    }

    fn files(&self) -> ProxyFiles {
        scripts::files(&self.place)
    }

    fn audit(&self, shape: &RolloutShape, planned: Option<&Planned>) -> Audit {
        Audit::default().and(|| {
            self.check(shape)?;
            Ok(planned.and_then(|_| self.closes_idle_clients(shape)).into_iter().collect())
        })
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
        self.closes_idle_clients(shape).into_iter().collect()
    }

    /// A late request comes over a connection that a retired child keeps until the client's next request.
    fn abilities(&self) -> Abilities {
        let late_requests = self.settings.routes.keepalive + Duration::from_secs(1);
        let mut upstreams = self.passes().0.iter().flat_map(|pass| &pass.upstreams);
        let reloads = upstreams.any(|upstream| !upstream.is_dynamic);
        Abilities { reloads, late_requests, ..Abilities::default() }
    }

    fn queries(&self, goal: &Goal) -> Vec<Query> {
        vec![self.place.sh(scripts::state()).into(), self.place.connections_to(&goal.endpoints())]
    }

    fn advance(&self, answers: &[CommandResult], goal: &Goal) -> Result<(ProxyState, Next), Error> {
        let output = answers.first().cloned().unwrap_or_default();
        let open = connections::parse(answers.get(1));
        let state = ApacheState::parse(&output.stdout, open).ok_or_else(|| {
            let message = format!("{}: cannot read its state", self.name());
            Error::unchanged(message).detail(output.stderr_or_stdout())
        })?;
        let endpoints = goal.endpoints();
        let services = self.passes().services(&endpoints);
        let pinned = PinnedServices { state: &state, services: &services };
        let names: Vec<String> = services.iter().flat_map(|s| s.names.iter().cloned()).collect();
        let hosts = self.hosts(&names);
        let next = match goal {
            Goal::Observed(_) => Next::Done,
            Goal::Patched(shape) => {
                self.check_run(shape)?;
                self.prepare(&state, shape)
            }
            Goal::Gated(rotation) => hosts.gate(pinned, rotation),
            Goal::Rotation(rotation) => hosts.route(pinned, &addresses(&rotation.inside)),
            Goal::HandedBack(discovery) => hosts.hand_back(pinned, discovery),
        };
        Ok((state.of(goal, &services, self.settings.routes.has_streams), next))
    }

    fn diagnose(&self) -> Query {
        self.place.sh(scripts::test()).into()
    }
}

impl ApacheSettings {
    fn parse(output: &CommandResult, container: &Container) -> ApacheSettings {
        let Some((head, dump)) = output.stdout.split_once("@config\n") else {
            return ApacheSettings { error: output.stderr_or_stdout().into(), ..ApacheSettings::default() };
        };
        let head_lines = |mark: &'static str| head.lines().filter_map(move |line| line.strip_prefix(mark));
        let files = directive::files(dump);
        ApacheSettings {
            routes: routes::routes(&config::expand(&files, &container.config.env)),
            is_known: !files.is_empty(),
            error: head_lines("@error ").collect::<Vec<_>>().join("\n"),
            mpm: head_lines("@mpm ").next().unwrap_or_default().trim().into(),
            writer: HostsWriter::parse(head),
            fixed_names: hosts::fixed_names(head),
        }
    }

    /// Configuration of the mounted files of a container that does not run yet. Without any, the image's own is unknown,
    /// and that of the official image serves files.
    fn planned(files: FileLookup, container: &Container) -> ApacheSettings {
        let mounted = config::mounted(files, container);
        let has_own_main = mounted[0].1.trim_end() != config::DEFAULT_MAIN.trim_end();
        let directives = config::expand(&mounted, &container.config.env);
        let modules = directives.iter().filter(|d| d.name == "loadmodule").map(|d| d.arg(0));
        let mpm = modules.filter_map(|name| name.strip_prefix("mpm_")?.strip_suffix("_module")).next_back();
        ApacheSettings {
            routes: routes::routes(&directives),
            mpm: mpm.unwrap_or_default().into(),
            is_known: mounted.len() > 1 || has_own_main || is_image(&container.config.image),
            ..ApacheSettings::default()
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub mod properties;
