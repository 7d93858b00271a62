//! A service with `container_name`: the new container gets the name, no request is lost, and Compose has nothing left to do.

use std::process::Command;

use crate::port::rules;
use crate::test_project::{TestProject, WAIT_LIMIT, wait_until};

/// Name of the app's only container. Projects have names of their own, so this one is unique, too.
fn container_name(project: &TestProject) -> String {
    format!("{}-only", project.name)
}

/// Starts a project whose app has `container_name`.
fn up(project: TestProject, keys: &str) -> TestProject {
    let name = container_name(&project);
    project.write_override(&format!("services: {{app: {{container_name: {name}, {keys}}}}}"));
    project.up("");
    wait_until("the app answers", WAIT_LIMIT, || project.get("/").is_some_and(|reply| reply.status == 200));
    project
}

/// Asserts that the only container of the app has the name, and that a plain `docker compose up` has nothing to do if the file has
/// this version.
pub fn expect_named(project: &TestProject, name: &str, version: &str) {
    assert_eq!(project.states("app"), [format!("running {version}")]);
    let ids = project.ids("app");
    let named = project.docker(&format!("inspect --format {{{{.Id}}}} {name}"));
    assert_eq!(ids.iter().map(String::as_str).collect::<Vec<_>>(), [named.trim()], "{name}");
    if project.variable("VERSION") != version {
        return;
    }
    project.up("");
    assert_eq!(project.ids("app"), ids, "Compose has nothing to do");
}

/// Replaces the app, with a version that serves and one that never gets ready, and kills deploys.
fn keeps_its_name(project: &TestProject, load: &str) {
    let name = container_name(project);
    let expect = |version: &str| expect_named(project, &name, version);

    project.log("--- a new version");
    project.set_variables("VERSION=2");
    let posts = project.start_load(&format!("--clients 4 --rate 40 --method POST --body 500 {load}"));
    let (result, answers) = project.deploy_under_load(&format!("--clients 4 --rate 40 {load}"), "app");
    let (sent, lost) = result.exits(0).witness_counts();
    assert!(sent > 0 && lost == 0, "the witness sent {sent} and lost {lost}");
    answers.all_from(&["1", "2"]);
    posts.stop().all_from(&["1", "2"]);
    expect("2");

    project.log("--- a version that never gets ready");
    project.set_variables("VERSION=3 STATUS=500");
    let (result, answers) = project.deploy_under_load("", "app --health-deadline 3s");
    result.exits(3).says("only served before and still serves");
    answers.all_from(&["2"]);
    project.set_variables("VERSION=2 STATUS=200");
    expect("2");

    project.log("--- killed, and the next run finishes");
    project.set_variables("VERSION=4");
    kill_and(project, "created", &|| _ = project.deploy("app").exits(0));
    expect("4");
    project.set_variables("VERSION=5");
    kill_and(project, "in rotation:", &|| _ = project.start("recover").wait().exits(0));
    expect("5");

    project.log("--- back to the previous release");
    project.rollback("app").exits(0);
    expect("4");

    project.log("--- killed, and Compose finishes");
    project.set_variables("VERSION=6");
    kill_and(project, "created", &|| compose_finishes(project));
    wait_until("the app answers", WAIT_LIMIT, || {
        project.get("/").is_some_and(|reply| reply.status == 200 && reply.version == "6")
    });
    project.start("recover").wait().exits(0);
    expect("6");

    project.log("--- under the name that Compose leaves if it fails while it recreates");
    project.docker(&format!("rename {name} 0123456789ab_{name}"));
    project.deploy("app").exits(0);
    expect("6");
}

/// Runs Compose after a kill. Beside a stand-in or relay that is left, Compose may give the name to the one container before it has
/// removed the other. A second run succeeds then.
fn compose_finishes(project: &TestProject) {
    let output = project.try_docker(&format!("compose -p {} up -d", project.name));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || error.contains("already in use"), "{error}");
    project.up("");
}

/// Kills a deploy after a line, and asserts that no request is lost until `finish` takes over.
fn kill_and(project: &TestProject, line: &str, finish: &dyn Fn()) {
    let load = project.start_load("");
    let mut deploy = project.start_deploy("app");
    deploy.wait_for_names(line, 1);
    deploy.kill();
    assert_eq!(load.stop().lost(), 0);
    finish();
}

#[test]
fn behind_nginx_a_name_is_kept_and_no_request_is_lost() {
    let project = TestProject::nginx("namednginx");
    let config =
        project.read("default.conf").replace("server app:", &format!("server {}:", container_name(&project)));
    project.write("default.conf", &config);
    let project = up(project, "");
    keeps_its_name(&project, "");
}

#[test]
fn behind_traefik_a_name_is_kept_and_no_request_is_lost() {
    let project = up(TestProject::traefik("namedtraefik"), "");
    keeps_its_name(&project, "--keep-alive");
}

#[test]
fn at_a_published_port_a_name_is_kept_and_no_request_is_lost() {
    let project = up(TestProject::from_fixture("namedport", "published-port", &[]), "");
    keeps_its_name(&project, "");
    assert_eq!(rules(&project), [""; 0]);
}

#[test]
fn compose_starts_a_named_service_with_a_copied_config() {
    let project = TestProject::nginx_proxy("namedconfig");
    let name = container_name(&project);
    project.write_override(&format!(
        "services: {{app: {{container_name: {name}, configs: [{{source: note, target: /note}}]}}}}\n\
         configs: {{note: {{content: hello}}}}"
    ));
    project.up("");
    project.set_variables("VERSION=2");
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(0);
    answers.all_from(&["1", "2"]);
    expect_named(&project, &name, "2");
    let copied = Command::new("docker").args(["cp", &format!("{name}:/note"), "-"]).output().expect("docker");
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
}
