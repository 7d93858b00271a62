//! The story of a deploy, in words: load, observe, plan, execute, report. Going back is the same story from a record
//! (`deploy/rollback.rs`), and what happens between plan and report is one run's (`deploy/run.rs`).

mod acquire_lock;
mod check;
mod dependents;
mod desired;
mod history;
mod import_running;
mod init;
mod jobs;
mod journal;
pub mod observe;
mod pipeline;
mod prefetch;
mod preflight_targets;
mod probe_urls;
mod prune;
mod recovery;
mod request;
mod rollback;
mod serving;
pub mod settings;
mod state_location;
mod status;
mod swarm_deploy;
mod target_rollout;
pub mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;

use anyhow::Result;

use crate::cli::{ComposeArgs, DeployArgs};
use crate::docker::inspect::Container;
use crate::error::Error;
use crate::health::monitor::Monitor;
use crate::model::{ConfigError, Project};
use crate::preflight;
use crate::release::RolloutKind;
use crate::report::Report;
use crate::rollout::restart;
use crate::wait::StopSignal;
use crate::witness::Witness;
use acquire_lock::{LockCaller, LockOutcome};
pub use check::check;
use dependents::Dependents;
pub use history::history;
pub use init::init;
use jobs::Jobs;
use journal::Journal;
use observe::DesiredVersion;
use pipeline::Pipeline;
pub use prune::prune;
use request::Request;
pub use rollback::{recover, rollback};
use state_location::StateLocation;
pub use status::status;
use targets::Target;

/// Replaces the services asked for by their next version.
///
/// # Errors
/// A [`Fault`] whose exit code tells what serves now.
pub fn deploy(compose: &ComposeArgs, args: &DeployArgs, report: Report, stop: &StopSignal) -> Result<()> {
    if args.resume {
        return rollback::resume(compose, args, report, stop);
    }
    let flags = || settings::flags(&args.update, &args.rollout);
    let read = || Request::of_file_for_deploy(compose, args, flags(), report);
    let mut request = read()?;
    let engine = settings::engine(args.rollout.swarm.engine.as_deref(), request.project.engine);
    let cluster = swarm_deploy::cluster(&request.docker, engine, &request.project.name)?;
    let given = args.rollout.state_dir.as_deref();
    let home = StateLocation::of(&request.docker, compose, given, cluster.as_deref(), &request.project.name);
    let mut journal = Journal::open(&home, &request.project.name)?;
    let caller = LockCaller {
        docker: &request.docker,
        is_stack: cluster.is_some(),
        journal: &journal,
        command: settings::command("deploy", &args.services),
        rollout: &args.rollout,
        report,
        stop,
    };
    let LockOutcome::Ours(turn) = caller.turn()? else {
        report.superseded(&request.project.name);
        return Ok(());
    };
    journal = journal.reopened()?.for_change(report)?;
    if turn.waited {
        request = read()?;
    }
    turn.guard(&request.docker);
    let place = RunLocation { state_dir: home.state_dir, is_stack: cluster.is_some(), unfinished: None };
    turn.ended(run_locked(request, journal, args, place, (report, stop)))
}

/// Where a project runs, and where its releases are.
struct RunLocation {
    state_dir: PathBuf,
    /// On a Swarm.
    is_stack: bool,
    /// The release that a killed run left half done, where this run goes on with it.
    unfinished: Option<u32>,
}

/// Puts a definition in place, once it is this run's turn.
fn run_locked(
    mut request: Request,
    mut journal: Journal,
    args: &DeployArgs,
    place: RunLocation,
    (report, stop): (Report, &StopSignal),
) -> Result<()> {
    let dry_run = args.rollout.dry_run;
    if place.is_stack {
        return swarm_deploy::deploy(request, args, journal, report, stop);
    }
    swarm_deploy::refuse_flags(&args.rollout.swarm)?;
    request.docker = request.docker.with_stop_signal(stop);
    let containers = request.docker.containers()?;
    let proxies = observe::detect(&request.docker, &request.project, &containers)?;
    let mut targets =
        targets::targets(&request.project, &args.services, &flagged(args), &proxies).map_err(|error| {
            if args.services.is_empty() { swarm_deploy::hint_at_swarm(&request.docker, error) } else { error }
        })?;
    preflight::targets(&request.project, &targets, &proxies)?;
    let jobs = Jobs::of(&request.project, &targets);
    request.add_jobs(&jobs)?;
    if args.image.is_empty() {
        prefetch::of_targets(&request.docker, &request.project, &targets, &containers, args);
    }
    if !dry_run {
        request.import_running(&targets, &containers, &mut journal, report)?;
    }
    request.set_images(&args.image, &jobs, &journal, dry_run)?;
    preflight::build_contexts(&request.project, &targets, &place.state_dir, report);
    let provided = request.provide_images(&targets, &jobs, args, report);
    if let Some(signal) = stop.signal() {
        return Err(Error::interrupted(signal).into());
    }
    let (seen, containers) = match provided? {
        Some(seen) => (seen, containers),
        // A build takes its time, in which anything may have happened.
        None => {
            request.docker.discard_prefetched();
            (BTreeMap::new(), request.docker.containers()?)
        }
    };
    let mut dependents = Dependents::of(&request.project, &targets, &containers, &proxies);
    let all: Vec<Target> = targets.iter().chain(&dependents.rolled).cloned().collect();
    let mut wanted = DesiredVersion::read(&request.docker, &request.project, &all, seen)?;
    wanted.add_hashes(request.resolved_hashes()?);
    if request.may_have_label_files {
        wanted.add_hashes(journal.hashes_of_same(&request.snapshot));
    }
    wanted.replaced = replaced(args, &request.project, &targets, &containers, &journal);
    match dependents::are_replaced(&request.project, &targets, &wanted, &containers) {
        true => {
            let services: Vec<&str> = dependents.rolled.iter().flat_map(Target::services).collect();
            let theirs = containers.iter().filter(|c| observe::is_member(&request.project, c, &services));
            wanted.replaced.extend(theirs.map(|c| c.id.clone()));
            targets = all;
        }
        false => dependents = Dependents::default(),
    }
    let run = Pipeline {
        request: &request,
        wanted: &wanted,
        proxies: &proxies,
        journal: &journal,
        kind: RolloutKind::Deploy,
        number: journal.next_number(),
        sizes: args.scale.iter().map(|(service, n)| (service.clone(), *n as usize)).collect(),
        images: args.image.iter().map(|(service, _)| service.clone()).collect(),
        placed: BTreeMap::new(),
        jobs,
        completed: place.unfinished.map(|number| journal.completed(number)).unwrap_or_default(),
        dependents,
        rollout: &args.rollout,
        report,
        stop,
        witness: Witness::default(),
        watch: Monitor::default(),
        running: Mutex::default(),
        policies: restart::policies(
            &request.project.name,
            &containers,
            journal.heading.as_ref().map(|h| &h.restart),
        ),
    };
    run.execute(&targets, containers)
}

/// The services that a flag is about, with its name.
fn flagged(args: &DeployArgs) -> Vec<(&str, &str)> {
    let scaled = args.scale.iter().map(|(service, _)| ("--scale", service.as_str()));
    scaled.chain(args.image.iter().map(|(service, _)| ("--image", service.as_str()))).collect()
}

/// The containers that go whatever they are: all of them with `--force`; and those of a `--force` that was killed.
fn replaced(
    args: &DeployArgs,
    project: &Project,
    targets: &[Target],
    containers: &[Container],
    journal: &Journal,
) -> BTreeSet<String> {
    let services: Vec<&str> = targets.iter().flat_map(Target::services).collect();
    let ours = containers.iter().filter(|c| observe::is_member(project, c, &services));
    let forced = ours.filter(|_| args.force).map(|c| c.id.clone());
    let before = journal.heading.iter().flat_map(|h| h.replaced.clone());
    forced.chain(before).collect()
}

impl From<ConfigError> for Error {
    fn from(wrong: ConfigError) -> Self {
        Error::usage(wrong.message).hint(wrong.hint)
    }
}
