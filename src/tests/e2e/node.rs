//! A node: a separate Docker engine with its own network, processes, mounts and host name. The end of the test ends the node.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::net::Network;
use crate::test_project::{WAIT_LIMIT, wait_until};

/// Number of log lines of each engine that a failed test shows.
const LOG_LINES: usize = 15;

/// Prefix of the files with saved images.
const IMAGE_FILE_PREFIX: &str = "compose-zd-e2e-images-";

/// Age after which an unused file is removed.
const UNUSED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Timeout for one answer of an engine.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// Longest time of a docker command.
const DOCKER_LIMIT: Duration = Duration::from_secs(120);

/// TCP port of the engine, besides its socket.
const PORT: u16 = 2375;

/// First process of a node. The kernel ends the engine, containerd and the containers with it. The process ends when its
/// input is closed, so also when the test is killed. Each input line starts the engine again.
///
/// An engine would use the containerd of the machine, so the script hides it.
const INIT: &str = r#"
echo "$1" >/proc/sys/kernel/hostname
mkdir -p /run/containerd && mount -t tmpfs none /run/containerd || exit
dockerd "${@:2}" </dev/null &
while read -r _; do dockerd "${@:2}" </dev/null & done
"#;

pub struct Node {
    pub number: u8,
    /// Name of the namespace, and host name.
    pub name: String,
    pub address: Ipv4Addr,
    folder: PathBuf,
    /// First process; none for a lost node.
    process: Mutex<Option<Child>>,
    /// The engine is stopped by SIGSTOP.
    is_frozen: AtomicBool,
}

impl Node {
    /// Starts a node whose engine has these settings; the engine may not answer yet.
    pub fn start(net: &Network, number: u8, settings: &str) -> Node {
        let (address, name) = (net.add_node(number), net.namespace(number));
        let folder = net.folder().join(number.to_string());
        fs::create_dir_all(&folder).expect("a folder");
        // The settings of the machine's own engine must not apply.
        fs::write(folder.join("daemon.json"), settings).expect("its settings");
        let (life, silent) = (Mutex::new(None), AtomicBool::new(false));
        let node = Node { number, name, address, folder, process: life, is_frozen: silent };
        let child = node.command(net).spawn().expect("`nsenter` can be started");
        node.process.lock().expect("no thread panicked").replace(child);
        node
    }

    /// Command of the first process. `ip netns exec` would hide the cgroups.
    fn command(&self, net: &Network) -> Command {
        let Node { name, folder, .. } = self;
        let log = File::create(folder.join("log")).expect("its log");
        let again = log.try_clone().expect("its log");
        let place = |option: &str, name: &str| format!("--{option}={}", folder.join(name).display());
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/var/run/netns/{name}"))
            .args(["unshare", "--pid", "--fork", "--mount-proc", "--uts"])
            .args(["bash", "-c", INIT, "init", name, "--host", &self.host(), "--host", &self.tcp()])
            .args(["--tls=false", "--storage-driver", storage_driver()])
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
        wait_until(&format!("the engine of {} answers", self.name), WAIT_LIMIT, || {
            assert!(self.is_alive(), "it ended at once:\n{}", self.log());
            !self.get("/version").is_null()
        });
    }

    /// Answer of the engine API; null without one. Polling through docker clients would cost more than the work that it waits for.
    pub fn get(&self, path: &str) -> Value {
        self.try_get(path).ok().flatten().unwrap_or_default()
    }

    fn try_get(&self, path: &str) -> io::Result<Option<Value>> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        // The answer ends with the connection.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let ok = answer.split(' ').nth(1) == Some("200");
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).filter(|_| ok);
        Ok(body.and_then(|text| serde_json::from_str(text).ok()))
    }

    /// Address of the socket, for `--host` and `DOCKER_HOST`.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("docker.sock")
    }

    /// Address over the network, for this machine and other nodes.
    pub fn tcp(&self) -> String {
        format!("tcp://{}:{PORT}", self.address)
    }

    pub fn docker(&self, line: &str) -> String {
        run(&mut self.docker_command(line))
    }

    pub fn try_docker(&self, line: &str) -> Output {
        self.docker_command(line).output().expect("docker can be started")
    }

    /// A Swarm without a leader may never answer.
    fn docker_command(&self, line: &str) -> Command {
        let mut command = Command::new("timeout");
        command.arg(DOCKER_LIMIT.as_secs().to_string()).arg("docker").args(line.split_whitespace());
        command.stdin(Stdio::null()).env("DOCKER_HOST", self.host()).env_remove("DOCKER_CONTEXT");
        command
    }

    /// The first process runs, and the engine is not frozen.
    pub fn is_alive(&self) -> bool {
        let mut life = self.process.lock().expect("no thread panicked");
        let runs = life.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_none()));
        runs && !self.is_frozen.load(Ordering::Relaxed)
    }

    /// Freezes the engine: requests are neither answered nor refused.
    pub fn freeze(&self, net: &Network) {
        self.signal(net, "STOP");
        self.is_frozen.store(true, Ordering::Relaxed);
    }

    /// Continues a frozen engine.
    pub fn thaw(&self, net: &Network) {
        self.signal(net, "CONT");
        self.is_frozen.store(false, Ordering::Relaxed);
    }

    /// Kills the engine; the containers keep running.
    pub fn kill_engine(&self, net: &Network) {
        self.signal(net, "KILL");
        wait_until("its engine is gone", WAIT_LIMIT, || self.engine(net).is_none());
    }

    /// Starts the engine again.
    pub fn start_engine(&self) {
        let mut life = self.process.lock().expect("no thread panicked");
        let stdin = life.as_mut().and_then(|child| child.stdin.as_mut());
        stdin.expect("it is not lost").write_all(b"\n").expect("its first process reads");
    }

    fn signal(&self, net: &Network, name: &str) {
        let engine = self.engine(net).expect("its engine runs");
        run(Command::new("kill").args(["-s", name, &engine]));
    }

    fn engine(&self, net: &Network) -> Option<String> {
        let comm = |id: &String| fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
        net.processes(self.number).into_iter().find(|id| comm(id).trim() == "dockerd")
    }

    /// Stops the node, and returns when no process of it is left.
    pub fn stop(&self) {
        let life = self.process.lock().ok().and_then(|mut life| life.take());
        if let Some(mut child) = life {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }

    /// Prints the last warnings and errors of the engine, for a failed test.
    pub fn print_log(&self) {
        eprintln!("==== the engine of {}\n{}", self.name, self.log());
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|l| !l.contains("level=info")).collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// Overlay if the kernel can mount one here, because other drivers start containers more slowly; else the driver of the
/// machine's own engine.
fn storage_driver() -> &'static str {
    static DRIVER: LazyLock<String> = LazyLock::new(|| {
        if can_mount_overlay() {
            "overlay2".into()
        } else {
            run(&mut host_docker("info --format {{.Driver}}"))
        }
    });
    &DRIVER
}

/// Tries an overlay mount in a separate namespace, so that nothing stays mounted.
fn can_mount_overlay() -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let mount = "cd \"$1\" && mkdir l u w m && mount -t overlay none -o lowerdir=l,upperdir=u,workdir=w m";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", mount, "sh"]).arg(folder.path());
    command.output().is_ok_and(|output| output.status.success())
}

/// Copies images from the machine's own engine to nodes.
pub fn load_images<'n>(nodes: impl Iterator<Item = &'n Node>, images: &[String]) {
    let file = save_images(images);
    on_all(nodes, |node| {
        node.docker(&format!("load --quiet --input {}", file.display()));
    });
}

/// Saves images to one file, which the tests of this machine share; the first test that needs the file creates it.
pub fn save_images(images: &[String]) -> PathBuf {
    let ids = run(host_docker("image inspect --format {{.Id}}").args(images));
    let mut hasher = DefaultHasher::new();
    (images, ids).hash(&mut hasher);
    let folder = std::env::temp_dir();
    let file = folder.join(format!("{IMAGE_FILE_PREFIX}{:016x}.tar", hasher.finish()));
    let lock = File::create(folder.join(format!("{IMAGE_FILE_PREFIX}lock"))).expect("a lock file");
    lock.lock().expect("a lock");
    if !file.exists() {
        remove_unused();
        let part = file.with_extension("part");
        run(host_docker("save --output").arg(&part).args(images));
        fs::rename(part, &file).expect("a file");
    }
    let now = SystemTime::now();
    File::open(&file).and_then(|file| file.set_modified(now)).expect("its time");
    file
}

fn remove_unused() {
    let all = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    let images = all.filter(|entry| entry.file_name().to_string_lossy().starts_with(IMAGE_FILE_PREFIX));
    let is_unused = |entry: &fs::DirEntry| {
        let modified = entry.metadata().and_then(|m| m.modified()).ok();
        modified.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > UNUSED_AFTER)
    };
    images.filter(is_unused).for_each(|entry| _ = fs::remove_file(entry.path()));
}

/// Runs an action on all nodes that are not lost, in parallel.
pub fn on_all<'n>(nodes: impl Iterator<Item = &'n Node>, act: impl Fn(&Node) + Sync) {
    std::thread::scope(|scope| {
        for node in nodes.filter(|n| n.is_alive()) {
            scope.spawn(|| act(node));
        }
    });
}

/// A docker command for the machine's own engine.
pub fn host_docker(line: &str) -> Command {
    let mut command = Command::new("docker");
    command.args(line.split_whitespace()).stdin(Stdio::null());
    command
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().expect("it can be started");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).trim().into()
}
