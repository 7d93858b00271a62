//! Open connections to the instances of a target, by the kernel's own table, and their clients.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Surroundings, proxies};
use crate::docker::inspect::Container;
use crate::finding::Finding;
use crate::model::Service;
use crate::proxy::kit::sockets::{self, ESTABLISHED, LISTENING};

/// Notes about containers with connections to an instance that bypass every proxy. A stop of the instance cuts
/// these off.
pub fn findings(around: &Surroundings) -> Vec<Finding> {
    let has_adapter = |c: &Container| around.proxies.iter().any(|p| p.is_in(c));
    let is_proxy = |c: &Container| has_adapter(c) || proxies::is_candidate(c, around.proxies);
    let clients = around.others().filter(|c| !is_proxy(c));
    let connected_instance = |client: &Container| around.members().find(|c| is_open(around, c, client));
    let note = |client: &Container| {
        let (name, instance) = (client.name(), connected_instance(client)?.name());
        let message = format!(
            "`{name}` has open connections to {instance} without a proxy, which end when the instance stops"
        );
        let hint = format!("make sure that `{name}` retries, or give it the proxy's address");
        Some(Finding::note("direct-connection", message, hint))
    };
    clients.filter_map(note).collect()
}

/// Name of an instance of a service with an open connection from another container.
pub fn instance_of(around: &Surroundings, service: &Service, client: &Container) -> Option<String> {
    let its = |c: &&Container| c.compose().is_some_and(|(_, name)| name == service.name);
    around.members().filter(its).find(|c| is_open(around, c, client)).map(|c| c.name().to_string())
}

/// True if an instance of a service may take requests: it listens at an address that others reach, as far as known.
pub fn may_listen(around: &Surroundings, service: &Service) -> bool {
    let is_elsewhere = around.reader.docker.is_remote();
    around.instances(&service.name).any(|c| is_elsewhere || may_be_reached(&table_of(c)))
}

fn may_be_reached(table: &str) -> bool {
    let is_loopback =
        |address: &str| address.ends_with("7F") || address == "00000000000000000000000001000000";
    table.is_empty() || sockets::parse(table).any(|s| s.state == LISTENING && !is_loopback(s.address))
}

fn is_open(around: &Surroundings, instance: &Container, client: &Container) -> bool {
    let addresses: Vec<IpAddr> = client.addresses_with_bridge().map(|(_, address)| address).collect();
    if addresses.is_empty() || around.reader.docker.is_remote() {
        return false;
    }
    let clients = clients_of(&table_of(instance));
    clients.iter().any(|client| sockets::is_any(client, &addresses))
}

/// Socket table of a container on this machine, by the kernel.
fn table_of(instance: &Container) -> String {
    let runs_here = instance.state.pid > 1;
    if runs_here { sockets::table_of(instance.state.pid) } else { String::new() }
}

/// Addresses of the clients of listening ports, as the kernel writes them.
fn clients_of(table: &str) -> BTreeSet<String> {
    let in_state = |state| sockets::parse(table).filter(move |socket| socket.state == state);
    let listens: BTreeSet<&str> = in_state(LISTENING).map(|socket| socket.port).collect();
    let open = in_state(ESTABLISHED).filter(|socket| listens.contains(socket.port));
    open.map(|socket| socket.remote_address.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_a_connection_to_a_listening_port() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue
   0: 00000000:0BB8 00000000:0000 0A 00000000:00000000
   1: 020013AC:0BB8 040013AC:D2F0 01 00000000:00000000
   2: 020013AC:0BB8 050013AC:D2F0 06 00000000:00000000
   3: 020013AC:C350 060013AC:1538 01 00000000:00000000
";
        assert_eq!(clients_of(table).into_iter().collect::<Vec<_>>(), ["040013AC"]);
        assert_eq!(clients_of("").len(), 0);
    }

    #[test]
    fn an_instance_that_listens_on_loopback_only_takes_no_requests() {
        let listens =
            |address: &str| may_be_reached(&format!("sl local\n 0: {address}:0BB8 00000000:0000 0A 0\n"));
        assert!(listens("00000000") && listens("020013AC") && listens("00000000000000000000000000000000"));
        assert!(!listens("0100007F") && !listens("0B00007F") && !listens("00000000000000000000000001000000"));
        assert!(!may_be_reached("sl local\n 0: 020013AC:C350 060013AC:1538 01 0\n"));
        // An unreadable table excludes nothing.
        assert!(may_be_reached(""));
    }
}
