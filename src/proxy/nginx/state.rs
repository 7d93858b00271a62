//! State of a running nginx, as the state script prints it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::proxy::kit::hosts::{Loaded, PinnedService, Pins, watcher_mark};
use crate::proxy::kit::sockets;
use crate::proxy::{Endpoint, InFlight, ProxyState};

#[derive(Debug, Default, PartialEq, Eq)]
pub struct NginxState {
    /// Ticks since boot.
    now: u64,
    /// Start of each worker that takes new requests, in ticks since boot.
    workers: Vec<u64>,
    /// Number of workers that only finish their open requests.
    retired_workers: usize,
    pins: Vec<String>,
    watchers: BTreeSet<String>,
    /// Remote address of each connection that may carry a request, as /proc/net/tcp prints it.
    remotes: Vec<String>,
}

/// Pins of a service, and what the workers have of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePins {
    pub pins: Pins,
    pub loaded: Loaded,
}

impl ServicePins {
    /// Addresses that any worker has.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        match self.loaded {
            Loaded::Now => self.pins.now.clone(),
            Loaded::Before => self.pins.was.clone(),
            Loaded::Mixed => self.pins.now.union(&self.pins.was).copied().collect(),
        }
    }

    /// True if the workers have exactly these addresses, also after a further reload.
    pub fn is_settled(&self) -> bool {
        self.loaded == Loaded::Now
    }
}

impl NginxState {
    pub fn parse(text: &str) -> Option<NginxState> {
        let mut state = NginxState::default();
        for line in text.lines() {
            match line.trim_end().split_once(' ') {
                Some(("@worker", rest)) => state.add_worker(rest),
                Some(("@watcher", mark)) => drop(state.watchers.insert(mark.into())),
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

    pub fn pins_of(&self, service: &PinnedService) -> Option<ServicePins> {
        let pins = Pins::parse(self.pins.iter().map(String::as_str), service)?;
        let loaded = pins.loaded(&self.workers);
        Some(ServicePins { pins, loaded })
    }

    pub fn is_watched(&self, service: &PinnedService) -> bool {
        self.watchers.contains(&watcher_mark(service))
    }

    /// True if a reload that was requested at this moment is not late yet.
    pub fn is_recent(&self, since: u64) -> bool {
        const RELOAD_TICKS: u64 = 300;
        self.now.saturating_sub(since) < RELOAD_TICKS
    }

    /// State of the endpoints. Without pins nginx has the addresses of all instances that ran at its last reload.
    pub fn of(&self, endpoints: &[Endpoint], services: &[PinnedService]) -> ProxyState {
        let pinned = |e: &Endpoint| {
            let own = services.iter().find(|s| s.service == e.service)?;
            Some(self.pins_of(own)?.addresses())
        };
        let is_routed = |e: &&Endpoint| match pinned(e) {
            Some(addresses) => e.addresses.iter().any(|ip| addresses.contains(ip)),
            None => !e.addresses.is_empty(),
        };
        let all_pins = services.iter().filter_map(|s| self.pins_of(s));
        let in_flight = |e: &Endpoint| (e.id.clone(), InFlight::Exact(sockets::count(&self.remotes, e)));
        ProxyState {
            routed: endpoints.iter().filter(is_routed).map(|e| e.id.clone()).collect(),
            failing: BTreeSet::new(),
            config_applied: !self.workers.is_empty() && all_pins.into_iter().all(|p| p.is_settled()),
            in_flight: endpoints.iter().map(in_flight).collect(),
            has_retired_process: self.retired_workers > 0,
        }
    }
}
