//! Settings of `x-zd` and its flags: keys, precedence and defaults.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_yaml::Value;

use super::compose::{is_name, plain_message};

/// Settings of a service, of the project or of the flags. All are optional.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub struct SettingsLayer {
    pub health: Option<HealthLayer>,
    pub drain: Option<DrainLayer>,
    pub proxy: Option<ProxyLayer>,
    pub before: Option<JobLayer>,
    pub after: Option<JobLayer>,
    pub anonymous_volumes: Option<AnonymousVolumes>,
}

/// Treatment of anonymous volumes. Compose moves them when it recreates a container, but a second instance cannot have
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnonymousVolumes {
    /// Each new instance gets empty volumes, because they hold a cache.
    Fresh,
}

/// A service that runs once for each deploy, until it completes.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub struct JobLayer {
    pub service: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub struct HealthLayer {
    pub path: Option<String>,
    pub port: Option<u16>,
    pub scheme: Option<String>,
    pub host: Option<String>,
    #[serde(default, deserialize_with = "text_or_number")]
    pub expect: Option<String>,
    pub body: Option<String>,
    #[serde(default, deserialize_with = "duration")]
    pub interval: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    pub deadline: Option<Duration>,
    pub successes: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub struct DrainLayer {
    #[serde(default, deserialize_with = "duration")]
    pub timeout: Option<Duration>,
    pub command: Option<ShellCommand>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub struct ProxyLayer {
    pub container: Option<String>,
    pub kind: Option<String>,
    pub tune: Option<bool>,
}

/// A command as in Compose: a list of words, or a line for the shell.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected a line for the shell or a list of words")]
pub enum ShellCommand {
    Line(String),
    List(Vec<String>),
}

impl Default for ShellCommand {
    fn default() -> Self {
        ShellCommand::List(Vec::new())
    }
}

impl ShellCommand {
    /// The command is empty.
    pub fn is_empty(&self) -> bool {
        match self {
            ShellCommand::Line(line) => line.trim().is_empty(),
            ShellCommand::List(words) => words.first().is_none_or(|w| w.trim().is_empty()),
        }
    }

    /// The argv; `sh -c` runs a line. The doubled `$$` of Compose becomes `$`.
    pub fn argv(&self) -> Vec<String> {
        match self {
            ShellCommand::Line(line) => vec!["sh".into(), "-c".into(), unescape_dollars(line)],
            ShellCommand::List(words) => words.iter().map(|w| unescape_dollars(w)).collect(),
        }
    }
}

/// Settings of one service, with defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSettings {
    /// The HTTP probe, if configured.
    pub http: Option<HttpHealth>,
    pub timing: ProbeTiming,
    pub drain_timeout: Duration,
    /// The drain timeout is configured.
    pub drain_is_configured: bool,
    pub drain_command: Option<Vec<String>>,
    pub proxy: ProxyLayer,
    /// The job before the first new instance starts.
    pub before: Option<String>,
    /// The job after the new release serves.
    pub after: Option<String>,
    /// `None` refuses to lose anonymous volumes.
    pub anonymous_volumes: Option<AnonymousVolumes>,
}

/// Time to become ready after the `start_period` of the healthcheck.
const READY_AFTER_START_PERIOD: Duration = Duration::from_secs(30);

/// Timing of readiness probes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProbeTiming {
    pub interval: Duration,
    pub timeout: Duration,
    pub deadline: Duration,
    pub successes: u32,
}

impl ProbeTiming {
    /// Extends the deadline for a long start period.
    pub fn wait_through(&mut self, start_period: Duration) {
        self.deadline = self.deadline.max(start_period + READY_AFTER_START_PERIOD);
    }
}

impl Default for ProbeTiming {
    fn default() -> Self {
        ProbeTiming {
            interval: Duration::from_millis(200),
            timeout: Duration::from_secs(2),
            deadline: Duration::from_secs(60),
            successes: 1,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct HttpHealth {
    pub path: String,
    pub port: Option<u16>,
    pub scheme: String,
    pub host: Option<String>,
    pub expect: StatusRanges,
    pub body: Option<String>,
}

/// Status codes that count as ready, as inclusive ranges.
#[derive(Debug, Clone, PartialEq)]
pub struct StatusRanges(Vec<(u16, u16)>);

impl StatusRanges {
    /// Any answer below 500, which proves that the service works.
    pub fn any_below_500() -> Self {
        StatusRanges(vec![(100, 499)])
    }

    pub fn contains(&self, code: u16) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&code))
    }

    /// Parses `200`, `200-399` or `200,204,300-399`.
    pub fn parse(text: &str) -> Option<Self> {
        let code = |t: &str| t.trim().parse().ok().filter(|c| (100..=599).contains(c));
        let range = |part: &str| match part.split_once('-') {
            Some((a, b)) => Some((code(a)?, code(b)?)).filter(|(a, b)| a <= b),
            None => code(part).map(|c| (c, c)),
        };
        text.split(',').map(range).collect::<Option<_>>().map(StatusRanges)
    }
}

impl fmt::Display for StatusRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |(a, b): &(u16, u16)| if a == b { a.to_string() } else { format!("{a}-{b}") };
        let all: Vec<_> = self.0.iter().map(range).collect();
        write!(f, "{}", all.join(","))
    }
}

/// An invalid key of the configuration, with a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub message: String,
    pub hint: String,
}

/// Replaces `$$` by `$`: `docker compose config` prints every `$` doubled.
pub fn unescape_dollars(text: &str) -> String {
    text.replace("$$", "$")
}

impl SettingsLayer {
    /// These settings, with those of `below` as defaults.
    pub fn over(&self, below: &SettingsLayer) -> SettingsLayer {
        SettingsLayer {
            health: merge(&self.health, &below.health, HealthLayer::over),
            drain: merge(&self.drain, &below.drain, DrainLayer::over),
            proxy: merge(&self.proxy, &below.proxy, ProxyLayer::over),
            before: self.before.clone().or(below.before.clone()),
            after: self.after.clone().or(below.after.clone()),
            anonymous_volumes: self.anonymous_volumes.or(below.anonymous_volumes),
        }
    }
}

fn merge<T: Clone>(above: &Option<T>, below: &Option<T>, over: fn(&T, &T) -> T) -> Option<T> {
    match (above, below) {
        (Some(a), Some(b)) => Some(over(a, b)),
        (a, b) => a.clone().or(b.clone()),
    }
}

impl HealthLayer {
    fn over(&self, below: &HealthLayer) -> HealthLayer {
        let (a, b) = (self.clone(), below.clone());
        HealthLayer {
            path: a.path.or(b.path),
            port: a.port.or(b.port),
            scheme: a.scheme.or(b.scheme),
            host: a.host.or(b.host),
            expect: a.expect.or(b.expect),
            body: a.body.or(b.body),
            interval: a.interval.or(b.interval),
            timeout: a.timeout.or(b.timeout),
            deadline: a.deadline.or(b.deadline),
            successes: a.successes.or(b.successes),
        }
    }

    /// A key that only an HTTP probe has is set.
    fn has_http_key(&self) -> bool {
        let texts = [&self.path, &self.scheme, &self.host, &self.expect, &self.body];
        self.port.is_some() || texts.iter().any(|t| t.is_some())
    }
}

impl DrainLayer {
    fn over(&self, below: &DrainLayer) -> DrainLayer {
        DrainLayer {
            timeout: self.timeout.or(below.timeout),
            command: self.command.clone().or(below.command.clone()),
        }
    }
}

impl ProxyLayer {
    fn over(&self, below: &ProxyLayer) -> ProxyLayer {
        ProxyLayer {
            container: self.container.clone().or(below.container.clone()),
            kind: self.kind.clone().or(below.kind.clone()),
            tune: self.tune.or(below.tune),
        }
    }
}

/// Maximum duration. Adding more to a clock could overflow.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// Hint for a longer duration.
pub const TOO_LONG: &str = "set it to at most a year, such as `1m30s`";

/// The duration exceeds the maximum.
pub fn is_too_long(duration: &Duration) -> bool {
    *duration > MAX_DURATION
}

/// An invalid setting: its key and a hint.
pub type InvalidSetting = (String, &'static str);

impl ServiceSettings {
    /// Adds the defaults, and refuses invalid settings.
    pub fn resolve(zd: SettingsLayer) -> Result<ServiceSettings, InvalidSetting> {
        let health = zd.health.unwrap_or_default();
        let drain = zd.drain.unwrap_or_default();
        let proxy = zd.proxy.unwrap_or_default();
        for (key, value) in [("proxy.container", &proxy.container), ("proxy.kind", &proxy.kind)] {
            if value.as_ref().is_some_and(|text| text.trim().is_empty()) {
                return Err((key.into(), "it is empty: remove it, or set a value"));
            }
        }
        if drain.command.as_ref().is_some_and(ShellCommand::is_empty) {
            return Err(("drain.command".into(), "it is empty: remove it, or set a command"));
        }
        for (key, job) in [("before.service", &zd.before), ("after.service", &zd.after)] {
            if job.as_ref().is_some_and(|job| !is_name(&job.service)) {
                return Err((key.into(), "name a service of this file"));
            }
        }
        if drain.timeout.as_ref().is_some_and(is_too_long) {
            return Err(("drain.timeout".into(), TOO_LONG));
        }
        Ok(ServiceSettings {
            http: health.has_http_key().then(|| http_health(&health)).transpose()?,
            timing: probe_timing(&health)?,
            drain_is_configured: drain.timeout.is_some(),
            drain_timeout: drain.timeout.unwrap_or(Duration::from_secs(30)),
            drain_command: drain.command.map(|c| c.argv()),
            proxy,
            before: zd.before.map(|job| job.service),
            after: zd.after.map(|job| job.service),
            anonymous_volumes: zd.anonymous_volumes,
        })
    }
}

fn probe_timing(health: &HealthLayer) -> Result<ProbeTiming, InvalidSetting> {
    let durations =
        [("interval", health.interval), ("timeout", health.timeout), ("deadline", health.deadline)];
    if let Some((key, _)) = durations.iter().find(|(_, d)| d.is_some_and(|d| d.is_zero())) {
        return Err((format!("health.{key}"), "set it to a duration longer than 0, such as `500ms`"));
    }
    if let Some((key, _)) = durations.iter().find(|(_, d)| d.is_some_and(|d| d > MAX_DURATION)) {
        return Err((format!("health.{key}"), TOO_LONG));
    }
    if health.successes == Some(0) {
        return Err(("health.successes".into(), "set it to 1 or more"));
    }
    let default = ProbeTiming::default();
    Ok(ProbeTiming {
        interval: health.interval.unwrap_or(default.interval),
        timeout: health.timeout.unwrap_or(default.timeout),
        deadline: health.deadline.unwrap_or(default.deadline),
        successes: health.successes.unwrap_or(default.successes),
    })
}

fn http_health(health: &HealthLayer) -> Result<HttpHealth, InvalidSetting> {
    let path = unescape_dollars(health.path.as_deref().unwrap_or("/"));
    if !path.starts_with('/') {
        return Err(("health.path".into(), "begin it with `/`"));
    }
    if path.contains(|c: char| c.is_control() || c == ' ') {
        return Err(("health.path".into(), "remove spaces and control characters; write `%20` for a space"));
    }
    if health.host.as_ref().is_some_and(|host| !is_host(host)) {
        return Err(("health.host".into(), "set it to a host name, such as `app.example`"));
    }
    if health.body.as_deref() == Some("") {
        return Err(("health.body".into(), "it is empty: remove it, or set a text of the answer"));
    }
    if health.port == Some(0) {
        return Err(("health.port".into(), "set it to a port from 1 to 65535"));
    }
    let scheme = health.scheme.as_deref().unwrap_or("http");
    if !["http", "https"].contains(&scheme) {
        return Err(("health.scheme".into(), "set it to `http` or `https`"));
    }
    let expect = StatusRanges::parse(health.expect.as_deref().unwrap_or("200-399"));
    Ok(HttpHealth {
        path,
        port: health.port,
        scheme: scheme.into(),
        host: health.host.clone(),
        expect: expect.ok_or((
            "health.expect".to_string(),
            "set it to codes and ranges, such as `200-399` or `200,204`",
        ))?,
        body: health.body.as_deref().map(unescape_dollars),
    })
}

/// A valid `Host` header.
pub fn is_host(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c <= ' ' || !c.is_ascii() || "/\\'\"".contains(c))
}

pub fn invalid_setting(source: &str, service: &str, field: &str, hint: &str) -> ConfigError {
    let flag = field.replace('.', "-");
    ConfigError {
        message: format!("{source}: `services.{service}.x-zd.{field}` (or `--{flag}`) is invalid"),
        hint: hint.into(),
    }
}

/// Parses one `x-zd` block. The error names the file and the full key.
pub fn read_zd<T: Default + for<'a> Deserialize<'a>>(
    value: Option<&Value>,
    source: &str,
    key: &str,
) -> Result<T, ConfigError> {
    let Some(value) = value.filter(|v| !v.is_null()) else {
        return Ok(T::default());
    };
    serde_path_to_error::deserialize(value.clone()).map_err(|e| {
        let path = e.path().to_string();
        let full_key = match path.as_str() {
            "." => key.to_string(),
            path => format!("{key}.{path}"),
        };
        ConfigError {
            message: format!("{source}: `{full_key}`: {}", plain_message(&e.into_inner().to_string())),
            hint: format!("correct or remove `{full_key}`"),
        }
    })
}

pub fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let Some(text) = text_or_number(from)? else {
        return Ok(None);
    };
    let parsed = humantime::parse_duration(&text);
    parsed.map(Some).map_err(|e| {
        serde::de::Error::custom(format!("`{text}` is no duration such as `500ms` or `1m30s`: {e}"))
    })
}

fn yaml_type(value: &Value) -> &'static str {
    match value {
        Value::Mapping(_) => "a map",
        Value::Sequence(_) => "a list",
        Value::Bool(_) => "yes or no",
        _ => "something else",
    }
}

pub fn text_or_number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    match Option::<Value>::deserialize(from)? {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(other) => {
            Err(serde::de::Error::custom(format!("expected a text or a number, found {}", yaml_type(&other))))
        }
    }
}
