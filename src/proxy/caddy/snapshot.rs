//! Snapshot of Caddy's state for some instances.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::config::{CaddyFeatures, Handler, Upstream, handlers, with_switches, without_switches};
use super::state::{SwitchState, other_bank};
use crate::proxy::{Endpoint, InFlight};

/// Slack of the stale time: the age of a file has whole seconds, and a request from just before may still
/// resolve a name.
const SLACK: Duration = Duration::from_secs(2);

pub struct CaddySnapshot {
    pub state: SwitchState,
    /// Handlers that route to the instances, by the key of their switch.
    pub handlers: Vec<(String, Handler)>,
    /// Every handler has a switch.
    pub is_switched: bool,
    /// At least one handler has a switch.
    pub has_switch: bool,
    pub names: BTreeSet<String>,
}

/// All names and addresses by which a handler may route to instances.
pub fn names(endpoints: &[Endpoint]) -> BTreeSet<String> {
    let names_of = |e: &Endpoint| {
        let addresses = e.addresses.iter().map(ToString::to_string);
        addresses.chain(e.names.iter().cloned()).collect::<Vec<_>>()
    };
    endpoints.iter().flat_map(names_of).collect()
}

impl CaddySnapshot {
    /// Parses the output of the state script.
    pub fn parse(output: &str, names: BTreeSet<String>, features: &CaddyFeatures) -> Option<CaddySnapshot> {
        let mut state = SwitchState::parse(output)?;
        let keyed = |h: Handler| Some((h.key(&names)?, h));
        let handlers = handlers(&state.config).into_iter().filter_map(keyed).collect();
        let is_switched = with_switches(&state.config, &names, features) == state.config;
        let has_switch = without_switches(&state.config, &names) != state.config;
        if !has_switch {
            // A reload by another program removed the switches, so their files mean nothing.
            state.switches.clear();
        }
        Some(CaddySnapshot { state, handlers, is_switched, has_switch, names })
    }

    pub fn keys(&self) -> BTreeSet<&str> {
        self.handlers.iter().map(|(key, _)| key.as_str()).collect()
    }

    /// At least one switch is on and overrides Caddy's own discovery.
    pub fn is_any_switch_on(&self) -> bool {
        self.keys().iter().any(|key| self.state.switch(key).bank().is_some())
    }

    fn own_upstreams(&self) -> impl Iterator<Item = &Upstream> {
        self.handlers.iter().flat_map(|(_, h)| h.upstreams_of(&self.names))
    }

    /// Every switch is on, and sends requests to exactly these names.
    pub fn sends_to(&self, names: &[String]) -> bool {
        self.is_switched && self.keys().iter().all(|key| self.state.switch(key).names() == Some(names))
    }

    /// The endpoint gets requests. Without a switch that is on, every instance with the name does: Docker's DNS
    /// resolves an instance from its start on.
    pub fn routes_to(&self, endpoint: &Endpoint) -> bool {
        let own_names = names(std::slice::from_ref(endpoint));
        let mut relevant = self.handlers.iter().filter(|(_, h)| h.upstreams_of(&own_names).next().is_some());
        relevant.any(|(key, _)| match self.state.switch(key).names().filter(|_| self.is_switched) {
            Some(names) => names.contains(&endpoint.name),
            None => !endpoint.addresses.is_empty(),
        })
    }

    /// Requests in flight to the instances out of rotation. Caddy counts a request from before the switch by
    /// the service's name. It counts a later one by the slots of a bank, unless it counts `by_names` too.
    /// Neither count belongs to a single instance, so the first instance gets both.
    pub fn in_flight(&self, endpoints: &[Endpoint], by_names: bool) -> BTreeMap<String, InFlight> {
        let banks = self
            .keys()
            .iter()
            .filter(|_| !by_names)
            .map(|key| self.requests_by_other_bank(key))
            .sum::<usize>();
        let mut shared = self.requests_by_service() + banks;
        let exclusive =
            |e: &Endpoint| self.requests_by_address(e) + if by_names { self.requests_by_name(e) } else { 0 };
        let mut count = |e: &Endpoint| InFlight::Exact(std::mem::take(&mut shared) + exclusive(e));
        let leaving = endpoints.iter().filter(|e| !self.routes_to(e));
        leaving.map(|e| (e.id.clone(), count(e))).collect()
    }

    fn requests_by_other_bank(&self, key: &str) -> usize {
        self.state.switch(key).bank().map_or(0, |bank| self.state.requests_by_bank(key, other_bank(bank)))
    }

    fn requests_by_service(&self) -> usize {
        let dials: BTreeSet<&str> = self.own_upstreams().filter_map(|u| u.dial()).collect();
        dials.into_iter().map(|dial| self.state.requests_to(dial)).sum()
    }

    fn requests_by_name(&self, endpoint: &Endpoint) -> usize {
        let ports: BTreeSet<u16> = self.own_upstreams().filter_map(|u| u.port).collect();
        ports.iter().map(|port| self.state.requests_to(&format!("{}:{port}", endpoint.name))).sum()
    }

    /// Requests of `dynamic a`, which dials addresses.
    fn requests_by_address(&self, endpoint: &Endpoint) -> usize {
        let ports: BTreeSet<u16> =
            self.own_upstreams().filter(|u| u.settings.is_none()).filter_map(|u| u.port).collect();
        let sockets = ports.iter().flat_map(|p| endpoint.addresses.iter().map(move |a| (*a, *p)));
        sockets.map(|socket| self.state.requests_to(&std::net::SocketAddr::from(socket).to_string())).sum()
    }

    /// Time for which Caddy's own discovery still sends requests to stopped instances. Discovery keeps its last
    /// look-up, which happened at the latest when the switch was turned on.
    pub fn stale_for(&self) -> Duration {
        let stale_for = |(key, handler): &(String, Handler)| {
            let refresh =
                handler.upstreams_of(&self.names).filter_map(|u| u.refresh).max()?.saturating_add(SLACK);
            Some(refresh.saturating_sub(Duration::from_secs(self.state.switch(key).age()?)))
        };
        self.handlers.iter().filter_map(stale_for).max().unwrap_or_default()
    }
}
