//! The timeline of a rollout: one HTML page without scripts and external resources. It has a bar for each instance, the
//! requests of the witness below, and the same as a table. Pure.

mod chart;
mod page;

use std::time::Duration;

use super::event::{Event, Names};
use super::probes::Sample;
use super::record::EventRecord;
use super::text::printable;
use super::timeline_model::{InstancePhase, InstanceTrack, InstanceTracks};

pub use page::page;

/// A point in time that concerns all instances.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Marker {
    at: Duration,
    label: &'static str,
}

/// Contents of the page.
#[derive(Debug, Clone, Default, PartialEq)]
struct Timeline {
    /// Project and targets.
    title: String,
    /// Images before and after, one line for each service.
    images: Vec<String>,
    /// `user@host` of the run.
    by: String,
    /// Results, one line each.
    results: Vec<String>,
    /// The run ended with an error.
    failed: bool,
    /// Log lines and answers of a failure.
    details: Vec<String>,
    hint: Option<String>,
    /// The witness lost requests, or the drain timeout cut requests off.
    lossy: bool,
    started: String,
    /// Time of the run before the rollout, which the chart leaves out.
    preparation: Duration,
    end: Duration,
    tracks: Vec<InstanceTrack>,
    markers: Vec<Marker>,
    samples: Vec<Sample>,
    /// Results of the witness, one line for each URL.
    witness: Vec<String>,
    warnings: Vec<String>,
}

impl Timeline {
    fn from_records(records: &[EventRecord]) -> Timeline {
        let begins = |r: &&EventRecord| {
            matches!(r.event, Event::Deploying { .. } | Event::DeployingStack { .. } | Event::Images { .. })
        };
        let preparation = records.iter().find(begins).map_or(Duration::ZERO, |r| r.at);
        let mut timeline = Timeline { preparation, ..Timeline::default() };
        let mut tracks = InstanceTracks::default();
        let (mut project, mut targets) = ("", Vec::new());
        for EventRecord { at, event, .. } in records {
            let at = at.saturating_sub(preparation);
            tracks.apply(at, event);
            match event {
                Event::Images { project: name, .. } => project = name,
                Event::Deploying { target: name, .. } => targets.push(name.as_str()),
                Event::DeployingStack { services, .. } => targets.extend(services.iter().map(String::as_str)),
                _ => {}
            }
            timeline.apply(at, event);
        }
        timeline.title = title(project, &targets);
        timeline.started = records.first().map(|r| day_and_time(&r.time)).unwrap_or_default();
        timeline.end = records.last().map_or(Duration::ZERO, |r| r.at.saturating_sub(preparation));
        // New instances come first, as in the live display.
        let (new, old): (Vec<_>, Vec<_>) = tracks.iter().cloned().partition(|t| t.new);
        timeline.tracks.extend(new.into_iter().chain(old));
        timeline
    }

    fn apply(&mut self, at: Duration, event: &Event) {
        match event {
            Event::Images { by, images, .. } => {
                self.by.clone_from(by);
                self.images.extend(images.iter().map(ToString::to_string));
            }
            Event::Routed { .. } => self.markers.push(Marker { at, label: "switch" }),
            Event::RollingBack => self.markers.push(Marker { at, label: "rollback" }),
            Event::Interrupted => self.markers.push(Marker { at, label: "interrupted" }),
            Event::Paused => self.markers.push(Marker { at, label: "pause" }),
            Event::TaskRunning { name, .. } => self.set_task_phase(at, name, InstancePhase::InRotation),
            Event::Exited(Names { names }) => names.iter().for_each(|name| self.task_exited(at, name)),
            Event::Witness(report) => {
                self.lossy |= report.summary.lost > 0;
                let details = report.summary.details();
                let details = if details.is_empty() { details } else { format!("; {details}") };
                self.witness.push(format!("{event}{details}"));
                let shifted = report.samples.iter().filter_map(|sample| {
                    Some(Sample { at: sample.at.checked_sub(self.preparation)?, ..sample.clone() })
                });
                self.samples.extend(shifted);
            }
            Event::Deployed { .. } => self.results.push(event.to_string()),
            Event::Warning { kind, message } => {
                self.lossy |= kind == "drain_timeout";
                self.warnings.push(message.clone());
            }
            Event::Error { message, details, hint, .. } => {
                self.failed = true;
                self.details.clone_from(details);
                self.hint.clone_from(hint);
                self.results.push(message.clone());
            }
            _ => {}
        }
    }

    /// Only tasks of a Swarm have a track here; those of instances are added at the end.
    fn task_exited(&mut self, at: Duration, name: &str) {
        if self.tracks.iter().any(|t| t.name == name) {
            self.set_task_phase(at, name, InstancePhase::Failed);
        }
    }

    /// Only start and exit of a Swarm task are known. Its successor has the same name.
    fn set_task_phase(&mut self, at: Duration, name: &str, phase: InstancePhase) {
        match self.tracks.iter_mut().find(|t| t.name == name) {
            Some(track) if track.phase() == phase => {}
            Some(track) => track.phases.push((at, phase)),
            None => {
                // Swarm starts all tasks of a batch at once, and reports each when it runs.
                let mut track = InstanceTrack::new(name, true, Duration::ZERO, InstancePhase::Starting);
                if at.is_zero() {
                    track.phases.clear();
                }
                track.phases.push((at, phase));
                self.tracks.push(track);
            }
        }
    }
}

/// `shop / app, web`
fn title(project: &str, targets: &[&str]) -> String {
    match (project, targets) {
        (_, []) => "nothing was deployed".into(),
        ("", targets) => targets.join(", "),
        (project, targets) => format!("{project} / {}", targets.join(", ")),
    }
}

/// `30 November 2026, 17:34 UTC` of a time in RFC 3339; another text as it is.
fn day_and_time(time: &str) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let parse = || {
        let (date, clock) = time.split_once('T')?;
        let [year, month, day] = date.split('-').collect::<Vec<_>>().try_into().ok()?;
        let month = MONTHS.get(month.parse::<usize>().ok()?.checked_sub(1)?)?;
        Some(format!("{} {month} {year}, {} UTC", day.trim_start_matches('0'), clock.get(..5)?))
    };
    parse().unwrap_or_else(|| time.into())
}

/// Each phase of an instance with its start and its end.
fn spans(track: &InstanceTrack, end: Duration) -> Vec<(Duration, Duration, InstancePhase)> {
    let ends = track.phases.iter().skip(1).map(|(at, _)| *at).chain([end.max(track.since())]);
    track.phases.iter().zip(ends).map(|((from, phase), to)| (*from, to, *phase)).collect()
}

/// Foreign text without markup and without invisible characters.
fn escape(text: &str) -> String {
    let entity = |c: char| match c {
        '&' | '<' | '>' | '"' | '\'' => format!("&#{};", c as u32),
        c => c.into(),
    };
    printable(text).chars().map(entity).collect()
}

#[cfg(test)]
mod tests;
