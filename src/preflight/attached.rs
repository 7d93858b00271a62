//! Containers that hold on to a present instance: by its namespaces, by its volumes, or by a link to its name. A new instance
//! has another id and another name.

use super::Surroundings;
use crate::docker::inspect::Container;
use crate::fault::Fault;
use crate::model::Service;

/// Other containers that would stay behind with the old instances.
pub fn faults(around: &Surroundings) -> Vec<Fault> {
    around.others().filter_map(|other| lives_in(around, other).or_else(|| linked(around, other))).collect()
}

/// `network_mode: container:NAME` and its like, by whoever started it.
fn lives_in(around: &Surroundings, other: &Container) -> Option<Fault> {
    let (key, instance) = other.host_containers().find_map(|(key, host)| {
        let is_it = |c: &&Container| c.name() == host || (host.len() >= 12 && c.id.starts_with(host));
        Some((key, around.members().find(is_it)?))
    })?;
    let (name, instance) = (other.name(), instance.name());
    let fault = Fault::usage(format!(
        "`{name}` lives in {instance} (`{key}: container:{instance}`), and would stay behind in the old instance"
    ));
    let hint = format!(
        "give `{name}` a network and volumes of its own, or remove it before and make it again after the deploy: `docker rm \
         --force {name}`"
    );
    Some(fault.hint(hint).rule(&"shared-namespace"))
}

/// `links: ["app:web"]`: the engine gives `web` the address of one container, by its name.
fn linked(around: &Surroundings, other: &Container) -> Option<Fault> {
    let is_proxy = around.known.iter().any(|p| p.container().id == other.id);
    let (instance, alias) = other.link_aliases().filter(|_| !is_proxy).find_map(|(target, alias)| {
        let instance = around.members().find(|c| c.name() == target)?;
        let lasts = |s: &&Service| s.names.iter().any(|name| name == alias);
        let own =
            alias == target || target.ends_with(&format!("-{alias}")) || around.services().iter().any(lasts);
        (!own).then_some((instance, alias))
    })?;
    let (_, service) = instance.compose()?;
    let (name, instance) = (other.name(), instance.name());
    let fault = Fault::usage(format!(
        "`{name}` reaches {instance} as `{alias}` (`links: {service}:{alias}`), a name that the new instance would not have"
    ));
    let hint = format!(
        "give the name to the service: `services.{service}.networks.default.aliases: [{alias}]`, and remove the link"
    );
    Some(fault.hint(hint).rule(&"link-alias"))
}
