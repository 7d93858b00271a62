use super::*;
use crate::model::ResolvedProject;
use crate::model::{FailureAction, Order};

/// Converts a project as `docker compose config` prints it.
fn convert(yaml: &str, overrides: &StackOverrides) -> (Value, StackFile) {
    let text = ResolvedProject::parse(yaml).unwrap().text();
    let file = StackFile::from_project(&text, "compose.yaml", overrides).unwrap();
    (serde_json::from_str(&file.text()).unwrap(), file)
}

fn stack(yaml: &str) -> (Value, StackFile) {
    let (value, file) = convert(yaml, &StackOverrides::default());
    assert!(file.refusals.is_empty(), "{:?}", file.refusals);
    (value, file)
}

fn notes(service: &str) -> String {
    stack(&format!("services: {{app: {{image: a, {service}}}}}")).1.notes.join("\n")
}

fn single_refusal(yaml: &str) -> ConfigError {
    let (_, mut file) = convert(yaml, &StackOverrides::default());
    assert_eq!(file.refusals.len(), 1, "{yaml}: {:?}", file.refusals);
    file.refusals.remove(0)
}

#[test]
fn keys_that_swarm_knows_are_copied() {
    let (stack, file) = stack(
        "name: p\nservices: {app: {image: a, command: [x], environment: {A: '$$1'}, healthcheck: {test: [CMD, x]}, \
         labels: {l: v}, stop_grace_period: 3s, init: true, networks: {default: null}}}\n\
         networks: {default: {name: p_default}}",
    );
    let app = &stack["services"]["app"];
    assert_eq!((app["image"].as_str(), app["environment"]["A"].as_str()), (Some("a"), Some("$$1")));
    assert_eq!((app["stop_grace_period"].as_str(), app["init"].as_bool()), (Some("3s"), Some(true)));
    assert_eq!(stack["networks"]["default"]["name"], "p_default");
    assert!(stack.get("name").is_none(), "docker stack deploy refuses it");
    assert_eq!(stack["version"], "3.9");
    assert!(file.notes.is_empty(), "{:?}", file.notes);
    assert_eq!(file.services, ["app"]);
}

#[test]
fn a_newer_key_sets_a_newer_schema_version() {
    let (stack, _) = stack("services: {app: {image: a, healthcheck: {test: [CMD, x], start_interval: 1s}}}");
    assert_eq!(stack["version"], "3.13");
}

#[test]
fn every_key_that_swarm_ignores_is_noted() {
    for (key, value) in [
        ("privileged", "true"),
        ("container_name", "x"),
        ("devices", "[/dev/fuse]"),
        ("network_mode", "host"),
        ("security_opt", "[x]"),
        ("post_start", "[{command: [x]}]"),
        ("gpus", "all"),
        ("runtime", "x"),
    ] {
        assert!(notes(&format!("{key}: {value}")).contains(&format!("`services.app.{key}`")), "{key}");
    }
    assert!(notes("depends_on: {db: {condition: service_healthy}}").contains("`db` is not up yet"));
    assert!(notes("build: {context: .}").contains("Swarm does not build"));
    assert_eq!(notes("privileged: false, x-zd: {}, expose: ['1'], restart: always, pull_policy: never"), "");
}

#[test]
fn a_key_that_would_change_the_container_is_refused_with_the_fix() {
    let cases = [
        ("build: {context: .}", "has no `image`"),
        ("image: a, volumes_from: [b]", "volumes_from"),
        ("image: a, network_mode: 'service:b'", "network_mode"),
        ("image: a, ports: [{target: 80, published: '8000-8010'}]", "8000-8010"),
        ("image: a, ports: [{target: 80, published: '80', host_ip: 127.0.0.1}]", "127.0.0.1"),
    ];
    for (service, text) in cases {
        let error = single_refusal(&format!("services: {{app: {{{service}}}}}"));
        assert!(error.message.starts_with("compose.yaml: ") && error.message.contains(text), "{error:?}");
        assert!(!error.hint.is_empty());
    }
    let error =
        single_refusal("services: {app: {image: a, networks: {n: null}}}\nnetworks: {n: {driver: bridge}}");
    assert!(error.message.contains("networks.n.driver: bridge"), "{error:?}");
}

#[test]
fn published_ports_become_numbers() {
    let (stack, _) = stack(
        "services: {app: {image: a, ports: [{mode: host, target: 80, published: '8080', protocol: tcp, name: web}, \
         {target: 81, published: ''}]}}",
    );
    let expected = json!([
        { "target": 80, "published": 8080, "mode": "host", "protocol": "tcp" },
        { "target": 81 },
    ]);
    assert_eq!(stack["services"]["app"]["ports"], expected);
}

#[test]
fn short_forms_of_resources_and_restart_are_converted() {
    let (stack, file) = stack(
        "services: {app: {image: a, cpus: 0.5, mem_limit: '52428800', pids_limit: 9, restart: 'on-failure:3', scale: 2, \
         deploy: {resources: {limits: {memory: 1m}, reservations: {cpus: 0.1, devices: [{capabilities: [gpu]}]}}}}}",
    );
    let deploy = &stack["services"]["app"]["deploy"];
    assert_eq!(deploy["resources"]["limits"], json!({ "cpus": "0.5", "memory": "1m", "pids": 9 }));
    assert_eq!(deploy["resources"]["reservations"], json!({ "cpus": "0.1" }));
    assert_eq!(deploy["restart_policy"], json!({ "condition": "on-failure", "max_attempts": 3 }));
    assert_eq!(deploy["replicas"], 2);
    assert!(file.notes.join("\n").contains("reservations.devices"));
}

#[test]
fn flags_override_the_file_and_unset_keys_are_left_out() {
    let yaml = "services: {app: {image: a, deploy: {replicas: 3, update_config: {delay: 1s, order: stop-first}}}, db: {image: d}}";
    let overrides = StackOverrides {
        replicas: [("app".to_string(), 5)].into(),
        update: UpdateLayer {
            order: Some(Order::StartFirst),
            monitor: Some(Duration::from_millis(1500)),
            action: Some(FailureAction::Pause),
            ..UpdateLayer::default()
        },
        ..StackOverrides::default()
    };
    let (stack, _) = convert(yaml, &overrides);
    let deploy = &stack["services"]["app"]["deploy"];
    assert_eq!(deploy["replicas"], 5);
    let expected =
        json!({ "delay": "1s", "order": "start-first", "monitor": "1500ms", "failure_action": "pause" });
    assert_eq!(deploy["update_config"], expected);
    assert!(deploy.get("rollback_config").is_none());
    let update = UpdateLayer { monitor: Some(Duration::ZERO), ..UpdateLayer::default() };
    let (stack, _) = convert(yaml, &StackOverrides { update, ..StackOverrides::default() });
    assert_eq!(stack["services"]["app"]["deploy"]["update_config"]["monitor"], "1ns", "0 is 5s to Swarm");
}

#[test]
fn a_named_service_is_deployed_alone_with_the_objects_it_refers_to() {
    let yaml = "services: {app: {image: a, networks: {n: null}, secrets: [{source: s}]}, db: {image: d, networks: {m: null}, \
                configs: [{source: c}]}}\nnetworks: {n: {name: x}, m: {}}\nsecrets: {s: {content: x}}\nconfigs: {c: {content: x}}";
    let overrides = StackOverrides { services: vec!["app".into()], ..StackOverrides::default() };
    let (stack, file) = convert(yaml, &overrides);
    assert_eq!(file.services, ["app"]);
    assert_eq!(stack["networks"], json!({ "n": { "name": "x" } }));
    assert_eq!(stack["secrets"], json!({ "s": { "name": "s", "external": true } }));
    assert!(stack.get("configs").is_none());
}

#[test]
fn configs_and_secrets_are_created_apart_and_referred_to_by_name() {
    let yaml = "services: {app: {image: a, configs: [{source: c}]}}\nconfigs: {c: {name: p_c, content: 'a$$b', labels: {l: v}}}";
    let (stack, file) = stack(yaml);
    assert_eq!(stack["configs"]["c"], json!({ "name": "p_c", "external": true }));
    let [object] = &file.objects[..] else { panic!("{:?}", file.objects) };
    assert_eq!(
        (object.kind, object.name.as_str(), &object.content[..]),
        (ObjectKind::Config, "p_c", &b"a$b"[..])
    );
    assert!(!file.text().contains("a$b"));
    let error = single_refusal(
        "services: {app: {image: a, secrets: [{source: s}]}}\nsecrets: {s: {environment: COMPOSE_ZD_NOT_SET}}",
    );
    assert!(error.message.contains("`COMPOSE_ZD_NOT_SET` is not set"), "{error:?}");
}

#[test]
fn all_refusals_are_reported_together() {
    let yaml = "services: {app: {build: ., volumes_from: [b], network_mode: 'service:b', ports: [{target: 1, published: '2-3'}], \
                networks: {n: null}}}\nnetworks: {n: {driver: macvlan}}";
    assert_eq!(convert(yaml, &StackOverrides::default()).1.refusals.len(), 5);
}

#[test]
fn a_job_has_no_update_config_and_is_left_out_of_a_rollback() {
    let yaml = "services: {job: {image: a, deploy: {mode: replicated-job, update_config: {monitor: 1s}}}, app: {image: a}}";
    let update = UpdateLayer { monitor: Some(Duration::ZERO), ..UpdateLayer::default() };
    let (stack, file) = convert(yaml, &StackOverrides { update, ..StackOverrides::default() });
    assert!(stack["services"]["job"]["deploy"].get("update_config").is_none());
    assert_eq!(file.without_jobs().services, ["app"]);
}

#[test]
fn a_monitor_of_zero_is_written_as_1ns() {
    let (stack, _) = stack("services: {app: {image: a, deploy: {update_config: {monitor: 0s}}}}");
    assert_eq!(stack["services"]["app"]["deploy"]["update_config"]["monitor"], "1ns");
}

#[test]
fn a_global_service_has_no_replicas() {
    let overrides = StackOverrides { replicas: [("app".to_string(), 5)].into(), ..StackOverrides::default() };
    let (stack, _) = convert("services: {app: {image: a, deploy: {mode: global}}}", &overrides);
    assert!(stack["services"]["app"]["deploy"].get("replicas").is_none());
}

#[test]
fn a_disabled_health_check_has_no_test() {
    let (stack, _) = stack("services: {app: {image: a, healthcheck: {test: [CMD, x], disable: true}}}");
    assert_eq!(stack["services"]["app"]["healthcheck"], json!({ "disable": true }));
}
