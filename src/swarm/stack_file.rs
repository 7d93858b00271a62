//! Conversion of a resolved project into a file for `docker stack deploy`. Names every key that Swarm would refuse or
//! ignore, before anything changes. Pure.
//!
//! Sources: docker/cli `cli/compose/schema` (refused keys) and `cli/compose/types` (`UnsupportedProperties`,
//! `DeprecatedProperties`, `ForbiddenProperties`: ignored keys).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::objects::StackObject;
use super::observed::items;
use crate::docker::types::ObjectKind;
use crate::error::Error;
use crate::model::{ConfigError, UpdateLayer, word};

/// Settings of a deploy that override the file.
#[derive(Debug, Clone, Default)]
pub struct StackOverrides {
    /// Services to deploy; empty means all.
    pub services: Vec<String>,
    /// Replicas set by a flag, or observed where the file sets none.
    pub replicas: BTreeMap<String, u64>,
    pub update: UpdateLayer,
    pub rollback: UpdateLayer,
}

/// File for `docker stack deploy`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StackFile {
    /// Content of the file. May hold secrets of the project: never logged, never shown.
    pub value: Value,
    /// Keys that Swarm ignores, one line each.
    pub notes: Vec<String>,
    /// Configs and secrets to create before the file is sent.
    pub objects: Vec<StackObject>,
    /// Names of the services.
    pub services: Vec<String>,
    /// Keys that Swarm cannot honour, each with the fix.
    pub refusals: Vec<ConfigError>,
}

/// Keys of a service that mean the same in a stack, and are copied.
const PASSED_ON: &str = "cap_add cap_drop command configs credential_spec deploy dns dns_search entrypoint environment extra_hosts \
     healthcheck hostname image init isolation labels logging networks ports read_only secrets stdin_open \
     stop_grace_period stop_signal sysctls tmpfs tty ulimits user volumes working_dir";

/// Keys without a meaning in Swarm, or converted into other keys: dropped without a note.
const DROPPED: &str = "attach build cpus depends_on develop env_file expose links mem_limit mem_reservation pids_limit \
                       platform profiles pull_policy restart scale";

/// Keys that Swarm cannot honour and that change the container, each with the fix.
const REFUSED: [(&str, &str); 3] = [
    ("volumes_from", "name the volumes in `volumes`"),
    ("provider", "deploy that service with Compose"),
    ("models", "deploy that service with Compose"),
];

/// Keys of a network, a volume, a secret and a config that a stack accepts.
const SHARED_KEYS: [(&str, &str); 4] = [
    ("networks", "name driver driver_opts ipam external internal attachable labels"),
    ("volumes", "name driver driver_opts external labels"),
    ("secrets", "name file external labels driver driver_opts template_driver"),
    ("configs", "name file external labels template_driver"),
];

impl StackFile {
    /// Converts `text`, a resolved project as JSON.
    ///
    /// # Errors
    /// `text` is no project. Keys that Swarm refuses are no error here: see [`StackFile::refusals`].
    pub fn from_project(
        text: &str,
        source: &str,
        overrides: &StackOverrides,
    ) -> Result<StackFile, ConfigError> {
        let project: Value = serde_json::from_str(text).map_err(|_| ConfigError {
            message: format!("{source}: cannot read the resolved project"),
            hint: "please report this with the output of `docker compose version`".into(),
        })?;
        let mut writer = StackFileWriter { source, overrides, file: StackFile::default() };
        let is_deployed = |name: &&String| overrides.services.is_empty() || overrides.services.contains(name);
        let services: Map<String, Value> = object(&project["services"])
            .filter(|(name, _)| is_deployed(name))
            .map(|(name, service)| (name.clone(), writer.service(name, service)))
            .collect();
        let names = services.keys().cloned().collect();
        let mut stack = json!({ "version": version(&services) });
        for (section, accepted) in SHARED_KEYS {
            let used: Vec<String> =
                services.values().flat_map(|service| names_in(service, section)).collect();
            for (name, value) in object(&project[section]).filter(|(name, _)| used.contains(name)) {
                stack[section][name] = writer.shared(section, name, value, accepted);
            }
        }
        stack["services"] = services.into();
        Ok(StackFile { value: stack, services: names, ..writer.file })
    }

    /// The file, unless Swarm cannot honour it.
    ///
    /// # Errors
    /// All refusals, each with its fix.
    pub fn without_refusals(self, source: &str) -> Result<StackFile, Error> {
        match &self.refusals[..] {
            [] => Ok(self),
            [refusal] => Err(Error::from(refusal.clone())),
            all => {
                let message = format!(
                    "{source}: Swarm cannot run this project, for {} reasons; nothing was changed",
                    all.len()
                );
                let lines = all.iter().flat_map(|e| [e.message.clone(), format!("  fix: {}", e.hint)]);
                Err(lines.fold(Error::usage(message), |error, line| error.detail(&line)))
            }
        }
    }

    /// Text of the file: JSON, which is YAML too.
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(&self.value).expect("JSON can be written")
    }

    pub fn image(&self, service: &str) -> &str {
        self.value["services"][service]["image"].as_str().unwrap_or_default()
    }

    pub fn set_image(&mut self, service: &str, reference: &str) {
        self.value["services"][service]["image"] = reference.into();
    }

    /// The file with the services that match `keep`.
    pub fn with_services(&self, keep: impl Fn(&String) -> bool) -> StackFile {
        let mut file = self.clone();
        file.services.retain(|name| keep(name));
        if let Some(all) = file.value["services"].as_object_mut() {
            all.retain(|name, _| file.services.contains(name));
        }
        file
    }

    /// Bind mounts from the project's folder, each with its service.
    pub fn mounts_of<'f>(&'f self, folder: &'f Path) -> impl Iterator<Item = (&'f str, &'f str)> {
        self.services.iter().flat_map(move |name| {
            let mounts = folder_mounts(&self.value["services"][name], folder);
            mounts.map(move |source| (name.as_str(), source))
        })
    }

    /// The file without jobs: a rollback does not run them again.
    pub fn without_jobs(self) -> StackFile {
        self.with_services(|name| !is_job(&self.value["services"][name]))
    }
}

/// The service runs to completion.
fn is_job(service: &Value) -> bool {
    service["deploy"]["mode"].as_str().is_some_and(|mode| mode.ends_with("-job"))
}

/// The service runs on every node that meets its constraints.
pub(super) fn is_global(service: &Value) -> bool {
    service["deploy"]["mode"].as_str().is_some_and(|mode| mode.starts_with("global"))
}

/// Oldest schema version that has every key, for older clients.
fn version(services: &Map<String, Value>) -> &'static str {
    let has_newer_key = services.values().any(|s| s["healthcheck"].get("start_interval").is_some());
    if has_newer_key { "3.13" } else { "3.9" }
}

/// Names of the networks, volumes, secrets or configs to which a service refers.
pub(super) fn names_in(service: &Value, key: &str) -> Vec<String> {
    match &service[key] {
        Value::Object(map) => map.keys().cloned().collect(),
        list => items(list).filter_map(|i| i["source"].as_str().or(i.as_str())).map(String::from).collect(),
    }
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

struct StackFileWriter<'a> {
    source: &'a str,
    overrides: &'a StackOverrides,
    file: StackFile,
}

impl StackFileWriter<'_> {
    fn refuse(&mut self, message: String, hint: impl Into<String>) {
        let message = format!("{}: {message}", self.source);
        self.file.refusals.push(ConfigError { message, hint: hint.into() });
    }

    /// The keys that a stack accepts. Notes every other key, unless it is empty or dropped.
    fn accepted(&mut self, path: &str, value: &Value, accepted: &str, dropped: &str) -> Map<String, Value> {
        let mut kept = Map::new();
        let is_in = |words: &str, key: &str| words.split(' ').any(|word| word == key);
        for (key, value) in object(value) {
            if is_in(accepted, key) {
                kept.insert(key.clone(), value.clone());
            } else if !is_in(dropped, key) && !key.starts_with("x-") && !is_empty(value) {
                self.file.notes.push(format!("`{path}.{key}`: Swarm ignores it"));
            }
        }
        kept
    }

    fn service(&mut self, name: &str, service: &Value) -> Value {
        self.refuse_service(name, service);
        let mut converted = self.accepted(&format!("services.{name}"), service, PASSED_ON, DROPPED);
        self.note_ignored_keys(name, service);
        let ports: Vec<Value> = items(&service["ports"]).map(|port| self.port(name, port)).collect();
        if !ports.is_empty() {
            converted.insert("ports".into(), ports.into());
        }
        // Compose accepts `disable` beside a test, `docker stack deploy` does not.
        if service["healthcheck"]["disable"] == true {
            converted.insert("healthcheck".into(), json!({ "disable": true }));
        }
        converted.insert("deploy".into(), self.deploy(name, service));
        converted.into()
    }

    fn refuse_service(&mut self, name: &str, service: &Value) {
        if service.get("image").is_none() {
            self.refuse(
                format!("`{name}` has no `image`, and Swarm does not build"),
                format!("set `services.{name}.image` to a reference that every node can pull"),
            );
        }
        for (key, fix) in REFUSED.iter().filter(|(key, _)| service.get(key).is_some()) {
            self.refuse(format!("`services.{name}.{key}`: Swarm refuses it"), *fix);
        }
        if let Some(mode) = service["network_mode"].as_str()
            && (mode.starts_with("service:") || mode.starts_with("container:"))
        {
            self.refuse(
                format!("`services.{name}.network_mode: {mode}`: a Swarm task always has its own network"),
                format!("remove `services.{name}.network_mode`"),
            );
        }
    }

    /// Notes keys that Swarm ignores and that the project may rely on.
    fn note_ignored_keys(&mut self, name: &str, service: &Value) {
        let dependencies: Vec<String> =
            object(&service["depends_on"]).map(|(n, _)| format!("`{n}`")).collect();
        if !dependencies.is_empty() {
            let needed = dependencies.join(", ");
            self.file.notes.push(format!(
                "`services.{name}.depends_on`: Swarm starts all services at once; `{name}` must tolerate that {needed} is not up \
                 yet"
            ));
        }
        if service.get("build").is_some() {
            let image = service["image"].as_str().unwrap_or_default();
            self.file.notes.push(format!(
                "`services.{name}.build`: Swarm does not build; `{image}` must be on every node or in a registry \
                 (`--build` builds it here)"
            ));
        }
        if service.get("links").is_some() {
            self.file.notes.push(format!(
                "`services.{name}.links`: Swarm ignores it; services reach each other by name"
            ));
        }
    }

    fn port(&mut self, name: &str, port: &Value) -> Value {
        let keys = ["target", "protocol", "mode"];
        let copied = keys.iter().filter_map(|key| Some((key.to_string(), port.get(key)?.clone())));
        let mut converted: Map<String, Value> = copied.collect();
        if let Some(address) = port["host_ip"].as_str().filter(|a| !["", "0.0.0.0", "::"].contains(a)) {
            self.refuse(
                format!("`services.{name}.ports`: `{address}` belongs to one machine, and Swarm publishes on every address"),
                format!("remove `{address}:` from `services.{name}.ports`, or close the port in a firewall"),
            );
        }
        let published = port.get("published").map(|p| p.as_str().map_or(p.to_string(), String::from));
        if let Some(published) = published.filter(|text| !text.is_empty()) {
            match published.parse::<u16>() {
                Ok(number) => {
                    converted.insert("published".into(), number.into());
                }
                Err(_) => self.refuse(
                    format!("`services.{name}.ports`: Swarm publishes one port, not `{published}`"),
                    "name one port, or none to let Swarm choose",
                ),
            }
        }
        converted.into()
    }

    fn deploy(&mut self, name: &str, service: &Value) -> Value {
        let mut deploy = service["deploy"].as_object().cloned().unwrap_or_default();
        self.resources(name, service, &mut deploy);
        let by_flag = self.overrides.replicas.get(name).copied().map(Value::from);
        let replicas = by_flag.or(service.get("scale").cloned());
        if let Some(replicas) = replicas.filter(|_| !is_global(service)) {
            deploy.insert("replicas".into(), replicas);
        }
        if let Some(policy) = restart_policy(service) {
            deploy.entry("restart_policy").or_insert(policy);
        }
        for (key, flags) in
            [("update_config", &self.overrides.update), ("rollback_config", &self.overrides.rollback)]
        {
            // Swarm refuses these keys of a job.
            if is_job(service) {
                deploy.remove(key);
                continue;
            }
            let config = with_overrides(flags, deploy.get(key));
            if config.as_object().is_some_and(|c| !c.is_empty()) {
                deploy.insert(key.into(), config);
            }
        }
        deploy.into()
    }

    /// Converts `mem_limit`, `cpus` and the like, Compose's short forms of `deploy.resources`.
    fn resources(&mut self, name: &str, service: &Value, deploy: &mut Map<String, Value>) {
        let mut resources = service["deploy"]["resources"].as_object().cloned().unwrap_or_default();
        let short_forms = [
            ("cpus", "limits", "cpus"),
            ("mem_limit", "limits", "memory"),
            ("pids_limit", "limits", "pids"),
            ("mem_reservation", "reservations", "memory"),
        ];
        for (key, kind, long) in short_forms {
            let Some(value) = service.get(key).filter(|v| !is_empty(v)) else { continue };
            let limits = resources.entry(kind).or_insert_with(|| json!({}));
            if let Some(limits) = limits.as_object_mut() {
                limits.entry(long).or_insert_with(|| value.clone());
            }
        }
        for (kind, section) in &mut resources {
            let Some(section) = section.as_object_mut() else { continue };
            if section.remove("devices").is_some() {
                self.file
                    .notes
                    .push(format!("`services.{name}.deploy.resources.{kind}.devices`: Swarm ignores it"));
            }
            // `docker stack deploy` refuses a number here.
            if let Some(number) = section.get("cpus").filter(|c| c.is_number()).map(Value::to_string) {
                section.insert("cpus".into(), number.into());
            }
        }
        if !resources.is_empty() {
            deploy.insert("resources".into(), Value::Object(resources));
        }
    }

    fn shared(&mut self, section: &str, name: &str, value: &Value, accepted: &str) -> Value {
        let is_external = value.get("external").is_some_and(|e| *e != json!(false));
        let kind = ObjectKind::ALL.into_iter().find(|kind| kind.key() == section);
        if let Some(kind) = kind.filter(|_| !is_external) {
            return self.object(kind, name, value, accepted);
        }
        let mut converted = self.accepted(&format!("{section}.{name}"), value, accepted, "");
        if section == "networks" {
            converted.retain(|_, value| !is_empty(value));
            let driver = value["driver"].as_str().filter(|d| !["", "overlay"].contains(d) && !is_external);
            if let Some(driver) = driver {
                self.refuse(
                    format!("`networks.{name}.driver: {driver}` spans one machine only"),
                    format!("remove `networks.{name}.driver`: a stack's networks are overlay networks"),
                );
            }
        }
        converted.into()
    }

    /// Collects a config or secret to create before the stack is sent; the file refers to it by name.
    fn object(&mut self, kind: ObjectKind, key: &str, value: &Value, accepted: &str) -> Value {
        let accepted = format!("{accepted} environment content");
        let definition = self.accepted(&format!("{}.{key}", kind.key()), value, &accepted, "");
        let full = value["name"].as_str().unwrap_or(key);
        match StackObject::new(kind, key, full, &definition.into()) {
            Ok(object) => self.file.objects.push(object),
            Err((message, hint)) => self.refuse(message, hint),
        }
        json!({ "name": full, "external": true })
    }
}

/// A value that sets nothing.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Compose's `restart` as a `restart_policy`; Swarm's default is to restart always.
fn restart_policy(service: &Value) -> Option<Value> {
    let restart = service["restart"].as_str()?;
    let (condition, times) = restart.split_once(':').unwrap_or((restart, ""));
    match condition {
        "no" => Some(json!({ "condition": "none" })),
        "on-failure" => Some(match times.parse::<u64>() {
            Ok(times) => json!({ "condition": "on-failure", "max_attempts": times }),
            Err(_) => json!({ "condition": "on-failure" }),
        }),
        _ => None,
    }
}

/// The `update_config` of the file, overridden by flags.
fn with_overrides(flags: &UpdateLayer, file: Option<&Value>) -> Value {
    let mut config = file.and_then(Value::as_object).cloned().unwrap_or_default();
    let time = |time: Duration| Value::from(format!("{}ms", time.as_millis()));
    let in_file =
        config.get("monitor").and_then(Value::as_str).and_then(|m| humantime::parse_duration(m).ok());
    let mut set = |key: &str, value: Option<Value>| value.map(|v| config.insert(key.into(), v));
    set("parallelism", flags.parallelism.map(Value::from));
    set("delay", flags.delay.map(time));
    // Swarm reads 0 as its default.
    let monitor_text = |monitor: Duration| if monitor.is_zero() { "1ns".into() } else { time(monitor) };
    set("monitor", flags.monitor.or(in_file.filter(Duration::is_zero)).map(monitor_text));
    set("failure_action", flags.action.map(|action| word(&action).into()));
    set("max_failure_ratio", flags.max_failure_ratio.map(Value::from));
    set("order", flags.order.map(|order| word(&order).into()));
    Value::Object(config)
}

/// Sources of the mounts of a kind.
pub fn mounts<'v>(service: &'v Value, kind: &'static str) -> impl Iterator<Item = &'v str> {
    items(&service["volumes"]).filter(move |m| m["type"] == kind).filter_map(|m| m["source"].as_str())
}

/// Bind mounts from the project's folder.
pub fn folder_mounts<'v>(service: &'v Value, folder: &'v Path) -> impl Iterator<Item = &'v str> {
    mounts(service, "bind").filter(move |source| Path::new(source).starts_with(folder))
}

#[cfg(test)]
mod tests;
