//! What Compose is asked and told: the project as it resolves it, and instances that it makes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use super::{CommandResult, Docker, expression, standalone};
use crate::error::Error;

/// Asks for the configuration hash of every service.
pub(super) const HASHES: [&str; 3] = ["config", "--hash", "*"];

impl Docker {
    /// The project as Compose resolves it, in YAML, and what Compose warns of (a variable that is not set). The YAML
    /// holds secrets: it is neither logged nor shown.
    ///
    /// # Errors
    /// Compose's own, when the file is missing or wrong; no Compose; no engine.
    pub fn config(&mut self) -> Result<(String, Vec<String>)> {
        let done = self.compose(&["config"])?;
        if done.ok() {
            let warnings = warnings(&done.stderr);
            return Ok((done.stdout, warnings));
        }
        if self.plugin.take().is_some() {
            // What the plugin fails at by itself may be what the client does for it. That decides.
            self.discard_prefetched();
            return self.config();
        }
        if self.standalone.is_none() && !self.run(&self.docker_words(&["compose", "version"]))?.ok() {
            self.standalone = Some(standalone(&self.place.engine)?);
            return self.config();
        }
        Err(Error::usage("`docker compose config` refuses the project")
            .seen(done.stderr_or_stdout())
            .hint("correct the file, or name another with `--file`")
            .into())
    }

    /// The project with one more file, as [`Docker::config`] reads it.
    ///
    /// # Errors
    /// Compose's own.
    pub fn config_with(&self, file: &Path) -> Result<String> {
        let file = file.to_string_lossy();
        self.compose_checked(&["--file", &file, "config"])
    }

    /// One service and what it needs, whatever profile it has.
    ///
    /// # Errors
    /// Compose's own, when there is none of that name.
    pub fn config_of(&self, service: &str) -> Result<String> {
        self.compose_checked(&["config", service])
    }

    /// The configuration hash of every service, as Compose labels its containers with.
    ///
    /// # Errors
    /// Compose's own.
    pub fn hashes(&self) -> Result<BTreeMap<String, String>> {
        let done =
            self.checked_compose_output(&HASHES, self.run_prefetched(&self.compose_words(&HASHES))?)?;
        let pairs = done.lines().filter_map(|l| l.split_once(char::is_whitespace));
        Ok(pairs.map(|(service, hash)| (service.trim().into(), hash.trim().into())).collect())
    }

    /// Builds images, its output shown.
    ///
    /// # Errors
    /// A build that fails; nothing was changed then.
    pub fn build(&self, services: &[String]) -> Result<()> {
        self.shown("build", services)
    }

    /// Pulls images, Compose's own progress shown.
    ///
    /// # Errors
    /// An image that cannot be pulled; nothing was changed then.
    pub fn pull(&self, services: &[String]) -> Result<()> {
        self.shown("pull", services)
    }

    /// Pushes the images of services, with the further tags of their `build`.
    ///
    /// # Errors
    /// A registry that takes no image; nothing was changed then.
    pub fn push(&self, services: &[String]) -> Result<()> {
        self.shown("push", services)
    }

    fn shown(&self, verb: &str, services: &[String]) -> Result<()> {
        let mut words = vec![verb];
        words.extend(services.iter().map(String::as_str));
        match self.run_shown(&self.compose_words(&words))? {
            true => Ok(()),
            false => Err(Error::unchanged(format!(
                "`docker compose {verb} {}` failed; nothing was changed",
                services.join(" ")
            ))
            .hint("what it said stands above")
            .into()),
        }
    }

    /// Runs a service to its end in a container of its own, its output shown.
    ///
    /// # Errors
    /// Only when docker cannot be started; `false` when the service fails.
    pub fn run_service(&self, service: &str) -> Result<bool> {
        self.check_lease()?;
        let argv = self.compose_words(&["run", "--rm", "--no-deps", "--no-TTY", service]);
        // In a process group of its own: what it does to a database is not cut short by a first Ctrl-C.
        self.run_streaming(&argv, expression(&argv))
    }

    /// What Compose would stop or remove if it were told to create instances: it recreates a network whose definition
    /// changed, and stops everything on it, whatever `--no-recreate` says.
    ///
    /// # Errors
    /// Compose's own; a dry run that does not print what it would create, of which nothing can be known.
    pub fn collateral(&self, service: &str, total: usize) -> Result<Vec<String>> {
        let command = create_words(service, total);
        let done = self.dry_run(&command)?;
        if !creates_something(&done) {
            return Err(Error::unchanged(format!(
                "`docker compose --dry-run {}` does not print what it would do",
                command.join(" ")
            ))
            .seen(done.stderr_or_stdout())
            .hint("update Compose (2.20 or later prints it), or unset the COMPOSE_* variables that change its output")
            .into());
        }
        Ok(would_go(&done))
    }

    /// The same for instances of several services at a time.
    ///
    /// # Errors
    /// As [`Docker::collateral`].
    pub fn collateral_of_all(&self, totals: &[(String, usize)]) -> Result<Vec<String>> {
        let scale = totals.iter().flat_map(|(s, total)| ["--scale".to_string(), format!("{s}={total}")]);
        let services = totals.iter().map(|(service, _)| service.clone());
        let words = ["up", "--no-start"].into_iter().chain(NEW).map(String::from);
        Ok(would_go(&self.dry_run(&words.chain(scale).chain(services).collect::<Vec<_>>())?))
    }

    /// The same for starting services that are down.
    ///
    /// # Errors
    /// Compose's own.
    pub fn collateral_of_start(&self, services: &[&str]) -> Result<Vec<String>> {
        let words = ["up", "--no-start", "--no-recreate"].iter().chain(services);
        // Nothing to print is no error: what is down may be there already.
        Ok(would_go(&self.dry_run(&words.map(|w| w.to_string()).collect::<Vec<_>>())?))
    }

    fn dry_run(&self, command: &[String]) -> Result<CommandResult> {
        let done = self.run_prefetched(&self.compose_words(&dry_words(command)))?;
        match done.ok() {
            true => Ok(done),
            false => Err(Error::unchanged(format!("Compose refuses `{}`", command.join(" ")))
                .seen(done.stderr_or_stdout())
                .into()),
        }
    }

    /// Creates instances beside those that exist, without starting them: `total` counts both.
    ///
    /// # Errors
    /// Compose's own.
    pub fn create(&self, service: &str, total: usize) -> Result<()> {
        self.check_lease()?;
        self.compose_does(&create_words(service, total))
    }

    /// Starts what was created of a service as Compose does, with its hooks and the secrets it copies in.
    ///
    /// # Errors
    /// Compose's own.
    pub fn start_by_compose(&self, service: &str, total: usize) -> Result<()> {
        self.check_lease()?;
        self.compose_does(&start_words(service, total))
    }

    fn compose_does(&self, words: &[String]) -> Result<()> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.compose_checked(&words).map(drop)
    }

    /// Restarts the containers of services, and of nothing that depends on them.
    ///
    /// # Errors
    /// Compose's own.
    pub fn restart_services(&self, services: &[String]) -> Result<()> {
        self.check_lease()?;
        let words = ["restart", "--no-deps"].into_iter().chain(services.iter().map(String::as_str));
        self.compose_checked(&words.collect::<Vec<_>>()).map(drop)
    }

    /// Starts services that are down, and what they need; what runs is left alone.
    ///
    /// # Errors
    /// Compose's own.
    pub fn start_services(&self, services: &[&str]) -> Result<()> {
        self.check_lease()?;
        let mut words = vec!["up", "--detach", "--no-recreate"];
        words.extend(services);
        self.compose_checked(&words).map(drop)
    }
}

pub(super) fn dry_words(command: &[String]) -> Vec<&str> {
    ["--dry-run"].into_iter().chain(command.iter().map(String::as_str)).collect()
}

/// Words that make instances without starting them: `total` counts those that exist.
pub(super) fn create_words(service: &str, total: usize) -> Vec<String> {
    up_words("--no-start", service, total)
}

/// Words that start what was created.
pub(super) fn start_words(service: &str, total: usize) -> Vec<String> {
    up_words("--detach", service, total)
}

/// Flags of `up` with which it makes new instances, and nothing else.
const NEW: [&str; 5] = ["--no-deps", "--no-recreate", "--no-build", "--pull", "never"];

fn up_words(how: &str, service: &str, total: usize) -> Vec<String> {
    let scale = format!("{service}={total}");
    ["up", how].into_iter().chain(NEW).chain(["--scale", &scale, service]).map(String::from).collect()
}

/// What Compose warns of, out of its log lines: `time="…" level=warning msg="…"`.
pub(super) fn warnings(stderr: &str) -> Vec<String> {
    let message = |line: &str| {
        let (_, rest) = line.split_once("level=warning msg=\"")?;
        Some(rest.trim_end_matches('"').replace("\\\"", "`"))
    };
    stderr.lines().filter_map(message).collect()
}

fn would_go(done: &CommandResult) -> Vec<String> {
    collateral(&done.stderr).chain(collateral(&done.stdout)).collect()
}

/// It was asked to create instances, so it has to name one.
fn creates_something(done: &CommandResult) -> bool {
    let creates = |line: &str| ["Creating", "Created"].iter().any(|word| line.trim_end().ends_with(word));
    done.stderr.lines().chain(done.stdout.lines()).any(creates)
}

/// The lines of a dry run that say something running would go.
pub(super) fn collateral(text: &str) -> impl Iterator<Item = String> {
    let goes = |line: &&str| {
        let last = line.split_whitespace().last().unwrap_or("");
        ["Stopping", "Removing", "Removed", "Recreate"].contains(&last)
    };
    let name =
        |line: &str| line.replace("DRY-RUN MODE -", "").split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().filter(goes).map(name).collect::<Vec<_>>().into_iter()
}
