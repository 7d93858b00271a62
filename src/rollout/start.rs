//! Steps up to the switch: create, gate and start new instances, wait until they are ready, and monitor them.

use std::time::Duration;

use anyhow::Result;

use super::{Rollout, hold};
use crate::docker::InitContainer;
use crate::docker::inspect::{BRIDGE, Container, RELAY};
use crate::error::Error;
use crate::health::{self, Candidate, ReadinessFailure, ReadinessWait};
use crate::model::ProbeTiming;
use crate::observe;
use crate::observed::InstanceKey;
use crate::plan::Bridge;
use crate::proxy::{Goal, port};
use crate::report::event::Answer;
use crate::report::{Event, Warning};
use crate::wait::{self, WaitResult};

/// Interval at which failures and losses are checked; an engine event triggers a check at once.
const WATCH_POLL: Duration = Duration::from_millis(50);

/// Age up to which a reading counts as current: a read of the containers takes a part of it.
pub(super) const FRESH: Duration = Duration::from_millis(100);

/// Interval at which the init container of a killed run is checked.
const INIT_POLL: Duration = Duration::from_millis(500);

/// Number of further attempts to create instances while one is paused.
const CREATE_RETRIES: usize = 3;

impl<'a> Rollout<'a> {
    /// Creates a relay; or a stand-in, with all that Compose gives to an instance except the fixed ports.
    pub(super) fn create_bridge(
        &mut self,
        service: &str,
        key: &InstanceKey,
        kind: Bridge,
        total: usize,
    ) -> Result<()> {
        let ((snapshot, folder), project) = (self.context.snapshot, self.context.project);
        let definition = &project.services[service];
        let (snapshot, note) = match kind {
            Bridge::StandIn => {
                let ports = port::forwards(definition);
                let ports: Vec<_> = ports.iter().map(|forward| (forward.ip, forward.target)).collect();
                let owner = format!("{}/{service}", project.name);
                let note = "the stand-in has random host ports in place of the fixed ones";
                (snapshot.with_stand_in(service, &ports, (BRIDGE, &owner)), note)
            }
            Bridge::Relay => {
                let note = "the relay is a program of compose-zd, in which requests wait";
                (snapshot.with_relay(service, &self.relay(definition)?, (BRIDGE, RELAY)), note)
            }
        };
        let docker = self.context.docker.with_project_text(&snapshot.text(), &project.name, folder);
        if self.is_dry_run() {
            self.note(note.into());
        }
        self.create_by(&|| docker.create(service, total), service, std::slice::from_ref(key))
    }

    pub(super) fn create(&mut self, service: &str, fresh: &[InstanceKey], total: usize) -> Result<()> {
        if let Some(name) = &self.context.project.services[service].container_name {
            return self.create_named(service, name, fresh);
        }
        let docker = self.context.docker;
        self.create_by(&|| docker.create(service, total), service, fresh)
    }

    /// Runs a command of Compose that creates instances.
    pub(super) fn create_by(
        &mut self,
        create: &dyn Fn() -> Result<()>,
        service: &str,
        fresh: &[InstanceKey],
    ) -> Result<()> {
        let mut result = create();
        if self.is_dry_run() {
            return result;
        }
        let mut created_instances = self.created_containers(service)?;
        // Compose also tries to start a paused instance and gives up if it cannot; what it created by then remains.
        let is_paused = self.containers.values().any(|c| c.state.status == "paused");
        let mut retries = if is_paused { CREATE_RETRIES } else { 0 };
        while result.is_err() && created_instances.len() < fresh.len() && retries > 0 {
            result = create();
            created_instances = self.created_containers(service)?;
            retries -= 1;
        }
        if !is_paused || created_instances.len() < fresh.len() {
            result?;
        }
        if created_instances.len() < fresh.len() {
            return Err(Error::unchanged(format!(
                "Compose created {} of {} instances of `{service}`",
                created_instances.len(),
                fresh.len()
            ))
            .into());
        }
        self.containers.extend(fresh.iter().cloned().zip(created_instances));
        self.report(Event::Created, fresh);
        Ok(())
    }

    /// Instances that Compose has created since, sorted by number.
    pub(super) fn created_containers(&self, service: &str) -> Result<Vec<Container>> {
        let known_ids: Vec<&String> = self.containers.values().map(|c| &c.id).collect();
        let mut created_instances = self.context.docker.containers_of(&self.context.project.name, service)?;
        created_instances
            .retain(|c| c.state.status == "created" && c.compose().is_some() && !known_ids.contains(&&c.id));
        created_instances.sort_by_key(Container::number);
        Ok(created_instances)
    }

    pub(super) fn gate(&mut self, keys: &[InstanceKey]) -> Result<()> {
        self.others = self.other_containers()?;
        let mut fronting = self.rotations(keys).into_iter().filter(|(_, r)| !r.outside.is_empty());
        fronting.try_for_each(|(proxy, rotation)| self.converge(proxy, Goal::Gated(rotation)))
    }

    pub(super) fn start(&mut self, keys: &[InstanceKey]) -> Result<()> {
        let docker = self.context.docker;
        if self.is_relay(&keys[0]) {
            docker.start(&self.ids(keys))?;
            self.refresh()?;
            self.report(Event::Started, keys);
            return Ok(());
        }
        let service = self.service(&keys[0]);
        let by_compose = service.starts_by_compose && !self.is_best_effort;
        self.run_init_containers(&keys[0], by_compose)?;
        if by_compose && service.container_name.is_some() {
            self.start_named(&service.name, keys)?;
        } else if by_compose {
            let mut all = docker.containers_of(&self.context.project.name, &service.name)?;
            all.retain(|c| c.compose().is_some()); // without `docker compose run`
            docker.start_by_compose(&service.name, all.len())?;
        } else {
            self.restore_policies(keys);
            let started = docker.start(&self.ids(keys));
            match &started {
                Err(error) if self.is_replanned => {
                    self.context.report.warn(&Warning::NotRestored(format!("{error:#}")));
                    self.refresh()?;
                    self.fail_if_stopped(keys)?;
                }
                _ => started?,
            }
        }
        self.refresh()?;
        self.report(Event::Started, keys);
        self.retire_predecessors(keys);
        // A crashing container frees its address, and a container that just started may have received it.
        if self.containers.values().any(|c| c.restart_count > 0) {
            self.gate(keys)?;
        }
        // Compose runs the hooks of the instances that it starts.
        for key in keys.iter().filter(|_| !by_compose) {
            for hook in &service.post_start {
                let done = self.hook(key, hook, "the post_start hook");
                done.inspect_err(|_| self.failed = vec![self.containers[key].id.clone()])?;
            }
        }
        Ok(())
    }

    /// Runs the init containers of a service once, before its first new instance starts.
    fn run_init_containers(&mut self, key: &InstanceKey, by_compose: bool) -> Result<()> {
        let service = self.service(key);
        let is_due = self.context.runs_jobs
            && !self.is_best_effort
            && !self.is_dry_run()
            && !self.initialised.contains(&service.name);
        self.initialised.insert(service.name.clone());
        let its = |c: &&Container| c.compose().is_some_and(|(_, name)| name == service.name);
        // Compose runs them itself if no instance of the service runs.
        let by_compose = by_compose && !self.containers.values().filter(its).any(Container::is_running);
        if !is_due || by_compose {
            return Ok(());
        }
        if !service.pre_start.is_empty() {
            self.remove_init_containers(&service.name)?;
        }
        for (n, step) in service.pre_start.iter().enumerate() {
            let what = format!("{}.pre_start[{n}]", service.name);
            if self.context.completed.contains(&what) {
                self.context.report.event(Event::JobDone(what.into()));
                continue;
            }
            self.context.report.event(Event::JobRunning(what.clone().into()));
            let init = InitContainer {
                project: &self.context.project.name,
                service: &service.name,
                image: step.image.as_ref().unwrap_or(&service.image),
                command: &step.hook.command.argv(),
                options: step.hook.exec_options(),
                variables: service.environment.clone().into_iter().chain(step.hook.variables()).collect(),
                volumes_from: &self.containers[key].id,
                networks: &service.networks,
            };
            if !self.context.docker.run_init_container(&init)? {
                let error = Error::unchanged(format!("`{what}` failed, so no new instance was started"));
                return Err(error.hint("its output stands above").into());
            }
            self.check_interrupt()?;
            self.context.report.event(Event::JobDone(what.into()));
        }
        Ok(())
    }

    /// Removes the init containers of a killed run, and waits for a running one, because the same migration must
    /// not run twice at a time.
    fn remove_init_containers(&self, service: &str) -> Result<()> {
        let project = &self.context.project.name;
        let remaining = wait::until(INIT_POLL, Duration::MAX, &self.stop, || -> Result<_> {
            let mut all = self.context.docker.containers()?;
            all.retain(|c| c.is_init_of(project, service));
            Ok((!all.iter().any(Container::is_running)).then_some(all))
        })?;
        let ids: Vec<String> = match remaining {
            WaitResult::Done(all) => all.into_iter().map(|c| c.id).collect(),
            WaitResult::Interrupted(signal) => return Err(Error::interrupted(signal).into()),
            WaitResult::TimedOut => Vec::new(),
        };
        if ids.is_empty() { Ok(()) } else { self.context.docker.remove(&ids) }
    }

    pub(super) fn ready(&mut self, keys: &[InstanceKey]) -> Result<()> {
        if self.is_dry_run() {
            self.note_readiness(&keys[0])?;
        } else {
            self.wait_until_ready(keys)?;
        }
        if self.context.proxies.is_empty() {
            let new: Vec<InstanceKey> = keys.iter().filter(|k| !self.inside.contains(k)).cloned().collect();
            self.inside.extend(new);
            self.admit();
        }
        Ok(())
    }

    fn wait_until_ready(&mut self, keys: &[InstanceKey]) -> Result<()> {
        let service = self.service(&keys[0]);
        let settings = &service.settings;
        let is_relay = self.is_relay(&keys[0]);
        let is_followed = !self.is_best_effort && !is_relay;
        let within_hold = if is_relay { None } else { self.ready_time(service) };
        let timing =
            ProbeTiming { deadline: within_hold.unwrap_or(settings.timing.deadline), ..settings.timing };
        let candidates = keys.iter().map(|k| self.candidate(k)).collect::<Result<Vec<_>>>()?;
        let report_answer = |candidate: &Candidate, answer: &health::ProbeResult| {
            let text = if is_relay { "requests can wait".into() } else { answer.text.clone() };
            let name = candidate.name.clone();
            if !answer.ready {
                return self.context.report.event(Event::NotReady(Answer { name, answer: text }));
            }
            if is_followed {
                self.context.monitor.follow(candidate.clone(), settings.timing, &answer.text);
            }
            self.context.report.event(Event::Ready(Answer { name, answer: text }));
        };
        let is_fresh = self.read_at.is_some_and(|at| at.elapsed() <= FRESH);
        let current = is_fresh.then(|| keys.iter().map(|k| self.containers[k].clone()).collect());
        let wait = ReadinessWait {
            docker: self.context.docker,
            timing: &timing,
            tolerated: self.tolerance.failures,
            generation: if self.is_best_effort { "old" } else { "new" },
            stop: &self.stop,
            check: &|| self.check(),
            report: &report_answer,
        };
        match wait.run(&candidates, current) {
            Ok(None) => {}
            Ok(Some(mut failure)) if !self.is_best_effort => {
                if within_hold.is_some() {
                    failure.error = failure.error.hint(hold::hint(service));
                }
                return Err(self.not_ready_error(failure));
            }
            Ok(Some(ReadinessFailure { error, .. })) => {
                let seen = error.details.first().map(|answer| format!(": {answer}")).unwrap_or_default();
                self.context.report.warn(&Warning::RestoredNotReady(error.message + &seen));
                if self.is_replanned {
                    self.refresh()?;
                    self.fail_if_stopped(keys)?;
                }
            }
            Err(error) if self.is_best_effort => {
                let error = Error::from_error(error);
                self.context.report.warn(&Warning::RestoredNotReady(error.message));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Begins the monitor of the instances that joined the rotation.
    pub(super) fn admit(&mut self) {
        self.admitted = self.context.monitor.admit(&self.ids(&self.inside), self.tolerance.monitor);
    }

    pub(super) fn not_ready_error(&mut self, failure: ReadinessFailure) -> anyhow::Error {
        self.has_witness_losses.set(false);
        self.failed = failure.ids;
        failure.error.into()
    }

    /// Waits, and fails if a monitored instance does or the witness loses requests.
    pub(super) fn pause_watched(&mut self, time: Duration) -> Result<()> {
        let stop = self.stop.clone();
        let waited = wait::until(WATCH_POLL, time, &stop, || {
            self.check()?;
            self.check_witness().map(|()| None::<()>)
        })?;
        match waited {
            WaitResult::Interrupted(signal) => Err(Error::interrupted(signal).into()),
            _ => Ok(()),
        }
    }

    pub(super) fn delay(&mut self, time: Duration) -> Result<()> {
        if self.is_dry_run() {
            return Ok(());
        }
        self.context.report.event(Event::Delayed { seconds: time });
        self.pause_watched(time)
    }

    /// Waits until the monitor of every rollout of the run is over; all end together.
    pub(super) fn monitor(&mut self) -> Result<()> {
        if self.is_dry_run() {
            return Ok(());
        }
        let monitor = self.context.monitor;
        let remaining = monitor.remaining();
        if !remaining.is_zero() {
            // A stand-in or a relay is watched, too, and is out of rotation again.
            let out = self.containers.keys().filter(|key| !self.inside.contains(key)).cloned();
            let out = self.names(&out.collect::<Vec<_>>());
            let (mut names, after) = (monitor.pending_names(), monitor.elapsed());
            if names.iter().any(|name| !out.contains(name)) {
                names.retain(|name| !out.contains(name));
            }
            let is_beside = |name: &String| self.context.proxies.is_empty() && !names.contains(name);
            let beside = self.names(&self.inside).into_iter().filter(is_beside).collect();
            let proxied = !self.context.proxies.is_empty();
            self.context.report.event(Event::Monitoring {
                names,
                in_service: after,
                old_instances: beside,
                proxied,
                seconds: remaining,
            });
        }
        self.pause_watched(remaining)?;
        // Catches a failure in the last moment.
        monitor.check_now();
        self.check()
    }

    pub(super) fn candidate(&self, key: &InstanceKey) -> Result<Candidate> {
        let service = self.service(key);
        let container = &self.containers[key];
        Ok(Candidate {
            name: self.name(key),
            id: container.id.clone(),
            probe: if self.is_best_effort {
                observe::probe_of_other_version(service, container, self.context.proxies)?
            } else {
                observe::probe(service, container, self.context.proxies)?
            },
        })
    }
}
