//! A release that does not get ready never serves, and leaves nothing behind.

use crate::stage::Stage;
use crate::tool::Ran;

/// Version 2 behaves as `settings` say; version 1 goes on serving, and nothing else is there afterwards.
fn fails(stage: &Stage, settings: &str, deploy: &str) -> Ran {
    stage.up("--scale app=2");
    let before = stage.containers();
    stage.set(&format!("VERSION=2 {settings}"));
    let (ran, answers) = stage.deploy_under_load("", deploy);
    ran.exits(3).says(" served before and still serve");
    answers.all_from(&["1"]);
    assert_eq!(stage.containers(), before);
    stage.expect_release("app", 2, "1");
    ran
}

const LAST_LINE: &str = "sample-app version 2 listens on port 3000";

#[test]
fn a_health_path_that_is_missing_fails_with_its_answer_and_the_last_log_line() {
    let stage = Stage::scale("missing");
    let words = "app --health-path /health --health-deadline 3s";
    let ran = fails(&stage, "HEALTH_STATUS=404", words);
    ran.says("/health → 404").says(LAST_LINE).says("hint: ");
}

#[test]
fn a_release_that_answers_503_never_serves() {
    let stage = Stage::scale("503");
    let ran = fails(&stage, "STATUS=503", "app --health-deadline 3s");
    ran.says("/ → 503").says(LAST_LINE);
}

#[test]
fn a_release_that_warms_up_for_too_long_never_serves() {
    let stage = Stage::scale("toolong");
    let ran = fails(&stage, "WARMUP=60", "app --health-deadline 3s");
    ran.says("/ → 503").says("not ready after 3s");
}

#[test]
fn a_release_that_hangs_never_serves() {
    let stage = Stage::scale("hang");
    let ran = fails(&stage, "HANG=1", "app --health-deadline 3s");
    ran.says("no answer in time").says(LAST_LINE);
}

#[test]
fn a_release_that_exits_fails_before_its_deadline_with_its_exit_code_and_last_log_line() {
    let stage = Stage::scale("exits");
    let settings = "LISTEN_AFTER=60 EXIT_AFTER=0.5 EXIT_CODE=7";
    let ran = fails(&stage, settings, "app --health-deadline 10m");
    ran.says("exited with code 7").says("fatal: cannot reach the database").never_says("not ready after");
}

#[test]
fn the_deploy_after_a_failed_one_succeeds() {
    let stage = Stage::scale("again");
    fails(&stage, "STATUS=503", "app --health-deadline 3s");
    stage.set("VERSION=3 STATUS=200");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "3"]);
    stage.expect_release("app", 2, "3");
}

#[test]
fn a_side_that_fails_leaves_the_other_serving() {
    let stage = Stage::pair("sidefails");
    stage.up("");
    let before = stage.containers();
    stage.set("VERSION=2 STATUS=503");
    let (ran, answers) = stage.deploy_under_load("", "service --health-deadline 3s");
    ran.exits(3);
    answers.all_from(&["1"]);
    assert_eq!(stage.containers(), before);
    assert_eq!(stage.marks(), "");
}

#[test]
fn an_idle_side_that_fails_leaves_the_active_one_serving() {
    let stage = Stage::one_side("idlefails");
    let active = stage.service("service_a");
    stage.set("VERSION=2 STATUS=503");
    let (ran, answers) = stage.deploy_under_load("", "service --health-deadline 3s");
    ran.exits(3);
    answers.all_from(&["1"]);
    assert_eq!(stage.service("service_a"), active);
    assert_eq!(stage.marks(), "");
}
