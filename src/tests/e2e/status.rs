//! `status` and `history` show the true state, and change nothing.

use crate::cli_runner::RunningCommand;
use crate::test_project::TestProject;

fn stdout_of(project: &TestProject, words: &str) -> String {
    RunningCommand::start(project, words).wait().exits(0).stdout.clone()
}

#[test]
fn status_and_history_show_instances_and_releases() {
    let project = TestProject::nginx_proxy("status");
    project.up("--scale app=2");
    project.set_variables("VERSION=2");
    project.deploy("app").exits(0);
    let before = project.containers();
    let status = stdout_of(&project, "status");
    let rows: Vec<Vec<&str>> = status.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(
        rows[0],
        ["SERVICE", "RELEASE", "INSTANCE", "IMAGE", "STATE", "ROTATION", "IN", "FLIGHT", "AGE"]
    );
    assert_eq!(rows.len(), 3, "{status}");
    for row in &rows[1..] {
        assert_eq!((row[0], row[1], row[4], row[5]), ("app", "2", "running", "in"), "{status}");
        assert!(
            row[6].parse::<usize>().is_ok() && row[7].ends_with('s'),
            "requests in flight and age: {status}"
        );
    }
    project.set_variables("VERSION=3 STATUS=500");
    project.deploy("app --health-path / --health-deadline 2s").exits(3);
    let history = stdout_of(&project, "history");
    let lines: Vec<&str> = history.lines().collect();
    assert!(lines[1].starts_with("3 ") && lines[1].contains("failed"), "{history}");
    assert!(lines[2].starts_with("2 ") && lines[2].contains("*app"), "{history}");
    assert!(lines[3].starts_with('1') && lines[3].contains("imported"), "{history}");
    assert_eq!(lines[4..], ["* serves now", "`compose-zd rollback` restores release 1"]);
    assert_eq!(project.containers(), before);
}

#[test]
fn status_shows_stopped_and_missing_services() {
    let project = TestProject::pair_with_idle_side("statuspair");
    let status = stdout_of(&project, "status");
    let row = |name: &str| {
        let found = status.lines().find(|l| l.contains(name)).unwrap_or_else(|| panic!("{name}: {status}"));
        found.split_whitespace().map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(row("service_a-1")[4..6], ["running", "in"]);
    assert_eq!(row("service_b-1")[4..], ["exited", "out", "0", "-"]);
    assert!(status.contains("`service`: service_a is the active side"), "{status}");
    let history = stdout_of(&project, "history");
    assert!(history.contains("no release of `zde2e-statuspair` is recorded"), "{history}");
}
