//! What cannot be done without losing requests is refused before anything is touched, with the fix.

use crate::stage::Stage;
use crate::tool::Ran;

/// A deploy of version 2 that ends before it changes anything; version 1 serves on.
fn refuses(stage: &Stage, code: i32) -> Ran {
    let before = stage.containers();
    stage.set("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(code).says("hint: ");
    answers.all_from(&["1"]);
    assert_eq!(stage.containers(), before);
    assert_eq!(stage.marks(), "");
    ran
}

/// A project that is refused for what its file says, before anything is created.
fn refuses_file(name: &str, yaml: &str) -> Ran {
    let stage = Stage::scale(name);
    stage.add(yaml);
    let ran = stage.deploy("app");
    ran.exits(2).says("hint: ");
    assert_eq!(stage.containers(), []);
    ran
}

#[test]
fn a_fixed_host_port_is_refused() {
    let ran = refuses_file("port", "services: {app: {ports: ['127.0.0.1:18080:3000']}}");
    ran.says("publishes host port 18080").says("remove `18080:…` from `services.app.ports`");
}

#[test]
fn a_container_name_is_refused() {
    let ran = refuses_file("name", "services: {app: {container_name: zde2e-only}}");
    ran.says("`container_name: zde2e-only`").says("remove `services.app.container_name`");
}

#[test]
fn the_network_of_the_host_is_refused() {
    let ran = refuses_file("hostnet", "services: {app: {network_mode: host}}");
    ran.says("`network_mode: host`").says("remove `services.app.network_mode`");
}

#[test]
fn a_mistyped_setting_is_refused() {
    let ran = refuses_file("typo", "services: {app: {x-zd: {healht: {path: /}}}}");
    ran.says("healht").says("services.app.x-zd");
}

#[test]
fn a_service_that_is_not_there_is_refused_with_those_that_are() {
    let stage = Stage::scale("unknown");
    let ran = stage.deploy("web");
    ran.exits(2).says("`web`").says("there are `app`, `proxy`");
    assert_eq!(stage.containers(), []);
}

#[test]
fn a_stopped_proxy_is_refused() {
    let stage = Stage::scale("stopped");
    stage.up("--scale app=2");
    stage.compose("stop proxy");
    let before = stage.containers();
    stage.set("VERSION=2");
    let ran = stage.deploy("app");
    ran.exits(1).says("docker start zde2e-stopped-proxy-1");
    assert_eq!(stage.containers(), before);
}

#[test]
fn a_proxy_that_was_never_started_is_refused() {
    let stage = Stage::scale("noproxy");
    // What is not there can only be told by the name of its image.
    stage.set("NGINX_PROXY_IMAGE=nginxproxy/nginx-proxy:1.11");
    stage.compose("up -d app");
    let before = stage.containers();
    stage.set("VERSION=2");
    let ran = stage.deploy("app");
    ran.exits(1).says("docker compose up --detach --no-deps proxy");
    assert_eq!(stage.containers(), before);
}

/// The proxy's own template, mounted read-only.
fn mount_template(stage: &Stage) {
    let image = stage.variable("NGINX_PROXY_IMAGE");
    let template = stage.docker(&format!("run --rm --entrypoint cat {image} /app/nginx.tmpl"));
    stage.write("nginx.tmpl", &format!("{template}\n"));
    stage.add("services: {proxy: {volumes: ['./nginx.tmpl:/app/nginx.tmpl:ro']}}");
}

#[test]
fn a_template_that_is_read_only_is_refused() {
    let stage = Stage::scale("readonly");
    mount_template(&stage);
    stage.up("--scale app=2");
    refuses(&stage, 1).says("is mounted read-only").says("make it writable");
}

#[test]
fn a_proxy_that_may_not_be_changed_is_not_changed() {
    let stage = Stage::scale("untuned");
    stage.add("services: {app: {x-zd: {proxy: {tune: false}}}}");
    stage.up("--scale app=2");
    let before = stage.reloads();
    refuses(&stage, 1).says("`x-zd.proxy.tune: false`").says("make it writable");
    assert_eq!(stage.reloads(), before);
}

#[test]
fn a_changed_network_is_refused() {
    let stage = Stage::scale("network");
    stage.add("networks: {default: {labels: {zde2e: '1'}}}");
    stage.up("--scale app=2");
    stage.add("networks: {default: {labels: {zde2e: '2'}}}");
    refuses(&stage, 1).says("the definition of a network changed");
}
