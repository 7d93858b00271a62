//! The command line against a fake docker: what it calls in which order, and how it fails before anything is touched.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use snapbox::cmd::{Command, OutputAssert};
use tempfile::TempDir;

/// A folder that the fake docker lives in.
struct Fake {
    dir: TempDir,
    /// The port at which every instance answers, on this machine.
    port: u16,
}

impl Fake {
    /// A project `p` with one service `app`, of which `old` runs, made of another configuration than is wanted now.
    fn new() -> Fake {
        let fake = Fake { dir: tempfile::tempdir().unwrap(), port: answering("200 OK") };
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
"Config": {{"Labels": {{"com.docker.compose.project": "p", "com.docker.compose.service": "app",
  "com.docker.compose.oneoff": "False", "com.docker.compose.config-hash": "{hash}"}}}},
"NetworkSettings": {{"Networks": {{"p_default": {{"IPAddress": "127.0.0.1"}}}}}}}}
"#
            ),
        );
    }

    /// A call with this text fails, saying this.
    fn fail(&self, call: &str, said: &str) {
        self.write("fail", &format!("{call}\n{said}\n"));
    }

    fn run(&self, words: &str) -> OutputAssert {
        let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
        self.run_with_path(words, &path)
    }

    fn run_with_path(&self, words: &str, path: &str) -> OutputAssert {
        Command::new(snapbox::cmd::cargo_bin!("compose-zd"))
            .args(words.split(' '))
            .current_dir(self.dir.path())
            .env("PATH", path)
            .env("FAKE", self.dir.path())
            .assert()
    }

    /// The calls that change something.
    fn changes(&self) -> String {
        let reads =
            ["compose config", "compose --dry-run", "ps ", "container inspect", "image inspect", "logs "];
        let calls = fs::read_to_string(self.path("calls")).unwrap();
        let changes = calls.lines().filter(|c| !reads.iter().any(|r| c.starts_with(r)));
        changes.map(|c| format!("{c}\n")).collect()
    }
}

fn fake_docker() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/cli/docker")
}

/// A server on this machine that gives every request the same answer.
fn answering(status: &'static str) -> u16 {
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
fn the_new_instance_is_ready_before_the_old_one_is_stopped() {
    let fake = Fake::new();
    fake.run("deploy app").success().stdout_eq("`app` is deployed: app-2 in service after [..]s\n");
    assert_eq!(
        fake.changes(),
        "compose up --no-start --no-deps --no-recreate --no-build --pull never --scale app=2 app\n\
         start new\nstop old\nrm old\n"
    );
}

#[test]
fn nothing_is_touched_when_nothing_has_changed() {
    let fake = Fake::new();
    fake.container("containers/old", "app-1", "running", "wanted");
    fake.run("deploy app").success().stdout_eq("`app`: nothing has to change\n");
    assert_eq!(fake.changes(), "");
}

#[test]
fn force_replaces_what_has_not_changed() {
    let fake = Fake::new();
    fake.container("containers/old", "app-1", "running", "wanted");
    fake.run("deploy app --force").success();
    assert!(fake.changes().ends_with("start new\nstop old\nrm old\n"), "{}", fake.changes());
}

#[test]
fn a_dry_run_prints_the_plan_and_changes_nothing() {
    let fake = Fake::new();
    fake.run("deploy app --dry-run").success().stdout_eq(
        "plan for `app`:
  1. create app+1  (the new release is not there yet)
  2. start app+1  (not yet ready)
  3. wait until ready: app+1  (not yet ready)
  4. stop app-1  (replaced)
  5. remove app-1  (replaced)
",
    );
    assert_eq!(fake.changes(), "");
}

#[test]
fn quiet_prints_the_result_and_warnings_only() {
    let fake = Fake::new();
    let run = fake.run("deploy app --quiet").success();
    assert!(!stderr(&run).contains("started"), "{}", stderr(&run));
}

#[test]
fn composes_and_dockers_flags_are_passed_through() {
    let fake = Fake::new();
    fake.run("--context far deploy app -f a.yaml -f b.yaml -p x --dry-run").success();
    let calls = fs::read_to_string(fake.path("calls")).unwrap();
    assert!(
        calls.starts_with("--context far compose --file a.yaml --file b.yaml --project-name x config\n"),
        "{calls}"
    );
    assert!(calls.contains("\n--context far ps --all"), "{calls}");
}

#[test]
fn an_instance_that_does_not_start_is_removed_and_the_old_one_stays() {
    let fake = Fake::new();
    fake.fail("start new", "Error response from daemon: no such file: /app/run");
    let run = fake.run("deploy app").code(3);
    says(&run, &["no such file: /app/run", "app-1 served before and still serves"]);
    assert!(fake.changes().ends_with("start new\nrm new\n"), "{}", fake.changes());
    assert!(fake.path("containers/old").exists());
}

#[test]
fn an_instance_that_is_never_ready_is_removed_with_its_last_answer_and_lines() {
    let fake = Fake::new();
    let port = answering("503 Service Unavailable");
    let words = format!("deploy app --health-port {port} --health-deadline 300ms");
    let run = fake.run(&words).code(3);
    says(&run, &["1 of 1 new instances is not ready after 300ms", "→ 503", "fatal: no database", "hint: "]);
    assert!(fake.changes().ends_with("start new\nstop new\nrm new\n"), "{}", fake.changes());
}

#[test]
fn a_clean_up_that_fails_does_not_take_the_new_release_back() {
    let fake = Fake::new();
    fake.fail("rm old", "Error response from daemon: device is busy");
    let run = fake.run("deploy app").success();
    says(&run, &["warning: the new release serves, but cleaning up failed", "device is busy"]);
}

#[test]
fn a_way_back_that_fails_says_to_act_now() {
    let fake = Fake::new();
    fake.fail(" new$", "Error response from daemon: broken");
    let run = fake.run("deploy app").code(4);
    says(&run, &["could not be restored", "hint: act now: `docker compose --project-name p ps --all`"]);
}

#[test]
fn without_docker_the_message_says_what_to_install() {
    let run = Fake::new().run_with_path("deploy app", "/nonexistent").code(1);
    says(&run, &["error: `docker` is not on the PATH", "hint: install Docker Engine"]);
}

#[test]
fn without_an_engine_the_message_says_how_to_start_it() {
    let fake = Fake::new();
    fake.fail("ps --all", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.");
    says(&fake.run("deploy app").code(1), &["error: no Docker engine answers", "systemctl start docker"]);
}

#[test]
fn without_compose_a_standalone_one_is_used_and_its_first_version_refused() {
    let fake = Fake::new();
    fake.fail("^compose", "docker: 'compose' is not a docker command.");
    let only_fake = fake.path("bin").display().to_string() + ":/bin";
    let standalone = |script: &str| {
        let file = fake.path("bin/docker-compose");
        fs::write(&file, script).unwrap();
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    standalone("#!/bin/sh\necho 1.29.2\n");
    let run = fake.run_with_path("deploy app", &only_fake).code(1);
    says(&run, &["standalone `docker-compose` v2", "of version 1"]);
    standalone(
        "#!/bin/sh\n[ \"$1\" = version ] && echo 2.40.0\nrm -f $FAKE/fail\nexec docker compose \"$@\"\n",
    );
    fake.run_with_path("deploy app --dry-run", &only_fake).success();
}

#[test]
fn what_compose_refuses_is_told_in_its_own_words() {
    let fake = Fake::new();
    fake.fail("compose config", "yaml: line 2: did not find expected node content");
    let run = fake.run("deploy app").code(2);
    says(&run, &["refuses the project", "yaml: line 2"]);
}

#[test]
fn an_unknown_service_is_refused_with_those_that_are_there() {
    let run = Fake::new().run("deploy nope").code(2);
    says(&run, &["there is no service or pair `nope` in project `p`", "there are `app`"]);
}

#[test]
fn an_unknown_key_is_named_with_its_file() {
    let fake = Fake::new();
    fake.service("image: app:1, x-zd: {health: {pth: /up}}");
    let run = fake.run("deploy app").code(2);
    says(&run, &["`services.app.x-zd.health.pth`: unknown field"]);
}

#[test]
fn obstacles_are_found_before_anything_starts() {
    let cases = [
        ("container_name: one", "`container_name: one`", "remove `services.app.container_name`"),
        ("ports: [{target: 80, published: '8080'}]", "host port 8080", "services.app.ports"),
        ("network_mode: host", "`network_mode: host`", "services.app.network_mode"),
        ("deploy: {replicas: 0}", "0 instances", "1 or more"),
        ("x-zd: {proxy: {kind: apache}}", "no proxy kind `apache`", "`traefik` or `none`"),
        ("x-zd: {proxy: {container: lb}}", "no container `lb`", "docker ps"),
        ("x-zd: {health: {path: /up}}", "no port to ask", "x-zd.health.port"),
        ("environment: {}", "no port to ask", "`healthcheck`"),
    ];
    for (keys, message, fix) in cases {
        let fake = Fake::new();
        fake.service(&format!("image: app:1, {keys}"));
        let run = fake.run("deploy app").code(2);
        says(&run, &[message, fix]);
        assert_eq!(fake.changes(), "", "{keys}");
    }
}

#[test]
fn an_image_that_cannot_be_had_changes_nothing() {
    let fake = Fake::new();
    fake.fail("image inspect", "Error: No such image: app:1");
    let run = fake.run("deploy app").code(1);
    says(&run, &["`docker compose pull app` failed; nothing was changed"]);
    assert!(fake.path("containers/old").exists());
}

#[test]
fn a_single_instance_cannot_be_replaced_stop_first() {
    let fake = Fake::new();
    fake.service(&format!(
        "image: app:1, deploy: {{update_config: {{order: stop-first}}}}, x-zd: {{health: {{port: {}}}}}",
        fake.port
    ));
    let run = fake.run("deploy app").code(2);
    says(&run, &["no other instance would serve meanwhile", "order: start-first"]);
    assert_eq!(fake.changes(), "");
}

#[test]
fn update_config_keys_that_are_not_followed_are_said() {
    let fake = Fake::new();
    fake.service(&format!(
        "image: app:1, deploy: {{update_config: {{delay: 5s, monitor: 10s}}}}, x-zd: {{health: {{port: {}}}}}",
        fake.port
    ));
    says(&fake.run("deploy app --dry-run").success(), &["`delay`, `monitor` not followed by this version"]);
}

#[test]
fn what_compose_would_stop_is_refused_for_instances_and_for_what_they_depend_on() {
    let keys = |port| {
        format!(
            "image: app:1, depends_on: {{db: {{condition: service_started}}}}, x-zd: {{health: {{port: {port}}}}}"
        )
    };
    for command in ["--scale app=2", "--no-recreate db"] {
        let fake = Fake::new();
        let service = keys(fake.port);
        fake.write(
            "config.yaml",
            &format!("name: p\nservices: {{app: {{{service}}}, db: {{image: db:1}}}}\n"),
        );
        fake.write("stops", command);
        let run = fake.run("deploy app").code(1);
        says(&run, &["Compose would stop what runs", "Container p-db-1 Stopping", "hint: "]);
        assert_eq!(fake.changes(), "");
    }
}
