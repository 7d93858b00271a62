//! Interrupted or killed at any moment, the service goes on serving, and the next deploy tidies up.
//!
//! A kill at every other step: `plan/tests.rs` from every prefix of every plan, `promises.rs` before and after the switch
//! behind every proxy, `scripts/chaos` at every line that a deploy says.

use crate::cli_runner::CommandResult;
use crate::test_project::TestProject;

/// The next promise of a test, for one that fails; the file then asks for this.
fn update_to(stage: &TestProject, promise: &str, settings: &str) {
    stage.log(&format!("==== {promise}"));
    stage.set_variables(settings);
}

/// A deploy that gets this signal when it has said this.
fn deploy_with_signal(stage: &TestProject, line: &str, signal: &str) -> CommandResult {
    let mut deploy = stage.start_deploy("app");
    deploy.wait_for(line);
    deploy.signal(signal);
    deploy.wait()
}

/// Kills a deploy when it has stopped what served before.
fn kill_after_its_stops(stage: &TestProject) {
    let mut deploy = stage.start_deploy("app");
    deploy.wait_for("stopped app-");
    deploy.kill();
    stage.get("/").expect("the service goes on");
}

#[test]
fn a_deploy_killed_after_its_stops_is_finished_by_any_next_deploy() {
    let stage = TestProject::nginx_proxy("kstopped");
    stage.up("--scale app=2");
    let load = stage.start_load("--seconds 300");

    update_to(&stage, "the same deploy again finishes it", "VERSION=2");
    kill_after_its_stops(&stage);
    stage.deploy("app").exits(0);
    stage.expect_release("app", 2, "2");

    update_to(&stage, "the next version replaces it", "VERSION=3");
    kill_after_its_stops(&stage);
    stage.set_variables("VERSION=4");
    stage.deploy("app").exits(0);
    load.stop().all_from(&["1", "2", "3", "4"]);
    stage.expect_release("app", 2, "4");

    let promise =
        "the mark of a container that is gone goes with the next deploy even if nothing has to change";
    update_to(&stage, promise, "VERSION=4");
    let (proxy, gone) = (stage.proxy().id, "0".repeat(64));
    stage.docker(&format!("exec {proxy} mkdir -p /tmp/compose-zd-down"));
    stage.docker(&format!("exec {proxy} touch /tmp/compose-zd-down/{gone}"));
    stage.deploy("app").exits(0).says("nothing has to change");
    stage.expect_release("app", 2, "4");
}

#[test]
fn an_interrupted_deploy_rolls_back_unless_it_has_switched_and_survives_its_terminal() {
    let stage = TestProject::nginx_proxy("signals");
    stage.up("--scale app=1");
    let before = stage.containers();

    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        update_to(&stage, &format!("SIG{signal}: it goes back"), "VERSION=2 WARMUP=60");
        let load = stage.start_load("--seconds 300");
        deploy_with_signal(&stage, "started app-", signal).exits(code).says("going back");
        load.stop().all_from(&["1"]);
        assert_eq!(stage.containers(), before);
        stage.expect_release("app", 1, "1");
    }

    // This one is slow, so that the next one has something to wait for.
    update_to(&stage, "SIGHUP: it outlives the terminal that started it", "VERSION=3 WARMUP=2 SLOW=3");
    let load = stage.start_load("--seconds 300");
    deploy_with_signal(&stage, "started app-", "HUP").exits(0);
    load.stop().all_from(&["1", "3"]);
    stage.expect_release("app", 1, "3");

    update_to(&stage, "interrupted after its switch it is finished", "VERSION=4 WARMUP=0 SLOW=0");
    let load = stage.start_load("--seconds 300");
    deploy_with_signal(&stage, "draining app-", "INT").exits(0);
    load.stop().all_from(&["3", "4"]);
    stage.expect_release("app", 1, "4");
}

#[test]
fn a_signal_after_the_switch_is_reported_and_a_second_one_ends_the_drain() {
    let stage = TestProject::nginx_proxy("hurried");
    stage.write_override("services: {app: {x-zd: {drain: {timeout: 1h}}}}");
    stage.up("");
    let _stream = stage.open_request("/stream?seconds=100");
    stage.set_variables("VERSION=2");
    let mut deploy = stage.start_deploy("app");
    deploy.wait_for("draining app-");
    deploy.signal("TERM");
    deploy.wait_for("the new release serves, so this run is finished");
    deploy.signal("TERM");
    deploy.wait().exits(0).says("1 request in flight at the second signal; stopped all the same");
    stage.expect_release("app", 1, "2");
}

#[test]
fn a_hook_that_never_ends_is_stopped_at_its_limit_or_at_an_interrupt() {
    let stage = TestProject::nginx_proxy("hanging");
    stage.up("");
    let before = stage.containers();
    stage
        .write_override("services: {app: {post_start: [{command: [/sample-app], environment: {LISTEN_AFTER: '600'}}]}}");
    update_to(&stage, "an interrupt", "VERSION=2");
    deploy_with_signal(&stage, "started app-", "INT").exits(130).says("going back");
    assert_eq!(stage.containers(), before);

    update_to(&stage, "its limit", "VERSION=3");
    let ran = stage.deploy("app --health-deadline 2s");
    ran.exits(3).says("the post_start hook of app-").says("no answer within 2s");
    assert_eq!(stage.containers(), before);
}
