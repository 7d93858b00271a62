//! Undo: the instances that served at the start serve again, and the new ones are removed.

use super::{Cause, Plan, PlanBuilder, PlanPolicy, keys};
use crate::observed::{Generation, Instance, InstanceKey, InstanceState, Observed};

/// Plans an undo: the instances that served at the start serve again, and the new ones are removed.
///
/// `start` is the state before the first step, `now` the state after the failure. Old instances that still run
/// return at once, and stopped ones in the batches of `policy`. New instances that serve replace old ones that
/// cannot return, so the rotation does not shrink.
pub fn undo(start: &Observed, now: &Observed, policy: &PlanPolicy) -> Plan {
    let mut builder = PlanBuilder::new(now);
    if now.instances.iter().any(|i| i.is_bridge) {
        builder.undo_bridge(start);
        return builder.finish();
    }
    let mut back: Vec<InstanceKey> = keys(now.instances.iter().filter(|i| i.can_return(start)));
    let missing = missing(start, now);
    let is_added = |i: &&Instance| start.get(&i.key).is_none_or(|before| is_different(before, i));
    let is_restarted = |i: &&Instance| start.get(&i.key).is_some_and(|b| !b.is_live()) && i.is_live();
    let (added, existing): (Vec<&Instance>, Vec<&Instance>) = now.instances.iter().partition(is_added);
    let mut outgoing: Vec<&Instance> =
        added.iter().copied().chain(existing.into_iter().filter(is_restarted)).collect();
    outgoing.sort_by_key(|i| !(i.ready && i.routed));
    let staying: Vec<InstanceKey> = keys(outgoing.iter().copied().filter(|i| i.can_stay()).take(missing));
    let leaves = |i: &&Instance| !staying.contains(&i.key);
    let leaving: Vec<InstanceKey> = keys(outgoing.iter().copied().filter(leaves));
    let added: Vec<InstanceKey> = keys(added.into_iter().filter(leaves));
    back.extend(staying);
    builder.exchange_back(&back, leaving, policy);
    builder.remove(&added, Cause::Failed);
    builder.finish()
}

/// True if all instances that served at the start can serve again.
pub fn all_can_return(start: &Observed, now: &Observed) -> bool {
    missing(start, now) == 0
}

/// Number of instances that served at the start and cannot serve again.
fn missing(start: &Observed, now: &Observed) -> usize {
    let back = now.instances.iter().filter(|i| i.can_return(start)).count();
    start.serving().count().saturating_sub(back)
}

/// Change of a rotation since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RotationState {
    /// Served at the start, and serve now.
    pub still_serving: Vec<InstanceKey>,
    /// Served at the start, and do not serve now.
    pub gone: Vec<InstanceKey>,
    /// Ready instances that serve in their place.
    pub replacements: Vec<InstanceKey>,
}

impl RotationState {
    /// `start` is the state before the first step, `now` the state at the end.
    pub fn new(start: &Observed, now: &Observed) -> RotationState {
        let serves = |i: &&Instance| now.get(&i.key).is_some_and(|n| n.serves() && !is_different(i, n));
        let (still, gone): (Vec<&Instance>, Vec<&Instance>) = start.serving().partition(serves);
        let candidates = now.serving().filter(|i| i.ready && !still.iter().any(|s| s.key == i.key));
        RotationState {
            replacements: keys(candidates.take(gone.len())),
            still_serving: keys(still.into_iter()),
            gone: keys(gone.into_iter()),
        }
    }

    /// The same change, with names for people.
    pub fn with_names(self, name: &dyn Fn(&InstanceKey) -> String) -> RotationState {
        let names = |keys: Vec<InstanceKey>| keys.iter().map(name).collect();
        RotationState {
            still_serving: names(self.still_serving),
            gone: names(self.gone),
            replacements: names(self.replacements),
        }
    }

    /// True if fewer instances serve than before.
    pub fn is_worse(&self) -> bool {
        self.replacements.len() < self.gone.len()
    }
}

impl Instance {
    /// True if the instance served at the start and can serve again.
    pub(super) fn can_return(&self, start: &Observed) -> bool {
        let served = start.get(&self.key).is_some_and(|s| s.serves() && !is_different(s, self));
        served && self.state != InstanceState::Broken
    }

    /// True if the instance can replace one that is gone.
    pub(super) fn can_stay(&self) -> bool {
        self.serves() || (self.state == InstanceState::Running && self.ready)
    }
}

/// True if a new container has the name of a removed old one.
pub(super) fn is_different(before: &Instance, now: &Instance) -> bool {
    before.generation == Generation::Old && now.generation == Generation::New
}
