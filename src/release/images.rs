//! The images of the releases that can be gone back to: a tag names each, a keeper holds it, and both go with the release.
//!
//! `docker image prune -a` takes every image that no container uses, tagged or not: a container that is never started
//! holds it. Of an image in use it leaves one name, the last in the alphabet; [`provide`] gives ours again. (With the
//! containerd store it leaves the names that containers were made from, so the keeper is made from the tag.)
//! `docker system prune` removes stopped containers, this one included; then the tag alone holds the image until the next
//! [`keep`], and with `-a` nothing does. `--filter label!=compose-zd.keeps` spares both.

use std::collections::BTreeSet;

use super::{Retention, ServiceRelease};
use crate::docker::{CommandResult, Docker, KEEPS};
use crate::error::Error;

/// Whose images are kept: two checkouts of one project have histories of their own, and each keeps and removes its own images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageOwner<'a> {
    pub project: &'a str,
    /// Id of the history.
    pub history: &'a str,
}

impl ImageOwner<'_> {
    /// The tag that a release gives the image of a service.
    pub fn tag_of(&self, service: &str, since: u32) -> String {
        format!("{}-{}", old_tag_of(self.project, service, since), self.history)
    }

    fn keeper_of(&self, service: &str, since: u32) -> String {
        format!("{}-{}", old_keeper_of(self.project, service, since), self.history)
    }

    /// A name of ours without what tells it from those of other histories.
    fn without_history<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_suffix(self.history)?.strip_suffix('-')
    }
}

/// Tag of versions before histories had an id.
fn old_tag_of(project: &str, service: &str, since: u32) -> String {
    format!("{}:r{since}", repository(project, service))
}

/// Keeper of versions before histories had an id.
fn old_keeper_of(project: &str, service: &str, since: u32) -> String {
    format!("compose-zd-keep-{}-r{since}", component(project, service))
}

fn repository(project: &str, service: &str) -> String {
    format!("compose-zd/{}", component(project, service))
}

/// Where the tags of these services are.
pub fn repositories<'s>(project: &str, services: impl Iterator<Item = &'s String>) -> BTreeSet<String> {
    services.map(|service| repository(project, service)).collect()
}

/// A name that no other service of any project has, and that is legal in an image reference and as a container's.
///
/// `PROJECT-SERVICE`; with two dashes between where the project has some itself, for `shop` may have a service `eu-web`
/// and `shop-eu` a service `web`. What cannot be written so is made legal, and told apart by a hash.
fn component(project: &str, service: &str) -> String {
    let joint = if project.contains('-') { "--" } else { "-" };
    let plain = format!("{project}{joint}{service}");
    if [project, service].iter().all(|part| is_alone(part)) && is_legal(&plain) {
        return plain;
    }
    let lower = plain.to_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let short: String = words.join("-").chars().take(LONGEST - 9).collect();
    format!("{short}-{:08x}", hash(&format!("{project}/{service}")))
}

/// Two dashes in it or one at its edge could be taken for those between project and service.
fn is_alone(part: &str) -> bool {
    !part.contains("--") && !part.starts_with('-') && !part.ends_with('-')
}

/// Below the 255 characters that a repository may have, and the length of a file name.
const LONGEST: usize = 128;

/// The grammar of a path component in `distribution/reference`: letters and digits, with one `.`, one or two `_`, or
/// dashes between them.
fn is_legal(component: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator = |run: &str| ["", ".", "_", "__"].contains(&run) || run.chars().all(|c| c == '-');
    let at_edge = component.starts_with(is_word) && component.ends_with(is_word);
    component.len() <= LONGEST && at_edge && component.split(is_word).all(is_separator)
}

/// FNV-1a: the same in every version of this program, unlike the hashes of the standard library.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Tags the image of a service, and holds it. Can be repeated.
///
/// # Errors
/// An image that is gone, a container of another's that has the name of our keeper, no engine.
pub fn keep(docker: &Docker, owner: ImageOwner, service: &str, placed: &ServiceRelease) -> Result<(), Error> {
    let tag = owner.tag_of(service, placed.since);
    docker.tag(&placed.image_id, &tag).map_err(Error::from_error)?;
    tag_image(docker, owner, &owner.keeper_of(service, placed.since), &tag).map_err(Error::from_error)
}

/// Swarm refers to an image of a registry by its digest, and the registry keeps it.
pub fn is_local(placed: &ServiceRelease) -> bool {
    placed.image_id.starts_with("sha256:")
}

/// Those whose image is there and that nothing of ours holds, out of what releases need. `held` are the keepers.
pub fn not_held<'a>(
    docker: &Docker,
    owner: ImageOwner,
    held: &[String],
    placed: impl Iterator<Item = (&'a str, &'a ServiceRelease)>,
) -> Vec<(&'a str, &'a ServiceRelease)> {
    let is_held = |(service, p): &(&str, &ServiceRelease)| held.contains(&owner.keeper_of(service, p.since));
    let is_there = |(_, p): &(&str, &ServiceRelease)| matches!(docker.image(&p.image_id), Ok(Some(_)));
    placed.filter(|p| is_local(p.1) && !is_held(p) && is_there(p)).collect()
}

fn tag_image(docker: &Docker, owner: ImageOwner, keeper: &str, tag: &str) -> anyhow::Result<()> {
    let Some(image) = docker.image(tag)? else {
        return Ok(());
    };
    match docker.inspect(&[keeper.into()])?.first() {
        Some(there) if there.label(KEEPS) != Some(owner.project) => {
            return Err(name_taken(keeper).into());
        }
        Some(there) if there.image_id == image.id => return Ok(()),
        // The numbers began anew, with a new state folder.
        Some(_) => docker.remove_with_volumes(keeper)?,
        None => {}
    }
    docker.create_keeper((owner.project, owner.history), keeper, tag, &image)
}

fn name_taken(keeper: &str) -> Error {
    Error::unchanged(format!(
        "the container `{keeper}` is not of compose-zd, and has the name of one that holds an image"
    ))
    .hint("rename or remove it")
}

/// A reference of exactly this image: the one of the file while it still means the same, else our tag, which is made anew
/// where the image is still there, or after pulling it again.
///
/// # Errors
/// An image that is gone, and that no registry gives; no engine.
pub fn provide(
    docker: &Docker,
    owner: ImageOwner,
    service: &str,
    placed: &ServiceRelease,
) -> Result<String, Error> {
    let found = find(docker, owner, service, placed).map_err(Error::from_error)?;
    found.ok_or_else(|| gone(service, placed))
}

fn find(
    docker: &Docker,
    owner: ImageOwner,
    service: &str,
    placed: &ServiceRelease,
) -> anyhow::Result<Option<String>> {
    let is_it = |reference: &str| -> anyhow::Result<bool> {
        Ok(docker.image(reference)?.is_some_and(|image| image.id == placed.image_id))
    };
    let tag = owner.tag_of(service, placed.since);
    for reference in [&placed.image, &tag] {
        if is_it(reference)? {
            return Ok(Some(reference.clone()));
        }
    }
    let mut there = is_it(&placed.image_id)?;
    for digest in &placed.digests {
        there = there || (docker.pull_image(digest)? && is_it(&placed.image_id)?);
    }
    if there {
        docker.tag(&placed.image_id, &tag)?;
    }
    Ok(there.then_some(tag))
}

fn gone(service: &str, placed: &ServiceRelease) -> Error {
    let (image, since) = (&placed.image, placed.since);
    let message = format!("`{service}`: the image `{image}` of release {since} is gone from this engine");
    let (seen, hint) = match placed.digests.is_empty() {
        true => {
            ("it was built here, so that no registry has it", "deploy the revision of that release again")
        }
        false => (
            "no registry gave it; why stands above",
            "deploy the revision of that release again where the image was built here, or log in to its registry",
        ),
    };
    Error::unchanged(message)
        .seen(&format!("its id is {}", placed.image_id))
        .seen(seen)
        .hint(format!("{hint}, or name another release with `--to`"))
}

/// Removes the tags and keepers of a history that are not kept, and says what could not be removed. An image that is in
/// use still has its tag afterwards, and the next release takes it.
pub fn release_images(
    docker: &Docker,
    owner: ImageOwner,
    held: &[String],
    services: &BTreeSet<String>,
    kept: &Retention,
) -> Vec<String> {
    // In this order: a keeper uses its image.
    let keepers = release_keepers(docker, owner, held, kept);
    let tags = release_tags(docker, owner, services, kept);
    let failed = [keepers, tags].into_iter().filter_map(Result::err);
    failed.map(|e| format!("images of older releases stay: {e:#}")).collect()
}

fn release_keepers(
    docker: &Docker,
    owner: ImageOwner,
    held: &[String],
    kept: &Retention,
) -> anyhow::Result<()> {
    let stay: BTreeSet<String> = kept.images.iter().map(|(s, since)| owner.keeper_of(s, *since)).collect();
    let ours = held.iter().filter(|name| owner.without_history(name).is_some());
    ours.filter(|name| !stay.contains(*name)).try_for_each(|name| docker.remove_with_volumes(name))
}

fn release_tags(
    docker: &Docker,
    owner: ImageOwner,
    services: &BTreeSet<String>,
    kept: &Retention,
) -> anyhow::Result<()> {
    let known = services.iter().chain(kept.images.iter().map(|(service, _)| service));
    let ours = repositories(owner.project, known);
    let stay: BTreeSet<String> = kept.images.iter().map(|(s, since)| owner.tag_of(s, *since)).collect();
    let tags = docker.tags_in(&ours)?;
    let is_its = |tag: &&String| owner.without_history(tag).is_some_and(|tag| is_ours(tag, &ours));
    let goes = |tag: &&String| is_its(tag) && !stay.contains(*tag);
    tags.iter().filter(goes).try_for_each(|tag| released(tag, &docker.remove_tag(tag)?))
}

/// Removes the names that an earlier version gave to images of these releases: names without a history may be those of
/// another checkout, which has another image of the same number.
///
/// # Errors
/// No engine.
pub fn release_old_names<'a>(
    docker: &Docker,
    project: &str,
    held: &[String],
    placed: impl Iterator<Item = (&'a str, &'a ServiceRelease)>,
) -> anyhow::Result<()> {
    for (service, placed) in placed {
        let keeper = old_keeper_of(project, service, placed.since);
        if !held.contains(&keeper) {
            continue;
        }
        let tag = old_tag_of(project, service, placed.since);
        let found = docker.inspect(std::slice::from_ref(&keeper))?;
        if found.iter().any(|c| c.image_id == placed.image_id) {
            docker.remove_with_volumes(&keeper)?;
            released(&tag, &docker.remove_tag(&tag)?)?;
        }
    }
    Ok(())
}

/// Exactly one of our repositories, and a tag that a release gave.
fn is_ours(tag: &str, repositories: &BTreeSet<String>) -> bool {
    tag.rsplit_once(":r").is_some_and(|(repository, number)| {
        repositories.contains(repository) && number.parse::<u32>().is_ok_and(|n| n.to_string() == number)
    })
}

fn released(tag: &str, done: &CommandResult) -> anyhow::Result<()> {
    let said = done.stderr.to_lowercase();
    match done.ok() || said.contains("conflict") || said.contains("no such image") {
        true => Ok(()),
        false => anyhow::bail!("`{tag}`: {}", done.stderr_or_stdout()),
    }
}

#[cfg(test)]
mod tests;
