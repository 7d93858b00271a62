//! Lock of a project: one rollout at a time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::Context;
use crate::docker::lock_resource::LockBackend;
use crate::docker::{ChangeGuard, Docker};
use crate::error::{Error, Exit};
use crate::git;
use crate::lock::{self, AcquireResult, Lease, Lock, LockOwner, WaitObserver};
use crate::model::EngineKind;
use crate::release::journal::Journal;
use crate::release::wait_queue::QueueTicket;
use crate::report::{Event, Report};

/// Lock of this run, released on drop. A dry run holds none.
pub struct LockGuard {
    /// True if the run waited for the lock: facts that it read before may have changed.
    pub waited: bool,
    lock: Option<Box<Lock>>,
    // Dropped after the lock: an older run that waits must not count this run as dead.
    _ticket: Option<QueueTicket>,
}

impl LockGuard {
    /// Replaces the error of the run by that of a lost lock, if the run has lost its lock.
    pub fn finish<T>(&self, result: Result<T>) -> Result<T> {
        let lost = self.lease().and_then(Lease::lost);
        result.map_err(|error| lost.map_or(error, Into::into))
    }

    fn lease(&self) -> Option<&Lease> {
        self.lock.as_ref().map(|lock| lock.lease())
    }
}

impl Context<'_> {
    /// Acquires the lock, and waits for it up to the limit of the flags. `None` if a newer run deploys, so this run has
    /// nothing to do. `command` is the command as messages show it, such as `deploy app`.
    ///
    /// # Errors
    /// Another run holds the lock beyond the limit, the engine refuses, or a signal arrives.
    pub(super) fn acquire_lock(&self, command: &str) -> Result<Option<LockGuard>> {
        if self.args.dry_run {
            return Ok(Some(LockGuard { waited: false, lock: None, _ticket: None }));
        }
        let ticket = self.args.lock.latest.then(|| self.journal.queue_ticket()).transpose()?;
        let mut reporter = WaitReporter { ticket, report: self.report, waited: false };
        let (limit, project) = (self.args.lock.limit(), self.journal.project.as_str());
        let request = lock::LockRequest {
            docker: &self.docker,
            backend: lock_backend(self.engine),
            project,
            owner: LockOwner::current(command, git::user_and_host()),
            limit,
        };
        match lock::acquire(request, self.stop, &mut reporter)? {
            AcquireResult::Held(lock) => self.guard_unless_superseded(lock, reporter),
            AcquireResult::GivenUp => Ok(None),
            AcquireResult::Interrupted(signal) => Err(Error::interrupted(signal).into()),
            AcquireResult::Busy(other) => Err(busy_error(&other, limit).into()),
        }
    }

    /// Guard of an acquired lock, unless a newer run deploys instead. From here on, every change on the engine first
    /// checks that the run still holds the lock.
    fn guard_unless_superseded(&self, lock: Box<Lock>, reporter: WaitReporter) -> Result<Option<LockGuard>> {
        if let Some(ticket) = &reporter.ticket {
            // A newer run may have queued since the last check.
            if ticket.is_superseded()? {
                return Ok(None);
            }
            ticket.mark_served()?;
        }
        self.docker.require_guard(Arc::new(lock.lease().clone()));
        Ok(Some(LockGuard { waited: reporter.waited, lock: Some(lock), _ticket: reporter.ticket }))
    }
}

fn lock_backend(engine: EngineKind) -> LockBackend {
    match engine {
        EngineKind::Swarm => LockBackend::Configs,
        EngineKind::Compose => LockBackend::Volumes,
    }
}

/// Note for `status` about the run that holds the lock, or about a release that is paused, unfinished or not restored.
pub fn in_progress_note(docker: &Docker, engine: EngineKind, journal: &Journal) -> Result<Option<String>> {
    let owner = lock::current_owner(docker, lock_backend(engine), &journal.project)?;
    Ok(match (owner, &journal.in_progress) {
        (Some(owner), _) => Some(format!("under way: {owner}")),
        (None, Some(unfinished)) if unfinished.paused => Some(format!(
            "release {} is paused: `compose-zd deploy --resume` continues it, `compose-zd rollback` undoes it",
            unfinished.number
        )),
        (None, Some(_)) if let Some(number) = journal.unrestored_release() => Some(not_restored(number)),
        (None, Some(unfinished)) => Some(format!(
            "release {} is unfinished, because its run was killed: `compose-zd recover` finishes it, `compose-zd rollback` \
             undoes it",
            unfinished.number
        )),
        (None, None) => None,
    })
}

/// Message about a failed release that was not undone.
pub fn not_restored(number: u32) -> String {
    format!(
        "release {number} failed, and the previous release does not serve: run `compose-zd rollback` or `compose-zd deploy`"
    )
}

/// Reports the wait for another run.
struct WaitReporter {
    ticket: Option<QueueTicket>,
    report: Report,
    waited: bool,
}

impl WaitObserver for WaitReporter {
    fn on_wait(&mut self, owner: &LockOwner) {
        self.waited = true;
        self.report.event(Event::WaitingForLock(owner.to_string().into()));
    }

    fn on_takeover(&mut self, owner: &LockOwner) {
        self.report.event(Event::LockTakenOver(owner.to_string().into()));
    }

    fn should_give_up(&mut self) -> Result<bool> {
        Ok(self.ticket.as_ref().map(QueueTicket::is_superseded).transpose()?.unwrap_or(false))
    }
}

fn busy_error(other: &LockOwner, limit: Duration) -> Error {
    let after = if limit.is_zero() {
        String::new()
    } else {
        format!("; waited for {}", humantime::format_duration(limit))
    };
    Error::new(Exit::Locked, format!("another run holds the project: {other}{after}"))
        .hint("`--wait` waits for that run; with `--latest` only the newest of several waiting runs deploys")
}
