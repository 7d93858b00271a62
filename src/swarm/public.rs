//! Where the services of a stack are reached from this machine, by the ports that it publishes. Pure.

use std::net::{Ipv4Addr, SocketAddr};

use serde_json::Value;

use super::front::Front;
use crate::proxy::entrance::{Entrance, Place};

/// A place for each of these services, through the proxy in front of it or at its own port; each once. `host` and `path`
/// go before what a proxy tells.
pub fn places(
    project: &Value,
    stack: &str,
    services: &[String],
    fronts: &[Front],
    (host, path): (Option<&str>, Option<&str>),
) -> Vec<Place> {
    let mut found: Vec<Place> = Vec::new();
    for name in services {
        let part = &project["services"][name];
        let before = fronts.iter().filter(|f| f.service != *name && f.reaches(stack, name, part));
        let through = before.clone().find_map(|front| {
            let ports = published(&project["services"][&front.service]);
            front.entrances(stack, name, part).iter().find_map(|e| place(e, &ports, host, path))
        });
        let own = || {
            let ports = published(part);
            ports.first().and_then(|(target, _)| place(&Entrance::at(*target, false), &ports, host, path))
        };
        let place = if before.count() > 0 { through } else { own() };
        found.extend(place.filter(|p| !found.contains(p)));
    }
    found
}

fn place(entrance: &Entrance, ports: &[(u16, u16)], host: Option<&str>, path: Option<&str>) -> Option<Place> {
    let (_, port) = ports.iter().find(|(target, _)| *target == entrance.port)?;
    entrance.place_at(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), *port), host, path)
}

/// The TCP ports of a service and those of the nodes that lead to them.
fn published(service: &Value) -> Vec<(u16, u16)> {
    let ports = service["ports"].as_array().into_iter().flatten();
    let tcp = ports.filter(|p| p["protocol"].as_str().is_none_or(|name| name == "tcp"));
    let number =
        |v: &Value| v.as_u64().or_else(|| v.as_str()?.parse().ok()).and_then(|n| u16::try_from(n).ok());
    tcp.filter_map(|p| Some((number(&p["target"])?, number(&p["published"])?))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(project: &Value, services: &[&str], files: &str) -> Vec<String> {
        let read = |_: &str| Some(files.to_string());
        let all = project["services"].as_object().unwrap().iter();
        let fronts: Vec<Front> = all.filter_map(|(n, s)| Front::of(n, s, project, &read)).collect();
        let services: Vec<String> = services.iter().map(|s| s.to_string()).collect();
        let places = places(project, "p", &services, &fronts, (None, None));
        places.iter().map(|p| p.url.to_string()).collect()
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
