//! Stacks on one node: situations that only look like a success, or like the right image.

use std::fs;

use serde_json::Value;

use super::nodes::SwarmNodes;
use super::stack::TestStack;
use crate::cli_runner::RunningCommand;
use crate::test_project::{WAIT_LIMIT, wait_until};

const CHECK: &str = "healthcheck: {test: [CMD, /sample-app, probe], interval: 1s, timeout: 5s, retries: 2}";
const QUICK: &str = "endpoint_mode: dnsrr, update_config: {parallelism: 0, monitor: 1s, order: start-first, failure_action: rollback}, \
                     rollback_config: {parallelism: 0, monitor: 1s, order: start-first}";

/// Stack with a service `app` of three tasks, and more keys.
fn stack<'n>(nodes: &'n SwarmNodes, name: &str, more: &str) -> TestStack<'n> {
    let yaml = format!(
        "x-zd: {{engine: swarm}}\nservices:\n  app:\n    image: ${{ZD_APP_IMAGE}}\n    \
         environment: {{VERSION: '${{VERSION}}', EXIT_AFTER: '${{EXIT_AFTER:-0}}'}}\n    {CHECK}\n    \
         deploy: {{replicas: 3, {QUICK}}}\n{more}"
    );
    TestStack::new(nodes, name, &yaml)
}

/// Image reference of each task.
fn images(stack: &TestStack) -> Vec<String> {
    let image = |t: &Value| t["Spec"]["ContainerSpec"]["Image"].as_str().unwrap_or_default().to_string();
    stack.running("app").iter().map(image).collect()
}

/// The same tag is built again and again, as in the documentation of the Caddy + Flask project.
#[test]
fn a_rebuilt_tag_is_a_new_version_and_a_rollback_restores_the_old_image() {
    let nodes = SwarmNodes::new(1, 0);
    let stack = TestStack::new(
        &nodes,
        "rebuilt",
        &format!(
            "x-zd: {{engine: swarm}}\nservices: {{app: {{image: 'zdsw/rebuilt:1', {CHECK}, deploy: {{replicas: 3, {QUICK}}}}}}}\n"
        ),
    );
    stack.set_variables("DOCKER_BUILDKIT=0");
    let build = |name: &str, status: &str| {
        let base = stack.variable("ZD_APP_IMAGE");
        let text = format!("FROM {base}\nENV HEALTH_STATUS={status} BUILD={name}\n");
        fs::create_dir_all(stack.path("image")).expect("a folder");
        stack.write("image/Dockerfile", &text);
        stack.docker(&format!("build --quiet --tag zdsw/rebuilt:1 {}", stack.path("image").display()));
        stack.docker("image inspect --format {{.Id}} zdsw/rebuilt:1").trim().to_string()
    };
    let runs = |id: &str| {
        wait_until(&format!("all run {id}"), WAIT_LIMIT, || images(&stack) == vec![id.to_string(); 3]);
    };
    let first = build("one", "200");
    stack.deploy("").exits(0);
    runs(&first);
    build("broken", "503");
    let result = stack.deploy("--force --health-deadline 20s");
    result.exits(3).says("release 1 serves").never_says("rolling back").never_says("--detach");
    runs(&first);
    assert_eq!(stack.update_state("app"), "rollback_completed");
    let fixed = build("fixed", "200");
    let plan = stack.deploy("--dry-run").exits(0).stdout.clone();
    assert!(plan.contains("zdsw/rebuilt:1") && plan.contains("docker stack deploy"), "{plan}");
    stack.deploy("").exits(0);
    runs(&fixed);
    stack.rollback("").exits(0);
    runs(&first);
    stack.rollback("--to 3").exits(0);
    runs(&fixed);
}

#[test]
fn configs_and_secrets_change_with_their_content_and_stay_out_of_files() {
    let nodes = SwarmNodes::new(1, 0);
    let stack =
        stack(&nodes, "objects", "configs: {site: {file: ./site.txt}}\nsecrets: {pw: {environment: PW}}\n");
    stack.write_override("services: {app: {configs: [site], secrets: [pw]}}");
    let folder = stack.path("tmp");
    fs::create_dir_all(&folder).expect("a folder");
    stack.set_variables(&format!("VERSION=1 PW=secret-one TMPDIR={}", folder.display()));
    stack.write("site.txt", "one");
    let mut deploy = stack.start_deploy("");
    deploy.wait_for(" to Swarm");
    let files = fs::read_dir(&folder).expect("a folder").flatten();
    let holds =
        |entry: fs::DirEntry| fs::read_to_string(entry.path()).is_ok_and(|text| text.contains("secret-one"));
    assert!(!files.into_iter().any(holds));
    deploy.wait().exits(0);
    let of = |key: &str, name: &str| {
        stack.service("app")["Spec"]["TaskTemplate"]["ContainerSpec"][key][0][name]
            .as_str()
            .unwrap_or_default()
            .to_string()
    };
    let names = || (of("Configs", "ConfigName"), of("Secrets", "SecretName"));
    let first = names();
    stack.deploy("").exits(0);
    assert_eq!(names(), first);
    stack.write("site.txt", "two");
    stack.set_variables("PW=secret-two");
    let plan = stack.deploy("--dry-run").exits(0).stdout.clone();
    assert!(plan.contains("replace the tasks: configs; secrets"), "{plan}");
    stack.deploy("").exits(0);
    let second = names();
    assert!(second.0.starts_with(&first.0) && second != first, "{second:?}");
    stack.rollback("").exits(0);
    assert_eq!(names(), first);
    // Two more contents; nothing needs the second one any more.
    for text in ["three", "four"] {
        stack.write("site.txt", text);
        stack.deploy("--keep 1").exits(0);
    }
    let left = stack.docker("config ls --format {{.Name}}");
    assert!(!left.lines().any(|name| name == second.0), "{left}");
    assert!(left.lines().any(|name| name == names().0), "{left}");
}

#[test]
fn a_removed_crashing_or_overwritten_service_fails_the_deploy() {
    let nodes = SwarmNodes::new(1, 0);
    a_first_deploy_that_crashes_again_and_again_fails(&nodes);
    a_service_removed_during_a_deploy_is_reported(&nodes);
    another_update_during_a_deploy_is_reported_and_kept(&nodes);
}

fn a_first_deploy_that_crashes_again_and_again_fails(nodes: &SwarmNodes) {
    let stack = stack(nodes, "loop", "");
    stack.set_variables("VERSION=1 EXIT_AFTER=2");
    let result = stack.deploy("--update-monitor 4s --health-deadline 12s");
    result.exits(3).says("non-zero exit (1)").says("nothing served before");
    wait_until("nothing is left", WAIT_LIMIT, || stack.service("app").is_null());
    let listed = RunningCommand::start(&stack, "history").wait().exits(0).stdout.clone();
    assert!(listed.contains("failed") && listed.contains("none of these releases serves now"), "{listed}");
    stack.set_variables("EXIT_AFTER=0");
    stack.deploy("").exits(0);
    stack.deploy("app --scale app=4 --update-monitor 1s").exits(0).says("4 of 4");
}

const OTHER: &str = "  other: {image: '${ZD_APP_IMAGE}', environment: {VERSION: '${VERSION}'}, deploy: {endpoint_mode: dnsrr, \
                     update_config: {delay: 30s, order: start-first}, rollback_config: {monitor: 1s, order: start-first}, replicas: 2}}\n";

/// Starts a deploy in which version 2 of `other` takes half a minute; version 1 of both services runs.
fn start_slow_deploy<'s>(stack: &'s TestStack) -> RunningCommand<'s> {
    stack.set_variables("VERSION=1");
    stack.deploy("").exits(0);
    stack.set_variables("VERSION=2");
    let deploy = stack.start_deploy("");
    wait_until("half of it is new", WAIT_LIMIT, || stack.versions("other") == ["1", "2"]);
    deploy
}

fn a_service_removed_during_a_deploy_is_reported(nodes: &SwarmNodes) {
    let stack = stack(nodes, "gone", OTHER);
    let deploy = start_slow_deploy(&stack);
    stack.docker(&format!("service rm {}", stack.full_name("app")));
    deploy.wait().exits(4).says("`app`: the service was removed during the deploy");
    stack.wait_for_versions("other", &["1", "1"]);
}

fn another_update_during_a_deploy_is_reported_and_kept(nodes: &SwarmNodes) {
    let stack = stack(nodes, "overwritten", OTHER);
    let deploy = start_slow_deploy(&stack);
    stack.docker(&format!(
        "service update --quiet --detach --no-resolve-image --env-add VERSION=9 {}",
        stack.full_name("app")
    ));
    deploy.wait().exits(3).says("`app`: another update replaced").says("release 2");
    stack.wait_for_versions("app", &["9"; 3]);
}

#[test]
fn jobs_ports_and_constraints_report_the_true_result() {
    let nodes = SwarmNodes::new(1, 0);
    a_job_completes_or_fails_the_deploy_and_no_rollback_runs_it(&nodes);
    a_taken_port_is_reported_once(&nodes);
    a_constraint_that_no_node_meets_is_refused(&nodes);
    a_public_url_that_hangs_fails_the_deploy(&nodes);
}

/// The task runs, but clients get no answer.
fn a_public_url_that_hangs_fails_the_deploy(nodes: &SwarmNodes) {
    let stack = stack(nodes, "hangs", "");
    let port = stack.variable("PROXY_PORT");
    stack.write_override(&format!(
        "services: {{app: {{environment: {{HANG: '${{HANG:-0}}'}}, healthcheck: {{disable: true}}, ports: [{{target: 3000, published: {port}, mode: host}}], \
         deploy: {{replicas: 1, update_config: {{order: stop-first}}, rollback_config: {{order: stop-first}}}}}}}}"
    ));
    stack.set_variables("VERSION=1");
    stack.deploy("").exits(0);
    stack.expect_version("1");
    stack.set_variables("VERSION=2 HANG=1");
    stack.deploy("").exits(3).says("no good answer").says("release 1 serves");
    stack.expect_version("1");
}

/// A job that prints a file, and fails without it.
const JOB: &str = "  job: {image: '${ZD_APP_IMAGE}', entrypoint: [/sample-app, cat, '${FILE}'], restart: 'no', \
                   deploy: {mode: replicated-job, replicas: 1}}\n";

fn iteration(stack: &TestStack) -> u64 {
    stack.service("job")["JobStatus"]["JobIteration"]["Index"].as_u64().unwrap_or(0)
}

fn a_job_completes_or_fails_the_deploy_and_no_rollback_runs_it(nodes: &SwarmNodes) {
    let stack = stack(nodes, "job", JOB);
    stack.set_variables("VERSION=1 FILE=/etc/hosts");
    stack.deploy("").exits(0).says("1 of 1 tasks completed");
    stack.set_variables("VERSION=2");
    stack.deploy("").exits(0);
    let result = iteration(&stack);
    stack.set_variables("VERSION=3 FILE=/nowhere");
    stack.deploy("").exits(3).says("`job`: the job failed").says("release 2 serves");
    stack.wait_for_versions("app", &["2"; 3]);
    assert_eq!(iteration(&stack), result + 1, "it ran once more, and not on the way back");
    stack.rollback("").exits(0);
    stack.wait_for_versions("app", &["1"; 3]);
    assert_eq!(iteration(&stack), result + 1);
}

fn a_taken_port_is_reported_once(nodes: &SwarmNodes) {
    let own = |port: &str| {
        format!(
            "  two: {{image: '${{ZD_APP_IMAGE}}', ports: [{{target: 3000, published: {port}, mode: host}}], deploy: {{endpoint_mode: dnsrr}}}}\n"
        )
    };
    let first = stack(nodes, "first", "");
    let port = first.variable("PROXY_PORT");
    first.write_override(&format!("services: {{app: {{ports: [{{target: 3000, published: {port}, mode: host}}], deploy: {{replicas: 1}}}}}}"));
    first.set_variables("VERSION=1");
    first.deploy("").exits(0);
    let second = stack(nodes, "second", &own(&port));
    second.set_variables("VERSION=1");
    let result = second.deploy("--health-deadline 8s");
    result.exits(3).says("already in use").says("free the port");
    let output =
        result.stderr.lines().filter(|l| l.contains("warning") && l.contains("already in use")).count();
    assert_eq!(output, 1, "{}", result.stderr);
}

fn a_constraint_that_no_node_meets_is_refused(nodes: &SwarmNodes) {
    let all = "  agent: {image: '${ZD_APP_IMAGE}', deploy: {mode: global, placement: {constraints: [node.labels.none == x]}}}\n";
    let stack = stack(nodes, "nowhere", all);
    stack.set_variables("VERSION=1");
    stack.deploy("").exits(2).says("`agent`: no node meets `node.labels.none == x`");
    assert!(stack.service("app").is_null());
}
