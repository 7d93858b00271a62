//! nginx-proxy: its versions, its project, and clients with kept connections.

use crate::test_project::TestProject;

/// The first deploy changes the settings of the proxy by an unprotected reload, so only later deploys are counted.
#[test]
fn clients_with_kept_connections_lose_no_request() {
    let project = TestProject::nginx_proxy("kept");
    project.up("--scale app=2");
    project.set_variables("VERSION=2");
    project.deploy("app").exits(0);
    project.wait_until_all_answer();
    project.set_variables("VERSION=3");
    let kinds = ["", "--method POST --body 2000", "--method POST --body 100 --think 1s"];
    let loads = kinds.map(|words| project.start_load(&format!("--keep-alive --clients 4 {words}")));
    project.deploy("app").exits(0);
    for load in loads {
        load.stop().all_from(&["2", "3"]);
    }
    project.expect_release("app", 2, "3");
}

/// Two reloads; a third on a busy host, if the events of one step come further apart than docker-gen waits.
#[test]
fn an_older_nginx_loses_no_request_and_reloads_rarely() {
    let project = TestProject::nginx_proxy("old");
    let old = project.variable("NGINX_PROXY_OLD_IMAGE");
    assert_ne!(old, "", "name an image with nginx before 1.27.4");
    project.set_variables(&format!("NGINX_PROXY_IMAGE={old}"));
    project.up("--scale app=2");
    let before = project.reloads();
    project.set_variables("VERSION=2");
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(0).never_says("set `keepalive_min_timeout`").says("older than 1.27.4");
    answers.all_from(&["1", "2"]);
    let reloads = project.reloads() - before;
    assert!(reloads <= 3, "{reloads} reloads");
    project.expect_release("app", 2, "2");
}

#[test]
fn a_proxy_of_another_project_is_found() {
    let project = TestProject::shared_proxy("shared");
    project.up("");
    project.set_variables("VERSION=2");
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(0).says("behind nginx-proxy `zde2e-shared-proxy-proxy-1`");
    answers.all_from(&["1", "2"]);
    project.expect_release("app", 1, "2");
}
