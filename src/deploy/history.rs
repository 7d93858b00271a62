//! What was deployed before, and where a rollback goes; nothing is changed.

use std::collections::BTreeMap;

use anyhow::Result;

use super::journal::Journal;
use super::{acquire_lock, rollback};
use crate::cli::{ComposeArgs, HistoryArgs};
use crate::error::Error;
use crate::release::{ReleaseRecord, RolloutKind, RolloutOutcome};
use crate::report::history::{DeployedService, HEAD, HistoryReport, LossCount, ReleaseRow};
use crate::report::{Report, record, timeline};

/// Lists the releases, newest first, with those that can be gone back to; or draws one of them.
///
/// # Errors
/// A record that cannot be read; a release whose rollout was not written down.
pub fn history(compose: &ComposeArgs, args: &HistoryArgs, report: Report) -> Result<()> {
    let journal = rollback::records(compose, args.state_dir.as_deref(), args.engine.as_deref(), report)?;
    if let Some(number) = args.timeline {
        report.page(&picture(&journal, number)?);
        return Ok(());
    }
    let history = summarise(&journal);
    if report.is_json() {
        report.document(&history);
        return Ok(());
    }
    if history.releases.is_empty() {
        let folder = journal.folder();
        report.say(&format!("no release of `{}` is recorded in {}", journal.project, folder.display()));
        return Ok(());
    }
    report.table(&HEAD, &history.rows());
    if let Some(number) = journal.broken() {
        report.say(&acquire_lock::not_restored(number));
    }
    if let Some(number) = history.rollback_to {
        report.say(&format!("`compose-zd rollback` goes back to release {number}"));
    }
    Ok(())
}

fn summarise(journal: &Journal) -> HistoryReport {
    let readable = journal.history.newest_first().map(|r| (r.number, row(r, journal)));
    let damaged = journal.history.unreadable_records().map(|(number, _)| {
        let result = "cannot be read".to_string();
        (number, ReleaseRow { release: number, result, ..ReleaseRow::default() })
    });
    let by_number: BTreeMap<u32, ReleaseRow> = readable.chain(damaged).collect();
    HistoryReport {
        releases: by_number.into_values().rev().collect(),
        rollback_to: rollback::goes_to(journal),
        ..HistoryReport::new(&journal.project)
    }
}

fn row(record: &ReleaseRecord, journal: &Journal) -> ReleaseRow {
    let result = match (record.outcome, record.kind) {
        (RolloutOutcome::Failed, _) => "failed".to_string(),
        (RolloutOutcome::Paused, _) => "paused".into(),
        (RolloutOutcome::Interrupted, _) => "interrupted".into(),
        (RolloutOutcome::Deployed, RolloutKind::Rollback { to }) => format!("back to {to}"),
        (RolloutOutcome::Deployed, RolloutKind::Imported) => "found running".into(),
        (RolloutOutcome::Deployed, RolloutKind::Deploy) => "deployed".into(),
    };
    let service = |name: &String| DeployedService {
        service: name.clone(),
        image: record.services.get(name).map(|p| p.image.clone()).unwrap_or_default(),
    };
    ReleaseRow {
        release: record.number,
        result,
        good: record.is_good(),
        reason: record.reason.clone(),
        serves: journal.broken().is_none()
            && journal.history.current().is_some_and(|c| c.number == record.number),
        kept: record.is_good() && journal.config_path(record.number).exists(),
        started: Some(record.started.clone()),
        seconds: Some((record.seconds * 1000.0).round() / 1000.0),
        services: record.deployed.iter().map(service).collect(),
        revision: record.git.as_ref().map(|git| git.revision.clone()),
        dirty: record.git.as_ref().is_some_and(|git| git.dirty),
        by: Some(record.by.clone()),
        command: Some(record.command.clone()),
        cut: record.cut,
        witness: record.witness.as_ref().map(|w| LossCount { sent: w.sent, lost: w.lost }),
    }
}

/// The page of a rollout that was written down.
fn picture(journal: &Journal, number: u32) -> Result<String, Error> {
    let missing = || {
        let known = journal.history.newest_first().map(|r| r.number).filter(|n| journal.has_events(*n));
        let known: Vec<String> = known.map(|n| n.to_string()).collect();
        let error = Error::usage(format!("what happened in the rollout of release {number} is not kept"));
        match known.is_empty() {
            true => error.hint("a rollout is written down when it runs; those before 0.1.0 were not"),
            false => error.hint(format!("it is kept of {}", known.join(", "))),
        }
    };
    let text = journal.events(number)?.ok_or_else(missing)?;
    Ok(timeline::page(&record::read(&text)))
}
