//! Two services that are sides of one app.

use std::collections::BTreeSet;

use crate::test_project::{TestProject, free_port};

fn states(stage: &TestProject) -> [Vec<String>; 2] {
    ["service_a", "service_b"].map(|s| stage.states(s))
}

fn ids(stage: &TestProject) -> [BTreeSet<String>; 2] {
    ["service_a", "service_b"].map(|s| stage.ids(s))
}

/// The restart policy of each side's one container.
fn restart_policies(stage: &TestProject) -> [String; 2] {
    ids(stage).map(|ids| {
        let id = ids.first().expect("a container");
        stage.docker(&format!("inspect --format {{{{.HostConfig.RestartPolicy.Name}}}} {id}"))
    })
}

/// A release that never gets ready leaves all as it is.
fn deploy_broken_release(stage: &TestProject, version: &str) {
    let before = stage.containers();
    stage.set_variables("STATUS=503");
    let (ran, answers) = stage.deploy_under_load("", "service --health-deadline 2s");
    ran.exits(3);
    answers.all_from(&[version]);
    assert_eq!(stage.containers(), before);
    assert_eq!(stage.marks(), "");
    stage.set_variables("STATUS=200");
}

#[test]
fn both_serving_sides_are_replaced_and_rolled_back() {
    let stage = TestProject::nginx_proxy_pair("both");
    stage.up("");
    stage.deploy("service").exits(0);

    stage.log("--- a side that fails leaves the other serving");
    stage.set_variables("VERSION=2");
    deploy_broken_release(&stage, "1");

    stage.log("--- both are replaced");
    let (ran, answers) = stage.deploy_under_load("", "service");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("service_a", 1, "2");
    stage.expect_release("service_b", 1, "2");

    stage.log("--- Compose has nothing to do then");
    let before = stage.containers();
    stage.compose("up -d");
    assert_eq!(stage.containers(), before);

    stage.log("--- both go back");
    let (ran, answers) = stage.rollback_under_load("", "service_a");
    ran.exits(0).says("is back on release");
    answers.all_from(&["1", "2"]);
    stage.expect_release("service_a", 1, "1");
    stage.expect_release("service_b", 1, "1");
}

#[test]
fn the_idle_side_takes_over_and_the_other_is_kept_for_a_rollback() {
    let stage = TestProject::pair_with_idle_side("idle");
    stage.write_override("services: {service_a: {restart: always}, service_b: {restart: always}}");
    stage.up("service_a");
    let [active, _] = ids(&stage);

    stage.log("--- an idle side that fails leaves the active one serving");
    stage.set_variables("VERSION=2 STATUS=503");
    let (ran, answers) = stage.deploy_under_load("", "service --health-deadline 2s");
    ran.exits(3);
    answers.all_from(&["1"]);
    assert_eq!(
        (stage.ids("service_a"), stage.states("service_a")),
        (active.clone(), vec!["running 1".into()])
    );
    assert_eq!(stage.marks(), "");

    stage.log("--- the idle side takes over");
    stage.set_variables("VERSION=1 STATUS=200");
    stage.deploy("service").exits(0);
    stage.set_variables("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "service");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    assert_eq!(states(&stage), [["exited 1"], ["running 2"]]);
    assert_eq!(restart_policies(&stage), ["no", "always"], "the engine does not start the kept side again");
    assert_eq!(stage.ids("service_a"), active);
    assert_eq!(stage.marks(), "");

    stage.log("--- a rollback starts the kept side, and another one the other");
    let before = ids(&stage);
    for (from, to, expected) in [("2", "1", ["running 1", "exited 2"]), ("1", "2", ["exited 1", "running 2"])]
    {
        let (ran, answers) = stage.rollback_under_load("", "");
        ran.exits(0).never_says("created");
        answers.all_from(&[from, to]);
        assert_eq!(states(&stage), expected.map(|s| [s]));
        let policy = |state: &str| if state.starts_with("exited") { "no" } else { "always" };
        assert_eq!(restart_policies(&stage), expected.map(policy));
        assert_eq!((ids(&stage), stage.marks()), (before.clone(), String::new()));
    }

    stage.log("--- so does a deploy that wants its version");
    stage.set_variables("VERSION=1");
    let (ran, answers) = stage.deploy_under_load("", "service");
    ran.exits(0).never_says("created");
    answers.all_from(&["1", "2"]);
    assert_eq!(states(&stage), [["running 1"], ["exited 2"]]);
    assert_eq!((ids(&stage), stage.marks()), (before, String::new()));

    stage.log("--- the sides take turns");
    for version in ["3", "4"] {
        stage.set_variables(&format!("VERSION={version}"));
        stage.deploy("service").exits(0);
        stage.expect_version(version);
    }
    assert_eq!(states(&stage), [["running 4"], ["exited 3"]]);
    stage.wait_until_all_answer();
}

#[test]
fn sides_with_a_host_port_each_are_replaced_one_after_the_other() {
    let stage = TestProject::nginx_proxy_pair("ports");
    let [a, b] = [free_port(), free_port()].map(|p| format!("{{ports: ['127.0.0.1:{p}:3000']}}"));
    stage.write_override(&format!("services: {{service_a: {a}, service_b: {b}}}"));
    stage.set_variables("SLOW=0.5 STOP=abrupt");
    stage.up("");
    stage.set_variables("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "service");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("service_a", 1, "2");
    stage.expect_release("service_b", 1, "2");
}
