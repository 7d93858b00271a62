//! Whether what was lost since the switch is reason to go back. Pure.

use std::ops::Range;
use std::time::Duration;

use super::sample::{ProbeOutcome, Sample};

/// How many of the last probes since the switch are looked at: an instance of many that answers badly is told from an
/// answer in a thousand that always was bad.
const WINDOW: usize = 50;

/// One lost probe may be anybody's.
const ENOUGH: usize = 2;

/// Without a good answer for this long a URL may be lost.
const SILENT: Duration = Duration::from_secs(1);

/// Without one for two seconds more it is: no reload and no restart of a proxy takes that long.
pub const LOST: Duration = Duration::from_secs(3);

/// How many of how many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LossTally {
    pub sent: usize,
    pub lost: usize,
}

impl LossTally {
    pub fn of<'s>(samples: impl Iterator<Item = &'s Sample>) -> LossTally {
        samples.fold(LossTally::default(), |t, s| LossTally {
            sent: t.sent + 1,
            lost: t.lost + usize::from(s.lost),
        })
    }
}

/// Losses that bring the old release back, and what there were before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LossEvidence<'s> {
    pub since: Vec<&'s Sample>,
    pub before: LossTally,
}

/// What was done to the rotation and to instances, and when; what has no end goes on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangeLog {
    /// Changes of the rotation.
    pub routes: Vec<Range<Duration>>,
    /// Instances that were stopped: what is lost then, nobody gets back.
    pub stops: Vec<Range<Duration>>,
}

impl ChangeLog {
    /// The first change of the rotation to the last; where there is no proxy, the first stop to the last.
    pub fn switch(&self) -> Option<Range<Duration>> {
        let all = if self.routes.is_empty() { &self.stops } else { &self.routes };
        Some(all.first()?.start..all.last()?.end)
    }

    /// Probes that tell how those answer who are in rotation since its last change.
    fn is_since(&self, sample: &Sample) -> bool {
        let last = self.routes.last().is_some_and(|r| sample.at >= r.end);
        let beside = |stop: &Range<Duration>| sample.end() < stop.start || sample.at >= stop.end;
        last && (is_the_apps_own(sample.outcome) || self.stops.iter().all(beside))
    }
}

/// Nobody but the app itself says this; a proxy that finds nobody says the others.
fn is_the_apps_own(outcome: ProbeOutcome) -> bool {
    matches!(outcome, ProbeOutcome::Status(code) if ![502, 503, 504].contains(&code))
}

/// At least two of the last fifty probes since the rotation changed last were lost, and the share of them is more than
/// twice the share before the first change. Nothing that was never answered before, and nothing that was sent or answered
/// while an instance was stopped, counts, unless only the app itself can have said it.
pub fn loss_evidence<'s>(samples: &'s [Sample], acts: &ChangeLog) -> Option<LossEvidence<'s>> {
    let first = acts.routes.first()?.start;
    let before = LossTally::of(samples.iter().filter(|s| s.at < first));
    let mut since: Vec<&Sample> = samples.iter().filter(|s| acts.is_since(s)).collect();
    since.sort_by_key(|s| s.at);
    since.drain(..since.len().saturating_sub(WINDOW));
    let now = LossTally::of(since.iter().copied());
    let was_answered = before.lost < before.sent;
    let is_worse = now.lost * before.sent > 2 * before.lost * now.sent;
    (was_answered && now.lost >= ENOUGH && is_worse).then_some(LossEvidence { since, before })
}

/// A URL that gave good answers before the first change of the rotation, or the first stop, and gives none now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UrlOutage {
    /// Since its last good answer.
    pub lasts: Duration,
    /// Probes were lost since, and are not only open.
    pub loses: bool,
}

impl UrlOutage {
    pub fn of(samples: &[Sample], open: usize, acts: &ChangeLog, now: Duration) -> Option<UrlOutage> {
        let first = acts.switch()?.start;
        let good = || samples.iter().filter(|s| !s.lost);
        good().find(|s| s.at < first)?;
        let last = good().map(Sample::end).max()?;
        let loses = samples.iter().any(|s| s.lost && s.end() > last);
        (loses || open > 0).then(|| UrlOutage { lasts: now.saturating_sub(last), loses })
    }

    /// Whether the URL is lost; none where that is not known yet: a slow answer is none that was lost.
    pub fn is_lost(&self) -> Option<bool> {
        match self.lasts {
            lasts if lasts >= LOST => Some(true),
            lasts if lasts >= SILENT || self.loses => None,
            _ => Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::samples;
    use super::*;

    fn ms(from: u64, to: u64) -> Range<Duration> {
        Duration::from_millis(from)..Duration::from_millis(to)
    }

    /// One change of the rotation from 1000 to 1100, a stop from 2000 to 2500.
    fn once() -> ChangeLog {
        ChangeLog { routes: vec![ms(1000, 1100)], stops: vec![ms(2000, 2500)] }
    }

    /// Lost of sent since the switch, where that brings the old release back.
    fn back(text: &str, acts: &ChangeLog) -> Option<(usize, usize)> {
        let samples = samples(text);
        loss_evidence(&samples, acts).map(|l| LossTally::of(l.since.into_iter())).map(|t| (t.lost, t.sent))
    }

    #[test]
    fn two_losses_since_the_switch_go_back_and_one_does_not() {
        let good = "0+5 1; 500+5 1;";
        assert_eq!(back(&format!("{good} 1100+5 2; 1200+5 2"), &once()), None);
        assert_eq!(back(&format!("{good} 1100+5 x500; 1200+5 2; 1300+5 2"), &once()), None);
        assert_eq!(back(&format!("{good} 1100+5 x500; 1200+5 x500"), &once()), Some((2, 2)));
        assert_eq!(back(&format!("{good} 1100+5 x500; 1200+5 2; 1300+5 xcut"), &once()), Some((2, 3)));
    }

    #[test]
    fn what_was_lost_before_the_switch_just_as_often_is_no_reason() {
        let after = "1100+5 x500; 1200+5 2; 1300+5 x500; 1400+5 2;";
        assert_eq!(
            back(&format!("{after} 0+5 x500; 100+5 1; 200+5 1"), &once()),
            None,
            "half, and a third before"
        );
        assert_eq!(
            back(&format!("{after} 0+5 x500; 100+5 1; 200+5 1; 300+5 1; 400+5 1"), &once()),
            Some((2, 4))
        );
        assert_eq!(back(&format!("{after} 0+5 x503; 100+5 x503"), &once()), None, "it never answered");
        assert_eq!(back(after, &once()), None, "nobody knows whether it did");
    }

    #[test]
    fn what_is_lost_by_the_change_itself_or_while_an_instance_stops_is_not_the_new_releases() {
        let good = "0+5 1; 500+5 1;";
        assert_eq!(back(&format!("{good} 1000+5 x502; 1050+100 x502; 1099+5 x502"), &once()), None);
        assert_eq!(
            back(&format!("{good} 1990+10 xcut; 2000+5 xcut; 2400+900 xcut; 1500+600 xcut"), &once()),
            None
        );
        assert_eq!(back(&format!("{good} 1990+9 x503; 2500+1 x503"), &once()), Some((2, 2)));
        assert_eq!(
            back(&format!("{good} 1990+99 x500; 2100+5 x404"), &once()),
            Some((2, 2)),
            "the app says so"
        );
    }

    #[test]
    fn without_a_rotation_nobody_can_tell_whose_losses_they_are() {
        let acts = ChangeLog { routes: Vec::new(), ..once() };
        assert_eq!(back("0+5 1; 2600+5 x500; 2700+5 x500; 2800+5 x500", &acts), None);
    }

    #[test]
    fn every_change_of_the_rotation_begins_anew() {
        let acts = ChangeLog { routes: vec![ms(1000, 1100), ms(3000, 3100)], stops: Vec::new() };
        assert_eq!(back("0+5 1; 1200+5 x500; 1300+5 x500; 3200+5 2", &acts), None);
        assert_eq!(back("0+5 1; 1200+5 1; 3200+5 x500; 3300+5 x500", &acts), Some((2, 2)));
        let open =
            ChangeLog { routes: vec![ms(1000, 1100), Duration::from_millis(3000)..Duration::MAX], ..acts };
        assert_eq!(back("0+5 1; 3200+5 x500; 3300+5 x500", &open), None, "it is just being changed");
    }

    #[test]
    fn only_the_last_probes_count() {
        let good = |from: u64, n: u64| (0..n).map(|i| format!("{}+5 2;", from + i * 10)).collect::<String>();
        let early = format!("0+5 1; 1100+5 x500; 1110+5 x500; {}", good(1120, 48));
        assert_eq!(back(&early, &ChangeLog { stops: Vec::new(), ..once() }), Some((2, 50)));
        assert_eq!(back(&format!("{early}1900+5 2"), &ChangeLog { stops: Vec::new(), ..once() }), None);
    }

    #[test]
    fn a_url_is_silent_from_its_last_good_answer_on_whatever_was_done_since() {
        let silent = |text: &str, open, now| {
            let silence = UrlOutage::of(&samples(text), open, &once(), Duration::from_millis(now))?;
            Some(silence.lasts.as_millis())
        };
        let good = "0+5 1; 900+5 1;";
        assert_eq!(silent(good, 0, 4000), None, "nothing was sent since");
        assert_eq!(silent(good, 1, 4000), Some(3095), "what was sent is still open");
        assert_eq!(
            silent(&format!("{good} 2100+5 xcut; 2300+5 x503"), 0, 4000),
            Some(3095),
            "in the stop, too"
        );
        assert_eq!(silent(&format!("{good} 2100+5 xcut; 3900+5 2"), 0, 4000), None);
        assert_eq!(silent(&format!("{good} 2100+1800 2; 2300+5 x503"), 1, 4000), Some(100), "a slow answer");
        assert_eq!(silent("0+5 x503; 1200+5 1; 1300+5 x503", 0, 4000), None, "it never answered before");
        assert_eq!(
            UrlOutage::of(&samples(good), 1, &ChangeLog::default(), LOST),
            None,
            "nothing was changed"
        );
    }

    #[test]
    fn a_url_is_lost_after_three_seconds_and_may_be_where_it_loses_or_is_silent_for_one() {
        let is_lost = |lasts, loses| UrlOutage { lasts: Duration::from_millis(lasts), loses }.is_lost();
        assert_eq!([is_lost(10, false), is_lost(999, false)], [Some(false); 2]);
        assert_eq!([is_lost(10, true), is_lost(1000, false), is_lost(2999, true)], [None; 3]);
        assert_eq!([is_lost(3000, true), is_lost(3000, false)], [Some(true); 2]);
    }

    #[test]
    fn the_switch_lasts_from_the_first_change_to_the_last() {
        assert_eq!(once().switch(), Some(ms(1000, 1100)));
        let two = ChangeLog { routes: vec![ms(1, 2), ms(5, 6)], stops: vec![ms(3, 9)] };
        assert_eq!(two.switch(), Some(ms(1, 6)));
        assert_eq!(ChangeLog { routes: Vec::new(), ..two }.switch(), Some(ms(3, 9)));
        assert_eq!(ChangeLog::default().switch(), None);
    }
}
