//! What a rule has found, and of what.

use serde::Serialize;

use crate::error::{Error, Risk};

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Requests or data are lost, or a deploy is refused.
    No,
    /// Advice.
    Note,
}

/// What it is about; the project as a whole where it is neither.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Scope {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// By its container's name, and of which kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
}

impl Scope {
    pub fn service(name: &str) -> Scope {
        Scope { service: Some(name.into()), proxy: None }
    }

    pub fn proxy(name: &str) -> Scope {
        Scope { service: None, proxy: Some(name.into()) }
    }
}

/// What a rule has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Its stable name.
    pub rule: &'static str,
    pub severity: Severity,
    #[serde(flatten)]
    pub scope: Scope,
    pub message: String,
    pub hint: String,
}

impl Finding {
    pub fn no(rule: &'static str, scope: Scope, says: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { rule, severity: Severity::No, scope, message: says.into(), hint: fix.into() }
    }

    pub fn note(
        rule: &'static str,
        about: Scope,
        says: impl Into<String>,
        fix: impl Into<String>,
    ) -> Finding {
        Finding { severity: Severity::Note, ..Finding::no(rule, about, says, fix) }
    }

    /// What a deploy would be refused for.
    pub fn refused(about: Scope, error: Error) -> Finding {
        let seen = error.details.iter().map(|d| format!("; {d}")).collect::<String>();
        let says = format!("{}{seen}", error.message.trim_end_matches("; nothing was changed"));
        Finding::no(error.rule.map_or("refused", |rule| rule), about, says, error.hint.unwrap_or_default())
    }

    /// What a deploy would warn of.
    pub fn from_risk(scope: Scope, loss: Risk) -> Finding {
        let severity = if loss.grave { Severity::No } else { Severity::Note };
        Finding { rule: loss.rule, severity, scope, message: loss.message, hint: loss.fix }
    }

    pub fn is_no(&self) -> bool {
        self.severity == Severity::No
    }
}
