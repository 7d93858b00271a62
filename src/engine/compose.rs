//! Run on one host: observes every target, plans, executes and records the result.

pub mod dependents;
pub mod desired;
pub mod import_running;
mod preflight_targets;
pub mod prepare;
mod probe_urls;
pub mod proxy_files;
mod recovery;
mod target_rollout;
pub mod watchdog;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;

use crate::context::Context;
use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::error::{Error, Exit};
use crate::finding::{self, Finding};
use crate::health::monitor::Monitor;
use crate::jobs::Jobs;
use crate::model::Project;
use crate::observe::{self, TargetReader};
use crate::plan::Stage;
use crate::preflight;
use crate::release::journal::{Journal, ReleaseDraft, RunResult};
use crate::release::{RolloutKind, ServiceRelease, WitnessTotals};
use crate::report::plan::PlannedCommand;
use crate::report::{Event, Report, Warning};
use crate::request::Request;
use crate::rollout::restart::{self, RestartPolicies};
use crate::rollout::{HoldLog, RolloutContext, RolloutFailure};
use crate::targets::{self, Target};
use crate::wait::{self, WaitResult};
use crate::witness::Witness;
use prepare::Prepared;
use target_rollout::{RolloutTerms, TargetRollout};

/// Rollouts of targets.
type Rollouts<'a> = Vec<TargetRollout<'a>>;

/// Interval at which a running job and the new instances are checked. Both also wake the wait.
const JOB_POLL: Duration = Duration::from_millis(200);

/// Interval at which the job of a killed run is checked.
const LAST_JOB_POLL: Duration = Duration::from_millis(500);

/// End of a run that changed something.
pub enum Outcome {
    /// The request is in place; the witness counted these requests.
    Done(Option<WitnessTotals>),
    Failed(Error),
    /// Failed, and what served before is gone or belonged to no single release. The last good release of these services
    /// has to be restored.
    Gone {
        error: Error,
        release: u32,
        services: Vec<String>,
    },
}

/// End of the rollouts of a run.
enum RunEnd {
    /// The new release serves.
    Serves,
    Paused(Error),
    Failed(Error),
    /// Failed, and the undo has left instances of the failed release, or marks in a proxy.
    NotUndone(Error),
}

impl RunEnd {
    fn error(&self) -> Option<&Error> {
        match self {
            RunEnd::Serves => None,
            RunEnd::Paused(error) | RunEnd::Failed(error) | RunEnd::NotUndone(error) => Some(error),
        }
    }
}

/// Failure of a stage, and the number of the rollout that it is about.
struct StageFailure {
    at: usize,
    failure: Box<RolloutFailure>,
}

impl StageFailure {
    fn new(at: usize, failure: RolloutFailure) -> StageFailure {
        StageFailure { at, failure: Box::new(failure) }
    }
}

/// One run on a single host, once its release is decided.
pub struct ComposeRun<'a> {
    pub request: &'a Request,
    pub prepared: &'a Prepared,
    pub context: &'a Context<'a>,
    pub kind: RolloutKind,
    pub number: u32,
    /// Number of instances by flag or record, by service.
    pub replicas: BTreeMap<String, usize>,
    /// Recorded services of a rollback; empty for a new release.
    restored: BTreeMap<String, ServiceRelease>,
    /// Jobs and init containers that a killed run of the same release completed.
    completed: BTreeSet<String>,
    pub report: Report,
    pub witness: Witness,
    pub monitor: Monitor,
    /// Jobs that still run during an undo.
    running_jobs: Mutex<Vec<JoinHandle<()>>>,
    policies: RestartPolicies,
    pub holds: HoldLog,
}

impl<'a> ComposeRun<'a> {
    pub fn new(context: &'a Context<'a>, request: &'a Request, prepared: &'a Prepared) -> ComposeRun<'a> {
        let journal = &context.journal;
        let restored = request.restored();
        let recorded = restored.iter().map(|(service, release)| (service.clone(), release.replicas as usize));
        let by_flag = request.args.scale.iter().map(|(service, n)| (service.clone(), *n as usize));
        let before = journal.in_progress.as_ref().map(|h| &h.restart);
        ComposeRun {
            request,
            prepared,
            context,
            kind: request.kind,
            number: request.number(context),
            replicas: recorded.chain(by_flag).collect(),
            completed: request.unfinished.map(|number| journal.completed_jobs(number)).unwrap_or_default(),
            report: context.report,
            witness: Witness::default(),
            monitor: Monitor::default(),
            holds: HoldLog::default(),
            running_jobs: Mutex::default(),
            policies: restart::policies(&request.config.project.name, &prepared.containers, before),
            restored,
        }
    }

    pub fn docker(&self) -> &'a Docker {
        &self.request.config.docker
    }

    pub fn project(&self) -> &'a Project {
        &self.request.config.project
    }

    pub fn journal(&self) -> &'a Journal {
        &self.context.journal
    }

    /// Reader for the state of each target.
    pub fn readers(&self) -> Result<Vec<TargetReader<'_>>> {
        self.prepared.targets.iter().map(|target| self.reader(target)).collect()
    }

    /// Observes and plans each target. The second list has the targets without a change.
    pub fn plan<'b>(&'b self, readers: &'b [TargetReader<'b>]) -> Result<(Rollouts<'b>, Rollouts<'b>)> {
        let rollouts = readers.iter().map(|reader| self.plan_target(reader)).collect::<Result<Vec<_>>>()?;
        let (changed, unchanged): (Vec<_>, Vec<_>) =
            rollouts.into_iter().partition(|rollout| !rollout.plan.is_empty());
        for rollout in &unchanged {
            self.report.print_line(&format!("`{}`: nothing has to change", rollout.name()));
        }
        Ok((changed, unchanged))
    }

    /// Checks and announces the rollouts, and prepares the witness and the proxies. Returns the stopped dependencies.
    pub fn preflight(&self, rollouts: &[TargetRollout]) -> Result<Vec<&'a str>> {
        let notes = rollouts.iter().map(|rollout| self.findings(rollout)).collect::<Result<Vec<_>>>()?;
        let down = self.stopped_dependencies();
        if self.context.args.one_by_one && rollouts.len() > 1 {
            let targets = rollouts.iter().map(|p| p.name().to_string()).collect();
            let seconds = rollouts.iter().filter_map(|p| p.plan.window()).sum();
            self.report.event(Event::OneByOne { targets, seconds });
        }
        rollouts.iter().zip(&notes).for_each(|(rollout, notes)| self.announce(rollout, notes));
        self.probe_serving(rollouts)?;
        self.report_dependents();
        self.report_left_alone()?;
        for rollout in rollouts {
            let collateral = preflight::collateral(self.docker(), self.project(), &rollout.plan, &down)?;
            finding::require(collateral.map(Finding::nothing_changed))?;
        }
        self.start_witness(rollouts)?;
        for rollout in rollouts {
            self.prepare_proxies(rollout, rollouts)?;
        }
        Ok(down)
    }

    /// Reports the plans of a dry run, with the commands that would run.
    pub fn report_plans(&self, rollouts: &[TargetRollout], down: &[&str]) -> Result<()> {
        self.report_jobs(rollouts, down);
        rollouts.iter().try_for_each(|rollout| self.report_plan(rollout))
    }

    /// Cleans up targets without changes: a killed rollout may have left marks in a proxy. This runs last, because
    /// a proxy's own discovery also sees unready instances of the other targets.
    pub fn clean_up(&self, unchanged: &[TargetRollout]) {
        for rollout in unchanged.iter().filter(|_| !self.context.args.dry_run) {
            rollout.keep_stopped();
            if let Err(error) = rollout.hand_back() {
                self.report.warn(&Warning::CleanupFailed(format!("{error:#}")));
            }
        }
    }

    /// Reports for a dry run the jobs and the dependencies that would start.
    fn report_jobs(&self, rollouts: &[TargetRollout], down: &[&str]) {
        let quote = |names: &[String]| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        let report_preparation = |what: String| self.report.event(Event::WouldPrepare(what.into()));
        if !down.is_empty() {
            let down: Vec<String> = down.iter().map(ToString::to_string).collect();
            report_preparation(format!("start stopped dependencies: {}", quote(&down)));
        }
        let changed: Vec<Target> = rollouts.iter().map(|rollout| rollout.reader.target.clone()).collect();
        let jobs = Jobs::new(self.project(), &changed);
        let before: Vec<String> =
            jobs.before.iter().filter(|_| self.kind == RolloutKind::Deploy).cloned().collect();
        let after: Vec<String> =
            jobs.after.iter().filter(|_| self.kind == RolloutKind::Deploy).cloned().collect();
        if !before.is_empty() {
            report_preparation(format!(
                "run {} to completion, before the first new instance is created",
                quote(&before)
            ));
        }
        if !after.is_empty() {
            report_preparation(format!("run {} to completion, once the new release serves", quote(&after)));
        }
    }

    /// Reports the plan of a dry run. A dry run passes the configuration on stdin; the report shows the file that a
    /// deploy would write.
    fn report_plan(&self, rollout: &TargetRollout) -> Result<()> {
        let mut steps = rollout.preview()?;
        let kept = self.journal().config_path(self.number).display().to_string();
        let words = steps.iter_mut().flat_map(|s| &mut s.actions).filter_map(|d| match d {
            PlannedCommand::Command(words) => Some(words),
            PlannedCommand::Note(_) => None,
        });
        for words in words {
            if let Some(at) = words.windows(2).position(|pair| pair == ["--file", "-"]) {
                words[at + 1].clone_from(&kept);
            }
        }
        self.report.plan(rollout.name(), steps);
        Ok(())
    }

    fn reader<'b>(&'b self, target: &'b Target) -> Result<TargetReader<'b>> {
        let Prepared { containers, proxies, desired, .. } = self.prepared;
        let proxies = observe::proxies_of(self.docker(), self.project(), target, containers, proxies)?;
        Ok(TargetReader { docker: self.docker(), project: self.project(), desired, target, proxies })
    }

    fn plan_target<'b>(&'b self, reader: &'b TargetReader<'b>) -> Result<TargetRollout<'b>> {
        let containers = &self.prepared.containers;
        let probes = reader.probes()?;
        // Proxies are checked before the first query, because the check names the fix for one that cannot answer.
        let warnings = self.warnings(reader, &probes)?;
        let snapshot = reader.observe_containers(containers.clone())?;
        let strategy = self.strategy(reader, &snapshot)?;
        let service = &self.project().services[reader.target.services()[0]];
        let back = desired::plan_policy(service, &service.rollback, !reader.proxies.is_empty());
        let orphans =
            preflight::proxies::orphans(reader, containers).into_iter().map(|(orphan, _)| orphan).collect();
        let terms = RolloutTerms { update: *self.policy(service), undo_policy: back, warnings, orphans };
        Ok(TargetRollout::plan(reader, snapshot, strategy, terms, self.rollout_context(reader))?)
    }

    /// Records a run without changes, so that the running version is a release for a rollback.
    pub fn record_unchanged(&self, idle: &[TargetRollout]) -> Result<()> {
        if self.context.args.dry_run {
            return Ok(());
        }
        let draft = as_created(self.release_draft(idle)?, idle);
        let known = |(service, release): (&String, &ServiceRelease)| {
            let current = self.journal().history.current().and_then(|r| r.services.get(service));
            current.is_some_and(|c| c.same_content(release))
        };
        if draft.services.iter().all(known) && !self.journal().follows_unfinished() {
            self.journal().tag_images(self.docker(), &draft, self.report);
            self.journal().discard(&draft);
            return Ok(());
        }
        self.journal().begin(&draft, self.report)?;
        self.journal().tag_images(self.docker(), &draft, self.report);
        let result = RunResult::new(None, false, self.report.elapsed(), 0);
        self.journal().end(self.docker(), &draft, result, self.report);
        self.report.event(Event::Unchanged { release: draft.number, restored_release: self.back_to() });
        Ok(())
    }

    fn rollout_context<'v>(&'v self, reader: &'v TargetReader) -> RolloutContext<'v> {
        RolloutContext {
            docker: self.docker(),
            project: self.project(),
            snapshot: (&self.request.config.snapshot, &self.request.config.folder),
            proxies: &reader.proxies,
            report: self.report,
            target: reader.target.name(),
            witness: &self.witness,
            monitor: &self.monitor,
            runs_jobs: self.kind == RolloutKind::Deploy,
            completed: &self.completed,
            policies: &self.policies,
            stop: self.context.stop,
            holds: &self.holds,
        }
    }

    /// Executes and records the rollouts.
    ///
    /// # Errors
    /// A failure before any instance was changed.
    pub fn execute(&self, rollouts: &mut [TargetRollout], down: &[&str]) -> Result<Outcome> {
        let draft = self.begin(rollouts, down)?;
        let end = match self.run_stages(rollouts, &draft) {
            Ok(()) => self.verify(rollouts),
            Err(failure) => self.handle_failure(rollouts, failure),
        };
        self.wait_for_jobs();
        let (took, witness) = (self.monitor.elapsed(), self.end_witness());
        // The run that took the lock records the result.
        if end.error().is_none_or(|error| error.exit != Exit::LostLock) {
            self.record(&end, &as_created(draft, rollouts), rollouts, (took, witness.clone()));
        }
        Ok(match end {
            RunEnd::Serves => {
                self.report.print_durations();
                rollouts.iter().for_each(|rollout| self.report_deployed(rollout, took));
                Outcome::Done(witness)
            }
            RunEnd::Failed(error) | RunEnd::NotUndone(error) if error.exit != Exit::LostLock => {
                self.failure(rollouts, error)
            }
            RunEnd::Paused(error) | RunEnd::Failed(error) | RunEnd::NotUndone(error) => {
                Outcome::Failed(error)
            }
        })
    }

    /// Records the rollout in progress, starts stopped dependencies, and runs the jobs before it. Unchanged targets run
    /// no jobs.
    fn begin(&self, rollouts: &[TargetRollout], down: &[&str]) -> Result<ReleaseDraft> {
        let draft = self.release_draft(rollouts)?;
        self.journal().begin_with_policies(&draft, &self.policies, self.report)?;
        let changed: Vec<Target> = rollouts.iter().map(|rollout| rollout.reader.target.clone()).collect();
        let jobs = Jobs::new(self.project(), &changed);
        self.monitor.start(self.docker(), &self.project().name, self.context.stop.wakeup());
        let started = self.start_dependencies(down).and_then(|()| {
            let run = self.run_jobs("before", jobs.before.iter());
            run.map_err(|failure| failure.reason.into_error().into())
        });
        match started {
            Ok(()) => Ok(draft),
            Err(error) => {
                self.journal().discard(&draft);
                Err(error)
            }
        }
    }

    /// Verifies that the public URLs answer, and that no old instance is left.
    fn verify(&self, rollouts: &[TargetRollout]) -> RunEnd {
        let verified = self.check_public_urls(rollouts).and_then(|()| self.check_leftovers(rollouts));
        verified.map_or_else(RunEnd::Failed, |()| RunEnd::Serves)
    }

    fn record(
        &self,
        end: &RunEnd,
        draft: &ReleaseDraft,
        rollouts: &[TargetRollout],
        (took, witness): (Duration, Option<WitnessTotals>),
    ) {
        let cut = rollouts.iter().map(TargetRollout::cut_requests).sum();
        let result = RunResult::new(end.error(), matches!(end, RunEnd::Paused(_)), took, cut);
        // The next run removes what is left of the old release.
        let undoing = self.is_undo_incomplete(end, rollouts).then(|| {
            let left = rollouts.iter().flat_map(TargetRollout::not_undone);
            left.map(|container| container.id.clone()).collect()
        });
        let unfinished =
            undoing.is_some() || result.unfinished || rollouts.iter().any(|p| !p.left_running().is_empty());
        let result = RunResult { witness, unfinished, undoing, ..result };
        self.journal().end(self.docker(), draft, result, self.report);
    }

    fn report_deployed(&self, rollout: &TargetRollout, took: Duration) {
        self.report.deployed(Event::Deployed {
            target: rollout.name().into(),
            serving: rollout.in_rotation(),
            release: self.number,
            restored_release: self.back_to(),
            in_service: rollout.in_service().unwrap_or(took),
            seconds: took,
        });
    }

    /// True if `--image` set the image of a service.
    pub fn has_image_flag(&self, service: &str) -> bool {
        self.request.args.image.iter().any(|(name, _)| name == service)
    }

    /// Release that a rollback restores.
    fn back_to(&self) -> Option<u32> {
        match self.kind {
            RolloutKind::Rollback { to } => Some(to),
            _ => None,
        }
    }

    /// Runs the stages of all targets side by side, or target by target. A target starts once those that it depends on
    /// are in rotation. An error names the target that ended the run.
    fn run_stages(&self, rollouts: &mut [TargetRollout], draft: &ReleaseDraft) -> Result<(), StageFailure> {
        let (journal, docker, report) = (self.journal(), self.docker(), self.report);
        let tag_images = move || journal.tag_images(docker, draft, report);
        let is_first = |n: &usize| !self.prepared.dependents.contains(rollouts[*n].reader.target);
        let first: Vec<usize> = (0..rollouts.len()).filter(is_first).collect();
        thread::scope(|scope| {
            // A running container holds its image, so the tags are only needed before the first one stops.
            let tagging = scope.spawn(tag_images);
            if self.context.args.one_by_one {
                tagging.join().expect("no panic in bookkeeping");
                return (0..rollouts.len()).try_for_each(|n| run_all_stages(rollouts, n));
            }
            let mut tagging = Some(tagging);
            for level in &self.levels(rollouts, &first) {
                run_stage_of(rollouts, level, Stage::BringUp)?;
                tagging.take().into_iter().for_each(|thread| thread.join().expect("no panic in bookkeeping"));
                run_stage_of(rollouts, level, Stage::Switch)?;
            }
            Ok(())
        })?;
        self.run_jobs("after", self.prepared.jobs.after.iter()).map_err(|failure| {
            let at = rollouts.iter().position(|p| p.has_container(&failure.failed));
            StageFailure { at: at.unwrap_or(0), failure }
        })?;
        if !self.context.args.one_by_one {
            run_stage_of(rollouts, &first, Stage::Monitor)?;
            run_stage_of(rollouts, &first, Stage::Retire)?;
            // Dependents must not find an old instance.
            let later = (0..rollouts.len()).filter(|n| !first.contains(n)).collect::<Vec<_>>();
            for n in later {
                run_all_stages(rollouts, n)?;
            }
        }
        self.restart_dependents();
        for (n, rollout) in rollouts.iter_mut().enumerate() {
            rollout.check_witness().map_err(|failure| StageFailure::new(n, failure))?;
        }
        if let Some(error) = self.witness.outage_at_end() {
            return Err(StageFailure::new(0, RolloutFailure::new(error)));
        }
        let every: Vec<usize> = (0..rollouts.len()).collect();
        run_stage_of(rollouts, &every, Stage::Clean)
    }

    /// Levels of these rollouts, by their dependencies.
    fn levels(&self, rollouts: &[TargetRollout], which: &[usize]) -> Vec<Vec<usize>> {
        let targets: Vec<&Target> = which.iter().map(|n| rollouts[*n].reader.target).collect();
        let levels = targets::levels(self.project(), &targets).into_iter();
        levels.map(|level| level.into_iter().map(|n| which[n]).collect()).collect()
    }

    /// Reports the dependents.
    fn report_dependents(&self) {
        let (rolled, restarted) =
            (self.prepared.dependents.names(), self.prepared.dependents.restarted.clone());
        if !rolled.is_empty() || !restarted.is_empty() {
            self.report.event(Event::Dependents { rolled, restarted });
        }
    }

    /// Restarts the dependents. A failure is only a warning, because the new release serves.
    fn restart_dependents(&self) {
        let services = &self.prepared.dependents.restarted;
        if services.is_empty() {
            return;
        }
        self.report.event(Event::Restarting(services.clone().into()));
        if let Err(error) = self.docker().restart_services(services) {
            self.report
                .warn(&Warning::NotRestarted { services: services.clone(), reason: format!("{error:#}") });
        }
    }

    /// Runs jobs one after the other, until a new instance fails. A rollback runs none.
    fn run_jobs<'s>(
        &self,
        when: &'static str,
        jobs: impl Iterator<Item = &'s String>,
    ) -> Result<(), Box<RolloutFailure>> {
        for service in jobs.filter(|_| self.kind == RolloutKind::Deploy) {
            if when == "before" && self.completed.contains(service) {
                self.report.event(Event::JobDone(service.clone().into()));
                continue;
            }
            self.wait_for_killed_job(service).map_err(Error::from_error)?;
            self.report.event(Event::JobRunning(service.clone().into()));
            let succeeded = self.run_job(service)?;
            if let Some(signal) = self.context.stop.signal() {
                return Err(Error::interrupted(signal).into());
            }
            if !succeeded {
                let end = if when == "before" { "; nothing was changed" } else { "" };
                let named =
                    self.project().services.values().any(|s| s.settings.before.as_ref() == Some(service));
                let key = match when {
                    "before" if !named => "service_completed_successfully".to_string(),
                    _ => format!("x-zd.{when}"),
                };
                let error = Error::unchanged(format!("`{service}` (`{key}`) failed{end}"))
                    .hint("its output stands above");
                return Err(error.into());
            }
            self.report.event(Event::JobDone(service.clone().into()));
        }
        Ok(())
    }

    /// Waits for the job of a killed run, because the same migration must not run twice at a time.
    fn wait_for_killed_job(&self, service: &str) -> Result<()> {
        if self.journal().in_progress.is_none() {
            return Ok(());
        }
        let its = |c: &Container| {
            let has = |key: &str, value: &str| c.label(&format!("com.docker.compose.{key}")) == Some(value);
            c.is_running()
                && has("oneoff", "True")
                && has("service", service)
                && has("project", &self.project().name)
        };
        let mut is_reported = false;
        wait::until(LAST_JOB_POLL, Duration::MAX, self.context.stop, || -> Result<Option<()>> {
            let runs = self.docker().containers()?.iter().any(its);
            if runs && !std::mem::replace(&mut is_reported, true) {
                let holder = format!("`{service}`, started by a run that was killed");
                self.report.event(Event::WaitingForLock(holder.into()));
            }
            Ok((!runs).then_some(()))
        })
        .map(drop)
    }

    /// Runs a job; true if it succeeded. A job is never cut short, because it may be changing a database. If a new
    /// instance fails meanwhile, the undo begins, and the job is awaited at the end.
    fn run_job(&self, service: &str) -> Result<bool, Box<RolloutFailure>> {
        let (docker, name, wakeup) = (self.docker().clone(), service.to_string(), self.context.stop.wakeup());
        let (send, job_result) = channel();
        let thread = thread::spawn(move || {
            // The receiver is gone if the undo has begun.
            let _ = send.send(docker.run_service(&name));
            wakeup.wake();
        });
        let waited = wait::until(JOB_POLL, Duration::MAX, &self.context.stop.without_signals(), || {
            match job_result.try_recv() {
                Ok(result) => Ok(Some(result)),
                Err(_) => match self.monitor.take_failure() {
                    Some(alarm) => {
                        self.report.event(Event::Failed(alarm.names.clone().into()));
                        Err(Box::new(RolloutFailure::from(alarm)))
                    }
                    None => Ok(None),
                },
            }
        });
        match waited {
            Ok(WaitResult::Done(succeeded)) => {
                thread.join().expect("no panic in a job");
                Ok(succeeded.map_err(Error::from_error)?)
            }
            Ok(_) => unreachable!("nothing else ends it"),
            Err(failure) => {
                self.running_jobs.lock().expect("no panic under the lock").push(thread);
                Err(failure)
            }
        }
    }

    /// Waits for the jobs that still run.
    fn wait_for_jobs(&self) {
        let running = std::mem::take(&mut *self.running_jobs.lock().expect("no panic under the lock"));
        running.into_iter().for_each(|thread| thread.join().expect("no panic in a job"));
    }

    /// Starts stopped dependencies. A running one is left alone, even if it is outdated.
    fn start_dependencies(&self, down: &[&str]) -> Result<()> {
        if down.is_empty() {
            return Ok(());
        }
        self.report.event(Event::StartingDependencies(
            down.iter().map(|s| s.to_string()).collect::<Vec<_>>().into(),
        ));
        self.docker().start_services(down)
    }

    /// Release that this run makes.
    fn release_draft(&self, rollouts: &[TargetRollout]) -> Result<ReleaseDraft> {
        let mut releases = BTreeMap::new();
        for (service, replicas) in rollouts.iter().flat_map(TargetRollout::replicas) {
            let recorded = self.restored.get(service).cloned();
            let release = recorded.unwrap_or_else(|| self.new_service_release(service, replicas));
            releases.insert(service.to_string(), release);
        }
        let services: Vec<&str> = releases.keys().map(String::as_str).collect();
        Ok(ReleaseDraft {
            number: self.number,
            kind: self.kind,
            text: self.journal().merged_config(&self.request.config.snapshot.text(), &services)?,
            services: releases,
            replaced: self.prepared.desired.forced.iter().cloned().collect(),
            folder: self.request.config.folder.clone(),
            keep: self.project().keep,
            prune: self.context.args.swarm.prune,
        })
    }

    fn new_service_release(&self, service: &str, replicas: usize) -> ServiceRelease {
        let image = self.prepared.desired.images.get(service).cloned().unwrap_or_default();
        let hash = self
            .prepared
            .desired
            .hashes
            .get(service)
            .and_then(|all| all.first())
            .cloned()
            .unwrap_or_default();
        let new = ServiceRelease {
            image: self.project().services[service].image.clone(),
            image_id: image.id,
            digests: image.repo_digests,
            config_hash: hash,
            replicas: replicas as u32,
            since: self.number,
            by_flag: self.has_image_flag(service),
        };
        // An image of an earlier release keeps its tag.
        let before = self.journal().history.current().and_then(|r| r.services.get(service));
        let since = before.filter(|b| b.image_id == new.image_id).map_or(new.since, |b| b.since);
        ServiceRelease { since, ..new }
    }
}

/// Replaces the hashes by those of the instances: Compose may print another hash than it labels a container with.
fn as_created(mut draft: ReleaseDraft, rollouts: &[TargetRollout]) -> ReleaseDraft {
    for (service, release) in &mut draft.services {
        let hash = rollouts.iter().find_map(|rollout| rollout.hash_of(service));
        hash.into_iter().for_each(|hash| release.config_hash = hash);
    }
    draft
}

/// Runs one stage of these rollouts.
fn run_stage_of(rollouts: &mut [TargetRollout], which: &[usize], stage: Stage) -> Result<(), StageFailure> {
    which.iter().try_for_each(|n| run_stage(rollouts, *n, stage))
}

/// Runs all stages of a rollout except the last.
fn run_all_stages(rollouts: &mut [TargetRollout], n: usize) -> Result<(), StageFailure> {
    [Stage::BringUp, Stage::Switch, Stage::Monitor, Stage::Retire]
        .iter()
        .try_for_each(|s| run_stage(rollouts, n, *s))
}

/// Runs one stage of a rollout. Meanwhile an instance of another rollout may fail, which continues without that
/// instance if the policy tolerates it.
fn run_stage(rollouts: &mut [TargetRollout], n: usize, stage: Stage) -> Result<(), StageFailure> {
    loop {
        let Err(failure) = rollouts[n].run(stage) else { return Ok(()) };
        let Some(at) = rollouts.iter().position(|p| p.has_container(&failure.failed)).filter(|at| *at != n)
        else {
            return Err(StageFailure::new(n, failure));
        };
        if !rollouts[at].tolerates(&failure) {
            return Err(StageFailure::new(at, failure));
        }
        rollouts[at].continue_without(failure).map_err(|failure| StageFailure::new(at, failure))?;
        if let Some(reached) = rollouts[at].reached() {
            run_stage(rollouts, at, reached)?;
        }
    }
}
