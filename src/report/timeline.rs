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
    title: String,
    /// Results, one line each.
    results: Vec<String>,
    /// The run ended with an error.
    failed: bool,
    /// The witness lost requests, or the drain timeout cut requests off.
    lossy: bool,
    started: String,
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
        let mut timeline = Timeline::default();
        let mut tracks = InstanceTracks::default();
        let mut targets = Vec::new();
        for EventRecord { at, event, .. } in records {
            tracks.apply(*at, event);
            if let Event::Deploying { target: name, .. } | Event::DeployingStack { stack: name, .. } = event {
                targets.push(name.clone());
            }
            timeline.apply(*at, event);
        }
        timeline.title = if targets.is_empty() { "nothing was deployed".into() } else { targets.join(", ") };
        timeline.started = records.first().map(|r| r.time.clone()).unwrap_or_default();
        timeline.end = records.last().map_or(Duration::ZERO, |r| r.at);
        // New instances come first, as in the live display.
        let (new, old): (Vec<_>, Vec<_>) = tracks.iter().cloned().partition(|t| t.new);
        timeline.tracks.extend(new.into_iter().chain(old));
        timeline
    }

    fn apply(&mut self, at: Duration, event: &Event) {
        match event {
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
                self.samples.extend(report.samples.iter().cloned());
            }
            Event::Deployed { .. } => self.results.push(event.to_string()),
            Event::Warning { kind, message } => {
                self.lossy |= kind == "drain_timeout";
                self.warnings.push(message.clone());
            }
            Event::Error { message, .. } => {
                self.failed = true;
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
            None => self.tracks.push(InstanceTrack::new(name, true, at, phase)),
        }
    }
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
