//! What is asked of a Swarm manager, and what it is told.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{CommandResult, Docker};
use crate::error::Error;
use crate::swarm::objects::{CONTENT, ExistingObject, ObjectKind, StackObject};
use crate::swarm::observed::{RawService, RawTask};
use crate::swarm::placement::ClusterNodes;

/// Asks whether the engine is a manager of a Swarm.
pub const IS_MANAGER: [&str; 3] = ["node", "ls", "--quiet"];

/// Lists the machines of a Swarm.
pub const NODES: [&str; 4] = ["node", "ls", "--format", "{{.ID}}={{.Hostname}}"];

/// The label that ties a service to its stack.
pub const NAMESPACE: &str = "com.docker.stack.namespace";

/// How long a manager may take for an answer.
const ANSWER: Duration = Duration::from_secs(20);

/// How long it may take to be given a stack: images are looked up in their registries meanwhile.
const DEPLOY: Duration = Duration::from_secs(300);

/// Longest wait for a task's log.
const LOGS: Duration = Duration::from_secs(5);

/// How `docker stack deploy` is told to look images up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolveImage {
    Always,
    Changed,
    Never,
}

/// A machine of the Swarm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwarmNode {
    pub id: String,
    pub hostname: String,
}

impl ResolveImage {
    pub fn word(self) -> &'static str {
        match self {
            ResolveImage::Always => "always",
            ResolveImage::Changed => "changed",
            ResolveImage::Never => "never",
        }
    }
}

impl Docker {
    /// The ids of a stack's services; `None` where the engine is no manager of a Swarm.
    ///
    /// # Errors
    /// No engine.
    pub fn stack_services(&self, stack: &str) -> Result<Option<Vec<String>>> {
        let filter = format!("label={NAMESPACE}={stack}");
        let words = ["service", "ls", "--quiet", "--filter", &filter];
        self.services_told(&words, self.query_swarm(&words)?)
    }

    /// Whether there is a stack of that name. An engine that has nothing to do with Swarm is asked too, so it may take
    /// its time.
    ///
    /// # Errors
    /// No engine.
    pub fn is_stack(&self, name: &str) -> Result<bool> {
        let told = self.ahead.take(&self.docker_words(&IS_MANAGER));
        if told.is_some_and(|told| told.is_ok_and(|done| is_no_manager(&done))) {
            return Ok(false); // it knows of no stacks
        }
        let filter = format!("label={NAMESPACE}={name}");
        let words = ["service", "ls", "--quiet", "--filter", &filter];
        let told = self.services_told(&words, self.run(&self.docker_words(&words))?)?;
        Ok(told.is_some_and(|services| !services.is_empty()))
    }

    fn services_told(&self, words: &[&str], done: CommandResult) -> Result<Option<Vec<String>>> {
        match done.ok() {
            true => Ok(Some(done.stdout.split_whitespace().map(String::from).collect())),
            false if is_no_manager(&done) => Ok(None),
            false => Err(self.engine_fault(words, &done).into()),
        }
    }

    /// Which Swarm the engine manages; every manager of it says the same.
    ///
    /// # Errors
    /// No engine, or one that is no manager.
    pub fn cluster(&self) -> Result<String> {
        let id = self.ask_checked(&["info", "--format", "{{with .Swarm.Cluster}}{{.ID}}{{end}}"])?;
        match id.trim() {
            "" => Err(no_manager().into()),
            id => Ok(id.into()),
        }
    }

    /// A manager on another machine may fall silent in the middle of a question.
    fn query_swarm(&self, words: &[&str]) -> Result<CommandResult> {
        let limit = self.scaled(ANSWER);
        let done = self.run_within(&self.docker_words(words), None, limit)?;
        Ok(done.ok_or_else(|| silent(words, limit))?)
    }

    fn ask_checked(&self, words: &[&str]) -> Result<String> {
        let done = self.query_swarm(words)?;
        match done.ok() {
            true => Ok(done.stdout),
            false => Err(self.engine_fault(words, &done).into()),
        }
    }

    /// Services by id; one that is gone is left out.
    ///
    /// # Errors
    /// No engine.
    pub fn inspect_services(&self, ids: &[String]) -> Result<Vec<RawService>> {
        self.inspect_all(&["service", "inspect"], ids)
    }

    /// Every task of a stack that Swarm still remembers.
    ///
    /// # Errors
    /// No engine.
    pub fn tasks(&self, stack: &str) -> Result<Vec<RawTask>> {
        let words = ["stack", "ps", "--quiet", "--no-trunc", stack];
        let done = self.query_swarm(&words)?;
        if !done.ok() && !done.stderr.contains("nothing found in stack") {
            return Err(self.engine_fault(&words, &done).into());
        }
        let ids: Vec<String> = done.stdout.split_whitespace().map(String::from).collect();
        self.inspect_all(&["inspect", "--type", "task"], &ids)
    }

    fn inspect_all<T: DeserializeOwned>(&self, command: &[&str], ids: &[String]) -> Result<Vec<T>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let words: Vec<&str> = command.iter().copied().chain(ids.iter().map(String::as_str)).collect();
        let done = self.query_swarm(&words)?;
        let gone = |line: &str| {
            let line = line.to_lowercase();
            line.contains("no such") || line.contains("not found")
        };
        match done.ok() || done.stderr.lines().all(gone) {
            true => Ok(serde_json::from_str(&done.stdout)?),
            false => Err(self.engine_fault(&words, &done).into()),
        }
    }

    /// The machines of the Swarm.
    ///
    /// # Errors
    /// No engine, or one that is no manager.
    pub fn nodes(&self) -> Result<Vec<SwarmNode>> {
        let told = self.ask_checked(&NODES)?;
        let pairs = told.lines().filter_map(|line| line.split_once('='));
        Ok(pairs.map(|(id, hostname)| SwarmNode { id: id.into(), hostname: hostname.into() }).collect())
    }

    /// Gives Swarm a stack's file; services that are not in it stay.
    ///
    /// # Errors
    /// What docker or Swarm refuses; some services may have been updated by then.
    pub fn stack_deploy(&self, stack: &str, file: &str, resolve: ResolveImage) -> Result<()> {
        self.check_lease()?;
        let mut words = vec!["stack", "deploy", "--with-registry-auth", "--resolve-image", resolve.word()];
        words.extend(["--compose-file", "-", stack]);
        let done = self.run_within(&self.docker_words(&words), Some(file.as_bytes()), DEPLOY)?;
        let done = done.ok_or_else(|| silent(&words, DEPLOY))?;
        match done.ok() {
            true => Ok(()),
            false => {
                let done = CommandResult { stderr: without_advice(&done.stderr), ..done };
                Err(stack_fault(self.engine_fault(&words, &done), done.stderr_or_stdout()).into())
            }
        }
    }

    /// The nodes of the Swarm, and which of them this engine is.
    ///
    /// # Errors
    /// No engine, or one that is no manager.
    pub fn placement(&self) -> Result<ClusterNodes> {
        let ids = self.ask_checked(&IS_MANAGER)?;
        let ids: Vec<String> = ids.split_whitespace().map(String::from).collect();
        let this = self.ask_checked(&["info", "--format", "{{.Swarm.NodeID}}"])?.trim().to_string();
        Ok(ClusterNodes { all: self.inspect_all(&["node", "inspect"], &ids)?, this })
    }

    /// A config or secret of this name.
    ///
    /// # Errors
    /// No engine.
    pub fn existing(&self, kind: ObjectKind, name: &str) -> Result<Option<ExistingObject>> {
        let found: Vec<Value> = self.inspect_all(&[kind.noun(), "inspect"], &[name.into()])?;
        Ok(found.first().map(|object| {
            let spec = &object["Spec"];
            let labels = spec["Labels"].as_object().into_iter().flatten();
            let data = spec["Data"].as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
            ExistingObject {
                labels: labels.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().into())).collect(),
                content: data,
            }
        }))
    }

    /// Makes a config or secret of a stack; its content goes by standard input.
    ///
    /// # Errors
    /// What docker or Swarm refuses.
    pub fn create_object(&self, stack: &str, object: &StackObject, name: &str) -> Result<()> {
        let ours = [(NAMESPACE.to_string(), stack.to_string()), (CONTENT.to_string(), object.hash())];
        let labels = object.labels.clone().into_iter().chain(ours);
        let labels = labels.map(|(name, value)| format!("--label={name}={value}"));
        let flags: Vec<String> = object.flags.iter().cloned().chain(labels).collect();
        let mut words = vec![object.kind.noun(), "create"];
        words.extend(flags.iter().map(String::as_str));
        words.extend([name, "-"]);
        let limit = self.scaled(ANSWER);
        let done = self.run_within(&self.docker_words(&words), Some(&object.content), limit)?;
        let done = done.ok_or_else(|| silent(&words, limit))?;
        match done.ok() {
            true => Ok(()),
            false => Err(self.engine_fault(&words, &done).into()),
        }
    }

    /// Names of the configs or secrets that compose-zd made for a stack.
    ///
    /// # Errors
    /// No engine.
    pub fn objects(&self, stack: &str, kind: ObjectKind) -> Result<Vec<String>> {
        let (own, ours) = (format!("label={NAMESPACE}={stack}"), format!("label={CONTENT}"));
        let words = [kind.noun(), "ls", "--filter", &own, "--filter", &ours, "--format", "{{.Name}}"];
        Ok(self.ask_checked(&words)?.lines().map(String::from).collect())
    }

    /// Removes a config or secret; Swarm refuses one that a service uses.
    ///
    /// # Errors
    /// No engine; one that is in use.
    pub fn remove_object(&self, kind: ObjectKind, name: &str) -> Result<()> {
        self.ask_checked(&[kind.noun(), "rm", name]).map(drop)
    }

    /// Names of networks by their ids, as specs refer to them.
    ///
    /// # Errors
    /// No engine.
    pub fn networks(&self) -> Result<BTreeMap<String, String>> {
        let told = self.ask_checked(&["network", "ls", "--no-trunc", "--format", "{{.ID}}={{.Name}}"])?;
        Ok(told.lines().filter_map(|l| l.split_once('=')).map(|(id, n)| (id.into(), n.into())).collect())
    }

    /// Swarm's own way back: the spec before the last change, which becomes the one before in turn.
    ///
    /// # Errors
    /// A service that has none.
    pub fn service_rollback(&self, id: &str) -> Result<()> {
        self.check_lease()?;
        self.ask_checked(&["service", "rollback", "--quiet", "--detach", id]).map(drop)
    }

    /// Changes a service as these flags say.
    ///
    /// # Errors
    /// What Swarm refuses.
    pub fn service_update(&self, id: &str, flags: &[String]) -> Result<()> {
        let mut words = vec!["service", "update", "--quiet", "--detach", "--with-registry-auth"];
        words.extend(flags.iter().map(String::as_str));
        words.push(id);
        let done = self.run_within(&self.docker_words(&words), None, DEPLOY)?;
        let done = done.ok_or_else(|| silent(&words, DEPLOY))?;
        match done.ok() {
            true => Ok(()),
            false => Err(self.engine_fault(&words, &done).into()),
        }
    }

    /// A service by its name.
    ///
    /// # Errors
    /// No engine.
    pub fn service_named(&self, name: &str) -> Result<Option<RawService>> {
        Ok(self.inspect_all(&["service", "inspect"], &[name.into()])?.pop())
    }

    /// Replaces every task of a service although nothing has changed.
    ///
    /// # Errors
    /// No engine.
    pub fn service_force(&self, id: &str) -> Result<()> {
        self.check_lease()?;
        self.ask_checked(&["service", "update", "--quiet", "--detach", "--force", id]).map(drop)
    }

    /// The last lines that a task's container printed, wherever it ran; not waited for where its node is gone.
    ///
    /// # Errors
    /// Only when docker cannot be started.
    pub fn task_logs(&self, id: &str, lines: u32) -> Result<Vec<String>> {
        let tail = lines.to_string();
        let words = ["service", "logs", "--raw", "--tail", &tail, id];
        let done = self.log(&self.docker_words(&words), LOGS)?;
        let both = done.stdout.lines().chain(done.stderr.lines().filter(|_| done.ok()));
        Ok(both.map(String::from).collect())
    }

    /// Removes services, and the tasks with them.
    ///
    /// # Errors
    /// No engine.
    pub fn remove_services(&self, ids: &[String]) -> Result<()> {
        match ids.is_empty() {
            true => Ok(()),
            false => {
                let words: Vec<&str> =
                    ["service", "rm"].into_iter().chain(ids.iter().map(String::as_str)).collect();
                self.ask_checked(&words).map(drop)
            }
        }
    }
}

/// An engine that cannot be asked of a Swarm.
pub fn no_manager() -> Error {
    Error::unchanged("this engine is no manager of a Swarm").hint(
        "`docker swarm init` makes it one; another engine is named with `--context` or `--host`; \
         `--engine compose` deploys on this machine alone",
    )
}

fn silent(words: &[&str], limit: Duration) -> Error {
    let command = words.iter().take(2).copied().collect::<Vec<_>>().join(" ");
    Error::unchanged(format!("`docker {command}`: no answer within {}s", limit.as_secs()))
}

/// Without what newer clients advise about a flag that older ones do not know.
fn without_advice(said: &str) -> String {
    let is_advice = |l: &&str| l.contains("--detach") || l.starts_with("In a future release,");
    said.lines().filter(|l| !is_advice(l)).map(|l| format!("{l}\n")).collect()
}

/// The answer to a list of nodes or services where there is no Swarm: the engine's own words; 404 of Podman, which has no
/// such list; 403 of a filter in front of the socket. None of it says anything about other questions.
fn is_no_manager(done: &CommandResult) -> bool {
    let stderr = done.stderr.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| stderr.contains(words));
    let is_refused = says(&["response from daemon"]) && says(&["not found", "forbidden"]);
    !done.ok() && (is_refused || says(&["not a swarm manager", "not part of a swarm"]))
}

/// What a refused stack is told with: the usual causes have a fix.
fn stack_fault(error: Error, said: &str) -> Error {
    if said.contains("only updates to Labels are allowed") {
        return error.hint(
            "a secret or config of a stack never changes: give it a name with its version in it, such as \
             `configs.site.name: site-${VERSION}`",
        );
    }
    if said.contains("cannot be used with services") || said.contains("scope") {
        return error.hint("a stack's networks are overlay networks: remove `driver` from `networks`");
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_without_swarm_and_a_filter_that_forbids_its_questions_have_none() {
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
