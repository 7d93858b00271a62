//! What happens to the containers of a project, told by the engine as it happens (`GET /events`): a connection like the one
//! that questions go by, which is followed on a thread of its own. An engine that does not tell (a socket that lets no
//! `/events` through, a client that is a script) is polled by whoever wants to know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::Deserialize;

use super::Docker;
use super::api::events;
use super::connection::LATE;
use super::containers::PROJECT;

/// An event of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    /// The full container id.
    pub id: String,
    pub what: EventKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Its first process ended, whatever comes after it.
    Died { code: Option<i32> },
    /// The kernel killed a process of it, which need not be its first.
    OutOfMemory,
    /// Its healthcheck failed for good.
    Unhealthy,
}

/// The events of a project; dropped, they are followed no longer.
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
    /// Tells at any time whether the engine tells what happens; until it does, and after its connection broke, it has to
    /// be asked.
    pub fn are_told(&self) -> impl Fn() -> bool + Send + use<> {
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
    /// Follows the containers of a project, and calls `told` for each event; it is not waited for.
    pub fn follow(&self, project: &str, told: impl Fn(ContainerEvent) + Send + 'static) -> EventStream {
        let events = EventStream::default();
        let (docker, state, path) = (self.clone(), Arc::clone(&events.state), self::path(project));
        if self.is_own {
            std::thread::spawn(move || docker.follow_here(&path, &state, told));
        }
        events
    }

    fn follow_here(&self, path: &str, state: &StreamState, told: impl Fn(ContainerEvent)) {
        let late = Instant::now() + self.scaled(LATE);
        let Ok(connection) = self.open_line(late) else { return };
        let mut lines = LineBuffer::default();
        connection.follow(path, late, |piece| {
            state.open.store(true, Ordering::Relaxed);
            lines.push(piece).iter().filter_map(|line| read(line)).for_each(&told);
            !state.ended.load(Ordering::Relaxed)
        });
        state.open.store(false, Ordering::Relaxed);
    }
}

fn path(project: &str) -> String {
    events(&["die", "oom", "health_status"], &format!("{PROJECT}={project}"))
}

/// Lines out of pieces that end anywhere.
#[derive(Default)]
struct LineBuffer(Vec<u8>);

impl LineBuffer {
    /// The lines that end in this piece.
    fn push(&mut self, piece: &[u8]) -> Vec<String> {
        self.0.extend(piece);
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

/// An event, where it is one of those that count.
fn read(line: &str) -> Option<ContainerEvent> {
    let RawEvent { action, actor } = serde_json::from_str(line).ok()?;
    let what = match action.as_str() {
        "die" => {
            EventKind::Died { code: actor.attributes.get("exitCode").and_then(|c| c.as_str()?.parse().ok()) }
        }
        "oom" => EventKind::OutOfMemory,
        "health_status: unhealthy" => EventKind::Unhealthy,
        // Podman's engine says the status apart.
        "health_status" => {
            let status = actor.attributes.get("health_status")?.as_str()?;
            (status == "unhealthy").then_some(EventKind::Unhealthy)?
        }
        _ => return None,
    };
    Some(ContainerEvent { id: actor.id, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, attributes: &str) -> String {
        format!(
            r#"{{"Type":"container","Action":"{action}","Actor":{{"ID":"abc","Attributes":{attributes}}},"timeNano":1}}"#
        )
    }

    fn what(action: &str, attributes: &str) -> Option<EventKind> {
        let happening = read(&event(action, attributes))?;
        assert_eq!(happening.id, "abc");
        Some(happening.what)
    }

    #[test]
    fn a_death_is_told_with_its_code_and_only_what_counts_is_told() {
        assert_eq!(
            what("die", r#"{"exitCode":"137","name":"a"}"#),
            Some(EventKind::Died { code: Some(137) })
        );
        assert_eq!(what("die", "{}"), Some(EventKind::Died { code: None }));
        assert_eq!(what("oom", "{}"), Some(EventKind::OutOfMemory));
        assert_eq!(what("health_status: unhealthy", "{}"), Some(EventKind::Unhealthy));
        assert_eq!(what("health_status", r#"{"health_status":"unhealthy"}"#), Some(EventKind::Unhealthy));
        for (action, attributes) in [
            ("health_status: healthy", "{}"),
            ("health_status", r#"{"health_status":"healthy"}"#),
            ("health_status", "{}"),
            ("start", "{}"),
        ] {
            assert_eq!(what(action, attributes), None, "{action}");
        }
        assert_eq!(read("{}"), None);
        assert_eq!(read("not json"), None);
    }

    #[test]
    fn lines_come_in_pieces() {
        let mut lines = LineBuffer::default();
        assert_eq!(lines.push(b"on"), [""; 0]);
        assert_eq!(lines.push(b"e\ntwo\nthr"), ["one", "two"]);
        assert_eq!(lines.push(b"ee\n"), ["three"]);
    }

    #[test]
    fn the_engine_is_asked_for_the_containers_of_the_project() {
        assert_eq!(
            path("p"),
            "/events?filters=%7B%22event%22%3A%5B%22die%22%2C%22oom%22%2C%22health_status%22%5D%2C%22label%22%3A%5B%22\
             com.docker.compose.project%3Dp%22%5D%2C%22type%22%3A%5B%22container%22%5D%7D"
        );
    }
}
