//! Stacks on several nodes: deploys on all of them, and the loss of a node during a deploy.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::nodes::SwarmNodes;
use super::stack::TestStack;
use crate::cli_runner::RunningCommand;
use crate::test_project::{WAIT_LIMIT, wait_until};

/// A stack that updates in two halves, with a pause in which the managers notice a lost node; the other nodes get the second half.
/// Uses neither virtual IPs nor ingress, which need support of the kernel.
/// Health checks are rare, because each one costs a tenth of a second of processor time.
const FILE: &str = "
x-zd: {engine: swarm}
services:
  app:
    image: ${ZD_APP_IMAGE}
    environment:
      VERSION: '${VERSION}'
      WARMUP: '${WARMUP:-0}'
      HEALTH_STATUS: '${HEALTH_STATUS:-200}'
    healthcheck: {test: [CMD, /sample-app, probe], interval: 4s, timeout: 5s, retries: 1}
    deploy:
      endpoint_mode: dnsrr
      replicas: 6
      update_config: {parallelism: 3, delay: 8s, monitor: 1s, order: start-first}
      rollback_config: {parallelism: 0, monitor: 1s, order: start-first}
";

/// Manager that the other nodes joined.
const LEADER: usize = 0;

const OTHER_MANAGER: usize = 1;

/// Timeout for an engine that does not answer, shorter than the default. A manager counts as lost after half of it.
const TIMEOUT: &str = "COMPOSE_ZD_ENGINE_TIMEOUT=40s";
const NO_TIMEOUT: &str = "COMPOSE_ZD_ENGINE_TIMEOUT=2m";

/// Longest time until compose-zd gives up on a manager that does not answer.
const MAX_UNANSWERED: Duration = Duration::from_secs(60);

/// Limit of the wait for a leader.
const ELECTION: Duration = Duration::from_secs(60);

/// Deploys six tasks of version 1 on all nodes, and prepares version 2.
fn six_replicas<'n>(nodes: &'n SwarmNodes, name: &str) -> TestStack<'n> {
    let stack = TestStack::new(nodes, name, FILE);
    stack.deploy("").exits(0);
    stack.wait_for_versions("app", &["1"; 6]);
    assert_eq!(stack.task_nodes("app").len(), 3, "nodes that it runs on");
    stack.set_variables("VERSION=2");
    stack
}

/// Three tasks of the new version run, on any nodes.
fn half_is_updated(stack: &TestStack) -> bool {
    let version = stack.variable("VERSION");
    let mut new = stack.running("app");
    new.retain(|t| TestStack::version(t) == version);
    new.len() == 3
}

/// Waits until every slot runs only this version, without counting lost nodes. Swarm may keep two tasks in a slot that was
/// updated start-first while its old task was lost.
fn wait_for_slots(stack: &TestStack, version: &str) {
    wait_until(&format!("all six slots are {version}"), WAIT_LIMIT, || {
        let tasks = stack.running("app");
        let slots: BTreeSet<u64> = tasks.iter().filter_map(|t| t["Slot"].as_u64()).collect();
        let sound = |t: &Value| TestStack::version(t) == version && !stack.is_on_lost(t);
        slots.len() == 6 && tasks.iter().all(sound)
    });
}

fn wait_for(stack: &TestStack, deploy: &mut RunningCommand, what: &str, mut seen: impl FnMut() -> bool) {
    wait_until(what, WAIT_LIMIT, || {
        let found = seen();
        assert!(found || deploy.is_running(), "it ended before that: {:?}", stack.versions("app"));
        found
    });
}

/// Swarm itself waits for ever for a task on a lost worker, although it has started a replacement.
#[test]
fn a_worker_node_lost_in_a_deploy_does_not_block_it() {
    let nodes = SwarmNodes::new(1, 2);
    let stack = six_replicas(&nodes, "workers");
    stack.log("---- a worker is lost while a new task starts on it");
    stack.set_variables("WARMUP=1");
    let mut deploy = stack.start_deploy("--health-deadline 15s");
    wait_for(&stack, &mut deploy, "one starts there", || {
        stack.tasks("app").iter().any(|t| t["Status"]["State"] == "starting" && stack.is_on(t, OTHER_MANAGER))
    });
    nodes.kill(OTHER_MANAGER);
    deploy.wait().exits(3);
    stack.wait_for_versions("app", &["1"; 6]);
    assert_eq!(stack.update_state("app"), "rollback_completed");

    stack.log("---- an update and a rollback end the same on manager and worker");
    stack.deploy("--update-delay 0s").exits(0);
    stack.wait_for_versions("app", &["2"; 6]);
    assert_eq!(stack.update_state("app"), "completed");
    stack.rollback("").exits(0);
    stack.wait_for_versions("app", &["1"; 6]);

    stack.log("---- a worker is lost when half of the new tasks run");
    stack.set_variables("VERSION=3 WARMUP=0");
    let mut deploy = stack.start_deploy("");
    let last = 2;
    wait_for(&stack, &mut deploy, "half of it runs", || half_is_updated(&stack));
    assert!(stack.running("app").iter().any(|t| stack.is_on(t, last)), "some run on the one that is lost");
    nodes.kill(last);
    deploy.wait().exits(0);
    wait_for_slots(&stack, "3");
    assert_eq!(stack.update_state("app"), "completed");
}

#[test]
fn any_manager_deploys_even_when_the_leader_is_lost() {
    let nodes = SwarmNodes::new(3, 0);
    let stack = six_replicas(&nodes, "managers");
    stack.use_node(OTHER_MANAGER);
    stack.log("---- a good update, a broken one, and a rollback");
    stack.deploy("--update-delay 0s").exits(0);
    stack.wait_for_versions("app", &["2"; 6]);
    assert_eq!(stack.update_state("app"), "completed");
    stack.set_variables("VERSION=3 HEALTH_STATUS=503");
    stack.deploy("").exits(3);
    stack.wait_for_versions("app", &["2"; 6]);
    assert_eq!(stack.update_state("app"), "rollback_completed");
    stack.rollback("").exits(0);
    stack.wait_for_versions("app", &["1"; 6]);

    stack.log("---- the leader is lost");
    stack.set_variables("VERSION=4 HEALTH_STATUS=200");
    let mut deploy = stack.start_deploy("");
    wait_for(&stack, &mut deploy, "half of it runs", || half_is_updated(&stack));
    nodes.kill(LEADER);
    deploy.wait().exits(0);
    wait_for_slots(&stack, "4");
}

/// Asserts that a deploy through another manager finishes the update of the lost one.
fn finish_through_another(stack: &TestStack, version: &str) {
    stack.set_variables(NO_TIMEOUT);
    stack.use_node(stack.nodes.manager());
    wait_until("the others have a leader", ELECTION, || !stack.service("app").is_null());
    stack.deploy("").exits(0);
    stack.wait_for_versions("app", &[version; 6]);
}

#[test]
fn a_deploy_with_a_lost_manager_is_reported_and_finished_through_another() {
    let nodes = SwarmNodes::new(3, 0);
    let stack = six_replicas(&nodes, "manager");
    stack.log("---- the manager stops answering, as over a broken network");
    stack.set_variables(TIMEOUT);
    let mut deploy = stack.start_deploy("");
    wait_for(&stack, &mut deploy, "half of it runs", || half_is_updated(&stack));
    nodes.disconnect(LEADER);
    // The deploy cannot know the result: the update continues without it.
    wait_until("it ends", MAX_UNANSWERED, || !deploy.is_running());
    deploy.wait().exits(4).says("the result of the update is not known");
    finish_through_another(&stack, "2");
    nodes.reconnect(LEADER);

    stack.log("---- the new leader is lost");
    let leader = nodes.leader();
    stack.use_node(leader);
    stack.set_variables(&format!("VERSION=3 {TIMEOUT}"));
    let mut deploy = stack.start_deploy("");
    wait_for(&stack, &mut deploy, "half of it runs", || half_is_updated(&stack));
    nodes.kill(leader);
    wait_until("it ends", MAX_UNANSWERED, || !deploy.is_running());
    deploy.wait().exits(4).says("the result of the update is not known");
    finish_through_another(&stack, "3");
}
