//! Watches a stack until every service has converged or failed, and reports progress.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::convergence::{self, Convergence, ServiceGoal};
use super::observed::{ObservedStack, StackService};
use crate::docker::Docker;
use crate::docker::swarm::not_a_manager;
use crate::docker::types::Task;
use crate::error::Error;
use crate::report::{Event, Report, Warning};
use crate::wait::{self, StopSignal, WaitResult};

/// Interval between two observations.
const POLL: Duration = Duration::from_millis(400);

/// Longest time without an answer of a manager: an election or a restart of the engine takes seconds.
const MANAGER_TIMEOUT: Duration = Duration::from_secs(60);

/// A year, which means no limit: a watch ends by an event or for lack of progress.
const NO_LIMIT: Duration = Duration::from_secs(365 * 24 * 3600);

/// The watch of some services of a stack.
pub struct StackWatch<'a> {
    pub docker: &'a Docker,
    pub stack: &'a str,
    /// Services to watch, with their goals. Other services of the stack are ignored.
    pub goals: Vec<ServiceGoal>,
    /// The stack before any change.
    pub before: &'a ObservedStack,
    /// Time that a new task may take to get ready.
    pub ready: Duration,
    /// The deploy is a rollback by Swarm, so `rollback_completed` is a success.
    pub rolling_back: bool,
    pub report: Report,
    pub stop: StopSignal,
}

/// Result of a watch.
#[derive(Debug)]
pub enum WatchResult {
    Converged(ObservedStack),
    /// The update of a service failed, or makes no progress.
    Failed(Box<ServiceFailure>),
    Interrupted(i32),
    /// No manager answers.
    Lost(Error),
}

/// A failed service, with the task errors collected during the watch, because Swarm forgets tasks.
#[derive(Debug)]
pub struct ServiceFailure {
    pub name: String,
    /// The service, unless it was removed.
    pub service: Option<StackService>,
    pub convergence: Convergence,
    pub task_errors: Vec<String>,
    /// The newest task that failed.
    pub task: Option<Task>,
}

/// The service and its convergence.
impl fmt::Display for ServiceFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.name, self.convergence)
    }
}

/// Events reported so far, and the time of the last progress.
struct WatchProgress {
    /// Time since which each task runs; none for a task that ran before the watch.
    running_since: BTreeMap<String, Option<Instant>>,
    /// Task errors by service and reason.
    task_errors: BTreeMap<String, BTreeMap<String, String>>,
    failed: BTreeMap<String, Task>,
    best_score: usize,
    improved_at: Instant,
    answered_at: Instant,
}

/// Observes a stack.
///
/// # Errors
/// The engine does not answer, or is no manager.
pub fn observe(docker: &Docker, stack: &str) -> Result<ObservedStack> {
    let services = docker.stack_services(stack)?.ok_or_else(not_a_manager)?;
    let tasks = docker.tasks(stack)?;
    let nodes = docker.swarm_nodes()?;
    let nodes = nodes.iter().map(|node| (node.id.clone(), node.hostname().to_string())).collect();
    Ok(ObservedStack::new(stack, services, tasks, &nodes))
}

impl StackWatch<'_> {
    /// Watches until all services have converged, one has failed, or nothing progresses. A manager that does not answer for
    /// a while is no error.
    pub fn run(&self) -> Result<WatchResult> {
        let now = Instant::now();
        let mut progress = WatchProgress {
            running_since: self.before.tasks().map(|t| (t.id.clone(), None)).collect(),
            task_errors: BTreeMap::new(),
            failed: BTreeMap::new(),
            best_score: 0,
            improved_at: now,
            answered_at: now,
        };
        let waited = wait::until(POLL, NO_LIMIT, &self.stop, || Ok::<_, Error>(self.poll(&mut progress)))?;
        Ok(match waited {
            WaitResult::Done(end) => end,
            WaitResult::Interrupted(signal) => WatchResult::Interrupted(signal),
            WaitResult::TimedOut => WatchResult::Lost(Error::unchanged("gave up after a year")),
        })
    }

    /// The task existed before the watch.
    fn existed_before(&self, task: &Task) -> bool {
        self.before.tasks().any(|t| t.id == task.id)
    }

    fn poll(&self, progress: &mut WatchProgress) -> Option<WatchResult> {
        match observe(self.docker, self.stack) {
            Ok(stack) => {
                progress.answered_at = Instant::now();
                self.report(&stack, progress);
                self.evaluate(stack, progress)
            }
            Err(error) if progress.answered_at.elapsed() > self.docker.scaled(MANAGER_TIMEOUT) => {
                Some(WatchResult::Lost(Error::from_error(error)))
            }
            Err(_) => None,
        }
    }

    fn watched_services<'s>(&self, stack: &'s ObservedStack) -> Vec<&'s StackService> {
        self.goals.iter().filter_map(|goal| stack.services.get(&goal.service)).collect()
    }

    fn evaluate(&self, stack: ObservedStack, progress: &mut WatchProgress) -> Option<WatchResult> {
        let mut underway = Vec::new();
        for goal in &self.goals {
            let service = stack.services.get(&goal.service);
            match convergence::evaluate(service, goal, self.before.services.get(&goal.service)) {
                Convergence::Converged if service.is_some_and(|s| has_stayed_up(s, goal, progress)) => {}
                Convergence::RolledBack(_) if self.rolling_back => {}
                Convergence::Underway | Convergence::Converged => underway.extend(service),
                convergence => return Some(failure(&stack, &goal.service, convergence, progress)),
            }
        }
        let score = convergence::progress_score(self.watched_services(&stack).into_iter());
        if score > progress.best_score {
            (progress.best_score, progress.improved_at) = (score, Instant::now());
        }
        let Some(first) = underway.first().map(|service| service.name.clone()) else {
            return Some(WatchResult::Converged(stack));
        };
        let waited = progress.improved_at.elapsed();
        let is_late = |service: &&StackService| {
            waited > convergence::stall_timeout(service, self.ready, self.before.services.get(&service.name))
        };
        let is_stuck = underway.iter().all(is_late);
        is_stuck.then(|| failure(&stack, &first, Convergence::Stuck(waited), progress))
    }

    /// Reports newly running tasks, tasks that died, and new task errors.
    fn report(&self, stack: &ObservedStack, progress: &mut WatchProgress) {
        for service in self.watched_services(stack) {
            let is_new = |t: &&Task| !self.existed_before(t);
            let failed: Vec<&Task> = service.tasks.iter().filter(|t| t.has_failed()).filter(is_new).collect();
            let died = failed.iter().filter(|t| progress.running_since.remove(&t.id).is_some());
            let died: Vec<String> = died.map(|task| task.name()).collect();
            if !died.is_empty() {
                self.report.event(Event::Exited(died.into()));
            }
            if let Some(task) = failed.into_iter().max_by_key(|t| &t.created_at) {
                progress.failed.insert(service.name.clone(), task.clone());
            }
            self.report_running(service, progress);
            let known = progress.task_errors.entry(service.name.clone()).or_default();
            for (text, reason) in convergence::task_errors(service, |task| self.existed_before(task)) {
                if let Entry::Vacant(entry) = known.entry(reason) {
                    self.report.warn(&Warning::TaskNotRunning(text.clone()));
                    entry.insert(text);
                }
            }
        }
    }

    fn report_running(&self, service: &StackService, progress: &mut WatchProgress) {
        if service.spec.is_job() {
            return;
        }
        let (current, desired) = (service.current_tasks(), service.desired_tasks());
        let runs = |task: &&Task| task.runs() && task.runs_spec(&service.spec);
        let is_new = |t: &&Task| !progress.running_since.contains_key(&t.id);
        let new: Vec<&Task> = service.tasks.iter().filter(runs).filter(is_new).collect();
        let already_running = current.saturating_sub(new.len());
        for (task, current) in new.into_iter().zip(already_running + 1..) {
            progress.running_since.insert(task.id.clone(), Some(Instant::now()));
            let (name, node, running) = (task.name(), task.node.clone(), current.min(desired));
            self.report.event(Event::TaskRunning { name, node, running, desired });
        }
    }
}

/// Every new task has run for the length of its monitor window.
fn has_stayed_up(service: &StackService, goal: &ServiceGoal, progress: &WatchProgress) -> bool {
    let has_stayed_up = |task: &Task| match progress.running_since.get(&task.id) {
        Some(Some(since)) => since.elapsed() >= goal.monitor,
        ran_before => ran_before.is_some(),
    };
    service.tasks.iter().filter(|t| t.runs()).all(has_stayed_up)
}

fn failure(
    stack: &ObservedStack,
    name: &str,
    convergence: Convergence,
    progress: &WatchProgress,
) -> WatchResult {
    let task_errors = progress.task_errors.get(name).into_iter().flatten();
    WatchResult::Failed(Box::new(ServiceFailure {
        name: name.into(),
        service: stack.services.get(name).cloned(),
        convergence,
        task_errors: task_errors.map(|(_, text)| text.clone()).collect(),
        task: progress.failed.get(name).cloned(),
    }))
}
