//! Differences between two definitions of a service, key by key, without secrets. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_yaml::Value;

use crate::mask;
use crate::report::changes::KeyChange;

/// Keys that Compose does not compare: a change of them recreates no container.
const IGNORED: [&str; 7] =
    ["build", "depends_on", "deploy.replicas", "develop", "profiles", "pull_policy", "scale"];

/// Parts of a key whose value is a secret.
const SECRET: [&str; 8] = ["secret", "password", "passwd", "token", "key", "credential", "auth", "private"];

/// Shown in place of a secret.
const MASKED: &str = "…";

/// Keys whose values differ.
pub fn changes(old: &Value, new: &Value) -> Vec<KeyChange> {
    let (old, new) = (leaves(old), leaves(new));
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let differs = |key: &&&String| old.get(**key) != new.get(**key);
    let shown = |key: &String, all: &BTreeMap<String, String>| all.get(key).map(|value| shown(key, value));
    let change = |key: &String| KeyChange { key: key.clone(), old: shown(key, &old), new: shown(key, &new) };
    keys.iter().filter(differs).map(|key| change(key)).collect()
}

/// Each change once: those of the sides of a pair are mostly the same.
pub fn once(changes: impl Iterator<Item = KeyChange>) -> Vec<KeyChange> {
    let mut found: Vec<KeyChange> = Vec::new();
    for change in changes {
        if !found.contains(&change) {
            found.push(change);
        }
    }
    found
}

/// Every value that is no map, by its path.
fn leaves(service: &Value) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    collect("", service, &mut found);
    found
}

fn collect(path: &str, value: &Value, found: &mut BTreeMap<String, String>) {
    let is_ignored = path.starts_with("x-") || IGNORED.contains(&path);
    let below = |name: &str| if path.is_empty() { name.into() } else { format!("{path}.{name}") };
    match value {
        _ if is_ignored => {}
        Value::Null if !path.starts_with("environment.") => {}
        Value::Mapping(map) => {
            map.iter().for_each(|(name, value)| collect(&below(&scalar(name)), value, found));
        }
        Value::Sequence(items) if items.iter().any(Value::is_mapping) => {
            items.iter().enumerate().for_each(|(n, item)| collect(&format!("{path}[{n}]"), item, found));
        }
        Value::Sequence(items) => {
            let words: Vec<String> = items.iter().map(scalar).collect();
            found.insert(path.into(), words.join(" "));
        }
        value => _ = found.insert(path.into(), scalar(value)),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        value => serde_yaml::to_string(value).unwrap_or_default().trim_end().into(),
    }
}

/// Value for a message.
fn shown(key: &str, value: &str) -> String {
    let name = key.to_lowercase();
    let is_variable = name.starts_with("environment.") || name.starts_with("labels.");
    if is_variable && SECRET.iter().any(|part| name.contains(part)) {
        return MASKED.into();
    }
    mask::urls(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn diff(old: &str, new: &str) -> Vec<String> {
        let value = |text: &str| serde_yaml::from_str::<Value>(text).unwrap();
        let text = |value: Option<String>| value.unwrap_or("none".into());
        let line = |c: KeyChange| format!("{} {} → {}", c.key, text(c.old), text(c.new));
        changes(&value(old), &value(new)).into_iter().map(line).collect()
    }

    #[test]
    fn values_are_compared_by_their_paths() {
        assert_eq!(
            diff(
                "{image: a:1, environment: {MODE: x, GONE: 1}, command: [a, b], ports: [{target: 80}]}",
                "{image: a:2, environment: {MODE: y, NEW: 1}, command: [a, c], ports: [{target: 80}, {target: 81}]}",
            ),
            [
                "command a b → a c",
                "environment.GONE 1 → none",
                "environment.MODE x → y",
                "environment.NEW none → 1",
                "image a:1 → a:2",
                "ports[1].target none → 81",
            ]
        );
    }

    #[test]
    fn a_change_of_both_sides_of_a_pair_is_shown_once() {
        let change = |key: &str, new: &str| KeyChange {
            key: key.into(),
            old: Some("1".into()),
            new: Some(new.into()),
        };
        let both = [change("image", "2"), change("image", "2"), change("image", "3"), change("scale", "2")];
        assert_eq!(once(both.clone().into_iter()), [&both[..1], &both[2..]].concat());
    }

    #[test]
    fn keys_that_recreate_no_container_are_left_out() {
        let old =
            "{image: a, x-zd: {keep: 1}, build: {context: a}, deploy: {replicas: 1}, depends_on: {db: {}}}";
        assert_eq!(diff(old, "{image: a, command: null}"), [""; 0]);
        assert_eq!(diff("{environment: {A: }}", "{environment: {}}"), ["environment.A  → none"]);
    }

    #[test]
    fn a_secret_differs_and_is_not_shown() {
        let both = |value: &str| {
            format!("{{environment: {{DB_PASSWORD: {value}, URL: 'postgres://me:{value}@db/x'}}}}")
        };
        let lines = diff(&both("hunter1"), &both("hunter2"));
        assert_eq!(
            lines,
            ["environment.DB_PASSWORD … → …", "environment.URL postgres://…@db/x → postgres://…@db/x"]
        );
    }
}
