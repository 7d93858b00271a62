//! The changes that a deploy will make to a service of a stack, in words: its part of the stack's file, converted as
//! `docker stack deploy` converts it (docker/cli `cli/compose/convert`), is compared with the spec that Swarm has. Pure;
//! values of variables are never shown.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::observed::{StackService, plain};
use super::stack_file::is_void;

/// A service of a stack file, and what its names stand for.
pub struct ServiceDiff<'a> {
    pub stack: &'a str,
    pub file: &'a Value,
    pub service: &'a str,
    /// As the project names the image.
    pub image: &'a str,
    /// Names of networks by their ids.
    pub networks: &'a BTreeMap<String, String>,
}

/// A property: its name for people, as the file asks for it, and as Swarm has it.
type PropertyDiff = (&'static str, Value, Value);

impl ServiceDiff<'_> {
    fn wanted(&self) -> &Value {
        &self.file["services"][self.service]
    }

    /// `now` is the service as Swarm has it.
    pub fn words(&self, now: Option<&StackService>) -> String {
        let deploy = &self.wanted()["deploy"];
        let replicas = deploy["replicas"].as_u64().unwrap_or(1);
        let mode = deploy["mode"].as_str().unwrap_or("replicated");
        let Some(service) = now else {
            return match mode {
                "replicated" => format!("create it with {replicas} of {}", self.image),
                mode => format!("create it, {mode}, of {}", self.image),
            };
        };
        if service.spec.is_job() {
            return format!("run it once more, of {}", self.image);
        }
        let spec = service.spec.value();
        let mut replaced = self.image_change(spec);
        replaced.extend(self.environment_change(service));
        replaced.extend(different(self.task_rows(spec)));
        let kept = different(self.service_rows(spec));
        let scaled = service.spec.replicas().filter(|n| *n != replicas);
        let all = [
            (!replaced.is_empty()).then(|| format!("replace its tasks: {}", replaced.join("; "))),
            scaled.map(|n| format!("go from {n} to {replicas} tasks")),
            (!kept.is_empty()).then(|| format!("change without replacing a task: {}", kept.join(", "))),
        ];
        let all: Vec<String> = all.into_iter().flatten().collect();
        if all.is_empty() { "nothing changes".into() } else { all.join(", and ") }
    }

    /// The flags of `docker service update` that make the service what the file asks for.
    ///
    /// # Errors
    /// Names of changes that have no flag here; the values of variables would be seen in the list of processes.
    pub fn flags(&self, now: &StackService) -> Result<Vec<String>, Vec<String>> {
        let (spec, deploy) = (now.spec.value(), &self.wanted()["deploy"]);
        let kept = different(self.service_rows(spec));
        let has_networks = spec["TaskTemplate"]["Networks"].is_array();
        let mut others = different(self.task_rows(spec));
        others.extend(kept.iter().filter(|name| !name.ends_with("_config")).cloned());
        others.extend(self.environment_change(now));
        // Compose gives every service a network; one that has none in Swarm keeps none.
        others.retain(|name| name != "networks" || has_networks);
        if !others.is_empty() {
            return Err(others);
        }
        let mut flags = Vec::new();
        if !self.image_change(spec).is_empty() {
            flags.push(format!("--image={}", text(&self.wanted()["image"])));
        }
        let replicas =
            deploy["replicas"].as_u64().filter(|n| now.spec.replicas().is_some_and(|now| now != *n));
        flags.extend(replicas.map(|n| format!("--replicas={n}")));
        for (kind, key) in [("update", "update_config"), ("rollback", "rollback_config")] {
            let part =
                deploy[key].as_object().into_iter().flatten().filter(|_| kept.iter().any(|k| k == key));
            flags.extend(
                part.map(|(key, value)| format!("--{kind}-{}={}", key.replace('_', "-"), text(value))),
            );
        }
        Ok(flags)
    }

    /// Swarm adds the digest that it found.
    fn image_change(&self, spec: &Value) -> Vec<String> {
        let now = text(&spec["TaskTemplate"]["ContainerSpec"]["Image"]);
        let wanted = text(&self.wanted()["image"]);
        let tag = now.split('@').next().unwrap_or_default();
        let same = wanted == now || tag == wanted || tag == format!("{wanted}:latest");
        let short = |image: &str| match image.strip_prefix("sha256:") {
            Some(id) => id.chars().take(12).collect(),
            None => image.to_string(),
        };
        // A tag that was rebuilt has one name for two images.
        let to = match wanted.strip_prefix("sha256:") {
            Some(_) => format!("{} ({})", self.image, short(&wanted)),
            None => wanted.clone(),
        };
        if same { Vec::new() } else { vec![format!("image {} → {to}", short(tag))] }
    }

    fn environment_change(&self, service: &StackService) -> Option<String> {
        let now = service.spec.environment();
        let pairs = self.wanted()["environment"].as_object().into_iter().flatten();
        let set = pairs.filter(|(_, value)| !value.is_null());
        let wanted: BTreeMap<&str, String> = set.map(|(name, value)| (name.as_str(), text(value))).collect();
        let names: BTreeSet<&str> = wanted.keys().chain(now.keys()).copied().collect();
        let differs = |name: &&str| wanted.get(name).map(String::as_str) != now.get(name).copied();
        let changed: Vec<&str> = names.into_iter().filter(differs).collect();
        (!changed.is_empty()).then(|| format!("environment {}", changed.join(", ")))
    }

    /// Properties whose change replaces every task.
    fn task_rows(&self, spec: &Value) -> Vec<PropertyDiff> {
        let (wanted, task) = (self.wanted(), &spec["TaskTemplate"]);
        let (deploy, now) = (&wanted["deploy"], &task["ContainerSpec"]);
        let plain = |key: &str| undoubled(&wanted[key]);
        vec![
            ("command", plain("command"), now["Args"].clone()),
            ("entrypoint", plain("entrypoint"), now["Command"].clone()),
            ("health check", health_check(&wanted["healthcheck"]), now["Healthcheck"].clone()),
            ("user", plain("user"), now["User"].clone()),
            ("working_dir", plain("working_dir"), now["Dir"].clone()),
            ("hostname", plain("hostname"), now["Hostname"].clone()),
            ("tty", plain("tty"), now["TTY"].clone()),
            ("stdin_open", plain("stdin_open"), now["OpenStdin"].clone()),
            ("read_only", plain("read_only"), now["ReadOnly"].clone()),
            ("init", plain("init"), now["Init"].clone()),
            ("stop_signal", plain("stop_signal"), now["StopSignal"].clone()),
            (
                "stop_grace_period",
                or_default(time(&wanted["stop_grace_period"]), 10_000_000_000),
                or_default(now["StopGracePeriod"].clone(), 10_000_000_000),
            ),
            ("labels", map(&wanted["labels"]), own_labels(&now["Labels"])),
            ("dns", set(&wanted["dns"]), set(&now["DNSConfig"]["Nameservers"])),
            ("dns_search", set(&wanted["dns_search"]), set(&now["DNSConfig"]["Search"])),
            ("cap_add", capabilities(&wanted["cap_add"]), capabilities(&now["CapabilityAdd"])),
            ("cap_drop", capabilities(&wanted["cap_drop"]), capabilities(&now["CapabilityDrop"])),
            ("sysctls", map(&wanted["sysctls"]), map(&now["Sysctls"])),
            ("configs", self.objects("configs"), names(&now["Configs"], "ConfigName")),
            ("secrets", self.objects("secrets"), names(&now["Secrets"], "SecretName")),
            ("volumes", self.mounts(), mounts(&now["Mounts"])),
            ("networks", self.networks_wanted(), self.networks_now(&task["Networks"])),
            ("limits", resources(&deploy["resources"]["limits"]), task["Resources"]["Limits"].clone()),
            (
                "reservations",
                resources(&deploy["resources"]["reservations"]),
                task["Resources"]["Reservations"].clone(),
            ),
            ("placement", placement(&deploy["placement"]), placement_now(&task["Placement"])),
            ("restart_policy", restart(&deploy["restart_policy"]), restart_now(&task["RestartPolicy"])),
            ("logging", logging(&wanted["logging"]), task["LogDriver"].clone()),
            ("ports", ports(&wanted["ports"]), ports_now(&spec["EndpointSpec"]["Ports"])),
            (
                "endpoint_mode",
                or_text(&deploy["endpoint_mode"], "vip"),
                or_text(&spec["EndpointSpec"]["Mode"], "vip"),
            ),
        ]
    }

    /// Properties that Swarm changes while the tasks run on.
    fn service_rows(&self, spec: &Value) -> Vec<PropertyDiff> {
        let deploy = &self.wanted()["deploy"];
        vec![
            ("deploy.labels", map(&deploy["labels"]), own_labels(&spec["Labels"])),
            ("update_config", update(&deploy["update_config"]), update_now(&spec["UpdateConfig"])),
            ("rollback_config", update(&deploy["rollback_config"]), update_now(&spec["RollbackConfig"])),
        ]
    }

    /// Names of the configs or secrets that it is granted.
    fn objects(&self, kind: &str) -> Value {
        let granted = self.wanted()[kind].as_array().into_iter().flatten();
        let keys = granted.filter_map(|g| g["source"].as_str().or(g.as_str()));
        sorted(keys.map(|key| self.full_name(kind, key)))
    }

    fn full_name(&self, kind: &str, key: &str) -> String {
        let own = self.file[kind][key]["name"].as_str().map(String::from);
        let is_external = self.file[kind][key]["external"].as_bool() == Some(true);
        own.unwrap_or_else(|| if is_external { key.into() } else { format!("{}_{key}", self.stack) })
    }

    fn mounts(&self) -> Value {
        let volumes = self.wanted()["volumes"].as_array().into_iter().flatten().map(|mount| {
            let kind = text(&mount["type"]);
            let source = match (kind.as_str(), mount["source"].as_str()) {
                ("volume", Some(source)) => self.full_name("volumes", source),
                (_, source) => source.unwrap_or_default().into(),
            };
            mount_words(&kind, &source, &text(&mount["target"]), &mount["read_only"])
        });
        let tmpfs = match &self.wanted()["tmpfs"] {
            Value::Array(all) => all.iter().map(text).collect(),
            Value::String(one) => vec![one.clone()],
            _ => Vec::new(),
        };
        let path = |place: &String| place.split(':').next().unwrap_or_default().to_string();
        let tmpfs: Vec<String> = tmpfs.iter().map(path).collect();
        sorted(volumes.chain(tmpfs.iter().map(|target| mount_words("tmpfs", "", target, &Value::Null))))
    }

    /// A service without networks is in the stack's own.
    fn networks_wanted(&self) -> Value {
        let keys: Vec<String> = match &self.wanted()["networks"] {
            Value::Object(all) if !all.is_empty() => all.keys().cloned().collect(),
            Value::Array(all) if !all.is_empty() => all.iter().map(text).collect(),
            _ => vec!["default".into()],
        };
        sorted(keys.iter().map(|key| self.full_name("networks", key)))
    }

    fn networks_now(&self, attached: &Value) -> Value {
        let ids = attached.as_array().into_iter().flatten().map(|n| text(&n["Target"]));
        sorted(ids.map(|id| self.networks.get(&id).cloned().unwrap_or(id)))
    }
}

fn different(rows: Vec<PropertyDiff>) -> Vec<String> {
    let differs = |(_, wanted, now): &PropertyDiff| {
        plain(wanted) != plain(now) && !(is_void(&plain(wanted)) && is_void(&plain(now)))
    };
    rows.into_iter().filter(differs).map(|(name, ..)| name.to_string()).collect()
}

/// A dollar of the file is doubled.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.replace("$$", "$"),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn undoubled(value: &Value) -> Value {
    match value {
        Value::String(_) => text(value).into(),
        Value::Array(items) => items.iter().map(undoubled).collect(),
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

/// Without what `docker stack deploy` adds.
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

/// In nanoseconds.
fn time(value: &Value) -> Value {
    let parsed = value.as_str().and_then(|text| humantime::parse_duration(text).ok());
    parsed.map_or(Value::Null, |time| Value::from(time.as_nanos() as u64))
}

fn or_default(value: Value, default: u64) -> Value {
    if value.is_null() { default.into() } else { value }
}

fn or_text(value: &Value, default: &str) -> Value {
    value.as_str().unwrap_or(default).into()
}

fn health_check(check: &Value) -> Value {
    if check["disable"].as_bool() == Some(true) {
        return json!({ "Test": ["NONE"] });
    }
    let test = match &check["test"] {
        Value::String(_) => json!(["CMD-SHELL", text(&check["test"])]),
        other => undoubled(other),
    };
    json!({
        "Test": test, "Interval": time(&check["interval"]), "Timeout": time(&check["timeout"]),
        "StartPeriod": time(&check["start_period"]), "StartInterval": time(&check["start_interval"]),
        "Retries": check["retries"].as_u64().or_else(|| check["retries"].as_str()?.parse().ok()),
    })
}

fn mount_words(kind: &str, source: &str, target: &str, read_only: &Value) -> String {
    format!("{kind} {source} {target} {}", read_only.as_bool() == Some(true))
}

fn mounts(now: &Value) -> Value {
    let all = now.as_array().into_iter().flatten();
    sorted(
        all.map(|m| mount_words(&text(&m["Type"]), &text(&m["Source"]), &text(&m["Target"]), &m["ReadOnly"])),
    )
}

fn resources(part: &Value) -> Value {
    let cpus = part["cpus"].as_str().and_then(|c| c.parse::<f64>().ok()).or(part["cpus"].as_f64());
    json!({
        "NanoCPUs": cpus.map(|cpus| (cpus * 1e9).round() as u64),
        "MemoryBytes": bytes(&part["memory"]),
        "Pids": part["pids"].as_u64(),
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

fn placement(part: &Value) -> Value {
    let spread = part["preferences"].as_array().into_iter().flatten().map(|p| text(&p["spread"]));
    let most = part["max_replicas_per_node"].as_u64();
    json!({ "constraints": set(&part["constraints"]), "spread": spread.collect::<Vec<_>>(), "most": most })
}

fn placement_now(part: &Value) -> Value {
    let spread = part["Preferences"].as_array().into_iter().flatten();
    let spread: Vec<String> = spread.map(|p| text(&p["Spread"]["SpreadDescriptor"])).collect();
    json!({ "constraints": set(&part["Constraints"]), "spread": spread, "most": part["MaxReplicas"] })
}

fn restart(part: &Value) -> Value {
    json!({
        "condition": or_text(&part["condition"], "any"), "delay": or_default(time(&part["delay"]), 5_000_000_000),
        "attempts": part["max_attempts"].as_u64(), "window": time(&part["window"]),
    })
}

fn restart_now(part: &Value) -> Value {
    json!({
        "condition": or_text(&part["Condition"], "any"), "delay": or_default(part["Delay"].clone(), 5_000_000_000),
        "attempts": part["MaxAttempts"], "window": part["Window"],
    })
}

fn logging(part: &Value) -> Value {
    json!({ "Name": part["driver"], "Options": map(&part["options"]) })
}

fn ports(all: &Value) -> Value {
    let number = |v: &Value| v.as_u64().or_else(|| v.as_str()?.parse().ok()).unwrap_or(0);
    let words = |p: &Value| {
        let (mode, protocol) = (or_text(&p["mode"], "ingress"), or_text(&p["protocol"], "tcp"));
        format!("{}:{}/{} {}", number(&p["published"]), number(&p["target"]), text(&protocol), text(&mode))
    };
    sorted(all.as_array().into_iter().flatten().map(words))
}

fn ports_now(all: &Value) -> Value {
    let number = |v: &Value| v.as_u64().unwrap_or(0);
    let words = |p: &Value| {
        let (mode, protocol) = (or_text(&p["PublishMode"], "ingress"), or_text(&p["Protocol"], "tcp"));
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

/// What is not said is Swarm's default.
fn update(part: &Value) -> Value {
    let ratio =
        part["max_failure_ratio"].as_f64().or_else(|| part["max_failure_ratio"].as_str()?.parse().ok());
    json!([
        part["parallelism"].as_u64().unwrap_or(1),
        or_default(time(&part["delay"]), 0),
        or_text(&part["failure_action"], "pause"),
        or_default(time(&part["monitor"]), 5_000_000_000),
        ratio.unwrap_or(0.0),
        or_text(&part["order"], "stop-first"),
    ])
}

/// Without any of it, where Swarm has its defaults; a parallelism of 0 is not one of them.
fn update_now(part: &Value) -> Value {
    json!([
        part["Parallelism"].as_u64().unwrap_or(if part.is_object() { 0 } else { 1 }),
        or_default(part["Delay"].clone(), 0),
        or_text(&part["FailureAction"], "pause"),
        or_default(part["Monitor"].clone(), 5_000_000_000),
        part["MaxFailureRatio"].as_f64().unwrap_or(0.0),
        or_text(&part["Order"], "stop-first"),
    ])
}

#[cfg(test)]
mod tests;
