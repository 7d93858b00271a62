//! What to do: from what is wanted and what is there to a list of steps. Pure; it accepts every observed state,
//! so that going on after a kill is observing and planning again.

use std::fmt;

use crate::model::Order;
use crate::observed::{Generation, Instance, Key, Observed, State};

/// What one service has to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goal {
    pub service: String,
    pub wanted: usize,
    pub order: Order,
    /// Instances replaced at a time; 0 is all at once.
    pub parallelism: usize,
    /// Compose has to start this service itself, and starts every stopped instance with it: none may be left then.
    pub clears_stopped: bool,
}

/// What a deploy is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Strategy {
    /// New instances of one service beside the old, then the old go.
    Scale(Goal),
    /// Two services that are sides of one app.
    Pair([Goal; 2]),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// Create instances beside those that exist (`total` counts both), not started.
    Create {
        service: String,
        fresh: Vec<Key>,
        total: usize,
    },
    /// Keep these out of rotation before they start.
    Gate(Vec<Key>),
    Start(Vec<Key>),
    /// Wait until all of these are ready.
    Ready(Vec<Key>),
    /// New requests go to exactly `inside`, and the proxy confirms it.
    Route {
        inside: Vec<Key>,
        outside: Vec<Key>,
    },
    /// Wait until these have no request in flight.
    Idle(Vec<Key>),
    Stop(Vec<Key>),
    Remove(Vec<Key>),
    /// Give the route back to the proxy's own discovery.
    Release,
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
            Cause::Done => "nothing of ours stays behind",
        })
    }
}

/// The steps in order, each with its cause. An empty plan means that nothing has to change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<(Step, Cause)>,
}

impl Plan {
    /// The most instances that start at a time.
    pub fn starting(&self) -> usize {
        let started = self.steps.iter().map(|(step, _)| match step {
            Step::Start(keys) => keys.len(),
            _ => 0,
        });
        started.max().unwrap_or(0)
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
        let list = |keys: &[Key]| match keys.is_empty() {
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
    let mut draft = Draft::new(observed);
    match strategy {
        Strategy::Scale(goal) => draft.replace(goal)?,
        Strategy::Pair(goals) => draft.pair(goals)?,
    }
    Ok(draft.finish())
}

/// Plans the way back: those that served at the start serve again, and what the rollout added goes.
///
/// `start` is what was observed before the first step, `now` what is there after the failure.
pub fn undo(start: &Observed, now: &Observed) -> Plan {
    let mut draft = Draft::new(now);
    let served: Vec<&Instance> = start.serving().collect();
    let still = |i: &&Instance| served.iter().any(|s| s.key == i.key);
    let back: Vec<Key> = keys(now.instances.iter().filter(still));
    let added = now.instances.iter().filter(|i| start.get(&i.key).is_none());
    let woken = now.instances.iter().filter(|i| {
        let before = start.get(&i.key);
        before.is_some_and(|b| !b.is_live()) && i.is_live()
    });
    let added: Vec<Key> = keys(added);
    let woken: Vec<Key> = keys(woken);
    let down: Vec<Key> = back.iter().filter(|k| !draft.is_live(k)).cloned().collect();
    draft.bring_up(&down, Cause::Failed);
    let leaving = [added.clone(), woken].concat();
    draft.route(&back, &leaving, Cause::Failed);
    draft.take_down(&leaving, Cause::Failed);
    draft.remove(&added, Cause::Failed);
    draft.finish()
}

/// A plan being written, and what the world looks like after its last step.
struct Draft<'a> {
    observed: &'a Observed,
    /// In rotation after the last step.
    inside: Vec<Key>,
    /// Live, but out of rotation, after the last step.
    outside: Vec<Key>,
    /// Known to be ready after the last step.
    ready: Vec<Key>,
    /// Instances per service that were added so far.
    added: Vec<(String, usize)>,
    steps: Vec<(Step, Cause)>,
}

impl<'a> Draft<'a> {
    fn new(observed: &'a Observed) -> Self {
        let serving = observed.instances.iter().filter(|i| i.routed);
        let hidden = observed.instances.iter().filter(|i| !i.routed && i.is_live());
        Draft {
            observed,
            inside: keys(serving),
            outside: keys(hidden),
            ready: keys(observed.instances.iter().filter(|i| i.ready)),
            added: Vec::new(),
            steps: Vec::new(),
        }
    }

    fn push(&mut self, step: Step, cause: Cause) {
        self.steps.push((step, cause));
    }

    /// One service, its old instances replaced by new ones.
    fn replace(&mut self, goal: &Goal) -> Result<(), Unplannable> {
        let members: Vec<&Instance> = self.observed.of(&goal.service).collect();
        let (arriving, leaving) = self.split(goal, &members);
        let (live, stopped): (Vec<Key>, Vec<Key>) = leaving.into_iter().partition(|k| self.is_live(k));
        if goal.clears_stopped {
            self.remove(&stopped, Cause::Leftover);
        }
        self.exchange(goal, arriving, live.clone())?;
        if !goal.clears_stopped {
            self.remove(&[live, stopped].concat(), Cause::Replaced);
        }
        Ok(())
    }

    /// Takes instances down whose place is taken; they stay, stopped, for the way back, until all is done.
    fn retire(&mut self, goal: &Goal, going: &[Key]) {
        self.take_down(going, Cause::Replaced);
        if goal.clears_stopped {
            self.remove(going, Cause::Replaced);
        }
    }

    /// Sorts the instances of a service into those that still have to be brought in, and those that go.
    fn split(&mut self, goal: &Goal, members: &[&Instance]) -> (Vec<Key>, Vec<Key>) {
        let fits = |i: &Instance| i.is_live() || !goal.clears_stopped;
        let mut usable: Vec<&Instance> =
            members.iter().copied().filter(|i| is_usable(i) && fits(i)).collect();
        usable.sort_by_key(|i| (!i.routed, i.state != State::Running));
        usable.truncate(goal.wanted);
        let settled = |i: &&&Instance| i.serves() && i.ready;
        let mut arriving = keys(usable.iter().filter(|i| !settled(i)).copied());
        let stays = |i: &&Instance| usable.iter().any(|u| u.key == i.key);
        let leaving = keys(members.iter().filter(|i| !stays(i)).copied());
        let missing = goal.wanted - usable.len();
        arriving.extend((1..=missing).map(|n| format!("{}+{n}", goal.service)));
        (arriving, leaving)
    }

    /// Brings `arriving` in and takes `leaving` out of rotation, in the order and the batches asked for.
    fn exchange(&mut self, goal: &Goal, arriving: Vec<Key>, leaving: Vec<Key>) -> Result<(), Unplannable> {
        let mut live: Vec<Key> = leaving.into_iter().filter(|k| self.is_live(k)).collect();
        live.sort_by_key(|k| self.ready.contains(k)); // those that serve nobody go first
        let size = match (goal.parallelism, goal.order) {
            (0, Order::StopFirst) => 1,
            (0, Order::StartFirst) => usize::MAX,
            (n, _) => n,
        };
        match goal.order {
            Order::StartFirst => self.start_first(goal, arriving, live, size),
            Order::StopFirst => return self.stop_first(goal, arriving, live, size),
        }
        Ok(())
    }

    fn start_first(&mut self, goal: &Goal, mut arriving: Vec<Key>, mut live: Vec<Key>, size: usize) {
        while !arriving.is_empty() || !live.is_empty() {
            let batch = take(&mut arriving, size);
            let going = match arriving.is_empty() {
                true => std::mem::take(&mut live),
                false => take(&mut live, size),
            };
            self.create(goal, &batch);
            self.bring_up(&batch, Cause::NotYetReady);
            self.route(&batch, &going, Cause::Admit);
            self.retire(goal, &going);
        }
    }

    fn stop_first(
        &mut self,
        goal: &Goal,
        mut arriving: Vec<Key>,
        mut live: Vec<Key>,
        size: usize,
    ) -> Result<(), Unplannable> {
        while !arriving.is_empty() || !live.is_empty() {
            let batch = take(&mut arriving, size);
            let going = match arriving.is_empty() {
                true => std::mem::take(&mut live),
                false => take(&mut live, size),
            };
            if !self.leaves_someone(goal, &going)? {
                live.extend(going);
                arriving.extend(batch);
                self.start_first(goal, arriving, live, size);
                return Ok(());
            }
            self.route(&[], &going, Cause::Replaced);
            self.retire(goal, &going);
            self.create(goal, &batch);
            self.bring_up(&batch, Cause::NotYetReady);
            self.route(&batch, &[], Cause::Admit);
        }
        Ok(())
    }

    /// Whether the rotation stays filled without `going`. It need not while nobody in it is ready to answer: then
    /// start-first does no harm.
    fn leaves_someone(&self, goal: &Goal, going: &[Key]) -> Result<bool, Unplannable> {
        let serves = |k: &&Key| self.inside.contains(k) && self.ready.contains(k);
        let stays = |k: &&Key| !going.contains(k);
        let loses = going.iter().any(|k| serves(&k));
        match loses && !self.inside.iter().filter(serves).any(|k| stays(&k)) {
            true => Err(Unplannable {
                service: goal.service.clone(),
                reason: "is replaced stop-first, and no other instance would serve meanwhile",
                fix: "use `order: start-first`, or run more instances than are replaced at a time",
            }),
            false => Ok(self.inside.is_empty() || self.inside.iter().any(|k| stays(&k))),
        }
    }

    /// Two sides of one app: one active side is exchanged for the other; two are replaced one after the other.
    fn pair(&mut self, goals: &[Goal; 2]) -> Result<(), Unplannable> {
        let observed = self.observed;
        let routed = |g: &Goal| observed.of(&g.service).any(Instance::serves);
        let runs = |g: &Goal| observed.of(&g.service).any(Instance::is_live);
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
    fn clear_live(&mut self, side: &Goal) {
        let others = keys(self.observed.of(&side.service).filter(|i| i.is_live()));
        self.take_down(&others, Cause::Leftover);
    }

    /// The active side stays where it is what is wanted; else the idle side takes over, and the active one is kept, stopped.
    fn switch(&mut self, active: &Goal, idle: &Goal) -> Result<(), Unplannable> {
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
        let all_at_once =
            Goal { order: Order::StartFirst, parallelism: 0, clears_stopped: false, ..idle.clone() };
        self.exchange(&all_at_once, arriving, leaving)?;
        let live: Vec<Key> = removed.into_iter().filter(|k| self.was_live(k)).collect();
        self.remove(&live, Cause::Leftover);
        Ok(())
    }

    /// What is left stopped of the idle side's last release but one gives its name and place to the new one.
    fn clear_stale(&mut self, idle: &Goal) {
        let stale = |i: &&Instance| !i.is_live() && i.generation == Generation::Old;
        let stale = keys(self.observed.of(&idle.service).filter(stale));
        self.remove(&stale, Cause::Leftover);
    }

    fn is_live(&self, key: &Key) -> bool {
        self.inside.contains(key) || self.outside.contains(key)
    }

    fn was_live(&self, key: &Key) -> bool {
        self.observed.get(key).is_some_and(Instance::is_live)
    }

    fn create(&mut self, goal: &Goal, batch: &[Key]) {
        let fresh: Vec<Key> = batch.iter().filter(|k| self.observed.get(k).is_none()).cloned().collect();
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
    fn bring_up(&mut self, batch: &[Key], cause: Cause) {
        let down: Vec<Key> = batch.iter().filter(|k| !self.is_live(k)).cloned().collect();
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
    fn route(&mut self, admit: &[Key], drain: &[Key], cause: Cause) {
        let moves = |from: &[Key], keys: &[Key]| keys.iter().any(|k| from.contains(k));
        if !moves(&self.outside, admit) && !moves(&self.inside, drain) {
            return;
        }
        let live: Vec<Key> = [&self.inside[..], &self.outside[..]].concat();
        let stays = |k: &Key| admit.contains(k) || (self.inside.contains(k) && !drain.contains(k));
        let (inside, outside): (Vec<Key>, Vec<Key>) = live.into_iter().partition(stays);
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
    fn take_down(&mut self, keys: &[Key], cause: Cause) {
        let live: Vec<Key> = keys.iter().filter(|k| self.is_live(k)).cloned().collect();
        if live.is_empty() {
            return;
        }
        let drained: Vec<Key> = live.iter().filter(|k| self.outside.contains(k)).cloned().collect();
        if self.observed.proxied && !drained.is_empty() {
            self.push(Step::Idle(drained), cause);
        }
        self.inside.retain(|k| !live.contains(k));
        self.outside.retain(|k| !live.contains(k));
        self.push(Step::Stop(live), cause);
    }

    fn remove(&mut self, keys: &[Key], cause: Cause) {
        if !keys.is_empty() {
            self.push(Step::Remove(keys.to_vec()), cause);
        }
    }

    fn finish(mut self) -> Plan {
        if !self.steps.is_empty() && self.observed.proxied {
            self.push(Step::Release, Cause::Done);
        }
        Plan { steps: self.steps }
    }
}

/// A new instance to build on: not broken, and not one that gets requests without being ready.
fn is_usable(instance: &Instance) -> bool {
    let sick = instance.serves() && !instance.ready;
    instance.generation == Generation::New && instance.state != State::Broken && !sick
}

fn keys<'a>(instances: impl Iterator<Item = &'a Instance>) -> Vec<Key> {
    instances.map(|i| i.key.clone()).collect()
}

/// Takes up to `size` from the front.
fn take(keys: &mut Vec<Key>, size: usize) -> Vec<Key> {
    let rest = keys.split_off(size.min(keys.len()));
    std::mem::replace(keys, rest)
}

#[cfg(test)]
#[path = "plan/tests.rs"]
mod tests;
