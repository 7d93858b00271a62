use serde_json::json;

use super::*;

fn proxy(image: &str, target: &str, text: &str) -> StackProxy {
    let service = json!({ "image": image, "configs": [{ "source": "c", "target": target }] });
    let stack = json!({ "configs": { "c": { "file": "/f" } } });
    let read = |path: &str| (path == "/f").then(|| text.to_string());
    StackProxy::detect("lb", &service, &stack, &read).expect("a proxy")
}

fn caddy(text: &str) -> StackProxy {
    proxy("caddy:2.11", "/etc/caddy/Caddyfile", text)
}

fn haproxy(text: &str) -> StackProxy {
    proxy("registry:5000/haproxy:3.2", "/usr/local/etc/haproxy/haproxy.cfg", text)
}

#[test]
fn a_proxy_is_recognised_by_its_image_or_its_file() {
    assert_eq!(caddy("").kind, ProxyKind::Caddy);
    assert_eq!(haproxy("").kind, ProxyKind::Haproxy);
    assert_eq!(proxy("ours", "/etc/caddy/Caddyfile", "").kind, ProxyKind::Caddy);
    let app = json!({ "image": "shop:1", "configs": [{ "source": "c", "target": "/app.toml" }] });
    assert_eq!(StackProxy::detect("app", &app, &json!({}), &|_| None), None);
}

#[test]
fn a_proxy_routes_to_the_services_that_its_configuration_names() {
    let proxy = caddy("reverse_proxy tasks.flask:8000 # not app\nreverse_proxy http://p_api:80");
    let reaches = |service| proxy.routes_to("p", service, &json!({}));
    assert!(reaches("flask") && reaches("api"));
    assert!(!reaches("app") && !reaches("fla"));
    let traefik = traefik_with("");
    assert!(traefik.routes_to("p", "x", &json!({ "deploy": { "labels": { "traefik.enable": "true" } } })));
    assert!(!traefik.routes_to("p", "x", &json!({})));
}

fn traefik_with(argument: &str) -> StackProxy {
    let service = json!({ "image": "traefik:v3", "command": ["--providers.swarm=true", argument] });
    StackProxy::detect("lb", &service, &json!({}), &|_| None).unwrap()
}

#[test]
fn caddy_must_resolve_often_and_retry() {
    let risks = |text: &str| {
        caddy(text).risks("flask", &json!({})).iter().map(|r| format!("{r}\n")).collect::<String>()
    };
    let good = "reverse_proxy {\n dynamic a {\n  name tasks.flask\n  refresh 500ms # short\n }\n lb_try_duration 5s\n}";
    assert_eq!(risks(good), "");
    assert!(risks(&good.replace("refresh", "# refresh")).contains("set `refresh 500ms`"));
    assert!(risks(&good.replace("500ms", "10s")).contains("set `refresh 500ms`"));
    assert!(risks(&good.replace("lb_try_duration", "#")).contains("502"));
    let fixed_name = risks("reverse_proxy flask:8000");
    assert!(
        fixed_name.contains("`lb` in front of `flask`")
            && fixed_name.contains("dynamic a")
            && fixed_name.contains("502")
    );
}

#[test]
fn haproxy_must_resolve_often_and_drop_addresses() {
    let risks = |text: &str| {
        haproxy(text).risks("app", &json!({})).iter().map(|r| format!("{r}\n")).collect::<String>()
    };
    let good = "resolvers docker\n timeout resolve 500ms\nbackend b\n \
                server-template app 8 tasks.app:3000 resolvers docker init-addr none";
    assert_eq!(risks(good), "");
    assert!(risks(&good.replace("500ms", "10s")).contains("timeout resolve"));
    assert!(risks(&good.replace("500ms", "10000")).contains("timeout resolve"));
    assert!(risks(&good.replace("timeout", "hold obsolete 10s\n timeout")).contains("hold obsolete"));
    assert_eq!(risks(&good.replace("timeout", "hold obsolete 1s\n timeout")), "");
    assert!(risks("server app app:3000").contains("never again"));
}

#[test]
fn traefik_must_query_swarm_often() {
    let risks = |argument| {
        traefik_with(argument).risks("app", &json!({})).iter().map(|r| format!("{r}\n")).collect::<String>()
    };
    assert!(risks("").contains("refreshSeconds=1"));
    assert!(risks("--providers.swarm.refreshSeconds=15").contains("refreshSeconds=1"));
    assert_eq!(risks("--providers.swarm.refreshSeconds=1"), "");
}

fn nginx(text: &str, mode: &str) -> String {
    let proxy = proxy("nginx:1.29", "/etc/nginx/conf.d/default.conf", text);
    let definition = json!({ "deploy": { "endpoint_mode": mode } });
    assert!(proxy.routes_to("p", "app", &definition));
    proxy.risks("app", &definition).iter().map(|r| r.rule.to_string()).collect()
}

#[test]
fn nginx_that_resolves_once_needs_a_virtual_ip() {
    let fixed =
        "upstream up { \n server app:3000; \n}\nserver {\n location / { \n proxy_pass http://up; \n}\n}";
    assert_eq!(nginx(fixed, "dnsrr"), "swarm-nginx-lookup");
    assert_eq!(nginx(fixed, "vip"), "");
    assert_eq!(nginx("proxy_pass http://tasks.app:3000;", "vip"), "swarm-nginx-lookup");
    let variable = "resolver 127.0.0.11 valid=1s;\n set $up tasks.app;\n proxy_pass http://$up:3000;";
    assert_eq!(nginx(variable, "dnsrr"), "");
    assert_eq!(nginx(&variable.replace(" valid=1s", ""), "dnsrr"), "swarm-nginx-resolver");
    assert_eq!(nginx(&variable.replace("1s", "30s"), "vip"), "swarm-nginx-resolver");
    let proxy =
        proxy("nginx", "/etc/nginx/nginx.conf", "listen 8080;\nlisten [::]:443 ssl;\nproxy_pass http://app;");
    let ports: Vec<u16> = proxy.public_routes("p", "app", &json!({})).iter().map(|e| e.port).collect();
    assert_eq!(ports, [8080]);
}

#[test]
fn proxies_that_see_one_node_only_are_reported() {
    let rules = |proxy: &StackProxy, definition: Value| {
        proxy.risks("app", &definition).iter().map(|r| r.rule.to_string()).collect::<Vec<_>>().join(" ")
    };
    let traefik = |words: &[&str]| {
        let service = json!({ "image": "traefik:v3", "command": words });
        StackProxy::detect("lb", &service, &json!({}), &|_| None).unwrap()
    };
    let names = || json!({ "labels": { "traefik.enable": "true" } });
    assert_eq!(rules(&traefik(&["--providers.docker=true"]), names()), "swarm-traefik-provider");
    let swarm = traefik(&["--providers.swarm.refreshSeconds=1"]);
    assert_eq!(rules(&swarm, names()), "swarm-traefik-labels");
    assert_eq!(rules(&swarm, json!({ "deploy": names() })), "");
    assert_eq!(
        rules(
            &traefik(&["--providers.docker.swarmMode=true", "--providers.docker.swarmModeRefreshSeconds=1"]),
            json!({})
        ),
        ""
    );
    let service = json!({ "image": "nginxproxy/nginx-proxy:1.11" });
    let proxy = StackProxy::detect("lb", &service, &json!({}), &|_| None).unwrap();
    let definition = json!({ "environment": { "VIRTUAL_HOST": "a.b" } });
    assert!(proxy.routes_to("p", "app", &definition) && !proxy.routes_to("p", "app", &json!({})));
    assert_eq!(rules(&proxy, definition), "swarm-nginx-proxy");
}
