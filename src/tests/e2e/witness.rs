//! The witness compared with outside clients: it loses requests if they do. `promises.rs` tests its URL behind each proxy, and
//! that it loses nothing if they lose nothing.

use std::path::Path;

use serde_json::Value;

use crate::test_project::TestProject;

/// Slow answers of an instance that stops abruptly are cut.
const CUT_REQUESTS: &str = "SLOW=0.5 STOP=abrupt";

fn record(project: &TestProject, release: &str) -> Value {
    let name = Path::new(".compose-zd").join(&project.name).join("releases").join(format!("{release}.json"));
    serde_json::from_str(&project.read(&name.to_string_lossy())).expect("a record")
}

#[test]
fn the_witness_reports_losses_and_fails_only_with_strict() {
    let project = TestProject::nginx_proxy("witness");
    project.set_variables(CUT_REQUESTS);
    project.up("--scale app=2");
    project.set_variables("VERSION=2");
    let (result, answers) = project.deploy_under_load("", "app --strict --witness-rate 30");
    result.exits(0).says(&format!("witness http://{}:", project.host()));
    answers.all_from(&["1", "2"]);
    let (sent, lost) = result.witness_counts();
    assert!(sent > 0 && lost == 0, "{sent} sent, {lost} lost");

    // Without gate and drain, the old instances die while they answer.
    let (url, host) = (project.url(), project.host());
    project.write_override(&format!(
        "x-zd: {{ proxy: {{ kind: none }}, witness: {{ url: '{url}', host: {host}, rate: 60 }} }}"
    ));
    project.set_variables("VERSION=3");
    let (result, answers) = project.deploy_under_load("--clients 80 --rate 100", "app --strict");
    result.exits(6).says("release 3 serves, but the witness lost").says("is deployed as release 3");
    let (_, lost) = result.witness_counts();
    assert!(answers.lost() > 0 && lost > 0, "clients lost {}, and the witness {lost}", answers.lost());
    let record = record(&project, "0003");
    assert_eq!((&record["outcome"], &record["witness"]["lost"]), (&"deployed".into(), &lost.into()));
    project.expect_release("app", 2, "3");
}

/// The release is ready on its health path, and broken on the public URL.
#[test]
fn losses_after_the_switch_roll_the_release_back() {
    let project = TestProject::nginx_proxy("witback");
    project.up("--scale app=2");
    let before = project.ids("app");
    project.set_variables("VERSION=2 STATUS=500 COMPOSE_ZD_HEALTH_PATH=/health");
    let result = project.deploy("app");
    result
        .exits(3)
        .says("since the switch (500 ×")
        .says("by version 2")
        .says("served before and still serve");
    assert_eq!(project.ids("app"), before);
    project.expect_release("app", 2, "1");
    let result = project.deploy("app --update-parallelism 1 --update-failure-action pause");
    result.exits(3).says("the rollout is paused: 0 of 2 instances are of release");
    project.expect_release("app", 2, "1");
    // A deploy without the witness succeeds.
    project.deploy("app --no-witness").exits(0).never_says("witness");
    project.expect_version_and_status("2", 500);
}
