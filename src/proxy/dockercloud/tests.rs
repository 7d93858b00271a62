//! The adapter by equality of its commands, and by recorded answers.

use super::*;

const CONFIGURATION: &str = "\
global
  stats socket /var/run/haproxy.stats level admin
backend SERVICE_p_app
  server p-app-1 p-app-1:3000 check inter 2000 rise 2 fall 3
";

/// Printed by HAProxy 1.7.0 under dockercloud/haproxy 1.6.7, after the manager took `p-app-2` in.
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
    with("", "", CONFIGURATION)
}

fn with(environment: &str, links: &str, configuration: &str) -> Dockercloud {
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

/// Action and commands.
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
fn a_gate_is_a_manager_that_stands_still() {
    let runs = output(&RECORDED.replace("@manager T", "@manager S"));
    let proxy = dockercloud();
    assert_eq!(words(proxy.gate(&runs, &rotation())), "freeze p  p-app-2", "once it knows of no other");
    assert!(!proxy.holds(&runs, &rotation()));
    let again = words(proxy.gate(&output(RECORDED), &rotation()));
    assert_eq!(again, "freeze p  p-app-2", "for ten minutes from now on");
    assert!(proxy.holds(&output(RECORDED), &rotation()));
}

#[test]
fn a_manager_that_another_projects_rollout_has_frozen_is_neither_ours_nor_let_go() {
    let theirs = output(&RECORDED.replace("@frozen p", "@frozen q"));
    let (proxy, rotation) = (dockercloud(), rotation());
    assert!(!proxy.holds(&theirs, &rotation), "it waits for its turn");
    assert!(!proxy.read(&theirs, &rotation.all()).unwrap().config_applied);
    assert_eq!(proxy.hand_back(&theirs, &rotation.all(), &[]), HandBack::Done, "nothing of ours is left");
    let flagged = output(&theirs.stdout.replace("p-app-1 172.21.0.2 2 0", "p-app-1 172.21.0.2 2 8"));
    assert_eq!(proxy.hand_back(&flagged, &rotation.all(), &[]), HandBack::Wait);
    let without = output(&theirs.stdout.replace("p-app-2", "p-app-9"));
    assert_eq!(words(proxy.route(&without, &rotation)), "", "no reload for one that is not known");
    let nobodys = output(&RECORDED.replace("@frozen p", "@frozen "));
    assert!(proxy.holds(&nobodys, &rotation));
}

#[test]
fn the_manager_is_let_go_until_haproxy_knows_all_inside() {
    let without = RECORDED.replace("p-app-2", "p-app-9");
    let route = |state: &str| words(dockercloud().route(&output(state), &rotation()));
    assert_eq!(route(&without), "resume p");
    assert_eq!(route(&without.replace("@manager T", "@manager S")), "");
    assert_eq!(route(&RECORDED.replace("@manager T", "@manager S")), "freeze p");
}

#[test]
fn a_configuration_without_servers_is_rendered_again() {
    let head = RECORDED.split_inclusive('\n').take(2).collect::<String>();
    let route = |state: &str| words(dockercloud().route(&output(state), &rotation()));
    assert_eq!(route(&format!("{head}@manager S\n")), "render p");
    assert_eq!(route(&format!("{head}@manager T\n")), "resume p");
    let release = dockercloud().hand_back(&output(&format!("{head}@manager S\n")), &rotation().inside, &[]);
    assert!(matches!(release, HandBack::Run(exec) if words(Some(exec.clone())) == "render p"));
}

#[test]
fn those_outside_are_drained_while_the_manager_stands_still() {
    let route = |state: &str| words(dockercloud().route(&output(state), &rotation()));
    assert_eq!(route(RECORDED), "tell p set server SERVICE_p_app/p-app-1 state drain");
    let down = RECORDED.replace("p-app-2 172.21.0.5 2", "p-app-2 172.21.0.5 0");
    assert_eq!(route(&down), "");
    let back = RECORDED.replace("p-app-2 172.21.0.5 2 0", "p-app-2 172.21.0.5 2 8");
    assert_eq!(route(&back), "freeze p set server SERVICE_p_app/p-app-2 state ready");
}

#[test]
fn clients_that_are_tied_to_their_server_are_taken_off_it() {
    let sticky = CONFIGURATION.replace("  server", "  cookie SRV insert\n  server");
    let route = with("", "", &sticky).route(&output(RECORDED), &rotation());
    assert_eq!(words(route), "tell p set server SERVICE_p_app/p-app-1 state maint");
}

#[test]
fn what_a_retired_haproxy_still_answers_counts() {
    let with = |connections| {
        format!(
            "{RECORDED}@retired 2.5\n@connection 050015AC\n{}",
            "@connection 020015AC\n".repeat(connections)
        )
    };
    let read = |state: &str| dockercloud().read(&output(state), &rotation().all()).unwrap();
    assert_eq!(read(RECORDED).in_flight["1"], InFlight::Exact(3));
    assert_eq!(read(&with(3)).in_flight["1"], InFlight::Exact(3), "no more than HAProxy counts itself");
    let quiet = Duration::from_millis(2500);
    assert_eq!(read(&with(4)).in_flight["1"], InFlight::AtMost { exact: 3, open: 1, quiet });
    let late = with(0);
    assert!(read(&late).has_retired_process && !read(RECORDED).has_retired_process);
    assert!(
        read(RECORDED).config_applied && !read(&RECORDED.replace("@manager T", "@manager S")).config_applied
    );
    assert!(dockercloud().read(&output("Permission denied"), &[]).is_err());
}

#[test]
fn the_manager_is_let_go_at_the_end_and_its_reload_awaited() {
    let release = |state: &str| dockercloud().hand_back(&output(state), &rotation().all(), &[]);
    assert!(matches!(release(RECORDED), HandBack::Run(exec) if words(Some(exec.clone())) == "release p"));
    let runs = RECORDED.replace("@manager T", "@manager S");
    assert_eq!(release(&runs.replace("p-app-1 172.21.0.2 2 0", "p-app-1 172.21.0.2 2 8")), HandBack::Wait);
    assert_eq!(release(&runs), HandBack::Done);
}

#[test]
fn it_fronts_what_it_is_told_of_linked_to_or_has_a_server_for() {
    assert!(dockercloud().routes_to(&backend("app")));
    assert!(!dockercloud().routes_to(&Backend { names: vec![], ..backend("db") }));
    assert!(!dockercloud().routes_to(&Backend { networks: vec![], ..backend("app") }));
    assert!(with("ADDITIONAL_SERVICES=q:x, p:db", "", "").routes_to(&backend("db")));
    assert!(with("", "p-app-1:app", "").routes_to(&backend("app")));
}

#[test]
fn links_that_compose_v2_broke_are_told_with_the_fix() {
    let said = |proxy: Dockercloud| proxy.check(&[backend("app")]).unwrap_err().to_string();
    let broken = said(with("", "p-app-1:app", "global"));
    assert!(
        broken.contains("as Compose v2 does") && broken.contains("`ADDITIONAL_SERVICES: p:app`"),
        "{broken}"
    );
    assert!(said(with("ADDITIONAL_SERVICES=p:app", "", "global")).contains("DOCKER_MIN_API_VERSION=1.24"));
    assert_eq!(dockercloud().check(&[backend("app")]), Ok(vec![]));
}

#[test]
fn a_reload_that_kills_is_told_before() {
    let losses = with("RELOAD_TIMEOUT=-1", "", CONFIGURATION).check(&[backend("app")]).unwrap();
    assert!(losses[0].fix.contains("remove it"), "{losses:?}");
}

#[test]
fn it_is_recognised_by_the_names_of_its_image_or_by_its_process() {
    assert!(
        is_image("dockercloud/haproxy:1.6.7")
            && is_image("tutum/haproxy")
            && is_image("r.example:5000/dockercloud/haproxy")
    );
    assert!(!is_image("haproxy:3.2") && !is_image("haproxytech/haproxy-debian"));
    let ours: Container =
        serde_json::from_str(r#"{"Path": "/sbin/tini", "Args": ["--", "dockercloud-haproxy"]}"#).unwrap();
    assert!(detect(&ours).is_some());
}

#[test]
fn its_network_is_set_while_the_manager_stands_still() {
    let prepare = |said: &str, tune| {
        let shape = RolloutShape {
            project: "p".into(),
            tune,
            starting: 1,
            services: vec![],
            ..RolloutShape::default()
        };
        dockercloud().prepare(&[output(said)], &shape).unwrap()
    };
    let [freeze, kept, resume] = &prepare("0", true)[..] else { panic!("three steps") };
    assert_eq!(
        [words(Some(freeze.exec.clone())), words(Some(resume.exec.clone()))],
        ["freeze p", "release p"]
    );
    assert!(kept.exec.sidecar_image.is_some() && !kept.required);
    assert!(prepare("1", true).is_empty() && prepare("0", false).is_empty());
}

#[test]
fn a_retired_haproxy_of_no_age_that_there_is_has_just_retired() {
    for age in ["inf", "-1.0", "1e400", "NaN"] {
        let answer = DockercloudState::parse(&format!("{RECORDED}@retired {age}\n")).unwrap();
        assert_eq!(answer.retired, Some(Duration::ZERO), "{age}");
    }
}

#[test]
fn an_ipv6_connection_is_not_taken_for_one_to_the_ipv4_address_that_it_ends_with() {
    let text = format!("{RECORDED}@retired 1.0\n@connection 00006400000000009BFF0000050015AC\n");
    let other = endpoint(9, "172.21.0.5");
    assert_eq!(DockercloudState::parse(&text).unwrap().in_flight(&other), InFlight::Exact(0));
}

#[test]
fn clients_come_in_by_its_virtual_hosts_or_by_any_name() {
    let said = |environment: &str| {
        let ways = dockercloud().entrances(&container(environment, "")).into_iter();
        let name = |e: &PublicRoute| e.host.clone().unwrap_or("*".into());
        ways.map(|e| format!("{} {} {}{}", e.port, e.tls, name(&e), e.path)).collect::<Vec<_>>()
    };
    assert_eq!(said(""), ["80 false */"]);
    assert_eq!(
        said("VIRTUAL_HOST=https://a.b/shop/*, *:8080/, *.c"),
        ["443 true a.b/shop/", "8080 false */"]
    );
}
