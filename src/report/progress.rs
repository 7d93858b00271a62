//! What a terminal shows while a deploy runs: a line for the whole, and one for each instance, as `docker service update`
//! shows its tasks. Pure: what happened, the time and the size of the terminal go in, lines come out.

use std::time::Duration;

use super::event::{Event, StepEvent};
use super::messages::seconds;
use super::text::fit;
use super::timeline_model::{InstancePhase, InstanceTrack, InstanceTracks};

/// Cells of a bar, its brackets not counted.
const BAR: usize = 10;
/// Narrower terminals get no bars.
const WIDE: usize = 60;
/// Narrower ones get no arrows to what comes next.
const NARROW: usize = 36;

/// What a line is about, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineStyle {
    Plain,
    Good,
    Moving,
    Back,
    Gone,
    Bad,
}

pub type ProgressLine = (LineStyle, String);

/// Everything that is shown.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    targets: Vec<String>,
    tracks: InstanceTracks,
    step: Option<StepEvent>,
    back: bool,
    started: Option<Duration>,
    /// Requests of the witness: sent and lost.
    witness: Option<(usize, usize)>,
}

impl Progress {
    /// Takes in an event that happened at this time since the start.
    pub fn apply(&mut self, at: Duration, event: &Event) {
        self.tracks.apply(at, event);
        match event {
            Event::Deploying { target, .. } => self.begin(at, target),
            Event::DeployingStack { stack, .. } => self.begin(at, stack),
            Event::Step(note) => self.step = Some(note.clone()),
            Event::RollingBack | Event::SwarmRollback { .. } => self.back = true,
            _ => {}
        }
    }

    fn begin(&mut self, at: Duration, target: &str) {
        self.started.get_or_insert(at);
        self.targets.push(target.into());
    }

    /// There is something to show.
    pub fn has_begun(&self) -> bool {
        self.started.is_some()
    }

    /// No more than `height` lines, none wider than `width`.
    pub fn lines(&self, now: Duration, width: usize, height: usize) -> Vec<ProgressLine> {
        let mut lines = vec![self.head(now, width)];
        let witness = self.witness_line();
        let tasks = self.tracks.tasks().iter();
        let tasks: Vec<ProgressLine> =
            tasks.map(|(name, (runs, all))| task_line(name, *runs, *all, width)).collect();
        let room = height.saturating_sub(1 + usize::from(witness.is_some()));
        lines.extend(self.instances(now, width, room.saturating_sub(tasks.len())));
        lines.extend(tasks.into_iter().take(room));
        lines.extend(witness);
        lines.into_iter().map(|(tone, text)| (tone, fit(&text, width))).collect()
    }

    fn head(&self, now: Duration, width: usize) -> ProgressLine {
        let what = if self.back { "going back" } else { "deploying" };
        let took = seconds(now.saturating_sub(self.started.unwrap_or(now)));
        let tone = if self.back { LineStyle::Back } else { LineStyle::Plain };
        let names = self.targets.join(", ");
        let Some(step) = &self.step else {
            return (tone, format!("{what} {names}  {took}"));
        };
        let batch = match step.batches {
            0 | 1 => String::new(),
            all => format!(", batch {} of {all}", step.batch),
        };
        let text = match width {
            WIDE.. => {
                let bar = bar(step.number.saturating_sub(1), step.steps);
                format!(
                    "{what} {names}  {bar}  {} of {}{batch}: {}  {took}",
                    step.number,
                    step.steps,
                    step.doing()
                )
            }
            _ => format!("{}/{}{batch} {}  {took}", step.number, step.steps, step.doing()),
        };
        (tone, text)
    }

    /// A line each; where there is no room for all, those at work come first, and the rest is counted.
    fn instances(&self, now: Duration, width: usize, room: usize) -> Vec<ProgressLine> {
        let all: Vec<(usize, usize, &InstanceTrack)> = self.numbered();
        let named = all.iter().map(|(.., t)| t.name.chars().count()).max().unwrap_or(0);
        let line = |(n, of, track): &(usize, usize, &InstanceTrack)| {
            instance_line((*n, *of), track, now, width, named)
        };
        if all.len() <= room {
            return all.iter().map(line).collect();
        }
        let mut urgent: Vec<_> = all.iter().collect();
        urgent.sort_by_key(|(.., track)| is_at_rest(track));
        let shown = room.saturating_sub(1);
        let mut lines: Vec<ProgressLine> = urgent.iter().take(shown).map(|one| line(one)).collect();
        lines.extend((room > 0).then(|| (LineStyle::Gone, rest(&urgent[shown.min(urgent.len())..]))));
        lines
    }

    /// Each instance with its place among those of its release.
    fn numbered(&self) -> Vec<(usize, usize, &InstanceTrack)> {
        let of = |new: bool| self.tracks.iter().filter(|t| t.new == new).count();
        let (mut old, mut new) = (0, 0);
        let place = |track: &'_ InstanceTrack| {
            let count = if track.new { &mut new } else { &mut old };
            *count += 1;
            *count
        };
        let places: Vec<usize> = self.tracks.iter().map(place).collect();
        let mut all: Vec<_> = self.tracks.iter().zip(places).map(|(t, n)| (n, of(t.new), t)).collect();
        all.sort_by_key(|(n, _, t)| (!t.new, *n));
        all
    }

    fn witness_line(&self) -> Option<ProgressLine> {
        let (sent, lost) = self.witness?;
        let tone = if lost > 0 { LineStyle::Bad } else { LineStyle::Good };
        Some((tone, format!("witness: {sent} sent, {lost} lost")))
    }

    /// What the witness has counted so far.
    pub fn witnessed(&mut self, sent: usize, lost: usize) {
        self.witness = Some((sent, lost));
    }
}

/// Whether an event is on the board, so that no line has to tell it.
pub fn shows(event: &Event) -> bool {
    matches!(
        event,
        Event::Deploying { .. }
            | Event::Step(_)
            | Event::Created { .. }
            | Event::Started { .. }
            | Event::Ready { .. }
            | Event::Routed { .. }
            | Event::Draining { .. }
            | Event::Drained { .. }
            | Event::Stopped { .. }
            | Event::Removed { .. }
            | Event::Delayed { .. }
            | Event::Monitoring { .. }
            | Event::Failed { .. }
            | Event::TaskRunning { .. }
    )
}

/// `1/2 app-3  ready → in rotation  [=======>  ]  2.1s`
fn instance_line(
    (n, of): (usize, usize),
    track: &InstanceTrack,
    now: Duration,
    width: usize,
    named: usize,
) -> ProgressLine {
    let (done, all) = progress(track);
    let what = match next(track).filter(|_| width >= NARROW) {
        Some(next) => format!("{} → {}", track.phase().words(), next.words()),
        None => track.phase().words().to_string(),
    };
    let digits = of.to_string().len();
    let place = format!("{n:>digits$}/{of} {:<named$}", track.name);
    let took = seconds(now.saturating_sub(track.since()));
    let took = if is_at_rest(track) { String::new() } else { format!("  {took}") };
    let text = match width {
        // One that has not been touched is on no way yet.
        WIDE.. if done > 0 => format!("{place}  {what:<23} {}{took}", bar(done, all)),
        _ => format!("{place}  {what}{took}"),
    };
    (tone(track), text)
}

fn tone(track: &InstanceTrack) -> LineStyle {
    match (track.new, track.phase()) {
        (true, InstancePhase::InRotation) => LineStyle::Good,
        (false, InstancePhase::InRotation) => LineStyle::Plain,
        (_, InstancePhase::Failed) => LineStyle::Bad,
        (_, InstancePhase::Stopped | InstancePhase::Removed) => LineStyle::Gone,
        _ => LineStyle::Moving,
    }
}

fn task_line(service: &str, runs: usize, wanted: usize, width: usize) -> ProgressLine {
    let tone = if runs >= wanted { LineStyle::Good } else { LineStyle::Moving };
    match width {
        WIDE.. => (tone, format!("{runs}/{wanted} {service}  {}", bar(runs, wanted))),
        _ => (tone, format!("{runs}/{wanted} {service}")),
    }
}

/// How far an instance is on its way: a new one into rotation, an old one away.
fn progress(track: &InstanceTrack) -> (usize, usize) {
    let steps = |way: &[InstancePhase]| way.iter().position(|p| *p == track.phase()).unwrap_or(0);
    match track.new {
        true => (
            steps(&[
                InstancePhase::Aside,
                InstancePhase::Created,
                InstancePhase::Starting,
                InstancePhase::Ready,
                InstancePhase::InRotation,
            ]),
            4,
        ),
        false => (
            steps(&[
                InstancePhase::InRotation,
                InstancePhase::Draining,
                InstancePhase::Stopped,
                InstancePhase::Removed,
            ]),
            3,
        ),
    }
}

fn next(track: &InstanceTrack) -> Option<InstancePhase> {
    match track.phase() {
        InstancePhase::Created => Some(InstancePhase::Starting),
        InstancePhase::Starting => Some(InstancePhase::Ready),
        InstancePhase::Ready => Some(InstancePhase::InRotation),
        InstancePhase::Draining | InstancePhase::Failed => Some(InstancePhase::Stopped),
        InstancePhase::Stopped if !track.new => Some(InstancePhase::Removed),
        _ => None,
    }
}

/// Nothing is waited for.
fn is_at_rest(track: &InstanceTrack) -> bool {
    next(track).is_none() || track.phase() == InstancePhase::Stopped
}

/// `[====>     ]`
fn bar(done: usize, all: usize) -> String {
    let full = (done * BAR).checked_div(all).unwrap_or(0).min(BAR);
    let head = if full < BAR { ">" } else { "" };
    format!("[{:<BAR$}]", format!("{}{head}", "=".repeat(full)))
}

/// `… and 24 more: 20 in rotation, 4 removed`
fn rest(hidden: &[&(usize, usize, &InstanceTrack)]) -> String {
    let mut counts: Vec<(InstancePhase, usize)> = Vec::new();
    for (.., track) in hidden {
        match counts.iter_mut().find(|(phase, _)| *phase == track.phase()) {
            Some((_, count)) => *count += 1,
            None => counts.push((track.phase(), 1)),
        }
    }
    let parts: Vec<String> = counts.iter().map(|(phase, n)| format!("{n} {}", phase.words())).collect();
    format!("… and {} more: {}", hidden.len(), parts.join(", "))
}

#[cfg(test)]
mod tests;
