//! Services that are to restart when one that they depend on is replaced (`depends_on.X.restart: true`), as Compose restarts
//! them: those behind a proxy are rolled, because a restart would lose their requests, and the others are restarted.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::observe::{DesiredVersion, is_member};
use super::targets::{self, Target, backend};
use crate::docker::inspect::Container;
use crate::model::{Project, Service};
use crate::preflight;
use crate::proxy::Proxy;

/// Dependents of the targets that run and are no targets themselves.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Dependents {
    pub rolled: Vec<Target>,
    /// Names of services.
    pub restarted: Vec<String>,
}

impl Dependents {
    pub fn of(
        project: &Project,
        targets: &[Target],
        containers: &[Container],
        proxies: &[Arc<dyn Proxy>],
    ) -> Dependents {
        let replaced: BTreeSet<&str> = targets.iter().flat_map(Target::services).collect();
        let runs =
            |s: &Service| containers.iter().any(|c| c.is_running() && is_member(project, c, &[&s.name]));
        let waits = |s: &&Service| s.restarts_with.iter().any(|name| replaced.contains(name.as_str()));
        let own = |s: &&Service| !replaced.contains(s.name.as_str()) && runs(s);
        let is_proxy = |s: &Service| {
            let its = |p: &&Arc<dyn Proxy>| is_member(project, p.container(), &[&s.name]);
            proxies.iter().any(|p| its(&p))
        };
        let mut all = Dependents::default();
        for service in project.services.values().filter(waits).filter(own).filter(|s| !is_proxy(s)) {
            match rolled(project, service, proxies) {
                Some(target) if all.rolled.contains(&target) => {}
                Some(target) => all.rolled.push(target),
                None => all.restarted.push(service.name.clone()),
            }
        }
        all
    }

    /// Whether a target is rolled for the sake of another one.
    pub fn has(&self, target: &Target) -> bool {
        self.rolled.contains(target)
    }

    pub fn names(&self) -> Vec<String> {
        self.rolled.iter().map(|t| t.name().to_string()).collect()
    }
}

/// One behind a proxy, that can run twice.
fn rolled(project: &Project, service: &Service, proxies: &[Arc<dyn Proxy>]) -> Option<Target> {
    let routed = proxies.iter().any(|p| p.routes_to(&backend(project, service)));
    let name = service.name.clone();
    let target = targets::as_targets(project, &[name]).ok()?.pop().filter(|_| routed)?;
    preflight::file(project, &target).is_empty().then_some(target)
}

/// Whether anything of these targets is going to be replaced.
pub fn are_replaced(
    project: &Project,
    targets: &[Target],
    wanted: &DesiredVersion,
    containers: &[Container],
) -> bool {
    let replaced = |service: &str| {
        let its = containers.iter().filter(|c| is_member(project, c, &[service]));
        its.filter(|c| c.is_running()).any(|c| !wanted.fits(service, c) || wanted.replaced.contains(&c.id))
    };
    targets.iter().flat_map(Target::services).any(replaced)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FlagLayers;

    fn running(service: &str) -> Container {
        let text = format!(
            r#"{{"Id": "{service}", "State": {{"Status": "running"}}, "Config": {{"Labels": {{
               "com.docker.compose.project": "p", "com.docker.compose.service": "{service}"}}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn those_that_run_and_ask_for_it_are_dependents() {
        let restart = "{app: {condition: service_started, restart: true}}";
        let yaml = format!(
            "name: p\nservices: {{app: {{image: a}}, worker: {{image: w, depends_on: {restart}}}, \
             down: {{image: d, depends_on: {restart}}}, other: {{image: o, depends_on: {{app: {{condition: service_started}}}}}}}}"
        );
        let project = Project::read(&yaml, "compose.yaml", &FlagLayers::default()).unwrap();
        let containers = ["app", "worker", "other"].map(running);
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            Dependents::of(&project, &targets::as_targets(&project, &names).unwrap(), &containers, &[])
                .restarted
        };
        assert_eq!(of(&["app"]), ["worker"]);
        assert_eq!(of(&["app", "worker"]), [""; 0], "it is replaced itself");
        assert_eq!(of(&["other"]), [""; 0]);
    }
}
