//! Steps from the switch on: change the rotation, then drain, stop and remove the old instances.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::start::FRESH;
use super::{Rollout, hook_exec};
use crate::docker::Exec;
use crate::docker::inspect::Container;
use crate::health::monitor::MonitorFailure;
use crate::observed::InstanceKey;
use crate::proxy::converge::{self, DrainResult, Pursuit};
use crate::proxy::{Discovery, Goal, OtherContainers, Proxy, endpoints, other_containers};
use crate::report::{Event, Warning};

impl<'a> Rollout<'a> {
    /// Containers outside this rollout, for proxies that are set by address.
    pub(super) fn other_containers(&self) -> Result<OtherContainers> {
        if !self.context.proxies.iter().any(|p| p.abilities().gives_addresses) {
            return Ok(OtherContainers::new());
        }
        let is_ours = |c: &Container| self.containers.values().any(|own| own.id == c.id);
        let all = self.context.docker.containers()?;
        Ok(other_containers(all.iter().filter(|c| !is_ours(c))))
    }

    pub(super) fn route(&mut self, inside: &[InstanceKey], outside: &[InstanceKey]) -> Result<()> {
        if !self.is_dry_run() {
            // First, because requests wait.
            self.direct_relays(inside, outside);
        }
        self.others = self.other_containers()?;
        self.inside = inside.to_vec();
        self.without_dead(|rollout| {
            let mut rotations = rollout.rotations(outside).into_iter();
            rotations.try_for_each(|(proxy, rotation)| rollout.converge(proxy, Goal::Rotation(rotation)))
        })?;
        if self.is_dry_run() {
            self.note_confirmations();
            return Ok(());
        }
        self.admit();
        let now = Instant::now();
        self.left_rotation_at.retain(|id, _| !self.inside.iter().any(|k| self.containers[k].id == *id));
        for id in self.ids(outside) {
            self.left_rotation_at.entry(id).or_insert(now);
        }
        let names = |keys: &[InstanceKey]| self.names(keys);
        let (in_rotation, out_of_rotation) = (names(&self.inside), names(outside));
        self.context.report.event(Event::Routed { in_rotation, out_of_rotation });
        if self.inside.iter().all(|k| self.is_relay(k)) {
            self.report(Event::Holding, &self.inside);
        }
        Ok(())
    }

    /// Runs an action that needs every instance in rotation. A dead instance that no longer counts as failed does
    /// not block it.
    pub(super) fn without_dead<T>(&mut self, action: impl Fn(&Self) -> Result<T>) -> Result<T> {
        self.drop_dead_instances()?;
        self.retry_without_dead(action)
    }

    /// Like [`Rollout::without_dead`], for an action that a dead instance cannot spoil at its start.
    pub(super) fn retry_without_dead<T>(&mut self, action: impl Fn(&Self) -> Result<T>) -> Result<T> {
        loop {
            match action(self) {
                Err(error) if self.stop.signal().is_none() && !error.is::<MonitorFailure>() => {
                    if !self.drop_dead_instances()? {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
    }

    /// Removes dead instances from the rotation, unless none would be left. True if there were any.
    pub(super) fn drop_dead_instances(&mut self) -> Result<bool> {
        // The new instances of a dry run never start.
        if self.is_dry_run() {
            return Ok(false);
        }
        if self.read_at.take().is_none_or(|at| at.elapsed() > FRESH) {
            self.refresh()?;
        }
        self.check()?; // a monitored instance that died is a failure
        let runs = |key: &&InstanceKey| self.containers[*key].is_running();
        let (running, stopped): (Vec<InstanceKey>, Vec<InstanceKey>) =
            self.inside.iter().cloned().partition(|k| runs(&k));
        if self.is_replanned {
            self.fail_if_stopped(&stopped)?;
        }
        if running.is_empty() || stopped.is_empty() {
            return Ok(false);
        }
        self.report(Event::Exited, &stopped);
        self.context.report.warn(&Warning::Exited(self.names(&stopped)));
        if self.has_witness_losses.take() {
            self.context.witness.ignore_losses_so_far();
        }
        self.inside = running;
        Ok(true)
    }

    /// Brings a proxy to a goal, while the instances and the witness are checked.
    pub(super) fn converge(&self, proxy: &'a dyn Proxy, goal: Goal) -> Result<()> {
        if self.is_dry_run() {
            return self.list_goal(proxy, &goal);
        }
        self.keeper.forget(proxy);
        let mut pursuit = Pursuit::new(self.context.docker, proxy, goal);
        pursuit.converge(&self.stop, &|| self.check())?;
        self.keeper.keep(pursuit);
        Ok(())
    }

    /// Timeout of a command before the stop: a drain and the stop itself may take as long.
    fn drain_limit(&self, key: &InstanceKey) -> Duration {
        let service = self.service(key);
        service.settings.drain_timeout.max(service.stop_grace().unwrap_or_default())
    }

    pub(super) fn drain_command(&self, key: &InstanceKey) -> Result<()> {
        match self.service(key).settings.drain_command.clone() {
            Some(argv) => self.try_exec(
                key,
                Exec::user_command(&self.containers[key].id, argv).with_limit(self.drain_limit(key)),
                "the drain command",
            ),
            None => Ok(()),
        }
    }

    pub(super) fn idle(&mut self, keys: &[InstanceKey]) -> Result<()> {
        let service = self.service(&keys[0]);
        let limit = self.drain_time(service.settings.drain_timeout, service);
        self.report(Event::Draining, keys);
        keys.iter().filter(|key| !self.is_relay(key)).try_for_each(|key| self.drain_command(key))?;
        if self.is_dry_run() {
            self.note_drain(&keys[0]);
            return Ok(());
        }
        if keys.iter().any(|key| self.is_relay(key)) {
            // A killed run may have sent requests to a relay that is not in rotation. They would wait for nothing.
            self.direct_relays(&self.inside.clone(), keys);
        }
        self.take_from_relays(keys, limit)?;
        let since =
            keys.iter().filter_map(|k| self.left_rotation_at.get(&self.containers[k].id)).min().copied();
        let (requests, unsure) = self.retry_without_dead(|rollout| {
            let (mut requests, mut unsure) = (0, 0);
            let check = || rollout.check().and_then(|()| rollout.check_witness_losses());
            for (proxy, rotation) in rollout.rotations(keys) {
                let mut pursuit = Pursuit::new(rollout.context.docker, proxy, Goal::Rotation(rotation));
                let since = since.unwrap_or_else(Instant::now);
                match pursuit.wait_until_idle(limit, since, &rollout.stop, &check)? {
                    DrainResult::Idle => {}
                    DrainResult::Limit(open) => {
                        (requests, unsure) = (requests + open.requests, unsure + open.maybe_idle)
                    }
                }
            }
            Ok((requests, unsure))
        })?;
        self.cut_requests += requests;
        match requests + unsure {
            0 => self.report(Event::Drained, keys),
            _ => self.context.report.warn(&Warning::DrainTimeout {
                names: self.names(keys),
                limit: (!self.stop.is_hurried()).then_some(limit),
                requests,
                unsure,
            }),
        }
        Ok(())
    }

    pub(super) fn stop(&mut self, keys: &[InstanceKey]) -> Result<()> {
        self.report_held(keys);
        for key in keys.iter().filter(|key| !self.is_relay(key)) {
            for hook in &self.service(key).pre_stop {
                let exec = hook_exec(&self.containers[key], hook).with_limit(self.drain_limit(key));
                self.try_exec(key, exec, "the pre_stop hook")?;
            }
        }
        let returns = self.return_with_engine(keys);
        self.context.docker.stop(&self.ids(keys))?;
        if !returns {
            self.keep_stopped(keys);
        }
        let stopped = |(k, _): &(&InstanceKey, &mut Container)| keys.contains(k);
        self.containers.iter_mut().filter(stopped).for_each(|(_, c)| c.mark_stopped());
        self.inside.retain(|k| !keys.contains(k));
        self.report(Event::Stopped, keys);
        Ok(())
    }

    pub(super) fn remove(&mut self, keys: &[InstanceKey]) -> Result<()> {
        self.context.docker.remove(&self.ids(keys))?;
        self.report(Event::Removed, keys);
        Ok(())
    }

    /// Removes instances while the route is handed back, which is the next step.
    pub(super) fn remove_and_hand_back(&mut self, keys: &[InstanceKey]) -> Result<()> {
        let (docker, ids) = (self.context.docker, self.ids(keys));
        let (removed, released) = std::thread::scope(|scope| {
            let removed = scope.spawn(|| docker.remove(&ids));
            let released = self.hand_back();
            (removed.join().expect("no panic in a removal"), released)
        });
        removed?;
        self.report(Event::Removed, keys);
        self.is_handed_back = released.is_ok();
        released
    }

    /// Hands the route back to the proxies' own discovery.
    pub fn hand_back(&self) -> Result<()> {
        let others = self.other_containers()?;
        let all: Vec<InstanceKey> = self.containers.keys().cloned().collect();
        let existing = self.existing_ids()?;
        let first = Cell::new(Some(self.inspect(&all)?));
        for proxy in self.context.proxies {
            let now = || first.take().map_or_else(|| self.inspect(&all), Ok);
            let discovery = || {
                let endpoints = endpoints(proxy.as_ref(), now()?.iter());
                Ok(Discovery { endpoints, existing: existing.clone(), others: others.clone() })
            };
            if self.is_dry_run() {
                self.list_goal(proxy.as_ref(), &Goal::HandedBack(discovery()?))?;
            } else {
                self.keeper.forget(proxy.as_ref());
                converge::hand_back(self.context.docker, proxy.as_ref(), &discovery)?;
            }
        }
        Ok(())
    }

    /// Ids of all containers of the engine; in a dry run with the planned ones.
    fn existing_ids(&self) -> Result<Vec<String>> {
        if self.is_dry_run() {
            return Ok(self.containers.values().map(|c| c.id.clone()).collect());
        }
        self.context.docker.ids()
    }
}
