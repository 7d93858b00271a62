//! What a proxy that hands its listening socket over at a reload loses: connections that the retired process had not
//! accepted yet are reset, unless the kernel gives them to the next one (`net.ipv4.tcp_migrate_req`, Linux 5.14).
//! Lost of about 20 reloads under full load without it and with it: HAProxy 1.7 11 and 0, Caddy 2.6 25 and 0; Caddy 2.11
//! 43 and 35, whose listeners speak MPTCP, which the kernel does not do this for.

use super::Patch;
use crate::docker::inspect::Container;
use crate::docker::{CommandResult, Exec};

const SETTING: &str = "/proc/sys/net/ipv4/tcp_migrate_req";

/// Asks whether the kernel keeps such connections in this container's network.
pub fn question(container: &Container) -> Exec {
    Exec::sh(&container.id, format!("cat {SETTING} 2>/dev/null; true"))
}

/// Makes the kernel keep them, from the answer to `question`; nothing where it does so already, cannot, or where the
/// network is the host's own.
pub fn preparation(container: &Container, name: &str, answer: &CommandResult) -> Option<Patch> {
    let off = answer.stdout.trim() == "0";
    let own_network = container.networks().all(|n| n != "host");
    (off && own_network).then(|| Patch {
        exec: Exec::sidecar(&container.id, &container.image_id, format!("echo 1 > {SETTING}")),
        note: format!("{name}: set `net.ipv4.tcp_migrate_req` in its network, so that a reload cuts fewer new connections"),
        required: false,
        without: format!(
            "{name}: `net.ipv4.tcp_migrate_req` cannot be set in its network on this engine, so that a reload may cut \
             connections that it has not accepted yet"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepares(network: &str, said: &str) -> bool {
        let json = format!(
            r#"{{"Id": "lb", "Image": "sha256:i", "NetworkSettings": {{"Networks": {{"{network}": {{}}}}}}}}"#
        );
        let container: Container = serde_json::from_str(&json).unwrap();
        let answer = CommandResult { code: Some(0), stdout: said.into(), stderr: String::new() };
        preparation(&container, "p", &answer).is_some()
    }

    #[test]
    fn it_is_set_where_it_is_off_and_the_network_is_the_proxys_own() {
        assert!(prepares("front", "0\n"));
        assert!(!prepares("front", "1\n") && !prepares("front", "") && !prepares("host", "0\n"));
    }
}
