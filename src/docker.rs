//! Every process is started here. What docker is asked and told, argv by argv, is in the files of this folder.

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
use crate::lock::{Lease, ProcessId, RUN};
use crate::shell;
use crate::wait::{self, StopSignal};
pub use command::DockerCommand;
use connection::EngineConnection;
use container_shell::ShellPool;
use endpoint::{EngineAddress, Timeouts};
pub use exec::Exec;
use exec::is_dockers_own;
pub use images::{KEEPS, familiar};
pub use init_container::InitContainer;
pub use output::OutputSink;
use prefetch::Prefetcher;

/// How a finished command ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommandResult {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl CommandResult {
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// What it said last, for messages: stderr, else stdout.
    pub fn stderr_or_stdout(&self) -> &str {
        match self.stderr.trim() {
            "" => self.stdout.trim(),
            text => text,
        }
    }
}

/// Which project: Compose's and docker's own flags, passed through as they were given.
#[derive(Debug, Clone, Default)]
pub struct ComposeFlags {
    /// `--context` and `--host`.
    pub engine: Vec<String>,
    /// `--file`, `--project-name`, `--project-directory`, `--env-file`, `--profile`.
    pub project: Vec<String>,
}

/// Told of every command that ran, for `--verbose`.
pub type Observer = Arc<dyn Fn(&str, Duration) + Send + Sync>;

/// The docker client of this machine, pointed at one engine and one project.
#[derive(Clone)]
pub struct Docker {
    program: PathBuf,
    /// A standalone `docker-compose` v2, where the client has no `compose` plugin.
    standalone: Option<PathBuf>,
    /// The program is docker's own client, and no other in its place.
    is_own: bool,
    /// The client's `compose` plugin, where it may be started without the client.
    plugin: Option<PathBuf>,
    place: ComposeFlags,
    /// The project, where Compose reads it from its input.
    project_text: Option<Arc<str>>,
    observer: Observer,
    engine_timeout: Duration,
    patience: Timeouts,
    /// For an engine that was silent before.
    again: Timeouts,
    /// The engine did not answer when it was asked last.
    is_silent: Arc<AtomicBool>,
    shells: Arc<ShellPool>,
    line: Arc<EngineConnection>,
    ahead: Arc<Prefetcher>,
    known: Arc<Mutex<Vec<String>>>,
    said: Option<OutputSink>,
    /// What a change waits for: that the run still has its lock.
    lease: Arc<Mutex<Option<Lease>>>,
    /// What ends questions and users' commands in containers.
    stop: StopSignal,
}

impl Docker {
    /// Finds the client and a Compose v2.
    ///
    /// # Errors
    /// No `docker`, no Compose, or a Compose of version 1.
    pub fn find(place: ComposeFlags, observer: Observer) -> Result<Docker> {
        let program = which::which("docker").map_err(|_| {
            Error::unchanged("`docker` is not on the PATH").hint(
                "install Docker Engine and its Compose plugin (on Debian or Ubuntu `scripts/setup` does)",
            )
        })?;
        let is_own = compose_plugin::is_dockers(&program);
        let plugin = if is_own { compose_plugin::find(&place.engine) } else { None };
        Ok(Docker { is_own, plugin, ..Docker::new(program, place, observer) })
    }

    fn new(program: PathBuf, place: ComposeFlags, observer: Observer) -> Docker {
        Docker {
            program,
            standalone: None,
            is_own: false,
            plugin: None,
            place,
            project_text: None,
            observer,
            engine_timeout: endpoint::TIMEOUT,
            patience: endpoint::PATIENCE,
            again: endpoint::AGAIN,
            is_silent: Arc::default(),
            shells: Arc::default(),
            line: Arc::default(),
            ahead: Arc::default(),
            known: Arc::default(),
            said: None,
            lease: Arc::default(),
            stop: StopSignal::default(),
        }
    }

    /// From here on nothing is changed without this lease.
    pub fn guard(&self, lease: Lease) {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease);
    }

    /// Before a change: that the run still has its lock.
    ///
    /// # Errors
    /// Another run has taken it.
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

    /// A client at this place, for tests of what needs none.
    #[cfg(test)]
    pub fn at(program: PathBuf, place: ComposeFlags) -> Docker {
        Docker::new(program, place, Arc::new(|_, _| {}))
    }

    /// The same engine, and a project that was resolved before: its text, its name and the folder it came from. Compose reads
    /// it from its input: it holds secrets, and some clients cannot read a temporary file of this process (snap).
    pub fn with_text(&self, text: &str, project: &str, folder: &Path) -> Docker {
        let docker = self.with_file(Path::new("-"), project, folder);
        Docker { project_text: Some(text.into()), ahead: Arc::default(), ..docker }
    }

    /// The same with the project's text in a file. Every service in it is meant, whatever its profile.
    pub fn with_file(&self, file: &Path, project: &str, folder: &Path) -> Docker {
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
        let place = ComposeFlags { engine: self.place.engine.clone(), project: words.to_vec() };
        Docker { place, project_text: None, ..self.clone() }
    }

    /// What Compose gets as its input.
    fn text_for(&self, argv: &[String]) -> Option<&str> {
        self.project_text.as_deref().filter(|_| argv.windows(2).any(|words| words == ["--file", "-"]))
    }

    /// Shows what a command says; whether it succeeded.
    fn run_shown(&self, argv: &[String]) -> Result<bool> {
        // In our own process group: nothing is touched yet, so Ctrl-C may end it at once.
        self.run_streaming(argv, duct::cmd(&argv[0], &argv[1..]))
    }

    fn run_streaming(&self, argv: &[String], command: duct::Expression) -> Result<bool> {
        let command = match self.text_for(argv) {
            Some(text) => command.stdin_bytes(text),
            None => command.stdin_null(),
        };
        let (shown, command) = (shown_words(&argv[1..]), command.unchecked());
        let Some(said) = self.said.as_ref().filter(|s| (s.wanted)()) else {
            return self.run_to_end(&shown, &command.stdout_to_stderr()).map(|done| done.ok());
        };
        let (reader, writer) = io::pipe()?;
        let command = command.stdout_file(writer.try_clone()?).stderr_file(writer);
        let told = output::forward_lines(reader, Arc::clone(&said.line));
        let done = self.run_to_end(&shown, &command);
        // It holds our ends of the pipe. What the command started itself may hold it for longer.
        drop(command);
        let _ = told.recv_timeout(PIPE);
        done.map(|done| done.ok())
    }

    /// The same client, whose questions and users' commands in containers end with a signal.
    pub fn with_stop_signal(self, stop: &StopSignal) -> Docker {
        Docker { stop: stop.clone(), ..self }
    }

    /// Runs a command in a container, for as long as its limit; a plain script in a shell that is kept open there, which costs
    /// a tenth of it. A signal ends a user's command, but none of ours: it changes something, and has ends of its own.
    ///
    /// # Errors
    /// Docker cannot be started, or the engine does not answer; a signal. The command's own failure is in the answer.
    pub fn exec(&self, exec: &Exec) -> Result<CommandResult> {
        self.exec_until(exec, &|| self.signal().filter(|_| exec.private))
    }

    /// As [`Docker::exec`], for a command that changes nothing: a signal ends it.
    ///
    /// # Errors
    /// As [`Docker::exec`].
    pub fn query(&self, exec: &Exec) -> Result<CommandResult> {
        self.exec_until(exec, &|| self.signal())
    }

    fn signal(&self) -> Option<ExecAbort> {
        self.stop.signal().map(ExecAbort::Signal)
    }

    fn exec_until(&self, exec: &Exec, is_cut: AbortCheck) -> Result<CommandResult> {
        let argv = self.docker_words(&exec.words().iter().map(String::as_str).collect::<Vec<_>>());
        let (start, limit) = (Instant::now(), exec.limit.unwrap_or_else(|| self.scaled(ANSWER)));
        let hurried = || ExecAbort::Late(start.elapsed());
        let late = || (start.elapsed() >= limit).then_some(ExecAbort::Late(limit));
        let is_cut =
            || is_cut().or_else(late).or_else(|| (exec.private && self.stop.is_hurried()).then(hurried));
        let shown = exec.shown(&argv);
        let in_shell = if session::takes(exec) { self.exec_in_shell(exec, &is_cut)? } else { None };
        let mut last = in_shell;
        if last.is_none() {
            // An ssh server may turn it away; it has done nothing then.
            wait::until(endpoint::DOOR_POLL, endpoint::DOOR, &StopSignal::default(), || -> Result<_> {
                let done = self.run_in_container(&argv, exec, &is_cut)?;
                let is_over = !matches!(&done, Ok(done) if self.is_to_try_again(done));
                last = Some(done);
                Ok(is_over.then_some(()))
            })?;
        }
        (self.observer)(&shown, start.elapsed());
        match last.expect("it ran once") {
            Ok(done) => Ok(done),
            Err(ExecAbort::Signal(signal)) => Err(Error::interrupted(signal).into()),
            Err(ExecAbort::Silent) => Err(self.silent(&shown, start.elapsed()).into()),
            Err(ExecAbort::Late(limit)) => {
                let stderr = format!("no answer within {}", humantime::format_duration(rounded(limit)));
                Ok(CommandResult { stderr, ..CommandResult::default() })
            }
        }
    }

    /// No more than the first part of what it prints is read.
    fn run_in_container(
        &self,
        argv: &[String],
        exec: &Exec,
        is_cut: AbortCheck,
    ) -> Result<Result<CommandResult, ExecAbort>> {
        let mut cut = None;
        let command = readable(with_variables(expression(argv), &exec.variables));
        let command = match &exec.stdin {
            Some(text) => command.stdin_bytes(text.clone()),
            None => command.stdin_null(),
        };
        let done = bounded(command, MOST, |child| {
            let ended = self.wait_unless(child, is_cut)?;
            Ok(ended.map_err(|why| cut = Some(why)).ok())
        });
        let done = done.map_err(|e| cannot_start(&argv[0], &e))?;
        Ok(done.ok_or_else(|| cut.expect("what did not end was cut")))
    }

    /// The exit code, unless it is cut, or the engine falls silent.
    fn wait_unless(
        &self,
        child: &duct::Handle,
        is_cut: AbortCheck,
    ) -> io::Result<Result<Option<i32>, ExecAbort>> {
        let mut asked = Instant::now();
        loop {
            if let Some(output) = child.wait_timeout(HEARD)? {
                self.is_silent.store(false, Ordering::Relaxed);
                return Ok(Ok(output.status.code()));
            }
            let Timeouts { before, answer } = self.patience_now();
            let is_due = asked.elapsed() >= before;
            let is_silent = is_due && !self.answers_within(answer);
            if is_due {
                self.is_silent.store(is_silent, Ordering::Relaxed);
                asked = Instant::now();
            }
            if let Some(cut) = is_silent.then_some(ExecAbort::Silent).or_else(is_cut) {
                end_group(child);
                return Ok(Err(cut));
            }
        }
    }

    /// As [`Docker::exec`], for at most `limit`, and without input; what takes longer is left to itself and gives no
    /// answer. No more than the first 64 KiB of what it prints is read.
    ///
    /// # Errors
    /// Only when docker cannot be started.
    pub fn exec_within(&self, exec: &Exec, limit: Duration) -> Result<Option<CommandResult>> {
        let argv = self.docker_words(&exec.words().iter().map(String::as_str).collect::<Vec<_>>());
        let start = Instant::now();
        let command = with_variables(expression(&argv), &exec.variables).stdin_null();
        let done = bounded(command, OUTPUT, |child| within(child, limit));
        (self.observer)(&exec.shown(&argv), start.elapsed());
        Ok(done.map_err(|e| cannot_start(&argv[0], &e))?)
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

    /// Starts a client that is a connection to the engine, which ends with its input.
    fn start_line(&self, stdin: PipeReader, stdout: PipeWriter) -> io::Result<()> {
        let argv = self.docker_words(&["system", "dial-stdio"]);
        let command = expression(&argv).stdin_file(stdin).stdout_file(stdout).stderr_null();
        command.unchecked().start().map(drop)
    }

    /// `None` where it takes longer than that; it is then left to itself.
    fn run_within(
        &self,
        argv: &[String],
        stdin: Option<&[u8]>,
        limit: Duration,
    ) -> Result<Option<CommandResult>> {
        if let Some(done) = self.ask_by_line(argv) {
            return Ok(Some(done));
        }
        let start = Instant::now();
        let command = readable(expression(argv)).stdout_capture().stderr_capture().unchecked();
        let child = match stdin {
            Some(bytes) => command.stdin_bytes(bytes).start(),
            None => command.stdin_null().start(),
        };
        let child = child.map_err(|e| cannot_start(&argv[0], &e))?;
        let done = child.wait_timeout(limit).map(|output| output.map(done));
        if !matches!(done, Ok(Some(_))) {
            end_group(&child);
        }
        (self.observer)(&shown_words(&argv[1..]), start.elapsed());
        Ok(done.map_err(|e| cannot_start(&argv[0], &e))?)
    }

    /// The beginning of what others wrote: a line of a log may be as long as it likes.
    fn log(&self, argv: &[String], limit: Duration) -> Result<CommandResult> {
        let start = Instant::now();
        let done = bounded(expression(argv).stdin_null(), OUTPUT, |child| within(child, limit));
        (self.observer)(&shown_words(&argv[1..]), start.elapsed());
        Ok(done.map_err(|e| cannot_start(&argv[0], &e))?.unwrap_or_default())
    }

    fn checked(&self, words: &[&str]) -> Result<String> {
        self.checked_output(words, self.run(&self.docker_words(words))?)
    }

    fn checked_output(&self, words: &[&str], done: CommandResult) -> Result<String> {
        match done.ok() {
            true => Ok(done.stdout),
            false => Err(self.engine_fault(words, &done).into()),
        }
    }

    fn compose(&self, words: &[&str]) -> Result<CommandResult> {
        self.run(&self.compose_words(words))
    }

    fn compose_checked(&self, words: &[&str]) -> Result<String> {
        self.checked_compose_output(words, self.compose(words)?)
    }

    fn checked_compose_output(&self, words: &[&str], done: CommandResult) -> Result<String> {
        match done.ok() {
            true => Ok(done.stdout),
            false => {
                let verb = words.first().unwrap_or(&"");
                Err(Error::unchanged(format!("`docker compose {verb}` failed"))
                    .seen(done.stderr_or_stdout())
                    .into())
            }
        }
    }

    fn docker_words(&self, words: &[&str]) -> Vec<String> {
        docker_words(&self.program, &self.place, words)
    }

    fn compose_words(&self, words: &[&str]) -> Vec<String> {
        compose_words(&self.program, self.standalone.as_deref(), &self.place, words)
    }

    fn run(&self, argv: &[String]) -> Result<CommandResult> {
        self.run_with(argv, None)
    }

    /// For what may have been asked ahead.
    fn run_prefetched(&self, argv: &[String]) -> Result<CommandResult> {
        self.ahead.take(argv).unwrap_or_else(|| self.run(argv))
    }

    fn run_with(&self, argv: &[String], stdin: Option<&str>) -> Result<CommandResult> {
        if let Some(done) = self.ask_by_line(argv) {
            return Ok(done);
        }
        self.run_command(&shown_words(&argv[1..]), self.expression(argv), stdin.or(self.text_for(argv)))
    }

    /// As the client would have it done; Compose by its plugin, where that can be started without the client.
    fn expression(&self, argv: &[String]) -> duct::Expression {
        match self.plugin_for(argv) {
            Some(plugin) => spawned(duct::cmd(plugin, &argv[1..])).env(compose_plugin::CALLED_BY, &argv[0]),
            None => expression(argv),
        }
    }

    fn plugin_for(&self, argv: &[String]) -> Option<&Path> {
        let word = argv.get(1 + self.place.engine.len())?;
        self.plugin.as_deref().filter(|_| word == "compose")
    }

    /// Tried again where an ssh server turned it away because too many came at a time: it has done nothing then.
    fn run_command(
        &self,
        shown: &str,
        command: duct::Expression,
        stdin: Option<&str>,
    ) -> Result<CommandResult> {
        let command = readable(command).stdout_capture().stderr_capture().unchecked();
        let command = match stdin {
            Some(text) => command.stdin_bytes(text),
            None => command.stdin_null(),
        };
        let mut last = CommandResult::default();
        wait::until(endpoint::DOOR_POLL, endpoint::DOOR, &StopSignal::default(), || -> Result<_> {
            last = self.run_to_end(shown, &command)?;
            Ok((!self.is_to_try_again(&last)).then_some(()))
        })?;
        Ok(last)
    }

    /// However long it takes, as long as the engine answers meanwhile: a line that breaks, or an engine that hangs, is
    /// told by nothing but silence.
    fn run_to_end(&self, shown: &str, command: &duct::Expression) -> Result<CommandResult> {
        let start = Instant::now();
        let program = self.program.to_string_lossy();
        let child = command.start().map_err(|e| cannot_start(&program, &e))?;
        let ended = self.wait_for(&child).map_err(|e| cannot_start(&program, &e));
        (self.observer)(shown, start.elapsed());
        Ok(ended?.ok_or_else(|| self.silent(shown, start.elapsed()))?)
    }

    /// `None` where the engine has fallen silent; the command is ended then.
    fn wait_for(&self, child: &duct::Handle) -> std::io::Result<Option<CommandResult>> {
        loop {
            let Timeouts { before, answer } = self.patience_now();
            if let Some(output) = child.wait_timeout(before)? {
                self.is_silent.store(false, Ordering::Relaxed);
                return Ok(Some(done(output)));
            }
            let answers = self.answers_within(answer);
            self.is_silent.store(!answers, Ordering::Relaxed);
            if !answers {
                end_group(child);
                return Ok(None);
            }
        }
    }

    fn patience_now(&self) -> Timeouts {
        if self.is_silent.load(Ordering::Relaxed) { self.again } else { self.patience }
    }

    fn engine_fault(&self, words: &[&str], done: &CommandResult) -> Error {
        engine_fault(words, done, || self.whereabouts())
    }
}

/// Runs another program of this machine, in a folder; a variable without a value is taken away from it. Each variable
/// is named once.
///
/// # Errors
/// Only when it cannot be started: there is no such program, or no such folder.
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
    Ok(done(&command.run().map_err(|e| cannot_start(argv[0], &e))?))
}

/// Shows a text in a pager, as one line for the shell; false where the pager cannot run.
pub fn page(pager: &str, text: &str) -> bool {
    let command = duct::cmd!("sh", "-c", pager).stdin_bytes(text).unchecked();
    let command = if std::env::var_os("LESS").is_none() { command.env("LESS", "FRX") } else { command };
    command.run().is_ok_and(|output| ![Some(126), Some(127)].contains(&output.status.code()))
}

/// A shell for tests, as a container has one.
#[cfg(test)]
pub fn shell_of_this_machine(stdin: PipeReader, stdout: PipeWriter, stderr: PipeWriter) {
    let command = duct::cmd!("sh").stdin_file(stdin).stdout_file(stdout).stderr_file(stderr);
    command.unchecked().start().expect("a shell");
}

fn done(output: &std::process::Output) -> CommandResult {
    CommandResult {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into(),
        stderr: String::from_utf8_lossy(&output.stderr).into(),
    }
}

/// Ends a command with all that it has started: Compose is a child of docker's, and would go on without it. It may have
/// ended by itself in this moment.
fn end_group(child: &duct::Handle) {
    let _ = child.kill();
    for pid in child.pids().into_iter().filter_map(|pid| Pid::from_raw(pid.try_into().ok()?)) {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
}

fn expression(argv: &[String]) -> duct::Expression {
    spawned(duct::cmd(&argv[0], &argv[1..]))
}

/// A child in a process group of its own: Ctrl-C in the terminal is for us to handle, not for `docker compose`. It carries a
/// mark by which the next run finds it, should this one be killed meanwhile.
fn spawned(command: duct::Expression) -> duct::Expression {
    static MARK: LazyLock<String> = LazyLock::new(|| ProcessId::this().mark());
    command.env(RUN, &*MARK).before_spawn(|command| {
        command.process_group(0);
        Ok(())
    })
}

/// Compose's settings for the form of its output, and the two by which it does more than it was told. Users and CI set
/// them, and so may a project's `.env`.
/// Source: <https://docs.docker.com/compose/how-tos/environment-variables/envvars/>
const FORM: [(&str, &str); 5] = [
    ("COMPOSE_PROGRESS", "plain"),
    ("COMPOSE_ANSI", "never"),
    ("COMPOSE_STATUS_STDOUT", "0"),
    ("COMPOSE_MENU", "0"),
    ("COMPOSE_REMOVE_ORPHANS", "0"),
];

/// A command whose output is read: its form does not depend on the user's environment.
fn readable(command: duct::Expression) -> duct::Expression {
    FORM.iter().fold(command, |command, (name, value)| command.env(name, value))
}

fn with_variables(command: duct::Expression, variables: &[(String, String)]) -> duct::Expression {
    let own = variables.iter().filter(|(name, _)| !is_dockers_own(name));
    own.fold(command, |command, (name, value)| command.env(name, value))
}

/// As much of the output of a command as is read where anybody may have written it, in bytes.
const OUTPUT: u64 = 64 << 10;

/// The same where it is a proxy's configuration, or the answer of one.
const MOST: u64 = 16 << 20;

/// Limit of a command in a container, unless it has one of its own.
const ANSWER: Duration = Duration::from_secs(60);

/// The longest that a signal is not heard.
const HEARD: Duration = Duration::from_millis(200);

/// Why a command in a container was not waited for.
#[derive(Debug, Clone, Copy)]
enum ExecAbort {
    Late(Duration),
    Signal(i32),
    /// The engine does not answer.
    Silent,
}

/// Tells why a command is not to be waited for any more.
type AbortCheck<'a> = &'a dyn Fn() -> Option<ExecAbort>;

/// To whole seconds, where it has any.
fn rounded(time: Duration) -> Duration {
    if time < Duration::from_secs(1) { time } else { Duration::from_secs(time.as_secs()) }
}

/// The exit code of what ends within a limit.
fn within(child: &duct::Handle, limit: Duration) -> io::Result<Option<Option<i32>>> {
    Ok(child.wait_timeout(limit)?.map(|output| output.status.code()))
}

/// Runs a command of which neither the time nor the output is trusted; none where `wait` gives it up. No more than the
/// first `most` bytes of what it prints are read.
fn bounded(
    command: duct::Expression,
    most: u64,
    wait: impl FnOnce(&duct::Handle) -> io::Result<Option<Option<i32>>>,
) -> io::Result<Option<CommandResult>> {
    let ((out, stdout), (err, stderr)) = (io::pipe()?, io::pipe()?);
    let (out, err) = (first_of(out, most), first_of(err, most));
    // The command holds its ends of the pipes, which have to close with the child.
    let child = command.stdout_file(stdout).stderr_file(stderr).unchecked().start()?;
    let ended = wait(&child);
    if !matches!(ended, Ok(Some(_))) {
        // It may have ended by itself in this moment.
        let _ = child.kill();
    }
    let text = |read: Receiver<Vec<u8>>| {
        // What the child started itself may live on and hold the pipe.
        let end = Instant::now() + PIPE;
        let next = || read.recv_timeout(end.saturating_duration_since(Instant::now())).ok();
        let bytes: Vec<u8> = std::iter::from_fn(next).flatten().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Ok(ended?.map(|code| CommandResult { code, stdout: text(out), stderr: text(err) }))
}

/// How long a pipe may take to close once its process has ended.
const PIPE: Duration = Duration::from_secs(1);

/// Reads on a thread of its own; then the pipe is closed, which ends who writes on.
fn first_of(pipe: impl Read + Send + 'static, most: u64) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        let mut pipe = pipe.take(most);
        let mut buffer = vec![0; 8 << 10];
        // What came before an error counts; and nobody may wait for it any more.
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            if send.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receive
}

fn docker_words(program: &Path, place: &ComposeFlags, words: &[&str]) -> Vec<String> {
    let mut argv = vec![program.to_string_lossy().into_owned()];
    argv.extend(place.engine.iter().cloned());
    argv.extend(words.iter().map(|w| w.to_string()));
    argv
}

fn compose_words(
    program: &Path,
    standalone: Option<&Path>,
    place: &ComposeFlags,
    words: &[&str],
) -> Vec<String> {
    let mut argv = match standalone {
        Some(compose) => docker_words(compose, place, &[]),
        None => docker_words(program, place, &["compose"]),
    };
    argv.extend(place.project.iter().cloned());
    argv.extend(words.iter().map(|w| w.to_string()));
    argv
}

/// A command for people: scripts are cut to their first line.
fn shown_words(words: &[String]) -> String {
    let first_line = |w: &String| match w.split_once('\n') {
        Some((line, _)) => format!("'{line} …'"),
        None if w.contains(' ') => format!("'{w}'"),
        None => w.clone(),
    };
    words.iter().map(first_line).collect::<Vec<_>>().join(" ")
}

fn standalone(flags: &[String]) -> Result<PathBuf> {
    let missing = || match compose_plugin::without_its_x_bit(flags) {
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
    match version.unwrap_or_default().trim_start_matches('v').starts_with("1.") {
        true => Err(missing().seen("`docker-compose` is of version 1, which cannot do this").into()),
        false => Ok(path),
    }
}

fn cannot_start(program: &str, error: &std::io::Error) -> Error {
    Error::unchanged(format!("cannot start `{program}`: {error}"))
}

/// The rule that a user without rights to the engine breaks.
pub const DENIED: &str = "engine-denied";

/// What docker said, as an error that names the usual causes.
fn engine_fault(words: &[&str], done: &CommandResult, place: impl Fn() -> EngineAddress) -> Error {
    let said = done.stderr_or_stdout();
    let lower = said.to_lowercase();
    let command = words.iter().take(2).copied().collect::<Vec<_>>().join(" ");
    if lower.contains("permission denied") && lower.contains("docker") && lower.contains("sock") {
        return Error::unchanged("this user may not talk to the Docker engine")
            .seen(said)
            .hint("run as root, or add the user to the group `docker`")
            .rule(&DENIED);
    }
    let unreachable = [
        "cannot connect to the docker daemon",
        "error during connect",
        "failed to connect to the docker api",
    ];
    if unreachable.iter().any(|u| lower.contains(u)) {
        let place = place();
        return Error::unchanged(format!("no Docker engine answers{place}")).seen(said).hint(place.hint());
    }
    if let Some(name) = missing_context(said) {
        return Error::usage(format!("there is no Docker context `{name}`")).seen(said).hint(
            "`docker context ls` shows those there are; it is named by `--context`, DOCKER_CONTEXT or `docker context use`",
        );
    }
    let ended = match done.code {
        Some(code) => format!("exited with {code}"),
        None => "was killed".into(),
    };
    Error::unchanged(format!("`docker {command}` {ended}")).seen(said)
}

/// The name in `context "NAME": context not found: …`.
fn missing_context(said: &str) -> Option<&str> {
    let (before, _) = said.split_once("\": context not found")?;
    before.rsplit_once("context \"").map(|(_, name)| name)
}

#[cfg(test)]
mod tests;
