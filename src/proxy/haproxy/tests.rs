//! The adapter by equality of its commands, and by recorded answers.

use super::*;

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
    haproxy.learn(&done(configuration));
    haproxy
}

fn endpoint(id: &str, address: &str) -> Endpoint {
    let addresses = vec![address.parse().unwrap()];
    Endpoint { id: id.into(), service: "app".into(), addresses, ..Endpoint::default() }
}

fn done(stdout: &str) -> Done {
    Done { code: Some(0), stdout: stdout.into(), stderr: String::new() }
}

/// Printed by HAProxy 3.2 while a deploy waited for the new instance in `app3`: `app1` serves, `app3` is drained and has
/// passed its check, `app2` and `app4` are free, `app4` drained by us.
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

fn rotation() -> Rotation {
    Rotation { inside: vec![endpoint("new", "172.21.0.5")], outside: vec![endpoint("old", "172.21.0.2")] }
}

#[test]
fn it_reads_who_gets_requests_and_what_is_in_flight() {
    let ends = [endpoint("old", "172.21.0.2"), endpoint("new", "172.21.0.5")];
    let reading = haproxy(CONFIGURATION).read(&done(RECORDED), &ends).unwrap();
    assert_eq!(reading.routed.into_iter().collect::<Vec<_>>(), ["old"]);
    assert_eq!(reading.in_flight["old"], InFlight::Exact(3));
    assert_eq!(reading.in_flight["new"], InFlight::Exact(0));
    assert!(haproxy(CONFIGURATION).read(&done("Permission denied"), &ends).is_err());
}

#[test]
fn gating_drains_the_free_slots_that_are_not_drained_yet() {
    let exec = haproxy(CONFIGURATION).gate(
        &done(RECORDED),
        &Rotation { inside: vec![], outside: vec![endpoint("next", "::1")] },
    );
    assert_eq!(commands(exec), "set server web/app2 state drain");
}

#[test]
fn routing_admits_first_and_drains_only_when_all_inside_take_requests() {
    let haproxy = haproxy(CONFIGURATION);
    let first = haproxy.route(&done(RECORDED), &rotation());
    assert_eq!(commands(first), "set server web/app3 state ready");
    let admitted = RECORDED.replace("app3 172.21.0.5 2 8", "app3 172.21.0.5 2 0");
    let second = haproxy.route(&done(&admitted), &rotation());
    assert_eq!(commands(second), "set server web/app1 state drain");
}

#[test]
fn an_instance_that_haproxy_does_not_reach_is_not_admitted_and_nobody_is_drained() {
    let down = RECORDED.replace("app3 172.21.0.5 2 8 1 1 2 15 3", "app3 172.21.0.5 0 8 1 1 2 8 2");
    assert_eq!(haproxy(CONFIGURATION).route(&done(&down), &rotation()), None);
    let unseen = RECORDED.replace("172.21.0.5", "172.21.0.77");
    assert_eq!(haproxy(CONFIGURATION).route(&done(&unseen), &rotation()), None);
}

#[test]
fn clients_that_are_tied_to_their_server_are_taken_off_it() {
    let sticky = CONFIGURATION.replace("backend web", "backend web\n    cookie SRV insert indirect");
    let admitted = RECORDED.replace("app3 172.21.0.5 2 8", "app3 172.21.0.5 2 0");
    let drain = haproxy(&sticky).route(&done(&admitted), &rotation());
    assert_eq!(commands(drain), "set server web/app1 state maint");
}

#[test]
fn a_flag_goes_once_its_slot_is_free_and_not_before() {
    let ours = [endpoint("old", "172.21.0.2"), endpoint("new", "172.21.0.5")];
    let haproxy = haproxy(CONFIGURATION);
    let Release::Run(exec) = haproxy.release(&done(RECORDED), &ours, &[]) else {
        panic!("nothing to run");
    };
    assert_eq!(commands(Some(exec)), "set server web/app4 state ready");
    let stopping = RECORDED.replace("- 0 40", "- 0 32");
    assert_eq!(haproxy.release(&done(&stopping), &ours, &[]), Release::Wait);
    let clean = stopping.replace("172.21.0.5 2 8", "172.21.0.5 2 0");
    assert_eq!(haproxy.release(&done(&clean), &ours, &[]), Release::Done);
}

#[test]
fn what_its_configuration_lacks_is_said_with_the_fix() {
    let refusal = |configuration: &str, service: &str| {
        let backend = Backend { service: service.into(), ..Backend::default() };
        haproxy(configuration).check(&[backend]).unwrap_err().to_string()
    };
    let without = CONFIGURATION.replace("stats socket", "#");
    assert!(refusal(&without, "app").contains("has no `stats socket`"));
    let operator = CONFIGURATION.replace("level admin", "level operator");
    assert!(refusal(&operator, "app").contains("not `level admin`"));
    assert!(refusal(CONFIGURATION, "legacy").contains("fixed `server` line"));
    let app = Backend { service: "app".into(), ..Backend::default() };
    assert_eq!(haproxy(CONFIGURATION).check(&[app]), Ok(vec![]));
}

#[test]
fn it_needs_a_free_slot_for_each_instance_that_starts() {
    let prepare = |answer: &str, starting| {
        let wish = Wish { tune: true, starting, services: vec!["app".into()] };
        haproxy(CONFIGURATION).prepare(&[done(answer)], &wish).map_err(|e| e.to_string())
    };
    assert_eq!(prepare(RECORDED, 2), Ok(vec![]));
    let full = prepare(RECORDED, 3).unwrap_err();
    assert!(
        full.contains("backend `web` has 2 free slots for `app`, and 3 instances are to start"),
        "{full}"
    );
    assert!(prepare("", 1).unwrap_err().contains("does not answer"));
}

#[test]
fn it_fronts_the_names_of_its_servers_on_a_network_of_its_own() {
    let fronts = |service: &str, network: &str| {
        let networks = vec![network.to_string()];
        haproxy(CONFIGURATION).fronts(&Backend { service: service.into(), networks, ..Backend::default() })
    };
    assert!(fronts("app", "front") && fronts("legacy", "front"));
    assert!(!fronts("app", "back") && !fronts("db", "front"));
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
fn its_files_are_those_it_was_started_with() {
    let haproxy = Haproxy::new(&container(r#"{"Args": ["haproxy", "-f", "/a.cfg", "-W", "-f", "/b"]}"#));
    assert_eq!(haproxy.files(), ["/a.cfg", "/b"]);
    assert_eq!(Haproxy::new(&container("{}")).files(), [CONFIG]);
}

#[test]
fn a_socket_is_a_path_or_a_port() {
    assert_eq!(place("/tmp/a.sock"), (true, "/tmp/a.sock"));
    assert_eq!(place("unix@/tmp/a.sock"), (true, "/tmp/a.sock"));
    assert_eq!(place("ipv4@0.0.0.0:9999"), (false, "9999"));
    assert_eq!(place("*:9999"), (false, "9999"));
}
