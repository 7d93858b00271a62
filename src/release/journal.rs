//! Journal of a project: the release that a run makes, the rollout in progress, and its result.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::docker::Docker;
use crate::error::{Error, Exit};
use crate::git::{self, WorkingCopy};
use crate::mask;
use crate::model::ResolvedProject;
use crate::release::images;
use crate::release::state_location::StateLocation;
use crate::release::store::Store;
use crate::release::wait_queue::QueueTicket;
use crate::release::{
    self, FORMAT, ProjectChanges, ProjectRun, ReleaseHistory, ReleaseRecord, RolloutKind, RolloutOutcome,
    ServiceRelease, UnreadableFile, WitnessTotals,
};
use crate::report::event::Service;
use crate::report::{Event, Report, Warning, record};

/// Releases of a project, as of the start of the run.
pub struct Journal {
    store: Store,
    location: StateLocation,
    pub project: String,
    pub history: ReleaseHistory,
    /// Rollout that an earlier run did not finish.
    pub in_progress: Option<release::InProgress>,
    /// Unreadable record of such a rollout.
    pub unreadable_in_progress: Option<UnreadableFile>,
    /// Run of the whole project that did not end.
    pub project_run: Option<ProjectRun>,
    /// Unreadable record of such a run.
    pub unreadable_project_run: Option<UnreadableFile>,
    /// Id of the history, which separates its images from those of another checkout.
    history_id: String,
}

/// One rollout, to be recorded.
pub struct ReleaseDraft {
    pub number: u32,
    pub kind: RolloutKind,
    /// Deployed services.
    pub services: BTreeMap<String, ServiceRelease>,
    /// Resolved configuration of the whole project after the rollout.
    pub text: String,
    /// Ids of the containers that `--force` replaces.
    pub replaced: Vec<String>,
    pub folder: PathBuf,
    /// Number of releases to keep.
    pub keep: usize,
    /// Remove the images that only older releases have.
    pub prune: bool,
}

/// Configuration of a release that has not begun. Dropping it removes the file of a run that ended before.
pub struct UncommittedConfig {
    store: Store,
    number: u32,
}

impl Drop for UncommittedConfig {
    fn drop(&mut self) {
        // The next release overwrites the file.
        let _ = self.store.remove_draft(self.number);
    }
}

/// Result of a rollout.
pub struct RunResult {
    pub outcome: RolloutOutcome,
    pub reason: Option<String>,
    /// True if the next run has to finish the rollout.
    pub unfinished: bool,
    /// Ids of the new instances that an incomplete undo has left; the next run has to complete the undo.
    pub undoing: Option<Vec<String>>,
    pub duration: Duration,
    pub cut_requests: usize,
    pub witness: Option<WitnessTotals>,
}

impl Journal {
    /// Opens the journal. [`Journal::for_reading`] and [`Journal::for_change`] report unreadable files.
    pub fn open(home: &StateLocation, project: &str) -> Result<Journal, Error> {
        let StateLocation { state_dir, engine } = home;
        let store = Store::new(state_dir, project)?.with_engine(engine.clone());
        let history = store.history()?;
        let history_id = store.id();
        let (in_progress, lost) = match store.in_progress() {
            Ok(in_progress) => (in_progress, None),
            Err(unreadable) => (None, Some(unreadable)),
        };
        let (project_run, unreadable_project_run) = match store.project_run() {
            Ok(run) => (run, None),
            Err(unreadable) => (None, Some(unreadable)),
        };
        Ok(Journal {
            unreadable_in_progress: lost,
            project_run,
            unreadable_project_run,
            store,
            location: home.clone(),
            project: project.into(),
            history,
            in_progress,
            history_id,
        })
    }

    /// Warns of every unreadable file.
    pub fn for_reading(self, report: Report) -> Journal {
        self.unreadable_files().for_each(|unreadable| {
            let hint = Error::from(unreadable).hint.unwrap_or_default();
            report.warn(&Warning::Other(format!("{unreadable}; {hint}")));
        });
        self
    }

    /// Journal for a run that changes something. A damaged file does not stop every deploy: an unreadable release
    /// is skipped, and no older one counts as current or previous in its place. The engine itself shows what a
    /// broken-off rollout replaced; only the ids of its `--force` are lost.
    ///
    /// # Errors
    /// A file of a newer version, whose contents this version cannot continue from.
    pub fn for_change(self, report: Report) -> Result<Journal, Error> {
        if self.location.engine.is_none() && self.store.names_engine() {
            let folder = self.folder().display().to_string();
            return Err(Error::unchanged(format!(
                "the engine reports no ID, so the releases in {folder} may be another engine's; nothing was changed"
            ))
            .hint("try again once `docker info` reports an ID"));
        }
        if let Some(unreadable) = self.unreadable_files().find(|unreadable| unreadable.is_newer) {
            return Err(unreadable.into());
        }
        let current = self.history.current().map(|r| (r.number, self.snapshot(r.number)));
        if let Some((number, Err(error))) = current {
            report.warn(&Warning::Other(format!(
                "{}; the new release lists only the services that this run deploys, not the others of release {number}",
                error.message
            )));
        }
        Ok(self.for_reading(report))
    }

    /// Unreadable files.
    fn unreadable_files(&self) -> impl Iterator<Item = &UnreadableFile> {
        self.history
            .unreadable_records()
            .map(|(_, unreadable)| unreadable)
            .chain(&self.unreadable_in_progress)
            .chain(&self.unreadable_project_run)
    }

    /// True if any release is recorded, readable or not.
    pub fn has_releases(&self) -> bool {
        self.history.current().is_some() || self.history.unreadable_records().next().is_some()
    }

    /// True if an earlier rollout did not finish.
    pub fn follows_unfinished(&self) -> bool {
        self.in_progress.is_some() || self.unreadable_in_progress.is_some()
    }

    /// Failed release whose rollout did not restore the previous release.
    pub fn unrestored_release(&self) -> Option<u32> {
        let in_progress = self.in_progress.as_ref().filter(|in_progress| !in_progress.paused)?;
        let record = self.history.get(in_progress.number)?;
        (in_progress.undoing || record.outcome == RolloutOutcome::Failed).then_some(record.number)
    }

    /// The undo of the rollout in progress is not complete.
    pub fn is_undoing(&self) -> bool {
        self.in_progress.as_ref().is_some_and(|in_progress| in_progress.undoing)
    }

    /// Reads the journal again.
    pub fn reopen(&self) -> Result<Journal, Error> {
        Journal::open(&self.location, &self.project)
    }

    /// Removes files that a killed run left half done.
    pub fn remove_unfinished(&self) -> Result<(), Error> {
        self.store.remove_unfinished(self.next_number())
    }

    /// Newest ticket in the queue of waiting runs.
    pub fn queue_ticket(&self) -> Result<QueueTicket, Error> {
        QueueTicket::join(&self.store)
    }

    /// Owner of the image tags.
    pub fn image_owner(&self) -> images::ImageOwner<'_> {
        images::ImageOwner { project: &self.project, history: &self.history_id }
    }

    /// Folder of the releases.
    pub fn folder(&self) -> PathBuf {
        self.store.folder()
    }

    /// Number of the next release. A number may be reused if its rollout is not known to have begun.
    pub fn next_number(&self) -> u32 {
        self.history.next_number(self.in_progress.as_ref())
    }

    /// Resolved configuration of a release.
    pub fn config(&self, number: u32) -> Result<String, Error> {
        self.store.config(number)
    }

    pub fn config_path(&self, number: u32) -> PathBuf {
        self.store.config_path(number)
    }

    /// Parsed configuration of a release.
    ///
    /// # Errors
    /// A missing or truncated file, or one of another project. No error shows its contents.
    pub fn snapshot(&self, number: u32) -> Result<ResolvedProject, Error> {
        let snapshot = ResolvedProject::parse(&self.config(number)?).ok();
        snapshot.filter(|s| s.project_name().is_none_or(|name| name == self.project)).ok_or_else(|| {
            let why = format!("it is not the resolved configuration of `{}`", self.project);
            (&UnreadableFile { path: self.config_path(number), reason: why, is_newer: false }).into()
        })
    }

    /// Current release with its configuration: the base of the next one. Without its configuration, its other
    /// services cannot be carried over.
    fn base_release(&self) -> Option<(&ReleaseRecord, ResolvedProject)> {
        let current = self.history.current()?;
        Some((current, self.snapshot(current.number).ok()?))
    }

    pub fn write_config(&self, number: u32, text: &str) -> Result<(), Error> {
        self.store.write_config(number, text)
    }

    pub fn uncommitted_config(&self, number: u32) -> UncommittedConfig {
        UncommittedConfig { store: self.store.clone(), number }
    }

    /// Configuration of the project after a rollout of these services; the others stay as deployed.
    pub fn merged_config(&self, new: &str, services: &[&str]) -> Result<String, Error> {
        let mut snapshot = ResolvedProject::parse(new)?;
        if let Some((current, before)) = self.base_release() {
            let untouched = current.services.keys().map(String::as_str).filter(|s| !services.contains(s));
            snapshot.copy_services(&untouched.collect::<Vec<_>>(), &before);
        }
        Ok(snapshot.text())
    }

    /// Records the rollout in progress, before any change.
    pub fn begin(&self, draft: &ReleaseDraft, report: Report) -> Result<(), Error> {
        self.begin_with_policies(draft, &BTreeMap::new(), report)
    }

    /// Like [`Journal::begin`], with the restart policies to restore.
    pub fn begin_with_policies(
        &self,
        draft: &ReleaseDraft,
        restart: &BTreeMap<String, String>,
        report: Report,
    ) -> Result<(), Error> {
        self.store.write_config(draft.number, &draft.text)?;
        if self.store.in_progress().is_err() {
            self.store.set_in_progress_aside()?;
        }
        self.store.write_in_progress(&release::InProgress {
            format: FORMAT,
            number: draft.number,
            kind: draft.kind,
            services: draft.services.keys().cloned().collect(),
            replaced: draft.replaced.clone(),
            restart: restart.clone(),
            last_good: self.history.current().map(|r| r.number),
            paused: false,
            undoing: false,
        })?;
        report.write_journal_to(self.store.create_journal(draft.number)?);
        Ok(())
    }

    /// Tags the images of the new release and of the one that it replaces, so that pruning keeps them.
    pub fn tag_images(&self, docker: &Docker, draft: &ReleaseDraft, report: Report) {
        let before = self.history.current().map(|r| &r.services);
        let replaced =
            before.into_iter().flatten().filter(|(service, _)| draft.services.contains_key(*service));
        // An unchanged image already has its tag.
        let added = draft.services.iter().filter(|(service, release)| {
            before.and_then(|b| b.get(*service)).is_none_or(|b| b.since != release.since)
        });
        let all = replaced.chain(added).map(|(service, release)| (service.as_str(), release));
        let tagged = docker.keepers(&self.project).unwrap_or_default();
        let missing = images::without_keeper(docker, self.image_owner(), &tagged, all);
        missing.into_iter().for_each(|(service, release)| self.keep_image(docker, service, release, report));
    }

    /// Records the result of the run. A failed write is only a warning, because it does not change what serves.
    pub fn end(&self, docker: &Docker, draft: &ReleaseDraft, result: RunResult, report: Report) {
        let record = self.release_record(draft, &result);
        let paused = record.outcome == RolloutOutcome::Paused;
        let written = self.store.write_record(&record).and_then(|()| match &result.undoing {
            _ if paused => self.pause(draft),
            Some(left) => self.keep_undoing(left),
            None if result.unfinished => Ok(()),
            None => self.store.clear_in_progress(),
        });
        if let Err(error) = written {
            report.warn(&Warning::Other(format!("the release could not be recorded: {error}")));
        }
        if paused {
            draft
                .services
                .iter()
                .for_each(|(service, release)| self.keep_image(docker, service, release, report));
        }
        // `recover` still needs the leftovers of an unfinished rollout.
        if !paused && !result.unfinished {
            self.remove_leftovers(docker, draft, report);
        }
    }

    /// Recorded events of a rollout, one a line; `None` if it has none.
    pub fn events(&self, number: u32) -> Result<Option<Vec<u8>>, Error> {
        self.store.events(number).map_err(|unreadable| (&unreadable).into())
    }

    /// Recorded hashes of the services that are defined as in the current release.
    pub fn hashes_of_same(&self, now: &ResolvedProject) -> BTreeMap<String, String> {
        let Some(current) = self.history.current() else { return BTreeMap::new() };
        let Ok(then) = self.snapshot(current.number) else { return BTreeMap::new() };
        let same = current.services.iter().filter(|(service, _)| now.has_same_service(service, &then));
        same.map(|(service, release)| (service.clone(), release.config_hash.clone())).collect()
    }

    /// Jobs that completed in a rollout, by its recorded events.
    pub fn completed_jobs(&self, number: u32) -> BTreeSet<String> {
        let events = self.store.events(number).ok().flatten().unwrap_or_default();
        let ran = record::read(&events).into_iter().filter_map(|record| match record.event {
            Event::JobDone(Service { service }) => Some(service),
            _ => None,
        });
        ran.collect()
    }

    pub fn has_events(&self, number: u32) -> bool {
        self.store.has_events(number)
    }

    /// Removes the records of a run that changed nothing, and restores those of a paused rollout.
    pub fn discard(&self, draft: &ReleaseDraft) {
        let restored = match &self.in_progress {
            Some(in_progress) => self.store.write_in_progress(in_progress),
            None => self.store.clear_in_progress(),
        };
        // The next run overwrites the same files, so a leftover does no harm.
        let _ = restored;
        if self.history.get(draft.number).is_none() {
            let _ = std::fs::remove_file(self.store.config_path(draft.number));
            let _ = self.store.remove_journal(draft.number);
        }
    }

    /// Records a run of the project, before its first change. An earlier one that did not end stays recorded if this run
    /// changes only a part of it.
    pub fn begin_project_run(&self, run: &ProjectRun) -> Result<(), Error> {
        if self.is_part_of_earlier(&run.services) { Ok(()) } else { self.store.write_project_run(run) }
    }

    /// Records that a run of these services has ended, and an earlier one within it.
    pub fn end_project_run(&self, services: &[String], report: Report) {
        if self.is_part_of_earlier(services) {
            return;
        }
        if let Err(error) = self.store.clear_project_run() {
            report.warn(&Warning::Other(format!("the end of the run could not be recorded: {error}")));
        }
    }

    /// Newest release that such a run did not make. None if another run has made one since, so that the run is the past.
    pub fn release_before(&self, run: &ProjectRun) -> Option<&ReleaseRecord> {
        let is_before = |r: &&ReleaseRecord| r.number <= run.before.unwrap_or(0);
        let is_imported = |r: &&ReleaseRecord| r.kind == RolloutKind::Imported;
        let good = || self.history.newest_first().filter(|r| r.is_good());
        let mut by_others = good().filter(|r| !is_before(r) && !is_imported(r));
        if by_others.any(|r| r.command != run.command_line) {
            return None;
        }
        good().find(|r| is_before(r) || is_imported(r))
    }

    /// Changes of an earlier run that did not end and recorded no release. They belong to the release of a run of these
    /// services that continues it.
    pub fn unrecorded_changes(&self, to: Option<u32>, services: &[String]) -> ProjectChanges {
        let earlier = self.project_run.as_ref().filter(|e| e.to == to && e.is_within(services));
        let number = |record: Option<&ReleaseRecord>| record.map(|r| r.number);
        let is_unrecorded =
            |e: &&ProjectRun| number(self.release_before(e)) == number(self.history.current());
        earlier.filter(is_unrecorded).map(|e| e.changes.clone()).unwrap_or_default()
    }

    fn is_part_of_earlier(&self, services: &[String]) -> bool {
        self.project_run.as_ref().is_some_and(|earlier| !earlier.is_within(services))
    }

    /// Records what `up` changed besides its rollout: in the release of the rollout, if the draft has its number.
    pub fn record_changes(
        &self,
        docker: &Docker,
        draft: &ReleaseDraft,
        changes: ProjectChanges,
        report: Report,
    ) {
        let duration = report.elapsed();
        let result = RunResult::new(None, false, duration, 0);
        let mut record = match self.history.get(draft.number) {
            Some(of_rollout) => of_rollout.clone(),
            None => ReleaseRecord { deployed: Vec::new(), ..self.release_record(draft, &result) },
        };
        record.deployed.extend(draft.services.keys().cloned());
        record.services.extend(draft.services.clone());
        record.services.retain(|service, _| !changes.removed.contains(service));
        record.project_changes = changes;
        let store = &self.store;
        let written =
            store.write_config(draft.number, &draft.text).and_then(|()| store.write_record(&record));
        if let Err(error) = written {
            return report.warn(&Warning::Other(format!("the release could not be recorded: {error}")));
        }
        draft.services.iter().for_each(|(name, release)| self.keep_image(docker, name, release, report));
        self.remove_leftovers(docker, draft, report);
    }

    /// Records an imported release. Its images are tagged like those of every current release.
    pub fn import(&mut self, draft: &ReleaseDraft) -> Result<(), Error> {
        self.store.write_config(draft.number, &draft.text)?;
        let result = RunResult {
            outcome: RolloutOutcome::Deployed,
            reason: None,
            unfinished: false,
            undoing: None,
            duration: Duration::ZERO,
            cut_requests: 0,
            witness: None,
        };
        self.store.write_record(&self.release_record(draft, &result))?;
        self.history = self.store.history()?;
        Ok(())
    }

    fn pause(&self, draft: &ReleaseDraft) -> Result<(), Error> {
        self.store.write_in_progress(&release::InProgress {
            format: FORMAT,
            number: draft.number,
            kind: draft.kind,
            services: draft.services.keys().cloned().collect(),
            replaced: Vec::new(),
            restart: self.in_progress.as_ref().map(|h| h.restart.clone()).unwrap_or_default(),
            last_good: self.history.current().map(|r| r.number),
            paused: true,
            undoing: false,
        })
    }

    /// Records that the undo of the rollout in progress is not complete, and has left these instances.
    fn keep_undoing(&self, left: &[String]) -> Result<(), Error> {
        let replaced = left.to_vec();
        match self.store.in_progress().map_err(|unreadable| Error::from(&unreadable))? {
            Some(in_progress) => {
                self.store.write_in_progress(&release::InProgress { undoing: true, replaced, ..in_progress })
            }
            None => Ok(()),
        }
    }

    fn release_record(&self, draft: &ReleaseDraft, result: &RunResult) -> ReleaseRecord {
        let mut services = self.base_release().map(|(r, _)| r.services.clone()).unwrap_or_default();
        services.extend(draft.services.clone());
        let started = SystemTime::now().checked_sub(result.duration).unwrap_or(SystemTime::UNIX_EPOCH);
        ReleaseRecord {
            format: FORMAT,
            number: draft.number,
            project: self.project.clone(),
            kind: draft.kind,
            outcome: result.outcome,
            reason: result.reason.clone(),
            services,
            deployed: draft.services.keys().cloned().collect(),
            git: working_copy(draft),
            by: git::user_and_host(),
            command: command_line(),
            started: humantime::format_rfc3339_seconds(started).to_string(),
            seconds: result.duration.as_secs_f64(),
            cut: result.cut_requests as u64,
            witness: result.witness.clone(),
            project_changes: Default::default(),
        }
    }

    fn keep_image(&self, docker: &Docker, service: &str, release: &ServiceRelease, report: Report) {
        if !images::is_local(release) {
            return;
        }
        if let Err(error) = images::keep_image(docker, self.image_owner(), service, release) {
            report.warn(&Warning::Other(format!(
                "the image of `{service}` could not be tagged, so pruning may remove it: {error}"
            )));
        }
    }

    /// Removes the files and image tags of releases that are no longer kept.
    fn remove_leftovers(&self, docker: &Docker, draft: &ReleaseDraft, report: Report) {
        let warn = |text: String| report.warn(&Warning::Other(text));
        let history = match self.store.history() {
            Ok(history) => history,
            Err(error) => return warn(format!("old releases could not be removed: {error}")),
        };
        if let Some((_, unreadable)) = history.unreadable_records().next() {
            // Its images and its configuration may still be needed.
            return warn(format!("no old release is removed, as long as one is unreadable: {unreadable}"));
        }
        let kept = history.retention(draft.keep);
        let services = history.services();
        // `docker system prune` removes the containers that hold the images; they are created again while the image
        // exists.
        let tagged = match docker.keepers(&self.project) {
            Ok(tagged) => tagged,
            Err(error) => return warn(format!("images of older releases stay: {error:#}")),
        };
        let missing =
            images::without_keeper(docker, self.image_owner(), &tagged, history.retained_services(&kept));
        missing.into_iter().for_each(|(service, release)| self.keep_image(docker, service, release, report));
        let all = history.newest_first().flat_map(|r| &r.services).map(|(s, release)| (s.as_str(), release));
        let old = images::remove_old_names(docker, &self.project, &tagged, all);
        let stay = images::remove_images(docker, self.image_owner(), &tagged, &services, &kept);
        if draft.prune {
            let removed = images::remove_older(docker, &history, &kept);
            removed.iter().for_each(|image| report.print_line(&format!("removed `{image}`")));
        }
        let old = old.err().map(|error| format!("images of older releases stay: {error:#}"));
        stay.into_iter().chain(old).for_each(warn);
        if let Err(error) = self.store.prune(&kept) {
            warn(format!("old releases could not be removed: {error}"));
        }
    }
}

/// Git revision of a deploy. A rollback restores another revision than the working copy's.
fn working_copy(draft: &ReleaseDraft) -> Option<WorkingCopy> {
    match draft.kind {
        RolloutKind::Deploy => git::working_copy(&draft.folder),
        RolloutKind::Rollback { .. } | RolloutKind::Imported => None,
    }
}

/// Command line of this run, without secrets.
pub fn command_line() -> String {
    let words = std::env::args().skip(1);
    mask::command(std::iter::once("compose-zd".to_string()).chain(words))
}

impl RunResult {
    /// Result of a run that ended with this error, or without one.
    pub fn new(error: Option<&Error>, paused: bool, duration: Duration, cut_requests: usize) -> RunResult {
        let outcome = match error.map(|f| f.exit) {
            _ if paused => RolloutOutcome::Paused,
            None => RolloutOutcome::Deployed,
            Some(Exit::Interrupted(_)) => RolloutOutcome::Interrupted,
            Some(_) => RolloutOutcome::Failed,
        };
        let unfinished = error.is_some_and(|f| f.exit == Exit::Outage);
        RunResult {
            outcome,
            reason: error.map(|f| f.message.clone()),
            unfinished,
            undoing: None,
            duration,
            cut_requests,
            witness: None,
        }
    }
}
