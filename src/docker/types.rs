//! Objects of a Swarm as the engine's API returns them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// A service as `docker service inspect` prints it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RawService {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(default)]
    pub version: VersionIndex,
    pub spec: Value,
    pub previous_spec: Option<Value>,
    pub update_status: Option<UpdateStatus>,
    pub job_status: Option<JobStatus>,
}

/// Number of the current run of a job: each update runs the job again.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct JobStatus {
    pub job_iteration: VersionIndex,
}

/// Counter as the engine's API prints it: `{"Index": 3}`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct VersionIndex {
    pub index: u64,
}

/// Status of the update of a service; the states are those of the engine's API.
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
    pub id: String,
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    #[serde(rename = "NodeID", default)]
    pub node_id: String,
    #[serde(default)]
    pub slot: u64,
    #[serde(default)]
    pub spec: Value,
    #[serde(default)]
    pub status: RawTaskStatus,
    #[serde(default)]
    pub desired_state: String,
    #[serde(default)]
    pub created_at: String,
    #[serde(default)]
    pub job_iteration: Option<VersionIndex>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RawTaskStatus {
    pub state: String,
    pub err: String,
    pub container_status: RawContainerStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RawContainerStatus {
    #[serde(rename = "ContainerID")]
    pub container_id: String,
}

/// A node as `docker node inspect` prints it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct PlacementNode {
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(flatten)]
    pub value: Value,
}

/// Nodes of the Swarm.
#[derive(Debug, Clone, Default)]
pub struct ClusterNodes {
    pub all: Vec<PlacementNode>,
    /// Id of the node that compose-zd is connected to, which builds images and has the project's folder.
    pub this_id: String,
}

/// Label with the hash of the content.
pub const CONTENT_LABEL: &str = "compose-zd.content";

/// Kind of object that holds content for services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    Config,
    Secret,
}

/// The object that Swarm has under the name in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingObject {
    pub labels: BTreeMap<String, String>,
    /// Content of a config; Swarm never returns that of a secret.
    pub content: Option<Vec<u8>>,
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
