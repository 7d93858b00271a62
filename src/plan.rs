//! Planner: turns the desired and the observed state into a list of steps. Pure. It accepts every observed state,
//! so recovery after a kill is to observe and plan again.

mod bridge;
mod steps;
mod undo;

use std::time::Duration;

use crate::model::Order;
use crate::observed::{Generation, Instance, InstanceKey, InstanceState, Observed};
pub use bridge::Bridge;
pub use steps::{Batch, Cause, Plan, PlannedStep, Stage, Step};
use undo::is_different;
pub use undo::{RotationState, all_can_return, undo};

/// Desired state of one service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DesiredService {
    pub service: String,
    pub replicas: usize,
    pub policy: PlanPolicy,
    /// Number of slots that keep their instance, because the new one failed or the rollout is paused.
    pub kept_slots: usize,
    /// True if Compose itself has to start this service. Compose starts every stopped instance too, so none may be
    /// left by then.
    pub removes_stopped: bool,
    /// True if an earlier rollout did not finish: an instance without requests may be its leftover and is removed
    /// first.
    pub follows_unfinished: bool,
    /// True if no proxy sends requests to the service: all of it may be down during a stop-first replacement.
    pub may_be_down: bool,
}

/// Order, batches and monitor of a replacement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanPolicy {
    pub order: Order,
    /// Instances replaced at a time; 0 means all at once.
    pub parallelism: usize,
    /// Time between two batches.
    pub delay: Duration,
    /// Time for which new instances are monitored before the old ones are removed.
    pub monitor: Duration,
}

impl PlanPolicy {
    /// Number of instances in a batch; stop-first replaces one at a time by default.
    fn batch_size(&self) -> usize {
        match (self.parallelism, self.order) {
            (0, Order::StopFirst) => 1,
            (0, Order::StartFirst) => usize::MAX,
            (n, _) => n,
        }
    }
}

/// Strategy of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strategy {
    /// New instances of one service start beside the old ones, which are then removed.
    Scale(DesiredService),
    /// Two services are the sides of one app.
    Pair([DesiredService; 2]),
    /// The only instance of a service is replaced while a bridge takes its place.
    Bridge(DesiredService, Bridge),
}

impl Strategy {
    /// Desired states of its services.
    pub fn services(&self) -> &[DesiredService] {
        match self {
            Strategy::Scale(desired) | Strategy::Bridge(desired, _) => std::slice::from_ref(desired),
            Strategy::Pair(sides) => sides,
        }
    }
}

/// Desired state that cannot be reached without losing requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplannable {
    pub service: String,
    pub reason: &'static str,
    pub fix: &'static str,
}

/// Plans from the observed to the desired state.
///
/// # Errors
/// The only plan leaves no instance in rotation (stop-first with a single one).
pub fn plan(strategy: &Strategy, observed: &Observed) -> Result<Plan, Unplannable> {
    let mut builder = PlanBuilder::new(observed);
    match strategy {
        Strategy::Scale(desired) => builder.replace(desired)?,
        Strategy::Pair(sides) => builder.pair(sides)?,
        Strategy::Bridge(desired, kind) => builder.replace_owner(desired, *kind)?,
    }
    Ok(builder.finish())
}

/// Plan under construction, with the state after its last step.
struct PlanBuilder<'a> {
    observed: &'a Observed,
    /// In rotation after the last step.
    inside: Vec<InstanceKey>,
    /// Live, but out of rotation, after the last step.
    outside: Vec<InstanceKey>,
    /// Ready after the last step.
    ready: Vec<InstanceKey>,
    /// Number of created instances, by service.
    added: Vec<(String, usize)>,
    plan: Plan,
    /// Stopped instances, kept for an undo until the end.
    kept: Vec<InstanceKey>,
    /// Instances to take down after the monitor.
    leaving: Vec<OutgoingInstances>,
    /// Duration of the monitor.
    window: Duration,
}

/// Replaced instances of the last batch.
struct OutgoingInstances {
    keys: Vec<InstanceKey>,
    cause: Cause,
    /// Removed at once instead of at the end.
    removes: bool,
}

impl<'a> PlanBuilder<'a> {
    fn new(observed: &'a Observed) -> Self {
        let serving = observed.instances.iter().filter(|i| i.routed);
        let hidden = observed.instances.iter().filter(|i| !i.routed && i.is_live());
        PlanBuilder {
            observed,
            inside: keys(serving),
            outside: keys(hidden),
            ready: keys(observed.instances.iter().filter(|i| i.ready)),
            added: Vec::new(),
            plan: Plan::default(),
            kept: Vec::new(),
            leaving: Vec::new(),
            window: Duration::ZERO,
        }
    }

    /// Begins a batch; its steps follow. What was taken down before the first one belongs to it.
    fn begin_batch(&mut self) {
        let is_first =
            self.plan.batches.iter().all(|batch| batch.switch.is_empty() && !batch.has_new_instances());
        if self.plan.batches.is_empty() || !is_first {
            self.plan.batches.push(Batch::default());
        }
    }

    /// Adds a step to the last batch. Once a step has moved requests, all further ones belong to the switch.
    fn push(&mut self, step: Step, cause: Cause) {
        let brings_up = match step {
            Step::Idle(_) | Step::Stop(_) => cause == Cause::Leftover,
            Step::Route { .. } | Step::Delay(_) => false,
            _ => true,
        };
        if self.plan.batches.is_empty() {
            self.begin_batch();
        }
        let batch = self.plan.batches.last_mut().expect("a batch has begun");
        let is_switching = !batch.switch.is_empty() || !brings_up;
        let steps = if is_switching { &mut batch.switch } else { &mut batch.bring_up };
        steps.push((step, cause));
    }

    /// Replaces the old instances of a service.
    fn replace(&mut self, desired: &DesiredService) -> Result<(), Unplannable> {
        let members: Vec<&Instance> = self.observed.of(&desired.service).collect();
        let (arriving, leaving) = self.split(desired, &members);
        let (live, stopped): (Vec<InstanceKey>, Vec<InstanceKey>) =
            leaving.into_iter().partition(|k| self.is_live(k));
        if desired.removes_stopped {
            self.remove(&stopped, Cause::Leftover);
        }
        let resumes_monitor = self.resumes_monitor(desired, &members, &arriving);
        if resumes_monitor {
            self.window = self.window.max(desired.policy.monitor);
        }
        // An old instance without requests may be unhealthy, or out of rotation on purpose, so it is replaced with
        // the others.
        let leaves_first =
            |k: &&InstanceKey| (desired.follows_unfinished && !resumes_monitor) || self.is_new(k);
        let leaving_first: Vec<InstanceKey> = live.iter().filter(leaves_first).cloned().collect();
        let gone = self.make_room(&leaving_first, Cause::Leftover);
        if desired.removes_stopped {
            self.remove(&gone, Cause::Leftover);
        }
        self.exchange(desired, arriving, live.clone())?;
        if !desired.removes_stopped {
            self.kept.extend([live, stopped].concat());
        }
        Ok(())
    }

    /// Takes down instances without requests, as long as another one serves: a proxy may have no free place for the
    /// new ones. Returns them.
    fn make_room(&mut self, leaving: &[InstanceKey], cause: Cause) -> Vec<InstanceKey> {
        let served = self.observed.proxied && self.inside.iter().any(|k| self.ready.contains(k));
        let idle: Vec<InstanceKey> =
            leaving.iter().filter(|k| served && self.outside.contains(k)).cloned().collect();
        self.take_down(&idle, cause);
        idle
    }

    /// True if an earlier rollout reached its monitor: all new instances are in rotation, and some are younger than
    /// the monitor.
    fn resumes_monitor(
        &self,
        desired: &DesiredService,
        members: &[&Instance],
        arriving: &[InstanceKey],
    ) -> bool {
        let young = |i: &&Instance| i.is_young(desired.policy.monitor);
        desired.follows_unfinished && arriving.is_empty() && members.iter().any(young)
    }

    /// Takes down replaced instances and keeps them, stopped, for an undo until the end.
    fn retire(&mut self, desired: &DesiredService, outgoing: &[InstanceKey]) {
        self.take_down(outgoing, Cause::Replaced);
        if desired.removes_stopped {
            self.remove(outgoing, Cause::Replaced);
        }
    }

    /// Retires instances after the monitor, because the last old ones must be able to return until then.
    fn retire_later(&mut self, keys: Vec<InstanceKey>, cause: Cause, removes: bool) {
        self.leaving.push(OutgoingInstances { keys, cause, removes });
    }

    /// Takes down the postponed instances, because the next batch follows or the monitor is over.
    fn retire_all(&mut self) {
        for OutgoingInstances { keys, cause, removes } in std::mem::take(&mut self.leaving) {
            self.take_down(&keys, cause);
            if removes {
                self.remove(&keys, cause);
            }
        }
    }

    /// Separates the instances of a service into those that have to join the rotation and those that leave.
    fn split(
        &mut self,
        desired: &DesiredService,
        members: &[&Instance],
    ) -> (Vec<InstanceKey>, Vec<InstanceKey>) {
        let fits = |i: &Instance| i.is_live() || !desired.removes_stopped;
        let mut usable: Vec<&Instance> =
            members.iter().copied().filter(|i| is_usable(i) && fits(i)).collect();
        usable.sort_by_key(|i| (!i.routed, i.state != InstanceState::Running));
        usable.truncate(desired.replicas.saturating_sub(desired.kept_slots));
        let missing = desired.replicas.saturating_sub(desired.kept_slots + usable.len());
        let staying: Vec<&Instance> = usable.into_iter().chain(kept_instances(desired, members)).collect();
        let is_in_service = |i: &&&Instance| i.serves() && i.ready;
        let mut arriving = keys(staying.iter().filter(|i| !is_in_service(i)).copied());
        // A paused rollout may have no sound instance to stay on; then all that serve stay.
        let none_sound = staying.is_empty() && missing == 0;
        let stays = |i: &&Instance| staying.iter().any(|u| u.key == i.key) || (none_sound && i.serves());
        let leaving = keys(members.iter().filter(|i| !stays(i)).copied());
        arriving.extend((1..=missing).map(|n| format!("{}+{n}", desired.service)));
        self.plan.slots += arriving.len();
        (arriving, leaving)
    }

    /// Replaces `leaving` by `arriving` in the rotation, in the configured order and batches.
    fn exchange(
        &mut self,
        desired: &DesiredService,
        arriving: Vec<InstanceKey>,
        leaving: Vec<InstanceKey>,
    ) -> Result<(), Unplannable> {
        let mut live: Vec<InstanceKey> = leaving.into_iter().filter(|k| self.is_live(k)).collect();
        live.sort_by_key(|k| self.ready.contains(k)); // unready ones leave first
        if !arriving.is_empty() {
            self.retire_all();
            self.window = self.window.max(desired.policy.monitor);
        }
        match desired.policy.order {
            Order::StartFirst => self.start_first(desired, arriving, live),
            Order::StopFirst => return self.stop_first(desired, arriving, live),
        }
        Ok(())
    }

    fn start_first(
        &mut self,
        desired: &DesiredService,
        mut arriving: Vec<InstanceKey>,
        mut live: Vec<InstanceKey>,
    ) {
        while !arriving.is_empty() || !live.is_empty() {
            let (batch, outgoing) = next_batch(&mut arriving, &mut live, desired.policy.batch_size());
            self.begin_batch();
            self.create(desired, &batch);
            self.bring_up(&batch, Cause::NotYetReady);
            self.route(&batch, &outgoing, Cause::Admit);
            if arriving.is_empty() && live.is_empty() {
                self.retire_later(outgoing, Cause::Replaced, desired.removes_stopped);
                return;
            }
            self.retire(desired, &outgoing);
            self.delay(&desired.policy);
        }
    }

    fn stop_first(
        &mut self,
        desired: &DesiredService,
        mut arriving: Vec<InstanceKey>,
        mut live: Vec<InstanceKey>,
    ) -> Result<(), Unplannable> {
        while !arriving.is_empty() || !live.is_empty() {
            let (batch, outgoing) = next_batch(&mut arriving, &mut live, desired.policy.batch_size());
            if !self.keeps_rotation_filled(desired, &outgoing)? {
                live.extend(outgoing);
                arriving.extend(batch);
                self.start_first(desired, arriving, live);
                return Ok(());
            }
            self.begin_batch();
            self.route(&[], &outgoing, Cause::Replaced);
            self.retire(desired, &outgoing);
            self.create(desired, &batch);
            self.bring_up(&batch, Cause::NotYetReady);
            self.route(&batch, &[], Cause::Admit);
            if !arriving.is_empty() || !live.is_empty() {
                self.delay(&desired.policy);
            }
        }
        Ok(())
    }

    fn delay(&mut self, policy: &PlanPolicy) {
        if !policy.delay.is_zero() {
            self.push(Step::Delay(policy.delay), Cause::Configured);
        }
    }

    /// Returns the instances that served to the rotation, and stops `leaving`.
    fn exchange_back(&mut self, back: &[InstanceKey], mut leaving: Vec<InstanceKey>, policy: &PlanPolicy) {
        let mut down: Vec<InstanceKey> = back.iter().filter(|k| !self.is_live(k)).cloned().collect();
        leaving.sort_by_key(|k| self.ready.contains(k)); // unready ones leave first
        // Running instances return before others start.
        let waiting: Vec<InstanceKey> = back.iter().filter(|k| self.outside.contains(k)).cloned().collect();
        if !waiting.is_empty() && !down.is_empty() {
            let outgoing = take(&mut leaving, waiting.len());
            self.route(&waiting, &outgoing, Cause::Failed);
            self.take_down(&outgoing, Cause::Failed);
        }
        if !down.is_empty() {
            self.make_room(&leaving, Cause::Failed);
            leaving.retain(|k| self.is_live(k));
        }
        loop {
            let live_back =
                |builder: &Self| back.iter().filter(|k| builder.is_live(k)).cloned().collect::<Vec<_>>();
            let batch = take(&mut down, policy.batch_size());
            let outgoing =
                if down.is_empty() { std::mem::take(&mut leaving) } else { take(&mut leaving, batch.len()) };
            let before = live_back(self);
            if policy.order == Order::StopFirst && !before.is_empty() {
                self.route(&before, &outgoing, Cause::Failed);
                self.take_down(&outgoing, Cause::Failed);
            }
            self.begin_batch();
            self.bring_up(&batch, Cause::Failed);
            self.route(&live_back(self), &outgoing, Cause::Failed);
            self.take_down(&outgoing, Cause::Failed);
            if down.is_empty() {
                return;
            }
            self.delay(policy);
        }
    }

    /// True if the rotation is not empty without `going`. If none in it is ready, an empty one does no harm, and
    /// start-first is used.
    fn keeps_rotation_filled(
        &self,
        desired: &DesiredService,
        outgoing: &[InstanceKey],
    ) -> Result<bool, Unplannable> {
        if desired.may_be_down {
            return Ok(true);
        }
        let serves = |k: &&InstanceKey| self.inside.contains(k) && self.ready.contains(k);
        let stays = |k: &&InstanceKey| !outgoing.contains(k);
        let loses = outgoing.iter().any(|k| serves(&k));
        if loses && !self.inside.iter().filter(serves).any(|k| stays(&k)) {
            Err(Unplannable {
                service: desired.service.clone(),
                reason: "is replaced stop-first, and no other instance would serve meanwhile",
                fix: "use `order: start-first`, let requests wait (`x-zd.hold`), or run more instances than are replaced at a time",
            })
        } else {
            Ok(self.inside.is_empty() || self.inside.iter().any(|k| stays(&k) && !self.is_broken(k)))
        }
    }

    /// Switches from the active to the idle side of a pair, or replaces two active sides one after the other.
    fn pair(&mut self, sides: &[DesiredService; 2]) -> Result<(), Unplannable> {
        let observed = self.observed;
        let routed = |g: &DesiredService| observed.of(&g.service).any(Instance::serves);
        let runs = |g: &DesiredService| observed.of(&g.service).any(Instance::is_live);
        let [first, second] = sides;
        match (routed(first), routed(second)) {
            (true, true) => {
                self.replace(first)?;
                self.replace(second)
            }
            (true, false) => self.switch(first, second),
            (false, true) => self.switch(second, first),
            (false, false) if runs(second) && !runs(first) => self.switch(first, second),
            (false, false) => {
                self.replace(first)?;
                self.stop_unused(second);
                Ok(())
            }
        }
    }

    /// Stops the instances of a side that must not serve.
    fn stop_unused(&mut self, side: &DesiredService) {
        let live = keys(self.observed.of(&side.service).filter(|i| i.is_live()));
        self.retire_later(live, Cause::Leftover, false);
    }

    /// Keeps the active side if it is up to date; else the idle side takes over, and the active one is kept,
    /// stopped.
    fn switch(&mut self, active: &DesiredService, idle: &DesiredService) -> Result<(), Unplannable> {
        let observed = self.observed;
        let mut serving = observed.of(&active.service).filter(|i| i.serves());
        if serving.all(is_usable) && observed.of(&active.service).any(Instance::serves) {
            self.stop_unused(idle);
            return self.replace(active);
        }
        self.remove_stale(idle);
        let members: Vec<&Instance> = observed.of(&idle.service).collect();
        let (arriving, mut leaving) = self.split(idle, &members);
        let removed = leaving.clone();
        leaving.extend(keys(observed.of(&active.service)));
        let policy = PlanPolicy { monitor: idle.policy.monitor, ..PlanPolicy::default() };
        let all_at_once = DesiredService { policy, removes_stopped: false, ..idle.clone() };
        self.exchange(&all_at_once, arriving, leaving)?;
        let live: Vec<InstanceKey> = removed.into_iter().filter(|k| self.was_live(k)).collect();
        self.kept.extend(live);
        Ok(())
    }

    /// Removes the stopped instances of the idle side's older release, whose names the new ones get.
    fn remove_stale(&mut self, idle: &DesiredService) {
        let stale = |i: &&Instance| !i.is_live() && i.generation == Generation::Old;
        let stale = keys(self.observed.of(&idle.service).filter(stale));
        self.remove(&stale, Cause::Leftover);
    }

    fn is_live(&self, key: &InstanceKey) -> bool {
        self.inside.contains(key) || self.outside.contains(key)
    }

    /// True for an instance that a proxy may still list and that cannot answer.
    fn is_broken(&self, key: &InstanceKey) -> bool {
        self.observed.get(key).is_some_and(|i| i.state == InstanceState::Broken)
    }

    fn is_new(&self, key: &InstanceKey) -> bool {
        self.observed.get(key).is_some_and(|i| i.generation == Generation::New)
    }

    fn was_live(&self, key: &InstanceKey) -> bool {
        self.observed.get(key).is_some_and(Instance::is_live)
    }

    fn create(&mut self, desired: &DesiredService, batch: &[InstanceKey]) {
        let fresh: Vec<InstanceKey> =
            batch.iter().filter(|k| self.observed.get(k).is_none()).cloned().collect();
        if fresh.is_empty() {
            return;
        }
        let service = desired.service.clone();
        self.added.push((service.clone(), fresh.len()));
        let total = self.count(&service);
        self.push(Step::Create { service, fresh, total }, Cause::Missing);
    }

    /// Number of containers of a service after the last step.
    fn count(&self, service: &str) -> usize {
        let added: usize = self.added.iter().filter(|(s, _)| s == service).map(|(_, n)| n).sum();
        let gone = |key: &str| {
            self.plan
                .steps()
                .iter()
                .any(|(step, _)| matches!(step, Step::Remove(keys) if keys.iter().any(|k| k == key)))
        };
        self.observed.of(service).filter(|i| !gone(&i.key)).count() + added
    }

    /// Gates and starts the stopped ones, and waits until all are ready.
    fn bring_up(&mut self, batch: &[InstanceKey], cause: Cause) {
        let down: Vec<InstanceKey> = batch.iter().filter(|k| !self.is_live(k)).cloned().collect();
        if !down.is_empty() {
            if self.observed.proxied {
                self.push(Step::Gate(down.clone()), cause);
            }
            self.push(Step::Start(down.clone()), cause);
            self.outside.extend(down);
        }
        if !batch.is_empty() {
            self.push(Step::Ready(batch.to_vec()), cause);
            self.ready.extend(batch.iter().cloned());
        }
    }

    /// Changes the rotation. A second change in a row replaces the first. An empty rotation is never planned: a
    /// failed first deploy has none to return to.
    fn route(&mut self, admit: &[InstanceKey], drain: &[InstanceKey], cause: Cause) {
        let moves = |from: &[InstanceKey], keys: &[InstanceKey]| keys.iter().any(|k| from.contains(k));
        if !moves(&self.outside, admit) && !moves(&self.inside, drain) {
            return;
        }
        let live: Vec<InstanceKey> = [&self.inside[..], &self.outside[..]].concat();
        let stays = |k: &InstanceKey| {
            let keeps = self.inside.contains(k) && !drain.contains(k) && !self.is_broken(k);
            admit.contains(k) || keeps
        };
        let (inside, outside): (Vec<InstanceKey>, Vec<InstanceKey>) = live.into_iter().partition(stays);
        if inside.is_empty() {
            return;
        }
        (self.inside, self.outside) = (inside, outside);
        if !self.observed.proxied {
            return;
        }
        let mut batches = self.plan.batches.iter_mut().rev();
        if let Some(batch) = batches.find(|batch| batch.steps().next().is_some()) {
            batch.switch.pop_if(|(step, _)| matches!(step, Step::Route { .. }));
        }
        let (inside, outside) = (self.inside.clone(), self.outside.clone());
        self.push(Step::Route { inside, outside }, cause);
    }

    /// Waits until the live ones of `keys` are idle, and stops them.
    fn take_down(&mut self, keys: &[InstanceKey], cause: Cause) {
        let live: Vec<InstanceKey> = keys.iter().filter(|k| self.is_live(k)).cloned().collect();
        if live.is_empty() {
            return;
        }
        let drained: Vec<InstanceKey> = live.iter().filter(|k| self.outside.contains(k)).cloned().collect();
        if self.observed.proxied && !drained.is_empty() {
            self.push(Step::Idle(drained), cause);
        }
        self.inside.retain(|k| !live.contains(k));
        self.outside.retain(|k| !live.contains(k));
        self.push(Step::Stop(live), cause);
    }

    fn remove(&mut self, keys: &[InstanceKey], cause: Cause) {
        if !keys.is_empty() {
            self.push(Step::Remove(keys.to_vec()), cause);
        }
    }

    fn finish(mut self) -> Plan {
        if !self.window.is_zero() {
            self.plan.monitor = Some((Step::Monitor(self.window), Cause::Configured));
        }
        let is_removal = |(step, _): &PlannedStep| matches!(step, Step::Remove(_));
        // What follows the monitor is planned like a batch. Removals alone make no batch.
        let only_removes = self.plan.steps().into_iter().all(|(step, _)| matches!(step, Step::Remove(_)));
        let batches = if only_removes { 0 } else { self.plan.batches.len() };
        self.plan.batches.push(Batch::default());
        self.retire_all();
        let kept = std::mem::take(&mut self.kept);
        self.remove(&kept, Cause::Replaced);
        let (mut plan, live) = (self.plan, [self.inside, self.outside].concat());
        for batch in plan.batches.split_off(batches) {
            plan.retire.extend(batch.bring_up.into_iter().chain(batch.switch));
        }
        let cleanup = plan.retire.iter().rposition(|step| !is_removal(step)).map_or(0, |last| last + 1);
        plan.cleanup = plan.retire.split_off(cleanup);
        let renamed = to_rename(self.observed, &live, &plan);
        if !renamed.is_empty() {
            plan.cleanup.push((Step::Rename(renamed), Cause::CleanedUp));
        }
        if !plan.is_empty() && self.observed.proxied {
            plan.cleanup.push((Step::HandBack, Cause::CleanedUp));
        }
        plan
    }
}

/// Instances that were set aside and are the only ones of their services after a plan, or the only live ones. A new instance
/// gets the name of its service when it is created.
fn to_rename(observed: &Observed, live: &[InstanceKey], plan: &Plan) -> Vec<InstanceKey> {
    let (mut removed, mut renewed) = (Vec::new(), Vec::new());
    for (step, _) in plan.steps() {
        match step {
            Step::Remove(keys) => removed.extend(keys),
            Step::Create { service, .. } => renewed.push(service),
            _ => {}
        }
    }
    let is_only = |i: &&Instance| {
        let left = || observed.of(&i.service).filter(|o| !o.is_bridge && !removed.contains(&&o.key));
        let mut others = left().filter(|o| o.key != i.key);
        let is_live = live.contains(&i.key);
        left().any(|o| o.key == i.key) && others.all(|o| is_live && !live.contains(&o.key))
    };
    let is_due = |i: &&Instance| i.is_set_aside && !renewed.contains(&&i.service);
    keys(observed.instances.iter().filter(is_due).filter(is_only))
}

/// True for a new instance that may stay: not broken, and not in rotation without being ready.
fn is_usable(instance: &Instance) -> bool {
    let unhealthy = instance.serves() && !instance.ready;
    instance.generation == Generation::New && instance.state != InstanceState::Broken && !unhealthy
}

/// Old instances that stay in their slots, best first.
fn kept_instances<'a>(desired: &DesiredService, members: &[&'a Instance]) -> Vec<&'a Instance> {
    let sound = |i: &&Instance| i.generation == Generation::Old && i.state != InstanceState::Broken;
    let fits = |i: &&Instance| i.is_live() || !desired.removes_stopped;
    let mut sound: Vec<&Instance> = members.iter().copied().filter(|i| sound(i) && fits(i)).collect();
    sound.sort_by_key(|i| (!(i.serves() && i.ready), !i.serves(), !i.is_live()));
    sound.truncate(desired.kept_slots);
    sound
}

fn keys<'a>(instances: impl Iterator<Item = &'a Instance>) -> Vec<InstanceKey> {
    instances.map(|i| i.key.clone()).collect()
}

/// Next batch to admit, and the instances that it replaces; the last batch replaces all that are left.
fn next_batch(
    arriving: &mut Vec<InstanceKey>,
    live: &mut Vec<InstanceKey>,
    size: usize,
) -> (Vec<InstanceKey>, Vec<InstanceKey>) {
    let batch = take(arriving, size);
    let outgoing = if arriving.is_empty() { std::mem::take(live) } else { take(live, size) };
    (batch, outgoing)
}

/// Removes up to `size` keys from the front.
fn take(keys: &mut Vec<InstanceKey>, size: usize) -> Vec<InstanceKey> {
    let rest = keys.split_off(size.min(keys.len()));
    std::mem::replace(keys, rest)
}

#[cfg(test)]
mod tests;
