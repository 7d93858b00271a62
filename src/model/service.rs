//! A service of `docker compose config`. The structs are our own, because the public crates for the Compose
//! specification reject keys that Compose accepts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_yaml::Value;

use super::ConfigError;
use super::settings::{
    Layer, ServiceSettings, SettingsLayer, ShellCommand, or_default, read_zd, text, text_or_number,
    unescape_dollars,
};
use super::update::{Update, UpdateLayer};
use super::{FlagLayers, Project};

/// Default of Docker for `stop_grace_period`.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// A service, with the keys of the file that a deploy needs.
#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a map of keys")]
pub struct Service {
    #[serde(skip)]
    pub name: String,
    #[serde(rename = "image")]
    pub image_in_file: Option<String>,
    /// The image reference that Compose runs; `PROJECT-SERVICE` where only `build` is given.
    #[serde(skip)]
    pub image: String,
    pub(super) build: Option<Value>,
    scale: Option<u32>,
    pub container_name: Option<String>,
    pub network_mode: Option<String>,
    pid: Option<String>,
    ipc: Option<String>,
    volumes_from: Vec<String>,
    mac_address: Option<String>,
    #[serde(rename = "networks")]
    network_settings: BTreeMap<String, Value>,
    /// Engine names of its networks.
    #[serde(skip)]
    pub networks: Vec<String>,
    /// All DNS names.
    #[serde(skip)]
    pub names: Vec<String>,
    pub ports: Vec<Port>,
    expose: Vec<Value>,
    healthcheck: Option<Healthcheck>,
    /// The environment, without variables that have no value.
    #[serde(deserialize_with = "texts")]
    pub environment: BTreeMap<String, String>,
    #[serde(deserialize_with = "texts")]
    pub labels: BTreeMap<String, String>,
    pub depends_on: BTreeMap<String, Dependency>,
    pub pre_start: Vec<PreStartStep>,
    pub post_start: Vec<LifecycleHook>,
    pub pre_stop: Vec<LifecycleHook>,
    pub(super) secrets: Vec<Grant>,
    pub(super) configs: Vec<Grant>,
    /// Compose has to start the container, because it copies secrets or configs into it at start.
    #[serde(skip)]
    pub starts_by_compose: bool,
    pub(super) volumes: Vec<Mount>,
    pub(super) devices: Vec<Value>,
    pub(super) gpus: Option<Value>,
    tmpfs: Vec<String>,
    /// Named volumes: engine name and path.
    #[serde(skip)]
    pub named_volumes: Vec<(String, String)>,
    /// Sources of its mounts that another service mounts too.
    #[serde(skip)]
    pub(super) common_sources: BTreeSet<String>,
    links: Vec<String>,
    /// Replaces the entrypoint and the command of the image.
    #[serde(deserialize_with = "words")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(deserialize_with = "words")]
    pub command: Option<Vec<String>>,
    /// The init of Docker is process 1 and passes signals on.
    #[serde(deserialize_with = "or_default")]
    pub init: bool,
    pub stop_signal: Option<String>,
    stop_grace_period: Option<String>,
    restart: Option<String>,
    #[serde(deserialize_with = "text_or_number")]
    mem_limit: Option<String>,
    #[serde(deserialize_with = "text_or_number")]
    mem_reservation: Option<String>,
    pub deploy: DeployKeys,
    #[serde(rename = "x-zd")]
    zd: Option<Value>,
    #[serde(skip)]
    pub update: Update,
    #[serde(skip)]
    pub rollback: Update,
    #[serde(skip)]
    pub settings: ServiceSettings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, expecting = "a map of keys")]
pub struct DeployKeys {
    replicas: Option<u32>,
    pub update_config: Option<UpdateLayer>,
    rollback_config: Option<UpdateLayer>,
    restart_policy: Value,
    pub(super) resources: Value,
}

#[derive(Debug, Deserialize)]
#[serde(expecting = "a map of keys")]
struct Healthcheck {
    #[serde(default)]
    test: Vec<String>,
    #[serde(default)]
    disable: bool,
    start_interval: Option<Value>,
    start_period: Option<String>,
}

/// A port of the container, and its port on the host.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a map of keys")]
pub struct Port {
    pub target: u16,
    protocol: Option<String>,
    /// A port or a range; from an empty one or a range, Docker chooses.
    #[serde(default, deserialize_with = "text_or_number")]
    pub published: Option<String>,
    pub host_ip: Option<String>,
}

impl Port {
    pub fn protocol(&self) -> &str {
        self.protocol.as_deref().unwrap_or("tcp")
    }

    /// The host port, if only one container can have it.
    pub fn fixed(&self) -> Option<u16> {
        self.published.as_ref()?.parse().ok().filter(|port| *port > 0)
    }
}

/// State of a dependency in which the service may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum DependsOnCondition {
    #[serde(rename = "service_healthy")]
    Healthy,
    /// The dependency is a job.
    #[serde(rename = "service_completed_successfully")]
    Completed,
    #[serde(other)]
    Started,
}

impl DependsOnCondition {
    pub fn is_completed(self) -> bool {
        self == DependsOnCondition::Completed
    }
}

#[derive(Debug, Deserialize)]
#[serde(expecting = "a map of keys")]
pub struct Dependency {
    pub condition: DependsOnCondition,
    #[serde(default)]
    restart: bool,
    required: Option<bool>,
}

/// A secret or config of a service.
#[derive(Debug, Deserialize)]
#[serde(expecting = "a map of keys")]
pub struct Grant {
    pub source: String,
}

/// Name in an image reference, without registry, folder, tag and digest.
pub fn image_name(image: &str) -> &str {
    let name = image.rsplit('/').next().unwrap_or_default();
    name.split([':', '@']).next().unwrap_or_default()
}

#[derive(Debug, Deserialize)]
#[serde(expecting = "a map of keys")]
pub(super) struct Mount {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) source: Option<String>,
    #[serde(default)]
    pub(super) target: String,
    #[serde(default)]
    read_only: bool,
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

    /// Variables of the hook. A variable without a value takes it from this process, if set.
    pub fn variables(&self) -> Vec<(String, String)> {
        let value = |name: &String, value: &Option<String>| match value {
            Some(value) => Some(unescape_dollars(value)),
            None => std::env::var(name).ok(),
        };
        self.environment.iter().filter_map(|(n, v)| Some((n.clone(), value(n, v)?))).collect()
    }
}

impl Service {
    /// Adds what follows from the project: names, volumes, and the settings of `x-zd` and flags.
    ///
    /// # Errors
    /// An `x-zd` key that is unknown, of the wrong type or invalid; a hook without a command.
    pub(super) fn complete(
        &mut self,
        project: &Project,
        context: &SettingsContext,
    ) -> Result<(), ConfigError> {
        let built = || format!("{}-{}", project.name, self.name);
        self.image = self.image_in_file.clone().unwrap_or_else(built);
        self.networks = self.network_keys().map(|key| project.network_name(key)).collect();
        self.names = self.dns_names();
        self.starts_by_compose = project.copies_grants_at_start(self);
        let volumes = self.volumes.iter().filter(|mount| mount.kind == "volume");
        self.named_volumes = volumes
            .filter_map(|mount| Some((project.volume_name(mount.source.as_ref()?), mount.target.clone())))
            .collect();
        self.configure(context)
    }

    fn configure(&mut self, context: &SettingsContext) -> Result<(), ConfigError> {
        let SettingsContext { source, defaults, flags } = context;
        let own: SettingsLayer = read_zd(self.zd.as_ref(), source, &format!("services.{}.x-zd", self.name))?;
        self.empty_hook().map_or(Ok(()), |hook| {
            Err(ConfigError {
                message: format!("{source}: `services.{}.{hook}.command` is empty", self.name),
                hint: "give it a command, or remove the hook".into(),
            })
        })?;
        let zd = flags.zd.over(&own).over(defaults);
        let has_deadline = zd.health.deadline.is_some();
        self.settings =
            ServiceSettings::resolve(zd).map_err(|invalid| invalid.of_service(source, &self.name))?;
        if !has_deadline {
            self.settings.timing.wait_through(self.start_period());
        }
        self.update = Update::resolve(self.deploy.update_config.as_ref(), &flags.update);
        self.rollback =
            Update::resolve_rollback(self.deploy.rollback_config.as_ref(), &flags.rollback, &self.update);
        Ok(())
    }

    /// The key of a hook without a command.
    fn empty_hook(&self) -> Option<String> {
        let hooks = |key: &'static str, all: &[LifecycleHook]| {
            all.iter().position(|hook| hook.command.is_empty()).map(|n| format!("{key}[{n}]"))
        };
        // An init container of another image may use the command of that image.
        let is_empty = |step: &PreStartStep| step.image.is_none() && step.hook.command.is_empty();
        let step = self.pre_start.iter().position(is_empty).map(|n| format!("pre_start[{n}]"));
        hooks("post_start", &self.post_start).or_else(|| hooks("pre_stop", &self.pre_stop)).or(step)
    }

    /// Service name, container name and aliases, each also as `NAME.NETWORK`: the DNS of Docker has both.
    fn dns_names(&self) -> Vec<String> {
        let aliases = self.network_settings.values().filter_map(|network| network["aliases"].as_sequence());
        let aliases = aliases.flatten().filter_map(|alias| alias.as_str().map(String::from));
        let names: Vec<_> =
            [self.name.clone()].into_iter().chain(self.container_name.clone()).chain(aliases).collect();
        let qualified =
            self.networks.iter().flat_map(|n| names.iter().map(move |name| format!("{name}.{n}")));
        names.iter().cloned().chain(qualified.collect::<Vec<_>>()).collect()
    }

    /// Keys of its networks in the file.
    pub fn network_keys(&self) -> impl Iterator<Item = &String> {
        self.network_settings.keys()
    }

    pub fn is_built(&self) -> bool {
        self.build.is_some()
    }

    /// The build context, if it is a folder.
    pub fn build_context(&self) -> Option<String> {
        let context = self.build.as_ref()?.get("context")?.as_str()?;
        context.starts_with('/').then(|| unescape_dollars(context))
    }

    /// `scale` or `deploy.replicas`; `None` keeps the running number.
    pub fn replicas(&self) -> Option<u32> {
        self.scale.or(self.deploy.replicas)
    }

    /// Host ports that only one container can have.
    pub fn fixed_ports(&self) -> Vec<String> {
        self.ports.iter().filter_map(Port::fixed).map(|port| port.to_string()).collect()
    }

    /// Ranges of host ports from which Docker chooses, with their size.
    pub fn port_ranges(&self) -> Vec<(String, usize)> {
        let size = |range: &str| {
            let (first, last) = range.split_once('-')?;
            let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
            Some((last + 1).saturating_sub(first))
        };
        let published = self.ports.iter().filter_map(|port| port.published.clone());
        published.filter_map(|range| size(&range).map(|size| (range, size))).collect()
    }

    /// Container ports in the file, as `3000/tcp`.
    pub fn exposed(&self) -> Vec<String> {
        let named = self.expose.iter().flat_map(|port| each_port(&text(port)));
        named.chain(self.ports.iter().map(|port| format!("{}/{}", port.target, port.protocol()))).collect()
    }

    /// True if it runs another command than its image, and names no port.
    pub fn is_other_program(&self) -> bool {
        let is_set = |words: &Option<Vec<String>>| words.as_ref().is_some_and(|words| !words.is_empty());
        (is_set(&self.command) || is_set(&self.entrypoint)) && self.exposed().is_empty()
    }

    /// Addresses that only one container can have: key and address.
    pub fn own_addresses(&self) -> impl Iterator<Item = (String, String)> {
        let of_network = |(network, settings): (&String, &Value)| {
            let keys = ["ipv4_address", "ipv6_address", "mac_address"];
            let set = keys.iter().filter_map(|key| Some((key, settings.get(key)?.as_str()?)));
            set.map(|(key, address)| (format!("networks.{network}.{key}"), address.to_string()))
                .collect::<Vec<_>>()
        };
        let own = self.mac_address.iter().map(|address| ("mac_address".to_string(), address.clone()));
        own.chain(self.network_settings.iter().flat_map(of_network))
    }

    /// Services whose namespaces or volumes this one shares: key and service.
    pub fn hosts(&self) -> Vec<(&'static str, String)> {
        let modes = [("network_mode", &self.network_mode), ("pid", &self.pid), ("ipc", &self.ipc)];
        let service = |mode: &Option<String>| Some(mode.as_ref()?.strip_prefix("service:")?.to_string());
        let modes = modes.into_iter().filter_map(|(key, mode)| Some((key, service(mode)?)));
        let volumes = self.volumes_from.iter().filter(|from| !from.starts_with("container:"));
        modes.chain(volumes.map(|from| ("volumes_from", before_colon(from)))).collect()
    }

    /// All mount paths.
    pub fn mounted_paths(&self) -> Vec<String> {
        let mounts = self.volumes.iter().map(|mount| mount.target.clone());
        mounts.chain(self.tmpfs.iter().map(|path| before_colon(path))).collect()
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

    /// Sources of its volumes and folders, each once.
    pub(super) fn mounted_sources(&self) -> BTreeSet<String> {
        self.volumes.iter().filter_map(|mount| mount.source.clone()).collect()
    }

    pub(super) fn shared(&self) -> impl Iterator<Item = &Mount> {
        let is_socket = |m: &Mount| m.source.as_ref().is_some_and(|s| s.ends_with(".sock"));
        let is_shared = |m: &&Mount| ["volume", "bind"].contains(&m.kind.as_str()) && !m.read_only;
        self.volumes.iter().filter(is_shared).filter(move |m| !is_socket(m))
    }

    /// Linked services: `db:database` is a link to `db`.
    pub fn links(&self) -> Vec<String> {
        self.links.iter().map(|link| before_colon(link)).collect()
    }

    /// The healthcheck test: `NONE` disables the healthcheck of the image, `None` keeps it.
    pub fn healthcheck(&self) -> Option<Vec<String>> {
        let healthcheck = self.healthcheck.as_ref()?;
        match (healthcheck.disable, &healthcheck.test[..]) {
            (true, _) => Some(vec!["NONE".into()]),
            (false, []) => None,
            (false, test) => Some(test.iter().map(|w| unescape_dollars(w)).collect()),
        }
    }

    /// Time after the start in which a failing healthcheck does not count.
    fn start_period(&self) -> Duration {
        let period = self.healthcheck.as_ref().and_then(|h| h.start_period.as_deref());
        period.and_then(|time| humantime::parse_duration(time).ok()).unwrap_or_default()
    }

    /// The healthcheck runs more often after the start.
    pub fn has_start_interval(&self) -> bool {
        self.healthcheck.as_ref().is_some_and(|h| h.start_interval.is_some())
    }

    /// Services whose replacement restarts this one (`restart: true`).
    pub fn restarts_with(&self) -> impl Iterator<Item = &String> {
        self.depends_on.iter().filter(|(_, dependency)| dependency.restart).map(|(name, _)| name)
    }

    /// Services that must be healthy before this one starts.
    pub fn needs_healthy(&self) -> impl Iterator<Item = &String> {
        let is_needed =
            |d: &Dependency| d.condition == DependsOnCondition::Healthy && d.required != Some(false);
        self.depends_on.iter().filter(move |(_, d)| is_needed(d)).map(|(name, _)| name)
    }

    /// Direct and indirect dependencies, with the condition of each.
    pub fn needs<'a>(&'a self, project: &'a Project) -> BTreeMap<&'a str, DependsOnCondition> {
        let mut needed = BTreeMap::new();
        let mut queue = vec![self];
        while let Some(service) = queue.pop() {
            for (name, dependency) in &service.depends_on {
                if needed.insert(name.as_str(), dependency.condition).is_none() {
                    queue.extend(project.services.get(name));
                }
            }
        }
        needed
    }

    /// The whole command line, given entrypoint and command of the image.
    pub fn command_line(&self, entrypoint: &[String], command: &[String]) -> Vec<String> {
        let own_command = self.command.clone().filter(|c| !c.is_empty());
        match &self.entrypoint {
            Some(own) if !own.is_empty() => [own.clone(), own_command.unwrap_or_default()].concat(),
            _ => [entrypoint.to_vec(), own_command.unwrap_or(command.to_vec())].concat(),
        }
    }

    pub fn stop_grace(&self) -> Option<Duration> {
        humantime::parse_duration(self.stop_grace_period.as_deref()?).ok()
    }

    /// Time after which the engine kills an instance that does not stop.
    pub fn longest_stop(&self) -> Duration {
        self.stop_grace().unwrap_or(DEFAULT_GRACE)
    }

    /// `restart`, else the condition of `deploy.restart_policy`.
    pub fn restart(&self) -> Option<&str> {
        let own = self.restart.as_deref().filter(|restart| !restart.is_empty());
        own.or(self.deploy.restart_policy["condition"].as_str())
    }

    /// Memory limit, in bytes.
    pub fn memory_limit(&self) -> Option<u64> {
        self.memory("limits", &self.mem_limit)
    }

    /// Memory reservation, in bytes.
    pub fn memory_reserved(&self) -> Option<u64> {
        self.memory("reservations", &self.mem_reservation)
    }

    fn memory(&self, kind: &str, own: &Option<String>) -> Option<u64> {
        let of_deploy = text(&self.deploy.resources[kind]["memory"]).parse().ok();
        of_deploy.or_else(|| own.as_ref()?.parse().ok())
    }
}

/// Source of settings for a service.
pub(super) struct SettingsContext<'a> {
    /// Name of the file in messages.
    pub source: &'a str,
    pub defaults: &'a SettingsLayer,
    pub flags: &'a FlagLayers,
}

/// Text before the first colon.
fn before_colon(text: &str) -> String {
    text.split(':').next().unwrap_or_default().into()
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

/// A map of scalars, without keys that have no value.
fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let map = BTreeMap::<String, Value>::deserialize(from)?;
    let set = map.into_iter().filter(|(_, value)| !value.is_null());
    Ok(set.map(|(key, value)| (unescape_dollars(&key), unescape_dollars(&text(&value)))).collect())
}

fn words<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    let words = Option::<Vec<String>>::deserialize(from)?;
    Ok(words.map(|words| words.iter().map(|word| unescape_dollars(word)).collect()))
}
