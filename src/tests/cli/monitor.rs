//! Tests of the monitor: a failure of a new instance within the window rolls the deploy back.

use std::process::{Child, Command as Process, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::*;

/// Limit of every wait.
const LONG: Duration = Duration::from_secs(20);

/// A project with the default monitor.
fn project_with_default_monitor() -> FakeDocker {
    FakeDocker { monitor: None, ..FakeDocker::new() }
}

/// A running command.
struct RunningDeploy<'f> {
    fake: &'f FakeDocker,
    child: Child,
}

impl<'f> RunningDeploy<'f> {
    fn start(fake: &'f FakeDocker, words: &str) -> RunningDeploy<'f> {
        let path = format!("{}:/usr/bin:/bin", fake.path("bin").display());
        let stderr = fs::File::create(fake.path("stderr")).unwrap();
        let child = Process::new(snapbox::cmd::cargo_bin!("compose-zd"))
            .args(words.split(' '))
            .current_dir(fake.dir.path())
            .env("PATH", path)
            .env("FAKE", fake.dir.path())
            .envs(fake.monitors())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .unwrap();
        RunningDeploy { fake, child }
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.fake.path("stderr")).unwrap()
    }

    fn wait_for(&self, text: &str) {
        let start = Instant::now();
        while !self.stderr().contains(text) {
            assert!(start.elapsed() < LONG, "no `{text}` in:\n{}", self.stderr());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Process::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits for the exit code, and returns it with stderr.
    fn wait_for_exit(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        (code, self.stderr())
    }

    fn wait_for_output(self) -> (Output, String) {
        let stderr = self.fake.path("stderr");
        (self.child.wait_with_output().unwrap(), fs::read_to_string(stderr).unwrap())
    }
}

/// Sets the state that docker reports of the new instance.
fn set_state_of_new(fake: &FakeDocker, state: &str) {
    let file = fake.path("containers/new");
    let text = fs::read_to_string(&file).unwrap();
    let (before, rest) = text.split_once("\"State\": {").unwrap();
    let (_, after) = rest.split_once('}').unwrap();
    // Atomically, because compose-zd may read the file at any moment.
    fake.write("changed", &format!("{before}{state}{after}"));
    fs::rename(fake.path("changed"), file).unwrap();
}

/// Runs a deploy whose new instance gets this state within the monitor.
fn deploy_with_state_in_monitor(state: &str) -> (Option<i32>, String, String) {
    let fake = project_with_default_monitor();
    let deploy = RunningDeploy::start(&fake, "deploy app");
    deploy.wait_for("watching it for 5s (Ctrl-C rolls back)");
    let fails = Instant::now();
    set_state_of_new(&fake, state);
    let (code, output) = deploy.wait_for_exit();
    assert!(fails.elapsed() < Duration::from_secs(4), "it waited for the end of the monitor:\n{output}");
    (code, output, fake.changes())
}

#[track_caller]
fn assert_rolled_back(code: Option<i32>, output: &str, changes: &str, why: &str) {
    assert_eq!(code, Some(3), "{output}");
    for text in [why, "app-1 served before and still serves", "fatal: no database", "app-2 answered last: "] {
        assert!(output.contains(text), "no `{text}` in:\n{output}");
    }
    assert!(!changes.contains("stop old"), "nothing happens to the old one: {changes}");
    assert!(changes.ends_with("rm new\n"), "{changes}");
}

#[test]
fn an_instance_that_dies_or_restarts_within_the_monitor_is_rolled_back() {
    let (code, output, changes) =
        deploy_with_state_in_monitor(r#""State": {"Status": "exited", "ExitCode": 7}"#);
    assert_rolled_back(code, &output, &changes, "app-2 failed after it was ready: it exited with code 7");
    let (code, output, changes) =
        deploy_with_state_in_monitor(r#""RestartCount": 1, "State": {"Status": "running"}"#);
    assert_rolled_back(
        code,
        &output,
        &changes,
        "app-2 failed after it was ready: it exited and was restarted",
    );
    assert!(changes.contains("stop new\nrm new"), "{changes}");
}

#[test]
fn the_timeline_of_an_instance_that_dies_in_rotation_ends_there() {
    let fake = project_with_default_monitor();
    let deploy = RunningDeploy::start(&fake, "deploy app --output json --timeline page.html");
    deploy.wait_for("\"event\":\"monitoring\"");
    set_state_of_new(&fake, r#""State": {"Status": "exited", "ExitCode": 7}"#);
    let (code, output) = deploy.wait_for_exit();
    assert_eq!(code, Some(3), "{output}");
    assert!(output.contains(r#""event":"exited","names":["app-2"]"#), "{output}");
    let page = fs::read_to_string(fake.path("page.html")).unwrap();
    let row = page.lines().find(|line| line.contains("app-2 <small>new")).expect(&page);
    let after = row.split_once("in rotation ").expect(row).1;
    assert!(after.contains(" s, failed ") && !after.contains("in rotation"), "{row}");
}

#[test]
fn a_deploy_ends_after_its_monitor_and_reports_both_times() {
    let fake = project_with_default_monitor();
    let start = Instant::now();
    let deploy = RunningDeploy::start(&fake, "deploy app --update-monitor 1s");
    deploy.wait_for("app-2 in service after ");
    assert!(!fake.changes().contains("stop old"), "it runs on: {}", fake.changes());
    let (output, stderr) = deploy.wait_for_output();
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(start.elapsed() >= Duration::from_secs(1), "{stderr}");
    let result = String::from_utf8_lossy(&output.stdout).into_owned();
    let seconds = |text: &str| text.split(['s', '\n']).next().unwrap().parse::<f64>().unwrap();
    let (_, times) = result.split_once(": app-2 in service after ").expect(&result);
    let (_, done) = times.split_once(", done after ").expect(&result);
    assert!(seconds(done) >= seconds(times) + 0.9, "{result}");
    assert!(fake.changes().ends_with("start new\nstop old\nrm old\n"), "{}", fake.changes());
}

#[test]
fn a_monitor_of_zero_means_no_monitor() {
    for monitor in ["0s", "1ns"] {
        let fake = project_with_default_monitor();
        let run = fake.run(&format!("deploy app --update-monitor {monitor}")).success();
        assert!(!stderr(&run).contains("watching"), "{}", stderr(&run));
    }
    let fake = project_with_default_monitor();
    let keys = "image: app:1, deploy: {update_config: {monitor: 1ns}}";
    fake.service(&format!("{keys}, x-zd: {{health: {{port: {}}}}}", fake.port));
    let run = fake.run("deploy app --dry-run").success();
    let plan = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
    assert!(!plan.contains("watch the new"), "{plan}");
    let run = project_with_default_monitor().run("deploy app --dry-run").success();
    let plan = String::from_utf8_lossy(&run.get_output().stdout).into_owned();
    assert!(plan.contains("4. watch the new instances for 5s"), "{plan}");
}

#[test]
fn int_and_term_within_the_monitor_roll_back_and_hup_does_not() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let fake = project_with_default_monitor();
        let deploy = RunningDeploy::start(&fake, "deploy app");
        deploy.wait_for("watching it for 5s");
        deploy.signal(signal);
        let (ended, output) = deploy.wait_for_exit();
        assert_eq!(ended, Some(code), "{output}");
        assert!(fake.changes().ends_with("start new\nstop new\nrm new\n"), "{}", fake.changes());
    }
    let fake = project_with_default_monitor();
    let deploy = RunningDeploy::start(&fake, "deploy app --update-monitor 1s");
    deploy.wait_for("watching it for ");
    deploy.signal("HUP");
    assert_eq!(deploy.wait_for_exit().0, Some(0));
}

#[test]
fn after_a_kill_within_the_monitor_the_next_run_finishes_the_window() {
    let fake = project_with_default_monitor();
    let deploy = RunningDeploy::start(&fake, "deploy app --update-monitor 30s");
    deploy.wait_for("watching it for 30s");
    deploy.signal("KILL");
    deploy.wait_for_exit();
    let started = |age: u64| {
        let at = SystemTime::now() - Duration::from_secs(age);
        let at = format!("{:?}", at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
        let date = Process::new("date").args(["-u", "-d", &format!("@{at}"), "+%Y-%m-%dT%H:%M:%SZ"]).output();
        let at = String::from_utf8(date.unwrap().stdout).unwrap();
        set_state_of_new(
            &fake,
            &format!(r#""State": {{"Status": "running", "StartedAt": "{}"}}"#, at.trim()),
        );
    };
    started(5);
    let deploy = RunningDeploy::start(&fake, "deploy app --update-monitor 30s");
    deploy.wait_for("watching it for 2");
    set_state_of_new(&fake, r#""State": {"Status": "exited", "ExitCode": 7}"#);
    let (code, output) = deploy.wait_for_exit();
    assert_eq!(code, Some(3), "{output}");
    assert!(output.contains("app-1 served before and still serves"), "{output}");
    assert!(fake.changes().ends_with("start new\nrm new\n"), "{}", fake.changes());
}

#[test]
fn an_instance_that_dies_during_a_job_is_rolled_back_at_once_and_the_job_completes() {
    let fake = project_with_default_monitor();
    let health = format!("health: {{path: /up, port: {}}}", fake.port);
    let app = format!("app: {{image: 'app:1', x-zd: {{{health}, after: {{service: warm}}}}}}");
    fake.write("config.yaml", &format!("name: p\nservices:\n  {app}\n  warm: {{image: 'app:1'}}\n"));
    fake.write("job", "3");
    let deploy = RunningDeploy::start(&fake, "deploy app");
    deploy.wait_for("running job `warm`");
    set_state_of_new(&fake, r#""State": {"Status": "exited", "ExitCode": 7}"#);
    deploy.wait_for("rolling back");
    assert!(!fake.path("job-done").exists(), "the rollback starts while the job runs");
    let (code, output) = deploy.wait_for_exit();
    assert_eq!(code, Some(3), "{output}");
    assert!(fake.path("job-done").exists(), "it is waited for");
    assert!(!fake.changes().contains("stop old"), "{}", fake.changes());
}
