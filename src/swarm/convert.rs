//! Compose files for a Swarm: conversion of a Compose project, and a new file for a service that has none. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::definition;
use super::observed::{ServiceSpec, items};
use super::stack_file::{StackFile, StackOverrides, is_empty};

/// A converted project, and its changes, one line each.
pub struct ConvertedProject {
    pub value: Value,
    pub changes: Vec<String>,
}

impl ConvertedProject {
    /// Converts `project`, a resolved one in `folder`.
    pub fn new(project: &Value, folder: &Path) -> ConvertedProject {
        let mut converted = ConvertedProject { value: project.clone(), changes: Vec::new() };
        let ConvertedProject { value, changes } = &mut converted;
        value["x-zd"]["engine"] = "swarm".into();
        let project = value["name"].as_str().unwrap_or("project").to_string();
        let mut configs = Map::new();
        for (name, service) in value["services"].as_object_mut().into_iter().flatten() {
            let mut service = ServiceConverter { name, service, changes };
            service.convert_image(&project);
            configs.extend(service.convert_files(folder));
            service.convert_ports();
            service.convert_traefik_labels();
            service.convert_traefik_command();
            service.add_update_config();
            service.remove_ignored_keys();
            if let Some(service) = service.service.as_object_mut() {
                service.retain(|_, value| !is_empty(value));
            }
        }
        configs.into_iter().for_each(|(key, config)| value["configs"][key] = config);
        converted.convert_networks();
        converted.add_notes(folder);
        converted
    }

    /// Text of the file, with the changes as comments.
    pub fn text(&self) -> String {
        let comments: String = self.changes.iter().map(|line| format!("# {line}\n")).collect();
        comments + &serde_yaml::to_string(&self.value).unwrap_or_default()
    }

    fn convert_networks(&mut self) {
        for (name, network) in self.value["networks"].as_object_mut().into_iter().flatten() {
            let is_local = network["driver"].as_str().is_some_and(|d| d != "overlay");
            if let Some(network) = network.as_object_mut().filter(|_| is_local) {
                network.remove("driver");
                self.changes.push(format!("networks.{name}.driver: removed: now an overlay network"));
            }
        }
    }

    /// Notes and tasks that are left for the user.
    fn add_notes(&mut self, folder: &Path) {
        let overrides = StackOverrides::default();
        let Ok(file) = StackFile::from_project(&self.value.to_string(), "file", &overrides) else { return };
        let ignored = file.notes.iter().filter(|note| !note.contains(".build`"));
        self.changes.extend(ignored.map(|note| format!("note: {note}")));
        self.changes.extend(file.refusals.iter().map(|refusal| {
            format!("TODO {}: {}", refusal.message.trim_start_matches("file: "), refusal.hint)
        }));
        self.changes.extend(file.mounts_of(folder).map(|(service, source)| {
            format!("TODO services.{service}.volumes: `{source}` belongs to one machine: put it into the image, or keep the service on that node")
        }));
    }
}

/// Conversion of one service.
struct ServiceConverter<'a> {
    name: &'a str,
    service: &'a mut Value,
    changes: &'a mut Vec<String>,
}

impl ServiceConverter<'_> {
    fn record_change(&mut self, key: &str, change: &str) {
        self.changes.push(format!("services.{}.{key}: {change}", self.name));
    }

    /// Built images get a registry, as nodes pull them.
    fn convert_image(&mut self, project: &str) {
        let image = self.service["image"].as_str();
        let image = image.map_or_else(|| format!("{project}-{}", self.name), String::from);
        let has_registry = image.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':']));
        if self.service.get("build").is_some() && !has_registry {
            self.service["image"] =
                format!("${{REGISTRY:?a registry that every node reaches}}/{image}").into();
            self.record_change(
                "image",
                "now in a registry; `compose-zd deploy --build --push` pushes it (one node alone needs no registry)",
            );
        }
    }

    /// A mounted file of the project's folder becomes a config. Returns the configs.
    fn convert_files(&mut self, folder: &Path) -> Map<String, Value> {
        let mounts = self.service["volumes"].as_array().cloned().unwrap_or_default();
        let is_file = |m: &Value| {
            let source = Path::new(m["source"].as_str().unwrap_or_default());
            m["type"] == "bind" && source.starts_with(folder) && source.is_file()
        };
        let (files, remaining): (Vec<Value>, Vec<Value>) = mounts.into_iter().partition(is_file);
        let mut grants = self.service["configs"].as_array().cloned().unwrap_or_default();
        let mut configs = Map::new();
        for (n, mount) in files.iter().enumerate() {
            let (source, key) = (mount["source"].as_str().unwrap_or_default(), format!("{}-{n}", self.name));
            let relative = Path::new(source).strip_prefix(folder);
            let shown = relative.map_or(source.into(), |path| format!("./{}", path.display()));
            grants.push(json!({ "source": key, "target": mount["target"] }));
            self.record_change(
                "volumes",
                &format!("`{shown}` belongs to one machine; now the config `{key}`"),
            );
            configs.insert(key, json!({ "file": shown }));
        }
        self.service["volumes"] = remaining.into();
        self.service["configs"] = grants.into();
        configs
    }

    fn convert_ports(&mut self) {
        let ports = self.service["ports"].as_array_mut().into_iter().flatten();
        let addresses: Vec<Value> =
            ports.filter_map(|port| port.as_object_mut()?.remove("host_ip")).collect();
        let is_one_machine = |address: &&str| !["0.0.0.0", "::", ""].contains(address);
        for address in addresses.iter().filter_map(Value::as_str).filter(is_one_machine) {
            let change = format!(
                "`{address}` removed: Swarm publishes on every address; close the port in a firewall"
            );
            self.record_change("ports", &change);
        }
    }

    /// Traefik's swarm provider reads the labels of services.
    fn convert_traefik_labels(&mut self) {
        let labels = self.service["labels"].as_object().cloned().unwrap_or_default();
        let (moved, remaining): (Map<String, Value>, Map<String, Value>) =
            labels.into_iter().partition(|(key, _)| key.starts_with("traefik."));
        if moved.is_empty() {
            return;
        }
        self.service["labels"] = remaining.into();
        moved.into_iter().for_each(|(key, value)| self.service["deploy"]["labels"][key] = value);
        self.record_change("labels", "moved those of Traefik to `deploy.labels`");
    }

    fn convert_traefik_command(&mut self) {
        let mut is_docker = false;
        for word in self.service["command"].as_array_mut().into_iter().flatten() {
            if let Some(text) = word.as_str().filter(|w| w.starts_with("--providers.docker")) {
                let text = text.replace("providers.docker", "providers.swarm");
                *word = text.replace("com.docker.compose.project", "com.docker.stack.namespace").into();
                is_docker = true;
            }
        }
        if let Some(words) = self.service["command"].as_array_mut().filter(|_| is_docker) {
            words.push("--providers.swarm.refreshSeconds=1".into());
            self.service["deploy"]["placement"]["constraints"] = json!(["node.role == manager"]);
            self.record_change(
                "command",
                "now Traefik's swarm provider, which queries a manager each second",
            );
        }
    }

    /// `update_config` that starts a new task first, unless the old task holds a port of the host.
    fn add_update_config(&mut self) {
        let deploy = &self.service["deploy"];
        let has_port = items(&self.service["ports"]).any(|port| port["mode"] == "host");
        if has_port || deploy["update_config"].is_object() || deploy["mode"].is_string() {
            return;
        }
        self.service["deploy"]["update_config"] =
            json!({ "order": "start-first", "failure_action": "rollback" });
        self.record_change(
            "deploy.update_config",
            "starts a new task before it stops the old one, and rolls back on failure",
        );
    }

    fn remove_ignored_keys(&mut self) {
        for key in ["container_name", "depends_on", "links", "network_mode", "restart", "scale"] {
            let Some(value) = self.service.as_object_mut().and_then(|s| s.remove(key)) else { continue };
            let change = match (key, value.as_str()) {
                ("restart", Some("no")) => {
                    self.service["deploy"]["restart_policy"] = json!({ "condition": "none" });
                    "now `deploy.restart_policy`"
                }
                ("restart", _) => continue, // Swarm restarts by itself
                ("scale", _) => {
                    self.service["deploy"]["replicas"] = value;
                    "now `deploy.replicas`"
                }
                ("depends_on", _) => {
                    "removed: Swarm starts all services at once, and restarts a service that fails without another"
                }
                _ => "removed: Swarm ignores it",
            };
            self.record_change(key, change);
        }
    }
}

/// Project for a service that `docker service create` made.
pub fn project_of_service(name: &str, spec: &ServiceSpec, networks: &BTreeMap<String, String>) -> Value {
    let service = definition::definition(spec, networks);
    let mut project = json!({ "name": name, "x-zd": { "engine": "swarm" }, "services": {} });
    for key in ["networks", "volumes", "configs", "secrets"] {
        let shared = items(&service[key]).filter(|item| item["type"].as_str().is_none_or(|t| t == "volume"));
        for name in shared.filter_map(|item| item["source"].as_str().or(item.as_str())) {
            project[key][name] = json!({ "name": name, "external": true });
        }
    }
    project["services"][name] = service;
    project
}

#[cfg(test)]
mod tests;
