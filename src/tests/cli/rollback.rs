//! Rollbacks in which an instance cannot be restored: the others keep serving, and the exit code tells the result.

use super::*;

/// A project with two old instances, replaced one after the other; the second new one does not start.
fn project_with_two_instances() -> FakeDocker {
    let fake = FakeDocker::new();
    fake.container("containers/old2", "app-3", "running", "other");
    write_two_replicas(&fake, "");
    fake.fail("start new2", "Error response from daemon: no such file: /app/run");
    fake
}

fn write_two_replicas(fake: &FakeDocker, keys: &str) {
    let update = "deploy: {replicas: 2, update_config: {parallelism: 1, failure_action: rollback}}";
    let health = format!("x-zd: {{health: {{path: /up, port: {}}}}}", fake.port);
    fake.service(&format!("image: app:1, {update}, {health}{keys}"));
}

/// Runs shell commands in the container folder at each docker call that matches.
fn run_beside_call(fake: &FakeDocker, call: &str, commands: &str) {
    fake.write("on", &format!("{call}\n{commands}\n"));
}

fn is_running(fake: &FakeDocker, id: &str) -> bool {
    fs::read_to_string(fake.path(&format!("containers/{id}"))).is_ok_and(|c| c.contains("running"))
}

fn restart_policy(fake: &FakeDocker, id: &str) -> String {
    let text = fs::read_to_string(fake.path(&format!("containers/{id}"))).unwrap();
    let (_, rest) = text.split_once(r#""RestartPolicy": {"Name": ""#).unwrap();
    rest.split_once('"').unwrap().0.into()
}

/// Sets the restart policy of a container file to `always`.
fn set_restart_always(fake: &FakeDocker, file: &str) {
    let text = fs::read_to_string(fake.path(file)).unwrap();
    fake.write(file, &text.replace(r#"{"Name": "no"}"#, r#"{"Name": "always"}"#));
}

#[test]
fn stopped_instances_start_again_on_rollback() {
    let fake = project_with_two_instances();
    let run = fake.run("deploy app").code(3);
    says(&run, &["no such file: /app/run", "app-1, app-3 served before and still serve"]);
    assert!(is_running(&fake, "old") && is_running(&fake, "old2") && !fake.path("containers/new").exists());
}

#[test]
fn a_new_instance_replaces_an_old_one_that_was_removed() {
    let fake = project_with_two_instances();
    run_beside_call(&fake, "start new2", "rm -f old");
    let run = fake.run("deploy app").code(3);
    says(
        &run,
        &["app-3 served before and still serves; in the place of app-1, which cannot come back: app-2"],
    );
    assert!(is_running(&fake, "new") && is_running(&fake, "old2") && !fake.path("containers/new2").exists());
}

#[test]
fn an_old_instance_that_does_not_start_keeps_its_replacement() {
    let fake = project_with_two_instances();
    fake.write("fail", "start \\(new2\\|old\\)$\nError response from daemon: no such network\n");
    let run = fake.run("deploy app").code(3);
    says(&run, &["does not start again", "in the place of app-1, which cannot come back: app-2"]);
    assert!(is_running(&fake, "new") && is_running(&fake, "old2"));
    assert!(!fake.changes().contains("stop new\n"), "{}", fake.changes());
}

#[test]
fn an_old_instance_that_dies_again_does_not_count_as_restored() {
    let fake = project_with_two_instances();
    fake.write("dies-old", "");
    let run = fake.run("deploy app").code(3);
    says(
        &run,
        &["app-3 served before and still serves; in the place of app-1, which cannot come back: app-2"],
    );
    assert!(is_running(&fake, "new") && is_running(&fake, "old2"));
    assert!(!fake.changes().contains("stop new\n"), "{}", fake.changes());
}

#[test]
fn a_failed_hook_does_not_end_a_rollback() {
    let fake = project_with_two_instances();
    write_two_replicas(&fake, ", post_start: [{command: [warm]}]");
    fake.write("fail", "start new2\\|exec .*old\nError: no such cache\n");
    let run = fake.run("deploy app").code(3);
    says(&run, &["the post_start hook of app-1 failed", "app-1, app-3 served before and still serve"]);
    assert!(is_running(&fake, "old") && !fake.path("containers/new").exists());
}

#[test]
fn a_rollback_that_restores_too_few_instances_says_to_act_now() {
    let fake = FakeDocker::new();
    run_beside_call(&fake, "start new", "rm -f old");
    fake.fail("start new", "Error response from daemon: broken");
    let run = fake.run("deploy app").code(4);
    says(
        &run,
        &[
            "could not be restored: app-1 served before and does not serve now",
            "hint: act now: `docker compose --project-name p ps --all`",
        ],
    );
}

#[test]
fn a_restarting_instance_is_awaited_before_it_counts_as_lost() {
    let fake = FakeDocker::new();
    let restarts = "case $(tail -n 1 ../calls) in\n\
        start*) sed -i 's/running/restarting/' old ;;\n\
        *) grep -q restarting old && echo >>../looks; [ ! -e ../looks ] || [ $(wc -l <../looks) -lt 3 ] || sed -i 's/restarting/running/' old ;;\n\
        esac; true";
    run_beside_call(&fake, "start new\\|container inspect", restarts);
    fake.fail("start new", "Error response from daemon: broken");
    says(&fake.run("deploy app").code(3), &["app-1 served before and still serves"]);
}

#[test]
fn a_failed_clean_up_after_a_rollback_is_reported() {
    let fake = FakeDocker::new();
    fake.fail("^\\(start\\|rm\\) new$", "Error response from daemon: broken");
    let run = fake.run("deploy app").code(3);
    says(&run, &["app-1 served before and still serves", "cleaning up failed: "]);
}

#[test]
fn an_undo_whose_clean_up_failed_leaves_its_record() {
    let fake = FakeDocker::new();
    fake.fail("^\\(start\\|rm\\) new$", "Error response from daemon: broken");
    let run = fake.run("deploy app").code(3);
    says(&run, &["left of the failed release: app-2", "`compose-zd deploy` tries again and cleans up"]);
    let left = fake.run("status app").success();
    let status = String::from_utf8_lossy(&left.get_output().stdout).into_owned();
    assert!(status.contains("release 1 failed, and its undo is not complete"), "{status}");
    assert!(fake.path("containers/new").exists());
    fs::remove_file(fake.path("fail")).unwrap();
    fake.run("recover").success();
    let status = fake.run("status app").success();
    assert!(!String::from_utf8_lossy(&status.get_output().stdout).contains("undo"));
}

#[test]
fn a_stopped_and_kept_instance_does_not_restart_with_the_engine() {
    let fake = project_with_two_instances();
    set_restart_always(&fake, "containers/old");
    run_beside_call(&fake, "start new2", "cat old ../.compose-zd/*/wanted.json >../seen");
    fake.run("deploy app").code(3);
    let changes = fake.changes();
    assert!(changes.contains("stop old\nupdate --restart no old\n"), "{changes}");
    assert!(changes.contains("update --restart always old\nstart old\n"), "{changes}");
    let seen = fs::read_to_string(fake.path("seen")).unwrap();
    assert!(seen.contains(r#"{"Name": "no"}"#) && seen.contains(r#""old": "always""#), "{seen}");
    assert_eq!((restart_policy(&fake, "old"), restart_policy(&fake, "old2")), ("always".into(), "no".into()));
    fake.run("deploy app --dry-run")
        .success()
        .stdout_eq("...\n       $ docker stop p-app-1\n       $ docker update --restart no p-app-1\n...\n");
}

#[test]
fn an_old_instance_that_restarts_is_stopped_again_and_removed() {
    let fake = FakeDocker::new();
    fake.write("on", "rm old\n[ -e ../again ] || { touch ../again; sed -i 's/exited/running/' old; echo running >&2; exit 1; }\n");
    fake.run("deploy app").success();
    assert!(fake.changes().ends_with("rm old\nstop old\nrm old\n"), "{}", fake.changes());
    assert!(!fake.path("containers/old").exists());
}

#[test]
fn an_old_instance_that_cannot_be_removed_fails_the_deploy() {
    let fake = FakeDocker::new();
    fake.write(
        "on",
        "rm old\nsed -i 's/exited/running/' old; echo 'cannot remove a running container' >&2; exit 1\n",
    );
    let run = fake.run("deploy app").code(3);
    says(
        &run,
        &["app-1 could not be removed and runs beside release 1, which serves", "`compose-zd recover`"],
    );
    assert!(is_running(&fake, "new"));
    fs::remove_file(fake.path("on")).unwrap();
    fake.run("recover").success();
    assert!(!fake.path("containers/old").exists() && is_running(&fake, "new"));
}
