//! Probes of one URL.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::client::{HttpOutcome, WitnessClient};
use super::stats::{losses, versions};
use super::verdict::{ChangeLog, LossCriteria, LossEvidence, UrlOutage, loss_evidence};
use crate::error::Error;
use crate::mask;
use crate::model::WitnessSettings;
use crate::proxy::public_route::WitnessUrl;
use crate::report::probes::{LossCount, ProbeReport, Sample, SwitchWindow, WitnessSummary, loss_breakdown};
use crate::wait::Ticker;

/// Most probes of a URL that may be open at a time.
const MAX_OPEN: usize = 64;

/// Probes of one URL.
pub struct WitnessProbe {
    clients: Vec<WitnessClient>,
    /// Index of the client that is used, once it is chosen.
    chosen: OnceLock<usize>,
    start_time: Instant,
    pub ticker: Ticker,
    /// Probes without an answer so far.
    pub open: AtomicUsize,
    unsent: AtomicUsize,
    dismissed: AtomicBool,
    samples: Mutex<SampleLog>,
}

#[derive(Default)]
pub struct SampleLog {
    criteria: LossCriteria,
    pub samples: Vec<Sample>,
}

impl WitnessProbe {
    pub fn new(
        addresses: &[WitnessUrl],
        settings: &WitnessSettings,
        zero: Instant,
    ) -> Result<Arc<WitnessProbe>> {
        let criteria = LossCriteria { expect: settings.expect.clone(), usual_status: None };
        let clients = addresses.iter().map(|address| WitnessClient::clients_for(address, settings));
        Ok(Arc::new(WitnessProbe {
            clients: clients.collect::<Result<Vec<_>>>()?.concat(),
            chosen: OnceLock::new(),
            start_time: zero,
            ticker: Ticker::default(),
            open: AtomicUsize::new(0),
            unsent: AtomicUsize::new(0),
            dismissed: AtomicBool::new(false),
            samples: Mutex::new(SampleLog { criteria, ..SampleLog::default() }),
        }))
    }

    pub fn run(self: &Arc<Self>, interval: Duration) {
        let _ = self.chosen.set(self.choose());
        self.ticker.each(interval, || self.send());
    }

    /// First client that answers without a redirect to TLS; else the first that answers, else the first.
    fn choose(&self) -> usize {
        let criteria = self.log().criteria.clone();
        let mut answering = None;
        for (n, client) in self.clients.iter().enumerate().filter(|_| self.clients.len() > 1) {
            let response = client.get();
            let is_good = !criteria.is_loss(response.outcome);
            if self.is_over() || is_good && !response.redirects_to_tls {
                return n;
            }
            answering = answering.or(is_good.then_some(n));
        }
        answering.unwrap_or(0)
    }

    fn client(&self) -> Option<&WitnessClient> {
        self.chosen.get().and_then(|n| self.clients.get(*n))
    }

    pub fn url(&self) -> String {
        self.client().or(self.clients.first()).map(|a| mask::urls(a.target.url.as_str())).unwrap_or_default()
    }

    /// Sends one probe, without waiting for the answer.
    pub fn send(self: &Arc<Self>) {
        if self.client().is_none() {
            return;
        }
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        let probe = Arc::clone(self);
        let is_sent = open < MAX_OPEN
            && std::thread::Builder::new().name("witness".into()).spawn(move || probe.send_one()).is_ok();
        if !is_sent {
            self.open.fetch_sub(1, Ordering::Relaxed);
            self.unsent.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn send_one(&self) {
        let at = self.start_time.elapsed();
        if let Some(client) = self.client() {
            let response = client.get();
            self.record(at, response);
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    fn record(&self, at: Duration, response: HttpOutcome) {
        let took = self.start_time.elapsed().saturating_sub(at);
        let mut log = self.log();
        log.criteria.record(response.outcome);
        let lost = log.criteria.is_loss(response.outcome);
        log.samples.push(Sample { at, took, outcome: response.outcome, lost, version: response.version });
    }

    pub fn log(&self) -> MutexGuard<'_, SampleLog> {
        self.samples.lock().expect("no thread panicked")
    }

    pub fn is_over(&self) -> bool {
        self.ticker.has_ended()
    }

    pub fn dismiss(&self) {
        self.dismissed.store(true, Ordering::Relaxed);
        self.ticker.end();
    }

    pub fn is_dismissed(&self) -> bool {
        self.dismissed.load(Ordering::Relaxed)
    }

    /// True if a probe sent before this time got a good answer.
    pub fn has_answered(&self, before: Duration) -> bool {
        self.log().samples.iter().any(|s| !s.lost && s.at < before)
    }

    pub fn has_samples(&self) -> bool {
        !self.log().samples.is_empty()
    }

    pub fn last_answer(&self) -> String {
        let outcome = self.log().samples.last().map(|sample| sample.outcome.to_string());
        format!("GET {} → {}", self.url(), outcome.unwrap_or("no answer yet".into()))
    }

    pub fn outage(&self, changes: &ChangeLog, now: Duration) -> Option<UrlOutage> {
        UrlOutage::detect(&self.log().samples, self.open.load(Ordering::Relaxed), changes, now)
    }

    pub fn outage_error(&self, silence: Duration) -> Error {
        let seconds = silence.as_secs_f64();
        Error::unchanged(format!("`{}` has given no good answer for {seconds:.1}s", self.url()))
            .detail(&self.last_answer())
    }

    pub fn rollback_reason(&self, changes: &ChangeLog, now: Duration) -> Option<Error> {
        // A URL that accepts requests and never answers has no lost probe yet.
        if let Some(outage) = self.outage(changes, now).filter(|outage| outage.is_lost() == Some(true)) {
            return Some(self.outage_error(outage.duration));
        }
        let url = self.url();
        let log = self.log();
        let evidence = loss_evidence(&log.samples, changes)?;
        let LossEvidence { since, before } = &evidence;
        let breakdown = loss_breakdown(&losses(since.iter().copied()));
        let versions = versions(since.iter().copied().filter(|s| s.lost)).join(", ");
        let by_version = if versions.is_empty() { String::new() } else { format!(" by version {versions}") };
        let before_lost = if before.lost == 0 { "none".to_string() } else { before.lost.to_string() };
        let LossCount { sent, lost } = LossCount::of(since.iter().copied());
        Some(
            Error::unchanged(format!(
                "the witness lost {lost} of {sent} requests to `{url}` since the switch ({breakdown}{by_version}), \
                 and {before_lost} of {} before it",
                before.sent
            ))
            .hint(
                "check the answer of a new instance there; set another path with `x-zd.witness.path`, accept other \
                 answers with `x-zd.witness.expect`, or deploy without a witness with `--no-witness`",
            ),
        )
    }

    pub fn report(&self, switch: Option<SwitchWindow>, changes: &ChangeLog) -> ProbeReport {
        let mut samples = self.log().samples.clone();
        samples.sort_by_key(|s| s.at);
        let summary = WitnessSummary {
            unanswered: self.open.load(Ordering::Relaxed),
            unsent: self.unsent.load(Ordering::Relaxed),
            late: changes.late(&samples),
            ..WitnessSummary::new(&samples, switch)
        };
        ProbeReport { url: self.url(), summary, switch, samples }
    }
}
