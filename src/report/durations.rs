//! Durations of a rollout, summed up by activity. Pure.

use std::time::Duration;

use super::event::Event;
use super::messages::in_seconds;
use super::record::EventRecord;

/// `creating 0.6s, starting 0.5s, waiting until ready 2.7s, …`, in the order of their first step; none without a step.
pub fn by_activity(records: &[EventRecord]) -> Option<String> {
    let starts: Vec<(Duration, Option<&str>)> = records.iter().filter_map(start).collect();
    let mut sums: Vec<(&str, Duration)> = Vec::new();
    for ((from, activity), (to, _)) in starts.iter().zip(starts.iter().skip(1)) {
        let time = to.saturating_sub(*from);
        match (activity, sums.iter_mut().find(|(name, _)| Some(*name) == *activity)) {
            (Some(_), Some((_, sum))) => *sum += time,
            (Some(activity), None) => sums.push((activity, time)),
            (None, _) => {}
        }
    }
    let shown = sums.iter().filter(|(_, time)| time.as_millis() >= 50);
    let texts: Vec<String> =
        shown.map(|(activity, time)| format!("{activity} {}", in_seconds(*time))).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

/// Start of an activity, or of a time without one.
fn start(EventRecord { at, event, .. }: &EventRecord) -> Option<(Duration, Option<&str>)> {
    match event {
        Event::Step(step) => Some((*at, Some(step.activity()))),
        Event::Deployed { .. } | Event::JobRunning(_) => Some((*at, None)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::event::StepEvent;

    fn step(at: u64, verb: &str) -> EventRecord {
        let (target, names, verb) = ("app".into(), Vec::new(), verb.into());
        let step =
            StepEvent { target, number: 1, steps: 1, batch: 1, batches: 1, verb, names, rolling_back: false };
        EventRecord::now(Duration::from_millis(at), Event::Step(step))
    }

    #[test]
    fn steps_of_an_activity_are_summed_and_short_ones_are_left_out() {
        let job = Event::JobRunning("warm".to_string().into());
        let records = [
            step(0, "create"),
            step(600, "gate"),
            step(620, "start"),
            step(1000, "wait_ready"),
            EventRecord::now(Duration::from_millis(2000), job),
            step(9000, "create"),
            step(9400, "stop"),
        ];
        assert_eq!(by_activity(&records).unwrap(), "creating 1.0s, starting 0.4s, waiting until ready 1.0s");
        assert_eq!(by_activity(&[]), None);
    }
}
