//! Public routes to the handlers of a service, from Caddy's configuration: its servers, and the hosts and paths of
//! their routes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::config::{behind_switch, children, is_proxy, public_host, upstreams};
use crate::proxy::public_route::PublicRoute;

/// Public routes to the handlers that route to one of these names; those without TLS first.
pub fn public_routes(config: &Value, names: &BTreeSet<String>) -> Vec<PublicRoute> {
    let http = &config["apps"]["http"];
    let setting = |key: &str, port: u64| http[key].as_u64().unwrap_or(port);
    let (http_port, https_port) = (setting("http_port", 80), setting("https_port", 443));
    let mut public_routes = Vec::new();
    for server in http["servers"].as_object().into_iter().flat_map(|s| s.values()) {
        let listens = server["listen"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let ports: Vec<u16> = listens.filter_map(|l| l.rsplit_once(':')?.1.parse().ok()).collect();
        let mut requests = Vec::new();
        collect_hosts_and_paths(&server["routes"], names, (None, None), &mut requests);
        let has_tls = |port: u16, host: &Option<String>| {
            let is_explicit = server["tls_connection_policies"].as_array().is_some_and(|p| !p.is_empty());
            let is_automatic = host.is_some() && server["automatic_https"]["disable"] != true;
            is_explicit || u64::from(port) == https_port || (is_automatic && u64::from(port) != http_port)
        };
        for (host, path) in requests {
            let public_route = |port: &u16| PublicRoute {
                port: *port,
                tls: has_tls(*port, &host),
                host: host.clone(),
                path: path.clone().unwrap_or_else(|| "/".into()),
            };
            public_routes.extend(ports.iter().map(public_route));
        }
    }
    public_routes.sort_by_key(|r| (r.tls, r.path != "/"));
    public_routes
}

/// Host and path by which a route matches a request.
type HostAndPath = (Option<String>, Option<String>);

/// Collects the host and path of each handler under `value` that routes to one of the names.
fn collect_hosts_and_paths(
    value: &Value,
    names: &BTreeSet<String>,
    parent: HostAndPath,
    requests: &mut Vec<HostAndPath>,
) {
    let value = behind_switch(value).unwrap_or(value);
    let host = public_host(value).map(String::from).or(parent.0);
    let path = public_path(value).or(parent.1);
    if is_proxy(value) && upstreams(value).iter().any(|u| names.contains(&u.host)) {
        requests.push((host.clone(), path.clone()));
    }
    for child in children(value) {
        collect_hosts_and_paths(child, names, (host.clone(), path.clone()), requests);
    }
}

/// Path that the matcher of a route accepts, such as `/shop/` for `/shop/*`.
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

    fn routes(servers: Value) -> Vec<String> {
        let config = json!({"apps": {"http": {"servers": servers}}});
        let text = |e: &PublicRoute| {
            let host = e.host.clone().unwrap_or("*".into());
            format!("{}{host}:{}{}", if e.tls { "tls " } else { "" }, e.port, e.path)
        };
        public_routes(&config, &BTreeSet::from(["app".to_string()])).iter().map(text).collect()
    }

    fn proxy_to(host: &str) -> Value {
        json!({"handler": "reverse_proxy", "upstreams": [{"dial": format!("{host}:3000")}]})
    }

    #[test]
    fn a_site_has_a_route_with_port_host_and_path() {
        let without_host = json!({"a": {"listen": [":80"], "routes": [{"handle": [proxy_to("app")]}]}});
        assert_eq!(routes(without_host), ["*:80/"]);
        let inner = json!({"handler": "subroute", "routes": [
            {"match": [{"path": ["/shop/*"]}], "handle": [proxy_to("app")]}, {"handle": [proxy_to("web")]}]});
        let named = json!({"a": {"listen": [":443"], "routes": [
            {"match": [{"host": ["app.example"]}], "handle": [inner]}]}});
        assert_eq!(routes(named), ["tls app.example:443/shop/"]);
    }

    #[test]
    fn a_named_site_has_tls_unless_it_is_on_the_plain_port_or_switched_off() {
        let site = |settings: Value| {
            let mut server = json!({"listen": [":8080"], "routes": [
                {"match": [{"host": ["a.b"]}], "handle": [proxy_to("app")]}]});
            settings.as_object().unwrap().iter().for_each(|(k, v)| server[k] = v.clone());
            routes(json!({"a": server}))
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
    fn a_route_to_another_service_does_not_count() {
        assert!(
            routes(json!({"a": {"listen": [":80"], "routes": [{"handle": [proxy_to("web")]}]}})).is_empty()
        );
        assert!(routes(json!({})).is_empty());
        assert!(public_routes(&Value::Null, &BTreeSet::new()).is_empty());
    }
}
