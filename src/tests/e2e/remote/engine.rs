//! The engine of another machine, with a project of a test's own on it.

use std::process::Command;

use super::door::Door;
use crate::cli_runner::{Ran, Running};
use crate::load::Answers;
use crate::net::Net;
use crate::node::{self, Node, run};
use crate::test_project::{Stage, parts};

/// Containers outlive their engine, as on servers where it is updated in service.
const SETTINGS: &str = r#"{"live-restore": true}"#;

/// The images of the projects there.
const IMAGES: [&str; 3] = ["ZD_APP_IMAGE", "NGINX_PROXY_IMAGE", "HAPROXY_IMAGE"];

/// One machine with an engine that is in no Swarm.
pub struct Engine {
    pub node: Node,
    pub net: Net,
}

impl Engine {
    /// It has all images.
    pub fn new() -> Engine {
        let net = Net::new();
        let node = Node::start(&net, 1, SETTINGS);
        node.wait_until_up();
        let engine = Engine { node, net };
        let parts = parts();
        let images = IMAGES.map(|name| parts[name].clone());
        node::bring([&engine.node].into_iter(), &images);
        engine
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.node.show();
        }
        self.node.end();
    }
}

/// A project there, whose proxy answers at that machine's address. What a test itself asks docker goes there by TCP, and so
/// does what compose-zd asks unless it is told otherwise.
pub struct Far<'e> {
    pub stage: Stage,
    /// Closed before the engine's network goes.
    door: Option<Door>,
    pub engine: &'e Engine,
    /// The variables that compose-zd gets, where they are not those of the test's own questions.
    variables: String,
    flags: String,
}

impl<'e> Far<'e> {
    /// `app` behind nginx-proxy, which is given its engine's own socket.
    pub fn nginx_proxy(engine: &'e Engine, name: &str) -> Far<'e> {
        let far = Far::new(engine, name, "nginx-proxy-scale");
        let socket = far.engine.node.socket();
        far.add(&format!("volumes: ['{}:/tmp/docker.sock:ro']", socket.display()));
        far
    }

    /// `app` behind HAProxy. Its file is copied there: a path of this machine is none of that one.
    pub fn haproxy(engine: &'e Engine, name: &str) -> Far<'e> {
        let far = Far::new(engine, name, "haproxy-template");
        let text = serde_json::Value::from(far.stage.read("haproxy.cfg"));
        far.add(&format!(
            "volumes: !override []\n    configs: [{{source: file, target: /usr/local/etc/haproxy/haproxy.cfg}}]\n\
             configs: {{file: {{content: {text}}}}}"
        ));
        far
    }

    fn new(engine: &'e Engine, name: &str, fixture: &str) -> Far<'e> {
        let stage = Stage::on(engine.node.address, name);
        stage.copy_all(fixture);
        stage.set(&format!("DOCKER_HOST={} DOCKER_CONTEXT=", engine.node.tcp()));
        Far { stage, door: None, engine, variables: String::new(), flags: String::new() }
    }

    /// The proxy's port is open to other machines, and it has these keys.
    fn add(&self, keys: &str) {
        let ports = "ports: !override ['${PROXY_PORT}:80']";
        self.stage.add(&format!("services:\n  proxy:\n    {ports}\n    {keys}\n"));
    }

    /// compose-zd is told of the engine by a context of this name; its environment names one that is not there.
    pub fn by_context(&mut self, name: &str) {
        let folder = self.stage.path("docker-settings");
        let variables = format!("DOCKER_CONFIG={}", folder.display());
        self.stage.set(&variables);
        self.stage.docker(&format!("context create {name} --docker host={}", self.engine.node.tcp()));
        self.variables = "DOCKER_HOST=tcp://127.0.0.1:1".into();
        self.flags = format!("--context {name}");
    }

    /// compose-zd is told of it by its address, as what a test asks is.
    pub fn by_tcp(&mut self) {
        self.variables = String::new();
        self.flags = String::new();
    }

    /// compose-zd is told of it by an address of ssh, whose client has these settings.
    pub fn by_ssh(&mut self, settings: &str) {
        let door = Door::open(self.engine, &self.stage.path("ssh"), settings);
        self.variables = door.variables();
        self.door = Some(door);
    }

    pub fn up(&self, count: usize) {
        self.stage.up(&format!("--scale app={count}"));
    }

    pub fn start(&self, command: &str, words: &str) -> Running<'_> {
        let before = ["DOCKER_HOST", "PATH"].map(|name| format!("{name}={}", self.stage.variable(name)));
        self.stage.set(&self.variables);
        let running = Running::start(&self.stage, &format!("{command} {} {words}", self.flags));
        // A variable that was not set stays as it is.
        before.iter().filter(|v| !v.ends_with('=')).for_each(|v| self.stage.set(v));
        running
    }

    /// With clients from before to after it; by ssh everything takes its time.
    pub fn under_load(&self, command: &str, words: &str) -> (Ran, Answers) {
        let load = self.stage.start_load("--seconds 300");
        let ran = self.start(command, words).end();
        (ran, load.end())
    }

    /// An address of its containers is one of this machine's too, as two engines give the same ones.
    pub fn claim(&self, address: &str) {
        let name = self.engine.net.name();
        run(Command::new("ip").args(["addr", "add", &format!("{address}/32"), "dev", name]));
    }
}
