//! Choice of a probe, evaluation of its response, and the moment an instance is ready.

use super::probe::*;
use super::prober::*;
use super::*;
use crate::model::{HttpHealth, StatusRanges};

fn container(json: &str) -> Container {
    serde_json::from_str(json).unwrap()
}

fn health(body: Option<&str>) -> HttpHealth {
    HttpHealth {
        path: "/up".into(),
        body: body.map(String::from),
        expect: StatusRanges::parse("200-399").unwrap(),
        ..default_health()
    }
}

const CHECKED: &str =
    r#"{"Config": {"Healthcheck": {"Test": ["CMD", "ok"]}, "ExposedPorts": {"80/tcp": {}}}}"#;
const FRONT: ProbeTarget = ProbeTarget {
    routed: true,
    port: Some(3000),
    host: None,
    container: None,
    not_http: false,
    is_other_program: false,
};
const PLAIN: &str = r#"{"Config": {"ExposedPorts": {"80/tcp": {}}}}"#;

#[test]
fn an_instance_without_http_is_ready_once_it_accepts_a_connection() {
    let target = ProbeTarget { routed: true, port: Some(9000), not_http: true, ..ProbeTarget::default() };
    let probe = |json: &str| choose_probe("fpm", None, &container(json), target);
    assert_eq!(probe("{}"), Ok(ReadinessProbe::Connect(9000)));
    let checked = r#"{"Config": {"Healthcheck": {"Test": ["CMD", "check"]}}}"#;
    assert!(matches!(probe(checked), Ok(ReadinessProbe::Healthcheck(_))));
}

#[test]
fn the_configured_probe_goes_before_the_healthcheck_and_that_before_the_proxys_port() {
    let probe = |configured: Option<&HttpHealth>, json| {
        choose_probe("app", configured, &container(json), FRONT).unwrap()
    };
    assert_eq!(probe(Some(&health(None)), CHECKED).to_string(), "GET /up at port 3000");
    assert_eq!(probe(None, CHECKED).to_string(), "its healthcheck");
    assert_eq!(probe(None, PLAIN).to_string(), "GET / at port 3000");
}

#[test]
fn an_instance_of_another_version_may_pass_the_check_that_it_has_without_that_of_the_file() {
    let probe = |configured: Option<&HttpHealth>, json, target| {
        choose_probe_of_other_version("app", configured, &container(json), target).unwrap().to_string()
    };
    let (file, worker) = (health(None), ProbeTarget::default());
    assert_eq!(probe(Some(&file), PLAIN, FRONT), "GET /up at port 3000, or GET / at port 3000");
    assert_eq!(probe(Some(&file), CHECKED, FRONT), "GET /up at port 3000, or its healthcheck");
    assert_eq!(probe(None, PLAIN, FRONT), "GET / at port 3000");
    let other_port = HttpHealth { port: Some(9), ..health(None) };
    assert_eq!(
        probe(Some(&other_port), "{}", worker),
        "GET /up at port 9",
        "no weaker check than the file's"
    );
}

#[test]
fn an_error_of_the_server_shows_that_the_check_of_the_file_is_known() {
    let known = |code: Option<i32>, ready| {
        let result = ProbeResult { ready, code, text: String::new() };
        result.is_of_known_check()
    };
    assert!(known(Some(200), true) && known(Some(503), false));
    assert!(!known(Some(404), false) && !known(None, false), "an unknown path or port");
}

#[test]
fn a_service_without_a_port_gets_a_hint_what_to_set() {
    let routed = ProbeTarget { port: None, ..FRONT };
    let error = choose_probe("app", Some(&health(None)), &container("{}"), routed).unwrap_err();
    assert!(error.to_string().contains("services.app.x-zd.health.port"), "{error}");
    assert!(choose_probe("app", None, &container("{}"), routed).is_err());
    assert!(choose_probe("app", None, &container(PLAIN), routed).is_ok());
    assert_eq!(
        choose_probe("worker", None, &container("{}"), ProbeTarget::default()),
        Ok(ReadinessProbe::Running)
    );
}

#[test]
fn a_worker_with_the_image_of_the_app_only_has_to_run() {
    let worker = ProbeTarget { is_other_program: true, ..ProbeTarget::default() };
    let probe = |target: ProbeTarget, json: &str| choose_probe("worker", None, &container(json), target);
    assert_eq!(probe(worker, PLAIN), Ok(ReadinessProbe::Running), "port 80 is one of the app");
    assert!(matches!(probe(worker, CHECKED), Ok(ReadinessProbe::Healthcheck(_))));
    assert!(matches!(probe(ProbeTarget::default(), PLAIN), Ok(ReadinessProbe::Http(_))));
    let routed = ProbeTarget { routed: true, ..worker };
    assert!(
        matches!(probe(routed, PLAIN), Ok(ReadinessProbe::Http(_))),
        "the app itself has another command"
    );
    let configured = choose_probe("worker", Some(&health(None)), &container(PLAIN), worker);
    assert!(matches!(configured, Ok(ReadinessProbe::Http(_))));
    let of = |keys: &str| {
        let yaml = format!("name: p\nservices: {{worker: {{image: app, {keys}}}}}");
        let flags = crate::model::FlagLayers::default();
        let project = crate::model::Project::read(&yaml, "compose.yaml", &flags).unwrap();
        project.services["worker"].is_other_program()
    };
    assert!(of("command: [celery, worker]") && of("entrypoint: [run]"));
    assert!(!of("") && !of("command: []") && !of("command: [api], expose: ['80']"));
}

#[test]
fn a_response_is_evaluated_by_code_and_body() {
    let evaluate = |body, code, text: &str| {
        let http = HttpProbe { health: health(body), port: 80, proxy: None };
        http.evaluate("u", code, text)
    };
    assert!(evaluate(None, 204, "").ready);
    assert_eq!(evaluate(None, 503, "").text, "GET u → 503, expected 200-399");
    assert!(evaluate(Some("ok"), 200, "it is ok").ready);
    assert_eq!(evaluate(Some("ok"), 200, "no").text, "GET u → 200 without `ok`");
}

#[test]
fn an_instance_that_ended_is_not_waited_for() {
    let http = ReadinessProbe::Http(HttpProbe { health: health(None), port: 80, proxy: None });
    let check = ReadinessProbe::Healthcheck(vec![]);
    let reason = |json: &str, probe: &ReadinessProbe| {
        instance_end(&container(json), probe).map(|e| e.explain(Some(3)))
    };
    assert_eq!(reason(r#"{"State": {"Status": "running"}}"#, &http), None);
    let exited = r#"{"State": {"Status": "exited", "ExitCode": 137, "OOMKilled": true}}"#;
    assert_eq!(reason(exited, &http).unwrap(), "it exited with code 137, out of memory");
    let restarted = r#"{"RestartCount": 1, "State": {"Status": "running", "ExitCode": 0}}"#;
    assert_eq!(reason(restarted, &http).unwrap(), "it exited with code 3 and was restarted");
    let unhealthy = r#"{"State": {"Status": "running", "Health": {"Status": "unhealthy"}}}"#;
    assert_eq!(reason(unhealthy, &http), None);
    assert!(reason(unhealthy, &check).is_some());
}

#[test]
fn an_address_is_probed_from_this_machine_only_if_its_bridge_is_here() {
    assert!(is_local_bridge(Some("lo")) && is_local_bridge(None));
    assert!(!is_local_bridge(Some("br-000000000000")));
    let json = r#"{"NetworkSettings": {"Networks": {
        "a": {"NetworkID": "0123456789abcdef", "IPAddress": "172.19.0.5"}, "b": {"IPAddress": "10.0.0.2"}}}}"#;
    let parsed = container(json);
    let bridges: Vec<_> =
        parsed.addresses_with_bridge().map(|(bridge, address)| (bridge, address.to_string())).collect();
    assert_eq!(bridges, [(Some("br-0123456789ab".into()), "172.19.0.5".into()), (None, "10.0.0.2".into())]);
}

#[test]
fn the_origin_that_worked_last_goes_first() {
    assert_eq!(origins(true, None), [ProbeOrigin::Host, ProbeOrigin::Instance, ProbeOrigin::Proxy]);
    assert_eq!(origins(false, None), [ProbeOrigin::Instance, ProbeOrigin::Proxy, ProbeOrigin::Host]);
    assert_eq!(
        origins(false, Some(ProbeOrigin::Proxy)),
        [ProbeOrigin::Proxy, ProbeOrigin::Instance, ProbeOrigin::Host]
    );
}

#[test]
fn an_instance_that_nothing_can_probe_is_reported_with_the_reasons_and_the_fix() {
    let candidate = Candidate { name: "app-1".into(), id: "1".into(), probe: ReadinessProbe::Running };
    let error = no_tool_error(&candidate, &["there is neither curl".into(), "no proxy".into()]);
    assert_eq!(error.details, ["there is neither curl", "no proxy"]);
    assert!(error.hint.unwrap().contains("`healthcheck`"));
}

/// An answer of a probe such as `GET u → 503`.
fn answer(text: &str) -> ProbeResult {
    let code = text.split_once("→ ").and_then(|(_, rest)| rest.get(..3)?.parse().ok());
    ProbeResult { ready: code == Some(200), code, text: text.into() }
}

/// The answers that are reported, among answers at these times in milliseconds.
fn reported<'t>(answers: &[(u64, &'t str)]) -> Vec<&'t str> {
    let candidate = Candidate { name: "app-1".into(), id: "1".into(), probe: ReadinessProbe::Running };
    let (mut progress, start) = (ReadinessProgress::new(&candidate), Instant::now());
    let mut is_reported =
        |ms: u64, text: &str| progress.record(answer(text), start + Duration::from_millis(ms));
    answers.iter().filter(|(ms, text)| is_reported(*ms, text)).map(|(_, text)| *text).collect()
}

#[test]
fn a_bad_answer_is_reported_when_it_changes_and_every_ten_seconds() {
    let (refused, bad, good) = ("GET u → connection refused", "GET u → 503", "GET u → 200");
    assert_eq!(reported(&[(0, refused), (900, refused), (950, good)]), [""; 0]);
    let all = [(0, refused), (1100, refused), (3000, bad), (9000, bad), (12_900, bad), (13_100, bad)];
    assert_eq!(reported(&all), [refused, bad, bad]);
    let flapping = [(1100, refused), (1300, bad), (1500, refused), (1700, bad), (2200, bad)];
    assert_eq!(reported(&flapping), [refused, bad]);
}

#[test]
fn answers_that_differ_only_in_numbers_are_the_same() {
    let curl = |ms| format!("healthcheck → curl: (7) Failed to connect after {ms} ms");
    assert!(answer(&curl(3)).is_like(&answer(&curl(12))));
    assert!(!answer("GET u → 503, expected 200-399").is_like(&answer("GET u → 404, expected 200-399")));
    assert!(!answer("GET u → 503").is_like(&answer("GET v → 503")));
}

mod properties {
    use super::*;

    #[test]
    fn any_response_from_inside_an_instance_is_read_unchanged() {
        let body = crate::fuzz::damaged(vec!["hello\n\nHTTP/1.1 200 OK\n  HTTP/1.1 200 OK\n".into()]);
        crate::fuzz::holds((body, 200u16..600), |(body, code)| {
            let text = format!("HTTP/1.1 {code} Said\r\nServer: x\r\n\r\n{body}");
            crate::fuzz::same(&exec_probe::parse_response(&text), &Some((code, body.as_str())))?;
            let _ = exec_probe::parse_response(&body);
            Ok(())
        });
    }
}
