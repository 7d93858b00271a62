//! Configuration of a deploy: the resolved project, and a docker client that reads exactly this configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::deploy::prefetch;
use crate::docker::inspect::{Container, Image};
use crate::docker::{Docker, OutputSink};
use crate::error::Error;
use crate::import_running::Importer;
use crate::jobs::{self, Jobs};
use crate::model::args::{ComposeArgs, DeployArgs};
use crate::model::{FlagLayers, Project, ResolvedProject, Service};
use crate::release::journal::{Journal, UncommittedConfig};
use crate::report::{Event, Report, Warning};
use crate::targets::Target;

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
    let is_wanted = Arc::new(move || report.captures_output());
    let line = Arc::new(move |line: &str| report.event(Event::Output { line: line.into() }));
    let docker =
        Docker::find(compose.flags(), observer)?.with_output_sink(OutputSink { is_wanted, write_line: line });
    Ok(match compose.engine_timeout {
        Some(limit) => docker.with_engine_timeout(limit),
        None => docker,
    })
}

/// Configuration as Compose resolves it. Reports the warnings of Compose.
pub fn resolve_config(docker: &mut Docker, report: Report) -> Result<String> {
    let (yaml, warnings) = docker.config()?;
    warnings.into_iter().for_each(|w| report.warn(&Warning::Compose(w)));
    Ok(yaml)
}

impl Configuration {
    /// Configuration from the Compose file.
    pub fn from_file(compose: &ComposeArgs, flags: FlagLayers, report: Report) -> Result<Configuration> {
        let mut docker = connect(compose, report)?;
        let yaml = resolve_config(&mut docker, report)?;
        Configuration::read(docker, &yaml, compose, flags)
    }

    /// Configuration from the Compose file; prefetches the queries of a deploy.
    pub fn from_file_for_deploy(
        compose: &ComposeArgs,
        args: &DeployArgs,
        flags: FlagLayers,
        report: Report,
    ) -> Result<Configuration> {
        let mut docker = connect(compose, report)?;
        prefetch::for_project(&docker, &compose.folder(), args);
        let yaml = resolve_config(&mut docker, report)?;
        // Prefetching earlier would double the time of the query above, which everything waits for.
        docker.prefetch_hashes();
        Configuration::read(docker, &yaml, compose, flags)
    }

    fn read(docker: Docker, yaml: &str, compose: &ComposeArgs, flags: FlagLayers) -> Result<Configuration> {
        let source = compose.source();
        Ok(Configuration {
            may_have_env_files: compose.may_have_env_files(),
            may_have_label_files: compose.may_have_label_files(),
            docker,
            project: Project::read(yaml, &source, &flags).map_err(Error::from)?,
            snapshot: ResolvedProject::parse(yaml).map_err(Error::from)?,
            folder: compose.folder(),
            source,
            flags,
            reads_stdin: false,
            uncommitted_config: None,
        })
    }

    /// Configuration from a recorded configuration. Compose reads the configuration after [`Configuration::write`].
    pub fn from_text(
        text: &str,
        source: String,
        docker: &Docker,
        folder: PathBuf,
        flags: FlagLayers,
    ) -> Result<Configuration> {
        Ok(Configuration {
            may_have_env_files: false,
            may_have_label_files: false,
            docker: docker.clone(),
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

    /// Adds jobs whose profile is not active.
    pub fn add_jobs(&mut self, jobs: &Jobs) -> Result<()> {
        let missing: Vec<&str> =
            jobs.all().into_iter().filter(|s| !self.project.services.contains_key(*s)).collect();
        for name in missing {
            let text =
                self.docker.config_of(name).map_err(|error| jobs::unknown_job(&self.source, name, error))?;
            self.snapshot.copy_services(&[name], &ResolvedProject::parse(&text).map_err(Error::from)?);
            let its = Project::read(&text, &self.source, &self.flags).map_err(Error::from)?;
            self.project.services.extend(its.services.into_iter().filter(|(service, _)| service == name));
        }
        Ok(())
    }

    /// Imports running containers that belong to no release.
    pub fn import_running(
        &self,
        targets: &[Target],
        containers: &[Container],
        journal: &mut Journal,
        report: Report,
    ) -> Result<()> {
        let Configuration { docker, project, snapshot, folder, .. } = self;
        Importer { docker, project, snapshot, folder, report }.import(targets, containers, journal)
    }

    /// Replaces images: from here on Compose reads the resolved project with these images.
    pub fn set_images(
        &mut self,
        images: &[(String, String)],
        jobs: &Jobs,
        journal: &Journal,
        dry_run: bool,
    ) -> Result<()> {
        if images.is_empty() {
            return Ok(());
        }
        for (service, reference) in images {
            for job in jobs::with_same_image(&self.project, jobs, service) {
                self.snapshot.set_image(&job.name, reference);
            }
            self.snapshot.set_image(service, reference);
        }
        let text = self.snapshot.text();
        self.project = Project::read(&text, &self.source, &self.flags).map_err(Error::from)?;
        self.write(journal, journal.next_number(), dry_run)
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

    /// Builds and pulls every missing image before any change. Returns the existing images by reference. Returns
    /// `None` after a build or pull, because the images may have changed.
    pub fn provide_images(
        &self,
        targets: &[Target],
        jobs: &Jobs,
        args: &DeployArgs,
        report: Report,
    ) -> Result<Option<BTreeMap<String, Image>>> {
        let names = targets.iter().flat_map(Target::services).chain(jobs.all());
        let services = names.collect::<BTreeSet<&str>>().into_iter().map(|s| &self.project.services[s]);
        let (built, others): (Vec<&Service>, Vec<&Service>) =
            services.partition(|s| s.builds && !args.no_build);
        let names = |services: &[&Service]| services.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        if args.rollout.dry_run {
            if !built.is_empty() {
                let what =
                    format!("build {}; the plan may change with the new image", names(&built).join(", "));
                report.event(Event::WouldPrepare(what.into()));
            }
            return Ok(Some(BTreeMap::new()));
        }
        if !built.is_empty() {
            report.event(Event::Building(names(&built).into()));
            self.docker.build(&names(&built))?;
        }
        let (mut pulled, mut existing) = (Vec::new(), BTreeMap::new());
        for service in others {
            let image = if args.pull { None } else { self.docker.image(&service.image)? };
            match image {
                Some(image) => _ = existing.insert(service.image.clone(), image),
                None => pulled.push(service),
            }
        }
        if !pulled.is_empty() {
            report.event(Event::Pulling(names(&pulled).into()));
            self.docker.pull(&names(&pulled))?;
        }
        Ok((built.is_empty() && pulled.is_empty()).then_some(existing))
    }
}
