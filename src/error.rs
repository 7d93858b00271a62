//! What can go wrong, in one shape: a message, what was seen, a hint, and the exit code it means.

use std::fmt;

/// How a run ends; the numbers are the contract of `--help` and the manual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Failed before anything was changed.
    Unchanged,
    /// Wrong usage or configuration.
    Usage,
    /// Failed; what served before serves unchanged.
    Kept,
    /// Failed, and what served before could not be restored.
    Broken,
    /// Another run holds the project's lock.
    Locked,
    /// The new release serves, but the witness lost requests (`--strict`).
    Lost,
    /// Another run took the lock in the middle of this one, which changes nothing more.
    LostLock,
    /// Stopped by this signal number; what served before serves.
    Interrupted(i32),
}

impl Exit {
    /// The process exit code: `128 + signal` for an interrupt, as shells count it.
    pub fn code(self) -> u8 {
        match self {
            Exit::Unchanged => 1,
            Exit::Usage => 2,
            Exit::Kept => 3,
            Exit::Broken => 4,
            Exit::Locked => 5,
            Exit::Lost => 6,
            Exit::LostLock => 7,
            Exit::Interrupted(signal) => 128u8.saturating_add(signal as u8),
        }
    }
}

/// The name of a rule, by a thin pointer: a fault is returned from everywhere, and has to be small.
pub type Rule = &'static &'static str;

/// An error that a person can act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub exit: Exit,
    pub message: String,
    /// What was seen, a line each: answers, log lines, stderr of a command.
    pub details: Vec<String>,
    pub hint: Option<String>,
    /// The stable name of the rule that is broken, where `check` has one for it.
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

    /// A signal that asked to stop.
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

    /// Adds what was seen, one entry a line, without empty lines.
    pub fn seen(mut self, text: &str) -> Self {
        let lines = text.lines().map(str::trim_end).filter(|l| !l.is_empty());
        self.details.extend(lines.map(String::from));
        self
    }

    /// Reads any error as a fault; one that is not ours is a failure before anything was changed.
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

/// What goes on all the same, and loses something or is worth a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Risk {
    /// The stable name of the rule that is broken.
    pub rule: &'static str,
    /// Requests are lost, and not only time.
    pub grave: bool,
    pub says: String,
    pub fix: String,
}

impl Risk {
    pub fn grave(rule: &'static str, says: impl Into<String>, fix: impl Into<String>) -> Risk {
        Risk { rule, grave: true, says: says.into(), fix: fix.into() }
    }

    pub fn note(rule: &'static str, says: impl Into<String>, fix: impl Into<String>) -> Risk {
        Risk { grave: false, ..Risk::grave(rule, says, fix) }
    }
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.says)?;
        match self.fix.as_str() {
            "" => Ok(()),
            fix => write!(f, "; {fix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_reads_message_then_what_was_seen_then_the_hint() {
        let error = Error::usage("no").seen("a\n\n b  \n").hint("do");
        assert_eq!(error.to_string(), "no\n  a\n   b\nhint: do");
    }

    #[test]
    fn exit_codes_are_the_documented_ones() {
        let exits = [Exit::Unchanged, Exit::Usage, Exit::Kept, Exit::Broken, Exit::Locked, Exit::Lost];
        assert_eq!(exits.map(Exit::code), [1, 2, 3, 4, 5, 6]);
        assert_eq!(Exit::Interrupted(2).code(), 130);
        assert_eq!(Exit::Interrupted(15).code(), 143);
    }
}
