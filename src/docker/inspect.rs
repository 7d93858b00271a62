//! Container and image as `docker inspect` reports them, reduced to the fields that a deploy needs.

use super::types::number_or_zero;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde::Deserialize;

/// Label of a stand-in or a relay.
pub const BRIDGE: &str = "compose-zd.stand-in";

/// Value of the label of a relay.
pub const RELAY: &str = "relay";

/// Label with the hash of the configuration from which Compose created a container.
pub const CONFIG_HASH: &str = "com.docker.compose.config-hash";

/// Length of the short form of an id.
const SHORT_ID: usize = 12;

/// Container, running or not.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Container {
    pub id: String,
    /// Has the leading `/` that Docker gives; `name()` is without.
    #[serde(rename = "Name")]
    raw_name: String,
    /// Id of the container's image.
    #[serde(rename = "Image")]
    pub image_id: String,
    pub path: String,
    pub args: Vec<String>,
    #[serde(deserialize_with = "number_or_zero")]
    pub restart_count: u32,
    pub state: ContainerState,
    pub config: ContainerConfig,
    pub network_settings: NetworkSettings,
    host_config: HostConfig,
    mounts: Vec<Mount>,
}

/// Volume or folder that is mounted in a container.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Mount {
    #[serde(rename = "Type")]
    kind: String,
    /// Name of a volume.
    name: String,
    /// Path on the engine's machine.
    source: String,
    destination: String,
    #[serde(rename = "RW")]
    is_writable: bool,
}

/// File or folder of the engine's machine in a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BindMount<'a> {
    pub source: &'a str,
    pub destination: &'a str,
    pub is_writable: bool,
}

/// Settings that refer to other containers: `container:` and a name or an id.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HostConfig {
    network_mode: String,
    pid_mode: String,
    ipc_mode: String,
    /// A name or an id, with an optional `:ro`.
    volumes_from: Vec<String>,
    /// Lines `NAME:ADDRESS` of the hosts file.
    extra_hosts: Vec<String>,
    /// None for the default of the engine.
    init: Option<bool>,
    restart_policy: RestartPolicy,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RestartPolicy {
    name: String,
    #[serde(deserialize_with = "number_or_zero")]
    maximum_retry_count: u32,
}

/// Local image.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Image {
    pub id: String,
    /// Digests by which registries know the image. An image that was built here has none, unless the engine has the
    /// containerd image store (the default of engine 29), which gives every image one.
    #[serde(deserialize_with = "distinct")]
    pub repo_digests: Vec<String>,
    pub repo_tags: Vec<String>,
    /// Size in bytes, with all its layers.
    #[serde(deserialize_with = "number_or_zero")]
    pub size: u64,
    pub config: ContainerConfig,
}

impl Image {
    /// True if the image has a health check that is not switched off.
    pub fn has_healthcheck(&self) -> bool {
        let test = self.config.healthcheck.as_ref().map(|h| &h.test);
        test.and_then(|t| t.first()).is_some_and(|word| word != "NONE")
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerState {
    pub status: String,
    #[serde(deserialize_with = "exit_code")]
    pub exit_code: i32,
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    pub error: String,
    /// Process id of the first process on the engine's own machine; 0 while the container does not run.
    #[serde(deserialize_with = "number_or_zero")]
    pub pid: u32,
    pub health: Option<Health>,
    /// RFC 3339.
    pub started_at: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Health {
    pub status: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    pub image: String,
    pub env: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub exposed_ports: BTreeMap<String, serde_json::Value>,
    pub healthcheck: Option<Healthcheck>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `SIGTERM` or a number; empty for SIGTERM.
    pub stop_signal: String,
    /// Paths that get an anonymous volume unless something else is mounted there.
    pub volumes: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    pub test: Vec<String>,
    /// Limit of one run, in nanoseconds; 0 is Docker's default.
    #[serde(deserialize_with = "number_or_zero")]
    pub timeout: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct NetworkSettings {
    pub networks: BTreeMap<String, Network>,
    /// Bindings by port, such as `80/tcp`, while the container runs.
    ports: BTreeMap<String, Vec<PortBinding>>,
}

/// Port of the host that leads to a container's port.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct PortBinding {
    host_ip: String,
    host_port: String,
}

impl PortBinding {
    /// Address of the host, possibly an unspecified one.
    fn host_address(&self) -> Option<SocketAddr> {
        let ip =
            if self.host_ip.is_empty() { Ipv4Addr::UNSPECIFIED.into() } else { self.host_ip.parse().ok()? };
        Some(SocketAddr::new(ip, self.host_port.parse().ok().filter(|port| *port > 0)?))
    }

    /// Address at which this machine reaches the port; a port that is open to all is reached by loopback.
    fn address(&self) -> Option<SocketAddr> {
        let ip = match self.host_ip.as_str() {
            "" | "0.0.0.0" => Ipv4Addr::LOCALHOST.into(),
            "::" => Ipv6Addr::LOCALHOST.into(),
            ip => ip.parse().ok()?,
        };
        Some(SocketAddr::new(ip, self.host_port.parse().ok().filter(|port| *port > 0)?))
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Network {
    #[serde(rename = "NetworkID")]
    pub id: String,
    #[serde(rename = "IPAddress")]
    pub ip_address: String,
    #[serde(rename = "GlobalIPv6Address")]
    pub global_ipv6_address: String,
    gateway: String,
    aliases: Vec<String>,
    /// Names since engine 25: they include the host's name and the short id, which engines before 26 list as aliases.
    #[serde(rename = "DNSNames")]
    dns_names: Vec<String>,
    /// Linked containers, each as `CONTAINER:ALIAS`.
    links: Vec<String>,
}

impl Network {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        [&self.ip_address, &self.global_ipv6_address].into_iter().filter_map(|text| text.parse().ok())
    }
}

impl Container {
    /// A container that does not exist yet, on these networks, with these names on each.
    pub fn planned(config: ContainerConfig, networks: &[String], aliases: &[String]) -> Container {
        let network = Network { aliases: aliases.to_vec(), ..Network::default() };
        let networks = networks.iter().map(|n| (n.clone(), network.clone()));
        let network_settings = NetworkSettings { networks: networks.collect(), ..Default::default() };
        Container { config, network_settings, ..Container::default() }
    }

    /// A container that does not exist yet, with its future name.
    pub fn named(mut self, name: &str) -> Container {
        self.raw_name = format!("/{name}");
        self
    }

    /// A container that does not exist yet, with its future number from Compose.
    pub fn numbered(mut self, number: u32) -> Container {
        self.config.labels.insert("com.docker.compose.container-number".into(), number.to_string());
        self
    }

    /// A container that does not exist yet, linked to these containers.
    pub fn linked(mut self, links: &[String]) -> Container {
        for network in self.network_settings.networks.values_mut() {
            network.links = links.iter().map(|name| format!("{name}:{name}")).collect();
        }
        self
    }

    pub fn name(&self) -> &str {
        self.raw_name.trim_start_matches('/')
    }

    /// Name without that of the project.
    pub fn short_name(&self, project: &str) -> String {
        let short = self.name().strip_prefix(project).and_then(|n| n.strip_prefix('-'));
        short.unwrap_or(self.name()).to_string()
    }

    /// Name without that of its own project.
    pub fn display_name(&self) -> String {
        self.short_name(self.compose().map_or("", |(project, _)| project))
    }

    /// Name while another container of its service has the name in `container_name`.
    pub fn set_aside_name(&self) -> String {
        format!("{}{}", self.fixed_name(), self.aside_suffix())
    }

    /// Name in `container_name`, which the container has, or had until it was set aside. Compose puts the start of an id before it
    /// while it recreates a container, and leaves that if the name is in use then.
    pub fn fixed_name(&self) -> &str {
        let is_id = |text: &str| text.len() == SHORT_ID && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let by_compose = || self.name().split_once('_').filter(|(id, _)| is_id(id)).map(|(_, name)| name);
        let own = self.name().strip_suffix(&self.aside_suffix());
        own.or_else(by_compose).unwrap_or(self.name())
    }

    /// True if another container of its service got the name in `container_name`.
    pub fn is_set_aside(&self) -> bool {
        self.name().ends_with(&self.aside_suffix())
    }

    /// True if the container had this name in `container_name`, and now has another one.
    pub fn has_lost(&self, container_name: Option<&str>) -> bool {
        container_name == Some(self.fixed_name()) && self.name() != self.fixed_name()
    }

    fn aside_suffix(&self) -> String {
        format!("-{}", self.id.get(..SHORT_ID).unwrap_or(&self.id))
    }

    /// Compose's number, else the number at the end of the name.
    pub fn number(&self) -> u32 {
        let label = self.label("com.docker.compose.container-number");
        let from_name = self.name().rsplit(['-', '_']).next();
        label.or(from_name).and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    /// State of a container that does not serve.
    pub fn down_state(&self) -> &'static str {
        match self.state.status.as_str() {
            "restarting" => "keeps crashing",
            "paused" => "is paused",
            _ => "is stopped",
        }
    }

    /// Command that starts the stopped container.
    pub fn remedy(&self) -> String {
        let name = self.name();
        match self.state.status.as_str() {
            "restarting" => format!("see why it crashes with `docker logs --tail 20 {name}`"),
            "paused" => format!("start it with `docker unpause {name}`"),
            _ => format!("start it with `docker start {name}`"),
        }
    }

    pub fn label(&self, key: &str) -> Option<&str> {
        self.config.labels.get(key).map(String::as_str)
    }

    /// True for a helper that carries a route of a proxy.
    pub fn is_pin(&self) -> bool {
        self.label(super::helper::PIN).is_some()
    }

    /// Compose project and service of the container; `None` for one-off containers (`docker compose run`), init
    /// containers (`pre_start`) and pins.
    pub fn compose(&self) -> Option<(&str, &str)> {
        let is_init = self.label(super::init_container::HOOK).is_some();
        let is_one_off = is_init || self.is_pin() || self.label("com.docker.compose.oneoff") == Some("True");
        let project = self.label("com.docker.compose.project")?;
        let service = self.label("com.docker.compose.service")?;
        (!is_one_off).then_some((project, service))
    }

    /// True for an init container (`pre_start`) of the service.
    pub fn is_init_of(&self, project: &str, service: &str) -> bool {
        let has = |key: &str, value: &str| self.label(key) == Some(value);
        self.label(super::init_container::HOOK) == Some("pre_start")
            && has("com.docker.compose.project", project)
            && has("com.docker.compose.service", service)
    }

    /// Environment variable of the container's process; an empty one counts as not set.
    pub fn env(&self, key: &str) -> Option<&str> {
        let pairs = self.config.env.iter().filter_map(|e| e.split_once('='));
        pairs.filter(|(k, v)| *k == key && !v.is_empty()).map(|(_, v)| v).next_back()
    }

    /// True for a stand-in, which serves while the only instance of its service is replaced, and for a relay.
    pub fn is_bridge(&self) -> bool {
        self.label(BRIDGE).is_some()
    }

    /// True for a relay, whose requests wait while the only instance of its service is replaced.
    pub fn is_relay(&self) -> bool {
        self.label(BRIDGE) == Some(RELAY)
    }

    /// Marks the container as stopped: it no longer has an address.
    pub fn mark_stopped(&mut self) {
        self.state.status = "exited".into();
        for network in self.network_settings.networks.values_mut() {
            (network.ip_address, network.global_ipv6_address) = Default::default();
        }
    }

    /// True if the container runs and its Docker health is neither `healthy` nor absent.
    pub fn is_unhealthy(&self) -> bool {
        let health = self.state.health.as_ref().map_or("", |h| &h.status);
        self.is_running() && !["", "none", "healthy"].contains(&health)
    }

    /// True if Docker's health check reported `unhealthy`.
    pub fn is_failing(&self) -> bool {
        self.state.health.as_ref().is_some_and(|h| h.status == "unhealthy")
    }

    /// Records a restart policy that was set.
    pub fn mark_restart(&mut self, policy: &str) {
        self.host_config.restart_policy = RestartPolicy { name: policy.into(), maximum_retry_count: 0 };
    }

    /// True if the engine's own init is the first process (`init: true`).
    pub fn has_init(&self) -> bool {
        self.host_config.init == Some(true)
    }

    /// Restart policy, as `docker update --restart` takes it.
    pub fn restart_policy(&self) -> String {
        let RestartPolicy { name, maximum_retry_count: max_retries } = &self.host_config.restart_policy;
        match (name.as_str(), max_retries) {
            ("", _) => "no".into(),
            (name, 0) => name.into(),
            (name, max_retries) => format!("{name}:{max_retries}"),
        }
    }

    /// True if the engine may start the stopped container when the engine starts; depending on the exit code,
    /// `on-failure` does so too.
    pub fn restarts_with_engine(&self) -> bool {
        ["always", "on-failure"].contains(&self.host_config.restart_policy.name.as_str())
    }

    pub fn is_running(&self) -> bool {
        self.state.status == "running"
    }

    /// Time since the container started, by this machine's clock; `None` if it never started.
    pub fn age(&self) -> Option<Duration> {
        Some(SystemTime::now().duration_since(self.started()?).unwrap_or_default())
    }

    /// Start of the container; `None` if it never started.
    pub fn started(&self) -> Option<SystemTime> {
        humantime::parse_rfc3339(&self.state.started_at).ok()
    }

    /// True if the container ran to its end without an error.
    pub fn has_completed(&self) -> bool {
        self.state.status == "exited" && self.state.exit_code == 0
    }

    /// True if the container stopped by itself: a requested stop ends with 0, or with the signal that was sent. A
    /// container killed after its grace period looks like one killed for lack of memory; an extra instance is the
    /// lesser evil.
    pub fn has_failed(&self) -> bool {
        match self.state.status.as_str() {
            "restarting" | "paused" => true,
            "exited" | "dead" => self.state.oom_killed || ![0, 130, 143].contains(&self.state.exit_code),
            _ => false,
        }
    }

    /// Every name of the container in Docker's DNS: its name, and its aliases on its networks, each also as
    /// `NAME.NETWORK`.
    pub fn names(&self) -> Vec<String> {
        let networks = self.network_settings.networks.values();
        let mut names: Vec<String> =
            networks.flat_map(|n| n.aliases.iter().chain(&n.dns_names).cloned()).collect();
        names.push(self.name().into());
        names.extend(self.compose().map(|(_, service)| service.into()));
        let by_network = self.networks().flat_map(|n| names.iter().map(move |name| format!("{name}.{n}")));
        names.extend(by_network.collect::<Vec<_>>());
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Names of the programs that the first process is, or that it starts by a script in its arguments.
    pub fn programs(&self) -> impl Iterator<Item = &str> {
        let words = std::iter::once(&self.path).chain(&self.args);
        words.flat_map(|word| commands_of(word)).filter_map(|word| word.rsplit('/').next())
    }

    /// Containers whose namespaces or volumes this one uses, by name or id, each with the key of the compose file
    /// for it.
    pub fn host_containers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let host = &self.host_config;
        let modes = [("network_mode", &host.network_mode), ("pid", &host.pid_mode), ("ipc", &host.ipc_mode)];
        let modes = modes.into_iter().filter_map(|(key, mode)| Some((key, mode.strip_prefix("container:")?)));
        let from =
            host.volumes_from.iter().map(|from| ("volumes_from", from.split(':').next().unwrap_or(from)));
        modes.chain(from)
    }

    /// Files and folders of the engine's machine in the container.
    pub fn bind_mounts(&self) -> impl Iterator<Item = BindMount<'_>> {
        let binds = self.mounts.iter().filter(|mount| mount.kind == "bind");
        binds.map(|mount| BindMount {
            source: &mount.source,
            destination: &mount.destination,
            is_writable: mount.is_writable,
        })
    }

    /// True if a volume or a folder is mounted at the path.
    pub fn has_mount(&self, path: &str) -> bool {
        self.mounts.iter().any(|m| m.destination.trim_end_matches('/') == path.trim_end_matches('/'))
    }

    /// True if a volume or a folder is mounted at the path or at a folder above it.
    pub fn has_mount_above(&self, path: &str) -> bool {
        self.mounts.iter().any(|mount| Path::new(path).starts_with(&mount.destination))
    }

    /// Anonymous volumes with their paths: Docker names such a volume with 64 hexadecimal digits.
    pub fn anonymous_volumes(&self) -> impl Iterator<Item = (&str, &str)> {
        let is_anonymous = |m: &&Mount| {
            m.kind == "volume" && m.name.len() == 64 && m.name.chars().all(|c| c.is_ascii_hexdigit())
        };
        self.mounts.iter().filter(is_anonymous).map(|m| (m.name.as_str(), m.destination.as_str()))
    }

    /// Linked containers, each with its alias.
    pub fn link_aliases(&self) -> impl Iterator<Item = (&str, &str)> {
        let networks = self.network_settings.networks.values();
        networks.flat_map(|n| &n.links).filter_map(|l| l.split_once(':'))
    }

    /// Names of linked containers.
    pub fn links(&self) -> impl Iterator<Item = &str> {
        let networks = self.network_settings.networks.values();
        networks.flat_map(|n| &n.links).map(|l| l.split(':').next().unwrap_or(l))
    }

    /// Names of the container's networks.
    pub fn networks(&self) -> impl Iterator<Item = &str> {
        self.network_settings.networks.keys().map(String::as_str)
    }

    /// True if the container may resolve the name of another one. Docker's DNS does not exist in the host's own network,
    /// so only the container's hosts file has names there.
    pub fn knows_name(&self, name: &str) -> bool {
        let of_line = |line: &String| line.split([':', '=']).next().map(str::to_string);
        let mut extra = self.host_config.extra_hosts.iter().filter_map(of_line);
        self.networks().all(|n| n != "host") || extra.any(|known| known.eq_ignore_ascii_case(name))
    }

    /// All addresses, none while the container does not run. Each has the name of its network's bridge on the
    /// engine's own machine, if Docker reports the network's id.
    pub fn addresses_with_bridge(&self) -> impl Iterator<Item = (Option<String>, IpAddr)> {
        let bridge = |n: &Network| n.id.get(..12).map(|id| format!("br-{id}"));
        let networks = self.network_settings.networks.values();
        networks.flat_map(move |n| n.addresses().map(move |a| (bridge(n), a)))
    }

    /// Addresses on all networks; none while the container does not run.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.network_settings.networks.values().flat_map(Network::addresses)
    }

    /// Addresses that `other` reaches: on a network of both, or any address from the host's own network.
    pub fn addresses_reached_from(&self, other: &Container) -> Vec<IpAddr> {
        let other_networks = &other.network_settings.networks;
        let reached =
            |name: &String| other_networks.contains_key(name) || other_networks.contains_key("host");
        let networks = self.network_settings.networks.iter();
        networks.filter(|(name, _)| reached(name)).flat_map(|(_, n)| n.addresses()).collect()
    }

    /// Address at which the engine's own machine reaches a TCP port: the published one, or that of the host's own
    /// network.
    pub fn published_address(&self, port: u16) -> Option<SocketAddr> {
        if self.networks().any(|n| n == "host") {
            return Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
        }
        let bindings = self.network_settings.ports.get(&format!("{port}/tcp"));
        bindings.into_iter().flatten().find_map(PortBinding::address)
    }

    /// TCP ports, each with an address of the host that leads to it; none while the container does not run.
    pub fn published(&self) -> impl Iterator<Item = (u16, SocketAddr)> {
        let port = |name: &str| name.strip_suffix("/tcp")?.parse().ok();
        let bindings = self.network_settings.ports.iter();
        let bindings = bindings.filter_map(move |(name, bindings)| Some((port(name)?, bindings)));
        bindings
            .flat_map(|(port, bindings)| bindings.iter().filter_map(move |b| Some((port, b.host_address()?))))
    }

    /// Addresses of the host on the networks of the container.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        self.network_settings.networks.values().filter_map(|network| network.gateway.parse().ok())
    }

    /// TCP ports that the image or the service exposes, lowest first.
    pub fn exposed_tcp(&self) -> Vec<u16> {
        let tcp = self.config.exposed_ports.keys().filter_map(|p| {
            // An image that another builder made may leave the protocol out.
            let (port, protocol) = p.split_once('/').unwrap_or((p, "tcp"));
            protocol.eq_ignore_ascii_case("tcp").then(|| port.parse().ok()).flatten()
        });
        let mut ports: Vec<u16> = tcp.collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// Argv of the healthcheck of the service, else of the image; `NONE` and an empty one count as none.
    pub fn healthcheck(&self) -> Option<Vec<String>> {
        let test = &self.config.healthcheck.as_ref()?.test;
        match test.split_first()? {
            (kind, words) if kind == "CMD" => Some(words.to_vec()),
            (kind, words) if kind == "CMD-SHELL" => {
                Some(vec!["/bin/sh".into(), "-c".into(), words.join(" ")])
            }
            _ => None,
        }
    }
}

impl Image {
    /// True if a reference without a digest names the image now.
    pub fn is_named(&self, reference: &str) -> bool {
        let matches = |tag: &str| tag == reference || tag.strip_suffix(":latest") == Some(reference);
        // Podman gives the images that it built the registry `localhost`.
        self.repo_tags.iter().any(|tag| {
            matches(tag) || matches(familiar_name(tag)) || tag.strip_prefix("localhost/").is_some_and(matches)
        })
    }
}

impl Healthcheck {
    /// Limit of one run; Docker's default is 30 s.
    pub fn limit(&self) -> Duration {
        match self.timeout {
            0 => Duration::from_secs(30),
            nanoseconds => Duration::from_nanos(nanoseconds),
        }
    }
}

/// The containerd image store lists a digest once for each tag.
fn distinct<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let mut all: Vec<String> = Vec::deserialize(from)?;
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|digest| seen.insert(digest.clone()));
    Ok(all)
}

/// An exit code of Windows, such as 3221225786 (0xC000013A), is read as the negative number of the same bits.
fn exit_code<'de, D: serde::Deserializer<'de>>(from: D) -> Result<i32, D::Error> {
    Ok(i64::deserialize(from)? as i32)
}

/// First words of the commands in a script; a text without a space is itself a command.
fn commands_of(script: &str) -> impl Iterator<Item = &str> {
    let commands = script.split([';', '&', '|', '(', ')', '{', '}', '\n', '\'', '"']);
    let is_prefix = |word: &&str| word.contains('=') || ["exec", "then", "do", "else"].contains(word);
    let is_script = script.contains(char::is_whitespace);
    let first = move |command| str::split_whitespace(command).find(|word| !is_script || !is_prefix(word));
    commands.filter_map(first)
}

/// Image name as docker's client prints it. Podman's engine always names the registry.
pub fn familiar_name(name: &str) -> &str {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::types::parse;

    fn container(json: &str) -> Container {
        parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn docker_writes_null_for_empty() {
        let parsed = container(
            r#"{"Args": null, "Config": {"Env": null, "Labels": null, "ExposedPorts": null, "Healthcheck": {}}, "NetworkSettings": {"Networks": null}}"#,
        );
        assert_eq!((parsed.addresses_with_bridge().count(), parsed.healthcheck()), (0, None));
    }

    #[test]
    fn an_image_has_its_volumes_and_digests() {
        let json =
            r#"{"Id": "sha256:i", "RepoDigests": ["a@sha256:d"], "Config": {"Volumes": {"/data": {}}}}"#;
        let image: Image = serde_json::from_str(json).unwrap();
        assert_eq!(image.repo_digests, ["a@sha256:d"]);
        assert_eq!(image.config.volumes.keys().collect::<Vec<_>>(), ["/data"]);
        let scratch: Image = parse(br#"{"RepoDigests": null, "Config": null}"#).unwrap();
        assert_eq!(scratch, Image::default());
    }

    #[test]
    fn addresses_are_read_from_the_networks() {
        let net = r#"{"NetworkSettings": {"Networks": {
            "a": {"IPAddress": "172.19.0.5", "GlobalIPv6Address": ""}, "b": {"IPAddress": ""}}}}"#;
        let other = r#"{"NetworkSettings": {"Networks": {"b": {"IPAddress": "10.0.0.2"}}}}"#;
        let (one, other) = (container(net), container(other));
        assert!(one.addresses_reached_from(&other).is_empty());
        let host = container(r#"{"NetworkSettings": {"Networks": {"host": {}}}}"#);
        assert_eq!(one.addresses_reached_from(&host), ["172.19.0.5".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn a_null_or_an_impossible_number_is_read_as_a_default() {
        let parsed = container(
            r#"{"Id": "a", "RestartCount": -1, "Config": null, "NetworkSettings": null,
                "State": {"Status": "exited", "ExitCode": 3221225786}}"#,
        );
        assert_eq!((parsed.state.exit_code, parsed.restart_count), (-1_073_741_510, 0));
        let parsed = container(
            r#"{"State": null, "Config": {"Healthcheck": {"Timeout": -1}}, "NetworkSettings": {"Networks": {"a": null}}}"#,
        );
        assert_eq!(parsed.config.healthcheck.clone().unwrap().limit(), Duration::from_secs(30));
        assert_eq!(parsed.networks().count(), 0);
    }

    #[test]
    fn an_exposed_port_without_a_protocol_is_tcp() {
        let ports = r#"{"Config": {"ExposedPorts": {"8080": {}, "3000/tcp": {}, "3000/TCP": {}, "53/udp": {}, "x": {}}}}"#;
        assert_eq!(container(ports).exposed_tcp(), [3000, 8080]);
    }

    #[test]
    fn a_healthcheck_is_an_argv() {
        let argv = |test: &str| {
            container(&format!(r#"{{"Config": {{"Healthcheck": {{"Test": {test}}}}}}}"#)).healthcheck()
        };
        assert_eq!(argv(r#"["CMD", "a", "b"]"#).unwrap(), ["a", "b"]);
        assert_eq!(argv(r#"["CMD-SHELL", "a b"]"#).unwrap(), ["/bin/sh", "-c", "a b"]);
        assert_eq!(argv(r#"["NONE"]"#), None);
        assert_eq!(argv("[]"), None);
    }

    #[test]
    fn a_one_off_container_belongs_to_no_service() {
        let labelled = |oneoff: &str| {
            container(&format!(
                r#"{{"Config": {{"Labels": {{"com.docker.compose.project": "p", "com.docker.compose.service": "s", "com.docker.compose.oneoff": "{oneoff}"}}}}}}"#
            ))
        };
        assert_eq!(labelled("False").compose(), Some(("p", "s")));
        assert_eq!(labelled("True").compose(), None);
    }
}
