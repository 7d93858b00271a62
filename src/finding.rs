//! Finding: a reason for which a deploy is refused, a loss that it would cause, or advice; each with its fix.

use std::fmt;

use serde::Serialize;

use crate::error::{Error, Exit};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Severity {
    /// A deploy is refused, with this exit code.
    #[serde(rename = "no")]
    Refused(#[serde(skip)] Exit),
    /// A deploy loses requests or data.
    #[serde(rename = "no")]
    Loss,
    /// Advice.
    #[serde(rename = "note")]
    Note,
}

/// Subject of a finding, unless it is the whole project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    Service(String),
    /// Kind and container name.
    Proxy(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable name of the rule.
    pub rule: &'static str,
    pub severity: Severity,
    #[serde(flatten)]
    pub subject: Option<Subject>,
    pub message: String,
    /// Further output, one entry a line.
    #[serde(skip)]
    pub details: Vec<String>,
    pub hint: String,
}

impl Finding {
    pub fn loss(rule: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Finding {
        let (message, hint) = (message.into(), hint.into());
        Finding { rule, severity: Severity::Loss, subject: None, message, details: Vec::new(), hint }
    }

    pub fn note(rule: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Finding {
        Finding { severity: Severity::Note, ..Finding::loss(rule, message, hint) }
    }

    /// Refusal for wrong usage or configuration.
    pub fn usage(rule: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Finding {
        Finding { severity: Severity::Refused(Exit::Usage), ..Finding::loss(rule, message, hint) }
    }

    /// Refusal because of what runs.
    pub fn unchanged(rule: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Finding {
        Finding { severity: Severity::Refused(Exit::Unchanged), ..Finding::loss(rule, message, hint) }
    }

    /// Sets the service, unless the finding has a subject.
    pub fn of_service(self, name: &str) -> Finding {
        self.or_of(|| Subject::Service(name.into()))
    }

    /// Sets the subject, unless the finding has one.
    pub fn or_of(self, subject: impl FnOnce() -> Subject) -> Finding {
        Finding { subject: self.subject.or_else(|| Some(subject())), ..self }
    }

    /// Adds for a deploy that nothing was changed.
    pub fn nothing_changed(mut self) -> Finding {
        self.message.push_str("; nothing was changed");
        self
    }

    pub fn service(&self) -> Option<&str> {
        match &self.subject {
            Some(Subject::Service(name)) => Some(name),
            _ => None,
        }
    }

    pub fn proxy(&self) -> Option<&str> {
        match &self.subject {
            Some(Subject::Proxy(name)) => Some(name),
            _ => None,
        }
    }

    pub fn is_refusal(&self) -> bool {
        matches!(self.severity, Severity::Refused(_))
    }

    /// True if a deploy loses something or is refused.
    pub fn is_loss(&self) -> bool {
        self.severity != Severity::Note
    }
}

/// Warnings of a deploy that these findings do not refuse.
///
/// # Errors
/// The first refusal.
pub fn require(findings: impl IntoIterator<Item = Finding>) -> Result<Vec<Finding>, Error> {
    let warning = |f: Finding| if f.is_refusal() { Err(f.into()) } else { Ok(f) };
    findings.into_iter().map(warning).collect()
}

/// Text of a warning.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "; {}", self.hint) }
    }
}

impl From<Error> for Finding {
    fn from(error: Error) -> Finding {
        let severity = Severity::Refused(error.exit);
        let rule = error.rule.map_or("refused", |rule| rule);
        let refused = Finding::loss(rule, error.message, error.hint.unwrap_or_default());
        Finding { severity, details: error.details, ..refused }
    }
}

/// Error of a deploy that a finding refuses.
impl From<Finding> for Error {
    fn from(finding: Finding) -> Error {
        let exit = match finding.severity {
            Severity::Refused(exit) => exit,
            Severity::Loss | Severity::Note => Exit::Unchanged,
        };
        let hint = Some(finding.hint).filter(|hint| !hint.is_empty());
        Error { details: finding.details, hint, ..Error::new(exit, finding.message) }
    }
}
