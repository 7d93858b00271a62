//! Problems that do not end a run, with their texts.

use std::time::Duration;

use derive_more::Display;
use strum::IntoStaticStr;

use super::messages::{drain_timeout, list, quoted};

/// A problem that does not end the deploy. Its name in `--output json` is its kind.
#[derive(Debug, Clone, PartialEq, Eq, Display, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Warning {
    #[display("no proxy found in front of `{_0}`: instances are replaced once ready, but nothing is drained")]
    NoProxy(String),
    /// A loss that a proxy will cause, with its fix.
    ExpectedLoss(String),
    #[display("{} still had {}; stopped anyway", list(names), drain_timeout(*limit, *requests, *unsure))]
    DrainTimeout {
        names: Vec<String>,
        /// None: a second signal ended the drain before its limit.
        limit: Option<Duration>,
        requests: usize,
        /// Connections that may be idle; the proxy does not report that.
        unsure: usize,
    },
    /// A signal arrived after the last switch.
    #[display(
        "the new release serves, so this run finishes instead of rolling back: it drains and stops the old \
         instances; a second signal ends the drain"
    )]
    FinishingAfterSignal,
    /// A second signal ends the drain.
    #[display(
        "stopping the old instances now, with requests in flight; another signal ends this run at once"
    )]
    DrainCutShort,
    #[display("{hook} of {name} failed: {output}")]
    HookFailed {
        name: String,
        hook: &'static str,
        output: String,
    },
    ProxyNotPrepared(String),
    #[display("the new release serves, and {} could not be restarted: {reason}", quoted(services))]
    NotRestarted {
        services: Vec<String>,
        reason: String,
    },
    /// New instances failed, within `max_failure_ratio`.
    #[display(
        "{failed} of {slots} new instances of `{target}` failed, within `max_failure_ratio`; the old ones keep \
         serving: {reason}"
    )]
    FailuresTolerated {
        target: String,
        failed: usize,
        slots: usize,
        reason: String,
    },
    /// A problem without a kind of its own, mostly of the records of releases.
    Other(String),
    /// The state folder is inside the build context of a service.
    #[display(
        "the build context of `{service}` contains `{folder}`, which holds resolved secrets: add it to \
         `.dockerignore`, or move it with `--state-dir`"
    )]
    StateInBuildContext {
        service: String,
        folder: String,
    },
    #[display("the new release serves, but cleaning up failed: {_0}")]
    CleanupFailed(String),
    #[display(
        "the old release serves, but a proxy still has settings of compose-zd; the next run removes them: {_0}"
    )]
    ProxyMarksLeft(String),
    #[display("rolled back to an instance that is not ready: {_0}")]
    RestoredNotReady(String),
    #[display("an old instance does not start again: {_0}")]
    NotRestored(String),
    /// Instances in rotation that exited, and whose failure no longer counts.
    #[display("{} exited and receives no requests", list(_0))]
    Exited(Vec<String>),
    /// The instance runs on.
    #[display(
        "the kernel killed a process of {_0} because memory ran out; {_0} still runs: raise its `mem_limit`"
    )]
    OutOfMemory(String),
    #[display(
        "`{_0}` has no healthcheck and no `x-zd.health`: any answer below 500 counts as ready; set `x-zd.health.path`"
    )]
    WeakProbe(String),
    /// Instances that serve and fail the probe of the new ones.
    ServingNotReady(String),
    /// A warning of Compose about the file.
    Compose(String),
    /// A setting that has no effect.
    Ignored(String),
    TaskNotRunning(String),
    #[display(
        "`{_0}` runs more tasks than it should: Swarm may keep two in a slot whose node was lost; `docker service \
         ps {_0}` lists them"
    )]
    TooManyTasks(String),
    /// With `--strict`: services that changed in the file, and that the deploy did not include.
    LeftAlone(String),
    TimelineNotWritten(String),
    #[display("`x-zd.notify`: {receiver} did not take the result: {reason}")]
    NotificationFailed {
        receiver: String,
        reason: String,
    },
    /// The witness got no answer before the switch.
    #[display(
        "`{url}` did not answer before the switch, so no witness probes it (`x-zd.witness.url`): {outcome}"
    )]
    WitnessSilent {
        url: String,
        outcome: String,
    },
    WitnessLost(String),
}
