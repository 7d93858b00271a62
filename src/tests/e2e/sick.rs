//! A current release that is broken can always be deployed over, and what of it still serves goes on serving until then.

use std::time::{Duration, Instant};

use crate::stage::{Container, LONG, Stage, wait_until};

const HEALTHCHECK: &str = "healthcheck: {test: [CMD, /sample-app, probe], interval: 500ms, timeout: 2s, retries: 1, start_period: 0s}";

/// Adds one more instance that behaves as `settings` say; those that are there stay as they are.
fn one_more(stage: &Stage, count: usize, settings: &str, gets: &str) {
    stage.set(settings);
    stage.compose(&format!("up -d --no-deps --no-recreate --scale app={count} app"));
    let status = |id: &str| stage.docker(&format!("ps -a --filter id={id} --format {{{{.Status}}}}"));
    wait_until(gets, LONG, || stage.ids("app").iter().any(|id| status(id).contains(gets)));
}

/// One crash-loops, one is unhealthy, one was stopped by somebody, and one serves.
fn sick(stage: &Stage) {
    stage.add(&format!("services: {{app: {{deploy: {{replicas: 3}}, {HEALTHCHECK}}}}}"));
    stage.up("--scale app=1");
    let first = stage.ids("app");
    one_more(stage, 2, "EXIT_AFTER=0.3", "Restarting");
    one_more(stage, 3, "EXIT_AFTER=0 HEALTH_STATUS=500", "unhealthy");
    one_more(stage, 4, "HEALTH_STATUS=200", "(healthy)");
    let id = first.first().expect("the first");
    stage.docker(&format!("stop {id}"));
}

/// Those that neither crash nor start while one looks.
fn steady(stage: &Stage) -> Vec<Container> {
    let (before, now) = (stage.service("app"), Instant::now());
    wait_until("a second", LONG, || now.elapsed() > Duration::from_secs(1));
    let stays = |c: &Container| before.contains(c) && c.state != "restarting";
    stage.service("app").into_iter().filter(stays).collect()
}

/// A broken deploy leaves all that is steady as it is; a good one leaves exactly the new release.
fn is_deployed_over(stage: &Stage, words: &str) {
    let (before, steady) = (stage.ids("app"), steady(stage));
    stage.set("VERSION=2 STATUS=500 HEALTH_STATUS=500");
    stage.deploy(&format!("app --health-path / --health-deadline 3s {words}")).exits(3);
    assert_eq!(stage.ids("app"), before);
    let now = stage.service("app");
    assert!(steady.iter().all(|c| now.contains(c)), "{steady:?} {now:?}");
    stage.set("VERSION=3 STATUS=200 HEALTH_STATUS=200");
    stage.deploy(&format!("app {words}")).exits(0);
    stage.expect_release("app", 3, "3");
}

#[test]
fn a_sick_release_behind_nginx_proxy_is_deployed_over() {
    let stage = Stage::scale("sicknginx");
    sick(&stage);
    is_deployed_over(&stage, "");
}

#[test]
fn a_sick_release_is_deployed_over_one_by_one() {
    let stage = Stage::scale("sickone");
    sick(&stage);
    is_deployed_over(&stage, "--update-parallelism 1");
}

#[test]
fn a_sick_release_behind_haproxy_is_deployed_over() {
    let stage = Stage::haproxy("sickhaproxy");
    sick(&stage);
    is_deployed_over(&stage, "");
}

#[test]
fn a_sick_release_behind_traefik_is_deployed_over() {
    let stage = Stage::traefik("sicktraefik");
    sick(&stage);
    is_deployed_over(&stage, "");
}

#[test]
fn versions_that_another_tool_left_mixed_are_deployed_over() {
    let stage = Stage::scale("sickmixed");
    stage.up("--scale app=2");
    stage.set("VERSION=2");
    stage.up("--no-recreate --scale app=3");
    let before = stage.containers();
    let load = stage.start_load("--rate 200");
    stage.set("VERSION=3 STATUS=500");
    stage.deploy("app --health-deadline 3s").exits(3);
    assert_eq!(stage.containers(), before);
    stage.set("VERSION=4 STATUS=200");
    stage.deploy("app --update-parallelism 1").exits(0);
    load.end().all_from(&["1", "2", "4"]);
    stage.expect_release("app", 3, "4");
}

#[test]
fn a_paused_instance_is_deployed_over() {
    let stage = Stage::scale("sickpaused");
    stage.up("--scale app=3");
    let first = stage.ids("app").pop_first().expect("three instances");
    stage.docker(&format!("pause {first}"));
    is_deployed_over(&stage, "--scale app=3");
}

#[test]
fn a_release_of_which_nothing_runs_for_long_is_deployed_over() {
    let stage = Stage::scale("sickall");
    stage.set("EXIT_AFTER=0.3");
    stage.compose("up -d --scale app=3");
    wait_until("a crash", LONG, || stage.service("app").iter().any(|c| c.state == "restarting"));
    stage.set("EXIT_AFTER=0");
    is_deployed_over(&stage, "--scale app=3");
}
