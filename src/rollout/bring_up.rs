//! Steps up to the switch: new instances are created, gated, started, ready, and looked at for as long as the rules say.

use std::time::Duration;

use anyhow::Result;

use super::{Rollout, number, probe};
use crate::docker::inspect::Container;
use crate::drain::Routing;
use crate::fault::Fault;
use crate::health::{self, Candidate, Unready, Watched};
use crate::model::Pace;
use crate::observed::Key;
use crate::report::{Event, Warning};
use crate::wait::{self, Waited};

/// How often new instances are looked at once they were ready.
const WATCH: Duration = Duration::from_secs(1);

/// What was read so long ago is as good as read now: a look at the containers takes a part of it.
pub(super) const FRESH: Duration = Duration::from_millis(100);

/// How often Compose is asked again to create instances beside a paused one.
const AGAIN: usize = 3;

impl<'a> Rollout<'a> {
    pub(super) fn create(&mut self, service: &str, fresh: &[Key], total: usize) -> Result<()> {
        let mut created = self.tools.docker.create(service, total);
        let mut made = self.made(service)?;
        // Compose tries to start a paused one as well, and gives up on all when it cannot; what it made until then stays.
        let is_paused = self.bound.values().any(|c| c.state.status == "paused");
        let mut again = if is_paused { AGAIN } else { 0 };
        while created.is_err() && made.len() < fresh.len() && again > 0 {
            created = self.tools.docker.create(service, total);
            made = self.made(service)?;
            again -= 1;
        }
        if !is_paused || made.len() < fresh.len() {
            created?;
        }
        if made.len() < fresh.len() {
            return Err(Fault::unchanged(format!(
                "Compose created {} of {} instances of `{service}`",
                made.len(),
                fresh.len()
            ))
            .into());
        }
        self.bound.extend(fresh.iter().cloned().zip(made));
        self.tell(|names| Event::Created { names }, fresh);
        Ok(())
    }

    /// The instances that Compose has created since, in the order of their numbers.
    pub(super) fn made(&self, service: &str) -> Result<Vec<Container>> {
        let known: Vec<&String> = self.bound.values().map(|c| &c.id).collect();
        let mut made = self.tools.docker.containers_of(&self.tools.project.name, service)?;
        made.retain(|c| c.state.status == "created" && c.compose().is_some() && !known.contains(&&c.id));
        made.sort_by_key(number);
        Ok(made)
    }

    pub(super) fn gate(&mut self, keys: &[Key]) -> Result<()> {
        let fronting = |r: &Routing| !r.rotation.outside.is_empty();
        self.routings(keys).iter().filter(|r| fronting(r)).try_for_each(|r| r.gate(&self.stop))
    }

    pub(super) fn start(&mut self, keys: &[Key]) -> Result<()> {
        let docker = self.tools.docker;
        let service = self.service(&keys[0]);
        let by_compose = service.starts_by_compose && !self.lenient;
        match by_compose {
            true => {
                let all = docker.containers_of(&self.tools.project.name, &service.name)?;
                docker.start_by_compose(&service.name, all.len())?;
            }
            false => docker.start(&self.ids(keys))?,
        }
        self.refresh()?;
        self.tell(|names| Event::Started { names }, keys);
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

    pub(super) fn ready(&mut self, keys: &[Key]) -> Result<()> {
        let settings = &self.service(&keys[0]).settings;
        let candidates = keys.iter().map(|k| self.candidate(k)).collect::<Result<Vec<_>>>()?;
        let told = |candidate: &Candidate, answer: &health::Answer| {
            let (name, answer) = (candidate.name.clone(), answer.text.clone());
            self.tools.report.event(Event::Ready { name, answer });
        };
        let tolerated = self.tolerance.failures;
        let docker = self.tools.docker;
        let is_fresh = self.read.is_some_and(|at| at.elapsed() <= FRESH);
        let seen = is_fresh.then(|| keys.iter().map(|k| self.bound[k].clone()).collect());
        let waited = health::wait_until_ready(
            docker,
            (&candidates, seen),
            &settings.pace,
            tolerated,
            &self.stop,
            told,
        );
        match waited {
            Ok(None) => {}
            Ok(Some(unready)) if !self.lenient => return Err(self.give_up(unready)),
            Ok(Some(Unready { fault, .. })) => self.tools.report.warn(&Warning::NotReadyAgain(fault.message)),
            Err(error) if self.lenient => {
                let fault = Fault::from_error(error);
                self.tools.report.warn(&Warning::NotReadyAgain(fault.message));
            }
            Err(error) => return Err(error),
        }
        if self.tools.proxies.is_empty() {
            let new: Vec<Key> = keys.iter().filter(|k| !self.inside.contains(k)).cloned().collect();
            self.inside.extend(new);
        }
        if !self.lenient {
            self.newcomers.extend(candidates.iter().cloned());
        }
        if !self.tolerance.monitor.is_zero() {
            let known: Vec<String> = self.watched.iter().map(|w| w.id().clone()).collect();
            let added = candidates.into_iter().filter(|c| !known.contains(&c.id));
            self.watched.extend(added.map(Watched::new));
        }
        Ok(())
    }

    pub(super) fn give_up(&mut self, unready: Unready) -> anyhow::Error {
        self.objected.set(false);
        self.given_up.extend(unready.ids.iter().cloned());
        self.failed = unready.ids;
        unready.fault.into()
    }

    /// Whether those that were ready not long ago still are.
    pub(super) fn look_again(&mut self) -> Result<()> {
        if self.watched.is_empty() {
            return Ok(());
        }
        let pace = self.pace();
        match health::look_again(self.tools.docker, &mut self.watched, self.tolerance.monitor, &pace)? {
            Some(unready) => Err(self.give_up(unready)),
            None => Ok(()),
        }
    }

    /// Lets time pass, with an eye on those that were ready not long ago.
    pub(super) fn watch(&mut self, time: Duration) -> Result<()> {
        let stop = self.stop.clone();
        let waited = wait::until(WATCH, time, &stop, || {
            self.look_again()?;
            self.hear_witness().map(|()| None::<()>)
        })?;
        match waited {
            Waited::Interrupted(signal) => Err(Fault::interrupted(signal).into()),
            _ => Ok(()),
        }
    }

    pub(super) fn delay(&mut self, time: Duration) -> Result<()> {
        self.tools.report.event(Event::Delayed { seconds: time });
        self.watch(time)
    }

    pub(super) fn monitor(&mut self, time: Duration) -> Result<()> {
        let left = self.watched.iter().map(|w| w.left(time)).max().unwrap_or_default();
        if !left.is_zero() {
            let names = self.watched.iter().map(|w| w.name().to_string()).collect();
            self.tools.report.event(Event::Monitoring { names, seconds: left });
        }
        self.watch(left)
    }

    pub(super) fn pace(&self) -> Pace {
        let any = self.bound.keys().next();
        any.map_or(Pace::default(), |key| self.service(key).settings.pace)
    }

    pub(super) fn candidate(&self, key: &Key) -> Result<Candidate> {
        let service = self.service(key);
        let container = &self.bound[key];
        Ok(Candidate {
            name: self.name(key),
            id: container.id.clone(),
            probe: probe(service, container, self.tools.proxies)?,
        })
    }
}
