//! Proxies that are hard to recognise: a deploy drains them anyway, or is refused with the reason.

use crate::test_project::TestProject;

/// Asserts that a deploy is refused before any change, with `--proxy-kind none` as the way out.
fn expect_refusal(project: &TestProject, why: &str) {
    let before = project.containers();
    project.set_variables("VERSION=2");
    project.deploy("app").exits(1).says(why).says("--proxy-kind none");
    assert_eq!(project.containers(), before);
    project.set_variables("VERSION=1");
}

/// Asserts that a deploy drains the proxy and loses no request.
fn expect_lossless_deploy(project: &TestProject, (from, to): (&str, &str), named: &str) {
    project.set_variables(&format!("VERSION={to}"));
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(0).says(named);
    answers.all_from(&[from, to]);
    project.expect_release("app", 1, to);
}

#[test]
fn a_haproxy_whose_servers_have_variables_is_drained_and_a_condition_is_refused() {
    let project = TestProject::haproxy("detha");
    let good = project.read("haproxy.cfg");
    let name = format!("haproxy `{}-proxy-1`", project.name);
    let restart = |configuration: String| {
        project.write("haproxy.cfg", &configuration);
        project.compose("restart -t 0 proxy");
        project.wait_until_all_answer();
    };
    project.write_override("services: {proxy: {environment: {APP: app}}}");
    project.write("haproxy.cfg", &good.replace("app:3000", "\"${APP}:3000\""));
    project.up("");
    expect_lossless_deploy(&project, ("1", "2"), &name);

    project.log("--- a variable of the configuration itself, and a network name");
    let named = format!("global\n    setenv HOST app.{}_default", project.name);
    restart(good.replace("global", &named).replace("app:3000", "\"$HOST:3000\""));
    expect_lossless_deploy(&project, ("2", "3"), &name);

    project.log("--- a server under a condition");
    let server = "    server-template app 8 app:3000 check inter 500ms resolvers docker init-addr none";
    let under = |host: &str| {
        let other = server.replace("app:3000", host);
        format!("    .if defined(APP)\n{server}\n    .else\n{other}\n    .endif")
    };
    restart(good.replace(server, &under("other:3000")));
    expect_refusal(&project, "under a condition (`.if`)");

    project.log("--- a variable whose value only a condition sets");
    let set = "global\n.if defined(APP)\n    setenv HOST app\n.endif";
    restart(good.replace("global", set).replace("app:3000", "\"${HOST}:3000\""));
    expect_refusal(&project, "a server `${HOST}` with a variable whose value is unknown");
}

#[test]
fn a_traefik_that_routes_by_a_file_is_refused() {
    let project = TestProject::traefik("dettr");
    project.write_override(
        "services:
  app: {labels: !reset null}
  proxy:
    command: [--entrypoints.web.address=:80, --providers.docker, '--providers.file.directory=/etc/traefik/dynamic']
    configs: [{source: route, target: /etc/traefik/dynamic/app.yml}]
configs:
  route:
    content: |
      http:
        routers: {app: {rule: 'PathPrefix(`/`)', service: app, entryPoints: [web]}}
        services: {app: {loadBalancer: {servers: [{url: 'http://app:3000'}]}}}
",
    );
    project.up("");
    expect_refusal(&project, "`zde2e-dettr-proxy-1` routes to `app`");
}

#[test]
fn a_caddy_that_resolves_a_placeholder_for_each_request_is_refused() {
    let project = TestProject::from_fixture("detcd", "caddy", &["Caddyfile"]);
    project.write("Caddyfile", ":80 {\n reverse_proxy {env.APP}:3000\n}\n");
    project.write_override("services: {proxy: {environment: {APP: app}}}");
    project.up("");
    expect_refusal(&project, "its `reverse_proxy {env.APP}:3000` is resolved only when a request arrives");

    project.log("--- a placeholder resolved when the file is read");
    project.write("Caddyfile", ":80 {\n reverse_proxy {$APP}:3000\n}\n");
    project.compose("restart -t 0 proxy");
    project.wait_until_all_answer();
    expect_lossless_deploy(&project, ("1", "2"), &format!("caddy `{}-proxy-1`", project.name));
}

#[test]
fn a_requested_route_behind_an_unknown_proxy_is_refused() {
    let project = TestProject::nginx_proxy("detnone");
    // Nothing in the container reveals the kind of proxy.
    project.write_override(
        "services: {proxy: {environment: {DOCKER_GEN_VERSION: '', NGINX_PROXY_VERSION: ''}}}",
    );
    project.up("");
    expect_refusal(
        &project,
        "`app` has a route by `VIRTUAL_HOST`, and no proxy on its networks is known to read it",
    );
    let name = format!("{}-proxy-1", project.name);
    project.set_variables("VERSION=2");
    let words = format!("app --proxy-kind nginx-proxy --proxy-container {name}");
    let (result, answers) = project.deploy_under_load("", &words);
    result.exits(0);
    answers.all_from(&["1", "2"]);
}

/// Asserts that each command names the stopped proxy and the command that starts it, and changes nothing.
fn expect_stopped_proxy(project: &TestProject, version: &str) {
    let name = project.proxy().name;
    let name = format!("{}-{name}", project.name);
    project.docker(&format!("stop -t 0 {name}"));
    let before = project.containers();
    project.set_variables(&format!("VERSION={version}"));
    for words in ["deploy app", "deploy", "deploy app --dry-run", "check app", "up app"] {
        let result = project.start(words).wait();
        result.exits(1).says(&format!("`{name}` is stopped, so no request reaches `app`"));
        result.says(&format!("`docker start {name}`"));
    }
    assert_eq!(project.containers(), before);
    project.start("plan").wait().exits(0).says("roll out app, once the proxy runs");
    assert_eq!(project.containers(), before);
    project.start("up").wait().exits(0);
    project.expect_release("app", 1, version);
    assert_eq!(project.get("/").expect("an answer").version, version);
}

#[test]
fn no_deploy_behind_a_stopped_proxy_reports_success() {
    let projects = [
        TestProject::nginx("stopnx"),
        TestProject::apache("stopap"),
        TestProject::haproxy("stopha"),
        TestProject::from_fixture("stopcd", "caddy", &["Caddyfile"]),
        TestProject::traefik("stoptr"),
        TestProject::nginx_proxy("stopnp"),
    ];
    for project in &projects {
        project.up("");
        project.wait_until_all_answer();
        expect_stopped_proxy(project, "2");
    }
}

#[test]
fn the_configuration_of_a_stopped_proxy_may_be_in_its_image() {
    let project = TestProject::nginx("stopimg");
    let recipe = format!(
        "FROM {}\nLABEL {}\nCOPY default.conf /etc/nginx/conf.d/default.conf\n",
        project.variable("NGINX_IMAGE"),
        project.image_label()
    );
    project.write("Dockerfile", &recipe);
    project.write_override("services: {proxy: {build: ., image: zde2e-stopimg-proxy, volumes: !reset []}}");
    project.up("--build");
    project.wait_until_all_answer();
    expect_stopped_proxy(&project, "2");
}
