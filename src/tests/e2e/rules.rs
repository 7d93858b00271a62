//! The rules of `deploy.update_config` are the engine's own: each row is updated by `docker service update` and, as
//! a Compose project, by compose-zd, and both have to end the same way. The engine is one of the test's own.

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

use crate::swarm::nodes::Nodes;
use crate::test_project::Stage;
use engine::Engine;

/// How many rows are tried at a time; it is what two processors can do.
const AT_A_TIME: usize = 4;

/// One update: its settings, the number of instances, and which new ones fail.
pub struct Row {
    name: &'static str,
    parallelism: u32,
    delay: Duration,
    monitor: Duration,
    action: &'static str,
    ratio: f64,
    order: &'static str,
    instances: usize,
    fails: Fails,
    differs: Differs,
}

/// The instances of the new version that fail, by the order in which they start.
pub enum Fails {
    Never,
    /// They leave at their start.
    BeforeReady(&'static [u32]),
    /// They leave this long after they were first told to be well.
    AfterReady(&'static [u32], Duration),
}

/// What compose-zd deliberately does in another way than Swarm.
#[derive(Clone, Copy)]
pub enum Differs {
    Nowhere,
    /// Swarm leaves the slot of a failed task empty (start-first: of one that failed after it was running). Here
    /// the old instance stays or comes back, because never do fewer serve than before.
    OldInHoles,
    /// To Swarm an update that continues is completed even if nothing came of it. Here it failed, and the old serve.
    NotWithoutNew,
}

/// How an update ended.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    state: State,
    /// Running instances of each version.
    new: usize,
    old: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub enum State {
    Completed,
    Paused,
    RolledBack,
    /// Anything else, in its own words.
    Other(String),
}

/// Four instances, one after the other; the first failure pauses.
const PLAIN: Row = Row {
    name: "",
    parallelism: 1,
    delay: Duration::ZERO,
    monitor: seconds(1),
    action: "pause",
    ratio: 0.0,
    order: "stop-first",
    instances: 4,
    fails: Fails::Never,
    differs: Differs::Nowhere,
};

/// After it was ready, and well before any delay or monitor that is to catch it has passed.
const SOON: Duration = Duration::from_millis(400);

/// A monitor that catches, however busy the machine is.
const LONG: Duration = seconds(6);

const ALL: Fails = Fails::BeforeReady(&[1, 2, 3, 4, 5, 6, 7, 8]);

/// No row depends on what Swarm itself leaves to chance or has changed:
/// - A failure that decides about the next slot has a delay behind it; without one Swarm may hand out a slot before it
///   looks at the failure, or after.
/// - While the last slots are on their way Swarm does not look at failures, and one that is older than the monitor
///   when it looks is none. So a monitor that is to catch is longer than an instance takes to get ready.
/// - A failure that is tolerated is not start-first: Swarm finds the old task in its slot when it has completed, and
///   begins again with that slot.
/// - None fails between the monitor and a delay that is longer: not all engines let that pass.
const FEW: [Row; 5] = [
    Row {
        name: "the second fails: pause",
        delay: seconds(1),
        monitor: LONG,
        order: "start-first",
        instances: 2,
        fails: Fails::BeforeReady(&[2]),
        ..PLAIN
    },
    Row {
        name: "the last fails within its monitor: rollback",
        monitor: LONG,
        action: "rollback",
        order: "start-first",
        instances: 2,
        fails: Fails::AfterReady(&[2], SOON),
        ..PLAIN
    },
    Row {
        name: "one fails: continue",
        action: "continue",
        instances: 2,
        fails: Fails::BeforeReady(&[1]),
        differs: Differs::OldInHoles,
        ..PLAIN
    },
    Row {
        name: "as many fail as may",
        delay: seconds(1),
        monitor: seconds(4),
        action: "rollback",
        ratio: 0.5,
        instances: 2,
        fails: Fails::BeforeReady(&[1]),
        differs: Differs::OldInHoles,
        ..PLAIN
    },
    Row {
        name: "fails after its monitor, after the update",
        action: "rollback",
        order: "start-first",
        instances: 1,
        fails: Fails::AfterReady(&[1], seconds(6)),
        ..PLAIN
    },
];

/// All that is compared: `scripts/rules`.
const ROWS: [Row; 19] = [
    Row { name: "one after the other", ..PLAIN },
    Row { name: "all at once", parallelism: 0, action: "rollback", order: "start-first", ..PLAIN },
    Row {
        name: "two at a time of five",
        parallelism: 2,
        delay: seconds(1),
        monitor: seconds(2),
        order: "start-first",
        instances: 5,
        ..PLAIN
    },
    Row {
        name: "the first fails: pause",
        delay: seconds(1),
        monitor: LONG,
        fails: Fails::BeforeReady(&[1]),
        differs: Differs::OldInHoles,
        ..PLAIN
    },
    Row {
        name: "one in the middle fails: pause",
        delay: seconds(1),
        monitor: LONG,
        order: "start-first",
        fails: Fails::BeforeReady(&[2]),
        ..PLAIN
    },
    Row {
        name: "one of the second two fails: pause",
        parallelism: 2,
        delay: seconds(1),
        monitor: LONG,
        instances: 6,
        fails: Fails::BeforeReady(&[3]),
        differs: Differs::OldInHoles,
        ..PLAIN
    },
    Row {
        name: "fails within its monitor: pause",
        delay: seconds(3),
        monitor: LONG,
        fails: Fails::AfterReady(&[2], SOON),
        differs: Differs::OldInHoles,
        ..PLAIN
    },
    Row {
        name: "fails within its monitor, start-first: pause",
        delay: seconds(3),
        monitor: LONG,
        order: "start-first",
        fails: Fails::AfterReady(&[2], SOON),
        differs: Differs::OldInHoles,
        ..PLAIN
    },
    Row {
        name: "the last fails within its monitor: rollback",
        monitor: LONG,
        action: "rollback",
        order: "start-first",
        fails: Fails::AfterReady(&[4], SOON),
        ..PLAIN
    },
    Row {
        name: "fails after its monitor, during the update",
        delay: seconds(1),
        monitor: Duration::from_millis(1500),
        action: "rollback",
        fails: Fails::AfterReady(&[1], seconds(4)),
        ..PLAIN
    },
    Row {
        name: "fails after its monitor, after the update",
        parallelism: 0,
        action: "rollback",
        order: "start-first",
        fails: Fails::AfterReady(&[1], seconds(8)),
        ..PLAIN
    },
    Row {
        name: "a delay longer than the monitor",
        delay: seconds(6),
        monitor: seconds(4),
        fails: Fails::AfterReady(&[1], SOON),
        differs: Differs::OldInHoles,
        ..PLAIN
    },
    Row {
        name: "one of the second two fails: rollback",
        parallelism: 2,
        delay: seconds(1),
        monitor: LONG,
        action: "rollback",
        instances: 6,
        fails: Fails::BeforeReady(&[3]),
        ..PLAIN
    },
    Row {
        name: "all fail: rollback",
        parallelism: 2,
        delay: seconds(1),
        monitor: LONG,
        action: "rollback",
        fails: ALL,
        ..PLAIN
    },
    Row {
        name: "two fail: continue",
        action: "continue",
        fails: Fails::BeforeReady(&[1, 3]),
        differs: Differs::OldInHoles,
        ..PLAIN
    },
    Row {
        name: "all fail: continue",
        parallelism: 2,
        action: "continue",
        fails: ALL,
        differs: Differs::NotWithoutNew,
        ..PLAIN
    },
    Row {
        name: "as many fail as may",
        parallelism: 2,
        delay: seconds(1),
        monitor: seconds(4),
        action: "rollback",
        ratio: 0.25,
        fails: Fails::BeforeReady(&[2]),
        differs: Differs::OldInHoles,
        ..PLAIN
    },
    Row {
        name: "more fail than may: pause",
        delay: seconds(1),
        monitor: LONG,
        ratio: 0.25,
        fails: Fails::BeforeReady(&[1, 3]),
        differs: Differs::OldInHoles,
        ..PLAIN
    },
    Row {
        name: "more fail than may: rollback",
        parallelism: 0,
        monitor: LONG,
        action: "rollback",
        ratio: 0.25,
        order: "start-first",
        instances: 5,
        fails: Fails::BeforeReady(&[1, 4]),
        ..PLAIN
    },
];

#[test]
fn updates_end_as_docker_service_update_does() {
    end_as_dockers_own_do("1s", &FEW);
}

#[test]
#[ignore = "takes minutes: scripts/rules"]
fn table() {
    end_as_dockers_own_do("500ms", &ROWS);
}

/// Health checks are made this often.
fn end_as_dockers_own_do(interval: &str, rows: &[Row]) {
    let nodes = Nodes::new(1, 0);
    let stage = Stage::on(nodes.address(0), "rules");
    stage.set(&format!("DOCKER_HOST={} DOCKER_CONTEXT=", nodes.host(0)));
    let engine = Engine::of(&stage, interval);
    let results = each(rows, |row, n| {
        let ends = (swarm::update(&engine, row, n), project::update(&engine, row, n));
        println!("{}", line(row, &ends));
        ends
    });
    let table = results.iter().zip(rows).map(|(ends, row)| line(row, ends));
    let table = table.collect::<String>();
    let same = results.iter().zip(rows).all(|((theirs, ours), row)| *ours == row.expected(theirs));
    assert!(same, "not as the engine's own:\n{table}");
}

/// What comes of every row, some of them at a time.
fn each<T: Send>(rows: &[Row], attempt: impl Fn(&Row, usize) -> T + Sync) -> Vec<T> {
    let rows = Mutex::new(rows.iter().enumerate());
    let results = Mutex::new(Vec::new());
    let work = || {
        loop {
            let next = rows.lock().expect("nothing panics with it").next();
            let Some((n, row)) = next else { break };
            let result = attempt(row, n);
            results.lock().expect("nothing panics with it").push((n, result));
        }
    };
    thread::scope(|scope| (0..AT_A_TIME).for_each(|_| drop(scope.spawn(work))));
    let mut results = results.into_inner().expect("nothing panics with it");
    results.sort_by_key(|(n, _)| *n);
    results.into_iter().map(|(_, result)| result).collect()
}

impl Row {
    /// How compose-zd has to end where Swarm ended like this.
    fn expected(&self, theirs: &End) -> End {
        let End { state, new, old } = theirs.clone();
        match self.differs {
            Differs::Nowhere => End { state, new, old },
            Differs::OldInHoles => End { state, new, old: self.instances - new },
            Differs::NotWithoutNew => End { state: State::RolledBack, new: 0, old: self.instances },
        }
    }
}

fn line(row: &Row, (theirs, ours): &(End, End)) -> String {
    let expected = row.expected(theirs);
    let verdict = match *ours == expected {
        true => String::new(),
        false => format!("   <- expected: {expected}"),
    };
    format!("{row}\n    service update: {theirs}\n    compose-zd:     {ours}{verdict}\n")
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { name, parallelism, delay, monitor, action, ratio, order, instances, fails, .. } = self;
        write!(f, "{name}: {instances} instances, parallelism {parallelism}, delay {delay:?}, ")?;
        write!(f, "monitor {monitor:?}, {action}, ratio {ratio}, {order}, {fails}")
    }
}

impl fmt::Display for Fails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fails::Never => write!(f, "none fails"),
            Fails::BeforeReady(numbers) => write!(f, "{numbers:?} fail before they are ready"),
            Fails::AfterReady(numbers, after) => write!(f, "{numbers:?} fail {after:?} after they are ready"),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let End { state, new, old } = self;
        write!(f, "{state:?}, {new} new, {old} old")
    }
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
