//! Containers that hold on to a present instance: by its namespaces, by its volumes, or by a link to its name. A new instance
//! has another id and another name.

use super::Surroundings;
use crate::docker::inspect::Container;
use crate::error::Error;

/// Other containers that would stay behind with the old instances.
pub fn faults(around: &Surroundings) -> Vec<Error> {
    let of =
        |other| lives_in(around, other).or_else(|| linked(around, other)).or_else(|| names(around, other));
    around.others().filter_map(of).collect()
}

/// `network_mode: container:NAME` and its like, in Compose or by hand.
fn lives_in(around: &Surroundings, other: &Container) -> Option<Error> {
    let (key, instance) = other.host_containers().find_map(|(key, host)| {
        let is_it = |c: &&Container| c.name() == host || (host.len() >= 12 && c.id.starts_with(host));
        Some((key, around.members().find(is_it)?))
    })?;
    let (name, instance) = (other.name(), instance.name());
    let error = Error::usage(format!(
        "`{name}` lives in {instance} (`{key}: container:{instance}`), and would stay behind in the old instance"
    ));
    let hint = format!(
        "give `{name}` a network and volumes of its own, or remove it before and make it again after the deploy: `docker rm \
         --force {name}`"
    );
    Some(error.hint(hint).rule(&"shared-namespace"))
}

/// `links: [app]`: the engine answers the name with the address of one container, by that container's name.
fn linked(around: &Surroundings, other: &Container) -> Option<Error> {
    let is_proxy = around.known.iter().any(|p| p.container().id == other.id);
    let own = |(target, alias)| Some((around.members().find(|c: &&Container| c.name() == target)?, alias));
    let (instance, alias) = other.link_aliases().filter(|_| !is_proxy).find_map(own)?;
    let (_, service) = instance.compose()?;
    let (name, instance) = (other.name(), instance.name());
    let error = Error::usage(format!(
        "`{name}` is linked to {instance} (`links`), and would find nothing as `{alias}` once that is replaced"
    ));
    let hint = format!(
        "remove `links: {service}` and recreate `{name}`: on a network that they share it finds `{service}` by its name (another \
         name is given by `services.{service}.networks.default.aliases`)"
    );
    Some(error.hint(hint).rule(&"linked"))
}

/// `API_URL=http://p-app-1:3000`: the name of one container, and not of what comes after it.
fn names(around: &Surroundings, other: &Container) -> Option<Error> {
    if around.known.iter().any(|p| p.container().id == other.id) {
        return None;
    }
    let texts = || other.config.env.iter().chain(&other.args);
    // It is found by its name on a network that both are on.
    let reaches = |instance: &&Container| other.networks().any(|own| instance.networks().any(|n| n == own));
    let (instance, text) = around.members().filter(reaches).find_map(|instance| {
        let text = texts().find(|text| has_word(text, instance.name()))?;
        Some((instance, text))
    })?;
    let (_, service) = instance.compose()?;
    let (name, instance) = (other.name(), instance.name());
    // The value of a variable may be a secret.
    let place =
        text.split_once('=').map_or("its arguments".to_string(), |(variable, _)| format!("`{variable}`"));
    let error = Error::usage(format!(
        "`{name}` names {instance} in {place}, which is one container and not what comes after it: it would not find it any more"
    ));
    Some(error.hint(format!("let it name the service: `{service}`")).rule(&"names-instance"))
}

/// Whether a text has a name that goes on neither before nor behind.
fn has_word(text: &str, name: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        !before.ends_with(inside) && !after.starts_with(inside)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
