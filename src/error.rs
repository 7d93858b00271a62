//! Error: a message, details, a hint, and the exit code.

use std::fmt;

/// End of a run; the numbers are the contract of `--help` and the manual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Failed before anything was changed.
    Unchanged,
    /// Wrong usage or configuration.
    Usage,
    /// Failed; the old release still serves.
    StillServing,
    /// Failed; the old release does not serve, and could not be restored.
    Outage,
    /// Another run holds the project's lock.
    Locked,
    /// The new release serves, but the witness lost requests (`--strict`).
    RequestsLost,
    /// Another run took the lock during this run, which changes nothing more.
    LostLock,
    /// Stopped by this signal number; the old release still serves.
    Interrupted(i32),
}

impl Exit {
    /// Exit code of the process: `128 + signal` for an interrupt, as shells count it.
    pub fn code(self) -> u8 {
        match self {
            Exit::Unchanged => 1,
            Exit::Usage => 2,
            Exit::StillServing => 3,
            Exit::Outage => 4,
            Exit::Locked => 5,
            Exit::RequestsLost => 6,
            Exit::LostLock => 7,
            Exit::Interrupted(signal) => 128u8.saturating_add(signal as u8),
        }
    }
}

/// Name of a rule. The double reference is one word long, which keeps [`Error`] small: nearly every function
/// returns one.
pub type Rule = &'static &'static str;

/// Error that a person can act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub exit: Exit,
    pub message: String,
    /// Further output, one entry a line: answers, log lines, stderr of a command.
    pub details: Vec<String>,
    pub hint: Option<String>,
    /// Stable name of the broken rule, if `check` has one.
    pub rule: Option<Rule>,
}

impl Error {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Error { exit, message: message.into(), details: Vec::new(), hint: None, rule: None }
    }

    /// A failure before anything was changed.
    pub fn unchanged(message: impl Into<String>) -> Self {
        Error::new(Exit::Unchanged, message)
    }

    /// Wrong usage or configuration.
    pub fn usage(message: impl Into<String>) -> Self {
        Error::new(Exit::Usage, message)
    }

    /// Stopped by a signal.
    pub fn interrupted(signal: i32) -> Self {
        Error::new(Exit::Interrupted(signal), format!("interrupted by signal {signal}"))
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn rule(mut self, rule: Rule) -> Self {
        self.rule = Some(rule);
        self
    }

    /// Adds further output, one entry a line, without empty lines.
    pub fn detail(mut self, text: &str) -> Self {
        let lines = text.lines().map(str::trim_end).filter(|l| !l.is_empty());
        self.details.extend(lines.map(String::from));
        self
    }

    /// Converts any error; one of another kind becomes a failure before anything was changed.
    pub fn from_error(error: anyhow::Error) -> Self {
        error.downcast::<Error>().unwrap_or_else(|other| Error::unchanged(format!("{other:#}")))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        self.details.iter().try_for_each(|d| write!(f, "\n  {d}"))?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_its_message_then_its_details_then_its_hint() {
        let error = Error::usage("no").detail("a\n\n b  \n").hint("do");
        assert_eq!(error.to_string(), "no\n  a\n   b\nhint: do");
    }

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let exits = [
            Exit::Unchanged,
            Exit::Usage,
            Exit::StillServing,
            Exit::Outage,
            Exit::Locked,
            Exit::RequestsLost,
        ];
        assert_eq!(exits.map(Exit::code), [1, 2, 3, 4, 5, 6]);
        assert_eq!(Exit::Interrupted(2).code(), 130);
        assert_eq!(Exit::Interrupted(15).code(), 143);
    }
}
