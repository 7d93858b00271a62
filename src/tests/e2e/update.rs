//! `deploy.update_config` and `deploy.rollback_config`: in batches, watched for a while, and what is done once more new
//! instances have failed than may. Each test is a row of updates of one project: every step starts from what the one
//! before left.
//!
//! The rules themselves are proven by units (`model/update.rs`, `plan/tests.rs`) and against a real Swarm (`rules.rs`).

use std::collections::BTreeMap;
use std::process::{Child, Stdio};

use crate::cli_runner::{CommandResult, RunningCommand};
use crate::load::Load;
use crate::test_project::{WAIT_LIMIT, TestProject, wait_until};

/// Long enough to end an instance before it is ready.
const SLOW_START: &str = "WARMUP=3";

/// A load lasts as long as it takes.
const LOAD: &str = "--seconds 300";

/// So many instances of version 1.
fn up(stage: &TestProject, count: usize) {
    stage.write_override(&format!("services: {{app: {{deploy: {{{ROLLBACK_CONFIG}}}}}}}"));
    stage.up(&format!("--scale app={count}"));
}

/// The next promise of a test, for one that fails; the file then asks for this version, replaced as `deploy` says.
fn update_to(stage: &TestProject, version: &str, promise: &str, deploy: &str) {
    stage.log(&format!("==== {promise}"));
    stage.write_override(&format!("services: {{app: {{deploy: {{{deploy}}}}}}}"));
    stage.set_variables(&format!("VERSION={version}"));
}

/// Ends some of the instances of a batch, before they are ready or after.
fn kill_some(stage: &TestProject, deploy: &mut RunningCommand, batch: usize, count: usize) {
    let names = deploy.wait_for_names("started", batch);
    assert!(names.len() >= count, "batch {batch} is {names:?}");
    signal(stage, "KILL", &names[..count]);
}

fn signal(stage: &TestProject, name: &str, instances: &[String]) {
    instances.iter().for_each(|i| stage.api().signal(&format!("{}-{i}", stage.name), name));
}

/// How many of each version run.
fn versions(stage: &TestProject) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for container in stage.service_containers("app") {
        assert_eq!(container.state, "running", "{container:?}");
        *counts.entry(container.version).or_default() += 1;
    }
    counts
}

fn expect_versions(stage: &TestProject, expected: &[(&str, usize)]) {
    let expected = expected.iter().map(|(version, n)| (version.to_string(), *n)).collect();
    assert_eq!(versions(stage), expected);
    assert_eq!(stage.marks(), "");
    stage.wait_until_all_answer();
}

/// The first words of what was said, of those that are asked for.
fn order_of_events<'r>(ran: &'r CommandResult, words: &[&str]) -> Vec<&'r str> {
    let said = ran.stderr.lines().filter_map(|l| l.split_whitespace().nth(1));
    said.filter(|w| words.contains(w)).collect()
}

/// What was said of instances, a line each.
fn lines<'r>(ran: &'r CommandResult, verb: &str) -> Vec<&'r str> {
    ran.stderr.lines().filter_map(|l| l.split_once(&format!("s  {verb} "))).map(|(_, names)| names).collect()
}

const ROLLBACK_CONFIG: &str = "update_config: {parallelism: 1, monitor: 1ms, failure_action: rollback}";

/// The first batch fails before it is ready: nobody notices, and what served, version 1, is not touched.
fn deploy_failing_batch(stage: &TestProject, count: usize, settings: &str, words: &str) {
    let promise = "a first batch that fails leaves all that served";
    update_to(stage, "2", promise, ROLLBACK_CONFIG);
    let before = stage.containers();
    stage.set_variables(settings);
    let (ran, answers) = stage.deploy_under_load(LOAD, words);
    ran.exits(3).says("served before and still serve");
    answers.all_from(&["1"]);
    assert_eq!(stage.containers(), before);
    assert_eq!(lines(&ran, "created").len(), 1, "only one batch is tried");
    expect_versions(stage, &[("1", count)]);
}

const PAUSE_CONFIG: &str = "update_config: {parallelism: 1, monitor: 1ms}, \
                     rollback_config: {parallelism: 1, monitor: 1ms, failure_action: rollback}";

/// The second batch fails, and one new instance serves beside the old ones.
fn deploy_until_paused<'s>(stage: &'s TestProject, count: usize, from: &str, to: &str, promise: &str) -> Load<'s> {
    update_to(stage, to, promise, PAUSE_CONFIG);
    stage.set_variables(SLOW_START);
    let load = stage.start_load(LOAD);
    let mut deploy = stage.start_deploy("app");
    kill_some(stage, &mut deploy, 2, 1);
    let paused = format!("paused: 1 of {count} instances are of release");
    deploy.wait().exits(3).says(&paused).says("--resume");
    expect_versions(stage, &[(from, count - 1), (to, 1)]);
    load
}

#[test]
fn a_paused_rollout_is_resumed_rolled_back_or_replaced() {
    let stage = TestProject::nginx_proxy("uppause");
    up(&stage, 2);
    deploy_failing_batch(&stage, 2, "STATUS=503", "app --health-deadline 2s");
    stage.set_variables("STATUS=200");

    let load = deploy_until_paused(&stage, 2, "1", "3", "resume finishes a rollout, and nothing is left to resume");
    stage.deploy("--resume").exits(0);
    load.stop().all_from(&["1", "3"]);
    stage.expect_release("app", 2, "3");
    stage.deploy("--resume").exits(2).says("no rollout of this project is paused").says("compose-zd deploy");

    let load = deploy_until_paused(&stage, 2, "3", "4", "rollback undoes a rollout, and nothing is left to resume");
    stage.rollback("").exits(0);
    load.stop().all_from(&["3", "4"]);
    stage.expect_release("app", 2, "3");
    stage.deploy("--resume").exits(2);

    let load = deploy_until_paused(&stage, 2, "3", "5", "a third version replaces both");
    stage.set_variables("VERSION=6 WARMUP=0");
    stage.deploy("app").exits(0);
    load.stop().all_from(&["3", "5", "6"]);
    stage.expect_release("app", 2, "6");

    stage.log("==== a rollback that fails pauses and is never rolled back, and resume finishes it");
    let load = stage.start_load(LOAD);
    let mut back = stage.start_rollback("");
    kill_some(&stage, &mut back, 2, 1);
    back.wait().exits(3).says("the rollback is paused: 1 of 2").never_says("going back");
    expect_versions(&stage, &[("3", 1), ("6", 1)]);
    stage.deploy("--resume").exits(0);
    load.stop().all_from(&["3", "6"]);
    stage.expect_release("app", 2, "3");
}

#[test]
fn behind_haproxy_a_failed_batch_rolls_back_or_pauses_and_a_new_deploy_finishes() {
    let stage = TestProject::haproxy("uphaproxy");
    up(&stage, 3);

    let promise = "a second batch that fails brings the first back, one by one as `rollback_config` says";
    let settings = "update_config: {parallelism: 2, monitor: 1ms, failure_action: rollback}, \
                    rollback_config: {parallelism: 1}";
    update_to(&stage, "3", promise, settings);
    let before = stage.ids("app");
    stage.set_variables(SLOW_START);
    let load = stage.start_load(LOAD);
    let mut deploy = stage.start_deploy("app");
    kill_some(&stage, &mut deploy, 2, 1);
    let ran = deploy.wait();
    ran.exits(3).says("exited with code 137").says("served before and still serve");
    load.stop().all_from(&["1", "3"]);
    assert_eq!(stage.ids("app"), before);
    let started = lines(&ran, "started");
    assert_eq!(started[2..].iter().map(|l| l.split(", ").count()).collect::<Vec<_>>(), [1, 1], "{started:?}");
    expect_versions(&stage, &[("1", 3)]);

    let load = deploy_until_paused(&stage, 3, "1", "4", "the same deploy again finishes what paused");
    stage.deploy("app").exits(0);
    load.stop().all_from(&["1", "4"]);
    stage.expect_release("app", 3, "4");
}

/// As with Swarm a batch is filled up when one of it has failed.
#[test]
fn failed_instances_are_tolerated_up_to_max_failure_ratio_or_with_continue() {
    let stage = TestProject::nginx_proxy("upratio");
    up(&stage, 3);

    let promise =
        "a rollout that continues leaves an old one for each that fails, which the next deploy replaces";
    update_to(
        &stage,
        "2",
        promise,
        "update_config: {parallelism: 2, monitor: 1ms, failure_action: continue}",
    );
    stage.set_variables(SLOW_START);
    let load = stage.start_load(LOAD);
    let mut deploy = stage.start_deploy("app");
    kill_some(&stage, &mut deploy, 1, 1);
    kill_some(&stage, &mut deploy, 2, 1);
    deploy.wait().exits(0).says("warning: 1 of 3 new instances").says("warning: 2 of 3 new instances");
    expect_versions(&stage, &[("1", 2), ("2", 1)]);
    stage.deploy("app").exits(0);
    load.stop().all_from(&["1", "2"]);
    stage.expect_release("app", 3, "2");

    let promise = "one more than max_failure_ratio says is too many: the batch that was replaced comes back";
    let settings = "{parallelism: 1, monitor: 1ms, failure_action: rollback, max_failure_ratio: 0.34}";
    update_to(&stage, "3", promise, &format!("update_config: {settings}"));
    let before = stage.ids("app");
    let load = stage.start_load(LOAD);
    let mut deploy = stage.start_deploy("app");
    [1, 3].iter().for_each(|batch| kill_some(&stage, &mut deploy, *batch, 1));
    let ran = deploy.wait();
    load.stop().all_from(&["2", "3"]);
    ran.exits(3).says("1 of 3 new instances of `app` failed, which may be");
    ran.says("exited with code 137").says("served before and still serve");
    assert_eq!(stage.ids("app"), before);
    expect_versions(&stage, &[("2", 3)]);

    let promise = "a rollout that continues and of which all fail is no success";
    update_to(&stage, "4", promise, "update_config: {parallelism: 2, monitor: 1ms}");
    let before = stage.containers();
    stage.set_variables("WARMUP=0 STATUS=503 COMPOSE_ZD_UPDATE_FAILURE_ACTION=continue");
    let (ran, answers) = stage.deploy_under_load(LOAD, "app --health-deadline 2s");
    ran.exits(3).says("warning: 2 of 3 new instances");
    answers.all_from(&["2"]);
    assert_eq!(stage.containers(), before);
    expect_versions(&stage, &[("2", 3)]);
}

/// Tells how few instances nginx sent requests to; the last good configuration is what it runs.
const COUNT_SCRIPT: &str = "fewest=99; until [ -e /tmp/enough ]; do \
    now=$(grep -E '^ *server .*:3000' /etc/nginx/conf.d/default.conf | grep -cv down); \
    [ $now -ge $fewest ] || fewest=$now; sleep 0.1; done; rm /tmp/enough; echo $fewest";

/// Counts from inside the proxy until it is asked.
struct RotationWatch<'s> {
    stage: &'s TestProject,
    child: Child,
}

impl<'s> RotationWatch<'s> {
    fn watch(stage: &'s TestProject) -> Self {
        let mut command = stage.command("docker");
        command.args(["exec", &stage.proxy().id, "sh", "-c", COUNT_SCRIPT]).stdout(Stdio::piped());
        RotationWatch { stage, child: command.spawn().expect("docker can be started") }
    }

    fn fewest(self) -> usize {
        self.stage.exec_in_proxy(&["touch", "/tmp/enough"]);
        let output = self.child.wait_with_output().expect("what it counted");
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
    }
}

const STOP_FIRST: &str =
    "update_config: {parallelism: 1, monitor: 1ms, order: stop-first, failure_action: rollback}";

/// Replaced stop-first one by one, with an eye on how many there are; or the second one is ended.
fn deploy_stop_first(stage: &TestProject, kills: bool) -> CommandResult {
    stage.set_variables(SLOW_START);
    let rotation = RotationWatch::watch(stage);
    let mut deploy = stage.start_deploy("app");
    if kills {
        kill_some(stage, &mut deploy, 2, 1);
    }
    let ran = deploy.wait();
    let fewest = rotation.fewest();
    assert_eq!(fewest, 1, "instances in rotation");
    stage.set_variables("WARMUP=0");
    ran
}

/// Interrupted when it has said this, with a batch done, it goes back.
fn interrupt_deploy(stage: &TestProject, line: &str, [from, to]: [&str; 2]) -> CommandResult {
    let before = stage.ids("app");
    let load = stage.start_load(LOAD);
    let mut deploy = stage.start_deploy("app");
    deploy.wait_for(line);
    deploy.signal("INT");
    let ran = deploy.wait();
    ran.exits(130).says("going back").says("served before and still serve");
    load.stop().all_from(&[from, to]);
    assert_eq!(stage.ids("app"), before);
    expect_versions(stage, &[(from, 2)]);
    ran
}

#[test]
fn between_two_batches_a_kill_is_survived_and_an_interrupt_rolls_back()
{
    let stage = TestProject::nginx_proxy("updelay");
    up(&stage, 2);
    let delay = "update_config: {parallelism: 1, delay: 30s, monitor: 1ms}";
    let line = "waiting 30.0s before the next batch";

    update_to(&stage, "2", "an interrupt between two batches brings all that served back", delay);
    interrupt_deploy(&stage, line, ["1", "2"]);

    update_to(&stage, "3", "a kill between two batches is survived", delay);
    let load = stage.start_load(LOAD);
    let mut deploy = stage.start_deploy("app");
    deploy.wait_for(line);
    deploy.kill();
    stage.get("/").expect("the service goes on");
    update_to(&stage, "4", "stop-first never takes more than a batch out", STOP_FIRST);
    let ran = deploy_stop_first(&stage, false);
    ran.exits(0);
    load.stop().all_from(&["1", "3", "4"]);
    assert_eq!(order_of_events(&ran, &["created", "stopped"]), ["stopped", "created"].repeat(2));
    stage.expect_release("app", 2, "4");

    update_to(&stage, "5", "stop-first goes back without taking more than a batch out", STOP_FIRST);
    let load = stage.start_load(LOAD);
    deploy_stop_first(&stage, true).exits(3).says("served before and still serve");
    load.stop().all_from(&["4", "5"]);
    expect_versions(&stage, &[("4", 2)]);
}

#[test]
fn an_instance_that_fails_within_its_monitor_rolls_back_and_one_that_dies_later_does_not() {
    let stage = TestProject::nginx_proxy("upmonitor");
    up(&stage, 2);

    let promise = "an instance that crashes within the monitor brings all that served back";
    update_to(&stage, "2", promise, "update_config: {parallelism: 2, monitor: 8s, failure_action: rollback}");
    let before = stage.ids("app");
    stage.set_variables("EXIT_AFTER=3");
    let (ran, answers) = stage.deploy_under_load(LOAD, "app");
    ran.exits(3).says("failed after it was ready: it exited with code 1");
    eprintln!("{} requests lost to instances that died while they served", answers.lost());
    assert_eq!(stage.ids("app"), before);
    expect_versions(&stage, &[("1", 2)]);
    stage.set_variables("EXIT_AFTER=0");

    let promise = "an instance that stops answering within the monitor brings all that served back";
    update_to(&stage, "3", promise, "update_config: {parallelism: 1, monitor: 20s}");
    let load = stage.start_load(LOAD);
    let words = "--health-path /health --health-timeout 500ms --drain-timeout 20s";
    let mut deploy = stage.start_deploy(&format!("app --update-failure-action rollback {words}"));
    deploy.wait_for("watching ");
    let silent = &deploy.wait_for_names("started", 2)[..1];
    signal(&stage, "STOP", silent);
    deploy.wait_for("going back");
    signal(&stage, "CONT", silent);
    deploy.wait().exits(3).says("it stopped answering as ready").says("no answer in time");
    load.stop().all_from(&["1", "3"]);
    assert_eq!(stage.ids("app"), before);
    expect_versions(&stage, &[("1", 2)]);

    let promise = "an interrupt within the monitor brings all that served back";
    update_to(&stage, "4", promise, "update_config: {parallelism: 1, delay: 1s, monitor: 30s}");
    let ran = interrupt_deploy(&stage, "watching ", ["1", "4"]);
    let said = order_of_events(&ran, &["created", "stopped", "waiting", "going"]);
    assert_eq!(said[..5], ["created", "stopped", "waiting", "created", "going"]);

    let promise = "an instance that dies after its monitor does not end the rollout";
    let settings = "{parallelism: 1, delay: 3s, monitor: 100ms, failure_action: rollback}";
    update_to(&stage, "5", promise, &format!("update_config: {settings}"));
    let load = stage.start_load(LOAD);
    let mut deploy = stage.start_deploy("app");
    deploy.wait_for("waiting 3.0s before the next batch");
    wait_until("the monitor is over", WAIT_LIMIT, {
        let now = std::time::Instant::now();
        move || now.elapsed().as_millis() > 500
    });
    kill_some(&stage, &mut deploy, 1, 1);
    deploy.wait().exits(0).says("no longer runs");
    eprintln!("{} requests lost to an instance that was killed while it served", load.stop().lost());
    assert_eq!(stage.states("app").iter().filter(|s| *s == "running 5").count(), 1);
    assert_eq!(stage.states("app").len(), 2);
}

/// Both sides of a pair are watched.
const PAIR_CONFIG: &str = "services: {service_a: &s {deploy: {update_config: \
                    {monitor: 30s, failure_action: rollback}}}, service_b: *s}";

#[test]
fn a_side_that_dies_within_the_monitor_leaves_the_old_side_serving() {
    let stage = TestProject::pair_with_idle_side("uppair");
    stage.write_override(PAIR_CONFIG);

    stage.log("==== an idle side that dies leaves the active one serving");
    let active = stage.ids("service_a");
    stage.set_variables("VERSION=2");
    let load = stage.start_load(LOAD);
    let mut deploy = stage.start_deploy("service");
    deploy.wait_for("watching ");
    let new = deploy.wait_for_names("started", 1);
    signal(&stage, "KILL", &new);
    deploy.wait().exits(3).says("failed after it was ready");
    eprintln!("{} requests lost to a side that was killed while it served", load.stop().lost());
    assert_eq!(stage.ids("service_a"), active);
    assert_eq!(stage.states("service_a"), ["running 1"]);
    stage.expect_version("1");
    assert_eq!(stage.marks(), "");

    stage.log("==== one of two that serve brings both back");
    stage.up("");
    let before = (stage.ids("service_a"), stage.ids("service_b"));
    stage.set_variables("VERSION=3 EXIT_AFTER=3");
    let (ran, answers) = stage.deploy_under_load(LOAD, "service");
    ran.exits(3).says("failed after it was ready");
    eprintln!("{} requests lost to a side that died while it served", answers.lost());
    assert_eq!((stage.ids("service_a"), stage.ids("service_b")), before);
    stage.expect_release("service_a", 1, "2");
    stage.expect_release("service_b", 1, "2");
}
