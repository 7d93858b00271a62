//! Output of the state script: the override file, the services of the API, and the connections.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use super::override_file;
use super::{Endpoint, InFlight};
use crate::proxy::kit::sockets;

/// Longest delay of Traefik in closing an idle connection.
const SLACK: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Default, PartialEq)]
pub struct TraefikState {
    /// Version of the override file that is in force.
    pub served_version: Option<String>,
    /// Text of the override file.
    pub file: Option<String>,
    /// True if the API answers.
    pub has_api: bool,
    /// Services by name, as the API describes them.
    pub services: Vec<(String, Option<Value>)>,
    /// Lines of other files that refer to a service from labels, as `FILE:service: NAME@docker`.
    pub references: Vec<String>,
    /// Current uptime of the machine. All times here are uptimes.
    now: Duration,
    /// Time at which `connections_before` were read last.
    connections_before_at: Option<Duration>,
    /// Connections from before the override file was in force, as `LOCAL REMOTE`.
    connections_before: BTreeSet<String>,
    /// Start of the wait for Traefik's discovery.
    waiting_since: Option<Duration>,
    /// Current connections, as `LOCAL REMOTE`.
    connections: BTreeSet<String>,
}

impl TraefikState {
    /// Parses the output; `None` if it is truncated.
    pub fn parse(text: &str) -> Option<TraefikState> {
        let mut state = TraefikState::default();
        for section in text.strip_suffix("@end\n").or(text.strip_suffix("@end"))?.split("\n@") {
            let section = section.trim_start_matches('@');
            let (head, body) = section.split_once('\n').unwrap_or((section, ""));
            let (word, value) = head.split_once(' ').unwrap_or((head, ""));
            state.read_section(word, value.trim(), body);
        }
        Some(state)
    }

    fn read_section(&mut self, word: &str, value: &str, body: &str) {
        match word {
            "served" => self.served_version = Some(value.into()).filter(|v: &String| !v.is_empty()),
            "now" => self.now = parse_uptime(value).unwrap_or_default(),
            "before" => {
                (self.connections_before_at, self.connections_before) =
                    (parse_uptime(body), parse_connections(body))
            }
            "left" => self.waiting_since = parse_uptime(body),
            "file" => self.file = Some(body.trim_end().to_string() + "\n"),
            "references" => self.references = body.lines().map(|l| l.replace(['"', '\''], "")).collect(),
            "connections" => self.connections = parse_connections(body),
            "api" => self.has_api = true,
            "service" => self.services.push((value.into(), serde_json::from_str(body).ok())),
            _ => {}
        }
    }

    /// True if the current version of the override file is in force; without a file, if no version is in force.
    pub fn is_file_applied(&self) -> bool {
        self.served_version.as_deref() == self.file.as_deref().and_then(override_file::token)
    }

    /// True if the script's own files remain: the stored connections, or the start of the wait for discovery.
    pub fn has_leftovers(&self) -> bool {
        self.connections_before_at.is_some() || self.waiting_since.is_some()
    }

    /// Time for which compose-zd has waited for discovery so far.
    pub fn waited(&self) -> Option<Duration> {
        self.waiting_since.map(|since| self.now.saturating_sub(since))
    }

    /// Requests in flight. With the transport of the override file, Traefik closes an idle connection at once. A
    /// connection from before that file has had no request since then. It may stay idle for up to `idle`.
    pub fn in_flight(&self, endpoint: &Endpoint, idle: Duration) -> InFlight {
        let own: Vec<&String> =
            self.connections.iter().filter(|c| leads_to(c, &endpoint.addresses)).collect();
        let (Some(before_at), true) =
            (self.connections_before_at, override_file::has_own_transport(endpoint))
        else {
            return InFlight::AtMost { exact: 0, open: own.len(), quiet: Duration::ZERO };
        };
        let quiet = self.now.saturating_sub(before_at);
        let maybe_idle = own
            .iter()
            .filter(|c| self.connections_before.contains(**c) && quiet < idle.saturating_add(SLACK))
            .count();
        InFlight::AtMost { exact: own.len() - maybe_idle, open: maybe_idle, quiet }
    }

    /// Addresses of the servers that discovery has found; `None` if the API does not answer.
    pub fn discovered(&self) -> Option<BTreeSet<IpAddr>> {
        let urls = self.services.iter().flat_map(|(_, s)| s.iter().flat_map(server_urls));
        self.has_api.then(|| urls.filter_map(override_file::server_address).collect())
    }

    /// True if all these routers use the services that discovery has found.
    pub fn are_used_by(&self, routers: &[String]) -> bool {
        routers.iter().all(|router| self.using_routers().any(|name| is_router(name, router)))
    }

    /// Router that uses the services and is not one of these.
    pub fn foreign_router(&self, routers: &[String]) -> Option<&str> {
        self.using_routers().find(|name| !routers.iter().any(|router| is_router(name, router)))
    }

    fn using_routers(&self) -> impl Iterator<Item = &str> {
        let services = self.services.iter().filter_map(|(_, s)| s.as_ref()?["usedBy"].as_array());
        services.flatten().filter_map(Value::as_str)
    }
}

/// True if `api_name` is the API's name of the router: `NAME@docker`. On an entry point with its own settings it is
/// `ENTRYPOINT-NAME@docker`.
fn is_router(api_name: &str, router: &str) -> bool {
    api_name
        .strip_suffix("@docker")
        .is_some_and(|name| name == router || name.ends_with(&format!("-{router}")))
}

fn server_urls(service: &Value) -> impl Iterator<Item = &str> {
    let servers = service["loadBalancer"]["servers"].as_array();
    servers.into_iter().flatten().filter_map(|s| s["url"].as_str())
}

/// Parses the seconds at the beginning of a text.
fn parse_uptime(text: &str) -> Option<Duration> {
    let seconds: f64 = text.lines().next()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Parses lines of /proc/net/tcp.
fn parse_connections(body: &str) -> BTreeSet<String> {
    let ends = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        Some(format!("{} {}", words.next()?, words.next()?))
    };
    body.lines().filter_map(ends).collect()
}

fn leads_to(connection: &str, addresses: &[IpAddr]) -> bool {
    let remote = connection.split_once(' ').and_then(|(_, r)| r.split_once(':')).map_or("", |(a, _)| a);
    sockets::is_any(remote, addresses)
}
