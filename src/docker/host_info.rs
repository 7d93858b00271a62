//! Facts about the engine's machine and its containers, for `check`. All queries are read-only.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::{CommandResult, Docker, Exec};

/// Limit for a process in a container that prints a few lines.
const EXEC_LIMIT: Duration = Duration::from_secs(10);

/// Facts that an engine reports about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostInfo {
    pub version: String,
    /// Memory of the machine, in bytes.
    pub memory: Option<u64>,
}

impl Docker {
    /// Version of Compose; `None` if Compose does not report it.
    pub fn compose_version(&self) -> Result<Option<String>> {
        let result = self.compose(&["version", "--short"])?;
        Ok(result.ok().then(|| result.stdout.trim().to_string()))
    }

    pub fn host_info(&self) -> Result<HostInfo> {
        let output = self.checked(&["info", "--format", "{{.ServerVersion}} {{.MemTotal}}"])?;
        let (version, memory) = output.trim().split_once(' ').unwrap_or((output.trim(), ""));
        Ok(HostInfo { version: version.into(), memory: memory.parse().ok() })
    }

    /// True if a volume of this name exists.
    pub fn has_volume(&self, name: &str) -> Result<bool> {
        Ok(self.run(&self.docker_words(&["volume", "inspect", name]))?.ok())
    }

    /// Memory that each of these containers uses now, by id, in docker's notation.
    pub fn memory_used(&self, ids: &[String]) -> Result<BTreeMap<String, String>> {
        if ids.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut words = vec!["stats", "--no-stream", "--no-trunc", "--format", "{{.ID}} {{.MemUsage}}"];
        words.extend(ids.iter().map(String::as_str));
        let output = self.checked(&words)?;
        let pairs = output.lines().filter_map(|l| l.split_once(' '));
        Ok(pairs.map(|(id, used)| (id.to_string(), used.to_string())).collect())
    }

    /// Status file of a container's first process, from inside the container. `None` if the image has no `cat`.
    pub fn first_process_status(&self, id: &str) -> Result<Option<String>> {
        let words = ["cat", "/proc/1/status"].map(String::from).to_vec();
        let output = self.exec_within(&Exec::new(id, words), EXEC_LIMIT)?;
        Ok(output.filter(CommandResult::ok).map(|result| result.stdout))
    }
}
