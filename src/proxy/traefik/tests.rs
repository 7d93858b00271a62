//! Tests of the adapter: its pins by equality, its parsers by recorded output.

use serde_json::json;

use super::*;
use crate::docker::PIN;
use crate::docker::inspect::{BRIDGE, RELAY};

const FLAGS: &str =
    "--entrypoints.web.address=:80 --providers.docker=true --providers.docker.exposedbydefault=false";

fn traefik(flags: &str) -> Traefik {
    let mut container: Container = serde_json::from_str(
        r#"{"Id": "t0123456789abcdef", "Name": "/p-proxy-1", "Image": "sha256:1", "Config": {"Labels": {
            "com.docker.compose.project": "p", "com.docker.compose.service": "proxy"}},
            "NetworkSettings": {"Networks": {"front": {}}}}"#,
    )
    .unwrap();
    container.args = flags.split_whitespace().map(String::from).collect();
    let mut traefik = Traefik::new(&container);
    traefik.learn(&output("@tool wget\n"));
    traefik
}

fn output(stdout: &str) -> CommandResult {
    CommandResult { code: Some(0), stdout: stdout.into(), stderr: String::new() }
}

fn labels(additional: &str) -> Labels {
    let common = "com.docker.compose.project=p
        com.docker.compose.service=app
        traefik.enable=true
        traefik.http.routers.app.rule=Host(`app.test`)
        traefik.http.services.app.loadbalancer.server.port=3000";
    let lines = common.lines().chain(additional.lines()).filter_map(|l| l.trim().split_once('='));
    lines.map(|(k, v)| (k.into(), v.into())).collect()
}

fn endpoint(id: &str, address: &str, additional: &str) -> Endpoint {
    Endpoint {
        id: id.into(),
        service: "app".into(),
        addresses: address.parse().into_iter().collect(),
        labels: labels(additional),
        ..Endpoint::default()
    }
}

fn old() -> Endpoint {
    endpoint("old", "192.168.0.5", "")
}

fn new() -> Endpoint {
    endpoint("new", "192.168.0.6", "")
}

fn rotation_of(inside: Endpoint, outside: Endpoint) -> Rotation {
    Rotation { inside: vec![inside], outside: vec![outside], ..Rotation::default() }
}

/// Pins that an answer starts, and names of those that it removes.
fn split(next: &Next) -> (Vec<Helper>, Vec<String>) {
    let actions = next.changes().iter().map(|change| change.action.clone());
    let (mut started, mut removed) = (Vec::new(), Vec::new());
    actions.for_each(|action| match action {
        Action::Start(helper) => started.push(helper),
        Action::Remove(name) => removed.push(name),
        other => panic!("{other:?}"),
    });
    (started, removed)
}

/// List of the engine with these pins, created `age` seconds ago.
fn listed(pins: &[Helper], age: u64) -> String {
    let list = |pin: &Helper| {
        let labels: Labels = pin.labels.iter().cloned().collect();
        json!({ "Id": pin.name, "Labels": labels, "Created": 10_000 - age })
    };
    json!(pins.iter().map(list).collect::<Vec<_>>()).to_string()
}

fn token(pin: &Helper) -> String {
    let label = pin.labels.iter().find(|(key, _)| key == "compose-zd.pin.token");
    label.expect("a token").1.clone()
}

fn advance(traefik: &Traefik, containers: &str, served: &str, goal: &Goal) -> (ProxyState, Next) {
    let state = format!("@now 77.5 10000\n@served {served}\n@end\n");
    traefik.advance(&[output(containers), output(&state)], goal).unwrap()
}

/// Pins of a rotation, on an engine without others.
fn pins(flags: &str, rotation: &Rotation) -> Vec<Helper> {
    split(&advance(&traefik(flags), "[]", "", &Goal::Rotation(rotation.clone())).1).0
}

/// Labels of a pin, with `TOKEN` for its token.
fn text(pin: &Helper) -> String {
    let lines: String = pin.labels.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    lines.replace(&token(pin), "TOKEN")
}

const PIN_LABELS: &str = "\
compose-zd.pin=p/app
compose-zd.pin.proxy=t0123456789abcdef
compose-zd.pin.generation=1
compose-zd.pin.token=TOKEN
compose-zd.pin.parts=1
compose-zd.pin.target=old
traefik.enable=true
traefik.http.services.zd-TOKEN-app.loadbalancer.server.port=3000
traefik.http.routers.zd-TOKEN-app.rule=Host(`app.test`)
traefik.http.routers.zd-TOKEN-app.priority=17
traefik.http.routers.zd-TOKEN-app.service=zd-TOKEN-app
traefik.http.routers.zd-TOKEN_check.rule=Host(`compose-zd.p.app.t0123456789a.invalid`) && (ClientIP(`127.0.0.1`) || ClientIP(`::1`))
traefik.http.routers.zd-TOKEN_check.priority=2000000001
traefik.http.routers.zd-TOKEN_check.entrypoints=web
traefik.http.routers.zd-TOKEN_check.service=zd-TOKEN-app
traefik.http.routers.zd-TOKEN_check.middlewares=zd-TOKEN_token
traefik.http.middlewares.zd-TOKEN_token.redirectregex.regex=^.*$
traefik.http.middlewares.zd-TOKEN_token.redirectregex.replacement=http://127.0.0.1:1/TOKEN
";

#[test]
fn a_pin_repeats_the_labels_with_a_higher_priority_in_the_network_of_its_instance() {
    let pins = pins(FLAGS, &rotation_of(old(), new()));
    let [pin] = &pins[..] else { panic!("{pins:?}") };
    let without_content: String =
        text(pin).split_inclusive('\n').filter(|l| !l.starts_with("compose-zd.pin.content=")).collect();
    assert_eq!(without_content, PIN_LABELS);
    assert_eq!(pin.name, format!("compose-zd-pin-p-app-{}-0", token(pin)));
    assert_eq!(
        (pin.network.as_str(), pin.image.as_str(), pin.entrypoint.as_str()),
        ("container:old", "sha256:1", "sh")
    );
    assert!(pin.options.contains(&"--rm".into()) && pin.command[1].contains("':(0BB8) "), "{pin:?}");
}

#[test]
fn objects_of_the_labels_are_copied_and_other_references_kept() {
    let additional = "traefik.http.routers.app.middlewares=auth, own@docker,limit@file,both
        traefik.http.routers.app.priority=90
        traefik.http.routers.app.tls.certresolver=le
        traefik.http.routers.app.tls.domains[0].main=app.test
        traefik.docker.network=front
        traefik.http.middlewares.own.headers.customresponseheaders.X-Gen={{a}}
        traefik.http.middlewares.both.chain.middlewares=own,auth
        traefik.http.middlewares.page.errors.service=app
        traefik.http.middlewares.list.ipallowlist.sourcerange[1]=10.0.0.0/8
        traefik.http.services.app.loadbalancer.sticky.cookie=true
        traefik.http.services.app.loadbalancer.server.weight=2
        Traefik.Http.Services.app.LoadBalancer.HealthCheck.Path=/up
        traefik.http.services.app.loadbalancer.serverstransport=mine@file";
    let pins = pins(FLAGS, &rotation_of(endpoint("old", "192.168.0.5", additional), new()));
    let text = text(&pins[0]);
    for line in [
        "routers.zd-TOKEN-app.priority=91",
        "routers.zd-TOKEN-app.tls=true",
        "routers.zd-TOKEN-app.middlewares=auth@docker,zd-TOKEN-own,limit@file,zd-TOKEN-both",
        // If a middleware were missing, Traefik would drop the route, so the version check must depend on it.
        "routers.zd-TOKEN_check.middlewares=zd-TOKEN_token,auth@docker,limit@file,zd-TOKEN-both,zd-TOKEN-own",
        "middlewares.zd-TOKEN-own.headers.customresponseheaders.X-Gen={{a}}",
        "middlewares.zd-TOKEN-both.chain.middlewares=zd-TOKEN-own,auth@docker",
        "middlewares.zd-TOKEN-page.errors.service=zd-TOKEN-app",
        "middlewares.zd-TOKEN-list.ipallowlist.sourcerange[1]=10.0.0.0/8",
        "services.zd-TOKEN-app.loadbalancer.sticky.cookie.name=_a9f6e",
        "services.zd-TOKEN-app.loadbalancer.server.weight=2",
        "services.zd-TOKEN-app.loadbalancer.HealthCheck.Path=/up",
        "services.zd-TOKEN-app.loadbalancer.serverstransport=mine@file",
    ] {
        assert!(text.contains(&format!("\ntraefik.http.{line}\n")), "{line} is not in\n{text}");
    }
    assert!(text.contains("\ntraefik.docker.network=front\n"), "{text}");
    assert!(
        !text.contains("certresolver") && !text.contains("domains"),
        "no certificate is requested: {text}"
    );
}

#[test]
fn the_pins_of_several_instances_share_one_route() {
    let rotation = Rotation {
        inside: vec![old(), endpoint("second", "192.168.0.7", "")],
        outside: vec![new()],
        ..Rotation::default()
    };
    let pins = pins(FLAGS, &rotation);
    let networks: Vec<&str> = pins.iter().map(|pin| pin.network.as_str()).collect();
    assert_eq!(networks, ["container:old", "container:second", "container:t0123456789abcdef"]);
    let has_route = |pin: &Helper| text(pin).contains(".routers.zd-TOKEN-app.rule=");
    assert_eq!(pins.iter().map(has_route).collect::<Vec<_>>(), [false, false, true]);
    let service = |pin: &Helper| {
        let own = pin.labels.iter().filter(|(key, _)| key.ends_with("-app.loadbalancer.server.port"));
        own.cloned().collect::<Vec<_>>()
    };
    assert_eq!(service(&pins[0]), service(&pins[1]));
    assert!(
        service(&pins[2]).is_empty() && text(&pins[2]).contains("zd-TOKEN_none.loadbalancer.server.port=1\n")
    );
}

#[test]
fn a_pin_has_the_labels_that_the_constraints_need() {
    let constraint =
        "--providers.docker.constraints=Label(`com.docker.compose.project`,`p`)&&!Label(`other`,`x`)";
    let pins = pins(&format!("{FLAGS} {constraint}"), &rotation_of(old(), new()));
    let text = text(&pins[0]);
    assert!(text.contains("\ncom.docker.compose.project=p\n") && !text.contains("other"), "{text}");
    assert!(!text.contains("com.docker.compose.service"), "{text}");
}

#[test]
fn a_tls_check_requests_no_certificate() {
    let tls = "--entrypoints.s.address=:443 --entrypoints.s.http.tls.certresolver=le --providers.docker";
    let pins = pins(tls, &rotation_of(old(), new()));
    let text = text(&pins[0]);
    assert!(text.contains("_check.entrypoints=s\n") && text.contains("_check.tls=true\n"), "{text}");
    assert!(!text.contains("zd-TOKEN-app.tls"), "the entry point decides: {text}");
}

#[test]
fn a_higher_priority_takes_no_request_of_another_router() {
    let foreign = |rule: &str, more: &str| {
        let labels = json!({
            "com.docker.compose.project": "q",
            "com.docker.compose.service": "app",
            "traefik.enable": "true",
            "traefik.http.routers.other.rule": rule,
            "traefik.http.routers.other.priority": more,
        });
        json!({ "Id": "q", "Labels": labels })
    };
    let rule = |containers: serde_json::Value| {
        let rotation = Goal::Rotation(rotation_of(old(), new()));
        let (started, _) = split(&advance(&traefik(FLAGS), &containers.to_string(), "", &rotation).1);
        let key = format!("traefik.http.routers.zd-{}-app.rule", token(&started[0]));
        started[0].labels.iter().find(|(k, _)| *k == key).expect("a rule").1.clone()
    };
    let (longer, own) = ("PathPrefix(`/ab`)", "Host(`app.test`)");
    assert_eq!(longer.len(), own.len() + 1);
    assert_eq!(rule(json!([foreign(longer, "")])), format!("({own}) && !({longer})"));
    assert_eq!(rule(json!([foreign(&format!("{longer} && Path(`/`)"), "")])), own, "it is longer by more");
    assert_eq!(rule(json!([foreign(longer, "16")])), own, "it is no longer");
    let pin = json!({ "Id": "q", "Labels": { PIN: "q/app", "traefik.enable": "true", "traefik.http.routers.o.rule": longer } });
    assert_eq!(rule(json!([pin])), own);
}

#[test]
fn a_route_is_pinned_once_and_then_awaited_and_outbids_the_one_before() {
    let (traefik, gate) = (traefik(FLAGS), Goal::Gated(rotation_of(old(), new())));
    let (first, _) = split(&advance(&traefik, "[]", "", &gate).1);
    assert_eq!(advance(&traefik, &listed(&first, 1), "", &gate).1, Next::Wait);
    assert_eq!(advance(&traefik, &listed(&first, 1), "0a", &gate).1, Next::Wait, "of an earlier pin");
    assert_eq!(advance(&traefik, &listed(&first, 1), &token(&first[0]), &gate).1, Next::Done);

    let switch = Goal::Rotation(rotation_of(new(), old()));
    let (state, next) = advance(&traefik, &listed(&first, 1), &token(&first[0]), &switch);
    assert_eq!(state.routed, BTreeSet::from(["old".into()]));
    let (second, removed) = split(&next);
    assert!(removed.is_empty(), "the first stays while the second is not in force");
    assert!(text(&second[0]).contains("zd-TOKEN-app.priority=18\n"));
    let both = listed(&[first.clone(), second.clone()].concat(), 1);
    let (state, next) = advance(&traefik, &both, &token(&first[0]), &switch);
    assert!(!state.config_applied && next == Next::Wait);
    let (state, _) = advance(&traefik, &both, &token(&second[0]), &switch);
    assert!(state.config_applied && state.routed == BTreeSet::from(["new".into()]));
    let (_, next) = advance(&traefik, &both, &token(&second[0]), &switch);
    assert_eq!(split(&next), (Vec::new(), vec![first[0].name.clone()]), "it is no longer needed");

    let back = Goal::Rotation(rotation_of(old(), new()));
    let (_, removed) = split(&advance(&traefik, &both, &token(&second[0]), &back).1);
    assert_eq!(removed, [first[0].name.clone()]);
}

#[test]
fn old_and_missing_pins_are_replaced() {
    let rotation = Rotation {
        inside: vec![old(), endpoint("second", "192.168.0.7", "")],
        outside: vec![new()],
        ..Rotation::default()
    };
    let (traefik, gate) = (traefik(FLAGS), Goal::Gated(rotation));
    let (first, _) = split(&advance(&traefik, "[]", "", &gate).1);
    let next = |pins: &[Helper], age| advance(&traefik, &listed(pins, age), &token(&first[2]), &gate).1;
    assert_eq!(next(&first, 449), Next::Done);
    assert_eq!(split(&next(&first, 450)).0.len(), 3);
    assert_eq!(split(&next(&first[1..], 1)).0.len(), 3, "the pin of an instance that restarted has ended");
}

#[test]
fn a_new_pin_has_a_token_of_its_own() {
    let token_at = |uptime: &str| {
        let state = format!("@now {uptime} 1\n@end");
        let goal = Goal::Gated(rotation_of(old(), new()));
        token(&split(&traefik(FLAGS).advance(&[output("[]"), output(&state)], &goal).unwrap().1).0[0])
    };
    assert_ne!(token_at("1.00"), token_at("1.01"));
}

#[test]
fn nothing_is_pinned_before_the_first_instance_runs() {
    let gate = Goal::Gated(Rotation { outside: vec![endpoint("new", "", "")], ..Rotation::default() });
    assert_eq!(advance(&traefik(FLAGS), "[]", "", &gate).1, Next::Done);
}

fn handed_back(existing: &[&str], endpoints: &[Endpoint]) -> Goal {
    let existing = existing.iter().map(|id| id.to_string()).collect();
    Goal::HandedBack(Discovery { endpoints: endpoints.to_vec(), existing, ..Discovery::default() })
}

#[test]
fn the_route_is_handed_back_once_a_later_pin_is_in_force() {
    let traefik = traefik(FLAGS);
    let first = pins(FLAGS, &rotation_of(new(), old()));
    let existing = ["t0123456789abcdef", "new"];
    let goal = handed_back(&existing, &[endpoint("old", "", ""), new()]);
    assert_eq!(advance(&traefik, "[]", "", &goal).1, Next::Done, "nothing is pinned");
    let unhealthy = Endpoint { unhealthy: true, ..new() };
    let starting = handed_back(&existing, &[unhealthy]);
    assert_eq!(advance(&traefik, &listed(&first, 9), "", &starting).1, Next::Wait);
    let sick = Endpoint { unhealthy: true, ..endpoint("sick", "192.168.0.9", "") };
    let beside = handed_back(&existing, &[new(), sick]);
    let next = advance(&traefik, &listed(&first, 9), "", &beside).1;
    assert_eq!(split(&next).0.len(), 1, "an unhealthy instance out of rotation is not waited for");

    let (proof, removed) = split(&advance(&traefik, &listed(&first, 9), &token(&first[0]), &goal).1);
    assert!(removed.is_empty() && proof[0].network == "container:t0123456789abcdef", "{proof:?}");
    let all = [first.clone(), proof.clone()].concat();
    assert!(!text(&proof[0]).contains("app.test"), "it carries no route");
    let (_, next) = advance(&traefik, &listed(&all, 1), &token(&first[0]), &goal);
    assert_eq!(next, Next::Wait);
    let (state, next) = advance(&traefik, &listed(&all, 1), &token(&proof[0]), &goal);
    assert_eq!(state.routed, BTreeSet::from(["new".into()]), "the proof routes nothing");
    assert!(matches!(next, Next::Finish(_)));
    assert_eq!(split(&next).1, [first[0].name.clone(), proof[0].name.clone()]);

    let third = handed_back(&existing, &[new(), endpoint("third", "192.168.0.8", "")]);
    let (another, _) = split(&advance(&traefik, &listed(&all, 1), &token(&proof[0]), &third).1);
    assert_eq!(another.len(), 1, "a proof for other instances does not count");
}

#[test]
fn pins_of_another_traefik_stay_until_that_is_gone() {
    let mut other = pins(FLAGS, &rotation_of(old(), new()));
    other[0]
        .labels
        .iter_mut()
        .filter(|(k, _)| k == "compose-zd.pin.proxy")
        .for_each(|(_, v)| *v = "u".into());
    let traefik = traefik(FLAGS);
    let next = |existing: &[&str]| advance(&traefik, &listed(&other, 1), "", &handed_back(existing, &[])).1;
    let with_mark = |existing: &[&str]| {
        advance(&traefik, &listed(&other, 1), "", &handed_back(existing, &[endpoint("old", "", "")])).1
    };
    assert_eq!(next(&["u"]), Next::Done);
    assert_eq!(with_mark(&["u"]), Next::Done);
    assert_eq!(split(&with_mark(&["old"])).1, [other[0].name.clone()]);
    let (own, _) =
        split(&advance(&traefik, &listed(&other, 1), "", &Goal::Gated(rotation_of(old(), new()))).1);
    assert!(text(&own[0]).contains("compose-zd.pin.generation=2\n"), "it outbids the other one");
}

#[test]
fn connections_to_an_instance_are_quiet_since_the_pins_for_others_are_in_force() {
    let in_flight = |age: u64, instance: Endpoint| {
        let pins = pins(FLAGS, &rotation_of(new(), old()));
        let state = format!("@now 5133.41 10000\n@served {}\n@end\n", token(&pins[0]));
        let open = "192.168.0.3:41000 192.168.0.6:3000\n192.168.0.3:41001 192.168.0.5:3000\n";
        let answers = [output(&listed(&pins, age)), output(&state), output(open)];
        let goal = Goal::Observed(vec![instance, new()]);
        traefik(FLAGS).advance(&answers, &goal).unwrap().0.in_flight
    };
    let connections = |port: u16, to: &str, quiet: u64, has_streams: bool| {
        let open = format!("192.168.0.3:{port} {to}:3000\n");
        let open = connections::parse(Some(&output(&open)));
        InFlight::Connections { exact: 0, open, quiet: Duration::from_secs(quiet), has_streams }
    };
    let counted = in_flight(5, old());
    assert_eq!(counted["old"], connections(41001, "192.168.0.5", 3, false));
    assert_eq!(counted["new"], connections(41000, "192.168.0.6", 0, false));
    assert_eq!(in_flight(1, old())["old"], connections(41001, "192.168.0.5", 0, false));
    for label in [
        "traefik.http.routers.ws.rule=Host(`app.test`) && PathPrefix(`/ws`)",
        "traefik.http.services.app.loadbalancer.responseForwarding.flushInterval=1ms",
    ] {
        let instance = endpoint("old", "192.168.0.5", label);
        assert_eq!(in_flight(5, instance)["old"], connections(41001, "192.168.0.5", 3, true), "{label}");
    }
}

#[test]
fn without_pins_discovery_routes_to_healthy_running_instances() {
    let unhealthy = Endpoint { unhealthy: true, ..new() };
    let goal = Goal::Observed(vec![old(), endpoint("created", "", ""), unhealthy]);
    let (state, _) = advance(&traefik(FLAGS), "[]", "", &goal);
    assert_eq!(state.routed, BTreeSet::from(["old".into()]));
    assert!(state.config_applied);
    let (leaving, _) = advance(&traefik(FLAGS), "[]", "0a", &goal);
    assert!(!leaving.config_applied, "pins that were just removed are still in force");
    let error = traefik(FLAGS).advance(&[output("[]"), output("Permission denied")], &goal);
    assert!(error.is_err() && traefik(FLAGS).advance(&[output(""), output("@end")], &goal).is_err());
}

/// Routers of the API of Traefik 3.7, reduced.
const ROUTERS: &str = r#"@routers
[{"priority":2000000001,"name":"zd-00a1_check@docker","status":"enabled"},
 {"priority":2000000003,"name":"zd-00a3_check@docker","status":"disabled"},
 {"priority":2000000002,"name":"zd-00a2_check@docker","status":"enabled"},
 {"priority":99,"name":"app@docker","status":"enabled"}]
@end
"#;

#[test]
fn the_api_lists_the_pins_in_force_where_no_entry_point_answers() {
    let state = TraefikState::parse("[]", ROUTERS, "p/app").unwrap();
    assert_eq!(state.served.as_deref(), Some("00a2"));
    let guarded = "--entrypoints.web.http.middlewares=a@file --api.insecure";
    let queries = traefik(&format!("{FLAGS} {guarded}")).queries(&Goal::Observed(vec![old()]));
    let Query::Exec(exec) = &queries[1] else { panic!("{queries:?}") };
    let url =
        "http://127.0.0.1:8080/api/http/routers?search=compose-zd.p.app.t0123456789a.invalid&status=enabled";
    assert!(exec.argv[2].contains(url), "{}", exec.argv[2]);
}

fn backend(additional: &str) -> Backend {
    Backend {
        project: "p".into(),
        service: "app".into(),
        labels: labels(additional),
        networks: vec!["front".into()],
        ..Backend::default()
    }
}

#[test]
fn a_router_that_is_not_in_the_labels_is_refused() {
    let prepare = |flags: &str, containers: &str, files: &str| {
        let shape = RolloutShape { backends: vec![backend("")], ..RolloutShape::default() };
        let traefik = traefik(&format!("{FLAGS} {flags}"));
        let answers = [output(containers), output(files)];
        let count = traefik.queries(&Goal::Patched(shape.clone())).len();
        traefik
            .advance(&answers[..count], &Goal::Patched(shape))
            .map(|(_, next)| next)
            .map_err(|e| e.to_string())
    };
    let directory = "--providers.file.directory=/d";
    let files = "/d/x.yml:service: my-app@docker\n/d/x.yml:service: \"app@docker\n";
    let error = prepare(directory, "[]", files).unwrap_err();
    assert!(error.contains("routes to `app`: /d/x.yml:service: app@docker"), "{error}");
    assert_eq!(prepare(directory, "[]", "/d/x.yml:service: my-app@docker\n"), Ok(Next::Done));
    let container = |service: &str, reference: &str| {
        let labels = json!({
            "com.docker.compose.project": "p",
            "com.docker.compose.service": service,
            "traefik.enable": "true",
            "traefik.http.routers.x.service": reference,
            "traefik.http.services.own.loadbalancer.server.port": "1",
        });
        json!([{ "Id": "c", "Labels": labels }]).to_string()
    };
    let error = prepare("", &container("admin", "app"), "").unwrap_err();
    assert!(error.contains("routes to `app`: x in the labels of admin"), "{error}");
    assert!(prepare("", &container("admin", "app@docker"), "").is_err());
    let of_project =
        |name: &str| format!("--providers.docker.constraints=Label(`com.docker.compose.project`,`{name}`)");
    assert!(prepare(&of_project("p"), &container("admin", "app"), "").is_err());
    let another_proxys = prepare(&of_project("q"), &container("admin", "app"), "");
    assert_eq!(another_proxys, Ok(Next::Done), "another Traefik of the engine has that router");
    for (service, reference) in [("app", "app"), ("admin", "own"), ("admin", "app@file")] {
        assert_eq!(prepare("", &container(service, reference), ""), Ok(Next::Done), "{service} {reference}");
    }
}

#[test]
fn an_unfit_configuration_is_refused_with_the_fix() {
    let refusal = |flags: &str, backend: Backend| traefik(flags).check(&[backend]).unwrap_err().to_string();
    let tcp = refusal(FLAGS, backend("traefik.tcp.routers.a.rule=HostSNI(`*`)"));
    assert!(tcp.contains("`traefik.tcp.routers.a.rule`"), "{tcp}");
    let fixed = refusal(FLAGS, backend("traefik.http.services.app.loadbalancer.server.url=http://x"));
    assert!(fixed.contains("one address for all"), "{fixed}");
    let unwatched = refusal(&format!("{FLAGS} --providers.docker.watch=false"), backend(""));
    assert!(unwatched.contains("never sees a new instance"), "{unwatched}");
    let regex = refusal(&format!("{FLAGS} --providers.docker.constraints=LabelRegex(`a`,`(`)"), backend(""));
    assert!(regex.contains("cannot be evaluated"), "{regex}");
    let guarded = refusal(&format!("{FLAGS} --entrypoints.web.http.middlewares=a@file"), backend(""));
    assert!(guarded.contains("cannot query which route is in force"), "{guarded}");
    let template = format!("{FLAGS} --providers.docker.defaultrule={{{{.Name|lower}}}}");
    assert!(refusal(&template, backend("traefik.http.routers.b.tls=true")).contains("has no rule"));
    let mut bare = traefik(FLAGS);
    bare.learn(&output(""));
    assert!(bare.check(&[backend("")]).unwrap_err().to_string().contains("neither wget"));
    assert_eq!(traefik(FLAGS).check(&[backend("")]), Ok(()));
}

#[test]
fn it_routes_to_backends_that_request_a_route_on_a_shared_network() {
    let routes = |flags: &str, backend: &Backend| traefik(flags).routes_to(backend);
    assert!(routes(FLAGS, &backend("")));
    assert!(!routes(FLAGS, &backend("traefik.enable=false")));
    assert!(!routes(FLAGS, &Backend { networks: vec!["back".into()], ..backend("") }));
    assert!(!routes(FLAGS, &Backend { service: "proxy".into(), ..backend("") }));
    assert!(!routes("--providers.file.directory=/d", &backend("")));
    let database = Backend { labels: Labels::new(), ..backend("") };
    assert!(!routes("--providers.docker=true", &database));
    let mut without_enable = backend("");
    without_enable.labels.remove("traefik.enable");
    assert!(routes("--providers.docker=true", &without_enable) && !routes(FLAGS, &without_enable));
    let for_project = |project: &str| {
        format!("{FLAGS} --providers.docker.constraints=Label(`com.docker.compose.project`,`{project}`)")
    };
    assert!(routes(&for_project("p"), &backend("")) && !routes(&for_project("q"), &backend("")));
}

#[test]
fn it_routes_to_services_without_labels_whose_default_route_is_expected() {
    let listening = |service: &str| ListeningService {
        project: "p".into(),
        service: service.into(),
        ..ListeningService::default()
    };
    let with = |flags: &str| {
        let mut traefik = traefik(flags);
        let app = ListeningService { is_web: true, ..listening("app") };
        let with_new_label = ListeningService { labels: labels(""), ..listening("api") };
        let named = ListeningService { proxy: Some("p-proxy-1".into()), ..listening("named") };
        traefik.learn_services(&[app, listening("worker"), with_new_label, named]);
        traefik
    };
    let bare = |service: &str| Backend { service: service.into(), labels: Labels::new(), ..backend("") };
    let rule = "--providers.docker.defaultRule=Host(`{{.Name}}.test`)";
    let both = |flags: &str, backend: &Backend| {
        let traefik = with(flags);
        (traefik.routes_to(backend), traefik.default_route(backend).and_then(|route| route.rule))
    };
    assert_eq!(both(rule, &bare("app")), (true, None));
    assert_eq!(with(rule).route_to(&bare("app")).host.as_deref(), Some("app-p.test"));
    assert_eq!(with(rule).route_to(&bare("app")).public[0].host.as_deref(), Some("app-p.test"));
    assert_eq!(both(rule, &bare("worker")), (false, Some("Host(`worker-p.test`)".into())));
    let built_in = (false, Some("Host(`app-p`)".to_string()));
    assert_eq!(both("--providers.docker=true", &bare("app")), built_in);
    assert!(["api", "named"].iter().all(|s| both("--providers.docker=true", &bare(s)) == (true, None)));
    let network_only = [("traefik.docker.network".to_string(), "front".to_string())];
    let network_only = Backend { labels: network_only.into(), ..bare("app") };
    assert_eq!(both(rule, &network_only), (true, None));
    for (flags, backend) in [
        (rule.to_string(), bare("db")),
        (rule.to_string(), backend("traefik.enable=false")),
        (rule.to_string(), Backend { networks: vec!["back".into()], ..bare("app") }),
        (format!("{rule} --providers.docker.exposedByDefault=false"), bare("app")),
        (format!("{rule} --providers.docker.constraints=Label(`a`,`b`)"), bare("app")),
        ("--providers.file.directory=/d".into(), bare("app")),
    ] {
        assert_eq!(both(&flags, &backend), (false, None), "{flags} {backend:?}");
    }
    let labelled = Backend { labels: labels(""), ..bare("app") };
    assert_eq!(both("--providers.docker=true", &labelled), (true, None));
}

#[test]
fn it_is_recognised_by_image_origin_or_process() {
    let detects = |json: &str| detect(&serde_json::from_str(json).unwrap()).is_some();
    let image = |name: &str| detects(&format!(r#"{{"Config": {{"Image": "{name}"}}}}"#));
    assert!(
        image("traefik:v3.7") && image("ghcr.io/x/traefik@sha256:1") && image("docker.io/library/traefik")
    );
    assert!(!image("traefik/whoami:latest") && !image("traefik-exporter") && !image("nginx"));
    let origin = "https://github.com/traefik/traefik";
    assert!(detects(&format!(
        r#"{{"Config": {{"Labels": {{"org.opencontainers.image.source": "{origin}"}}}}}}"#
    )));
    assert!(detects(r#"{"Path": "/usr/local/bin/traefik"}"#));
    assert!(detects(r#"{"Path": "/entrypoint.sh", "Args": ["--Providers.docker=true"]}"#));
}

#[test]
fn a_probe_uses_the_port_and_host_of_the_labels() {
    let container = |labels: Labels| -> Container {
        let mut container: Container =
            serde_json::from_str(r#"{"Config": {"ExposedPorts": {"8080/tcp": {}, "80/tcp": {}}}}"#).unwrap();
        container.config.labels = labels;
        container
    };
    let traefik = traefik(FLAGS);
    let labelled = container(labels(""));
    assert_eq!(
        (
            traefik.route_to(&Backend::from(&labelled)).port,
            traefik.route_to(&Backend::from(&labelled)).host.unwrap().as_str()
        ),
        (Some(3000), "app.test")
    );
    let mut bare = labels("");
    bare.retain(|k, _| k.starts_with("com."));
    let bare = container(bare);
    assert_eq!(
        (
            traefik.route_to(&Backend::from(&bare)).port,
            traefik.route_to(&Backend::from(&bare)).host.unwrap().as_str()
        ),
        (Some(80), "app-p")
    );
}

#[test]
fn labels_request_a_route() {
    assert!(
        requests_route(&labels(""))
            && !requests_route(&labels("traefik.enable=false"))
            && !requests_route(&Labels::new())
    );
}

#[test]
fn no_file_service_or_address_is_run_as_a_script() {
    use super::version_check::ControlAddress;
    use crate::shell::tests::{HOSTILE, runs_no_injected_command};
    for text in HOSTILE {
        let address = ControlAddress { tls: false, host: text.into(), port: 80 };
        let api = Api { address: address.clone(), path: text.into() };
        let checks = [
            VersionCheck::Route { entry_point: text.into(), address },
            VersionCheck::Api { entry_point: text.into() },
        ];
        let mut all_scripts =
            vec![scripts::config_script(&[text.into()]), scripts::references_script(&[text.into()])];
        for check in &checks {
            all_scripts.push(scripts::state_script(Some(check), Some(&api), text));
            all_scripts.push(scripts::diagnosis_script(Some(check), Some(&api)));
        }
        all_scripts.iter().for_each(|script| runs_no_injected_command(script));
    }
}

#[test]
fn the_highest_priority_does_not_overflow() {
    let highest = format!("traefik.http.routers.app.priority={}", i64::MAX);
    let pins = pins(FLAGS, &rotation_of(endpoint("new", "192.168.0.6", &highest), old()));
    assert!(text(&pins[0]).contains(&format!("-app.priority={}\n", i64::MAX)));
}

#[test]
fn a_sticky_cookie_keeps_its_name_under_the_copied_service() {
    let cookie = |labels: &str| {
        let labels: Vec<String> =
            labels.split(' ').map(|l| format!("traefik.http.services.app.loadbalancer.{l}")).collect();
        let pins = pins(FLAGS, &rotation_of(endpoint("old", "192.168.0.5", &labels.join("\n")), new()));
        let text = text(&pins[0]);
        let lines = text.lines().filter_map(|line| line.split_once("-app.loadbalancer.")).map(|(_, l)| l);
        lines
            .filter(|line| line.to_lowercase().starts_with("sticky"))
            .map(String::from)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        cookie("sticky.cookie.httponly=true"),
        "sticky.cookie.httponly=true sticky.cookie.name=_a9f6e"
    );
    assert_eq!(
        cookie("sticky.cookie.name=mine sticky.cookie.secure=true"),
        "sticky.cookie.name=mine sticky.cookie.secure=true"
    );
    assert_eq!(cookie("Sticky.Cookie=true"), "Sticky.cookie.name=_a9f6e");
    assert_eq!(cookie("sticky.cookie=false"), "sticky.cookie=false");
}

#[test]
fn a_pin_ends_when_its_instance_no_longer_listens() {
    let script = scripts::pin_script(&[3000, 80], 900);
    assert!(
        script.contains("-lt 1800 ]") && script.contains("':(0BB8|0050) [0-9A-F]+:0000 0A '"),
        "{script}"
    );
}

#[test]
fn routes_outside_labels_and_files_raise_a_doubt() {
    let doubt = |flags: &str| traefik(flags).doubt(&[]).unwrap_or_default();
    assert_eq!(doubt(FLAGS), "");
    assert_eq!(doubt("--providers.file.filename=/r.yml --providers.providersthrottleduration=1s"), "");
    assert!(doubt("--providers.docker --providers.consulcatalog.prefix=x").contains("`consulcatalog`"));
    assert!(doubt("--entrypoints.web.address=:80").contains("cannot be read"));
    assert_eq!(
        traefik("--providers.file.filename=/r.yml --providers.file.watch=false").route_files(),
        ["/r.yml"]
    );
    let directory = format!("{FLAGS} --providers.file.directory=/etc/traefik/dynamic");
    assert_eq!(traefik(&directory).route_files(), ["/etc/traefik/dynamic"]);
}

#[test]
fn the_pin_of_a_relay_has_no_healthcheck() {
    let checked = "traefik.http.services.app.loadbalancer.healthcheck.path=/up";
    let labels = |inside: Endpoint| text(&pins(FLAGS, &rotation_of(inside, old()))[0]);
    let instance = endpoint("new", "192.168.0.6", checked);
    assert!(labels(instance.clone()).contains("healthcheck.path=/up"));
    let mut relay = instance;
    relay.labels.insert(BRIDGE.into(), RELAY.into());
    let relay = labels(relay);
    assert!(!relay.contains("healthcheck") && relay.contains("server.port=3000"), "{relay}");
}
