//! `deploy` from start to end: load, observe, plan, execute, report. `deploy/pipeline.rs` executes;
//! `deploy/rollback.rs` restores a recorded release in the same way.

mod acquire_lock;
mod check;
mod dependents;
mod desired;
mod history;
mod init;
mod pipeline;
pub mod prefetch;
mod preflight_targets;
mod probe_urls;
mod prune;
mod recovery;
mod rollback;
mod serving;
mod status;
mod swarm_deploy;
mod target_rollout;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::Result;

use crate::configuration::Configuration;
use crate::docker::inspect::Container;
use crate::error::Error;
use crate::health::monitor::Monitor;
use crate::jobs::Jobs;
use crate::model::args::{self, ComposeArgs, DeployArgs};
use crate::model::{ConfigError, Project};
use crate::observe::{self, DesiredVersion};
use crate::preflight;
use crate::release::RolloutKind;
use crate::release::journal::Journal;
use crate::release::state_location::StateLocation;
use crate::report::Report;
use crate::rollout::restart;
use crate::targets::{self, Target};
use crate::wait::StopSignal;
use crate::witness::Witness;
use acquire_lock::{LockCaller, LockOutcome};
pub use check::check;
use dependents::Dependents;
pub use history::history;
pub use init::init;
use pipeline::Pipeline;
pub use prune::prune;
pub use rollback::{recover, rollback};
pub use status::status;

/// Replaces services by their next version.
///
/// # Errors
/// An [`Error`] whose exit code reports what serves now.
pub fn deploy(compose: &ComposeArgs, args: &DeployArgs, report: Report, stop: &StopSignal) -> Result<()> {
    if args.resume {
        return rollback::resume(compose, args, report, stop);
    }
    let flags = || args.rollout.settings(&args.update);
    let read = || Configuration::from_file_for_deploy(compose, args, flags(), report);
    let mut request = read()?;
    let engine = args.rollout.swarm.engine.or(request.project.engine);
    let cluster = swarm_deploy::swarm_id(&request.docker, engine, &request.project.name)?;
    let given = args.rollout.state_dir.as_deref();
    let state_location =
        StateLocation::find(&request.docker, compose, given, cluster.as_deref(), &request.project.name);
    let mut journal = Journal::open(&state_location, &request.project.name)?;
    let caller = LockCaller {
        docker: &request.docker,
        is_stack: cluster.is_some(),
        journal: &journal,
        command: args::run_name("deploy", &args.services),
        args: &args.rollout,
        report,
        stop,
    };
    let LockOutcome::Acquired(lock) = caller.acquire()? else {
        report.superseded(&request.project.name);
        return Ok(());
    };
    journal = journal.reopen()?.for_change(report)?;
    if lock.waited {
        request = read()?;
    }
    lock.guard_changes(&request.docker);
    let location =
        RunLocation { state_dir: state_location.state_dir, is_stack: cluster.is_some(), unfinished: None };
    lock.finish(run_locked(request, journal, args, location, (report, stop)))
}

/// Engine and state folder of a project.
struct RunLocation {
    state_dir: PathBuf,
    /// True for a stack on a Swarm.
    is_stack: bool,
    /// Unfinished release of a killed run that this run continues.
    unfinished: Option<u32>,
}

/// Deploys a request while this run holds the lock.
fn run_locked(
    mut request: Configuration,
    mut journal: Journal,
    args: &DeployArgs,
    location: RunLocation,
    (report, stop): (Report, &StopSignal),
) -> Result<()> {
    let dry_run = args.rollout.dry_run;
    if location.is_stack {
        return swarm_deploy::deploy(request, args, journal, report, stop);
    }
    swarm_deploy::refuse_flags(&args.rollout.swarm)?;
    request.docker = request.docker.with_stop_signal(stop);
    let containers = request.docker.containers()?;
    let proxies = observe::detect(&request.docker, &request.project, &containers)?;
    let mut targets = targets::select(&request.project, &args.services, &flagged_services(args), &proxies)
        .map_err(|error| {
            if args.services.is_empty() { swarm_deploy::hint_at_swarm(&request.docker, error) } else { error }
        })?;
    preflight::targets(&request.project, &targets, &proxies)?;
    let jobs = Jobs::new(&request.project, &targets);
    request.add_jobs(&jobs)?;
    if args.image.is_empty() {
        prefetch::for_targets(&request.docker, &request.project, &targets, &containers, args);
    }
    if !dry_run {
        request.import_running(&targets, &containers, &mut journal, report)?;
    }
    request.set_images(&args.image, &jobs, &journal, dry_run)?;
    preflight::build_contexts(&request.project, &targets, &location.state_dir, report);
    let provided = request.provide_images(&targets, &jobs, args, report);
    if let Some(signal) = stop.signal() {
        return Err(Error::interrupted(signal).into());
    }
    let (known_images, containers) = match provided? {
        Some(known_images) => (known_images, containers),
        // A build may take minutes, in which the containers may have changed.
        None => {
            request.docker.discard_prefetched();
            (BTreeMap::new(), request.docker.containers()?)
        }
    };
    let mut dependents = Dependents::new(&request.project, &targets, &containers, &proxies);
    let all: Vec<Target> = targets.iter().chain(&dependents.rolled).cloned().collect();
    let mut desired = DesiredVersion::read(&request.docker, &request.project, &all, known_images)?;
    desired.add_hashes(request.resolved_hashes()?);
    if request.may_have_label_files {
        desired.add_hashes(journal.hashes_of_same(&request.snapshot));
    }
    desired.forced = forced_containers(args, &request.project, &targets, &containers, &journal);
    if dependents::any_replaced(&request.project, &targets, &desired, &containers) {
        let services: Vec<&str> = dependents.rolled.iter().flat_map(Target::services).collect();
        let dependent_containers =
            containers.iter().filter(|c| observe::is_member(&request.project, c, &services));
        desired.forced.extend(dependent_containers.map(|c| c.id.clone()));
        targets = all;
    } else {
        dependents = Dependents::default()
    }
    let pipeline = Pipeline {
        request: &request,
        desired: &desired,
        proxies: &proxies,
        journal: &journal,
        kind: RolloutKind::Deploy,
        number: journal.next_number(),
        replicas: args.scale.iter().map(|(service, n)| (service.clone(), *n as usize)).collect(),
        flag_images: args.image.iter().map(|(service, _)| service.clone()).collect(),
        restored: BTreeMap::new(),
        jobs,
        completed: location.unfinished.map(|number| journal.completed_jobs(number)).unwrap_or_default(),
        dependents,
        args: &args.rollout,
        report,
        stop,
        witness: Witness::default(),
        monitor: Monitor::default(),
        running_jobs: Mutex::default(),
        policies: restart::policies(
            &request.project.name,
            &containers,
            journal.in_progress.as_ref().map(|h| &h.restart),
        ),
    };
    pipeline.execute(&targets, containers)
}

/// Services that a flag names, each with the flag.
fn flagged_services(args: &DeployArgs) -> Vec<(&str, &str)> {
    let scaled = args.scale.iter().map(|(service, _)| ("--scale", service.as_str()));
    scaled.chain(args.image.iter().map(|(service, _)| ("--image", service.as_str()))).collect()
}

/// Containers to replace even if they are up to date: all with `--force`, and those of a killed `--force`.
fn forced_containers(
    args: &DeployArgs,
    project: &Project,
    targets: &[Target],
    containers: &[Container],
    journal: &Journal,
) -> BTreeSet<String> {
    let services: Vec<&str> = targets.iter().flat_map(Target::services).collect();
    let members = containers.iter().filter(|c| observe::is_member(project, c, &services));
    let forced = members.filter(|_| args.force).map(|c| c.id.clone());
    let before = journal.in_progress.iter().flat_map(|h| h.replaced.clone());
    forced.chain(before).collect()
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        Error::usage(error.message).hint(error.hint)
    }
}
