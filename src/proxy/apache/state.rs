//! State of a running Apache, as the state script prints it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::proxy::kit::clock::Clock;
use crate::proxy::kit::connections::{self, Connection};
use crate::proxy::kit::hosts::switch::{self, PinnedServices, PinnedState, ServicePins};
use crate::proxy::kit::hosts::{Loaded, PinnedService, Pins, watcher_mark};
use crate::proxy::{Endpoint, Goal, InFlight, ProxyState};

#[derive(Debug, Default, PartialEq)]
pub struct ApacheState {
    /// Ticks since boot.
    now: u64,
    /// Start of each child of the master, in ticks since boot.
    children: Vec<u64>,
    clock: Option<Clock>,
    pins: Vec<String>,
    watchers: BTreeSet<String>,
    connections: Vec<Connection>,
}

impl ApacheState {
    pub fn parse(text: &str, connections: Vec<Connection>) -> Option<ApacheState> {
        let mut state = ApacheState { connections, ..ApacheState::default() };
        for line in text.lines() {
            match line.trim_end().split_once(' ') {
                Some(("@child", ticks)) => state.children.push(ticks.trim().parse().ok()?),
                Some(("@watcher", mark)) => drop(state.watchers.insert(mark.into())),
                Some(("@clock", clock)) => state.clock = Clock::parse(clock),
                Some(("@now", ticks)) => state.now = ticks.trim().parse().ok()?,
                Some(("@pin", pin)) => state.pins.push(pin.into()),
                _ => {}
            }
        }
        text.trim_end().ends_with("@end").then_some(state)
    }

    /// State of the endpoints. `has_streams` if a connection may be a WebSocket.
    pub fn of(&self, goal: &Goal, services: &[PinnedService], has_streams: bool) -> ProxyState {
        let endpoints = goal.endpoints();
        let pinned = PinnedServices { state: self, services };
        let routed = switch::routed(pinned, &endpoints, goal.may_be_stale());
        let restarts: Vec<u64> =
            services.iter().filter_map(|s| self.pins_of(s)).map(|p| p.pins.since).collect();
        let restart = restarts.into_iter().max().filter(|since| *since > 0);
        let in_flight = |e: &Endpoint| {
            let since = restart.filter(|_| !routed.contains(&e.id));
            let quiet = since.map_or(0, |since| self.now.saturating_sub(since));
            let open = connections::to_endpoint(&self.connections, e);
            let quiet = Duration::from_millis(quiet * 10);
            (e.id.clone(), InFlight::Connections { exact: 0, open, quiet, has_streams })
        };
        ProxyState {
            failing: BTreeSet::new(),
            config_applied: !self.children.is_empty() && switch::is_settled(pinned),
            in_flight: endpoints.iter().map(in_flight).collect(),
            has_retired_process: restart
                .is_some_and(|since| self.children.iter().any(|start| *start <= since)),
            routed,
        }
    }
}

impl PinnedState for ApacheState {
    /// Apache replaces children without a reload, so the oldest child counts.
    fn may_lack(&self, instance: &Endpoint) -> bool {
        let is_later = |clock: Clock| Some(clock.is_later(instance.started?, *self.children.iter().min()?));
        let has_connection = !connections::to_endpoint(&self.connections, instance).is_empty();
        self.clock.and_then(is_later) == Some(true) && !has_connection
    }

    /// The children of a master have no mark of their age. So only a mark in the hosts file confirms a restart.
    fn pins_of(&self, service: &PinnedService) -> Option<ServicePins> {
        let pins = Pins::parse(self.pins.iter().map(String::as_str), service)?;
        let loaded = if pins.since == 0 || pins.is_reloaded { Loaded::Now } else { Loaded::Mixed };
        Some(ServicePins { pins, loaded })
    }

    fn is_watched(&self, service: &PinnedService) -> bool {
        self.watchers.contains(&watcher_mark(service))
    }

    /// The script of a restart waits for its end.
    fn is_recent(&self, _since: u64) -> bool {
        false
    }
}
