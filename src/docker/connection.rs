//! A docker client that is kept open as a connection to its engine (`docker system dial-stdio`, by which clients reach
//! engines over ssh), and what is asked over it. A client of its own for each question takes longer than the engine's
//! answer, and by ssh a login each. What has to be finished is not told this way: an engine may break off what it is told
//! where the connection ends, and a client of its own outlives us.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::http::response::Parts;
use hyper::{Method, Request as Message};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::unix::pipe;
use tokio::runtime::{self, Runtime};
use tokio::time::{timeout, timeout_at};

use super::api::{self, ApiRequest, ApiResponse};
use super::session::SessionError;
use super::{CommandResult, Docker, shown_words};

/// What takes longer than this, with all its requests, is asked by a client of its own, which has its own patience; and so
/// is everything after it: who else asks meanwhile has to wait, and a lock needs its signs of life (every 15 s).
pub(super) const LATE: Duration = Duration::from_secs(5);

/// The longest answer that is read, in bytes: a list of ten thousand containers.
const LONGEST: usize = 64 << 20;

/// After this many lines that broke there is none.
const MISSES: u32 = 3;

/// The line of a client, once there was something to read.
#[derive(Default)]
pub struct EngineConnection(Mutex<ConnState>);

#[derive(Default)]
struct ConnState {
    open: Option<HttpPipe>,
    misses: u32,
}

/// HTTP over two pipes.
pub(super) struct HttpPipe {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
    /// Of the engine's latest API: `/v1.41`. To do without is deprecated.
    version: String,
}

/// How long a connection that is followed may be silent before it is seen whether anybody still listens.
const LISTENS: Duration = Duration::from_millis(200);

/// Where an engine tells which that is (`GET /_ping`).
const VERSION: &str = "api-version";

impl HttpPipe {
    fn new(input: PipeWriter, output: PipeReader) -> io::Result<HttpPipe> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let sender = runtime.block_on(async {
            let input = pipe::Sender::from_owned_fd(OwnedFd::from(input))?;
            let output = pipe::Receiver::from_owned_fd(OwnedFd::from(output))?;
            let io = TokioIo::new(tokio::io::join(output, input));
            let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
            // It ends with the connection, and whoever asks then is told so.
            tokio::spawn(connection);
            Ok::<_, io::Error>(sender)
        })?;
        Ok(HttpPipe { runtime, sender, version: String::new() })
    }

    /// Once the engine has told its version.
    fn greeted(mut self, late: Instant) -> Result<HttpPipe, SessionError> {
        let (head, _) = self.send("/_ping", &Method::GET, None, late)?;
        let told = head.headers.get(VERSION).and_then(|v| v.to_str().ok());
        self.version = told.map(|version| format!("/v{version}")).unwrap_or_default();
        Ok(self)
    }

    fn request(&mut self, request: &ApiRequest, late: Instant) -> Result<ApiResponse, SessionError> {
        let path = format!("{}{}", self.version, request.path);
        let (head, body) = self.send(&path, &request.method, request.body.as_ref(), late)?;
        Ok(ApiResponse { status: head.status.as_u16(), body: body.to_vec() })
    }

    fn send(
        &mut self,
        path: &str,
        method: &Method,
        body: Option<&Value>,
        late: Instant,
    ) -> Result<(Parts, Bytes), SessionError> {
        let HttpPipe { runtime, sender, .. } = self;
        let message = message(path, method, body).ok_or(SessionError::Gone)?;
        let answer = async {
            sender.ready().await.ok()?;
            let (head, body) = sender.send_request(message).await.ok()?.into_parts();
            Some((head, Limited::new(body, LONGEST).collect().await.ok()?.to_bytes()))
        };
        let ended = runtime.block_on(async { timeout_at(late.into(), answer).await });
        ended.map_err(|_| SessionError::Late)?.ok_or(SessionError::Gone)
    }

    /// Reads an answer that does not end, for as long as `told` wants more of it; it is called with each piece, and with
    /// nothing while nothing comes. An answer that is none is not told of at all.
    pub(super) fn follow(mut self, path: &str, late: Instant, mut told: impl FnMut(&[u8]) -> bool) {
        let HttpPipe { runtime, sender, version } = &mut self;
        let Some(message) = message(&format!("{version}{path}"), &Method::GET, None) else { return };
        let answer = async {
            sender.ready().await.ok()?;
            sender.send_request(message).await.ok().filter(|answer| answer.status().is_success())
        };
        let answer = runtime.block_on(async { timeout_at(late.into(), answer).await });
        let Ok(Some(answer)) = answer else { return };
        let mut body = answer.into_body();
        let mut goes_on = told(&[]);
        while goes_on {
            goes_on = match runtime.block_on(async { timeout(LISTENS, body.frame()).await }) {
                Err(_) => told(&[]),
                Ok(Some(Ok(frame))) => frame.data_ref().is_none_or(|piece| told(piece)),
                Ok(_) => false,
            };
        }
    }
}

fn message(path: &str, method: &Method, body: Option<&Value>) -> Option<Message<Full<Bytes>>> {
    let body = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let message = Message::builder().method(method).uri(path).header(HOST, "docker");
    message.header(CONTENT_TYPE, "application/json").body(Full::new(body)).ok()
}

impl Docker {
    /// What comes of a command, where the line serves for it; else its client is to be started.
    pub(super) fn ask_by_line(&self, argv: &[String]) -> Option<CommandResult> {
        let words: Vec<&str> = argv.get(1 + self.place.engine.len()..)?.iter().map(String::as_str).collect();
        let question = api::of(&words).filter(|_| self.is_own)?;
        let start = Instant::now();
        let done = question.into_client_output(&self.answers(&question.requests)?)?;
        (self.observer)(&shown_words(&argv[1..]), start.elapsed());
        Some(done)
    }

    /// One after the other: an answer takes a few milliseconds.
    fn answers(&self, requests: &[ApiRequest]) -> Option<Vec<ApiResponse>> {
        let mut line = self.line.0.lock().unwrap_or_else(PoisonError::into_inner);
        if line.misses >= MISSES {
            return None;
        }
        let late = Instant::now() + LATE.min(self.scaled(LATE));
        let open = line.open.take().map_or_else(|| self.open_line(late), Ok);
        let told = open.and_then(|mut connection| {
            let answers =
                requests.iter().map(|request| connection.request(request, late)).collect::<Result<_, _>>()?;
            Ok((answers, connection))
        });
        match told {
            Ok((answers, connection)) => {
                *line = ConnState { open: Some(connection), misses: 0 };
                Some(answers)
            }
            Err(why) => {
                line.misses = if why == SessionError::Late { MISSES } else { line.misses + 1 };
                None
            }
        }
    }

    pub(super) fn open_line(&self, late: Instant) -> Result<HttpPipe, SessionError> {
        let connect = || {
            let ((inner, input), (output, out)) = (io::pipe()?, io::pipe()?);
            self.start_line(inner, out)?;
            HttpPipe::new(input, output)
        };
        connect().map_err(|_| SessionError::Gone)?.greeted(late)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};

    use super::*;

    /// A connection to an engine that gives these answers, one a request, and then hangs up; and the requests it gets.
    fn engine(answers: &'static [&'static str]) -> (HttpPipe, std::thread::JoinHandle<Vec<String>>) {
        let ((requests, input), (output, mut out)) = (io::pipe().unwrap(), io::pipe().unwrap());
        let thread = std::thread::spawn(move || {
            let mut lines = BufReader::new(requests).lines().map_while(Result::ok);
            let answered = answers.iter().map(|answer| {
                let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
                write!(out, "HTTP/1.1 {answer}").expect("somebody reads");
                head[0].clone()
            });
            answered.collect()
        });
        (HttpPipe::new(input, output).unwrap(), thread)
    }

    fn request(path: &str) -> ApiRequest {
        api::of(&["volume", "inspect", path]).expect("a question").requests.remove(0)
    }

    fn asked(connection: &mut HttpPipe, path: &str) -> Result<(u16, String), SessionError> {
        let answer = connection.request(&request(path), Instant::now() + LATE)?;
        Ok((answer.status, String::from_utf8(answer.body).unwrap()))
    }

    #[test]
    fn one_connection_is_asked_again_and_again_however_the_engine_frames_its_answers() {
        let (mut connection, engine) = engine(&[
            "200 OK\r\nContent-Length: 2\r\n\r\n{}",
            "404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
            "204 No Content\r\n\r\n",
        ]);
        assert_eq!(asked(&mut connection, "a"), Ok((200, "{}".into())));
        assert_eq!(asked(&mut connection, "b"), Ok((404, "abcd".into())));
        assert_eq!(asked(&mut connection, "c"), Ok((204, String::new())));
        let lines = ["a", "b", "c"].map(|name| format!("GET /volumes/{name} HTTP/1.1"));
        assert_eq!(engine.join().unwrap(), lines);
    }

    #[test]
    fn what_is_asked_is_of_the_version_that_the_engine_tells() {
        let (connection, engine) = engine(&[
            "200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK",
            "200 OK\r\nContent-Length: 2\r\n\r\n{}",
        ]);
        let mut connection = connection.greeted(Instant::now() + LATE).expect("an answer");
        assert_eq!(asked(&mut connection, "a"), Ok((200, "{}".into())));
        assert_eq!(engine.join().unwrap(), ["GET /_ping HTTP/1.1", "GET /v1.41/volumes/a HTTP/1.1"]);
    }

    #[test]
    fn an_engine_that_does_not_answer_in_time_is_late() {
        let ((_requests, input), (output, _out)) = (io::pipe().unwrap(), io::pipe().unwrap());
        let mut connection = HttpPipe::new(input, output).unwrap();
        let late = Instant::now() + Duration::from_millis(20);
        assert_eq!(connection.request(&request("a"), late).err(), Some(SessionError::Late));
    }

    #[test]
    fn an_answer_that_does_not_end_is_told_piece_by_piece_until_nobody_listens_or_it_breaks() {
        const EVENTS: &str = "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n4\r\ntwo\n\r\n";
        let followed = |answers, wanted: usize| {
            let (connection, _) = engine(answers);
            let mut all = Vec::new();
            let mut told = false;
            connection.follow("/events", Instant::now() + LATE, |piece| {
                told = true;
                all.extend_from_slice(piece);
                all.len() < wanted
            });
            told.then(|| String::from_utf8(all).unwrap())
        };
        assert_eq!(followed(&[EVENTS], 4), Some("one\n".into()));
        assert_eq!(followed(&[EVENTS], 100), Some("one\ntwo\n".into()));
        assert_eq!(followed(&["403 Forbidden\r\nContent-Length: 0\r\n\r\n"], 100), None);
        assert_eq!(followed(&[], 100), None);
    }

    #[test]
    fn a_line_that_breaks_gives_no_answer() {
        for answers in [&[][..], &["200 OK\r\nContent-Length: 9\r\n\r\n{}"], &["what?\r\n\r\n"]] {
            let (mut connection, _) = engine(answers);
            assert_eq!(asked(&mut connection, "a"), Err(SessionError::Gone), "{answers:?}");
        }
    }
}
