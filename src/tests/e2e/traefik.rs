//! Traefik: dynamic files, labels, and its own discovery without dynamic files.

use std::time::Duration;

use crate::promises::traefik_files;
use crate::test_project::{TestProject, WAIT_LIMIT, wait_until};

/// Limit for one answer.
const SECOND: Duration = Duration::from_secs(1);

/// Traefik with its API, which shows the state of its discovery.
const API: &str = "traefik/compose.api.yaml";
/// Traefik without dynamic files.
const PLAIN: &str = "traefik/compose.plain.yaml";

/// Asserts that a configuration is refused with this message, and that nothing changes.
fn expect_refusal(project: &TestProject, output: &str) {
    let before = project.containers();
    let version = project.variable("VERSION");
    project.set_variables("VERSION=refused");
    project.deploy("app").exits(1).says(output).says("hint: ");
    assert_eq!(project.containers(), before);
    project.set_variables(&format!("VERSION={version}"));
}

/// Deploys a version under load, and asserts that nothing is left in the proxy.
fn deploy_version(project: &TestProject, before: &str, version: &str, load: &str) {
    project.set_variables(&format!("VERSION={version}"));
    let (result, answers) = project.deploy_under_load(load, "app");
    result.exits(0);
    answers.all_from(&[before, version]);
    project.expect_release("app", 1, version);
    assert_eq!(traefik_files(project), "");
}

#[test]
fn with_an_api_the_route_is_handed_back_after_discovery() {
    let project = TestProject::traefik("trapi");
    project.copy_override(API);
    project.up("");
    project.set_variables("STOP=abrupt");
    deploy_version(&project, "1", "2", "--keep-alive");
}

const LABELS: &str = "labels: { \
    traefik.http.routers.app.middlewares: 'own', \
    traefik.http.middlewares.own.headers.customresponseheaders.X-Release: '${VERSION}', \
    traefik.http.services.app.loadbalancer.healthcheck.path: '/health?${VERSION}' }";
const HEALTHCHECK: &str =
    "healthcheck: { test: [CMD, /sample-app, check, /drain], interval: 5s, start_period: 0s }";

#[test]
fn a_dynamic_file_pins_the_route_whatever_discovery_does() {
    let project = TestProject::traefik("trfiles");

    project
        .log("--- no request arrives before the first release is ready, and a release that is never ready leaves nothing");
    project.compose("up -d proxy");
    project.set_variables("STATUS=500");
    project.deploy("app --health-deadline 2s").exits(3).says("nothing served before");
    assert_eq!(project.states("app"), Vec::<String>::new());
    assert_eq!(traefik_files(&project), "");
    project.set_variables("STATUS=200 WARMUP=2");
    project.deploy("app").exits(0);
    project.expect_release("app", 1, "1");
    assert_eq!(traefik_files(&project), "");

    // Traefik drops a service that old and new instances define differently, and its route with it.
    project.log("--- changed labels lose no request");
    project.set_variables("WARMUP=0");
    project.write_override(&format!("services: {{ app: {{ {LABELS} }} }}"));
    deploy_version(&project, "1", "2", "--method POST --body 500");

    // Docker's first health check comes after five seconds; until then Traefik's discovery leaves the new instances out.
    project.log("--- the route stays until Docker finds the new instances healthy");
    project.write_override(&format!("services: {{ app: {{ {LABELS}, {HEALTHCHECK} }} }}"));
    deploy_version(&project, "2", "3", "");

    project.log("--- a file that routes to the service is refused");
    let router = "http: {routers: {mine: {rule: Path(`/mine`), service: app@docker}}}";
    project.exec_in_proxy(&["sh", "-c", &format!("echo '{router}' >/etc/traefik/dynamic/mine.yml")]);
    expect_refusal(&project, "/etc/traefik/dynamic/mine.yml:service: app@docker");
    project.exec_in_proxy(&["rm", "/etc/traefik/dynamic/mine.yml"]);

    project.log("--- a directory that is not writable is refused");
    let read_only = "services: { proxy: { volumes: !override \
        ['/var/run/docker.sock:/var/run/docker.sock:ro', 'dynamic:/etc/traefik/dynamic:ro'] } }";
    project.write_override(read_only);
    project.compose("up -d --no-deps proxy");
    project.wait_until_all_answer();
    expect_refusal(&project, "its directory of routes, /etc/traefik/dynamic, is not writable");
}

#[test]
fn a_directory_of_routes_need_not_be_a_volume() {
    let project = TestProject::traefik("trlayer");
    project.write_override("services: { proxy: { volumes: !override ['/var/run/docker.sock:/var/run/docker.sock:ro'], \
               command: ['--entrypoints.web.address=:80', '--providers.docker', '--providers.docker.exposedByDefault=false', \
               '--providers.docker.constraints=Label(`com.docker.compose.project`, `${COMPOSE_PROJECT_NAME}`)', \
               '--providers.file.directory=/tmp', '--serversTransport.forwardingTimeouts.idleConnTimeout=1s'] } }");
    project.up("");
    project.set_variables("VERSION=2");
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(0);
    answers.all_from(&["1", "2"]);
    project.expect_release("app", 1, "2");
    assert_eq!(project.exec_in_proxy(&["ls", "-A", "/tmp"]), "");
}

#[test]
fn without_dynamic_files_an_instance_drains_by_its_health_check_and_losses_are_announced() {
    let project = TestProject::traefik("trplain");
    project.copy_override(PLAIN);
    project.up("--scale app=2");

    project.log("--- changed labels are refused");
    let host = project.variable("VIRTUAL_HOST");
    project.set_variables("VIRTUAL_HOST=other.test");
    let rule = "changes the label `traefik.http.routers.app.rule`";
    expect_refusal(&project, &format!("{rule} from `Host(`{host}`)` to"));
    project.set_variables(&format!("VIRTUAL_HOST={host}"));

    project.log("--- without a drain command requests may be lost, which is reported");
    project.set_variables("VERSION=2 STOP=abrupt");
    project
        .deploy("app")
        .exits(0)
        .says("`app` has no `x-zd.drain.command`")
        .says("--providers.file.directory=/etc/traefik/dynamic --providers.file.watch=true");
    project.expect_release("app", 2, "2");

    project.log("--- with a drain command no request is lost");
    let drain = "x-zd: { drain: { command: [/sample-app, touch, /drain] } }\n    healthcheck:";
    project.write_override(&project.read("compose.override.yaml").replace("healthcheck:", drain));
    project.set_variables("VERSION=3");
    // Traefik reads the list of the engine at most every two seconds, and routes in turns: until then some requests wait for removed instances.
    let answers = || project.get_within(SECOND, &host, "/").is_some_and(|reply| reply.status == 200);
    wait_until("Traefik knows who was removed", WAIT_LIMIT, || (0..8).all(|_| answers()));
    let (result, answers) = project.deploy_under_load("--keep-alive", "app");
    result.exits(0);
    answers.all_from(&["2", "3"]);
    project.expect_release("app", 2, "3");
}
