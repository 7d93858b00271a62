//! Images: their names, and the containers that keep them from being pruned.

use std::collections::BTreeSet;

use anyhow::Result;
use serde::Deserialize;
use serde_json::json;

use super::inspect::{Container, Image, familiar_name};
use super::{CommandResult, Docker};
use crate::process::Command;

/// Label of a keeper, a container that holds an image; the value is the project.
pub const KEEPER_LABEL: &str = "compose-zd.keeps";

/// Label of a keeper with the id of the history that needs the image.
const HISTORY_LABEL: &str = "compose-zd.history";

impl Docker {
    /// A local image; `None` if no image has that name.
    pub fn image(&self, reference: &str) -> Result<Option<Image>> {
        if is_reference(reference) { self.lookup(&format!("/images/{reference}/json")) } else { Ok(None) }
    }

    /// The local images among these, in no particular order.
    pub fn images(&self, references: &BTreeSet<&str>) -> Result<Vec<Image>> {
        references.iter().map(|reference| self.image(reference)).filter_map(Result::transpose).collect()
    }

    /// Pulls one image by its reference and shows docker's own progress. Returns true if the image was pulled.
    pub fn pull_image(&self, reference: &str) -> Result<bool> {
        if !is_reference(reference) {
            return Ok(false);
        }
        let argv = self.docker_words(&["pull", reference]);
        self.show(&argv, Command::in_this_group(&argv))
    }

    /// Gives an image a name. Another image that has the name loses it.
    pub fn tag(&self, image: &str, tag: &str) -> Result<()> {
        self.checked(&["tag", image, tag]).map(drop)
    }

    /// Names in these repositories. The engine reads a repository as a pattern, so that other names may be among them.
    pub fn tags_in(&self, repositories: &BTreeSet<String>) -> Result<Vec<String>> {
        if repositories.is_empty() {
            return Ok(Vec::new());
        }
        let filters = json!({ "reference": repositories }).to_string();
        let images: Vec<ListedImage> = self.get("/images/json", &[("filters", &filters)])?;
        let tags = images.iter().flat_map(|image| image.repo_tags.iter().flatten());
        Ok(tags.map(|tag| familiar_name(tag).to_string()).collect())
    }

    /// Removes a name from an image. The engine removes the image with its last name, unless a container uses the
    /// image.
    pub fn remove_tag(&self, tag: &str) -> Result<CommandResult> {
        self.run(&["image", "rm", tag])
    }

    /// Creates a container that is never started, so that pruning images spares its image.
    pub fn create_keeper(&self, owner: (&str, &str), name: &str, tag: &str, image: &Image) -> Result<()> {
        let words = keeper_words(owner, name, tag, image);
        self.checked(&words.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
    }

    /// Keepers of all projects.
    pub fn all_keepers(&self) -> Result<Vec<Container>> {
        self.list(&[KEEPER_LABEL])
    }

    /// Names of a project's keepers.
    pub fn keepers(&self, project: &str) -> Result<Vec<String>> {
        let all = self.listed(&[&format!("{KEEPER_LABEL}={project}")])?;
        Ok(all.iter().filter_map(|container| container.name()).map(String::from).collect())
    }
}

/// Image in a list.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedImage {
    repo_tags: Option<Vec<String>>,
}

/// True if the text cannot be a flag of docker; the text may come from a damaged record.
fn is_reference(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

/// Words that create a keeper; `owner` is a project and the id of its history.
///
/// No image has the entrypoint: a keeper that is started by mistake fails and does nothing. Temporary file systems
/// replace the volumes of the image, which would become anonymous ones. Empty labels replace those of the image.
/// With Compose's labels the keeper would count as an instance, or as an orphan that `up --remove-orphans` removes.
pub(super) fn keeper_words(
    (project, history): (&str, &str),
    name: &str,
    tag: &str,
    image: &Image,
) -> Vec<String> {
    let mut words =
        ["create", "--name", name, "--network", "none", "--pull", "never"].map(String::from).to_vec();
    words.extend(["--entrypoint", "/compose-zd-keep"].map(String::from));
    words.extend(image.config.volumes.keys().flat_map(|path| ["--tmpfs".into(), path.clone()]));
    words.extend(image.config.labels.keys().flat_map(|key| ["--label".into(), format!("{key}=")]));
    words.extend(["--label".into(), format!("{HISTORY_LABEL}={history}")]);
    words.extend(["--label".into(), format!("{KEEPER_LABEL}={project}"), tag.into()]);
    words
}
