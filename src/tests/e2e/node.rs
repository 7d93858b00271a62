//! An engine of a test's own, on a machine of its own as far as it can tell: network, processes, mounts and name.
//! Whatever ends the test ends it too.

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

/// How many lines of each engine's log a failed test shows.
const LOG_LINES: usize = 15;

/// Begins the name of the files in which images are brought.
const IMAGE_FILE_PREFIX: &str = "compose-zd-e2e-images-";

/// Such a file that was used by no test for this long is removed.
const UNUSED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The longest that an engine may take for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

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
    process: Mutex<Option<Child>>,
    /// It is frozen.
    is_frozen: AtomicBool,
}

impl Node {
    /// Its engine has these settings, and need not answer yet.
    pub fn start(net: &Network, number: u8, settings: &str) -> Node {
        let (address, name) = (net.add_node(number), net.namespace(number));
        let folder = net.folder().join(number.to_string());
        fs::create_dir_all(&folder).expect("a folder");
        // Those of the machine's own engine are none of its.
        fs::write(folder.join("daemon.json"), settings).expect("its settings");
        let (life, silent) = (Mutex::new(None), AtomicBool::new(false));
        let node = Node { number, name, address, folder, process: life, is_frozen: silent };
        let child = node.command(net).spawn().expect("`nsenter` can be started");
        node.process.lock().expect("nobody panicked").replace(child);
        node
    }

    /// Not `ip netns exec`: that hides the cgroups.
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

    /// What its API answers, as `docker inspect` prints it; null where it does not, or refuses. A docker client for each
    /// question of a test that waits costs more than what it waits for.
    pub fn get(&self, path: &str) -> Value {
        self.try_get(path).ok().flatten().unwrap_or_default()
    }

    fn try_get(&self, path: &str) -> io::Result<Option<Value>> {
        let mut stream = UnixStream::connect(self.socket())?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        // It ends the answer with the connection.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let ok = answer.split(' ').nth(1) == Some("200");
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).filter(|_| ok);
        Ok(body.and_then(|text| serde_json::from_str(text).ok()))
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
        let mut command = host_docker(line);
        command.env("DOCKER_HOST", self.host()).env_remove("DOCKER_CONTEXT");
        command
    }

    /// Whether its first process runs, and its engine answers.
    pub fn is_alive(&self) -> bool {
        let mut life = self.process.lock().expect("nobody panicked");
        let runs = life.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|ended| ended.is_none()));
        runs && !self.is_frozen.load(Ordering::Relaxed)
    }

    /// Its engine hangs: what is asked there is never answered, and never refused.
    pub fn freeze(&self, net: &Network) {
        self.signal(net, "STOP");
        self.is_frozen.store(true, Ordering::Relaxed);
    }

    /// It goes on.
    pub fn thaw(&self, net: &Network) {
        self.signal(net, "CONT");
        self.is_frozen.store(false, Ordering::Relaxed);
    }

    /// Ends its engine at once; its containers go on.
    pub fn kill_engine(&self, net: &Network) {
        self.signal(net, "KILL");
        wait_until("its engine is gone", WAIT_LIMIT, || self.engine(net).is_none());
    }

    /// Starts its engine again.
    pub fn start_engine(&self) {
        let mut life = self.process.lock().expect("nobody panicked");
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

    /// Returns when none of its processes is left.
    pub fn stop(&self) {
        let life = self.process.lock().ok().and_then(|mut life| life.take());
        if let Some(mut child) = life {
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }

    /// For a test that fails: the last lines in which its engine complains.
    pub fn print_log(&self) {
        eprintln!("==== the engine of {}\n{}", self.name, self.log());
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|l| !l.contains("level=info")).collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

/// The kernel's own overlay where it can be mounted here, as every start of a container costs more with another; else what
/// the machine's own engine found to work.
fn storage_driver() -> &'static str {
    static DRIVER: LazyLock<String> = LazyLock::new(|| match overlay_mounts() {
        true => "overlay2".into(),
        false => run(&mut host_docker("info --format {{.Driver}}")),
    });
    &DRIVER
}

/// Tried in a namespace of its own, so that nothing is left mounted.
fn overlay_mounts() -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let mount = "cd \"$1\" && mkdir l u w m && mount -t overlay none -o lowerdir=l,upperdir=u,workdir=w m";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", mount, "sh"]).arg(folder.path());
    command.output().is_ok_and(|output| output.status.success())
}

/// Copies images of the machine's own engine to these.
pub fn load_images<'n>(nodes: impl Iterator<Item = &'n Node>, images: &[String]) {
    let file = save_images(images);
    on_all(nodes, |node| {
        node.docker(&format!("load --quiet --input {}", file.display()));
    });
}

/// The images as one file, which the tests of this machine share: it is made by the first one that needs it.
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

/// Does it on all that are not lost, at the same time.
pub fn on_all<'n>(nodes: impl Iterator<Item = &'n Node>, act: impl Fn(&Node) + Sync) {
    std::thread::scope(|scope| {
        for node in nodes.filter(|n| n.is_alive()) {
            scope.spawn(|| act(node));
        }
    });
}

/// docker as it is set up on this machine.
pub fn host_docker(line: &str) -> Command {
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
