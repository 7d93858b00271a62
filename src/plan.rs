//! Planner: turns the desired and the observed state into a list of steps. Pure. It accepts every observed state,
//! so recovery after a kill is to observe and plan again.

mod bridge;

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use crate::model::Order;
use crate::observed::{Generation, Instance, InstanceKey, InstanceState, Observed};

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
    /// The only instance of a service is replaced while a bridge serves.
    Bridge(DesiredService),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// Create instances, without starting them; `total` includes the existing ones.
    Create {
        service: String,
        fresh: Vec<InstanceKey>,
        total: usize,
    },
    /// Create the bridge, without starting it; `total` includes the existing instances.
    CreateBridge {
        service: String,
        key: InstanceKey,
        total: usize,
    },
    /// Keep these out of rotation before they start.
    Gate(Vec<InstanceKey>),
    Start(Vec<InstanceKey>),
    /// Wait until all of these are ready.
    Ready(Vec<InstanceKey>),
    /// New requests go to exactly `inside`, and the proxy confirms it.
    Route {
        inside: Vec<InstanceKey>,
        outside: Vec<InstanceKey>,
    },
    /// Wait until these have no request in flight.
    Idle(Vec<InstanceKey>),
    /// Wait between two batches.
    Delay(Duration),
    /// Monitor the new instances.
    Monitor(Duration),
    Stop(Vec<InstanceKey>),
    Remove(Vec<InstanceKey>),
    /// Hand the route back to the proxy's own discovery.
    HandBack,
}

impl Step {
    /// Name in `--output json`.
    pub fn verb(&self) -> &'static str {
        match self {
            Step::Create { .. } | Step::CreateBridge { .. } => "create",
            Step::Gate(_) => "gate",
            Step::Start(_) => "start",
            Step::Ready(_) => "wait_ready",
            Step::Route { .. } => "route",
            Step::Idle(_) => "drain",
            Step::Delay(_) => "delay",
            Step::Monitor(_) => "monitor",
            Step::Stop(_) => "stop",
            Step::Remove(_) => "remove",
            Step::HandBack => "hand_back",
        }
    }

    /// True for a step towards the switch. After the last one the new release serves, so finishing is faster than
    /// an undo.
    pub fn moves_requests(&self) -> bool {
        matches!(self, Step::Route { .. } | Step::Ready(_) | Step::Delay(_) | Step::Monitor(_))
    }

    /// Instances of the step; for a route, those in rotation.
    pub fn keys(&self) -> &[InstanceKey] {
        match self {
            Step::Create { fresh: keys, .. }
            | Step::Gate(keys)
            | Step::Start(keys)
            | Step::Ready(keys)
            | Step::Route { inside: keys, .. }
            | Step::Idle(keys)
            | Step::Stop(keys)
            | Step::Remove(keys) => keys,
            Step::CreateBridge { key, .. } => std::slice::from_ref(key),
            Step::Delay(_) | Step::Monitor(_) | Step::HandBack => &[],
        }
    }
}

/// Cause of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    Missing,
    Bridge,
    NotYetReady,
    Admit,
    Replaced,
    Leftover,
    Failed,
    Configured,
    CleanedUp,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::Missing => "the new release does not exist yet",
            Cause::Bridge => "serves while the only instance is replaced",
            Cause::NotYetReady => "not yet ready",
            Cause::Admit => "ready",
            Cause::Replaced => "replaced",
            Cause::Leftover => "not serving",
            Cause::Failed => "the rollout failed",
            Cause::Configured => "as `update_config` says",
            Cause::CleanedUp => "cleanup",
        })
    }
}

/// Step with its cause.
pub type PlannedStep = (Step, Cause);

/// Plan of a rollout: batches, each of which brings up new instances and moves requests to them, and what follows them.
/// An empty plan changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub batches: Vec<Batch>,
    /// Monitor of the new instances, while the last old ones keep running.
    monitor: Option<PlannedStep>,
    /// Drain and stop of the last old instances.
    retire: Vec<PlannedStep>,
    /// Removal of the old release, which a serving release does not need.
    cleanup: Vec<PlannedStep>,
    /// Number of instances that have to join the rotation.
    pub slots: usize,
}

/// Instances that are replaced together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Steps until the new instances are ready, without a client request.
    bring_up: Vec<PlannedStep>,
    /// Steps that move requests. With stop-first, new instances start between them.
    switch: Vec<PlannedStep>,
}

impl Batch {
    fn steps(&self) -> impl Iterator<Item = &PlannedStep> {
        self.bring_up.iter().chain(&self.switch)
    }

    /// True if new instances get ready in the batch. A batch may also only stop instances.
    fn has_new_instances(&self) -> bool {
        self.steps().any(|(step, _)| matches!(step, Step::Ready(_)))
    }
}

/// Stages of a plan, so that several plans can run side by side: all bring up, then all switch, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The first new instances get ready, without a client request.
    BringUp,
    /// Requests move over, batch by batch; the old instances of the last batch keep running.
    Switch,
    /// The new instances are monitored.
    Monitor,
    /// The last old instances are drained and stopped.
    Retire,
    /// The old release is removed.
    Clean,
}

impl Plan {
    /// Steps of one stage.
    fn stage_steps(&self, stage: Stage) -> Vec<&PlannedStep> {
        let first = self.batches.iter().take(1).flat_map(|batch| &batch.bring_up);
        match stage {
            Stage::BringUp => first.collect(),
            Stage::Switch => self.batches.iter().flat_map(Batch::steps).skip(first.count()).collect(),
            Stage::Monitor => self.monitor.iter().collect(),
            Stage::Retire => self.retire.iter().collect(),
            Stage::Clean => self.cleanup.iter().collect(),
        }
    }

    /// All steps in order.
    pub fn steps(&self) -> Vec<&PlannedStep> {
        let after = self.monitor.iter().chain(&self.retire).chain(&self.cleanup);
        self.batches.iter().flat_map(Batch::steps).chain(after).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.steps().is_empty()
    }

    /// Positions of the steps of one stage.
    pub fn stage(&self, stage: Stage) -> Range<usize> {
        let stages = [Stage::BringUp, Stage::Switch, Stage::Monitor, Stage::Retire, Stage::Clean];
        let before = stages.iter().take_while(|s| **s < stage);
        let start = before.map(|s| self.stage_steps(*s).len()).sum();
        start..start + self.stage_steps(stage).len()
    }

    /// True if a rollout was killed during its monitor, and this plan only continues the monitor.
    pub fn resumes_monitor(&self) -> bool {
        self.slots == 0 && self.monitor.is_some()
    }

    /// Duration of the monitor.
    pub fn window(&self) -> Option<Duration> {
        match self.monitor {
            Some((Step::Monitor(time), _)) => Some(time),
            _ => None,
        }
    }

    /// Number of the batch of a step, from 1, and of all batches with new instances.
    pub fn batch(&self, n: usize) -> (usize, usize) {
        let count = |batches: &[Batch]| batches.iter().filter(|b| b.has_new_instances()).count();
        let all = count(&self.batches).max(1);
        let ends = self.batches.iter().scan(0, |end, batch| {
            *end += batch.steps().count();
            Some(*end)
        });
        let index = ends.take_while(|end| *end <= n).count();
        (count(&self.batches[..self.batches.len().min(index + 1)]).clamp(1, all), all)
    }

    /// Positions of the steps before the hand-back. When several plans are undone, a proxy's own discovery must wait for
    /// all of them, because it sees the new instances of each.
    pub fn before_hand_back(&self) -> Range<usize> {
        let steps = self.steps();
        0..steps.iter().position(|(s, _)| *s == Step::HandBack).unwrap_or(steps.len())
    }

    /// Highest number of instances of each service at a time.
    pub fn totals(&self) -> Vec<(String, usize)> {
        let mut totals: Vec<(String, usize)> = Vec::new();
        for (step, _) in self.steps() {
            if let Step::Create { service, total, .. } = step {
                totals.retain(|(name, _)| name != service);
                totals.push((service.clone(), *total));
            }
        }
        totals
    }

    /// Highest number of additional instances at a time.
    pub fn extra_instances(&self) -> usize {
        let (mut more, mut most) = (0isize, 0);
        for (step, _) in self.steps() {
            match step {
                Step::Start(keys) => more += keys.len() as isize,
                Step::Stop(keys) => more -= keys.len() as isize,
                _ => {}
            }
            most = most.max(more);
        }
        most as usize
    }
}

/// Desired state that cannot be reached without losing requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplannable {
    pub service: String,
    pub reason: &'static str,
    pub fix: &'static str,
}

impl Step {
    /// Step as a person reads it; `name` names an instance.
    pub fn describe(&self, name: &dyn Fn(&InstanceKey) -> String) -> String {
        let list = |keys: &[InstanceKey]| match keys {
            [] => "nothing".to_string(),
            keys => keys.iter().map(name).collect::<Vec<_>>().join(", "),
        };
        match self {
            Step::Create { fresh, .. } => format!("create {}", list(fresh)),
            Step::CreateBridge { key, .. } => format!("create the stand-in {}", name(key)),
            Step::Gate(keys) => format!("gate {}", list(keys)),
            Step::Start(keys) => format!("start {}", list(keys)),
            Step::Ready(keys) => format!("wait until ready: {}", list(keys)),
            Step::Route { inside, outside } if outside.is_empty() => format!("route to {}", list(inside)),
            Step::Route { inside, outside } => format!("route to {}, not to {}", list(inside), list(outside)),
            Step::Idle(keys) => format!("wait until idle: {}", list(keys)),
            Step::Delay(time) => format!("wait {}", humantime::format_duration(*time)),
            Step::Monitor(time) => {
                format!("watch the new instances for {}", humantime::format_duration(*time))
            }
            Step::Stop(keys) => format!("stop {}", list(keys)),
            Step::Remove(keys) => format!("remove {}", list(keys)),
            Step::HandBack => "hand back the route".into(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe(&Clone::clone))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut numbered = self.steps().into_iter().zip(1..);
        numbered.try_for_each(|((step, cause), n)| writeln!(f, "{n:>3}. {step}  ({cause})"))
    }
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
        Strategy::Bridge(desired) => builder.replace_owner(desired)?,
    }
    Ok(builder.finish())
}

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

    /// True if fewer instances serve than before.
    pub fn is_worse(&self) -> bool {
        self.replacements.len() < self.gone.len()
    }
}

impl Instance {
    /// True if the instance served at the start and can serve again.
    fn can_return(&self, start: &Observed) -> bool {
        let served = start.get(&self.key).is_some_and(|s| s.serves() && !is_different(s, self));
        served && self.state != InstanceState::Broken
    }

    /// True if the instance can replace one that is gone.
    fn can_stay(&self) -> bool {
        self.serves() || (self.state == InstanceState::Running && self.ready)
    }
}

/// True if a new container has the name of a removed old one.
fn is_different(before: &Instance, now: &Instance) -> bool {
    before.generation == Generation::Old && now.generation == Generation::New
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
                fix: "use `order: start-first`, or run more instances than are replaced at a time",
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
        let mut plan = self.plan;
        for batch in plan.batches.split_off(batches) {
            plan.retire.extend(batch.bring_up.into_iter().chain(batch.switch));
        }
        let cleanup = plan.retire.iter().rposition(|step| !is_removal(step)).map_or(0, |last| last + 1);
        plan.cleanup = plan.retire.split_off(cleanup);
        if !plan.is_empty() && self.observed.proxied {
            plan.cleanup.push((Step::HandBack, Cause::CleanedUp));
        }
        plan
    }
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
