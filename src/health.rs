//! Readiness of new instances: probes at compose-zd's own interval, over HTTP or by the healthcheck's own command.

mod exec_probe;
pub mod monitor;
mod probe;
mod prober;

use std::iter;
use std::time::{Duration, Instant};

use anyhow::Result;

pub use probe::{ProbeResult, ProbeTarget, ReadinessProbe, choose_probe, choose_probe_of_other_version};
pub use prober::{NoProbeTool, Prober};

use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::error::Error;
use crate::model::ProbeTiming;
use crate::wait::{self, StopSignal, WaitResult};

/// Longest line of another program's output in a message, in characters.
const MAX_LINE_LENGTH: usize = 500;

/// Time until the first report of a bad answer, and between two reports of different ones. Most new instances are ready
/// earlier.
const REPORT_AFTER: Duration = Duration::from_secs(1);

/// Interval at which an unchanged bad answer is reported again.
const REPORT_AGAIN: Duration = Duration::from_secs(10);

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

/// Instances that failed, and the error. The list may be incomplete, because the wait ends early.
#[derive(Debug)]
pub struct ReadinessFailure {
    pub ids: Vec<String>,
    pub error: Error,
}

/// Conditions of a wait for new instances.
pub struct ReadinessWait<'a> {
    pub docker: &'a Docker,
    pub timing: &'a ProbeTiming,
    /// Number of instances that may fail before the wait ends.
    pub tolerated: usize,
    /// `new` or `old`, for messages.
    pub generation: &'static str,
    pub stop: &'a StopSignal,
    /// Runs before every round of probes.
    pub check: &'a dyn Fn() -> Result<()>,
    /// Receives each ready instance; and the bad answer of another one, when it changes and every 10 s.
    pub report: &'a dyn Fn(&Candidate, &ProbeResult),
}

/// Probe results of a candidate so far.
struct ReadinessProgress<'a> {
    candidate: &'a Candidate,
    successes: u32,
    probes: u32,
    last: Option<ProbeResult>,
    /// Last reported bad answer, with its time; at first the start of the wait.
    reported: (Instant, Option<ProbeResult>),
    end: Option<InstanceEnd>,
}

impl ReadinessWait<'_> {
    /// Waits until all candidates are ready, or more than the tolerated number failed.
    ///
    /// An instance that exits, restarts or becomes unhealthy fails at once. An instance that is not ready at the deadline
    /// fails, too. The error has the last answers and the last log lines. `containers` are the candidates as just
    /// inspected; `None` to inspect them.
    ///
    /// # Errors
    /// No engine; a signal; an error of `check`.
    pub fn run(
        &self,
        candidates: &[Candidate],
        mut containers: Option<Vec<Container>>,
    ) -> Result<Option<ReadinessFailure>> {
        let prober = Prober::new(self.docker, self.timing.timeout)?;
        let mut all: Vec<ReadinessProgress> = candidates.iter().map(ReadinessProgress::new).collect();
        let waited = wait::until(self.timing.interval, self.timing.deadline, self.stop, || -> Result<_> {
            (self.check)()?;
            self.probe_pending(&prober, &mut all, containers.take())?;
            let too_many = all.iter().filter(|p| p.end.is_some()).count() > self.tolerated;
            Ok((too_many || !all.iter().any(|p| self.is_pending(p))).then_some(()))
        })?;
        let ended = all.iter().filter_map(|p| self.ended_failure(p));
        match waited {
            WaitResult::Done(()) => Ok(ended.reduce(ReadinessFailure::merge)),
            WaitResult::Interrupted(signal) => Err(Error::interrupted(signal).into()),
            WaitResult::TimedOut => {
                Ok(iter::once(self.deadline_failure(&all)).chain(ended).reduce(ReadinessFailure::merge))
            }
        }
    }

    fn is_pending(&self, progress: &ReadinessProgress) -> bool {
        progress.end.is_none() && progress.successes < self.timing.successes
    }

    fn probe_pending(
        &self,
        prober: &Prober,
        all: &mut [ReadinessProgress],
        containers: Option<Vec<Container>>,
    ) -> Result<()> {
        let pending: Vec<_> = all.iter_mut().filter(|p| self.is_pending(p)).collect();
        let candidates: Vec<&Candidate> = pending.iter().map(|p| p.candidate).collect();
        let results = prober.check_all(&candidates, containers)?;
        for (progress, result) in pending.into_iter().zip(results) {
            match result {
                Ok(answer) => {
                    if progress.record(answer.clone(), Instant::now())
                        || progress.successes == self.timing.successes
                    {
                        (self.report)(progress.candidate, &answer);
                    }
                }
                Err(end) => progress.end = Some(end),
            }
        }
        Ok(())
    }

    fn ended_failure(&self, progress: &ReadinessProgress) -> Option<ReadinessFailure> {
        let (candidate, end) = (progress.candidate, progress.end.as_ref()?);
        Some(ReadinessFailure {
            ids: vec![candidate.id.clone()],
            error: end_error(self.docker, candidate, end),
        })
    }

    /// Failure of all candidates that are not ready at the deadline.
    fn deadline_failure(&self, all: &[ReadinessProgress]) -> ReadinessFailure {
        let unready: Vec<_> = all.iter().filter(|p| self.is_pending(p)).collect();
        let error = Error::unchanged(format!(
            "{} of {} {} instances {} not ready after {}",
            unready.len(),
            all.len(),
            self.generation,
            if unready.len() == 1 { "is" } else { "are" },
            humantime::format_duration(self.timing.deadline)
        ))
        .hint("see what a new instance answers, or set another `x-zd.health` (`--health-path`, `--health-deadline`)");
        let add_answer = |error: Error, progress: &&ReadinessProgress| {
            let answer = progress.last.as_ref().map(|answer| answer.text.as_str()).unwrap_or_default();
            let name = &progress.candidate.name;
            let error = error.detail(&format!("{name}: {answer} ({} times)", progress.probes));
            with_logs(error, self.docker, progress.candidate)
        };
        let ids = unready.iter().map(|progress| progress.candidate.id.clone()).collect();
        ReadinessFailure { ids, error: unready.iter().fold(error, add_answer) }
    }
}

impl ReadinessFailure {
    fn merge(mut self, other: ReadinessFailure) -> ReadinessFailure {
        self.ids.extend(other.ids);
        ReadinessFailure { error: absorb(self.error, other.error), ..self }
    }
}

/// Keeps the message of the first error and the details of both.
fn absorb(mut first: Error, other: Error) -> Error {
    first.details.push(other.message);
    first.details.extend(other.details);
    first
}

impl<'a> ReadinessProgress<'a> {
    fn new(candidate: &'a Candidate) -> ReadinessProgress<'a> {
        ReadinessProgress {
            candidate,
            successes: 0,
            probes: 0,
            last: None,
            reported: (Instant::now(), None),
            end: None,
        }
    }

    /// Records an answer. True for a bad one that is to be reported.
    fn record(&mut self, answer: ProbeResult, now: Instant) -> bool {
        let (at, reported) = &self.reported;
        let is_same = reported.as_ref().is_some_and(|reported| answer.is_like(reported));
        let interval = if is_same { REPORT_AGAIN } else { REPORT_AFTER };
        let is_reported = !answer.ready && now.duration_since(*at) >= interval;
        self.probes += 1;
        self.successes = if answer.ready { self.successes + 1 } else { 0 };
        if is_reported {
            self.reported = (now, Some(answer.clone()));
        }
        self.last = Some(answer);
        is_reported
    }
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

impl Prober<'_> {
    /// Inspects the containers of candidates, and probes the running ones in parallel.
    fn check_all(
        &self,
        candidates: &[&Candidate],
        containers: Option<Vec<Container>>,
    ) -> Result<Vec<Result<ProbeResult, InstanceEnd>>> {
        let ids = || candidates.iter().map(|candidate| candidate.id.clone()).collect::<Vec<_>>();
        let containers = containers.map_or_else(|| self.docker.inspect(&ids()), Ok)?;
        let check = |candidate: &Candidate| {
            let container = containers.iter().find(|c| c.id == candidate.id).ok_or(InstanceEnd::removed())?;
            match instance_end(container, &candidate.probe) {
                Some(end) => Err(end),
                None => self.probe(&candidate.probe, container).map_err(InstanceEnd::NoProbeTool),
            }
        };
        Ok(std::thread::scope(|scope| {
            let threads: Vec<_> =
                candidates.iter().map(|candidate| scope.spawn(|| check(candidate))).collect();
            threads.into_iter().map(|t| t.join().expect("no panic in a probe")).collect()
        }))
    }
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
    fn removed() -> InstanceEnd {
        InstanceEnd::Other("it was removed".into())
    }

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

fn end_error(docker: &Docker, candidate: &Candidate, end: &InstanceEnd) -> Error {
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
