//! Several machines: what becomes of a deploy on all of them, and when one is lost in the middle of it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::nodes::SwarmNodes;
use super::stack::TestStack;
use crate::cli_runner::RunningCommand;
use crate::test_project::{WAIT_LIMIT, wait_until};

/// In two halves, with a pause in which the managers find out that a node is lost: the second half is for the others.
/// Needs no virtual IPs and no ingress, which not every kernel can do.
/// Each health check starts a process in a container, which keeps a processor busy for a tenth of a second, so there are few.
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

/// The manager that the others joined.
const LEADER: usize = 0;

const OTHER_MANAGER: usize = 1;

/// Limit for an engine that does not answer, so that no test sits out the minutes that it is by itself. A manager counts as lost
/// after half of it.
const TIMEOUT: &str = "COMPOSE_ZD_ENGINE_TIMEOUT=40s";
const NO_TIMEOUT: &str = "COMPOSE_ZD_ENGINE_TIMEOUT=2m";

/// The longest that compose-zd may go on asking a manager that does not answer.
const MAX_UNANSWERED: Duration = Duration::from_secs(60);

/// The longest that is waited for a leader.
const ELECTION: Duration = Duration::from_secs(60);

/// Six instances of version 1 on all nodes; version 2 is to come.
fn six_replicas<'n>(nodes: &'n SwarmNodes, name: &str) -> TestStack<'n> {
    let stack = TestStack::new(nodes, name, FILE);
    stack.deploy("").exits(0);
    stack.wait_for_versions("app", &["1"; 6]);
    assert_eq!(stack.task_nodes("app").len(), 3, "nodes that it runs on");
    stack.set_variables("VERSION=2");
    stack
}

/// Three instances of the new version run, on whichever nodes Swarm has chosen.
fn half_is_updated(stack: &TestStack) -> bool {
    let version = stack.variable("VERSION");
    let mut new = stack.running("app");
    new.retain(|t| TestStack::version(t) == version);
    new.len() == 3
}

/// Every slot is served by this version, nothing else runs, and nothing is counted that a lost node had. Where an old
/// instance was lost and its slot updated start-first at the same time, Swarm may keep two in that slot.
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

/// Swarm itself waits for an instance on a lost worker for ever, though it has long started another in its place.
#[test]
fn a_worker_node_lost_in_a_deploy_does_not_block_it() {
    let nodes = SwarmNodes::new(1, 2);
    let stack = six_replicas(&nodes, "workers");
    stack.log("---- a worker is lost while a new instance starts there");
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

    stack.log("---- a worker is lost when half of the new instances run");
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
    stack.log("---- a good update, a broken one, and back again");
    stack.deploy("--update-delay 0s").exits(0);
    stack.wait_for_versions("app", &["2"; 6]);
    assert_eq!(stack.update_state("app"), "completed");
    stack.set_variables("VERSION=3 HEALTH_STATUS=503");
    stack.deploy("").exits(3);
    stack.wait_for_versions("app", &["2"; 6]);
    assert_eq!(stack.update_state("app"), "rollback_completed");
    stack.rollback("").exits(0);
    stack.wait_for_versions("app", &["1"; 6]);

    stack.log("---- the one that leads is lost");
    stack.set_variables("VERSION=4 HEALTH_STATUS=200");
    let mut deploy = stack.start_deploy("");
    wait_for(&stack, &mut deploy, "half of it runs", || half_is_updated(&stack));
    nodes.kill(LEADER);
    deploy.wait().exits(0);
    wait_for_slots(&stack, "4");
}

/// Another manager ends what the lost one was told.
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
    stack.log("---- it falls silent, as where it is reached over a network");
    stack.set_variables(TIMEOUT);
    let mut deploy = stack.start_deploy("");
    wait_for(&stack, &mut deploy, "half of it runs", || half_is_updated(&stack));
    nodes.disconnect(LEADER);
    // It cannot know how that ends: the update goes on without it.
    wait_until("it ends", MAX_UNANSWERED, || !deploy.is_running());
    deploy.wait().exits(4).says("the result of the update is not known");
    finish_through_another(&stack, "2");
    nodes.reconnect(LEADER);

    stack.log("---- the one that leads by now is lost");
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
