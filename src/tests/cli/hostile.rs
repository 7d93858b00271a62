//! Hostile input and secrets: every broken input of the corpus is refused, and no secret gets out.

use super::*;

/// Inputs of `fixtures/corpus/broken/*.yaml`, as `docker compose config` prints them. Comments hold words of the expected
/// message (`says`) and the command to run (`runs`, by default `deploy app`).
fn broken_inputs() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/corpus/broken");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<(String, String)> = files
        .map(|path| {
            (path.file_stem().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap())
        })
        .collect();
    all.sort();
    all
}

#[test]
fn every_broken_input_is_refused_with_its_key_and_changes_nothing() {
    let all = broken_inputs();
    assert!(all.len() >= 180, "{}", all.len());
    let fake = FakeDocker::new();
    fake.write("compose.yaml", "");
    let mut wrong = Vec::new();
    for (name, text) in all {
        let marked = |mark: &str| {
            text.lines().filter_map(|l| l.strip_prefix(mark)).map(String::from).collect::<Vec<_>>()
        };
        let runs = marked("# runs: ").pop().unwrap_or("deploy app".into());
        fake.write("config.yaml", &text);
        let run = fake.run(&runs);
        let (code, all) = (run.get_output().status.code(), stderr(&run));
        let missing = marked("# says: ").into_iter().find(|says| !all.contains(says));
        let is_open = all.contains("hunter2") || all.contains("panicked") || all.contains('\u{1b}');
        if code != Some(2) || missing.is_some() || is_open || !fake.changes().is_empty() {
            wrong.push(format!("{name}: exit {code:?}, without {missing:?}, {:?}\n{all}", fake.changes()));
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert!(!fake.path("owned").exists() && !fake.path(".compose-zd").exists());
}

#[test]
fn arguments_with_spaces_and_newlines_stay_whole() {
    let fake = FakeDocker::new();
    let path = format!("{}:/usr/bin:/bin", fake.path("bin").display());
    let cases: [(&[&str], &str); 6] = [
        (&["deploy", "a b"], "`a b`"),
        (&["deploy", "a\nb"], "`a\nb`"),
        (&["deploy", "app'; touch owned; '"], "`app'; touch owned; '`"),
        (&["deploy", "app", "--image", "app=x:1\n--help"], "--image"),
        (&["deploy", "app", "--scale", "app;touch owned=2"], "`app;touch owned`"),
        (&["deploy", "app", "--health-path", "/up\r\nX: y"], "health-path"),
    ];
    for (words, says_it) in cases {
        says(&fake.run_words(words, &path).code(2), &[says_it]);
    }
    // The lock records the command with its newlines.
    let calls = fs::read_to_string(fake.path("calls")).unwrap();
    assert!(!calls.contains("up --no-start") && !calls.contains("\nstart "), "{calls}");
    assert!(!fake.path("owned").exists());
}

#[test]
fn output_of_docker_cannot_control_the_terminal() {
    let fake = FakeDocker::new();
    fake.fail("start new", "Error: \u{1b}]0;owned\u{7}\u{1b}[2J\u{1b}[31mred\u{9b}1mbold\rover");
    let run = fake.run("deploy app").code(3);
    says(&run, &["Error: ]0;owned[2J[31mred1mboldover"]);
    assert!(!stderr(&run).contains(['\u{1b}', '\u{7}', '\u{9b}', '\r']));
}

/// A project whose secrets all contain `hunter2`.
const SECRETS: &str = "name: p
services:
  app:
    image: app:1
    environment: {DB_PASSWORD: hunter2-environment}
    secrets: [{source: key, target: /run/secrets/key}]
    configs: [{source: conf, target: /conf}]
    post_start: [{command: [hook, hunter2-hook], environment: {TOKEN: hunter2-token}}]
    x-zd: {health: {path: '/up?key=hunter2-path', port: PORT}, drain: {command: [drain, hunter2-drain]}}
secrets: {key: {name: p_key, environment: hunter2-key}}
configs: {conf: {name: p_conf, content: hunter2-content}}
";

#[test]
fn secrets_never_reach_output_or_a_file_that_others_can_read() {
    for failing in ["", "up --detach", "exec", "stop old", "image inspect"] {
        let fake = FakeDocker::new();
        fake.write("config.yaml", &SECRETS.replace("PORT", &fake.port.to_string()));
        if !failing.is_empty() {
            fake.fail(failing, "Error response from daemon: no");
        }
        let url = format!("http://127.0.0.1:{}/?key=hunter2-url", fake.port);
        let deploy = format!("deploy app -v --witness-url {url} --drain-command hunter2-flag");
        for words in [&*deploy, "status", "history --output json", "deploy app --dry-run -v"] {
            let run = fake.run(words);
            let output = format!("{}{}", stderr(&run), String::from_utf8_lossy(&run.get_output().stdout));
            assert!(!output.contains("hunter2"), "{words}: {output}");
            assert!(run.get_output().status.success() || !failing.is_empty(), "{words}: {output}");
        }
        for recorded in fs::read_dir(fake.path(".compose-zd/rollouts")).into_iter().flatten() {
            let text = fs::read_to_string(recorded.unwrap().path()).unwrap();
            assert!(!text.contains("hunter2"), "{text}");
        }
        let calls = fs::read_to_string(fake.path("calls")).unwrap();
        let arguments: Vec<&str> = calls.lines().filter(|c| c.contains("hunter2")).collect();
        // Only commands of the user may hold a secret in the arguments of docker.
        assert!(
            arguments.iter().all(|c| !c.contains("hunter2-token") && c.starts_with("exec ")),
            "{arguments:?}"
        );
        assert_eq!(readable_by_others(&fake.path(".compose-zd")), Vec::<PathBuf>::new());
    }
}

/// Files below a folder that other users could read.
fn readable_by_others(folder: &Path) -> Vec<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o077 != 0 {
            found.push(path.clone());
        }
        found.extend(readable_by_others(&path));
    }
    found
}

#[test]
fn an_error_never_shows_a_value_of_the_file() {
    let fake = FakeDocker::new();
    for keys in [
        "environment: {A: [hunter2]}, scale: hunter2",
        "healthcheck: {test: {hunter2: hunter2}}",
        "depends_on: {db: hunter2}",
        "environment: hunter2",
    ] {
        fake.service(&format!("image: app:1, {keys}"));
        let run = fake.run("deploy app -v").code(2);
        says(&run, &["`services.app.", "hint: "]);
        assert!(!stderr(&run).contains("hunter2"), "{}", stderr(&run));
    }
}
