//! The engine of another machine, with a project of a test's own on it.

use std::process::Command;

use super::door::SshServer;
use crate::cli_runner::{CommandResult, RunningCommand};
use crate::load::Answers;
use crate::net::Network;
use crate::node::{self, Node, run};
use crate::test_project::{TestProject, fixture_variables};

/// Containers outlive their engine, as on servers where it is updated in service.
const SETTINGS: &str = r#"{"live-restore": true}"#;

/// The images of the projects there.
const IMAGES: [&str; 3] = ["ZD_APP_IMAGE", "NGINX_PROXY_IMAGE", "HAPROXY_IMAGE"];

/// One machine with an engine that is in no Swarm.
pub struct RemoteEngine {
    pub node: Node,
    pub net: Network,
}

impl RemoteEngine {
    /// It has all images.
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

/// A project there, whose proxy answers at that machine's address. What a test itself asks docker goes there by TCP, and so
/// does what compose-zd asks unless it is told otherwise.
pub struct RemoteProject<'e> {
    pub stage: TestProject,
    /// Closed before the engine's network goes.
    door: Option<SshServer>,
    pub engine: &'e RemoteEngine,
    /// The variables that compose-zd gets, where they are not those of the test's own questions.
    variables: String,
    flags: String,
}

impl<'e> RemoteProject<'e> {
    /// `app` behind nginx-proxy, which is given its engine's own socket.
    pub fn nginx_proxy(engine: &'e RemoteEngine, name: &str) -> RemoteProject<'e> {
        let far = RemoteProject::new(engine, name, "nginx-proxy-scale");
        let socket = far.engine.node.socket();
        far.write_override(&format!("volumes: ['{}:/tmp/docker.sock:ro']", socket.display()));
        far
    }

    /// `app` behind HAProxy. Its file is copied there: a path of this machine is none of that one.
    pub fn haproxy(engine: &'e RemoteEngine, name: &str) -> RemoteProject<'e> {
        let far = RemoteProject::new(engine, name, "haproxy-template");
        let text = serde_json::Value::from(far.stage.read("haproxy.cfg"));
        far.write_override(&format!(
            "volumes: !override []\n    configs: [{{source: file, target: /usr/local/etc/haproxy/haproxy.cfg}}]\n\
             configs: {{file: {{content: {text}}}}}"
        ));
        far
    }

    fn new(engine: &'e RemoteEngine, name: &str, fixture: &str) -> RemoteProject<'e> {
        let stage = TestProject::on_other_engine(engine.node.address, name);
        stage.copy_fixtures(fixture);
        stage.set_variables(&format!("DOCKER_HOST={} DOCKER_CONTEXT=", engine.node.tcp()));
        RemoteProject { stage, door: None, engine, variables: String::new(), flags: String::new() }
    }

    /// The proxy's port is open to other machines, and it has these keys.
    fn write_override(&self, keys: &str) {
        let ports = "ports: !override ['${PROXY_PORT}:80']";
        self.stage.write_override(&format!("services:\n  proxy:\n    {ports}\n    {keys}\n"));
    }

    /// compose-zd is told of the engine by a context of this name; its environment names one that is not there.
    pub fn connect_by_context(&mut self, name: &str) {
        let folder = self.stage.path("docker-settings");
        let variables = format!("DOCKER_CONFIG={}", folder.display());
        self.stage.set_variables(&variables);
        self.stage.docker(&format!("context create {name} --docker host={}", self.engine.node.tcp()));
        self.variables = "DOCKER_HOST=tcp://127.0.0.1:1".into();
        self.flags = format!("--context {name}");
    }

    /// compose-zd is told of it by its address, as what a test asks is.
    pub fn connect_by_tcp(&mut self) {
        self.variables = String::new();
        self.flags = String::new();
    }

    /// compose-zd is told of it by an address of ssh, whose client has these settings.
    pub fn connect_by_ssh(&mut self, settings: &str) {
        let door = SshServer::start(self.engine, &self.stage.path("ssh"), settings);
        self.variables = door.variables();
        self.door = Some(door);
    }

    pub fn up(&self, count: usize) {
        self.stage.up(&format!("--scale app={count}"));
    }

    pub fn start(&self, command: &str, words: &str) -> RunningCommand<'_> {
        let before = ["DOCKER_HOST", "PATH"].map(|name| format!("{name}={}", self.stage.variable(name)));
        self.stage.set_variables(&self.variables);
        let running = RunningCommand::start(&self.stage, &format!("{command} {} {words}", self.flags));
        // A variable that was not set stays as it is.
        before.iter().filter(|v| !v.ends_with('=')).for_each(|v| self.stage.set_variables(v));
        running
    }

    /// With clients from before to after it; by ssh everything takes its time.
    pub fn run_under_load(&self, command: &str, words: &str) -> (CommandResult, Answers) {
        let load = self.stage.start_load("--seconds 300");
        let ran = self.start(command, words).wait();
        (ran, load.stop())
    }

    /// An address of its containers is one of this machine's too, as two engines give the same ones.
    pub fn claim(&self, address: &str) {
        let name = self.engine.net.name();
        run(Command::new("ip").args(["addr", "add", &format!("{address}/32"), "dev", name]));
    }
}
