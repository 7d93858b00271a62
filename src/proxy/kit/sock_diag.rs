//! Connections of a network namespace with their times and byte counts, by a netlink query of the kernel
//! (`sock_diag`). /proc/net/tcp lacks the times.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::connections::{Connection, Traffic};

/// Limit for an answer of the kernel, which comes at once.
const LIMIT: Duration = Duration::from_secs(5);

/// Largest part of an answer is 32 KiB.
const BUFFER: usize = 64 << 10;

/// Numbers of the kernel's interface. Source: `linux/netlink.h`, `linux/sock_diag.h`, `linux/inet_diag.h`.
const DUMP_REQUEST: u16 = 0x301;
const BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const INTERRUPTED: u16 = 0x10;
const TCP: u8 = 6;
const TCP_INFO: u16 = 2;
const IPV4: u8 = 2;
const IPV6: u8 = 10;

/// States of a connection that may carry a request: established, opening, and closed by the other side only.
const SYN_SENT: u8 = 2;
const STATES: u32 = 1 << 1 | 1 << SYN_SENT | 1 << 8;

/// Lengths of a message's header, and of the part before the attributes of a connection.
const HEADER: usize = 16;
const CONNECTION: usize = 72;

/// Connections in the network namespace of a process of this machine.
///
/// # Errors
/// No process with this number, no right to enter its namespace, or a kernel without `sock_diag` for TCP.
pub fn connections_of(pid: u32) -> io::Result<Vec<Connection>> {
    let path = format!("/proc/{pid}/ns/net");
    if fs::read_link(&path)? == fs::read_link("/proc/self/ns/net")? {
        return connections();
    }
    let namespace = File::open(&path)?;
    // A thread has its own namespace, and ends with it.
    let thread = thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        connections()
    });
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

/// Connections in the network namespace of this thread.
///
/// # Errors
/// As [`connections_of`].
pub fn connections() -> io::Result<Vec<Connection>> {
    let ipv4 = dump(IPV4)?;
    Ok(ipv4.into_iter().chain(dump(IPV6)?).collect())
}

fn dump(family: u8) -> io::Result<Vec<Connection>> {
    let kind = SocketType::RAW;
    let socket = socket_with(AddressFamily::NETLINK, kind, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(LIMIT))?;
    send(&socket, &request(family), SendFlags::empty())?;
    let mut connections = Vec::new();
    while read_part(&socket, &mut connections)? {}
    Ok(connections)
}

/// Reads a part of an answer. Returns false after the last part.
fn read_part(socket: &OwnedFd, connections: &mut Vec<Connection>) -> io::Result<bool> {
    let mut buffer = vec![0; BUFFER];
    let (_, length) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
    let mut rest = buffer.get(..length).unwrap_or_default();
    while let Some(message) = Message::parse(rest) {
        match message.kind {
            DONE => return Ok(false),
            ERROR => return Err(error_of(message.body)),
            _ if message.flags & INTERRUPTED != 0 => return Err(io::ErrorKind::Interrupted.into()),
            _ => connections.extend(connection(message.body)),
        }
        rest = rest.get(message.padded..).unwrap_or_default();
    }
    Ok(length > 0)
}

/// Request for all TCP connections of a family, with `tcp_info`.
fn request(family: u8) -> Vec<u8> {
    const LENGTH: u32 = 72;
    let mut bytes = Vec::new();
    bytes.extend(LENGTH.to_ne_bytes());
    bytes.extend(BY_FAMILY.to_ne_bytes());
    bytes.extend(DUMP_REQUEST.to_ne_bytes());
    bytes.extend([0; 8]); // sequence and port
    bytes.extend([family, TCP, 1 << (TCP_INFO - 1), 0]);
    bytes.extend(STATES.to_ne_bytes());
    bytes.resize(LENGTH as usize, 0); // any address
    bytes
}

/// Message of an answer.
struct Message<'a> {
    kind: u16,
    flags: u16,
    body: &'a [u8],
    /// Distance to the next message.
    padded: usize,
}

impl Message<'_> {
    fn parse(bytes: &[u8]) -> Option<Message<'_>> {
        let length = u32_at(bytes, 0)? as usize;
        let body = bytes.get(HEADER..length)?;
        let (kind, flags) = (u16_at(bytes, 4)?, u16_at(bytes, 6)?);
        Some(Message { kind, flags, body, padded: length.next_multiple_of(4) })
    }
}

fn error_of(body: &[u8]) -> io::Error {
    let code = u32_at(body, 0).unwrap_or_default() as i32;
    io::Error::from_raw_os_error(code.saturating_neg())
}

/// Connection of an `inet_diag_msg`; `None` if the kernel sends no `tcp_info` that is new enough.
fn connection(body: &[u8]) -> Option<Connection> {
    let [family, state, ..] = *body else { return None };
    let end = |port: usize, address: usize| {
        let port = u16::from_be_bytes(bytes_at(body, port)?);
        let address = match family {
            IPV4 => IpAddr::from(bytes_at::<4>(body, address)?),
            _ => IpAddr::from(bytes_at::<16>(body, address)?),
        };
        Some(SocketAddr::new(address.to_canonical(), port))
    };
    let queued = u32_at(body, 56)?.saturating_add(u32_at(body, 60)?);
    let traffic = traffic(attribute(body.get(CONNECTION..)?, TCP_INFO)?, state, queued);
    Some(Connection { local: end(4, 8)?, remote: end(6, 24)?, traffic })
}

/// Times and counts of a `tcp_info`; `None` before Linux 4.19, which has no `tcpi_bytes_sent`. Source: `linux/tcp.h`.
fn traffic(info: &[u8], state: u8, queued: u32) -> Option<Traffic> {
    let number = |at| u32_at(info, at);
    let (unacknowledged, not_sent) = (number(24)?, number(144)?);
    Some(Traffic {
        is_opening: state == SYN_SENT,
        pending: queued.saturating_add(unacknowledged).saturating_add(not_sent),
        sent: u64_at(info, 200)?,
        received: u64_at(info, 128)?,
        last_sent: number(44)?,
        last_received: number(52)?,
        last_ack: number(56)?,
        is_answered: false,
    })
}

/// Value of an attribute.
fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let (length, found) = (u16_at(bytes, 0)? as usize, u16_at(bytes, 2)?);
        let value = bytes.get(4..length)?;
        if found == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes_at(bytes, at).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes_at(bytes, at).map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use proptest::prelude::*;

    use super::*;
    use crate::fuzz::holds;

    #[test]
    fn no_answer_makes_the_parser_panic() {
        holds(prop::collection::vec(any::<u8>(), 0..400), |bytes| {
            connection(&bytes);
            drop(Message::parse(&bytes).map(|message| error_of(message.body)));
            Ok(())
        });
    }

    fn of_client(listener: &TcpListener) -> Vec<Connection> {
        let to = listener.local_addr().unwrap();
        let mut found = connections_of(std::process::id()).unwrap();
        found.retain(|c| c.remote == to);
        found
    }

    #[test]
    fn the_kernel_reports_times_and_bytes_of_a_connection() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            assert_eq!(of_client(&listener), []);
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let mut server = listener.accept().unwrap().0;
            let traffic = || of_client(&listener).pop().unwrap().traffic.unwrap();
            let fresh = traffic();
            assert_eq!((fresh.sent, fresh.received, fresh.pending), (0, 0, 0), "{address}");
            client.write_all(b"request").unwrap();
            server.read_exact(&mut [0; 7]).unwrap();
            server.write_all(b"answer").unwrap();
            client.peek(&mut [0; 6]).unwrap();
            let unread = traffic();
            assert_eq!((unread.sent, unread.received, unread.is_opening), (7, 6, false), "{address}");
            assert_eq!(unread.pending, 6, "{address}: the answer was not read yet");
            client.read_exact(&mut [0; 6]).unwrap();
            assert_eq!(traffic().pending, 0, "{address}");
            drop(client);
            assert_eq!(of_client(&listener), []);
        }
    }

    #[test]
    fn a_process_that_does_not_exist_has_no_namespace() {
        assert!(connections_of(u32::MAX).is_err());
    }

    #[test]
    fn a_truncated_answer_has_no_connection() {
        let mut bytes = vec![0; CONNECTION];
        bytes[0] = IPV4;
        assert_eq!(connection(&bytes), None);
        let info = |length: u16| [&(length + 4).to_ne_bytes()[..], &TCP_INFO.to_ne_bytes()].concat();
        let with = |length: u16| [&bytes[..], &info(length), &vec![1; length as usize]].concat();
        assert!(connection(&with(232)).unwrap().traffic.is_some());
        assert_eq!(connection(&with(192)).unwrap().traffic, None, "a kernel before 4.19");
        for length in 0..bytes.len() {
            assert_eq!(connection(&bytes[..length]), None);
            assert!(Message::parse(&bytes[..length]).is_none_or(|m| m.body.is_empty()));
        }
    }
}
