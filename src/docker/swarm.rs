//! Queries and commands to a Swarm manager.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use hyper::StatusCode;
use serde::Deserialize;

use super::api::{ApiRequest, labelled, refused};
use super::types::{
    CONTENT_LABEL, ExistingObject, Node, ObjectKind, SwarmNodes, SwarmObject, SwarmService, Task,
};
use super::{CommandResult, Docker};
use crate::error::Error;

/// Label that ties a service to its stack.
pub const NAMESPACE: &str = "com.docker.stack.namespace";

/// Limit for the answer of a manager.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Limit for deploying a stack, during which docker looks images up in their registries.
const DEPLOY_LIMIT: Duration = Duration::from_secs(300);

/// Limit for reading a task's log.
const LOG_LIMIT: Duration = Duration::from_secs(5);

/// Network in a list.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedNetwork {
    id: String,
    name: String,
}

impl Docker {
    /// Services of a stack; `None` if the engine is no manager of a Swarm.
    pub fn stack_services(&self, stack: &str) -> Result<Option<Vec<SwarmService>>> {
        let filters = labelled(&[&format!("{NAMESPACE}={stack}")]);
        let request = ApiRequest::get("/services", &[("filters", &filters)]);
        let response = self.send(&request)?;
        match response.status {
            status if status.is_success() => response.json().map(Some),
            status if is_no_manager(status, &response.message()) => Ok(None),
            _ => Err(refused(&request, &response).into()),
        }
    }

    /// True if a stack of that name exists.
    pub fn is_stack(&self, name: &str) -> Result<bool> {
        Ok(self.stack_services(name)?.is_some_and(|services| !services.is_empty()))
    }

    /// Id of the Swarm that the engine manages; the same on every manager.
    pub fn swarm_id(&self) -> Result<String> {
        let id = self.info()?.swarm.cluster.map(|cluster| cluster.id).filter(|id| !id.is_empty());
        Ok(id.ok_or_else(not_a_manager)?)
    }

    /// All tasks of a stack, also the ended ones that Swarm still lists.
    pub fn tasks(&self, stack: &str) -> Result<Vec<Task>> {
        self.get("/tasks", &[("filters", &labelled(&[&format!("{NAMESPACE}={stack}")]))])
    }

    /// Nodes of the Swarm.
    pub fn swarm_nodes(&self) -> Result<Vec<Node>> {
        self.get("/nodes", &[])
    }

    /// Deploys the file of a stack. Services that are not in the file stay unchanged.
    ///
    /// # Errors
    /// Docker or Swarm refuses the file; some services may have been updated by then.
    pub fn stack_deploy(&self, stack: &str, file: &str, resolve: &str) -> Result<()> {
        self.check_lease()?;
        let mut words = vec!["stack", "deploy", "--with-registry-auth", "--resolve-image", resolve];
        words.extend(["--compose-file", "-", stack]);
        let argv = self.docker_words(&words);
        let result = self.run_argv(&argv, Some(file.as_bytes()), Some(DEPLOY_LIMIT))?;
        if result.ok() {
            Ok(())
        } else {
            let result = CommandResult { stderr: without_advice(&result.stderr), ..result };
            Err(stack_error(self.engine_error(&words, &result), result.stderr_or_stdout()).into())
        }
    }

    /// Nodes of the Swarm, and the id of this engine's node.
    pub fn inspect_swarm_nodes(&self) -> Result<SwarmNodes> {
        Ok(SwarmNodes { all: self.swarm_nodes()?, this_id: self.info()?.swarm.node_id })
    }

    /// Config or secret of this name.
    pub fn existing_object(&self, kind: ObjectKind, name: &str) -> Result<Option<ExistingObject>> {
        let object: Option<SwarmObject> = self.lookup(&format!("/{}s/{name}", kind.noun()))?;
        Ok(object.map(|SwarmObject { spec, .. }| ExistingObject {
            labels: spec.labels,
            content: spec.data.and_then(|text| BASE64_STANDARD.decode(text).ok()),
        }))
    }

    /// Creates a config or secret; its content is passed by standard input.
    pub fn create_object(
        &self,
        kind: ObjectKind,
        name: &str,
        flags: &[String],
        content: &[u8],
    ) -> Result<()> {
        let mut words = vec![kind.noun(), "create"];
        words.extend(flags.iter().map(String::as_str));
        words.extend([name, "-"]);
        self.run_within(&words, Some(content), self.scaled(ANSWER_LIMIT)).map(drop)
    }

    /// Names of the configs or secrets that compose-zd created for a stack.
    pub fn object_names(&self, stack: &str, kind: ObjectKind) -> Result<Vec<String>> {
        let filters = labelled(&[&format!("{NAMESPACE}={stack}"), CONTENT_LABEL]);
        let objects: Vec<SwarmObject> = self.get(&format!("/{}s", kind.noun()), &[("filters", &filters)])?;
        Ok(objects.into_iter().map(|object| object.spec.name).collect())
    }

    /// Removes a config or secret; Swarm refuses to remove one that a service uses.
    ///
    /// # Errors
    /// No engine; a service uses the object.
    pub fn remove_object(&self, kind: ObjectKind, name: &str) -> Result<()> {
        self.remove_if_exists(&format!("/{}s/{name}", kind.noun()))
    }

    /// Names of networks by id; service specs refer to networks by id.
    pub fn network_names(&self) -> Result<BTreeMap<String, String>> {
        let networks: Vec<ListedNetwork> = self.get("/networks", &[])?;
        Ok(networks.into_iter().map(|network| (network.id, network.name)).collect())
    }

    /// Swarm's own rollback of a service to its previous spec. The current spec becomes the previous one.
    pub fn roll_back_service(&self, id: &str) -> Result<()> {
        self.check_lease()?;
        self.change_service(&["service", "rollback", "--quiet", "--detach", id])
    }

    /// Runs `docker service update` with these flags.
    pub fn update_service(&self, id: &str, flags: &[String]) -> Result<()> {
        let mut words = vec!["service", "update", "--quiet", "--detach", "--with-registry-auth"];
        words.extend(flags.iter().map(String::as_str));
        words.push(id);
        self.run_within(&words, None, DEPLOY_LIMIT).map(drop)
    }

    /// Service of this name.
    pub fn service_named(&self, name: &str) -> Result<Option<SwarmService>> {
        self.lookup(&format!("/services/{name}"))
    }

    /// Replaces every task of a service without a change of its spec.
    pub fn force_service_update(&self, id: &str) -> Result<()> {
        self.check_lease()?;
        self.change_service(&["service", "update", "--quiet", "--detach", "--force", id])
    }

    /// Last lines that a task's container printed, on any node. The limit is short because the node may be gone.
    pub fn task_logs(&self, id: &str, lines: u32) -> Result<Vec<String>> {
        let tail = lines.to_string();
        let words = ["service", "logs", "--raw", "--tail", &tail, id];
        let result = self.read_log(&words, LOG_LIMIT)?;
        let both = result.stdout.lines().chain(result.stderr.lines().filter(|_| result.ok()));
        Ok(both.map(String::from).collect())
    }

    /// Removes services and their tasks.
    pub fn remove_services(&self, ids: &[String]) -> Result<()> {
        if ids.is_empty() {
            Ok(())
        } else {
            let words: Vec<&str> =
                ["service", "rm"].into_iter().chain(ids.iter().map(String::as_str)).collect();
            self.change_service(&words)
        }
    }

    fn change_service(&self, words: &[&str]) -> Result<()> {
        self.run_within(words, None, self.scaled(ANSWER_LIMIT)).map(drop)
    }
}

/// Error for an engine that manages no Swarm.
pub fn not_a_manager() -> Error {
    Error::unchanged("this engine is no manager of a Swarm").hint(
        "make it one with `docker swarm init`, name another with `--context` or `--host`, \
         or deploy on this machine alone with `--engine compose`",
    )
}

/// Removes the advice of newer clients to set `--detach`, a flag that older clients do not know.
fn without_advice(output: &str) -> String {
    let is_advice = |l: &&str| l.contains("--detach") || l.starts_with("In a future release,");
    output.lines().filter(|l| !is_advice(l)).map(|l| format!("{l}\n")).collect()
}

/// True if the engine manages no Swarm. Docker answers 503, also without a leader, so the message counts. Podman
/// answers 404, because it has no services. A filter in front of the socket answers 403, although other queries may
/// succeed.
fn is_no_manager(status: StatusCode, message: &str) -> bool {
    match status {
        StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => true,
        _ => ["not a swarm manager", "not part of a swarm"].iter().any(|words| message.contains(words)),
    }
}

/// Adds a hint to the error of a refused stack, if the cause is a usual one.
fn stack_error(error: Error, output: &str) -> Error {
    if output.contains("only updates to Labels are allowed") {
        return error.hint(
            "a secret or config of a stack never changes: give it a name with its version in it, such as \
             `configs.site.name: site-${VERSION}`",
        );
    }
    if output.contains("cannot be used with services") || output.contains("scope") {
        return error.hint("a stack's networks are overlay networks: remove `driver` from `networks`");
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_without_a_swarm_and_a_filter_that_blocks_its_queries_are_no_manager() {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        assert!(is_no_manager(unavailable, "This node is not a swarm manager. Use …"));
        assert!(is_no_manager(StatusCode::NOT_FOUND, "Not Found"), "Podman");
        assert!(is_no_manager(StatusCode::FORBIDDEN, "403 Forbidden"), "HAProxy in front of the socket");
        assert!(!is_no_manager(unavailable, "rpc error: The swarm does not have a leader."));
        assert!(!is_no_manager(unavailable, "No server is available to handle this request."));
    }
}
