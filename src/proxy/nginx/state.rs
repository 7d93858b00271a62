//! State of a running nginx, as the state script prints it.

use std::collections::BTreeSet;

use crate::proxy::kit::clock::Clock;
use crate::proxy::kit::hosts::switch::{self, PinnedServices, PinnedState, ServicePins};
use crate::proxy::kit::hosts::{PinnedService, Pins, watcher_mark};
use crate::proxy::kit::sockets;
use crate::proxy::{Endpoint, Goal, InFlight, ProxyState};

#[derive(Debug, Default, PartialEq)]
pub struct NginxState {
    /// Ticks since boot.
    now: u64,
    /// Start of each worker that takes new requests, in ticks since boot.
    workers: Vec<u64>,
    clock: Option<Clock>,
    /// Number of workers that only finish their open requests.
    retired_workers: usize,
    pins: Vec<String>,
    watchers: BTreeSet<String>,
    /// Remote address of each connection that may carry a request, as /proc/net/tcp prints it.
    remotes: Vec<String>,
}

impl NginxState {
    pub fn parse(text: &str) -> Option<NginxState> {
        let mut state = NginxState::default();
        for line in text.lines() {
            match line.trim_end().split_once(' ') {
                Some(("@worker", rest)) => state.add_worker(rest),
                Some(("@watcher", mark)) => drop(state.watchers.insert(mark.into())),
                Some(("@clock", clock)) => state.clock = Clock::parse(clock),
                Some(("@now", ticks)) => state.now = ticks.trim().parse().ok()?,
                Some(("@pin", pin)) => state.pins.push(pin.into()),
                _ => state.remotes.extend(sockets::parse_listed(line)),
            }
        }
        text.trim_end().ends_with("@end").then_some(state)
    }

    fn add_worker(&mut self, rest: &str) {
        let (ticks, title) = rest.split_once(' ').unwrap_or((rest, ""));
        match title.trim() {
            "nginx: worker process" => self.workers.extend(ticks.parse::<u64>().ok()),
            "nginx: worker process is shutting down" => self.retired_workers += 1,
            _ => {}
        }
    }

    /// State of the endpoints.
    pub fn of(&self, goal: &Goal, services: &[PinnedService]) -> ProxyState {
        let endpoints = goal.endpoints();
        let pinned = PinnedServices { state: self, services };
        let in_flight = |e: &Endpoint| (e.id.clone(), InFlight::Exact(sockets::count(&self.remotes, e)));
        ProxyState {
            routed: switch::routed(pinned, &endpoints, goal.may_be_stale()),
            failing: BTreeSet::new(),
            config_applied: !self.workers.is_empty() && switch::is_settled(pinned),
            in_flight: endpoints.iter().map(in_flight).collect(),
            has_retired_process: self.retired_workers > 0,
        }
    }
}

impl PinnedState for NginxState {
    fn may_lack(&self, instance: &Endpoint) -> bool {
        let is_later = |clock: Clock| Some(clock.is_later(instance.started?, *self.workers.iter().min()?));
        self.clock.and_then(is_later) == Some(true) && sockets::count(&self.remotes, instance) == 0
    }

    fn pins_of(&self, service: &PinnedService) -> Option<ServicePins> {
        let pins = Pins::parse(self.pins.iter().map(String::as_str), service)?;
        let loaded = pins.loaded(&self.workers);
        Some(ServicePins { pins, loaded })
    }

    fn is_watched(&self, service: &PinnedService) -> bool {
        self.watchers.contains(&watcher_mark(service))
    }

    fn is_recent(&self, since: u64) -> bool {
        const RELOAD_TICKS: u64 = 300;
        self.now.saturating_sub(since) < RELOAD_TICKS
    }
}
