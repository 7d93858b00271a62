//! Properties of a service: where a Compose file and the spec of a service have each, as `docker stack deploy` converts them
//! (docker/cli `cli/compose/convert`). Defines a service by its spec, and compares two definitions. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::observed::{Mode, ServiceSpec, items, without_defaults};
use super::stack_file::is_empty;

/// Form of a value: how a file writes the value of a spec, and how the values of two files compare.
#[derive(Clone, Copy)]
enum Form {
    Plain,
    /// Text with this default.
    Word(&'static str),
    /// Number with this default.
    Number(f64),
    /// A spec has none for 0; the default of a file is 1.
    Parallelism,
    /// Duration with this default, in nanoseconds.
    Time(u64),
    Cpus,
    Bytes,
    Set,
    Capabilities,
    Map,
    /// A map, without the labels that `docker stack deploy` adds.
    Labels,
    HealthTest,
    Spread,
    /// Configs or secrets: the key of their name in a spec.
    Objects(&'static str),
    Mounts,
    Networks,
    Ports,
}
use Form::*;

const SECOND: u64 = 1_000_000_000;

/// Place of each property in a file, its place in a spec, and its form.
const PROPERTIES: [(&str, &str, Form); 56] = [
    ("command", "TaskTemplate/ContainerSpec/Args", Plain),
    ("entrypoint", "TaskTemplate/ContainerSpec/Command", Plain),
    ("healthcheck/test", "TaskTemplate/ContainerSpec/Healthcheck/Test", HealthTest),
    ("healthcheck/interval", "TaskTemplate/ContainerSpec/Healthcheck/Interval", Time(0)),
    ("healthcheck/timeout", "TaskTemplate/ContainerSpec/Healthcheck/Timeout", Time(0)),
    ("healthcheck/start_period", "TaskTemplate/ContainerSpec/Healthcheck/StartPeriod", Time(0)),
    ("healthcheck/start_interval", "TaskTemplate/ContainerSpec/Healthcheck/StartInterval", Time(0)),
    ("healthcheck/retries", "TaskTemplate/ContainerSpec/Healthcheck/Retries", Number(0.0)),
    ("user", "TaskTemplate/ContainerSpec/User", Plain),
    ("working_dir", "TaskTemplate/ContainerSpec/Dir", Plain),
    ("hostname", "TaskTemplate/ContainerSpec/Hostname", Plain),
    ("tty", "TaskTemplate/ContainerSpec/TTY", Plain),
    ("stdin_open", "TaskTemplate/ContainerSpec/OpenStdin", Plain),
    ("read_only", "TaskTemplate/ContainerSpec/ReadOnly", Plain),
    ("init", "TaskTemplate/ContainerSpec/Init", Plain),
    ("stop_signal", "TaskTemplate/ContainerSpec/StopSignal", Plain),
    ("stop_grace_period", "TaskTemplate/ContainerSpec/StopGracePeriod", Time(10 * SECOND)),
    ("labels", "TaskTemplate/ContainerSpec/Labels", Labels),
    ("dns", "TaskTemplate/ContainerSpec/DNSConfig/Nameservers", Set),
    ("dns_search", "TaskTemplate/ContainerSpec/DNSConfig/Search", Set),
    ("cap_add", "TaskTemplate/ContainerSpec/CapabilityAdd", Capabilities),
    ("cap_drop", "TaskTemplate/ContainerSpec/CapabilityDrop", Capabilities),
    ("sysctls", "TaskTemplate/ContainerSpec/Sysctls", Map),
    ("configs", "TaskTemplate/ContainerSpec/Configs", Objects("ConfigName")),
    ("secrets", "TaskTemplate/ContainerSpec/Secrets", Objects("SecretName")),
    ("volumes", "TaskTemplate/ContainerSpec/Mounts", Mounts),
    ("networks", "TaskTemplate/Networks", Networks),
    ("deploy/resources/limits/cpus", "TaskTemplate/Resources/Limits/NanoCPUs", Cpus),
    ("deploy/resources/limits/memory", "TaskTemplate/Resources/Limits/MemoryBytes", Bytes),
    ("deploy/resources/limits/pids", "TaskTemplate/Resources/Limits/Pids", Number(0.0)),
    ("deploy/resources/reservations/cpus", "TaskTemplate/Resources/Reservations/NanoCPUs", Cpus),
    ("deploy/resources/reservations/memory", "TaskTemplate/Resources/Reservations/MemoryBytes", Bytes),
    ("deploy/placement/constraints", "TaskTemplate/Placement/Constraints", Set),
    ("deploy/placement/preferences", "TaskTemplate/Placement/Preferences", Spread),
    ("deploy/placement/max_replicas_per_node", "TaskTemplate/Placement/MaxReplicas", Number(0.0)),
    ("deploy/restart_policy/condition", "TaskTemplate/RestartPolicy/Condition", Word("any")),
    ("deploy/restart_policy/delay", "TaskTemplate/RestartPolicy/Delay", Time(5 * SECOND)),
    ("deploy/restart_policy/max_attempts", "TaskTemplate/RestartPolicy/MaxAttempts", Number(0.0)),
    ("deploy/restart_policy/window", "TaskTemplate/RestartPolicy/Window", Time(0)),
    ("logging/driver", "TaskTemplate/LogDriver/Name", Plain),
    ("logging/options", "TaskTemplate/LogDriver/Options", Map),
    ("ports", "EndpointSpec/Ports", Ports),
    ("deploy/endpoint_mode", "EndpointSpec/Mode", Word("vip")),
    ("deploy/labels", "Labels", Labels),
    ("deploy/update_config/parallelism", "UpdateConfig/Parallelism", Parallelism),
    ("deploy/update_config/delay", "UpdateConfig/Delay", Time(0)),
    ("deploy/update_config/failure_action", "UpdateConfig/FailureAction", Word("pause")),
    ("deploy/update_config/monitor", "UpdateConfig/Monitor", Time(5 * SECOND)),
    ("deploy/update_config/max_failure_ratio", "UpdateConfig/MaxFailureRatio", Number(0.0)),
    ("deploy/update_config/order", "UpdateConfig/Order", Word("stop-first")),
    ("deploy/rollback_config/parallelism", "RollbackConfig/Parallelism", Parallelism),
    ("deploy/rollback_config/delay", "RollbackConfig/Delay", Time(0)),
    ("deploy/rollback_config/failure_action", "RollbackConfig/FailureAction", Word("pause")),
    ("deploy/rollback_config/monitor", "RollbackConfig/Monitor", Time(5 * SECOND)),
    ("deploy/rollback_config/max_failure_ratio", "RollbackConfig/MaxFailureRatio", Number(0.0)),
    ("deploy/rollback_config/order", "RollbackConfig/Order", Word("stop-first")),
];

/// Keys of `deploy` that Swarm changes without replacing tasks.
const CHANGED_IN_PLACE: [&str; 3] = ["deploy.labels", "update_config", "rollback_config"];

/// Names of the properties in which two definitions differ.
#[derive(Debug, Default)]
pub struct Differences {
    /// Their change replaces every task.
    pub replacing: Vec<&'static str>,
    /// Swarm changes them without replacing tasks.
    pub in_place: Vec<&'static str>,
}

impl Differences {
    pub fn between(desired: &Value, current: &Value) -> Differences {
        let differs = |(place, _, form): &&(&str, &str, Form)| {
            form.comparable(at(desired, place)) != form.comparable(at(current, place))
        };
        let mut names: Vec<&str> = PROPERTIES.iter().filter(differs).map(|(place, ..)| name(place)).collect();
        names.dedup();
        let (in_place, replacing) = names.into_iter().partition(|name| CHANGED_IN_PLACE.contains(name));
        Differences { replacing, in_place }
    }
}

/// Name of a property in messages.
fn name(place: &'static str) -> &'static str {
    let place = place.trim_start_matches("deploy/resources/");
    match place.trim_start_matches("deploy/").split('/').next() {
        _ if place == "deploy/labels" => "deploy.labels",
        Some("healthcheck") => "health check",
        name => name.unwrap_or(place),
    }
}

/// Definition of a service by its spec, without empty values. `networks` has names by id.
pub fn definition(spec: &ServiceSpec, networks: &BTreeMap<String, String>) -> Value {
    let image = spec.image().split('@').next();
    let mut service = json!({ "image": image });
    set(&mut service, "environment", at(spec.value(), "TaskTemplate/ContainerSpec/Env").clone());
    for (place, source, form) in PROPERTIES {
        let (section, key) = source.rsplit_once('/').unwrap_or(("", source));
        let section = at(spec.value(), section);
        if section.is_object() {
            set(&mut service, place, form.in_file(&section[key], networks));
        }
    }
    let (mode, tasks) = match spec.mode {
        Mode::Replicated(tasks) => (None, Some(tasks)),
        Mode::Global => (Some("global"), None),
        Mode::ReplicatedJob(tasks) => (Some("replicated-job"), Some(tasks)),
        Mode::GlobalJob => (Some("global-job"), None),
    };
    set(&mut service, "deploy/mode", mode.into());
    set(&mut service, "deploy/replicas", tasks.into());
    serde_json::from_str(&service.to_string().replace('$', "$$")).unwrap_or_default()
}

fn at<'v>(object: &'v Value, place: &str) -> &'v Value {
    place.split_terminator('/').fold(object, |inside, key| &inside[key])
}

fn set(object: &mut Value, place: &str, value: Value) {
    if !is_empty(&value) {
        *place.split('/').fold(object, |inside, key| &mut inside[key]) = value;
    }
}

impl Form {
    /// Value of a spec as a file writes it.
    fn in_file(self, value: &Value, networks: &BTreeMap<String, String>) -> Value {
        match self {
            Word("vip") if value == "vip" => Value::Null,
            Time(_) => value.as_u64().map(|nanoseconds| format!("{nanoseconds}ns")).into(),
            Parallelism => value.as_u64().unwrap_or(0).into(),
            Cpus => value.as_f64().map(|nano| (nano / 1e9).to_string()).into(),
            Bytes => value.as_u64().map(|bytes| bytes.to_string()).into(),
            Labels => {
                let labels = value.as_object().cloned().unwrap_or_default().into_iter();
                labels.filter(|(name, _)| !name.starts_with("com.docker.stack.")).collect()
            }
            Spread => items(value).map(|p| json!({ "spread": p["Spread"]["SpreadDescriptor"] })).collect(),
            Objects(name) => {
                items(value).map(|o| json!({ "source": o[name], "target": o["File"]["Name"] })).collect()
            }
            Mounts => {
                let keys =
                    [("type", "Type"), ("source", "Source"), ("target", "Target"), ("read_only", "ReadOnly")];
                items(value).map(|mount| renamed(mount, keys)).collect()
            }
            Ports => {
                let published = [("published", "PublishedPort"), ("mode", "PublishMode")];
                let keys = [("target", "TargetPort"), ("protocol", "Protocol"), published[0], published[1]];
                items(value).map(|port| renamed(port, keys)).collect()
            }
            Networks => {
                let ids = items(value).filter_map(|network| network["Target"].as_str());
                ids.map(|id| networks.get(id).map_or(id, String::as_str)).collect()
            }
            _ => value.clone(),
        }
    }

    /// Value of a file in a form in which equal settings are equal.
    fn comparable(self, value: &Value) -> Value {
        let comparable = match self {
            Plain => unescaped(value),
            Word(default) => value.as_str().unwrap_or(default).into(),
            Number(default) => number(value).unwrap_or(default).into(),
            Parallelism => number(value).unwrap_or(1.0).into(),
            Time(default) => time(value).unwrap_or(default).into(),
            Cpus => (number(value).unwrap_or(0.0) * 1e9).round().into(),
            Bytes => bytes(value).unwrap_or(0).into(),
            Map | Labels => map(value),
            Set | Networks => sorted(strings(value).into_iter()),
            Capabilities => {
                let names = strings(value).into_iter().map(|name| name.to_uppercase());
                sorted(names.map(|name| name.trim_start_matches("CAP_").to_string()))
            }
            HealthTest if value.is_string() => json!(["CMD-SHELL", text(value)]),
            HealthTest => unescaped(value),
            Spread => items(value).map(|preference| text(&preference["spread"])).collect(),
            Objects(_) => sorted(items(value).map(|object| text(&object["source"]))),
            Mounts => sorted(items(value).map(|mount| {
                let [kind, source, target] = ["type", "source", "target"].map(|key| text(&mount[key]));
                format!("{kind} {source} {target} {}", mount["read_only"] == true)
            })),
            Ports => sorted(items(value).map(|port| {
                let [published, target] =
                    ["published", "target"].map(|key| number(&port[key]).unwrap_or(0.0));
                let (mode, protocol) = (port["mode"].as_str(), port["protocol"].as_str());
                let (mode, protocol) = (mode.unwrap_or("ingress"), protocol.unwrap_or("tcp"));
                format!("{published}:{target}/{protocol} {mode}")
            })),
        };
        let comparable = without_defaults(&comparable);
        if is_empty(&comparable) { Value::Null } else { comparable }
    }
}

fn renamed<const N: usize>(object: &Value, keys: [(&str, &str); N]) -> Value {
    let pairs = keys.into_iter().map(|(key, from)| (key.to_string(), object[from].clone()));
    pairs.filter(|(_, value)| !is_empty(value)).collect()
}

/// Text of a value; `$$` in a file stands for `$`.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.replace("$$", "$"),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// Texts of a list, or of one value.
pub fn strings(value: &Value) -> Vec<String> {
    if value.is_string() { vec![text(value)] } else { items(value).map(text).collect() }
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

fn map(value: &Value) -> Value {
    let pairs = value.as_object().into_iter().flatten();
    pairs.map(|(key, value)| (key.clone(), Value::from(text(value)))).collect()
}

/// Nanoseconds.
fn time(value: &Value) -> Option<u64> {
    Some(humantime::parse_duration(value.as_str()?).ok()?.as_nanos() as u64)
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

/// `50m` and the like: powers of 1024 (docker/go-units `RAMInBytes`).
fn bytes(value: &Value) -> Option<u64> {
    let text = text(value).to_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let power = "bkmgtp".find(unit.trim().chars().next().unwrap_or('b'))?;
    Some((number.parse::<f64>().ok()? * 1024f64.powi(power as i32)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_docker_reads_them() {
        assert_eq!(bytes(&json!("50m")), Some(50 << 20));
        assert_eq!(bytes(&json!("52428800")), Some(50 << 20));
        assert_eq!(bytes(&json!("1.5gb")), Some(3 << 29));
        assert_eq!(bytes(&Value::Null), None);
    }
}
