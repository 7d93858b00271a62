//! Watches a stack until every service stands still, and tells what happens meanwhile.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::convergence::{self, Convergence, ServiceGoal};
use super::observed::{ObservedStack, StackService, Task};
use crate::docker::Docker;
use crate::docker::swarm::not_a_manager;
use crate::error::Error;
use crate::report::{Event, Report, Warning};
use crate::wait::{self, StopSignal, WaitResult};

/// How often Swarm is asked.
const POLL: Duration = Duration::from_millis(400);

/// How long a manager may be gone: another one is elected, or its engine starts again, within seconds.
const LOST: Duration = Duration::from_secs(60);

/// A year: what has a limit here has a better reason than time alone.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The services that are watched, and from where on.
pub struct StackWatch<'a> {
    pub docker: &'a Docker,
    pub stack: &'a str,
    /// Others of the stack are none of ours.
    pub goals: Vec<ServiceGoal>,
    /// As it was before Swarm was told anything.
    pub before: &'a ObservedStack,
    /// Time that a new task has to get ready in.
    pub ready: Duration,
    /// Swarm's own way back is what was asked for, and its end is the one that is hoped for.
    pub backwards: bool,
    pub report: Report,
    pub stop: StopSignal,
}

/// How the watching ended.
#[derive(Debug)]
pub enum WatchResult {
    Converged(ObservedStack),
    /// The service stands still where it should not.
    Failed(Box<ServiceFailure>, Convergence),
    /// Nothing gets further any more.
    Stuck(Box<ServiceFailure>, Duration),
    Interrupted(i32),
    /// No manager answers.
    Lost(Error),
}

/// The service that failed, and what its tasks said while they were watched: Swarm forgets tasks.
#[derive(Debug)]
pub struct ServiceFailure {
    pub stack: ObservedStack,
    pub service: String,
    pub complaints: Vec<String>,
    /// The newest task that failed.
    pub task: Option<Task>,
}

/// What has been told already, and since when nothing got further.
struct WatchProgress {
    /// Since when tasks run; those that ran before without a time.
    running: BTreeMap<String, Option<Instant>>,
    /// Complaints of each service, by their reason.
    complaints: BTreeMap<String, BTreeMap<String, String>>,
    failed: BTreeMap<String, Task>,
    best: usize,
    since: Instant,
    answered: Instant,
}

/// A stack as it is now.
///
/// # Errors
/// No engine, or one that is no manager.
pub fn look(docker: &Docker, stack: &str) -> Result<ObservedStack> {
    let ids = docker.stack_services(stack)?.ok_or_else(not_a_manager)?;
    let (services, tasks) = (docker.inspect_services(&ids)?, docker.tasks(stack)?);
    let nodes: BTreeMap<String, String> =
        docker.nodes()?.into_iter().map(|node| (node.id, node.hostname)).collect();
    Ok(ObservedStack::new(stack, services, tasks, &nodes))
}

impl StackWatch<'_> {
    /// Watches until all have converged, one of them stands still otherwise, or nothing gets further.
    ///
    /// # Errors
    /// Never for a manager that is gone for a while.
    pub fn run(&self) -> Result<WatchResult> {
        let now = Instant::now();
        let mut seen = WatchProgress {
            running: self.before.tasks.iter().map(|t| (t.id.clone(), None)).collect(),
            complaints: BTreeMap::new(),
            failed: BTreeMap::new(),
            best: 0,
            since: now,
            answered: now,
        };
        let waited = wait::until(POLL, FOREVER, &self.stop, || Ok::<_, Error>(self.turn(&mut seen)))?;
        Ok(match waited {
            WaitResult::Done(end) => end,
            WaitResult::Interrupted(signal) => WatchResult::Interrupted(signal),
            WaitResult::TimedOut => WatchResult::Lost(Error::unchanged("a year has passed")),
        })
    }

    /// The task was there before.
    fn is_known(&self, task: &Task) -> bool {
        self.before.tasks.iter().any(|t| t.id == task.id)
    }

    fn turn(&self, seen: &mut WatchProgress) -> Option<WatchResult> {
        match look(self.docker, self.stack) {
            Ok(stack) => {
                seen.answered = Instant::now();
                self.report(&stack, seen);
                self.judge(stack, seen)
            }
            Err(error) if seen.answered.elapsed() > self.docker.scaled(LOST) => {
                Some(WatchResult::Lost(Error::from_error(error)))
            }
            Err(_) => None,
        }
    }

    fn watched<'s>(&self, stack: &'s ObservedStack) -> Vec<&'s StackService> {
        self.goals.iter().filter_map(|goal| stack.services.get(&goal.service)).collect()
    }

    fn judge(&self, stack: ObservedStack, seen: &mut WatchProgress) -> Option<WatchResult> {
        let mut underway = Vec::new();
        for goal in &self.goals {
            match convergence::standing(&stack, goal, self.before.services.get(&goal.service)) {
                Convergence::Converged if self.stays_up(&stack, goal, seen) => {}
                Convergence::RolledBack(_) if self.backwards => {}
                Convergence::Underway | Convergence::Converged => {
                    underway.push(&stack.services[&goal.service])
                }
                standing => {
                    let failure = failure(stack, &goal.service, seen);
                    return Some(WatchResult::Failed(failure, standing));
                }
            }
        }
        let far = convergence::progress(&stack, self.watched(&stack).into_iter());
        if far > seen.best {
            (seen.best, seen.since) = (far, Instant::now());
        }
        if underway.is_empty() {
            return Some(WatchResult::Converged(stack));
        }
        let waited = seen.since.elapsed();
        let patience = |s: &StackService| {
            convergence::stall_timeout(&stack, s, self.ready, self.before.services.get(&s.name))
        };
        let late = |service: &&StackService| waited > patience(service);
        let service = underway.iter().all(late).then(|| underway[0].name.clone())?;
        Some(WatchResult::Stuck(failure(stack, &service, seen), waited))
    }

    /// Every task that was not there before has run for as long as it is watched.
    fn stays_up(&self, stack: &ObservedStack, goal: &ServiceGoal, seen: &WatchProgress) -> bool {
        let ran = |task: &Task| match seen.running.get(&task.id) {
            Some(Some(since)) => since.elapsed() >= goal.monitor,
            known => known.is_some(),
        };
        stack.tasks_of(&goal.service).filter(|t| t.runs()).all(ran)
    }

    /// Tells of every task that has come to run, and of every new complaint.
    fn report(&self, stack: &ObservedStack, seen: &mut WatchProgress) {
        for service in self.watched(stack) {
            let tasks = || stack.tasks_of(&service.name);
            let failed: Vec<&Task> = tasks().filter(|t| t.has_failed() && !self.is_known(t)).collect();
            let ran = failed.iter().filter(|t| seen.running.remove(&t.id).is_some());
            let died: Vec<String> = ran.map(|task| task.name()).collect();
            if !died.is_empty() {
                self.report.event(Event::Died { names: died });
            }
            if let Some(task) = failed.into_iter().max_by_key(|t| &t.created) {
                seen.failed.insert(service.name.clone(), task.clone());
            }
            self.report_running(stack, service, seen);
            let said = seen.complaints.entry(service.name.clone()).or_default();
            for (text, reason) in convergence::complaints(stack, &service.name, |task| self.is_known(task)) {
                if let Entry::Vacant(place) = said.entry(reason) {
                    self.report.warn(&Warning::Task(text.clone()));
                    place.insert(text);
                }
            }
        }
    }

    fn report_running(&self, stack: &ObservedStack, service: &StackService, seen: &mut WatchProgress) {
        if service.spec.is_job() {
            return;
        }
        let (current, wanted) = (stack.current(service), stack.wanted(service));
        let runs = |task: &&Task| task.runs() && task.is_of(&service.spec);
        let new = |t: &&Task| !seen.running.contains_key(&t.id);
        let new: Vec<&Task> = stack.tasks_of(&service.name).filter(runs).filter(new).collect();
        let told = current.saturating_sub(new.len());
        for (task, current) in new.into_iter().zip(told + 1..) {
            seen.running.insert(task.id.clone(), Some(Instant::now()));
            let (name, node) = (task.name(), task.node.clone());
            self.report.event(Event::TaskRuns { name, node, current: current.min(wanted), wanted });
        }
    }
}

fn failure(stack: ObservedStack, service: &str, seen: &WatchProgress) -> Box<ServiceFailure> {
    let said = seen.complaints.get(service).into_iter().flatten();
    Box::new(ServiceFailure {
        complaints: said.map(|(_, text)| text.clone()).collect(),
        task: seen.failed.get(service).cloned(),
        service: service.into(),
        stack,
    })
}
