//! An engine on another machine, by TCP, ssh and context: this machine reaches its published ports, but not the addresses of
//! its containers.

#[path = "remote/door.rs"]
mod door;
#[path = "remote/engine.rs"]
mod engine;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::test_project::{WAIT_LIMIT, wait_until};
use door::MAX_CONNECTIONS;
use engine::{RemoteEngine, RemoteProject};

/// Timeouts for an engine that does not answer, shorter than the default of two minutes: one longer than [`SILENCE`], and a
/// short one for an engine that stays silent.
const LONG_TIMEOUT: &str = "COMPOSE_ZD_ENGINE_TIMEOUT=24s";
const SHORT_TIMEOUT: &str = "COMPOSE_ZD_ENGINE_TIMEOUT=12s";
const NO_TIMEOUT: &str = "COMPOSE_ZD_ENGINE_TIMEOUT=2m";

/// Time of silence; compose-zd checks for an answer after a quarter of the timeout.
const SILENCE: Duration = Duration::from_secs(9);

/// Longest time until compose-zd gives up on an engine that does not answer, with the rollback.
const MAX_UNANSWERED: Duration = Duration::from_secs(60);

/// Load that runs longer than that.
const LOAD: &str = "--rate 50 --seconds 600";

/// Deploys the second version, then the third, which fails, and rolls back to the first; no request is lost. An engine has one
/// history under every address, so the rollback goes to release `back` of the address before.
fn deploy_and_roll_back(far: &RemoteProject, [old, good, bad]: [&str; 3], back: u32, asked: &str) {
    let project = &far.project;
    project.set_variables(&format!("VERSION={good}"));
    let (result, answers) = far.run_under_load("deploy", "app");
    result.exits(0).says(asked);
    answers.all_from(&[old, good]);
    project.expect_release("app", 2, good);
    project.set_variables(&format!("VERSION={bad} STATUS=503"));
    let (result, answers) = far.run_under_load("deploy", "app --health-deadline 5s");
    result.exits(3).says(" served before and still serve").says("→ 503");
    answers.all_from(&[good]);
    project.expect_release("app", 2, good);
    project.set_variables("STATUS=200");
    let (result, answers) = far.run_under_load("rollback", "app");
    result.exits(0).says(&format!("back on release {back} "));
    answers.all_from(&[old, good]);
    project.expect_release("app", 2, old);
}

/// Containers of the app; the probe tools that the app's image lacks are in the proxy.
fn routed_containers(far: &RemoteProject) -> String {
    format!("in {}-proxy-1 → 200", far.project.name)
}

#[test]
fn remote_deploys_by_context_and_tcp_behind_nginx_proxy_lose_no_request() {
    let engine = RemoteEngine::new();
    let mut far = RemoteProject::nginx_proxy(&engine, "far");
    let subnet = "10.214.77";
    let yaml = far.project.read("compose.override.yaml");
    let network = format!("networks: {{default: {{ipam: {{config: [{{subnet: {subnet}.0/28}}]}}}}}}\n");
    far.project.write_override(&format!("{yaml}{network}"));
    far.up(2);

    far.project.log("---- by context");
    far.connect_by_context("far");
    deploy_and_roll_back(&far, ["1", "2", "3"], 1, &routed_containers(&far));

    far.project
        .log("---- by TCP; a local server with the address of an instance is not taken for the instance");
    far.connect_by_tcp();
    // Two engines use the same container addresses.
    for host in 2..=14 {
        far.claim(&format!("{subnet}.{host}"));
    }
    let impostor = TcpListener::bind("0.0.0.0:3000").expect("the port of the app");
    std::thread::spawn(move || {
        for mut stream in impostor.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    deploy_and_roll_back(&far, ["1", "4", "5"], 4, &routed_containers(&far));

    far.project
        .log("---- an instance that cannot be probed is reported at once, and a healthcheck is the fix");
    let project = &far.project;
    let before = project.containers();
    project.set_variables("VERSION=6");
    // The proxy's image may lack the tools, too.
    let kind = "x-zd: {proxy: {kind: none}, health: {port: 3000}}";
    project.write_override(&format!("{yaml}  app: {{{kind}}}\n{network}"));
    let result = far.start("deploy", "app --health-deadline 10m").wait();
    result.exits(3).says("nothing can check").says("neither curl, wget nor bash").says("`healthcheck`");
    assert_eq!(project.containers(), before);
    let check = "healthcheck: {test: [CMD, /sample-app, probe, /health], interval: 30s}";
    project.write_override(&format!("{yaml}  app: {{{check}}}\n{network}"));
    let (result, answers) = far.run_under_load("deploy", "app");
    result.exits(0).says("healthcheck → 0");
    answers.all_from(&["1", "6"]);
    project.expect_release("app", 2, "6");
}

#[test]
fn remote_deploys_by_tcp_and_one_ssh_connection_behind_haproxy_lose_no_request() {
    let engine = RemoteEngine::new();
    let mut far = RemoteProject::haproxy(&engine, "farha");
    far.up(2);
    far.project.log("---- by TCP");
    deploy_and_roll_back(&far, ["1", "2", "3"], 1, &routed_containers(&far));
    // Docker's documentation recommends this setting.
    far.project.log("---- by one ssh connection");
    far.connect_by_ssh("ControlMaster auto\nControlPersist 5\n");
    deploy_and_roll_back(&far, ["1", "4", "5"], 4, &routed_containers(&far));
}

#[test]
fn deploys_by_ssh_lose_no_request_even_above_the_connection_limit() {
    let engine = RemoteEngine::new();
    let mut far = RemoteProject::nginx_proxy(&engine, "farssh");
    far.connect_by_ssh("");
    // Each query is three logins, which dominate the time; rejected logins are retried.
    far.project.set_variables("COMPOSE_ZD_HEALTH_INTERVAL=1s");
    far.up(2);
    deploy_and_roll_back(&far, ["1", "2", "3"], 1, &routed_containers(&far));

    far.project.log("---- more simultaneous logins than the ssh server accepts");
    let many = MAX_CONNECTIONS + 1;
    far.project.set_variables("VERSION=1");
    far.up(many);
    far.project.set_variables("VERSION=4");
    let (result, answers) = far.run_under_load("deploy", "app");
    result.exits(0);
    answers.all_from(&["1", "4"]);
    far.project.expect_release("app", many, "4");
}

#[test]
fn an_engine_that_fails_during_a_deploy_is_named_and_the_next_run_cleans_up() {
    let engine = RemoteEngine::new();
    let mut far = RemoteProject::nginx_proxy(&engine, "farlost");
    far.up(2);
    a_deploy_goes_on_after_an_engine_has_been_silent_for_a_while(&far);
    a_deploy_whose_engine_falls_silent_says_so_and_the_next_one_tidies_up(&far);
    a_deploy_whose_line_breaks_says_so_and_the_next_one_tidies_up(&far);
    a_deploy_whose_engine_is_killed_and_comes_back_goes_back_and_the_next_one_tidies_up(&far);
    far.connect_by_context("far");
    an_engine_that_is_not_there_is_named_with_a_fix(&far);
}

fn a_deploy_goes_on_after_an_engine_has_been_silent_for_a_while(far: &RemoteProject) {
    let load = far.project.start_load(LOAD);
    far.project.set_variables(&format!("VERSION=2 {LONG_TIMEOUT}"));
    let mut deploy = far.start("deploy", "app");
    deploy.wait_for("started app-");
    far.engine.node.freeze(&far.engine.net);
    let now = Instant::now();
    wait_until("a while has passed", WAIT_LIMIT, || now.elapsed() > SILENCE);
    far.engine.node.thaw(&far.engine.net);
    deploy.wait().exits(0);
    load.stop().all_from(&["1", "2"]);
    far.project.expect_release("app", 2, "2");
}

/// The containers and their clients continue without the engine.
fn a_deploy_whose_engine_falls_silent_says_so_and_the_next_one_tidies_up(far: &RemoteProject) {
    let there = far.project.variable("DOCKER_HOST");
    let load = far.project.start_load(LOAD);
    far.project.set_variables(&format!("VERSION=3 {SHORT_TIMEOUT}"));
    let mut deploy = far.start("deploy", "app");
    deploy.wait_for("started app-");
    far.engine.node.freeze(&far.engine.net);
    wait_until("it ends", MAX_UNANSWERED, || !deploy.is_running());
    let output = format!("the Docker engine at `{there}` does not answer");
    deploy.wait().exits(4).says(&output).says("act now");
    far.engine.node.thaw(&far.engine.net);
    far.project.set_variables(NO_TIMEOUT);
    far.start("deploy", "app").wait().exits(0);
    load.stop().all_from(&["2", "3"]);
    far.project.expect_release("app", 2, "3");
}

fn a_deploy_whose_line_breaks_says_so_and_the_next_one_tidies_up(far: &RemoteProject) {
    far.project.set_variables(&format!("VERSION=4 {SHORT_TIMEOUT}"));
    let mut deploy = far.start("deploy", "app");
    deploy.wait_for("started app-");
    far.engine.net.disconnect(far.engine.node.number);
    wait_until("it ends", MAX_UNANSWERED, || !deploy.is_running());
    deploy.wait().exits(4).says("act now");
    far.engine.net.reconnect(far.engine.node.number);
    far.project.set_variables(NO_TIMEOUT);
    wait_until("the line is there again", WAIT_LIMIT, || far.project.get("/").is_some());
    let load = far.project.start_load("");
    far.start("deploy", "app").wait().exits(0);
    load.stop().all_until("4");
    far.project.expect_release("app", 2, "4");
}

/// An update of the engine restarts it in the middle of a deploy. The containers keep running; the engine itself refuses
/// published ports for a moment.
fn a_deploy_whose_engine_is_killed_and_comes_back_goes_back_and_the_next_one_tidies_up(far: &RemoteProject) {
    far.project.set_variables("VERSION=5 WARMUP=2");
    let mut deploy = far.start("deploy", "app");
    deploy.wait_for("started app-");
    far.engine.node.kill_engine(&far.engine.net);
    far.engine.node.start_engine();
    deploy.wait().exits(3).says("no Docker engine answers").says(" served before and still serve");
    far.project.expect_release("app", 2, "4");
    // The proxy mounts the socket as a file, which belongs to the previous engine.
    far.project.compose("restart proxy");
    far.project.wait_until_all_answer();
    far.project.set_variables("WARMUP=0");
    let (result, answers) = far.run_under_load("deploy", "app");
    result.exits(0);
    answers.all_from(&["4", "5"]);
    far.project.expect_release("app", 2, "5");
}

fn an_engine_that_is_not_there_is_named_with_a_fix(far: &RemoteProject) {
    let project = &far.project;
    let before = project.ids("app");
    let there = project.variable("DOCKER_HOST");
    far.engine.node.kill_engine(&far.engine.net);
    let context = format!("no Docker engine answers at `{there}` (context `far`)");
    let result = far.start("deploy", "app --force").wait();
    result.exits(1).says(&context).says("hint: check that it runs");
    project.set_variables("DOCKER_HOST=ssh://deployer@127.0.0.1:1");
    let result = project.deploy("app --force");
    result.exits(1).says("no Docker engine answers at `ssh://deployer@127.0.0.1:1`");
    result.says("`ssh deployer@127.0.0.1:1 docker version` has to work");
    project.set_variables(&format!("DOCKER_HOST={there}"));
    far.engine.node.start_engine();
    far.engine.node.wait_until_up();
    assert_eq!(project.ids("app"), before);
}
