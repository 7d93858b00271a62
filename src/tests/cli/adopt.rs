//! First steps of a new user: `init`, the docker plugin, completions, manual pages, help.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use snapbox::cmd::{Command, OutputAssert};

use super::{FakeDocker, http_server, says, stderr};

/// Files that `init` writes.
const FILES: [&str; 5] = [
    "compose.override.yaml",
    "haproxy/haproxy.cfg",
    "Makefile",
    "scripts/post-receive",
    "scripts/deploy-and-restart.sh",
];

/// A project with one service that publishes a port; nothing runs.
fn project_without_proxy() -> FakeDocker {
    let fake = with_services(
        "app: {image: 'app:1', ports: [{target: 3000, published: '8080'}], networks: {default: null}}",
    );
    fake.write(
        "config-added.yaml",
        "name: p\nservices: {app: {image: 'app:1'}, proxy: {image: 'haproxy:3.2'}}\n",
    );
    fake
}

fn with_services(services: &str) -> FakeDocker {
    let fake = FakeDocker::new();
    fs::remove_file(fake.path("containers/old")).unwrap();
    fake.write("compose.yaml", "# what the fake docker reads is config.yaml\n");
    fake.write(
        "config.yaml",
        &format!("name: p\nservices: {{{services}}}\nnetworks: {{default: {{name: p_default}}}}\n"),
    );
    fake
}

/// Action on each file, as `init` reports it.
fn file_actions(run: &OutputAssert) -> Vec<(String, String)> {
    let output = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
    let lines =
        output.lines().skip_while(|l| !l.starts_with("WHAT")).skip(1).take_while(|l| !l.starts_with("next:"));
    let words = lines.filter_map(|l| {
        let mut words = l.split_whitespace();
        Some((words.next()?.to_string(), words.next()?.to_string()))
    });
    words.filter(|(_, file)| FILES.contains(&file.as_str())).collect()
}

fn written_files(fake: &FakeDocker) -> Vec<&'static str> {
    FILES.into_iter().filter(|file| fake.path(file).exists()).collect()
}

#[test]
fn init_writes_every_file_and_a_second_init_changes_none() {
    let fake = project_without_proxy();
    let run = fake.run("init").success();
    assert_eq!(file_actions(&run), FILES.map(|f| ("new".to_string(), f.to_string())));
    assert_eq!(written_files(&fake), FILES);
    let mode = |file: &str| fs::metadata(fake.path(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!(
        (mode("scripts/post-receive"), mode("haproxy/haproxy.cfg"), mode("haproxy")),
        (0o755, 0o644, 0o755)
    );
    says(&run, &["`app` has no healthcheck"]);
    let again = fake.run("init").success();
    assert_eq!(file_actions(&again), FILES.map(|f| ("unchanged".to_string(), f.to_string())));
    let asks = |call: &String| call.ends_with(" config") || call.starts_with("context inspect ");
    assert!(fake.calls().iter().all(asks), "{:?}", fake.calls());
}

#[test]
fn print_shows_every_file_and_writes_none() {
    let fake = project_without_proxy();
    let run = fake.run("init --print --health-path /up").success();
    let output = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
    FILES.iter().for_each(|file| assert!(output.contains(&format!("==> {file} <==\n")), "{file}: {output}"));
    assert!(
        output.contains("server-template app 8 app:3000 check") && output.contains("httpchk GET /up"),
        "{output}"
    );
    assert_eq!(written_files(&fake), Vec::<&str>::new());
}

#[test]
fn an_existing_file_is_kept_without_force() {
    let fake = project_without_proxy();
    fs::create_dir(fake.path("scripts")).unwrap();
    fake.write("Makefile", "mine:\n");
    fake.write("scripts/post-receive", "mine\n");
    let run = fake.run("init").success();
    let kept = |run: &OutputAssert, word: &str| {
        file_actions(run).iter().filter(|(w, _)| w == word).map(|(_, f)| f.clone()).collect::<Vec<_>>()
    };
    assert_eq!(kept(&run, "kept"), ["Makefile", "scripts/post-receive"]);
    assert!(String::from_utf8_lossy(&run.get_output().stdout).contains("your Makefile stays unchanged"));
    assert_eq!(fs::read_to_string(fake.path("Makefile")).unwrap(), "mine:\n");
    let run = fake.run("init --force").success();
    assert_eq!(kept(&run, "overwritten"), ["Makefile", "scripts/post-receive"]);
    assert!(fs::read_to_string(fake.path("Makefile")).unwrap().contains("compose-zd"));
}

#[test]
fn an_existing_override_file_is_not_changed() {
    let fake = project_without_proxy();
    fake.write("compose.override.yaml", "services: {}\n");
    let run = fake.run("init").code(1);
    says(
        &run,
        &[
            "`compose.override.yaml` exists already and stays unchanged",
            "ports: !reset []",
            "hint: `--force`",
        ],
    );
    assert_eq!(fs::read_to_string(fake.path("compose.override.yaml")).unwrap(), "services: {}\n");
    assert!(fake.path("haproxy/haproxy.cfg").exists() && fake.path("Makefile").exists());
}

#[test]
fn a_lower_case_makefile_counts_as_a_makefile() {
    let fake = project_without_proxy();
    fake.write("makefile", "mine:\n");
    let run = fake.run("init --force").success();
    assert!(String::from_utf8_lossy(&run.get_output().stdout).contains("your Makefile stays unchanged"));
    assert!(!fake.path("Makefile").exists());
}

#[test]
fn a_file_of_init_that_the_user_changed_is_kept() {
    let fake = project_without_proxy();
    fake.run("init").success();
    for file in &FILES[..2] {
        let text = fs::read_to_string(fake.path(file)).unwrap();
        fake.write(file, &format!("{text}# mine\n"));
    }
    let run = fake.run("init").success();
    assert_eq!(file_actions(&run)[..2], FILES.map(|f| ("kept".to_string(), f.to_string()))[..2]);
}

#[test]
fn a_project_with_a_proxy_gets_no_other_proxy() {
    let keys = "app: {image: 'app:1', expose: ['3000'], networks: {default: null}}";
    let fake = with_services(&format!("{keys}, lb: {{image: 'nginxproxy/nginx-proxy:1.7'}}"));
    let run = fake
        .run("init")
        .success()
        .stdout_eq("`lb` (nginxproxy/nginx-proxy:1.7) is a proxy: [..]`VIRTUAL_HOST`[..]\n...");
    assert_eq!(file_actions(&run).len(), 3);
    assert_eq!(written_files(&fake), FILES[2..]);

    // The proxy belongs to another project, on a shared network.
    let fake = with_services(keys);
    fake.container("containers/lb", "lb-1", "running", "x");
    let lb = fs::read_to_string(fake.path("containers/lb")).unwrap();
    let lb = lb.replace("\"compose.project\": \"p\"", "").replace("project\": \"p\"", "project\": \"other\"");
    fake.write(
        "containers/lb",
        &lb.replace("\"Config\": {", "\"Config\": {\"Image\": \"nginxproxy/nginx-proxy\", "),
    );
    fake.run("init")
        .success()
        .stdout_eq("nginx-proxy `p-lb-1` runs on a network of this project[..]`VIRTUAL_HOST`[..]\n...");
    assert_eq!(written_files(&fake), FILES[2..]);
}

#[test]
fn a_project_for_swarm_gets_no_proxy() {
    let fake = project_without_proxy();
    let config = fs::read_to_string(fake.path("config.yaml")).unwrap();
    fake.write("config.yaml", &format!("{config}x-zd: {{engine: swarm}}\n"));
    fake.run("init").success().stdout_eq("no proxy is added, because the project is for Swarm[..]\n...");
    assert_eq!(written_files(&fake), FILES[2..]);
}

#[test]
fn an_ambiguous_service_must_be_named() {
    let port = |n: u16| format!("image: x, ports: [{{target: 3000, published: '{n}'}}]");
    let fake = with_services(&format!(
        "web: {{{}}}, api: {{{}}}, db: {{image: 'postgres:16', expose: ['5432']}}",
        port(80),
        port(81)
    ));
    fake.write("config-added.yaml", "name: p\nservices: {web: {image: x}, api: {image: x}}\n");
    let run = fake.run("init").code(2);
    says(&run, &["which service should get a proxy?", "`api`, `web`; `--no-proxy`"]);
    assert_eq!(written_files(&fake), Vec::<&str>::new());
    says(&fake.run("init --service missing").code(2), &["has no service `missing`", "`api`, `db`, `web`"]);
    says(&fake.run("init --service web:http").code(2), &["such as web:3000"]);
    fake.run("init --service web --service api").success();
    let config = fs::read_to_string(fake.path("haproxy/haproxy.cfg")).unwrap();
    assert!(
        config.contains("server-template web 8 web:3000")
            && config.contains("server-template api 8 api:3000")
    );
    fake.run("init --no-proxy --force").success();
}

#[test]
fn a_failed_init_writes_nothing() {
    let nothing = |fake: &FakeDocker, words: &str, code: i32, texts: &[&str]| {
        says(&fake.run(words).code(code), texts);
        assert_eq!(written_files(fake), Vec::<&str>::new(), "{words}");
    };
    nothing(&with_services(""), "init", 2, &["`compose.yaml` has no service"]);
    let fake = project_without_proxy();
    fs::remove_file(fake.path("compose.yaml")).unwrap();
    nothing(&fake, "init", 2, &["no Compose file in", "create a `compose.yaml`"]);
    let fake = project_without_proxy();
    fake.fail("config$", "services.app Additional property prots is not allowed");
    nothing(&fake, "init", 2, &["refuses the project", "prots is not allowed"]);
    // A Compose version that keeps the ports.
    let fake = project_without_proxy();
    fake.write("config-added.yaml", &fs::read_to_string(fake.path("config.yaml")).unwrap());
    nothing(&fake, "init", 1, &["does not support `!reset`", "2.24.4"]);
    let fake = project_without_proxy();
    fake.write("scripts", "no folder\n");
    says(&fake.run("init").code(1), &["scripts/post-receive", "nothing was added"]);
    assert!(!fake.path("Makefile").exists() && !fake.path("haproxy").exists());
    nothing(&project_without_proxy(), "init --publish 0", 2, &["--publish", "127.0.0.1:8080"]);
    nothing(&project_without_proxy(), "init --health-path up", 2, &["--health-path", "/health"]);
}

#[test]
fn without_an_engine_init_uses_the_file_alone() {
    let fake = project_without_proxy();
    fake.no_engine("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.");
    says(&fake.run("init").success(), &["warning: no Docker engine answers", "only the file is checked"]);
    assert_eq!(written_files(&fake), FILES);
}

#[test]
fn compose_files_given_by_flag_appear_in_the_written_files() {
    let fake = project_without_proxy();
    fake.write("prod.yaml", "");
    let run = fake.run("init -f prod.yaml").success();
    assert!(
        String::from_utf8_lossy(&run.get_output().stdout)
            .contains("export COMPOSE_FILE=prod.yaml:compose.zd.yaml")
    );
    assert!(fake.path("compose.zd.yaml").exists() && !fake.path("compose.override.yaml").exists());
    assert!(
        fs::read_to_string(fake.path("Makefile"))
            .unwrap()
            .contains("COMPOSE_FILE ?= prod.yaml:compose.zd.yaml")
    );
}

/// Runs compose-zd as docker does: under the plugin name, with docker's own arguments.
fn run_as_plugin(fake: &FakeDocker, words: &str) -> OutputAssert {
    let program = fake.path("bin/docker-zd");
    if !program.exists() {
        symlink(snapbox::cmd::cargo_bin!("compose-zd"), &program).unwrap();
    }
    Command::new(&program)
        .args(words.split(' '))
        .current_dir(fake.path(""))
        .env("PATH", format!("{}:/usr/bin:/bin", fake.path("bin").display()))
        .env("FAKE", fake.path(""))
        .assert()
}

#[test]
fn docker_runs_compose_zd_as_a_plugin() {
    let fake = FakeDocker::new();
    let run = run_as_plugin(&fake, "docker-cli-plugin-metadata").success();
    let metadata: serde_json::Value = serde_json::from_slice(&run.get_output().stdout).unwrap();
    assert_eq!(metadata["SchemaVersion"], "0.1.0");
    assert!(
        ["Vendor", "Version", "ShortDescription"].iter().all(|key| metadata[key].is_string()),
        "{metadata}"
    );
    run_as_plugin(&fake, "--context far --log-level error -D zd deploy app --dry-run").success();
    let calls = fs::read_to_string(fake.path("calls")).unwrap();
    assert!(calls.lines().any(|c| c == "--log-level error -D --context far compose config"), "{calls}");
    assert!(calls.lines().all(|call| call.starts_with("--log-level error -D --context far ")), "{calls}");
    run_as_plugin(&fake, "zd deploy --help").success().stdout_eq("...\nUsage: docker zd deploy [..]\n...");
    let help =
        run_as_plugin(&fake, "help zd deploy").success().stdout_eq("...\nUsage: docker zd deploy [..]\n...");
    assert!(String::from_utf8_lossy(&help.get_output().stdout).contains("see also: docker zd help update"));
    run_as_plugin(&fake, "zd nothing").code(2);
    run_as_plugin(&fake, "zd deploy app").success();
}

#[test]
fn every_shell_has_completions() {
    let fake = FakeDocker::new();
    for (shell, word) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef"),
        ("fish", "complete -c"),
        ("elvish", "rollback"),
        ("powershell", "rollback"),
    ] {
        let run = fake.run(&format!("completions {shell}")).success();
        let output = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
        assert!(output.contains(word), "{shell}: {output}");
    }
    says(&fake.run("completions tcsh").code(2), &["tcsh", "bash"]);
    assert_eq!(fake.calls(), Vec::<String>::new());
}

#[test]
fn every_command_has_a_manual_page() {
    let fake = FakeDocker::new();
    fake.run("man").success().stdout_eq("...\n.TH compose-zd 1 [..]\n...");
    fake.run("man --dir pages").success();
    let pages: Vec<String> =
        ["", "-deploy", "-rollback", "-recover", "-status", "-history", "-init", "-man", "-completions"]
            .iter()
            .map(|command| {
                fs::read_to_string(fake.path(&format!("pages/man1/compose-zd{command}.1"))).expect(command)
            })
            .collect();
    assert!(pages.iter().all(|page| page.contains(".SH SYNOPSIS")));
    assert!(pages[1].contains("health\\-path") && pages[1].contains("x\\-zd"), "{}", pages[1]);
    let topic = fs::read_to_string(fake.path("pages/man7/compose-zd-update.7")).expect("a topic");
    assert!(topic.starts_with(".TH compose-zd-update 7\n") && topic.contains("parallelism"), "{topic}");
    says(&fake.run("man --dir config.yaml").code(1), &["cannot write the manual pages to `config.yaml`"]);
}

#[test]
fn help_lists_commands_and_topics() {
    let fake = FakeDocker::new();
    let help =
        |words: &str| String::from_utf8_lossy(&fake.run(words).success().get_output().stdout).into_owned();
    let list = help("help");
    let (commands, topics) = list.split_once("\nTopics:\n").expect("both");
    assert!(commands.starts_with("Commands:\n  up ") && !commands.contains("metadata"), "{list}");
    assert!(
        topics.contains("\n  haproxy ") && list.lines().all(|line| line.chars().count() <= 130),
        "{list}"
    );
    assert_eq!(help("help deploy"), help("deploy --help"));
    assert!(
        help("help deploy")
            .trim_end()
            .lines()
            .last()
            .unwrap()
            .starts_with("see also: compose-zd help update")
    );
    assert!(help("help update").contains("failure_action"));
    says(&fake.run("help updat").code(2), &["updat", "update"]);
    assert_eq!(fake.calls(), Vec::<String>::new());
}

#[test]
fn help_has_examples_keys_and_exit_codes() {
    let fake = FakeDocker::new();
    let help =
        |words: &str| String::from_utf8_lossy(&fake.run(words).success().get_output().stdout).into_owned();
    let deploy = help("deploy --help");
    let parts =
        ["Examples:\n", "Exit codes:\n", "Keys of the compose file", "health: { path:", "--health-path"];
    parts.iter().for_each(|part| assert!(deploy.contains(part), "{part}: {deploy}"));
    for command in ["rollback", "init", "completions", "man"] {
        assert!(help(&format!("{command} --help")).contains("Examples:\n"), "{command}");
    }
    assert!(help("--help").contains("Start here:\n"));
    let version = help("--version");
    assert!(version.starts_with(concat!("compose-zd ", env!("CARGO_PKG_VERSION"))), "{version}");
}

#[test]
fn the_keys_shown_by_help_are_accepted() {
    let fake = FakeDocker::new();
    let help = fake.run("deploy --help").success();
    let output = String::from_utf8_lossy(&help.get_output().stdout).into_owned();
    let (_, keys) = output.split_once("Keys of the compose file").expect("a part with the keys");
    let (_, keys) = keys.split_once('\n').expect("its first line");
    let (keys, _) = keys.split_once("\n\n").unwrap();
    let keys = keys
        .replace("    app:\n", "    app:\n      image: app:1\n")
        .replace("port: 3000", &format!("port: {}", http_server("200 ok")));
    let others = "\n    migrate: { image: x }\n    warm: { image: x }\n    web_one: { image: x }\n    web_two: { image: x }\n  x-zd";
    let keys = keys.replace("\n  x-zd", others).replace("container: lb, kind: haproxy", "kind: none");
    fake.write("config.yaml", &format!("name: p\n{}", keys.replace("\n  ", "\n").trim_start_matches(' ')));
    let run = fake.run("deploy app --dry-run").success();
    assert!(!stderr(&run).contains("unknown field"), "{}", stderr(&run));
}

/// The CI examples of the fixtures; the server is a local folder.
#[test]
fn the_ci_examples_deploy_the_commit_and_fail_with_the_deploy() {
    let fake = FakeDocker::new();
    let program = |name: &str, script: &str| {
        fake.write(&format!("bin/{name}"), script);
        fs::set_permissions(fake.path(&format!("bin/{name}")), fs::Permissions::from_mode(0o755)).unwrap();
    };
    program(
        "ssh",
        "#!/bin/sh\necho \"$3\" >>to\nfor last; do :; done\nsh -c \"$(echo \"$last\" | sed \"s|/srv/app|$SRV|\")\"\n",
    );
    program("compose-zd", "#!/bin/sh\ngit rev-parse HEAD >../deployed\necho \"$@\" >../words\nexit 3\n");
    let shell = |script: &str, commit: &str| {
        let names = ["COMMIT", "CI_COMMIT_SHA"];
        let mut command = Command::new("bash").args(["-e", "-c", script]).current_dir(fake.path(""));
        for (name, value) in
            [("SERVER", "deploy@far"), ("DEPLOY_SERVER", "far"), ("GIT_CONFIG_GLOBAL", "/dev/null")]
        {
            command = command.env(name, value);
        }
        for who in ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"] {
            command = command.env(who, "t");
        }
        names
            .iter()
            .fold(command, |command, name| command.env(name, commit))
            .env("HOME", fake.path(""))
            .env("SRV", fake.path("srv"))
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", fake.path("bin").display()))
            .assert()
    };
    let commit = "git commit --quiet --allow-empty --message";
    shell(&format!("git init --quiet origin; cd origin; {commit} 1; cd ..; git clone --quiet origin srv; cd origin; {commit} 2"), "").success();
    let head = |folder: &str| {
        let run = shell(&format!("git -C {folder} rev-parse HEAD"), "").success();
        String::from_utf8_lossy(&run.get_output().stdout).trim().to_string()
    };
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = |name: &str| -> serde_yaml::Value {
        serde_yaml::from_str(&fs::read_to_string(root.join("fixtures/ci").join(name)).unwrap()).unwrap()
    };
    let github = file("github-deploy.yml")["jobs"]["deploy"]["steps"][0]["run"].as_str().unwrap().to_string();
    let gitlab = file("gitlab-deploy.yml");
    let gitlab =
        gitlab["deploy"]["script"].as_sequence().unwrap().iter().map(|l| l.as_str().unwrap().to_string());
    for script in [github, gitlab.collect::<Vec<_>>().join("\n")] {
        let newest = head("origin");
        assert_ne!(head("srv"), newest);
        shell(&script, &newest).code(3);
        assert_eq!(fs::read_to_string(fake.path("deployed")).unwrap().trim(), newest);
        assert_eq!(fs::read_to_string(fake.path("words")).unwrap(), "deploy --latest\n");
        assert_eq!(fs::read_to_string(fake.path("to")).unwrap(), "deploy@far\n");
        fs::remove_file(fake.path("to")).unwrap();
        shell(&format!("cd origin; {commit} next"), "").success();
    }
}
