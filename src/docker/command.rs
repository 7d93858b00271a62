//! Docker commands of a plan, in the form that runs and in the form that a person types.

use super::compose::{create_words, start_words};
use super::{Docker, Exec};

/// Docker command of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerCommand<'a> {
    /// Creates instances beside the existing ones, without starting them; `total` counts both.
    Create {
        service: &'a str,
        total: usize,
    },
    /// Starts instances through Compose, with its hooks and the secrets it copies in.
    StartByCompose {
        service: &'a str,
        total: usize,
    },
    Start(&'a str),
    Stop(&'a [String]),
    /// Sets the restart policy of containers.
    SetRestart {
        policy: &'a str,
        names: &'a [String],
    },
    Remove(&'a [String]),
    Exec(&'a Exec),
}

impl DockerCommand<'_> {
    /// Words after `docker`, or after `docker compose` and the project's flags.
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

    fn uses_compose(&self) -> bool {
        matches!(self, DockerCommand::Create { .. } | DockerCommand::StartByCompose { .. })
    }
}

impl Docker {
    /// Command as a person types it: `docker …`. The arguments of a user's own command may hold secrets and are
    /// left out.
    pub fn display_argv(&self, command: &DockerCommand) -> Vec<String> {
        let mut words = match command {
            DockerCommand::Exec(exec) if exec.private => {
                let shown = exec.words().len().saturating_sub(exec.argv.len()) + 1;
                exec.words().into_iter().take(shown).chain(["…".to_string()]).collect()
            }
            command => command.words(),
        };
        let short: Vec<&str> = words.iter().map(String::as_str).collect();
        let argv =
            if command.uses_compose() { self.compose_words(&short) } else { self.docker_words(&short) };
        words = argv;
        // The folder of the program means nothing on another machine.
        if let Some(name) = words[0].rsplit('/').next().map(String::from) {
            words[0] = name;
        }
        words
    }
}
