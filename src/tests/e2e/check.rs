//! `check` names what is wrong with each project of `fixtures/check`, and nothing else; by the file alone where that
//! tells it, else by what runs. It changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Output, Stdio};

use serde_json::Value;

use crate::test_project::TestProject;

/// What can only be seen of what runs.
const RUNNING: [&str; 3] = ["ignores-stop-signal.runs", "nginx-keepalive.runs", "traefik-labels"];

/// How many are judged side by side.
const BATCH: usize = 4;

/// One `check` of a file of the stage.
fn start(stage: &TestProject, words: &str) -> Child {
    let mut command = stage.compose_zd();
    command.args(["-p", &stage.name, "check", "--output", "json"]).args(words.split_whitespace());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("compose-zd can be started")
}

fn end(child: Child) -> Output {
    child.wait_with_output().expect("a child that ends")
}

/// The rules that are broken; the exit code has to say the same.
fn rules(name: &str, output: &Output) -> BTreeSet<String> {
    let told = String::from_utf8_lossy(&output.stderr);
    let sheet: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{name}: {e}: {told}"));
    let findings = sheet["findings"].as_array().unwrap_or_else(|| panic!("{name}: {sheet}"));
    let is_no = |f: &Value| f["severity"] == "no";
    let code = i32::from(findings.iter().any(is_no));
    assert_eq!(output.status.code(), Some(code), "{name}: {sheet}");
    for finding in findings {
        let fix = finding["fix"].as_str().unwrap_or_default();
        assert!(!fix.is_empty() || !is_no(finding), "{name}: without a fix: {finding}");
    }
    findings.iter().map(|f| f["rule"].as_str().unwrap_or_default().to_string()).collect()
}

/// Judges all of these, and tells which are not as they should be.
fn differing(stage: &TestProject, all: &[(String, String, BTreeSet<String>)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for batch in all.chunks(BATCH) {
        let children: Vec<Child> = batch.iter().map(|(_, words, _)| start(stage, words)).collect();
        for (child, (name, _, expected)) in children.into_iter().zip(batch) {
            let found = rules(name, &end(child));
            if found != *expected {
                wrong.push(format!("{name}: found {found:?}, and wrong with it is {expected:?}"));
            }
        }
    }
    wrong
}

fn rule_set(rules: &str) -> BTreeSet<String> {
    rules.split_whitespace().map(String::from).collect()
}

fn project(name: &str) -> TestProject {
    let stage = TestProject::on_other_engine(Ipv4Addr::LOCALHOST, name);
    // An image that exposes several ports, or none.
    stage.set_variables(&format!("CHECK_IMAGE={}", stage.variable("DOCKERCLOUD_IMAGE")));
    stage
}

/// A folder is called by the rule that its project breaks; what follows a dot tells two of them apart.
#[test]
fn check_reports_every_flaw_and_no_other() {
    let stage = project("flaws");
    stage.copy_fixtures("check");
    let folders = fs::read_dir(stage.path(".")).unwrap().map(|e| e.unwrap().path());
    let mut folders: Vec<String> = folders
        .filter(|p| p.join("compose.yaml").exists())
        .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
        .filter(|name| !RUNNING.contains(&name.as_str()))
        .collect();
    folders.sort();
    let projects: Vec<(String, String, BTreeSet<String>)> = folders
        .into_iter()
        .map(|name| {
            let rule = name.split('.').next().unwrap().to_string();
            // A worker with a volume is left alone where it is not named.
            let service = if rule == "stops-first" { "worker" } else { "" };
            let words = format!("-f {name}/compose.yaml {service}");
            let expected = if rule == "none" { BTreeSet::new() } else { rule_set(&rule) };
            (name, words, expected)
        })
        .collect();
    let flaws: BTreeSet<&String> = projects.iter().flat_map(|(.., expected)| expected).collect();
    assert!(flaws.len() >= 12, "{flaws:?}");
    assert_eq!(differing(&stage, &projects), [""; 0]);
    assert!(!stage.path(".compose-zd").exists());
}

/// They lose nothing in the other tests: what is found is advice, or what the fixture is there to show.
#[test]
fn check_reports_no_loss_for_good_fixtures() {
    let stage = project("fixtures");
    stage.set_variables("PROXY_NETWORK=zde2e-check-web");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let cases = [
        ("nginx-proxy-scale", "compose.yaml", "", "weak-readiness"),
        ("nginx-proxy-scale", "compose.yaml compose.healthcheck.yaml", "", ""),
        ("nginx-proxy-pair", "compose.yaml", "", "weak-readiness"),
        ("haproxy-template", "compose.yaml", "", "weak-readiness"),
        ("haproxy-scale", "compose.yaml", "", "weak-readiness"),
        ("caddy", "compose.yaml", "", "weak-readiness caddy-no-retries"),
        ("traefik", "compose.yaml", "", "weak-readiness"),
        ("traefik", "compose.yaml compose.api.yaml", "", "weak-readiness"),
        ("traefik", "compose.yaml compose.plain.yaml", "", "traefik-no-drain"),
        ("nginx-proxy-shared", "compose.yaml", "", "weak-readiness no-proxy"),
        ("swarm-vote", "compose.yaml", "--engine swarm", ""),
        ("swarm-whoami", "compose.yaml", "--engine swarm", ""),
        ("swarm-host-port", "compose.yaml", "--engine swarm", "swarm-one-task"),
        ("caddy-flask-stack", "compose.yaml", "--engine swarm", "swarm-one-task"),
    ];
    let case = |(fixture, files, words, expected): (&str, &str, &str, &str)| {
        let file = |name: &str| format!("-f {}", fixtures.join(fixture).join(name).display());
        let files: Vec<String> = files.split(' ').map(file).collect();
        (format!("{fixture} {words}"), format!("{} {words}", files.join(" ")), rule_set(expected))
    };
    assert_eq!(differing(&stage, &cases.map(case)), [""; 0]);
}

/// Brings a project of `fixtures/check` up in the place of the one before, and tells which rules it breaks as it runs, with
/// `then` set.
fn rules_of_running(stage: &TestProject, fixture: &str, then: &str) -> BTreeSet<String> {
    stage.log(&format!("---- {fixture}"));
    let file = format!("-f {fixture}/compose.yaml");
    stage.compose(&format!("{file} up -d --timeout 1 --remove-orphans"));
    let before = stage.containers();
    stage.set_variables(then);
    let found = rules(fixture, &end(start(stage, &file)));
    assert_eq!(stage.containers(), before);
    assert!(!stage.path(".compose-zd").exists());
    found
}

/// A process without a handler, an old nginx, labels that disagree with those that run; and nothing, where nothing is wrong.
#[test]
fn check_reports_flaws_that_show_only_at_runtime() {
    // What takes it down is the file of the stage, for the whole project.
    let stage = TestProject::nginx_proxy("runs");
    stage.copy_fixtures("check");
    assert_eq!(rules_of_running(&stage, "ignores-stop-signal.runs", ""), rule_set("ignores-stop-signal"));
    assert_eq!(rules_of_running(&stage, "none.haproxy", ""), rule_set(""));
    assert_eq!(rules_of_running(&stage, "nginx-keepalive.runs", ""), rule_set("nginx-keepalive"));
    let found = rules_of_running(&stage, "traefik-labels", "VIRTUAL_HOST=other.localhost");
    assert_eq!(found, rule_set("traefik-labels"));
}
