//! `check` reports the flaw of each project of `fixtures/check`, and no other flaw: by the file alone where possible, else by
//! the running containers. `check` changes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Output, Stdio};

use serde_json::Value;

use crate::test_project::TestProject;

/// Projects whose flaw shows only in running containers.
const RUNNING: [&str; 2] = ["ignores-stop-signal.runs", "nginx-keepalive.runs"];

/// Number of checks that run side by side.
const BATCH: usize = 4;

/// Starts a `check` of a file of the project.
fn start(project: &TestProject, words: &str) -> Child {
    let mut command = project.compose_zd();
    command.args(["-p", &project.name, "check", "--output", "json"]).args(words.split_whitespace());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("compose-zd can be started")
}

fn end(child: Child) -> Output {
    child.wait_with_output().expect("a child that ends")
}

/// The broken rules of an output; asserts that the exit code agrees.
fn rules(name: &str, output: &Output) -> BTreeSet<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let audit_report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{name}: {e}: {stderr}"));
    let findings = audit_report["findings"].as_array().unwrap_or_else(|| panic!("{name}: {audit_report}"));
    let is_no = |f: &Value| f["severity"] == "no";
    let code = i32::from(findings.iter().any(is_no));
    assert_eq!(output.status.code(), Some(code), "{name}: {audit_report}");
    for finding in findings {
        let fix = finding["hint"].as_str().unwrap_or_default();
        assert!(!fix.is_empty() || !is_no(finding), "{name}: without a fix: {finding}");
    }
    findings.iter().map(|f| f["rule"].as_str().unwrap_or_default().to_string()).collect()
}

/// Checks all projects, and returns those with unexpected rules.
fn differing(project: &TestProject, all: &[(String, String, BTreeSet<String>)]) -> Vec<String> {
    let mut wrong = Vec::new();
    for batch in all.chunks(BATCH) {
        let children: Vec<Child> = batch.iter().map(|(_, words, _)| start(project, words)).collect();
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
    let project = TestProject::on_other_engine(Ipv4Addr::LOCALHOST, name);
    // An image that exposes several ports, or none.
    project.set_variables(&format!("CHECK_IMAGE={}", project.variable("DOCKERCLOUD_IMAGE")));
    project
}

/// The name of a folder is the rule that its project breaks; a suffix after a dot distinguishes several.
#[test]
fn check_reports_every_flaw_and_no_other() {
    let project = project("flaws");
    project.copy_fixtures("check");
    let folders = fs::read_dir(project.path(".")).unwrap().map(|e| e.unwrap().path());
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
            // A worker with a volume is only checked if it is named.
            let service = if rule == "stops-first" { "worker" } else { "" };
            let words = format!("-f {name}/compose.yaml {service}");
            let expected = if rule == "none" { BTreeSet::new() } else { rule_set(&rule) };
            (name, words, expected)
        })
        .collect();
    let flaws: BTreeSet<&String> = projects.iter().flat_map(|(.., expected)| expected).collect();
    assert!(flaws.len() >= 12, "{flaws:?}");
    assert_eq!(differing(&project, &projects), [""; 0]);
    assert!(!project.path(".compose-zd").exists());
}

/// Good fixtures lose nothing in the other tests. Their findings are notes, or the flaw that the fixture shows.
#[test]
fn check_reports_no_loss_for_good_fixtures() {
    let project = project("fixtures");
    project.set_variables("PROXY_NETWORK=zde2e-check-web");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let cases = [
        ("nginx-proxy-scale", "compose.yaml", "", "weak-readiness"),
        ("nginx-proxy-scale", "compose.yaml compose.healthcheck.yaml", "", ""),
        ("nginx-proxy-pair", "compose.yaml", "", "weak-readiness"),
        ("nginx-plain", "compose.yaml", "", "weak-readiness"),
        ("apache-plain", "compose.yaml", "", "weak-readiness apache-keepalive"),
        ("haproxy-template", "compose.yaml", "", "weak-readiness"),
        ("haproxy-scale", "compose.yaml", "", "weak-readiness"),
        ("caddy", "compose.yaml", "", "weak-readiness caddy-no-retries"),
        ("traefik-labels", "compose.yaml", "", "weak-readiness"),
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
    assert_eq!(differing(&project, &cases.map(case)), [""; 0]);
}

/// Starts a project of `fixtures/check` in place of the previous one, sets `then`, and returns the rules that it breaks.
fn rules_of_running(project: &TestProject, fixture: &str, then: &str) -> BTreeSet<String> {
    project.log(&format!("---- {fixture}"));
    let file = format!("-f {fixture}/compose.yaml");
    project.compose(&format!("{file} up -d --timeout 1 --remove-orphans"));
    let before = project.containers();
    project.set_variables(then);
    let found = rules(fixture, &end(start(project, &file)));
    assert_eq!(project.containers(), before);
    assert!(!project.path(".compose-zd").exists());
    found
}

/// Flaws: a process without a signal handler, and an old nginx.
#[test]
fn check_reports_flaws_that_show_only_at_runtime() {
    // The test project removes the whole Compose project at its end, by its own file.
    let project = TestProject::nginx_proxy("runs");
    project.copy_fixtures("check");
    assert_eq!(rules_of_running(&project, "ignores-stop-signal.runs", ""), rule_set("ignores-stop-signal"));
    assert_eq!(rules_of_running(&project, "none.haproxy", ""), rule_set(""));
    assert_eq!(rules_of_running(&project, "nginx-keepalive.runs", ""), rule_set("nginx-keepalive"));
}
