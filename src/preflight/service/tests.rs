use super::*;
use crate::model::{FlagLayers, Project};

fn service(keys: &str) -> Service {
    let yaml = format!("name: p\nservices: {{app: {{image: 'shop:1', restart: always, {keys}}}}}");
    let mut project = Project::read(&yaml, "compose.yaml", &FlagLayers::default()).unwrap();
    project.services.remove("app").unwrap()
}

fn context(service: &Service, presence: ProxyPresence) -> ServiceContext<'_> {
    ServiceContext {
        hold: HoldState::Unneeded,
        answer_timeout: None,
        service,
        image: None,
        proxy: presence,
        requests_route: false,
        has_clients: false,
        listens: false,
        has_engine: true,
        instances: 1,
        signals: None,
        state_in_image: None,
    }
}

/// Broken rules, losses with a leading `!`.
fn rules(found: &[Finding]) -> String {
    let rule = |f: &Finding| format!("{}{}", if f.is_loss() { "!" } else { "" }, f.rule);
    found.iter().map(rule).collect::<Vec<_>>().join(" ")
}

fn broken_rules(keys: &str, presence: ProxyPresence) -> String {
    rules(&findings(&context(&service(keys), presence)))
}

const PRESENCES: [ProxyPresence; 2] = [ProxyPresence::NoProxy, ProxyPresence::Drains];

#[test]
fn a_service_without_problems_has_no_finding() {
    for presence in PRESENCES {
        assert_eq!(broken_rules("", presence), "", "{presence:?}");
    }
}

#[test]
fn a_restart_policy_is_from_restart_or_deploy() {
    let of = |keys: &str| {
        let yaml = format!("name: p\nservices: {{app: {{image: 'a:1', {keys}}}}}");
        let project = Project::read(&yaml, "f", &FlagLayers::default()).unwrap();
        rules(&findings(&context(&project.services["app"], ProxyPresence::Drains)))
    };
    assert_eq!([of(""), of("restart: 'no'")], ["no-restart-policy"; 2]);
    for policy in
        ["restart: unless-stopped", "restart: 'on-failure:3'", "deploy: {restart_policy: {condition: any}}"]
    {
        assert_eq!(of(policy), "", "{policy}");
    }
    assert_eq!(of("deploy: {restart_policy: {condition: none}}"), "no-restart-policy");
}

#[test]
fn an_image_that_moves_has_neither_a_version_nor_a_digest() {
    let of = |image: &str, build: &str| {
        let yaml = format!("name: p\nservices: {{app: {{restart: always, image: '{image}', {build}}}}}");
        let project = Project::read(&yaml, "f", &FlagLayers::default()).unwrap();
        rules(&findings(&context(&project.services["app"], ProxyPresence::Drains)))
    };
    for moving in ["shop", "shop:latest", "r.test:5000/shop", "shop:stable", "shop:main"] {
        assert_eq!(of(moving, ""), "moving-image", "{moving}");
        assert_eq!(of(moving, "build: {context: /x}"), "", "{moving} is built here");
    }
    for fixed in ["shop:1", "r.test:5000/shop:v2", "shop:latest@sha256:00", "shop:20-alpine"] {
        assert_eq!(of(fixed, ""), "", "{fixed}");
    }
}

/// The masks of a running process count; without one, the command line.
#[test]
fn a_first_process_without_a_signal_handler_is_found() {
    let shell = "command: [sh, -c, node app.js]";
    for (presence, by_process) in
        [(ProxyPresence::NoProxy, "!ignores-stop-signal"), (ProxyPresence::Drains, "ignores-stop-signal")]
    {
        let with = |keys: &str, caught: &str| {
            let service = service(keys);
            let status = format!("NSpid:\t7\t1\nSigBlk: 0\nSigIgn: 0\nSigCgt: {caught}\n");
            let signals = SignalMasks::of_first_process(&status).map(|s| ("app-1".to_string(), s));
            rules(&findings(&ServiceContext { signals, ..context(&service, presence) }))
        };
        assert_eq!(with("", "0"), by_process);
        assert_eq!((with("", "4000").as_str(), with(shell, "4000").as_str()), ("", ""));
        assert_eq!(with("stop_signal: SIGQUIT", "4000"), by_process);
        assert_eq!(
            (with("stop_signal: SIGQUIT", "4").as_str(), with("stop_signal: SIGKILL", "0").as_str()),
            ("", "")
        );
        assert_eq!(broken_rules(shell, presence), "ignores-stop-signal");
        assert_eq!(broken_rules(&format!("{shell}, init: true"), presence), "");
        assert_eq!(with("init: true", "0"), "");
    }
}

#[test]
fn the_command_and_the_stop_signal_of_the_image_count() {
    let of = |keys: &str, config: &str| {
        let service = service(keys);
        let image: Image = serde_json::from_str(&format!(r#"{{"Config": {config}}}"#)).unwrap();
        findings(&ServiceContext { image: Some(&image), ..context(&service, ProxyPresence::Drains) })
    };
    let shell = r#"{"Cmd": ["/bin/sh", "-c", "node x"], "StopSignal": "SIGQUIT"}"#;
    assert!(of("", shell)[0].message.contains("does not pass SIGQUIT to the command"));
    assert_eq!(rules(&of("command: [node, x]", shell)), "");
    assert_eq!(rules(&of("", r#"{"Entrypoint": ["tini", "--"], "Cmd": ["sh", "-c", "node x"]}"#)), "");
}

#[test]
fn the_grace_period_must_cover_the_drain_timeout_and_the_shutdown_of_the_app() {
    let grace = |keys: &str| PRESENCES.map(|presence| broken_rules(keys, presence));
    let short = ["!short-grace", "short-grace"];
    assert_eq!(grace("x-zd: {drain: {timeout: 60s}}, stop_grace_period: 59s"), short);
    assert_eq!(grace("x-zd: {drain: {timeout: 60s}}, stop_grace_period: 60s"), [""; 2]);
    assert_eq!(grace("x-zd: {drain: {timeout: 60s}}"), short, "10s is the default of Docker");
    assert_eq!(grace("stop_grace_period: 1s"), [""; 2], "no known shutdown timeout");
    for words in [
        "[gunicorn, --graceful-timeout, '60', a]",
        "[gunicorn, --graceful-timeout=60]",
        "[sh, s, 'uvicorn --shutdown-timeout 1m a']",
    ] {
        assert_eq!(grace(&format!("stop_grace_period: 30s, command: {words}")), short, "{words}");
        assert_eq!(grace(&format!("stop_grace_period: 60s, command: {words}")), [""; 2], "{words}");
    }
    let hint =
        findings(&context(&service("x-zd: {drain: {timeout: 1m}}"), ProxyPresence::Drains))[0].hint.clone();
    assert_eq!(hint, "set `services.app.stop_grace_period: 65s`");
}

/// Every update order behind every kind of proxy.
#[test]
fn two_generations_share_a_volume_if_they_run_at_the_same_time() {
    let volume = "volumes: [{type: volume, source: data, target: /data}]";
    let database = "volumes: [{type: bind, source: /x, target: /var/lib/mysql}]";
    let orders =
        ["", "deploy: {update_config: {order: start-first}}", "deploy: {update_config: {order: stop-first}}"];
    for presence in PRESENCES {
        for (n, order) in orders.iter().enumerate() {
            let at_the_same_time = if presence == ProxyPresence::NoProxy { n == 1 } else { n != 2 };
            let (files, data) = if at_the_same_time { ("shared-volume", "!shared-volume") } else { ("", "") };
            assert_eq!(broken_rules(&format!("{volume}, {order}"), presence), files, "{presence:?} {order}");
            assert_eq!(broken_rules(&format!("{database}, {order}"), presence), data, "{presence:?} {order}");
        }
        for none in [
            "{type: volume, source: data, target: /data, read_only: true}",
            "{type: volume, target: /cache}",
            "{type: tmpfs, target: /t}",
            "{type: bind, source: /run/docker.sock, target: /d}",
        ] {
            assert_eq!(broken_rules(&format!("volumes: [{none}]"), presence), "", "{none}");
        }
    }
}

#[test]
fn a_volume_that_several_instances_share_already_is_no_finding() {
    let with = |keys: &str| {
        let service = service(&format!("volumes: [{{type: volume, source: d, target: /data}}], {keys}"));
        rules(&findings(&ServiceContext { instances: 2, ..context(&service, ProxyPresence::Drains) }))
    };
    assert_eq!(with(""), "");
    assert_eq!(with("environment: {DATABASE_URL: 'sqlite:////data/app.db'}"), "!shared-volume");
}

#[test]
fn a_stop_first_service_with_clients_is_a_loss() {
    let volume = "volumes: [{type: volume, target: /data}]";
    for (presence, has_clients, expected) in [
        (ProxyPresence::NoProxy, true, "!stops-first"),
        (ProxyPresence::NoProxy, false, ""),
        (ProxyPresence::Drains, true, ""),
    ] {
        let service = service(volume);
        let found = findings(&ServiceContext { has_clients, ..context(&service, presence) });
        assert_eq!(rules(&found), expected, "{presence:?} {has_clients}");
    }
}

#[test]
fn a_service_with_requests_and_without_a_proxy_is_found_unless_it_has_an_obstacle() {
    for (requests_route, listens, has_clients) in (0..8).map(|n| (n & 1 > 0, n & 2 > 0, n & 4 > 0)) {
        let with = |keys: &str, presence, has_engine| {
            let service = service(keys);
            let context = ServiceContext {
                requests_route,
                listens,
                has_clients,
                has_engine,
                ..context(&service, presence)
            };
            rules(&findings(&context))
        };
        let expected =
            if requests_route || listens || has_clients { ["!no-proxy", "no-proxy"] } else { ["", ""] };
        assert_eq!(
            [with("", ProxyPresence::NoProxy, true), with("", ProxyPresence::NoProxy, false)],
            expected
        );
        for obstacle in ["ports: [{target: 80, published: '8080'}]", "network_mode: host"] {
            assert_eq!(with(obstacle, ProxyPresence::NoProxy, true), "");
        }
        assert_eq!(with("", ProxyPresence::Drains, true), "");
    }
}

#[test]
fn a_state_folder_in_the_build_context_is_found() {
    let service = service("");
    let found = findings(&ServiceContext {
        state_in_image: Some("/p/.compose-zd".into()),
        ..context(&service, ProxyPresence::Drains)
    });
    assert_eq!(rules(&found), "state-in-build-context");
}

#[test]
fn requests_that_wait_leave_no_two_writers_and_a_hold_that_cannot_be_is_a_note() {
    let service = service("volumes: [{type: volume, source: d, target: /data}]");
    let with = |hold| rules(&findings(&ServiceContext { hold, ..context(&service, ProxyPresence::Drains) }));
    assert_eq!(with(HoldState::Waits), "");
    assert_eq!(with(HoldState::Impossible), "shared-volume no-hold");
}

#[test]
fn a_proxy_that_gives_up_before_a_hold_is_over_is_a_note() {
    let service = service("x-zd: {hold: 20s}, deploy: {update_config: {order: stop-first}}");
    let with = |hold, limit| {
        let answer_timeout = Some(("haproxy `lb`".to_string(), Duration::from_secs(limit)));
        let context = ServiceContext { hold, answer_timeout, ..context(&service, ProxyPresence::Drains) };
        findings(&context).iter().map(|f| f.message.clone()).collect::<String>()
    };
    let expected = "requests of `app` may wait up to 40s while its only instance is replaced, and haproxy `lb` gives up on \
                    an answer after 39s";
    assert_eq!(with(HoldState::Waits, 39), expected);
    assert_eq!([with(HoldState::Waits, 40), with(HoldState::Unneeded, 1)], ["", ""]);
}
