//! Facts on each service from `docker compose config`, as far as `init` needs them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_yaml::Value;

use crate::error::Error;
use crate::proxy;

/// Names of images that do not speak HTTP.
const NON_HTTP_IMAGES: [&str; 30] = [
    "cassandra",
    "clickhouse",
    "consul",
    "couchbase",
    "elasticsearch",
    "etcd",
    "kafka",
    "keydb",
    "mailhog",
    "mailpit",
    "mariadb",
    "memcached",
    "minio",
    "mongo",
    "mongodb",
    "mosquitto",
    "mysql",
    "nats",
    "neo4j",
    "opensearch",
    "percona",
    "pgbouncer",
    "postgis",
    "postgres",
    "postgresql",
    "rabbitmq",
    "redis",
    "redpanda",
    "valkey",
    "zookeeper",
];

/// Ports of protocols other than HTTP.
const NON_HTTP_PORTS: [u16; 15] =
    [21, 22, 25, 53, 587, 1433, 1521, 1883, 3306, 4222, 5432, 5672, 6379, 11211, 27017];

/// Usual ports of TLS.
pub const TLS_PORTS: [u16; 2] = [443, 8443];

/// The services of a project.
#[derive(Debug, Default)]
pub struct ProjectFacts {
    pub apps: BTreeMap<String, App>,
    /// Networks without access from outside.
    pub internal: BTreeSet<String>,
}

/// One service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct App {
    pub image: String,
    /// Host ports that only one container can have.
    pub published: Vec<PublishedPort>,
    /// TCP ports of the containers, from the file or the image.
    pub container_ports: Vec<u16>,
    /// Path of the URL in the healthcheck.
    pub health_path: Option<String>,
    pub has_healthcheck: bool,
    pub replicas: u32,
    /// Keys of the file.
    pub networks: Vec<String>,
    pub container_name: bool,
    pub network_mode: Option<String>,
}

/// A host port and its container port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedPort {
    /// Empty for every address of the host.
    pub address: String,
    pub host: u16,
    pub target: u16,
    pub tcp: bool,
}

#[derive(Deserialize)]
struct RawProject {
    #[serde(default)]
    services: BTreeMap<String, RawService>,
    #[serde(default)]
    networks: BTreeMap<String, Option<RawNetwork>>,
}

#[derive(Deserialize)]
struct RawNetwork {
    #[serde(default)]
    internal: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawService {
    image: Option<String>,
    ports: Vec<RawPort>,
    expose: Vec<Value>,
    healthcheck: Option<RawHealthcheck>,
    networks: BTreeMap<String, Value>,
    network_mode: Option<String>,
    container_name: Option<String>,
    scale: Option<u32>,
    deploy: RawDeploy,
}

#[derive(Deserialize)]
struct RawPort {
    target: u16,
    published: Option<Value>,
    host_ip: Option<String>,
    protocol: Option<String>,
}

#[derive(Deserialize)]
struct RawHealthcheck {
    #[serde(default)]
    test: Vec<String>,
    #[serde(default)]
    disable: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawDeploy {
    replicas: Option<u32>,
}

impl ProjectFacts {
    /// Parses the YAML of `docker compose config`.
    ///
    /// # Errors
    /// A key that Compose does not print so.
    pub fn read(yaml: &str) -> Result<ProjectFacts, Error> {
        // The YAML holds secrets, so the message of serde, which may quote a value, is not shown.
        let invalid = |_| Error::usage("the output of `docker compose config` is no project with services");
        let raw: RawProject = serde_yaml::from_str(yaml).map_err(invalid)?;
        let internal = raw.networks.into_iter().filter(|(_, n)| n.as_ref().is_some_and(|n| n.internal));
        Ok(ProjectFacts {
            apps: raw.services.iter().map(|(name, service)| (name.clone(), App::read(service))).collect(),
            internal: internal.map(|(name, _)| name).collect(),
        })
    }

    /// A service name that is free.
    pub fn free_name(&self) -> &'static str {
        let names = ["proxy", "haproxy", "zd-proxy", "zd-haproxy"];
        names.into_iter().find(|name| !self.apps.contains_key(*name)).unwrap_or("compose-zd-proxy")
    }
}

impl App {
    fn read(raw: &RawService) -> App {
        let test =
            raw.healthcheck.as_ref().filter(|h| !h.disable && h.test.first().is_some_and(|w| w != "NONE"));
        App {
            image: raw.image.clone().unwrap_or_default(),
            published: raw.ports.iter().filter_map(PublishedPort::read).collect(),
            container_ports: raw.container_ports(),
            health_path: test.and_then(|h| local_path_in(&h.test.join(" "))),
            has_healthcheck: test.is_some(),
            replicas: raw.scale.or(raw.deploy.replicas).unwrap_or(1),
            networks: raw.networks.keys().cloned().collect(),
            container_name: raw.container_name.is_some(),
            network_mode: raw.network_mode.clone(),
        }
    }

    /// The service probably speaks HTTP.
    pub fn is_web(&self) -> bool {
        let image = self.image.rsplit('/').next().unwrap_or_default();
        let name = image.split([':', '@']).next().unwrap_or_default();
        let speaks = |port: &u16| !NON_HTTP_PORTS.contains(port);
        !NON_HTTP_IMAGES.contains(&name) && !self.is_proxy() && self.container_ports.iter().any(speaks)
    }

    pub fn is_proxy(&self) -> bool {
        proxy::is_proxy_image(&self.image)
    }

    /// Adds ports of the image, such as `3000/tcp`, if the file names none.
    pub fn add_exposed_ports(&mut self, exposed: impl Iterator<Item = String>) {
        if self.container_ports.is_empty() {
            self.container_ports =
                exposed.filter_map(|port| port.strip_suffix("/tcp")?.parse().ok()).collect();
        }
    }
}

impl PublishedPort {
    /// None if Docker chooses the host port.
    fn read(raw: &RawPort) -> Option<PublishedPort> {
        let text = match raw.published.as_ref()? {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return None,
        };
        // The first port of a range, which is for several instances.
        let host: u16 = text.split('-').next()?.parse().ok().filter(|port| *port > 0)?;
        Some(PublishedPort {
            address: raw.host_ip.clone().unwrap_or_default(),
            host,
            target: raw.target,
            tcp: raw.protocol.as_deref().unwrap_or("tcp") == "tcp",
        })
    }
}

impl RawService {
    fn container_ports(&self) -> Vec<u16> {
        let exposed = self.expose.iter().filter_map(|port| match port {
            Value::Number(number) => number.as_u64().and_then(|n| n.try_into().ok()),
            Value::String(text) => text.trim_end_matches("/tcp").parse().ok(),
            _ => None,
        });
        let is_tcp = |p: &&RawPort| p.protocol.as_deref().unwrap_or("tcp") == "tcp";
        let mut ports: Vec<u16> = Vec::new();
        for port in self.ports.iter().filter(is_tcp).map(|p| p.target).chain(exposed) {
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        ports
    }
}

/// Path of the first local URL in a command: `curl -f http://localhost:3000/health || exit 1`.
fn local_path_in(command: &str) -> Option<String> {
    let (_, rest) = command.split_once("http://")?;
    let url = rest.split(|c: char| c.is_whitespace() || "\"'`;|)".contains(c)).next()?;
    let (host, path) = url.split_once('/').unwrap_or((url, ""));
    let name = host.split(':').next().unwrap_or_default();
    let is_path = |c: char| c.is_ascii_alphanumeric() || "/-._~".contains(c);
    let is_local = ["localhost", "127.0.0.1", "0.0.0.0", "[", "$HOSTNAME", "$$HOSTNAME"].contains(&name);
    (is_local && path.chars().all(is_path)).then(|| format!("/{path}"))
}
