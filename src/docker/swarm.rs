//! Queries and commands to a Swarm manager.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::types::{CONTENT_LABEL, ExistingObject, ObjectKind, SwarmNodes, SwarmService, Task};
use super::{CommandResult, Docker};
use crate::error::Error;

/// Lists node ids. The command succeeds only on a manager of a Swarm.
pub const IS_MANAGER: [&str; 3] = ["node", "ls", "--quiet"];

/// Lists the nodes of a Swarm.
pub const NODES: [&str; 4] = ["node", "ls", "--format", "{{.ID}}={{.Hostname}}"];

/// Label that ties a service to its stack.
pub const NAMESPACE: &str = "com.docker.stack.namespace";

/// Limit for the answer of a manager.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Limit for deploying a stack, during which docker looks images up in their registries.
const DEPLOY_LIMIT: Duration = Duration::from_secs(300);

/// Limit for reading a task's log.
const LOG_LIMIT: Duration = Duration::from_secs(5);

impl Docker {
    /// Ids of a stack's services; `None` if the engine is no manager of a Swarm.
    pub fn stack_services(&self, stack: &str) -> Result<Option<Vec<String>>> {
        let filter = format!("label={NAMESPACE}={stack}");
        let words = ["service", "ls", "--quiet", "--filter", &filter];
        self.service_ids(&words, self.query_swarm(&words)?)
    }

    /// True if a stack of that name exists. The query has no short limit, because engines without a Swarm get it too.
    pub fn is_stack(&self, name: &str) -> Result<bool> {
        let result = self.prefetcher.remove(&self.docker_words(&IS_MANAGER));
        if result.is_some_and(|result| result.is_ok_and(|output| is_no_manager(&output))) {
            return Ok(false); // the engine has no stacks
        }
        let filter = format!("label={NAMESPACE}={name}");
        let words = ["service", "ls", "--quiet", "--filter", &filter];
        let result = self.service_ids(&words, self.run(&self.docker_words(&words))?)?;
        Ok(result.is_some_and(|services| !services.is_empty()))
    }

    fn service_ids(&self, words: &[&str], output: CommandResult) -> Result<Option<Vec<String>>> {
        match output.ok() {
            true => Ok(Some(output.stdout.split_whitespace().map(String::from).collect())),
            false if is_no_manager(&output) => Ok(None),
            false => Err(self.engine_error(words, &output).into()),
        }
    }

    /// Id of the Swarm that the engine manages; the same on every manager.
    pub fn swarm_id(&self) -> Result<String> {
        let id = self.query_checked(&["info", "--format", "{{with .Swarm.Cluster}}{{.ID}}{{end}}"])?;
        match id.trim() {
            "" => Err(not_a_manager().into()),
            id => Ok(id.into()),
        }
    }

    /// Runs a query with a limit: a manager on another machine may stop answering at any time.
    fn query_swarm(&self, words: &[&str]) -> Result<CommandResult> {
        let limit = self.scaled(ANSWER_LIMIT);
        let output = self.run_within(&self.docker_words(words), None, limit)?;
        Ok(output.ok_or_else(|| timeout_error(words, limit))?)
    }

    fn query_checked(&self, words: &[&str]) -> Result<String> {
        let output = self.query_swarm(words)?;
        if output.ok() { Ok(output.stdout) } else { Err(self.engine_error(words, &output).into()) }
    }

    /// Services by id; services that no longer exist are left out.
    pub fn inspect_services(&self, ids: &[String]) -> Result<Vec<SwarmService>> {
        self.inspect_all(&["service", "inspect"], ids)
    }

    /// All tasks of a stack, also the ended ones that Swarm still lists.
    pub fn tasks(&self, stack: &str) -> Result<Vec<Task>> {
        let words = ["stack", "ps", "--quiet", "--no-trunc", stack];
        let result = self.query_swarm(&words)?;
        if !result.ok() && !result.stderr.contains("nothing found in stack") {
            return Err(self.engine_error(&words, &result).into());
        }
        let ids: Vec<String> = result.stdout.split_whitespace().map(String::from).collect();
        self.inspect_all(&["inspect", "--type", "task"], &ids)
    }

    fn inspect_all<T: DeserializeOwned>(&self, command: &[&str], ids: &[String]) -> Result<Vec<T>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let words: Vec<&str> = command.iter().copied().chain(ids.iter().map(String::as_str)).collect();
        let result = self.query_swarm(&words)?;
        let is_gone = |line: &str| {
            let line = line.to_lowercase();
            line.contains("no such") || line.contains("not found")
        };
        if result.ok() || result.stderr.lines().all(is_gone) {
            Ok(serde_json::from_str(&result.stdout)?)
        } else {
            Err(self.engine_error(&words, &result).into())
        }
    }

    /// Hostnames of the nodes of the Swarm by id.
    pub fn node_names(&self) -> Result<BTreeMap<String, String>> {
        Ok(pairs(&self.query_checked(&NODES)?))
    }

    /// Deploys the file of a stack. Services that are not in the file stay unchanged.
    ///
    /// # Errors
    /// Docker or Swarm refuses the file; some services may have been updated by then.
    pub fn stack_deploy(&self, stack: &str, file: &str, resolve: &str) -> Result<()> {
        self.check_lease()?;
        let mut words = vec!["stack", "deploy", "--with-registry-auth", "--resolve-image", resolve];
        words.extend(["--compose-file", "-", stack]);
        let result = self.run_within(&self.docker_words(&words), Some(file.as_bytes()), DEPLOY_LIMIT)?;
        let result = result.ok_or_else(|| timeout_error(&words, DEPLOY_LIMIT))?;
        if result.ok() {
            Ok(())
        } else {
            let result = CommandResult { stderr: without_advice(&result.stderr), ..result };
            Err(stack_error(self.engine_error(&words, &result), result.stderr_or_stdout()).into())
        }
    }

    /// Details of the nodes of the Swarm, and the id of this engine's node.
    pub fn inspect_swarm_nodes(&self) -> Result<SwarmNodes> {
        let ids = self.query_checked(&IS_MANAGER)?;
        let ids: Vec<String> = ids.split_whitespace().map(String::from).collect();
        let this = self.query_checked(&["info", "--format", "{{.Swarm.NodeID}}"])?.trim().to_string();
        Ok(SwarmNodes { all: self.inspect_all(&["node", "inspect"], &ids)?, this_id: this })
    }

    /// Config or secret of this name.
    pub fn existing_object(&self, kind: ObjectKind, name: &str) -> Result<Option<ExistingObject>> {
        let objects: Vec<Value> = self.inspect_all(&[kind.noun(), "inspect"], &[name.into()])?;
        Ok(objects.first().map(|object| {
            let spec = &object["Spec"];
            let labels = spec["Labels"].as_object().into_iter().flatten();
            let data = spec["Data"].as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
            ExistingObject {
                labels: labels.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().into())).collect(),
                content: data,
            }
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
        let limit = self.scaled(ANSWER_LIMIT);
        let result = self.run_within(&self.docker_words(&words), Some(content), limit)?;
        let result = result.ok_or_else(|| timeout_error(&words, limit))?;
        if result.ok() { Ok(()) } else { Err(self.engine_error(&words, &result).into()) }
    }

    /// Names of the configs or secrets that compose-zd created for a stack.
    pub fn object_names(&self, stack: &str, kind: ObjectKind) -> Result<Vec<String>> {
        let (of_stack, any_content) =
            (format!("label={NAMESPACE}={stack}"), format!("label={CONTENT_LABEL}"));
        let words =
            [kind.noun(), "ls", "--filter", &of_stack, "--filter", &any_content, "--format", "{{.Name}}"];
        Ok(self.query_checked(&words)?.lines().map(String::from).collect())
    }

    /// Removes a config or secret; Swarm refuses to remove one that a service uses.
    ///
    /// # Errors
    /// No engine; a service uses the object.
    pub fn remove_object(&self, kind: ObjectKind, name: &str) -> Result<()> {
        self.query_checked(&[kind.noun(), "rm", name]).map(drop)
    }

    /// Names of networks by id; service specs refer to networks by id.
    pub fn network_names(&self) -> Result<BTreeMap<String, String>> {
        Ok(pairs(&self.query_checked(&["network", "ls", "--no-trunc", "--format", "{{.ID}}={{.Name}}"])?))
    }

    /// Swarm's own rollback of a service to its previous spec. The current spec becomes the previous one.
    pub fn roll_back_service(&self, id: &str) -> Result<()> {
        self.check_lease()?;
        self.query_checked(&["service", "rollback", "--quiet", "--detach", id]).map(drop)
    }

    /// Runs `docker service update` with these flags.
    pub fn update_service(&self, id: &str, flags: &[String]) -> Result<()> {
        let mut words = vec!["service", "update", "--quiet", "--detach", "--with-registry-auth"];
        words.extend(flags.iter().map(String::as_str));
        words.push(id);
        let result = self.run_within(&self.docker_words(&words), None, DEPLOY_LIMIT)?;
        let result = result.ok_or_else(|| timeout_error(&words, DEPLOY_LIMIT))?;
        if result.ok() { Ok(()) } else { Err(self.engine_error(&words, &result).into()) }
    }

    /// Service of this name.
    pub fn service_named(&self, name: &str) -> Result<Option<SwarmService>> {
        Ok(self.inspect_all(&["service", "inspect"], &[name.into()])?.pop())
    }

    /// Replaces every task of a service without a change of its spec.
    pub fn force_service_update(&self, id: &str) -> Result<()> {
        self.check_lease()?;
        self.query_checked(&["service", "update", "--quiet", "--detach", "--force", id]).map(drop)
    }

    /// Last lines that a task's container printed, on any node. The limit is short because the node may be gone.
    pub fn task_logs(&self, id: &str, lines: u32) -> Result<Vec<String>> {
        let tail = lines.to_string();
        let words = ["service", "logs", "--raw", "--tail", &tail, id];
        let result = self.read_log(&self.docker_words(&words), LOG_LIMIT)?;
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
            self.query_checked(&words).map(drop)
        }
    }
}

/// Parses lines such as `KEY=VALUE`.
fn pairs(lines: &str) -> BTreeMap<String, String> {
    let pairs = lines.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.into(), value.into())).collect()
}

/// Error for an engine that manages no Swarm.
pub fn not_a_manager() -> Error {
    Error::unchanged("this engine is no manager of a Swarm").hint(
        "make it one with `docker swarm init`, name another with `--context` or `--host`, \
         or deploy on this machine alone with `--engine compose`",
    )
}

fn timeout_error(words: &[&str], limit: Duration) -> Error {
    let command = words.iter().take(2).copied().collect::<Vec<_>>().join(" ");
    Error::unchanged(format!("`docker {command}`: no answer within {}s", limit.as_secs()))
}

/// Removes the advice of newer clients to set `--detach`, a flag that older clients do not know.
fn without_advice(output: &str) -> String {
    let is_advice = |l: &&str| l.contains("--detach") || l.starts_with("In a future release,");
    output.lines().filter(|l| !is_advice(l)).map(|l| format!("{l}\n")).collect()
}

/// True if the engine manages no Swarm. Docker reports that by a message. Podman answers 404, because it has no nodes
/// or services. A filter in front of the socket answers 403, although other queries may succeed.
fn is_no_manager(result: &CommandResult) -> bool {
    let stderr = result.stderr.to_lowercase();
    let has_any = |words: &[&str]| words.iter().any(|words| stderr.contains(words));
    let is_refused = has_any(&["response from daemon"]) && has_any(&["not found", "forbidden"]);
    !result.ok() && (is_refused || has_any(&["not a swarm manager", "not part of a swarm"]))
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
        let no_swarm = |stderr: &str| {
            is_no_manager(&CommandResult { code: Some(1), stderr: stderr.into(), ..CommandResult::default() })
        };
        assert!(no_swarm("Error response from daemon: This node is not a swarm manager. Use …"));
        assert!(no_swarm("Error response from daemon: Not Found"), "Podman");
        let filter = "Error response from daemon: <html><body><h1>403 Forbidden</h1>\nRequest forbidden by administrative rules.";
        assert!(no_swarm(filter), "HAProxy in front of the socket");
        assert!(!no_swarm("Failed to initialize: context \"x\": context not found"));
        assert!(!no_swarm("Cannot connect to the Docker daemon at unix:///var/run/docker.sock."));
    }
}
