use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::swarm::observed::ObservedStack;

fn current() -> StackService {
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

fn service_definition(change: &str, to: Value) -> Value {
    let mut service_definition = json!({
        "image": "app:1", "environment": { "A": 1, "SECRET": "x" }, "command": ["run"],
        "healthcheck": { "test": ["CMD", "x"] }, "deploy": { "replicas": 3 },
    });
    if !change.is_empty() {
        service_definition[change] = to;
    }
    service_definition
}

fn describe(service: &Value, current: Option<&StackService>) -> String {
    let file = json!({
        "services": { "app": service }, "networks": { "default": { "name": "p_default" } },
        "configs": { "c": { "name": "c-1", "external": true } },
    });
    let networks = [("n1".to_string(), "p_default".to_string())].into();
    ServiceDiff { stack: "p", file: &file, service: "app", image: "app:1", networks: &networks }
        .describe(current)
}

fn changes(change: &str, to: Value) -> String {
    describe(&service_definition(change, to), Some(&current()))
}

#[test]
fn an_unchanged_service_has_no_changes() {
    assert_eq!(changes("", Value::Null), "nothing changes");
}

#[test]
fn each_change_is_named_and_no_value_is_shown() {
    assert_eq!(changes("image", json!("app:2")), "replace the tasks: image app:1 → app:2");
    let id = "sha256:0123456789abcdef";
    assert_eq!(changes("image", json!(id)), "replace the tasks: image app:1 → app:1 (0123456789ab)");
    let text = changes("environment", json!({ "A": 1, "SECRET": "y", "NEW": "n" }));
    assert_eq!(text, "replace the tasks: environment NEW, SECRET");
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
        assert_eq!(changes(key, to), format!("replace the tasks: {label}"));
    }
    assert_eq!(changes("deploy", json!({ "replicas": 5 })), "scale from 3 to 5 tasks");
    let order = json!({ "replicas": 3, "update_config": { "order": "start-first" } });
    assert_eq!(changes("deploy", order), "change without replacing tasks: update_config");
}

#[test]
fn a_new_service_is_created() {
    assert_eq!(describe(&service_definition("", Value::Null), None), "create 3 tasks of app:1");
    assert_eq!(
        describe(&service_definition("deploy", json!({ "mode": "global" })), None),
        "create the service (global) with app:1"
    );
}
