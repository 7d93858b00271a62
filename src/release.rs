//! Numbered releases: what each put in place, the images kept for it, and which one to go back to.

pub mod engine_folder;
pub mod images;
pub mod store;
pub mod wait_queue;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::git::WorkingCopy;
use crate::shell;

/// The format of every file written here. What has a newer one is not half understood: it is shown as there, and nothing
/// is changed beside it, because what a newer version keeps, and for what, is not known to this one.
pub const FORMAT: u32 = 1;

/// How many records stay at most, those that nothing can go back to included.
const HISTORY: usize = 200;

/// One service as a release put it in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRelease {
    /// The reference, as the file or `--image` named it.
    pub image: String,
    pub image_id: String,
    /// `RepoDigests`, to pull it again; none for an image that was built here.
    #[serde(default)]
    pub digests: Vec<String>,
    /// As Compose labels the containers.
    pub config_hash: String,
    pub replicas: u32,
    /// The release that put it in place; its image has the tag `r{since}`.
    pub since: u32,
    /// The image came from `--image`.
    #[serde(default)]
    pub by_flag: bool,
}

impl ServiceRelease {
    /// What it runs is the same, whatever its image is called and since when it is there.
    pub fn same_content(&self, other: &ServiceRelease) -> bool {
        self.content() == other.content()
    }

    fn content(&self) -> (&str, &str, u32) {
        (&self.config_hash, &self.image_id, self.replicas)
    }
}

/// What a rollout was started for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RolloutKind {
    Deploy,
    Rollback {
        to: u32,
    },
    /// Found running at the first deploy.
    Adopted,
}

/// How a rollout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RolloutOutcome {
    Deployed,
    Failed,
    Paused,
    Interrupted,
}

/// What the witness saw of a rollout, of all its URLs together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessTotals {
    pub urls: Vec<String>,
    pub sent: u64,
    pub lost: u64,
    /// The longest time without a good answer.
    #[serde(default)]
    pub longest_gap_ms: Option<u64>,
}

/// A release: durable, and never changed once it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseRecord {
    pub format: u32,
    pub number: u32,
    pub project: String,
    pub kind: RolloutKind,
    pub outcome: RolloutOutcome,
    /// Why it did not deploy.
    #[serde(default)]
    pub reason: Option<String>,
    /// Everything in place after it, whether this rollout touched it or not.
    pub services: BTreeMap<String, ServiceRelease>,
    /// The services this rollout was about.
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
    /// None where nothing was asked.
    #[serde(default)]
    pub witness: Option<WitnessTotals>,
}

impl ReleaseRecord {
    /// It can be gone back to.
    pub fn is_good(&self) -> bool {
        self.outcome == RolloutOutcome::Deployed
    }

    pub fn same_content(&self, other: &ReleaseRecord) -> bool {
        self.content() == other.content()
    }

    fn content(&self) -> Vec<(&str, (&str, &str, u32))> {
        self.services.iter().map(|(name, placed)| (name.as_str(), placed.content())).collect()
    }

    fn images(&self) -> impl Iterator<Item = (String, u32)> {
        self.services.iter().map(|(name, placed)| (name.clone(), placed.since))
    }

    /// It has all of these services, and one of them differs; without names it is the whole that differs.
    fn differs(&self, current: &ReleaseRecord, services: &[String]) -> bool {
        let pair = |name: &String| Some((self.services.get(name)?, current.services.get(name)));
        let pairs: Option<Vec<_>> = services.iter().map(pair).collect();
        match pairs {
            _ if services.is_empty() => !self.same_content(current),
            Some(pairs) => pairs.iter().any(|(then, now)| !now.is_some_and(|now| now.same_content(then))),
            None => false,
        }
    }
}

/// `wanted.json`: what a rollout under way heads for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InProgress {
    pub format: u32,
    pub number: u32,
    pub kind: RolloutKind,
    pub services: Vec<String>,
    /// The ids of the containers that a `--force` replaces: hashes cannot tell those.
    #[serde(default)]
    pub replaced: Vec<String>,
    /// Restart policies by container id, as they were before anything was retired.
    #[serde(default)]
    pub restart: BTreeMap<String, String>,
    #[serde(default)]
    pub last_good: Option<u32>,
    #[serde(default)]
    pub paused: bool,
}

/// A file of ours that is there and cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableFile {
    pub path: PathBuf,
    pub why: String,
    /// A newer version wrote it; nothing is wrong with it.
    pub newer: bool,
}

impl UnreadableFile {
    /// What to type so that the rest is used without it; numbers of releases are not used again all the same.
    fn hint(&self) -> String {
        let path = shell::path(&self.path);
        match self.newer {
            true => format!(
                "use the newer compose-zd that wrote it, or move it away and go on without it: `mv {path} {path}.newer`"
            ),
            false => format!("move it away, and the rest is used without it: `mv {path} {path}.broken`"),
        }
    }
}

impl fmt::Display for UnreadableFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` cannot be used: {}", self.path.display(), self.why)
    }
}

impl From<&UnreadableFile> for Error {
    /// A newer version's file is a wrong use of this one.
    fn from(damage: &UnreadableFile) -> Error {
        let error = match damage.newer {
            true => Error::usage(damage.to_string()),
            false => Error::unchanged(damage.to_string()),
        };
        error.hint(damage.hint())
    }
}

/// All records of a project, oldest first. One that cannot be read is treated as not there where that is safe: its number
/// is not used again, and no release is taken for the current or the previous one past it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReleaseHistory {
    records: Vec<ReleaseRecord>,
    damaged: BTreeMap<u32, UnreadableFile>,
    /// The highest number that a file of any release, moved away or not, has.
    taken: u32,
}

/// What stays of a history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// The releases whose record stays.
    pub records: BTreeSet<u32>,
    /// The releases whose configuration stays: those that can be gone back to.
    pub configs: BTreeSet<u32>,
    /// The images whose tag `r{since}` stays, as service and `since`.
    pub images: BTreeSet<(String, u32)>,
}

impl ReleaseHistory {
    pub fn new(mut records: Vec<ReleaseRecord>) -> ReleaseHistory {
        records.sort_by_key(|r| r.number);
        ReleaseHistory { records, ..ReleaseHistory::default() }
    }

    /// With records that cannot be read, and numbers that are not free.
    pub fn with(
        records: Vec<ReleaseRecord>,
        damaged: BTreeMap<u32, UnreadableFile>,
        taken: u32,
    ) -> ReleaseHistory {
        ReleaseHistory { damaged, taken, ..ReleaseHistory::new(records) }
    }

    /// The release that serves: the newest good one. None where a newer one cannot be read, which may be it.
    pub fn current(&self) -> Option<&ReleaseRecord> {
        self.good().next().filter(|r| self.unreadable_since(r.number).is_none())
    }

    /// The newest record that cannot be read, of those after a release.
    pub fn unreadable_since(&self, number: u32) -> Option<(u32, &UnreadableFile)> {
        let (last, damage) = self.damaged.last_key_value()?;
        (*last > number).then_some((*last, damage))
    }

    /// A record that is there and cannot be read.
    pub fn unreadable(&self, number: u32) -> Option<&UnreadableFile> {
        self.damaged.get(&number)
    }

    /// The records that cannot be read, newest first.
    pub fn damaged(&self) -> impl Iterator<Item = (u32, &UnreadableFile)> {
        self.damaged.iter().rev().map(|(number, damage)| (*number, damage))
    }

    /// Where a rollback goes: back from the current release, the newest good one whose content differs, for the named
    /// services only where some are named, and that has all of these.
    ///
    /// A rollback is a release of its own, so the next one returns to the newer content: Swarm's cyclic rule.
    pub fn previous(&self, services: &[String]) -> Option<&ReleaseRecord> {
        let current = self.current()?;
        self.good().find(|r| r.differs(current, services))
    }

    pub fn get(&self, number: u32) -> Option<&ReleaseRecord> {
        self.records.iter().find(|r| r.number == number)
    }

    /// The number of the next release: no number is used twice, one that a rollout under way has taken included.
    pub fn next_number(&self, wanted: Option<&InProgress>) -> u32 {
        let numbers = self.records.iter().map(|r| r.number).chain(wanted.map(|w| w.number));
        let numbers = numbers.chain(self.damaged.keys().copied()).chain([self.taken]);
        numbers.max().unwrap_or(0).saturating_add(1)
    }

    /// The releases that can be gone back to, newest first.
    pub fn good_numbers(&self) -> Vec<u32> {
        self.good().map(|r| r.number).collect()
    }

    /// Every service that any release had.
    pub fn services(&self) -> BTreeSet<String> {
        self.records.iter().flat_map(|r| r.services.keys().cloned()).collect()
    }

    /// What stays when `keep` releases can be gone back to (at least one): the newest good ones with configuration and
    /// images, one of which is where a rollback goes, wherever two or more stay; and as history every record that is not
    /// older than the oldest of them.
    pub fn kept(&self, keep: usize) -> Retention {
        let mut kept: Vec<&ReleaseRecord> = self.good().take(keep.max(1)).collect();
        let previous = self.previous(&[]).filter(|p| kept.iter().all(|k| k.number != p.number));
        if let (2.., Some(previous)) = (keep, previous) {
            kept.truncate(keep - 1);
            kept.push(previous);
        }
        let oldest = kept.last().map_or(0, |r| r.number);
        let recent = || self.records.iter().rev().take(HISTORY);
        let configs: BTreeSet<u32> = kept.iter().map(|r| r.number).collect();
        let history = recent().map(|r| r.number).filter(|n| *n >= oldest);
        Retention {
            records: history.chain(configs.iter().copied()).collect(),
            configs,
            images: kept.iter().flat_map(|r| r.images()).collect(),
        }
    }

    /// What is kept of each image, once each: a prune may have taken a tag or a keeper since.
    pub fn placed<'a>(&'a self, kept: &'a Retention) -> impl Iterator<Item = (&'a str, &'a ServiceRelease)> {
        let services = kept.configs.iter().filter_map(|n| self.get(*n)).flat_map(|r| &r.services);
        let by_tag: BTreeMap<(&str, u32), &ServiceRelease> =
            services.map(|(name, placed)| ((name.as_str(), placed.since), placed)).collect();
        by_tag.into_iter().map(|((name, _), placed)| (name, placed))
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
