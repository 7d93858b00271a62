//! Traefik with its docker provider. Where it also watches a directory of routes, a file of ours takes the route over
//! for as long as a rollout runs; where it does not, its own discovery is watched through its API.

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

use super::public_route::PublicRoute;
use super::{
    Backend, Endpoint, FileLookup, HandBack, InFlight, Patch, Proxy, ProxyState, RolloutShape, Rotation,
    proc_net_hex,
};
use crate::docker::inspect::Container;
use crate::docker::{CommandResult, Exec};
use crate::error::{Error, Risk};
use labels::{HttpLabels, Labels};
use scripts::OverrideFile;
use state::TraefikState;
use static_config::TraefikStaticConfig;
use version_check::{Api, VersionCheck};

/// A middleware may hold a request back for a moment before it goes where the route was.
const LINGER: Duration = Duration::from_secs(1);

/// How long its discovery takes at most, besides the time it keeps between two looks.
const DISCOVERY: Duration = Duration::from_secs(2);

/// What its discovery still sees after this long, and is none of ours, is no instance that has stopped, but has the same
/// route.
const STRANGERS: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, PartialEq)]
pub struct Traefik {
    container: Container,
    settings: TraefikStaticConfig,
    /// Where it is asked which file of ours is in force.
    door: Option<VersionCheck>,
    /// The API that needs no password.
    api: Option<Api>,
    /// What there is in its image to ask with.
    tool: Option<String>,
}

/// The official image, one made from it, or one whose process is traefik.
pub fn detect(container: &Container) -> Option<Traefik> {
    let told = |word: &String| {
        let flag = word.to_lowercase();
        ["--providers.", "--entrypoints."].iter().any(|start| flag.starts_with(start))
    };
    let runs = container.args.iter().any(told) || container.programs().any(|program| program == "traefik");
    let made_from_it =
        container.label("org.opencontainers.image.source") == Some("https://github.com/traefik/traefik");
    (is_image(&container.config.image) || made_from_it || runs).then(|| Traefik::new(container))
}

/// `traefik`, from any registry; not `traefik/whoami`.
pub fn is_image(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or("");
    name.split([':', '@']).next() == Some("traefik")
}

/// Whether labels ask a Traefik for a route.
pub fn claims(labels: &Labels) -> bool {
    match labels::enabled(labels) {
        Some(enabled) => enabled,
        None => labels::mention_a_route(labels),
    }
}

/// Host and path by which a request comes to what has these labels; none where they ask for more.
pub fn request_of(labels: &Labels) -> Option<(Option<String>, String)> {
    HttpLabels::read(labels).rules().find_map(public_route::request)
}

impl Traefik {
    pub fn new(container: &Container) -> Self {
        let mut traefik = Traefik {
            container: container.clone(),
            settings: TraefikStaticConfig::default(),
            door: None,
            api: None,
            tool: None,
        };
        traefik.configure(TraefikStaticConfig::read(container, None));
        traefik
    }

    fn configure(&mut self, settings: TraefikStaticConfig) {
        (self.door, self.api) = (VersionCheck::find(&settings), Api::open(&settings));
        self.settings = settings;
    }

    fn called(&self) -> String {
        format!("traefik `{}`", self.container.name())
    }

    fn steers_by_file(&self) -> bool {
        self.settings.directory().is_some()
    }

    /// Whether its constraints let a container in; none where that cannot be told.
    fn takes(&self, backend: &Backend) -> Option<bool> {
        let mut labels = backend.labels.clone();
        labels.insert("com.docker.compose.project".into(), backend.project.clone());
        labels.insert("com.docker.compose.service".into(), backend.service.clone());
        constraints::matches(self.settings.constraints(), &labels)
    }

    /// What its files of routes are asked and told with, about these.
    fn files<'a>(&'a self, name: &'a str) -> Option<(OverrideFile<'a>, &'a VersionCheck)> {
        let directory = self.settings.directory()?;
        Some((OverrideFile { directory, name }, self.door.as_ref()?))
    }

    fn sh(&self, script: String) -> Exec {
        Exec::sh(&self.container.id, script)
    }

    /// The API, and the host by which it answers.
    fn api(&self, name: &str) -> Option<(Api, String)> {
        let open = self.api.clone().map(|api| (api, "localhost".into()));
        let through =
            || Some((Api::through(&self.settings, self.door.as_ref()?)?, override_file::host(name)));
        open.or_else(|| through().filter(|_| self.steers_by_file()))
    }

    fn answer(&self, done: &CommandResult) -> Result<TraefikState, Error> {
        let answer = TraefikState::parse(&done.stdout).filter(|a| self.steers_by_file() || a.api);
        answer.ok_or_else(|| {
            Error::unchanged(format!("{} does not tell what it routes to", self.called()))
                .detail(done.stderr_or_stdout())
        })
    }

    /// The file for a rotation, and the script that puts it there, unless it is there.
    fn pin(&self, now: &TraefikState, rotation: &Rotation) -> Option<Exec> {
        let text = override_file::text_of(&self.settings, self.door.as_ref()?, rotation)?;
        let name = override_file::name(&rotation.all())?;
        let (file, _) = self.files(&name)?;
        (now.file.as_deref() != Some(&text)).then(|| {
            let exec = self.sh(scripts::write(&file, &remotes(&rotation.all())));
            Exec { stdin: Some(text), ..exec }
        })
    }

    /// Ids of those that have requests, by our file or by its own discovery.
    fn routed(&self, answer: &TraefikState, endpoints: &[Endpoint]) -> BTreeSet<String> {
        let servers = match &answer.file {
            Some(file) => Some(override_file::servers(file)),
            None => answer.discovered().filter(|_| !self.steers_by_file()),
        };
        let is_routed = |e: &&Endpoint| match &servers {
            Some(servers) => e.addresses.iter().any(|a| servers.contains(a)),
            None => !e.addresses.is_empty() && !e.unhealthy,
        };
        endpoints.iter().filter(is_routed).map(|e| e.id.clone()).collect()
    }

    /// How far its own discovery is in seeing exactly what our file says.
    fn caught_up(&self, answer: &TraefikState, file: &str, ours: &[Endpoint]) -> DiscoveryState {
        let servers = override_file::servers(file);
        let inside = of(ours, &servers);
        if inside.is_empty() && !servers.is_empty() {
            return DiscoveryState::Yes; // it sends requests to nobody
        }
        if inside.iter().any(|e| e.unhealthy) {
            return DiscoveryState::No;
        }
        match answer.discovered() {
            Some(found) if !sees(answer, &found, &inside, ours) => DiscoveryState::No,
            Some(found) if found.len() <= inside.len() => DiscoveryState::Yes,
            Some(_) => in_time(answer, STRANGERS),
            None => in_time(answer, self.settings.throttle().saturating_add(DISCOVERY)),
        }
    }
}

/// How far Traefik's own discovery is.
enum DiscoveryState {
    Yes,
    No,
    /// Nothing tells but time.
    SoonByItself,
}

fn in_time(answer: &TraefikState, limit: Duration) -> DiscoveryState {
    match answer.waited() {
        None => DiscoveryState::SoonByItself,
        Some(waited) if waited >= limit => DiscoveryState::Yes,
        Some(_) => DiscoveryState::No,
    }
}

/// Its discovery has found exactly these of ours, and routes to them.
fn sees(answer: &TraefikState, found: &BTreeSet<IpAddr>, inside: &[&Endpoint], ours: &[Endpoint]) -> bool {
    let routers = inside.first().map(|e| HttpLabels::read(&e.labels).router_names()).unwrap_or_default();
    of(ours, found) == inside && answer.are_used(&routers)
}

/// Those that have one of these addresses.
fn of<'a>(endpoints: &'a [Endpoint], addresses: &BTreeSet<IpAddr>) -> Vec<&'a Endpoint> {
    endpoints.iter().filter(|e| e.addresses.iter().any(|a| addresses.contains(a))).collect()
}

/// Addresses as /proc/net/tcp writes them.
fn remotes(endpoints: &[Endpoint]) -> Vec<String> {
    endpoints.iter().flat_map(|e| &e.addresses).map(proc_net_hex).collect()
}

impl Proxy for Traefik {
    fn name(&self) -> String {
        self.called()
    }

    fn container(&self) -> &Container {
        &self.container
    }

    /// With `exposedByDefault` it routes to everything that has a port; only what speaks of a route is meant by that.
    fn routes_to(&self, backend: &Backend) -> bool {
        let reaches = |n: &String| self.container.networks().any(|own| own == n || own == "host");
        let itself = self.container.compose() == Some((&backend.project, &backend.service));
        let enabled = labels::enabled(&backend.labels);
        let meant = enabled == Some(true) || labels::mention_a_route(&backend.labels);
        let exposed = enabled.unwrap_or(self.settings.exposes_by_default());
        let taken = || self.takes(backend) != Some(false);
        let asks = self.settings.has("providers.docker") && meant && exposed;
        asks && !itself && taken() && backend.networks.iter().any(reaches)
    }

    fn port(&self, container: &Container) -> Option<u16> {
        HttpLabels::read(&container.config.labels).port().or(container.exposed_tcp().first().copied())
    }

    fn host(&self, container: &Container) -> Option<String> {
        let labels = &container.config.labels;
        let http = HttpLabels::read(labels);
        let default = labels::default_rule(self.settings.default_rule(), labels);
        http.rules().find_map(labels::host).or_else(|| labels::host(&default?))
    }

    fn entrances(&self, container: &Container) -> Vec<PublicRoute> {
        public_route::entrances(&self.settings, &container.config.labels)
    }

    fn introduction(&self) -> Option<Exec> {
        Some(self.sh(scripts::introduction(&static_config::files(&self.container))))
    }

    fn learn(&mut self, answer: &CommandResult) {
        let (head, file) = match answer.stdout.split_once("@file ") {
            Some((head, rest)) => (head, rest.split_once('\n')),
            None => (answer.stdout.as_str(), None),
        };
        self.tool = head.trim().strip_prefix("@tool ").map(String::from);
        self.configure(TraefikStaticConfig::read(&self.container, file));
    }

    /// By its arguments, where it is given no file. Its image is taken to be the official one, which has wget.
    fn learn_files(&mut self, files: FileLookup) -> bool {
        let own = static_config::files(&self.container);
        let found = own.iter().find_map(|name| Some((name.as_str(), files(name)?.text)));
        self.tool = Some("wget".into());
        self.configure(TraefikStaticConfig::read(
            &self.container,
            found.as_ref().map(|(name, text)| (*name, text.as_str())),
        ));
        self.settings.has("providers.docker")
    }

    fn doubt(&self, _backends: &[Backend]) -> Option<String> {
        if !self.settings.has("providers") {
            return Some("its static configuration cannot be read, or has no provider".into());
        }
        let provider = self.settings.remote_provider()?;
        Some(format!("its provider `{provider}` has routes that are not read"))
    }

    fn route_files(&self) -> Vec<String> {
        self.settings.route_files().map(String::from).collect()
    }

    fn foresee(&self, files: FileLookup, _wish: &RolloutShape, _present: usize) -> Result<Vec<Risk>, Error> {
        let given = self.settings.directory().and_then(|directory| Some((directory, files(directory)?)));
        if let Some((directory, given)) = given {
            let stdout = if given.read_only { "@readonly" } else { "" }.to_string();
            self.check_directory(
                directory,
                &CommandResult { code: Some(0), stdout, ..CommandResult::default() },
            )?;
        }
        Ok(Vec::new())
    }

    fn check(&self, backends: &[Backend]) -> Result<Vec<Risk>, Error> {
        self.check_settings()?;
        backends.iter().try_for_each(|b| self.check_labels(b))?;
        match self.steers() {
            true => self.check_door(),
            false => self.check_discovery(backends),
        }
    }

    fn steers(&self) -> bool {
        self.steers_by_file()
    }

    fn inspect(&self) -> Vec<Exec> {
        let directory = self.settings.directory();
        directory.map(|d| self.sh(scripts::inspection(d))).into_iter().collect()
    }

    /// Nothing is changed; a directory that takes no file is found out here.
    fn prepare(&self, answers: &[CommandResult], _wish: &RolloutShape) -> Result<Vec<Patch>, Error> {
        if let (Some(directory), [answer]) = (self.settings.directory(), answers) {
            self.check_directory(directory, answer)?;
        }
        Ok(Vec::new())
    }

    fn needs_reading(&self) -> bool {
        true
    }

    /// The route as it is, so that it does not matter any more what its discovery sees.
    fn gate(&self, now: &CommandResult, rotation: &Rotation) -> Option<Exec> {
        self.route(now, rotation)
    }

    fn holds(&self, now: &CommandResult, rotation: &Rotation) -> bool {
        let settled = TraefikState::parse(&now.stdout).filter(TraefikState::is_settled);
        !self.steers() || settled.is_some_and(|a| a.file.is_some() && self.pin(&a, rotation).is_none())
    }

    fn route(&self, now: &CommandResult, rotation: &Rotation) -> Option<Exec> {
        self.pin(&TraefikState::parse(&now.stdout)?, rotation)
    }

    fn question(&self, endpoints: &[Endpoint]) -> Exec {
        let name = override_file::name(endpoints).unwrap_or_default();
        let named: BTreeSet<String> =
            endpoints.iter().flat_map(|e| HttpLabels::read(&e.labels).service_names()).collect();
        let api = self.api(&name);
        let of = api.as_ref().map(|(api, host)| (api, host.as_str()));
        let services = scripts::services(of, &named.into_iter().collect::<Vec<_>>());
        let remotes = remotes(endpoints);
        self.sh(match self.files(&name) {
            Some((file, door)) => scripts::question(&file, door, self.api.as_ref(), &remotes, &services),
            None => scripts::watching(&remotes, &services),
        })
    }

    fn read(&self, done: &CommandResult, endpoints: &[Endpoint]) -> Result<ProxyState, Error> {
        let answer = self.answer(done)?;
        self.check_references(&answer, endpoints)?;
        let idle = self.settings.idle_timeout();
        let busy = endpoints.iter().map(|e| (e.id.clone(), answer.in_flight(e, idle)));
        Ok(ProxyState {
            routed: self.routed(&answer, endpoints),
            failing: BTreeSet::new(),
            config_applied: !self.steers() || answer.is_settled(),
            in_flight: busy.collect(),
            has_retired_process: answer.file.is_some()
                && endpoints.iter().any(|e| HttpLabels::read(&e.labels).has_middlewares()),
        })
    }

    fn diagnose(&self) -> Exec {
        self.sh(scripts::diagnosis(self.settings.directory(), self.door.as_ref(), self.api.as_ref()))
    }

    fn hand_back(&self, now: &CommandResult, ours: &[Endpoint], _existing: &[String]) -> HandBack {
        let name = override_file::name(ours).unwrap_or_default();
        let (Some(answer), Some((file, _))) = (TraefikState::parse(&now.stdout), self.files(&name)) else {
            return if self.steers() { HandBack::Wait } else { HandBack::Done };
        };
        let Some(text) = &answer.file else {
            return match (&answer.served, answer.has_remains()) {
                (Some(_), _) => HandBack::Wait,
                (None, true) => HandBack::Run(self.sh(scripts::remove_leftovers(&file))),
                (None, false) => HandBack::Done,
            };
        };
        match self.caught_up(&answer, text, ours) {
            DiscoveryState::Yes => HandBack::Run(self.sh(scripts::remove(&file))),
            DiscoveryState::SoonByItself => HandBack::Run(self.sh(scripts::mark(&file))),
            DiscoveryState::No => HandBack::Wait,
        }
    }

    fn late_request_grace(&self) -> Duration {
        LINGER
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod properties;
