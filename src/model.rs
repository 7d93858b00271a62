//! The project as Compose resolved it, with its pairs and its settings. Pure.

pub mod args;
mod command_spec;
mod compose;
mod location;
mod pairs;
mod resolved;
mod settings;
mod update;
mod witness;

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::Deserialize;
use serde_yaml::Value;

pub use command_spec::CommandSpec;
use compose::{RawProject, RawService};
pub use location::{COMPOSE_FILES, ComposeFlags};
pub use pairs::Pair;
pub use resolved::ResolvedProject;
pub use settings::{
    AnonymousVolumes, ConfigError, DrainLayer, HealthLayer, HttpHealth, ProbeTiming, ProxyLayer,
    ServiceSettings, SettingsLayer, ShellCommand, StatusRanges,
};
use settings::{JobLayer, Layer, or_default, read_zd, unescape_dollars};
pub use update::{FailureAction, Order, RollbackConfigArgs, Update, UpdateLayer, word};
pub use witness::{WitnessArgs, WitnessSettings};

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
    keep: Option<usize>,
    engine: Option<EngineKind>,
    witness: Option<Value>,
    pairs: BTreeMap<String, [String; 2]>,
}

/// A lifecycle hook of Compose, run by `docker exec`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(expecting = "a map of keys")]
pub struct LifecycleHook {
    #[serde(default)]
    pub command: ShellCommand,
    pub user: Option<String>,
    #[serde(default)]
    pub privileged: bool,
    pub working_dir: Option<String>,
    #[serde(default)]
    pub environment: BTreeMap<String, Option<String>>,
}

/// A step of `pre_start`, which runs in its own container before the first container of the service starts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(expecting = "a map of keys")]
pub struct PreStartStep {
    #[serde(flatten)]
    pub hook: LifecycleHook,
    /// None: the image of the service.
    pub image: Option<String>,
    #[serde(default)]
    pub per_replica: bool,
}

/// A project as `docker compose config` resolved it.
#[derive(Debug)]
pub struct Project {
    pub name: String,
    pub services: BTreeMap<String, Service>,
    pub pairs: Vec<Pair>,
    /// Number of releases to keep.
    pub keep: usize,
    /// The engine in the file.
    pub engine: Option<EngineKind>,
    pub witness: WitnessSettings,
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

#[derive(Debug)]
pub struct Service {
    pub name: String,
    /// The image reference that Compose runs; `PROJECT-SERVICE` where only `build` is given.
    pub image: String,
    pub builds: bool,
    /// The build context, if it is a folder.
    pub build_context: Option<String>,
    /// `deploy.replicas` or `scale`; `None` keeps the running number.
    pub replicas: Option<u32>,
    pub container_name: Option<String>,
    pub network_mode: Option<String>,
    /// Addresses that only one container can have: key and address.
    pub own_addresses: Vec<(String, String)>,
    /// Services whose namespaces or volumes this one shares: key and service.
    pub hosts: Vec<(&'static str, String)>,
    /// Paths of anonymous volumes.
    pub anonymous_volumes: Vec<String>,
    /// All mount paths of the file.
    pub mounted_paths: Vec<String>,
    /// Engine names of its networks.
    pub networks: Vec<String>,
    /// All DNS names.
    pub names: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// Host ports that only one container can have.
    pub fixed_ports: Vec<String>,
    /// Ranges of host ports, with their size.
    pub port_ranges: Vec<(String, usize)>,
    /// Container ports in the file, as `3000/tcp`.
    pub exposed: Vec<String>,
    /// The healthcheck test: `NONE` disables the healthcheck of the image, `None` keeps it.
    pub healthcheck: Option<Vec<String>>,
    /// The healthcheck has a `start_interval`.
    pub has_start_interval: bool,
    pub environment: BTreeMap<String, String>,
    /// Dependencies, and whether they only have to complete.
    pub depends_on: BTreeMap<String, Completes>,
    /// Services whose replacement restarts this one (`restart: true`).
    pub restarts_with: Vec<String>,
    /// Services that must be healthy before it starts.
    pub needs_healthy: Vec<String>,
    /// Named volumes: engine name and path.
    pub named_volumes: Vec<(String, String)>,
    pub pre_start: Vec<PreStartStep>,
    pub post_start: Vec<LifecycleHook>,
    pub pre_stop: Vec<LifecycleHook>,
    /// Compose has to start the container, because it copies secrets or configs into it at start.
    pub starts_by_compose: bool,
    /// Two instances would write to the same volume or host folder.
    pub holds_volume: bool,
    /// Paths of these volumes and folders.
    pub shared_paths: Vec<String>,
    /// Services in `links`.
    pub links: Vec<String>,
    pub process: CommandSpec,
    pub update: Update,
    /// `update_config` of the file, without defaults.
    pub update_in_file: UpdateLayer,
    pub rollback: Update,
    pub settings: ServiceSettings,
}

/// The dependency only has to complete (`service_completed_successfully`).
pub type Completes = bool;

/// A key of the file that prevents two instances from running at the same time.
#[derive(Debug, PartialEq, Eq)]
pub enum Obstacle {
    ContainerName(String),
    FixedPort(String),
    NetworkMode(String),
    /// A key and its value.
    Address(String, String),
}

impl LifecycleHook {
    /// Options for `docker exec`.
    pub fn exec_options(&self) -> Vec<String> {
        let mut options = Vec::new();
        let mut add = |flag: &str, value: String| options.extend([flag.to_string(), value]);
        self.user.iter().for_each(|user| add("--user", user.clone()));
        self.working_dir.iter().for_each(|dir| add("--workdir", dir.clone()));
        options.extend(self.privileged.then(|| "--privileged".to_string()));
        options
    }
}

impl LifecycleHook {
    /// Variables of the hook. A variable without a value takes it from this process, if set.
    pub fn variables(&self) -> Vec<(String, String)> {
        let value = |name: &String, value: &Option<String>| match value {
            Some(value) => Some(unescape_dollars(value)),
            None => std::env::var(name).ok(),
        };
        self.environment.iter().filter_map(|(n, v)| Some((n.clone(), value(n, v)?))).collect()
    }
}

impl Project {
    /// Parses the YAML of `docker compose config`. `source` names the file in messages; `flags` override every service.
    ///
    /// # Errors
    /// An `x-zd` key that is unknown, of the wrong type or invalid; a pair with an unknown service.
    pub fn read(yaml: &str, source: &str, flags: &FlagLayers) -> Result<Project, ConfigError> {
        let raw: RawProject = compose::read(yaml, source)?;
        compose::check(&raw, source)?;
        let zd: ProjectLayer = read_zd(raw.zd.as_ref(), source, "x-zd")?;
        let keep = flags.keep.or(zd.keep).unwrap_or(DEFAULT_KEEP);
        if keep == 0 {
            return Err(ConfigError {
                message: format!(
                    "{source}: `x-zd.keep` (or `--keep`) is 0, but the running release counts as well"
                ),
                hint: "set it to 1 or more".into(),
            });
        }
        let witness = WitnessSettings::read(zd.witness.as_ref(), &flags.witness, source)?;
        let defaults = SettingsLayer {
            health: zd.health,
            drain: zd.drain,
            proxy: zd.proxy,
            before: zd.before,
            after: zd.after,
            anonymous_volumes: zd.anonymous_volumes,
        };
        let context = ParseContext { project: &raw, source, defaults: &defaults, flags };
        let mut services = BTreeMap::new();
        for (name, service) in &raw.services {
            services.insert(name.clone(), Service::read(name, service, &context)?);
        }
        let pairs = pairs::find_pairs(&raw.services, zd.pairs, source)?;
        Ok(Project { pairs, name: raw.name, services, keep, engine: zd.engine, witness })
    }

    /// The pair with this name, or with a side of this name.
    pub fn pair(&self, name: &str) -> Option<&Pair> {
        self.pairs.iter().find(|p| p.name == name || p.sides.iter().any(|s| s == name))
    }
}

/// Context for parsing the services.
struct ParseContext<'a> {
    project: &'a RawProject,
    source: &'a str,
    defaults: &'a SettingsLayer,
    flags: &'a FlagLayers,
}

impl Service {
    fn read(name: &str, raw: &RawService, context: &ParseContext) -> Result<Service, ConfigError> {
        let key = format!("services.{name}.x-zd");
        let own: SettingsLayer = read_zd(raw.zd.as_ref(), context.source, &key)?;
        no_empty_hook(raw).map_err(|hook| ConfigError {
            message: format!("{}: `services.{name}.{hook}.command` is empty", context.source),
            hint: "give it a command, or remove the hook".into(),
        })?;
        let zd = context.flags.zd.over(&own).over(context.defaults);
        let has_deadline = zd.health.deadline.is_some();
        let mut settings =
            ServiceSettings::resolve(zd).map_err(|invalid| invalid.of_service(context.source, name))?;
        if !has_deadline {
            settings.timing.wait_through(raw.start_period());
        }
        let project = context.project;
        let (update_config, rollback_config) = (&raw.deploy.update_config, &raw.deploy.rollback_config);
        let forward = Update::resolve(update_config.as_ref(), &context.flags.update);
        let networks = project.networks_of(raw);
        Ok(Service {
            name: name.into(),
            image: raw.image.clone().unwrap_or_else(|| format!("{}-{name}", project.name)),
            builds: raw.build.is_some(),
            build_context: raw.build_context(),
            replicas: raw.scale.or(raw.deploy.replicas),
            container_name: raw.container_name.clone(),
            network_mode: raw.network_mode.clone(),
            own_addresses: raw.own_addresses(),
            hosts: raw.hosts(),
            anonymous_volumes: raw.anonymous_volumes(),
            mounted_paths: raw.mounted_paths(),
            networks: networks.clone(),
            names: on_networks(raw.names(name), &networks),
            labels: raw.labels(),
            fixed_ports: raw.fixed_ports(),
            port_ranges: raw.port_ranges(),
            exposed: raw.exposed(),
            healthcheck: raw.healthcheck_test(),
            has_start_interval: raw.has_start_interval(),
            environment: raw.variables(),
            depends_on: raw.dependencies(),
            restarts_with: raw.restarts_with(),
            needs_healthy: raw.needs_healthy(),
            named_volumes: project.volumes_of(raw),
            pre_start: raw.pre_start.clone(),
            post_start: raw.post_start.clone(),
            pre_stop: raw.pre_stop.clone(),
            starts_by_compose: project.copies_grants_at_start(raw),
            holds_volume: raw.holds_volume(),
            shared_paths: raw.shared_paths(),
            links: raw.links(),
            process: raw.process(),
            rollback: Update::resolve_rollback(rollback_config.as_ref(), &context.flags.rollback, &forward),
            update: forward,
            update_in_file: update_config.clone().unwrap_or_default(),
            settings,
        })
    }

    /// Obstacles to a second instance.
    pub fn obstacles(&self) -> Vec<Obstacle> {
        let name = self.container_name.iter().cloned().map(Obstacle::ContainerName);
        let ports = self.fixed_ports.iter().cloned().map(Obstacle::FixedPort);
        let mode = self.network_mode.iter().cloned().map(Obstacle::NetworkMode);
        let own_network = |o: &Obstacle| !matches!(o, Obstacle::NetworkMode(m) if m == "bridge");
        let addresses = self.own_addresses.iter().cloned();
        let addresses = addresses.map(|(key, address)| Obstacle::Address(key, address));
        name.chain(ports).chain(mode.filter(own_network)).chain(addresses).collect()
    }

    /// Direct and indirect dependencies, and whether they only have to complete.
    pub fn needs<'a>(&'a self, project: &'a Project) -> BTreeMap<&'a str, Completes> {
        let mut needed = BTreeMap::new();
        let mut queue = vec![self];
        while let Some(service) = queue.pop() {
            for (name, completes) in &service.depends_on {
                if needed.insert(name.as_str(), *completes).is_none() {
                    queue.extend(project.services.get(name));
                }
            }
        }
        needed
    }
}

/// Names, each also as `NAME.NETWORK`: the DNS of Docker has both.
fn on_networks(mut names: Vec<String>, networks: &[String]) -> Vec<String> {
    let qualified = networks.iter().flat_map(|n| names.iter().map(move |name| format!("{name}.{n}")));
    names.extend(qualified.collect::<Vec<_>>());
    names
}

/// # Errors
/// The key of a hook without a command.
fn no_empty_hook(raw: &RawService) -> Result<(), String> {
    let lists = [("post_start", &raw.post_start), ("pre_stop", &raw.pre_stop)];
    let hooks =
        lists.into_iter().flat_map(|(key, all)| all.iter().enumerate().map(move |(n, h)| (key, n, h)));
    // An init container of another image may use the command of that image.
    let steps = raw.pre_start.iter().enumerate().filter(|(_, step)| step.image.is_none());
    let mut all = hooks.chain(steps.map(|(n, step)| ("pre_start", n, &step.hook)));
    match all.find(|(.., hook)| hook.command.is_empty()) {
        Some((key, n, _)) => Err(format!("{key}[{n}]")),
        None => Ok(()),
    }
}

impl Obstacle {
    /// Message and hint for a service.
    pub fn explain(&self, service: &str) -> (String, String) {
        match self {
            Obstacle::ContainerName(name) => (
                format!(
                    "`{service}` has `container_name: {name}`, so a new instance cannot start beside the old one"
                ),
                format!(
                    "remove `services.{service}.container_name`; other containers reach it by its service name `{service}`"
                ),
            ),
            Obstacle::FixedPort(port) => (
                format!("`{service}` publishes host port {port}, which only one instance can have"),
                format!(
                    "remove `{port}:…` from `services.{service}.ports` and let the proxy use the container port (`expose`)"
                ),
            ),
            Obstacle::NetworkMode(mode) => (
                format!(
                    "`{service}` has `network_mode: {mode}`, so its instances share one address and cannot be distinguished"
                ),
                format!(
                    "remove `services.{service}.network_mode` and put the service on a network of the proxy"
                ),
            ),
            Obstacle::Address(key, address) => (
                format!("`{service}` has `{key}: {address}`, an address that only one instance can have"),
                format!(
                    "remove `services.{service}.{key}`; other containers reach it by its service name `{service}`"
                ),
            ),
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod properties;
