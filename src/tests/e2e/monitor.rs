//! A release that answers once and then dies is rolled back behind every proxy: the old release keeps serving, and requests
//! fail only for a moment. `ZD_DEATHS="0.1 0.3"` tries other times of death; `--no-capture` prints each.

use std::time::Duration;

use crate::cli_runner::RunningCommand;
use crate::multi_service::two_services_behind_haproxy;
use crate::promises::{caddy, caddy_switches, dockercloud, dockercloud_state, haproxy_flags, traefik_pins};
use crate::test_project::TestProject;

/// Longest time for which requests may fail after the death, on a busy machine. Well below the 30 s after which an unconfirmed
/// switch is given up. A benchmark measures the time on a quiet machine.
const FAILING_TIME: Duration = Duration::from_secs(10);

/// Times of death of a new instance, in seconds after its start: around the switch, and well within the monitor.
const DEATHS: &str = "0.3 2";

fn deaths() -> Vec<String> {
    let deaths = std::env::var("ZD_DEATHS").unwrap_or(DEATHS.into());
    deaths.split(' ').map(String::from).collect()
}

/// Deploys releases that die at each time; asserts that version 1 keeps serving and no `left` over remains in the proxy.
fn expect_rollback(project: &TestProject, left: impl Fn(&TestProject) -> String) {
    project.use_default_monitor();
    project.up("--scale app=1");
    let before = project.ids("app");
    for (death, version) in deaths().iter().zip(2..) {
        project.log(&format!("==== it dies {death}s after its start"));
        project.set_variables(&format!("VERSION={version} EXIT_AFTER={death} EXIT_CODE=7"));
        let (result, answers) = project.deploy_under_load("", "app");
        let (lost, failing) = (answers.lost(), answers.failing_time());
        eprintln!(
            "death at {death}s: exit {:?}, {lost} lost within {failing:?}\n{}",
            result.code, result.stderr
        );
        result.exits(3).says("exited with code 7").says("served before and still serve");
        assert!(failing < FAILING_TIME, "{lost} requests failed for {failing:?}");
        assert_eq!((project.ids("app"), project.states("app")), (before.clone(), vec!["running 1".into()]));
        assert_eq!(left(project), "", "left in the proxy");
    }
    project.log("==== a release that lives is deployed, and both times are reported");
    project.set_variables("VERSION=100 EXIT_AFTER=0");
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(0).says("watching it for 5s (Ctrl-C rolls back)").says(", done after ");
    answers.all_from(&["1", "100"]);
    assert_eq!((project.states("app"), left(project)), (vec!["running 100".into()], String::new()));
}

#[test]
fn behind_nginx_proxy_a_release_that_dies_is_rolled_back() {
    let project = TestProject::nginx_proxy("mnginx");
    // The setup of the first deploy may cost clients with kept connections one request.
    expect_rollback(&project, TestProject::marks);
}

#[test]
fn behind_haproxy_a_release_that_dies_is_rolled_back() {
    let project = TestProject::haproxy("mhaproxy");
    // A request in flight to an instance that dies waits four times as long.
    let configuration = project.read("haproxy.cfg").replace("timeout connect 5s", "timeout connect 500ms");
    project.write("haproxy.cfg", &configuration);
    expect_rollback(&project, haproxy_flags);
}

#[test]
fn behind_caddy_a_release_that_dies_is_rolled_back() {
    let project = caddy("mcaddy");
    project.up("--scale app=1");
    project.deploy("app --force").exits(0);
    expect_rollback(&project, caddy_switches);
}

#[test]
fn behind_traefik_a_release_that_dies_is_rolled_back() {
    expect_rollback(&TestProject::traefik("mtraefik"), traefik_pins);
}

#[test]
fn behind_dockercloud_a_release_that_dies_is_rolled_back() {
    expect_rollback(&dockercloud("mdockercloud"), dockercloud_state);
}

#[test]
fn behind_haproxy_a_release_that_fails_its_health_check_is_rolled_back_without_a_trace() {
    let project = TestProject::haproxy("mcheck");
    project.up("--scale app=1");
    let before = project.containers();
    project.set_variables("VERSION=2 HEALTH_STATUS=404");
    let (result, answers) = project.deploy_under_load("", "app --health-path /");
    result.exits(3).says("its own check of `app/app").says("404").says("served before and still serve");
    answers.all_from(&["1"]);
    assert_eq!((project.containers(), haproxy_flags(&project)), (before, String::new()));
    project.set_variables("VERSION=3 HEALTH_STATUS=200");
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(0);
    answers.all_from(&["1", "3"]);
    assert_eq!((project.states("app"), haproxy_flags(&project)), (vec!["running 3".into()], String::new()));
}

/// Kills the instances of a service that a deploy is monitoring.
fn kill_watched(project: &TestProject, deploy: &mut RunningCommand, service: &str) {
    deploy.wait_for("; watching ");
    let started = deploy.reported("started").into_iter().flatten();
    let names: Vec<String> = started.filter(|name| name.starts_with(service)).collect();
    let name = names.last().expect("it was started");
    project.docker(&format!("kill -s KILL {}-{name}", project.name));
}

#[test]
fn several_services_are_monitored_together_and_one_death_rolls_back_all() {
    let project = two_services_behind_haproxy("mtogether");
    project.use_default_monitor();
    project.up("");
    let before = [project.ids("app"), project.ids("api")];
    let now = || [project.ids("app"), project.ids("api")];

    project.log("==== the service that was switched last dies");
    project.set_variables("VERSION=2");
    let mut deploy = project.start_deploy("app api");
    deploy.wait_for("; watching them for 5s");
    kill_watched(&project, &mut deploy, "api");
    deploy.wait().exits(3).says("api-2 failed after it was ready: it exited with code 137");
    assert_eq!((now(), haproxy_flags(&project)), (before.clone(), String::new()));

    project.log("==== both live, and are monitored at the same time");
    let result = project.deploy("app api");
    result.exits(0);
    assert_eq!(result.stderr.matches("; watching ").count(), 1, "one wait for both");
    assert_eq!([project.states("app"), project.states("api")], [["running 2"], ["running 2"]]);

    project.log("==== a restored release is monitored, too");
    let before = now();
    let mut back = project.start_rollback("app api");
    kill_watched(&project, &mut back, "app");
    back.wait().exits(3).says("exited with code 137");
    assert_eq!(project.states("app"), ["running 2"]);
    assert_eq!((project.ids("app"), haproxy_flags(&project)), (before[0].clone(), String::new()));
}

#[test]
fn with_stop_first_the_old_instances_start_again_when_a_new_one_dies() {
    let project = TestProject::haproxy("mstop");
    project.use_default_monitor();
    project.up("--scale app=2");
    let before = project.ids("app");
    project.set_variables("VERSION=2");
    let load = project.start_load("");
    let mut deploy = project.start_deploy("app --update-order stop-first");
    kill_watched(&project, &mut deploy, "app");
    deploy.wait().exits(3).says("failed after it was ready").says("served before and still serve");
    eprintln!("{} requests lost to an instance that was killed while it served", load.stop().lost());
    assert_eq!((project.ids("app"), haproxy_flags(&project)), (before, String::new()));
    assert_eq!(project.states("app"), ["running 1", "running 1"]);
}
