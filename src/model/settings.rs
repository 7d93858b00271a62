//! Settings of `x-zd` and its flags: keys, precedence and defaults.

use std::fmt;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Deserializer};
use serde_yaml::Value;

use super::ConfigError;
use super::compose::{is_name, plain_message};

/// Settings that several places may contain: the command line, a service, the project.
pub trait Layer {
    /// These settings, with those of `below` as defaults.
    fn over(&self, below: &Self) -> Self;
}

impl<T: Clone> Layer for Option<T> {
    fn over(&self, below: &Self) -> Self {
        self.as_ref().or(below.as_ref()).cloned()
    }
}

/// Declares a group of settings. Each field is a key of a file and, in a group of flags, a flag.
macro_rules! layer {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$attribute:meta])* pub $key:ident: $type:ty,)* }) => {
        #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
        #[serde(default, expecting = "a map of keys")]
        $(#[$meta])*
        pub struct $name { $($(#[$attribute])* pub $key: $type,)* }

        impl $crate::model::settings::Layer for $name {
            fn over(&self, below: &Self) -> Self {
                Self { $($key: self.$key.over(&below.$key),)* }
            }
        }
    };
}
pub(super) use layer;

layer! {
    /// Settings of a service, of the project or of the flags.
    #[serde(deny_unknown_fields)]
    pub struct SettingsLayer {
        #[serde(deserialize_with = "or_default")]
        pub health: HealthLayer,
        #[serde(deserialize_with = "or_default")]
        pub drain: DrainLayer,
        #[serde(deserialize_with = "or_default")]
        pub proxy: ProxyLayer,
        pub before: Option<JobLayer>,
        pub after: Option<JobLayer>,
        pub anonymous_volumes: Option<AnonymousVolumes>,
        #[serde(deserialize_with = "duration")]
        pub hold: Option<Duration>,
    }
}

/// Treatment of anonymous volumes. Compose moves them when it recreates a container, but a second instance cannot have
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AnonymousVolumes {
    // Each new instance gets empty volumes, because they hold a cache.
    Fresh,
}

/// A service that runs once for each deploy, until it completes.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
pub struct JobLayer {
    pub service: String,
}

layer! {
    /// Readiness of a new instance.
    #[derive(Args)]
    #[command(next_help_heading = "Readiness (x-zd.health)")]
    #[serde(deny_unknown_fields)]
    pub struct HealthLayer {
        /// Path of the probe; a new instance is ready when its answer is as expected
        #[arg(id = "health-path", long, env = "COMPOSE_ZD_HEALTH_PATH", value_name = "PATH")]
        pub path: Option<String>,
        /// Port of the probe [default: the port that the proxy uses]
        #[arg(id = "health-port", long, env = "COMPOSE_ZD_HEALTH_PORT", value_name = "PORT")]
        pub port: Option<u16>,
        /// http or https (certificates are not verified: the probe goes to an address)
        #[arg(id = "health-scheme", long, env = "COMPOSE_ZD_HEALTH_SCHEME", value_name = "SCHEME")]
        pub scheme: Option<String>,
        /// Host header of the probe
        #[arg(id = "health-host", long, env = "COMPOSE_ZD_HEALTH_HOST", value_name = "HOST")]
        pub host: Option<String>,
        /// Status codes that mean ready, such as 200-399 or 200,204
        #[arg(id = "health-expect", long, env = "COMPOSE_ZD_HEALTH_EXPECT", value_name = "CODES")]
        #[serde(deserialize_with = "text_or_number")]
        pub expect: Option<String>,
        /// Text that the answer must contain
        #[arg(id = "health-body", long, env = "COMPOSE_ZD_HEALTH_BODY", value_name = "TEXT")]
        pub body: Option<String>,
        /// Time between two probes [default: 200ms]
        #[arg(id = "health-interval", long, env = "COMPOSE_ZD_HEALTH_INTERVAL", value_name = "DURATION",
              value_parser = positive_duration)]
        #[serde(deserialize_with = "duration")]
        pub interval: Option<Duration>,
        /// Timeout for one answer [default: 2s]
        #[arg(id = "health-timeout", long, env = "COMPOSE_ZD_HEALTH_TIMEOUT", value_name = "DURATION",
              value_parser = positive_duration)]
        #[serde(deserialize_with = "duration")]
        pub timeout: Option<Duration>,
        /// Time within which every new instance must be ready [default: 60s]
        #[arg(id = "health-deadline", long, env = "COMPOSE_ZD_HEALTH_DEADLINE", value_name = "DURATION",
              value_parser = positive_duration)]
        #[serde(deserialize_with = "duration")]
        pub deadline: Option<Duration>,
        /// Good answers in a row that mean ready [default: 1]
        #[arg(id = "health-successes", long, env = "COMPOSE_ZD_HEALTH_SUCCESSES", value_name = "N")]
        pub successes: Option<u32>,
    }
}

layer! {
    /// Drain of an old instance.
    #[derive(Args)]
    #[command(next_help_heading = "Drain (x-zd.drain)")]
    #[serde(deny_unknown_fields)]
    pub struct DrainLayer {
        /// Longest wait for the requests in flight [default: 30s]
        #[arg(id = "drain-timeout", long, env = "COMPOSE_ZD_DRAIN_TIMEOUT", value_name = "DURATION",
              value_parser = positive_duration)]
        #[serde(deserialize_with = "duration")]
        pub timeout: Option<Duration>,
        /// Command to run in an old instance after it leaves rotation (with `sh -c`)
        #[arg(id = "drain-command", long, env = "COMPOSE_ZD_DRAIN_COMMAND", value_name = "COMMAND")]
        pub command: Option<ShellCommand>,
    }
}

layer! {
    /// The proxy, if detection is wrong.
    #[derive(Args)]
    #[command(next_help_heading = "Proxy (x-zd.proxy)")]
    #[serde(deny_unknown_fields)]
    pub struct ProxyLayer {
        /// Container of the proxy, by name or id
        #[arg(id = "proxy-container", long, env = "COMPOSE_ZD_PROXY_CONTAINER", value_name = "CONTAINER")]
        pub container: Option<String>,
        /// Kind of the proxy: nginx-proxy, nginx, apache, haproxy, dockercloud, caddy or traefik; none deploys without gate and drain
        #[arg(id = "proxy-kind", long, env = "COMPOSE_ZD_PROXY_KIND", value_name = "KIND")]
        pub kind: Option<String>,
        /// Allow settings that stay in the running proxy (a marker test in a template, a keep-alive setting)
        #[arg(id = "proxy-tune", long, env = "COMPOSE_ZD_PROXY_TUNE", value_name = "BOOL", num_args = 0..=1,
              default_missing_value = "true")]
        pub tune: Option<bool>,
    }
}

/// A command as in Compose: a list of words, or a line for the shell.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "expected a line for the shell or a list of words")]
pub enum ShellCommand {
    Line(String),
    List(Vec<String>),
}

impl From<String> for ShellCommand {
    fn from(line: String) -> Self {
        ShellCommand::Line(line)
    }
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
#[derive(Debug, Clone, Default, PartialEq)]
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
    /// Longest time that requests wait for the new instance, where only one may run; 0 does not hold.
    pub hold: Duration,
}

/// Default of `hold`: half of the 60 s after which most proxies give up on an answer, because the old instance may have
/// to start again.
const DEFAULT_HOLD: Duration = Duration::from_secs(30);

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
        probe_timing(&HealthLayer::default())
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

/// Replaces `$$` by `$`: `docker compose config` prints every `$` doubled.
pub fn unescape_dollars(text: &str) -> String {
    text.replace("$$", "$")
}

/// Maximum duration. Adding more to a clock could overflow.
const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// Hint for a longer duration.
pub const TOO_LONG: &str = "set it to at most a year, such as `1m30s`";

/// The duration is not longer than the maximum.
pub fn is_bounded(duration: Option<Duration>) -> bool {
    duration.is_none_or(|duration| duration <= MAX_DURATION)
}

/// Hint for a duration of zero.
pub const ZERO: &str = "set it to a duration longer than 0, such as `500ms`";

pub fn is_positive(duration: Option<Duration>) -> bool {
    duration.is_none_or(|duration| !duration.is_zero())
}

/// An invalid key and a hint.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidKey {
    pub key: &'static str,
    pub hint: &'static str,
}

impl InvalidKey {
    /// The error of a service.
    pub fn of_service(&self, source: &str, service: &str) -> ConfigError {
        let InvalidKey { key, hint } = self;
        let flag = key.replace('.', "-");
        ConfigError {
            message: format!("{source}: `services.{service}.x-zd.{key}` (or `--{flag}`) is invalid"),
            hint: (*hint).into(),
        }
    }
}

/// Requires that each key is valid. A requirement is a key, its result and a hint.
///
/// # Errors
/// The first key that is invalid.
pub fn require(requirements: &[(&'static str, bool, &'static str)]) -> Result<(), InvalidKey> {
    match requirements.iter().find(|(_, is_valid, _)| !is_valid) {
        Some((key, _, hint)) => Err(InvalidKey { key, hint }),
        None => Ok(()),
    }
}

impl ServiceSettings {
    /// Adds the defaults, and refuses invalid settings.
    pub fn resolve(zd: SettingsLayer) -> Result<ServiceSettings, InvalidKey> {
        let expect = StatusRanges::parse(zd.health.expect.as_deref().unwrap_or("200-399"));
        check(&zd, expect.is_some())?;
        let SettingsLayer { health, drain, proxy, before, after, anonymous_volumes, hold } = zd;
        Ok(ServiceSettings {
            http: expect.filter(|_| health.has_http_key()).map(|expect| http_health(&health, expect)),
            timing: probe_timing(&health),
            drain_is_configured: drain.timeout.is_some(),
            drain_timeout: drain.timeout.unwrap_or(Duration::from_secs(30)),
            drain_command: drain.command.map(|c| c.argv()),
            proxy,
            before: before.map(|job| job.service),
            after: after.map(|job| job.service),
            anonymous_volumes,
            hold: hold.unwrap_or(DEFAULT_HOLD),
        })
    }
}

fn check(zd: &SettingsLayer, expects_codes: bool) -> Result<(), InvalidKey> {
    let SettingsLayer { health, drain, proxy, before, after, .. } = zd;
    let is_filled = |text: &Option<String>| text.as_ref().is_none_or(|text| !text.trim().is_empty());
    let is_job = |job: &Option<JobLayer>| job.as_ref().is_none_or(|job| is_name(&job.service));
    let path = health.path.as_deref().unwrap_or("/");
    let is_scheme = health.scheme.as_deref().is_none_or(|scheme| ["http", "https"].contains(&scheme));
    require(&[
        ("proxy.container", is_filled(&proxy.container), "it is empty: remove it, or set a value"),
        ("proxy.kind", is_filled(&proxy.kind), "it is empty: remove it, or set a value"),
        (
            "drain.command",
            drain.command.as_ref().is_none_or(|command| !command.is_empty()),
            "it is empty: remove it, or set a command",
        ),
        ("before.service", is_job(before), "name a service of this file"),
        ("after.service", is_job(after), "name a service of this file"),
        ("drain.timeout", is_bounded(drain.timeout), TOO_LONG),
        ("hold", is_bounded(zd.hold), TOO_LONG),
        ("health.path", path.starts_with('/'), "begin it with `/`"),
        ("health.path", !has_space(path), "remove spaces and control characters; write `%20` for a space"),
        ("health.host", is_host(health.host.as_deref()), "set it to a host name, such as `app.example`"),
        (
            "health.body",
            health.body.as_deref() != Some(""),
            "it is empty: remove it, or set a text of the answer",
        ),
        ("health.port", health.port != Some(0), "set it to a port from 1 to 65535"),
        ("health.scheme", is_scheme, "set it to `http` or `https`"),
        ("health.expect", expects_codes, NO_CODES),
        ("health.interval", is_positive(health.interval), ZERO),
        ("health.timeout", is_positive(health.timeout), ZERO),
        ("health.deadline", is_positive(health.deadline), ZERO),
        ("health.interval", is_bounded(health.interval), TOO_LONG),
        ("health.timeout", is_bounded(health.timeout), TOO_LONG),
        ("health.deadline", is_bounded(health.deadline), TOO_LONG),
        ("health.successes", health.successes != Some(0), "set it to 1 or more"),
    ])
}

fn probe_timing(health: &HealthLayer) -> ProbeTiming {
    ProbeTiming {
        interval: health.interval.unwrap_or(Duration::from_millis(200)),
        timeout: health.timeout.unwrap_or(Duration::from_secs(2)),
        deadline: health.deadline.unwrap_or(Duration::from_secs(60)),
        successes: health.successes.unwrap_or(1),
    }
}

fn http_health(health: &HealthLayer, expect: StatusRanges) -> HttpHealth {
    HttpHealth {
        path: unescape_dollars(health.path.as_deref().unwrap_or("/")),
        port: health.port,
        scheme: health.scheme.clone().unwrap_or("http".into()),
        host: health.host.clone(),
        expect,
        body: health.body.as_deref().map(unescape_dollars),
    }
}

impl HealthLayer {
    /// A key that only an HTTP probe has is set.
    fn has_http_key(&self) -> bool {
        let texts = [&self.path, &self.scheme, &self.host, &self.expect, &self.body];
        self.port.is_some() || texts.iter().any(|t| t.is_some())
    }
}

/// Hint for codes that cannot be parsed.
pub const NO_CODES: &str = "set it to codes and ranges, such as `200-399` or `200,204`";

pub fn has_space(text: &str) -> bool {
    text.contains(|c: char| c.is_control() || c == ' ')
}

/// A valid `Host` header, or none.
pub fn is_host(text: Option<&str>) -> bool {
    let is_invalid = |c: char| c <= ' ' || !c.is_ascii() || "/\\'\"".contains(c);
    text.is_none_or(|text| !text.is_empty() && !text.contains(is_invalid))
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
        let full_key = match e.path().to_string().as_str() {
            "." => key.to_string(),
            path => format!("{key}.{path}"),
        };
        ConfigError {
            message: format!("{source}: `{full_key}`: {}", plain_message(&e.into_inner().to_string())),
            hint: format!("correct or remove `{full_key}`"),
        }
    })
}

/// A group of settings; an empty key counts as none.
pub fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
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

/// A scalar as text.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        _ => String::new(),
    }
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

/// Parses a flag: a duration as in Compose (`500ms`, `1m30s`) that is longer than zero.
pub fn positive_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("the duration must be longer than 0, such as 500ms".into()),
        parsed => parsed.map_err(|e| format!("{e}; expected a duration such as 500ms or 1m30s")),
    }
}
