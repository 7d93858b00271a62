//! Tests of the adapter: its commands by equality, its parsers by recorded output.

use super::socket::parse_address;
use super::*;
use crate::docker::inspect::{BRIDGE, RELAY};
use crate::proxy::OtherContainers;

fn container(json: &str) -> Container {
    serde_json::from_str(json).unwrap()
}

const CONFIGURATION: &str = "
global
    stats socket ipv4@127.0.0.1:9999 level operator
    stats socket /tmp/haproxy.sock mode 660 level admin   # ours
backend web
    server-template app 4 app:3000 check resolvers docker init-addr none
backend other
    cookie SRV insert
    server one legacy:80 check
";

fn haproxy(configuration: &str) -> Haproxy {
    let mut haproxy = Haproxy::new(&container(
        r#"{"Id": "lb", "Name": "/p-lb-1", "NetworkSettings": {"Networks": {"front": {}}}}"#,
    ));
    haproxy.learn(&output(configuration));
    haproxy
}

fn endpoint(id: &str, address: &str) -> Endpoint {
    let addresses = vec![address.parse().unwrap()];
    let names = vec!["app".into(), format!("p-app-{id}")];
    Endpoint { id: id.into(), service: "app".into(), names, addresses, ..Endpoint::default() }
}

fn backend(service: &str, network: &str) -> Backend {
    let (names, networks) = (vec![service.into()], vec![network.into()]);
    Backend { service: service.into(), names, networks, ..Backend::default() }
}

fn output(stdout: &str) -> CommandResult {
    CommandResult { code: Some(0), stdout: stdout.into(), stderr: String::new() }
}

/// Output of HAProxy 3.2 while a deploy waited for the new instance in `app3`. `app1` serves; `app3` is drained
/// and has passed its check; `app2` and `app4` are free; compose-zd drained `app4`.
const RECORDED: &str = "\
1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port
3 web 1 app1 172.21.0.2 2 0 1 1 12 15 3 4 6 0 0 0 app 3000 - 0 0 - - 0
3 web 2 app2 - 0 32 1 1 12 1 0 0 14 0 0 0 app 3000 - 0 0 - - 0
3 web 3 app3 172.21.0.5 2 8 1 1 2 15 3 4 6 0 0 0 app 3000 - 0 0 - - 0
3 web 4 app4 - 0 40 1 1 12 1 0 0 14 0 0 0 app 3000 - 0 0 - - 0
4 other 1 one 172.21.0.9 2 0 1 1 12 15 3 4 6 0 0 0 legacy 80 - 0 0 - - 0

# pxname,svname,qcur,qmax,scur,smax
web,app1,1,1,2,8
web,app2,0,0,0,0
web,app3,0,0,0,1
web,app4,0,0,0,0
other,one,0,0,7,7
";

fn commands(exec: Option<Exec>) -> String {
    let script = exec.map(|e| e.argv[2].clone()).unwrap_or_default();
    let line = script.lines().find_map(|l| l.strip_prefix("c='")).unwrap_or("");
    line.trim_end_matches('\'').to_string()
}

/// Commands of a gate.
fn gating(next: Next) -> String {
    next.changes().iter().map(|change| commands(change.exec().cloned())).collect::<Vec<_>>().concat()
}

fn rotation() -> Rotation {
    Rotation {
        inside: vec![endpoint("new", "172.21.0.5")],
        outside: vec![endpoint("old", "172.21.0.2")],
        ..Rotation::default()
    }
}

#[test]
fn it_parses_the_rotation_and_the_requests_in_flight() {
    let endpoints = [endpoint("old", "172.21.0.2"), endpoint("new", "172.21.0.5")];
    let state = haproxy(CONFIGURATION).read(&[output(RECORDED)], &endpoints).unwrap();
    assert_eq!(state.routed.into_iter().collect::<Vec<_>>(), ["old"]);
    assert_eq!(state.in_flight["old"], InFlight::Exact(3));
    assert_eq!(state.in_flight["new"], InFlight::Exact(0));
    assert!(haproxy(CONFIGURATION).read(&[output("Permission denied")], &endpoints).is_err());
}

#[test]
fn gating_drains_the_free_slots_that_are_not_drained() {
    let exec = haproxy(CONFIGURATION).gate(
        &output(RECORDED),
        &Rotation { inside: vec![], outside: vec![endpoint("next", "::1")], ..Rotation::default() },
    );
    assert_eq!(gating(exec), "set server web/app2 state drain");
}

#[test]
fn routing_drains_only_after_all_instances_inside_get_requests() {
    let haproxy = haproxy(CONFIGURATION);
    let first = haproxy.route(&output(RECORDED), &rotation());
    assert_eq!(commands(first), "set server web/app3 state ready; set server web/app1 state drain");
    let admitted = RECORDED.replace("app3 172.21.0.5 2 8", "app3 172.21.0.5 2 0");
    let second = haproxy.route(&output(&admitted), &rotation());
    assert_eq!(commands(second), "set server web/app1 state drain");
}

#[test]
fn an_urgent_switch_admits_and_drains_in_one_command() {
    let haproxy = haproxy(CONFIGURATION);
    let urgent = || Rotation { urgent: true, ..rotation() };
    let both = haproxy.route(&output(RECORDED), &urgent());
    assert_eq!(commands(both), "set server web/app3 state ready; set server web/app1 state drain");
    let down = RECORDED.replace("app3 172.21.0.5 2 8 1 1 2 15 3", "app3 172.21.0.5 0 8 1 1 2 8 2");
    assert_eq!(haproxy.route(&output(&down), &urgent()), None, "no instance would serve");
}

#[test]
fn sessions_to_an_exited_instance_are_shut_down_unless_they_are_redispatched() {
    let exited = || Rotation { urgent: true, exited: ["old".to_string()].into(), ..rotation() };
    let switch_with =
        |configuration: &str| commands(haproxy(configuration).route(&output(RECORDED), &exited()));
    let switch = "set server web/app3 state ready; set server web/app1 state drain";
    assert_eq!(switch_with(CONFIGURATION), format!("{switch}; shutdown sessions server web/app1"));
    let backend = "backend web\n    option redispatch 1\n";
    assert_eq!(switch_with(&CONFIGURATION.replace("backend web\n", backend)), switch);
}

/// Output of HAProxy 3.2, with only the columns that are parsed.
#[test]
fn the_diagnosis_lists_failing_checks() {
    let stat = "# pxname,svname,status,check_status,check_code,last_chk,\n\
                web,app1,UP,L7OK,200,,\nweb,app2,MAINT (resolution),,,,\nweb,app3,DOWN,L7STS,404,\"\",\n\
                web,compose-zd-new,DOWN,* L4CON,,Connection refused,\nunknown,one,DOWN,L4CON,,,\n";
    assert_eq!(
        haproxy(CONFIGURATION).diagnosis(&output(stat), &[endpoint("1", "172.21.0.2")]),
        "its own check of `web/app3` fails: status 404\n\
         its own check of `web/compose-zd-new` fails: no connection (Connection refused)"
    );
    let of = |text: &str| haproxy(CONFIGURATION).diagnosis(&output(text), &[endpoint("1", "172.21.0.2")]);
    assert_eq!(of("nothing"), "nothing");
    assert_eq!(of(stat.split_inclusive('\n').next().unwrap()), "", "all checks pass");
}

#[test]
fn an_answer_that_reports_no_failure_is_success() {
    use crate::shell::tests::run;
    let ends = |answer: &str| {
        run(&format!("send() {{ printf '%s\\n' {}; }}\n({STRICT}) 2>&1 && echo good", shell::word(answer)))
    };
    for answer in [
        "",
        "nothing changed",
        "port changed from '3000' to '3001' by 'stats socket command'",
        "no need to change the addr, no need to change the port by 'stats socket command'",
        "IP changed from '10.0.0.1' to '10.0.0.2' by 'stats socket command'",
    ] {
        assert_eq!(ends(answer), "good\n", "{answer}");
    }
    assert_eq!(ends("No such server."), "No such server.\n");
}

#[test]
fn an_unreachable_instance_is_not_admitted_and_none_is_drained() {
    let down = RECORDED.replace("app3 172.21.0.5 2 8 1 1 2 15 3", "app3 172.21.0.5 0 8 1 1 2 8 2");
    assert_eq!(commands(haproxy(CONFIGURATION).route(&output(&down), &rotation())), ADDED);
    let unseen = RECORDED.replace("172.21.0.5", "172.21.0.77");
    let moved = "set server web/app3 state drain; set server web/app3 addr 172.21.0.5 port 3000";
    assert_eq!(commands(haproxy(CONFIGURATION).route(&output(&unseen), &rotation())), moved);
}

#[test]
fn a_server_with_sticky_clients_is_put_into_maintenance() {
    let sticky = CONFIGURATION.replace("backend web", "backend web\n    cookie SRV insert indirect");
    let admitted = RECORDED.replace("app3 172.21.0.5 2 8", "app3 172.21.0.5 2 0");
    let drain = haproxy(&sticky).route(&output(&admitted), &rotation());
    assert_eq!(commands(drain), "set server web/app1 state maint");
}

fn discovery(endpoints: &[Endpoint]) -> Discovery {
    Discovery { endpoints: endpoints.to_vec(), ..Discovery::default() }
}

fn step(haproxy: &Haproxy, state: &str, endpoints: &[Endpoint]) -> Option<String> {
    match haproxy.hand_back(&output(state), &discovery(endpoints)) {
        Next::Wait => Some("wait".into()),
        Next::Done => None,
        next => Some(commands(next.changes()[0].exec().cloned())),
    }
}

#[test]
fn an_instance_that_started_at_a_crashed_ones_address_is_drained() {
    let rotation = Rotation {
        inside: vec![endpoint("old", "172.21.0.5")],
        outside: vec![endpoint("new", "172.21.0.2")],
        ..Rotation::default()
    };
    let gate = haproxy(CONFIGURATION).gate(&output(RECORDED), &rotation);
    assert_eq!(gating(gate), "set server web/app1 state drain; set server web/app2 state drain");
}

#[test]
fn a_preexisting_instance_whose_check_fails_is_not_waited_for() {
    let unhealthy = RECORDED.replace("172.21.0.5 2 8", "172.21.0.5 0 0");
    let preexisting = Rotation { preexisting: ["new".to_string()].into(), ..rotation() };
    let haproxy = haproxy(CONFIGURATION);
    assert_eq!(commands(haproxy.route(&output(&unhealthy), &preexisting)), "set server web/app1 state drain");
    assert_eq!(commands(haproxy.route(&output(&unhealthy), &rotation())), ADDED, "a new one gets a server");
}

/// The endpoints after the old instance has stopped.
fn stopped() -> [Endpoint; 2] {
    [Endpoint { addresses: vec![], ..endpoint("old", "::1") }, endpoint("new", "172.21.0.5")]
}

#[test]
fn a_flag_is_cleared_once_haproxy_knows_that_the_instance_is_gone() {
    let admitted = RECORDED.replace("172.21.0.5 2 8", "172.21.0.5 2 0").replace("- 0 40", "- 0 32");
    let step = |state: &str| step(&haproxy(CONFIGURATION), state, &stopped());
    let up = admitted.replace("172.21.0.2 2 0", "172.21.0.2 2 8");
    let clear = "set server web/app1 health down; set server web/app1 state ready";
    assert_eq!(step(&up).as_deref(), Some(clear), "its check has not noticed yet");
    let down = admitted.replace("172.21.0.2 2 0", "172.21.0.2 0 8");
    assert_eq!(step(&down).as_deref(), Some("set server web/app1 state ready"));
    let unchecked = up.replace("2 8 1 1 12 15 3 4 6", "2 8 1 1 12 1 0 0 0");
    assert_eq!(step(&unchecked).as_deref(), Some("wait"), "only DNS drops the address");
    assert_eq!(step(&admitted.replace("172.21.0.2 2 0", "172.21.0.2 0 0")), None);
}

#[test]
fn a_deploy_leaves_free_slots_for_the_next() {
    let two = format!("{}@version HAProxy 2.4.1\n", CONFIGURATION.replace("app 4 app", "app 2 app"));
    let state =
        RECORDED.replace("app3 172.21.0.5 2 8", "app2 172.21.0.5 2 0").replace("app2 - 0 32", "x - 0 32");
    let crowded = state.replace("172.21.0.2 2 0", "172.21.0.2 0 0");
    assert_eq!(step(&haproxy(&two), &crowded, &stopped()).as_deref(), Some("wait"), "it cannot add servers");
    let free = crowded.replace("172.21.0.2 0 0", "- 0 32");
    assert_eq!(step(&haproxy(&two), &free, &stopped()), None);
}

#[test]
fn the_slot_of_a_just_stopped_instance_is_drained_before_another_gets_its_address() {
    let down = RECORDED.replace("172.21.0.2 2 0", "172.21.0.2 0 0").replace("- 0 32", "- 0 40");
    let future = Endpoint { addresses: vec![], ..endpoint("next", "::1") };
    let rotation = Rotation {
        inside: vec![endpoint("new", "172.21.0.5")],
        outside: vec![future],
        ..Rotation::default()
    };
    let gate = haproxy(CONFIGURATION).gate(&output(&down), &rotation);
    assert_eq!(gating(gate), "set server web/app1 state drain");
}

/// State before the first check of the new instance's slot, with the given row of an added server.
fn with_twin(words: &str) -> String {
    let unknown = RECORDED.replace("app3 172.21.0.5 2 8 1 1 2 15 3", "app3 172.21.0.5 2 8 1 1 2 1 0");
    let row =
        |words: &str| format!("3 web 9 compose-zd-new 172.21.0.5 {words} 1 6 0 0 0 - 3000 - 0 0 - - 0\n");
    let row = if words.is_empty() { String::new() } else { row(words) };
    unknown.replace("4 other 1", &format!("{row}4 other 1"))
}

const ADDED: &str = "add server web/compose-zd-new 172.21.0.5:3000 check downinter 25ms rise 1; \
    enable health web/compose-zd-new; set server web/compose-zd-new state drain";

const RETIRED: &str = "set server web/compose-zd-new state maint; del server web/compose-zd-new";

#[test]
fn an_added_server_replaces_the_wait_for_dns_and_for_haproxys_own_check() {
    let with_version =
        |version: &str| haproxy(&format!("{CONFIGURATION}@version HAProxy version {version}\n"));
    let step =
        |version: &str, state: &str| commands(with_version(version).route(&output(state), &rotation()));
    let without_slot = RECORDED.replace("app3 172.21.0.5 2 8", "app3 - 0 40");
    assert_eq!(step("2.6.12-1+deb12u3", &without_slot), ADDED, "DNS has not filled a slot yet");
    assert_eq!(step("3.2.1", &with_twin("")), ADDED, "the slot was not checked yet");
    assert_eq!(step("2.4.0", &without_slot), "");
    assert_eq!(step("3.2.1", &with_twin("2 8 1 1 0 1 0")), "", "no result yet");
    assert_eq!(step("3.2.1", &with_twin("0 8 1 1 0 8 2")), "", "the check fails");
    let both = "set server web/app3 health up; set server web/app3 state ready; \
                set server web/compose-zd-new state ready; set server web/app1 state drain";
    assert_eq!(step("3.2.1", &with_twin("2 8 1 1 0 15 3")), both);
}

#[test]
fn a_check_in_progress_may_fail_and_take_a_slot_down() {
    let in_progress = with_twin("2 0 1 1 0 15 3").replace("2 8 1 1 2 1 0 4 6", "2 8 1 1 2 7 0 1 7");
    assert_ne!(in_progress, with_twin("2 0 1 1 0 15 3"));
    let with = |options: &str| {
        let configuration = CONFIGURATION.replace("app:3000 check", &format!("app:3000 check {options}"));
        commands(haproxy(&configuration).route(&output(&in_progress), &rotation()))
    };
    let admits =
        "set server web/app3 health up; set server web/app3 state ready; set server web/app1 state drain";
    assert_eq!(with("fall 2"), admits);
    assert_eq!(with("fall 1"), "set server web/app1 state drain", "the added server serves");
}

#[test]
fn a_slot_that_dns_has_filled_replaces_the_added_server() {
    let serving = with_twin("2 0 1 1 0 15 3").replace("- 0 40", "- 0 32");
    let endpoints = [endpoint("old", "172.21.0.2"), endpoint("new", "172.21.0.5")];
    let step = |state: &str| step(&haproxy(CONFIGURATION), state, &endpoints);
    let admit = "set server web/app3 health up; set server web/app3 state ready";
    assert_eq!(step(&serving).as_deref(), Some(admit));
    let admitted = serving.replace("app3 172.21.0.5 2 8 1 1 2 1 0", "app3 172.21.0.5 2 0 1 1 2 15 3");
    assert_eq!(step(&admitted).as_deref(), Some(RETIRED));
    let out = admitted.replace("compose-zd-new 172.21.0.5 2 0", "compose-zd-new 172.21.0.5 2 1");
    assert_eq!(step(&out).as_deref(), Some("del server web/compose-zd-new"));
}

#[test]
fn the_slot_of_a_stopped_instance_gets_the_next_before_dns_fills_another() {
    let serving = with_twin("2 0 1 1 0 15 3").replace("app3 172.21.0.5 2 8", "app3 - 0 40");
    let stale = serving.replace("app1 172.21.0.2 2 0", "app1 172.21.0.2 0 8");
    let step = |state: &str| step(&haproxy(CONFIGURATION), state, &stopped());
    let moved = step(&stale).unwrap();
    assert!(
        moved.starts_with("set server web/app1 state drain; set server web/app1 addr 172.21.0.5 port 3000"),
        "{moved}"
    );
    let full = stale.replace("- 0 40", "172.21.0.9 2 0").replace("- 0 32", "172.21.0.9 2 0");
    let others = others("app", &["172.21.0.2", "172.21.0.9"]);
    let discovery = Discovery { others, ..discovery(&stopped()) };
    let next = haproxy(CONFIGURATION)
        .hand_back(&output(&full.replace("172.21.0.2 0 8", "172.21.0.2 0 0")), &discovery);
    assert_eq!(next, Next::Done, "an instance beyond the slots keeps its added server");
}

const LINES: &str = "
global
    stats socket /tmp/haproxy.sock level admin
backend web
    default-server inter 500ms
    server one app:3000 check cookie one
";

/// State with one fixed line, whose instance serves.
const FIXED: &str = "\
1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port
3 web 1 one 172.21.0.2 2 0 1 1 12 15 3 4 6 0 0 0 app 3000 - 0 0 - - 0
";

/// State with the line and the added server, each as address, operation, flags and check result.
fn with_added(line: &str, added: &str) -> String {
    let row = |name: &str, words: &str| {
        let [address, operation, admin, check] = words.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{words}");
        };
        format!(
            "3 web 2 {name} {address} {operation} {admin} 1 1 2 15 {check} 4 6 0 0 0 - 3000 - 0 0 - - 0\n"
        )
    };
    let head = FIXED.lines().take(2).collect::<Vec<_>>().join("\n");
    let added = if added.is_empty() { String::new() } else { row("compose-zd-new", added) };
    format!("{head}\n{}{added}", row("one", line))
}

#[test]
fn an_added_server_has_the_options_of_its_line() {
    let haproxy = haproxy(LINES);
    let rotation = rotation();
    let step = |state: &str| commands(haproxy.route(&output(state), &rotation));
    assert_eq!(
        step(FIXED),
        "add server web/compose-zd-new 172.21.0.5:3000 inter 500ms check downinter 25ms rise 1; \
         enable health web/compose-zd-new; set server web/compose-zd-new state drain"
    );
    assert_eq!(step(&with_added("172.21.0.2 2 0 3", "172.21.0.5 0 8 0")), "");
    let passed = with_added("172.21.0.2 2 0 3", "172.21.0.5 2 8 3");
    let switch = "set server web/compose-zd-new state ready; set server web/one state drain";
    assert_eq!(step(&passed), switch);
    let admitted = with_added("172.21.0.2 2 0 3", "172.21.0.5 2 0 3");
    assert_eq!(step(&admitted), "set server web/one state drain");
}

#[test]
fn a_fixed_line_that_lost_its_instance_gets_the_next() {
    let haproxy = haproxy(LINES);
    let only_new =
        Rotation { inside: vec![endpoint("new", "172.21.0.5")], outside: vec![], ..Rotation::default() };
    let future = Endpoint { addresses: vec![], ..endpoint("new", "::1") };
    let before = Rotation { inside: vec![], outside: vec![future], ..Rotation::default() };
    let vacant = with_added("172.21.0.9 0 0 2", "");
    assert_eq!(
        gating(haproxy.gate(&output(&vacant), &before)),
        "set server web/one state drain",
        "its address may become that of an instance that starts"
    );
    assert_eq!(
        commands(haproxy.route(&output(&vacant), &only_new)),
        "set server web/one state drain; set server web/one addr 172.21.0.5 port 3000"
    );
}

/// Two services share the name of the line.
#[test]
fn a_fixed_line_with_another_running_container_is_not_vacant() {
    let haproxy = haproxy(LINES);
    let only_new =
        Rotation { inside: vec![endpoint("new", "172.21.0.5")], outside: vec![], ..Rotation::default() };
    let future = Endpoint { addresses: vec![], ..endpoint("new", "::1") };
    let before = Rotation { inside: vec![], outside: vec![future], ..Rotation::default() };
    let occupied = output(&with_added("172.21.0.9 2 0 3", ""));
    let others = others("app", &["172.21.0.9"]);
    let before = Rotation { others: others.clone(), ..before };
    let only_new = Rotation { others: others.clone(), ..only_new };
    assert_eq!(gating(haproxy.gate(&occupied, &before)), "");
    let route = commands(haproxy.route(&occupied, &only_new));
    assert!(route.starts_with("add server web/compose-zd-new 172.21.0.5:3000 "), "{route}");
    let endpoints = [endpoint("new", "172.21.0.5")];
    let added = with_added("172.21.0.9 0 8 2", "172.21.0.5 2 0 3");
    let next = haproxy.hand_back(&output(&added), &Discovery { others, ..discovery(&endpoints) });
    let step = commands(next.changes().first().and_then(|change| change.exec().cloned()));
    assert!(!step.contains("addr"), "{step}");
}

/// Containers of another rollout, which all have this name.
fn others(name: &str, addresses: &[&str]) -> OtherContainers {
    addresses.iter().map(|address| (address.parse().unwrap(), vec![name.into()])).collect()
}

/// A container of another name got the address of the instance that is gone.
#[test]
fn a_fixed_line_is_vacant_although_its_last_address_is_in_use_again() {
    let haproxy = haproxy(LINES);
    let moved = |name: &str, lines: &str| {
        let others = others(name, &["172.21.0.9"]);
        let discovery = Discovery { others, ..discovery(&[endpoint("new", "172.21.0.5")]) };
        let next = haproxy.hand_back(&output(lines), &discovery);
        commands(next.changes().first().and_then(|change| change.exec().cloned())).contains("addr 172.21.0.5")
    };
    let lines = with_added("172.21.0.9 0 8 2", "172.21.0.5 2 0 3");
    assert_eq!((moved("blog", &lines), moved("app", &lines)), (true, false));
}

#[test]
fn a_host_matches_only_instances_of_its_own_service() {
    let names = |service: &str, number: u32| vec![service.to_string(), format!("p-{service}-{number}")];
    assert!(
        stands_for("p-app-1", &names("app", 2)) && stands_for("p_app_1", &["app".into(), "p_app_2".into()])
    );
    assert!(stands_for("api-2", &names("api-2", 1)));
    assert!(!stands_for("api-1", &names("api-2", 1)), "two services");
    assert!(!stands_for("p-api-1-1", &names("api-2", 1)) && !stands_for("p-api-1", &names("api-2", 1)));
    assert!(!stands_for("web-1", &["app".into(), "web-2".into()]), "container names from the file");
}

#[test]
fn a_fixed_line_replaces_the_added_server() {
    let haproxy = haproxy(LINES);
    let endpoints = [Endpoint { addresses: vec![], ..endpoint("old", "::1") }, endpoint("new", "172.21.0.5")];
    let step = |line: &str, added: &str| step(&haproxy, &with_added(line, added), &endpoints);
    let serving = "172.21.0.5 2 0 3";
    assert_eq!(
        step("172.21.0.2 0 8 2", serving).as_deref(),
        Some("set server web/one state drain; set server web/one addr 172.21.0.5 port 3000")
    );
    let early = "set server web/one health up; set server web/one state ready";
    assert_eq!(step("172.21.0.5 0 8 2", serving).as_deref(), Some(early));
    assert_eq!(step("172.21.0.5 2 8 3", serving).as_deref(), Some("set server web/one state ready"));
    assert_eq!(step(serving, serving).as_deref(), Some(RETIRED));
    let out = step(serving, "172.21.0.5 0 1 0");
    assert_eq!(out.as_deref(), Some("del server web/compose-zd-new"));
    assert_eq!(step(serving, ""), None);
}

#[test]
fn a_server_added_for_another_service_of_the_backend_stays() {
    let haproxy = haproxy(LINES);
    let endpoints = [endpoint("own", "172.21.0.2")];
    let state = with_added("172.21.0.2 2 0 3", "172.21.0.5 2 0 3");
    let existing = ["own", "new"].map(String::from);
    assert_eq!(
        haproxy
            .hand_back(&output(&state), &Discovery { existing: existing.to_vec(), ..discovery(&endpoints) }),
        Next::Done
    );
    assert_eq!(step(&haproxy, &state, &endpoints).as_deref(), Some(RETIRED));
}

#[test]
fn a_template_does_not_have_the_servers_of_a_longer_prefix() {
    let two = CONFIGURATION.replace(
        "backend other",
        "    server-template app2 4 api:3000 check resolvers docker init-addr none\nbackend other",
    );
    let state = RECORDED
        .replace("4 other 1", "3 web 5 app21 - 0 32 1 1 12 1 0 0 14 0 0 0 api 3000 - 0 0 - - 0\n4 other 1");
    let future = Rotation { inside: vec![], outside: vec![endpoint("next", "::1")], ..Rotation::default() };
    let exec = haproxy(&two).gate(&output(&state), &future);
    assert_eq!(gating(exec), "set server web/app2 state drain");
}

#[test]
fn a_flag_on_a_vacant_line_is_cleared_once_haproxy_sees_it_down() {
    let stopped = [Endpoint { addresses: vec![], ..endpoint("old", "::1") }];
    let step = |line: &str| step(&haproxy(LINES), &with_added(line, ""), &stopped);
    assert_eq!(step("172.21.0.2 2 8 3").as_deref(), Some("wait"));
    assert_eq!(step("172.21.0.2 0 8 2").as_deref(), Some("set server web/one state ready"));
    assert_eq!(step("172.21.0.2 0 0 2"), None);
}

#[test]
fn an_unfit_configuration_is_refused_with_the_fix() {
    let refusal = |configuration: &str, service: &str| {
        let backend = backend(service, "front");
        haproxy(configuration).check(&[backend]).unwrap_err().to_string()
    };
    let without = CONFIGURATION.replace("stats socket", "#");
    assert!(refusal(&without, "app").contains("has no `stats socket`"));
    let operator = CONFIGURATION.replace("level admin", "level operator");
    assert!(refusal(&operator, "app").contains("not `level admin`"));
    assert_eq!(haproxy(CONFIGURATION).check(&[backend("app", "front")]), Ok(vec![]));
}

#[test]
fn it_needs_a_free_slot_for_each_instance_that_starts() {
    let prepare = |state: &str, starting| {
        let shape = RolloutShape {
            tune: true,
            starting,
            services: vec![("app".into(), vec!["app".into()])],
            ..RolloutShape::default()
        };
        let old = haproxy(&format!("{CONFIGURATION}@version HAProxy version 2.4.0\n"));
        assert_eq!(haproxy(CONFIGURATION).check_room(&output(RECORDED), &shape), Ok(()), "it adds servers");
        old.check_room(&output(state), &shape).map_err(|e| e.to_string())
    };
    assert_eq!(prepare(RECORDED, 2), Ok(()));
    let full = prepare(RECORDED, 3).unwrap_err();
    assert!(
        full.contains("backend `web` has 2 free slots for `app`, and 3 instances are to start"),
        "{full}"
    );
    assert!(prepare("", 1).unwrap_err().contains("does not answer"));
}

#[test]
fn a_line_that_names_one_container_is_refused() {
    let check = |host: &str| {
        let names = ["app", "p-app-1", "p-app-2", "web-1"].map(String::from).to_vec();
        let shape = RolloutShape {
            starting: 1,
            project: "p".into(),
            services: vec![("app".into(), names)],
            ..RolloutShape::default()
        };
        let line = format!("backend b\n server one {host}:3000 check\n");
        added_servers::check_lines(&haproxy(&line), &shape).map_err(|error| error.message)
    };
    for host in ["p-app-1", "p-app-12"] {
        assert!(check(host).unwrap_err().contains(&format!("backend `b` names `{host}`")), "{host}");
    }
    for host in ["app", "web-1"] {
        assert_eq!(check(host), Ok(()), "{host}");
    }
}

#[test]
fn a_fixed_line_needs_a_haproxy_that_adds_servers() {
    let check = |settings: &str, version: &str, starting| {
        let shape = RolloutShape {
            starting,
            services: vec![("app".into(), vec!["app".into()])],
            ..RolloutShape::default()
        };
        let text = format!("{settings}\n server one app:3000\n@version HAProxy version {version}\n");
        let haproxy = haproxy(&text);
        haproxy.check_lines(&shape).map(|()| haproxy.losses(&[], &shape)).map_err(|error| error.rule.copied())
    };
    assert_eq!(check("backend b", "2.4.1", 1), Err(Some("haproxy-too-old")));
    let batches = |serving| {
        let services = vec![("app".into(), vec!["app".into()])];
        let shape = RolloutShape { starting: 1, serving, services, ..RolloutShape::default() };
        let text = "backend b\n balance source\n server one app:3000\n server two other:80\n";
        haproxy(text).check_lines(&shape).map_err(|error| error.rule.copied())
    };
    assert_eq!((batches(1), batches(2)), (Ok(()), Err(Some("haproxy-balance"))));
    for balance in ["static-rr", "source", "uri whole", "hdr(Host)"] {
        let settings = format!("backend b\n balance {balance}");
        assert_eq!(check(&settings, "3.2.1", 1), Ok(Vec::new()), "{balance}: a line for each instance");
        assert_eq!(check(&settings, "3.2.1", 2), Err(Some("haproxy-balance")), "{balance}");
    }
    for good in ["balance leastconn", "balance source\n hash-type consistent", "balance first"] {
        assert_eq!(check(&format!("backend b\n {good}"), "2.6.12", 1), Ok(Vec::new()), "{good}");
    }
    let inherited = "defaults\n balance source\nbackend b";
    assert_eq!(check(inherited, "3.2.1", 2), Err(Some("haproxy-balance")));
    let beyond = check("backend b", "3.2.1", 3).unwrap();
    assert!(
        beyond[0].to_string().contains("has 1 servers in its configuration for 3 instances"),
        "{beyond:?}"
    );
}

#[test]
fn a_server_beside_which_none_can_be_added_changes_its_address() {
    let haproxy = haproxy("backend web\n balance source\n server app1 app:3000\n server app2 app:3000\n");
    let (old, new) = (endpoint("1", "172.21.0.2"), endpoint("2", "172.21.0.5"));
    let state = |addresses: [&str; 2]| {
        let row = |(n, address): (usize, &str)| {
            format!("3 web {n} app{n} {address} 2 0 1 1 12 1 0 0 14 0 0 0 app 3000 - 0 0 - - 0\n")
        };
        let header = RECORDED.lines().take(2).map(|line| format!("{line}\n")).collect::<String>();
        output(
            &(header
                + &row((1, addresses[0]))
                + &row((2, addresses[1]))
                + "\n# pxname,svname,qcur,qmax,scur\nweb,app1,0,0,3\n"),
        )
    };
    let over = |urgent| {
        let (inside, outside) = (vec![new.clone()], vec![old.clone()]);
        Rotation { inside, outside, urgent, ..Rotation::default() }
    };
    for urgent in [false, true] {
        let exec = haproxy.route(&state(["172.21.0.2", "172.21.0.9"]), &over(urgent));
        assert_eq!(commands(exec), "set server web/app1 addr 172.21.0.5 port 3000");
    }
    assert_eq!(haproxy.route(&state(["172.21.0.5", "172.21.0.9"]), &over(false)), None);
    let answers = [state(["172.21.0.5", "172.21.0.9"]), output("")];
    let read = haproxy.read(&answers, &[old.clone(), new.clone()]).unwrap();
    assert_eq!(read.routed, [new.id].into());
    let is_of_kernel = |count: &InFlight| matches!(count, InFlight::Connections { exact: 0, .. });
    assert!(is_of_kernel(&read.in_flight[&old.id]), "the server counts the requests to both");
}

#[test]
fn a_second_line_with_an_address_is_given_to_an_instance_that_has_none() {
    let lines = "server a app:3000\n server b app:3000\n server c app:3000\n";
    let haproxy = haproxy(&format!("backend web\n balance static-rr\n {lines}"));
    let instance = |last: u8| endpoint(&last.to_string(), &format!("172.21.0.{last}"));
    let state = |addresses: [u8; 3]| {
        let row = |(name, last): (&str, u8)| {
            format!("3 web 1 {name} 172.21.0.{last} 2 0 1 1 12 1 0 0 14 0 0 0 app 3000 - 0 0 - - 0\n")
        };
        let header = RECORDED.lines().take(2).map(|line| format!("{line}\n")).collect::<String>();
        let rows: String = ["a", "b", "c"].into_iter().zip(addresses).map(row).collect();
        output(&format!("{header}{rows}\n# pxname,svname,qcur,qmax,scur\nweb,a,0,0,3\n"))
    };
    let switch = |addresses, inside: &[u8], outside: &[u8]| {
        let all = |of: &[u8]| of.iter().map(|last| instance(*last)).collect::<Vec<_>>();
        let preexisting = ["2", "3", "4"].map(String::from).into();
        let rotation =
            Rotation { inside: all(inside), outside: all(outside), preexisting, ..Rotation::default() };
        haproxy.route(&state(addresses), &rotation).map(|exec| commands(Some(exec)))
    };
    let to = |name: &str, last: u8| format!("set server web/{name} addr 172.21.0.{last} port 3000");
    // 4 is on no line, and 2 on two.
    assert_eq!(switch([2, 3, 2], &[2, 4, 5], &[3]), Some(format!("{}; {}", to("b", 5), to("c", 4))));
    assert_eq!(switch([2, 5, 4], &[2, 4, 5], &[3]), None);
    // A new instance comes first, and nothing waits for an old one without a line.
    assert_eq!(switch([3, 2, 6], &[2, 4, 6, 5], &[3]), Some(to("a", 5)));
    assert_eq!(switch([5, 2, 6], &[2, 4, 6, 5], &[3]), None);
}

#[test]
fn it_routes_to_the_hosts_of_its_servers_on_a_shared_network() {
    let routes = |service: &str, network: &str| haproxy(CONFIGURATION).routes_to(&backend(service, network));
    assert!(routes("app", "front") && routes("legacy", "front"));
    assert!(!routes("app", "back") && !routes("db", "front"));
}

#[test]
fn it_is_recognised_by_image_or_process() {
    let detects = |json: &str| detect(&container(json)).is_some();
    let image = |name: &str| detects(&format!(r#"{{"Config": {{"Image": "{name}"}}}}"#));
    assert!(
        image("haproxy:3.2-alpine")
            && image("docker.io/library/haproxy")
            && image("haproxytech/haproxy-debian:3.0")
    );
    assert!(!image("dockercloud/haproxy:1.6.7") && !image("nginx") && !image("haproxy-exporter"));
    assert!(detects(
        r#"{"Path": "docker-entrypoint.sh", "Args": ["haproxy", "-f", "/x.cfg"], "Config": {"Image": "ours"}}"#
    ));
}

#[test]
fn the_configuration_files_come_from_the_command() {
    let haproxy = Haproxy::new(&container(r#"{"Args": ["haproxy", "-f", "/a.cfg", "-W", "-f", "/b"]}"#));
    assert_eq!(haproxy.files(), ["/a.cfg", "/b"]);
    assert_eq!(Haproxy::new(&container("{}")).files(), [CONFIG]);
}

#[test]
fn a_socket_is_a_path_or_a_port() {
    assert_eq!(parse_address("/tmp/a.sock"), (true, "/tmp/a.sock"));
    assert_eq!(parse_address("unix@/tmp/a.sock"), (true, "/tmp/a.sock"));
    assert_eq!(parse_address("ipv4@0.0.0.0:9999"), (false, "9999"));
    assert_eq!(parse_address("*:9999"), (false, "9999"));
}

#[test]
fn no_socket_and_no_server_option_is_run_as_a_script() {
    use crate::shell::tests::{HOSTILE, run, runs_no_injected_command};
    for text in HOSTILE {
        for socket in [format!("/{text}"), format!("ipv4@127.0.0.1:{text}")] {
            runs_no_injected_command(&socket::script(
                &socket,
                &format!("add server b/s 10.0.0.1:80 sni {text}"),
            ));
        }
        let commands = format!("add server b/s 10.0.0.1:80 sni {text}");
        let fake = "socat() { cat; printf '<%s>' \"$6\"; }\n";
        let printed = run(&format!("{fake}{}", socket::script("/run/h.sock", &commands)));
        assert_eq!(printed, format!("{commands}\n<UNIX-CONNECT:/run/h.sock>"));
    }
    let fake = "socat() { cat; }\n";
    let printed = run(&format!("{fake}{}", socket::script("/run/h.sock", "a \\n b\\tc -n")));
    assert_eq!(printed, "a \\n b\\tc -n\n", "the shell does not interpret escapes");
}

#[test]
fn only_servers_of_a_backend_count() {
    let config = config::HaproxyConfig::parse(
        "backend web\n server one app:80 check\nring logs\n server far app:514\npeers p\n server near app:1024\n",
    );
    assert_eq!(config.static_servers().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["one"]);
}

#[test]
fn a_backend_inherits_only_its_own_defaults() {
    let config = config::HaproxyConfig::parse(
        "defaults old\n default-server check\n cookie S insert\ndefaults\n default-server inter 1s\n\
         backend web\n server one app:80\nbackend tied from old\n server two app:80\n",
    );
    assert_eq!(config.lines[0].options, ["inter", "1s"]);
    assert_eq!(config.lines[1].options, ["check"]);
    assert!(config.is_sticky("tied") && !config.is_sticky("web"));
    let config = config::HaproxyConfig::parse(
        "defaults\n option redispatch\nbackend again\n server one app:80\n\
         backend once\n no option redispatch\n server two app:80\n",
    );
    assert!(config.redispatches("again") && !config.redispatches("once"));
}

#[test]
fn a_quoted_text_is_one_word_and_not_a_comment() {
    let config = config::HaproxyConfig::parse(
        "backend web\n server 'one' \"app:80\" check-sni \"a b\" cookie a\\#b # server two app:81\n",
    );
    let line = &config.lines[0];
    assert_eq!((line.name.as_str(), line.host.as_str(), line.port), ("one", "app", Some(80)));
    assert_eq!(line.options, ["check-sni", "\"a b\"", "cookie", "a\\#b"]);
}

#[test]
fn an_address_is_a_host_with_an_optional_port() {
    let config = |address: &str| config::HaproxyConfig::parse(&format!("backend b\n server s {address}\n"));
    let parsed = |address: &str| config(address).lines.pop().map(|f| (f.host, f.port)).unwrap();
    assert_eq!(parsed("ipv4@app:80"), ("app".into(), Some(80)));
    assert_eq!(parsed("[fd00::5]:80"), ("[fd00::5]".into(), Some(80)));
    assert_eq!(parsed("[fd00::5]"), ("[fd00::5]".into(), None));
    assert_eq!(parsed("app:+10"), ("app".into(), None));
}

#[test]
fn a_host_matches_by_variables_and_network_and_in_any_case() {
    let routes = |configuration: &str| {
        let mut haproxy = haproxy("");
        haproxy.place.container.config.env = vec!["HOST=app".into()];
        haproxy.learn(&output(configuration));
        haproxy.routes_to(&Backend::from(&instance()))
    };
    let server = |host: &str| format!("backend web\n server one {host}:3000\n");
    for host in ["app", "APP", "app.", "app.front", "p-app-1.front", "\"${HOST}\"", "\"${NONE-app}\""] {
        assert!(routes(&server(host)), "{host}");
    }
    assert!(routes(&format!("global\n setenv NAME app\n{}", server("\"$NAME\""))));
    assert!(routes(&format!("@variable NAME=app\n@variable X=y z\n{}", server("\"$NAME\""))));
    for host in ["app.other", "other", "${HOST}", "\"${OTHER}\""] {
        assert!(!routes(&server(host)), "{host}");
    }
}

fn instance() -> Container {
    container(
        r#"{"Name": "/p-app-1", "Config": {"Labels": {"com.docker.compose.project": "p", "com.docker.compose.service": "app"}},
            "NetworkSettings": {"Networks": {"front": {"DNSNames": ["p-app-1", "app"]}}}}"#,
    )
}

#[test]
fn a_server_that_may_be_an_instance_raises_a_doubt() {
    let doubt =
        |configuration: &str| haproxy(configuration).doubt(&[Backend::from(&instance())]).unwrap_or_default();
    let under =
        |condition: &str, host: &str| format!("backend web\n{condition}\n server one {host}:80\n.endif\n");
    assert!(doubt("").contains("cannot be read") && doubt("@version HAProxy 3\n").contains("cannot be read"));
    assert!(doubt("backend web\n server one \"${APP}:80\"\n").contains("server `${APP}`"));
    assert!(doubt(&under(".if defined(X)", "app")).contains("server `app` under a condition"));
    assert_eq!(doubt(&under(".if defined(X)", "other")), "");
    assert_eq!(doubt(&format!("{} server two app:80\n", under(".if 1", "other"))), "");
    assert_eq!(doubt(CONFIGURATION), "");
}

#[test]
fn a_haproxy_started_by_a_script_or_from_a_derived_image_is_recognised() {
    let detects = |json: &str| detect(&container(json));
    let script = r#"{"Path": "sh", "Args": ["-c", "envsubst <a >/b.cfg; exec haproxy -W -f /b.cfg"]}"#;
    assert_eq!(detects(script).unwrap().files(), ["/b.cfg"]);
    assert!(
        detects(r#"{"Path": "/start", "Config": {"Image": "ours", "Env": ["HAPROXY_VERSION=3.2.1"]}}"#)
            .is_some()
    );
    assert!(detects(r#"{"Path": "sh", "Args": ["-c", "while true; do curl haproxy; done"]}"#).is_none());
}

#[test]
fn an_option_that_the_runtime_api_would_misread_is_refused() {
    let refused = |option: &str| {
        let haproxy = haproxy(&format!(
            "global\n stats socket /s level admin\nbackend web\n server one app:80 {option}\n"
        ));
        let names = vec!["app".to_string()];
        let shape =
            RolloutShape { starting: 1, services: vec![("app".into(), names)], ..RolloutShape::default() };
        haproxy.check_lines(&shape).err().and_then(|error| error.rule.copied())
    };
    assert_eq!(refused("check inter 1s"), None);
    assert_eq!(refused("check cookie \"a;b\""), None, "added servers do not get this option");
    for option in ["sni 'str(a;disable server web/one)'", "check-sni a;b", "check-sni \"${UNKNOWN}\""] {
        assert_eq!(refused(option), Some("haproxy-option"), "{option}");
    }
}

#[test]
fn a_sticky_backend_whose_sessions_maintenance_cuts_is_refused() {
    let cut = |backend: &str| {
        let text = format!("global\n stats socket /s level admin\nbackend web\n{backend}\n");
        haproxy(&text).check(&[Backend::from(&instance())]).err().and_then(|error| error.rule.copied())
    };
    let server = " server one app:80 check on-marked-down shutdown-sessions";
    assert_eq!(cut(&format!(" cookie S insert\n{server}")), Some("haproxy-marked-down"));
    let by_default = " cookie S insert\n default-server on-marked-down shutdown-sessions\n server one app:80";
    assert_eq!(cut(by_default), Some("haproxy-marked-down"));
    assert_eq!(cut(server), None, "a drained server is not marked down");
    assert_eq!(cut(&format!(" cookie S insert\n{}", server.replace("app", "other"))), None);
    assert_eq!(cut(" cookie S insert\n server one app:80 on-marked-down none"), None);
    let options: Vec<String> =
        "check on-marked-down shutdown-sessions inter 1s".split(' ').map(String::from).collect();
    assert_eq!(
        added_servers::addable_options(&options),
        ["check", "inter", "1s"],
        "an added server leaves by maintenance"
    );
}

#[test]
fn a_relay_has_an_added_server_without_a_check() {
    let relay = |id: &str| {
        let labels = [(BRIDGE.to_string(), RELAY.to_string())].into();
        Endpoint { labels, ..endpoint(id, "172.21.0.5") }
    };
    let held = Rotation { inside: vec![relay("new")], ..rotation() };
    let step =
        |configuration: &str, state: &str| commands(haproxy(configuration).route(&output(state), &held));
    let add = "add server web/compose-zd-new 172.21.0.5:3000 inter 500ms; set server web/compose-zd-new state drain";
    assert_eq!(step(LINES, FIXED), add);
    assert_eq!(step(LINES, &with_added("172.21.0.9 0 0 2", "")), add, "a vacant line would check the relay");
    let added = with_added("172.21.0.2 2 0 3", "172.21.0.5 2 8 0").replace("15 0 4 6", "1 0 0 0");
    let switch = "set server web/compose-zd-new state ready; set server web/one state drain";
    assert_eq!(step(LINES, &added), switch);
    let slot = step(CONFIGURATION, RECORDED);
    assert!(slot.contains("add server web/compose-zd-new") && !slot.contains("web/app3"), "{slot}");
}

#[test]
fn requests_can_wait_where_haproxy_adds_servers_without_tls() {
    let can_hold = |line: &str, version: &str| {
        let configuration = format!("backend web\n    {line}\n@version HAProxy version {version}\n");
        haproxy(&configuration).abilities().can_hold
    };
    assert!(can_hold("server one app:3000 check", "3.2.1"));
    assert!(!can_hold("server one app:3000 check", "2.4.0"));
    assert!(!can_hold("server one app:3000 ssl verify none", "3.2.1"), "TLS begins before the hold is over");
}

#[test]
fn the_time_for_an_answer_is_that_of_the_backend_or_its_defaults() {
    let limit = |backend: &str| {
        let configuration = format!(
            "defaults\n    timeout server 60s\nbackend web\n    {backend}\n    server one app:3000\n"
        );
        haproxy(&configuration).route_to(&self::backend("app", "front")).answer_timeout
    };
    assert_eq!(limit(""), Some(Duration::from_secs(60)));
    assert_eq!(limit("timeout server 5000"), Some(Duration::from_secs(5)));
}
