//! Compose commands that run ahead of the step that needs them: each takes as long as all queries of the engine together.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::compose::{HASH_COMMAND, create_words, dry_words};
use super::{CommandResult, Docker};

/// Oldest result that is used; older ones are queried again.
const MAX_AGE: Duration = Duration::from_secs(5);

/// Prefetched commands by their words; each result is used once.
#[derive(Default)]
pub struct Prefetcher(Mutex<BTreeMap<Vec<String>, Started>>);

type Started = (Instant, JoinHandle<Result<CommandResult>>);

impl Docker {
    /// Prefetches [`Docker::hashes`].
    pub fn prefetch_hashes(&self) {
        self.prefetch(&HASH_COMMAND);
    }

    /// Prefetches [`Docker::collateral`] of the usual plan.
    pub fn prefetch_collateral(&self, service: &str, total: usize) {
        self.prefetch(&dry_words(&create_words(service, total)));
    }

    /// Discards all prefetched results, which a change has made stale.
    pub fn discard_prefetched(&self) {
        self.prefetcher.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Starts a read-only command in the background, unless it runs already. Its result is as old as this moment.
    fn prefetch(&self, words: &[&str]) {
        let argv = self.compose_words(words);
        let mut all = self.prefetcher.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(&argv).is_none_or(|(at, _)| at.elapsed() > MAX_AGE) {
            let (docker, words) = (self.clone(), argv.clone());
            all.insert(argv, (Instant::now(), thread::spawn(move || docker.run_argv(&words, None, None))));
        }
    }

    /// Runs a Compose command, or takes its prefetched result.
    pub(super) fn compose_prefetched(&self, words: &[&str]) -> Result<CommandResult> {
        let argv = self.compose_words(words);
        let started = self.prefetcher.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&argv);
        match started.filter(|(at, _)| at.elapsed() <= MAX_AGE) {
            Some((_, thread)) => thread.join().expect("no panic in a read"),
            None => self.run_argv(&argv, None, None),
        }
    }
}
