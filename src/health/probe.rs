//! How an instance is asked, and what its answer means.

use std::fmt;
use std::sync::Arc;

use anyhow::Result;

use super::prober::ProbeResult;
use crate::docker::inspect::Container;
use crate::error::Error;
use crate::mask;
use crate::model::{HttpHealth, StatusRanges};

/// How an instance is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum ReadinessProbe {
    Http(HttpProbe),
    /// The healthcheck's own command, run in the instance.
    Check(Vec<String>),
    /// A TCP connection to this port: its proxy speaks FastCGI, uwsgi or gRPC to it, and not HTTP.
    Connect(u16),
    /// There is nothing to ask, and nobody sends it requests: that it runs is enough.
    Running,
}

#[derive(Debug, Clone, PartialEq)]
pub struct HttpProbe {
    pub health: HttpHealth,
    pub port: u16,
    /// The proxy in front of it, from where it is asked if nobody else can.
    pub via: Option<Arc<Container>>,
}

/// What a proxy in front of an instance knows of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProbeTarget<'a> {
    pub routed: bool,
    pub port: Option<u16>,
    pub host: Option<&'a str>,
    pub container: Option<&'a Container>,
    /// It speaks FastCGI, uwsgi or gRPC to it.
    pub not_http: bool,
}

/// Chooses how an instance is asked: as `x-zd.health` says, else by its healthcheck, else by `GET /` at the port that
/// the proxy uses, or by a connection where the proxy does not speak HTTP to it; a worker without any of it only has to run.
///
/// # Errors
/// When there is nothing to ask, with what to set.
pub fn choose(
    service: &str,
    asked_for: Option<&HttpHealth>,
    container: &Container,
    front: ProbeTarget,
) -> Result<ReadinessProbe, Error> {
    if !cfg!(feature = "tls") && asked_for.is_some_and(|h| h.scheme == "https") {
        return Err(Error::usage(format!("`{service}`: this build of compose-zd cannot ask over https"))
            .hint("use a build with the feature `tls`, or set `x-zd.health.scheme` to `http`"));
    }
    let exposed = container.exposed_tcp();
    let only = (exposed.len() == 1).then(|| exposed[0]);
    let port = asked_for.and_then(|h| h.port).or(front.port).or(only);
    let check = container.healthcheck().map(ReadinessProbe::Check);
    match (asked_for, check, port) {
        (Some(health), _, Some(port)) => Ok(http(health.clone(), port, front)),
        (None, Some(check), _) => Ok(check),
        (None, None, Some(port)) if front.not_http => Ok(ReadinessProbe::Connect(port)),
        (None, None, Some(port)) => Ok(http(answers(), port, front)),
        (None, None, None) if !front.routed => Ok(ReadinessProbe::Running),
        (_, _, None) => Err(Error::usage(format!(
            "`{service}` has no port to ask whether a new instance is ready"
        ))
        .hint(format!(
            "set `services.{service}.x-zd.health.port` (or `--health-port`), `expose` one port, or give it a `healthcheck`"
        ))
        .rule(&"no-readiness")),
    }
}

fn http(mut health: HttpHealth, port: u16, front: ProbeTarget) -> ReadinessProbe {
    health.host = health.host.or(front.host.map(String::from));
    ReadinessProbe::Http(HttpProbe { health, port, via: front.container.cloned().map(Arc::new) })
}

/// Without anything better: it listens, and answers below 500.
pub(super) fn answers() -> HttpHealth {
    HttpHealth {
        path: "/".into(),
        port: None,
        scheme: "http".into(),
        host: None,
        expect: StatusRanges::any_below_500(),
        body: None,
    }
}

impl HttpProbe {
    pub(super) fn url(&self, address: &str) -> String {
        format!("{}://{address}:{}{}", self.health.scheme, self.port, self.health.path)
    }

    /// What an answer means.
    pub(super) fn judge(&self, url: &str, code: u16, body: &str) -> ProbeResult {
        let url = mask::urls(url);
        let said =
            |ready: bool, why: String| ProbeResult { ready, text: format!("GET {url} → {code}{why}") };
        let missing = self.health.body.as_ref().filter(|b| !body.contains(b.as_str()));
        match (self.health.expect.contains(code), missing) {
            (false, _) => said(false, format!(", expected {}", self.health.expect)),
            (true, Some(text)) => said(false, format!(" without `{text}`")),
            (true, None) => said(true, String::new()),
        }
    }
}

impl ReadinessProbe {
    /// Any answer below 500 is enough, because nothing better was asked for.
    pub fn is_weak(&self) -> bool {
        matches!(self, ReadinessProbe::Http(http) if http.health.expect == StatusRanges::any_below_500())
    }
}

impl fmt::Display for ReadinessProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadinessProbe::Http(http) => {
                write!(f, "GET {} at port {}", mask::urls(&http.health.path), http.port)
            }
            ReadinessProbe::Check(_) => write!(f, "its healthcheck"),
            ReadinessProbe::Connect(port) => write!(f, "a connection to port {port}"),
            ReadinessProbe::Running => write!(f, "whether it runs"),
        }
    }
}
