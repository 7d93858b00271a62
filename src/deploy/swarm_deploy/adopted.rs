//! The ways from Compose, and from `docker service create`, to a stack. A service that was there before its stack keeps its
//! name, which `docker stack deploy` would not give it, so it is changed by `docker service update`.

use std::collections::BTreeMap;

use anyhow::Result;

use super::SwarmDeploy;
use crate::cli::ComposeArgs;
use crate::deploy::asked;
use crate::deploy::request::{connect, resolved};
use crate::docker::Docker;
use crate::docker::swarm::NAMESPACE;
use crate::error::Error;
use crate::model::ResolvedProject;
use crate::report::Report;
use crate::swarm::convert::{self, ConvertedProject};
use crate::swarm::diff::ServiceDiff;
use crate::swarm::observed::{ObservedStack, StackService};
use crate::swarm::stack_file::StackFile;

/// Prints the project as it has to be for a Swarm.
///
/// # Errors
/// Compose's own.
pub fn print_for_swarm(compose: &ComposeArgs, report: Report) -> Result<()> {
    let mut docker = connect(compose, report)?;
    let text = ResolvedProject::read(&resolved(&mut docker, report)?).map_err(Error::from)?.text();
    let folder = asked::project_folder(compose).canonicalize()?;
    report.say(ConvertedProject::of(&serde_json::from_str(&text)?, &folder).text().trim_end());
    Ok(())
}

/// The Compose file of a service that has none.
///
/// # Errors
/// No such service; one that a stack has.
pub fn file_of_service(docker: &Docker, name: &str) -> Result<String> {
    let service = find(docker, name)?;
    let project = convert::project_of(name, &service.spec, &docker.network_names()?);
    let head =
        "# Written by `compose-zd init --from-service`: the service as `docker service inspect` has it.\n";
    Ok(format!("{head}{}", serde_yaml::to_string(&project)?))
}

fn find(docker: &Docker, name: &str) -> Result<StackService> {
    docker.cluster()?;
    let Some(raw) = docker.service_named(name)? else {
        return Err(Error::usage(format!("there is no service `{name}` in this Swarm"))
            .hint("`docker service ls` shows them")
            .into());
    };
    let stack = ObservedStack::new(name, vec![raw], Vec::new(), &BTreeMap::new());
    let service = stack.services.into_values().next();
    let service = service.ok_or_else(|| Error::unchanged(format!("the service `{name}` cannot be read")))?;
    match service.spec.value()["Labels"][NAMESPACE].as_str().filter(|stack| *stack != name) {
        Some(stack) => Err(Error::usage(format!("the service `{name}` is of the stack `{stack}`"))
            .hint("deploy it with the file of that stack")
            .into()),
        None => Ok(service),
    }
}

/// Makes the service a stack of its own name; no task is replaced.
///
/// # Errors
/// No engine.
pub fn adopt(docker: &Docker, name: &str) -> Result<()> {
    let service = find(docker, name)?;
    docker.service_update(&service.id, &["--label-add".into(), format!("{NAMESPACE}={name}")])
}

impl SwarmDeploy<'_> {
    /// Changes the services that were there before the stack, and gives what is left for `docker stack deploy`.
    ///
    /// # Errors
    /// A change that is more than image and number of tasks; nothing was changed then.
    pub fn send_adopted(&self, file: &StackFile, now: &ObservedStack) -> Result<StackFile> {
        let adopted = |name: &String| now.services.get(name).filter(|s| s.is_adopted);
        let mut changes = Vec::new();
        for service in file.services.iter().filter_map(adopted) {
            changes.push((service, self.flags(file, service)?));
        }
        for (service, flags) in changes.iter().filter(|(_, flags)| !flags.is_empty()) {
            self.docker().service_update(&service.id, flags)?;
        }
        Ok(file.keeping(|name| adopted(name).is_none()))
    }

    /// # Errors
    /// As [`Swarm::send_adopted`].
    pub fn flags(&self, file: &StackFile, service: &StackService) -> Result<Vec<String>> {
        let networks = self.docker().network_names()?;
        let change = ServiceDiff {
            stack: self.name(),
            file: &file.value,
            service: &service.name,
            image: self.request.snapshot.image(&service.name).unwrap_or_default(),
            networks: &networks,
        };
        change.flags(service).map_err(|others| {
            let name = &service.name;
            Error::unchanged(format!(
                "`{name}` was made by `docker service create`, and its file changes {}; nothing was changed",
                others.join(", ")
            ))
            .hint(format!(
                "image, replicas and update_config can be changed; for the rest use `docker service update {name}`, and \
                 `compose-zd init --from-service {name} --force` writes the file anew"
            ))
            .into()
        })
    }
}
