//! Several services in one run: all or none, and what each proxy does while two of its services are replaced at once.

use std::collections::BTreeSet;

use crate::cli_runner::CommandResult;
use crate::load::{Answers, Load};
use crate::promises::{caddy, dockercloud, haproxy_flags, dockercloud_state, traefik_files, caddy_switches};
use crate::test_project::{WAIT_LIMIT, TestProject, wait_until};

/// The second service: `environment` holds what its proxy goes by.
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

fn add_second_service(stage: TestProject, name: &str, environment: &str, more: &str) -> TestProject {
    stage.set_variables(&format!("SECOND_HOST=second.{name}.test"));
    stage.write_override(&second_service(environment, more));
    stage
}

fn two_services_behind_nginx_proxy(name: &str) -> TestProject {
    add_second_service(TestProject::nginx_proxy(name), name, VIRTUAL_HOST, "")
}

pub fn two_services_behind_haproxy(name: &str) -> TestProject {
    let stage = TestProject::haproxy(name);
    let configuration = stage.read("haproxy.cfg");
    let (_, app) = configuration.split_once("\nbackend app\n").expect("its backend");
    let api = app.replace("server-template app 8 app:", "server-template api 8 api:");
    assert_ne!(api, app);
    let first = "    default_backend app\n";
    let chosen = format!("    use_backend api if {{ hdr_beg(host) second. }}\n{first}");
    stage.write("haproxy.cfg", &(configuration.replace(first, &chosen) + "\nbackend api\n" + &api));
    add_second_service(stage, name, "", "")
}

fn two_services_behind_dockercloud(name: &str) -> TestProject {
    let proxy = "  proxy:\n    depends_on: [api]\n    environment:\n      \
                 ADDITIONAL_SERVICES: ${COMPOSE_PROJECT_NAME}:app,${COMPOSE_PROJECT_NAME}:api\n";
    add_second_service(dockercloud(name), name, "      VIRTUAL_HOST: ${SECOND_HOST}\n", proxy)
}

fn two_services_behind_caddy(name: &str) -> TestProject {
    let stage = caddy(name);
    let first = stage.read("Caddyfile");
    let (_, app) = first.split_once(":80 ").expect("its site");
    let api = app.replace("dynamic a app", "dynamic a api");
    stage.write("Caddyfile", &format!("{first}\nhttp://second.{name}.test {api}"));
    let stage = add_second_service(stage, name, "", "");
    // Its first deploy ever puts the switches there, by a reload that may cost a request.
    up(&stage);
    stage.deploy("app api --force").exits(0);
    stage
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

/// Clients of both services.
struct TwoLoads<'s>(Load<'s>, Load<'s>);

impl<'s> TwoLoads<'s> {
    fn start(stage: &'s TestProject) -> Self {
        let words = "--rate 150 --seconds 300";
        let of = |host: String| Load::start(stage, &stage.url(), &host, words);
        TwoLoads(of(stage.host()), of(stage.second_host()))
    }

    fn stop(self) -> [Answers; 2] {
        [self.0.stop(), self.1.stop()]
    }
}

fn deploy(stage: &TestProject, words: &str) -> (CommandResult, [Answers; 2]) {
    let loads = TwoLoads::start(stage);
    let ran = stage.deploy(words);
    (ran, loads.stop())
}

/// What of ours is in the proxy.
type Leftovers = fn(&TestProject) -> String;

fn expect_version(stage: &TestProject, version: &str, left: Leftovers) {
    for service in ["app", "api"] {
        stage.expect_release(service, 1, version);
    }
    wait_until("nothing is left in the proxy", WAIT_LIMIT, || left(stage).is_empty());
}

fn up(stage: &TestProject) {
    stage.up("--scale app=1 --scale api=1");
}

fn ids(stage: &TestProject) -> [BTreeSet<String>; 2] {
    ["app", "api"].map(|service| stage.ids(service))
}

/// A broken one of two, whichever it is, leaves both on the old release, and no request goes to the sound one.
fn deploy_one_broken(stage: &TestProject, broken: &str, left: Leftovers) {
    stage.log(&format!("==== neither is replaced: {broken}"));
    let before = stage.containers();
    stage.set_variables(&format!("VERSION=2 {broken}"));
    let (ran, answers) = deploy(stage, "app api --health-deadline 3s");
    ran.exits(3).says("→ 500").says("served before and still serve");
    answers.iter().for_each(|a| a.all_from(&["1"]));
    assert_eq!(stage.containers(), before);
    assert_eq!(left(stage), "", "left in the proxy");
}

/// The first is in service when the second fails, and is brought back.
fn roll_back_after_failure(stage: &TestProject, left: Leftovers) {
    stage.log("==== one that was switched already is brought back when the next fails");
    let before = ids(stage);
    stage.set_variables("VERSION=2 STATUS=200 API_STATUS=500");
    let (ran, answers) = deploy(stage, "app api --one-by-one --health-deadline 3s");
    ran.exits(3).says("in rotation: app-").says("→ 500").says("served before and still serve");
    answers[0].all_from(&["1", "2"]);
    answers[1].all_from(&["1"]);
    expect_version(stage, "1", left);
    assert_eq!(ids(stage), before);
}

/// The same where it is interrupted at that moment.
fn roll_back_after_interrupt(stage: &TestProject, left: Leftovers) {
    stage.log("==== one that was switched already is brought back at an interrupt");
    let before = ids(stage);
    stage.set_variables("VERSION=2 STATUS=200 API_STATUS=500");
    let loads = TwoLoads::start(stage);
    let mut deploy = stage.start_deploy("app api --one-by-one");
    deploy.wait_for("started api-");
    deploy.signal("TERM");
    deploy.wait().exits(143).says("in rotation: app-").says("going back");
    let answers = loads.stop();
    answers[0].all_from(&["1", "2"]);
    answers[1].all_from(&["1"]);
    expect_version(stage, "1", left);
    assert_eq!(ids(stage), before);
}

fn replace_both(stage: &TestProject, left: Leftovers) {
    stage.log("==== both are replaced together");
    stage.set_variables("VERSION=2 STATUS=200 API_STATUS=200");
    let (ran, answers) = deploy(stage, "");
    ran.exits(0).says("`app` is deployed").says("`api` is deployed");
    answers.iter().for_each(|a| a.all_from(&["1", "2"]));
    expect_version(stage, "2", left);
}

#[test]
fn two_services_behind_nginx_proxy_are_replaced_or_rolled_back_together() {
    let stage = two_services_behind_nginx_proxy("bothnginx");
    up(&stage);
    deploy_one_broken(&stage, "API_STATUS=200 STATUS=500", TestProject::marks);
    roll_back_after_failure(&stage, TestProject::marks);
    roll_back_after_interrupt(&stage, TestProject::marks);
    replace_both(&stage, TestProject::marks);
}

#[test]
fn two_services_behind_haproxy_are_replaced_or_rolled_back_together() {
    let stage = two_services_behind_haproxy("bothhaproxy");
    up(&stage);
    deploy_one_broken(&stage, "API_STATUS=500 STATUS=200", haproxy_flags);
    roll_back_after_failure(&stage, haproxy_flags);
    replace_both(&stage, haproxy_flags);
}

/// Both together; what goes back after its switch is among the monitor's tests, behind each of these.
macro_rules! behind {
    ($name:ident, $stage:expr, $left:expr) => {
        #[test]
        fn $name() {
            let stage = $stage;
            up(&stage);
            both(&stage, $left);
        }
    };
}

behind!(
    two_services_behind_dockercloud_are_replaced_together,
    two_services_behind_dockercloud("bothdockercloud"),
    dockercloud_state
);
behind!(two_services_behind_caddy_are_replaced_together, two_services_behind_caddy("bothcaddy"), caddy_switches);
behind!(two_services_behind_traefik_are_replaced_together, two_services_behind_traefik("bothtraefik"), traefik_files);
