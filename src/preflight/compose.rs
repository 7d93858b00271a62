//! Containers that Compose itself would stop. It recreates a network whose definition changed, and stops everything
//! on it, before it creates new instances or starts dependencies.

use anyhow::Result;

use crate::docker::Docker;
use crate::finding::Finding;
use crate::model::Project;
use crate::plan::{Plan, Step};

/// Containers that Compose would stop or remove for a plan and to start the `down` dependencies, by its own dry run.
///
/// # Errors
/// Compose refuses the dry run.
pub fn collateral(docker: &Docker, project: &Project, plan: &Plan, down: &[&str]) -> Result<Option<Finding>> {
    let mut removed = 0;
    for (step, _) in plan.steps() {
        // Containers that an earlier step removes still exist for a dry run, and would count.
        if let Step::Remove(keys) = step {
            removed += keys.len();
        }
        if let Step::Create { service, total, .. } = step {
            let lost = match project.services[service].container_name {
                Some(_) => docker.collateral_beside(service, &ids_of(docker, project, service)?)?,
                None => docker.collateral(service, total + removed)?,
            };
            if !lost.is_empty() {
                return Ok(Some(
                    finding(lost, &format!("create a new instance of `{service}`")).of_service(service),
                ));
            }
        }
    }
    let lost = if down.is_empty() { Vec::new() } else { docker.collateral_of_start(down)? };
    Ok((!lost.is_empty()).then(|| finding(lost, &format!("start {}", down.join(", ")))))
}

fn ids_of(docker: &Docker, project: &Project, service: &str) -> Result<Vec<String>> {
    Ok(docker.containers_of(&project.name, service)?.into_iter().map(|c| c.id).collect())
}

fn finding(lost: Vec<String>, purpose: &str) -> Finding {
    let message = format!("Compose would stop running containers in order to {purpose}");
    let hint = "the definition of a network changed: give the new network another name in the file, so that both can \
                exist, or take the downtime with `docker compose up --detach`";
    Finding { details: lost, ..Finding::unchanged("network-changed", message, hint) }
}
