//! Comparison of `deploy.update_config` with Swarm: each case is updated by `docker service update` and, as a Compose project,
//! by compose-zd. Both must end the same way. The tests run on a separate engine.

#[path = "rules/engine.rs"]
mod engine;
#[path = "rules/project.rs"]
mod project;
#[path = "rules/swarm.rs"]
mod swarm;

use std::fmt;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crate::swarm::nodes::SwarmNodes;
use crate::test_project::TestProject;
use engine::RulesEngine;

/// Number of cases in parallel: enough for two processors.
const PARALLEL_CASES: usize = 4;

/// One update: its settings, the number of instances, and the new instances that fail.
pub struct UpdateCase {
    name: &'static str,
    parallelism: u32,
    delay: Duration,
    monitor: Duration,
    action: &'static str,
    ratio: f64,
    order: &'static str,
    instances: usize,
    fails: Failures,
    differs: Difference,
}

/// The instances of the new version that fail, by the order in which they start.
pub enum Failures {
    Never,
    /// These exit at their start.
    BeforeReady(&'static [u32]),
    /// These exit this long after their first good health check.
    AfterReady(&'static [u32], Duration),
}

/// Deliberate differences between compose-zd and Swarm.
#[derive(Clone, Copy)]
pub enum Difference {
    None,
    /// Swarm leaves the slot of a failed task empty (with start-first: if it failed after it was running). compose-zd keeps or
    /// restores the old instance, so that never fewer serve than before.
    OldFillGaps,
    /// Swarm completes an update with `continue` even if every new task failed. compose-zd fails and keeps the old instances.
    RollsBackWithoutNew,
}

/// Result of an update.
#[derive(Debug, Clone, PartialEq)]
pub struct UpdateResult {
    state: ResultState,
    /// Running instances of each version.
    new: usize,
    old: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ResultState {
    Completed,
    Paused,
    RolledBack,
    /// Another result, with its output.
    Other(String),
}

/// Four instances, replaced one after the other; the first failure pauses.
const DEFAULT_CASE: UpdateCase = UpdateCase {
    name: "",
    parallelism: 1,
    delay: Duration::ZERO,
    monitor: seconds(1),
    action: "pause",
    ratio: 0.0,
    order: "stop-first",
    instances: 4,
    fails: Failures::Never,
    differs: Difference::None,
};

/// Time of a failure after the instance was ready, and well within any delay or monitor that must catch it.
const SOON: Duration = Duration::from_millis(400);

/// A monitor that catches every failure, however busy the machine is.
const LONG: Duration = seconds(6);

const ALL_FAIL: Failures = Failures::BeforeReady(&[1, 2, 3, 4, 5, 6, 7, 8]);

/// No case depends on behaviour of Swarm that is random or differs between versions:
/// - A failure that decides about the next slot is followed by a delay. Without a delay, Swarm may assign the next slot before
///   or after it sees the failure.
/// - Swarm does not look at failures while the last slots start, and later ignores a failure older than the monitor. So a
///   monitor that must catch is longer than an instance takes to get ready.
/// - A tolerated failure is never start-first: after the update, Swarm finds the old task in its slot, and begins again with
///   that slot.
/// - No instance fails between the monitor and a longer delay: engines differ in that case.
const QUICK_CASES: [UpdateCase; 5] = [
    UpdateCase {
        name: "the second fails: pause",
        delay: seconds(1),
        monitor: LONG,
        order: "start-first",
        instances: 2,
        fails: Failures::BeforeReady(&[2]),
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "the last fails within its monitor: rollback",
        monitor: LONG,
        action: "rollback",
        order: "start-first",
        instances: 2,
        fails: Failures::AfterReady(&[2], SOON),
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "one fails: continue",
        action: "continue",
        instances: 2,
        fails: Failures::BeforeReady(&[1]),
        differs: Difference::OldFillGaps,
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "as many fail as may",
        delay: seconds(1),
        monitor: seconds(4),
        action: "rollback",
        ratio: 0.5,
        instances: 2,
        fails: Failures::BeforeReady(&[1]),
        differs: Difference::OldFillGaps,
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "fails after its monitor, after the update",
        action: "rollback",
        order: "start-first",
        instances: 1,
        fails: Failures::AfterReady(&[1], seconds(6)),
        ..DEFAULT_CASE
    },
];

/// All cases, for `scripts/rules`.
const ALL_CASES: [UpdateCase; 19] = [
    UpdateCase { name: "one after the other", ..DEFAULT_CASE },
    UpdateCase {
        name: "all at once",
        parallelism: 0,
        action: "rollback",
        order: "start-first",
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "two at a time of five",
        parallelism: 2,
        delay: seconds(1),
        monitor: seconds(2),
        order: "start-first",
        instances: 5,
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "the first fails: pause",
        delay: seconds(1),
        monitor: LONG,
        fails: Failures::BeforeReady(&[1]),
        differs: Difference::OldFillGaps,
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "one in the middle fails: pause",
        delay: seconds(1),
        monitor: LONG,
        order: "start-first",
        fails: Failures::BeforeReady(&[2]),
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "one of the second two fails: pause",
        parallelism: 2,
        delay: seconds(1),
        monitor: LONG,
        instances: 6,
        fails: Failures::BeforeReady(&[3]),
        differs: Difference::OldFillGaps,
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "fails within its monitor: pause",
        delay: seconds(3),
        monitor: LONG,
        fails: Failures::AfterReady(&[2], SOON),
        differs: Difference::OldFillGaps,
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "fails within its monitor, start-first: pause",
        delay: seconds(3),
        monitor: LONG,
        order: "start-first",
        fails: Failures::AfterReady(&[2], SOON),
        differs: Difference::OldFillGaps,
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "the last fails within its monitor: rollback",
        monitor: LONG,
        action: "rollback",
        order: "start-first",
        fails: Failures::AfterReady(&[4], SOON),
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "fails after its monitor, during the update",
        delay: seconds(1),
        monitor: Duration::from_millis(1500),
        action: "rollback",
        fails: Failures::AfterReady(&[1], seconds(4)),
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "fails after its monitor, after the update",
        parallelism: 0,
        action: "rollback",
        order: "start-first",
        fails: Failures::AfterReady(&[1], seconds(8)),
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "a delay longer than the monitor",
        delay: seconds(6),
        monitor: seconds(4),
        fails: Failures::AfterReady(&[1], SOON),
        differs: Difference::OldFillGaps,
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "one of the second two fails: rollback",
        parallelism: 2,
        delay: seconds(1),
        monitor: LONG,
        action: "rollback",
        instances: 6,
        fails: Failures::BeforeReady(&[3]),
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "all fail: rollback",
        parallelism: 2,
        delay: seconds(1),
        monitor: LONG,
        action: "rollback",
        fails: ALL_FAIL,
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "two fail: continue",
        action: "continue",
        fails: Failures::BeforeReady(&[1, 3]),
        differs: Difference::OldFillGaps,
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "all fail: continue",
        parallelism: 2,
        action: "continue",
        fails: ALL_FAIL,
        differs: Difference::RollsBackWithoutNew,
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "as many fail as may",
        parallelism: 2,
        delay: seconds(1),
        monitor: seconds(4),
        action: "rollback",
        ratio: 0.25,
        fails: Failures::BeforeReady(&[2]),
        differs: Difference::OldFillGaps,
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "more fail than may: pause",
        delay: seconds(1),
        monitor: LONG,
        ratio: 0.25,
        fails: Failures::BeforeReady(&[1, 3]),
        differs: Difference::OldFillGaps,
        ..DEFAULT_CASE
    },
    UpdateCase {
        name: "more fail than may: rollback",
        parallelism: 0,
        monitor: LONG,
        action: "rollback",
        ratio: 0.25,
        order: "start-first",
        instances: 5,
        fails: Failures::BeforeReady(&[1, 4]),
        ..DEFAULT_CASE
    },
];

#[test]
fn updates_end_as_docker_service_update_does() {
    compare_with_swarm("1s", &QUICK_CASES);
}

#[test]
#[ignore = "takes minutes: scripts/rules"]
fn table() {
    compare_with_swarm("500ms", &ALL_CASES);
}

/// Compares all cases with health checks at this interval.
fn compare_with_swarm(interval: &str, cases: &[UpdateCase]) {
    let nodes = SwarmNodes::new(1, 0);
    let project = TestProject::on_other_engine(nodes.address(0), "rules");
    project.set_variables(&format!("DOCKER_HOST={} DOCKER_CONTEXT=", nodes.host(0)));
    let engine = RulesEngine::new(&project, interval);
    let results = run_cases(cases, |case, n| {
        let ends = (swarm::update(&engine, case, n), project::update(&engine, case, n));
        println!("{}", result_line(case, &ends));
        ends
    });
    let table = results.iter().zip(cases).map(|(ends, case)| result_line(case, ends));
    let table = table.collect::<String>();
    let same = results
        .iter()
        .zip(cases)
        .all(|((swarm_result, zd_result), case)| *zd_result == case.expected(swarm_result));
    assert!(same, "not as the engine's own:\n{table}");
}

/// Runs the cases, [`PARALLEL_CASES`] at a time, and returns their results in order.
fn run_cases<T: Send>(cases: &[UpdateCase], attempt: impl Fn(&UpdateCase, usize) -> T + Sync) -> Vec<T> {
    let cases = Mutex::new(cases.iter().enumerate());
    let results = Mutex::new(Vec::new());
    let work = || {
        loop {
            let next = cases.lock().expect("nothing panics with it").next();
            let Some((n, case)) = next else { break };
            let result = attempt(case, n);
            results.lock().expect("nothing panics with it").push((n, result));
        }
    };
    thread::scope(|scope| (0..PARALLEL_CASES).for_each(|_| drop(scope.spawn(work))));
    let mut results = results.into_inner().expect("nothing panics with it");
    results.sort_by_key(|(n, _)| *n);
    results.into_iter().map(|(_, result)| result).collect()
}

impl UpdateCase {
    /// Expected result of compose-zd, given that of Swarm.
    fn expected(&self, swarm_result: &UpdateResult) -> UpdateResult {
        let UpdateResult { state, new, old } = swarm_result.clone();
        match self.differs {
            Difference::None => UpdateResult { state, new, old },
            Difference::OldFillGaps => UpdateResult { state, new, old: self.instances - new },
            Difference::RollsBackWithoutNew => {
                UpdateResult { state: ResultState::RolledBack, new: 0, old: self.instances }
            }
        }
    }
}

fn result_line(case: &UpdateCase, (swarm_result, zd_result): &(UpdateResult, UpdateResult)) -> String {
    let expected = case.expected(swarm_result);
    let verdict = if *zd_result == expected { String::new() } else { format!("   <- expected: {expected}") };
    format!("{case}\n    service update: {swarm_result}\n    compose-zd:     {zd_result}{verdict}\n")
}

impl fmt::Display for UpdateCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UpdateCase { name, parallelism, delay, monitor, action, ratio, order, instances, fails, .. } =
            self;
        write!(f, "{name}: {instances} instances, parallelism {parallelism}, delay {delay:?}, ")?;
        write!(f, "monitor {monitor:?}, {action}, ratio {ratio}, {order}, {fails}")
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failures::Never => write!(f, "none fails"),
            Failures::BeforeReady(numbers) => write!(f, "{numbers:?} fail before they are ready"),
            Failures::AfterReady(numbers, after) => {
                write!(f, "{numbers:?} fail {after:?} after they are ready")
            }
        }
    }
}

impl fmt::Display for UpdateResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UpdateResult { state, new, old } = self;
        write!(f, "{state:?}, {new} new, {old} old")
    }
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
