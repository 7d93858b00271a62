//! Every written file is read back, and no damaged file causes a panic.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::fuzz::{corpus, damaged, damaged_json, holds, same};
use crate::git::WorkingCopy;
use crate::release::WitnessTotals;
use crate::release::{RolloutKind, RolloutOutcome, ServiceRelease};
use crate::report::probes::LossCount;

const TEXT: &str = "[a-zA-Z0-9 \"'\\\\\n$é]{0,8}";

fn service_release() -> impl Strategy<Value = ServiceRelease> {
    let digests = prop::collection::vec(TEXT, 0..3);
    (TEXT, TEXT, digests, TEXT, any::<u32>(), any::<u32>(), any::<bool>()).prop_map(
        |(image, image_id, digests, config_hash, replicas, since, by_flag)| ServiceRelease {
            image,
            image_id,
            digests,
            config_hash,
            replicas,
            since,
            by_flag,
        },
    )
}

fn kind() -> impl Strategy<Value = RolloutKind> {
    prop_oneof![
        Just(RolloutKind::Deploy),
        any::<u32>().prop_map(|to| RolloutKind::Rollback { to }),
        Just(RolloutKind::Imported)
    ]
}

fn record() -> impl Strategy<Value = ReleaseRecord> {
    let outcome = select(
        &[
            RolloutOutcome::Deployed,
            RolloutOutcome::Failed,
            RolloutOutcome::Paused,
            RolloutOutcome::Interrupted,
        ][..],
    );
    let git = prop::option::of((TEXT, prop::option::of(TEXT), any::<bool>()));
    let texts = (TEXT, TEXT, TEXT, TEXT, prop::option::of(TEXT));
    let services = prop::collection::btree_map(TEXT, service_release(), 0..3);
    let lists = (services, prop::collection::vec(TEXT, 0..3), git);
    (any::<u32>(), kind(), outcome, texts, lists, 0u32..1_000_000, any::<u64>()).prop_map(
        |(
            number,
            kind,
            outcome,
            (project, by, command, started, reason),
            (services, deployed, git),
            ms,
            cut,
        )| ReleaseRecord {
            format: FORMAT,
            number,
            project,
            kind,
            outcome,
            reason,
            services,
            deployed,
            git: git.map(|(revision, branch, dirty)| WorkingCopy { revision, branch, dirty }),
            by,
            command,
            started,
            seconds: f64::from(ms) / 1000.0,
            cut,
            witness: cut.is_multiple_of(2).then(|| WitnessTotals {
                urls: vec![format!("http://{number}/")],
                count: LossCount { sent: cut as usize, lost: cut as usize / 2 },
                longest_gap_ms: Some(u64::from(ms)),
            }),
            project_changes: Default::default(),
        },
    )
}

fn read<T: DeserializeOwned>(text: &str) -> Result<T, UnreadableFile> {
    parse(Path::new("releases/0007.json"), text.as_bytes())
}

#[test]
fn a_record_is_read_as_it_was_written() {
    holds(record(), |record| {
        let text = serde_json::to_string_pretty(&record).expect("JSON");
        same(&read::<ReleaseRecord>(&text), &Ok(record))
    });
}

#[test]
fn a_rollout_in_progress_is_read_as_it_was_written() {
    let lists = || prop::collection::vec(TEXT, 0..3);
    let restart = prop::collection::btree_map(TEXT, TEXT, 0..3);
    let states = any::<(bool, bool)>();
    let inputs = (any::<u32>(), kind(), lists(), lists(), restart, prop::option::of(any::<u32>()), states);
    holds(inputs, |(number, kind, services, replaced, restart, last_good, (paused, undoing))| {
        let format = FORMAT;
        let in_progress =
            InProgress { format, number, kind, services, replaced, restart, last_good, paused, undoing };
        let text = serde_json::to_string_pretty(&in_progress).expect("JSON");
        same(&read::<InProgress>(&text), &Ok(in_progress))
    });
}

/// A damaged file is refused by its name, or is read as a record that every query handles.
#[test]
fn no_file_causes_a_panic() {
    let samples = || [corpus("release-record"), corpus("release-wanted")].concat();
    let any_json = damaged_json(samples()).prop_map(|json| json.to_string());
    let texts = prop::collection::vec(prop_oneof![1 => damaged(samples()), 1 => any_json], 1..4);
    holds((texts, 0usize..4), |(texts, keep)| {
        let mut records = Vec::new();
        for text in &texts {
            match read::<ReleaseRecord>(text) {
                Ok(record) => records.push(record),
                Err(file) => prop_assert_eq!(file.path, Path::new("releases/0007.json")),
            }
        }
        let in_progress = read::<InProgress>(&texts[0]).ok();
        let history = ReleaseHistory::new(records);
        let _ = (
            history.next_number(in_progress.as_ref()),
            history.previous(&["app".into()]),
            history.services(),
        );
        let retained = history.retention(keep);
        history.retained_services(&retained).count();
        Ok(())
    });
}

/// Only the name that a number gives is read as that number.
#[test]
fn a_file_has_the_number_of_its_name() {
    holds((0..=LAST_NUMBER, damaged(vec!["0007.json".into(), "12345.yml".into()])), |(number, name)| {
        same(&number_of(&file_name(number, "json"), "json"), &Some(number))?;
        if let Some(number) = number_of(&name, "json") {
            same(&file_name(number, "json"), &name)?;
        }
        let services: BTreeMap<String, ServiceRelease> = BTreeMap::new();
        prop_assert!(services.is_empty() && (!is_folder_name(&name) || !name.contains('/')));
        Ok(())
    });
}
