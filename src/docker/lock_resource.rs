//! Records of a lock on the engine. Only one run can create a record of a given name. The record is a volume on a
//! single host. On a Swarm it is a config, which all managers share.

use std::collections::BTreeMap;

use anyhow::Result;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use hyper::StatusCode;
use serde_json::json;

use super::Docker;
use super::api::{ApiRequest, refused};
use super::types::{SwarmObject, Volume};

/// Label of every record of a lock; the value names the owner.
pub const LOCK_LABEL: &str = "compose-zd.lock";

/// Content of a config; Swarm refuses an empty one.
const CONFIG_CONTENT: &str = "compose-zd";

/// Kind of engine object that stores the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockBackend {
    Volumes,
    Configs,
}

/// Record of a lock on the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockRecord {
    /// Text that the owner wrote.
    pub text: String,
    /// Time by the engine's clock, in RFC 3339.
    pub created_at: String,
}

impl LockBackend {
    fn noun(self) -> &'static str {
        match self {
            LockBackend::Volumes => "volume",
            LockBackend::Configs => "config",
        }
    }

    fn path(self, name: &str) -> String {
        format!("/{}s/{name}", self.noun())
    }
}

impl LockRecord {
    fn new(created_at: String, mut labels: BTreeMap<String, String>) -> LockRecord {
        LockRecord { text: labels.remove(LOCK_LABEL).unwrap_or_default(), created_at }
    }
}

impl Docker {
    /// Creates a record; an existing one with that name stays unchanged.
    pub fn create_lock_record(&self, backend: LockBackend, name: &str, text: &str) -> Result<()> {
        let noun = backend.noun();
        let mut object = json!({ "Name": name, "Labels": { LOCK_LABEL: text } });
        if backend == LockBackend::Configs {
            object["Data"] = BASE64_STANDARD.encode(CONFIG_CONTENT).into();
        }
        let request = ApiRequest::post(&format!("/{noun}s/create"), object);
        let response = self.send(&request)?;
        if response.status.is_success() || response.status == StatusCode::CONFLICT {
            return Ok(());
        }
        Err(refused(&request, &response)
            .hint(format!(
                "the lock of a project is a {noun}: a filter in front of the engine has to allow `create`, `inspect` and \
                 `rm` of `docker {noun}`"
            ))
            .into())
    }

    /// Record of that name, if one exists.
    pub fn lock_record(&self, backend: LockBackend, name: &str) -> Result<Option<LockRecord>> {
        let path = backend.path(name);
        Ok(match backend {
            LockBackend::Volumes => {
                self.lookup(&path)?.map(|Volume { created_at, labels }| LockRecord::new(created_at, labels))
            }
            LockBackend::Configs => self
                .lookup(&path)?
                .map(|SwarmObject { created_at, spec }| LockRecord::new(created_at, spec.labels)),
        })
    }

    /// Removes records; a missing record is no error.
    pub fn remove_lock_records(&self, backend: LockBackend, names: &[String]) -> Result<()> {
        let remove = |name: &String| self.remove_if_exists(&backend.path(name));
        names.iter().map(remove).collect::<Vec<_>>().into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::types::parse;

    #[test]
    fn a_volume_and_a_config_name_their_owner() {
        let volume =
            r#"{"CreatedAt": "2026-01-02T03:04:05+01:00", "Labels": {"compose-zd.lock": "me"}, "Name": "n"}"#;
        let Volume { created_at, labels } = serde_json::from_str(volume).unwrap();
        let record = |created_at: &str| LockRecord { text: "me".into(), created_at: created_at.into() };
        assert_eq!(LockRecord::new(created_at, labels), record("2026-01-02T03:04:05+01:00"));
        let config = r#"{"ID": "x", "CreatedAt": "2026-01-02T03:04:05.6Z", "Spec": {"Labels": {"compose-zd.lock": "me"}}}"#;
        let SwarmObject { created_at, spec } = serde_json::from_str(config).unwrap();
        assert_eq!(LockRecord::new(created_at, spec.labels), record("2026-01-02T03:04:05.6Z"));
    }

    #[test]
    fn a_volume_of_another_program_has_an_empty_record() {
        let Volume { created_at, labels } = parse(br#"{"Labels": null, "Name": "n"}"#).unwrap();
        let record = LockRecord::new(created_at, labels);
        assert_eq!(record, LockRecord { text: String::new(), created_at: String::new() });
    }
}
