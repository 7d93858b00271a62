//! One moment of Caddy, as far as it concerns some instances.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::config::{CaddyFeatures, Handler, Upstream, handlers, plain, switched};
use super::state::{SwitchState, other};
use crate::proxy::{Endpoint, InFlight};

/// The age of a file is told in whole seconds, and a request that was just before it looks a name up a moment later.
const SLACK: Duration = Duration::from_secs(2);

pub struct CaddySnapshot {
    pub seen: SwitchState,
    /// The handlers that route to them, by the key of their switch.
    pub handlers: Vec<(String, Handler)>,
    /// Every handler has its switch.
    pub is_switched: bool,
    /// At least one has.
    pub has_switch: bool,
    pub names: BTreeSet<String>,
}

/// All that a handler may call instances by.
pub fn names(endpoints: &[Endpoint]) -> BTreeSet<String> {
    let of = |e: &Endpoint| {
        let addresses = e.addresses.iter().map(ToString::to_string);
        addresses.chain(e.names.iter().cloned()).collect::<Vec<_>>()
    };
    endpoints.iter().flat_map(of).collect()
}

impl CaddySnapshot {
    /// What the question's script printed; none where it makes no sense.
    pub fn read(answer: &str, names: BTreeSet<String>, means: &CaddyFeatures) -> Option<CaddySnapshot> {
        let mut seen = SwitchState::parse(answer)?;
        let ours = |h: Handler| Some((h.key(&names)?, h));
        let handlers = handlers(&seen.config).into_iter().filter_map(ours).collect();
        let is_switched = switched(&seen.config, &names, means) == seen.config;
        let has_switch = plain(&seen.config, &names) != seen.config;
        if !has_switch {
            // Somebody's reload took the switches away; their files mean nothing.
            seen.switches.clear();
        }
        Some(CaddySnapshot { seen, handlers, is_switched, has_switch, names })
    }

    pub fn keys(&self) -> BTreeSet<&str> {
        self.handlers.iter().map(|(key, _)| key.as_str()).collect()
    }

    /// Its own discovery is overruled by at least one switch.
    pub fn is_on(&self) -> bool {
        self.keys().iter().any(|key| self.seen.switch(key).bank().is_some())
    }

    fn ours(&self) -> impl Iterator<Item = &Upstream> {
        self.handlers.iter().flat_map(|(_, h)| h.ours(&self.names))
    }

    /// Every switch is on, and sends requests to exactly these names.
    pub fn sends_to(&self, names: &[String]) -> bool {
        self.is_switched && self.keys().iter().all(|key| self.seen.switch(key).names() == Some(names))
    }

    /// Without a switch that is on, to whatever has the name: Docker's DNS knows an instance from its start on.
    pub fn routes_to(&self, endpoint: &Endpoint) -> bool {
        let own = names(std::slice::from_ref(endpoint));
        let mut fronting = self.handlers.iter().filter(|(_, h)| h.ours(&own).next().is_some());
        fronting.any(|(key, _)| match self.seen.switch(key).names().filter(|_| self.is_switched) {
            Some(names) => names.contains(&endpoint.name),
            None => !endpoint.addresses.is_empty(),
        })
    }

    /// Requests to those that get no new ones. What was begun before the switch was on is counted by the service's name;
    /// after that by the slots of a bank, unless Caddy counts `by_names` too. Neither is one instance, so they are told
    /// as the first one's.
    pub fn in_flight(&self, endpoints: &[Endpoint], by_names: bool) -> BTreeMap<String, InFlight> {
        let banks =
            self.keys().iter().filter(|_| !by_names).map(|key| self.by_the_other_bank(key)).sum::<usize>();
        let mut shared = self.by_service() + banks;
        let own = |e: &Endpoint| self.by_address(e) + if by_names { self.by_name(e) } else { 0 };
        let mut count = |e: &Endpoint| InFlight::Exact(std::mem::take(&mut shared) + own(e));
        let leaving = endpoints.iter().filter(|e| !self.routes_to(e));
        leaving.map(|e| (e.id.clone(), count(e))).collect()
    }

    fn by_the_other_bank(&self, key: &str) -> usize {
        self.seen.switch(key).bank().map_or(0, |bank| self.seen.by(key, other(bank)))
    }

    fn by_service(&self) -> usize {
        let dials: BTreeSet<&str> = self.ours().filter_map(|u| u.dial()).collect();
        dials.into_iter().map(|dial| self.seen.to(dial)).sum()
    }

    fn by_name(&self, endpoint: &Endpoint) -> usize {
        let ports: BTreeSet<u16> = self.ours().filter_map(|u| u.port).collect();
        ports.iter().map(|port| self.seen.to(&format!("{}:{port}", endpoint.name))).sum()
    }

    /// Those of `dynamic a`, which are dialled by address.
    fn by_address(&self, endpoint: &Endpoint) -> usize {
        let ports: BTreeSet<u16> = self.ours().filter(|u| u.given.is_none()).filter_map(|u| u.port).collect();
        let sockets = ports.iter().flat_map(|p| endpoint.addresses.iter().map(move |a| (*a, *p)));
        sockets.map(|socket| self.seen.to(&std::net::SocketAddr::from(socket).to_string())).sum()
    }

    /// How long its own discovery still sends requests to those that are gone: it keeps what it looked up last, at the
    /// latest when the switch was turned on.
    pub fn stale_for(&self) -> Duration {
        let of = |(key, handler): &(String, Handler)| {
            let kept = handler.ours(&self.names).filter_map(|u| u.refresh).max()?.saturating_add(SLACK);
            Some(kept.saturating_sub(Duration::from_secs(self.seen.switch(key).age()?)))
        };
        self.handlers.iter().filter_map(of).max().unwrap_or_default()
    }
}
