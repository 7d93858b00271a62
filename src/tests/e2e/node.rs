//! An engine of a test's own, on a machine of its own as far as it can tell: network, processes, mounts and name.
//! Whatever ends the test ends it too.

use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::net::Net;
use crate::stage::{LONG, wait_until};

/// How many lines of each engine's log a failed test shows.
const LOG_LINES: usize = 15;

/// Where it listens for others, beside its socket.
const PORT: u16 = 2375;

/// The first process of a node. The kernel ends all others with it: the engine, containerd and the containers. It
/// ends when nobody holds the other end of its input any more, so also when the test is killed; each line of it starts
/// the engine again.
///
/// An engine takes the machine's containerd where there is one, so that is hidden.
const INIT: &str = r#"
echo "$1" >/proc/sys/kernel/hostname
mkdir -p /run/containerd && mount -t tmpfs none /run/containerd || exit
dockerd "${@:2}" </dev/null &
while read -r _; do dockerd "${@:2}" </dev/null & done
"#;

pub struct Node {
    pub number: u8,
    /// Its host name too.
    pub name: String,
    pub address: Ipv4Addr,
    folder: PathBuf,
    /// None when it is lost.
    life: Mutex<Option<Child>>,
    /// It is frozen.
    silent: AtomicBool,
}

impl Node {
    /// Its engine has these settings, and need not answer yet.
    pub fn start(net: &Net, number: u8, settings: &str) -> Node {
        let (address, name) = (net.plug(number), net.namespace(number));
        let folder = net.folder().join(number.to_string());
        fs::create_dir_all(&folder).expect("a folder");
        // Those of the machine's own engine are none of its.
        fs::write(folder.join("daemon.json"), settings).expect("its settings");
        let (life, silent) = (Mutex::new(None), AtomicBool::new(false));
        let node = Node { number, name, address, folder, life, silent };
        let child = node.command(net).spawn().expect("`nsenter` can be started");
        node.life.lock().expect("nobody panicked").replace(child);
        node
    }

    /// Not `ip netns exec`: that hides the cgroups.
    fn command(&self, net: &Net) -> Command {
        let Node { name, folder, .. } = self;
        let driver = run(&mut machine("info --format {{.Driver}}"));
        let log = File::create(folder.join("log")).expect("its log");
        let again = log.try_clone().expect("its log");
        let place = |option: &str, name: &str| format!("--{option}={}", folder.join(name).display());
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/var/run/netns/{name}"))
            .args(["unshare", "--pid", "--fork", "--mount-proc", "--uts"])
            .args(["bash", "-c", INIT, "init", name, "--host", &self.host(), "--host", &self.tcp()])
            .args(["--tls=false", "--storage-driver", &driver])
            .args([place("config-file", "daemon.json"), place("pidfile", "pid")])
            .args([place("data-root", "data"), place("exec-root", "exec")])
            .args(["--exec-opt", "native.cgroupdriver=cgroupfs"])
            .arg(format!("--cgroup-parent=/{}/{name}", net.name()))
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(again);
        command
    }

    pub fn wait_until_up(&self) {
        wait_until(&format!("the engine of {} answers", self.name), LONG, || {
            assert!(self.lives(), "it ended at once:\n{}", self.log());
            self.try_docker("version").status.success()
        });
    }

    /// Its socket, for `--host` and `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("docker.sock")
    }

    /// The same over the network, as this machine and other nodes reach it.
    pub fn tcp(&self) -> String {
        format!("tcp://{}:{PORT}", self.address)
    }

    pub fn docker(&self, line: &str) -> String {
        run(&mut self.docker_command(line))
    }

    pub fn try_docker(&self, line: &str) -> Output {
        self.docker_command(line).output().expect("docker can be started")
    }

    fn docker_command(&self, line: &str) -> Command {
        let mut command = machine(line);
        command.env("DOCKER_HOST", self.host()).env_remove("DOCKER_CONTEXT");
        command
    }

    /// Whether its first process runs, and its engine answers.
    pub fn lives(&self) -> bool {
        let mut life = self.life.lock().expect("nobody panicked");
        let runs = life.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_none()));
        runs && !self.silent.load(Ordering::Relaxed)
    }

    /// Its engine hangs: what is asked there is never answered, and never refused.
    pub fn freeze(&self, net: &Net) {
        self.signal(net, "STOP");
        self.silent.store(true, Ordering::Relaxed);
    }

    /// It goes on.
    pub fn thaw(&self, net: &Net) {
        self.signal(net, "CONT");
        self.silent.store(false, Ordering::Relaxed);
    }

    /// Ends its engine at once; its containers go on.
    pub fn kill_engine(&self, net: &Net) {
        self.signal(net, "KILL");
        wait_until("its engine is gone", LONG, || self.engine(net).is_none());
    }

    /// Starts its engine again.
    pub fn start_engine(&self) {
        let mut life = self.life.lock().expect("nobody panicked");
        let stdin = life.as_mut().and_then(|child| child.stdin.as_mut());
        stdin.expect("it is not lost").write_all(b"\n").expect("its first process reads");
    }

    fn signal(&self, net: &Net, name: &str) {
        let engine = self.engine(net).expect("its engine runs");
        run(Command::new("kill").args(["-s", name, &engine]));
    }

    fn engine(&self, net: &Net) -> Option<String> {
        let comm = |id: &String| fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        net.processes(self.number).into_iter().find(|id| comm(id).trim() == "dockerd")
    }

    /// Returns when none of its processes is left.
    pub fn end(&self) {
        let life = self.life.lock().ok().and_then(|mut life| life.take());
        if let Some(mut child) = life {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }

    /// For a test that fails: the last lines in which its engine complains.
    pub fn show(&self) {
        eprintln!("==== the engine of {}\n{}", self.name, self.log());
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|l| !l.contains("level=info")).collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// Copies an image of the machine's own engine to these.
pub fn bring<'n>(net: &Net, nodes: impl Iterator<Item = &'n Node>, image: &str) {
    let file = net.folder().join("image.tar");
    run(machine("save --output").arg(&file).arg(image));
    at_once(nodes, |node| {
        node.docker(&format!("load --quiet --input {}", file.display()));
    });
}

/// Does it on all that are not lost, at the same time.
pub fn at_once<'n>(nodes: impl Iterator<Item = &'n Node>, act: impl Fn(&Node) + Sync) {
    std::thread::scope(|scope| {
        for node in nodes.filter(|n| n.lives()) {
            scope.spawn(|| act(node));
        }
    });
}

/// docker as it is set up on this machine.
pub fn machine(line: &str) -> Command {
    let mut command = Command::new("docker");
    command.args(line.split_whitespace()).stdin(Stdio::null());
    command
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().expect("it can be started");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}");
    String::from_utf8_lossy(&output.stdout).trim().into()
}
