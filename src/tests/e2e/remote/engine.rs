//! The engine of another machine, and the project of a test on it.

use std::process::Command;

use super::door::SshServer;
use crate::cli_runner::{CommandResult, RunningCommand};
use crate::load::Answers;
use crate::net::Network;
use crate::node::{self, Node, run};
use crate::test_project::{TestProject, fixture_variables};

/// Settings with which containers outlive a restart of the engine.
const SETTINGS: &str = r#"{"live-restore": true}"#;

/// Images of the remote projects.
const IMAGES: [&str; 3] = ["ZD_APP_IMAGE", "NGINX_PROXY_IMAGE", "HAPROXY_IMAGE"];

/// One remote machine with an engine outside any Swarm.
pub struct RemoteEngine {
    pub node: Node,
    pub net: Network,
}

impl RemoteEngine {
    /// Starts the engine and loads all images.
    pub fn new() -> RemoteEngine {
        let net = Network::new();
        let node = Node::start(&net, 1, SETTINGS);
        node.wait_until_up();
        let engine = RemoteEngine { node, net };
        let parts = fixture_variables();
        let images = IMAGES.map(|name| parts[name].clone());
        node::load_images([&engine.node].into_iter(), &images);
        engine
    }
}

impl Drop for RemoteEngine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.node.print_log();
        }
        self.node.stop();
    }
}

/// A project on the remote engine, whose proxy answers at the address of that machine. The queries of the test use TCP, and so
/// do those of compose-zd by default.
pub struct RemoteProject<'e> {
    pub project: TestProject,
    /// Stopped before the network of the engine is removed.
    door: Option<SshServer>,
    pub engine: &'e RemoteEngine,
    /// Variables of compose-zd that differ from those of the test's own queries.
    variables: String,
    flags: String,
}

impl<'e> RemoteProject<'e> {
    /// `app` behind nginx-proxy, which mounts the socket of the remote engine.
    pub fn nginx_proxy(engine: &'e RemoteEngine, name: &str) -> RemoteProject<'e> {
        let far = RemoteProject::new(engine, name, "nginx-proxy-scale");
        let socket = far.engine.node.socket();
        far.write_override(&format!("volumes: ['{}:/tmp/docker.sock:ro']", socket.display()));
        far
    }

    /// `app` behind HAProxy. Its file is copied into the container, because the remote machine does not have the paths of this one.
    pub fn haproxy(engine: &'e RemoteEngine, name: &str) -> RemoteProject<'e> {
        let far = RemoteProject::new(engine, name, "haproxy-template");
        let text = serde_json::Value::from(far.project.read("haproxy.cfg"));
        far.write_override(&format!(
            "volumes: !override []\n    configs: [{{source: file, target: /usr/local/etc/haproxy/haproxy.cfg}}]\n\
             configs: {{file: {{content: {text}}}}}"
        ));
        far
    }

    fn new(engine: &'e RemoteEngine, name: &str, fixture: &str) -> RemoteProject<'e> {
        let project = TestProject::on_other_engine(engine.node.address, name);
        project.copy_fixtures(fixture);
        project.set_variables(&format!("DOCKER_HOST={} DOCKER_CONTEXT=", engine.node.tcp()));
        RemoteProject { project, door: None, engine, variables: String::new(), flags: String::new() }
    }

    /// Opens the proxy's port to other machines, and adds keys to the proxy.
    fn write_override(&self, keys: &str) {
        let ports = "ports: !override ['${PROXY_PORT}:80']";
        self.project.write_override(&format!("services:\n  proxy:\n    {ports}\n    {keys}\n"));
    }

    /// Makes compose-zd use a context of this name; its environment names a missing context.
    pub fn connect_by_context(&mut self, name: &str) {
        let folder = self.project.path("docker-settings");
        let variables = format!("DOCKER_CONFIG={}", folder.display());
        self.project.set_variables(&variables);
        self.project.docker(&format!("context create {name} --docker host={}", self.engine.node.tcp()));
        self.variables = "DOCKER_HOST=tcp://127.0.0.1:1".into();
        self.flags = format!("--context {name}");
    }

    /// Makes compose-zd use the TCP address.
    pub fn connect_by_tcp(&mut self) {
        self.variables = String::new();
        self.flags = String::new();
    }

    /// Makes compose-zd use an ssh address, with these settings of the ssh client.
    pub fn connect_by_ssh(&mut self, settings: &str) {
        let door = SshServer::start(self.engine, &self.project.path("ssh"), settings);
        self.variables = door.variables();
        self.door = Some(door);
    }

    pub fn up(&self, count: usize) {
        self.project.up(&format!("--scale app={count}"));
    }

    pub fn start(&self, command: &str, words: &str) -> RunningCommand<'_> {
        let before = ["DOCKER_HOST", "PATH"].map(|name| format!("{name}={}", self.project.variable(name)));
        self.project.set_variables(&self.variables);
        let running = RunningCommand::start(&self.project, &format!("{command} {} {words}", self.flags));
        // A variable that is not set here keeps its value.
        before.iter().filter(|v| !v.ends_with('=')).for_each(|v| self.project.set_variables(v));
        running
    }

    /// Runs a command under load, with enough time for ssh.
    pub fn run_under_load(&self, command: &str, words: &str) -> (CommandResult, Answers) {
        let load = self.project.start_load("--seconds 300");
        let result = self.start(command, words).wait();
        (result, load.stop())
    }

    /// Gives this machine an address that a remote container has, too, because two engines use the same addresses.
    pub fn claim(&self, address: &str) {
        let name = self.engine.net.name();
        run(Command::new("ip").args(["addr", "add", &format!("{address}/32"), "dev", name]));
    }
}
