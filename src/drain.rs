//! Sets a rotation, waits until the proxy confirms it, and waits until drained instances are idle.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::docker::{CommandResult, Docker, Exec};
use crate::error::Error;
use crate::proxy::{self, Endpoint, HandBack, OpenRequests, Proxy, ProxyState, Rotation};
use crate::wait::{self, StopSignal, WaitResult};

/// Interval between queries of a proxy.
const POLL: Duration = Duration::from_millis(50);

/// Interval between queries for in-flight requests and for discovery, which may take long; shorter at first.
const SLOW_POLL: Duration = Duration::from_millis(400);

/// Timeout for the confirmation of a rotation.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// Timeout for Docker to report a ready instance as healthy.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(300);

/// Time without a confirmation after which the rotation is set again: a reload by another program may have undone it.
const REISSUE_AFTER: Duration = Duration::from_secs(1);

/// Number of commands in a row without a pause; most rotations take two.
const MAX_STEPS: usize = 4;

/// Number of readings without a connection that mean idle, while a retired part of the proxy still lives.
const IDLE_READINGS: u32 = 3;

/// Proxy with its desired rotation.
pub struct ProxyRotation<'a> {
    pub docker: &'a Docker,
    pub proxy: &'a dyn Proxy,
    pub rotation: Rotation,
}

/// Result of a drain.
#[derive(Debug, PartialEq, Eq)]
pub enum DrainResult {
    Idle,
    /// The timeout passed with these requests open.
    Limit(OpenRequests),
}

impl ProxyRotation<'_> {
    /// Sends new requests to exactly the rotation, and waits until the running proxy confirms it. A proxy that does
    /// not answer, for example during a restart, is queried again.
    ///
    /// # Errors
    /// No confirmation within 30 s, with the proxy's own diagnosis; an interrupt; a failed `check`.
    pub fn set(&self, stop: &StopSignal, check: &dyn Fn() -> Result<()>) -> Result<()> {
        self.converge(&mut self.rotation.clone(), stop, check)
    }

    /// Runs the first commands towards the rotation without waiting for their confirmation.
    pub fn begin(&self) -> Result<()> {
        let rotation = Rotation { urgent: true, ..self.rotation.clone() };
        for _ in 0..MAX_STEPS {
            let now = current_state(self.docker, self.proxy, &rotation.all())?;
            if !self.issue(&now, &rotation)? || !self.proxy.needs_reading() {
                break;
            }
        }
        Ok(())
    }

    /// Like [`ProxyRotation::set`]; updates the addresses in `rotation`.
    fn converge(
        &self,
        rotation: &mut Rotation,
        stop: &StopSignal,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let mut issued_at: Option<Instant> = None;
        let mut updated_at = Instant::now();
        let mut last_error = None;
        let waited = wait::until(POLL, CONFIRM_TIMEOUT, stop, || {
            check()?;
            if updated_at.elapsed() > REISSUE_AFTER {
                updated_at = Instant::now();
                self.update_addresses(rotation)?;
            }
            Ok::<_, anyhow::Error>(match self.is_confirmed(rotation, &mut issued_at) {
                Ok(is_confirmed) => is_confirmed.then_some(()),
                Err(error) => {
                    last_error = Some(error);
                    None
                }
            })
        })?;
        self.require_done(waited, last_error)
    }

    /// True if the proxy has the rotation; else sets it, and sets it again from time to time.
    fn is_confirmed(&self, rotation: &Rotation, issued_at: &mut Option<Instant>) -> Result<bool> {
        let now = current_state(self.docker, self.proxy, &rotation.all())?;
        if self.proxy.needs_reading() {
            let confirmed = self.parse(&now, rotation)?.confirms(rotation);
            return if confirmed { Ok(true) } else { self.step(&now, rotation) };
        }
        if issued_at.is_none_or(|at| at.elapsed() > REISSUE_AFTER) {
            self.issue(&now, rotation)?;
            *issued_at = Some(Instant::now());
        }
        Ok(self.read(rotation)?.confirms(rotation))
    }

    /// Runs the next commands towards a rotation, each after the one before took effect. True if the proxy confirms
    /// it.
    fn step(&self, first: &CommandResult, rotation: &Rotation) -> Result<bool> {
        let mut current = first.clone();
        for _ in 0..MAX_STEPS {
            if !self.issue(&current, rotation)? {
                return Ok(false);
            }
            current = current_state(self.docker, self.proxy, &rotation.all())?;
            if self.parse(&current, rotation)?.confirms(rotation) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads the addresses again. A crashing instance returns with another address, which may have belonged to one
    /// that crashed meanwhile.
    ///
    /// # Errors
    /// An instance inside has died while others live, so no proxy can confirm it.
    fn update_addresses(&self, rotation: &mut Rotation) -> Result<(), Error> {
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
            let read = container(endpoint).and_then(|c| proxy::endpoints(self.proxy, [c].into_iter()).pop());
            *endpoint = read.unwrap_or(Endpoint { addresses: Vec::new(), ..endpoint.clone() });
        }
        Ok(())
    }

    fn require_done(&self, waited: WaitResult<()>, last_error: Option<anyhow::Error>) -> Result<()> {
        match waited {
            WaitResult::Done(()) => Ok(()),
            WaitResult::Interrupted(signal) => Err(Error::interrupted(signal).into()),
            WaitResult::TimedOut => Err(self.unconfirmed_error(last_error).into()),
        }
    }

    /// Keeps the instances outside, which are not started yet, out of rotation.
    ///
    /// # Errors
    /// The proxy does not answer, refuses, or does not confirm within 30 s; an interrupt; a failed `check`.
    pub fn gate(&self, stop: &StopSignal, check: &dyn Fn() -> Result<()>) -> Result<()> {
        let waited = wait::until(POLL, CONFIRM_TIMEOUT, stop, || -> Result<Option<()>> {
            check()?;
            let now = current_state(self.docker, self.proxy, &self.rotation.all())?;
            if self.proxy.needs_reading() {
                self.parse(&now, &self.rotation)?; // an invalid answer must not count as nothing to gate
            }
            let is_gated = self.proxy.holds(&now, &self.rotation);
            if let Some(exec) = self.proxy.gate(&now, &self.rotation) {
                exec_checked(self.docker, &exec, &self.proxy.name())?;
            }
            Ok(is_gated.then_some(()))
        })?;
        self.require_done(waited, None)
    }

    /// Waits until the instances outside have no request in flight, for at most `limit` since they left the
    /// rotation. Meanwhile the rotation is kept.
    ///
    /// # Errors
    /// The proxy does not keep the rotation; a failed `check`; an interrupt.
    pub fn wait_until_idle(
        &self,
        limit: Duration,
        since: Instant,
        stop: &StopSignal,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<DrainResult> {
        let mut idle_readings = 0;
        let mut open_requests = OpenRequests::default();
        let mut rotation = self.rotation.clone();
        let left = limit.saturating_sub(since.elapsed());
        let waited = wait::until(SLOW_POLL, left, stop, || -> Result<Option<()>> {
            check()?;
            let mut read = self.read(&rotation).ok().filter(|r| r.confirms(&rotation));
            if read.is_none() {
                self.converge(&mut rotation, stop, check)?;
                idle_readings = 0;
                // The timeout may have passed; the in-flight count is needed all the same.
                read = self.read(&rotation).ok().filter(|r| r.confirms(&rotation));
            }
            let Some(reading) = read else { return Ok(None) };
            open_requests = reading.open_requests(&rotation);
            idle_readings = if open_requests.is_drained(limit) { idle_readings + 1 } else { 0 };
            let late_requests =
                reading.has_retired_process && since.elapsed() < self.proxy.late_request_grace();
            let required_readings = if reading.has_retired_process { IDLE_READINGS } else { 1 };
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

    /// Sets the rotation; false if there was nothing to do.
    fn issue(&self, now: &CommandResult, rotation: &Rotation) -> Result<bool> {
        match self.proxy.route(now, rotation) {
            Some(exec) => exec_checked(self.docker, &exec, &self.proxy.name()).map(|_| true),
            None => Ok(false),
        }
    }

    fn parse(&self, result: &CommandResult, rotation: &Rotation) -> Result<ProxyState> {
        Ok(self.proxy.read(result, &rotation.all())?)
    }

    fn read(&self, rotation: &Rotation) -> Result<ProxyState> {
        let result = self.docker.query(&self.proxy.question(&rotation.all()))?;
        self.parse(&result, rotation)
    }

    fn unconfirmed_error(&self, last_error: Option<anyhow::Error>) -> Error {
        let error_text = last_error.map(|e| format!("{e:#}")).unwrap_or_default();
        let diagnosis = self.docker.query(&self.proxy.diagnose());
        let diagnosis = diagnosis.map(|d| self.proxy.diagnosis(&d)).unwrap_or_default();
        Error::unchanged(format!(
            "{} did not confirm the new rotation within {}s",
            self.proxy.name(),
            CONFIRM_TIMEOUT.as_secs()
        ))
        .detail(&error_text)
        .detail(&diagnosis)
        .hint("see its log: it may reject its configuration, or its own check of a new instance may fail")
    }
}

/// Current state of a proxy, if its commands depend on it.
fn current_state(docker: &Docker, proxy: &dyn Proxy, endpoints: &[Endpoint]) -> Result<CommandResult> {
    if proxy.needs_reading() {
        query_checked(docker, &proxy.question(endpoints), &proxy.name())
    } else {
        Ok(CommandResult::default())
    }
}

/// Hands the route back to the proxy's own discovery, once that sees the instances. Time until Docker reports an
/// instance healthy does not count, because discovery may depend on it.
///
/// # Errors
/// The proxy does not answer, refuses, or does not catch up in time.
pub fn hand_back(
    docker: &Docker,
    proxy: &dyn Proxy,
    own_endpoints: &dyn Fn() -> Result<Vec<Endpoint>>,
    existing: &[String],
) -> Result<()> {
    let mut healthy = Instant::now();
    let waited =
        wait::until(SLOW_POLL, HEALTHY_TIMEOUT, &StopSignal::default(), || -> Result<Option<()>> {
            let own_endpoints = own_endpoints()?;
            if own_endpoints.iter().any(|e| e.unhealthy) {
                healthy = Instant::now();
            }
            for _ in 0..MAX_STEPS {
                match proxy.hand_back(
                    &current_state(docker, proxy, &own_endpoints)?,
                    &own_endpoints,
                    existing,
                ) {
                    HandBack::Done => return Ok(Some(())),
                    HandBack::Wait if healthy.elapsed() > proxy.discovery_timeout() => {
                        return Err(not_handed_back(proxy).into());
                    }
                    HandBack::Wait => return Ok(None),
                    HandBack::Run(exec) => _ = exec_checked(docker, &exec, &proxy.name())?,
                }
                if !proxy.needs_reading() {
                    return Ok(Some(()));
                }
            }
            Ok(None)
        })?;
    match waited {
        WaitResult::Done(()) => Ok(()),
        _ => Err(not_handed_back(proxy).into()),
    }
}

fn not_handed_back(proxy: &dyn Proxy) -> Error {
    Error::unchanged(format!(
        "{} still has a mark of compose-zd, because its discovery does not see the running instances",
        proxy.name()
    ))
}

/// Runs a command in a proxy.
///
/// # Errors
/// A failed command, with its output.
pub fn exec_checked(docker: &Docker, exec: &Exec, name: &str) -> Result<CommandResult> {
    require_success(docker.exec(exec)?, name)
}

/// Like [`exec_checked`], for a command that changes nothing.
///
/// # Errors
/// A failed command, and a signal.
pub fn query_checked(docker: &Docker, exec: &Exec, name: &str) -> Result<CommandResult> {
    require_success(docker.query(exec)?, name)
}

fn require_success(result: CommandResult, name: &str) -> Result<CommandResult> {
    if result.ok() {
        Ok(result)
    } else {
        Err(Error::unchanged(format!("a command in {name} failed")).detail(result.stderr_or_stdout()).into())
    }
}
