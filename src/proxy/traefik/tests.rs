//! Tests of the adapter: its commands by equality, its parsers by recorded output.

use super::*;

const FLAGS: &str = "--entrypoints.web.address=:80 --providers.docker=true \
    --providers.docker.exposedbydefault=false --providers.file.directory=/etc/traefik/dynamic \
    --serverstransport.forwardingtimeouts.idleconntimeout=1s";

fn traefik(flags: &str) -> Traefik {
    let mut container: Container = serde_json::from_str(
        r#"{"Id": "t", "Name": "/p-proxy-1", "Config": {"Labels": {
            "com.docker.compose.project": "p", "com.docker.compose.service": "proxy"}},
            "NetworkSettings": {"Networks": {"front": {}}}}"#,
    )
    .unwrap();
    container.args = flags.split_whitespace().map(String::from).collect();
    let mut traefik = Traefik::new(&container);
    traefik.learn(&output("@tool wget\n"));
    traefik
}

fn output(stdout: &str) -> CommandResult {
    CommandResult { code: Some(0), stdout: stdout.into(), stderr: String::new() }
}

fn labels(additional: &str) -> Labels {
    let common = "com.docker.compose.project=p
        com.docker.compose.service=app
        traefik.enable=true
        traefik.http.routers.app.rule=Host(`app.test`)
        traefik.http.services.app.loadbalancer.server.port=3000";
    let lines = common.lines().chain(additional.lines()).filter_map(|l| l.trim().split_once('='));
    lines.map(|(k, v)| (k.into(), v.into())).collect()
}

fn endpoint(id: &str, address: &str, additional: &str) -> Endpoint {
    Endpoint {
        id: id.into(),
        service: "app".into(),
        addresses: address.parse().into_iter().collect(),
        labels: labels(additional),
        ..Endpoint::default()
    }
}

fn old() -> Endpoint {
    endpoint("old", "192.168.0.5", "")
}

fn new() -> Endpoint {
    endpoint("new", "192.168.0.6", "")
}

fn rotation_of(inside: Endpoint, outside: Endpoint) -> Rotation {
    Rotation { inside: vec![inside], outside: vec![outside], ..Rotation::default() }
}

/// The override file of a rotation.
fn file(flags: &str, rotation: &Rotation) -> String {
    let exec = traefik(flags).route(&output("@end"), rotation).expect("a command");
    exec.stdin.expect("a file")
}

const OVERRIDE_FILE: &str = "\
# Written by compose-zd while it replaces instances of app, and removed afterwards.
http:
  routers:
    compose-zd.p.app-app:
      rule: Host(`app.test`)
      priority: 17
      service: compose-zd.p.app-app
    compose-zd.p.app.check:
      rule: Host(`compose-zd.p.app.invalid`) && (ClientIP(`127.0.0.1`) || ClientIP(`::1`))
      priority: 2000000000
      entryPoints: web
      service: compose-zd.p.app-app
      middlewares: compose-zd.p.app.token
  middlewares:
    compose-zd.p.app.token:
      redirectRegex:
        regex: ^.*$
        replacement: http://127.0.0.1:1/TOKEN
  services:
    compose-zd.p.app-app:
      loadBalancer:
        servers:
        - url: http://192.168.0.5:3000
        serversTransport: compose-zd.p.app.transport
  serversTransports:
    compose-zd.p.app.transport:
      maxIdleConnsPerHost: '200'
      forwardingtimeouts:
        idleconntimeout: 200ms
";

/// Output of busybox and Traefik 3.7 while a deploy drained `old`: two connections from before, one since.
const RECORDED: &str = "\
@served TOKEN
@now 5133.41
@before
5130.21
   2: 0300A8C0:B620 0600A8C0:0BB8 01 00000000:00000000 02:00000B45 00000000     0        0 13881072 2 000000008e2e5b2f 20 0 0 11 -1
   6: 0300A8C0:DB3C 0500A8C0:0BB8 01 00000000:00000000 02:00000B45 00000000     0        0 13881481 2 00000000bfaf0af9 20 0 0 11 -1
   7: 0300A8C0:DB42 0500A8C0:0BB8 01 00000000:00000000 02:00000B46 00000000     0        0 13881494 2 000000009ab3218f 20 0 0 11 -1
@file
FILE@connections
   3: 0300A8C0:B620 0600A8C0:0BB8 01 00000000:00000000 02:00000A03 00000000     0        0 13881072 2 000000008e2e5b2f 20 0 0 11 -1
   7: 0300A8C0:DB3C 0500A8C0:0BB8 01 00000000:00000000 02:00000A03 00000000     0        0 13881481 2 00000000bfaf0af9 20 0 0 11 -1
   8: 0300A8C0:DB42 0500A8C0:0BB8 01 00000000:00000000 02:00000A04 00000000     0        0 13881494 2 000000009ab3218f 20 0 0 11 -1
  10: 0300A8C0:DC01 0500A8C0:0BB8 08 00000000:00000000 02:00000A04 00000000     0        0 13881507 2 00000000439430e2 20 0 0 11 -1
@end
";

const API: &str = r#"@api
@service app
{"loadBalancer":{"servers":[{"url":"http://192.168.0.6:3000"},{"url":"http://192.168.0.5:3000"}],"strategy":"wrr","passHostHeader":true},"status":"enabled","usedBy":["app@docker"],"name":"app@docker","provider":"docker","type":"loadbalancer"}
"#;

/// The recorded output with the override file of a rotation, which is in force.
fn recorded(rotation: &Rotation) -> String {
    let file = file(FLAGS, rotation);
    let token = override_file::token(&file).unwrap();
    RECORDED.replace("FILE", &file).replace("TOKEN", token)
}

fn with_api(state: &str, api: &str) -> String {
    state.replace("@end\n", &format!("{api}@end\n"))
}

#[test]
fn the_file_repeats_the_labels_with_a_higher_priority() {
    let file = file(FLAGS, &rotation_of(old(), new()));
    assert_eq!(file.replace(override_file::token(&file).unwrap(), "TOKEN"), OVERRIDE_FILE);
}

#[test]
fn the_version_of_a_file_depends_on_its_content() {
    let token =
        |inside, outside| override_file::token(&file(FLAGS, &rotation_of(inside, outside))).map(String::from);
    assert_eq!(token(old(), new()), token(old(), endpoint("third", "192.168.0.7", "")));
    assert_ne!(token(old(), new()), token(new(), old()));
}

#[test]
fn objects_of_the_labels_are_copied_and_other_references_kept() {
    let additional = "traefik.http.routers.app.middlewares=auth, own@docker,limit@file,both
        traefik.http.routers.app.priority=90
        traefik.http.middlewares.own.headers.customresponseheaders.X-Gen={{a}}
        traefik.http.middlewares.both.chain.middlewares=own,auth
        traefik.http.services.app.loadbalancer.sticky.cookie=true
        traefik.http.services.app.loadbalancer.server.weight=2
        traefik.http.services.app.loadbalancer.serverstransport=mine@file";
    let file = file(FLAGS, &rotation_of(endpoint("old", "192.168.0.5", additional), new()));
    for line in [
        "      priority: 91\n",
        "      middlewares: auth@docker,compose-zd.p.app-own,limit@file,compose-zd.p.app-both\n",
        // If a middleware were missing, Traefik would drop the route, so the version check must depend on it.
        "      middlewares: compose-zd.p.app.token,auth@docker,compose-zd.p.app-both,compose-zd.p.app-own,limit@file\n",
        "          X-Gen: '{{ `{{` }}a}}'\n",
        "      chain:\n        middlewares: compose-zd.p.app-own,auth@docker\n",
        "        sticky:\n          cookie:\n            name: _a9f6e\n",
        "        - url: http://192.168.0.5:3000\n          weight: '2'\n",
        "        serverstransport: mine@file\n",
    ] {
        assert!(file.contains(line), "{line} is not in\n{file}");
    }
}

#[test]
fn a_tls_check_requests_no_certificate_and_an_open_api_gets_no_route() {
    let tls =
        "--entrypoints.s.address=:443 --entrypoints.s.http.tls.certresolver=le --providers.file.directory=/d";
    let by_tls = file(tls, &rotation_of(old(), new()));
    assert!(by_tls.contains("entryPoints: s\n      service: compose-zd.p.app-app\n"), "{by_tls}");
    assert!(by_tls.contains("      tls: {}\n"), "{by_tls}");
    let routes =
        |flags: &str| file(&format!("{FLAGS} {flags}"), &rotation_of(old(), new())).contains("api@internal");
    assert!(routes("--api=true") && !routes("--api.insecure=true") && !routes(""));
}

#[test]
fn several_services_are_checked_together() {
    let additional = "traefik.http.routers.app.service=app
        traefik.http.routers.admin.rule=Host(`admin.test`)
        traefik.http.routers.admin.service=admin
        traefik.http.services.admin.loadbalancer.server.port=9000";
    let file =
        file(FLAGS, &rotation_of(endpoint("old", "::5", additional), endpoint("new", "::6", additional)));
    assert!(file.contains("- url: http://[::5]:9000") && file.contains("- url: http://[::5]:3000"), "{file}");
    assert!(file.contains("      service: compose-zd.p.app.all\n"), "{file}");
    assert!(file.contains("        - name: compose-zd.p.app-admin\n          weight: 1\n"), "{file}");
}

#[test]
fn no_server_gets_requests_before_the_first_instance_is_ready() {
    let file = file(
        FLAGS,
        &Rotation { inside: vec![], outside: vec![endpoint("new", "", "")], ..Rotation::default() },
    );
    assert!(file.contains("        servers: []\n"), "{file}");
    assert!(override_file::servers(&file).is_empty());
}

#[test]
fn a_route_is_written_once_and_then_awaited() {
    let rotation = rotation_of(old(), new());
    let state = recorded(&rotation);
    let traefik = traefik(FLAGS);
    assert_eq!(traefik.route(&output(&state), &rotation), None);
    assert!(traefik.holds(&output(&state), &rotation));
    let pending = state.replace("@served ", "@served 0");
    assert_eq!(traefik.route(&output(&pending), &rotation), None);
    assert!(!traefik.holds(&output(&pending), &rotation));
    assert!(traefik.route(&output(&state), &rotation_of(new(), old())).is_some());
    assert!(!traefik.holds(&output("@served \n@end"), &rotation));
}

#[test]
fn it_parses_the_rotation_and_the_requests_in_flight() {
    let traefik = traefik(&FLAGS.replace("=1s", "=60s"));
    let state_text = recorded(&rotation_of(new(), old()));
    let state = traefik.read(&output(&state_text), &[old(), new()]).unwrap();
    assert_eq!(state.routed.into_iter().collect::<Vec<_>>(), ["new"]);
    assert!(state.config_applied && !state.has_retired_process);
    let quiet = Duration::from_millis(3200);
    assert_eq!(state.in_flight["old"], InFlight::AtMost { exact: 1, open: 2, quiet });
    assert!(traefik.read(&output("Permission denied"), &[old()]).is_err());
}

#[test]
fn a_connection_older_than_the_idle_timeout_is_in_flight() {
    let state = traefik(FLAGS).read(&output(&recorded(&rotation_of(new(), old()))), &[old()]).unwrap();
    let quiet = Duration::from_millis(3200);
    assert_eq!(state.in_flight["old"], InFlight::AtMost { exact: 3, open: 0, quiet });
}

#[test]
fn connections_of_a_users_transport_may_be_idle() {
    let with_transport =
        endpoint("old", "192.168.0.5", "traefik.http.services.app.loadbalancer.serverstransport=a@file");
    let state_text = recorded(&rotation_of(new(), old()));
    let state = traefik(FLAGS).read(&output(&state_text), &[with_transport]).unwrap();
    assert_eq!(state.in_flight["old"], InFlight::AtMost { exact: 0, open: 3, quiet: Duration::ZERO });
}

#[test]
fn without_a_file_discovery_routes_to_healthy_running_instances() {
    let created = endpoint("created", "", "");
    let unhealthy = Endpoint { unhealthy: true, ..new() };
    let endpoints = [old(), created, unhealthy];
    let state = traefik(FLAGS).read(&output("@served \n@now 1.0\n@connections\n@end\n"), &endpoints).unwrap();
    assert_eq!(state.routed.into_iter().collect::<Vec<_>>(), ["old"]);
    assert!(state.config_applied);
    let leaving = traefik(FLAGS).read(&output("@served 0a\n@now 1.0\n@end\n"), &endpoints).unwrap();
    assert!(!leaving.config_applied);
}

#[test]
fn a_foreign_router_that_uses_the_service_is_refused() {
    let state =
        "@served \n@references\n/d/x.yml:service: \"app@docker\n/d/x.yml:service: my-app@docker\n@end\n";
    let error = traefik(FLAGS).read(&output(state), &[old()]).unwrap_err().to_string();
    assert!(error.contains("routes to `app`: /d/x.yml:service: app@docker"), "{error}");
    let other = state.replace("\"app@docker", "other@docker");
    assert!(traefik(FLAGS).read(&output(&other), &[old()]).is_ok());
    let used_by = |routers: &str| {
        let api = API.replace(r#"["app@docker"]"#, routers);
        traefik(FLAGS).read(&output(&with_api("@served \n@end\n", &api)), &[old()]).map(drop)
    };
    assert_eq!(used_by(r#"["app@docker","web-app@docker"]"#), Ok(()));
    let error = used_by(r#"["app@docker","admin@docker"]"#).unwrap_err().to_string();
    assert!(error.contains("routes to `app`: admin@docker"), "{error}");
}

/// The first line of a command.
fn step(step: Next) -> String {
    match step {
        Next::Wait => "wait".into(),
        Next::Done => "done".into(),
        next => next.changes()[0].exec().unwrap().argv[2].lines().next().unwrap_or_default().into(),
    }
}

#[test]
fn the_route_is_handed_back_once_discovery_has_the_same_servers() {
    let traefik = traefik(FLAGS);
    let state_text = recorded(&rotation_of(new(), old()));
    let stopped = endpoint("old", "", "");
    let handed_back =
        |state: &str, endpoints: &[Endpoint]| step(traefik.hand_back(&output(state), endpoints));
    let both = with_api(&state_text, API);
    assert_eq!(handed_back(&both, &[old(), new()]), "wait");
    let one = both.replace(r#",{"url":"http://192.168.0.5:3000"}"#, "");
    assert_eq!(handed_back(&one, &[stopped.clone(), new()]), "# hand the route back");
    let unused = one.replace(r#""usedBy":["app@docker"]"#, r#""usedBy":[]"#);
    assert_eq!(handed_back(&unused, &[stopped.clone(), new()]), "wait");
    let starting = Endpoint { unhealthy: true, ..new() };
    assert_eq!(handed_back(&one, &[stopped.clone(), starting]), "wait");
    // A stopped instance has no address any more, so its old server may as well be a foreign one.
    let endpoints = [stopped, new()];
    assert_eq!(handed_back(&both, &endpoints), "# wait for Traefik's discovery");
    let marked = |at: &str| both.replace("@file\n", &format!("@left\n{at}\n@file\n"));
    assert_eq!(handed_back(&marked("5119.00"), &endpoints), "wait");
    assert_eq!(handed_back(&marked("5118.00"), &endpoints), "# hand the route back");
}

#[test]
fn without_an_api_discovery_gets_its_longest_delay() {
    let traefik = traefik(FLAGS);
    let state_text = recorded(&rotation_of(new(), old()));
    let handed_back =
        |state: &str, endpoints: &[Endpoint]| step(traefik.hand_back(&output(state), endpoints));
    assert_eq!(handed_back(&state_text, &[new()]), "# wait for Traefik's discovery");
    let marked = |at: &str| state_text.replace("@file\n", &format!("@left\n{at}\n@file\n"));
    assert_eq!(handed_back(&marked("5130.00"), &[new()]), "wait");
    assert_eq!(handed_back(&marked("5129.40"), &[new()]), "# hand the route back");
    let starting = Endpoint { unhealthy: true, ..new() };
    assert_eq!(handed_back(&state_text, &[starting]), "wait");
}

#[test]
fn nothing_of_a_route_remains() {
    let traefik = traefik(FLAGS);
    let handed_back = |state: &str| step(traefik.hand_back(&output(state), &[new()]));
    assert_eq!(handed_back("@served \n@now 1.0\n@end\n"), "done");
    assert_eq!(handed_back("@served 0a\n@now 1.0\n@end\n"), "wait");
    assert_eq!(handed_back("@served \n@now 2.0\n@before\n1.0\n@end\n"), "# remove the leftovers");
    let elsewhere = recorded(&rotation_of(endpoint("gone", "192.168.0.9", ""), old()));
    assert_eq!(handed_back(&elsewhere), "# hand the route back");
}

const WATCHED: &str =
    "--providers.docker=true --api.insecure=true --serverstransport.forwardingtimeouts.idleconntimeout=1s";

fn backend(additional: &str) -> Backend {
    Backend {
        project: "p".into(),
        service: "app".into(),
        labels: labels(additional),
        networks: vec!["front".into()],
        has_healthcheck: true,
        has_drain_command: true,
        ..Backend::default()
    }
}

#[test]
fn without_a_directory_the_api_tells_the_rotation() {
    let traefik = traefik(WATCHED);
    assert!(!traefik.abilities().steers);
    let state_text = with_api("@connections\n   1: 0300A8C0:DB3C 0500A8C0:0BB8 01 x\n@end\n", API);
    let endpoints = [old(), new(), endpoint("third", "192.168.0.7", "")];
    let state = traefik.read(&output(&state_text), &endpoints).unwrap();
    assert_eq!(state.routed.into_iter().collect::<Vec<_>>(), ["new", "old"]);
    assert_eq!(state.in_flight["old"], InFlight::AtMost { exact: 0, open: 1, quiet: Duration::ZERO });
    let without_api = traefik.read(&output("@connections\n@service app\n@end\n"), &endpoints).unwrap_err();
    assert!(without_api.to_string().contains("cannot read its routes"), "{without_api}");
    assert_eq!(traefik.hand_back(&output(&state_text), &endpoints), Next::Done);
}

#[test]
fn requests_that_discovery_will_lose_are_risks_with_a_fix() {
    let bare = Backend { has_healthcheck: false, has_drain_command: false, ..backend("") };
    let risks = traefik(WATCHED).check(&[bare]).unwrap().iter().map(|l| format!("{l}\n")).collect::<String>();
    for text in ["gets requests before it is ready", "still sends it requests", checks::DIRECTORY_FLAGS] {
        assert!(risks.contains(text), "{risks}");
    }
    assert_eq!(traefik(WATCHED).check(&[backend("")]), Ok(vec![]));
    assert_eq!(traefik(FLAGS).check(&[backend("")]), Ok(vec![]));
    let idle = FLAGS.replace("=1s", "=60s");
    assert!(traefik(&idle).check(&[backend("")]).unwrap()[0].hint.contains("idleConnTimeout=1s"));
}

#[test]
fn an_unfit_configuration_is_refused_with_the_fix() {
    let refusal = |flags: &str, backend: Backend| traefik(flags).check(&[backend]).unwrap_err().to_string();
    let blind = refusal("--providers.docker=true", backend(""));
    assert!(
        blind.contains("its API cannot be queried") && blind.contains(checks::DIRECTORY_FLAGS),
        "{blind}"
    );
    let tcp = refusal(FLAGS, backend("traefik.tcp.routers.a.rule=HostSNI(`*`)"));
    assert!(tcp.contains("`traefik.tcp.routers.a.rule`"), "{tcp}");
    let fixed = refusal(FLAGS, backend("traefik.http.services.app.loadbalancer.server.url=http://x"));
    assert!(fixed.contains("one address for all"), "{fixed}");
    let unwatched = refusal(&format!("{FLAGS} --providers.docker.watch=false"), backend(""));
    assert!(unwatched.contains("never sees a new instance"), "{unwatched}");
    let regex = refusal(&format!("{FLAGS} --providers.docker.constraints=LabelRegex(`a`,`b`)"), backend(""));
    assert!(regex.contains("cannot be evaluated"), "{regex}");
    let guarded = refusal(&format!("{FLAGS} --entrypoints.web.http.middlewares=a@file"), backend(""));
    assert!(guarded.contains("cannot query which route is in force"), "{guarded}");
    let template = FLAGS.replace(" --serv", " --providers.docker.defaultrule={{.Name|lower}} --serv");
    assert!(refusal(&template, backend("traefik.http.routers.b.tls=true")).contains("has no rule"));
    let mut bare = traefik(FLAGS);
    bare.learn(&output(""));
    assert!(bare.check(&[backend("")]).unwrap_err().to_string().contains("neither wget"));
}

#[test]
fn conflicting_generations_need_a_directory() {
    let running = Backend { is_running: true, ..backend("") };
    let future = backend("traefik.http.routers.app.rule=Host(`b`)");
    let error = traefik(WATCHED).check(&[running.clone(), future.clone()]).unwrap_err().to_string();
    let text = "changes the label `traefik.http.routers.app.rule` from `Host(`app.test`)` to `Host(`b`)`";
    assert!(error.contains(text) && error.contains(checks::DIRECTORY_FLAGS), "{error}");
    assert_eq!(traefik(FLAGS).check(&[running, future]), Ok(vec![]));
}

#[test]
fn a_missing_or_read_only_directory_is_refused() {
    let shape = RolloutShape { tune: true, starting: 1, services: vec![], ..RolloutShape::default() };
    let prepare =
        |output: CommandResult| traefik(FLAGS).prepare(&[output], &shape).map_err(|f| f.to_string());
    assert_eq!(prepare(output("")), Ok(vec![]));
    assert!(prepare(output("@readonly\n")).unwrap_err().contains("without `:ro`"));
    assert!(prepare(CommandResult { code: Some(1), ..output("") }).unwrap_err().contains("does not exist"));
}

#[test]
fn it_routes_to_backends_that_request_a_route_on_a_shared_network() {
    let routes = |flags: &str, backend: &Backend| traefik(flags).routes_to(backend);
    assert!(routes(FLAGS, &backend("")));
    assert!(!routes(FLAGS, &backend("traefik.enable=false")));
    assert!(!routes(FLAGS, &Backend { networks: vec!["back".into()], ..backend("") }));
    assert!(!routes(FLAGS, &Backend { service: "proxy".into(), ..backend("") }));
    assert!(!routes("--providers.file.directory=/d", &backend("")));
    let database = Backend { labels: Labels::new(), ..backend("") };
    assert!(!routes("--providers.docker=true", &database));
    let mut without_enable = backend("");
    without_enable.labels.remove("traefik.enable");
    assert!(routes("--providers.docker=true", &without_enable) && !routes(FLAGS, &without_enable));
    let for_project = |project: &str| {
        format!("{FLAGS} --providers.docker.constraints=Label(`com.docker.compose.project`,`{project}`)")
    };
    assert!(routes(&for_project("p"), &backend("")) && !routes(&for_project("q"), &backend("")));
}

#[test]
fn it_is_recognised_by_image_origin_or_process() {
    let detects = |json: &str| detect(&serde_json::from_str(json).unwrap()).is_some();
    let image = |name: &str| detects(&format!(r#"{{"Config": {{"Image": "{name}"}}}}"#));
    assert!(
        image("traefik:v3.7") && image("ghcr.io/x/traefik@sha256:1") && image("docker.io/library/traefik")
    );
    assert!(!image("traefik/whoami:latest") && !image("traefik-exporter") && !image("nginx"));
    let origin = "https://github.com/traefik/traefik";
    assert!(detects(&format!(
        r#"{{"Config": {{"Labels": {{"org.opencontainers.image.source": "{origin}"}}}}}}"#
    )));
    assert!(detects(r#"{"Path": "/usr/local/bin/traefik"}"#));
    assert!(detects(r#"{"Path": "/entrypoint.sh", "Args": ["--Providers.docker=true"]}"#));
}

#[test]
fn a_probe_uses_the_port_and_host_of_the_labels() {
    let container = |labels: Labels| -> Container {
        let mut container: Container =
            serde_json::from_str(r#"{"Config": {"ExposedPorts": {"8080/tcp": {}, "80/tcp": {}}}}"#).unwrap();
        container.config.labels = labels;
        container
    };
    let traefik = traefik(FLAGS);
    let labelled = container(labels(""));
    assert_eq!(
        (
            traefik.route_to(&Backend::from(&labelled)).port,
            traefik.route_to(&Backend::from(&labelled)).host.unwrap().as_str()
        ),
        (Some(3000), "app.test")
    );
    let mut bare = labels("");
    bare.retain(|k, _| k.starts_with("com."));
    let bare = container(bare);
    assert_eq!(
        (
            traefik.route_to(&Backend::from(&bare)).port,
            traefik.route_to(&Backend::from(&bare)).host.unwrap().as_str()
        ),
        (Some(80), "app-p")
    );
}

#[test]
fn labels_request_a_route() {
    assert!(
        requests_route(&labels(""))
            && !requests_route(&labels("traefik.enable=false"))
            && !requests_route(&Labels::new())
    );
}

#[test]
fn no_directory_file_service_or_address_is_run_as_a_script() {
    use super::version_check::ControlAddress;
    use crate::shell::tests::{HOSTILE, runs_no_injected_command};
    for text in HOSTILE {
        let file = OverrideFile { directory: text, name: text };
        let address = ControlAddress { tls: false, host: text.into(), port: 80 };
        let api = Api { address: address.clone(), path: text.into() };
        let checks = [
            VersionCheck::Route { entry_point: text.into(), address },
            VersionCheck::Api { entry_point: text.into() },
        ];
        let services = scripts::services_script(Some((&api, text)), &[text.into()]);
        let mut all_scripts = vec![
            scripts::config_script(&[text.into()]),
            scripts::directory_script(text),
            scripts::discovery_script(&[], &services),
            scripts::write_script(&file, &[]),
            scripts::mark_script(&file),
            scripts::remove_script(&file),
            scripts::remove_leftovers(&file),
        ];
        for check in &checks {
            all_scripts.push(scripts::state_script(&file, check, Some(&api), &[], &services));
            all_scripts.push(scripts::diagnosis_script(Some(text), Some(check), Some(&api)));
        }
        all_scripts.iter().for_each(|script| runs_no_injected_command(script));
    }
}

#[test]
fn the_highest_priority_does_not_overflow() {
    let highest = format!("traefik.http.routers.app.priority={}", i64::MAX);
    let file = file(FLAGS, &rotation_of(endpoint("new", "192.168.0.6", &highest), old()));
    assert!(file.contains(&format!("priority: {}", i64::MAX)), "{file}");
}

#[test]
fn a_server_url_may_have_no_port() {
    let address = |url: &str| override_file::server_address(url).map(|a| a.to_string());
    assert_eq!(address("http://[fd00::5]").as_deref(), Some("fd00::5"));
    assert_eq!(address("http://[fd00::5]:80/x").as_deref(), Some("fd00::5"));
    assert_eq!(address("http://10.0.0.5/").as_deref(), Some("10.0.0.5"));
    assert_eq!(address("http://app:80"), None);
}

#[test]
fn an_endless_idle_timeout_does_not_overflow() {
    let rotation = rotation_of(new(), old());
    let flags = format!("{FLAGS} --serverstransport.forwardingtimeouts.idleconntimeout={}", u64::MAX);
    let state = traefik(&flags).read(&output(&recorded(&rotation)), &[old()]).unwrap();
    assert!(matches!(state.in_flight["old"], InFlight::AtMost { open: 2, .. }), "{state:?}");
}

#[test]
fn routes_outside_labels_and_files_raise_a_doubt() {
    let doubt = |flags: &str| traefik(flags).doubt(&[]).unwrap_or_default();
    assert_eq!(doubt(FLAGS), "");
    assert_eq!(doubt("--providers.file.filename=/r.yml --providers.providersthrottleduration=1s"), "");
    assert!(doubt("--providers.docker --providers.consulcatalog.prefix=x").contains("`consulcatalog`"));
    assert!(doubt("--entrypoints.web.address=:80").contains("cannot be read"));
    assert_eq!(
        traefik("--providers.file.filename=/r.yml --providers.file.watch=false").route_files(),
        ["/r.yml"]
    );
    assert_eq!(traefik(FLAGS).route_files(), ["/etc/traefik/dynamic"]);
}

#[test]
fn a_sticky_cookie_keeps_its_name_under_the_copied_service() {
    let cookie = |labels: &str| {
        let labels: Vec<String> =
            labels.split(' ').map(|l| format!("traefik.http.services.app.loadbalancer.{l}")).collect();
        let file = file(FLAGS, &rotation_of(endpoint("old", "192.168.0.5", &labels.join("\n")), new()));
        let (_, sticky) =
            file.split_once("        sticky:\n").or(file.split_once("        Sticky:\n")).unwrap();
        sticky
            .lines()
            .take_while(|line| line.starts_with("          "))
            .map(str::trim)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(cookie("sticky.cookie.httponly=true"), "cookie: httponly: 'true' name: _a9f6e");
    assert_eq!(
        cookie("sticky.cookie.name=mine sticky.cookie.secure=true"),
        "cookie: name: mine secure: 'true'"
    );
    assert_eq!(cookie("Sticky.Cookie=true"), "cookie: name: _a9f6e");
    assert_eq!(cookie("sticky.cookie=false"), "cookie: 'false'");
}
