//! Every argv by equality, and the messages for the usual failures.

use super::compose::{collateral, create_words};
use super::images::keeper_words;
use super::inspect::{Container, Image};
use super::*;

fn flags() -> ComposeFlags {
    let words = |w: &str| w.split(' ').map(String::from).collect();
    ComposeFlags { engine: words("--context far"), project: words("--file a.yaml --project-name p") }
}

#[test]
fn the_engine_stands_before_compose_and_the_project_after() {
    let argv = compose_words(Path::new("docker"), None, &flags(), &["config"]);
    assert_eq!(argv.join(" "), "docker --context far compose --file a.yaml --project-name p config");
}

#[test]
fn a_standalone_compose_takes_the_same_words() {
    let compose = Some(Path::new("docker-compose"));
    let argv = compose_words(Path::new("docker"), compose, &flags(), &["config"]);
    assert_eq!(argv.join(" "), "docker-compose --context far --file a.yaml --project-name p config");
}

#[test]
fn composes_commands_and_no_others_go_to_its_plugin() {
    let plugin = PathBuf::from("/usr/libexec/docker/cli-plugins/docker-compose");
    let docker = Docker { plugin: Some(plugin.clone()), ..Docker::for_test("docker".into(), flags()) };
    assert_eq!(docker.plugin_for(&docker.compose_words(&["config"])), Some(&*plugin));
    assert_eq!(docker.plugin_for(&docker.docker_words(&["inspect", "compose"])), None);
    let alone = Docker { standalone: Some("docker-compose".into()), ..docker };
    assert_eq!(alone.plugin_for(&alone.compose_words(&["config"])), None);
}

#[test]
fn instances_are_created_beside_the_others_and_nothing_else_is_touched() {
    assert_eq!(
        create_words("app", 4).join(" "),
        "up --no-start --no-deps --no-recreate --no-build --pull never --scale app=4 app"
    );
}

#[test]
fn a_filter_replaces_the_engine_and_its_tls_and_no_other_flag() {
    let flags = "--config /c --context far --tlsverify --tlscacert ca.pem --log-level debug".split(' ');
    let flags = engine_flags(&flags.map(String::from).collect::<Vec<_>>(), "unix://@filter".into());
    assert_eq!(flags.join(" "), "--config /c --log-level debug --host unix://@filter");
}

#[test]
fn a_container_that_was_set_aside_knows_its_name() {
    let container = |name: &str| {
        let json = format!(r#"{{"Id": "1a2b3c4d5e6f7a8b", "Name": "/{name}"}}"#);
        serde_json::from_str::<Container>(&json).unwrap()
    };
    let (named, set_aside) = (container("shop"), container("shop-1a2b3c4d5e6f"));
    assert_eq!((named.is_set_aside(), named.set_aside_name()), (false, set_aside.name().to_string()));
    assert_eq!((set_aside.is_set_aside(), set_aside.fixed_name()), (true, "shop"));
    let by_compose = |name: &str| set_aside.clone().named(name).fixed_name().to_string();
    assert_eq!(by_compose("0123456789ab_shop"), "shop", "Compose failed while it recreated the container");
    assert_eq!(by_compose("my_shop"), "my_shop");
    let lost = |container: &Container| container.has_lost(Some("shop"));
    assert_eq!((lost(&set_aside), lost(&named), set_aside.has_lost(None)), (true, false, false));
    assert_eq!(set_aside.set_aside_name(), set_aside.name(), "once");
}

#[test]
fn an_exec_reads_stdin_only_when_it_has_some() {
    let mut exec = Exec::sh("c", "true");
    assert_eq!(exec.words().join(" "), "exec c sh -c true");
    exec.stdin = Some(String::new());
    exec.options = vec!["--user".into(), "0".into()];
    assert_eq!(exec.words().join(" "), "exec -i --user 0 c sh -c true");
}

#[test]
fn a_dry_run_names_what_would_be_stopped() {
    let text = " DRY-RUN MODE -  Container p-app-1  Stopping \n DRY-RUN MODE -  Network p_default  Removed \n \
                DRY-RUN MODE -  Container p-app-2  Created \n";
    let found: Vec<_> = collateral(text).collect();
    assert_eq!(found, ["Container p-app-1 Stopping", "Network p_default Removed"]);
}

#[test]
fn scripts_are_shown_by_their_first_line() {
    let words = ["exec", "c", "sh", "-c", "one\ntwo"].map(String::from);
    assert_eq!(shown_words(&words), "exec c sh -c 'one …'");
}

#[test]
fn the_usual_causes_have_a_message_of_their_own() {
    let message = |text: &str| {
        let result = CommandResult { code: Some(1), stdout: String::new(), stderr: text.into() };
        engine_error(&["ps", "--all"], &result, EngineAddress::default).message
    };
    let down =
        "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?";
    assert_eq!(message(down), "no Docker engine answers");
    let denied = "permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock";
    assert_eq!(message(denied), "this user may not talk to the Docker engine");
    let context = "Failed to initialize: unable to resolve docker endpoint: context \"prod\": context not found: open …";
    assert_eq!(message(context), "there is no Docker context `prod`");
    assert_eq!(message("Error: no"), "`docker ps --all` exited with 1");
}

#[test]
fn the_warnings_of_compose_are_read_from_its_log_lines() {
    let line = r#"time="2026-11-21T05:55:00Z" level=warning msg="The \"TAG\" variable is not set. Defaulting to a blank string.""#;
    assert_eq!(
        compose_failure::warnings(line),
        ["The `TAG` variable is not set. Defaulting to a blank string."]
    );
    assert_eq!(compose_failure::warnings("anything else"), [""; 0]);
}

#[test]
fn a_sidecar_command_shares_the_network_and_may_change_its_settings() {
    let exec = Exec::sidecar("lb", "sha256:i", "echo 1 > /proc/sys/x");
    let words = "run --rm --pull never --network container:lb --security-opt systempaths=unconfined --user 0 \
                 --entrypoint sh sha256:i -c";
    assert_eq!(exec.words().join(" "), format!("{words} echo 1 > /proc/sys/x"));
}

#[test]
fn a_keeper_has_no_label_of_its_image_and_no_volume() {
    let json = r#"{"Config": {"Volumes": {"/data": {}}, "Labels": {"com.docker.compose.project": "shop"}}}"#;
    let image: Image = serde_json::from_str(json).unwrap();
    let words = keeper_words(("shop", "1a2b3c4d"), "k", "compose-zd/shop-app:r1", &image);
    assert_eq!(
        words.join(" "),
        "create --name k --network none --pull never --entrypoint /compose-zd-keep --tmpfs /data \
         --label com.docker.compose.project= --label compose-zd.history=1a2b3c4d --label compose-zd.keeps=shop compose-zd/shop-app:r1"
    );
}

#[test]
fn a_container_that_stopped_by_itself_has_failed() {
    let has_failed = |state: &str| {
        let json = format!(r#"{{"Id": "a", "Name": "/a", "State": {state}}}"#);
        serde_json::from_str::<Container>(&json).unwrap().has_failed()
    };
    assert!(has_failed(r#"{"Status": "exited", "ExitCode": 1}"#));
    assert!(has_failed(r#"{"Status": "exited", "ExitCode": 0, "OOMKilled": true}"#));
    assert!(has_failed(r#"{"Status": "exited", "ExitCode": 137}"#));
    assert!(has_failed(r#"{"Status": "restarting", "ExitCode": 0}"#));
    assert!(has_failed(r#"{"Status": "paused", "ExitCode": 0}"#));
    for code in [0, 130, 143] {
        assert!(!has_failed(&format!(r#"{{"Status": "exited", "ExitCode": {code}}}"#)), "{code}");
    }
    assert!(!has_failed(r#"{"Status": "created", "ExitCode": 1}"#));
    assert!(!has_failed(r#"{"Status": "running", "ExitCode": 0}"#));
}

#[test]
fn a_secret_is_no_argument_and_is_not_shown() {
    let variables = vec![("TOKEN".into(), "hunter2".into()), ("DOCKER_HOST".into(), "tcp://far".into())];
    let exec = Exec { variables, ..Exec::user_command("c", vec!["login".into(), "hunter2".into()]) };
    let words = exec.words();
    assert_eq!(words.join(" "), "exec --env TOKEN --env DOCKER_HOST=tcp://far c login hunter2");
    let argv: Vec<String> = ["docker".into()].into_iter().chain(words).collect();
    assert_eq!(exec.shown(&argv), "exec --env TOKEN --env DOCKER_HOST=tcp://far c login …");
}

#[test]
fn a_text_like_a_flag_is_no_image_reference() {
    let docker = Docker::for_test("/nonexistent".into(), ComposeFlags::default());
    for flag in ["--help", "-x", "", " app:1"] {
        assert_eq!(docker.image(flag).unwrap(), None);
        assert!(!docker.pull_image(flag).unwrap());
    }
}

/// A docker client that is a script.
fn scripted(folder: &Path, script: &str, timeout: Duration) -> Docker {
    let path = folder.join("docker");
    std::fs::write(&path, script).unwrap();
    let flags = ComposeFlags { engine: vec![path.to_string_lossy().into()], project: Vec::new() };
    Docker::new("/bin/sh".into(), flags, Arc::new(|_, _| ())).with_engine_timeout(timeout)
}

#[test]
fn a_slow_command_may_run_while_its_engine_answers() {
    let folder = tempfile::tempdir().unwrap();
    let script = "case $1 in version) echo 1 ;; tag) sleep 1.5 ;; esac";
    scripted(folder.path(), script, Duration::from_secs(4)).tag("a", "b").unwrap();
}

#[test]
fn a_command_is_ended_with_its_children_when_its_engine_stops_answering() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let script = format!(
        "case $1 in context) echo far tcp://192.0.2.1:2375 ;; system) exec sleep 3 ;; *) sleep 600 & echo $! >>{path}/pids; wait ;; esac"
    );
    let docker = scripted(folder.path(), &script, Duration::from_secs(1));
    for error in [docker.tag("a", "b").unwrap_err(), docker.ids().unwrap_err()] {
        let error = Error::from_error(error);
        let engine = "the Docker engine at `tcp://192.0.2.1:2375` (context `far`) does not answer";
        assert_eq!((error.message.as_str(), error.exit), (engine, crate::error::Exit::Unchanged));
    }
    let pids = std::fs::read_to_string(folder.path().join("pids")).unwrap();
    let has_ended = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(" Z ")
    };
    let end = Instant::now() + Duration::from_secs(30);
    while !pids.lines().all(has_ended) {
        assert!(Instant::now() < end, "{pids} still run");
        std::thread::yield_now();
    }
}

#[test]
fn a_client_that_cannot_connect_reports_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let error = |script: &str| {
        let docker = scripted(folder.path(), script, endpoint::TIMEOUT);
        Error::from_error(docker.ids().unwrap_err()).message
    };
    let down = "case $1 in context) ;; *) echo 'Cannot connect to the Docker daemon' >&2; exit 1 ;; esac";
    assert_eq!(error(down), "no Docker engine answers");
    let other = "case $1 in version) echo 1 ;; *) echo 'docker: no such command' >&2; exit 1 ;; esac";
    assert_eq!(error(other), "`docker system dial-stdio` does not connect to the Docker engine");
}

/// A client with a shell of this machine in its containers; any other command of it never ends.
fn client(folder: &Path) -> Docker {
    use std::os::unix::fs::PermissionsExt;
    let program = folder.join("docker");
    std::fs::write(&program, "#!/bin/sh\ncase \"$*\" in 'exec -i c sh') exec sh ;; esac\nexec sleep 600\n")
        .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    Docker::for_test(program, ComposeFlags::default())
}

#[test]
fn a_command_in_a_container_ends_at_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let docker = client(folder.path());
    let limit = Duration::from_millis(300);
    let hangs = docker.exec(&Exec::user_command("c", vec!["hook".into()]).with_limit(limit)).unwrap();
    assert_eq!((hangs.code, hangs.stderr_or_stdout()), (None, "no answer within 300ms"));
    // The kept shell has the same limit, and is replaced after it.
    let hangs = docker.query(&Exec::sh("c", "echo a; sleep 5").with_limit(limit)).unwrap();
    assert_eq!((hangs.code, hangs.stderr_or_stdout()), (None, "no answer within 300ms"));
    assert_eq!(docker.query(&Exec::sh("c", "echo b")).unwrap().stdout.trim(), "b");
}

#[test]
fn a_signal_ends_a_query_and_a_users_command_but_no_change_to_a_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let docker = client(folder.path()).with_stop_signal(&StopSignal::after(15));
    let interrupted = |result: Result<CommandResult>| Error::from_error(result.unwrap_err()).exit.code();
    assert_eq!(interrupted(docker.exec(&Exec::user_command("c", vec!["hook".into()]))), 143);
    assert_eq!(interrupted(docker.query(&Exec::sh("c", "sleep 5"))), 143);
    assert_eq!(docker.exec(&Exec::sh("c", "sleep 0.5; echo changed")).unwrap().stdout.trim(), "changed");
}

#[test]
fn endless_output_is_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let result =
        client(folder.path()).query(&Exec::sh("c", "yes").with_limit(Duration::from_secs(20))).unwrap();
    assert_eq!(result.code, None);
}
