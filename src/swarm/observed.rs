//! What a Swarm manager tells of a stack: its services with what was asked for last and before, and their tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::convergence::MONITOR;

/// A service as `docker service inspect` prints it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RawService {
    #[serde(rename = "ID")]
    id: String,
    #[serde(default)]
    version: Iteration,
    spec: Value,
    previous_spec: Option<Value>,
    update_status: Option<UpdateStatus>,
    job_status: Option<JobStatus>,
}

/// Each update of a job runs it once more; the iteration counts them.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct JobStatus {
    job_iteration: Iteration,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Iteration {
    index: u64,
}

/// How an update of a service goes; the states are those of the engine's API.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UpdateStatus {
    pub state: String,
    pub message: String,
}

/// A task as `docker inspect --type task` prints it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RawTask {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "ServiceID")]
    service_id: String,
    #[serde(rename = "NodeID", default)]
    node_id: String,
    #[serde(default)]
    slot: u64,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    status: RawTaskStatus,
    #[serde(default)]
    desired_state: String,
    #[serde(default)]
    created_at: String,
    #[serde(default)]
    job_iteration: Option<Iteration>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawTaskStatus {
    state: String,
    err: String,
    container_status: RawContainerStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawContainerStatus {
    #[serde(rename = "ContainerID")]
    container_id: String,
}

/// What a service is asked to be, without what only spells a default out.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    value: Value,
    task: Value,
}

/// One service of a stack.
#[derive(Debug, Clone)]
pub struct StackService {
    pub id: String,
    /// As the file names it.
    pub name: String,
    pub spec: Spec,
    pub previous: Option<Spec>,
    pub update: Option<UpdateStatus>,
    /// It is not named as `docker stack deploy` names the services of a stack: it was there before the stack.
    pub is_adopted: bool,
    /// Grows with every change, Swarm's own included.
    pub version: u64,
    /// Of a job: the iteration that runs, or ran last.
    iteration: Option<u64>,
}

/// One attempt to fill a slot of a service.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    pub id: String,
    pub service: String,
    /// The slot's number; for a global service the node's id.
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

/// A stack as it is now.
#[derive(Debug, Clone, Default)]
pub struct ObservedStack {
    pub services: BTreeMap<String, StackService>,
    pub tasks: Vec<Task>,
}

/// Parts of a task's spec that decide what runs. A task whose node satisfies another `Placement` stays
/// (SwarmKit `orchestrator/task.go`).
const CONTENT: [&str; 5] = ["ContainerSpec", "Resources", "ForceUpdate", "Networks", "LogDriver"];

impl Spec {
    pub fn new(raw: &Value) -> Spec {
        let value = plain(raw);
        Spec { task: content(&value["TaskTemplate"]), value }
    }

    /// The reference that its tasks run, with the digest where Swarm has found one.
    pub fn image(&self) -> &str {
        self.value["TaskTemplate"]["ContainerSpec"]["Image"].as_str().unwrap_or_default()
    }

    /// `None` for a global service or a job.
    pub fn replicas(&self) -> Option<u64> {
        let replicated = self.value["Mode"].get("Replicated")?;
        Some(replicated["Replicas"].as_u64().unwrap_or(0))
    }

    /// A task on every node that meets its constraints.
    pub fn is_global(&self) -> bool {
        ["Global", "GlobalJob"].iter().any(|mode| self.value["Mode"].get(mode).is_some())
    }

    /// Number of tasks of a replicated job that have to complete.
    pub fn completions(&self) -> Option<u64> {
        let job = self.value["Mode"].get("ReplicatedJob")?;
        Some(job["TotalCompletions"].as_u64().unwrap_or(1))
    }

    /// Number of times that Swarm starts a failed task again; none where it does not stop trying.
    pub fn attempts(&self) -> Option<u64> {
        let policy = &self.value["TaskTemplate"]["RestartPolicy"];
        match policy["Condition"].as_str() {
            Some("none") => Some(0),
            _ => policy["MaxAttempts"].as_u64().filter(|n| *n > 0),
        }
    }

    /// The whole of it, for comparing.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// Names of its configs and secrets.
    pub fn objects(&self) -> Vec<&str> {
        let of = |key: &str, name: &'static str| {
            let all = self.value["TaskTemplate"]["ContainerSpec"][key].as_array().into_iter().flatten();
            all.filter_map(|o| o[name].as_str()).collect::<Vec<_>>()
        };
        [of("Configs", "ConfigName"), of("Secrets", "SecretName")].concat()
    }

    /// It runs to its end, and is not replaced while it serves.
    pub fn is_job(&self) -> bool {
        ["ReplicatedJob", "GlobalJob"].iter().any(|mode| self.value["Mode"].get(mode).is_some())
    }

    /// Its environment, as names with values.
    pub fn environment(&self) -> BTreeMap<&str, &str> {
        let pairs = self.value["TaskTemplate"]["ContainerSpec"]["Env"].as_array().into_iter().flatten();
        pairs
            .filter_map(|pair| pair.as_str())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .collect()
    }

    /// A setting of its `UpdateConfig`, in nanoseconds; none where Swarm has its default.
    pub fn update_time(&self, key: &str) -> Option<u64> {
        self.value["UpdateConfig"][key].as_u64()
    }

    /// Time for which Swarm watches a new task of an update.
    pub fn monitor(&self) -> Duration {
        self.update_time("Monitor").map_or(MONITOR, Duration::from_nanos)
    }

    /// Forward and back, a new task starts before the old one is stopped; Swarm's default is the other way round.
    pub fn starts_first(&self) -> bool {
        let configs = ["UpdateConfig", "RollbackConfig"];
        configs.iter().all(|config| self.value[*config]["Order"] == "start-first")
    }

    /// In nanoseconds; Swarm's default is 10 s.
    pub fn stop_grace(&self) -> u64 {
        self.value["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"].as_u64().unwrap_or(10_000_000_000)
    }

    /// Both run the same tasks, whatever their number and however they are updated.
    pub fn same_tasks(&self, other: &Spec) -> bool {
        self.task == other.task
    }

    /// Both ask for the same, but for how they are updated, and how often a restart was forced.
    pub fn same_content(&self, other: &Spec) -> bool {
        self.content() == other.content()
    }

    /// Both are the outcome of one request, forced restarts included.
    pub fn asks_for_same(&self, other: &Spec) -> bool {
        self.same_tasks(other) && self.same_content(other)
    }

    /// What tells two contents apart. A hash, because a spec holds secrets.
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
    /// Its container is up, and healthy where it has a health check: Swarm says so of no other.
    pub fn runs(&self) -> bool {
        self.state == "running" && self.desired == "running"
    }

    /// It is meant to run, or to get there.
    pub fn is_wanted(&self) -> bool {
        ["running", "ready", "complete"].contains(&self.desired.as_str())
    }

    /// It ended otherwise than it was told to.
    pub fn has_failed(&self) -> bool {
        ["failed", "rejected", "orphaned"].contains(&self.state.as_str())
    }

    /// Of a job: it belongs to the iteration that the last update began. Any task of another service does.
    pub fn is_in(&self, service: &StackService) -> bool {
        service.iteration.is_none() || self.iteration == service.iteration
    }

    /// It ran to its end, as a job of this iteration does.
    pub fn completed(&self, service: &StackService) -> bool {
        self.state == "complete" && self.is_in(service)
    }

    /// Its image is still on its way, which takes as long as it takes.
    pub fn is_preparing(&self) -> bool {
        ["assigned", "accepted", "preparing"].contains(&self.state.as_str())
    }

    /// The reference that it runs.
    pub fn image(&self) -> &str {
        self.content["ContainerSpec"]["Image"].as_str().unwrap_or_default()
    }

    /// It runs what the service asks for now.
    pub fn is_of(&self, spec: &Spec) -> bool {
        self.content == spec.task
    }

    /// `app.3`, or `app` on a node.
    pub fn name(&self) -> String {
        match self.slot.parse::<u64>() {
            Ok(slot) => format!("{}.{slot}", self.service),
            Err(_) => self.service.clone(),
        }
    }
}

impl ObservedStack {
    /// Puts together what was asked one after the other; tasks of services that are not of the stack are left out.
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

    /// Number of slots of a service that run the current spec; of a job, that completed in this iteration.
    pub fn current(&self, service: &StackService) -> usize {
        slots(self.tasks_of(&service.name).filter(|t| match service.spec.is_job() {
            true => t.completed(service),
            false => t.runs() && t.is_of(&service.spec),
        }))
    }

    /// Number of slots of a service that run any spec. Swarm may keep two tasks in a slot whose node was lost.
    pub fn running(&self, service: &str) -> usize {
        slots(self.tasks_of(service).filter(|t| t.runs()))
    }

    /// Number of tasks that a service is to have: its replicas or completions; for a global one those that Swarm wants.
    pub fn wanted(&self, service: &StackService) -> usize {
        match service.spec.replicas().or(service.spec.completions()) {
            Some(number) => number as usize,
            None => slots(self.tasks_of(&service.name).filter(|t| t.is_wanted() && t.is_in(service))),
        }
    }
}

fn slots<'t>(tasks: impl Iterator<Item = &'t Task>) -> usize {
    tasks.map(|task| &task.slot).collect::<BTreeSet<_>>().len()
}

impl StackService {
    fn new(stack: &str, raw: RawService) -> StackService {
        let full = raw.spec["Name"].as_str().unwrap_or_default().to_string();
        let name = full.strip_prefix(stack).and_then(|n| n.strip_prefix('_')).unwrap_or(&full).to_string();
        StackService {
            id: raw.id,
            is_adopted: name == full,
            name,
            spec: Spec::new(&raw.spec),
            previous: raw.previous_spec.as_ref().map(Spec::new),
            update: raw.update_status.filter(|status| !status.state.is_empty()),
            version: raw.version.index,
            iteration: raw.job_status.map(|job| job.job_iteration.index),
        }
    }

    /// The state of its update; empty where there is none.
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
            content: content(&plain(&raw.spec)),
        }
    }
}

fn content(task: &Value) -> Value {
    let parts = CONTENT.iter().filter_map(|key| Some(((*key).to_string(), task.get(*key)?.clone())));
    Value::Object(parts.collect::<Map<_, _>>())
}

/// Without what is empty and what only spells a default out: the same spec is read with either from one place and
/// without from another.
pub fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().map(|(key, value)| (key.clone(), plain(value)));
            Value::Object(kept.filter(|(key, value)| !is_default(key, value)).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(plain).collect()),
        other => other.clone(),
    }
}

fn is_default(key: &str, value: &Value) -> bool {
    let empty = match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        // An empty mode is a mode.
        Value::Object(map) => {
            map.is_empty() && !["Replicated", "Global", "ReplicatedJob", "GlobalJob"].contains(&key)
        }
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(true) => false,
    };
    empty || is_filled_in(key, value)
}

/// What Swarm fills in by itself (`api/defaults/service.go`): a spec means the same with it and without.
fn is_filled_in(key: &str, value: &Value) -> bool {
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
