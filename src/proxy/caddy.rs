//! Caddy: a switch in front of every `reverse_proxy` that routes to a service, put there through the admin API by the
//! first deploy and turned by files, so that no other deploy needs a reload. What is in flight is Caddy's own count.

mod config;
mod public_route;
mod scripts;
mod snapshot;
mod state;
mod switcher;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::public_route::PublicRoute;
use super::{
    Backend, Endpoint, FileLookup, HandBack, Patch, Proxy, ProxyState, RolloutShape, Rotation, tcp_migrate,
};
use crate::docker::inspect::Container;
use crate::docker::{CommandResult, Exec};
use crate::error::{Error, Risk};
use config::{CaddyFeatures, Handler, Upstream, handlers};
use snapshot::CaddySnapshot;
use state::NOBODY;

const FILE: &str = "/etc/caddy/Caddyfile";

const WITHOUT: &str = "`--proxy-kind none` deploys without gate and drain";

/// A lookup that is kept for longer than this makes a deploy long enough to be told.
const SHORT_REFRESH: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq)]
pub struct Caddy {
    container: Container,
    /// It is caddy-docker-proxy, which writes and loads its configuration by the labels of what runs.
    by_labels: bool,
    known: CaddyConfig,
}

/// What it told of itself.
#[derive(Debug, Clone, Default, PartialEq)]
struct CaddyConfig {
    /// Where its admin API answers.
    api: Option<String>,
    config: Value,
    means: CaddyFeatures,
    /// Why there is no answer, and what its configuration file says instead.
    said: String,
    file: String,
    /// Nothing but its file is known, because it does not run yet.
    is_planned: bool,
}

/// An official image, or one whose process is caddy.
pub fn detect(container: &Container) -> Option<Caddy> {
    let runs = container.programs().any(|program| program == "caddy");
    let ours = is_image(&container.config.image) || runs || container.env("CADDY_VERSION").is_some();
    ours.then(|| Caddy::new(container))
}

/// `caddy`, or lucaslorentz's `caddy-docker-proxy`, from any registry.
pub fn is_image(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or("");
    let name = name.split([':', '@']).next().unwrap_or("");
    name == "caddy" || name == "caddy-docker-proxy"
}

impl Caddy {
    pub fn new(container: &Container) -> Self {
        let by_labels = container.args.iter().any(|a| a == "docker-proxy")
            || container.config.image.contains("caddy-docker-proxy");
        Caddy { container: container.clone(), by_labels, known: CaddyConfig::default() }
    }

    /// The file that `--config` names.
    fn file(&self) -> &str {
        let args = &self.container.args;
        let after = args.windows(2).find(|w| ["--config", "-c"].contains(&w[0].as_str())).map(|w| &w[1]);
        let joined = || args.iter().find_map(|a| a.strip_prefix("--config="));
        after.map(String::as_str).or_else(joined).unwrap_or(FILE)
    }

    fn api(&self) -> &str {
        self.known.api.as_deref().unwrap_or_default()
    }

    fn means(&self) -> &CaddyFeatures {
        &self.known.means
    }

    /// How many lookups and retries there are is not known by the file, but whether it can be told anything is.
    fn check_file(&self) -> Result<Vec<Risk>, Error> {
        match lines(&self.known.file).any(|l| l.split_whitespace().eq(["admin", "off"])) {
            true => Err(self.unreachable()),
            false => Ok(self.keeps_addresses(self.refresh_in_file()).into_iter().collect()),
        }
    }

    /// The longest that it keeps the addresses of a `dynamic a` (or `srv`), a minute where it does not say; of whatever
    /// service that is.
    fn refresh_in_file(&self) -> Option<Duration> {
        let starts = |word| move |l: &&str| l.split_whitespace().next() == Some(word);
        let dynamic = lines(&self.known.file).filter(starts("dynamic")).count();
        let said: Vec<Duration> = lines(&self.known.file)
            .filter(starts("refresh"))
            .filter_map(|l| humantime::parse_duration(l.split_whitespace().nth(1)?).ok())
            .collect();
        let unsaid = (dynamic > said.len()).then_some(Duration::from_secs(60));
        said.into_iter().chain(unsaid).max().filter(|_| dynamic > 0)
    }

    fn keeps_addresses(&self, refresh: Option<Duration>) -> Option<Risk> {
        let refresh = humantime::format_duration(refresh.filter(|r| *r > SHORT_REFRESH)?);
        let says = format!(
            "{}: `dynamic a` keeps addresses for {refresh}, so the deploy ends as long after its start",
            self.name()
        );
        Some(Risk::note("caddy-refresh", says, "with `refresh 1s` it does not wait"))
    }

    /// Whether what routes to these tries another instance where one cannot be reached.
    fn retries(&self, backends: &[Backend]) -> bool {
        let names: Vec<String> = backends.iter().flat_map(|b| b.names.clone()).collect();
        match self.known.is_planned {
            true => ["lb_try_duration", "lb_retries"]
                .iter()
                .any(|word| mentions(&self.known.file, &[word.to_string()])),
            false => self.handlers_of(&names).iter().all(|h| h.retries),
        }
    }

    fn sh(&self, script: impl Into<String>) -> Exec {
        Exec::sh(&self.container.id, script)
    }

    fn refused(&self, why: String, hint: impl Into<String>) -> Error {
        Error::unchanged(format!("{}: {why}", self.name())).hint(hint)
    }

    fn unreachable(&self) -> Error {
        let hint = match (self.by_labels, self.known.said.contains("executable file not found")) {
            (true, true) => {
                "use the tag of its image that ends in `-alpine`: the default has no shell".into()
            }
            (false, true) => format!("use an image with a shell, as the official one; or {WITHOUT}"),
            _ => format!(
                "take `admin off` out of its configuration and restart it: the API is on by default, and only \
                 inside of its container; {WITHOUT}"
            ),
        };
        let said = CommandResult { stderr: self.known.said.clone(), ..CommandResult::default() };
        self.silent(&said).hint(hint).rule(&"caddy-no-admin")
    }

    fn silent(&self, answer: &CommandResult) -> Error {
        let why = "its admin API does not answer, so it cannot be told where to route to".into();
        self.refused(why, "look at its log").detail(answer.stderr_or_stdout())
    }
}

impl Caddy {
    /// Its handlers that route to any of these names.
    fn handlers_of(&self, names: &[String]) -> Vec<Handler> {
        let names: BTreeSet<String> = names.iter().cloned().collect();
        let mut all = handlers(&self.known.config);
        all.retain(|h| h.key(&names).is_some());
        all
    }

    /// What of these it routes to, by its configuration; where that is not known, by what its file says.
    fn routes_to(&self, backend: &Backend) -> bool {
        match (&self.known.api, self.known.file.is_empty()) {
            _ if self.by_labels => labelled(backend).is_some(),
            (Some(_), _) => !self.handlers_of(&backend.names).is_empty(),
            (None, false) => mentions(&self.known.file, &backend.names),
            (None, true) => !self.known.said.is_empty(),
        }
    }

    /// Its upstreams of a backend have a name that what is to come has too, and a port.
    fn check_handlers(&self, backend: &Backend, to_come: &BTreeSet<String>) -> Result<(), Error> {
        let names: BTreeSet<String> = backend.names.iter().cloned().collect();
        let all = self.handlers_of(&backend.names);
        let ours: Vec<&Upstream> = all.iter().flat_map(|h| h.ours(&names)).collect();
        if let Some(gone) = ours.iter().find(|u| !to_come.contains(&u.host)) {
            return Err(self
                .refused(
                    format!(
                        "it routes to `{}`, which is one instance and not what comes after it",
                        gone.host
                    ),
                    format!("route to the service instead: `reverse_proxy {}:…`; {WITHOUT}", backend.service),
                )
                .rule(&"caddy-one-instance"));
        }
        match ours.iter().find(|u| u.port.is_none()) {
            Some(unknown) => Err(self
                .refused(
                    format!("it does not say at which port `{}` is", unknown.host),
                    format!("write the port out, or use `dynamic a` where it is `dynamic srv`; {WITHOUT}"),
                )
                .rule(&"caddy-no-port")),
            None => Ok(()),
        }
    }

    /// A switch has one rotation, so what one handler routes to cannot have two.
    fn check_shared(&self, shape: &RolloutShape) -> Result<(), Error> {
        let beside: BTreeSet<String> = shape.names_in_same_run.iter().cloned().collect();
        for (service, names) in &shape.services {
            let shared =
                self.handlers_of(names).into_iter().find_map(|h| Some(h.ours(&beside).next()?.host.clone()));
            if let Some(other) = shared {
                return Err(self.refused(
                    format!("one `reverse_proxy` routes to `{service}` and to `{other}`, which cannot be switched one by one"),
                    format!("deploy them one after the other, or as one: `x-zd.pairs: {{web: [{service}, {other}]}}`"),
                )
                .rule(&"caddy-shared-route"));
            }
        }
        Ok(())
    }

    /// One that knows only one side of a pair would be left without any.
    fn check_sides(&self, backends: &[Backend]) -> Result<(), Error> {
        let all: Vec<String> = backends.iter().flat_map(|b| b.names.clone()).collect();
        for handler in self.handlers_of(&all) {
            let knows = |b: &&Backend| handler.ours(&b.names.iter().cloned().collect()).next().is_some();
            if let Some(other) = backends.iter().find(|b| !knows(b)) {
                let own = handler.upstreams.first().map(|u| u.host.clone()).unwrap_or_default();
                return Err(self
                    .refused(
                        format!(
                            "it routes to `{own}` and not to `{}`, which takes over from it",
                            other.service
                        ),
                        format!(
                            "name both in one line: `reverse_proxy {own}:… {}:…`; {WITHOUT}",
                            other.service
                        ),
                    )
                    .rule(&"caddy-one-side"));
            }
        }
        Ok(())
    }

    /// The longest that its own discovery keeps an address of these.
    fn refresh(&self, backends: &[Backend]) -> Option<Duration> {
        let names: Vec<String> = backends.iter().flat_map(|b| b.names.clone()).collect();
        let handlers = self.handlers_of(&names);
        handlers.iter().flat_map(|h| &h.upstreams).filter_map(|u| u.refresh).max()
    }

    fn losses_of(&self, backends: &[Backend]) -> Vec<Risk> {
        let name = self.name();
        let by_labels = self.by_labels.then(|| {
            let says =
                format!("{name}: caddy-docker-proxy routes to an instance from its start on, ready or not");
            let fix =
                "with the label `caddy.reverse_proxy.lb_try_duration: 30s` Caddy tries another one meanwhile";
            Risk::grave("caddy-by-labels", says, fix)
        });
        let waits = self.keeps_addresses(self.refresh(backends));
        by_labels.into_iter().chain(waits).collect()
    }
}

/// The label by which caddy-docker-proxy is told to route to something.
pub fn labelled(backend: &Backend) -> Option<&String> {
    let is_caddys = |key: &str| key == "caddy" || key.starts_with("caddy.") || key.starts_with("caddy_");
    backend.labels.iter().find(|(key, _)| is_caddys(key)).map(|(_, value)| value)
}

/// The port of `caddy.reverse_proxy: "{{upstreams 3000}}"`.
fn labelled_port(labels: &BTreeMap<String, String>) -> Option<u16> {
    let mut routes =
        labels.iter().filter(|(key, _)| key.starts_with("caddy") && key.ends_with("reverse_proxy"));
    routes.find_map(|(_, v)| v.trim_matches(['{', '}', ' ']).rsplit(' ').next()?.parse().ok())
}

/// The lines of a configuration file without comments.
fn lines(file: &str) -> impl Iterator<Item = &str> {
    file.lines().filter(|l| !l.trim_start().starts_with('#'))
}

/// Whether a configuration file has one of these names outside of a comment.
fn mentions(file: &str, names: &[String]) -> bool {
    let in_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let mut words = lines(file).flat_map(|l| l.split(|c| !in_name(c)));
    words.any(|word| names.iter().any(|n| n == word))
}

impl Proxy for Caddy {
    fn name(&self) -> String {
        format!("caddy `{}`", self.container.name())
    }

    fn container(&self) -> &Container {
        &self.container
    }

    fn routes_to(&self, backend: &Backend) -> bool {
        let reaches = |n: &String| self.container.networks().any(|own| own == n);
        backend.networks.iter().any(reaches) && self.routes_to(backend)
    }

    fn port(&self, container: &Container) -> Option<u16> {
        let names = container.names();
        let own = names.iter().cloned().collect();
        let told = self.handlers_of(&names).iter().find_map(|h| h.ours(&own).find_map(|u| u.port));
        told.or_else(|| labelled_port(&container.config.labels).filter(|_| self.by_labels))
    }

    /// `php_fastcgi`, or `transport fastcgi`.
    fn speaks_http(&self, container: &Container) -> bool {
        !self.handlers_of(&container.names()).iter().any(|handler| handler.fastcgi)
    }

    fn host(&self, container: &Container) -> Option<String> {
        self.handlers_of(&container.names()).into_iter().find_map(|h| h.public)
    }

    /// caddy-docker-proxy's is known by the configuration that it has loaded.
    fn entrances(&self, container: &Container) -> Vec<PublicRoute> {
        let addresses = container.addresses_reached_from(&self.container);
        let names = container.names().into_iter().chain(addresses.iter().map(ToString::to_string));
        public_route::entrances(&self.known.config, &names.collect())
    }

    fn introduction(&self) -> Option<Exec> {
        Some(self.sh(scripts::introduction(self.file())))
    }

    fn learn(&mut self, answer: &CommandResult) {
        self.known = CaddyConfig::read(answer);
    }

    fn learn_files(&mut self, files: FileLookup) -> bool {
        let file = files(self.file()).map(|given| given.text);
        let is_known = file.is_some() || self.by_labels;
        self.known =
            CaddyConfig { file: file.unwrap_or_default(), is_planned: true, ..CaddyConfig::default() };
        is_known
    }

    fn advice(&self, backends: &[Backend]) -> Vec<Risk> {
        let says = format!(
            "{}: it does not try again, so a request is answered with 502 while an instance that has crashed is still routed to",
            self.name()
        );
        let without = !self.by_labels && !self.retries(backends);
        let note = Risk::note("caddy-no-retries", says, "add `lb_try_duration 5s` to its `reverse_proxy`");
        without.then_some(note).into_iter().collect()
    }

    fn doubt(&self, backends: &[Backend]) -> Option<String> {
        let variable = |name: &str| self.container.env(name).map(String::from);
        let names: BTreeSet<String> = backends.iter().flat_map(|b| b.names.clone()).collect();
        if let Some(route) = config::unknown_route(&self.known.config, &names, &variable) {
            return Some(route);
        }
        let open = lines(&self.known.file).find(|line| line.contains("{$") || line.contains("{env."))?;
        Some(format!("it does not answer, and its file goes by variables: `{}`", open.trim()))
    }

    fn check(&self, backends: &[Backend]) -> Result<Vec<Risk>, Error> {
        if self.known.is_planned {
            return self.check_file();
        }
        if self.known.api.is_none() {
            return Err(self.unreachable());
        }
        let to_come = backends.iter().filter(|b| !b.is_running).flat_map(|b| b.names.clone()).collect();
        backends.iter().try_for_each(|b| self.check_handlers(b, &to_come))?;
        self.check_sides(backends)?;
        Ok(self.losses_of(backends))
    }

    fn inspect(&self) -> Vec<Exec> {
        vec![self.question(&[]), tcp_migrate::query(&self.container)]
    }

    fn prepare(&self, answers: &[CommandResult], shape: &RolloutShape) -> Result<Vec<Patch>, Error> {
        self.check_shared(shape)?;
        let answer = answers.first().cloned().unwrap_or_default();
        let view =
            CaddySnapshot::read(&answer.stdout, shape.names().flatten().cloned().collect(), self.means());
        let view = view.ok_or_else(|| self.silent(&answer))?;
        let switch = self.preparation(&view, shape.tune);
        let kept = answers.get(1).filter(|_| shape.tune && switch.is_some());
        let kept = kept.and_then(|a| tcp_migrate::patch(&self.container, &self.name(), a));
        Ok(kept.into_iter().chain(switch).collect())
    }

    fn needs_reading(&self) -> bool {
        true
    }

    /// Where nobody serves yet, nobody gets requests until somebody is ready.
    fn gate(&self, now: &CommandResult, rotation: &Rotation) -> Option<Exec> {
        let view = self.view(now, &rotation.all()).filter(|v| !v.handlers.is_empty())?;
        self.turn(&view, &names_in(rotation))
    }

    fn holds(&self, now: &CommandResult, rotation: &Rotation) -> bool {
        let view = self.view(now, &rotation.all());
        view.is_some_and(|v| v.handlers.is_empty() || v.sends_to(&names_in(rotation)))
    }

    fn route(&self, now: &CommandResult, rotation: &Rotation) -> Option<Exec> {
        let view = self.view(now, &rotation.all()).filter(|_| !rotation.inside.is_empty())?;
        self.turn(&view, &names_in(rotation))
    }

    fn question(&self, _endpoints: &[Endpoint]) -> Exec {
        self.sh(scripts::question(self.api(), self.means()))
    }

    fn read(&self, answer: &CommandResult, endpoints: &[Endpoint]) -> Result<ProxyState, Error> {
        let view = self.view(answer, endpoints).ok_or_else(|| self.silent(answer))?;
        let routed = endpoints.iter().filter(|e| view.routes_to(e));
        Ok(ProxyState {
            routed: routed.map(|e| e.id.clone()).collect(),
            config_applied: view.is_switched || !view.is_on(),
            in_flight: view.in_flight(endpoints, self.means().counts_names),
            ..ProxyState::default()
        })
    }

    fn diagnose(&self) -> Exec {
        self.sh(scripts::diagnosis(self.means()))
    }

    fn hand_back(&self, now: &CommandResult, ours: &[Endpoint], _existing: &[String]) -> HandBack {
        match self.view(now, ours) {
            Some(view) if view.stale_for().is_zero() => self.give_back(&view),
            Some(_) | None => HandBack::Wait,
        }
    }

    fn discovery_timeout(&self) -> Duration {
        let kept =
            handlers(&self.known.config).into_iter().flat_map(|h| h.upstreams).filter_map(|u| u.refresh);
        super::DISCOVERY_TIMEOUT.saturating_add(kept.max().unwrap_or_default())
    }

    fn late_request_grace(&self) -> Duration {
        Duration::ZERO
    }
}

/// The names that a bank is to have; never none.
fn names_in(rotation: &Rotation) -> Vec<String> {
    let mut names: Vec<String> = rotation.inside.iter().map(|e| e.name.clone()).collect();
    names.sort_unstable();
    match names.is_empty() {
        true => vec![NOBODY.into()],
        false => names,
    }
}

impl CaddyConfig {
    fn read(answer: &CommandResult) -> CaddyConfig {
        let line = |mark: &str| answer.stdout.lines().find_map(|l| l.strip_prefix(mark)).unwrap_or("").trim();
        let version = version(line("@version"));
        let (head, config) = answer.stdout.split_once("@config\n").unwrap_or((&answer.stdout, ""));
        let config = serde_json::from_str(config.trim()).ok();
        let (said, file) = head.split_once("@file\n").unwrap_or((head, ""));
        let said = said.split_once("@said ").map_or(answer.stderr_or_stdout(), |(_, said)| said);
        CaddyConfig {
            api: config.as_ref().map(|_| line("@api ").into()),
            config: config.unwrap_or_default(),
            means: CaddyFeatures {
                folder: line("@folder ").into(),
                reads_files: version >= [2, 8, 0],
                sets_host: version >= [2, 11, 0],
                counts_names: version >= [2, 11, 2],
            },
            said: said.trim().into(),
            file: file.into(),
            is_planned: false,
        }
    }
}

/// Reads `v2.11.4 h1:…`; one that cannot be told counts as old.
fn version(text: &str) -> [u32; 3] {
    let text = text.split_whitespace().next().unwrap_or("").trim_start_matches('v');
    let mut parts = text.split(['.', '-', '+']).map(|p| p.parse().unwrap_or(0));
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod properties;
