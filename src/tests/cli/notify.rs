//! Notifications of a result (`x-zd.notify`), by a command and by HTTP.

use serde_json::Value;

use super::*;

/// A project whose result goes to these receivers.
fn project(receivers: &str) -> FakeDocker {
    let fake = FakeDocker::new();
    let health = format!("health: {{path: /up, port: {}}}", fake.port);
    fake.write(
        "config.yaml",
        &format!(
            "name: p\nservices: {{app: {{image: 'app:1', x-zd: {{{health}}}}}}}\nx-zd: {{notify: [{receivers}]}}\n"
        ),
    );
    fake
}

fn notified(fake: &FakeDocker) -> Option<Value> {
    fs::read(fake.path("notified.json")).ok().map(|text| serde_json::from_slice(&text).unwrap())
}

#[test]
fn a_command_gets_the_summary_of_a_deploy_and_of_a_failure() {
    let fake = project("'cat > notified.json'");
    fake.run("deploy app --dry-run").success();
    assert_eq!(notified(&fake), None);
    fake.fail("start new", "Error response from daemon: no such file: /app/run");
    fake.run("deploy app").code(3);
    let failure = notified(&fake).unwrap();
    let text = failure["text"].as_str().unwrap();
    assert!(text.starts_with("p: FAILED (exit 3): ") && failure["ok"] == false, "{failure}");
    fs::remove_file(fake.path("fail")).unwrap();
    fake.container("new", "app-2", "created", "wanted");
    fake.run("deploy app").success();
    let success = notified(&fake).unwrap();
    let number = &success["deployed"][0]["release"];
    assert_eq!(success["text"], format!("p: app is deployed as release {number}"));
    fs::remove_file(fake.path("notified.json")).unwrap();
    fake.fail("compose config", "yaml: line 3: did not find expected key");
    fake.run("rollback app").code(2);
    assert_eq!(notified(&fake).unwrap()["exit"], 2, "by the recorded configuration");
}

#[test]
fn a_receiver_that_fails_is_a_warning_without_a_secret() {
    let port = http_server("404 Not Found");
    let fake = project(&format!("'exit 7 # secret', 'http://127.0.0.1:{port}/secret'"));
    let run = fake.run("deploy app").success();
    let texts = [
        "`exit …` did not take the result: it exited with code 7",
        "http://127.0.0.1/… did not take the result: it answered 404",
    ];
    says(&run, &texts);
    assert!(!stderr(&run).contains("secret"), "{}", stderr(&run));
    let fake = project("3");
    says(&fake.run("deploy app").code(2), &["`x-zd.notify` is invalid", "hint: "]);
}
