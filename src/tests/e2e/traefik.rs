//! What is special about Traefik: its files of routes, its labels, and its own discovery where there are no files.

use crate::promises::routes;
use crate::stage::Stage;

/// With its API, which tells what its discovery has seen.
const API: &str = "traefik/compose.api.yaml";
/// Without files of routes.
const PLAIN: &str = "traefik/compose.plain.yaml";

fn with(name: &str, fixture: &str) -> Stage {
    let stage = Stage::traefik(name);
    stage.add_fixture(fixture);
    stage.up("--scale app=2");
    stage
}

#[test]
fn with_an_api_the_route_goes_back_when_discovery_has_caught_up() {
    let stage = with("trapi", API);
    stage.set("VERSION=2 STOP=abrupt");
    let (ran, answers) = stage.deploy_under_load("--keep-alive", "app");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 2, "2");
    assert_eq!(routes(&stage), "");
}

/// Traefik throws away what two generations of a service define differently, and with it the route.
#[test]
fn labels_that_change_from_one_release_to_the_next_lose_no_request() {
    let stage = Stage::traefik("trlabels");
    stage.add(
        "services: { app: { labels: { \
         traefik.http.routers.app.middlewares: 'own', \
         traefik.http.middlewares.own.headers.customresponseheaders.X-Release: '${VERSION}', \
         traefik.http.services.app.loadbalancer.healthcheck.path: '/health?${VERSION}' } } }",
    );
    stage.up("--scale app=2");
    stage.set("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("--method POST --body 500", "app");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 2, "2");
    assert_eq!(routes(&stage), "");
}

/// Docker's first look comes after five seconds: until then Traefik's own discovery leaves the new instances out.
#[test]
fn the_route_stays_until_docker_finds_the_new_instances_healthy() {
    let stage = Stage::traefik("trhealth");
    stage.add(
        "services: { app: { healthcheck: { test: [CMD, /sample-app, check, /drain], interval: 5s, start_period: 0s } } }",
    );
    stage.up("--scale app=2");
    stage.set("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 2, "2");
    assert_eq!(routes(&stage), "");
}

#[test]
fn a_directory_of_routes_that_is_no_volume_will_do() {
    let stage = Stage::traefik("trlayer");
    stage.add("services: { proxy: { volumes: !override ['/var/run/docker.sock:/var/run/docker.sock:ro'], \
               command: ['--entrypoints.web.address=:80', '--providers.docker', '--providers.docker.exposedByDefault=false', \
               '--providers.docker.constraints=Label(`com.docker.compose.project`, `${COMPOSE_PROJECT_NAME}`)', \
               '--providers.file.directory=/tmp', '--serversTransport.forwardingTimeouts.idleConnTimeout=1s'] } }");
    stage.up("--scale app=2");
    stage.set("VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 2, "2");
    assert_eq!(stage.in_proxy(&["ls", "-A", "/tmp"]), "");
}

#[test]
fn nobody_is_let_in_before_the_first_release_is_ready() {
    let stage = Stage::traefik("trfirst");
    stage.compose("up -d proxy");
    stage.set("WARMUP=2");
    stage.deploy("app").exits(0);
    stage.expect_release("app", 1, "1");
    assert_eq!(routes(&stage), "");
}

#[test]
fn a_first_release_that_never_gets_ready_leaves_nothing() {
    let stage = Stage::traefik("trnone");
    stage.compose("up -d proxy");
    stage.set("STATUS=500");
    stage.deploy("app --health-deadline 3s").exits(3).says("nothing served before");
    assert_eq!(stage.states("app"), Vec::<String>::new());
    assert_eq!(routes(&stage), "");
}

#[test]
fn without_files_an_instance_leaves_by_its_own_health_check() {
    let stage = Stage::traefik("trplain");
    stage.add_fixture(PLAIN);
    let drain = "x-zd: { drain: { command: [/sample-app, touch, /drain] } }\n    healthcheck:";
    stage.add(&stage.read("compose.override.yaml").replace("healthcheck:", drain));
    stage.up("--scale app=2");
    stage.set("VERSION=2 STOP=abrupt");
    let (ran, answers) = stage.deploy_under_load("--keep-alive", "app");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 2, "2");
}

#[test]
fn without_files_what_will_be_lost_is_said() {
    let stage = with("trwarned", PLAIN);
    stage.set("VERSION=2");
    stage
        .deploy("app")
        .exits(0)
        .says("`app` has no `x-zd.drain.command`")
        .says("--providers.file.directory=/etc/traefik/dynamic --providers.file.watch=true");
    stage.expect_release("app", 2, "2");
}

/// A configuration that does not do, with what is said of it; nothing is changed by it.
fn refuses(stage: &Stage, words: &str, said: &str) {
    let before = stage.containers();
    stage.set("VERSION=2");
    stage.deploy(words).exits(1).says(said).says("hint: ");
    assert_eq!(stage.containers(), before);
}

#[test]
fn without_files_labels_that_change_are_refused() {
    let stage = with("trchanged", PLAIN);
    let host = stage.variable("VIRTUAL_HOST");
    stage.set("VIRTUAL_HOST=other.test");
    let said = format!("changes the label `traefik.http.routers.app.rule` from `Host(`{host}`)` to");
    refuses(&stage, "app", &said);
}

#[test]
fn a_directory_that_takes_no_file_is_refused() {
    let stage = Stage::traefik("trreadonly");
    stage.add(
        "services: { proxy: { volumes: !override ['/var/run/docker.sock:/var/run/docker.sock:ro', \
               'dynamic:/etc/traefik/dynamic:ro'] } }",
    );
    stage.up("--scale app=2");
    refuses(&stage, "app", "its directory of routes, /etc/traefik/dynamic, cannot be written to");
}

#[test]
fn a_file_that_routes_to_the_service_is_refused() {
    let stage = Stage::traefik("trrefers");
    stage.up("--scale app=2");
    let router = "http: {routers: {mine: {rule: Path(`/mine`), service: app@docker}}}";
    stage.in_proxy(&["sh", "-c", &format!("echo '{router}' >/etc/traefik/dynamic/mine.yml")]);
    refuses(&stage, "app", "/etc/traefik/dynamic/mine.yml:service: app@docker");
}
