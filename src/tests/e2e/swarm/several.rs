//! Several machines: what becomes of a deploy on all of them, and when one is lost in the middle of it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::nodes::Nodes;
use super::stack::Stack;
use crate::cli_runner::Running;
use crate::test_project::{LONG, wait_until};

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

const OTHER: usize = 1;

/// Limit for an engine that does not answer, so that no test sits out the minutes that it is by itself. A manager counts as lost
/// after half of it.
const TIMEOUT: &str = "COMPOSE_ZD_ENGINE_TIMEOUT=40s";
const NO_TIMEOUT: &str = "COMPOSE_ZD_ENGINE_TIMEOUT=2m";

/// The longest that compose-zd may go on asking a manager that does not answer.
const UNANSWERED: Duration = Duration::from_secs(60);

/// The longest that is waited for a leader.
const ELECTION: Duration = Duration::from_secs(60);

/// Six instances of version 1 on all nodes; version 2 is to come.
fn six<'n>(nodes: &'n Nodes, name: &str) -> Stack<'n> {
    let stack = Stack::new(nodes, name, FILE);
    stack.deploy("").exits(0);
    stack.wait_for_versions("app", &["1"; 6]);
    assert_eq!(stack.places("app").len(), 3, "nodes that it runs on");
    stack.set("VERSION=2");
    stack
}

/// Three instances of the new version run, on whichever nodes Swarm has chosen.
fn half_runs(stack: &Stack) -> bool {
    let version = stack.variable("VERSION");
    let mut new = stack.running("app");
    new.retain(|t| Stack::version(t) == version);
    new.len() == 3
}

/// Every slot is served by this version, nothing else runs, and nothing is counted that a lost node had. Where an old
/// instance was lost and its slot updated start-first at the same time, Swarm may keep two in that slot.
fn wait_for_slots(stack: &Stack, version: &str) {
    wait_until(&format!("all six slots are {version}"), LONG, || {
        let tasks = stack.running("app");
        let slots: BTreeSet<u64> = tasks.iter().filter_map(|t| t["Slot"].as_u64()).collect();
        let sound = |t: &Value| Stack::version(t) == version && !stack.is_on_lost(t);
        slots.len() == 6 && tasks.iter().all(sound)
    });
}

fn wait_for(stack: &Stack, deploy: &mut Running, what: &str, mut seen: impl FnMut() -> bool) {
    wait_until(what, LONG, || {
        let found = seen();
        assert!(found || deploy.runs(), "it ended before that: {:?}", stack.versions("app"));
        found
    });
}

/// Swarm itself waits for an instance on a lost worker for ever, though it has long started another in its place.
#[test]
fn a_worker_node_lost_in_a_deploy_does_not_block_it() {
    let nodes = Nodes::new(1, 2);
    let stack = six(&nodes, "workers");
    stack.tell("---- a worker is lost while a new instance starts there");
    stack.set("WARMUP=1");
    let mut deploy = stack.start_deploy("--health-deadline 15s");
    wait_for(&stack, &mut deploy, "one starts there", || {
        stack.tasks("app").iter().any(|t| t["Status"]["State"] == "starting" && stack.is_on(t, OTHER))
    });
    nodes.lose(OTHER);
    deploy.end().exits(3);
    stack.wait_for_versions("app", &["1"; 6]);
    assert_eq!(stack.update_state("app"), "rollback_completed");

    stack.tell("---- an update and a rollback end the same on manager and worker");
    stack.deploy("--update-delay 0s").exits(0);
    stack.wait_for_versions("app", &["2"; 6]);
    assert_eq!(stack.update_state("app"), "completed");
    stack.rollback("").exits(0);
    stack.wait_for_versions("app", &["1"; 6]);

    stack.tell("---- a worker is lost when half of the new instances run");
    stack.set("VERSION=3 WARMUP=0");
    let mut deploy = stack.start_deploy("");
    let last = 2;
    wait_for(&stack, &mut deploy, "half of it runs", || half_runs(&stack));
    assert!(stack.running("app").iter().any(|t| stack.is_on(t, last)), "some run on the one that is lost");
    nodes.lose(last);
    deploy.end().exits(0);
    wait_for_slots(&stack, "3");
    assert_eq!(stack.update_state("app"), "completed");
}

#[test]
fn any_manager_deploys_even_when_the_leader_is_lost() {
    let nodes = Nodes::new(3, 0);
    let stack = six(&nodes, "managers");
    stack.talk_to(OTHER);
    stack.tell("---- a good update, a broken one, and back again");
    stack.deploy("--update-delay 0s").exits(0);
    stack.wait_for_versions("app", &["2"; 6]);
    assert_eq!(stack.update_state("app"), "completed");
    stack.set("VERSION=3 HEALTH_STATUS=503");
    stack.deploy("").exits(3);
    stack.wait_for_versions("app", &["2"; 6]);
    assert_eq!(stack.update_state("app"), "rollback_completed");
    stack.rollback("").exits(0);
    stack.wait_for_versions("app", &["1"; 6]);

    stack.tell("---- the one that leads is lost");
    stack.set("VERSION=4 HEALTH_STATUS=200");
    let mut deploy = stack.start_deploy("");
    wait_for(&stack, &mut deploy, "half of it runs", || half_runs(&stack));
    nodes.lose(LEADER);
    deploy.end().exits(0);
    wait_for_slots(&stack, "4");
}

/// Another manager ends what the lost one was told.
fn is_ended_through_another(stack: &Stack, version: &str) {
    stack.set(NO_TIMEOUT);
    stack.talk_to(stack.nodes.manager());
    wait_until("the others have a leader", ELECTION, || !stack.service("app").is_null());
    stack.deploy("").exits(0);
    stack.wait_for_versions("app", &[version; 6]);
}

#[test]
fn a_deploy_with_a_lost_manager_is_reported_and_finished_through_another() {
    let nodes = Nodes::new(3, 0);
    let stack = six(&nodes, "manager");
    stack.tell("---- it falls silent, as where it is reached over a network");
    stack.set(TIMEOUT);
    let mut deploy = stack.start_deploy("");
    wait_for(&stack, &mut deploy, "half of it runs", || half_runs(&stack));
    nodes.silence(LEADER);
    // It cannot know how that ends: the update goes on without it.
    wait_until("it ends", UNANSWERED, || !deploy.runs());
    deploy.end().exits(4).says("the result of the update is not known");
    is_ended_through_another(&stack, "2");
    nodes.hear_again(LEADER);

    stack.tell("---- the one that leads by now is lost");
    let leader = nodes.leader();
    stack.talk_to(leader);
    stack.set(&format!("VERSION=3 {TIMEOUT}"));
    let mut deploy = stack.start_deploy("");
    wait_for(&stack, &mut deploy, "half of it runs", || half_runs(&stack));
    nodes.lose(leader);
    wait_until("it ends", UNANSWERED, || !deploy.runs());
    deploy.end().exits(4).says("the result of the update is not known");
    is_ended_through_another(&stack, "3");
}
