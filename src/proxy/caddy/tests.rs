//! Tests of the adapter: its configuration and commands by equality, its parsers by recorded output.

use serde_json::json;

use super::config::tests::{by_address, by_name, proxying};
use super::config::with_switches;
use super::*;
use crate::proxy::InFlight;

const NEW: &str = "2.11.4";
const OLD: &str = "2.6.2";

fn container(json: &str) -> Container {
    serde_json::from_str(json).unwrap()
}

fn output(stdout: &str) -> CommandResult {
    CommandResult { code: Some(0), stdout: stdout.into(), stderr: String::new() }
}

fn caddy_with(version: &str, handler: Value) -> Caddy {
    let mut caddy = Caddy::new(&container(
        r#"{"Id": "proxy", "Name": "/p-proxy-1", "NetworkSettings": {"Networks": {"front": {}}}}"#,
    ));
    caddy.learn(&output(&format!(
        "@folder /dev/shm\n@version {version}\n@api 127.0.0.1:2019\n@config\n{}\n",
        proxying(handler)
    )));
    caddy
}

fn caddy() -> Caddy {
    caddy_with(NEW, by_name())
}

fn endpoint(name: &str, address: &str) -> Endpoint {
    Endpoint {
        id: format!("id-{name}"),
        name: name.into(),
        names: vec![name.into(), "app".into()],
        addresses: address.parse().into_iter().collect(),
        ..Endpoint::default()
    }
}

fn old() -> Endpoint {
    endpoint("p-app-1", "172.21.0.2")
}

fn new() -> Endpoint {
    endpoint("p-app-2", "172.21.0.3")
}

/// Output while a deploy drained `p-app-1`, without the counters of idle slots.
const SWITCHED: &str = "@on app 4\n@switched app 1\n@bank app/a p-app-1\n@bank app/b p-app-2\n";
const ON: &str = "@on app 4\n@bank app/a p-app-1\n";
const COUNTS: &str = r#"[{"address":"{file./dev/shm/compose-zd/app/a/13}:3000","num_requests":2,"fails":0},{"address":"{file./dev/shm/compose-zd/app/b/6}:3000","num_requests":5,"fails":0},{"address":"app:3000","num_requests":1,"fails":0},{"address":"p-app-1:3000","num_requests":2,"fails":0},{"address":"172.21.0.2:3000","num_requests":7,"fails":0}]"#;

fn state(files: &str, config: &Value) -> CommandResult {
    output(&format!("{files}@upstreams\n{COUNTS}\n\n@config\n{config}\n"))
}

fn with_switch(caddy: &Caddy) -> Value {
    with_switches(&caddy.settings.config, &["app".to_string()].into(), caddy.features())
}

/// State with every switch in place.
fn switched_state(caddy: &Caddy, files: &str) -> CommandResult {
    state(files, &with_switch(caddy))
}

/// The same state without a request in flight.
fn idle(caddy: &Caddy) -> CommandResult {
    output(&format!("@upstreams\n[]\n\n@config\n{}\n", with_switch(caddy)))
}

fn routed(caddy: &Caddy, output: &CommandResult) -> (Vec<String>, bool) {
    let created = Endpoint { addresses: vec![], ..endpoint("p-app-3", "") };
    let state = caddy.read(output, &[old(), new(), created]).unwrap();
    (state.routed.into_iter().collect(), state.config_applied)
}

/// The handler is the adapted form of `php_fastcgi app:3000`.
#[test]
fn an_upstream_by_the_fastcgi_transport_does_not_get_http() {
    let upstream = container(
        r#"{"Name": "/p-app-1", "Config": {"Labels": {"com.docker.compose.project": "p", "com.docker.compose.service": "app"}}}"#,
    );
    let mut handler = by_name();
    assert!(!caddy_with(NEW, handler.clone()).route_to(&Backend::from(&upstream)).not_http);
    handler["transport"] = json!({"protocol": "fastcgi", "split_path": [".php"]});
    let caddy = caddy_with(NEW, handler);
    assert!(caddy.route_to(&Backend::from(&upstream)).not_http);
    assert!(!caddy.route_to(&Backend::from(&container(r#"{"Name": "/p-other-1"}"#))).not_http);
}

#[test]
fn without_a_switch_that_is_on_every_running_instance_gets_requests() {
    let (caddy, both) = (caddy(), vec!["id-p-app-1".to_string(), "id-p-app-2".to_string()]);
    assert_eq!(routed(&caddy, &switched_state(&caddy, "")), (both.clone(), true));
    assert_eq!(routed(&caddy, &state("", &caddy.settings.config)), (both, true));
}

#[test]
fn a_switch_sends_requests_to_the_names_of_the_active_bank() {
    let caddy = caddy();
    assert_eq!(routed(&caddy, &switched_state(&caddy, ON)), (vec!["id-p-app-1".into()], true));
    assert_eq!(routed(&caddy, &switched_state(&caddy, SWITCHED)), (vec!["id-p-app-2".into()], true));
}

#[test]
fn late_answers_and_many_requests_are_no_failure_of_an_instance_in_a_bank() {
    let mut handler = by_name();
    let limits = json!({"fail_duration": 1, "unhealthy_latency": 1, "unhealthy_request_count": 1});
    handler["health_checks"] = json!({"active": {"path": "/"}, "passive": limits});
    let switched = with_switch(&caddy_with(NEW, handler)).to_string();
    let count = |key: &str| switched.matches(&format!("\"{key}\"")).count();
    let counts = ["fail_duration", "active", "unhealthy_latency", "unhealthy_request_count"].map(count);
    assert_eq!(counts, [3, 1, 1, 1], "two banks, and the handler behind the switch");
}

#[test]
fn a_foreign_reload_is_noticed() {
    let caddy = caddy();
    let (names, config_applied) = routed(&caddy, &state(SWITCHED, &caddy.settings.config));
    assert_eq!((names.len(), config_applied), (2, true), "files without a switch mean nothing");
    let mut two = with_switch(&caddy);
    two["apps"]["http"]["servers"]["srv1"] = json!({"routes": [{"handle": [by_name()]}]});
    assert!(!routed(&caddy, &state(SWITCHED, &two)).1, "one of two handlers has no switch");
}

#[test]
fn in_flight_counts_requests_by_service_name_and_by_bank_or_slot_name() {
    let in_flight = |caddy: Caddy, other: &str| {
        let state = output(&switched_state(&caddy, SWITCHED).stdout.replace("p-app-1:3000", other));
        let in_flight = caddy.read(&state, &[new(), old()]).unwrap().in_flight;
        assert_eq!(in_flight.len(), 1);
        in_flight["id-p-app-1"].clone()
    };
    assert_eq!(in_flight(caddy(), "p-app-1:3000"), InFlight::Exact(3));
    assert_eq!(in_flight(caddy(), "p-app-9:3000"), InFlight::Exact(1));
    assert_eq!(in_flight(caddy_with(OLD, by_name()), "p-app-9:3000"), InFlight::Exact(3));
    assert_eq!(in_flight(caddy_with(NEW, by_address()), "p-app-1:3000"), InFlight::Exact(9));
}

#[test]
fn an_invalid_output_is_an_error() {
    for text in ["", "@upstreams\n[]\n@config\n{\"apps\"", "@upstreams\n[]\n@config\n{\"error\":\"no\"}\n"] {
        assert!(caddy().read(&output(text), &[old()]).is_err(), "{text}");
    }
}

fn script(exec: Option<Exec>) -> String {
    exec.map(|e| e.argv[2].clone()).unwrap_or_default()
}

fn rotation(inside: &[Endpoint], outside: &[Endpoint]) -> Rotation {
    Rotation { inside: inside.to_vec(), outside: outside.to_vec(), ..Rotation::default() }
}

/// All slots of a bank, with these names in turn.
fn slots(names: &[&str]) -> String {
    names.iter().copied().cycle().take(24).collect::<Vec<_>>().join(" ")
}

#[test]
fn gating_turns_the_switch_on_for_the_serving_instances() {
    let (caddy, rotation) = (caddy(), rotation(&[new(), old()], &[endpoint("p-app-3", "")]));
    let expected = format!(
        "# send requests to p-app-1 p-app-2
set -e
rm -rf /dev/shm/compose-zd/app/a; mkdir -p /dev/shm/compose-zd/app/a; i=0
for n in {}; do i=$((i+1)); printf %s \"$n\" > /dev/shm/compose-zd/app/a/$i; done
echo 'p-app-1 p-app-2' > /dev/shm/compose-zd/app/a.set
rm -f /dev/shm/compose-zd/app/switched
: > /dev/shm/compose-zd/app/on
",
        slots(&["p-app-1", "p-app-2"])
    );
    assert_eq!(script(caddy.gate(&idle(&caddy), &rotation)), expected);
    assert!(!caddy.holds(&idle(&caddy), &rotation));
    let on = switched_state(&caddy, "@on app 0\n@bank app/a p-app-1 p-app-2\n");
    assert!(caddy.holds(&on, &rotation) && caddy.gate(&on, &rotation).is_none());
}

#[test]
fn requests_of_the_last_deploy_are_counted_apart_from_those_of_this_one() {
    let gate = script(caddy().gate(&switched_state(&caddy(), ""), &rotation(&[old()], &[new()])));
    let activate = "echo p-app-1 > /dev/shm/compose-zd/app/b.set\n: > /dev/shm/compose-zd/app/switched\n";
    assert!(gate.contains(activate), "{gate}");
}

#[test]
fn without_a_serving_instance_none_gets_requests_until_one_is_ready() {
    let (caddy, rotation) = (caddy(), rotation(&[], &[new()]));
    let gate = script(caddy.gate(&idle(&caddy), &rotation));
    assert!(gate.contains("echo - > /dev/shm/compose-zd/app/a.set"), "{gate}");
    let on = switched_state(&caddy, "@on app 0\n@bank app/a -\n");
    assert!(caddy.holds(&on, &rotation));
    assert_eq!(caddy.route(&on, &rotation), None, "never an empty set");
}

#[test]
fn routing_fills_the_idle_bank_and_then_activates_it() {
    let caddy = caddy();
    let forward = script(caddy.route(&switched_state(&caddy, ON), &rotation(&[new()], &[old()])));
    let fill = |bank: &str| format!("> /dev/shm/compose-zd/app/{bank}.set\n");
    assert!(
        forward.contains(&fill("b")) && forward.ends_with(": > /dev/shm/compose-zd/app/switched\n"),
        "{forward}"
    );
    let back = script(caddy.route(&switched_state(&caddy, SWITCHED), &rotation(&[old()], &[new()])));
    assert!(
        back.contains(&fill("a")) && back.ends_with("rm -f /dev/shm/compose-zd/app/switched\n"),
        "{back}"
    );
    assert_eq!(caddy.route(&switched_state(&caddy, SWITCHED), &rotation(&[new()], &[old()])), None);
}

#[test]
fn a_switch_that_a_foreign_reload_removed_is_added_until_the_end_of_the_deploy() {
    let caddy = caddy();
    let exec = caddy.route(&state(ON, &caddy.settings.config), &rotation(&[new()], &[old()])).unwrap();
    let lines: Vec<String> = exec.stdin.clone().unwrap().lines().map(String::from).collect();
    assert_eq!(lines, [caddy.settings.config.to_string(), with_switch(&caddy).to_string()]);
    let script = script(Some(exec));
    let on = script.find(": > /dev/shm/compose-zd/app/on\n").unwrap();
    let once = script.find(": > /dev/shm/compose-zd/app/once\n").unwrap();
    assert!(on < once && once < script.find("call_api /load").unwrap(), "{script}");
}

#[test]
fn more_instances_than_slots_are_refused() {
    let many: Vec<Endpoint> = (0..25).map(|n| endpoint(&format!("p-app-{n}"), "172.21.0.2")).collect();
    let refusal = script(caddy().route(&switched_state(&caddy(), ""), &rotation(&many, &[])));
    assert_eq!(refusal, "echo 'a switch has slots for 24 instances, and there are 25' >&2; exit 1");
}

fn handed_back(caddy: &Caddy, output: &CommandResult) -> String {
    match caddy.hand_back(output, &[new()]) {
        Next::Done => "done".into(),
        Next::Wait => "wait".into(),
        next => script(next.changes()[0].exec().cloned()),
    }
}

#[test]
fn handing_back_turns_the_switch_off_after_both_banks_are_equal() {
    let caddy = caddy();
    let off = handed_back(&caddy, &switched_state(&caddy, SWITCHED));
    assert!(off.contains("echo p-app-2 > /dev/shm/compose-zd/app/a.set\n"), "{off}");
    assert!(off.ends_with("rm -f /dev/shm/compose-zd/app/on /dev/shm/compose-zd/app/switched\n"), "{off}");
    assert_eq!(handed_back(&caddy, &switched_state(&caddy, "@bank app/a p-app-2\n")), "done");
}

#[test]
fn a_temporary_switch_is_removed() {
    let caddy = caddy();
    let next = caddy.hand_back(&switched_state(&caddy, "@once app\n"), &[new()]);
    let stdin = next.changes()[0].exec().unwrap().stdin.clone().unwrap();
    assert_eq!(stdin.lines().last().unwrap(), caddy.settings.config.to_string());
    assert_eq!(handed_back(&caddy, &state("@once app\n", &caddy.settings.config)), "done");
}

#[test]
fn a_cached_lookup_is_waited_for() {
    let step = |files: &str| {
        let caddy = caddy_with(NEW, by_address());
        handed_back(&caddy, &switched_state(&caddy, files))
    };
    assert_eq!(step(&ON.replace("app 4", "app 61")), "wait");
    assert!(step(&ON.replace("app 4", "app 62")).starts_with("# turn the switch off"));
    assert_eq!(caddy_with(NEW, by_address()).abilities().discovery_timeout, Duration::from_secs(90));
}

fn prepared(output: &CommandResult, tune: bool) -> Vec<Change> {
    let shape = RolloutShape {
        tune,
        starting: 1,
        services: vec![("app".into(), vec!["app".into()])],
        ..RolloutShape::default()
    };
    caddy().prepare(std::slice::from_ref(output), &shape).unwrap()
}

#[test]
fn two_rotations_of_one_handler_are_refused() {
    let both = json!({"handler": "reverse_proxy", "upstreams": [{"dial": "app:3000"}, {"dial": "api:3000"}]});
    let caddy = caddy_with(NEW, both);
    let output = state("", &caddy.settings.config);
    let services = vec![("app".into(), vec!["app".into(), "p-app-1".into()])];
    let shape = |other: &str| RolloutShape {
        starting: 1,
        services: services.clone(),
        names_in_same_run: vec![other.into()],
        ..RolloutShape::default()
    };
    let refused = caddy.prepare(std::slice::from_ref(&output), &shape("api")).unwrap_err().to_string();
    assert!(refused.contains("routes to `app` and to `api`"), "{refused}");
    assert!(caddy.prepare(&[output], &shape("db")).is_ok());
}

#[test]
fn the_first_deploy_adds_the_switch_and_the_next_finds_it() {
    let missing = state(ON, &caddy().settings.config);
    let first = prepared(&missing, true);
    assert!(
        first[0].required && first[0].note.contains("the next deploy needs no reload"),
        "{}",
        first[0].note
    );
    let script = &first[0].exec().unwrap().argv[2];
    assert!(
        script.contains("app/on /dev/shm/compose-zd/app/switched /dev/shm/compose-zd/app/once"),
        "{script}"
    );
    assert_eq!(prepared(&switched_state(&caddy(), ON), true), []);
    assert!(
        caddy()
            .prepare(
                &[output("")],
                &RolloutShape { tune: true, starting: 1, services: vec![], ..RolloutShape::default() }
            )
            .is_err()
    );
}

#[test]
fn without_tuning_the_switch_is_removed_after_the_deploy() {
    for output in [state("", &caddy().settings.config), switched_state(&caddy(), "")] {
        let first = prepared(&output, false);
        assert!(first[0].note.contains("`x-zd.proxy.tune: false`"), "{}", first[0].note);
        assert!(first[0].exec().unwrap().argv[2].contains(": > /dev/shm/compose-zd/app/once"));
    }
}

fn backend(service: &str, names: &[&str], is_running: bool) -> Backend {
    let names = names.iter().map(|n| n.to_string()).collect();
    Backend {
        service: service.into(),
        names,
        is_running,
        networks: vec!["front".into()],
        ..Backend::default()
    }
}

#[test]
fn it_routes_to_the_names_in_its_configuration_on_a_shared_network() {
    let other = Backend { networks: vec!["back".into()], ..backend("app", &["app"], true) };
    assert!(caddy().routes_to(&backend("web", &["web", "app"], true)));
    assert!(!caddy().routes_to(&backend("db", &["db"], true)) && !caddy().routes_to(&other));
    let app = container(r#"{"Name": "/app"}"#);
    assert_eq!(
        (caddy().route_to(&Backend::from(&app)).port, caddy().route_to(&Backend::from(&app)).host),
        (Some(3000), Some("a.test".into()))
    );
    assert_eq!(caddy_with(NEW, by_address()).route_to(&Backend::from(&app)).port, Some(3000));
}

#[test]
fn a_route_that_cannot_be_switched_is_refused_with_the_fix() {
    let check = |handler: Value, backends: &[Backend]| {
        caddy_with(NEW, handler)
            .check(backends)
            .map(|risks| risks.iter().map(|l| l.to_string()).collect::<Vec<_>>().join("\n"))
            .unwrap_or_else(|error| error.to_string())
    };
    let proxy_to = |dials: &[&str]| {
        let upstreams: Vec<Value> = dials.iter().map(|d| json!({"dial": d})).collect();
        json!({"handler": "reverse_proxy", "upstreams": upstreams})
    };
    let app = [backend("app", &["app", "p-app-1"], true), backend("app", &["app"], false)];
    assert_eq!(check(by_name(), &app), "");
    assert!(check(proxy_to(&["p-app-1:3000"]), &app).contains("`p-app-1`, a single instance"));
    assert!(check(proxy_to(&["app:{env.PORT}"]), &app).contains("does not name the port of `app`"));
    let pair = [backend("app_a", &["app_a"], false), backend("app_b", &["app_b"], false)];
    assert!(check(proxy_to(&["app_a:80"]), &pair).contains("`reverse_proxy app_a:… app_b:…`"));
    assert_eq!(check(proxy_to(&["app_a:80", "app_b:80"]), &pair), "");
    assert!(check(by_address(), &app).contains("keeps addresses for 1m"));
}

/// Output in a container without the admin API.
const REFUSED: &str = "@folder /dev/shm\n@version 2.11.4\n@error curl: (7) Failed to connect to 127.0.0.1 port 2019 after 0 ms: Could not connect to server\n@file\n{\n\tadmin off\n}\n# not db\n:80 {\n\treverse_proxy app:3000\n}\n";

#[test]
fn without_the_admin_api_the_file_tells_the_routes() {
    let mut caddy = caddy();
    caddy.learn(&output(REFUSED));
    let app = backend("app", &["app"], true);
    assert!(caddy.routes_to(&app) && !caddy.routes_to(&backend("db", &["db"], true)));
    let refusal = caddy.check(&[app]).unwrap_err().to_string();
    assert!(refusal.contains("Failed to connect") && refusal.contains("remove `admin off`"), "{refusal}");
}

#[test]
fn an_image_without_a_shell_is_refused() {
    let mut caddy = Caddy::new(&container(
        r#"{"Args": ["docker-proxy"], "NetworkSettings": {"Networks": {"front": {}}}}"#,
    ));
    let error = "OCI runtime exec failed: exec: \"sh\": executable file not found in $PATH: unknown";
    caddy.learn(&CommandResult { code: Some(126), stdout: error.into(), stderr: String::new() });
    let labels = BTreeMap::from([("caddy.reverse_proxy".to_string(), "{{upstreams 3000}}".to_string())]);
    let app = Backend { labels, ..backend("app", &["app"], true) };
    assert!(caddy.routes_to(&app) && !caddy.routes_to(&backend("db", &["db"], true)));
    let refusal = caddy.check(&[app]).unwrap_err().to_string();
    assert!(refusal.contains("ends in `-alpine`"), "{refusal}");
}

#[test]
fn caddy_docker_proxy_routes_to_addresses_and_is_a_risk() {
    let mut caddy =
        caddy_with(NEW, json!({"handler": "reverse_proxy", "upstreams": [{"dial": "172.21.0.2:3000"}]}));
    caddy.by_labels = true;
    let labels =
        r#"{"Config": {"Labels": {"caddy": "a.test", "caddy.reverse_proxy": "{{upstreams 3000}}"}}}"#;
    assert_eq!(caddy.route_to(&Backend::from(&container(labels))).port, Some(3000));
    let risks = caddy.check(&[backend("app", &["app"], false)]).unwrap();
    assert!(risks[0].hint.contains("lb_try_duration"), "{risks:?}");
    let ids = routed(&caddy, &state("", &caddy.settings.config)).0;
    assert_eq!(ids, ["id-p-app-1"], "an unlisted instance gets no request");
    let nothing = state("", &Value::Null);
    assert!(caddy.holds(&nothing, &rotation(&[], &[new()])) && caddy.read(&nothing, &[new()]).is_ok());
}

#[test]
fn it_is_recognised_by_image_or_process() {
    let detects = |json: &str| detect(&container(json)).is_some();
    let image = |name: &str| detects(&format!(r#"{{"Config": {{"Image": "{name}"}}}}"#));
    assert!(image("caddy:2.11-alpine") && image("docker.io/library/caddy"));
    assert!(image("lucaslorentz/caddy-docker-proxy:2.10-alpine"));
    assert!(!image("caddy-exporter") && !image("nginx"));
    assert!(detects(r#"{"Path": "/usr/bin/caddy", "Args": ["run"], "Config": {"Image": "ours"}}"#));
}

#[test]
fn the_configuration_file_comes_from_the_command() {
    let file =
        |args: &str| Caddy::new(&container(&format!(r#"{{"Args": [{args}]}}"#))).config_file().to_string();
    assert_eq!(file(r#""caddy", "run", "--config", "/a.json""#), "/a.json");
    assert_eq!(file(r#""run", "--config=/b""#), "/b");
    assert_eq!(file(r#""run""#), DEFAULT_CONFIG_FILE);
}

#[test]
fn no_name_address_or_file_is_run_as_a_script() {
    use crate::shell::tests::{HOSTILE, runs_no_injected_command};
    for text in HOSTILE {
        let features =
            CaddyFeatures { folder: format!("here{text}"), reads_files: true, ..CaddyFeatures::default() };
        let names = [text.to_string(), "p-app-1".into()];
        let old = CaddyFeatures { reads_files: false, ..features.clone() };
        for script in [
            scripts::config_script(text),
            scripts::state_script(text, &features),
            scripts::fill_bank(&features.switch_folder(text), "a", &names, &features),
            scripts::fill_bank(&features.switch_folder(text), "b", &names, &old),
            scripts::load_script(text, &features),
            scripts::diagnosis_script(&features),
        ] {
            runs_no_injected_command(&script);
        }
    }
}

#[test]
fn an_endless_refresh_interval_does_not_overflow() {
    let endless = json!({"handler": "reverse_proxy", "dynamic_upstreams":
        {"source": "a", "name": "app", "port": "3000", "refresh": "18446744073709551615s"}});
    let caddy = caddy_with(NEW, endless);
    assert!(caddy.abilities().discovery_timeout > Abilities::default().discovery_timeout);
    assert_eq!(caddy.hand_back(&switched_state(&caddy, ON), &[old()]), Next::Wait);
}

#[test]
fn an_address_that_is_resolved_for_each_request_raises_a_doubt() {
    let app = Backend { names: vec!["app".into()], ..Backend::default() };
    let doubt_in = |config: Value| {
        let mut caddy = caddy();
        caddy.place.container.config.env = vec!["HOST=app".into(), "OTHER=other".into()];
        caddy.settings.config = config;
        caddy.doubt(std::slice::from_ref(&app)).unwrap_or_default()
    };
    let doubt =
        |dial: &str| doubt_in(proxying(json!({"handler": "reverse_proxy", "upstreams": [{"dial": dial}]})));
    for dial in ["{env.HOST}:3000", "{env.NONE}:3000", "{http.request.header.X-To}", "{file./etc/to}:80"] {
        assert!(doubt(dial).contains(dial), "{dial}");
    }
    for dial in ["app:3000", "other:3000", "{env.OTHER}:3000", "other:{env.PORT}"] {
        assert_eq!(doubt(dial), "", "{dial}");
    }
    let dynamic = json!({"handler": "reverse_proxy", "dynamic_upstreams": {"source": "docker"}});
    assert!(doubt_in(proxying(dynamic)).contains("`dynamic docker`"));
    let stream = json!({"apps": {"layer4": {"servers": {"a": {"routes": [{"upstreams": [{"dial": ["app:5432"]}]}]}}}}});
    assert!(doubt_in(stream).contains("its app `layer4` names `app:5432`"));
    let features = CaddyFeatures { folder: "/tmp".into(), reads_files: true, ..CaddyFeatures::default() };
    let switched = with_switches(&proxying(by_name()), &BTreeSet::from(["app".to_string()]), &features);
    assert_eq!(doubt_in(switched), "", "our own switch raises none");
}

#[test]
fn a_file_with_variables_raises_a_doubt_without_the_admin_api() {
    let mut caddy = Caddy::new(&Container::default());
    caddy.learn(&output("@folder /tmp\n@error refused\n@file\n# {$A}\n:80 {\n reverse_proxy {$APP}:80\n}\n"));
    assert!(caddy.doubt(&[]).unwrap().contains("`reverse_proxy {$APP}:80`"));
}

#[test]
fn a_derived_image_is_recognised() {
    let derived = r#"{"Path": "/start.sh", "Config": {"Image": "ours", "Env": ["CADDY_VERSION=v2.11.4"]}}"#;
    assert!(detect(&container(derived)).is_some());
    assert!(detect(&container(r#"{"Path": "sh", "Args": ["-c", "x && exec caddy run"]}"#)).is_some());
}
