//! Records of a lock on the engine. Only one run can create a record of a given name. The record is a volume on a
//! single host. On a Swarm it is a config, which all managers share.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::{CommandResult, Docker};
use crate::error::Error;

/// Label of every record of a lock; the value names the owner.
pub const LOCK_LABEL: &str = "compose-zd.lock";

/// Content of a config; Swarm refuses an empty one.
const CONFIG_CONTENT: &str = "compose-zd";

/// Limit for an answer of the engine. A run must be able to end although the engine does not answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(45);

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
}

impl Docker {
    /// Creates a record; an existing one with that name stays unchanged.
    pub fn create_lock_record(&self, backend: LockBackend, name: &str, text: &str) -> Result<()> {
        let label = format!("{LOCK_LABEL}={text}");
        let mut words = vec![backend.noun(), "create", "--label", &label, name];
        words.extend((backend == LockBackend::Configs).then_some("-"));
        let result = self.run_limited(&words, (backend == LockBackend::Configs).then_some(CONFIG_CONTENT))?;
        if result.ok() || result.stderr.to_lowercase().contains("already exists") {
            Ok(())
        } else {
            Err(with_filter_hint(backend, self.engine_error(&[backend.noun(), "create"], &result)).into())
        }
    }

    /// Record of that name, if one exists.
    pub fn lock_record(&self, backend: LockBackend, name: &str) -> Result<Option<LockRecord>> {
        let words = [backend.noun(), "inspect", name];
        let result = self.run_limited(&words, None)?;
        match is_missing(&result) {
            true => Ok(None),
            false if result.ok() => Ok(parse_record(&serde_json::from_str(&result.stdout)?)),
            false => Err(self.engine_error(&words, &result).into()),
        }
    }

    /// Removes records; a missing record is no error.
    pub fn remove_lock_records(&self, backend: LockBackend, names: &[String]) -> Result<()> {
        let mut words = vec![backend.noun(), "rm"];
        words.extend(names.iter().map(String::as_str));
        let result = self.run_limited(&words, None)?;
        if result.ok() || is_missing(&result) {
            Ok(())
        } else {
            Err(self.engine_error(&words, &result).into())
        }
    }

    /// Time by the engine's clock, in RFC 3339.
    pub fn engine_time(&self) -> Result<String> {
        let words = ["info", "--format", "{{.SystemTime}}"];
        let result = self.run_limited(&words, None)?;
        if result.ok() {
            Ok(result.stdout.trim().into())
        } else {
            Err(self.engine_error(&words, &result).into())
        }
    }

    fn run_limited(&self, words: &[&str], stdin: Option<&str>) -> Result<CommandResult> {
        let limit = self.scaled(ANSWER_LIMIT);
        let result = self.run_within(&self.docker_words(words), stdin.map(str::as_bytes), limit)?;
        Ok(result.ok_or_else(|| {
            let seconds = limit.as_secs();
            Error::unchanged(format!("`docker {} {}`: no answer within {seconds}s", words[0], words[1]))
                .hint("check whether the Docker engine is overloaded or down")
        })?)
    }
}

/// Adds a hint about a filter in front of the engine, which may allow all other commands.
fn with_filter_hint(backend: LockBackend, error: Error) -> Error {
    let noun = backend.noun();
    match error.hint {
        Some(_) => error,
        None => error.hint(format!(
            "the lock of a project is a {noun}: a filter in front of the engine has to allow `create`, `inspect` and \
             `rm` of `docker {noun}`"
        )),
    }
}

/// True if each line of the error output reports a missing record.
fn is_missing(result: &CommandResult) -> bool {
    let no_such_object =
        |line: &str| ["no such volume", "no such config", "not found"].iter().any(|s| line.contains(s));
    let errors = result.stderr.to_lowercase();
    let mut lines = errors.lines().filter(|l| !l.trim().is_empty());
    !result.ok() && !errors.trim().is_empty() && lines.all(no_such_object)
}

/// Parses a record: a volume has its labels at the top, a config in its spec.
fn parse_record(response: &Value) -> Option<LockRecord> {
    let object = response.get(0)?;
    let labels = [&object["Labels"], &object["Spec"]["Labels"]].into_iter().find(|l| l.is_object());
    let text = labels.and_then(|l| l[LOCK_LABEL].as_str()).unwrap_or_default();
    Some(LockRecord {
        text: text.into(),
        created_at: object["CreatedAt"].as_str().unwrap_or_default().into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_and_a_config_name_their_owner() {
        let volume = r#"[{"CreatedAt": "2026-01-02T03:04:05+01:00", "Labels": {"compose-zd.lock": "me"}, "Name": "n"}]"#;
        let config = r#"[{"ID": "x", "CreatedAt": "2026-01-02T03:04:05.6Z", "Spec": {"Labels": {"compose-zd.lock": "me"}}}]"#;
        let created =
            |text: &str| parse_record(&serde_json::from_str(text).unwrap()).map(|c| (c.text, c.created_at));
        assert_eq!(created(volume), Some(("me".into(), "2026-01-02T03:04:05+01:00".into())));
        assert_eq!(created(config), Some(("me".into(), "2026-01-02T03:04:05.6Z".into())));
    }

    #[test]
    fn a_volume_of_another_program_has_an_empty_record() {
        let record = parse_record(&serde_json::from_str(r#"[{"Labels": null, "Name": "n"}]"#).unwrap());
        assert_eq!(record, Some(LockRecord { text: String::new(), created_at: String::new() }));
    }
}
