//! Configs and secrets of a stack. Swarm objects are immutable: new content becomes a new object with a hash in its name.
//! The content goes to Docker by standard input, so that compose-zd never writes a secret to a file.

use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::docker::swarm::NAMESPACE;
use crate::docker::types::{CONTENT_LABEL, ExistingObject, ObjectKind};

/// Digits of the hash in a name: 48 bits distinguish the contents of one object.
const HASH_DIGITS: usize = 12;

/// An object that a stack needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackObject {
    pub kind: ObjectKind,
    /// Key of the object in the file.
    pub key: String,
    /// Name in Swarm, by the file.
    pub name: String,
    pub content: Vec<u8>,
    /// Flags of `docker config create` besides the labels.
    pub flags: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

impl StackObject {
    /// Object from its definition `value` in a resolved file.
    ///
    /// # Errors
    /// The content cannot be read: the message and the fix.
    pub fn new(
        kind: ObjectKind,
        key: &str,
        name: &str,
        value: &Value,
    ) -> Result<StackObject, (String, String)> {
        let flags = [("driver", "--driver"), ("template_driver", "--template-driver")];
        let flags = flags.iter().filter_map(|(key, flag)| Some(format!("{flag}={}", value[*key].as_str()?)));
        let labels = value["labels"].as_object().into_iter().flatten();
        let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
        Ok(StackObject {
            kind,
            key: key.into(),
            name: name.into(),
            content: content(kind, key, value)?,
            flags: flags.collect(),
            labels: labels.map(|(name, value)| (name.clone(), text(value))).collect(),
        })
    }

    /// Flags of `docker config create` for this object of a stack.
    pub fn creation_flags(&self, stack: &str) -> Vec<String> {
        let own = [(NAMESPACE.to_string(), stack.to_string()), (CONTENT_LABEL.to_string(), self.hash())];
        let labels = self.labels.clone().into_iter().chain(own);
        self.flags
            .iter()
            .cloned()
            .chain(labels.map(|(name, value)| format!("--label={name}={value}")))
            .collect()
    }

    /// Hash of the content.
    pub fn hash(&self) -> String {
        Sha256::digest(&self.content).iter().take(HASH_DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Name for this content: the name in the file, unless an object with other content has it.
    pub fn unique_name(&self, existing: Option<&ExistingObject>) -> String {
        let is_same = |e: &ExistingObject| match &e.content {
            Some(content) => *content == self.content,
            None => e.labels.get(CONTENT_LABEL).is_some_and(|hash| *hash == self.hash()),
        };
        if existing.is_none_or(is_same) {
            return self.name.clone();
        }
        // Swarm accepts names of 64 characters.
        format!("{}-{}", self.name.chars().take(63 - HASH_DIGITS).collect::<String>(), self.hash())
    }
}

fn content(kind: ObjectKind, key: &str, value: &Value) -> Result<Vec<u8>, (String, String)> {
    let path_of_key = format!("{}.{key}", kind.key());
    if let Some(text) = value["content"].as_str() {
        return Ok(text.replace("$$", "$").into_bytes());
    }
    if let Some(name) = value["environment"].as_str() {
        return std::env::var(name).map(String::into_bytes).map_err(|_| {
            let message = format!("`{path_of_key}.environment`: the variable `{name}` is not set");
            (message, format!("export `{name}`, or use `{path_of_key}.file`"))
        });
    }
    let path = value["file"].as_str().unwrap_or_default();
    std::fs::read(path).map_err(|error| {
        (
            format!("`{path_of_key}.file`: cannot read `{path}`: {error}"),
            "create the file, or name another one".into(),
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(text: &str) -> StackObject {
        StackObject::new(ObjectKind::Config, "c", "p_c", &json!({ "content": text, "labels": { "l": 1 } }))
            .unwrap()
    }

    fn existing(content: Option<&str>, labels: &[(&str, &str)]) -> ExistingObject {
        let labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        ExistingObject { content: content.map(|c| c.as_bytes().to_vec()), labels }
    }

    #[test]
    fn a_name_changes_only_with_its_content() {
        let one = object("a$$b");
        assert_eq!(one.content, b"a$b");
        assert_eq!(one.labels["l"], "1");
        assert_eq!(one.unique_name(None), "p_c");
        assert_eq!(one.unique_name(Some(&existing(Some("a$b"), &[]))), "p_c");
        let other = one.unique_name(Some(&existing(Some("x"), &[])));
        assert_eq!(other, format!("p_c-{}", one.hash()));
        assert_eq!(one.hash().len(), HASH_DIGITS);
    }

    #[test]
    fn a_secret_is_recognised_by_its_label() {
        let one = object("s");
        let labelled = existing(None, &[(CONTENT_LABEL, &one.hash())]);
        assert_eq!(one.unique_name(Some(&labelled)), "p_c");
        assert_ne!(one.unique_name(Some(&existing(None, &[]))), "p_c");
    }

    #[test]
    fn no_name_is_longer_than_swarm_accepts() {
        let long = StackObject { name: "n".repeat(64), ..object("a") };
        assert_eq!(long.unique_name(Some(&existing(Some("b"), &[]))).len(), 64);
    }

    #[test]
    fn missing_content_is_refused_with_the_fix() {
        let of = |value| StackObject::new(ObjectKind::Secret, "s", "s", &value).unwrap_err();
        assert!(of(json!({ "environment": "COMPOSE_ZD_NOT_SET" })).0.contains("is not set"));
        assert!(of(json!({ "file": "/nowhere/x" })).0.contains("secrets.s.file"));
    }
}
