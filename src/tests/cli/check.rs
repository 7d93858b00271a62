//! Tests of `check`: it reads the project and the engine, reports on each service, and changes nothing.

use serde_json::Value;

use super::FakeDocker;

/// Asserts that docker calls only read; lists the reads besides those of a deploy.
fn assert_only_reads(fake: &FakeDocker) {
    let calls = fake.calls();
    let asks = ["compose version", "stats ", "context inspect", "exec old cat /proc/1/status"];
    let changes: Vec<&String> = calls.iter().filter(|c| !asks.iter().any(|a| c.contains(a))).collect();
    assert!(changes.is_empty(), "{changes:?}");
}

#[test]
fn check_passes_a_service_that_loses_nothing() {
    let fake = FakeDocker::new();
    fake.service(&format!(
        "image: 'app:1', restart: always, x-zd: {{health: {{path: /up, port: {}}}}}",
        fake.port
    ));
    fake.run("check").code(0).stdout_eq(
        "\
app  yes  1 instance, no route
not checked
  - stop signal of `app`: not available from this machine or the image
",
    );
    assert_only_reads(&fake);
}

#[test]
fn check_reports_each_loss_with_its_fix_and_fails() {
    let fake = FakeDocker::new();
    fake.service("image: 'app:1', restart: always, container_name: one, deploy: {replicas: 2}, healthcheck: {test: [CMD, up]}");
    let expected = "\
app  no   1 instance, no route
no    `app` has `container_name: one`, which only one of its 2 instances can have [container-name]
      hint: run one instance, or remove `services.app.container_name`; other containers reach it by its service name `app`
";
    fake.run("check --quiet").code(1).stdout_eq(expected);
    fake.run("check --quiet app").code(1).stderr_eq(
        "\
error: `app`: a deploy would lose requests or data, or be refused
hint: follow the hint of each `no`, then run `compose-zd check` again
",
    );
    assert_only_reads(&fake);
}

#[test]
fn check_notes_a_serving_instance_that_fails_the_probe() {
    let fake = FakeDocker::new();
    let port = super::http_server("404 Not Found");
    let health = format!("x-zd: {{health: {{path: /up, port: {port}}}}}");
    fake.service(&format!("image: 'app:1', restart: always, {health}"));
    let output = String::from_utf8(fake.run("check").code(0).get_output().stdout.clone()).unwrap();
    assert!(
        output.contains("app-1 serves now and does not pass the probe of new instances: GET "),
        "{output}"
    );
    assert!(output.contains("[serving-not-ready]") && output.contains("`x-zd.health.path`"), "{output}");
    assert_only_reads(&fake);
}

#[test]
fn check_prints_one_json_document() {
    let fake = FakeDocker::new();
    fake.service("image: 'app:1', restart: always, container_name: one, deploy: {replicas: 2}, healthcheck: {test: [CMD, up]}");
    let output = fake.run("check --output json").code(1).get_output().clone();
    let audit_report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&audit_report["project"], &audit_report["ok"]), (&"p".into(), &false.into()));
    assert_eq!(audit_report["services"][0]["verdict"], "no");
    let finding = &audit_report["findings"][0];
    assert_eq!((&finding["rule"], &finding["service"]), (&"container-name".into(), &"app".into()));
}

#[test]
fn without_an_engine_check_audits_the_file_and_lists_the_rest() {
    let fake = FakeDocker::new();
    fake.service("image: 'app:1', restart: always, container_name: one, deploy: {replicas: 2}");
    fake.no_engine("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.");
    let output = fake.run("check").code(1).get_output().clone();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.contains("[container-name]") && stdout.contains("no Docker engine answers"), "{stdout}");
    assert_only_reads(&fake);
}

#[test]
fn an_engine_that_the_user_names_has_to_answer() {
    let fake = FakeDocker::new();
    fake.no_engine("Cannot connect to the Docker daemon at tcp://10.0.0.1:2375.");
    for flag in ["--context far", "--host tcp://10.0.0.1:2375"] {
        let output = fake.run(&format!("check {flag}")).code(1).get_output().clone();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with("error: ") && stderr.contains("engine"), "{stderr}");
    }
}

#[test]
fn check_refuses_a_job_that_is_no_service() {
    let fake = FakeDocker::new();
    fake.service("image: app:1, x-zd: {before: {service: migrat}}");
    let output = fake.run("check").code(2).get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("`services.app.x-zd.before.service`: the project has no service `migrat`"),
        "{stderr}"
    );
}

#[test]
fn check_refuses_an_unknown_service_and_a_project_without_services() {
    let fake = FakeDocker::new();
    fake.run("check missing").code(2).stderr_eq(
        "\
error: project `p` has no service or pair `missing`
hint: the project has `app`
",
    );
    fake.write("config.yaml", "name: p\nservices: {}\n");
    let output = fake.run("check").code(2).get_output().clone();
    assert!(String::from_utf8(output.stderr).unwrap().contains("has no services"));
    fake.fail("compose config", "yaml: line 3: did not find expected key");
    let output = fake.run("check").code(2).get_output().clone();
    assert!(String::from_utf8(output.stderr).unwrap().contains("did not find expected key"));
}

/// Services of typical projects, with the start of the line on each, in the order of the report.
const PROJECTS: [(&str, &[&str]); 9] = [
    (
        "db: {image: 'postgres:16', volumes: [{type: volume, source: d, target: /var/lib/postgresql/data}]}, \
         cache: {image: 'shop-cache:1', expose: ['6379']}, \
         web: {image: 'shop:1', ports: [{target: 80, published: '8080'}], depends_on: {db: {condition: service_started}}, \
         volumes: [{type: volume, source: static, target: /app/static}]}",
        &["web yes not started", "cache - Redis", "db - PostgreSQL"],
    ),
    (
        "web: {image: 'shop:1', ports: [{target: 80, published: '8080'}]}, \
         worker: {image: 'shop:1', command: [celery, worker], volumes: [{type: volume, source: media, target: /media}]}, \
         beat: {image: 'shop:1', command: [celery, -A, shop, beat]}, broker: {image: 'rabbitmq:4'}",
        &[
            "web yes",
            "beat no not started, a scheduler (celery beat)",
            "worker yes not started, no route",
            "broker - RabbitMQ",
        ],
    ),
    (
        "beat: {image: 'shop:1', command: [celery, beat], deploy: {update_config: {order: stop-first}}}",
        &["beat yes not started, a scheduler (celery beat), stops before it starts"],
    ),
    (
        "front: {image: 'front:1', ports: [{target: 80, published: '80'}], environment: {BACKEND: 'http://api:3000'}}, \
         api: {image: 'api:1'}",
        &["front yes", "api - reached only by other services"],
    ),
    (
        "app: {image: 'shop:1', ports: [{target: 80, published: '80'}], depends_on: {seed: {condition: \
         service_completed_successfully}}}, seed: {image: 'shop:1'}, db-init: {image: 'shop:1'}",
        &["app yes", "db-init - a job", "seed - a job"],
    ),
    (
        "app: {image: 'shop:1', container_name: shop, ports: [{target: 80, published: '80'}], \
         volumes: [{type: volume, source: u, target: /uploads}]}",
        &["app yes"],
    ),
    (
        "web: {image: 'caddy-app:1', ports: [{target: 443, published: '443'}, {target: 443, published: '443', protocol: udp}]}",
        &["web no"],
    ),
    ("db: {image: 'mysql:8', ports: [{target: 3306, published: '3306'}]}", &["db - MySQL"]),
    ("api: {image: 'api:1', expose: ['80']}, db: {image: mongo}", &["api no", "db - MongoDB"]),
];

#[test]
fn check_lists_first_what_is_reached_from_outside() {
    let fake = FakeDocker::new();
    for (services, expected) in PROJECTS {
        fake.write("config.yaml", &format!("name: q\nservices: {{{services}}}\n"));
        let output = fake.run("check --output json").get_output().clone();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let rows = document["services"].as_array().unwrap().iter().map(|row| {
            let verdict = row["verdict"].as_str().unwrap().replace("left_alone", "-");
            format!("{} {verdict} {}", row["name"].as_str().unwrap(), row["message"].as_str().unwrap())
        });
        let rows: Vec<String> = rows.collect();
        assert_eq!(rows.len(), expected.len(), "{services}: {rows:#?}");
        let is_expected = |(row, start): (&String, &&str)| row.starts_with(start);
        assert!(rows.iter().zip(expected).all(is_expected), "{services}: {rows:#?}");
    }
}

/// One mistake is one loss: what follows from it is not reported as well.
#[test]
fn check_reports_one_cause_once() {
    let fake = FakeDocker::new();
    for (keys, rule) in [
        (
            "container_name: one, deploy: {replicas: 2}, ports: [{target: 80, published: '8080'}]",
            "container-name",
        ),
        (
            "ports: [{target: 443, published: '443'}, {target: 443, published: '443', protocol: udp}]",
            "fixed-udp-port",
        ),
    ] {
        fake.service(&format!(
            "image: 'app:1', {keys}, volumes: [{{type: volume, source: u, target: /uploads}}]"
        ));
        let output = fake.run("check --output json").code(1).get_output().clone();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = document["findings"].as_array().unwrap();
        let losses = findings.iter().filter(|f| f["severity"] == "no" && f["rule"] != "fixed-host-port");
        let losses: Vec<&Value> = losses.map(|f| &f["rule"]).collect();
        assert_eq!(losses, [rule], "{document:#}");
    }
}

/// `check` lists everything that a file lacks for a Swarm; `init --swarm --print` shows the converted file.
#[test]
fn check_audits_a_compose_project_for_a_future_swarm() {
    let fake = FakeDocker::new();
    let folder = fake.dir.path().canonicalize().unwrap();
    fake.write("site.conf", "x");
    fake.service(&format!(
        "image: 'app:1', build: {{context: .}}, depends_on: {{db: {{condition: service_started}}}}, ports: [{{target: 80, published: '80', host_ip: 127.0.0.1}}], \
         volumes: [{{type: bind, source: '{}/site.conf', target: /c}}], network_mode: 'service:db'",
        folder.display()
    ));
    let run = fake.run("check --engine swarm --output json").code(1);
    let audit_report: Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
    let found = audit_report["findings"].as_array().unwrap().iter().map(|f| f["rule"].as_str().unwrap());
    let found: Vec<&str> = found.collect();
    for rule in ["swarm-bind", "swarm-registry", "swarm-ignores", "refused"] {
        assert!(found.contains(&rule), "no {rule} in {found:?}");
    }
    assert_eq!(found.iter().filter(|rule| **rule == "refused").count(), 2, "{audit_report:#}");
    let run = fake.run("init --swarm --print").success();
    let text = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
    for part in ["# services.app.ports: `127.0.0.1`", "file: ./site.conf", "${REGISTRY:?", "engine: swarm"] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
    fake.run("init --swarm").code(2);
    assert!(!fake.path("compose.swarm.yaml").exists());
}
