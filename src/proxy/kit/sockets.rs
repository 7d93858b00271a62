//! Connections to instances, from the socket tables of the kernel.

use std::net::{IpAddr, SocketAddr};

use super::connections::Connection;
use crate::proxy::Endpoint;

/// State of an established connection, and of a listening socket. Source: the kernel's `include/net/tcp_states.h`.
pub const ESTABLISHED: &str = "01";
pub const LISTENING: &str = "0A";

/// Socket of a table. Each address is in the form of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket<'t> {
    pub address: &'t str,
    pub port: &'t str,
    pub remote_address: &'t str,
    pub remote_port: &'t str,
    pub state: &'t str,
}

/// States of a connection that may carry a request: established, opening, and closed by the other side only.
const OPEN: [&str; 4] = [ESTABLISHED, "02", "03", "08"];

/// Open connections of a table, which has no times.
pub fn connections(table: &str) -> Vec<Connection> {
    let open = parse(table).filter(|socket| OPEN.contains(&socket.state));
    let connection = |socket: Socket| {
        let local = socket_address(socket.address, socket.port)?;
        let remote = socket_address(socket.remote_address, socket.remote_port)?;
        Some(Connection { local, remote, traffic: None })
    };
    open.filter_map(connection).collect()
}

/// Address that a table prints.
fn socket_address(address: &str, port: &str) -> Option<SocketAddr> {
    let digits = |at: usize| u8::from_str_radix(address.get(at..at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..address.len()).step_by(2).map(digits).collect();
    let bytes: Vec<u8> = bytes?.chunks(4).flat_map(|word| word.iter().rev().copied()).collect();
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// Table of the network namespace of a process on this machine; empty if it cannot be read.
pub fn table_of(pid: u32) -> String {
    let table = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/net/{name}"));
    ["tcp", "tcp6"].iter().filter_map(|name| table(name).ok()).collect()
}

/// Sockets of a table.
pub fn parse(table: &str) -> impl Iterator<Item = Socket<'_>> {
    table.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (address, port) = words.next()?.rsplit_once(':')?;
        let (remote_address, remote_port) = words.next()?.rsplit_once(':')?;
        Some(Socket { address, port, remote_address, remote_port, state: words.next()? })
    })
}

/// Prefix of an IPv4 address in /proc/net/tcp6.
const MAPPED_IPV4_PREFIX: &str = "0000000000000000FFFF0000";

/// Address in the form of /proc/net/tcp and /proc/net/tcp6: words of four bytes, each in host byte order
/// (little-endian).
fn hex(address: &IpAddr) -> String {
    let bytes = match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let word = |w: &[u8]| w.iter().rev().map(|b| format!("{b:02X}")).collect::<String>();
    bytes.chunks(4).map(word).collect()
}

/// True if an address in that form is one of these. An IPv6 address may end like an IPv4 address, so the whole text is
/// compared.
pub fn is_any(printed: &str, addresses: &[IpAddr]) -> bool {
    addresses.iter().any(|address| {
        let bare = printed.strip_prefix(MAPPED_IPV4_PREFIX).filter(|_| address.is_ipv4()).unwrap_or(printed);
        bare == hex(address)
    })
}

/// Number of remote addresses that are the endpoint's.
pub fn count(remotes: &[String], endpoint: &Endpoint) -> usize {
    remotes.iter().filter(|remote| is_any(remote, &endpoint.addresses)).count()
}

/// Addresses of the endpoints in that form.
pub fn remotes(endpoints: &[Endpoint]) -> Vec<String> {
    endpoints.iter().flat_map(|e| &e.addresses).map(hex).collect()
}

/// Command that prints each connection to these addresses that may carry a request, as ` ADDRESS:PORT STATE `:
/// established, opening, or closed by the instance only. Does nothing without addresses.
pub fn listing(remotes: &[String]) -> String {
    let pattern = format!(" ({MAPPED_IPV4_PREFIX})?({}):[0-9A-F]{{4}} 0[1238] ", remotes.join("|"));
    let listing = format!("grep -hoE '{pattern}' /proc/net/tcp /proc/net/tcp6 2>/dev/null");
    if remotes.is_empty() { ":".into() } else { listing }
}

/// Remote address in a line of [`listing`].
pub fn parse_listed(line: &str) -> Option<String> {
    let (remote, _state) = line.trim().split_once(' ')?;
    let (address, port) = remote.split_once(':')?;
    let is_hex = |t: &str| t.chars().all(|c| c.is_ascii_hexdigit());
    (is_hex(address) && is_hex(port) && address.len() >= 8).then(|| address.to_uppercase())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn an_address_is_compared_as_the_kernel_prints_it() {
        let is_own = |printed: &str, address: &str| is_any(printed, &[address.parse().unwrap()]);
        assert!(is_own("050012AC", "172.18.0.5"));
        assert!(is_own("0000000000000000FFFF0000050012AC", "172.18.0.5"));
        assert!(is_own("000000FD000000000000000005000000", "fd00::5"));
        assert!(!is_own("050012AC", "172.18.0.50") && !is_own("05000000", "fd00::5"));
    }

    #[test]
    fn a_table_has_the_addresses_of_open_connections() {
        let line = |remote: &str, state: &str| format!("  3: 0100007F:1F90 {remote} {state} 00000000:0\n");
        let mapped = "0000000000000000FFFF0000050012AC:0BB8";
        let table = ["050012AC:0BB8", mapped, "000000FD000000000000000005000000:0BB8", "05:0BB8", "é5:0BB8"]
            .map(|remote| line(remote, "01"))
            .concat();
        let remotes =
            |table: &str| connections(table).into_iter().map(|c| c.remote.to_string()).collect::<Vec<_>>();
        assert_eq!(remotes(&table), ["172.18.0.5:3000", "172.18.0.5:3000", "[fd00::5]:3000"]);
        assert_eq!(remotes(&line("050012AC:0BB8", "06")).len(), 0, "a closed connection");
        assert_eq!(connections(&table)[0].local.to_string(), "127.0.0.1:8080");
    }

    #[test]
    fn a_connection_of_this_process_is_in_its_table_while_it_is_open() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let open = || {
            let table = table_of(std::process::id());
            connections(&table).iter().filter(|c| c.remote == to).count()
        };
        assert_eq!(open(), 0);
        let (client, _server) = (TcpStream::connect(to).unwrap(), listener.accept().unwrap());
        assert_eq!(open(), 1);
        assert!(parse(&table_of(std::process::id())).any(|s| s.state == LISTENING));
        drop(client);
        assert_eq!(open(), 0);
    }

    #[test]
    fn a_process_that_does_not_exist_has_an_empty_table() {
        assert_eq!(table_of(u32::MAX), "");
    }
}
