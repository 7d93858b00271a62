//! One rollout of a project at a time, whoever starts it and from wherever: the lock is on the engine, a name that only one
//! can take. It says who holds it, and one whose holder is dead is no lock.

mod lease;
mod owner;

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::docker::Docker;
use crate::docker::lock_resource::{LockBackend, LockRecord};
use crate::error::Error;
use crate::wait::{self, StopSignal, WaitResult};
pub use lease::Lease;
use lease::LeaseStart;
use owner::{Liveness, age};
pub use owner::{LockOwner, ProcessId, RUN};

/// How often a run that waits asks again.
const AGAIN: Duration = Duration::from_millis(500);

/// How often a holder leaves a sign of life for those that cannot see its process.
const BEAT: Duration = Duration::from_secs(10);

/// A holder elsewhere without a sign of life for this long is dead.
const SILENCE: Duration = Duration::from_secs(60);

/// The engine's clock may have jumped: even a holder that it finds silent for so long is listened to for more than a beat.
const LISTEN: Duration = Duration::from_secs(15);

/// How long two that find the same dead lock may get in each other's way.
const BREAKING: Duration = Duration::from_secs(10);

/// How long the last commands of a dead run are waited for: longer than most containers take to stop.
const ORPHANS: Duration = Duration::from_secs(60);

/// How often a name may be given back in the moment between taking it and looking whose it is.
const TRIES: u32 = 20;

/// The longest name of a config is 64 characters.
const LONGEST: usize = 40;

/// The names that a lock consists of.
#[derive(Debug, Clone)]
struct LockNames {
    board: LockBackend,
    base: String,
}

impl LockNames {
    fn of(board: LockBackend, project: &str) -> LockNames {
        let hash = || {
            let digest = Sha256::digest(project.as_bytes());
            digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        let short = if project.len() > LONGEST { hash() } else { project.to_string() };
        // A project's name has no dots, so that no two projects share a name.
        LockNames { board, base: format!("compose-zd.{short}") }
    }

    fn lock(&self) -> String {
        format!("{}.lock", self.base)
    }

    /// Held while a dead lock is taken away.
    fn breaking(&self) -> String {
        format!("{}.break", self.base)
    }

    /// The signs of life first: without them a lock that is left may look like one that has just been taken.
    fn all(&self) -> [String; 3] {
        [self.beat(0), self.beat(1), self.lock()]
    }

    /// Two that take turns, so that there always is one.
    fn beat(&self, n: u64) -> String {
        format!("{}.beat{}", self.base, n % 2)
    }
}

/// How taking it ended.
pub enum AcquireResult {
    /// Until it is dropped.
    Held(Box<Lock>),
    /// By them, until the limit.
    Busy(Box<LockOwner>),
    /// The caller's own reason to wait no longer.
    GivenUp,
    Interrupted(i32),
}

/// What the wait for a lock tells, and asks.
pub trait WaitObserver {
    /// Somebody holds it, and it is waited for.
    fn waits_for(&mut self, holder: &LockOwner);
    /// A dead run left it.
    fn took_over(&mut self, holder: &LockOwner);
    /// There is no more reason to wait.
    fn gives_up(&mut self) -> Result<bool>;
    /// It was asked for, and is ours or somebody's by now: what is read from here on is true once it turns out to be ours.
    fn others_wait(&mut self) {}
}

/// For the names that nothing is read under.
struct Nothing;

impl WaitObserver for Nothing {
    fn waits_for(&mut self, _: &LockOwner) {}
    fn took_over(&mut self, _: &LockOwner) {}
    fn gives_up(&mut self) -> Result<bool> {
        Ok(false)
    }
}

/// A lock that is held; it goes when this is dropped.
pub struct Lock {
    keys: LockContext,
    lease: Lease,
    end: Option<Sender<()>>,
    beats: Option<JoinHandle<()>>,
}

/// What a lock is worked with.
#[derive(Clone)]
struct LockContext {
    docker: Docker,
    names: LockNames,
    holder: LockOwner,
}

/// What is to be locked, and for whom.
pub struct LockRequest<'a> {
    pub docker: &'a Docker,
    pub board: LockBackend,
    pub project: &'a str,
    pub holder: LockOwner,
    /// How long somebody else's is waited for.
    pub limit: Duration,
}

/// Signs of life of a holder elsewhere, as long as they do not change.
#[derive(Default)]
struct OwnerSilence {
    signs: Vec<LockRecord>,
    /// By this machine's clock: no jump of the engine's makes it longer.
    since: Option<Instant>,
}

/// How a holder elsewhere is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OwnerVerdict {
    Lives,
    Dead,
    /// Silent for too long by the engine's clock, and not yet by ours.
    Unsure,
}

impl OwnerSilence {
    /// `age` is that of the latest sign, by the engine's clock.
    fn judge(&mut self, signs: Vec<LockRecord>, age: Option<Duration>, now: Instant) -> OwnerVerdict {
        let has_changed = !self.signs.is_empty() && self.signs != signs;
        if has_changed || self.since.is_none() {
            (self.signs, self.since) = (signs, Some(now));
        }
        let heard = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let is_old = age.is_some_and(|age| age > SILENCE);
        match () {
            () if has_changed => OwnerVerdict::Lives,
            () if heard >= SILENCE || (is_old && heard >= LISTEN) => OwnerVerdict::Dead,
            () if is_old => OwnerVerdict::Unsure,
            () => OwnerVerdict::Lives,
        }
    }
}

/// Takes the lock of a project; while another run has it, retries until the limit.
///
/// # Errors
/// An engine that does not answer, or refuses.
pub fn acquire(
    request: LockRequest,
    stop: &StopSignal,
    waiting: &mut dyn WaitObserver,
) -> Result<AcquireResult> {
    let LockRequest { docker, board, project, holder, limit } = request;
    let keys = LockContext { docker: docker.clone(), names: LockNames::of(board, project), holder };
    let mut other = LockOwner::default();
    let mut told = false;
    let (start, mut silence, mut since) = (Instant::now(), OwnerSilence::default(), LeaseStart::now());
    let longest = limit.max(LISTEN * 2);
    let waited = wait::until(AGAIN, longest, stop, || -> Result<Option<WaitEnd>> {
        if waiting.gives_up()? {
            return Ok(Some(WaitEnd::GivenUp));
        }
        since = LeaseStart::now();
        let (holder, verdict) = match keys.attempt(&mut silence, stop, waiting)? {
            AcquireAttempt::Ours => return Ok(Some(WaitEnd::Ours)),
            AcquireAttempt::Theirs(holder, verdict) => (holder, verdict),
        };
        if !told && !limit.is_zero() {
            waiting.waits_for(&holder);
            told = true;
        }
        other = holder;
        Ok((verdict != OwnerVerdict::Unsure && start.elapsed() >= limit).then_some(WaitEnd::Busy))
    })?;
    Ok(match waited {
        WaitResult::Done(WaitEnd::Ours) => AcquireResult::Held(Box::new(Lock::held(keys, since))),
        WaitResult::Done(WaitEnd::GivenUp) => AcquireResult::GivenUp,
        WaitResult::Done(WaitEnd::Busy) | WaitResult::TimedOut => AcquireResult::Busy(Box::new(other)),
        WaitResult::Interrupted(signal) => AcquireResult::Interrupted(signal),
    })
}

/// How the wait for a lock ended.
#[derive(PartialEq, Eq)]
enum WaitEnd {
    Ours,
    GivenUp,
    Busy,
}

/// How one attempt ended.
enum AcquireAttempt {
    Ours,
    Theirs(LockOwner, OwnerVerdict),
}

/// Who holds the lock of a project, if anybody who lives.
///
/// # Errors
/// An engine that does not answer.
pub fn holder(docker: &Docker, board: LockBackend, project: &str) -> Result<Option<LockOwner>> {
    let keys = LockContext {
        docker: docker.clone(),
        names: LockNames::of(board, project),
        holder: LockOwner::default(),
    };
    let holder = keys.claimed(&keys.names.lock())?;
    Ok(match holder {
        Some(holder) if !keys.seems_dead(&holder)? => Some(holder),
        _ => None,
    })
}

impl LockContext {
    /// Takes it, or tells who has it.
    fn attempt(
        &self,
        silence: &mut OwnerSilence,
        stop: &StopSignal,
        waiting: &mut dyn WaitObserver,
    ) -> Result<AcquireAttempt> {
        let Some(holder) = self.try_claim(&self.names.lock(), waiting)? else {
            return Ok(AcquireAttempt::Ours);
        };
        let verdict = match holder.life() {
            Liveness::Lives => OwnerVerdict::Lives,
            Liveness::Dead => OwnerVerdict::Dead,
            Liveness::Elsewhere => {
                let signs = self.signs()?;
                let age = self.age(&signs)?;
                silence.judge(signs, age, Instant::now())
            }
        };
        if verdict != OwnerVerdict::Dead {
            return Ok(AcquireAttempt::Theirs(holder, verdict));
        }
        let other = self.take_over(holder, silence, stop, waiting)?;
        Ok(other.map_or(AcquireAttempt::Ours, |holder| AcquireAttempt::Theirs(holder, OwnerVerdict::Lives)))
    }

    /// Takes a name, or tells who has it.
    fn try_claim(&self, name: &str, waiting: &mut dyn WaitObserver) -> Result<Option<LockOwner>> {
        for _ in 0..TRIES {
            self.docker.claim(self.names.board, name, &self.holder.text())?;
            waiting.others_wait();
            match self.claimed(name)? {
                Some(holder) if holder == self.holder => return Ok(None),
                Some(holder) => return Ok(Some(holder)),
                None => {} // given back in this moment
            }
        }
        Err(Error::unchanged(format!("the engine does not keep `{name}`, which is the project's lock"))
            .into())
    }

    fn claimed(&self, name: &str) -> Result<Option<LockOwner>> {
        let claim = self.docker.claimed(self.names.board, name)?;
        Ok(claim.map(|claim| LockOwner::read(&claim.text)))
    }

    fn unclaim(&self, names: &[String]) -> Result<()> {
        self.docker.unclaim(self.names.board, names)
    }

    /// One that runs elsewhere is judged by its latest sign of life, at one look.
    fn seems_dead(&self, holder: &LockOwner) -> Result<bool> {
        match holder.life() {
            Liveness::Lives => Ok(false),
            Liveness::Dead => Ok(true),
            Liveness::Elsewhere => Ok(self.age(&self.signs()?)?.is_some_and(|age| age > SILENCE)),
        }
    }

    /// Signs of life of the holder, its lock among them.
    fn signs(&self) -> Result<Vec<LockRecord>> {
        let names = self.names.all();
        let claims = names.iter().map(|name| self.docker.claimed(self.names.board, name));
        claims.filter_map(Result::transpose).collect()
    }

    /// Age of the latest sign, by the engine's clock.
    fn age(&self, signs: &[LockRecord]) -> Result<Option<Duration>> {
        let now = self.docker.clock()?;
        Ok(signs.iter().filter_map(|claim| age(&claim.made, &now)).min())
    }

    /// Two may find the same dead lock, and the second must not take away what the first has put in its place: a second
    /// name is held meanwhile, and the lock looked at once more.
    fn take_over(
        &self,
        dead: LockOwner,
        silence: &OwnerSilence,
        stop: &StopSignal,
        waiting: &mut dyn WaitObserver,
    ) -> Result<Option<LockOwner>> {
        let breaking = self.names.breaking();
        let waited = wait::until(AGAIN / 5, BREAKING, stop, || -> Result<Option<()>> {
            let Some(other) = self.try_claim(&breaking, &mut Nothing)? else {
                return Ok(Some(()));
            };
            if self.seems_dead(&other)? {
                self.unclaim(std::slice::from_ref(&breaking))?;
            }
            Ok(None)
        })?;
        if waited != WaitResult::Done(()) {
            return Ok(Some(dead));
        }
        let now = self.claimed(&self.names.lock())?;
        let is_silent = silence.since.is_none() || self.signs()? == silence.signs;
        let is_still_there = now.as_ref() == Some(&dead) && is_silent;
        if is_still_there {
            waiting.took_over(&dead);
            // What it had just asked of docker would be done behind our back.
            wait::until(AGAIN / 10, ORPHANS, stop, || Ok::<_, Error>((!dead.has_orphans()).then_some(())))?;
            self.unclaim(&self.names.all())?;
        }
        let other = self.try_claim(&self.names.lock(), waiting);
        self.unclaim(&[breaking])?;
        other
    }

    /// Leaves a sign of life, and then checks the lock; gives the run that has taken it. A lock that is gone was removed
    /// (`docker volume prune`). It is taken again as long as no other run can have had it meanwhile.
    fn beat(&self, n: u64, is_young: bool) -> Result<Option<LockOwner>> {
        let name = self.names.beat(n);
        self.unclaim(std::slice::from_ref(&name))?;
        self.docker.claim(self.names.board, &name, &self.holder.text())?;
        let other = match is_young {
            true => self.try_claim(&self.names.lock(), &mut Nothing)?,
            false => {
                let holder = self.claimed(&self.names.lock())?;
                Some(holder.unwrap_or_default()).filter(|holder| *holder != self.holder)
            }
        };
        if other.is_some() && self.claimed(&name)?.is_some_and(|holder| holder == self.holder) {
            self.unclaim(&[name])?;
        }
        Ok(other)
    }
}

impl Lock {
    /// `since` is the moment before it was asked for.
    fn held(keys: LockContext, since: LeaseStart) -> Lock {
        let (end, ended) = mpsc::channel();
        let lease = Lease::new(keys.clone(), since);
        let beating = lease.clone();
        let beats = thread::spawn(move || {
            while ended.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) && beating.error().is_none() {
                // What the engine does not answer now is asked the next time.
                let _ = beating.renew();
            }
        });
        Lock { keys, lease, end: Some(end), beats: Some(beats) }
    }

    /// What tells whether it is still held.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.end = None;
        // A beat that is under way would leave its name behind.
        let _ = self.beats.take().map(JoinHandle::join);
        let LockContext { names, .. } = &self.keys;
        let ours = self.keys.claimed(&names.lock()).ok().flatten();
        if ours.is_some_and(|holder| holder == self.keys.holder) {
            // One that stays is a dead process's, which is no lock.
            let _ = self.keys.unclaim(&names.all());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(made: &str) -> Vec<LockRecord> {
        vec![LockRecord { text: "x".into(), made: made.into() }]
    }

    /// What is said of the same sign, or another one, after so many seconds; its age by the engine's clock.
    fn judged(looks: &[(&str, u64, u64)]) -> Vec<OwnerVerdict> {
        let (start, mut silence) = (Instant::now(), OwnerSilence::default());
        let judge = |(made, after, age): &(&str, u64, u64)| {
            silence.judge(sign(made), Some(Duration::from_secs(*age)), start + Duration::from_secs(*after))
        };
        looks.iter().map(judge).collect()
    }

    #[test]
    fn a_holder_elsewhere_is_dead_once_its_sign_has_not_changed_by_our_own_clock() {
        use OwnerVerdict::{Dead, Lives, Unsure};
        assert_eq!(
            judged(&[("a", 0, 5), ("a", 30, 35), ("a", 59, 64), ("b", 61, 1)]),
            [Lives, Lives, Dead, Lives]
        );
        assert_eq!(
            judged(&[("a", 0, 0), ("a", 59, 0), ("a", 60, 0)]),
            [Lives, Lives, Dead],
            "its clock stands"
        );
        assert_eq!(judged(&[("a", 0, 9000), ("a", 14, 9014), ("a", 15, 9015)]), [Unsure, Unsure, Dead]);
        assert_eq!(
            judged(&[("a", 0, 9000), ("b", 10, 9000), ("b", 24, 9014)]),
            [Unsure, Lives, Unsure],
            "it jumped"
        );
    }

    #[test]
    fn no_two_projects_have_a_name_in_common_and_none_is_too_long() {
        let long = "a".repeat(80);
        let names: Vec<String> = ["a", "a-lock", "a_lock", long.as_str()]
            .iter()
            .flat_map(|p| {
                let names = LockNames::of(LockBackend::Configs, p);
                [names.lock(), names.breaking(), names.beat(0), names.beat(1)]
            })
            .collect();
        let unique: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), 16);
        assert!(names.iter().all(|n| n.len() <= 64), "{names:?}");
    }
}
