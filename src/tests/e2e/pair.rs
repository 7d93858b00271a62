//! Pairs: two services that are sides of one app.

use std::collections::BTreeSet;

use crate::test_project::{TestProject, free_port};

fn states(project: &TestProject) -> [Vec<String>; 2] {
    ["service_a", "service_b"].map(|s| project.states(s))
}

fn ids(project: &TestProject) -> [BTreeSet<String>; 2] {
    ["service_a", "service_b"].map(|s| project.ids(s))
}

/// Restart policy of the container of each side.
fn restart_policies(project: &TestProject) -> [String; 2] {
    ids(project).map(|ids| {
        let id = ids.first().expect("a container");
        project.docker(&format!("inspect --format {{{{.HostConfig.RestartPolicy.Name}}}} {id}"))
    })
}

/// Deploys a release that never gets ready, and asserts that nothing changes.
fn deploy_broken_release(project: &TestProject, version: &str) {
    let before = project.containers();
    project.set_variables("STATUS=503");
    let (result, answers) = project.deploy_under_load("", "service --health-deadline 2s");
    result.exits(3);
    answers.all_from(&[version]);
    assert_eq!(project.containers(), before);
    assert_eq!(project.marks(), "");
    project.set_variables("STATUS=200");
}

#[test]
fn both_serving_sides_are_replaced_and_rolled_back() {
    let project = TestProject::nginx_proxy_pair("both");
    project.up("");
    project.deploy("service").exits(0);

    project.log("--- a side that fails leaves the other serving");
    project.set_variables("VERSION=2");
    deploy_broken_release(&project, "1");

    project.log("--- both are replaced");
    let (result, answers) = project.deploy_under_load("", "service");
    result.exits(0);
    answers.all_from(&["1", "2"]);
    project.expect_release("service_a", 1, "2");
    project.expect_release("service_b", 1, "2");

    project.log("--- Compose has nothing to do afterwards");
    let before = project.containers();
    project.compose("up -d");
    assert_eq!(project.containers(), before);

    project.log("--- both are rolled back");
    let (result, answers) = project.rollback_under_load("", "service_a");
    result.exits(0).says("is back on release");
    answers.all_from(&["1", "2"]);
    project.expect_release("service_a", 1, "1");
    project.expect_release("service_b", 1, "1");
}

#[test]
fn the_idle_side_takes_over_and_the_other_is_kept_for_a_rollback() {
    let project = TestProject::pair_with_idle_side("idle");
    project.write_override("services: {service_a: {restart: always}, service_b: {restart: always}}");
    project.up("service_a");
    let [active, _] = ids(&project);

    project.log("--- an idle side that fails leaves the active one serving");
    project.set_variables("VERSION=2 STATUS=503");
    let (result, answers) = project.deploy_under_load("", "service --health-deadline 2s");
    result.exits(3);
    answers.all_from(&["1"]);
    assert_eq!(
        (project.ids("service_a"), project.states("service_a")),
        (active.clone(), vec!["running 1".into()])
    );
    assert_eq!(project.marks(), "");

    project.log("--- the idle side takes over");
    project.set_variables("VERSION=1 STATUS=200");
    project.deploy("service").exits(0);
    project.set_variables("VERSION=2");
    let (result, answers) = project.deploy_under_load("", "service");
    result.exits(0);
    answers.all_from(&["1", "2"]);
    assert_eq!(states(&project), [["exited 1"], ["running 2"]]);
    assert_eq!(restart_policies(&project), ["no", "always"], "the engine does not start the kept side again");
    assert_eq!(project.ids("service_a"), active);
    assert_eq!(project.marks(), "");

    project.log("--- a rollback starts the kept side, and a second rollback the other one");
    let before = ids(&project);
    for (from, to, expected) in [("2", "1", ["running 1", "exited 2"]), ("1", "2", ["exited 1", "running 2"])]
    {
        let (result, answers) = project.rollback_under_load("", "");
        result.exits(0).never_says("created");
        answers.all_from(&[from, to]);
        assert_eq!(states(&project), expected.map(|s| [s]));
        let policy = |state: &str| if state.starts_with("exited") { "no" } else { "always" };
        assert_eq!(restart_policies(&project), expected.map(policy));
        assert_eq!((ids(&project), project.marks()), (before.clone(), String::new()));
    }

    project.log("--- a deploy of the kept version starts the kept side");
    project.set_variables("VERSION=1");
    let (result, answers) = project.deploy_under_load("", "service");
    result.exits(0).never_says("created");
    answers.all_from(&["1", "2"]);
    assert_eq!(states(&project), [["running 1"], ["exited 2"]]);
    assert_eq!((ids(&project), project.marks()), (before, String::new()));

    project.log("--- the sides take turns");
    for version in ["3", "4"] {
        project.set_variables(&format!("VERSION={version}"));
        project.deploy("service").exits(0);
        project.expect_version(version);
    }
    assert_eq!(states(&project), [["running 4"], ["exited 3"]]);
    project.wait_until_all_answer();
}

#[test]
fn sides_with_a_host_port_each_are_replaced_one_after_the_other() {
    let project = TestProject::nginx_proxy_pair("ports");
    let [a, b] = [free_port(), free_port()].map(|p| format!("{{ports: ['127.0.0.1:{p}:3000']}}"));
    project.write_override(&format!("services: {{service_a: {a}, service_b: {b}}}"));
    project.set_variables("SLOW=0.5 STOP=abrupt");
    project.up("");
    project.set_variables("VERSION=2");
    let (result, answers) = project.deploy_under_load("", "service");
    result.exits(0);
    answers.all_from(&["1", "2"]);
    project.expect_release("service_a", 1, "2");
    project.expect_release("service_b", 1, "2");
}
