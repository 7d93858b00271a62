//! The adapter by equality of its configuration and commands, and by recorded answers.

use serde_json::json;

use super::config::switched;
use super::config::tests::{by_address, by_name, proxying};
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

/// Printed while a deploy drained `p-app-1`, but for the counts of idle slots.
const SWITCHED: &str = "@on app 4\n@switched app 1\n@bank app/a p-app-1\n@bank app/b p-app-2\n";
const ON: &str = "@on app 4\n@bank app/a p-app-1\n";
const COUNTS: &str = r#"[{"address":"{file./dev/shm/compose-zd/app/a/13}:3000","num_requests":2,"fails":0},{"address":"{file./dev/shm/compose-zd/app/b/6}:3000","num_requests":5,"fails":0},{"address":"app:3000","num_requests":1,"fails":0},{"address":"p-app-1:3000","num_requests":2,"fails":0},{"address":"172.21.0.2:3000","num_requests":7,"fails":0}]"#;

fn answer(files: &str, config: &Value) -> CommandResult {
    output(&format!("{files}@upstreams\n{COUNTS}\n\n@config\n{config}\n"))
}

fn with_switch(caddy: &Caddy) -> Value {
    switched(&caddy.known.config, &["app".to_string()].into(), caddy.means())
}

/// With every switch in place.
fn now(caddy: &Caddy, files: &str) -> CommandResult {
    answer(files, &with_switch(caddy))
}

/// The same without a request in flight.
fn idle(caddy: &Caddy) -> CommandResult {
    output(&format!("@upstreams\n[]\n\n@config\n{}\n", with_switch(caddy)))
}

fn routed(caddy: &Caddy, now: &CommandResult) -> (Vec<String>, bool) {
    let created = Endpoint { addresses: vec![], ..endpoint("p-app-3", "") };
    let state = caddy.read(now, &[old(), new(), created]).unwrap();
    (state.routed.into_iter().collect(), state.config_applied)
}

/// As `php_fastcgi app:3000` is adapted.
#[test]
fn an_upstream_by_the_fastcgi_transport_does_not_get_http() {
    let upstream = container(
        r#"{"Name": "/p-app-1", "Config": {"Labels": {"com.docker.compose.project": "p", "com.docker.compose.service": "app"}}}"#,
    );
    let mut handler = by_name();
    assert!(caddy_with(NEW, handler.clone()).speaks_http(&upstream));
    handler["transport"] = json!({"protocol": "fastcgi", "split_path": [".php"]});
    let caddy = caddy_with(NEW, handler);
    assert!(!caddy.speaks_http(&upstream));
    assert!(caddy.speaks_http(&container(r#"{"Name": "/p-other-1"}"#)));
}

#[test]
fn without_a_switch_that_is_on_whatever_runs_gets_requests() {
    let (caddy, both) = (caddy(), vec!["id-p-app-1".to_string(), "id-p-app-2".to_string()]);
    assert_eq!(routed(&caddy, &now(&caddy, "")), (both.clone(), true));
    assert_eq!(routed(&caddy, &answer("", &caddy.known.config)), (both, true));
}

#[test]
fn a_switch_sends_requests_to_the_names_of_the_bank_whose_turn_it_is() {
    let caddy = caddy();
    assert_eq!(routed(&caddy, &now(&caddy, ON)), (vec!["id-p-app-1".into()], true));
    assert_eq!(routed(&caddy, &now(&caddy, SWITCHED)), (vec!["id-p-app-2".into()], true));
}

#[test]
fn somebodys_reload_is_seen() {
    let caddy = caddy();
    let (names, settled) = routed(&caddy, &answer(SWITCHED, &caddy.known.config));
    assert_eq!((names.len(), settled), (2, true), "files without a switch mean nothing");
    let mut two = with_switch(&caddy);
    two["apps"]["http"]["servers"]["srv1"] = json!({"routes": [{"handle": [by_name()]}]});
    assert!(!routed(&caddy, &answer(SWITCHED, &two)).1, "one of two handlers has no switch");
}

#[test]
fn in_flight_is_what_was_begun_by_the_name_and_then_by_the_bank_before_or_the_name_in_its_slots() {
    let in_flight = |caddy: Caddy, other: &str| {
        let now = output(&now(&caddy, SWITCHED).stdout.replace("p-app-1:3000", other));
        let in_flight = caddy.read(&now, &[new(), old()]).unwrap().in_flight;
        assert_eq!(in_flight.len(), 1);
        in_flight["id-p-app-1"]
    };
    assert_eq!(in_flight(caddy(), "p-app-1:3000"), InFlight::Exact(3));
    assert_eq!(in_flight(caddy(), "p-app-9:3000"), InFlight::Exact(1));
    assert_eq!(in_flight(caddy_with(OLD, by_name()), "p-app-9:3000"), InFlight::Exact(3));
    assert_eq!(in_flight(caddy_with(NEW, by_address()), "p-app-1:3000"), InFlight::Exact(9));
}

#[test]
fn an_answer_that_makes_no_sense_is_an_error() {
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

/// All slots with these names in turn.
fn slots(names: &[&str]) -> String {
    names.iter().copied().cycle().take(24).collect::<Vec<_>>().join(" ")
}

#[test]
fn gating_turns_the_switch_on_for_those_that_serve() {
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
    let on = now(&caddy, "@on app 0\n@bank app/a p-app-1 p-app-2\n");
    assert!(caddy.holds(&on, &rotation) && caddy.gate(&on, &rotation).is_none());
}

#[test]
fn what_a_bank_began_in_the_last_deploy_is_not_taken_for_what_the_other_begins_in_this_one() {
    let gate = script(caddy().gate(&now(&caddy(), ""), &rotation(&[old()], &[new()])));
    let turn = "echo p-app-1 > /dev/shm/compose-zd/app/b.set\n: > /dev/shm/compose-zd/app/switched\n";
    assert!(gate.contains(turn), "{gate}");
}

#[test]
fn where_nobody_serves_nobody_gets_requests_until_somebody_is_ready() {
    let (caddy, rotation) = (caddy(), rotation(&[], &[new()]));
    let gate = script(caddy.gate(&idle(&caddy), &rotation));
    assert!(gate.contains("echo - > /dev/shm/compose-zd/app/a.set"), "{gate}");
    let on = now(&caddy, "@on app 0\n@bank app/a -\n");
    assert!(caddy.holds(&on, &rotation));
    assert_eq!(caddy.route(&on, &rotation), None, "never an empty set");
}

#[test]
fn routing_fills_the_idle_bank_and_then_gives_it_its_turn() {
    let caddy = caddy();
    let there = script(caddy.route(&now(&caddy, ON), &rotation(&[new()], &[old()])));
    let fill = |bank: &str| format!("> /dev/shm/compose-zd/app/{bank}.set\n");
    assert!(
        there.contains(&fill("b")) && there.ends_with(": > /dev/shm/compose-zd/app/switched\n"),
        "{there}"
    );
    let back = script(caddy.route(&now(&caddy, SWITCHED), &rotation(&[old()], &[new()])));
    assert!(
        back.contains(&fill("a")) && back.ends_with("rm -f /dev/shm/compose-zd/app/switched\n"),
        "{back}"
    );
    assert_eq!(caddy.route(&now(&caddy, SWITCHED), &rotation(&[new()], &[old()])), None);
}

#[test]
fn a_switch_that_somebody_took_away_is_put_back_until_the_end_of_the_deploy() {
    let caddy = caddy();
    let exec = caddy.route(&answer(ON, &caddy.known.config), &rotation(&[new()], &[old()])).unwrap();
    let lines: Vec<String> = exec.stdin.clone().unwrap().lines().map(String::from).collect();
    assert_eq!(lines, [caddy.known.config.to_string(), with_switch(&caddy).to_string()]);
    let script = script(Some(exec));
    let on = script.find(": > /dev/shm/compose-zd/app/on\n").unwrap();
    let once = script.find(": > /dev/shm/compose-zd/app/once\n").unwrap();
    assert!(on < once && once < script.find("ask /load").unwrap(), "{script}");
}

#[test]
fn more_instances_than_slots_are_refused() {
    let many: Vec<Endpoint> = (0..25).map(|n| endpoint(&format!("p-app-{n}"), "172.21.0.2")).collect();
    let refusal = script(caddy().route(&now(&caddy(), ""), &rotation(&many, &[])));
    assert_eq!(refusal, "echo 'a switch has slots for 24 instances, and there are 25' >&2; exit 1");
}

fn released(caddy: &Caddy, now: &CommandResult) -> String {
    match caddy.hand_back(now, &[new()], &[]) {
        HandBack::Done => "done".into(),
        HandBack::Wait => "wait".into(),
        HandBack::Run(exec) => script(Some(exec)),
    }
}

#[test]
fn releasing_turns_the_switch_off_once_both_banks_are_the_same() {
    let caddy = caddy();
    let off = released(&caddy, &now(&caddy, SWITCHED));
    assert!(off.contains("echo p-app-2 > /dev/shm/compose-zd/app/a.set\n"), "{off}");
    assert!(off.ends_with("rm -f /dev/shm/compose-zd/app/on /dev/shm/compose-zd/app/switched\n"), "{off}");
    assert_eq!(released(&caddy, &now(&caddy, "@bank app/a p-app-2\n")), "done");
}

#[test]
fn a_switch_that_is_not_to_stay_is_taken_out() {
    let caddy = caddy();
    let HandBack::Run(exec) = caddy.hand_back(&now(&caddy, "@once app\n"), &[new()], &[]) else {
        panic!("nothing to run");
    };
    let stdin = exec.stdin.clone().unwrap();
    assert_eq!(stdin.lines().last().unwrap(), caddy.known.config.to_string());
    assert_eq!(released(&caddy, &answer("@once app\n", &caddy.known.config)), "done");
}

#[test]
fn a_lookup_that_is_kept_is_waited_for() {
    let kept = |files: &str| {
        let caddy = caddy_with(NEW, by_address());
        released(&caddy, &now(&caddy, files))
    };
    assert_eq!(kept(&ON.replace("app 4", "app 61")), "wait");
    assert!(kept(&ON.replace("app 4", "app 62")).starts_with("# the switch is off"));
    assert_eq!(caddy_with(NEW, by_address()).discovery_timeout(), Duration::from_secs(90));
}

fn prepared(now: &CommandResult, tune: bool) -> Vec<Patch> {
    let shape = RolloutShape {
        tune,
        starting: 1,
        services: vec![("app".into(), vec!["app".into()])],
        ..RolloutShape::default()
    };
    caddy().prepare(std::slice::from_ref(now), &shape).unwrap()
}

#[test]
fn two_rotations_of_one_handler_are_refused() {
    let both = json!({"handler": "reverse_proxy", "upstreams": [{"dial": "app:3000"}, {"dial": "api:3000"}]});
    let caddy = caddy_with(NEW, both);
    let now = answer("", &caddy.known.config);
    let services = vec![("app".into(), vec!["app".into(), "p-app-1".into()])];
    let shape = |beside: &str| RolloutShape {
        starting: 1,
        services: services.clone(),
        names_in_same_run: vec![beside.into()],
        ..RolloutShape::default()
    };
    let refused = caddy.prepare(std::slice::from_ref(&now), &shape("api")).unwrap_err().to_string();
    assert!(refused.contains("routes to `app` and to `api`"), "{refused}");
    assert!(caddy.prepare(&[now], &shape("db")).is_ok());
}

#[test]
fn the_first_deploy_puts_the_switch_in_and_the_next_finds_it() {
    let missing = answer(ON, &caddy().known.config);
    let first = prepared(&missing, true);
    assert!(
        first[0].required && first[0].note.contains("the next deploy needs no reload"),
        "{}",
        first[0].note
    );
    let script = &first[0].exec.argv[2];
    assert!(
        script.contains("app/on /dev/shm/compose-zd/app/switched /dev/shm/compose-zd/app/once"),
        "{script}"
    );
    assert_eq!(prepared(&now(&caddy(), ON), true), []);
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
fn where_nothing_may_stay_the_switch_goes_with_the_deploy() {
    for now in [answer("", &caddy().known.config), now(&caddy(), "")] {
        let first = prepared(&now, false);
        assert!(first[0].note.contains("`x-zd.proxy.tune: false`"), "{}", first[0].note);
        assert!(first[0].exec.argv[2].contains(": > /dev/shm/compose-zd/app/once"));
    }
}

fn backend(service: &str, names: &[&str], runs: bool) -> Backend {
    let names = names.iter().map(|n| n.to_string()).collect();
    Backend {
        service: service.into(),
        names,
        is_running: runs,
        networks: vec!["front".into()],
        ..Backend::default()
    }
}

#[test]
fn it_fronts_the_names_in_its_configuration_on_a_network_of_its_own() {
    let other = Backend { networks: vec!["back".into()], ..backend("app", &["app"], true) };
    assert!(caddy().routes_to(&backend("web", &["web", "app"], true)));
    assert!(!caddy().routes_to(&backend("db", &["db"], true)) && !caddy().routes_to(&other));
    let app = container(r#"{"Name": "/app"}"#);
    assert_eq!((caddy().port(&app), caddy().host(&app)), (Some(3000), Some("a.test".into())));
    assert_eq!(caddy_with(NEW, by_address()).port(&app), Some(3000));
}

#[test]
fn what_cannot_be_told_is_said_with_the_fix() {
    let check = |handler: Value, backends: &[Backend]| {
        caddy_with(NEW, handler)
            .check(backends)
            .map(|losses| losses.iter().map(|l| l.to_string()).collect::<Vec<_>>().join("\n"))
            .unwrap_or_else(|error| error.to_string())
    };
    let to = |dial: &[&str]| {
        let all: Vec<Value> = dial.iter().map(|d| json!({"dial": d})).collect();
        json!({"handler": "reverse_proxy", "upstreams": all})
    };
    let app = [backend("app", &["app", "p-app-1"], true), backend("app", &["app"], false)];
    assert_eq!(check(by_name(), &app), "");
    assert!(check(to(&["p-app-1:3000"]), &app).contains("`p-app-1`, which is one instance"));
    assert!(check(to(&["app:{env.PORT}"]), &app).contains("does not say at which port `app` is"));
    let pair = [backend("app_a", &["app_a"], false), backend("app_b", &["app_b"], false)];
    assert!(check(to(&["app_a:80"]), &pair).contains("`reverse_proxy app_a:… app_b:…`"));
    assert_eq!(check(to(&["app_a:80", "app_b:80"]), &pair), "");
    assert!(check(by_address(), &app).contains("keeps addresses for 1m"));
}

/// Printed by an image without the admin API.
const REFUSED: &str = "@folder /dev/shm\n@version 2.11.4\n@said curl: (7) Failed to connect to 127.0.0.1 port 2019 after 0 ms: Could not connect to server\n@file\n{\n\tadmin off\n}\n# not db\n:80 {\n\treverse_proxy app:3000\n}\n";

#[test]
fn without_an_answer_its_file_tells_what_it_fronts() {
    let mut caddy = caddy();
    caddy.learn(&output(REFUSED));
    let app = backend("app", &["app"], true);
    assert!(caddy.routes_to(&app) && !caddy.routes_to(&backend("db", &["db"], true)));
    let refusal = caddy.check(&[app]).unwrap_err().to_string();
    assert!(refusal.contains("Failed to connect") && refusal.contains("take `admin off` out"), "{refusal}");
}

#[test]
fn an_image_without_a_shell_is_refused() {
    let mut caddy = Caddy::new(&container(
        r#"{"Args": ["docker-proxy"], "NetworkSettings": {"Networks": {"front": {}}}}"#,
    ));
    let said = "OCI runtime exec failed: exec: \"sh\": executable file not found in $PATH: unknown";
    caddy.learn(&CommandResult { code: Some(126), stdout: said.into(), stderr: String::new() });
    let labels = BTreeMap::from([("caddy.reverse_proxy".to_string(), "{{upstreams 3000}}".to_string())]);
    let app = Backend { labels, ..backend("app", &["app"], true) };
    assert!(caddy.routes_to(&app) && !caddy.routes_to(&backend("db", &["db"], true)));
    let refusal = caddy.check(&[app]).unwrap_err().to_string();
    assert!(refusal.contains("ends in `-alpine`"), "{refusal}");
}

#[test]
fn caddy_docker_proxy_routes_to_addresses_and_is_warned_of() {
    let mut caddy =
        caddy_with(NEW, json!({"handler": "reverse_proxy", "upstreams": [{"dial": "172.21.0.2:3000"}]}));
    caddy.by_labels = true;
    let labels =
        r#"{"Config": {"Labels": {"caddy": "a.test", "caddy.reverse_proxy": "{{upstreams 3000}}"}}}"#;
    assert_eq!(caddy.port(&container(labels)), Some(3000));
    let losses = caddy.check(&[backend("app", &["app"], false)]).unwrap();
    assert!(losses[0].fix.contains("lb_try_duration"), "{losses:?}");
    let all = routed(&caddy, &answer("", &caddy.known.config)).0;
    assert_eq!(all, ["id-p-app-1"], "an instance that it does not list gets nothing");
    let nothing = answer("", &Value::Null);
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
fn its_file_is_the_one_it_was_started_with() {
    let file = |args: &str| Caddy::new(&container(&format!(r#"{{"Args": [{args}]}}"#))).file().to_string();
    assert_eq!(file(r#""caddy", "run", "--config", "/a.json""#), "/a.json");
    assert_eq!(file(r#""run", "--config=/b""#), "/b");
    assert_eq!(file(r#""run""#), FILE);
}

#[test]
fn no_name_address_or_file_is_a_script() {
    use crate::shell::tests::{HOSTILE, runs_no_injected_command};
    for text in HOSTILE {
        let means =
            CaddyFeatures { folder: format!("here{text}"), reads_files: true, ..CaddyFeatures::default() };
        let names = [text.to_string(), "p-app-1".into()];
        let old = CaddyFeatures { reads_files: false, ..means.clone() };
        for script in [
            scripts::introduction(text),
            scripts::question(text, &means),
            scripts::fill(&means.place(text), "a", &names, &means),
            scripts::fill(&means.place(text), "b", &names, &old),
            scripts::load(text, &means),
            scripts::diagnosis(&means),
        ] {
            runs_no_injected_command(&script);
        }
    }
}

#[test]
fn a_lookup_that_is_kept_for_ever_is_borne() {
    let kept = json!({"handler": "reverse_proxy", "dynamic_upstreams":
        {"source": "a", "name": "app", "port": "3000", "refresh": "18446744073709551615s"}});
    let caddy = caddy_with(NEW, kept);
    assert!(caddy.discovery_timeout() > crate::proxy::DISCOVERY_TIMEOUT);
    assert_eq!(caddy.hand_back(&now(&caddy, ON), &[old()], &[]), HandBack::Wait);
}

#[test]
fn an_address_that_is_resolved_only_when_a_request_comes_is_a_doubt() {
    let app = Backend { names: vec!["app".into()], ..Backend::default() };
    let doubt_in = |config: Value| {
        let mut caddy = caddy();
        caddy.container.config.env = vec!["HOST=app".into(), "OTHER=other".into()];
        caddy.known.config = config;
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
    let means = CaddyFeatures { folder: "/tmp".into(), reads_files: true, ..CaddyFeatures::default() };
    let switched = switched(&proxying(by_name()), &BTreeSet::from(["app".to_string()]), &means);
    assert_eq!(doubt_in(switched), "", "our own switch is none");
}

#[test]
fn a_file_with_variables_is_a_doubt_where_nothing_answers() {
    let mut caddy = Caddy::new(&Container::default());
    caddy.learn(&output("@folder /tmp\n@said refused\n@file\n# {$A}\n:80 {\n reverse_proxy {$APP}:80\n}\n"));
    assert!(caddy.doubt(&[]).unwrap().contains("`reverse_proxy {$APP}:80`"));
}

#[test]
fn an_image_that_is_built_on_the_official_one_is_recognised() {
    let built = r#"{"Path": "/start.sh", "Config": {"Image": "ours", "Env": ["CADDY_VERSION=v2.11.4"]}}"#;
    assert!(detect(&container(built)).is_some());
    assert!(detect(&container(r#"{"Path": "sh", "Args": ["-c", "x && exec caddy run"]}"#)).is_some());
}
