//! Routes of configurations, the requirements on them, and the changes towards each goal.

use super::*;
use crate::proxy::public_route::PublicRoute;
use crate::proxy::{Discovery, Endpoint, Rotation};

fn container(json: &str) -> Container {
    serde_json::from_str(json).expect("a container")
}

/// Proxy that has printed this introduction, on the network `front`.
fn proxy_with(introduction: &str) -> Nginx {
    let json = r#"{"Id": "lb", "Name": "/p-lb-1", "State": {"Status": "running"},
        "Config": {"Image": "nginx:1"}, "NetworkSettings": {"Networks": {"front": {}}}}"#;
    let mut proxy = Nginx::new(&container(json));
    proxy.learn(&output(introduction));
    proxy
}

fn output(text: &str) -> CommandResult {
    CommandResult { code: Some(0), stdout: text.into(), stderr: String::new() }
}

/// Proxy with this text in `http`.
fn proxy(http: &str) -> Nginx {
    proxy_with(&format!(
        "@user 0\n@hosts rw\n@version nginx version: nginx/1.22.1\n@config\n\
         # configuration file /etc/nginx/nginx.conf:\nhttp {{ {http} }}\n"
    ))
}

fn backend(names: &[&str], is_running: bool) -> Backend {
    Backend {
        project: "p".into(),
        service: names[0].into(),
        names: names.iter().map(ToString::to_string).collect(),
        networks: vec!["front".into()],
        addresses: if is_running { vec!["172.21.0.1".parse().unwrap()] } else { Vec::new() },
        is_running,
        ..Backend::default()
    }
}

fn shape(services: &[&str]) -> RolloutShape {
    RolloutShape {
        tune: true,
        project: "p".into(),
        services: services.iter().map(|s| (s.to_string(), vec![s.to_string()])).collect(),
        backends: services
            .iter()
            .flat_map(|s| [backend(&[s, &format!("p-{s}-1")], true), backend(&[s], false)])
            .collect(),
        ..RolloutShape::default()
    }
}

#[test]
fn nginx_is_known_by_its_image_its_program_and_its_environment() {
    let is_nginx = |json: &str| detect(&container(json)).is_some();
    for image in [
        "nginx",
        "nginx:1.29-alpine",
        "r.example/nginxinc/nginx-unprivileged@sha256:1",
        "openresty/openresty:1",
    ] {
        assert!(is_nginx(&format!(r#"{{"Config": {{"Image": "{image}"}}}}"#)), "{image}");
    }
    assert!(is_nginx(r#"{"Path": "/docker-entrypoint.sh", "Args": ["nginx", "-g", "daemon off;"]}"#));
    assert!(is_nginx(r#"{"Path": "sh", "Args": ["-c", "envsubst </a >/b; exec nginx -g 'daemon off;'"]}"#));
    assert!(is_nginx(r#"{"Config": {"Env": ["NGINX_VERSION=1.29.5"]}}"#));
    for image in ["jc21/nginx-proxy-manager:2", "my-nginx", "nginxproxy/nginx-proxy"] {
        assert!(!is_nginx(&format!(r#"{{"Config": {{"Image": "{image}"}}}}"#)), "{image}");
    }
}

#[test]
fn each_kind_of_pass_has_its_host_and_port() {
    let table = [
        ("proxy_pass http://app;", Some(80), false),
        ("proxy_pass https://app/x;", Some(443), false),
        ("proxy_pass http://App:3000;", Some(3000), false),
        ("proxy_pass http://group/;", Some(8080), false),
        ("fastcgi_pass app:9000;", Some(9000), true),
        ("uwsgi_pass uwsgi://app:3031;", Some(3031), true),
        ("scgi_pass app:4000;", Some(4000), true),
        ("grpc_pass grpc://app:50051;", Some(50051), true),
        ("if ($x) { proxy_pass http://app:1; }", Some(1), false),
        ("set $up group; proxy_pass http://$up;", Some(8080), false),
    ];
    for (pass, port, not_http) in table {
        let proxy = proxy(&format!(
            "upstream group {{ server unix:/a; server app:8080; }} server {{ location / {{ {pass} }} }}"
        ));
        assert!(proxy.routes_to(&backend(&["app"], true)), "{pass}");
        let route = proxy.route_to(&backend(&["app"], true));
        assert_eq!((route.port, route.not_http), (port, not_http), "{pass}");
    }
    for other in [
        "proxy_pass http://other;",
        "proxy_pass http://unix:/run/app.sock;",
        "# proxy_pass http://app;",
        "proxy_pass http://$host;",
        "root /srv/app;",
    ] {
        let proxy = proxy(&format!("server {{ location / {{ {other}\n }} }}"));
        assert!(!proxy.routes_to(&backend(&["app"], true)), "{other}");
    }
}

#[test]
fn a_stream_and_its_groups_are_routes() {
    let text = "@config\n# configuration file /n:\nstream { upstream db { server app:5432; } server { listen 5432; proxy_pass db; } }\n";
    let route = proxy_with(text).route_to(&backend(&["app"], true));
    assert_eq!((route.port, route.not_http, route.public), (Some(5432), true, Vec::new()));
}

#[test]
fn public_routes_have_the_port_name_and_path_of_their_server() {
    let route = |port, tls, host: Option<&str>, path: &str| PublicRoute {
        port,
        tls,
        host: host.map(String::from),
        path: path.into(),
    };
    let table = [
        ("server { PASS }", vec![route(80, false, None, "/")]),
        (
            "server { listen [::]:81; listen 81 default_server; server_name _; PASS }",
            vec![route(81, false, None, "/")],
        ),
        (
            "server { listen 443 ssl; listen 443 quic; server_name a.example *.example; PASS }",
            vec![route(443, true, Some("a.example"), "/")],
        ),
        ("server { server_name ~^x; PASS }", Vec::new()),
        ("server { location ~ x { proxy_pass http://app; } }", Vec::new()),
        (
            "server { location /a/b { proxy_pass http://app; } location = /a { proxy_pass http://app; } }",
            vec![route(80, false, None, "/a"), route(80, false, None, "/a/b")],
        ),
    ];
    for (http, expected) in table {
        let http = http.replace("PASS", "location / { proxy_pass http://app; }");
        assert_eq!(proxy(&http).route_to(&backend(&["app"], true)).public, expected, "{http}");
    }
}

#[test]
fn an_instance_gets_the_host_header_of_its_location() {
    let table = [
        ("", Some("app:3000")),
        ("proxy_set_header Host $host;", Some("a.example")),
        ("proxy_set_header host b.example;", Some("b.example")),
        ("proxy_set_header X y;", Some("app:3000")),
        ("proxy_set_header Host $http_x;", None),
    ];
    for (line, expected) in table {
        let http = format!(
            "proxy_set_header Host c.example; server {{ server_name a.example; proxy_set_header Host d.example; \
             location / {{ {line} proxy_pass http://app:3000; }} }}"
        );
        let expected = if line.is_empty() { Some("d.example") } else { expected };
        assert_eq!(proxy(&http).route_to(&backend(&["app"], true)).host.as_deref(), expected, "{line}");
    }
}

#[test]
fn files_only_is_no_proxy() {
    assert!(proxy("server { root /srv; }").routes_nowhere());
    assert!(!proxy("server { location / { proxy_pass http://other; } }").routes_nowhere());
    let unreadable = proxy_with("");
    assert!(!unreadable.routes_nowhere() && unreadable.doubt(&[]).is_some());
    assert!(Nginx::new(&Container::default()).routes_nowhere(), "a stopped one");
}

/// First sentence of the error of an audit, and its rule.
fn refusal(proxy: &Nginx, shape: &RolloutShape) -> (String, String) {
    let error = proxy.audit(shape, None).refused.expect("a refusal");
    (error.rule.copied().unwrap_or_default().to_string(), error.message)
}

#[test]
fn a_configuration_that_cannot_be_switched_is_refused() {
    let route = |to: &str| format!("server {{ location / {{ {to} }} }}");
    let table = [
        (route("resolver x; set $up app; proxy_pass http://$up:3000;"), "nginx-resolver"),
        (route("resolver x; set $up http://app:3000; proxy_pass $up;"), "nginx-resolver"),
        (
            format!("resolver x; map $host $up {{ default app; }} {}", route("proxy_pass http://$up:3000;")),
            "nginx-resolver",
        ),
        (
            format!("upstream u {{ zone u 64k; server app:1 resolve; }} {}", route("proxy_pass http://u;")),
            "nginx-resolver",
        ),
        (route("proxy_pass http://172.21.0.1:3000;"), "nginx-address"),
        (route("proxy_pass http://p-app-1:3000;"), "nginx-one-instance"),
    ];
    for (http, rule) in table {
        assert_eq!(refusal(&proxy(&http), &shape(&["app"])).0, rule, "{http}");
    }
    let good = route("proxy_pass http://app:3000;");
    assert_eq!(proxy(&good).audit(&shape(&["app"]), None).refused, None);
    let single = proxy_with(
        "@config\n# configuration file /n:\nmaster_process off; http { server { location / { proxy_pass http://app; } } }\n",
    );
    assert_eq!(refusal(&single, &shape(&["app"])).0, "nginx-one-process");
}

/// A URL with a variable leads to a group, to the host of another pass, or to what nginx resolves while it runs.
#[test]
fn a_pass_with_a_variable_is_a_route() {
    let (switched, refused, none) = ((true, None), (true, Some("nginx-resolver")), (false, None));
    let group = "upstream up { server app:3000; }";
    let static_pass = "location / { proxy_pass http://app:3000; }";
    let table = [
        ("resolver x;", "location / { proxy_pass http://up; }", "proxy_pass http://app:3000/$1;", refused),
        ("", "location / { proxy_pass http://up; }", "proxy_pass http://app:3000/$1;", switched),
        ("", "", "proxy_pass http://app:3000/$1;", none),
        ("", "resolver x;", "proxy_pass http://app:3000/$1;", refused),
        ("", "", "resolver x; proxy_pass http://app:3000$request_uri;", refused),
        ("", "", "resolver x; proxy_pass http://app:$port/;", refused),
        ("", "", "resolver x; proxy_pass $scheme://app$is_args$args;", refused),
        ("resolver x;", static_pass, "proxy_pass http://APP:3000/$1;", switched),
        ("resolver x;", static_pass, "proxy_pass http://app:3001/$1;", refused),
        ("resolver x;", static_pass, "proxy_pass http://app/$1;", refused),
        ("", static_pass, "proxy_pass http://app:3001/$1;", switched),
        ("resolver x;", "", "proxy_pass http://up$request_uri;", switched),
        ("resolver x;", "", "proxy_pass http://up$1;", switched),
        ("resolver x;", "", "proxy_pass http://up/$1?$args;", switched),
        ("resolver x;", "", "set $b up; proxy_pass http://$b$uri$is_args$args;", switched),
        ("resolver x;", "", "proxy_pass $scheme://${up}$uri;", none),
        ("", "", "proxy_pass http://up:3000$request_uri;", none),
        ("resolver x;", "", "proxy_pass http://$1-app:3000;", none),
        ("resolver x;", "", "proxy_pass http://app-$1:3000;", none),
        ("", "", "proxy_pass HTTP://UP;", switched),
    ];
    for (http, server, location, expected) in table {
        let text = format!("{http} {group} server {{ {server} location ~ ^/api/(.*)$ {{ {location} }} }}");
        let proxy = proxy(&text);
        let rule = proxy.audit(&shape(&["app"]), None).refused.and_then(|error| error.rule.copied());
        assert_eq!((proxy.routes_to(&backend(&["app"], true)), rule), expected, "{text}");
    }
    let host =
        |pass: &str| proxy(&format!("{group} server {{ {pass} }}")).route_to(&backend(&["app"], true)).host;
    assert_eq!(host("proxy_pass http://up$request_uri;").as_deref(), Some("up"));
    assert_eq!(host("set $b up; proxy_pass http://$b/;"), None);
}

/// The watcher of the pins looks up names with a dot at their end, to read DNS instead of the hosts file.
#[test]
fn a_name_with_a_dot_at_its_end_is_refused() {
    let app = RolloutShape {
        backends: [true, false].map(|is_running| backend(&["app", "app.front"], is_running)).into(),
        ..shape(&["app"])
    };
    for servers in ["server app.:3000;", "server app:3000; server APP.front.:3000;"] {
        let proxy = proxy(&format!("upstream up {{ {servers} }} server {{ proxy_pass http://up; }}"));
        assert_eq!(refusal(&proxy, &app).0, "nginx-absolute-name", "{servers}");
    }
    let proxy = proxy("upstream up { server APP:3000; server app.front; } server { proxy_pass http://up; }");
    assert_eq!(proxy.audit(&app, None).refused, None);
    let names = |service: &hosts::PinnedService| service.names.iter().cloned().collect::<Vec<_>>().join(" ");
    let named =
        RolloutShape { services: vec![("app".into(), vec!["app".into(), "app.front".into()])], ..app };
    assert_eq!(proxy.passes().services_of(&named).iter().map(names).collect::<Vec<_>>(), ["APP app.front"]);
}

#[test]
fn a_name_in_the_hosts_file_is_refused_unless_it_is_a_pin() {
    let with = |host: &str| {
        proxy_with(&format!(
            "@host 127.0.0.1 localhost\n@host {host}\n@config\n# configuration file /n:\n\
             http {{ server {{ location / {{ proxy_pass http://app; }} }} }}\n"
        ))
    };
    assert_eq!(refusal(&with("10.0.0.1 x App"), &shape(&["app"])).0, "nginx-extra-hosts");
    for host in ["10.0.0.1 app # compose-zd p/app", "10.0.0.1 other # app", "# 10.0.0.1 app"] {
        assert_eq!(with(host).audit(&shape(&["app"]), None).refused, None, "{host}");
    }
}

#[test]
fn an_error_of_the_configuration_is_shown() {
    let text = "@error nginx: [emerg] unknown directive \"x\" in /etc/nginx/nginx.conf:1\n@config\n\
        # configuration file /etc/nginx/nginx.conf:\nx; http { server { location / { proxy_pass http://app; } } }\n";
    let error = proxy_with(text).audit(&shape(&["app"]), None).refused.expect("a refusal");
    assert_eq!(error.rule.copied(), Some("nginx-configuration"));
    assert_eq!(error.details, ["nginx: [emerg] unknown directive \"x\" in /etc/nginx/nginx.conf:1"]);
}

#[test]
fn both_sides_of_a_pair_have_to_run() {
    let pair = proxy("upstream u { server a; server b; } server { location / { proxy_pass http://u; } }");
    let both = shape(&["a", "b"]);
    assert_eq!(pair.audit(&both, None).refused, None);
    let mut idle = both.clone();
    idle.backends.retain(|backend| backend.service != "b" || !backend.is_running);
    assert_eq!(refusal(&pair, &idle).0, "nginx-one-side");
    let one = proxy("server { location / { proxy_pass http://a; } }");
    assert_eq!(refusal(&one, &both).0, "nginx-one-side");
    // Before the first start Compose will start all of them.
    let mut planned = pair.clone();
    planned.place.container.state.status = "created".into();
    let mut none = both.clone();
    none.backends.retain(|backend| !backend.is_running);
    assert_eq!(planned.audit(&none, None).refused, None);
    assert_eq!(refusal(&planned, &idle).0, "nginx-one-side");
    assert_eq!(refusal(&pair, &none).0, "nginx-one-side");
}

#[test]
fn nginx_is_not_replaced_in_the_same_run_as_a_service_behind_it() {
    let mut proxy = proxy(GOOD);
    for (key, value) in [("project", "p"), ("service", "web")] {
        let key = format!("com.docker.compose.{key}");
        proxy.place.container.config.labels.insert(key, value.into());
    }
    let with = |other: &str| RolloutShape { names_in_same_run: vec![other.into()], ..shape(&["app"]) };
    assert_eq!(refusal(&proxy, &with("web")).0, "nginx-same-run");
    assert!(proxy.advance(&[output(&state(&[9], &[]))], &Goal::Patched(with("web"))).is_err());
    assert_eq!(proxy.audit(&with("db"), None).refused, None);
}

#[test]
fn the_price_of_a_reload_is_named_unless_idle_clients_survive_it() {
    let with = |version: &str, http: &str, writable: &str| {
        proxy_with(&format!(
            "@version nginx version: nginx/{version}\n@config\n# configuration file /etc/nginx/nginx.conf:\n\
             http {{ {http} include /etc/nginx/conf.d/*.conf; }}\n{writable}"
        ))
    };
    let own = "@writable /etc/nginx/conf.d\n";
    let table = [
        (with("1.22.1", "", own), true, Some("is older than 1.27.4"), false),
        (with("1.29.5", "", own), true, Some("the first deploy sets"), true),
        (with("1.29.5", "", own), false, Some("may not set it"), false),
        (with("1.29.5", "", ""), true, Some("is not set"), false),
        (with("1.29.5", "keepalive_min_timeout 3s;", own), true, None, false),
        (with("1.29.5", "", "@writable /etc/other\n"), true, Some("is not set"), false),
    ];
    for (proxy, tune, expected, is_patched) in table {
        let shape = RolloutShape { tune, ..shape(&["app"]) };
        let losses: Vec<String> = proxy.losses(&[], &shape).iter().map(ToString::to_string).collect();
        assert_eq!(losses.len(), usize::from(expected.is_some()), "{losses:?}");
        assert!(losses.iter().all(|loss| loss.contains(expected.unwrap_or_default())), "{losses:?}");
        assert_eq!(proxy.keepalive_patch(tune).is_some(), is_patched, "{expected:?}");
    }
}

#[test]
fn a_mounted_folder_belongs_to_the_user() {
    let json = r#"{"Mounts": [{"Destination": "/etc/nginx"}]}"#;
    let text = "@config\n# configuration file /etc/nginx/nginx.conf:\nhttp { include /etc/nginx/conf.d/*.conf; }\n@writable /etc/nginx/conf.d\n";
    assert_eq!(NginxSettings::parse(&output(text), &container(json)).own_folder, None);
    let own = NginxSettings::parse(&output(text), &Container::default()).own_folder;
    assert_eq!(own.as_deref(), Some("/etc/nginx/conf.d"));
}

#[test]
fn a_proxy_that_does_not_run_is_known_by_its_files() {
    let planned = |files: &[(&str, &str)], image: &str| {
        let json = format!(
            r#"{{"Config": {{"Image": "{image}", "Env": ["APP=app"]}}, "NetworkSettings": {{"Networks": {{"front": {{}}}}}}}}"#
        );
        let mut proxy = Nginx::new(&container(&json));
        let file = |path: &str| {
            let (_, text) = files.iter().find(|(own, _)| *own == path)?;
            Some(crate::proxy::MountedFile { text: text.to_string(), read_only: true })
        };
        let is_known = proxy.learn_files(&file);
        (is_known, proxy.routes_to(&backend(&["app"], false)), proxy.routes_nowhere())
    };
    let server = "server { location / { proxy_pass http://app; } }";
    let conf_d = ("/etc/nginx/conf.d", "site.conf\nold.conf.bak\n");
    let routes = (true, true, false);
    assert_eq!(planned(&[conf_d, ("/etc/nginx/conf.d/site.conf", server)], "nginx"), routes);
    let main = format!("http {{ {server} }}");
    assert_eq!(planned(&[("/etc/nginx/nginx.conf", &main)], "ours"), routes);
    let including = ("/etc/nginx/nginx.conf", "http { include sites/a; include sites/a; }");
    assert_eq!(planned(&[including, ("/etc/nginx/sites/a", server)], "ours"), routes);
    let template = [
        ("/etc/nginx/templates", "default.conf.template\n"),
        ("/etc/nginx/templates/default.conf.template", &server.replace("app", "${APP}")),
    ];
    assert_eq!(planned(&template, "ours"), routes);
    assert_eq!(planned(&[conf_d, ("/etc/nginx/conf.d/old.conf.bak", server)], "nginx"), (true, false, true));
    assert_eq!(planned(&[], "nginx:1.29"), (true, false, true));
    assert_eq!(planned(&[], "ours"), (false, false, true));
}

const GOOD: &str = "server { location / { proxy_pass http://app:3000; } }";

fn endpoint(n: u8, is_running: bool) -> Endpoint {
    Endpoint {
        id: format!("c{n}"),
        names: vec!["app".into(), format!("p-app-{n}")],
        service: "app".into(),
        addresses: is_running.then(|| format!("172.21.0.{n}").parse().unwrap()).into_iter().collect(),
        labels: [("com.docker.compose.project".to_string(), "p".to_string())].into(),
        ..Endpoint::default()
    }
}

/// Goal with the first instance outside and the second one inside.
fn switch() -> Goal {
    let (inside, outside) = (vec![endpoint(2, true)], vec![endpoint(1, true)]);
    Goal::Rotation(Rotation { inside, outside, ..Rotation::default() })
}

/// First line of each change, and the arguments of `write`.
fn shown(next: &Next) -> Vec<String> {
    let line = |change: &Change| {
        let script = change.exec().expect("a command").argv[2].clone();
        let first = script.lines().next().unwrap_or_default().to_string();
        let write = script.lines().last().filter(|l| l.starts_with("write")).unwrap_or_default();
        format!("{first} {write}").trim().to_string()
    };
    next.changes().iter().map(line).collect()
}

fn state(workers: &[u64], pins: &[&str]) -> String {
    let workers = workers.iter().map(|ticks| format!("@worker {ticks} nginx: worker process\n"));
    let pins = pins.iter().map(|pin| format!("@pin {pin} # compose-zd p/app\n"));
    let text: String = workers.chain(pins).collect();
    format!("{text}@watcher compose-zd p/app watcher\n@now 1000\n@end\n")
}

fn advance(goal: &Goal, state: &str) -> (ProxyState, Next) {
    proxy(GOOD).advance(&[output(state)], goal).expect("a step")
}

const OLD: &str = "172.21.0.1 app";
const NEW: &str = "172.21.0.2 app";

#[test]
fn a_gate_pins_the_instances_inside_without_a_reload() {
    let gate = |outside: Endpoint| {
        Goal::Gated(Rotation {
            inside: vec![endpoint(1, true)],
            outside: vec![outside],
            ..Rotation::default()
        })
    };
    let pinned = "write \"# since 0 was  # compose-zd p/app\" '172.21.0.1 app # compose-zd p/app'";
    let gated = gate(endpoint(2, false));
    assert_eq!(shown(&advance(&gated, &state(&[9], &[])).1), [format!("# pin the addresses {pinned}")]);
    assert_eq!(advance(&gated, &state(&[9], &["# since 0 was ", OLD])).1, Next::Done);
    // nginx was restarted while the instance outside ran.
    assert_eq!(shown(&advance(&gate(endpoint(2, true)), &state(&[9], &[])).1).len(), 2);
}

#[test]
fn a_switch_pins_and_reloads_and_is_confirmed_by_the_workers() {
    let reloads = [
        "# pin the addresses write \"# since $now was 172.21.0.1 # compose-zd p/app\" '172.21.0.2 app # compose-zd p/app'",
        "# reload",
    ];
    let gated = state(&[9], &["# since 0 was ", OLD]);
    let (before, next) = advance(&switch(), &gated);
    assert_eq!(
        (before.routed, shown(&next)),
        (["c1".to_string()].into(), reloads.map(String::from).to_vec())
    );
    let after = |workers: &[u64]| {
        let (state, next) = advance(&switch(), &state(workers, &["# since 900 was 172.21.0.1", NEW]));
        (state.routed.into_iter().collect::<Vec<_>>().join(" "), state.config_applied, next)
    };
    assert_eq!(after(&[9, 9]), ("c1".into(), false, Next::Wait));
    assert_eq!(after(&[9, 901]), ("c1 c2".into(), false, Next::Wait));
    assert_eq!(after(&[901, 902]), ("c2".into(), true, Next::Done));
    // A reload that is late is requested again.
    let late = advance(&switch(), &state(&[9], &["# since 600 was 172.21.0.1", NEW])).1;
    assert_eq!(shown(&late).len(), 2);
}

#[test]
fn a_switch_that_nginx_has_not_read_is_undone_without_a_reload() {
    let (inside, outside) = (vec![endpoint(1, true)], vec![endpoint(2, true)]);
    let back = Goal::Rotation(Rotation { inside, outside, ..Rotation::default() });
    let next = advance(&back, &state(&[9], &["# since 900 was 172.21.0.1", NEW])).1;
    assert_eq!(
        shown(&next),
        [
            "# pin the addresses write \"# since 0 was 172.21.0.1 # compose-zd p/app\" '172.21.0.1 app # compose-zd p/app'"
        ]
    );
}

/// Compose has recreated the instance, and no pin tells what nginx has.
#[test]
fn addresses_that_may_be_stale_are_looked_up_again() {
    let (inside, without_pins) = (vec![endpoint(2, true)], state(&[9], &[]));
    let goal = |may_be_stale| {
        Goal::Rotation(Rotation { inside: inside.clone(), may_be_stale, ..Rotation::default() })
    };
    assert_eq!(advance(&goal(false), &without_pins).0.routed, ["c2".to_string()].into());
    let (before, next) = advance(&goal(true), &without_pins);
    assert_eq!((before.routed.len(), shown(&next).len()), (0, 2), "pins, and a reload");
    let (after, _) = advance(&goal(true), &state(&[901], &["# since 900 was ", NEW]));
    assert!(after.config_applied && after.routed.contains("c2"));
}

/// The clock of the machine, which has been up for 10 s.
const CLOCK: &str = "@clock 10.00 2026-12-01 00:00:10.000000000 +0000\n";

/// Without a new run, nginx would have the address of the instance that Compose has removed.
#[test]
fn an_instance_that_started_after_the_workers_is_looked_up_again() {
    let goals = |seconds: &str| {
        let started = humantime::parse_rfc3339(&format!("2026-12-01T00:00:{seconds}Z")).ok();
        let endpoint = Endpoint { started, ..endpoint(2, true) };
        let discovery = Discovery { endpoints: vec![endpoint.clone()], ..Discovery::default() };
        let gate = Rotation { inside: vec![endpoint], ..Rotation::default() };
        [Goal::HandedBack(discovery), Goal::Gated(gate)]
    };
    let steps = |seconds: &str, text: &str| {
        goals(seconds).map(|goal| shown(&advance(&goal, &(CLOCK.to_string() + text)).1).len())
    };
    let (at_3s, with_connection) =
        (state(&[300], &[]), format!(" 020015AC:0BB8 01 \n{}", state(&[300], &[])));
    assert_eq!(steps("09", &at_3s), [2, 2], "pins, and a reload");
    assert_eq!(steps("02", &at_3s), [0, 1], "nginx has the address");
    assert_eq!(steps("09", &with_connection), [0, 1], "nginx has the address of the instance before");
    assert_eq!(goals("09").map(|goal| shown(&advance(&goal, &at_3s).1).len()), [0, 1], "no clock");
}

#[test]
fn pins_are_removed_once_they_are_what_runs() {
    let handed_back = |running: &[u8]| {
        Goal::HandedBack(Discovery {
            endpoints: [1, 2].map(|n| endpoint(n, running.contains(&n))).to_vec(),
            ..Discovery::default()
        })
    };
    let switched = state(&[901], &["# since 900 was 172.21.0.1", NEW]);
    let next = advance(&handed_back(&[2]), &switched).1;
    assert_eq!(
        (matches!(next, Next::Finish(_)), shown(&next)),
        (true, vec!["# remove the pins write".into()])
    );
    assert_eq!(shown(&advance(&handed_back(&[1, 2]), &switched).1).len(), 2, "nginx lacks an instance");
    assert_eq!(advance(&handed_back(&[2]), &state(&[9], &[])).1, Next::Done);
}

#[test]
fn the_hosts_file_is_written_by_who_may_write_it() {
    let options = |user: &str, mount: &str| {
        let proxy = proxy_with(&format!(
            "@user {user}\n@hosts {mount}\n@config\n# configuration file /n:\nhttp {{ {GOOD} }}\n"
        ));
        let change = proxy.hosts().write("true".into());
        let exec = change.exec().expect("a command").clone();
        (exec.options.join(" "), exec.sidecar_image)
    };
    assert_eq!(options("0", "rw"), (String::new(), None));
    assert_eq!(options("101", "rw"), ("--user 0".into(), None));
    assert_eq!(options("0", "ro"), ("--pid container:lb".into(), Some("nginx:1".into())));
}

#[test]
fn requests_in_flight_are_the_connections_of_nginx() {
    let text = state(&[9], &[]).replace("@now", " 010015AC:0BB8 01 \n 010015AC:0BB9 01 \n@now");
    let state = advance(&Goal::Observed(vec![endpoint(1, true), endpoint(2, true)]), &text).0;
    let expected = [("c1".to_string(), 2), ("c2".to_string(), 0)];
    assert_eq!(state.in_flight, expected.map(|(id, n)| (id, crate::proxy::InFlight::Exact(n))).into());
    assert!(proxy(GOOD).advance(&[output("@now 3\n")], &switch()).is_err(), "a cut answer");
}

#[test]
fn the_time_for_an_answer_is_the_shortest_of_all_places() {
    let seconds =
        |http: &str| proxy(http).route_to(&backend(&["app"], false)).answer_timeout.unwrap().as_secs();
    let route = "server { location / { proxy_pass http://app:3000; proxy_read_timeout 20; } }";
    assert_eq!(seconds("server { location / { proxy_pass http://app:3000; } }"), 60);
    assert_eq!(seconds(route), 20);
    assert_eq!(seconds(&format!("proxy_read_timeout 1m; {route}")), 20);
}
