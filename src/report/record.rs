//! An event with its time, as in `--output json` and in the journal of a release; and the summary of a run.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::event::{Event, seconds};

/// Version of the schema, `events.schema.json`, of events, summaries and documents. Fields and events may be added within a version, so a reader ignores
/// those that it does not know.
pub const SCHEMA: u32 = 1;

/// JSON Schema (2020-12) of every line of JSON that the program prints.
pub const SCHEMA_TEXT: &str = include_str!("events.schema.json");

/// A line of `--output json`, and of the journal of a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    pub v: u32,
    /// RFC 3339, in UTC, with milliseconds.
    pub time: String,
    /// Time since the start of the run.
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

/// Reads a journal. Unreadable lines are skipped: a killed run may leave half a line, and a newer version has other
/// events.
pub fn read(journal: &[u8]) -> Vec<EventRecord> {
    let lines = journal.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

/// Summary of a run, the one line that `--output json` prints to stdout.
pub fn summary(records: &[EventRecord], exit: u8, took: Duration) -> Value {
    // Fields of all events of a kind, by their paths.
    let fields = |is_of: fn(&Event) -> bool, paths: &[&str]| -> Vec<Value> {
        let events = records.iter().map(|r| &r.event).filter(|event| is_of(event)).map(|event| json!(event));
        let name = |path: &str| path[path.rfind('/').map_or(0, |slash| slash + 1)..].to_string();
        let field = |event: &Value, path: &str| (name(path), event.pointer(path).cloned());
        events.map(|event| paths.iter().map(|path| field(&event, path)).collect()).collect()
    };
    json!({
        "v": SCHEMA,
        "event": "summary",
        "ok": exit == 0,
        "exit": exit,
        "seconds": (took.as_secs_f64() * 1000.0).round() / 1000.0,
        "deployed": fields(
            |event| matches!(event, Event::Deployed { .. }),
            &["/target", "/serving", "/release", "/restored_release", "/in_service"],
        ),
        "left_alone": fields(|event| matches!(event, Event::LeftAlone(_)), &["/services"])
            .iter()
            .flat_map(|event| event["services"].as_array().cloned().unwrap_or_default())
            .collect::<Vec<Value>>(),
        "held": fields(|event| matches!(event, Event::Held { .. }), &["/requests", "/longest", "/refused"]),
        "witness": fields(
            |event| matches!(event, Event::Witness(_)),
            &["/url", "/summary/sent", "/summary/lost", "/summary/longest_gap_ms"],
        ),
        "warnings": fields(|event| matches!(event, Event::Warning { .. }), &["/kind", "/message"]),
        "error": fields(|event| matches!(event, Event::Error { .. }), &["/message", "/details", "/hint"]).pop(),
    })
}

#[cfg(test)]
mod tests;
