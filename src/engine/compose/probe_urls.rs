//! Public URLs that the witness of a run probes, and the report of its result.

use std::time::Duration;

use anyhow::Result;

use super::ComposeRun;
use super::target_rollout::TargetRollout;
use crate::docker::inspect::Container;
use crate::error::{Error, Exit};
use crate::model::WitnessSettings;
use crate::observe;
use crate::proxy::public_route::{PublicRoute, WitnessUrl};
use crate::proxy::{Backend, Proxy};
use crate::release::WitnessTotals;
use crate::report::probes::{LossCount, ProbeReport, loss_breakdown};
use crate::report::{Event, Report, Warning};
use crate::witness::UrlCandidates;

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
            self.witness.start(&urls, settings, self.report.elapsed())?;
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
        let runs = |service: &str, c: &&Container| {
            c.is_running() && observe::is_member(self.project(), c, &[service])
        };
        let routes = services.iter().find_map(|service| {
            let before =
                self.prepared.containers.iter().find(|c| runs(service, c)).or(rollout.orphans().first())?;
            let public = |c: &Container| proxy.route_to(&Backend::from(c)).public;
            Some(lasting_routes(public(before), public(&rollout.reader.preview(service))))
        });
        let is_supported = |e: &&PublicRoute| cfg!(feature = "tls") || !e.tls;
        let to_url = |e: &PublicRoute| {
            e.witness_url(proxy.container(), settings.host.as_deref(), settings.path.as_deref())
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

/// True if the project has a witness.
///
/// # Errors
/// `--strict` without a witness.
pub fn is_wanted(settings: &WitnessSettings, strict: bool) -> Result<bool, Error> {
    match settings.on {
        false if strict => Err(Error::usage("`--strict` needs the witness, which is switched off")
            .hint("remove `--strict`, or remove `--no-witness` and `x-zd.witness: false`")),
        on => Ok(on),
    }
}

pub fn unknown_url() -> Error {
    Error::unchanged("the public URL is unknown, and `--strict` needs one; nothing was changed")
        .hint("set `--witness-url` (`x-zd.witness.url`), or remove `--strict`")
}

/// URL in the settings.
pub fn configured_url(settings: &WitnessSettings) -> Option<WitnessUrl> {
    settings.url.clone().map(|url| WitnessUrl { url, host: settings.host.clone(), connect: None })
}

/// Routes of both the old and the new release; the old ones, if the new ones are unknown. A route that only the old
/// release has would report false losses.
fn lasting_routes(before: Vec<PublicRoute>, after: Vec<PublicRoute>) -> Vec<PublicRoute> {
    if after.is_empty() { before } else { before.into_iter().filter(|route| after.contains(route)).collect() }
}

/// Reports the result of each URL, and returns the totals for the record.
pub fn report_all(all: Vec<ProbeReport>, report: Report) -> Option<WitnessTotals> {
    let record = totals(&all)?;
    for result in all {
        let (url, summary) = (result.url.clone(), result.summary.clone());
        report.event(Event::Witness(Box::new(result)));
        if summary.lost > 0 {
            report.warn(&Warning::WitnessLost(format!(
                "the witness lost {} of {} requests to `{url}` ({})",
                summary.lost,
                summary.sent,
                loss_breakdown(&summary.losses)
            )));
        }
    }
    Some(record)
}

fn totals(all: &[ProbeReport]) -> Option<WitnessTotals> {
    (!all.is_empty()).then(|| WitnessTotals {
        urls: all.iter().map(|s| s.url.clone()).collect(),
        count: all.iter().map(|s| LossCount { sent: s.summary.sent, lost: s.summary.lost }).sum(),
        longest_gap_ms: all.iter().filter_map(|s| s.summary.longest_gap_ms).max(),
    })
}

/// Fails with `--strict` if a request was lost.
pub fn refuse_losses(totals: Option<&WitnessTotals>, strict: bool, release: u32) -> Result<(), Error> {
    let Some(LossCount { sent, lost }) = totals.map(|t| t.count).filter(|count| strict && count.lost > 0)
    else {
        return Ok(());
    };
    Err(Error::new(
        Exit::RequestsLost,
        format!(
            "release {release} serves, but the witness lost {lost} of {sent} requests while it was deployed"
        ),
    )
    .hint("`compose-zd rollback` restores the previous release; without `--strict` losses are only reported"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_only_the_old_release_has_is_not_probed() {
        let at = |host: &str| PublicRoute { host: Some(host.into()), ..PublicRoute::at(80, false) };
        let hosts =
            |routes: Vec<PublicRoute>| routes.into_iter().filter_map(|route| route.host).collect::<Vec<_>>();
        assert_eq!(hosts(lasting_routes(vec![at("a"), at("b")], vec![at("b"), at("c")])), ["b"]);
        assert_eq!(hosts(lasting_routes(vec![at("a")], vec![at("c")])), Vec::<String>::new());
        assert_eq!(hosts(lasting_routes(vec![at("a")], vec![])), ["a"]);
    }

    #[test]
    fn only_strict_makes_a_loss_an_error_that_names_the_serving_release() {
        let totals = |lost| WitnessTotals {
            urls: Vec::new(),
            count: LossCount { sent: 58, lost },
            longest_gap_ms: None,
        };
        for (lost, strict) in [(0, true), (0, false), (3, false)] {
            assert_eq!(refuse_losses(Some(&totals(lost)), strict, 7), Ok(()));
        }
        assert_eq!(refuse_losses(None, true, 7), Ok(()));
        let error = refuse_losses(Some(&totals(3)), true, 7).unwrap_err();
        assert_eq!(error.exit.code(), 6);
        assert!(error.message.starts_with("release 7 serves, but the witness lost 3 of 58"), "{error}");
    }

    #[test]
    fn strict_needs_a_witness() {
        let off = WitnessSettings { on: false, ..WitnessSettings::default() };
        assert_eq!(is_wanted(&off, false), Ok(false));
        assert_eq!(is_wanted(&off, true).unwrap_err().exit.code(), 2);
        assert_eq!(is_wanted(&WitnessSettings::default(), true), Ok(true));
    }
}
