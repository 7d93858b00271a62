//! What is special about Traefik: its files of routes, its labels, and its own discovery where there are no files.

use std::time::Duration;

use crate::promises::routes;
use crate::test_project::{LONG, Stage, wait_until};

/// For one answer.
const SECOND: Duration = Duration::from_secs(1);

/// With its API, which tells what its discovery has seen.
const API: &str = "traefik/compose.api.yaml";
/// Without files of routes.
const PLAIN: &str = "traefik/compose.plain.yaml";

/// A configuration that does not do, with what is said of it; nothing is changed by it.
fn refuses(stage: &Stage, said: &str) {
    let before = stage.containers();
    let version = stage.variable("VERSION");
    stage.set("VERSION=refused");
    stage.deploy("app").exits(1).says(said).says("hint: ");
    assert_eq!(stage.containers(), before);
    stage.set(&format!("VERSION={version}"));
}

/// Version `version` takes over from `before`, and nothing of ours is left.
fn replaces(stage: &Stage, before: &str, version: &str, load: &str) {
    stage.set(&format!("VERSION={version}"));
    let (ran, answers) = stage.deploy_under_load(load, "app");
    ran.exits(0);
    answers.all_from(&[before, version]);
    stage.expect_release("app", 1, version);
    assert_eq!(routes(stage), "");
}

#[test]
fn with_an_api_the_route_is_handed_back_after_discovery() {
    let stage = Stage::traefik("trapi");
    stage.add_fixture(API);
    stage.up("");
    stage.set("STOP=abrupt");
    replaces(&stage, "1", "2", "--keep-alive");
}

const LABELS: &str = "labels: { \
    traefik.http.routers.app.middlewares: 'own', \
    traefik.http.middlewares.own.headers.customresponseheaders.X-Release: '${VERSION}', \
    traefik.http.services.app.loadbalancer.healthcheck.path: '/health?${VERSION}' }";
const HEALTHCHECK: &str =
    "healthcheck: { test: [CMD, /sample-app, check, /drain], interval: 5s, start_period: 0s }";

#[test]
fn a_dynamic_file_pins_the_route_whatever_discovery_does() {
    let stage = Stage::traefik("trfiles");

    stage
        .tell("--- nobody is let in before the first release is ready, and one that never is leaves nothing");
    stage.compose("up -d proxy");
    stage.set("STATUS=500");
    stage.deploy("app --health-deadline 2s").exits(3).says("nothing served before");
    assert_eq!(stage.states("app"), Vec::<String>::new());
    assert_eq!(routes(&stage), "");
    stage.set("STATUS=200 WARMUP=2");
    stage.deploy("app").exits(0);
    stage.expect_release("app", 1, "1");
    assert_eq!(routes(&stage), "");

    // Traefik throws away what two generations of a service define differently, and with it the route.
    stage.tell("--- labels that change from one release to the next lose no request");
    stage.set("WARMUP=0");
    stage.add(&format!("services: {{ app: {{ {LABELS} }} }}"));
    replaces(&stage, "1", "2", "--method POST --body 500");

    // Docker's first look comes after five seconds: until then Traefik's own discovery leaves the new instances out.
    stage.tell("--- the route stays until Docker finds the new instances healthy");
    stage.add(&format!("services: {{ app: {{ {LABELS}, {HEALTHCHECK} }} }}"));
    replaces(&stage, "2", "3", "");

    stage.tell("--- a file that routes to the service is refused");
    let router = "http: {routers: {mine: {rule: Path(`/mine`), service: app@docker}}}";
    stage.in_proxy(&["sh", "-c", &format!("echo '{router}' >/etc/traefik/dynamic/mine.yml")]);
    refuses(&stage, "/etc/traefik/dynamic/mine.yml:service: app@docker");
    stage.in_proxy(&["rm", "/etc/traefik/dynamic/mine.yml"]);

    stage.tell("--- a directory that takes no file is refused");
    let read_only = "services: { proxy: { volumes: !override \
        ['/var/run/docker.sock:/var/run/docker.sock:ro', 'dynamic:/etc/traefik/dynamic:ro'] } }";
    stage.add(read_only);
    stage.compose("up -d --no-deps proxy");
    stage.wait_until_all_answer();
    refuses(&stage, "its directory of routes, /etc/traefik/dynamic, is not writable");
}

#[test]
fn a_directory_of_routes_need_not_be_a_volume() {
    let stage = Stage::traefik("trlayer");
    stage.add("services: { proxy: { volumes: !override ['/var/run/docker.sock:/var/run/docker.sock:ro'], \
               command: ['--entrypoints.web.address=:80', '--providers.docker', '--providers.docker.exposedByDefault=false', \
               '--providers.docker.constraints=Label(`com.docker.compose.project`, `${COMPOSE_PROJECT_NAME}`)', \
               '--providers.file.directory=/tmp', '--serversTransport.forwardingTimeouts.idleConnTimeout=1s'] } }");
    stage.up("");
    stage.set("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 1, "2");
    assert_eq!(stage.in_proxy(&["ls", "-A", "/tmp"]), "");
}

#[test]
fn without_dynamic_files_an_instance_drains_by_its_health_check_and_losses_are_announced() {
    let stage = Stage::traefik("trplain");
    stage.add_fixture(PLAIN);
    stage.up("--scale app=2");

    stage.tell("--- labels that change are refused");
    let host = stage.variable("VIRTUAL_HOST");
    stage.set("VIRTUAL_HOST=other.test");
    let rule = "changes the label `traefik.http.routers.app.rule`";
    refuses(&stage, &format!("{rule} from `Host(`{host}`)` to"));
    stage.set(&format!("VIRTUAL_HOST={host}"));

    stage.tell("--- without a drain command something is lost, which is said");
    stage.set("VERSION=2 STOP=abrupt");
    stage
        .deploy("app")
        .exits(0)
        .says("`app` has no `x-zd.drain.command`")
        .says("--providers.file.directory=/etc/traefik/dynamic --providers.file.watch=true");
    stage.expect_release("app", 2, "2");

    stage.tell("--- with one nothing is");
    let drain = "x-zd: { drain: { command: [/sample-app, touch, /drain] } }\n    healthcheck:";
    stage.add(&stage.read("compose.override.yaml").replace("healthcheck:", drain));
    stage.set("VERSION=3");
    // Traefik reads the engine's list at most every two seconds, and takes turns: until then some wait for who is gone.
    let answers = || stage.ask_within(SECOND, &host, "/").is_some_and(|reply| reply.status == 200);
    wait_until("Traefik knows who was removed", LONG, || (0..8).all(|_| answers()));
    let (ran, answers) = stage.deploy_under_load("--keep-alive", "app");
    ran.exits(0);
    answers.all_from(&["2", "3"]);
    stage.expect_release("app", 2, "3");
}
