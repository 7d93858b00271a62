//! State of a running Traefik: the pins, the version that is in force, and the connections to instances.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::generation::{Generation, ListedContainer, generations, parse_list};
use super::labels::HttpLabels;
use super::route_copy::EXTRA;
use super::{Endpoint, InFlight};
use crate::proxy::kit::connections::{self, Connection};

#[derive(Debug, Clone, Default, PartialEq)]
pub struct TraefikState {
    /// Token of the newest pin that is in force.
    pub served: Option<String>,
    /// Uptime of the machine at the query, as text. No two queries have the same.
    pub uptime: String,
    /// Time by the clock of the proxy's machine, in seconds since 1970.
    pub now: u64,
    /// Running containers of the engine.
    pub containers: Vec<ListedContainer>,
    /// Generations of pins of the route, by their number.
    pub generations: Vec<Generation>,
    pub connections: Vec<Connection>,
}

impl TraefikState {
    /// Parses the list of the containers and the output of the script; `None` if either is truncated.
    pub fn parse(containers: &str, output: &str, mark: &str) -> Option<TraefikState> {
        let containers = parse_list(containers)?;
        let generations = generations(&containers, mark);
        let mut state = TraefikState { containers, generations, ..TraefikState::default() };
        for section in output.strip_suffix("@end\n").or(output.strip_suffix("@end"))?.split("\n@") {
            let section = section.trim_start_matches('@');
            let (head, body) = section.split_once('\n').unwrap_or((section, ""));
            let (word, value) = head.split_once(' ').unwrap_or((head, ""));
            state.read_section(word, value.trim(), body);
        }
        Some(state)
    }

    fn read_section(&mut self, word: &str, value: &str, body: &str) {
        match word {
            "now" => {
                let (uptime, now) = value.split_once(' ').unwrap_or((value, ""));
                (self.uptime, self.now) = (uptime.into(), now.parse().unwrap_or_default());
            }
            "served" => self.served = Some(value.into()).filter(|v: &String| !v.is_empty()),
            "routers" => self.served = served_router(body),
            _ => {}
        }
    }

    /// The newest generation of this proxy that is in force.
    pub fn in_force(&self, proxy: &str) -> Option<&Generation> {
        let served = self.served.as_deref()?;
        let newest = self.own(proxy).find(|g| g.token == served)?;
        // A newer generation is in force only together with all before it.
        self.own(proxy).rfind(|g| g.has_route() && g.number <= newest.number)
    }

    /// Generations of this proxy; others may stand before the same services.
    pub fn own(&self, proxy: &str) -> impl DoubleEndedIterator<Item = &Generation> {
        self.generations.iter().filter(move |g| g.proxy == proxy)
    }

    /// Number of the next generation.
    pub fn next_number(&self) -> u32 {
        self.generations.last().map_or(1, |g| g.number.saturating_add(1))
    }

    /// Connections to an endpoint, which got no new request for the time `quiet`.
    pub fn in_flight(&self, endpoint: &Endpoint, quiet: Duration) -> InFlight {
        let has_streams = HttpLabels::parse(&endpoint.labels).mention_streams();
        let open = connections::to_endpoint(&self.connections, endpoint);
        InFlight::Connections { exact: 0, open, quiet, has_streams }
    }
}

/// Token of the enabled version check with the highest priority, in the API's list of routers.
fn served_router(json: &str) -> Option<String> {
    let routers: Vec<Value> = serde_json::from_str(json.trim()).ok()?;
    let enabled = routers.iter().filter(|r| r["status"] == "enabled");
    let token = |r: &Value| {
        let (prefix, name) = r["name"].as_str()?.split_once(EXTRA)?;
        let token = prefix.strip_prefix("zd-").filter(|_| name.starts_with("check@"))?;
        Some((r["priority"].as_i64().unwrap_or_default(), token.to_string()))
    };
    enabled.filter_map(token).max().map(|(_, token)| token)
}

/// Reference to one of these services of labels, in the output of the script that looks for references in files.
pub fn reference<'a>(output: &'a str, services: &BTreeSet<String>) -> Option<&'a str> {
    let is_reference = |line: &&str| {
        let name = line.rsplit([' ', ':', '=', '"', '\'']).next().and_then(|n| n.strip_suffix("@docker"));
        name.is_some_and(|n| services.contains(n))
    };
    output.lines().find(is_reference)
}
