//! The plan of a dry run, with its commands. Pure.

use serde::{Deserialize, Serialize};

use crate::shell;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStep {
    pub verb: String,
    pub names: Vec<String>,
    pub text: String,
    #[serde(alias = "cause")]
    pub reason: String,
    #[serde(alias = "does")]
    pub actions: Vec<PlannedCommand>,
}

/// An action of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlannedCommand {
    /// A command, as a list of arguments.
    Command(Vec<String>),
    /// An action whose command is not known yet.
    Note(String),
}

/// Lines of a plan. Without `verbose`, scripts are cut to their first line.
pub fn lines(steps: &[PlannedStep], verbose: bool) -> Vec<String> {
    let step = |(step, number): (&PlannedStep, usize)| {
        let head = format!("{number:>3}. {}  ({})", step.text, step.reason);
        std::iter::once(head)
            .chain(step.actions.iter().flat_map(|a| action_lines(a, verbose)))
            .collect::<Vec<_>>()
    };
    steps.iter().zip(1..).flat_map(step).collect()
}

fn action_lines(action: &PlannedCommand, verbose: bool) -> Vec<String> {
    let text = match action {
        PlannedCommand::Note(text) => return vec![format!("       {text}")],
        PlannedCommand::Command(words) => {
            words.iter().map(|w| argument(w, verbose)).collect::<Vec<_>>().join(" ")
        }
    };
    let prefix = |n: usize| if n == 0 { "       $ " } else { "         " };
    text.lines().enumerate().map(|(n, line)| format!("{}{line}", prefix(n))).collect()
}

/// An argument, quoted for the shell.
fn argument(word: &str, verbose: bool) -> String {
    match word.split_once('\n') {
        Some((first, _)) if !verbose => shell::word(&format!("{first} …")),
        _ => shell::word(word),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_lists_its_steps_with_their_commands() {
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
                actions: vec![PlannedCommand::Note("probe each with GET /".into())],
                ..PlannedStep::default()
            },
        ];
        assert_eq!(
            lines(&steps, false),
            [
                "  1. gate app-3  (the new release is not there yet)",
                "       $ docker exec lb 'set -e …'",
                "  2. wait until ready: app-3  (not yet ready)",
                "       probe each with GET /",
            ]
        );
        assert_eq!(
            lines(&steps, true)[1..3],
            ["       $ docker exec lb 'set -e", "         touch /m/<app-3>'"]
        );
    }
}
