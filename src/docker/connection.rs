//! Docker client that is kept open as a connection to its engine (`docker system dial-stdio`, which clients use
//! over ssh). A client for each query takes longer than the engine's answer, and over ssh needs a login each time.
//! Only queries and repeatable requests use this connection. An engine may abort a request when the connection
//! ends; a separate client outlives compose-zd.

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

/// Limit for all requests of one query. After the limit a separate client, which has its own timeouts, runs this
/// query and all later ones. The limit is short because other queries wait meanwhile, and a lock needs a heartbeat
/// every 15 s.
pub(super) const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// Longest response that is read, in bytes: a list of ten thousand containers.
const MAX_RESPONSE: usize = 64 << 20;

/// After this many failures in a row the connection is not used any more.
const MAX_FAILURES: u32 = 3;

/// Connection of a client, opened by the first query.
#[derive(Default)]
pub struct EngineConnection(Mutex<ConnState>);

#[derive(Default)]
struct ConnState {
    open: Option<HttpPipe>,
    failures: u32,
}

/// HTTP over two pipes.
pub(super) struct HttpPipe {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
    /// Prefix for the engine's latest API, such as `/v1.41`. Requests without a version are deprecated.
    version: String,
}

/// Longest silence of a followed connection before the receiver is checked.
const LISTENER_POLL: Duration = Duration::from_millis(200);

/// Header with the version of the engine's API (`GET /_ping`).
const VERSION_HEADER: &str = "api-version";

impl HttpPipe {
    fn new(input: PipeWriter, output: PipeReader) -> io::Result<HttpPipe> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let sender = runtime.block_on(async {
            let input = pipe::Sender::from_owned_fd(OwnedFd::from(input))?;
            let output = pipe::Receiver::from_owned_fd(OwnedFd::from(output))?;
            let io = TokioIo::new(tokio::io::join(output, input));
            let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
            // The task ends with the connection; the next request then fails.
            tokio::spawn(connection);
            Ok::<_, io::Error>(sender)
        })?;
        Ok(HttpPipe { runtime, sender, version: String::new() })
    }

    /// Reads the version of the engine's API.
    fn with_version(mut self, deadline: Instant) -> Result<HttpPipe, SessionError> {
        let (head, _) = self.send("/_ping", &Method::GET, None, deadline)?;
        let version = head.headers.get(VERSION_HEADER).and_then(|v| v.to_str().ok());
        self.version = version.map(|version| format!("/v{version}")).unwrap_or_default();
        Ok(self)
    }

    fn request(&mut self, request: &ApiRequest, deadline: Instant) -> Result<ApiResponse, SessionError> {
        let path = format!("{}{}", self.version, request.path);
        let (head, body) = self.send(&path, &request.method, request.body.as_ref(), deadline)?;
        Ok(ApiResponse { status: head.status.as_u16(), body: body.to_vec() })
    }

    fn send(
        &mut self,
        path: &str,
        method: &Method,
        body: Option<&Value>,
        deadline: Instant,
    ) -> Result<(Parts, Bytes), SessionError> {
        let HttpPipe { runtime, sender, .. } = self;
        let message = message(path, method, body).ok_or(SessionError::Closed)?;
        let response = async {
            sender.ready().await.ok()?;
            let (head, body) = sender.send_request(message).await.ok()?.into_parts();
            Some((head, Limited::new(body, MAX_RESPONSE).collect().await.ok()?.to_bytes()))
        };
        let ended = runtime.block_on(async { timeout_at(deadline.into(), response).await });
        ended.map_err(|_| SessionError::TimedOut)?.ok_or(SessionError::Closed)
    }

    /// Follows an endless response while `receive` returns true. `receive` gets each chunk, and an empty one while
    /// nothing arrives. A response that is no success is never passed on.
    pub(super) fn follow(mut self, path: &str, deadline: Instant, mut receive: impl FnMut(&[u8]) -> bool) {
        let HttpPipe { runtime, sender, version } = &mut self;
        let Some(message) = message(&format!("{version}{path}"), &Method::GET, None) else { return };
        let response = async {
            sender.ready().await.ok()?;
            sender.send_request(message).await.ok().filter(|response| response.status().is_success())
        };
        let response = runtime.block_on(async { timeout_at(deadline.into(), response).await });
        let Ok(Some(response)) = response else { return };
        let mut body = response.into_body();
        let mut is_wanted = receive(&[]);
        while is_wanted {
            is_wanted = match runtime.block_on(async { timeout(LISTENER_POLL, body.frame()).await }) {
                Err(_) => receive(&[]),
                Ok(Some(Ok(frame))) => frame.data_ref().is_none_or(|chunk| receive(chunk)),
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
    /// Result of a command through the connection; `None` if a separate client has to run the command.
    pub(super) fn query_by_connection(&self, argv: &[String]) -> Option<CommandResult> {
        let words: Vec<&str> = argv.get(1 + self.flags.engine.len()..)?.iter().map(String::as_str).collect();
        let query = api::query_for(&words).filter(|_| self.is_docker_cli)?;
        let start = Instant::now();
        let result = query.client_output(&self.responses(&query.requests)?)?;
        (self.observer)(&shown_words(&argv[1..]), start.elapsed());
        Some(result)
    }

    /// Sends the requests one after the other: each response takes a few milliseconds.
    fn responses(&self, requests: &[ApiRequest]) -> Option<Vec<ApiResponse>> {
        let mut state = self.connection.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.failures >= MAX_FAILURES {
            return None;
        }
        let deadline = Instant::now() + REQUEST_LIMIT.min(self.scaled(REQUEST_LIMIT));
        let open = state.open.take().map_or_else(|| self.open_connection(deadline), Ok);
        let outcome = open.and_then(|mut connection| {
            let responses = requests
                .iter()
                .map(|request| connection.request(request, deadline))
                .collect::<Result<_, _>>()?;
            Ok((responses, connection))
        });
        match outcome {
            Ok((responses, connection)) => {
                *state = ConnState { open: Some(connection), failures: 0 };
                Some(responses)
            }
            Err(error) => {
                state.failures =
                    if error == SessionError::TimedOut { MAX_FAILURES } else { state.failures + 1 };
                None
            }
        }
    }

    pub(super) fn open_connection(&self, deadline: Instant) -> Result<HttpPipe, SessionError> {
        let connect = || {
            let ((inner, input), (output, out)) = (io::pipe()?, io::pipe()?);
            self.start_connection(inner, out)?;
            HttpPipe::new(input, output)
        };
        connect().map_err(|_| SessionError::Closed)?.with_version(deadline)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};

    use super::*;

    /// Connection to an engine that sends these responses, one a request, and then hangs up; and the requests it gets.
    fn engine(responses: &'static [&'static str]) -> (HttpPipe, std::thread::JoinHandle<Vec<String>>) {
        let ((requests, input), (output, mut out)) = (io::pipe().unwrap(), io::pipe().unwrap());
        let thread = std::thread::spawn(move || {
            let mut lines = BufReader::new(requests).lines().map_while(Result::ok);
            let requested = responses.iter().map(|response| {
                let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
                write!(out, "HTTP/1.1 {response}").expect("a reader");
                head[0].clone()
            });
            requested.collect()
        });
        (HttpPipe::new(input, output).unwrap(), thread)
    }

    fn request(path: &str) -> ApiRequest {
        api::query_for(&["volume", "inspect", path]).expect("a query").requests.remove(0)
    }

    fn send(connection: &mut HttpPipe, path: &str) -> Result<(u16, String), SessionError> {
        let response = connection.request(&request(path), Instant::now() + REQUEST_LIMIT)?;
        Ok((response.status, String::from_utf8(response.body).unwrap()))
    }

    #[test]
    fn one_connection_serves_many_requests_whatever_the_framing_of_the_responses() {
        let (mut connection, engine) = engine(&[
            "200 OK\r\nContent-Length: 2\r\n\r\n{}",
            "404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
            "204 No Content\r\n\r\n",
        ]);
        assert_eq!(send(&mut connection, "a"), Ok((200, "{}".into())));
        assert_eq!(send(&mut connection, "b"), Ok((404, "abcd".into())));
        assert_eq!(send(&mut connection, "c"), Ok((204, String::new())));
        let lines = ["a", "b", "c"].map(|name| format!("GET /volumes/{name} HTTP/1.1"));
        assert_eq!(engine.join().unwrap(), lines);
    }

    #[test]
    fn requests_use_the_version_that_the_engine_reports() {
        let (connection, engine) = engine(&[
            "200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK",
            "200 OK\r\nContent-Length: 2\r\n\r\n{}",
        ]);
        let mut connection = connection.with_version(Instant::now() + REQUEST_LIMIT).expect("an answer");
        assert_eq!(send(&mut connection, "a"), Ok((200, "{}".into())));
        assert_eq!(engine.join().unwrap(), ["GET /_ping HTTP/1.1", "GET /v1.41/volumes/a HTTP/1.1"]);
    }

    #[test]
    fn an_engine_that_does_not_answer_in_time_times_out() {
        let ((_requests, input), (output, _out)) = (io::pipe().unwrap(), io::pipe().unwrap());
        let mut connection = HttpPipe::new(input, output).unwrap();
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(connection.request(&request("a"), deadline).err(), Some(SessionError::TimedOut));
    }

    #[test]
    fn an_endless_response_is_passed_on_in_chunks_until_the_receiver_or_the_connection_ends() {
        const EVENTS: &str = "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n4\r\ntwo\n\r\n";
        let followed = |responses, limit: usize| {
            let (connection, _) = engine(responses);
            let mut all = Vec::new();
            let mut received = false;
            connection.follow("/events", Instant::now() + REQUEST_LIMIT, |chunk| {
                received = true;
                all.extend_from_slice(chunk);
                all.len() < limit
            });
            received.then(|| String::from_utf8(all).unwrap())
        };
        assert_eq!(followed(&[EVENTS], 4), Some("one\n".into()));
        assert_eq!(followed(&[EVENTS], 100), Some("one\ntwo\n".into()));
        assert_eq!(followed(&["403 Forbidden\r\nContent-Length: 0\r\n\r\n"], 100), None);
        assert_eq!(followed(&[], 100), None);
    }

    #[test]
    fn a_broken_connection_gives_no_response() {
        for responses in [&[][..], &["200 OK\r\nContent-Length: 9\r\n\r\n{}"], &["what?\r\n\r\n"]] {
            let (mut connection, _) = engine(responses);
            assert_eq!(send(&mut connection, "a"), Err(SessionError::Closed), "{responses:?}");
        }
    }
}
