//! Kernel setting `net.ipv4.tcp_migrate_req` (Linux 5.14), which saves connections at a reload of a proxy. A reload
//! starts a new process that listens on the same port. By default the kernel resets the connections that the retired
//! process has not accepted yet. With the setting, the kernel gives them to the new process.
//!
//! Lost connections of about 20 reloads under full load, without and with the setting:
//!
//! | Proxy | without | with |
//! |---|---|---|
//! | HAProxy 1.7 | 11 | 0 |
//! | Caddy 2.6 | 25 | 0 |
//! | Caddy 2.11 | 43 | 35 |
//!
//! Caddy 2.11 listens with MPTCP, for which the kernel does not migrate connections.

use super::{Change, ProxyContainer};
use crate::docker::{CommandResult, Exec};

const SETTING: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

/// Command that reads the setting in the container's network namespace.
pub fn query(place: &ProxyContainer) -> Exec {
    place.sh(format!("cat {SETTING} 2>/dev/null; true"))
}

/// Change that turns the setting on. `None` if the setting is on already or does not exist, or if the container uses
/// the network of the host.
pub fn patch(place: &ProxyContainer, output: &CommandResult) -> Option<Change> {
    let (container, name) = (&place.container, place.name());
    let is_off = output.stdout.trim() == "0";
    let own_network = container.networks().all(|n| n != "host");
    (is_off && own_network).then(|| Change {
        note: format!("{name}: set `net.ipv4.tcp_migrate_req` in its network, so that a reload resets fewer new connections"),
        required: false,
        failure_note: format!(
            "{name}: `net.ipv4.tcp_migrate_req` cannot be set in its network on this engine, so a reload may reset \
             connections that the proxy has not accepted yet"
        ),
        ..Exec::sidecar(&container.id, &container.image_id, format!("echo 1 > {SETTING}")).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patches(network: &str, setting: &str) -> bool {
        let json = format!(
            r#"{{"Id": "lb", "Image": "sha256:i", "NetworkSettings": {{"Networks": {{"{network}": {{}}}}}}}}"#
        );
        let container: crate::docker::inspect::Container = serde_json::from_str(&json).unwrap();
        let output = CommandResult { code: Some(0), stdout: setting.into(), stderr: String::new() };
        patch(&ProxyContainer::new("p", &container), &output).is_some()
    }

    #[test]
    fn the_setting_is_turned_on_only_in_the_proxys_own_network() {
        assert!(patches("front", "0\n"));
        assert!(!patches("front", "1\n") && !patches("front", "") && !patches("host", "0\n"));
    }
}
