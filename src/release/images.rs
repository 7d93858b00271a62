//! Images of the releases that a rollback can return to. A tag names each image, a keeper holds it, and pruning the
//! release removes both.
//!
//! `docker image prune -a` removes every image that no container uses, tagged or not. A keeper is a container that
//! is never started, and that holds its image. Of an image in use the prune leaves one name, the last in the
//! alphabet; [`ensure_image`] creates ours again. With the containerd store the prune leaves the names that
//! containers were created from, so the keeper is created from the tag. `docker system prune` removes stopped
//! containers, keepers included. Then the tag alone holds the image until the next [`keep_image`], and with `-a`
//! nothing does. `--filter label!=compose-zd.keeps` spares both.

use std::collections::BTreeSet;

use super::{ReleaseHistory, Retention, ServiceRelease};
use crate::docker::{CommandResult, Docker, KEEPER_LABEL};
use crate::error::Error;

/// Owner of kept images: two checkouts of one project have separate histories, and each keeps and removes its own
/// images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageOwner<'a> {
    pub project: &'a str,
    /// Id of the history.
    pub history: &'a str,
}

impl ImageOwner<'_> {
    /// Tag that a release gives the image of a service.
    pub fn tag_of(&self, service: &str, since: u32) -> String {
        format!("{}-{}", old_tag_of(self.project, service, since), self.history)
    }

    fn keeper_of(&self, service: &str, since: u32) -> String {
        format!("{}-{}", old_keeper_of(self.project, service, since), self.history)
    }

    /// Name without the suffix of this history; `None` for names of other histories.
    fn without_history<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_suffix(self.history)?.strip_suffix('-')
    }
}

/// Tag in versions before histories had an id.
fn old_tag_of(project: &str, service: &str, since: u32) -> String {
    format!("{}:r{since}", repository(project, service))
}

/// Keeper in versions before histories had an id.
fn old_keeper_of(project: &str, service: &str, since: u32) -> String {
    format!("compose-zd-keep-{}-r{since}", name_component(project, service))
}

fn repository(project: &str, service: &str) -> String {
    format!("compose-zd/{}", name_component(project, service))
}

/// Repositories of the tags of these services.
pub fn repositories<'s>(project: &str, services: impl Iterator<Item = &'s String>) -> BTreeSet<String> {
    services.map(|service| repository(project, service)).collect()
}

/// Name that is unique among all services of all projects, and legal in an image reference and as a container's name.
///
/// The form is `PROJECT-SERVICE`, with two dashes if the project itself has one: `shop` may have a service
/// `eu-web`, and `shop-eu` a service `web`. Other names are made legal, and get a hash that distinguishes them.
fn name_component(project: &str, service: &str) -> String {
    let joint = if project.contains('-') { "--" } else { "-" };
    let plain = format!("{project}{joint}{service}");
    if [project, service].iter().all(|name| has_safe_dashes(name)) && is_legal(&plain) {
        return plain;
    }
    let lower = plain.to_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let short: String = words.join("-").chars().take(MAX_COMPONENT - 9).collect();
    format!("{short}-{:08x}", fnv1a(&format!("{project}/{service}")))
}

/// True without two dashes inside or one at an edge, which might be taken for the separator.
fn has_safe_dashes(name: &str) -> bool {
    !name.contains("--") && !name.starts_with('-') && !name.ends_with('-')
}

/// Longest name, below the 255 characters of a repository and the length of a file name.
const MAX_COMPONENT: usize = 128;

/// The grammar of a path component in `distribution/reference`: letters and digits, with one `.`, one or two `_`, or
/// dashes between them.
fn is_legal(component: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator = |run: &str| ["", ".", "_", "__"].contains(&run) || run.chars().all(|c| c == '-');
    let at_edge = component.starts_with(is_word) && component.ends_with(is_word);
    component.len() <= MAX_COMPONENT && at_edge && component.split(is_word).all(is_separator)
}

/// FNV-1a: the same in every version of this program, unlike the hashes of the standard library.
fn fnv1a(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Tags the image of a service and creates its keeper; can be repeated.
///
/// # Errors
/// The image does not exist, another's container has the keeper's name, or no engine.
pub fn keep_image(
    docker: &Docker,
    owner: ImageOwner,
    service: &str,
    service_release: &ServiceRelease,
) -> Result<(), Error> {
    let tag = owner.tag_of(service, service_release.since);
    docker.tag(&service_release.image_id, &tag).map_err(Error::from_error)?;
    create_keeper(docker, owner, &owner.keeper_of(service, service_release.since), &tag)
        .map_err(Error::from_error)
}

/// False for a Swarm's image of a registry, which the Swarm names by digest and the registry keeps.
pub fn is_local(service_release: &ServiceRelease) -> bool {
    service_release.image_id.starts_with("sha256:")
}

/// Services whose image exists and has no keeper, among those that releases need.
pub fn without_keeper<'a>(
    docker: &Docker,
    owner: ImageOwner,
    keepers: &[String],
    service_release: impl Iterator<Item = (&'a str, &'a ServiceRelease)>,
) -> Vec<(&'a str, &'a ServiceRelease)> {
    let has_keeper =
        |(service, p): &(&str, &ServiceRelease)| keepers.contains(&owner.keeper_of(service, p.since));
    let exists = |(_, p): &(&str, &ServiceRelease)| matches!(docker.image(&p.image_id), Ok(Some(_)));
    service_release.filter(|p| is_local(p.1) && !has_keeper(p) && exists(p)).collect()
}

fn create_keeper(docker: &Docker, owner: ImageOwner, keeper: &str, tag: &str) -> anyhow::Result<()> {
    let Some(image) = docker.image(tag)? else {
        return Ok(());
    };
    match docker.inspect(&[keeper.into()])?.first() {
        Some(existing) if existing.label(KEEPER_LABEL) != Some(owner.project) => {
            return Err(name_taken(keeper).into());
        }
        Some(existing) if existing.image_id == image.id => return Ok(()),
        // A new state folder restarted the numbers.
        Some(_) => docker.remove_with_volumes(keeper)?,
        None => {}
    }
    docker.create_keeper((owner.project, owner.history), keeper, tag, &image)
}

fn name_taken(keeper: &str) -> Error {
    Error::unchanged(format!("another program's container has the name `{keeper}`, which compose-zd needs"))
        .hint("rename or remove it")
}

/// Reference of exactly this image: that of the compose file while it still names the image, else the tag of compose-zd. A
/// missing tag is created if the image exists, or after pulling the image again.
///
/// # Errors
/// The image does not exist and no registry has it, or the engine does not answer.
pub fn ensure_image(
    docker: &Docker,
    owner: ImageOwner,
    service: &str,
    service_release: &ServiceRelease,
) -> Result<String, Error> {
    let found = find(docker, owner, service, service_release).map_err(Error::from_error)?;
    found.ok_or_else(|| gone_error(service, service_release))
}

fn find(
    docker: &Docker,
    owner: ImageOwner,
    service: &str,
    service_release: &ServiceRelease,
) -> anyhow::Result<Option<String>> {
    let is_this_image = |reference: &str| -> anyhow::Result<bool> {
        Ok(docker.image(reference)?.is_some_and(|image| image.id == service_release.image_id))
    };
    let tag = owner.tag_of(service, service_release.since);
    for reference in [&service_release.image, &tag] {
        if is_this_image(reference)? {
            return Ok(Some(reference.clone()));
        }
    }
    let mut exists = is_this_image(&service_release.image_id)?;
    for digest in &service_release.digests {
        exists = exists || (docker.pull_image(digest)? && is_this_image(&service_release.image_id)?);
    }
    if exists {
        docker.tag(&service_release.image_id, &tag)?;
    }
    Ok(exists.then_some(tag))
}

fn gone_error(service: &str, service_release: &ServiceRelease) -> Error {
    let (image, since) = (&service_release.image, service_release.since);
    let message = format!("`{service}`: the image `{image}` of release {since} is gone from this engine");
    let (reason, hint) = if service_release.digests.is_empty() {
        ("it was built here, so no registry has it", "deploy the revision of that release again")
    } else {
        (
            "no registry has it; see the errors above",
            "deploy the revision of that release again where the image was built here, or log in to its registry",
        )
    };
    Error::unchanged(message)
        .detail(&format!("its id is {}", service_release.image_id))
        .detail(reason)
        .hint(format!("{hint}, or name another release with `--to`"))
}

/// Removes the tags and keepers of a history that are not retained, and reports the failures. An image in use keeps its
/// tag, and a later prune removes the tag.
pub fn remove_images(
    docker: &Docker,
    owner: ImageOwner,
    keepers: &[String],
    services: &BTreeSet<String>,
    retained: &Retention,
) -> Vec<String> {
    // Keepers first: a keeper uses its image.
    let keepers = remove_keepers(docker, owner, keepers, retained);
    let tags = remove_tags(docker, owner, services, retained);
    let failed = [keepers, tags].into_iter().filter_map(Result::err);
    failed.map(|e| format!("images of older releases stay: {e:#}")).collect()
}

/// Removes the images of releases that are no longer kept, by the names that the Compose file gave them. Returns the names
/// that were removed. An image that a container uses stays.
pub fn remove_older(docker: &Docker, history: &ReleaseHistory, retained: &Retention) -> Vec<String> {
    let is_named =
        |reference: &str, id: &str| matches!(docker.image(reference), Ok(Some(image)) if image.id == id);
    let older = older(history, retained).into_iter().filter(|(reference, id)| is_named(reference, id));
    let is_removed = |reference: &&str| docker.remove_tag(reference).is_ok_and(|result| result.ok());
    older.map(|(reference, _)| reference).filter(is_removed).map(String::from).collect()
}

/// Names and ids of the images that only releases have which are no longer kept.
fn older<'h>(history: &'h ReleaseHistory, retained: &'h Retention) -> BTreeSet<(&'h str, &'h str)> {
    let kept: BTreeSet<&str> =
        history.retained_services(retained).map(|(_, release)| release.image_id.as_str()).collect();
    let all = history.newest_first().flat_map(|record| record.services.values());
    let older = all.filter(|release| is_local(release) && !kept.contains(release.image_id.as_str()));
    older.map(|release| (release.image.as_str(), release.image_id.as_str())).collect()
}

fn remove_keepers(
    docker: &Docker,
    owner: ImageOwner,
    keepers: &[String],
    retained: &Retention,
) -> anyhow::Result<()> {
    let retained_names: BTreeSet<String> =
        retained.images.iter().map(|(s, since)| owner.keeper_of(s, *since)).collect();
    let own = keepers.iter().filter(|name| owner.without_history(name).is_some());
    own.filter(|name| !retained_names.contains(*name)).try_for_each(|name| docker.remove_with_volumes(name))
}

fn remove_tags(
    docker: &Docker,
    owner: ImageOwner,
    services: &BTreeSet<String>,
    retained: &Retention,
) -> anyhow::Result<()> {
    let service_names = services.iter().chain(retained.images.iter().map(|(service, _)| service));
    let own = repositories(owner.project, service_names);
    let retained_names: BTreeSet<String> =
        retained.images.iter().map(|(s, since)| owner.tag_of(s, *since)).collect();
    let tags = docker.tags_in(&own)?;
    let is_own = |tag: &&String| owner.without_history(tag).is_some_and(|tag| is_ours(tag, &own));
    let is_obsolete = |tag: &&String| is_own(tag) && !retained_names.contains(*tag);
    tags.iter().filter(is_obsolete).try_for_each(|tag| check_removed(tag, &docker.remove_tag(tag)?))
}

/// Removes the names that an earlier version gave to images of these releases. Names without a history may belong to
/// another checkout, which has another image under the same number, so the image's id is checked.
pub fn remove_old_names<'a>(
    docker: &Docker,
    project: &str,
    keepers: &[String],
    services: impl Iterator<Item = (&'a str, &'a ServiceRelease)>,
) -> anyhow::Result<()> {
    for (service, services) in services {
        let keeper = old_keeper_of(project, service, services.since);
        if !keepers.contains(&keeper) {
            continue;
        }
        let tag = old_tag_of(project, service, services.since);
        let found = docker.inspect(std::slice::from_ref(&keeper))?;
        if found.iter().any(|c| c.image_id == services.image_id) {
            docker.remove_with_volumes(&keeper)?;
            check_removed(&tag, &docker.remove_tag(&tag)?)?;
        }
    }
    Ok(())
}

/// True for exactly one of our repositories with a tag of a release.
fn is_ours(tag: &str, repositories: &BTreeSet<String>) -> bool {
    tag.rsplit_once(":r").is_some_and(|(repository, number)| {
        repositories.contains(repository) && number.parse::<u32>().is_ok_and(|n| n.to_string() == number)
    })
}

fn check_removed(tag: &str, result: &CommandResult) -> anyhow::Result<()> {
    let errors = result.stderr.to_lowercase();
    if result.ok() || errors.contains("conflict") || errors.contains("no such image") {
        Ok(())
    } else {
        anyhow::bail!("`{tag}`: {}", result.stderr_or_stdout())
    }
}

#[cfg(test)]
mod tests;
