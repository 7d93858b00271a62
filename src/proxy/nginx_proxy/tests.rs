//! The adapter by equality of its commands, and by recorded answers.

use super::*;

fn container(json: &str) -> Container {
    serde_json::from_str(json).unwrap()
}

fn proxy() -> NginxProxy {
    NginxProxy::whole(&container(
        r#"{"Id": "proxy", "Name": "/p-proxy-1", "NetworkSettings": {"Networks": {"front": {}}}}"#,
    ))
}

fn endpoint(id: &str, address: &str) -> Endpoint {
    let addresses = vec![address.parse().unwrap()];
    Endpoint { id: id.into(), service: "app".into(), addresses, ..Endpoint::default() }
}

fn done(stdout: &str) -> CommandResult {
    CommandResult { code: Some(0), stdout: stdout.into(), stderr: String::new() }
}

/// Printed by nginx-proxy 1.10 (docker-gen 0.16.2, nginx 1.30.6) while it reloaded; `app-1` is out, `app-2` is in.
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
        proxy().speaks_http(&upstream)
    };
    assert!(!speaks("fastcgi") && !speaks("uwsgi") && !speaks("grpc") && !speaks("grpcs"));
    assert!(speaks("http") && speaks("https") && proxy().speaks_http(&container("{}")));
}

/// A container with these variables.
fn with(variables: &[&str]) -> Container {
    let env = serde_json::to_string(variables).unwrap();
    container(&format!(
        r#"{{"Config": {{"Env": {env}, "Labels": {{"com.docker.compose.project": "p",
            "com.docker.compose.service": "app"}}}}, "NetworkSettings": {{"Networks": {{"front": {{}}}}}}}}"#
    ))
}

const MULTIPORTS: &str = "VIRTUAL_HOST_MULTIPORTS=a.test: {/: {port: 3000}, /fpm: {port: 9000}}\nb.test:";

#[test]
fn port_host_and_ways_in_come_from_multiports_where_it_is_set() {
    let app = with(&[MULTIPORTS, "VIRTUAL_HOST=c.test", "VIRTUAL_PORT=1", "VIRTUAL_PROTO=fastcgi"]);
    assert_eq!((proxy().port(&app), proxy().host(&app)), (Some(3000), Some("a.test".into())));
    assert!(proxy().speaks_http(&app) && proxy().routes_to(&Backend::from(&app)));
    let ways = proxy().entrances(&app).into_iter().filter(|e| !e.tls);
    let ways: Vec<_> = ways.map(|e| format!("{}:{}{}", e.host.unwrap(), e.port, e.path)).collect();
    assert_eq!(ways, ["a.test:80/", "a.test:80/fpm", "b.test:80/"]);
    assert_eq!(proxy().check(&[Backend::from(&app)]), Ok(Vec::new()));
    let fpm = with(&["VIRTUAL_HOST_MULTIPORTS=a.test: {/: {port: 9000, proto: fastcgi}}"]);
    assert!(!proxy().speaks_http(&fpm));
    assert_eq!(proxy().port(&with(&["VIRTUAL_HOST_MULTIPORTS=b.test:", "VIRTUAL_PORT=1"])), Some(80));
    assert_eq!(proxy().port(&with(&["VIRTUAL_HOST_MULTIPORTS=", "VIRTUAL_PORT=1"])), Some(1));
}

#[test]
fn multiports_that_get_no_route_are_refused() {
    let refused = |proxy: &NginxProxy, app: &Container| proxy.check(&[Backend::from(app)]).unwrap_err();
    let error = refused(&proxy(), &with(&["VIRTUAL_HOST_MULTIPORTS=a.test", "VIRTUAL_HOST=a.test"]));
    assert!(error.message.contains("of `app` is no YAML map") && error.hint.is_some(), "{error}");
}

/// The answers to `inspect` of a proxy with this template.
fn inspected(template: &str) -> [CommandResult; 2] {
    [done(&format!("@writable yes\n@template\n{template}")), done("@version nginx version: nginx/1.29.5\n")]
}

#[test]
fn a_template_that_passes_over_multiports_is_refused_unless_another_variable_routes() {
    let line = "server {{ $ip }}:{{ $port }};";
    let shape = |variables: &[&str]| RolloutShape {
        backends: vec![Backend::from(&with(variables))],
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
        let losses = proxy().losses(&inspected(template), shape);
        losses.into_iter().map(|loss| (loss.rule, loss.grave)).collect::<Vec<_>>()
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
fn before_1_6_the_probe_goes_by_the_single_variables() {
    let both = with(&[MULTIPORTS, "VIRTUAL_HOST=c.test", "VIRTUAL_PORT=1"]);
    let old = NginxProxy::whole(&with(&["NGINX_PROXY_VERSION=1.5.2"]));
    assert_eq!(old.check(&[Backend::from(&with(&["VIRTUAL_HOST_MULTIPORTS=a"]))]), Ok(Vec::new()));
    assert_eq!((old.port(&both), old.host(&both)), (Some(1), Some("c.test".into())));
    let new = NginxProxy::whole(&with(&["NGINX_PROXY_VERSION=1.10.0-3-gabc"]));
    assert_eq!(new.port(&both), Some(3000));
}

#[test]
fn the_running_workers_confirm_and_connections_tell_what_is_in_flight() {
    let ends = [endpoint("old", "172.19.0.5"), endpoint("new", "172.19.0.6")];
    let reading = proxy().read(&done(RECORDED), &ends).unwrap();
    assert_eq!(reading.routed, BTreeSet::from(["new".to_string()]));
    assert!(reading.settled && reading.lingering);
    assert_eq!(reading.in_flight["old"], InFlight::Exact(2));
    assert_eq!(reading.in_flight["new"], InFlight::Exact(2));
}

#[test]
fn a_worker_older_than_the_file_has_not_read_it() {
    let early = RECORDED.replace("@worker 120447", "@worker 120430");
    assert!(!proxy().read(&done(&early), &[]).unwrap().settled);
    let none = RECORDED.replace("@worker 12044", "@gone ");
    assert!(!proxy().read(&done(&none), &[]).unwrap().settled);
}

#[test]
fn an_answer_that_was_cut_short_is_an_error() {
    assert!(proxy().read(&done("@clock 1"), &[]).is_err());
    assert!(proxy().read(&done(""), &[]).is_err());
}

#[test]
fn a_server_that_is_down_is_not_routed_to() {
    assert_eq!(parse_server("172.19.0.5:80 down;"), None);
    let at = |address: &str| Some(address.parse::<IpAddr>().unwrap());
    assert_eq!(parse_server("172.19.0.5:80;"), at("172.19.0.5"));
    assert_eq!(parse_server("172.19.0.5;"), at("172.19.0.5"));
    assert_eq!(parse_server("172.19.0.5:80; # down"), at("172.19.0.5"));
    assert_eq!(parse_server("[fd00::5]:80 weight=2;"), at("fd00::5"));
    assert_eq!(parse_server("[fd00:0::5] backup;"), at("fd00::5"));
    assert_eq!(parse_server("unix:/run/app.sock;"), None);
}

#[test]
fn an_ipv6_address_is_not_taken_for_the_ipv4_address_that_it_ends_with() {
    let text = " 00006400000000009BFF0000050013AC:0BB8 01\n 0000000000000000FFFF0000050013AC:0BB8 01\n@end";
    assert_eq!(NginxState::parse(text).unwrap().connections(&endpoint("x", "172.19.0.5")), 1);
}

#[test]
fn a_zone_that_there_is_none_of_is_no_time() {
    assert_eq!(parse_time("2026-11-21 03:36:30.5 +2147483647"), None);
}

#[test]
fn one_address_is_not_taken_for_another_that_begins_like_it() {
    let answer = NginxState::parse("server 172.19.0.50:80;\n@end").unwrap();
    assert!(!answer.routes_to(&endpoint("x", "172.19.0.5")));
    assert!(answer.routes_to(&endpoint("x", "172.19.0.50")));
}

#[test]
fn addresses_are_written_as_the_kernel_does() {
    assert_eq!(hex(&"172.18.0.5".parse().unwrap()), "050012AC");
    assert_eq!(hex(&"fd00::5".parse().unwrap()), "000000FD000000000000000005000000");
}

#[test]
fn times_with_a_zone_are_the_same_moment() {
    let utc = parse_time("2026-11-21 03:36:30.500000000 +0000");
    assert_eq!(utc, parse_time("2026-11-21 05:06:30.500000000 +0130"));
    assert_eq!(parse_time("yesterday"), None);
}

#[test]
fn gating_touches_markers_and_wakes_nobody() {
    let outside = vec![endpoint("a", "::1"), endpoint("b", "::1")];
    let exec = proxy().gate(&done(""), &Rotation { inside: vec![], outside, ..Rotation::default() }).unwrap();
    assert_eq!(
        exec.argv[2],
        "mkdir -p /tmp/compose-zd-down && touch /tmp/compose-zd-down/a /tmp/compose-zd-down/b"
    );
}

#[test]
fn routing_marks_those_outside_and_unmarks_those_inside() {
    let rotation = Rotation {
        inside: vec![endpoint("new", "::1")],
        outside: vec![endpoint("old", "::1")],
        ..Rotation::default()
    };
    let script = &proxy().route(&done(""), &rotation).unwrap().argv[2];
    let show = script.find("for m in /tmp/compose-zd-down/new; do").unwrap();
    let hide = script.find("touch /tmp/compose-zd-down/old\n").unwrap();
    let render = script.find("kill -HUP").unwrap();
    assert!(show < hide && hide < render, "{script}");
}

#[test]
fn releasing_keeps_the_markers_of_other_rollouts() {
    let existing = ["ours", "theirs"].map(String::from);
    let release = proxy().hand_back(&done(""), &[endpoint("ours", "::1")], &existing);
    let HandBack::Run(exec) = release else {
        panic!("nothing to run");
    };
    let script = &exec.argv[2];
    assert!(script.contains("case ' theirs ' in"), "{script}");
}

fn detects(json: &str) -> bool {
    let one = container(json);
    detect(&one, std::slice::from_ref(&one)).is_some()
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
fn a_docker_gen_apart_is_recognised_with_the_nginx_it_notifies() {
    let generator = container(
        r#"{"Id": "gen", "Path": "/usr/local/bin/docker-gen", "Args": ["-notify-sighup", "web", "-watch", "/etc/docker-gen/nginx.tmpl", "/etc/nginx/conf.d/default.conf"]}"#,
    );
    let nginx = container(r#"{"Id": "n", "Name": "/web"}"#);
    let found = detect(&generator, &[generator.clone(), nginx.clone()]).unwrap();
    assert_eq!((found.generator.as_str(), found.nginx.id.as_str()), ("gen", "n"));
    assert_eq!(found.template, "/etc/docker-gen/nginx.tmpl");
    assert!(detect(&nginx, &[generator, nginx.clone()]).is_none());
}

#[test]
fn it_fronts_what_asks_for_a_host_on_a_network_of_its_own() {
    let with = |env: &str, network: &str| {
        proxy().routes_to(&Backend::from(&container(&format!(
            r#"{{"Config": {{"Env": ["{env}"]}}, "NetworkSettings": {{"Networks": {{"{network}": {{}}}}}}}}"#
        ))))
    };
    assert!(with("VIRTUAL_HOST=a", "front"));
    assert!(with("VIRTUAL_HOST_MULTIPORTS=a: {}", "front"));
    assert!(!with("VIRTUAL_HOST=", "front"));
    assert!(!with("VIRTUAL_HOST=a", "back"));
}

#[test]
fn on_the_hosts_network_it_reaches_every_other() {
    let host = NginxProxy::whole(&container(r#"{"NetworkSettings": {"Networks": {"host": {}}}}"#));
    let environment = BTreeMap::from([("VIRTUAL_HOST".to_string(), "a".to_string())]);
    assert!(host.routes_to(&Backend { environment, networks: vec!["back".into()], ..Backend::default() }));
}

#[test]
fn its_port_is_the_virtual_port_or_the_only_exposed_one_or_80() {
    let port = |config: &str| proxy().port(&container(&format!(r#"{{"Config": {{{config}}}}}"#)));
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

fn prepared(writable: &str, version: &str, tune: bool) -> Result<Vec<Patch>, Error> {
    let generator = done(&format!("{writable}@template\n{TEMPLATE}"));
    let nginx = done(&format!("@version nginx version: nginx/{version}\n"));
    proxy().prepare(&[generator, nginx], &shape(tune))
}

#[test]
fn preparing_patches_the_template_and_keeps_idle_clients_where_nginx_can() {
    let both = prepared("@writable yes\n", "1.29.5", true).unwrap();
    assert_eq!(both.len(), 2);
    assert!(both[0].required && both[0].exec.stdin.as_ref().unwrap().contains(MARKERS));
    assert!(both[1].note.contains("keepalive_min_timeout 5s"), "{}", both[1].note);
    let old = prepared("@writable yes\n", "1.27.3", true).unwrap();
    assert_eq!(old.len(), 1);
}

#[test]
fn what_cannot_be_patched_is_refused_with_the_fix() {
    let text = prepared("", "1.29.5", true).unwrap_err().to_string();
    assert!(text.contains("is mounted read-only") && text.contains("make it writable"), "{text}");
    let text = prepared("@writable yes\n", "1.29.5", false).unwrap_err().to_string();
    assert!(text.contains("`x-zd.proxy.tune: false`"), "{text}");
    assert!(proxy().prepare(&[done(""), done("")], &shape(true)).is_err());
}

#[test]
fn a_prepared_proxy_is_left_alone() {
    let PatchResult::Now(patched) = template::patch(TEMPLATE) else {
        panic!("not patched");
    };
    let generator = done(&format!("@template\n{patched}"));
    let nginx =
        done("@version nginx version: nginx/1.29.5\n@keepalive /etc/nginx/conf.d/00-compose-zd.conf\n");
    assert_eq!(proxy().prepare(&[generator, nginx], &shape(true)).unwrap(), []);
}

#[test]
fn no_path_or_id_is_a_script() {
    use crate::shell::tests::{HOSTILE, runs_no_injected_command};
    for text in HOSTILE {
        let texts = [text.to_string(), "id".into()];
        for script in [
            install_script(text),
            route_script(text, &texts, &texts),
            question_script(text, &[]),
            release_script(&["id"], &texts),
        ] {
            runs_no_injected_command(&script);
        }
    }
}

#[test]
fn clients_come_in_by_each_plain_name_without_tls_and_with_it() {
    let said = |proxy: &NginxProxy, env: &str| {
        let app = container(&format!(r#"{{"Config": {{"Env": [{env}]}}}}"#));
        let ways = proxy.entrances(&app).into_iter();
        ways.map(|e| format!("{} {} {}{}", e.port, e.tls, e.host.unwrap(), e.path)).collect::<Vec<_>>()
    };
    let two = r#""VIRTUAL_HOST=*.a.b, c.d", "VIRTUAL_PATH=/shop""#;
    assert_eq!(said(&proxy(), two), ["80 false c.d/shop", "443 true c.d/shop"]);
    let own = container(r#"{"Config": {"Env": ["HTTP_PORT=8080", "HTTPS_PORT=8443"]}}"#);
    assert_eq!(said(&NginxProxy::whole(&own), r#""VIRTUAL_HOST=a""#), ["8080 false a/", "8443 true a/"]);
    assert!(said(&proxy(), r#""VIRTUAL_HOST=~^a""#).is_empty() && said(&proxy(), "").is_empty());
}

/// Run by a shell, on a file that docker-gen has written.
#[test]
fn in_a_hurry_nginx_is_given_other_servers_before_docker_gen_renders() {
    let dir = tempfile::tempdir().unwrap();
    let (config, bin) = (dir.path().join("default.conf"), dir.path().join("bin"));
    let text = "upstream a {\n    server 172.19.0.5:3000;\n    server 172.19.0.50:3000;\n    server 172.19.0.7:3000 backup;\n}\n";
    std::fs::write(&config, text).unwrap();
    std::fs::create_dir(&bin).unwrap();
    let nginx = bin.join("nginx");
    std::fs::write(&nginx, format!("#!/bin/sh\necho \"$*\" >> {}/told\n", dir.path().display())).unwrap();
    std::fs::set_permissions(&nginx, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let server = |text: &str| text.parse::<SocketAddr>().unwrap();
    let run = |exchanged: &[(SocketAddr, SocketAddr)]| {
        let script = scripts::exchange(config.to_str().unwrap(), exchanged);
        let path = format!("{}:/usr/bin:/bin", bin.display());
        let status =
            std::process::Command::new("sh").args(["-c", &script]).env("PATH", path).status().unwrap();
        assert!(status.success(), "{script}");
        std::fs::read_to_string(dir.path().join("told")).unwrap_or_default()
    };
    assert_eq!(run(&[(server("172.19.0.9:3000"), server("172.19.0.6:3000"))]), "", "it is not there");
    assert_eq!(std::fs::read_to_string(&config).unwrap(), text);
    let told = run(&[
        (server("172.19.0.5:3000"), server("172.19.0.6:3000")),
        (server("172.19.0.7:3000"), server("172.19.0.6:3000")),
    ]);
    assert_eq!(told, "-s reload\n");
    let expected = text.replace("0.5:", "0.6:").replace("0.7:", "0.6:");
    assert_eq!(std::fs::read_to_string(&config).unwrap(), expected);
    assert!(!dir.path().join("default.conf.zd").exists());
}

#[test]
fn an_image_that_is_built_on_it_is_recognised_wherever_its_engine_is() {
    let built =
        |env: &str| detects(&format!(r#"{{"Path": "/s6", "Config": {{"Image": "ours", "Env": [{env}]}}}}"#));
    assert!(built(
        r#""DOCKER_GEN_VERSION=0.17.2", "NGINX_VERSION=1.31.0", "DOCKER_HOST=tcp://socket-proxy:2375""#
    ));
    assert!(built(r#""DOCKER_GEN_VERSION=0.17.2", "NGINX_PROXY_VERSION=1.11.6""#));
    assert!(!built(r#""DOCKER_GEN_VERSION=0.17.2""#) && !built(r#""NGINX_VERSION=1.31.0""#));
}

#[test]
fn a_docker_gen_apart_is_recognised_however_its_flags_are_written() {
    let nginx = container(
        r#"{"Id": "0123456789abcdef", "Name": "/web", "Config": {"Labels": {"gen.nginx": "yes"}}}"#,
    );
    let found = |flags: &str| {
        let mut generator = container(r#"{"Id": "gen", "Path": "/usr/local/bin/docker-gen"}"#);
        generator.args = flags.split(' ').map(String::from).collect();
        detect(&generator, &[generator.clone(), nginx.clone()]).map(|found| (found.template, found.config))
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
        assert_eq!(found(flags), files, "{flags}");
    }
    for flags in [
        "-notify-sighup=web -watch=false /t.tmpl /d.conf",
        "-notify-sighup=web /t.tmpl /d.conf",
        "-notify-sighup=other -watch /t.tmpl /d.conf",
        "-watch -notify-filter label=gen.other /t.tmpl /d.conf",
        "-watch -notify-sighup=web /t.tmpl",
        "-config /etc/docker-gen.toml",
    ] {
        assert_eq!(found(flags), None, "{flags}");
    }
}
