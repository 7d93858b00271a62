//! Command in a container, and the arguments of `docker exec` or `docker run` that start it.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{
    Abort, AbortCheck, CommandResult, Docker, MAX_PROXY_OUTPUT, MAX_USER_OUTPUT, container_shell,
    shown_words, with_variables,
};
use crate::process::Command;

/// Limit of a command in a container, unless it has one of its own.
const EXEC_LIMIT: Duration = Duration::from_secs(60);

/// Command that runs in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exec {
    pub container: String,
    pub argv: Vec<String>,
    /// Standard input of the command.
    pub stdin: Option<String>,
    /// Options of `docker exec`, or of the sidecar's `docker run`.
    pub options: Vec<String>,
    /// Environment of the command. The values may be secret: docker gets only their names as arguments, because
    /// other users of this machine can read the arguments of a process. Docker finds the values in its own
    /// environment.
    pub variables: Vec<(String, String)>,
    /// True for a user's own command, which may hold secrets: only its first word is shown.
    pub private: bool,
    /// Time limit of the command; `None` for the default.
    pub limit: Option<Duration>,
    /// Image of a sidecar: a temporary container that runs the command in the network of `container`. The sidecar may
    /// write the settings of the network, which are read-only in `container`.
    pub sidecar_image: Option<String>,
}

impl Exec {
    /// Script for the `sh` in the container.
    pub fn sh(container: &str, script: impl Into<String>) -> Self {
        Exec::new(container, vec!["sh".into(), "-c".into(), script.into()])
    }

    pub fn new(container: &str, argv: Vec<String>) -> Self {
        Exec { container: container.into(), argv, ..Exec::default() }
    }

    /// A user's own command.
    pub fn user_command(container: &str, argv: Vec<String>) -> Self {
        Exec { private: true, ..Exec::new(container, argv) }
    }

    /// The same command with a time limit.
    pub fn with_limit(self, limit: Duration) -> Self {
        Exec { limit: Some(limit), ..self }
    }

    /// Script in a sidecar, which may change the network settings of `container`. `image` has to have `sh`.
    pub fn sidecar(container: &str, image: &str, script: impl Into<String>) -> Self {
        Exec { sidecar_image: Some(image.into()), ..Exec::sh(container, script) }
    }

    /// The command for display; `argv` is the whole command line.
    pub(super) fn shown(&self, argv: &[String]) -> String {
        if self.private {
            format!("{} …", shown_words(&argv[1..argv.len().saturating_sub(self.argv.len()) + 1]))
        } else {
            shown_words(&argv[1..])
        }
    }

    pub(super) fn words(&self) -> Vec<String> {
        match &self.sidecar_image {
            Some(image) => self.sidecar_words(image),
            None => self.exec_words(),
        }
    }

    fn sidecar_words(&self, image: &str) -> Vec<String> {
        let network = format!("container:{}", self.container);
        let [program, arguments @ ..] = &self.argv[..] else {
            return Vec::new();
        };
        let mut words = ["run", "--rm", "--pull", "never", "--network", &network].map(String::from).to_vec();
        words.extend(["--security-opt", "systempaths=unconfined", "--user", "0"].map(String::from));
        words.extend(self.options.iter().cloned());
        words.extend(env_words(&self.variables));
        words.extend(["--entrypoint", program, image].map(String::from));
        words.extend(arguments.iter().cloned());
        words
    }

    fn exec_words(&self) -> Vec<String> {
        let mut words = vec!["exec".to_string()];
        words.extend(self.stdin.is_some().then(|| "-i".to_string()));
        words.extend(self.options.iter().cloned());
        words.extend(env_words(&self.variables));
        words.push(self.container.clone());
        words.extend(self.argv.iter().cloned());
        words
    }
}

impl Docker {
    /// Runs a command in a container, up to its limit. A plain script runs in a shell that is kept open there, in a
    /// tenth of the time. A signal ends a user's command. It does not end a command of ours, which changes a proxy
    /// and has limits.
    ///
    /// # Errors
    /// Docker cannot be started, the engine does not answer, or a signal. The result holds the command's own failure.
    pub fn exec(&self, exec: &Exec) -> Result<CommandResult> {
        if self.lists_exec(exec) {
            return Ok(CommandResult { code: Some(0), ..CommandResult::default() });
        }
        self.exec_until(exec, &|| self.signal().filter(|_| exec.private))
    }

    /// As [`Docker::exec`], for a command that changes nothing: a signal ends the command.
    pub fn query(&self, exec: &Exec) -> Result<CommandResult> {
        self.exec_until(exec, &|| self.signal())
    }

    fn signal(&self) -> Option<Abort> {
        self.stop.signal().map(Abort::Signal)
    }

    fn exec_until(&self, exec: &Exec, signal: AbortCheck) -> Result<CommandResult> {
        let (start, limit) = (Instant::now(), exec.limit.unwrap_or_else(|| self.scaled(EXEC_LIMIT)));
        let time_out = || match start.elapsed() {
            elapsed if elapsed >= limit => Some(Abort::TimedOut(limit)),
            elapsed => (exec.private && self.stop.is_hurried()).then_some(Abort::TimedOut(elapsed)),
        };
        let abort = || signal().or_else(time_out);
        let (shown, command) = self.exec_command(exec);
        let in_shell = container_shell::can_run(exec).then(|| self.exec_in_shell(exec, &abort)).flatten();
        let result = match in_shell {
            Some(result) => {
                (self.observer)(&shown, start.elapsed());
                result
            }
            None => self.run_until(&shown, &command, MAX_PROXY_OUTPUT, &abort)?,
        };
        result.or_else(|abort| match abort {
            Abort::TimedOut(limit) => {
                let stderr = format!("no answer within {}", humantime::format_duration(rounded(limit)));
                Ok(CommandResult { stderr, ..CommandResult::default() })
            }
            abort => Err(self.abort_error(&shown, start.elapsed(), abort).into()),
        })
    }

    /// As [`Docker::exec`], for at most `limit`. A command that takes longer is left running in its container and has
    /// no result. Reads at most the first 64 KiB of the output.
    pub fn exec_within(&self, exec: &Exec, limit: Duration) -> Result<Option<CommandResult>> {
        let (shown, command) = self.exec_command(exec);
        self.run_user_command(&shown, &command, limit)
    }

    /// Result of a command that runs the user's code; `None` if the command takes longer than `limit`.
    pub(super) fn run_user_command(
        &self,
        shown: &str,
        command: &Command,
        limit: Duration,
    ) -> Result<Option<CommandResult>> {
        let start = Instant::now();
        let time_out = || (start.elapsed() >= limit).then_some(Abort::TimedOut(limit));
        match self.run_until(shown, command, MAX_USER_OUTPUT, &time_out)? {
            Ok(result) => Ok(Some(result)),
            Err(Abort::TimedOut(_)) => Ok(None),
            Err(abort) => Err(self.abort_error(shown, start.elapsed(), abort).into()),
        }
    }

    /// The command for display, and the command.
    fn exec_command(&self, exec: &Exec) -> (String, Command) {
        let argv = self.docker_words(&exec.words().iter().map(String::as_str).collect::<Vec<_>>());
        let input = exec.stdin.as_ref().map(|text| text.clone().into_bytes());
        (exec.shown(&argv), with_variables(self.command(&argv), &exec.variables).stdin(input))
    }
}

/// Rounds down to whole seconds; a time below one second stays as it is.
fn rounded(time: Duration) -> Duration {
    if time < Duration::from_secs(1) { time } else { Duration::from_secs(time.as_secs()) }
}

/// Flags that pass environment variables to the command. Docker takes their values from its own environment.
pub(super) fn env_words(variables: &[(String, String)]) -> impl Iterator<Item = String> {
    let assignment = |(name, value): &(String, String)| {
        if is_read_by_docker(name) { format!("{name}={value}") } else { name.clone() }
    };
    variables.iter().flat_map(move |variable| ["--env".to_string(), assignment(variable)])
}

/// True for a variable that docker's client reads itself. Its value is passed as an argument, so that the client does not
/// read it.
pub(super) fn is_read_by_docker(name: &str) -> bool {
    let names = ["PATH", "HOME", "TMPDIR", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK"];
    let name = name.to_uppercase();
    names.contains(&name.as_str())
        || ["DOCKER", "OTEL", "LD_", "GO"].iter().any(|p| name.starts_with(p))
        || name.ends_with("_PROXY")
}
