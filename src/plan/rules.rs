//! Update cases that `scripts/rules` compares with a real Swarm; here with the planner and the rules alone.

use clap::ValueEnum;

use super::*;
use crate::model::{FailureAction, Update, UpdateLayer};

/// One update: its settings, and the new instances that fail, by the order in which they start.
struct UpdateCase {
    name: &'static str,
    update: (u32, &'static str, f64, Order),
    instances: usize,
    fails: FailingSet,
    /// Result, with the numbers of new and old instances that run. Swarm ends the same way, except for the cases
    /// that `differs` lists there.
    end: (End, usize, usize),
}

enum FailingSet {
    Never,
    BeforeReady(&'static [usize]),
    /// During its monitor.
    Watched(usize),
    /// One instance, after its monitor.
    Late,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Completed,
    Paused,
    RolledBack,
}

use End::{Completed, Paused, RolledBack};
use FailingSet::{BeforeReady, Late, Never, Watched};
use Order::{StartFirst, StopFirst};

/// Sorted as in `src/tests/e2e/rules.rs`.
#[rustfmt::skip]
const CASES: [UpdateCase; 19] = [
    UpdateCase { name: "one after the other", update: (1, "pause", 0.0, StopFirst), instances: 4, fails: Never, end: (Completed, 4, 0) },
    UpdateCase { name: "all at once", update: (0, "rollback", 0.0, StartFirst), instances: 4, fails: Never, end: (Completed, 4, 0) },
    UpdateCase { name: "two at a time of five", update: (2, "pause", 0.0, StartFirst), instances: 5, fails: Never, end: (Completed, 5, 0) },
    UpdateCase { name: "the first fails: pause", update: (1, "pause", 0.0, StopFirst), instances: 4, fails: BeforeReady(&[1]), end: (Paused, 0, 4) },
    UpdateCase { name: "one in the middle fails: pause", update: (1, "pause", 0.0, StartFirst), instances: 4, fails: BeforeReady(&[2]), end: (Paused, 1, 3) },
    UpdateCase { name: "one of the second two fails: pause", update: (2, "pause", 0.0, StopFirst), instances: 6, fails: BeforeReady(&[3]), end: (Paused, 3, 3) },
    UpdateCase { name: "fails within its monitor: pause", update: (1, "pause", 0.0, StopFirst), instances: 4, fails: Watched(2), end: (Paused, 1, 3) },
    UpdateCase { name: "fails within its monitor, start-first: pause", update: (1, "pause", 0.0, StartFirst), instances: 4, fails: Watched(2), end: (Paused, 1, 3) },
    UpdateCase { name: "the last fails within its monitor: rollback", update: (1, "rollback", 0.0, StartFirst), instances: 4, fails: Watched(4), end: (RolledBack, 0, 4) },
    UpdateCase { name: "fails after its monitor, during the update", update: (1, "rollback", 0.0, StopFirst), instances: 4, fails: Late, end: (Completed, 3, 0) },
    UpdateCase { name: "fails after its monitor, after the update", update: (0, "rollback", 0.0, StartFirst), instances: 4, fails: Late, end: (Completed, 3, 0) },
    UpdateCase { name: "a delay longer than the monitor", update: (1, "pause", 0.0, StopFirst), instances: 4, fails: Watched(1), end: (Paused, 0, 4) },
    UpdateCase { name: "one of the second two fails: rollback", update: (2, "rollback", 0.0, StopFirst), instances: 6, fails: BeforeReady(&[3]), end: (RolledBack, 0, 6) },
    UpdateCase { name: "all fail: rollback", update: (2, "rollback", 0.0, StopFirst), instances: 4, fails: BeforeReady(ALL), end: (RolledBack, 0, 4) },
    UpdateCase { name: "two fail: continue", update: (1, "continue", 0.0, StopFirst), instances: 4, fails: BeforeReady(&[1, 3]), end: (Completed, 2, 2) },
    UpdateCase { name: "all fail: continue", update: (2, "continue", 0.0, StopFirst), instances: 4, fails: BeforeReady(ALL), end: (RolledBack, 0, 4) },
    UpdateCase { name: "as many fail as may", update: (2, "rollback", 0.25, StopFirst), instances: 4, fails: BeforeReady(&[2]), end: (Completed, 3, 1) },
    UpdateCase { name: "more fail than may: pause", update: (1, "pause", 0.25, StopFirst), instances: 4, fails: BeforeReady(&[1, 3]), end: (Paused, 1, 3) },
    UpdateCase { name: "more fail than may: rollback", update: (0, "rollback", 0.25, StartFirst), instances: 5, fails: BeforeReady(&[1, 4]), end: (RolledBack, 0, 5) },
];

const ALL: &[usize] = &[1, 2, 3, 4, 5, 6, 7, 8];

impl UpdateCase {
    fn update(&self) -> Update {
        let (parallelism, action, ratio, order) = self.update;
        let layer = UpdateLayer {
            parallelism: Some(parallelism),
            delay: Some(Duration::from_secs(1)),
            monitor: Some(Duration::from_secs(1)),
            action: FailureAction::from_str(action, false).ok(),
            max_failure_ratio: Some(ratio),
            order: Some(order),
        };
        Update::resolve(None, &layer)
    }

    /// Numbers of the instances that fail at this step.
    fn failing(&self, step: &Step) -> Vec<usize> {
        match (&self.fails, step) {
            (BeforeReady(numbers), Step::Ready(_)) => numbers.to_vec(),
            (Watched(number), Step::Delay(_) | Step::Monitor(_)) => vec![*number],
            _ => Vec::new(),
        }
    }
}

/// Running update.
struct SimulatedRollout<'r> {
    case: &'r UpdateCase,
    goal: DesiredService,
    world: Simulated,
    /// New instances, sorted by their start.
    started: Vec<InstanceKey>,
    failed: Vec<InstanceKey>,
}

impl SimulatedRollout<'_> {
    /// Plans and applies the steps up to the first failure; true if none failed.
    fn run_plan(&mut self) -> bool {
        let plan = plan(&Strategy::Scale(self.goal.clone()), &self.world.now).unwrap();
        for (step, _) in plan.steps() {
            self.world
                .apply(step)
                .unwrap_or_else(|law| panic!("{}: {law} at `{step}`\n{plan}", self.case.name));
            if let Step::Start(keys) = step {
                self.started.extend(keys.iter().filter(|k| k.contains('+')).cloned());
            }
            let numbers = self.case.failing(step).into_iter();
            let keys: Vec<InstanceKey> = numbers.filter_map(|n| self.started.get(n - 1).cloned()).collect();
            let new: Vec<InstanceKey> = keys.into_iter().filter(|k| !self.failed.contains(k)).collect();
            if !new.is_empty() {
                self.world.each(&new, |i| (i.state, i.routed, i.ready) = (Broken, false, false));
                self.failed.extend(new);
                self.rename_placeholders();
                return false;
            }
        }
        true
    }

    /// Renames the placeholders, because the next plan uses the same ones.
    fn rename_placeholders(&mut self) {
        let count = self.started.len();
        let named = |key: &InstanceKey| key.replace('+', &format!("-{count}"));
        self.world.now.instances.iter_mut().for_each(|i| i.key = named(&i.key));
        let lists = [&mut self.started, &mut self.failed, &mut self.world.hidden];
        lists.into_iter().flatten().for_each(|key| *key = named(key));
    }

    fn new_serving(&self) -> usize {
        self.world.now.serving().filter(|i| i.generation == New && i.ready).count()
    }

    /// End of the update, decided as in `TargetRollout::run` and `Pipeline::handle_failure`.
    fn end(&mut self, slots: usize) -> End {
        let update = self.case.update();
        while !self.run_plan() {
            if update.continues_after(self.failed.len(), slots) {
                self.goal.kept_slots = self.failed.len();
                continue;
            }
            if update.action == FailureAction::Pause {
                self.goal.kept_slots = self.goal.replicas - self.new_serving();
                assert!(self.run_plan(), "{}: a pause starts nothing new", self.case.name);
                return Paused;
            }
            let start = olds(self.case.instances);
            let back = PlanPolicy { parallelism: 0, ..PlanPolicy::default() };
            for (step, _) in undo(&start, &self.world.now.clone(), &back).steps() {
                self.world.apply(step).unwrap();
            }
            return RolledBack;
        }
        Completed
    }
}

/// Old instances without a proxy.
fn olds(count: usize) -> Observed {
    let instances = (1..=count).map(|n| old(&format!("app-{n}"))).collect();
    Observed { instances, proxied: false }
}

#[test]
fn updates_end_as_the_cases_say() {
    for case in &CASES {
        let (parallelism, .., order) = case.update;
        let (delay, monitor) = (Duration::from_secs(1), Duration::from_secs(1));
        let policy = PlanPolicy { order, parallelism: parallelism as usize, delay, monitor };
        let start = olds(case.instances);
        let goal = DesiredService { policy, ..goal("app", case.instances) };
        let slots = plan(&Strategy::Scale(goal.clone()), &start).unwrap().slots;
        let world = Simulated::new(&start);
        let mut rollout = SimulatedRollout { case, goal, world, started: Vec::new(), failed: Vec::new() };
        let end = rollout.end(slots);
        let late_failures = usize::from(matches!(case.fails, Late));
        let old_serving = rollout.world.now.serving().filter(|i| i.generation == Old).count();
        assert_eq!((end, rollout.new_serving() - late_failures, old_serving), case.end, "{}", case.name);
    }
}
