//! Dependents that Compose restarts when their dependency is replaced (`depends_on.X.restart: true`). A dependent
//! behind a proxy is rolled out, because a restart would lose its requests; all others are restarted.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::docker::inspect::Container;
use crate::model::{Project, Service};
use crate::observe::DesiredVersion;
use crate::preflight;
use crate::proxy::Proxy;
use crate::targets::is_member;
use crate::targets::{self, Target, backend};

/// Running dependents of the targets that are no targets themselves.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Dependents {
    pub rolled: Vec<Target>,
    pub restarted: Vec<String>,
}

impl Dependents {
    pub fn new(
        project: &Project,
        targets: &[Target],
        containers: &[Container],
        proxies: &[Arc<dyn Proxy>],
    ) -> Dependents {
        let replaced: BTreeSet<&str> = targets.iter().flat_map(Target::services).collect();
        let runs =
            |s: &Service| containers.iter().any(|c| c.is_running() && is_member(project, c, &[&s.name]));
        let waits = |s: &&Service| s.restarts_with().any(|name| replaced.contains(name.as_str()));
        let own = |s: &&Service| !replaced.contains(s.name.as_str()) && runs(s);
        let is_proxy = |s: &Service| {
            let its = |p: &&Arc<dyn Proxy>| p.container().is_some_and(|c| is_member(project, c, &[&s.name]));
            proxies.iter().any(|p| its(&p) && !p.routes_nowhere())
        };
        let mut dependents = Dependents::default();
        for service in project.services.values().filter(waits).filter(own).filter(|s| !is_proxy(s)) {
            match rollable_target(project, service, proxies) {
                Some(target) if dependents.rolled.contains(&target) => {}
                Some(target) => dependents.rolled.push(target),
                None => dependents.restarted.push(service.name.clone()),
            }
        }
        dependents
    }

    /// True for a target that is rolled out only because its dependency is replaced.
    pub fn contains(&self, target: &Target) -> bool {
        self.rolled.contains(target)
    }

    pub fn names(&self) -> Vec<String> {
        self.rolled.iter().map(|t| t.name().to_string()).collect()
    }
}

/// Target to roll out: it is behind a proxy, and can run twice.
fn rollable_target(project: &Project, service: &Service, proxies: &[Arc<dyn Proxy>]) -> Option<Target> {
    let routed = proxies.iter().any(|p| p.routes_to(&backend(project, service)));
    let name = service.name.clone();
    let target = targets::from_names(project, &[name]).ok()?.pop().filter(|_| routed)?;
    // Without the proxies, a fixed port is an obstacle: a dependent gets no stand-in.
    preflight::file::findings(project, &target, &[]).is_empty().then_some(target)
}

/// True if any instance of these targets will be replaced.
pub fn any_replaced(
    project: &Project,
    targets: &[Target],
    desired: &DesiredVersion,
    containers: &[Container],
) -> bool {
    let replaced = |service: &str| {
        let its = containers.iter().filter(|c| is_member(project, c, &[service]));
        its.filter(|c| c.is_running()).any(|c| !desired.matches(service, c) || desired.forced.contains(&c.id))
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
    fn running_services_with_restart_true_are_dependents() {
        let restart = "{app: {condition: service_started, restart: true}}";
        let yaml = format!(
            "name: p\nservices: {{app: {{image: a}}, worker: {{image: w, depends_on: {restart}}}, \
             down: {{image: d, depends_on: {restart}}}, other: {{image: o, depends_on: {{app: {{condition: service_started}}}}}}}}"
        );
        let project = Project::read(&yaml, "compose.yaml", &FlagLayers::default()).unwrap();
        let containers = ["app", "worker", "other"].map(running);
        let of = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            Dependents::new(&project, &targets::from_names(&project, &names).unwrap(), &containers, &[])
                .restarted
        };
        assert_eq!(of(&["app"]), ["worker"]);
        assert_eq!(of(&["app", "worker"]), [""; 0], "it is replaced itself");
        assert_eq!(of(&["other"]), [""; 0]);
    }
}
