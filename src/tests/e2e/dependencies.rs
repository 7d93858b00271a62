//! What a service brings along: the services it depends on, its healthcheck, its hooks, its secrets.

use crate::stage::Stage;

/// The hooks write to a folder of the test; the app's image has no shell.
const BELONGINGS: &str = "
services:
  app:
    depends_on: [db]
    volumes: ['./told:/told']
    secrets: [token]
    post_start: [{command: [/sample-app, append, /told/started, started]}]
    pre_stop: [{command: [/sample-app, append, /told/stopped, stopped]}]
    x-zd: {drain: {command: [/sample-app, append, /told/drained, once]}}
  db:
    image: ${ZD_APP_IMAGE}
    environment: {SETTING: '${SETTING:-1}'}
secrets: {token: {environment: TOKEN}}
";

#[test]
fn a_new_instance_has_its_dependencies_secrets_and_hooks_and_an_old_one_is_told_to_drain_once() {
    let stage = Stage::scale("belongings");
    stage.write("told/started", "");
    stage.add(BELONGINGS);
    stage.set("TOKEN=old");
    stage.up("--scale app=2");
    let lines = |name: &str| stage.read(&format!("told/{name}")).lines().count();
    let started = lines("started");
    let before = stage.ids("db");

    stage.tell("--- a dependency that is down is started");
    stage.compose("stop db");
    stage.set("VERSION=2 TOKEN=new");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0).says("starting what it depends on: db").never_says("the drain command of");
    answers.all_from(&["1", "2"]);
    assert_eq!((stage.ids("db"), stage.states("db")), (before, vec!["running ".to_string()]));
    stage.expect_release("app", 2, "2");

    stage.tell("--- hooks ran once an instance, and so did the drain command");
    assert_eq!(["started", "stopped", "drained"].map(lines), [started + 2, 2, 2]);

    stage.tell("--- a secret made of a variable is in the new instance");
    for id in stage.ids("app") {
        let token = stage.docker(&format!("exec {id} /sample-app cat /run/secrets/token"));
        assert_eq!(token, "new");
    }

    stage.tell("--- a dependency that runs is left alone even if its config changed");
    let before = stage.service("db");
    stage.set("VERSION=3 SETTING=2");
    let (ran, answers) = stage.deploy_under_load("", "app --scale app=1");
    ran.exits(0);
    answers.all_from(&["2", "3"]);
    assert_eq!(stage.service("db"), before);
    stage.expect_release("app", 1, "3");
}

#[test]
fn a_healthchecks_own_command_is_asked_and_shown_with_what_it_said() {
    let stage = Stage::scale("check");
    stage.add_fixture("nginx-proxy-scale/compose.healthcheck.yaml");
    stage.up("");
    stage.set("VERSION=2 WARMUP=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0).says("healthcheck → 0");
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 1, "2");
    stage.set("VERSION=3 WARMUP=0 HEALTH_STATUS=500");
    let (ran, answers) = stage.deploy_under_load("", "app --health-deadline 3s");
    ran.exits(3).says("healthcheck → 1").says("not a 2xx");
    answers.all_from(&["2"]);
    stage.expect_release("app", 1, "2");
}
