//! The witness: asks the public URL all the time while a rollout runs, and tells what was lost. Each probe is one request
//! on a connection of its own, sent once; several may be open, so that a slow answer does not slow the others down.

mod client;
mod sample;
mod summary;
mod verdict;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::mask;
use crate::model::WitnessSettings;
use crate::proxy::public_route::WitnessUrl;
use crate::wait::{self, StopSignal, Ticker, WaitResult};
use client::{HttpOutcome, WitnessClient};
#[cfg(test)]
pub use sample::ProbeOutcome;
pub use sample::Sample;
use sample::{LossCriteria, in_millis};
pub use summary::{SwitchWindow, WitnessSummary};
use summary::{how_lost, versions};
use verdict::{ChangeLog, LOST, LossTally, UrlOutage, loss_evidence};

/// How many probes of a URL may be without an answer at a time.
const OPEN: usize = 64;

/// How many are sent at once when a new rotation is confirmed, so that its first answers are known before the old
/// instances are stopped, without anybody waiting for them.
const BURST: usize = 4;

/// How long an open probe is waited for at the end. One that is older is slow, and told as open.
const LAST: Duration = Duration::from_millis(200);

const POLL: Duration = Duration::from_millis(5);

/// What a URL may be asked by, best first: whether one of them only sends clients on to another, its answer tells.
pub type UrlCandidates = Vec<WitnessUrl>;

/// All the URLs of a run; nobody asks any until it is started.
#[derive(Default)]
pub struct Witness {
    probes: OnceLock<Vec<Arc<WitnessProbe>>>,
    /// What the times of samples count from.
    zero: OnceLock<Instant>,
    acts: Mutex<ChangeLog>,
    /// Losses since the last change of the rotation have not brought it back yet.
    judges: AtomicBool,
}

/// What became of one URL, for the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    pub url: String,
    pub summary: WitnessSummary,
    pub switch: Option<SwitchWindow>,
    pub samples: Vec<Sample>,
}

/// How many were sent and lost so far, of all URLs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProbeCount {
    pub sent: usize,
    pub lost: usize,
}

/// Counts for all URLs.
struct ProbeCounter {
    count: Mutex<ProbeCount>,
    tell: Box<dyn Fn(ProbeCount) + Send + Sync>,
}

impl ProbeCounter {
    fn change(&self, change: impl FnOnce(&mut ProbeCount)) {
        let mut count = self.count.lock().expect("nobody panicked");
        change(&mut count);
        (self.tell)(*count);
    }
}

/// A change of the rotation, or a stop of instances, under way; it ends when this is dropped.
pub struct ChangeSpan<'w> {
    witness: &'w Witness,
    is_route: bool,
}

impl Witness {
    /// Begins to ask, on threads of its own; `elapsed` is the report's time now, and `tell` hears of each probe that ended.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn start(
        &self,
        urls: &[UrlCandidates],
        settings: &WitnessSettings,
        elapsed: Duration,
        tell: impl Fn(ProbeCount) + Send + Sync + 'static,
    ) -> Result<()> {
        let now = Instant::now();
        let zero = now.checked_sub(elapsed).unwrap_or(now);
        let counter = Arc::new(ProbeCounter { count: Mutex::default(), tell: Box::new(tell) });
        let probes = urls.iter().map(|places| WitnessProbe::new(places, settings, zero, &counter));
        let probes = probes.collect::<Result<Vec<_>>>()?;
        let every = Duration::from_secs(1) / settings.rate;
        for probe in &probes {
            let probe = Arc::clone(probe);
            std::thread::spawn(move || probe.run(every));
        }
        let _ = (self.zero.set(zero), self.probes.set(probes));
        Ok(())
    }

    fn probes(&self) -> &[Arc<WitnessProbe>] {
        self.probes.get().map_or(&[], Vec::as_slice)
    }

    fn now(&self) -> Duration {
        self.zero.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    /// Waits until every URL has given a good answer.
    ///
    /// # Errors
    /// One that does not in this time, with what it says; an interrupt.
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
            .seen(&probe.last_said())
            .hint(
                "see that it answers, or name another with `--witness-url` (`x-zd.witness.url`), or what it answers with \
                 `x-zd.witness.expect`; without `--strict` the deploy goes on without a witness",
            )),
        }
    }

    /// Stops asking those that have not given one good answer so far although they had their time, and tells which, with
    /// what they said last.
    pub fn dismiss_silent(&self) -> Vec<(String, String)> {
        let silent =
            |p: &&Arc<WitnessProbe>| !p.is_over() && p.has_ended_any() && !p.has_answered(Duration::MAX);
        let silent: Vec<&Arc<WitnessProbe>> = self.probes().iter().filter(silent).collect();
        silent.iter().for_each(|p| p.dismiss());
        silent.iter().map(|p| (p.url(), p.last_said())).collect()
    }

    /// A change of the rotation begins.
    pub fn route(&self) -> ChangeSpan<'_> {
        self.act(true)
    }

    /// Instances are being stopped.
    pub fn stop(&self) -> ChangeSpan<'_> {
        self.act(false)
    }

    fn act(&self, is_route: bool) -> ChangeSpan<'_> {
        let now = self.now();
        let mut acts = self.acts.lock().expect("nobody panicked");
        let which = if is_route { &mut acts.routes } else { &mut acts.stops };
        which.push(now..Duration::MAX);
        ChangeSpan { witness: self, is_route }
    }

    fn acts(&self) -> ChangeLog {
        self.acts.lock().expect("nobody panicked").clone()
    }

    /// What was lost since the rotation changed last, where that is reason to bring the old release back: once.
    pub fn objection(&self) -> Option<Error> {
        if !self.judges.load(Ordering::Relaxed) {
            return None;
        }
        let (now, acts) = (self.now(), self.acts());
        let error = self.probes().iter().filter(|p| !p.is_over()).find_map(|p| p.objection(&acts, now))?;
        self.judges.store(false, Ordering::Relaxed);
        Some(error)
    }

    /// A URL that answered before the switch and does not any more. One that loses, or has been silent for a second, is
    /// waited for.
    pub fn lost_at_the_end(&self) -> Option<Error> {
        let known = || {
            let (now, acts) = (self.now(), self.acts());
            let mut verdict = Some(None);
            for probe in self.probes().iter().filter(|p| !p.is_over()) {
                let Some(silence) = probe.silence(&acts, now) else { continue };
                match silence.is_lost() {
                    Some(true) => return Some(Some(probe.lost_for(silence.lasts))),
                    None => verdict = None,
                    Some(false) => {}
                }
            }
            verdict
        };
        match wait::until(POLL, LOST * 2, &StopSignal::default(), || Ok::<_, ()>(known())) {
            Ok(WaitResult::Done(error)) => error,
            _ => None,
        }
    }

    /// What was lost until now has a reason that does not count.
    pub fn ignore_losses_so_far(&self) {
        let now = self.now();
        self.acts.lock().expect("nobody panicked").stops.push(Duration::ZERO..now);
        self.judges.store(true, Ordering::Relaxed);
    }

    /// Stops asking, and tells what was seen of each URL that ever answered before the switch.
    pub fn end(&self) -> Vec<ProbeReport> {
        self.probes().iter().for_each(|p| p.beat.end());
        let open = || self.probes().iter().any(|p| p.open.load(Ordering::Relaxed) > 0);
        let _ = wait::until(POLL, LAST, &StopSignal::default(), || Ok::<_, ()>((!open()).then_some(())));
        let switch = self.acts().switch();
        let before = switch.as_ref().map_or(Duration::MAX, |s| s.start);
        let now = self.now();
        let switch =
            switch.map(|s| SwitchWindow { from_ms: in_millis(s.start), to_ms: in_millis(s.end.min(now)) });
        let told = self.probes().iter().filter(|p| !p.is_dismissed() && p.has_answered(before));
        told.map(|p| p.seen(switch)).collect()
    }
}

impl ChangeSpan<'_> {
    /// It worked: what the new rotation answers is worth knowing at once.
    pub fn done(self) {
        let witness = self.witness;
        let is_route = self.is_route;
        drop(self);
        if is_route {
            witness.judges.store(true, Ordering::Relaxed);
            let probes = witness.probes().iter().filter(|p| !p.is_over());
            probes.for_each(|p| (0..BURST).for_each(|_| p.send()));
        }
    }
}

impl Drop for ChangeSpan<'_> {
    fn drop(&mut self) {
        let now = self.witness.now();
        if let Ok(mut acts) = self.witness.acts.lock() {
            let which = if self.is_route { &mut acts.routes } else { &mut acts.stops };
            which.iter_mut().filter(|act| act.end == Duration::MAX).for_each(|act| act.end = now);
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.probes().iter().for_each(|p| p.beat.end());
    }
}

/// One URL.
struct WitnessProbe {
    askers: Vec<WitnessClient>,
    /// Which of them is asked, once that is known.
    chosen: OnceLock<usize>,
    zero: Instant,
    beat: Ticker,
    open: AtomicUsize,
    unsent: AtomicUsize,
    dismissed: AtomicBool,
    heard: Mutex<SampleLog>,
    counter: Arc<ProbeCounter>,
}

#[derive(Default)]
struct SampleLog {
    terms: LossCriteria,
    samples: Vec<Sample>,
}

impl WitnessProbe {
    fn new(
        places: &[WitnessUrl],
        settings: &WitnessSettings,
        zero: Instant,
        counter: &Arc<ProbeCounter>,
    ) -> Result<Arc<WitnessProbe>> {
        let terms = LossCriteria { expect: settings.expect.clone(), usual: None };
        Ok(Arc::new(WitnessProbe {
            askers: places
                .iter()
                .map(|p| WitnessClient::all(p, settings))
                .collect::<Result<Vec<_>>>()?
                .into_iter()
                .flatten()
                .collect(),
            chosen: OnceLock::new(),
            zero,
            beat: Ticker::default(),
            open: AtomicUsize::new(0),
            unsent: AtomicUsize::new(0),
            dismissed: AtomicBool::new(false),
            heard: Mutex::new(SampleLog { terms, ..SampleLog::default() }),
            counter: Arc::clone(counter),
        }))
    }

    fn run(self: &Arc<Self>, every: Duration) {
        let _ = self.chosen.set(self.choose());
        self.beat.each(every, || self.send());
    }

    /// The first that answers and does not send clients on; else the first that answers, else the first.
    fn choose(&self) -> usize {
        if self.askers.len() < 2 {
            return 0;
        }
        let terms = self.log().terms.clone();
        let mut answers = None;
        for (n, asker) in self.askers.iter().enumerate() {
            let said = asker.get();
            if self.is_over() {
                break;
            }
            match terms.loses(said.outcome) {
                false if !said.goes_to_tls => return n,
                false => answers = answers.or(Some(n)),
                true => {}
            }
        }
        answers.unwrap_or(0)
    }

    fn asker(&self) -> Option<&WitnessClient> {
        self.chosen.get().and_then(|n| self.askers.get(*n))
    }

    fn url(&self) -> String {
        self.asker().or(self.askers.first()).map(|a| mask::urls(a.place.url.as_str())).unwrap_or_default()
    }

    /// Sends one, and does not wait for its answer.
    fn send(self: &Arc<Self>) {
        if self.asker().is_none() {
            return;
        }
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        let probe = Arc::clone(self);
        let sent = open < OPEN
            && std::thread::Builder::new().name("witness".into()).spawn(move || probe.send_one()).is_ok();
        if !sent {
            self.open.fetch_sub(1, Ordering::Relaxed);
            self.unsent.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn send_one(&self) {
        let at = self.zero.elapsed();
        if let Some(asker) = self.asker() {
            let said = asker.get();
            self.record(at, said);
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    fn record(&self, at: Duration, said: HttpOutcome) {
        let took = self.zero.elapsed().saturating_sub(at);
        let mut heard = self.log();
        heard.terms.record(said.outcome);
        let lost = heard.terms.loses(said.outcome);
        heard.samples.push(Sample { at, took, outcome: said.outcome, lost, version: said.version });
        drop(heard);
        if !self.is_dismissed() {
            self.counter.change(|all| {
                all.sent += 1;
                all.lost += usize::from(lost);
            });
        }
    }

    fn log(&self) -> std::sync::MutexGuard<'_, SampleLog> {
        self.heard.lock().expect("nobody panicked")
    }

    fn is_over(&self) -> bool {
        self.beat.has_ended()
    }

    fn dismiss(&self) {
        self.dismissed.store(true, Ordering::Relaxed);
        self.beat.end();
        let lost = self.log().samples.len();
        self.counter.change(|all| {
            all.sent = all.sent.saturating_sub(lost);
            all.lost = all.lost.saturating_sub(lost);
        });
    }

    fn is_dismissed(&self) -> bool {
        self.dismissed.load(Ordering::Relaxed)
    }

    /// Whether a probe that was sent before this got a good answer.
    fn has_answered(&self, before: Duration) -> bool {
        self.log().samples.iter().any(|s| !s.lost && s.at < before)
    }

    fn has_ended_any(&self) -> bool {
        !self.log().samples.is_empty()
    }

    fn last_said(&self) -> String {
        match self.log().samples.last() {
            Some(sample) => format!("GET {} → {}", self.url(), sample.outcome),
            None => format!("GET {} → no answer yet", self.url()),
        }
    }

    fn silence(&self, acts: &ChangeLog, now: Duration) -> Option<UrlOutage> {
        UrlOutage::of(&self.log().samples, self.open.load(Ordering::Relaxed), acts, now)
    }

    fn lost_for(&self, silent: Duration) -> Error {
        let seconds = silent.as_secs_f64();
        Error::unchanged(format!("`{}` has given no good answer for {seconds:.1}s", self.url()))
            .seen(&self.last_said())
    }

    fn objection(&self, acts: &ChangeLog, now: Duration) -> Option<Error> {
        // One that takes requests and never answers has lost none yet.
        if let Some(UrlOutage { lasts, .. }) = self.silence(acts, now).filter(|s| s.is_lost() == Some(true)) {
            return Some(self.lost_for(lasts));
        }
        let url = self.url();
        let heard = self.log();
        let found = loss_evidence(&heard.samples, acts)?;
        let since = LossTally::of(found.since.iter().copied());
        let how = how_lost(found.since.iter().copied());
        let before = match found.before.lost {
            0 => format!("none of {}", found.before.sent),
            lost => format!("{lost} of {}", found.before.sent),
        };
        let told = versions(found.since.iter().copied().filter(|s| s.lost)).join(", ");
        let by = if told.is_empty() { String::new() } else { format!(" by version {told}") };
        Some(
            Error::unchanged(format!(
                "the witness lost {} of {} requests to `{url}` since the switch ({how}{by}), and {before} before it",
                since.lost, since.sent
            ))
            .hint(
                "see what a new instance answers there; another path is asked with `x-zd.witness.path`, other answers are \
                 taken with `x-zd.witness.expect`, and `--no-witness` deploys without",
            ),
        )
    }

    fn seen(&self, switch: Option<SwitchWindow>) -> ProbeReport {
        let mut samples = self.log().samples.clone();
        samples.sort_by_key(|s| s.at);
        let summary = WitnessSummary {
            open: self.open.load(Ordering::Relaxed),
            unsent: self.unsent.load(Ordering::Relaxed),
            ..WitnessSummary::of(&samples, switch)
        };
        ProbeReport { url: self.url(), summary, switch, samples }
    }
}

#[cfg(test)]
mod tests;
