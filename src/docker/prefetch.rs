//! What is going to be asked is asked ahead: whoever then asks the same finds the answer, or waits for the rest of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::compose::{HASHES, create_words, dry_words};
use super::containers::{IDS, INSPECT};
use super::images::{image_words, is_reference, keeper_label, keepers_words, tags_words};
use super::{CommandResult, Docker, swarm};

/// What was asked longer ago is asked again.
const LATELY: Duration = Duration::from_secs(5);

/// By the words of the command; each answer is taken once.
#[derive(Default)]
pub struct Prefetcher(Mutex<BTreeMap<Vec<String>, Started>>);

type Started = (Instant, JoinHandle<Result<CommandResult>>);

impl Prefetcher {
    pub fn take(&self, argv: &[String]) -> Option<Result<CommandResult>> {
        let started = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(argv);
        let (_, thread) = started.filter(|(at, _)| at.elapsed() <= LATELY)?;
        Some(thread.join().expect("no panic in a read"))
    }
}

impl Docker {
    /// [`Docker::is_stack`] is about to be asked.
    pub fn prefetch_manager(&self) {
        self.start_ahead(self.docker_words(&swarm::IS_MANAGER));
    }

    /// [`Docker::hashes`] is about to be asked.
    pub fn prefetch_hashes(&self) {
        self.start_ahead(self.compose_words(&HASHES));
    }

    /// [`Docker::containers`] is about to be asked.
    pub fn prefetch_containers(&self) {
        self.start_ahead(self.docker_words(&IDS));
        let known = self.known();
        if !known.is_empty() {
            let words: Vec<&str> = INSPECT.into_iter().chain(known.iter().map(String::as_str)).collect();
            self.start_ahead(self.docker_words(&words));
        }
    }

    /// [`Docker::image`] is about to be asked.
    pub fn prefetch_image(&self, reference: &str) {
        if is_reference(reference) {
            self.start_ahead(self.docker_words(&image_words(&[reference])));
        }
    }

    /// [`Docker::images`] is about to be asked.
    pub fn prefetch_images(&self, references: &BTreeSet<&str>) {
        if !references.is_empty() {
            let words = image_words(&references.iter().copied().collect::<Vec<_>>());
            self.start_ahead(self.docker_words(&words));
        }
    }

    /// [`Docker::collateral`] is about to be asked, where the plan is what it mostly is; it may have been guessed before.
    pub fn prefetch_collateral(&self, service: &str, total: usize) {
        let command = create_words(service, total);
        let words = self.compose_words(&dry_words(&command));
        if !self.is_under_way(&words) {
            self.start_ahead(words);
        }
    }

    /// [`Docker::keepers`] and [`Docker::tags_in`] are about to be asked.
    pub fn prefetch_image_tags(&self, project: &str, repositories: &BTreeSet<String>) {
        self.start_ahead(self.docker_words(&keepers_words(&keeper_label(project))));
        let filters: Vec<String> = repositories.iter().map(|r| format!("reference={r}")).collect();
        if !filters.is_empty() {
            self.start_ahead(self.docker_words(&tags_words(&filters)));
        }
    }

    /// What was asked ahead is no longer true.
    pub fn discard_prefetched(&self) {
        self.ahead.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn is_under_way(&self, argv: &[String]) -> bool {
        let started = self.ahead.0.lock().unwrap_or_else(PoisonError::into_inner);
        started.get(argv).is_some_and(|(at, _)| at.elapsed() <= LATELY)
    }

    /// Starts a command that changes nothing. What it tells is as old as this moment when it is taken; one that was
    /// started before and not taken is forgotten.
    pub(super) fn start_ahead(&self, argv: Vec<String>) {
        let (docker, words) = (self.clone(), argv.clone());
        let thread = thread::spawn(move || docker.run_with(&words, None));
        let started = (Instant::now(), thread);
        self.ahead.0.lock().unwrap_or_else(PoisonError::into_inner).insert(argv, started);
    }
}
