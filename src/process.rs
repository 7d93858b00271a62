//! Child processes: every program that compose-zd starts, and the mark by which a later run finds them.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Environment variable of all commands of a run. A later run finds commands of a killed run by it.
pub const RUN_VARIABLE: &str = "COMPOSE_ZD_RUN";

/// Longest delay before a reason to end a command is noticed.
pub const ABORT_POLL: Duration = Duration::from_millis(200);

/// Longest time for a pipe to close after its process has ended: a process that the command started may hold it.
const PIPE_CLOSE: Duration = Duration::from_secs(1);

/// Longest line that is passed on in one piece.
const MAX_LINE: u64 = 64 << 10;

/// Most bytes that are read of the output of a program of this machine.
const MAX_OUTPUT: u64 = 64 << 20;

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

/// Receiver of the output of a build, a pull or a job, line by line.
#[derive(Clone)]
pub struct OutputSink {
    /// True if the receiver takes lines now: the progress display may appear later.
    pub is_wanted: Arc<dyn Fn() -> bool + Send + Sync>,
    pub write_line: LineSink,
}

type LineSink = Arc<dyn Fn(&str) + Send + Sync>;

/// Command to start.
#[derive(Clone)]
pub struct Command {
    expression: duct::Expression,
    /// Standard input; `None` for none.
    stdin: Option<Vec<u8>>,
}

impl Command {
    /// A command in a process group of its own: compose-zd handles Ctrl-C in the terminal, not the command. The
    /// command carries the mark of this run.
    pub fn new(argv: &[String]) -> Command {
        static MARK: LazyLock<String> = LazyLock::new(|| ProcessId::current().run_mark());
        let Command { expression, stdin } = Command::in_this_group(argv).env(RUN_VARIABLE, &*MARK);
        let expression = expression.before_spawn(|command| {
            command.process_group(0);
            Ok(())
        });
        Command { expression, stdin }
    }

    /// A command that Ctrl-C in the terminal ends.
    pub fn in_this_group(argv: &[String]) -> Command {
        Command { expression: duct::cmd(&argv[0], &argv[1..]), stdin: None }
    }

    pub fn env(self, name: &str, value: impl Into<OsString>) -> Command {
        Command { expression: self.expression.env(name, value), ..self }
    }

    pub fn stdin(self, stdin: Option<Vec<u8>>) -> Command {
        Command { stdin, ..self }
    }

    fn with_input(&self) -> duct::Expression {
        match &self.stdin {
            Some(bytes) => self.expression.stdin_bytes(bytes.clone()),
            None => self.expression.stdin_null(),
        }
    }

    /// Runs the command to its end, unless `abort` gives a reason to end it. Reads at most the first `max_bytes` of
    /// each stream.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn output<A>(
        &self,
        max_bytes: u64,
        abort: impl FnMut() -> Option<A>,
    ) -> io::Result<Result<CommandResult, A>> {
        let ((out, stdout), (err, stderr)) = (io::pipe()?, io::pipe()?);
        let (out, err) = (read_first(out, max_bytes), read_first(err, max_bytes));
        let child = start(self.with_input().stdout_file(stdout).stderr_file(stderr))?;
        let text = |read: Receiver<Vec<u8>>| {
            let end = Instant::now() + PIPE_CLOSE;
            let next = || read.recv_timeout(end.saturating_duration_since(Instant::now())).ok();
            let bytes: Vec<u8> = std::iter::from_fn(next).flatten().collect();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let code = wait_unless(&child, abort)?;
        Ok(code.map(|code| CommandResult { code, stdout: text(out), stderr: text(err) }))
    }

    /// As [`Command::output`]; the sink gets the output, or else stderr does. Returns true if the command succeeded.
    pub fn show<A>(
        &self,
        sink: Option<&OutputSink>,
        abort: impl FnMut() -> Option<A>,
    ) -> io::Result<Result<bool, A>> {
        let Some(sink) = sink.filter(|sink| (sink.is_wanted)()) else {
            let code = wait_unless(&start(self.with_input().stdout_to_stderr())?, abort)?;
            return Ok(code.map(|code| code == Some(0)));
        };
        let (reader, writer) = io::pipe()?;
        let child = start(self.with_input().stdout_file(writer.try_clone()?).stderr_file(writer))?;
        let forwarded = forward_lines(reader, Arc::clone(&sink.write_line));
        let code = wait_unless(&child, abort)?;
        let _ = forwarded.recv_timeout(PIPE_CLOSE);
        Ok(code.map(|code| code == Some(0)))
    }

    /// Starts a command that ends with its input. Without `stderr` its errors are dropped.
    pub fn start(self, stdin: PipeReader, stdout: PipeWriter, stderr: Option<PipeWriter>) -> io::Result<()> {
        let command = self.expression.stdin_file(stdin).stdout_file(stdout);
        let command = match stderr {
            Some(stderr) => command.stderr_file(stderr),
            None => command.stderr_null(),
        };
        start(command).map(drop)
    }
}

/// Starts a command. The pipes that it holds on this side are closed when the expression is dropped.
fn start(command: duct::Expression) -> io::Result<duct::Handle> {
    command.unchecked().start()
}

/// Exit code of a child, unless `abort` gives a reason to end it.
fn wait_unless<A>(
    child: &duct::Handle,
    mut abort: impl FnMut() -> Option<A>,
) -> io::Result<Result<Option<i32>, A>> {
    loop {
        if let Some(output) = child.wait_timeout(ABORT_POLL)? {
            return Ok(Ok(output.status.code()));
        }
        if let Some(reason) = abort() {
            end_group(child);
            return Ok(Err(reason));
        }
    }
}

/// Ends a command and all that it started: Compose is a child of docker, and would continue without it. The command may
/// have ended by itself just now.
fn end_group(child: &duct::Handle) {
    let _ = child.kill();
    for pid in child.pids().into_iter().filter_map(|pid| Pid::from_raw(pid.try_into().ok()?)) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

/// Reads on a thread of its own, then closes the pipe, which ends a process that still writes.
fn read_first(pipe: PipeReader, max_bytes: u64) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut pipe = pipe.take(max_bytes);
        let mut buffer = vec![0; 64 << 10];
        // The bytes before an error count. The receiver may be gone.
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            if send.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receive
}

/// Forwards lines on a thread of its own. The returned channel closes after the last line. A very long line is split.
fn forward_lines(reader: PipeReader, write_line: LineSink) -> Receiver<()> {
    let (end, ended) = channel::<()>();
    thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        loop {
            let mut bytes = Vec::new();
            match reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes) {
                Ok(1..) => write_line(String::from_utf8_lossy(&bytes).trim_end()),
                _ => break drop(end),
            }
        }
    });
    ended
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
) -> Result<CommandResult, Error> {
    let Command { expression, stdin } =
        Command::new(&argv.iter().map(ToString::to_string).collect::<Vec<_>>());
    let expression = environment.iter().fold(expression.dir(dir), |command, (name, value)| match value {
        Some(value) => command.env(name, value),
        None => command.env_remove(name),
    });
    let result = Command { expression, stdin }.output(MAX_OUTPUT, || None::<std::convert::Infallible>);
    result.map(|Ok(result)| result).map_err(|error| cannot_start(argv[0], &error))
}

/// Runs a command line of the shell in a folder, with this text on stdin. `None` if it ran longer than the limit; it was
/// ended then.
///
/// # Errors
/// The shell cannot be started.
pub fn run_shell(
    line: &str,
    dir: &Path,
    stdin: &str,
    limit: Duration,
) -> Result<Option<CommandResult>, Error> {
    let Command { expression, .. } = Command::new(&["sh", "-c", line].map(String::from));
    let command = Command { expression: expression.dir(dir), stdin: Some(stdin.into()) };
    let end = Instant::now() + limit;
    let result = command.output(MAX_OUTPUT, || (Instant::now() >= end).then_some(()));
    result.map(Result::ok).map_err(|error| cannot_start("sh", &error))
}

/// Input of a process that was started beside this one. It ends with this process, however that ends.
pub type ProcessInput = PipeWriter;

/// Starts this program with other words beside this process, which it may outlive, in the same folder.
///
/// # Errors
/// The program cannot be started.
pub fn start_self_beside(words: &[OsString]) -> io::Result<ProcessInput> {
    let (input, writer) = io::pipe()?;
    start(self_command(words).stdin_file(input)).map(|_| writer)
}

/// Leaves the session of the terminal, whose end would end this process too.
pub fn leave_session() {
    // A process that leads a group already has left the group of the terminal.
    let _ = rustix::process::setsid();
}

/// Starts this program with other words, as a process that outlives this one.
///
/// # Errors
/// The program cannot be started.
pub fn start_self_detached(words: &[String]) -> Result<(), Error> {
    let started = start(self_command(words).dir("/").stdin_null());
    started.map(drop).map_err(|error| cannot_start(SELF, &error))
}

/// File of this program, also after an upgrade has replaced it.
const SELF: &str = "/proc/self/exe";

/// This program with other words. Its output is dropped. It carries no mark of this run, because a later run must not
/// wait for it.
fn self_command(words: &[impl Into<OsString> + Clone]) -> duct::Expression {
    let command = duct::cmd(SELF, words.iter().cloned()).stdout_null().stderr_null();
    command.before_spawn(|command| {
        // As a plugin of docker, the program would read its words in another way.
        command.arg0(env!("CARGO_PKG_NAME"));
        Ok(())
    })
}

/// Start of a process in clock ticks since the boot; `None` if it has ended.
pub fn start_of(pid: u32) -> Option<String> {
    start_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Error of a program that cannot be started.
pub fn cannot_start(program: &str, error: &io::Error) -> Error {
    Error::unchanged(format!("cannot start `{program}`: {error}"))
}

/// Shows a text in a pager, which is a command line for the shell. Returns false if the pager cannot run.
pub fn page(pager: &str, text: &str) -> bool {
    let command = duct::cmd!("sh", "-c", pager).stdin_bytes(text).unchecked();
    let command = if std::env::var_os("LESS").is_none() { command.env("LESS", "FRX") } else { command };
    command.run().is_ok_and(|output| ![Some(126), Some(127)].contains(&output.status.code()))
}

/// Shared libraries that this process has loaded, without the program itself.
pub fn own_libraries() -> BTreeSet<String> {
    let own = fs::read_link("/proc/self/exe").unwrap_or_default();
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| line[at..].to_string()));
    paths.filter(|path| path.contains(".so") && Path::new(path) != own).collect()
}

/// Process, with the facts by which another process can check whether it is alive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: u32,
    /// Start in clock ticks since the boot. It differs between processes that had the same number.
    pub started: String,
    /// Id of the machine's boot.
    pub boot: String,
    /// Pid namespace of the number.
    pub namespace: String,
}

/// Liveness of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    Alive,
    Dead,
    /// The process is on another machine or hidden.
    NotVisible,
}

impl ProcessId {
    /// The current process. Facts that the machine does not report stay empty; the process is not visible then.
    pub fn current() -> ProcessId {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let namespace = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        ProcessId {
            pid: std::process::id(),
            started: start_time(&read("/proc/self/stat")).unwrap_or_default(),
            boot: read("/proc/sys/kernel/random/boot_id").trim().into(),
            namespace: namespace.to_string_lossy().into(),
        }
    }

    /// Value of [`RUN_VARIABLE`] in the environment of its commands.
    fn run_mark(&self) -> String {
        format!("{}-{}", self.pid, self.started)
    }

    /// True if a command that the process started still runs.
    pub fn has_orphans(&self) -> bool {
        let mark = format!("{RUN_VARIABLE}={}", self.run_mark());
        let is_marked =
            |environment: Vec<u8>| environment.split(|b| *b == 0).any(|variable| variable == mark.as_bytes());
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        // Another user's processes cannot be read, so another user's orphans are not found.
        entries.filter_map(|entry| fs::read(entry.path().join("environ")).ok()).any(is_marked)
    }

    /// Liveness, as far as this process can find out.
    pub fn liveness(&self) -> Liveness {
        let stat = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        self.liveness_seen_by(&ProcessId::current(), stat, process_exists)
    }

    /// Liveness by what `current` sees. `stat` reads `/proc/PID/stat`, which the kernel may hide (`hidepid`). `exists`
    /// is true if a process with this number exists.
    fn liveness_seen_by(
        &self,
        current: &ProcessId,
        stat: impl Fn(u32) -> Option<String>,
        exists: impl Fn(u32) -> bool,
    ) -> Liveness {
        let is_known = !self.boot.is_empty() && !self.started.is_empty();
        let is_same_machine = (&self.boot, &self.namespace) == (&current.boot, &current.namespace);
        if !is_known || !is_same_machine {
            return Liveness::NotVisible;
        }
        match stat(self.pid).map(|stat| start_time(&stat)) {
            Some(Some(started)) if started == self.started => Liveness::Alive,
            // A hidden process may be another one with the same number.
            None if exists(self.pid) => Liveness::NotVisible,
            _ => Liveness::Dead,
        }
    }
}

/// True if a process with this number exists. A process of another user may be hidden, and refuses the signal.
fn process_exists(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| matches!(test_kill_process(pid), Ok(()) | Err(Errno::PERM)))
}

/// Start time of a process, from `/proc/PID/stat`; `None` for a zombie, which has ended. The name of the process, in
/// brackets, may contain spaces and brackets.
fn start_time(stat: &str) -> Option<String> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    (state != "Z" && state != "X").then(|| fields.nth(18).map(String::from))?
}

#[cfg(test)]
mod tests;
