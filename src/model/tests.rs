//! Reading projects, settings and pairs.

use super::*;

fn read(yaml: &str) -> Result<Project, ConfigError> {
    Project::read(yaml, "compose.yaml", &FlagLayers::default())
}

fn service(keys: &str) -> Result<Service, ConfigError> {
    let mut project = read(&format!("name: p\nservices: {{app: {{{keys}}}}}"))?;
    Ok(project.services.remove("app").unwrap())
}

fn message(keys: &str) -> String {
    service(keys).unwrap_err().message
}

#[test]
fn the_number_of_instances_is_from_the_file_or_not_set() {
    let replicas = |keys| service(keys).unwrap().replicas();
    assert_eq!(replicas("image: x"), None);
    assert_eq!(replicas("deploy: {replicas: 4}"), Some(4));
    assert_eq!(replicas("scale: 2"), Some(2));
}

#[test]
fn a_flag_overrides_the_service_and_the_service_overrides_the_project() {
    let yaml = "name: p\nx-zd: {health: {path: /p, port: 1, body: b}}\n\
                services: {app: {x-zd: {health: {path: /s, port: 2}}}}";
    let flags = SettingsLayer {
        health: HealthLayer { path: Some("/f".into()), ..HealthLayer::default() },
        ..SettingsLayer::default()
    };
    let flags = FlagLayers { zd: flags, ..FlagLayers::default() };
    let project = Project::read(yaml, "compose.yaml", &flags).unwrap();
    let http = project.services["app"].settings.http.clone().unwrap();
    assert_eq!((http.path.as_str(), http.port, http.body.as_deref()), ("/f", Some(2), Some("b")));
}

#[test]
fn only_a_key_of_an_http_probe_asks_for_one() {
    let http = |keys: &str| service(keys).unwrap().settings.http.is_some();
    assert!(!http("image: x"));
    assert!(!http("x-zd: {health: {deadline: 5s}}"));
    assert!(http("x-zd: {health: {path: /up}}"));
    assert!(http("x-zd: {health: {port: 3000}}"));
}

#[test]
fn an_unknown_key_is_named_with_its_full_path() {
    let text = message("x-zd: {health: {pth: /up}}");
    assert!(text.starts_with("compose.yaml: `services.app.x-zd.health.pth`: unknown field `pth`"), "{text}");
}

#[test]
fn wrong_types_and_invalid_values_name_the_key() {
    let cases = [
        ("x-zd: {health: {port: 70000}}", "x-zd.health.port"),
        ("x-zd: {health: {port: 0}}", "x-zd.health.port"),
        ("x-zd: {health: {port: web}}", "x-zd.health.port"),
        ("x-zd: {health: {path: up}}", "x-zd.health.path"),
        ("x-zd: {health: {path: /, scheme: ftp}}", "x-zd.health.scheme"),
        ("x-zd: {health: {expect: 2xx}}", "x-zd.health.expect"),
        ("x-zd: {health: {expect: 399-200}}", "x-zd.health.expect"),
        ("x-zd: {health: {deadline: soon}}", "x-zd.health.deadline"),
        ("x-zd: {health: {interval: 0s}}", "x-zd.health"),
        ("x-zd: {health: {successes: 0}}", "x-zd.health.successes"),
        ("x-zd: {drain: {timeout: 10}}", "x-zd.drain.timeout"),
        ("x-zd: {drain: {timeout: 2y}}", "x-zd.drain.timeout"),
        ("x-zd: {health: {timeout: 99999999999y}}", "x-zd.health"),
        ("x-zd: {proxy: {tune: maybe}}", "x-zd.proxy.tune"),
        ("x-zd: 5", "services.app.x-zd"),
    ];
    for (keys, key) in cases {
        assert!(message(keys).contains(key), "{keys}: {}", message(keys));
    }
}

#[test]
fn codes_are_numbers_and_ranges() {
    let codes = StatusRanges::parse("200,204,300-399").unwrap();
    assert!(codes.contains(204) && codes.contains(301) && !codes.contains(201));
    assert_eq!(codes.to_string(), "200,204,300-399");
    assert_eq!(
        service("x-zd: {health: {expect: 204}}").unwrap().settings.http.unwrap().expect.to_string(),
        "204"
    );
}

#[test]
fn commands_lose_the_doubled_dollars_of_compose() {
    let service =
        service("x-zd: {drain: {command: 'echo $$HOME'}}, environment: {VIRTUAL_HOST: '~^a$$'}").unwrap();
    assert_eq!(service.settings.drain_command.unwrap(), ["sh", "-c", "echo $HOME"]);
    assert_eq!(service.environment["VIRTUAL_HOST"], "~^a$");
}

#[test]
fn services_with_shared_namespaces_and_volumes_are_found() {
    let found = service(
        "network_mode: 'service:a', pid: 'service:b', ipc: shareable, volumes_from: [c, 'd:ro', 'container:e']",
    );
    let hosts = found.unwrap().hosts();
    let hosts: Vec<_> = hosts.iter().map(|(key, host)| format!("{key} {host}")).collect();
    assert_eq!(hosts, ["network_mode a", "pid b", "volumes_from c", "volumes_from d"]);
}

#[test]
fn anonymous_volumes_are_those_without_a_source_and_may_be_a_cache() {
    let volumes = "volumes: [{type: volume, target: /cache}, {type: volume, source: data, target: /data}, {type: bind, source: /x, target: /y}], tmpfs: ['/run:size=1m']";
    let found = service(volumes).unwrap();
    assert_eq!(found.anonymous_volumes(), ["/cache"]);
    assert_eq!(found.mounted_paths(), ["/cache", "/data", "/y", "/run"]);
    assert_eq!(found.settings.anonymous_volumes, None);
    let fresh = service("x-zd: {anonymous_volumes: fresh}").unwrap();
    assert_eq!(fresh.settings.anonymous_volumes, Some(AnonymousVolumes::Fresh));
    assert!(service("x-zd: {anonymous_volumes: keep}").is_err());
}

#[test]
fn compose_starts_a_service_with_content_created_at_start() {
    let project = "name: p\nsecrets: {env: {environment: A}, file: {file: ./x}}\n";
    let by_compose = |keys: &str| {
        let yaml = format!("{project}services: {{app: {{{keys}}}}}");
        read(&yaml).unwrap().services["app"].starts_by_compose
    };
    assert!(!by_compose("image: x"));
    assert!(!by_compose("secrets: [{source: file}]"));
    assert!(by_compose("secrets: [{source: env}]"));
    assert!(!by_compose("post_start: [{command: [touch, /x]}]"));
}

#[test]
fn a_hook_is_a_docker_exec() {
    let service = service("pre_stop: [{command: [a, $$b], user: root, privileged: true, working_dir: /w, environment: {K: v, N: null}}]").unwrap();
    let hook = &service.pre_stop[0];
    assert_eq!(hook.command.argv(), ["a", "$b"]);
    assert_eq!(hook.exec_options().join(" "), "--user root --workdir /w --privileged");
    assert_eq!(hook.variables(), [("K".to_string(), "v".to_string())]);
}

#[test]
fn pairs_are_recognised_by_name_and_app() {
    let names = |services: &str| {
        let project = read(&format!("name: p\nservices: {{{services}}}")).unwrap();
        project.pairs.iter().map(|p| p.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(names("web_a: {image: x}, web_b: {image: x}"), ["web"]);
    assert_eq!(names("web-blue: {image: x}, web-green: {image: x}"), ["web"]);
    let hosts = "environment: {VIRTUAL_HOST: h}";
    assert_eq!(names(&format!("s_a: {{{hosts}}}, s_b: {{image: y, {hosts}}}")), ["s"]);
    let ports = "environment: {VIRTUAL_HOST_MULTIPORTS: 'h: {/: {port: 1}}'}";
    assert_eq!(names(&format!("s_a: {{{ports}}}, s_b: {{image: y, {ports}}}")), ["s"]);
    let none = "environment: {VIRTUAL_HOST: ''}";
    assert_eq!(names(&format!("s_a: {{{none}}}, s_b: {{image: y, {none}}}")), [""; 0]);
    assert_eq!(names("web_a: {image: x}, web_b: {image: y}"), [""; 0]);
    assert_eq!(names("web_a: {image: x}, web_c: {image: x}"), [""; 0]);
    assert_eq!(names("web: {image: z}, web_a: {image: x}, web_b: {image: x}"), [""; 0]);
}

#[test]
fn a_declared_pair_names_two_existing_services() {
    let with = |sides: &str| {
        read(&format!(
            "name: p\nx-zd: {{pairs: {{w: {sides}}}}}\nservices: {{a: {{image: x}}, b: {{image: y}}}}"
        ))
    };
    assert_eq!(with("[a, b]").unwrap().pair("a").unwrap().name, "w");
    assert!(with("[a, c]").unwrap_err().message.contains("the project has no service `c`"));
    assert!(with("[a, a]").unwrap_err().message.contains("same service"));
    assert!(with("[a]").unwrap_err().message.contains("x-zd.pairs"));
}

#[test]
fn dependencies_of_dependencies_are_needed_too() {
    let project = read(
        "name: p\nservices: {app: {depends_on: {db: {condition: service_healthy}, once: {condition: service_completed_successfully}}}, \
         db: {depends_on: {disk: {condition: service_started}}}, disk: {}, once: {}}",
    )
    .unwrap();
    let needs = project.services["app"].needs(&project);
    let expected = [
        ("db", DependsOnCondition::Healthy),
        ("disk", DependsOnCondition::Started),
        ("once", DependsOnCondition::Completed),
    ];
    assert_eq!(needs.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn an_invalid_update_config_names_its_full_key() {
    let text = message("deploy: {update_config: {failure_action: panic}}");
    assert_eq!(text, "compose.yaml: `services.app.deploy.update_config.failure_action` is invalid");
    let text = message("deploy: {rollback_config: {order: first}}");
    assert_eq!(text, "compose.yaml: `services.app.deploy.rollback_config.order` is invalid");
}

#[test]
fn only_a_writable_volume_counts_as_held() {
    let holds = |volumes: &str| service(&format!("volumes: [{volumes}]")).unwrap().holds_volume();
    assert!(!holds(""));
    assert!(holds("{type: volume, source: v, target: /v}"));
    assert!(holds("{type: bind, source: /s, target: /v}"));
    assert!(!holds("{type: bind, source: /s, target: /v, read_only: true}"));
    assert!(!holds("{type: tmpfs, target: /v}"));
    assert!(!holds("{type: bind, source: /run/docker.sock, target: /s}"));
}

#[test]
fn jobs_belong_to_a_service_or_to_all() {
    let yaml = "name: p\nx-zd: {before: {service: migrate}, keep: 3}\n\
                services: {app: {x-zd: {after: {service: warm}}}, web: {x-zd: {before: {service: own}}}}";
    let project = read(yaml).unwrap();
    let settings = |s: &str| project.services[s].settings.clone();
    assert_eq!(settings("app").before.as_deref(), Some("migrate"));
    assert_eq!(settings("app").after.as_deref(), Some("warm"));
    assert_eq!(settings("web").before.as_deref(), Some("own"));
    assert_eq!(project.keep, 3);
    assert!(read("name: p\nx-zd: {keep: 0}").unwrap_err().message.contains("x-zd.keep"));
}

#[test]
fn names_of_labels_lose_the_doubled_dollars_and_port_ranges_are_expanded() {
    let service = service("labels: {'a$$b': 'c$$d'}, expose: ['3000', '4000-4002/udp', '9-x']").unwrap();
    assert_eq!(service.labels["a$b"], "c$d");
    assert_eq!(service.exposed(), ["3000/tcp", "4000/udp", "4001/udp", "4002/udp", "9-x/tcp"]);
}

#[test]
fn an_entrypoint_replaces_the_command_of_the_image() {
    let image = |word: &str| vec![word.to_string()];
    let line = |keys: &str| service(keys).unwrap().command_line(&image("e"), &image("c")).join(" ");
    let lines =
        ["command: null", "entrypoint: [x]", "command: [y]", "entrypoint: [x], command: [y]"].map(line);
    assert_eq!(lines, ["e c", "x", "e y", "x y"]);
}
