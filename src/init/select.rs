//! Services behind the proxy, and their ports.

use super::facts::{App, ProjectFacts, PublishedPort, TLS_PORTS};
use crate::error::Error;

/// Host port of the proxy by default.
const DEFAULT_PORT: u16 = 8080;

/// Minimum number of server slots, enough for old and new instances.
const MIN_SLOTS: u32 = 8;

/// Options of the command line.
#[derive(Debug, Clone, Default)]
pub struct InitOptions {
    /// Services, each with its container port.
    pub services: Vec<(String, Option<u16>)>,
    /// Address and port on the host.
    pub publish: Option<(String, u16)>,
    pub health_path: Option<String>,
}

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
    /// Two instances cannot share its `container_name`.
    pub had_container_name: bool,
    pub has_healthcheck: bool,
}

/// A host port and its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForward {
    /// Empty for every address of the host.
    pub address: String,
    pub host: u16,
    /// Port of the proxy in its container.
    pub bind: u16,
    /// Port of the service.
    pub target: u16,
    /// Forwarded as TCP, because it may not be HTTP.
    pub is_tcp: bool,
}

/// Candidates for the proxy: web applications that publish a port, else all web applications.
pub fn candidates(facts: &ProjectFacts) -> Vec<&str> {
    let web: Vec<_> = facts.apps.iter().filter(|(_, app)| app.is_web()).collect();
    let is_published = web.iter().any(|(_, app)| !app.published.is_empty());
    let is_candidate = |(_, app): &&(&String, &App)| !is_published || !app.published.is_empty();
    web.iter().filter(is_candidate).map(|(name, _)| name.as_str()).collect()
}

/// Ports and settings of each named service.
///
/// # Errors
/// A service that is unknown, cannot have a proxy or has no known port; two services with the same port.
pub fn proxied_services(facts: &ProjectFacts, options: &InitOptions) -> Result<Vec<ProxiedService>, Error> {
    let mut next_port = options.publish.clone().unwrap_or((String::new(), DEFAULT_PORT));
    let mut proxied: Vec<ProxiedService> = Vec::new();
    for (name, port) in &options.services {
        let app = facts.apps.get(name).ok_or_else(|| unknown_service(facts, name))?;
        let ports = host_ports(name, app, *port, options.publish.as_ref(), &mut next_port)?;
        let routes = ports.into_iter().enumerate().map(|(n, p)| PortForward {
            address: p.address,
            host: p.host,
            bind: 0,
            target: p.target,
            is_tcp: n > 0 || TLS_PORTS.contains(&p.target),
        });
        proxied.push(ProxiedService {
            service: name.clone(),
            routes: routes.collect(),
            slots: MIN_SLOTS.max(2 * app.replicas),
            health_path: options.health_path.clone().or(app.health_path.clone()),
            write_health_path: options.health_path.is_some(),
            had_ports: !app.published.is_empty(),
            had_container_name: app.container_name,
            has_healthcheck: app.has_healthcheck,
        });
    }
    assign_bind_ports(&mut proxied)?;
    Ok(proxied)
}

/// Host ports of a service, the HTTP port first.
fn host_ports(
    name: &str,
    app: &App,
    port: Option<u16>,
    publish: Option<&(String, u16)>,
    next_port: &mut (String, u16),
) -> Result<Vec<PublishedPort>, Error> {
    if let Some(mode) = app.network_mode.as_deref().filter(|m| *m != "bridge") {
        return Err(Error::usage(format!(
            "`{name}` has `network_mode: {mode}`, so a proxy cannot distinguish its instances"
        ))
        .hint(format!("remove `services.{name}.network_mode`")));
    }
    if let Some(port) = app.published.iter().find(|p| !p.tcp) {
        return Err(Error::usage(format!(
            "`{name}` publishes {}/udp, which HAProxy cannot forward, and two instances cannot share",
            port.host
        ))
        .hint("move the UDP port into another service, or name another service with `--service`"));
    }
    let mut ports = app.published.clone();
    let main = port
        .or(ports.iter().map(|p| p.target).find(|t| !TLS_PORTS.contains(t)))
        .or(app.container_ports.first().copied());
    let main = main.ok_or_else(|| {
        Error::usage(format!("neither the file nor the image of `{name}` names its port"))
            .hint(format!("name it, as in `--service {name}:3000`"))
    })?;
    // A stable sort keeps the order of the other ports.
    ports.sort_by_key(|p| p.target != main);
    match ports.first_mut().filter(|p| p.target == main) {
        Some(first) => {
            if let Some((address, host)) = publish {
                (first.address, first.host) = (address.clone(), *host);
            }
        }
        None => {
            ports.insert(
                0,
                PublishedPort { address: next_port.0.clone(), host: next_port.1, target: main, tcp: true },
            );
            next_port.1 = next_port.1.saturating_add(1);
        }
    }
    Ok(ports)
}

/// Assigns an unprivileged port of the proxy container to each host port.
///
/// # Errors
/// Two services with the same host port.
fn assign_bind_ports(proxied: &mut [ProxiedService]) -> Result<(), Error> {
    let mut assigned: Vec<(u16, String, u16)> = Vec::new();
    let mut taken: Vec<(String, u16, String)> = Vec::new();
    for proxied_service in proxied {
        for route in &mut proxied_service.routes {
            let clash = |(address, host, _): &&(String, u16, String)| {
                *host == route.host
                    && (*address == route.address || address.is_empty() || route.address.is_empty())
            };
            if let Some((.., other)) = taken.iter().find(clash) {
                return Err(Error::usage(format!(
                    "`{other}` and `{}` both need the host port {}",
                    proxied_service.service, route.host
                ))
                .hint("set another port with `--publish`, or in the file"));
            }
            taken.push((route.address.clone(), route.host, proxied_service.service.clone()));
            // The same port on two host addresses may share one port of the container.
            let same = assigned
                .iter()
                .find(|(_, service, target)| *service == proxied_service.service && *target == route.target);
            route.bind = match same {
                Some((bind, ..)) => *bind,
                None => free_port(route.host, &assigned),
            };
            assigned.push((route.bind, proxied_service.service.clone(), route.target));
        }
    }
    Ok(())
}

fn free_port(host: u16, assigned: &[(u16, String, u16)]) -> u16 {
    let first = if host < 1024 { host + 8000 } else { host };
    (first..=u16::MAX)
        .chain(1024..first)
        .find(|port| assigned.iter().all(|(bind, ..)| bind != port))
        .unwrap_or(first)
}

fn unknown_service(facts: &ProjectFacts, name: &str) -> Error {
    let names: Vec<String> = facts.apps.keys().map(|n| format!("`{n}`")).collect();
    Error::usage(format!("`--service`: the project has no service `{name}`"))
        .hint(format!("it has {}", names.join(", ")))
}
