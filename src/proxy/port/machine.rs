//! The machine of the engine: its firewall, if this run may change it.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use super::firewall::Firewall;
use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::process::{run_program, start_of};

/// Programs for the rules of IPv4, the system's own choice first. The engine uses one of them.
const PROGRAMS: [&str; 3] = ["iptables", "iptables-nft", "iptables-legacy"];

/// Folder with these programs, which may be missing in the `PATH`.
const FOLDER: &str = "/usr/sbin";

/// Firewall of the engine's machine; `instances` are running containers of the engine.
///
/// # Errors
/// The reason why this run cannot change the rules of the engine's machine.
pub fn firewall<'c>(
    docker: &Docker,
    mut instances: impl Iterator<Item = &'c Container>,
) -> Result<Firewall, String> {
    if docker.is_remote() {
        return Err("the engine is on another machine".into());
    }
    if !rustix::process::geteuid().is_root() {
        return Err("compose-zd does not run as root".into());
    }
    if !instances.all(is_here) {
        return Err(
            "the containers of the engine are not on this machine (a virtual machine, a rootless engine, or \
                    compose-zd in a container)"
                .into(),
        );
    }
    let programs: Vec<(String, String)> =
        PROGRAMS.iter().filter_map(|name| Some((path(name)?, engine_rules(name)?))).collect();
    // The engine's chain may also be left over in the other kind.
    let in_use = programs.iter().find(|(_, rules)| rules.contains(" -j DNAT ")).or(programs.first());
    let (v4, _) = in_use.ok_or("`iptables` does not list rules of the engine")?;
    let v6 = v4.replace("iptables", "ip6tables");
    let has_v6 = list(&[&v6, "-w", "10", "-t", "nat", "-S"]).is_some();
    Ok(Firewall { v4: v4.clone(), v6: has_v6.then_some(v6) })
}

/// Path of a program of this machine.
fn path(name: &str) -> Option<String> {
    let found = which::which(name).or_else(|_| which::which(Path::new(FOLDER).join(name)));
    found.ok().map(|path| path.to_string_lossy().into_owned())
}

/// Rules of the engine for published ports, if the program has the engine's chain.
fn engine_rules(name: &str) -> Option<String> {
    list(&[&path(name)?, "-w", "10", "-t", "nat", "-S", "DOCKER"])
}

fn list(argv: &[&str]) -> Option<String> {
    run_program(argv, Path::new("/"), &[]).ok().filter(|result| result.ok()).map(|result| result.stdout)
}

/// True if a running container is on this machine: its first process, and the host's side of its networks.
fn is_here(instance: &Container) -> bool {
    let mut gateways = instance.gateways().peekable();
    let has_network = gateways.peek().is_none() || gateways.any(|address| is_own(&address));
    instance.state.pid > 1 && start_of(instance.state.pid).is_some() && has_network
}

/// True if the address belongs to this machine.
fn is_own(address: &IpAddr) -> bool {
    UdpSocket::bind((*address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_own_if_this_machine_has_it() {
        assert!(is_own(&"127.0.0.1".parse().unwrap()));
        assert!(!is_own(&"192.0.2.77".parse().unwrap()));
    }

    #[test]
    fn a_program_is_found_also_outside_the_path() {
        assert!(path("sh").is_some_and(|path| path.ends_with("/sh")));
        assert_eq!(path("no-such-program"), None);
    }
}
