//! Asks instances: from here, from inside, or from the proxy in front of them.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use anyhow::Result;
use reqwest::blocking::Client;

use super::probe::{HttpProbe, ReadinessProbe};
use super::{exec_probe, shortened};
use crate::docker::inspect::{Container, Healthcheck};
use crate::docker::{Docker, Exec};
use crate::mask;

/// A connection on a bridge of this machine opens at once, or there is no way to it.
const CONNECT: Duration = Duration::from_secs(1);

/// How much of an answer is searched for `x-zd.health.body`, in bytes; no more of it is read.
pub(super) const BODY_LIMIT: u64 = 64 << 10;

/// How much longer than its answer `docker exec` may take to start and to end; by ssh it is a connection of its own.
const EXEC_SLACK: Duration = Duration::from_secs(30);

/// One answer to a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    pub ready: bool,
    /// For people: what was asked and what came back.
    pub text: String,
}

/// Nobody can ask an instance, and waiting does not help; with what each way to it lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoProbeTool(pub(super) Vec<String>);

/// From where an instance is asked over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProbeOrigin {
    /// From this machine.
    Here,
    /// In the instance itself.
    Inside,
    /// In the proxy in front of it.
    Proxy,
}

/// Asks instances.
pub struct Prober<'a> {
    pub(super) docker: &'a Docker,
    client: Client,
    timeout: Duration,
    /// How one was asked last.
    known: Mutex<Option<ProbeOrigin>>,
    /// The engine is on another machine.
    elsewhere: OnceLock<bool>,
}

impl<'a> Prober<'a> {
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(docker: &'a Docker, timeout: Duration) -> Result<Self> {
        let builder = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(timeout)
            .connect_timeout(timeout.min(CONNECT))
            .pool_max_idle_per_host(0);
        #[cfg(feature = "tls")]
        crate::tls::choose_provider();
        // It is asked by its address, which no certificate names.
        #[cfg(feature = "tls")]
        let builder = builder.tls_danger_accept_invalid_certs(true);
        let (known, elsewhere) = Default::default();
        Ok(Prober { docker, client: builder.build()?, timeout, known, elsewhere })
    }

    /// # Errors
    /// An instance that nobody can ask.
    pub fn probe(&self, probe: &ReadinessProbe, container: &Container) -> Result<ProbeResult, NoProbeTool> {
        match probe {
            ReadinessProbe::Check(argv) => Ok(self.run_command(argv, container)),
            ReadinessProbe::Http(http) => self.http(http, container),
            ReadinessProbe::Connect(port) => self.connect(*port, container),
            ReadinessProbe::Running => Ok(ProbeResult {
                ready: container.is_running(),
                text: format!("it is {}", container.state.status),
            }),
        }
    }

    fn run_command(&self, argv: &[String], container: &Container) -> ProbeResult {
        if argv.is_empty() {
            return ProbeResult { ready: true, text: "left to Docker".into() };
        }
        let limit = container.config.healthcheck.as_ref().map_or(self.timeout, Healthcheck::limit);
        let answer = |ready, text: String| ProbeResult { ready, text: format!("healthcheck {text}") };
        match self.docker.exec_within(&Exec::of_user(&container.id, argv.to_vec()), limit) {
            Ok(Some(done)) => match (done.code, last_line(done.stderr_or_stdout())) {
                (Some(0), _) => answer(true, "→ 0".into()),
                (Some(code), said) => answer(false, format!("→ {code} {said}")),
                (None, said) => answer(false, format!("was killed {said}")),
            },
            Ok(None) => answer(false, format!("→ no answer within {}", humantime::format_duration(limit))),
            Err(error) => answer(false, format!("→ {error}")),
        }
    }

    /// From this machine only: what an image has that can open a connection is anybody's guess.
    fn connect(&self, port: u16, container: &Container) -> Result<ProbeResult, NoProbeTool> {
        let Some((bridge, address)) = container.bridged().next() else {
            return Ok(refused("it has no address yet".into()));
        };
        if !is_here(bridge.as_deref()) || self.is_elsewhere() {
            return Err(NoProbeTool(vec!["its address is one of another machine's networks".into()]));
        }
        let at = SocketAddr::new(address, port);
        let text = |said: &str| format!("connect to {at} → {said}");
        Ok(match TcpStream::connect_timeout(&at, self.timeout.min(CONNECT)) {
            Ok(_) => ProbeResult { ready: true, text: text("connected") },
            Err(error) => refused(text(&error.to_string())),
        })
    }

    /// Asks at the instance's own address: from this machine where its network is on it, else from inside, as its
    /// address may be somebody else's here (Docker Desktop, an engine elsewhere).
    fn http(&self, http: &HttpProbe, container: &Container) -> Result<ProbeResult, NoProbeTool> {
        let mut addresses = container.bridged();
        let Some(first) = addresses.next() else {
            return Ok(refused("it has no address yet".into()));
        };
        let near =
            [first.clone()].into_iter().chain(addresses).find(|(bridge, _)| is_here(bridge.as_deref()));
        let (is_near, (_, address)) = (near.is_some(), near.unwrap_or(first));
        let known = *self.known.lock().expect("nobody panicked");
        let mut lacks = Vec::new();
        for way in ways(is_near, known) {
            let asked = match way {
                ProbeOrigin::Here if !is_near && self.is_elsewhere() => {
                    Err("its address is one of another machine's networks".into())
                }
                ProbeOrigin::Here => self.ask_here(http, address),
                ProbeOrigin::Inside => self.ask_in(container, http, address, "inside it"),
                ProbeOrigin::Proxy => self.ask_in_proxy(http, container),
            };
            match asked {
                Ok(answer) => {
                    *self.known.lock().expect("nobody panicked") = Some(way);
                    return Ok(answer);
                }
                Err(why) => lacks.push(why),
            }
        }
        match is_near {
            // There is a way; it does not even take a connection.
            true => Ok(refused(lacks.swap_remove(0))),
            false => Err(NoProbeTool(lacks)),
        }
    }

    fn is_elsewhere(&self) -> bool {
        *self.elsewhere.get_or_init(|| self.docker.whereabouts().is_elsewhere())
    }

    /// # Errors
    /// No way from this machine.
    fn ask_here(&self, http: &HttpProbe, address: IpAddr) -> Result<ProbeResult, String> {
        let url = http.url(&bracketed(address));
        // Of the request, so that it is for all of it: that of the client begins anew with every piece of a body.
        let mut request = self.client.get(&url).timeout(self.timeout).header("user-agent", "compose-zd");
        if let Some(host) = &http.health.host {
            request = request.header("host", host);
        }
        match request.send() {
            Ok(response) => {
                let code = response.status().as_u16();
                let mut body = Vec::new();
                // A body that breaks off, or does not end in time, is judged by what came of it.
                let _ = response.take(BODY_LIMIT).read_to_end(&mut body);
                Ok(http.judge(&url, code, &String::from_utf8_lossy(&body)))
            }
            Err(error) => {
                let said = format!("GET {} → {}", mask::urls(&url), cause(&error));
                if has_no_way(&error) { Err(said) } else { Ok(refused(said)) }
            }
        }
    }

    /// # Errors
    /// No proxy, or none that can ask.
    fn ask_in_proxy(&self, http: &HttpProbe, container: &Container) -> Result<ProbeResult, String> {
        let Some(proxy) = &http.via else {
            return Err("no proxy is in front of it".into());
        };
        let Some(address) = container.addresses_reached_from(proxy).into_iter().next() else {
            return Err(format!("{} shares no network with it", proxy.name()));
        };
        self.ask_in(proxy, http, address, &format!("in {}", proxy.name()))
    }

    /// # Errors
    /// A container that has nothing to ask with.
    fn ask_in(
        &self,
        asker: &Container,
        http: &HttpProbe,
        address: IpAddr,
        place: &str,
    ) -> Result<ProbeResult, String> {
        let authority = bracketed(address);
        let url = http.url(&authority);
        let shown = mask::urls(&format!("{url} {place}"));
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
        match self.docker.exec_within(&exec_probe::probe_command(&asker.id, &request), limit) {
            Ok(None) => Ok(refused(format!("GET {shown} → no answer in time"))),
            Ok(Some(done)) if exec_probe::cannot(&done) => {
                Err(format!("{} {place}", exec_probe::lack(&done)))
            }
            Ok(Some(done)) => Ok(match exec_probe::read(&done.stdout) {
                Some((code, body)) => http.judge(&shown, code, body),
                None => refused(format!("GET {shown} → {}", last_line(done.stderr_or_stdout()))),
            }),
            Err(error) => Ok(refused(format!("GET {shown} → {error}"))),
        }
    }
}

/// The ways to try, in order: one that was found goes first.
pub(super) fn ways(is_near: bool, known: Option<ProbeOrigin>) -> Vec<ProbeOrigin> {
    let mut ways = match is_near {
        true => vec![ProbeOrigin::Here, ProbeOrigin::Inside, ProbeOrigin::Proxy],
        false => vec![ProbeOrigin::Inside, ProbeOrigin::Proxy, ProbeOrigin::Here],
    };
    ways.sort_by_key(|way| Some(*way) != known);
    ways
}

/// Whether a bridge is one of this machine's. Its name is made of the network's id, which no other engine gives; an
/// address alone says nothing, as every engine gives the same.
pub(super) fn is_here(bridge: Option<&str>) -> bool {
    bridge.is_none_or(|name| Path::new("/sys/class/net").join(name).exists())
}

fn refused(text: String) -> ProbeResult {
    ProbeResult { ready: false, text }
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

/// A refused connection comes from the instance itself; no route or no answer at all to a connect comes from between.
fn has_no_way(error: &reqwest::Error) -> bool {
    let refused = cause(error).to_lowercase().contains("refused");
    error.is_connect() && !refused
}

/// The innermost cause, which reqwest's own text leaves out.
fn cause(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    match error.is_timeout() {
        true => "no answer in time".into(),
        false => inner.to_string(),
    }
}

#[cfg(test)]
#[path = "adversarial_tests.rs"]
mod adversarial_tests;
