//! A release that does not get ready never serves, and leaves nothing behind.

use crate::cli_runner::CommandResult;
use crate::test_project::TestProject;

/// What is told of the last log line of an instance.
const LAST_LINE: &str = "listens on port 3000";

/// The next version behaves as `settings` say; version 1 goes on serving, and nothing else is there afterwards.
fn deploy_failing_release(stage: &TestProject, version: &str, settings: &str, words: &str) -> CommandResult {
    let before = stage.containers();
    stage.set_variables("STATUS=200 HEALTH_STATUS=200 WARMUP=0 HANG=0 LISTEN_AFTER=0 EXIT_AFTER=0");
    stage.set_variables(&format!("VERSION={version} {settings}"));
    let (ran, answers) = stage.deploy_under_load("", &format!("app {words}"));
    ran.exits(3).says(" served before and still serve");
    answers.all_from(&["1"]);
    assert_eq!(stage.containers(), before);
    ran
}

#[test]
fn a_release_that_does_not_get_ready_never_serves_and_its_output_is_shown() {
    let stage = TestProject::nginx_proxy("fails");
    stage.up("");
    let two_seconds = "--health-deadline 2s";

    stage.log("--- its health path is missing");
    let ran = deploy_failing_release(&stage, "2", "HEALTH_STATUS=404", "--health-path /health --health-deadline 2s");
    ran.says("/health → 404").says(&format!("sample-app version 2 {LAST_LINE}")).says("hint: ");

    stage.log("--- it answers 503");
    let ran = deploy_failing_release(&stage, "3", "STATUS=503", two_seconds);
    ran.says("/ → 503").says(&format!("sample-app version 3 {LAST_LINE}"));

    stage.log("--- it warms up for too long");
    deploy_failing_release(&stage, "4", "WARMUP=60", two_seconds).says("/ → 503").says("not ready after 2s");

    stage.log("--- it hangs");
    let ran = deploy_failing_release(&stage, "5", "HANG=1", "--health-deadline 3s");
    ran.says("no answer in time").says(&format!("sample-app version 5 {LAST_LINE}"));

    stage.log("--- it exits: nobody waits for the deadline");
    let ran = deploy_failing_release(&stage, "6", "LISTEN_AFTER=60 EXIT_AFTER=0.5 EXIT_CODE=7", "--health-deadline 10m");
    ran.says("exited with code 7").says("fatal: cannot reach the database").never_says("not ready after");
    stage.expect_release("app", 1, "1");

    stage.log("--- the deploy after a failed one succeeds");
    stage.set_variables("VERSION=7 LISTEN_AFTER=0 EXIT_AFTER=0");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "7"]);
    stage.expect_release("app", 1, "7");
}
