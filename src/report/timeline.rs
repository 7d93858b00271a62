//! The picture of a rollout: one HTML page with nothing from elsewhere and no script. A bar for each instance, what the
//! witness saw beneath, and the same in words. Pure: events in, page out.

mod axis;
mod page;
mod svg;

use std::time::Duration;

use super::event::Event;
use super::record::EventRecord;
use super::timeline_model::{InstancePhase, InstanceTrack, InstanceTracks};
use crate::witness::Sample;

pub use page::page;

/// An instant that matters for all instances.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Marker {
    at: Duration,
    what: &'static str,
}

/// A request of the witness.
#[derive(Debug, Clone, PartialEq)]
struct SampleDot {
    at: Duration,
    took: Duration,
    /// What became of it, where it was lost.
    lost: Option<String>,
}

impl From<&Sample> for SampleDot {
    fn from(sample: &Sample) -> SampleDot {
        let lost = sample.lost.then(|| sample.outcome.to_string());
        SampleDot { at: sample.at, took: sample.took, lost }
    }
}

/// What a picture tells.
#[derive(Debug, Clone, Default, PartialEq)]
struct Timeline {
    title: String,
    /// What came of it, a line each.
    results: Vec<String>,
    /// It did not end as was hoped.
    failed: bool,
    /// The witness lost requests, or requests were cut off.
    lossy: bool,
    started: String,
    end: Duration,
    tracks: Vec<InstanceTrack>,
    marks: Vec<Marker>,
    dots: Vec<SampleDot>,
    /// What the witness says of itself.
    witness: Vec<String>,
    warnings: Vec<String>,
}

impl Timeline {
    /// From what happened, in order.
    fn of(entries: &[EventRecord]) -> Timeline {
        let mut timeline = Timeline::default();
        let mut tracks = InstanceTracks::default();
        let mut targets = Vec::new();
        for EventRecord { at, event, .. } in entries {
            tracks.apply(*at, event);
            if let Event::Deploying { target: name, .. } | Event::DeployingStack { stack: name, .. } = event {
                targets.push(name.clone());
            }
            timeline.apply(*at, event);
        }
        timeline.title = match targets.is_empty() {
            true => "nothing was deployed".into(),
            false => targets.join(", "),
        };
        timeline.started = entries.first().map(|e| e.time.clone()).unwrap_or_default();
        timeline.end = entries.last().map_or(Duration::ZERO, |e| e.at);
        // Instances first that came, then those that went: as the board has them.
        let (new, old): (Vec<_>, Vec<_>) = tracks.iter().cloned().partition(|t| t.new);
        timeline.tracks.extend(new.into_iter().chain(old));
        timeline
    }

    fn apply(&mut self, at: Duration, event: &Event) {
        match event {
            Event::Routed { .. } => self.marks.push(Marker { at, what: "switch" }),
            Event::RollingBack => self.marks.push(Marker { at, what: "going back" }),
            Event::Interrupted => self.marks.push(Marker { at, what: "interrupted" }),
            Event::Paused => self.marks.push(Marker { at, what: "pause" }),
            Event::TaskRunning { name, .. } => self.task(at, name, InstancePhase::InRotation),
            Event::Exited { names } => names.iter().for_each(|name| self.died(at, name)),
            Event::Witness(seen) => {
                self.lossy |= seen.summary.lost > 0;
                self.witness.push(event.to_string());
                self.dots.extend(seen.samples.iter().map(SampleDot::from));
            }
            Event::Deployed { .. } => self.results.push(event.to_string()),
            Event::Warning { kind, message: text } => {
                self.lossy |= kind == "drain_timeout";
                self.warnings.push(text.clone());
            }
            Event::Error { message, .. } => {
                self.failed = true;
                self.results.push(message.clone());
            }
            _ => {}
        }
    }

    /// Instances are not among these tracks yet, tasks of a Swarm are.
    fn died(&mut self, at: Duration, name: &str) {
        if self.tracks.iter().any(|t| t.name == name) {
            self.task(at, name, InstancePhase::Failed);
        }
    }

    /// A task of a Swarm, of which it is only known when it came to run and when it died. The next one has its name.
    fn task(&mut self, at: Duration, name: &str, phase: InstancePhase) {
        match self.tracks.iter_mut().find(|t| t.name == name) {
            Some(track) if track.phase() == phase => {}
            Some(track) => track.spans.push((at, phase)),
            None => {
                self.tracks.push(InstanceTrack { name: name.into(), new: true, spans: vec![(at, phase)] })
            }
        }
    }
}

/// Each phase of an instance with its beginning and its end.
fn spans(track: &InstanceTrack, end: Duration) -> Vec<(Duration, Duration, InstancePhase)> {
    let ends = track.spans.iter().skip(1).map(|(at, _)| *at).chain([end.max(track.since())]);
    track.spans.iter().zip(ends).map(|((from, phase), to)| (*from, to, *phase)).collect()
}

#[cfg(test)]
mod tests;
