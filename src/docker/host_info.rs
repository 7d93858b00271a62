//! What a machine and its containers are like: read for `check`, and nothing is changed.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::{CommandResult, Docker, Exec};

/// How long a process in a container may take to print a few lines.
const ANSWER: Duration = Duration::from_secs(10);

/// What an engine tells of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostInfo {
    pub version: String,
    /// Its memory, in bytes.
    pub memory: Option<u64>,
}

impl Docker {
    /// The version of Compose; none where it does not tell.
    ///
    /// # Errors
    /// Only when docker cannot be started.
    pub fn compose_version(&self) -> Result<Option<String>> {
        let done = self.compose(&["version", "--short"])?;
        Ok(done.ok().then(|| done.stdout.trim().to_string()))
    }

    /// # Errors
    /// No engine.
    pub fn machine(&self) -> Result<HostInfo> {
        let told = self.checked(&["info", "--format", "{{.ServerVersion}} {{.MemTotal}}"])?;
        let (version, memory) = told.trim().split_once(' ').unwrap_or((told.trim(), ""));
        Ok(HostInfo { version: version.into(), memory: memory.parse().ok() })
    }

    /// Whether there is a volume of this name.
    ///
    /// # Errors
    /// Only when docker cannot be started.
    pub fn has_volume(&self, name: &str) -> Result<bool> {
        Ok(self.run(&self.docker_words(&["volume", "inspect", name]))?.ok())
    }

    /// The memory that each of these containers uses now, as docker writes it, by id.
    ///
    /// # Errors
    /// No engine; a container that is gone.
    pub fn memory_used(&self, ids: &[String]) -> Result<BTreeMap<String, String>> {
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut words = vec!["stats", "--no-stream", "--no-trunc", "--format", "{{.ID}} {{.MemUsage}}"];
        words.extend(ids.iter().map(String::as_str));
        let told = self.checked(&words)?;
        let pairs = told.lines().filter_map(|l| l.split_once(' '));
        Ok(pairs.map(|(id, used)| (id.to_string(), used.to_string())).collect())
    }

    /// The status of a container's first process, as the kernel tells it inside; none where there is nothing in it to
    /// read it with.
    ///
    /// # Errors
    /// Only when docker cannot be started.
    pub fn first_process(&self, id: &str) -> Result<Option<String>> {
        let words = ["cat", "/proc/1/status"].map(String::from).to_vec();
        let told = self.exec_within(&Exec::new(id, words), ANSWER)?;
        Ok(told.filter(CommandResult::ok).map(|done| done.stdout))
    }
}
