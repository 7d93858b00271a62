//! One service: new instances beside the old, then the old go. What every proxy promises is in promises.rs.

use crate::stage::{LONG, Stage, wait_until};

/// Two instances of version 1, which version 2 replaces while these clients are there.
fn replaces(stage: &Stage, load: &str, deploy: &str) {
    stage.up("--scale app=2");
    stage.set("VERSION=2");
    let (ran, answers) = stage.deploy_under_load(load, deploy);
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 2, "2");
}

/// Without this, a load that cannot see a loss would make every other test pass.
#[test]
fn the_same_deploy_by_compose_alone_loses_requests() {
    let stage = Stage::scale("control");
    stage.up("--scale app=2");
    stage.set("VERSION=2 LISTEN_AFTER=1");
    let load = stage.start_load("");
    stage.compose("up -d --scale app=2");
    stage.wait_until_all_answer();
    assert_ne!(load.end().lost(), 0);
}

#[test]
fn compose_has_nothing_to_do_after_a_deploy() {
    let stage = Stage::scale("after");
    replaces(&stage, "", "app");
    let before = stage.containers();
    stage.compose("up -d --scale app=2");
    assert_eq!(stage.containers(), before);
}

#[test]
fn a_deploy_without_names_replaces_what_the_proxy_routes_to() {
    let stage = Stage::scale("nameless");
    replaces(&stage, "", "");
}

#[test]
fn the_first_deploy_behind_a_proxy_reloads_it_three_times_at_most_and_later_ones_twice() {
    let stage = Stage::scale("reloads");
    stage.up("--scale app=2");
    for (version, most) in [("2", 3), ("3", 2)] {
        let before = stage.reloads();
        stage.set(&format!("VERSION={version}"));
        stage.deploy_under_load("", "app").0.exits(0);
        let reloads = stage.reloads() - before;
        assert!(reloads <= most, "{reloads} reloads by version {version}");
    }
}

#[test]
fn a_slow_upload_arrives() {
    let stage = Stage::scale("upload");
    stage.set("STOP=abrupt");
    replaces(&stage, "--method POST --body 20000 --slow-body 2", "app");
}

#[test]
fn nothing_happens_where_nothing_changed() {
    let stage = Stage::scale("same");
    stage.up("--scale app=2");
    let before = stage.containers();
    let ran = stage.deploy("app");
    ran.exits(0).says("nothing has to change");
    assert_eq!(stage.containers(), before);
}

#[test]
fn force_replaces_what_has_not_changed() {
    let stage = Stage::scale("force");
    stage.up("--scale app=2");
    let before = stage.ids("app");
    let (ran, answers) = stage.deploy_under_load("", "app --force");
    ran.exits(0);
    answers.all_from(&["1"]);
    assert!(stage.ids("app").is_disjoint(&before));
    stage.expect_release("app", 2, "1");
}

#[test]
fn a_dry_run_prints_the_plan_and_changes_nothing() {
    let stage = Stage::scale("dry");
    stage.up("--scale app=2");
    let before = stage.containers();
    stage.set("VERSION=2");
    let ran = stage.deploy("app --dry-run");
    ran.exits(0).says("plan for `app`").says("remove app-");
    assert_eq!((stage.containers(), stage.marks()), (before, String::new()));
}

#[test]
fn more_instances_are_added_to_those_that_stay() {
    let stage = Stage::scale("more");
    stage.up("--scale app=2");
    let before = stage.ids("app");
    let (ran, answers) = stage.deploy_under_load("", "app --scale app=3");
    ran.exits(0);
    answers.all_from(&["1"]);
    assert!(stage.ids("app").is_superset(&before));
    stage.expect_release("app", 3, "1");
}

#[test]
fn instances_that_are_too_many_are_drained_and_removed() {
    let stage = Stage::scale("fewer");
    stage.set("SLOW=1 STOP=abrupt");
    stage.up("--scale app=3");
    let before = stage.ids("app");
    let (ran, answers) = stage.deploy_under_load("", "app --scale app=1");
    ran.exits(0);
    answers.all_from(&["1"]);
    assert!(stage.ids("app").is_subset(&before));
    stage.expect_release("app", 1, "1");
}

#[test]
fn as_many_instances_run_after_a_deploy_as_before() {
    let stage = Stage::scale("number");
    stage.up("--scale app=3");
    stage.set("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 3, "2");
}

#[test]
fn a_first_deploy_ends_in_service() {
    let stage = Stage::scale("first");
    stage.compose("up -d proxy");
    stage.deploy("app --scale app=2").exits(0);
    stage.expect_release("app", 2, "1");
    stage.expect_version("1");
}

#[test]
fn a_drain_that_reaches_its_limit_is_reported() {
    let stage = Stage::scale("limit");
    stage.set("SLOW=6");
    stage.up("--scale app=2");
    stage.set("VERSION=2 SLOW=0");
    let (ran, _) = stage.deploy_under_load("", "app --drain-timeout 1s");
    ran.exits(0).says(" still had ");
    stage.expect_release("app", 2, "2");
}

#[test]
fn instances_are_replaced_in_batches_where_the_file_says_so() {
    let stage = Stage::scale("batches");
    stage.add("services: {app: {deploy: {update_config: {parallelism: 1}}}}");
    replaces(&stage, "", "app");
}

#[test]
fn stop_first_stops_an_instance_before_it_creates_another() {
    let stage = Stage::scale("stopfirst");
    stage.add("services: {app: {deploy: {update_config: {parallelism: 1, order: stop-first}}}}");
    stage.set("SLOW=0.5 STOP=abrupt");
    stage.up("--scale app=2");
    stage.set("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 2, "2");
    let said = ran.stderr.lines().filter_map(|l| l.split_whitespace().nth(1));
    let order: Vec<&str> = said.filter(|w| ["created", "stopped"].contains(w)).collect();
    assert_eq!(order, ["stopped", "created", "stopped", "created"]);
}

#[test]
fn the_number_of_instances_that_the_file_names_is_reached() {
    let stage = Stage::scale("replicas");
    stage.up("--scale app=2");
    stage.add("services: {app: {deploy: {replicas: 3}}}");
    stage.set("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 3, "2");
    let before = stage.containers();
    stage.compose("up -d");
    assert_eq!(stage.containers(), before);
}

#[test]
fn a_release_that_crashes_is_replaced_by_one_that_works() {
    let stage = Stage::scale("crashing");
    stage.set("EXIT_AFTER=0.3");
    stage.compose("up -d");
    let crashed = |s: &Stage| s.service("app")[0].state == "restarting";
    wait_until("a crash", LONG, || crashed(&stage));
    stage.set("VERSION=2 EXIT_AFTER=0");
    stage.deploy("app").exits(0);
    stage.expect_release("app", 1, "2");
    stage.expect_version("2");
}

#[test]
fn an_instance_that_somebody_stopped_is_removed() {
    let stage = Stage::scale("halted");
    stage.compose("up -d app --scale app=2");
    let first = stage.ids("app").pop_first().expect("two instances");
    stage.docker(&format!("stop {first}"));
    stage.up("--no-recreate proxy");
    stage.set("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 1, "2");
}
