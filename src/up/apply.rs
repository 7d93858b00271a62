//! Execution of the changes of a project: all or none, where there is a way back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::answers::Answers;
use super::first_answers;
use super::services::{self, ServiceState};
use super::survey::needed_completed;
use super::{rolled_services, warn_of_no_way_back};
use crate::configuration::Configuration;
use crate::context::Context;
use crate::deploy::{put_in_place, restore_last_good};
use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::engine::compose::import_running::{Importer, service_release};
use crate::engine::compose::proxy_files::ProxyReload;
use crate::error::{Error, Exit};
use crate::model::{Project, ResolvedProject};
use crate::mounted_files;
use crate::project_plan::{self, Stages, TargetFacts};
use crate::release::journal::{self, Journal, ReleaseDraft};
use crate::release::{FORMAT, ProjectChanges, ProjectRun, ServiceRelease};
use crate::report::changes::ServiceChange;
use crate::report::{Event, Warning};
use crate::request::Request;
use crate::targets::{self, Target, is_member};
use crate::wait::{self, StopSignal, WaitResult};

/// Interval at which started services are checked.
const POLL: Duration = Duration::from_millis(200);

/// Number of last log lines that are shown of a failed service.
const LOG_LINES: u32 = 10;

/// A change that was made, and what its undo needs.
enum Done {
    /// Services that Compose started, and the ids of their containers before.
    Started(Vec<String>, BTreeSet<String>),
    Recreated(Vec<String>),
    RolledOut,
}

/// What the release records, besides the rollout.
#[derive(Default)]
pub struct Recorded {
    /// Services that the user named.
    named: Vec<String>,
    changes: ProjectChanges,
    /// Services that Compose changes.
    by_compose: Vec<String>,
    /// Those of them that ran before, in another version.
    before: Vec<String>,
}

impl Recorded {
    pub fn new(
        facts: &[TargetFacts],
        changes: &[ServiceChange],
        stages: &Stages,
        removed: &[Container],
        named: &[String],
    ) -> Recorded {
        let mut changes = project_plan::project_changes(facts, changes, stages);
        let before = changes.recreated.iter().chain(&changes.removed).cloned().collect();
        let services = removed.iter().filter_map(|c| Some(c.compose()?.1.to_string()));
        changes.removed.extend(services.collect::<BTreeSet<String>>());
        Recorded { named: named.to_vec(), changes, by_compose: stages.by_compose(facts), before }
    }
}

/// Execution of the stages.
pub struct Apply<'c, 'a> {
    ctx: &'c mut Context<'a>,
    request: Request,
    stages: &'c Stages,
    /// Services whose running definition is certain, and a project with their definitions.
    running: (BTreeSet<String>, ResolvedProject),
    done: Vec<Done>,
    recorded: Recorded,
    /// Reloads that have not run.
    reloads: Vec<ProxyReload>,
    /// Public URLs that answered before a service was recreated.
    answers: Answers,
    /// The rollout is paused, as its policy requires: nothing is undone.
    is_paused: bool,
    /// Started service without a check that does not answer, which is no reason for an undo.
    silent: Option<Error>,
}

impl<'c, 'a> Apply<'c, 'a> {
    pub fn new(
        ctx: &'c mut Context<'a>,
        request: Request,
        stages: &'c Stages,
        running: (BTreeSet<String>, ResolvedProject),
    ) -> Self {
        let answers = Answers::default();
        let (done, reloads, recorded) = (Vec::new(), Vec::new(), Recorded::default());
        let (is_paused, silent) = (false, None);
        Apply { ctx, request, stages, running, done, recorded, reloads, answers, is_paused, silent }
    }

    /// The same, with the proxies that are reloaded.
    pub fn reloading(mut self, reloads: Vec<ProxyReload>) -> Self {
        self.reloads = reloads;
        self.reloads.retain(|reload| reload.is_of(&self.stages.reload));
        self
    }

    /// The same, with what the release records.
    pub fn recording(mut self, recorded: Recorded) -> Self {
        self.recorded = recorded;
        self
    }

    /// Makes the changes. Then removes these containers.
    ///
    /// # Errors
    /// A failure, after an undo of what was changed.
    pub fn run(mut self, orphans: Vec<Container>) -> Result<()> {
        let is_known = |service: &str| self.running.0.contains(service);
        warn_of_no_way_back(self.ctx.report, &self.stages.recreate, is_known);
        self.import()?;
        self.answers = Answers::find(self.docker(), self.project(), &self.stages.recreate)?;
        let services = self.begin()?;
        let result = self.make_changes(orphans);
        // After a lost lock, the record is that of another run.
        let is_open = |error: &Error| matches!(error.exit, Exit::LostLock | Exit::Outage) || self.is_paused;
        if !result.as_ref().is_err_and(is_open) {
            self.ctx.journal.end_project_run(&services, self.ctx.report);
        }
        Ok(result?)
    }

    /// Records that the run begins, with the changes of an earlier run that did not end. Returns the services of the run.
    fn begin(&mut self) -> Result<Vec<String>, Error> {
        let journal = &self.ctx.journal;
        let mut run = ProjectRun {
            format: FORMAT,
            services: std::mem::take(&mut self.recorded.named),
            to: self.request.record.as_ref().map(|record| record.number),
            before: journal.history.current().map(|record| record.number),
            command_line: journal::command_line(),
            changes: ProjectChanges::default(),
        };
        let earlier = journal.unrecorded_changes(run.to, &run.services);
        let is_known = |service: &&String| self.request.config.project.services.contains_key(*service);
        let by_compose = earlier.started.iter().chain(&earlier.recreated).filter(is_known);
        self.recorded.by_compose.extend(by_compose.cloned());
        self.recorded.changes.add(earlier);
        run.changes = self.recorded.changes.clone();
        journal.begin_project_run(&run)?;
        Ok(run.services)
    }

    fn make_changes(&mut self, orphans: Vec<Container>) -> Result<(), Error> {
        let rolled = match self.change() {
            Ok(rolled) => rolled,
            Err(error) => return Err(self.undo(error)),
        };
        self.clean_up(orphans);
        if let Err(error) = self.record() {
            self.ctx.report.warn(&Warning::Other(format!("the release could not be recorded: {error}")));
        }
        self.silent.take().or(rolled).map_or(Ok(()), Err)
    }

    /// Records what runs of the services that Compose changes, so that a rollback has something to restore.
    fn import(&mut self) -> Result<()> {
        if self.request.record.is_some() || self.recorded.before.is_empty() {
            return Ok(());
        }
        let Configuration { docker, project, snapshot, folder, .. } = &self.request.config;
        let targets = targets::from_names(project, &self.recorded.before)?;
        let containers = docker.project_containers(&project.name)?;
        let importer = Importer { docker, project, snapshot, folder, report: self.ctx.report };
        importer.import(&targets, &containers, &mut self.ctx.journal)
    }

    /// Records the changes besides the rollout, in the release of the rollout if there was one.
    fn record(&self) -> Result<(), Error> {
        let Recorded { changes, by_compose, .. } = &self.recorded;
        if changes.is_empty() {
            return Ok(());
        }
        let journal = self.ctx.journal.reopen()?;
        let number_of = |journal: &Journal| journal.history.current().map(|r| r.number);
        let is_rolled_out = number_of(&journal) > number_of(&self.ctx.journal);
        let rolled_out = number_of(&journal).filter(|_| is_rolled_out);
        let number = rolled_out.unwrap_or_else(|| self.request.number(self.ctx));
        let containers = self.containers(by_compose)?;
        let release = |service: &String| {
            let its: Vec<&Container> =
                containers.iter().filter(|c| is_member(self.project(), c, &[service])).collect();
            let release = service_release(self.docker(), service, &its)?;
            let before = self.ctx.journal.history.current().and_then(|r| r.services.get(service));
            let same = before.filter(|before| before.image_id == release.image_id);
            let since = same.map_or(number, |before| before.since);
            Some((service.clone(), ServiceRelease { since, ..release }))
        };
        let services: BTreeMap<String, ServiceRelease> = by_compose.iter().filter_map(release).collect();
        let names: Vec<&str> = services.keys().map(String::as_str).collect();
        let config = &self.request.config;
        let draft = ReleaseDraft {
            number,
            kind: self.request.kind,
            text: journal.merged_config(&config.snapshot.text(), &names)?,
            services,
            replaced: Vec::new(),
            folder: config.folder.clone(),
            keep: config.project.keep,
            prune: self.ctx.args.swarm.prune,
        };
        journal.record_changes(self.docker(), &draft, changes.clone(), self.ctx.report);
        Ok(())
    }

    /// Runs the stages. Returns an error that is no reason for an undo: lost requests with `--strict`.
    fn change(&mut self) -> Result<Option<Error>, Error> {
        let stages = self.stages;
        let started: Vec<String> = stages.start.iter().chain(&stages.start_after).cloned().collect();
        self.reload_all_without(&started)?;
        self.start(&stages.start)?;
        self.reload_all_without(&stages.start_after)?;
        for service in &stages.recreate {
            self.recreate(service)?;
        }
        let rolled = self.roll_out()?;
        self.start(&stages.start_after)?;
        self.reload_all_without(&[])?;
        let ctx = &self.ctx;
        self.silent = first_answers::wait(self.docker(), self.project(), &started, ctx.report, ctx.stop)?;
        self.wait_for_answers(self.ctx.stop)?;
        self.check_still_up(started.iter().chain(&stages.recreate))?;
        Ok(rolled)
    }

    /// Waits until the public URLs answer as before. A container that runs is no proof: a proxy may route to nothing.
    fn wait_for_answers(&self, stop: &StopSignal) -> Result<(), Error> {
        self.answers.wait(self.docker(), self.project(), stop)
    }

    fn docker(&self) -> &Docker {
        &self.request.config.docker
    }

    fn project(&self) -> &Project {
        &self.request.config.project
    }

    /// Containers of services, running or not.
    fn containers(&self, services: &[String]) -> Result<Vec<Container>, Error> {
        let services: Vec<&str> = services.iter().map(String::as_str).collect();
        let all = self.docker().project_containers(&self.project().name).map_err(Error::from_error)?;
        Ok(all.into_iter().filter(|c| is_member(self.project(), c, &services)).collect())
    }

    fn check_signal(&self) -> Result<(), Error> {
        self.ctx.stop.signal().map_or(Ok(()), |signal| Err(Error::interrupted(signal)))
    }

    /// Starts services by Compose and waits until they are up.
    fn start(&mut self, services: &[String]) -> Result<(), Error> {
        if services.is_empty() {
            return Ok(());
        }
        self.check_signal()?;
        let before = self.containers(services)?.into_iter().map(|c| c.id).collect();
        self.done.push(Done::Started(services.to_vec(), before));
        self.ctx.report.event(Event::StartingServices(services.to_vec().into()));
        self.docker().up_services(services).map_err(Error::from_error)?;
        self.wait_until_up(services)
    }

    /// Reloads the proxies whose changed files name none of these services, which do not run yet. A route must not lead to
    /// a service that is not there, and a rollout must find the proxy with the user's files.
    fn reload_all_without(&mut self, services: &[String]) -> Result<(), Error> {
        let waits = |reload: &ProxyReload| mounted_files::mentions(&reload.changes, services);
        let (later, now): (Vec<_>, Vec<_>) = self.reloads.drain(..).partition(waits);
        self.reloads = later;
        let run =
            |reload: &ProxyReload| reload.run(self.docker(), self.project(), self.ctx.report, self.ctx.stop);
        now.iter().try_for_each(run).map_err(Error::from_error)
    }

    /// Recreates a service by Compose, with the services that share its namespaces.
    fn recreate(&mut self, service: &String) -> Result<(), Error> {
        self.check_signal()?;
        let shares = |other: &&String| {
            let hosts = self.project().services[*other].hosts();
            hosts.iter().any(|(_, host)| host == service)
        };
        let others = self.project().services.keys().filter(shares).cloned();
        let services: Vec<String> = std::iter::once(service.clone()).chain(others).collect();
        self.done.push(Done::Recreated(services.clone()));
        self.ctx.report.event(Event::Recreating(services.clone().into()));
        self.docker().recreate_services(&services).map_err(Error::from_error)?;
        self.wait_until_up(&services)?;
        self.restart_dependents(service)
    }

    /// Restarts dependents with `restart: true`, as Compose does. Those of the rollout are replaced anyway.
    fn restart_dependents(&self, service: &String) -> Result<(), Error> {
        let project = self.project();
        let depends = |name: &&String| project.services[*name].restarts_with().any(|other| other == service);
        let is_replaced =
            |name: &&String| self.stages.roll_out.contains(name) || self.stages.recreate.contains(name);
        let dependents = project.services.keys().filter(depends).filter(|name| !is_replaced(name));
        let dependents: Vec<String> = dependents.cloned().collect();
        if dependents.is_empty() {
            return Ok(());
        }
        self.ctx.report.event(Event::Restarting(dependents.clone().into()));
        self.docker().restart_services(&dependents).map_err(Error::from_error)
    }

    /// Replaces the targets of the rollout. Returns an error that is no reason for an undo.
    fn roll_out(&mut self) -> Result<Option<Error>, Error> {
        if self.stages.roll_out.is_empty() {
            return Ok(None);
        }
        self.check_signal()?;
        self.docker().discard_prefetched();
        self.request.args.services = rolled_services(&self.request, self.stages)?;
        let lost = match put_in_place(self.ctx, &mut self.request).map_err(Error::from_error) {
            Ok(()) => None,
            Err(error) if error.exit == Exit::RequestsLost => Some(error),
            Err(error) => {
                let in_progress = self.ctx.journal.reopen().ok().and_then(|journal| journal.in_progress);
                self.is_paused = in_progress.is_some_and(|rollout| rollout.paused);
                return Err(error);
            }
        };
        self.done.push(Done::RolledOut);
        Ok(lost)
    }

    /// Waits until services are up.
    ///
    /// # Errors
    /// A service failed, or is not up within its deadline.
    fn wait_until_up(&self, services: &[String]) -> Result<(), Error> {
        self.wait_with(self.ctx.stop, services)
    }

    fn wait_with(&self, stop: &StopSignal, services: &[String]) -> Result<(), Error> {
        let start = Instant::now();
        for service in services {
            let settings = &self.project().services[service];
            let is_job = needed_completed(self.project(), service);
            let window = settings.update.monitor;
            let deadline = if is_job { Duration::MAX } else { settings.settings.timing.deadline + window };
            let mut last = "no container".to_string();
            let named = std::slice::from_ref(service);
            let waited = wait::until(POLL, deadline, stop, || {
                let containers = self.containers(named)?;
                let state = |c: &Container| services::state(c, is_job, start.elapsed(), window);
                let states: Vec<ServiceState> = containers.iter().map(state).collect();
                for (container, state) in containers.iter().zip(&states) {
                    match state {
                        ServiceState::Failed(reason) => return Err(self.failure(service, container, reason)),
                        ServiceState::Waiting(reason) => last.clone_from(reason),
                        ServiceState::Up => {}
                    }
                }
                let is_up = !states.is_empty() && states.iter().all(|state| *state == ServiceState::Up);
                Ok(is_up.then_some(()))
            })?;
            match waited {
                WaitResult::Done(()) => {}
                WaitResult::Interrupted(signal) => return Err(Error::interrupted(signal)),
                WaitResult::TimedOut => {
                    let limit = humantime::format_duration(deadline);
                    return Err(Error::unchanged(format!("`{service}` is not up after {limit}: {last}")));
                }
            }
        }
        self.ctx.report.event(Event::ServicesUp(services.to_vec().into()));
        Ok(())
    }

    /// Fails if a container has crashed after it was up. The waits for answers ask only containers that run.
    fn check_still_up<'s>(&self, services: impl Iterator<Item = &'s String>) -> Result<(), Error> {
        for service in services {
            let is_job = needed_completed(self.project(), service);
            for container in self.containers(std::slice::from_ref(service))? {
                let state = services::state(&container, is_job, Duration::MAX, Duration::ZERO);
                if let ServiceState::Failed(reason) = state {
                    return Err(self.failure(service, &container, &reason));
                }
            }
        }
        Ok(())
    }

    fn failure(&self, service: &str, container: &Container, reason: &str) -> Error {
        let log = self.docker().logs(&container.id, LOG_LINES).unwrap_or_default();
        let lines: String = log.iter().map(|line| format!("  {line}\n")).collect();
        let error = Error::unchanged(format!("`{service}`: {} {reason}", container.name()));
        let title = format!("last lines of {}:", container.name());
        if log.is_empty() { error } else { error.detail(&title).detail(&lines) }
    }

    /// Creates the containers of the jobs that the rollout ran, and removes services and orphans.
    fn clean_up(&self, orphans: Vec<Container>) {
        let warn = |what: String| self.ctx.report.warn(&Warning::Other(what));
        if !self.stages.jobs.is_empty()
            && let Err(error) = self.docker().create_services(&self.stages.jobs)
        {
            warn(format!(
                "the containers of {} could not be created: {error:#}",
                self.stages.jobs.join(", ")
            ));
        }
        let removed = self.containers(&self.stages.remove).unwrap_or_default();
        let all: Vec<Container> = removed.into_iter().chain(orphans).collect();
        if let Err(error) = self.remove(&all) {
            let names: Vec<&str> = all.iter().map(Container::name).collect();
            warn(format!("{} could not be removed: {error:#}", names.join(", ")));
        }
    }

    fn remove(&self, containers: &[Container]) -> Result<()> {
        if containers.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = containers.iter().map(|c| c.id.clone()).collect();
        let names: Vec<String> = containers.iter().map(|c| c.name().to_string()).collect();
        self.docker().stop(&ids)?;
        self.docker().remove(&ids)?;
        self.ctx.report.event(Event::Removed(names.into()));
        Ok(())
    }

    /// Undoes what was changed, and adds the result to the error.
    fn undo(&mut self, error: Error) -> Error {
        if error.exit == Exit::LostLock || self.done.is_empty() || self.is_paused {
            return error;
        }
        self.ctx.report.event(Event::RollingBack);
        let done = std::mem::take(&mut self.done);
        let (mut failures, mut staying) = (Vec::new(), Vec::new());
        for done in done.iter().rev() {
            match self.undo_one(done) {
                Ok(services) => staying.extend(services),
                Err(failure) => failures.push(failure),
            }
        }
        let project = &self.project().name;
        let mut look = format!("`docker compose --project-name {project} ps --all` shows what runs");
        if let Err(silent) = self.wait_for_answers(&StopSignal::default()) {
            let answers = silent.details.iter().map(|answer| format!("after the undo: {answer}"));
            failures.extend(answers.map(Error::unchanged));
            look = silent.hint.unwrap_or(look);
        }
        let exit = match error.exit {
            Exit::Outage => Exit::Outage,
            _ if !failures.is_empty() => Exit::Outage,
            Exit::Interrupted(signal) => Exit::Interrupted(signal),
            _ => Exit::StillServing,
        };
        let end = if failures.is_empty() { self.undone(&done, &staying) } else { String::new() };
        let undone = Error { exit, message: format!("{}{end}", error.message), ..error };
        if failures.is_empty() {
            return undone;
        }
        let hint = format!("act now: {look}; fix the cause, then `compose-zd up`");
        failures.iter().fold(undone, |error, failure| error.detail(&failure.to_string())).hint(hint)
    }

    /// End of the message after a complete undo. An old container that was removed does not come back, so its service has a
    /// new one: with other addresses, and without what was written outside of volumes.
    fn undone(&self, done: &[Done], staying: &[String]) -> String {
        let quoted = |names: &[String]| names.iter().map(|s| format!("`{s}`")).collect::<Vec<_>>().join(", ");
        let mut renewed: Vec<String> = Vec::new();
        for done in done {
            match done {
                Done::Recreated(services) => renewed.extend(services.clone()),
                Done::RolledOut => renewed.extend(self.replaced_by_rollout()),
                Done::Started(..) => {}
            }
        }
        renewed.retain(|service| !staying.contains(service));
        let mut text = "; what was changed before is undone".to_string();
        if !renewed.is_empty() {
            text += &format!(", with new containers of the former {}", quoted(&renewed));
        }
        if !staying.is_empty() {
            text += &format!(
                ", except {}: the definition that ran before is unknown, so the new version stays",
                quoted(staying)
            );
        }
        text
    }

    /// Services of the rollout that ran before.
    fn replaced_by_rollout(&self) -> Vec<String> {
        let targets = targets::from_names(self.project(), &self.stages.roll_out).unwrap_or_default();
        let services = targets.iter().flat_map(Target::services).map(String::from);
        services.filter(|service| !self.recorded.changes.started.contains(service)).collect()
    }

    /// Undoes a change. Returns the services that stay in their new version, because no record has the former one.
    fn undo_one(&self, done: &Done) -> Result<Vec<String>, Error> {
        match done {
            Done::Started(services, before) => self.undo_start(services, before).map(|()| Vec::new()),
            Done::Recreated(services) => self.undo_recreation(services).map(|()| Vec::new()),
            Done::RolledOut => self.undo_rollout(),
        }
    }

    /// Stops what was started; removes the containers that did not exist before.
    fn undo_start(&self, services: &[String], before: &BTreeSet<String>) -> Result<(), Error> {
        let containers = self.containers(services)?;
        let ids: Vec<String> = containers.iter().map(|c| c.id.clone()).collect();
        let new: Vec<String> = ids.iter().filter(|id| !before.contains(*id)).cloned().collect();
        let undone = self.docker().stop(&ids).and_then(|()| self.docker().remove(&new));
        undone.map_err(|error| {
            Error::unchanged(format!("{} could not be stopped: {error:#}", services.join(", ")))
        })
    }

    /// Recreates services from the definition that ran.
    fn undo_recreation(&self, services: &[String]) -> Result<(), Error> {
        let named = services.join(", ");
        let (certain, definitions) = &self.running;
        if let Some(unknown) =
            services.iter().find(|s| !certain.contains(*s) && self.stages.recreate.contains(s))
        {
            return Err(Error::unchanged(format!(
                "`{unknown}` stays as it is, because the definition that ran before is unknown"
            )));
        }
        let (project, folder) = (&self.project().name, &self.request.config.folder);
        let docker = self.docker().with_project_text(&definitions.text(), project, folder);
        let restored = docker.up_services(services).map_err(Error::from_error);
        let restored = restored.and_then(|()| self.wait_with(&StopSignal::default(), services));
        restored.map_err(|error| Error::unchanged(format!("{named} could not be restored: {error}")))
    }

    /// Restores the release before, and removes what the rollout started. Returns the services that ran before and are in no
    /// earlier release: their new version stays, because nothing would serve without it.
    fn undo_rollout(&self) -> Result<Vec<String>, Error> {
        let journal = self.ctx.journal.reopen()?;
        let Some(current) = journal.history.current() else { return Ok(Vec::new()) };
        let mut older = journal.history.newest_first().filter(|r| r.is_good() && r.number < current.number);
        let before = older.next();
        let is_known = |service: &&String| before.is_some_and(|r| r.services.contains_key(*service));
        let (known, others): (Vec<&String>, Vec<&String>) = current.deployed.iter().partition(is_known);
        let is_new = |service: &&String| self.recorded.changes.started.contains(*service);
        let (new, unknown): (Vec<&String>, Vec<&String>) = others.into_iter().partition(is_new);
        let owned = |names: Vec<&String>| names.into_iter().cloned().collect::<Vec<String>>();
        if let Some(before) = before.filter(|_| !known.is_empty()) {
            restore_last_good(self.ctx, before.number, &owned(known)).map_err(Error::from_error)?;
        }
        let new = self.containers(&owned(new))?;
        self.remove(&new).map_err(Error::from_error)?;
        Ok(owned(unknown))
    }
}
