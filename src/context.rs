//! Context of a command that changes something: the engine, the project's releases, the report and the lock.

pub mod locking;
pub mod prefetch;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Result;

use crate::configuration::{Configuration, connect, resolve_config};
use crate::docker::Docker;
use crate::error::Error;
use crate::model::args::{ComposeArgs, DeployArgs, RolloutArgs, StateArgs, SwarmArgs};
use crate::model::{EngineKind, FlagLayers, Project, Receiver, ReceiverList, ResolvedProject};
use crate::release::journal::Journal;
use crate::release::state_location::StateLocation;
use crate::release::store;
use crate::report::{Report, Warning};
use crate::wait::StopSignal;

/// Call of a command.
#[derive(Clone, Copy)]
pub struct Invocation<'a> {
    pub compose: &'a ComposeArgs,
    pub report: Report,
    pub stop: &'a StopSignal,
    /// Receivers of the result, once the file is known.
    pub receivers: &'a OnceLock<ReceiverList>,
}

/// Project on its engine, with its releases.
pub struct ProjectHandle {
    pub docker: Docker,
    pub engine: EngineKind,
    pub journal: Journal,
    pub state_dir: PathBuf,
    /// Configuration of the Compose file; `None` if it cannot be read.
    pub file: Option<Configuration>,
}

/// Name and engine of a project, before its releases are known.
struct NamedProject {
    docker: Docker,
    name: String,
    engine: Option<EngineKind>,
    file: Option<Configuration>,
}

impl From<Configuration> for NamedProject {
    fn from(file: Configuration) -> Self {
        NamedProject {
            docker: file.docker.clone(),
            name: file.project.name.clone(),
            engine: file.project.engine,
            file: Some(file),
        }
    }
}

impl ProjectHandle {
    /// Opens the project of the Compose file.
    pub fn open(compose: &ComposeArgs, flags: &StateArgs, report: Report) -> Result<ProjectHandle> {
        let file = Configuration::load(&connect(compose, report)?, compose, FlagLayers::default(), report)?;
        ProjectHandle::locate(file.into(), compose, flags)
    }

    /// Opens a project for which the records are enough: without a readable Compose file, the project of the name that
    /// was given, else the only one with releases.
    pub fn open_recorded(compose: &ComposeArgs, flags: &StateArgs, report: Report) -> Result<ProjectHandle> {
        let mut docker = connect(compose, report)?;
        let project = match resolve_config(&mut docker, compose, report) {
            Ok(yaml) => {
                let resolved = ResolvedProject::parse(&yaml).map_err(Error::from)?;
                let name = resolved.project_name().unwrap_or_default().to_string();
                let file = Configuration::of_file(docker.clone(), &yaml, compose, FlagLayers::default()).ok();
                let engine = file.as_ref().and_then(|file| file.project.engine);
                NamedProject { docker, name, engine, file }
            }
            Err(error) => {
                let name = recorded_name(&docker, compose, flags.state_dir.as_deref()).ok_or(error)?;
                report.warn(&Warning::Other(format!(
                    "the compose file cannot be read; using the recorded configuration of `{name}`"
                )));
                NamedProject { docker, name, engine: None, file: None }
            }
        };
        ProjectHandle::locate(project, compose, flags)
    }

    fn locate(project: NamedProject, compose: &ComposeArgs, flags: &StateArgs) -> Result<ProjectHandle> {
        let NamedProject { docker, name, engine, file } = project;
        let cluster = swarm_id(&docker, flags.engine.or(engine), &name)?;
        let location =
            StateLocation::find(&docker, compose, flags.state_dir.as_deref(), cluster.as_deref(), &name);
        let journal = Journal::open(&location, &name)?;
        let engine = if cluster.is_some() { EngineKind::Swarm } else { EngineKind::Compose };
        Ok(ProjectHandle { docker, engine, journal, state_dir: location.state_dir, file })
    }
}

/// Id of the Swarm, if the project is deployed to Swarm: requested by flag or file, or a stack already. None for a Compose
/// project.
///
/// # Errors
/// The engine does not answer, or Swarm is requested and the engine is no manager.
fn swarm_id(docker: &Docker, requested: Option<EngineKind>, stack: &str) -> Result<Option<String>> {
    let is_swarm = match requested {
        Some(engine) => engine == EngineKind::Swarm,
        None => docker.is_stack(stack)?,
    };
    is_swarm.then(|| docker.swarm_id()).transpose()
}

/// Refuses Swarm flags for a project that is not a stack.
fn refuse_flags(args: &SwarmArgs) -> Result<(), Error> {
    let flag = args.resolve_image.as_ref().map(|_| "--resolve-image");
    match flag.or(args.push.then_some("--push")) {
        Some(flag) => Err(Error::usage(format!("`{flag}` is for Swarm, and this project is not a stack"))
            .hint(format!("remove `{flag}`, or deploy with `--engine swarm`"))),
        None => Ok(()),
    }
}

/// Project name by flag or environment, if it has releases; else the only one that has.
fn recorded_name(docker: &Docker, compose: &ComposeArgs, state_dir: Option<&Path>) -> Option<String> {
    let cluster = docker.swarm_id().ok();
    let named = compose.project_name.clone().or_else(|| std::env::var("COMPOSE_PROJECT_NAME").ok());
    let folders = [None, cluster.as_deref()].map(|c| compose.state_dir(state_dir, c));
    folders.iter().find_map(|folder| {
        let mut recorded = store::projects(folder).unwrap_or_default();
        match &named {
            Some(name) => recorded.contains(name).then(|| name.clone()),
            None if recorded.len() == 1 => recorded.pop(),
            None => None,
        }
    })
}

/// Receivers of the result by the configuration of the current release, if the Compose file is unreadable.
fn recorded_receivers(journal: &Journal) -> Option<Vec<Receiver>> {
    let number = journal.history.current()?.number;
    let project = Project::read(&journal.config(number).ok()?, "the release", &FlagLayers::default()).ok()?;
    Some(project.notify)
}

/// Context of a deploy, rollback or recovery.
pub struct Context<'a> {
    pub compose: &'a ComposeArgs,
    /// Flags of the rollout.
    pub args: &'a RolloutArgs,
    /// The same flags as settings.
    pub flags: FlagLayers,
    pub report: Report,
    pub stop: &'a StopSignal,
    pub docker: Docker,
    pub engine: EngineKind,
    pub journal: Journal,
    pub state_dir: PathBuf,
    /// Folder of the project.
    pub folder: PathBuf,
    /// Configuration of the Compose file, read before the lock was acquired.
    file: Option<Configuration>,
}

impl<'a> Context<'a> {
    /// Context of a deploy, which needs a readable Compose file; prefetches the queries of the deploy.
    pub fn for_deploy(call: Invocation<'a>, args: &'a DeployArgs, flags: FlagLayers) -> Result<Context<'a>> {
        let docker = connect(call.compose, call.report)?;
        prefetch::for_project(&docker, &call.compose.folder(), args);
        let file = Configuration::load(&docker, call.compose, flags.clone(), call.report)?;
        // Prefetching earlier would double the time of the query above, which everything waits for.
        docker.prefetch_hashes();
        let project = ProjectHandle::locate(file.into(), call.compose, &args.rollout.state())?;
        Context::new(call, &args.rollout, flags, project)
    }

    /// Context of a run that restores or finishes a recorded release.
    pub fn for_release(
        call: Invocation<'a>,
        args: &'a RolloutArgs,
        flags: FlagLayers,
    ) -> Result<Context<'a>> {
        let project = ProjectHandle::open_recorded(call.compose, &args.state(), call.report)?;
        Context::new(call, args, flags, project)
    }

    fn new(
        call: Invocation<'a>,
        args: &'a RolloutArgs,
        flags: FlagLayers,
        project: ProjectHandle,
    ) -> Result<Context<'a>> {
        if project.engine == EngineKind::Compose {
            refuse_flags(&args.swarm)?;
        }
        let Invocation { compose, report, stop, receivers } = call;
        let ProjectHandle { docker, engine, journal, state_dir, file } = project;
        let folder = compose.folder();
        if !args.dry_run {
            let recorded = || recorded_receivers(&journal).unwrap_or_default();
            let all = file.as_ref().map_or_else(recorded, |file| file.project.notify.clone());
            // Only the first file counts; a run reads one.
            let project = journal.project.clone();
            let _ = receivers.set(ReceiverList { project, folder: folder.clone(), all });
        }
        Ok(Context { compose, args, flags, report, stop, docker, engine, journal, state_dir, folder, file })
    }

    /// Context for another release of the same run: with these flags and settings, and without a signal.
    pub fn for_return<'b>(
        &self,
        args: &'b RolloutArgs,
        flags: FlagLayers,
        stop: &'b StopSignal,
    ) -> Result<Context<'b>>
    where
        'a: 'b,
    {
        Ok(Context {
            args,
            flags,
            stop,
            compose: self.compose,
            report: self.report,
            docker: self.docker.clone(),
            engine: self.engine,
            journal: self.journal.reopen()?,
            state_dir: self.state_dir.clone(),
            folder: self.folder.clone(),
            file: None,
        })
    }

    /// Runs with the lock of the project. A run that a newer one supersedes does nothing.
    pub fn locked(mut self, command: &str, run: impl FnOnce(&mut Context) -> Result<()>) -> Result<()> {
        let Some(lock) = self.acquire_lock(command)? else {
            self.report.superseded(&self.journal.project);
            return Ok(());
        };
        self.journal = self.journal.reopen()?.for_change(self.report)?;
        if !self.args.dry_run {
            // A folder that cannot be written is reported once the run has to write.
            let _ = self.journal.remove_unfinished();
        }
        if lock.waited {
            self.file = None;
        }
        lock.finish(run(&mut self))
    }

    /// Configuration of the Compose file; read again if the run has waited for the lock.
    pub fn configuration(&mut self) -> Result<Configuration> {
        if let Some(file) = self.file.take() {
            return Ok(file);
        }
        self.docker.discard_prefetched();
        Configuration::load(&self.docker, self.compose, self.flags.clone(), self.report)
    }
}
