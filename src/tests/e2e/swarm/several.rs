//! Several machines: what becomes of a deploy on all of them, and when one is lost in the middle of it.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use super::nodes::Nodes;
use super::stack::Stack;
use crate::stage::{LONG, wait_until};
use crate::tool::Running;

/// In two halves, with a pause in which the managers find out that a node is lost: the second half is for the others.
/// Needs no virtual IPs and no ingress, which not every kernel can do.
const FILE: &str = "
x-zd: {engine: swarm}
services:
  app:
    image: ${ZD_APP_IMAGE}
    environment:
      VERSION: '${VERSION}'
      WARMUP: '${WARMUP:-0}'
      HEALTH_STATUS: '${HEALTH_STATUS:-200}'
    healthcheck: {test: [CMD, /sample-app, probe], interval: 300ms, timeout: 2s, retries: 5}
    deploy:
      endpoint_mode: dnsrr
      replicas: 6
      update_config: {parallelism: 3, delay: 8s, monitor: 1s, order: start-first}
      rollback_config: {parallelism: 0, monitor: 1s, order: start-first}
";

/// The manager that the others joined.
const LEADER: usize = 0;

const OTHER: usize = 1;

/// The longest that compose-zd may go on asking a manager that does not answer.
const UNANSWERED: Duration = Duration::from_secs(120);

/// The longest that is waited for a leader.
const ELECTION: Duration = Duration::from_secs(60);

/// Six instances of version 1 on all nodes.
fn six<'n>(nodes: &'n Nodes, name: &str) -> Stack<'n> {
    let stack = Stack::new(nodes, name, FILE);
    stack.deploy("").exits(0);
    stack.wait_for_versions("app", &["1"; 6]);
    assert_eq!(stack.places("app").len(), 3, "nodes that it runs on");
    stack.set("VERSION=2");
    stack
}

/// Three new instances run, one of them there.
fn half_runs(stack: &Stack, node: usize) -> bool {
    let mut new = stack.running("app");
    new.retain(|t| Stack::version(t) == "2");
    new.len() == 3 && new.iter().any(|t| stack.is_on(t, node))
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

/// A good update, a broken one, and back again.
fn ends_the_same_everywhere(nodes: &Nodes, name: &str, node: usize) {
    let stack = six(nodes, name);
    stack.talk_to(node);
    stack.deploy("--update-delay 0s").exits(0);
    stack.wait_for_versions("app", &["2"; 6]);
    assert_eq!(stack.update_state("app"), "completed");
    stack.set("VERSION=3 HEALTH_STATUS=503");
    stack.deploy("").exits(3);
    stack.wait_for_versions("app", &["2"; 6]);
    assert_eq!(stack.update_state("app"), "rollback_completed");
    stack.rollback("").exits(0);
    stack.wait_for_versions("app", &["1"; 6]);
}

#[test]
fn an_update_ends_the_same_on_manager_and_workers() {
    ends_the_same_everywhere(&Nodes::new(1, 2), "spread", 0);
}

#[test]
fn an_update_ends_the_same_through_a_manager_that_does_not_lead() {
    ends_the_same_everywhere(&Nodes::new(3, 0), "managers", OTHER);
}

#[test]
fn the_instances_of_a_worker_lost_in_the_middle_of_a_deploy_go_to_the_others() {
    let nodes = Nodes::new(1, 2);
    let stack = six(&nodes, "worker");
    let mut deploy = stack.start_deploy("");
    wait_for(&stack, &mut deploy, "half of it runs", || half_runs(&stack, OTHER));
    nodes.lose(OTHER);
    deploy.end().exits(0);
    wait_for_slots(&stack, "2");
    assert_eq!(stack.update_state("app"), "completed");
}

/// Swarm itself waits for that instance for ever, though it has long started another in its place.
#[test]
fn a_worker_lost_while_a_new_instance_starts_there_does_not_hold_a_deploy_up_for_ever() {
    let nodes = Nodes::new(1, 2);
    let stack = six(&nodes, "stuck");
    stack.set("WARMUP=1");
    let mut deploy = stack.start_deploy("--health-deadline 15s");
    wait_for(&stack, &mut deploy, "one starts there", || {
        stack.tasks("app").iter().any(|t| t["Status"]["State"] == "starting" && stack.is_on(t, OTHER))
    });
    nodes.lose(OTHER);
    deploy.end().exits(3);
    stack.wait_for_versions("app", &["1"; 6]);
    assert_eq!(stack.update_state("app"), "rollback_completed");
    stack.deploy("--update-delay 0s").exits(0);
    stack.wait_for_versions("app", &["2"; 6]);
}

#[test]
fn a_deploy_goes_on_when_the_managers_lose_the_one_that_leads_them() {
    let nodes = Nodes::new(3, 0);
    let stack = six(&nodes, "leader");
    stack.talk_to(OTHER);
    let mut deploy = stack.start_deploy("");
    wait_for(&stack, &mut deploy, "half of it runs", || half_runs(&stack, LEADER));
    nodes.lose(LEADER);
    deploy.end().exits(0);
    wait_for_slots(&stack, "2");
}

/// It cannot know how that ends: the update goes on without it.
fn ends_without_knowing(name: &str, lose: impl Fn(&Nodes)) {
    let nodes = Nodes::new(3, 0);
    let stack = six(&nodes, name);
    let mut deploy = stack.start_deploy("");
    wait_for(&stack, &mut deploy, "half of it runs", || half_runs(&stack, LEADER));
    lose(&nodes);
    wait_until("it ends", UNANSWERED, || !deploy.runs());
    deploy.end().exits(4).says("it is not known what became of the update");
    stack.talk_to(nodes.manager());
    wait_until("the others have a leader", ELECTION, || !stack.service("app").is_null());
    stack.deploy("").exits(0);
    stack.wait_for_versions("app", &["2"; 6]);
}

#[test]
fn a_deploy_whose_manager_is_lost_says_so_and_the_next_one_through_another_manager_ends_it() {
    ends_without_knowing("manager", |nodes| nodes.lose(LEADER));
}

/// As where it is reached over a network.
#[test]
fn a_deploy_whose_manager_falls_silent_says_so_and_the_next_one_through_another_manager_ends_it() {
    ends_without_knowing("silent", |nodes| nodes.silence(LEADER));
}
