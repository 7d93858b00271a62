//! Public URLs that the witness of a run probes, and the report of its result.

use crate::error::{Error, Exit};
use crate::model::WitnessSettings;
use crate::proxy::public_route::{PublicRoute, WitnessUrl};
use crate::release::WitnessTotals;
use crate::report::probes::{LossCount, ProbeReport, loss_breakdown};
use crate::report::{Event, Report, Warning};

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
pub fn lasting_routes(before: Vec<PublicRoute>, after: Vec<PublicRoute>) -> Vec<PublicRoute> {
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
