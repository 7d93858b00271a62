//! Containers that hold on to a present instance: by its namespaces, by its volumes, or by a link to its name. A new instance
//! has another id and another name.

use super::Surroundings;
use crate::docker::inspect::Container;
use crate::fault::Fault;

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

/// `links: [app]`: the engine answers the name with the address of one container, by that container's name.
fn linked(around: &Surroundings, other: &Container) -> Option<Fault> {
    let is_proxy = around.known.iter().any(|p| p.container().id == other.id);
    let own = |(target, alias)| Some((around.members().find(|c: &&Container| c.name() == target)?, alias));
    let (instance, alias) = other.link_aliases().filter(|_| !is_proxy).find_map(own)?;
    let (_, service) = instance.compose()?;
    let (name, instance) = (other.name(), instance.name());
    let fault = Fault::usage(format!(
        "`{name}` is linked to {instance} (`links`), and would find nothing as `{alias}` once that is replaced"
    ));
    let hint = format!(
        "remove `links: {service}` and recreate `{name}`: on a network that they share it finds `{service}` by its name (another \
         name is given by `services.{service}.networks.default.aliases`)"
    );
    Some(fault.hint(hint).rule(&"linked"))
}
