//! Tests of the output: JSON that matches the schema, progress on a terminal, plain lines elsewhere, timelines.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command as Process, Stdio};

use serde_json::Value;
use snapbox::cmd::OutputAssert;

use super::{FakeDocker, stderr};

fn stdout(run: &OutputAssert) -> String {
    String::from_utf8_lossy(&run.get_output().stdout).into()
}

fn json_lines(text: &str) -> Vec<Value> {
    let value = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    text.lines().map(value).collect()
}

/// The schema that `compose-zd schema` prints.
fn schema(fake: &FakeDocker) -> jsonschema::Validator {
    let text = stdout(&fake.run("schema").success());
    jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).unwrap()
}

fn event_names(run: &OutputAssert) -> Vec<String> {
    let name = |line: &Value| line["event"].as_str().unwrap().to_string();
    json_lines(&stderr(run)).iter().map(name).collect()
}

#[track_caller]
fn assert_matches_schema(schema: &jsonschema::Validator, run: &OutputAssert) {
    for line in json_lines(&stderr(run)).iter().chain(&json_lines(&stdout(run))) {
        let errors: Vec<String> = schema.iter_errors(line).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{line}: {errors:?}");
    }
}

#[test]
fn json_output_matches_the_schema_with_events_and_a_summary() {
    let fake = FakeDocker::new();
    let run = fake.run("deploy app --output json").success();
    assert_matches_schema(&schema(&fake), &run);
    let order = ["deploying", "created", "started", "ready", "stopped", "removed", "deployed"];
    let names = event_names(&run);
    let found: Vec<&str> = names.iter().map(String::as_str).filter(|e| order.contains(e)).collect();
    assert_eq!(found, order);
    let summary = &json_lines(&stdout(&run))[..];
    assert_eq!(summary.len(), 1);
    assert_eq!((&summary[0]["ok"], &summary[0]["exit"]), (&Value::Bool(true), &Value::from(0)));
    assert_eq!(summary[0]["deployed"][0]["serving"][0], "app-2");
}

#[test]
fn json_output_of_a_failure_has_the_error_and_the_exit_code() {
    let fake = FakeDocker::new();
    fake.fail("start new", "Error response from daemon: no such file: /app/run");
    let run = fake.run("deploy app --output json").code(3);
    assert_matches_schema(&schema(&fake), &run);
    assert_eq!(event_names(&run).last().unwrap(), "error");
    let summary = &json_lines(&stdout(&run))[0];
    assert_eq!((&summary["ok"], &summary["exit"]), (&Value::Bool(false), &Value::from(3)));
    assert!(summary["error"]["message"].as_str().unwrap().contains("app-1 served before"), "{summary}");
}

#[test]
fn json_output_of_wrong_usage_has_a_summary() {
    let fake = FakeDocker::new();
    let run = fake.run("deploy missing --output json").code(2);
    assert_matches_schema(&schema(&fake), &run);
    assert_eq!(json_lines(&stdout(&run))[0]["exit"], 2);
    for words in
        ["deploy --forced --output json", "deploy --output=json --image x", "rollback --to x --output json"]
    {
        let run = fake.run(words).code(2);
        assert_matches_schema(&schema(&fake), &run);
        assert_eq!(event_names(&run), ["error"], "{words}");
        assert_eq!(json_lines(&stdout(&run))[0]["exit"], 2);
    }
    let error = &json_lines(&stderr(&fake.run("status --nothing --output json").code(2)))[0];
    assert_eq!(error["message"], "unexpected argument '--nothing' found");
    assert!(error["hint"].as_str().unwrap().starts_with("Usage: "), "{error}");
}

#[test]
fn a_deploy_without_changes_lists_what_it_left_out() {
    let fake = FakeDocker::new();
    let health = format!("x-zd: {{health: {{path: /up, port: {}}}}}", fake.port);
    let services = format!("{{app: {{image: 'app:1', {health}}}, worker: {{image: 'worker:1'}}}}");
    fake.write("config.yaml", &format!("name: p\nservices: {services}\n"));
    fake.write("hashes", "app wanted\nworker wanted\n");
    fake.container("containers/old", "app-1", "running", "wanted");
    fake.container("containers/worker", "worker-1", "running", "other");
    let worker = fs::read_to_string(fake.path("containers/worker")).unwrap();
    fake.write("containers/worker", &worker.replace("service\": \"app\"", "service\": \"worker\""));
    let run = fake.run("deploy app --strict --no-witness --output json").success();
    assert_matches_schema(&schema(&fake), &run);
    let summary = &json_lines(&stdout(&run))[0];
    assert_eq!(
        (&summary["left_alone"][0], &summary["warnings"][0]["kind"]),
        (&"worker".into(), &"left_alone".into())
    );
    let text = stderr(&fake.run("deploy app").success());
    assert!(text.contains("not part of this deploy: `worker` (`compose-zd deploy worker`)"), "{text}");
    assert_eq!(fake.changes(), "");
}

#[test]
fn a_deploy_runs_the_commands_of_the_dry_run() {
    let fake = FakeDocker::new();
    let dry = fake.run("deploy app --dry-run --output json").success();
    assert_matches_schema(&schema(&fake), &dry);
    assert_eq!(fake.changes(), "");
    let all = json_lines(&stderr(&dry));
    let plan = all.iter().find(|l| l["event"] == "plan").expect("a plan");
    let steps = plan["steps"].as_array().unwrap().iter();
    let does = steps.flat_map(|s| s["actions"].as_array().unwrap());
    let words = |command: &Value| {
        let words = command.as_array().unwrap().iter().map(|w| w.as_str().unwrap());
        // The ids of the fake docker, instead of the names in the output.
        let ids = words.map(|w| match w {
            "p-app-1" => "old",
            "p-app-2" => "new",
            word => word,
        });
        ids.skip(1).collect::<Vec<_>>().join(" ") + "\n"
    };
    let planned: String = does.filter_map(|d| d.get("command")).map(words).collect();
    fake.run("deploy app").success();
    assert_eq!(fake.changes(), planned);
}

#[test]
fn docker_commands_are_events_only_with_verbose() {
    let fake = FakeDocker::new();
    assert!(!event_names(&fake.run("deploy app --output json").success()).contains(&"command".into()));
    let fake = FakeDocker::new();
    let run = fake.run("deploy app --output json -v").success();
    assert_matches_schema(&schema(&fake), &run);
    assert!(event_names(&run).contains(&"command".into()));
}

#[test]
fn a_timeline_is_written_and_can_be_drawn_again_from_history() {
    let fake = FakeDocker::new();
    fake.run("deploy app --timeline deploy.html").success();
    let page = fs::read_to_string(fake.path("deploy.html")).unwrap();
    assert!(page.contains("class=\"chart\"") && page.contains("app-2"), "{page}");
    let again = stdout(&fake.run("history --timeline 1").success());
    assert!(
        again.contains("class=\"chart\"") && again.contains("<code>app</code> is deployed as release 1"),
        "{again}"
    );
}

#[test]
fn a_timeline_that_cannot_be_written_is_a_warning() {
    let fake = FakeDocker::new();
    let run = fake.run("deploy app --timeline nowhere/deploy.html").success();
    let last = stderr(&run).lines().last().unwrap().to_string();
    assert!(last.contains("warning: cannot write the timeline to `nowhere/deploy.html`"), "{last}");
    assert!(stdout(&run).contains("is deployed as release 1"), "{}", stdout(&run));
}

#[test]
fn a_timeline_of_a_rollout_that_is_not_kept_is_refused() {
    let fake = FakeDocker::new();
    fake.run("deploy app").success();
    let run = fake.run("history --timeline 9").code(2);
    assert!(stderr(&run).contains("hint: releases with events: 1"), "{}", stderr(&run));
}

#[test]
fn status_and_history_print_json_documents() {
    let fake = FakeDocker::new();
    fake.run("deploy app").success();
    for words in ["status --output json", "history --output json", "check --output json"] {
        let run = fake.run(words);
        assert_matches_schema(&schema(&fake), &run);
        let document = &json_lines(&stdout(&run))[0];
        assert_eq!(
            (&document["v"], &document["document"]),
            (&1.into(), &words.split(' ').next().unwrap().into())
        );
    }
    let status = &json_lines(&stdout(&fake.run("status --output json").success()))[0];
    assert_eq!(status["services"][0]["release"], 1);
    assert_eq!(status["services"][0]["instances"][0]["name"], "app-2");
    let history = &json_lines(&stdout(&fake.run("history --output json").success()))[0];
    assert_eq!(
        (&history["releases"][0]["serving"], &history["rollback_to"]),
        (&Value::Bool(true), &Value::Null)
    );
}

/// Output of a deploy on a terminal with this many columns and this environment.
fn run_on_terminal(fake: &FakeDocker, columns: u16, environment: &[(&str, &str)]) -> String {
    let zd = snapbox::cmd::cargo_bin!("compose-zd");
    let words = format!("stty cols {columns} rows 24; exec {} deploy app", zd.display());
    let run = Process::new("script")
        .args(["--quiet", "--return", "--command", &words, "/dev/null"])
        .current_dir(fake.dir.path())
        .env("PATH", format!("{}:/usr/bin:/bin", fake.path("bin").display()))
        .env("FAKE", fake.dir.path())
        .envs(fake.monitors())
        .env("TERM", "xterm")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(run.status.success(), "{run:?}");
    String::from_utf8_lossy(&run.stdout).into()
}

#[test]
fn a_terminal_shows_progress_and_then_the_result() {
    let shown = run_on_terminal(&FakeDocker::new(), 80, &[]);
    assert!(shown.contains("deploying app") && shown.contains("new 1/1 app-2"), "{shown}");
    assert!(shown.contains("reading the project"), "{shown}");
    assert!(!shown.contains("started app-2"), "the board tells it: {shown}");
    let last = shown.lines().last().unwrap();
    assert!(last.contains("`app` is deployed as release 1"), "{shown}");
}

#[test]
fn a_terminal_with_no_color_gets_no_colour() {
    let colours = |number: u8| format!("\u{1b}[{number}m");
    let coloured = |shown: &str| [2].into_iter().chain(30..38).any(|n| shown.contains(&colours(n)));
    assert!(coloured(&run_on_terminal(&FakeDocker::new(), 80, &[])));
    let shown = run_on_terminal(&FakeDocker::new(), 80, &[("NO_COLOR", "1")]);
    assert!(!coloured(&shown) && shown.contains("1/1 app-2"), "{shown}");
}

#[test]
fn a_dumb_terminal_gets_plain_lines() {
    let shown = run_on_terminal(&FakeDocker::new(), 80, &[("TERM", "dumb")]);
    assert!(shown.contains("started app-2") && !shown.contains('\u{1b}'), "{shown}");
}

#[test]
fn status_watch_repeats_until_interrupted() {
    let fake = FakeDocker::new();
    fake.run("deploy app").success();
    let mut watch = Process::new(snapbox::cmd::cargo_bin!("compose-zd"))
        .args(["status", "--watch=50ms", "--output", "json"])
        .current_dir(fake.dir.path())
        .env("PATH", format!("{}:/usr/bin:/bin", fake.path("bin").display()))
        .env("FAKE", fake.dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let status: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(status["services"][0]["instances"][0]["name"], "app-2");
    }
    let ended = Process::new("kill").args(["-INT", &watch.id().to_string()]).status().unwrap();
    assert!(ended.success());
    drop(lines);
    assert!(watch.wait().unwrap().success());
}

#[test]
fn output_of_a_job_is_an_event() {
    let fake = FakeDocker::new();
    fake.write(
        "config.yaml",
        &format!(
            "name: p\nservices:\n  app: {{image: 'app:1', x-zd: {{health: {{path: /up, port: {}}}, before: {{service: migrate}}}}}}\n  \
             migrate: {{image: 'app:1'}}\n",
            fake.port
        ),
    );
    fake.fail("run --rm --no-deps --no-TTY migrate", "no such table");
    let run = fake.run("deploy app --output json").code(1);
    assert_matches_schema(&schema(&fake), &run);
    let output: Vec<Value> =
        json_lines(&stderr(&run)).into_iter().filter(|l| l["event"] == "output").collect();
    assert_eq!(output.len(), 1, "{output:?}");
    assert_eq!(output[0]["line"], "no such table");
}

#[test]
fn the_compose_dry_run_is_executed_once() {
    let fake = FakeDocker::new();
    let old = fs::read_to_string(fake.path("containers/old")).unwrap();
    let folder = fake.path(".").canonicalize().unwrap();
    let label = format!(r#""Labels": {{"com.docker.compose.project.working_dir": "{}", "#, folder.display());
    fake.write("containers/old", &old.replacen(r#""Labels": {"#, &label, 1));
    fake.run("deploy app").success();
    let calls = fs::read_to_string(fake.path("calls")).unwrap();
    let asked: Vec<&str> = calls.lines().filter(|c| c.contains("--dry-run up")).collect();
    assert_eq!(asked.len(), 1, "{calls}");
}
