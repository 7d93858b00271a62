//! Nothing that a Swarm manager may tell, or a project may say, ends us; and a stack is read as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::convergence::{self, ServiceGoal};
use super::diff::ServiceDiff;
use super::observed::{ObservedStack, RawService, RawTask};
use super::proxy_config::StackProxy;
use super::stack_file::{StackFile, StackOverrides};
use crate::fuzz::{corpus, damaged, damaged_json, holds, same};

#[test]
fn nothing_that_a_manager_may_tell_ends_us() {
    let tasks = prop::collection::vec(damaged_json(corpus("swarm-task")), 0..4);
    let services = prop::collection::vec(damaged_json(corpus("swarm-service")), 1..3);
    holds((services, tasks), |(services, tasks)| {
        let services: Vec<RawService> =
            services.into_iter().filter_map(|s| serde_json::from_value(s).ok()).collect();
        let tasks: Vec<RawTask> = tasks.into_iter().filter_map(|t| serde_json::from_value(t).ok()).collect();
        let stack =
            ObservedStack::new("demo", services, tasks, &BTreeMap::from([("n1".into(), "one".into())]));
        for service in stack.services.values() {
            convergence::standing(&stack, &ServiceGoal::sent(&stack, &service.name), Some(service));
            convergence::stall_timeout(&stack, service, Duration::from_secs(60), Some(service));
            convergence::complaints(&stack, &service.name, |_| false);
            let _ = (service.spec.image(), service.spec.environment(), service.spec.fingerprint());
            prop_assert!(service.spec.same_content(&service.spec));
            let (file, networks) = (json!({"services": {"a": {"image": "a"}}}), BTreeMap::new());
            let change =
                ServiceDiff { stack: "demo", file: &file, service: "a", image: "a", networks: &networks };
            change.words(Some(service));
        }
        convergence::progress(&stack, stack.services.values());
        Ok(())
    });
}

/// How many tasks are to run, and state and desired state of those there are.
#[test]
fn a_stack_is_read_as_it_is() {
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
        let raw: Vec<RawTask> = tasks
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
        // Of a global service each node is a slot.
        let runs = |new: bool| {
            let tasks = tasks.iter().enumerate();
            let runs = tasks.filter(|(_, (s, d, n, _))| *s == "running" && *d == "running" && (!new || *n));
            runs.map(|(n, task)| if replicas.is_some() { task.3 } else { n as u64 })
                .collect::<BTreeSet<_>>()
                .len()
        };
        same(&stack.running(&name), &runs(false))?;
        same(&stack.current(service), &runs(true))?;
        let wanted = tasks.iter().filter(|(_, d, ..)| ["running", "ready"].contains(d)).count();
        same(&stack.wanted(service), &replicas.map_or(wanted, |r| r as usize))
    });
}

#[test]
fn no_project_ends_us_on_its_way_to_a_stack() {
    let read =
        damaged([corpus("haproxy-config"), corpus("caddy-introduction"), corpus("traefik-config")].concat());
    holds((damaged_json(corpus("stack")), read), |(project, file)| {
        let stack = StackFile::of(&project.to_string(), "compose.yaml", &StackOverrides::default());
        if let Ok(stack) = &stack {
            prop_assert!(serde_json::from_str::<Value>(&stack.text()).is_ok(), "{}", stack.text());
        }
        for (name, service) in project["services"].as_object().into_iter().flatten() {
            let front = StackProxy::of(name, service, &project, &|_| Some(file.clone()));
            front.iter().for_each(|f| drop((f.reaches("demo", "vote", service), f.risks("vote", service))));
        }
        Ok(())
    });
}
