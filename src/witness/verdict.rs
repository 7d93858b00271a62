//! Decision whether losses since the switch justify a rollback. Pure.

use std::ops::Range;
use std::time::Duration;

use crate::model::StatusRanges;
use crate::report::probes::{LossCount, ProbeOutcome, Sample};

/// Number of the last probes since the switch that count. The window tells one bad instance among many from an app that
/// always fails one request in a thousand.
const WINDOW: usize = 50;

/// Fewest losses that count: a single one may have any reason.
const MIN_LOSSES: usize = 2;

/// Time without a good answer after which a URL may be lost.
const SILENCE: Duration = Duration::from_secs(1);

/// Time without a good answer after which a URL is lost: no reload and no restart of a proxy takes that long.
pub const LOST: Duration = Duration::from_secs(3);

/// Rule for what counts as a good answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LossCriteria {
    /// Statuses of `x-zd.witness.expect`.
    pub expect: Option<StatusRanges>,
    /// Status of the first answer below 500.
    pub usual_status: Option<u16>,
}

impl LossCriteria {
    /// True for an incomplete answer, and for a status outside `expect`. Without `expect`, statuses from 500 on are
    /// losses. Statuses from 400 to 499 are losses if the first answer was below 400: a proxy without a route
    /// answers 404.
    pub fn is_loss(&self, outcome: ProbeOutcome) -> bool {
        match (outcome, &self.expect) {
            (ProbeOutcome::Status(code), Some(expect)) => !expect.contains(code),
            (ProbeOutcome::Status(code), None) => {
                code >= 500 || (code >= 400 && self.usual_status.is_some_and(|usual| usual < 400))
            }
            _ => true,
        }
    }

    /// Remembers the first answer.
    pub fn record(&mut self, outcome: ProbeOutcome) {
        if let (ProbeOutcome::Status(code @ ..500), None) = (outcome, self.usual_status) {
            self.usual_status = Some(code);
        }
    }
}

/// Losses that justify a rollback, and the losses before the switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LossEvidence<'s> {
    pub since: Vec<&'s Sample>,
    pub before: LossCount,
}

/// Changes of the rotation and stops of instances, with their times; a change under way has no end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangeLog {
    /// Changes of the rotation.
    pub routes: Vec<Range<Duration>>,
    /// Stops of instances: a rollback does not bring back requests that a stop lost.
    pub stops: Vec<Range<Duration>>,
    /// Times in which requests waited in a relay.
    pub holds: Vec<Range<Duration>>,
}

impl ChangeLog {
    /// Changes of the rotation, or stops.
    pub fn spans(&mut self, is_route: bool) -> &mut Vec<Range<Duration>> {
        if is_route { &mut self.routes } else { &mut self.stops }
    }

    /// Requests wait in a relay from now on, unless they do already.
    pub fn begin_hold(&mut self, now: Duration) {
        if !self.holds.iter().any(|hold| hold.end == Duration::MAX) {
            self.holds.push(now..Duration::MAX);
        }
    }

    /// Requests that waited in a relay are forwarded.
    pub fn end_hold(&mut self, now: Duration) {
        self.holds.iter_mut().filter(|hold| hold.end == Duration::MAX).for_each(|hold| hold.end = now);
    }

    /// Number of good answers that waited until a hold was over.
    pub fn late(&self, samples: &[Sample]) -> usize {
        let waited = |s: &&Sample| self.holds.iter().any(|h| h.contains(&s.at) && s.end() >= h.end);
        samples.iter().filter(|s| !s.lost).filter(waited).count()
    }

    /// First to last change of the rotation; without a proxy, first to last stop.
    pub fn switch(&self) -> Option<Range<Duration>> {
        let all = if self.routes.is_empty() { &self.stops } else { &self.routes };
        Some(all.first()?.start..all.last()?.end)
    }

    /// True for a probe that was sent after the last change of the rotation. While an instance stops, only answers of the
    /// app itself count.
    fn is_relevant(&self, sample: &Sample) -> bool {
        let last = self.routes.last().is_some_and(|r| sample.at >= r.end);
        let is_outside = |stop: &Range<Duration>| sample.end() < stop.start || sample.at >= stop.end;
        last && (is_from_app(sample.outcome) || self.stops.iter().all(is_outside))
    }
}

/// True for statuses that only the app answers: a proxy without an instance answers 502, 503 or 504.
fn is_from_app(outcome: ProbeOutcome) -> bool {
    matches!(outcome, ProbeOutcome::Status(code) if ![502, 503, 504].contains(&code))
}

/// Losses since the last change of the rotation, if they justify a rollback. At least two of the last fifty probes
/// are lost, and their share is more than twice the share before the first change. The URL must have answered
/// before. Probes during the stop of an instance count only if the app itself answered them.
pub fn loss_evidence<'s>(samples: &'s [Sample], changes: &ChangeLog) -> Option<LossEvidence<'s>> {
    let first = changes.routes.first()?.start;
    let before = LossCount::of(samples.iter().filter(|s| s.at < first));
    let mut since: Vec<&Sample> = samples.iter().filter(|s| changes.is_relevant(s)).collect();
    since.sort_by_key(|s| s.at);
    since.drain(..since.len().saturating_sub(WINDOW));
    let after = LossCount::of(since.iter().copied());
    let was_answered = before.lost < before.sent;
    let is_worse = after.lost * before.sent > 2 * before.lost * after.sent;
    (was_answered && after.lost >= MIN_LOSSES && is_worse).then_some(LossEvidence { since, before })
}

/// Outage of a URL that gave good answers before the first change of the rotation, or the first stop, and gives
/// none now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UrlOutage {
    /// Time since the last good answer.
    pub duration: Duration,
    /// True if probes were lost since then, and are not only open.
    pub has_losses: bool,
}

impl UrlOutage {
    pub fn detect(samples: &[Sample], open: usize, changes: &ChangeLog, now: Duration) -> Option<UrlOutage> {
        let first = changes.switch()?.start;
        let good = || samples.iter().filter(|s| !s.lost);
        good().find(|s| s.at < first)?;
        let last = good().map(Sample::end).max()?;
        let lost = samples.iter().filter(|s| s.lost && s.end() > last).count();
        // Silence during a hold is no outage.
        let held_until =
            changes.holds.iter().map(|hold| hold.end.min(now)).max().filter(|until| *until > last);
        let has_losses = lost >= if held_until.is_some() { MIN_LOSSES } else { 1 };
        let since = if has_losses { last } else { held_until.unwrap_or(last) };
        (has_losses || open > 0).then(|| UrlOutage { duration: now.saturating_sub(since), has_losses })
    }

    /// True if the URL is lost; `None` while a slow answer may still arrive.
    pub fn is_lost(&self) -> Option<bool> {
        match self.duration {
            lasts if lasts >= LOST => Some(true),
            lasts if lasts >= SILENCE || self.has_losses => None,
            _ => Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stats::tests::samples;
    use super::*;

    const ALL: [ProbeOutcome; 9] = [
        ProbeOutcome::Status(200),
        ProbeOutcome::Status(302),
        ProbeOutcome::Status(404),
        ProbeOutcome::Status(500),
        ProbeOutcome::Status(503),
        ProbeOutcome::Refused,
        ProbeOutcome::CutOff,
        ProbeOutcome::TimedOut,
        ProbeOutcome::Untrusted,
    ];

    fn lost(criteria: &LossCriteria) -> String {
        ALL.iter().map(|o| if criteria.is_loss(*o) { 'x' } else { '.' }).collect()
    }

    #[test]
    fn a_loss_depends_on_expect_or_else_on_the_first_answer() {
        let usual = |code| LossCriteria { usual_status: Some(code), ..LossCriteria::default() };
        let expect = |codes| LossCriteria { expect: StatusRanges::parse(codes), usual_status: Some(404) };
        assert_eq!(lost(&LossCriteria::default()), "...xxxxxx");
        assert_eq!(lost(&usual(200)), "..xxxxxxx");
        assert_eq!(lost(&usual(301)), "..xxxxxxx");
        assert_eq!(lost(&usual(401)), "...xxxxxx");
        assert_eq!(lost(&expect("200-399")), "..xxxxxxx");
        assert_eq!(lost(&expect("404,503")), "xx.x.xxxx");
    }

    #[test]
    fn the_first_answer_is_the_first_below_500() {
        let mut criteria = LossCriteria::default();
        for outcome in [
            ProbeOutcome::Refused,
            ProbeOutcome::Status(503),
            ProbeOutcome::Status(404),
            ProbeOutcome::Status(200),
        ] {
            criteria.record(outcome);
        }
        assert_eq!(criteria.usual_status, Some(404));
    }

    fn ms(from: u64, to: u64) -> Range<Duration> {
        Duration::from_millis(from)..Duration::from_millis(to)
    }

    /// One change of the rotation from 1000 to 1100 ms, and a stop from 2000 to 2500 ms.
    fn once() -> ChangeLog {
        ChangeLog { routes: vec![ms(1000, 1100)], stops: vec![ms(2000, 2500)], holds: Vec::new() }
    }

    /// Lost and sent probes since the switch, if they justify a rollback.
    fn rollback_reason(text: &str, changes: &ChangeLog) -> Option<(usize, usize)> {
        let samples = samples(text);
        loss_evidence(&samples, changes).map(|l| LossCount::of(l.since)).map(|t| (t.lost, t.sent))
    }

    #[test]
    fn two_losses_since_the_switch_cause_a_rollback_and_one_does_not() {
        let good = "0+5 1; 500+5 1;";
        assert_eq!(rollback_reason(&format!("{good} 1100+5 2; 1200+5 2"), &once()), None);
        assert_eq!(rollback_reason(&format!("{good} 1100+5 x500; 1200+5 2; 1300+5 2"), &once()), None);
        assert_eq!(rollback_reason(&format!("{good} 1100+5 x500; 1200+5 x500"), &once()), Some((2, 2)));
        assert_eq!(
            rollback_reason(&format!("{good} 1100+5 x500; 1200+5 2; 1300+5 xcut"), &once()),
            Some((2, 3))
        );
    }

    #[test]
    fn losses_as_frequent_as_before_the_switch_are_no_reason() {
        let after = "1100+5 x500; 1200+5 2; 1300+5 x500; 1400+5 2;";
        assert_eq!(
            rollback_reason(&format!("{after} 0+5 x500; 100+5 1; 200+5 1"), &once()),
            None,
            "half, and a third before"
        );
        assert_eq!(
            rollback_reason(&format!("{after} 0+5 x500; 100+5 1; 200+5 1; 300+5 1; 400+5 1"), &once()),
            Some((2, 4))
        );
        assert_eq!(
            rollback_reason(&format!("{after} 0+5 x503; 100+5 x503"), &once()),
            None,
            "it never answered"
        );
        assert_eq!(rollback_reason(after, &once()), None, "no probe before the switch");
    }

    #[test]
    fn losses_during_a_change_or_a_stop_do_not_count() {
        let good = "0+5 1; 500+5 1;";
        assert_eq!(
            rollback_reason(&format!("{good} 1000+5 x502; 1050+100 x502; 1099+5 x502"), &once()),
            None
        );
        assert_eq!(
            rollback_reason(
                &format!("{good} 1990+10 xcut; 2000+5 xcut; 2400+900 xcut; 1500+600 xcut"),
                &once()
            ),
            None
        );
        assert_eq!(rollback_reason(&format!("{good} 1990+9 x503; 2500+1 x503"), &once()), Some((2, 2)));
        assert_eq!(
            rollback_reason(&format!("{good} 1990+99 x500; 2100+5 x404"), &once()),
            Some((2, 2)),
            "only the app answers these"
        );
    }

    #[test]
    fn losses_without_a_rotation_are_no_reason() {
        let changes = ChangeLog { routes: Vec::new(), ..once() };
        assert_eq!(rollback_reason("0+5 1; 2600+5 x500; 2700+5 x500; 2800+5 x500", &changes), None);
    }

    #[test]
    fn every_change_of_the_rotation_starts_a_new_count() {
        let routes = vec![ms(1000, 1100), ms(3000, 3100)];
        let changes = ChangeLog { routes, ..ChangeLog::default() };
        assert_eq!(rollback_reason("0+5 1; 1200+5 x500; 1300+5 x500; 3200+5 2", &changes), None);
        assert_eq!(rollback_reason("0+5 1; 1200+5 1; 3200+5 x500; 3300+5 x500", &changes), Some((2, 2)));
        let open =
            ChangeLog { routes: vec![ms(1000, 1100), Duration::from_millis(3000)..Duration::MAX], ..changes };
        assert_eq!(
            rollback_reason("0+5 1; 3200+5 x500; 3300+5 x500", &open),
            None,
            "it is just being changed"
        );
    }

    #[test]
    fn only_the_last_probes_count() {
        let good = |from: u64, n: u64| (0..n).map(|i| format!("{}+5 2;", from + i * 10)).collect::<String>();
        let early = format!("0+5 1; 1100+5 x500; 1110+5 x500; {}", good(1120, 48));
        assert_eq!(rollback_reason(&early, &ChangeLog { stops: Vec::new(), ..once() }), Some((2, 50)));
        assert_eq!(
            rollback_reason(&format!("{early}1900+5 2"), &ChangeLog { stops: Vec::new(), ..once() }),
            None
        );
    }

    #[test]
    fn an_outage_starts_at_the_last_good_answer() {
        let outage_ms = |text: &str, open, now| {
            let outage = UrlOutage::detect(&samples(text), open, &once(), Duration::from_millis(now))?;
            Some(outage.duration.as_millis())
        };
        let good = "0+5 1; 900+5 1;";
        assert_eq!(outage_ms(good, 0, 4000), None, "nothing was sent since");
        assert_eq!(outage_ms(good, 1, 4000), Some(3095), "what was sent is still open");
        assert_eq!(
            outage_ms(&format!("{good} 2100+5 xcut; 2300+5 x503"), 0, 4000),
            Some(3095),
            "even during a stop"
        );
        assert_eq!(outage_ms(&format!("{good} 2100+5 xcut; 3900+5 2"), 0, 4000), None);
        assert_eq!(
            outage_ms(&format!("{good} 2100+1800 2; 2300+5 x503"), 1, 4000),
            Some(100),
            "a slow answer"
        );
        assert_eq!(outage_ms("0+5 x503; 1200+5 1; 1300+5 x503", 0, 4000), None, "it never answered before");
        assert_eq!(
            UrlOutage::detect(&samples(good), 1, &ChangeLog::default(), LOST),
            None,
            "nothing was changed"
        );
    }

    /// Milliseconds of silence at this time, if that is an outage, where requests waited from 1100 to 5000 ms.
    fn silence_with_a_hold(text: &str, open: usize, now: u64) -> Option<u128> {
        let changes = ChangeLog { holds: vec![ms(1100, 5000)], ..once() };
        let outage = UrlOutage::detect(&samples(text), open, &changes, Duration::from_millis(now))?;
        Some(outage.duration.as_millis())
    }

    #[test]
    fn silence_during_a_hold_is_no_outage_and_losses_are() {
        let good = "0+5 1; 900+5 1;";
        assert_eq!(silence_with_a_hold(good, 3, 4900), Some(0));
        assert_eq!(silence_with_a_hold(good, 3, 5900), Some(900), "since the end of the hold");
        assert_eq!(silence_with_a_hold(&format!("{good} 1200+9 xcut"), 3, 4900), Some(0), "a single loss");
        let lost = format!("{good} 1200+9 x503; 1300+9 x503");
        assert_eq!(silence_with_a_hold(&lost, 3, 4900), Some(3995));
        assert_eq!(silence_with_a_hold(&format!("{good} 1200+4000 2"), 3, 5300), Some(100));
    }

    #[test]
    fn answers_that_waited_for_the_end_of_a_hold_are_late() {
        let mut changes = ChangeLog::default();
        changes.begin_hold(Duration::from_millis(1100));
        changes.begin_hold(Duration::from_millis(1200));
        let all = samples("900+900 1; 1100+3950 2; 4900+101 2; 4000+2000 x503; 5000+1 2");
        assert_eq!(changes.late(&all), 0, "requests still wait");
        changes.end_hold(Duration::from_millis(5000));
        changes.end_hold(Duration::from_millis(9000));
        assert_eq!((changes.late(&all), changes.holds), (2, vec![ms(1100, 5000)]));
    }

    #[test]
    fn a_url_is_lost_after_three_seconds_and_undecided_with_losses_or_after_one_second() {
        let is_lost = |duration, has_losses| {
            UrlOutage { duration: Duration::from_millis(duration), has_losses }.is_lost()
        };
        assert_eq!([is_lost(10, false), is_lost(999, false)], [Some(false); 2]);
        assert_eq!([is_lost(10, true), is_lost(1000, false), is_lost(2999, true)], [None; 3]);
        assert_eq!([is_lost(3000, true), is_lost(3000, false)], [Some(true); 2]);
    }

    #[test]
    fn the_switch_lasts_from_the_first_change_to_the_last() {
        assert_eq!(once().switch(), Some(ms(1000, 1100)));
        let two = ChangeLog { routes: vec![ms(1, 2), ms(5, 6)], stops: vec![ms(3, 9)], holds: Vec::new() };
        assert_eq!(two.switch(), Some(ms(1, 6)));
        assert_eq!(ChangeLog { routes: Vec::new(), ..two }.switch(), Some(ms(3, 9)));
        assert_eq!(ChangeLog::default().switch(), None);
    }
}
