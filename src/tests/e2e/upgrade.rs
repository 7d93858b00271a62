//! An upgrade of compose-zd: a state folder, a lock, tags and containers that an earlier version left are read and used.

use std::fs;
use std::path::{Path, PathBuf};

use crate::test_project::TestProject;

/// Version in a tag of images that the earlier version kept.
const HISTORY_ID: &str = "6647aed8";

/// A project as the earlier version left it: release 3 serves, and the deploy of release 4 was killed.
fn project_of_earlier_version(name: &str) -> TestProject {
    let project = TestProject::haproxy(name);
    project.up("");
    let state = project.path(".compose-zd").join(&project.name);
    copy(&fixture(), &state);
    for (placeholder, value) in values(&project) {
        fill_in(&state, placeholder, &value);
    }
    for number in 1..=3 {
        let hash = project.compose(&format!("-f {} config --hash app", config(&project, number)));
        let hash = hash.split_whitespace().last().expect("a hash");
        fill_in(&state, &format!("@HASH_{number}@"), hash);
    }
    project.compose(&format!("-f {} up -d --no-deps app", config(&project, 3)));
    // The instance must not start without a gate: HAProxy would send requests to it.
    project.compose(&format!("-f {} create --no-recreate --scale app=2 app", config(&project, 4)));
    project.wait_until_all_answer();
    project.expect_version("3");
    keep_image(&project);
    write_lock_of_dead_run(&project);
    project.set_variables("VERSION=4");
    project
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/old-state/state")
}

fn config(project: &TestProject, number: u32) -> String {
    format!(".compose-zd/{}/releases/000{number}.yml", project.name)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for file in fs::read_dir(from).expect("a folder of the fixture").flatten() {
        let target = to.join(file.file_name());
        if file.path().is_dir() {
            copy(&file.path(), &target);
        } else {
            fs::copy(file.path(), target).expect("a file of the fixture");
        }
    }
}

/// Values that differ between machines.
fn values(project: &TestProject) -> [(&'static str, String); 8] {
    let of_app =
        |format: &str| project.docker(&format!("image inspect {} --format {format}", app_image(project)));
    [
        ("@PROJECT@", project.name.clone()),
        ("@FOLDER@", project.path("").display().to_string().trim_end_matches('/').to_string()),
        ("@APP_IMAGE@", app_image(project)),
        ("@PROXY_IMAGE@", project.variable("HAPROXY_IMAGE")),
        ("@IMAGE_ID@", of_app("{{.Id}}")),
        ("@PORT@", project.variable("PROXY_PORT")),
        ("@ENGINE_ID@", project.docker("info --format {{.ID}}")),
        ("@ENGINE_NAME@", project.docker("info --format {{.Name}}")),
    ]
}

fn app_image(project: &TestProject) -> String {
    project.variable("ZD_APP_IMAGE")
}

fn fill_in(folder: &Path, placeholder: &str, value: &str) {
    for file in fs::read_dir(folder).expect("a folder").flatten() {
        let path = file.path();
        if path.is_dir() {
            fill_in(&path, placeholder, value);
        } else {
            let text = fs::read_to_string(&path).expect("a text");
            fs::write(&path, text.replace(placeholder, value)).expect("a file of the project");
        }
    }
}

/// Tag and keeper of release 1, whose image the later ones share.
fn keep_image(project: &TestProject) {
    let project_name = &project.name;
    let tag = format!("compose-zd/{project_name}-app:r1-{HISTORY_ID}");
    project.docker(&format!("tag {} {tag}", app_image(project)));
    let labels = format!("--label compose-zd.history={HISTORY_ID} --label compose-zd.keeps={project_name}");
    let name = format!("compose-zd-keep-{project_name}-app-r1-{HISTORY_ID}");
    project.docker(&format!("create --name {name} {labels} {tag} /compose-zd-keep"));
}

/// Lock of a process of this machine that does not exist.
fn write_lock_of_dead_run(project: &TestProject) {
    let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_string();
    let boot = line("/proc/sys/kernel/random/boot_id");
    let host = line("/proc/sys/kernel/hostname");
    let namespace = fs::read_link("/proc/self/ns/pid").map(|p| p.display().to_string()).unwrap_or_default();
    let record = serde_json::json!({
        "token": format!("root@{host}-4194000-284375-1796022502751872928"), "command": "deploy",
        "by": format!("root@{host}"), "since": "2026-11-30T07:08:22Z",
        "pid": 4_194_000, "started": "284375", "boot": boot, "namespace": namespace,
    });
    let volume = format!("compose-zd.{}.lock", project.name);
    project.docker(&format!("volume create --label compose-zd.lock={record} {volume}"));
}

#[test]
fn state_of_an_earlier_version_is_shown_and_a_rollback_loses_no_request() {
    let project = project_of_earlier_version("upgrade");
    let result = project.start("status").wait();
    result.exits(0).says("app");
    let shown = project.start("history").wait();
    shown.exits(0);
    for number in 1..=3 {
        assert!(shown.stdout.contains(&format!("\n{number} ")), "release {number}: {}", shown.stdout);
    }

    // The unfinished deploy first, then the release before.
    let load = project.start_load("");
    project.rollback("app").exits(0).says("back on release 3");
    assert_eq!(project.states("app"), ["running 3"]);
    project.rollback("app").exits(0).says("back on release 2");
    assert_eq!(project.states("app"), ["running 2"]);
    load.stop().all_from(&["2", "3"]);
}

#[test]
fn a_killed_deploy_of_an_earlier_version_is_finished() {
    let project = project_of_earlier_version("upgrade-recover");
    let load = project.start_load("");
    project.start("recover").wait().exits(0);
    load.stop().all_from(&["3", "4"]);
    project.expect_version("4");
    project.deploy("app").exits(0);
    project.start("history").wait().exits(0).says("4");
}
