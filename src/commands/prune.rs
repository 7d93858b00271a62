//! `prune`: removes the image tags of projects that were taken down.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::configuration::{connect, resolve_config};
use crate::docker::inspect::Container;
use crate::docker::lock_resource::LockBackend;
use crate::docker::{CommandResult, Docker, KEEPER_LABEL, familiar_name};
use crate::error::Error;
use crate::lock;
use crate::model::ResolvedProject;
use crate::model::args::{ComposeArgs, PruneArgs};
use crate::report::{Report, Warning};

/// Removes the tags, and the containers that hold them, of this project or of all. A project with a container keeps
/// its own.
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
        let owner_text = project.map_or("any project".into(), |name| format!("`{name}`"));
        report.print_line(&format!("this engine has no tagged image of {owner_text}"));
    }
    keepers.iter().try_for_each(|(name, keepers_of_project)| {
        prune_project(&docker, name, keepers_of_project, args, report)
    })?;
    prune_helpers(&docker, args, report)
}

/// Removes the helper images of other versions of compose-zd; with `--all` also that of this one.
fn prune_helpers(docker: &Docker, args: &PruneArgs, report: Report) -> Result<()> {
    let images = docker.helper_images()?;
    let own = if args.all || images.is_empty() { None } else { docker.own_helper_image() };
    for image in images.iter().filter(|image| own.as_ref() != Some(image)) {
        match args.dry_run {
            true => report.print_line(&format!("would remove `{image}`")),
            false => report_removal(image, &docker.remove_helper_image(image)?, report),
        }
    }
    Ok(())
}

/// Reports the removal of an image. An image that something uses stays.
fn report_removal(tag: &str, result: &CommandResult, report: Report) {
    if result.ok() || result.stderr.to_lowercase().contains("no such image") {
        report.print_line(&format!("removed `{tag}`"));
    } else {
        report.warn(&Warning::Other(format!("`{tag}` stays: {}", result.stderr_or_stdout())));
    }
}

/// Name of the project: the given name, else the compose file's.
fn named(docker: &mut Docker, compose: &ComposeArgs, report: Report) -> Result<String> {
    if let Some(name) = &compose.project_name {
        return Ok(name.clone());
    }
    let yaml = resolve_config(docker, compose, report)
        .map_err(|error| Error::from_error(error).hint("`compose-zd prune --all` needs no compose file"))?;
    let snapshot = ResolvedProject::parse(&yaml).map_err(Error::from)?;
    Ok(snapshot.project_name().unwrap_or_default().to_string())
}

fn prune_project(
    docker: &Docker,
    name: &str,
    keepers: &[Container],
    args: &PruneArgs,
    report: Report,
) -> Result<()> {
    if let Some(reason) = reason_to_keep(docker, name)? {
        report.print_line(&format!("`{name}` keeps its images: {reason}"));
        return Ok(());
    }
    for keeper in keepers {
        let tag = familiar_name(&keeper.config.image);
        if args.dry_run {
            report.print_line(&format!("would remove `{tag}`"));
            continue;
        }
        docker.remove_with_volumes(&keeper.id)?;
        report_removal(tag, &docker.remove_tag(tag)?, report);
    }
    Ok(())
}

/// Reason why a project keeps its images; none if it was taken down.
fn reason_to_keep(docker: &Docker, name: &str) -> Result<Option<String>> {
    if let Some(owner) = lock::current_owner(docker, LockBackend::Volumes, name)? {
        return Ok(Some(format!("a run is under way: {owner}")));
    }
    if docker.is_stack(name)? {
        return Ok(Some(format!("it is a stack of the Swarm; `docker stack rm {name}` removes it")));
    }
    Ok(match docker.project_containers(name)?.len() {
        0 => None,
        1 => Some("it has 1 container; `docker compose down` removes them".into()),
        count => Some(format!("it has {count} containers; `docker compose down` removes them")),
    })
}
