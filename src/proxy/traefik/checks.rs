//! What a Traefik lacks for a deploy without loss, told before anything is touched.

use std::time::Duration;

use super::labels::{self, HttpLabels, default_rule};
use super::state::TraefikState;
use super::{Backend, CommandResult, Endpoint, Error, Risk, Traefik};
use crate::error::Rule;

pub const FILES: &str = "--providers.file.directory=/etc/traefik/dynamic --providers.file.watch=true";
const IDLE: &str = "--serversTransport.forwardingTimeouts.idleConnTimeout=1s";

/// An idle connection that stays open for longer is worth a word.
const SHORT: Duration = Duration::from_secs(5);

const OTHERWISE: &str = "`--proxy-kind none` deploys without gate and drain";

impl Traefik {
    pub(super) fn refused(&self, rule: Rule, why: String, hint: &str) -> Error {
        Error::unchanged(format!("{}: {why}", self.called())).hint(hint).rule(rule)
    }

    /// What holds with and without files of routes.
    pub(super) fn check_labels(&self, backend: &Backend) -> Result<(), Error> {
        let service = &backend.service;
        if let Some(label) = labels::beyond_http(&backend.labels) {
            let why =
                format!("`{service}` has the label `traefik.{label}`: TCP and UDP routes cannot be switched");
            return Err(self.refused(&"traefik-tcp", why, OTHERWISE));
        }
        if self.takes(backend).is_none() {
            let why = format!(
                "its `providers.docker.constraints` (`{}`) cannot be evaluated: whether it routes to `{service}` is not known",
                self.settings.constraints()
            );
            let fix = "use `Label` instead of `LabelRegex` in it, or `--proxy-kind none`";
            return Err(self.refused(&"traefik-constraints", why, fix));
        }
        self.check_routes(backend)
    }

    fn check_routes(&self, backend: &Backend) -> Result<(), Error> {
        let service = &backend.service;
        let http = HttpLabels::read(&backend.labels);
        let template = self.settings.default_rule();
        let without = http.rules().count() < http.routers.len();
        if without && self.steers_by_file() && default_rule(template, &backend.labels).is_none() {
            let why = format!(
                "a router of `{service}` has no rule, and `providers.docker.defaultRule` (`{template}`) cannot be evaluated"
            );
            return Err(self.refused(
                &"traefik-no-rule",
                why,
                "give it the label `traefik.http.routers.NAME.rule`",
            ));
        }
        match http.servers().find(|(_, server)| labels::text(server, "url").is_some()) {
            Some((name, _)) => Err(self.refused(
                &"traefik-server-url",
                format!("the label `traefik.http.services.{name}.loadbalancer.server.url` is one address for all instances"),
                "use `loadbalancer.server.port`, and `loadbalancer.server.scheme` for HTTPS",
            )),
            None => Ok(()),
        }
    }

    /// With a directory of routes: there has to be a way to ask whether a file is in force.
    pub(super) fn check_door(&self) -> Result<Vec<Risk>, Error> {
        if self.door.is_none() {
            return Err(self.refused(
                &"traefik-no-door",
                "all its entry points have middlewares or redirections, so it cannot be asked what is in force".into(),
                "add an entry point of its own, `--entryPoints.zd.address=127.0.0.1:8899`, or `--api.insecure=true`",
            ));
        }
        if self.tool.is_none() {
            return Err(self.refused(
                &"traefik-no-tool",
                "there is neither wget, curl, nc nor bash in it to ask it with".into(),
                &format!("use the official image; {OTHERWISE}"),
            ));
        }
        Ok(self.slow_drain().into_iter().collect())
    }

    fn slow_drain(&self) -> Option<Risk> {
        let idle = self.settings.idle_timeout();
        let says = format!(
            "{} keeps connections that nobody uses for {}s, so a drain may take as long, or until the drain timeout",
            self.called(),
            idle.as_secs()
        );
        (idle > SHORT).then(|| Risk::note("traefik-slow-drain", says, format!("start it with `{IDLE}`")))
    }

    /// Without one, its own discovery does everything, and is only watched.
    pub(super) fn check_discovery(&self, backends: &[Backend]) -> Result<Vec<Risk>, Error> {
        if self.api.is_none() || self.tool.is_none() {
            return Err(self.refused(
                &"traefik-no-files",
                "it watches no directory of routes, and its API cannot be asked: it cannot be told, nor seen, where \
                 requests go"
                    .into(),
                &format!("start it with `{FILES}` and a volume there; {OTHERWISE}"),
            ));
        }
        self.check_generations(backends)?;
        let fix = format!("or start {} with `{FILES}` and a volume there", self.called());
        let coming = backends.iter().filter(|b| !b.is_running);
        Ok(coming.flat_map(|b| losses(b, &fix)).chain(self.slow_drain()).collect())
    }

    fn check_generations(&self, backends: &[Backend]) -> Result<(), Error> {
        let (running, coming): (Vec<&Backend>, Vec<&Backend>) = backends.iter().partition(|b| b.is_running);
        let pairs = running
            .iter()
            .flat_map(|r| coming.iter().filter(|c| c.service == r.service).map(move |c| (r, c)));
        for (old, new) in pairs {
            if let Some((label, before, after)) = labels::conflict(&old.labels, &new.labels) {
                let why = format!(
                    "`{}` changes the label `{label}` from `{before}` to `{after}`: while both run, Traefik drops what \
                     they disagree on, and nobody reaches either",
                    new.service
                );
                let hint =
                    format!("start it with `{FILES}` and a volume there; or give the router another name");
                return Err(self.refused(&"traefik-labels", why, &hint));
            }
        }
        Ok(())
    }

    /// A directory that takes a file.
    pub(super) fn check_directory(&self, directory: &str, answer: &CommandResult) -> Result<(), Error> {
        if !answer.ok() {
            let why = format!("its directory of routes, {directory}, is not there");
            return Err(self
                .refused(&"traefik-directory", why, "give it a volume there")
                .detail(answer.stderr_or_stdout()));
        }
        match answer.stdout.contains("@readonly") {
            true => Err(self.refused(
                &"traefik-directory",
                format!("its directory of routes, {directory}, cannot be written to"),
                "mount it without `:ro`: compose-zd adds a file while it deploys",
            )),
            false => Ok(()),
        }
    }

    /// No file routes to a service of labels, which a file of ours does not take over.
    pub(super) fn check_references(
        &self,
        answer: &TraefikState,
        endpoints: &[Endpoint],
    ) -> Result<(), Error> {
        let services: Vec<String> =
            endpoints.iter().flat_map(|e| HttpLabels::read(&e.labels).service_names()).collect();
        let refers = |line: &&String| {
            let name = line.rsplit([' ', ':', '=']).next().and_then(|n| n.strip_suffix("@docker"));
            name.is_some_and(|n| services.iter().any(|s| s == n))
        };
        let routers: Vec<String> =
            endpoints.iter().flat_map(|e| HttpLabels::read(&e.labels).router_names()).collect();
        let stranger = answer.stranger(&routers).filter(|_| self.steers_by_file() && answer.file.is_none());
        match answer.references.iter().find(refers).map(String::as_str).or(stranger) {
            Some(router) => Err(self.refused(
                &"traefik-foreign-router",
                format!("a router that is not of its labels routes to `{}`: {router}", endpoints[0].service),
                &format!(
                    "it cannot be switched: say it by labels of `{}`; {OTHERWISE}",
                    endpoints[0].service
                ),
            )),
            None => Ok(()),
        }
    }

    /// What keeps it from being a proxy that can be asked at all.
    pub(super) fn check_settings(&self) -> Result<(), Error> {
        match self.settings.watches_docker() {
            true => Ok(()),
            false => Err(self.refused(
                &"traefik-watch",
                "its docker provider does not watch (`providers.docker.watch`): it never sees a new instance"
                    .into(),
                "leave `providers.docker.watch` as it is by default",
            )),
        }
    }
}

fn losses(backend: &Backend, fix: &str) -> Vec<Risk> {
    let service = &backend.service;
    let mut losses = Vec::new();
    if !backend.has_healthcheck {
        let says =
            format!("`{service}` has no healthcheck, so a new instance gets requests before it is ready");
        losses.push(Risk::grave("traefik-no-healthcheck", says, format!("give it one, {fix}")));
    }
    if !backend.has_drain_command {
        let says = format!(
            "`{service}` has no `x-zd.drain.command`, so an instance is stopped while Traefik still sends it requests"
        );
        let fix = format!("set one that makes its healthcheck fail, {fix}");
        losses.push(Risk::grave("traefik-no-drain", says, fix));
    }
    losses
}
