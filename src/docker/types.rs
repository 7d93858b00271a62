//! Objects as the engine's API returns them: the engine itself, volumes, and those of a Swarm.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Parses an object of the API. The engine writes `null` for what is empty; it counts as missing.
pub fn parse<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    let mut value: Value = serde_json::from_slice(json)?;
    remove_nulls(&mut value);
    serde_json::from_value(value)
}

fn remove_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(remove_nulls);
        }
        Value::Array(all) => all.iter_mut().for_each(remove_nulls),
        _ => {}
    }
}

/// The engine uses signed numbers. An impossible number counts as 0, so that one odd container does not keep all others
/// from being read.
pub fn number_or_zero<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + TryFrom<i64>,
{
    Ok(T::try_from(i64::deserialize(from)?).unwrap_or_default())
}

/// Engine, by its own report.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EngineInfo {
    /// Id of the engine. Podman reports another one each time.
    #[serde(rename = "ID")]
    pub id: String,
    /// Name of the host.
    pub name: String,
    pub server_version: String,
    /// Such as `linux`.
    #[serde(rename = "OSType")]
    pub os_type: String,
    /// Such as `x86_64`.
    pub architecture: String,
    #[serde(deserialize_with = "number_or_zero")]
    mem_total: u64,
    /// Folder of the engine's images and containers.
    pub docker_root_dir: String,
    /// Time by the engine's clock, in RFC 3339.
    pub system_time: String,
    pub swarm: SwarmInfo,
}

impl EngineInfo {
    /// Memory of the machine, in bytes, if the engine reports it.
    pub fn memory(&self) -> Option<u64> {
        Some(self.mem_total).filter(|bytes| *bytes > 0)
    }
}

/// Membership of an engine in a Swarm.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SwarmInfo {
    #[serde(rename = "NodeID")]
    pub node_id: String,
    /// The Swarm, on a manager.
    pub cluster: Option<Identified>,
}

/// Object that has an id.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Identified {
    #[serde(rename = "ID", alias = "Id")]
    pub id: String,
}

/// Volume of an engine.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Volume {
    /// RFC 3339.
    pub created_at: String,
    pub labels: BTreeMap<String, String>,
}

/// Config or secret of a Swarm.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SwarmObject {
    /// RFC 3339.
    pub created_at: String,
    pub spec: SwarmObjectSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct SwarmObjectSpec {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Content of a config in base64; Swarm never returns that of a secret.
    pub data: Option<String>,
}

/// A service of a Swarm.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SwarmService {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(default)]
    pub version: Counter,
    pub spec: Value,
    pub previous_spec: Option<Value>,
    pub update_status: Option<UpdateStatus>,
    pub job_status: Option<JobStatus>,
}

/// Number of the current run of a job: each update runs the job again.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct JobStatus {
    pub job_iteration: Counter,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Counter {
    pub index: u64,
}

/// Status of the update of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UpdateStatus {
    pub state: UpdateState,
    pub message: String,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateState {
    Updating,
    Paused,
    Completed,
    RollbackStarted,
    RollbackPaused,
    RollbackCompleted,
    /// The service was never updated.
    #[default]
    #[serde(other)]
    None,
}

/// A task: one attempt to fill a slot of a service.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Task {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    /// Name of the service in the file; its observer sets it.
    #[serde(skip)]
    pub service: String,
    #[serde(rename = "NodeID", default)]
    pub node_id: String,
    /// Name of the node; the observer sets it.
    #[serde(skip)]
    pub node: String,
    /// Number of the slot; 0 for a global service, which has a slot on each node.
    #[serde(default)]
    pub slot: u64,
    #[serde(default)]
    pub spec: Value,
    #[serde(default)]
    pub status: TaskStatus,
    #[serde(default)]
    pub desired_state: TaskState,
    #[serde(default)]
    pub created_at: String,
    pub job_iteration: Option<Counter>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TaskStatus {
    pub state: TaskState,
    #[serde(rename = "Err")]
    pub error: String,
    pub container_status: ContainerStatus,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ContainerStatus {
    #[serde(rename = "ContainerID")]
    pub container: String,
}

/// States in the order in which a task passes through them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    New,
    Allocated,
    Pending,
    Assigned,
    Accepted,
    Preparing,
    Ready,
    Starting,
    Running,
    Complete,
    Shutdown,
    Failed,
    Rejected,
    Remove,
    Orphaned,
    #[default]
    #[serde(other)]
    Unknown,
}

/// Name in the API.
impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Name in the API.
impl fmt::Display for UpdateState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Nodes of a Swarm.
#[derive(Debug, Clone, Default)]
pub struct SwarmNodes {
    pub all: Vec<Node>,
    /// Id of the node that compose-zd is connected to, which builds images and has the project's folder.
    pub this_id: String,
}

/// A node of a Swarm.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Node {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(flatten)]
    pub value: Value,
}

/// Label of a config or secret with the hash of its content.
pub const CONTENT_LABEL: &str = "compose-zd.content";

/// Kind of object that holds content for services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    Config,
    Secret,
}

impl ObjectKind {
    pub const ALL: [ObjectKind; 2] = [ObjectKind::Config, ObjectKind::Secret];

    /// Noun in `docker config` or `docker secret`.
    pub fn noun(self) -> &'static str {
        match self {
            ObjectKind::Config => "config",
            ObjectKind::Secret => "secret",
        }
    }

    /// Key in a Compose file.
    pub fn key(self) -> &'static str {
        match self {
            ObjectKind::Config => "configs",
            ObjectKind::Secret => "secrets",
        }
    }
}

/// A config or secret that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingObject {
    pub labels: BTreeMap<String, String>,
    /// Content of a config; Swarm never returns that of a secret.
    pub content: Option<Vec<u8>>,
}
