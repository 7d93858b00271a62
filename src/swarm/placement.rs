//! Nodes of a Swarm: the nodes that may run a service, and the needs of a service that only one node meets. Pure.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::observed::items;
use super::stack_file::{StackFile, folder_mounts, is_global, mounts};
use crate::docker::types::{Node, SwarmNodes};
use crate::finding::Finding;
use crate::model::ConfigError;

/// A service whose image is in no known registry.
#[derive(Debug, Clone)]
pub struct LocalImage {
    pub service: String,
    pub image: String,
    /// Names of the nodes that ran the image.
    pub ran_on: BTreeSet<String>,
}

impl Node {
    pub fn hostname(&self) -> &str {
        self.text("/Description/Hostname")
    }

    /// Address by which the other nodes reach this one, if the node reports one.
    pub fn address(&self) -> Option<&str> {
        let leader = self.text("/ManagerStatus/Addr").rsplit_once(':').map(|(ip, _)| ip);
        let all = [leader.unwrap_or_default(), self.text("/Status/Addr")];
        all.into_iter().find(|address| !["", "0.0.0.0"].contains(address))
    }

    fn text(&self, path: &str) -> &str {
        self.value.pointer(path).and_then(Value::as_str).unwrap_or_default()
    }

    /// Swarm may place tasks on the node.
    fn accepts_tasks(&self) -> bool {
        self.text("/Spec/Availability") == "active" && self.text("/Status/State") == "ready"
    }

    /// The node meets a constraint, ignoring case (SwarmKit `manager/constraint/constraint.go`).
    fn meets(&self, constraint: &str) -> bool {
        let (is_equal, parts) = match constraint.split_once("!=") {
            Some(parts) => (false, Some(parts)),
            None => (true, constraint.split_once("==")),
        };
        let Some((key, value)) = parts.map(|(key, value)| (key.trim(), value.trim())) else { return true };
        let label = |prefix: &str, path: &str| {
            let name = key.strip_prefix(prefix)?;
            Some(self.value.pointer(path).and_then(|l| l[name].as_str()).unwrap_or_default())
        };
        let actual = match key {
            "node.id" => Some(self.id.as_str()),
            "node.hostname" => Some(self.hostname()),
            "node.ip" => Some(self.text("/Status/Addr")),
            "node.role" => Some(self.text("/Spec/Role")),
            "node.platform.os" => Some(self.text("/Description/Platform/OS")),
            "node.platform.arch" => Some(self.text("/Description/Platform/Architecture")),
            _ => label("node.labels.", "/Spec/Labels")
                .or_else(|| label("engine.labels.", "/Description/Engine/Labels")),
        };
        // Swarm itself refuses an unknown key.
        actual.is_none_or(|actual| actual.eq_ignore_ascii_case(value) == is_equal)
    }
}

impl SwarmNodes {
    /// Nodes that may run a service.
    fn eligible(&self, service: &Value) -> Vec<&Node> {
        let meets = |node: &&Node| constraints(service).iter().all(|c| node.meets(c));
        self.all.iter().filter(|n| n.accepts_tasks()).filter(meets).collect()
    }

    /// Nodes other than this one that may run a service.
    fn other_eligible(&self, service: &Value) -> Vec<&Node> {
        self.eligible(service).into_iter().filter(|n| n.id != self.this_id).collect()
    }

    /// Reasons for which a deploy would fail on a node.
    pub fn refusals(&self, file: &StackFile, local: &[LocalImage], folder: &Path) -> Vec<ConfigError> {
        let mut all = Vec::new();
        for name in &file.services {
            let service = &file.value["services"][name];
            all.extend(self.no_eligible_node(name, service));
            if let Some(local) = local.iter().find(|l| l.service == *name) {
                let is_missing = |n: &&Node| !local.ran_on.contains(n.hostname());
                let missing: Vec<&Node> =
                    self.other_eligible(service).into_iter().filter(is_missing).collect();
                all.extend(
                    (!missing.is_empty()).then(|| self.image_missing_elsewhere(name, &local.image, &missing)),
                );
            }
            if !self.other_eligible(service).is_empty() {
                let mounts = folder_mounts(service, folder);
                all.extend(mounts.map(|source| self.project_folder_mount(name, source)));
            }
        }
        all
    }

    fn no_eligible_node(&self, name: &str, service: &Value) -> Option<ConfigError> {
        let is_wanted = service["deploy"]["replicas"].as_u64() != Some(0);
        (is_wanted && self.eligible(service).is_empty()).then(|| {
            let constraints: Vec<String> = constraints(service).iter().map(|c| format!("`{c}`")).collect();
            if constraints.is_empty() {
                ConfigError {
                    message: format!("`{name}`: no node of the Swarm accepts tasks"),
                    hint: "list the nodes with `docker node ls`, and activate one with \
                           `docker node update --availability active NODE`"
                        .into(),
                }
            } else {
                ConfigError {
                    message: format!("`{name}`: no node meets {}", constraints.join(", ")),
                    hint: format!(
                        "change `services.{name}.deploy.placement.constraints`, or label a node: \
                         `docker node update --label-add KEY=VALUE NODE`"
                    ),
                }
            }
        })
    }

    fn image_missing_elsewhere(&self, name: &str, image: &str, missing: &[&Node]) -> ConfigError {
        let (count, nodes) = (self.all.len(), hostnames(missing));
        ConfigError {
            message: format!(
                "`{name}`: `{image}` is on this node only (of {count} nodes), and Swarm may run the service on {nodes}; no \
                 known registry has the image"
            ),
            hint: format!(
                "push the image to a registry: `compose-zd deploy --push`; or keep the service on this node: \
                 `services.{name}.deploy.placement.constraints: [node.hostname == {}]`; or, if every node has the image \
                 already, `--resolve-image never`",
                self.this_hostname()
            ),
        }
    }

    fn project_folder_mount(&self, name: &str, source: &str) -> ConfigError {
        ConfigError {
            message: format!(
                "`services.{name}.volumes`: `{source}` is in the project's folder, which exists only on this node (of {} nodes)",
                self.all.len()
            ),
            hint: format!(
                "turn a file into a config (`configs`), or keep the service on this node: \
                 `services.{name}.deploy.placement.constraints: [node.hostname == {}]`",
                self.this_hostname()
            ),
        }
    }

    fn this_hostname(&self) -> &str {
        self.all.iter().find(|n| n.id == self.this_id).map_or("NODE", Node::hostname)
    }

    /// Node-local volumes of services that Swarm may move to another node.
    pub fn risks(&self, file: &StackFile) -> Vec<Finding> {
        let mut all = Vec::new();
        for name in &file.services {
            let service = &file.value["services"][name];
            if is_global(service) || self.eligible(service).len() < 2 {
                continue;
            }
            for volume in mounts(service, "volume").filter(|v| is_local(&file.value["volumes"][*v])) {
                let message = format!(
                    "the volume `{volume}` of `{name}` is local to each node, and Swarm may place a new task on any of {}",
                    self.eligible(service).len()
                );
                let fix = format!(
                    "keep the service on one node: `services.{name}.deploy.placement.constraints: [node.hostname == NODE]`"
                );
                all.push(Finding::loss("swarm-local-volume", message, fix).of_service(name));
            }
        }
        all
    }
}

fn hostnames(nodes: &[&Node]) -> String {
    nodes.iter().map(|n| format!("`{}`", n.hostname())).collect::<Vec<_>>().join(", ")
}

fn constraints(service: &Value) -> Vec<&str> {
    items(&service["deploy"]["placement"]["constraints"]).filter_map(Value::as_str).collect()
}

/// A volume of one node; another driver, or options such as those of NFS, may share it between nodes.
fn is_local(volume: &Value) -> bool {
    let is_shared = ["external", "driver_opts"].iter().any(|key| volume.get(*key).is_some());
    !is_shared && volume["driver"].as_str().is_none_or(|driver| driver == "local")
}

#[cfg(test)]
mod tests;
