//! Public routes to the handlers of a service, from Caddy's configuration: its servers, and the hosts and paths of
//! their routes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::config::{Handler, handlers_in};
use crate::proxy::public_route::PublicRoute;

/// Public routes to the handlers that route to one of these names; those without TLS first.
pub fn public_routes(config: &Value, names: &BTreeSet<String>) -> Vec<PublicRoute> {
    let http = &config["apps"]["http"];
    let servers = http["servers"].as_object().into_iter().flat_map(|servers| servers.values());
    let mut public_routes: Vec<PublicRoute> =
        servers.flat_map(|server| routes_of(http, server, names)).collect();
    public_routes.sort_by_key(|r| (r.tls, r.path != "/"));
    public_routes
}

fn routes_of(http: &Value, server: &Value, names: &BTreeSet<String>) -> Vec<PublicRoute> {
    let listens = server["listen"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let ports: Vec<u16> = listens.filter_map(|l| l.rsplit_once(':')?.1.parse().ok()).collect();
    let is_port = |port: u16, key: &str, default| u64::from(port) == http[key].as_u64().unwrap_or(default);
    let is_explicit = server["tls_connection_policies"].as_array().is_some_and(|p| !p.is_empty());
    let is_automatic = server["automatic_https"]["disable"] != true;
    let has_tls = |port, host: &Option<String>| {
        let is_automatic = is_automatic && host.is_some() && !is_port(port, "http_port", 80);
        is_explicit || is_automatic || is_port(port, "https_port", 443)
    };
    let public_route = |handler: &Handler, port: u16| PublicRoute {
        port,
        tls: has_tls(port, &handler.public_host),
        host: handler.public_host.clone(),
        path: handler.public_path.clone().unwrap_or_else(|| "/".into()),
    };
    let mut handlers = handlers_in(&server["routes"]);
    handlers.retain(|handler| handler.upstreams_of(names).next().is_some());
    handlers.iter().flat_map(|handler| ports.iter().map(|port| public_route(handler, *port))).collect()
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
