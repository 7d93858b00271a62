//! An engine on another machine, by TCP, by ssh and by context: this machine reaches what is published there, and not
//! the addresses of the containers.

#[path = "remote/door.rs"]
mod door;
#[path = "remote/engine.rs"]
mod engine;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::test_project::{WAIT_LIMIT, TestProject, wait_until};
use door::MAX_CONNECTIONS;
use engine::{RemoteEngine, RemoteProject};

/// Limits for an engine that does not answer, so that no test sits out the two minutes that it is by itself: one that an engine
/// outlasts which is silent for a while, and a short one for an engine that falls silent for good.
const LONG_TIMEOUT: &str = "COMPOSE_ZD_ENGINE_TIMEOUT=24s";
const SHORT_TIMEOUT: &str = "COMPOSE_ZD_ENGINE_TIMEOUT=12s";
const NO_TIMEOUT: &str = "COMPOSE_ZD_ENGINE_TIMEOUT=2m";

/// How long it is silent: a quarter of the limit is waited before it is asked whether it answers.
const SILENCE: Duration = Duration::from_secs(9);

/// The longest that compose-zd may go on asking an engine that does not answer, with the way back.
const MAX_UNANSWERED: Duration = Duration::from_secs(60);

/// Clients that outlast it.
const LOAD: &str = "--rate 50 --seconds 600";

/// A good update to the second of these versions, one to the third that fails, and back to the first; nobody notices any
/// of it. An engine has one history whatever way it is reached, so it goes `back` to the release that the way before left.
fn deploy_and_roll_back(far: &RemoteProject, [old, good, bad]: [&str; 3], back: u32, asked: &str) {
    let stage = &far.stage;
    stage.set_variables(&format!("VERSION={good}"));
    let (ran, answers) = far.run_under_load("deploy", "app");
    ran.exits(0).says(asked);
    answers.all_from(&[old, good]);
    stage.expect_release("app", 2, good);
    stage.set_variables(&format!("VERSION={bad} STATUS=503"));
    let (ran, answers) = far.run_under_load("deploy", "app --health-deadline 5s");
    ran.exits(3).says(" served before and still serve").says("→ 503");
    answers.all_from(&[good]);
    stage.expect_release("app", 2, good);
    stage.set_variables("STATUS=200");
    let (ran, answers) = far.run_under_load("rollback", "app");
    ran.exits(0).says(&format!("back on release {back} "));
    answers.all_from(&[old, good]);
    stage.expect_release("app", 2, old);
}

/// What the app's image lacks, its proxy has.
fn routed_containers(far: &RemoteProject) -> String {
    format!("in {}-proxy-1 → 200", far.stage.name)
}

#[test]
fn remote_deploys_by_context_and_tcp_behind_nginx_proxy_lose_no_request() {
    let engine = RemoteEngine::new();
    let mut far = RemoteProject::nginx_proxy(&engine, "far");
    let subnet = "10.214.77";
    let yaml = far.stage.read("compose.override.yaml");
    let network = format!("networks: {{default: {{ipam: {{config: [{{subnet: {subnet}.0/28}}]}}}}}}\n");
    far.stage.write_override(&format!("{yaml}{network}"));
    far.up(2);

    far.stage.log("---- by context");
    far.connect_by_context("far");
    deploy_and_roll_back(&far, ["1", "2", "3"], 1, &routed_containers(&far));

    far.stage.log("---- by TCP; whoever has the address of an instance on this machine is not taken for it");
    far.connect_by_tcp();
    // Two engines give their containers the same addresses.
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

    far.stage.log("---- an instance that nobody can ask is said at once, and a healthcheck is the way out");
    let stage = &far.stage;
    let before = stage.containers();
    stage.set_variables("VERSION=6");
    // As behind a proxy whose image has none of it either.
    let kind = "x-zd: {proxy: {kind: none}, health: {port: 3000}}";
    stage.write_override(&format!("{yaml}  app: {{{kind}}}\n{network}"));
    let ran = far.start("deploy", "app --health-deadline 10m").wait();
    ran.exits(3).says("nothing can check").says("neither curl, wget nor bash").says("`healthcheck`");
    assert_eq!(stage.containers(), before);
    let check = "healthcheck: {test: [CMD, /sample-app, probe, /health], interval: 30s}";
    stage.write_override(&format!("{yaml}  app: {{{check}}}\n{network}"));
    let (ran, answers) = far.run_under_load("deploy", "app");
    ran.exits(0).says("healthcheck → 0");
    answers.all_from(&["1", "6"]);
    stage.expect_release("app", 2, "6");
}

#[test]
fn remote_deploys_by_tcp_and_one_ssh_connection_behind_haproxy_lose_no_request() {
    let engine = RemoteEngine::new();
    let mut far = RemoteProject::haproxy(&engine, "farha");
    far.up(2);
    far.stage.log("---- by TCP");
    deploy_and_roll_back(&far, ["1", "2", "3"], 1, &routed_containers(&far));
    // As Docker's own documents advise.
    far.stage.log("---- by one connection of ssh");
    far.connect_by_ssh("ControlMaster auto\nControlPersist 5\n");
    deploy_and_roll_back(&far, ["1", "4", "5"], 4, &routed_containers(&far));
}

#[test]
fn deploys_by_ssh_lose_no_request_even_above_the_connection_limit() {
    let engine = RemoteEngine::new();
    let mut far = RemoteProject::nginx_proxy(&engine, "farssh");
    far.connect_by_ssh("");
    // Each question is three logins, which cost more than all the rest; those that are turned away come again.
    far.stage.set_variables("COMPOSE_ZD_HEALTH_INTERVAL=1s");
    far.up(2);
    deploy_and_roll_back(&far, ["1", "2", "3"], 1, &routed_containers(&far));

    far.stage.log("---- more at a time than its ssh server lets in");
    let many = MAX_CONNECTIONS + 1;
    far.stage.set_variables("VERSION=1");
    far.up(many);
    far.stage.set_variables("VERSION=4");
    let (ran, answers) = far.run_under_load("deploy", "app");
    ran.exits(0);
    answers.all_from(&["1", "4"]);
    far.stage.expect_release("app", many, "4");
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
    let load = far.stage.start_load(LOAD);
    far.stage.set_variables(&format!("VERSION=2 {LONG_TIMEOUT}"));
    let mut deploy = far.start("deploy", "app");
    deploy.wait_for("started app-");
    far.engine.node.freeze(&far.engine.net);
    let now = Instant::now();
    wait_until("a while has passed", WAIT_LIMIT, || now.elapsed() > SILENCE);
    far.engine.node.thaw(&far.engine.net);
    deploy.wait().exits(0);
    load.stop().all_from(&["1", "2"]);
    far.stage.expect_release("app", 2, "2");
}

/// The containers go on without it, and so do their clients.
fn a_deploy_whose_engine_falls_silent_says_so_and_the_next_one_tidies_up(far: &RemoteProject) {
    let there = far.stage.variable("DOCKER_HOST");
    let load = far.stage.start_load(LOAD);
    far.stage.set_variables(&format!("VERSION=3 {SHORT_TIMEOUT}"));
    let mut deploy = far.start("deploy", "app");
    deploy.wait_for("started app-");
    far.engine.node.freeze(&far.engine.net);
    wait_until("it ends", MAX_UNANSWERED, || !deploy.is_running());
    let said = format!("the Docker engine at `{there}` does not answer");
    deploy.wait().exits(4).says(&said).says("act now");
    far.engine.node.thaw(&far.engine.net);
    far.stage.set_variables(NO_TIMEOUT);
    far.start("deploy", "app").wait().exits(0);
    load.stop().all_from(&["2", "3"]);
    far.stage.expect_release("app", 2, "3");
}

fn a_deploy_whose_line_breaks_says_so_and_the_next_one_tidies_up(far: &RemoteProject) {
    far.stage.set_variables(&format!("VERSION=4 {SHORT_TIMEOUT}"));
    let mut deploy = far.start("deploy", "app");
    deploy.wait_for("started app-");
    far.engine.net.disconnect(far.engine.node.number);
    wait_until("it ends", MAX_UNANSWERED, || !deploy.is_running());
    deploy.wait().exits(4).says("act now");
    far.engine.net.reconnect(far.engine.node.number);
    far.stage.set_variables(NO_TIMEOUT);
    wait_until("the line is there again", WAIT_LIMIT, || far.stage.get("/").is_some());
    let load = far.stage.start_load("");
    far.start("deploy", "app").wait().exits(0);
    load.stop().all_until("4");
    far.stage.expect_release("app", 2, "4");
}

/// As an update of the engine does it, in the middle of a deploy. The containers go on; what is published is refused
/// for a moment by the engine itself, whoever deploys.
fn a_deploy_whose_engine_is_killed_and_comes_back_goes_back_and_the_next_one_tidies_up(far: &RemoteProject) {
    far.stage.set_variables("VERSION=5 WARMUP=2");
    let mut deploy = far.start("deploy", "app");
    deploy.wait_for("started app-");
    far.engine.node.kill_engine(&far.engine.net);
    far.engine.node.start_engine();
    deploy.wait().exits(3).says("no Docker engine answers").says(" served before and still serve");
    far.stage.expect_release("app", 2, "4");
    // It is given the engine's socket as a file, which is that of the engine before.
    far.stage.compose("restart proxy");
    wait_until_steady(&far.stage);
    far.stage.set_variables("WARMUP=0");
    let (ran, answers) = far.run_under_load("deploy", "app");
    ran.exits(0);
    answers.all_from(&["4", "5"]);
    far.stage.expect_release("app", 2, "5");
}

/// A proxy that has just started still reloads what docker-gen has found out.
fn wait_until_steady(stage: &TestProject) {
    stage.wait_until_all_answer();
    let mut in_a_row = 0;
    wait_until("answers without a break", WAIT_LIMIT, || {
        let answers = stage.get("/").is_some_and(|reply| reply.status == 200);
        in_a_row = if answers { in_a_row + 1 } else { 0 };
        in_a_row >= 20
    });
}

fn an_engine_that_is_not_there_is_named_with_a_fix(far: &RemoteProject) {
    let stage = &far.stage;
    let before = stage.ids("app");
    let there = stage.variable("DOCKER_HOST");
    far.engine.node.kill_engine(&far.engine.net);
    let context = format!("no Docker engine answers at `{there}` (context `far`)");
    let ran = far.start("deploy", "app --force").wait();
    ran.exits(1).says(&context).says("hint: check that it runs");
    stage.set_variables("DOCKER_HOST=ssh://nobody@127.0.0.1:1");
    let ran = stage.deploy("app --force");
    ran.exits(1).says("no Docker engine answers at `ssh://nobody@127.0.0.1:1`");
    ran.says("`ssh nobody@127.0.0.1:1 docker version` has to work");
    stage.set_variables(&format!("DOCKER_HOST={there}"));
    far.engine.node.start_engine();
    far.engine.node.wait_until_up();
    assert_eq!(stage.ids("app"), before);
}
