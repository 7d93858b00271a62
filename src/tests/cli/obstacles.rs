//! Obstacles to a rollout: `check`, `deploy --dry-run` and `deploy` report the same ones, and change nothing.

use super::*;

/// Keys of `app`, other services, the rule, and a part of the message.
const OBSTACLES: [(&str, &str, &str, &str); 16] = [
    ("container_name: one, deploy: {replicas: 2}", "", "container-name", "`container_name: one`"),
    ("ports: [{target: 3000, published: '8080'}]", "", "fixed-host-port", "host port 8080"),
    ("network_mode: host", "", "network-mode", "`network_mode: host`"),
    (
        "networks: {default: {ipv4_address: 10.9.0.9}}",
        "",
        "fixed-address",
        "`networks.default.ipv4_address: 10.9.0.9`",
    ),
    (
        "networks: {default: {ipv6_address: 'fd00::9'}}",
        "",
        "fixed-address",
        "`networks.default.ipv6_address: fd00::9`",
    ),
    (
        "networks: {default: {mac_address: '02:42:ac:11:65:43'}}",
        "",
        "fixed-address",
        "`networks.default.mac_address",
    ),
    ("mac_address: '02:42:ac:11:65:43'", "", "fixed-address", "`mac_address: 02:42:ac:11:65:43`"),
    ("deploy: {replicas: 0}", "", "no-instances", "0 instances"),
    (
        "image: app:1",
        ", other: {image: o:1, network_mode: 'service:app'}",
        "shared-namespace",
        "network_mode: service:app",
    ),
    ("image: app:1", ", other: {image: o:1, pid: 'service:app'}", "shared-namespace", "pid: service:app"),
    ("image: app:1", ", other: {image: o:1, ipc: 'service:app'}", "shared-namespace", "ipc: service:app"),
    (
        "image: app:1",
        ", other: {image: o:1, volumes_from: ['app:ro']}",
        "shared-namespace",
        "volumes_from: - app",
    ),
    ("volumes: [{type: volume, target: /uploads}]", "", "anonymous-volume", "anonymous volume at /uploads"),
    (
        "ports: [{target: 3000, published: '8080-8081'}], deploy: {replicas: 2}",
        "",
        "port-range",
        "host ports 8080-8081: 2 for 1 running and 2 new instances",
    ),
    (
        "healthcheck: {test: [CMD, 'true'], start_interval: 1s}",
        "",
        "start-interval",
        "`healthcheck.start_interval`, which Docker Engine 24.0.7 does not know",
    ),
    (
        "pre_start: [{command: [/migrate], per_replica: true}]",
        "",
        "pre-start-per-replica",
        "`pre_start[0].per_replica: true`",
    ),
];

fn write_project(fake: &FakeDocker, keys: &str, others: &str) {
    let image = if keys.contains("image:") { "" } else { "image: app:1, " };
    let own = format!("{image}{keys}, x-zd: {{health: {{path: /up, port: {}}}}}", fake.port);
    fake.write("config.yaml", &format!("name: p\nservices: {{app: {{{own}}}{others}}}\n"));
}

/// Asserts that docker calls change nothing; `check` also reads inside containers and the context.
fn assert_no_changes(fake: &FakeDocker) {
    let looks = ["context inspect", "exec old cat ", "stats ", "compose version"];
    let changes = fake.changes();
    let others: Vec<&str> = changes.lines().filter(|c| !looks.iter().any(|l| c.starts_with(l))).collect();
    assert_eq!(others, [""; 0]);
}

#[test]
fn check_dry_run_and_deploy_refuse_the_same_obstacles() {
    for (keys, others, rule, words) in OBSTACLES {
        let fake = FakeDocker::new();
        fake.write("engine", "24.0.7 1000000\n");
        write_project(&fake, keys, others);
        let check = fake.run("check app").code(1);
        let output = String::from_utf8_lossy(&check.get_output().stdout).into_owned();
        assert!(output.contains(words) && output.contains(&format!("[{rule}]")), "{keys}: {output}");
        for command in ["deploy app --dry-run", "deploy app"] {
            says(&fake.run(command).code(2), &[words, "hint: "]);
        }
        assert_no_changes(&fake);
    }
}

#[test]
fn a_harmless_setting_is_no_obstacle() {
    let cases = [
        ("ports: [{target: 3000}]", ""),
        ("networks: {default: {aliases: [shop]}}", ""),
        ("image: app:1", ", other: {image: o:1, network_mode: 'service:third'}"),
        ("image: app:1", ", other: {image: o:1, volumes_from: ['container:app']}"),
        ("volumes: [{type: volume, source: data, target: /data, read_only: true}], tmpfs: [/run]", ""),
    ];
    for (keys, others) in cases {
        let fake = FakeDocker::new();
        write_project(&fake, keys, others);
        fake.run("deploy app").success();
    }
}

/// The image declares a volume where the file mounts nothing.
#[test]
fn an_anonymous_volume_of_the_image_is_an_obstacle_unless_mounted_or_fresh() {
    let image = r#"{"Id": "sha256:wanted", "Config": {"Volumes": {"/uploads": {}}}}"#;
    let fake = FakeDocker::new();
    fake.write("image", image);
    // A volume that only the new image declares holds no data yet.
    says(&fake.run("deploy app --dry-run").success(), &["deploying `app`"]);
    let text = fs::read_to_string(fake.path("containers/old")).unwrap();
    let mounts = r#""Mounts": [{"Type": "volume", "Name": "x", "Destination": "/uploads"}], "Config""#;
    fake.write("containers/old", &text.replacen("\"Config\"", mounts, 1));
    let check = fake.run("check app").code(1);
    let output = String::from_utf8_lossy(&check.get_output().stdout).into_owned();
    assert!(
        output.contains("anonymous volume at /uploads") && output.contains("[anonymous-volume]"),
        "{output}"
    );
    for command in ["deploy app --dry-run", "deploy app"] {
        says(&fake.run(command).code(2), &["anonymous volume at /uploads", "x-zd.anonymous_volumes: fresh"]);
    }
    assert_no_changes(&fake);

    for keys in ["volumes: [{type: volume, source: data, target: /uploads/}]", "tmpfs: ['/uploads:size=1m']"]
    {
        let fake = FakeDocker::new();
        fake.write("image", image);
        write_project(&fake, keys, "");
        fake.run("deploy app").success();
    }
    let fake = FakeDocker::new();
    fake.write("image", image);
    let port = fake.port;
    fake.service(&format!(
        "image: app:1, x-zd: {{anonymous_volumes: fresh, health: {{path: /up, port: {port}}}}}"
    ));
    fake.run("deploy app").success();
    let fake = FakeDocker::new();
    fake.write("image", image);
    fake.run("deploy app --anonymous-volumes fresh").success();
}

/// The proxy is an Envoy, which routes to `app` by an environment variable.
#[test]
fn an_unknown_proxy_that_routes_to_the_service_is_refused() {
    let envoy = |upstream: &str| {
        let fake = FakeDocker::new();
        fake.write(
            "config.yaml",
            &format!(
                "name: p\nnetworks: {{default: {{name: p_default}}}}\nservices: {{app: {{image: app:1, networks: {{default: }}, \
                 x-zd: {{health: {{path: /up, port: {}}}}}}}}}\n",
                fake.port
            ),
        );
        fake.write(
            "containers/web",
            &format!(
                r#"{{"Id": "web", "Name": "/web", "Path": "envoy", "Image": "sha256:web", "State": {{"Status": "running"}},
"Config": {{"Image": "envoyproxy/envoy:v1.36", "Env": ["UPSTREAM={upstream}"]}},
"NetworkSettings": {{"Networks": {{"p_default": {{"IPAddress": "127.0.0.2"}}}}}}}}
"#
            ),
        );
        fake
    };
    let fake = envoy("http://app:3000");
    let check = fake.run("check app").code(1);
    let output = String::from_utf8_lossy(&check.get_output().stdout).into_owned();
    assert!(output.contains("`web` routes to `app`") && output.contains("[unknown-proxy]"), "{output}");
    for command in ["deploy app --dry-run", "deploy app"] {
        says(
            &fake.run(command).code(1),
            &["`web` routes to `app`", "UPSTREAM=http://app:3000", "--proxy-kind none"],
        );
        assert!(fake.path("containers/old").exists() && !fake.path("containers/new").exists());
    }
    fake.run("deploy app --proxy-kind none").success();
    let fake = envoy("http://other:3000");
    fake.write("exec", "@readable\n");
    fake.run("deploy app").success();
}

/// A project whose service has these keys, beside a container with these settings on the same network.
fn project_with_claim(keys: &str, beside: &str) -> FakeDocker {
    let fake = FakeDocker::new();
    let port = fake.port;
    let service = format!(
        "image: app:1, networks: {{default: }}, x-zd: {{health: {{path: /up, port: {port}}}}}, {keys}"
    );
    fake.write(
        "config.yaml",
        &format!("name: p\nnetworks: {{default: {{name: p_default}}}}\nservices: {{app: {{{service}}}}}\n"),
    );
    if !beside.is_empty() {
        let text = format!(
            r#"{{"Id": "lb", "Name": "/lb", "Image": "sha256:lb", "State": {{"Status": "running"}}, {beside},
"NetworkSettings": {{"Networks": {{"p_default": {{"IPAddress": "127.0.0.2"}}}}}}}}
"#
        );
        fake.write("containers/lb", &text);
    }
    fake
}

#[test]
fn a_requested_route_without_a_proxy_is_refused() {
    let claims = [
        ("environment: {VIRTUAL_HOST: a.test}", "`VIRTUAL_HOST`"),
        ("labels: {traefik.http.routers.a.rule: Host(`a.test`)}", "the labels `traefik.…`"),
        ("labels: {caddy: a.test}", "the labels `caddy…`"),
    ];
    for (claim, named) in claims {
        let fake = project_with_claim(claim, "");
        let check = fake.run("check app").code(1);
        let output = String::from_utf8_lossy(&check.get_output().stdout).into_owned();
        assert!(output.contains("[route-not-found]"), "{output}");
        says(&fake.run("deploy app").code(1), &[named, "--proxy-kind none"]);
        assert!(fake.path("containers/old").exists() && !fake.path("containers/new").exists());
        fake.run("deploy app --proxy-kind none").success();
    }
    project_with_claim("labels: {traefik.enable: 'false'}", "").run("deploy app").success();
}

#[test]
fn a_nearby_proxy_that_may_route_to_the_service_is_refused() {
    let cases = [
        (r#""Path": "haproxy", "Config": {"Image": "haproxy:3.2"}"#, "its configuration, "),
        (
            r#""Path": "traefik", "Args": ["--providers.docker", "--providers.etcd"], "Config": {"Image": "traefik:3"}"#,
            "its provider `etcd`",
        ),
        (r#""Path": "cloudflared", "Config": {"Image": "cloudflare/cloudflared"}"#, "cannot be read"),
    ];
    for (proxy, why) in cases {
        let fake = project_with_claim("", proxy);
        says(&fake.run("deploy app").code(1), &["`lb` may route to `app`", why, "`--proxy-kind none`"]);
        assert!(fake.path("containers/old").exists() && !fake.path("containers/new").exists());
        fake.run("deploy app --proxy-kind none").success();
    }
    // The configuration of Traefik is readable, and routes elsewhere.
    let flags = r#""Path": "traefik", "Args": ["--providers.docker"], "Config": {"Image": "traefik:3"}"#;
    project_with_claim("", flags).run("deploy app").success();
}

#[test]
fn no_command_runs_in_a_proxy_outside_the_networks_of_the_project() {
    let proxy = r#""Path": "haproxy", "Config": {"Image": "haproxy:3.2"}"#;
    let fake = project_with_claim("", proxy);
    let text = std::fs::read_to_string(fake.path("containers/lb")).unwrap();
    fake.write("containers/lb", &text.replace("p_default", "other_default"));
    fake.run("deploy app").success();
    let calls = fake.calls();
    assert!(!calls.iter().any(|call| call.starts_with("exec ")), "{calls:?}");
}

/// A project with a container beside `app` that Compose does not manage.
fn project_with_container(settings: &str) -> FakeDocker {
    let fake = FakeDocker::new();
    let text = format!(
        r#"{{"Id": "other", "Name": "/other", "Image": "sha256:o", "State": {{"Status": "running"}},
"Config": {{"Image": "o:1"}}, {settings}}}
"#
    );
    fake.write("containers/other", &text);
    fake
}

#[test]
fn a_container_bound_to_a_running_instance_is_an_obstacle() {
    let names = |instance: &str, network: &str| {
        format!(
            r#""Args": ["--upstream", "http://{instance}:3000"], "NetworkSettings": {{"Networks": {{"{network}": {{}}}}}}"#
        )
    };
    let links = r#""NetworkSettings": {"Networks": {"p_default": {"Links": ["p-app-1:backend"]}}}"#;
    let cases = [
        (
            r#""HostConfig": {"NetworkMode": "container:p-app-1"}"#,
            "shared-namespace",
            "`network_mode: container:p-app-1`",
        ),
        (r#""HostConfig": {"PidMode": "container:p-app-1"}"#, "shared-namespace", "`pid: container:p-app-1`"),
        (
            r#""HostConfig": {"VolumesFrom": ["p-app-1:ro"]}"#,
            "shared-namespace",
            "`volumes_from: container:p-app-1`",
        ),
        (links, "linked", "could not resolve `backend`"),
        (&names("p-app-1", "p_default"), "names-instance", "`other` refers to p-app-1 in its arguments"),
    ];
    for (settings, rule, words) in cases {
        let fake = project_with_container(settings);
        let check = fake.run("check app").code(1);
        let output = String::from_utf8_lossy(&check.get_output().stdout).into_owned();
        assert!(output.contains(words) && output.contains(&format!("[{rule}]")), "{settings}: {output}");
        for command in ["deploy app --dry-run", "deploy app"] {
            says(&fake.run(command).code(2), &[words, "hint: "]);
        }
        assert_no_changes(&fake);
    }
    for settings in [
        r#""HostConfig": {"NetworkMode": "container:p-db-1"}"#,
        r#""NetworkSettings": {"Networks": {"p_default": {"Links": ["p-db-1:app"]}}}"#,
        &names("p-app-12", "p_default"),
        &names("p-app-1", "elsewhere"),
    ] {
        project_with_container(settings).run("deploy app").success();
    }
}

#[test]
fn check_reports_containers_that_compose_would_stop() {
    let fake = FakeDocker::new();
    fake.write("stops", "up --no-start");
    let check = fake.run("check app").code(1);
    let output = String::from_utf8_lossy(&check.get_output().stdout).into_owned();
    assert!(
        output.contains("Compose would stop running containers") && output.contains("p-db-1 Stopping"),
        "{output}"
    );
    for command in ["deploy app --dry-run", "deploy app"] {
        says(&fake.run(command).code(1), &["Compose would stop running containers", "p-db-1 Stopping"]);
    }
    assert_no_changes(&fake);
}

/// The instance serves nothing, and a deploy repairs it.
#[test]
fn an_instance_in_a_crash_loop_is_named_and_replaced() {
    let fake = FakeDocker::new();
    fake.container("containers/old", "app-1", "restarting", "other");
    let check = fake.run("check app").success();
    let output = String::from_utf8_lossy(&check.get_output().stdout).into_owned();
    assert!(output.contains("p-app-1 keeps crashing") && output.contains("[crash-loop]"), "{output}");
    says(&fake.run("deploy app --dry-run").success(), &["p-app-1 keeps crashing"]);
    says(&fake.run("deploy app").success(), &["p-app-1 keeps crashing"]);
    assert!(fake.changes().ends_with("rm old\n"), "{}", fake.changes());
}

#[test]
fn denied_access_to_the_engine_is_reported_by_check_dry_run_and_deploy() {
    let fake = FakeDocker::new();
    let denied = "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock";
    fake.no_engine(denied);
    let check = fake.run("check app").code(1);
    let output = String::from_utf8_lossy(&check.get_output().stdout).into_owned();
    assert!(
        output.contains("this user may not talk to the Docker engine") && output.contains("[engine-denied]"),
        "{output}"
    );
    for command in ["deploy app --dry-run", "deploy app"] {
        says(&fake.run(command).code(1), &["this user may not talk to the Docker engine", "group `docker`"]);
    }
}

/// Compose would not start `app` either.
#[test]
fn an_unhealthy_dependency_is_reported_by_check_dry_run_and_deploy() {
    let fake = FakeDocker::new();
    let needs = "depends_on: {db: {condition: service_healthy}}";
    write_project(&fake, needs, ", db: {image: d:1}");
    let db = |health: &str| {
        let text = fs::read_to_string(fake.path("containers/old")).unwrap();
        let text = text.replace("\"old\"", "\"db\"").replace("p-app-1", "p-db-1");
        let text = text.replace("service\": \"app\"", "service\": \"db\"");
        let state = format!(r#"{{"Status": "running", "Health": {{"Status": "{health}"}}}}"#);
        fake.write("containers/db", &text.replace(r#"{"Status": "running"}"#, &state));
    };
    db("unhealthy");
    let check = fake.run("check app").code(1);
    let output = String::from_utf8_lossy(&check.get_output().stdout).into_owned();
    assert!(output.contains("`db` is unhealthy") && output.contains("[dependency-unhealthy]"), "{output}");
    for command in ["deploy app --dry-run", "deploy app"] {
        says(&fake.run(command).code(1), &["`db` is unhealthy", "docker inspect"]);
    }
    assert_no_changes(&fake);
    db("healthy");
    fake.run("deploy app").success();
}

/// The user has named the anonymous volume, as the hint says, and copied no data.
#[test]
fn data_in_an_anonymous_volume_is_never_left_behind_silently() {
    let fake = FakeDocker::new();
    let named = "volumes: [{type: volume, source: data, target: /uploads}], deploy: {update_config: {order: start-first}}";
    write_project(&fake, named, "");
    let text = fs::read_to_string(fake.path("containers/old")).unwrap();
    let mounts = format!(
        r#""Mounts": [{{"Type": "volume", "Name": "{}", "Destination": "/uploads"}}], "Config""#,
        "0f".repeat(32)
    );
    fake.write("containers/old", &text.replacen("\"Config\"", &mounts, 1));
    for command in ["deploy app --dry-run", "deploy app"] {
        says(
            &fake.run(command).code(2),
            &["p-app-1 has the data of /uploads", "0f0f0f0f0f0f…", "would be empty", "cp --volumes-from"],
        );
    }
    assert_no_changes(&fake);
    fs::create_dir_all(fake.path("volumes")).unwrap();
    fake.write("volumes/p_data", "");
    says(
        &fake.run("deploy app").success(),
        &["warning: p-app-1 has the data of /uploads", "unless it is copied already"],
    );
}

#[test]
fn a_dry_run_names_jobs_dependencies_and_builds() {
    let fake = FakeDocker::new();
    let needs = "depends_on: {migrate: {condition: service_completed_successfully}, cache: {condition: service_started}}";
    write_project(&fake, needs, ", migrate: {image: 'app:1'}, cache: {image: 'c:1'}");
    let run = fake.run("deploy app --dry-run").success();
    says(&run, &["would do: run `migrate` to completion", "would do: start stopped dependencies: `cache`"]);
    write_project(&fake, "build: {context: .}", "");
    says(
        &fake.run("deploy app --dry-run").success(),
        &["would do: build app; the plan may change with the new image"],
    );
}

/// A proxy is read only if it shares a network with the service.
#[test]
fn nothing_is_executed_in_a_container_on_another_network() {
    let proxy_on = |network: &str| {
        let fake = FakeDocker::new();
        let proxy = format!(
            r#"{{"Id": "other", "Name": "/q-lb-1", "Image": "sha256:lb", "State": {{"Status": "running", "Pid": 4000000}}, "HostConfig": {{}},
"Path": "haproxy", "Args": ["-f", "/etc/haproxy/haproxy.cfg"], "Config": {{"Image": "haproxy:3.2", "Labels": {{"com.docker.compose.project": "q",
  "com.docker.compose.service": "lb", "com.docker.compose.oneoff": "False"}}}},
"NetworkSettings": {{"Networks": {{"{network}": {{"IPAddress": "127.0.0.1"}}}}}}}}
"#
        );
        fake.write("containers/other", &proxy);
        fake.run("deploy app");
        fake.run("check app");
        fake.calls().into_iter().filter(|call| call.contains("exec") && call.contains("other")).count()
    };
    assert_eq!(proxy_on("q_default"), 0);
    assert!(proxy_on("p_default") > 0, "a proxy on the network is read");
}
