//! Preparation of a deploy on Swarm, before any change. Pins images, and names configs and secrets by content. Reports all
//! refusals at once.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::json;

use super::{SwarmDeploy, is_pinned};
use crate::docker::types::{ObjectKind, SwarmNodes};
use crate::error::Error;
use crate::model::ResolvedProject;
use crate::model::args::ResolveImage;
use crate::report::Warning;
use crate::swarm::audit;
use crate::swarm::objects::StackObject;
use crate::swarm::placement::LocalImage;
use crate::swarm::stack_file::StackFile;

/// A stack that is ready to send, and the project to record.
pub struct PreparedStack {
    pub file: StackFile,
    /// Project with exact images and with the names of its configs and secrets. A later change of files or tags does not
    /// affect it.
    pub recorded: ResolvedProject,
    pub resolve_image: ResolveImage,
    /// Configs and secrets to create, with their names.
    pub missing_objects: Vec<(StackObject, String)>,
    pub nodes: SwarmNodes,
}

impl SwarmDeploy<'_> {
    /// Prepares the stack file.
    ///
    /// # Errors
    /// Swarm would refuse the project, or fail on a node.
    pub fn prepare(&self) -> Result<PreparedStack> {
        let (source, text) = (&self.config().source, self.config().snapshot.text());
        let mut file = StackFile::from_project(&text, source, &self.overrides).map_err(Error::from)?;
        if self.restored_release().is_some() {
            file = file.without_jobs();
        }
        if file.services.is_empty() {
            return Err(no_service_error(source).into());
        }
        let nodes = self.docker().inspect_swarm_nodes()?;
        let local = self.pin_images(&mut file, &nodes)?;
        let folder = self.config().folder.canonicalize().unwrap_or_default();
        file.refusals.extend(audit::job_refusals(&self.config().project));
        file.refusals.extend(nodes.refusals(&file, &local, &folder));
        let mut file = file.without_refusals(source)?;
        self.warn_of_moved_tags(&file)?;
        let missing = self.name_objects(&mut file)?;
        Ok(PreparedStack {
            recorded: self.project_to_record(&file),
            resolve_image: self.resolve_mode(&file),
            file,
            missing_objects: missing,
            nodes,
        })
    }

    /// Pins local images to their ids, because a tag may be moved before a task restarts or the deploy is rolled back. Swarm
    /// itself pins images of a registry by digest. Returns the services whose image is in no known registry, each with the
    /// nodes that ran the image.
    fn pin_images(&self, file: &mut StackFile, nodes: &SwarmNodes) -> Result<Vec<LocalImage>> {
        let mode = self.swarm_args().resolve_image;
        let mut local = Vec::new();
        if mode.is_some_and(|mode| mode != ResolveImage::Never) {
            return Ok(local);
        }
        for name in file.services.clone() {
            let reference = file.image(&name).to_string();
            let image = self.docker().image(&reference)?;
            if is_pinned(&reference) {
                // The image of a recorded release, which another node may have.
                if image.is_none() && reference.starts_with("sha256:") && nodes.all.len() < 2 {
                    return Err(self.image_missing_error(&name, &reference).into());
                }
                continue;
            }
            let Some(image) = image else { continue };
            if mode.is_none() && !image.repo_digests.is_empty() {
                continue;
            }
            if mode.is_none() {
                let tasks = self.before.tasks().filter(|t| t.image() == image.id);
                let ran_on = tasks.map(|t| t.node.clone()).collect();
                local.push(LocalImage { service: name.clone(), image: reference, ran_on });
            }
            file.set_image(&name, &image.id);
        }
        Ok(local)
    }

    /// Warns of services whose tag was moved after their deploy: Swarm knows their running image only by that tag.
    fn warn_of_moved_tags(&self, file: &StackFile) -> Result<()> {
        for service in file.services.iter().filter_map(|name| self.before.services.get(name)) {
            let (name, tag) = (&service.name, service.spec.image());
            let ids = service
                .tasks
                .iter()
                .filter(|t| t.runs())
                .map(|t| t.status.container_status.container.clone());
            let image = if is_pinned(tag) { None } else { self.docker().image(tag)? };
            let Some(image) = image else { continue };
            let containers = self.docker().inspect(&ids.collect::<Vec<_>>())?;
            if containers.iter().any(|container| container.image_id != image.id) {
                self.report().warn(&Warning::ExpectedLoss(format!(
                    "`{tag}` was moved after `{name}` was deployed, and Swarm knows the running image only by that tag: a rollback \
                     of this deploy would start the new image of the tag; to make rollbacks exact, give the running image a tag \
                     of its own and deploy it once"
                )));
            }
        }
        Ok(())
    }

    fn image_missing_error(&self, service: &str, id: &str) -> Error {
        let number = self.request.record.as_ref().map_or(self.number, |record| record.number);
        Error::unchanged(format!(
            "`{service}`: the image of release {number} no longer exists on this engine, and no registry has it; nothing was changed"
        ))
        .detail(&format!("its id is {id}"))
        .hint("deploy the revision of that release again, or choose another release with `--to`")
    }

    /// Value of `--resolve-image`. By default, Swarm does not look for pinned images in a registry.
    pub fn resolve_mode(&self, file: &StackFile) -> ResolveImage {
        match self.swarm_args().resolve_image {
            Some(mode) => mode,
            None if file.services.iter().all(|s| is_pinned(file.image(s))) => ResolveImage::Never,
            None => ResolveImage::Always,
        }
    }

    fn project_to_record(&self, file: &StackFile) -> ResolvedProject {
        let mut recorded = self.config().snapshot.clone();
        for name in file.services.iter().filter(|name| is_pinned(file.image(name))) {
            recorded.set_image(name, file.image(name));
        }
        let current = self.journal().history.current();
        let before = current.and_then(|record| self.journal().snapshot(record.number).ok());
        for kind in ObjectKind::ALL {
            for key in recorded.keys(kind.key()) {
                let sent = file.value[kind.key()].get(&key);
                let sent = sent.and_then(|value| serde_yaml::to_value(value).ok());
                // Objects of services that are not deployed now stay unchanged.
                let definition = sent.or_else(|| before.as_ref()?.shared(kind.key(), &key).cloned());
                if let Some(value) = definition {
                    recorded.set_shared(kind.key(), &key, value);
                }
            }
        }
        recorded
    }

    /// Creates the missing configs and secrets.
    pub fn create_objects(&self, prepared: &PreparedStack) -> Result<()> {
        let create = |(object, name): &(StackObject, String)| {
            let flags = object.creation_flags(self.stack_name());
            self.docker().create_object(object.kind, name, &flags, &object.content)
        };
        prepared.missing_objects.iter().try_for_each(create)
    }

    /// Removes configs and secrets of this stack to which neither a service nor a recorded release refers.
    pub fn remove_unused_objects(&self) {
        if let Err(error) = self.try_remove_unused_objects() {
            self.report()
                .warn(&Warning::CleanupFailed(format!("cannot remove configs of older releases: {error:#}")));
        }
    }

    fn try_remove_unused_objects(&self) -> Result<()> {
        let mut needed: BTreeSet<String> = BTreeSet::new();
        let journal = self.journal().reopen()?;
        if journal.history.unreadable_records().next().is_some() {
            return Ok(()); // The unreadable release may refer to any of them.
        }
        for number in journal.history.good_numbers() {
            let Ok(text) = journal.snapshot(number) else { continue };
            for kind in ObjectKind::ALL {
                let keys = text.keys(kind.key());
                let names = keys.iter().filter_map(|key| text.shared(kind.key(), key)?.get("name")?.as_str());
                needed.extend(names.map(String::from));
            }
        }
        let now = self.observe()?;
        for service in now.services.values() {
            let specs = [Some(&service.spec), service.previous.as_ref()];
            needed.extend(specs.into_iter().flatten().flat_map(|s| s.object_names().map(String::from)));
        }
        for kind in ObjectKind::ALL {
            let objects = self.docker().object_names(self.stack_name(), kind)?;
            objects
                .iter()
                .filter(|name| !needed.contains(*name))
                .try_for_each(|n| self.docker().remove_object(kind, n))?;
        }
        Ok(())
    }

    /// Names every config and secret by its content. Returns those that do not exist yet, with their names.
    fn name_objects(&self, file: &mut StackFile) -> Result<Vec<(StackObject, String)>> {
        let mut missing = Vec::new();
        for object in std::mem::take(&mut file.objects) {
            let existing = self.docker().existing_object(object.kind, &object.name)?;
            let name = object.unique_name(existing.as_ref());
            let exists = if name == object.name {
                existing.is_some()
            } else {
                self.docker().existing_object(object.kind, &name)?.is_some()
            };
            file.value[object.kind.key()][&object.key] = json!({ "name": name, "external": true });
            if !exists {
                missing.push((object, name));
            }
        }
        Ok(missing)
    }
}

fn no_service_error(source: &str) -> Error {
    Error::usage(format!("{source}: no service to roll back; a rollback does not run jobs again"))
        .hint("run a job again with `compose-zd deploy SERVICE`")
}
