//! The commands that a plan comes to, as they are run, and as a person would type them.

use super::compose::{create_words, start_words};
use super::{Docker, Exec};

/// A command of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerCommand<'a> {
    /// Creates instances beside those that exist, without starting them: `total` counts both.
    Create {
        service: &'a str,
        total: usize,
    },
    /// As Compose starts them, with its hooks and the secrets it copies in.
    StartByCompose {
        service: &'a str,
        total: usize,
    },
    Start(&'a str),
    Stop(&'a [String]),
    /// Sets what the engine does when it starts, or when it ends.
    SetRestart {
        policy: &'a str,
        names: &'a [String],
    },
    Remove(&'a [String]),
    Exec(&'a Exec),
}

impl DockerCommand<'_> {
    /// Its words after `docker`, or after `docker compose` and the project's flags.
    pub(super) fn words(&self) -> Vec<String> {
        let all =
            |verb: &str, names: &[String]| std::iter::once(verb.to_string()).chain(names.to_vec()).collect();
        match self {
            DockerCommand::Create { service, total } => create_words(service, *total),
            DockerCommand::StartByCompose { service, total } => start_words(service, *total),
            DockerCommand::Start(name) => vec!["start".into(), name.to_string()],
            DockerCommand::Stop(names) => all("stop", names),
            DockerCommand::SetRestart { policy, names } => {
                ["update", "--restart", policy].map(String::from).into_iter().chain(names.to_vec()).collect()
            }
            DockerCommand::Remove(names) => all("rm", names),
            DockerCommand::Exec(exec) => exec.words(),
        }
    }

    fn is_composes(&self) -> bool {
        matches!(self, DockerCommand::Create { .. } | DockerCommand::StartByCompose { .. })
    }
}

impl Docker {
    /// A command as it is typed: `docker …`. What is the user's own and may hold secrets is left out.
    pub fn typed(&self, call: &DockerCommand) -> Vec<String> {
        let mut words = match call {
            DockerCommand::Exec(exec) if exec.private => {
                let kept = exec.words().len().saturating_sub(exec.argv.len()) + 1;
                exec.words().into_iter().take(kept).chain(["…".to_string()]).collect()
            }
            call => call.words(),
        };
        let short: Vec<&str> = words.iter().map(String::as_str).collect();
        let argv = if call.is_composes() { self.compose_words(&short) } else { self.docker_words(&short) };
        words = argv;
        // The path at which it was found says nothing to anybody else.
        if let Some(name) = words[0].rsplit('/').next().map(String::from) {
            words[0] = name;
        }
        words
    }
}
