//! Public URLs of the targets of a run, for its witness.

use std::time::Duration;

use anyhow::Result;

use super::ComposeRun;
use super::target_rollout::TargetRollout;
use crate::docker::inspect::Container;
use crate::error::Error;
use crate::model::WitnessSettings;
use crate::proxy::public_route::PublicRoute;
use crate::proxy::{Backend, Proxy};
use crate::release::WitnessTotals;
use crate::report::Event;
use crate::targets::is_member;
use crate::witness::UrlCandidates;
use crate::witness::urls::{
    configured_url, is_wanted, lasting_routes, refuse_losses, report_all, unknown_url,
};

/// Time that each URL has for its first answer, with `--strict`.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

impl ComposeRun<'_> {
    /// Starts the witness. With `--strict` each URL has to answer first.
    ///
    /// # Errors
    /// With `--strict`: an unknown URL, or no answer.
    pub fn start_witness(&self, rollouts: &[TargetRollout]) -> Result<()> {
        let (settings, strict) = (&self.project().witness, self.context.args.witness.strict);
        if self.context.args.dry_run || !is_wanted(settings, strict)? {
            return Ok(());
        }
        let serving: Vec<&TargetRollout> = rollouts.iter().filter(|p| p.serves()).collect();
        if serving.is_empty() {
            self.no_witness("nothing serves yet");
            return Ok(());
        }
        let urls = match configured_url(settings) {
            Some(url) => vec![vec![url]],
            None => self.derived_urls(&serving),
        };
        if !urls.is_empty() {
            // A request may have to wait for the replacement, and is no loss then.
            let wait = serving.iter().filter_map(|p| p.longest_wait()).max().unwrap_or_default();
            let settings = WitnessSettings { timeout: settings.timeout + wait, ..settings.clone() };
            self.witness.start(&urls, &settings, self.report.elapsed())?;
            self.report.show_probes(self.witness.counter());
            if strict {
                self.witness.wait_for_answers(FIRST_ANSWER_TIMEOUT, self.context.stop)?;
            }
            return Ok(());
        }
        if strict && serving.iter().any(|p| !p.reader.proxies.is_empty()) {
            return Err(unknown_url().into());
        }
        self.no_witness("the public URL is unknown (set `x-zd.witness.url` or `--witness-url`)");
        Ok(())
    }

    fn no_witness(&self, why: &str) {
        self.report.event(Event::NoWitness { reason: why.into() });
    }

    /// Public URLs of the targets, without duplicates.
    fn derived_urls(&self, rollouts: &[&TargetRollout]) -> Vec<UrlCandidates> {
        let mut urls: Vec<UrlCandidates> = Vec::new();
        for rollout in rollouts {
            for proxy in &rollout.reader.proxies {
                let candidates = self.url_candidates(rollout, proxy.as_ref());
                if !candidates.is_empty() && !urls.contains(&candidates) {
                    urls.push(candidates);
                }
            }
        }
        // The ports of a remote engine are not on this machine.
        if !urls.is_empty() && self.docker().is_remote() { Vec::new() } else { urls }
    }

    fn url_candidates(&self, rollout: &TargetRollout, proxy: &dyn Proxy) -> UrlCandidates {
        let settings = &self.project().witness;
        let services = rollout.reader.target.services();
        let runs = |service: &str, c: &&Container| c.is_running() && is_member(self.project(), c, &[service]);
        let routes = services.iter().find_map(|service| {
            let before =
                self.prepared.containers.iter().find(|c| runs(service, c)).or(rollout.orphans().first())?;
            let public = |c: &Container| proxy.route_to(&Backend::from(c)).public;
            Some(lasting_routes(public(before), public(&rollout.reader.preview(service))))
        });
        let is_supported = |e: &&PublicRoute| cfg!(feature = "tls") || !e.tls;
        let to_url = |e: &PublicRoute| {
            let address = proxy.published_address(e.port)?;
            e.witness_url(address, settings.host.as_deref(), settings.path.as_deref())
        };
        routes.iter().flatten().filter(is_supported).filter_map(to_url).collect()
    }

    /// Ends the witness, reports its result, and returns the totals for the record.
    pub fn end_witness(&self) -> Option<WitnessTotals> {
        report_all(self.witness.finish(), self.report)
    }

    /// Fails with `--strict` if a request was lost.
    pub fn refuse_losses(&self, totals: Option<&WitnessTotals>) -> Result<(), Error> {
        refuse_losses(totals, self.context.args.witness.strict, self.number)
    }
}
