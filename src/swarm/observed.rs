//! Observed state of a stack: its services with their current and previous specs, and their tasks. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::docker::types::{Counter, SwarmService, Task, TaskState, UpdateState, UpdateStatus};

/// Swarm's own default for `monitor` (SwarmKit `api/defaults/service.go`).
pub const MONITOR: Duration = Duration::from_secs(5);

/// Spec of a service, without empty values and explicit defaults.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceSpec {
    pub mode: Mode,
    value: Value,
    task: Value,
}

/// Mode of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Runs this number of tasks.
    Replicated(u64),
    /// Runs a task on every node that meets its constraints.
    Global,
    /// Runs until this number of tasks have completed.
    ReplicatedJob(u64),
    GlobalJob,
}

/// One service of a stack.
#[derive(Debug, Clone)]
pub struct StackService {
    pub id: String,
    /// Name in the file.
    pub name: String,
    pub spec: ServiceSpec,
    pub previous: Option<ServiceSpec>,
    pub update: UpdateStatus,
    /// The service existed before the stack: its name lacks the prefix that `docker stack deploy` gives.
    pub is_imported: bool,
    /// Grows with every change, including those by Swarm itself.
    pub version: u64,
    /// Tasks by slot, the oldest first.
    pub tasks: Vec<Task>,
    /// Current or last iteration of a job.
    iteration: Option<Counter>,
}

/// Snapshot of a stack.
#[derive(Debug, Clone, Default)]
pub struct ObservedStack {
    pub services: BTreeMap<String, StackService>,
}

/// Keys of a task's spec whose change replaces the task. A changed `Placement` keeps a task whose node satisfies it
/// (SwarmKit `orchestrator/task.go`).
const CONTENT_KEYS: [&str; 5] = ["ContainerSpec", "Resources", "ForceUpdate", "Networks", "LogDriver"];

impl ServiceSpec {
    pub fn new(raw: &Value) -> ServiceSpec {
        let value = without_defaults(raw);
        ServiceSpec { mode: Mode::new(&value["Mode"]), task: content(&value["TaskTemplate"]), value }
    }

    /// The whole spec as JSON.
    pub fn value(&self) -> &Value {
        &self.value
    }

    fn container(&self) -> &Value {
        &self.value["TaskTemplate"]["ContainerSpec"]
    }

    /// Image reference of the tasks, with the digest if Swarm resolved one.
    pub fn image(&self) -> &str {
        self.container()["Image"].as_str().unwrap_or_default()
    }

    /// `None` for a global service or a job.
    pub fn replicas(&self) -> Option<u64> {
        if let Mode::Replicated(replicas) = self.mode { Some(replicas) } else { None }
    }

    /// The service runs to completion.
    pub fn is_job(&self) -> bool {
        matches!(self.mode, Mode::ReplicatedJob(_) | Mode::GlobalJob)
    }

    /// Number of times that Swarm restarts a failed task; none is no limit.
    pub fn max_restarts(&self) -> Option<u64> {
        let policy = &self.value["TaskTemplate"]["RestartPolicy"];
        match policy["Condition"].as_str() {
            Some("none") => Some(0),
            _ => policy["MaxAttempts"].as_u64().filter(|n| *n > 0),
        }
    }

    /// Names of the configs and secrets.
    pub fn object_names(&self) -> impl Iterator<Item = &str> {
        let kinds = [("Configs", "ConfigName"), ("Secrets", "SecretName")];
        let objects =
            |(key, name)| items(&self.container()[key]).filter_map(move |object| object[name].as_str());
        kinds.into_iter().flat_map(objects)
    }

    /// Environment: values by name.
    pub fn environment(&self) -> BTreeMap<&str, &str> {
        let pairs = items(&self.container()["Env"]).filter_map(Value::as_str);
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect()
    }

    /// Duration from the `UpdateConfig`; none is the default of Swarm.
    fn update_time(&self, key: &str) -> Option<Duration> {
        self.value["UpdateConfig"][key].as_u64().map(Duration::from_nanos)
    }

    /// Time for which Swarm monitors a new task of an update.
    pub fn monitor(&self) -> Duration {
        self.update_time("Monitor").unwrap_or(MONITOR)
    }

    /// Time that Swarm waits between two tasks of an update.
    pub fn update_delay(&self) -> Duration {
        self.update_time("Delay").unwrap_or_default()
    }

    /// Updates and rollbacks both start a new task before they stop the old one; Swarm's default is stop-first.
    pub fn starts_first(&self) -> bool {
        let configs = ["UpdateConfig", "RollbackConfig"];
        configs.iter().all(|config| self.value[*config]["Order"] == "start-first")
    }

    /// Swarm's default is 10 s.
    pub fn stop_grace_period(&self) -> Duration {
        self.container()["StopGracePeriod"].as_u64().map_or(Duration::from_secs(10), Duration::from_nanos)
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

impl Mode {
    fn new(mode: &Value) -> Mode {
        let (replicated, job) = (mode.get("Replicated"), mode.get("ReplicatedJob"));
        match (replicated, job) {
            (Some(replicated), _) => Mode::Replicated(replicated["Replicas"].as_u64().unwrap_or(0)),
            (_, Some(job)) => Mode::ReplicatedJob(job["TotalCompletions"].as_u64().unwrap_or(1)),
            _ if mode.get("GlobalJob").is_some() => Mode::GlobalJob,
            _ => Mode::Global,
        }
    }
}

impl Task {
    /// The container is up, and healthy if it has a health check. Swarm reports a task as running only then.
    pub fn runs(&self) -> bool {
        self.status.state == TaskState::Running && self.desired_state == TaskState::Running
    }

    /// The task is meant to run or to complete.
    pub fn is_desired(&self) -> bool {
        matches!(self.desired_state, TaskState::Running | TaskState::Ready | TaskState::Complete)
    }

    /// The task failed, was rejected, or was lost with its node.
    pub fn has_failed(&self) -> bool {
        matches!(self.status.state, TaskState::Failed | TaskState::Rejected | TaskState::Orphaned)
    }

    /// The image may still be downloading.
    pub fn is_preparing(&self) -> bool {
        (TaskState::Assigned..=TaskState::Preparing).contains(&self.status.state)
    }

    /// Image reference of the task.
    pub fn image(&self) -> &str {
        self.spec["ContainerSpec"]["Image"].as_str().unwrap_or_default()
    }

    /// The task runs this spec.
    pub fn runs_spec(&self, spec: &ServiceSpec) -> bool {
        self.spec == spec.task
    }

    /// Number of the slot; for a global service the id of the node.
    pub fn slot(&self) -> (u64, &str) {
        (self.slot, if self.slot == 0 { &self.node_id } else { "" })
    }

    /// `app.3`; for a global service `app`.
    pub fn name(&self) -> String {
        if self.slot == 0 { self.service.clone() } else { format!("{}.{}", self.service, self.slot) }
    }
}

impl ObservedStack {
    /// Snapshot from separate queries; leaves out tasks of services outside the stack. `nodes` has names by id.
    pub fn new(
        stack: &str,
        services: Vec<SwarmService>,
        tasks: Vec<Task>,
        nodes: &BTreeMap<String, String>,
    ) -> ObservedStack {
        let mut by_service: BTreeMap<String, Vec<Task>> = BTreeMap::new();
        for mut task in tasks {
            task.node = nodes.get(&task.node_id).cloned().unwrap_or_default();
            by_service.entry(task.service_id.clone()).or_default().push(task);
        }
        let services = services.into_iter().map(|service| {
            let tasks = by_service.remove(&service.id).unwrap_or_default();
            let service = StackService::new(stack, service, tasks);
            (service.name.clone(), service)
        });
        ObservedStack { services: services.collect() }
    }

    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.services.values().flat_map(|service| &service.tasks)
    }

    /// Number of slots of a service that run any spec; 0 for a service that does not exist.
    pub fn running_tasks(&self, service: &str) -> usize {
        self.services.get(service).map_or(0, StackService::running_tasks)
    }
}

impl StackService {
    fn new(stack: &str, raw: SwarmService, tasks: Vec<Task>) -> StackService {
        let full = raw.spec["Name"].as_str().unwrap_or_default().to_string();
        let name = full.strip_prefix(stack).and_then(|n| n.strip_prefix('_')).unwrap_or(&full).to_string();
        let of_this = |task: Task| {
            let spec = content(&without_defaults(&task.spec));
            Task { service: name.clone(), spec, ..task }
        };
        let mut tasks: Vec<Task> = tasks.into_iter().map(of_this).collect();
        tasks.sort_by(|a, b| (a.slot(), &a.created_at).cmp(&(b.slot(), &b.created_at)));
        StackService {
            id: raw.id,
            is_imported: name == full,
            name,
            spec: ServiceSpec::new(&raw.spec),
            previous: raw.previous_spec.as_ref().map(ServiceSpec::new),
            update: raw.update_status.unwrap_or_default(),
            version: raw.version.index,
            tasks,
            iteration: raw.job_status.map(|job| job.job_iteration),
        }
    }

    /// Number of slots that run the current spec; for a job, slots that completed in this iteration.
    pub fn current_tasks(&self) -> usize {
        self.count_slots(|task| {
            if self.spec.is_job() {
                task.status.state == TaskState::Complete && self.is_in_iteration(task)
            } else {
                task.runs() && task.runs_spec(&self.spec)
            }
        })
    }

    /// Number of slots that run any spec. A slot whose node was lost may hold two tasks.
    pub fn running_tasks(&self) -> usize {
        self.count_slots(Task::runs)
    }

    /// Desired number of tasks: replicas or completions; for a global service the tasks that Swarm wants.
    pub fn desired_tasks(&self) -> usize {
        match self.spec.mode {
            Mode::Replicated(number) | Mode::ReplicatedJob(number) => number as usize,
            _ => self.count_slots(|task| task.is_desired() && self.is_in_iteration(task)),
        }
    }

    fn count_slots(&self, is_counted: impl Fn(&Task) -> bool) -> usize {
        self.tasks.iter().filter(|t| is_counted(t)).map(Task::slot).collect::<BTreeSet<_>>().len()
    }

    /// The task belongs to the current iteration of a job; true for every task of a service that is no job.
    pub fn is_in_iteration(&self, task: &Task) -> bool {
        self.iteration.is_none() || task.job_iteration == self.iteration
    }

    /// Swarm is updating the service, or rolling it back.
    pub fn is_updating(&self) -> bool {
        matches!(self.update.state, UpdateState::Updating | UpdateState::RollbackStarted)
    }

    /// An update or rollback goes on or is paused.
    pub fn has_unfinished_update(&self) -> bool {
        self.is_updating() || matches!(self.update.state, UpdateState::Paused | UpdateState::RollbackPaused)
    }

    /// Swarm itself rolled the service back, or tries to.
    pub fn is_rolled_back(&self) -> bool {
        use UpdateState::{RollbackCompleted, RollbackPaused, RollbackStarted};
        matches!(self.update.state, RollbackStarted | RollbackPaused | RollbackCompleted)
    }
}

/// Items of an array; none of any other value.
pub fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
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
