//! Containers: which there are, and what is done to them.

use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Result;

use super::inspect::Container;
use super::{CommandResult, Docker, DockerCommand};

/// Asks for the ids of containers.
pub(super) const IDS: [&str; 4] = ["ps", "--all", "--quiet", "--no-trunc"];

/// Asks for containers by id.
pub(super) const INSPECT: [&str; 2] = ["container", "inspect"];

/// The label with the project that Compose made a container for.
pub(super) const PROJECT: &str = "com.docker.compose.project";

/// So many docker clients start containers side by side; the engine does no more at a time on most machines.
const CLIENTS: usize = 10;

/// How long the engine may take to give the last lines of a log.
const LOGS: Duration = Duration::from_secs(20);

impl Docker {
    /// Every container of the engine, running or not.
    ///
    /// # Errors
    /// No engine, or an answer that cannot be read.
    pub fn containers(&self) -> Result<Vec<Container>> {
        // Most of them are known from the last time: they are read while it is asked whether there are others.
        let known = self.known();
        let (ids, read) = std::thread::scope(|scope| {
            let ids =
                scope.spawn(|| self.checked_output(&IDS, self.run_prefetched(&self.docker_words(&IDS))?));
            let read = self.inspect_by(&known, |argv| self.run_prefetched(argv));
            (ids.join().expect("no panic in a read"), read)
        });
        let (ids, mut all): (Vec<String>, _) = (ids?.lines().map(String::from).collect(), read?);
        let is_read = |id: &&String| !known.contains(id);
        all.extend(self.inspect(&ids.iter().filter(is_read).cloned().collect::<Vec<_>>())?);
        all.retain(|c| ids.contains(&c.id));
        all.sort_by_key(|c| ids.iter().position(|id| *id == c.id));
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = ids;
        Ok(all)
    }

    /// Ids of the containers there were when all were read last.
    pub(super) fn known(&self) -> Vec<String> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The containers of one service, running or not.
    ///
    /// # Errors
    /// As [`Docker::containers`].
    pub fn containers_of(&self, project: &str, service: &str) -> Result<Vec<Container>> {
        let project = format!("label=com.docker.compose.project={project}");
        let service = format!("label=com.docker.compose.service={service}");
        self.listed(&["--filter", &project, "--filter", &service])
    }

    /// The containers of a project, running or not.
    ///
    /// # Errors
    /// As [`Docker::containers`].
    pub fn project_containers(&self, project: &str) -> Result<Vec<Container>> {
        self.listed(&["--filter", &format!("label=com.docker.compose.project={project}")])
    }

    /// The ids of all containers of the engine.
    ///
    /// # Errors
    /// No engine.
    pub fn ids(&self) -> Result<Vec<String>> {
        let ids = self.checked(&IDS)?;
        Ok(ids.lines().map(String::from).collect())
    }

    pub(super) fn listed(&self, filters: &[&str]) -> Result<Vec<Container>> {
        let words = [&IDS[..], filters].concat();
        let ids = self.checked(&words)?;
        self.inspect(&ids.lines().map(String::from).collect::<Vec<_>>())
    }

    /// Reads containers by id or name; those that are gone by now are left out.
    ///
    /// # Errors
    /// No engine, or an answer that cannot be read.
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
        let done = run(&self.docker_words(&words))?;
        let gone = done.stderr.to_lowercase().contains("no such container");
        if !done.ok() && !gone {
            return Err(self.engine_fault(&words, &done).into());
        }
        Ok(serde_json::from_str(&done.stdout)?)
    }

    /// Starts containers, side by side.
    ///
    /// # Errors
    /// The first container that does not start.
    pub fn start(&self, ids: &[String]) -> Result<()> {
        self.check_lease()?;
        // The client starts one after the other.
        let some = |ids: &[String]| {
            let words: Vec<&str> = ["start"].into_iter().chain(ids.iter().map(String::as_str)).collect();
            self.checked(&words).map(drop)
        };
        let share = ids.len().div_ceil(CLIENTS).max(1);
        std::thread::scope(|scope| {
            let threads: Vec<_> = ids.chunks(share).map(|ids| scope.spawn(move || some(ids))).collect();
            threads.into_iter().try_for_each(|t| t.join().expect("no panic in a start"))
        })
    }

    /// Stops containers side by side, each with its own signal and grace period.
    ///
    /// # Errors
    /// A container that cannot be stopped.
    pub fn stop(&self, ids: &[String]) -> Result<()> {
        self.on_all("stop", ids)
    }

    /// Sets the restart policy of containers.
    ///
    /// # Errors
    /// A container that cannot be changed.
    pub fn set_restart(&self, policy: &str, ids: &[String]) -> Result<()> {
        self.check_lease()?;
        let words = DockerCommand::SetRestart { policy, names: ids }.words();
        self.checked(&words.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
    }

    /// Removes stopped containers; their volumes stay.
    ///
    /// # Errors
    /// A container that cannot be removed.
    pub fn remove(&self, ids: &[String]) -> Result<()> {
        self.on_all("rm", ids)
    }

    fn on_all(&self, verb: &str, ids: &[String]) -> Result<()> {
        self.check_lease()?;
        if ids.is_empty() {
            return Ok(());
        }
        let mut words = vec![verb];
        words.extend(ids.iter().map(String::as_str));
        let done = self.run(&self.docker_words(&words))?;
        let gone = |line: &str| line.to_lowercase().contains("no such container");
        match done.ok() || done.stderr.lines().all(gone) {
            true => Ok(()),
            false => Err(self.engine_fault(&words, &done).into()),
        }
    }

    /// Removes a container that does not run, with the anonymous volumes of its own; it may be gone by now.
    ///
    /// # Errors
    /// A container that cannot be removed.
    pub fn remove_with_volumes(&self, name: &str) -> Result<()> {
        let words = ["rm", "--volumes", name];
        let done = self.run(&self.docker_words(&words))?;
        match done.ok() || done.stderr.to_lowercase().contains("no such container") {
            true => Ok(()),
            false => Err(self.engine_fault(&words, &done).into()),
        }
    }

    /// The last lines a container printed.
    ///
    /// # Errors
    /// No engine.
    pub fn logs(&self, id: &str, lines: u32) -> Result<Vec<String>> {
        let tail = lines.to_string();
        let done = self.log(&self.docker_words(&["logs", "--tail", &tail, id]), self.scaled(LOGS))?;
        let both = done.stdout.lines().chain(done.stderr.lines());
        Ok(both.map(String::from).collect())
    }

    /// The exit code of a container's last end, also when it was restarted since: `inspect` has forgotten it then. The
    /// engine counts in whole seconds, so it is asked for those up to the next one, and takes as long.
    ///
    /// # Errors
    /// No engine.
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
