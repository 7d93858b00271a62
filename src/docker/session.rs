//! Shell that is kept open in a container. A `docker exec` takes a tenth of a second, a line for an open shell a few
//! milliseconds. The shell's input ends with compose-zd, however that ends, and the shell ends with its input.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::{CommandResult, Exec, MAX_PROXY_OUTPUT};
use crate::shell;

/// Pipes of a kept shell. Dropping them ends the shell's input, and with it the shell.
pub struct Session {
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
#[derive(Debug, PartialEq, Eq)]
pub enum SessionError {
    /// The shell or the connection has ended; the command may have run in part.
    Closed,
    /// No answer within the limit.
    TimedOut,
}

/// True if a kept shell can run the command: a plain script, without input, variables or a user of its own.
pub fn can_run(exec: &Exec) -> bool {
    let plain = exec.options.is_empty() && exec.variables.is_empty() && !exec.private;
    let alone = exec.stdin.is_none() && exec.sidecar_image.is_none();
    plain && alone && matches!(&exec.argv[..], [sh, flag, _, ..] if sh == "sh" && flag == "-c")
}

impl Session {
    /// A session over the shell's three pipes.
    pub fn new(stdin: PipeWriter, stdout: PipeReader, stderr: PipeReader) -> Session {
        let (sender, chunks) = channel();
        forward_chunks(Stream::Out, stdout, sender.clone());
        forward_chunks(Stream::Err, stderr, sender);
        Session { stdin, chunks, count: 0 }
    }

    /// Sends a command; [`Session::answer`] returns its result.
    pub fn run(&mut self, argv: &[String]) -> Result<PendingCommand, SessionError> {
        self.count += 1;
        let end = format!("@compose-zd-{}-{}", std::process::id(), self.count);
        let sent = self.stdin.write_all(shell_line(argv, &end).as_bytes()).and_then(|()| self.stdin.flush());
        sent.map_err(|_| SessionError::Closed)?;
        Ok(PendingCommand { end_mark: end, out: Vec::new(), err: Vec::new() })
    }

    /// Waits for a result, for at most `limit`; `pending` keeps the output until then.
    pub fn answer(
        &self,
        pending: &mut PendingCommand,
        limit: Duration,
    ) -> Result<CommandResult, SessionError> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(result) = pending.result() {
                return Ok(result);
            }
            if pending.out.len().max(pending.err.len()) as u64 > MAX_PROXY_OUTPUT {
                return Err(SessionError::Closed);
            }
            match self.chunks.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((Stream::Out, Some(chunk))) => pending.out.extend(chunk),
                Ok((Stream::Err, Some(chunk))) => pending.err.extend(chunk),
                Ok((_, None)) | Err(RecvTimeoutError::Disconnected) => return Err(SessionError::Closed),
                Err(RecvTimeoutError::Timeout) => return Err(SessionError::TimedOut),
            }
        }
    }
}

/// Command that runs in a kept shell.
pub struct PendingCommand {
    /// Mark that ends the output in both streams.
    end_mark: String,
    out: Vec<u8>,
    err: Vec<u8>,
}

impl PendingCommand {
    /// Result, once both streams have reached the end mark.
    fn result(&self) -> Option<CommandResult> {
        let (stdout, code) = split_at_end(&self.out, &self.end_mark)?;
        let (stderr, _) = split_at_end(&self.err, &self.end_mark)?;
        Some(CommandResult { code: code.trim().parse().ok(), stdout, stderr })
    }
}

/// Text before the line with the end mark, and the rest of that line.
fn split_at_end(bytes: &[u8], end: &str) -> Option<(String, String)> {
    let text = String::from_utf8_lossy(bytes.strip_suffix(b"\n")?).into_owned();
    let (output, last) = text.rsplit_once('\n')?;
    Some((output.into(), last.strip_prefix(end)?.into()))
}

/// Command as one line for the kept shell, without input. The script gets a shell of its own.
fn shell_line(argv: &[String], end: &str) -> String {
    let argv = shell::words(argv);
    format!("{argv} </dev/null; printf '\\n%s %s\\n' {end} \"$?\"; printf '\\n%s\\n' {end} >&2\n")
}

/// Reads on a thread of its own, until the pipe or the receiver ends.
fn forward_chunks(stream: Stream, mut pipe: PipeReader, chunks: Sender<StreamChunk>) {
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
