//! Configuration of a deploy: the resolved project, and a docker client that reads exactly this configuration.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::docker::{Docker, OutputSink};
use crate::error::{Error, Exit};
use crate::model::args::ComposeArgs;
use crate::model::{ConfigError, FlagLayers, Project, ResolvedProject};
use crate::release::journal::{Journal, UncommittedConfig};
use crate::report::{Event, Report, Warning};

pub struct Configuration {
    /// True if services may have `env_file` or `label_file`, whose contents a hash of the Compose file does not cover.
    may_have_env_files: bool,
    /// True if services may have `label_file`, whose contents no hash of `docker compose config` covers.
    pub may_have_label_files: bool,
    pub docker: Docker,
    pub project: Project,
    pub snapshot: ResolvedProject,
    pub folder: PathBuf,
    /// Name of the configuration in messages.
    pub source: String,
    pub flags: FlagLayers,
    /// True for a dry run, which writes no file: Compose reads the configuration on stdin.
    reads_stdin: bool,
    pub uncommitted_config: Option<UncommittedConfig>,
}

/// Docker client for the project of these flags.
pub fn connect(compose: &ComposeArgs, report: Report) -> Result<Docker> {
    let observer = Arc::new(move |words: &str, took: Duration| report.command(words, took));
    let is_wanted = Arc::new(move || report.takes_output());
    let line = Arc::new(move |line: &str| report.event(Event::Output { line: line.into() }));
    let docker =
        Docker::find(compose.flags(), observer)?.with_output_sink(OutputSink { is_wanted, write_line: line });
    Ok(match compose.engine_timeout {
        Some(limit) => docker.with_engine_timeout(limit),
        None => docker,
    })
}

/// Configuration as Compose resolves it. Reports the warnings of Compose.
///
/// # Errors
/// No Compose file, or one that Compose refuses, with the fix.
pub fn resolve_config(docker: &mut Docker, compose: &ComposeArgs, report: Report) -> Result<String> {
    let (yaml, warnings) = docker.config().map_err(|error| {
        // Compose does not explain every refusal. Other failures are about docker, not about the file.
        let error = Error::from_error(error);
        let problem = compose.file_problem().filter(|_| error.exit == Exit::Usage);
        let message = error.details.join("\n");
        problem.map_or(error, |problem| problem.detail(&message))
    })?;
    warnings.into_iter().for_each(|w| report.warn(&Warning::Compose(w)));
    if let Some(file) = compose.unread_override() {
        let file = file.display();
        report.warn(&Warning::Other(format!(
            "`{file}`, which `compose-zd init` wrote, is not read, because `--file` names other files; add `--file {file}`"
        )));
    }
    Ok(yaml)
}

impl Configuration {
    /// Configuration of the Compose file.
    pub fn load(
        docker: &Docker,
        compose: &ComposeArgs,
        flags: FlagLayers,
        report: Report,
    ) -> Result<Configuration> {
        let mut docker = docker.clone();
        let yaml = resolve_config(&mut docker, compose, report)?;
        Configuration::of_file(docker, &yaml, compose, flags)
    }

    /// Configuration of the Compose file, which is resolved already.
    pub fn of_file(
        docker: Docker,
        yaml: &str,
        compose: &ComposeArgs,
        flags: FlagLayers,
    ) -> Result<Configuration> {
        let (source, folder) = (compose.source(), compose.folder());
        let mut config = Configuration::parse(docker, yaml, source, folder, flags)?;
        config.project.profiles = compose.profiles();
        config.may_have_env_files = compose.may_have_env_files();
        config.may_have_label_files = compose.may_have_label_files();
        Ok(config)
    }

    /// Resolved configuration. Compose reads it after [`Configuration::write`]; `source` names it in messages.
    pub fn parse(
        docker: Docker,
        text: &str,
        source: String,
        folder: PathBuf,
        flags: FlagLayers,
    ) -> Result<Configuration> {
        Ok(Configuration {
            may_have_env_files: false,
            may_have_label_files: false,
            docker,
            project: Project::read(text, &source, &flags).map_err(Error::from)?,
            snapshot: ResolvedProject::parse(text).map_err(Error::from)?,
            folder,
            source,
            flags,
            reads_stdin: false,
            uncommitted_config: None,
        })
    }

    /// Hashes by which Compose labels containers; empty if `docker compose config --hash` prints the same ones. That
    /// command ignores `env_file` and `label_file`, but `docker compose up` reads them.
    pub fn resolved_hashes(&self) -> Result<BTreeMap<String, String>> {
        if !self.may_have_env_files || self.reads_stdin || self.uncommitted_config.is_some() {
            return Ok(BTreeMap::new());
        }
        self.docker.with_project_text(&self.snapshot.text(), &self.project.name, &self.folder).hashes()
    }

    /// Writes the resolved project. Compose reads this file from here on; in a dry run, stdin.
    pub fn write(&mut self, journal: &Journal, number: u32, dry_run: bool) -> Result<()> {
        let text = self.snapshot.text();
        let Configuration { docker, project, folder, .. } = &*self;
        if dry_run {
            self.docker = docker.with_project_text(&text, &project.name, folder);
            self.reads_stdin = true;
            return Ok(());
        }
        journal.write_config(number, &text)?;
        self.docker = docker.with_project_file(&journal.config_path(number), &project.name, folder);
        self.uncommitted_config = Some(journal.uncommitted_config(number));
        Ok(())
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Error::usage(error.message).hint(error.hint)
    }
}
