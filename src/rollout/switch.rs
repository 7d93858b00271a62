//! Steps from the switch on: the rotation changes, and what served before is drained, stopped and removed.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::start::FRESH;
use super::{Rollout, hook_exec};
use crate::docker::Exec;
use crate::docker::inspect::Container;
use crate::drain::{self, DrainResult, ProxyRotation};
use crate::health::monitor::MonitorFailure;
use crate::observed::InstanceKey;
use crate::proxy::{Endpoint, Proxy, endpoints};
use crate::report::{Event, Warning};

impl<'a> Rollout<'a> {
    /// Where a proxy is given addresses, it learns which are those of containers that this rollout is not about.
    pub(super) fn note_others(&self) -> Result<()> {
        let giving: Vec<_> = self.context.proxies.iter().filter(|p| p.gives_addresses()).collect();
        if giving.is_empty() {
            return Ok(());
        }
        let is_ours = |c: &Container| self.bound.values().any(|own| own.id == c.id);
        let all = self.context.docker.containers()?;
        let others: BTreeSet<_> = all.iter().filter(|c| !is_ours(c)).flat_map(Container::addresses).collect();
        giving.iter().for_each(|proxy| proxy.note_others(others.clone()));
        Ok(())
    }

    pub(super) fn route(&mut self, inside: &[InstanceKey], outside: &[InstanceKey]) -> Result<()> {
        self.note_others()?;
        self.inside = inside.to_vec();
        self.without_dead(|rollout| {
            let mut routings = rollout.routings(outside).into_iter();
            routings.try_for_each(|mut routing| {
                if !routing.proxy.steers() {
                    // They let go of nobody before they are told to, which cannot be undone: both serve until then.
                    routing.rotation.outside.clear();
                }
                routing.set(&rollout.stop, &|| rollout.check())
            })
        })?;
        self.admit();
        let now = Instant::now();
        self.left.retain(|id, _| !self.inside.iter().any(|k| self.bound[k].id == *id));
        for id in self.ids(outside) {
            self.left.entry(id).or_insert(now);
        }
        let stays = |key: &&InstanceKey| self.context.proxies.iter().any(|p| self.serves_on(p.as_ref(), key));
        let (beside, outside): (Vec<&InstanceKey>, Vec<&InstanceKey>) = outside.iter().partition(stays);
        let inside = self.inside.iter().chain(beside).map(|k| self.name(k)).collect();
        let outside = outside.into_iter().map(|k| self.name(k)).collect();
        self.context.report.event(Event::Routed { inside, outside });
        Ok(())
    }

    /// A proxy that is only watched sends requests to it, until it is told to leave or stops.
    fn serves_on(&self, proxy: &dyn Proxy, key: &InstanceKey) -> bool {
        let container = &self.bound[key];
        !proxy.steers() && container.is_running() && !endpoints(proxy, [container].into_iter()).is_empty()
    }

    /// Does something that every instance in rotation has to be there for: one that has died meanwhile, and that no
    /// longer counts as failed, keeps nobody waiting.
    pub(super) fn without_dead<T>(&mut self, act: impl Fn(&Self) -> Result<T>) -> Result<T> {
        self.drop_dead_instances()?;
        self.retry_without_dead(act)
    }

    /// The same where nothing is changed yet that one who has died could spoil.
    pub(super) fn retry_without_dead<T>(&mut self, act: impl Fn(&Self) -> Result<T>) -> Result<T> {
        loop {
            match act(self) {
                Err(error) if self.stop.signal().is_none() && !error.is::<MonitorFailure>() => {
                    if !self.drop_dead_instances()? {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
    }

    /// Takes those out of the rotation that do not run, as long as anybody is left; tells whether there were any.
    pub(super) fn drop_dead_instances(&mut self) -> Result<bool> {
        if self.read.take().is_none_or(|at| at.elapsed() > FRESH) {
            self.refresh()?;
        }
        self.check()?; // one that still counts has failed
        let runs = |key: &&InstanceKey| self.bound[*key].is_running();
        let (living, dead): (Vec<InstanceKey>, Vec<InstanceKey>) =
            self.inside.iter().cloned().partition(|k| runs(&k));
        if self.plans_anew {
            self.count_out(&dead)?;
        }
        if living.is_empty() || dead.is_empty() {
            return Ok(false);
        }
        self.report(|names| Event::Died { names }, &dead);
        self.context.report.warn(&Warning::Died(self.names(&dead)));
        if self.objected.take() {
            self.context.witness.ignore_losses_so_far();
        }
        self.inside = living;
        Ok(true)
    }

    /// Without those that a proxy which cannot be told a rotation goes on sending requests to.
    pub(super) fn without_unsteered(
        &self,
        mut routing: ProxyRotation<'a>,
        outside: &[InstanceKey],
    ) -> ProxyRotation<'a> {
        let leaves = |e: &Endpoint| {
            let key = outside.iter().find(|k| self.bound[*k].id == e.id);
            key.is_some_and(|k| self.has_drain_command(k))
        };
        if !routing.proxy.steers() {
            routing.rotation.outside.retain(leaves);
        }
        routing
    }

    pub(super) fn has_drain_command(&self, key: &InstanceKey) -> bool {
        self.service(key).settings.drain_command.is_some()
    }

    /// Limit of a command by which an instance gets ready to stop: a drain and the stop itself may take as long.
    fn drain_limit(&self, key: &InstanceKey) -> Duration {
        let service = self.service(key);
        service.settings.drain_timeout.max(service.process.grace.unwrap_or_default())
    }

    pub(super) fn drain_command(&self, key: &InstanceKey) -> Result<()> {
        match self.service(key).settings.drain_command.clone() {
            Some(argv) => self.try_exec(
                key,
                Exec::user_command(&self.bound[key].id, argv).with_limit(self.drain_limit(key)),
                "the drain command",
            ),
            None => Ok(()),
        }
    }

    /// Where proxies are only watched: has those leave that know how, and sees them let go.
    fn leave(&mut self, keys: &[InstanceKey]) -> Result<()> {
        keys.iter().try_for_each(|key| self.drain_command(key))?;
        self.retry_without_dead(|rollout| {
            let watched = rollout.routings(keys).into_iter().filter(|r| !r.proxy.steers());
            let mut leaving = watched
                .map(|r| rollout.without_unsteered(r, keys))
                .filter(|r| !r.rotation.outside.is_empty());
            leaving.try_for_each(|routing| routing.set(&rollout.stop, &|| rollout.check()))
        })
    }

    /// Whether every proxy tells what they have in flight: one that is only watched does once they have left.
    fn is_drained(&self, keys: &[InstanceKey]) -> bool {
        let steers = self.context.proxies.iter().all(|p| p.steers());
        steers || keys.iter().all(|k| self.has_drain_command(k))
    }

    pub(super) fn idle(&mut self, keys: &[InstanceKey]) -> Result<()> {
        let settings = &self.service(&keys[0]).settings;
        let is_drained = self.is_drained(keys);
        if is_drained {
            self.report(|names| Event::Draining { names }, keys);
        }
        match self.context.proxies.iter().any(|p| !p.steers()) {
            true => self.leave(keys)?,
            false => keys.iter().try_for_each(|key| self.drain_command(key))?,
        }
        let since = keys.iter().filter_map(|k| self.left.get(&self.bound[k].id)).min().copied();
        let since = since.filter(|_| self.context.proxies.iter().all(|p| p.steers()));
        let (requests, unsure) = self.retry_without_dead(|rollout| {
            let (mut requests, mut unsure) = (0, 0);
            let check = || rollout.check().and_then(|()| rollout.objection());
            for routing in rollout.routings(keys).into_iter().map(|r| rollout.without_unsteered(r, keys)) {
                let limit = settings.drain_timeout;
                let since = since.unwrap_or_else(Instant::now);
                match routing.wait_until_idle(limit, since, &rollout.stop, &check)? {
                    DrainResult::Idle => {}
                    DrainResult::Limit(open) => {
                        (requests, unsure) = (requests + open.requests, unsure + open.maybe_idle)
                    }
                }
            }
            Ok((requests, unsure))
        })?;
        self.cut += requests;
        match requests + unsure {
            0 if is_drained => self.report(|names| Event::Idle { names }, keys),
            0 => {}
            _ => self.context.report.warn(&Warning::DrainLimit {
                names: self.names(keys),
                limit: (!self.stop.is_hurried()).then_some(settings.drain_timeout),
                requests,
                unsure,
            }),
        }
        Ok(())
    }

    pub(super) fn stop(&mut self, keys: &[InstanceKey]) -> Result<()> {
        for key in keys {
            for hook in &self.service(key).pre_stop {
                let exec = hook_exec(&self.bound[key], hook).with_limit(self.drain_limit(key));
                self.try_exec(key, exec, "the pre_stop hook")?;
            }
        }
        self.context.docker.stop(&self.ids(keys))?;
        self.keep_down(keys);
        let stopped = |(k, _): &(&InstanceKey, &mut Container)| keys.contains(k);
        self.bound.iter_mut().filter(stopped).for_each(|(_, c)| c.mark_stopped());
        self.inside.retain(|k| !keys.contains(k));
        self.report(|names| Event::Stopped { names }, keys);
        Ok(())
    }

    pub(super) fn remove(&mut self, keys: &[InstanceKey]) -> Result<()> {
        self.context.docker.remove(&self.ids(keys))?;
        self.report(|names| Event::Removed { names }, keys);
        Ok(())
    }

    /// Removes them while the route is given back, which is the next step.
    pub(super) fn remove_and_release(&mut self, keys: &[InstanceKey]) -> Result<()> {
        let (docker, ids) = (self.context.docker, self.ids(keys));
        let (removed, released) = std::thread::scope(|scope| {
            let removed = scope.spawn(|| docker.remove(&ids));
            let released = self.hand_back();
            (removed.join().expect("no panic in a removal"), released)
        });
        removed?;
        self.report(|names| Event::Removed { names }, keys);
        self.released = released.is_ok();
        released
    }

    /// Gives the route back to the proxies' own discovery.
    ///
    /// # Errors
    /// A proxy that does not answer.
    pub fn hand_back(&self) -> Result<()> {
        self.note_others()?;
        let all: Vec<InstanceKey> = self.bound.keys().cloned().collect();
        let (existing, first) = std::thread::scope(|scope| {
            let existing = scope.spawn(|| self.context.docker.ids());
            let first = self.fresh(&all);
            (existing.join().expect("no panic in a read"), first)
        });
        let (existing, first) = (existing?, Cell::new(Some(first?)));
        for proxy in self.context.proxies {
            let now = || first.take().map_or_else(|| self.fresh(&all), Ok);
            let ours = || Ok(endpoints(proxy.as_ref(), now()?.iter()));
            drain::hand_back(self.context.docker, proxy.as_ref(), &ours, &existing)?;
        }
        Ok(())
    }
}
