//! Dry run on Swarm: the changes of each service, and the commands of the deploy.

use anyhow::Result;

use super::SwarmDeploy;
use super::imported_service::imported_services;
use super::prepare::PreparedStack;
use crate::model::word;

impl SwarmDeploy<'_> {
    /// Reports the changes of each service, and the exact commands.
    pub fn report_plan(&self, prepared: &PreparedStack) -> Result<()> {
        let file = &prepared.file;
        let networks = self.docker().network_names()?;
        let changes = file.services.iter().map(|name| {
            let diff = self.diff(file, name, &networks);
            format!("`{name}`: {}", diff.describe(self.before.services.get(name)))
        });
        let action =
            if self.swarm_args().prune { "remove it: it is no longer in the file" } else { "leave it alone" };
        let left = self.services_outside(file).map(|service| format!("`{}`: {action}", service.name));
        let commands = self.commands(prepared)?.into_iter().map(|command| format!("$ {command}"));
        self.report().stack_plan(self.stack_name(), &changes.chain(left).chain(commands).collect::<Vec<_>>());
        Ok(())
    }

    fn commands(&self, prepared: &PreparedStack) -> Result<Vec<String>> {
        let PreparedStack { file, resolve_image, missing_objects, .. } = prepared;
        let (resolve, stack) = (word(resolve_image), self.stack_name());
        let objects = missing_objects.iter();
        let mut commands: Vec<String> =
            objects.map(|(object, name)| format!("docker {} create {name} -", object.kind.noun())).collect();
        let imported: Vec<_> = imported_services(file, &self.before).collect();
        for service in &imported {
            let (name, flags) = (&service.name, self.update_flags(file, service)?.join(" "));
            commands.push(format!("docker service update --with-registry-auth {flags} {name}"));
        }
        if imported.len() < file.services.len() {
            commands.push(format!(
                "docker stack deploy --with-registry-auth --resolve-image {resolve} --compose-file - {stack}"
            ));
        }
        let exists = |name: &&String| self.request.args.force && self.before.services.contains_key(*name);
        commands.extend(file.services.iter().filter(exists).map(|name| {
            format!("docker service update --force {stack}_{name}   # unless the deploy changes it")
        }));
        commands
            .extend(self.services_to_prune(file).map(|s| format!("docker service rm {stack}_{}", s.name)));
        Ok(commands)
    }
}
