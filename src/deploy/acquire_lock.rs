//! Whose turn it is: one rollout of a project at a time.

use std::time::Duration;

use anyhow::Result;

use super::journal::Journal;
use crate::cli::RolloutArgs;
use crate::docker::Docker;
use crate::docker::lock_resource::LockBackend;
use crate::error::{Error, Exit};
use crate::git;
use crate::lock::{self, AcquireResult, Lease, Lock, LockOwner, WaitObserver};
use crate::release::wait_queue::QueueTicket;
use crate::report::{Event, Report};
use crate::wait::StopSignal;

/// How a run got, or did not get, its turn.
pub enum LockOutcome {
    Ours(LockGuard),
    /// A newer run deploys: there is nothing to do.
    Superseded,
}

/// The turn, until it is dropped; nothing is held by a dry run.
pub struct LockGuard {
    /// It had to be waited for: what was read before may have changed.
    pub waited: bool,
    lock: Option<Box<Lock>>,
    // Last, so that no older run believes that this one has died.
    _place: Option<QueueTicket>,
}

impl LockGuard {
    /// Has every change of an engine wait for a check that the turn is still ours.
    pub fn guard(&self, docker: &Docker) {
        self.lease().into_iter().for_each(|lease| docker.require_lease(lease.clone()));
    }

    /// How a run ended; one that lost its turn in the middle ended by that.
    ///
    /// # Errors
    /// Those of the run.
    pub fn ended<T>(&self, result: Result<T>) -> Result<T> {
        let lost = self.lease().and_then(Lease::error);
        result.map_err(|error| lost.map_or(error, Into::into))
    }

    fn lease(&self) -> Option<&Lease> {
        self.lock.as_ref().map(|lock| lock.lease())
    }
}

/// What a run that wants its turn is.
pub struct LockCaller<'a> {
    pub docker: &'a Docker,
    /// It runs on a Swarm.
    pub is_stack: bool,
    pub journal: &'a Journal,
    /// As it was asked for: `deploy app`.
    pub command: String,
    pub rollout: &'a RolloutArgs,
    pub report: Report,
    pub stop: &'a StopSignal,
}

impl LockCaller<'_> {
    /// Takes the turn, where it is free or waited for.
    ///
    /// # Errors
    /// Somebody else's turn, for longer than is waited; an engine that refuses; an interrupt.
    pub fn turn(&self) -> Result<LockOutcome> {
        if self.rollout.dry_run {
            return Ok(LockOutcome::Ours(LockGuard { waited: false, lock: None, _place: None }));
        }
        let place = self.rollout.turn.latest.then(|| self.journal.place()).transpose()?;
        let docker = (!self.is_stack).then(|| self.docker.clone());
        let mut queue = WaitReporter { place, report: self.report, waited: false, docker };
        let holder = LockOwner::current(&self.command, git::user_and_host());
        let (limit, project) = (self.rollout.turn.limit(), self.journal.project.as_str());
        let wish = lock::LockRequest {
            docker: self.docker,
            backend: board(self.is_stack),
            project,
            owner: holder,
            limit,
        };
        match lock::acquire(wish, self.stop, &mut queue)? {
            AcquireResult::Held(lock) => self.begin(lock, queue),
            AcquireResult::GivenUp => Ok(LockOutcome::Superseded),
            AcquireResult::Interrupted(signal) => Err(Error::interrupted(signal).into()),
            AcquireResult::Busy(other) => Err(busy(&other, limit).into()),
        }
    }

    fn begin(&self, lock: Box<Lock>, queue: WaitReporter) -> Result<LockOutcome> {
        if let Some(place) = &queue.place {
            // One may have come since the last look.
            if place.is_superseded()? {
                return Ok(LockOutcome::Superseded);
            }
            place.mark_served()?;
        }
        self.docker.require_lease(lock.lease().clone());
        Ok(LockOutcome::Ours(LockGuard { waited: queue.waited, lock: Some(lock), _place: queue.place }))
    }
}

fn board(is_stack: bool) -> LockBackend {
    match is_stack {
        true => LockBackend::Configs,
        false => LockBackend::Volumes,
    }
}

/// What goes on with a project now, or was left half done; nothing where it is in order.
///
/// # Errors
/// An engine that does not answer.
pub fn under_way(docker: &Docker, is_stack: bool, journal: &Journal) -> Result<Option<String>> {
    let holder = lock::current_owner(docker, board(is_stack), &journal.project)?;
    Ok(match (holder, &journal.heading) {
        (Some(holder), _) => Some(format!("under way: {holder}")),
        (None, Some(heading)) if heading.paused => Some(format!(
            "release {} is paused: `compose-zd deploy --resume` goes on, `compose-zd rollback` goes back",
            heading.number
        )),
        (None, Some(_)) if let Some(number) = journal.broken() => Some(not_restored(number)),
        (None, Some(heading)) => Some(format!(
            "release {} was left half done by a run that was killed: `compose-zd recover`, `deploy` or `rollback` \
             brings it in order",
            heading.number
        )),
        (None, None) => None,
    })
}

/// What a release that failed for good has left.
pub fn not_restored(number: u32) -> String {
    format!(
        "release {number} failed, and what served before does not serve: `compose-zd rollback` or `deploy` brings it in order"
    )
}

/// What is told, and looked at, while others have their turn.
struct WaitReporter {
    place: Option<QueueTicket>,
    report: Report,
    waited: bool,
    /// Whose containers are read next; a stack's are not.
    docker: Option<Docker>,
}

impl WaitObserver for WaitReporter {
    fn on_wait(&mut self, holder: &LockOwner) {
        self.waited = true;
        self.report.event(Event::Waiting { holder: holder.to_string() });
    }

    fn on_takeover(&mut self, holder: &LockOwner) {
        self.report.event(Event::TookOver { holder: holder.to_string() });
    }

    fn on_claim(&mut self) {
        self.docker.iter().for_each(Docker::prefetch_containers);
    }

    fn should_give_up(&mut self) -> Result<bool> {
        Ok(self.place.as_ref().map(QueueTicket::is_superseded).transpose()?.unwrap_or(false))
    }
}

fn busy(other: &LockOwner, limit: Duration) -> Error {
    let after = match limit.is_zero() {
        true => String::new(),
        false => format!("; waited for {}", humantime::format_duration(limit)),
    };
    Error::new(Exit::Locked, format!("another run holds the project: {other}{after}"))
        .hint("`--wait` waits until it is done; with `--latest` only the newest of several that wait deploys")
}
