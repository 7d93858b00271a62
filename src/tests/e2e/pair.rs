//! Two services that are sides of one app.

use std::collections::BTreeSet;

use crate::stage::{Stage, free_port};

fn states(stage: &Stage) -> [Vec<String>; 2] {
    ["service_a", "service_b"].map(|s| stage.states(s))
}

fn ids(stage: &Stage) -> [BTreeSet<String>; 2] {
    ["service_a", "service_b"].map(|s| stage.ids(s))
}

#[test]
fn both_sides_that_serve_are_replaced_and_serve() {
    let stage = Stage::pair("both");
    stage.up("");
    stage.set("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "service");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("service_a", 1, "2");
    stage.expect_release("service_b", 1, "2");
}

#[test]
fn compose_has_nothing_to_do_after_a_pair_is_deployed() {
    let stage = Stage::pair("pairafter");
    stage.up("");
    stage.set("VERSION=2");
    stage.deploy("service").exits(0);
    let before = stage.containers();
    stage.compose("up -d");
    assert_eq!(stage.containers(), before);
}

#[test]
fn the_idle_side_takes_over_and_the_other_is_kept() {
    let stage = Stage::one_side("idle");
    let [active, _] = ids(&stage);
    stage.set("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "service");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    assert_eq!(states(&stage), [["exited 1"], ["running 2"]]);
    assert_eq!(stage.ids("service_a"), active);
    assert_eq!(stage.marks(), "");
}

#[test]
fn the_kept_side_is_started_again_where_its_version_is_wanted() {
    let stage = Stage::one_side("kept");
    stage.set("VERSION=2");
    stage.deploy("service").exits(0);
    let before = ids(&stage);
    stage.set("VERSION=1");
    let (ran, answers) = stage.deploy_under_load("", "service");
    ran.exits(0).never_says("created");
    answers.all_from(&["1", "2"]);
    assert_eq!(states(&stage), [["running 1"], ["exited 2"]]);
    assert_eq!(ids(&stage), before);
    assert_eq!(stage.marks(), "");
}

#[test]
fn the_sides_take_turns() {
    let stage = Stage::one_side("turns");
    for version in ["2", "3", "4"] {
        stage.set(&format!("VERSION={version}"));
        stage.deploy("service").exits(0);
        stage.expect_version(version);
    }
    assert_eq!(states(&stage), [["exited 3"], ["running 4"]]);
    stage.wait_until_all_answer();
}

#[test]
fn sides_with_a_host_port_each_are_replaced_one_after_the_other() {
    let stage = Stage::pair("ports");
    let [a, b] = [free_port(), free_port()].map(|p| format!("{{ports: ['127.0.0.1:{p}:3000']}}"));
    stage.add(&format!("services: {{service_a: {a}, service_b: {b}}}"));
    stage.set("SLOW=0.5 STOP=abrupt");
    stage.up("");
    stage.set("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "service");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("service_a", 1, "2");
    stage.expect_release("service_b", 1, "2");
}
