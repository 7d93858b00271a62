//! Witness: probes the public URL during a rollout and counts the losses. Each probe is one request on a connection
//! of its own, never retried. Several probes may be open, so that a slow answer does not delay the others.

pub mod answering;
mod client;
mod prober;
mod stats;
pub mod urls;
mod verdict;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::error::Error;
use crate::model::WitnessSettings;
use crate::proxy::public_route::WitnessUrl;
use crate::report::probes::{LossCount, ProbeReport, SwitchWindow, in_millis};
use crate::wait::{self, StopSignal, WaitResult};
use prober::WitnessProbe;
use verdict::{ChangeLog, LOST};

/// Number of probes that are sent at once when a new rotation is confirmed. Their answers are known before the old
/// instances stop, without a wait.
const BURST: usize = 4;

/// Longest wait for open probes at the end. A probe that is older is slow, and is reported as open.
const FINAL_WAIT: Duration = Duration::from_millis(200);

const POLL: Duration = Duration::from_millis(5);

/// Addresses of one public URL, best first; an answer shows whether an address only redirects clients to another.
pub type UrlCandidates = Vec<WitnessUrl>;

/// All URLs of a run; the probes begin with [`Witness::start`].
#[derive(Default)]
pub struct Witness {
    probes: OnceLock<Vec<Arc<WitnessProbe>>>,
    /// Start of the times of samples.
    start_time: OnceLock<Instant>,
    changes: Mutex<ChangeLog>,
    /// True until losses since the last change of the rotation have started a rollback.
    can_cause_rollback: AtomicBool,
}

/// Change of the rotation, or stop of instances, under way; it ends when this is dropped.
pub struct ChangeSpan<'w> {
    witness: &'w Witness,
    is_route: bool,
}

impl Witness {
    /// Starts the probes on threads of their own. `elapsed` is the report's time now.
    pub fn start(&self, urls: &[UrlCandidates], settings: &WitnessSettings, elapsed: Duration) -> Result<()> {
        let now = Instant::now();
        let zero = now.checked_sub(elapsed).unwrap_or(now);
        let probes = urls.iter().map(|addresses| WitnessProbe::new(addresses, settings, zero));
        let probes = probes.collect::<Result<Vec<_>>>()?;
        let interval = Duration::from_secs(1) / settings.rate;
        for probe in &probes {
            let probe = Arc::clone(probe);
            std::thread::spawn(move || probe.run(interval));
        }
        let _ = (self.start_time.set(zero), self.probes.set(probes));
        Ok(())
    }

    fn probes(&self) -> &[Arc<WitnessProbe>] {
        self.probes.get().map_or(&[], Vec::as_slice)
    }

    /// Returns a function that counts the requests so far.
    pub fn counter(&self) -> impl Fn() -> LossCount + Send + Sync + use<> {
        let probes = self.probes().to_vec();
        move || {
            let counted = probes.iter().filter(|p| !p.is_dismissed());
            counted.map(|p| LossCount::of(&p.log().samples)).sum()
        }
    }

    fn now(&self) -> Duration {
        self.start_time.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Waits until every URL has given a good answer.
    ///
    /// # Errors
    /// A URL that gives none in this time, with its last answer; an interrupt.
    pub fn wait_for_answers(&self, limit: Duration, stop: &StopSignal) -> Result<(), Error> {
        let silent = || self.probes().iter().find(|p| !p.has_answered(Duration::MAX));
        let waited = wait::until(POLL, limit, stop, || Ok::<_, Error>(silent().is_none().then_some(())))?;
        match (waited, silent()) {
            (WaitResult::Interrupted(signal), _) => Err(Error::interrupted(signal)),
            (_, None) => Ok(()),
            (_, Some(probe)) => Err(Error::unchanged(format!(
                "the witness gets no answer from `{}` before the deploy; nothing was changed",
                probe.url()
            ))
            .detail(&probe.last_answer())
            .hint(
                "check that it answers, name another with `--witness-url` (`x-zd.witness.url`), or accept its answer with \
                 `x-zd.witness.expect`; without `--strict` the deploy continues without a witness",
            )),
        }
    }

    /// Stops probing the URLs without a good answer so far. Returns these URLs with their last answers.
    pub fn dismiss_silent(&self) -> Vec<(String, String)> {
        let unanswered =
            |p: &&Arc<WitnessProbe>| !p.is_over() && p.has_samples() && !p.has_answered(Duration::MAX);
        let unanswered: Vec<&Arc<WitnessProbe>> = self.probes().iter().filter(unanswered).collect();
        unanswered.iter().for_each(|p| p.dismiss());
        unanswered.iter().map(|p| (p.url(), p.last_answer())).collect()
    }

    /// Begins a change of the rotation.
    pub fn rotation_change(&self) -> ChangeSpan<'_> {
        self.begin_change(true)
    }

    /// Begins a stop of instances.
    pub fn instance_stop(&self) -> ChangeSpan<'_> {
        self.begin_change(false)
    }

    /// Requests wait in a relay, so their answers come late.
    pub fn begin_hold(&self) {
        self.changes().begin_hold(self.now());
    }

    /// Requests that waited get their answers.
    pub fn end_hold(&self) {
        self.changes().end_hold(self.now());
    }

    fn begin_change(&self, is_route: bool) -> ChangeSpan<'_> {
        let now = self.now();
        self.changes().spans(is_route).push(now..Duration::MAX);
        ChangeSpan { witness: self, is_route }
    }

    fn changes(&self) -> MutexGuard<'_, ChangeLog> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Losses since the last change of the rotation, if they justify a rollback; reported once.
    pub fn rollback_reason(&self) -> Option<Error> {
        if !self.can_cause_rollback.load(Ordering::Relaxed) {
            return None;
        }
        let (now, changes) = (self.now(), self.changes().clone());
        let error =
            self.probes().iter().filter(|p| !p.is_over()).find_map(|p| p.rollback_reason(&changes, now))?;
        self.can_cause_rollback.store(false, Ordering::Relaxed);
        Some(error)
    }

    /// Error of a URL that answered before the switch and does not answer now. Waits for a decision on a URL that loses
    /// probes, or that has been silent for a second.
    pub fn outage_at_end(&self) -> Option<Error> {
        let decision = || {
            let (now, changes) = (self.now(), self.changes().clone());
            let mut error = Some(None);
            for probe in self.probes().iter().filter(|p| !p.is_over()) {
                let Some(outage) = probe.outage(&changes, now) else { continue };
                match outage.is_lost() {
                    Some(true) => return Some(Some(probe.outage_error(outage.duration))),
                    None => error = None,
                    Some(false) => {}
                }
            }
            error
        };
        match wait::until(POLL, LOST * 2, &StopSignal::default(), || Ok::<_, ()>(decision())) {
            Ok(WaitResult::Done(error)) => error,
            _ => None,
        }
    }

    /// Ignores all losses so far, which have another reason.
    pub fn ignore_losses_so_far(&self) {
        let now = self.now();
        self.changes().stops.push(Duration::ZERO..now);
        self.can_cause_rollback.store(true, Ordering::Relaxed);
    }

    /// Stops the probes, and returns the results of each URL that ever answered before the switch.
    pub fn finish(&self) -> Vec<ProbeReport> {
        self.probes().iter().for_each(|p| p.ticker.end());
        let open = || self.probes().iter().any(|p| p.open.load(Ordering::Relaxed) > 0);
        let _ =
            wait::until(POLL, FINAL_WAIT, &StopSignal::default(), || Ok::<_, ()>((!open()).then_some(())));
        let changes = self.changes().clone();
        let switch = changes.switch();
        let before = switch.as_ref().map_or(Duration::MAX, |s| s.start);
        let now = self.now();
        let switch =
            switch.map(|s| SwitchWindow { from_ms: in_millis(s.start), to_ms: in_millis(s.end.min(now)) });
        let answered = self.probes().iter().filter(|p| !p.is_dismissed() && p.has_answered(before));
        answered.map(|p| p.report(switch, &changes)).collect()
    }
}

impl ChangeSpan<'_> {
    /// Confirms the change, and sends a burst of probes to the new rotation.
    pub fn confirm(self) {
        let ChangeSpan { witness, is_route } = self;
        drop(self);
        if is_route {
            witness.can_cause_rollback.store(true, Ordering::Relaxed);
            let probes = witness.probes().iter().filter(|p| !p.is_over());
            probes.for_each(|p| (0..BURST).for_each(|_| p.send()));
        }
    }
}

impl Drop for ChangeSpan<'_> {
    fn drop(&mut self) {
        let now = self.witness.now();
        let mut changes = self.witness.changes();
        let open = changes.spans(self.is_route).iter_mut().filter(|span| span.end == Duration::MAX);
        open.for_each(|span| span.end = now);
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.probes().iter().for_each(|p| p.ticker.end());
    }
}

#[cfg(test)]
mod tests;
