//! What happens in a run, as data: one enum that every form of the report (terminal, plain lines, JSON, the journal of a
//! release, the picture) is made from. Its fields are the documented schema of `--output json`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plan::PlannedStep;
use crate::witness::ProbeReport;

/// An instance that is there when a deploy begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitialInstance {
    pub name: String,
    /// It is what the file asks for.
    pub new: bool,
    pub runs: bool,
    /// It gets requests.
    pub in_rotation: bool,
}

/// What a step of a plan does, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepEvent {
    pub target: String,
    /// Counted from 1.
    pub number: usize,
    pub of: usize,
    /// Counted from 1.
    pub batch: usize,
    pub batches: usize,
    /// `create`, `gate`, `start`, `ready`, `route`, `idle`, `delay`, `monitor`, `stop`, `remove`, `release`.
    pub verb: String,
    pub names: Vec<String>,
    /// On the way back to what served before.
    pub back: bool,
}

/// Something that a person who watches a deploy wants to know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Deploying {
        target: String,
        proxies: Vec<String>,
        instances: Vec<InitialInstance>,
    },
    Prepared {
        what: String,
    },
    WouldPrepare {
        what: String,
    },
    /// What a dry run would do.
    Plan {
        target: String,
        steps: Vec<PlannedStep>,
    },
    /// A step of the plan begins.
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
    /// The answer of an instance that is waited for, once it has stood for a while and is another one than before.
    NotReady {
        name: String,
        answer: String,
    },
    Routed {
        inside: Vec<String>,
        outside: Vec<String>,
    },
    Draining {
        names: Vec<String>,
    },
    Idle {
        names: Vec<String>,
    },
    Stopped {
        names: Vec<String>,
    },
    Removed {
        names: Vec<String>,
    },
    StartingNeeded {
        services: Vec<String>,
    },
    Building {
        services: Vec<String>,
    },
    Pulling {
        services: Vec<String>,
    },
    GoingBack,
    Interrupted,
    Delayed {
        #[serde(with = "seconds")]
        seconds: Duration,
    },
    Monitoring {
        names: Vec<String>,
        /// When the last of them came into rotation, since the rollout began.
        #[serde(with = "seconds", default)]
        after: Duration,
        /// Old instances that work as well meanwhile, where no proxy keeps work from them.
        #[serde(default)]
        beside: Vec<String>,
        /// They are in the rotation of a proxy.
        #[serde(default)]
        proxied: bool,
        #[serde(with = "seconds")]
        seconds: Duration,
    },
    /// New instances that were ready, and still count.
    Failed {
        names: Vec<String>,
    },
    /// Instances in rotation that ended. What comes of it is said by `failed` or a warning.
    Died {
        names: Vec<String>,
    },
    /// Several targets are replaced one after the other (`--one-by-one`).
    OneByOne {
        targets: Vec<String>,
        /// How long new instances are watched in all.
        #[serde(with = "seconds")]
        seconds: Duration,
    },
    /// Services that ask to be restarted with what is replaced (`depends_on.X.restart: true`).
    Dependents {
        rolled: Vec<String>,
        restarted: Vec<String>,
    },
    Restarting {
        services: Vec<String>,
    },
    /// A worker that holds a volume.
    StopFirst {
        service: String,
    },
    /// One-shots.
    Running {
        service: String,
    },
    Ran {
        service: String,
    },
    /// Services whose part of the file has changed, and that nobody asked for.
    LeftAlone {
        services: Vec<String>,
    },
    /// A service that ran another image than its file names.
    BackToFile {
        service: String,
        image: String,
        ran: String,
        release: u32,
    },
    /// What ran before compose-zd came is now a release.
    Adopted {
        release: u32,
        services: Vec<String>,
    },
    NotAdopted {
        services: Vec<String>,
    },
    Release {
        release: u32,
        back_to: Option<u32>,
    },
    Paused,
    /// Another run has its turn.
    Waiting {
        holder: String,
    },
    /// Of a run that was killed.
    TookOver {
        holder: String,
    },
    /// What a killed run was to put in place.
    Recovering {
        release: u32,
    },
    /// A stack's file goes to Swarm.
    Sending {
        stack: String,
        services: Vec<String>,
    },
    /// Swarm's own rollback is told to begin.
    OwnWayBack {
        services: Vec<String>,
    },
    /// A task of Swarm has come to run.
    TaskRuns {
        name: String,
        node: String,
        current: usize,
        wanted: usize,
    },
    /// The tasks of a job of Swarm ran to their end.
    JobCompleted {
        service: String,
        tasks: usize,
    },
    /// Nobody asks a public URL while it deploys.
    NoWitness {
        why: String,
    },
    /// What became of the witness's requests to one URL.
    Witness(Box<ProbeReport>),
    /// A target whose new release serves.
    Deployed {
        target: String,
        serving: Vec<String>,
        release: u32,
        /// The release that was put back.
        back_to: Option<u32>,
        /// When all requests went to it, since the rollout began.
        #[serde(with = "seconds", default)]
        in_service: Duration,
        /// When all was done.
        #[serde(with = "seconds")]
        seconds: Duration,
    },
    /// Something that went other than hoped, but does not end the deploy.
    Warning {
        /// Which warning, in `snake_case`; the text is for people and may change.
        kind: String,
        text: String,
    },
    /// A docker command that ran (`--verbose`).
    Command {
        words: String,
        #[serde(with = "seconds")]
        seconds: Duration,
    },
    /// A line that a command of the user's, a build or a pull said.
    Output {
        line: String,
    },
    /// What ended the run.
    Error {
        exit: u8,
        message: String,
        details: Vec<String>,
        hint: Option<String>,
    },
}

/// Something that went other than hoped, but does not end the deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    NoProxy(String),
    /// What a proxy will lose, with the fix.
    Loss(String),
    DrainLimit {
        names: Vec<String>,
        /// None where a second signal ended it before.
        limit: Option<Duration>,
        requests: usize,
        /// Connections of which the proxy does not tell whether they are idle.
        unsure: usize,
    },
    /// A signal came after the last switch.
    Finishes,
    /// A second one did.
    Hurries,
    Hook {
        name: String,
        what: &'static str,
        said: String,
    },
    NotPrepared(String),
    NotRestarted {
        services: Vec<String>,
        why: String,
    },
    /// New instances failed, but no more than may.
    Tolerated {
        target: String,
        failed: usize,
        slots: usize,
        why: String,
    },
    /// A release could not be written down or tidied up.
    Release(String),
    /// The state folder is part of what an image is built from.
    InBuildContext {
        service: String,
        folder: String,
    },
    LeftBehind(String),
    /// As above, where the old release serves.
    MarksLeft(String),
    NotReadyAgain(String),
    /// An old instance that does not start again.
    NotRestored(String),
    /// Instances in rotation that ended, and whose failure no longer counts.
    Died(Vec<String>),
    /// A process of a new instance was killed, and the instance runs on.
    OutOfMemory(String),
    WeakProbe(String),
    /// Instances that serve and do not pass the probe of new ones.
    ServingNotReady(String),
    /// Compose's own, about the file.
    Compose(String),
    /// A key of the file that Swarm does not obey.
    Ignored(String),
    /// Why a task of Swarm does not get there.
    Task(String),
    /// More tasks of a service run than are wanted.
    TooMany(String),
    /// A picture that cannot be written.
    Timeline(String),
    /// The witness never got an answer before the switch.
    Silent {
        url: String,
        said: String,
    },
    /// What the witness lost.
    Lost(String),
}

impl Warning {
    /// Its name in `--output json`.
    pub fn kind(&self) -> &'static str {
        match self {
            Warning::NoProxy(_) => "no_proxy",
            Warning::Loss(_) => "loss",
            Warning::DrainLimit { .. } => "drain_limit",
            Warning::Finishes => "finishes",
            Warning::Hurries => "hurries",
            Warning::Hook { .. } => "hook",
            Warning::NotPrepared(_) => "not_prepared",
            Warning::NotRestarted { .. } => "not_restarted",
            Warning::Tolerated { .. } => "tolerated",
            Warning::Release(_) => "release",
            Warning::InBuildContext { .. } => "in_build_context",
            Warning::LeftBehind(_) => "left_behind",
            Warning::MarksLeft(_) => "marks_left",
            Warning::NotReadyAgain(_) => "not_ready_again",
            Warning::NotRestored(_) => "not_restored",
            Warning::Died(_) => "died",
            Warning::OutOfMemory(_) => "out_of_memory",
            Warning::WeakProbe(_) => "weak_probe",
            Warning::ServingNotReady(_) => "serving_not_ready",
            Warning::Compose(_) => "compose",
            Warning::Ignored(_) => "ignored",
            Warning::Task(_) => "task",
            Warning::TooMany(_) => "too_many",
            Warning::Timeline(_) => "timeline",
            Warning::Silent { .. } => "silent",
            Warning::Lost(_) => "lost",
        }
    }
}

/// Durations as seconds.
pub mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    /// Rounded to milliseconds: nobody wants to read nanoseconds.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64((time.as_secs_f64() * 1000.0).round() / 1000.0)
    }

    /// # Errors
    /// No number of seconds that a duration can have.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(from)?;
        Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)
    }
}
