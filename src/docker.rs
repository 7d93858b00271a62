//! Docker's client: starts every child process of compose-zd. The files of this folder hold the queries and commands,
//! argv by argv.

mod api;
mod command;
mod compose;
mod compose_plugin;
mod connection;
mod containers;
pub mod endpoint;
pub mod events;
mod exec;
pub mod host_info;
mod images;
mod init_container;
pub mod inspect;
pub mod lock_resource;
mod prefetch;

mod container_shell;
mod output;
mod session;
pub mod swarm;
pub mod types;

use std::ffi::OsString;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use rustix::process::{Pid, Signal};

use crate::error::Error;
use crate::lock::{Lease, ProcessId, RUN_VARIABLE};
use crate::model::ComposeFlags;
use crate::shell;
use crate::wait::{self, StopSignal};
pub use command::DockerCommand;
use connection::EngineConnection;
use container_shell::ShellPool;
use endpoint::{EngineAddress, Timeouts};
pub use exec::Exec;
use exec::is_read_by_docker;
pub use images::{KEEPER_LABEL, familiar_name};
pub use init_container::InitContainer;
pub use output::OutputSink;
use prefetch::Prefetcher;

/// Result of a finished command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandResult {
    /// Exit code; `None` when a signal ended the command.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl CommandResult {
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Last output of the command, for messages: stderr, else stdout.
    pub fn stderr_or_stdout(&self) -> &str {
        match self.stderr.trim() {
            "" => self.stdout.trim(),
            text => text,
        }
    }
}

/// Receives every command that ran, for `--verbose`.
pub type Observer = Arc<dyn Fn(&str, Duration) + Send + Sync>;

/// Docker client of this machine, with one engine and one project.
#[derive(Clone)]
pub struct Docker {
    program: PathBuf,
    /// A standalone `docker-compose` v2, where the client has no `compose` plugin.
    standalone: Option<PathBuf>,
    /// True if the program is docker's own client, and no replacement such as Podman's.
    is_docker_cli: bool,
    /// The client's `compose` plugin, if compose-zd may start the plugin without the client.
    plugin: Option<PathBuf>,
    flags: ComposeFlags,
    /// Text of the project, if Compose reads the project from standard input.
    project_text: Option<Arc<str>>,
    observer: Observer,
    engine_timeout: Duration,
    timeouts: Timeouts,
    /// Timeouts for an engine that did not answer before.
    silent_timeouts: Timeouts,
    /// True if the engine did not answer the last check.
    is_silent: Arc<AtomicBool>,
    shells: Arc<ShellPool>,
    connection: Arc<EngineConnection>,
    prefetcher: Arc<Prefetcher>,
    known_ids: Arc<Mutex<Vec<String>>>,
    output_sink: Option<OutputSink>,
    /// Lease on the project's lock, checked before each change.
    lease: Arc<Mutex<Option<Lease>>>,
    /// Signal that ends queries and users' commands in containers.
    stop: StopSignal,
}

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
        let is_docker_cli = compose_plugin::is_docker_cli(&program);
        let plugin = if is_docker_cli { compose_plugin::find(&flags.engine) } else { None };
        Ok(Docker { is_docker_cli, plugin, ..Docker::new(program, flags, observer) })
    }

    fn new(program: PathBuf, flags: ComposeFlags, observer: Observer) -> Docker {
        Docker {
            program,
            standalone: None,
            is_docker_cli: false,
            plugin: None,
            flags,
            project_text: None,
            observer,
            engine_timeout: endpoint::TIMEOUT,
            timeouts: endpoint::TIMEOUTS,
            silent_timeouts: endpoint::SILENT_TIMEOUTS,
            is_silent: Arc::default(),
            shells: Arc::default(),
            connection: Arc::default(),
            prefetcher: Arc::default(),
            known_ids: Arc::default(),
            output_sink: None,
            lease: Arc::default(),
            stop: StopSignal::default(),
        }
    }

    /// Requires this lease for every change from now on.
    pub fn require_lease(&self, lease: Lease) {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease);
    }

    /// Checks before a change that the run still has its lock.
    ///
    /// # Errors
    /// Another run took the lock.
    pub fn check_lease(&self) -> Result<()> {
        self.lease().map_or(Ok(()), |lease| lease.check())
    }

    /// Error of a run that is known to have lost its lock.
    pub fn lost_lease(&self) -> Option<Error> {
        self.lease().and_then(|lease| lease.error())
    }

    fn lease(&self) -> Option<Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

    /// Runs a command and shows its output. Returns true if the command succeeded.
    fn run_shown(&self, argv: &[String]) -> Result<bool> {
        // The command shares our process group: nothing has changed yet, so Ctrl-C may end the command at once.
        self.run_streaming(argv, duct::cmd(&argv[0], &argv[1..]))
    }

    fn run_streaming(&self, argv: &[String], command: duct::Expression) -> Result<bool> {
        let command = match self.project_text_for(argv) {
            Some(text) => command.stdin_bytes(text),
            None => command.stdin_null(),
        };
        let (shown, command) = (shown_words(&argv[1..]), command.unchecked());
        let Some(sink) = self.output_sink.as_ref().filter(|s| (s.is_wanted)()) else {
            return self.run_to_end(&shown, &command.stdout_to_stderr()).map(|result| result.ok());
        };
        let (reader, writer) = io::pipe()?;
        let command = command.stdout_file(writer.try_clone()?).stderr_file(writer);
        let forwarded = output::forward_lines(reader, Arc::clone(&sink.write_line));
        let result = self.run_to_end(&shown, &command);
        // The command holds our ends of the pipe. A process that the command started may hold the pipe for longer.
        drop(command);
        let _ = forwarded.recv_timeout(PIPE_CLOSE);
        result.map(|result| result.ok())
    }

    /// The same client; this signal ends its queries and users' commands in containers.
    pub fn with_stop_signal(self, stop: &StopSignal) -> Docker {
        Docker { stop: stop.clone(), ..self }
    }

    /// Runs a command in a container, up to its limit. A plain script runs in a shell that is kept open there, in a
    /// tenth of the time. A signal ends a user's command. It does not end a command of ours, which changes a proxy
    /// and has limits.
    ///
    /// # Errors
    /// Docker cannot be started, the engine does not answer, or a signal. The result holds the command's own failure.
    pub fn exec(&self, exec: &Exec) -> Result<CommandResult> {
        self.exec_until(exec, &|| self.signal().filter(|_| exec.private))
    }

    /// As [`Docker::exec`], for a command that changes nothing: a signal ends the command.
    pub fn query(&self, exec: &Exec) -> Result<CommandResult> {
        self.exec_until(exec, &|| self.signal())
    }

    fn signal(&self) -> Option<ExecAbort> {
        self.stop.signal().map(ExecAbort::Signal)
    }

    fn exec_until(&self, exec: &Exec, abort_check: AbortCheck) -> Result<CommandResult> {
        let argv = self.docker_words(&exec.words().iter().map(String::as_str).collect::<Vec<_>>());
        let (start, limit) = (Instant::now(), exec.limit.unwrap_or_else(|| self.scaled(EXEC_LIMIT)));
        let stop_early = || ExecAbort::TimedOut(start.elapsed());
        let time_out = || (start.elapsed() >= limit).then_some(ExecAbort::TimedOut(limit));
        let abort_check = || {
            abort_check()
                .or_else(time_out)
                .or_else(|| (exec.private && self.stop.is_hurried()).then(stop_early))
        };
        let shown = exec.shown(&argv);
        let in_shell = if session::can_run(exec) { self.exec_in_shell(exec, &abort_check)? } else { None };
        let mut last = in_shell;
        if last.is_none() {
            // An ssh server may refuse the connection; the command has not run then.
            wait::until(
                endpoint::CONNECT_RETRY_POLL,
                endpoint::CONNECT_RETRY,
                &StopSignal::default(),
                || -> Result<_> {
                    let result = self.run_in_container(&argv, exec, &abort_check)?;
                    let is_over = !matches!(&result, Ok(result) if self.should_retry(result));
                    last = Some(result);
                    Ok(is_over.then_some(()))
                },
            )?;
        }
        (self.observer)(&shown, start.elapsed());
        match last.expect("the command ran once") {
            Ok(result) => Ok(result),
            Err(ExecAbort::Signal(signal)) => Err(Error::interrupted(signal).into()),
            Err(ExecAbort::EngineSilent) => Err(self.silence_error(&shown, start.elapsed()).into()),
            Err(ExecAbort::TimedOut(limit)) => {
                let stderr = format!("no answer within {}", humantime::format_duration(rounded(limit)));
                Ok(CommandResult { stderr, ..CommandResult::default() })
            }
        }
    }

    /// Reads at most the first [`MAX_PROXY_OUTPUT`] bytes of the output.
    fn run_in_container(
        &self,
        argv: &[String],
        exec: &Exec,
        abort_check: AbortCheck,
    ) -> Result<Result<CommandResult, ExecAbort>> {
        let mut abort = None;
        let command = with_output_settings(with_variables(expression(argv), &exec.variables));
        let command = match &exec.stdin {
            Some(text) => command.stdin_bytes(text.clone()),
            None => command.stdin_null(),
        };
        let result = run_bounded(command, MAX_PROXY_OUTPUT, |child| {
            let ended = self.wait_unless(child, abort_check)?;
            Ok(ended.map_err(|reason| abort = Some(reason)).ok())
        });
        let result = result.map_err(|e| cannot_start(&argv[0], &e))?;
        Ok(result.ok_or_else(|| abort.expect("an aborted command has a reason")))
    }

    /// Exit code of the command, unless `abort_check` ends the command or the engine does not answer.
    fn wait_unless(
        &self,
        child: &duct::Handle,
        abort_check: AbortCheck,
    ) -> io::Result<Result<Option<i32>, ExecAbort>> {
        let mut last_check = Instant::now();
        loop {
            if let Some(output) = child.wait_timeout(SIGNAL_POLL)? {
                self.is_silent.store(false, Ordering::Relaxed);
                return Ok(Ok(output.status.code()));
            }
            let Timeouts { check_after, answer } = self.current_timeouts();
            let is_due = last_check.elapsed() >= check_after;
            let is_silent = is_due && !self.answers_within(answer);
            if is_due {
                self.is_silent.store(is_silent, Ordering::Relaxed);
                last_check = Instant::now();
            }
            if let Some(abort) = is_silent.then_some(ExecAbort::EngineSilent).or_else(abort_check) {
                end_group(child);
                return Ok(Err(abort));
            }
        }
    }

    /// As [`Docker::exec`], for at most `limit` and without input. A command that takes longer is left running and
    /// has no result. Reads at most the first 64 KiB of the output.
    pub fn exec_within(&self, exec: &Exec, limit: Duration) -> Result<Option<CommandResult>> {
        let argv = self.docker_words(&exec.words().iter().map(String::as_str).collect::<Vec<_>>());
        let start = Instant::now();
        let command = with_variables(expression(&argv), &exec.variables).stdin_null();
        let result = run_bounded(command, MAX_OUTPUT, |child| exit_code_within(child, limit));
        (self.observer)(&exec.shown(&argv), start.elapsed());
        Ok(result.map_err(|e| cannot_start(&argv[0], &e))?)
    }

    /// Starts a shell in a container, which ends with its input.
    fn start_shell(
        &self,
        container: &str,
        stdin: PipeReader,
        stdout: PipeWriter,
        stderr: PipeWriter,
    ) -> io::Result<()> {
        let argv = self.docker_words(&["exec", "-i", container, "sh"]);
        let command = expression(&argv).stdin_file(stdin).stdout_file(stdout).stderr_file(stderr);
        command.unchecked().start().map(drop)
    }

    /// Starts a client as a connection to the engine, which ends with its input.
    fn start_connection(&self, stdin: PipeReader, stdout: PipeWriter) -> io::Result<()> {
        let argv = self.docker_words(&["system", "dial-stdio"]);
        let command = expression(&argv).stdin_file(stdin).stdout_file(stdout).stderr_null();
        command.unchecked().start().map(drop)
    }

    /// Runs a command for at most `limit`; `None` if the command takes longer, and is ended.
    fn run_within(
        &self,
        argv: &[String],
        stdin: Option<&[u8]>,
        limit: Duration,
    ) -> Result<Option<CommandResult>> {
        if let Some(result) = self.query_by_connection(argv) {
            return Ok(Some(result));
        }
        let start = Instant::now();
        let command = with_output_settings(expression(argv)).stdout_capture().stderr_capture().unchecked();
        let child = match stdin {
            Some(bytes) => command.stdin_bytes(bytes).start(),
            None => command.stdin_null().start(),
        };
        let child = child.map_err(|e| cannot_start(&argv[0], &e))?;
        let result = child.wait_timeout(limit).map(|output| output.map(command_result));
        if !matches!(result, Ok(Some(_))) {
            end_group(&child);
        }
        (self.observer)(&shown_words(&argv[1..]), start.elapsed());
        Ok(result.map_err(|e| cannot_start(&argv[0], &e))?)
    }

    /// Start of a container's log. Any line of a log may be very long, so the output is limited.
    fn read_log(&self, argv: &[String], limit: Duration) -> Result<CommandResult> {
        let start = Instant::now();
        let result =
            run_bounded(expression(argv).stdin_null(), MAX_OUTPUT, |child| exit_code_within(child, limit));
        (self.observer)(&shown_words(&argv[1..]), start.elapsed());
        Ok(result.map_err(|e| cannot_start(&argv[0], &e))?.unwrap_or_default())
    }

    fn checked(&self, words: &[&str]) -> Result<String> {
        self.checked_output(words, self.run(&self.docker_words(words))?)
    }

    fn checked_output(&self, words: &[&str], result: CommandResult) -> Result<String> {
        if result.ok() { Ok(result.stdout) } else { Err(self.engine_error(words, &result).into()) }
    }

    fn compose(&self, words: &[&str]) -> Result<CommandResult> {
        self.run(&self.compose_words(words))
    }

    fn compose_checked(&self, words: &[&str]) -> Result<String> {
        self.checked_compose_output(words, self.compose(words)?)
    }

    fn checked_compose_output(&self, words: &[&str], result: CommandResult) -> Result<String> {
        if result.ok() {
            Ok(result.stdout)
        } else {
            let verb = words.first().unwrap_or(&"");
            Err(Error::unchanged(format!("`docker compose {verb}` failed"))
                .detail(result.stderr_or_stdout())
                .into())
        }
    }

    fn docker_words(&self, words: &[&str]) -> Vec<String> {
        docker_words(&self.program, &self.flags, words)
    }

    fn compose_words(&self, words: &[&str]) -> Vec<String> {
        compose_words(&self.program, self.standalone.as_deref(), &self.flags, words)
    }

    fn run(&self, argv: &[String]) -> Result<CommandResult> {
        self.run_with(argv, None)
    }

    /// Uses a prefetched result if one exists.
    fn run_prefetched(&self, argv: &[String]) -> Result<CommandResult> {
        self.prefetcher.remove(argv).unwrap_or_else(|| self.run(argv))
    }

    fn run_with(&self, argv: &[String], stdin: Option<&str>) -> Result<CommandResult> {
        if let Some(result) = self.query_by_connection(argv) {
            return Ok(result);
        }
        self.run_command(
            &shown_words(&argv[1..]),
            self.expression(argv),
            stdin.or(self.project_text_for(argv)),
        )
    }

    /// The command that the client would run; for Compose, its plugin without the client where that is possible.
    fn expression(&self, argv: &[String]) -> duct::Expression {
        match self.plugin_for(argv) {
            Some(plugin) => {
                in_own_group(duct::cmd(plugin, &argv[1..])).env(compose_plugin::ORIGINAL_COMMAND, &argv[0])
            }
            None => expression(argv),
        }
    }

    fn plugin_for(&self, argv: &[String]) -> Option<&Path> {
        let word = argv.get(1 + self.flags.engine.len())?;
        self.plugin.as_deref().filter(|_| word == "compose")
    }

    /// Retries a command that an ssh server refused because of too many connections: the command has not run then.
    fn run_command(
        &self,
        shown: &str,
        command: duct::Expression,
        stdin: Option<&str>,
    ) -> Result<CommandResult> {
        let command = with_output_settings(command).stdout_capture().stderr_capture().unchecked();
        let command = match stdin {
            Some(text) => command.stdin_bytes(text),
            None => command.stdin_null(),
        };
        let mut last = CommandResult::default();
        wait::until(
            endpoint::CONNECT_RETRY_POLL,
            endpoint::CONNECT_RETRY,
            &StopSignal::default(),
            || -> Result<_> {
                last = self.run_to_end(shown, &command)?;
                Ok((!self.should_retry(&last)).then_some(()))
            },
        )?;
        Ok(last)
    }

    /// Waits without limit while the engine answers. Silence is the only sign of a broken connection or a hanging
    /// engine.
    fn run_to_end(&self, shown: &str, command: &duct::Expression) -> Result<CommandResult> {
        let start = Instant::now();
        let program = self.program.to_string_lossy();
        let child = command.start().map_err(|e| cannot_start(&program, &e))?;
        let ended = self.wait_for(&child).map_err(|e| cannot_start(&program, &e));
        (self.observer)(shown, start.elapsed());
        Ok(ended?.ok_or_else(|| self.silence_error(shown, start.elapsed()))?)
    }

    /// `None` if the engine stopped answering; the command is ended then.
    fn wait_for(&self, child: &duct::Handle) -> std::io::Result<Option<CommandResult>> {
        loop {
            let Timeouts { check_after, answer } = self.current_timeouts();
            if let Some(output) = child.wait_timeout(check_after)? {
                self.is_silent.store(false, Ordering::Relaxed);
                return Ok(Some(command_result(output)));
            }
            let answers = self.answers_within(answer);
            self.is_silent.store(!answers, Ordering::Relaxed);
            if !answers {
                end_group(child);
                return Ok(None);
            }
        }
    }

    fn current_timeouts(&self) -> Timeouts {
        if self.is_silent.load(Ordering::Relaxed) { self.silent_timeouts } else { self.timeouts }
    }

    fn engine_error(&self, words: &[&str], result: &CommandResult) -> Error {
        engine_error(words, result, || self.engine_address())
    }
}

/// Runs another program of this machine in a folder. A variable without a value is removed from the environment; each
/// variable is named once.
///
/// # Errors
/// The program cannot be started: the program or the folder does not exist.
pub fn run_program(
    argv: &[&str],
    dir: &Path,
    environment: &[(&str, Option<OsString>)],
) -> Result<CommandResult> {
    let plain = expression(&argv.iter().map(|w| w.to_string()).collect::<Vec<_>>());
    let command = environment.iter().fold(plain, |command, (name, value)| match value {
        Some(value) => command.env(name, value),
        None => command.env_remove(name),
    });
    let command = command.dir(dir).stdin_null().stdout_capture().stderr_capture().unchecked();
    Ok(command_result(&command.run().map_err(|e| cannot_start(argv[0], &e))?))
}

/// Shows a text in a pager, which is a command line for the shell. Returns false if the pager cannot run.
pub fn page(pager: &str, text: &str) -> bool {
    let command = duct::cmd!("sh", "-c", pager).stdin_bytes(text).unchecked();
    let command = if std::env::var_os("LESS").is_none() { command.env("LESS", "FRX") } else { command };
    command.run().is_ok_and(|output| ![Some(126), Some(127)].contains(&output.status.code()))
}

/// A shell of this machine, for tests: it stands in for the shell of a container.
#[cfg(test)]
pub fn shell_of_this_machine(stdin: PipeReader, stdout: PipeWriter, stderr: PipeWriter) {
    let command = duct::cmd!("sh").stdin_file(stdin).stdout_file(stdout).stderr_file(stderr);
    command.unchecked().start().expect("a shell");
}

fn command_result(output: &std::process::Output) -> CommandResult {
    CommandResult {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into(),
        stderr: String::from_utf8_lossy(&output.stderr).into(),
    }
}

/// Ends a command and all that it started: Compose is a child of docker, and would continue without it. The command may
/// have ended by itself just now.
fn end_group(child: &duct::Handle) {
    let _ = child.kill();
    for pid in child.pids().into_iter().filter_map(|pid| Pid::from_raw(pid.try_into().ok()?)) {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
}

fn expression(argv: &[String]) -> duct::Expression {
    in_own_group(duct::cmd(&argv[0], &argv[1..]))
}

/// Starts a child in a process group of its own: compose-zd handles Ctrl-C in the terminal, not `docker compose`. The
/// child carries a mark in its environment. If this run is killed, the next one finds the child by the mark.
fn in_own_group(command: duct::Expression) -> duct::Expression {
    static MARK: LazyLock<String> = LazyLock::new(|| ProcessId::current().run_mark());
    command.env(RUN_VARIABLE, &*MARK).before_spawn(|command| {
        command.process_group(0);
        Ok(())
    })
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

/// A command whose output is read: its form does not depend on the user's environment.
fn with_output_settings(command: duct::Expression) -> duct::Expression {
    OUTPUT_SETTINGS.iter().fold(command, |command, (name, value)| command.env(name, value))
}

fn with_variables(command: duct::Expression, variables: &[(String, String)]) -> duct::Expression {
    let own = variables.iter().filter(|(name, _)| !is_read_by_docker(name));
    own.fold(command, |command, (name, value)| command.env(name, value))
}

/// Most bytes that are read of the output of a command that runs the user's code.
const MAX_OUTPUT: u64 = 64 << 10;

/// Most bytes that are read of a proxy's configuration, or of a proxy's answer.
const MAX_PROXY_OUTPUT: u64 = 16 << 20;

/// Limit of a command in a container, unless it has one of its own.
const EXEC_LIMIT: Duration = Duration::from_secs(60);

/// Longest delay before a signal is noticed.
const SIGNAL_POLL: Duration = Duration::from_millis(200);

/// Reason to stop waiting for a command in a container.
#[derive(Debug, Clone, Copy)]
enum ExecAbort {
    TimedOut(Duration),
    Signal(i32),
    /// The engine does not answer.
    EngineSilent,
}

/// Returns the reason to stop waiting for a command, if there is one.
type AbortCheck<'a> = &'a dyn Fn() -> Option<ExecAbort>;

/// Rounds down to whole seconds; a time below one second stays as it is.
fn rounded(time: Duration) -> Duration {
    if time < Duration::from_secs(1) { time } else { Duration::from_secs(time.as_secs()) }
}

/// Exit code of a command that ends within the limit.
fn exit_code_within(child: &duct::Handle, limit: Duration) -> io::Result<Option<Option<i32>>> {
    Ok(child.wait_timeout(limit)?.map(|output| output.status.code()))
}

/// Runs a command with a bounded time and a bounded output; `None` if `wait` gives up. Reads at most the first
/// `max_bytes` of its output.
fn run_bounded(
    command: duct::Expression,
    max_bytes: u64,
    wait: impl FnOnce(&duct::Handle) -> io::Result<Option<Option<i32>>>,
) -> io::Result<Option<CommandResult>> {
    let ((out, stdout), (err, stderr)) = (io::pipe()?, io::pipe()?);
    let (out, err) = (read_first(out, max_bytes), read_first(err, max_bytes));
    // The command holds its ends of the pipes, which have to close with the child.
    let child = command.stdout_file(stdout).stderr_file(stderr).unchecked().start()?;
    let ended = wait(&child);
    if !matches!(ended, Ok(Some(_))) {
        // The child may have ended by itself just now.
        let _ = child.kill();
    }
    let text = |read: Receiver<Vec<u8>>| {
        // A process that the child started may still run and hold the pipe.
        let end = Instant::now() + PIPE_CLOSE;
        let next = || read.recv_timeout(end.saturating_duration_since(Instant::now())).ok();
        let bytes: Vec<u8> = std::iter::from_fn(next).flatten().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(ended?.map(|code| CommandResult { code, stdout: text(out), stderr: text(err) }))
}

/// Longest time for a pipe to close after its process has ended.
const PIPE_CLOSE: Duration = Duration::from_secs(1);

/// Reads on a thread of its own, then closes the pipe, which ends a process that still writes.
fn read_first(pipe: impl Read + Send + 'static, max_bytes: u64) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut pipe = pipe.take(max_bytes);
        let mut buffer = vec![0; 8 << 10];
        // The bytes before an error count. The receiver may be gone.
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            if send.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receive
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
    let version = duct::cmd!(&path, "version", "--short").stdin_null().stderr_null().unchecked().read();
    if version.unwrap_or_default().trim_start_matches('v').starts_with("1.") {
        Err(missing().detail("`docker-compose` is version 1; compose-zd needs version 2").into())
    } else {
        Ok(path)
    }
}

fn cannot_start(program: &str, error: &std::io::Error) -> Error {
    Error::unchanged(format!("cannot start `{program}`: {error}"))
}

/// Rule that a user without rights to the engine breaks.
pub const ENGINE_DENIED: &str = "engine-denied";

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
            .hint(address.hint());
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
