//! Several services in one run: all or none, and what each proxy does while two of its services are replaced at once.

use std::collections::BTreeSet;

use crate::cli_runner::Ran;
use crate::load::{Answers, Load};
use crate::promises::{caddy, dockercloud, flags, frozen, routes, switched_on};
use crate::test_project::{LONG, Stage, wait_until};

/// The second service: `environment` holds what its proxy goes by.
fn second(environment: &str, more: &str) -> String {
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

const VIRTUAL: &str = "      VIRTUAL_HOST: ${SECOND_HOST}\n      VIRTUAL_PORT: '3000'\n";

fn with_second(stage: Stage, name: &str, environment: &str, more: &str) -> Stage {
    stage.set(&format!("SECOND_HOST=second.{name}.test"));
    stage.add(&second(environment, more));
    stage
}

fn two_behind_nginx(name: &str) -> Stage {
    with_second(Stage::scale(name), name, VIRTUAL, "")
}

pub fn two_behind_haproxy(name: &str) -> Stage {
    let stage = Stage::haproxy(name);
    let configuration = stage.read("haproxy.cfg");
    let (_, app) = configuration.split_once("\nbackend app\n").expect("its backend");
    let api = app.replace("server-template app 8 app:", "server-template api 8 api:");
    assert_ne!(api, app);
    let first = "    default_backend app\n";
    let chosen = format!("    use_backend api if {{ hdr_beg(host) second. }}\n{first}");
    stage.write("haproxy.cfg", &(configuration.replace(first, &chosen) + "\nbackend api\n" + &api));
    with_second(stage, name, "", "")
}

fn two_behind_dockercloud(name: &str) -> Stage {
    let proxy = "  proxy:\n    depends_on: [api]\n    environment:\n      \
                 ADDITIONAL_SERVICES: ${COMPOSE_PROJECT_NAME}:app,${COMPOSE_PROJECT_NAME}:api\n";
    with_second(dockercloud(name), name, "      VIRTUAL_HOST: ${SECOND_HOST}\n", proxy)
}

fn two_behind_caddy(name: &str) -> Stage {
    let stage = caddy(name);
    let first = stage.read("Caddyfile");
    let (_, app) = first.split_once(":80 ").expect("its site");
    let api = app.replace("dynamic a app", "dynamic a api");
    stage.write("Caddyfile", &format!("{first}\nhttp://second.{name}.test {api}"));
    let stage = with_second(stage, name, "", "");
    // Its first deploy ever puts the switches there, by a reload that may cost a request.
    up(&stage);
    stage.deploy("app api --force").exits(0);
    stage
}

fn two_behind_traefik(name: &str) -> Stage {
    let labels = "    labels:
      traefik.enable: 'true'
      traefik.http.routers.api.rule: Host(`${SECOND_HOST}`)
      traefik.http.routers.api.entrypoints: web
      traefik.http.services.api.loadbalancer.server.port: '3000'
";
    with_second(Stage::traefik(name), name, "", labels)
}

/// Clients of both services.
struct Loads<'s>(Load<'s>, Load<'s>);

impl<'s> Loads<'s> {
    fn start(stage: &'s Stage) -> Self {
        let words = "--rate 150 --seconds 300";
        let of = |host: String| Load::start(stage, &stage.url(), &host, words);
        Loads(of(stage.host()), of(stage.second_host()))
    }

    fn end(self) -> [Answers; 2] {
        [self.0.end(), self.1.end()]
    }
}

fn deploy(stage: &Stage, words: &str) -> (Ran, [Answers; 2]) {
    let loads = Loads::start(stage);
    let ran = stage.deploy(words);
    (ran, loads.end())
}

/// What of ours is in the proxy.
type Left = fn(&Stage) -> String;

fn expect(stage: &Stage, version: &str, left: Left) {
    for service in ["app", "api"] {
        stage.expect_release(service, 1, version);
    }
    wait_until("nothing is left in the proxy", LONG, || left(stage).is_empty());
}

fn up(stage: &Stage) {
    stage.up("--scale app=1 --scale api=1");
}

fn ids(stage: &Stage) -> [BTreeSet<String>; 2] {
    ["app", "api"].map(|service| stage.ids(service))
}

/// A broken one of two, whichever it is, leaves both on the old release, and no request goes to the sound one.
fn neither(stage: &Stage, broken: &str, left: Left) {
    stage.tell(&format!("==== neither is replaced: {broken}"));
    let before = stage.containers();
    stage.set(&format!("VERSION=2 {broken}"));
    let (ran, answers) = deploy(stage, "app api --health-deadline 3s");
    ran.exits(3).says("→ 500").says("served before and still serve");
    answers.iter().for_each(|a| a.all_from(&["1"]));
    assert_eq!(stage.containers(), before);
    assert_eq!(left(stage), "", "left in the proxy");
}

/// The first is in service when the second fails, and is brought back.
fn brought_back(stage: &Stage, left: Left) {
    stage.tell("==== one that was switched already is brought back when the next fails");
    let before = ids(stage);
    stage.set("VERSION=2 STATUS=200 API_STATUS=500");
    let (ran, answers) = deploy(stage, "app api --one-by-one --health-deadline 3s");
    ran.exits(3).says("in rotation: app-").says("→ 500").says("served before and still serve");
    answers[0].all_from(&["1", "2"]);
    answers[1].all_from(&["1"]);
    expect(stage, "1", left);
    assert_eq!(ids(stage), before);
}

/// The same where it is interrupted at that moment.
fn brought_back_when_interrupted(stage: &Stage, left: Left) {
    stage.tell("==== one that was switched already is brought back at an interrupt");
    let before = ids(stage);
    stage.set("VERSION=2 STATUS=200 API_STATUS=500");
    let loads = Loads::start(stage);
    let mut deploy = stage.start_deploy("app api --one-by-one");
    deploy.wait_for("started api-");
    deploy.signal("TERM");
    deploy.end().exits(143).says("in rotation: app-").says("going back");
    let answers = loads.end();
    answers[0].all_from(&["1", "2"]);
    answers[1].all_from(&["1"]);
    expect(stage, "1", left);
    assert_eq!(ids(stage), before);
}

fn both(stage: &Stage, left: Left) {
    stage.tell("==== both are replaced together");
    stage.set("VERSION=2 STATUS=200 API_STATUS=200");
    let (ran, answers) = deploy(stage, "");
    ran.exits(0).says("`app` is deployed").says("`api` is deployed");
    answers.iter().for_each(|a| a.all_from(&["1", "2"]));
    expect(stage, "2", left);
}

#[test]
fn two_services_behind_nginx_proxy_are_replaced_or_rolled_back_together() {
    let stage = two_behind_nginx("bothnginx");
    up(&stage);
    neither(&stage, "API_STATUS=200 STATUS=500", Stage::marks);
    brought_back(&stage, Stage::marks);
    brought_back_when_interrupted(&stage, Stage::marks);
    both(&stage, Stage::marks);
}

#[test]
fn two_services_behind_haproxy_are_replaced_or_rolled_back_together() {
    let stage = two_behind_haproxy("bothhaproxy");
    up(&stage);
    neither(&stage, "API_STATUS=500 STATUS=200", flags);
    brought_back(&stage, flags);
    both(&stage, flags);
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
    two_behind_dockercloud("bothdockercloud"),
    frozen
);
behind!(two_services_behind_caddy_are_replaced_together, two_behind_caddy("bothcaddy"), switched_on);
behind!(two_services_behind_traefik_are_replaced_together, two_behind_traefik("bothtraefik"), routes);
