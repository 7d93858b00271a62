//! Sets a rotation and sees the proxy confirm it; waits until those outside have finished.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::docker::{CommandResult, Docker, Exec};
use crate::error::Error;
use crate::proxy::{self, Endpoint, HandBack, OpenRequests, Proxy, ProxyState, Rotation};
use crate::wait::{self, StopSignal, WaitResult};

/// How often the proxy is asked.
const POLL: Duration = Duration::from_millis(50);

/// How often it is asked what is in flight, and whether its discovery has caught up, which may take long; at first more often.
const SLOW_POLL: Duration = Duration::from_millis(400);

/// How long a proxy may take to confirm a rotation.
const CONFIRM: Duration = Duration::from_secs(30);

/// How long Docker may take to find an instance healthy that has answered as ready.
const HEALTHY: Duration = Duration::from_secs(300);

/// After this long without a confirmation the rotation is set again: somebody else's reload may have undone it.
const AGAIN: Duration = Duration::from_secs(1);

/// Steps that are taken one right after the other; most rotations take two.
const STEPS: usize = 4;

/// Readings in a row without a connection that mean idle, while a retired part of the proxy still lives.
const QUIET: u32 = 3;

/// A proxy and the rotation that it has, or is to have.
pub struct ProxyRotation<'a> {
    pub docker: &'a Docker,
    pub proxy: &'a dyn Proxy,
    pub rotation: Rotation,
}

/// How a drain ended.
#[derive(Debug, PartialEq, Eq)]
pub enum DrainResult {
    Idle,
    /// The limit passed with this open to those that were drained.
    Limit(OpenRequests),
}

impl ProxyRotation<'_> {
    /// Makes new requests go to exactly the rotation, and waits until the running proxy confirms it. A proxy that does
    /// not answer for a while (somebody restarts it) is asked again.
    ///
    /// # Errors
    /// A proxy that does not confirm in 30 s, with what it says of its configuration; an interrupt; what `check` finds.
    pub fn set(&self, stop: &StopSignal, check: &dyn Fn() -> Result<()>) -> Result<()> {
        self.converge(&mut self.rotation.clone(), stop, check)
    }

    /// Takes the first steps towards the rotation, and does not wait for their confirmation.
    ///
    /// # Errors
    /// A proxy that does not answer, or refuses.
    pub fn begin(&self) -> Result<()> {
        let rotation = Rotation { urgent: true, ..self.rotation.clone() };
        for _ in 0..STEPS {
            let now = now(self.docker, self.proxy, &rotation.all())?;
            if !self.issue(&now, &rotation)? || !self.proxy.needs_reading() {
                break;
            }
        }
        Ok(())
    }

    /// As [`Routing::set`]; the rotation is as it was confirmed then.
    fn converge(
        &self,
        rotation: &mut Rotation,
        stop: &StopSignal,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let mut issued: Option<Instant> = None;
        let mut renewed = Instant::now();
        let mut last = None;
        let waited = wait::until(POLL, CONFIRM, stop, || {
            check()?;
            if renewed.elapsed() > AGAIN {
                renewed = Instant::now();
                self.renew(rotation)?;
            }
            Ok::<_, anyhow::Error>(match self.confirmed(rotation, &mut issued) {
                Ok(done) => done.then_some(()),
                Err(error) => {
                    last = Some(error);
                    None
                }
            })
        })?;
        self.ended(waited, last)
    }

    /// Whether the proxy has the rotation; told again from time to time where it has not.
    fn confirmed(&self, rotation: &Rotation, issued: &mut Option<Instant>) -> Result<bool> {
        let now = now(self.docker, self.proxy, &rotation.all())?;
        if self.proxy.needs_reading() {
            let confirmed = self.reading(&now, rotation)?.confirms(rotation);
            return if confirmed { Ok(true) } else { self.step(&now, rotation) };
        }
        if issued.is_none_or(|at| at.elapsed() > AGAIN) {
            self.issue(&now, rotation)?;
            *issued = Some(Instant::now());
        }
        Ok(self.read(rotation)?.confirms(rotation))
    }

    /// Takes the next steps towards a rotation, each once the one before is seen to be done; whether it has got there.
    fn step(&self, first: &CommandResult, rotation: &Rotation) -> Result<bool> {
        let mut seen = first.clone();
        for _ in 0..STEPS {
            if !self.issue(&seen, rotation)? {
                return Ok(false);
            }
            seen = now(self.docker, self.proxy, &rotation.all())?;
            if self.reading(&seen, rotation)?.confirms(rotation) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Reads the addresses again: one that crashes over and over comes back with another, which may have been that of one
    /// that has crashed meanwhile, and would be taken for it.
    ///
    /// # Errors
    /// One inside that has died while others live: nobody waits for a proxy to send it requests.
    fn renew(&self, rotation: &mut Rotation) -> Result<(), Error> {
        let ids: Vec<String> = rotation.all().into_iter().map(|e| e.id).collect();
        // An engine that does not answer is asked again by whoever asks next.
        let Ok(now) = self.docker.inspect(&ids) else { return Ok(()) };
        let container = |e: &Endpoint| now.iter().find(|c| c.id == e.id);
        let runs = |e: &&Endpoint| container(e).is_some_and(|c| c.is_running());
        let (living, dead): (Vec<&Endpoint>, Vec<&Endpoint>) = rotation.inside.iter().partition(runs);
        if let (Some(dead), false) = (dead.first(), living.is_empty()) {
            return Err(Error::unchanged(format!("{} no longer runs", dead.name)));
        }
        for endpoint in rotation.inside.iter_mut().chain(&mut rotation.outside) {
            let read = container(endpoint).and_then(|c| proxy::endpoints(self.proxy, [c].into_iter()).pop());
            *endpoint = read.unwrap_or(Endpoint { addresses: Vec::new(), ..endpoint.clone() });
        }
        Ok(())
    }

    fn ended(&self, waited: WaitResult<()>, last: Option<anyhow::Error>) -> Result<()> {
        match waited {
            WaitResult::Done(()) => Ok(()),
            WaitResult::Interrupted(signal) => Err(Error::interrupted(signal).into()),
            WaitResult::TimedOut => Err(self.unconfirmed(last).into()),
        }
    }

    /// Keeps those outside, which are not started yet, out of rotation.
    ///
    /// # Errors
    /// A proxy that does not answer, refuses, or does not confirm in 30 s; an interrupt; what `check` finds.
    pub fn gate(&self, stop: &StopSignal, check: &dyn Fn() -> Result<()>) -> Result<()> {
        let waited = wait::until(POLL, CONFIRM, stop, || -> Result<Option<()>> {
            check()?;
            let now = now(self.docker, self.proxy, &self.rotation.all())?;
            if self.proxy.needs_reading() {
                self.reading(&now, &self.rotation)?; // an answer that makes no sense must not pass for one with nothing to gate
            }
            let holds = self.proxy.holds(&now, &self.rotation);
            if let Some(exec) = self.proxy.gate(&now, &self.rotation) {
                checked(self.docker, &exec, &self.proxy.name())?;
            }
            Ok(holds.then_some(()))
        })?;
        self.ended(waited, None)
    }

    /// Waits until those outside have no request in flight, for at most `limit` from when they left the rotation; keeps the
    /// rotation meanwhile, for as long as `check` has nothing against it.
    ///
    /// # Errors
    /// A proxy that does not keep the rotation; what `check` finds; an interrupt.
    pub fn wait_until_idle(
        &self,
        limit: Duration,
        since: Instant,
        stop: &StopSignal,
        check: &dyn Fn() -> Result<()>,
    ) -> Result<DrainResult> {
        let mut quiet = 0;
        let mut open = OpenRequests::default();
        let mut rotation = self.rotation.clone();
        let left = limit.saturating_sub(since.elapsed());
        let waited = wait::until(SLOW_POLL, left, stop, || -> Result<Option<()>> {
            check()?;
            let mut read = self.read(&rotation).ok().filter(|r| r.confirms(&rotation));
            if read.is_none() {
                self.converge(&mut rotation, stop, check)?;
                quiet = 0;
                // The limit may have passed, and what is in flight is to be known all the same.
                read = self.read(&rotation).ok().filter(|r| r.confirms(&rotation));
            }
            let Some(reading) = read else { return Ok(None) };
            open = reading.open_requests(&rotation);
            quiet = if open.is_drained(limit) { quiet + 1 } else { 0 };
            let late_requests =
                reading.has_retired_process && since.elapsed() < self.proxy.late_request_grace();
            let enough = if reading.has_retired_process { QUIET } else { 1 };
            // In a hurry neither late requests nor open ones are waited for, but one reading may miss those that are open.
            let hurried = stop.is_hurried();
            let idle = quiet >= enough && (hurried || !late_requests);
            Ok((idle || (hurried && quiet == 0)).then_some(()))
        })?;
        match waited {
            WaitResult::Interrupted(signal) => Err(Error::interrupted(signal).into()),
            _ if open.requests + open.maybe_idle == 0 => Ok(DrainResult::Idle),
            _ => Ok(DrainResult::Limit(open)),
        }
    }

    /// Whether there was anything to do.
    fn issue(&self, now: &CommandResult, rotation: &Rotation) -> Result<bool> {
        match self.proxy.route(now, rotation) {
            Some(exec) => checked(self.docker, &exec, &self.proxy.name()).map(|_| true),
            None => Ok(false),
        }
    }

    fn reading(&self, answer: &CommandResult, rotation: &Rotation) -> Result<ProxyState> {
        Ok(self.proxy.read(answer, &rotation.all())?)
    }

    fn read(&self, rotation: &Rotation) -> Result<ProxyState> {
        let answer = self.docker.query(&self.proxy.question(&rotation.all()))?;
        self.reading(&answer, rotation)
    }

    fn unconfirmed(&self, last: Option<anyhow::Error>) -> Error {
        let failed = last.map(|e| format!("{e:#}")).unwrap_or_default();
        let said = self.docker.query(&self.proxy.diagnose());
        let said = said.map(|d| self.proxy.diagnosis(&d)).unwrap_or_default();
        Error::unchanged(format!(
            "{} does not confirm the new rotation within {}s",
            self.proxy.name(),
            CONFIRM.as_secs()
        ))
        .detail(&failed)
        .detail(&said)
        .hint(
            "see its log: it may refuse its configuration, or its own check of a new instance does not pass",
        )
    }
}

/// What a proxy does now, where its commands depend on it.
///
/// # Errors
/// A proxy that does not answer.
fn now(docker: &Docker, proxy: &dyn Proxy, endpoints: &[Endpoint]) -> Result<CommandResult> {
    match proxy.needs_reading() {
        true => answered(docker, &proxy.question(endpoints), &proxy.name()),
        false => Ok(CommandResult::default()),
    }
}

/// Gives the route back to the proxy's own discovery, once that has caught up.
///
/// # Errors
/// A proxy that does not answer, refuses, or does not catch up in its time; that until Docker finds them healthy, whom
/// its discovery may go by, does not count.
pub fn hand_back(
    docker: &Docker,
    proxy: &dyn Proxy,
    ours: &dyn Fn() -> Result<Vec<Endpoint>>,
    existing: &[String],
) -> Result<()> {
    let mut healthy = Instant::now();
    let waited = wait::until(SLOW_POLL, HEALTHY, &StopSignal::default(), || -> Result<Option<()>> {
        let ours = ours()?;
        if ours.iter().any(|e| e.unhealthy) {
            healthy = Instant::now();
        }
        for _ in 0..STEPS {
            match proxy.hand_back(&now(docker, proxy, &ours)?, &ours, existing) {
                HandBack::Done => return Ok(Some(())),
                HandBack::Wait if healthy.elapsed() > proxy.discovery_timeout() => {
                    return Err(not_released(proxy).into());
                }
                HandBack::Wait => return Ok(None),
                HandBack::Run(exec) => _ = checked(docker, &exec, &proxy.name())?,
            }
            if !proxy.needs_reading() {
                return Ok(Some(()));
            }
        }
        Ok(None)
    })?;
    match waited {
        WaitResult::Done(()) => Ok(()),
        _ => Err(not_released(proxy).into()),
    }
}

fn not_released(proxy: &dyn Proxy) -> Error {
    Error::unchanged(format!(
        "{} still has a mark of ours: its discovery does not see the instances that run",
        proxy.name()
    ))
}

/// Runs a command in a proxy.
///
/// # Errors
/// A command that fails, with what it said.
pub fn checked(docker: &Docker, exec: &Exec, name: &str) -> Result<CommandResult> {
    worked(docker.exec(exec)?, name)
}

/// As [`checked`], for a command that changes nothing.
///
/// # Errors
/// As [`checked`], and a signal.
pub fn answered(docker: &Docker, exec: &Exec, name: &str) -> Result<CommandResult> {
    worked(docker.query(exec)?, name)
}

fn worked(done: CommandResult, name: &str) -> Result<CommandResult> {
    match done.ok() {
        true => Ok(done),
        false => Err(Error::unchanged(format!("a command in {name} failed"))
            .detail(done.stderr_or_stdout())
            .into()),
    }
}
