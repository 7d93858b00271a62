//! Client of the engine API for the tests themselves: a docker client takes twenty times as much processor time, and the
//! tests query often.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

use serde_json::{Value, json};

/// An engine, by an address as in `DOCKER_HOST`.
pub struct DockerApi {
    host: String,
}

/// Kinds of objects to list and remove.
#[derive(Clone, Copy)]
pub enum ObjectKind {
    Container,
    Network,
    Volume,
    Image,
}

impl DockerApi {
    /// The engine at `host`; by default that of this machine.
    pub fn at(host: &str) -> DockerApi {
        let host = if host.is_empty() { host_engine() } else { host };
        DockerApi { host: host.into() }
    }

    /// Returns one object, or null.
    pub fn get(&self, path: &str) -> Value {
        let (status, body) = self.request("GET", path);
        if status == 200 { serde_json::from_slice(&body).expect("JSON of the engine") } else { Value::Null }
    }

    /// As `get`, for an engine that may not listen yet.
    pub fn try_get(&self, path: &str) -> Option<Value> {
        let socket = self.host.strip_prefix("unix://")?;
        UnixStream::connect(socket).ok().map(|_| self.get(path)).filter(|answer| !answer.is_null())
    }

    /// All containers with these filters, as `{"label": ["a=b"]}`.
    pub fn containers(&self, filters: &Value) -> Vec<Value> {
        let found = self.list(ObjectKind::Container, filters);
        // A container removed in between is left out.
        let inspected = found.iter().map(|id| self.get(&format!("/containers/{id}/json")));
        inspected.filter(|container| !container.is_null()).collect()
    }

    /// Ids of the objects that match; names for volumes and images.
    pub fn list(&self, kind: ObjectKind, filters: &Value) -> Vec<String> {
        let query = encoded(&filters.to_string());
        let (path, list) = match kind {
            ObjectKind::Container => ("/containers/json?all=1&", ""),
            ObjectKind::Network => ("/networks?", ""),
            ObjectKind::Volume => ("/volumes?", "Volumes"),
            ObjectKind::Image => ("/images/json?", ""),
        };
        let output = self.get(&format!("{path}filters={query}"));
        let output = if list.is_empty() { &output } else { &output[list] };
        let all = output.as_array().into_iter().flatten();
        match kind {
            ObjectKind::Container | ObjectKind::Network => all.filter_map(|o| text(&o["Id"])).collect(),
            ObjectKind::Volume => all.filter_map(|o| text(&o["Name"])).collect(),
            // Podman returns all names of an object that has one of these.
            ObjectKind::Image => {
                let patterns =
                    filters["reference"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let starts: Vec<&str> = patterns.filter_map(|p| p.split('*').next()).collect();
                let is_meant = |name: &String| {
                    let name = name.strip_prefix("docker.io/").unwrap_or(name);
                    starts.iter().any(|start| name.starts_with(start))
                };
                let names = all.filter_map(|o| o["RepoTags"].as_array()).flatten().filter_map(text);
                names.filter(is_meant).collect()
            }
        }
    }

    /// Removes all objects that match, in parallel and by force.
    pub fn remove(&self, kind: ObjectKind, filters: &Value) {
        let found = self.list(kind, filters);
        thread::scope(|scope| {
            for name in &found {
                scope.spawn(move || {
                    self.request(
                        "DELETE",
                        &match kind {
                            ObjectKind::Container => format!("/containers/{name}?force=1&v=1"),
                            ObjectKind::Network => format!("/networks/{name}"),
                            ObjectKind::Volume => format!("/volumes/{name}?force=1"),
                            ObjectKind::Image => format!("/images/{name}"),
                        },
                    )
                });
            }
        });
    }

    /// Sends a signal to a container, faster than a docker client starts: an instance could get ready in that time.
    pub fn signal(&self, container: &str, name: &str) {
        let (status, body) = self.request("POST", &format!("/containers/{container}/kill?signal={name}"));
        assert_eq!(status, 204, "{}", String::from_utf8_lossy(&body));
    }

    /// Removes everything that Compose created for a project.
    pub fn remove_project(&self, project: &str) {
        let its = json!({"label": [format!("com.docker.compose.project={project}")]});
        for kind in [ObjectKind::Container, ObjectKind::Network, ObjectKind::Volume] {
            self.remove(kind, &its);
        }
    }

    /// Sends a request in HTTP/1.0, whose answer ends with the connection.
    fn request(&self, method: &str, path: &str) -> (u16, Vec<u8>) {
        let request = format!("{method} {path} HTTP/1.0\r\nHost: docker\r\n\r\n");
        let answer = match self.host.split_once("://") {
            Some(("unix", socket)) => exchange(UnixStream::connect(socket), &request),
            Some(("tcp", address)) => exchange(TcpStream::connect(address), &request),
            _ => panic!("the tests need an engine at a socket or by TCP, not at `{}`", self.host),
        };
        let answer = answer.unwrap_or_else(|e| panic!("{}: {e}", self.host));
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8_lossy(&answer[..end]);
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        (status.expect("a status"), answer[end + 4..].to_vec())
    }
}

fn exchange<S: Read + Write>(stream: std::io::Result<S>, request: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = stream?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// Address of the default engine of docker.
fn host_engine() -> &'static str {
    static HOST: OnceLock<String> = OnceLock::new();
    HOST.get_or_init(|| {
        let mut docker = Command::new("docker");
        let output = docker.args(["context", "inspect", "--format", "{{.Endpoints.docker.Host}}"]).output();
        let output = output.expect("docker can be started");
        String::from_utf8_lossy(&output.stdout).trim().into()
    })
}

/// Percent-encodes text for a query.
fn encoded(text: &str) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~".contains(b);
    let byte = |b: u8| if plain(&b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(byte).collect()
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(String::from)
}
