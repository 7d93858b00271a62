//! Rollbacks restore an earlier release with its configuration, image and number of instances, and lose no request. The images
//! of kept releases survive pruning, and are removed with their release.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::test_project::TestProject;

/// Deploys version 1 with this number of instances as release 1.
fn first_release(project: TestProject, count: usize) -> TestProject {
    project.up(&format!("--scale app={count}"));
    project.deploy("app").exits(0);
    project
}

/// Deploys version 1 as release 1 and version 2 as release 2.
fn two_releases(project: TestProject, count: usize) -> TestProject {
    let project = first_release(project, count);
    project.set_variables("VERSION=2");
    project.deploy("app").exits(0);
    project.expect_release("app", count, "2");
    project
}

/// Rolls back under load from version `from` to version `to`.
fn roll_back(project: &TestProject, words: &str, from: &str, to: &str) {
    let (result, answers) = project.rollback_under_load("", words);
    result.exits(0).says("is back on release");
    answers.all_from(&[from, to]);
    project.expect_version(to);
    expect_nothing_left(project);
}

/// Asserts that only containers of the project and keepers that never ran exist, and that no deploy is unfinished.
fn expect_nothing_left(project: &TestProject) {
    assert!(!state_folder(project).join("wanted.json").exists(), "a rollout is still headed for");
    let states = project.containers().into_iter().filter(|c| c.state != "running").count();
    assert_eq!(states, 0, "containers that do not run: {:?}", project.containers());
    for keeper in project.keepers() {
        assert!(keeper.starts_with("compose-zd-keep-"), "{keeper}");
        let state = project.docker(&format!("inspect {keeper} --format {{{{.State.Status}}}}"));
        assert_eq!(state, "created", "{keeper}");
    }
}

/// State folder of the project.
fn state_folder(project: &TestProject) -> PathBuf {
    project.path(".compose-zd").join(&project.name)
}

fn images(project: &TestProject) -> BTreeSet<String> {
    project.service_containers("app").into_iter().map(|c| c.image).collect()
}

// Choice of the release.

#[test]
fn a_rollback_restores_the_previous_or_any_kept_release() {
    let project = TestProject::nginx_proxy("back");
    project.up("");

    project.log("--- without a release the hint says how to record one");
    let before = project.containers();
    let none = "no release of `zde2e-back`";
    project.rollback("").exits(2).says(none).says("`compose-zd deploy` records one");
    project.deploy("app").exits(0);
    project.rollback("").exits(2).says(&format!("{none} before the current one")).says("kept releases: 1");
    assert_eq!(project.containers(), before);

    project.log("--- a release that is not kept is refused with a list of the kept ones, and a dry run changes nothing");
    project.set_variables("VERSION=2");
    project.deploy("app").exits(0);
    let before = (project.containers(), files(&project.path(".compose-zd")));
    project.rollback("--to 99").exits(2).says("release 99 is not recorded").says("kept releases: 2, 1");
    project.rollback("none").exits(2).says("`none`");
    project.rollback("--dry-run").exits(0).says("plan for `app`");
    assert_eq!((project.containers(), files(&project.path(".compose-zd"))), before);

    project.log("--- the previous release, and a second rollback returns");
    for (from, to) in [("2", "1"), ("1", "2")] {
        roll_back(&project, "", from, to);
        project.expect_release("app", 1, to);
    }

    project.log("--- any kept release");
    project.set_variables("VERSION=3");
    project.deploy("app").exits(0);
    // Version 1 again is release 3, version 3 is release 5.
    roll_back(&project, "--to 2", "3", "2");
    roll_back(&project, "--to 5", "2", "3");
    roll_back(&project, "--to 3", "3", "1");

    project.log("--- Compose and a deploy have nothing to do after a rollback to what the file says");
    project.set_variables("VERSION=1");
    let before = project.containers();
    project.deploy("app").exits(0).says("nothing has to change");
    assert_eq!(project.containers(), before);
    project.compose("up -d");
    assert_eq!(project.containers(), before);

    project.log("--- a deploy after a rollback is rolled back to the restored release");
    project.set_variables("VERSION=4");
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(0);
    answers.all_from(&["1", "4"]);
    roll_back(&project, "", "4", "1");

    project.log(
        "--- a failed deploy after a rollback leaves the restored release, and is no target of a rollback",
    );
    let before = project.containers();
    project.set_variables("VERSION=5 STATUS=503");
    let (result, answers) = project.deploy_under_load("", "app --health-deadline 2s");
    result.exits(3).says("served before and still serve");
    answers.all_from(&["1"]);
    assert_eq!(project.containers(), before);
    expect_nothing_left(&project);
    roll_back(&project, "", "1", "4");

    project.log("--- a rollback works with an unreadable Compose file, by the labels of the proxy");
    project.write("compose.yaml", "services: {app: [");
    roll_back(&project, "", "4", "1");
    project.expect_release("app", 1, "1");
}

#[test]
fn prune_removes_the_images_of_a_removed_project_only() {
    let project = TestProject::nginx_proxy("prune");
    project.up("");
    project.deploy("app").exits(0);
    let prune = |words: &str, says: &str| {
        project.start(&format!("prune {words}")).wait().exits(0).says(says);
    };
    let kept = || (project.keepers().len(), project.release_tags().len());
    prune("", "`zde2e-prune` keeps its images: it has 2 containers");
    assert_eq!(kept(), (1, 1));

    project.compose("down --timeout 1");
    prune("--dry-run", "would remove `compose-zd/zde2e-prune--app:r1-");
    assert_eq!(kept(), (1, 1));
    prune("", "removed `compose-zd/zde2e-prune--app:r1-");
    assert_eq!(kept(), (0, 0));
    prune("", "this engine has no tagged image of `zde2e-prune`");
}

// Images.

/// The image sets the version, and is rebuilt under the same name.
const BUILD: &str = "
services:
  app:
    image: !reset null
    build: {context: ./source, args: {BASE: '${ZD_APP_IMAGE}'}}
    environment: {VERSION: !reset null}
";

#[test]
fn a_rollback_restores_the_exact_image_after_its_tag_moved() {
    let project = TestProject::nginx_proxy("backprune");
    project.set_variables("DOCKER_BUILDKIT=0 COMPOSE_ZD_KEEP=20");
    project.write_override(BUILD);
    project.write_dockerfile("ENV VERSION=1\n");
    project.up("--build");
    project.deploy("app").exits(0);
    let first = images(&project);

    project.log("--- a build that fails changes nothing");
    let before = project.containers();
    project.write_dockerfile("RUN [\"/sample-app\", \"cat\", \"/not-there\"]\n");
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(1).says("nothing was changed");
    answers.all_from(&["1"]);
    assert_eq!(project.containers(), before);

    project.log("--- a rebuilt image is deployed");
    project.write_dockerfile("ENV VERSION=2\n");
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(0);
    answers.all_from(&["1", "2"]);
    project.expect_release("app", 1, "2");
    let second = images(&project);

    project.log("--- pruning removes no kept image");
    prune(&project);
    roll_back(&project, "", "2", "1");
    assert_eq!(images(&project), first);
    prune(&project);
    roll_back(&project, "", "1", "2");
    assert_eq!(images(&project), second);

    project.log("--- the next deploy creates pruned keepers again");
    project.keepers().iter().for_each(|name| drop(project.docker(&format!("rm {name}"))));
    project.write_dockerfile("ENV VERSION=3\n");
    project.deploy("app").exits(0);
    prune(&project);
    roll_back(&project, "--to 1", "3", "1");
    assert_eq!(images(&project), first);

    project.log("--- an existing image is enough without its keeper");
    roll_back(&project, "--to 2", "1", "2");
    let id = first.first().expect("an image");
    let held_tag = format!("{}-held:1", project.name);
    project.docker(&format!("tag {id} {held_tag}"));
    remove_kept(&project);
    roll_back(&project, "", "2", "1");
    assert_eq!(images(&project), first);

    project.log("--- a missing image is reported, and nothing changes");
    roll_back(&project, "--to 2", "1", "2");
    project.docker(&format!("image rm {held_tag}"));
    remove_kept(&project);
    assert!(!project.try_docker(&format!("image inspect {id}")).status.success(), "it is gone");
    let before = (project.containers(), files(&state_folder(&project)));
    let (result, answers) = project.rollback_under_load("", "");
    result.exits(1).says("is gone from this engine").says(id).says("hint: ");
    answers.all_from(&["2"]);
    assert_eq!((project.containers(), files(&state_folder(&project))), before);
}

/// Prunes as `docker image prune -a` does, but only images of this project.
fn prune(project: &TestProject) {
    project.docker(&format!("image prune -af --filter label={}", project.image_label()));
}

fn remove_kept(project: &TestProject) {
    project.keepers().iter().for_each(|name| drop(project.docker(&format!("rm {name}"))));
    project.release_tags().iter().for_each(|tag| drop(project.docker(&format!("image rm -f {tag}"))));
}

/// Builds one image per version, and deploys the first.
fn two_images(name: &str) -> TestProject {
    let project = TestProject::nginx_proxy(name);
    project.set_variables("DOCKER_BUILDKIT=0");
    project.write_override("services: {app: {environment: {VERSION: !reset null}}}");
    let base = project.variable("ZD_APP_IMAGE");
    for version in ["1", "2", "3"] {
        project.write_dockerfile(&format!("ENV VERSION={version}\n"));
        project.docker(&format!("build --build-arg BASE={base} -t {} source", image(&project, version)));
    }
    project.set_variables(&format!("ZD_APP_IMAGE={}", image(&project, "1")));
    project.up("");
    project
}

fn image(project: &TestProject, version: &str) -> String {
    format!("{}-image:{version}", project.name)
}

#[test]
fn a_rollback_restores_a_project_that_compose_started() {
    let project = two_images("backimage");
    let [one, two, three] = ["1", "2", "3"].map(|version| image(&project, version));
    let first = images(&project);

    project.log("--- a project that Compose started");
    project.set_variables(&format!("ZD_APP_IMAGE={two}"));
    project.deploy("app").exits(0).says("recorded the running `app` as release 1").says("as release 2");
    roll_back(&project, "", "2", "1");
    assert_eq!(images(&project), first);

    project.log("--- an image of the command line serves until the next deploy");
    project.set_variables(&format!("ZD_APP_IMAGE={one}"));
    let (result, answers) = project.deploy_under_load("", &format!("app --image app={three}"));
    result.exits(0);
    answers.all_from(&["1", "3"]);
    project.expect_release("app", 1, "3");
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(0).says("`app` returns to the image of the file").says(&three);
    answers.all_from(&["3", "1"]);
    project.expect_release("app", 1, "1");
    roll_back(&project, "", "1", "3");
    project.deploy("app").exits(0).says("returns to the image of the file");
    project.expect_release("app", 1, "1");
    expect_nothing_left(&project);

    project.log("--- an image for an unknown service, and an invalid one, change nothing");
    let before = (project.containers(), files(&state_folder(&project)));
    let load = project.start_load("");
    project.deploy("app --image web=shop:1").exits(2).says("`web`").says("hint: ");
    // Nothing listens on this port, so no registry answers.
    project.deploy("app --image app=127.0.0.1:1/none:1").exits(1).says("nothing was changed");
    project.set_variables("ZD_APP_IMAGE=127.0.0.1:1/none:1");
    project.deploy("app").exits(1).says("nothing was changed");
    load.stop().all_from(&["1"]);
    assert_eq!((project.containers(), files(&state_folder(&project))), before);
}

#[test]
fn a_project_that_compose_started_can_be_restored_if_the_file_still_matches() {
    let project = TestProject::nginx_proxy("backenv");
    project.up("");

    project.log("--- the file does not match");
    project.set_variables("VERSION=2");
    project.write_override("services: {app: {stop_signal: SIGINT}}");
    project.deploy("app").exits(0).says("a rollback cannot restore it");
    project.rollback("").exits(2).says("no release of `zde2e-backenv` before the current one");
    project.expect_release("app", 1, "2");

    project.log("--- the file matches except for the environment");
    fs::remove_dir_all(project.path(".compose-zd")).expect("the releases go");
    project.set_variables("VERSION=3");
    project.up("");
    project.set_variables("VERSION=4");
    project.deploy("app").exits(0).says("recorded the running `app` as release 1");
    roll_back(&project, "", "4", "3");
    project.expect_release("app", 1, "3");
}

// Number of instances.

#[test]
fn a_rollback_restores_the_number_of_instances() {
    let project = first_release(TestProject::nginx_proxy("backscale"), 1);

    project.log("--- a change of the number alone keeps the instances");
    let one = project.ids("app");
    let (result, answers) = project.deploy_under_load("", "app --scale app=2");
    result.exits(0);
    answers.all_from(&["1"]);
    let two = project.ids("app");
    assert!(two.is_superset(&one));
    for (count, others) in [(1, &two), (2, &one)] {
        let (result, answers) = project.rollback_under_load("", "");
        result.exits(0);
        answers.all_from(&["1"]);
        project.expect_release("app", count, "1");
        assert_eq!(project.ids("app").intersection(others).count(), 1, "that stays");
        expect_nothing_left(&project);
    }

    project.log("--- with a change of the version");
    project.set_variables("VERSION=2");
    project.deploy("app --scale app=1").exits(0);
    roll_back(&project, "", "2", "1");
    project.expect_release("app", 2, "1");
    roll_back(&project, "", "1", "2");
    project.expect_release("app", 1, "2");

    project.log("--- the number in the file");
    let replicas = |n| project.write_override(&format!("services: {{app: {{deploy: {{replicas: {n}}}}}}}"));
    replicas(1);
    project.deploy("app").exits(0);
    let one = project.ids("app");
    replicas(2);
    project.deploy("app").exits(0);
    assert!(project.ids("app").is_superset(&one));
    let (result, answers) = project.rollback_under_load("", "");
    result.exits(0);
    answers.all_from(&["2"]);
    project.expect_release("app", 1, "2");
    replicas(1);
    let before = project.containers();
    project.compose("up -d");
    assert_eq!(project.containers(), before);
}

// Kept releases and their files.

#[test]
fn the_requested_number_of_releases_is_kept() {
    let project = two_images("backkeep");
    let (base, more) = (image(&project, "1"), format!("{}-more", project.name));
    let neighbour = format!("compose-zd-keep-{more}--app-r1");
    let tags = [format!("compose-zd/{more}--app:r1"), format!("compose-zd/{}--app:mine", project.name)];
    tags.iter().for_each(|tag| drop(project.docker(&format!("tag {base} {tag}"))));
    project.docker(&format!("create --name {neighbour} --label compose-zd.keeps={more} {}", tags[0]));
    // Objects of another checkout of the project.
    let other_tag = format!("compose-zd/{}--app:r1-0000feed", project.name);
    let other_keeper = format!("compose-zd-keep-{}--app-r1-0000feed", project.name);
    project.docker(&format!("tag {base} {other_tag}"));
    project.docker(&format!(
        "create --name {other_keeper} --label compose-zd.keeps={} {other_tag}",
        project.name
    ));
    for version in ["1", "2", "3"] {
        project.set_variables(&format!("ZD_APP_IMAGE={}", image(&project, version)));
        project.deploy("app --keep 2").exits(0);
    }
    let (project_name, user_tag) = (&project.name, tags[1].clone());
    let id = project.read(&format!(".compose-zd/{project_name}/history-id"));
    let keepers = ["2", "3"].map(|n| format!("compose-zd-keep-{project_name}--app-r{n}-{id}"));
    assert_eq!(project.keepers(), [vec![other_keeper], keepers.to_vec()].concat());
    let kept = ["2", "3"].map(|n| format!("compose-zd/{project_name}--app:r{n}-{id}"));
    assert_eq!(project.release_tags(), [vec![user_tag, other_tag], kept.to_vec()].concat());
    project.docker(&format!("inspect {neighbour} {}", tags[0]));
    project.rollback("--to 1 --keep 2").exits(2).says("release 1 is").says("kept releases: 3, 2");
    roll_back(&project, "--keep 2", "3", "2");
    roll_back(&project, "--keep 2", "2", "3");
}

/// Every file below a folder.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { [path].into() }).collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

const SECRET: &str = "correct-horse-battery";

#[test]
fn a_secret_is_only_in_private_release_files() {
    let project = TestProject::nginx_proxy("backsecret");
    // The secret is not in the user's file.
    project.write_override("services: {app: {environment: {SECRET: '${SECRET}'}}}");
    project.write("tmp/.keep", "");
    project.set_variables(&format!("SECRET={SECRET} TMPDIR={}", project.path("tmp").display()));
    project.up("");
    project.deploy("app -v").exits(0).never_says(SECRET);
    project.set_variables("VERSION=2");
    project.deploy("app -v").exits(0).never_says(SECRET);
    project.rollback("-v").exits(0).never_says(SECRET);
    project.set_variables("VERSION=3 STATUS=503");
    project.deploy("app -v --health-deadline 2s").exits(3).never_says(SECRET);
    let folder = project.path(".compose-zd");
    let holds = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains(SECRET));
    let found: Vec<PathBuf> = files(&project.path("")).into_iter().filter(holds).collect();
    assert!(!found.is_empty());
    assert!(found.iter().all(|path| path.starts_with(&folder)), "{found:?}");
    for path in files(&folder) {
        let folders = path.ancestors().skip(1).take_while(|a| a.starts_with(&folder));
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        folders.for_each(|f| assert_eq!(mode(f), 0o700, "{}", f.display()));
    }
}

// Kills.

/// Kills a rollback after this output.
fn kill_rollback(project: &TestProject, line: &str) {
    let mut rollback = project.start_rollback("");
    rollback.wait_for(line);
    rollback.kill();
    project.get("/").expect("the service goes on");
}

/// A killed rollback does not count, so the next one undoes its steps.
#[test]
fn a_killed_rollback_is_finished_by_the_next_run() {
    let project = two_releases(TestProject::nginx_proxy("backkill"), 2);
    let load = project.start_load("");
    for (line, next) in [("in rotation: app-", "rollback"), ("started app-", "rollback app")] {
        kill_rollback(&project, line);
        project.start(next).wait().exits(0);
        project.expect_release("app", 2, "2");
        expect_nothing_left(&project);
    }
    kill_rollback(&project, "stopped app-");
    project.set_variables("VERSION=3");
    project.deploy("app").exits(0);
    // The states tell which version answers.
    assert_eq!(load.stop().lost(), 0);
    project.expect_release("app", 2, "3");
    expect_nothing_left(&project);
}
