//! Containers: queries, and the commands that start, stop and remove containers.

use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Result;

use super::inspect::Container;
use super::{CommandResult, Docker, DockerCommand};

/// Lists the ids of containers.
pub(super) const LIST_IDS: [&str; 4] = ["ps", "--all", "--quiet", "--no-trunc"];

/// Inspects containers by id.
pub(super) const INSPECT: [&str; 2] = ["container", "inspect"];

/// Label with the project that Compose created a container for.
pub(super) const PROJECT: &str = "com.docker.compose.project";

/// Number of docker clients that start containers side by side; most engines start no more at a time.
const PARALLEL_CLIENTS: usize = 10;

/// Limit for reading the last lines of a log.
const LOG_LIMIT: Duration = Duration::from_secs(20);

impl Docker {
    /// Every container of the engine, running or not.
    pub fn containers(&self) -> Result<Vec<Container>> {
        // Most containers are known from the last call: they are inspected while the current ids are listed.
        let known_ids = self.known_ids();
        let (ids, inspected) = std::thread::scope(|scope| {
            let ids = scope.spawn(|| {
                self.checked_output(&LIST_IDS, self.run_prefetched(&self.docker_words(&LIST_IDS))?)
            });
            let inspected = self.inspect_by(&known_ids, |argv| self.run_prefetched(argv));
            (ids.join().expect("no panic in a read"), inspected)
        });
        let (ids, mut all): (Vec<String>, _) = (ids?.lines().map(String::from).collect(), inspected?);
        let is_new = |id: &&String| !known_ids.contains(id);
        all.extend(self.inspect(&ids.iter().filter(is_new).cloned().collect::<Vec<_>>())?);
        all.retain(|c| ids.contains(&c.id));
        all.sort_by_key(|c| ids.iter().position(|id| *id == c.id));
        *self.known_ids.lock().unwrap_or_else(PoisonError::into_inner) = ids;
        Ok(all)
    }

    /// Ids of the containers that the last [`Docker::containers`] found.
    pub(super) fn known_ids(&self) -> Vec<String> {
        self.known_ids.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The containers of one service, running or not.
    pub fn containers_of(&self, project: &str, service: &str) -> Result<Vec<Container>> {
        let project = format!("label=com.docker.compose.project={project}");
        let service = format!("label=com.docker.compose.service={service}");
        self.list(&["--filter", &project, "--filter", &service])
    }

    /// The containers of a project, running or not.
    pub fn project_containers(&self, project: &str) -> Result<Vec<Container>> {
        self.list(&["--filter", &format!("label=com.docker.compose.project={project}")])
    }

    /// The ids of all containers of the engine.
    pub fn ids(&self) -> Result<Vec<String>> {
        let ids = self.checked(&LIST_IDS)?;
        Ok(ids.lines().map(String::from).collect())
    }

    pub(super) fn list(&self, filters: &[&str]) -> Result<Vec<Container>> {
        let words = [&LIST_IDS[..], filters].concat();
        let ids = self.checked(&words)?;
        self.inspect(&ids.lines().map(String::from).collect::<Vec<_>>())
    }

    /// Inspects containers by id or name; containers that no longer exist are left out.
    pub fn inspect(&self, ids: &[String]) -> Result<Vec<Container>> {
        self.inspect_by(ids, |argv| self.run(argv))
    }

    fn inspect_by(
        &self,
        ids: &[String],
        run: impl Fn(&[String]) -> Result<CommandResult>,
    ) -> Result<Vec<Container>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let words: Vec<&str> = INSPECT.into_iter().chain(ids.iter().map(String::as_str)).collect();
        let result = run(&self.docker_words(&words))?;
        let is_gone = result.stderr.to_lowercase().contains("no such container");
        if !result.ok() && !is_gone {
            return Err(self.engine_error(&words, &result).into());
        }
        Ok(serde_json::from_str(&result.stdout)?)
    }

    /// Starts containers, side by side.
    pub fn start(&self, ids: &[String]) -> Result<()> {
        self.check_lease()?;
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
        self.run_on_all("stop", ids)
    }

    /// Sets the restart policy of containers.
    pub fn set_restart(&self, policy: &str, ids: &[String]) -> Result<()> {
        self.check_lease()?;
        let words = DockerCommand::SetRestart { policy, names: ids }.words();
        self.checked(&words.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
    }

    /// Removes stopped containers; their volumes stay.
    pub fn remove(&self, ids: &[String]) -> Result<()> {
        self.run_on_all("rm", ids)
    }

    fn run_on_all(&self, verb: &str, ids: &[String]) -> Result<()> {
        self.check_lease()?;
        if ids.is_empty() {
            return Ok(());
        }
        let mut words = vec![verb];
        words.extend(ids.iter().map(String::as_str));
        let result = self.run(&self.docker_words(&words))?;
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
        let result = self.run(&self.docker_words(&words))?;
        if result.ok() || result.stderr.to_lowercase().contains("no such container") {
            Ok(())
        } else {
            Err(self.engine_error(&words, &result).into())
        }
    }

    /// Last lines that a container printed.
    pub fn logs(&self, id: &str, lines: u32) -> Result<Vec<String>> {
        let tail = lines.to_string();
        let result =
            self.read_log(&self.docker_words(&["logs", "--tail", &tail, id]), self.scaled(LOG_LIMIT))?;
        let both = result.stdout.lines().chain(result.stderr.lines());
        Ok(both.map(String::from).collect())
    }

    /// Exit code of a container's last run, even if it was restarted since, when `inspect` no longer has the code. The
    /// engine counts whole seconds, so the query waits for the next second.
    pub fn last_exit_code(&self, id: &str) -> Result<Option<i32>> {
        let container = format!("container={id}");
        let code = "{{index .Actor.Attributes \"exitCode\"}}";
        let codes = self.checked(&[
            "events",
            "--since",
            "1h",
            "--until=-1s",
            "--filter",
            &container,
            "--filter",
            "event=die",
            "--format",
            code,
        ])?;
        Ok(codes.lines().last().and_then(|c| c.trim().parse().ok()))
    }
}
