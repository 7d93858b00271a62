//! What nginx-proxy is like: its version, its project, and clients that keep their connections.

use crate::test_project::TestProject;

/// The first deploy changes the proxy's settings by a reload that nothing protects yet; the others are what counts.
#[test]
fn clients_with_kept_connections_lose_no_request() {
    let stage = TestProject::nginx_proxy("kept");
    stage.up("--scale app=2");
    stage.set_variables("VERSION=2");
    stage.deploy("app").exits(0);
    stage.wait_until_all_answer();
    stage.set_variables("VERSION=3");
    let kinds = ["", "--method POST --body 2000", "--method POST --body 100 --think 1s"];
    let loads = kinds.map(|words| stage.start_load(&format!("--keep-alive --clients 4 {words}")));
    stage.deploy("app").exits(0);
    for load in loads {
        load.stop().all_from(&["2", "3"]);
    }
    stage.expect_release("app", 2, "3");
}

/// Two reloads, and a third where a busy host drives the events of one step apart by more than docker-gen waits.
#[test]
fn an_older_nginx_loses_no_request_and_reloads_rarely() {
    let stage = TestProject::nginx_proxy("old");
    let old = stage.variable("NGINX_PROXY_OLD_IMAGE");
    assert_ne!(old, "", "name an image with nginx before 1.27.4");
    stage.set_variables(&format!("NGINX_PROXY_IMAGE={old}"));
    stage.up("--scale app=2");
    let before = stage.reloads();
    stage.set_variables("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0).never_says("set `keepalive_min_timeout`").says("older than 1.27.4");
    answers.all_from(&["1", "2"]);
    let reloads = stage.reloads() - before;
    assert!(reloads <= 3, "{reloads} reloads");
    stage.expect_release("app", 2, "2");
}

#[test]
fn a_proxy_of_another_project_is_found() {
    let stage = TestProject::shared_proxy("shared");
    stage.up("");
    stage.set_variables("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0).says("behind nginx-proxy `zde2e-shared-proxy-proxy-1`");
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 1, "2");
}
