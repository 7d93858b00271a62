//! Steps up to the switch: new instances are created, gated, started, ready, and looked at for as long as the rules say.

use std::time::Duration;

use anyhow::Result;

use super::{Rollout, number, probe};
use crate::docker::InitContainer;
use crate::docker::inspect::Container;
use crate::drain::ProxyRotation;
use crate::error::Error;
use crate::health::{self, Candidate, ReadinessFailure};
use crate::observed::InstanceKey;
use crate::report::{Event, Warning};
use crate::wait::{self, WaitResult};

/// How often it is looked whether an instance or the witness objects; an event of the engine has it looked at once.
const TICK: Duration = Duration::from_millis(50);

/// What was read so long ago is as good as read now: a look at the containers takes a part of it.
pub(super) const FRESH: Duration = Duration::from_millis(100);

/// How often it is looked whether an init container of a killed run goes on.
const LEFT: Duration = Duration::from_millis(500);

/// How often Compose is asked again to create instances beside a paused one.
const AGAIN: usize = 3;

impl<'a> Rollout<'a> {
    pub(super) fn create(&mut self, service: &str, fresh: &[InstanceKey], total: usize) -> Result<()> {
        let mut created = self.context.docker.create(service, total);
        let mut made = self.made(service)?;
        // Compose tries to start a paused one as well, and gives up on all when it cannot; what it made until then stays.
        let is_paused = self.bound.values().any(|c| c.state.status == "paused");
        let mut again = if is_paused { AGAIN } else { 0 };
        while created.is_err() && made.len() < fresh.len() && again > 0 {
            created = self.context.docker.create(service, total);
            made = self.made(service)?;
            again -= 1;
        }
        if !is_paused || made.len() < fresh.len() {
            created?;
        }
        if made.len() < fresh.len() {
            return Err(Error::unchanged(format!(
                "Compose created {} of {} instances of `{service}`",
                made.len(),
                fresh.len()
            ))
            .into());
        }
        self.bound.extend(fresh.iter().cloned().zip(made));
        self.report(|names| Event::Created { names }, fresh);
        Ok(())
    }

    /// The instances that Compose has created since, in the order of their numbers.
    pub(super) fn made(&self, service: &str) -> Result<Vec<Container>> {
        let known: Vec<&String> = self.bound.values().map(|c| &c.id).collect();
        let mut made = self.context.docker.containers_of(&self.context.project.name, service)?;
        made.retain(|c| c.state.status == "created" && c.compose().is_some() && !known.contains(&&c.id));
        made.sort_by_key(number);
        Ok(made)
    }

    pub(super) fn gate(&mut self, keys: &[InstanceKey]) -> Result<()> {
        self.note_others()?;
        let fronting = |r: &ProxyRotation| !r.rotation.outside.is_empty();
        let check = || self.check();
        self.routings(keys).iter().filter(|r| fronting(r)).try_for_each(|r| r.gate(&self.stop, &check))
    }

    pub(super) fn start(&mut self, keys: &[InstanceKey]) -> Result<()> {
        let docker = self.context.docker;
        let service = self.service(&keys[0]);
        let by_compose = service.starts_by_compose && !self.lenient;
        self.initialise(&keys[0], by_compose)?;
        match by_compose {
            true => {
                let mut all = docker.containers_of(&self.context.project.name, &service.name)?;
                all.retain(|c| c.compose().is_some()); // none of `docker compose run`
                docker.start_by_compose(&service.name, all.len())?;
            }
            false => {
                self.restore_policies(keys);
                let started = docker.start(&self.ids(keys));
                match &started {
                    Err(error) if self.plans_anew => {
                        self.context.report.warn(&Warning::NotRestored(format!("{error:#}")));
                        self.refresh()?;
                        self.count_out(keys)?;
                    }
                    _ => started?,
                }
            }
        }
        self.refresh()?;
        self.report(|names| Event::Started { names }, keys);
        // What crashes over and over frees its address, and one that has just started may have got that.
        if self.bound.values().any(|c| c.restart_count > 0) {
            self.gate(keys)?;
        }
        // Compose runs the hooks of what it starts.
        for key in keys.iter().filter(|_| !by_compose) {
            for hook in &service.post_start {
                let done = self.hook(key, hook, "the post_start hook");
                done.inspect_err(|_| self.failed = vec![self.bound[key].id.clone()])?;
            }
        }
        Ok(())
    }

    /// Runs the init containers of a service before its first new instance starts, once.
    fn initialise(&mut self, key: &InstanceKey, by_compose: bool) -> Result<()> {
        let service = self.service(key);
        let is_due = self.context.goes_forward && !self.lenient && !self.initialised.contains(&service.name);
        self.initialised.insert(service.name.clone());
        let its = |c: &&Container| c.compose().is_some_and(|(_, name)| name == service.name);
        // Compose runs them itself where nothing of the service runs.
        let by_compose = by_compose && !self.bound.values().filter(its).any(Container::is_running);
        if !is_due || by_compose {
            return Ok(());
        }
        if !service.pre_start.is_empty() {
            self.clear_init_containers(&service.name)?;
        }
        for (n, step) in service.pre_start.iter().enumerate() {
            let what = format!("{}.pre_start[{n}]", service.name);
            if self.context.completed.contains(&what) {
                self.context.report.event(Event::Ran { service: what });
                continue;
            }
            self.context.report.event(Event::Running { service: what.clone() });
            let init = InitContainer {
                project: &self.context.project.name,
                service: &service.name,
                image: step.image.as_ref().unwrap_or(&service.image),
                command: &step.hook.command.argv(),
                options: step.hook.options(),
                variables: service.environment.clone().into_iter().chain(step.hook.variables()).collect(),
                volumes_from: &self.bound[key].id,
                networks: &service.networks,
            };
            if !self.context.docker.run_init_container(&init)? {
                let error = Error::unchanged(format!("`{what}` failed, so no new instance was started"));
                return Err(error.hint("what it said stands above").into());
            }
            self.interruption()?;
            self.context.report.event(Event::Ran { service: what });
        }
        Ok(())
    }

    /// Removes the init containers of a killed run; one that still runs is waited for, because two migrations at a time are one
    /// too many.
    fn clear_init_containers(&self, service: &str) -> Result<()> {
        let project = &self.context.project.name;
        let left = wait::until(LEFT, Duration::MAX, &self.stop, || -> Result<_> {
            let mut all = self.context.docker.containers()?;
            all.retain(|c| c.is_init_of(project, service));
            Ok((!all.iter().any(Container::is_running)).then_some(all))
        })?;
        let ids: Vec<String> = match left {
            WaitResult::Done(all) => all.into_iter().map(|c| c.id).collect(),
            WaitResult::Interrupted(signal) => return Err(Error::interrupted(signal).into()),
            WaitResult::TimedOut => Vec::new(),
        };
        if ids.is_empty() { Ok(()) } else { self.context.docker.remove(&ids) }
    }

    pub(super) fn ready(&mut self, keys: &[InstanceKey]) -> Result<()> {
        let settings = &self.service(&keys[0]).settings;
        let candidates = keys.iter().map(|k| self.candidate(k)).collect::<Result<Vec<_>>>()?;
        let told = |candidate: &Candidate, answer: &health::ProbeResult| {
            let (name, text) = (candidate.name.clone(), answer.text.clone());
            if !answer.ready {
                return self.context.report.event(Event::NotReady { name, answer: text });
            }
            if !self.lenient {
                self.context.watch.follow(candidate.clone(), settings.pace, &answer.text);
            }
            self.context.report.event(Event::Ready { name, answer: text });
        };
        let tolerated = self.tolerance.failures;
        let docker = self.context.docker;
        let is_fresh = self.read.is_some_and(|at| at.elapsed() <= FRESH);
        let seen = is_fresh.then(|| keys.iter().map(|k| self.bound[k].clone()).collect());
        let waited = health::wait_until_ready(
            docker,
            (&candidates, seen),
            &settings.pace,
            tolerated,
            (&self.stop, &|| self.check()),
            told,
        );
        match waited {
            Ok(None) => {}
            Ok(Some(unready)) if !self.lenient => return Err(self.give_up(unready)),
            Ok(Some(ReadinessFailure { error, .. })) => {
                self.context.report.warn(&Warning::NotReadyAgain(error.message));
                if self.plans_anew {
                    self.refresh()?;
                    self.count_out(keys)?;
                }
            }
            Err(error) if self.lenient => {
                let error = Error::from_error(error);
                self.context.report.warn(&Warning::NotReadyAgain(error.message));
            }
            Err(error) => return Err(error),
        }
        if self.context.proxies.is_empty() {
            let new: Vec<InstanceKey> = keys.iter().filter(|k| !self.inside.contains(k)).cloned().collect();
            self.inside.extend(new);
            self.admit();
        }
        Ok(())
    }

    /// The windows of those begin that are in rotation now.
    pub(super) fn admit(&mut self) {
        self.admitted = self.context.watch.admit(&self.ids(&self.inside), self.tolerance.monitor);
    }

    pub(super) fn give_up(&mut self, unready: ReadinessFailure) -> anyhow::Error {
        self.objected.set(false);
        self.failed = unready.ids;
        unready.error.into()
    }

    /// Lets time pass, with an eye on those that were ready not long ago.
    pub(super) fn watch(&mut self, time: Duration) -> Result<()> {
        let stop = self.stop.clone();
        let waited = wait::until(TICK, time, &stop, || {
            self.check()?;
            self.hear_witness().map(|()| None::<()>)
        })?;
        match waited {
            WaitResult::Interrupted(signal) => Err(Error::interrupted(signal).into()),
            _ => Ok(()),
        }
    }

    pub(super) fn delay(&mut self, time: Duration) -> Result<()> {
        self.context.report.event(Event::Delayed { seconds: time });
        self.watch(time)
    }

    /// Waits until every window of the run is over, be it another rollout's: they are over at the same time.
    pub(super) fn monitor(&mut self) -> Result<()> {
        let watch = self.context.watch;
        let left = watch.remaining();
        if !left.is_zero() {
            let (names, after) = (watch.pending_names(), watch.elapsed());
            let is_beside = |name: &String| self.context.proxies.is_empty() && !names.contains(name);
            let beside = self.names(&self.inside).into_iter().filter(is_beside).collect();
            let proxied = !self.context.proxies.is_empty();
            self.context.report.event(Event::Monitoring { names, after, beside, proxied, seconds: left });
        }
        self.watch(left)?;
        // What has happened in the last moment.
        watch.check_now();
        self.check()
    }

    pub(super) fn candidate(&self, key: &InstanceKey) -> Result<Candidate> {
        let service = self.service(key);
        let container = &self.bound[key];
        Ok(Candidate {
            name: self.name(key),
            id: container.id.clone(),
            probe: probe(service, container, self.context.proxies)?,
        })
    }
}
