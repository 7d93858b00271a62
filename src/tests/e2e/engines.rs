//! Tests on other engines than that of the machine: Debian's newest Docker with either image store and rootless, and Podman.
//! Each engine runs in its own namespaces, in whose network some tests run again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::docker_api::DockerApi;
use crate::net::Network;
use crate::node::{run, save_images};
use crate::test_project::{ENGINE, TestProject, WAIT_LIMIT, fixture_variables, free_port, wait_until};

const INIT: &str = include_str!("engines/init.sh");

/// Tests to run again: one for each kind of proxy, one of the kept images, and one of the helper image.
const TESTS: [&str; 7] = [
    "rollback::prune_removes",
    "promises::haproxy::no_deploy",
    "promises::nginx_proxy::no_deploy",
    "promises::traefik::no_deploy",
    "promises::dockercloud::no_deploy",
    "promises::caddy::no_deploy",
    "promises::haproxy_line::an_app_that_cannot_run_twice",
];

const IMAGES: [&str; 7] = [
    "ZD_APP_IMAGE",
    "NGINX_PROXY_IMAGE",
    "HAPROXY_IMAGE",
    "DOCKERCLOUD_IMAGE",
    "CADDY_IMAGE",
    "TRAEFIK_IMAGE",
    "FLASK_IMAGE",
];

struct OtherEngine {
    net: Network,
    folder: PathBuf,
    first: Child,
}

impl OtherEngine {
    fn start(engines: &str, kind: &str) -> OtherEngine {
        let net = Network::new();
        net.add_node(1);
        let name = net.namespace(1);
        let folder = net.folder().join("engine");
        fs::create_dir_all(&folder).expect("a folder");
        let log = File::create(folder.join("log")).expect("its log");
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/var/run/netns/{name}"))
            .args(["unshare", "--pid", "--fork", "--mount", "--uts"])
            .args(["bash", "-c", INIT, "init", engines])
            .arg(&folder)
            .args([kind, &name])
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("its log"))
            .stderr(log);
        let first = command.spawn().expect("`nsenter` can be started");
        let mut engine = OtherEngine { net, folder, first };
        wait_until("the engine answers", WAIT_LIMIT, || {
            let ended = engine.first.try_wait().expect("a child");
            assert!(ended.is_none(), "it ended at once:\n{}", engine.log());
            engine.folder.join("docker.sock").exists() && !engine.version().is_null()
        });
        engine
    }

    fn host(&self) -> String {
        format!("unix://{}", self.folder.join("docker.sock").display())
    }

    fn version(&self) -> Value {
        DockerApi::at(&self.host()).try_get("/version").unwrap_or_default()
    }

    fn load_images(&self) {
        let parts = fixture_variables();
        let file = save_images(&IMAGES.map(|name| parts[name].clone()));
        let mut docker = Command::new("docker");
        run(docker.args(["--host", &self.host(), "load", "--quiet", "--input"]).arg(file));
    }

    /// Runs tests of this program in the network of the engine.
    fn run_tests(&self, kind: &str, tests: &[&str]) {
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.net.namespace(1)]).arg(program);
        command.args(tests).args(["--test-threads", "2"]);
        command.env("DOCKER_HOST", self.host()).env(ENGINE, kind).env_remove("DOCKER_CONTEXT");
        let status = command.status().expect("`ip` can be started");
        assert!(status.success(), "{kind}: {status}\n{}", self.log());
    }

    fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|l| !l.contains("level=info")).collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for OtherEngine {
    fn drop(&mut self) {
        drop(self.first.stdin.take());
        let _ = self.first.wait();
    }
}

/// Reason why this engine is not available here.
fn obstacle(engines: &str, kind: &str) -> Option<&'static str> {
    if engines.is_empty() {
        return Some("`scripts/setup` makes these engines only as root, and not with ZD_IMAGES=official");
    }
    let max = fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    if kind == "rootless" && (max.trim() == "0" || !Path::new("/dev/net/tun").exists()) {
        return Some("there are no user namespaces, or no /dev/net/tun");
    }
    None
}

fn run_tests_on(kind: &str, tests: &[&str]) {
    let engines = fixture_variables().get("ZD_ENGINES").cloned().unwrap_or_default();
    if let Some(why) = obstacle(&engines, kind) {
        eprintln!("skipped: {kind}: {why}");
        return;
    }
    let engine = OtherEngine::start(&engines, kind);
    eprintln!("{kind}: {} {}", engine.version()["Components"][0]["Name"], engine.version()["Version"]);
    engine.load_images();
    engine.run_tests(kind, tests);
}

#[test]
fn docker_of_debian_sid() {
    run_tests_on("docker", &TESTS);
}

#[test]
fn docker_with_the_containerd_store() {
    // Only the image store differs.
    run_tests_on("containerd", &TESTS[..3]);
}

#[test]
fn docker_without_root() {
    // The network differs, so a proxy of each way to gate and drain is tested.
    run_tests_on("rootless", &TESTS[..4]);
}

#[test]
fn podman_through_its_socket() {
    run_tests_on("podman", &TESTS);
}

/// A socket filter in front of the engine, with common rules: no access to Swarm and to `docker info`.
#[test]
fn a_deploy_through_a_socket_filter_that_forbids_swarm_loses_nothing() {
    let project = TestProject::haproxy("filter");
    let port = free_port();
    let filter = format!("{}-socket", project.name);
    project.write("filter.cfg", FILTER);
    let volumes = format!(
        "-v /var/run/docker.sock:/var/run/docker.sock -v {}:/filter.cfg:ro",
        project.path("filter.cfg").display()
    );
    let image = project.variable("HAPROXY_IMAGE");
    project.try_docker(&format!("rm -f {filter}"));
    project.docker(&format!(
        "run -d --name {filter} --user root -p 127.0.0.1:{port}:2375 {volumes} {image} haproxy -f /filter.cfg"
    ));
    project.set_variables(&format!("DOCKER_HOST=tcp://127.0.0.1:{port}"));
    wait_until("the filter answers", WAIT_LIMIT, || project.try_docker("version").status.success());
    assert!(!project.try_docker("service ls").status.success(), "it forbids that");

    project.up("--scale app=2");
    project.set_variables("VERSION=2");
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(0);
    answers.all_from(&["1", "2"]);
    let (result, answers) = project.rollback_under_load("", "");
    result.exits(0);
    answers.all_from(&["2", "1"]);
    project.expect_release("app", 2, "1");
    project.set_variables("DOCKER_HOST=");
    project.docker(&format!("rm -f {filter}"));
}

const FILTER: &str = "
defaults
    mode http
    timeout connect 5s
    timeout client 10m
    timeout server 10m
    timeout tunnel 1h
frontend filter
    bind :2375
    http-request deny if { path_reg ^(/v[0-9.]+)?/(auth|commit|configs|distribution|info|nodes|plugins|secrets|services|session|swarm|system|tasks) }
    default_backend docker
backend docker
    server docker /var/run/docker.sock
";
