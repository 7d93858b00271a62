//! Tests of the adapter: its commands by equality, its parsers by recorded output.

use super::*;

fn container(json: &str) -> Container {
    serde_json::from_str(json).unwrap()
}

fn proxy() -> NginxProxy {
    NginxProxy::single_container(&container(
        r#"{"Id": "proxy", "Name": "/p-proxy-1", "NetworkSettings": {"Networks": {"front": {}}}}"#,
    ))
}

fn endpoint(id: &str, address: &str) -> Endpoint {
    let addresses = vec![address.parse().unwrap()];
    Endpoint { id: id.into(), service: "app".into(), addresses, ..Endpoint::default() }
}

fn output(stdout: &str) -> CommandResult {
    CommandResult { code: Some(0), stdout: stdout.into(), stderr: String::new() }
}

/// Output of nginx-proxy 1.10 (docker-gen 0.16.2, nginx 1.30.6) during a reload; `app-1` is out, `app-2` is in.
const RECORDED: &str = "\
@clock 1204.49 2026-11-21 03:41:32.661123391 +0000
@written 2026-11-21 03:41:32.541123391 +0000
    server 172.19.0.6:3000;
@worker 90000 nginx: master process nginx -g daemon off;
@worker 118000 nginx: worker process is shutting down
@worker 120447 nginx: worker process
@worker 120448 nginx: worker process
@worker 118001
 050013AC:0BB8 01
 050013AC:0BB8 08
 060013AC:0BB8 01
 0000000000000000FFFF0000060013AC:0BB8 01
@end
";

#[test]
fn fastcgi_uwsgi_and_grpc_upstreams_do_not_get_http() {
    let speaks = |protocol: &str| {
        let upstream = container(&format!(r#"{{"Config": {{"Env": ["VIRTUAL_PROTO={protocol}"]}}}}"#));
        !proxy().route_to(&Backend::from(&upstream)).not_http
    };
    assert!(!speaks("fastcgi") && !speaks("uwsgi") && !speaks("grpc") && !speaks("grpcs"));
    assert!(
        speaks("http") && speaks("https") && !proxy().route_to(&Backend::from(&container("{}"))).not_http
    );
}

/// A container with these variables.
fn with_env(variables: &[&str]) -> Container {
    let env = serde_json::to_string(variables).unwrap();
    container(&format!(
        r#"{{"Config": {{"Env": {env}, "Labels": {{"com.docker.compose.project": "p",
            "com.docker.compose.service": "app"}}}}, "NetworkSettings": {{"Networks": {{"front": {{}}}}}}}}"#
    ))
}

const MULTIPORTS: &str = "VIRTUAL_HOST_MULTIPORTS=a.test: {/: {port: 3000}, /fpm: {port: 9000}}\nb.test:";

#[test]
fn port_host_and_public_routes_come_from_multiports_where_it_is_set() {
    let app = with_env(&[MULTIPORTS, "VIRTUAL_HOST=c.test", "VIRTUAL_PORT=1", "VIRTUAL_PROTO=fastcgi"]);
    assert_eq!(
        (proxy().route_to(&Backend::from(&app)).port, proxy().route_to(&Backend::from(&app)).host),
        (Some(3000), Some("a.test".into()))
    );
    assert!(!proxy().route_to(&Backend::from(&app)).not_http && proxy().routes_to(&Backend::from(&app)));
    let routes = proxy().route_to(&Backend::from(&app)).public.into_iter().filter(|e| !e.tls);
    let routes: Vec<_> = routes.map(|e| format!("{}:{}{}", e.host.unwrap(), e.port, e.path)).collect();
    assert_eq!(routes, ["a.test:80/", "a.test:80/fpm", "b.test:80/"]);
    assert_eq!(proxy().check(&[Backend::from(&app)]), Ok(Vec::new()));
    let fpm = with_env(&["VIRTUAL_HOST_MULTIPORTS=a.test: {/: {port: 9000, proto: fastcgi}}"]);
    assert!(proxy().route_to(&Backend::from(&fpm)).not_http);
    assert_eq!(
        proxy()
            .route_to(&Backend::from(&with_env(&["VIRTUAL_HOST_MULTIPORTS=b.test:", "VIRTUAL_PORT=1"])))
            .port,
        Some(80)
    );
    assert_eq!(
        proxy().route_to(&Backend::from(&with_env(&["VIRTUAL_HOST_MULTIPORTS=", "VIRTUAL_PORT=1"]))).port,
        Some(1)
    );
}

#[test]
fn multiports_that_get_no_route_are_refused() {
    let refused = |proxy: &NginxProxy, app: &Container| proxy.check(&[Backend::from(app)]).unwrap_err();
    let error = refused(&proxy(), &with_env(&["VIRTUAL_HOST_MULTIPORTS=a.test", "VIRTUAL_HOST=a.test"]));
    assert!(error.message.contains("of `app` is not a YAML map") && error.hint.is_some(), "{error}");
}

/// Outputs of `inspect` for a proxy with this template.
fn inspected(template: &str) -> [CommandResult; 2] {
    [
        output(&format!("@writable yes\n@template\n{template}")),
        output("@version nginx version: nginx/1.29.5\n"),
    ]
}

#[test]
fn a_template_that_ignores_multiports_is_refused_unless_another_variable_routes() {
    let line = "server {{ $ip }}:{{ $port }};";
    let shape = |variables: &[&str]| RolloutShape {
        backends: vec![Backend::from(&with_env(variables))],
        ..RolloutShape::default()
    };
    let (only, both) = (shape(&[MULTIPORTS]), shape(&[MULTIPORTS, "VIRTUAL_HOST=c.test"]));
    let shape = |shape: &RolloutShape| RolloutShape { tune: true, ..shape.clone() };
    let error = proxy().prepare(&inspected(line), &shape(&only)).unwrap_err();
    assert!(
        error.message.contains("/app/nginx.tmpl does not read `VIRTUAL_HOST_MULTIPORTS` of `app`"),
        "{error}"
    );
    assert!(proxy().prepare(&inspected(line), &shape(&both)).is_ok());
    let rules = |template, shape: &RolloutShape| {
        let risks = proxy().losses(&inspected(template), shape);
        risks.into_iter().map(|risk| (risk.rule, risk.is_loss())).collect::<Vec<_>>()
    };
    assert_eq!(rules(line, &shape(&both)), [("nginx-multiports", false)]);
    let mixed = RolloutShape {
        backends: [both.backends.clone(), only.backends.clone()].concat(),
        ..RolloutShape::default()
    };
    assert!(proxy().prepare(&inspected(line), &shape(&mixed)).is_err(), "the next version gets no route");
    let new = format!("{{{{ groupBy $ \"Env.VIRTUAL_HOST_MULTIPORTS\" }}}}\n{line}");
    assert!(proxy().prepare(&inspected(&new), &shape(&only)).is_ok());
    assert_eq!(rules(&new, &shape(&only)), []);
}

#[test]
fn before_1_6_the_probe_uses_the_single_variables() {
    let both = with_env(&[MULTIPORTS, "VIRTUAL_HOST=c.test", "VIRTUAL_PORT=1"]);
    let old = NginxProxy::single_container(&with_env(&["NGINX_PROXY_VERSION=1.5.2"]));
    assert_eq!(old.check(&[Backend::from(&with_env(&["VIRTUAL_HOST_MULTIPORTS=a"]))]), Ok(Vec::new()));
    assert_eq!(
        (old.route_to(&Backend::from(&both)).port, old.route_to(&Backend::from(&both)).host),
        (Some(1), Some("c.test".into()))
    );
    let new = NginxProxy::single_container(&with_env(&["NGINX_PROXY_VERSION=1.10.0-3-gabc"]));
    assert_eq!(new.route_to(&Backend::from(&both)).port, Some(3000));
}

#[test]
fn running_workers_confirm_and_connections_count_as_in_flight() {
    let endpoints = [endpoint("old", "172.19.0.5"), endpoint("new", "172.19.0.6")];
    let state = proxy().read(&output(RECORDED), &endpoints).unwrap();
    assert_eq!(state.routed, BTreeSet::from(["new".to_string()]));
    assert!(state.config_applied && state.has_retired_process);
    assert_eq!(state.in_flight["old"], InFlight::Exact(2));
    assert_eq!(state.in_flight["new"], InFlight::Exact(2));
}

#[test]
fn a_worker_older_than_the_configuration_has_not_read_it() {
    let early = RECORDED.replace("@worker 120447", "@worker 120430");
    assert!(!proxy().read(&output(&early), &[]).unwrap().config_applied);
    let none = RECORDED.replace("@worker 12044", "@gone ");
    assert!(!proxy().read(&output(&none), &[]).unwrap().config_applied);
}

#[test]
fn a_truncated_output_is_an_error() {
    assert!(proxy().read(&output("@clock 1"), &[]).is_err());
    assert!(proxy().read(&output(""), &[]).is_err());
}

#[test]
fn a_server_that_is_down_is_not_routed_to() {
    assert_eq!(parse_server("172.19.0.5:80 down;"), None);
    let ip = |address: &str| Some(address.parse::<IpAddr>().unwrap());
    assert_eq!(parse_server("172.19.0.5:80;"), ip("172.19.0.5"));
    assert_eq!(parse_server("172.19.0.5;"), ip("172.19.0.5"));
    assert_eq!(parse_server("172.19.0.5:80; # down"), ip("172.19.0.5"));
    assert_eq!(parse_server("[fd00::5]:80 weight=2;"), ip("fd00::5"));
    assert_eq!(parse_server("[fd00:0::5] backup;"), ip("fd00::5"));
    assert_eq!(parse_server("unix:/run/app.sock;"), None);
}

#[test]
fn an_ipv6_address_does_not_match_the_ipv4_address_at_its_end() {
    let text = " 00006400000000009BFF0000050013AC:0BB8 01\n 0000000000000000FFFF0000050013AC:0BB8 01\n@end";
    assert_eq!(NginxState::parse(text).unwrap().connections(&endpoint("x", "172.19.0.5")), 1);
}

#[test]
fn an_impossible_zone_is_not_a_time() {
    assert_eq!(parse_time("2026-11-21 03:36:30.5 +2147483647"), None);
}

#[test]
fn an_address_does_not_match_another_with_the_same_beginning() {
    let state = NginxState::parse("server 172.19.0.50:80;\n@end").unwrap();
    assert!(!state.routes_to(&endpoint("x", "172.19.0.5")));
    assert!(state.routes_to(&endpoint("x", "172.19.0.50")));
}

#[test]
fn a_time_is_the_same_moment_in_any_zone() {
    let utc = parse_time("2026-11-21 03:36:30.500000000 +0000");
    assert_eq!(utc, parse_time("2026-11-21 05:06:30.500000000 +0130"));
    assert_eq!(parse_time("yesterday"), None);
}

#[test]
fn gating_sets_markers_and_triggers_no_render() {
    let outside = vec![endpoint("a", "::1"), endpoint("b", "::1")];
    let exec = proxy().gate(&Rotation { inside: vec![], outside, ..Rotation::default() });
    assert_eq!(
        exec.argv[2],
        "mkdir -p /tmp/compose-zd-down && touch /tmp/compose-zd-down/a /tmp/compose-zd-down/b"
    );
}

#[test]
fn routing_marks_instances_outside_and_unmarks_those_inside() {
    let rotation = Rotation {
        inside: vec![endpoint("new", "::1")],
        outside: vec![endpoint("old", "::1")],
        ..Rotation::default()
    };
    let script = &proxy().route(&rotation).argv[2];
    let unmark = script.find("for m in /tmp/compose-zd-down/new; do").unwrap();
    let mark = script.find("touch /tmp/compose-zd-down/old\n").unwrap();
    let render = script.find("kill -HUP").unwrap();
    assert!(unmark < mark && mark < render, "{script}");
}

#[test]
fn handing_back_keeps_the_markers_of_other_rollouts() {
    let existing = ["own", "other"].map(String::from).to_vec();
    let discovery = Discovery { endpoints: vec![endpoint("own", "::1")], existing, ..Discovery::default() };
    let script = &proxy().hand_back(&discovery).argv[2];
    assert!(script.contains("case ' other ' in"), "{script}");
}

fn detects(json: &str) -> bool {
    let container = container(json);
    detect(&container, std::slice::from_ref(&container)).is_some()
}

#[test]
fn it_is_recognised_by_image_or_environment() {
    let image = |name: &str| detects(&format!(r#"{{"Config": {{"Image": "{name}"}}}}"#));
    assert!(image("nginxproxy/nginx-proxy"));
    assert!(image("jwilder/nginx-proxy:alpine"));
    assert!(image("docker.io/nginxproxy/nginx-proxy:1.10-alpine"));
    assert!(image("127.0.0.1:5000/nginxproxy/nginx-proxy:1.10"));
    assert!(!image("nginxproxy/nginx-proxy:1.10-dockergen"));
    assert!(!image("nginxproxy/acme-companion"));
    assert!(!image("nginx"));
    assert!(detects(
        r#"{"Config": {"Image": "ours", "Env": ["DOCKER_GEN_VERSION=0", "NGINX_PROXY_VERSION=1.10", "DOCKER_HOST=unix:///tmp/docker.sock"]}}"#
    ));
}

#[test]
fn a_separate_docker_gen_is_recognised_with_the_nginx_it_notifies() {
    let generator = container(
        r#"{"Id": "gen", "Path": "/usr/local/bin/docker-gen", "Args": ["-notify-sighup", "web", "-watch", "/etc/docker-gen/nginx.tmpl", "/etc/nginx/conf.d/default.conf"]}"#,
    );
    let nginx = container(r#"{"Id": "n", "Name": "/web"}"#);
    let proxy = detect(&generator, &[generator.clone(), nginx.clone()]).unwrap();
    assert_eq!((proxy.generator.as_str(), proxy.place.container.id.as_str()), ("gen", "n"));
    assert_eq!(proxy.template, "/etc/docker-gen/nginx.tmpl");
    assert!(detect(&nginx, &[generator, nginx.clone()]).is_none());
}

#[test]
fn it_routes_to_a_container_with_a_host_on_a_shared_network() {
    let routes = |env: &str, network: &str| {
        proxy().routes_to(&Backend::from(&container(&format!(
            r#"{{"Config": {{"Env": ["{env}"]}}, "NetworkSettings": {{"Networks": {{"{network}": {{}}}}}}}}"#
        ))))
    };
    assert!(routes("VIRTUAL_HOST=a", "front"));
    assert!(routes("VIRTUAL_HOST_MULTIPORTS=a: {}", "front"));
    assert!(!routes("VIRTUAL_HOST=", "front"));
    assert!(!routes("VIRTUAL_HOST=a", "back"));
}

#[test]
fn on_the_host_network_it_reaches_every_network() {
    let host = NginxProxy::single_container(&container(r#"{"NetworkSettings": {"Networks": {"host": {}}}}"#));
    let environment = BTreeMap::from([("VIRTUAL_HOST".to_string(), "a".to_string())]);
    assert!(host.routes_to(&Backend { environment, networks: vec!["back".into()], ..Backend::default() }));
}

#[test]
fn the_port_is_the_virtual_port_or_the_only_exposed_one_or_80() {
    let port = |config: &str| {
        proxy().route_to(&Backend::from(&container(&format!(r#"{{"Config": {{{config}}}}}"#)))).port
    };
    assert_eq!(port(r#""Env": ["VIRTUAL_PORT=3000"], "ExposedPorts": {"80/tcp": {}}"#), Some(3000));
    assert_eq!(port(r#""ExposedPorts": {"8080/tcp": {}, "53/udp": {}}"#), Some(8080));
    assert_eq!(port(r#""ExposedPorts": {"8080/tcp": {}, "81/tcp": {}}"#), Some(80));
}

const TEMPLATE: &str =
    "{{ range $container := $cs }}\n server {{ $ip }}:{{ $port }};\n{{ end }}server 127.0.0.1 down;\n";

fn shape(tune: bool) -> RolloutShape {
    RolloutShape {
        tune,
        starting: 1,
        services: vec![("app".into(), vec!["app".into()])],
        ..RolloutShape::default()
    }
}

fn prepared(writable: &str, version: &str, tune: bool) -> Result<Vec<Change>, Error> {
    let generator = output(&format!("{writable}@template\n{TEMPLATE}"));
    let nginx = output(&format!("@version nginx version: nginx/{version}\n"));
    proxy().prepare(&[generator, nginx], &shape(tune))
}

#[test]
fn preparing_patches_the_template_and_keeps_idle_clients_where_nginx_supports_it() {
    let both = prepared("@writable yes\n", "1.29.5", true).unwrap();
    assert_eq!(both.len(), 2);
    assert!(both[0].required && both[0].exec().unwrap().stdin.as_ref().unwrap().contains(MARKERS));
    assert!(both[1].note.contains("keepalive_min_timeout 5s"), "{}", both[1].note);
    let old = prepared("@writable yes\n", "1.27.3", true).unwrap();
    assert_eq!(old.len(), 1);
}

#[test]
fn an_unpatchable_template_is_refused_with_the_fix() {
    let text = prepared("", "1.29.5", true).unwrap_err().to_string();
    assert!(text.contains("is mounted read-only") && text.contains("make it writable"), "{text}");
    let text = prepared("@writable yes\n", "1.29.5", false).unwrap_err().to_string();
    assert!(text.contains("`x-zd.proxy.tune: false`"), "{text}");
    assert!(proxy().prepare(&[output(""), output("")], &shape(true)).is_err());
}

#[test]
fn a_prepared_proxy_is_not_prepared_again() {
    let PatchResult::Patched(patched) = template::patch(TEMPLATE) else {
        panic!("not patched");
    };
    let generator = output(&format!("@template\n{patched}"));
    let nginx =
        output("@version nginx version: nginx/1.29.5\n@keepalive /etc/nginx/conf.d/00-compose-zd.conf\n");
    assert_eq!(proxy().prepare(&[generator, nginx], &shape(true)).unwrap(), []);
}

#[test]
fn no_path_or_id_is_run_as_a_script() {
    use crate::shell::tests::{HOSTILE, runs_no_injected_command};
    for text in HOSTILE {
        let texts = [text.to_string(), "id".into()];
        for script in [
            install_script(text),
            route_script(text, &texts, &texts),
            state_script(text, &[]),
            hand_back_script(&["id"], &texts),
        ] {
            runs_no_injected_command(&script);
        }
    }
}

#[test]
fn each_plain_name_has_a_route_with_and_without_tls() {
    let routes = |proxy: &NginxProxy, env: &str| {
        let app = container(&format!(r#"{{"Config": {{"Env": [{env}]}}}}"#));
        let routes = proxy.route_to(&Backend::from(&app)).public.into_iter();
        routes.map(|e| format!("{} {} {}{}", e.port, e.tls, e.host.unwrap(), e.path)).collect::<Vec<_>>()
    };
    let two = r#""VIRTUAL_HOST=*.a.b, c.d", "VIRTUAL_PATH=/shop""#;
    assert_eq!(routes(&proxy(), two), ["80 false c.d/shop", "443 true c.d/shop"]);
    let with_ports = container(r#"{"Config": {"Env": ["HTTP_PORT=8080", "HTTPS_PORT=8443"]}}"#);
    assert_eq!(
        routes(&NginxProxy::single_container(&with_ports), r#""VIRTUAL_HOST=a""#),
        ["8080 false a/", "8443 true a/"]
    );
    assert!(routes(&proxy(), r#""VIRTUAL_HOST=~^a""#).is_empty() && routes(&proxy(), "").is_empty());
}

/// A shell runs the script on a file as docker-gen writes it.
#[test]
fn an_urgent_switch_replaces_nginxs_servers_before_docker_gen_renders() {
    let dir = tempfile::tempdir().unwrap();
    let (config, bin) = (dir.path().join("default.conf"), dir.path().join("bin"));
    let text = "upstream a {\n    server 172.19.0.5:3000;\n    server 172.19.0.50:3000;\n    server 172.19.0.7:3000 backup;\n}\n";
    std::fs::write(&config, text).unwrap();
    std::fs::create_dir(&bin).unwrap();
    let nginx = bin.join("nginx");
    std::fs::write(&nginx, format!("#!/bin/sh\necho \"$*\" >> {}/calls\n", dir.path().display())).unwrap();
    std::fs::set_permissions(&nginx, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let server = |text: &str| text.parse::<SocketAddr>().unwrap();
    let run = |replacements: &[(SocketAddr, SocketAddr)]| {
        let script = scripts::replace_servers(config.to_str().unwrap(), replacements);
        let path = format!("{}:/usr/bin:/bin", bin.display());
        let status =
            std::process::Command::new("sh").args(["-c", &script]).env("PATH", path).status().unwrap();
        assert!(status.success(), "{script}");
        std::fs::read_to_string(dir.path().join("calls")).unwrap_or_default()
    };
    assert_eq!(
        run(&[(server("172.19.0.9:3000"), server("172.19.0.6:3000"))]),
        "",
        "the server is not in the file"
    );
    assert_eq!(std::fs::read_to_string(&config).unwrap(), text);
    let calls = run(&[
        (server("172.19.0.5:3000"), server("172.19.0.6:3000")),
        (server("172.19.0.7:3000"), server("172.19.0.6:3000")),
    ]);
    assert_eq!(calls, "-s reload\n");
    let expected = text.replace("0.5:", "0.6:").replace("0.7:", "0.6:");
    assert_eq!(std::fs::read_to_string(&config).unwrap(), expected);
    assert!(!dir.path().join("default.conf.zd").exists());
}

#[test]
fn a_derived_image_is_recognised_whatever_its_docker_host() {
    let detects_env =
        |env: &str| detects(&format!(r#"{{"Path": "/s6", "Config": {{"Image": "ours", "Env": [{env}]}}}}"#));
    assert!(detects_env(
        r#""DOCKER_GEN_VERSION=0.17.2", "NGINX_VERSION=1.31.0", "DOCKER_HOST=tcp://socket-proxy:2375""#
    ));
    assert!(detects_env(r#""DOCKER_GEN_VERSION=0.17.2", "NGINX_PROXY_VERSION=1.11.6""#));
    assert!(!detects_env(r#""DOCKER_GEN_VERSION=0.17.2""#) && !detects_env(r#""NGINX_VERSION=1.31.0""#));
}

#[test]
fn a_separate_docker_gen_is_recognised_in_any_flag_syntax() {
    let nginx = container(
        r#"{"Id": "0123456789abcdef", "Name": "/web", "Config": {"Labels": {"gen.nginx": "yes"}}}"#,
    );
    let detected = |flags: &str| {
        let mut generator = container(r#"{"Id": "gen", "Path": "/usr/local/bin/docker-gen"}"#);
        generator.args = flags.split(' ').map(String::from).collect();
        detect(&generator, &[generator.clone(), nginx.clone()]).map(|proxy| (proxy.template, proxy.config))
    };
    let files = Some(("/t.tmpl".to_string(), "/d.conf".to_string()));
    for flags in [
        "-notify-sighup=web -watch=true /t.tmpl /d.conf",
        "--notify-sighup web --watch -wait 5s:30s /t.tmpl /d.conf",
        "-watch=1 -only-exposed -notify-container=web -notify-signal 1 -- /t.tmpl /d.conf",
        "-watch -notify-filter label=gen.nginx /t.tmpl /d.conf",
        "-watch -notify-filter=label=gen.nginx=yes /t.tmpl /d.conf",
        "-watch -notify-sighup 0123456789ab /t.tmpl /d.conf",
    ] {
        assert_eq!(detected(flags), files, "{flags}");
    }
    for flags in [
        "-notify-sighup=web -watch=false /t.tmpl /d.conf",
        "-notify-sighup=web /t.tmpl /d.conf",
        "-notify-sighup=other -watch /t.tmpl /d.conf",
        "-watch -notify-filter label=gen.other /t.tmpl /d.conf",
        "-watch -notify-sighup=web /t.tmpl",
        "-config /etc/docker-gen.toml",
    ] {
        assert_eq!(detected(flags), None, "{flags}");
    }
}
