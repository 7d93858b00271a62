//! Lock of a project: one rollout at a time, from any machine. The lock is a record on the engine that only one run can
//! create. The record names its owner; a lock with a dead owner is free.

mod lease;
mod owner;

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::docker::lock_resource::{LockBackend, LockRecord};
use crate::docker::{ChangeGuard, Docker};
use crate::error::{Error, Exit};
use crate::process::Liveness;
use crate::report::{Event, Report};
use crate::wait::{self, StopSignal, WaitResult};
pub use lease::Lease;
use lease::LeaseInstant;
pub use owner::LockOwner;
use owner::age;

/// Interval between two attempts of a waiting run.
const RETRY: Duration = Duration::from_millis(500);

/// Interval of the owner's heartbeats, for runs that cannot see its process.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Age of the last heartbeat after which an owner counts as dead, if its process is not visible.
const DEAD_AFTER: Duration = Duration::from_secs(60);

/// Shortest observation of an owner that seems dead by the engine's clock: the clock may have jumped. Longer than the
/// heartbeat interval.
const MIN_OBSERVATION: Duration = Duration::from_secs(15);

/// Limit for taking over a dead lock, during which two runs may compete.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(10);

/// Limit for waiting for the last commands of a dead run: longer than most containers take to stop.
const ORPHAN_LIMIT: Duration = Duration::from_secs(60);

/// Most attempts to create a record that vanishes before its owner is read.
const MAX_ATTEMPTS: u32 = 20;

/// Longest project name in a record's name; the name of a config is limited to 64 characters.
const MAX_PROJECT: usize = 40;

/// Names of a lock's records.
#[derive(Debug, Clone)]
struct LockNames {
    backend: LockBackend,
    base: String,
}

impl LockNames {
    fn new(backend: LockBackend, project: &str) -> LockNames {
        let hash = || {
            let digest = Sha256::digest(project.as_bytes());
            digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        let short = if project.len() > MAX_PROJECT { hash() } else { project.to_string() };
        // A project's name has no dots, so that no two projects share a record.
        LockNames { backend, base: format!("compose-zd.{short}") }
    }

    fn lock(&self) -> String {
        format!("{}.lock", self.base)
    }

    /// Record of the run that takes over a dead lock.
    fn takeover(&self) -> String {
        format!("{}.break", self.base)
    }

    /// All records, heartbeats first: a lock that remains without heartbeats might look like a new one.
    fn all(&self) -> [String; 3] {
        [self.heartbeat(0), self.heartbeat(1), self.lock()]
    }

    /// Heartbeats alternate between two records, so that one always exists.
    fn heartbeat(&self, n: u64) -> String {
        format!("{}.beat{}", self.base, n % 2)
    }
}

/// Lock of this run; it is released when this is dropped.
pub struct Lock {
    /// True if the run waited for the lock: facts that it read before may have changed.
    pub waited: bool,
    context: LockContext,
    lease: Lease,
    end: Option<Sender<()>>,
    heartbeats: Option<JoinHandle<()>>,
}

/// Engine, names and owner of a lock.
#[derive(Clone)]
struct LockContext {
    docker: Docker,
    names: LockNames,
    owner: LockOwner,
}

/// Request for a lock.
pub struct LockRequest<'a> {
    pub docker: &'a Docker,
    pub backend: LockBackend,
    pub project: &'a str,
    pub owner: LockOwner,
    /// Longest wait for another run's lock.
    pub limit: Duration,
    /// True if the run should stop waiting.
    pub is_superseded: &'a dyn Fn() -> Result<bool>,
    pub report: Report,
    pub stop: &'a StopSignal,
}

/// Observation of an owner whose process is not visible.
#[derive(Default)]
struct OwnerSilence {
    heartbeats: Vec<LockRecord>,
    /// Time by this machine's clock, which a jump of the engine's clock does not change.
    unchanged_since: Option<Instant>,
}

/// Verdict on an owner whose process is not visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OwnerVerdict {
    Alive,
    Dead,
    /// Dead by the engine's clock, but not observed long enough by this machine's.
    Unsure,
}

impl OwnerSilence {
    /// Judges the owner; `age` is the age of the latest heartbeat by the engine's clock.
    fn judge(&mut self, heartbeats: Vec<LockRecord>, age: Option<Duration>, now: Instant) -> OwnerVerdict {
        let has_changed = !self.heartbeats.is_empty() && self.heartbeats != heartbeats;
        if has_changed || self.unchanged_since.is_none() {
            (self.heartbeats, self.unchanged_since) = (heartbeats, Some(now));
        }
        let observed =
            self.unchanged_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let is_old = age.is_some_and(|age| age > DEAD_AFTER);
        match () {
            () if has_changed => OwnerVerdict::Alive,
            () if observed >= DEAD_AFTER || (is_old && observed >= MIN_OBSERVATION) => OwnerVerdict::Dead,
            () if is_old => OwnerVerdict::Unsure,
            () => OwnerVerdict::Alive,
        }
    }
}

/// Acquires the lock of a project; while another run holds it, retries until the limit. `None` if a newer run
/// supersedes this one.
///
/// # Errors
/// Another run holds the lock beyond the limit, the engine refuses, or a signal arrives.
pub fn acquire(request: LockRequest) -> Result<Option<Lock>> {
    let LockRequest { docker, backend, project, limit, .. } = request;
    let names = LockNames::new(backend, project);
    let context = LockContext { docker: docker.clone(), names, owner: request.owner.clone() };
    let (mut busy_owner, mut waited) = (LockOwner::default(), false);
    let (start, mut silence) = (Instant::now(), OwnerSilence::default());
    let longest_wait = limit.max(MIN_OBSERVATION * 2);
    let acquired = wait::until(RETRY, longest_wait, request.stop, || -> Result<_> {
        if (request.is_superseded)()? {
            return Ok(Some(None));
        }
        let since = LeaseInstant::now();
        let Some((owner, verdict)) = context.attempt(&mut silence, &request)? else {
            return Ok(Some(Some(since)));
        };
        if !waited && !limit.is_zero() {
            request.report.event(Event::WaitingForLock(owner.to_string().into()));
            waited = true;
        }
        busy_owner = owner;
        if verdict != OwnerVerdict::Unsure && start.elapsed() >= limit {
            return Err(busy_error(&busy_owner, limit).into());
        }
        Ok(None)
    })?;
    match acquired {
        WaitResult::Done(since) => Ok(since.map(|since| Lock::start(context, since, waited))),
        WaitResult::TimedOut => Err(busy_error(&busy_owner, limit).into()),
        WaitResult::Interrupted(signal) => Err(Error::interrupted(signal).into()),
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

/// Owner of a project's lock, alive or dead.
pub fn recorded_owner(docker: &Docker, backend: LockBackend, project: &str) -> Result<Option<LockOwner>> {
    LockContext::reader(docker, backend, project).recorded_owner()
}

/// Owner of a project's lock, if the owner is alive.
pub fn current_owner(docker: &Docker, backend: LockBackend, project: &str) -> Result<Option<LockOwner>> {
    let context = LockContext::reader(docker, backend, project);
    Ok(match context.recorded_owner()? {
        Some(owner) if !context.seems_dead(&owner)? => Some(owner),
        _ => None,
    })
}

impl LockContext {
    /// Context that owns nothing.
    fn reader(docker: &Docker, backend: LockBackend, project: &str) -> LockContext {
        let (docker, names) = (docker.clone(), LockNames::new(backend, project));
        LockContext { docker, names, owner: LockOwner::default() }
    }

    fn recorded_owner(&self) -> Result<Option<LockOwner>> {
        self.owner_of(&self.names.lock())
    }

    /// Takes the lock, or returns its owner.
    fn attempt(
        &self,
        silence: &mut OwnerSilence,
        request: &LockRequest,
    ) -> Result<Option<(LockOwner, OwnerVerdict)>> {
        let Some(owner) = self.try_claim(&self.names.lock())? else { return Ok(None) };
        let verdict = match owner.liveness() {
            Liveness::Alive => OwnerVerdict::Alive,
            Liveness::Dead => OwnerVerdict::Dead,
            Liveness::NotVisible => {
                let heartbeats = self.heartbeats()?;
                let age = self.age(&heartbeats)?;
                silence.judge(heartbeats, age, Instant::now())
            }
        };
        if verdict != OwnerVerdict::Dead {
            return Ok(Some((owner, verdict)));
        }
        let other = self.take_over(owner, silence, request)?;
        Ok(other.map(|owner| (owner, OwnerVerdict::Alive)))
    }

    /// Creates a record, or returns the owner of the existing one.
    fn try_claim(&self, name: &str) -> Result<Option<LockOwner>> {
        for _ in 0..MAX_ATTEMPTS {
            self.docker.create_lock_record(self.names.backend, name, &self.owner.to_json())?;
            match self.owner_of(name)? {
                Some(owner) if owner == self.owner => return Ok(None),
                Some(owner) => return Ok(Some(owner)),
                None => {} // released just now
            }
        }
        Err(Error::unchanged(format!("the engine does not keep `{name}`, the lock of the project")).into())
    }

    fn owner_of(&self, name: &str) -> Result<Option<LockOwner>> {
        let record = self.docker.lock_record(self.names.backend, name)?;
        Ok(record.map(|record| LockOwner::parse(&record.text)))
    }

    fn remove(&self, names: &[String]) -> Result<()> {
        self.docker.remove_lock_records(self.names.backend, names)
    }

    /// True if the owner is dead; an owner without a visible process is judged by its latest heartbeat, without
    /// observation.
    fn seems_dead(&self, owner: &LockOwner) -> Result<bool> {
        match owner.liveness() {
            Liveness::Alive => Ok(false),
            Liveness::Dead => Ok(true),
            Liveness::NotVisible => Ok(self.age(&self.heartbeats()?)?.is_some_and(|age| age > DEAD_AFTER)),
        }
    }

    /// Heartbeats of the owner, and its lock.
    fn heartbeats(&self) -> Result<Vec<LockRecord>> {
        let names = self.names.all();
        let records = names.iter().map(|name| self.docker.lock_record(self.names.backend, name));
        records.filter_map(Result::transpose).collect()
    }

    /// Age of the latest heartbeat, by the engine's clock.
    fn age(&self, heartbeats: &[LockRecord]) -> Result<Option<Duration>> {
        let current = self.docker.info()?.system_time;
        Ok(heartbeats.iter().filter_map(|record| age(&record.created_at, &current)).min())
    }

    /// Takes over a dead lock. Two runs may find the same dead lock, and the second must not remove the lock of the
    /// first. Therefore the run holds a second record meanwhile, and checks the lock once more.
    fn take_over(
        &self,
        dead: LockOwner,
        silence: &OwnerSilence,
        LockRequest { report, stop, .. }: &LockRequest,
    ) -> Result<Option<LockOwner>> {
        let takeover = self.names.takeover();
        let waited = wait::until(RETRY / 5, TAKEOVER_LIMIT, stop, || -> Result<Option<()>> {
            let Some(other) = self.try_claim(&takeover)? else {
                return Ok(Some(()));
            };
            if self.seems_dead(&other)? {
                self.remove(std::slice::from_ref(&takeover))?;
            }
            Ok(None)
        })?;
        if waited != WaitResult::Done(()) {
            return Ok(Some(dead));
        }
        let current = self.owner_of(&self.names.lock())?;
        let is_silent = silence.unchanged_since.is_none() || self.heartbeats()? == silence.heartbeats;
        let is_still_there = current.as_ref() == Some(&dead) && is_silent;
        if is_still_there {
            report.event(Event::LockTakenOver(dead.to_string().into()));
            // The engine may still run the last commands of the killed run.
            wait::until(RETRY / 10, ORPHAN_LIMIT, stop, || {
                Ok::<_, Error>((!dead.has_orphans()).then_some(()))
            })?;
            self.remove(&self.names.all())?;
        }
        let other = self.try_claim(&self.names.lock());
        self.remove(&[takeover])?;
        other
    }

    /// Sends a heartbeat, then checks the lock; returns the owner of a lock that was lost. If the lock's record was
    /// removed (`docker volume prune`), it is created again, unless another run may have held the lock meanwhile.
    fn send_heartbeat(&self, n: u64, is_fresh: bool) -> Result<Option<LockOwner>> {
        let name = self.names.heartbeat(n);
        self.remove(std::slice::from_ref(&name))?;
        self.docker.create_lock_record(self.names.backend, &name, &self.owner.to_json())?;
        let other = if is_fresh {
            self.try_claim(&self.names.lock())?
        } else {
            let owner = self.owner_of(&self.names.lock())?;
            Some(owner.unwrap_or_default()).filter(|owner| *owner != self.owner)
        };
        if other.is_some() && self.owner_of(&name)?.is_some_and(|owner| owner == self.owner) {
            self.remove(&[name])?;
        }
        Ok(other)
    }
}

impl Lock {
    /// Starts the heartbeats; `since` is the time before the lock was requested.
    fn start(context: LockContext, since: LeaseInstant, waited: bool) -> Lock {
        let (end, ended) = mpsc::channel();
        let lease = Lease::new(context.clone(), since);
        let renewing = lease.clone();
        let beats = thread::spawn(move || {
            while ended.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) && renewing.lost().is_none()
            {
                // If the engine does not answer, the next heartbeat tries again.
                let _ = renewing.renew();
            }
        });
        Lock { waited, context, lease, end: Some(end), heartbeats: Some(beats) }
    }

    /// Lease: true while this run holds the lock.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.end = None;
        // A heartbeat under way would leave its record behind.
        let _ = self.heartbeats.take().map(JoinHandle::join);
        let LockContext { names, .. } = &self.context;
        let current = self.context.owner_of(&names.lock()).ok().flatten();
        if current.is_some_and(|owner| owner == self.context.owner) {
            // A record that remains has a dead owner and does not lock.
            let _ = self.context.remove(&names.all());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeat(created_at: &str) -> Vec<LockRecord> {
        vec![LockRecord { text: "x".into(), created_at: created_at.into() }]
    }

    /// Verdicts on an owner whose heartbeat is read after so many seconds; the last number is its age by the
    /// engine's clock.
    fn verdicts(reads: &[(&str, u64, u64)]) -> Vec<OwnerVerdict> {
        let (start, mut silence) = (Instant::now(), OwnerSilence::default());
        let judge = |(created_at, seconds, age): &(&str, u64, u64)| {
            silence.judge(
                heartbeat(created_at),
                Some(Duration::from_secs(*age)),
                start + Duration::from_secs(*seconds),
            )
        };
        reads.iter().map(judge).collect()
    }

    #[test]
    fn an_owner_is_dead_once_its_heartbeat_has_not_changed_by_this_machines_clock() {
        use OwnerVerdict::{Alive, Dead, Unsure};
        assert_eq!(
            verdicts(&[("a", 0, 5), ("a", 30, 35), ("a", 59, 64), ("b", 61, 1)]),
            [Alive, Alive, Dead, Alive]
        );
        assert_eq!(
            verdicts(&[("a", 0, 0), ("a", 59, 0), ("a", 60, 0)]),
            [Alive, Alive, Dead],
            "the engine's clock stands still"
        );
        assert_eq!(verdicts(&[("a", 0, 9000), ("a", 14, 9014), ("a", 15, 9015)]), [Unsure, Unsure, Dead]);
        assert_eq!(
            verdicts(&[("a", 0, 9000), ("b", 10, 9000), ("b", 24, 9014)]),
            [Unsure, Alive, Unsure],
            "the engine's clock jumped"
        );
    }

    #[test]
    fn no_two_projects_share_a_record_and_no_name_is_too_long() {
        let long = "a".repeat(80);
        let names: Vec<String> = ["a", "a-lock", "a_lock", long.as_str()]
            .iter()
            .flat_map(|p| {
                let names = LockNames::new(LockBackend::Configs, p);
                [names.lock(), names.takeover(), names.heartbeat(0), names.heartbeat(1)]
            })
            .collect();
        let unique: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), 16);
        assert!(names.iter().all(|n| n.len() <= 64), "{names:?}");
    }
}
