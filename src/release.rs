//! Numbered releases: their content, their images, and the release that a rollback returns to.

pub mod engine_folder;
pub mod images;
pub mod journal;
pub mod selection;
pub mod state_location;
pub mod store;
pub mod wait_queue;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use derive_more::Display;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::git::WorkingCopy;
use crate::report::probes::LossCount;
use crate::shell;

/// Format of every file of the state folder. A file with a newer format is reported and otherwise left alone.
/// Nothing is changed beside it, because its contents and their purpose are unknown to this version.
pub const FORMAT: u32 = 1;

/// Most records that stay, including those of releases that no rollback can return to.
const MAX_RECORDS: usize = 200;

/// Service as a release put it in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRelease {
    /// Image reference of the compose file or of `--image`.
    pub image: String,
    pub image_id: String,
    /// `RepoDigests`, to pull the image again; empty for an image that was built here.
    #[serde(default)]
    pub digests: Vec<String>,
    /// Configuration hash, as in the label of the containers.
    pub config_hash: String,
    pub replicas: u32,
    /// Release that put the service in place; its image has the tag `r{since}`.
    pub since: u32,
    /// True if the image came from `--image`.
    #[serde(default)]
    pub by_flag: bool,
}

impl ServiceRelease {
    /// True if both have the same configuration, image and number of instances, whatever the image's name and the
    /// release.
    pub fn same_content(&self, other: &ServiceRelease) -> bool {
        self.content() == other.content()
    }

    fn content(&self) -> (&str, &str, u32) {
        (&self.config_hash, &self.image_id, self.replicas)
    }
}

/// Reason for a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RolloutKind {
    Deploy,
    Rollback {
        to: u32,
    },
    /// Containers that ran before the first deploy.
    #[serde(rename = "adopted")]
    Imported,
}

/// Result of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Display)]
#[serde(rename_all = "lowercase")]
#[display(rename_all = "lowercase")]
pub enum RolloutOutcome {
    Deployed,
    Failed,
    Paused,
    Interrupted,
}

/// Witness results of a rollout, over all its URLs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessTotals {
    pub urls: Vec<String>,
    #[serde(flatten)]
    pub count: LossCount,
    /// Longest time without a good answer.
    #[serde(default)]
    pub longest_gap_ms: Option<u64>,
}

/// Changes of `up` besides its rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProjectChanges {
    /// Services of which no instance ran before.
    pub started: Vec<String>,
    /// Services that Compose recreated or scaled.
    pub recreated: Vec<String>,
    /// Services whose containers were removed.
    pub removed: Vec<String>,
}

impl ProjectChanges {
    pub fn is_empty(&self) -> bool {
        *self == ProjectChanges::default()
    }

    /// Adds the changes of another run.
    pub fn add(&mut self, other: ProjectChanges) {
        let ProjectChanges { started, recreated, removed } = other;
        for (all, more) in
            [(&mut self.started, started), (&mut self.recreated, recreated), (&mut self.removed, removed)]
        {
            let new: Vec<String> = more.into_iter().filter(|service| !all.contains(service)).collect();
            all.extend(new);
        }
    }
}

/// Release, as recorded on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseRecord {
    pub format: u32,
    pub number: u32,
    pub project: String,
    pub kind: RolloutKind,
    pub outcome: RolloutOutcome,
    /// Reason for a failed deploy.
    #[serde(default)]
    pub reason: Option<String>,
    /// All services in place after the rollout, whether the rollout touched them or not.
    pub services: BTreeMap<String, ServiceRelease>,
    /// Services of this rollout.
    pub deployed: Vec<String>,
    #[serde(default)]
    pub git: Option<WorkingCopy>,
    /// `user@host`.
    pub by: String,
    pub command: String,
    /// RFC 3339, in UTC.
    pub started: String,
    pub seconds: f64,
    /// Requests that were cut off at the drain timeout.
    #[serde(default)]
    pub cut: u64,
    /// `None` if there was no witness.
    #[serde(default)]
    pub witness: Option<WitnessTotals>,
    #[serde(default, skip_serializing_if = "ProjectChanges::is_empty")]
    pub project_changes: ProjectChanges,
}

impl ReleaseRecord {
    /// True if a rollback can return to this release.
    pub fn is_good(&self) -> bool {
        self.outcome == RolloutOutcome::Deployed
    }

    pub fn same_content(&self, other: &ReleaseRecord) -> bool {
        self.content() == other.content()
    }

    fn content(&self) -> Vec<(&str, (&str, &str, u32))> {
        self.services.iter().map(|(name, service)| (name.as_str(), service.content())).collect()
    }

    fn images(&self) -> impl Iterator<Item = (String, u32)> {
        self.services.iter().map(|(name, service)| (name.clone(), service.since))
    }

    /// True if a rollback to this release changes something: one of the named services, all of which it must have.
    /// Without names, the release as a whole.
    fn differs(&self, current: &ReleaseRecord, services: &[String]) -> bool {
        let pair = |name: &String| Some((self.services.get(name)?, current.services.get(name)));
        let pairs: Option<Vec<_>> = services.iter().map(pair).collect();
        match pairs {
            _ if services.is_empty() => !self.same_content(current),
            Some(pairs) => pairs.iter().any(|(past, now)| !now.is_some_and(|now| now.same_content(past))),
            None => false,
        }
    }
}

/// `wanted.json`: target of a rollout under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InProgress {
    pub format: u32,
    pub number: u32,
    pub kind: RolloutKind,
    pub services: Vec<String>,
    /// Ids of the containers that `--force` replaces; hashes do not distinguish them from others.
    #[serde(default)]
    pub replaced: Vec<String>,
    /// Restart policies by container id, from before the rollout changed them.
    #[serde(default)]
    pub restart: BTreeMap<String, String>,
    #[serde(default)]
    pub last_good: Option<u32>,
    #[serde(default)]
    pub paused: bool,
    /// The rollout failed, and its undo is not complete: `recover` restores the last good release.
    #[serde(default)]
    pub undoing: bool,
}

/// `project.json`: run of `up`, or of a rollback that undoes one, as long as it has not ended. It stays after a run that was
/// killed or could not be undone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectRun {
    pub format: u32,
    /// Named services; none means the whole project.
    pub services: Vec<String>,
    /// Release that a rollback restores; `None` for `up`.
    #[serde(default)]
    pub to: Option<u32>,
    /// Release before the run.
    #[serde(default)]
    pub before: Option<u32>,
    /// Command line, as the releases of the run have it.
    #[serde(default)]
    pub command_line: String,
    /// Changes besides the rollout, made or to be made.
    #[serde(default)]
    pub changes: ProjectChanges,
}

impl ProjectRun {
    /// Command that continues the run.
    pub fn command(&self) -> String {
        let verb = self.to.map_or_else(|| "up".into(), |number| format!("rollback --to {number}"));
        std::iter::once(verb).chain(self.services.iter().cloned()).collect::<Vec<_>>().join(" ")
    }

    /// True if a run of these services also changes what this run has left.
    pub fn is_within(&self, services: &[String]) -> bool {
        let named = !self.services.is_empty() && self.services.iter().all(|s| services.contains(s));
        services.is_empty() || named
    }
}

/// File of the state folder that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableFile {
    pub path: PathBuf,
    pub reason: String,
    /// True if a newer version wrote the file, which is not damaged.
    pub is_newer: bool,
}

impl UnreadableFile {
    /// Hint with the command that moves the file away, after which the other files can be used. A release number is
    /// never reused.
    fn hint(&self) -> String {
        let path = shell::path(&self.path);
        if self.is_newer {
            format!(
                "use the newer compose-zd that wrote it, or move it away and continue without it: `mv {path} {path}.newer`"
            )
        } else {
            format!("move it away to use the other files: `mv {path} {path}.broken`")
        }
    }
}

impl fmt::Display for UnreadableFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` cannot be used: {}", self.path.display(), self.reason)
    }
}

impl From<&UnreadableFile> for Error {
    /// A file of a newer version is an error of usage.
    fn from(file: &UnreadableFile) -> Error {
        let error =
            if file.is_newer { Error::usage(file.to_string()) } else { Error::unchanged(file.to_string()) };
        error.hint(file.hint())
    }
}

/// All records of a project, oldest first. An unreadable record is skipped where that is safe: its number is never
/// reused, and no older release counts as the current or the previous one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReleaseHistory {
    records: Vec<ReleaseRecord>,
    unreadable_files: BTreeMap<u32, UnreadableFile>,
    /// Highest release number of any file, including files that were moved away.
    highest_number: u32,
}

/// Parts of a history that stay after pruning.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Releases whose record stays.
    pub records: BTreeSet<u32>,
    /// Releases whose configuration stays: those that a rollback can return to.
    pub configs: BTreeSet<u32>,
    /// Images whose tag `r{since}` stays, as service and `since`.
    pub images: BTreeSet<(String, u32)>,
}

impl ReleaseHistory {
    pub fn new(mut records: Vec<ReleaseRecord>) -> ReleaseHistory {
        records.sort_by_key(|r| r.number);
        ReleaseHistory { records, ..ReleaseHistory::default() }
    }

    /// A history with unreadable records, and the highest number in use.
    pub fn with_unreadable(
        records: Vec<ReleaseRecord>,
        unreadable_files: BTreeMap<u32, UnreadableFile>,
        highest_number: u32,
    ) -> ReleaseHistory {
        ReleaseHistory { unreadable_files, highest_number, ..ReleaseHistory::new(records) }
    }

    /// Current release: the newest good one. `None` if a newer record is unreadable, because that may be the
    /// current one.
    pub fn current(&self) -> Option<&ReleaseRecord> {
        self.good().next().filter(|r| self.unreadable_since(r.number).is_none())
    }

    /// Newest unreadable record after a release.
    pub fn unreadable_since(&self, number: u32) -> Option<(u32, &UnreadableFile)> {
        let (newest, file) = self.unreadable_files.last_key_value()?;
        (*newest > number).then_some((*newest, file))
    }

    /// Unreadable record of this number.
    pub fn unreadable(&self, number: u32) -> Option<&UnreadableFile> {
        self.unreadable_files.get(&number)
    }

    /// Unreadable records, newest first.
    pub fn unreadable_records(&self) -> impl Iterator<Item = (u32, &UnreadableFile)> {
        self.unreadable_files.iter().rev().map(|(number, file)| (*number, file))
    }

    /// Release that a rollback returns to: the newest good one whose content differs from the current release. With
    /// named services, one of these differs, and the release has all of them.
    ///
    /// A rollback gets a new release number. So a second rollback returns to the newer content, as in Swarm.
    pub fn previous(&self, services: &[String]) -> Option<&ReleaseRecord> {
        let current = self.current()?;
        self.good().find(|r| r.differs(current, services))
    }

    pub fn get(&self, number: u32) -> Option<&ReleaseRecord> {
        self.records.iter().find(|r| r.number == number)
    }

    /// Number of the next release. No number is used twice, including that of a rollout under way.
    pub fn next_number(&self, in_progress: Option<&InProgress>) -> u32 {
        let numbers = self.records.iter().map(|r| r.number).chain(in_progress.map(|w| w.number));
        let numbers = numbers.chain(self.unreadable_files.keys().copied()).chain([self.highest_number]);
        numbers.max().unwrap_or(0).saturating_add(1)
    }

    /// Releases that a rollback can return to, newest first.
    pub fn good_numbers(&self) -> Vec<u32> {
        self.good().map(|r| r.number).collect()
    }

    /// Every service of any release.
    pub fn services(&self) -> BTreeSet<String> {
        self.records.iter().flat_map(|r| r.services.keys().cloned()).collect()
    }

    /// Parts that stay if a rollback can return to `keep` releases (at least one). The newest good releases stay
    /// with configuration and images. If two or more stay, the target of the next rollback is among them. All
    /// records that are not older than these stay as history.
    pub fn retention(&self, keep: usize) -> Retention {
        let mut retained: Vec<&ReleaseRecord> = self.good().take(keep.max(1)).collect();
        let previous = self.previous(&[]).filter(|p| retained.iter().all(|k| k.number != p.number));
        if let (2.., Some(previous)) = (keep, previous) {
            retained.truncate(keep - 1);
            retained.push(previous);
        }
        let oldest = retained.last().map_or(0, |r| r.number);
        let recent = || self.records.iter().rev().take(MAX_RECORDS);
        let configs: BTreeSet<u32> = retained.iter().map(|r| r.number).collect();
        let history = recent().map(|r| r.number).filter(|n| *n >= oldest);
        Retention {
            records: history.chain(configs.iter().copied()).collect(),
            configs,
            images: retained.iter().flat_map(|r| r.images()).collect(),
        }
    }

    /// Services of the retained releases, one for each image: a prune may have removed a tag or a keeper since.
    pub fn retained_services<'a>(
        &'a self,
        retained: &'a Retention,
    ) -> impl Iterator<Item = (&'a str, &'a ServiceRelease)> {
        let services = retained.configs.iter().filter_map(|n| self.get(*n)).flat_map(|r| &r.services);
        let by_tag: BTreeMap<(&str, u32), &ServiceRelease> =
            services.map(|(name, service)| ((name.as_str(), service.since), service)).collect();
        by_tag.into_iter().map(|((name, _), service)| (name, service))
    }

    pub fn newest_first(&self) -> impl Iterator<Item = &ReleaseRecord> {
        self.records.iter().rev()
    }

    fn good(&self) -> impl Iterator<Item = &ReleaseRecord> {
        self.records.iter().rev().filter(|r| r.is_good())
    }
}

#[cfg(test)]
mod tests;
