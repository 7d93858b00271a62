//! Proxies that are hard to recognise: they are drained all the same, or a deploy is refused with the reason.

use crate::test_project::TestProject;

/// Refused before anything is touched, unless the user says that there is no proxy.
fn expect_refusal(stage: &TestProject, why: &str) {
    let before = stage.containers();
    stage.set_variables("VERSION=2");
    stage.deploy("app").exits(1).says(why).says("--proxy-kind none");
    assert_eq!(stage.containers(), before);
    stage.set_variables("VERSION=1");
}

/// A deploy that loses nothing behind a proxy that is drained.
fn expect_lossless_deploy(stage: &TestProject, (from, to): (&str, &str), named: &str) {
    stage.set_variables(&format!("VERSION={to}"));
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0).says(named);
    answers.all_from(&[from, to]);
    stage.expect_release("app", 1, to);
}

#[test]
fn a_haproxy_whose_servers_have_variables_is_drained_and_a_condition_is_refused() {
    let stage = TestProject::haproxy("detha");
    let good = stage.read("haproxy.cfg");
    let name = format!("haproxy `{}-proxy-1`", stage.name);
    let restart = |configuration: String| {
        stage.write("haproxy.cfg", &configuration);
        stage.compose("restart -t 0 proxy");
        stage.wait_until_all_answer();
    };
    stage.write_override("services: {proxy: {environment: {APP: app}}}");
    stage.write("haproxy.cfg", &good.replace("app:3000", "\"${APP}:3000\""));
    stage.up("");
    expect_lossless_deploy(&stage, ("1", "2"), &name);

    stage.log("--- a variable of the configuration's own, and the name of a network");
    let named = format!("global\n    setenv HOST app.{}_default", stage.name);
    restart(good.replace("global", &named).replace("app:3000", "\"$HOST:3000\""));
    expect_lossless_deploy(&stage, ("2", "3"), &name);

    stage.log("--- a server under a condition");
    let server = "    server-template app 8 app:3000 check inter 500ms resolvers docker init-addr none";
    let under = |host: &str| {
        let other = server.replace("app:3000", host);
        format!("    .if defined(APP)\n{server}\n    .else\n{other}\n    .endif")
    };
    restart(good.replace(server, &under("other:3000")));
    expect_refusal(&stage, "under a condition (`.if`)");

    stage.log("--- a variable whose value only a condition sets");
    let set = "global\n.if defined(APP)\n    setenv HOST app\n.endif";
    restart(good.replace("global", set).replace("app:3000", "\"${HOST}:3000\""));
    expect_refusal(&stage, "a server `${HOST}` with a variable whose value is unknown");
}

#[test]
fn a_traefik_that_routes_by_a_file_is_refused() {
    let stage = TestProject::traefik("dettr");
    stage.write_override(
        "services: {app: {labels: !reset null}, proxy: {configs: [{source: route, target: /etc/traefik/dynamic/app.yml}]}}
configs:
  route:
    content: |
      http:
        routers: {app: {rule: 'PathPrefix(`/`)', service: app, entryPoints: [web]}}
        services: {app: {loadBalancer: {servers: [{url: 'http://app:3000'}]}}}
",
    );
    stage.up("");
    expect_refusal(&stage, "`zde2e-dettr-proxy-1` routes to `app`");
}

#[test]
fn a_caddy_that_resolves_a_placeholder_for_each_request_is_refused() {
    let stage = TestProject::from_fixture("detcd", "caddy", &["Caddyfile"]);
    stage.write("Caddyfile", ":80 {\n reverse_proxy {env.APP}:3000\n}\n");
    stage.write_override("services: {proxy: {environment: {APP: app}}}");
    stage.up("");
    expect_refusal(&stage, "its `reverse_proxy {env.APP}:3000` is resolved only when a request arrives");

    stage.log("--- put in its place when the file is read");
    stage.write("Caddyfile", ":80 {\n reverse_proxy {$APP}:3000\n}\n");
    stage.compose("restart -t 0 proxy");
    stage.wait_until_all_answer();
    expect_lossless_deploy(&stage, ("1", "2"), &format!("caddy `{}-proxy-1`", stage.name));
}

#[test]
fn a_requested_route_behind_an_unknown_proxy_is_refused() {
    let stage = TestProject::nginx_proxy("detnone");
    // Nothing of the container tells what it is.
    stage.write_override("services: {proxy: {environment: {DOCKER_GEN_VERSION: '', NGINX_PROXY_VERSION: ''}}}");
    stage.up("");
    expect_refusal(&stage, "`app` asks for a route by `VIRTUAL_HOST`, and no proxy that is known to go by that");
    let name = format!("{}-proxy-1", stage.name);
    stage.set_variables("VERSION=2");
    let words = format!("app --proxy-kind nginx-proxy --proxy-container {name}");
    let (ran, answers) = stage.deploy_under_load("", &words);
    ran.exits(0);
    answers.all_from(&["1", "2"]);
}
