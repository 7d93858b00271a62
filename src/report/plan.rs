//! A plan with the commands that it comes to, as `--dry-run` prints it. Pure.

use serde::{Deserialize, Serialize};

use crate::shell;

/// One step of a plan that is not begun.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStep {
    pub verb: String,
    pub names: Vec<String>,
    /// What it does, and why it is there.
    pub text: String,
    #[serde(alias = "cause")]
    pub reason: String,
    #[serde(alias = "does")]
    pub actions: Vec<PlannedCommand>,
}

/// A part of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlannedCommand {
    /// A command, word by word.
    Command(Vec<String>),
    /// What no command of now can say.
    Note(String),
}

/// The lines of a plan. Scripts are cut to their first line, unless all is asked for.
pub fn lines(steps: &[PlannedStep], whole: bool) -> Vec<String> {
    let step = |(step, number): (&PlannedStep, usize)| {
        let head = format!("{number:>3}. {}  ({})", step.text, step.reason);
        std::iter::once(head).chain(step.actions.iter().flat_map(|d| doing(d, whole))).collect::<Vec<_>>()
    };
    steps.iter().zip(1..).flat_map(step).collect()
}

fn doing(doing: &PlannedCommand, whole: bool) -> Vec<String> {
    let text = match doing {
        PlannedCommand::Note(text) => return vec![format!("       {text}")],
        PlannedCommand::Command(words) => words.iter().map(|w| word(w, whole)).collect::<Vec<_>>().join(" "),
    };
    let mark = |n: usize| if n == 0 { "       $ " } else { "         " };
    text.lines().enumerate().map(|(n, line)| format!("{}{line}", mark(n))).collect()
}

/// A word as a shell takes it.
fn word(word: &str, whole: bool) -> String {
    match word.split_once('\n') {
        Some((first, _)) if !whole => shell::word(&format!("{first} …")),
        _ => shell::word(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_step_by_step_with_its_commands() {
        let script = "set -e\ntouch /m/<app-3>".to_string();
        let steps = [
            PlannedStep {
                text: "gate app-3".into(),
                reason: "the new release is not there yet".into(),
                actions: vec![PlannedCommand::Command(vec![
                    "docker".into(),
                    "exec".into(),
                    "lb".into(),
                    script,
                ])],
                ..PlannedStep::default()
            },
            PlannedStep {
                text: "wait until ready: app-3".into(),
                reason: "not yet ready".into(),
                actions: vec![PlannedCommand::Note("each is asked GET /".into())],
                ..PlannedStep::default()
            },
        ];
        assert_eq!(
            lines(&steps, false),
            [
                "  1. gate app-3  (the new release is not there yet)",
                "       $ docker exec lb 'set -e …'",
                "  2. wait until ready: app-3  (not yet ready)",
                "       each is asked GET /",
            ]
        );
        assert_eq!(
            lines(&steps, true)[1..3],
            ["       $ docker exec lb 'set -e", "         touch /m/<app-3>'"]
        );
    }
}
