//! What is deployed: a project, and a docker that reads exactly that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::import_running::Importer;
use super::jobs::{self, Jobs};
use super::journal::{Journal, UncommittedConfig};
use super::prefetch;
use super::settings;
use super::targets::Target;
use crate::cli::{ComposeArgs, DeployArgs};
use crate::docker::inspect::{Container, Image};
use crate::docker::{Docker, OutputSink};
use crate::error::Error;
use crate::model::{FlagLayers, Project, ResolvedProject, Service};
use crate::report::{Event, Report, Warning};

pub struct Request {
    /// Services may have files of variables or labels, which a hash of the file as it is leaves out.
    may_have_env_files: bool,
    /// Services may have files of labels, which every hash that Compose tells leaves out.
    pub may_have_label_files: bool,
    pub docker: Docker,
    pub project: Project,
    pub snapshot: ResolvedProject,
    pub folder: PathBuf,
    /// How messages name it.
    pub source: String,
    pub flags: FlagLayers,
    /// Compose is given the snapshot as its input: a dry run writes nothing.
    has_text: bool,
    pub draft: Option<UncommittedConfig>,
}

/// Docker's client, pointed at the project that is meant.
///
/// # Errors
/// No client.
pub fn connect(compose: &ComposeArgs, report: Report) -> Result<Docker> {
    let observer = Arc::new(move |words: &str, took: Duration| report.command(words, took));
    let wanted = Arc::new(move || report.takes_lines());
    let line = Arc::new(move |line: &str| report.event(Event::Output { line: line.into() }));
    let docker = Docker::find(settings::place(compose), observer)?
        .with_output_sink(OutputSink { is_wanted: wanted, write_line: line });
    Ok(match compose.engine_timeout {
        Some(limit) => docker.with_engine_timeout(limit),
        None => docker,
    })
}

/// The project as Compose resolves it.
///
/// # Errors
/// Compose's own.
pub fn resolved(docker: &mut Docker, report: Report) -> Result<String> {
    let (yaml, warnings) = docker.config()?;
    warnings.into_iter().for_each(|w| report.warn(&Warning::Compose(w)));
    Ok(yaml)
}

impl Request {
    /// As the Compose file has it.
    ///
    /// # Errors
    /// Compose's own; a key of ours that is wrong.
    pub fn of_file(compose: &ComposeArgs, flags: FlagLayers, report: Report) -> Result<Request> {
        let mut docker = connect(compose, report)?;
        let yaml = resolved(&mut docker, report)?;
        Request::read(docker, &yaml, compose, flags)
    }

    /// The same, for a run that is going to ask for more.
    ///
    /// # Errors
    /// As [`Definition::of_file`].
    pub fn of_file_for_deploy(
        compose: &ComposeArgs,
        args: &DeployArgs,
        flags: FlagLayers,
        report: Report,
    ) -> Result<Request> {
        let mut docker = connect(compose, report)?;
        prefetch::of_project(&docker, &settings::project_folder(compose), args);
        let yaml = resolved(&mut docker, report)?;
        // Not before: side by side both would take twice as long, and this is what all else waits for.
        docker.prefetch_hashes();
        Request::read(docker, &yaml, compose, flags)
    }

    fn read(docker: Docker, yaml: &str, compose: &ComposeArgs, flags: FlagLayers) -> Result<Request> {
        let source = settings::source(compose);
        Ok(Request {
            may_have_env_files: settings::may_have_env_files(compose),
            may_have_label_files: settings::may_have_label_files(compose),
            docker,
            project: Project::read(yaml, &source, &flags).map_err(Error::from)?,
            snapshot: ResolvedProject::read(yaml).map_err(Error::from)?,
            folder: settings::project_folder(compose),
            source,
            flags,
            has_text: false,
            draft: None,
        })
    }

    /// As a text of ours has it; Compose reads it only once it is written.
    ///
    /// # Errors
    /// A key of ours that is wrong.
    pub fn of_text(
        text: &str,
        source: String,
        docker: &Docker,
        folder: PathBuf,
        flags: FlagLayers,
    ) -> Result<Request> {
        Ok(Request {
            may_have_env_files: false,
            may_have_label_files: false,
            docker: docker.clone(),
            project: Project::read(text, &source, &flags).map_err(Error::from)?,
            snapshot: ResolvedProject::read(text).map_err(Error::from)?,
            folder,
            source,
            flags,
            has_text: false,
            draft: None,
        })
    }

    /// The configuration hashes that Compose labels containers with, where they may be others than the ones that it tells:
    /// `docker compose config --hash` leaves `env_file` and `label_file` unread, and `up` reads them.
    ///
    /// # Errors
    /// Compose's own.
    pub fn resolved_hashes(&self) -> Result<BTreeMap<String, String>> {
        if !self.may_have_env_files || self.has_text || self.draft.is_some() {
            return Ok(BTreeMap::new());
        }
        self.docker.with_project_text(&self.snapshot.text(), &self.project.name, &self.folder).hashes()
    }

    /// Adds the one-shots to the project that it does not show, because no profile of theirs is on.
    ///
    /// # Errors
    /// One that is no service of the file.
    pub fn add_jobs(&mut self, jobs: &Jobs) -> Result<()> {
        let missing: Vec<&str> =
            jobs.all().into_iter().filter(|s| !self.project.services.contains_key(*s)).collect();
        for name in missing {
            let text =
                self.docker.config_of(name).map_err(|error| jobs::unknown(&self.source, name, error))?;
            self.snapshot.copy_services(&[name], &ResolvedProject::read(&text).map_err(Error::from)?);
            let its = Project::read(&text, &self.source, &self.flags).map_err(Error::from)?;
            self.project.services.extend(its.services.into_iter().filter(|(service, _)| service == name));
        }
        Ok(())
    }

    /// What runs and is no release yet becomes one.
    ///
    /// # Errors
    /// No engine; a folder that cannot be written.
    pub fn import_running(
        &self,
        targets: &[Target],
        containers: &[Container],
        journal: &mut Journal,
        report: Report,
    ) -> Result<()> {
        let Request { docker, project, snapshot, folder, .. } = self;
        Importer { docker, project, snapshot, folder, report }.import(targets, containers, journal)
    }

    /// Other images than the file's: from here on Compose is given the resolved project with these in it.
    ///
    /// # Errors
    /// A folder that cannot be written.
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
            for shot in jobs::with_same_image(&self.project, jobs, service) {
                self.snapshot.set_image(&shot.name, reference);
            }
            self.snapshot.set_image(service, reference);
        }
        let text = self.snapshot.text();
        self.project = Project::read(&text, &self.source, &self.flags).map_err(Error::from)?;
        self.write(journal, journal.next_number(), dry_run)
    }

    /// From here on Compose reads the snapshot, as it is, out of the release's file.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn write(&mut self, journal: &Journal, number: u32, dry_run: bool) -> Result<()> {
        let text = self.snapshot.text();
        let Request { docker, project, folder, .. } = &*self;
        if dry_run {
            self.docker = docker.with_project_text(&text, &project.name, folder);
            self.has_text = true;
            return Ok(());
        }
        journal.write_config(number, &text)?;
        self.docker = docker.with_project_file(&journal.config_path(number), &project.name, folder);
        self.draft = Some(journal.draft(number));
        Ok(())
    }

    /// Builds and pulls before anything is touched, so that every image is there. Gives those that it has
    /// seen, by reference; none where it did any of it, and they may be others by now.
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
                    format!("build {}; what that changes is known only then", names(&built).join(", "));
                report.event(Event::WouldPrepare { what });
            }
            return Ok(Some(BTreeMap::new()));
        }
        if !built.is_empty() {
            report.event(Event::Building { services: names(&built) });
            self.docker.build(&names(&built))?;
        }
        let (mut pulled, mut seen) = (Vec::new(), BTreeMap::new());
        for service in others {
            let image = if args.pull { None } else { self.docker.image(&service.image)? };
            match image {
                Some(image) => _ = seen.insert(service.image.clone(), image),
                None => pulled.push(service),
            }
        }
        if !pulled.is_empty() {
            report.event(Event::Pulling { services: names(&pulled) });
            self.docker.pull(&names(&pulled))?;
        }
        Ok((built.is_empty() && pulled.is_empty()).then_some(seen))
    }
}
