use super::facts::PortForward;
use super::select::proxied_services;
use super::templates::files;
use super::*;

/// A project as `docker compose config` prints it.
fn facts(services: &str) -> ProjectFacts {
    let yaml = format!(
        "name: p\nservices: {services}\nnetworks: {{back: {{internal: true}}, default: {{name: p_default}}}}"
    );
    let project = Project::read(&yaml, "compose.yaml", &FlagLayers::default()).unwrap();
    ProjectFacts { project, image_ports: BTreeMap::new() }
}

fn options(services: &[(&str, Option<u16>)]) -> InitArgs {
    InitArgs { service: services.iter().map(|(s, p)| (s.to_string(), *p)).collect(), ..InitArgs::default() }
}

/// `host>bind>target`, with a leading `=` for TCP.
fn routes(proxied_service: &ProxiedService) -> String {
    let one = |r: &PortForward| {
        let at = if r.address.is_empty() { String::new() } else { format!("{}@", r.address) };
        format!("{}{at}{}>{}>{}", if r.is_tcp { "=" } else { "" }, r.host, r.bind, r.target)
    };
    proxied_service.routes.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn layout() -> ComposeFiles {
    ComposeFiles { own: vec!["compose.yaml".into()], added: "compose.override.yaml".into(), variable: None }
}

const ONE: &str =
    "{app: {image: shop, ports: [{target: 3000, published: '8080'}], networks: {default: null}}}";

#[test]
fn services_that_look_like_web_applications_are_candidates() {
    let public = "ports: [{target: 3000, published: '80'}]";
    let cases: [(String, &[&str]); 9] = [
        (format!("{{app: {{image: shop, {public}}}}}"), &["app"]),
        (format!("{{app: {{image: shop, {public}}}, db: {{image: 'postgres:16', ports: [{{target: 5432, published: '5432'}}]}}}}"), &["app"]),
        (format!("{{app: {{image: shop, {public}}}, api: {{image: api, expose: ['4000']}}}}"), &["app"]),
        (format!("{{app: {{image: shop, {public}}}, api: {{image: api, ports: [{{target: 4000, published: '81'}}]}}}}"), &["api", "app"]),
        ("{app: {image: shop, expose: ['3000']}, worker: {image: shop}}".into(), &["app"]),
        ("{app: {image: shop, expose: ['3000']}, 'cache': {image: 'docker.io/library/redis:7', expose: ['6379']}}".into(), &["app"]),
        (format!("{{lb: {{image: 'nginxproxy/nginx-proxy:1.7', {public}}}, app: {{image: shop, expose: ['3000']}}}}"), &["app"]),
        ("{own: {image: mydb, ports: [{target: 5432, published: '5432'}]}}".into(), &[]),
        ("{worker: {image: shop}}".into(), &[]),
    ];
    for (services, found) in cases {
        assert_eq!(facts(&services).candidates(), found, "{services}");
    }
}

#[test]
fn the_proxy_takes_over_host_ports() {
    let cases = [
        ("ports: [{target: 3000, published: '8080'}]", None, "8080>8080>3000"),
        ("ports: [{target: 3000, published: '80'}]", None, "80>8080>3000"),
        ("ports: [{target: 3000, published: '80', host_ip: 127.0.0.1}]", None, "127.0.0.1@80>8080>3000"),
        ("ports: [{target: 3000, published: '8080-8090'}]", None, "8080>8080>3000"),
        (
            "ports: [{target: 3000, published: '8080'}, {target: 9000, published: '9000'}]",
            None,
            "8080>8080>3000 =9000>9000>9000",
        ),
        (
            "ports: [{target: 443, published: '443'}, {target: 80, published: '80'}]",
            None,
            "80>8080>80 =443>8443>443",
        ),
        (
            "ports: [{target: 80, published: '80'}, {target: 81, published: '8080'}]",
            None,
            "80>8080>80 =8080>8081>81",
        ),
        (
            "ports: [{target: 3000, published: '80', host_ip: 10.0.0.1}, {target: 3000, published: '80', host_ip: '::1'}]",
            None,
            "10.0.0.1@80>8080>3000 =::1@80>8080>3000",
        ),
        // Docker chooses the host port, so there is no conflict.
        ("ports: [{target: 3000}]", None, "8080>8080>3000"),
        ("expose: ['3000/tcp']", None, "8080>8080>3000"),
        ("expose: ['3000']", Some(4000), "8080>8080>4000"),
        ("ports: [{target: 3000, published: '80'}]", Some(4000), "8080>8080>4000 =80>8081>3000"),
    ];
    for (keys, port, expected) in cases {
        let facts = facts(&format!("{{app: {{image: shop, {keys}}}}}"));
        let proxied = proxied_services(&facts, &options(&[("app", port)])).unwrap();
        assert_eq!(routes(&proxied[0]), expected, "{keys}");
    }
}

#[test]
fn publish_sets_the_host_port() {
    let publish = Some(("127.0.0.1".to_string(), 80));
    let of = |services: &str, names: &[(&str, Option<u16>)]| {
        let all =
            proxied_services(&facts(services), &InitArgs { publish: publish.clone(), ..options(names) })
                .unwrap();
        all.iter().map(routes).collect::<Vec<_>>().join(" | ")
    };
    assert_eq!(of(ONE, &[("app", None)]), "127.0.0.1@80>8080>3000");
    let two = "{a: {image: x, expose: ['1']}, b: {image: x, expose: ['2']}}";
    assert_eq!(of(two, &[("a", None), ("b", None)]), "127.0.0.1@80>8080>1 | 127.0.0.1@81>8081>2");
}

#[test]
fn a_service_that_cannot_have_a_proxy_is_refused_with_a_hint() {
    let cases = [
        ("{app: {image: x}}", "names its port", "--service app:3000"),
        (
            "{app: {image: x, network_mode: host, expose: ['1']}}",
            "`network_mode: host`",
            "services.app.network_mode",
        ),
        (
            "{app: {image: x, ports: [{target: 53, published: '53', protocol: udp}], expose: ['1']}}",
            "53/udp",
            "--service",
        ),
        ("{web: {image: x}}", "has no service `app`", "it has `web`"),
    ];
    for (services, message, hint) in cases {
        let error = proxied_services(&facts(services), &options(&[("app", None)])).unwrap_err();
        assert!(error.message.contains(message), "{error}");
        assert!(error.hint.as_ref().unwrap().contains(hint), "{error}");
    }
    let same = "{a: {image: x, ports: [{target: 1, published: '80'}]}, b: {image: x, ports: [{target: 2, published: '80', host_ip: 127.0.0.1}]}}";
    let error = proxied_services(&facts(same), &options(&[("a", None), ("b", None)])).unwrap_err();
    assert!(error.message.contains("`a` and `b` both need the host port 80"), "{error}");
}

#[test]
fn the_proxy_probes_the_path_of_the_healthcheck() {
    let path = |test: &str| {
        let project = facts(&format!("{{app: {{image: x, healthcheck: {{test: {test}}}}}}}")).project;
        facts::health_path(&project.services["app"])
    };
    let found = |test: &str| path(test).unwrap_or_default();
    assert_eq!(found("[CMD, curl, '-f', 'http://localhost:3000/health']"), "/health");
    assert_eq!(found("[CMD-SHELL, 'wget -qO- http://127.0.0.1/up || exit 1']"), "/up");
    assert_eq!(found("[CMD-SHELL, 'curl -f \"http://localhost:3000\" || exit 1']"), "/");
    assert_eq!(path("[CMD, pg_isready]"), None);
    assert_eq!(path("[NONE]"), None);
    // Neither the URL of another machine, nor one with a variable path.
    assert_eq!(path("[CMD, curl, 'http://other/health']"), None);
    assert_eq!(path("[CMD-SHELL, 'curl http://localhost/$$ROOT/health']"), None);
}

#[test]
fn there_are_slots_for_two_generations() {
    let places = |keys: &str| {
        let facts = facts(&format!("{{app: {{image: x, expose: ['1'], {keys}}}}}"));
        proxied_services(&facts, &options(&[("app", None)])).unwrap()[0].slots
    };
    assert_eq!(places("scale: 1"), 8);
    assert_eq!(places("scale: 4"), 8);
    assert_eq!(places("deploy: {replicas: 5}"), 10);
}

#[test]
fn haproxy_is_on_the_networks_of_its_services_and_reached_from_the_host() {
    let text = |networks: &str| {
        let facts = facts(&format!("{{app: {{image: x, expose: ['1'], networks: {networks}}}}}"));
        let proxied = proxied_services(&facts, &options(&[("app", None)])).unwrap();
        files(&facts, &proxied, &layout())[0].text.clone()
    };
    assert!(!text("{default: null}").contains("networks"));
    assert!(text("{front: null, back: null}").contains("    networks:\n      - back\n      - front\n"));
    assert!(text("{back: null}").contains("    networks:\n      - back\n      - default\n"));
}

#[test]
fn obstacles_to_a_second_instance_are_removed() {
    let added = |keys: &str, health: Option<&str>| {
        let facts = facts(&format!("{{app: {{image: x, {keys}}}, proxy: {{image: x}}, 'on': {{image: x}}}}"));
        let options = InitArgs {
            health_path: health.map(String::from),
            ..options(&[("app", Some(1)), ("on", Some(2))])
        };
        let proxied = proxied_services(&facts, &options).unwrap();
        files(&facts, &proxied, &layout())[0].text.clone()
    };
    let plain = added("expose: ['1']", None);
    assert!(!plain.contains("!reset") && !plain.contains("  app:\n"), "{plain}");
    // Another service has the first name, and a name that is a boolean in YAML is quoted.
    assert!(plain.contains("  haproxy:\n") && plain.contains("      - \"on\"\n"), "{plain}");
    assert!(added("ports: [{target: 1, published: '80'}]", None).contains("ports: !reset []"));
    let named = added("container_name: one, expose: ['1']", None);
    assert!(!named.contains("container_name"), "its name is no obstacle: {named}");
    assert!(added("expose: ['1']", Some("/up")).contains("health: { path: \"/up\" }"));
}

#[test]
fn the_adapter_can_use_the_configuration() {
    let facts = facts(ONE);
    let proxied =
        proxied_services(&facts, &InitArgs { health_path: Some("/up".into()), ..options(&[("app", None)]) })
            .unwrap();
    let config = &files(&facts, &proxied, &layout())[1].text;
    let settings = crate::proxy::haproxy::config::HaproxyConfig::parse(config);
    assert_eq!(settings.sockets, [("/tmp/haproxy.sock".to_string(), "admin".to_string())]);
    let template = &settings.lines[0];
    assert_eq!(
        (&template.host[..], template.port, template.numbers.clone()),
        ("app", Some(3000), Some(1..=8))
    );
    assert!(!settings.is_sticky(&template.backend));
    assert!(config.contains("option httpchk GET /up\n    http-check expect status 200-399\n"), "{config}");
}

#[test]
fn files_that_compose_does_not_find_by_default_are_named() {
    let layout = ComposeFiles::from_named(
        &["/srv/x/prod.yaml".into(), "more it.yaml".into(), "compose.zd.yaml".into()],
        Path::new("/srv/x"),
    );
    assert_eq!(layout.own, [Path::new("prod.yaml"), Path::new("more it.yaml")]);
    let facts = facts(ONE);
    let files = files(&facts, &[], &layout);
    let text = |name: &str| &files.iter().find(|f| f.path == Path::new(name)).unwrap().text;
    assert!(
        text("Makefile")
            .contains("export COMPOSE_FILE ?= prod.yaml:more it.yaml:compose.zd.yaml\nCOMPOSE_ZD ?=")
    );
    let script = text("scripts/deploy-and-restart.sh");
    assert!(
        script.contains("export COMPOSE_FILE='prod.yaml:more it.yaml:compose.zd.yaml'\n\nexec "),
        "{script}"
    );
}

fn file(path: &str) -> NewFile {
    NewFile { path: path.into(), text: "ours".into(), executable: true, description: String::new() }
}

#[test]
fn nothing_is_written_if_one_file_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (file("new/a"), file("b/c"));
    std::fs::write(folder.path().join("b"), "no folder").unwrap();
    let files = [(&first, FileAction::New), (&second, FileAction::New)];
    let error = files::write_all(folder.path(), &files).unwrap_err();
    assert!(error.message.contains("b/c"), "{error}");
    assert!(!folder.path().join("new").exists());
}

#[test]
fn a_file_that_appeared_meanwhile_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (file("first"), file("second"));
    assert_eq!(files::status_of(folder.path(), &second).unwrap(), FileStatus::Missing);
    std::fs::write(folder.path().join("second"), "theirs").unwrap();
    assert_eq!(files::status_of(folder.path(), &second).unwrap(), FileStatus::Different);
    let files = [(&first, FileAction::New), (&second, FileAction::New)];
    files::write_all(folder.path(), &files).unwrap_err();
    assert_eq!(std::fs::read_to_string(folder.path().join("second")).unwrap(), "theirs");
    assert!(!folder.path().join("first").exists());
    files::write_all(folder.path(), &[(&second, FileAction::Overwritten)]).unwrap();
    assert_eq!(files::status_of(folder.path(), &second).unwrap(), FileStatus::Same);
}
