//! Docker clients that a deploy starts: each costs more than its query.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::test_project::TestProject;

/// Template for the path of the Compose plugin.
const PLUGIN: &str = r#"{{range .ClientInfo.Plugins}}{{if eq .Name "compose"}}{{.Path}}{{end}}{{end}}"#;

/// Counts docker processes from now on: one line per process.
fn count_processes(project: &TestProject) -> impl Fn() -> Vec<String> + use<> {
    let output = project.command("docker").args(["info", "--format", PLUGIN]).output().expect("docker");
    let plugin = String::from_utf8_lossy(&output.stdout).trim().to_string();
    let counter = project.variable("ZD_COUNTER");
    let docker = which::which("docker").expect("docker");
    let (bin, config) = (project.path("bin"), project.path("config"));
    for (folder, name) in [(bin.clone(), "docker"), (config.join("cli-plugins"), "docker-compose")] {
        fs::create_dir_all(&folder).expect("a folder");
        fs::copy(&counter, folder.join(name)).expect("the counter");
    }
    let lines = project.path("started");
    let path = std::env::var("PATH").expect("a PATH");
    project.set_variables(&format!(
        "PATH={}:{path} DOCKER_CONFIG={} ZD_COUNT={} ZD_COUNT_DOCKER={} ZD_COUNT_COMPOSE={plugin}",
        bin.display(),
        config.display(),
        lines.display(),
        docker.display()
    ));
    move || fs::read_to_string(&lines).expect("lines").lines().map(String::from).collect()
}

#[test]
fn a_deploy_queries_the_engine_through_one_client_and_compose_through_its_plugin() {
    let project = TestProject::haproxy("clients");
    project.up("--scale app=3");
    let started = count_processes(&project);
    project.set_variables("VERSION=2");
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(0);
    answers.all_from(&["1", "2"]);
    let lines = started();
    let at = |words: &str| lines.iter().position(|line| line.starts_with(words)).expect("a line");
    // The queries of the test itself come before and after.
    let lines = &lines[at("docker system dial-stdio")..=at("docker rm ")];
    let of = |words: &str| lines.iter().filter(|line| line.starts_with(words)).count();
    // One client for queries, one for the events of the instances.
    assert_eq!(of("docker system dial-stdio"), 2, "{lines:#?}");
    // Each change has its own client; reads and calls of Compose have none.
    assert_eq!(of("docker start ") + of("docker stop ") + of("docker rm "), 5, "{lines:#?}");
    for words in ["docker ps", "docker container", "docker image inspect", "docker volume", "docker compose"]
    {
        assert_eq!(of(words), 0, "{words}: {lines:#?}");
    }
    assert!(of("docker-compose compose ") >= 3, "{lines:#?}");
    assert_eq!(of("docker-compose docker-cli-plugin-metadata"), 0, "{lines:#?}");
}

#[test]
fn a_docker_client_that_is_a_script_is_started_for_changes_and_passes_queries_on() {
    let project = TestProject::haproxy("script");
    project.up("--scale app=1");
    let docker = which::which("docker").expect("docker");
    let (bin, lines) = (project.path("bin"), project.path("started"));
    fs::create_dir(&bin).expect("a folder");
    let script = format!("#!/bin/sh\necho \"$*\" >>{}\nexec {} \"$@\"\n", lines.display(), docker.display());
    fs::write(bin.join("docker"), script).expect("a script");
    fs::set_permissions(bin.join("docker"), fs::Permissions::from_mode(0o755)).expect("it may be run");
    project.set_variables(&format!(
        "PATH={}:{} VERSION=2",
        bin.display(),
        std::env::var("PATH").expect("a PATH")
    ));
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(0);
    answers.all_from(&["1", "2"]);
    let lines = fs::read_to_string(lines).expect("lines");
    let asked = |words: &str| lines.lines().any(|line| line.starts_with(words));
    assert!(asked("compose ") && asked("system dial-stdio") && asked("start "), "{lines}");
    assert!(!asked("container inspect ") && !asked("volume create "), "{lines}");
}
