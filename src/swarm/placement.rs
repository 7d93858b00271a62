//! Nodes of a Swarm: which of them may run a service, and what a service needs that only one of them has. Pure.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::stack_file::StackFile;
use crate::error::Risk;
use crate::model::ConfigError;

/// A node as `docker node inspect` prints it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct PlacementNode {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(flatten)]
    value: Value,
}

/// What is known of the Swarm and of its images.
#[derive(Debug, Clone, Default)]
pub struct ClusterNodes {
    pub all: Vec<PlacementNode>,
    /// The id of the one that is talked to: it builds images, and has the project's folder.
    pub this: String,
}

/// A service whose image no registry is known to have.
#[derive(Debug, Clone)]
pub struct LocalImage {
    pub service: String,
    pub image: String,
    /// Names of the nodes that ran it.
    pub ran: BTreeSet<String>,
}

impl PlacementNode {
    pub fn hostname(&self) -> &str {
        self.text("/Description/Hostname")
    }

    /// Address by which the other nodes reach it; none where it does not tell.
    pub fn address(&self) -> Option<&str> {
        let leader = self.text("/ManagerStatus/Addr").rsplit_once(':').map(|(ip, _)| ip);
        let all = [leader.unwrap_or_default(), self.text("/Status/Addr")];
        all.into_iter().find(|address| !["", "0.0.0.0"].contains(address))
    }

    fn text(&self, path: &str) -> &str {
        self.value.pointer(path).and_then(Value::as_str).unwrap_or_default()
    }

    /// Swarm gives it tasks.
    fn takes_tasks(&self) -> bool {
        self.text("/Spec/Availability") == "active" && self.text("/Status/State") == "ready"
    }

    /// Values are compared without their case (SwarmKit `manager/constraint/constraint.go`).
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
        let found = match key {
            "node.id" => Some(self.id.as_str()),
            "node.hostname" => Some(self.hostname()),
            "node.ip" => Some(self.text("/Status/Addr")),
            "node.role" => Some(self.text("/Spec/Role")),
            "node.platform.os" => Some(self.text("/Description/Platform/OS")),
            "node.platform.arch" => Some(self.text("/Description/Platform/Architecture")),
            _ => label("node.labels.", "/Spec/Labels")
                .or_else(|| label("engine.labels.", "/Description/Engine/Labels")),
        };
        // Swarm itself refuses a key that it does not know.
        found.is_none_or(|found| found.eq_ignore_ascii_case(value) == is_equal)
    }
}

impl ClusterNodes {
    /// The nodes that may run a service.
    fn of(&self, service: &Value) -> Vec<&PlacementNode> {
        let meets = |node: &&PlacementNode| constraints(service).iter().all(|c| node.meets(c));
        self.all.iter().filter(|n| n.takes_tasks()).filter(meets).collect()
    }

    /// The nodes beside this one that may run a service.
    fn others(&self, service: &Value) -> Vec<&PlacementNode> {
        self.of(service).into_iter().filter(|n| n.id != self.this).collect()
    }

    /// Everything that a deploy would fail for on one of the nodes.
    pub fn refusals(&self, file: &StackFile, local: &[LocalImage], folder: &Path) -> Vec<ConfigError> {
        let mut all = Vec::new();
        for name in &file.services {
            let service = &file.value["services"][name];
            all.extend(self.no_node(name, service));
            if let Some(local) = local.iter().find(|l| l.service == *name) {
                let is_missing = |n: &&PlacementNode| !local.ran.contains(n.hostname());
                let missing: Vec<&PlacementNode> =
                    self.others(service).into_iter().filter(is_missing).collect();
                all.extend((!missing.is_empty()).then(|| self.not_everywhere(name, &local.image, &missing)));
            }
            let binds = binds(service).filter(|source| Path::new(source).starts_with(folder));
            if !self.others(service).is_empty() {
                all.extend(binds.map(|source| self.one_folder(name, source)));
            }
        }
        all
    }

    fn no_node(&self, name: &str, service: &Value) -> Option<ConfigError> {
        let is_wanted = service["deploy"]["replicas"].as_u64() != Some(0);
        (is_wanted && self.of(service).is_empty()).then(|| {
            let constraints: Vec<String> = constraints(service).iter().map(|c| format!("`{c}`")).collect();
            match constraints.is_empty() {
                true => ConfigError {
                    message: format!("`{name}`: no node of the Swarm takes tasks"),
                    hint: "`docker node ls` shows them; `docker node update --availability active NODE`".into(),
                },
                false => ConfigError {
                    message: format!("`{name}`: no node meets {}", constraints.join(", ")),
                    hint: format!(
                        "change `services.{name}.deploy.placement.constraints`, or give a node what they ask for: \
                         `docker node update --label-add KEY=VALUE NODE`"
                    ),
                },
            }
        })
    }

    fn not_everywhere(&self, name: &str, image: &str, missing: &[&PlacementNode]) -> ConfigError {
        let (count, nodes) = (self.all.len(), hostnames(missing));
        ConfigError {
            message: format!(
                "`{name}`: {count} nodes, and `{image}` is only known to be on this one: no registry has given it, and \
                 {nodes} may be told to run it"
            ),
            hint: format!(
                "push it to a registry: `compose-zd deploy --push`; or keep the service here: \
                 `services.{name}.deploy.placement.constraints: [node.hostname == {}]`; or, where every node has it \
                 already, `--resolve-image never`",
                self.this_hostname()
            ),
        }
    }

    fn one_folder(&self, name: &str, source: &str) -> ConfigError {
        ConfigError {
            message: format!(
                "`services.{name}.volumes`: `{source}` is in the project's folder, which only this node has, and there are {} \
                 nodes",
                self.all.len()
            ),
            hint: format!(
                "make a file a config (`configs`), or keep the service here: \
                 `services.{name}.deploy.placement.constraints: [node.hostname == {}]`",
                self.this_hostname()
            ),
        }
    }

    fn this_hostname(&self) -> &str {
        self.all.iter().find(|n| n.id == self.this).map_or("NODE", PlacementNode::hostname)
    }

    /// Volumes that each node has for itself, of services that Swarm may move to another.
    pub fn risks(&self, file: &StackFile) -> Vec<(String, Risk)> {
        let mut all = Vec::new();
        for name in &file.services {
            let service = &file.value["services"][name];
            let is_global = service["deploy"]["mode"].as_str().is_some_and(|m| m.starts_with("global"));
            if is_global || self.of(service).len() < 2 {
                continue;
            }
            for volume in mounts(service, "volume").filter(|v| is_local(&file.value["volumes"][*v])) {
                let says = format!(
                    "the volume `{volume}` of `{name}` is on each node another one, and a new task may come to any of {}",
                    self.of(service).len()
                );
                let fix = format!(
                    "pin it: `services.{name}.deploy.placement.constraints: [node.hostname == NODE]`"
                );
                all.push((name.clone(), Risk::grave("swarm-local-volume", says, fix)));
            }
        }
        all
    }
}

fn hostnames(nodes: &[&PlacementNode]) -> String {
    nodes.iter().map(|n| format!("`{}`", n.hostname())).collect::<Vec<_>>().join(", ")
}

fn constraints(service: &Value) -> Vec<&str> {
    let all = service["deploy"]["placement"]["constraints"].as_array().into_iter().flatten();
    all.filter_map(Value::as_str).collect()
}

fn mounts<'v>(service: &'v Value, kind: &'static str) -> impl Iterator<Item = &'v str> {
    let all = service["volumes"].as_array().into_iter().flatten();
    all.filter(move |m| m["type"].as_str() == Some(kind)).filter_map(|m| m["source"].as_str())
}

fn binds(service: &Value) -> impl Iterator<Item = &str> {
    mounts(service, "bind")
}

/// Another driver, or options such as those of NFS, may lead to what all nodes share.
fn is_local(volume: &Value) -> bool {
    let is_shared = ["external", "driver_opts"].iter().any(|key| volume.get(*key).is_some());
    !is_shared && volume["driver"].as_str().is_none_or(|driver| driver == "local")
}

#[cfg(test)]
mod tests;
