//! Address of the engine, and the check that the engine still answers.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{CommandResult, Docker, MAX_OUTPUT, shown_words};
use crate::error::Error;

/// Time that a command may take before its engine is checked, and limit for the answer to that check.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    pub check_after: Duration,
    pub answer: Duration,
}

/// Default of `--engine-timeout`, after which an engine counts as silent. Every other limit for an answer is scaled
/// with this one. An engine under load, or behind a slow connection, has taken 20 s.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// The two parts of [`TIMEOUT`].
pub const TIMEOUTS: Timeouts =
    Timeouts { check_after: Duration::from_secs(30), answer: Duration::from_secs(90) };

/// Timeouts for an engine that was silent before: a short check is enough.
pub const SILENT_TIMEOUTS: Timeouts =
    Timeouts { check_after: Duration::from_secs(5), answer: Duration::from_secs(5) };

/// Limit for reading docker's contexts, which needs no engine.
const CONTEXT_LIMIT: Duration = Duration::from_secs(15);

/// Time during which a command is retried that an ssh server refused, and the interval.
pub const CONNECT_RETRY: Duration = Duration::from_secs(60);
pub const CONNECT_RETRY_POLL: Duration = Duration::from_millis(300);

/// True if an ssh server closed the connection before the login. The server accepts ten such connections at a time
/// unless its `MaxStartups` differs, and every docker command is a connection of its own.
fn was_refused_by_ssh(result: &CommandResult) -> bool {
    !result.ok() && result.stderr.contains("exchange_identification: ")
}

/// True if docker's client could not read the engine's version, and therefore used its own.
fn is_version_unknown(result: &CommandResult) -> bool {
    !result.ok() && result.stderr.contains("is too new. Maximum supported API version")
}

/// Engine of docker's client, by the client's flags, environment and contexts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineAddress {
    context: String,
    /// `unix:///var/run/docker.sock`, `tcp://…` or `ssh://…`; empty if docker does not report it.
    host: String,
}

impl EngineAddress {
    /// Parses the output of `docker context inspect` in the format of [`Docker::engine_address`].
    fn parse(text: &str) -> EngineAddress {
        let (context, host) = text.trim().split_once(' ').unwrap_or_default();
        EngineAddress { context: context.into(), host: host.into() }
    }

    /// True if the address is on another machine. A local socket or port may also lead to one; that is not known here.
    pub fn is_remote(&self) -> bool {
        let Some((scheme, rest)) = self.host.split_once("://") else { return false };
        let local = ["127.", "localhost", "[::1]"].iter().any(|name| rest.starts_with(name));
        scheme == "ssh" || (["tcp", "http", "https"].contains(&scheme) && !local)
    }

    /// Hint for an engine that does not answer.
    pub fn hint(&self) -> String {
        let other = "or name another with `--context` or `--host`";
        match self.host.split_once("://") {
            Some(("ssh", host)) => format!(
                "`ssh {} docker version` has to work without a prompt, {other}",
                host.split('/').next().unwrap_or(host)
            ),
            Some(("tcp" | "http" | "https", _)) => {
                format!("check that it runs, and that this machine reaches that address, {other}")
            }
            _ => format!("start it (`systemctl start docker`), {other}"),
        }
    }
}

/// ` at …`, or nothing for the default socket.
impl fmt::Display for EngineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let EngineAddress { context, host } = self;
        match context.as_str() {
            _ if host.is_empty() || host == "unix:///var/run/docker.sock" => Ok(()),
            "default" => write!(f, " at `{host}`"),
            _ => write!(f, " at `{host}` (context `{context}`)"),
        }
    }
}

/// True if `docker context use` has set a context.
fn has_own_context() -> bool {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
    let file = folder.and_then(|f| std::fs::read_to_string(f.join("config.json")).ok());
    file.is_some_and(|text| text.contains("\"currentContext\""))
}

/// Command that only an engine that answers completes.
pub(super) const VERSION: [&str; 3] = ["version", "--format", "{{.Server.Version}}"];

impl Docker {
    /// The same client, with this `--engine-timeout`.
    pub fn with_engine_timeout(self, limit: Duration) -> Docker {
        Docker { engine_timeout: limit, ..self }
    }

    pub(super) fn current_timeouts(&self) -> Timeouts {
        let is_silent = self.is_silent.load(Ordering::Relaxed);
        let Timeouts { check_after, answer } = if is_silent { SILENT_TIMEOUTS } else { TIMEOUTS };
        Timeouts { check_after: self.scaled(check_after), answer: self.scaled(answer) }
    }

    /// Scales a default limit with `--engine-timeout`.
    pub fn scaled(&self, default: Duration) -> Duration {
        default.mul_f64(self.engine_timeout.as_secs_f64() / TIMEOUT.as_secs_f64())
    }

    /// Address of the engine; empty if docker does not report it. A known address is not queried again.
    pub fn engine_address(&self) -> EngineAddress {
        if let Some(known) = self.address.get() {
            return known.clone();
        }
        let format = "{{.Name}} {{.Endpoints.docker.Host}}";
        let result = self.run_unchecked(&["context", "inspect", "--format", format], CONTEXT_LIMIT);
        match result.filter(CommandResult::ok) {
            Some(output) => self.address.get_or_init(|| EngineAddress::parse(&output.stdout)).clone(),
            None => EngineAddress::default(),
        }
    }

    /// True if the engine is on another machine. Without a named engine this needs no query.
    pub fn is_remote(&self) -> bool {
        let variable = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let given = !self.flags.engine.is_empty() || variable("DOCKER_HOST") || variable("DOCKER_CONTEXT");
        (given || has_own_context()) && self.engine_address().is_remote()
    }

    /// True if an ssh server kept a command from running or from finishing; to repeat the command does no harm.
    pub(super) fn should_retry(&self, result: &CommandResult) -> bool {
        was_refused_by_ssh(result)
            || (is_version_unknown(result) && self.engine_address().host.starts_with("ssh://"))
    }

    /// True if the engine answers its version within the limit.
    pub(super) fn answers_within(&self, limit: Duration) -> bool {
        let result = self.run_unchecked(&VERSION, limit);
        result.is_some_and(|result| result.ok() || self.should_retry(&result))
    }

    /// Result of a command, without a check of the engine; `None` if the command takes longer than `limit`.
    fn run_unchecked(&self, words: &[&str], limit: Duration) -> Option<CommandResult> {
        let start = Instant::now();
        let argv = self.docker_words(words);
        let result = self.command(&argv).output(MAX_OUTPUT, || (start.elapsed() >= limit).then_some(()));
        (self.observer)(&shown_words(&argv[1..]), start.elapsed());
        result.ok()?.ok()
    }

    /// Error of an engine that accepted a command and never answers.
    pub(super) fn silence_error(&self, words: &str, waited: Duration) -> Error {
        let address = self.engine_address();
        Error::unchanged(format!("the Docker engine{address} does not answer"))
            .detail(&format!("`docker {words}`: no answer within {}s", waited.as_secs()))
            .hint(address.hint())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ComposeFlags;

    fn address(output: &str) -> EngineAddress {
        EngineAddress::parse(output)
    }

    #[test]
    fn every_limit_is_scaled_with_the_timeout_of_the_engine() {
        let docker = Docker::for_test("/nonexistent".into(), ComposeFlags::default());
        let seconds = |docker: &Docker| {
            let Timeouts { check_after, answer } = docker.current_timeouts();
            [check_after, answer].map(|limit| limit.as_secs())
        };
        let silent = |docker: &Docker| {
            docker.is_silent.store(true, Ordering::Relaxed);
            let seconds = seconds(docker);
            docker.is_silent.store(false, Ordering::Relaxed);
            seconds
        };
        assert_eq!((seconds(&docker), silent(&docker)), ([30, 90], [5, 5]));
        assert_eq!(TIMEOUTS.check_after + TIMEOUTS.answer, TIMEOUT);
        let docker = docker.with_engine_timeout(TIMEOUT * 2);
        assert_eq!((seconds(&docker), silent(&docker)), ([60, 180], [10, 10]));
        let docker = docker.with_engine_timeout(Duration::from_secs(20));
        assert_eq!(seconds(&docker), [5, 15]);
        assert_eq!(docker.scaled(Duration::from_secs(60)), Duration::from_secs(10));
    }

    #[test]
    fn an_engine_is_named_by_its_address_and_its_context() {
        assert_eq!(
            address("far tcp://192.0.2.1:2375\n").to_string(),
            " at `tcp://192.0.2.1:2375` (context `far`)"
        );
        assert_eq!(address("default ssh://me@far").to_string(), " at `ssh://me@far`");
        assert_eq!(address("default unix:///var/run/docker.sock").to_string(), "");
        assert_eq!(address("").to_string(), "");
    }

    #[test]
    fn an_engine_that_does_not_answer_has_a_hint_for_its_kind_of_address() {
        assert!(address("default ssh://me@far:22/sock").hint().starts_with("`ssh me@far:22 docker version`"));
        assert!(address("far tcp://192.0.2.1:2375").hint().contains("reaches that address"));
        assert!(address("default unix:///run/docker.sock").hint().contains("systemctl start docker"));
        assert!(address("").hint().contains("`--context` or `--host`"));
    }

    #[test]
    fn a_command_that_an_ssh_server_refused_is_retried() {
        let is_refused = |stderr: &str| {
            was_refused_by_ssh(&CommandResult {
                code: Some(1),
                stderr: stderr.into(),
                ..CommandResult::default()
            })
        };
        let closed = "stderr=kex_exchange_identification: Connection closed by remote host";
        assert!(is_refused(&format!(
            "error during connect: command [ssh …] has exited with exit status 255, {closed}"
        )));
        assert!(!is_refused("stderr=ssh: connect to host far port 22: Connection refused"));
        let stderr = "client version 1.50 is too new. Maximum supported API version is 1.41".into();
        assert!(is_version_unknown(&CommandResult { code: Some(1), stderr, ..CommandResult::default() }));
    }

    #[test]
    fn an_engine_is_remote_by_ssh_and_by_an_address_of_another_machine() {
        for remote in ["ssh://far", "tcp://192.0.2.1:2375", "https://far.example:2376"] {
            assert!(address(&format!("default {remote}")).is_remote(), "{remote}");
        }
        for local in ["unix:///var/run/docker.sock", "tcp://127.0.0.1:2375", "tcp://localhost:1"] {
            assert!(!address(&format!("default {local}")).is_remote(), "{local}");
        }
        assert!(!address("").is_remote());
    }
}
