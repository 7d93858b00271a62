//! HAProxy: the requirements on its configuration, static `server` lines, and `docker compose up` after a killed deploy.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use crate::promises::{haproxy_flags, haproxy_plain};
use crate::test_project::{TestProject, WAIT_LIMIT, free_port, wait_until};

#[test]
fn a_lacking_haproxy_configuration_is_reported_before_any_change() {
    let project = TestProject::haproxy("halacks");
    let good = project.read("haproxy.cfg");
    project.up("");
    let refuses = |output: &str, fix: &str| {
        let before = project.containers();
        project.set_variables("VERSION=2");
        project.deploy("app").exits(1).says(output).says(fix);
        assert_eq!(project.containers(), before);
        project.set_variables("VERSION=1");
    };
    let template = "server-template app 8 app:3000 check inter 500ms resolvers docker init-addr none";
    for (from, to, output) in [
        ("stats socket", "# stats socket", "has no `stats socket`"),
        ("level admin", "level operator", "is not `level admin`"),
    ] {
        let configuration = good.replace(template, "server one app:3000").replace(from, to);
        project.write("haproxy.cfg", &configuration);
        project.compose("restart -t 0 proxy");
        project.wait_until_all_answer();
        refuses(output, "hint: ");
    }

    project.log("--- the second proxy is down");
    project.compose("stop -t 0 proxy");
    let start = format!("docker start {}-proxy-1", project.name);
    refuses("is stopped, so no request reaches `app`", &start);
}

/// A hash by a fixed map lets HAProxy add no server, so the line of the instance gets the address of the next one.
#[test]
fn a_server_beside_which_none_can_be_added_is_switched() {
    let project = haproxy_plain("habalance");
    let line = "server app1 app:3000";
    project.write(
        "haproxy.cfg",
        &project.read("haproxy.cfg").replace(line, &format!("balance uri\n    {line} check")),
    );
    project.up("");
    let load = project.start_load("--keep-alive");
    project.set_variables("VERSION=2 STOP=abrupt WARMUP=1");
    project.deploy("app").exits(0);
    project.set_variables("VERSION=3 STATUS=500");
    project.deploy("app --health-deadline 3s").exits(3);
    project.rollback("app").exits(0);
    load.stop().all_from(&["1", "2"]);
    project.expect_release("app", 1, "1");
    assert_eq!(haproxy_flags(&project), "");

    project.log("--- one line, and two instances");
    project.set_variables("STATUS=200");
    project.deploy("app --scale app=2").exits(1).says("2 instances need more than its 1 `server` lines");
}

/// Head of the answer at a port of this machine.
fn answers(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut head = [0; 32];
    stream.read_exact(&mut head).ok()?;
    Some(String::from_utf8_lossy(&head).into())
}

/// Two proxies, as during a move from one to the other.
#[test]
fn two_proxies_in_front_of_a_service_are_both_switched() {
    let project = TestProject::haproxy("hatwo");
    let port = free_port();
    let image = project.variable("HAPROXY_OLD_IMAGE");
    project.write_override(&format!(
        "services: {{ second: {{ image: '{image}', ports: ['127.0.0.1:{port}:80'], \
         volumes: ['./haproxy.cfg:/usr/local/etc/haproxy/haproxy.cfg:ro'] }} }}"
    ));
    project.up("");
    wait_until("the second proxy answers too", WAIT_LIMIT, || {
        answers(port).is_some_and(|head| head.contains(" 200 "))
    });
    let first = project.start_load("");
    let second = project.start_load_at(port, "");
    project.set_variables("VERSION=2");
    let name = &project.name;
    project
        .deploy("app")
        .exits(0)
        .says(&format!("haproxy `{name}-proxy-1`"))
        .says(&format!("haproxy `{name}-second-1`"));
    first.stop().all_from(&["1", "2"]);
    second.stop().all_from(&["1", "2"]);
    assert_eq!(haproxy_flags(&project), "");
}

/// Blue and green, each with its own static `server` line.
#[test]
fn the_sides_of_a_pair_switch_behind_static_servers() {
    let project = TestProject::haproxy("hapair");
    let configuration = project.read("haproxy.cfg");
    let (head, _) = configuration.split_once("    server-template").expect("a template");
    let lines = ["app_a", "app_b"]
        .map(|s| format!("    server {s} {s}:3000 check inter 200ms init-addr libc,127.0.0.9\n"));
    project.write("haproxy.cfg", &format!("{head}{}", lines.concat()));
    let app = project.read("compose.yaml");
    let sides = app
        .replace("  app:\n", "  app_a: &app\n")
        .replace("\n  proxy:\n", "\n  app_b: *app\n\n  proxy:\n    depends_on: [app_a]\n");
    project.write("compose.yaml", &sides);
    project.compose("up -d app_a proxy");
    wait_until("HAProxy has seen that the other side is down", WAIT_LIMIT, || {
        (0..8).all(|_| project.get("/health").is_some_and(|reply| reply.status == 200))
    });
    let load = project.start_load("");
    for (version, side) in [("2", "app_b"), ("3", "app_a")] {
        project.set_variables(&format!("VERSION={version}"));
        project.deploy("app").exits(0).says("in service");
        assert_eq!(project.states(side), [format!("running {version}")]);
    }
    load.stop().all_from(&["1", "2", "3"]);
    assert_eq!(haproxy_flags(&project), "", "servers with flags left");
}

/// A reload by certbot or `kill -USR2` leaves a retired worker, whose requests the new worker does not count.
#[test]
fn a_request_in_a_retired_worker_is_awaited() {
    let project = TestProject::haproxy("hareload");
    project.write_override("services: {app: {x-zd: {drain: {timeout: 3s}}}}");
    project.up("");
    let _stream = project.open_request("/stream?seconds=100");
    let proxy = format!("{}-proxy-1", project.name);
    project.docker(&format!("kill -s USR2 {proxy}"));
    let workers = || project.docker(&format!("top {proxy} -o pid,comm")).matches("haproxy").count();
    wait_until("the new worker is there", WAIT_LIMIT, || workers() == 3);
    project.wait_until_all_answer();
    project.set_variables("VERSION=2");
    project
        .deploy("app")
        .exits(0)
        .says("app-1 still had 1 request in flight")
        .never_says("no request in flight: app-1");
    project.expect_release("app", 1, "2");
}

/// The killed run leaves drained slots and added servers; Compose then gives the instances other addresses.
#[test]
fn compose_up_after_a_killed_deploy_answers_behind_a_template() {
    let project = TestProject::haproxy("haupslots");
    for (kill_at, version) in [("started app-", "1"), ("in rotation: ", "2")] {
        project.log(&format!("--- killed at {kill_at:?}, then `docker compose up` of version {version}"));
        project.set_variables("VERSION=1");
        project.up("");
        project.wait_until_all_answer();
        project.set_variables("VERSION=2");
        let mut deploy = project.start_deploy("app");
        deploy.wait_for(kill_at);
        deploy.kill();
        project.set_variables(&format!("VERSION={version}"));
        project.compose("up -d --scale app=1");
        let answers = || {
            let reply = project.get_within(Duration::from_secs(1), &project.host(), "/");
            reply.is_some_and(|reply| reply.status == 200)
        };
        wait_until("the site answers after `docker compose up`", WAIT_LIMIT, || (0..10).all(|_| answers()));
        project.start("recover").wait();
        assert_eq!(haproxy_flags(&project), "", "left in HAProxy");
        project.compose("down -t 0");
    }
}

#[test]
fn more_instances_than_server_lines_all_get_requests() {
    let project = haproxy_plain("hamany");
    project.compose("up -d --scale app=3");
    wait_until("the line answers", WAIT_LIMIT, || project.get("/").is_some_and(|reply| reply.status == 200));
    let load = project.start_load("");
    for version in ["2", "3"] {
        project.set_variables(&format!("VERSION={version}"));
        project.deploy("app").exits(0).says("1 servers in its configuration for 3 instances");
        project.expect_release("app", 3, version);
        let instances: BTreeSet<String> =
            (0..30).filter_map(|_| project.get("/")).map(|reply| reply.instance).collect();
        assert_eq!(instances.len(), 3, "{instances:?}");
    }
    load.stop().all_from(&["1", "2", "3"]);
}
