//! The user's environment changes neither the calls of Compose nor the format of its output.

use super::*;

/// Settings of users and CI that change the output or the actions of Compose.
const SETTINGS: [(&str, &str); 5] = [
    ("COMPOSE_PROGRESS", "quiet"),
    ("COMPOSE_ANSI", "always"),
    ("COMPOSE_STATUS_STDOUT", "1"),
    ("COMPOSE_MENU", "1"),
    ("COMPOSE_REMOVE_ORPHANS", "1"),
];

fn deploy(fake: &FakeDocker) -> OutputAssert {
    let path = format!("{}:/usr/bin:/bin", fake.path("bin").display());
    let command = Command::new(snapbox::cmd::cargo_bin!("compose-zd")).args(["deploy", "app"]);
    let command = command.current_dir(fake.dir.path()).env("PATH", path).env("FAKE", fake.dir.path());
    SETTINGS.iter().fold(command, |command, (name, value)| command.env(name, value)).assert()
}

#[test]
fn a_deploy_that_would_stop_a_container_is_refused_whatever_the_environment_sets() {
    let fake = FakeDocker::new();
    fake.write("stops", "up --no-start");
    says(
        &deploy(&fake).code(1),
        &["Compose would stop running containers", "Container p-db-1 Stopping", "hint: "],
    );
    assert_eq!(fake.changes(), "");
}

#[test]
fn compose_gets_no_setting_that_changes_its_output_or_removes_orphans() {
    let fake = FakeDocker::new();
    deploy(&fake).success();
    let environment = fs::read_to_string(fake.path("environment")).unwrap();
    let forms: std::collections::BTreeSet<&str> = environment.lines().collect();
    assert_eq!(forms.into_iter().collect::<Vec<_>>(), ["plain never 0 0 0"]);
}

#[test]
fn a_dry_run_that_prints_nothing_is_refused() {
    let fake = FakeDocker::new();
    fake.write("says-nothing", "");
    let run = fake.run("deploy app").code(1);
    says(&run, &["does not print what it would do", "COMPOSE_*", "hint: "]);
    assert_eq!(fake.changes(), "");
}
