//! Services that are run to their end once a deploy: `x-zd.before`, `x-zd.after`, and dependencies that have to complete
//! (`service_completed_successfully`), which Compose runs at each `up`.

use std::collections::BTreeSet;

use super::targets::Target;
use crate::error::Error;
use crate::model::{Project, Service};

/// The one-shots of a run, each once.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Jobs {
    /// In the order in which they run.
    pub before: Vec<String>,
    pub after: BTreeSet<String>,
}

impl Jobs {
    pub fn of(project: &Project, targets: &[Target]) -> Jobs {
        let services = || targets.iter().flat_map(Target::services).map(|s| &project.services[s].settings);
        let mut before = completing(project, targets);
        let named: BTreeSet<&String> = services().filter_map(|s| s.before.as_ref()).collect();
        let more: Vec<String> = named.into_iter().filter(|name| !before.contains(name)).cloned().collect();
        before.extend(more);
        Jobs { before, after: services().filter_map(|s| s.after.clone()).collect() }
    }

    pub fn all(&self) -> BTreeSet<&str> {
        self.before.iter().chain(&self.after).map(String::as_str).collect()
    }
}

/// Dependencies of the targets that have to complete, each after those that it needs itself.
fn completing(project: &Project, targets: &[Target]) -> Vec<String> {
    let ours: Vec<&str> = targets.iter().flat_map(Target::services).collect();
    let needs = |name: &str| project.services.get(name).map(|s| s.needs(project)).unwrap_or_default();
    let all = ours.iter().flat_map(|name| needs(name)).filter(|(_, completes)| *completes);
    let mut open: BTreeSet<&str> = all.map(|(name, _)| name).filter(|name| !ours.contains(name)).collect();
    let mut ordered = Vec::new();
    while let Some(first) =
        open.iter().copied().find(|name| open.iter().all(|o| !needs(name).contains_key(o)))
    {
        open.remove(first);
        ordered.push(first.to_string());
    }
    ordered
}

/// One that is no service of the file.
pub fn unknown(source: &str, name: &str, error: anyhow::Error) -> Error {
    Error::usage(format!(
        "{source}: `x-zd.before` or `x-zd.after` names `{name}`, which Compose does not know"
    ))
    .detail(&Error::from_error(error).details.join("\n"))
    .hint("name a service of this file")
}

/// The one-shots that run the image of a service that is given another: by its reference in the file.
pub fn with_same_image<'a>(project: &'a Project, jobs: &Jobs, service: &str) -> Vec<&'a Service> {
    let image = &project.services[service].image;
    let same = |s: &&Service| jobs.all().contains(s.name.as_str()) && s.image == *image && s.name != service;
    project.services.values().filter(same).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FlagLayers;

    const DONE: &str = "{condition: service_completed_successfully}";

    fn jobs(services: &str, targets: &[&str]) -> Jobs {
        let yaml = format!("name: p\nservices: {{{services}}}");
        let project = Project::read(&yaml, "compose.yaml", &FlagLayers::default()).unwrap();
        let targets: Vec<Target> = targets.iter().map(|name| Target::Service(name.to_string())).collect();
        Jobs::of(&project, &targets)
    }

    #[test]
    fn dependencies_that_have_to_complete_run_each_after_those_that_it_needs() {
        let services = format!(
            "app: {{image: a, depends_on: {{a-last: {DONE}, db: {{condition: service_healthy}}}}}}, \
             a-last: {{image: a, depends_on: {{z-first: {DONE}}}}}, z-first: {{image: a}}, db: {{image: d}}"
        );
        assert_eq!(jobs(&services, &["app"]).before, ["z-first", "a-last"]);
        assert_eq!(jobs(&services, &["db"]).before, [""; 0]);
        assert_eq!(jobs(&services, &["app", "a-last"]).before, ["z-first"], "a target is no one-shot");
    }

    #[test]
    fn one_that_is_named_as_well_runs_once() {
        let services = format!(
            "app: {{image: a, depends_on: {{migrate: {DONE}}}, x-zd: {{before: {{service: migrate}}}}}}, migrate: {{image: a}}"
        );
        assert_eq!(jobs(&services, &["app"]).before, ["migrate"]);
    }
}
