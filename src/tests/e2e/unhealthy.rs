//! A current release that is broken can always be deployed over, and what of it still serves goes on serving until then.

use std::fs;
use std::time::{Duration, Instant};

use crate::test_project::{Container, WAIT_LIMIT, TestProject, wait_until};

const HEALTHCHECK: &str =
    "healthcheck: {test: [CMD, /sample-app, probe], interval: 3s, timeout: 2s, retries: 1, start_period: 0s}";

/// Adds one more instance that behaves as `settings` say; those that are there stay as they are.
fn start_instance(stage: &TestProject, count: usize, settings: &str, gets: &str) {
    stage.set_variables(settings);
    stage.compose(&format!("up -d --no-deps --no-recreate --scale app={count} app"));
    let status = |id: &str| stage.docker(&format!("ps -a --filter id={id} --format {{{{.Status}}}}"));
    wait_until(gets, WAIT_LIMIT, || stage.ids("app").iter().any(|id| status(id).contains(gets)));
}

/// One crash-loops, one is unhealthy, one was stopped by somebody, and one serves; two are to run.
fn make_unhealthy(stage: &TestProject) {
    stage.write_override(&format!("services: {{app: {{deploy: {{replicas: 2}}, {HEALTHCHECK}}}}}"));
    stage.up("--scale app=1");
    let first = stage.ids("app");
    start_instance(stage, 2, "EXIT_AFTER=0.3", "Restarting");
    start_instance(stage, 3, "EXIT_AFTER=0 HEALTH_STATUS=500", "unhealthy");
    start_instance(stage, 4, "HEALTH_STATUS=200", "(healthy)");
    let id = first.first().expect("the first");
    stage.docker(&format!("stop -t 1 {id}"));
}

/// Those that neither crash nor start while one looks.
fn unchanged_containers(stage: &TestProject) -> Vec<Container> {
    let (before, now) = (stage.service_containers("app"), Instant::now());
    wait_until("a second", WAIT_LIMIT, || now.elapsed() > Duration::from_secs(1));
    let stays = |c: &Container| before.contains(c) && c.state != "restarting";
    stage.service_containers("app").into_iter().filter(stays).collect()
}

/// A broken deploy leaves all that is steady as it is; a good one leaves exactly the new release.
fn deploy_over_unhealthy(stage: &TestProject, promise: &str, words: &str, [broken, good]: [&str; 2]) {
    stage.log(&format!("==== deployed over: {promise}"));
    let (before, steady) = (stage.ids("app"), unchanged_containers(stage));
    stage.set_variables(&format!("VERSION={broken} STATUS=500 HEALTH_STATUS=500"));
    stage.deploy(&format!("app --health-path / --health-deadline 3s {words}")).exits(3);
    assert_eq!(stage.ids("app"), before);
    let now = stage.service_containers("app");
    assert!(steady.iter().all(|c| now.contains(c)), "{steady:?} {now:?}");
    stage.set_variables(&format!("VERSION={good} STATUS=200 HEALTH_STATUS=200"));
    stage.deploy(&format!("app {words}")).exits(0);
    stage.expect_release("app", 2, good);
}

/// As on a project that was never deployed: else a deploy that fails puts the last good release back.
fn remove_releases(stage: &TestProject) {
    stage.keepers().iter().for_each(|keeper| _ = stage.docker(&format!("rm {keeper}")));
    stage.release_tags().iter().for_each(|tag| _ = stage.docker(&format!("image rm {tag}")));
    fs::remove_dir_all(stage.path(".compose-zd")).expect("its releases");
}

#[test]
fn behind_nginx_proxy_an_unhealthy_paused_or_mixed_release_is_replaced()
 {
    let stage = TestProject::nginx_proxy("sicknginx");
    make_unhealthy(&stage);
    deploy_over_unhealthy(&stage, "a sick release, one by one", "--update-parallelism 1", ["2", "3"]);

    remove_releases(&stage);
    stage.write_override("{}");
    let first = stage.ids("app").pop_first().expect("two instances");
    stage.docker(&format!("pause {first}"));
    deploy_over_unhealthy(&stage, "a paused instance", "--scale app=2", ["4", "5"]);

    stage.log("==== deployed over: versions that another tool left mixed");
    remove_releases(&stage);
    stage.up("--scale app=1");
    stage.set_variables("VERSION=6");
    stage.up("--no-recreate --scale app=2");
    let before = stage.containers();
    let load = stage.start_load("--rate 200 --seconds 300");
    stage.set_variables("VERSION=7 STATUS=500");
    stage.deploy("app --health-deadline 3s").exits(3);
    assert_eq!(stage.containers(), before);
    stage.set_variables("VERSION=8 STATUS=200");
    stage.deploy("app --update-parallelism 1").exits(0);
    load.stop().all_from(&["5", "6", "8"]);
    stage.expect_release("app", 2, "8");

    remove_releases(&stage);
    stage.set_variables("EXIT_AFTER=0.3");
    stage.compose("up -d --scale app=2");
    wait_until("a crash", WAIT_LIMIT, || stage.service_containers("app").iter().any(|c| c.state == "restarting"));
    stage.set_variables("EXIT_AFTER=0");
    stage.log("==== deployed over: a release of which nothing runs for long");
    stage.set_variables("VERSION=9");
    stage.deploy("app --health-path / --scale app=2").exits(0);
    stage.expect_release("app", 2, "9");
}

#[test]
fn behind_traefik_an_unhealthy_release_is_replaced() {
    let stage = TestProject::traefik("sicktraefik");
    make_unhealthy(&stage);
    deploy_over_unhealthy(&stage, "a sick release", "", ["2", "3"]);
}
