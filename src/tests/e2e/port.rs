//! A published port without any proxy: a stand-in serves while its owner is replaced. The tests change rules of the machine's
//! firewall, and need root.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv6Addr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::net::Network;
use crate::test_project::{TestProject, WAIT_LIMIT, free_port, wait_until};

fn up(name: &str) -> TestProject {
    let project = TestProject::from_fixture(name, "published-port", &[]);
    project.up("");
    wait_until("the app answers", WAIT_LIMIT, || project.get("/").is_some_and(|reply| reply.status == 200));
    project
}

/// Rules of the project in the firewall, of both kinds.
pub fn rules(project: &TestProject) -> Vec<String> {
    let owner = format!("compose-zd {}/app", project.name);
    let listed = |program: &&str| {
        let output = Command::new(program).args(["-w", "10", "-t", "nat", "-S"]).output().expect("iptables");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = ["iptables", "ip6tables"].iter().map(listed).collect::<String>();
    text.lines().filter(|line| line.contains(&owner)).map(String::from).collect()
}

/// Asserts that one container of this version serves, and that nothing else is left.
fn expect_release(project: &TestProject, version: &str) {
    assert_eq!(project.states("app"), [format!("running {version}")]);
    assert_eq!(rules(project), [""; 0]);
    project.expect_version(version);
}

/// Client by IPv6 loopback, which counts the requests without a 200.
struct Ipv6Client {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<(usize, usize)>,
}

impl Ipv6Client {
    fn start(port: u16) -> Ipv6Client {
        let ended = Arc::new(AtomicBool::new(false));
        let is_ended = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            let (mut sent, mut lost) = (0, 0);
            while !is_ended.load(Ordering::Relaxed) {
                sent += 1;
                lost += usize::from(!answers(port));
                thread::sleep(Duration::from_millis(20));
            }
            (sent, lost)
        });
        Ipv6Client { ended, thread }
    }

    fn stop(self) {
        self.ended.store(true, Ordering::Relaxed);
        let (sent, lost) = self.thread.join().expect("the client");
        assert!(sent > 0 && lost == 0, "{lost} of {sent} lost by IPv6");
    }
}

/// Client on another machine, which is a network namespace. It counts the requests without a 200, too.
struct OutsideClient {
    _net: Network,
    loop_of_requests: Child,
    codes: PathBuf,
    stop: PathBuf,
}

impl OutsideClient {
    fn start(project: &TestProject, port: u16) -> OutsideClient {
        let net = Network::new();
        let [a, b, c, _] = net.add_node(1).octets();
        let (codes, stop) = (project.new_file("codes"), project.new_file("stop"));
        let script = format!(
            "until [ -e '{}' ]; do curl -s -m 30 -o /dev/null -w '%{{http_code}}\\n' http://{a}.{b}.{c}.254:{port}/; done >'{}'",
            stop.display(),
            codes.display()
        );
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &net.namespace(1), "sh", "-c", &script]).stdin(Stdio::null());
        let loop_of_requests = command.spawn().expect("a client outside");
        OutsideClient { _net: net, loop_of_requests, codes, stop }
    }

    fn stop(mut self) {
        fs::write(&self.stop, "").expect("the stop file");
        self.loop_of_requests.wait().expect("the client outside");
        let codes = fs::read_to_string(&self.codes).expect("its answers");
        let lost = codes.lines().filter(|code| *code != "200").count();
        assert!(!codes.is_empty() && lost == 0, "{lost} lost outside: {codes}");
    }
}

fn answers(port: u16) -> bool {
    let mut text = String::new();
    let mut request = || -> std::io::Result<()> {
        let mut stream = TcpStream::connect((Ipv6Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(WAIT_LIMIT))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        stream.read_to_string(&mut text).map(drop)
    };
    request().is_ok() && text.starts_with("HTTP/1.1 200 ")
}

#[test]
fn a_deploy_and_a_rollback_lose_no_request_of_any_client() {
    let project = up("port");
    let port: u16 = project.variable("PROXY_PORT").parse().expect("a port");
    let outside = OutsideClient::start(&project, port);
    let (ipv6, load) = (Ipv6Client::start(port), project.start_load(""));

    project.set_variables("VERSION=2 WARMUP=1 STOP=abrupt");
    project.deploy("app").exits(0).says("published port");
    expect_release(&project, "2");
    project.rollback("app").exits(0);
    expect_release(&project, "1");

    load.stop().all_from(&["1", "2"]);
    ipv6.stop();
    outside.stop();
}

#[test]
fn of_several_ports_the_one_that_speaks_http_is_asked_for_readiness() {
    let project = TestProject::from_fixture("portseveral", "published-port", &[]);
    let (silent, second) = (free_port(), free_port());
    project.write_override(&format!(
        "services: {{ app: {{ ports: !override ['127.0.0.1:{silent}:9001', '${{PROXY_PORT}}:3000', '{second}:3000'] }} }}"
    ));
    project.up("");
    project.set_variables("VERSION=2");
    // A stand-in does not start with the engine, so the old instance does until the new one has started.
    let preview = project.deploy("app --dry-run");
    preview.exits(0).says("docker update --restart always").says("docker update --restart no");

    let (load, load_at_second) = (project.start_load(""), project.start_load_at(second, ""));
    project.deploy("app --health-deadline 10s").exits(0);
    load.stop().all_from(&["1", "2"]);
    load_at_second.stop().all_from(&["1", "2"]);
    expect_release(&project, "2");
    let policy = project.docker(&format!(
        "inspect --format {{{{.HostConfig.RestartPolicy.Name}}}} {}",
        project.ids("app").first().expect("the app")
    ));
    assert_eq!(policy, "unless-stopped");
}

#[test]
fn a_killed_or_failed_deploy_serves_on_and_is_finished_or_undone() {
    let project = up("portkill");
    let kill_after = |line: &str| {
        let mut deploy = project.start_deploy("app");
        deploy.wait_for(line);
        deploy.kill();
    };
    project.log("--- killed after the switch to the stand-in; `recover` finishes");
    let load = project.start_load("");
    project.set_variables("VERSION=2");
    kill_after("in rotation: app-");
    project.start("recover").wait().exits(0);
    load.stop().all_from(&["1", "2"]);
    expect_release(&project, "2");

    project.log("--- a release that never gets ready");
    project.set_variables("VERSION=3 STATUS=500");
    let (result, answers) = project.deploy_under_load("", "app --health-deadline 3s");
    result.exits(3).says("served before and still serves");
    answers.all_from(&["2"]);
    expect_release(&project, "2");

    project.log("--- killed without an owner of the port; Compose takes over, and no rule is left");
    project.set_variables("VERSION=4 STATUS=200");
    kill_after("stopped app-");
    project.compose("up --detach");
    wait_until("the app answers again", WAIT_LIMIT, || {
        project.get_within(Duration::from_secs(1), "a", "/").is_some_and(|reply| reply.version == "4")
    });
    wait_until("no rule is left", WAIT_LIMIT, || rules(&project).is_empty());
    project.deploy("app").exits(0);
    expect_release(&project, "4");
}
