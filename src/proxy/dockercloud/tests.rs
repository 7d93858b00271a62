//! Tests of the adapter: its commands by equality, its parser by recorded output.

use super::*;
use crate::docker::inspect::{BRIDGE, RELAY};

const CONFIGURATION: &str = "\
global
  stats socket /var/run/haproxy.stats level admin
backend SERVICE_p_app
  server p-app-1 p-app-1:3000 check inter 2000 rise 2 fall 3
";

/// Output of HAProxy 1.7.0 under dockercloud/haproxy 1.6.7, after the manager added `p-app-2`.
const RECORDED: &str = "\
1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state bk_f_forced_id srv_f_forced_id
4 SERVICE_p_app 1 p-app-1 172.21.0.2 2 0 1 1 2 6 3 4 6 0 0 0
4 SERVICE_p_app 2 p-app-2 172.21.0.5 2 0 1 1 2 6 3 4 6 0 0 0

# pxname,svname,qcur,qmax,scur,smax
SERVICE_p_app,p-app-1,1,1,2,8
SERVICE_p_app,p-app-2,0,0,0,1

@manager T
@frozen p
";

fn container(environment: &str, links: &str) -> Container {
    let json = format!(
        r#"{{"Id": "lb", "Name": "/p-lb-1", "Config": {{"Env": ["{environment}"]}},
            "NetworkSettings": {{"Networks": {{"front": {{"Links": ["{links}"]}}}}}}}}"#
    );
    serde_json::from_str(&json).unwrap()
}

fn dockercloud() -> Dockercloud {
    dockercloud_with("", "", CONFIGURATION)
}

fn dockercloud_with(environment: &str, links: &str, configuration: &str) -> Dockercloud {
    let mut dockercloud = Dockercloud::new(&container(environment, links));
    dockercloud.learn(&output(configuration));
    dockercloud
}

fn output(stdout: &str) -> CommandResult {
    CommandResult { code: Some(0), stdout: stdout.into(), stderr: String::new() }
}

fn endpoint(number: u32, address: &str) -> Endpoint {
    let addresses = address.parse().into_iter().collect();
    let labels = [(PROJECT.to_string(), "p".to_string())].into();
    Endpoint {
        id: number.to_string(),
        name: format!("p-app-{number}"),
        addresses,
        labels,
        ..Endpoint::default()
    }
}

fn rotation() -> Rotation {
    Rotation {
        inside: vec![endpoint(2, "172.21.0.5")],
        outside: vec![endpoint(1, "172.21.0.2")],
        ..Rotation::default()
    }
}

/// Arguments of the script: action, project and commands.
fn words(exec: Option<Exec>) -> String {
    exec.map(|e| e.argv[3..].join(" ")).unwrap_or_default().trim().into()
}

fn backend(service: &str) -> Backend {
    let (names, networks) = (vec![service.into(), "p-app-1".into()], vec!["front".into()]);
    Backend {
        project: "p".into(),
        service: service.into(),
        names,
        networks,
        is_running: true,
        ..Backend::default()
    }
}

#[test]
fn gating_freezes_the_manager() {
    let running = output(&RECORDED.replace("@manager T", "@manager S"));
    let proxy = dockercloud();
    let freeze = || proxy.freeze("p", &rotation().inside);
    assert_eq!(words(Some(freeze())), "freeze p  p-app-2", "once it has no other server");
    assert_eq!(proxy.gate(&running, &rotation()), Next::run(freeze()));
    assert_eq!(proxy.gate(&output(RECORDED), &rotation()), Next::finish(freeze()), "for another ten minutes");
}

#[test]
fn a_manager_frozen_by_another_project_is_neither_used_nor_resumed() {
    let frozen_by_other = output(&RECORDED.replace("@frozen p", "@frozen q"));
    let (proxy, rotation) = (dockercloud(), rotation());
    let freeze = || proxy.freeze("p", &rotation.inside);
    assert_eq!(
        proxy.gate(&frozen_by_other, &rotation),
        Next::run(freeze()),
        "it waits for the other project"
    );
    assert!(!proxy.read(std::slice::from_ref(&frozen_by_other), &rotation.all()).unwrap().config_applied);
    assert_eq!(
        proxy.hand_back(&frozen_by_other, &rotation.all()),
        Next::Done,
        "nothing is left to hand back"
    );
    let flagged = output(&frozen_by_other.stdout.replace("p-app-1 172.21.0.2 2 0", "p-app-1 172.21.0.2 2 8"));
    assert_eq!(proxy.hand_back(&flagged, &rotation.all()), Next::Wait);
    let without = output(&frozen_by_other.stdout.replace("p-app-2", "p-app-9"));
    assert_eq!(words(proxy.route(&without, &rotation)), "", "no reload for an unknown instance");
    let unowned = output(&RECORDED.replace("@frozen p", "@frozen "));
    assert_eq!(proxy.gate(&unowned, &rotation), Next::finish(freeze()));
}

#[test]
fn the_manager_is_resumed_until_haproxy_has_all_instances_inside() {
    let without = RECORDED.replace("p-app-2", "p-app-9");
    let route = |state: &str| words(dockercloud().route(&output(state), &rotation()));
    assert_eq!(route(&without), "resume p");
    assert_eq!(route(&without.replace("@manager T", "@manager S")), "");
    assert_eq!(route(&RECORDED.replace("@manager T", "@manager S")), "freeze p");
}

#[test]
fn a_relay_is_not_checked_while_requests_wait_in_it() {
    let mut rotation = rotation();
    rotation.inside[0].labels.insert(BRIDGE.into(), RELAY.into());
    let ends_check = "freeze p disable health SERVICE_p_app/p-app-2";
    assert_eq!(words(dockercloud().route(&output(RECORDED), &rotation)), ends_check);
    let unchecked =
        RECORDED.replace("p-app-2 172.21.0.5 2 0 1 1 2 6 3 4 6", "p-app-2 172.21.0.5 2 0 1 1 2 6 3 4 2");
    let drains = "send p set server SERVICE_p_app/p-app-1 state drain";
    assert_eq!(words(dockercloud().route(&output(&unchecked), &rotation)), drains);
}

#[test]
fn a_configuration_without_servers_is_rendered_again() {
    let head = RECORDED.split_inclusive('\n').take(2).collect::<String>();
    let route = |state: &str| words(dockercloud().route(&output(state), &rotation()));
    assert_eq!(route(&format!("{head}@manager S\n")), "render p");
    assert_eq!(route(&format!("{head}@manager T\n")), "resume p");
    let step = dockercloud().hand_back(&output(&format!("{head}@manager S\n")), &rotation().inside);
    assert!(words(step.changes()[0].exec().cloned()) == "render p");
}

#[test]
fn instances_outside_are_drained_while_the_manager_is_frozen() {
    let route = |state: &str| words(dockercloud().route(&output(state), &rotation()));
    assert_eq!(route(RECORDED), "send p set server SERVICE_p_app/p-app-1 state drain");
    let down = RECORDED.replace("p-app-2 172.21.0.5 2", "p-app-2 172.21.0.5 0");
    assert_eq!(route(&down), "");
    let back = RECORDED.replace("p-app-2 172.21.0.5 2 0", "p-app-2 172.21.0.5 2 8");
    assert_eq!(route(&back), "freeze p set server SERVICE_p_app/p-app-2 state ready");
}

#[test]
fn a_server_with_sticky_clients_is_put_into_maintenance() {
    let sticky = CONFIGURATION.replace("  server", "  cookie SRV insert\n  server");
    let route = dockercloud_with("", "", &sticky).route(&output(RECORDED), &rotation());
    assert_eq!(words(route), "send p set server SERVICE_p_app/p-app-1 state maint");
}

#[test]
fn requests_of_a_retired_haproxy_count() {
    let read = |state: &str, connections: &str| {
        dockercloud().read(&[output(state), output(connections)], &rotation().all()).unwrap()
    };
    let connections = "10.0.0.9:5 172.21.0.2:80\n10.0.0.9:6 172.21.0.5:80\n10.0.0.9:7 172.21.0.2:80\n";
    assert_eq!(read(RECORDED, connections).in_flight["1"], InFlight::Exact(3));
    let retired = read(&format!("{RECORDED}@retired 2.5\n"), connections);
    let InFlight::Connections { exact: 3, open, quiet, has_streams: false } = &retired.in_flight["1"] else {
        panic!("{retired:?}")
    };
    assert_eq!((open.len(), *quiet), (2, Duration::from_millis(2500)));
    assert!(retired.has_retired_process && !read(RECORDED, "").has_retired_process);
    let resumed = RECORDED.replace("@manager T", "@manager S");
    assert!(read(RECORDED, "").config_applied && !read(&resumed, "").config_applied);
    assert!(dockercloud().read(&[output("Permission denied")], &[]).is_err());
}

#[test]
fn the_manager_is_resumed_at_the_end_and_its_reload_awaited() {
    let hand_back = |state: &str| dockercloud().hand_back(&output(state), &rotation().all());
    assert!(words(hand_back(RECORDED).changes()[0].exec().cloned()) == "release p");
    let running = RECORDED.replace("@manager T", "@manager S");
    assert_eq!(hand_back(&running.replace("p-app-1 172.21.0.2 2 0", "p-app-1 172.21.0.2 2 8")), Next::Wait);
    assert_eq!(hand_back(&running), Next::Done);
}

#[test]
fn it_routes_to_named_linked_and_configured_services() {
    assert!(dockercloud().routes_to(&backend("app")));
    assert!(!dockercloud().routes_to(&Backend { names: vec![], ..backend("db") }));
    assert!(!dockercloud().routes_to(&Backend { networks: vec![], ..backend("app") }));
    assert!(dockercloud_with("ADDITIONAL_SERVICES=q:x, p:db", "", "").routes_to(&backend("db")));
    assert!(dockercloud_with("", "p-app-1:app", "").routes_to(&backend("app")));
}

#[test]
fn links_that_compose_v2_broke_are_refused_with_the_fix() {
    let refusal = |proxy: Dockercloud| proxy.check(&[backend("app")]).unwrap_err().to_string();
    let broken = refusal(dockercloud_with("", "p-app-1:app", "global"));
    assert!(
        broken.contains("as Compose v2 does") && broken.contains("`ADDITIONAL_SERVICES: p:app`"),
        "{broken}"
    );
    assert!(
        refusal(dockercloud_with("ADDITIONAL_SERVICES=p:app", "", "global"))
            .contains("DOCKER_MIN_API_VERSION=1.24")
    );
    assert_eq!(dockercloud().check(&[backend("app")]), Ok(vec![]));
}

#[test]
fn a_reload_that_cuts_requests_is_a_risk() {
    let risks = dockercloud_with("RELOAD_TIMEOUT=-1", "", CONFIGURATION).check(&[backend("app")]).unwrap();
    assert!(risks[0].hint.contains("remove it"), "{risks:?}");
}

#[test]
fn it_is_recognised_by_image_or_process() {
    assert!(
        is_image("dockercloud/haproxy:1.6.7")
            && is_image("tutum/haproxy")
            && is_image("r.example:5000/dockercloud/haproxy")
    );
    assert!(!is_image("haproxy:3.2") && !is_image("haproxytech/haproxy-debian"));
    let with_process: Container =
        serde_json::from_str(r#"{"Path": "/sbin/tini", "Args": ["--", "dockercloud-haproxy"]}"#).unwrap();
    assert!(detect(&with_process).is_some());
}

#[test]
fn the_kernel_setting_changes_while_the_manager_is_frozen() {
    let prepare = |setting: &str, tune| {
        let shape = RolloutShape {
            project: "p".into(),
            tune,
            starting: 1,
            services: vec![],
            ..RolloutShape::default()
        };
        dockercloud().prepare(&[output(setting)], &shape).unwrap()
    };
    let [freeze, patch, resume] = &prepare("0", true)[..] else { panic!("three steps") };
    assert_eq!([words(freeze.exec().cloned()), words(resume.exec().cloned())], ["freeze p", "release p"]);
    assert!(patch.exec().unwrap().sidecar_image.is_some() && !patch.required);
    assert!(prepare("1", true).is_empty() && prepare("0", false).is_empty());
}

#[test]
fn a_retired_haproxy_of_an_impossible_age_has_just_retired() {
    for age in ["inf", "-1.0", "1e400", "NaN"] {
        let state = DockercloudState::parse(&format!("{RECORDED}@retired {age}\n")).unwrap();
        assert_eq!(state.retired_for, Some(Duration::ZERO), "{age}");
    }
}

#[test]
fn an_answer_is_awaited_as_long_as_the_generated_configuration_says() {
    let limit = |configuration: &str| {
        let proxy = dockercloud_with("", "", configuration);
        proxy.route_to(&Backend::from(&container("", ""))).answer_timeout
    };
    let backend = "backend default_service\n  server p-app-1 172.21.0.3:3000\n";
    assert_eq!(limit(backend), None);
    assert_eq!(limit(&format!("defaults\n  timeout server 50000\n{backend}")), Some(Duration::from_secs(50)));
}

#[test]
fn public_routes_have_the_virtual_hosts_or_any_host() {
    let routes = |environment: &str| {
        let routes = dockercloud().route_to(&Backend::from(&container(environment, ""))).public.into_iter();
        let name = |e: &PublicRoute| e.host.clone().unwrap_or("*".into());
        routes.map(|e| format!("{} {} {}{}", e.port, e.tls, name(&e), e.path)).collect::<Vec<_>>()
    };
    assert_eq!(routes(""), ["80 false */"]);
    assert_eq!(
        routes("VIRTUAL_HOST=https://a.b/shop/*, *:8080/, *.c"),
        ["443 true a.b/shop/", "8080 false */"]
    );
}
