use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::swarm::observed::ObservedStack;

fn now() -> StackService {
    let service = json!({
        "ID": "s",
        "Spec": {
            "Name": "p_app",
            "TaskTemplate": { "ContainerSpec": {
                "Image": "app:1@sha256:ab", "Env": ["A=1", "SECRET=x"], "Args": ["run"], "Healthcheck": { "Test": ["CMD", "x"] },
            }, "Networks": [{ "Target": "n1" }] },
            "Mode": { "Replicated": { "Replicas": 3 } },
        },
    });
    let stack =
        ObservedStack::new("p", vec![serde_json::from_value(service).unwrap()], Vec::new(), &BTreeMap::new());
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

fn words(service: &Value, now: Option<&StackService>) -> String {
    let file = json!({
        "services": { "app": service }, "networks": { "default": { "name": "p_default" } },
        "configs": { "c": { "name": "c-1", "external": true } },
    });
    let networks = [("n1".to_string(), "p_default".to_string())].into();
    ServiceDiff { stack: "p", file: &file, service: "app", image: "app:1", networks: &networks }.words(now)
}

fn said(change: &str, to: Value) -> String {
    words(&wanted(change, to), Some(&now()))
}

#[test]
fn what_is_the_same_is_left_alone() {
    assert_eq!(said("", Value::Null), "nothing changes");
}

#[test]
fn each_change_is_named_and_no_value_shown() {
    assert_eq!(said("image", json!("app:2")), "replace its tasks: image app:1 → app:2");
    let id = "sha256:0123456789abcdef";
    assert_eq!(said("image", json!(id)), "replace its tasks: image app:1 → app:1 (0123456789ab)");
    let text = said("environment", json!({ "A": 1, "SECRET": "y", "NEW": "n" }));
    assert_eq!(text, "replace its tasks: environment NEW, SECRET");
    let limits = json!({ "replicas": 3, "resources": { "limits": { "memory": "128m", "cpus": "0.5" } } });
    let placement = json!({ "replicas": 3, "placement": { "constraints": ["node.role==worker"] } });
    for (key, to, label) in [
        ("command", json!(["other"]), "command"),
        ("healthcheck", json!({ "test": ["CMD", "y"] }), "health check"),
        ("deploy", limits, "limits"),
        ("deploy", placement, "placement"),
        ("configs", json!([{ "source": "c" }]), "configs"),
        ("networks", json!({ "other": null }), "networks"),
        ("ports", json!([{ "target": 80, "published": 80 }]), "ports"),
        ("volumes", json!([{ "type": "bind", "source": "/a", "target": "/b" }]), "volumes"),
    ] {
        assert_eq!(said(key, to), format!("replace its tasks: {label}"));
    }
    assert_eq!(said("deploy", json!({ "replicas": 5 })), "go from 3 to 5 tasks");
    let order = json!({ "replicas": 3, "update_config": { "order": "start-first" } });
    assert_eq!(said("deploy", order), "change without replacing a task: update_config");
}

#[test]
fn sizes_are_those_of_docker() {
    assert_eq!(bytes(&json!("50m")), Some(50 << 20));
    assert_eq!(bytes(&json!("52428800")), Some(50 << 20));
    assert_eq!(bytes(&json!("1.5gb")), Some(3 << 29));
    assert_eq!(bytes(&Value::Null), None);
}

#[test]
fn a_new_service_is_created() {
    assert_eq!(words(&wanted("", Value::Null), None), "create it with 3 of app:1");
    assert_eq!(words(&wanted("deploy", json!({ "mode": "global" })), None), "create it, global, of app:1");
}
