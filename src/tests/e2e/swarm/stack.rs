//! A stack of a test's own: its folder, its name, its port, and what the Swarm says of it.

use std::ops::Deref;

use serde_json::Value;

use super::nodes::SwarmNodes;
use crate::cli_runner::{CommandResult, RunningCommand};
use crate::test_project::{WAIT_LIMIT, TestProject, wait_until};

pub struct TestStack<'n> {
    stage: TestProject,
    pub nodes: &'n SwarmNodes,
}

/// Folder, variables, commands, requests and clients are those of any project. Requests go to the first node's
/// address until told otherwise.
impl Deref for TestStack<'_> {
    type Target = TestProject;

    fn deref(&self) -> &TestProject {
        &self.stage
    }
}

impl<'n> TestStack<'n> {
    /// A stack of this one file.
    pub fn new(nodes: &'n SwarmNodes, name: &str, yaml: &str) -> TestStack<'n> {
        let stack = TestStack { stage: TestProject::on_other_engine(nodes.address(0), name), nodes };
        stack.write("compose.yaml", yaml);
        stack.use_node(nodes.manager());
        stack
    }

    /// A copy of a fixture's files.
    pub fn from_fixture(nodes: &'n SwarmNodes, name: &str, fixture: &str) -> TestStack<'n> {
        let stack = TestStack::new(nodes, name, "");
        stack.copy_fixtures(fixture);
        stack
    }

    /// Where there are several nodes, the images are on all of them, and in no registry.
    fn with_images(&self, words: &str) -> String {
        let never = if self.nodes.count() > 1 { "--resolve-image never " } else { "" };
        format!("{never}{words}")
    }

    pub fn deploy(&self, words: &str) -> CommandResult {
        self.stage.deploy(&self.with_images(words))
    }

    pub fn start_deploy(&self, words: &str) -> RunningCommand<'_> {
        self.stage.start_deploy(&self.with_images(words))
    }

    /// Says which node compose-zd and docker talk to from now on.
    pub fn use_node(&self, node: usize) {
        self.set_variables(&format!("DOCKER_HOST={} DOCKER_CONTEXT=", self.nodes.host(node)));
    }

    /// What a plain `docker stack deploy` does.
    pub fn stack_deploy(&self) {
        let words = "--resolve-image never --detach=true --compose-file compose.yaml";
        self.docker(&format!("stack deploy {words} {}", self.name));
    }
}

/// What the Swarm says, asked at a manager that is not lost.
impl TestStack<'_> {
    /// As the Swarm calls it.
    pub fn full_name(&self, service: &str) -> String {
        format!("{}_{service}", self.name)
    }

    /// As `docker service inspect` has it; null where there is none, or no manager leads at the moment.
    pub fn service(&self, service: &str) -> Value {
        self.get_from_manager(&format!("/services/{}", self.full_name(service)))
    }

    /// `completed`, `rollback_completed`…; empty before its first update.
    pub fn update_state(&self, service: &str) -> String {
        text(&self.service(service)["UpdateStatus"]["State"])
    }

    /// All that the Swarm remembers of a service.
    pub fn tasks(&self, service: &str) -> Vec<Value> {
        let filter = format!("%7B%22service%22%3A%5B%22{}%22%5D%7D", self.full_name(service));
        let told = self.get_from_manager(&format!("/tasks?filters={filter}"));
        told.as_array().cloned().unwrap_or_default()
    }

    /// Those that run, and are to.
    pub fn running(&self, service: &str) -> Vec<Value> {
        let mut tasks = self.tasks(service);
        tasks.retain(runs);
        tasks
    }

    /// The version of each task that runs, in order.
    pub fn versions(&self, service: &str) -> Vec<String> {
        versions(&self.tasks(service))
    }

    /// The ids of the nodes that its running tasks are on.
    pub fn task_nodes(&self, service: &str) -> Vec<String> {
        let mut places: Vec<String> = self.running(service).iter().map(|t| text(&t["NodeID"])).collect();
        places.sort();
        places.dedup();
        places
    }

    /// The variable VERSION of a task, or its image where it has none.
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

    /// These versions run, on nodes that are not lost, and nothing is on its way; waited for.
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
        // For the next one on the same nodes; with the nodes themselves everything goes.
        self.nodes.try_docker(manager, &format!("stack rm {}", self.name));
    }
}

/// It runs, and is to.
fn runs(task: &Value) -> bool {
    task["DesiredState"] == "running" && task["Status"]["State"] == "running"
}

/// Of those that run, in order.
fn versions(tasks: &[Value]) -> Vec<String> {
    let mut versions: Vec<String> = tasks.iter().filter(|t| runs(t)).map(TestStack::version).collect();
    versions.sort();
    versions
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().into()
}
