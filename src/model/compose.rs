//! The parts of `docker compose config` that a deploy needs. The structs are our own, because the public crates for the
//! Compose specification reject keys that Compose accepts.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_yaml::Value;

use super::settings::{ConfigError, unescape_dollars};
use super::update::UpdateLayer;
use super::{CommandSpec, Completes, LifecycleHook, PreStartStep};

#[derive(Deserialize)]
#[serde(expecting = "a map of keys")]
pub struct RawProject {
    pub name: String,
    #[serde(default)]
    pub services: BTreeMap<String, RawService>,
    #[serde(rename = "x-zd")]
    pub zd: Option<Value>,
    #[serde(default)]
    secrets: BTreeMap<String, Value>,
    #[serde(default)]
    configs: BTreeMap<String, Value>,
    #[serde(default)]
    networks: BTreeMap<String, RawNetwork>,
    #[serde(default)]
    volumes: BTreeMap<String, Option<RawNetwork>>,
}

#[derive(Deserialize)]
#[serde(expecting = "a map of keys")]
pub struct RawNetwork {
    name: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, expecting = "a map of keys")]
pub struct RawService {
    pub image: Option<String>,
    pub build: Option<Value>,
    pub scale: Option<u32>,
    pub container_name: Option<String>,
    pub network_mode: Option<String>,
    pid: Option<String>,
    ipc: Option<String>,
    volumes_from: Vec<String>,
    mac_address: Option<String>,
    networks: BTreeMap<String, Value>,
    ports: Vec<RawPort>,
    expose: Vec<Value>,
    healthcheck: Option<RawHealthcheck>,
    pub environment: BTreeMap<String, Option<Value>>,
    labels: BTreeMap<String, Value>,
    depends_on: BTreeMap<String, RawDependency>,
    pub pre_start: Vec<PreStartStep>,
    pub post_start: Vec<LifecycleHook>,
    pub pre_stop: Vec<LifecycleHook>,
    secrets: Vec<RawGrant>,
    configs: Vec<RawGrant>,
    volumes: Vec<RawMount>,
    tmpfs: Vec<String>,
    links: Vec<String>,
    entrypoint: Option<Vec<String>>,
    command: Option<Vec<String>>,
    init: Option<bool>,
    stop_signal: Option<String>,
    stop_grace_period: Option<String>,
    restart: Option<String>,
    mem_limit: Option<Value>,
    mem_reservation: Option<Value>,
    pub deploy: RawDeploy,
    #[serde(rename = "x-zd")]
    pub zd: Option<Value>,
}

#[derive(Deserialize)]
#[serde(expecting = "a map of keys")]
pub struct RawHealthcheck {
    #[serde(default)]
    test: Vec<String>,
    #[serde(default)]
    disable: bool,
    start_interval: Option<Value>,
    start_period: Option<String>,
}

#[derive(Deserialize)]
#[serde(expecting = "a map of keys")]
pub struct RawPort {
    target: u16,
    protocol: Option<String>,
    published: Option<Value>,
}

#[derive(Deserialize)]
#[serde(expecting = "a map of keys")]
pub struct RawDependency {
    condition: String,
    #[serde(default)]
    restart: bool,
    required: Option<bool>,
}

#[derive(Deserialize)]
#[serde(expecting = "a map of keys")]
pub struct RawGrant {
    source: String,
}

#[derive(Deserialize)]
#[serde(expecting = "a map of keys")]
pub struct RawMount {
    #[serde(rename = "type")]
    kind: String,
    source: Option<String>,
    #[serde(default)]
    target: String,
    #[serde(default)]
    read_only: bool,
}

#[derive(Deserialize, Default)]
#[serde(default, expecting = "a map of keys")]
pub struct RawDeploy {
    pub replicas: Option<u32>,
    pub update_config: Option<UpdateLayer>,
    pub rollback_config: Option<UpdateLayer>,
    restart_policy: Option<RawRestart>,
    #[serde(default)]
    resources: RawResources,
}

#[derive(Deserialize, Default)]
#[serde(default, expecting = "a map of keys")]
struct RawRestart {
    condition: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, expecting = "a map of keys")]
struct RawResources {
    limits: RawMemory,
    reservations: RawMemory,
}

#[derive(Deserialize, Default)]
#[serde(default, expecting = "a map of keys")]
struct RawMemory {
    memory: Option<Value>,
}

/// Parses the output of `docker compose config`. The output holds secrets, so messages name keys and never values.
///
/// # Errors
/// The first key that Compose does not print so.
pub fn read(yaml: &str, source: &str) -> Result<RawProject, ConfigError> {
    let invalid_key =
        |message: String, hint: String| ConfigError { message: format!("{source}: {message}"), hint };
    let value: Value = serde_yaml::from_str(yaml).map_err(|e| {
        let at = e.location().map(|l| format!(" (line {}, column {})", l.line(), l.column()));
        invalid_key(
            format!("the output of `docker compose config` is no YAML{}", at.unwrap_or_default()),
            "check the file with `docker compose config --quiet`".into(),
        )
    })?;
    if !value.is_mapping() {
        return Err(invalid_key("the file is empty".into(), "add services under `services`".into()));
    }
    let services = value.get("services").and_then(Value::as_mapping).into_iter().flatten();
    if let Some(name) = services.filter(|(_, s)| s.is_null()).find_map(|(name, _)| name.as_str()) {
        let key = format!("services.{name}");
        return Err(invalid_key(
            format!("`{key}` has neither `image` nor `build`"),
            format!("correct or remove `{key}`"),
        ));
    }
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        let text = e.into_inner().to_string();
        if let Some(hint) = text.strip_prefix(INVALID) {
            return invalid_key(format!("`{path}` is invalid"), hint.into());
        }
        let message = without_values(&text);
        match path.as_str() {
            "." => invalid_key(message, "add the missing key; `docker compose config` must print it".into()),
            key => invalid_key(format!("`{key}`: {message}"), format!("correct or remove `{key}`")),
        }
    })
}

/// Marks an error of serde whose text is the hint for an invalid key.
const INVALID: &str = "\u{1}";

/// The error of an invalid key.
pub fn invalid<E: serde::de::Error>(hint: &str) -> E {
    E::custom(format!("{INVALID}{hint}"))
}

/// A message of serde without the value.
fn without_values(message: &str) -> String {
    let Some((what, rest)) = message.split_once(": ") else { return message.into() };
    let kind = rest.split([' ', ',']).next().unwrap_or_default();
    match (what, rest.rsplit_once(", expected ")) {
        ("invalid type" | "invalid value", Some((_, expected))) => {
            plain_message(&format!("{what}: {kind}, expected {expected}"))
        }
        _ => plain_message(message),
    }
}

/// Message of serde, in terms of YAML.
pub fn plain_message(message: &str) -> String {
    let words = [
        ("expected u16", "expected a whole number up to 65535"),
        ("expected u32", "expected a whole number"),
        ("expected usize", "expected a whole number"),
        ("expected a Value::Tagged enum", "expected a word"),
        ("expected an array of length 2", "expected two names"),
        (": sequence", ": a list"),
        (": map", ": a map"),
        ("expected a sequence", "expected a list"),
        ("expected a string", "expected a text"),
        (": string", ": a text"),
        (": unit value", ": nothing"),
    ];
    words.iter().fold(message.to_string(), |message, (serde, plain)| message.replace(serde, plain))
}

/// Checks names. Compose prints only valid ones, but docker or a shell could misread others.
///
/// # Errors
/// A name that is no option-safe path component.
pub fn check(project: &RawProject, source: &str) -> Result<(), ConfigError> {
    let invalid = |key: String, reason: &str| ConfigError {
        message: format!("{source}: `{}` {reason}", printable(&key)),
        hint: "a name has letters, digits, `_`, `-` and `.`, and begins with a letter or a digit".into(),
    };
    if !is_name(&project.name) {
        return Err(invalid("name".into(), "is no valid project name"));
    }
    for (name, service) in &project.services {
        if !is_name(name) {
            return Err(invalid(format!("services.{name}"), "is no valid service name"));
        }
        let image = service.image.as_deref().unwrap_or("x");
        if !image.starts_with(|c: char| c.is_ascii_alphanumeric()) || image.contains(|c: char| c <= ' ') {
            return Err(invalid(format!("services.{name}.image"), "is no valid image reference"));
        }
    }
    Ok(())
}

/// A valid service name of Compose that docker cannot mistake for a flag.
pub fn is_name(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(inside)
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

impl RawProject {
    /// Compose copies a secret or config into the container at start, because its content is text or an environment
    /// variable.
    pub fn copies_grants_at_start(&self, service: &RawService) -> bool {
        let is_copied = |grant: &RawGrant, all: &BTreeMap<String, Value>| {
            let keys = ["environment", "content"];
            all.get(&grant.source).is_some_and(|d| keys.iter().any(|k| d.get(k).is_some()))
        };
        service.secrets.iter().any(|g| is_copied(g, &self.secrets))
            || service.configs.iter().any(|g| is_copied(g, &self.configs))
    }

    /// Named volumes of a service: engine name and path.
    pub fn volumes_of(&self, service: &RawService) -> Vec<(String, String)> {
        let full = |key: &String| {
            let named = self.volumes.get(key).and_then(|v| v.as_ref()?.name.clone());
            named.unwrap_or_else(|| format!("{}_{key}", self.name))
        };
        let volumes = service.volumes.iter().filter(|m| m.kind == "volume");
        volumes.filter_map(|m| Some((full(m.source.as_ref()?), m.target.clone()))).collect()
    }

    /// Engine names of the networks of a service.
    pub fn networks_of(&self, service: &RawService) -> Vec<String> {
        let full = |key: &String| {
            let named = self.networks.get(key).and_then(|n| n.name.clone());
            named.unwrap_or_else(|| format!("{}_{key}", self.name))
        };
        service.networks.keys().map(full).collect()
    }
}

impl RawService {
    /// Single host ports. From an empty one or a range, Docker chooses.
    pub fn fixed_ports(&self) -> Vec<String> {
        let published = self.ports.iter().filter_map(|p| p.published.as_ref().map(text));
        published.filter(|p| p.parse::<u16>().is_ok_and(|port| port > 0)).collect()
    }

    /// Ranges of host ports from which Docker chooses, with their size.
    pub fn port_ranges(&self) -> Vec<(String, usize)> {
        let published = self.ports.iter().filter_map(|p| p.published.as_ref().map(text));
        let size = |range: &String| {
            let (first, last) = range.split_once('-')?;
            let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
            Some((last + 1).saturating_sub(first))
        };
        published.filter_map(|range| size(&range).map(|size| (range, size))).collect()
    }

    /// Addresses that only one container can have: key and address.
    pub fn own_addresses(&self) -> Vec<(String, String)> {
        let of_network = |(network, settings): (&String, &Value)| {
            let keys = ["ipv4_address", "ipv6_address", "mac_address"];
            let set = keys.iter().filter_map(|key| Some((key, settings.get(key)?.as_str()?)));
            set.map(|(key, address)| (format!("networks.{network}.{key}"), address.to_string()))
                .collect::<Vec<_>>()
        };
        let own = self.mac_address.iter().map(|address| ("mac_address".to_string(), address.clone()));
        own.chain(self.networks.iter().flat_map(of_network)).collect()
    }

    /// Services whose namespaces or volumes this one shares: key and service.
    pub fn hosts(&self) -> Vec<(&'static str, String)> {
        let modes = [("network_mode", &self.network_mode), ("pid", &self.pid), ("ipc", &self.ipc)];
        let service = |mode: &Option<String>| Some(mode.as_ref()?.strip_prefix("service:")?.to_string());
        let modes = modes.into_iter().filter_map(|(key, mode)| Some((key, service(mode)?)));
        let volumes = self.volumes_from.iter().filter(|from| !from.starts_with("container:"));
        let volumes =
            volumes.map(|from| ("volumes_from", from.split(':').next().unwrap_or_default().to_string()));
        modes.chain(volumes).collect()
    }

    /// All mount paths.
    pub fn mounted_paths(&self) -> Vec<String> {
        self.volumes.iter().map(|m| m.target.clone()).chain(self.tmpfs_paths()).collect()
    }

    fn tmpfs_paths(&self) -> impl Iterator<Item = String> + '_ {
        self.tmpfs.iter().map(|path| path.split(':').next().unwrap_or_default().to_string())
    }

    /// Paths of anonymous volumes.
    pub fn anonymous_volumes(&self) -> Vec<String> {
        let anonymous = self.volumes.iter().filter(|m| m.kind == "volume" && m.source.is_none());
        anonymous.map(|m| m.target.clone()).collect()
    }

    /// Two instances would write to the same volume or host folder. Sockets do not count.
    pub fn holds_volume(&self) -> bool {
        self.shared().next().is_some()
    }

    /// Paths of shared volumes and folders, without anonymous volumes, which belong to one container.
    pub fn shared_paths(&self) -> Vec<String> {
        self.shared().filter(|m| m.source.is_some()).map(|m| m.target.clone()).collect()
    }

    fn shared(&self) -> impl Iterator<Item = &RawMount> {
        let is_socket = |m: &RawMount| m.source.as_ref().is_some_and(|s| s.ends_with(".sock"));
        let is_shared = |m: &&RawMount| ["volume", "bind"].contains(&m.kind.as_str()) && !m.read_only;
        self.volumes.iter().filter(is_shared).filter(move |m| !is_socket(m))
    }

    /// `db:database` is a link to `db`.
    pub fn links(&self) -> Vec<String> {
        let service = |link: &String| link.split(':').next().unwrap_or_default().to_string();
        self.links.iter().map(service).collect()
    }

    /// The first process of a container, its restart policy and its memory.
    pub fn process(&self) -> CommandSpec {
        let words = |words: &Option<Vec<String>>| {
            words.as_ref().map(|all| all.iter().map(|w| unescape_dollars(w)).collect::<Vec<_>>())
        };
        let bytes = |value: &Option<Value>| value.as_ref().and_then(|v| text(v).parse().ok());
        let resources = &self.deploy.resources;
        let own_restart = self.restart.clone().filter(|r| !r.is_empty());
        let condition = self.deploy.restart_policy.as_ref().and_then(|p| p.condition.clone());
        CommandSpec {
            entrypoint: words(&self.entrypoint),
            command: words(&self.command),
            init: self.init == Some(true),
            stop_signal: self.stop_signal.clone(),
            stop_grace: self.stop_grace_period.as_deref().and_then(|g| humantime::parse_duration(g).ok()),
            restart: own_restart.or(condition),
            memory_limit: bytes(&resources.limits.memory).or(bytes(&self.mem_limit)),
            memory_reserved: bytes(&resources.reservations.memory).or(bytes(&self.mem_reservation)),
        }
    }

    /// Container ports in the file, as `3000/tcp`.
    pub fn exposed(&self) -> Vec<String> {
        let named = self.expose.iter().flat_map(|port| each_port(&text(port)));
        let published =
            self.ports.iter().map(|p| format!("{}/{}", p.target, p.protocol.as_deref().unwrap_or("tcp")));
        named.chain(published).collect()
    }

    /// The build context, if it is a folder.
    pub fn build_context(&self) -> Option<String> {
        let context = self.build.as_ref()?.get("context")?.as_str()?;
        context.starts_with('/').then(|| unescape_dollars(context))
    }

    /// The healthcheck test; `NONE` if disabled.
    pub fn healthcheck_test(&self) -> Option<Vec<String>> {
        let healthcheck = self.healthcheck.as_ref()?;
        match (healthcheck.disable, &healthcheck.test[..]) {
            (true, _) => Some(vec!["NONE".into()]),
            (false, []) => None,
            (false, test) => Some(test.iter().map(|w| unescape_dollars(w)).collect()),
        }
    }

    /// Time after the start in which a failing healthcheck does not count.
    pub fn start_period(&self) -> Duration {
        let period = self.healthcheck.as_ref().and_then(|h| h.start_period.as_deref());
        period.and_then(|time| humantime::parse_duration(time).ok()).unwrap_or_default()
    }

    /// The healthcheck runs more often after the start.
    pub fn has_start_interval(&self) -> bool {
        self.healthcheck.as_ref().is_some_and(|h| h.start_interval.is_some())
    }

    /// Service name, container name and aliases.
    pub fn names(&self, service: &str) -> Vec<String> {
        let aliases = |network: &Value| -> Vec<String> {
            let list = network.get("aliases").and_then(Value::as_sequence);
            list.into_iter().flatten().filter_map(|a| a.as_str().map(String::from)).collect()
        };
        let own = std::iter::once(service.to_string()).chain(self.container_name.clone());
        own.chain(self.networks.values().flat_map(aliases)).collect()
    }

    pub fn labels(&self) -> BTreeMap<String, String> {
        self.labels.iter().map(|(k, v)| (unescape_dollars(k), unescape_dollars(&text(v)))).collect()
    }

    /// The environment, without variables that have no value.
    pub fn variables(&self) -> BTreeMap<String, String> {
        let set = self.environment.iter().filter_map(|(k, v)| Some((k, v.as_ref()?)));
        set.map(|(k, v)| (unescape_dollars(k), unescape_dollars(&text(v)))).collect()
    }

    /// Services whose replacement restarts this one.
    pub fn restarts_with(&self) -> Vec<String> {
        let all = self.depends_on.iter().filter(|(_, d)| d.restart);
        all.map(|(name, _)| name.clone()).collect()
    }

    /// Services that must be healthy before this one starts.
    pub fn needs_healthy(&self) -> Vec<String> {
        let is_needed = |d: &RawDependency| d.condition == "service_healthy" && d.required != Some(false);
        self.depends_on.iter().filter(|(_, d)| is_needed(d)).map(|(name, _)| name.clone()).collect()
    }

    pub fn dependencies(&self) -> BTreeMap<String, Completes> {
        let completes = |d: &RawDependency| d.condition == "service_completed_successfully";
        self.depends_on.iter().map(|(name, d)| (name.clone(), completes(d))).collect()
    }
}

/// The ports of `3000`, `3000/tcp` or `4000-4002/udp`, with their protocol.
fn each_port(text: &str) -> Vec<String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let range = ports.split_once('-').and_then(|(a, b)| Some(a.parse::<u16>().ok()?..=b.parse().ok()?));
    match range {
        Some(range) => range.map(|port| format!("{port}/{protocol}")).collect(),
        None => vec![format!("{ports}/{protocol}")],
    }
}

/// A scalar as text.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        _ => String::new(),
    }
}
