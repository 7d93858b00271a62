//! Changes of a project: how `up` brings each service to what the file says, and why. Pure.

use derive_more::Display;
use serde::{Deserialize, Serialize};

/// Way of a service to what the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Display)]
#[serde(tag = "way", rename_all = "snake_case")]
pub enum Way {
    /// New instances replace the old ones behind a proxy.
    #[display("roll")]
    Roll,
    /// Requests wait while the only instance is replaced.
    #[display("hold")]
    Hold {
        /// Reason for which only one instance may run.
        cause: String,
    },
    /// New instances replace the old ones, and no proxy routes to the service.
    #[display("replace when ready")]
    ReplaceWhenReady,
    /// The proxy reads its changed files again.
    #[display("reload")]
    Reload,
    #[display("scale {from} → {to}")]
    Scale { from: usize, to: usize },
    /// No instance runs.
    #[display("start")]
    Start,
    /// Compose recreates the container, which means downtime.
    #[display("recreate, with downtime")]
    Recreate {
        /// Reason for which the service cannot be replaced without downtime.
        obstacle: String,
    },
    #[display("remove")]
    Remove,
    /// The service stays as it is, although it differs from the file.
    #[display("leave")]
    Leave {
        /// What to do about it.
        hint: String,
    },
    #[display("unchanged")]
    Unchanged,
}

/// A key whose value differs from that of the running version. Secrets are masked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// Path of the key in the service, such as `environment.MODE`.
    pub key: String,
    /// None for a new key.
    pub old: Option<String>,
    /// None for a key that is gone.
    pub new: Option<String>,
}

/// Change of one service or pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Display)]
#[display("`{service}`: {way}{}{}", self.note(), self.reasons_text())]
pub struct ServiceChange {
    pub service: String,
    #[serde(flatten)]
    pub way: Way,
    pub reasons: Vec<String>,
    pub diff: Vec<KeyChange>,
}

impl ServiceChange {
    fn reasons_text(&self) -> String {
        if self.reasons.is_empty() { String::new() } else { format!(" ({})", self.reasons.join("; ")) }
    }

    /// Cause, obstacle or hint of the way.
    fn note(&self) -> String {
        match &self.way {
            Way::Hold { cause: note } | Way::Recreate { obstacle: note } | Way::Leave { hint: note } => {
                format!(", {note}")
            }
            _ => String::new(),
        }
    }

    /// Row of a table: service, way and reasons.
    pub fn row(&self) -> Vec<String> {
        let note = self.note();
        let reasons = [self.reasons.join("; "), note.trim_start_matches(", ").into()];
        let all: Vec<&str> = reasons.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
        vec![self.service.clone(), self.way.to_string(), all.join("; ")]
    }

    /// Lines of the diff: `-` with the old value, `+` with the new one.
    pub fn diff_lines(&self) -> Vec<String> {
        let line = |sign: char, key: &str, value: &String| format!("  {sign} {key}: {value}");
        let lines = |change: &KeyChange| {
            let old = change.old.iter().map(|value| line('-', &change.key, value));
            let new = change.new.iter().map(|value| line('+', &change.key, value));
            old.chain(new).collect::<Vec<_>>()
        };
        self.diff.iter().flat_map(lines).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_reads_as_a_line_and_as_json() {
        let change = ServiceChange {
            service: "db".into(),
            way: Way::Recreate { obstacle: "PostgreSQL must not run twice".into() },
            reasons: vec!["image db:1 → db:2".into()],
            diff: vec![KeyChange { key: "image".into(), old: Some("db:1".into()), new: Some("db:2".into()) }],
        };
        assert_eq!(
            change.to_string(),
            "`db`: recreate, with downtime, PostgreSQL must not run twice (image db:1 → db:2)"
        );
        assert_eq!(change.row()[2], "image db:1 → db:2; PostgreSQL must not run twice");
        assert_eq!(change.diff_lines(), ["  - image: db:1", "  + image: db:2"]);
        let json = serde_json::to_value(&change).unwrap();
        assert_eq!((json["way"].as_str(), json["obstacle"].is_string()), (Some("recreate"), true));
        assert_eq!(serde_json::from_value::<ServiceChange>(json).unwrap(), change);
    }
}
