//! What Swarm will lose by itself, with the fix. Pure.

use serde_json::Value;

use crate::error::Risk;

/// What is known of a service beside its file.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServiceFacts {
    /// Its image has a health check of its own.
    pub image_checks: bool,
    /// Somebody outside, or a proxy of the stack, sends it requests.
    pub is_reached: bool,
    /// It is a proxy of the stack itself.
    pub is_front: bool,
}

/// What a service will lose when it is replaced, by its part of a stack file.
pub fn of_service(name: &str, service: &Value, facts: ServiceFacts) -> Vec<Risk> {
    let deploy = &service["deploy"];
    let global = deploy["mode"].as_str() == Some("global");
    let start_first = deploy["update_config"]["order"].as_str() == Some("start-first");
    let single = !global && deploy["replicas"].as_u64().unwrap_or(1) == 1;
    let on_host = ports(service).any(|p| p["mode"].as_str() == Some("host") && p.get("published").is_some());
    let mut risks = Vec::new();
    if !facts.is_reached && !publishes(service) {
        return risks;
    }
    if !facts.image_checks && !has_check(service) {
        let says = format!(
            "`{name}` has no health check: Swarm sends requests to a task the moment its container runs, ready or not"
        );
        risks.push(Risk::grave("swarm-no-healthcheck", says, format!("set `services.{name}.healthcheck`")));
    }
    if start_first && on_host {
        let says = format!(
            "`{name}` publishes a port of the host and is replaced start-first: a new task needs a node whose port is free"
        );
        let fix = "on as many nodes as it has replicas the update gets nowhere: have one more, or use `order: stop-first`";
        risks.push(Risk::grave("swarm-host-port", says, fix));
    } else if single && on_host {
        let says = format!(
            "`{name}` is one task on a port of the host, so nothing answers there while it is replaced"
        );
        risks.push(match facts.is_front {
            true => Risk::note("swarm-one-task", says, "replace it seldom: what is behind it loses nothing"),
            false => Risk::grave(
                "swarm-one-task",
                says,
                "put a proxy there, and take the port from what is behind it",
            ),
        });
    } else if single && !start_first {
        let says = format!(
            "`{name}` has one replica, which Swarm stops before it starts the next: nothing serves meanwhile"
        );
        let fix = format!("set `services.{name}.deploy.update_config.order: start-first`");
        risks.push(Risk::grave("swarm-stop-first", says, fix));
    }
    risks
}

pub fn publishes(service: &Value) -> bool {
    ports(service).next().is_some()
}

fn ports(service: &Value) -> impl Iterator<Item = &Value> {
    service["ports"].as_array().into_iter().flatten()
}

fn has_check(service: &Value) -> bool {
    let check = &service["healthcheck"];
    let off = check["disable"].as_bool() == Some(true) || check["test"][0].as_str() == Some("NONE");
    check.is_object() && !off
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTED: ServiceFacts = ServiceFacts { image_checks: false, is_reached: true, is_front: false };

    fn risks(yaml: &str, facts: ServiceFacts) -> Vec<String> {
        let found = of_service("app", &serde_yaml::from_str::<Value>(yaml).unwrap(), facts);
        found.iter().map(Risk::to_string).collect()
    }

    #[test]
    fn a_service_that_nobody_asks_risks_nothing() {
        assert!(risks("{deploy: {replicas: 1}}", ServiceFacts::default()).is_empty());
    }

    #[test]
    fn readiness_is_a_health_check_or_nothing() {
        let of = |yaml| risks(yaml, ROUTED).iter().any(|r| r.contains("no health check"));
        assert!(of("{deploy: {replicas: 2}}"));
        assert!(of("{deploy: {replicas: 2}, healthcheck: {disable: true}}"));
        assert!(of("{deploy: {replicas: 2}, healthcheck: {test: [NONE]}}"));
        assert!(!of("{deploy: {replicas: 2}, healthcheck: {test: [CMD, x]}}"));
        let by_image = ServiceFacts { image_checks: true, ..ROUTED };
        assert!(risks("{deploy: {replicas: 2}}", by_image).is_empty());
    }

    #[test]
    fn one_replica_that_stops_first_leaves_nobody() {
        let check = "healthcheck: {test: [CMD, x]}";
        let of = |deploy: &str| risks(&format!("{{{check}, deploy: {deploy}}}"), ROUTED).join("\n");
        assert!(of("{}").contains("one replica"));
        assert!(of("{replicas: 2}").is_empty());
        assert!(of("{update_config: {order: start-first}}").is_empty());
        assert!(of("{mode: global}").is_empty());
    }

    #[test]
    fn a_port_of_the_host_is_one_tasks() {
        let check = "healthcheck: {test: [CMD, x]}, ports: [{target: 80, published: 80, mode: host}]";
        let of = |deploy: &str| {
            risks(&format!("{{{check}, deploy: {deploy}}}"), ServiceFacts::default()).join("\n")
        };
        assert!(of("{}").contains("nothing answers there"));
        assert!(of("{replicas: 3, update_config: {order: start-first}}").contains("gets nowhere"));
        assert!(of("{replicas: 3}").is_empty());
    }
}
