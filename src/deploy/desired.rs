//! What each target has to become: how many instances, in what order and in what batches.

use std::time::Duration;

use super::observe::{TargetReader, TargetSnapshot};
use super::pipeline::Pipeline;
use super::targets::Target;
use crate::docker::inspect::Container;
use crate::error::Error;
use crate::model::{Order, Service, Update};
use crate::observed::{Instance, Observed};
use crate::plan::{DesiredService, PlanPolicy, Strategy};
use crate::preflight;
use crate::release::{InProgress, ReleaseRecord, RolloutKind};

/// A shorter monitor is none. Compose leaves `monitor: 0s` out of what it prints, so that files write `1ns`.
const SHORTEST: Duration = Duration::from_millis(1);

/// Two instances of a worker may spoil a volume that both write to; behind a proxy they always run side by side.
pub fn rests_for_its_volume(service: &Service, update: &Update, proxied: bool) -> bool {
    !proxied && service.holds_volume && update.order.is_none()
}

/// How a service is replaced: as asked for, and for a worker as its volumes and its probe allow.
pub fn pace(service: &Service, update: &Update, proxied: bool) -> PlanPolicy {
    let order = match rests_for_its_volume(service, update, proxied) {
        true => Order::StopFirst,
        false => update.order.unwrap_or_default(),
    };
    PlanPolicy {
        order,
        parallelism: update.parallelism as usize,
        delay: update.delay,
        monitor: if update.monitor < SHORTEST { Duration::ZERO } else { update.monitor },
    }
}

/// A fixed host port is free only once the old instance has stopped.
pub fn stop_first_where_needed(service: &Service, goal: &mut DesiredService) {
    if !service.fixed_ports.is_empty() {
        goal.pace.order = Order::StopFirst;
    }
}

impl Pipeline<'_> {
    /// How a service is replaced: by its `update_config`, or its `rollback_config` where a release is put back.
    pub fn policy<'s>(&self, service: &'s Service) -> &'s Update {
        match self.kind {
            RolloutKind::Rollback { .. } => &service.rollback,
            _ => &service.update,
        }
    }

    pub fn strategy(&self, reader: &TargetReader, snapshot: &TargetSnapshot) -> Result<Strategy, Error> {
        let (target, observed) = (reader.target, &snapshot.observed);
        let fallen = |name: &str| {
            let its =
                |c: &&Container| c.compose().is_some_and(|(_, service)| service == name) && c.has_failed();
            snapshot.containers.values().filter(its).count()
        };
        let sides = target.services();
        let goal = |name: &str| {
            let size = |name: &str| observed.size(name, fallen(name));
            self.goal(name, &sides, reader, (observed, &size))
        };
        let Target::Pair(pair) = target else {
            return Ok(Strategy::Scale(goal(target.name())));
        };
        let mut goals = [goal(&pair.sides[0]), goal(&pair.sides[1])];
        let serves = |s: &&str| observed.of(s).any(Instance::serves);
        if sides.iter().all(serves) {
            preflight::active_sides(self.project(), target)?;
            goals.iter_mut().for_each(|g| stop_first_where_needed(&self.project().services[&g.service], g));
        }
        Ok(Strategy::Pair(goals))
    }

    /// `--scale`, else the file, else as many as run (for the idle side of a pair: of the other one), else one.
    fn goal(
        &self,
        name: &str,
        sides: &[&str],
        reader: &TargetReader,
        (observed, size): (&Observed, &dyn Fn(&str) -> usize),
    ) -> DesiredService {
        let service = &self.project().services[name];
        let own = self.settled(name, observed).or(Some(size(name))).filter(|n| *n > 0);
        let running = own.or(sides.iter().map(|s| size(s)).max()).unwrap_or(0);
        let in_file = service.replicas.map(|n| n as usize);
        let wanted = self.sizes.get(name).copied().or(in_file).unwrap_or(running);
        let proxied = !reader.proxies.is_empty();
        DesiredService {
            service: name.into(),
            wanted: wanted.max(1),
            pace: pace(service, self.policy(service), proxied),
            spared: 0,
            clears_stopped: service.starts_by_compose,
            after_another: self.journal.follows_unfinished(),
            may_rest: !proxied,
        }
    }

    /// As the records tell it: after a rollout that was killed or got stuck, what runs is both releases and whatever it had
    /// come to; after one that paused, or that went on without some, old and new instances together are what it was to
    /// have.
    fn settled(&self, name: &str, observed: &Observed) -> Option<usize> {
        let (history, heading) = (&self.journal.history, &self.journal.heading);
        let recorded = |r: &ReleaseRecord| r.services.get(name).map(|placed| placed.replicas as usize);
        let is_stuck = |h: &&InProgress| !h.paused && h.services.iter().any(|s| s == name);
        if heading.as_ref().is_some_and(|h| is_stuck(&h)) {
            return history.current().and_then(recorded);
        }
        let paused = heading.as_ref().filter(|h| h.paused).and_then(|h| history.get(h.number));
        let count = recorded(paused.or(history.current())?)?;
        let serving = observed.of(name).filter(|i| i.serves()).count();
        Some(serving).filter(|n| *n == count)
    }
}
