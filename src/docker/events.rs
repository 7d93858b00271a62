//! Events of a project's containers, as the engine streams them (`GET /events`). The stream is a connection like
//! that of the queries, on a thread of its own. Some engines stream no events (a socket that blocks `/events`); the
//! caller polls those.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

use super::Docker;
use super::PROJECT;
use super::api::ApiRequest;

/// Limit for the start of the stream.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// An event of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    /// The full container id.
    pub id: String,
    pub kind: EventKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// The container's first process ended, whatever happens next.
    Died { code: Option<i32> },
    /// The kernel killed a process of the container for lack of memory; it need not be the first process.
    OutOfMemory,
    /// The container's healthcheck reported `unhealthy`.
    Unhealthy,
}

/// Stream of a project's events; it ends when this is dropped.
#[derive(Default)]
pub struct EventStream {
    state: Arc<StreamState>,
}

#[derive(Default)]
struct StreamState {
    open: AtomicBool,
    ended: AtomicBool,
}

impl EventStream {
    /// Returns a check for whether events arrive. Before the stream opens, and after it breaks, the caller has to poll.
    pub fn liveness(&self) -> impl Fn() -> bool + Send + use<> {
        let state = Arc::clone(&self.state);
        move || state.open.load(Ordering::Relaxed)
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
    }
}

impl Docker {
    /// Follows the containers of a project on a thread of its own, and calls `receive` for each event.
    pub fn follow(&self, project: &str, receive: impl Fn(ContainerEvent) + Send + 'static) -> EventStream {
        let events = EventStream::default();
        let (docker, state, request) = (self.clone(), Arc::clone(&events.state), project_events(project));
        std::thread::spawn(move || docker.follow_blocking(&request, &state, receive));
        events
    }

    fn follow_blocking(&self, request: &ApiRequest, state: &StreamState, receive: impl Fn(ContainerEvent)) {
        let deadline = Instant::now() + self.scaled(REQUEST_LIMIT);
        let Ok(connection) = self.connect(deadline) else { return };
        let mut lines = LineBuffer::default();
        connection.follow(request, deadline, |chunk| {
            state.open.store(true, Ordering::Relaxed);
            lines.push(chunk).iter().filter_map(|line| parse_event(line)).for_each(&receive);
            !state.ended.load(Ordering::Relaxed)
        });
        state.open.store(false, Ordering::Relaxed);
    }
}

fn project_events(project: &str) -> ApiRequest {
    let filters = json!({
        "event": ["die", "oom", "health_status"],
        "label": [format!("{PROJECT}={project}")],
        "type": ["container"],
    });
    ApiRequest::get("/events", &[("filters", &filters.to_string())])
}

/// Splits chunks of bytes into lines.
#[derive(Default)]
struct LineBuffer(Vec<u8>);

impl LineBuffer {
    /// The lines that end in this chunk.
    fn push(&mut self, chunk: &[u8]) -> Vec<String> {
        self.0.extend(chunk);
        let Some(end) = self.0.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let rest = self.0.split_off(end + 1);
        let whole = std::mem::replace(&mut self.0, rest);
        String::from_utf8_lossy(&whole).lines().map(String::from).collect()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawEvent {
    action: String,
    actor: RawActor,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawActor {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    attributes: serde_json::Map<String, serde_json::Value>,
}

/// Parses an event; `None` if it is of no interest here.
pub(super) fn parse_event(line: &str) -> Option<ContainerEvent> {
    let RawEvent { action, actor } = serde_json::from_str(line).ok()?;
    let kind = match action.as_str() {
        "die" => {
            EventKind::Died { code: actor.attributes.get("exitCode").and_then(|c| c.as_str()?.parse().ok()) }
        }
        "oom" => EventKind::OutOfMemory,
        "health_status: unhealthy" => EventKind::Unhealthy,
        // Podman's engine reports the status in an attribute.
        "health_status" => {
            let status = actor.attributes.get("health_status")?.as_str()?;
            (status == "unhealthy").then_some(EventKind::Unhealthy)?
        }
        _ => return None,
    };
    Some(ContainerEvent { id: actor.id, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, attributes: &str) -> String {
        format!(
            r#"{{"Type":"container","Action":"{action}","Actor":{{"ID":"abc","Attributes":{attributes}}},"timeNano":1}}"#
        )
    }

    fn kind_of(action: &str, attributes: &str) -> Option<EventKind> {
        let event = parse_event(&event(action, attributes))?;
        assert_eq!(event.id, "abc");
        Some(event.kind)
    }

    #[test]
    fn a_container_that_died_is_reported_with_its_code_and_other_events_are_ignored() {
        assert_eq!(
            kind_of("die", r#"{"exitCode":"137","name":"a"}"#),
            Some(EventKind::Died { code: Some(137) })
        );
        assert_eq!(kind_of("die", "{}"), Some(EventKind::Died { code: None }));
        assert_eq!(kind_of("oom", "{}"), Some(EventKind::OutOfMemory));
        assert_eq!(kind_of("health_status: unhealthy", "{}"), Some(EventKind::Unhealthy));
        assert_eq!(kind_of("health_status", r#"{"health_status":"unhealthy"}"#), Some(EventKind::Unhealthy));
        for (action, attributes) in [
            ("health_status: healthy", "{}"),
            ("health_status", r#"{"health_status":"healthy"}"#),
            ("health_status", "{}"),
            ("start", "{}"),
        ] {
            assert_eq!(kind_of(action, attributes), None, "{action}");
        }
        assert_eq!(parse_event("{}"), None);
        assert_eq!(parse_event("not json"), None);
    }

    #[test]
    fn a_line_may_arrive_in_several_chunks() {
        let mut lines = LineBuffer::default();
        assert_eq!(lines.push(b"on"), [""; 0]);
        assert_eq!(lines.push(b"e\ntwo\nthr"), ["one", "two"]);
        assert_eq!(lines.push(b"ee\n"), ["three"]);
    }

    #[test]
    fn the_stream_is_filtered_by_project() {
        assert_eq!(
            project_events("p").path,
            "/events?filters=%7B%22event%22%3A%5B%22die%22%2C%22oom%22%2C%22health_status%22%5D%2C%22label%22%3A%5B%22\
             com.docker.compose.project%3Dp%22%5D%2C%22type%22%3A%5B%22container%22%5D%7D"
        );
    }
}
