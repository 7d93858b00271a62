//! How the update of a service stands. Pure.

use std::time::Duration;

use super::state::{Service, Stack, Task};

/// Swarm waits this long before it stops a task, so that others learn that it is gone
/// (moby `daemon/cluster/executor/container/controller.go`).
const GOSSIP: Duration = Duration::from_secs(2);

/// Swarm's own default for `monitor` (SwarmKit `api/defaults/service.go`).
const MONITOR: Duration = Duration::from_secs(5);

/// How long Swarm waits for a task that it stops first; one that was never placed on a node is waited for as long
/// (SwarmKit `orchestrator/restart/restart.go`).
const OLD_TASK: Duration = Duration::from_secs(60);

/// Least time that an image may take to arrive.
const PULL: Duration = Duration::from_secs(600);

/// How a service stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    Underway,
    /// As many tasks as are wanted run, and Swarm has nothing left to do.
    Converged,
    /// Swarm has put the spec before back, and says why.
    RolledBack(String),
    /// Swarm has stopped where it was, and says why.
    Paused(String),
    /// The way back has stopped where it was.
    RollbackPaused(String),
}

/// How a service stands; `before` is what it was when Swarm was told to change it.
///
/// 1. What Swarm says of its update goes first.
/// 2. It may not have begun yet: what has changed has converged only once the tasks are those that are asked for now.
/// 3. Else it has converged once as many run as are wanted.
pub fn standing(stack: &Stack, service: &Service, before: Option<&Service>) -> Standing {
    let message = service.update.as_ref().map(|u| u.message.clone()).unwrap_or_default();
    let changed = before.is_some_and(|b| !b.spec.same_tasks(&service.spec));
    let running = match service.update_state() {
        "updating" | "rollback_started" => return Standing::Underway,
        "paused" => return Standing::Paused(message),
        "rollback_paused" => return Standing::RollbackPaused(message),
        "" if changed => stack.current(service),
        _ => stack.tasks_of(&service.name).filter(|t| t.runs()).count(),
    };
    match (running >= stack.wanted(service) || is_done(stack, service), service.update_state()) {
        (false, _) => Standing::Underway,
        (true, "rollback_completed") => Standing::RolledBack(message),
        (true, _) => Standing::Converged,
    }
}

/// A job whose every task ran to its end.
fn is_done(stack: &Stack, service: &Service) -> bool {
    let mut wanted = stack.tasks_of(&service.name).filter(|t| t.is_wanted()).peekable();
    service.spec.is_job() && wanted.peek().is_some() && wanted.all(|t| t.state == "complete")
}

/// How long nothing may get further before Swarm is held to be stuck: the time to get ready, and everything that Swarm
/// waits for by itself in between. Swarm has no such limit: a task that never gets ready is waited for without end.
pub fn patience(service: &Service, ready: Duration, preparing: bool) -> Duration {
    let time = |key: &str| service.spec.update_time(key).map(Duration::from_nanos);
    let monitor = time("Monitor").unwrap_or(MONITOR);
    let own = time("Delay").unwrap_or_default() + monitor + GOSSIP;
    let own = if service.spec.starts_first() { own } else { own + OLD_TASK };
    let ready = if preparing { ready.max(PULL) } else { ready };
    ready + own + Duration::from_nanos(service.spec.stop_grace())
}

/// How far a stack is: grows with everything that gets further, and with nothing else. A task that starts over and over
/// is no progress.
pub fn progress<'a>(stack: &Stack, services: impl Iterator<Item = &'a Service>) -> usize {
    let of = |service: &Service| {
        let gone = stack.tasks_of(&service.name).filter(|t| !t.is_of(&service.spec) && t.runs()).count();
        let ended = usize::from(!["updating", "rollback_started"].contains(&service.update_state()));
        1000 * (stack.current(service) + ended) + 999usize.saturating_sub(gone)
    };
    services.map(of).sum()
}

/// Why tasks of a service do not get there: the last error of each slot, the newest first, each once.
pub fn complaints(stack: &Stack, service: &str, known: impl Fn(&Task) -> bool) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    let is_job = stack.services.get(service).is_some_and(|s| s.spec.is_job());
    // A task whose health check fails is stopped, and counts as complete when it then ends without an error.
    let ended = |t: &&Task| t.state == "complete" && !is_job;
    let troubled = stack.tasks_of(service).filter(|t| (!t.error.is_empty() || ended(t)) && !known(t));
    for task in troubled.collect::<Vec<_>>().into_iter().rev() {
        let place = if task.node.is_empty() { String::new() } else { format!(" on {}", task.node) };
        let why = match task.error.as_str() {
            "" => "it ended by itself, or its health check failed",
            error => error,
        };
        let text = format!("{}{place}: {}: {why}", task.name(), task.state);
        if !said.contains(&text) && said.len() < 5 {
            said.push(text);
        }
    }
    said
}

#[cfg(test)]
#[path = "verdict/tests.rs"]
mod tests;
