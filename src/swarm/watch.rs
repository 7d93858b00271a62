//! Watches a stack until every service stands still, and tells what happens meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::state::{Service, Stack, Task};
use super::verdict::{self, Standing};
use crate::docker::Docker;
use crate::docker::swarm::no_manager;
use crate::fault::Fault;
use crate::report::{Event, Report, Warning};
use crate::wait::{self, Stop, Waited};

/// How often Swarm is asked.
const POLL: Duration = Duration::from_millis(400);

/// How long a manager may be gone: another one is elected, or its engine starts again, within seconds.
const LOST: Duration = Duration::from_secs(60);

/// A year: what has a limit here has a better reason than time alone.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// Who is watched, and from where on.
pub struct Watch<'a> {
    pub docker: &'a Docker,
    pub stack: &'a str,
    /// By name; others of the stack are none of ours.
    pub services: Vec<String>,
    /// As it was before Swarm was told anything.
    pub before: &'a Stack,
    /// Time that a new task has to get ready in.
    pub ready: Duration,
    /// Swarm's own way back is what was asked for, and its end is the one that is hoped for.
    pub backwards: bool,
    pub report: Report,
    pub stop: Stop,
}

/// How the watching ended.
#[derive(Debug)]
pub enum End {
    Converged(Stack),
    /// This service stands still where it should not.
    Failed {
        stack: Stack,
        service: String,
        standing: Standing,
    },
    /// Nothing gets further any more.
    Stuck {
        stack: Stack,
        service: String,
        after: Duration,
    },
    Interrupted(i32),
    /// No manager answers.
    Lost(Fault),
}

/// What has been told already, and since when nothing got further.
struct Seen {
    running: BTreeSet<String>,
    said: BTreeSet<String>,
    best: usize,
    since: Instant,
    answered: Instant,
}

/// A stack as it is now.
///
/// # Errors
/// No engine, or one that is no manager.
pub fn look(docker: &Docker, stack: &str) -> Result<Stack> {
    let ids = docker.stack_services(stack)?.ok_or_else(no_manager)?;
    let (services, tasks) = (docker.inspect_services(&ids)?, docker.tasks(stack)?);
    let nodes: BTreeMap<String, String> =
        docker.nodes()?.into_iter().map(|node| (node.id, node.hostname)).collect();
    Ok(Stack::new(stack, services, tasks, &nodes))
}

impl Watch<'_> {
    /// Watches until all have converged, one of them stands still otherwise, or nothing gets further.
    ///
    /// # Errors
    /// Never for a manager that is gone for a while.
    pub fn run(&self) -> Result<End> {
        let now = Instant::now();
        let mut seen =
            Seen { running: self.known(), said: BTreeSet::new(), best: 0, since: now, answered: now };
        let waited = wait::until(POLL, FOREVER, &self.stop, || Ok::<_, Fault>(self.turn(&mut seen)))?;
        Ok(match waited {
            Waited::Done(end) => end,
            Waited::Interrupted(signal) => End::Interrupted(signal),
            Waited::TimedOut => End::Lost(Fault::unchanged("a year has passed")),
        })
    }

    /// Ids of the tasks that were there before.
    fn known(&self) -> BTreeSet<String> {
        self.before.tasks.iter().map(|t| t.id.clone()).collect()
    }

    fn turn(&self, seen: &mut Seen) -> Option<End> {
        match look(self.docker, self.stack) {
            Ok(stack) => {
                seen.answered = Instant::now();
                self.tell(&stack, seen);
                self.judge(stack, seen)
            }
            Err(error) if seen.answered.elapsed() > self.docker.scaled(LOST) => {
                Some(End::Lost(Fault::from_error(error)))
            }
            Err(_) => None,
        }
    }

    fn watched<'s>(&self, stack: &'s Stack) -> Vec<&'s Service> {
        self.services.iter().filter_map(|name| stack.services.get(name)).collect()
    }

    fn judge(&self, stack: Stack, seen: &mut Seen) -> Option<End> {
        let services = self.watched(&stack);
        let mut underway = Vec::new();
        for service in &services {
            match verdict::standing(&stack, service, self.before.services.get(&service.name)) {
                Standing::Converged => {}
                Standing::RolledBack(_) if self.backwards => {}
                Standing::Underway => underway.push((*service).clone()),
                standing => {
                    let service = service.name.clone();
                    return Some(End::Failed { stack, service, standing });
                }
            }
        }
        let far = verdict::progress(&stack, services.into_iter());
        if far > seen.best {
            (seen.best, seen.since) = (far, Instant::now());
        }
        if underway.is_empty() {
            return Some(End::Converged(stack));
        }
        let waited = seen.since.elapsed();
        let late = |service: &&Service| waited > self.patience(&stack, service);
        let service = underway.iter().all(|s| late(&s)).then(|| underway[0].name.clone())?;
        Some(End::Stuck { stack, service, after: waited })
    }

    fn patience(&self, stack: &Stack, service: &Service) -> Duration {
        let preparing = stack.tasks_of(&service.name).any(|t| t.is_wanted() && t.is_preparing());
        verdict::patience(service, self.ready, preparing)
    }

    /// Tells of every task that has come to run, and of every new complaint.
    fn tell(&self, stack: &Stack, seen: &mut Seen) {
        let old = self.known();
        for service in self.watched(stack) {
            let wanted = stack.wanted(service);
            let failed = stack.tasks_of(&service.name).filter(|t| t.has_failed() && !old.contains(&t.id));
            let died: Vec<String> =
                failed.filter(|t| seen.running.remove(&t.id)).map(|task| task.name()).collect();
            if !died.is_empty() {
                self.report.event(Event::Died { names: died });
            }
            let runs = |task: &&Task| task.runs() && task.is_of(&service.spec);
            let (told, new): (Vec<&Task>, Vec<&Task>) =
                stack.tasks_of(&service.name).filter(runs).partition(|t| seen.running.contains(&t.id));
            for (task, current) in new.into_iter().zip(told.len() + 1..) {
                if seen.running.insert(task.id.clone()) {
                    self.report.event(Event::TaskRuns {
                        name: task.name(),
                        node: task.node.clone(),
                        current,
                        wanted,
                    });
                }
            }
            for text in verdict::complaints(stack, &service.name, |task| old.contains(&task.id)) {
                if seen.said.insert(text.clone()) {
                    self.report.warn(&Warning::Task(text));
                }
            }
        }
    }
}
