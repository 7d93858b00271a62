//! Removes what is kept for rollbacks of projects that were taken down.

use std::collections::BTreeMap;

use anyhow::Result;

use super::request::{connect, resolved};
use crate::cli::{ComposeArgs, PruneArgs};
use crate::docker::inspect::Container;
use crate::docker::lock_resource::LockBackend;
use crate::docker::{Docker, KEEPER_LABEL, familiar_name};
use crate::error::Error;
use crate::lock;
use crate::model::ResolvedProject;
use crate::report::{Report, Warning};

/// Removes the keepers and the tags of this project, or of all, where it has no container.
///
/// # Errors
/// No engine; a compose file that cannot be read, where it names the project; what the engine does not remove.
pub fn prune(compose: &ComposeArgs, args: &PruneArgs, report: Report) -> Result<()> {
    let mut docker = connect(compose, report)?;
    let project = if args.all { None } else { Some(named(&mut docker, compose, report)?) };
    let mut keepers: BTreeMap<String, Vec<Container>> = BTreeMap::new();
    for keeper in docker.all_keepers()? {
        let owner = keeper.label(KEEPER_LABEL).unwrap_or_default().to_string();
        if project.as_ref().is_none_or(|name| *name == owner) {
            keepers.entry(owner).or_default().push(keeper);
        }
    }
    if keepers.is_empty() {
        let whose = project.map_or("any project".into(), |name| format!("`{name}`"));
        report.say(&format!("no image of {whose} is kept on this engine"));
    }
    keepers.iter().try_for_each(|(name, its)| prune_project(&docker, name, its, args, report))
}

/// The project of the compose file; its name alone where it is given.
fn named(docker: &mut Docker, compose: &ComposeArgs, report: Report) -> Result<String> {
    if let Some(name) = &compose.project_name {
        return Ok(name.clone());
    }
    let yaml = resolved(docker, report)
        .map_err(|error| Error::from_error(error).hint("`compose-zd prune --all` needs no compose file"))?;
    let snapshot = ResolvedProject::read(&yaml).map_err(Error::from)?;
    Ok(snapshot.project().unwrap_or_default().to_string())
}

fn prune_project(
    docker: &Docker,
    name: &str,
    keepers: &[Container],
    args: &PruneArgs,
    report: Report,
) -> Result<()> {
    if let Some(holder) = lock::current_owner(docker, LockBackend::Volumes, name)? {
        report.say(&format!("`{name}` keeps its images: under way: {holder}"));
        return Ok(());
    }
    if docker.is_stack(name)? {
        report.say(&format!(
            "`{name}` keeps its images: it is a stack of the Swarm; `docker stack rm {name}` removes it"
        ));
        return Ok(());
    }
    let containers = docker.project_containers(name)?.len();
    if containers > 0 {
        let noun = if containers == 1 { "container" } else { "containers" };
        report.say(&format!(
            "`{name}` keeps its images: it has {containers} {noun}; `docker compose down` removes them"
        ));
        return Ok(());
    }
    for keeper in keepers {
        let tag = familiar_name(&keeper.config.image);
        if args.dry_run {
            report.say(&format!("would remove `{tag}`"));
            continue;
        }
        docker.remove_with_volumes(&keeper.id)?;
        let done = docker.remove_tag(tag)?;
        match done.ok() || done.stderr.to_lowercase().contains("no such image") {
            true => report.say(&format!("removed `{tag}`")),
            // Another container may use it.
            false => report.warn(&Warning::Release(format!("`{tag}` stays: {}", done.stderr_or_stdout()))),
        }
    }
    Ok(())
}
