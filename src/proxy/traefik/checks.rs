//! Checks of Traefik's configuration and labels before a deploy: requirements that are not met.

use std::collections::BTreeSet;

use super::generation::{ListedContainer, parse_list};
use super::labels::{self, HttpLabels, default_rule};
use super::{Backend, CommandResult, Error, RolloutShape, Traefik, state};
use crate::error::Rule;

const WITHOUT_PROXY: &str = "`--proxy-kind none` deploys without gate and drain";

impl Traefik {
    pub(super) fn refused(&self, rule: Rule, why: String, hint: &str) -> Error {
        self.place.refused(why, hint).rule(rule)
    }

    /// Checks of a rollout of these services.
    pub(super) fn check(&self, backends: &[Backend]) -> Result<(), Error> {
        self.check_settings()?;
        backends.iter().try_for_each(|b| self.check_labels(b))?;
        self.check_query_access()
    }

    /// Checks of the labels.
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
            let fix = "use `Label`, or a simpler pattern in `LabelRegex`, or `--proxy-kind none`";
            return Err(self.refused(&"traefik-constraints", why, fix));
        }
        self.check_routes(backend)
    }

    fn check_routes(&self, backend: &Backend) -> Result<(), Error> {
        let service = &backend.service;
        let http = HttpLabels::parse(&backend.labels);
        let template = self.config.default_rule();
        let lacks_rule = http.rules().count() < http.routers.len();
        if lacks_rule && default_rule(template, &backend.labels).is_none() {
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

    /// Checks that compose-zd can query which pins are in force.
    fn check_query_access(&self) -> Result<(), Error> {
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
        Ok(())
    }

    /// Checks that no router outside the labels of the services routes to them: a pin would not replace it.
    pub(super) fn check_foreign_routers(
        &self,
        answers: &[CommandResult],
        shape: &RolloutShape,
    ) -> Result<(), Error> {
        let text = |n: usize| answers.get(n).map_or("", |answer| answer.stdout.as_str());
        let http = shape.backends.iter().map(|b| HttpLabels::parse(&b.labels));
        let services: BTreeSet<String> = http.flat_map(|http| http.service_names()).collect();
        let containers = parse_list(text(0)).unwrap_or_default();
        let mut accepted = containers.iter().filter(|c| self.accepts(&c.labels));
        let in_labels = || accepted.find_map(|c| foreign_router(c, shape, &services));
        let in_files = state::reference(text(1), &services).map(|line| line.replace(['"', '\''], ""));
        let service = shape.backends.first().map_or("", |b| b.service.as_str());
        match in_files.or_else(in_labels) {
            Some(router) => Err(self.refused(
                &"traefik-foreign-router",
                format!("a router outside its labels routes to `{service}`: {router}"),
                &format!("it cannot be switched: define it by labels of `{service}`; {WITHOUT_PROXY}"),
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

/// Router in the labels of a container of another service that routes to one of these services.
fn foreign_router(
    container: &ListedContainer,
    shape: &RolloutShape,
    services: &BTreeSet<String>,
) -> Option<String> {
    let label = |key: &str| container.labels.get(&format!("com.docker.compose.{key}")).map(String::as_str);
    let is_own = shape
        .backends
        .iter()
        .any(|b| label("project") == Some(&b.project) && label("service") == Some(&b.service));
    if is_own || container.is_pin() {
        return None;
    }
    let http = HttpLabels::parse(&container.labels);
    let own = http.service_names();
    let is_reference = |name: &str| {
        let name = name.strip_suffix("@docker").unwrap_or(name);
        services.contains(name) && !own.iter().any(|o| o == name)
    };
    let refers = |router: &serde_yaml::Value| {
        router.as_mapping().and_then(|r| labels::text(r, "service")).is_some_and(is_reference)
    };
    let (name, _) = http.routers.iter().find(|(_, router)| refers(router))?;
    Some(format!("{} in the labels of {}", name.as_str()?, label("service").unwrap_or(&container.id)))
}
