//! Steps from the switch on: the rotation changes, and what served before is drained, stopped and removed.

use std::cell::Cell;
use std::time::Duration;

use anyhow::Result;

use super::bring_up::FRESH;
use super::{Rollout, hook_exec};
use crate::docker::Exec;
use crate::docker::inspect::Container;
use crate::drain::{self, Drained, Routing};
use crate::health::{self, Candidate, Watched};
use crate::observed::Key;
use crate::proxy::{Endpoint, endpoints};
use crate::report::{Event, Warning};

impl<'a> Rollout<'a> {
    pub(super) fn route(&mut self, inside: &[Key], outside: &[Key]) -> Result<()> {
        self.inside = inside.to_vec();
        self.for_the_living(|rollout| {
            let mut routings = rollout.routings(outside).into_iter();
            routings.try_for_each(|routing| match routing.proxy.steers() {
                true => routing.set(&rollout.stop),
                false => rollout.follow(routing, outside),
            })
        })?;
        let admitted: Vec<String> = self.ids(&self.inside);
        let is_admitted = |c: &Candidate| admitted.contains(&c.id);
        self.admitted = self.newcomers.iter().filter(|c| is_admitted(c)).map(|c| c.id.clone()).collect();
        self.newcomers.retain(|c| !is_admitted(c));
        let (inside, outside) = (self.names(&self.inside), self.names(outside));
        self.tools.report.event(Event::Routed { inside, outside });
        Ok(())
    }

    /// Does something that every instance in rotation has to be there for: one that has died meanwhile, and that no
    /// longer counts as failed, keeps nobody waiting.
    pub(super) fn for_the_living<T>(&mut self, act: impl Fn(&Self) -> Result<T>) -> Result<T> {
        self.leave_the_dead()?;
        self.as_long_as_they_live(act)
    }

    /// The same where nothing is changed yet that one who has died could spoil.
    pub(super) fn as_long_as_they_live<T>(&mut self, act: impl Fn(&Self) -> Result<T>) -> Result<T> {
        loop {
            match act(self) {
                Err(error) if self.stop.signal().is_none() => {
                    self.look_again()?;
                    if !self.leave_the_dead()? {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
    }

    /// Takes those out of the rotation that do not run, as long as anybody is left; tells whether there were any.
    pub(super) fn leave_the_dead(&mut self) -> Result<bool> {
        if self.read.take().is_none_or(|at| at.elapsed() > FRESH) {
            self.refresh()?;
        }
        let runs = |key: &&Key| self.bound[*key].is_running();
        let (living, dead): (Vec<Key>, Vec<Key>) = self.inside.iter().cloned().partition(|k| runs(&k));
        if living.is_empty() || dead.is_empty() {
            return Ok(false);
        }
        self.look_again()?; // one that is still watched has failed
        self.look_at_newcomers(&dead)?;
        self.tools.report.warn(&Warning::Died(self.names(&dead)));
        if self.objected.take() {
            self.tools.witness.forgive();
        }
        self.inside = living;
        Ok(true)
    }

    /// One that was ready, and has died before anybody sent it a request, has failed whatever the monitor is: those that it
    /// was to replace still serve.
    pub(super) fn look_at_newcomers(&mut self, dead: &[Key]) -> Result<()> {
        let dead = self.ids(dead);
        let lost = self.newcomers.iter().filter(|c| dead.contains(&c.id));
        let mut lost: Vec<Watched> = lost.cloned().map(Watched::new).collect();
        if lost.is_empty() {
            return Ok(());
        }
        match health::look_again(self.tools.docker, &mut lost, Duration::MAX, &self.pace())? {
            Some(unready) => Err(self.give_up(unready)),
            None => Ok(()),
        }
    }

    /// A proxy that cannot be told a rotation: sees it admit those inside, and then, told by their drain command, let go
    /// of those outside. One that has no such command is let go of when it stops.
    pub(super) fn follow(&self, mut routing: Routing, outside: &[Key]) -> Result<()> {
        let leaving = std::mem::take(&mut routing.rotation.outside);
        routing.set(&self.stop)?;
        let told: Vec<&Key> = outside.iter().filter(|k| self.has_drain_command(k)).collect();
        told.iter().try_for_each(|key| self.drain_command(key))?;
        routing.rotation.outside = leaving;
        let routing = self.told(routing, outside);
        match routing.rotation.outside.is_empty() {
            true => Ok(()),
            false => routing.set(&self.stop),
        }
    }

    /// Without those that a proxy which cannot be told a rotation goes on sending requests to.
    pub(super) fn told(&self, mut routing: Routing<'a>, outside: &[Key]) -> Routing<'a> {
        let leaves = |e: &Endpoint| {
            let key = outside.iter().find(|k| self.bound[*k].id == e.id);
            key.is_some_and(|k| self.has_drain_command(k))
        };
        if !routing.proxy.steers() {
            routing.rotation.outside.retain(leaves);
        }
        routing
    }

    pub(super) fn has_drain_command(&self, key: &Key) -> bool {
        self.service(key).settings.drain_command.is_some()
    }

    pub(super) fn drain_command(&self, key: &Key) -> Result<()> {
        match self.service(key).settings.drain_command.clone() {
            Some(argv) => self.try_exec(key, Exec::of_user(&self.bound[key].id, argv), "the drain command"),
            None => Ok(()),
        }
    }

    pub(super) fn idle(&mut self, keys: &[Key]) -> Result<()> {
        let settings = &self.service(&keys[0]).settings;
        self.tell(|names| Event::Draining { names }, keys);
        if self.tools.proxies.iter().any(|p| p.steers()) {
            keys.iter().try_for_each(|key| self.drain_command(key))?;
        }
        let (requests, unsure) = self.as_long_as_they_live(|rollout| {
            let (mut requests, mut unsure) = (0, 0);
            for routing in rollout.routings(keys).into_iter().map(|r| rollout.told(r, keys)) {
                let limit = settings.drain_timeout;
                match routing.wait_until_idle(limit, &rollout.stop, &|| rollout.objection())? {
                    Drained::Idle => {}
                    Drained::Limit(open) => {
                        (requests, unsure) = (requests + open.requests, unsure + open.unsure)
                    }
                }
            }
            Ok((requests, unsure))
        })?;
        self.cut += requests;
        match requests + unsure {
            0 => self.tell(|names| Event::Idle { names }, keys),
            _ => self.tools.report.warn(&Warning::DrainLimit {
                names: self.names(keys),
                limit: settings.drain_timeout,
                requests,
                unsure,
            }),
        }
        Ok(())
    }

    pub(super) fn stop(&mut self, keys: &[Key]) -> Result<()> {
        for key in keys {
            for hook in &self.service(key).pre_stop {
                let exec = hook_exec(&self.bound[key], hook);
                self.try_exec(key, exec, "the pre_stop hook")?;
            }
        }
        self.tools.docker.stop(&self.ids(keys))?;
        let stopped = |(k, _): &(&Key, &mut Container)| keys.contains(k);
        self.bound.iter_mut().filter(stopped).for_each(|(_, c)| c.has_stopped());
        self.inside.retain(|k| !keys.contains(k));
        self.tell(|names| Event::Stopped { names }, keys);
        Ok(())
    }

    pub(super) fn remove(&mut self, keys: &[Key]) -> Result<()> {
        self.tools.docker.remove(&self.ids(keys))?;
        self.tell(|names| Event::Removed { names }, keys);
        Ok(())
    }

    /// Removes them while the route is given back, which is the next step.
    pub(super) fn remove_and_release(&mut self, keys: &[Key]) -> Result<()> {
        let (docker, ids) = (self.tools.docker, self.ids(keys));
        let (removed, released) = std::thread::scope(|scope| {
            let removed = scope.spawn(|| docker.remove(&ids));
            let released = self.release();
            (removed.join().expect("no panic in a removal"), released)
        });
        removed?;
        self.tell(|names| Event::Removed { names }, keys);
        self.released = released.is_ok();
        released
    }

    /// Gives the route back to the proxies' own discovery.
    ///
    /// # Errors
    /// A proxy that does not answer.
    pub fn release(&self) -> Result<()> {
        let all: Vec<Key> = self.bound.keys().cloned().collect();
        let (existing, first) = std::thread::scope(|scope| {
            let existing = scope.spawn(|| self.tools.docker.ids());
            let first = self.fresh(&all);
            (existing.join().expect("no panic in a read"), first)
        });
        let (existing, first) = (existing?, Cell::new(Some(first?)));
        for proxy in self.tools.proxies {
            let now = || first.take().map_or_else(|| self.fresh(&all), Ok);
            let ours = || Ok(endpoints(proxy.as_ref(), now()?.iter()));
            drain::release(self.tools.docker, proxy.as_ref(), &ours, &existing)?;
        }
        Ok(())
    }
}
