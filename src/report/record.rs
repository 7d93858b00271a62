//! One event with its time, as `--output json` prints it and the journal of a release keeps it; and the summary of a run.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::event::{Event, seconds};

/// The version of the schema, `events.schema.json`. Fields and events may be added within a version; a reader has to pass
/// over those that it does not know.
pub const SCHEMA: u32 = 1;

/// The documented schema (JSON Schema 2020-12) of the lines and of the summary.
pub const SCHEMA_TEXT: &str = include_str!("events.schema.json");

/// A line of `--output json`, and of a release's journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    pub v: u32,
    /// RFC 3339, in UTC, with milliseconds.
    pub time: String,
    /// Since the start of the run.
    #[serde(with = "seconds")]
    pub at: Duration,
    #[serde(flatten)]
    pub event: Event,
}

impl EventRecord {
    pub fn now(at: Duration, event: Event) -> EventRecord {
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        EventRecord { v: SCHEMA, time, at, event }
    }

    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("an event has only names for keys")
    }
}

/// The lines of a journal. Those that cannot be read are passed over: the last one of a run that was killed may be half
/// written, and a newer version has other events.
pub fn read(journal: &[u8]) -> Vec<EventRecord> {
    let lines = journal.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

/// What a run came to, as the one line that `--output json` prints to stdout.
pub fn summary(entries: &[EventRecord], exit: u8, took: Duration) -> Value {
    let of =
        |pick: fn(&Event) -> Option<Value>| entries.iter().filter_map(|e| pick(&e.event)).collect::<Vec<_>>();
    json!({
        "v": SCHEMA,
        "event": "summary",
        "ok": exit == 0,
        "exit": exit,
        "seconds": (took.as_secs_f64() * 1000.0).round() / 1000.0,
        "deployed": of(deployed),
        "witness": of(witness),
        "warnings": of(warning),
        "error": of(error).pop(),
    })
}

fn deployed(event: &Event) -> Option<Value> {
    let Event::Deployed { target, serving, release, restored_release, in_service, .. } = event else {
        return None;
    };
    Some(json!({
        "target": target,
        "serving": serving,
        "release": release,
        "restored_release": restored_release,
        "in_service": (in_service.as_secs_f64() * 1000.0).round() / 1000.0,
    }))
}

fn witness(event: &Event) -> Option<Value> {
    let Event::Witness(seen) = event else { return None };
    let (url, summary) = (&seen.url, &seen.summary);
    let (sent, lost, gap) = (summary.sent, summary.lost, summary.longest_gap_ms);
    Some(json!({"url": url, "sent": sent, "lost": lost, "longest_gap_ms": gap}))
}

fn warning(event: &Event) -> Option<Value> {
    let Event::Warning { kind, message } = event else { return None };
    Some(json!({"kind": kind, "message": message}))
}

fn error(event: &Event) -> Option<Value> {
    let Event::Error { message, details, hint, .. } = event else { return None };
    Some(json!({"message": message, "details": details, "hint": hint}))
}

#[cfg(test)]
mod tests;
