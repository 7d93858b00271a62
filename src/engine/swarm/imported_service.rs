//! Conversion of a Compose project, or of a service made by `docker service create`, into a stack. An imported service
//! keeps its name, which `docker stack deploy` would change, so `docker service update` changes it.

use std::collections::BTreeMap;

use anyhow::Result;

use super::SwarmDeploy;
use crate::configuration::{connect, resolve_config};
use crate::docker::Docker;
use crate::docker::swarm::NAMESPACE;
use crate::error::Error;
use crate::model::ResolvedProject;
use crate::model::args::ComposeArgs;
use crate::report::Report;
use crate::swarm::convert::{self, ConvertedProject};
use crate::swarm::diff::ServiceDiff;
use crate::swarm::observed::{ObservedStack, StackService};
use crate::swarm::stack_file::StackFile;

/// Prints the project, converted for a Swarm.
pub fn print_for_swarm(compose: &ComposeArgs, report: Report) -> Result<()> {
    let mut docker = connect(compose, report)?;
    let text =
        ResolvedProject::parse(&resolve_config(&mut docker, compose, report)?).map_err(Error::from)?.text();
    let folder = compose.folder().canonicalize()?;
    report.print_line(ConvertedProject::new(&serde_json::from_str(&text)?, &folder).text().trim_end());
    Ok(())
}

/// Compose file for a service that has none.
///
/// # Errors
/// The service does not exist, or belongs to a stack.
pub fn compose_file_of_service(docker: &Docker, name: &str) -> Result<String> {
    let service = find_service(docker, name)?;
    let project = convert::project_of_service(name, &service.spec, &docker.network_names()?);
    let header = "# Written by `compose-zd init --from-service`, from `docker service inspect`.\n";
    Ok(format!("{header}{}", serde_yaml::to_string(&project)?))
}

fn find_service(docker: &Docker, name: &str) -> Result<StackService> {
    docker.swarm_id()?;
    let Some(raw) = docker.service_named(name)? else {
        return Err(Error::usage(format!("service `{name}` does not exist in this Swarm"))
            .hint("list the services with `docker service ls`")
            .into());
    };
    let stack = ObservedStack::new(name, vec![raw], Vec::new(), &BTreeMap::new());
    let service = stack.services.into_values().next();
    let service = service.ok_or_else(|| Error::unchanged(format!("cannot read the service `{name}`")))?;
    match service.spec.value()["Labels"][NAMESPACE].as_str().filter(|stack| *stack != name) {
        Some(stack) => Err(Error::usage(format!("service `{name}` belongs to the stack `{stack}`"))
            .hint("deploy the service with the file of that stack")
            .into()),
        None => Ok(service),
    }
}

/// Turns the service into a stack of the same name, without replacing a task.
pub fn import_service(docker: &Docker, name: &str) -> Result<()> {
    let service = find_service(docker, name)?;
    docker.update_service(&service.id, &["--label-add".into(), format!("{NAMESPACE}={name}")])
}

/// Services of the file that existed before the stack.
pub fn imported_services<'s>(
    file: &'s StackFile,
    now: &'s ObservedStack,
) -> impl Iterator<Item = &'s StackService> {
    file.services.iter().filter_map(|name| now.services.get(name)).filter(|service| service.is_imported)
}

impl SwarmDeploy<'_> {
    /// Updates the imported services, and returns the rest of the file for `docker stack deploy`.
    ///
    /// # Errors
    /// A change has no flag of `docker service update`; nothing was changed then.
    pub fn update_imported(&self, file: &StackFile, now: &ObservedStack) -> Result<StackFile> {
        let mut changes = Vec::new();
        for service in imported_services(file, now) {
            changes.push((service, self.update_flags(file, service)?));
        }
        for (service, flags) in changes.iter().filter(|(_, flags)| !flags.is_empty()) {
            self.docker().update_service(&service.id, flags)?;
        }
        Ok(file.with_services(|name| !changes.iter().any(|(service, _)| service.name == *name)))
    }

    /// Changes of a service; `networks` has names by id.
    pub fn diff<'d>(
        &'d self,
        file: &'d StackFile,
        service: &'d str,
        networks: &'d BTreeMap<String, String>,
    ) -> ServiceDiff<'d> {
        let image = self.config().snapshot.image(service).unwrap_or_default();
        ServiceDiff { stack: self.stack_name(), file: &file.value, service, image, networks }
    }

    /// Flags of `docker service update` for an imported service.
    ///
    /// # Errors
    /// As [`SwarmDeploy::update_imported`].
    pub fn update_flags(&self, file: &StackFile, service: &StackService) -> Result<Vec<String>> {
        let networks = self.docker().network_names()?;
        self.diff(file, &service.name, &networks).update_flags(service).map_err(|others| {
            let name = &service.name;
            Error::unchanged(format!(
                "`{name}`: cannot update {} of a service made by `docker service create`; nothing was changed",
                others.join(", ")
            ))
            .hint(format!(
                "change the rest with `docker service update {name}`, then write the file again with \
                 `compose-zd init --from-service {name} --force`; a deploy changes image, replicas and update_config"
            ))
            .into()
        })
    }
}
