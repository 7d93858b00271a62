//! A release that answers once and then dies is turned away, behind every proxy: what served before serves on, and what is
//! lost is lost for a moment. `ZD_DEATHS="0.1 0.3"` tries other instants, and every one is told with `--no-capture`.

use std::time::Duration;

use crate::cli_runner::RunningCommand;
use crate::multi_service::two_services_behind_haproxy;
use crate::promises::{caddy, dockercloud, haproxy_flags, dockercloud_state, traefik_files, caddy_switches};
use crate::test_project::TestProject;

/// How long requests may fail once the new instance has died, on a machine that runs other tests beside this: well below the
/// 30 s after which a switch that nobody confirms is given up. What it takes on a quiet machine is a figure of a benchmark.
const FAILING_TIME: Duration = Duration::from_secs(10);

/// When a new instance dies, in seconds since its start: before or after the switch, and well within its monitor.
const DEATHS: &str = "0.3 2";

fn deaths() -> Vec<String> {
    let deaths = std::env::var("ZD_DEATHS").unwrap_or(DEATHS.into());
    deaths.split(' ').map(String::from).collect()
}

/// One release after the other dies; version 1 serves through all of it, and nothing of ours is left.
fn expect_rollback(stage: &TestProject, left: impl Fn(&TestProject) -> String) {
    stage.use_default_monitor();
    stage.up("--scale app=1");
    let before = stage.ids("app");
    for (death, version) in deaths().iter().zip(2..) {
        stage.log(&format!("==== it dies {death}s after its start"));
        stage.set_variables(&format!("VERSION={version} EXIT_AFTER={death} EXIT_CODE=7"));
        let (ran, answers) = stage.deploy_under_load("", "app");
        let (lost, failing) = (answers.lost(), answers.failing_time());
        eprintln!("death at {death}s: exit {:?}, {lost} lost within {failing:?}\n{}", ran.code, ran.stderr);
        ran.exits(3).says("exited with code 7").says("served before and still serve");
        assert!(failing < FAILING_TIME, "{lost} requests failed for {failing:?}");
        assert_eq!((stage.ids("app"), stage.states("app")), (before.clone(), vec!["running 1".into()]));
        assert_eq!(left(stage), "", "left in the proxy");
    }
    stage.log("==== one that lives is deployed, and both times are told");
    stage.set_variables("VERSION=100 EXIT_AFTER=0");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0).says("watching it for 5s (Ctrl-C goes back)").says(", done after ");
    answers.all_from(&["1", "100"]);
    assert_eq!((stage.states("app"), left(stage)), (vec!["running 100".into()], String::new()));
}

#[test]
fn behind_nginx_proxy_a_release_that_dies_is_rolled_back() {
    let stage = TestProject::nginx_proxy("mnginx");
    // What the first deploy sets up may cost clients that keep their connection one request.
    expect_rollback(&stage, TestProject::marks);
}

#[test]
fn behind_haproxy_a_release_that_dies_is_rolled_back() {
    let stage = TestProject::haproxy("mhaproxy");
    // A request that is on its way to an instance when it dies waits four times as long.
    let configuration = stage.read("haproxy.cfg").replace("timeout connect 5s", "timeout connect 500ms");
    stage.write("haproxy.cfg", &configuration);
    expect_rollback(&stage, haproxy_flags);
}

#[test]
fn behind_caddy_a_release_that_dies_is_rolled_back() {
    let stage = caddy("mcaddy");
    stage.up("--scale app=1");
    stage.deploy("app --force").exits(0);
    expect_rollback(&stage, caddy_switches);
}

#[test]
fn behind_traefik_a_release_that_dies_is_rolled_back() {
    expect_rollback(&TestProject::traefik("mtraefik"), traefik_files);
}

#[test]
fn behind_dockercloud_a_release_that_dies_is_rolled_back() {
    expect_rollback(&dockercloud("mdockercloud"), dockercloud_state);
}

#[test]
fn behind_haproxy_a_release_that_fails_its_health_check_is_rolled_back_without_a_trace() {
    let stage = TestProject::haproxy("mcheck");
    stage.up("--scale app=1");
    let before = stage.containers();
    stage.set_variables("VERSION=2 HEALTH_STATUS=404");
    let (ran, answers) = stage.deploy_under_load("", "app --health-path /");
    ran.exits(3).says("its own check of `app/app").says("404").says("served before and still serve");
    answers.all_from(&["1"]);
    assert_eq!((stage.containers(), haproxy_flags(&stage)), (before, String::new()));
    stage.set_variables("VERSION=3 HEALTH_STATUS=200");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "3"]);
    assert_eq!((stage.states("app"), haproxy_flags(&stage)), (vec!["running 3".into()], String::new()));
}

/// Ends the instances that a deploy has brought in and watches.
fn kill_watched(stage: &TestProject, deploy: &mut RunningCommand, service: &str) {
    deploy.wait_for("; watching ");
    let started = deploy.reported("started").into_iter().flatten();
    let names: Vec<String> = started.filter(|name| name.starts_with(service)).collect();
    let name = names.last().expect("it was started");
    stage.docker(&format!("kill -s KILL {}-{name}", stage.name));
}

#[test]
fn several_services_are_monitored_together_and_one_death_rolls_back_all() {
    let stage = two_services_behind_haproxy("mtogether");
    stage.use_default_monitor();
    stage.up("");
    let before = [stage.ids("app"), stage.ids("api")];
    let now = || [stage.ids("app"), stage.ids("api")];

    stage.log("==== the one that was switched last dies");
    stage.set_variables("VERSION=2");
    let mut deploy = stage.start_deploy("app api");
    deploy.wait_for("; watching them for 5s");
    kill_watched(&stage, &mut deploy, "api");
    deploy.wait().exits(3).says("api-2 failed after it was ready: it exited with code 137");
    assert_eq!((now(), haproxy_flags(&stage)), (before.clone(), String::new()));

    stage.log("==== both live, and are watched at the same time");
    let ran = stage.deploy("app api");
    ran.exits(0);
    assert_eq!(ran.stderr.matches("; watching ").count(), 1, "one wait for both");
    assert_eq!([stage.states("app"), stage.states("api")], [["running 2"], ["running 2"]]);

    stage.log("==== a release that is put back is watched, too");
    let before = now();
    let mut back = stage.start_rollback("app api");
    kill_watched(&stage, &mut back, "app");
    back.wait().exits(3).says("exited with code 137");
    assert_eq!(stage.states("app"), ["running 2"]);
    assert_eq!((stage.ids("app"), haproxy_flags(&stage)), (before[0].clone(), String::new()));
}

#[test]
fn with_stop_first_the_old_instances_start_again_when_a_new_one_dies() {
    let stage = TestProject::haproxy("mstop");
    stage.use_default_monitor();
    stage.up("--scale app=2");
    let before = stage.ids("app");
    stage.set_variables("VERSION=2");
    let load = stage.start_load("");
    let mut deploy = stage.start_deploy("app --update-order stop-first");
    kill_watched(&stage, &mut deploy, "app");
    deploy.wait().exits(3).says("failed after it was ready").says("served before and still serve");
    eprintln!("{} requests lost to an instance that was killed while it served", load.stop().lost());
    assert_eq!((stage.ids("app"), haproxy_flags(&stage)), (before, String::new()));
    assert_eq!(stage.states("app"), ["running 1", "running 1"]);
}
