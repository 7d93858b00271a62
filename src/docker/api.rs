//! Engine API over kept connections. A connection is a docker client that passes HTTP on (`docker system dial-stdio`,
//! which clients use over ssh): it reaches every engine that the client reaches. A client for each query takes longer
//! than the engine's answer, and over ssh needs a login each time.
//! Only queries and repeatable requests use it. An engine may abort a request when the connection ends; a separate
//! client outlives compose-zd.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::http::response::Parts;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::unix::pipe;
use tokio::runtime::{self, Runtime};
use tokio::time::{timeout, timeout_at};

use super::endpoint::Timeouts;
use super::types::parse;
use super::{Docker, VERSION};
use crate::error::Error;

/// Limit for a response on a connection that was open before: it may have ended unnoticed. After the limit a new
/// connection sends the request again.
const KEPT_LIMIT: Duration = Duration::from_secs(5);

/// Longest response that is read, in bytes: a list of ten thousand containers.
const MAX_RESPONSE: usize = 64 << 20;

/// Longest silence of a followed connection before the receiver is checked.
const LISTENER_POLL: Duration = Duration::from_millis(200);

/// Header with the version of the engine's API (`GET /_ping`).
const VERSION_HEADER: &str = "api-version";

/// Longest wait for a connection that another request uses: a new one takes about as long.
const BUSY_LIMIT: Duration = Duration::from_millis(200);

/// Kept connections.
#[derive(Default)]
pub(super) struct ConnectionPool {
    state: Mutex<PoolState>,
    returned: Condvar,
}

#[derive(Default)]
struct PoolState {
    idle: Vec<Connection>,
    /// Number of requests under way.
    busy: usize,
}

/// HTTP over the two pipes of a client.
pub(super) struct Connection {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
    /// Prefix for the engine's latest API, such as `/v1.41`. Requests without a version are deprecated.
    version: String,
}

/// Request of the Engine API; the path has a query string and no version.
#[derive(Debug, Clone)]
pub(super) struct ApiRequest {
    pub method: Method,
    pub path: String,
    pub body: Option<Value>,
}

/// Response of the engine to one request.
#[derive(Debug, PartialEq)]
pub(super) struct ApiResponse {
    pub status: StatusCode,
    pub body: Bytes,
}

/// Reason for a missing response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoResponse {
    /// The connection has ended, or cannot be opened.
    Closed,
    TimedOut,
}

impl ApiRequest {
    pub fn get(path: &str, query: &[(&str, &str)]) -> ApiRequest {
        let mut url = Url::parse("http://engine").expect("an address");
        url.set_path(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        ApiRequest { method: Method::GET, path: format!("{}{query}", url.path()), body: None }
    }

    pub fn post(path: &str, body: Value) -> ApiRequest {
        ApiRequest { method: Method::POST, body: Some(body), ..ApiRequest::get(path, &[]) }
    }

    pub fn delete(path: &str) -> ApiRequest {
        ApiRequest { method: Method::DELETE, ..ApiRequest::get(path, &[]) }
    }

    fn message(&self, version: &str) -> Option<Request<Full<Bytes>>> {
        let body = self.body.as_ref().map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let message = Request::builder().method(&self.method).uri(format!("{version}{}", self.path));
        message.header(HOST, "docker").header(CONTENT_TYPE, "application/json").body(Full::new(body)).ok()
    }
}

impl ApiResponse {
    /// Message of a refusal.
    pub fn message(&self) -> String {
        #[derive(Deserialize)]
        struct Message {
            message: String,
        }
        let message = serde_json::from_slice(&self.body).map(|Message { message }| message);
        message.unwrap_or_else(|_| String::from_utf8_lossy(&self.body).into())
    }

    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(parse(&self.body)?)
    }

    /// True if the object does not exist. Podman answers 500 for a container that is removed during the request.
    fn is_missing(&self) -> bool {
        let is_gone = || self.message().ends_with(": no such container");
        self.status == StatusCode::NOT_FOUND
            || (self.status == StatusCode::INTERNAL_SERVER_ERROR && is_gone())
    }
}

/// Value of the query's `filters` for objects that have all these labels.
pub(super) fn labelled(labels: &[&str]) -> String {
    json!({ "label": labels }).to_string()
}

impl Connection {
    fn new(input: PipeWriter, output: PipeReader) -> io::Result<Connection> {
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
        Ok(Connection { runtime, sender, version: String::new() })
    }

    /// Reads the version of the engine's API.
    fn with_version(mut self, deadline: Instant) -> Result<Connection, NoResponse> {
        let (head, _) = self.exchange(&ApiRequest::get("/_ping", &[]), deadline)?;
        let version = head.headers.get(VERSION_HEADER).and_then(|v| v.to_str().ok());
        self.version = version.map(|version| format!("/v{version}")).unwrap_or_default();
        Ok(self)
    }

    /// Sends a request, and returns the connection for the next one.
    fn send(
        mut self,
        request: &ApiRequest,
        deadline: Instant,
    ) -> Result<(ApiResponse, Connection), NoResponse> {
        let (head, body) = self.exchange(request, deadline)?;
        Ok((ApiResponse { status: head.status, body }, self))
    }

    fn exchange(&mut self, request: &ApiRequest, deadline: Instant) -> Result<(Parts, Bytes), NoResponse> {
        let Connection { runtime, sender, version } = self;
        let message = request.message(version).ok_or(NoResponse::Closed)?;
        let response = async {
            sender.ready().await.ok()?;
            let (head, body) = sender.send_request(message).await.ok()?.into_parts();
            Some((head, Limited::new(body, MAX_RESPONSE).collect().await.ok()?.to_bytes()))
        };
        let ended = runtime.block_on(async { timeout_at(deadline.into(), response).await });
        ended.map_err(|_| NoResponse::TimedOut)?.ok_or(NoResponse::Closed)
    }

    /// Follows an endless response while `receive` returns true. `receive` gets each chunk, and an empty one while
    /// nothing arrives. A response that is no success is never passed on.
    pub(super) fn follow(
        mut self,
        request: &ApiRequest,
        deadline: Instant,
        mut receive: impl FnMut(&[u8]) -> bool,
    ) {
        let Connection { runtime, sender, version } = &mut self;
        let Some(message) = request.message(version) else { return };
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

impl ConnectionPool {
    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A kept connection for one request, which ends with [`ConnectionPool::put_back`].
    fn take(&self) -> Option<Connection> {
        let is_in_use = |state: &mut PoolState| state.idle.is_empty() && state.busy > 0;
        let waited = self.returned.wait_timeout_while(self.state(), BUSY_LIMIT, is_in_use);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.busy += 1;
        state.idle.pop()
    }

    fn put_back(&self, connection: Option<Connection>) {
        let mut state = self.state();
        state.busy -= 1;
        state.idle.extend(connection);
        self.returned.notify_one();
    }
}

impl Docker {
    /// Object at a path with a query string.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T> {
        self.request(&ApiRequest::get(path, query))?.json()
    }

    /// Object at a path, if it exists.
    pub(super) fn lookup<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let request = ApiRequest::get(path, &[]);
        let response = self.send(&request)?;
        match response.status {
            status if status.is_success() => response.json().map(Some),
            _ if response.is_missing() => Ok(None),
            _ => Err(refused(&request, &response).into()),
        }
    }

    /// Removes the object at a path, if it exists.
    pub(super) fn remove_if_exists(&self, path: &str) -> Result<()> {
        let request = ApiRequest::delete(path);
        let response = self.send(&request)?;
        match response.status {
            status if status.is_success() || response.is_missing() => Ok(()),
            _ => Err(refused(&request, &response).into()),
        }
    }

    /// Sends a request that may be repeated.
    ///
    /// # Errors
    /// The engine refuses the request.
    pub(super) fn request(&self, request: &ApiRequest) -> Result<ApiResponse> {
        let response = self.send(request)?;
        if response.status.is_success() { Ok(response) } else { Err(refused(request, &response).into()) }
    }

    /// Response to a request that may be repeated, whatever its status.
    pub(super) fn send(&self, request: &ApiRequest) -> Result<ApiResponse> {
        let (start, shown) = (Instant::now(), format!("api {} {}", request.method, request.path));
        let kept_deadline = start + KEPT_LIMIT.min(self.scaled(KEPT_LIMIT));
        let kept = self.connections.take().and_then(|kept| kept.send(request, kept_deadline).ok());
        let sent = kept.map_or_else(|| self.send_by_new_connection(request, &shown), Ok);
        let (response, connection) = match sent {
            Ok((response, connection)) => (Ok(response), Some(connection)),
            Err(error) => (Err(error), None),
        };
        self.connections.put_back(connection);
        (self.observer)(&shown, start.elapsed());
        response
    }

    fn send_by_new_connection(&self, request: &ApiRequest, shown: &str) -> Result<(ApiResponse, Connection)> {
        let start = Instant::now();
        let Timeouts { check_after, answer } = self.current_timeouts();
        let deadline = start + check_after + answer;
        let attempt = || self.connect(deadline)?.send(request, deadline);
        let mut sent = attempt();
        if matches!(sent, Err(NoResponse::Closed)) {
            // The client's own message names the cause. An ssh server may have refused the connection just now.
            self.checked(&VERSION)?;
            sent = attempt();
        }
        self.is_silent.store(matches!(sent, Err(NoResponse::TimedOut)), Ordering::Relaxed);
        Ok(sent.map_err(|reason| match reason {
            NoResponse::TimedOut => self.silence_error(shown, start.elapsed()),
            NoResponse::Closed => no_connection(),
        })?)
    }

    pub(super) fn connect(&self, deadline: Instant) -> Result<Connection, NoResponse> {
        let open = || self.dial().and_then(|(input, output)| Connection::new(input, output));
        open().map_err(|_| NoResponse::Closed)?.with_version(deadline)
    }

    /// Pipes of a new connection to the engine: the requests go in, and the responses come out.
    pub(super) fn dial(&self) -> io::Result<(PipeWriter, PipeReader)> {
        let ((inner, input), (output, out)) = (io::pipe()?, io::pipe()?);
        self.command(&self.docker_words(&["system", "dial-stdio"])).start(inner, out, None)?;
        Ok((input, output))
    }
}

/// Error of a request that the engine, or a filter in front of it, refuses.
pub(super) fn refused(request: &ApiRequest, response: &ApiResponse) -> Error {
    let ApiRequest { method, path, .. } = request;
    let path = path.split('?').next().unwrap_or(path);
    let status = response.status.as_u16();
    Error::unchanged(format!("the Docker engine answers `{method} {path}` with {status}"))
        .detail(&response.message())
}

fn no_connection() -> Error {
    Error::unchanged("`docker system dial-stdio` does not connect to the Docker engine").hint(
        "compose-zd needs Docker's own client, of version 18.09 or later, or a script that calls it and passes its input on",
    )
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};

    use super::*;

    /// Connection to an engine that sends these responses, one a request, and then hangs up; and the requests it gets.
    fn engine(responses: &'static [&'static str]) -> (Connection, std::thread::JoinHandle<Vec<String>>) {
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
        (Connection::new(input, output).unwrap(), thread)
    }

    fn deadline() -> Instant {
        Instant::now() + KEPT_LIMIT
    }

    fn send(connection: Connection, path: &str) -> Result<(u16, String, Connection), NoResponse> {
        let (response, connection) = connection.send(&ApiRequest::get(path, &[]), deadline())?;
        Ok((response.status.as_u16(), String::from_utf8(response.body.to_vec()).unwrap(), connection))
    }

    #[test]
    fn one_connection_serves_many_requests_whatever_the_framing_of_the_responses() {
        let (mut connection, engine) = engine(&[
            "200 OK\r\nContent-Length: 2\r\n\r\n{}",
            "404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
            "204 No Content\r\n\r\n",
        ]);
        for (path, status, body) in [("/a", 200, "{}"), ("/b", 404, "abcd"), ("/c", 204, "")] {
            let response = send(connection, path).unwrap();
            assert_eq!((response.0, response.1.as_str()), (status, body));
            connection = response.2;
        }
        assert_eq!(engine.join().unwrap(), ["a", "b", "c"].map(|name| format!("GET /{name} HTTP/1.1")));
    }

    #[test]
    fn requests_use_the_version_that_the_engine_reports() {
        let (connection, engine) = engine(&[
            "200 OK\r\nApi-Version: 1.41\r\nContent-Length: 2\r\n\r\nOK",
            "200 OK\r\nContent-Length: 2\r\n\r\n{}",
        ]);
        let connection = connection.with_version(deadline()).unwrap();
        assert_eq!(send(connection, "/info").unwrap().1, "{}");
        assert_eq!(engine.join().unwrap(), ["GET /_ping HTTP/1.1", "GET /v1.41/info HTTP/1.1"]);
    }

    #[test]
    fn an_engine_that_does_not_answer_in_time_times_out() {
        let ((_requests, input), (output, _out)) = (io::pipe().unwrap(), io::pipe().unwrap());
        let connection = Connection::new(input, output).unwrap();
        let response =
            connection.send(&ApiRequest::get("/a", &[]), Instant::now() + Duration::from_millis(20));
        assert_eq!(response.err(), Some(NoResponse::TimedOut));
    }

    #[test]
    fn an_endless_response_is_passed_on_in_chunks_until_the_receiver_or_the_connection_ends() {
        const EVENTS: &str = "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n4\r\ntwo\n\r\n";
        let followed = |responses, limit: usize| {
            let (connection, _) = engine(responses);
            let mut all = Vec::new();
            let mut received = false;
            connection.follow(&ApiRequest::get("/events", &[]), deadline(), |chunk| {
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
            let (connection, _) = engine(responses);
            assert_eq!(send(connection, "/a").err(), Some(NoResponse::Closed), "{responses:?}");
        }
    }

    #[test]
    fn text_in_a_path_or_a_query_stays_one_word() {
        let path = |path: &str, query: &[(&str, &str)]| ApiRequest::get(path, query).path;
        assert_eq!(
            path("/images/reg:5000/app:1@sha256:ab/json", &[]),
            "/images/reg:5000/app:1@sha256:ab/json"
        );
        assert_eq!(path("/images/a?b#c d/json", &[]), "/images/a%3Fb%23c%20d/json");
        assert_eq!(
            path("/containers/json", &[("all", "1"), ("filters", &labelled(&["a=b", "c"]))]),
            "/containers/json?all=1&filters=%7B%22label%22%3A%5B%22a%3Db%22%2C%22c%22%5D%7D"
        );
    }

    #[test]
    fn podmans_500_for_a_container_that_was_just_removed_means_that_it_is_missing() {
        let is_missing = |status: u16, body: &'static str| {
            let status = StatusCode::from_u16(status).unwrap();
            ApiResponse { status, body: Bytes::from(body) }.is_missing()
        };
        let removed = r#"{"cause":"no such container","message":"no container with ID c07 found in database: no such container","response":500}"#;
        assert!(is_missing(500, removed));
        assert!(is_missing(404, r#"{"message":"No such container: b"}"#));
        assert!(!is_missing(500, r#"{"message":"the database is locked"}"#));
    }

    #[test]
    fn a_refusal_has_the_message_of_the_engine_or_the_text_of_a_filter() {
        let refusal = |status: u16, body: &'static str| {
            let response = ApiResponse { status: StatusCode::from_u16(status).unwrap(), body: body.into() };
            refused(&ApiRequest::get("/info", &[("a", "b")]), &response).to_string()
        };
        assert_eq!(
            refusal(500, r#"{"message":"no"}"#),
            "the Docker engine answers `GET /info` with 500\n  no"
        );
        assert_eq!(refusal(403, "denied\n"), "the Docker engine answers `GET /info` with 403\n  denied");
    }
}
