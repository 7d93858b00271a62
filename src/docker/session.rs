//! A shell that is kept open in a container: `docker exec` costs a tenth of a second each time, a line of a shell that is
//! there a few milliseconds. It ends with compose-zd, however that ends, because its input ends then.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::{CommandResult, Exec, MOST};
use crate::shell;

/// Where a shell is talked to; dropped, its input ends, and with it the shell.
pub struct Session {
    stdin: PipeWriter,
    news: Receiver<StreamChunk>,
    /// No two commands end with the same words.
    count: u64,
}

/// What a pipe gave; nothing when it has ended.
type StreamChunk = (Stream, Option<Vec<u8>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

/// Why a command has no answer.
#[derive(Debug, PartialEq, Eq)]
pub enum SessionError {
    /// The shell is gone; whether it has done any of it is not known.
    Gone,
    /// Not yet.
    Late,
}

/// Whether a command may be given to a shell that is kept: a plain script, without input, variables or a user of its own.
pub fn takes(exec: &Exec) -> bool {
    let plain = exec.options.is_empty() && exec.variables.is_empty() && !exec.private;
    let alone = exec.stdin.is_none() && exec.beside.is_none();
    plain && alone && matches!(&exec.argv[..], [sh, flag, _, ..] if sh == "sh" && flag == "-c")
}

impl Session {
    /// With the shell's three pipes.
    pub fn new(stdin: PipeWriter, stdout: PipeReader, stderr: PipeReader) -> Session {
        let (send, news) = channel();
        follow(Stream::Out, stdout, send.clone());
        follow(Stream::Err, stderr, send);
        Session { stdin, news, count: 0 }
    }

    /// Gives it a command; the answer is what [`Session::answer`] returns.
    pub fn run(&mut self, argv: &[String]) -> Result<PendingCommand, SessionError> {
        self.count += 1;
        let end = format!("@compose-zd-{}-{}", std::process::id(), self.count);
        let sent = self.stdin.write_all(line(argv, &end).as_bytes()).and_then(|()| self.stdin.flush());
        sent.map_err(|_| SessionError::Gone)?;
        Ok(PendingCommand { end, out: Vec::new(), err: Vec::new() })
    }

    /// Waits for an answer, for at most `limit`; what came of it until then is kept in `asked`.
    pub fn answer(&self, asked: &mut PendingCommand, limit: Duration) -> Result<CommandResult, SessionError> {
        let late = Instant::now() + limit;
        loop {
            if let Some(done) = asked.done() {
                return Ok(done);
            }
            if asked.out.len().max(asked.err.len()) as u64 > MOST {
                return Err(SessionError::Gone);
            }
            match self.news.recv_timeout(late.saturating_duration_since(Instant::now())) {
                Ok((Stream::Out, Some(piece))) => asked.out.extend(piece),
                Ok((Stream::Err, Some(piece))) => asked.err.extend(piece),
                Ok((_, None)) | Err(RecvTimeoutError::Disconnected) => return Err(SessionError::Gone),
                Err(RecvTimeoutError::Timeout) => return Err(SessionError::Late),
            }
        }
    }
}

/// A command under way.
pub struct PendingCommand {
    /// What ends its output, in both streams.
    end: String,
    out: Vec<u8>,
    err: Vec<u8>,
}

impl PendingCommand {
    /// The answer, once both streams have come to its end.
    fn done(&self) -> Option<CommandResult> {
        let (stdout, code) = before(&self.out, &self.end)?;
        let (stderr, _) = before(&self.err, &self.end)?;
        Some(CommandResult { code: code.trim().parse().ok(), stdout, stderr })
    }
}

/// What stands before the line that ends an answer, and what stands in that line.
fn before(bytes: &[u8], end: &str) -> Option<(String, String)> {
    let text = String::from_utf8_lossy(bytes.strip_suffix(b"\n")?).into_owned();
    let (said, last) = text.rsplit_once('\n')?;
    Some((said.into(), last.strip_prefix(end)?.into()))
}

/// A command, in a shell of its own, as one line of the shell's; it reads nothing.
fn line(argv: &[String], end: &str) -> String {
    let argv = shell::words(argv);
    format!("{argv} </dev/null; printf '\\n%s %s\\n' {end} \"$?\"; printf '\\n%s\\n' {end} >&2\n")
}

/// Reads on a thread of its own, until the pipe ends or nobody listens.
fn follow(stream: Stream, mut pipe: PipeReader, news: Sender<StreamChunk>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            if news.send((stream, Some(buffer[..length].to_vec()))).is_err() {
                return;
            }
        }
        // Nobody may wait for it any more.
        let _ = news.send((stream, None));
    });
}

#[cfg(test)]
mod tests;
