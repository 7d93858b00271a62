//! First steps of a new user: `init` on a project without a proxy, then deploys by hand, by make, through the docker plugin
//! and by `git push`, each as typed, without flags.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Stdio};

use crate::test_project::{NO_MONITOR, TestProject, WAIT_LIMIT, wait_until};

const COMPOSE_ZD: &str = env!("CARGO_BIN_EXE_compose-zd");

/// Disables the monitor by variables, because the commands run without flags.
fn disable_monitor(project: &TestProject) {
    NO_MONITOR.iter().for_each(|(name, value)| project.set_variables(&format!("{name}={value}")));
}

/// Runs a command of the user, and returns both streams of its output.
fn run(project: &TestProject, line: &str) -> String {
    wait_for_output(project, line, start(project, line, "."))
}

fn start(project: &TestProject, line: &str, folder: &str) -> Child {
    let mut words = line.split(' ');
    let program = words.next().expect("a command").replace("compose-zd", COMPOSE_ZD);
    let mut command = project.command(program);
    command.args(words).current_dir(project.path(folder)).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap_or_else(|e| panic!("{line}: {e}"))
}

fn wait_for_output(project: &TestProject, line: &str, child: Child) -> String {
    let output = child.wait_with_output().expect("a child");
    let streams = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&streams).into_owned();
    project.log(&format!("{line}: {}\n{text}", output.status));
    assert!(output.status.success(), "`{line}`: {}\n{text}", output.status);
    text
}

#[track_caller]
fn says(output: &str, texts: &[&str]) {
    texts.iter().for_each(|text| assert!(output.contains(text), "no `{text}` in: {output}"));
}

/// Creates a docker configuration folder with compose-zd as a plugin, beside the user's plugins.
fn install_plugin(project: &TestProject) -> String {
    let folder = project.path("docker-config");
    let plugins = folder.join("cli-plugins");
    fs::create_dir_all(&plugins).expect("a folder");
    let own = Path::new(&std::env::var("HOME").unwrap_or_default()).join(".docker/cli-plugins");
    for plugin in fs::read_dir(own).into_iter().flatten().flatten() {
        symlink(plugin.path(), plugins.join(plugin.file_name())).expect("a link");
    }
    symlink(COMPOSE_ZD, plugins.join("docker-zd")).expect("a link");
    folder.to_string_lossy().into_owned()
}

/// Asserts that `init` writes the files of `fixtures/init`, as `fixtures/init/README.md` runs it.
fn assert_files_match_fixture(project: &TestProject) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/init");
    let port = project.variable("PROXY_PORT");
    for file in ["compose.override.yaml", "haproxy/haproxy.cfg", "Makefile"] {
        let expected = fs::read_to_string(fixture.join(file)).expect(file);
        assert_eq!(project.read(file).replace(&port, "8080"), expected, "{file}");
    }
}

#[test]
fn a_new_user_deploys_and_rolls_back_in_five_commands() {
    let project = TestProject::from_fixture("init", "init", &[]);
    disable_monitor(&project);
    project.set_variables(&format!("COMPOSE_PROJECT_NAME={} COMPOSE_ZD={COMPOSE_ZD}", project.name));
    // The project runs already, with a port of the host.
    run(&project, "docker compose up --detach");
    project.wait_until_all_answer();

    let output = run(&project, "compose-zd init --health-path /health");
    says(&output, &["new   compose.override.yaml", "docker compose up -d"]);
    assert_files_match_fixture(&project);
    run(&project, "docker compose up -d");
    project.wait_until_all_answer();

    says(&run(&project, "compose-zd check"), &["yes  1 instance, behind haproxy"]);

    let load = project.start_load("--seconds 300");
    project.set_variables("VERSION=2");
    says(&run(&project, "compose-zd deploy"), &["behind haproxy", "`app` is deployed as release 2"]);
    assert_eq!(project.states("app"), ["running 2"]);
    says(&run(&project, "compose-zd rollback"), &["`app` is back on release 1"]);
    assert_eq!(project.states("app"), ["running 1"]);

    project.set_variables("VERSION=3");
    says(&run(&project, "make deploy"), &["release 4"]);
    says(&run(&project, "make up"), &["nothing has to change"]);
    says(&run(&project, "make rollback SERVICE=app"), &["back on release 3"]);
    says(&run(&project, "make status"), &["SERVICE", "app"]);
    says(&run(&project, "make"), &["deploy", "rollback", "status"]);
    says(&run(&project, "scripts/deploy-and-restart.sh app --quiet"), &["release 6"]);
    assert_eq!(project.states("app"), ["running 3"]);

    project.set_variables(&format!("VERSION=4 DOCKER_CONFIG={}", install_plugin(&project)));
    says(&run(&project, "docker --log-level error --context default zd deploy app"), &["release 7"]);
    says(&run(&project, "docker zd status"), &["SERVICE", "app"]);
    says(&run(&project, "docker help zd"), &["Commands:\n  up ", "\n  deploy ", "Topics:"]);
    load.stop().all_from(&["1", "2", "3", "4"]);

    // Neither Compose nor `init` has anything left to do.
    says(&run(&project, "compose-zd init --health-path /health"), &["unchanged  compose.override.yaml"]);
    let before = project.containers();
    run(&project, "docker compose up -d");
    assert_eq!(project.containers(), before);
}

/// The working copy of a user who pushes. The bare repository and the deployed worktree are below it.
struct Pusher {
    project: TestProject,
}

impl Pusher {
    fn new(name: &str) -> Pusher {
        let project = TestProject::from_fixture(name, "init", &[]);
        disable_monitor(&project);
        project.set_variables("GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@localhost GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@localhost");
        project.set_variables("GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1");
        let pusher = Pusher { project };
        run(&pusher.project, "compose-zd init --health-path /health");
        run(&pusher.project, "git init --quiet --initial-branch main");
        run(&pusher.project, "git init --quiet --bare --initial-branch main app.git");
        fs::copy(
            pusher.project.path("scripts/post-receive"),
            pusher.project.path("app.git/hooks/post-receive"),
        )
        .unwrap();
        run(&pusher.project, "git remote add origin app.git");
        pusher
    }

    fn configure(&self, key: &str, value: &str) {
        run(&self.project, &format!("git -C app.git config zd.{key} {value}"));
    }

    /// Commits the app as this version, with more keys of its environment.
    fn commit(&self, version: &str, keys: &str) {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/init/compose.yaml");
        let text = fs::read_to_string(fixture).unwrap();
        let file = text.replace("${VERSION:-1}", &format!("{version}{keys}"));
        self.project.write("compose.yaml", &file);
        run(&self.project, "git add compose.yaml compose.override.yaml haproxy");
        run(&self.project, &format!("git commit --quiet --message {version}"));
    }

    fn push(&self, words: &str) -> String {
        run(&self.project, &format!("git push {words}"))
    }

    fn start_push(&self, words: &str) -> Child {
        start(&self.project, &format!("git push {words}"), ".")
    }

    fn head(&self) -> String {
        run(&self.project, "git rev-parse HEAD").trim().into()
    }
}

#[test]
fn a_git_push_deploys_and_reports_to_the_pusher() {
    let pusher = Pusher::new("push");
    let project = &pusher.project;
    pusher.commit("1", "");
    // Without its settings, the hook names the missing ones and accepts the push.
    says(
        &pusher.push("origin main"),
        &["remote: compose-zd: error: no folder to deploy from", "git config zd.worktree"],
    );
    for (key, value) in [
        ("worktree", project.path("srv").to_str().unwrap()),
        ("project", &project.name),
        ("program", COMPOSE_ZD),
    ] {
        pusher.configure(key, value);
    }
    pusher.commit("1", "\n      FIRST: 1");
    says(&pusher.push("origin main"), &["remote: compose-zd: deploying", "runs as its file says"]);
    project.wait_until_all_answer();

    let load = project.start_load("--seconds 300");
    pusher.commit("2", "");
    let head = pusher.head();
    says(
        &pusher.push("origin main"),
        &[
            &format!("remote: compose-zd: deploying {}", &head[..12]),
            "remote: `app` is deployed as release 2",
        ],
    );
    assert_eq!(project.states("app"), ["running 2"]);
    let record = project.read(&format!("srv/.compose-zd/{}/releases/0002.json", project.name));
    assert!(record.contains(&head), "the revision is recorded: {record}");

    let before = project.containers();
    run(project, "git tag v2");
    let output = pusher.push("origin main:other v2");
    says(&output, &["`other` is not deployed, only `main` is", "`tags/v2` is not deployed"]);
    says(&pusher.push("origin :other"), &["`other` is not deployed"]);
    assert_eq!(project.containers(), before);

    pusher.commit("3", "\n      HEALTH_STATUS: 500");
    pusher.configure("options", "--health-deadline=2s");
    let output = pusher.push("origin main");
    says(
        &output,
        &[
            "remote: error: `app`: 1 of 1 new instances is not ready",
            "→ 500",
            "(exit 3): what served before serves",
        ],
    );
    assert_eq!(project.containers(), before);
    pusher.configure("options", "--health-deadline=60s");

    // A forced push reverts the failed commit. Two more pushes arrive during its deploy, and the newest counts.
    run(project, "git reset --quiet --hard HEAD~1");
    pusher.commit("4", "\n      LISTEN_AFTER: 5");
    let first = pusher.start_push("--force origin main");
    wait_until("the first push is being deployed", WAIT_LIMIT, || project.states("app").len() == 2);
    pusher.commit("5", "");
    let second = pusher.start_push("origin main");
    let superseded = pusher.head();
    let arrived = || run(project, "git -C app.git rev-parse main").trim().to_string();
    wait_until("the second push has come", WAIT_LIMIT, || arrived() == superseded);
    pusher.commit("6", "");
    let third = pusher.start_push("origin main");
    says(&wait_for_output(project, "first push", first), &["`app` is deployed as release"]);
    says(
        &wait_for_output(project, "second push", second),
        &["waiting for the push before", "superseded by a newer push"],
    );
    says(
        &wait_for_output(project, "third push", third),
        &["waiting for the push before", "`app` is deployed as release"],
    );
    load.stop().all_from(&["1", "2", "4", "6"]);
    assert_eq!(project.states("app"), ["running 6"]);
    assert_eq!(run(project, "git -C srv status --short"), "");

    run(project, "git -C app.git config receive.denyDeleteCurrent ignore");
    says(&pusher.push("origin :main"), &["`main` was deleted; nothing is deployed"]);
    assert_eq!(project.states("app"), ["running 6"]);
}
