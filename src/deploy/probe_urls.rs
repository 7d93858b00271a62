//! Which public URLs the witness of a run asks, and what is told of what it saw.

use std::time::Duration;

use anyhow::Result;

use super::observe;
use super::pipeline::Pipeline;
use super::target_rollout::TargetRollout;
use crate::docker::inspect::Container;
use crate::error::{Error, Exit};
use crate::model::WitnessSettings;
use crate::proxy::Proxy;
use crate::proxy::public_route::{PublicRoute, WitnessUrl};
use crate::release::WitnessTotals;
use crate::report::{Event, Report, Warning};
use crate::witness::{ProbeReport, UrlCandidates};

/// How long every URL has to give its first answer, where it has to.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

impl Pipeline<'_> {
    /// Has the public URLs asked from here on. With `--strict` each of them has to answer first.
    ///
    /// # Errors
    /// With `--strict`: no URL to ask, or no answer.
    pub fn start_witness(&self, parts: &[TargetRollout], containers: &[Container]) -> Result<()> {
        let (settings, strict) = (&self.project().witness, self.rollout.witness.strict);
        if self.rollout.dry_run || !is_wanted(settings, strict)? {
            return Ok(());
        }
        let serving: Vec<&TargetRollout> = parts.iter().filter(|p| p.serves()).collect();
        if serving.is_empty() {
            self.no_witness("nothing serves yet that could be lost");
            return Ok(());
        }
        let urls = match own_place(settings) {
            Some(place) => vec![vec![place]],
            None => self.derived(&serving, containers),
        };
        if !urls.is_empty() {
            let report = self.report;
            let tell = move |count| report.witnessed(count);
            self.witness.start(&urls, settings, self.report.elapsed(), tell)?;
            if strict {
                self.witness.wait_for_answers(FIRST_ANSWER, self.stop)?;
            }
            return Ok(());
        }
        if strict && serving.iter().any(|p| !p.reader.proxies.is_empty()) {
            return Err(unknown_url().into());
        }
        self.no_witness("the public URL is not known (`x-zd.witness.url` or `--witness-url` names it)");
        Ok(())
    }

    fn no_witness(&self, why: &str) {
        self.report.event(Event::NoWitness { why: why.into() });
    }

    /// Each public way to what is replaced, once.
    fn derived(&self, parts: &[&TargetRollout], containers: &[Container]) -> Vec<UrlCandidates> {
        let mut urls: Vec<UrlCandidates> = Vec::new();
        for part in parts {
            for proxy in &part.reader.proxies {
                let places = self.places(part, proxy.as_ref(), containers);
                if !places.is_empty() && !urls.contains(&places) {
                    urls.push(places);
                }
            }
        }
        // The ports of an engine elsewhere are not this machine's.
        if !urls.is_empty() && self.docker().is_remote() { Vec::new() } else { urls }
    }

    fn places(&self, part: &TargetRollout, proxy: &dyn Proxy, containers: &[Container]) -> UrlCandidates {
        let settings = &self.project().witness;
        let services = part.reader.target.services();
        let runs = |service: &str, c: &&Container| {
            c.is_running() && observe::is_member(self.project(), c, &[service])
        };
        let ways = services.iter().find_map(|service| {
            let before = containers.iter().find(|c| runs(service, c)).or(part.orphans().first())?;
            let before = proxy.entrances(before);
            Some(common(before, proxy.entrances(&part.reader.preview(service))))
        });
        let speaks = |e: &&PublicRoute| cfg!(feature = "tls") || !e.tls;
        let place = |e: &PublicRoute| {
            e.witness_url(proxy.container(), settings.host.as_deref(), settings.path.as_deref())
        };
        ways.iter().flatten().filter(speaks).filter_map(place).collect()
    }

    /// Ends it, tells what it saw, and gives it for the record.
    pub fn dismiss_witness(&self) -> Option<WitnessTotals> {
        report_all(self.witness.finish(), self.report)
    }

    /// # Errors
    /// With `--strict`: a request that was lost.
    pub fn lost_nothing(&self, seen: Option<&WitnessTotals>) -> Result<(), Error> {
        lost_nothing(seen, self.rollout.witness.strict, self.number)
    }
}

/// Whether the project wants a witness.
///
/// # Errors
/// None, where `--strict` goes by one.
pub fn is_wanted(settings: &WitnessSettings, strict: bool) -> Result<bool, Error> {
    match settings.on {
        false if strict => Err(Error::usage("`--strict` goes by the witness, which is switched off")
            .hint("leave `--strict` out, or `--no-witness` and `x-zd.witness: false`")),
        on => Ok(on),
    }
}

pub fn unknown_url() -> Error {
    Error::unchanged(
        "the public URL is not known, so that `--strict` has nothing to go by; nothing was changed",
    )
    .hint("name it with `--witness-url` (`x-zd.witness.url`), or leave `--strict` out")
}

/// The one that settings name.
pub fn own_place(settings: &WitnessSettings) -> Option<WitnessUrl> {
    settings.url.clone().map(|url| WitnessUrl { url, host: settings.host.clone(), connect: None })
}

/// The ways that lead to what serves and to what comes; those to what serves, where the others are not known yet. One that
/// goes away with the old release would tell of losses that are none.
fn common(before: Vec<PublicRoute>, after: Vec<PublicRoute>) -> Vec<PublicRoute> {
    match after.is_empty() {
        true => before,
        false => before.into_iter().filter(|way| after.contains(way)).collect(),
    }
}

/// Tells what was seen of each URL, and gives it for the record.
pub fn report_all(all: Vec<ProbeReport>, report: Report) -> Option<WitnessTotals> {
    let record = record(&all)?;
    for seen in all {
        let (url, summary) = (seen.url.clone(), seen.summary.clone());
        report.event(Event::Witness(Box::new(seen)));
        if summary.lost > 0 {
            report.warn(&Warning::Lost(format!(
                "the witness lost {} of {} requests to `{url}` ({})",
                summary.lost,
                summary.sent,
                summary.loss_breakdown()
            )));
        }
    }
    Some(record)
}

fn record(all: &[ProbeReport]) -> Option<WitnessTotals> {
    let sum = |count: fn(&ProbeReport) -> usize| all.iter().map(count).sum::<usize>() as u64;
    (!all.is_empty()).then(|| WitnessTotals {
        urls: all.iter().map(|s| s.url.clone()).collect(),
        sent: sum(|s| s.summary.sent),
        lost: sum(|s| s.summary.lost),
        longest_gap_ms: all.iter().filter_map(|s| s.summary.longest_gap_ms).max(),
    })
}

/// # Errors
/// With `--strict`: a request that was lost.
pub fn lost_nothing(seen: Option<&WitnessTotals>, strict: bool, release: u32) -> Result<(), Error> {
    let Some(WitnessTotals { sent, lost, .. }) = seen.filter(|s| strict && s.lost > 0) else {
        return Ok(());
    };
    Err(Error::new(
        Exit::RequestsLost,
        format!(
            "release {release} serves, but the witness lost {lost} of {sent} requests while it was deployed"
        ),
    )
    .hint("`compose-zd rollback` puts the release before back; without `--strict` losses are only told"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_that_goes_with_the_old_release_is_not_asked() {
        let at = |host: &str| PublicRoute { host: Some(host.into()), ..PublicRoute::at(80, false) };
        let hosts = |ways: Vec<PublicRoute>| ways.into_iter().filter_map(|w| w.host).collect::<Vec<_>>();
        assert_eq!(hosts(common(vec![at("a"), at("b")], vec![at("b"), at("c")])), ["b"]);
        assert_eq!(hosts(common(vec![at("a")], vec![at("c")])), Vec::<String>::new());
        assert_eq!(hosts(common(vec![at("a")], vec![])), ["a"]);
    }

    #[test]
    fn only_strict_makes_a_loss_an_error_and_it_says_what_serves() {
        let seen = |lost| WitnessTotals { urls: Vec::new(), sent: 58, lost, longest_gap_ms: None };
        for (lost, strict) in [(0, true), (0, false), (3, false)] {
            assert_eq!(lost_nothing(Some(&seen(lost)), strict, 7), Ok(()));
        }
        assert_eq!(lost_nothing(None, true, 7), Ok(()));
        let error = lost_nothing(Some(&seen(3)), true, 7).unwrap_err();
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
