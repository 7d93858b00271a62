//! Services that no proxy sends requests to: workers, and one-shots that run before and after a deploy.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::cli_runner::CommandResult;
use crate::test_project::TestProject;

/// Has no port, so that there is nothing to ask it.
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

fn build(stage: &TestProject, recipe: &str, name: &str) {
    stage.write("source/Dockerfile", recipe);
    let base = stage.variable("ZD_APP_IMAGE");
    stage.docker(&format!("build -q -t {name} --build-arg BASE={base} source"));
}

fn worker(name: &str, more: &str) -> TestProject {
    let stage = TestProject::nginx_proxy(name);
    // Nothing else tells whether a worker is well.
    stage.use_default_monitor();
    stage.set_variables(&format!("WORKER_IMAGE=zde2e-{name}:worker"));
    build(&stage, DOCKERFILE, &stage.variable("WORKER_IMAGE"));
    stage.write_override(&format!("{WORKER}{more}"));
    stage.compose("up -d worker");
    stage
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs_f64()
}

/// A deploy of the worker, and what the engine says that its containers did.
fn deploy(stage: &TestProject, words: &str) -> (CommandResult, String) {
    let start = now();
    let ran = stage.deploy(&format!("worker {words}"));
    let filters = format!(
        "--filter label=com.docker.compose.project={} --filter event=start --filter event=die",
        stage.name
    );
    let told = stage.docker(&format!(
        "events --since {start:.3} --until {:.3} {filters} --format {{{{.Action}}}}",
        now()
    ));
    (ran, told.replace('\n', " "))
}

#[test]
fn a_worker_is_replaced_by_one_that_keeps_running() {
    let stage = worker("workstart", "");
    stage.set_variables("VERSION=2");
    let (ran, events) = deploy(&stage, "");
    ran.exits(0).says("as well; watching it for 5s").says("`worker` is deployed");
    assert_eq!((events.as_str(), stage.states("worker")), ("start die", vec!["running 2".to_string()]));
    let before = stage.containers();
    stage.set_variables("VERSION=3 EXIT_AFTER=1");
    deploy(&stage, "").0.exits(3).says("fatal: cannot reach the database").says("still serves");
    assert_eq!(stage.containers(), before);
}

#[test]
fn a_worker_with_a_volume_never_runs_twice_unless_requested() {
    let stage = worker("workstop", "    volumes: ['queue:/queue']\nvolumes: {queue: {}}\n");
    stage.set_variables("VERSION=2");
    let (ran, events) = deploy(&stage, "");
    ran.exits(0);
    assert_eq!((events.as_str(), stage.states("worker")), ("die start", vec!["running 2".to_string()]));
    let before = stage.ids("worker");
    stage.set_variables("VERSION=3 EXIT_AFTER=1");
    deploy(&stage, "").0.exits(3).says("fatal: cannot reach the database");
    assert_eq!((stage.ids("worker"), stage.states("worker")), (before, vec!["running 2".to_string()]));
    stage.set_variables("VERSION=4 EXIT_AFTER=0");
    let (ran, events) = deploy(&stage, "--update-order start-first");
    ran.exits(0);
    assert_eq!((events.as_str(), stage.states("worker")), ("start die", vec!["running 4".to_string()]));
}

/// `migrate` belongs to a profile that is not on.
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

fn project_with_one_shots(name: &str) -> TestProject {
    let stage = TestProject::nginx_proxy(name);
    stage.write("told/migrate", "");
    stage.write("told/notify", "");
    stage.write_override(ONE_SHOTS);
    stage.up("app proxy");
    stage
}

fn one_shot_files(stage: &TestProject) -> [String; 2] {
    ["told/migrate", "told/notify"].map(|f| stage.read(f).replace('\n', " "))
}

/// Files of releases.
fn release_files(stage: &TestProject) -> Vec<String> {
    let found = stage.command("find").args([".compose-zd", "-path", "*/releases/*"]).output();
    let found = String::from_utf8(found.expect("find can be started").stdout).expect("file names");
    let mut names: Vec<String> = found.lines().map(String::from).collect();
    names.sort();
    assert!(!names.is_empty(), "there is a release");
    names
}

/// In this order on the error stream.
fn assert_in_order(ran: &CommandResult, texts: &[&str]) {
    let mut rest = ran.stderr.as_str();
    for text in texts {
        let at = rest.find(text).unwrap_or_else(|| panic!("no `{text}` after that: {rest}"));
        rest = &rest[at..];
    }
}

#[test]
fn one_shots_run_before_the_first_instance_and_after_the_release_serves() {
    let stage = project_with_one_shots("shots");
    stage.set_variables("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "");
    ran.exits(0).says("starting what it depends on: db");
    answers.all_from(&["1", "2"]);
    let order = ["running `migrate`", "`migrate` is done", "created app-", "in rotation: app-"];
    assert_in_order(&ran, &order);
    assert_in_order(&ran, &["in rotation: app-", "running `notify`", "`notify` is done", "removed app-"]);
    assert_eq!(one_shot_files(&stage), ["2 ", "2 "]);
    stage.expect_release("app", 1, "2");
    let only = |stage: &TestProject| stage.containers().into_iter().map(|c| c.service).collect::<Vec<_>>();
    assert_eq!(only(&stage), ["app", "db", "proxy"], "no container of a one-shot is left");
    stage.deploy("").exits(0).says("nothing has to change");
    stage.rollback("app").exits(0);
    assert_eq!(one_shot_files(&stage), ["2 ", "2 "], "neither nothing to do nor a rollback runs them");
    stage.expect_release("app", 1, "1");
}

#[test]
fn a_failed_one_shot_leaves_the_old_release() {
    let stage = project_with_one_shots("shotfails");
    stage.deploy("--force").exits(0);
    stage.set_variables("VERSION=2 MIGRATE=fail");
    let (before, known) = (stage.containers(), release_files(&stage));
    let (ran, answers) = stage.deploy_under_load("", "");
    ran.exits(1).says("usage: sample-app").says("`migrate` (`x-zd.before`) failed; nothing was changed");
    answers.all_from(&["1"]);
    assert_eq!((stage.containers(), release_files(&stage)), (before.clone(), known));
    stage.set_variables("MIGRATE=append NOTIFY=fail");
    let (ran, answers) = stage.deploy_under_load("", "");
    ran.exits(3).says("`notify` (`x-zd.after`) failed").says("served before and still serve");
    answers.all_from(&["1", "2"]);
    let ids = |all: &[crate::test_project::Container]| all.iter().map(|c| c.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&stage.containers()), ids(&before));
    stage.expect_release("app", 1, "1");
    stage.write_override("services: {app: {x-zd: {before: {service: nothing}}}}");
    stage.deploy("").exits(2).says("x-zd.before").says("`nothing`");
    assert_eq!(ids(&stage.containers()), ids(&before));
}

#[test]
fn an_image_by_flag_applies_to_one_shots_with_the_same_image() {
    let stage = TestProject::nginx_proxy("shotimage");
    stage.write_override(
        "
services:
  app: {x-zd: {before: {service: migrate}}}
  migrate: {image: '${ZD_APP_IMAGE}', scale: 0, environment: {EXIT_AFTER: 0.3, EXIT_CODE: 0}}
",
    );
    stage.up("app proxy");
    let recipe = "ARG BASE\nFROM ${BASE}\nLABEL compose-zd.e2e=built\nENV VERSION=9\n";
    build(&stage, recipe, "zde2e-shotimage:9");
    let (ran, answers) = stage.deploy_under_load("", "--image app=zde2e-shotimage:9");
    ran.exits(0).says("sample-app version 9 listens");
    answers.all_from(&["1"]);
    stage.expect_release("app", 1, "1");
}
