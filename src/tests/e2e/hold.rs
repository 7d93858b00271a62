//! Hold: an app with SQLite, which cannot run twice, is replaced behind every proxy without a lost request.

use std::process::Command;
use std::time::Duration;

use crate::container_name::expect_named;
use crate::load::{Answers, Load};
use crate::port::rules;
use crate::promises::{FirstRelease, ProxySetup};
use crate::test_project::{TestProject, WAIT_LIMIT, engine_kind, wait_until};

/// The app of `fixtures/hold-sqlite` in place of the proxy's own.
const APP: &str = "services: {app: {extends: {file: sqlite.yaml, service: app}}}\nvolumes: {data: {}}\n";

/// dockercloud sends requests to every port that the image exposes.
const APP_OF_DOCKERCLOUD: &str = "services: {app: {extends: {file: sqlite.yaml, service: app}, \
    expose: !override ['8000'], environment: {PORT: '8000'}}}\nvolumes: {data: {}}\n";

/// Lines after which a deploy is killed, each with its number: the relay gets the requests, the old instance has stopped, the
/// new one has started, the new one gets the requests. Behind [`KILLED_EVERYWHERE`] each is tried, elsewhere one.
const KILLED_AFTER: [(&str, usize); 4] =
    [("in rotation:", 1), ("stopped", 1), ("started", 2), ("in rotation:", 2)];

/// Time in which a proxy checks the app several times.
const STEADY_TIME: Duration = Duration::from_secs(2);

const KILLED_EVERYWHERE: &str = "haproxylinehold";

/// Projects whose app has `container_name` as well.
const NAMED: [&str; 2] = ["traefikhold", "porthold"];

/// Clients of both kinds, which write and which read.
struct Clients<'p> {
    reading: Load<'p>,
    writing: Load<'p>,
}

impl<'p> Clients<'p> {
    fn start(project: &'p TestProject, kept: bool) -> Self {
        let kept = if kept { "--keep-alive" } else { "" };
        Clients {
            reading: project.start_load(&format!("--clients 4 --rate 20 {kept}")),
            writing: project.start_load(&format!("--clients 4 --rate 20 --method POST --body 500 {kept}")),
        }
    }

    /// Asserts that these versions answered every request, and returns the number of the rows that were written.
    fn stop(self, versions: &[&str]) -> u64 {
        let answers: [Answers; 2] = [self.reading.stop(), self.writing.stop()];
        answers.iter().for_each(|answers| answers.all_from(versions));
        answers[1].answered()
    }
}

/// Number of rows in the database.
fn rows(project: &TestProject) -> u64 {
    let host = format!("Host: {}", project.host());
    let output = Command::new("curl").args(["-s", "-m", "30", "-H", &host, &project.url()]).output();
    let text = String::from_utf8(output.expect("curl").stdout).expect("a text");
    let number = text.trim().strip_suffix(" rows").and_then(|rest| rest.rsplit(' ').next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no number of rows: {text}"))
}

/// Name of the app's container in a project of [`NAMED`].
fn fixed_name(project: &TestProject) -> String {
    format!("{}-only", project.name)
}

/// Each instance that runs has the restart policy of its file.
fn has_policy_of_file(project: &TestProject) -> bool {
    let all = project.containers().into_iter().filter(|c| c.service == "app" && c.state == "running");
    let ids: Vec<String> = all.map(|c| c.id).collect();
    let format = "{{.HostConfig.RestartPolicy.Name}}:{{.Config.Image}}";
    let output = project.docker(&format!("inspect --format {format} {}", ids.join(" ")));
    let instances: Vec<&str> = output.lines().filter(|line| !line.contains("compose-zd/helper")).collect();
    !instances.is_empty() && instances.iter().all(|line| line.starts_with("unless-stopped:"))
}

fn up(setup: &ProxySetup, name: &str) -> TestProject {
    let project = (setup.project)(name);
    project.copy_fixture("hold-sqlite/compose.yaml", "sqlite.yaml");
    project.copy_fixture("hold-sqlite/app.py", "app.py");
    let is_dockercloud = project.read("compose.yaml").contains("DOCKERCLOUD_IMAGE");
    let app = if is_dockercloud { APP_OF_DOCKERCLOUD } else { APP };
    let fixed = format!("{{app: {{container_name: {}, ", fixed_name(&project));
    project.write_override(&if NAMED.contains(&name) { app.replace("{app: {", &fixed) } else { app.into() });
    project.up("");
    // HAProxy's second try to connect may reach an app that its check has just found down.
    project.wait_until_steady("/health", STEADY_TIME);
    project
}

/// Replaces the app, with a version that serves and with one that never starts, and kills deploys.
pub fn replaces_without_a_loss(setup: &ProxySetup, name: &str) {
    replaces_for_clients(setup, name, true);
}

/// Some clients keep their connections if `kept`.
fn replaces_for_clients(setup: &ProxySetup, name: &str, kept: bool) {
    let project = up(setup, name);
    let left = || (setup.left)(&project);
    let expect = |version: &str| {
        assert_eq!((project.states("app"), left()), (vec![format!("running {version}")], String::new()));
        if NAMED.contains(&name) {
            expect_named(&project, &fixed_name(&project), version);
        }
    };
    let mut written = 0;
    let mut expect_rows = |count: u64| {
        written += count;
        assert_eq!(rows(&project), written, "each request was written once");
    };
    if setup.first == FirstRelease::Requests {
        project.deploy("app --force").exits(0).says("waited for the replacement");
    }

    project.log("--- the first deploy");
    project.set_variables("VERSION=2");
    let clients = Clients::start(&project, kept && setup.first == FirstRelease::Nothing);
    let (sent, lost) = project.deploy("app").exits(0).says("waited for the replacement").witness_counts();
    assert!(sent > 0 && lost == 0, "the witness sent {sent} and lost {lost}");
    expect_rows(clients.stop(&["1", "2"]));
    expect("2");
    if !engine_kind().is_empty() {
        return;
    }

    project.log("--- a version that never starts");
    project.set_variables("VERSION=3 START_DELAY=600");
    let clients = Clients::start(&project, kept);
    project.deploy("app --hold 10s").exits(3).says("x-zd.hold");
    expect_rows(clients.stop(&["2"]));
    expect("2");

    project.set_variables("START_DELAY=3");
    let is_tried = |n: usize| name == KILLED_EVERYWHERE || n == name.len() % KILLED_AFTER.len();
    for (n, (line, number)) in KILLED_AFTER.into_iter().enumerate().filter(|(n, _)| is_tried(*n)) {
        project.log(&format!("--- killed after line {number} of `{line}`"));
        let clients = Clients::start(&project, kept);
        let mut deploy = project.start_deploy("app");
        deploy.wait_for_names(line, number);
        deploy.kill();
        wait_until("an instance answers what waited", WAIT_LIMIT, || {
            project.get("/health").is_some_and(|reply| reply.status == 200)
        });
        wait_until("the watchdog has restored the restart policy", WAIT_LIMIT, || {
            has_policy_of_file(&project)
        });
        project.start("recover").wait().exits(0);
        expect_rows(clients.stop(&["2", "3"]));
        expect("3");
        if name == KILLED_EVERYWHERE && n + 1 < KILLED_AFTER.len() {
            project.rollback("app").exits(0);
        }
    }
}

#[test]
fn behind_a_published_port_an_app_that_cannot_run_twice_is_replaced_without_a_lost_request() {
    let setup = ProxySetup {
        project: |name| TestProject::from_fixture(name, "published-port", &[]),
        count: 1,
        first: FirstRelease::Nothing,
        left: |project| rules(project).join("\n"),
    };
    // A kept connection stays on the old instance.
    replaces_for_clients(&setup, "porthold", false);
}
