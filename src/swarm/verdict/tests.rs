use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::swarm::state::Stack;

/// A service `app` of three, at version `wanted`, and its tasks: state, desired state, version, error.
fn stack(update: &str, wanted: u64, tasks: &[(&str, &str, u64, &str)]) -> Stack {
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
    Stack::new("p", vec![read(service)], tasks, &BTreeMap::from([("n".into(), "node".into())]))
}

const RUNS: &str = "running";

fn three(version: u64) -> Vec<(&'static str, &'static str, u64, &'static str)> {
    vec![(RUNS, RUNS, version, ""); 3]
}

fn of(now: &Stack, before: Option<&Stack>) -> Standing {
    standing(now, &now.services["app"], before.map(|b| &b.services["app"]))
}

#[test]
fn what_swarm_says_goes_first() {
    let of = |update: &str| of(&stack(update, 1, &three(1)), None);
    assert_eq!(of("updating"), Standing::Underway);
    assert_eq!(of("rollback_started"), Standing::Underway);
    assert_eq!(of("paused"), Standing::Paused("why".into()));
    assert_eq!(of("rollback_paused"), Standing::RollbackPaused("why".into()));
    assert_eq!(of("rollback_completed"), Standing::RolledBack("why".into()));
    assert_eq!(of("completed"), Standing::Converged);
    assert_eq!(of(""), Standing::Converged);
}

#[test]
fn an_update_that_has_not_begun_is_not_done() {
    let before = stack("completed", 1, &three(1));
    assert_eq!(of(&stack("", 2, &three(1)), Some(&before)), Standing::Underway);
    assert_eq!(of(&stack("", 2, &three(2)), Some(&before)), Standing::Converged);
    assert_eq!(of(&stack("", 1, &three(1)), Some(&before)), Standing::Converged);
}

#[test]
fn too_few_that_run_is_not_done_whatever_swarm_says_of_the_update() {
    let two = &three(1)[..2];
    for update in ["", "completed", "rollback_completed"] {
        assert_eq!(of(&stack(update, 1, two), None), Standing::Underway, "{update}");
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
    let stack = stack("updating", 1, &three(1));
    let service = &stack.services["app"];
    let ready = Duration::from_secs(60);
    assert_eq!(patience(service, ready, false), Duration::from_secs(60 + 5 + 2 + 10 + 60));
    assert!(patience(service, ready, true) >= PULL);
}

#[test]
fn complaints_are_the_new_ones_each_once() {
    let stack = stack(
        "updating",
        2,
        &[
            ("failed", "shutdown", 1, "old"),
            ("failed", "shutdown", 2, "task: non-zero exit (1)"),
            ("rejected", "shutdown", 2, "No such image"),
            ("complete", "shutdown", 2, ""),
            (RUNS, RUNS, 2, ""),
        ],
    );
    let said = complaints(&stack, "app", |t| t.id == "t0");
    assert_eq!(
        said,
        [
            "app.4 on node: complete: it ended by itself, or its health check failed",
            "app.3 on node: rejected: No such image",
            "app.2 on node: failed: task: non-zero exit (1)",
        ]
    );
}
