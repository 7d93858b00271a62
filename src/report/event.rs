//! Events of a run, as data. The terminal, plain lines, JSON, the journal of a release and the timeline all read them.
//! Their names and fields are the documented schema of `--output json`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plan::PlannedStep;
use crate::witness::ProbeReport;

/// An instance that exists when a deploy begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitialInstance {
    pub name: String,
    /// Its image and configuration are those of the release to deploy.
    pub new: bool,
    #[serde(alias = "runs")]
    pub running: bool,
    pub in_rotation: bool,
}

/// A step of a plan that begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepEvent {
    pub target: String,
    /// Counted from 1.
    pub number: usize,
    #[serde(alias = "of")]
    pub steps: usize,
    /// Counted from 1.
    pub batch: usize,
    pub batches: usize,
    /// `create`, `gate`, `start`, `wait_ready`, `route`, `drain`, `delay`, `monitor`, `stop`, `remove` or `hand_back`.
    #[serde(deserialize_with = "former::verb")]
    pub verb: String,
    pub names: Vec<String>,
    /// The step belongs to a rollback after a failure.
    #[serde(alias = "back")]
    pub rolling_back: bool,
}

/// An event of a run. Each alias is the name in journals of older versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Deploying {
        target: String,
        proxies: Vec<String>,
        instances: Vec<InitialInstance>,
    },
    /// A change of a proxy that stays after the rollout.
    Prepared {
        #[serde(alias = "what")]
        change: String,
    },
    WouldPrepare {
        #[serde(alias = "what")]
        change: String,
    },
    /// The plan of a dry run.
    Plan {
        target: String,
        steps: Vec<PlannedStep>,
    },
    Step(StepEvent),
    Created {
        names: Vec<String>,
    },
    Started {
        names: Vec<String>,
    },
    Ready {
        name: String,
        answer: String,
    },
    /// The last answer of a new instance, reported when the answer is new and has not changed for a while.
    NotReady {
        name: String,
        answer: String,
    },
    /// The running proxy confirmed these sets.
    Routed {
        #[serde(alias = "inside")]
        in_rotation: Vec<String>,
        #[serde(alias = "outside")]
        out_of_rotation: Vec<String>,
    },
    Draining {
        names: Vec<String>,
    },
    /// Instances without a request in flight.
    #[serde(alias = "idle")]
    Drained {
        names: Vec<String>,
    },
    Stopped {
        names: Vec<String>,
    },
    Removed {
        names: Vec<String>,
    },
    #[serde(alias = "starting_needed")]
    StartingDependencies {
        services: Vec<String>,
    },
    Building {
        services: Vec<String>,
    },
    Pulling {
        services: Vec<String>,
    },
    #[serde(alias = "going_back")]
    RollingBack,
    Interrupted,
    /// The delay between two batches.
    Delayed {
        #[serde(with = "seconds")]
        seconds: Duration,
    },
    Monitoring {
        names: Vec<String>,
        /// Time from the start of the rollout until the last new instance came into rotation.
        #[serde(with = "seconds", default, alias = "after")]
        in_service: Duration,
        /// Old instances that keep working, because no proxy routes work away from them.
        #[serde(default, alias = "beside")]
        old_instances: Vec<String>,
        /// The new instances are in the rotation of a proxy.
        #[serde(default)]
        proxied: bool,
        #[serde(with = "seconds")]
        seconds: Duration,
    },
    /// New instances that failed after they were ready, and whose failure counts.
    Failed {
        names: Vec<String>,
    },
    /// Instances in rotation that exited. A `failed` event or a warning reports the consequence.
    #[serde(alias = "died")]
    Exited {
        names: Vec<String>,
    },
    /// Several targets are replaced one after the other (`--one-by-one`).
    OneByOne {
        targets: Vec<String>,
        /// Sum of the monitor windows.
        #[serde(with = "seconds")]
        seconds: Duration,
    },
    /// Services with `depends_on.X.restart: true` on a replaced service X.
    Dependents {
        rolled: Vec<String>,
        restarted: Vec<String>,
    },
    Restarting {
        services: Vec<String>,
    },
    /// A worker with a writable volume is replaced stop-first.
    #[serde(alias = "stop_first")]
    StoppingFirst {
        service: String,
    },
    /// A job (`x-zd.before`, `x-zd.after`) runs.
    #[serde(alias = "running")]
    JobRunning {
        service: String,
    },
    #[serde(alias = "ran")]
    JobDone {
        service: String,
    },
    /// Services that changed in the file, and that this deploy does not include.
    LeftAlone {
        services: Vec<String>,
    },
    /// A service returns from the image of `--image` to the image of its file.
    #[serde(alias = "back_to_file")]
    ImageOverrideEnded {
        service: String,
        image: String,
        #[serde(alias = "ran")]
        previous_image: String,
        release: u32,
    },
    /// Services that ran before the first deploy are now recorded as a release.
    #[serde(alias = "adopted")]
    Imported {
        release: u32,
        services: Vec<String>,
    },
    #[serde(alias = "not_adopted")]
    NotImported {
        services: Vec<String>,
    },
    /// The running release is the one to deploy.
    #[serde(alias = "release")]
    Unchanged {
        release: u32,
        #[serde(alias = "back_to")]
        restored_release: Option<u32>,
    },
    Paused,
    #[serde(alias = "waiting")]
    WaitingForLock {
        #[serde(alias = "holder")]
        owner: String,
    },
    /// The owner of the lock was killed; this run has taken the lock over.
    #[serde(alias = "took_over")]
    LockTakenOver {
        #[serde(alias = "holder")]
        owner: String,
    },
    /// The release that a killed run did not finish.
    Recovering {
        release: u32,
    },
    #[serde(alias = "sending")]
    DeployingStack {
        stack: String,
        services: Vec<String>,
    },
    #[serde(alias = "own_way_back")]
    SwarmRollback {
        services: Vec<String>,
    },
    #[serde(alias = "task_runs")]
    TaskRunning {
        name: String,
        node: String,
        #[serde(alias = "current")]
        running: usize,
        #[serde(alias = "wanted")]
        desired: usize,
    },
    /// All tasks of a Swarm job completed.
    #[serde(alias = "job_completed")]
    SwarmJobDone {
        service: String,
        tasks: usize,
    },
    NoWitness {
        #[serde(alias = "why")]
        reason: String,
    },
    /// Result of the witness for one URL.
    Witness(Box<ProbeReport>),
    /// The new release of a target serves.
    Deployed {
        target: String,
        serving: Vec<String>,
        release: u32,
        /// Release that a rollback restored.
        #[serde(alias = "back_to")]
        restored_release: Option<u32>,
        /// Time from the start of the rollout until the new release served all requests.
        #[serde(with = "seconds", default)]
        in_service: Duration,
        /// Duration of the rollout.
        #[serde(with = "seconds")]
        seconds: Duration,
    },
    Warning {
        /// Stable name of the warning; the message may change.
        #[serde(deserialize_with = "former::kind")]
        kind: String,
        #[serde(alias = "text")]
        message: String,
    },
    /// A docker command that ran (`--verbose`).
    Command {
        #[serde(alias = "words")]
        arguments: String,
        #[serde(with = "seconds")]
        seconds: Duration,
    },
    /// A line of output of a user's command, a build or a pull.
    Output {
        line: String,
    },
    /// The error that ended the run.
    Error {
        exit: u8,
        message: String,
        details: Vec<String>,
        hint: Option<String>,
    },
}

/// A problem that does not end the deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    NoProxy(String),
    /// A loss that a proxy will cause, with its fix.
    ExpectedLoss(String),
    DrainTimeout {
        names: Vec<String>,
        /// None: a second signal ended the drain before its limit.
        limit: Option<Duration>,
        requests: usize,
        /// Connections that may be idle; the proxy does not report that.
        unsure: usize,
    },
    /// A signal arrived after the last switch.
    FinishingAfterSignal,
    /// A second signal ends the drain.
    DrainCutShort,
    HookFailed {
        name: String,
        hook: &'static str,
        output: String,
    },
    ProxyNotPrepared(String),
    NotRestarted {
        services: Vec<String>,
        reason: String,
    },
    /// New instances failed, within `max_failure_ratio`.
    FailuresTolerated {
        target: String,
        failed: usize,
        slots: usize,
        reason: String,
    },
    Other(String),
    /// The state folder is inside the build context of a service.
    StateInBuildContext {
        service: String,
        folder: String,
    },
    /// The new release serves.
    CleanupFailed(String),
    /// The old release serves.
    ProxyMarksLeft(String),
    RestoredNotReady(String),
    /// An old instance that does not start again.
    NotRestored(String),
    /// Instances in rotation that exited, and whose failure no longer counts.
    Exited(Vec<String>),
    /// The kernel killed a process of a new instance, and the instance runs on.
    OutOfMemory(String),
    WeakProbe(String),
    /// Instances that serve and fail the probe of the new ones.
    ServingNotReady(String),
    /// A warning of Compose about the file.
    Compose(String),
    /// A setting that has no effect.
    Ignored(String),
    TaskNotRunning(String),
    /// A Swarm service runs more tasks than it should.
    TooManyTasks(String),
    TimelineNotWritten(String),
    /// The witness got no answer before the switch.
    WitnessSilent {
        url: String,
        outcome: String,
    },
    WitnessLost(String),
}

impl Warning {
    /// Its kind in `--output json`.
    pub fn kind(&self) -> &'static str {
        match self {
            Warning::NoProxy(_) => "no_proxy",
            Warning::ExpectedLoss(_) => "expected_loss",
            Warning::DrainTimeout { .. } => "drain_timeout",
            Warning::FinishingAfterSignal => "finishing_after_signal",
            Warning::DrainCutShort => "drain_cut_short",
            Warning::HookFailed { .. } => "hook_failed",
            Warning::ProxyNotPrepared(_) => "proxy_not_prepared",
            Warning::NotRestarted { .. } => "not_restarted",
            Warning::FailuresTolerated { .. } => "failures_tolerated",
            Warning::Other(_) => "other",
            Warning::StateInBuildContext { .. } => "state_in_build_context",
            Warning::CleanupFailed(_) => "cleanup_failed",
            Warning::ProxyMarksLeft(_) => "proxy_marks_left",
            Warning::RestoredNotReady(_) => "restored_not_ready",
            Warning::NotRestored(_) => "not_restored",
            Warning::Exited(_) => "exited",
            Warning::OutOfMemory(_) => "out_of_memory",
            Warning::WeakProbe(_) => "weak_probe",
            Warning::ServingNotReady(_) => "serving_not_ready",
            Warning::Compose(_) => "compose",
            Warning::Ignored(_) => "ignored",
            Warning::TaskNotRunning(_) => "task_not_running",
            Warning::TooManyTasks(_) => "too_many_tasks",
            Warning::TimelineNotWritten(_) => "timeline_not_written",
            Warning::WitnessSilent { .. } => "witness_silent",
            Warning::WitnessLost(_) => "witness_lost",
        }
    }
}

/// Values that journals of older versions have under another name.
pub mod former {
    use serde::{Deserialize, Deserializer};

    /// Former and current verbs of a step.
    pub const VERBS: [(&str, &str); 3] =
        [("ready", "wait_ready"), ("idle", "drain"), ("release", "hand_back")];

    /// Former and current kinds of a warning.
    pub const KINDS: [(&str, &str); 18] = [
        ("loss", "expected_loss"),
        ("drain_limit", "drain_timeout"),
        ("finishes", "finishing_after_signal"),
        ("hurries", "drain_cut_short"),
        ("hook", "hook_failed"),
        ("not_prepared", "proxy_not_prepared"),
        ("tolerated", "failures_tolerated"),
        ("release", "other"),
        ("in_build_context", "state_in_build_context"),
        ("left_behind", "cleanup_failed"),
        ("marks_left", "proxy_marks_left"),
        ("not_ready_again", "restored_not_ready"),
        ("died", "exited"),
        ("task", "task_not_running"),
        ("too_many", "too_many_tasks"),
        ("timeline", "timeline_not_written"),
        ("silent", "witness_silent"),
        ("lost", "witness_lost"),
    ];

    pub fn verb<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
        current(from, &VERBS)
    }

    pub fn kind<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
        current(from, &KINDS)
    }

    fn current<'de, D: Deserializer<'de>>(from: D, names: &[(&str, &str)]) -> Result<String, D::Error> {
        let name = String::deserialize(from)?;
        let renamed = names.iter().find(|(former, _)| *former == name);
        Ok(renamed.map_or(name, |(_, current)| current.to_string()))
    }
}

/// Durations as a number of seconds.
pub mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Rounds to milliseconds.
    pub fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64((time.as_secs_f64() * 1000.0).round() / 1000.0)
    }

    /// # Errors
    /// A number that is negative or too large for a duration.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(from)?;
        Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)
    }
}
