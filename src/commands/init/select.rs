//! Services behind the proxy, and their ports.

use super::InitArgs;
use super::facts::{self, PortForward, ProjectFacts, TLS_PORTS};
use crate::error::Error;
use crate::model::Service;

/// Host port of the proxy by default.
const DEFAULT_PORT: u16 = 8080;

/// Minimum number of server slots, enough for old and new instances.
const MIN_SLOTS: u32 = 8;

/// A service behind the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxiedService {
    pub service: String,
    pub routes: Vec<PortForward>,
    /// Server slots: at least twice the instances.
    pub slots: u32,
    pub health_path: Option<String>,
    /// `health_path` is from a flag, so that the added file has to contain it.
    pub write_health_path: bool,
    /// The proxy takes over its host ports.
    pub had_ports: bool,
    pub has_healthcheck: bool,
}

/// Ports and settings of each service in the arguments.
///
/// # Errors
/// A service that is unknown, cannot have a proxy or has no known port; two services with the same port.
pub fn proxied_services(facts: &ProjectFacts, args: &InitArgs) -> Result<Vec<ProxiedService>, Error> {
    let mut next_port = args.publish.clone().unwrap_or((String::new(), DEFAULT_PORT));
    let mut proxied: Vec<ProxiedService> = Vec::new();
    for (name, port) in &args.service {
        let service = facts.project.services.get(name).ok_or_else(|| unknown_service(facts, name))?;
        require_ports_for_proxy(service)?;
        let target = main_port(facts, service, *port)?;
        let mut routes = facts::host_ports(service);
        let had_ports = !routes.is_empty();
        // A stable sort keeps the order of the other ports.
        routes.sort_by_key(|route| route.target != target);
        match (routes.first_mut().filter(|route| route.target == target), &args.publish) {
            (Some(first), Some(publish)) => (first.address, first.host) = publish.clone(),
            (Some(_), None) => (),
            (None, _) => {
                let (address, host) = next_port.clone();
                routes.insert(0, PortForward { address, host, bind: 0, target, is_tcp: false });
                next_port.1 = host.saturating_add(1);
            }
        }
        routes[0].is_tcp = TLS_PORTS.contains(&target);
        proxied.push(ProxiedService {
            service: name.clone(),
            routes,
            slots: MIN_SLOTS.max(2 * service.replicas().unwrap_or(1)),
            health_path: args.health_path.clone().or(facts::health_path(service)),
            write_health_path: args.health_path.is_some(),
            had_ports,
            has_healthcheck: facts::has_healthcheck(service),
        });
    }
    assign_bind_ports(&mut proxied)?;
    Ok(proxied)
}

/// # Errors
/// A network or port that a proxy cannot be in front of.
fn require_ports_for_proxy(service: &Service) -> Result<(), Error> {
    let name = &service.name;
    if let Some(mode) = service.network_mode.as_deref().filter(|m| *m != "bridge") {
        return Err(Error::usage(format!(
            "`{name}` has `network_mode: {mode}`, so a proxy cannot distinguish its instances"
        ))
        .hint(format!("remove `services.{name}.network_mode`")));
    }
    let mut udp = service.ports.iter().filter(|port| port.protocol() != "tcp").filter_map(facts::host_port);
    match udp.next() {
        Some(port) => Err(Error::usage(format!(
            "`{name}` publishes {port}/udp, which HAProxy cannot forward, and two instances cannot share"
        ))
        .hint("move the UDP port into another service, or name another service with `--service`")),
        None => Ok(()),
    }
}

/// The HTTP port of a service: as given, else a published port without TLS, else the first port.
fn main_port(facts: &ProjectFacts, service: &Service, given: Option<u16>) -> Result<u16, Error> {
    let published = facts::host_ports(service).into_iter().map(|route| route.target);
    let main = given
        .or(published.into_iter().find(|target| !TLS_PORTS.contains(target)))
        .or(facts.container_ports(service).first().copied());
    main.ok_or_else(|| {
        let name = &service.name;
        Error::usage(format!("neither the file nor the image of `{name}` names its port"))
            .hint(format!("name it, as in `--service {name}:3000`"))
    })
}

/// Assigns an unprivileged port of the proxy container to each host port.
///
/// # Errors
/// Two services with the same host port.
fn assign_bind_ports(proxied: &mut [ProxiedService]) -> Result<(), Error> {
    let mut assigned: Vec<(String, PortForward)> = Vec::new();
    for ProxiedService { service, routes, .. } in proxied {
        for route in routes {
            let is_same_address = |other: &PortForward| {
                [&route.address, ""].contains(&&*other.address) || route.address.is_empty()
            };
            let clash = assigned.iter().find(|(_, other)| other.host == route.host && is_same_address(other));
            if let Some((other, _)) = clash {
                return Err(Error::usage(format!(
                    "`{other}` and `{service}` both need the host port {}",
                    route.host
                ))
                .hint("set another port with `--publish`, or in the file"));
            }
            // The same port on two host addresses may share one port of the container.
            let same = assigned.iter().find(|(other, r)| other == service && r.target == route.target);
            route.bind = same.map_or_else(|| free_port(route.host, &assigned), |(_, other)| other.bind);
            assigned.push((service.clone(), route.clone()));
        }
    }
    Ok(())
}

fn free_port(host: u16, assigned: &[(String, PortForward)]) -> u16 {
    let first = if host < 1024 { host + 8000 } else { host };
    let is_free = |port: &u16| assigned.iter().all(|(_, other)| other.bind != *port);
    (first..=u16::MAX).chain(1024..first).find(is_free).unwrap_or(first)
}

fn unknown_service(facts: &ProjectFacts, name: &str) -> Error {
    let names: Vec<String> = facts.project.services.keys().map(|n| format!("`{n}`")).collect();
    Error::usage(format!("`--service`: the project has no service `{name}`"))
        .hint(format!("it has {}", names.join(", ")))
}
