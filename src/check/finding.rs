//! Findings of the rules.

use serde::Serialize;

use crate::error::{Error, Risk};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A deploy loses requests or data, or is refused.
    No,
    /// Advice.
    Note,
}

/// Subject of a finding: a service, a proxy, or the project if both are none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Scope {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Kind and container name.
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable name of the rule.
    pub rule: &'static str,
    pub severity: Severity,
    #[serde(flatten)]
    pub scope: Scope,
    pub message: String,
    pub hint: String,
}

impl Finding {
    pub fn no(
        rule: &'static str,
        scope: Scope,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Finding {
        Finding { rule, severity: Severity::No, scope, message: message.into(), hint: hint.into() }
    }

    pub fn note(
        rule: &'static str,
        scope: Scope,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Finding {
        Finding { severity: Severity::Note, ..Finding::no(rule, scope, message, hint) }
    }

    /// A reason for which a deploy would be refused.
    pub fn refused(scope: Scope, error: Error) -> Finding {
        let details = error.details.iter().map(|d| format!("; {d}")).collect::<String>();
        let message = format!("{}{details}", error.message.trim_end_matches("; nothing was changed"));
        Finding::no(error.rule.map_or("refused", |rule| rule), scope, message, error.hint.unwrap_or_default())
    }

    /// A risk of which a deploy would warn.
    pub fn from_risk(scope: Scope, risk: Risk) -> Finding {
        let severity = if risk.grave { Severity::No } else { Severity::Note };
        Finding { rule: risk.rule, severity, scope, message: risk.message, hint: risk.fix }
    }

    pub fn is_no(&self) -> bool {
        self.severity == Severity::No
    }
}
