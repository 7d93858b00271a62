//! Prefetches the queries that the next step needs: a later call of the same query takes the result, or waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::compose::{HASH_COMMAND, create_words, dry_words};
use super::containers::{INSPECT, LIST_IDS};
use super::images::{image_words, is_reference, keeper_label, keepers_words, tags_words};
use super::{CommandResult, Docker, swarm};

/// Oldest result that is used; older ones are queried again.
const MAX_AGE: Duration = Duration::from_secs(5);

/// Prefetched queries by their words; each result is used once.
#[derive(Default)]
pub struct Prefetcher(Mutex<BTreeMap<Vec<String>, Started>>);

type Started = (Instant, JoinHandle<Result<CommandResult>>);

impl Prefetcher {
    pub fn remove(&self, argv: &[String]) -> Option<Result<CommandResult>> {
        let started = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(argv);
        let (_, thread) = started.filter(|(at, _)| at.elapsed() <= MAX_AGE)?;
        Some(thread.join().expect("no panic in a read"))
    }
}

impl Docker {
    /// Prefetches the first query of [`Docker::is_stack`].
    pub fn prefetch_manager(&self) {
        self.prefetch(self.docker_words(&swarm::IS_MANAGER));
    }

    /// Prefetches [`Docker::hashes`].
    pub fn prefetch_hashes(&self) {
        self.prefetch(self.compose_words(&HASH_COMMAND));
    }

    /// Prefetches [`Docker::containers`].
    pub fn prefetch_containers(&self) {
        self.prefetch(self.docker_words(&LIST_IDS));
        let known_ids = self.known_ids();
        if !known_ids.is_empty() {
            let words: Vec<&str> = INSPECT.into_iter().chain(known_ids.iter().map(String::as_str)).collect();
            self.prefetch(self.docker_words(&words));
        }
    }

    /// Prefetches [`Docker::image`].
    pub fn prefetch_image(&self, reference: &str) {
        if is_reference(reference) {
            self.prefetch(self.docker_words(&image_words(&[reference])));
        }
    }

    /// Prefetches [`Docker::images`].
    pub fn prefetch_images(&self, references: &BTreeSet<&str>) {
        if !references.is_empty() {
            let words = image_words(&references.iter().copied().collect::<Vec<_>>());
            self.prefetch(self.docker_words(&words));
        }
    }

    /// Prefetches [`Docker::collateral`] of the usual plan; an earlier guess may already run.
    pub fn prefetch_collateral(&self, service: &str, total: usize) {
        let command = create_words(service, total);
        let words = self.compose_words(&dry_words(&command));
        if !self.is_under_way(&words) {
            self.prefetch(words);
        }
    }

    /// Prefetches [`Docker::keepers`] and [`Docker::tags_in`].
    pub fn prefetch_image_tags(&self, project: &str, repositories: &BTreeSet<String>) {
        self.prefetch(self.docker_words(&keepers_words(&keeper_label(project))));
        let filters: Vec<String> = repositories.iter().map(|r| format!("reference={r}")).collect();
        if !filters.is_empty() {
            self.prefetch(self.docker_words(&tags_words(&filters)));
        }
    }

    /// Discards all prefetched results, which a change has made stale.
    pub fn discard_prefetched(&self) {
        self.prefetcher.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn is_under_way(&self, argv: &[String]) -> bool {
        let started = self.prefetcher.0.lock().unwrap_or_else(PoisonError::into_inner);
        started.get(argv).is_some_and(|(at, _)| at.elapsed() <= MAX_AGE)
    }

    /// Starts a read-only command in the background. Its result is as old as this moment. An unused earlier result is
    /// dropped.
    pub(super) fn prefetch(&self, argv: Vec<String>) {
        let (docker, words) = (self.clone(), argv.clone());
        let thread = thread::spawn(move || docker.run_with(&words, None));
        let started = (Instant::now(), thread);
        self.prefetcher.0.lock().unwrap_or_else(PoisonError::into_inner).insert(argv, started);
    }
}
