//! Configs and secrets of a stack. Swarm's own never change: another content is another object, whose name has a hash of it.
//! They are made from standard input or from the user's own file, so that no secret is ever in a file of ours.

use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The label that tells what an object of ours is made of.
pub const CONTENT: &str = "compose-zd.content";

/// Digits of the hash in a name: 48 bits tell the contents of one object apart.
const DIGITS: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    Config,
    Secret,
}

/// An object that a stack needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackObject {
    pub kind: ObjectKind,
    /// As the file refers to it.
    pub key: String,
    /// As the file names it to Swarm.
    pub name: String,
    pub content: Vec<u8>,
    /// The flags of `docker config create` that it needs beside its labels.
    pub flags: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

/// What Swarm has by the name that the file gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingObject {
    pub labels: BTreeMap<String, String>,
    /// Swarm tells it of configs alone.
    pub content: Option<Vec<u8>>,
}

impl ObjectKind {
    pub const ALL: [ObjectKind; 2] = [ObjectKind::Config, ObjectKind::Secret];

    /// The command's noun.
    pub fn noun(self) -> &'static str {
        match self {
            ObjectKind::Config => "config",
            ObjectKind::Secret => "secret",
        }
    }

    /// The key of a file.
    pub fn key(self) -> &'static str {
        match self {
            ObjectKind::Config => "configs",
            ObjectKind::Secret => "secrets",
        }
    }
}

impl StackObject {
    /// `value` is its part of a resolved file.
    ///
    /// # Errors
    /// A content that cannot be had, with the fix.
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

    /// Hash of its content.
    pub fn hash(&self) -> String {
        Sha256::digest(&self.content).iter().take(DIGITS / 2).map(|byte| format!("{byte:02x}")).collect()
    }

    /// The name that its content has: the file's, while nothing else has it.
    pub fn name_beside(&self, existing: Option<&ExistingObject>) -> String {
        let is_same = |e: &ExistingObject| match &e.content {
            Some(content) => *content == self.content,
            None => e.labels.get(CONTENT).is_some_and(|hash| *hash == self.hash()),
        };
        match existing.is_none_or(is_same) {
            true => self.name.clone(),
            // Swarm takes names of 64 characters.
            false => format!("{}-{}", self.name.chars().take(63 - DIGITS).collect::<String>(), self.hash()),
        }
    }
}

fn content(kind: ObjectKind, key: &str, value: &Value) -> Result<Vec<u8>, (String, String)> {
    let place = format!("{}.{key}", kind.key());
    if let Some(text) = value["content"].as_str() {
        return Ok(text.replace("$$", "$").into_bytes());
    }
    if let Some(name) = value["environment"].as_str() {
        return std::env::var(name).map(String::into_bytes).map_err(|_| {
            let message = format!("`{place}.environment`: the variable `{name}` is not set");
            (message, format!("export it for `compose-zd`, or use `{place}.file`"))
        });
    }
    let path = value["file"].as_str().unwrap_or_default();
    std::fs::read(path).map_err(|error| {
        (format!("`{place}.file`: cannot read `{path}`: {error}"), "write it, or name another file".into())
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
    fn a_name_stays_while_its_content_does() {
        let one = object("a$$b");
        assert_eq!(one.content, b"a$b");
        assert_eq!(one.labels["l"], "1");
        assert_eq!(one.name_beside(None), "p_c");
        assert_eq!(one.name_beside(Some(&existing(Some("a$b"), &[]))), "p_c");
        let other = one.name_beside(Some(&existing(Some("x"), &[])));
        assert_eq!(other, format!("p_c-{}", one.hash()));
        assert_eq!(one.hash().len(), DIGITS);
    }

    #[test]
    fn a_secret_is_known_by_its_label_alone() {
        let one = object("s");
        let labelled = existing(None, &[(CONTENT, &one.hash())]);
        assert_eq!(one.name_beside(Some(&labelled)), "p_c");
        assert_ne!(one.name_beside(Some(&existing(None, &[]))), "p_c");
    }

    #[test]
    fn no_name_is_longer_than_swarm_takes() {
        let long = StackObject { name: "n".repeat(64), ..object("a") };
        assert_eq!(long.name_beside(Some(&existing(Some("b"), &[]))).len(), 64);
    }

    #[test]
    fn a_content_that_is_not_there_is_refused_with_the_fix() {
        let of = |value| StackObject::new(ObjectKind::Secret, "s", "s", &value).unwrap_err();
        assert!(of(json!({ "environment": "COMPOSE_ZD_NOT_SET" })).0.contains("is not set"));
        assert!(of(json!({ "file": "/nowhere/x" })).0.contains("secrets.s.file"));
    }
}
