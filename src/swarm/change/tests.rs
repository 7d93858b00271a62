use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::swarm::state::Stack;

fn now() -> Service {
    let service = json!({
        "ID": "s",
        "Spec": {
            "Name": "p_app",
            "TaskTemplate": { "ContainerSpec": {
                "Image": "app:1@sha256:ab", "Env": ["A=1", "SECRET=x"], "Args": ["run"], "Healthcheck": { "Test": ["CMD", "x"] },
            } },
            "Mode": { "Replicated": { "Replicas": 3 } },
        },
    });
    let stack = Stack::new("p", vec![serde_json::from_value(service).unwrap()], Vec::new(), &BTreeMap::new());
    stack.services["app"].clone()
}

fn wanted(change: &str, to: Value) -> Value {
    let mut wanted = json!({
        "image": "app:1", "environment": { "A": 1, "SECRET": "x" }, "command": ["run"],
        "healthcheck": { "test": ["CMD", "x"] }, "deploy": { "replicas": 3 },
    });
    if !change.is_empty() {
        wanted[change] = to;
    }
    wanted
}

fn said(change: &str, to: Value) -> String {
    of(&wanted(change, to), Some(&now()))
}

#[test]
fn what_is_the_same_is_left_alone() {
    assert!(said("", Value::Null).starts_with("nothing to replace"));
}

#[test]
fn each_change_is_named_and_no_value_shown() {
    assert_eq!(said("image", json!("app:2")), "replace its tasks: image app:1 → app:2");
    let text = said("environment", json!({ "A": 1, "SECRET": "y", "NEW": "n" }));
    assert_eq!(text, "replace its tasks: environment NEW, SECRET");
    assert_eq!(said("command", json!(["other"])), "replace its tasks: command");
    assert_eq!(said("healthcheck", json!({ "test": ["CMD", "y"] })), "replace its tasks: health check");
    assert_eq!(said("deploy", json!({ "replicas": 5 })), "go from 3 to 5 tasks");
}

#[test]
fn a_new_service_is_created() {
    assert_eq!(of(&wanted("", Value::Null), None), "create it with 3 of app:1");
    assert_eq!(of(&wanted("deploy", json!({ "mode": "global" })), None), "create it, global, of app:1");
}
