//! Compose's commands: the resolved project, and instances that Compose creates.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

use super::{CommandResult, Docker, compose_failure, find_standalone};
use crate::error::Error;
use crate::process::Command;

/// Configuration hashes by service.
type Hashes = BTreeMap<String, String>;

/// Configuration hashes by command line and project text.
pub(super) type KnownHashes = Mutex<BTreeMap<(Vec<String>, Option<Arc<str>>), Hashes>>;

/// Prints the configuration hash of every service.
pub(super) const HASH_COMMAND: [&str; 3] = ["config", "--hash", "*"];

impl Docker {
    /// The project as Compose resolves it, in YAML, and Compose's warnings (a variable that is not set). The YAML holds
    /// secrets: it is neither logged nor shown.
    ///
    /// # Errors
    /// The compose file is missing or wrong; no Compose; no engine.
    pub fn config(&mut self) -> Result<(String, Vec<String>)> {
        let result = self.compose(&["config"])?;
        if result.ok() {
            let warnings = compose_failure::warnings(&result.stderr);
            return Ok((result.stdout, warnings));
        }
        if self.plugin.take().is_some() {
            // The client may succeed where the plugin alone fails, so the client decides.
            self.discard_prefetched();
            return self.config();
        }
        if self.standalone.is_none() && !self.run(&["compose", "version"])?.ok() {
            self.standalone = Some(find_standalone(&self.flags.engine)?);
            return self.config();
        }
        Err(Error::usage("`docker compose config` refuses the project")
            .detail(&compose_failure::message(result.stderr_or_stdout()))
            .hint(compose_failure::config_hint(result.stderr_or_stdout()))
            .into())
    }

    /// The project with one more file, as [`Docker::config`] reads it.
    pub fn config_with(&self, file: &Path) -> Result<String> {
        let file = file.to_string_lossy();
        self.compose_checked(&["--file", &file, "config"])
    }

    /// One service and its dependencies, whatever their profiles.
    ///
    /// # Errors
    /// No service has that name.
    pub fn config_of(&self, service: &str) -> Result<String> {
        self.compose_checked(&["config", service])
    }

    /// Configuration hash of every service, as in the label of its containers. Compose reads the files once: a run goes by
    /// the files as they were at its start.
    pub fn hashes(&self) -> Result<Hashes> {
        let key = (self.compose_words(&HASH_COMMAND), self.project_text.clone());
        let known = || self.known_hashes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hashes) = known().get(&key) {
            return Ok(hashes.clone());
        }
        let result = self.checked_compose_output(&HASH_COMMAND, self.compose_prefetched(&HASH_COMMAND)?)?;
        let pairs = result.lines().filter_map(|l| l.split_once(char::is_whitespace));
        let hashes: Hashes =
            pairs.map(|(service, hash)| (service.trim().into(), hash.trim().into())).collect();
        known().insert(key, hashes.clone());
        Ok(hashes)
    }

    /// Builds images and shows the output.
    ///
    /// # Errors
    /// The build failed; nothing has changed.
    pub fn build(&self, services: &[String]) -> Result<()> {
        self.run_visibly("build", services)
    }

    /// Pulls images and shows Compose's own progress.
    ///
    /// # Errors
    /// An image cannot be pulled; nothing has changed.
    pub fn pull(&self, services: &[String]) -> Result<()> {
        self.run_visibly("pull", services)
    }

    /// Pushes the images of services, with the further tags of their `build`.
    ///
    /// # Errors
    /// The registry refused an image; nothing has changed.
    pub fn push(&self, services: &[String]) -> Result<()> {
        self.run_visibly("push", services)
    }

    fn run_visibly(&self, verb: &str, services: &[String]) -> Result<()> {
        let mut words = vec![verb];
        words.extend(services.iter().map(String::as_str));
        let argv = self.compose_words(&words);
        // Nothing has changed yet, so Ctrl-C may end the command at once.
        if self.show(&argv, Command::in_this_group(&argv))? {
            Ok(())
        } else {
            Err(Error::unchanged(format!(
                "`docker compose {verb} {}` failed; nothing was changed",
                services.join(" ")
            ))
            .hint("see the output above")
            .into())
        }
    }

    /// Runs a service to its end in a container of its own and shows the output. Returns false if the service fails.
    pub fn run_service(&self, service: &str) -> Result<bool> {
        self.check_lease()?;
        let argv = self.compose_words(&["run", "--rm", "--no-deps", "--no-TTY", service]);
        // In a process group of its own: the first Ctrl-C must not cut off a database migration.
        self.show(&argv, Command::new(&argv))
    }

    /// Containers and networks that Compose would stop or remove when it creates instances. Compose recreates a network
    /// whose definition changed, and stops everything on it, despite `--no-recreate`.
    ///
    /// # Errors
    /// Compose's own; a dry run that does not print what it would create, so that its effects are unknown.
    pub fn collateral(&self, service: &str, total: usize) -> Result<Vec<String>> {
        let command = create_words(service, total);
        let result = self.dry_run(&command)?;
        if !creates_something(&result) {
            return Err(Error::unchanged(format!(
                "`docker compose --dry-run {}` does not print what it would do",
                command.join(" ")
            ))
            .detail(result.stderr_or_stdout())
            .hint("update Compose (2.20 or later prints it), or unset the COMPOSE_* variables that change its output")
            .into());
        }
        Ok(collateral_in(&result))
    }

    /// As [`Docker::collateral`], for the only instance of a service with `container_name`, beside these containers of the
    /// service.
    pub fn collateral_beside(&self, service: &str, existing: &[String]) -> Result<Vec<String>> {
        self.hiding(existing)?.collateral(service, 1)
    }

    /// As [`Docker::collateral`], for instances of several services at a time.
    pub fn collateral_of_all(&self, totals: &[(String, usize)]) -> Result<Vec<String>> {
        let scale = totals.iter().flat_map(|(s, total)| ["--scale".to_string(), format!("{s}={total}")]);
        let services = totals.iter().map(|(service, _)| service.clone());
        let words = ["up", "--no-start"].into_iter().chain(NEW_INSTANCE_FLAGS).map(String::from);
        Ok(collateral_in(&self.dry_run(&words.chain(scale).chain(services).collect::<Vec<_>>())?))
    }

    /// Services of the file, whatever their profiles.
    pub fn services_of_all_profiles(&self) -> Result<Vec<String>> {
        let output = self.compose_checked(&["--profile", "*", "config", "--services"])?;
        Ok(output.lines().map(|line| line.trim().to_string()).collect())
    }

    /// Networks and volumes whose definition changed, by their kind and name on the engine. Compose would recreate
    /// them before it creates an instance of these services.
    ///
    /// # Errors
    /// Compose refuses the dry run.
    pub fn changed_objects(&self, services: &[&str]) -> Result<Vec<(&'static str, String)>> {
        let words = ["up", "--no-start", "--no-recreate", "--no-deps"].iter().chain(services);
        let result = self.dry_run(&words.map(|w| w.to_string()).collect::<Vec<_>>())?;
        Ok([&result.stderr, &result.stdout].into_iter().flat_map(|text| changed_objects(text)).collect())
    }

    /// Brings services to their definition and starts them; recreates outdated containers, and touches no other
    /// service.
    pub fn up_services(&self, services: &[String]) -> Result<()> {
        self.check_lease()?;
        self.run_compose(&up_services_words("--detach", services))
    }

    /// Recreates the containers of services, also those that have the definition, and touches no other service.
    pub fn recreate_services(&self, services: &[String]) -> Result<()> {
        self.check_lease()?;
        self.run_compose(&with_force(up_services_words("--detach", services)))
    }

    /// Creates outdated or missing containers of services that do not run, without starting them.
    pub fn create_services(&self, services: &[String]) -> Result<()> {
        self.check_lease()?;
        self.run_compose(&up_services_words("--no-start", services))
    }

    /// Command line of [`Docker::up_services`], or of [`Docker::recreate_services`].
    pub fn up_services_command(&self, services: &[String], recreates: bool) -> Vec<String> {
        let words = up_services_words("--detach", services);
        let words = if recreates { with_force(words) } else { words };
        let mut argv = self.compose_words(&words.iter().map(String::as_str).collect::<Vec<_>>());
        let program = Path::new(&argv[0]).file_name().map(|name| name.to_string_lossy().into_owned());
        program.into_iter().for_each(|name| argv[0] = name);
        argv
    }

    /// As [`Docker::collateral`], for starting services that are down.
    pub fn collateral_of_start(&self, services: &[&str]) -> Result<Vec<String>> {
        let words = ["up", "--no-start", "--no-recreate"].iter().chain(services);
        // A dry run without output is no error: all containers may exist already.
        Ok(collateral_in(&self.dry_run(&words.map(|w| w.to_string()).collect::<Vec<_>>())?))
    }

    fn dry_run(&self, command: &[String]) -> Result<CommandResult> {
        let result = self.compose_prefetched(&dry_words(command))?;
        if result.ok() {
            Ok(result)
        } else {
            Err(Error::unchanged(format!("Compose refuses `{}`", command.join(" ")))
                .detail(result.stderr_or_stdout())
                .into())
        }
    }

    /// Creates instances beside the existing ones, without starting them; `total` counts both.
    pub fn create(&self, service: &str, total: usize) -> Result<()> {
        self.check_lease()?;
        self.run_compose(&create_words(service, total))
    }

    /// Creates the only instance of a service with `container_name` beside these containers of the service, which Compose
    /// does not see.
    pub fn create_beside(&self, service: &str, existing: &[String]) -> Result<()> {
        self.hiding(existing)?.create(service, 1)
    }

    /// As [`Docker::start_by_compose`], for a service with `container_name`. Compose does not see these other containers of
    /// the service.
    pub fn start_by_compose_beside(&self, service: &str, others: &[String]) -> Result<()> {
        self.hiding(others)?.start_by_compose(service, 1)
    }

    /// Starts the created instances of a service through Compose, with its hooks and the secrets it copies in.
    pub fn start_by_compose(&self, service: &str, total: usize) -> Result<()> {
        self.check_lease()?;
        self.run_compose(&start_words(service, total))
    }

    fn run_compose(&self, words: &[String]) -> Result<()> {
        if self.lists_compose(words) {
            return Ok(());
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.compose_checked(&words).map(drop)
    }

    /// Restarts the containers of services, and no service that depends on them.
    pub fn restart_services(&self, services: &[String]) -> Result<()> {
        self.check_lease()?;
        let words = ["restart", "--no-deps"].into_iter().chain(services.iter().map(String::as_str));
        self.compose_checked(&words.collect::<Vec<_>>()).map(drop)
    }

    /// Starts services that are down and their dependencies, and leaves running containers alone.
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

/// Words that create instances without starting them; `total` counts the existing ones.
pub(super) fn create_words(service: &str, total: usize) -> Vec<String> {
    up_words("--no-start", service, total)
}

/// Words that start the created instances.
pub(super) fn start_words(service: &str, total: usize) -> Vec<String> {
    up_words("--detach", service, total)
}

/// Flags of `up` that create new instances and touch nothing else.
const NEW_INSTANCE_FLAGS: [&str; 5] = ["--no-deps", "--no-recreate", "--no-build", "--pull", "never"];

fn up_words(mode: &str, service: &str, total: usize) -> Vec<String> {
    let scale = format!("{service}={total}");
    ["up", mode]
        .into_iter()
        .chain(NEW_INSTANCE_FLAGS)
        .chain(["--scale", &scale, service])
        .map(String::from)
        .collect()
}

fn up_services_words(mode: &str, services: &[String]) -> Vec<String> {
    let flags = ["up", mode, "--no-deps", "--no-build", "--pull", "never"].into_iter().map(String::from);
    flags.chain(services.iter().cloned()).collect()
}

fn with_force(mut words: Vec<String>) -> Vec<String> {
    words.insert(1, "--force-recreate".into());
    words
}

/// Networks and volumes that a dry run reports as changed.
fn changed_objects(text: &str) -> Vec<(&'static str, String)> {
    let object = |line: &str| {
        let line = line.replace("DRY-RUN MODE -", "");
        let network = || {
            let words: Vec<&str> = line.split_whitespace().collect();
            matches!(words[..], ["Network", _, "Removed" | "Recreate"])
                .then(|| ("network", words[1].to_string()))
        };
        let volume = || {
            let (_, rest) = line.split_once("Volume \"")?;
            let (name, rest) = rest.split_once('"')?;
            rest.contains("match configuration").then(|| ("volume", name.to_string()))
        };
        network().or_else(volume)
    };
    text.lines().filter_map(object).collect()
}

fn collateral_in(result: &CommandResult) -> Vec<String> {
    collateral(&result.stderr).chain(collateral(&result.stdout)).collect()
}

/// True if a dry run of creating instances names at least one.
fn creates_something(result: &CommandResult) -> bool {
    let creates = |line: &str| ["Creating", "Created"].iter().any(|word| line.trim_end().ends_with(word));
    result.stderr.lines().chain(result.stdout.lines()).any(creates)
}

/// Lines of a dry run that report a stop, a removal or a recreation.
pub(super) fn collateral(text: &str) -> impl Iterator<Item = String> {
    let is_removal = |line: &&str| {
        let last = line.split_whitespace().last().unwrap_or("");
        ["Stopping", "Removing", "Removed", "Recreate"].contains(&last)
    };
    let name =
        |line: &str| line.replace("DRY-RUN MODE -", "").split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().filter(is_removal).map(name).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_networks_and_volumes_are_in_the_output_of_a_dry_run() {
        let output = " DRY-RUN MODE -  Container p-a-1  Stopping\n DRY-RUN MODE -  Network p_n  Removed\n\
            Volume \"p_data\" exists but doesn't match configuration in compose file. Recreate (data will be lost)? \
            DRY-RUN MODE -  Container p-b-1  Running\n DRY-RUN MODE -  Network p_new  Created\n";
        let expected =
            [("network", "p_n"), ("volume", "p_data")].map(|(kind, name)| (kind, name.to_string()));
        assert_eq!(changed_objects(output), expected);
    }
}
