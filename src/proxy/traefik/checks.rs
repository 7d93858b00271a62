//! Checks of Traefik's configuration and labels before a deploy: requirements that are not met, and requests
//! that will be lost.

use std::time::Duration;

use super::labels::{self, HttpLabels, default_rule};
use super::state::TraefikState;
use super::{Backend, CommandResult, Endpoint, Error, Finding, Traefik};
use crate::error::Rule;

pub const DIRECTORY_FLAGS: &str =
    "--providers.file.directory=/etc/traefik/dynamic --providers.file.watch=true";
const IDLE_FLAG: &str = "--serversTransport.forwardingTimeouts.idleConnTimeout=1s";

/// A longer idle timeout is reported.
const LONG_IDLE: Duration = Duration::from_secs(5);

const WITHOUT_PROXY: &str = "`--proxy-kind none` deploys without gate and drain";

impl Traefik {
    pub(super) fn refused(&self, rule: Rule, why: String, hint: &str) -> Error {
        self.place.refused(why, hint).rule(rule)
    }

    /// Checks of the labels, with and without a directory of routes.
    pub(super) fn check_labels(&self, backend: &Backend) -> Result<(), Error> {
        let service = &backend.service;
        if let Some(label) = labels::tcp_or_udp_label(&backend.labels) {
            let why =
                format!("`{service}` has the label `traefik.{label}`: TCP and UDP routes cannot be switched");
            return Err(self.refused(&"traefik-tcp", why, WITHOUT_PROXY));
        }
        if self.matches_constraints(backend).is_none() {
            let why = format!(
                "its `providers.docker.constraints` (`{}`) cannot be evaluated, so its routes to `{service}` are unknown",
                self.config.constraints()
            );
            let fix = "use `Label` instead of `LabelRegex` in it, or `--proxy-kind none`";
            return Err(self.refused(&"traefik-constraints", why, fix));
        }
        self.check_routes(backend)
    }

    fn check_routes(&self, backend: &Backend) -> Result<(), Error> {
        let service = &backend.service;
        let http = HttpLabels::parse(&backend.labels);
        let template = self.config.default_rule();
        let lacks_rule = http.rules().count() < http.routers.len();
        if lacks_rule && self.has_route_directory() && default_rule(template, &backend.labels).is_none() {
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

    /// Checks for Traefik with a directory of routes: compose-zd must be able to query whether a file is in
    /// force.
    pub(super) fn check_query_access(&self) -> Result<Vec<Finding>, Error> {
        if self.version_check.is_none() {
            return Err(self.refused(
                &"traefik-no-door",
                "all its entry points have middlewares or redirections, so compose-zd cannot query which route is in force".into(),
                "add a separate entry point, `--entryPoints.zd.address=127.0.0.1:8899`, or `--api.insecure=true`",
            ));
        }
        if self.tool.is_none() {
            return Err(self.refused(
                &"traefik-no-tool",
                "its container has neither wget, curl, nc nor bash to query it with".into(),
                &format!("use the official image; {WITHOUT_PROXY}"),
            ));
        }
        Ok(self.slow_drain().into_iter().collect())
    }

    fn slow_drain(&self) -> Option<Finding> {
        let idle = self.config.idle_timeout();
        let message = format!(
            "{} keeps idle connections for {}s, so a drain may take as long, or until the drain timeout",
            self.place.name(),
            idle.as_secs()
        );
        (idle > LONG_IDLE)
            .then(|| Finding::note("traefik-slow-drain", message, format!("start it with `{IDLE_FLAG}`")))
    }

    /// Checks for Traefik without a directory of routes: its own discovery controls the route, and compose-zd
    /// only watches it.
    pub(super) fn check_discovery(&self, backends: &[Backend]) -> Result<Vec<Finding>, Error> {
        if self.api.is_none() || self.tool.is_none() {
            return Err(self.refused(
                &"traefik-no-files",
                "it watches no directory of routes, and its API cannot be queried, so compose-zd can neither switch \
                 nor observe its routes"
                 .into(),
                &format!("start it with `{DIRECTORY_FLAGS}` and a volume there; {WITHOUT_PROXY}"),
            ));
        }
        self.check_generations(backends)?;
        let fix = format!("or start {} with `{DIRECTORY_FLAGS}` and a volume there", self.place.name());
        let future = backends.iter().filter(|b| !b.is_running);
        Ok(future.flat_map(|b| risks(b, &fix)).chain(self.slow_drain()).collect())
    }

    fn check_generations(&self, backends: &[Backend]) -> Result<(), Error> {
        let (running, future): (Vec<&Backend>, Vec<&Backend>) = backends.iter().partition(|b| b.is_running);
        let pairs = running
            .iter()
            .flat_map(|r| future.iter().filter(|c| c.service == r.service).map(move |c| (r, c)));
        for (old, new) in pairs {
            if let Some((label, before, after)) = labels::conflict(&old.labels, &new.labels) {
                let why = format!(
                    "`{}` changes the label `{label}` from `{before}` to `{after}`: while both versions run, Traefik \
                     drops the conflicting route, and no request reaches either",
                    new.service
                );
                let hint = format!(
                    "start it with `{DIRECTORY_FLAGS}` and a volume there; or give the router another name"
                );
                return Err(self.refused(&"traefik-labels", why, &hint));
            }
        }
        Ok(())
    }

    /// Checks that a file can be added to the directory.
    pub(super) fn check_directory(&self, directory: &str, output: &CommandResult) -> Result<(), Error> {
        if !output.ok() {
            let why = format!("its directory of routes, {directory}, does not exist");
            return Err(self
                .refused(&"traefik-directory", why, "mount a volume there")
                .detail(output.stderr_or_stdout()));
        }
        if output.stdout.contains("@readonly") {
            return Err(self.refused(
                &"traefik-directory",
                format!("its directory of routes, {directory}, is not writable"),
                "mount it without `:ro`: compose-zd adds a file while it deploys",
            ));
        }
        Ok(())
    }

    /// Checks that no router outside the labels routes to their services: our override file would not replace
    /// it.
    pub(super) fn check_foreign_routers(
        &self,
        state: &TraefikState,
        endpoints: &[Endpoint],
    ) -> Result<(), Error> {
        let services: Vec<String> =
            endpoints.iter().flat_map(|e| HttpLabels::parse(&e.labels).service_names()).collect();
        let is_reference = |line: &&String| {
            let name = line.rsplit([' ', ':', '=']).next().and_then(|n| n.strip_suffix("@docker"));
            name.is_some_and(|n| services.iter().any(|s| s == n))
        };
        let routers: Vec<String> =
            endpoints.iter().flat_map(|e| HttpLabels::parse(&e.labels).router_names()).collect();
        let foreign =
            state.foreign_router(&routers).filter(|_| self.has_route_directory() && state.file.is_none());
        match state.references.iter().find(is_reference).map(String::as_str).or(foreign) {
            Some(router) => Err(self.refused(
                &"traefik-foreign-router",
                format!("a router outside its labels routes to `{}`: {router}", endpoints[0].service),
                &format!(
                    "it cannot be switched: define it by labels of `{}`; {WITHOUT_PROXY}",
                    endpoints[0].service
                ),
            )),
            None => Ok(()),
        }
    }

    /// Checks of the docker provider.
    pub(super) fn check_settings(&self) -> Result<(), Error> {
        if self.config.watches_docker() {
            return Ok(());
        }
        let why =
            "its docker provider does not watch (`providers.docker.watch`), so it never sees a new instance";
        Err(self.refused(&"traefik-watch", why.into(), "leave `providers.docker.watch` at its default"))
    }
}

fn risks(backend: &Backend, fix: &str) -> Vec<Finding> {
    let service = &backend.service;
    let mut risks = Vec::new();
    if !backend.has_healthcheck {
        let message =
            format!("`{service}` has no healthcheck, so a new instance gets requests before it is ready");
        risks.push(Finding::loss("traefik-no-healthcheck", message, format!("add a healthcheck, {fix}")));
    }
    if !backend.has_drain_command {
        let message = format!(
            "`{service}` has no `x-zd.drain.command`, so an instance is stopped while Traefik still sends it requests"
        );
        let fix = format!("set one that makes its healthcheck fail, {fix}");
        risks.push(Finding::loss("traefik-no-drain", message, fix));
    }
    risks
}
