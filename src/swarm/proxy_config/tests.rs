use serde_json::json;

use super::*;

fn front(image: &str, target: &str, text: &str) -> StackProxy {
    let service = json!({ "image": image, "configs": [{ "source": "c", "target": target }] });
    let stack = json!({ "configs": { "c": { "file": "/f" } } });
    let read = |path: &str| (path == "/f").then(|| text.to_string());
    StackProxy::of("lb", &service, &stack, &read).expect("a proxy")
}

fn caddy(text: &str) -> StackProxy {
    front("caddy:2.11", "/etc/caddy/Caddyfile", text)
}

fn haproxy(text: &str) -> StackProxy {
    front("registry:5000/haproxy:3.2", "/usr/local/etc/haproxy/haproxy.cfg", text)
}

#[test]
fn a_proxy_is_recognised_by_its_image_or_its_file() {
    assert_eq!(caddy("").kind, ProxyKind::Caddy);
    assert_eq!(haproxy("").kind, ProxyKind::Haproxy);
    assert_eq!(front("ours", "/etc/caddy/Caddyfile", "").kind, ProxyKind::Caddy);
    let app = json!({ "image": "shop:1", "configs": [{ "source": "c", "target": "/app.toml" }] });
    assert_eq!(StackProxy::of("app", &app, &json!({}), &|_| None), None);
}

#[test]
fn it_reaches_what_its_configuration_names() {
    let front = caddy("reverse_proxy tasks.flask:8000 # not app\nreverse_proxy http://p_api:80");
    let reaches = |service| front.reaches("p", service, &json!({}));
    assert!(reaches("flask") && reaches("api"));
    assert!(!reaches("app") && !reaches("fla"));
    let traefik = front_of_traefik("");
    assert!(traefik.reaches("p", "x", &json!({ "deploy": { "labels": { "traefik.enable": "true" } } })));
    assert!(!traefik.reaches("p", "x", &json!({})));
}

fn front_of_traefik(argument: &str) -> StackProxy {
    let service = json!({ "image": "traefik:v3", "command": ["--providers.swarm=true", argument] });
    StackProxy::of("lb", &service, &json!({}), &|_| None).unwrap()
}

#[test]
fn caddy_has_to_look_up_often_and_to_try_again() {
    let risks = |text: &str| {
        caddy(text).risks("flask", &json!({})).iter().map(|r| format!("{r}\n")).collect::<String>()
    };
    let good = "reverse_proxy {\n dynamic a {\n  name tasks.flask\n  refresh 500ms # short\n }\n lb_try_duration 5s\n}";
    assert_eq!(risks(good), "");
    assert!(risks(&good.replace("refresh", "# refresh")).contains("set `refresh 500ms`"));
    assert!(risks(&good.replace("500ms", "10s")).contains("set `refresh 500ms`"));
    assert!(risks(&good.replace("lb_try_duration", "#")).contains("502"));
    let naive = risks("reverse_proxy flask:8000");
    assert!(
        naive.contains("`lb` in front of `flask`") && naive.contains("dynamic a") && naive.contains("502")
    );
}

#[test]
fn haproxy_has_to_look_up_and_to_let_go() {
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
fn traefik_has_to_ask_often() {
    let risks = |argument| {
        front_of_traefik(argument)
            .risks("app", &json!({}))
            .iter()
            .map(|r| format!("{r}\n"))
            .collect::<String>()
    };
    assert!(risks("").contains("refreshSeconds=1"));
    assert!(risks("--providers.swarm.refreshSeconds=15").contains("refreshSeconds=1"));
    assert_eq!(risks("--providers.swarm.refreshSeconds=1"), "");
}

fn nginx(text: &str, mode: &str) -> String {
    let front = front("nginx:1.29", "/etc/nginx/conf.d/default.conf", text);
    let part = json!({ "deploy": { "endpoint_mode": mode } });
    assert!(front.reaches("p", "app", &part));
    front.risks("app", &part).iter().map(|r| r.rule.to_string()).collect()
}

#[test]
fn nginx_that_looks_up_once_needs_a_name_that_stays() {
    let fixed =
        "upstream up { \n server app:3000; \n}\nserver {\n location / { \n proxy_pass http://up; \n}\n}";
    assert_eq!(nginx(fixed, "dnsrr"), "swarm-nginx-lookup");
    assert_eq!(nginx(fixed, "vip"), "");
    assert_eq!(nginx("proxy_pass http://tasks.app:3000;", "vip"), "swarm-nginx-lookup");
    let variable = "resolver 127.0.0.11 valid=1s;\n set $up tasks.app;\n proxy_pass http://$up:3000;";
    assert_eq!(nginx(variable, "dnsrr"), "");
    assert_eq!(nginx(&variable.replace(" valid=1s", ""), "dnsrr"), "swarm-nginx-resolver");
    assert_eq!(nginx(&variable.replace("1s", "30s"), "vip"), "swarm-nginx-resolver");
    let front =
        front("nginx", "/etc/nginx/nginx.conf", "listen 8080;\nlisten [::]:443 ssl;\nproxy_pass http://app;");
    let ports: Vec<u16> = front.entrances("p", "app", &json!({})).iter().map(|e| e.port).collect();
    assert_eq!(ports, [8080]);
}

#[test]
fn proxies_of_one_machine_are_named_in_a_swarm() {
    let rules = |front: &StackProxy, part: Value| {
        front.risks("app", &part).iter().map(|r| r.rule.to_string()).collect::<Vec<_>>().join(" ")
    };
    let traefik = |words: &[&str]| {
        let service = json!({ "image": "traefik:v3", "command": words });
        StackProxy::of("lb", &service, &json!({}), &|_| None).unwrap()
    };
    let own = || json!({ "labels": { "traefik.enable": "true" } });
    assert_eq!(rules(&traefik(&["--providers.docker=true"]), own()), "swarm-traefik-provider");
    let swarm = traefik(&["--providers.swarm.refreshSeconds=1"]);
    assert_eq!(rules(&swarm, own()), "swarm-traefik-labels");
    assert_eq!(rules(&swarm, json!({ "deploy": own() })), "");
    assert_eq!(
        rules(
            &traefik(&["--providers.docker.swarmMode=true", "--providers.docker.swarmModeRefreshSeconds=1"]),
            json!({})
        ),
        ""
    );
    let service = json!({ "image": "nginxproxy/nginx-proxy:1.11" });
    let proxy = StackProxy::of("lb", &service, &json!({}), &|_| None).unwrap();
    let part = json!({ "environment": { "VIRTUAL_HOST": "a.b" } });
    assert!(proxy.reaches("p", "app", &part) && !proxy.reaches("p", "app", &json!({})));
    assert_eq!(rules(&proxy, part), "swarm-nginx-proxy");
}
