//! Traefik with nothing but labels: pins carry the route while a deploy runs.

use crate::load::Load;
use crate::promises::traefik_pins;
use crate::test_project::{TestProject, WAIT_LIMIT, wait_until};

/// Asserts that a configuration is refused with this message, and that nothing changes.
fn expect_refusal(project: &TestProject, output: &str) {
    let before = project.containers();
    let version = project.variable("VERSION");
    project.set_variables("VERSION=refused");
    project.deploy("app").exits(1).says(output).says("hint: ");
    assert_eq!(project.containers(), before);
    project.set_variables(&format!("VERSION={version}"));
}

/// Deploys a version under load, and asserts that nothing is left beside the proxy.
fn deploy_version(project: &TestProject, before: &str, version: &str, load: &str) {
    project.set_variables(&format!("VERSION={version}"));
    let (result, answers) = project.deploy_under_load(load, "app");
    result.exits(0);
    answers.all_from(&[before, version]);
    project.expect_release("app", 1, version);
    assert_eq!(traefik_pins(project), "");
}

const LABELS: &str = "labels: { \
    traefik.http.routers.app.middlewares: 'own', \
    traefik.http.middlewares.own.headers.customresponseheaders.X-Release: '${VERSION}', \
    traefik.http.services.app.loadbalancer.sticky.cookie: 'true', \
    traefik.http.services.app.loadbalancer.healthcheck.path: '/health?${VERSION}' }";
const HEALTHCHECK: &str =
    "healthcheck: { test: [CMD, /sample-app, check, /drain], interval: 5s, start_period: 0s }";

#[test]
fn pins_carry_the_route_whatever_discovery_does() {
    let project = TestProject::traefik("trpins");
    project.set_variables("STOP=abrupt");
    project.up("");

    // Traefik drops a service that old and new instances define differently, and its route with it.
    project.log("--- changed labels lose no request");
    project.write_override(&format!("services: {{ app: {{ {LABELS} }} }}"));
    deploy_version(&project, "1", "2", "--method POST --body 500");

    // Docker's first health check comes after five seconds; until then Traefik's discovery leaves the new instances out.
    project.log("--- the route stays until Docker finds the new instances healthy");
    project.write_override(&format!("services: {{ app: {{ {LABELS}, {HEALTHCHECK} }} }}"));
    deploy_version(&project, "2", "3", "--keep-alive");

    project.log("--- a router of another service that routes to the service is refused");
    let router = "traefik.enable: 'true', traefik.http.routers.other.rule: Path(`/other`), \
                  traefik.http.routers.other.service: app";
    project.write_override(&format!(
        "services: {{ app: {{ {LABELS}, {HEALTHCHECK} }}, other: {{ image: '${{ZD_APP_IMAGE}}', labels: {{ {router} }} }} }}"
    ));
    project.compose("up -d --no-deps other");
    expect_refusal(&project, "a router outside its labels routes to `app`: other in the labels of other");
}

const GUARDED: &str = "services:
  proxy:
    command:
      - --api.insecure=true
      - --entrypoints.web.address=:80
      - --entrypoints.web.http.middlewares=release@docker
      - --providers.docker=true
      - --providers.docker.exposedByDefault=false
      - --providers.docker.constraints=Label(`com.docker.compose.project`, `${COMPOSE_PROJECT_NAME}`)
    labels:
      traefik.enable: 'true'
      traefik.http.routers.api.rule: Host(`api.test`)
      traefik.http.routers.api.service: api@internal
      traefik.http.middlewares.release.headers.customresponseheaders.X-Front: 'true'
";

#[test]
fn an_entry_point_with_middlewares_is_confirmed_by_the_api() {
    let project = TestProject::traefik("trapi");
    project.write_override(GUARDED);
    project.set_variables("STOP=abrupt");
    project.up("");
    deploy_version(&project, "1", "2", "--keep-alive");
}

/// Starts a deploy, kills it after this output, and runs a plain `docker compose up`.
fn kill_then_up(project: &TestProject, line: &str) {
    let mut deploy = project.start_deploy("app");
    deploy.wait_for(line);
    deploy.kill();
    assert_ne!(traefik_pins(project), "");
    project.compose("up -d");
}

#[test]
fn after_a_kill_a_plain_up_serves_and_the_pins_of_what_is_gone_end() {
    let project = TestProject::traefik("trkill");
    project.up("");
    for (version, line) in [("2", "started app-"), ("3", "in rotation: app-")] {
        project.log(&format!("--- killed after `{line}`"));
        project.set_variables(&format!("VERSION={version} WARMUP=1"));
        kill_then_up(&project, line);
        wait_until("only the new version serves", WAIT_LIMIT, || {
            (0..8).all(|_| project.get("/").is_some_and(|r| r.status == 200 && r.version == version))
        });
        project.start("recover").wait().exits(0);
        project.expect_release("app", 1, version);
        wait_until("the pins have ended", WAIT_LIMIT, || traefik_pins(&project).is_empty());
    }
}

/// Second project behind the proxy of the first.
const SECOND: &str = "services:
  app:
    image: ${ZD_APP_IMAGE}
    labels:
      zd.traefik: ${VIRTUAL_HOST}
      traefik.enable: 'true'
      traefik.http.routers.second.rule: Host(`${VIRTUAL_HOST}`) && PathPrefix(`/second`)
      traefik.http.services.second.loadbalancer.server.port: '3000'
    environment: { VERSION: '${VERSION}' }
networks:
  default: { name: '${FIRST_PROJECT}_default', external: true }
";

const SHARED: &str = "services:
  app: { labels: { zd.traefik: '${VIRTUAL_HOST}' } }
  proxy:
    command:
      - --entrypoints.web.address=:80
      - --providers.docker=true
      - --providers.docker.exposedByDefault=false
      - --providers.docker.constraints=Label(`zd.traefik`, `${VIRTUAL_HOST}`)
";

#[test]
fn two_projects_behind_one_proxy_do_not_disturb_each_other() {
    let project = TestProject::traefik("trtwo");
    let second = format!("{}-second", project.name);
    project.set_variables(&format!("STOP=abrupt FIRST_PROJECT={}", project.name));
    project.write_override(SHARED);
    project.write("second.yaml", SECOND);
    project.api().remove_project(&second);
    project.up("");
    project.docker(&format!("compose -p {second} -f second.yaml up -d"));
    let answers = || project.get("/second").is_some_and(|reply| reply.status == 200);
    wait_until("the second project answers", WAIT_LIMIT, answers);

    let load = Load::start(&project, &format!("{}second", project.url()), &project.host(), "--keep-alive");
    project.set_variables("VERSION=2");
    let mut killed = project.start(&format!("-p {second} -f second.yaml deploy app"));
    killed.wait_for("started app-");
    killed.kill();
    deploy_version(&project, "1", "2", "");
    let left = project.docker("ps --filter label=compose-zd.pin --format {{.Names}}");
    assert!(left.contains(&second), "a deploy of the first project leaves the pins of the second: {left}");
    project.start(&format!("-p {second} -f second.yaml deploy app")).wait().exits(0);
    load.stop().all_from(&["1", "2"]);
    project.api().remove_project(&second);
}
