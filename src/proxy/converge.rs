//! Brings a running proxy to a goal: queries it, runs the changes that its adapter returns, and waits until the proxy
//! confirms them. Also waits until drained instances are idle.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::kit::connections::Judge;
use super::{
    Change, Discovery, Endpoint, Goal, Next, OpenRequests, Proxy, ProxyState, Query, RolloutShape, effects,
};
use crate::docker::{CommandResult, Docker};
use crate::error::Error;
use crate::wait::{self, StopSignal, WaitResult};

/// Interval between queries of a proxy.
const POLL: Duration = Duration::from_millis(50);

/// Interval between queries for in-flight requests and for discovery, which may take long; shorter at first.
const SLOW_POLL: Duration = Duration::from_millis(400);

/// Interval between samples of connections.
const SAMPLE_POLL: Duration = Duration::from_millis(100);

/// Timeout for the confirmation of a rotation.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout for Docker to report a ready instance as healthy.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(300);

/// Time without a confirmation after which addresses are read again, and a blind proxy gets its change again: a
/// reload by another program may have undone it.
const REISSUE_AFTER: Duration = Duration::from_secs(1);

/// Number of commands in a row without a pause; most rotations take two.
const MAX_STEPS: usize = 4;

/// Number of idle readings that mean idle, while a retired part of the proxy still lives, or where connections are
/// judged by samples.
const IDLE_READINGS: u32 = 3;

/// Function that answers a query.
type Answerer = fn(&Docker, &Query) -> Result<CommandResult>;

/// Proxy on its way to a goal.
pub struct Pursuit<'a> {
    pub docker: &'a Docker,
    pub proxy: &'a dyn Proxy,
    pub goal: Goal,
    changed_at: Option<Instant>,
    /// Where the proxy differed from the goal's rotation when it was last read.
    differences: Vec<String>,
}

/// Result of a drain.
#[derive(Debug, PartialEq, Eq)]
pub enum DrainResult {
    Idle,
    /// The timeout passed with these requests open.
    Limit(OpenRequests),
}

impl<'a> Pursuit<'a> {
    pub fn new(docker: &'a Docker, proxy: &'a dyn Proxy, goal: Goal) -> Self {
        Pursuit { docker, proxy, goal, changed_at: None, differences: Vec::new() }
    }

    /// State of the proxy.
    ///
    /// # Errors
    /// The proxy does not answer.
    pub fn state(&self) -> Result<ProxyState> {
        Ok(self.look(&self.answers(effects::answer)?)?.0)
    }

    /// Sends new requests to exactly the rotation, or keeps the instances outside of a gate from it, and waits until
    /// the running proxy confirms it. A proxy that does not answer a rotation, for example during a restart, is
    /// queried again.
    ///
    /// # Errors
    /// No confirmation within 30 s, with the proxy's own diagnosis; an interrupt; a failed `check`.
    pub fn converge(&mut self, stop: &StopSignal, check: &dyn Fn() -> Result<()>) -> Result<()> {
        let mut updated_at = Instant::now();
        let mut last_error = None;
        self.changed_at = None;
        let waited = wait::until(POLL, CONFIRM_TIMEOUT, stop, || -> Result<Option<()>> {
            check()?;
            if updated_at.elapsed() > REISSUE_AFTER {
                updated_at = Instant::now();
                self.update_addresses()?;
            }
            match self.step() {
                Err(error) if self.goal.rotation().is_some() => {
                    last_error = Some(error);
                    Ok(None)
                }
                reached => Ok(reached?.then_some(())),
            }
        })?;
        match waited {
            WaitResult::Done(()) => Ok(()),
            WaitResult::Interrupted(signal) => Err(Error::interrupted(signal).into()),
            WaitResult::TimedOut => Err(self.unconfirmed_error(last_error).into()),
        }
    }

    /// Runs the next changes towards the goal, each after the one before took effect. True if the goal is reached.
    pub fn step(&mut self) -> Result<bool> {
        for _ in 0..=MAX_STEPS {
            let is_due = self.changed_at.is_none_or(|at| at.elapsed() > REISSUE_AFTER);
            let is_blind = self.proxy.abilities().is_blind;
            let answers =
                if is_blind && is_due { Vec::new() } else { self.answers(effects::answer_for_step)? };
            let (state, next) = self.look(&answers)?;
            if let (Some(rotation), false) = (self.goal.rotation(), answers.is_empty()) {
                self.differences = state.differences(rotation);
            }
            match next {
                Next::Done => return Ok(true),
                Next::Run(_) if is_blind && !is_due => return Ok(false),
                Next::Wait => return Ok(false),
                Next::Run(changes) => self.run(&changes)?,
                Next::Finish(changes) => return self.run(&changes).map(|()| true),
            }
        }
        Ok(false)
    }

    /// Pursues a reached goal again, before it expires.
    fn renew(&mut self) -> Result<()> {
        let (_, next) = self.proxy.advance(&self.answers(effects::answer_for_step)?, &self.goal)?;
        self.run(next.changes())
    }

    /// Waits until the instances outside have no request in flight, for at most `limit` since they left the
    /// rotation. Meanwhile the rotation is kept.
    ///
    /// # Errors
    /// The proxy does not keep the rotation; a failed `check`; an interrupt.
    pub fn wait_until_idle(
        &mut self,
        limit: Duration,
        since: Instant,
        stop: &StopSignal,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<DrainResult> {
        let mut idle_readings = 0;
        let mut judge = Judge::default();
        let mut open_requests = OpenRequests::default();
        let left = limit.saturating_sub(since.elapsed());
        let is_sampled = self.proxy.queries(&self.goal).iter().any(Query::counts_requests);
        let poll = if is_sampled { SAMPLE_POLL } else { SLOW_POLL };
        let waited = wait::until(poll, left, stop, || -> Result<Option<()>> {
            check()?;
            let mut confirmed = self.confirmed_state();
            if confirmed.is_none() {
                self.converge(stop, check)?;
                idle_readings = 0;
                // The timeout may have passed; the in-flight count is needed all the same.
                confirmed = self.confirmed_state();
            }
            let (Some(state), Some(rotation)) = (confirmed, self.goal.rotation()) else { return Ok(None) };
            open_requests = state.open_requests(rotation, &mut judge);
            idle_readings = if open_requests.is_drained(limit) { idle_readings + 1 } else { 0 };
            let late_requests =
                state.has_retired_process && since.elapsed() < self.proxy.abilities().late_requests;
            let is_sampled = state.has_retired_process || open_requests.is_sampled;
            let required_readings = if is_sampled { IDLE_READINGS } else { 1 };
            // A hurried drain waits for neither late nor open requests, but a single reading may miss open ones.
            let is_hurried = stop.is_hurried();
            let idle = idle_readings >= required_readings && (is_hurried || !late_requests);
            Ok((idle || (is_hurried && idle_readings == 0)).then_some(()))
        })?;
        match waited {
            WaitResult::Interrupted(signal) => Err(Error::interrupted(signal).into()),
            _ if open_requests.requests + open_requests.maybe_idle == 0 => Ok(DrainResult::Idle),
            _ => Ok(DrainResult::Limit(open_requests)),
        }
    }

    fn answers(&self, answer: Answerer) -> Result<Vec<CommandResult>> {
        let queries = self.proxy.queries(&self.goal);
        queries.iter().map(|query| require_success(answer(self.docker, query)?, self.proxy)).collect()
    }

    fn look(&self, answers: &[CommandResult]) -> Result<(ProxyState, Next)> {
        let (state, next) = self.proxy.advance(answers, &self.goal)?;
        let next = decide(&self.goal, &state, next);
        Ok((state, next))
    }

    /// State of the proxy, if it confirms the rotation.
    fn confirmed_state(&self) -> Option<ProxyState> {
        let rotation = self.goal.rotation()?;
        let state = self.look(&self.answers(effects::sample).ok()?).ok()?.0;
        Some(state).filter(|state| state.confirms(rotation))
    }

    fn run(&mut self, changes: &[Change]) -> Result<()> {
        changes.iter().try_for_each(|change| run(self.docker, self.proxy, change))?;
        self.changed_at = Some(Instant::now());
        Ok(())
    }

    /// Reads the addresses again. A crashing instance returns with another address, which may have belonged to one
    /// that crashed meanwhile.
    ///
    /// # Errors
    /// An instance inside has died while others live, so no proxy can confirm it.
    fn update_addresses(&mut self) -> Result<(), Error> {
        let Goal::Rotation(rotation) = &mut self.goal else { return Ok(()) };
        let ids: Vec<String> = rotation.all().into_iter().map(|e| e.id).collect();
        // The next query reports an engine that does not answer.
        let Ok(now) = self.docker.inspect(&ids) else { return Ok(()) };
        let container = |e: &Endpoint| now.iter().find(|c| c.id == e.id);
        let runs = |e: &&Endpoint| container(e).is_some_and(|c| c.is_running());
        let (running, stopped): (Vec<&Endpoint>, Vec<&Endpoint>) = rotation.inside.iter().partition(runs);
        if let (Some(stopped), false) = (stopped.first(), running.is_empty()) {
            return Err(Error::unchanged(format!("{} no longer runs", stopped.name)));
        }
        for endpoint in rotation.inside.iter_mut().chain(&mut rotation.outside) {
            let read = container(endpoint).and_then(|c| super::endpoints(self.proxy, [c].into_iter()).pop());
            *endpoint = read.unwrap_or(Endpoint { addresses: Vec::new(), ..endpoint.clone() });
        }
        Ok(())
    }

    fn unconfirmed_error(&self, last_error: Option<anyhow::Error>) -> Error {
        let error_text = last_error.map(|e| format!("{e:#}")).unwrap_or_default();
        let diagnosis = effects::answer(self.docker, &self.proxy.diagnose());
        let diagnosis =
            diagnosis.map(|d| self.proxy.diagnosis(&d, &self.goal.endpoints())).unwrap_or_default();
        Error::unchanged(format!(
            "{} did not confirm the new rotation within {}s",
            self.proxy.name(),
            CONFIRM_TIMEOUT.as_secs()
        ))
        .detail(&error_text)
        .detail(&self.differences.join("; "))
        .detail(&diagnosis)
        .hint("see its log: it may reject its configuration, or its own check of a new instance may fail")
    }
}

/// Next step towards a goal. Only the state of the running proxy decides whether a rotation is reached.
pub(super) fn decide(goal: &Goal, state: &ProxyState, next: Next) -> Next {
    match (goal.rotation(), next) {
        (Some(rotation), _) if state.confirms(rotation) => Next::Done,
        (Some(_), Next::Done) => Next::Wait,
        (_, next) => next,
    }
}

/// Reached goals of proxies whose state expires. They are renewed while the run waits for something else.
#[derive(Default)]
pub struct Keeper<'a>(RefCell<Vec<KeptGoal<'a>>>);

struct KeptGoal<'a> {
    pursuit: Pursuit<'a>,
    reached_at: Instant,
}

impl<'a> Keeper<'a> {
    /// Keeps a reached goal if it expires, in place of the proxy's goal before.
    pub fn keep(&self, pursuit: Pursuit<'a>) {
        self.forget(pursuit.proxy);
        if pursuit.proxy.abilities().renewal.is_some() {
            self.0.borrow_mut().push(KeptGoal { pursuit, reached_at: Instant::now() });
        }
    }

    /// Keeps no goal of a proxy any more.
    pub fn forget(&self, proxy: &dyn Proxy) {
        self.0.borrow_mut().retain(|kept| kept.pursuit.proxy.name() != proxy.name());
    }

    /// Pursues each goal that is due again. A proxy that does not answer is queried again at its next interval, and the
    /// next goal reports it.
    pub fn renew(&self) {
        let is_due = |kept: &&mut KeptGoal| {
            let renewal = kept.pursuit.proxy.abilities().renewal;
            renewal.is_some_and(|interval| kept.reached_at.elapsed() >= interval)
        };
        self.0.borrow_mut().iter_mut().filter(is_due).for_each(|kept| {
            let _ = kept.pursuit.renew();
            kept.reached_at = Instant::now();
        });
    }
}

/// Hands the route back to the proxy's own discovery, once that sees the instances. Time until Docker reports an
/// instance healthy does not count, because discovery may depend on it.
///
/// # Errors
/// The proxy does not answer, refuses, or does not catch up in time.
pub fn hand_back(docker: &Docker, proxy: &dyn Proxy, now: &dyn Fn() -> Result<Discovery>) -> Result<()> {
    let mut healthy = Instant::now();
    let error = || {
        Error::unchanged(format!(
            "{} still has a mark of compose-zd, because its discovery does not see the running instances",
            proxy.name()
        ))
    };
    let waited =
        wait::until(SLOW_POLL, HEALTHY_TIMEOUT, &StopSignal::default(), || -> Result<Option<()>> {
            let discovery = now()?;
            if discovery.endpoints.iter().any(|e| e.unhealthy) {
                healthy = Instant::now();
            }
            let is_reached = Pursuit::new(docker, proxy, Goal::HandedBack(discovery)).step()?;
            if !is_reached && healthy.elapsed() > proxy.abilities().discovery_timeout {
                return Err(error().into());
            }
            Ok(is_reached.then_some(()))
        })?;
    match waited {
        WaitResult::Done(()) => Ok(()),
        _ => Err(error().into()),
    }
}

type Patches = (Vec<CommandResult>, Result<Vec<Change>, Error>);

/// Answers to the queries by which a proxy is prepared, and the changes that it needs.
///
/// # Errors
/// Docker fails. The reason why the proxy cannot be prepared is the inner error.
pub fn patches(docker: &Docker, proxy: &dyn Proxy, shape: &RolloutShape) -> Result<Patches> {
    let goal = Goal::Patched(shape.clone());
    let answers =
        proxy.queries(&goal).iter().map(|q| effects::answer(docker, q)).collect::<Result<Vec<_>>>()?;
    let next = proxy.advance(&answers, &goal).map(|(_, next)| next.changes().to_vec());
    Ok((answers, next))
}

/// Runs a change of a proxy.
///
/// # Errors
/// A failed command, with its output.
pub fn run(docker: &Docker, proxy: &dyn Proxy, change: &Change) -> Result<()> {
    require_success(effects::run(docker, &change.action)?, proxy).map(|_| ())
}

fn require_success(result: CommandResult, proxy: &dyn Proxy) -> Result<CommandResult> {
    if result.ok() {
        return Ok(result);
    }
    let error = Error::unchanged(format!("a command in {} failed", proxy.name()));
    Err(error.detail(result.stderr_or_stdout()).into())
}
