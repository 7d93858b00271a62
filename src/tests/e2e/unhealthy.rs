//! A current release that is broken can always be deployed over, and what of it still serves goes on serving until then.

use std::fs;
use std::time::{Duration, Instant};

use crate::test_project::{Container, LONG, Stage, wait_until};

const HEALTHCHECK: &str =
    "healthcheck: {test: [CMD, /sample-app, probe], interval: 3s, timeout: 2s, retries: 1, start_period: 0s}";

/// Adds one more instance that behaves as `settings` say; those that are there stay as they are.
fn one_more(stage: &Stage, count: usize, settings: &str, gets: &str) {
    stage.set(settings);
    stage.compose(&format!("up -d --no-deps --no-recreate --scale app={count} app"));
    let status = |id: &str| stage.docker(&format!("ps -a --filter id={id} --format {{{{.Status}}}}"));
    wait_until(gets, LONG, || stage.ids("app").iter().any(|id| status(id).contains(gets)));
}

/// One crash-loops, one is unhealthy, one was stopped by somebody, and one serves; two are to run.
fn sick(stage: &Stage) {
    stage.add(&format!("services: {{app: {{deploy: {{replicas: 2}}, {HEALTHCHECK}}}}}"));
    stage.up("--scale app=1");
    let first = stage.ids("app");
    one_more(stage, 2, "EXIT_AFTER=0.3", "Restarting");
    one_more(stage, 3, "EXIT_AFTER=0 HEALTH_STATUS=500", "unhealthy");
    one_more(stage, 4, "HEALTH_STATUS=200", "(healthy)");
    let id = first.first().expect("the first");
    stage.docker(&format!("stop -t 1 {id}"));
}

/// Those that neither crash nor start while one looks.
fn steady(stage: &Stage) -> Vec<Container> {
    let (before, now) = (stage.service("app"), Instant::now());
    wait_until("a second", LONG, || now.elapsed() > Duration::from_secs(1));
    let stays = |c: &Container| before.contains(c) && c.state != "restarting";
    stage.service("app").into_iter().filter(stays).collect()
}

/// A broken deploy leaves all that is steady as it is; a good one leaves exactly the new release.
fn is_deployed_over(stage: &Stage, promise: &str, words: &str, [broken, good]: [&str; 2]) {
    stage.tell(&format!("==== deployed over: {promise}"));
    let (before, steady) = (stage.ids("app"), steady(stage));
    stage.set(&format!("VERSION={broken} STATUS=500 HEALTH_STATUS=500"));
    stage.deploy(&format!("app --health-path / --health-deadline 3s {words}")).exits(3);
    assert_eq!(stage.ids("app"), before);
    let now = stage.service("app");
    assert!(steady.iter().all(|c| now.contains(c)), "{steady:?} {now:?}");
    stage.set(&format!("VERSION={good} STATUS=200 HEALTH_STATUS=200"));
    stage.deploy(&format!("app {words}")).exits(0);
    stage.expect_release("app", 2, good);
}

/// As on a project that was never deployed: else a deploy that fails puts the last good release back.
fn forget_releases(stage: &Stage) {
    stage.keepers().iter().for_each(|keeper| _ = stage.docker(&format!("rm {keeper}")));
    stage.release_tags().iter().for_each(|tag| _ = stage.docker(&format!("image rm {tag}")));
    fs::remove_dir_all(stage.path(".compose-zd")).expect("its releases");
}

#[test]
fn behind_nginx_proxy_an_unhealthy_paused_or_mixed_release_is_replaced()
 {
    let stage = Stage::scale("sicknginx");
    sick(&stage);
    is_deployed_over(&stage, "a sick release, one by one", "--update-parallelism 1", ["2", "3"]);

    forget_releases(&stage);
    stage.add("{}");
    let first = stage.ids("app").pop_first().expect("two instances");
    stage.docker(&format!("pause {first}"));
    is_deployed_over(&stage, "a paused instance", "--scale app=2", ["4", "5"]);

    stage.tell("==== deployed over: versions that another tool left mixed");
    forget_releases(&stage);
    stage.up("--scale app=1");
    stage.set("VERSION=6");
    stage.up("--no-recreate --scale app=2");
    let before = stage.containers();
    let load = stage.start_load("--rate 200 --seconds 300");
    stage.set("VERSION=7 STATUS=500");
    stage.deploy("app --health-deadline 3s").exits(3);
    assert_eq!(stage.containers(), before);
    stage.set("VERSION=8 STATUS=200");
    stage.deploy("app --update-parallelism 1").exits(0);
    load.end().all_from(&["5", "6", "8"]);
    stage.expect_release("app", 2, "8");

    forget_releases(&stage);
    stage.set("EXIT_AFTER=0.3");
    stage.compose("up -d --scale app=2");
    wait_until("a crash", LONG, || stage.service("app").iter().any(|c| c.state == "restarting"));
    stage.set("EXIT_AFTER=0");
    stage.tell("==== deployed over: a release of which nothing runs for long");
    stage.set("VERSION=9");
    stage.deploy("app --health-path / --scale app=2").exits(0);
    stage.expect_release("app", 2, "9");
}

#[test]
fn behind_traefik_an_unhealthy_release_is_replaced() {
    let stage = Stage::traefik("sicktraefik");
    sick(&stage);
    is_deployed_over(&stage, "a sick release", "", ["2", "3"]);
}
