//! Where the engine is, and whether it still answers while it is waited for.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use super::{CommandResult, Docker};
use crate::error::Error;

/// How long a command may take before its engine is asked whether it still answers, and how long that may take.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    pub before: Duration,
    pub answer: Duration,
}

/// How long an engine may be silent, unless `--engine-timeout` says otherwise. Every other limit for an answer was chosen for
/// this one, and is scaled with it. An engine under load, or behind a slow line, has been seen to take 20 s.
pub const TIMEOUT: Duration = Duration::from_secs(120);

/// The two parts of [`TIMEOUT`].
pub const PATIENCE: Timeouts = Timeouts { before: Duration::from_secs(30), answer: Duration::from_secs(90) };

/// For one that was silent before: it is back, or it is not.
pub const AGAIN: Timeouts = Timeouts { before: Duration::from_secs(5), answer: Duration::from_secs(5) };

/// For what docker's client knows by itself.
const OWN: Duration = Duration::from_secs(15);

/// How long a command is tried again that an ssh server turns away, and how often.
pub const DOOR: Duration = Duration::from_secs(60);
pub const DOOR_POLL: Duration = Duration::from_millis(300);

/// Whether an ssh server closed the connection before anybody could log in: it takes ten such at a time unless its
/// `MaxStartups` says otherwise, and every command of docker's is a connection of its own.
fn was_turned_away(done: &CommandResult) -> bool {
    !done.ok() && done.stderr.contains("exchange_identification: ")
}

/// What docker's client says where the question by which it finds the version of the engine got no answer.
fn is_version_unknown(done: &CommandResult) -> bool {
    !done.ok() && done.stderr.contains("is too new. Maximum supported API version")
}

/// Which engine docker talks to, as it resolves its flags, its environment and its contexts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineAddress {
    context: String,
    /// `unix:///var/run/docker.sock`, `tcp://…`, `ssh://…`; empty where docker does not tell.
    host: String,
}

impl EngineAddress {
    /// The lines of `docker context inspect` with the format of [`Docker::whereabouts`].
    fn read(text: &str) -> EngineAddress {
        let (context, host) = text.trim().split_once(' ').unwrap_or_default();
        EngineAddress { context: context.into(), host: host.into() }
    }

    /// It is on another machine. A socket and a port of this machine may lead to one too, but need not.
    pub fn is_elsewhere(&self) -> bool {
        let Some((scheme, rest)) = self.host.split_once("://") else { return false };
        let local = ["127.", "localhost", "[::1]"].iter().any(|name| rest.starts_with(name));
        scheme == "ssh" || (["tcp", "http", "https"].contains(&scheme) && !local)
    }

    /// What to do where it does not answer.
    pub fn hint(&self) -> String {
        let other = "or name another with `--context` or `--host`";
        match self.host.split_once("://") {
            Some(("ssh", place)) => format!(
                "`ssh {} docker version` has to work without a question, {other}",
                place.split('/').next().unwrap_or(place)
            ),
            Some(("tcp" | "http" | "https", _)) => {
                format!("see that it runs, and that this machine reaches it at that address, {other}")
            }
            _ => format!("start it (`systemctl start docker`), {other}"),
        }
    }
}

/// ` at …`, where that is not where everybody's engine is.
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

/// `docker context use` was said once.
fn has_own_context() -> bool {
    let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
    let folder = folder.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")));
    let file = folder.and_then(|f| std::fs::read_to_string(f.join("config.json")).ok());
    file.is_some_and(|text| text.contains("\"currentContext\""))
}

impl Timeouts {
    fn scaled(self, docker: &Docker) -> Timeouts {
        Timeouts { before: docker.scaled(self.before), answer: docker.scaled(self.answer) }
    }
}

/// Asks an engine who it is.
pub(super) const IDENTITY: [&str; 3] = ["info", "--format", "{{.ID}}/{{.Name}}"];

/// A volume of ours, and its label.
const ENGINE: &str = "compose-zd.engine";

impl Docker {
    /// The same client, whose engine may be silent for this long.
    pub fn with_engine_timeout(self, limit: Duration) -> Docker {
        let docker = Docker { engine_timeout: limit, ..self };
        Docker { patience: PATIENCE.scaled(&docker), again: AGAIN.scaled(&docker), ..docker }
    }

    /// A limit for an answer, of which the default belongs to the default of `--engine-timeout`.
    pub fn scaled(&self, default: Duration) -> Duration {
        default.mul_f64(self.engine_timeout.as_secs_f64() / TIMEOUT.as_secs_f64())
    }

    /// Which engine is talked to; nothing where docker does not tell.
    pub fn whereabouts(&self) -> EngineAddress {
        let format = "{{.Name}} {{.Endpoints.docker.Host}}";
        let argv = self.docker_words(&["context", "inspect", "--format", format]);
        let told = self.run_within(&argv, None, OWN).ok().flatten();
        told.filter(CommandResult::ok)
            .map_or_else(EngineAddress::default, |done| EngineAddress::read(&done.stdout))
    }

    /// Whether the engine is on another machine. Where nothing names one, nobody has to be asked.
    pub fn is_elsewhere(&self) -> bool {
        let variable = |name: &str| std::env::var_os(name).is_some_and(|v| !v.is_empty());
        let given = !self.place.engine.is_empty() || variable("DOCKER_HOST") || variable("DOCKER_CONTEXT");
        (given || has_own_context()) && self.whereabouts().is_elsewhere()
    }

    /// What the engine says that it is: its id, and its host's name. Podman's says another id each time.
    ///
    /// # Errors
    /// No engine.
    pub fn identity(&self) -> Result<(String, String)> {
        let told = self.checked(&IDENTITY)?;
        let (id, name) = told.trim().split_once('/').unwrap_or((told.trim(), ""));
        Ok((id.into(), name.into()))
    }

    /// An id that we give an engine that has none which lasts: on a volume, which is made where there is none.
    ///
    /// # Errors
    /// No engine, or one that makes no volume.
    pub fn own_identity(&self) -> Result<String> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
        let label = format!("{ENGINE}={}", id.trim());
        self.checked(&["volume", "create", "--label", &label, ENGINE])?;
        let format = format!("{{{{index .Labels \"{ENGINE}\"}}}}");
        Ok(self.checked(&["volume", "inspect", "--format", &format, ENGINE])?.trim().into())
    }

    /// Whether an ssh server kept a command from doing anything, or from doing all of it; to do it again does no harm.
    pub(super) fn is_to_try_again(&self, done: &CommandResult) -> bool {
        was_turned_away(done) || (is_version_unknown(done) && self.whereabouts().host.starts_with("ssh://"))
    }

    /// Asks for the least that an engine can tell.
    pub(super) fn answers_within(&self, limit: Duration) -> bool {
        let argv = self.docker_words(&["version", "--format", "{{.Server.Version}}"]);
        let told = self.run_within(&argv, None, limit).ok().flatten();
        told.is_some_and(|done| done.ok() || self.is_to_try_again(&done))
    }

    /// An engine that took a command and never answers.
    pub(super) fn silent(&self, words: &str, waited: Duration) -> Error {
        let place = self.whereabouts();
        Error::unchanged(format!("the Docker engine{place} does not answer"))
            .seen(&format!("`docker {words}`: no answer within {}s", waited.as_secs()))
            .hint(place.hint())
    }
}

#[cfg(test)]
mod tests {
    use super::super::ComposeFlags;
    use super::*;

    fn place(told: &str) -> EngineAddress {
        EngineAddress::read(told)
    }

    #[test]
    fn every_limit_is_scaled_with_the_timeout_of_the_engine() {
        let docker = Docker::at("/nonexistent".into(), ComposeFlags::default());
        let seconds = |patience: Timeouts| [patience.before, patience.answer].map(|limit| limit.as_secs());
        assert_eq!((seconds(docker.patience), seconds(docker.again)), ([30, 90], [5, 5]));
        assert_eq!(PATIENCE.before + PATIENCE.answer, TIMEOUT);
        let docker = docker.with_engine_timeout(TIMEOUT * 2);
        assert_eq!((seconds(docker.patience), seconds(docker.again)), ([60, 180], [10, 10]));
        let docker = docker.with_engine_timeout(Duration::from_secs(20));
        assert_eq!(docker.patience.before + docker.patience.answer, Duration::from_secs(20));
        assert_eq!(docker.scaled(Duration::from_secs(60)), Duration::from_secs(10));
    }

    #[test]
    fn an_engine_is_named_by_its_address_and_its_context() {
        assert_eq!(
            place("far tcp://192.0.2.1:2375\n").to_string(),
            " at `tcp://192.0.2.1:2375` (context `far`)"
        );
        assert_eq!(place("default ssh://me@far").to_string(), " at `ssh://me@far`");
        assert_eq!(place("default unix:///var/run/docker.sock").to_string(), "");
        assert_eq!(place("").to_string(), "");
    }

    #[test]
    fn an_engine_that_does_not_answer_has_a_fix_of_its_own_kind() {
        assert!(place("default ssh://me@far:22/sock").hint().starts_with("`ssh me@far:22 docker version`"));
        assert!(place("far tcp://192.0.2.1:2375").hint().contains("reaches it at that address"));
        assert!(place("default unix:///run/docker.sock").hint().contains("systemctl start docker"));
        assert!(place("").hint().contains("`--context` or `--host`"));
    }

    #[test]
    fn who_is_turned_away_by_an_ssh_server_has_done_nothing() {
        let said = |stderr: &str| {
            was_turned_away(&CommandResult {
                code: Some(1),
                stderr: stderr.into(),
                ..CommandResult::default()
            })
        };
        let closed = "stderr=kex_exchange_identification: Connection closed by remote host";
        assert!(said(&format!(
            "error during connect: command [ssh …] has exited with exit status 255, {closed}"
        )));
        assert!(!said("stderr=ssh: connect to host far port 22: Connection refused"));
        let stderr = "client version 1.50 is too new. Maximum supported API version is 1.41".into();
        assert!(is_version_unknown(&CommandResult { code: Some(1), stderr, ..CommandResult::default() }));
    }

    #[test]
    fn an_engine_is_elsewhere_by_ssh_and_by_an_address_of_another_machine() {
        for far in ["ssh://far", "tcp://192.0.2.1:2375", "https://far.example:2376"] {
            assert!(place(&format!("default {far}")).is_elsewhere(), "{far}");
        }
        for near in ["unix:///var/run/docker.sock", "tcp://127.0.0.1:2375", "tcp://localhost:1"] {
            assert!(!place(&format!("default {near}")).is_elsewhere(), "{near}");
        }
        assert!(!place("").is_elsewhere());
    }
}
