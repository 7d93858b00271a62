//! What the question's script printed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use super::override_file;
use super::{Endpoint, InFlight};
use crate::proxy::matches_proc_net;

/// How late Traefik may be with closing an idle connection.
const SLACK: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Default, PartialEq)]
pub struct TraefikState {
    /// The version of our file that is in force.
    pub served: Option<String>,
    /// Our file.
    pub file: Option<String>,
    /// The API answers.
    pub api: bool,
    /// What it says of each service.
    pub services: Vec<(String, Option<Value>)>,
    /// Where a file of somebody else's names a service of labels: `FILE:service: NAME@docker`.
    pub references: Vec<String>,
    /// Since the machine started, as all times here.
    now: Duration,
    /// When the last of `before` was seen.
    first: Option<Duration>,
    /// Connections from before any version of our file was in force, as `LOCAL REMOTE`.
    before: BTreeSet<String>,
    /// When there was nothing left to do but to wait for its discovery.
    left: Option<Duration>,
    connections: BTreeSet<String>,
}

impl TraefikState {
    /// None for one that is not whole.
    pub fn parse(text: &str) -> Option<TraefikState> {
        let mut answer = TraefikState::default();
        for part in text.strip_suffix("@end\n").or(text.strip_suffix("@end"))?.split("\n@") {
            let part = part.trim_start_matches('@');
            let (head, body) = part.split_once('\n').unwrap_or((part, ""));
            let (word, value) = head.split_once(' ').unwrap_or((head, ""));
            answer.add(word, value.trim(), body);
        }
        Some(answer)
    }

    fn add(&mut self, word: &str, value: &str, body: &str) {
        match word {
            "served" => self.served = Some(value.into()).filter(|v: &String| !v.is_empty()),
            "now" => self.now = uptime(value).unwrap_or_default(),
            "before" => (self.first, self.before) = (uptime(body), connections(body)),
            "left" => self.left = uptime(body),
            "file" => self.file = Some(body.trim_end().to_string() + "\n"),
            "references" => self.references = body.lines().map(|l| l.replace(['"', '\''], "")).collect(),
            "connections" => self.connections = connections(body),
            "api" => self.api = true,
            "service" => self.services.push((value.into(), serde_json::from_str(body).ok())),
            _ => {}
        }
    }

    /// Our file is in force as it is; or there is none, and none is in force.
    pub fn is_settled(&self) -> bool {
        self.served.as_deref() == self.file.as_deref().and_then(override_file::token)
    }

    /// Something of ours is left besides the file.
    pub fn has_remains(&self) -> bool {
        self.first.is_some() || self.left.is_some()
    }

    /// How long discovery has had.
    pub fn waited(&self) -> Option<Duration> {
        self.left.map(|left| self.now.saturating_sub(left))
    }

    /// What an instance may still be answering. By our own transport an idle connection is gone at once; those from
    /// before have not been given a request since our file is in force, and may be idle until `idle` has passed.
    pub fn in_flight(&self, endpoint: &Endpoint, idle: Duration) -> InFlight {
        let its: Vec<&String> = self.connections.iter().filter(|c| is_to(c, &endpoint.addresses)).collect();
        let (Some(first), true) = (self.first, override_file::has_own_transport(endpoint)) else {
            return InFlight::AtMost { exact: 0, open: its.len(), quiet: Duration::ZERO };
        };
        let quiet = self.now.saturating_sub(first);
        let unsure =
            its.iter().filter(|c| self.before.contains(**c) && quiet < idle.saturating_add(SLACK)).count();
        InFlight::AtMost { exact: its.len() - unsure, open: unsure, quiet }
    }

    /// The addresses of the servers that discovery has found; none where the API does not tell.
    pub fn discovered(&self) -> Option<BTreeSet<IpAddr>> {
        let urls = self.services.iter().flat_map(|(_, s)| s.iter().flat_map(urls));
        self.api.then(|| urls.filter_map(override_file::address).collect())
    }

    /// Whether these routers use the services that discovery has found.
    pub fn are_used(&self, routers: &[String]) -> bool {
        routers.iter().all(|router| self.users().any(|user| is(user, router)))
    }

    /// A router besides these that uses them.
    pub fn stranger(&self, routers: &[String]) -> Option<&str> {
        self.users().find(|user| !routers.iter().any(|router| is(user, router)))
    }

    fn users(&self) -> impl Iterator<Item = &str> {
        let services = self.services.iter().filter_map(|(_, s)| s.as_ref()?["usedBy"].as_array());
        services.flatten().filter_map(Value::as_str)
    }
}

/// On an entry point with settings of its own a router is `ENTRYPOINT-NAME@docker`.
fn is(user: &str, router: &str) -> bool {
    user.strip_suffix("@docker").is_some_and(|name| name == router || name.ends_with(&format!("-{router}")))
}

fn urls(service: &Value) -> impl Iterator<Item = &str> {
    let servers = service["loadBalancer"]["servers"].as_array();
    servers.into_iter().flatten().filter_map(|s| s["url"].as_str())
}

/// Reads the seconds that a text starts with.
fn uptime(text: &str) -> Option<Duration> {
    let seconds: f64 = text.lines().next()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// Reads lines of /proc/net/tcp.
fn connections(body: &str) -> BTreeSet<String> {
    let ends = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        Some(format!("{} {}", words.next()?, words.next()?))
    };
    body.lines().filter_map(ends).collect()
}

fn is_to(connection: &str, addresses: &[IpAddr]) -> bool {
    let remote = connection.split_once(' ').and_then(|(_, r)| r.split_once(':')).map_or("", |(a, _)| a);
    addresses.iter().any(|a| matches_proc_net(remote, a))
}
