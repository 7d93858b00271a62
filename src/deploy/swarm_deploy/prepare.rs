//! What a deploy on Swarm makes ready before anything is changed: exact images, configs and secrets by their content, and
//! every reason to refuse, all at once.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::json;

use super::{SwarmDeploy, is_pinned};
use crate::docker::Docker;
use crate::docker::swarm::ResolveImage;
use crate::error::{Error, Exit};
use crate::model::{ConfigError, ResolvedProject};
use crate::release::RolloutKind;
use crate::report::Warning;
use crate::swarm::objects::{self, StackObject};
use crate::swarm::placement::{ClusterNodes, LocalImage};
use crate::swarm::stack_file::{StackFile, StackOverrides};

/// A stack that can be sent, and what is recorded of it.
pub struct PreparedStack {
    pub file: StackFile,
    /// The project with the images and the names of configs and secrets that are sent. It means the same later, however the
    /// user's files and tags have changed.
    pub recorded: ResolvedProject,
    pub resolve: ResolveImage,
    /// Configs and secrets that are still to be made, with their names.
    pub missing: Vec<(StackObject, String)>,
    pub nodes: ClusterNodes,
}

impl SwarmDeploy<'_> {
    /// # Errors
    /// What Swarm refuses, or would fail at on one of its nodes.
    pub fn prepare(&self, asks: &StackOverrides) -> Result<PreparedStack> {
        let source = &self.request.source;
        let mut file = StackFile::of(&self.request.snapshot.text(), source, asks).map_err(Error::from)?;
        if matches!(self.kind, RolloutKind::Rollback { .. }) {
            file = file.without_jobs();
        }
        if file.services.is_empty() {
            return Err(nothing_to_send(source).into());
        }
        let nodes = self.docker().cluster_nodes()?;
        let local = self.pin(&mut file, &nodes)?;
        let folder = self.request.folder.canonicalize().unwrap_or_default();
        let mut refusals = std::mem::take(&mut file.refusals);
        refusals.extend(super::one_shots(&self.request.project));
        refusals.extend(nodes.refusals(&file, &local, &folder));
        refused(source, refusals)?;
        self.tell_moved_tags(&file)?;
        let missing = name_objects(self.docker(), &mut file)?;
        Ok(PreparedStack {
            recorded: self.recorded(&file),
            resolve: self.resolve(&file),
            file,
            missing,
            nodes,
        })
    }

    /// Refers to images that are only here by their ids: a tag may mean another image by the time that a task restarts, or
    /// that the deploy is rolled back. Images of a registry get their digest from Swarm. Gives the services whose image no
    /// registry is known to have, with the nodes that ran it.
    fn pin(&self, file: &mut StackFile, nodes: &ClusterNodes) -> Result<Vec<LocalImage>> {
        let asked = self.args().resolve_image.as_deref().map(ResolveImage::parse);
        let mut local = Vec::new();
        if asked.is_some_and(|asked| asked != ResolveImage::Never) {
            return Ok(local);
        }
        for name in file.services.clone() {
            let reference = file.image(&name).to_string();
            let image = self.docker().image(&reference)?;
            if is_pinned(&reference) {
                // Of a recorded release; where there are more nodes, another one may have it.
                if image.is_none() && reference.starts_with("sha256:") && nodes.all.len() < 2 {
                    return Err(self.image_is_gone(&name, &reference).into());
                }
                continue;
            }
            let Some(image) = image else { continue };
            if asked.is_none() && !image.repo_digests.is_empty() {
                continue;
            }
            if asked.is_none() {
                let ran = self.before.tasks.iter().filter(|t| t.image() == image.id);
                let ran = ran.map(|t| t.node.clone()).collect();
                local.push(LocalImage { service: name.clone(), image: reference, ran });
            }
            file.set_image(&name, &image.id);
        }
        Ok(local)
    }

    /// A service that was deployed by its tag, which was built again since: until now nothing has told Swarm which image
    /// it runs.
    fn tell_moved_tags(&self, file: &StackFile) -> Result<()> {
        for service in file.services.iter().filter_map(|name| self.before.services.get(name)) {
            let (name, tag) = (&service.name, service.spec.image());
            let ids = self.before.tasks_of(name).filter(|t| t.runs()).map(|t| t.container.clone());
            let image = if is_pinned(tag) { None } else { self.docker().image(tag)? };
            let Some(image) = image else { continue };
            let here = self.docker().inspect(&ids.collect::<Vec<_>>())?;
            if here.iter().any(|container| container.image_id != image.id) {
                self.report.warn(&Warning::Loss(format!(
                    "`{name}` runs an image that `{tag}` does not mean any more, and Swarm knows it by that tag alone: the way \
                     back from this deploy would start what the tag means now; tag the old image and deploy it once, and every \
                     later way back is exact"
                )));
            }
        }
        Ok(())
    }

    fn image_is_gone(&self, service: &str, id: &str) -> Error {
        let number = match self.kind {
            RolloutKind::Rollback { to } => to,
            _ => self.number,
        };
        Error::unchanged(format!(
            "`{service}`: the image of release {number} is gone from this engine, and no registry has it; nothing was changed"
        ))
        .detail(&format!("its id is {id}"))
        .hint("deploy the revision of that release again, or name another release with `--to`")
    }

    /// As asked for; else images that are referred to by id are not looked for in a registry.
    pub fn resolve(&self, file: &StackFile) -> ResolveImage {
        match &self.args().resolve_image {
            Some(word) => ResolveImage::parse(word),
            None if file.services.iter().all(|s| is_pinned(file.image(s))) => ResolveImage::Never,
            None => ResolveImage::Always,
        }
    }

    fn recorded(&self, file: &StackFile) -> ResolvedProject {
        let mut recorded = self.request.snapshot.clone();
        for name in file.services.iter().filter(|name| is_pinned(file.image(name))) {
            recorded.set_image(name, file.image(name));
        }
        let current = self.journal.history.current();
        let before = current.and_then(|record| self.journal.snapshot(record.number).ok());
        for kind in objects::ObjectKind::ALL {
            for key in recorded.keys(kind.key()) {
                let sent = file.value[kind.key()].get(&key);
                let sent = sent.and_then(|value| serde_yaml::to_value(value).ok());
                // What only services use that are not deployed now stays what it was.
                let known = sent.or_else(|| before.as_ref()?.shared(kind.key(), &key).cloned());
                if let Some(value) = known {
                    recorded.set_shared(kind.key(), &key, value);
                }
            }
        }
        recorded
    }

    /// Makes the configs and secrets that are not there yet.
    pub fn create_objects(&self, prepared: &PreparedStack) -> Result<()> {
        let create =
            |(object, name): &(StackObject, String)| self.docker().create_object(self.name(), object, name);
        prepared.missing.iter().try_for_each(create)
    }

    /// Removes configs and secrets of ours that neither a service nor a release that is kept refers to.
    pub fn remove_objects(&self) {
        if let Err(error) = self.try_remove_objects() {
            self.report.warn(&Warning::LeftBehind(format!("configs of older releases stay: {error:#}")));
        }
    }

    fn try_remove_objects(&self) -> Result<()> {
        let mut needed: BTreeSet<String> = BTreeSet::new();
        let journal = self.journal.reopened()?;
        if journal.history.unreadable_records().next().is_some() {
            return Ok(()); // one that cannot be read may need any of them
        }
        for number in journal.history.good_numbers() {
            let Ok(text) = journal.snapshot(number) else { continue };
            for kind in objects::ObjectKind::ALL {
                let keys = text.keys(kind.key());
                let names = keys.iter().filter_map(|key| text.shared(kind.key(), key)?.get("name")?.as_str());
                needed.extend(names.map(String::from));
            }
        }
        let now = crate::swarm::watch::look(self.docker(), self.name())?;
        for service in now.services.values() {
            let specs = [Some(&service.spec), service.previous.as_ref()];
            needed.extend(specs.into_iter().flatten().flat_map(|s| s.objects()).map(String::from));
        }
        for kind in objects::ObjectKind::ALL {
            let ours = self.docker().object_names(self.name(), kind)?;
            ours.iter()
                .filter(|name| !needed.contains(*name))
                .try_for_each(|n| self.docker().remove_object(kind, n))?;
        }
        Ok(())
    }
}

/// Gives every config and secret the name that its content has, and gives those that are still to be made.
fn name_objects(docker: &Docker, file: &mut StackFile) -> Result<Vec<(StackObject, String)>> {
    let mut missing = Vec::new();
    for object in std::mem::take(&mut file.objects) {
        let existing = docker.existing_object(object.kind, &object.name)?;
        let name = object.name_beside(existing.as_ref());
        let is_there = match name == object.name {
            true => existing.is_some(),
            false => docker.existing_object(object.kind, &name)?.is_some(),
        };
        file.value[object.kind.key()][&object.key] = json!({ "name": name, "external": true });
        if !is_there {
            missing.push((object, name));
        }
    }
    Ok(missing)
}

/// # Errors
/// All of them, each with its fix.
pub fn refused(source: &str, mut all: Vec<ConfigError>) -> Result<(), Error> {
    match all.len() {
        0 => Ok(()),
        1 => Err(Error::from(all.remove(0))),
        count => {
            let error = Error::new(
                Exit::Usage,
                format!(
                    "{source}: Swarm cannot run this project as it is, for {count} reasons; nothing was changed"
                ),
            );
            let said = all.iter().flat_map(|wrong| [wrong.message.clone(), format!("  fix: {}", wrong.hint)]);
            Err(said.fold(error, |error, line| error.detail(&line)))
        }
    }
}

fn nothing_to_send(source: &str) -> Error {
    Error::usage(format!(
        "{source}: there is no service to put in place; jobs are not run again by a rollback"
    ))
    .hint("`compose-zd deploy SERVICE` runs a job once more")
}
