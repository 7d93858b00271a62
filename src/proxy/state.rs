//! State of a running proxy: the instances in rotation, and the requests in flight.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::kit::connections::{Connection, Judge, Verdict};
use super::{Endpoint, Rotation};

/// Requests that an instance is still answering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InFlight {
    Exact(usize),
    /// `exact` requests by the proxy's own count, and all connections to the instance, busy or idle.
    Connections {
        exact: usize,
        open: Vec<Connection>,
        /// Time for which connections cannot have received a new request, where the kernel's times are not known.
        quiet: Duration,
        /// True if the service is known to have WebSockets or event streams, which may be silent.
        has_streams: bool,
    },
}

impl InFlight {
    /// Requests by a single sample, and true if there may be fewer.
    pub fn at_most(&self) -> (usize, bool) {
        let open = self.judged(&mut Judge::default());
        (open.requests + open.maybe_idle, open.maybe_idle > 0)
    }

    fn judged(&self, judge: &mut Judge) -> OpenRequests {
        let none = OpenRequests { quiet: Duration::MAX, ..OpenRequests::default() };
        match self {
            InFlight::Exact(exact) => OpenRequests { requests: *exact, ..none },
            InFlight::Connections { exact, open, quiet, has_streams } => {
                judged_connections(judge, open, *has_streams, *exact, *quiet)
            }
        }
    }
}

/// The exact requests use some of the connections.
fn judged_connections(
    judge: &mut Judge,
    open: &[Connection],
    has_streams: bool,
    exact: usize,
    quiet: Duration,
) -> OpenRequests {
    let now = Instant::now();
    let verdicts: Vec<Verdict> = open.iter().map(|c| judge.judge(c, has_streams, now)).collect();
    let busy = verdicts.iter().filter(|v| **v == Verdict::Busy).count();
    let silent = |verdict: &Verdict| match verdict {
        Verdict::Unknown(silent) => Some(silent.unwrap_or(quiet)),
        Verdict::Busy | Verdict::Idle => None,
    };
    let unknown = verdicts.iter().filter_map(silent);
    let requests = busy.max(exact);
    let maybe_idle = unknown.clone().count().min(open.len().saturating_sub(requests));
    let quiet = unknown.min().filter(|_| maybe_idle > 0).unwrap_or(Duration::MAX);
    OpenRequests { requests, maybe_idle, quiet, is_sampled: true }
}

/// State of the running proxy for the endpoints of one query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyState {
    /// Ids of the endpoints in rotation.
    pub routed: BTreeSet<String>,
    /// Ids of the endpoints in rotation that get no request, because the proxy's own check of them fails.
    pub failing: BTreeSet<String>,
    /// True if all running processes of the proxy have applied its current configuration.
    pub config_applied: bool,
    /// Requests in flight by endpoint id; a missing endpoint has none.
    pub in_flight: BTreeMap<String, InFlight>,
    /// True if a retired process of the proxy still runs. The process may send a late request to the previous rotation.
    pub has_retired_process: bool,
}

impl ProxyState {
    /// True if the running proxy sends new requests exactly to the instances inside.
    pub fn confirms(&self, rotation: &Rotation) -> bool {
        self.differences(rotation).is_empty()
    }

    /// Where the running proxy differs from a rotation, for a person: `app-2 gets no requests`.
    pub fn differences(&self, rotation: &Rotation) -> Vec<String> {
        let routed = |e: &Endpoint| self.routed.contains(&e.id);
        let inside = rotation.inside.iter().filter_map(|e| match rotation.preexisting.contains(&e.id) {
            true if routed(e) || e.unhealthy => None,
            false if self.failing.contains(&e.id) => Some(format!("{} fails the proxy's own check", e.name)),
            false if routed(e) => None,
            _ => Some(format!("{} gets no requests", e.name)),
        });
        let outside = rotation.outside.iter().filter(|e| routed(e));
        let outside = outside.map(|e| format!("{} still gets requests", e.name));
        let unapplied =
            (!self.config_applied).then(|| "the running processes have an older configuration".into());
        inside.chain(outside).chain(unapplied).collect()
    }

    /// Open requests of the instances outside, and connections that may be idle.
    pub fn open_requests(&self, rotation: &Rotation, judge: &mut Judge) -> OpenRequests {
        let counts = rotation.outside.iter().filter_map(|e| self.in_flight.get(&e.id));
        let none = InFlight::Exact(0).judged(judge);
        counts.map(|count| count.judged(judge)).fold(none, OpenRequests::and)
    }
}

/// Requests and connections to the instances that leave the rotation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenRequests {
    pub requests: usize,
    /// Open connections that are idle or carry a request.
    pub maybe_idle: usize,
    /// Time for which these connections cannot have received a new request.
    pub quiet: Duration,
    /// True if connections were judged by a sample, so that a single one does not prove that they are idle.
    pub is_sampled: bool,
}

impl OpenRequests {
    fn and(self, other: OpenRequests) -> OpenRequests {
        OpenRequests {
            requests: self.requests + other.requests,
            maybe_idle: self.maybe_idle + other.maybe_idle,
            quiet: self.quiet.min(other.quiet),
            is_sampled: self.is_sampled || other.is_sampled,
        }
    }

    /// True if no request is in flight, and all open connections have been quiet for the limit.
    pub fn is_drained(&self, limit: Duration) -> bool {
        self.requests == 0 && (self.maybe_idle == 0 || self.quiet >= limit)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn endpoint(id: &str) -> Endpoint {
        Endpoint { id: id.into(), name: id.into(), ..Endpoint::default() }
    }

    #[test]
    fn a_rotation_is_confirmed_by_exactly_its_set_in_the_running_proxy() {
        let rotation =
            Rotation { inside: vec![endpoint("new")], outside: vec![endpoint("old")], ..Rotation::default() };
        let state = |routed: &[&str], config_applied| ProxyState {
            routed: routed.iter().map(|r| r.to_string()).collect(),
            config_applied,
            ..ProxyState::default()
        };
        assert!(state(&["new"], true).confirms(&rotation));
        assert!(state(&["new", "another service"], true).confirms(&rotation));
        assert!(!state(&["new"], false).confirms(&rotation));
        assert!(!state(&["new", "old"], true).confirms(&rotation));
        assert!(!state(&[], true).confirms(&rotation));
        let differences = ["new gets no requests", "old still gets requests"];
        assert_eq!(state(&["old"], true).differences(&rotation), differences);
        let failing = ProxyState { failing: ["new".into()].into(), ..state(&["new"], false) };
        let differences =
            ["new fails the proxy's own check", "the running processes have an older configuration"];
        assert_eq!(failing.differences(&rotation), differences);
    }

    #[test]
    fn an_unhealthy_instance_that_was_in_rotation_before_is_not_waited_for() {
        let preexisting = BTreeSet::from(["old".to_string()]);
        let unhealthy = Endpoint { unhealthy: true, ..endpoint("old") };
        let inside = |old: Endpoint| Rotation {
            inside: vec![old, endpoint("new")],
            preexisting: preexisting.clone(),
            ..Rotation::default()
        };
        let state = |routed: &[&str], failing: &[&str]| ProxyState {
            routed: routed.iter().map(|r| r.to_string()).collect(),
            failing: failing.iter().map(|f| f.to_string()).collect(),
            config_applied: true,
            ..ProxyState::default()
        };
        assert!(state(&["old", "new"], &["old"]).confirms(&inside(endpoint("old"))));
        assert!(!state(&["old", "new"], &["new"]).confirms(&inside(endpoint("old"))));
        assert!(state(&["new"], &[]).confirms(&inside(unhealthy)));
        assert!(!state(&["new"], &[]).confirms(&inside(endpoint("old"))));
    }

    #[test]
    fn connections_without_a_new_request_for_the_limit_are_not_waited_for() {
        let rotation =
            Rotation { inside: vec![], outside: vec![endpoint("a"), endpoint("b")], ..Rotation::default() };
        let connection = |port| Connection {
            local: SocketAddr::from(([10, 0, 0, 2], port)),
            remote: SocketAddr::from(([10, 0, 0, 3], 3000)),
            traffic: None,
        };
        let quiet = Duration::from_secs(4);
        let open = (0..5).map(connection).collect();
        let connections = InFlight::Connections { exact: 2, open, quiet, has_streams: false };
        let in_flight = [("a".to_string(), connections), ("b".to_string(), InFlight::Exact(1))];
        let state = ProxyState { in_flight: in_flight.into(), ..ProxyState::default() };
        let expected = OpenRequests { requests: 3, maybe_idle: 3, quiet, is_sampled: true };
        assert_eq!(state.open_requests(&rotation, &mut Judge::default()), expected);
        let limit = Duration::from_secs(30);
        let is_drained = |requests, unsure, seconds| {
            let quiet = Duration::from_secs(seconds);
            OpenRequests { requests, maybe_idle: unsure, quiet, is_sampled: false }.is_drained(limit)
        };
        assert!(is_drained(0, 0, 0) && is_drained(0, 3, 30));
        assert!(!is_drained(1, 0, 30) && !is_drained(0, 3, 29));
    }
}
