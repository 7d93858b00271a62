//! Interrupts and kills of compose-zd: the service keeps serving, and the next deploy cleans up.
//!
//! Other tests of kills: `plan/tests.rs` from every prefix of every plan, `promises.rs` before and after the switch behind
//! every proxy, `scripts/chaos` at every line of the output.

use crate::cli_runner::CommandResult;
use crate::promises;
use crate::test_project::{ANSWER_LIMIT, TestProject, WAIT_LIMIT, wait_until};

/// Logs the promise to test, and sets the settings of the next version.
fn update_to(project: &TestProject, promise: &str, settings: &str) {
    project.log(&format!("==== {promise}"));
    project.set_variables(settings);
}

/// Runs a deploy that gets this signal after this output.
fn deploy_with_signal(project: &TestProject, line: &str, signal: &str) -> CommandResult {
    let mut deploy = project.start_deploy("app");
    deploy.wait_for(line);
    deploy.signal(signal);
    deploy.wait()
}

/// Kills a deploy after it has stopped the old instances.
fn kill_after_its_stops(project: &TestProject) {
    let mut deploy = project.start_deploy("app");
    deploy.wait_for("stopped app-");
    deploy.kill();
    project.get("/").expect("the service goes on");
}

#[test]
fn a_deploy_killed_after_its_stops_is_finished_by_any_next_deploy() {
    let project = TestProject::nginx_proxy("kstopped");
    project.up("--scale app=2");
    let load = project.start_load("--seconds 300");

    update_to(&project, "the same deploy again finishes it", "VERSION=2");
    kill_after_its_stops(&project);
    project.deploy("app").exits(0);
    project.expect_release("app", 2, "2");

    update_to(&project, "the next version replaces it", "VERSION=3");
    kill_after_its_stops(&project);
    project.set_variables("VERSION=4");
    project.deploy("app").exits(0);
    load.stop().all_from(&["1", "2", "3", "4"]);
    project.expect_release("app", 2, "4");

    let promise =
        "the mark of a container that is gone goes with the next deploy even if nothing has to change";
    update_to(&project, promise, "VERSION=4");
    let (proxy, gone) = (project.proxy().id, "0".repeat(64));
    project.docker(&format!("exec {proxy} mkdir -p /tmp/compose-zd-down"));
    project.docker(&format!("exec {proxy} touch /tmp/compose-zd-down/{gone}"));
    project.deploy("app").exits(0).says("nothing has to change");
    project.expect_release("app", 2, "4");
}

#[test]
fn an_interrupted_deploy_rolls_back_unless_it_has_switched_and_survives_its_terminal() {
    let project = TestProject::nginx_proxy("signals");
    project.up("--scale app=1");
    let before = project.containers();

    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        update_to(&project, &format!("SIG{signal}: the deploy rolls back"), "VERSION=2 WARMUP=60");
        let load = project.start_load("--seconds 300");
        deploy_with_signal(&project, "started app-", signal).exits(code).says("rolling back");
        load.stop().all_from(&["1"]);
        assert_eq!(project.containers(), before);
        project.expect_release("app", 1, "1");
    }

    // This version is slow, so that the next deploy has requests to wait for. After 3 s without a good answer, a public URL
    // counts as lost.
    update_to(&project, "SIGHUP: the deploy outlives its terminal", "VERSION=3 WARMUP=2 SLOW=2");
    let load = project.start_load("--seconds 300");
    deploy_with_signal(&project, "started app-", "HUP").exits(0);
    load.stop().all_from(&["1", "3"]);
    project.expect_release("app", 1, "3");

    update_to(&project, "a deploy interrupted after its switch is finished", "VERSION=4 WARMUP=0 SLOW=0");
    let load = project.start_load("--seconds 300");
    deploy_with_signal(&project, "draining app-", "INT").exits(0);
    load.stop().all_from(&["3", "4"]);
    project.expect_release("app", 1, "4");
}

#[test]
fn a_signal_after_the_switch_is_reported_and_a_second_one_ends_the_drain() {
    let project = TestProject::nginx_proxy("hurried");
    project.write_override("services: {app: {x-zd: {drain: {timeout: 1h}}}}");
    project.up("");
    let _stream = project.open_request("/stream?seconds=100");
    project.set_variables("VERSION=2");
    let mut deploy = project.start_deploy("app");
    deploy.wait_for("draining app-");
    deploy.signal("TERM");
    deploy.wait_for("the new release serves, so this run finishes");
    deploy.signal("TERM");
    deploy.wait().exits(0).says("1 request in flight at the second signal; stopped anyway");
    project.expect_release("app", 1, "2");
}

#[test]
fn a_hook_that_never_ends_is_stopped_at_its_limit_or_at_an_interrupt() {
    let project = TestProject::nginx_proxy("hanging");
    project.up("");
    let before = project.containers();
    project.write_override(
        "services: {app: {post_start: [{command: [/sample-app], environment: {LISTEN_AFTER: '600'}}]}}",
    );
    update_to(&project, "an interrupt", "VERSION=2");
    deploy_with_signal(&project, "started app-", "INT").exits(130).says("rolling back");
    assert_eq!(project.containers(), before);

    update_to(&project, "its limit", "VERSION=3");
    let result = project.deploy("app --health-deadline 2s");
    result.exits(3).says("the post_start hook of app-").says("no answer within 2s");
    assert_eq!(project.containers(), before);
}

/// Compose gives a container a new address, and HAProxy resolves a static `server` line only at its start.
#[test]
fn compose_up_after_a_kill_serves_at_once_behind_a_proxy_with_a_fixed_address() {
    let project = promises::haproxy_plain("killup");
    project.up("");
    for (n, line) in ["created app-", "in rotation: app-"].into_iter().enumerate() {
        let version = (n + 2).to_string();
        update_to(
            &project,
            &format!("killed at `{line}`, then `docker compose up`"),
            &format!("VERSION={version}"),
        );
        let mut deploy = project.start_deploy("app");
        deploy.wait_for(line);
        deploy.kill();
        project.compose("up -d");
        wait_until("the new version serves", WAIT_LIMIT, || {
            project
                .get_within(ANSWER_LIMIT, &project.host(), "/")
                .is_some_and(|reply| reply.status == 200 && reply.version == version)
        });
        project.start("recover").wait().exits(0);
        project.expect_release("app", 1, &version);
    }
}
