//! Lease of a run on its lock: signs of life, and the check before each change that no other run has taken the lock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::{LockContext, LockOwner};
use crate::error::{Error, Exit};

/// Age of the last sign of life up to which a run may change something: well below the silence after which it counts as dead.
const YOUNG: Duration = Duration::from_secs(30);

/// A moment, by clocks that go on while this machine or this process sleeps.
#[derive(Debug, Clone, Copy)]
struct LeaseInstant {
    boot: Duration,
    /// A paused virtual machine has its boot clock stand still, and its wall clock corrected.
    wall: SystemTime,
}

impl LeaseInstant {
    fn now() -> LeaseInstant {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Boottime);
        let boot =
            Duration::new(tv_sec.try_into().unwrap_or_default(), tv_nsec.try_into().unwrap_or_default());
        LeaseInstant { boot, wall: SystemTime::now() }
    }

    /// By the clock that has gone further.
    fn age(&self, now: &LeaseInstant) -> Duration {
        let wall = now.wall.duration_since(self.wall).unwrap_or_default();
        now.boot.saturating_sub(self.boot).max(wall)
    }

    fn is_young(&self) -> bool {
        self.age(&LeaseInstant::now()) < YOUNG
    }
}

/// Whether a run still has its lock.
#[derive(Clone)]
pub struct Lease(Arc<Leased>);

struct Leased {
    keys: LockContext,
    /// Number of the next sign of life; one is left at a time.
    next: Mutex<u64>,
    state: Mutex<LeaseState>,
}

struct LeaseState {
    /// Moment before the last sign of life was left.
    beat: LeaseInstant,
    lost: Option<LockOwner>,
}

impl Lease {
    /// Of a lock that was taken after `since`.
    pub(super) fn new(keys: LockContext, since: LeaseStart) -> Lease {
        let state = LeaseState { beat: since.0, lost: None };
        Lease(Arc::new(Leased { keys, next: Mutex::default(), state: Mutex::new(state) }))
    }

    /// Before something is changed: that the lock is this run's. Where the last sign of life is not young, leaves one first.
    ///
    /// # Errors
    /// Another run has taken the lock; an engine that does not answer.
    pub fn check(&self) -> Result<()> {
        let is_young = |state: &LeaseState| state.lost.is_none() && state.beat.is_young();
        if !is_young(&self.state()) {
            let next = self.next();
            // Another thread may have left one meanwhile.
            if !is_young(&self.state()) {
                self.beat(next)?;
            }
        }
        self.error().map_or(Ok(()), |error| Err(error.into()))
    }

    /// Error of a run that has lost its lock.
    pub fn error(&self) -> Option<Error> {
        self.state().lost.as_ref().map(lost)
    }

    /// Leaves a sign of life, and looks whose the lock is.
    ///
    /// # Errors
    /// An engine that does not answer.
    pub(super) fn renew(&self) -> Result<()> {
        self.beat(self.next())
    }

    fn beat(&self, mut next: MutexGuard<u64>) -> Result<()> {
        let (lost, is_young) = {
            let state = self.state();
            (state.lost.is_some(), state.beat.is_young())
        };
        if lost {
            return Ok(());
        }
        let beat = LeaseInstant::now();
        let other = self.0.keys.beat(*next, is_young)?;
        *next += 1;
        *self.state() = LeaseState { beat, lost: other };
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, LeaseState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> MutexGuard<'_, u64> {
        self.0.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moment before a lock was asked for.
#[derive(Clone, Copy)]
pub(super) struct LeaseStart(LeaseInstant);

impl LeaseStart {
    pub fn now() -> LeaseStart {
        LeaseStart(LeaseInstant::now())
    }
}

fn lost(other: &LockOwner) -> Error {
    let by = match other.token.is_empty() {
        true => "its lock is gone".to_string(),
        false => format!("{other} has taken its lock"),
    };
    Error::new(
        Exit::LostLock,
        format!("this run left no sign of life for too long, and {by}; nothing more was changed by this run"),
    )
    .hint("`compose-zd status` shows what serves; `compose-zd recover` finishes what is left half done")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_as_old_as_the_clock_that_has_gone_further_says() {
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
        assert!(LeaseInstant::now().is_young());
    }
}
