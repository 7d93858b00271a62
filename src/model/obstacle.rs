//! Keys of the file that prevent two instances of a service, each with its fix.

use super::Service;

/// A key of the file that prevents two instances from running at the same time.
#[derive(Debug, PartialEq, Eq)]
pub enum Obstacle {
    ContainerName(String),
    FixedPort(String),
    NetworkMode(String),
    /// A key and its value.
    Address(String, String),
}

impl Service {
    /// Obstacles to a second instance.
    pub fn obstacles(&self) -> Vec<Obstacle> {
        let name = self.container_name.iter().cloned().map(Obstacle::ContainerName);
        let ports = self.fixed_ports().into_iter().map(Obstacle::FixedPort);
        let mode = self.network_mode.iter().cloned().map(Obstacle::NetworkMode);
        let own_network = |o: &Obstacle| !matches!(o, Obstacle::NetworkMode(m) if m == "bridge");
        let addresses = self.own_addresses();
        let addresses = addresses.map(|(key, address)| Obstacle::Address(key, address));
        name.chain(ports).chain(mode.filter(own_network)).chain(addresses).collect()
    }
}

impl Obstacle {
    /// Message and hint for a service.
    pub fn explain(&self, service: &str) -> (String, String) {
        match self {
            Obstacle::ContainerName(name) => (
                format!(
                    "`{service}` has `container_name: {name}`, so a new instance cannot start beside the old one"
                ),
                format!(
                    "remove `services.{service}.container_name`; other containers reach it by its service name `{service}`"
                ),
            ),
            Obstacle::FixedPort(port) => (
                format!("`{service}` publishes host port {port}, which only one instance can have"),
                format!(
                    "remove `{port}:…` from `services.{service}.ports` and let the proxy use the container port (`expose`)"
                ),
            ),
            Obstacle::NetworkMode(mode) => (
                format!(
                    "`{service}` has `network_mode: {mode}`, so its instances share one address and cannot be distinguished"
                ),
                format!(
                    "remove `services.{service}.network_mode` and put the service on a network of the proxy"
                ),
            ),
            Obstacle::Address(key, address) => (
                format!("`{service}` has `{key}: {address}`, an address that only one instance can have"),
                format!(
                    "remove `services.{service}.{key}`; other containers reach it by its service name `{service}`"
                ),
            ),
        }
    }
}
