//! `deploy.update_config` and `deploy.rollback_config`: batches, monitor, and the action after too many failures. Each test is
//! a series of updates of one project, each from the state that the previous one left.
//!
//! Unit tests prove the rules themselves (`model/update.rs`, `plan/tests.rs`), and `rules.rs` compares them with Swarm.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};

use crate::cli_runner::{CommandResult, RunningCommand};
use crate::load::Load;
use crate::test_project::{TestProject, WAIT_LIMIT, wait_until};

/// Warm-up that is long enough to kill an instance before it is ready.
const SLOW_START: &str = "WARMUP=3";

/// Load without a practical time limit.
const LOAD: &str = "--seconds 300";

/// Starts this number of instances of version 1.
fn up(project: &TestProject, count: usize) {
    project.write_override(&format!("services: {{app: {{deploy: {{{ROLLBACK_CONFIG}}}}}}}"));
    project.up(&format!("--scale app={count}"));
}

/// Logs the promise to test, and sets the version and the `deploy` keys of the next update.
fn update_to(project: &TestProject, version: &str, promise: &str, deploy: &str) {
    project.log(&format!("==== {promise}"));
    project.write_override(&format!("services: {{app: {{deploy: {{{deploy}}}}}}}"));
    project.set_variables(&format!("VERSION={version}"));
}

/// Kills some instances of a batch, before or after they are ready.
fn kill_some(project: &TestProject, deploy: &mut RunningCommand, batch: usize, count: usize) {
    let names = deploy.wait_for_names("started", batch);
    assert!(names.len() >= count, "batch {batch} is {names:?}");
    signal(project, "KILL", &names[..count]);
}

fn signal(project: &TestProject, name: &str, instances: &[String]) {
    instances.iter().for_each(|i| project.api().signal(&format!("{}-{i}", project.name), name));
}

/// Number of running instances by version.
fn versions(project: &TestProject) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for container in project.service_containers("app") {
        assert_eq!(container.state, "running", "{container:?}");
        *counts.entry(container.version).or_default() += 1;
    }
    counts
}

fn expect_versions(project: &TestProject, expected: &[(&str, usize)]) {
    let expected = expected.iter().map(|(version, n)| (version.to_string(), *n)).collect();
    assert_eq!(versions(project), expected);
    assert_eq!(project.marks(), "");
    project.wait_until_all_answer();
}

/// Verbs of the output in order, limited to `words`.
fn order_of_events<'r>(result: &'r CommandResult, words: &[&str]) -> Vec<&'r str> {
    let output = result.stderr.lines().filter_map(|l| l.split_whitespace().nth(1));
    output.filter(|w| words.contains(w)).collect()
}

/// Instances named after a verb, one entry per line.
fn lines<'r>(result: &'r CommandResult, verb: &str) -> Vec<&'r str> {
    result
        .stderr
        .lines()
        .filter_map(|l| l.split_once(&format!("s  {verb} ")))
        .map(|(_, names)| names)
        .collect()
}

const ROLLBACK_CONFIG: &str = "update_config: {parallelism: 1, monitor: 1ms, failure_action: rollback}";

/// Asserts that a first batch that is never ready loses no request and does not touch the instances of version 1.
fn deploy_failing_batch(project: &TestProject, count: usize, settings: &str, words: &str) {
    let promise = "a first batch that fails leaves all that served";
    update_to(project, "2", promise, ROLLBACK_CONFIG);
    let before = project.containers();
    project.set_variables(settings);
    let (result, answers) = project.deploy_under_load(LOAD, words);
    result.exits(3).says("served before and still serve");
    answers.all_from(&["1"]);
    assert_eq!(project.containers(), before);
    assert_eq!(lines(&result, "created").len(), 1, "only one batch is tried");
    expect_versions(project, &[("1", count)]);
}

const PAUSE_CONFIG: &str = "update_config: {parallelism: 1, monitor: 1ms}, \
                     rollback_config: {parallelism: 1, monitor: 1ms, failure_action: rollback}";

/// Deploys with a failing second batch: one new instance serves beside the old ones.
fn deploy_until_paused<'s>(
    project: &'s TestProject,
    count: usize,
    from: &str,
    to: &str,
    promise: &str,
) -> Load<'s> {
    update_to(project, to, promise, PAUSE_CONFIG);
    project.set_variables(SLOW_START);
    let load = project.start_load(LOAD);
    let mut deploy = project.start_deploy("app");
    kill_some(project, &mut deploy, 2, 1);
    let paused = format!("paused: 1 of {count} instances are of release");
    deploy.wait().exits(3).says(&paused).says("--resume");
    expect_versions(project, &[(from, count - 1), (to, 1)]);
    load
}

#[test]
fn a_paused_rollout_is_resumed_rolled_back_or_replaced() {
    let project = TestProject::nginx_proxy("uppause");
    up(&project, 2);
    deploy_failing_batch(&project, 2, "STATUS=503", "app --health-deadline 2s");
    project.set_variables("STATUS=200");

    let load = deploy_until_paused(
        &project,
        2,
        "1",
        "3",
        "resume finishes a rollout, and nothing is left to resume",
    );
    project.deploy("--resume").exits(0);
    load.stop().all_from(&["1", "3"]);
    project.expect_release("app", 2, "3");
    project
        .deploy("--resume")
        .exits(2)
        .says("no rollout of this project is paused")
        .says("compose-zd deploy");

    let load = deploy_until_paused(
        &project,
        2,
        "3",
        "4",
        "rollback undoes a rollout, and nothing is left to resume",
    );
    project.rollback("").exits(0);
    load.stop().all_from(&["3", "4"]);
    project.expect_release("app", 2, "3");
    project.deploy("--resume").exits(2);

    let load = deploy_until_paused(&project, 2, "3", "5", "a third version replaces both");
    project.set_variables("VERSION=6 WARMUP=0");
    project.deploy("app").exits(0);
    load.stop().all_from(&["3", "5", "6"]);
    project.expect_release("app", 2, "6");

    project.log("==== a failed rollback pauses, is never rolled back, and resume finishes it");
    let load = project.start_load(LOAD);
    let mut back = project.start_rollback("");
    kill_some(&project, &mut back, 2, 1);
    back.wait().exits(3).says("the rollback is paused: 1 of 2").never_says("rolling back");
    expect_versions(&project, &[("3", 1), ("6", 1)]);
    project.deploy("--resume").exits(0);
    load.stop().all_from(&["3", "6"]);
    project.expect_release("app", 2, "3");
}

#[test]
fn behind_haproxy_a_failed_batch_rolls_back_or_pauses_and_a_new_deploy_finishes() {
    let project = TestProject::haproxy("uphaproxy");
    up(&project, 3);

    let promise = "a second batch that fails brings the first back, one by one as `rollback_config` says";
    let settings = "update_config: {parallelism: 2, monitor: 1ms, failure_action: rollback}, \
                    rollback_config: {parallelism: 1}";
    update_to(&project, "3", promise, settings);
    let before = project.ids("app");
    project.set_variables(SLOW_START);
    let load = project.start_load(LOAD);
    let mut deploy = project.start_deploy("app");
    kill_some(&project, &mut deploy, 2, 1);
    let result = deploy.wait();
    result.exits(3).says("exited with code 137").says("served before and still serve");
    load.stop().all_from(&["1", "3"]);
    assert_eq!(project.ids("app"), before);
    let started = lines(&result, "started");
    assert_eq!(started[2..].iter().map(|l| l.split(", ").count()).collect::<Vec<_>>(), [1, 1], "{started:?}");
    expect_versions(&project, &[("1", 3)]);

    let load = deploy_until_paused(&project, 3, "1", "4", "the same deploy again finishes the paused one");
    project.deploy("app").exits(0);
    load.stop().all_from(&["1", "4"]);
    project.expect_release("app", 3, "4");
}

/// A batch is filled up after a failure, as with Swarm.
#[test]
fn failed_instances_are_tolerated_up_to_max_failure_ratio_or_with_continue() {
    let project = TestProject::nginx_proxy("upratio");
    up(&project, 3);

    let promise =
        "a rollout that continues leaves an old one for each that fails, which the next deploy replaces";
    update_to(
        &project,
        "2",
        promise,
        "update_config: {parallelism: 2, monitor: 1ms, failure_action: continue}",
    );
    project.set_variables(SLOW_START);
    let load = project.start_load(LOAD);
    let mut deploy = project.start_deploy("app");
    kill_some(&project, &mut deploy, 1, 1);
    kill_some(&project, &mut deploy, 2, 1);
    deploy.wait().exits(0).says("warning: 1 of 3 new instances").says("warning: 2 of 3 new instances");
    expect_versions(&project, &[("1", 2), ("2", 1)]);
    project.deploy("app").exits(0);
    load.stop().all_from(&["1", "2"]);
    project.expect_release("app", 3, "2");

    let promise = "one more than max_failure_ratio says is too many: the batch that was replaced comes back";
    let settings = "{parallelism: 1, monitor: 1ms, failure_action: rollback, max_failure_ratio: 0.34}";
    update_to(&project, "3", promise, &format!("update_config: {settings}"));
    let before = project.ids("app");
    let load = project.start_load(LOAD);
    let mut deploy = project.start_deploy("app");
    [1, 3].iter().for_each(|batch| kill_some(&project, &mut deploy, *batch, 1));
    let result = deploy.wait();
    load.stop().all_from(&["2", "3"]);
    result.exits(3).says("1 of 3 new instances of `app` failed, within `max_failure_ratio`");
    result.says("exited with code 137").says("served before and still serve");
    assert_eq!(project.ids("app"), before);
    expect_versions(&project, &[("2", 3)]);

    let promise = "a rollout that continues and of which all fail is no success";
    update_to(&project, "4", promise, "update_config: {parallelism: 2, monitor: 1ms}");
    let before = project.containers();
    project.set_variables("WARMUP=0 STATUS=503 COMPOSE_ZD_UPDATE_FAILURE_ACTION=continue");
    let (result, answers) = project.deploy_under_load(LOAD, "app --health-deadline 2s");
    result.exits(3).says("warning: 2 of 3 new instances");
    answers.all_from(&["2"]);
    assert_eq!(project.containers(), before);
    expect_versions(&project, &[("2", 3)]);
}

/// Script that prints the fewest instances in the configuration of nginx.
const COUNT_SCRIPT: &str = "fewest=99; until [ -e /tmp/enough ]; do \
    now=$(grep -E '^ *server .*:3000' /etc/nginx/conf.d/default.conf | grep -cv down); \
    [ $now -ge $fewest ] || fewest=$now; sleep 0.1; done; rm /tmp/enough; echo $fewest";

/// Counts the instances in rotation from inside the proxy.
struct RotationWatch<'s> {
    project: &'s TestProject,
    child: Child,
}

impl<'s> RotationWatch<'s> {
    fn watch(project: &'s TestProject) -> Self {
        let mut command = project.command("docker");
        command.args(["exec", &project.proxy().id, "sh", "-c", COUNT_SCRIPT]).stdout(Stdio::piped());
        RotationWatch { project, child: command.spawn().expect("docker can be started") }
    }

    fn fewest(self) -> usize {
        self.project.exec_in_proxy(&["touch", "/tmp/enough"]);
        let output = self.child.wait_with_output().expect("what it counted");
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
    }
}

const STOP_FIRST: &str =
    "update_config: {parallelism: 1, monitor: 1ms, order: stop-first, failure_action: rollback}";

/// Deploys stop-first one by one and counts the instances in rotation; with `kills`, the second new instance is killed.
fn deploy_stop_first(project: &TestProject, kills: bool) -> CommandResult {
    project.set_variables(SLOW_START);
    let rotation = RotationWatch::watch(project);
    let mut deploy = project.start_deploy("app");
    if kills {
        kill_some(project, &mut deploy, 2, 1);
    }
    let result = deploy.wait();
    let fewest = rotation.fewest();
    assert_eq!(fewest, 1, "instances in rotation");
    project.set_variables("WARMUP=0");
    result
}

/// Interrupts a deploy after this output, and asserts that it rolls back.
fn interrupt_deploy(project: &TestProject, line: &str, [from, to]: [&str; 2]) -> CommandResult {
    let before = project.ids("app");
    let load = project.start_load(LOAD);
    let mut deploy = project.start_deploy("app");
    deploy.wait_for(line);
    deploy.signal("INT");
    let result = deploy.wait();
    result.exits(130).says("rolling back").says("served before and still serve");
    load.stop().all_from(&[from, to]);
    assert_eq!(project.ids("app"), before);
    expect_versions(project, &[(from, 2)]);
    result
}

#[test]
fn between_two_batches_a_kill_is_survived_and_an_interrupt_rolls_back() {
    let project = TestProject::nginx_proxy("updelay");
    up(&project, 2);
    let delay = "update_config: {parallelism: 1, delay: 30s, monitor: 1ms}";
    let line = "waiting 30.0s before the next batch";

    update_to(&project, "2", "an interrupt between two batches restores all old instances", delay);
    interrupt_deploy(&project, line, ["1", "2"]);

    update_to(&project, "3", "a kill between two batches is survived", delay);
    let load = project.start_load(LOAD);
    let mut deploy = project.start_deploy("app");
    deploy.wait_for(line);
    deploy.kill();
    project.get("/").expect("the service goes on");
    update_to(&project, "4", "stop-first never takes more than one batch out of rotation", STOP_FIRST);
    let result = deploy_stop_first(&project, false);
    result.exits(0);
    load.stop().all_from(&["1", "3", "4"]);
    assert_eq!(order_of_events(&result, &["created", "stopped"]), ["stopped", "created"].repeat(2));
    project.expect_release("app", 2, "4");

    update_to(
        &project,
        "5",
        "stop-first rolls back without taking more than one batch out of rotation",
        STOP_FIRST,
    );
    let load = project.start_load(LOAD);
    deploy_stop_first(&project, true).exits(3).says("served before and still serve");
    load.stop().all_from(&["4", "5"]);
    expect_versions(&project, &[("4", 2)]);
}

#[test]
fn an_instance_that_fails_within_its_monitor_rolls_back_and_one_that_dies_later_does_not() {
    let project = TestProject::nginx_proxy("upmonitor");
    up(&project, 2);

    let promise = "an instance that crashes within the monitor brings all that served back";
    update_to(
        &project,
        "2",
        promise,
        "update_config: {parallelism: 2, monitor: 8s, failure_action: rollback}",
    );
    let before = project.ids("app");
    project.set_variables("EXIT_AFTER=3");
    let (result, answers) = project.deploy_under_load(LOAD, "app");
    result.exits(3).says("failed after it was ready: it exited with code 1");
    eprintln!("{} requests lost to instances that died while they served", answers.lost());
    assert_eq!(project.ids("app"), before);
    expect_versions(&project, &[("1", 2)]);
    project.set_variables("EXIT_AFTER=0");

    let promise = "an instance that stops answering within the monitor brings all that served back";
    update_to(&project, "3", promise, "update_config: {parallelism: 1, monitor: 20s}");
    let load = project.start_load(LOAD);
    let words = "--health-path /health --health-timeout 500ms --drain-timeout 20s";
    let mut deploy = project.start_deploy(&format!("app --update-failure-action rollback {words}"));
    deploy.wait_for("watching ");
    let silent = &deploy.wait_for_names("started", 2)[..1];
    signal(&project, "STOP", silent);
    deploy.wait_for("rolling back");
    signal(&project, "CONT", silent);
    deploy.wait().exits(3).says("it stopped answering as ready").says("no answer in time");
    load.stop().all_from(&["1", "3"]);
    assert_eq!(project.ids("app"), before);
    expect_versions(&project, &[("1", 2)]);

    let promise = "an interrupt within the monitor brings all that served back";
    update_to(&project, "4", promise, "update_config: {parallelism: 1, delay: 1s, monitor: 30s}");
    let result = interrupt_deploy(&project, "watching ", ["1", "4"]);
    let output = order_of_events(&result, &["created", "stopped", "waiting", "rolling"]);
    assert_eq!(output[..5], ["created", "stopped", "waiting", "created", "rolling"]);

    let promise = "an instance that dies after its monitor does not end the rollout";
    let settings = "{parallelism: 1, delay: 3s, monitor: 100ms, failure_action: rollback}";
    update_to(&project, "5", promise, &format!("update_config: {settings}"));
    let load = project.start_load(LOAD);
    let mut deploy = project.start_deploy("app");
    deploy.wait_for("waiting 3.0s before the next batch");
    wait_until("the monitor is over", WAIT_LIMIT, {
        let now = std::time::Instant::now();
        move || now.elapsed().as_millis() > 500
    });
    kill_some(&project, &mut deploy, 1, 1);
    deploy.wait().exits(0).says("exited and receives no requests");
    eprintln!("{} requests lost to an instance that was killed while it served", load.stop().lost());
    assert_eq!(project.states("app").iter().filter(|s| *s == "running 5").count(), 1);
    assert_eq!(project.states("app").len(), 2);
}

/// Monitor for both sides of a pair.
const PAIR_CONFIG: &str = "services: {service_a: &s {deploy: {update_config: \
                    {monitor: 30s, failure_action: rollback}}}, service_b: *s}";

#[test]
fn a_side_that_dies_within_the_monitor_leaves_the_old_side_serving() {
    let project = TestProject::pair_with_idle_side("uppair");
    project.write_override(PAIR_CONFIG);

    project.log("==== an idle side that dies leaves the active one serving");
    let active = project.ids("service_a");
    project.set_variables("VERSION=2");
    let load = project.start_load(LOAD);
    let mut deploy = project.start_deploy("service");
    deploy.wait_for("watching ");
    let new = deploy.wait_for_names("started", 1);
    signal(&project, "KILL", &new);
    deploy.wait().exits(3).says("failed after it was ready");
    eprintln!("{} requests lost to a side that was killed while it served", load.stop().lost());
    assert_eq!(project.ids("service_a"), active);
    assert_eq!(project.states("service_a"), ["running 1"]);
    project.expect_version("1");
    assert_eq!(project.marks(), "");

    project.log("==== the death of one of two serving sides rolls both back");
    project.up("");
    let before = (project.ids("service_a"), project.ids("service_b"));
    project.set_variables("VERSION=3 EXIT_AFTER=3");
    let (result, answers) = project.deploy_under_load(LOAD, "service");
    result.exits(3).says("failed after it was ready");
    eprintln!("{} requests lost to a side that died while it served", answers.lost());
    assert_eq!((project.ids("service_a"), project.ids("service_b")), before);
    project.expect_release("service_a", 1, "2");
    project.expect_release("service_b", 1, "2");
}
