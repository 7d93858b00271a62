//! The engine, its machine and the processes in its containers. All queries are read-only.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::api::ApiRequest;
use super::types::{EngineInfo, Volume};
use super::{CommandResult, Docker, Exec};
use crate::process;

/// Limit for a process in a container that prints a few lines.
const EXEC_LIMIT: Duration = Duration::from_secs(10);

/// Name and label of a volume of compose-zd, which holds an id for the engine.
const ID_VOLUME: &str = "compose-zd.engine";

impl Docker {
    pub fn info(&self) -> Result<EngineInfo> {
        self.get("/info", &[])
    }

    /// True if the engine answers a new connection.
    pub fn answers(&self) -> bool {
        self.checked(&["version"]).is_ok()
    }

    /// Output of `df -P -k` for the disk of the engine's images: of their folder, or of the root of one of these running
    /// containers, which is on the same disk. `None` if neither is possible.
    pub fn disk_usage(&self, containers: &[&str]) -> Result<Option<String>> {
        if !self.is_remote() {
            let folder = self.info()?.docker_root_dir;
            let result = process::run_program(&["df", "-P", "-k", &folder], Path::new("/"), &[])?;
            return Ok(result.ok().then_some(result.stdout));
        }
        for container in containers {
            let words = ["df", "-P", "-k", "/"].map(String::from).to_vec();
            let output = self.exec_within(&Exec::new(container, words), EXEC_LIMIT)?;
            if let Some(output) = output.filter(CommandResult::ok) {
                return Ok(Some(output.stdout));
            }
        }
        Ok(None)
    }

    /// Id that compose-zd gives to an engine without a lasting one. The id is on a volume, which is created if missing.
    ///
    /// # Errors
    /// No engine, or the engine cannot create a volume.
    pub fn assigned_identity(&self) -> Result<String> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
        let volume = json!({ "Name": ID_VOLUME, "Labels": { ID_VOLUME: id.trim() } });
        self.request(&ApiRequest::post("/volumes/create", volume))?;
        let volume: Option<Volume> = self.lookup(&format!("/volumes/{ID_VOLUME}"))?;
        Ok(volume.and_then(|mut volume| volume.labels.remove(ID_VOLUME)).unwrap_or_default())
    }

    /// Version of Compose; `None` if Compose does not report it.
    pub fn compose_version(&self) -> Result<Option<String>> {
        let result = self.compose(&["version", "--short"])?;
        Ok(result.ok().then(|| result.stdout.trim().to_string()))
    }

    /// True if a volume of this name exists.
    pub fn has_volume(&self, name: &str) -> Result<bool> {
        Ok(self.lookup::<Volume>(&format!("/volumes/{name}"))?.is_some())
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
