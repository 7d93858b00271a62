//! Observed state of a stack: its services with their current and previous specs, and their tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::convergence::MONITOR;
use crate::docker::types::{RawService, RawTask, UpdateStatus};

/// Spec of a service, without empty values and explicit defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSpec {
    value: Value,
    task: Value,
}

/// One service of a stack.
#[derive(Debug, Clone)]
pub struct StackService {
    pub id: String,
    /// Name in the file.
    pub name: String,
    pub spec: ServiceSpec,
    pub previous: Option<ServiceSpec>,
    pub update: Option<UpdateStatus>,
    /// The service existed before the stack: its name lacks the prefix that `docker stack deploy` gives.
    pub is_imported: bool,
    /// Grows with every change, including those by Swarm itself.
    pub version: u64,
    /// Current or last iteration of a job.
    iteration: Option<u64>,
}

/// One attempt to fill a slot of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub id: String,
    pub service: String,
    /// Number of the slot; for a global service the id of the node.
    pub slot: String,
    pub node: String,
    pub state: String,
    pub desired: String,
    pub error: String,
    pub container: String,
    pub created: String,
    iteration: Option<u64>,
    content: Value,
}

/// Snapshot of a stack.
#[derive(Debug, Clone, Default)]
pub struct ObservedStack {
    pub services: BTreeMap<String, StackService>,
    pub tasks: Vec<Task>,
}

/// Keys of a task's spec whose change replaces the task. A changed `Placement` keeps a task whose node satisfies it
/// (SwarmKit `orchestrator/task.go`).
const CONTENT_KEYS: [&str; 5] = ["ContainerSpec", "Resources", "ForceUpdate", "Networks", "LogDriver"];

impl ServiceSpec {
    pub fn new(raw: &Value) -> ServiceSpec {
        let value = without_defaults(raw);
        ServiceSpec { task: content(&value["TaskTemplate"]), value }
    }

    /// Image reference of the tasks, with the digest if Swarm resolved one.
    pub fn image(&self) -> &str {
        self.value["TaskTemplate"]["ContainerSpec"]["Image"].as_str().unwrap_or_default()
    }

    /// `None` for a global service or a job.
    pub fn replicas(&self) -> Option<u64> {
        let replicated = self.value["Mode"].get("Replicated")?;
        Some(replicated["Replicas"].as_u64().unwrap_or(0))
    }

    /// The service runs a task on every node that meets its constraints.
    pub fn is_global(&self) -> bool {
        ["Global", "GlobalJob"].iter().any(|mode| self.value["Mode"].get(mode).is_some())
    }

    /// Number of tasks of a replicated job that must complete.
    pub fn completions(&self) -> Option<u64> {
        let job = self.value["Mode"].get("ReplicatedJob")?;
        Some(job["TotalCompletions"].as_u64().unwrap_or(1))
    }

    /// Number of times that Swarm restarts a failed task; none is no limit.
    pub fn max_restarts(&self) -> Option<u64> {
        let policy = &self.value["TaskTemplate"]["RestartPolicy"];
        match policy["Condition"].as_str() {
            Some("none") => Some(0),
            _ => policy["MaxAttempts"].as_u64().filter(|n| *n > 0),
        }
    }

    /// The whole spec as JSON.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Names of the configs and secrets.
    pub fn object_names(&self) -> Vec<&str> {
        let names = |key: &str, name: &'static str| {
            let all = self.value["TaskTemplate"]["ContainerSpec"][key].as_array().into_iter().flatten();
            all.filter_map(|o| o[name].as_str()).collect::<Vec<_>>()
        };
        [names("Configs", "ConfigName"), names("Secrets", "SecretName")].concat()
    }

    /// The service runs to completion.
    pub fn is_job(&self) -> bool {
        ["ReplicatedJob", "GlobalJob"].iter().any(|mode| self.value["Mode"].get(mode).is_some())
    }

    /// Environment: values by name.
    pub fn environment(&self) -> BTreeMap<&str, &str> {
        let pairs = self.value["TaskTemplate"]["ContainerSpec"]["Env"].as_array().into_iter().flatten();
        pairs
            .filter_map(|pair| pair.as_str())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .collect()
    }

    /// Duration from the `UpdateConfig`, in nanoseconds; none is the default of Swarm.
    pub fn update_config_nanos(&self, key: &str) -> Option<u64> {
        self.value["UpdateConfig"][key].as_u64()
    }

    /// Time for which Swarm monitors a new task of an update.
    pub fn monitor(&self) -> Duration {
        self.update_config_nanos("Monitor").map_or(MONITOR, Duration::from_nanos)
    }

    /// Updates and rollbacks both start a new task before they stop the old one; Swarm's default is stop-first.
    pub fn starts_first(&self) -> bool {
        let configs = ["UpdateConfig", "RollbackConfig"];
        configs.iter().all(|config| self.value[*config]["Order"] == "start-first")
    }

    /// Stop grace period in nanoseconds; Swarm's default is 10 s.
    pub fn stop_grace_nanos(&self) -> u64 {
        self.value["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"].as_u64().unwrap_or(10_000_000_000)
    }

    /// Both specs run the same tasks, whatever the replicas and update settings.
    pub fn same_tasks(&self, other: &ServiceSpec) -> bool {
        self.task == other.task
    }

    /// Both specs are equal, except for update settings and the count of forced restarts.
    pub fn same_content(&self, other: &ServiceSpec) -> bool {
        self.content() == other.content()
    }

    /// Both specs may be the result of one request: same content, and same count of forced restarts.
    pub fn is_same_request(&self, other: &ServiceSpec) -> bool {
        self.same_tasks(other) && self.same_content(other)
    }

    /// Fingerprint of the content. A hash, because a spec holds secrets.
    pub fn fingerprint(&self) -> String {
        let hash = Sha256::digest(self.content().to_string());
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn content(&self) -> Value {
        let mut task = self.value["TaskTemplate"].clone();
        if let Some(task) = task.as_object_mut() {
            task.remove("ForceUpdate");
        }
        json!({ "task": task, "mode": self.value["Mode"], "endpoint": self.value["EndpointSpec"] })
    }
}

impl Task {
    /// The container is up, and healthy if it has a health check. Swarm reports a task as running only then.
    pub fn runs(&self) -> bool {
        self.state == "running" && self.desired == "running"
    }

    /// The task is meant to run or to complete.
    pub fn is_desired(&self) -> bool {
        ["running", "ready", "complete"].contains(&self.desired.as_str())
    }

    /// The task failed, was rejected, or was lost with its node.
    pub fn has_failed(&self) -> bool {
        ["failed", "rejected", "orphaned"].contains(&self.state.as_str())
    }

    /// The task belongs to the current iteration of a job; true for every task of a service that is no job.
    pub fn in_current_iteration(&self, service: &StackService) -> bool {
        service.iteration.is_none() || self.iteration == service.iteration
    }

    /// The task completed in the current iteration of a job.
    pub fn completed(&self, service: &StackService) -> bool {
        self.state == "complete" && self.in_current_iteration(service)
    }

    /// The image may still be downloading.
    pub fn is_preparing(&self) -> bool {
        ["assigned", "accepted", "preparing"].contains(&self.state.as_str())
    }

    /// Image reference of the task.
    pub fn image(&self) -> &str {
        self.content["ContainerSpec"]["Image"].as_str().unwrap_or_default()
    }

    /// The task runs this spec.
    pub fn runs_spec(&self, spec: &ServiceSpec) -> bool {
        self.content == spec.task
    }

    /// `app.3`; for a global service `app`.
    pub fn name(&self) -> String {
        match self.slot.parse::<u64>() {
            Ok(slot) => format!("{}.{slot}", self.service),
            Err(_) => self.service.clone(),
        }
    }
}

impl ObservedStack {
    /// Snapshot from separate queries; leaves out tasks of services outside the stack.
    pub fn new(
        stack: &str,
        services: Vec<RawService>,
        tasks: Vec<RawTask>,
        nodes: &BTreeMap<String, String>,
    ) -> ObservedStack {
        let services: BTreeMap<String, StackService> = services
            .into_iter()
            .map(|raw| StackService::new(stack, raw))
            .map(|service| (service.name.clone(), service))
            .collect();
        let by_id: BTreeMap<&str, &str> =
            services.values().map(|s| (s.id.as_str(), s.name.as_str())).collect();
        let mut tasks: Vec<Task> = tasks
            .into_iter()
            .filter_map(|raw| Some(Task::new(by_id.get(raw.service_id.as_str())?, raw, nodes)))
            .collect();
        tasks.sort_by(|a, b| (&a.service, &a.slot, &a.created).cmp(&(&b.service, &b.slot, &b.created)));
        ObservedStack { services, tasks }
    }

    pub fn tasks_of<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Task> {
        self.tasks.iter().filter(move |task| task.service == service)
    }

    /// Number of slots of a service that run the current spec; for a job, slots that completed in this iteration.
    pub fn current_tasks(&self, service: &StackService) -> usize {
        let is_current = |t: &&Task| {
            if service.spec.is_job() { t.completed(service) } else { t.runs() && t.runs_spec(&service.spec) }
        };
        count_slots(self.tasks_of(&service.name).filter(is_current))
    }

    /// Number of slots of a service that run any spec. A slot whose node was lost may hold two tasks.
    pub fn running_tasks(&self, service: &str) -> usize {
        count_slots(self.tasks_of(service).filter(|t| t.runs()))
    }

    /// Desired number of tasks: replicas or completions; for a global service the tasks that Swarm wants.
    pub fn desired_tasks(&self, service: &StackService) -> usize {
        match service.spec.replicas().or(service.spec.completions()) {
            Some(number) => number as usize,
            None => count_slots(
                self.tasks_of(&service.name).filter(|t| t.is_desired() && t.in_current_iteration(service)),
            ),
        }
    }
}

fn count_slots<'t>(tasks: impl Iterator<Item = &'t Task>) -> usize {
    tasks.map(|task| &task.slot).collect::<BTreeSet<_>>().len()
}

impl StackService {
    fn new(stack: &str, raw: RawService) -> StackService {
        let full = raw.spec["Name"].as_str().unwrap_or_default().to_string();
        let name = full.strip_prefix(stack).and_then(|n| n.strip_prefix('_')).unwrap_or(&full).to_string();
        StackService {
            id: raw.id,
            is_imported: name == full,
            name,
            spec: ServiceSpec::new(&raw.spec),
            previous: raw.previous_spec.as_ref().map(ServiceSpec::new),
            update: raw.update_status.filter(|status| !status.state.is_empty()),
            version: raw.version.index,
            iteration: raw.job_status.map(|job| job.job_iteration.index),
        }
    }

    /// State of the update; empty if there is none.
    pub fn update_state(&self) -> &str {
        self.update.as_ref().map_or("", |status| &status.state)
    }
}

impl Task {
    fn new(service: &str, raw: RawTask, nodes: &BTreeMap<String, String>) -> Task {
        let slot = if raw.slot == 0 { raw.node_id.clone() } else { raw.slot.to_string() };
        Task {
            id: raw.id,
            service: service.into(),
            slot,
            node: nodes.get(&raw.node_id).cloned().unwrap_or_default(),
            state: raw.status.state,
            desired: raw.desired_state,
            error: raw.status.err,
            container: raw.status.container_status.container_id,
            created: raw.created_at,
            iteration: raw.job_iteration.map(|iteration| iteration.index),
            content: content(&without_defaults(&raw.spec)),
        }
    }
}

fn content(task: &Value) -> Value {
    let parts = CONTENT_KEYS.iter().filter_map(|key| Some(((*key).to_string(), task.get(*key)?.clone())));
    Value::Object(parts.collect::<Map<_, _>>())
}

/// Removes empty values and explicit defaults, because Swarm returns them in one place and leaves them out in another.
pub fn without_defaults(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().map(|(key, value)| (key.clone(), without_defaults(value)));
            Value::Object(kept.filter(|(key, value)| !is_default(key, value)).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_defaults).collect()),
        other => other.clone(),
    }
}

fn is_default(key: &str, value: &Value) -> bool {
    let empty = match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        // An empty mode means something.
        Value::Object(map) => {
            map.is_empty() && !["Replicated", "Global", "ReplicatedJob", "GlobalJob"].contains(&key)
        }
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(true) => false,
    };
    empty || is_swarm_default(key, value)
}

/// A default that Swarm fills in by itself (`api/defaults/service.go`).
fn is_swarm_default(key: &str, value: &Value) -> bool {
    match key {
        "StopGracePeriod" => *value == json!(10_000_000_000u64),
        "Isolation" => value == "default",
        "Runtime" => value == "container",
        "RestartPolicy" => *value == json!({ "Condition": "any", "Delay": 5_000_000_000u64 }),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
