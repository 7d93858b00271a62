//! Contents of the live display: a line for the whole deploy, and one for each instance, as `docker service update`
//! shows its tasks. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use console::Style;

use super::event::{Event, StepEvent};
use super::messages::in_seconds;
use super::probes::LossCount;
use super::text::fit;
use super::timeline_model::InstancePhase::{self, *};
use super::timeline_model::{InstanceTrack, InstanceTracks};

/// Cells of a bar, without its brackets.
const BAR_WIDTH: usize = 10;
/// Narrower terminals have no bars.
const BAR_MIN_WIDTH: usize = 60;
/// Narrower terminals have no arrows to the next phase.
const ARROW_MIN_WIDTH: usize = 36;

/// A line with its colour; `NO_COLOR` switches colours off.
pub type ProgressLine = (Style, String);

/// An instance with its position among the old instances or the new ones, and their count.
type NumberedTrack<'t> = (usize, usize, &'t InstanceTrack);

fn plain() -> Style {
    Style::new().for_stderr()
}

/// State of the display.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    targets: Vec<String>,
    tracks: InstanceTracks,
    step: Option<StepEvent>,
    rolling_back: bool,
    started: Option<Duration>,
    /// Shown until the first target is reported.
    pub is_preparing: bool,
    /// Requests of the witness.
    pub witness: Option<LossCount>,
}

impl Progress {
    /// Adds an event with its time since the start.
    pub fn apply(&mut self, at: Duration, event: &Event) {
        self.tracks.apply(at, event);
        match event {
            Event::Deploying { target, .. } => self.begin(at, target),
            Event::DeployingStack { stack, .. } => self.begin(at, stack),
            Event::Step(step) => self.step = Some(step.clone()),
            Event::RollingBack | Event::SwarmRollback(_) => self.rolling_back = true,
            _ => {}
        }
    }

    fn begin(&mut self, at: Duration, target: &str) {
        self.started.get_or_insert(at);
        self.is_preparing = false;
        self.targets.push(target.into());
    }

    /// A target was reported, so that the display has contents.
    pub fn has_begun(&self) -> bool {
        self.started.is_some()
    }

    /// The display has something to show.
    pub fn has_contents(&self) -> bool {
        self.has_begun() || self.is_preparing
    }

    /// At most `height` lines of at most `width` columns.
    pub fn lines(&self, now: Duration, width: usize, height: usize) -> Vec<ProgressLine> {
        let mut lines = vec![self.head(now, width)];
        let witness = self.witness_line();
        let tasks = self.tracks.tasks().iter();
        let tasks: Vec<ProgressLine> =
            tasks.map(|(name, (running, desired))| task_line(name, *running, *desired, width)).collect();
        let free_lines = height.saturating_sub(1 + usize::from(witness.is_some()));
        lines.extend(self.instances(now, width, free_lines.saturating_sub(tasks.len())));
        lines.extend(tasks.into_iter().take(free_lines));
        lines.extend(witness);
        lines.into_iter().map(|(style, text)| (style, fit(&text, width))).collect()
    }

    fn head(&self, now: Duration, width: usize) -> ProgressLine {
        if !self.has_begun() {
            return (plain().dim(), format!("reading the project  {}", in_seconds(now)));
        }
        let activity = if self.rolling_back { "rolling back" } else { "deploying" };
        let took = in_seconds(now.saturating_sub(self.started.unwrap_or(now)));
        let style = if self.rolling_back { plain().yellow() } else { plain() };
        let names = self.targets.join(", ");
        let Some(step) = &self.step else {
            return (style, format!("{activity} {names}  {took}"));
        };
        let (number, steps, batch, doing) = (step.number, step.steps, step.batch_text(), step.activity());
        let text = match width {
            BAR_MIN_WIDTH.. => {
                let bar = bar(number.saturating_sub(1), steps);
                format!("{activity} {names}  {bar}  {number} of {steps}{batch}: {doing}  {took}")
            }
            _ => format!("{number}/{steps}{batch} {doing}  {took}"),
        };
        (style, text)
    }

    /// One line for each instance, and one for the last answer of an instance that is not ready. If not all instances
    /// fit, active ones come first, and a last line counts the others.
    fn instances(&self, now: Duration, width: usize, free_lines: usize) -> Vec<ProgressLine> {
        let mut all = self.numbered_tracks();
        let name_width = all.iter().map(|(.., t)| t.name.chars().count()).max().unwrap_or(0);
        let line = |(n, of, track): &NumberedTrack| instance_line((*n, *of), track, now, width, name_width);
        if all.len() <= free_lines {
            let room = free_lines - all.len();
            let answers = all.iter().filter_map(|(.., track)| answer_line(track)).take(room);
            return all.iter().map(line).chain(answers).collect();
        }
        all.sort_by_key(|(.., track)| is_at_rest(track));
        let (shown, hidden) = all.split_at(free_lines.saturating_sub(1));
        let rest = (free_lines > 0).then(|| (plain().dim(), hidden_summary(hidden)));
        shown.iter().map(line).chain(rest).collect()
    }

    /// New instances, then old ones.
    fn numbered_tracks(&self) -> Vec<NumberedTrack<'_>> {
        let of_kind = |new: bool| self.tracks.iter().filter(move |t| t.new == new);
        let numbered = |new: bool| {
            let count = of_kind(new).count();
            of_kind(new).zip(1..).map(move |(track, n)| (n, count, track))
        };
        numbered(true).chain(numbered(false)).collect()
    }

    fn witness_line(&self) -> Option<ProgressLine> {
        let LossCount { sent, lost } = self.witness.filter(|count| count.sent > 0)?;
        let style = if lost > 0 { plain().red() } else { plain().green() };
        Some((style, format!("witness: {sent} sent, {lost} lost")))
    }
}

/// The display shows this kind of event, so that no line is needed.
pub fn is_displayed(event: &Event) -> bool {
    matches!(
        event,
        Event::Deploying { .. }
            | Event::Step(_)
            | Event::Created(_)
            | Event::Started(_)
            | Event::Ready(_)
            | Event::NotReady(_)
            | Event::Routed { .. }
            | Event::Holding(_)
            | Event::Draining(_)
            | Event::Drained(_)
            | Event::Stopped(_)
            | Event::Removed(_)
            | Event::Delayed { .. }
            | Event::Monitoring { .. }
            | Event::Failed(_)
            | Event::TaskRunning { .. }
    )
}

/// `  app-3: GET http://172.18.0.4:3000/up → 503`
fn answer_line(track: &InstanceTrack) -> Option<ProgressLine> {
    let answer = track.answer.as_ref()?;
    Some((plain().yellow(), format!("  {}: {answer}", track.name)))
}

/// `new 1/2 app-3  ready → in rotation  [=======>  ]  2.1s`
fn instance_line(
    (n, of): (usize, usize),
    track: &InstanceTrack,
    now: Duration,
    width: usize,
    name_width: usize,
) -> ProgressLine {
    let (done, all) = completed_phases(track);
    let phases = match next_phase(track).filter(|_| width >= ARROW_MIN_WIDTH) {
        Some(next) => format!("{} → {next}", track.phase()),
        None => track.phase().to_string(),
    };
    let digits = of.to_string().len();
    let kind = if track.new { "new" } else { "old" };
    let position = format!("{kind} {n:>digits$}/{of} {:<name_width$}", track.name);
    let took = in_seconds(now.saturating_sub(track.since()));
    let took = if is_at_rest(track) { String::new() } else { format!("  {took}") };
    let text = match width {
        // An instance without a change has no progress yet.
        BAR_MIN_WIDTH.. if done > 0 => format!("{position}  {phases:<23} {}{took}", bar(done, all)),
        _ => format!("{position}  {phases}{took}"),
    };
    (style_of(track), text)
}

fn style_of(track: &InstanceTrack) -> Style {
    match (track.new, track.phase()) {
        (true, InRotation) => plain().green(),
        (false, InRotation) => plain(),
        (_, Failed) => plain().red(),
        (_, Stopped | Removed) => plain().dim(),
        _ => plain().cyan(),
    }
}

fn task_line(service: &str, running: usize, desired: usize, width: usize) -> ProgressLine {
    let style = if running >= desired { plain().green() } else { plain().cyan() };
    match width {
        BAR_MIN_WIDTH.. => (style, format!("{running}/{desired} {service}  {}", bar(running, desired))),
        _ => (style, format!("{running}/{desired} {service}")),
    }
}

/// Phases of a new instance, which enters rotation.
const NEW: [InstancePhase; 5] = [OutOfRotation, Created, Starting, Ready, InRotation];
/// Phases of an old instance, which is removed.
const OLD: [InstancePhase; 4] = [InRotation, Draining, Stopped, Removed];

/// Completed and total phases of an instance.
fn completed_phases(track: &InstanceTrack) -> (usize, usize) {
    let phases: &[InstancePhase] = if track.new { &NEW } else { &OLD };
    (phases.iter().position(|p| *p == track.phase()).unwrap_or(0), phases.len() - 1)
}

fn next_phase(track: &InstanceTrack) -> Option<InstancePhase> {
    match track.phase() {
        Created => Some(Starting),
        Starting => Some(Ready),
        Ready => Some(InRotation),
        Draining | Failed => Some(Stopped),
        Stopped if !track.new => Some(Removed),
        _ => None,
    }
}

/// The instance is not about to change.
fn is_at_rest(track: &InstanceTrack) -> bool {
    next_phase(track).is_none() || track.phase() == Stopped
}

/// `[====>     ]`
fn bar(done: usize, all: usize) -> String {
    let full = (done * BAR_WIDTH).checked_div(all).unwrap_or(0).min(BAR_WIDTH);
    let head = if full < BAR_WIDTH { ">" } else { "" };
    format!("[{:<BAR_WIDTH$}]", format!("{}{head}", "=".repeat(full)))
}

/// `… and 24 more: 20 in rotation, 4 removed`
fn hidden_summary(hidden: &[NumberedTrack]) -> String {
    let mut counts = BTreeMap::new();
    hidden.iter().for_each(|(.., track)| *counts.entry(track.phase()).or_insert(0) += 1);
    let parts: Vec<String> = counts.iter().map(|(phase, n)| format!("{n} {phase}")).collect();
    format!("… and {} more: {}", hidden.len(), parts.join(", "))
}

#[cfg(test)]
mod tests;
