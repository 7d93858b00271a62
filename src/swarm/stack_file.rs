//! From a resolved project to a file that `docker stack deploy` takes. What Swarm would refuse or ignore is named here,
//! before anything happens. Pure.
//!
//! Sources: docker/cli `cli/compose/schema` (what is refused) and `cli/compose/types` (`UnsupportedProperties`,
//! `DeprecatedProperties`, `ForbiddenProperties`: what is ignored).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::objects::{ObjectKind, StackObject};
use crate::model::{ConfigError, FailureAction, Order, UpdateLayer};

/// What a deploy asks for beside the file.
#[derive(Debug, Clone, Default)]
pub struct StackOverrides {
    /// The services to deploy; all where it is empty.
    pub services: Vec<String>,
    /// Replicas of services whose file does not say, or that a flag is about.
    pub replicas: BTreeMap<String, u64>,
    pub update: UpdateLayer,
    pub rollback: UpdateLayer,
}

/// What a stack is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct StackFile {
    /// It holds what the project holds: it is neither logged nor shown.
    pub value: Value,
    /// What Swarm ignores, a line each.
    pub notes: Vec<String>,
    /// The configs and secrets that it needs, which are made before it is sent.
    pub objects: Vec<StackObject>,
    /// Its services.
    pub services: Vec<String>,
    /// Everything that Swarm cannot run as it is meant, each with the key and the fix.
    pub refusals: Vec<ConfigError>,
}

/// Keys of a service that mean the same in a stack.
const OBEYED: &[&str] = &[
    "cap_add",
    "cap_drop",
    "command",
    "configs",
    "credential_spec",
    "deploy",
    "dns",
    "dns_search",
    "entrypoint",
    "environment",
    "extra_hosts",
    "healthcheck",
    "hostname",
    "image",
    "init",
    "isolation",
    "labels",
    "logging",
    "networks",
    "ports",
    "read_only",
    "secrets",
    "stdin_open",
    "stop_grace_period",
    "stop_signal",
    "sysctls",
    "tmpfs",
    "tty",
    "ulimits",
    "user",
    "volumes",
    "working_dir",
];

/// Keys that say nothing to Swarm, or that have become others here: nobody misses them.
const NEEDLESS: &[&str] = &[
    "attach",
    "build",
    "cpus",
    "depends_on",
    "develop",
    "env_file",
    "expose",
    "links",
    "mem_limit",
    "mem_reservation",
    "pids_limit",
    "platform",
    "profiles",
    "pull_policy",
    "restart",
    "scale",
    "x-zd",
];

/// Keys without which a container would be another one than was meant.
const REFUSED: [(&str, &str); 3] = [
    ("volumes_from", "name the volumes in `volumes`"),
    ("provider", "deploy that service with Compose"),
    ("models", "deploy that service with Compose"),
];

/// Keys of a network, a volume, a secret and a config that a stack may have.
const SHARED: [(&str, &[&str]); 4] = [
    ("networks", &["name", "driver", "driver_opts", "ipam", "external", "internal", "attachable", "labels"]),
    ("volumes", &["name", "driver", "driver_opts", "external", "labels"]),
    ("secrets", &["name", "file", "external", "labels", "driver", "driver_opts", "template_driver"]),
    ("configs", &["name", "file", "external", "labels", "template_driver"]),
];

impl StackFile {
    /// `text` is a resolved project as JSON.
    ///
    /// # Errors
    /// A text that is no project; what Swarm refuses of one stands in the file.
    pub fn of(text: &str, source: &str, asks: &StackOverrides) -> Result<StackFile, ConfigError> {
        let project: Value = serde_json::from_str(text).map_err(|_| ConfigError {
            message: format!("{source}: a resolved project cannot be read"),
            hint: "please report this with the output of `docker compose version`".into(),
        })?;
        let mut writer =
            StackFileWriter { source, asks, notes: Vec::new(), objects: Vec::new(), refusals: Vec::new() };
        let mut services = Map::new();
        for (name, service) in object(&project["services"]) {
            if asks.services.is_empty() || asks.services.contains(name) {
                services.insert(name.clone(), writer.service(name, service));
            }
        }
        let names = services.keys().cloned().collect();
        let version = version(&services);
        let mut stack = json!({ "version": version, "services": services });
        for (key, allowed) in SHARED {
            let used = used(&stack["services"], key);
            let mut part = Map::new();
            for (name, value) in object(&project[key]).filter(|(name, _)| used.contains(name)) {
                part.insert(name.clone(), writer.shared(key, name, value, allowed));
            }
            if !part.is_empty() {
                stack[key] = Value::Object(part);
            }
        }
        let StackFileWriter { notes, objects, refusals, .. } = writer;
        Ok(StackFile { value: stack, notes, objects, services: names, refusals })
    }

    /// YAML, as JSON.
    pub fn text(&self) -> String {
        serde_json::to_string_pretty(&self.value).expect("JSON can be written")
    }

    pub fn image(&self, service: &str) -> &str {
        self.value["services"][service]["image"].as_str().unwrap_or_default()
    }

    pub fn set_image(&mut self, service: &str, reference: &str) {
        self.value["services"][service]["image"] = reference.into();
    }

    /// Only these services.
    pub fn keeping(&self, kept: impl Fn(&String) -> bool) -> StackFile {
        let mut file = self.clone();
        file.services.retain(|name| kept(name));
        if let Some(all) = file.value["services"].as_object_mut() {
            all.retain(|name, _| file.services.contains(name));
        }
        file
    }

    /// Leaves jobs out: going back runs none again.
    pub fn without_jobs(self) -> StackFile {
        self.keeping(|name| !is_job(&self.value["services"][name]))
    }
}

fn is_job(service: &Value) -> bool {
    service["deploy"]["mode"].as_str().is_some_and(|mode| mode.ends_with("-job"))
}

/// The oldest version that has every key: older clients know no newer one.
fn version(services: &Map<String, Value>) -> &'static str {
    match services.values().any(|s| s["healthcheck"].get("start_interval").is_some()) {
        true => "3.13",
        false => "3.9",
    }
}

/// The networks, volumes, secrets or configs that services refer to.
fn used(services: &Value, key: &str) -> Vec<String> {
    let of = |service: &Value| -> Vec<String> {
        match &service[key] {
            Value::Object(map) => map.keys().cloned().collect(),
            Value::Array(items) => {
                items.iter().filter_map(|i| i["source"].as_str().or(i.as_str())).map(String::from).collect()
            }
            _ => Vec::new(),
        }
    };
    object(services).flat_map(|(_, service)| of(service)).collect()
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

struct StackFileWriter<'a> {
    source: &'a str,
    asks: &'a StackOverrides,
    notes: Vec<String>,
    objects: Vec<StackObject>,
    refusals: Vec<ConfigError>,
}

impl StackFileWriter<'_> {
    fn refuse(&mut self, message: String, hint: impl Into<String>) {
        self.refusals.push(ConfigError { message: format!("{}: {message}", self.source), hint: hint.into() });
    }

    fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    fn service(&mut self, name: &str, service: &Value) -> Value {
        self.refuse_service(name, service);
        let mut kept = Map::new();
        for (key, value) in object(service) {
            match key.as_str() {
                k if OBEYED.contains(&k) => {
                    kept.insert(key.clone(), value.clone());
                }
                k if NEEDLESS.contains(&k) || k.starts_with("x-") || is_void(value) => {}
                k => self.note(format!("`services.{name}.{k}`: Swarm ignores it")),
            }
        }
        self.told_by_other_keys(name, service);
        let ports = service["ports"].as_array().into_iter().flatten();
        let ports: Vec<Value> = ports.map(|p| self.port(name, p)).collect();
        if !ports.is_empty() {
            kept.insert("ports".into(), ports.into());
        }
        // Compose takes a test that is switched off, `docker stack deploy` does not.
        if service["healthcheck"]["disable"].as_bool() == Some(true) {
            kept.insert("healthcheck".into(), json!({ "disable": true }));
        }
        kept.insert("deploy".into(), self.deploy(name, service));
        Value::Object(kept)
    }

    fn refuse_service(&mut self, name: &str, service: &Value) {
        if service.get("image").is_none() {
            self.refuse(
                format!("`{name}` has no `image`, and Swarm builds none"),
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
                format!("`services.{name}.network_mode: {mode}`: a task of Swarm has a network of its own"),
                format!("remove `services.{name}.network_mode`"),
            );
        }
    }

    /// Keys that Swarm does not obey, and that somebody may count on.
    fn told_by_other_keys(&mut self, name: &str, service: &Value) {
        let needed: Vec<String> = object(&service["depends_on"]).map(|(n, _)| format!("`{n}`")).collect();
        if !needed.is_empty() {
            let needed = needed.join(", ");
            self.note(format!(
                "`services.{name}.depends_on`: Swarm starts all services at once; `{name}` has to bear that {needed} is not \
                 there yet"
            ));
        }
        if service.get("build").is_some() {
            let image = service["image"].as_str().unwrap_or_default();
            self.note(format!(
                "`services.{name}.build`: Swarm builds nothing; `{image}` has to be on every node or in a registry \
                 (`--build` builds it here)"
            ));
        }
        if service.get("links").is_some() {
            self.note(format!(
                "`services.{name}.links`: Swarm ignores it; services reach each other by name"
            ));
        }
    }

    fn port(&mut self, name: &str, port: &Value) -> Value {
        let mut kept = Map::new();
        for key in ["target", "protocol", "mode"] {
            port.get(key).map(|v| kept.insert(key.into(), v.clone()));
        }
        if let Some(address) = port["host_ip"].as_str().filter(|a| !["", "0.0.0.0", "::"].contains(a)) {
            self.refuse(
                format!("`services.{name}.ports`: {address} is one machine's, and Swarm publishes on every address"),
                format!("remove `{address}:` from `services.{name}.ports`, or close the port in a firewall"),
            );
        }
        match port.get("published").map(|p| p.as_str().map_or(p.to_string(), String::from)) {
            None => {}
            Some(text) if text.is_empty() => {}
            Some(text) => match text.parse::<u16>() {
                Ok(number) => {
                    kept.insert("published".into(), number.into());
                }
                Err(_) => self.refuse(
                    format!("`services.{name}.ports`: Swarm publishes one port, not `{text}`"),
                    "name one port, or none to let Swarm choose",
                ),
            },
        }
        Value::Object(kept)
    }

    fn deploy(&mut self, name: &str, service: &Value) -> Value {
        let mut deploy = service["deploy"].as_object().cloned().unwrap_or_default();
        self.resources(name, service, &mut deploy);
        let global =
            ["global", "global-job"].contains(&deploy.get("mode").and_then(Value::as_str).unwrap_or(""));
        let asked = self.asks.replicas.get(name).copied().map(Value::from);
        if let Some(replicas) = asked.or(service.get("scale").cloned()).filter(|_| !global) {
            deploy.insert("replicas".into(), replicas);
        }
        if let Some(policy) = restart_policy(service).filter(|_| !deploy.contains_key("restart_policy")) {
            deploy.insert("restart_policy".into(), policy);
        }
        for (key, wish) in [("update_config", &self.asks.update), ("rollback_config", &self.asks.rollback)] {
            // Swarm refuses a job with one.
            if is_job(service) {
                deploy.remove(key);
                continue;
            }
            let config = over(wish, deploy.get(key));
            if config.as_object().is_some_and(|c| !c.is_empty()) {
                deploy.insert(key.into(), config);
            }
        }
        Value::Object(deploy)
    }

    /// `mem_limit`, `cpus` and the like are Compose's short words for these.
    fn resources(&mut self, name: &str, service: &Value, deploy: &mut Map<String, Value>) {
        let mut resources = deploy.get("resources").and_then(Value::as_object).cloned().unwrap_or_default();
        let short = [
            ("cpus", "limits", "cpus"),
            ("mem_limit", "limits", "memory"),
            ("pids_limit", "limits", "pids"),
            ("mem_reservation", "reservations", "memory"),
        ];
        for (key, kind, word) in short {
            let Some(value) = service.get(key).filter(|v| !is_void(v)) else { continue };
            let part = resources.entry(kind).or_insert_with(|| json!({}));
            if let Some(part) = part.as_object_mut() {
                part.entry(word).or_insert_with(|| value.clone());
            }
        }
        for (kind, part) in &mut resources {
            let Some(part) = part.as_object_mut() else { continue };
            if part.remove("devices").is_some() {
                self.note(format!("`services.{name}.deploy.resources.{kind}.devices`: Swarm ignores it"));
            }
            // A number here is refused.
            if let Some(number) = part.get("cpus").filter(|c| c.is_number()).map(Value::to_string) {
                part.insert("cpus".into(), number.into());
            }
        }
        if !resources.is_empty() {
            deploy.insert("resources".into(), Value::Object(resources));
        }
    }

    fn shared(&mut self, kind: &str, name: &str, value: &Value, allowed: &[&str]) -> Value {
        let kind = ObjectKind::ALL.into_iter().find(|k| k.key() == kind).ok_or(kind);
        match kind {
            Ok(kind) if value.get("external").is_none_or(|e| *e == json!(false)) => {
                self.object(kind, name, value, allowed)
            }
            Ok(kind) => self.kept(kind.key(), name, value, allowed),
            Err(kind) => {
                let mut kept = self.kept(kind, name, value, allowed);
                if kind == "networks" {
                    self.network(name, &mut kept);
                }
                kept
            }
        }
    }

    fn kept(&mut self, kind: &str, name: &str, value: &Value, allowed: &[&str]) -> Value {
        let mut kept = Map::new();
        for (key, value) in object(value) {
            match key.as_str() {
                k if allowed.contains(&k) => {
                    kept.insert(key.clone(), value.clone());
                }
                k if is_void(value) || k.starts_with("x-") => {}
                k => self.note(format!("`{kind}.{name}.{k}`: Swarm ignores it")),
            }
        }
        Value::Object(kept)
    }

    /// A config or secret is made before the stack is sent, and referred to by its name.
    fn object(&mut self, kind: ObjectKind, key: &str, value: &Value, allowed: &[&str]) -> Value {
        let known = [allowed, &["environment", "content"]].concat();
        let full = value["name"].as_str().unwrap_or(key).to_string();
        match StackObject::new(kind, key, &full, &self.kept(kind.key(), key, value, &known)) {
            Ok(object) => self.objects.push(object),
            Err((message, hint)) => self.refuse(message, hint),
        }
        json!({ "name": full, "external": true })
    }

    fn network(&mut self, name: &str, network: &mut Value) {
        let external = network.get("external").is_some_and(|e| *e != json!(false));
        let driver = network["driver"].as_str().filter(|d| *d != "overlay" && !external);
        if let Some(driver) = driver.map(String::from) {
            self.refuse(
                format!("`networks.{name}.driver: {driver}` is a network of one machine"),
                format!("remove `networks.{name}.driver`: a stack's networks are overlay networks"),
            );
        }
        if let Some(network) = network.as_object_mut() {
            network.retain(|_, v| !is_void(v));
        }
    }
}

/// A value that asks for nothing.
pub(super) fn is_void(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// Compose's `restart`, in Swarm's words; Swarm's default is to restart always.
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

/// The flags over what the file says.
fn over(wish: &UpdateLayer, file: Option<&Value>) -> Value {
    let mut config = file.and_then(Value::as_object).cloned().unwrap_or_default();
    let time = |time: Duration| Value::from(format!("{}ms", time.as_millis()));
    let in_file =
        config.get("monitor").and_then(Value::as_str).and_then(|m| humantime::parse_duration(m).ok());
    let mut set = |key: &str, value: Option<Value>| value.map(|v| config.insert(key.into(), v));
    set("parallelism", wish.parallelism.map(Value::from));
    set("delay", wish.delay.map(time));
    // Swarm reads 0 as its default.
    let watched = |monitor: Duration| if monitor.is_zero() { "1ns".into() } else { time(monitor) };
    set("monitor", wish.monitor.or(in_file.filter(Duration::is_zero)).map(watched));
    set("failure_action", wish.action.map(|a| FailureAction::word(a).into()));
    set("max_failure_ratio", wish.max_failure_ratio.map(Value::from));
    set("order", wish.order.map(|o| Order::word(o).into()));
    Value::Object(config)
}

#[cfg(test)]
mod tests;
