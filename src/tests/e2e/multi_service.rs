//! Several services in one run: all or none are replaced, behind each kind of proxy.

use std::collections::BTreeSet;

use crate::cli_runner::CommandResult;
use crate::load::{Answers, Load};
use crate::promises::{caddy, caddy_switches, dockercloud, dockercloud_state, haproxy_flags, traefik_pins};
use crate::test_project::{TestProject, WAIT_LIMIT, wait_until};

/// YAML of the second service; `environment` holds the keys that the proxy reads.
fn second_service(environment: &str, more: &str) -> String {
    format!(
        "
services:
  api:
    image: ${{ZD_APP_IMAGE}}
    expose: ['3000']
    restart: unless-stopped
    environment:
      VERSION: ${{VERSION:-1}}
      STATUS: ${{API_STATUS:-200}}
      WARMUP: ${{API_WARMUP:-0}}
      SLOW: ${{SLOW:-0}}
      STOP: ${{STOP:-graceful}}
{environment}{more}"
    )
}

const VIRTUAL_HOST: &str = "      VIRTUAL_HOST: ${SECOND_HOST}\n      VIRTUAL_PORT: '3000'\n";

fn add_second_service(project: TestProject, name: &str, environment: &str, more: &str) -> TestProject {
    project.set_variables(&format!("SECOND_HOST=second.{name}.test"));
    project.write_override(&second_service(environment, more));
    project
}

fn two_services_behind_nginx_proxy(name: &str) -> TestProject {
    add_second_service(TestProject::nginx_proxy(name), name, VIRTUAL_HOST, "")
}

pub fn two_services_behind_haproxy(name: &str) -> TestProject {
    let project = TestProject::haproxy(name);
    let configuration = project.read("haproxy.cfg");
    let (_, app) = configuration.split_once("\nbackend app\n").expect("its backend");
    let api = app.replace("server-template app 8 app:", "server-template api 8 api:");
    assert_ne!(api, app);
    let first = "    default_backend app\n";
    let chosen = format!("    use_backend api if {{ hdr_beg(host) second. }}\n{first}");
    project.write("haproxy.cfg", &(configuration.replace(first, &chosen) + "\nbackend api\n" + &api));
    add_second_service(project, name, "", "")
}

fn two_services_behind_dockercloud(name: &str) -> TestProject {
    let proxy = "  proxy:\n    depends_on: [api]\n    environment:\n      \
                 ADDITIONAL_SERVICES: ${COMPOSE_PROJECT_NAME}:app,${COMPOSE_PROJECT_NAME}:api\n";
    add_second_service(dockercloud(name), name, "      VIRTUAL_HOST: ${SECOND_HOST}\n", proxy)
}

fn two_services_behind_caddy(name: &str) -> TestProject {
    let project = caddy(name);
    let first = project.read("Caddyfile");
    let (_, app) = first.split_once(":80 ").expect("its site");
    let api = app.replace("dynamic a app", "dynamic a api");
    project.write("Caddyfile", &format!("{first}\nhttp://second.{name}.test {api}"));
    let project = add_second_service(project, name, "", "");
    // The first deploy adds the switches by a reload, which may cost a request.
    up(&project);
    project.deploy("app api --force").exits(0);
    project
}

fn two_services_behind_traefik(name: &str) -> TestProject {
    let labels = "    labels:
      traefik.enable: 'true'
      traefik.http.routers.api.rule: Host(`${SECOND_HOST}`)
      traefik.http.routers.api.entrypoints: web
      traefik.http.services.api.loadbalancer.server.port: '3000'
";
    add_second_service(TestProject::traefik(name), name, "", labels)
}

/// Load on both services.
struct TwoLoads<'s>(Load<'s>, Load<'s>);

impl<'s> TwoLoads<'s> {
    fn start(project: &'s TestProject) -> Self {
        let words = "--rate 150 --seconds 300";
        let of = |host: String| Load::start(project, &project.url(), &host, words);
        TwoLoads(of(project.host()), of(project.second_host()))
    }

    fn stop(self) -> [Answers; 2] {
        [self.0.stop(), self.1.stop()]
    }
}

fn deploy(project: &TestProject, words: &str) -> (CommandResult, [Answers; 2]) {
    let loads = TwoLoads::start(project);
    let result = project.deploy(words);
    (result, loads.stop())
}

/// Query for what compose-zd left in the proxy.
type Leftovers = fn(&TestProject) -> String;

fn expect_version(project: &TestProject, version: &str, left: Leftovers) {
    for service in ["app", "api"] {
        project.expect_release(service, 1, version);
    }
    wait_until("nothing is left in the proxy", WAIT_LIMIT, || left(project).is_empty());
}

fn up(project: &TestProject) {
    project.up("--scale app=1 --scale api=1");
}

fn ids(project: &TestProject) -> [BTreeSet<String>; 2] {
    ["app", "api"].map(|service| project.ids(service))
}

/// Asserts that a broken service, whichever it is, keeps both on the old release, without a request to the good new one.
fn deploy_one_broken(project: &TestProject, broken: &str, left: Leftovers) {
    project.log(&format!("==== neither is replaced: {broken}"));
    let before = project.containers();
    project.set_variables(&format!("VERSION=2 {broken}"));
    let (result, answers) = deploy(project, "app api --health-deadline 3s");
    result.exits(3).says("→ 500").says("served before and still serve");
    answers.iter().for_each(|a| a.all_from(&["1"]));
    assert_eq!(project.containers(), before);
    assert_eq!(left(project), "", "left in the proxy");
}

/// Asserts that the first service is rolled back when the second fails.
fn roll_back_after_failure(project: &TestProject, left: Leftovers) {
    project.log("==== a switched service is rolled back when the next one fails");
    let before = ids(project);
    project.set_variables("VERSION=2 STATUS=200 API_STATUS=500");
    let (result, answers) = deploy(project, "app api --one-by-one --health-deadline 3s");
    result.exits(3).says("in rotation: app-").says("→ 500").says("served before and still serve");
    answers[0].all_from(&["1", "2"]);
    answers[1].all_from(&["1"]);
    expect_version(project, "1", left);
    assert_eq!(ids(project), before);
}

/// Asserts the same for an interrupt at that moment.
fn roll_back_after_interrupt(project: &TestProject, left: Leftovers) {
    project.log("==== a switched service is rolled back at an interrupt");
    let before = ids(project);
    project.set_variables("VERSION=2 STATUS=200 API_STATUS=500");
    let loads = TwoLoads::start(project);
    let mut deploy = project.start_deploy("app api --one-by-one");
    deploy.wait_for("started api-");
    deploy.signal("TERM");
    deploy.wait().exits(143).says("in rotation: app-").says("rolling back");
    let answers = loads.stop();
    answers[0].all_from(&["1", "2"]);
    answers[1].all_from(&["1"]);
    expect_version(project, "1", left);
    assert_eq!(ids(project), before);
}

fn replace_both(project: &TestProject, left: Leftovers) {
    project.log("==== both are replaced together");
    project.set_variables("VERSION=2 STATUS=200 API_STATUS=200");
    let (result, answers) = deploy(project, "");
    result.exits(0).says("`app` is deployed").says("`api` is deployed");
    answers.iter().for_each(|a| a.all_from(&["1", "2"]));
    expect_version(project, "2", left);
}

/// All windows of the monitor overlap: the old instances stop at the end.
#[test]
fn a_dependent_starts_once_its_dependency_is_in_rotation() {
    let project = TestProject::nginx_proxy("levels");
    let project = add_second_service(project, "levels", VIRTUAL_HOST, "    depends_on: [app]\n");
    up(&project);
    project.set_variables("VERSION=2");
    let (result, answers) = deploy(&project, "--update-monitor 1s");
    result.exits(0);
    answers.iter().for_each(|a| a.all_from(&["1", "2"]));
    let order = ["in rotation: app-", "created api-", "in rotation: api-", "draining app-"];
    let at = order.map(|text| result.stderr.find(text).unwrap_or_else(|| panic!("no `{text}`")));
    assert!(at.is_sorted(), "{at:?}: {}", result.stderr);

    let before = project.containers();
    project.set_variables("VERSION=3 API_STATUS=500");
    let (result, answers) = deploy(&project, "--health-deadline 2s");
    result.exits(3).says("in rotation: app-").says("served before and still serve");
    answers[0].all_from(&["2", "3"]);
    answers[1].all_from(&["2"]);
    assert_eq!(project.containers(), before);
}

#[test]
fn two_services_behind_nginx_proxy_are_replaced_or_rolled_back_together() {
    let project = two_services_behind_nginx_proxy("bothnginx");
    up(&project);
    deploy_one_broken(&project, "API_STATUS=200 STATUS=500", TestProject::marks);
    roll_back_after_failure(&project, TestProject::marks);
    roll_back_after_interrupt(&project, TestProject::marks);
    replace_both(&project, TestProject::marks);
}

#[test]
fn two_services_behind_haproxy_are_replaced_or_rolled_back_together() {
    let project = two_services_behind_haproxy("bothhaproxy");
    up(&project);
    deploy_one_broken(&project, "API_STATUS=500 STATUS=200", haproxy_flags);
    roll_back_after_failure(&project, haproxy_flags);
    replace_both(&project, haproxy_flags);
}

/// Replaces both services together. Rollbacks after the switch are in `monitor.rs`, behind each proxy.
macro_rules! behind {
    ($name:ident, $project:expr, $left:expr) => {
        #[test]
        fn $name() {
            let project = $project;
            up(&project);
            replace_both(&project, $left);
        }
    };
}

behind!(
    two_services_behind_dockercloud_are_replaced_together,
    two_services_behind_dockercloud("bothdockercloud"),
    dockercloud_state
);
behind!(
    two_services_behind_caddy_are_replaced_together,
    two_services_behind_caddy("bothcaddy"),
    caddy_switches
);
behind!(
    two_services_behind_traefik_are_replaced_together,
    two_services_behind_traefik("bothtraefik"),
    traefik_pins
);
