//! What is wanted: the project as Compose resolved it, its pairs, and the settings with their defaults. Pure.

mod command_spec;
mod compose;
mod pairs;
mod resolved;
mod settings;
mod update;
mod witness;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_yaml::Value;

pub use command_spec::CommandSpec;
use compose::{RawProject, RawService};
pub use pairs::Pair;
pub use resolved::ResolvedProject;
pub use settings::{
    AnonymousVolumes, ConfigError, DrainLayer, HealthLayer, HttpHealth, ProbeTiming, ProxyLayer,
    ServiceSettings, SettingsLayer, ShellCommand, StatusRanges,
};
use settings::{JobLayer, read_zd, undouble, wrong_setting};
use update::RawUpdate;
pub use update::{FailureAction, Update, UpdateLayer};
pub use witness::{WitnessFlags, WitnessSettings};

/// The `x-zd` of the project: the defaults of its services, and the pairs.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a map of keys")]
struct ProjectLayer {
    health: Option<HealthLayer>,
    drain: Option<DrainLayer>,
    proxy: Option<ProxyLayer>,
    before: Option<JobLayer>,
    after: Option<JobLayer>,
    anonymous_volumes: Option<AnonymousVolumes>,
    keep: Option<usize>,
    engine: Option<EngineKind>,
    witness: Option<Value>,
    #[serde(default)]
    pairs: BTreeMap<String, [String; 2]>,
}

/// One of Compose's lifecycle hooks, run by `docker exec`.
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

/// A step of Compose's `pre_start`, which runs in a container of its own before the service's first one starts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(expecting = "a map of keys")]
pub struct PreStartStep {
    #[serde(flatten)]
    pub hook: LifecycleHook,
    /// The service's own where there is none.
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
    /// How many releases can be gone back to.
    pub keep: usize,
    /// The engine that the file asks for.
    pub engine: Option<EngineKind>,
    pub witness: WitnessSettings,
}

/// Who runs the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// Compose, on one machine.
    Compose,
    /// Swarm, on many.
    Swarm,
}

impl EngineKind {
    pub fn parse(text: &str) -> Option<EngineKind> {
        match text {
            "compose" => Some(EngineKind::Compose),
            "swarm" => Some(EngineKind::Swarm),
            _ => None,
        }
    }
}

/// What the command line says, which goes before what the file says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FlagLayers {
    pub zd: SettingsLayer,
    pub update: UpdateLayer,
    pub rollback: UpdateLayer,
    pub keep: Option<usize>,
    pub witness: WitnessFlags,
}

/// Releases kept, where nobody says how many.
const KEEP: usize = 5;

#[derive(Debug)]
pub struct Service {
    pub name: String,
    /// The image reference that Compose runs; `PROJECT-SERVICE` where only `build` is given.
    pub image: String,
    pub builds: bool,
    /// The folder that its image is built from.
    pub build_context: Option<String>,
    /// `deploy.replicas` or `scale`; `None` keeps as many as run.
    pub replicas: Option<u32>,
    pub container_name: Option<String>,
    pub network_mode: Option<String>,
    /// Addresses that only one container can have, each with its key.
    pub own_addresses: Vec<(String, String)>,
    /// Services whose container this one lives in, each with the key that says so.
    pub hosts: Vec<(&'static str, String)>,
    /// The paths of its anonymous volumes.
    pub anonymous_volumes: Vec<String>,
    /// The paths in its containers that the file mounts something at.
    pub mounted_paths: Vec<String>,
    /// Names of its networks, as the engine knows them.
    pub networks: Vec<String>,
    /// Every name that Docker's DNS has for it.
    pub names: Vec<String>,
    pub labels: BTreeMap<String, String>,
    /// Host ports that only one container can have.
    pub fixed_ports: Vec<String>,
    /// Ranges of host ports, each with how many instances can have one of them.
    pub port_ranges: Vec<(String, usize)>,
    /// Ports of its containers that the file names, as `3000/tcp`.
    pub exposed: Vec<String>,
    /// The test of its healthcheck; `NONE` switches the image's off, and nothing leaves it.
    pub healthcheck: Option<Vec<String>>,
    /// Its healthcheck has a `start_interval`.
    pub has_start_interval: bool,
    pub environment: BTreeMap<String, String>,
    /// Services it depends on, and whether they only have to run to their end.
    pub depends_on: BTreeMap<String, Completes>,
    /// Services whose replacement restarts this one (`restart: true`).
    pub restarts_with: Vec<String>,
    /// Services that have to be healthy before it starts.
    pub needs_healthy: Vec<String>,
    /// Its named volumes, as the engine knows them, each with its path.
    pub named_volumes: Vec<(String, String)>,
    pub pre_start: Vec<PreStartStep>,
    pub post_start: Vec<LifecycleHook>,
    pub pre_stop: Vec<LifecycleHook>,
    /// Compose has to start it itself: it copies secrets or configs in at that moment.
    pub starts_by_compose: bool,
    /// Two of its instances would write to the same place.
    pub holds_volume: bool,
    /// The paths in its containers that are such a place.
    pub shared_paths: Vec<String>,
    /// Services that it is linked to.
    pub links: Vec<String>,
    pub process: CommandSpec,
    pub update: Update,
    /// What the file itself says of it.
    pub update_asked: UpdateLayer,
    pub rollback: Update,
    pub settings: ServiceSettings,
}

/// Whether a dependency is satisfied by having completed (`service_completed_successfully`).
pub type Completes = bool;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    #[default]
    StartFirst,
    StopFirst,
}

/// Something in the file that keeps two instances of a service from running side by side.
#[derive(Debug, PartialEq, Eq)]
pub enum Obstacle {
    ContainerName(String),
    FixedPort(String),
    NetworkMode(String),
    /// A key and its value.
    Address(String, String),
}

impl LifecycleHook {
    /// The options of the `docker exec` that runs it.
    pub fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        let mut add = |flag: &str, value: String| options.extend([flag.to_string(), value]);
        self.user.iter().for_each(|user| add("--user", user.clone()));
        self.working_dir.iter().for_each(|dir| add("--workdir", dir.clone()));
        options.extend(self.privileged.then(|| "--privileged".to_string()));
        options
    }
}

impl LifecycleHook {
    /// The variables that it is given; one without a value has the one of this process, if there is one.
    pub fn variables(&self) -> Vec<(String, String)> {
        let value = |name: &String, value: &Option<String>| match value {
            Some(value) => Some(undouble(value)),
            None => std::env::var(name).ok(),
        };
        self.environment.iter().filter_map(|(n, v)| Some((n.clone(), value(n, v)?))).collect()
    }
}

impl Project {
    /// Reads the YAML of `docker compose config`; `source` names the file in messages, `flags` override every service.
    ///
    /// # Errors
    /// An `x-zd` key that is unknown, of the wrong type or impossible, and a pair of services that are not there.
    pub fn read(yaml: &str, source: &str, flags: &FlagLayers) -> Result<Project, ConfigError> {
        let raw: RawProject = compose::read(yaml, source)?;
        compose::check(&raw, source)?;
        let zd: ProjectLayer = read_zd(raw.zd.as_ref(), source, "x-zd")?;
        let keep = flags.keep.or(zd.keep).unwrap_or(KEEP);
        if keep == 0 {
            return Err(ConfigError {
                message: format!("{source}: `x-zd.keep` (or `--keep`) is 0, and the running release is one"),
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
        let pairs = pairs::find(&raw.services, zd.pairs, source)?;
        Ok(Project { pairs, name: raw.name, services, keep, engine: zd.engine, witness })
    }

    /// The pair that a name stands for: the pair's own, or one of its sides'.
    pub fn pair(&self, name: &str) -> Option<&Pair> {
        self.pairs.iter().find(|p| p.name == name || p.sides.iter().any(|s| s == name))
    }
}

/// What the services of a project are read with.
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
        let has_deadline = zd.health.as_ref().is_some_and(|health| health.deadline.is_some());
        let mut settings = ServiceSettings::resolve(zd)
            .map_err(|(field, hint)| wrong_setting(context.source, name, &field, hint))?;
        if !has_deadline {
            settings.pace.wait_through(raw.start_period());
        }
        let project = context.project;
        let update = |key: &str, block: &Option<RawUpdate>| {
            let wish = block.as_ref().map(UpdateLayer::read).transpose();
            wish.map_err(|(field, hint)| ConfigError {
                message: format!("{}: `services.{name}.deploy.{key}.{field}` is impossible", context.source),
                hint,
            })
        };
        let updating = update("update_config", &raw.deploy.update_config)?;
        let going_back = update("rollback_config", &raw.deploy.rollback_config)?;
        let forward = Update::resolve(updating.as_ref(), &context.flags.update);
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
            starts_by_compose: project.makes_at_start(raw),
            holds_volume: raw.holds_volume(),
            shared_paths: raw.shared_paths(),
            links: raw.links(),
            process: raw.process(),
            rollback: Update::resolve_back(going_back.as_ref(), &context.flags.rollback, &forward),
            update: forward,
            update_asked: updating.unwrap_or_default(),
            settings,
        })
    }

    /// What keeps a second instance from running beside the first.
    pub fn obstacles(&self) -> Vec<Obstacle> {
        let name = self.container_name.iter().cloned().map(Obstacle::ContainerName);
        let ports = self.fixed_ports.iter().cloned().map(Obstacle::FixedPort);
        let mode = self.network_mode.iter().cloned().map(Obstacle::NetworkMode);
        let own_network = |o: &Obstacle| !matches!(o, Obstacle::NetworkMode(m) if m == "bridge");
        let addresses = self.own_addresses.iter().cloned();
        let addresses = addresses.map(|(key, address)| Obstacle::Address(key, address));
        name.chain(ports).chain(mode.filter(own_network)).chain(addresses).collect()
    }

    /// The services it needs, and theirs, each with whether having completed is enough.
    pub fn needs<'a>(&'a self, project: &'a Project) -> BTreeMap<&'a str, Completes> {
        let mut found = BTreeMap::new();
        let mut open = vec![self];
        while let Some(service) = open.pop() {
            for (name, completes) in &service.depends_on {
                if found.insert(name.as_str(), *completes).is_none() {
                    open.extend(project.services.get(name));
                }
            }
        }
        found
    }
}

/// # Errors
/// The key of a hook that would run nothing.
/// Names, each also as `NAME.NETWORK`: Docker's DNS has both.
fn on_networks(mut names: Vec<String>, networks: &[String]) -> Vec<String> {
    let full = networks.iter().flat_map(|n| names.iter().map(move |name| format!("{name}.{n}")));
    names.extend(full.collect::<Vec<_>>());
    names
}

fn no_empty_hook(raw: &RawService) -> Result<(), String> {
    let lists = [("post_start", &raw.post_start), ("pre_stop", &raw.pre_stop)];
    let hooks =
        lists.into_iter().flat_map(|(key, all)| all.iter().enumerate().map(move |(n, h)| (key, n, h)));
    // An init container without a command runs its image's own, if the image is another one.
    let steps = raw.pre_start.iter().enumerate().filter(|(_, step)| step.image.is_none());
    let mut all = hooks.chain(steps.map(|(n, step)| ("pre_start", n, &step.hook)));
    match all.find(|(.., hook)| hook.command.is_empty()) {
        Some((key, n, _)) => Err(format!("{key}[{n}]")),
        None => Ok(()),
    }
}

impl Obstacle {
    /// What is wrong and its fix, for one service.
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
                    "remove `{port}:…` from `services.{service}.ports` and let the proxy reach the container's own port (`expose`)"
                ),
            ),
            Obstacle::NetworkMode(mode) => (
                format!(
                    "`{service}` has `network_mode: {mode}`, so its instances share one address and cannot be told apart"
                ),
                format!(
                    "remove `services.{service}.network_mode` and put the service on a network that it shares with the proxy"
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
