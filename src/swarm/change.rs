//! What a deploy will change about a service of a stack, in words. Pure; values of variables are never shown.

use std::collections::BTreeSet;

use serde_json::Value;

use super::state::Service;

/// `wanted` is the service's part of a stack file, `now` the service as Swarm has it.
pub fn of(wanted: &Value, now: Option<&Service>) -> String {
    let image = wanted["image"].as_str().unwrap_or_default();
    let replicas = wanted["deploy"]["replicas"].as_u64().unwrap_or(1);
    let Some(service) = now else {
        return match wanted["deploy"]["mode"].as_str() {
            None | Some("replicated") => format!("create it with {replicas} of {image}"),
            Some(mode) => format!("create it, {mode}, of {image}"),
        };
    };
    let changes: Vec<String> = [
        image_change(image, service.spec.image()),
        environment_change(wanted, service),
        words_change("command", &wanted["command"], service.spec.container("Args")),
        words_change("entrypoint", &wanted["entrypoint"], service.spec.container("Command")),
        words_change(
            "health check",
            &wanted["healthcheck"]["test"],
            &service.spec.container("Healthcheck")["Test"],
        ),
    ]
    .into_iter()
    .flatten()
    .collect();
    let scaled = service.spec.replicas().filter(|n| *n != replicas);
    let scaled = scaled.map(|n| format!("go from {n} to {replicas} tasks"));
    let replaced = (!changes.is_empty()).then(|| format!("replace its tasks: {}", changes.join("; ")));
    let all: Vec<String> = replaced.into_iter().chain(scaled).collect();
    match all.is_empty() {
        true => {
            "nothing to replace, as far as image, environment, command, health check and replicas tell".into()
        }
        false => all.join(", and "),
    }
}

/// Swarm adds the digest that it found.
fn image_change(wanted: &str, now: &str) -> Option<String> {
    let plain = |reference: &str| reference.split('@').next().unwrap_or_default().to_string();
    let same = wanted == now || plain(now) == wanted || plain(now) == format!("{wanted}:latest");
    (!same).then(|| format!("image {} → {wanted}", plain(now)))
}

fn environment_change(wanted: &Value, service: &Service) -> Option<String> {
    let now = service.spec.environment();
    let text = |value: &Value| match value {
        Value::String(text) => text.replace("$$", "$"),
        other => other.to_string(),
    };
    let wanted: std::collections::BTreeMap<&str, String> = wanted["environment"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name.as_str(), text(value)))
        .collect();
    let names: BTreeSet<&str> = wanted.keys().chain(now.keys()).copied().collect();
    let differs = |name: &&str| wanted.get(name).map(String::as_str) != now.get(name).copied();
    let changed: Vec<&str> = names.into_iter().filter(differs).collect();
    (!changed.is_empty()).then(|| format!("environment {}", changed.join(", ")))
}

fn words_change(what: &str, wanted: &Value, now: &Value) -> Option<String> {
    let words = |value: &Value| -> Vec<String> {
        let items = value.as_array().into_iter().flatten();
        items.filter_map(Value::as_str).map(|w| w.replace("$$", "$")).collect()
    };
    (words(wanted) != words(now)).then(|| what.to_string())
}

#[cfg(test)]
#[path = "change/tests.rs"]
mod tests;
