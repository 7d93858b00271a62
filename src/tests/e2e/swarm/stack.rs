//! The stack of one test, with its own folder, name and port, and its state in the Swarm.

use std::ops::Deref;

use serde_json::Value;

use super::nodes::SwarmNodes;
use crate::cli_runner::{CommandResult, RunningCommand};
use crate::test_project::{TestProject, WAIT_LIMIT, wait_until};

pub struct TestStack<'n> {
    project: TestProject,
    pub nodes: &'n SwarmNodes,
}

/// Folder, variables, commands, requests and clients are those of any project. Requests go to the first node by default.
impl Deref for TestStack<'_> {
    type Target = TestProject;

    fn deref(&self) -> &TestProject {
        &self.project
    }
}

impl<'n> TestStack<'n> {
    /// Stack from one file.
    pub fn new(nodes: &'n SwarmNodes, name: &str, yaml: &str) -> TestStack<'n> {
        let stack = TestStack { project: TestProject::on_other_engine(nodes.address(0), name), nodes };
        stack.write("compose.yaml", yaml);
        stack.use_node(nodes.manager());
        stack
    }

    /// Stack from a copy of a fixture.
    pub fn from_fixture(nodes: &'n SwarmNodes, name: &str, fixture: &str) -> TestStack<'n> {
        let stack = TestStack::new(nodes, name, "");
        stack.copy_fixtures(fixture);
        stack
    }

    /// Adds the flag for images that are on every node and in no registry.
    fn with_images(&self, words: &str) -> String {
        let never = if self.nodes.count() > 1 { "--resolve-image never " } else { "" };
        format!("{never}{words}")
    }

    pub fn deploy(&self, words: &str) -> CommandResult {
        self.project.deploy(&self.with_images(words))
    }

    pub fn start_deploy(&self, words: &str) -> RunningCommand<'_> {
        self.project.start_deploy(&self.with_images(words))
    }

    /// Sets the node that compose-zd and docker talk to.
    pub fn use_node(&self, node: usize) {
        self.set_variables(&format!("DOCKER_HOST={} DOCKER_CONTEXT=", self.nodes.host(node)));
    }

    /// Runs a plain `docker stack deploy`.
    pub fn stack_deploy(&self) {
        let words = "--resolve-image never --detach=true --compose-file compose.yaml";
        self.docker(&format!("stack deploy {words} {}", self.name));
    }
}

/// State of the Swarm, from a manager that is not lost.
impl TestStack<'_> {
    /// Name of a service in the Swarm.
    pub fn full_name(&self, service: &str) -> String {
        format!("{}_{service}", self.name)
    }

    /// Service as in `docker service inspect`; null without one, or without a leader.
    pub fn service(&self, service: &str) -> Value {
        self.get_from_manager(&format!("/services/{}", self.full_name(service)))
    }

    /// Update state, such as `completed`; empty before the first update.
    pub fn update_state(&self, service: &str) -> String {
        text(&self.service(service)["UpdateStatus"]["State"])
    }

    /// Tasks of a service that Swarm remembers.
    pub fn tasks(&self, service: &str) -> Vec<Value> {
        let filter = format!("%7B%22service%22%3A%5B%22{}%22%5D%7D", self.full_name(service));
        let output = self.get_from_manager(&format!("/tasks?filters={filter}"));
        output.as_array().cloned().unwrap_or_default()
    }

    /// Tasks that run and are desired to.
    pub fn running(&self, service: &str) -> Vec<Value> {
        let mut tasks = self.tasks(service);
        tasks.retain(runs);
        tasks
    }

    /// Sorted versions of the running tasks.
    pub fn versions(&self, service: &str) -> Vec<String> {
        versions(&self.tasks(service))
    }

    /// Node ids of the running tasks.
    pub fn task_nodes(&self, service: &str) -> Vec<String> {
        let mut places: Vec<String> = self.running(service).iter().map(|t| text(&t["NodeID"])).collect();
        places.sort();
        places.dedup();
        places
    }

    /// Variable VERSION of a task, or else its image.
    pub fn version(task: &Value) -> String {
        let container = &task["Spec"]["ContainerSpec"];
        let mut variables = container["Env"].as_array().into_iter().flatten();
        let version = variables.find_map(|v| v.as_str()?.strip_prefix("VERSION="));
        version.map_or_else(|| text(&container["Image"]), String::from)
    }

    pub fn is_on_lost(&self, task: &Value) -> bool {
        self.nodes.lost().any(|node| self.is_on(task, node))
    }

    pub fn is_on(&self, task: &Value, node: usize) -> bool {
        task["NodeID"] == *self.nodes.id(node)
    }

    /// Waits until exactly these versions run on nodes that are not lost, and nothing is starting.
    pub fn wait_for_versions(&self, service: &str, expected: &[&str]) {
        wait_until(&format!("{service} is {expected:?}"), WAIT_LIMIT, || {
            let on_their_way =
                |t: &Value| t["DesiredState"] == "running" && t["Status"]["State"] != "running";
            let tasks = self.tasks(service);
            let lost = tasks.iter().any(|t| runs(t) && self.is_on_lost(t));
            !lost && !tasks.iter().any(on_their_way) && versions(&tasks) == expected
        });
    }

    fn get_from_manager(&self, path: &str) -> Value {
        self.nodes.get(self.nodes.manager(), path)
    }
}

impl Drop for TestStack<'_> {
    fn drop(&mut self) {
        let manager = self.nodes.manager();
        if std::thread::panicking() {
            for words in ["stack ps --no-trunc", "stack services"] {
                let output = self.nodes.try_docker(manager, &format!("{words} {}", self.name));
                eprintln!("==== docker {words}\n{}", String::from_utf8_lossy(&output.stdout));
            }
        }
        // For the next stack on the same nodes; the end of the nodes removes everything.
        self.nodes.try_docker(manager, &format!("stack rm {}", self.name));
    }
}

/// The task runs and is desired to.
fn runs(task: &Value) -> bool {
    task["DesiredState"] == "running" && task["Status"]["State"] == "running"
}

/// Sorted versions of running tasks.
fn versions(tasks: &[Value]) -> Vec<String> {
    let mut versions: Vec<String> = tasks.iter().filter(|t| runs(t)).map(TestStack::version).collect();
    versions.sort();
    versions
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().into()
}
