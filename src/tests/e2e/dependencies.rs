//! Companions of a service: dependencies, healthcheck, hooks, secrets.

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
    let project = TestProject::nginx_proxy("belongings");
    project.write("told/started", "");
    project.write_override(BELONGINGS);
    project.set_variables("TOKEN=old");
    project.up("--scale app=2");
    let lines = |name: &str| project.read(&format!("told/{name}")).lines().count();
    let started = lines("started");
    let before = project.ids("db");

    project.log("--- a stopped dependency is started");
    project.compose("stop db");
    project.set_variables("VERSION=2 TOKEN=new");
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(0).says("starting dependencies: db").never_says("the drain command of");
    answers.all_from(&["1", "2"]);
    assert_eq!((project.ids("db"), project.states("db")), (before, vec!["running ".to_string()]));
    project.expect_release("app", 2, "2");

    project.log("--- hooks and the drain command ran once per instance");
    assert_eq!(["started", "stopped", "drained"].map(lines), [started + 2, 2, 2]);

    project.log("--- a secret from a variable is in the new instance");
    for id in project.ids("app") {
        let token = project.docker(&format!("exec {id} /sample-app cat /run/secrets/token"));
        assert_eq!(token, "new");
    }

    project.log("--- a running dependency is left alone even if its configuration changed");
    let before = project.service_containers("db");
    project.set_variables("VERSION=3 SETTING=2");
    let (result, answers) = project.deploy_under_load("", "app --scale app=1");
    result.exits(0);
    answers.all_from(&["2", "3"]);
    assert_eq!(project.service_containers("db"), before);
    project.expect_release("app", 1, "3");
}

#[test]
fn the_command_of_a_healthcheck_is_run_and_its_output_shown() {
    let project = TestProject::nginx_proxy("check");
    project.copy_override("nginx-proxy-scale/compose.healthcheck.yaml");
    project.up("");
    project.set_variables("VERSION=2 WARMUP=2");
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(0).says("healthcheck → 0");
    answers.all_from(&["1", "2"]);
    project.expect_release("app", 1, "2");
    project.set_variables("VERSION=3 WARMUP=0 HEALTH_STATUS=500");
    let (result, answers) = project.deploy_under_load("", "app --health-deadline 3s");
    result.exits(3).says("healthcheck → 1").says("not a 2xx");
    answers.all_from(&["2"]);
    project.expect_release("app", 1, "2");
}

/// Dependents of `app`: one behind the proxy, one without a proxy, and one without `restart: true`.
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
    let project = TestProject::nginx_proxy("dependents");
    project.write_override(DEPENDENTS);
    project.set_variables(&format!("SECOND_HOST=web.{}", project.host()));
    project.up("");
    let started = |service: &str| {
        let ids = project.ids(service).into_iter().collect::<Vec<_>>().join(" ");
        project.docker(&format!("inspect --format {{{{.Id}}}}/{{{{.State.StartedAt}}}} {ids}"))
    };
    let all = || ["worker", "web", "other"].map(started);
    let [worker, web, other] = all();

    project.set_variables("VERSION=2");
    let output = "`web` is replaced afterwards, `worker` restarts afterwards";
    project.deploy("app --dry-run").exits(0).says(output);
    assert_eq!(all(), [worker.clone(), web.clone(), other.clone()]);
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(0).says(output).says("restarting `worker`");
    answers.all_from(&["1", "2"]);
    let now = all();
    let id = |started: &str| started.split('/').next().map(String::from);
    assert_eq!((id(&now[0]), &now[2]), (id(&worker), &other), "the same containers");
    assert!(now[0] != worker && id(&now[1]) != id(&web), "{now:?}");

    project.log("--- nothing changed, so nothing restarts");
    project.deploy("app").exits(0).says("nothing has to change");
    assert_eq!(all(), now);
}

#[test]
fn a_container_bound_to_the_old_instance_is_reported_before_any_change() {
    let project = TestProject::nginx_proxy("attached");
    project.up("");
    let before = project.ids("app");
    let app = format!("{}-app-1", project.name);
    let image = project.variable("ZD_APP_IMAGE");
    let label = format!("--label com.docker.compose.project={}", project.name);
    let network = format!("--network {}_default", project.name);
    for (flags, output) in [
        (format!("--network container:{app} --env PORT=3999"), "runs in".to_string()),
        (format!("{network} --link {app}:backend"), "could not resolve `backend`".to_string()),
    ] {
        let id = project.docker(&format!("run --detach {label} {flags} {image}"));
        project.set_variables("VERSION=2");
        for words in ["app --dry-run", "app"] {
            project.deploy(words).exits(2).says(&output).says("hint: ");
        }
        assert_eq!(project.ids("app"), before);
        project.docker(&format!("rm --force {}", id.trim()));
    }
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(0);
    answers.all_from(&["1", "2"]);
}
