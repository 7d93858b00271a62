//! By which ways requests come to a handler: the servers of a configuration, and the hosts and paths of their routes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::config::{children, is_proxy, original, public_host, upstreams};
use crate::proxy::public_route::PublicRoute;

/// The ways to the handlers that route to one of these names; those without TLS first.
pub fn entrances(config: &Value, names: &BTreeSet<String>) -> Vec<PublicRoute> {
    let http = &config["apps"]["http"];
    let usual = |key: &str, port: u64| http[key].as_u64().unwrap_or(port);
    let (plain, secure) = (usual("http_port", 80), usual("https_port", 443));
    let mut found = Vec::new();
    for server in http["servers"].as_object().into_iter().flat_map(|s| s.values()) {
        let listens = server["listen"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let ports: Vec<u16> = listens.filter_map(|l| l.rsplit_once(':')?.1.parse().ok()).collect();
        let mut requests = Vec::new();
        collect(&server["routes"], names, (None, None), &mut requests);
        let secured = |port: u16, host: &Option<String>| {
            let asked = server["tls_connection_policies"].as_array().is_some_and(|p| !p.is_empty());
            let automatic = host.is_some() && server["automatic_https"]["disable"] != true;
            asked || u64::from(port) == secure || (automatic && u64::from(port) != plain)
        };
        for (host, path) in requests {
            let at = |port: &u16| PublicRoute {
                port: *port,
                tls: secured(*port, &host),
                host: host.clone(),
                path: path.clone().unwrap_or_else(|| "/".into()),
            };
            found.extend(ports.iter().map(at));
        }
    }
    found.sort_by_key(|e| (e.tls, e.path != "/"));
    found
}

type HostAndPath = (Option<String>, Option<String>);

fn collect(value: &Value, names: &BTreeSet<String>, around: HostAndPath, found: &mut Vec<HostAndPath>) {
    let value = original(value).unwrap_or(value);
    let host = public_host(value).map(String::from).or(around.0);
    let path = public_path(value).or(around.1);
    if is_proxy(value) && upstreams(value).iter().any(|u| names.contains(&u.host)) {
        found.push((host.clone(), path.clone()));
    }
    for child in children(value) {
        collect(child, names, (host.clone(), path.clone()), found);
    }
}

/// A path that a route's matcher lets through: `/shop/*` is met by `/shop/`.
fn public_path(route: &Value) -> Option<String> {
    let sets = route["match"].as_array()?.iter();
    let mut paths = sets.filter_map(|set| set["path"].as_array()).flatten().filter_map(Value::as_str);
    let path = paths.find(|p| p.starts_with('/') && !p.contains('{'))?;
    path.split('*').next().map(String::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(servers: Value) -> Vec<String> {
        let config = json!({"apps": {"http": {"servers": servers}}});
        let said = |e: &PublicRoute| {
            let host = e.host.clone().unwrap_or("*".into());
            format!("{}{host}:{}{}", if e.tls { "tls " } else { "" }, e.port, e.path)
        };
        entrances(&config, &BTreeSet::from(["app".to_string()])).iter().map(said).collect()
    }

    fn to(host: &str) -> Value {
        json!({"handler": "reverse_proxy", "upstreams": [{"dial": format!("{host}:3000")}]})
    }

    #[test]
    fn a_site_is_reached_at_its_port_by_its_host_and_path() {
        let any = json!({"a": {"listen": [":80"], "routes": [{"handle": [to("app")]}]}});
        assert_eq!(found(any), ["*:80/"]);
        let inner = json!({"handler": "subroute", "routes": [
            {"match": [{"path": ["/shop/*"]}], "handle": [to("app")]}, {"handle": [to("web")]}]});
        let named = json!({"a": {"listen": [":443"], "routes": [
            {"match": [{"host": ["app.example"]}], "handle": [inner]}]}});
        assert_eq!(found(named), ["tls app.example:443/shop/"]);
    }

    #[test]
    fn a_named_site_has_tls_unless_it_is_on_the_plain_port_or_switched_off() {
        let site = |more: Value| {
            let mut server = json!({"listen": [":8080"], "routes": [
                {"match": [{"host": ["a.b"]}], "handle": [to("app")]}]});
            more.as_object().unwrap().iter().for_each(|(k, v)| server[k] = v.clone());
            found(json!({"a": server}))
        };
        assert_eq!(site(json!({})), ["tls a.b:8080/"]);
        assert_eq!(site(json!({"automatic_https": {"disable": true}})), ["a.b:8080/"]);
        assert_eq!(site(json!({"listen": [":80"]})), ["a.b:80/"]);
        assert_eq!(site(json!({"listen": [":80"], "tls_connection_policies": [{}]})), ["tls a.b:80/"]);
        assert_eq!(
            site(json!({"listen": ["unix//run/a", "0.0.0.0:81"], "automatic_https": {"disable": true}})),
            ["a.b:81/"]
        );
    }

    #[test]
    fn what_routes_elsewhere_is_no_entrance() {
        assert!(found(json!({"a": {"listen": [":80"], "routes": [{"handle": [to("web")]}]}})).is_empty());
        assert!(found(json!({})).is_empty());
        assert!(entrances(&Value::Null, &BTreeSet::new()).is_empty());
    }
}
