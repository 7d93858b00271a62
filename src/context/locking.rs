//! Lock of a project: one rollout at a time.

use std::sync::Arc;

use anyhow::Result;

use super::Context;
use crate::docker::lock_resource::LockBackend;
use crate::docker::{ChangeGuard, Docker};
use crate::git;
use crate::lock::{self, Lease, Lock, LockOwner, LockRequest};
use crate::model::EngineKind;
use crate::release::journal::Journal;
use crate::release::wait_queue::QueueTicket;

/// Lock of this run, released on drop. A dry run holds none.
pub struct LockGuard {
    /// True if the run waited for the lock: facts that it read before may have changed.
    pub waited: bool,
    lock: Option<Lock>,
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
        let is_superseded = || -> Result<bool> {
            Ok(ticket.as_ref().map(QueueTicket::is_superseded).transpose()?.unwrap_or_default())
        };
        let acquired = lock::acquire(LockRequest {
            docker: &self.docker,
            backend: lock_backend(self.engine),
            project: &self.journal.project,
            owner: LockOwner::current(command, git::user_and_host()),
            limit: self.args.lock.limit(),
            is_superseded: &is_superseded,
            report: self.report,
            stop: self.stop,
        })?;
        let Some(lock) = acquired else { return Ok(None) };
        // A newer run may have queued since the last check.
        if is_superseded()? {
            return Ok(None);
        }
        ticket.as_ref().map(QueueTicket::mark_served).transpose()?;
        // From here on, every change on the engine first checks that the run still holds the lock.
        self.docker.require_guard(Arc::new(lock.lease().clone()));
        Ok(Some(LockGuard { waited: lock.waited, lock: Some(lock), _ticket: ticket }))
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
        (None, Some(_)) if let Some(number) = journal.unrestored_release() => {
            Some(not_restored(journal, number))
        }
        (None, Some(unfinished)) => Some(format!(
            "release {} is unfinished, because its run was killed: `compose-zd recover` finishes it, `compose-zd rollback` \
             undoes it",
            unfinished.number
        )),
        (None, None) => journal.project_run.as_ref().map(|run| {
            let command = run.command();
            format!("`{command}` did not end: `compose-zd {command}` continues it, `compose-zd rollback` undoes it")
        }),
    })
}

/// Message about a failed release that was not undone, or not completely.
pub fn not_restored(journal: &Journal, number: u32) -> String {
    if journal.is_undoing() {
        let remedy = match journal.history.current() {
            Some(_) => "`compose-zd recover` completes it",
            None => "`compose-zd deploy` tries again and cleans up",
        };
        return format!("release {number} failed, and its undo is not complete: {remedy}");
    }
    format!(
        "release {number} failed, and the previous release does not serve: run `compose-zd rollback` or `compose-zd deploy`"
    )
}
