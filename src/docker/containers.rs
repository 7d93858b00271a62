//! Containers: queries, and the commands that start, stop and remove containers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api::{ApiRequest, labelled};
use super::events::{EventKind, parse_event};
use super::inspect::Container;
use super::{CommandResult, Docker, PROJECT, shown_words};

/// Label with the service that Compose created a container for.
const SERVICE: &str = "com.docker.compose.service";

/// Number of docker clients that start containers side by side; most engines start no more at a time.
const PARALLEL_CLIENTS: usize = 10;

/// Limit for reading the last lines of a log.
const LOG_LIMIT: Duration = Duration::from_secs(20);

/// Container in a list.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedContainer {
    id: String,
    names: Option<Vec<String>>,
}

impl ListedContainer {
    /// Name of the container. Links from other containers give it further ones, such as `/other/alias`.
    pub fn name(&self) -> Option<&str> {
        let mut names = self.names.iter().flatten().filter_map(|name| name.strip_prefix('/'));
        names.find(|name| !name.contains('/'))
    }
}

impl Docker {
    /// Every container of the engine, running or not.
    pub fn containers(&self) -> Result<Vec<Container>> {
        self.list(&[])
    }

    /// The containers of one service, running or not.
    pub fn containers_of(&self, project: &str, service: &str) -> Result<Vec<Container>> {
        self.list(&[&format!("{PROJECT}={project}"), &format!("{SERVICE}={service}")])
    }

    /// The containers of a project, running or not.
    pub fn project_containers(&self, project: &str) -> Result<Vec<Container>> {
        self.list(&[&format!("{PROJECT}={project}")])
    }

    /// The running containers of the engine, as the engine lists them: a JSON array with ids, labels and times.
    pub fn running_list(&self) -> Result<Value> {
        self.get("/containers/json", &[])
    }

    /// The ids of all containers of the engine.
    pub fn ids(&self) -> Result<Vec<String>> {
        Ok(self.listed(&[])?.into_iter().map(|container| container.id).collect())
    }

    pub(super) fn list(&self, labels: &[&str]) -> Result<Vec<Container>> {
        let ids: Vec<String> = self.listed(labels)?.into_iter().map(|container| container.id).collect();
        self.inspect(&ids)
    }

    pub(super) fn listed(&self, labels: &[&str]) -> Result<Vec<ListedContainer>> {
        let listed: Vec<ListedContainer> =
            self.get("/containers/json", &[("all", "1"), ("filters", &labelled(labels))])?;
        self.short_ids.learn(listed.iter().filter_map(|c| Some((c.id.as_str(), c.name()?))));
        Ok(listed)
    }

    /// Inspects containers by id or name; containers that no longer exist are left out.
    pub fn inspect(&self, ids: &[String]) -> Result<Vec<Container>> {
        let found = ids.iter().map(|id| self.lookup(&format!("/containers/{id}/json")));
        found.filter_map(Result::transpose).collect()
    }

    /// Starts containers, side by side.
    pub fn start(&self, ids: &[String]) -> Result<()> {
        self.check_lease()?;
        if self.only_lists() {
            ids.iter().for_each(|id| _ = self.lists(&["start", id]));
            return Ok(());
        }
        // One client starts its containers one after the other.
        let some = |ids: &[String]| {
            let words: Vec<&str> = ["start"].into_iter().chain(ids.iter().map(String::as_str)).collect();
            self.checked(&words).map(drop)
        };
        let share = ids.len().div_ceil(PARALLEL_CLIENTS).max(1);
        std::thread::scope(|scope| {
            let threads: Vec<_> = ids.chunks(share).map(|ids| scope.spawn(move || some(ids))).collect();
            threads.into_iter().try_for_each(|t| t.join().expect("no panic in a start"))
        })
    }

    /// Stops containers side by side, each with its own signal and grace period.
    pub fn stop(&self, ids: &[String]) -> Result<()> {
        self.run_on_all(&["stop"], ids)
    }

    /// Sets the restart policy of containers.
    pub fn set_restart(&self, policy: &str, ids: &[String]) -> Result<()> {
        self.check_lease()?;
        let words = ["update", "--restart", policy].into_iter().chain(ids.iter().map(String::as_str));
        let words: Vec<&str> = words.collect();
        if self.lists(&words) { Ok(()) } else { self.checked(&words).map(drop) }
    }

    /// Renames a container, running or not.
    pub fn rename(&self, container: &str, name: &str) -> Result<()> {
        self.check_lease()?;
        let words = ["rename", container, name];
        if self.lists(&words) { Ok(()) } else { self.checked(&words).map(drop) }
    }

    /// Removes stopped containers; their volumes stay.
    pub fn remove(&self, ids: &[String]) -> Result<()> {
        self.run_on_all(&["rm"], ids)
    }

    pub(super) fn run_on_all(&self, verb: &[&str], ids: &[String]) -> Result<()> {
        self.check_lease()?;
        if ids.is_empty() {
            return Ok(());
        }
        let mut words = verb.to_vec();
        words.extend(ids.iter().map(String::as_str));
        if self.lists(&words) {
            return Ok(());
        }
        let result = self.run(&words)?;
        let is_gone = |line: &str| line.to_lowercase().contains("no such container");
        if result.ok() || result.stderr.lines().all(is_gone) {
            Ok(())
        } else {
            Err(self.engine_error(&words, &result).into())
        }
    }

    /// Removes a container that does not run, with its anonymous volumes, if the container still exists.
    pub fn remove_with_volumes(&self, name: &str) -> Result<()> {
        let words = ["rm", "--volumes", name];
        let result = self.run(&words)?;
        if result.ok() || result.stderr.to_lowercase().contains("no such container") {
            Ok(())
        } else {
            Err(self.engine_error(&words, &result).into())
        }
    }

    /// Last lines that a container printed.
    pub fn logs(&self, id: &str, lines: u32) -> Result<Vec<String>> {
        let words = ["logs", "--tail", &lines.to_string(), id];
        let result = self.read_log(&words, self.scaled(LOG_LIMIT))?;
        let both = result.stdout.lines().chain(result.stderr.lines());
        Ok(both.map(String::from).collect())
    }

    /// Start of a log; empty if reading takes longer than `limit`.
    pub(super) fn read_log(&self, words: &[&str], limit: Duration) -> Result<CommandResult> {
        let argv = self.docker_words(words);
        let result = self.run_user_command(&shown_words(&argv[1..]), &self.command(&argv), limit)?;
        Ok(result.unwrap_or_default())
    }

    /// Exit code of a container's last run, even if it was restarted since, when `inspect` no longer has the code. The
    /// engine counts whole seconds, so the query waits for the next second.
    pub fn last_exit_code(&self, id: &str) -> Result<Option<i32>> {
        let filters = json!({ "container": [id], "event": ["die"] }).to_string();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (since, until) = (now.saturating_sub(3600).to_string(), (now + 1).to_string());
        let query = [("since", since.as_str()), ("until", until.as_str()), ("filters", &filters)];
        let response = self.request(&ApiRequest::get("/events", &query))?;
        let events = String::from_utf8_lossy(&response.body).into_owned();
        Ok(events.lines().filter_map(parse_event).next_back().and_then(|event| match event.kind {
            EventKind::Died { code } => code,
            _ => None,
        }))
    }
}
