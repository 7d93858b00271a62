//! Docker's client: one engine and one project. The files of this folder hold the queries and commands, argv by argv or
//! request by request.

mod api;
pub mod archive;
mod command;
mod compose;
mod compose_failure;
mod compose_plugin;
mod container_shell;
mod containers;
pub mod endpoint;
pub mod events;
mod exec;
mod filter;
mod helper;
mod helper_image;
pub mod host_info;
mod images;
mod init_container;
pub mod inspect;
pub mod lock_resource;
mod prefetch;
pub mod relay;
mod short_ids;
pub mod swarm;
pub mod types;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::error::Error;
use crate::model::ComposeFlags;
use crate::process::{Command, cannot_start, run_program};
pub use crate::process::{CommandResult, OutputSink};
use crate::shell;
use crate::wait::{self, StopSignal};
use api::ConnectionPool;
pub use command::CommandList;
use compose::KnownHashes;
use container_shell::ShellPool;
use endpoint::{EngineAddress, Timeouts, VERSION};
pub use exec::Exec;
use exec::is_read_by_docker;
use filter::{ENGINE_VARIABLES, EngineFilter};
pub use helper::{Helper, PIN};
pub use images::KEEPER_LABEL;
pub use init_container::InitContainer;
pub use inspect::familiar_name;
use prefetch::Prefetcher;
use short_ids::ShortIds;

/// Receives every command that ran, for `--verbose`.
pub type Observer = Arc<dyn Fn(&str, Duration) + Send + Sync>;

/// Right of a run to change something, checked before each change.
pub trait ChangeGuard: Send + Sync {
    /// # Errors
    /// Another run took the lock.
    fn check(&self) -> Result<()>;
    /// Error of a run that is known to have lost its lock.
    fn lost(&self) -> Option<Error>;
}

/// Docker client of this machine, with one engine and one project.
#[derive(Clone)]
pub struct Docker {
    program: PathBuf,
    /// A standalone `docker-compose` v2, where the client has no `compose` plugin.
    standalone: Option<PathBuf>,
    /// The client's `compose` plugin, if compose-zd may start the plugin without the client.
    plugin: Option<PathBuf>,
    flags: ComposeFlags,
    /// Text of the project, if Compose reads the project from standard input.
    project_text: Option<Arc<str>>,
    observer: Observer,
    short_ids: Arc<ShortIds>,
    engine_timeout: Duration,
    /// True if the engine did not answer the last check.
    is_silent: Arc<AtomicBool>,
    shells: Arc<ShellPool>,
    connections: Arc<ConnectionPool>,
    prefetcher: Arc<Prefetcher>,
    known_hashes: Arc<KnownHashes>,
    address: Arc<OnceLock<EngineAddress>>,
    output_sink: Option<OutputSink>,
    guard: Arc<Mutex<Option<Arc<dyn ChangeGuard>>>>,
    /// Signal that ends queries and users' commands in containers.
    stop: StopSignal,
    /// Filter in front of the engine, which hides containers from Compose.
    filter: Option<Arc<EngineFilter>>,
    /// List of the changes of a dry run, which are not made.
    list: Option<CommandList>,
    /// Helper image on this engine, once it was asked for; `None` inside if the engine cannot run it.
    helper_image: Arc<OnceLock<Option<String>>>,
}

/// Reason to stop waiting for a command.
#[derive(Debug, Clone, Copy)]
enum Abort {
    TimedOut(Duration),
    Signal(i32),
    /// The engine does not answer.
    EngineSilent,
}

/// Returns the reason to stop waiting for a command, if there is one.
type AbortCheck<'a> = &'a dyn Fn() -> Option<Abort>;

/// Label with the project that Compose created a container for.
const PROJECT: &str = "com.docker.compose.project";

/// Most bytes that are read of the output of a command of the engine, or of Compose.
const MAX_OUTPUT: u64 = 64 << 20;

/// Most bytes that are read of a proxy's configuration, or of a proxy's answer.
const MAX_PROXY_OUTPUT: u64 = 16 << 20;

/// Most bytes that are read of the output of a command that runs the user's code.
const MAX_USER_OUTPUT: u64 = 64 << 10;

impl Docker {
    /// Finds docker's client and a Compose v2.
    ///
    /// # Errors
    /// No `docker`, no Compose, or a Compose of version 1.
    pub fn find(flags: ComposeFlags, observer: Observer) -> Result<Docker> {
        let program = which::which("docker").map_err(|_| {
            Error::unchanged("`docker` is not on the PATH").hint(
                "install Docker Engine and its Compose plugin (on Debian or Ubuntu `scripts/setup` does)",
            )
        })?;
        let has_plugin = compose_plugin::is_docker_cli(&program);
        let plugin = has_plugin.then(|| compose_plugin::find(&flags.engine)).flatten();
        Ok(Docker { plugin, ..Docker::new(program, flags, observer) })
    }

    fn new(program: PathBuf, flags: ComposeFlags, observer: Observer) -> Docker {
        let short_ids: Arc<ShortIds> = Arc::default();
        let known = short_ids.clone();
        let observer: Observer = Arc::new(move |shown, took| observer(&known.shorten(shown), took));
        Docker {
            program,
            standalone: None,
            plugin: None,
            flags,
            project_text: None,
            observer,
            short_ids,
            engine_timeout: endpoint::TIMEOUT,
            is_silent: Arc::default(),
            shells: Arc::default(),
            connections: Arc::default(),
            prefetcher: Arc::default(),
            known_hashes: Arc::default(),
            address: Arc::default(),
            output_sink: None,
            guard: Arc::default(),
            stop: StopSignal::default(),
            filter: None,
            list: None,
            helper_image: Arc::default(),
        }
    }

    /// Requires this guard for every change from now on.
    pub fn require_guard(&self, guard: Arc<dyn ChangeGuard>) {
        *self.guard.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
    }

    /// Checks before a change that the run still has its lock.
    ///
    /// # Errors
    /// Another run took the lock.
    pub fn check_lease(&self) -> Result<()> {
        self.guard().map_or(Ok(()), |guard| guard.check())
    }

    /// Error of a run that is known to have lost its lock.
    pub fn lost_lease(&self) -> Option<Error> {
        self.guard().and_then(|guard| guard.lost())
    }

    fn guard(&self) -> Option<Arc<dyn ChangeGuard>> {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A client with these flags, for tests that need no engine.
    #[cfg(test)]
    pub fn for_test(program: PathBuf, flags: ComposeFlags) -> Docker {
        Docker::new(program, flags, Arc::new(|_, _| {}))
    }

    /// The same engine, with the resolved text, the name and the folder of a project. Compose reads the text from
    /// standard input: it holds secrets, and some clients (snap) cannot read a temporary file of this process.
    pub fn with_project_text(&self, text: &str, project: &str, folder: &Path) -> Docker {
        let docker = self.with_project_file(Path::new("-"), project, folder);
        Docker { project_text: Some(text.into()), prefetcher: Arc::default(), ..docker }
    }

    /// The same engine, with the project's text in a file. All services are selected, whatever their profile.
    pub fn with_project_file(&self, file: &Path, project: &str, folder: &Path) -> Docker {
        let words = [
            "--project-name".into(),
            project.to_string(),
            "--project-directory".into(),
            folder.to_string_lossy().into_owned(),
            "--file".into(),
            file.to_string_lossy().into_owned(),
            "--profile".into(),
            "*".into(),
        ];
        let flags = ComposeFlags { engine: self.flags.engine.clone(), project: words.to_vec() };
        Docker { flags, project_text: None, ..self.clone() }
    }

    /// Standard input for Compose.
    fn project_text_for(&self, argv: &[String]) -> Option<&str> {
        self.project_text.as_deref().filter(|_| argv.windows(2).any(|words| words == ["--file", "-"]))
    }

    /// The same engine, on which Compose does not see these containers.
    ///
    /// # Errors
    /// The filter cannot listen.
    fn hiding(&self, ids: &[String]) -> Result<Docker> {
        if self.only_lists() {
            return Ok(self.clone());
        }
        let filter = EngineFilter::open(self, ids)?;
        let flags =
            ComposeFlags { engine: engine_flags(&self.flags.engine, filter.host()), ..self.flags.clone() };
        Ok(Docker {
            flags,
            filter: Some(Arc::new(filter)),
            connections: Arc::default(),
            prefetcher: Arc::default(),
            ..self.clone()
        })
    }

    /// The same client; this signal ends its queries and users' commands in containers.
    pub fn with_stop_signal(self, stop: &StopSignal) -> Docker {
        Docker { stop: stop.clone(), ..self }
    }

    /// The same client; this receiver gets the output of the user's commands.
    pub fn with_output_sink(self, sink: OutputSink) -> Docker {
        Docker { output_sink: Some(sink), ..self }
    }

    /// Runs a command and shows its output. Returns true if the command succeeded.
    fn show(&self, argv: &[String], command: Command) -> Result<bool> {
        let text = self.project_text_for(argv).map(|text| text.as_bytes().to_vec());
        let (shown, start, mut silence) = (shown_words(&argv[1..]), Instant::now(), self.silence_check());
        let result = command.stdin(text).show(self.output_sink.as_ref(), &mut silence);
        (self.observer)(&shown, start.elapsed());
        let ended = result.map_err(|e| cannot_start(&argv[0], &e))?;
        Ok(ended.map_err(|abort| self.abort_error(&shown, start.elapsed(), abort))?)
    }

    fn checked(&self, words: &[&str]) -> Result<String> {
        self.checked_result(words, self.run(words)?)
    }

    fn checked_result(&self, words: &[&str], result: CommandResult) -> Result<String> {
        if result.ok() { Ok(result.stdout) } else { Err(self.engine_error(words, &result).into()) }
    }

    fn compose(&self, words: &[&str]) -> Result<CommandResult> {
        self.run_argv(&self.compose_words(words), None, None)
    }

    fn compose_checked(&self, words: &[&str]) -> Result<String> {
        self.checked_compose_output(words, self.compose(words)?)
    }

    fn checked_compose_output(&self, words: &[&str], result: CommandResult) -> Result<String> {
        if result.ok() {
            Ok(result.stdout)
        } else {
            let verb = words.first().unwrap_or(&"");
            let text = result.stderr_or_stdout();
            let error = Error::unchanged(format!("`docker compose {verb}` failed"))
                .detail(&compose_failure::message(text));
            Err(compose_failure::run_hint(text).map_or(error.clone(), |hint| error.hint(hint)).into())
        }
    }

    fn docker_words(&self, words: &[&str]) -> Vec<String> {
        docker_words(&self.program, &self.flags, words)
    }

    fn compose_words(&self, words: &[&str]) -> Vec<String> {
        compose_words(&self.program, self.standalone.as_deref(), &self.flags, words)
    }

    /// Runs docker's client. Waits without limit while the engine answers: silence is the only sign of a broken
    /// connection or a hanging engine.
    fn run(&self, words: &[&str]) -> Result<CommandResult> {
        self.run_argv(&self.docker_words(words), None, None)
    }

    /// As [`Docker::run`], with input and for at most `limit`.
    ///
    /// # Errors
    /// No answer within the limit; the command failed.
    fn run_within(&self, words: &[&str], stdin: Option<&[u8]>, limit: Duration) -> Result<String> {
        let result = self.run_argv(&self.docker_words(words), stdin, Some(limit))?;
        self.checked_result(words, result)
    }

    fn run_argv(
        &self,
        argv: &[String],
        stdin: Option<&[u8]>,
        limit: Option<Duration>,
    ) -> Result<CommandResult> {
        let stdin = stdin.or(self.project_text_for(argv).map(str::as_bytes));
        let command = self.command(argv).stdin(stdin.map(<[u8]>::to_vec));
        self.run_command(&shown_words(&argv[1..]), &command, limit)
    }

    fn run_command(&self, shown: &str, command: &Command, limit: Option<Duration>) -> Result<CommandResult> {
        let start = Instant::now();
        let time_out = || limit.filter(|limit| start.elapsed() >= *limit).map(Abort::TimedOut);
        let result = self.run_until(shown, command, MAX_OUTPUT, &time_out)?;
        Ok(result.map_err(|abort| self.abort_error(shown, start.elapsed(), abort))?)
    }

    /// Runs a command until `abort` returns a reason to end it, or the engine does not answer. Retries a command that an
    /// ssh server refused because of too many connections: the command has not run then.
    fn run_until(
        &self,
        shown: &str,
        command: &Command,
        max_bytes: u64,
        abort: AbortCheck,
    ) -> Result<Result<CommandResult, Abort>> {
        let (start, stop, mut last) = (Instant::now(), StopSignal::default(), None);
        wait::until(endpoint::CONNECT_RETRY_POLL, endpoint::CONNECT_RETRY, &stop, || -> Result<_> {
            let mut silence = self.silence_check();
            let result = command.output(max_bytes, || abort().or_else(&mut silence));
            let result = result.map_err(|e| cannot_start(&self.program.to_string_lossy(), &e))?;
            let is_over = !matches!(&result, Ok(result) if self.should_retry(result));
            last = Some(result);
            Ok(is_over.then_some(()))
        })?;
        (self.observer)(shown, start.elapsed());
        Ok(last.expect("the command ran once"))
    }

    /// Returns a check for an engine that does not answer, from time to time.
    fn silence_check(&self) -> impl FnMut() -> Option<Abort> {
        let mut last_check = Instant::now();
        move || {
            let Timeouts { check_after, answer } = self.current_timeouts();
            if last_check.elapsed() < check_after {
                return None;
            }
            let is_silent = !self.answers_within(answer);
            self.is_silent.store(is_silent, Ordering::Relaxed);
            last_check = Instant::now();
            is_silent.then_some(Abort::EngineSilent)
        }
    }

    /// Error of a command that did not end by itself.
    fn abort_error(&self, shown: &str, waited: Duration, abort: Abort) -> Error {
        match abort {
            Abort::Signal(signal) => Error::interrupted(signal),
            Abort::EngineSilent => self.silence_error(shown, waited),
            Abort::TimedOut(limit) => {
                let command = shown.split(' ').take(2).collect::<Vec<_>>().join(" ");
                Error::unchanged(format!("`docker {command}`: no answer within {}s", limit.as_secs()))
            }
        }
    }

    /// A command whose output is read: its form does not depend on the user's environment. Compose's plugin runs without
    /// the client where that is possible.
    fn command(&self, argv: &[String]) -> Command {
        let command = match self.plugin_for(argv) {
            Some(plugin) => {
                let plugin = [&[plugin.to_string_lossy().into_owned()], &argv[1..]].concat();
                Command::new(&plugin).env(compose_plugin::ORIGINAL_COMMAND, &argv[0])
            }
            None => Command::new(argv),
        };
        let unset = ENGINE_VARIABLES.iter().filter(|_| self.filter.is_some()).map(|name| (*name, ""));
        OUTPUT_SETTINGS
            .into_iter()
            .chain(unset)
            .fold(command, |command, (name, value)| command.env(name, value))
    }

    fn plugin_for(&self, argv: &[String]) -> Option<&Path> {
        let word = argv.get(1 + self.flags.engine.len())?;
        self.plugin.as_deref().filter(|_| word == "compose")
    }

    fn engine_error(&self, words: &[&str], result: &CommandResult) -> Error {
        engine_error(words, result, || self.engine_address())
    }
}

/// Compose's settings for the form of its output, and the two that add work without a request. Users, CI and a project's
/// `.env` set them.
/// Source: <https://docs.docker.com/compose/how-tos/environment-variables/envvars/>
const OUTPUT_SETTINGS: [(&str, &str); 5] = [
    ("COMPOSE_PROGRESS", "plain"),
    ("COMPOSE_ANSI", "never"),
    ("COMPOSE_STATUS_STDOUT", "0"),
    ("COMPOSE_MENU", "0"),
    ("COMPOSE_REMOVE_ORPHANS", "0"),
];

/// Flags of the client for another address of its engine, without TLS. All other flags stay, such as `--config`.
fn engine_flags(flags: &[String], host: String) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = flags.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--context" | "--host" | "--tlscacert" | "--tlscert" | "--tlskey" => drop(words.next()),
            word if word.starts_with("--tls") => {}
            _ => kept.push(word.clone()),
        }
    }
    kept.extend(["--host".into(), host]);
    kept
}

fn with_variables(command: Command, variables: &[(String, String)]) -> Command {
    let own = variables.iter().filter(|(name, _)| !is_read_by_docker(name));
    own.fold(command, |command, (name, value)| command.env(name, value))
}

fn docker_words(program: &Path, flags: &ComposeFlags, words: &[&str]) -> Vec<String> {
    let mut argv = vec![program.to_string_lossy().into_owned()];
    argv.extend(flags.engine.iter().cloned());
    argv.extend(words.iter().map(|w| w.to_string()));
    argv
}

fn compose_words(
    program: &Path,
    standalone: Option<&Path>,
    flags: &ComposeFlags,
    words: &[&str],
) -> Vec<String> {
    let mut argv = match standalone {
        Some(compose) => docker_words(compose, flags, &[]),
        None => docker_words(program, flags, &["compose"]),
    };
    argv.extend(flags.project.iter().cloned());
    argv.extend(words.iter().map(|w| w.to_string()));
    argv
}

/// A command for display: scripts are cut to their first line.
fn shown_words(words: &[String]) -> String {
    let first_line = |w: &String| match w.split_once('\n') {
        Some((line, _)) => format!("'{line} …'"),
        None if w.contains(' ') => format!("'{w}'"),
        None => w.clone(),
    };
    words.iter().map(first_line).collect::<Vec<_>>().join(" ")
}

fn find_standalone(flags: &[String]) -> Result<PathBuf> {
    let missing = || match compose_plugin::find_not_executable(flags) {
        Some(plugin) => Error::unchanged(format!(
            "docker's client cannot start `{}`: it is not executable",
            plugin.display()
        ))
        .hint(format!("`chmod +x {}`", shell::path(&plugin))),
        None => {
            Error::unchanged("neither `docker compose` nor a standalone `docker-compose` v2 is installed")
                .hint("install the package `docker-compose-plugin` (or `docker-compose-v2`)")
        }
    };
    let path = which::which("docker-compose").map_err(|_| missing())?;
    let version = run_program(&[&path.to_string_lossy(), "version", "--short"], Path::new("/"), &[])?;
    if version.stdout.trim_start_matches('v').starts_with("1.") {
        Err(missing().detail("`docker-compose` is version 1; compose-zd needs version 2").into())
    } else {
        Ok(path)
    }
}

/// Rule that a user without rights to the engine breaks.
pub const ENGINE_DENIED: &str = "engine-denied";

/// Rule that an engine breaks which does not run.
pub const ENGINE_DOWN: &str = "engine-down";

/// Error of a docker command; names the usual causes.
fn engine_error(words: &[&str], result: &CommandResult, address: impl Fn() -> EngineAddress) -> Error {
    let output = result.stderr_or_stdout();
    let lower = output.to_lowercase();
    let command = words.iter().take(2).copied().collect::<Vec<_>>().join(" ");
    if lower.contains("permission denied") && lower.contains("docker") && lower.contains("sock") {
        return Error::unchanged("this user may not talk to the Docker engine")
            .detail(output)
            .hint("run as root, or add the user to the group `docker`")
            .rule(&ENGINE_DENIED);
    }
    let unreachable = [
        "cannot connect to the docker daemon",
        "error during connect",
        "failed to connect to the docker api",
    ];
    if unreachable.iter().any(|u| lower.contains(u)) {
        let address = address();
        return Error::unchanged(format!("no Docker engine answers{address}"))
            .detail(output)
            .hint(address.hint())
            .rule(&ENGINE_DOWN);
    }
    if let Some(name) = missing_context(output) {
        return Error::usage(format!("there is no Docker context `{name}`")).detail(output).hint(
            "list the contexts with `docker context ls`; choose one with `--context`, DOCKER_CONTEXT or `docker context use`",
        );
    }
    let ended = match result.code {
        Some(code) => format!("exited with {code}"),
        None => "was killed".into(),
    };
    Error::unchanged(format!("`docker {command}` {ended}")).detail(output)
}

/// Name in `context "NAME": context not found: …`.
fn missing_context(output: &str) -> Option<&str> {
    let (before, _) = output.split_once("\": context not found")?;
    before.rsplit_once("context \"").map(|(_, name)| name)
}

#[cfg(test)]
mod tests;
