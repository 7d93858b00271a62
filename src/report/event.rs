//! Events of a run, as data. The terminal, plain lines, JSON, the journal of a release and the timeline all read them.
//! Their names and fields are the documented schema of `--output json`.

use std::collections::BTreeSet;
use std::time::Duration;

use derive_more::{Display, From};
use serde::{Deserialize, Serialize};

use super::changes::ServiceChange;
use super::messages::{
    after, dependents, durations, held_text, in_seconds, in_service_text, lines_after, list, placed, plural,
    quoted, restoring, rounded, total_window,
};
use super::plan::PlannedStep;
use super::probes::ProbeReport;

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

/// Images of a service before and after a rollout. Two images of one name have the beginnings of their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Display)]
#[display("`{service}`: {}{to}", self.before_text())]
pub struct ImageChange {
    pub service: String,
    /// Images that ran before.
    pub from: Vec<String>,
    pub to: String,
}

impl ImageChange {
    /// `shop:42 → `; nothing if that image ran already, or none did.
    fn before_text(&self) -> String {
        match self.from.as_slice() {
            [] => String::new(),
            [from] if *from == self.to => String::new(),
            from => format!("{} → ", list(from)),
        }
    }

    /// Change from images of running instances to another one, each with name and id. An unknown id is empty.
    pub fn new(
        service: &str,
        from: impl IntoIterator<Item = (String, String)>,
        (to, to_id): (&str, &str),
    ) -> ImageChange {
        let from: BTreeSet<(String, String)> = from.into_iter().collect();
        let is_ambiguous = from.iter().any(|(name, id)| name == to && id != to_id && !to_id.is_empty());
        let shown = |name: &str, id: &str| {
            let start: String = id.trim_start_matches("sha256:").chars().take(12).collect();
            if is_ambiguous && !start.is_empty() { format!("{name} ({start})") } else { name.into() }
        };
        let from = from.iter().map(|(name, id)| shown(name, id)).collect::<BTreeSet<_>>();
        ImageChange { service: service.into(), from: from.into_iter().collect(), to: shown(to, to_id) }
    }
}

/// A step of a plan that begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Display)]
#[display("step {number} of {steps}{}: {}", self.batch_text(), self.activity())]
pub struct StepEvent {
    pub target: String,
    /// Counted from 1.
    pub number: usize,
    #[serde(alias = "of")]
    pub steps: usize,
    /// Counted from 1.
    pub batch: usize,
    pub batches: usize,
    /// `create`, `gate`, `start`, `wait_ready`, `route`, `drain`, `delay`, `monitor`, `stop`, `remove`, `rename` or `hand_back`.
    #[serde(deserialize_with = "former::verb")]
    pub verb: String,
    pub names: Vec<String>,
    /// The step belongs to a rollback after a failure.
    #[serde(alias = "back")]
    pub rolling_back: bool,
}

impl StepEvent {
    /// `, batch 1 of 2`; nothing for a single batch.
    pub fn batch_text(&self) -> String {
        if self.batches > 1 { format!(", batch {} of {}", self.batch, self.batches) } else { String::new() }
    }

    /// Activity of the step, without names.
    pub fn activity(&self) -> &'static str {
        match self.verb.as_str() {
            "create" => "creating",
            "gate" => "keeping new instances out of rotation",
            "start" => "starting",
            "wait_ready" => "waiting until ready",
            "route" => "switching the proxy",
            "drain" => "draining",
            "delay" => "waiting between two batches",
            "monitor" => "watching the new instances",
            "stop" => "stopping",
            "remove" => "removing",
            "rename" => "renaming",
            _ => "cleaning up",
        }
    }
}

/// Names of instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Display, From)]
#[display("{}", names.join(", "))]
pub struct Names {
    pub names: Vec<String>,
}

/// Names of services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Display, From)]
#[display("{}", services.join(", "))]
pub struct Services {
    pub services: Vec<String>,
}

/// Name of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Display, From)]
#[display("`{service}`")]
pub struct Service {
    pub service: String,
}

/// Change of a proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Display, From)]
pub struct Change {
    #[serde(alias = "what")]
    pub change: String,
}

/// Answer of an instance to a probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub name: String,
    pub answer: String,
}

/// Owner of the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Display, From)]
pub struct Owner {
    #[serde(alias = "holder")]
    pub owner: String,
}

/// An event of a run, with its text. Each alias is the name in journals of older versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Display)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    #[display("deploying `{target}`{}", after(" behind ", proxies))]
    Deploying {
        target: String,
        proxies: Vec<String>,
        instances: Vec<InitialInstance>,
    },
    /// Images of the services of a rollout that begins.
    #[display("{}", images.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Images {
        project: String,
        /// `user@host` of the run.
        by: String,
        images: Vec<ImageChange>,
    },
    /// A service that `up` changes, or leaves although it differs from the file.
    ServiceChange(ServiceChange),
    /// Services that Compose starts.
    #[display("starting {_0}")]
    StartingServices(Services),
    /// Services that Compose recreates, with downtime.
    #[display("recreating {_0}")]
    Recreating(Services),
    #[display("up: {_0}")]
    ServicesUp(Services),
    /// A change of a proxy that stays after the rollout.
    Prepared(Change),
    #[display("would do: {_0}")]
    WouldPrepare(Change),
    /// The plan of a dry run.
    #[display("plan for `{target}`")]
    Plan {
        target: String,
        steps: Vec<PlannedStep>,
    },
    Step(StepEvent),
    #[display("created {_0}")]
    Created(Names),
    #[display("started {_0}")]
    Started(Names),
    #[display("{} is ready: {}", _0.name, _0.answer)]
    Ready(Answer),
    /// The last answer of a new instance, reported when it changes, and every 10 s.
    #[display("{} is not ready yet: {}", _0.name, _0.answer)]
    NotReady(Answer),
    /// The running proxy confirmed these sets.
    #[display("in rotation: {}{}", list(in_rotation), after("; out: ", out_of_rotation))]
    Routed {
        #[serde(alias = "inside")]
        in_rotation: Vec<String>,
        #[serde(alias = "outside")]
        out_of_rotation: Vec<String>,
    },
    #[display("draining {_0}")]
    Draining(Names),
    /// Instances without a request in flight.
    #[serde(alias = "idle")]
    #[display("no request in flight: {_0}")]
    Drained(Names),
    /// Requests wait in a relay from now on.
    #[display("requests wait in {_0}")]
    Holding(Names),
    /// Requests that waited in a relay while the only instance of a service was replaced.
    #[display("{}", held_text(*requests, *longest, *refused))]
    Held {
        requests: usize,
        #[serde(with = "seconds")]
        longest: Duration,
        /// Requests that were answered with 503, because too many waited, or one for too long.
        refused: usize,
    },
    #[display("stopped {_0}")]
    Stopped(Names),
    #[display("removed {_0}")]
    Removed(Names),
    #[serde(alias = "starting_needed")]
    #[display("starting dependencies: {_0}")]
    StartingDependencies(Services),
    #[display("building {_0}")]
    Building(Services),
    #[display("pulling {_0}")]
    Pulling(Services),
    #[serde(alias = "going_back")]
    #[display("rolling back")]
    RollingBack,
    #[display("interrupted; a second signal ends this run at once, and the next deploy cleans up")]
    Interrupted,
    /// The delay between two batches.
    #[display("waiting {} before the next batch", in_seconds(*seconds))]
    Delayed {
        #[serde(with = "seconds")]
        seconds: Duration,
    },
    #[display(
        "{}; watching {} for {} (Ctrl-C rolls back)",
        in_service_text(names, *in_service, old_instances, *proxied),
        plural(names.len(), "it", "them"),
        rounded(*seconds)
    )]
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
    #[display("{_0} failed")]
    Failed(Names),
    /// Instances in rotation that exited. A `failed` event or a warning reports the consequence.
    #[serde(alias = "died")]
    #[display("{_0} exited")]
    Exited(Names),
    /// Several targets are replaced one after the other (`--one-by-one`).
    #[display("one after the other: {}{}", quoted(targets), total_window(*seconds))]
    OneByOne {
        targets: Vec<String>,
        /// Sum of the monitor windows.
        #[serde(with = "seconds")]
        seconds: Duration,
    },
    /// Services with `depends_on.X.restart: true` on a replaced service X.
    #[display("`depends_on.….restart: true`: {}", dependents(rolled, restarted))]
    Dependents {
        rolled: Vec<String>,
        restarted: Vec<String>,
    },
    #[display("restarting {}", quoted(&_0.services))]
    Restarting(Services),
    /// A worker with a writable volume is replaced stop-first.
    #[serde(alias = "stop_first")]
    #[display(
        "{_0} holds a writable volume, so the old instance stops before the new one starts \
         (`order: start-first` runs both)"
    )]
    StoppingFirst(Service),
    /// A job (`x-zd.before`, `x-zd.after`) runs.
    #[serde(alias = "running")]
    #[display("running job {_0}")]
    JobRunning(Service),
    #[serde(alias = "ran")]
    #[display("job {_0} completed")]
    JobDone(Service),
    /// Services that changed in the file, and that this deploy does not include.
    #[display(
        "changed in the file, and not part of this deploy: {} (`compose-zd deploy {}`)",
        quoted(&_0.services),
        _0.services.join(" ")
    )]
    LeftAlone(Services),
    /// A service returns from the image of `--image` to the image of its file.
    #[serde(alias = "back_to_file")]
    #[display(
        "`{service}` returns to the image of the file, {image}; release {release} ran {previous_image} (`--image`)"
    )]
    ImageOverrideEnded {
        service: String,
        image: String,
        #[serde(alias = "ran")]
        previous_image: String,
        release: u32,
    },
    /// Services that ran before the first deploy are now recorded as a release.
    #[serde(alias = "adopted")]
    #[display("recorded the running {} as release {release}", quoted(services))]
    Imported {
        release: u32,
        services: Vec<String>,
    },
    #[serde(alias = "not_adopted")]
    #[display(
        "{} runs a configuration that is not in the file and was not deployed by compose-zd: a rollback cannot \
         restore it",
        quoted(&_0.services)
    )]
    NotImported(Services),
    /// The running release is the one to deploy.
    #[serde(alias = "release")]
    #[display("release {release}{}", restoring(*restored_release))]
    Unchanged {
        release: u32,
        #[serde(alias = "back_to")]
        restored_release: Option<u32>,
    },
    /// After a rollback: services whose newer version is still in the Compose file.
    #[display(
        "{file} still has the newer version of {}, which the next `compose-zd deploy` or `docker compose up -d` puts in \
         place again: bring the file and its sources back first, for example with `git revert`",
        quoted(services)
    )]
    NewerInFile {
        file: String,
        services: Vec<String>,
    },
    #[display("pausing; every instance stays as it is")]
    Paused,
    #[serde(alias = "waiting")]
    #[display("waiting for {_0}")]
    WaitingForLock(Owner),
    /// The owner of the lock was killed; this run has taken the lock over.
    #[serde(alias = "took_over")]
    #[display("{_0} was killed; this run has taken over the lock")]
    LockTakenOver(Owner),
    /// The release that a killed run did not finish.
    #[display("resuming release {release}, which a killed run did not finish")]
    Recovering {
        release: u32,
    },
    /// The failed release whose undo was not complete, and the release before it.
    #[display("completing the undo of release {release}: restoring release {restored_release}")]
    CompletingUndo {
        release: u32,
        restored_release: u32,
    },
    #[serde(alias = "sending")]
    #[display("stack `{stack}`: deploying {} to Swarm", list(services))]
    DeployingStack {
        stack: String,
        services: Vec<String>,
    },
    #[serde(alias = "own_way_back")]
    #[display("Swarm rolls back {_0}")]
    SwarmRollback(Services),
    #[serde(alias = "task_runs")]
    #[display("{name} runs on {node} ({running} of {desired})")]
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
    #[display("`{service}`: {tasks} of {tasks} tasks completed")]
    SwarmJobDone {
        service: String,
        tasks: usize,
    },
    #[display("no witness: {reason}")]
    NoWitness {
        #[serde(alias = "why")]
        reason: String,
    },
    /// Result of the witness for one URL.
    #[display("witness {}: {}", _0.url, _0.summary)]
    Witness(Box<ProbeReport>),
    /// The new release of a target serves.
    #[display(
        "`{target}` {}: {} {}",
        placed(*release, *restored_release),
        list(serving),
        durations(*in_service, *seconds)
    )]
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
    #[display("warning: {message}")]
    Warning {
        /// Stable name of the warning; the message may change.
        #[serde(deserialize_with = "former::kind")]
        kind: String,
        #[serde(alias = "text")]
        message: String,
    },
    /// A docker command that ran (`--verbose`).
    #[display("$ docker {arguments}  ({:.3}s)", seconds.as_secs_f64())]
    Command {
        #[serde(alias = "words")]
        arguments: String,
        #[serde(with = "seconds")]
        seconds: Duration,
    },
    /// A line of output of a user's command, a build or a pull.
    #[display("{line}")]
    Output {
        line: String,
    },
    /// The error that ended the run.
    #[display("error: {message}{}{}", lines_after("\n  ", details), lines_after("\nhint: ", hint))]
    Error {
        exit: u8,
        message: String,
        details: Vec<String>,
        hint: Option<String>,
    },
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
