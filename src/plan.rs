//! What to do: from what is wanted and what is there to a list of steps. Pure; it accepts every observed state,
//! so that going on after a kill is observing and planning again.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use crate::model::Order;
use crate::observed::{Generation, Instance, InstanceKey, InstanceState, Observed};

/// What one service has to become.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DesiredService {
    pub service: String,
    pub wanted: usize,
    pub pace: PlanPolicy,
    /// How many slots stay on what they have, because their new instance failed or the rollout is paused.
    pub spared: usize,
    /// Compose has to start this service itself, and starts every stopped instance with it: none may be left then.
    pub clears_stopped: bool,
    /// A rollout before this one did not get to its end: what nobody is sent to may be of it, and goes first.
    pub after_another: bool,
    /// No proxy sends it requests, so that all of it may be down for a moment where it is replaced stop-first.
    pub may_rest: bool,
}

/// In what order, in what batches and how watched instances are replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanPolicy {
    pub order: Order,
    /// Instances replaced at a time; 0 is all at once.
    pub parallelism: usize,
    /// Time between two batches.
    pub delay: Duration,
    /// Time for which the new instances are watched before the old ones are let go for good.
    pub monitor: Duration,
}

impl PlanPolicy {
    /// Instances in a batch; stop-first takes one by one where nobody says how many.
    fn size(&self) -> usize {
        match (self.parallelism, self.order) {
            (0, Order::StopFirst) => 1,
            (0, Order::StartFirst) => usize::MAX,
            (n, _) => n,
        }
    }
}

/// What a deploy is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strategy {
    /// New instances of one service beside the old, then the old go.
    Scale(DesiredService),
    /// Two services that are sides of one app.
    Pair([DesiredService; 2]),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// Create instances beside those that exist (`total` counts both), not started.
    Create {
        service: String,
        fresh: Vec<InstanceKey>,
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
    /// Let time pass between two batches.
    Delay(Duration),
    /// Watch those that were brought in for a while.
    Monitor(Duration),
    Stop(Vec<InstanceKey>),
    Remove(Vec<InstanceKey>),
    /// Give the route back to the proxy's own discovery.
    Release,
}

impl Step {
    /// Its name in `--output json`.
    pub fn verb(&self) -> &'static str {
        match self {
            Step::Create { .. } => "create",
            Step::Gate(_) => "gate",
            Step::Start(_) => "start",
            Step::Ready(_) => "ready",
            Step::Route { .. } => "route",
            Step::Idle(_) => "idle",
            Step::Delay(_) => "delay",
            Step::Monitor(_) => "monitor",
            Step::Stop(_) => "stop",
            Step::Remove(_) => "remove",
            Step::Release => "release",
        }
    }

    /// After the last of these the new release has taken over, so that finishing is the shorter way.
    pub fn turns(&self) -> bool {
        matches!(self, Step::Route { .. } | Step::Ready(_) | Step::Delay(_) | Step::Monitor(_))
    }

    /// Whom it is about; those that are to get requests, where it turns the route.
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
            Step::Delay(_) | Step::Monitor(_) | Step::Release => &[],
        }
    }
}

/// Why a step is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    Missing,
    NotYetReady,
    Admit,
    Replaced,
    Leftover,
    Failed,
    Asked,
    Done,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::Missing => "the new release is not there yet",
            Cause::NotYetReady => "not yet ready",
            Cause::Admit => "ready",
            Cause::Replaced => "replaced",
            Cause::Leftover => "not serving",
            Cause::Failed => "the rollout failed",
            Cause::Asked => "as `update_config` says",
            Cause::Done => "nothing of ours stays behind",
        })
    }
}

/// The steps in order, each with its cause. An empty plan means that nothing has to change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<(Step, Cause)>,
    /// How many instances have to be brought in.
    pub slots: usize,
}

/// The parts of a plan, so that several plans can be done side by side: all bring up, then all switch, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The first new instances get ready; nobody notices.
    BringUp,
    /// Requests move over, batch by batch; the old instances of the last batch go on running.
    Switch,
    /// The new instances are watched.
    Monitor,
    /// The last old instances are drained and stopped.
    Retire,
    /// What served before goes for good.
    Clean,
}

impl Plan {
    /// The steps of one part.
    pub fn stage(&self, stage: Stage) -> Range<usize> {
        let cleans = |s: &Step| matches!(s, Step::Remove(_) | Step::Release);
        let brings = |(step, cause): &(Step, Cause)| match step {
            Step::Create { .. } | Step::Gate(_) | Step::Start(_) | Step::Ready(_) => true,
            Step::Idle(_) | Step::Stop(_) => *cause == Cause::Leftover,
            _ => cleans(step),
        };
        let steps = || self.steps.iter().map(|(step, _)| step);
        let clean = steps().rposition(|s| !cleans(s)).map_or(0, |last| last + 1);
        let switch = self.steps.iter().position(|s| !brings(s)).unwrap_or(clean).min(clean);
        let watch = steps().position(|s| matches!(s, Step::Monitor(_)));
        let turned = steps().rposition(Step::turns).map_or(0, |last| last + 1);
        let retire = turned.clamp(switch, clean);
        let watch = watch.unwrap_or(retire).clamp(switch, retire);
        match stage {
            Stage::BringUp => 0..switch,
            Stage::Switch => switch..watch,
            Stage::Monitor => watch..retire,
            Stage::Retire => retire..clean,
            Stage::Clean => clean..self.steps.len(),
        }
    }

    /// A rollout was killed while it watched its new instances, and this plan only goes on from there.
    pub fn goes_on_watching(&self) -> bool {
        self.slots == 0 && self.window().is_some()
    }

    /// How long the new instances are watched.
    pub fn window(&self) -> Option<Duration> {
        self.steps.iter().find_map(|(step, _)| match step {
            Step::Monitor(time) => Some(*time),
            _ => None,
        })
    }

    /// Which of how many batches a step belongs to, counted from 1: every batch has new instances that have to get ready.
    pub fn batch(&self, n: usize) -> (usize, usize) {
        let count =
            |steps: &[(Step, Cause)]| steps.iter().filter(|(s, _)| matches!(s, Step::Ready(_))).count();
        let all = count(&self.steps).max(1);
        // Up to the wait for the next ones a batch lasts until they are created or started.
        let begun =
            |(step, _): &(Step, Cause)| matches!(step, Step::Create { .. } | Step::Gate(_) | Step::Start(_));
        let ahead = usize::from(self.steps.get(n).is_some_and(begun));
        let done = count(&self.steps[..self.steps.len().min(n + 1)]);
        ((done + ahead).clamp(1, all), all)
    }

    /// All steps but the release: where several plans are undone, a proxy's own discovery must not take over before all
    /// are, because it sees the new instances of each.
    pub fn before_release(&self) -> Range<usize> {
        0..self.steps.iter().position(|(s, _)| *s == Step::Release).unwrap_or(self.steps.len())
    }

    /// How many instances of each service there are going to be for a moment.
    pub fn totals(&self) -> Vec<(String, usize)> {
        let mut totals: Vec<(String, usize)> = Vec::new();
        for (step, _) in &self.steps {
            if let Step::Create { service, total, .. } = step {
                totals.retain(|(name, _)| name != service);
                totals.push((service.clone(), *total));
            }
        }
        totals
    }

    /// How many more instances run at a time than now, at most.
    pub fn starting(&self) -> usize {
        let (mut more, mut most) = (0isize, 0);
        for (step, _) in &self.steps {
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

/// A goal that cannot be reached without losing requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unplannable {
    pub service: String,
    pub reason: &'static str,
    pub fix: &'static str,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |keys: &[InstanceKey]| match keys.is_empty() {
            true => "nothing".to_string(),
            false => keys.join(", "),
        };
        match self {
            Step::Create { fresh, .. } => write!(f, "create {}", list(fresh)),
            Step::Gate(keys) => write!(f, "gate {}", list(keys)),
            Step::Start(keys) => write!(f, "start {}", list(keys)),
            Step::Ready(keys) => write!(f, "wait until ready: {}", list(keys)),
            Step::Route { inside, outside } => {
                write!(f, "route to {}", list(inside))?;
                match outside.is_empty() {
                    true => Ok(()),
                    false => write!(f, ", not to {}", list(outside)),
                }
            }
            Step::Idle(keys) => write!(f, "wait until idle: {}", list(keys)),
            Step::Delay(time) => write!(f, "wait {}", humantime::format_duration(*time)),
            Step::Monitor(time) => {
                write!(f, "watch the new instances for {}", humantime::format_duration(*time))
            }
            Step::Stop(keys) => write!(f, "stop {}", list(keys)),
            Step::Remove(keys) => write!(f, "remove {}", list(keys)),
            Step::Release => write!(f, "release the route"),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut numbered = self.steps.iter().zip(1..);
        numbered.try_for_each(|((step, cause), n)| writeln!(f, "{n:>3}. {step}  ({cause})"))
    }
}

/// Plans the way from what is observed to what is wanted.
///
/// # Errors
/// When the only way leaves no instance in rotation (stop-first with a single one).
pub fn plan(strategy: &Strategy, observed: &Observed) -> Result<Plan, Unplannable> {
    let mut draft = PlanBuilder::new(observed);
    match strategy {
        Strategy::Scale(goal) => draft.replace(goal)?,
        Strategy::Pair(goals) => draft.pair(goals)?,
    }
    Ok(draft.finish())
}

/// Plans the way back: those that served at the start serve again, and what the rollout added goes.
///
/// `start` is what was observed before the first step, `now` what is there after the failure. Those that still run come
/// back at once, those that have to start again in the batches of `pace`. New instances that serve stay in the place of
/// those that cannot come back: the rotation of the start is not made smaller.
pub fn undo(start: &Observed, now: &Observed, pace: &PlanPolicy) -> Plan {
    let mut draft = PlanBuilder::new(now);
    let mut back: Vec<InstanceKey> = keys(now.instances.iter().filter(|i| i.can_return(start)));
    let missing = missing(start, now);
    let is_added = |i: &&Instance| start.get(&i.key).is_none_or(|before| is_another(before, i));
    let is_woken = |i: &&Instance| start.get(&i.key).is_some_and(|b| !b.is_live()) && i.is_live();
    let (added, known): (Vec<&Instance>, Vec<&Instance>) = now.instances.iter().partition(is_added);
    let mut going: Vec<&Instance> = added.iter().copied().chain(known.into_iter().filter(is_woken)).collect();
    going.sort_by_key(|i| !(i.ready && i.routed));
    let staying: Vec<InstanceKey> = keys(going.iter().copied().filter(|i| i.can_stay()).take(missing));
    let leaves = |i: &&Instance| !staying.contains(&i.key);
    let leaving: Vec<InstanceKey> = keys(going.iter().copied().filter(leaves));
    let added: Vec<InstanceKey> = keys(added.into_iter().filter(leaves));
    back.extend(staying);
    draft.exchange_back(&back, leaving, pace);
    draft.remove(&added, Cause::Failed);
    draft.finish()
}

/// Whether all that served at the start run, or can be started again.
pub fn all_can_return(start: &Observed, now: &Observed) -> bool {
    missing(start, now) == 0
}

/// How many of those that served at the start cannot serve again.
fn missing(start: &Observed, now: &Observed) -> usize {
    let back = now.instances.iter().filter(|i| i.can_return(start)).count();
    start.serving().count().saturating_sub(back)
}

/// What became of a rotation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RotationState {
    /// They served at the start, and serve.
    pub still: Vec<InstanceKey>,
    /// They served at the start, and do not serve.
    pub gone: Vec<InstanceKey>,
    /// Ready instances that serve in the place of those.
    pub instead: Vec<InstanceKey>,
}

impl RotationState {
    /// `start` is what was observed before the first step, `now` what is there at the end.
    pub fn new(start: &Observed, now: &Observed) -> RotationState {
        let serves = |i: &&Instance| now.get(&i.key).is_some_and(|n| n.serves() && !is_another(i, n));
        let (still, gone): (Vec<&Instance>, Vec<&Instance>) = start.serving().partition(serves);
        let others = now.serving().filter(|i| i.ready && !still.iter().any(|s| s.key == i.key));
        RotationState {
            instead: keys(others.take(gone.len())),
            still: keys(still.into_iter()),
            gone: keys(gone.into_iter()),
        }
    }

    /// Fewer serve than before.
    pub fn is_worse(&self) -> bool {
        self.instead.len() < self.gone.len()
    }
}

impl Instance {
    /// It served at the start, and can serve again.
    fn can_return(&self, start: &Observed) -> bool {
        let served = start.get(&self.key).is_some_and(|s| s.serves() && !is_another(s, self));
        served && self.state != InstanceState::Broken
    }

    /// It serves, or can serve, in the place of one that is gone.
    fn can_stay(&self) -> bool {
        self.serves() || (self.state == InstanceState::Running && self.ready)
    }
}

/// One that was removed gives its name to the one that takes its place, which was not there at the start.
fn is_another(before: &Instance, now: &Instance) -> bool {
    before.generation == Generation::Old && now.generation == Generation::New
}

/// A plan being written, and what the world looks like after its last step.
struct PlanBuilder<'a> {
    observed: &'a Observed,
    /// In rotation after the last step.
    inside: Vec<InstanceKey>,
    /// Live, but out of rotation, after the last step.
    outside: Vec<InstanceKey>,
    /// Known to be ready after the last step.
    ready: Vec<InstanceKey>,
    /// Instances per service that were added so far.
    added: Vec<(String, usize)>,
    steps: Vec<(Step, Cause)>,
    /// Stopped, and kept for the way back until all is done.
    kept: Vec<InstanceKey>,
    /// Taken down once the new instances were watched.
    leaving: Vec<OutgoingInstances>,
    /// How long the new instances are watched before that.
    window: Duration,
    slots: usize,
}

/// Instances of the last batch, whose place is taken.
struct OutgoingInstances {
    keys: Vec<InstanceKey>,
    cause: Cause,
    /// They are removed at once, and not when all is done.
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
            steps: Vec::new(),
            kept: Vec::new(),
            leaving: Vec::new(),
            window: Duration::ZERO,
            slots: 0,
        }
    }

    fn push(&mut self, step: Step, cause: Cause) {
        self.steps.push((step, cause));
    }

    /// One service, its old instances replaced by new ones.
    fn replace(&mut self, goal: &DesiredService) -> Result<(), Unplannable> {
        let members: Vec<&Instance> = self.observed.of(&goal.service).collect();
        let (arriving, leaving) = self.split(goal, &members);
        let (live, stopped): (Vec<InstanceKey>, Vec<InstanceKey>) =
            leaving.into_iter().partition(|k| self.is_live(k));
        if goal.clears_stopped {
            self.remove(&stopped, Cause::Leftover);
        }
        let goes_on_watching = self.goes_on_watching(goal, &members, &arriving);
        if goes_on_watching {
            self.window = self.window.max(goal.pace.monitor);
        }
        // An old one that nobody is sent to may be sick, or put aside by somebody: it goes with the others.
        let ours = |k: &&InstanceKey| (goal.after_another && !goes_on_watching) || self.is_new(k);
        let rests: Vec<InstanceKey> = live.iter().filter(ours).cloned().collect();
        let gone = self.make_room(&rests, Cause::Leftover);
        if goal.clears_stopped {
            self.remove(&gone, Cause::Leftover);
        }
        self.exchange(goal, arriving, live.clone())?;
        if !goal.clears_stopped {
            self.kept.extend([live, stopped].concat());
        }
        Ok(())
    }

    /// Takes those down that nobody is sent to, as long as somebody serves: a proxy may not have a place for them and
    /// for those to come. Tells whom.
    fn make_room(&mut self, leaving: &[InstanceKey], cause: Cause) -> Vec<InstanceKey> {
        let served = self.observed.proxied && self.inside.iter().any(|k| self.ready.contains(k));
        let idle: Vec<InstanceKey> =
            leaving.iter().filter(|k| served && self.outside.contains(k)).cloned().collect();
        self.take_down(&idle, cause);
        idle
    }

    /// A rollout before this one got as far as its monitor: all new instances are in rotation, and some have not run for
    /// as long as they are watched.
    fn goes_on_watching(
        &self,
        goal: &DesiredService,
        members: &[&Instance],
        arriving: &[InstanceKey],
    ) -> bool {
        let young = |i: &&Instance| i.is_young(goal.pace.monitor);
        goal.after_another && arriving.is_empty() && members.iter().any(young)
    }

    /// Takes instances down whose place is taken; they stay, stopped, for the way back, until all is done.
    fn retire(&mut self, goal: &DesiredService, going: &[InstanceKey]) {
        self.take_down(going, Cause::Replaced);
        if goal.clears_stopped {
            self.remove(going, Cause::Replaced);
        }
    }

    /// The same once the new instances were watched: nothing that cannot be undone happens to the last ones before.
    fn retire_later(&mut self, keys: Vec<InstanceKey>, cause: Cause, removes: bool) {
        self.leaving.push(OutgoingInstances { keys, cause, removes });
    }

    /// Others take the place of the last batch: those that it left behind go now.
    fn retire_all(&mut self) {
        for OutgoingInstances { keys, cause, removes } in std::mem::take(&mut self.leaving) {
            self.take_down(&keys, cause);
            if removes {
                self.remove(&keys, cause);
            }
        }
    }

    /// Sorts the instances of a service into those that still have to be brought in, and those that go.
    fn split(
        &mut self,
        goal: &DesiredService,
        members: &[&Instance],
    ) -> (Vec<InstanceKey>, Vec<InstanceKey>) {
        let fits = |i: &Instance| i.is_live() || !goal.clears_stopped;
        let mut usable: Vec<&Instance> =
            members.iter().copied().filter(|i| is_usable(i) && fits(i)).collect();
        usable.sort_by_key(|i| (!i.routed, i.state != InstanceState::Running));
        usable.truncate(goal.wanted.saturating_sub(goal.spared));
        let missing = goal.wanted.saturating_sub(goal.spared + usable.len());
        let staying: Vec<&Instance> = usable.into_iter().chain(spared(goal, members)).collect();
        let settled = |i: &&&Instance| i.serves() && i.ready;
        let mut arriving = keys(staying.iter().filter(|i| !settled(i)).copied());
        // A paused rollout may have nothing sound to stay on: then what serves stays.
        let nobody = staying.is_empty() && missing == 0;
        let stays = |i: &&Instance| staying.iter().any(|u| u.key == i.key) || (nobody && i.serves());
        let leaving = keys(members.iter().filter(|i| !stays(i)).copied());
        arriving.extend((1..=missing).map(|n| format!("{}+{n}", goal.service)));
        self.slots += arriving.len();
        (arriving, leaving)
    }

    /// Brings `arriving` in and takes `leaving` out of rotation, in the order and the batches asked for.
    fn exchange(
        &mut self,
        goal: &DesiredService,
        arriving: Vec<InstanceKey>,
        leaving: Vec<InstanceKey>,
    ) -> Result<(), Unplannable> {
        let mut live: Vec<InstanceKey> = leaving.into_iter().filter(|k| self.is_live(k)).collect();
        live.sort_by_key(|k| self.ready.contains(k)); // those that serve nobody go first
        if !arriving.is_empty() {
            self.retire_all();
            self.window = self.window.max(goal.pace.monitor);
        }
        match goal.pace.order {
            Order::StartFirst => self.start_first(goal, arriving, live),
            Order::StopFirst => return self.stop_first(goal, arriving, live),
        }
        Ok(())
    }

    fn start_first(
        &mut self,
        goal: &DesiredService,
        mut arriving: Vec<InstanceKey>,
        mut live: Vec<InstanceKey>,
    ) {
        while !arriving.is_empty() || !live.is_empty() {
            let (batch, going) = next_batch(&mut arriving, &mut live, goal.pace.size());
            self.create(goal, &batch);
            self.bring_up(&batch, Cause::NotYetReady);
            self.route(&batch, &going, Cause::Admit);
            if arriving.is_empty() && live.is_empty() {
                self.retire_later(going, Cause::Replaced, goal.clears_stopped);
                return;
            }
            self.retire(goal, &going);
            self.delay(&goal.pace);
        }
    }

    fn stop_first(
        &mut self,
        goal: &DesiredService,
        mut arriving: Vec<InstanceKey>,
        mut live: Vec<InstanceKey>,
    ) -> Result<(), Unplannable> {
        while !arriving.is_empty() || !live.is_empty() {
            let (batch, going) = next_batch(&mut arriving, &mut live, goal.pace.size());
            if !self.leaves_someone(goal, &going)? {
                live.extend(going);
                arriving.extend(batch);
                self.start_first(goal, arriving, live);
                return Ok(());
            }
            self.route(&[], &going, Cause::Replaced);
            self.retire(goal, &going);
            self.create(goal, &batch);
            self.bring_up(&batch, Cause::NotYetReady);
            self.route(&batch, &[], Cause::Admit);
            if !arriving.is_empty() || !live.is_empty() {
                self.delay(&goal.pace);
            }
        }
        Ok(())
    }

    fn delay(&mut self, pace: &PlanPolicy) {
        if !pace.delay.is_zero() {
            self.push(Step::Delay(pace.delay), Cause::Asked);
        }
    }

    /// Those that served are in rotation again, and `leaving` are out of it and stopped.
    fn exchange_back(&mut self, back: &[InstanceKey], mut leaving: Vec<InstanceKey>, pace: &PlanPolicy) {
        let mut down: Vec<InstanceKey> = back.iter().filter(|k| !self.is_live(k)).cloned().collect();
        leaving.sort_by_key(|k| self.ready.contains(k)); // those that serve nobody go first
        // Those that only have to be let in again take their places before others start.
        let waiting: Vec<InstanceKey> = back.iter().filter(|k| self.outside.contains(k)).cloned().collect();
        if !waiting.is_empty() && !down.is_empty() {
            let going = take(&mut leaving, waiting.len());
            self.route(&waiting, &going, Cause::Failed);
            self.take_down(&going, Cause::Failed);
        }
        if !down.is_empty() {
            self.make_room(&leaving, Cause::Failed);
            leaving.retain(|k| self.is_live(k));
        }
        loop {
            let live_back =
                |draft: &Self| back.iter().filter(|k| draft.is_live(k)).cloned().collect::<Vec<_>>();
            let batch = take(&mut down, pace.size());
            let going = match down.is_empty() {
                true => std::mem::take(&mut leaving),
                false => take(&mut leaving, batch.len()),
            };
            let before = live_back(self);
            if pace.order == Order::StopFirst && !before.is_empty() {
                self.route(&before, &going, Cause::Failed);
                self.take_down(&going, Cause::Failed);
            }
            self.bring_up(&batch, Cause::Failed);
            self.route(&live_back(self), &going, Cause::Failed);
            self.take_down(&going, Cause::Failed);
            if down.is_empty() {
                return;
            }
            self.delay(pace);
        }
    }

    /// Whether the rotation stays filled without `going`. It need not while nobody in it is ready to answer: then
    /// start-first does no harm.
    fn leaves_someone(&self, goal: &DesiredService, going: &[InstanceKey]) -> Result<bool, Unplannable> {
        if goal.may_rest {
            return Ok(true);
        }
        let serves = |k: &&InstanceKey| self.inside.contains(k) && self.ready.contains(k);
        let stays = |k: &&InstanceKey| !going.contains(k);
        let loses = going.iter().any(|k| serves(&k));
        match loses && !self.inside.iter().filter(serves).any(|k| stays(&k)) {
            true => Err(Unplannable {
                service: goal.service.clone(),
                reason: "is replaced stop-first, and no other instance would serve meanwhile",
                fix: "use `order: start-first`, or run more instances than are replaced at a time",
            }),
            false => {
                Ok(self.inside.is_empty() || self.inside.iter().any(|k| stays(&k) && !self.is_broken(k)))
            }
        }
    }

    /// Two sides of one app: one active side is exchanged for the other; two are replaced one after the other.
    fn pair(&mut self, goals: &[DesiredService; 2]) -> Result<(), Unplannable> {
        let observed = self.observed;
        let routed = |g: &DesiredService| observed.of(&g.service).any(Instance::serves);
        let runs = |g: &DesiredService| observed.of(&g.service).any(Instance::is_live);
        let [first, second] = goals;
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
                self.clear_live(second);
                Ok(())
            }
        }
    }

    /// Stops what runs of a side that is not to serve.
    fn clear_live(&mut self, side: &DesiredService) {
        let others = keys(self.observed.of(&side.service).filter(|i| i.is_live()));
        self.retire_later(others, Cause::Leftover, false);
    }

    /// The active side stays where it is what is wanted; else the idle side takes over, and the active one is kept, stopped.
    fn switch(&mut self, active: &DesiredService, idle: &DesiredService) -> Result<(), Unplannable> {
        let observed = self.observed;
        let mut serving = observed.of(&active.service).filter(|i| i.serves());
        if serving.all(is_usable) && observed.of(&active.service).any(Instance::serves) {
            self.clear_live(idle);
            return self.replace(active);
        }
        self.clear_stale(idle);
        let members: Vec<&Instance> = observed.of(&idle.service).collect();
        let (arriving, mut leaving) = self.split(idle, &members);
        let removed = leaving.clone();
        leaving.extend(keys(observed.of(&active.service)));
        let pace = PlanPolicy { monitor: idle.pace.monitor, ..PlanPolicy::default() };
        let all_at_once = DesiredService { pace, clears_stopped: false, ..idle.clone() };
        self.exchange(&all_at_once, arriving, leaving)?;
        let live: Vec<InstanceKey> = removed.into_iter().filter(|k| self.was_live(k)).collect();
        self.kept.extend(live);
        Ok(())
    }

    /// What is left stopped of the idle side's last release but one gives its name and place to the new one.
    fn clear_stale(&mut self, idle: &DesiredService) {
        let stale = |i: &&Instance| !i.is_live() && i.generation == Generation::Old;
        let stale = keys(self.observed.of(&idle.service).filter(stale));
        self.remove(&stale, Cause::Leftover);
    }

    fn is_live(&self, key: &InstanceKey) -> bool {
        self.inside.contains(key) || self.outside.contains(key)
    }

    /// Whom a proxy may still list, but who cannot answer.
    fn is_broken(&self, key: &InstanceKey) -> bool {
        self.observed.get(key).is_some_and(|i| i.state == InstanceState::Broken)
    }

    fn is_new(&self, key: &InstanceKey) -> bool {
        self.observed.get(key).is_some_and(|i| i.generation == Generation::New)
    }

    fn was_live(&self, key: &InstanceKey) -> bool {
        self.observed.get(key).is_some_and(Instance::is_live)
    }

    fn create(&mut self, goal: &DesiredService, batch: &[InstanceKey]) {
        let fresh: Vec<InstanceKey> =
            batch.iter().filter(|k| self.observed.get(k).is_none()).cloned().collect();
        if fresh.is_empty() {
            return;
        }
        let service = goal.service.clone();
        self.added.push((service.clone(), fresh.len()));
        let total = self.count(&service);
        self.push(Step::Create { service, fresh, total }, Cause::Missing);
    }

    /// How many containers a service has after the last step.
    fn count(&self, service: &str) -> usize {
        let added: usize = self.added.iter().filter(|(s, _)| s == service).map(|(_, n)| n).sum();
        let gone = |key: &str| {
            self.steps
                .iter()
                .any(|(step, _)| matches!(step, Step::Remove(keys) if keys.iter().any(|k| k == key)))
        };
        self.observed.of(service).filter(|i| !gone(&i.key)).count() + added
    }

    /// Gates and starts those that do not run, and waits for all.
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

    /// Makes the rotation what it has to be; a second change in a row takes the place of the first, and an empty
    /// rotation is never asked for (a first deploy that failed had none to go back to).
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
        if matches!(self.steps.last(), Some((Step::Route { .. }, _))) {
            self.steps.pop();
        }
        let (inside, outside) = (self.inside.clone(), self.outside.clone());
        self.push(Step::Route { inside, outside }, cause);
    }

    /// Waits until those of `keys` that live have finished, and stops them.
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
            self.push(Step::Monitor(self.window), Cause::Asked);
        }
        self.retire_all();
        let kept = std::mem::take(&mut self.kept);
        self.remove(&kept, Cause::Replaced);
        if !self.steps.is_empty() && self.observed.proxied {
            self.push(Step::Release, Cause::Done);
        }
        Plan { steps: self.steps, slots: self.slots }
    }
}

/// A new instance to build on: not broken, and not one that gets requests without being ready.
fn is_usable(instance: &Instance) -> bool {
    let sick = instance.serves() && !instance.ready;
    instance.generation == Generation::New && instance.state != InstanceState::Broken && !sick
}

/// The instances that a slot stays on: of those that are not wanted the best, best first.
fn spared<'a>(goal: &DesiredService, members: &[&'a Instance]) -> Vec<&'a Instance> {
    let sound = |i: &&Instance| i.generation == Generation::Old && i.state != InstanceState::Broken;
    let fits = |i: &&Instance| i.is_live() || !goal.clears_stopped;
    let mut sound: Vec<&Instance> = members.iter().copied().filter(|i| sound(i) && fits(i)).collect();
    sound.sort_by_key(|i| (!(i.serves() && i.ready), !i.serves(), !i.is_live()));
    sound.truncate(goal.spared);
    sound
}

fn keys<'a>(instances: impl Iterator<Item = &'a Instance>) -> Vec<InstanceKey> {
    instances.map(|i| i.key.clone()).collect()
}

/// The next to come in, and those that make room for them; with the last of the first go all of the second.
fn next_batch(
    arriving: &mut Vec<InstanceKey>,
    live: &mut Vec<InstanceKey>,
    size: usize,
) -> (Vec<InstanceKey>, Vec<InstanceKey>) {
    let batch = take(arriving, size);
    let going = match arriving.is_empty() {
        true => std::mem::take(live),
        false => take(live, size),
    };
    (batch, going)
}

/// Takes up to `size` from the front.
fn take(keys: &mut Vec<InstanceKey>, size: usize) -> Vec<InstanceKey> {
    let rest = keys.split_off(size.min(keys.len()));
    std::mem::replace(keys, rest)
}

#[cfg(test)]
mod tests;
