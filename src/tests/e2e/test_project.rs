//! The Compose project of one test, with its own folder, name and port. Its end removes the project, even after a panic. A
//! failed test prints every command and its output.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli_runner::{CommandResult, RunningCommand};
use crate::docker_api::{DockerApi, ObjectKind};
use crate::load::{Answers, Load, MixedLoad};

/// Limit of every wait; no test measures durations.
pub const WAIT_LIMIT: Duration = Duration::from_secs(40);

/// Variable with the kind of engine, if not the machine's own (`engines.rs`).
pub const ENGINE: &str = "ZD_E2E_ENGINE";

/// Kind of the engine; empty for the machine's own.
pub fn engine_kind() -> String {
    std::env::var(ENGINE).unwrap_or_default()
}

/// Label of images built by tests.
const IMAGE_LABEL: &str = "compose-zd.e2e=built";

/// Number of log lines of the proxy that a failed test shows.
const LOG_LINES: usize = 60;

/// Environment variables that commands inherit, so that the user's own settings do not affect tests.
const INHERITED: [&str; 6] = ["PATH", "HOME", "TMPDIR", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG"];

/// Disables the monitor; a command-line flag still overrides it.
pub const NO_MONITOR: [(&str, &str); 2] =
    [("COMPOSE_ZD_UPDATE_MONITOR", "0s"), ("COMPOSE_ZD_ROLLBACK_MONITOR", "0s")];

/// Limit for one of several answers: a request to a container that Compose has just removed is never answered.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// Waits until a condition holds. The pauses grow, because fifty queries a second for half a minute would keep an engine busier
/// than the awaited work.
pub fn wait_until(what: &str, limit: Duration, done: impl FnMut() -> bool) {
    wait(what, limit, Duration::from_millis(250), done);
}

/// Waits with the shortest pauses for an instant that must not be missed, such as a line in a file.
pub fn wait_for_instant(what: &str, limit: Duration, done: impl FnMut() -> bool) {
    wait(what, limit, SHORTEST_PAUSE, done);
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

fn wait(what: &str, limit: Duration, longest_pause: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        let elapsed = start.elapsed();
        assert!(elapsed < limit, "{what}: not within {limit:?}");
        thread::sleep((elapsed / 10).clamp(SHORTEST_PAUSE, longest_pause));
    }
}

pub struct TestProject {
    pub name: String,
    folder: TempDir,
    /// Address of the proxy.
    address: Cell<Ipv4Addr>,
    port: u16,
    /// The project is on another engine, whose owner removes it.
    on_other_engine: bool,
    variables: RefCell<BTreeMap<String, String>>,
    /// Commands and their output, printed by a failed test.
    log_entries: RefCell<Vec<String>>,
    file_count: Cell<u32>,
    /// Use the default monitor of compose-zd.
    default_monitor: Cell<bool>,
    /// Network shared with other projects, and the project of their proxy.
    shared_network: Option<(String, String)>,
}

/// One container of the project.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Container {
    pub id: String,
    /// `app-1`
    pub name: String,
    pub service: String,
    pub state: String,
    pub version: String,
    pub started: String,
    /// Id of the image, which no tag changes.
    pub image: String,
    /// A proxy discovers and routes to the container.
    pub routed: bool,
}

/// Answer through the proxy.
pub struct Reply {
    pub status: u16,
    pub version: String,
    pub instance: String,
}

impl TestProject {
    /// One service `app` behind nginx-proxy.
    pub fn nginx_proxy(name: &str) -> TestProject {
        TestProject::from_compose_file(name, "nginx-proxy-scale")
    }

    /// One service `app` behind HAProxy with `server-template`.
    pub fn haproxy(name: &str) -> TestProject {
        let project = TestProject::from_fixture(name, "haproxy-template", &["haproxy.cfg"]);
        if engine_kind() == "podman" {
            // The DNS of Podman is at the gateway of each network.
            let configuration = project.read("haproxy.cfg");
            let fixed = "nameserver dns 127.0.0.11:53";
            assert!(configuration.contains(fixed));
            project.write("haproxy.cfg", &configuration.replace(fixed, "parse-resolv-conf"));
        }
        project
    }

    /// One service `app` behind nginx with a configuration of its own.
    pub fn nginx(name: &str) -> TestProject {
        TestProject::from_fixture(name, "nginx-plain", &["default.conf"])
    }

    /// One service `app` behind Apache httpd with a configuration of its own.
    pub fn apache(name: &str) -> TestProject {
        TestProject::from_fixture(name, "apache-plain", &["httpd.conf"])
    }

    /// One service `app` behind Traefik with nothing but labels.
    pub fn traefik(name: &str) -> TestProject {
        TestProject::from_compose_file(name, "traefik-labels")
    }

    /// Project from a fixture with more files than its Compose file.
    pub fn from_fixture(name: &str, fixture: &str, files: &[&str]) -> TestProject {
        let project = TestProject::from_compose_file(name, fixture);
        files.iter().for_each(|file| project.copy_fixture(&format!("{fixture}/{file}"), file));
        project
    }

    /// `service_a` and `service_b` behind nginx-proxy.
    pub fn nginx_proxy_pair(name: &str) -> TestProject {
        TestProject::from_compose_file(name, "nginx-proxy-pair")
    }

    /// A pair with only `service_a` serving, as between two deploys.
    pub fn pair_with_idle_side(name: &str) -> TestProject {
        let project = TestProject::nginx_proxy_pair(name);
        // The proxy starts last: a proxy that has seen both would send requests to the stopped one for a moment.
        project.compose("up -d service_a service_b");
        project.compose("stop service_b");
        project.up("service_a proxy");
        project
    }

    /// One service `app` behind a proxy in another project.
    pub fn shared_proxy(name: &str) -> TestProject {
        let mut project = TestProject::new(name, "nginx-proxy-shared");
        let proxy = format!("{}-proxy", project.name);
        let network = format!("{}-web", project.name);
        project.set_variables(&format!("PROXY_PROJECT={proxy} PROXY_NETWORK={network}"));
        project.copy_fixture("nginx-proxy-shared/compose.proxy.yaml", "proxy.yaml");
        project.shared_network = Some((network.clone(), proxy));
        project.tear_down();
        project.docker(&format!("network create {network}"));
        project.docker("compose -f proxy.yaml up -d");
        project
    }

    fn from_compose_file(name: &str, fixture: &str) -> TestProject {
        let project = TestProject::new(name, fixture);
        // The proxy must ignore projects of parallel tests, because some tests count its reloads.
        let own = format!("label=com.docker.compose.project={}", project.name);
        project.set_variables(&format!("DOCKER_CONTAINER_FILTERS=status=running,{own}"));
        project.tear_down();
        project
    }

    /// Empty project for another engine, whose proxy answers at this address.
    pub fn on_other_engine(address: Ipv4Addr, name: &str) -> TestProject {
        let mut project = TestProject::empty(name);
        project.on_other_engine = true;
        project.set_address(address);
        project
    }

    fn new(name: &str, fixture: &str) -> TestProject {
        let project = TestProject::empty(name);
        // A copy, so that nothing is left in the fixture's folder.
        project.copy_fixture(&format!("{fixture}/compose.yaml"), "compose.yaml");
        project.require_images();
        project
    }

    fn empty(name: &str) -> TestProject {
        let project = TestProject {
            name: format!("zde2e-{name}"),
            folder: tempfile::tempdir().expect("a temporary folder"),
            address: Cell::new(Ipv4Addr::LOCALHOST),
            port: free_port(),
            on_other_engine: false,
            variables: RefCell::default(),
            log_entries: RefCell::default(),
            file_count: Cell::default(),
            default_monitor: Cell::default(),
            shared_network: None,
        };
        // A rootless engine reads mounted files as another user.
        let open = fs::set_permissions(project.folder.path(), fs::Permissions::from_mode(0o755));
        open.expect("its mode");
        project.variables.replace(fixture_variables());
        let port = project.port;
        project.set_variables(&format!("VERSION=1 VIRTUAL_HOST={name}.test PROXY_PORT={port}"));
        project
    }

    /// An image without a name would be the official one, which cannot be pulled everywhere.
    fn require_images(&self) {
        let text = self.read("compose.yaml");
        let names = text.split("${").skip(1).filter_map(|rest| rest.split([':', '}']).next());
        let mut images = names.filter(|name| name.ends_with("_IMAGE"));
        let missing = images.find(|name| self.variable(name).is_empty());
        assert_eq!(missing, None, "there is no such variable: run scripts/setup");
    }

    /// Copies all files of a fixture.
    pub fn copy_fixtures(&self, fixture: &str) {
        let from = root().join("fixtures").join(fixture).join(".");
        let copied = self.command("cp").arg("-r").arg(&from).arg(".").status();
        assert!(copied.is_ok_and(|status| status.success()), "{}", from.display());
    }

    /// Copies a file of the fixtures under another name.
    pub fn copy_fixture(&self, fixture: &str, name: &str) {
        let from = root().join("fixtures").join(fixture);
        fs::copy(&from, self.path(name)).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
    }

    /// Copies a file of the fixtures as the override file.
    pub fn copy_override(&self, fixture: &str) {
        self.copy_fixture(fixture, "compose.override.yaml");
    }

    /// Writes the override file, which Compose merges.
    pub fn write_override(&self, yaml: &str) {
        self.write("compose.override.yaml", yaml);
    }

    /// Writes a file of the project.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("a folder");
        fs::write(path, text).expect("a file of the project");
    }

    /// Writes a Dockerfile based on the app's image; the built image is removed with the project.
    pub fn write_dockerfile(&self, lines: &str) {
        let own = self.image_label();
        let recipe = format!("ARG BASE\nFROM ${{BASE}}\nLABEL {IMAGE_LABEL} {own}\n{lines}");
        self.write("source/Dockerfile", &recipe);
    }

    /// Reads a file of the project; empty if it does not exist.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Unused file name.
    pub fn new_file(&self, kind: &str) -> PathBuf {
        self.file_count.set(self.file_count.get() + 1);
        self.path(&format!("{}.{kind}", self.file_count.get()))
    }

    /// Sets environment variables of the project, in the form `VERSION=2 WARMUP=1`.
    pub fn set_variables(&self, words: &str) {
        let pairs = words.split_whitespace().filter_map(|w| w.split_once('='));
        let pairs = pairs.map(|(name, value)| (name.into(), value.into()));
        self.variables.borrow_mut().extend(pairs);
    }

    pub fn variable(&self, name: &str) -> String {
        let variables = self.variables.borrow();
        variables.get(name).cloned().unwrap_or_default()
    }

    /// First host name.
    pub fn host(&self) -> String {
        let hosts = self.variable("VIRTUAL_HOST");
        hosts.split(',').next().unwrap_or_default().into()
    }

    /// Host name of the second service; empty without one.
    pub fn second_host(&self) -> String {
        self.variable("SECOND_HOST")
    }

    /// Sets the address for requests.
    pub fn set_address(&self, address: Ipv4Addr) {
        self.address.set(address);
    }

    pub fn url(&self) -> String {
        format!("http://{}:{}/", self.address.get(), self.port)
    }
}

/// Commands.
impl TestProject {
    /// Command in the project's folder, with the project's variables.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        let inherited = INHERITED.map(|name| (name, std::env::var_os(name)));
        let inherited = inherited.into_iter().filter_map(|(k, v)| Some((k, v?)));
        command
            .env_clear()
            .envs(inherited)
            .envs(self.variables.borrow().iter())
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Command of compose-zd, with the monitor disabled unless the test sets one.
    pub fn compose_zd(&self) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_compose-zd"));
        let files = ["compose.yaml", "compose.override.yaml"];
        let says_so = files.iter().any(|file| self.read(file).contains("monitor:"));
        if !says_so && !self.default_monitor.get() {
            command.envs(NO_MONITOR);
        }
        command
    }

    /// Uses the default monitor from now on.
    pub fn use_default_monitor(&self) {
        self.default_monitor.set(true);
    }

    /// Runs docker; a failure fails the test.
    pub fn docker(&self, line: &str) -> String {
        let output = self.try_docker(line);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "`docker {line}`: {stderr}");
        String::from_utf8_lossy(&output.stdout).trim().into()
    }

    pub fn try_docker(&self, line: &str) -> Output {
        let mut command = self.command("docker");
        command.args(line.split_whitespace());
        command.output().expect("docker can be started")
    }

    pub fn compose(&self, line: &str) -> String {
        let output = self.docker(&format!("compose -p {} {line}", self.name));
        self.log(&format!("docker compose {line}"));
        output
    }

    /// Runs `docker compose up`, and waits until every instance answers through the proxy.
    pub fn up(&self, words: &str) {
        self.compose(&format!("up -d {words}"));
        self.wait_until_all_answer();
    }

    pub fn deploy(&self, words: &str) -> CommandResult {
        self.start_deploy(words).wait()
    }

    pub fn start_deploy(&self, words: &str) -> RunningCommand<'_> {
        RunningCommand::start(self, &format!("deploy {words}"))
    }

    pub fn rollback(&self, words: &str) -> CommandResult {
        self.start_rollback(words).wait()
    }

    /// Starts any command of compose-zd.
    pub fn start(&self, words: &str) -> RunningCommand<'_> {
        RunningCommand::start(self, words)
    }

    pub fn start_rollback(&self, words: &str) -> RunningCommand<'_> {
        RunningCommand::start(self, &format!("rollback {words}"))
    }

    pub fn start_load(&self, words: &str) -> Load<'_> {
        Load::start(self, &self.url(), &self.host(), words)
    }

    /// Starts clients of every kind.
    pub fn start_mixed_load(&self) -> MixedLoad<'_> {
        MixedLoad::start(self)
    }

    /// Starts clients of another proxy of the project.
    pub fn start_load_at(&self, port: u16, words: &str) -> Load<'_> {
        Load::start(self, &format!("http://{}:{port}/", self.address.get()), &self.host(), words)
    }

    /// Deploys under load.
    pub fn deploy_under_load(&self, load: &str, words: &str) -> (CommandResult, Answers) {
        let load = self.start_load(load);
        let result = self.deploy(words);
        (result, load.stop())
    }

    /// Rolls back under load.
    pub fn rollback_under_load(&self, load: &str, words: &str) -> (CommandResult, Answers) {
        let load = self.start_load(load);
        let result = self.rollback(words);
        (result, load.stop())
    }

    /// Last log entries.
    pub fn last_log_entries(&self, count: usize) -> String {
        let story = self.log_entries.borrow();
        story[story.len().saturating_sub(count)..].join("\n")
    }

    pub fn log(&self, text: &str) {
        self.log_entries.borrow_mut().push(text.into());
    }
}

/// Observed state.
impl TestProject {
    /// Containers of the project, and of its proxy's project, without pins.
    pub fn containers(&self) -> Vec<Container> {
        let others = self.shared_network.iter().map(|(_, project)| project);
        let projects = [&self.name].into_iter().chain(others);
        projects.flat_map(|p| self.containers_in(p)).collect()
    }

    fn containers_in(&self, project: &str) -> Vec<Container> {
        let its = json!({"label": [format!("com.docker.compose.project={project}")]});
        let mut list = self.api().containers(&its);
        list.retain(|c| c["Config"]["Labels"]["compose-zd.pin"].is_null());
        let mut found: Vec<Container> = list.iter().map(|c| Container::read(project, c)).collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// API of the engine that docker uses.
    pub fn api(&self) -> DockerApi {
        let host = self.variable("DOCKER_HOST");
        let inherited = || std::env::var("DOCKER_HOST").unwrap_or_default();
        DockerApi::at(&if host.is_empty() { inherited() } else { host })
    }

    /// Address of the only container of a service, on its first network.
    pub fn address(&self, service: &str) -> String {
        let id = self.ids(service).pop_first().expect("a container");
        let networks = &self.api().get(&format!("/containers/{id}/json"))["NetworkSettings"]["Networks"];
        let first = networks.as_object().and_then(|networks| networks.values().next());
        first.and_then(|network| network["IPAddress"].as_str()).unwrap_or_default().into()
    }

    pub fn service_containers(&self, service: &str) -> Vec<Container> {
        let mut all = self.containers();
        all.retain(|c| c.service == service);
        all
    }

    pub fn ids(&self, service: &str) -> BTreeSet<String> {
        self.service_containers(service).into_iter().map(|c| c.id).collect()
    }

    /// State and version of each container of a service: `running 2`.
    pub fn states(&self, service: &str) -> Vec<String> {
        let state = |c: Container| format!("{} {}", c.state, c.version);
        self.service_containers(service).into_iter().map(state).collect()
    }

    /// Running containers without a route. No test names them, so compose-zd must not touch them.
    pub fn bystanders(&self) -> BTreeSet<(String, String)> {
        if self.on_other_engine {
            return BTreeSet::new();
        }
        let all = self.containers().into_iter();
        let others = all.filter(|c| !c.routed && c.state == "running");
        others.map(|c| (c.name, c.id + " " + &c.started)).collect()
    }

    /// Names of the containers that keep the images of releases.
    pub fn keepers(&self) -> Vec<String> {
        let held = self.api().containers(&json!({"label": [format!("compose-zd.keeps={}", self.name)]}));
        let name = |c: &Value| c["Name"].as_str().unwrap_or_default().trim_start_matches('/').to_string();
        sorted(held.iter().map(name))
    }

    /// Tags of the images of releases.
    pub fn release_tags(&self) -> Vec<String> {
        let name = format!("compose-zd/{}--*", self.name);
        sorted(self.api().list(ObjectKind::Image, &json!({"reference": [name]})))
    }

    /// Label of the images that this project builds.
    pub fn image_label(&self) -> String {
        format!("compose-zd.e2e.project={}", self.name)
    }

    pub fn proxy(&self) -> Container {
        let mut proxies = self.service_containers("proxy");
        proxies.pop().expect("the project has a proxy")
    }

    /// Number of reloads of nginx for any reason. Containers of other projects with a route count too when they start or stop:
    /// docker-gen writes every container of the engine into its comments.
    pub fn reloads(&self) -> usize {
        self.proxy_log().matches(", reconfiguring").count()
    }

    pub fn proxy_log(&self) -> String {
        let proxies = self.service_containers("proxy");
        let logs = proxies.iter().map(|proxy| {
            let output = self.try_docker(&format!("logs {}", proxy.id));
            let both = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&both).into_owned()
        });
        logs.collect()
    }

    /// Marks that a rollout left in nginx-proxy.
    pub fn marks(&self) -> String {
        self.ls_in_proxy("/tmp/compose-zd-down")
    }

    /// Files of a folder in the proxy, one per line; empty without the folder. Root reads them from outside, without a process in
    /// the container.
    pub fn ls_in_proxy(&self, folder: &str) -> String {
        let pid =
            self.api().get(&format!("/containers/{}/json", self.proxy().id))["State"]["Pid"].to_string();
        let root = Path::new("/proc").join(pid).join("root");
        if self.on_other_engine || fs::read_dir(&root).is_err() {
            return self.exec_in_proxy(&["ls", "-A", folder]);
        }
        let files = fs::read_dir(root.join(folder.trim_start_matches('/'))).into_iter().flatten().flatten();
        sorted(files.map(|file| file.file_name().to_string_lossy().into_owned() + "\n")).concat()
    }

    /// Output of a command in the proxy.
    pub fn exec_in_proxy(&self, argv: &[&str]) -> String {
        let mut command = self.command("docker");
        command.args(["exec", &self.proxy().id]).args(argv);
        String::from_utf8_lossy(&command.output().expect("docker can be started").stdout).into()
    }

    /// Sends one request through the proxy; none without a whole answer.
    pub fn get(&self, path: &str) -> Option<Reply> {
        self.get_from(&self.host(), path)
    }

    /// Sends one request with another host name.
    pub fn get_from(&self, host: &str, path: &str) -> Option<Reply> {
        self.get_within(WAIT_LIMIT, host, path)
    }

    /// Whole answer through the proxy, with its head; empty without one.
    pub fn get_text(&self, path: &str) -> String {
        let mut text = String::new();
        if let Ok(mut stream) = self.send_request(ANSWER_LIMIT, &self.host(), path) {
            // What has arrived before an error counts.
            let _ = stream.read_to_string(&mut text);
        }
        text
    }

    pub fn get_within(&self, limit: Duration, host: &str, path: &str) -> Option<Reply> {
        let mut text = String::new();
        self.send_request(limit, host, path).ok()?.read_to_string(&mut text).ok()?;
        Reply::read(&text)
    }

    /// Opens a request whose answer has begun, and continues while the stream is kept.
    pub fn open_request(&self, path: &str) -> TcpStream {
        let mut stream =
            self.send_request(WAIT_LIMIT, &self.host(), path).expect("a connection to the proxy");
        stream.read_exact(&mut [0; 16]).expect("the answer begins");
        stream
    }

    fn send_request(&self, limit: Duration, host: &str, path: &str) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect((self.address.get(), self.port))?;
        stream.set_read_timeout(Some(limit))?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        Ok(stream)
    }
}

/// Expected state.
impl TestProject {
    /// Waits until every running instance answers on the public URL, at its health path, which is never slow.
    pub fn wait_until_all_answer(&self) {
        let runs = |c: &Container| c.routed && c.state == "running";
        let all = self.containers().into_iter().filter(runs);
        let mut silent: BTreeSet<String> = all.map(|c| c.id[..12].into()).collect();
        let hosts = [self.host(), self.second_host()];
        wait_until("every instance answers through the proxy", WAIT_LIMIT, || {
            for host in hosts.iter().filter(|h| !h.is_empty()) {
                let reply = self.get_within(ANSWER_LIMIT, host, "/health").filter(|r| r.status == 200);
                if let Some(reply) = reply {
                    silent.remove(&reply.instance);
                }
            }
            silent.is_empty()
        });
    }

    /// Waits until every answer at a path has been a 200 for this time.
    pub fn wait_until_steady(&self, path: &str, time: Duration) {
        let mut since = Instant::now();
        wait_for_instant("answers without a break", WAIT_LIMIT, || {
            if self.get(path).is_none_or(|reply| reply.status != 200) {
                since = Instant::now();
            }
            since.elapsed() > time
        });
    }

    /// Asserts that the service has exactly this many containers, all of this version and in rotation, and that no mark is left in
    /// the proxy.
    pub fn expect_release(&self, service: &str, count: usize, version: &str) {
        let expected = vec![format!("running {version}"); count];
        assert_eq!(self.states(service), expected, "containers of {service}");
        assert_eq!(self.marks(), "", "marks left in the proxy");
        self.wait_until_all_answer();
    }

    pub fn expect_version(&self, version: &str) {
        self.expect_version_and_status(version, 200);
    }

    pub fn expect_version_and_status(&self, version: &str, status: u16) {
        let reply = self.get("/").expect("an answer through the proxy");
        assert_eq!((reply.status, reply.version.as_str()), (status, version));
    }
}

/// Removal.
impl TestProject {
    fn tear_down(&self) {
        if self.on_other_engine {
            return;
        }
        let api = self.api();
        api.remove_project(&self.name);
        if let Some((network, proxy)) = &self.shared_network {
            api.remove_project(proxy);
            api.remove(ObjectKind::Network, &json!({"name": [network]}));
        }
        // The images of releases outlive the project, and a later project with the same name would find them.
        // Containers go first, because they use the images.
        let name = format!("compose-zd-keep-{}-", self.name);
        api.remove(ObjectKind::Container, &json!({"name": [name]}));
        let tag = format!("compose-zd/{}-*", self.name);
        // Images that the test has built.
        let own = [format!("{}:*", self.name), format!("{}-*", self.name)];
        api.remove(ObjectKind::Image, &json!({"reference": [tag, own[0], own[1]]}));
        if self.path("source").exists() {
            // The classic builder leaves the container of a failed step.
            let own = self.image_label();
            self.try_docker(&format!("container prune -f --filter label={own}"));
            self.try_docker(&format!("image prune -af --filter label={own}"));
        }
    }

    fn print_failure(&self) {
        eprintln!("==== what was run\n{}", self.log_entries.borrow().join("\n"));
        if !self.on_other_engine {
            self.print_containers();
        }
    }

    fn print_containers(&self) {
        let log = self.proxy_log();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        eprintln!("==== containers");
        self.containers().iter().for_each(|c| eprintln!("{c:?}"));
        eprintln!("==== the proxy's last lines\n{}", last.join("\n"));
    }
}

impl Drop for TestProject {
    fn drop(&mut self) {
        if thread::panicking() {
            // A second panic would end the process before the project is removed.
            let shown = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.print_failure()));
            shown.unwrap_or_else(|_| eprintln!("==== the engine does not tell more"));
        }
        self.tear_down();
    }
}

impl Container {
    fn read(project: &str, json: &Value) -> Container {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let name = text(&json["Name"]);
        let service = text(&json["Config"]["Labels"]["com.docker.compose.service"]);
        Container {
            id: text(&json["Id"]),
            name: name.replace(&format!("/{project}-"), ""),
            state: text(&json["State"]["Status"]),
            version: variable(json, "VERSION").unwrap_or_default(),
            started: text(&json["State"]["StartedAt"]),
            image: text(&json["Image"]),
            // nginx-proxy routes by the variable, HAProxy by the service name; `api` is the second service.
            routed: variable(json, "VIRTUAL_HOST").is_some()
                || service.starts_with("app")
                || service == "api",
            service,
        }
    }
}

fn sorted(names: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.into_iter().collect();
    names.sort();
    names
}

/// Environment variable of a container.
fn variable(json: &Value, name: &str) -> Option<String> {
    let all = json["Config"]["Env"].as_array()?.iter();
    let mut pairs = all.filter_map(|e| e.as_str()?.split_once('='));
    pairs.find(|(k, _)| *k == name).map(|(_, v)| v.into())
}

impl Reply {
    fn read(text: &str) -> Option<Reply> {
        let header = |name: &str| {
            let mut pairs = text.lines().filter_map(|l| l.split_once(": "));
            pairs.find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v)
        };
        Some(Reply {
            status: text.split(' ').nth(1)?.parse().ok()?,
            version: header("X-Version").unwrap_or_default().into(),
            instance: header("X-Instance").unwrap_or_default().into(),
        })
    }
}

/// Names of the images and programs of the fixtures, from the environment or from the build.
pub fn fixture_variables() -> BTreeMap<String, String> {
    let names = [
        "NGINX_PROXY_IMAGE",
        "NGINX_PROXY_OLD_IMAGE",
        "NGINX_IMAGE",
        "NGINX_OLD_IMAGE",
        "HTTPD_IMAGE",
        "HAPROXY_IMAGE",
        "HAPROXY_OLD_IMAGE",
        "CADDY_IMAGE",
        "CADDY_OLD_IMAGE",
        "TRAEFIK_IMAGE",
        "DOCKERCLOUD_IMAGE",
        "FLASK_IMAGE",
        "ZD_APP_IMAGE",
        "ZD_COUNTER",
        "ZD_ENGINES",
        "ZD_LOAD",
    ];
    let file = fs::read_to_string(root().join("target/fixtures.env")).unwrap_or_default();
    let written: BTreeMap<&str, &str> =
        file.lines().filter_map(|l| l.strip_prefix("export ")?.split_once('=')).collect();
    let value = |name: &str| {
        let built = || written.get(name).map(ToString::to_string);
        std::env::var(name).ok().or_else(built)
    };
    names.into_iter().filter_map(|name| Some((name.into(), value(name)?))).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its number").port()
}
