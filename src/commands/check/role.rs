//! Role of a service in its project: who sends it requests, and whether a deploy may replace it.

use super::ProjectFacts;
use crate::docker::inspect::Container;
use crate::model::{Project, Service};
use crate::preflight;
use crate::proxy;
use crate::targets::backend;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Gets requests from outside of the project: by a proxy or a port of the host.
    Outside,
    /// Gets no requests.
    Worker,
    /// Gets requests from other services by its name.
    Inside,
    /// Runs to completion.
    Job,
    Proxy,
    /// Database, cache or queue of this kind.
    Store(&'static str),
}

impl Role {
    /// Rank in a report.
    pub fn rank(self) -> usize {
        match self {
            Role::Outside => 0,
            Role::Worker => 1,
            Role::Inside => 2,
            Role::Job => 3,
            Role::Proxy => 4,
            Role::Store(_) => 5,
        }
    }

    /// A deploy may replace the service without being told its name.
    pub fn is_audited(self) -> bool {
        matches!(self, Role::Outside | Role::Worker)
    }

    /// Reason for leaving the service alone.
    pub fn reason(self) -> String {
        match self {
            Role::Store(kind) => format!("{kind}: a deploy leaves it alone unless named"),
            Role::Proxy => "a proxy: a deploy leaves it alone".into(),
            Role::Job => "a job: a deploy runs it only before services that wait for its end".into(),
            Role::Outside | Role::Worker | Role::Inside => {
                "reached only by other services: a deploy leaves it alone unless named".into()
            }
        }
    }
}

impl ProjectFacts<'_> {
    pub fn role(&self, service: &Service) -> Role {
        let is_job = || self.jobs.contains(&service.name) || runs_once(self.project, service);
        if self.is_proxy(&service.name) {
            Role::Proxy
        } else if self.is_routed(service) {
            Role::Outside
        } else if let Some(kind) = service.data_store() {
            Role::Store(kind)
        } else if !service.ports.is_empty() || service.network_mode.as_deref() == Some("host") {
            Role::Outside
        } else if is_job() {
            Role::Job
        } else if has_clients(self.project, service) || !service.exposed().is_empty() {
            Role::Inside
        } else {
            Role::Worker
        }
    }

    fn is_proxy(&self, service: &str) -> bool {
        let own = Some((self.project.name.as_str(), service));
        let is_own = |c: &Container| c.compose() == own;
        proxy::is_proxy_image(&self.project.services[service].image)
            || self.configured_proxies.has(service)
            || self.proxies.iter().any(|p| !p.routes_nowhere() && p.container().is_some_and(is_own))
    }

    fn is_routed(&self, service: &Service) -> bool {
        let backend = backend(self.project, service);
        let mut all = self.proxies.iter().chain(self.configured_proxies.known());
        proxy::route_setting(&backend).is_some() || all.any(|p| p.routes_to(&backend))
    }
}

/// Other services wait for the end of the service, or its name says that it prepares them.
fn runs_once(project: &Project, service: &Service) -> bool {
    let waits = |other: &Service| {
        other.depends_on.get(&service.name).is_some_and(|dependency| dependency.condition.is_completed())
    };
    let name = service.name.to_lowercase();
    let prepares = |word: &str| word.starts_with("init") || word.starts_with("migrat") || word == "setup";
    let is_named_so = || name.split(['-', '_', '.']).any(prepares);
    let stays_down = matches!(service.restart(), None | Some("no" | "none" | "on-failure"));
    project.services.values().any(waits) || (stays_down && is_named_so())
}

/// Another service depends on the service while it runs, or has its name as a host.
pub fn has_clients(project: &Project, service: &Service) -> bool {
    let depends = |other: &Service| {
        other.depends_on.get(&service.name).is_some_and(|dependency| !dependency.condition.is_completed())
    };
    let mut others = project.services.values().filter(|other| other.name != service.name);
    others.any(|other| depends(other) || service.names.iter().any(|name| names_host(other, name)))
}

/// A variable or argument has the name as a host: `http://api`, `api:3000`, or `API_HOST: api`.
fn names_host(service: &Service, name: &str) -> bool {
    let is_host = |variable: &str| {
        let variable = variable.to_uppercase();
        ["HOST", "SERVER", "ADDR"].iter().any(|word| variable.contains(word))
    };
    let in_variable = |(variable, value): (&String, &String)| {
        preflight::routes_to(value, name) || (value == name && is_host(variable))
    };
    let arguments = || service.entrypoint.iter().chain(&service.command).flatten();
    service.environment.iter().any(in_variable) || arguments().any(|word| preflight::routes_to(word, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FlagLayers;

    fn project(services: &str) -> Project {
        let yaml = format!("name: p\nservices: {{{services}}}");
        Project::read(&yaml, "compose.yaml", &FlagLayers::default()).unwrap()
    }

    #[test]
    fn clients_depend_on_a_service_or_have_its_name_as_a_host() {
        let has = |keys: &str| {
            let project = project(&format!("api: {{image: x}}, web: {{image: x, {keys}}}"));
            has_clients(&project, &project.services["api"])
        };
        for keys in [
            "depends_on: {api: {condition: service_started}}",
            "environment: {BACKEND: 'http://api/v1'}",
            "environment: {BACKEND: 'api:3000'}",
            "environment: {API_HOST: api}",
            "command: [wait-for, 'api:3000']",
        ] {
            assert!(has(keys), "{keys}");
        }
        for keys in [
            "depends_on: {api: {condition: service_completed_successfully}}",
            "environment: {DB_NAME: api}",
            "environment: {PATH: /srv/api, URL: 'http://shop/api'}",
            "command: [serve, api]",
        ] {
            assert!(!has(keys), "{keys}");
        }
    }

    #[test]
    fn a_job_is_waited_for_or_named_so_and_does_not_restart() {
        let is_job = |name: &str, keys: &str| {
            let project = project(&format!("{name}: {{image: x{keys}}}"));
            runs_once(&project, &project.services[name])
        };
        assert!(
            is_job("db-init", "") && is_job("migrations", ", restart: 'no'") && is_job("initContainer", "")
        );
        assert!(!is_job("db-init", ", restart: always") && !is_job("app", ""));
        let waited = project(
            "seed: {image: x, restart: always}, web: {image: x, depends_on: {seed: {condition: \
             service_completed_successfully}}}",
        );
        assert!(runs_once(&waited, &waited.services["seed"]));
    }
}
