//! What a service brings along: the services it depends on, its healthcheck, its hooks, its secrets.

use crate::test_project::TestProject;

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
fn a_new_instance_gets_dependencies_secrets_and_hooks_and_the_old_one_drains_once() {
    let stage = TestProject::nginx_proxy("belongings");
    stage.write("told/started", "");
    stage.write_override(BELONGINGS);
    stage.set_variables("TOKEN=old");
    stage.up("--scale app=2");
    let lines = |name: &str| stage.read(&format!("told/{name}")).lines().count();
    let started = lines("started");
    let before = stage.ids("db");

    stage.log("--- a dependency that is down is started");
    stage.compose("stop db");
    stage.set_variables("VERSION=2 TOKEN=new");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0).says("starting what it depends on: db").never_says("the drain command of");
    answers.all_from(&["1", "2"]);
    assert_eq!((stage.ids("db"), stage.states("db")), (before, vec!["running ".to_string()]));
    stage.expect_release("app", 2, "2");

    stage.log("--- hooks ran once an instance, and so did the drain command");
    assert_eq!(["started", "stopped", "drained"].map(lines), [started + 2, 2, 2]);

    stage.log("--- a secret made of a variable is in the new instance");
    for id in stage.ids("app") {
        let token = stage.docker(&format!("exec {id} /sample-app cat /run/secrets/token"));
        assert_eq!(token, "new");
    }

    stage.log("--- a dependency that runs is left alone even if its config changed");
    let before = stage.service_containers("db");
    stage.set_variables("VERSION=3 SETTING=2");
    let (ran, answers) = stage.deploy_under_load("", "app --scale app=1");
    ran.exits(0);
    answers.all_from(&["2", "3"]);
    assert_eq!(stage.service_containers("db"), before);
    stage.expect_release("app", 1, "3");
}

#[test]
fn the_command_of_a_healthcheck_is_run_and_its_output_shown() {
    let stage = TestProject::nginx_proxy("check");
    stage.copy_override("nginx-proxy-scale/compose.healthcheck.yaml");
    stage.up("");
    stage.set_variables("VERSION=2 WARMUP=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0).says("healthcheck → 0");
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 1, "2");
    stage.set_variables("VERSION=3 WARMUP=0 HEALTH_STATUS=500");
    let (ran, answers) = stage.deploy_under_load("", "app --health-deadline 3s");
    ran.exits(3).says("healthcheck → 1").says("not a 2xx");
    answers.all_from(&["2"]);
    stage.expect_release("app", 1, "2");
}

/// Beside `app`: one that is routed to, one that is not, and one that only needs it.
const DEPENDENTS: &str = "
services:
  worker:
    image: ${ZD_APP_IMAGE}
    depends_on: {app: {condition: service_started, restart: true}}
  web:
    image: ${ZD_APP_IMAGE}
    environment: {VIRTUAL_HOST: '${SECOND_HOST}'}
    depends_on: {app: {condition: service_started, restart: true}}
  other:
    image: ${ZD_APP_IMAGE}
    depends_on: [app]
";

#[test]
fn a_dependent_with_restart_true_is_restarted_or_rolled_with_its_dependency() {
    let stage = TestProject::nginx_proxy("dependents");
    stage.write_override(DEPENDENTS);
    stage.set_variables(&format!("SECOND_HOST=web.{}", stage.host()));
    stage.up("");
    let started = |service: &str| {
        let ids = stage.ids(service).into_iter().collect::<Vec<_>>().join(" ");
        stage.docker(&format!("inspect --format {{{{.Id}}}}/{{{{.State.StartedAt}}}} {ids}"))
    };
    let all = || ["worker", "web", "other"].map(started);
    let [worker, web, other] = all();

    stage.set_variables("VERSION=2");
    let said = "`web` is rolled after it, `worker` restarts after it";
    stage.deploy("app --dry-run").exits(0).says(said);
    assert_eq!(all(), [worker.clone(), web.clone(), other.clone()]);
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0).says(said).says("restarting `worker`");
    answers.all_from(&["1", "2"]);
    let now = all();
    let id = |started: &str| started.split('/').next().map(String::from);
    assert_eq!((id(&now[0]), &now[2]), (id(&worker), &other), "the same containers");
    assert!(now[0] != worker && id(&now[1]) != id(&web), "{now:?}");

    stage.log("--- nothing changed, so nothing restarts");
    stage.deploy("app").exits(0).says("nothing has to change");
    assert_eq!(all(), now);
}

#[test]
fn a_container_bound_to_the_old_instance_is_reported_before_any_change() {
    let stage = TestProject::nginx_proxy("attached");
    stage.up("");
    let before = stage.ids("app");
    let app = format!("{}-app-1", stage.name);
    let image = stage.variable("ZD_APP_IMAGE");
    let label = format!("--label com.docker.compose.project={}", stage.name);
    let network = format!("--network {}_default", stage.name);
    for (flags, said) in [
        (format!("--network container:{app} --env PORT=3999"), "lives in".to_string()),
        (format!("{network} --link {app}:backend"), "would find nothing as `backend`".to_string()),
    ] {
        let id = stage.docker(&format!("run --detach {label} {flags} {image}"));
        stage.set_variables("VERSION=2");
        for words in ["app --dry-run", "app"] {
            stage.deploy(words).exits(2).says(&said).says("hint: ");
        }
        assert_eq!(stage.ids("app"), before);
        stage.docker(&format!("rm --force {}", id.trim()));
    }
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
}
