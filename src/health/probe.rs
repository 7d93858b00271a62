//! Kinds of readiness probes, the choice of one for a service, and the meaning of a response.

use std::fmt;
use std::sync::Arc;

use anyhow::Result;

use crate::docker::inspect::Container;
use crate::error::Error;
use crate::mask;
use crate::model::{HttpHealth, StatusRanges};

/// Result of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    pub ready: bool,
    /// Status or exit code of the answer.
    pub code: Option<i32>,
    /// Request and response, for messages.
    pub text: String,
}

impl ProbeResult {
    pub(super) fn not_ready(text: String) -> ProbeResult {
        ProbeResult { ready: false, code: None, text }
    }

    /// True if an instance that may not know the file's check has answered it: an error of the server is one of a known path.
    pub(super) fn is_of_known_check(&self) -> bool {
        self.ready || self.code.is_some_and(|code| code >= 500)
    }

    /// True for an answer of the same kind. Many tools print a duration, which differs each time.
    pub(super) fn is_like(&self, other: &ProbeResult) -> bool {
        let words = |result: &ProbeResult| result.text.replace(|c: char| c.is_ascii_digit(), "");
        self.code == other.code && words(self) == words(other)
    }
}

/// Probe of an instance's readiness.
#[derive(Debug, Clone, PartialEq)]
pub enum ReadinessProbe {
    Http(HttpProbe),
    /// The healthcheck's own command, run in the instance.
    Healthcheck(Vec<String>),
    /// A TCP connection to this port, for an instance that speaks FastCGI, uwsgi or gRPC to its proxy instead of HTTP.
    Connect(u16),
    /// No probe: the instance gets no requests, and is ready when it runs.
    Running,
    /// The file's check, or the check without one, for an instance of another version, which may not know the file's.
    Either(HttpProbe, Box<ReadinessProbe>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct HttpProbe {
    pub health: HttpHealth,
    pub port: u16,
    /// Proxy in front of the instance, which runs the probe if neither this machine nor the instance can.
    pub proxy: Option<Arc<Container>>,
}

/// Facts that the proxy in front of an instance gives about it.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProbeTarget<'a> {
    pub routed: bool,
    pub port: Option<u16>,
    pub host: Option<&'a str>,
    pub container: Option<&'a Container>,
    /// True if the proxy speaks FastCGI, uwsgi or gRPC to the instance.
    pub not_http: bool,
    /// True if the file gives the instance another command than its image, and no port. A port of the image is one of the
    /// image's own command.
    pub is_other_program: bool,
}

/// Chooses the probe of a service, in this order: `x-zd.health`; the healthcheck; a connection if the proxy speaks
/// no HTTP to the instance; `GET /` at the port that the proxy uses, else at the only exposed one. A worker without any of
/// these only has to run, and so has one that runs another program of the app's image.
///
/// # Errors
/// The service has no port to probe; the error names the setting.
pub fn choose_probe(
    service: &str,
    configured: Option<&HttpHealth>,
    container: &Container,
    target: ProbeTarget,
) -> Result<ReadinessProbe, Error> {
    if !cfg!(feature = "tls") && configured.is_some_and(|h| h.scheme == "https") {
        return Err(Error::usage(format!("`{service}`: this build of compose-zd cannot probe over https"))
            .hint("use a build with the feature `tls`, or set `x-zd.health.scheme` to `http`"));
    }
    let exposed = container.exposed_tcp();
    let only = (exposed.len() == 1).then(|| exposed[0]);
    let port = configured.and_then(|h| h.port).or(target.port).or(only);
    let check = container.healthcheck().map(ReadinessProbe::Healthcheck);
    match (configured, check, port) {
        (Some(health), _, Some(port)) => Ok(http(health.clone(), port, target)),
        (None, Some(check), _) => Ok(check),
        (None, None, Some(port)) if target.not_http => Ok(ReadinessProbe::Connect(port)),
        (None, None, _) if !target.routed && target.is_other_program => Ok(ReadinessProbe::Running),
        (None, None, Some(port)) => Ok(http(default_health(), port, target)),
        (None, None, None) if !target.routed => Ok(ReadinessProbe::Running),
        (_, _, None) => Err(Error::usage(format!(
            "`{service}` has no port to probe for readiness"
        ))
        .hint(format!(
            "set `services.{service}.x-zd.health.port` (or `--health-port`), `expose` one port, or give it a `healthcheck`"
        ))
        .rule(&"no-readiness")),
    }
}

/// Chooses the probe of an instance that another version of the file made: the check of this file may ask for a path or a
/// port that the instance does not have.
///
/// # Errors
/// See [`choose_probe`].
pub fn choose_probe_of_other_version(
    service: &str,
    configured: Option<&HttpHealth>,
    container: &Container,
    target: ProbeTarget,
) -> Result<ReadinessProbe, Error> {
    let probe = choose_probe(service, configured, container, target)?;
    let unset = configured.and_then(|_| choose_probe(service, None, container, target).ok());
    Ok(match (probe, unset.filter(|unset| *unset != ReadinessProbe::Running)) {
        (ReadinessProbe::Http(http), Some(unset)) => ReadinessProbe::Either(http, Box::new(unset)),
        (probe, _) => probe,
    })
}

fn http(mut health: HttpHealth, port: u16, target: ProbeTarget) -> ReadinessProbe {
    health.host = health.host.or(target.host.map(String::from));
    ReadinessProbe::Http(HttpProbe { health, port, proxy: target.container.cloned().map(Arc::new) })
}

/// Default check: the instance listens, and answers with a status below 500.
pub(super) fn default_health() -> HttpHealth {
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

    /// Evaluates a response.
    pub(super) fn evaluate(&self, url: &str, code: u16, body: &str) -> ProbeResult {
        let url = mask::urls(url);
        let result = |ready: bool, reason: String| {
            let text = format!("GET {url} → {code}{reason}");
            ProbeResult { ready, code: Some(code.into()), text }
        };
        let missing = self.health.body.as_ref().filter(|b| !body.contains(b.as_str()));
        match (self.health.expect.contains(code), missing) {
            (false, _) => result(false, format!(", expected {}", self.health.expect)),
            (true, Some(text)) => result(false, format!(" without `{text}`")),
            (true, None) => result(true, String::new()),
        }
    }
}

impl ReadinessProbe {
    /// True if any status below 500 is enough, because the service configures no check.
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
            ReadinessProbe::Healthcheck(_) => write!(f, "its healthcheck"),
            ReadinessProbe::Connect(port) => write!(f, "a connection to port {port}"),
            ReadinessProbe::Running => write!(f, "whether it runs"),
            ReadinessProbe::Either(http, other) => {
                write!(f, "GET {} at port {}, or {other}", mask::urls(&http.health.path), http.port)
            }
        }
    }
}
