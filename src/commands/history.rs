//! `history`: lists the releases, or draws the timeline of one.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use crate::context::{ProjectHandle, locking};
use crate::docker::Docker;
use crate::error::Error;
use crate::model::EngineKind;
use crate::model::args::{ComposeArgs, HistoryArgs};
use crate::release::journal::Journal;
use crate::release::selection;
use crate::release::{ReleaseRecord, RolloutKind, RolloutOutcome};
use crate::report::history::{COLUMNS, DeployedService, HistoryReport, OPTIONAL_COLUMNS, ReleaseRow};
use crate::report::{Report, record, timeline};
use crate::swarm::watch;

/// Lists the releases, newest first, and marks those that a rollback can restore; or draws the timeline of one.
///
/// # Errors
/// An unreadable record, or a release without recorded events.
pub fn history(compose: &ComposeArgs, args: &HistoryArgs, report: Report) -> Result<()> {
    let ProjectHandle { docker, engine, journal, .. } =
        ProjectHandle::open_recorded(compose, &args.state, report)?;
    let journal = journal.for_reading(report);
    if let Some(number) = args.timeline {
        report.print_page(&timeline_page(&journal, number)?);
        return Ok(());
    }
    let running = running_services(&docker, engine, &journal.project);
    let history = summarise(&journal, running.as_ref());
    if report.is_json() {
        report.print_document("history", &history);
        return Ok(());
    }
    if history.releases.is_empty() {
        let folder = journal.folder();
        report.print_line(&format!(
            "no release of `{}` is recorded in {}",
            journal.project,
            folder.display()
        ));
        return Ok(());
    }
    report.table_without(&OPTIONAL_COLUMNS, &COLUMNS, &history.rows());
    report.print_line(state_line(&history, running.as_ref()));
    if let Some(number) = journal.unrestored_release() {
        report.print_line(&locking::not_restored(&journal, number));
    }
    if let Some(number) = history.rollback_to {
        report.print_line(&format!("`compose-zd rollback` restores release {number}"));
    }
    Ok(())
}

/// Images of the running instances, by service; image ids of a Swarm are unknown.
type RunningServices = BTreeMap<String, BTreeSet<String>>;

/// Services that run; `None` if the engine does not answer.
fn running_services(docker: &Docker, engine: EngineKind, project: &str) -> Option<RunningServices> {
    if engine == EngineKind::Swarm {
        let stack = watch::observe(docker, project).ok()?;
        let running = stack.services.values().filter(|service| service.running_tasks() > 0);
        return Some(running.map(|service| (service.name.clone(), BTreeSet::new())).collect());
    }
    let mut services = RunningServices::new();
    for container in docker.project_containers(project).ok()?.iter().filter(|c| c.is_running()) {
        if let Some((_, service)) = container.compose() {
            services.entry(service.into()).or_default().insert(container.image_id.clone());
        }
    }
    Some(services)
}

/// Explanation of the marks.
fn state_line(history: &HistoryReport, running: Option<&RunningServices>) -> &'static str {
    match running {
        None => "the engine does not answer, so `*` marks what served last",
        Some(_) if history.releases.iter().any(|release| release.serving) => "* serves now",
        Some(_) => "none of these releases serves now",
    }
}

/// Services that a release deployed last, and that still run with its image.
fn serves(record: &ReleaseRecord, journal: &Journal, running: Option<&RunningServices>) -> Vec<String> {
    let is_last = |service: &&String| {
        let mut newer = journal.history.newest_first().filter(|r| r.is_good());
        newer.find(|r| r.deployed.contains(service)).is_some_and(|r| r.number == record.number)
    };
    let runs = |service: &&String| {
        let Some(running) = running else { return true };
        let recorded = record.services.get(*service).map_or("", |s| s.image_id.as_str());
        running.get(*service).is_some_and(|images| images.is_empty() || images.contains(recorded))
    };
    let is_certain = record.is_good() && journal.unrestored_release().is_none();
    record.deployed.iter().filter(|s| is_certain && is_last(s) && runs(s)).cloned().collect()
}

fn summarise(journal: &Journal, running: Option<&RunningServices>) -> HistoryReport {
    let readable = journal.history.newest_first().map(|r| (r.number, row(r, journal, running)));
    let damaged = journal.history.unreadable_records().map(|(number, _)| {
        let result = "unreadable".to_string();
        (number, ReleaseRow { release: number, result, ..ReleaseRow::default() })
    });
    let by_number: BTreeMap<u32, ReleaseRow> = readable.chain(damaged).collect();
    HistoryReport {
        releases: by_number.into_values().rev().collect(),
        rollback_to: selection::default_release(journal),
        ..HistoryReport::new(&journal.project)
    }
}

fn row(record: &ReleaseRecord, journal: &Journal, running: Option<&RunningServices>) -> ReleaseRow {
    let result = match (record.outcome, record.kind) {
        (RolloutOutcome::Deployed, RolloutKind::Rollback { to }) => format!("rolled back to {to}"),
        (RolloutOutcome::Deployed, RolloutKind::Imported) => "imported".into(),
        (outcome, _) => outcome.to_string(),
    };
    let service = |name: &String| DeployedService {
        service: name.clone(),
        image: record.services.get(name).map(|p| p.image.clone()).unwrap_or_default(),
    };
    let serves = serves(record, journal, running);
    ReleaseRow {
        release: record.number,
        result,
        good: record.is_good(),
        reason: record.reason.clone(),
        serving: !serves.is_empty(),
        serves,
        kept: record.is_good() && journal.config_path(record.number).exists(),
        started: Some(record.started.clone()),
        seconds: Some((record.seconds * 1000.0).round() / 1000.0),
        services: record.deployed.iter().map(service).collect(),
        revision: record.git.as_ref().map(|git| git.revision.clone()),
        dirty: record.git.as_ref().is_some_and(|git| git.dirty),
        user: Some(record.by.clone()),
        command: Some(record.command.clone()),
        cut_off: record.cut,
        witness: record.witness.as_ref().map(|w| w.count),
    }
}

/// HTML page of a recorded rollout.
fn timeline_page(journal: &Journal, number: u32) -> Result<String, Error> {
    let missing = || {
        let with_events = journal.history.newest_first().map(|r| r.number).filter(|n| journal.has_events(*n));
        let with_events: Vec<String> = with_events.map(|n| n.to_string()).collect();
        let error = Error::usage(format!("release {number} has no recorded events"));
        if with_events.is_empty() {
            error.hint("only a rollout by compose-zd 0.1.0 or later records its events")
        } else {
            error.hint(format!("releases with events: {}", with_events.join(", ")))
        }
    };
    let text = journal.events(number)?.ok_or_else(missing)?;
    Ok(timeline::page(&record::read(&text)))
}
