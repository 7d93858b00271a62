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
        converted.value["x-zd"]["engine"] = "swarm".into();
        let names: Vec<String> =
            project["services"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
        for name in names {
            converted.image(&name);
            converted.files(&name, folder);
            converted.ports(&name);
            converted.traefik(&name);
            converted.update(&name);
            converted.ignored_keys(&name);
            // Reading a key of a mutable value inserts it.
            if let Some(service) = converted.service(&name).as_object_mut() {
                service.retain(|_, value| !is_empty(value));
            }
        }
        converted.networks();
        converted.notes(folder);
        converted
    }

    /// Text of the file, with the changes as comments.
    pub fn text(&self) -> String {
        let comments: String = self.changes.iter().map(|line| format!("# {line}\n")).collect();
        comments + &serde_yaml::to_string(&self.value).unwrap_or_default()
    }

    fn service(&mut self, name: &str) -> &mut Value {
        &mut self.value["services"][name]
    }

    fn record_change(&mut self, key: String, change: &str) {
        self.changes.push(format!("{key}: {change}"));
    }

    /// Built images get a registry, as nodes pull them.
    fn image(&mut self, name: &str) {
        let project = self.value["name"].as_str().unwrap_or("project").to_string();
        let service = self.service(name);
        if service.get("build").is_none() {
            return;
        }
        let image = service["image"].as_str().map_or(format!("{project}-{name}"), String::from);
        let registry = image.split_once('/').is_some_and(|(host, _)| host.contains(['.', ':']));
        if !registry {
            service["image"] = format!("${{REGISTRY:?a registry that every node reaches}}/{image}").into();
            self.record_change(
                format!("services.{name}.image"),
                "now in a registry; `compose-zd deploy --build --push` pushes it (one node alone needs no registry)",
            );
        }
    }

    /// A mounted file of the project's folder becomes a config.
    fn files(&mut self, name: &str, folder: &Path) {
        let mounts = self.service(name)["volumes"].as_array().cloned().unwrap_or_default();
        let is_file = |m: &Value| {
            let source = Path::new(m["source"].as_str().unwrap_or_default());
            m["type"].as_str() == Some("bind") && source.starts_with(folder) && source.is_file()
        };
        let (files, remaining): (Vec<Value>, Vec<Value>) = mounts.into_iter().partition(is_file);
        for (n, mount) in files.iter().enumerate() {
            let (source, key) = (mount["source"].as_str().unwrap_or_default(), format!("{name}-{n}"));
            let shown = Path::new(source)
                .strip_prefix(folder)
                .map_or(source.into(), |p| format!("./{}", p.display()));
            self.value["configs"][&key] = json!({ "file": shown });
            let grant = json!({ "source": key, "target": mount["target"] });
            match self.service(name)["configs"].as_array_mut() {
                Some(all) => all.push(grant),
                None => self.service(name)["configs"] = json!([grant]),
            }
            self.record_change(
                format!("services.{name}.volumes"),
                &format!("`{shown}` belongs to one machine; now the config `{key}`"),
            );
        }
        if !files.is_empty() {
            self.service(name)["volumes"] = remaining.into();
        }
    }

    fn ports(&mut self, name: &str) {
        let mut removed = Vec::new();
        for port in
            self.service(name)["ports"].as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut)
        {
            removed.extend(port.remove("host_ip").and_then(|a| a.as_str().map(String::from)));
        }
        for address in removed.into_iter().filter(|a| !["0.0.0.0", "::", ""].contains(&a.as_str())) {
            self.record_change(
                format!("services.{name}.ports"),
                &format!(
                    "`{address}` removed: Swarm publishes on every address; close the port in a firewall"
                ),
            );
        }
    }

    /// Traefik's swarm provider reads the labels of services.
    fn traefik(&mut self, name: &str) {
        let service = self.service(name);
        let labels = service["labels"].as_object().cloned().unwrap_or_default();
        let (moved, remaining): (Map<String, Value>, Map<String, Value>) =
            labels.into_iter().partition(|(key, _)| key.starts_with("traefik."));
        if !moved.is_empty() {
            service["labels"] = remaining.into();
            for (key, value) in moved {
                service["deploy"]["labels"][key] = value;
            }
            self.record_change(
                format!("services.{name}.labels"),
                "moved those of Traefik to `deploy.labels`",
            );
        }
        let words = self.service(name)["command"].as_array_mut().into_iter().flatten();
        let mut docker = false;
        for word in words.filter(|w| w.as_str().is_some_and(|w| w.starts_with("--providers.docker"))) {
            docker = true;
            let text = word
                .as_str()
                .unwrap_or_default()
                .replace("providers.docker", "providers.swarm")
                .replace("com.docker.compose.project", "com.docker.stack.namespace");
            *word = text.into();
        }
        if docker {
            if let Some(all) = self.service(name)["command"].as_array_mut() {
                all.push("--providers.swarm.refreshSeconds=1".into());
            }
            self.service(name)["deploy"]["placement"]["constraints"] = json!(["node.role == manager"]);
            self.record_change(
                format!("services.{name}.command"),
                "now Traefik's swarm provider, which queries a manager each second",
            );
        }
    }

    /// `update_config` that starts a new task first, unless the old task holds a port of the host.
    fn update(&mut self, name: &str) {
        let service = self.service(name);
        let has_port = service["ports"].as_array().is_some_and(|all| all.iter().any(|p| p["mode"] == "host"));
        if has_port || service["deploy"]["update_config"].is_object() || service["deploy"]["mode"].is_string()
        {
            return;
        }
        service["deploy"]["update_config"] = json!({ "order": "start-first", "failure_action": "rollback" });
        self.record_change(
            format!("services.{name}.deploy.update_config"),
            "starts a new task before it stops the old one, and rolls back on failure",
        );
    }

    fn ignored_keys(&mut self, name: &str) {
        const IGNORED: [&str; 6] =
            ["container_name", "depends_on", "links", "network_mode", "restart", "scale"];
        for key in IGNORED {
            let Some(value) = self.service(name).as_object_mut().and_then(|s| s.remove(key)) else {
                continue;
            };
            let change = match (key, value.as_str()) {
                ("restart", Some("no")) => {
                    self.service(name)["deploy"]["restart_policy"] = json!({ "condition": "none" });
                    "now `deploy.restart_policy`"
                }
                ("restart", _) => continue, // Swarm restarts by itself
                ("scale", _) => {
                    self.service(name)["deploy"]["replicas"] = value;
                    "now `deploy.replicas`"
                }
                ("depends_on", _) => {
                    "removed: Swarm starts all services at once, and restarts a service that fails without another"
                }
                _ => "removed: Swarm ignores it",
            };
            self.record_change(format!("services.{name}.{key}"), change);
        }
    }

    fn networks(&mut self) {
        let mut removed = Vec::new();
        for (name, network) in self.value["networks"].as_object_mut().into_iter().flatten() {
            let is_local = network["driver"].as_str().is_some_and(|d| d != "overlay");
            if let Some(network) = network.as_object_mut().filter(|_| is_local) {
                network.remove("driver");
                removed.push(name.clone());
            }
        }
        removed.iter().for_each(|name| {
            self.record_change(format!("networks.{name}.driver"), "removed: now an overlay network")
        });
    }

    /// Notes and tasks that are left for the user.
    fn notes(&mut self, folder: &Path) {
        let Ok(file) = StackFile::from_project(&self.value.to_string(), "file", &StackOverrides::default())
        else {
            return;
        };
        let ignored =
            file.notes.iter().filter(|note| !note.contains(".build`")).map(|note| format!("note: {note}"));
        let refused = file
            .refusals
            .iter()
            .map(|w| format!("TODO {}: {}", w.message.trim_start_matches("file: "), w.hint));
        let mounts = folder_mounts(&file, folder).into_iter().map(|(service, source)| {
            format!("TODO services.{service}.volumes: `{source}` belongs to one machine: put it into the image, or keep the service on that node")
        });
        let all: Vec<String> = ignored.chain(refused).chain(mounts).collect();
        self.changes.extend(all);
    }
}

/// Bind mounts from the project's folder, by service.
pub fn folder_mounts(file: &StackFile, folder: &Path) -> Vec<(String, String)> {
    let own_mounts = |name: &String| {
        let mounts = file.value["services"][name]["volumes"].as_array().into_iter().flatten();
        let binds =
            mounts.filter(|m| m["type"].as_str() == Some("bind")).filter_map(|m| m["source"].as_str());
        let own = binds.filter(|source| Path::new(source).starts_with(folder));
        own.map(|source| (name.clone(), source.to_string())).collect::<Vec<_>>()
    };
    file.services.iter().flat_map(own_mounts).collect()
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
