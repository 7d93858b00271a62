//! Settings of a service with which an update by Swarm loses requests, each with its fix. Pure.

use anyhow::Result;
use serde_json::Value;

use super::observed::items;
use super::proxy_config::StackProxy;
use super::stack_file::StackFile;
use crate::docker::inspect::Image;
use crate::docker::types::SwarmNodes;
use crate::finding::Finding;
use crate::model::{ConfigError, Project, Service};

/// Facts about a service that its definition does not hold.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServiceFacts {
    /// The image defines a health check.
    pub image_has_healthcheck: bool,
    /// A proxy of the stack routes requests to the service.
    pub receives_requests: bool,
    /// The service is itself a proxy of the stack.
    pub is_proxy: bool,
}

/// Risks of replacing each service of a stack. `project` is the text of the whole project, even if only some of its services
/// are deployed; `image` queries a local image.
pub fn risks(
    stack: &str,
    project: &str,
    file: &StackFile,
    nodes: Option<&SwarmNodes>,
    image: &dyn Fn(&str) -> Result<Option<Image>>,
) -> Result<Vec<Finding>> {
    let proxies = StackProxy::detect_all(&serde_json::from_str(project)?);
    let mut all = nodes.map(|nodes| nodes.risks(file)).unwrap_or_default();
    for (service, definition) in file.value["services"].as_object().into_iter().flatten() {
        let in_front: Vec<&StackProxy> =
            proxies.iter().filter(|p| p.routes_to(stack, service, definition)).collect();
        let others = in_front.iter().filter(|p| p.service != *service);
        let of_proxies = others.flat_map(|proxy| proxy.risks(service, definition));
        let image = image(definition["image"].as_str().unwrap_or_default())?;
        let facts = ServiceFacts {
            image_has_healthcheck: image.is_some_and(|i| i.has_healthcheck()),
            receives_requests: !in_front.is_empty(),
            is_proxy: proxies.iter().any(|p| p.service == *service),
        };
        let own = service_risks(service, definition, facts);
        all.extend(own.into_iter().chain(of_proxies).map(|risk| risk.of_service(service)));
    }
    Ok(all)
}

/// Refusals of jobs: Swarm would skip them, and a migration must not be skipped silently.
pub fn job_refusals(project: &Project) -> Vec<ConfigError> {
    let has_job = |s: &&Service| s.settings.before.is_some() || s.settings.after.is_some();
    let refusal = |service: &Service| ConfigError {
        message: format!("`services.{}.x-zd`: jobs (`before`, `after`) do not run on Swarm", service.name),
        hint:
            "run the command before the deploy, or as a separate service with `deploy.mode: replicated-job`"
                .into(),
    };
    project.services.values().filter(has_job).map(refusal).collect()
}

/// Risks of replacing a service, by its definition in a stack file.
pub fn service_risks(name: &str, service: &Value, facts: ServiceFacts) -> Vec<Finding> {
    if !facts.receives_requests && ports(service).next().is_none() {
        return Vec::new();
    }
    let is_unchecked = !facts.image_has_healthcheck && !has_healthcheck(service);
    let unchecked = is_unchecked.then(|| {
        let message = format!(
            "`{name}` has no health check: Swarm sends requests to a task as soon as its container runs, ready or not"
        );
        Finding::loss("swarm-no-healthcheck", message, format!("set `services.{name}.healthcheck`"))
    });
    unchecked.into_iter().chain(replacement_risk(name, service, facts.is_proxy)).collect()
}

/// Risk of the order in which Swarm replaces the tasks.
fn replacement_risk(name: &str, service: &Value, is_proxy: bool) -> Option<Finding> {
    let deploy = &service["deploy"];
    let is_start_first = deploy["update_config"]["order"] == "start-first";
    let is_single = deploy["mode"] != "global" && deploy["replicas"].as_u64().unwrap_or(1) == 1;
    let is_on_host = ports(service).any(|p| p["mode"] == "host" && p.get("published").is_some());
    if is_start_first && is_on_host {
        let message = format!(
            "`{name}` publishes a port of the host and is replaced start-first: a new task needs a node with that port free"
        );
        let fix = "add a node, as the update cannot proceed with as many replicas as nodes; or use `order: stop-first`";
        return Some(Finding::loss("swarm-host-port", message, fix));
    }
    if is_single && is_on_host {
        let message = format!(
            "`{name}` is one task on a port of the host, so nothing answers on that port while the task is replaced"
        );
        if is_proxy {
            let fix = "update the proxy seldom: updates of the services behind it lose nothing";
            return Some(Finding::note("swarm-one-task", message, fix));
        }
        let fix = format!("publish the port from a proxy, and remove it from `{name}`");
        return Some(Finding::loss("swarm-one-task", message, fix));
    }
    (is_single && !is_start_first).then(|| {
        let message = format!(
            "`{name}` has one replica, which Swarm stops before it starts the new one: nothing serves in between"
        );
        let fix = format!("set `services.{name}.deploy.update_config.order: start-first`");
        Finding::loss("swarm-stop-first", message, fix)
    })
}

fn ports(service: &Value) -> impl Iterator<Item = &Value> {
    items(&service["ports"])
}

fn has_healthcheck(service: &Value) -> bool {
    let check = &service["healthcheck"];
    let off = check["disable"].as_bool() == Some(true) || check["test"][0].as_str() == Some("NONE");
    check.is_object() && !off
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTED: ServiceFacts =
        ServiceFacts { image_has_healthcheck: false, receives_requests: true, is_proxy: false };

    fn risks(yaml: &str, facts: ServiceFacts) -> Vec<String> {
        let found = service_risks("app", &serde_yaml::from_str::<Value>(yaml).unwrap(), facts);
        found.iter().map(Finding::to_string).collect()
    }

    #[test]
    fn a_service_without_clients_has_no_risks() {
        assert!(risks("{deploy: {replicas: 1}}", ServiceFacts::default()).is_empty());
    }

    #[test]
    fn a_service_without_a_health_check_is_a_risk() {
        let of = |yaml| risks(yaml, ROUTED).iter().any(|r| r.contains("no health check"));
        assert!(of("{deploy: {replicas: 2}}"));
        assert!(of("{deploy: {replicas: 2}, healthcheck: {disable: true}}"));
        assert!(of("{deploy: {replicas: 2}, healthcheck: {test: [NONE]}}"));
        assert!(!of("{deploy: {replicas: 2}, healthcheck: {test: [CMD, x]}}"));
        let by_image = ServiceFacts { image_has_healthcheck: true, ..ROUTED };
        assert!(risks("{deploy: {replicas: 2}}", by_image).is_empty());
    }

    #[test]
    fn one_replica_replaced_stop_first_is_a_risk() {
        let check = "healthcheck: {test: [CMD, x]}";
        let of = |deploy: &str| risks(&format!("{{{check}, deploy: {deploy}}}"), ROUTED).join("\n");
        assert!(of("{}").contains("one replica"));
        assert!(of("{replicas: 2}").is_empty());
        assert!(of("{update_config: {order: start-first}}").is_empty());
        assert!(of("{mode: global}").is_empty());
    }

    #[test]
    fn a_port_of_the_host_is_a_risk_for_one_task_or_start_first() {
        let check = "healthcheck: {test: [CMD, x]}, ports: [{target: 80, published: 80, mode: host}]";
        let of = |deploy: &str| {
            risks(&format!("{{{check}, deploy: {deploy}}}"), ServiceFacts::default()).join("\n")
        };
        assert!(of("{}").contains("nothing answers on that port"));
        assert!(of("{replicas: 3, update_config: {order: start-first}}").contains("with that port free"));
        assert!(of("{replicas: 3}").is_empty());
    }
}
