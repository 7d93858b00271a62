//! Ledger of a relay: what is held, the bounds, and the orders for all connections.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::activity::Activity;
use super::{Bounds, RelayStatus};

/// Orders for all connections.
#[derive(Debug, Clone, Default)]
pub struct Orders {
    /// Address that gets the connections.
    pub target: Option<IpAddr>,
    /// Ports of the target, by the port of the relay; the same port if none is here.
    ports: BTreeMap<u16, u16>,
    /// The relay ends: nothing new is held, and idle connections end.
    pub closing: bool,
}

impl Orders {
    /// Port of the target for connections to a port of the relay.
    pub fn port_of_target(&self, port: u16) -> u16 {
        self.ports.get(&port).copied().unwrap_or(port)
    }
}

/// Record of all connections.
pub struct Ledger {
    bounds: Bounds,
    orders: watch::Sender<Orders>,
    counts: RefCell<Counts>,
}

#[derive(Default)]
struct Counts {
    open: usize,
    held: usize,
    /// Start and number of each request that waits.
    waiting: BTreeSet<(Instant, u64)>,
    /// Forwarded connections.
    forwarded: Vec<Rc<Activity>>,
    status: RelayStatus,
}

impl Ledger {
    pub fn new(bounds: Bounds) -> Self {
        Ledger { bounds, orders: watch::Sender::default(), counts: RefCell::default() }
    }

    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    pub fn orders(&self) -> watch::Receiver<Orders> {
        self.orders.subscribe()
    }

    pub fn forward(&self, to: Option<IpAddr>, ports: BTreeMap<u16, u16>) {
        self.orders.send_modify(|orders| (orders.target, orders.ports) = (to, ports));
    }

    pub fn close(&self) {
        self.orders.send_modify(|orders| orders.closing = true);
    }

    pub fn open_connections(&self) -> usize {
        self.counts.borrow().open
    }

    pub fn status(&self) -> RelayStatus {
        let counts = self.counts.borrow();
        let oldest = counts.waiting.first().map_or(0, |(since, _)| milliseconds_since(*since));
        let forwarding_to = self.orders.borrow().target;
        let is_leaving = |a: &&Rc<Activity>| Some(a.target) != forwarding_to && !a.is_idle();
        RelayStatus {
            waiting: counts.waiting.len(),
            longest_ms: counts.status.longest_ms.max(oldest),
            forwarding_to,
            leaving: counts.forwarded.iter().filter(is_leaving).count(),
            ..counts.status.clone()
        }
    }

    /// Counts a refused request.
    pub fn refuse(&self) {
        self.counts.borrow_mut().status.refused += 1;
    }
}

fn milliseconds_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Open connection, counted until it is dropped.
pub struct OpenConnection(Rc<Ledger>);

impl OpenConnection {
    pub fn new(ledger: &Rc<Ledger>) -> Self {
        ledger.counts.borrow_mut().open += 1;
        OpenConnection(Rc::clone(ledger))
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.counts.borrow_mut().open -= 1;
    }
}

/// Forwarded connection, listed until it is dropped.
pub struct Forwarded {
    ledger: Rc<Ledger>,
    pub activity: Rc<Activity>,
}

impl Forwarded {
    pub fn new(ledger: &Rc<Ledger>, activity: Activity) -> Self {
        let activity = Rc::new(activity);
        ledger.counts.borrow_mut().forwarded.push(Rc::clone(&activity));
        Forwarded { ledger: Rc::clone(ledger), activity }
    }

    /// Connections go elsewhere, or wait.
    pub fn is_former(&self) -> bool {
        self.ledger.orders.borrow().target != Some(self.activity.target)
    }
}

impl Drop for Forwarded {
    fn drop(&mut self) {
        self.ledger.counts.borrow_mut().forwarded.retain(|other| !Rc::ptr_eq(other, &self.activity));
    }
}

/// Place of a held connection, given back when it is dropped.
pub struct Place {
    ledger: Rc<Ledger>,
    /// Start and number of the request, once its first byte has come.
    request: Option<(Instant, u64)>,
    bytes: usize,
}

impl Place {
    /// Place for one more connection, if one is free.
    pub fn take(ledger: &Rc<Ledger>) -> Option<Place> {
        let mut counts = ledger.counts.borrow_mut();
        let is_free = counts.held < ledger.bounds.connections;
        counts.held += usize::from(is_free);
        is_free.then(|| Place { ledger: Rc::clone(ledger), request: None, bytes: 0 })
    }

    /// The connection has sent a byte.
    pub fn has_request(&self) -> bool {
        self.request.is_some()
    }

    /// Counts bytes of the request. `false` if all requests together have too many bytes.
    pub fn add(&mut self, bytes: usize) -> bool {
        let mut counts = self.ledger.counts.borrow_mut();
        if self.request.is_none() {
            counts.status.held_total += 1;
            let request = (Instant::now(), counts.status.held_total);
            counts.waiting.insert(request);
            self.request = Some(request);
        }
        counts.status.held_bytes += bytes;
        self.bytes += bytes;
        counts.status.held_bytes <= self.ledger.bounds.bytes
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.ledger.counts.borrow_mut();
        counts.held -= 1;
        counts.status.held_bytes -= self.bytes;
        if let Some(request) = self.request {
            counts.waiting.remove(&request);
            counts.status.longest_ms = counts.status.longest_ms.max(milliseconds_since(request.0));
        }
    }
}
