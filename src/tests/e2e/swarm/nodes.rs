//! A Swarm of separate engines.

use std::net::Ipv4Addr;
use std::process::Output;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::net::Network;
use crate::node::{self, Node};
use crate::test_project::{WAIT_LIMIT, fixture_variables, wait_until};

/// Time after which a leader counts as stable: a manager that returns may cause another election.
const STEADY_LEADER: Duration = Duration::from_secs(3);

pub struct SwarmNodes {
    /// Members; managers come first.
    members: Vec<SwarmMember>,
    net: Network,
}

struct SwarmMember {
    node: Node,
    is_manager: bool,
    /// Id in the Swarm; set after the join.
    id: OnceLock<String>,
}

impl SwarmNodes {
    /// Creates a Swarm whose nodes are ready and have the app's image. Managers come first.
    pub fn new(managers: usize, workers: usize) -> SwarmNodes {
        let net = Network::new();
        let mut nodes = SwarmNodes { members: Vec::new(), net };
        for number in 1..=(managers + workers) as u8 {
            let node = Node::start(&nodes.net, number, "{}");
            let is_manager = usize::from(number) <= managers;
            nodes.members.push(SwarmMember { node, is_manager, id: OnceLock::new() });
        }
        node::on_all(nodes.all(), Node::wait_until_up);
        nodes.join_all();
        nodes.load_images(&["ZD_APP_IMAGE"]);
        nodes
    }

    fn all(&self) -> impl Iterator<Item = &Node> {
        self.members.iter().map(|m| &m.node)
    }

    fn join_all(&self) {
        let first = &self.members[0].node;
        // A node counts as lost after three heartbeats.
        first.docker(&format!("swarm init --dispatcher-heartbeat 1s --advertise-addr {}", first.address));
        let token = |role: &str| first.docker(&format!("swarm join-token -q {role}"));
        let (manager, worker) = (token("manager"), token("worker"));
        node::on_all(self.all().skip(1), |node| {
            let is_manager = self.members[usize::from(node.number) - 1].is_manager;
            let token = if is_manager { &manager } else { &worker };
            node.docker(&format!("swarm join --token {token} {}:2377", first.address));
        });
        (0..self.members.len()).for_each(|node| _ = self.id(node));
        wait_until("all nodes are ready", WAIT_LIMIT, || {
            let nodes = first.get("/nodes");
            let all = nodes.as_array().into_iter().flatten();
            all.filter(|n| n["Status"]["State"] == "ready").count() == self.members.len()
        });
    }

    /// Copies the images named by these variables to every node.
    pub fn load_images(&self, variables: &[&str]) {
        let parts = fixture_variables();
        let images: Vec<String> = variables.iter().map(|name| parts[*name].clone()).collect();
        node::load_images(self.all(), &images);
    }

    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Address at which clients reach ports of mode `host`.
    pub fn address(&self, node: usize) -> Ipv4Addr {
        self.members[node].node.address
    }

    /// Address for `--host` and `DOCKER_HOST`.
    pub fn host(&self, node: usize) -> String {
        self.members[node].node.host()
    }

    /// Node id, as in its tasks.
    pub fn id(&self, node: usize) -> &str {
        let SwarmMember { node, id, .. } = &self.members[node];
        id.get_or_init(|| node.docker("info --format {{.Swarm.NodeID}}"))
    }

    /// Answer of the engine API; null without one.
    pub fn get(&self, node: usize, path: &str) -> Value {
        self.members[node].node.get(path)
    }

    pub fn try_docker(&self, node: usize, line: &str) -> Output {
        self.members[node].node.try_docker(line)
    }

    /// First manager that is not lost.
    pub fn manager(&self) -> usize {
        let found = self.members.iter().position(|m| m.is_manager && m.node.is_alive());
        found.expect("a manager that is not lost")
    }

    /// Waits for a leader, and returns it.
    pub fn leader(&self) -> usize {
        let (mut leader, mut since) = (None, Instant::now());
        wait_until("one of the managers leads, and goes on leading", WAIT_LIMIT, || {
            let nodes = self.get(self.manager(), "/nodes");
            let leads = |n: &&Value| n["ManagerStatus"]["Leader"] == true && n["Status"]["State"] == "ready";
            let found = nodes.as_array().into_iter().flatten().find(leads).map(|n| n["ID"].clone());
            let now = found.and_then(|id| (0..self.members.len()).find(|node| id == *self.id(*node)));
            if now != leader {
                (leader, since) = (now, Instant::now());
            }
            leader.is_some() && since.elapsed() > STEADY_LEADER
        });
        leader.expect("it was waited for")
    }

    pub fn lost(&self) -> impl Iterator<Item = usize> {
        self.all().enumerate().filter(|(_, n)| !n.is_alive()).map(|(node, _)| node)
    }

    /// Kills a node for good, as a power loss does.
    pub fn kill(&self, node: usize) {
        let node = &self.members[node].node;
        self.net.disconnect(node.number);
        node.stop();
    }

    /// Disconnects a node, as when a machine hangs: requests are neither answered nor refused.
    pub fn disconnect(&self, node: usize) {
        let node = &self.members[node].node;
        self.net.disconnect(node.number);
        node.freeze(&self.net);
    }

    /// Reconnects a node, and waits until it is back in the Swarm.
    pub fn reconnect(&self, node: usize) {
        let SwarmMember { node: engine, .. } = &self.members[node];
        engine.thaw(&self.net);
        self.net.reconnect(engine.number);
        wait_until("it is ready again", WAIT_LIMIT, || {
            let output = self.get(node, &format!("/nodes/{}", self.id(node)));
            output["Status"]["State"] == "ready"
        });
    }
}

impl Drop for SwarmNodes {
    fn drop(&mut self) {
        if thread::panicking() {
            self.all().for_each(Node::print_log);
        }
        self.all().for_each(Node::stop);
    }
}
