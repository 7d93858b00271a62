//! Deploys over a broken release always work, and its instances that still serve keep serving until then.

use std::fs;
use std::time::{Duration, Instant};

use crate::test_project::{Container, TestProject, WAIT_LIMIT, wait_until};

const HEALTHCHECK: &str =
    "healthcheck: {test: [CMD, /sample-app, probe], interval: 3s, timeout: 2s, retries: 1, start_period: 0s}";

/// Adds one instance with these settings, waits for its status, and leaves the others unchanged.
fn start_instance(project: &TestProject, count: usize, settings: &str, expected: &str) {
    project.set_variables(settings);
    project.compose(&format!("up -d --no-deps --no-recreate --scale app={count} app"));
    let status = |id: &str| project.docker(&format!("ps -a --filter id={id} --format {{{{.Status}}}}"));
    wait_until(expected, WAIT_LIMIT, || project.ids("app").iter().any(|id| status(id).contains(expected)));
}

/// Creates four instances although two are desired: one in a crash loop, one unhealthy, one stopped, and one that serves.
fn make_unhealthy(project: &TestProject) {
    project.write_override(&format!("services: {{app: {{deploy: {{replicas: 2}}, {HEALTHCHECK}}}}}"));
    project.up("--scale app=1");
    let first = project.ids("app");
    start_instance(project, 2, "EXIT_AFTER=0.3", "Restarting");
    start_instance(project, 3, "EXIT_AFTER=0 HEALTH_STATUS=500", "unhealthy");
    start_instance(project, 4, "HEALTH_STATUS=200", "(healthy)");
    let id = first.first().expect("the first");
    project.docker(&format!("stop -t 1 {id}"));
}

/// Containers that stay unchanged for a second.
fn unchanged_containers(project: &TestProject) -> Vec<Container> {
    let (before, now) = (project.service_containers("app"), Instant::now());
    wait_until("a second", WAIT_LIMIT, || now.elapsed() > Duration::from_secs(1));
    let stays = |c: &Container| before.contains(c) && c.state != "restarting";
    project.service_containers("app").into_iter().filter(stays).collect()
}

/// Asserts that a broken deploy leaves all steady containers unchanged, and that a good deploy leaves exactly the new release.
fn deploy_over_unhealthy(project: &TestProject, case: &str, flags: &str, [broken, good]: [&str; 2]) {
    project.log(&format!("==== deployed over: {case}"));
    let (before, steady) = (project.ids("app"), unchanged_containers(project));
    project.set_variables(&format!("VERSION={broken} STATUS=500 HEALTH_STATUS=500"));
    project.deploy(&format!("app --health-path / --health-deadline 3s {flags}")).exits(3);
    assert_eq!(project.ids("app"), before);
    let now = project.service_containers("app");
    assert!(steady.iter().all(|c| now.contains(c)), "{steady:?} {now:?}");
    project.set_variables(&format!("VERSION={good} STATUS=200 HEALTH_STATUS=200"));
    project.deploy(&format!("app {flags}")).exits(0);
    project.expect_release("app", 2, good);
}

/// Removes the recorded releases, because a failed deploy would restore the last good one.
fn remove_releases(project: &TestProject) {
    project.keepers().iter().for_each(|keeper| _ = project.docker(&format!("rm {keeper}")));
    project.release_tags().iter().for_each(|tag| _ = project.docker(&format!("image rm {tag}")));
    fs::remove_dir_all(project.path(".compose-zd")).expect("its releases");
}

#[test]
fn behind_nginx_proxy_an_unhealthy_paused_or_mixed_release_is_replaced() {
    let project = TestProject::nginx_proxy("sicknginx");
    make_unhealthy(&project);
    deploy_over_unhealthy(&project, "an unhealthy release, one by one", "--update-parallelism 1", ["2", "3"]);

    remove_releases(&project);
    project.write_override("{}");
    let first = project.ids("app").pop_first().expect("two instances");
    project.docker(&format!("pause {first}"));
    deploy_over_unhealthy(&project, "a paused instance", "--scale app=2", ["4", "5"]);

    project.log("==== over a release with versions mixed by another tool");
    remove_releases(&project);
    project.up("--scale app=1");
    project.set_variables("VERSION=6");
    project.up("--no-recreate --scale app=2");
    let before = project.containers();
    let load = project.start_load("--rate 200 --seconds 300");
    project.set_variables("VERSION=7 STATUS=500");
    project.deploy("app --health-deadline 3s").exits(3);
    assert_eq!(project.containers(), before);
    project.set_variables("VERSION=8 STATUS=200");
    project.deploy("app --update-parallelism 1").exits(0);
    load.stop().all_from(&["5", "6", "8"]);
    project.expect_release("app", 2, "8");

    remove_releases(&project);
    project.set_variables("EXIT_AFTER=0.3");
    project.compose("up -d --scale app=2");
    wait_until("a crash", WAIT_LIMIT, || {
        project.service_containers("app").iter().any(|c| c.state == "restarting")
    });
    project.set_variables("EXIT_AFTER=0");
    project.log("==== over a release that keeps crashing");
    project.set_variables("VERSION=9");
    project.deploy("app --health-path / --scale app=2").exits(0);
    project.expect_release("app", 2, "9");
}

#[test]
fn behind_traefik_an_unhealthy_release_is_replaced() {
    let project = TestProject::traefik("sicktraefik");
    make_unhealthy(&project);
    deploy_over_unhealthy(&project, "an unhealthy release", "", ["2", "3"]);
}
