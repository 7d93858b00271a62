//! An engine on another machine, by TCP, by ssh and by context: this machine reaches what is published there, and not
//! the addresses of the containers.

#[path = "remote/door.rs"]
mod door;
#[path = "remote/engine.rs"]
mod engine;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::stage::{LONG, wait_until};
use engine::Far;

/// The longest that compose-zd may go on asking an engine that does not answer, with the way back.
const UNANSWERED: Duration = Duration::from_secs(400);

/// Clients that outlast it.
const LOAD: &str = "--rate 50 --seconds 600";

/// A good update, a broken one, and back; nobody notices any of it.
fn goes_forward_and_back(far: &Far, asked: &str) {
    let stage = &far.stage;
    far.up(2);
    stage.set("VERSION=2");
    let (ran, answers) = far.under_load("deploy", "app");
    ran.exits(0).says(asked);
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 2, "2");
    stage.set("VERSION=3 STATUS=503");
    let (ran, answers) = far.under_load("deploy", "app --health-deadline 5s");
    ran.exits(3).says(" served before and still serve").says("→ 503");
    answers.all_from(&["2"]);
    stage.expect_release("app", 2, "2");
    stage.set("STATUS=200");
    let (ran, answers) = far.under_load("rollback", "app");
    ran.exits(0).says("back on release 1");
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 2, "1");
}

/// What the app's image lacks, its proxy has.
fn by_the_proxy(far: &Far) -> String {
    format!("in {}-proxy-1 → 200", far.stage.project)
}

#[test]
fn a_deploy_by_tcp_behind_nginx_proxy_loses_nothing() {
    let far = Far::nginx_proxy("fartcp");
    goes_forward_and_back(&far, &by_the_proxy(&far));
}

#[test]
fn a_deploy_by_tcp_behind_haproxy_loses_nothing() {
    let far = Far::haproxy("farha");
    goes_forward_and_back(&far, &by_the_proxy(&far));
}

#[test]
fn a_deploy_by_context_loses_nothing() {
    let far = Far::nginx_proxy("farcontext").by_context("far");
    goes_forward_and_back(&far, &by_the_proxy(&far));
}

#[test]
fn a_deploy_by_ssh_loses_nothing() {
    let far = Far::nginx_proxy("farssh").by_ssh("");
    goes_forward_and_back(&far, &by_the_proxy(&far));
}

/// As Docker's own documents advise.
#[test]
fn a_deploy_by_one_connection_of_ssh_loses_nothing() {
    let far = Far::haproxy("farsshone").by_ssh("ControlMaster auto\nControlPersist 5\n");
    goes_forward_and_back(&far, &by_the_proxy(&far));
}

/// More at a time than its ssh server lets in.
#[test]
fn a_deploy_of_many_by_ssh_loses_nothing() {
    let far = Far::nginx_proxy("farmany").by_ssh("");
    far.up(8);
    far.stage.set("VERSION=2");
    let (ran, answers) = far.under_load("deploy", "app");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    far.stage.expect_release("app", 8, "2");
}

/// Two engines give their containers the same addresses.
#[test]
fn whoever_has_the_address_of_an_instance_on_this_machine_is_not_taken_for_it() {
    let far = Far::nginx_proxy("faralias");
    let stage = &far.stage;
    let subnet = "10.214.77";
    let yaml = stage.read("compose.override.yaml");
    let network = format!("networks: {{default: {{ipam: {{config: [{{subnet: {subnet}.0/28}}]}}}}}}");
    stage.add(&format!("{yaml}{network}\n"));
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
    far.up(2);
    stage.set("VERSION=2 STATUS=503");
    let (ran, answers) = far.under_load("deploy", "app --health-deadline 5s");
    ran.exits(3).says("→ 503");
    answers.all_from(&["1"]);
    stage.expect_release("app", 2, "1");
}

#[test]
fn an_instance_that_nobody_can_ask_is_said_at_once_and_a_healthcheck_is_the_way_out() {
    let far = Far::nginx_proxy("farmute");
    let stage = &far.stage;
    far.up(2);
    let before = stage.containers();
    stage.set("VERSION=2");
    // As behind a proxy whose image has none of it either.
    let kind = "x-zd: {proxy: {kind: none}, health: {port: 3000}}";
    let yaml = stage.read("compose.override.yaml");
    stage.add(&format!("{yaml}  app: {{{kind}}}\n"));
    let ran = far.start("deploy", "app --health-deadline 10m").end();
    ran.exits(3).says("nobody can ask").says("neither curl, wget nor bash").says("`healthcheck`");
    assert_eq!(stage.containers(), before);
    let check = "healthcheck: {test: [CMD, /sample-app, probe, /health], interval: 30s}";
    stage.add(&format!("{yaml}  app: {{{check}}}\n"));
    let (ran, answers) = far.under_load("deploy", "app");
    ran.exits(0).says("healthcheck → 0");
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 2, "2");
}

#[test]
fn an_engine_that_is_not_there_is_named_with_a_fix() {
    let far = Far::nginx_proxy("farnone").by_context("far");
    let stage = &far.stage;
    far.up(1);
    let before = stage.containers();
    let there = stage.variable("DOCKER_HOST");
    far.engine.node.kill_engine(&far.engine.net);
    let context = format!("no Docker engine answers at `{there}` (context `far`)");
    let ran = far.start("deploy", "app --force").end();
    ran.exits(1).says(&context).says("hint: see that it runs");
    stage.set("DOCKER_HOST=ssh://nobody@127.0.0.1:1");
    let ran = stage.deploy("app --force");
    ran.exits(1).says("no Docker engine answers at `ssh://nobody@127.0.0.1:1`");
    ran.says("`ssh nobody@127.0.0.1:1 docker version` has to work");
    stage.set(&format!("DOCKER_HOST={there}"));
    far.engine.node.start_engine();
    far.engine.node.wait_until_up();
    assert_eq!(
        stage.ids("app"),
        before.iter().filter(|c| c.service == "app").map(|c| c.id.clone()).collect()
    );
}

#[test]
fn a_deploy_goes_on_after_an_engine_has_been_silent_for_a_while() {
    let far = Far::nginx_proxy("farpause");
    far.up(2);
    let load = far.stage.start_load(LOAD);
    far.stage.set("VERSION=2");
    let mut deploy = far.start("deploy", "app");
    deploy.wait_for("started app-");
    far.engine.node.freeze(&far.engine.net);
    let now = Instant::now();
    wait_until("longer than anybody's patience", LONG * 2, || now.elapsed() > Duration::from_secs(45));
    far.engine.node.thaw(&far.engine.net);
    deploy.end().exits(0);
    load.end().all_from(&["1", "2"]);
    far.stage.expect_release("app", 2, "2");
}

/// The containers go on without it, and so do their clients.
#[test]
fn a_deploy_whose_engine_falls_silent_says_so_and_the_next_one_tidies_up() {
    let far = Far::nginx_proxy("farsilent");
    let there = far.stage.variable("DOCKER_HOST");
    far.up(2);
    let load = far.stage.start_load(LOAD);
    far.stage.set("VERSION=2");
    let mut deploy = far.start("deploy", "app");
    deploy.wait_for("started app-");
    far.engine.node.freeze(&far.engine.net);
    wait_until("it ends", UNANSWERED, || !deploy.runs());
    let said = format!("the Docker engine at `{there}` does not answer");
    deploy.end().exits(4).says(&said).says("act now");
    far.engine.node.thaw(&far.engine.net);
    far.start("deploy", "app").end().exits(0);
    load.end().all_from(&["1", "2"]);
    far.stage.expect_release("app", 2, "2");
}

#[test]
fn a_deploy_whose_line_breaks_says_so_and_the_next_one_tidies_up() {
    let far = Far::nginx_proxy("farline");
    far.up(2);
    far.stage.set("VERSION=2");
    let mut deploy = far.start("deploy", "app");
    deploy.wait_for("started app-");
    far.engine.net.unplug(far.engine.node.number);
    wait_until("it ends", UNANSWERED, || !deploy.runs());
    deploy.end().exits(4).says("act now");
    far.engine.net.plug_in(far.engine.node.number);
    let load = far.stage.start_load("");
    far.start("deploy", "app").end().exits(0);
    load.end().all_until("2");
    far.stage.expect_release("app", 2, "2");
}

/// As an update of the engine does it, in the middle of a deploy. The containers go on; what is published is refused
/// for a moment by the engine itself, whoever deploys.
#[test]
fn a_deploy_whose_engine_is_killed_and_comes_back_goes_back_and_the_next_one_tidies_up() {
    let far = Far::nginx_proxy("farkill");
    far.up(2);
    far.stage.set("VERSION=2 WARMUP=2");
    let mut deploy = far.start("deploy", "app");
    deploy.wait_for("started app-");
    far.engine.node.kill_engine(&far.engine.net);
    far.engine.node.start_engine();
    deploy.end().exits(3).says("no Docker engine answers").says(" served before and still serve");
    far.stage.expect_release("app", 2, "1");
    // It is given the engine's socket as a file, which is that of the engine before.
    far.stage.compose("restart proxy");
    far.stage.wait_until_all_answer();
    far.stage.set("WARMUP=0");
    let (ran, answers) = far.under_load("deploy", "app");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    far.stage.expect_release("app", 2, "2");
}
