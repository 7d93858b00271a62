//! A new user's way: `init` on a bare project, then deploys by hand, by make, by docker's client and by `git push`, each
//! as it is typed, without a flag.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::test_project::{WAIT_LIMIT, NO_MONITOR, TestProject, wait_until};

const COMPOSE_ZD: &str = env!("CARGO_BIN_EXE_compose-zd");

/// What is typed is not about the monitor, and there is much of it.
fn disable_monitor(stage: &TestProject) {
    NO_MONITOR.iter().for_each(|(name, value)| stage.set_variables(&format!("{name}={value}")));
}

/// Runs a command of the user's; what it said, on both streams.
fn run(stage: &TestProject, line: &str) -> String {
    wait_for_output(stage, line, start(stage, line, "."))
}

fn start(stage: &TestProject, line: &str, folder: &str) -> Child {
    let mut words = line.split(' ');
    let program = words.next().expect("a command").replace("compose-zd", COMPOSE_ZD);
    let mut command = stage.command(program);
    command.args(words).current_dir(stage.path(folder)).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap_or_else(|e| panic!("{line}: {e}"))
}

fn wait_for_output(stage: &TestProject, line: &str, child: Child) -> String {
    let output = child.wait_with_output().expect("a child");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    stage.log(&format!("{line}: {}\n{said}", output.status));
    assert!(output.status.success(), "`{line}`: {}\n{said}", output.status);
    said
}

#[track_caller]
fn says(said: &str, texts: &[&str]) {
    texts.iter().for_each(|text| assert!(said.contains(text), "no `{text}` in: {said}"));
}

/// A folder of docker's client in which compose-zd is a plugin, beside those of the user's.
fn install_plugin(stage: &TestProject) -> String {
    let folder = stage.path("docker-config");
    let plugins = folder.join("cli-plugins");
    fs::create_dir_all(&plugins).expect("a folder");
    let own = Path::new(&std::env::var("HOME").unwrap_or_default()).join(".docker/cli-plugins");
    for plugin in fs::read_dir(own).into_iter().flatten().flatten() {
        symlink(plugin.path(), plugins.join(plugin.file_name())).expect("a link");
    }
    symlink(COMPOSE_ZD, plugins.join("docker-zd")).expect("a link");
    folder.to_string_lossy().into_owned()
}

/// What `init` adds is what `fixtures/init` has, where that is run by `fixtures/init/README.md`.
fn assert_files_match_fixture(stage: &TestProject) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/init");
    let port = stage.variable("PROXY_PORT");
    for file in ["compose.override.yaml", "haproxy/haproxy.cfg", "Makefile"] {
        let expected = fs::read_to_string(fixture.join(file)).expect(file);
        assert_eq!(stage.read(file).replace(&port, "8080"), expected, "{file}");
    }
}

#[test]
fn a_new_user_deploys_and_rolls_back_in_five_commands() {
    let stage = TestProject::from_fixture("init", "init", &[]);
    disable_monitor(&stage);
    stage.set_variables(&format!("COMPOSE_PROJECT_NAME={} COMPOSE_ZD={COMPOSE_ZD}", stage.name));
    // It runs already, with the port of the host.
    run(&stage, "docker compose up --detach");
    stage.wait_until_all_answer();

    let said = run(&stage, "compose-zd init --health-path /health");
    says(&said, &["new   compose.override.yaml", "docker compose up -d"]);
    assert_files_match_fixture(&stage);
    run(&stage, "docker compose up -d");
    stage.wait_until_all_answer();

    says(&run(&stage, "compose-zd check"), &["yes  1 instance, behind haproxy"]);

    let load = stage.start_load("--seconds 300");
    stage.set_variables("VERSION=2");
    says(&run(&stage, "compose-zd deploy"), &["behind haproxy", "`app` is deployed as release 2"]);
    assert_eq!(stage.states("app"), ["running 2"]);
    says(&run(&stage, "compose-zd rollback"), &["`app` is back on release 1"]);
    assert_eq!(stage.states("app"), ["running 1"]);

    stage.set_variables("VERSION=3");
    says(&run(&stage, "make deploy"), &["release 4"]);
    says(&run(&stage, "make rollback SERVICE=app"), &["back on release 3"]);
    says(&run(&stage, "make status"), &["SERVICE", "app"]);
    says(&run(&stage, "make"), &["deploy", "rollback", "status"]);
    says(&run(&stage, "scripts/deploy-and-restart.sh app --quiet"), &["release 6"]);
    assert_eq!(stage.states("app"), ["running 3"]);

    stage.set_variables(&format!("VERSION=4 DOCKER_CONFIG={}", install_plugin(&stage)));
    says(&run(&stage, "docker --log-level error --context default zd deploy app"), &["release 7"]);
    says(&run(&stage, "docker zd status"), &["SERVICE", "app"]);
    says(&run(&stage, "docker help zd"), &["Commands:\n  deploy ", "Topics:"]);
    load.stop().all_from(&["1", "2", "3", "4"]);

    // Nothing is left to do, neither for Compose nor for `init`.
    says(&run(&stage, "compose-zd init --health-path /health"), &["unchanged  compose.override.yaml"]);
    let before = stage.containers();
    run(&stage, "docker compose up -d");
    assert_eq!(stage.containers(), before);
}

/// The working copy of somebody who pushes; the bare repository, and the folder that is deployed from, are below it.
struct Pusher {
    stage: TestProject,
}

impl Pusher {
    fn new(name: &str) -> Pusher {
        let stage = TestProject::from_fixture(name, "init", &[]);
        disable_monitor(&stage);
        stage.set_variables("GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@localhost GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@localhost");
        stage.set_variables("GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1");
        let pusher = Pusher { stage };
        run(&pusher.stage, "compose-zd init --health-path /health");
        run(&pusher.stage, "git init --quiet --initial-branch main");
        run(&pusher.stage, "git init --quiet --bare --initial-branch main app.git");
        fs::copy(pusher.stage.path("scripts/post-receive"), pusher.stage.path("app.git/hooks/post-receive"))
            .unwrap();
        run(&pusher.stage, "git remote add origin app.git");
        pusher
    }

    fn configure(&self, key: &str, value: &str) {
        run(&self.stage, &format!("git -C app.git config zd.{key} {value}"));
    }

    /// Commits the app as this version, with more keys of its environment.
    fn commit(&self, version: &str, keys: &str) {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/init/compose.yaml");
        let text = fs::read_to_string(fixture).unwrap();
        let file = text.replace("${VERSION:-1}", &format!("{version}{keys}"));
        self.stage.write("compose.yaml", &file);
        run(&self.stage, "git add compose.yaml compose.override.yaml haproxy");
        run(&self.stage, &format!("git commit --quiet --message {version}"));
    }

    fn push(&self, words: &str) -> String {
        run(&self.stage, &format!("git push {words}"))
    }

    fn start_push(&self, words: &str) -> Child {
        start(&self.stage, &format!("git push {words}"), ".")
    }

    fn head(&self) -> String {
        run(&self.stage, "git rev-parse HEAD").trim().into()
    }
}

#[test]
fn a_git_push_deploys_and_reports_to_the_pusher() {
    let pusher = Pusher::new("push");
    let stage = &pusher.stage;
    pusher.commit("1", "");
    // Without the settings it says which are missing, and takes the push.
    says(
        &pusher.push("origin main"),
        &["remote: compose-zd: error: no folder to deploy from", "git config zd.worktree"],
    );
    for (key, value) in
        [("worktree", stage.path("srv").to_str().unwrap()), ("project", &stage.name), ("program", COMPOSE_ZD)]
    {
        pusher.configure(key, value);
    }
    pusher.commit("1", "\n      FIRST: 1");
    says(&pusher.push("origin main"), &["remote: compose-zd: nothing runs yet", "is started"]);
    stage.wait_until_all_answer();

    let load = stage.start_load("--seconds 300");
    pusher.commit("2", "");
    let head = pusher.head();
    says(
        &pusher.push("origin main"),
        &[
            &format!("remote: compose-zd: deploying {}", &head[..12]),
            "remote: `app` is deployed as release 2",
        ],
    );
    assert_eq!(stage.states("app"), ["running 2"]);
    let record = stage.read(&format!("srv/.compose-zd/{}/releases/0002.json", stage.name));
    assert!(record.contains(&head), "the revision is recorded: {record}");

    let before = stage.containers();
    run(stage, "git tag v2");
    let said = pusher.push("origin main:other v2");
    says(&said, &["`other` is not deployed, only `main` is", "`tags/v2` is not deployed"]);
    says(&pusher.push("origin :other"), &["`other` is not deployed"]);
    assert_eq!(stage.containers(), before);

    pusher.commit("3", "\n      HEALTH_STATUS: 500");
    pusher.configure("options", "--health-deadline=2s");
    let said = pusher.push("origin main");
    says(
        &said,
        &[
            "remote: error: `app`: 1 of 1 new instances is not ready",
            "→ 500",
            "(exit 3): the old release still serves",
        ],
    );
    assert_eq!(stage.containers(), before);
    pusher.configure("options", "--health-deadline=60s");

    // What failed is taken back by force; while that is deployed two more come, of which the newest counts.
    run(stage, "git reset --quiet --hard HEAD~1");
    pusher.commit("4", "\n      LISTEN_AFTER: 5");
    let first = pusher.start_push("--force origin main");
    wait_until("the first push is being deployed", WAIT_LIMIT, || stage.states("app").len() == 2);
    pusher.commit("5", "");
    let second = pusher.start_push("origin main");
    let superseded = pusher.head();
    let arrived = || run(stage, "git -C app.git rev-parse main").trim().to_string();
    wait_until("the second push has come", WAIT_LIMIT, || arrived() == superseded);
    pusher.commit("6", "");
    let third = pusher.start_push("origin main");
    says(&wait_for_output(stage, "first push", first), &["`app` is deployed as release"]);
    says(
        &wait_for_output(stage, "second push", second),
        &["waiting for the push before", "superseded by a newer push"],
    );
    says(
        &wait_for_output(stage, "third push", third),
        &["waiting for the push before", "`app` is deployed as release"],
    );
    load.stop().all_from(&["1", "2", "4", "6"]);
    assert_eq!(stage.states("app"), ["running 6"]);
    assert_eq!(run(stage, "git -C srv status --short"), "");

    run(stage, "git -C app.git config receive.denyDeleteCurrent ignore");
    says(&pusher.push("origin :main"), &["`main` was deleted; the running release still serves"]);
    assert_eq!(stage.states("app"), ["running 6"]);
}
