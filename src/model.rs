//! The project as Compose resolved it, with its pairs and its settings. Pure.

pub mod args;
mod compose;
mod data_store;
mod hold;
mod location;
mod notify;
mod pairs;
mod resolved;
mod scheduler;
mod service;
mod settings;
mod update;
mod witness;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;
use serde_yaml::Value;

pub use hold::SingleCause;
pub use location::{COMPOSE_FILES, ComposeFlags, override_name};
pub use notify::{Receiver, ReceiverList};
pub use pairs::Pair;
pub use resolved::{Relay, ResolvedProject};
pub use service::{DependsOnCondition, LifecycleHook, Port, Service, image_name};
use service::{Grant, SettingsContext};
pub use settings::{
    AnonymousVolumes, DrainLayer, HealthLayer, HttpHealth, ProbeTiming, ProxyLayer, SettingsLayer,
    StatusRanges,
};
use settings::{JobLayer, or_default, read_zd};
pub use update::{FailureAction, Order, RollbackConfigArgs, Update, UpdateLayer, word};
pub use witness::{WitnessArgs, WitnessSettings};

/// An invalid key of the configuration, with a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    pub message: String,
    pub hint: String,
}

/// The top-level `x-zd`: pairs, and defaults for the services.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a map of keys")]
struct ProjectLayer {
    #[serde(deserialize_with = "or_default")]
    health: HealthLayer,
    #[serde(deserialize_with = "or_default")]
    drain: DrainLayer,
    #[serde(deserialize_with = "or_default")]
    proxy: ProxyLayer,
    before: Option<JobLayer>,
    after: Option<JobLayer>,
    anonymous_volumes: Option<AnonymousVolumes>,
    #[serde(deserialize_with = "settings::duration")]
    hold: Option<Duration>,
    keep: Option<usize>,
    engine: Option<EngineKind>,
    witness: Option<Value>,
    notify: Option<Value>,
    pairs: BTreeMap<String, [String; 2]>,
}

/// A project as `docker compose config` resolved it.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a map of keys")]
pub struct Project {
    pub name: String,
    #[serde(default)]
    pub services: BTreeMap<String, Service>,
    #[serde(default)]
    secrets: BTreeMap<String, Value>,
    #[serde(default)]
    configs: BTreeMap<String, Value>,
    #[serde(default)]
    networks: BTreeMap<String, Option<EngineObject>>,
    #[serde(default)]
    volumes: BTreeMap<String, Option<EngineObject>>,
    #[serde(rename = "x-zd")]
    zd: Option<Value>,
    #[serde(skip)]
    pub pairs: Vec<Pair>,
    /// Profiles of services, also of those whose profiles are off and that are not in `services`.
    #[serde(skip)]
    pub profiles: BTreeMap<String, Vec<String>>,
    /// Number of releases to keep.
    #[serde(skip)]
    pub keep: usize,
    /// The engine in the file.
    #[serde(skip)]
    pub engine: Option<EngineKind>,
    #[serde(skip)]
    pub witness: WitnessSettings,
    /// Receivers of the result of a rollout.
    #[serde(skip)]
    pub notify: Vec<Receiver>,
}

/// A network or a volume.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a map of keys")]
struct EngineObject {
    name: Option<String>,
    /// A network without access from outside.
    #[serde(default)]
    internal: bool,
}

/// The engine that runs the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    // Compose, on one host.
    Compose,
    // Swarm, on several nodes.
    Swarm,
}

/// Settings of the command line, which override the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FlagLayers {
    pub zd: SettingsLayer,
    pub update: UpdateLayer,
    pub rollback: UpdateLayer,
    pub keep: Option<usize>,
    pub witness: WitnessArgs,
}

/// Default for `keep`.
const DEFAULT_KEEP: usize = 5;

impl Project {
    /// Parses the YAML of `docker compose config`. `source` names the file in messages; `flags` override every service.
    ///
    /// # Errors
    /// An `x-zd` key that is unknown, of the wrong type or invalid; a pair with an unknown service.
    pub fn read(yaml: &str, source: &str, flags: &FlagLayers) -> Result<Project, ConfigError> {
        let mut project = compose::read(yaml, source)?;
        let zd: ProjectLayer = read_zd(project.zd.as_ref(), source, "x-zd")?;
        project.keep = keep(flags.keep.or(zd.keep), source)?;
        project.engine = zd.engine;
        project.witness = WitnessSettings::read(zd.witness.as_ref(), &flags.witness, source)?;
        project.notify = notify::read(zd.notify.as_ref(), source)?;
        let defaults = SettingsLayer {
            health: zd.health,
            drain: zd.drain,
            proxy: zd.proxy,
            before: zd.before,
            after: zd.after,
            anonymous_volumes: zd.anonymous_volumes,
            hold: zd.hold,
        };
        let context = SettingsContext { source, defaults: &defaults, flags };
        let mut services = std::mem::take(&mut project.services);
        let mounted: Vec<String> = services.values().flat_map(Service::mounted_sources).collect();
        for (name, service) in &mut services {
            service.name = name.clone();
            let is_common = |source: &String| mounted.iter().filter(|other| *other == source).count() > 1;
            service.common_sources = service.mounted_sources().into_iter().filter(is_common).collect();
            service.complete(&project, &context)?;
        }
        project.pairs = pairs::find_pairs(&services, zd.pairs, source)?;
        project.services = services;
        Ok(project)
    }

    /// The pair with this name, or with a side of this name.
    pub fn pair(&self, name: &str) -> Option<&Pair> {
        self.pairs.iter().find(|p| p.name == name || p.sides.iter().any(|s| s == name))
    }

    /// Engine name of a network.
    fn network_name(&self, key: &str) -> String {
        self.engine_name(&self.networks, key)
    }

    /// Engine name of a volume.
    fn volume_name(&self, key: &str) -> String {
        self.engine_name(&self.volumes, key)
    }

    fn engine_name(&self, objects: &BTreeMap<String, Option<EngineObject>>, key: &str) -> String {
        let named = objects.get(key).and_then(|object| object.as_ref()?.name.clone());
        named.unwrap_or_else(|| format!("{}_{key}", self.name))
    }

    /// The network has no access from outside.
    pub fn is_internal(&self, network_key: &str) -> bool {
        self.networks.get(network_key).and_then(Option::as_ref).is_some_and(|network| network.internal)
    }

    /// Compose copies a secret or config into the container at start, because its content is text or an environment
    /// variable.
    fn copies_grants_at_start(&self, service: &Service) -> bool {
        let is_copied = |grant: &Grant, all: &BTreeMap<String, Value>| {
            let keys = ["environment", "content"];
            all.get(&grant.source).is_some_and(|d| keys.iter().any(|k| d.get(k).is_some()))
        };
        service.secrets.iter().any(|g| is_copied(g, &self.secrets))
            || service.configs.iter().any(|g| is_copied(g, &self.configs))
    }
}

fn keep(keep: Option<usize>, source: &str) -> Result<usize, ConfigError> {
    match keep.unwrap_or(DEFAULT_KEEP) {
        0 => Err(ConfigError {
            message: format!(
                "{source}: `x-zd.keep` (or `--keep`) is 0, but the running release counts as well"
            ),
            hint: "set it to 1 or more".into(),
        }),
        keep => Ok(keep),
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod properties;
