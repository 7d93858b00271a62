//! Connections to instances, from the socket tables of the kernel.

use std::net::IpAddr;

use crate::proxy::Endpoint;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_compared_as_the_kernel_prints_it() {
        let is_own = |printed: &str, address: &str| is_any(printed, &[address.parse().unwrap()]);
        assert!(is_own("050012AC", "172.18.0.5"));
        assert!(is_own("0000000000000000FFFF0000050012AC", "172.18.0.5"));
        assert!(is_own("000000FD000000000000000005000000", "fd00::5"));
        assert!(!is_own("050012AC", "172.18.0.50") && !is_own("05000000", "fd00::5"));
    }
}
