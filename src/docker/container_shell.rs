//! Shells that are kept open in containers, one in each container that is queried more than once. A `docker exec` takes a
//! tenth of a second, a line for an open shell a few milliseconds. The shell's input ends with compose-zd, however that
//! ends, and the shell ends with its input.

use std::collections::BTreeMap;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Abort, AbortCheck, CommandResult, Docker, Exec, MAX_PROXY_OUTPUT};
use crate::process::ABORT_POLL;
use crate::shell;

/// After this long without an answer the container's state is checked: a paused container neither answers nor ends.
const STATE_CHECK: Duration = Duration::from_secs(3);

/// After this many shells in a row that ended without an answer the container gets no further one.
const MAX_FAILURES: u32 = 3;

/// Most chunks of output that wait to be read; a command that writes faster has to wait.
const MAX_CHUNKS: usize = 16;

/// Kept shells by container.
#[derive(Default)]
pub struct ShellPool(Mutex<BTreeMap<String, Arc<Mutex<Shell>>>>);

#[derive(Default)]
struct Shell {
    session: Option<Session>,
    failures: u32,
}

/// Pipes of a kept shell. Dropping them ends the shell's input, and with it the shell.
struct Session {
    stdin: PipeWriter,
    chunks: Receiver<StreamChunk>,
    /// Number of commands so far, so that no two commands have the same end mark.
    count: u64,
}

/// Bytes of a pipe; `None` when the pipe has ended.
type StreamChunk = (Stream, Option<Vec<u8>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

/// Reason for a missing answer.
#[derive(Debug)]
enum NoAnswer {
    /// The shell has ended; the command may have run in part.
    Closed,
    Aborted(Abort),
}

/// True if a kept shell can run the command: a plain script, without input, variables or a user of its own.
pub fn can_run(exec: &Exec) -> bool {
    let plain = exec.options.is_empty() && exec.variables.is_empty() && !exec.private;
    let alone = exec.stdin.is_none() && exec.sidecar_image.is_none();
    plain && alone && matches!(&exec.argv[..], [sh, flag, _, ..] if sh == "sh" && flag == "-c")
}

impl ShellPool {
    fn shell_in(&self, container: &str) -> Arc<Mutex<Shell>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(container.into()).or_default().clone()
    }
}

impl Docker {
    /// Opens shells in these containers for later queries, without waiting for them.
    pub fn open_shells(&self, containers: &[String]) {
        for container in containers {
            let shell = self.shells.shell_in(container);
            let mut shell = shell.lock().unwrap_or_else(PoisonError::into_inner);
            if shell.session.is_none() && shell.failures < MAX_FAILURES {
                shell.session = self.open_shell(container).ok();
            }
        }
    }

    /// Runs a command in the kept shell of its container, which is opened if there is none. `None` if the shell
    /// cannot run or has not answered: the command may have run then. Every command to a proxy can be repeated.
    pub(super) fn exec_in_shell(
        &self,
        exec: &Exec,
        abort: AbortCheck,
    ) -> Option<Result<CommandResult, Abort>> {
        let shell = self.shells.shell_in(&exec.container);
        let mut shell = shell.lock().unwrap_or_else(PoisonError::into_inner);
        if shell.failures >= MAX_FAILURES {
            return None;
        }
        let session = shell.session.take().or_else(|| self.open_shell(&exec.container).ok());
        let mut last_check = Instant::now();
        let reason = || {
            if let Some(abort) = abort() {
                return Some(NoAnswer::Aborted(abort));
            }
            let is_due = last_check.elapsed() >= STATE_CHECK;
            last_check = if is_due { Instant::now() } else { last_check };
            (is_due && !self.runs(&exec.container)).then_some(NoAnswer::Closed)
        };
        match session.ok_or(NoAnswer::Closed).and_then(|session| session.run(&exec.argv, reason)) {
            Ok((result, session)) => {
                *shell = Shell { session: Some(session), failures: 0 };
                Some(Ok(result))
            }
            // The command may still run in that shell.
            Err(NoAnswer::Aborted(abort)) => Some(Err(abort)),
            Err(NoAnswer::Closed) => {
                shell.failures += 1;
                None
            }
        }
    }

    fn runs(&self, container: &str) -> bool {
        let containers = self.inspect(&[container.into()]).unwrap_or_default();
        containers.first().is_some_and(|c| c.state.status == "running")
    }

    fn open_shell(&self, container: &str) -> io::Result<Session> {
        let ((inner, stdin), (stdout, out), (stderr, err)) = (io::pipe()?, io::pipe()?, io::pipe()?);
        self.command(&self.docker_words(&["exec", "-i", container, "sh"])).start(inner, out, Some(err))?;
        Ok(Session::new(stdin, stdout, stderr))
    }
}

impl Session {
    /// A session over the shell's three pipes.
    fn new(stdin: PipeWriter, stdout: PipeReader, stderr: PipeReader) -> Session {
        let (sender, chunks) = sync_channel(MAX_CHUNKS);
        forward_chunks(Stream::Out, stdout, sender.clone());
        forward_chunks(Stream::Err, stderr, sender);
        Session { stdin, chunks, count: 0 }
    }

    /// Runs a command until `abort` returns a reason to stop waiting. Returns the session for the next command.
    fn run(
        mut self,
        argv: &[String],
        mut abort: impl FnMut() -> Option<NoAnswer>,
    ) -> Result<(CommandResult, Session), NoAnswer> {
        self.count += 1;
        let end = format!("@compose-zd-{}-{}", std::process::id(), self.count);
        self.stdin.write_all(shell_line(argv, &end).as_bytes()).map_err(|_| NoAnswer::Closed)?;
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            match self.chunks.recv_timeout(ABORT_POLL) {
                Ok((Stream::Out, Some(chunk))) => out.extend(chunk),
                Ok((Stream::Err, Some(chunk))) => err.extend(chunk),
                Ok((_, None)) | Err(RecvTimeoutError::Disconnected) => return Err(NoAnswer::Closed),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(result) = result(&out, &err, &end) {
                return Ok((result, self));
            }
            if out.len().max(err.len()) as u64 > MAX_PROXY_OUTPUT {
                return Err(NoAnswer::Closed);
            }
            if let Some(reason) = abort() {
                return Err(reason);
            }
        }
    }
}

/// Result, once both streams have reached the end mark.
fn result(out: &[u8], err: &[u8], end: &str) -> Option<CommandResult> {
    let (stdout, code) = split_at_end(out, end)?;
    let (stderr, _) = split_at_end(err, end)?;
    Some(CommandResult { code: code.trim().parse().ok(), stdout, stderr })
}

/// Text before the line with the end mark, and the rest of that line.
fn split_at_end(bytes: &[u8], end: &str) -> Option<(String, String)> {
    let last = bytes.strip_suffix(b"\n")?.rsplit(|byte| *byte == b'\n').next()?;
    let rest = String::from_utf8_lossy(last.strip_prefix(end.as_bytes())?).into_owned();
    let output = &bytes[..bytes.len().checked_sub(last.len() + 2)?];
    Some((String::from_utf8_lossy(output).into(), rest))
}

/// Command as one line for the kept shell, without input. The script gets a shell of its own.
fn shell_line(argv: &[String], end: &str) -> String {
    let argv = shell::words(argv);
    format!("{argv} </dev/null; printf '\\n%s %s\\n' {end} \"$?\"; printf '\\n%s\\n' {end} >&2\n")
}

/// Reads on a thread of its own, until the pipe or the receiver ends.
fn forward_chunks(stream: Stream, mut pipe: PipeReader, chunks: SyncSender<StreamChunk>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            if chunks.send((stream, Some(buffer[..length].to_vec()))).is_err() {
                return;
            }
        }
        // The receiver may be gone.
        let _ = chunks.send((stream, None));
    });
}

#[cfg(test)]
mod tests;
