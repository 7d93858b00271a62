//! Readiness of new instances: probes at compose-zd's own interval, over HTTP or by the healthcheck's own command.

mod exec_probe;
pub mod monitor;
mod probe;
mod prober;

use std::time::{Duration, Instant};

use anyhow::Result;

pub use probe::{ProbeTarget, ReadinessProbe, choose_probe};
pub use prober::{NoProbeTool, ProbeResult, Prober};

use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::error::Error;
use crate::model::ProbeTiming;
use crate::wait::{self, StopSignal, WaitResult};

/// Longest line of another program's output in a message, in characters.
const MAX_LINE_LENGTH: usize = 500;

/// Time after which an unchanged bad answer is reported. Most new instances are ready earlier.
const REPORT_AFTER: Duration = Duration::from_secs(2);

/// Number of last log lines that are shown of a failed instance.
const LOG_LINES: u32 = 10;

fn shortened(line: &str) -> String {
    match line.char_indices().nth(MAX_LINE_LENGTH) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line.into(),
    }
}

/// New instance that has to become ready.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub name: String,
    pub id: String,
    pub probe: ReadinessProbe,
}

/// Probe results of a candidate so far.
#[derive(Default)]
struct ReadinessProgress {
    successes: u32,
    probes: u32,
    last_answer: String,
    /// Time of the first of the latest equal answers.
    same_since: Option<Instant>,
    /// Gist of the last reported bad answer.
    reported_gist: Option<String>,
    ended: bool,
}

/// Instances that failed, and the error. The list may be incomplete, because the wait ends early.
#[derive(Debug)]
pub struct ReadinessFailure {
    pub ids: Vec<String>,
    pub error: Error,
}

impl ReadinessFailure {
    fn new(id: &str, error: Error) -> ReadinessFailure {
        ReadinessFailure { ids: vec![id.into()], error }
    }

    /// Merges a further failure: keeps the message of the first and the details of both.
    fn merge(all: &mut Option<ReadinessFailure>, other: ReadinessFailure) {
        let Some(first) = all else {
            *all = Some(other);
            return;
        };
        first.ids.extend(other.ids);
        first.error.details.push(other.error.message);
        first.error.details.extend(other.error.details);
    }
}

/// Waits until all candidates are ready. Calls `report` for each ready candidate and for each lasting bad answer. The
/// wait continues while at most `tolerated` candidates have failed.
///
/// An instance that exits, restarts or becomes unhealthy fails at once. An instance that is not ready at the deadline
/// fails, too. The error has the last answers and the last log lines. `containers` are the candidates as just inspected;
/// `None` to inspect them.
///
/// # Errors
/// No engine; a signal; an error of `check`, which runs before every round of probes.
pub fn wait_until_ready(
    docker: &Docker,
    (candidates, mut containers): (&[Candidate], Option<Vec<Container>>),
    timing: &ProbeTiming,
    tolerated: usize,
    (stop, check): (&StopSignal, &dyn Fn() -> Result<()>),
    report: impl Fn(&Candidate, &ProbeResult),
) -> Result<Option<ReadinessFailure>> {
    let prober = Prober::new(docker, timing.timeout)?;
    let mut progress: Vec<ReadinessProgress> =
        candidates.iter().map(|_| ReadinessProgress::default()).collect();
    let mut failed: Option<ReadinessFailure> = None;
    let waited = wait::until(timing.interval, timing.deadline, stop, || -> Result<Option<()>> {
        check()?;
        let pending: Vec<usize> = (0..candidates.len()).filter(|n| progress[*n].is_pending(timing)).collect();
        for (n, check_result) in
            pending.iter().zip(probe_all(&prober, candidates, &pending, containers.take())?)
        {
            let (candidate, progress) = (&candidates[*n], &mut progress[*n]);
            match check_result {
                InstanceCheck::Probed(answer) => {
                    let now = Instant::now();
                    if progress.record(&answer, now) == timing.successes
                        || progress.should_report(&answer, now)
                    {
                        report(candidate, &answer);
                    }
                }
                InstanceCheck::Ended(end) => {
                    progress.ended = true;
                    ReadinessFailure::merge(
                        &mut failed,
                        ReadinessFailure::new(&candidate.id, failure_error(docker, candidate, &end)),
                    );
                }
            }
        }
        let too_many = failed.as_ref().is_some_and(|f| f.ids.len() > tolerated);
        Ok((too_many || !progress.iter().any(|p| p.is_pending(timing))).then_some(()))
    })?;
    match waited {
        WaitResult::Done(()) => Ok(failed),
        WaitResult::Interrupted(signal) => Err(Error::interrupted(signal).into()),
        WaitResult::TimedOut => Ok(Some(deadline_failure(docker, candidates, &progress, timing, failed))),
    }
}

impl ReadinessProgress {
    fn is_pending(&self, timing: &ProbeTiming) -> bool {
        !self.ended && self.successes < timing.successes
    }

    /// Records an answer, and returns the number of successes in a row.
    fn record(&mut self, answer: &ProbeResult, now: Instant) -> u32 {
        self.probes += 1;
        if self.same_since.is_none() || gist(&self.last_answer) != gist(&answer.text) {
            self.same_since = Some(now);
        }
        self.successes = if answer.ready { self.successes + 1 } else { 0 };
        self.last_answer = answer.text.clone();
        self.successes
    }

    /// True if a bad answer has lasted long enough to be reported. The same answer is not reported twice in a row.
    fn should_report(&mut self, answer: &ProbeResult, now: Instant) -> bool {
        let is_old = self.same_since.is_some_and(|since| now.duration_since(since) >= REPORT_AFTER);
        let gist = Some(gist(&answer.text));
        if answer.ready || !is_old || self.reported_gist == gist {
            return false;
        }
        self.reported_gist = gist;
        true
    }
}

/// Answer with its status code, but without other numbers: many tools print a duration, which differs each time.
fn gist(text: &str) -> String {
    let (request, answer) = text.split_once('→').unwrap_or(("", text));
    let (code, rest) = answer.trim_start().split_once(' ').unwrap_or((answer, ""));
    let rest: String = rest.chars().filter(|c| !c.is_ascii_digit()).collect();
    format!("{request}→ {} {rest}", code.trim())
}

/// Result of one check of an instance.
enum InstanceCheck {
    Probed(ProbeResult),
    Ended(InstanceEnd),
}

/// Inspects the containers of the pending candidates, and probes the running ones in parallel.
fn probe_all(
    prober: &Prober,
    candidates: &[Candidate],
    pending: &[usize],
    containers: Option<Vec<Container>>,
) -> Result<Vec<InstanceCheck>> {
    let ids = || pending.iter().map(|n| candidates[*n].id.clone()).collect::<Vec<_>>();
    let containers = containers.map_or_else(|| prober.docker.inspect(&ids()), Ok)?;
    let one = |n: &usize| {
        let candidate = &candidates[*n];
        let Some(container) = containers.iter().find(|c| c.id == candidate.id) else {
            return InstanceCheck::Ended(InstanceEnd::Other("it was removed".into()));
        };
        match instance_end(container, &candidate.probe) {
            Some(end) => InstanceCheck::Ended(end),
            None => match prober.probe(&candidate.probe, container) {
                Ok(answer) => InstanceCheck::Probed(answer),
                Err(missing) => InstanceCheck::Ended(InstanceEnd::NoProbeTool(missing)),
            },
        }
    };
    Ok(std::thread::scope(|scope| {
        let threads: Vec<_> = pending.iter().map(|n| scope.spawn(move || one(n))).collect();
        threads.into_iter().map(|t| t.join().expect("no panic in a probe")).collect()
    }))
}

/// Reason why an instance failed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum InstanceEnd {
    Exited { code: i32, out_of_memory: bool },
    Restarted,
    Unhealthy,
    NoProbeTool(NoProbeTool),
    Other(String),
}

fn instance_end(container: &Container, probe: &ReadinessProbe) -> Option<InstanceEnd> {
    let state = &container.state;
    let unhealthy = state.health.as_ref().is_some_and(|h| h.status == "unhealthy");
    match state.status.as_str() {
        "exited" | "dead" => {
            Some(InstanceEnd::Exited { code: state.exit_code, out_of_memory: state.oom_killed })
        }
        "paused" | "removing" => Some(InstanceEnd::Other(format!("it is {}", state.status))),
        _ if state.status == "restarting" || container.restart_count > 0 => Some(InstanceEnd::Restarted),
        _ if unhealthy && matches!(probe, ReadinessProbe::Healthcheck(_)) => Some(InstanceEnd::Unhealthy),
        _ => None,
    }
}

impl InstanceEnd {
    /// Text of the reason; `code` is the last exit code that the engine reports.
    fn explain(&self, code: Option<i32>) -> String {
        match (self, code) {
            (InstanceEnd::Exited { code, out_of_memory: true }, _) => {
                format!("it exited with code {code}, out of memory")
            }
            (InstanceEnd::Exited { code, .. }, _) => format!("it exited with code {code}"),
            (InstanceEnd::Restarted, Some(code)) => format!("it exited with code {code} and was restarted"),
            (InstanceEnd::Restarted, None) => "it exited and was restarted".into(),
            (InstanceEnd::Unhealthy, _) => "its healthcheck failed for good".into(),
            (InstanceEnd::NoProbeTool(_), _) => "nothing can probe it".into(),
            (InstanceEnd::Other(text), _) => text.clone(),
        }
    }
}

fn failure_error(docker: &Docker, candidate: &Candidate, end: &InstanceEnd) -> Error {
    if let InstanceEnd::NoProbeTool(NoProbeTool(missing)) = end {
        return no_tool_error(candidate, missing);
    }
    let code = docker.last_exit_code(&candidate.id).ok().flatten();
    let error = Error::unchanged(format!("{} did not get ready: {}", candidate.name, end.explain(code)));
    with_logs(error, docker, candidate)
}

fn no_tool_error(candidate: &Candidate, missing: &[String]) -> Error {
    let error = Error::unchanged(format!("nothing can check whether {} is ready", candidate.name));
    missing.iter().fold(error, |error, reason| error.detail(reason)).hint(
        "give the service a `healthcheck` whose command is in its image, and remove `x-zd.health`; \
         or install curl or wget in its image or in the proxy's image",
    )
}

/// Failure of all candidates that are not ready at the deadline, merged with the earlier failures.
fn deadline_failure(
    docker: &Docker,
    candidates: &[Candidate],
    progress: &[ReadinessProgress],
    timing: &ProbeTiming,
    failed: Option<ReadinessFailure>,
) -> ReadinessFailure {
    let unready: Vec<_> = candidates.iter().zip(progress).filter(|(_, p)| p.is_pending(timing)).collect();
    let mut error = Error::unchanged(format!(
        "{} of {} new instances {} not ready after {}",
        unready.len(),
        candidates.len(),
        if unready.len() == 1 { "is" } else { "are" },
        humantime::format_duration(timing.deadline)
    ));
    let ids = unready.iter().map(|(candidate, _)| candidate.id.clone()).collect();
    for (candidate, progress) in unready {
        error = error
            .detail(&format!("{}: {} ({} times)", candidate.name, progress.last_answer, progress.probes));
        error = with_logs(error, docker, candidate);
    }
    let error = error.hint(
        "see what a new instance answers, or set another `x-zd.health` (`--health-path`, `--health-deadline`)",
    );
    let mut all = Some(ReadinessFailure { ids, error });
    failed.into_iter().for_each(|earlier| ReadinessFailure::merge(&mut all, earlier));
    all.expect("the failure of the deadline")
}

fn with_logs(error: Error, docker: &Docker, candidate: &Candidate) -> Error {
    let lines = docker.logs(&candidate.id, LOG_LINES).unwrap_or_default();
    if lines.is_empty() {
        error.detail(&format!("{} printed nothing", candidate.name))
    } else {
        error
            .detail(&format!("last lines of {}:", candidate.name))
            .detail(&lines.iter().map(|l| format!("  {}\n", shortened(l))).collect::<String>())
    }
}

#[cfg(test)]
mod tests;
