//! Filter in front of the engine, through which Compose does not see some containers. Compose refuses a second container of a
//! service with `container_name`. Where the first one is not listed, Compose creates the only one that the file describes:
//! with the name, the number, the labels and the configuration hash of the file.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::Result;
use hyper::Method;
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;
use serde_json::Value;

use super::Docker;
use super::api::{ApiRequest, ApiResponse};
use crate::error::Error;

/// Most bytes of the head of a request.
const MAX_HEAD: u64 = 64 << 10;

/// Bytes that are copied at a time.
const BUFFER: usize = 16 << 10;

/// Variables that would change the way to the filter.
pub(super) const ENGINE_VARIABLES: [&str; 3] = ["DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY"];

/// Filter that listens on a socket in the abstract namespace, which ends with this process. It closes on drop.
pub(super) struct EngineFilter {
    name: String,
    is_closed: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl EngineFilter {
    /// # Errors
    /// The socket cannot be opened.
    pub fn open(docker: &Docker, hidden: &[String]) -> Result<EngineFilter> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("compose-zd-filter-{}-{count}", std::process::id());
        let listener = SocketAddr::from_abstract_name(&name).and_then(|at| UnixListener::bind_addr(&at));
        let listener = listener
            .map_err(|error| Error::unchanged(format!("cannot open a socket for Compose: {error}")))?;
        let is_closed = Arc::new(AtomicBool::new(false));
        let (docker, hidden, closed) = (docker.clone(), hidden.to_vec(), Arc::clone(&is_closed));
        let acceptor = thread::spawn(move || {
            let is_open = |_: &UnixStream| !closed.load(Ordering::Relaxed);
            for client in listener.incoming().map_while(io::Result::ok).take_while(is_open) {
                let (docker, hidden) = (docker.clone(), hidden.clone());
                // Compose reports a connection that ends early.
                thread::spawn(move || drop(serve(&docker, &hidden, client)));
            }
        });
        Ok(EngineFilter { name, is_closed, acceptor: Some(acceptor) })
    }

    /// Address for docker's clients.
    pub fn host(&self) -> String {
        format!("unix://@{}", self.name)
    }
}

impl Drop for EngineFilter {
    fn drop(&mut self) {
        self.is_closed.store(true, Ordering::Relaxed);
        // A last connection wakes the acceptor. Without one, the thread ends with this process.
        let woken = SocketAddr::from_abstract_name(&self.name).and_then(|at| UnixStream::connect_addr(&at));
        if let (Ok(_), Some(acceptor)) = (woken, self.acceptor.take()) {
            let _ = acceptor.join();
        }
    }
}

/// Serves one request. Only this user and root may use the engine by the filter.
fn serve(docker: &Docker, hidden: &[String], client: UnixStream) -> Result<()> {
    let peer = socket_peercred(&client)?.uid;
    if !peer.is_root() && peer != geteuid() {
        return Ok(());
    }
    let mut reader = BufReader::new(client.try_clone()?);
    let head = RequestHead::read(&mut reader)?;
    match head.list_path() {
        Some(path) => {
            let response = docker.send(&ApiRequest { method: Method::GET, path, body: None })?;
            answer(client, &without(response, hidden)?)
        }
        None => forward(docker, &head, reader, client),
    }
}

/// Lines of the head of a request, without their ends.
struct RequestHead(Vec<String>);

impl RequestHead {
    fn read(reader: &mut impl BufRead) -> io::Result<RequestHead> {
        let lines = reader.by_ref().take(MAX_HEAD).lines();
        let head = lines.take_while(|line| line.as_ref().map_or(true, |line| !line.is_empty()));
        head.collect::<io::Result<_>>().map(RequestHead)
    }

    /// Path without the version of the API, if the request is for the list of containers.
    fn list_path(&self) -> Option<String> {
        let target = self.0.first()?.strip_prefix("GET ")?.split(' ').next()?;
        let versionless = target.strip_prefix("/v").and_then(|rest| rest.find('/').map(|at| &rest[at..]));
        let target = versionless.unwrap_or(target);
        (target.split('?').next() == Some("/containers/json")).then(|| target.to_string())
    }

    /// The head for the engine, which closes the connection after its response: each connection has one request.
    fn text(&self) -> String {
        let is_header = |line: &str, name: &str| {
            line.split_once(':').is_some_and(|(header, _)| header.eq_ignore_ascii_case(name))
        };
        let upgrades = self.0.iter().any(|line| is_header(line, "Upgrade"));
        let kept = self.0.iter().filter(|line| upgrades || !is_header(line, "Connection"));
        let close = (!upgrades).then_some("Connection: close");
        let lines = kept.map(String::as_str).chain(close).chain([""]);
        lines.map(|line| format!("{line}\r\n")).collect()
    }
}

/// List of containers without the hidden ones; any other response as it is.
fn without(response: ApiResponse, hidden: &[String]) -> Result<ApiResponse> {
    if !response.status.is_success() {
        return Ok(response);
    }
    let mut all: Vec<Value> = serde_json::from_slice(&response.body)?;
    all.retain(|container| !hidden.iter().any(|id| container["Id"] == id.as_str()));
    Ok(ApiResponse { body: serde_json::to_vec(&all)?.into(), ..response })
}

fn answer(mut client: UnixStream, response: &ApiResponse) -> Result<()> {
    let (status, length) = (response.status, response.body.len());
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    client.write_all(head.as_bytes())?;
    Ok(client.write_all(&response.body)?)
}

/// Copies a request to the engine, and the response back.
fn forward(
    docker: &Docker,
    head: &RequestHead,
    mut reader: BufReader<UnixStream>,
    mut client: UnixStream,
) -> Result<()> {
    let (mut input, mut output) = docker.dial()?;
    input.write_all(head.text().as_bytes())?;
    let sender = thread::spawn(move || drop(copy(&mut reader, &mut input)));
    let copied = copy(&mut output, &mut client);
    // Ends the sender, too.
    let closed = client.shutdown(Shutdown::Both);
    let _ = sender.join();
    copied.and(closed).map_err(Into::into)
}

/// Copies bytes to the end. `io::copy` would splice, which locks the pipe while it waits for the socket: the client at the other
/// end could not read what is in the pipe.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            length => to.write_all(&buffer[..length])?,
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;

    fn head(text: &str) -> RequestHead {
        RequestHead::read(&mut text.as_bytes()).unwrap()
    }

    #[test]
    fn only_the_list_of_containers_is_filtered() {
        let path = |line: &str| head(&format!("{line} HTTP/1.1\r\nHost: d\r\n\r\n")).list_path();
        assert_eq!(path("GET /v1.41/containers/json?all=1").as_deref(), Some("/containers/json?all=1"));
        assert_eq!(path("GET /containers/json").as_deref(), Some("/containers/json"));
        for other in ["GET /v1.41/containers/abc/json", "POST /v1.41/containers/create", "GET /volumes", ""] {
            assert_eq!(path(other), None, "{other}");
        }
    }

    #[test]
    fn the_body_of_a_request_follows_its_head() {
        let mut reader = "POST /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody".as_bytes();
        let head = RequestHead::read(&mut reader).unwrap();
        assert_eq!(head.text(), "POST /a HTTP/1.1\r\nContent-Length: 4\r\nConnection: close\r\n\r\n");
        assert_eq!(reader, b"body");
    }

    #[test]
    fn a_connection_has_one_request_unless_it_changes_its_protocol() {
        let kept = head("GET /a HTTP/1.1\r\nconnection: keep-alive\r\n\r\n");
        assert_eq!(kept.text(), "GET /a HTTP/1.1\r\nConnection: close\r\n\r\n");
        let upgraded = "POST /session HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
        assert_eq!(head(upgraded).text(), upgraded);
    }

    #[test]
    fn hidden_containers_are_not_in_the_list() {
        let response = |status, body: &'static str| ApiResponse { status, body: body.into() };
        let all = response(StatusCode::OK, r#"[{"Id":"a"},{"Id":"b","Names":["/x"]}]"#);
        let left = without(all, &["a".into()]).unwrap();
        assert_eq!(left.body, r#"[{"Id":"b","Names":["/x"]}]"#);
        let refused = response(StatusCode::FORBIDDEN, "no");
        assert_eq!(without(refused, &["a".into()]).unwrap().body, "no");
    }
}
