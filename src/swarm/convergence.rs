//! Convergence of a service: whether its update is under way, done or failed. Pure.

use std::time::Duration;

use super::observed::{ObservedStack, ServiceSpec, StackService, Task};

/// Time between the removal of a task from Swarm's DNS and its stop
/// (moby `daemon/cluster/executor/container/controller.go`).
const STOP_DELAY: Duration = Duration::from_secs(2);

/// Swarm's own default for `monitor` (SwarmKit `api/defaults/service.go`).
pub const MONITOR: Duration = Duration::from_secs(5);

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
}

/// Convergence of a service; `before` is the service before the change was sent.
///
/// 1. The service must exist with the spec that was sent, unless Swarm itself rolled back.
/// 2. A job has converged when its tasks completed.
/// 3. An update status that Swarm reports decides.
/// 4. An update may not have begun yet: a changed service has converged only once its tasks run the current spec.
/// 5. Otherwise the service has converged once all desired tasks run; a global service needs at least one.
pub fn evaluate(stack: &ObservedStack, goal: &ServiceGoal, before: Option<&StackService>) -> Convergence {
    let Some(service) = stack.services.get(&goal.service) else { return Convergence::Gone };
    let (state, message) = match &service.update {
        Some(update) => (update.state.as_str(), update.message.clone()),
        None => ("", String::new()),
    };
    let is_other = goal.sent.as_ref().is_some_and(|sent| !sent.is_same_request(&service.spec));
    if is_other && !state.starts_with("rollback") {
        return Convergence::Overwritten;
    }
    if service.spec.is_job() {
        return job(stack, service);
    }
    let changed = before.is_some_and(|b| !b.spec.same_tasks(&service.spec));
    let running = match state {
        "updating" | "rollback_started" => return Convergence::Underway,
        "paused" => return Convergence::Paused(message),
        "rollback_paused" => return Convergence::RollbackPaused(message),
        "" if changed => stack.current_tasks(service),
        _ => stack.running_tasks(&service.name),
    };
    let desired = stack.desired_tasks(service).max(usize::from(service.spec.is_global()));
    match (running >= desired, state) {
        (false, _) => Convergence::Underway,
        (true, "rollback_completed") => Convergence::RolledBack(message),
        (true, _) => Convergence::Converged,
    }
}

/// A job has failed once a slot has used up its attempts: the first, and as many more as its restart policy allows.
fn job(stack: &ObservedStack, service: &StackService) -> Convergence {
    let desired = stack.desired_tasks(service).max(1);
    let failed = |t: &&Task| t.has_failed() && t.in_current_iteration(service);
    let attempts =
        |slot: &str| stack.tasks_of(&service.name).filter(failed).filter(|t| t.slot == slot).count();
    let is_exhausted =
        |t: &Task| service.spec.max_restarts().is_some_and(|retries| attempts(&t.slot) as u64 > retries);
    if stack.current_tasks(service) >= desired {
        Convergence::Converged
    } else if stack.tasks_of(&service.name).filter(failed).any(is_exhausted) {
        Convergence::JobFailed
    } else {
        Convergence::Underway
    }
}

/// Longest time without progress before an update counts as stuck: the time to get ready, plus every wait of Swarm itself.
/// Swarm has no such limit: it waits for ever for a task that never gets ready.
pub fn stall_timeout(
    stack: &ObservedStack,
    service: &StackService,
    ready: Duration,
    before: Option<&StackService>,
) -> Duration {
    let newest = stack.tasks_of(&service.name).filter(|t| !t.error.is_empty()).max_by_key(|t| &t.created);
    // A service with unchanged ports waits for its own old task to free them.
    let ports = |service: &StackService| service.spec.value()["EndpointSpec"]["Ports"].clone();
    let is_new = before.is_none_or(|b| ports(b) != ports(service));
    if is_new && newest.is_some_and(|t| is_port_taken(&t.error)) {
        return ready;
    }
    let monitor = service.spec.monitor();
    let delay = Duration::from_nanos(service.spec.update_config_nanos("Delay").unwrap_or_default());
    let swarm_waits = match before {
        None => monitor,
        Some(_) if service.spec.starts_first() => delay + monitor + STOP_DELAY,
        Some(_) => delay + monitor + STOP_DELAY + OLD_TASK_TIMEOUT,
    };
    let stop = before.map_or(0, |_| service.spec.stop_grace_nanos());
    let mut desired = stack.tasks_of(&service.name).filter(|t| t.is_desired());
    let ready = if desired.any(Task::is_preparing) { ready.max(PULL_TIME) } else { ready };
    ready + swarm_waits + Duration::from_nanos(stop)
}

/// Another process or service holds the port. Waiting does not free it.
pub fn is_port_taken(error: &str) -> bool {
    ["port is already allocated", "address already in use", "host-mode port already in use"]
        .iter()
        .any(|text| error.contains(text))
}

/// Score of the progress of a stack: grows with every step forward and with nothing else. A task that restarts again and
/// again is no progress.
pub fn progress_score<'a>(stack: &ObservedStack, services: impl Iterator<Item = &'a StackService>) -> usize {
    let score = |service: &StackService| {
        let old = stack.tasks_of(&service.name).filter(|t| !t.runs_spec(&service.spec) && t.runs()).count();
        let ended = usize::from(!["updating", "rollback_started"].contains(&service.update_state()));
        1000 * (stack.current_tasks(service) + ended) + 999usize.saturating_sub(old)
    };
    services.map(score).sum()
}

/// Errors of the tasks of a service, newest first, each reason once: the line to show, and the reason.
pub fn task_errors(
    stack: &ObservedStack,
    service: &str,
    is_known: impl Fn(&Task) -> bool,
) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    let is_job = stack.services.get(service).is_some_and(|s| s.spec.is_job());
    // Swarm stops a task whose health check fails. The task then counts as complete if it ends without an error.
    let ended = |t: &&Task| t.state == "complete" && !is_job;
    // A task that is not placed yet may wait for the port of the task that it replaces.
    let holds_port = stack.running_tasks(service) > 0;
    let waits_for_own_port =
        |t: &&Task| t.state == "pending" && is_port_taken(&t.error) && (holds_port || !t.is_desired());
    let troubled = stack.tasks_of(service).filter(|t| !waits_for_own_port(t));
    let troubled = troubled.filter(|t| (!t.error.is_empty() || ended(t)) && !is_known(t));
    for task in troubled.collect::<Vec<_>>().into_iter().rev() {
        let location = if task.node.is_empty() { String::new() } else { format!(" on {}", task.node) };
        let why = match task.error.as_str() {
            "" => "it ended by itself, or its health check failed",
            // The text before that names the endpoints.
            error if is_port_taken(error) => error.rsplit("): ").next().unwrap_or(error),
            error => error,
        };
        let (text, reason) =
            (format!("{}{location}: {}: {why}", task.name(), task.state), reason(&task.state, why));
        if found.len() < 5 && !found.iter().any(|(_, known)| *known == reason) {
            found.push((text, reason));
        }
    }
    found
}

/// Reason of a task error without the words that differ between tasks: ids, and endpoints named after them.
fn reason(state: &str, why: &str) -> String {
    let is_id = |part: &str| part.len() >= 12 && part.contains(|c: char| c.is_ascii_digit());
    let has_id = |word: &&str| word.split(|c: char| !c.is_ascii_alphanumeric()).any(is_id);
    let words: Vec<&str> = why.split_whitespace().filter(|w| !has_id(w)).collect();
    format!("{state}: {}", words.join(" "))
}

#[cfg(test)]
mod tests;
