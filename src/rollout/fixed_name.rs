//! Services with `container_name`, which only one container can have: a new instance gets the name when it is created, and the
//! old one, which serves on, is set aside under another name.

use anyhow::Result;

use super::Rollout;
use crate::docker::inspect::Container;
use crate::observed::InstanceKey;

impl Rollout<'_> {
    /// Creates the only instance of a service with this name.
    pub(super) fn create_named(&mut self, service: &str, name: &str, fresh: &[InstanceKey]) -> Result<()> {
        let existing = self.existing(service, fresh)?;
        self.set_aside(name, &existing)?;
        if self.is_dry_run() && !existing.is_empty() {
            self.note("Compose does not see the existing containers of the service for this command".into());
        }
        let (docker, ids) = (self.context.docker, ids(&existing));
        self.create_by(&|| docker.create_beside(service, &ids), service, fresh)
    }

    /// Starts created instances of a service with `container_name` through Compose.
    pub(super) fn start_named(&self, service: &str, keys: &[InstanceKey]) -> Result<()> {
        let others = self.existing(service, keys)?;
        self.context.docker.start_by_compose_beside(service, &ids(&others))
    }

    /// Gives instances their names back. Another container of the service that has the name is set aside.
    pub(super) fn rename(&mut self, keys: &[InstanceKey]) -> Result<()> {
        for key in keys {
            let (container, service) = (self.containers[key].clone(), self.service(key));
            let name = container.fixed_name().to_string();
            let others = self.existing(&service.name, std::slice::from_ref(key))?;
            self.set_aside(&name, &others)?;
            self.context.docker.rename(container.name(), &name)?;
            self.containers.insert(key.clone(), container.named(&name));
        }
        Ok(())
    }

    /// Containers of a service without those of these keys.
    fn existing(&self, service: &str, without: &[InstanceKey]) -> Result<Vec<Container>> {
        let is_its = |c: &Container| c.compose().is_some_and(|(_, name)| name == service);
        if self.is_dry_run() {
            let all = self.containers.iter().filter(|(key, c)| is_its(c) && !without.contains(key));
            return Ok(all.map(|(_, c)| c.clone()).collect());
        }
        let excluded: Vec<&String> =
            without.iter().filter_map(|key| Some(&self.containers.get(key)?.id)).collect();
        let mut all = self.context.docker.containers_of(&self.context.project.name, service)?;
        all.retain(|c| is_its(c) && !excluded.contains(&&c.id));
        Ok(all)
    }

    /// Renames the container that has the name of its service.
    fn set_aside(&mut self, name: &str, all: &[Container]) -> Result<()> {
        for container in all.iter().filter(|c| c.name() == name) {
            let aside = container.set_aside_name();
            self.context.docker.rename(name, &aside)?;
            let known = self.containers.values_mut().filter(|c| c.id == container.id);
            known.for_each(|c| *c = c.clone().named(&aside));
        }
        Ok(())
    }
}

fn ids(containers: &[Container]) -> Vec<String> {
    containers.iter().map(|c| c.id.clone()).collect()
}
