//! Names on the engine that only one can make: what a lock is made of. A volume on one host, a config on a Swarm, whose
//! managers agree about it.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::{CommandResult, Docker};
use crate::error::Error;

/// The label of everything that a lock consists of; its value says whose it is.
pub const LABEL: &str = "compose-zd.lock";

/// A config has to have content.
const CONTENT: &str = "compose-zd";

/// How long an engine may take for an answer. One that is lost must not hold a run that has ended.
const ANSWER: Duration = Duration::from_secs(45);

/// Where a name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockBackend {
    Volumes,
    Configs,
}

/// A name that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockRecord {
    /// What its maker wrote.
    pub text: String,
    /// When, by the engine's clock; RFC 3339.
    pub made: String,
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
    /// Takes a name; where somebody has it, it stays as it is.
    ///
    /// # Errors
    /// An engine that does not answer, or refuses.
    pub fn claim(&self, board: LockBackend, name: &str, text: &str) -> Result<()> {
        let label = format!("{LABEL}={text}");
        let mut words = vec![board.noun(), "create", "--label", &label, name];
        words.extend((board == LockBackend::Configs).then_some("-"));
        let done = self.answer(&words, (board == LockBackend::Configs).then_some(CONTENT))?;
        match done.ok() || done.stderr.to_lowercase().contains("already exists") {
            true => Ok(()),
            false => Err(refused(board, self.engine_fault(&[board.noun(), "create"], &done)).into()),
        }
    }

    /// Who has a name.
    ///
    /// # Errors
    /// An engine that does not answer.
    pub fn claimed(&self, board: LockBackend, name: &str) -> Result<Option<LockRecord>> {
        let words = [board.noun(), "inspect", name];
        let done = self.answer(&words, None)?;
        match is_gone(&done) {
            true => Ok(None),
            false if done.ok() => Ok(read(&serde_json::from_str(&done.stdout)?)),
            false => Err(self.engine_fault(&words, &done).into()),
        }
    }

    /// Gives names back; those that are gone by now are left out.
    ///
    /// # Errors
    /// An engine that does not answer, or refuses.
    pub fn unclaim(&self, board: LockBackend, names: &[String]) -> Result<()> {
        let mut words = vec![board.noun(), "rm"];
        words.extend(names.iter().map(String::as_str));
        let done = self.answer(&words, None)?;
        match done.ok() || is_gone(&done) {
            true => Ok(()),
            false => Err(self.engine_fault(&words, &done).into()),
        }
    }

    /// What time it is by the engine's clock; RFC 3339.
    ///
    /// # Errors
    /// An engine that does not answer.
    pub fn clock(&self) -> Result<String> {
        let words = ["info", "--format", "{{.SystemTime}}"];
        let done = self.answer(&words, None)?;
        match done.ok() {
            true => Ok(done.stdout.trim().into()),
            false => Err(self.engine_fault(&words, &done).into()),
        }
    }

    fn answer(&self, words: &[&str], stdin: Option<&str>) -> Result<CommandResult> {
        let limit = self.scaled(ANSWER);
        let done = self.run_within(&self.docker_words(words), stdin.map(str::as_bytes), limit)?;
        Ok(done.ok_or_else(|| {
            let seconds = limit.as_secs();
            Error::unchanged(format!("`docker {} {}` has no answer within {seconds}s", words[0], words[1]))
                .hint("see whether the Docker engine is overloaded, or lost")
        })?)
    }
}

/// An engine behind a filter may answer everything else.
fn refused(board: LockBackend, error: Error) -> Error {
    let noun = board.noun();
    match error.hint {
        Some(_) => error,
        None => error.hint(format!(
            "the lock of a project is a {noun}: whatever filters what the engine is asked has to let `docker {noun}` \
             `create`, `inspect` and `rm` through"
        )),
    }
}

/// Every name that it says something about is gone.
fn is_gone(done: &CommandResult) -> bool {
    let gone =
        |line: &str| ["no such volume", "no such config", "not found"].iter().any(|s| line.contains(s));
    let said = done.stderr.to_lowercase();
    let mut lines = said.lines().filter(|l| !l.trim().is_empty());
    !done.ok() && !said.trim().is_empty() && lines.all(gone)
}

/// A volume has its labels at the top, a config in its spec.
fn read(answer: &Value) -> Option<LockRecord> {
    let one = answer.get(0)?;
    let labels = [&one["Labels"], &one["Spec"]["Labels"]].into_iter().find(|l| l.is_object());
    let text = labels.and_then(|l| l[LABEL].as_str()).unwrap_or_default();
    Some(LockRecord { text: text.into(), made: one["CreatedAt"].as_str().unwrap_or_default().into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_and_a_config_say_whose_they_are() {
        let volume = r#"[{"CreatedAt": "2026-01-02T03:04:05+01:00", "Labels": {"compose-zd.lock": "me"}, "Name": "n"}]"#;
        let config = r#"[{"ID": "x", "CreatedAt": "2026-01-02T03:04:05.6Z", "Spec": {"Labels": {"compose-zd.lock": "me"}}}]"#;
        let made = |text: &str| read(&serde_json::from_str(text).unwrap()).map(|c| (c.text, c.made));
        assert_eq!(made(volume), Some(("me".into(), "2026-01-02T03:04:05+01:00".into())));
        assert_eq!(made(config), Some(("me".into(), "2026-01-02T03:04:05.6Z".into())));
    }

    #[test]
    fn a_volume_of_somebody_else_says_nothing() {
        let claim = read(&serde_json::from_str(r#"[{"Labels": null, "Name": "n"}]"#).unwrap());
        assert_eq!(claim, Some(LockRecord { text: String::new(), made: String::new() }));
    }
}
