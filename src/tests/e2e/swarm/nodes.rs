//! A Swarm of engines of its own, each on a machine of its own as far as it can tell: network, processes, mounts and
//! name. Whatever ends the test ends them too.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;

use super::net::Net;
use crate::stage::{LONG, parts, wait_until};

/// How many lines of each engine's log a failed test shows.
const LOG_LINES: usize = 15;

/// The first process of a node. The kernel ends all others with it: the engine, containerd and the containers. It
/// ends when nobody holds the other end of its input any more, so also when the test is killed.
///
/// An engine takes the machine's containerd where there is one, so that is hidden.
const INIT: &str = r#"
echo "$1" >/proc/sys/kernel/hostname
mkdir -p /run/containerd && mount -t tmpfs none /run/containerd || exit
dockerd "${@:2}" </dev/null &
read -r _
"#;

pub struct Nodes {
    /// Managers come first.
    nodes: Vec<Node>,
    net: Net,
}

struct Node {
    number: u8,
    /// Its host name too.
    name: String,
    address: Ipv4Addr,
    is_manager: bool,
    folder: PathBuf,
    /// Of the Swarm; set once it has joined.
    id: OnceLock<String>,
    /// None when it is lost.
    life: Mutex<Option<Child>>,
    /// It is frozen.
    silent: AtomicBool,
}

impl Nodes {
    /// A Swarm whose nodes are all ready and have the app's image. Managers are the first.
    pub fn new(managers: usize, workers: usize) -> Nodes {
        let net = Net::new();
        let driver = run(&mut machine("info --format {{.Driver}}"));
        let mut nodes = Nodes { nodes: Vec::new(), net };
        for number in 1..=(managers + workers) as u8 {
            let node = Node::start(&nodes.net, number, usize::from(number) <= managers, &driver);
            nodes.nodes.push(node);
        }
        nodes.at_once(Node::wait_until_up);
        nodes.join_all();
        nodes.bring(&parts()["ZD_APP_IMAGE"]);
        nodes
    }

    fn join_all(&self) {
        let first = &self.nodes[0];
        // A node is taken for lost after three beats.
        first.docker(&format!("swarm init --dispatcher-heartbeat 1s --advertise-addr {}", first.address));
        let token = |role: &str| first.docker(&format!("swarm join-token -q {role}"));
        let (manager, worker) = (token("manager"), token("worker"));
        self.at_once(|node| {
            if node.number != first.number {
                let token = if node.is_manager { &manager } else { &worker };
                node.docker(&format!("swarm join --token {token} {}:2377", first.address));
            }
        });
        (0..self.nodes.len()).for_each(|node| _ = self.id(node));
        wait_until("all nodes are ready", LONG, || {
            let states = first.docker("node ls --format {{.Status}}");
            states.lines().filter(|s| *s == "Ready").count() == self.nodes.len()
        });
    }

    /// Copies an image of the machine's own engine to every node.
    pub fn bring(&self, image: &str) {
        let file = self.net.folder().join("image.tar");
        run(machine("save --output").arg(&file).arg(image));
        self.at_once(|node| {
            node.docker(&format!("load --quiet --input {}", file.display()));
        });
    }

    /// Does it on all nodes that are not lost, at the same time.
    fn at_once(&self, act: impl Fn(&Node) + Sync) {
        thread::scope(|scope| {
            for node in self.nodes.iter().filter(|n| n.lives()) {
                scope.spawn(|| act(node));
            }
        });
    }

    /// As clients reach what it publishes in host mode.
    pub fn address(&self, node: usize) -> Ipv4Addr {
        self.nodes[node].address
    }

    /// For `--host` and `DOCKER_HOST`.
    pub fn host(&self, node: usize) -> String {
        self.nodes[node].host()
    }

    /// As the tasks on it call it.
    pub fn id(&self, node: usize) -> &str {
        let node = &self.nodes[node];
        node.id.get_or_init(|| node.docker("info --format {{.Swarm.NodeID}}"))
    }

    pub fn try_docker(&self, node: usize, line: &str) -> Output {
        self.nodes[node].try_docker(line)
    }

    /// The first one that is not lost.
    pub fn manager(&self) -> usize {
        let found = self.nodes.iter().position(|n| n.is_manager && n.lives());
        found.expect("a manager that is not lost")
    }

    pub fn lost(&self) -> impl Iterator<Item = usize> {
        self.nodes.iter().enumerate().filter(|(_, n)| !n.lives()).map(|(node, _)| node)
    }

    /// Takes it away for good as when a machine loses its power: it falls silent, and nothing on it can do anything.
    pub fn lose(&self, node: usize) {
        let node = &self.nodes[node];
        self.net.unplug(node.number);
        node.end();
    }

    /// As a machine that hangs, or that the network has lost: what is asked there is never answered, and never refused.
    pub fn silence(&self, node: usize) {
        let node = &self.nodes[node];
        self.net.unplug(node.number);
        for process in self.net.processes(node.number) {
            let comm = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
            if comm.trim() == "dockerd" {
                run(Command::new("kill").args(["-s", "STOP", &process]));
            }
        }
        node.silent.store(true, Ordering::Relaxed);
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        if thread::panicking() {
            self.nodes.iter().for_each(|n| eprintln!("==== the engine of {}\n{}", n.name, n.log()));
        }
        self.nodes.iter().for_each(Node::end);
    }
}

impl Node {
    fn start(net: &Net, number: u8, is_manager: bool, driver: &str) -> Node {
        let (address, name) = (net.plug(number), net.namespace(number));
        let folder = net.folder().join(number.to_string());
        fs::create_dir_all(&folder).expect("a folder");
        let (id, life, silent) = (OnceLock::new(), Mutex::new(None), AtomicBool::new(false));
        let node = Node { number, name, address, is_manager, folder, id, life, silent };
        let child = node.command(net, driver).spawn().expect("`nsenter` can be started");
        node.life.lock().expect("nobody panicked").replace(child);
        node
    }

    /// Not `ip netns exec`: that hides the cgroups.
    fn command(&self, net: &Net, driver: &str) -> Command {
        let Node { name, folder, .. } = self;
        let log = File::create(folder.join("log")).expect("its log");
        let again = log.try_clone().expect("its log");
        // The settings of the machine's own engine are none of its.
        fs::write(folder.join("daemon.json"), "{}").expect("its settings");
        let place = |option: &str, name: &str| format!("--{option}={}", folder.join(name).display());
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/var/run/netns/{name}"))
            .args(["unshare", "--pid", "--fork", "--mount-proc", "--uts"])
            .args(["bash", "-c", INIT, "init", name, "--host", &self.host()])
            .args([place("config-file", "daemon.json"), place("pidfile", "pid")])
            .args([place("data-root", "data"), place("exec-root", "exec")])
            .args(["--storage-driver", driver, "--exec-opt", "native.cgroupdriver=cgroupfs"])
            .arg(format!("--cgroup-parent=/{}/{name}", net.name()))
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(again);
        command
    }

    fn wait_until_up(&self) {
        wait_until(&format!("the engine of {} answers", self.name), LONG, || {
            assert!(self.lives(), "it ended at once:\n{}", self.log());
            self.try_docker("version").status.success()
        });
    }

    fn host(&self) -> String {
        format!("unix://{}", self.folder.join("docker.sock").display())
    }

    fn docker(&self, line: &str) -> String {
        run(&mut self.docker_command(line))
    }

    fn try_docker(&self, line: &str) -> Output {
        self.docker_command(line).output().expect("docker can be started")
    }

    fn docker_command(&self, line: &str) -> Command {
        let mut command = machine(line);
        command.env("DOCKER_HOST", self.host()).env_remove("DOCKER_CONTEXT");
        command
    }

    /// Whether its first process runs, and its engine answers.
    fn lives(&self) -> bool {
        let mut life = self.life.lock().expect("nobody panicked");
        let runs = life.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_none()));
        runs && !self.silent.load(Ordering::Relaxed)
    }

    /// Returns when none of its processes is left.
    fn end(&self) {
        let life = self.life.lock().ok().and_then(|mut life| life.take());
        if let Some(mut child) = life {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }

    /// The last lines in which its engine complains.
    fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|l| !l.contains("level=info")).collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// docker as it is set up on this machine.
fn machine(line: &str) -> Command {
    let mut command = Command::new("docker");
    command.args(line.split_whitespace()).stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> String {
    let output = command.output().expect("it can be started");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}");
    String::from_utf8_lossy(&output.stdout).trim().into()
}
