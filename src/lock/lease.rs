//! Lease of a run on its lock. The run sends heartbeats. Before each change it checks that no other run has taken the lock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::{LockContext, LockOwner};
use crate::docker::ChangeGuard;
use crate::error::{Error, Exit};

/// Highest age of the last heartbeat at which a run may change something. A run counts as dead only at a much higher age.
const MAX_AGE: Duration = Duration::from_secs(30);

/// Time by two clocks. Unlike a monotonic clock, they continue while this machine sleeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeaseInstant {
    boot: Duration,
    /// On a paused virtual machine the boot clock stands still, and the wall clock is corrected afterwards.
    wall: SystemTime,
}

impl LeaseInstant {
    pub fn now() -> LeaseInstant {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Boottime);
        let boot =
            Duration::new(tv_sec.try_into().unwrap_or_default(), tv_nsec.try_into().unwrap_or_default());
        LeaseInstant { boot, wall: SystemTime::now() }
    }

    /// Age by the clock that advanced further.
    fn age(&self, now: &LeaseInstant) -> Duration {
        let wall = now.wall.duration_since(self.wall).unwrap_or_default();
        now.boot.saturating_sub(self.boot).max(wall)
    }

    fn is_fresh(&self) -> bool {
        self.age(&LeaseInstant::now()) < MAX_AGE
    }
}

/// Lease of a run on its lock, shared by the threads of the run.
#[derive(Clone)]
pub struct Lease(Arc<LeaseInner>);

struct LeaseInner {
    context: LockContext,
    /// Number of the next heartbeat. The mutex allows one heartbeat at a time.
    next_heartbeat: Mutex<u64>,
    state: Mutex<LeaseState>,
}

struct LeaseState {
    /// Time just before the last heartbeat was sent.
    heartbeat: LeaseInstant,
    /// Other run that took the lock.
    lost: Option<LockOwner>,
}

impl Lease {
    /// Lease on a lock that was taken after `since`.
    pub(super) fn new(context: LockContext, since: LeaseInstant) -> Lease {
        let state = LeaseState { heartbeat: since, lost: None };
        Lease(Arc::new(LeaseInner { context, next_heartbeat: Mutex::default(), state: Mutex::new(state) }))
    }

    /// Sends a heartbeat, and checks the owner of the lock.
    pub(super) fn renew(&self) -> Result<()> {
        self.send_heartbeat(self.next_heartbeat())
    }

    fn send_heartbeat(&self, mut next: MutexGuard<u64>) -> Result<()> {
        let (lost, is_fresh) = {
            let state = self.state();
            (state.lost.is_some(), state.heartbeat.is_fresh())
        };
        if lost {
            return Ok(());
        }
        let heartbeat = LeaseInstant::now();
        let new_owner = self.0.context.send_heartbeat(*next, is_fresh)?;
        *next += 1;
        *self.state() = LeaseState { heartbeat, lost: new_owner };
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, LeaseState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_heartbeat(&self) -> MutexGuard<'_, u64> {
        self.0.next_heartbeat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChangeGuard for Lease {
    /// Checks before a change that this run still holds the lock. Sends a heartbeat first if the last one is old.
    ///
    /// # Errors
    /// Another run took the lock; the engine does not answer.
    fn check(&self) -> Result<()> {
        let is_fresh = |state: &LeaseState| state.lost.is_none() && state.heartbeat.is_fresh();
        if !is_fresh(&self.state()) {
            let next = self.next_heartbeat();
            // Another thread may have sent a heartbeat meanwhile.
            if !is_fresh(&self.state()) {
                self.send_heartbeat(next)?;
            }
        }
        self.lost().map_or(Ok(()), |error| Err(error.into()))
    }

    fn lost(&self) -> Option<Error> {
        self.state().lost.as_ref().map(lost_error)
    }
}

fn lost_error(owner: &LockOwner) -> Error {
    let reason = if owner.token.is_empty() {
        "its lock is gone".to_string()
    } else {
        format!("{owner} has taken its lock")
    };
    Error::new(
        Exit::LostLock,
        format!("this run sent no heartbeat for too long, and {reason}; this run changed nothing more"),
    )
    .hint(
        "`compose-zd status` shows what serves; `compose-zd recover` finishes a deploy that was interrupted",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_that_of_the_clock_that_advanced_further() {
        let seconds = Duration::from_secs;
        let then = LeaseInstant { boot: seconds(100), wall: SystemTime::UNIX_EPOCH + seconds(1000) };
        let age = |boot, wall| {
            let now = LeaseInstant { boot: seconds(boot), wall: SystemTime::UNIX_EPOCH + seconds(wall) };
            then.age(&now)
        };
        assert_eq!(age(110, 1010), seconds(10));
        assert_eq!(age(200, 1010), seconds(100), "this process was stopped");
        assert_eq!(age(101, 4600), seconds(3600), "this machine was paused");
        assert_eq!(age(101, 400), seconds(1), "the wall clock was set back");
        assert!(LeaseInstant::now().is_fresh());
    }
}
