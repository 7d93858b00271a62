//! What cannot be done without losing requests is refused before anything is touched, with the fix.

use crate::cli_runner::CommandResult;
use crate::test_project::TestProject;

/// A deploy of version 2 that ends before it changes anything; version 1 serves on.
fn expect_refusal(stage: &TestProject, code: i32) -> CommandResult {
    let before = stage.containers();
    stage.set_variables("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(code).says("hint: ");
    answers.all_from(&["1"]);
    assert_eq!(stage.containers(), before);
    assert_eq!(stage.marks(), "");
    ran
}

/// Refused for what the file says, before anything is created.
fn expect_refusal_of(stage: &TestProject, yaml: &str) -> CommandResult {
    stage.write_override(yaml);
    let ran = stage.deploy("app");
    ran.exits(2).says("hint: ");
    assert_eq!(stage.containers(), []);
    ran
}

#[test]
fn an_impossible_setting_is_refused_before_anything_is_created() {
    let stage = TestProject::nginx_proxy("refused");
    stage.log("---- a fixed host port");
    let ran = expect_refusal_of(&stage, "services: {app: {ports: ['127.0.0.1:18080:3000']}}");
    ran.says("publishes host port 18080").says("remove `18080:…` from `services.app.ports`");
    stage.log("---- a container name");
    let ran = expect_refusal_of(&stage, "services: {app: {container_name: zde2e-only}}");
    ran.says("`container_name: zde2e-only`").says("remove `services.app.container_name`");
    stage.log("---- the network of the host");
    let ran = expect_refusal_of(&stage, "services: {app: {network_mode: host}}");
    ran.says("`network_mode: host`").says("remove `services.app.network_mode`");
    stage.log("---- a mistyped setting");
    let ran = expect_refusal_of(&stage, "services: {app: {x-zd: {healht: {path: /}}}}");
    ran.says("healht").says("services.app.x-zd");
    stage.log("---- a service that is not there, with those that are");
    stage.write_override("services: {}");
    let ran = stage.deploy("web");
    ran.exits(2).says("`web`").says("there are `app`, `proxy`");
    assert_eq!(stage.containers(), []);
}

/// Keys of the whole project, of a service, and of its proxy.
fn write_override(stage: &TestProject, network: u32, app: &str, proxy: &str) {
    let networks = format!("networks: {{default: {{labels: {{zde2e: '{network}'}}}}}}");
    stage.write_override(&format!("{networks}\nservices: {{app: {{{app}}}, proxy: {{{proxy}}}}}\n"));
}

#[test]
fn an_unusable_proxy_or_network_is_refused_before_any_change() {
    let stage = TestProject::nginx_proxy("cannot");
    write_override(&stage, 1, "", "");
    stage.log("---- a proxy that was never started");
    let image = stage.variable("NGINX_PROXY_IMAGE");
    // What is not there can only be told by the name of its image.
    stage.set_variables("NGINX_PROXY_IMAGE=nginxproxy/nginx-proxy:1.11");
    stage.compose("up -d app");
    let before = stage.containers();
    stage.set_variables("VERSION=2");
    let ran = stage.deploy("app");
    ran.exits(1).says("docker compose up --detach --no-deps proxy");
    assert_eq!(stage.containers(), before);

    stage.log("---- a changed network");
    stage.set_variables(&format!("VERSION=1 NGINX_PROXY_IMAGE={image}"));
    stage.up("--scale app=2");
    write_override(&stage, 2, "", "");
    // Its dry run is read whatever the environment makes of Compose's output.
    stage.set_variables("COMPOSE_PROGRESS=quiet");
    expect_refusal(&stage, 1).says("the definition of a network changed");
    stage.set_variables("COMPOSE_PROGRESS=auto");

    stage.log("---- a network that the proxy is not on");
    let apart = "networks: {default: {labels: {zde2e: '1'}}, front: {}}\nservices: {app: {networks: !override [front]}}";
    stage.write_override(apart);
    expect_refusal(&stage, 1).says("where nginx-proxy").says("it could send it no request");

    stage.log("---- a renamed service: its old name still gets requests of the route, which is named");
    stage.write_override(
        "networks: {default: {labels: {zde2e: '1'}}}
services:
  app: !reset null
  web: {image: '${ZD_APP_IMAGE}', environment: {VIRTUAL_HOST: '${VIRTUAL_HOST}', VIRTUAL_PORT: '3000'}}
",
    );
    let renamed = format!("`{}-app-1` is of a service that the file has no more", stage.name);
    stage.deploy("web --dry-run").exits(0).says(&renamed);
    stage.start("check web").wait().says(&renamed).says("[orphan-route]");

    stage.log("---- a proxy that may not be changed");
    write_override(&stage, 1, "x-zd: {proxy: {tune: false}}", "");
    let before = stage.reloads();
    expect_refusal(&stage, 1).says("`x-zd.proxy.tune: false`").says("make it writable");
    assert_eq!(stage.reloads(), before);

    stage.log("---- a template that is read-only");
    write_template(&stage);
    write_override(&stage, 1, "", "volumes: ['./nginx.tmpl:/app/nginx.tmpl:ro']");
    stage.up("--no-deps proxy");
    expect_refusal(&stage, 1).says("is mounted read-only").says("make it writable");

    stage.log("---- a stopped proxy");
    write_override(&stage, 1, "", "");
    stage.compose("stop proxy");
    let before = stage.containers();
    let ran = stage.deploy("app");
    ran.exits(1).says(&format!("docker start {}-proxy-1", stage.name));
    assert_eq!(stage.containers(), before);
}

/// The proxy's own template, as a file of the project.
fn write_template(stage: &TestProject) {
    let image = stage.variable("NGINX_PROXY_IMAGE");
    let template = stage.docker(&format!("run --rm --entrypoint cat {image} /app/nginx.tmpl"));
    stage.write("nginx.tmpl", &format!("{template}\n"));
}

#[test]
fn a_renamed_service_keeps_serving_when_the_release_under_its_new_name_fails() {
    let stage = TestProject::nginx_proxy("renamed");
    stage.up("");
    stage.write_override(
        "services:
  app: !reset null
  web: {image: '${ZD_APP_IMAGE}', environment: {VIRTUAL_HOST: '${VIRTUAL_HOST}', STATUS: '500'}}
",
    );
    let before = stage.ids("app");
    let ran = stage.deploy("web --health-deadline 2s");
    ran.exits(3).says(&format!("{}-app-1 served before and still serves", stage.name)).says("0 lost");
    assert_eq!((stage.ids("app"), stage.ids("web").len()), (before, 0));
}
