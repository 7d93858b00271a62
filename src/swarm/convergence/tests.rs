use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::swarm::observed::ObservedStack;

/// A service `app` of three, with spec version `spec_version`, and its tasks: state, desired state, version, error.
fn stack(update: &str, spec_version: u64, tasks: &[(&str, &str, u64, &str)]) -> ObservedStack {
    let template =
        |version: u64| json!({ "ContainerSpec": { "Image": "a", "Env": [format!("V={version}")] } });
    let service = json!({
        "ID": "s",
        "Spec": { "Name": "p_app", "TaskTemplate": template(spec_version), "Mode": { "Replicated": { "Replicas": 3 } } },
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

fn convergence(now: &ObservedStack, before: Option<&ObservedStack>) -> Convergence {
    evaluate(now.services.get("app"), &ServiceGoal::new(now, "app"), before.map(|b| &b.services["app"]))
}

#[test]
fn the_update_status_that_swarm_reports_decides() {
    let status = |update: &str| convergence(&stack(update, 1, &three(1)), None);
    assert_eq!(status("updating"), Convergence::Underway);
    assert_eq!(status("rollback_started"), Convergence::Underway);
    assert_eq!(status("paused"), Convergence::Paused("why".into()));
    assert_eq!(status("rollback_paused"), Convergence::RollbackPaused("why".into()));
    assert_eq!(status("rollback_completed"), Convergence::RolledBack("why".into()));
    assert_eq!(status("completed"), Convergence::Converged);
    assert_eq!(status(""), Convergence::Converged);
}

#[test]
fn an_update_that_has_not_begun_has_not_converged() {
    let before = stack("completed", 1, &three(1));
    assert_eq!(convergence(&stack("", 2, &three(1)), Some(&before)), Convergence::Underway);
    assert_eq!(convergence(&stack("", 2, &three(2)), Some(&before)), Convergence::Converged);
    assert_eq!(convergence(&stack("", 1, &three(1)), Some(&before)), Convergence::Converged);
}

#[test]
fn too_few_running_tasks_is_not_converged_whatever_the_update_status() {
    let two = &three(1)[..2];
    for update in ["", "completed", "rollback_completed"] {
        assert_eq!(convergence(&stack(update, 1, two), None), Convergence::Underway, "{update}");
    }
}

#[test]
fn a_task_that_restarts_again_and_again_is_no_progress() {
    let score = |tasks: &[(&str, &str, u64, &str)]| {
        let stack = stack("updating", 2, tasks);
        progress_score(stack.services.values())
    };
    let old = [(RUNS, RUNS, 1, ""), (RUNS, RUNS, 1, ""), (RUNS, RUNS, 1, "")];
    let tried = [&old[..], &[("failed", "shutdown", 2, "x"), ("starting", RUNS, 2, "")]].concat();
    assert_eq!(score(&old), score(&tried));
    let one_more = [&old[..], &[(RUNS, RUNS, 2, "")]].concat();
    assert!(score(&one_more) > score(&old));
    assert!(score(&one_more[1..]) > score(&one_more), "an old one has gone");
}

#[test]
fn the_stall_timeout_covers_every_wait_of_swarm() {
    let stack_of = |state, error| stack("updating", 1, &[(RUNS, RUNS, 1, ""), (state, RUNS, 1, error)]);
    let stack = |state, error| stack("updating", 1, &[(state, RUNS, 1, error)]);
    let timeout = |stack: &ObservedStack, is_new: bool| {
        let service = &stack.services["app"];
        stall_timeout(service, Duration::from_secs(60), (!is_new).then_some(service)).as_secs()
    };
    assert_eq!(timeout(&stack("starting", ""), false), 60 + 5 + 2 + 10 + 60);
    assert_eq!(timeout(&stack("starting", ""), true), 60 + 5, "nothing is stopped for it");
    assert!(timeout(&stack("preparing", ""), false) >= PULL_TIME.as_secs());
    let taken = stack("pending", "no suitable node (host-mode port already in use on 1 node)");
    assert_eq!(timeout(&taken, true), 60, "waiting does not help");
    assert_eq!(timeout(&taken, false), 60 + 5 + 2 + 10 + 60, "its own task may have it");
    assert_eq!(task_errors(&taken.services["app"], |_| false).len(), 1);
    let own = stack_of("pending", taken.services["app"].tasks[0].status.error.as_str());
    assert!(task_errors(&own.services["app"], |_| false).is_empty());
}

#[test]
fn only_new_task_errors_are_reported_each_reason_once() {
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
    let lines: Vec<String> =
        task_errors(&stack.services["app"], |t| t.id == "t0").into_iter().map(|c| c.0).collect();
    assert_eq!(
        lines,
        [
            "app.7 on node: complete: it ended by itself, or its health check failed".to_string(),
            "app.6 on node: failed: Bind: port is already allocated".into(),
            "app.5 on node: rejected: No such image".into(),
            "app.4 on node: failed: task: non-zero exit (1)".into(),
        ]
    );
}

#[test]
fn a_service_that_was_removed_has_not_converged() {
    let before = stack("completed", 1, &three(1));
    let goal = ServiceGoal::new(&before, "app");
    assert_eq!(evaluate(None, &goal, None), Convergence::Gone);
}

#[test]
fn an_overwritten_update_is_distinguished_from_a_rollback_by_swarm() {
    let sent = stack("updating", 2, &three(1));
    let goal = ServiceGoal::new(&sent, "app");
    let evaluated = |update: &str| evaluate(stack(update, 3, &three(3)).services.get("app"), &goal, None);
    for update in ["", "updating", "completed", "paused"] {
        assert_eq!(evaluated(update), Convergence::Overwritten, "{update}");
    }
    assert_eq!(evaluated("rollback_started"), Convergence::Underway);
    assert_eq!(evaluated("rollback_completed"), Convergence::RolledBack("why".into()));
}

/// A service in this mode with a restart policy, and its tasks: state, iteration, slot.
fn special_service(mode: Value, policy: Value, tasks: &[(&str, u64, u64)]) -> ObservedStack {
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
fn a_job_has_converged_when_its_tasks_completed_in_this_iteration() {
    let job = |policy: Value, tasks: &[(&str, u64, u64)]| {
        let mode = json!({ "ReplicatedJob": { "TotalCompletions": 2 } });
        convergence(&special_service(mode, policy, tasks), None)
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
    let stack =
        special_service(json!({ "ReplicatedJob": { "TotalCompletions": 2 } }), any(), &[("complete", 2, 1)]);
    let service = &stack.services["app"];
    assert_eq!((service.current_tasks(), service.desired_tasks()), (1, 2));
}

#[test]
fn a_global_service_without_tasks_has_not_converged() {
    assert_eq!(
        convergence(&special_service(json!({ "Global": {} }), json!({}), &[]), None),
        Convergence::Underway
    );
}

#[test]
fn two_tasks_in_a_slot_count_once() {
    let mut service = stack("completed", 1, &three(1)).services["app"].clone();
    let twice = Task { id: "t9".into(), ..service.tasks[0].clone() };
    service.tasks.push(twice);
    assert_eq!((service.running_tasks(), service.current_tasks()), (3, 3));
}
