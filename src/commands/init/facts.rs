//! Facts on each service, as far as `init` needs them.

use std::collections::BTreeMap;

use crate::model::{Port, Project, Service};
use crate::proxy;

/// Names of images that do not speak HTTP.
const NON_HTTP_IMAGES: &str = "cassandra clickhouse consul couchbase elasticsearch etcd kafka keydb mailhog mailpit \
    mariadb memcached minio mongo mongodb mosquitto mysql nats neo4j opensearch percona pgbouncer postgis postgres \
    postgresql rabbitmq redis redpanda valkey zookeeper";

/// Ports of protocols other than HTTP.
const NON_HTTP_PORTS: [u16; 15] =
    [21, 22, 25, 53, 587, 1433, 1521, 1883, 3306, 4222, 5432, 5672, 6379, 11211, 27017];

/// Usual ports of TLS.
pub const TLS_PORTS: [u16; 2] = [443, 8443];

/// The project before `init` adds anything.
#[derive(Debug)]
pub struct ProjectFacts {
    pub project: Project,
    /// TCP ports of the image of each service.
    pub image_ports: BTreeMap<String, Vec<u16>>,
}

/// A host port and its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForward {
    /// Empty for every address of the host.
    pub address: String,
    pub host: u16,
    /// Port of the proxy in its container.
    pub bind: u16,
    /// Port of the service.
    pub target: u16,
    /// Forwarded as TCP, because it may not be HTTP.
    pub is_tcp: bool,
}

impl ProjectFacts {
    /// A service name that is free.
    pub fn free_name(&self) -> &'static str {
        let names = ["proxy", "haproxy", "zd-proxy", "zd-haproxy"];
        let is_free = |name: &&str| !self.project.services.contains_key(*name);
        names.into_iter().find(is_free).unwrap_or("compose-zd-proxy")
    }

    /// Candidates for the proxy: web applications that publish a port, else all web applications.
    pub fn candidates(&self) -> Vec<&str> {
        let web: Vec<&Service> = self.project.services.values().filter(|s| self.is_web(s)).collect();
        let is_published = |service: &Service| !host_ports(service).is_empty();
        let is_any_published = web.iter().any(|service| is_published(service));
        let candidates = web.into_iter().filter(|service| is_published(service) || !is_any_published);
        candidates.map(|service| service.name.as_str()).collect()
    }

    /// TCP ports of the containers, from the file, else from the image.
    pub fn container_ports(&self, service: &Service) -> Vec<u16> {
        let published = service.ports.iter().filter(|port| port.protocol() == "tcp").map(|port| port.target);
        let exposed = service.exposed();
        let exposed = exposed.iter().filter_map(|port| port.strip_suffix("/tcp")?.parse().ok());
        let in_file: Vec<u16> = published.chain(exposed).collect();
        let in_image = || self.image_ports.get(&service.name).cloned().unwrap_or_default();
        if in_file.is_empty() { in_image() } else { in_file }
    }

    /// The service probably speaks HTTP.
    fn is_web(&self, service: &Service) -> bool {
        let image = image(service).rsplit('/').next().unwrap_or_default();
        let name = image.split([':', '@']).next().unwrap_or_default();
        let is_http = !NON_HTTP_IMAGES.split(' ').any(|other| other == name);
        let speaks_http = |port: &u16| !NON_HTTP_PORTS.contains(port);
        is_http && !self.is_proxy(service) && self.container_ports(service).iter().any(speaks_http)
    }

    pub fn is_proxy(&self, service: &Service) -> bool {
        proxy::is_proxy_image(image(service))
    }
}

/// The image in the file. The name of a built image says nothing about its contents.
fn image(service: &Service) -> &str {
    service.image_in_file.as_deref().unwrap_or_default()
}

/// Host ports that only one container can have.
pub fn host_ports(service: &Service) -> Vec<PortForward> {
    let forwards = service.ports.iter().filter_map(|port| {
        Some(PortForward {
            address: port.host_ip.clone().unwrap_or_default(),
            host: host_port(port)?,
            bind: 0,
            target: port.target,
            is_tcp: true,
        })
    });
    forwards.collect()
}

/// Port of the host; none if Docker chooses it. Of a range, which is for several instances, the first port.
pub fn host_port(port: &Port) -> Option<u16> {
    port.published.as_ref()?.split('-').next()?.parse().ok().filter(|port| *port > 0)
}

pub fn has_healthcheck(service: &Service) -> bool {
    service.healthcheck().is_some_and(|test| test.first().is_some_and(|word| word != "NONE"))
}

/// Path of the first local URL in the healthcheck: `curl -f http://localhost:3000/health || exit 1`.
pub fn health_path(service: &Service) -> Option<String> {
    let command = service.healthcheck()?.join(" ");
    let (_, rest) = command.split_once("http://")?;
    let url = rest.split(|c: char| c.is_whitespace() || "\"'`;|)".contains(c)).next()?;
    let (host, path) = url.split_once('/').unwrap_or((url, ""));
    let name = host.split(':').next().unwrap_or_default();
    let is_path = |c: char| c.is_ascii_alphanumeric() || "/-._~".contains(c);
    let is_local = ["localhost", "127.0.0.1", "0.0.0.0", "[", "$HOSTNAME"].contains(&name);
    (is_local && path.chars().all(is_path)).then(|| format!("/{path}"))
}
