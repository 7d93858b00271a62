//! Where the time of a rollout went: its steps, added up by what they do. Pure.

use std::time::Duration;

use super::event::Event;
use super::messages::seconds;
use super::record::EventRecord;

/// `creating 0.6s, starting 0.5s, waiting until ready 2.7s, …`, in the order in which it came to each; none where no step
/// was done.
pub fn spent(entries: &[EventRecord]) -> Option<String> {
    let mut sums: Vec<(&str, Duration)> = Vec::new();
    let mut open: Option<(&str, Duration)> = None;
    for EventRecord { at, event, .. } in entries {
        let next = match event {
            Event::Step(note) => Some(note.doing()),
            Event::Deployed { .. } | Event::JobRunning { .. } => None,
            _ => continue,
        };
        if let Some((doing, since)) = open.take() {
            add(&mut sums, doing, at.saturating_sub(since));
        }
        open = next.map(|doing| (doing, *at));
    }
    let told = sums.iter().filter(|(_, time)| time.as_millis() >= 50);
    let text = told.map(|(doing, time)| format!("{doing} {}", seconds(*time))).collect::<Vec<_>>().join(", ");
    (!text.is_empty()).then_some(text)
}

fn add<'a>(sums: &mut Vec<(&'a str, Duration)>, doing: &'a str, time: Duration) {
    match sums.iter_mut().find(|(what, _)| *what == doing) {
        Some((_, sum)) => *sum += time,
        None => sums.push((doing, time)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::event::StepEvent;

    fn step(at: u64, verb: &str) -> EventRecord {
        let (target, names, verb) = ("app".into(), Vec::new(), verb.into());
        let note =
            StepEvent { target, number: 1, steps: 1, batch: 1, batches: 1, verb, names, rolling_back: false };
        EventRecord::now(Duration::from_millis(at), Event::Step(note))
    }

    #[test]
    fn steps_of_a_kind_are_added_up_and_short_ones_left_out() {
        let ran = Event::JobRunning { service: "warm".into() };
        let entries = [
            step(0, "create"),
            step(600, "gate"),
            step(620, "start"),
            step(1000, "wait_ready"),
            EventRecord::now(Duration::from_millis(2000), ran),
            step(9000, "create"),
            step(9400, "stop"),
        ];
        assert_eq!(spent(&entries).unwrap(), "creating 1.0s, starting 0.4s, waiting until ready 1.0s");
        assert_eq!(spent(&[]), None);
    }
}
