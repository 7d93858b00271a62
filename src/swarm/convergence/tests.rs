use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::swarm::observed::ObservedStack;

/// A service `app` of three, at version `wanted`, and its tasks: state, desired state, version, error.
fn stack(update: &str, wanted: u64, tasks: &[(&str, &str, u64, &str)]) -> ObservedStack {
    let template =
        |version: u64| json!({ "ContainerSpec": { "Image": "a", "Env": [format!("V={version}")] } });
    let service = json!({
        "ID": "s",
        "Spec": { "Name": "p_app", "TaskTemplate": template(wanted), "Mode": { "Replicated": { "Replicas": 3 } } },
        "UpdateStatus": { "State": update, "Message": "why" },
    });
    let task = |(n, (state, desired, version, error)): (usize, &(&str, &str, u64, &str))| {
        json!({
            "ID": format!("t{n}"), "ServiceID": "s", "NodeID": "n", "Slot": n + 1, "Spec": template(*version),
            "Status": { "State": state, "Err": error }, "DesiredState": desired, "CreatedAt": format!("2026-01-0{}", n + 1),
        })
    };
    let read = |value: Value| serde_json::from_value(value).unwrap();
    let tasks = tasks.iter().enumerate().map(task).map(|t| serde_json::from_value(t).unwrap()).collect();
    ObservedStack::new("p", vec![read(service)], tasks, &BTreeMap::from([("n".into(), "node".into())]))
}

const RUNS: &str = "running";

fn three(version: u64) -> Vec<(&'static str, &'static str, u64, &'static str)> {
    vec![(RUNS, RUNS, version, ""); 3]
}

fn of(now: &ObservedStack, before: Option<&ObservedStack>) -> Convergence {
    standing(now, &ServiceGoal::sent(now, "app"), before.map(|b| &b.services["app"]))
}

#[test]
fn what_swarm_says_goes_first() {
    let of = |update: &str| of(&stack(update, 1, &three(1)), None);
    assert_eq!(of("updating"), Convergence::Underway);
    assert_eq!(of("rollback_started"), Convergence::Underway);
    assert_eq!(of("paused"), Convergence::Paused("why".into()));
    assert_eq!(of("rollback_paused"), Convergence::RollbackPaused("why".into()));
    assert_eq!(of("rollback_completed"), Convergence::RolledBack("why".into()));
    assert_eq!(of("completed"), Convergence::Converged);
    assert_eq!(of(""), Convergence::Converged);
}

#[test]
fn an_update_that_has_not_begun_is_not_done() {
    let before = stack("completed", 1, &three(1));
    assert_eq!(of(&stack("", 2, &three(1)), Some(&before)), Convergence::Underway);
    assert_eq!(of(&stack("", 2, &three(2)), Some(&before)), Convergence::Converged);
    assert_eq!(of(&stack("", 1, &three(1)), Some(&before)), Convergence::Converged);
}

#[test]
fn too_few_that_run_is_not_done_whatever_swarm_says_of_the_update() {
    let two = &three(1)[..2];
    for update in ["", "completed", "rollback_completed"] {
        assert_eq!(of(&stack(update, 1, two), None), Convergence::Underway, "{update}");
    }
}

#[test]
fn a_task_that_starts_over_and_over_is_no_progress() {
    let far = |tasks: &[(&str, &str, u64, &str)]| {
        let stack = stack("updating", 2, tasks);
        progress(&stack, stack.services.values())
    };
    let old = [(RUNS, RUNS, 1, ""), (RUNS, RUNS, 1, ""), (RUNS, RUNS, 1, "")];
    let tried = [&old[..], &[("failed", "shutdown", 2, "x"), ("starting", RUNS, 2, "")]].concat();
    assert_eq!(far(&old), far(&tried));
    let one_more = [&old[..], &[(RUNS, RUNS, 2, "")]].concat();
    assert!(far(&one_more) > far(&old));
    assert!(far(&one_more[1..]) > far(&one_more), "an old one has gone");
}

#[test]
fn patience_covers_what_swarm_waits_for_by_itself() {
    let stack_of = |state, error| stack("updating", 1, &[(RUNS, RUNS, 1, ""), (state, RUNS, 1, error)]);
    let stack = |state, error| stack("updating", 1, &[(state, RUNS, 1, error)]);
    let of = |stack: &ObservedStack, is_new: bool| {
        let service = &stack.services["app"];
        stall_timeout(stack, service, Duration::from_secs(60), (!is_new).then_some(service)).as_secs()
    };
    assert_eq!(of(&stack("starting", ""), false), 60 + 5 + 2 + 10 + 60);
    assert_eq!(of(&stack("starting", ""), true), 60 + 5, "nothing is stopped for it");
    assert!(of(&stack("preparing", ""), false) >= PULL.as_secs());
    let taken = stack("pending", "no suitable node (host-mode port already in use on 1 node)");
    assert_eq!(of(&taken, true), 60, "waiting does not help");
    assert_eq!(of(&taken, false), 60 + 5 + 2 + 10 + 60, "its own task may have it");
    assert_eq!(complaints(&taken, "app", |_| false).len(), 1);
    let own = stack_of("pending", taken.tasks[0].error.as_str());
    assert!(complaints(&own, "app", |_| false).is_empty());
}

#[test]
fn complaints_are_the_new_ones_each_reason_once() {
    let port = |n: u8| {
        let (task, id) = (format!("{n}").repeat(25), format!("{n}").repeat(64));
        format!(
            "container {id}: driver failed on endpoint p_app.1.{task} ({id}): Bind: port is already allocated"
        )
    };
    let ports = [port(1), port(2)];
    let stack = stack(
        "updating",
        2,
        &[
            ("failed", "shutdown", 1, "old"),
            ("failed", "shutdown", 2, &ports[0]),
            ("failed", "shutdown", 2, "task: non-zero exit (1)"),
            ("failed", "shutdown", 2, "task: non-zero exit (1)"),
            ("rejected", "shutdown", 2, "No such image"),
            ("failed", "shutdown", 2, &ports[1]),
            ("complete", "shutdown", 2, ""),
            (RUNS, RUNS, 2, ""),
        ],
    );
    let said: Vec<String> = complaints(&stack, "app", |t| t.id == "t0").into_iter().map(|c| c.0).collect();
    assert_eq!(
        said,
        [
            "app.7 on node: complete: it ended by itself, or its health check failed".to_string(),
            "app.6 on node: failed: Bind: port is already allocated".into(),
            "app.5 on node: rejected: No such image".into(),
            "app.4 on node: failed: task: non-zero exit (1)".into(),
        ]
    );
}

#[test]
fn a_service_that_vanishes_is_no_success() {
    let before = stack("completed", 1, &three(1));
    let goal = ServiceGoal::sent(&before, "app");
    let now = ObservedStack::default();
    assert_eq!(standing(&now, &goal, None), Convergence::Gone);
}

#[test]
fn another_update_in_between_is_told_from_swarms_own_way_back() {
    let sent = stack("updating", 2, &three(1));
    let goal = ServiceGoal::sent(&sent, "app");
    let of = |update: &str| standing(&stack(update, 3, &three(3)), &goal, None);
    for update in ["", "updating", "completed", "paused"] {
        assert_eq!(of(update), Convergence::Overwritten, "{update}");
    }
    assert_eq!(of("rollback_started"), Convergence::Underway);
    assert_eq!(of("rollback_completed"), Convergence::RolledBack("why".into()));
}

/// A service in this mode with a restart policy, and its tasks: state, iteration, slot.
fn special(mode: Value, policy: Value, tasks: &[(&str, u64, u64)]) -> ObservedStack {
    let template = json!({ "ContainerSpec": { "Image": "a" }, "RestartPolicy": policy });
    let service = json!({
        "ID": "s", "Spec": { "Name": "p_app", "TaskTemplate": template, "Mode": mode },
        "JobStatus": mode.as_object().unwrap().keys().any(|k| k.ends_with("Job")).then(|| json!({ "JobIteration": { "Index": 2 } })),
    });
    let task = |(n, (state, iteration, slot)): (usize, &(&str, u64, u64))| {
        let desired = if *state == "failed" { "shutdown" } else { "complete" };
        serde_json::from_value(json!({
            "ID": format!("t{n}"), "ServiceID": "s", "NodeID": "n", "Slot": slot, "Spec": template, "CreatedAt": format!("{n}"),
            "JobIteration": { "Index": iteration }, "Status": { "State": state, "Err": "" }, "DesiredState": desired,
        }))
        .unwrap()
    };
    let tasks = tasks.iter().enumerate().map(task).collect();
    ObservedStack::new("p", vec![serde_json::from_value(service).unwrap()], tasks, &BTreeMap::new())
}

#[test]
fn a_job_is_done_when_its_tasks_completed_in_this_iteration() {
    let job = |policy: Value, tasks: &[(&str, u64, u64)]| {
        let mode = json!({ "ReplicatedJob": { "TotalCompletions": 2 } });
        of(&special(mode, policy, tasks), None)
    };
    let any = || json!({ "Condition": "any" });
    assert_eq!(job(any(), &[("complete", 2, 1), ("complete", 2, 2)]), Convergence::Converged);
    assert_eq!(job(any(), &[("complete", 1, 1), ("complete", 1, 2)]), Convergence::Underway, "those before");
    assert_eq!(job(any(), &[("complete", 2, 1), ("running", 2, 2)]), Convergence::Underway);
    assert_eq!(
        job(any(), &[("failed", 2, 1), ("running", 2, 1)]),
        Convergence::Underway,
        "it is tried again"
    );
    let none = || json!({ "Condition": "none" });
    assert_eq!(job(none(), &[("failed", 2, 1), ("complete", 2, 2)]), Convergence::JobFailed);
    assert_eq!(job(none(), &[("failed", 1, 1)]), Convergence::Underway, "that was before");
    let twice = || json!({ "Condition": "on-failure", "MaxAttempts": 1 });
    assert_eq!(job(twice(), &[("failed", 2, 1)]), Convergence::Underway);
    assert_eq!(job(twice(), &[("failed", 2, 1), ("failed", 2, 1)]), Convergence::JobFailed);
    let stack = special(json!({ "ReplicatedJob": { "TotalCompletions": 2 } }), any(), &[("complete", 2, 1)]);
    assert_eq!((stack.current(&stack.services["app"]), stack.wanted(&stack.services["app"])), (1, 2));
}

#[test]
fn a_global_service_that_no_node_takes_is_not_done() {
    assert_eq!(of(&special(json!({ "Global": {} }), json!({}), &[]), None), Convergence::Underway);
}

#[test]
fn two_tasks_in_a_slot_count_once() {
    let mut stack = stack("completed", 1, &three(1));
    let mut twice = stack.tasks[0].clone();
    twice.id = "t9".into();
    stack.tasks.push(twice);
    assert_eq!((stack.running("app"), stack.current(&stack.services["app"])), (3, 3));
}
