//! Jobs: services that run to completion once per deploy. They are `x-zd.before`, `x-zd.after`, and dependencies
//! with `service_completed_successfully`, which Compose runs at each `up`.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::docker::Docker;
use crate::error::Error;
use crate::model::{Project, Service};
use crate::targets::Target;

/// Jobs of a run, without duplicates.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Jobs {
    /// Sorted by execution.
    pub before: Vec<String>,
    pub after: BTreeSet<String>,
}

impl Jobs {
    pub fn new(project: &Project, targets: &[Target]) -> Jobs {
        let services = || targets.iter().flat_map(Target::services).map(|s| &project.services[s].settings);
        let mut before = completed_dependencies(project, targets);
        let named: BTreeSet<&String> = services().filter_map(|s| s.before.as_ref()).collect();
        let others: Vec<String> = named.into_iter().filter(|name| !before.contains(name)).cloned().collect();
        before.extend(others);
        Jobs { before, after: services().filter_map(|s| s.after.clone()).collect() }
    }

    pub fn all(&self) -> BTreeSet<&str> {
        self.before.iter().chain(&self.after).map(String::as_str).collect()
    }
}

/// Dependencies of the targets that have to complete, sorted so that each follows its own dependencies.
fn completed_dependencies(project: &Project, targets: &[Target]) -> Vec<String> {
    let targeted: Vec<&str> = targets.iter().flat_map(Target::services).collect();
    let needs = |name: &str| project.services.get(name).map(|s| s.needs(project)).unwrap_or_default();
    let all = targeted.iter().flat_map(|name| needs(name)).filter(|(_, condition)| condition.is_completed());
    let mut remaining: BTreeSet<&str> =
        all.map(|(name, _)| name).filter(|name| !targeted.contains(name)).collect();
    let mut ordered = Vec::new();
    while let Some(first) =
        remaining.iter().copied().find(|name| remaining.iter().all(|o| !needs(name).contains_key(o)))
    {
        remaining.remove(first);
        ordered.push(first.to_string());
    }
    ordered
}

/// Requires that each job of the settings is a service of the file, in any profile.
///
/// # Errors
/// The key with an unknown service. A check or a dry run must not promise what a deploy refuses.
pub fn require_known(docker: &Docker, project: &Project, source: &str) -> Result<()> {
    let missing = unlisted_jobs(project);
    if missing.is_empty() {
        return Ok(());
    }
    let all = docker.services_of_all_profiles()?;
    match missing.into_iter().find(|(_, job)| !all.contains(job)) {
        Some((key, job)) => {
            let names: Vec<String> = all.iter().map(|name| format!("`{name}`")).collect();
            Err(Error::usage(format!("{source}: `{key}`: the project has no service `{job}`"))
                .hint(format!("name a service of this file: {}", names.join(", ")))
                .into())
        }
        None => Ok(()),
    }
}

/// Keys and jobs of the settings that are no service of an active profile.
fn unlisted_jobs(project: &Project) -> Vec<(String, String)> {
    let jobs = project.services.values().flat_map(|service| {
        let settings = &service.settings;
        let named = [("before", &settings.before), ("after", &settings.after)];
        let key = |name: &str| format!("services.{}.x-zd.{name}.service", service.name);
        named.into_iter().filter_map(move |(name, job)| Some((key(name), job.clone()?))).collect::<Vec<_>>()
    });
    jobs.filter(|(_, job)| !project.services.contains_key(job)).collect()
}

/// Error for a job that is not in the file.
pub fn unknown_job(source: &str, name: &str, error: anyhow::Error) -> Error {
    Error::usage(format!("{source}: `x-zd.before` or `x-zd.after` names `{name}`, which is not a service"))
        .detail(&Error::from_error(error).details.join("\n"))
        .hint("name a service of this file")
}

/// Jobs with the same image reference as a service, which `--image` changes too.
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
        Jobs::new(&project, &targets)
    }

    #[test]
    fn completed_dependencies_run_after_their_own_dependencies() {
        let services = format!(
            "app: {{image: a, depends_on: {{a-last: {DONE}, db: {{condition: service_healthy}}}}}}, \
             a-last: {{image: a, depends_on: {{z-first: {DONE}}}}}, z-first: {{image: a}}, db: {{image: d}}"
        );
        assert_eq!(jobs(&services, &["app"]).before, ["z-first", "a-last"]);
        assert_eq!(jobs(&services, &["db"]).before, [""; 0]);
        assert_eq!(jobs(&services, &["app", "a-last"]).before, ["z-first"], "a target is not a job");
    }

    #[test]
    fn a_job_that_no_active_profile_has_is_found_with_its_key() {
        let yaml = "name: p\nservices: {app: {image: a, x-zd: {before: {service: migrat}, after: {service: warm}}}, \
                    warm: {image: a}}";
        let project = Project::read(yaml, "compose.yaml", &FlagLayers::default()).unwrap();
        let found = unlisted_jobs(&project);
        assert_eq!(found, [("services.app.x-zd.before.service".to_string(), "migrat".to_string())]);
    }

    #[test]
    fn a_job_that_is_named_twice_runs_once() {
        let services = format!(
            "app: {{image: a, depends_on: {{migrate: {DONE}}}, x-zd: {{before: {{service: migrate}}}}}}, migrate: {{image: a}}"
        );
        assert_eq!(jobs(&services, &["app"]).before, ["migrate"]);
    }
}
