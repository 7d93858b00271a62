//! What is special about HAProxy: what its configuration needs, and its fixed `server` lines.

use crate::promises::flags;
use crate::stage::{LONG, Stage, free_port, wait_until};

/// A configuration that does not do, with what is said of it; nothing is changed by it.
fn refuses(name: &str, from: &str, to: &str, said: &str) {
    let stage = Stage::haproxy(name);
    let configuration = stage.read("haproxy.cfg");
    stage.write("haproxy.cfg", &configuration.replace(from, to));
    stage.up("--scale app=2");
    let before = stage.containers();
    stage.set("VERSION=2");
    stage.deploy("app").exits(1).says(said).says("hint: ");
    assert_eq!(stage.containers(), before);
}

#[test]
fn what_haproxy_lacks_is_said_before_anything_is_touched() {
    refuses("hasocket", "stats socket", "# stats socket", "has no `stats socket`");
    refuses("halevel", "level admin", "level operator", "is not `level admin`");
    refuses(
        "haroom",
        "app 8 app:3000",
        "app 3 app:3000",
        "has 1 free slots for `app`, and 2 instances are to start",
    );
}

/// As while somebody moves from one to the other.
#[test]
fn two_proxies_in_front_of_a_service_are_both_told() {
    let stage = Stage::haproxy("hatwo");
    let port = free_port();
    let image = stage.variable("HAPROXY_OLD_IMAGE");
    stage.add(&format!(
        "services: {{ second: {{ image: '{image}', ports: ['127.0.0.1:{port}:80'], \
         volumes: ['./haproxy.cfg:/usr/local/etc/haproxy/haproxy.cfg:ro'] }} }}"
    ));
    stage.up("--scale app=2");
    let first = stage.start_load("");
    let second = stage.start_load_at(port, "");
    stage.set("VERSION=2");
    let name = &stage.project;
    stage
        .deploy("app")
        .exits(0)
        .says(&format!("haproxy `{name}-proxy-1`"))
        .says(&format!("haproxy `{name}-second-1`"));
    first.end().all_from(&["1", "2"]);
    second.end().all_from(&["1", "2"]);
    assert_eq!(flags(&stage), "");
}

#[test]
fn a_haproxy_that_is_down_is_said_before_anything_is_touched() {
    let stage = Stage::haproxy("hadown");
    stage.up("--scale app=2");
    stage.compose("stop proxy");
    let before = stage.containers();
    stage.set("VERSION=2");
    let start = format!("docker start {}-proxy-1", stage.project);
    stage.deploy("app").exits(1).says("is exited, so nobody reaches `app`").says(&start);
    assert_eq!(stage.containers(), before);
}

/// Blue and green, each by a fixed line of its own.
#[test]
fn the_sides_of_a_pair_switch_behind_fixed_lines() {
    let stage = Stage::haproxy("hapair");
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
    wait_until("HAProxy has seen that the other side is down", LONG, || {
        (0..8).all(|_| stage.ask("/health").is_some_and(|reply| reply.status == 200))
    });
    let load = stage.start_load("");
    for (version, side) in [("2", "app_b"), ("3", "app_a"), ("4", "app_b")] {
        stage.set(&format!("VERSION={version}"));
        stage.deploy("app").exits(0).says("in service");
        assert_eq!(stage.states(side), [format!("running {version}")]);
    }
    load.end().all_from(&["1", "2", "3", "4"]);
    assert_eq!(flags(&stage), "", "servers with a flag of ours");
}
