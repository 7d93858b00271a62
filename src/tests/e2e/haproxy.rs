//! What is special about HAProxy: what its configuration needs, and its fixed `server` lines.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use crate::promises::haproxy_flags;
use crate::test_project::{WAIT_LIMIT, TestProject, free_port, wait_until};

/// What does not do is said before anything is touched.
#[test]
fn a_lacking_haproxy_configuration_is_reported_before_any_change() {
    let stage = TestProject::haproxy("halacks");
    let good = stage.read("haproxy.cfg");
    stage.up("--scale app=2");
    let refuses = |said: &str, fix: &str| {
        let before = stage.containers();
        stage.set_variables("VERSION=2");
        stage.deploy("app").exits(1).says(said).says(fix);
        assert_eq!(stage.containers(), before);
        stage.set_variables("VERSION=1");
    };
    let full = "has 1 free slots for `app`, and 2 instances are to start";
    for (from, to, said) in [
        ("stats socket", "# stats socket", "has no `stats socket`"),
        ("level admin", "level operator", "is not `level admin`"),
        ("app 8 app:3000", "app 3 app:3000", full),
    ] {
        stage.write("haproxy.cfg", &good.replace(from, to));
        stage.compose("restart -t 0 proxy");
        stage.wait_until_all_answer();
        refuses(said, "hint: ");
    }

    stage.log("--- it is down");
    stage.compose("stop -t 0 proxy");
    let start = format!("docker start {}-proxy-1", stage.name);
    refuses("is exited, so nobody reaches `app`", &start);
}

/// The head of an answer at a port of this machine.
fn answers(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
    let mut head = [0; 32];
    stream.read_exact(&mut head).ok()?;
    Some(String::from_utf8_lossy(&head).into())
}

/// As while somebody moves from one to the other.
#[test]
fn two_proxies_in_front_of_a_service_are_both_switched() {
    let stage = TestProject::haproxy("hatwo");
    let port = free_port();
    let image = stage.variable("HAPROXY_OLD_IMAGE");
    stage.write_override(&format!(
        "services: {{ second: {{ image: '{image}', ports: ['127.0.0.1:{port}:80'], \
         volumes: ['./haproxy.cfg:/usr/local/etc/haproxy/haproxy.cfg:ro'] }} }}"
    ));
    stage.up("");
    wait_until("the second proxy answers too", WAIT_LIMIT, || {
        answers(port).is_some_and(|head| head.contains(" 200 "))
    });
    let first = stage.start_load("");
    let second = stage.start_load_at(port, "");
    stage.set_variables("VERSION=2");
    let name = &stage.name;
    stage
        .deploy("app")
        .exits(0)
        .says(&format!("haproxy `{name}-proxy-1`"))
        .says(&format!("haproxy `{name}-second-1`"));
    first.stop().all_from(&["1", "2"]);
    second.stop().all_from(&["1", "2"]);
    assert_eq!(haproxy_flags(&stage), "");
}

/// Blue and green, each by a fixed line of its own.
#[test]
fn the_sides_of_a_pair_switch_behind_static_servers() {
    let stage = TestProject::haproxy("hapair");
    let configuration = stage.read("haproxy.cfg");
    let (head, _) = configuration.split_once("    server-template").expect("a template");
    let lines = ["app_a", "app_b"]
        .map(|s| format!("    server {s} {s}:3000 check inter 200ms init-addr libc,127.0.0.9\n"));
    stage.write("haproxy.cfg", &format!("{head}{}", lines.concat()));
    let app = stage.read("compose.yaml");
    let sides = app
        .replace("  app:\n", "  app_a: &app\n")
        .replace("\n  proxy:\n", "\n  app_b: *app\n\n  proxy:\n    depends_on: [app_a]\n");
    stage.write("compose.yaml", &sides);
    stage.compose("up -d app_a proxy");
    wait_until("HAProxy has seen that the other side is down", WAIT_LIMIT, || {
        (0..8).all(|_| stage.get("/health").is_some_and(|reply| reply.status == 200))
    });
    let load = stage.start_load("");
    for (version, side) in [("2", "app_b"), ("3", "app_a")] {
        stage.set_variables(&format!("VERSION={version}"));
        stage.deploy("app").exits(0).says("in service");
        assert_eq!(stage.states(side), [format!("running {version}")]);
    }
    load.stop().all_from(&["1", "2", "3"]);
    assert_eq!(haproxy_flags(&stage), "", "servers with a flag of ours");
}

/// As certbot or somebody's `kill -USR2` reloads it: the worker before finishes what it has, which no other one counts.
#[test]
fn a_request_in_a_retired_worker_is_awaited() {
    let stage = TestProject::haproxy("hareload");
    stage.write_override("services: {app: {x-zd: {drain: {timeout: 3s}}}}");
    stage.up("");
    let _stream = stage.open_request("/stream?seconds=100");
    let proxy = format!("{}-proxy-1", stage.name);
    stage.docker(&format!("kill -s USR2 {proxy}"));
    let workers = || stage.docker(&format!("top {proxy} -o pid,comm")).matches("haproxy").count();
    wait_until("the new worker is there", WAIT_LIMIT, || workers() == 3);
    stage.wait_until_all_answer();
    stage.set_variables("VERSION=2");
    stage.deploy("app").exits(0).says("app-1 still had up to ").never_says("no request in flight: app-1");
    stage.expect_release("app", 1, "2");
}
