//! Tests of the command line with a fake docker: the order of docker calls, and failures before any change.

#[path = "cli/adopt.rs"]
mod adopt;
#[path = "cli/check.rs"]
mod check;
#[path = "cli/completions.rs"]
mod completions;
#[path = "cli/dependents.rs"]
mod dependents;
#[path = "cli/environment.rs"]
mod environment;
#[path = "cli/hostile.rs"]
mod hostile;
#[path = "cli/house.rs"]
mod house;
#[path = "cli/locking.rs"]
mod locking;
#[path = "cli/monitor.rs"]
mod monitor;
#[path = "cli/notify.rs"]
mod notify;
#[path = "cli/obstacles.rs"]
mod obstacles;
#[path = "cli/output.rs"]
mod output;
#[path = "cli/queries.rs"]
mod queries;
#[path = "cli/rollback.rs"]
mod rollback;
#[path = "cli/state.rs"]
mod state;
#[path = "cli/stopped_proxy.rs"]
mod stopped_proxy;
#[path = "cli/up.rs"]
mod up;
#[path = "cli/witness.rs"]
mod witness;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use snapbox::cmd::{Command, OutputAssert};
use tempfile::TempDir;

/// A project folder with a fake docker.
struct FakeDocker {
    dir: TempDir,
    /// Port of the HTTP server that answers for every instance.
    port: u16,
    /// Monitor window of new instances; none means the default.
    monitor: Option<&'static str>,
}

const MONITORS: [&str; 2] = ["COMPOSE_ZD_UPDATE_MONITOR", "COMPOSE_ZD_ROLLBACK_MONITOR"];

impl FakeDocker {
    /// A project `p` with one service `app`, whose running instance `old` has an outdated configuration.
    fn new() -> FakeDocker {
        let fake = FakeDocker {
            dir: tempfile::tempdir().unwrap(),
            port: http_server("200 OK"),
            monitor: Some("0s"),
        };
        fs::create_dir(fake.path("containers")).unwrap();
        fs::create_dir(fake.path("bin")).unwrap();
        std::os::unix::fs::symlink(fake_docker(), fake.path("bin/docker")).unwrap();
        fake.write("hashes", "app wanted\n");
        fake.write("calls", "");
        fake.service(&format!("image: app:1, x-zd: {{health: {{path: /up, port: {}}}}}", fake.port));
        fake.container("containers/old", "app-1", "running", "other");
        fake.container("new", "app-2", "created", "wanted");
        fake
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn service(&self, keys: &str) {
        self.write("config.yaml", &format!("name: p\nservices: {{app: {{{keys}}}}}\n"));
    }

    fn container(&self, file: &str, name: &str, status: &str, hash: &str) {
        let id = file.rsplit('/').next().unwrap();
        self.write(
            file,
            &format!(
                r#"{{"Id": "{id}", "Name": "/p-{name}", "Image": "sha256:wanted", "State": {{"Status": "{status}"}},
"HostConfig": {{"RestartPolicy": {{"Name": "no"}}}}, "Config": {{"Labels": {{"com.docker.compose.project": "p", "com.docker.compose.service": "app",
  "com.docker.compose.oneoff": "False", "com.docker.compose.config-hash": "{hash}"}}}},
"NetworkSettings": {{"Networks": {{"p_default": {{"IPAddress": "127.0.0.1"}}}}}}}}
"#
            ),
        );
    }

    /// Makes docker calls with this text fail with this message.
    fn fail(&self, call: &str, message: &str) {
        self.write("fail", &format!("{call}\n{message}\n"));
    }

    /// Makes the engine unreachable, with this message of docker's client.
    fn no_engine(&self, message: &str) {
        self.fail("\\(system dial-stdio\\|^version\\)", message);
    }

    fn run(&self, words: &str) -> OutputAssert {
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        self.run_with_path(words, &path)
    }

    fn run_with_path(&self, words: &str, path: &str) -> OutputAssert {
        self.run_words(&words.split(' ').collect::<Vec<_>>(), path)
    }

    fn run_words(&self, words: &[&str], path: &str) -> OutputAssert {
        Command::new(snapbox::cmd::cargo_bin!("compose-zd"))
            .args(words)
            .current_dir(self.dir.path())
            .env("PATH", path)
            .env("FAKE", self.dir.path())
            .envs(self.monitors())
            .assert()
    }

    fn monitors(&self) -> Vec<(&'static str, &'static str)> {
        self.monitor.iter().flat_map(|time| MONITORS.map(|name| (name, *time))).collect()
    }

    /// Calls that change something of the user, one per line.
    fn changes(&self) -> String {
        self.calls().into_iter().filter(|c| !is_bookkeeping(c)).map(|c| format!("{c}\n")).collect()
    }

    /// Calls that change something.
    fn calls(&self) -> Vec<String> {
        let reads = [
            "compose config",
            "compose --dry-run",
            "ps ",
            "container inspect",
            "image inspect",
            "image ls",
            "logs ",
            "service ls",
            "node ls",
            "info ",
            "version ",
            "system dial-stdio",
        ];
        let calls = fs::read_to_string(self.path("calls")).unwrap();
        let calls = calls.lines().map(without_filter);
        let is_read = |c: &&str| reads.iter().any(|r| c.starts_with(r)) || c.contains(" config --hash ");
        calls.filter(|c| !is_read(c)).map(String::from).collect()
    }
}

/// The call without the address of a filter, through which Compose does not see some containers.
fn without_filter(call: &str) -> &str {
    let rest = call.strip_prefix("--host unix://@compose-zd-filter-");
    rest.and_then(|rest| rest.split_once(' ')).map_or(call, |(_, call)| call)
}

/// The call keeps the images of releases, by tags and containers of compose-zd.
fn is_bookkeeping(call: &str) -> bool {
    let prefixes = ["tag sha256:", "create --name compose-zd-keep-", "volume "];
    prefixes.iter().any(|prefix| call.starts_with(prefix))
}

fn fake_docker() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/cli/docker")
}

/// Starts an HTTP server that gives every request the same answer.
fn http_server(status: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    port
}

fn stderr(run: &OutputAssert) -> String {
    String::from_utf8_lossy(&run.get_output().stderr).into()
}

#[track_caller]
fn says(run: &OutputAssert, texts: &[&str]) {
    let all = stderr(run);
    texts.iter().for_each(|t| assert!(all.contains(t), "no `{t}` in:\n{all}"));
}

#[test]
fn a_deploy_stops_the_old_instance_after_the_new_one_is_ready() {
    let fake = FakeDocker::new();
    fake.run("deploy app")
        .success()
        .stdout_eq("`app` is deployed as release 1: app-2 in service after [..]s\n");
    assert_eq!(
        fake.changes(),
        "compose up --no-start --no-deps --no-recreate --no-build --pull never --scale app=2 app\n\
         start new\nstop old\nrm old\n"
    );
}

/// Replaces the instance of a service with `container_name`. The name of the fake's new instance is that of the old one.
fn deploy_named(fake: &FakeDocker) -> OutputAssert {
    let health = format!("x-zd: {{health: {{path: /up, port: {}}}}}", fake.port);
    fake.service(&format!("image: app:1, container_name: p-shop, {health}"));
    fake.container("containers/old", "shop", "running", "other");
    fake.container("new", "shop", "created", "wanted");
    fake.run("deploy app")
}

/// Changes up to the start of a new instance that gets the name of the old one.
const NAMED: &str = "rename p-shop p-shop-old\n\
    compose up --no-start --no-deps --no-recreate --no-build --pull never --scale app=1 app\nstart new\n";

#[test]
fn a_new_instance_gets_the_name_of_the_only_container() {
    let fake = FakeDocker::new();
    deploy_named(&fake).success().stdout_eq("`app` is deployed as release 1: shop in service after [..]s\n");
    assert_eq!(fake.changes(), format!("{NAMED}stop old\nrm old\n"));
    let calls = fs::read_to_string(fake.path("calls")).unwrap();
    let created = calls.lines().find(|call| call.contains("compose up --no-start")).unwrap();
    assert!(created.starts_with("--host unix://@compose-zd-filter-"), "{created}");
}

#[test]
fn the_old_instance_gets_its_name_back_if_the_new_one_fails() {
    let fake = FakeDocker::new();
    fake.write("dies-new", "");
    let run = deploy_named(&fake).code(3);
    says(&run, &["shop served before and still serves"]);
    assert_eq!(fake.changes(), format!("{NAMED}rm new\nrename p-shop-old p-shop\n"));
}

/// compose-zd leaves the start of a service with inline configs to Compose.
#[test]
fn a_container_of_compose_run_does_not_count_as_an_instance() {
    let fake = FakeDocker::new();
    let health = format!("x-zd: {{health: {{path: /up, port: {}}}}}", fake.port);
    let app = format!("{{image: app:1, configs: [{{source: note}}], {health}}}");
    fake.write(
        "config.yaml",
        &format!("name: p\nservices: {{app: {app}}}\nconfigs: {{note: {{content: hello}}}}\n"),
    );
    fake.container("containers/shell", "app-run-1a2b", "running", "other");
    let shell = fs::read_to_string(fake.path("containers/shell")).unwrap();
    fake.write(
        "containers/shell",
        &shell.replace(r#""com.docker.compose.oneoff": "False""#, r#""com.docker.compose.oneoff": "True""#),
    );
    fake.run("deploy app").success();
    let calls = fake.calls();
    let started = calls.iter().find(|call| call.contains("up --detach")).unwrap();
    assert!(started.contains("--scale app=2"), "{started}");
}

#[test]
fn an_unchanged_service_is_not_deployed() {
    let fake = FakeDocker::new();
    fake.container("containers/old", "app-1", "running", "wanted");
    fake.run("deploy app").success().stdout_eq("`app`: nothing has to change\n");
    assert_eq!(fake.changes(), "");
}

#[test]
fn force_replaces_unchanged_instances() {
    let fake = FakeDocker::new();
    fake.container("containers/old", "app-1", "running", "wanted");
    fake.run("deploy app --force").success();
    assert!(fake.changes().ends_with("start new\nstop old\nrm old\n"), "{}", fake.changes());
}

#[test]
fn a_dry_run_prints_the_plan_and_changes_nothing() {
    let fake = FakeDocker::new();
    fake.run("deploy app --dry-run").success().stdout_eq(
        "plan for `app`:
  1. create app-2  (the new release does not exist yet)
       $ docker compose up --no-start --no-deps --no-recreate --no-build --pull never --scale 'app=2' app
  2. start app-2  (not yet ready)
       $ docker start p-app-2
  3. wait until ready: app-2  (not yet ready)
       wait for GET /up at port [..], every 200ms for at most 1m
  4. stop app-1  (replaced)
       $ docker stop p-app-1
  5. remove app-1  (replaced)
       $ docker rm p-app-1
",
    );
    assert_eq!(fake.changes(), "");
}

#[test]
fn quiet_prints_the_result_and_warnings_only() {
    let fake = FakeDocker::new();
    let run = fake.run("deploy app --quiet").success();
    assert!(!stderr(&run).contains("started"), "{}", stderr(&run));
}

#[test]
fn flags_of_compose_and_docker_are_passed_through() {
    let fake = FakeDocker::new();
    fake.run("--context far deploy app -f a.yaml -f b.yaml -p x --dry-run").success();
    let calls = fs::read_to_string(fake.path("calls")).unwrap();
    let has_call = |call: &str| calls.lines().any(|c| c == call);
    assert!(has_call("--context far compose --file a.yaml --file b.yaml --project-name x config"), "{calls}");
    assert!(has_call("--context far ps --all --quiet --no-trunc"), "{calls}");
}

#[test]
fn an_instance_that_does_not_start_is_removed_and_the_old_one_stays() {
    let fake = FakeDocker::new();
    fake.fail("start new", "Error response from daemon: no such file: /app/run");
    let run = fake.run("deploy app").code(3);
    says(&run, &["no such file: /app/run", "app-1 served before and still serves"]);
    assert!(fake.changes().ends_with("start new\nrm new\n"), "{}", fake.changes());
    assert!(fake.path("containers/old").exists());
}

#[test]
fn an_instance_that_is_never_ready_is_removed_and_its_last_answer_and_log_are_shown() {
    let fake = FakeDocker::new();
    let port = http_server("503 Service Unavailable");
    let words = format!("deploy app --health-port {port} --health-deadline 300ms");
    let run = fake.run(&words).code(3);
    says(&run, &["1 of 1 new instances is not ready after 300ms", "→ 503", "fatal: no database", "hint: "]);
    assert!(fake.changes().ends_with("start new\nstop new\nrm new\n"), "{}", fake.changes());
}

#[test]
fn a_repeated_bad_answer_is_reported_once() {
    let fake = FakeDocker::new();
    let port = http_server("503 Service Unavailable");
    let words = format!("deploy app --health-port {port} --health-deadline 3s");
    let output = stderr(&fake.run(&words).code(3));
    assert_eq!(output.matches("app-2 is not ready yet: GET http://127.0.0.1:").count(), 1, "{output}");
}

#[test]
fn a_serving_instance_that_fails_the_probe_is_reported_before_anything_starts() {
    let fake = FakeDocker::new();
    let port = http_server("404 Not Found");
    let output =
        stderr(&fake.run(&format!("deploy app --health-port {port} --health-deadline 300ms")).code(3));
    let warned = output.find("warning: app-1 serves now and does not pass the probe of new instances: GET");
    assert!(warned.expect(&output) < output.find("created app-2").expect(&output), "{output}");
    says(&fake.run("deploy app --health-path /up"), &["app-2 is ready"]);
}

#[test]
fn a_serving_instance_that_hangs_delays_the_deploy_by_a_second_at_most() {
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let health = |keys: &str| {
        let port = hangs.local_addr().unwrap().port();
        format!("image: app:1, x-zd: {{health: {{path: /up, port: {port}{keys}}}}}")
    };
    let fake = FakeDocker::new();
    fake.service(&health(""));
    let start = std::time::Instant::now();
    let run = fake.run("deploy app --dry-run").success();
    assert!(start.elapsed() < std::time::Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(!stderr(&run).contains("serves now"), "an answer may take 2s: {}", stderr(&run));
    fake.service(&health(", timeout: 300ms"));
    let run = fake.run("deploy app --dry-run").success();
    says(&run, &["app-1 serves now and does not pass the probe of new instances", "no answer in time"]);
}

#[test]
fn a_serving_instance_that_passes_the_probe_is_not_mentioned() {
    let fake = FakeDocker::new();
    let run = fake.run("deploy app --dry-run").success();
    assert!(!stderr(&run).contains("serves now"), "{}", stderr(&run));
    fake.service("image: app:1, healthcheck: {test: [CMD, up]}");
    fake.run("deploy app --dry-run").success();
    assert_eq!(fake.calls(), [""; 0]);
}

#[test]
fn a_failed_clean_up_does_not_roll_the_release_back() {
    let fake = FakeDocker::new();
    fake.fail("rm old", "Error response from daemon: device is busy");
    let run = fake.run("deploy app").success();
    says(&run, &["warning: the new release serves, but cleaning up failed", "device is busy"]);
}

#[test]
fn without_docker_the_message_says_what_to_install() {
    let run = FakeDocker::new().run_with_path("deploy app", "/nonexistent").code(1);
    says(&run, &["error: `docker` is not on the PATH", "hint: install Docker Engine"]);
}

#[test]
fn without_an_engine_the_message_says_how_to_start_it() {
    let fake = FakeDocker::new();
    fake.no_engine("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.");
    says(&fake.run("deploy app").code(1), &["error: no Docker engine answers", "systemctl start docker"]);
}

#[test]
fn an_engine_that_does_not_answer_in_time_is_named_and_nothing_is_changed() {
    let fake = FakeDocker::new();
    fake.write("silent", "");
    let run = fake.run("deploy app --engine-timeout 1s").code(1);
    says(
        &run,
        &[
            "the Docker engine at `tcp://192.0.2.1:2375` (context `far`) does not answer",
            "hint: check that it",
        ],
    );
    assert!(fake.path("containers/old").exists() && !fake.path("containers/new").exists());
}

#[test]
fn an_invalid_engine_timeout_is_refused_as_a_flag_and_as_a_variable() {
    let fake = FakeDocker::new();
    for command in ["deploy", "rollback", "recover", "status", "history", "check"] {
        let run = fake.run(&format!("{command} --engine-timeout 10ms")).code(2);
        says(&run, &["--engine-timeout <DURATION>", "from 1s to 1day, such as 2m"]);
    }
    let run = Command::new(snapbox::cmd::cargo_bin!("compose-zd"))
        .args(["deploy", "app"])
        .env("PATH", fake.path("bin"))
        .env("COMPOSE_ZD_ENGINE_TIMEOUT", "soon")
        .assert()
        .code(2);
    says(&run, &["--engine-timeout <DURATION>", "such as 500ms or 1m30s"]);
    assert_eq!(fake.calls(), [""; 0]);
}

#[test]
fn without_the_compose_plugin_a_standalone_v2_is_used_and_v1_is_refused() {
    let fake = FakeDocker::new();
    fake.fail("^compose", "docker: 'compose' is not a docker command.");
    let only_fake = fake.path("bin").display().to_string() + ":/bin";
    let standalone = |script: &str| {
        let file = fake.path("bin/docker-compose");
        fs::write(&file, script).unwrap();
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    standalone("#!/bin/sh\necho 1.29.2\n");
    let run = fake.run_with_path("deploy app", &only_fake).code(1);
    says(&run, &["standalone `docker-compose` v2", "is version 1"]);
    standalone(
        "#!/bin/sh\n[ \"$1\" = version ] && echo 2.40.0\nrm -f $FAKE/fail\nexec docker compose \"$@\"\n",
    );
    fake.run_with_path("deploy app --dry-run", &only_fake).success();
}

#[test]
fn an_error_of_compose_is_shown_unchanged() {
    let fake = FakeDocker::new();
    fake.write("compose.yaml", "services: {}");
    fake.fail("compose config", "yaml: line 2: did not find expected node content");
    let run = fake.run("deploy app").code(2);
    says(&run, &["refuses the project", "yaml: line 2"]);
    fake.fail("compose config", "time=\"x\" level=warning msg=\"The A variable is not set\"\nno file .env");
    let run = fake.run("deploy app").code(2);
    says(&run, &["no file .env"]);
    assert!(!String::from_utf8_lossy(&run.get_output().stderr).contains("level=warning"));
}

#[test]
fn an_unknown_service_is_refused_with_a_list_of_the_services() {
    let run = FakeDocker::new().run("deploy nope").code(2);
    says(&run, &["project `p` has no service or pair `nope`", "the project has `app`"]);
}

#[test]
fn a_profile_that_is_off_is_named_with_the_flag_that_switches_it_on() {
    let fake = FakeDocker::new();
    fake.write("compose.yaml", "services: {app: {image: x}, worker: {image: x, profiles: [jobs]}}");
    for command in ["deploy worker", "check worker", "status worker", "deploy --scale worker=2"] {
        let run = fake.run(command).code(2);
        says(
            &run,
            &["`worker` is in the profile `jobs`, which is off", "--profile jobs", "COMPOSE_PROFILES=jobs"],
        );
    }
    says(&fake.run("deploy nope").code(2), &["the project has `app`; and `worker` with `--profile jobs`"]);
    fake.write("config.yaml", "name: p\nservices: {}\n");
    says(&fake.run("check").code(2), &["every service is in a profile", "`--profile jobs`"]);
}

#[test]
fn an_unknown_key_is_named_with_its_file() {
    let fake = FakeDocker::new();
    fake.service("image: app:1, x-zd: {health: {pth: /up}}");
    let run = fake.run("deploy app").code(2);
    says(&run, &["`services.app.x-zd.health.pth`: unknown field"]);
}

#[test]
fn obstacles_are_found_before_anything_starts() {
    let cases = [
        (
            "container_name: one, deploy: {replicas: 2}",
            "`container_name: one`",
            "remove `services.app.container_name`",
        ),
        ("ports: [{target: 80, published: '8080'}]", "host port 8080", "services.app.ports"),
        ("network_mode: host", "`network_mode: host`", "services.app.network_mode"),
        ("deploy: {replicas: 0}", "0 instances", "1 or more"),
        ("x-zd: {proxy: {kind: envoy}}", "unknown proxy kind `envoy`", "`port` or `none`"),
        ("x-zd: {proxy: {container: lb}}", "container `lb` does not exist", "docker ps"),
        ("x-zd: {health: {path: /up}}", "no port to probe", "x-zd.health.port"),
        ("x-zd: {health: {body: ok}}", "no port to probe", "`healthcheck`"),
    ];
    for (keys, message, fix) in cases {
        let fake = FakeDocker::new();
        fake.service(&format!("image: app:1, {keys}"));
        let run = fake.run("deploy app").code(2);
        says(&run, &[message, fix]);
        assert_eq!(fake.changes(), "", "{keys}");
    }
}

#[test]
fn a_missing_image_changes_nothing() {
    let fake = FakeDocker::new();
    fake.fail("\\(image inspect\\|compose pull\\)", "Error: No such image: app:1");
    let run = fake.run("deploy app").code(1);
    says(&run, &["`docker compose pull app` failed; nothing was changed"]);
    assert!(fake.path("containers/old").exists());
}

#[test]
fn a_single_worker_is_replaced_stop_first_if_requested() {
    let fake = FakeDocker::new();
    fake.service(&format!(
        "image: app:1, deploy: {{update_config: {{order: stop-first, monitor: 0s}}}}, x-zd: {{health: {{port: {}}}}}",
        fake.port
    ));
    fake.run("deploy app").success();
    let verbs: Vec<String> =
        fake.changes().lines().filter_map(|c| c.split(' ').next().map(String::from)).collect();
    assert_eq!(verbs, ["stop", "compose", "start", "rm"]);
}

#[test]
fn an_image_is_kept_before_its_instances_are_removed() {
    let fake = FakeDocker::new();
    fake.write("hashes", "app other\n");
    fake.run("deploy app").success();
    fake.write("hashes", "app wanted\n");
    fake.write("calls", "");
    fake.run("deploy app").success();
    let calls = fake.calls();
    let at = |call: &str| {
        calls.iter().position(|c| c.starts_with(call)).unwrap_or_else(|| panic!("{call}: {calls:?}"))
    };
    assert!(at("tag sha256:wanted compose-zd/p-app:r1-") < at("stop "), "{calls:?}");
    assert!(at("create --name compose-zd-keep-p-app-r1") < at("stop "), "{calls:?}");
}

#[test]
fn a_project_without_a_proxy_on_a_manager_gets_a_hint_at_swarm() {
    let fake = FakeDocker::new();
    let run = fake.run("deploy").code(2);
    says(&run, &["no proxy routes to a service of project `p`", "`compose-zd deploy app`"]);
    assert!(!stderr(&run).contains("--engine swarm"));
    fake.write("cluster", "c1\n");
    says(&fake.run("deploy").code(2), &["`compose-zd deploy app`", "`compose-zd deploy --engine swarm`"]);
}

#[test]
fn every_wrong_start_has_one_next_command() {
    let fake = FakeDocker::new();
    for (words, answer) in [
        ("ps", "`compose-zd status`"),
        ("deploy -d app", "a deploy returns once the new version serves"),
        ("deploy --detach app", "a deploy returns once the new version serves"),
        ("deploy app --force-recreate", "`--force`"),
    ] {
        says(&fake.run(words).code(2), &[answer]);
    }
    fake.write("compose.yaml", "services: {}");
    fake.write("compose.override.yaml", "# Written by `compose-zd init`");
    says(
        &fake.run("check -f compose.yaml").success(),
        &["is not read", "add `--file compose.override.yaml`"],
    );
    assert!(!stderr(&fake.run("check").success()).contains("is not read"));
    for entry in fs::read_dir(fake.path("containers")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    says(&fake.run("deploy").code(2), &["nothing of project `p` runs", "`compose-zd up`"]);
    fake.fail("compose config", "additional properties 'app' not allowed");
    fake.write("compose.yaml", "app: {image: shop:1}\n");
    says(&fake.run("check").code(2), &["has no key `services`", "put all of it under `services:`"]);
    fs::remove_file(fake.path("compose.yaml")).unwrap();
    says(&fake.run("check").code(2), &["there is no compose file in", "`--file`"]);
}

#[test]
fn a_flag_for_swarm_is_refused_for_a_compose_project() {
    let fake = FakeDocker::new();
    for flag in ["--push", "--resolve-image never"] {
        let run = fake.run(&format!("deploy app {flag}")).code(2);
        says(&run, &["is for Swarm", "`--engine swarm`"]);
    }
    let run = fake.run("deploy app --engine swarm").code(1);
    says(&run, &["no manager of a Swarm", "docker swarm init"]);
    assert_eq!(fake.changes(), "");
}

#[test]
fn a_rollback_without_a_release_is_refused() {
    let fake = FakeDocker::new();
    let run = fake.run("rollback").code(2);
    says(&run, &["no release of `p` is recorded", "`compose-zd deploy` records one"]);
    let run = fake.run("deploy --resume").code(2);
    says(&run, &["no rollout of this project is paused"]);
    assert_eq!(fake.changes(), "");
}

#[test]
fn an_invalid_update_key_or_flag_is_named() {
    let fake = FakeDocker::new();
    for (flag, value) in [
        ("--update-failure-action", "panic"),
        ("--update-max-failure-ratio", "2"),
        ("--update-order", "first"),
        ("--update-delay", "soon"),
        ("--rollback-failure-action", "rollback"),
        ("--image", "app"),
    ] {
        says(&fake.run(&format!("deploy {flag} {value}")).code(2), &[flag, value]);
    }
    fake.service("image: app:1, deploy: {update_config: {failure_action: panic}}");
    says(&fake.run("deploy app").code(2), &["`services.app.deploy.update_config.failure_action` is invalid"]);
    fake.service("image: app:1");
    says(&fake.run("deploy app --image missing=x:1").code(2), &["--image", "`missing`"]);
    assert_eq!(fake.changes(), "");
}

#[test]
fn a_deploy_is_refused_if_compose_would_stop_a_running_container() {
    let keys = |port| {
        format!(
            "image: app:1, depends_on: {{db: {{condition: service_started}}}}, x-zd: {{health: {{port: {port}}}}}"
        )
    };
    for command in ["--scale app=2", "--no-recreate db"] {
        let fake = FakeDocker::new();
        let service = keys(fake.port);
        fake.write(
            "config.yaml",
            &format!("name: p\nservices: {{app: {{{service}}}, db: {{image: db:1}}}}\n"),
        );
        fake.write("stops", command);
        let run = fake.run("deploy app").code(1);
        says(&run, &["Compose would stop running containers", "Container p-db-1 Stopping", "hint: "]);
        assert_eq!(fake.changes(), "");
    }
}

/// Dry run of two new instances with these keys, variables and flags.
fn update_plan(keys: &str, variables: &[(&str, &str)], flags: &str) -> OutputAssert {
    let fake = FakeDocker::new();
    fake.service(&format!("image: app:1, deploy: {{{keys}}}, x-zd: {{health: {{port: {}}}}}", fake.port));
    let words = format!("deploy app --scale app=2 --dry-run {flags}");
    Command::new(snapbox::cmd::cargo_bin!("compose-zd"))
        .args(words.split_whitespace())
        .current_dir(fake.dir.path())
        .env("PATH", format!("{}:/usr/bin:/bin", fake.path("bin").display()))
        .env("FAKE", fake.dir.path())
        .envs(variables.iter().copied())
        .assert()
}

#[test]
fn an_update_setting_comes_from_the_flag_before_the_variable_before_the_file() {
    let file = "update_config: {parallelism: 1, delay: 3s, monitor: 4s}";
    let variable = [("COMPOSE_ZD_UPDATE_DELAY", "5s")];
    let cases: [(&[_], _, _); 3] = [(&[], "", 3), (&variable, "", 5), (&variable, "--update-delay 7s", 7)];
    for (variables, flags, seconds) in cases {
        let run = update_plan(file, variables, flags).success();
        let plan = String::from_utf8_lossy(&run.get_output().stdout);
        assert!(plan.contains(&format!(". wait {seconds}s ")), "{plan}");
        assert!(plan.contains(". watch the new instances for 4s "), "{plan}");
    }
}

#[test]
fn an_invalid_update_setting_is_refused_with_its_key_variable_or_flag() {
    let wrong = [
        "parallelism: -1",
        "delay: soon",
        "monitor: '-'",
        "failure_action: panic",
        "max_failure_ratio: 2",
        "order: first",
    ];
    for block in ["update_config", "rollback_config"] {
        for pair in wrong {
            let (key, value) = pair.split_once(": ").unwrap();
            let run = update_plan(&format!("{block}: {{{pair}}}"), &[], "").code(2);
            says(&run, &[&format!("services.app.deploy.{block}.{key}"), "hint: "]);
            let flag = format!("--{}-{}", block.trim_end_matches("_config"), key.replace('_', "-"));
            says(&update_plan("", &[], &format!("{flag}={value}")).code(2), &[&flag]);
            let variable = format!("COMPOSE_ZD_{}", flag[2..].replace('-', "_").to_uppercase());
            says(&update_plan("", &[(&variable, value)], "").code(2), &[&flag]);
        }
    }
    says(
        &update_plan("", &[], "--rollback-failure-action rollback").code(2),
        &["--rollback-failure-action", "pause"],
    );
}
