//! Tests of the lock: one rollout of a project at a time.

use std::path::Path;
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// Starts a run in the background; in [`project_never_ready`] it waits for its instance.
pub fn start_run(fake: &FakeDocker, words: &str) -> Child {
    let path = format!("{}:/usr/bin:/bin", fake.path("bin").display());
    std::process::Command::new(snapbox::cmd::cargo_bin!("compose-zd"))
        .args(words.split(' '))
        .current_dir(fake.dir.path())
        .env("PATH", path)
        .env("FAKE", fake.dir.path())
        .envs(fake.monitors())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

pub fn wait_for_exit(child: Child) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(40), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A project whose new instance gets ready only after [`make_ready`].
fn project_never_ready() -> FakeDocker {
    let fake = FakeDocker::new();
    fake.service("image: app:1, x-zd: {health: {path: /up, port: 1, deadline: 60s}}");
    fake
}

fn make_ready(fake: &FakeDocker) {
    fake.service(&format!("image: app:1, x-zd: {{health: {{path: /up, port: {}}}}}", fake.port));
}

fn lock_file(fake: &FakeDocker) -> PathBuf {
    fake.path("volumes/compose-zd.p.lock")
}

fn is_started(fake: &FakeDocker) -> impl FnMut() -> bool + '_ {
    || fs::read_to_string(fake.path("containers/new")).is_ok_and(|c| c.contains("running"))
}

/// Writes a lock of a process on another host.
fn write_foreign_lock(fake: &FakeDocker, since: &str) {
    fs::create_dir_all(fake.path("volumes")).unwrap();
    let holder = r#"{"token":"t","command":"deploy web","by":"ci@runner","since":"2026-01-02T03:04:05Z","pid":7,"started":"1","boot":"b","namespace":"n"}"#;
    fs::write(lock_file(fake), holder.replace('"', "\\\"")).unwrap();
    let touched = std::process::Command::new("touch").args(["-d", since]).arg(lock_file(fake)).status();
    assert!(touched.unwrap().success());
}

/// Number of attempts to acquire the lock.
fn lock_attempts(fake: &FakeDocker) -> usize {
    fake.calls().iter().filter(|c| c.starts_with("volume create ")).count()
}

fn interrupt(run: &Child) {
    let sent = std::process::Command::new("kill").args(["-INT", &run.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

fn count_locks(folder: &Path) -> usize {
    fs::read_dir(folder.join("volumes")).map_or(0, Iterator::count)
}

#[test]
fn a_second_run_fails_and_names_the_owner_of_the_lock() {
    let fake = project_never_ready();
    let mut first = start_run(&fake, "deploy app");
    wait_until("the first run has started its instance", is_started(&fake));
    let second = fake.run("deploy app").code(5);
    let pid = first.id().to_string();
    says(
        &second,
        &["another run holds the project: `deploy app` by ", &format!(", process {pid}, since 2"), "--wait"],
    );
    fake.run("rollback app").code(5);
    fake.run("recover").code(5);
    first.kill().unwrap();
    wait_for_exit(first);
}

#[test]
fn a_dry_run_and_history_need_no_lock() {
    let fake = project_never_ready();
    let mut first = start_run(&fake, "deploy app");
    wait_until("the first run has started its instance", is_started(&fake));
    fake.run("deploy --dry-run app").success();
    fake.run("history").success();
    first.kill().unwrap();
    wait_for_exit(first);
}

#[test]
fn the_lock_of_a_dead_run_does_not_block() {
    let fake = project_never_ready();
    let mut first = start_run(&fake, "deploy app");
    wait_until("the first run has started its instance", is_started(&fake));
    first.kill().unwrap();
    wait_for_exit(first);
    assert_eq!(count_locks(fake.dir.path()), 1);
    make_ready(&fake);
    says(&fake.run("deploy app").success(), &["was killed; this run has taken over the lock"]);
    assert_eq!(count_locks(fake.dir.path()), 0);
}

#[test]
fn the_docker_command_of_a_dead_run_is_awaited() {
    let fake = FakeDocker::new();
    fake.write("slow", "");
    let mut first = start_run(&fake, "deploy app");
    wait_until("it creates its instance", || fake.calls().iter().any(|c| c.contains("up --no-start")));
    first.kill().unwrap();
    wait_for_exit(first);
    fake.run("rollback app").code(2);
    assert!(fake.path("slowly-done").exists());
}

#[test]
fn a_waiting_run_deploys_the_file_as_it_is_when_the_lock_is_free() {
    let fake = project_never_ready();
    let first = start_run(&fake, "deploy app");
    wait_until("the first run has started its instance", is_started(&fake));
    let second = start_run(&fake, "deploy --wait 60s app");
    wait_until("the second run asks for the lock", || lock_attempts(&fake) > 1);
    make_ready(&fake);
    interrupt(&first);
    assert_eq!(wait_for_exit(first).0, Some(130));
    let (code, output) = wait_for_exit(second);
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("waiting for `deploy app` by "), "{output}");
    assert_eq!(count_locks(fake.dir.path()), 0);
}

#[test]
fn waiting_for_the_lock_ends_at_its_limit() {
    let fake = project_never_ready();
    let mut first = start_run(&fake, "deploy app");
    wait_until("the first run has started its instance", is_started(&fake));
    says(&fake.run("deploy --wait=1s app").code(5), &["; waited for 1s"]);
    first.kill().unwrap();
    wait_for_exit(first);
}

#[test]
fn of_several_waiting_runs_only_the_newest_deploys() {
    let fake = project_never_ready();
    let first = start_run(&fake, "deploy --latest app");
    wait_until("the first run has started its instance", is_started(&fake));
    let waits = |n: usize| {
        let place = fake.path(&format!(".compose-zd/p/queue/{n}"));
        wait_until("it waits", || place.exists());
    };
    let second = start_run(&fake, "deploy --latest app");
    waits(2);
    let third = start_run(&fake, "deploy --latest app");
    waits(3);
    make_ready(&fake);
    let (code, output) = wait_for_exit(second);
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains("`p`: superseded by a newer run, which deploys instead"), "{output}");
    interrupt(&first);
    assert_eq!(wait_for_exit(first).0, Some(130));
    let (code, output) = wait_for_exit(third);
    assert!(output.contains("`app` is deployed as release"), "{output}");
    assert_eq!(code, Some(0));
}

#[test]
fn a_lock_owner_on_another_host_counts_as_alive_for_a_minute() {
    let fake = FakeDocker::new();
    write_foreign_lock(&fake, "30 seconds ago");
    says(
        &fake.run("deploy app").code(5),
        &["`deploy web` by ci@runner, process 7, since 2026-01-02T03:04:05Z"],
    );
    write_foreign_lock(&fake, "2 minutes ago");
    says(&fake.run("deploy app").success(), &["`deploy web` by ci@runner, process 7"]);
    assert_eq!(count_locks(fake.dir.path()), 0);
}

#[test]
fn a_run_that_lost_its_lock_stops_and_reports_it() {
    let fake = project_never_ready();
    let first = start_run(&fake, "deploy app");
    wait_until("the first run has started its instance", is_started(&fake));
    write_foreign_lock(&fake, "now");
    let (code, output) = wait_for_exit(first);
    assert_eq!(code, Some(7), "{output}");
    for text in ["`deploy web` by ci@runner, process 7", "has taken its lock", "hint: `compose-zd status`"] {
        assert!(output.contains(text), "{output}");
    }
    assert!(fake.changes().ends_with("start new\n"), "no way back either: {}", fake.changes());
    assert!(!output.contains("rolling back") && fake.path("containers/new").exists(), "{output}");
    assert_eq!(count_locks(fake.dir.path()), 1, "only the other's");
    assert!(fs::read_to_string(lock_file(&fake)).unwrap().contains("ci@runner"));
    assert!(fake.path(".compose-zd/p/wanted.json").exists(), "the other run's to finish");
}

#[test]
fn a_removed_lock_is_acquired_again() {
    let fake = project_never_ready();
    let first = start_run(&fake, "deploy app");
    wait_until("the first run has started its instance", is_started(&fake));
    fs::remove_dir_all(fake.path("volumes")).unwrap();
    wait_until("it has its lock again", || lock_file(&fake).exists());
    make_ready(&fake);
    interrupt(&first);
    assert_eq!(wait_for_exit(first).0, Some(130));
    assert_eq!(count_locks(fake.dir.path()), 0);
}

#[test]
fn a_renewed_foreign_lock_is_respected_even_if_the_clock_of_the_engine_jumped() {
    let fake = FakeDocker::new();
    write_foreign_lock(&fake, "2 hours ago");
    let second = start_run(&fake, "deploy app");
    wait_until("the second run asks for the lock", || lock_attempts(&fake) > 1);
    write_foreign_lock(&fake, "1 hour ago");
    let (code, output) = wait_for_exit(second);
    assert_eq!(code, Some(5), "{output}");
    assert_eq!(fake.changes(), "");
}

#[test]
fn a_failed_run_releases_its_lock() {
    let fake = FakeDocker::new();
    fake.fail("^start new", "Error response from daemon: no space left on device");
    fake.run("deploy app").code(3);
    assert_eq!(count_locks(fake.dir.path()), 0);
}

#[test]
fn a_lock_that_cannot_be_created_changes_nothing() {
    let fake = FakeDocker::new();
    fake.fail("volume create", "Error response from daemon: authorization denied by plugin");
    let refused = fake.run("deploy app").code(1);
    says(&refused, &["authorization denied by plugin", "hint: the lock of a project is a volume: "]);
    assert_eq!(fake.changes(), "");
}

#[test]
fn recover_without_an_unfinished_deploy_succeeds() {
    let fake = FakeDocker::new();
    fake.run("recover").success().stdout_eq("`p`: nothing to recover; no release yet\n");
    fake.run("deploy app").success();
    // A kill before the rollout begins leaves such files.
    let left = ["releases/0002.yml", ".wanted.json.tmp"].map(|name| fake.path(".compose-zd/p").join(name));
    left.iter().for_each(|path| fs::write(path, "").unwrap());
    fake.run("recover --dry-run").success();
    assert!(left.iter().all(|path| path.exists()), "a dry run has no lock");
    fake.run("recover").success().stdout_eq("`p`: nothing to recover; release 1 is complete\n");
    assert!(!left.iter().any(|path| path.exists()));
}

#[test]
fn a_killed_run_is_shown_by_status_and_finished_by_recover() {
    let fake = project_never_ready();
    let mut first = start_run(&fake, "deploy app");
    wait_until("the first run has started its instance", is_started(&fake));
    let under_way = fake.run("status app").success();
    assert!(String::from_utf8_lossy(&under_way.get_output().stdout).contains("under way: `deploy app` by "));
    first.kill().unwrap();
    wait_for_exit(first);
    let left = fake.run("status app").success();
    assert!(String::from_utf8_lossy(&left.get_output().stdout).contains("release 1 is unfinished"));
    let recorded = fake.path(".compose-zd/p/releases/0001.yml");
    let text = fs::read_to_string(&recorded).unwrap();
    fs::write(&recorded, text.replace("\"port\": 1", &format!("\"port\": {}", fake.port))).unwrap();
    fake.run("recover")
        .success()
        .stdout_eq("`app` is deployed as release [..]: app-2 in service after [..]s\n");
    let left = fake.run("status app").success();
    assert!(!String::from_utf8_lossy(&left.get_output().stdout).contains("unfinished"));
}

#[test]
fn recover_repeats_only_an_unfinished_job() {
    let shot = |fake: &FakeDocker| fake.calls().iter().filter(|c| c.contains("run --rm ")).count();
    let project = |fake: &FakeDocker, port: u16| {
        let before = "depends_on: {migrate: {condition: service_completed_successfully}}";
        let app = format!(
            "{{image: app:1, {before}, x-zd: {{health: {{path: /up, port: {port}, deadline: 60s}}}}}}"
        );
        fake.write(
            "config.yaml",
            &format!("name: p\nservices: {{app: {app}, migrate: {{image: 'app:1'}}}}\n"),
        );
    };
    let fake = FakeDocker::new();
    project(&fake, 1);
    let mut first = start_run(&fake, "deploy app");
    wait_until("the instance of the first run is started", is_started(&fake));
    first.kill().unwrap();
    wait_for_exit(first);
    assert_eq!(shot(&fake), 1);
    let recorded = fake.path(".compose-zd/p/releases/0001.yml");
    let text = fs::read_to_string(&recorded).unwrap();
    fs::write(&recorded, text.replace("\"port\": 1", &format!("\"port\": {}", fake.port))).unwrap();
    says(&fake.run("recover").success(), &["job `migrate` completed"]);
    assert_eq!(shot(&fake), 1, "it ended before the first run was killed");

    let fake = FakeDocker::new();
    project(&fake, fake.port);
    fake.write("job", "2");
    let mut first = start_run(&fake, "deploy app");
    wait_until("the job runs", || shot(&fake) == 1);
    first.kill().unwrap();
    wait_for_exit(first);
    fake.write("job", "0");
    let run = fake.run("recover").success();
    assert_eq!(shot(&fake), 2, "it was killed: {}", stderr(&run));
}
