//! Connections of a proxy to instances, and which of them carry a request. A proxy keeps idle connections for later
//! requests; the kernel's times and byte counts tell them from busy ones.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::docker::CommandResult;
use crate::proxy::Endpoint;

/// Time after its last byte for which a connection counts as busy: an answer may pause between its parts.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest delay of an acknowledgement without data. Source: Linux delays it by 40 to 200 ms.
const DELAYED_ACK_MS: u32 = 250;

/// A stream has brought data in this many samples since the last request, over this time.
const STREAM_SAMPLES: u32 = 4;
const STREAM_TIME: Duration = Duration::from_secs(3);

/// Longest pause of a stream.
const STREAM_PAUSE: Duration = Duration::from_secs(30);

/// Proxies close a connection that was idle for this long; Go's default is 90 s. An older one is in use, for
/// example as a WebSocket without messages.
const LONGEST_IDLE: Duration = Duration::from_secs(95);

/// Connection of a proxy to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    pub local: SocketAddr,
    pub remote: SocketAddr,
    /// `None` if only the kernel's table could be read.
    pub traffic: Option<Traffic>,
}

/// Traffic of a connection, by the kernel's `tcp_info`. Times are milliseconds that have passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The instance has not accepted the connection yet.
    pub is_opening: bool,
    /// Bytes in the queues of the kernel, and segments without an acknowledgement.
    pub pending: u32,
    pub sent: u64,
    pub received: u64,
    pub last_sent: u32,
    pub last_received: u32,
    pub last_ack: u32,
    /// The instance sent its last byte after it had received the last one, by its own side of the connection.
    pub is_answered: bool,
}

impl Traffic {
    /// Time for which the connection has carried nothing.
    fn quiet(&self) -> Duration {
        Duration::from_millis(self.last_sent.min(self.last_received).into())
    }

    /// True if this side alone cannot tell whether the last request has its answer.
    ///
    /// The answer to a request and the next request may fall into one tick of the kernel's clock. Then the instance
    /// has acknowledged that request later, by a delayed acknowledgement without data. The last acknowledgement of an
    /// idle connection came with the answer, or with a repetition of its last part: the kernel repeats it after some
    /// milliseconds, if the proxy delays its own acknowledgement (tail loss probe).
    pub fn is_tie(&self) -> bool {
        let delay = self.last_received.saturating_sub(self.last_ack);
        self.last_sent == self.last_received && (1..=DELAYED_ACK_MS).contains(&delay)
    }

    /// True if a request has no complete answer by this sample alone.
    fn is_busy(&self) -> bool {
        let is_unanswered = self.sent > 0 && self.received == 0;
        self.is_opening
            || self.pending > 0
            || is_unanswered
            || self.last_sent < self.last_received
            || (self.is_tie() && !self.is_answered)
            || self.quiet() < PAUSE
    }
}

/// Connection as one line: addresses, and the traffic if it is known.
impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connection { local, remote, traffic } = self;
        write!(f, "{local} {remote}")?;
        let Some(traffic) = traffic else { return Ok(()) };
        let Traffic { is_opening, pending, sent, received, last_sent, last_received, last_ack, is_answered } =
            traffic;
        let (opening, answered) = (u8::from(*is_opening), u8::from(*is_answered));
        write!(f, " {opening} {pending} {sent} {received} {last_sent} {last_received} {last_ack} {answered}")
    }
}

impl FromStr for Connection {
    type Err = ();

    fn from_str(line: &str) -> Result<Connection, ()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [local, remote, ref numbers @ ..] = words[..] else { return Err(()) };
        let address = |word: &str| word.parse().map_err(|_| ());
        let numbers = numbers.iter().map(|n| n.parse()).collect::<Result<Vec<u64>, _>>().map_err(|_| ())?;
        let traffic = match numbers[..] {
            [] => None,
            [opening, pending, sent, received, last_sent, last_received, last_ack, answered] => {
                let short = |number: u64| u32::try_from(number).map_err(|_| ());
                Some(Traffic {
                    is_opening: opening == 1,
                    pending: short(pending)?,
                    sent,
                    received,
                    last_sent: short(last_sent)?,
                    last_received: short(last_received)?,
                    last_ack: short(last_ack)?,
                    is_answered: answered == 1,
                })
            }
            _ => return Err(()),
        };
        Ok(Connection { local: address(local)?, remote: address(remote)?, traffic })
    }
}

/// Connections of an answer to [`Query::Sockets`](crate::proxy::Query::Sockets).
pub fn parse(answer: Option<&CommandResult>) -> Vec<Connection> {
    let lines = answer.map(|answer| answer.stdout.lines()).into_iter().flatten();
    lines.filter_map(|line| line.parse().ok()).collect()
}

/// Connections to an endpoint, at any port.
pub fn to_endpoint(connections: &[Connection], endpoint: &Endpoint) -> Vec<Connection> {
    connections.iter().filter(|c| endpoint.addresses.contains(&c.remote.ip())).cloned().collect()
}

/// Other end of connections: an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    /// Its address; port 0 stands for any port.
    pub address: SocketAddr,
    /// Its first process, by the number on the engine's machine.
    pub pid: u32,
}

impl Remote {
    pub fn has(&self, connection: &Connection) -> bool {
        let (own, remote) = (self.address, connection.remote);
        own.ip() == remote.ip() && [0, remote.port()].contains(&own.port())
    }
}

/// Remotes of an endpoint at these ports.
pub fn remotes(endpoint: &Endpoint, ports: &[u16]) -> Vec<Remote> {
    let at = |ip: &IpAddr| {
        let addresses = ports.iter().map(|port| SocketAddr::new(*ip, *port));
        addresses.map(|address| Remote { address, pid: endpoint.pid }).collect::<Vec<_>>()
    };
    endpoint.addresses.iter().flat_map(at).collect()
}

/// Connections, where the instances' own sides of them decide what this side cannot tell; see [`Traffic::is_tie`].
pub fn with_answers(connections: Vec<Connection>, of_instances: &[Connection]) -> Vec<Connection> {
    let has_answered = |connection: &Connection| {
        let own = of_instances.iter().find(|c| c.local == connection.remote && c.remote == connection.local);
        own.and_then(|c| c.traffic).is_some_and(|own| own.last_sent < own.last_received)
    };
    let with_answer = |mut connection: Connection| {
        let is_answered = has_answered(&connection);
        connection.traffic.iter_mut().for_each(|traffic| traffic.is_answered = is_answered);
        connection
    };
    connections.into_iter().map(with_answer).collect()
}

/// Verdict on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The connection carries a request.
    Busy,
    /// The connection may carry a request, and has carried nothing for this long; `None` without times.
    Unknown(Option<Duration>),
    Idle,
}

/// Samples of connections, by which streams are recognised.
#[derive(Debug, Default)]
pub struct Judge(BTreeMap<(SocketAddr, SocketAddr), Samples>);

/// Samples of a connection since its last sent byte.
#[derive(Debug, Default)]
struct Samples {
    sent: u64,
    received: u64,
    /// Number of samples with new data, and the times of the first and the last of them.
    with_data: u32,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Samples {
    fn add(&mut self, traffic: &Traffic, now: Instant) {
        if self.sent != traffic.sent {
            *self = Samples { sent: traffic.sent, received: traffic.received, ..Samples::default() };
        } else if traffic.received > self.received {
            self.received = traffic.received;
            self.with_data += 1;
            self.first.get_or_insert(now);
            self.last = Some(now);
        }
    }

    fn is_stream(&self) -> bool {
        let time = self.first.zip(self.last).map_or(Duration::ZERO, |(first, last)| last - first);
        self.with_data >= STREAM_SAMPLES && time >= STREAM_TIME
    }
}

impl Judge {
    /// Judges a sample of a connection. `has_streams` is true if the service is known to have WebSockets or event
    /// streams, which may be silent.
    pub fn judge(&mut self, connection: &Connection, has_streams: bool, now: Instant) -> Verdict {
        let Some(traffic) = connection.traffic else { return Verdict::Unknown(None) };
        let samples = self.0.entry((connection.local, connection.remote)).or_default();
        samples.add(&traffic, now);
        let is_stream = samples.is_stream() && traffic.quiet() < STREAM_PAUSE;
        match traffic.quiet() {
            _ if traffic.is_busy() || is_stream => Verdict::Busy,
            quiet if has_streams || quiet > LONGEST_IDLE => Verdict::Unknown(Some(quiet)),
            _ => Verdict::Idle,
        }
    }
}

#[cfg(test)]
mod tests;
