//! Convergence of a service: whether its update is under way, done or failed. Pure.

use std::fmt;
use std::time::Duration;

use super::observed::{MONITOR, Mode, ObservedStack, ServiceSpec, StackService};
use crate::docker::types::{Task, TaskState, UpdateState};

/// Time between the removal of a task from Swarm's DNS and its stop
/// (moby `daemon/cluster/executor/container/controller.go`).
pub const STOP_DELAY: Duration = Duration::from_secs(2);

/// Longest time that Swarm waits for an old task to stop before it starts the new one; the same for a task that was never
/// placed on a node (SwarmKit `orchestrator/restart/restart.go`).
const OLD_TASK_TIMEOUT: Duration = Duration::from_secs(60);

/// Time that a pull may take, at least.
const PULL_TIME: Duration = Duration::from_secs(600);

/// Desired state of a service.
#[derive(Debug, Clone)]
pub struct ServiceGoal {
    pub service: String,
    /// Spec that Swarm accepted; none where it is not known.
    pub sent: Option<ServiceSpec>,
    /// Version of the service with that spec.
    pub version: u64,
    /// Time that a new task must stay up before it counts. Swarm itself monitors the tasks of an update only: not those
    /// of a new service, not added replicas, and nothing with `failure_action: continue`.
    pub monitor: Duration,
}

/// Convergence of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Convergence {
    Underway,
    /// All desired tasks run (of a job: completed), and Swarm has nothing left to do.
    Converged,
    /// Swarm restored the previous spec, for this reason.
    RolledBack(String),
    /// Swarm paused the update, for this reason.
    Paused(String),
    /// Swarm paused the rollback, for this reason.
    RollbackPaused(String),
    /// The service was removed during the update.
    Gone,
    /// Another update replaced the spec that was sent.
    Overwritten,
    /// A task of a job failed, and Swarm does not retry it.
    JobFailed,
    /// No progress for this long.
    Stuck(Duration),
}

impl ServiceGoal {
    /// Goal from the spec that Swarm accepted.
    pub fn new(now: &ObservedStack, service: &str) -> ServiceGoal {
        let found = now.services.get(service);
        let sent = found.map(|s| s.spec.clone());
        let monitor = sent.as_ref().map_or(MONITOR, ServiceSpec::monitor);
        ServiceGoal { service: service.into(), sent, version: found.map_or(0, |s| s.version), monitor }
    }

    /// Goal without a monitor window: a restored spec is known to work.
    pub fn without_monitor(now: &ObservedStack, service: &str) -> ServiceGoal {
        ServiceGoal { monitor: Duration::ZERO, ..ServiceGoal::new(now, service) }
    }

    /// Another update replaced the spec that was sent; a rollback by Swarm does not count.
    pub fn is_overwritten(&self, now: &StackService) -> bool {
        self.sent.as_ref().is_some_and(|sent| !sent.is_same_request(&now.spec)) && !now.is_rolled_back()
    }
}

/// Convergence in a few words.
impl fmt::Display for Convergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Convergence::Underway => f.write_str("no progress"),
            Convergence::Converged => f.write_str("converged"),
            Convergence::RolledBack(why) => write!(f, "rolled back: {why}"),
            Convergence::Paused(why) => write!(f, "the update is paused: {why}"),
            Convergence::RollbackPaused(why) => write!(f, "the rollback is paused: {why}"),
            Convergence::Gone => f.write_str("the service was removed during the update"),
            Convergence::Overwritten => f.write_str("another update replaced this one"),
            Convergence::JobFailed => f.write_str("the job failed"),
            Convergence::Stuck(after) => write!(f, "no progress for {}s", after.as_secs()),
        }
    }
}

/// Convergence of a service; `before` is the service before the change was sent.
///
/// 1. The service must exist with the spec that was sent, unless Swarm itself rolled back.
/// 2. A job has converged when its tasks completed.
/// 3. An update status that Swarm reports decides.
/// 4. An update may not have begun yet: a changed service has converged only once its tasks run the current spec.
/// 5. Otherwise the service has converged once all desired tasks run; a global service needs at least one.
pub fn evaluate(
    service: Option<&StackService>,
    goal: &ServiceGoal,
    before: Option<&StackService>,
) -> Convergence {
    let Some(service) = service else { return Convergence::Gone };
    let (state, message) = (service.update.state, || service.update.message.clone());
    if goal.is_overwritten(service) {
        return Convergence::Overwritten;
    }
    if service.spec.is_job() {
        return job(service);
    }
    let changed = before.is_some_and(|b| !b.spec.same_tasks(&service.spec));
    let running = match state {
        UpdateState::Updating | UpdateState::RollbackStarted => return Convergence::Underway,
        UpdateState::Paused => return Convergence::Paused(message()),
        UpdateState::RollbackPaused => return Convergence::RollbackPaused(message()),
        UpdateState::None if changed => service.current_tasks(),
        _ => service.running_tasks(),
    };
    let desired = service.desired_tasks().max(usize::from(service.spec.mode == Mode::Global));
    match (running >= desired, state) {
        (false, _) => Convergence::Underway,
        (true, UpdateState::RollbackCompleted) => Convergence::RolledBack(message()),
        (true, _) => Convergence::Converged,
    }
}

/// A job has failed once a slot has used up its attempts: the first, and as many more as its restart policy allows.
fn job(service: &StackService) -> Convergence {
    let failed = || service.tasks.iter().filter(|t| t.has_failed() && service.is_in_iteration(t));
    let attempts = |task: &Task| failed().filter(|t| t.slot() == task.slot()).count() as u64;
    let retries = service.spec.max_restarts();
    if service.current_tasks() >= service.desired_tasks().max(1) {
        Convergence::Converged
    } else if failed().any(|task| retries.is_some_and(|retries| attempts(task) > retries)) {
        Convergence::JobFailed
    } else {
        Convergence::Underway
    }
}

/// Longest time without progress before an update counts as stuck: the time to get ready, plus every wait of Swarm itself.
/// Swarm has no such limit: it waits for ever for a task that never gets ready.
pub fn stall_timeout(service: &StackService, ready: Duration, before: Option<&StackService>) -> Duration {
    let newest = service.tasks.iter().filter(|t| !t.status.error.is_empty()).max_by_key(|t| &t.created_at);
    // A service with unchanged ports waits for its own old task to free them.
    let ports = |service: &StackService| service.spec.value()["EndpointSpec"]["Ports"].clone();
    let is_new = before.is_none_or(|b| ports(b) != ports(service));
    if is_new && newest.is_some_and(|t| is_port_taken(&t.status.error)) {
        return ready;
    }
    let spec = &service.spec;
    let is_preparing = service.tasks.iter().any(|t| t.is_desired() && t.is_preparing());
    let ready = if is_preparing { ready.max(PULL_TIME) } else { ready };
    if before.is_none() {
        return ready + spec.monitor();
    }
    let old_task = if spec.starts_first() { Duration::ZERO } else { OLD_TASK_TIMEOUT };
    ready + spec.update_delay() + spec.monitor() + STOP_DELAY + old_task + spec.stop_grace_period()
}

/// Another process or service holds the port. Waiting does not free it.
pub fn is_port_taken(error: &str) -> bool {
    ["port is already allocated", "address already in use", "host-mode port already in use"]
        .iter()
        .any(|text| error.contains(text))
}

/// Score of the progress of a stack: grows with every step forward and with nothing else. A task that restarts again and
/// again is no progress.
pub fn progress_score<'a>(services: impl Iterator<Item = &'a StackService>) -> usize {
    let score = |service: &StackService| {
        let old = service.tasks.iter().filter(|t| !t.runs_spec(&service.spec) && t.runs()).count();
        1000 * (service.current_tasks() + usize::from(!service.is_updating())) + 999usize.saturating_sub(old)
    };
    services.map(score).sum()
}

/// Errors of the tasks of a service, newest first, each reason once: the line to show, and the reason.
pub fn task_errors(service: &StackService, is_known: impl Fn(&Task) -> bool) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    // Swarm stops a task whose health check fails. The task then counts as complete if it ends without an error.
    let ended = |t: &Task| t.status.state == TaskState::Complete && !service.spec.is_job();
    // A task that is not placed yet may wait for the port of the task that it replaces.
    let waits_for_own_port = |t: &Task| {
        t.status.state == TaskState::Pending
            && is_port_taken(&t.status.error)
            && (service.running_tasks() > 0 || !t.is_desired())
    };
    let is_troubled = |t: &&Task| (!t.status.error.is_empty() || ended(t)) && !waits_for_own_port(t);
    for task in service.tasks.iter().filter(is_troubled).filter(|t| !is_known(t)).rev() {
        let location = if task.node.is_empty() { String::new() } else { format!(" on {}", task.node) };
        let (state, error) = (task.status.state, task.status.error.as_str());
        let why = match error {
            "" => "it ended by itself, or its health check failed",
            // The text before that names the endpoints.
            error if is_port_taken(error) => error.rsplit("): ").next().unwrap_or(error),
            error => error,
        };
        let reason = reason(state, why);
        if found.len() < 5 && !found.iter().any(|(_, known)| *known == reason) {
            found.push((format!("{}{location}: {state}: {why}", task.name()), reason));
        }
    }
    found
}

/// Reason of a task error without the words that differ between tasks: ids, and endpoints named after them.
fn reason(state: TaskState, why: &str) -> String {
    let is_id = |part: &str| part.len() >= 12 && part.contains(|c: char| c.is_ascii_digit());
    let has_id = |word: &&str| word.split(|c: char| !c.is_ascii_alphanumeric()).any(is_id);
    let words: Vec<&str> = why.split_whitespace().filter(|w| !has_id(w)).collect();
    format!("{state}: {}", words.join(" "))
}

#[cfg(test)]
mod tests;
