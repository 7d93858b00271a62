//! Places where a proxy runs: a container, a process of the host, or a published port.

use std::fmt::Display;

use super::kit::connections;
use super::{Backend, Endpoint, Namespace, Query};
use crate::docker::Exec;
use crate::docker::inspect::Container;
use crate::error::Error;

/// Place where a proxy runs.
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "only the toy adapter of the contract uses some of them so far")
)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place<'a> {
    Container(&'a ProxyContainer),
    /// Process on this machine, outside containers.
    HostProcess {
        title: &'a str,
        pid: u32,
    },
    /// Published port of a service, which the engine itself forwards.
    Port {
        title: &'a str,
        service: &'a str,
        /// Reason why this run cannot lead the port to another container.
        obstacle: Option<&'a str>,
    },
}

impl<'a> Place<'a> {
    /// Kind and container name, process or service, for messages.
    pub fn name(&self) -> String {
        match self {
            Place::Container(place) => place.name(),
            Place::HostProcess { title, pid } => format!("{title} (process {pid})"),
            Place::Port { title, service, .. } => format!("{title} of `{service}`"),
        }
    }

    pub fn is_port(self) -> bool {
        matches!(self, Place::Port { .. })
    }

    pub fn container(self) -> Option<&'a Container> {
        match self {
            Place::Container(place) => Some(&place.container),
            Place::HostProcess { .. } | Place::Port { .. } => None,
        }
    }
}

/// Container of a proxy. Its networks decide which instances the proxy can reach.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ProxyContainer {
    /// Kind of the proxy, for messages.
    pub title: &'static str,
    pub container: Container,
}

impl ProxyContainer {
    pub fn new(title: &'static str, container: &Container) -> Self {
        ProxyContainer { title, container: container.clone() }
    }

    /// Kind and container name, for messages.
    pub fn name(&self) -> String {
        format!("{} `{}`", self.title, self.container.name())
    }

    /// Script in the container.
    pub fn sh(&self, script: impl Into<String>) -> Exec {
        Exec::sh(&self.container.id, script)
    }

    /// Query for the open connections to endpoints.
    pub fn connections_to(&self, endpoints: &[Endpoint]) -> Query {
        let Container { id, state, .. } = &self.container;
        let of = Namespace::Container { id: id.clone(), pid: state.pid };
        Query::Sockets { of, to: endpoints.iter().flat_map(|e| connections::remotes(e, &[0])).collect() }
    }

    /// Error about the proxy, before anything was changed.
    pub fn refused(&self, why: impl Display, hint: impl Into<String>) -> Error {
        Error::unchanged(format!("{}: {why}", self.name())).hint(hint)
    }

    /// True if the container shares a network with a backend.
    pub fn reaches(&self, backend: &Backend) -> bool {
        backend.networks.iter().any(|n| self.container.networks().any(|own| own == n))
    }

    /// Like [`ProxyContainer::reaches`]; a container on the host's own network reaches all.
    pub fn reaches_via_host(&self, backend: &Backend) -> bool {
        let is_on_host = self.container.networks().any(|own| own == "host");
        self.reaches(backend) || (is_on_host && !backend.networks.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_outside_containers_has_a_name_and_no_container() {
        let process = Place::HostProcess { title: "nginx", pid: 7 };
        let port = Place::Port { title: "port", service: "app", obstacle: None };
        assert_eq!([process.name(), port.name()], ["nginx (process 7)", "port of `app`"]);
        assert!(process.container().is_none() && port.container().is_none());
    }
}
