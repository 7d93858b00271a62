//! Steps of a plan, in batches and stages.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use super::Bridge;
use crate::observed::InstanceKey;

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
        kind: Bridge,
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
    /// Give instances that were set aside their names back.
    Rename(Vec<InstanceKey>),
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
            Step::Rename(_) => "rename",
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
            | Step::Remove(keys)
            | Step::Rename(keys) => keys,
            Step::CreateBridge { key, .. } => std::slice::from_ref(key),
            Step::Delay(_) | Step::Monitor(_) | Step::HandBack => &[],
        }
    }
}

/// Cause of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    Missing,
    Bridge(Bridge),
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
            Cause::Bridge(Bridge::StandIn) => "serves while the only instance is replaced",
            Cause::Bridge(Bridge::Relay) => "requests wait while the only instance is replaced",
            Cause::NotYetReady => "not yet ready",
            Cause::Admit => "ready",
            Cause::Replaced => "replaced",
            Cause::Leftover => "not serving",
            Cause::Failed => "the rollout failed",
            Cause::Configured => "the settings of the update",
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
    pub(super) monitor: Option<PlannedStep>,
    /// Drain and stop of the last old instances.
    pub(super) retire: Vec<PlannedStep>,
    /// Removal of the old release, which a serving release does not need.
    pub(super) cleanup: Vec<PlannedStep>,
    /// Number of instances that have to join the rotation.
    pub slots: usize,
}

/// Instances that are replaced together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// Steps until the new instances are ready, without a client request.
    pub(super) bring_up: Vec<PlannedStep>,
    /// Steps that move requests. With stop-first, new instances start between them.
    pub(super) switch: Vec<PlannedStep>,
}

impl Batch {
    pub(super) fn steps(&self) -> impl Iterator<Item = &PlannedStep> {
        self.bring_up.iter().chain(&self.switch)
    }

    /// True if new instances get ready in the batch. A batch may also only stop instances.
    pub(super) fn has_new_instances(&self) -> bool {
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

    /// Number of instances in rotation after the last switch.
    pub fn serving_at_end(&self) -> usize {
        let steps = self.steps();
        let inside = steps.iter().rev().find_map(|(step, _)| match step {
            Step::Route { inside, .. } => Some(inside.len()),
            _ => None,
        });
        inside.unwrap_or(0)
    }

    /// Highest number of additional instances at a time.
    pub fn extra_instances(&self) -> usize {
        let (mut more, mut most) = (0isize, 0);
        // A relay is no instance of the service.
        let is_relay = |key: &InstanceKey| {
            let creates = |(step, _): &&PlannedStep| matches!(step, Step::CreateBridge { key: k, kind: Bridge::Relay, .. } if k == key);
            self.steps().iter().any(creates)
        };
        let instances = |keys: &[InstanceKey]| keys.iter().filter(|k| !is_relay(k)).count() as isize;
        for (step, _) in self.steps() {
            match step {
                Step::Start(keys) => more += instances(keys),
                Step::Stop(keys) => more -= instances(keys),
                _ => {}
            }
            most = most.max(more);
        }
        most as usize
    }
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
            Step::CreateBridge { key, kind, .. } => format!("create the {kind} {}", name(key)),
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
            Step::Rename(keys) => format!("give its name back to {}", list(keys)),
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
