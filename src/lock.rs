//! One rollout of a project at a time, whoever starts it and from wherever: the lock is on the engine, a name that only one
//! can take. It says who holds it, and one whose holder is dead is no lock.

mod holder;

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::docker::Docker;
use crate::docker::claims::Board;
use crate::fault::Fault;
use crate::wait::{self, Stop, Waited};
pub use holder::{Holder, Process, RUN};
use holder::{Life, age};

/// How often a run that waits asks again.
const AGAIN: Duration = Duration::from_millis(500);

/// How often a holder leaves a sign of life for those that cannot see its process.
const BEAT: Duration = Duration::from_secs(15);

/// A holder elsewhere without a sign of life for this long, by the engine's clock, is dead.
const SILENCE: Duration = Duration::from_secs(60);

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
struct Names {
    board: Board,
    base: String,
}

impl Names {
    fn of(board: Board, project: &str) -> Names {
        let hash = || {
            let digest = Sha256::digest(project.as_bytes());
            digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        let short = if project.len() > LONGEST { hash() } else { project.to_string() };
        // A project's name has no dots, so that no two projects share a name.
        Names { board, base: format!("compose-zd.{short}") }
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
pub enum Taken {
    /// Until it is dropped.
    Held(Box<Lock>),
    /// By them, until the limit.
    Busy(Box<Holder>),
    /// The caller's own reason to wait no longer.
    GivenUp,
    Interrupted(i32),
}

/// What the wait for a lock tells, and asks.
pub trait Waiting {
    /// Somebody holds it, and it is waited for.
    fn waits_for(&mut self, holder: &Holder);
    /// A dead run left it.
    fn took_over(&mut self, holder: &Holder);
    /// There is no more reason to wait.
    fn gives_up(&mut self) -> Result<bool>;
    /// It was asked for, and is ours or somebody's by now: what is read from here on is true once it turns out to be ours.
    fn asked_for(&mut self) {}
}

/// For the names that nothing is read under.
struct Nothing;

impl Waiting for Nothing {
    fn waits_for(&mut self, _: &Holder) {}
    fn took_over(&mut self, _: &Holder) {}
    fn gives_up(&mut self) -> Result<bool> {
        Ok(false)
    }
}

/// A lock that is held; it goes when this is dropped.
pub struct Lock {
    keys: Keys,
    end: Option<Sender<()>>,
    beats: Option<JoinHandle<()>>,
}

/// What a lock is worked with.
#[derive(Clone)]
struct Keys {
    docker: Docker,
    names: Names,
    holder: Holder,
}

/// What is to be locked, and for whom.
pub struct Wish<'a> {
    pub docker: &'a Docker,
    pub board: Board,
    pub project: &'a str,
    pub holder: Holder,
    /// How long somebody else's is waited for.
    pub limit: Duration,
}

/// Takes the lock of a project; while somebody else has it, it is asked for again until the limit. `lost` is told when
/// somebody has taken it from us, because we left no sign of life for too long.
///
/// # Errors
/// An engine that does not answer, or refuses.
pub fn take(
    wish: Wish,
    stop: &Stop,
    waiting: &mut dyn Waiting,
    lost: impl Fn(&Holder) + Send + 'static,
) -> Result<Taken> {
    let Wish { docker, board, project, holder, limit } = wish;
    let keys = Keys { docker: docker.clone(), names: Names::of(board, project), holder };
    let mut other = Holder::default();
    let mut told = false;
    let waited = wait::until(AGAIN, limit, stop, || -> Result<Option<bool>> {
        if waiting.gives_up()? {
            return Ok(Some(false));
        }
        let Some(holder) = keys.attempt(stop, waiting)? else {
            return Ok(Some(true));
        };
        if !told && !limit.is_zero() {
            waiting.waits_for(&holder);
            told = true;
        }
        other = holder;
        Ok(None)
    })?;
    Ok(match waited {
        Waited::Done(true) => Taken::Held(Box::new(Lock::held(keys, lost))),
        Waited::Done(false) => Taken::GivenUp,
        Waited::TimedOut => Taken::Busy(Box::new(other)),
        Waited::Interrupted(signal) => Taken::Interrupted(signal),
    })
}

/// Who holds the lock of a project, if anybody who lives.
///
/// # Errors
/// An engine that does not answer.
pub fn holder(docker: &Docker, board: Board, project: &str) -> Result<Option<Holder>> {
    let keys = Keys { docker: docker.clone(), names: Names::of(board, project), holder: Holder::default() };
    let holder = keys.claimed(&keys.names.lock())?;
    Ok(match holder {
        Some(holder) if !keys.is_dead(&holder)? => Some(holder),
        _ => None,
    })
}

impl Keys {
    /// Takes it, or tells who has it.
    fn attempt(&self, stop: &Stop, waiting: &mut dyn Waiting) -> Result<Option<Holder>> {
        let holder = self.try_claim(&self.names.lock(), waiting)?;
        match holder {
            Some(holder) if self.is_dead(&holder)? => self.take_over(holder, stop, waiting),
            alive => Ok(alive),
        }
    }

    /// Takes a name, or tells who has it.
    fn try_claim(&self, name: &str, waiting: &mut dyn Waiting) -> Result<Option<Holder>> {
        for _ in 0..TRIES {
            self.docker.claim(self.names.board, name, &self.holder.text())?;
            waiting.asked_for();
            match self.claimed(name)? {
                Some(holder) if holder == self.holder => return Ok(None),
                Some(holder) => return Ok(Some(holder)),
                None => {} // given back in this moment
            }
        }
        Err(Fault::unchanged(format!("the engine does not keep `{name}`, which is the project's lock"))
            .into())
    }

    fn claimed(&self, name: &str) -> Result<Option<Holder>> {
        let claim = self.docker.claimed(self.names.board, name)?;
        Ok(claim.map(|claim| Holder::read(&claim.text)))
    }

    fn unclaim(&self, names: &[String]) -> Result<()> {
        self.docker.unclaim(self.names.board, names)
    }

    /// One that runs elsewhere is judged by its latest sign of life.
    fn is_dead(&self, holder: &Holder) -> Result<bool> {
        match holder.life() {
            Life::Lives => Ok(false),
            Life::Dead => Ok(true),
            Life::Elsewhere => {
                let now = self.docker.clock()?;
                let mut ages = Vec::new();
                for name in self.names.all() {
                    let claim = self.docker.claimed(self.names.board, &name)?;
                    ages.extend(claim.and_then(|claim| age(&claim.made, &now)));
                }
                Ok(ages.into_iter().min().is_some_and(|age| age > SILENCE))
            }
        }
    }

    /// Two may find the same dead lock, and the second must not take away what the first has put in its place: a second
    /// name is held meanwhile, and the lock looked at once more.
    fn take_over(&self, dead: Holder, stop: &Stop, waiting: &mut dyn Waiting) -> Result<Option<Holder>> {
        let breaking = self.names.breaking();
        let waited = wait::until(AGAIN / 5, BREAKING, stop, || -> Result<Option<()>> {
            let Some(other) = self.try_claim(&breaking, &mut Nothing)? else {
                return Ok(Some(()));
            };
            if self.is_dead(&other)? {
                self.unclaim(std::slice::from_ref(&breaking))?;
            }
            Ok(None)
        })?;
        if waited != Waited::Done(()) {
            return Ok(Some(dead));
        }
        let now = self.claimed(&self.names.lock())?;
        let is_still_there = now.as_ref() == Some(&dead);
        if is_still_there {
            waiting.took_over(&dead);
            // What it had just asked of docker would be done behind our back.
            wait::until(AGAIN / 10, ORPHANS, stop, || Ok::<_, Fault>((!dead.has_orphans()).then_some(())))?;
            self.unclaim(&self.names.all())?;
        }
        let other = self.try_claim(&self.names.lock(), waiting);
        self.unclaim(&[breaking])?;
        other
    }

    /// A sign of life; tells who has taken the lock from us. What cannot be asked now is asked the next time.
    fn beat(&self, n: u64) -> Option<Holder> {
        let other = self.try_claim(&self.names.lock(), &mut Nothing).ok()?;
        if other.is_none() {
            let name = self.names.beat(n);
            let again = self.unclaim(std::slice::from_ref(&name));
            let _ = again.and_then(|()| self.docker.claim(self.names.board, &name, &self.holder.text()));
        }
        other
    }
}

impl Lock {
    fn held(keys: Keys, lost: impl Fn(&Holder) + Send + 'static) -> Lock {
        let (end, ended) = mpsc::channel();
        let beating = keys.clone();
        let beats = thread::spawn(move || {
            let mut n = 0;
            while ended.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                if let Some(other) = beating.beat(n) {
                    return lost(&other);
                }
                n += 1;
            }
        });
        Lock { keys, end: Some(end), beats: Some(beats) }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.end = None;
        // A beat that is under way would leave its name behind.
        let _ = self.beats.take().map(JoinHandle::join);
        let Keys { names, .. } = &self.keys;
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

    #[test]
    fn no_two_projects_have_a_name_in_common_and_none_is_too_long() {
        let long = "a".repeat(80);
        let names: Vec<String> = ["a", "a-lock", "a_lock", long.as_str()]
            .iter()
            .flat_map(|p| {
                let names = Names::of(Board::Configs, p);
                [names.lock(), names.breaking(), names.beat(0), names.beat(1)]
            })
            .collect();
        let unique: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(unique.len(), 16);
        assert!(names.iter().all(|n| n.len() <= 64), "{names:?}");
    }
}
