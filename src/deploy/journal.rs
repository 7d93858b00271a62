//! The written side of a run: which release it makes, what it heads for, and what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::state_location::StateLocation;
use crate::docker::Docker;
use crate::error::{Error, Exit};
use crate::git::{self, WorkingCopy};
use crate::mask;
use crate::model::ResolvedProject;
use crate::release::images;
use crate::release::store::Store;
use crate::release::wait_queue::QueueTicket;
use crate::release::{
    self, FORMAT, ReleaseHistory, ReleaseRecord, RolloutKind, RolloutOutcome, ServiceRelease, UnreadableFile,
    WitnessTotals,
};
use crate::report::{Event, Report, Warning, record};

/// The releases of a project, as they were when the run began.
pub struct Journal {
    store: Store,
    home: StateLocation,
    pub project: String,
    pub history: ReleaseHistory,
    /// What an earlier run headed for, and did not get to.
    pub heading: Option<release::InProgress>,
    /// There is such a run, and what it headed for cannot be read.
    pub lost: Option<UnreadableFile>,
    /// Id of the history, which tells its images from those of another checkout.
    history_id: String,
}

/// One rollout, as it is written down.
pub struct ReleaseDraft {
    pub number: u32,
    pub kind: RolloutKind,
    /// What it puts in place, by service.
    pub placed: BTreeMap<String, ServiceRelease>,
    /// The whole project as it is after it.
    pub text: String,
    /// Ids of the containers that a `--force` replaces.
    pub replaced: Vec<String>,
    pub folder: PathBuf,
}

/// The configuration of a release that is not there yet; a run that ends before it begins leaves none behind.
pub struct UncommittedConfig {
    store: Store,
    number: u32,
}

impl Drop for UncommittedConfig {
    fn drop(&mut self) {
        // The next release takes its place.
        let _ = self.store.remove_draft(self.number);
    }
}

/// How a rollout went.
pub struct RunResult {
    pub outcome: RolloutOutcome,
    pub reason: Option<String>,
    /// It could not be brought to an end: the next run has to.
    pub unfinished: bool,
    pub took: Duration,
    pub cut: usize,
    pub witness: Option<WitnessTotals>,
}

impl Journal {
    /// Whatever of it can be read: what cannot is told of by [`Ledger::for_looking`] or [`Ledger::for_change`].
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn open(home: &StateLocation, project: &str) -> Result<Journal, Error> {
        let StateLocation { state_dir, engine } = home;
        let store = Store::new(state_dir, project)?.with_engine(engine.clone());
        let history = store.history()?;
        let history_id = store.id();
        let (heading, lost) = match store.in_progress() {
            Ok(heading) => (heading, None),
            Err(damage) => (None, Some(damage)),
        };
        Ok(Journal { lost, store, home: home.clone(), project: project.into(), history, heading, history_id })
    }

    /// Tells of every file that cannot be read.
    pub fn for_looking(self, report: Report) -> Journal {
        self.unread().for_each(|damage| {
            let hint = Error::from(damage).hint.unwrap_or_default();
            report.warn(&Warning::Release(format!("{damage}; {hint}")));
        });
        self
    }

    /// For a run that changes something. One damaged file does not stop every deploy: a release that cannot be read is
    /// not there, and none is taken for the current or the previous one past it; of a rollout that ended halfway the
    /// engine itself tells what is new and what old, only what a `--force` was about to replace is forgotten.
    ///
    /// # Errors
    /// A file of a newer version: what that one keeps, and what it headed for, is not ours to go on from.
    pub fn for_change(self, report: Report) -> Result<Journal, Error> {
        if self.home.engine.is_none() && self.store.names_engine() {
            let folder = self.folder().display().to_string();
            return Err(Error::unchanged(format!(
                "the engine does not say which one it is, and the releases in {folder} belong to one; nothing was changed"
            ))
            .hint("`docker info` has to answer with an ID; then try again"));
        }
        if let Some(damage) = self.unread().find(|damage| damage.is_newer) {
            return Err(damage.into());
        }
        let current = self.history.current().map(|r| (r.number, self.snapshot(r.number)));
        if let Some((number, Err(error))) = current {
            report.warn(&Warning::Release(format!(
                "{}; what is deployed now is recorded, but not what release {number} has besides",
                error.message
            )));
        }
        Ok(self.for_looking(report))
    }

    /// The files that cannot be read.
    fn unread(&self) -> impl Iterator<Item = &UnreadableFile> {
        self.history.unreadable_records().map(|(_, damage)| damage).chain(&self.lost)
    }

    /// A rollout before this one did not get to its end.
    pub fn follows_unfinished(&self) -> bool {
        self.heading.is_some() || self.lost.is_some()
    }

    /// A release that failed, and whose rollout did not get back to what served before.
    pub fn broken(&self) -> Option<u32> {
        let heading = self.heading.as_ref().filter(|heading| !heading.paused)?;
        let record = self.history.get(heading.number)?;
        (record.outcome == RolloutOutcome::Failed).then_some(record.number)
    }

    /// As it is by now.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub fn reopened(&self) -> Result<Journal, Error> {
        Journal::open(&self.home, &self.project)
    }

    /// The newest place among the runs that wait for their turn.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn place(&self) -> Result<QueueTicket, Error> {
        QueueTicket::join(&self.store)
    }

    /// Whose images are kept.
    pub fn owner(&self) -> images::ImageOwner<'_> {
        images::ImageOwner { project: &self.project, history: &self.history_id }
    }

    /// Where the releases of the project are.
    pub fn folder(&self) -> PathBuf {
        self.store.folder()
    }

    /// A number that no release has had; one whose rollout is not known to have begun may be given again.
    pub fn next_number(&self) -> u32 {
        self.history.next_number(self.heading.as_ref())
    }

    /// The project as it was after a release.
    ///
    /// # Errors
    /// A file that is gone or cannot be read.
    pub fn config(&self, number: u32) -> Result<String, Error> {
        self.store.config(number)
    }

    pub fn config_path(&self, number: u32) -> PathBuf {
        self.store.config_path(number)
    }

    /// The same, read as the project that it has to be.
    ///
    /// # Errors
    /// A file that is gone, was cut short, or is of another project; none shows what is in it.
    pub fn snapshot(&self, number: u32) -> Result<ResolvedProject, Error> {
        let snapshot = ResolvedProject::read(&self.config(number)?).ok();
        snapshot.filter(|s| s.project().is_none_or(|name| name == self.project)).ok_or_else(|| {
            let why = format!("it is no resolved configuration of `{}`", self.project);
            (&UnreadableFile { path: self.config_path(number), reason: why, is_newer: false }).into()
        })
    }

    /// The current release with its configuration: what a new one begins from. Without the second the first says
    /// nothing of the services that are not deployed now, and they are left out.
    fn base(&self) -> Option<(&ReleaseRecord, ResolvedProject)> {
        let current = self.history.current()?;
        Some((current, self.snapshot(current.number).ok()?))
    }

    /// # Errors
    /// A folder that cannot be written.
    pub fn write_config(&self, number: u32, text: &str) -> Result<(), Error> {
        self.store.write_config(number, text)
    }

    pub fn draft(&self, number: u32) -> UncommittedConfig {
        UncommittedConfig { store: self.store.clone(), number }
    }

    /// The project after a rollout of these services: the others are as they were put in place before.
    pub fn merged_config(&self, new: &str, services: &[&str]) -> Result<String, Error> {
        let mut snapshot = ResolvedProject::read(new)?;
        if let Some((current, before)) = self.base() {
            let untouched = current.services.keys().map(String::as_str).filter(|s| !services.contains(s));
            snapshot.copy_services(&untouched.collect::<Vec<_>>(), &before);
        }
        Ok(snapshot.text())
    }

    /// Writes down where the run heads, before it changes anything.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn begin(&self, entry: &ReleaseDraft, report: Report) -> Result<(), Error> {
        self.begin_with(entry, &BTreeMap::new(), report)
    }

    /// The same, with the restart policies that are to come back.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn begin_with(
        &self,
        entry: &ReleaseDraft,
        restart: &BTreeMap<String, String>,
        report: Report,
    ) -> Result<(), Error> {
        self.store.write_config(entry.number, &entry.text)?;
        if self.store.in_progress().is_err() {
            self.store.set_in_progress_aside()?;
        }
        self.store.write_in_progress(&release::InProgress {
            format: FORMAT,
            number: entry.number,
            kind: entry.kind,
            services: entry.placed.keys().cloned().collect(),
            replaced: entry.replaced.clone(),
            restart: restart.clone(),
            last_good: self.history.current().map(|r| r.number),
            paused: false,
        })?;
        report.journal(self.store.create_journal(entry.number)?);
        Ok(())
    }

    /// Holds on to the images of what may have to come back, and of what is put in place.
    pub fn tag_images(&self, docker: &Docker, entry: &ReleaseDraft, report: Report) {
        let before = self.history.current().map(|r| &r.services);
        let leaving = before.into_iter().flatten().filter(|(service, _)| entry.placed.contains_key(*service));
        // An image that stays has one name in both.
        let coming = entry.placed.iter().filter(|(service, placed)| {
            before.and_then(|b| b.get(*service)).is_none_or(|b| b.since != placed.since)
        });
        let all = leaving.chain(coming).map(|(service, placed)| (service.as_str(), placed));
        let held = docker.keepers(&self.project).unwrap_or_default();
        let missing = images::without_keeper(docker, self.owner(), &held, all);
        missing.into_iter().for_each(|(service, placed)| self.keep(docker, service, placed, report));
    }

    /// Starts to read what [`Ledger::end`] asks for.
    pub fn prefetch_end(&self, docker: &Docker, entry: &ReleaseDraft) {
        let services: BTreeSet<String> = self.history.services();
        let all = services.iter().chain(entry.placed.keys());
        docker.prefetch_image_tags(&self.project, &images::repositories(&self.project, all));
    }

    /// Writes down what became of the run. What serves is not changed by a record that cannot be written, so that is a
    /// warning.
    pub fn end(&self, docker: &Docker, entry: &ReleaseDraft, course: RunResult, keep: usize, report: Report) {
        let record = self.record(entry, &course);
        let paused = record.outcome == RolloutOutcome::Paused;
        let written = self.store.write_record(&record).and_then(|()| match (paused, course.unfinished) {
            (true, _) => self.pause(entry),
            (false, true) => Ok(()),
            (false, false) => self.store.clear_in_progress(),
        });
        if let Err(error) = written {
            report.warn(&Warning::Release(format!("the release could not be written down: {error}")));
        }
        if paused {
            entry.placed.iter().for_each(|(service, placed)| self.keep(docker, service, placed, report));
        }
        // What did not get to its end is what `recover` goes on with.
        if !paused && !course.unfinished {
            self.remove_leftovers(docker, keep, report);
        }
    }

    /// What happened in a rollout, a line an event; none where it is not kept.
    ///
    /// # Errors
    /// A file that is there and cannot be read.
    pub fn events(&self, number: u32) -> Result<Option<Vec<u8>>, Error> {
        self.store.events(number).map_err(|damage| (&damage).into())
    }

    /// The hashes that the instances of the current release have, of services that are defined as they were then.
    pub fn hashes_of_same(&self, now: &ResolvedProject) -> BTreeMap<String, String> {
        let Some(current) = self.history.current() else { return BTreeMap::new() };
        let Ok(then) = self.snapshot(current.number) else { return BTreeMap::new() };
        let same = current.services.iter().filter(|(service, _)| now.has_same(service, &then));
        same.map(|(service, placed)| (service.clone(), placed.config_hash.clone())).collect()
    }

    /// One-shots that ran to their end in a rollout, as far as that is kept.
    pub fn completed(&self, number: u32) -> BTreeSet<String> {
        let events = self.store.events(number).ok().flatten().unwrap_or_default();
        let ran = record::read(&events).into_iter().filter_map(|entry| match entry.event {
            Event::Ran { service } => Some(service),
            _ => None,
        });
        ran.collect()
    }

    pub fn has_events(&self, number: u32) -> bool {
        self.store.has_events(number)
    }

    /// A run that ended before it changed anything leaves nothing behind, and a paused one as it was.
    pub fn discard(&self, entry: &ReleaseDraft) {
        let restored = match &self.heading {
            Some(heading) => self.store.write_in_progress(heading),
            None => self.store.clear_in_progress(),
        };
        // The next run writes the same files, so that one that stays does no harm.
        let _ = restored;
        if self.history.get(entry.number).is_none() {
            let _ = std::fs::remove_file(self.store.config_path(entry.number));
            let _ = self.store.remove_journal(entry.number);
        }
    }

    /// What ran before anybody wrote it down. Its images are held as those of every current release.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn import(&mut self, entry: &ReleaseDraft) -> Result<(), Error> {
        self.store.write_config(entry.number, &entry.text)?;
        let course = RunResult {
            outcome: RolloutOutcome::Deployed,
            reason: None,
            unfinished: false,
            took: Duration::ZERO,
            cut: 0,
            witness: None,
        };
        self.store.write_record(&self.record(entry, &course))?;
        self.history = self.store.history()?;
        Ok(())
    }

    fn pause(&self, entry: &ReleaseDraft) -> Result<(), Error> {
        self.store.write_in_progress(&release::InProgress {
            format: FORMAT,
            number: entry.number,
            kind: entry.kind,
            services: entry.placed.keys().cloned().collect(),
            replaced: Vec::new(),
            restart: self.heading.as_ref().map(|h| h.restart.clone()).unwrap_or_default(),
            last_good: self.history.current().map(|r| r.number),
            paused: true,
        })
    }

    fn record(&self, entry: &ReleaseDraft, course: &RunResult) -> ReleaseRecord {
        let mut services = self.base().map(|(r, _)| r.services.clone()).unwrap_or_default();
        services.extend(entry.placed.clone());
        let started = SystemTime::now().checked_sub(course.took).unwrap_or(SystemTime::UNIX_EPOCH);
        ReleaseRecord {
            format: FORMAT,
            number: entry.number,
            project: self.project.clone(),
            kind: entry.kind,
            outcome: course.outcome,
            reason: course.reason.clone(),
            services,
            deployed: entry.placed.keys().cloned().collect(),
            git: git_of(entry),
            by: git::user_and_host(),
            command: command_line(),
            started: humantime::format_rfc3339_seconds(started).to_string(),
            seconds: course.took.as_secs_f64(),
            cut: course.cut as u64,
            witness: course.witness.clone(),
        }
    }

    fn keep(&self, docker: &Docker, service: &str, placed: &ServiceRelease, report: Report) {
        if !images::is_local(placed) {
            return;
        }
        if let Err(error) = images::keep_image(docker, self.owner(), service, placed) {
            report.warn(&Warning::Release(format!("the image of `{service}` could not be kept: {error}")));
        }
    }

    /// What no release that is kept needs goes.
    fn remove_leftovers(&self, docker: &Docker, keep: usize, report: Report) {
        let warn = |text: String| report.warn(&Warning::Release(text));
        let history = match self.store.history() {
            Ok(history) => history,
            Err(error) => return warn(format!("earlier releases could not be tidied up: {error}")),
        };
        if let Some((_, damage)) = history.unreadable_records().next() {
            // Its images and its configuration may be those that somebody wants back.
            return warn(format!(
                "earlier releases are all kept, until it is known what this one is: {damage}"
            ));
        }
        let kept = history.retention(keep);
        let services = history.services();
        // A `docker system prune` takes what holds them; as long as the image is there, it is held again.
        let held = match docker.keepers(&self.project) {
            Ok(held) => held,
            Err(error) => return warn(format!("images of older releases stay: {error:#}")),
        };
        let missing = images::without_keeper(docker, self.owner(), &held, history.retained_services(&kept));
        missing.into_iter().for_each(|(service, placed)| self.keep(docker, service, placed, report));
        let all = history.newest_first().flat_map(|r| &r.services).map(|(s, placed)| (s.as_str(), placed));
        let old = images::remove_old_names(docker, &self.project, &held, all);
        let stay = images::remove_images(docker, self.owner(), &held, &services, &kept);
        let old = old.err().map(|error| format!("images of older releases stay: {error:#}"));
        stay.into_iter().chain(old).for_each(warn);
        if let Err(error) = self.store.prune(&kept) {
            warn(format!("earlier releases could not be tidied up: {error}"));
        }
    }
}

/// What was put back is of the revision it was of; the work tree has nothing to do with it.
fn git_of(entry: &ReleaseDraft) -> Option<WorkingCopy> {
    match entry.kind {
        RolloutKind::Deploy => git::working_copy(&entry.folder),
        RolloutKind::Rollback { .. } | RolloutKind::Imported => None,
    }
}

fn command_line() -> String {
    let words = std::env::args().skip(1);
    mask::command(std::iter::once("compose-zd".to_string()).chain(words))
}

impl RunResult {
    /// How a run went that this ended.
    pub fn of(error: Option<&Error>, paused: bool, took: Duration, cut: usize) -> RunResult {
        let outcome = match error.map(|f| f.exit) {
            _ if paused => RolloutOutcome::Paused,
            None => RolloutOutcome::Deployed,
            Some(Exit::Interrupted(_)) => RolloutOutcome::Interrupted,
            Some(_) => RolloutOutcome::Failed,
        };
        let unfinished = error.is_some_and(|f| f.exit == Exit::Outage);
        RunResult { outcome, reason: error.map(|f| f.message.clone()), unfinished, took, cut, witness: None }
    }
}
