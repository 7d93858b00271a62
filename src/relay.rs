//! Relay: takes the place of an instance while the service is replaced. Holds each connection until it gets the address
//! of the new instance, and then copies bytes both ways.

mod activity;
mod connection;
mod control;
mod first_bytes;
mod ledger;
mod splice;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};

use crate::wait::StopSignal;
use connection::serve;
use ledger::Ledger;

/// Most connections that are held at a time.
const MAX_CONNECTIONS: usize = 4096;

/// Most bytes that are held, of all connections.
const MAX_BYTES: usize = 32 << 20;

/// Open files beside those of connections.
const OTHER_FILES: usize = 64;

/// Connections that the kernel holds before they are accepted.
const BACKLOG: u32 = 4096;

/// Pause after a failed accept, and interval at which the relay's own state is checked.
const POLL: Duration = Duration::from_millis(50);

/// Time after the lifetime in which open connections may finish.
const LAST_REQUESTS: Duration = Duration::from_secs(30);

/// Name of the control socket in the abstract namespace, which belongs to the container's network.
const CONTROL: &str = "compose-zd-relay";

/// State of a relay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayStatus {
    /// Requests that wait now.
    pub waiting: usize,
    /// All requests that had to wait.
    pub held_total: u64,
    /// Longest time that a request has waited, also one that still waits.
    pub longest_ms: u64,
    /// Requests over a bound, which were refused with 503.
    pub refused: u64,
    /// Bytes of the requests that wait now.
    pub held_bytes: usize,
    /// Address that gets all connections; `None` while the relay holds them.
    pub forwarding_to: Option<IpAddr>,
    /// Connections to another address that may have a request without its answer.
    #[serde(default)]
    pub leaving: usize,
}

/// Bounds of what a relay holds.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub connections: usize,
    pub bytes: usize,
    /// Longest time for a request to wait.
    pub hold: Duration,
}

/// Relays the ports until a signal or the end of the lifetime, and then until no connection is busy.
///
/// # Errors
/// A port or the control socket cannot be opened.
pub fn run(ports: &[u16], hold: Duration, lifetime: Duration, stop: &StopSignal) -> Result<()> {
    let connections = MAX_CONNECTIONS.min(raise_file_limit().saturating_sub(OTHER_FILES) / 2);
    let bounds = Bounds { connections, bytes: MAX_BYTES, hold };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    LocalSet::new().block_on(&runtime, async {
        let mut listeners = Vec::new();
        for port in ports {
            listeners.extend(listen(*port).with_context(|| format!("cannot listen on port {port}"))?);
        }
        relay(listeners, CONTROL, bounds, lifetime, stopped(stop)).await
    })
}

/// Sets the address that gets all connections, also those that are held, and its ports where they differ from those of the
/// relay. Without an address, connections wait again. Returns the state before.
///
/// # Errors
/// No relay runs here.
pub fn forward(to: Option<IpAddr>, ports: BTreeMap<u16, u16>) -> Result<RelayStatus> {
    control::query(CONTROL, &control::Order::Forward { to, ports })
}

/// State of the relay that runs here.
///
/// # Errors
/// No relay runs here, or the relay does not listen yet.
pub fn status() -> Result<RelayStatus> {
    control::query(CONTROL, &control::Order::Status)
}

/// Raises the limit of open files as far as possible, and returns the limit.
fn raise_file_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    current.map_or(usize::MAX, |files| files as usize)
}

/// Listeners of a port: one for IPv6 and IPv4, or one for each, as the system has it.
fn listen(port: u16) -> io::Result<Vec<TcpListener>> {
    let open = |socket: io::Result<TcpSocket>, address: IpAddr| {
        let socket = socket?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(address, port))?;
        socket.listen(BACKLOG)
    };
    let v6 = open(TcpSocket::new_v6(), Ipv6Addr::UNSPECIFIED.into());
    match (v6, open(TcpSocket::new_v4(), Ipv4Addr::UNSPECIFIED.into())) {
        (Ok(v6), Ok(v4)) => Ok(vec![v6, v4]),
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(vec![one]),
        (Err(_), Err(error)) => Err(error),
    }
}

/// Relays the listeners' ports until `end`.
async fn relay(
    listeners: Vec<TcpListener>,
    control: &str,
    bounds: Bounds,
    lifetime: Duration,
    end: impl Future<Output = ()>,
) -> Result<()> {
    let start = Instant::now();
    let ledger = Rc::new(Ledger::new(bounds));
    let acceptors: Vec<_> =
        listeners.into_iter().map(|listener| spawn_local(accept(listener, Rc::clone(&ledger)))).collect();
    let control = control::bind(control).context("cannot open the control socket")?;
    spawn_local(control::serve(control, Rc::clone(&ledger)));
    drop(timeout(lifetime, end).await);
    acceptors.iter().for_each(tokio::task::JoinHandle::abort);
    ledger.close();
    let unused = poll_until(|| ledger.open_connections() == 0);
    drop(timeout_at(start + lifetime + LAST_REQUESTS, unused).await);
    Ok(())
}

async fn accept(listener: TcpListener, ledger: Rc<Ledger>) {
    let Ok(address) = listener.local_addr() else { return };
    loop {
        match listener.accept().await {
            Ok((client, _)) => drop(spawn_local(serve(client, address.port(), Rc::clone(&ledger)))),
            // No file is free. The kernel holds the connection.
            Err(_) => tokio::time::sleep_until(Instant::now() + POLL).await,
        }
    }
}

async fn stopped(stop: &StopSignal) {
    poll_until(|| stop.signal().is_some()).await;
}

async fn poll_until(is_true: impl Fn() -> bool) {
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !is_true() {
        ticks.tick().await;
    }
}
