//! Property tests: no answer of a Swarm manager and no project causes a panic, and a stack is read as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::convergence::{self, ServiceGoal};
use super::diff::ServiceDiff;
use super::observed::ObservedStack;
use super::proxy_config::StackProxy;
use super::stack_file::{StackFile, StackOverrides};
use crate::docker::types::{SwarmService, Task};
use crate::fuzz::{corpus, damaged, damaged_json, holds, same};

#[test]
fn no_answer_of_a_manager_causes_a_panic() {
    let tasks = prop::collection::vec(damaged_json(corpus("swarm-task")), 0..4);
    let services = prop::collection::vec(damaged_json(corpus("swarm-service")), 1..3);
    holds((services, tasks), |(services, tasks)| {
        let services: Vec<SwarmService> =
            services.into_iter().filter_map(|s| serde_json::from_value(s).ok()).collect();
        let tasks: Vec<Task> = tasks.into_iter().filter_map(|t| serde_json::from_value(t).ok()).collect();
        let stack =
            ObservedStack::new("demo", services, tasks, &BTreeMap::from([("n1".into(), "one".into())]));
        for service in stack.services.values() {
            convergence::evaluate(Some(service), &ServiceGoal::new(&stack, &service.name), Some(service));
            convergence::stall_timeout(service, Duration::from_secs(60), Some(service));
            convergence::task_errors(service, |_| false);
            let _ = (service.spec.image(), service.spec.environment(), service.spec.fingerprint());
            prop_assert!(service.spec.same_content(&service.spec));
            let (file, networks) = (json!({"services": {"a": {"image": "a"}}}), BTreeMap::new());
            let change =
                ServiceDiff { stack: "demo", file: &file, service: "a", image: "a", networks: &networks };
            change.describe(Some(service));
        }
        convergence::progress_score(stack.services.values());
        Ok(())
    });
}

/// Inputs: the replicas, and the state, desired state, spec and slot of each task.
#[test]
fn task_counts_match_the_tasks_of_a_stack() {
    let states =
        ["new", "pending", "preparing", "starting", "running", "complete", "failed", "rejected", "shutdown"];
    let task = (
        select(states.to_vec()),
        select(&["running", "ready", "shutdown", "remove"][..]),
        any::<bool>(),
        1u64..5,
    );
    let inputs = (prop::option::of(0u64..9), prop::collection::vec(task, 0..8), "[a-z]{1,5}(_[a-z]{1,3})?");
    holds(inputs, |(replicas, tasks, name)| {
        let mode = match replicas {
            Some(replicas) => json!({"Replicated": {"Replicas": replicas}}),
            None => json!({"Global": {}}),
        };
        let template = |new: bool| json!({"ContainerSpec": {"Image": if new { "app:2" } else { "app:1" }}});
        let service = json!({"ID": "s", "Spec": {"Name": format!("demo_{name}"), "TaskTemplate": template(true), "Mode": mode}});
        let raw: Vec<Task> = tasks
            .iter()
            .enumerate()
            .map(|(n, (state, desired, new, slot))| {
                let slot = if replicas.is_some() { *slot } else { 0 };
                json!({"ID": format!("t{n}"), "ServiceID": "s", "NodeID": format!("n{n}"), "Slot": slot,
                    "Spec": template(*new), "Status": {"State": state, "Err": ""}, "DesiredState": desired})
            })
            .map(|task| serde_json::from_value(task).expect("a task"))
            .collect();
        let stack = ObservedStack::new(
            "demo",
            vec![serde_json::from_value(service).expect("a service")],
            raw,
            &BTreeMap::new(),
        );
        let service = &stack.services[&name];
        // Each node is a slot of a global service.
        let runs = |new: bool| {
            let tasks = tasks.iter().enumerate();
            let runs = tasks.filter(|(_, (s, d, n, _))| *s == "running" && *d == "running" && (!new || *n));
            runs.map(|(n, task)| if replicas.is_some() { task.3 } else { n as u64 })
                .collect::<BTreeSet<_>>()
                .len()
        };
        same(&service.running_tasks(), &runs(false))?;
        same(&service.current_tasks(), &runs(true))?;
        let desired = tasks.iter().filter(|(_, d, ..)| ["running", "ready"].contains(d)).count();
        same(&service.desired_tasks(), &replicas.map_or(desired, |r| r as usize))
    });
}

#[test]
fn no_project_causes_a_panic_when_converted_to_a_stack() {
    let read =
        damaged([corpus("haproxy-config"), corpus("caddy-introduction"), corpus("traefik-config")].concat());
    holds((damaged_json(corpus("stack")), read), |(project, file)| {
        let stack = StackFile::from_project(&project.to_string(), "compose.yaml", &StackOverrides::default());
        if let Ok(stack) = &stack {
            prop_assert!(serde_json::from_str::<Value>(&stack.text()).is_ok(), "{}", stack.text());
        }
        for (name, service) in project["services"].as_object().into_iter().flatten() {
            let proxy = StackProxy::detect(name, service, &project, &|_| Some(file.clone()));
            proxy.iter().for_each(|p| drop((p.routes_to("demo", "vote", service), p.risks("vote", service))));
        }
        Ok(())
    });
}
