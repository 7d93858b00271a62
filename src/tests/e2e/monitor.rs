//! A release that answers once and then dies is turned away, behind every proxy: what served before serves on, and what is
//! lost is lost for a moment. `ZD_DEATHS="0.1 0.3"` tries other instants, and every one is told with `--no-capture`.

use std::time::Duration;

use crate::cli_runner::Running;
use crate::multi_service::two_behind_haproxy;
use crate::promises::{caddy, dockercloud, flags, frozen, routes, switched_on};
use crate::test_project::Stage;

/// How long requests may fail once the new instance has died, on a machine that runs other tests beside this: well below the
/// 30 s after which a switch that nobody confirms is given up. What it takes on a quiet machine is a figure of a benchmark.
const FAILING: Duration = Duration::from_secs(10);

/// When a new instance dies, in seconds since its start: before or after the switch, and well within its monitor.
const DEATHS: &str = "0.3 2";

fn deaths() -> Vec<String> {
    let deaths = std::env::var("ZD_DEATHS").unwrap_or(DEATHS.into());
    deaths.split(' ').map(String::from).collect()
}

/// One release after the other dies; version 1 serves through all of it, and nothing of ours is left.
fn turns_away(stage: &Stage, left: impl Fn(&Stage) -> String) {
    stage.keep_the_default_monitor();
    stage.up("--scale app=1");
    let before = stage.ids("app");
    for (death, version) in deaths().iter().zip(2..) {
        stage.tell(&format!("==== it dies {death}s after its start"));
        stage.set(&format!("VERSION={version} EXIT_AFTER={death} EXIT_CODE=7"));
        let (ran, answers) = stage.deploy_under_load("", "app");
        let (lost, failing) = (answers.lost(), answers.failing());
        eprintln!("death at {death}s: exit {:?}, {lost} lost within {failing:?}\n{}", ran.code, ran.stderr);
        ran.exits(3).says("exited with code 7").says("served before and still serve");
        assert!(failing < FAILING, "{lost} requests failed for {failing:?}");
        assert_eq!((stage.ids("app"), stage.states("app")), (before.clone(), vec!["running 1".into()]));
        assert_eq!(left(stage), "", "left in the proxy");
    }
    stage.tell("==== one that lives is deployed, and both times are told");
    stage.set("VERSION=100 EXIT_AFTER=0");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0).says("watching it for 5s (Ctrl-C goes back)").says(", done after ");
    answers.all_from(&["1", "100"]);
    assert_eq!((stage.states("app"), left(stage)), (vec!["running 100".into()], String::new()));
}

#[test]
fn behind_nginx_proxy_a_release_that_dies_is_rolled_back() {
    let stage = Stage::scale("mnginx");
    // What the first deploy sets up may cost clients that keep their connection one request.
    turns_away(&stage, Stage::marks);
}

#[test]
fn behind_haproxy_a_release_that_dies_is_rolled_back() {
    let stage = Stage::haproxy("mhaproxy");
    // A request that is on its way to an instance when it dies waits four times as long.
    let configuration = stage.read("haproxy.cfg").replace("timeout connect 5s", "timeout connect 500ms");
    stage.write("haproxy.cfg", &configuration);
    turns_away(&stage, flags);
}

#[test]
fn behind_caddy_a_release_that_dies_is_rolled_back() {
    let stage = caddy("mcaddy");
    stage.up("--scale app=1");
    stage.deploy("app --force").exits(0);
    turns_away(&stage, switched_on);
}

#[test]
fn behind_traefik_a_release_that_dies_is_rolled_back() {
    turns_away(&Stage::traefik("mtraefik"), routes);
}

#[test]
fn behind_dockercloud_a_release_that_dies_is_rolled_back() {
    turns_away(&dockercloud("mdockercloud"), frozen);
}

#[test]
fn behind_haproxy_a_release_that_fails_its_health_check_is_rolled_back_without_a_trace() {
    let stage = Stage::haproxy("mcheck");
    stage.up("--scale app=1");
    let before = stage.containers();
    stage.set("VERSION=2 HEALTH_STATUS=404");
    let (ran, answers) = stage.deploy_under_load("", "app --health-path /");
    ran.exits(3).says("its own check of `app/app").says("404").says("served before and still serve");
    answers.all_from(&["1"]);
    assert_eq!((stage.containers(), flags(&stage)), (before, String::new()));
    stage.set("VERSION=3 HEALTH_STATUS=200");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "3"]);
    assert_eq!((stage.states("app"), flags(&stage)), (vec!["running 3".into()], String::new()));
}

/// Ends the instances that a deploy has brought in and watches.
fn kill_watched(stage: &Stage, deploy: &mut Running, service: &str) {
    deploy.wait_for("; watching ");
    let started = deploy.said("started").into_iter().flatten();
    let names: Vec<String> = started.filter(|name| name.starts_with(service)).collect();
    let name = names.last().expect("it was started");
    stage.docker(&format!("kill -s KILL {}-{name}", stage.project));
}

#[test]
fn several_services_are_monitored_together_and_one_death_rolls_back_all() {
    let stage = two_behind_haproxy("mtogether");
    stage.keep_the_default_monitor();
    stage.up("");
    let before = [stage.ids("app"), stage.ids("api")];
    let now = || [stage.ids("app"), stage.ids("api")];

    stage.tell("==== the one that was switched last dies");
    stage.set("VERSION=2");
    let mut deploy = stage.start_deploy("app api");
    deploy.wait_for("; watching them for 5s");
    kill_watched(&stage, &mut deploy, "api");
    deploy.end().exits(3).says("api-2 failed after it was ready: it exited with code 137");
    assert_eq!((now(), flags(&stage)), (before.clone(), String::new()));

    stage.tell("==== both live, and are watched at the same time");
    let ran = stage.deploy("app api");
    ran.exits(0);
    assert_eq!(ran.stderr.matches("; watching ").count(), 1, "one wait for both");
    assert_eq!([stage.states("app"), stage.states("api")], [["running 2"], ["running 2"]]);

    stage.tell("==== a release that is put back is watched, too");
    let before = now();
    let mut back = stage.start_rollback("app api");
    kill_watched(&stage, &mut back, "app");
    back.end().exits(3).says("exited with code 137");
    assert_eq!(stage.states("app"), ["running 2"]);
    assert_eq!((stage.ids("app"), flags(&stage)), (before[0].clone(), String::new()));
}

#[test]
fn with_stop_first_the_old_instances_start_again_when_a_new_one_dies() {
    let stage = Stage::haproxy("mstop");
    stage.keep_the_default_monitor();
    stage.up("--scale app=2");
    let before = stage.ids("app");
    stage.set("VERSION=2");
    let load = stage.start_load("");
    let mut deploy = stage.start_deploy("app --update-order stop-first");
    kill_watched(&stage, &mut deploy, "app");
    deploy.end().exits(3).says("failed after it was ready").says("served before and still serve");
    eprintln!("{} requests lost to an instance that was killed while it served", load.end().lost());
    assert_eq!((stage.ids("app"), flags(&stage)), (before, String::new()));
    assert_eq!(stage.states("app"), ["running 1", "running 1"]);
}
