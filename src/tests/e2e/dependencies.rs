//! What a service brings along: the services it depends on, its healthcheck, its hooks, its secrets.

use crate::stage::Stage;

const DATABASE: &str = "
services:
  app:
    depends_on: [db]
  db:
    image: ${ZD_APP_IMAGE}
    environment: {SETTING: '${SETTING:-1}'}
";

fn with_database(name: &str) -> Stage {
    let stage = Stage::scale(name);
    stage.add(DATABASE);
    stage.up("--scale app=2");
    stage
}

#[test]
fn a_dependency_that_is_down_is_started() {
    let stage = with_database("dbdown");
    let before = stage.ids("db");
    stage.compose("stop db");
    stage.set("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0).says("starting what it depends on: db");
    answers.all_from(&["1", "2"]);
    assert_eq!(stage.service("db")[0].state, "running");
    assert_eq!(stage.ids("db"), before);
    stage.expect_release("app", 2, "2");
}

#[test]
fn a_dependency_that_runs_is_left_alone_even_if_its_config_changed() {
    let stage = with_database("dbchanged");
    let before = stage.service("db");
    stage.set("VERSION=2 SETTING=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    assert_eq!(stage.service("db"), before);
    stage.expect_release("app", 2, "2");
}

#[test]
fn a_healthchecks_own_command_is_asked() {
    let stage = Stage::scale("check");
    stage.add_fixture("nginx-proxy-scale/compose.healthcheck.yaml");
    stage.up("--scale app=2");
    stage.set("VERSION=2 WARMUP=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0).says("healthcheck → 0");
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 2, "2");
}

#[test]
fn a_healthcheck_that_fails_is_shown_with_what_it_said() {
    let stage = Stage::scale("checkfails");
    stage.add_fixture("nginx-proxy-scale/compose.healthcheck.yaml");
    stage.up("--scale app=2");
    stage.set("VERSION=2 HEALTH_STATUS=500");
    let (ran, answers) = stage.deploy_under_load("", "app --health-deadline 3s");
    ran.exits(3).says("healthcheck → 1").says("not a 2xx");
    answers.all_from(&["1"]);
    stage.expect_release("app", 2, "1");
}

/// The hooks write to a folder of the test; the app's image has no shell.
fn add_hooks(stage: &Stage) {
    stage.write("hooks/started", "");
    let folder = stage.path("hooks");
    stage.add(&format!(
        "
services:
  app:
    volumes: ['{}:/hooks']
    post_start: [{{command: [/sample-app, append, /hooks/started, started]}}]
    pre_stop: [{{command: [/sample-app, append, /hooks/stopped, stopped]}}]
",
        folder.display()
    ));
}

#[test]
fn hooks_run_once_an_instance() {
    let stage = Stage::scale("hooks");
    add_hooks(&stage);
    stage.up("--scale app=2");
    let started = stage.read("hooks/started").lines().count();
    stage.set("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 2, "2");
    let both = ["hooks/started", "hooks/stopped"].map(|f| stage.read(f).lines().count());
    assert_eq!(both, [started + 2, 2]);
}

#[test]
fn the_drain_command_runs_once_in_an_old_instance() {
    let stage = Stage::scale("draincmd");
    stage.write("drains/none", "");
    stage.add(
        "services: {app: {volumes: ['./drains:/drains'], \
         x-zd: {drain: {command: [/sample-app, append, /drains/drained, once]}}}}",
    );
    stage.up("--scale app=2");
    stage.set("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0).never_says("the drain command of");
    answers.all_from(&["1", "2"]);
    assert_eq!(stage.read("drains/drained").lines().count(), 2);
}

#[test]
fn a_secret_made_of_a_variable_is_in_the_new_instance() {
    let stage = Stage::scale("secret");
    stage.add("{services: {app: {secrets: [token]}}, secrets: {token: {environment: TOKEN}}}");
    stage.set("TOKEN=old");
    stage.up("--scale app=2");
    stage.set("VERSION=2 TOKEN=new");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 2, "2");
    for id in stage.ids("app") {
        let token = stage.docker(&format!("exec {id} /sample-app cat /run/secrets/token"));
        assert_eq!(token, "new");
    }
}
