//! Interrupted or killed at any moment, the service goes on serving, and the next deploy tidies up.

use crate::stage::Stage;

/// Kills a deploy of version 2 when it has said this; then deploys version 3.
fn survives_a_kill_after(name: &str, line: &str) {
    let stage = Stage::scale(name);
    stage.up("--scale app=2");
    let load = stage.start_load("");
    stage.set("VERSION=2");
    let mut deploy = stage.start_deploy("app");
    deploy.wait_for(line);
    deploy.kill();
    stage.ask("/").expect("the service goes on");
    stage.set("VERSION=3");
    stage.deploy("app").exits(0);
    load.end().all_until("3");
    stage.expect_release("app", 2, "3");
}

/// Kills a deploy of version 2 when it has said this; then deploys the same version again.
fn is_finished_by_the_next_run(name: &str, line: &str) {
    let stage = Stage::scale(name);
    stage.up("--scale app=2");
    let load = stage.start_load("");
    stage.set("VERSION=2");
    let mut deploy = stage.start_deploy("app");
    deploy.wait_for(line);
    deploy.kill();
    stage.deploy("app").exits(0);
    load.end().all_until("2");
    stage.expect_release("app", 2, "2");
}

#[test]
fn a_deploy_killed_after_its_creates_is_survived() {
    survives_a_kill_after("kcreated", "created app-");
}

#[test]
fn a_deploy_killed_after_its_starts_is_survived() {
    survives_a_kill_after("kstarted", "started app-");
}

#[test]
fn a_deploy_killed_after_its_switch_is_survived() {
    survives_a_kill_after("kswitched", "in rotation: app-");
}

#[test]
fn a_deploy_killed_after_its_drain_is_survived() {
    survives_a_kill_after("kdrained", "no request in flight");
}

#[test]
fn a_deploy_killed_after_its_stops_is_survived() {
    survives_a_kill_after("kstopped", "stopped app-");
}

#[test]
fn a_deploy_killed_after_its_creates_is_finished_by_the_next() {
    is_finished_by_the_next_run("fcreated", "created app-");
}

#[test]
fn a_deploy_killed_after_its_starts_is_finished_by_the_next() {
    is_finished_by_the_next_run("fstarted", "started app-");
}

#[test]
fn a_deploy_killed_after_its_switch_is_finished_by_the_next() {
    is_finished_by_the_next_run("fswitched", "in rotation: app-");
}

#[test]
fn a_deploy_killed_after_its_stops_is_finished_by_the_next() {
    is_finished_by_the_next_run("fstopped", "stopped app-");
}

#[test]
fn the_mark_of_a_container_that_is_gone_goes_with_the_next_deploy_even_if_nothing_has_to_change() {
    let stage = Stage::scale("mark");
    stage.up("--scale app=2");
    stage.set("VERSION=2");
    stage.deploy("app").exits(0);
    let (proxy, gone) = (stage.proxy().id, "0".repeat(64));
    stage.docker(&format!("exec {proxy} mkdir -p /tmp/compose-zd-down"));
    stage.docker(&format!("exec {proxy} touch /tmp/compose-zd-down/{gone}"));
    let ran = stage.deploy("app");
    ran.exits(0).says("nothing has to change");
    stage.expect_release("app", 2, "2");
}

/// Interrupts a deploy that waits for an instance that warms up for long.
fn goes_back_when_interrupted(name: &str, signal: &str, code: i32) {
    let stage = Stage::scale(name);
    stage.up("--scale app=2");
    let before = stage.containers();
    let load = stage.start_load("");
    stage.set("VERSION=2 WARMUP=60");
    let mut deploy = stage.start_deploy("app");
    deploy.wait_for("started app-");
    deploy.signal(signal);
    deploy.end().exits(code).says("going back");
    load.end().all_from(&["1"]);
    assert_eq!(stage.containers(), before);
    stage.expect_release("app", 2, "1");
}

#[test]
fn an_interrupted_deploy_goes_back() {
    goes_back_when_interrupted("sigint", "INT", 130);
}

#[test]
fn a_terminated_deploy_goes_back() {
    goes_back_when_interrupted("sigterm", "TERM", 143);
}

#[test]
fn a_deploy_outlives_the_terminal_that_started_it() {
    let stage = Stage::scale("sighup");
    stage.up("--scale app=2");
    let load = stage.start_load("");
    stage.set("VERSION=2 WARMUP=2");
    let mut deploy = stage.start_deploy("app");
    deploy.wait_for("started app-");
    deploy.signal("HUP");
    deploy.end().exits(0);
    load.end().all_from(&["1", "2"]);
    stage.expect_release("app", 2, "2");
}

#[test]
fn an_interrupted_deploy_that_already_switched_is_finished() {
    let stage = Stage::scale("late-int");
    stage.set("SLOW=3");
    stage.up("--scale app=2");
    let load = stage.start_load("");
    stage.set("VERSION=2 SLOW=0");
    let mut deploy = stage.start_deploy("app");
    deploy.wait_for("draining app-");
    deploy.signal("INT");
    deploy.end().exits(0);
    load.end().all_from(&["1", "2"]);
    stage.expect_release("app", 2, "2");
}
