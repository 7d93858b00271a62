//! Where the services of a stack are reached, by the ports that it publishes. Pure.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::proxy_config::StackProxy;
use crate::proxy::public_route::PublicRoute;
use crate::witness::UrlCandidates;

/// Where a service that publishes a port is reached: the addresses of the nodes, each with the ways to it, best first.
pub type NodeAddresses<'a> = dyn Fn(&str, bool) -> Vec<Vec<IpAddr>> + 'a;

/// The places of each of these services, each once: at every proxy in front of it, on every node where that proxy has a port,
/// or at its own port. `addresses` gets a service and whether its port is that of its node; `host` and `path` go before what
/// a proxy tells.
pub fn places(
    project: &Value,
    stack: &str,
    services: &[String],
    fronts: &[StackProxy],
    addresses: &NodeAddresses,
    asked: (Option<&str>, Option<&str>),
) -> Vec<UrlCandidates> {
    let mut found: Vec<UrlCandidates> = Vec::new();
    for name in services {
        let part = &project["services"][name];
        let before: Vec<&StackProxy> =
            fronts.iter().filter(|f| f.service != *name && f.reaches(stack, name, part)).collect();
        let mut all = Vec::new();
        for front in &before {
            let ports = published(&project["services"][&front.service]);
            let entrances = front.entrances(stack, name, part);
            let open = entrances.iter().find_map(|e| Some((e, *ports.iter().find(|p| p.target == e.port)?)));
            all.extend(open.map(|(entrance, port)| (entrance.clone(), port, front.service.as_str())));
        }
        if before.is_empty() {
            let port = published(part).first().copied();
            all.extend(port.map(|port| (PublicRoute::at(port.target, false), port, name.as_str())));
        }
        for (entrance, port, owner) in all {
            for ways in addresses(owner, port.is_of_node) {
                let at = |ip: &IpAddr| {
                    entrance.witness_url_at(SocketAddr::new(*ip, port.published), asked.0, asked.1)
                };
                let places: UrlCandidates = ways.iter().filter_map(at).collect();
                if !places.is_empty() && !found.contains(&places) {
                    found.push(places);
                }
            }
        }
    }
    found
}

/// A TCP port of a service, and that of the nodes that leads to it.
#[derive(Debug, Clone, Copy)]
struct PublishedPort {
    target: u16,
    published: u16,
    /// Of the node that a task runs on alone.
    is_of_node: bool,
}

fn published(service: &Value) -> Vec<PublishedPort> {
    let ports = service["ports"].as_array().into_iter().flatten();
    let tcp = ports.filter(|p| p["protocol"].as_str().is_none_or(|name| name == "tcp"));
    let number =
        |v: &Value| v.as_u64().or_else(|| v.as_str()?.parse().ok()).and_then(|n| u16::try_from(n).ok());
    let port = |p: &Value| {
        let is_of_node = p["mode"].as_str() == Some("host");
        Some(PublishedPort { target: number(&p["target"])?, published: number(&p["published"])?, is_of_node })
    };
    tcp.filter_map(port).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(project: &Value, services: &[&str], files: &str) -> Vec<String> {
        let read = |_: &str| Some(files.to_string());
        let all = project["services"].as_object().unwrap().iter();
        let fronts: Vec<StackProxy> = all.filter_map(|(n, s)| StackProxy::of(n, s, project, &read)).collect();
        let services: Vec<String> = services.iter().map(|s| s.to_string()).collect();
        let places = places(project, "p", &services, &fronts, &here, (None, None));
        places.iter().flatten().map(|p| p.url.to_string()).collect()
    }

    /// A port of a node is reached on two nodes, another one here.
    fn here(_: &str, is_of_node: bool) -> Vec<Vec<IpAddr>> {
        let nodes = [[10, 0, 0, 1], [10, 0, 0, 2]].map(|ip| vec![IpAddr::from(ip)]);
        if is_of_node { nodes.to_vec() } else { vec![vec![IpAddr::from([127, 0, 0, 1])]] }
    }

    #[test]
    fn every_proxy_is_asked_on_every_node_that_has_its_port() {
        let mut project = stack("caddy", json!({"image": "app:1"}));
        project["services"]["lb"]["ports"][1]["mode"] = "host".into();
        project["services"]["edge"] = project["services"]["lb"].clone();
        project["services"]["edge"]["ports"] = json!([{"target": 80, "published": "9000"}]);
        let text = ":80 {\n reverse_proxy tasks.app:3000\n}";
        let expected = ["http://127.0.0.1:9000/", "http://10.0.0.1:8000/", "http://10.0.0.2:8000/"];
        assert_eq!(found(&project, &["app"], text), expected);
    }

    fn stack(image: &str, app: Value) -> Value {
        json!({"configs": {"c": {"file": "/f"}}, "services": {"app": app, "lb": {
            "image": image,
            "configs": [{"source": "c", "target": if image == "caddy" { "/etc/caddy/Caddyfile" } else { "/haproxy.cfg" }}],
            "ports": [{"target": 53, "published": "53", "protocol": "udp"}, {"target": 80, "published": "8000"}]}}})
    }

    #[test]
    fn a_service_is_reached_through_its_proxy() {
        let plain = || json!({"image": "app:1"});
        let caddy = |text| found(&stack("caddy", plain()), &["app", "lb"], text);
        assert_eq!(caddy(":80 {\n reverse_proxy tasks.app:3000\n}"), ["http://127.0.0.1:8000/"]);
        assert_eq!(
            caddy("http://a.b {\n reverse_proxy app:3000\n}"),
            ["http://a.b:8000/", "http://127.0.0.1:8000/"]
        );
        let lines = "frontend f\n bind :80\n default_backend b\nbackend b\n server-template x 4 tasks.app:80";
        assert_eq!(found(&stack("haproxy", plain()), &["app"], lines), ["http://127.0.0.1:8000/"]);
        let labels =
            json!({"image": "a", "deploy": {"labels": {"traefik.http.routers.a.rule": "Host(`a.b`)"}}});
        assert_eq!(found(&stack("traefik:3", labels), &["app"], ""), ["http://a.b:8000/"]);
    }

    #[test]
    fn without_a_proxy_it_is_reached_at_its_own_port() {
        let own =
            json!({"services": {"app": {"ports": [{"target": 3000, "published": 3000}]}, "worker": {}}});
        assert_eq!(found(&own, &["app", "worker"], ""), ["http://127.0.0.1:3000/"]);
        assert_eq!(found(&own, &["worker"], ""), Vec::<String>::new());
    }

    #[test]
    fn a_proxy_that_takes_more_than_a_name_is_not_guessed_at() {
        let caddy = stack("caddy", json!({"image": "a", "ports": [{"target": 1, "published": "1"}]}));
        assert_eq!(found(&caddy, &["app"], "a.b {\n reverse_proxy app:3000\n}"), Vec::<String>::new());
    }
}
