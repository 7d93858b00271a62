//! Images: their names, and what keeps them from being pruned.

use std::collections::BTreeSet;

use anyhow::Result;

use super::inspect::{Container, Image};
use super::{CommandResult, Docker};

/// The label of a container that holds an image, with the project that it is kept for.
pub const KEEPS: &str = "compose-zd.keeps";

/// The label of such a container with the id of the history that keeps the image.
const HISTORY: &str = "compose-zd.history";

impl Docker {
    /// A local image; `None` when there is none of that name.
    ///
    /// # Errors
    /// No engine.
    pub fn image(&self, reference: &str) -> Result<Option<Image>> {
        if !is_reference(reference) {
            return Ok(None);
        }
        let words = image_words(&[reference]);
        let done = self.run_prefetched(&self.docker_words(&words))?;
        match done.stderr.to_lowercase().contains("no such image") {
            true => Ok(None),
            false if done.ok() => Ok(serde_json::from_str::<Vec<Image>>(&done.stdout)?.pop()),
            false => Err(self.engine_fault(&words, &done).into()),
        }
    }

    /// Those of these local images that there are, in no order that tells which is which.
    ///
    /// # Errors
    /// No engine.
    pub fn images(&self, references: &BTreeSet<&str>) -> Result<Vec<Image>> {
        if references.is_empty() {
            return Ok(Vec::new());
        }
        let words = image_words(&references.iter().copied().collect::<Vec<_>>());
        let done = self.run_prefetched(&self.docker_words(&words))?;
        match done.ok() || done.stderr.to_lowercase().contains("no such image") {
            true => Ok(serde_json::from_str(&done.stdout)?),
            false => Err(self.engine_fault(&words, &done).into()),
        }
    }

    /// Pulls one image by its reference, docker's own progress shown; whether it came.
    ///
    /// # Errors
    /// Only when docker cannot be started.
    pub fn pull_image(&self, reference: &str) -> Result<bool> {
        if !is_reference(reference) {
            return Ok(false);
        }
        self.run_shown(&self.docker_words(&["pull", reference]))
    }

    /// Gives an image a name; one that has it loses it.
    ///
    /// # Errors
    /// No such image, or no engine.
    pub fn tag(&self, image: &str, tag: &str) -> Result<()> {
        self.checked(&["tag", image, tag]).map(drop)
    }

    /// The names in these repositories, and maybe in others: the engine reads a repository as a pattern.
    ///
    /// # Errors
    /// No engine.
    pub fn tags_in(&self, repositories: &BTreeSet<String>) -> Result<Vec<String>> {
        if repositories.is_empty() {
            return Ok(Vec::new());
        }
        let filters: Vec<String> = repositories.iter().map(|r| format!("reference={r}")).collect();
        let words = tags_words(&filters);
        let tags = self.checked_output(&words, self.run_prefetched(&self.docker_words(&words))?)?;
        Ok(tags.lines().map(String::from).collect())
    }

    /// Takes a name from an image; the image goes with its last name, unless a container uses it.
    ///
    /// # Errors
    /// Only when docker cannot be started.
    pub fn remove_tag(&self, tag: &str) -> Result<CommandResult> {
        self.run(&self.docker_words(&["image", "rm", tag]))
    }

    /// Makes a container that is never started, so that pruning images spares this one.
    ///
    /// # Errors
    /// A name that is taken, or no engine.
    pub fn create_keeper(&self, owner: (&str, &str), name: &str, tag: &str, image: &Image) -> Result<()> {
        let words = keeper_words(owner, name, tag, image);
        self.checked(&words.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
    }

    /// The keepers of all projects.
    ///
    /// # Errors
    /// No engine.
    pub fn all_keepers(&self) -> Result<Vec<Container>> {
        self.listed(&["--filter", &format!("label={KEEPS}")])
    }

    /// The names of a project's keepers.
    ///
    /// # Errors
    /// No engine.
    pub fn keepers(&self, project: &str) -> Result<Vec<String>> {
        let label = keeper_label(project);
        let words = keepers_words(&label);
        let names = self.checked_output(&words, self.run_prefetched(&self.docker_words(&words))?)?;
        Ok(names.lines().map(String::from).collect())
    }
}

/// An image's name as docker's client prints it. Podman's engine names the registry, also where none was given.
pub fn familiar(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

/// Nothing that docker would take for a flag has a place in its words, whoever wrote the record that it is from.
pub(super) fn is_reference(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

pub(super) fn image_words<'w>(references: &[&'w str]) -> Vec<&'w str> {
    ["image", "inspect"].into_iter().chain(references.iter().copied()).collect()
}

pub(super) fn tags_words(filters: &[String]) -> Vec<&str> {
    let words = ["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"].into_iter();
    words.chain(filters.iter().flat_map(|f| ["--filter", f])).collect()
}

pub(super) fn keeper_label(project: &str) -> String {
    format!("label={KEEPS}={project}")
}

pub(super) fn keepers_words(label: &str) -> [&str; 6] {
    ["ps", "--all", "--filter", label, "--format", "{{.Names}}"]
}

/// An entrypoint that no image has: started by mistake it fails, and does nothing. A volume of the image would get an
/// anonymous one. A label of the image speaks to others, and Compose writes its own into what it builds: with those the
/// keeper would be an instance, or an orphan that `up --remove-orphans` takes.
/// `owner` is a project, and the id of its history.
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
    words.extend(["--label".into(), format!("{HISTORY}={history}")]);
    words.extend(["--label".into(), format!("{KEEPS}={project}"), tag.into()]);
    words
}
