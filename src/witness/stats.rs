//! Statistics of many probes. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::report::probes::{ProbeStats, Sample, SwitchWindow, WitnessSummary, in_millis};

impl WitnessSummary {
    /// Summary of these samples; without a switch all samples are before it.
    pub fn new(samples: &[Sample], switch: Option<SwitchWindow>) -> WitnessSummary {
        let phase = |from: u64, to: u64| {
            let is_inside = |s: &&Sample| (from..to).contains(&in_millis(s.at));
            ProbeStats::new(samples.iter().filter(is_inside))
        };
        let (from, to) = switch.map_or((u64::MAX, u64::MAX), |s| (s.from_ms, s.to_ms));
        let lost = samples.iter().filter(|s| s.lost);
        let good = samples.iter().filter(|s| !s.lost);
        WitnessSummary {
            sent: samples.len(),
            lost: lost.clone().count(),
            losses: count_names(lost.map(|s| s.outcome.to_string())),
            longest_gap_ms: longest_gap(samples).map(in_millis),
            before: phase(0, from),
            during: phase(from, to),
            after: phase(to, u64::MAX),
            versions: count_names(good.filter_map(|s| s.version.clone())),
            ..WitnessSummary::default()
        }
    }
}

impl ProbeStats {
    fn new<'s>(samples: impl Iterator<Item = &'s Sample>) -> ProbeStats {
        let (lost, good): (Vec<&Sample>, Vec<&Sample>) = samples.partition(|s| s.lost);
        let mut times: Vec<Duration> = good.iter().map(|s| s.took).collect();
        times.sort_unstable();
        ProbeStats {
            sent: lost.len() + good.len(),
            lost: lost.len(),
            p50_ms: percentile(&times, 50).map(in_millis),
            p99_ms: percentile(&times, 99).map(in_millis),
        }
    }
}

/// Nearest-rank percentile: `percent` percent of the sorted times are at most this long.
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.max(1) - 1).copied()
}

/// Longest time between the ends of two good answers, or from the last good one to the end of the last probe.
fn longest_gap(samples: &[Sample]) -> Option<Duration> {
    let mut ends: Vec<Duration> = samples.iter().filter(|s| !s.lost).map(Sample::end).collect();
    ends.sort_unstable();
    ends.first()?;
    ends.extend(samples.iter().map(Sample::end).max());
    ends.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max()
}

fn count_names(names: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    names.for_each(|name| *counts.entry(name).or_default() += 1);
    counts
}

/// Losses by kind.
pub fn losses<'s>(samples: impl Iterator<Item = &'s Sample>) -> BTreeMap<String, usize> {
    count_names(samples.filter(|s| s.lost).map(|s| s.outcome.to_string()))
}

/// Versions in these answers, if a header has them.
pub fn versions<'s>(samples: impl Iterator<Item = &'s Sample>) -> Vec<String> {
    count_names(samples.filter_map(|s| s.version.clone())).into_keys().collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::report::probes::{ProbeOutcome, loss_breakdown};

    /// Parses `100+4 2` (sent at 100 ms, answered by version 2 after 4 ms) and `100+4 x503` (lost); `-` is no version.
    pub fn samples(text: &str) -> Vec<Sample> {
        let one = |line: &str| {
            let (times, answer) = line.trim().split_once(' ').unwrap();
            let (at, took) = times.split_once('+').unwrap();
            let ms = |text: &str| Duration::from_millis(text.parse().unwrap());
            let outcome = match answer.strip_prefix('x') {
                None => ProbeOutcome::Status(200),
                Some("refused") => ProbeOutcome::Refused,
                Some("cut") => ProbeOutcome::CutOff,
                Some("time") => ProbeOutcome::TimedOut,
                Some(code) => ProbeOutcome::Status(code.parse().unwrap()),
            };
            let lost = answer.starts_with('x');
            let version = (!lost && answer != "-").then(|| answer.to_string());
            Sample { at: ms(at), took: ms(took), outcome, lost, version }
        };
        text.split(';').filter(|l| !l.trim().is_empty()).map(one).collect()
    }

    const SWITCH: Option<SwitchWindow> = Some(SwitchWindow { from_ms: 200, to_ms: 400 });

    #[test]
    fn probes_are_counted_by_their_outcome() {
        let all = samples("0+1 1; 100+2 1; 200+3 x503; 300+4 xcut; 400+5 x503; 500+6 2; 600+7 2; 700+8 -");
        let summary = WitnessSummary::new(&all, SWITCH);
        assert_eq!((summary.sent, summary.lost), (8, 3));
        assert_eq!(loss_breakdown(&summary.losses), "503 ×2, cut off ×1");
        assert_eq!(summary.versions, BTreeMap::from([("1".into(), 2), ("2".into(), 2)]));
        let phase = |p: &ProbeStats| (p.sent, p.lost, p.p50_ms, p.p99_ms);
        assert_eq!(phase(&summary.before), (2, 0, Some(1), Some(2)));
        assert_eq!(phase(&summary.during), (2, 2, None, None));
        assert_eq!(phase(&summary.after), (4, 1, Some(7), Some(8)));
        assert_eq!(summary.to_string(), "3 of 8 lost (503 ×2, cut off ×1), longest gap 404ms");
        assert_eq!(summary.details(), "p50/p99 1/2ms before, 7/8ms after; versions 1: 50 %, 2: 50 %");
    }

    #[test]
    fn without_a_switch_all_probes_are_before_it() {
        let summary = WitnessSummary::new(&samples("0+1 -; 900+1 -"), None);
        assert_eq!((summary.before.sent, summary.during.sent, summary.after.sent), (2, 0, 0));
        assert_eq!(WitnessSummary::new(&[], None), WitnessSummary::default());
        assert_eq!(WitnessSummary::default().to_string(), "0 of 0 lost");
        let more = WitnessSummary { late: 4, unanswered: 2, unsent: 3, ..WitnessSummary::default() };
        assert_eq!(
            more.to_string(),
            "0 of 0 lost, 4 late because of the hold, 2 still open, 3 skipped because too many were open"
        );
    }

    #[test]
    fn a_percentile_is_the_shortest_time_that_the_share_does_not_exceed() {
        let upto = |n: u64| (1..=n).map(Duration::from_millis).collect::<Vec<_>>();
        let of = |n, percent| percentile(&upto(n), percent).map(|d| d.as_millis());
        assert_eq!((of(0, 50), of(1, 50), of(1, 99)), (None, Some(1), Some(1)));
        assert_eq!((of(2, 50), of(3, 50), of(4, 50)), (Some(1), Some(2), Some(2)));
        assert_eq!((of(100, 50), of(100, 99), of(101, 99)), (Some(50), Some(99), Some(100)));
    }

    #[test]
    fn the_longest_gap_is_between_good_answers_or_up_to_the_end() {
        let gap = |text: &str| longest_gap(&samples(text)).map(|d| d.as_millis());
        assert_eq!(gap(""), None);
        assert_eq!(gap("0+5 x503; 100+5 xcut"), None);
        assert_eq!(gap("0+5 -"), Some(0));
        assert_eq!(gap("0+5 -; 100+5 -; 200+45 -"), Some(140));
        assert_eq!(gap("0+5 x503; 100+5 -; 200+5 -"), Some(100), "no gap before the first good answer");
        assert_eq!(gap("0+300 -; 100+5 -; 200+5 -"), Some(100), "answers need not come in order");
        assert_eq!(gap("0+5 -; 100+5 x503; 200+900 xtime"), Some(1095));
    }
}
