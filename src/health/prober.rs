//! Runs readiness probes from this machine, in the instance, or in the proxy in front of the instance.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use anyhow::Result;
use reqwest::blocking::Client;

use super::probe::{HttpProbe, ProbeResult, ReadinessProbe};
use super::{exec_probe, shortened};
use crate::docker::inspect::{Container, Healthcheck};
use crate::docker::{Docker, Exec};
use crate::{http, mask};

/// Limit for opening a connection. On a bridge of this machine it opens at once, unless the address is unreachable.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Limit in bytes of a response that is read and searched for `x-zd.health.body`.
pub(super) const BODY_LIMIT: u64 = 64 << 10;

/// Extra time for `docker exec` to start and to end. Over ssh, each `docker exec` opens a connection.
const EXEC_SLACK: Duration = Duration::from_secs(30);

/// Reasons why no origin can probe an instance, one per origin. Waiting does not help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoProbeTool(pub(super) Vec<String>);

/// Place that an HTTP probe starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeOrigin {
    /// This machine.
    Host,
    /// The instance itself.
    Instance,
    /// The proxy in front of the instance.
    Proxy,
}

/// Runs probes of instances.
pub struct Prober<'a> {
    pub(super) docker: &'a Docker,
    client: Client,
    timeout: Duration,
    /// Origin that worked last.
    last_origin: Mutex<Option<ProbeOrigin>>,
    /// True if the engine is on another machine.
    remote_engine: OnceLock<bool>,
}

impl<'a> Prober<'a> {
    pub fn new(docker: &'a Docker, timeout: Duration) -> Result<Self> {
        // No certificate is valid for the address of an instance, which is the host of the URL.
        let client = http::client(timeout, false).connect_timeout(timeout.min(CONNECT_LIMIT)).build()?;
        Ok(Prober { docker, client, timeout, last_origin: Mutex::default(), remote_engine: OnceLock::new() })
    }

    /// # Errors
    /// Nothing can probe the instance.
    pub fn probe(&self, probe: &ReadinessProbe, container: &Container) -> Result<ProbeResult, NoProbeTool> {
        match probe {
            ReadinessProbe::Healthcheck(argv) => Ok(self.run_command(argv, container)),
            ReadinessProbe::Http(http) => self.http(http, container),
            ReadinessProbe::Connect(port) => self.connect(*port, container),
            ReadinessProbe::Either(http, other) => {
                let result = self.http(http, container)?;
                if result.is_of_known_check() {
                    return Ok(result);
                }
                let other = self.probe(other, container)?;
                Ok(if other.ready { other } else { result })
            }
            ReadinessProbe::Running => Ok(ProbeResult {
                ready: container.is_running(),
                code: None,
                text: format!("it is {}", container.state.status),
            }),
        }
    }

    fn run_command(&self, argv: &[String], container: &Container) -> ProbeResult {
        if argv.is_empty() {
            return ProbeResult { ready: true, code: None, text: "left to Docker".into() };
        }
        let limit = container.config.healthcheck.as_ref().map_or(self.timeout, Healthcheck::limit);
        let (code, text) =
            match self.docker.exec_within(&Exec::user_command(&container.id, argv.to_vec()), limit) {
                Ok(Some(result)) => match (result.code, last_line(result.stderr_or_stdout())) {
                    (Some(0), _) => (Some(0), "→ 0".into()),
                    (Some(code), output) => (Some(code), format!("→ {code} {output}")),
                    (None, output) => (None, format!("was killed {output}")),
                },
                Ok(None) => (None, format!("→ no answer within {}", humantime::format_duration(limit))),
                Err(error) => (None, format!("→ {error}")),
            };
        ProbeResult { ready: code == Some(0), code, text: format!("healthcheck {text}") }
    }

    /// Connects from this machine only, because few images have a tool that opens a connection.
    fn connect(&self, port: u16, container: &Container) -> Result<ProbeResult, NoProbeTool> {
        let Some((bridge, address)) = container.addresses_with_bridge().next() else {
            return Ok(ProbeResult::not_ready("it has no address yet".into()));
        };
        if !is_local_bridge(bridge.as_deref()) || self.is_remote() {
            return Err(NoProbeTool(vec!["its address is on a network of another machine".into()]));
        }
        let target = SocketAddr::new(address, port);
        let text = |outcome: &str| format!("connect to {target} → {outcome}");
        Ok(match TcpStream::connect_timeout(&target, self.timeout.min(CONNECT_LIMIT)) {
            Ok(_) => ProbeResult { ready: true, code: None, text: text("connected") },
            Err(error) => ProbeResult::not_ready(text(&error.to_string())),
        })
    }

    /// Probes the address of the instance: from this machine first if the instance's network is on it, else from a
    /// container first. If the engine is elsewhere (Docker Desktop, a remote engine), the same address may belong to
    /// another host here.
    fn http(&self, http: &HttpProbe, container: &Container) -> Result<ProbeResult, NoProbeTool> {
        let addresses: Vec<_> = container.addresses_with_bridge().collect();
        let local = addresses.iter().find(|(bridge, _)| is_local_bridge(bridge.as_deref()));
        let Some(&(_, address)) = local.or(addresses.first()) else {
            return Ok(ProbeResult::not_ready("it has no address yet".into()));
        };
        let is_local = local.is_some();
        let last_origin = *self.last_origin.lock().expect("no thread panicked");
        let mut reasons = Vec::new();
        for origin in origins(is_local, last_origin) {
            let result = match origin {
                ProbeOrigin::Host if !is_local && self.is_remote() => {
                    Err("its address is on a network of another machine".into())
                }
                ProbeOrigin::Host => self.probe_directly(http, address),
                ProbeOrigin::Instance => self.probe_in_container(container, http, address, "inside it"),
                ProbeOrigin::Proxy => self.probe_in_proxy(http, container),
            };
            match result {
                Ok(answer) => {
                    *self.last_origin.lock().expect("no thread panicked") = Some(origin);
                    return Ok(answer);
                }
                Err(reason) => reasons.push(reason),
            }
        }
        match is_local {
            // On a network of this machine, the instance may become reachable.
            true => Ok(ProbeResult::not_ready(reasons.swap_remove(0))),
            false => Err(NoProbeTool(reasons)),
        }
    }

    fn is_remote(&self) -> bool {
        *self.remote_engine.get_or_init(|| self.docker.engine_address().is_remote())
    }

    /// # Errors
    /// This machine cannot reach the address.
    fn probe_directly(&self, http: &HttpProbe, address: IpAddr) -> Result<ProbeResult, String> {
        let url = http.url(&bracketed(address));
        // The limit is set on the request, because a limit on the client restarts with every chunk of a body.
        let mut request = self.client.get(&url).timeout(self.timeout).header("user-agent", "compose-zd");
        if let Some(host) = &http.health.host {
            request = request.header("host", host);
        }
        match request.send() {
            Ok(response) => {
                let code = response.status().as_u16();
                let mut body = Vec::new();
                // A body that breaks off or exceeds the limit is evaluated as far as it was read.
                let _ = response.take(BODY_LIMIT).read_to_end(&mut body);
                Ok(http.evaluate(&url, code, &String::from_utf8_lossy(&body)))
            }
            Err(error) => {
                let text = format!("GET {} → {}", mask::urls(&url), http::reason(&error));
                if is_unreachable(&error) { Err(text) } else { Ok(ProbeResult::not_ready(text)) }
            }
        }
    }

    /// # Errors
    /// No proxy, or the proxy has no tool for a probe.
    fn probe_in_proxy(&self, http: &HttpProbe, container: &Container) -> Result<ProbeResult, String> {
        let Some(proxy) = &http.proxy else {
            return Err("no proxy is in front of it".into());
        };
        let Some(address) = container.addresses_reached_from(proxy).into_iter().next() else {
            return Err(format!("{} shares no network with it", proxy.name()));
        };
        self.probe_in_container(proxy, http, address, &format!("in {}", proxy.name()))
    }

    /// # Errors
    /// The container has no tool for a probe.
    fn probe_in_container(
        &self,
        container: &Container,
        http: &HttpProbe,
        address: IpAddr,
        location: &str,
    ) -> Result<ProbeResult, String> {
        let authority = bracketed(address);
        let url = http.url(&authority);
        let shown = mask::urls(&format!("{url} {location}"));
        let request = exec_probe::ExecRequest {
            url: &url,
            host: http.health.host.as_deref().unwrap_or(&authority),
            address: &address.to_string(),
            port: http.port,
            path: &http.health.path,
            timeout: self.timeout,
            bytes: BODY_LIMIT,
        };
        let limit = self.timeout + self.docker.scaled(EXEC_SLACK);
        match self.docker.exec_within(&exec_probe::probe_command(&container.id, &request), limit) {
            Ok(None) => Ok(ProbeResult::not_ready(format!("GET {shown} → no answer in time"))),
            Ok(Some(result)) if exec_probe::has_no_tool(&result) => {
                Err(format!("{} {location}", exec_probe::missing_tool(&result)))
            }
            Ok(Some(result)) => Ok(match exec_probe::parse_response(&result.stdout) {
                Some((code, body)) => http.evaluate(&shown, code, body),
                None => {
                    ProbeResult::not_ready(format!("GET {shown} → {}", last_line(result.stderr_or_stdout())))
                }
            }),
            Err(error) => Ok(ProbeResult::not_ready(format!("GET {shown} → {error}"))),
        }
    }
}

/// Origins to try, in order; the one that worked last is first.
pub(super) fn origins(is_local: bool, last_origin: Option<ProbeOrigin>) -> Vec<ProbeOrigin> {
    let mut origins = if is_local {
        vec![ProbeOrigin::Host, ProbeOrigin::Instance, ProbeOrigin::Proxy]
    } else {
        vec![ProbeOrigin::Instance, ProbeOrigin::Proxy, ProbeOrigin::Host]
    };
    origins.sort_by_key(|origin| Some(*origin) != last_origin);
    origins
}

/// True if a bridge is on this machine. The bridge's name comes from the network's id, which is unique; addresses
/// are not, because every engine assigns the same ones.
pub(super) fn is_local_bridge(bridge: Option<&str>) -> bool {
    bridge.is_none_or(|name| Path::new("/sys/class/net").join(name).exists())
}

fn last_line(text: &str) -> String {
    shortened(text.lines().last().unwrap_or("").trim())
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// True if no connection reached the instance. A refused connection did reach it.
fn is_unreachable(error: &reqwest::Error) -> bool {
    let refused = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
    };
    error.is_connect() && !http::causes(error).any(refused)
}

#[cfg(test)]
#[path = "adversarial_tests.rs"]
mod adversarial_tests;
