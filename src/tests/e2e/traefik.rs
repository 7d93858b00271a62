//! What is special about Traefik: its files of routes, its labels, and its own discovery where there are no files.

use std::time::Duration;

use crate::promises::traefik_files;
use crate::test_project::{WAIT_LIMIT, TestProject, wait_until};

/// For one answer.
const SECOND: Duration = Duration::from_secs(1);

/// With its API, which tells what its discovery has seen.
const API: &str = "traefik/compose.api.yaml";
/// Without files of routes.
const PLAIN: &str = "traefik/compose.plain.yaml";

/// A configuration that does not do, with what is said of it; nothing is changed by it.
fn expect_refusal(stage: &TestProject, said: &str) {
    let before = stage.containers();
    let version = stage.variable("VERSION");
    stage.set_variables("VERSION=refused");
    stage.deploy("app").exits(1).says(said).says("hint: ");
    assert_eq!(stage.containers(), before);
    stage.set_variables(&format!("VERSION={version}"));
}

/// Version `version` takes over from `before`, and nothing of ours is left.
fn deploy_version(stage: &TestProject, before: &str, version: &str, load: &str) {
    stage.set_variables(&format!("VERSION={version}"));
    let (ran, answers) = stage.deploy_under_load(load, "app");
    ran.exits(0);
    answers.all_from(&[before, version]);
    stage.expect_release("app", 1, version);
    assert_eq!(traefik_files(stage), "");
}

#[test]
fn with_an_api_the_route_is_handed_back_after_discovery() {
    let stage = TestProject::traefik("trapi");
    stage.copy_override(API);
    stage.up("");
    stage.set_variables("STOP=abrupt");
    deploy_version(&stage, "1", "2", "--keep-alive");
}

const LABELS: &str = "labels: { \
    traefik.http.routers.app.middlewares: 'own', \
    traefik.http.middlewares.own.headers.customresponseheaders.X-Release: '${VERSION}', \
    traefik.http.services.app.loadbalancer.healthcheck.path: '/health?${VERSION}' }";
const HEALTHCHECK: &str =
    "healthcheck: { test: [CMD, /sample-app, check, /drain], interval: 5s, start_period: 0s }";

#[test]
fn a_dynamic_file_pins_the_route_whatever_discovery_does() {
    let stage = TestProject::traefik("trfiles");

    stage
        .log("--- nobody is let in before the first release is ready, and one that never is leaves nothing");
    stage.compose("up -d proxy");
    stage.set_variables("STATUS=500");
    stage.deploy("app --health-deadline 2s").exits(3).says("nothing served before");
    assert_eq!(stage.states("app"), Vec::<String>::new());
    assert_eq!(traefik_files(&stage), "");
    stage.set_variables("STATUS=200 WARMUP=2");
    stage.deploy("app").exits(0);
    stage.expect_release("app", 1, "1");
    assert_eq!(traefik_files(&stage), "");

    // Traefik throws away what two generations of a service define differently, and with it the route.
    stage.log("--- labels that change from one release to the next lose no request");
    stage.set_variables("WARMUP=0");
    stage.write_override(&format!("services: {{ app: {{ {LABELS} }} }}"));
    deploy_version(&stage, "1", "2", "--method POST --body 500");

    // Docker's first look comes after five seconds: until then Traefik's own discovery leaves the new instances out.
    stage.log("--- the route stays until Docker finds the new instances healthy");
    stage.write_override(&format!("services: {{ app: {{ {LABELS}, {HEALTHCHECK} }} }}"));
    deploy_version(&stage, "2", "3", "");

    stage.log("--- a file that routes to the service is refused");
    let router = "http: {routers: {mine: {rule: Path(`/mine`), service: app@docker}}}";
    stage.exec_in_proxy(&["sh", "-c", &format!("echo '{router}' >/etc/traefik/dynamic/mine.yml")]);
    expect_refusal(&stage, "/etc/traefik/dynamic/mine.yml:service: app@docker");
    stage.exec_in_proxy(&["rm", "/etc/traefik/dynamic/mine.yml"]);

    stage.log("--- a directory that takes no file is refused");
    let read_only = "services: { proxy: { volumes: !override \
        ['/var/run/docker.sock:/var/run/docker.sock:ro', 'dynamic:/etc/traefik/dynamic:ro'] } }";
    stage.write_override(read_only);
    stage.compose("up -d --no-deps proxy");
    stage.wait_until_all_answer();
    expect_refusal(&stage, "its directory of routes, /etc/traefik/dynamic, is not writable");
}

#[test]
fn a_directory_of_routes_need_not_be_a_volume() {
    let stage = TestProject::traefik("trlayer");
    stage.write_override("services: { proxy: { volumes: !override ['/var/run/docker.sock:/var/run/docker.sock:ro'], \
               command: ['--entrypoints.web.address=:80', '--providers.docker', '--providers.docker.exposedByDefault=false', \
               '--providers.docker.constraints=Label(`com.docker.compose.project`, `${COMPOSE_PROJECT_NAME}`)', \
               '--providers.file.directory=/tmp', '--serversTransport.forwardingTimeouts.idleConnTimeout=1s'] } }");
    stage.up("");
    stage.set_variables("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 1, "2");
    assert_eq!(stage.exec_in_proxy(&["ls", "-A", "/tmp"]), "");
}

#[test]
fn without_dynamic_files_an_instance_drains_by_its_health_check_and_losses_are_announced() {
    let stage = TestProject::traefik("trplain");
    stage.copy_override(PLAIN);
    stage.up("--scale app=2");

    stage.log("--- labels that change are refused");
    let host = stage.variable("VIRTUAL_HOST");
    stage.set_variables("VIRTUAL_HOST=other.test");
    let rule = "changes the label `traefik.http.routers.app.rule`";
    expect_refusal(&stage, &format!("{rule} from `Host(`{host}`)` to"));
    stage.set_variables(&format!("VIRTUAL_HOST={host}"));

    stage.log("--- without a drain command something is lost, which is said");
    stage.set_variables("VERSION=2 STOP=abrupt");
    stage
        .deploy("app")
        .exits(0)
        .says("`app` has no `x-zd.drain.command`")
        .says("--providers.file.directory=/etc/traefik/dynamic --providers.file.watch=true");
    stage.expect_release("app", 2, "2");

    stage.log("--- with one nothing is");
    let drain = "x-zd: { drain: { command: [/sample-app, touch, /drain] } }\n    healthcheck:";
    stage.write_override(&stage.read("compose.override.yaml").replace("healthcheck:", drain));
    stage.set_variables("VERSION=3");
    // Traefik reads the engine's list at most every two seconds, and takes turns: until then some wait for who is gone.
    let answers = || stage.get_within(SECOND, &host, "/").is_some_and(|reply| reply.status == 200);
    wait_until("Traefik knows who was removed", WAIT_LIMIT, || (0..8).all(|_| answers()));
    let (ran, answers) = stage.deploy_under_load("--keep-alive", "app");
    ran.exits(0);
    answers.all_from(&["2", "3"]);
    stage.expect_release("app", 2, "3");
}
