//! Contract of all adapters: each passes the same goals, in front of a simulation of its proxy.
//!
//! Methods of the trait before `advance`, and where each is now:
//!
//! | Before | Now |
//! |---|---|
//! | `name`, `container` | [`Proxy::place`] |
//! | `routes_to` | [`Proxy::routes_to`] |
//! | `port`, `host`, `entrances`, `speaks_http` | [`Proxy::route_to`] |
//! | `introduction`, `learn`, `learn_files` | the same |
//! | `check`, `advice`, `foresee` | [`Proxy::audit`] |
//! | `losses` | the same |
//! | `doubt`, `route_files` | the same |
//! | `steers` | every adapter sets the rotation |
//! | `needs_reading`, `discovery_timeout`, `late_request_grace`, `gives_addresses` | [`Proxy::abilities`] |
//! | `inspect`, `prepare` | [`Goal::Patched`] |
//! | `question`, `read` | [`Goal::Observed`], and the state of every other goal |
//! | `holds`, `gate` | [`Goal::Gated`] |
//! | `route`, `note_others` | [`Goal::Rotation`] |
//! | `hand_back` | [`Goal::HandedBack`] |
//! | `diagnose`, `diagnosis` | the same |

mod apache;
mod caddy;
mod dockercloud;
mod haproxy;
mod nginx;
mod nginx_proxy;
mod port;
mod toy;
mod traefik;

use std::collections::BTreeSet;

use super::converge::decide;
use super::effects::Action;
use super::*;
use crate::fuzz::corpus;

/// Instances: the old one, which serves, and the new one, which starts during the rollout.
pub const OLD: &str = "p-app-1";
pub const NEW: &str = "p-app-2";

/// Container of another project that exists.
pub const OTHER: &str = "other";

/// Most steps towards a goal.
const MOST_STEPS: usize = 8;

/// Proxy as a state machine, and the containers that it finds.
pub trait Simulation {
    fn proxy(&self) -> &dyn Proxy;
    fn answer(&self, query: &Query) -> CommandResult;
    fn run(&mut self, action: &Action);
    /// Names of the running instances changed.
    fn set_running(&mut self, running: &[&'static str]);
    /// Names of the instances that get new requests.
    fn serving(&self) -> BTreeSet<&'static str>;
}

pub fn output(stdout: impl Into<String>) -> CommandResult {
    CommandResult { code: Some(0), stdout: stdout.into(), stderr: String::new() }
}

pub fn address(name: &str) -> IpAddr {
    format!("172.21.0.{}", name.rsplit('-').next().expect("a number")).parse().expect("an address")
}

/// Container of a proxy on the network of the instances.
pub fn container(args: &[&str]) -> Container {
    let json = r#"{"Id": "lb", "Name": "/p-lb-1", "NetworkSettings": {"Networks": {"front": {}}}}"#;
    let mut container: Container = serde_json::from_str(json).expect("a container");
    container.args = args.iter().map(|a| a.to_string()).collect();
    container
}

/// Script of a command, or its input.
pub fn script(exec: &Exec) -> &str {
    exec.argv.get(2).map_or("", String::as_str)
}

fn endpoint(name: &str, is_running: bool) -> Endpoint {
    let labels = [
        ("com.docker.compose.project", "p"),
        ("com.docker.compose.service", "app"),
        ("traefik.enable", "true"),
        ("traefik.http.routers.app.rule", "Host(`app.test`)"),
    ];
    Endpoint {
        id: name.into(),
        name: name.into(),
        names: vec![name.into(), "app".into()],
        service: "app".into(),
        addresses: is_running.then(|| address(name)).into_iter().collect(),
        port: Some(3000),
        labels: labels.map(|(key, value)| (key.into(), value.into())).into(),
        unhealthy: false,
        ..Endpoint::default()
    }
}

fn rotation(inside: Endpoint, outside: Endpoint) -> Rotation {
    Rotation { inside: vec![inside], outside: vec![outside], ..Rotation::default() }
}

fn look(simulation: &dyn Simulation, goal: &Goal) -> (ProxyState, Next) {
    let proxy = simulation.proxy();
    let answers: Vec<CommandResult> = proxy.queries(goal).iter().map(|q| simulation.answer(q)).collect();
    let (state, next) = proxy.advance(&answers, goal).expect("a step");
    let next = decide(goal, &state, next);
    (state, next)
}

/// Pursues a goal as a deploy does. Returns the number of changes. After each of them, an instance serves, and no
/// instance outside a gate does.
fn pursue(simulation: &mut dyn Simulation, goal: &Goal) -> usize {
    let mut count = 0;
    for step in 0..MOST_STEPS {
        let is_first_of_blind =
            step == 0 && !matches!(goal, Goal::Patched(_)) && simulation.proxy().abilities().is_blind;
        let next = if is_first_of_blind {
            simulation.proxy().advance(&[], goal).expect("a change").1
        } else {
            look(simulation, goal).1
        };
        for change in next.changes() {
            simulation.run(&change.action);
            count += 1;
            assert!(
                !simulation.serving().is_empty(),
                "{} serves from an empty set",
                simulation.proxy().name()
            );
        }
        match next {
            Next::Done | Next::Finish(_) => return count,
            Next::Wait | Next::Run(_) => {}
        }
    }
    panic!("{} does not reach {goal:?}", simulation.proxy().name());
}

fn passes_the_contract(mut simulation: impl Simulation) {
    let name = simulation.proxy().name();
    let simulation = &mut simulation;
    simulation.set_running(&[OLD]);

    let (state, next) = look(simulation, &Goal::Observed(vec![endpoint(OLD, true)]));
    assert_eq!(state.routed, BTreeSet::from([OLD.to_string()]), "{name} serves the old instance");
    assert!(next.changes().is_empty(), "{name} changes nothing when its state is read");

    let shape = RolloutShape {
        tune: true,
        starting: 1,
        project: "p".into(),
        services: vec![("app".into(), vec!["app".into()])],
        ..RolloutShape::default()
    };
    let patched = Goal::Patched(shape);
    pursue(simulation, &patched);
    assert_eq!(pursue(simulation, &patched), 0, "{name} is prepared once");
    assert_eq!(simulation.serving(), BTreeSet::from([OLD]));

    let gated = Goal::Gated(rotation(endpoint(OLD, true), endpoint(NEW, false)));
    pursue(simulation, &gated);
    pursue(simulation, &gated);
    simulation.set_running(&[OLD, NEW]);
    assert_eq!(simulation.serving(), BTreeSet::from([OLD]), "{name} holds back an instance that starts");

    let forward = Goal::Rotation(rotation(endpoint(NEW, true), endpoint(OLD, true)));
    let (state, next) = look(simulation, &forward);
    assert!(state.routed.contains(OLD) && next != Next::Done, "{name} is done only when it confirms");
    pursue(simulation, &forward);
    assert_eq!(
        simulation.serving(),
        BTreeSet::from([NEW]),
        "{name} admits the new instance and drops the old one"
    );

    let back = Goal::Rotation(rotation(endpoint(OLD, true), endpoint(NEW, true)));
    pursue(simulation, &back);
    assert_eq!(simulation.serving(), BTreeSet::from([OLD]), "{name} goes back");
    pursue(simulation, &forward);

    simulation.set_running(&[NEW]);
    let handed_back = Goal::HandedBack(Discovery {
        endpoints: vec![endpoint(OLD, false), endpoint(NEW, true)],
        existing: vec![NEW.into(), OTHER.into()],
        ..Discovery::default()
    });
    pursue(simulation, &handed_back);
    pursue(simulation, &handed_back);
    simulation.set_running(&[NEW, OLD]);
    assert_eq!(simulation.serving(), BTreeSet::from([NEW, OLD]), "{name} has no mark of compose-zd any more");
}

#[test]
fn apache_passes_the_contract() {
    passes_the_contract(apache::simulation(""));
    passes_the_contract(apache::simulation("disablereuse=on"));
}

#[test]
fn haproxy_passes_the_contract() {
    passes_the_contract(haproxy::simulation());
}

#[test]
fn dockercloud_passes_the_contract() {
    passes_the_contract(dockercloud::simulation());
}

#[test]
fn nginx_proxy_passes_the_contract() {
    passes_the_contract(nginx_proxy::simulation());
}

#[test]
fn nginx_passes_the_contract() {
    passes_the_contract(nginx::simulation());
}

#[test]
fn caddy_passes_the_contract() {
    passes_the_contract(caddy::simulation());
}

#[test]
fn traefik_passes_the_contract() {
    passes_the_contract(traefik::simulation());
}

#[test]
fn a_toy_that_is_no_container_passes_the_contract() {
    passes_the_contract(toy::simulation());
}
