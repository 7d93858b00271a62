//! Services without a proxy: workers, and jobs that run before and after a deploy.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::cli_runner::CommandResult;
use crate::test_project::TestProject;

/// An image without a port, so that no HTTP probe is possible.
const DOCKERFILE: &str = "ARG BASE
FROM ${BASE} AS app
FROM scratch
LABEL compose-zd.e2e=built
COPY --from=app /sample-app /sample-app
ENTRYPOINT [\"/sample-app\"]
";

const WORKER: &str = "
services:
  worker:
    image: ${WORKER_IMAGE}
    restart: unless-stopped
    environment: {VERSION: '${VERSION:-1}', EXIT_AFTER: '${EXIT_AFTER:-0}'}
";

fn build(project: &TestProject, recipe: &str, name: &str) {
    project.write("source/Dockerfile", recipe);
    let base = project.variable("ZD_APP_IMAGE");
    project.docker(&format!("build -q -t {name} --build-arg BASE={base} source"));
}

fn worker(name: &str, more: &str) -> TestProject {
    let project = TestProject::nginx_proxy(name);
    // Only the monitor shows that a worker is healthy.
    project.use_default_monitor();
    project.set_variables(&format!("WORKER_IMAGE=zde2e-{name}:worker"));
    build(&project, DOCKERFILE, &project.variable("WORKER_IMAGE"));
    project.write_override(&format!("{WORKER}{more}"));
    project.compose("up -d worker");
    project
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs_f64()
}

/// Deploys the worker, and returns the events of its containers.
fn deploy(project: &TestProject, words: &str) -> (CommandResult, String) {
    let start = now();
    let result = project.deploy(&format!("worker {words}"));
    let filters = format!(
        "--filter label=com.docker.compose.project={} --filter event=start --filter event=die",
        project.name
    );
    let output = project.docker(&format!(
        "events --since {start:.3} --until {:.3} {filters} --format {{{{.Action}}}}",
        now()
    ));
    (result, output.replace('\n', " "))
}

#[test]
fn a_worker_is_replaced_by_one_that_keeps_running() {
    let project = worker("workstart", "");
    project.set_variables("VERSION=2");
    let (result, events) = deploy(&project, "");
    result.exits(0).says("keeps working; watching it for 5s").says("`worker` is deployed");
    assert_eq!((events.as_str(), project.states("worker")), ("start die", vec!["running 2".to_string()]));
    let before = project.containers();
    project.set_variables("VERSION=3 EXIT_AFTER=1");
    deploy(&project, "").0.exits(3).says("fatal: cannot reach the database").says("still serves");
    assert_eq!(project.containers(), before);
}

#[test]
fn a_worker_with_a_volume_never_runs_twice_unless_requested() {
    let project = worker("workstop", "    volumes: ['queue:/queue']\nvolumes: {queue: {}}\n");
    project.set_variables("VERSION=2");
    let (result, events) = deploy(&project, "");
    result.exits(0);
    assert_eq!((events.as_str(), project.states("worker")), ("die start", vec!["running 2".to_string()]));
    let before = project.ids("worker");
    project.set_variables("VERSION=3 EXIT_AFTER=1");
    deploy(&project, "").0.exits(3).says("fatal: cannot reach the database");
    assert_eq!((project.ids("worker"), project.states("worker")), (before, vec!["running 2".to_string()]));
    project.set_variables("VERSION=4 EXIT_AFTER=0");
    let (result, events) = deploy(&project, "--update-order start-first");
    result.exits(0);
    assert_eq!((events.as_str(), project.states("worker")), ("start die", vec!["running 4".to_string()]));
}

/// `migrate` belongs to an inactive profile.
const ONE_SHOTS: &str = "
x-zd: {after: {service: notify}}
services:
  app:
    x-zd: {before: {service: migrate}}
  migrate:
    image: ${ZD_APP_IMAGE}
    profiles: [tools]
    depends_on: [db]
    volumes: ['./told:/told']
    command: ['${MIGRATE:-append}', /told/migrate, '${VERSION:-1}']
  notify:
    image: ${ZD_APP_IMAGE}
    scale: 0
    volumes: ['./told:/told']
    command: ['${NOTIFY:-append}', /told/notify, '${VERSION:-1}']
  db:
    image: ${ZD_APP_IMAGE}
    environment: {VERSION: db}
";

fn project_with_jobs(name: &str) -> TestProject {
    let project = TestProject::nginx_proxy(name);
    project.write("told/migrate", "");
    project.write("told/notify", "");
    project.write_override(ONE_SHOTS);
    project.up("app proxy");
    project
}

fn job_files(project: &TestProject) -> [String; 2] {
    ["told/migrate", "told/notify"].map(|f| project.read(f).replace('\n', " "))
}

/// Files of releases.
fn release_files(project: &TestProject) -> Vec<String> {
    let found = project.command("find").args([".compose-zd", "-path", "*/releases/*"]).output();
    let found = String::from_utf8(found.expect("find can be started").stdout).expect("file names");
    let mut names: Vec<String> = found.lines().map(String::from).collect();
    names.sort();
    assert!(!names.is_empty(), "there is a release");
    names
}

/// Asserts that stderr has these texts in this order.
fn assert_in_order(result: &CommandResult, texts: &[&str]) {
    let mut rest = result.stderr.as_str();
    for text in texts {
        let at = rest.find(text).unwrap_or_else(|| panic!("no `{text}` after that: {rest}"));
        rest = &rest[at..];
    }
}

#[test]
fn jobs_run_before_the_first_instance_and_after_the_release_serves() {
    let project = project_with_jobs("shots");
    project.set_variables("VERSION=2");
    let (result, answers) = project.deploy_under_load("", "");
    result.exits(0).says("starting dependencies: db");
    answers.all_from(&["1", "2"]);
    let order = ["running job `migrate`", "job `migrate` completed", "created app-", "in rotation: app-"];
    assert_in_order(&result, &order);
    assert_in_order(
        &result,
        &["in rotation: app-", "running job `notify`", "job `notify` completed", "removed app-"],
    );
    assert_eq!(job_files(&project), ["2 ", "2 "]);
    project.expect_release("app", 1, "2");
    let only =
        |project: &TestProject| project.containers().into_iter().map(|c| c.service).collect::<Vec<_>>();
    assert_eq!(only(&project), ["app", "db", "proxy"], "no container of a job is left");
    project.deploy("").exits(0).says("nothing has to change");
    project.rollback("app").exits(0);
    assert_eq!(job_files(&project), ["2 ", "2 "], "neither nothing to do nor a rollback runs them");
    project.expect_release("app", 1, "1");
}

#[test]
fn a_failed_job_leaves_the_old_release() {
    let project = project_with_jobs("shotfails");
    project.deploy("--force").exits(0);
    project.set_variables("VERSION=2 MIGRATE=fail");
    let (before, known) = (project.containers(), release_files(&project));
    let (result, answers) = project.deploy_under_load("", "");
    result.exits(1).says("usage: sample-app").says("`migrate` (`x-zd.before`) failed; nothing was changed");
    answers.all_from(&["1"]);
    assert_eq!((project.containers(), release_files(&project)), (before.clone(), known));
    project.set_variables("MIGRATE=append NOTIFY=fail");
    let (result, answers) = project.deploy_under_load("", "");
    result.exits(3).says("`notify` (`x-zd.after`) failed").says("served before and still serve");
    answers.all_from(&["1", "2"]);
    let ids = |all: &[crate::test_project::Container]| all.iter().map(|c| c.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&project.containers()), ids(&before));
    project.expect_release("app", 1, "1");
    project.write_override("services: {app: {x-zd: {before: {service: nothing}}}}");
    project.deploy("").exits(2).says("x-zd.before").says("`nothing`");
    assert_eq!(ids(&project.containers()), ids(&before));
}

#[test]
fn an_image_by_flag_applies_to_jobs_with_the_same_image() {
    let project = TestProject::nginx_proxy("shotimage");
    project.write_override(
        "
services:
  app: {x-zd: {before: {service: migrate}}}
  migrate: {image: '${ZD_APP_IMAGE}', scale: 0, environment: {EXIT_AFTER: 0.3, EXIT_CODE: 0}}
",
    );
    project.up("app proxy");
    let recipe = "ARG BASE\nFROM ${BASE}\nLABEL compose-zd.e2e=built\nENV VERSION=9\n";
    build(&project, recipe, "zde2e-shotimage:9");
    let (result, answers) = project.deploy_under_load("", "--image app=zde2e-shotimage:9");
    result.exits(0).says("sample-app version 9 listens");
    answers.all_from(&["1"]);
    project.expect_release("app", 1, "1");
}
