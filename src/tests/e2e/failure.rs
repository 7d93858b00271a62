//! A release that does not get ready never serves, and leaves nothing behind.

use crate::cli_runner::CommandResult;
use crate::test_project::TestProject;

/// Part of the last log line of an instance.
const LAST_LINE: &str = "listens on port 3000";

/// Deploys a version that fails by `settings`; asserts that version 1 keeps serving and nothing else remains.
fn deploy_failing_release(
    project: &TestProject,
    version: &str,
    settings: &str,
    words: &str,
) -> CommandResult {
    let before = project.containers();
    project.set_variables("STATUS=200 HEALTH_STATUS=200 WARMUP=0 HANG=0 LISTEN_AFTER=0 EXIT_AFTER=0");
    project.set_variables(&format!("VERSION={version} {settings}"));
    let (result, answers) = project.deploy_under_load("", &format!("app {words}"));
    result.exits(3).says(" served before and still serve");
    answers.all_from(&["1"]);
    assert_eq!(project.containers(), before);
    result
}

#[test]
fn a_release_that_does_not_get_ready_never_serves_and_its_output_is_shown() {
    let project = TestProject::nginx_proxy("fails");
    project.up("");
    let two_seconds = "--health-deadline 2s";

    project.log("--- the health path is missing");
    let result = deploy_failing_release(
        &project,
        "2",
        "HEALTH_STATUS=404",
        "--health-path /health --health-deadline 2s",
    );
    result.says("/health → 404").says(&format!("sample-app version 2 {LAST_LINE}")).says("hint: ");

    project.log("--- the release answers 503");
    let result = deploy_failing_release(&project, "3", "STATUS=503", two_seconds);
    result.says("/ → 503").says(&format!("sample-app version 3 {LAST_LINE}"));

    project.log("--- the release warms up for too long");
    deploy_failing_release(&project, "4", "WARMUP=60", two_seconds)
        .says("/ → 503")
        .says("not ready after 2s");

    project.log("--- the release hangs");
    let result = deploy_failing_release(&project, "5", "HANG=1", "--health-deadline 3s");
    result.says("no answer in time").says(&format!("sample-app version 5 {LAST_LINE}"));

    project.log("--- a release that exits fails before the deadline");
    let result = deploy_failing_release(
        &project,
        "6",
        "LISTEN_AFTER=60 EXIT_AFTER=0.5 EXIT_CODE=7",
        "--health-deadline 10m",
    );
    result.says("exited with code 7").says("fatal: cannot reach the database").never_says("not ready after");
    project.expect_release("app", 1, "1");

    project.log("--- the deploy after a failed one succeeds");
    project.set_variables("VERSION=7 LISTEN_AFTER=0 EXIT_AFTER=0");
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(0);
    answers.all_from(&["1", "7"]);
    project.expect_release("app", 1, "7");
}
