//! The witness against clients from outside: it loses what they lose. Which URL it asks behind which proxy, and that it
//! loses nothing where they lose nothing, is among the promises.

use std::path::Path;

use serde_json::Value;

use crate::test_project::TestProject;

/// Answers that take a while are cut when their instance dies at once.
const CUT_REQUESTS: &str = "SLOW=0.5 STOP=abrupt";

fn record(stage: &TestProject, release: &str) -> Value {
    let name = Path::new(".compose-zd").join(&stage.name).join("releases").join(format!("{release}.json"));
    serde_json::from_str(&stage.read(&name.to_string_lossy())).expect("a record")
}

#[test]
fn the_witness_reports_losses_and_fails_only_with_strict() {
    let stage = TestProject::nginx_proxy("witness");
    stage.set_variables(CUT_REQUESTS);
    stage.up("--scale app=2");
    stage.set_variables("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "app --strict --witness-rate 30");
    ran.exits(0).says(&format!("witness http://{}:", stage.host()));
    answers.all_from(&["1", "2"]);
    let (sent, lost) = ran.witness_counts();
    assert!(sent > 0 && lost == 0, "{sent} sent, {lost} lost");

    // Without gate and drain the old ones die while they answer.
    let (url, host) = (stage.url(), stage.host());
    stage.write_override(&format!(
        "x-zd: {{ proxy: {{ kind: none }}, witness: {{ url: '{url}', host: {host}, rate: 60 }} }}"
    ));
    stage.set_variables("VERSION=3");
    let (ran, answers) = stage.deploy_under_load("--clients 80 --rate 100", "app --strict");
    ran.exits(6).says("release 3 serves, but the witness lost").says("is deployed as release 3");
    let (_, lost) = ran.witness_counts();
    assert!(answers.lost() > 0 && lost > 0, "clients lost {}, and the witness {lost}", answers.lost());
    let record = record(&stage, "0003");
    assert_eq!((&record["outcome"], &record["witness"]["lost"]), (&"deployed".into(), &lost.into()));
    stage.expect_release("app", 2, "3");
}

/// Ready where it is asked, and broken where clients come in.
#[test]
fn losses_after_the_switch_roll_the_release_back() {
    let stage = TestProject::nginx_proxy("witback");
    stage.up("--scale app=2");
    let before = stage.ids("app");
    stage.set_variables("VERSION=2 STATUS=500 COMPOSE_ZD_HEALTH_PATH=/health");
    let ran = stage.deploy("app");
    ran.exits(3).says("since the switch (500 ×").says("by version 2").says("served before and still serve");
    assert_eq!(stage.ids("app"), before);
    stage.expect_release("app", 2, "1");
    let ran = stage.deploy("app --update-parallelism 1 --update-failure-action pause");
    ran.exits(3).says("the rollout is paused: 0 of 2 instances are of release");
    stage.expect_release("app", 2, "1");
    // One that is told to look away deploys it.
    stage.deploy("app --no-witness").exits(0).never_says("witness");
    stage.expect_version_and_status("2", 500);
}
