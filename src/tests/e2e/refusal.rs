//! Refusals: a deploy that would lose requests is refused before any change, with the fix.

use crate::cli_runner::CommandResult;
use crate::test_project::TestProject;

/// Asserts that a deploy of version 2 ends before any change, and that version 1 keeps serving.
fn expect_refusal(project: &TestProject, code: i32) -> CommandResult {
    let before = project.containers();
    project.set_variables("VERSION=2");
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(code).says("hint: ");
    answers.all_from(&["1"]);
    assert_eq!(project.containers(), before);
    assert_eq!(project.marks(), "");
    result
}

/// Asserts that a deploy with these keys is refused before anything is created.
fn expect_refusal_of(project: &TestProject, yaml: &str) -> CommandResult {
    project.write_override(yaml);
    let result = project.deploy("app");
    result.exits(2).says("hint: ");
    assert_eq!(project.containers(), []);
    result
}

#[test]
fn an_impossible_setting_is_refused_before_anything_is_created() {
    let project = TestProject::nginx_proxy("refused");
    project.log("---- a fixed host port");
    let result = expect_refusal_of(&project, "services: {app: {ports: ['127.0.0.1:18080:3000']}}");
    result.says("publishes host port 18080").says("remove `18080:…` from `services.app.ports`");
    project.log("---- the network of the host");
    let result = expect_refusal_of(&project, "services: {app: {network_mode: host}}");
    result.says("`network_mode: host`").says("remove `services.app.network_mode`");
    project.log("---- a mistyped setting");
    let result = expect_refusal_of(&project, "services: {app: {x-zd: {healht: {path: /}}}}");
    result.says("healht").says("services.app.x-zd");
    project.log("---- an unknown service, with a list of the services");
    project.write_override("services: {}");
    let result = project.deploy("web");
    result.exits(2).says("`web`").says("the project has `app`, `proxy`");
    assert_eq!(project.containers(), []);
}

/// Writes keys of the network, of the app, and of the proxy.
fn write_override(project: &TestProject, network: u32, app: &str, proxy: &str) {
    let networks = format!("networks: {{default: {{labels: {{zde2e: '{network}'}}}}}}");
    project.write_override(&format!("{networks}\nservices: {{app: {{{app}}}, proxy: {{{proxy}}}}}\n"));
}

#[test]
fn an_unusable_proxy_or_network_is_refused_before_any_change() {
    let project = TestProject::nginx_proxy("cannot");
    write_override(&project, 1, "", "");
    project.log("---- a proxy that was never started");
    let image = project.variable("NGINX_PROXY_IMAGE");
    // A proxy that does not run can only be recognised by its image name.
    project.set_variables("NGINX_PROXY_IMAGE=nginxproxy/nginx-proxy:1.11");
    project.compose("up -d app");
    let before = project.containers();
    project.set_variables("VERSION=2");
    let result = project.deploy("app");
    result.exits(1).says("docker compose up --detach --no-deps proxy");
    assert_eq!(project.containers(), before);

    project.log("---- a changed network");
    project.set_variables(&format!("VERSION=1 NGINX_PROXY_IMAGE={image}"));
    project.up("--scale app=2");
    write_override(&project, 2, "", "");
    // The dry run of Compose is read whatever the environment changes in its output.
    project.set_variables("COMPOSE_PROGRESS=quiet");
    expect_refusal(&project, 1).says("the definition of a network changed");
    project.set_variables("COMPOSE_PROGRESS=auto");

    project.log("---- a network that the proxy is not on");
    let apart = "networks: {default: {labels: {zde2e: '1'}}, front: {}}\nservices: {app: {networks: !override [front]}}";
    project.write_override(apart);
    expect_refusal(&project, 1).says("and nginx-proxy").says("the proxy could not reach it");

    project.log("---- a renamed service whose old name still has the route");
    project.write_override(
        "networks: {default: {labels: {zde2e: '1'}}}
services:
  app: !reset null
  web: {image: '${ZD_APP_IMAGE}', environment: {VIRTUAL_HOST: '${VIRTUAL_HOST}', VIRTUAL_PORT: '3000'}}
",
    );
    let renamed = format!("`{}-app-1` is of a service that the file no longer has", project.name);
    project.deploy("web --dry-run").exits(0).says(&renamed);
    project.start("check web").wait().says(&renamed).says("[orphan-route]");

    project.log("---- a proxy with `tune: false`");
    write_override(&project, 1, "x-zd: {proxy: {tune: false}}", "");
    let before = project.reloads();
    expect_refusal(&project, 1).says("`x-zd.proxy.tune: false`").says("make it writable");
    assert_eq!(project.reloads(), before);

    project.log("---- a template that is read-only");
    write_template(&project);
    write_override(&project, 1, "", "volumes: ['./nginx.tmpl:/app/nginx.tmpl:ro']");
    project.up("--no-deps proxy");
    expect_refusal(&project, 1).says("is mounted read-only").says("make it writable");

    project.log("---- a stopped proxy");
    write_override(&project, 1, "", "");
    project.compose("stop proxy");
    let before = project.containers();
    let result = project.deploy("app");
    result.exits(1).says(&format!("docker start {}-proxy-1", project.name));
    assert_eq!(project.containers(), before);
}

/// Writes the template of the proxy as a file of the project.
fn write_template(project: &TestProject) {
    let image = project.variable("NGINX_PROXY_IMAGE");
    let template = project.docker(&format!("run --rm --entrypoint cat {image} /app/nginx.tmpl"));
    project.write("nginx.tmpl", &format!("{template}\n"));
}

#[test]
fn a_renamed_service_keeps_serving_when_the_release_under_its_new_name_fails() {
    let project = TestProject::nginx_proxy("renamed");
    project.up("");
    project.write_override(
        "services:
  app: !reset null
  web: {image: '${ZD_APP_IMAGE}', environment: {VIRTUAL_HOST: '${VIRTUAL_HOST}', STATUS: '500'}}
",
    );
    let before = project.ids("app");
    let result = project.deploy("web --health-deadline 2s");
    result.exits(3).says(&format!("{}-app-1 served before and still serves", project.name));
    assert_eq!(result.witness_counts().1, 0);
    assert_eq!((project.ids("app"), project.ids("web").len()), (before, 0));
}
