//! Which services get a proxy, and at which ports.

use super::facts::{App, ProjectFacts, PublishedPort, TLS_PORTS};
use crate::error::Error;

/// Where the proxy answers when nothing says so.
const PORT: u16 = 8080;

/// Places for instances in the proxy, so that each may have a successor beside it.
const PLACES: u32 = 8;

/// What was asked for on the command line.
#[derive(Debug, Clone, Default)]
pub struct InitOptions {
    /// Services, each with the port that it listens on.
    pub services: Vec<(String, Option<u16>)>,
    /// Address and port of the host.
    pub publish: Option<(String, u16)>,
    pub health_path: Option<String>,
}

/// A service that gets a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxiedService {
    pub service: String,
    pub routes: Vec<PortForward>,
    /// Twice the instances, or more.
    pub places: u32,
    pub health_path: Option<String>,
    /// `health_path` was asked for, and the file does not say it yet.
    pub tell_health: bool,
    /// Its host ports go over to the proxy.
    pub had_ports: bool,
    /// It has a `container_name`, which two instances cannot share.
    pub had_name: bool,
    pub has_healthcheck: bool,
}

/// A port of the host, and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForward {
    /// Empty for every address of the host.
    pub address: String,
    pub host: u16,
    /// Where the proxy listens in its container.
    pub bind: u16,
    /// Where the service listens.
    pub target: u16,
    /// Passed on as it comes, because it may not be HTTP.
    pub plain: bool,
}

/// The services among which to choose: those that look like web applications and publish a port, else all that look
/// like one.
pub fn candidates(facts: &ProjectFacts) -> Vec<&str> {
    let web: Vec<_> = facts.apps.iter().filter(|(_, app)| app.is_web()).collect();
    let public = web.iter().any(|(_, app)| !app.published.is_empty());
    let one = |(_, app): &&(&String, &App)| !public || !app.published.is_empty();
    web.iter().filter(one).map(|(name, _)| name.as_str()).collect()
}

/// What the proxy does for each service that was named.
///
/// # Errors
/// A service that is not there, that cannot have a proxy, or whose port nobody knows; two that want one port.
pub fn proxied_services(facts: &ProjectFacts, options: &InitOptions) -> Result<Vec<ProxiedService>, Error> {
    let mut next = options.publish.clone().unwrap_or((String::new(), PORT));
    let mut fronts: Vec<ProxiedService> = Vec::new();
    for (name, port) in &options.services {
        let app = facts.apps.get(name).ok_or_else(|| unknown(facts, name))?;
        let ports = published(name, app, *port, options.publish.as_ref(), &mut next)?;
        let routes = ports.into_iter().enumerate().map(|(n, p)| PortForward {
            address: p.address,
            host: p.host,
            bind: 0,
            target: p.target,
            plain: n > 0 || TLS_PORTS.contains(&p.target),
        });
        fronts.push(ProxiedService {
            service: name.clone(),
            routes: routes.collect(),
            places: PLACES.max(2 * app.replicas),
            health_path: options.health_path.clone().or(app.health_path.clone()),
            tell_health: options.health_path.is_some(),
            had_ports: !app.published.is_empty(),
            had_name: app.container_name,
            has_healthcheck: app.has_healthcheck,
        });
    }
    bind(&mut fronts)?;
    Ok(fronts)
}

/// The ports of the host that lead to a service, the one for HTTP first.
fn published(
    name: &str,
    app: &App,
    port: Option<u16>,
    publish: Option<&(String, u16)>,
    next: &mut (String, u16),
) -> Result<Vec<PublishedPort>, Error> {
    if let Some(mode) = app.network_mode.as_deref().filter(|m| *m != "bridge") {
        return Err(Error::usage(format!(
            "`{name}` has `network_mode: {mode}`, so no proxy can tell its instances apart"
        ))
        .hint(format!("remove `services.{name}.network_mode`")));
    }
    if let Some(port) = app.published.iter().find(|p| !p.tcp) {
        return Err(Error::usage(format!(
            "`{name}` publishes {}/udp, which HAProxy cannot pass on, and two instances cannot share",
            port.host
        ))
        .hint("move what needs UDP into a service of its own, or name another with `--service`"));
    }
    let mut ports = app.published.clone();
    let main = port
        .or(ports.iter().map(|p| p.target).find(|t| !TLS_PORTS.contains(t)))
        .or(app.listens.first().copied());
    let main = main.ok_or_else(|| {
        Error::usage(format!("neither the file nor the image of `{name}` says which port it listens on"))
            .hint(format!("name it, as in `--service {name}:3000`"))
    })?;
    // A stable sort: the others keep their order.
    ports.sort_by_key(|p| p.target != main);
    match ports.first_mut().filter(|p| p.target == main) {
        Some(first) => {
            if let Some((address, host)) = publish {
                (first.address, first.host) = (address.clone(), *host);
            }
        }
        None => {
            ports.insert(0, PublishedPort { address: next.0.clone(), host: next.1, target: main, tcp: true });
            next.1 = next.1.saturating_add(1);
        }
    }
    Ok(ports)
}

/// Gives each port of the host one in the proxy's container, which not only root may listen on.
///
/// # Errors
/// Two services that want the same port of the host.
fn bind(fronts: &mut [ProxiedService]) -> Result<(), Error> {
    let mut given: Vec<(u16, String, u16)> = Vec::new();
    let mut taken: Vec<(String, u16, String)> = Vec::new();
    for front in fronts {
        for route in &mut front.routes {
            let clash = |(address, host, _): &&(String, u16, String)| {
                *host == route.host
                    && (*address == route.address || address.is_empty() || route.address.is_empty())
            };
            if let Some((.., other)) = taken.iter().find(clash) {
                return Err(Error::usage(format!(
                    "`{other}` and `{}` want port {} of the host",
                    front.service, route.host
                ))
                .hint("say which gets another port with `--publish`, or give them ports in the file"));
            }
            taken.push((route.address.clone(), route.host, front.service.clone()));
            // The same port at two addresses of the host may be one in the container.
            let same = given
                .iter()
                .find(|(_, service, target)| *service == front.service && *target == route.target);
            route.bind = match same {
                Some((bind, ..)) => *bind,
                None => free(route.host, &given),
            };
            given.push((route.bind, front.service.clone(), route.target));
        }
    }
    Ok(())
}

fn free(host: u16, given: &[(u16, String, u16)]) -> u16 {
    let first = if host < 1024 { host + 8000 } else { host };
    (first..=u16::MAX)
        .chain(1024..first)
        .find(|port| given.iter().all(|(bind, ..)| bind != port))
        .unwrap_or(first)
}

fn unknown(facts: &ProjectFacts, name: &str) -> Error {
    let names: Vec<String> = facts.apps.keys().map(|n| format!("`{n}`")).collect();
    Error::usage(format!("`--service`: the project has no service `{name}`"))
        .hint(format!("it has {}", names.join(", ")))
}
