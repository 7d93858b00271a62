//! Containers that depend on one current instance, by its namespaces, its volumes, a link or its name. A deploy breaks
//! them, because the new instances have other ids and names.

use super::{Surroundings, whole_words};
use crate::docker::inspect::Container;
use crate::finding::Finding;

/// Findings for the containers that depend on an instance that the deploy replaces.
pub fn findings(around: &Surroundings) -> Vec<Finding> {
    let finding = |other| {
        shared_namespace(around, other)
            .or_else(|| linked(around, other))
            .or_else(|| named_instance(around, other))
    };
    around.others().filter_map(finding).collect()
}

/// Finding for `network_mode: container:NAME`, `pid: container:NAME` or `volumes_from`, also of `docker run`.
fn shared_namespace(around: &Surroundings, other: &Container) -> Option<Finding> {
    let (key, instance) = other.host_containers().find_map(|(key, host)| {
        let is_host = |c: &&Container| c.name() == host || (host.len() >= 12 && c.id.starts_with(host));
        Some((key, around.members().find(is_host)?))
    })?;
    let (name, instance) = (other.name(), instance.name());
    let message = format!(
        "`{name}` runs in {instance} (`{key}: container:{instance}`), and would stay in the old instance"
    );
    let hint = format!(
        "give `{name}` its own network and volumes, or remove it now and create it again after the deploy: `docker rm \
         --force {name}`"
    );
    Some(Finding::usage("shared-namespace", message, hint))
}

/// Finding for `links: [app]`: the engine resolves the alias to one container only.
fn linked(around: &Surroundings, other: &Container) -> Option<Finding> {
    let is_proxy = around.proxies.iter().any(|p| p.is_in(other));
    let own = |(target, alias)| Some((around.members().find(|c: &&Container| c.name() == target)?, alias));
    let (instance, alias) = other.link_aliases().filter(|_| !is_proxy).find_map(own)?;
    let (_, service) = instance.compose()?;
    let (name, instance) = (other.name(), instance.name());
    let message = format!(
        "`{name}` is linked to {instance} (`links`), and could not resolve `{alias}` once that is replaced"
    );
    let hint = format!(
        "remove `links: {service}` and recreate `{name}`: on a shared network it resolves `{service}` by name \
         (`services.{service}.networks.default.aliases` adds another name)"
    );
    Some(Finding::usage("linked", message, hint).of_service(service))
}

/// Finding for a container's name in a variable or an argument, as in `API_URL=http://p-app-1:3000`.
fn named_instance(around: &Surroundings, other: &Container) -> Option<Finding> {
    if around.proxies.iter().any(|p| p.is_in(other)) {
        return None;
    }
    let texts = || other.config.env.iter().chain(&other.args);
    // A container resolves the instance's name only on a network that both share.
    let reaches = |instance: &&Container| other.networks().any(|own| instance.networks().any(|n| n == own));
    let is_left_behind = |instance: &&Container| !keeps_name(around, instance);
    let (instance, text) = around.members().filter(reaches).filter(is_left_behind).find_map(|instance| {
        let text = texts().find(|text| whole_words(text, instance.name()).next().is_some())?;
        Some((instance, text))
    })?;
    let (_, service) = instance.compose()?;
    let (name, instance) = (other.name(), instance.name());
    // The value of a variable may be a secret.
    let location =
        text.split_once('=').map_or("its arguments".to_string(), |(variable, _)| format!("`{variable}`"));
    let message = format!(
        "`{name}` refers to {instance} in {location}, and could not reach the new instances, which have other names"
    );
    let hint = format!("use the name of the service: `{service}`");
    Some(Finding::usage("names-instance", message, hint).of_service(service))
}

/// True if the new instance gets the name of this one (`container_name`).
fn keeps_name(around: &Surroundings, instance: &Container) -> bool {
    let service = instance.compose().and_then(|(_, service)| around.reader.project.services.get(service));
    service.is_some_and(|service| service.container_name.as_deref() == Some(instance.fixed_name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_word(text: &str, name: &str) -> bool {
        whole_words(text, name).next().is_some()
    }

    #[test]
    fn a_container_is_named_by_its_whole_name() {
        for text in ["http://p-app-1:3000", "p-app-1", "a,p-app-1,b"] {
            assert!(has_word(text, "p-app-1"), "{text}");
        }
        for text in ["http://p-app-12:3000", "my-p-app-1", "p-app-1.example", ""] {
            assert!(!has_word(text, "p-app-1"), "{text}");
        }
    }
}
