//! Public URLs of the services of a stack, derived from the published ports and the proxies. Pure.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::observed::items;
use super::proxy_config::StackProxy;
use crate::proxy::public_route::PublicRoute;
use crate::witness::UrlCandidates;

/// Public ports of a stack, and where they are published.
pub struct PublishedPorts<'a> {
    pub project: &'a Value,
    pub stack: &'a str,
    pub proxies: &'a [StackProxy],
    /// Looks up the nodes that publish a port of a service. The arguments are the service, and true for a port of mode
    /// `host`. The result has the addresses of each node, best first.
    pub addresses: &'a dyn Fn(&str, bool) -> Vec<Vec<IpAddr>>,
    /// Host and path that replace those of the proxy.
    pub host: Option<&'a str>,
    pub path: Option<&'a str>,
}

impl PublishedPorts<'_> {
    /// Candidate URLs of `services`, each once: at every proxy in front of a service, on every node that publishes a port of
    /// the proxy, or at the service's own port.
    pub fn url_candidates(&self, services: &[String]) -> Vec<UrlCandidates> {
        let mut candidates: Vec<UrlCandidates> = Vec::new();
        for (route, port, owner) in services.iter().flat_map(|name| self.routes_to(name)) {
            for addresses in (self.addresses)(&owner, port.is_host_mode) {
                let at = |ip: &IpAddr| {
                    route.witness_url(SocketAddr::new(*ip, port.published), self.host, self.path)
                };
                let urls: UrlCandidates = addresses.iter().filter_map(at).collect();
                if !urls.is_empty() && !candidates.contains(&urls) {
                    candidates.push(urls);
                }
            }
        }
        candidates
    }

    /// Routes to a service: each with the published port that leads to it, and the service that publishes that port.
    fn routes_to(&self, name: &str) -> Vec<(PublicRoute, PublishedPort, String)> {
        let definition = &self.project["services"][name];
        let is_in_front = |p: &&StackProxy| p.service != *name && p.routes_to(self.stack, name, definition);
        let in_front: Vec<&StackProxy> = self.proxies.iter().filter(is_in_front).collect();
        if in_front.is_empty() {
            let port = published_ports(definition).first().copied();
            let own = |port: PublishedPort| (PublicRoute::at(port.target, false), port, name.to_string());
            return port.map(own).into_iter().collect();
        }
        let through = |proxy: &&StackProxy| {
            let ports = published_ports(&self.project["services"][&proxy.service]);
            let mut routes = proxy.public_routes(self.stack, name, definition).into_iter();
            routes.find_map(|route| {
                let port = *ports.iter().find(|p| p.target == route.port)?;
                Some((route, port, proxy.service.clone()))
            })
        };
        in_front.iter().filter_map(through).collect()
    }
}

/// A TCP port of a service, and the port of the nodes that leads to it.
#[derive(Debug, Clone, Copy)]
struct PublishedPort {
    target: u16,
    published: u16,
    /// Published only on the nodes that run a task (`mode: host`).
    is_host_mode: bool,
}

fn published_ports(service: &Value) -> Vec<PublishedPort> {
    let tcp = items(&service["ports"]).filter(|p| p["protocol"].as_str().is_none_or(|name| name == "tcp"));
    let number =
        |v: &Value| v.as_u64().or_else(|| v.as_str()?.parse().ok()).and_then(|n| u16::try_from(n).ok());
    let port = |p: &Value| {
        let is_host_mode = p["mode"].as_str() == Some("host");
        Some(PublishedPort {
            target: number(&p["target"])?,
            published: number(&p["published"])?,
            is_host_mode,
        })
    };
    tcp.filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn candidates(project: &Value, services: &[&str], files: &str) -> Vec<String> {
        let read = |_: &str| Some(files.to_string());
        let all = project["services"].as_object().unwrap().iter();
        let proxies: Vec<StackProxy> =
            all.filter_map(|(n, s)| StackProxy::detect(n, s, project, &read)).collect();
        let services: Vec<String> = services.iter().map(|s| s.to_string()).collect();
        let ports = PublishedPorts {
            project,
            stack: "p",
            proxies: &proxies,
            addresses: &node_addresses,
            host: None,
            path: None,
        };
        let candidates = ports.url_candidates(&services);
        candidates.iter().flatten().map(|c| c.url.to_string()).collect()
    }

    /// A port of mode `host` is published on two nodes, any other port on this one.
    fn node_addresses(_: &str, is_host_mode: bool) -> Vec<Vec<IpAddr>> {
        let nodes = [[10, 0, 0, 1], [10, 0, 0, 2]].map(|ip| vec![IpAddr::from(ip)]);
        if is_host_mode { nodes.to_vec() } else { vec![vec![IpAddr::from([127, 0, 0, 1])]] }
    }

    #[test]
    fn every_proxy_is_probed_on_every_node_that_publishes_its_port() {
        let mut project = stack("caddy", json!({"image": "app:1"}));
        project["services"]["lb"]["ports"][1]["mode"] = "host".into();
        project["services"]["edge"] = project["services"]["lb"].clone();
        project["services"]["edge"]["ports"] = json!([{"target": 80, "published": "9000"}]);
        let text = ":80 {\n reverse_proxy tasks.app:3000\n}";
        let expected = ["http://127.0.0.1:9000/", "http://10.0.0.1:8000/", "http://10.0.0.2:8000/"];
        assert_eq!(candidates(&project, &["app"], text), expected);
    }

    fn stack(image: &str, app: Value) -> Value {
        json!({"configs": {"c": {"file": "/f"}}, "services": {"app": app, "lb": {
            "image": image,
            "configs": [{"source": "c", "target": if image == "caddy" { "/etc/caddy/Caddyfile" } else { "/haproxy.cfg" }}],
            "ports": [{"target": 53, "published": "53", "protocol": "udp"}, {"target": 80, "published": "8000"}]}}})
    }

    #[test]
    fn a_service_behind_a_proxy_is_probed_at_the_proxy() {
        let plain = || json!({"image": "app:1"});
        let caddy = |text| candidates(&stack("caddy", plain()), &["app", "lb"], text);
        assert_eq!(caddy(":80 {\n reverse_proxy tasks.app:3000\n}"), ["http://127.0.0.1:8000/"]);
        assert_eq!(
            caddy("http://a.b {\n reverse_proxy app:3000\n}"),
            ["http://a.b:8000/", "http://127.0.0.1:8000/"]
        );
        let lines = "frontend f\n bind :80\n default_backend b\nbackend b\n server-template x 4 tasks.app:80";
        assert_eq!(candidates(&stack("haproxy", plain()), &["app"], lines), ["http://127.0.0.1:8000/"]);
        let labels =
            json!({"image": "a", "deploy": {"labels": {"traefik.http.routers.a.rule": "Host(`a.b`)"}}});
        assert_eq!(candidates(&stack("traefik:3", labels), &["app"], ""), ["http://a.b:8000/"]);
    }

    #[test]
    fn a_service_without_a_proxy_is_probed_at_its_own_port() {
        let own =
            json!({"services": {"app": {"ports": [{"target": 3000, "published": 3000}]}, "worker": {}}});
        assert_eq!(candidates(&own, &["app", "worker"], ""), ["http://127.0.0.1:3000/"]);
        assert_eq!(candidates(&own, &["worker"], ""), Vec::<String>::new());
    }

    #[test]
    fn a_proxy_site_that_needs_tls_is_not_probed() {
        let caddy = stack("caddy", json!({"image": "a", "ports": [{"target": 1, "published": "1"}]}));
        assert_eq!(candidates(&caddy, &["app"], "a.b {\n reverse_proxy app:3000\n}"), Vec::<String>::new());
    }
}
