//! Adapter of Caddy. The first deploy adds a switch in front of every `reverse_proxy` that routes to a service, through
//! the admin API. Files set the switch, so later deploys need no reload. Caddy's own counters give the requests in
//! flight.

mod config;
mod files;
mod public_route;
mod scripts;
mod snapshot;
mod state;
mod switcher;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::kit::version;
use super::{
    Abilities, Adapter, Audit, Backend, Change, Endpoint, FileLookup, Goal, Next, Place, Planned, Proxy,
    ProxyContainer, ProxyFiles, ProxyState, Query, RolloutShape, Rotation, RouteInfo, boxed, tcp_migrate,
};
use crate::docker::inspect::Container;
use crate::docker::{CommandResult, Exec};
use crate::error::Error;
use crate::finding::Finding;
use config::{CaddyFeatures, Handler, Upstream, handlers};
use snapshot::CaddySnapshot;
use state::NO_INSTANCE;

const DEFAULT_CONFIG_FILE: &str = "/etc/caddy/Caddyfile";

const WITHOUT_PROXY_HINT: &str = "`--proxy-kind none` deploys without gate and drain";

/// Longest refresh interval that is not reported as a delay of the deploy.
const SHORT_REFRESH: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq)]
pub struct Caddy {
    place: ProxyContainer,
    /// True for caddy-docker-proxy, which generates its configuration from the labels of the running containers.
    by_labels: bool,
    settings: CaddyConfig,
}

/// Configuration of Caddy, from the output of the configuration script or from a file.
#[derive(Debug, Clone, Default, PartialEq)]
struct CaddyConfig {
    /// Address of the admin API; `None` if the API does not answer.
    api_address: Option<String>,
    config: Value,
    features: CaddyFeatures,
    /// Error of the admin API.
    api_error: String,
    /// Text of the configuration file; empty if the admin API answers.
    file_text: String,
    /// True if only the file is known, because Caddy does not run yet.
    is_planned: bool,
}

pub const ADAPTER: Adapter = Adapter {
    kind: "caddy",
    is_image,
    route_setting: |backend| caddy_label(backend).map(|_| "the labels `caddy…`"),
    detect: |container, _| detect(container).map(boxed),
    declared: |container| boxed(Caddy::new(container)),
};

/// Proxy in a container with an official or derived image, or with the process `caddy`.
pub fn detect(container: &Container) -> Option<Caddy> {
    let is_process = container.programs().any(|program| program == "caddy");
    let is_caddy =
        is_image(&container.config.image) || is_process || container.env("CADDY_VERSION").is_some();
    is_caddy.then(|| Caddy::new(container))
}

/// True for the image `caddy`, or lucaslorentz's `caddy-docker-proxy`, of any registry.
pub fn is_image(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or("");
    let name = name.split([':', '@']).next().unwrap_or("");
    name == "caddy" || name == "caddy-docker-proxy"
}

impl Caddy {
    pub fn new(container: &Container) -> Self {
        let by_labels = container.args.iter().any(|a| a == "docker-proxy")
            || container.config.image.contains("caddy-docker-proxy");
        Caddy { place: ProxyContainer::new("caddy", container), by_labels, settings: CaddyConfig::default() }
    }

    /// Configuration file, which `--config` may name.
    fn config_file(&self) -> &str {
        let args = &self.place.container.args;
        let separate = args.windows(2).find(|w| ["--config", "-c"].contains(&w[0].as_str())).map(|w| &w[1]);
        let joined = || args.iter().find_map(|a| a.strip_prefix("--config="));
        separate.map(String::as_str).or_else(joined).unwrap_or(DEFAULT_CONFIG_FILE)
    }

    fn api_address(&self) -> &str {
        self.settings.api_address.as_deref().unwrap_or_default()
    }

    fn features(&self) -> &CaddyFeatures {
        &self.settings.features
    }

    /// Checks a Caddy that does not run yet, by its file: the admin API, but not the settings of each handler.
    fn check_file(&self) -> Result<Vec<Finding>, Error> {
        if lines(&self.settings.file_text).any(|l| l.split_whitespace().eq(["admin", "off"])) {
            return Err(self.unreachable_error());
        }
        Ok(self.refresh_risk(self.longest_refresh_in_file()).into_iter().collect())
    }

    /// Longest refresh interval of all `dynamic a` (or `srv`) in the file, also those of other services. The default
    /// is a minute.
    fn longest_refresh_in_file(&self) -> Option<Duration> {
        let starts = |word| move |l: &&str| l.split_whitespace().next() == Some(word);
        let dynamic = lines(&self.settings.file_text).filter(starts("dynamic")).count();
        let intervals: Vec<Duration> = lines(&self.settings.file_text)
            .filter(starts("refresh"))
            .filter_map(|l| humantime::parse_duration(l.split_whitespace().nth(1)?).ok())
            .collect();
        let default = (dynamic > intervals.len()).then_some(Duration::from_secs(60));
        intervals.into_iter().chain(default).max().filter(|_| dynamic > 0)
    }

    fn refresh_risk(&self, refresh: Option<Duration>) -> Option<Finding> {
        let refresh = humantime::format_duration(refresh.filter(|r| *r > SHORT_REFRESH)?);
        let message = format!(
            "{}: `dynamic a` keeps addresses for {refresh}, so a deploy takes at least as long",
            self.name()
        );
        Some(Finding::note("caddy-refresh", message, "set `refresh 1s`, and a deploy does not wait"))
    }

    /// True if every handler of these backends retries a failed connection on another instance.
    fn retries(&self, backends: &[Backend]) -> bool {
        let names: Vec<String> = backends.iter().flat_map(|b| b.names.clone()).collect();
        if self.settings.is_planned {
            let options = ["lb_try_duration", "lb_retries"].map(String::from);
            return mentions(&self.settings.file_text, &options);
        }
        self.handlers_of(&names).iter().all(|h| h.retries)
    }

    fn unreachable_error(&self) -> Error {
        let hint = match (self.by_labels, self.settings.api_error.contains("executable file not found")) {
            (true, true) => {
                "use the tag of its image that ends in `-alpine`: the default image has no shell".into()
            }
            (false, true) => {
                format!("use an image with a shell, such as the official one; or {WITHOUT_PROXY_HINT}")
            }
            _ => format!(
                "remove `admin off` from its configuration and restart it: the API is on by default, and only \
                 inside its container; {WITHOUT_PROXY_HINT}"
            ),
        };
        let output = CommandResult { stderr: self.settings.api_error.clone(), ..CommandResult::default() };
        self.no_answer_error(&output).hint(hint).rule(&"caddy-no-admin")
    }

    fn no_answer_error(&self, output: &CommandResult) -> Error {
        let why = "its admin API does not answer, so compose-zd cannot switch its routes";
        self.place.refused(why, "look at its log").detail(output.stderr_or_stdout())
    }
}

impl Caddy {
    /// Handlers that route to any of these names.
    fn handlers_of(&self, names: &[String]) -> Vec<Handler> {
        let names: BTreeSet<String> = names.iter().cloned().collect();
        let mut handlers = handlers(&self.settings.config);
        handlers.retain(|h| h.key(&names).is_some());
        handlers
    }

    /// True if Caddy routes to the backend, by its loaded configuration, or else by its file.
    fn has_route_to(&self, backend: &Backend) -> bool {
        match (&self.settings.api_address, self.settings.file_text.is_empty()) {
            _ if self.by_labels => caddy_label(backend).is_some(),
            (Some(_), _) => !self.handlers_of(&backend.names).is_empty(),
            (None, false) => mentions(&self.settings.file_text, &backend.names),
            (None, true) => !self.settings.api_error.is_empty(),
        }
    }

    /// Checks that each upstream of a backend has a port, and a name that the new instances will have, too.
    fn check_handlers(&self, backend: &Backend, future_names: &BTreeSet<String>) -> Result<(), Error> {
        let names: BTreeSet<String> = backend.names.iter().cloned().collect();
        let handlers = self.handlers_of(&backend.names);
        let upstreams: Vec<&Upstream> = handlers.iter().flat_map(|h| h.upstreams_of(&names)).collect();
        if let Some(replaced) = upstreams.iter().find(|u| !future_names.contains(&u.host)) {
            return Err(self
                .place
                .refused(
                    format!("it routes to `{}`, a single instance that the deploy replaces", replaced.host),
                    format!(
                        "route to the service instead: `reverse_proxy {}:…`; {WITHOUT_PROXY_HINT}",
                        backend.service
                    ),
                )
                .rule(&"caddy-one-instance"));
        }
        match upstreams.iter().find(|u| u.port.is_none()) {
            Some(upstream) => Err(self
                .place
                .refused(
                    format!("it does not name the port of `{}`", upstream.host),
                    format!(
                        "write the port, or use `dynamic a` instead of `dynamic srv`; {WITHOUT_PROXY_HINT}"
                    ),
                )
                .rule(&"caddy-no-port")),
            None => Ok(()),
        }
    }

    /// Checks that no handler routes to two services of the same run: each handler has one switch, and so one rotation.
    fn check_shared(&self, shape: &RolloutShape) -> Result<(), Error> {
        let other_names: BTreeSet<String> = shape.names_in_same_run.iter().cloned().collect();
        for (service, names) in &shape.services {
            let shared = self
                .handlers_of(names)
                .into_iter()
                .find_map(|h| Some(h.upstreams_of(&other_names).next()?.host.clone()));
            if let Some(other) = shared {
                return Err(self.place.refused(
                    format!("one `reverse_proxy` routes to `{service}` and to `{other}`, so they cannot be switched separately"),
                    format!("deploy them one after the other, or as one: `x-zd.pairs: {{web: [{service}, {other}]}}`"),
                )
                .rule(&"caddy-shared-route"));
            }
        }
        Ok(())
    }

    /// Checks that each handler routes to both sides of a pair. Otherwise the handler would have no upstream while the
    /// other side is active.
    fn check_sides(&self, backends: &[Backend]) -> Result<(), Error> {
        let names: Vec<String> = backends.iter().flat_map(|b| b.names.clone()).collect();
        for handler in self.handlers_of(&names) {
            let routes_to =
                |b: &&Backend| handler.upstreams_of(&b.names.iter().cloned().collect()).next().is_some();
            if let Some(other) = backends.iter().find(|b| !routes_to(b)) {
                let own = handler.upstreams.first().map(|u| u.host.clone()).unwrap_or_default();
                return Err(self
                    .place
                    .refused(
                        format!(
                            "it routes to `{own}` and not to `{}`, which takes over from it",
                            other.service
                        ),
                        format!(
                            "name both in one line: `reverse_proxy {own}:… {}:…`; {WITHOUT_PROXY_HINT}",
                            other.service
                        ),
                    )
                    .rule(&"caddy-one-side"));
            }
        }
        Ok(())
    }

    /// Longest refresh interval of these backends: the time for which Caddy's own discovery keeps an address.
    fn longest_refresh(&self, backends: &[Backend]) -> Option<Duration> {
        let names: Vec<String> = backends.iter().flat_map(|b| b.names.clone()).collect();
        let handlers = self.handlers_of(&names);
        handlers.iter().flat_map(|h| &h.upstreams).filter_map(|u| u.refresh).max()
    }

    fn risks(&self, backends: &[Backend]) -> Vec<Finding> {
        let name = self.name();
        let by_labels = self.by_labels.then(|| {
            let message =
                    format!("{name}: caddy-docker-proxy routes to an instance as soon as it starts, ready or not");
                let fix = "add the label `caddy.reverse_proxy.lb_try_duration: 30s`: Caddy then retries on another instance";
                Finding::loss("caddy-by-labels", message, fix)
        });
        let refresh = self.refresh_risk(self.longest_refresh(backends));
        by_labels.into_iter().chain(refresh).collect()
    }
}

/// Value of a label that makes caddy-docker-proxy route to the backend.
pub fn caddy_label(backend: &Backend) -> Option<&String> {
    let is_caddy = |key: &str| key == "caddy" || key.starts_with("caddy.") || key.starts_with("caddy_");
    backend.labels.iter().find(|(key, _)| is_caddy(key)).map(|(_, value)| value)
}

/// Port in the label `caddy.reverse_proxy: "{{upstreams 3000}}"`.
fn labelled_port(labels: &BTreeMap<String, String>) -> Option<u16> {
    let mut routes =
        labels.iter().filter(|(key, _)| key.starts_with("caddy") && key.ends_with("reverse_proxy"));
    routes.find_map(|(_, v)| v.trim_matches(['{', '}', ' ']).rsplit(' ').next()?.parse().ok())
}

/// Lines of a configuration file, without comments.
fn lines(file: &str) -> impl Iterator<Item = &str> {
    file.lines().filter(|l| !l.trim_start().starts_with('#'))
}

/// True if a configuration file has one of these names outside comments.
fn mentions(file: &str, names: &[String]) -> bool {
    let in_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let mut words = lines(file).flat_map(|l| l.split(|c| !in_name(c)));
    words.any(|word| names.iter().any(|n| n == word))
}

impl Proxy for Caddy {
    fn place(&self) -> Place<'_> {
        Place::Container(&self.place)
    }

    fn routes_to(&self, backend: &Backend) -> bool {
        self.place.reaches(backend) && self.has_route_to(backend)
    }

    /// Public routes, also those of caddy-docker-proxy, are those of the loaded configuration. A handler is no HTTP with
    /// `php_fastcgi` or `transport fastcgi`.
    fn route_to(&self, backend: &Backend) -> RouteInfo {
        let names: BTreeSet<String> = backend.names.iter().cloned().collect();
        let handlers = self.handlers_of(&backend.names);
        let port = handlers.iter().find_map(|h| h.upstreams_of(&names).find_map(|u| u.port));
        let by_address = names.into_iter().chain(backend.addresses.iter().map(ToString::to_string));
        RouteInfo {
            port: port.or_else(|| labelled_port(&backend.labels).filter(|_| self.by_labels)),
            not_http: handlers.iter().any(|handler| handler.fastcgi),
            answer_timeout: None,
            public: public_route::public_routes(&self.settings.config, &by_address.collect()),
            host: handlers.into_iter().find_map(|h| h.public_host),
        }
    }

    fn introduction(&self) -> Option<Exec> {
        Some(self.place.sh(scripts::config_script(self.config_file())))
    }

    fn learn(&mut self, output: &CommandResult) {
        self.settings = CaddyConfig::parse(output);
    }

    fn learn_files(&mut self, files: FileLookup) -> bool {
        let file = files(self.config_file()).map(|file| file.text);
        let is_known = file.is_some() || self.by_labels;
        self.settings =
            CaddyConfig { file_text: file.unwrap_or_default(), is_planned: true, ..CaddyConfig::default() };
        is_known
    }

    fn doubt(&self, backends: &[Backend]) -> Option<String> {
        let variable = |name: &str| self.place.container.env(name).map(String::from);
        let names: BTreeSet<String> = backends.iter().flat_map(|b| b.names.clone()).collect();
        if let Some(route) = config::unknown_route(&self.settings.config, &names, &variable) {
            return Some(route);
        }
        if self.settings.is_planned && self.settings.file_text.is_empty() && !self.by_labels {
            return Some("its configuration cannot be read".into());
        }
        let unresolved =
            lines(&self.settings.file_text).find(|line| line.contains("{$") || line.contains("{env."))?;
        Some(format!("its admin API does not answer, and its file has variables: `{}`", unresolved.trim()))
    }

    fn files(&self) -> ProxyFiles {
        files::files(self)
    }

    fn audit(&self, shape: &RolloutShape, _planned: Option<&Planned>) -> Audit {
        let advice = self.advice(&shape.backends);
        Audit { advice, ..Audit::default() }.and(|| self.check(&shape.backends))
    }

    fn abilities(&self) -> Abilities {
        let intervals =
            handlers(&self.settings.config).into_iter().flat_map(|h| h.upstreams).filter_map(|u| u.refresh);
        let default = Abilities::default();
        let discovery_timeout = default.discovery_timeout.saturating_add(intervals.max().unwrap_or_default());
        Abilities { discovery_timeout, ..default }
    }

    fn queries(&self, goal: &Goal) -> Vec<Query> {
        match goal {
            Goal::Patched(_) => vec![self.question(&[]).into(), tcp_migrate::query(&self.place).into()],
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
            Goal::Gated(rotation) if self.holds(&output, rotation) => Next::Done,
            Goal::Gated(rotation) => Next::run_or_wait(self.gate(&output, rotation)),
            Goal::Rotation(rotation) => Next::run_or_wait(self.route(&output, rotation)),
            Goal::HandedBack(discovery) => self.hand_back(&output, &discovery.endpoints),
        };
        Ok((state, next))
    }

    fn diagnose(&self) -> Query {
        self.place.sh(scripts::diagnosis_script(self.features())).into()
    }
}

impl Caddy {
    fn advice(&self, backends: &[Backend]) -> Vec<Finding> {
        let message = format!(
            "{}: it does not retry, so a request to an instance that has just crashed is answered with 502",
            self.name()
        );
        let applies = !self.by_labels && !self.retries(backends);
        let note =
            Finding::note("caddy-no-retries", message, "add `lb_try_duration 5s` to its `reverse_proxy`");
        applies.then_some(note).into_iter().collect()
    }

    fn check(&self, backends: &[Backend]) -> Result<Vec<Finding>, Error> {
        if self.settings.is_planned {
            return self.check_file();
        }
        if self.settings.api_address.is_none() {
            return Err(self.unreachable_error());
        }
        let future_names = backends.iter().filter(|b| !b.is_running).flat_map(|b| b.names.clone()).collect();
        backends.iter().try_for_each(|b| self.check_handlers(b, &future_names))?;
        self.check_sides(backends)?;
        Ok(self.risks(backends))
    }

    fn prepare(&self, outputs: &[CommandResult], shape: &RolloutShape) -> Result<Vec<Change>, Error> {
        self.check_shared(shape)?;
        let output = outputs.first().cloned().unwrap_or_default();
        let names = shape.names().flatten().cloned().collect();
        let snapshot = CaddySnapshot::parse(&output.stdout, names, self.features());
        let snapshot = snapshot.ok_or_else(|| self.no_answer_error(&output))?;
        let switch = self.switch_patch(&snapshot, shape.tune);
        let setting = outputs.get(1).filter(|_| shape.tune && switch.is_some());
        let migrate = setting.and_then(|output| tcp_migrate::patch(&self.place, output));
        Ok(migrate.into_iter().chain(switch).collect())
    }

    /// Sets the switch to the serving instances. If no instance serves yet, none gets requests until one is ready.
    fn gate(&self, output: &CommandResult, rotation: &Rotation) -> Option<Exec> {
        let snapshot = self.snapshot(output, &rotation.all()).filter(|s| !s.handlers.is_empty())?;
        self.switch_to(&snapshot, &names_for_bank(rotation))
    }

    fn holds(&self, output: &CommandResult, rotation: &Rotation) -> bool {
        let snapshot = self.snapshot(output, &rotation.all());
        snapshot.is_some_and(|s| s.handlers.is_empty() || s.sends_to(&names_for_bank(rotation)))
    }

    fn route(&self, output: &CommandResult, rotation: &Rotation) -> Option<Exec> {
        let snapshot = self.snapshot(output, &rotation.all()).filter(|_| !rotation.inside.is_empty())?;
        self.switch_to(&snapshot, &names_for_bank(rotation))
    }

    fn question(&self, _endpoints: &[Endpoint]) -> Exec {
        self.place.sh(scripts::state_script(self.api_address(), self.features()))
    }

    fn read(&self, output: &CommandResult, endpoints: &[Endpoint]) -> Result<ProxyState, Error> {
        let snapshot = self.snapshot(output, endpoints).ok_or_else(|| self.no_answer_error(output))?;
        let routed = endpoints.iter().filter(|e| snapshot.routes_to(e));
        Ok(ProxyState {
            routed: routed.map(|e| e.id.clone()).collect(),
            config_applied: snapshot.is_switched || !snapshot.is_any_switch_on(),
            in_flight: snapshot.in_flight(endpoints, self.features().counts_names),
            ..ProxyState::default()
        })
    }

    fn hand_back(&self, output: &CommandResult, endpoints: &[Endpoint]) -> Next {
        match self.snapshot(output, endpoints) {
            Some(snapshot) if snapshot.stale_for().is_zero() => self.hand_back_switches(&snapshot),
            Some(_) | None => Next::Wait,
        }
    }
}

/// Container names for a bank, one of the two lists of instances between which a switch selects. Never empty.
fn names_for_bank(rotation: &Rotation) -> Vec<String> {
    let mut names: Vec<String> = rotation.inside.iter().map(|e| e.name.clone()).collect();
    names.sort_unstable();
    if names.is_empty() { vec![NO_INSTANCE.into()] } else { names }
}

impl CaddyConfig {
    fn parse(output: &CommandResult) -> CaddyConfig {
        let line = |mark: &str| output.stdout.lines().find_map(|l| l.strip_prefix(mark)).unwrap_or("").trim();
        // `v2.11.4 h1:…`; an unknown version counts as old.
        let version = version::parse(line("@version")).unwrap_or([0; 3]);
        let (head, config) = output.stdout.split_once("@config\n").unwrap_or((&output.stdout, ""));
        let config = serde_json::from_str(config.trim()).ok();
        let (error, file) = head.split_once("@file\n").unwrap_or((head, ""));
        let error = error.split_once("@error ").map_or(output.stderr_or_stdout(), |(_, error)| error);
        CaddyConfig {
            api_address: config.as_ref().map(|_| line("@api ").into()),
            config: config.unwrap_or_default(),
            features: CaddyFeatures {
                folder: line("@folder ").into(),
                reads_files: version >= [2, 8, 0],
                sets_host: version >= [2, 11, 0],
                counts_names: version >= [2, 11, 2],
            },
            api_error: error.trim().into(),
            file_text: file.into(),
            is_planned: false,
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod properties;
