//! The parts of `docker compose config` that a deploy looks at. Small structs of our own: the public crates for the
//! Compose specification reject keys that Compose accepts.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_yaml::Value;

use super::settings::undouble;
use super::update::RawUpdate;
use super::{Completes, Hook};

#[derive(Deserialize)]
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
}

#[derive(Deserialize)]
pub struct RawNetwork {
    name: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct RawService {
    pub image: Option<String>,
    pub build: Option<Value>,
    pub scale: Option<u32>,
    pub container_name: Option<String>,
    pub network_mode: Option<String>,
    networks: BTreeMap<String, Value>,
    ports: Vec<RawPort>,
    expose: Vec<Value>,
    healthcheck: Option<RawHealthcheck>,
    pub environment: BTreeMap<String, Option<Value>>,
    labels: BTreeMap<String, Value>,
    depends_on: BTreeMap<String, RawDependency>,
    pub post_start: Vec<Hook>,
    pub pre_stop: Vec<Hook>,
    secrets: Vec<RawGrant>,
    configs: Vec<RawGrant>,
    volumes: Vec<RawMount>,
    pub deploy: RawDeploy,
    #[serde(rename = "x-zd")]
    pub zd: Option<Value>,
}

#[derive(Deserialize)]
pub struct RawHealthcheck {
    #[serde(default)]
    test: Vec<String>,
    #[serde(default)]
    disable: bool,
}

#[derive(Deserialize)]
pub struct RawPort {
    target: u16,
    protocol: Option<String>,
    published: Option<Value>,
}

#[derive(Deserialize)]
pub struct RawDependency {
    condition: String,
}

#[derive(Deserialize)]
pub struct RawGrant {
    source: String,
}

#[derive(Deserialize)]
pub struct RawMount {
    #[serde(rename = "type")]
    kind: String,
    source: Option<String>,
    #[serde(default)]
    read_only: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub struct RawDeploy {
    pub replicas: Option<u32>,
    pub update_config: Option<RawUpdate>,
    pub rollback_config: Option<RawUpdate>,
}

impl RawProject {
    /// Whether Compose itself copies content into a service's container when it starts it: a secret or config that is
    /// made of an environment variable or of text.
    pub fn makes_at_start(&self, service: &RawService) -> bool {
        let made = |grant: &RawGrant, all: &BTreeMap<String, Value>| {
            let keys = ["environment", "content"];
            all.get(&grant.source).is_some_and(|d| keys.iter().any(|k| d.get(k).is_some()))
        };
        service.secrets.iter().any(|g| made(g, &self.secrets))
            || service.configs.iter().any(|g| made(g, &self.configs))
    }

    /// The engine's names of a service's networks.
    pub fn networks_of(&self, service: &RawService) -> Vec<String> {
        let full = |key: &String| {
            let named = self.networks.get(key).and_then(|n| n.name.clone());
            named.unwrap_or_else(|| format!("{}_{key}", self.name))
        };
        service.networks.keys().map(full).collect()
    }
}

impl RawService {
    /// Host ports that are one number; an empty one or a range is Docker's to choose from.
    pub fn fixed_ports(&self) -> Vec<String> {
        let published = self.ports.iter().filter_map(|p| p.published.as_ref().map(text));
        published.filter(|p| p.parse::<u16>().is_ok_and(|port| port > 0)).collect()
    }

    /// Whether two of its instances would write to the same place: a volume or a folder of the host. A socket is none.
    pub fn holds_volume(&self) -> bool {
        let is_socket = |m: &RawMount| m.source.as_ref().is_some_and(|s| s.ends_with(".sock"));
        let is_shared = |m: &&RawMount| ["volume", "bind"].contains(&m.kind.as_str()) && !m.read_only;
        self.volumes.iter().filter(is_shared).any(|m| !is_socket(m))
    }

    /// The ports of its containers that the file names, as `3000/tcp`.
    pub fn exposed(&self) -> Vec<String> {
        let named = self.expose.iter().flat_map(|port| each_port(&text(port)));
        let published =
            self.ports.iter().map(|p| format!("{}/{}", p.target, p.protocol.as_deref().unwrap_or("tcp")));
        named.chain(published).collect()
    }

    /// The folder that its image is built from, where it is one.
    pub fn build_context(&self) -> Option<String> {
        let context = self.build.as_ref()?.get("context")?.as_str()?;
        context.starts_with('/').then(|| undouble(context))
    }

    /// The test of its healthcheck; `NONE` where it is switched off.
    pub fn healthcheck_test(&self) -> Option<Vec<String>> {
        let healthcheck = self.healthcheck.as_ref()?;
        match (healthcheck.disable, &healthcheck.test[..]) {
            (true, _) => Some(vec!["NONE".into()]),
            (false, []) => None,
            (false, test) => Some(test.iter().map(|w| undouble(w)).collect()),
        }
    }

    /// Its own name, its container's where the file sets it, and its aliases.
    pub fn names(&self, service: &str) -> Vec<String> {
        let aliases = |network: &Value| -> Vec<String> {
            let list = network.get("aliases").and_then(Value::as_sequence);
            list.into_iter().flatten().filter_map(|a| a.as_str().map(String::from)).collect()
        };
        let own = std::iter::once(service.to_string()).chain(self.container_name.clone());
        own.chain(self.networks.values().flat_map(aliases)).collect()
    }

    pub fn labels(&self) -> BTreeMap<String, String> {
        self.labels.iter().map(|(k, v)| (undouble(k), undouble(&text(v)))).collect()
    }

    /// Its environment; a variable without a value is left out.
    pub fn variables(&self) -> BTreeMap<String, String> {
        let set = self.environment.iter().filter_map(|(k, v)| Some((k, v.as_ref()?)));
        set.map(|(k, v)| (undouble(k), undouble(&text(v)))).collect()
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
