//! Is it ready? Asked at our own pace, never slept for: over HTTP, or by the healthcheck's own command.

mod exec_probe;
pub mod monitor;
mod probe;
mod prober;

use std::time::{Duration, Instant};

use anyhow::Result;

pub use probe::{ProbeTarget, ReadinessProbe, choose};
pub use prober::{NoProbeTool, ProbeResult, Prober};

use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::error::Error;
use crate::model::ProbeTiming;
use crate::wait::{self, StopSignal, WaitResult};

/// The longest line of others that a message shows, in characters.
const LINE: usize = 500;

/// Age at which an unchanged bad answer is reported; most new instances get ready before.
const STANDS: Duration = Duration::from_secs(2);

/// How many last lines of an instance that failed are shown.
const LOG_LINES: u32 = 10;

fn shortened(line: &str) -> String {
    match line.char_indices().nth(LINE) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line.into(),
    }
}

/// A new instance that has to get ready.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub name: String,
    pub id: String,
    pub probe: ReadinessProbe,
}

/// What is known of a candidate while it is waited for.
#[derive(Default)]
struct ReadinessProgress {
    good: u32,
    asked: u32,
    last: String,
    /// Time since which the last answer has been the same.
    since: Option<Instant>,
    /// The gist of the bad answer that was reported last.
    reported: Option<String>,
    ended: bool,
}

/// Those that failed, and why; more may have, had they been waited for.
#[derive(Debug)]
pub struct ReadinessFailure {
    pub ids: Vec<String>,
    pub error: Error,
}

impl ReadinessFailure {
    fn of(id: &str, error: Error) -> ReadinessFailure {
        ReadinessFailure { ids: vec![id.into()], error }
    }

    /// Both in one: the first one's words, and what was seen of the other.
    fn add(all: &mut Option<ReadinessFailure>, other: ReadinessFailure) {
        let Some(first) = all else {
            *all = Some(other);
            return;
        };
        first.ids.extend(other.ids);
        first.error.details.push(other.error.message);
        first.error.details.extend(other.error.details);
    }
}

/// Waits until all are ready; `told` hears of each as it gets there, and of a bad answer that stands. Up to `tolerated`
/// may fail without ending the wait for the others.
///
/// An instance that exits, restarts or turns unhealthy fails at once; the deadline fails all that are not ready. What
/// failed is told with the last answers and the last log lines. `seen` are their containers where they were read just now.
///
/// # Errors
/// No engine; an interrupt; what `check` finds meanwhile.
pub fn wait_until_ready(
    docker: &Docker,
    (candidates, mut seen): (&[Candidate], Option<Vec<Container>>),
    pace: &ProbeTiming,
    tolerated: usize,
    (stop, check): (&StopSignal, &dyn Fn() -> Result<()>),
    told: impl Fn(&Candidate, &ProbeResult),
) -> Result<Option<ReadinessFailure>> {
    let asker = Prober::new(docker, pace.timeout)?;
    let mut progress: Vec<ReadinessProgress> =
        candidates.iter().map(|_| ReadinessProgress::default()).collect();
    let mut dead: Option<ReadinessFailure> = None;
    let waited = wait::until(pace.interval, pace.deadline, stop, || -> Result<Option<()>> {
        check()?;
        let open: Vec<usize> = (0..candidates.len()).filter(|n| progress[*n].is_open(pace)).collect();
        for (n, turn) in open.iter().zip(ask_all(&asker, candidates, &open, seen.take())?) {
            let (candidate, progress) = (&candidates[*n], &mut progress[*n]);
            match turn {
                InstanceCheck::Answered(answer) => {
                    let now = Instant::now();
                    if progress.record(&answer, now) == pace.successes || progress.stands(&answer, now) {
                        told(candidate, &answer);
                    }
                }
                InstanceCheck::Ended(end) => {
                    progress.ended = true;
                    ReadinessFailure::add(
                        &mut dead,
                        ReadinessFailure::of(&candidate.id, died(docker, candidate, &end)),
                    );
                }
            }
        }
        let too_many = dead.as_ref().is_some_and(|d| d.ids.len() > tolerated);
        Ok((too_many || !progress.iter().any(|p| p.is_open(pace))).then_some(()))
    })?;
    match waited {
        WaitResult::Done(()) => Ok(dead),
        WaitResult::Interrupted(signal) => Err(Error::interrupted(signal).into()),
        WaitResult::TimedOut => Ok(Some(too_late(docker, candidates, &progress, pace, dead))),
    }
}

impl ReadinessProgress {
    fn is_open(&self, pace: &ProbeTiming) -> bool {
        !self.ended && self.good < pace.successes
    }

    /// Takes an answer in, and tells how many in a row were good.
    fn record(&mut self, answer: &ProbeResult, now: Instant) -> u32 {
        self.asked += 1;
        if self.since.is_none() || gist(&self.last) != gist(&answer.text) {
            self.since = Some(now);
        }
        self.good = match answer.ready {
            true => self.good + 1,
            false => 0,
        };
        self.last = answer.text.clone();
        self.good
    }

    /// Whether a bad answer has stood long enough to be reported, once until another one stands.
    fn stands(&mut self, answer: &ProbeResult, now: Instant) -> bool {
        let is_old = self.since.is_some_and(|since| now.duration_since(since) >= STANDS);
        let gist = Some(gist(&answer.text));
        if answer.ready || !is_old || self.reported == gist {
            return false;
        }
        self.reported = gist;
        true
    }
}

/// An answer up to its code, and what follows without its numbers: many tools print how long they took.
fn gist(text: &str) -> String {
    let (asked, answered) = text.split_once('→').unwrap_or(("", text));
    let (code, rest) = answered.trim_start().split_once(' ').unwrap_or((answered, ""));
    let rest: String = rest.chars().filter(|c| !c.is_ascii_digit()).collect();
    format!("{asked}→ {} {rest}", code.trim())
}

/// What one look at an instance gave.
enum InstanceCheck {
    Answered(ProbeResult),
    Ended(InstanceEnd),
}

/// Looks at the containers of those that are open, and asks those that live side by side.
fn ask_all(
    asker: &Prober,
    candidates: &[Candidate],
    open: &[usize],
    seen: Option<Vec<Container>>,
) -> Result<Vec<InstanceCheck>> {
    let ids = || open.iter().map(|n| candidates[*n].id.clone()).collect::<Vec<_>>();
    let containers = seen.map_or_else(|| asker.docker.inspect(&ids()), Ok)?;
    let one = |n: &usize| {
        let candidate = &candidates[*n];
        let Some(container) = containers.iter().find(|c| c.id == candidate.id) else {
            return InstanceCheck::Ended(InstanceEnd::Other("it was removed".into()));
        };
        match ended(container, &candidate.probe) {
            Some(end) => InstanceCheck::Ended(end),
            None => match asker.probe(&candidate.probe, container) {
                Ok(answer) => InstanceCheck::Answered(answer),
                Err(unasked) => InstanceCheck::Ended(InstanceEnd::Unasked(unasked)),
            },
        }
    };
    Ok(std::thread::scope(|scope| {
        let threads: Vec<_> = open.iter().map(|n| scope.spawn(move || one(n))).collect();
        threads.into_iter().map(|t| t.join().expect("no panic in a probe")).collect()
    }))
}

/// How an instance ended before it was ready, if it did.
#[derive(Debug, Clone, PartialEq, Eq)]
enum InstanceEnd {
    Exited { code: i32, out_of_memory: bool },
    Restarted,
    Unhealthy,
    Unasked(NoProbeTool),
    Other(String),
}

fn ended(container: &Container, probe: &ReadinessProbe) -> Option<InstanceEnd> {
    let state = &container.state;
    let unhealthy = state.health.as_ref().is_some_and(|h| h.status == "unhealthy");
    match state.status.as_str() {
        "exited" | "dead" => {
            Some(InstanceEnd::Exited { code: state.exit_code, out_of_memory: state.oom_killed })
        }
        "paused" | "removing" => Some(InstanceEnd::Other(format!("it is {}", state.status))),
        _ if state.status == "restarting" || container.restart_count > 0 => Some(InstanceEnd::Restarted),
        _ if unhealthy && matches!(probe, ReadinessProbe::Check(_)) => Some(InstanceEnd::Unhealthy),
        _ => None,
    }
}

impl InstanceEnd {
    /// In words; `code` is the last exit code that the engine remembers.
    fn explain(&self, code: Option<i32>) -> String {
        match (self, code) {
            (InstanceEnd::Exited { code, out_of_memory: true }, _) => {
                format!("it exited with code {code}, out of memory")
            }
            (InstanceEnd::Exited { code, .. }, _) => format!("it exited with code {code}"),
            (InstanceEnd::Restarted, Some(code)) => format!("it exited with code {code} and was restarted"),
            (InstanceEnd::Restarted, None) => "it exited and was restarted".into(),
            (InstanceEnd::Unhealthy, _) => "its healthcheck failed for good".into(),
            (InstanceEnd::Unasked(_), _) => "nobody can ask it whether it is".into(),
            (InstanceEnd::Other(text), _) => text.clone(),
        }
    }
}

fn died(docker: &Docker, candidate: &Candidate, end: &InstanceEnd) -> Error {
    if let InstanceEnd::Unasked(NoProbeTool(lacks)) = end {
        return unasked(candidate, lacks);
    }
    let code = docker.last_exit_code(&candidate.id).ok().flatten();
    let error = Error::unchanged(format!("{} did not get ready: {}", candidate.name, end.explain(code)));
    with_logs(error, docker, candidate)
}

fn unasked(candidate: &Candidate, lacks: &[String]) -> Error {
    let error = Error::unchanged(format!("nobody can ask {} whether it is ready", candidate.name));
    lacks.iter().fold(error, |error, why| error.seen(why)).hint(
        "give the service a `healthcheck` whose command its image has, which is run in the instance, and leave \
         `x-zd.health` out; or put curl or wget into its image or into the proxy's",
    )
}

/// All that are not ready at the deadline, beside those that died before.
fn too_late(
    docker: &Docker,
    candidates: &[Candidate],
    progress: &[ReadinessProgress],
    pace: &ProbeTiming,
    dead: Option<ReadinessFailure>,
) -> ReadinessFailure {
    let late: Vec<_> = candidates.iter().zip(progress).filter(|(_, p)| p.is_open(pace)).collect();
    let mut error = Error::unchanged(format!(
        "{} of {} new instances {} not ready after {}",
        late.len(),
        candidates.len(),
        if late.len() == 1 { "is" } else { "are" },
        humantime::format_duration(pace.deadline)
    ));
    let ids = late.iter().map(|(candidate, _)| candidate.id.clone()).collect();
    for (candidate, progress) in late {
        error = error.seen(&format!("{}: {} ({} times)", candidate.name, progress.last, progress.asked));
        error = with_logs(error, docker, candidate);
    }
    let error = error.hint(
        "see what a new instance answers, or set another `x-zd.health` (`--health-path`, `--health-deadline`)",
    );
    let mut all = Some(ReadinessFailure { ids, error });
    dead.into_iter().for_each(|d| ReadinessFailure::add(&mut all, d));
    all.expect("those that are late")
}

fn with_logs(error: Error, docker: &Docker, candidate: &Candidate) -> Error {
    let lines = docker.logs(&candidate.id, LOG_LINES).unwrap_or_default();
    match lines.is_empty() {
        true => error.seen(&format!("{} printed nothing", candidate.name)),
        false => error
            .seen(&format!("last lines of {}:", candidate.name))
            .seen(&lines.iter().map(|l| format!("  {}\n", shortened(l))).collect::<String>()),
    }
}

#[cfg(test)]
mod tests;
