//! Changes that a deploy makes to a service of a stack, in words. Compares the definition in the stack's file, converted as
//! `docker stack deploy` converts it (docker/cli `cli/compose/convert`), with the spec that Swarm has. Pure; never shows
//! values of variables.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::observed::{StackService, without_defaults};
use super::stack_file::is_empty;

/// Input of a comparison: a service of a stack file, and the names of its image and networks.
pub struct ServiceDiff<'a> {
    pub stack: &'a str,
    pub file: &'a Value,
    pub service: &'a str,
    /// Name of the image in the project.
    pub image: &'a str,
    /// Names of networks by id.
    pub networks: &'a BTreeMap<String, String>,
}

/// A property: its name, its value in the file, and its value in Swarm.
type PropertyDiff = (&'static str, Value, Value);

impl ServiceDiff<'_> {
    fn desired(&self) -> &Value {
        &self.file["services"][self.service]
    }

    /// Changes in words; `current` is the service in Swarm.
    pub fn describe(&self, current: Option<&StackService>) -> String {
        let deploy = &self.desired()["deploy"];
        let replicas = deploy["replicas"].as_u64().unwrap_or(1);
        let mode = deploy["mode"].as_str().unwrap_or("replicated");
        let Some(service) = current else {
            return match mode {
                "replicated" => format!("create {replicas} tasks of {}", self.image),
                mode => format!("create the service ({mode}) with {}", self.image),
            };
        };
        if service.spec.is_job() {
            return format!("run the job again with {}", self.image);
        }
        let spec = service.spec.value();
        let mut replacing = self.image_change(spec);
        replacing.extend(self.environment_change(service));
        replacing.extend(changed_properties(self.task_properties(spec)));
        let in_place = changed_properties(self.service_properties(spec));
        let scaled = service.spec.replicas().filter(|n| *n != replicas);
        let all = [
            (!replacing.is_empty()).then(|| format!("replace the tasks: {}", replacing.join("; "))),
            scaled.map(|n| format!("scale from {n} to {replicas} tasks")),
            (!in_place.is_empty())
                .then(|| format!("change without replacing tasks: {}", in_place.join(", "))),
        ];
        let all: Vec<String> = all.into_iter().flatten().collect();
        if all.is_empty() { "nothing changes".into() } else { all.join(", and ") }
    }

    /// Flags of `docker service update` that bring the service to the state in the file.
    ///
    /// # Errors
    /// Names of the changes without a flag. Variables have none, because the list of processes would show their values.
    pub fn update_flags(&self, current: &StackService) -> Result<Vec<String>, Vec<String>> {
        let (spec, deploy) = (current.spec.value(), &self.desired()["deploy"]);
        let in_place = changed_properties(self.service_properties(spec));
        let has_networks = spec["TaskTemplate"]["Networks"].is_array();
        let mut unsupported = changed_properties(self.task_properties(spec));
        unsupported.extend(in_place.iter().filter(|name| !name.ends_with("_config")).cloned());
        unsupported.extend(self.environment_change(current));
        // Compose gives every service a network. A service without a network in Swarm stays without one.
        unsupported.retain(|name| name != "networks" || has_networks);
        if !unsupported.is_empty() {
            return Err(unsupported);
        }
        let mut flags = Vec::new();
        if !self.image_change(spec).is_empty() {
            flags.push(format!("--image={}", text(&self.desired()["image"])));
        }
        let replicas = deploy["replicas"]
            .as_u64()
            .filter(|n| current.spec.replicas().is_some_and(|current| current != *n));
        flags.extend(replicas.map(|n| format!("--replicas={n}")));
        for (kind, key) in [("update", "update_config"), ("rollback", "rollback_config")] {
            let section =
                deploy[key].as_object().into_iter().flatten().filter(|_| in_place.iter().any(|k| k == key));
            flags.extend(
                section.map(|(key, value)| format!("--{kind}-{}={}", key.replace('_', "-"), text(value))),
            );
        }
        Ok(flags)
    }

    /// Change of the image, if any; Swarm adds the digest that it resolved.
    fn image_change(&self, spec: &Value) -> Vec<String> {
        let current = text(&spec["TaskTemplate"]["ContainerSpec"]["Image"]);
        let desired = text(&self.desired()["image"]);
        let tag = current.split('@').next().unwrap_or_default();
        let same = desired == current || tag == desired || tag == format!("{desired}:latest");
        let short = |image: &str| match image.strip_prefix("sha256:") {
            Some(id) => id.chars().take(12).collect(),
            None => image.to_string(),
        };
        // A tag that was built again names two images, so the id is added.
        let to = match desired.strip_prefix("sha256:") {
            Some(_) => format!("{} ({})", self.image, short(&desired)),
            None => desired.clone(),
        };
        if same { Vec::new() } else { vec![format!("image {} → {to}", short(tag))] }
    }

    fn environment_change(&self, service: &StackService) -> Option<String> {
        let current = service.spec.environment();
        let pairs = self.desired()["environment"].as_object().into_iter().flatten();
        let set = pairs.filter(|(_, value)| !value.is_null());
        let desired: BTreeMap<&str, String> = set.map(|(name, value)| (name.as_str(), text(value))).collect();
        let names: BTreeSet<&str> = desired.keys().chain(current.keys()).copied().collect();
        let differs = |name: &&str| desired.get(name).map(String::as_str) != current.get(name).copied();
        let changed: Vec<&str> = names.into_iter().filter(differs).collect();
        (!changed.is_empty()).then(|| format!("environment {}", changed.join(", ")))
    }

    /// Properties whose change replaces every task.
    fn task_properties(&self, spec: &Value) -> Vec<PropertyDiff> {
        let (desired, task) = (self.desired(), &spec["TaskTemplate"]);
        let (deploy, current) = (&desired["deploy"], &task["ContainerSpec"]);
        let plain = |key: &str| unescaped(&desired[key]);
        vec![
            ("command", plain("command"), current["Args"].clone()),
            ("entrypoint", plain("entrypoint"), current["Command"].clone()),
            ("health check", health_check(&desired["healthcheck"]), current["Healthcheck"].clone()),
            ("user", plain("user"), current["User"].clone()),
            ("working_dir", plain("working_dir"), current["Dir"].clone()),
            ("hostname", plain("hostname"), current["Hostname"].clone()),
            ("tty", plain("tty"), current["TTY"].clone()),
            ("stdin_open", plain("stdin_open"), current["OpenStdin"].clone()),
            ("read_only", plain("read_only"), current["ReadOnly"].clone()),
            ("init", plain("init"), current["Init"].clone()),
            ("stop_signal", plain("stop_signal"), current["StopSignal"].clone()),
            (
                "stop_grace_period",
                value_or(time(&desired["stop_grace_period"]), 10_000_000_000),
                value_or(current["StopGracePeriod"].clone(), 10_000_000_000),
            ),
            ("labels", map(&desired["labels"]), own_labels(&current["Labels"])),
            ("dns", set(&desired["dns"]), set(&current["DNSConfig"]["Nameservers"])),
            ("dns_search", set(&desired["dns_search"]), set(&current["DNSConfig"]["Search"])),
            ("cap_add", capabilities(&desired["cap_add"]), capabilities(&current["CapabilityAdd"])),
            ("cap_drop", capabilities(&desired["cap_drop"]), capabilities(&current["CapabilityDrop"])),
            ("sysctls", map(&desired["sysctls"]), map(&current["Sysctls"])),
            ("configs", self.desired_objects("configs"), names(&current["Configs"], "ConfigName")),
            ("secrets", self.desired_objects("secrets"), names(&current["Secrets"], "SecretName")),
            ("volumes", self.desired_mounts(), current_mounts(&current["Mounts"])),
            ("networks", self.desired_networks(), self.current_networks(&task["Networks"])),
            ("limits", resources(&deploy["resources"]["limits"]), task["Resources"]["Limits"].clone()),
            (
                "reservations",
                resources(&deploy["resources"]["reservations"]),
                task["Resources"]["Reservations"].clone(),
            ),
            ("placement", desired_placement(&deploy["placement"]), current_placement(&task["Placement"])),
            (
                "restart_policy",
                desired_restart(&deploy["restart_policy"]),
                current_restart(&task["RestartPolicy"]),
            ),
            ("logging", logging(&desired["logging"]), task["LogDriver"].clone()),
            ("ports", desired_ports(&desired["ports"]), current_ports(&spec["EndpointSpec"]["Ports"])),
            (
                "endpoint_mode",
                text_or(&deploy["endpoint_mode"], "vip"),
                text_or(&spec["EndpointSpec"]["Mode"], "vip"),
            ),
        ]
    }

    /// Properties that Swarm changes without replacing tasks.
    fn service_properties(&self, spec: &Value) -> Vec<PropertyDiff> {
        let deploy = &self.desired()["deploy"];
        vec![
            ("deploy.labels", map(&deploy["labels"]), own_labels(&spec["Labels"])),
            (
                "update_config",
                desired_update(&deploy["update_config"]),
                current_update(&spec["UpdateConfig"]),
            ),
            (
                "rollback_config",
                desired_update(&deploy["rollback_config"]),
                current_update(&spec["RollbackConfig"]),
            ),
        ]
    }

    /// Names of the configs or secrets of the service.
    fn desired_objects(&self, kind: &str) -> Value {
        let granted = self.desired()[kind].as_array().into_iter().flatten();
        let keys = granted.filter_map(|g| g["source"].as_str().or(g.as_str()));
        sorted(keys.map(|key| self.full_name(kind, key)))
    }

    fn full_name(&self, kind: &str, key: &str) -> String {
        let own = self.file[kind][key]["name"].as_str().map(String::from);
        let is_external = self.file[kind][key]["external"].as_bool() == Some(true);
        own.unwrap_or_else(|| if is_external { key.into() } else { format!("{}_{key}", self.stack) })
    }

    fn desired_mounts(&self) -> Value {
        let volumes = self.desired()["volumes"].as_array().into_iter().flatten().map(|mount| {
            let kind = text(&mount["type"]);
            let source = match (kind.as_str(), mount["source"].as_str()) {
                ("volume", Some(source)) => self.full_name("volumes", source),
                (_, source) => source.unwrap_or_default().into(),
            };
            mount_text(&kind, &source, &text(&mount["target"]), &mount["read_only"])
        });
        let tmpfs = match &self.desired()["tmpfs"] {
            Value::Array(all) => all.iter().map(text).collect(),
            Value::String(one) => vec![one.clone()],
            _ => Vec::new(),
        };
        let path = |mount: &String| mount.split(':').next().unwrap_or_default().to_string();
        let tmpfs: Vec<String> = tmpfs.iter().map(path).collect();
        sorted(volumes.chain(tmpfs.iter().map(|target| mount_text("tmpfs", "", target, &Value::Null))))
    }

    /// Networks of the service; by default that of the stack.
    fn desired_networks(&self) -> Value {
        let keys: Vec<String> = match &self.desired()["networks"] {
            Value::Object(all) if !all.is_empty() => all.keys().cloned().collect(),
            Value::Array(all) if !all.is_empty() => all.iter().map(text).collect(),
            _ => vec!["default".into()],
        };
        sorted(keys.iter().map(|key| self.full_name("networks", key)))
    }

    fn current_networks(&self, attached: &Value) -> Value {
        let ids = attached.as_array().into_iter().flatten().map(|n| text(&n["Target"]));
        sorted(ids.map(|id| self.networks.get(&id).cloned().unwrap_or(id)))
    }
}

fn changed_properties(rows: Vec<PropertyDiff>) -> Vec<String> {
    let differs = |(_, desired, current): &PropertyDiff| {
        without_defaults(desired) != without_defaults(current)
            && !(is_empty(&without_defaults(desired)) && is_empty(&without_defaults(current)))
    };
    rows.into_iter().filter(differs).map(|(name, ..)| name.to_string()).collect()
}

/// Text of a value; `$$` in the file stands for `$`.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.replace("$$", "$"),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn unescaped(value: &Value) -> Value {
    match value {
        Value::String(_) => text(value).into(),
        Value::Array(items) => items.iter().map(unescaped).collect(),
        other => other.clone(),
    }
}

fn sorted(all: impl Iterator<Item = String>) -> Value {
    all.collect::<BTreeSet<_>>().into_iter().collect()
}

fn set(value: &Value) -> Value {
    match value {
        Value::String(one) => json!([one]),
        other => sorted(other.as_array().into_iter().flatten().map(text)),
    }
}

fn map(value: &Value) -> Value {
    let pairs = value.as_object().into_iter().flatten();
    pairs.map(|(key, value)| (key.clone(), Value::from(text(value)))).collect()
}

/// Labels without those that `docker stack deploy` adds.
pub fn own_labels(value: &Value) -> Value {
    let pairs =
        value.as_object().into_iter().flatten().filter(|(key, _)| !key.starts_with("com.docker.stack."));
    pairs.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn names(value: &Value, key: &str) -> Value {
    sorted(value.as_array().into_iter().flatten().map(|object| text(&object[key])))
}

fn capabilities(value: &Value) -> Value {
    let all = value.as_array().into_iter().flatten().map(|c| text(c).to_uppercase());
    sorted(all.map(|c| c.trim_start_matches("CAP_").to_string()))
}

/// Time in nanoseconds.
fn time(value: &Value) -> Value {
    let parsed = value.as_str().and_then(|text| humantime::parse_duration(text).ok());
    parsed.map_or(Value::Null, |time| Value::from(time.as_nanos() as u64))
}

fn value_or(value: Value, default: u64) -> Value {
    if value.is_null() { default.into() } else { value }
}

fn text_or(value: &Value, default: &str) -> Value {
    value.as_str().unwrap_or(default).into()
}

fn health_check(check: &Value) -> Value {
    if check["disable"].as_bool() == Some(true) {
        return json!({ "Test": ["NONE"] });
    }
    let test = match &check["test"] {
        Value::String(_) => json!(["CMD-SHELL", text(&check["test"])]),
        other => unescaped(other),
    };
    json!({
        "Test": test, "Interval": time(&check["interval"]), "Timeout": time(&check["timeout"]),
        "StartPeriod": time(&check["start_period"]), "StartInterval": time(&check["start_interval"]),
        "Retries": check["retries"].as_u64().or_else(|| check["retries"].as_str()?.parse().ok()),
    })
}

fn mount_text(kind: &str, source: &str, target: &str, read_only: &Value) -> String {
    format!("{kind} {source} {target} {}", read_only.as_bool() == Some(true))
}

fn current_mounts(current: &Value) -> Value {
    let all = current.as_array().into_iter().flatten();
    sorted(
        all.map(|m| mount_text(&text(&m["Type"]), &text(&m["Source"]), &text(&m["Target"]), &m["ReadOnly"])),
    )
}

fn resources(section: &Value) -> Value {
    let cpus = section["cpus"].as_str().and_then(|c| c.parse::<f64>().ok()).or(section["cpus"].as_f64());
    json!({
        "NanoCPUs": cpus.map(|cpus| (cpus * 1e9).round() as u64),
        "MemoryBytes": bytes(&section["memory"]),
        "Pids": section["pids"].as_u64(),
    })
}

/// `50m` and the like: powers of 1024 (docker/go-units `RAMInBytes`).
fn bytes(value: &Value) -> Option<u64> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_lowercase);
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let power = "bkmgtp".find(unit.trim().chars().next().unwrap_or('b'))?;
    Some((number.parse::<f64>().ok()? * 1024f64.powi(power as i32)) as u64)
}

fn desired_placement(section: &Value) -> Value {
    let spread = section["preferences"].as_array().into_iter().flatten().map(|p| text(&p["spread"]));
    let most = section["max_replicas_per_node"].as_u64();
    json!({ "constraints": set(&section["constraints"]), "spread": spread.collect::<Vec<_>>(), "most": most })
}

fn current_placement(section: &Value) -> Value {
    let spread = section["Preferences"].as_array().into_iter().flatten();
    let spread: Vec<String> = spread.map(|p| text(&p["Spread"]["SpreadDescriptor"])).collect();
    json!({ "constraints": set(&section["Constraints"]), "spread": spread, "most": section["MaxReplicas"] })
}

fn desired_restart(section: &Value) -> Value {
    json!({
        "condition": text_or(&section["condition"], "any"), "delay": value_or(time(&section["delay"]), 5_000_000_000),
        "attempts": section["max_attempts"].as_u64(), "window": time(&section["window"]),
    })
}

fn current_restart(section: &Value) -> Value {
    json!({
        "condition": text_or(&section["Condition"], "any"), "delay": value_or(section["Delay"].clone(), 5_000_000_000),
        "attempts": section["MaxAttempts"], "window": section["Window"],
    })
}

fn logging(section: &Value) -> Value {
    json!({ "Name": section["driver"], "Options": map(&section["options"]) })
}

fn desired_ports(all: &Value) -> Value {
    let number = |v: &Value| v.as_u64().or_else(|| v.as_str()?.parse().ok()).unwrap_or(0);
    let words = |p: &Value| {
        let (mode, protocol) = (text_or(&p["mode"], "ingress"), text_or(&p["protocol"], "tcp"));
        format!("{}:{}/{} {}", number(&p["published"]), number(&p["target"]), text(&protocol), text(&mode))
    };
    sorted(all.as_array().into_iter().flatten().map(words))
}

fn current_ports(all: &Value) -> Value {
    let number = |v: &Value| v.as_u64().unwrap_or(0);
    let words = |p: &Value| {
        let (mode, protocol) = (text_or(&p["PublishMode"], "ingress"), text_or(&p["Protocol"], "tcp"));
        format!(
            "{}:{}/{} {}",
            number(&p["PublishedPort"]),
            number(&p["TargetPort"]),
            text(&protocol),
            text(&mode)
        )
    };
    sorted(all.as_array().into_iter().flatten().map(words))
}

/// `update_config` of the file, with the defaults of Swarm.
fn desired_update(section: &Value) -> Value {
    let ratio =
        section["max_failure_ratio"].as_f64().or_else(|| section["max_failure_ratio"].as_str()?.parse().ok());
    json!([
        section["parallelism"].as_u64().unwrap_or(1),
        value_or(time(&section["delay"]), 0),
        text_or(&section["failure_action"], "pause"),
        value_or(time(&section["monitor"]), 5_000_000_000),
        ratio.unwrap_or(0.0),
        text_or(&section["order"], "stop-first"),
    ])
}

/// `UpdateConfig` of a spec, with the defaults of Swarm; an absent parallelism means 0 in an existing `UpdateConfig`.
fn current_update(section: &Value) -> Value {
    json!([
        section["Parallelism"].as_u64().unwrap_or(if section.is_object() { 0 } else { 1 }),
        value_or(section["Delay"].clone(), 0),
        text_or(&section["FailureAction"], "pause"),
        value_or(section["Monitor"].clone(), 5_000_000_000),
        section["MaxFailureRatio"].as_f64().unwrap_or(0.0),
        text_or(&section["Order"], "stop-first"),
    ])
}

#[cfg(test)]
mod tests;
