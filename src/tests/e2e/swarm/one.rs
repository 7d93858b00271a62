//! Stacks on one node: the examples of Docker's documentation, and cases that it does not show.

use super::nodes::SwarmNodes;
use super::stack::TestStack;
use crate::cli_runner::{CommandResult, RunningCommand};
use crate::test_project::{WAIT_LIMIT, wait_until};

const BROKEN: &str = "HEALTH_STATUS=503 HEALTH_COMMAND=false";
const FEW_CHECKS: &str = "healthcheck: {interval: 3s, retries: 1}";
const HEALTHY: &str = "HEALTH_STATUS=200 HEALTH_COMMAND=";

fn run(stack: &TestStack, words: &str) -> CommandResult {
    RunningCommand::start(stack, words).wait()
}

/// Stack of a fixture, reduced to three tasks and few health checks, because each check starts a process.
fn stack_of_fixture<'n>(nodes: &'n SwarmNodes, name: &str, fixture: &str, service: &str) -> TestStack<'n> {
    let stack = TestStack::from_fixture(nodes, name, fixture);
    stack.write_override(&format!("services: {{{service}: {{deploy: {{replicas: 3}}, {FEW_CHECKS}}}}}"));
    stack.set_variables("COMPOSE_ZD_ENGINE=swarm");
    stack.deploy("").exits(0);
    stack
}

/// Updates, breaks, rolls back and rolls forward a stack, and asserts that the exit code matches the state of Swarm.
fn deploy_and_roll_back(stack: &TestStack, service: &str, count: usize) {
    let runs = |version: &str| stack.wait_for_versions(service, &vec![version; count]);
    runs("1");
    stack.set_variables("VERSION=2");
    stack.deploy("").exits(0).says("is deployed as release 2");
    runs("2");
    assert_eq!(stack.update_state(service), "completed");
    stack.set_variables(&format!("VERSION=3 {BROKEN}"));
    stack.deploy("--health-deadline 20s").exits(3).says("release 2 serves");
    runs("2");
    assert_eq!(stack.update_state(service), "rollback_completed");
    stack.rollback("").exits(0).says("back on release 1");
    runs("1");
    stack.rollback("").exits(0).says("back on release 2");
    runs("2");
}

/// Examples of Docker's documentation, side by side on one node.
#[test]
fn example_stacks_deploy_and_roll_back_and_report_failures() {
    let nodes = SwarmNodes::new(1, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| a_failed_update_without_a_failure_action_rolls_back(&nodes));
        scope.spawn(|| a_rollback_by_swarm_fails_the_deploy(&nodes));
        scope.spawn(|| a_task_on_a_port_of_the_host_deploys_and_rolls_back(&nodes));
    });
}

fn a_failed_update_without_a_failure_action_rolls_back(nodes: &SwarmNodes) {
    let stack = stack_of_fixture(nodes, "vote", "swarm-vote", "vote");
    deploy_and_roll_back(&stack, "vote", 3);

    stack.log("---- an update pauses with `failure_action: pause`, and is resumed or rolled back");
    stack.set_variables(&format!("VERSION=4 {BROKEN}"));
    let result = stack.deploy("--update-failure-action pause --health-deadline 20s");
    result.exits(3).says("deploy --resume");
    assert_eq!(stack.update_state("vote"), "paused");
    // With stop-first, Swarm may stop the last old task, and nothing serves any more.
    let resumed = stack.deploy("--resume");
    resumed.exits(if stack.running("vote").is_empty() { 4 } else { 3 });
    assert_eq!(stack.update_state("vote"), "paused");
    stack.rollback("").exits(0);
    stack.wait_for_versions("vote", &["2"; 3]);
}

fn a_rollback_by_swarm_fails_the_deploy(nodes: &SwarmNodes) {
    let stack = stack_of_fixture(nodes, "whoami", "swarm-whoami", "whoami");
    deploy_and_roll_back(&stack, "whoami", 3);

    // `docker service rollback` is impossible here, because Swarm forgets the previous spec.
    stack.log("---- any release can be restored, even after a rollback by Swarm");
    stack.set_variables(&format!("VERSION=4 {HEALTHY}"));
    stack.deploy("").exits(0).says("is deployed as release 6");
    stack.set_variables(&format!("VERSION=5 {BROKEN}"));
    stack.deploy("").exits(3).says("release 6 serves");
    stack.rollback("--to 1").exits(0).says("back on release 1");
    stack.wait_for_versions("whoami", &["1"; 3]);
    let listed = run(&stack, "history").exits(0).stdout.clone();
    for line in ["rolled back to 1", "failed", "* serves now"] {
        assert!(listed.contains(line), "{listed}");
    }
}

fn a_task_on_a_port_of_the_host_deploys_and_rolls_back(nodes: &SwarmNodes) {
    let stack = TestStack::from_fixture(nodes, "hostport", "swarm-host-port");
    stack.write_override(&format!("services: {{app: {{{FEW_CHECKS}}}}}"));
    let port = stack.variable("PROXY_PORT");
    stack.set_variables(&format!("COMPOSE_ZD_ENGINE=swarm APP_PORT={port}"));
    stack.deploy("").exits(0).says("nothing answers on that port while the task is replaced");
    stack.expect_version("1");
    deploy_and_roll_back(&stack, "app", 1);
    stack.expect_version("2");
}

/// The example with the broken health check, with parallelism 2 and load. Three of its six tasks, because Python takes a second
/// of processor time to start.
#[test]
fn a_stack_behind_caddy_loses_no_request_in_good_or_failed_updates() {
    let nodes = SwarmNodes::new(1, 0);
    let stack = TestStack::from_fixture(&nodes, "flask", "caddy-flask-stack");
    nodes.load_images(&["FLASK_IMAGE", "CADDY_IMAGE"]);
    stack.set_variables("COMPOSE_ZD_ENGINE=swarm");
    stack.write_override(
        "services: {flask: {deploy: {replicas: 3}, healthcheck: {interval: 4s, retries: 1}}}",
    );
    stack.deploy("").exits(0);
    stack.wait_for_versions("flask", &["1"; 3]);
    wait_until("Caddy has found them", WAIT_LIMIT, || {
        stack.get("/").is_some_and(|reply| reply.status == 200)
    });
    let load = stack.start_load("--rate 100");
    stack.set_variables("VERSION=2");
    let result = stack.deploy(&format!("--strict --witness-url {}", stack.url()));
    let (sent, lost) = result.exits(0).witness_counts();
    assert!(sent > 0 && lost == 0, "the witness sent {sent} and lost {lost}");
    stack.set_variables(&format!("VERSION=3 {BROKEN}"));
    stack.deploy("--health-deadline 30s").exits(3);
    load.stop().all_from(&["1", "2"]);
    stack.wait_for_versions("flask", &["2"; 3]);
    stack.set_variables(HEALTHY);
    let load = stack.start_load("--rate 100");
    stack.rollback("").exits(0);
    load.stop().all_from(&["1", "2"]);
    stack.wait_for_versions("flask", &["1"; 3]);
}

const TWO_SERVICES: &str = "
x-zd: {engine: swarm}
services:
  app:
    image: ${ZD_APP_IMAGE}
    environment: {VERSION: '${VERSION}', EXIT_AFTER: '${EXIT_AFTER:-0}'}
    healthcheck: {test: [CMD, /sample-app, probe], interval: 4s, timeout: 5s, retries: 1}
    deploy: {endpoint_mode: dnsrr, update_config: {parallelism: 0, monitor: 3s, order: start-first}, rollback_config: {parallelism: 0, monitor: 1s, order: start-first}}
  api:
    image: ${ZD_APP_IMAGE}
    environment: {VERSION: '${VERSION}'}
    healthcheck: {test: [CMD, /sample-app, probe], interval: 4s, timeout: 5s, retries: 1}
    deploy: {endpoint_mode: dnsrr, replicas: 2, update_config: {parallelism: 0, monitor: 1s, order: start-first}, rollback_config: {parallelism: 0, monitor: 1s, order: start-first}}
";

/// Stack of two services, from the first deploy to the last service.
#[test]
fn a_stack_is_refused_rolled_back_partly_deployed_scaled_and_pruned() {
    let nodes = SwarmNodes::new(1, 0);
    let stack = TestStack::new(&nodes, "two", TWO_SERVICES);
    refusals_of_swarm_come_before_any_change(&stack);
    a_stack_without_a_release_rolls_back_to_the_previous_spec(&stack);
    only_named_services_change(&stack);
    a_missing_image_keeps_the_old_release(&stack);
    an_interrupt_rolls_back(&stack);
    a_failed_service_rolls_back_the_whole_stack(&stack);
    a_deploy_keeps_the_scale_without_replicas_in_the_file(&stack);
    prune_removes_services_after_the_rest_serves(&stack);
}

fn refusals_of_swarm_come_before_any_change(stack: &TestStack) {
    stack.write_override("services: {app: {ports: ['127.0.0.1:8000:3000'], privileged: true}}");
    stack.deploy("").exits(2).says("`127.0.0.1` belongs to one machine").says("services.app.ports");
    assert!(stack.service("app").is_null());
    stack.write_override("services: {app: {privileged: true, depends_on: [api]}}");
    let result = stack.deploy("--dry-run");
    result.exits(0).says("`services.app.privileged`: Swarm ignores it").says("`api` is not up yet");
    assert!(stack.service("app").is_null());
    stack.write_override("services: {app: {x-zd: {before: {service: api}}}}");
    stack.deploy("").exits(2).says("jobs (`before`, `after`)");
    assert!(stack.service("app").is_null());
    stack.write_override("services: {}");
}

fn a_stack_without_a_release_rolls_back_to_the_previous_spec(stack: &TestStack) {
    for version in ["1", "2"] {
        stack.set_variables(&format!("VERSION={version}"));
        stack.stack_deploy();
        stack.wait_for_versions("api", &[version; 2]);
        stack.wait_for_versions("app", &[version]);
    }
    stack.rollback("").exits(0).says("is rolled back");
    stack.wait_for_versions("api", &["1", "1"]);
    stack.wait_for_versions("app", &["1"]);
}

fn only_named_services_change(stack: &TestStack) {
    let before = stack.service("api")["Version"]["Index"].clone();
    stack.set_variables("VERSION=2");
    let plan = stack.deploy("app --dry-run").exits(0).stdout.clone();
    assert!(plan.contains("environment VERSION") && plan.contains("leave it alone"), "{plan}");
    stack.wait_for_versions("app", &["1"]);
    stack.deploy("app").exits(0);
    stack.wait_for_versions("app", &["2"]);
    assert_eq!(stack.service("api")["Version"]["Index"], before);
    let shown = run(stack, "status").exits(0).stdout.clone();
    assert!(shown.contains("2 of 2") && shown.contains("app.1"), "{shown}");
}

fn a_missing_image_keeps_the_old_release(stack: &TestStack) {
    let result = stack.deploy("app --image app=nobody/has:1 --resolve-image never --health-deadline 10s");
    result.exits(3).says("No such image").says(&format!("release {} serves", serving(stack)));
    stack.wait_for_versions("app", &["2"]);
}

fn an_interrupt_rolls_back(stack: &TestStack) {
    stack.set_variables("VERSION=3");
    let mut deploy = stack.start_deploy("");
    deploy.wait_for(" to Swarm");
    deploy.signal("TERM");
    deploy.wait().exits(143);
    stack.wait_for_versions("app", &["2"]);
    stack.wait_for_versions("api", &["1", "1"]);
}

fn a_failed_service_rolls_back_the_whole_stack(stack: &TestStack) {
    stack.write_override("services: {more: {image: '${ZD_APP_IMAGE}', deploy: {endpoint_mode: dnsrr}}}");
    stack.set_variables("VERSION=3 EXIT_AFTER=1");
    let result = stack.deploy("--health-deadline 20s");
    result.exits(3).says("non-zero exit (1)").says("cannot reach the database");
    result.says(&format!("release {} serves", serving(stack)));
    stack.wait_for_versions("api", &["1", "1"]);
    stack.wait_for_versions("app", &["2"]);
    wait_until("the new one is gone", WAIT_LIMIT, || stack.service("more").is_null());
    stack.write_override("services: {}");
}

fn a_deploy_keeps_the_scale_without_replicas_in_the_file(stack: &TestStack) {
    stack.set_variables("VERSION=2 EXIT_AFTER=0");
    stack.deploy("app --scale app=3").exits(0);
    stack.set_variables("VERSION=3");
    stack.deploy("").exits(0);
    stack.wait_for_versions("app", &["3"; 3]);
    let tasks = stack.running("app");
    stack.deploy("app --force").exits(0);
    stack.wait_for_versions("app", &["3"; 3]);
    assert!(stack.running("app").iter().all(|t| !tasks.contains(t)));
}

/// No service is removed before the new release serves, because a failure would need it.
fn prune_removes_services_after_the_rest_serves(stack: &TestStack) {
    let (_, alone) = TWO_SERVICES
        .split_once("  api:")
        .map(|(app, api)| (app, format!("services:\n  api:{api}")))
        .expect("two");
    stack.write("compose.yaml", &format!("x-zd: {{engine: swarm}}\n{alone}"));
    stack.set_variables("VERSION=4");
    stack.deploy("").exits(0);
    stack.wait_for_versions("app", &["3"; 3]);
    stack.deploy("--prune --image api=nobody/has:1 --resolve-image never --health-deadline 5s").exits(3);
    stack.wait_for_versions("app", &["3"; 3]);
    stack.deploy("--prune").exits(0).says("removed app");
    wait_until("it is gone", WAIT_LIMIT, || stack.service("app").is_null());
    stack.wait_for_versions("api", &["4", "4"]);
    stack.write("compose.yaml", TWO_SERVICES);
    stack.deploy("app --prune").exits(2).says("needs the whole stack");
    stack.wait_for_versions("api", &["4", "4"]);
}

/// A service made by `docker service create`, as in Docker's tutorial.
#[test]
fn a_service_without_a_file_is_imported_updated_and_rolled_back() {
    let nodes = SwarmNodes::new(1, 0);
    let stack = TestStack::new(&nodes, "tutorial", "");
    std::fs::remove_file(stack.path("compose.yaml")).expect("a file");
    let (name, image) = (stack.name.clone(), stack.variable("ZD_APP_IMAGE"));
    let create = format!(
        "service create --quiet --detach --no-resolve-image --name {name} --replicas 3 --endpoint-mode dnsrr --env VERSION=1 \
         --update-monitor 1s --rollback-monitor 1s {image}"
    );
    stack.docker(&create);
    stack.write("image/Dockerfile", &format!("FROM {image}\nENV BUILD=2\n"));
    stack.set_variables("DOCKER_BUILDKIT=0");
    stack.docker(&format!("build --quiet --tag zdsw/tutorial:2 {}", stack.path("image").display()));
    let spec = || nodes.get(nodes.manager(), &format!("/services/{name}"))["Spec"].clone();
    let image_now =
        || spec()["TaskTemplate"]["ContainerSpec"]["Image"].as_str().unwrap_or_default().to_string();
    let running = || {
        let listed = stack
            .docker(&format!("service ps --no-trunc --format '{{{{.ID}}}}={{{{.CurrentState}}}}' {name}"));
        let running = listed.lines().filter(|l| l.contains("=Running"));
        running.map(|l| l.split('=').next().unwrap_or_default().to_string()).collect::<Vec<_>>()
    };
    wait_until("three run", WAIT_LIMIT, || running().len() == 3);
    let before = running();
    run(&stack, &format!("init --from-service {name}")).exits(0).says("as `docker service update --image`");
    stack.deploy("").exits(0).says("3 of 3");
    assert_eq!(image_now(), stack.docker(&format!("image inspect --format {{{{.Id}}}} {image}")).trim());
    assert_eq!(before.len(), running().len());
    let first = image_now();
    stack.deploy(&format!("--image {name}=zdsw/tutorial:2")).exits(0);
    assert!(image_now().starts_with("sha256:") && image_now() != first);
    stack.rollback("").exits(0);
    assert_eq!(image_now(), first);
    stack.deploy(&format!("--scale {name}=2")).exits(0).says("2 of 2");
}

/// Number of the serving release, by `history`.
fn serving(stack: &TestStack) -> String {
    let listed = run(stack, "history").exits(0).stdout.clone();
    let line = listed.lines().find(|l| l.contains('*')).expect("one that serves");
    line.split(' ').next().expect("a number").into()
}
