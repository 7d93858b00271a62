//! How the update of a service stands. Pure.

use std::time::Duration;

use super::observed::{ObservedStack, Spec, StackService, Task};

/// Swarm waits this long before it stops a task, so that others learn that it is gone
/// (moby `daemon/cluster/executor/container/controller.go`).
const GOSSIP: Duration = Duration::from_secs(2);

/// Swarm's own default for `monitor` (SwarmKit `api/defaults/service.go`).
pub const MONITOR: Duration = Duration::from_secs(5);

/// How long Swarm waits for a task that it stops first; one that was never placed on a node is waited for as long
/// (SwarmKit `orchestrator/restart/restart.go`).
const OLD_TASK: Duration = Duration::from_secs(60);

/// Least time that an image may take to arrive.
const PULL: Duration = Duration::from_secs(600);

/// The state that a service is to reach.
#[derive(Debug, Clone)]
pub struct ServiceGoal {
    pub service: String,
    /// The spec that Swarm took; none where it is not known.
    pub sent: Option<Spec>,
    /// Its version then.
    pub version: u64,
    /// Time for which a new task has to stay up before it counts. Swarm watches the tasks of an update by itself, and only
    /// these: no new service, no added replica, and nothing with `failure_action: continue`.
    pub monitor: Duration,
}

/// How a service stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Convergence {
    Underway,
    /// As many tasks as are wanted run (of a job: completed), and Swarm has nothing left to do.
    Converged,
    /// Swarm has put the spec before back, and says why.
    RolledBack(String),
    /// Swarm has stopped where it was, and says why.
    Paused(String),
    /// The way back has stopped where it was.
    RollbackPaused(String),
    /// The service was removed meanwhile.
    Gone,
    /// Another update replaced the spec that was sent.
    Overwritten,
    /// A task of a job failed, and Swarm tries it no more.
    JobFailed,
}

impl ServiceGoal {
    /// For what Swarm has taken.
    pub fn sent(now: &ObservedStack, service: &str) -> ServiceGoal {
        let found = now.services.get(service);
        let sent = found.map(|s| s.spec.clone());
        let monitor = sent.as_ref().map_or(MONITOR, Spec::monitor);
        ServiceGoal { service: service.into(), sent, version: found.map_or(0, |s| s.version), monitor }
    }

    /// Without a window: what is put back is known to work.
    pub fn back(now: &ObservedStack, service: &str) -> ServiceGoal {
        ServiceGoal { monitor: Duration::ZERO, ..ServiceGoal::sent(now, service) }
    }
}

/// How a service stands; `before` is what it was when Swarm was told to change it.
///
/// 1. It has to be there, with the spec that was sent, unless Swarm itself put the one before back.
/// 2. A job is done when its tasks completed.
/// 3. What Swarm says of its update goes next.
/// 4. It may not have begun yet: what has changed has converged only once the tasks are those that are asked for now.
/// 5. Else it has converged once as many run as are wanted; of a global one at least one.
pub fn standing(stack: &ObservedStack, goal: &ServiceGoal, before: Option<&StackService>) -> Convergence {
    let Some(service) = stack.services.get(&goal.service) else { return Convergence::Gone };
    let (state, message) = match &service.update {
        Some(update) => (update.state.as_str(), update.message.clone()),
        None => ("", String::new()),
    };
    let is_other = goal.sent.as_ref().is_some_and(|sent| !sent.asks_for_same(&service.spec));
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
        "" if changed => stack.current(service),
        _ => stack.running(&service.name),
    };
    let wanted = stack.wanted(service).max(usize::from(service.spec.is_global()));
    match (running >= wanted, state) {
        (false, _) => Convergence::Underway,
        (true, "rollback_completed") => Convergence::RolledBack(message),
        (true, _) => Convergence::Converged,
    }
}

/// A job has failed once a slot has used up its attempts: its first one, and as many again as its restart policy has.
fn job(stack: &ObservedStack, service: &StackService) -> Convergence {
    let wanted = stack.wanted(service).max(1);
    let failed = |t: &&Task| t.has_failed() && t.is_in(service);
    let attempts =
        |slot: &str| stack.tasks_of(&service.name).filter(failed).filter(|t| t.slot == slot).count();
    let is_over = |t: &Task| service.spec.attempts().is_some_and(|again| attempts(&t.slot) as u64 > again);
    match stack.current(service) >= wanted {
        true => Convergence::Converged,
        false if stack.tasks_of(&service.name).filter(failed).any(is_over) => Convergence::JobFailed,
        false => Convergence::Underway,
    }
}

/// Longest time without progress before Swarm is held to be stuck: the time to get ready, and everything that Swarm
/// waits for by itself in between. Swarm has no such limit: a task that never gets ready is waited for without end.
pub fn stall_timeout(
    stack: &ObservedStack,
    service: &StackService,
    ready: Duration,
    before: Option<&StackService>,
) -> Duration {
    let newest = stack.tasks_of(&service.name).filter(|t| !t.error.is_empty()).max_by_key(|t| &t.created);
    // With the ports that it had, the service waits for its own task to leave.
    let ports = |service: &StackService| service.spec.value()["EndpointSpec"]["Ports"].clone();
    let is_new = before.is_none_or(|b| ports(b) != ports(service));
    if is_new && newest.is_some_and(|t| is_port_taken(&t.error)) {
        return ready;
    }
    let monitor = service.spec.monitor();
    let delay = Duration::from_nanos(service.spec.update_time("Delay").unwrap_or_default());
    let own = match before {
        None => monitor,
        Some(_) if service.spec.starts_first() => delay + monitor + GOSSIP,
        Some(_) => delay + monitor + GOSSIP + OLD_TASK,
    };
    let stop = before.map_or(0, |_| service.spec.stop_grace());
    let mut wanted = stack.tasks_of(&service.name).filter(|t| t.is_wanted());
    let ready = if wanted.any(Task::is_preparing) { ready.max(PULL) } else { ready };
    ready + own + Duration::from_nanos(stop)
}

/// Another process, or another service, has the port: that does not change by waiting.
pub fn is_port_taken(error: &str) -> bool {
    ["port is already allocated", "address already in use", "host-mode port already in use"]
        .iter()
        .any(|text| error.contains(text))
}

/// How far a stack is: grows with everything that gets further, and with nothing else. A task that starts over and over
/// is no progress.
pub fn progress<'a>(stack: &ObservedStack, services: impl Iterator<Item = &'a StackService>) -> usize {
    let of = |service: &StackService| {
        let gone = stack.tasks_of(&service.name).filter(|t| !t.is_of(&service.spec) && t.runs()).count();
        let ended = usize::from(!["updating", "rollback_started"].contains(&service.update_state()));
        1000 * (stack.current(service) + ended) + 999usize.saturating_sub(gone)
    };
    services.map(of).sum()
}

/// Why tasks of a service do not get there, the newest first, each reason once: the line for people, and the reason.
pub fn complaints(
    stack: &ObservedStack,
    service: &str,
    known: impl Fn(&Task) -> bool,
) -> Vec<(String, String)> {
    let mut said: Vec<(String, String)> = Vec::new();
    let is_job = stack.services.get(service).is_some_and(|s| s.spec.is_job());
    // A task whose health check fails is stopped, and counts as complete when it then ends without an error.
    let ended = |t: &&Task| t.state == "complete" && !is_job;
    // A task that is not placed yet may wait for the port of the one whose place it takes.
    let holds_port = stack.running(service) > 0;
    let waits = |t: &&Task| t.state == "pending" && is_port_taken(&t.error) && (holds_port || !t.is_wanted());
    let troubled = stack.tasks_of(service).filter(|t| !waits(t));
    let troubled = troubled.filter(|t| (!t.error.is_empty() || ended(t)) && !known(t));
    for task in troubled.collect::<Vec<_>>().into_iter().rev() {
        let place = if task.node.is_empty() { String::new() } else { format!(" on {}", task.node) };
        let why = match task.error.as_str() {
            "" => "it ended by itself, or its health check failed",
            // Before that the engine names the endpoints.
            error if is_port_taken(error) => error.rsplit("): ").next().unwrap_or(error),
            error => error,
        };
        let (text, reason) =
            (format!("{}{place}: {}: {why}", task.name(), task.state), reason(&task.state, why));
        if said.len() < 5 && !said.iter().any(|(_, known)| *known == reason) {
            said.push((text, reason));
        }
    }
    said
}

/// What two complaints have in common that say the same of two tasks: ids and the endpoints named after them differ.
fn reason(state: &str, why: &str) -> String {
    let is_id = |run: &str| run.len() >= 12 && run.contains(|c: char| c.is_ascii_digit());
    let has_id = |word: &&str| word.split(|c: char| !c.is_ascii_alphanumeric()).any(is_id);
    let words: Vec<&str> = why.split_whitespace().filter(|w| !has_id(w)).collect();
    format!("{state}: {}", words.join(" "))
}

#[cfg(test)]
mod tests;
