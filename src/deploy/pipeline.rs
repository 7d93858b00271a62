//! One run of a command: looks at every target, plans, does it, and writes down what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;

use super::dependents::Dependents;
use super::desired;
use super::jobs::Jobs;
use super::journal::{Journal, ReleaseDraft, RunResult};
use super::observe::{self, DesiredVersion, TargetReader};
use super::request::Request;
use super::target_rollout::{RolloutTerms, TargetRollout};
use super::targets::Target;
use crate::cli::RolloutArgs;
use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::error::{Error, Exit};
use crate::health::monitor::Monitor;
use crate::model::Project;
use crate::plan::Stage;
use crate::preflight;
use crate::proxy::Proxy;
use crate::release::{RolloutKind, ServiceRelease, WitnessTotals};
use crate::report::plan::PlannedCommand;
use crate::report::{Event, Report, Warning};
use crate::rollout::restart::RestartPolicies;
use crate::rollout::{RolloutContext, RolloutFailure};
use crate::wait::{self, StopSignal, WaitResult};
use crate::witness::Witness;

/// How often it is looked whether a one-shot has ended or a new instance has failed, which both ring.
const SHOT: Duration = Duration::from_millis(200);

/// How often it is looked whether a one-shot that a killed run has started goes on.
const LAST_RUN: Duration = Duration::from_millis(500);

/// One run of a command, once it is known what it puts in place.
pub struct Pipeline<'a> {
    pub request: &'a Request,
    pub wanted: &'a DesiredVersion,
    /// All of the engine's.
    pub proxies: &'a [Arc<dyn Proxy>],
    pub journal: &'a Journal,
    pub kind: RolloutKind,
    pub number: u32,
    /// How many instances, where the file or what runs does not say.
    pub sizes: BTreeMap<String, usize>,
    /// Services whose image came from a flag.
    pub images: BTreeSet<String>,
    /// As a release has them that is put back; a new one is written anew.
    pub placed: BTreeMap<String, ServiceRelease>,
    pub jobs: Jobs,
    /// One-shots and init containers that a killed run, with whose release this one goes on, has run to their end.
    pub completed: BTreeSet<String>,
    /// Services that restart with what is replaced.
    pub dependents: Dependents,
    pub rollout: &'a RolloutArgs,
    pub report: Report,
    pub stop: &'a StopSignal,
    pub witness: Witness,
    pub watch: Monitor,
    /// One-shots that go on while it goes back.
    pub running: Mutex<Vec<JoinHandle<()>>>,
    pub policies: RestartPolicies,
}

impl<'a> Pipeline<'a> {
    pub fn docker(&self) -> &'a Docker {
        &self.request.docker
    }

    pub fn project(&self) -> &'a Project {
        &self.request.project
    }

    /// All targets: observe → plan → execute → report. `containers` are all of the engine's, read just now.
    pub fn execute(&self, targets: &[Target], containers: Vec<Container>) -> Result<()> {
        self.prefetch_others(&containers, targets);
        let viewers = targets.iter().map(|t| self.reader(t, &containers)).collect::<Result<Vec<_>>>()?;
        let mut parts = Vec::new();
        for reader in &viewers {
            parts.push(self.part(reader, &containers)?);
        }
        let (mut parts, idle): (Vec<TargetRollout>, Vec<TargetRollout>) =
            parts.into_iter().partition(|part| !part.plan.steps.is_empty());
        idle.iter().for_each(|part| self.report.up_to_date(part.name()));
        if parts.is_empty() {
            idle.iter().for_each(|part| self.unchanged(part));
            return self.record_unchanged(&idle);
        }
        let notes = parts.iter().map(|part| self.judge(part, &containers)).collect::<Result<Vec<_>>>()?;
        let down = self.down(targets, &containers);
        if self.rollout.one_by_one && parts.len() > 1 {
            let targets = parts.iter().map(|p| p.name().to_string()).collect();
            let seconds = parts.iter().filter_map(|p| p.plan.window()).sum();
            self.report.event(Event::OneByOne { targets, seconds });
        }
        parts.iter().zip(&notes).for_each(|(part, notes)| self.announce(part, notes));
        self.query_serving(&parts)?;
        self.report_dependents();
        self.left_alone(&containers, targets)?;
        for part in &parts {
            preflight::collateral(self.docker(), &part.plan, &down)?;
        }
        self.start_witness(&parts, &containers)?;
        for part in &parts {
            self.prepare(part, &parts, &containers)?;
        }
        if self.rollout.dry_run {
            self.report_jobs(&parts, &down);
            return parts.iter().try_for_each(|part| self.report_plan(part));
        }
        let seen = self.execute_and_record(&mut parts, &down)?;
        idle.iter().for_each(|part| self.unchanged(part));
        Ok(self.lost_nothing(seen.as_ref())?)
    }

    /// What would run, and start, beside the plan.
    fn report_jobs(&self, parts: &[TargetRollout], down: &[&str]) {
        let quoted = |names: &[String]| names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        let tell = |what: String| self.report.event(Event::WouldPrepare { what });
        if !down.is_empty() {
            let down: Vec<String> = down.iter().map(ToString::to_string).collect();
            tell(format!("start what it depends on: {}", quoted(&down)));
        }
        let changed: Vec<Target> = parts.iter().map(|part| part.reader.target.clone()).collect();
        let jobs = Jobs::of(self.project(), &changed);
        let before: Vec<String> =
            jobs.before.iter().filter(|_| self.kind == RolloutKind::Deploy).cloned().collect();
        let after: Vec<String> =
            jobs.after.iter().filter(|_| self.kind == RolloutKind::Deploy).cloned().collect();
        if !before.is_empty() {
            tell(format!("run {} to its end, before the first new instance is made", quoted(&before)));
        }
        if !after.is_empty() {
            tell(format!("run {} to its end, once the new release serves", quoted(&after)));
        }
    }

    /// What would be done, with the file that Compose would read in the place of the one that a dry run leaves nothing of.
    fn report_plan(&self, part: &TargetRollout) -> Result<()> {
        let mut steps = part.preview()?;
        let kept = self.journal.config_path(self.number).display().to_string();
        let words = steps.iter_mut().flat_map(|s| &mut s.does).filter_map(|d| match d {
            PlannedCommand::Command(words) => Some(words),
            PlannedCommand::Note(_) => None,
        });
        for words in words {
            if let Some(at) = words.windows(2).position(|pair| pair == ["--file", "-"]) {
                words[at + 1].clone_from(&kept);
            }
        }
        self.report.plan(part.name(), steps);
        Ok(())
    }

    fn reader<'b>(&'b self, target: &'b Target, containers: &[Container]) -> Result<TargetReader<'b>> {
        Ok(TargetReader {
            docker: self.docker(),
            project: self.project(),
            wanted: self.wanted,
            target,
            proxies: observe::fronting(self.docker(), self.project(), target, containers, self.proxies)?,
        })
    }

    fn part<'b>(
        &'b self,
        reader: &'b TargetReader<'b>,
        containers: &[Container],
    ) -> Result<TargetRollout<'b>> {
        let probes = reader.probes()?;
        // Before a proxy is asked anything: what keeps it from answering is said here, with its fix.
        let warnings = self.warnings(reader, &probes, containers)?;
        let snapshot = reader.look_at(containers.to_vec())?;
        let strategy = self.strategy(reader, &snapshot)?;
        let service = &self.project().services[reader.target.services()[0]];
        let back = desired::pace(service, &service.rollback, !reader.proxies.is_empty());
        let orphans = preflight::orphans(reader, containers).into_iter().map(|(orphan, _)| orphan).collect();
        let terms = RolloutTerms { update: *self.policy(service), back, warnings, orphans };
        Ok(TargetRollout::plan(reader, snapshot, strategy, terms, self.context(reader), self.stop)?)
    }

    /// Nothing has to change; but a rollout that was killed just before its end may have left marks in a proxy. They go
    /// last: a proxy whose own discovery takes over again also sees instances of the others that are not ready yet.
    fn unchanged(&self, part: &TargetRollout) {
        if self.rollout.dry_run {
            return;
        }
        part.keep_down();
        if let Err(error) = part.hand_back() {
            self.report.warn(&Warning::LeftBehind(format!("{error:#}")));
        }
    }

    /// Everything is as it is wanted: what runs is a release all the same, so that there is one to go back to.
    fn record_unchanged(&self, idle: &[TargetRollout]) -> Result<()> {
        if self.rollout.dry_run {
            return Ok(());
        }
        let entry = as_created(self.entry(idle)?, idle);
        let known = |(service, placed): (&String, &ServiceRelease)| {
            let current = self.journal.history.current().and_then(|r| r.services.get(service));
            current.is_some_and(|c| c.same_content(placed))
        };
        if entry.placed.iter().all(known) && !self.journal.follows_unfinished() {
            self.journal.tag_images(self.docker(), &entry, self.report);
            self.journal.discard(&entry);
            return Ok(());
        }
        self.journal.begin(&entry, self.report)?;
        self.journal.tag_images(self.docker(), &entry, self.report);
        let course = RunResult::of(None, false, self.report.elapsed(), 0);
        self.journal.end(self.docker(), &entry, course, self.project().keep, self.report);
        self.report.event(Event::Release { release: entry.number, back_to: self.back_to() });
        Ok(())
    }

    fn context<'v>(&'v self, reader: &'v TargetReader) -> RolloutContext<'v> {
        RolloutContext {
            docker: self.docker(),
            project: self.project(),
            proxies: &reader.proxies,
            report: self.report,
            target: reader.target.name(),
            witness: &self.witness,
            watch: &self.watch,
            goes_forward: self.kind == RolloutKind::Deploy,
            completed: &self.completed,
            policies: &self.policies,
        }
    }

    /// Does it, and writes down what became of it. Gives what the witness saw.
    fn execute_and_record(
        &self,
        parts: &mut [TargetRollout],
        down: &[&str],
    ) -> Result<Option<WitnessTotals>> {
        let entry = self.entry(parts)?;
        self.journal.begin_with(&entry, &self.policies, self.report)?;
        // Not those of what has not changed.
        let changed: Vec<Target> = parts.iter().map(|part| part.reader.target.clone()).collect();
        let jobs = Jobs::of(self.project(), &changed);
        self.watch.start(self.docker(), &self.project().name, self.stop.bell());
        if let Err(error) = self.start_needed(down).and_then(|()| {
            let run = self.run_jobs("before", jobs.before.iter());
            run.map_err(|stopped| stopped.why.into_error().into())
        }) {
            self.journal.discard(&entry);
            return Err(error);
        }
        let ended = self.stages(parts, &entry);
        let done = match ended {
            Ok(()) => self
                .answers_at_the_end(parts)
                .and_then(|()| self.leaves_nothing_running(parts))
                .map_err(|error| (error, false)),
            Err((at, stopped)) => Err(self.failed(parts, at, *stopped)),
        };
        self.wait_for_jobs();
        let took = self.watch.elapsed();
        let witness = self.dismiss_witness();
        let cut = parts.iter().map(TargetRollout::cut).sum();
        let error = done.as_ref().err().map(|(error, _)| error);
        if error.is_some_and(|error| error.exit == Exit::LostLock) {
            // What became of it is the other run's to write down.
            return done.map(|()| witness).map_err(|(error, _)| error.into());
        }
        let paused = done.as_ref().is_err_and(|(_, paused)| *paused);
        let course = RunResult::of(error, paused, took, cut);
        // What is left of the old release is the next run's to clean up.
        let unfinished = course.unfinished || parts.iter().any(|p| !p.left().is_empty());
        self.journal.end(
            self.docker(),
            &as_created(entry, parts),
            RunResult { witness: witness.clone(), unfinished, ..course },
            self.project().keep,
            self.report,
        );
        match done {
            Ok(()) => {
                self.report.spent();
                parts.iter().for_each(|part| self.report_deployed(part, took));
            }
            Err((error, true)) => return Err(error.into()),
            Err((error, false)) => return Err(self.last_good(parts, error).into()),
        }
        Ok(witness)
    }

    fn report_deployed(&self, part: &TargetRollout, took: Duration) {
        self.report.deployed(Event::Deployed {
            target: part.name().into(),
            serving: part.in_rotation(),
            release: self.number,
            back_to: self.back_to(),
            in_service: part.in_service().unwrap_or(took),
            seconds: took,
        });
    }

    /// The release that is put back.
    fn back_to(&self) -> Option<u32> {
        match self.kind {
            RolloutKind::Rollback { to } => Some(to),
            _ => None,
        }
    }

    /// All bring up before the first switches, and all are watched before what served before is stopped; or one after the
    /// other. It goes only once all have switched. Tells which one ended it.
    fn stages(
        &self,
        parts: &mut [TargetRollout],
        entry: &ReleaseDraft,
    ) -> Result<(), (usize, Box<RolloutFailure>)> {
        let (journal, docker, report) = (self.journal, self.docker(), self.report);
        let hold = move || journal.tag_images(docker, entry, report);
        let is_first = |n: &usize| !self.dependents.has(parts[*n].reader.target);
        let first: Vec<usize> = (0..parts.len()).filter(is_first).collect();
        thread::scope(|scope| {
            // What runs holds its image itself: there is time until the first of it is stopped.
            let holding = scope.spawn(hold);
            if self.rollout.one_by_one {
                holding.join().expect("no panic in bookkeeping");
                return (0..parts.len()).try_for_each(|n| whole(parts, n));
            }
            all(parts, &first, Stage::BringUp)?;
            holding.join().expect("no panic in bookkeeping");
            self.journal.prefetch_end(self.docker(), entry);
            all(parts, &first, Stage::Switch)
        })?;
        self.run_jobs("after", self.jobs.after.iter()).map_err(|stopped| {
            let at = parts.iter().position(|p| p.has_any(&stopped.failed));
            (at.unwrap_or(0), stopped)
        })?;
        if !self.rollout.one_by_one {
            all(parts, &first, Stage::Monitor)?;
            all(parts, &first, Stage::Retire)?;
            // They are to find nothing of what was replaced.
            let later = (0..parts.len()).filter(|n| !first.contains(n)).collect::<Vec<_>>();
            for n in later {
                whole(parts, n)?;
            }
        }
        self.restart_dependents();
        for (n, part) in parts.iter_mut().enumerate() {
            part.hear_witness().map_err(|stopped| (n, Box::new(stopped)))?;
        }
        if let Some(error) = self.witness.outage_at_end() {
            return Err((0, Box::new(RolloutFailure::by(error))));
        }
        let every: Vec<usize> = (0..parts.len()).collect();
        all(parts, &every, Stage::Clean)
    }

    /// Says which services restart with what is replaced.
    fn report_dependents(&self) {
        let (rolled, restarted) = (self.dependents.names(), self.dependents.restarted.clone());
        if !rolled.is_empty() || !restarted.is_empty() {
            self.report.event(Event::Dependents { rolled, restarted });
        }
    }

    /// What was replaced serves all the same where one of them does not come back.
    fn restart_dependents(&self) {
        let services = &self.dependents.restarted;
        if services.is_empty() {
            return;
        }
        self.report.event(Event::Restarting { services: services.clone() });
        if let Err(error) = self.docker().restart_services(services) {
            self.report
                .warn(&Warning::NotRestarted { services: services.clone(), why: format!("{error:#}") });
        }
    }

    /// One-shots, one after the other, for as long as no new instance fails. A release that is put back runs none: they are
    /// made for going forward.
    fn run_jobs<'s>(
        &self,
        when: &'static str,
        jobs: impl Iterator<Item = &'s String>,
    ) -> Result<(), Box<RolloutFailure>> {
        for service in jobs.filter(|_| self.kind == RolloutKind::Deploy) {
            if when == "before" && self.completed.contains(service) {
                self.report.event(Event::Ran { service: service.clone() });
                continue;
            }
            self.wait_for_its_last_run(service)
                .map_err(|error| Box::new(RolloutFailure::by(Error::from_error(error))))?;
            self.report.event(Event::Running { service: service.clone() });
            let worked = self.run_job(service)?;
            if let Some(signal) = self.stop.signal() {
                return Err(Box::new(RolloutFailure::by(Error::interrupted(signal))));
            }
            if !worked {
                let end = if when == "before" { "; nothing was changed" } else { "" };
                let named =
                    self.project().services.values().any(|s| s.settings.before.as_ref() == Some(service));
                let key = match when {
                    "before" if !named => "service_completed_successfully".to_string(),
                    _ => format!("x-zd.{when}"),
                };
                let error = Error::unchanged(format!("`{service}` (`{key}`) failed{end}"))
                    .hint("what it said stands above");
                return Err(Box::new(RolloutFailure::by(error)));
            }
            self.report.event(Event::Ran { service: service.clone() });
        }
        Ok(())
    }

    /// A killed run leaves its one-shot running, and two migrations at a time are one too many.
    fn wait_for_its_last_run(&self, service: &str) -> Result<()> {
        if self.journal.heading.is_none() {
            return Ok(());
        }
        let its = |c: &Container| {
            let has = |key: &str, value: &str| c.label(&format!("com.docker.compose.{key}")) == Some(value);
            c.is_running()
                && has("oneoff", "True")
                && has("service", service)
                && has("project", &self.project().name)
        };
        let mut told = false;
        wait::until(LAST_RUN, Duration::MAX, self.stop, || -> Result<Option<()>> {
            let runs = self.docker().containers()?.iter().any(its);
            if runs && !std::mem::replace(&mut told, true) {
                let holder = format!("`{service}`, which a killed run has started");
                self.report.event(Event::Waiting { holder });
            }
            Ok((!runs).then_some(()))
        })
        .map(drop)
    }

    /// Whether it worked. What it does to a database is not cut short: where it goes on while the rollout goes back, it is
    /// waited for at the end.
    fn run_job(&self, service: &str) -> Result<bool, Box<RolloutFailure>> {
        let (docker, name, bell) = (self.docker().clone(), service.to_string(), self.stop.bell());
        let (send, ended) = channel();
        let thread = thread::spawn(move || {
            // The receiver may be gone: the run goes back without waiting for the one-shot.
            let _ = send.send(docker.run_service(&name));
            bell.ring();
        });
        let waited = wait::until(SHOT, Duration::MAX, &self.stop.unheeded(), || match ended.try_recv() {
            Ok(done) => Ok(Some(done)),
            Err(_) => match self.watch.take_failure() {
                Some(alarm) => {
                    self.report.event(Event::Failed { names: alarm.names.clone() });
                    Err(Box::new(RolloutFailure::from(alarm)))
                }
                None => Ok(None),
            },
        });
        match waited {
            Ok(WaitResult::Done(worked)) => {
                thread.join().expect("no panic in a one-shot");
                worked.map_err(|error| Box::new(RolloutFailure::by(Error::from_error(error))))
            }
            Ok(_) => unreachable!("nothing else ends it"),
            Err(stopped) => {
                self.running.lock().expect("nobody panicked").push(thread);
                Err(stopped)
            }
        }
    }

    /// Waits for the one-shots that went on meanwhile.
    fn wait_for_jobs(&self) {
        let running = std::mem::take(&mut *self.running.lock().expect("nobody panicked"));
        running.into_iter().for_each(|thread| thread.join().expect("no panic in a one-shot"));
    }

    /// Starts what it depends on and is down; what runs is left alone, whatever has changed in it.
    fn start_needed(&self, down: &[&str]) -> Result<()> {
        if down.is_empty() {
            return Ok(());
        }
        self.report.event(Event::StartingNeeded { services: down.iter().map(|s| s.to_string()).collect() });
        self.docker().start_services(down)
    }

    /// What this run will have put in place.
    fn entry(&self, parts: &[TargetRollout]) -> Result<ReleaseDraft> {
        let mut placed = BTreeMap::new();
        for (service, replicas) in parts.iter().flat_map(TargetRollout::goals) {
            let as_it_was = self.placed.get(service).cloned();
            let one = as_it_was.unwrap_or_else(|| self.new_placed(service, replicas));
            placed.insert(service.to_string(), one);
        }
        let services: Vec<&str> = placed.keys().map(String::as_str).collect();
        Ok(ReleaseDraft {
            number: self.number,
            kind: self.kind,
            text: self.journal.merged_config(&self.request.snapshot.text(), &services)?,
            placed,
            replaced: self.wanted.replaced.iter().cloned().collect(),
            folder: self.request.folder.clone(),
        })
    }

    fn new_placed(&self, service: &str, replicas: usize) -> ServiceRelease {
        let image = self.wanted.images.get(service).cloned().unwrap_or_default();
        let hash = self.wanted.hashes.get(service).and_then(|all| all.first()).cloned().unwrap_or_default();
        let new = ServiceRelease {
            image: self.project().services[service].image.clone(),
            image_id: image.id,
            digests: image.repo_digests,
            config_hash: hash,
            replicas: replicas as u32,
            since: self.number,
            by_flag: self.images.contains(service),
        };
        // An image that is there since an earlier release keeps that one's tag.
        let before = self.journal.history.current().and_then(|r| r.services.get(service));
        let since = before.filter(|b| b.image_id == new.image_id).map_or(new.since, |b| b.since);
        ServiceRelease { since, ..new }
    }
}

/// With the hashes that the instances have: what Compose tells of its file need not be what it labels containers with.
fn as_created(mut entry: ReleaseDraft, parts: &[TargetRollout]) -> ReleaseDraft {
    for (service, placed) in &mut entry.placed {
        let hash = parts.iter().find_map(|part| part.hash_of(service));
        hash.into_iter().for_each(|hash| placed.config_hash = hash);
    }
    entry
}

/// Does a stage of these parts.
fn all(
    parts: &mut [TargetRollout],
    which: &[usize],
    stage: Stage,
) -> Result<(), (usize, Box<RolloutFailure>)> {
    which.iter().try_for_each(|n| run(parts, *n, stage))
}

/// Does all stages of a part but the last.
fn whole(parts: &mut [TargetRollout], n: usize) -> Result<(), (usize, Box<RolloutFailure>)> {
    [Stage::BringUp, Stage::Switch, Stage::Monitor, Stage::Retire].iter().try_for_each(|s| run(parts, n, *s))
}

/// Does a stage of one part. What fails meanwhile may be an instance of another one, which goes on without it if it may.
fn run(parts: &mut [TargetRollout], n: usize, stage: Stage) -> Result<(), (usize, Box<RolloutFailure>)> {
    loop {
        let Err(stopped) = parts[n].run(stage) else { return Ok(()) };
        let Some(at) = parts.iter().position(|p| p.has_any(&stopped.failed)).filter(|at| *at != n) else {
            return Err((n, Box::new(stopped)));
        };
        if !parts[at].may_fail(&stopped) {
            return Err((at, Box::new(stopped)));
        }
        parts[at].continue_without(stopped).map_err(|stopped| (at, Box::new(stopped)))?;
        // One that has its turn later goes on then.
        if at < n {
            run(parts, at, stage)?;
        }
    }
}
