//! A rollback puts an earlier release back, with its configuration, its image and its number of instances, and loses no
//! request; and what is kept for that is kept from others and from pruning, and goes again.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::test_project::TestProject;

/// A stage with so many instances of version 1, which is release 1.
fn first_release(stage: TestProject, count: usize) -> TestProject {
    stage.up(&format!("--scale app={count}"));
    stage.deploy("app").exits(0);
    stage
}

/// Release 2 is version 2.
fn two_releases(stage: TestProject, count: usize) -> TestProject {
    let stage = first_release(stage, count);
    stage.set_variables("VERSION=2");
    stage.deploy("app").exits(0);
    stage.expect_release("app", count, "2");
    stage
}

/// Rolls back while clients are there; `from` and `to` are the versions.
fn roll_back(stage: &TestProject, words: &str, from: &str, to: &str) {
    let (ran, answers) = stage.rollback_under_load("", words);
    ran.exits(0).says("is back on release");
    answers.all_from(&[from, to]);
    stage.expect_version(to);
    expect_nothing_left(stage);
}

/// No container but the project's own and those that hold images, which never ran; nothing is headed for.
fn expect_nothing_left(stage: &TestProject) {
    assert!(!state_folder(stage).join("wanted.json").exists(), "a rollout is still headed for");
    let states = stage.containers().into_iter().filter(|c| c.state != "running").count();
    assert_eq!(states, 0, "containers that do not run: {:?}", stage.containers());
    for keeper in stage.keepers() {
        assert!(keeper.starts_with("compose-zd-keep-"), "{keeper}");
        let state = stage.docker(&format!("inspect {keeper} --format {{{{.State.Status}}}}"));
        assert_eq!(state, "created", "{keeper}");
    }
}

/// Where the releases of the project are.
fn state_folder(stage: &TestProject) -> PathBuf {
    stage.path(".compose-zd").join(&stage.name)
}

fn images(stage: &TestProject) -> BTreeSet<String> {
    stage.service_containers("app").into_iter().map(|c| c.image).collect()
}

// Which release.

#[test]
fn a_rollback_restores_the_previous_or_any_kept_release() {
    let stage = TestProject::nginx_proxy("back");
    stage.up("");

    stage.log("--- without a release it says what makes one");
    let before = stage.containers();
    let none = "no release of `zde2e-back`";
    stage.rollback("").exits(2).says(none).says("`compose-zd deploy` records one");
    stage.deploy("app").exits(0);
    stage.rollback("").exits(2).says(&format!("{none} before the current one")).says("kept are 1");
    assert_eq!(stage.containers(), before);

    stage.log("--- what is not kept is refused with what is, and a dry run changes nothing");
    stage.set_variables("VERSION=2");
    stage.deploy("app").exits(0);
    let before = (stage.containers(), files(&stage.path(".compose-zd")));
    stage.rollback("--to 99").exits(2).says("release 99 is not recorded").says("kept are 2, 1");
    stage.rollback("none").exits(2).says("`none`");
    stage.rollback("--dry-run").exits(0).says("plan for `app`");
    assert_eq!((stage.containers(), files(&stage.path(".compose-zd"))), before);

    stage.log("--- the one before, and another rollback returns");
    for (from, to) in [("2", "1"), ("1", "2")] {
        roll_back(&stage, "", from, to);
        stage.expect_release("app", 1, to);
    }

    stage.log("--- any that is kept");
    stage.set_variables("VERSION=3");
    stage.deploy("app").exits(0);
    // Version 1 again is release 3, version 3 is release 5.
    roll_back(&stage, "--to 2", "3", "2");
    roll_back(&stage, "--to 5", "2", "3");
    roll_back(&stage, "--to 3", "3", "1");

    stage.log("--- Compose and a deploy have nothing to do after a rollback to what the file says");
    stage.set_variables("VERSION=1");
    let before = stage.containers();
    stage.deploy("app").exits(0).says("nothing has to change");
    assert_eq!(stage.containers(), before);
    stage.compose("up -d");
    assert_eq!(stage.containers(), before);

    stage.log("--- a deploy after a rollback is rolled back to what that put in place");
    stage.set_variables("VERSION=4");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "4"]);
    roll_back(&stage, "", "4", "1");

    stage
        .log("--- a deploy that fails after a rollback leaves what was put back, and is none to go back to");
    let before = stage.containers();
    stage.set_variables("VERSION=5 STATUS=503");
    let (ran, answers) = stage.deploy_under_load("", "app --health-deadline 2s");
    ran.exits(3).says("served before and still serve");
    answers.all_from(&["1"]);
    assert_eq!(stage.containers(), before);
    expect_nothing_left(&stage);
    roll_back(&stage, "", "1", "4");

    stage.log("--- although the Compose file cannot be read: the proxy's labels still tell where it is");
    stage.write("compose.yaml", "services: {app: [");
    roll_back(&stage, "", "4", "1");
    stage.expect_release("app", 1, "1");
}

#[test]
fn prune_removes_the_images_of_a_removed_project_only() {
    let stage = TestProject::nginx_proxy("prune");
    stage.up("");
    stage.deploy("app").exits(0);
    let prune = |words: &str, says: &str| {
        stage.start(&format!("prune {words}")).wait().exits(0).says(says);
    };
    let kept = || (stage.keepers().len(), stage.release_tags().len());
    prune("", "`zde2e-prune` keeps its images: it has 2 containers");
    assert_eq!(kept(), (1, 1));

    stage.compose("down --timeout 1");
    prune("--dry-run", "would remove `compose-zd/zde2e-prune--app:r1-");
    assert_eq!(kept(), (1, 1));
    prune("", "removed `compose-zd/zde2e-prune--app:r1-");
    assert_eq!(kept(), (0, 0));
    prune("", "no image of `zde2e-prune` is kept on this engine");
}

// The image.

/// The version is the image's own, and the image is built here, always with the same name.
const BUILD: &str = "
services:
  app:
    image: !reset null
    build: {context: ./source, args: {BASE: '${ZD_APP_IMAGE}'}}
    environment: {VERSION: !reset null}
";

#[test]
fn a_rollback_restores_the_exact_image_after_its_tag_moved() {
    let stage = TestProject::nginx_proxy("backprune");
    stage.set_variables("DOCKER_BUILDKIT=0 COMPOSE_ZD_KEEP=20");
    stage.write_override(BUILD);
    stage.write_dockerfile("ENV VERSION=1\n");
    stage.up("--build");
    stage.deploy("app").exits(0);
    let first = images(&stage);

    stage.log("--- a build that fails changes nothing");
    let before = stage.containers();
    stage.write_dockerfile("RUN [\"/sample-app\", \"cat\", \"/not-there\"]\n");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(1).says("nothing was changed");
    answers.all_from(&["1"]);
    assert_eq!(stage.containers(), before);

    stage.log("--- what was built anew is deployed");
    stage.write_dockerfile("ENV VERSION=2\n");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 1, "2");
    let second = images(&stage);

    stage.log("--- pruning takes none away");
    prune(&stage);
    roll_back(&stage, "", "2", "1");
    assert_eq!(images(&stage), first);
    prune(&stage);
    roll_back(&stage, "", "1", "2");
    assert_eq!(images(&stage), second);

    stage.log("--- what a prune of containers took is held again by the next deploy");
    stage.keepers().iter().for_each(|name| drop(stage.docker(&format!("rm {name}"))));
    stage.write_dockerfile("ENV VERSION=3\n");
    stage.deploy("app").exits(0);
    prune(&stage);
    roll_back(&stage, "--to 1", "3", "1");
    assert_eq!(images(&stage), first);

    stage.log("--- an image that is there is enough without what kept it");
    roll_back(&stage, "--to 2", "1", "2");
    let id = first.first().expect("an image");
    let held = format!("{}-held:1", stage.name);
    stage.docker(&format!("tag {id} {held}"));
    remove_kept(&stage);
    roll_back(&stage, "", "2", "1");
    assert_eq!(images(&stage), first);

    stage.log("--- an image that is gone is said, and nothing is changed");
    roll_back(&stage, "--to 2", "1", "2");
    stage.docker(&format!("image rm {held}"));
    remove_kept(&stage);
    assert!(!stage.try_docker(&format!("image inspect {id}")).status.success(), "it is gone");
    let before = (stage.containers(), files(&state_folder(&stage)));
    let (ran, answers) = stage.rollback_under_load("", "");
    ran.exits(1).says("is gone from this engine").says(id).says("hint: ");
    answers.all_from(&["2"]);
    assert_eq!((stage.containers(), files(&state_folder(&stage))), before);
}

/// As `docker image prune -a`, for the images of this project alone.
fn prune(stage: &TestProject) {
    stage.docker(&format!("image prune -af --filter label={}", stage.image_label()));
}

fn remove_kept(stage: &TestProject) {
    stage.keepers().iter().for_each(|name| drop(stage.docker(&format!("rm {name}"))));
    stage.release_tags().iter().for_each(|tag| drop(stage.docker(&format!("image rm -f {tag}"))));
}

/// Two images with their versions in them, and the first release of the first.
fn two_images(name: &str) -> TestProject {
    let stage = TestProject::nginx_proxy(name);
    stage.set_variables("DOCKER_BUILDKIT=0");
    stage.write_override("services: {app: {environment: {VERSION: !reset null}}}");
    let base = stage.variable("ZD_APP_IMAGE");
    for version in ["1", "2", "3"] {
        stage.write_dockerfile(&format!("ENV VERSION={version}\n"));
        stage.docker(&format!("build --build-arg BASE={base} -t {} source", image(&stage, version)));
    }
    stage.set_variables(&format!("ZD_APP_IMAGE={}", image(&stage, "1")));
    stage.up("");
    stage
}

fn image(stage: &TestProject, version: &str) -> String {
    format!("{}-image:{version}", stage.name)
}

#[test]
fn a_rollback_restores_a_project_that_compose_started() {
    let stage = two_images("backimage");
    let [one, two, three] = ["1", "2", "3"].map(|version| image(&stage, version));
    let first = images(&stage);

    stage.log("--- what Compose started");
    stage.set_variables(&format!("ZD_APP_IMAGE={two}"));
    stage.deploy("app").exits(0).says("is kept as release 1").says("as release 2");
    roll_back(&stage, "", "2", "1");
    assert_eq!(images(&stage), first);

    stage.log("--- an image of the command line serves until the next deploy");
    stage.set_variables(&format!("ZD_APP_IMAGE={one}"));
    let (ran, answers) = stage.deploy_under_load("", &format!("app --image app={three}"));
    ran.exits(0);
    answers.all_from(&["1", "3"]);
    stage.expect_release("app", 1, "3");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0).says("`app` goes back to the file's image").says(&three);
    answers.all_from(&["3", "1"]);
    stage.expect_release("app", 1, "1");
    roll_back(&stage, "", "1", "3");
    stage.deploy("app").exits(0).says("goes back to the file's image");
    stage.expect_release("app", 1, "1");
    expect_nothing_left(&stage);

    stage.log("--- one for a service that is not there, or that is none, changes nothing");
    let before = (stage.containers(), files(&state_folder(&stage)));
    let load = stage.start_load("");
    stage.deploy("app --image web=shop:1").exits(2).says("`web`").says("hint: ");
    // Nothing listens at this port, so no registry is asked.
    stage.deploy("app --image app=127.0.0.1:1/none:1").exits(1).says("nothing was changed");
    stage.set_variables("ZD_APP_IMAGE=127.0.0.1:1/none:1");
    stage.deploy("app").exits(1).says("nothing was changed");
    load.stop().all_from(&["1"]);
    assert_eq!((stage.containers(), files(&state_folder(&stage))), before);
}

#[test]
fn a_project_that_compose_started_can_be_restored_if_the_file_still_matches() {
    let stage = TestProject::nginx_proxy("backenv");
    stage.up("");

    stage.log("--- it does not");
    stage.set_variables("VERSION=2");
    stage.write_override("services: {app: {stop_signal: SIGINT}}");
    stage.deploy("app").exits(0).says("no later `rollback` can go back to it");
    stage.rollback("").exits(2).says("no release of `zde2e-backenv` before the current one");
    stage.expect_release("app", 1, "2");

    stage.log("--- it does, but for the environment");
    fs::remove_dir_all(stage.path(".compose-zd")).expect("the releases go");
    stage.set_variables("VERSION=3");
    stage.up("");
    stage.set_variables("VERSION=4");
    stage.deploy("app").exits(0).says("is kept as release 1");
    roll_back(&stage, "", "4", "3");
    stage.expect_release("app", 1, "3");
}

// The number of instances.

#[test]
fn a_rollback_restores_the_number_of_instances() {
    let stage = first_release(TestProject::nginx_proxy("backscale"), 1);

    stage.log("--- a change of the number alone keeps the instances");
    let one = stage.ids("app");
    let (ran, answers) = stage.deploy_under_load("", "app --scale app=2");
    ran.exits(0);
    answers.all_from(&["1"]);
    let two = stage.ids("app");
    assert!(two.is_superset(&one));
    for (count, others) in [(1, &two), (2, &one)] {
        let (ran, answers) = stage.rollback_under_load("", "");
        ran.exits(0);
        answers.all_from(&["1"]);
        stage.expect_release("app", count, "1");
        assert_eq!(stage.ids("app").intersection(others).count(), 1, "that stays");
        expect_nothing_left(&stage);
    }

    stage.log("--- with a change of the version");
    stage.set_variables("VERSION=2");
    stage.deploy("app --scale app=1").exits(0);
    roll_back(&stage, "", "2", "1");
    stage.expect_release("app", 2, "1");
    roll_back(&stage, "", "1", "2");
    stage.expect_release("app", 1, "2");

    stage.log("--- the number in the file");
    let replicas = |n| stage.write_override(&format!("services: {{app: {{deploy: {{replicas: {n}}}}}}}"));
    replicas(1);
    stage.deploy("app").exits(0);
    let one = stage.ids("app");
    replicas(2);
    stage.deploy("app").exits(0);
    assert!(stage.ids("app").is_superset(&one));
    let (ran, answers) = stage.rollback_under_load("", "");
    ran.exits(0);
    answers.all_from(&["2"]);
    stage.expect_release("app", 1, "2");
    replicas(1);
    let before = stage.containers();
    stage.compose("up -d");
    assert_eq!(stage.containers(), before);
}

// What is kept, where, and for how long.

#[test]
fn the_requested_number_of_releases_is_kept() {
    let stage = two_images("backkeep");
    let (base, more) = (image(&stage, "1"), format!("{}-more", stage.name));
    let neighbour = format!("compose-zd-keep-{more}--app-r1");
    let tags = [format!("compose-zd/{more}--app:r1"), format!("compose-zd/{}--app:mine", stage.name)];
    tags.iter().for_each(|tag| drop(stage.docker(&format!("tag {base} {tag}"))));
    stage.docker(&format!("create --name {neighbour} --label compose-zd.keeps={more} {}", tags[0]));
    // Of another checkout of the project.
    let theirs = format!("compose-zd/{}--app:r1-0000feed", stage.name);
    let checkouts = format!("compose-zd-keep-{}--app-r1-0000feed", stage.name);
    stage.docker(&format!("tag {base} {theirs}"));
    stage.docker(&format!("create --name {checkouts} --label compose-zd.keeps={} {theirs}", stage.name));
    for version in ["1", "2", "3"] {
        stage.set_variables(&format!("ZD_APP_IMAGE={}", image(&stage, version)));
        stage.deploy("app --keep 2").exits(0);
    }
    let (project, mine) = (&stage.name, tags[1].clone());
    let id = stage.read(&format!(".compose-zd/{project}/history-id"));
    let held = ["2", "3"].map(|n| format!("compose-zd-keep-{project}--app-r{n}-{id}"));
    assert_eq!(stage.keepers(), [vec![checkouts], held.to_vec()].concat());
    let kept = ["2", "3"].map(|n| format!("compose-zd/{project}--app:r{n}-{id}"));
    assert_eq!(stage.release_tags(), [vec![mine, theirs], kept.to_vec()].concat());
    stage.docker(&format!("inspect {neighbour} {}", tags[0]));
    stage.rollback("--to 1 --keep 2").exits(2).says("release 1 is").says("kept are 3, 2");
    roll_back(&stage, "--keep 2", "3", "2");
    roll_back(&stage, "--keep 2", "2", "3");
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
    let stage = TestProject::nginx_proxy("backsecret");
    // Not in the file, which the user wrote.
    stage.write_override("services: {app: {environment: {SECRET: '${SECRET}'}}}");
    stage.write("tmp/.keep", "");
    stage.set_variables(&format!("SECRET={SECRET} TMPDIR={}", stage.path("tmp").display()));
    stage.up("");
    stage.deploy("app -v").exits(0).never_says(SECRET);
    stage.set_variables("VERSION=2");
    stage.deploy("app -v").exits(0).never_says(SECRET);
    stage.rollback("-v").exits(0).never_says(SECRET);
    stage.set_variables("VERSION=3 STATUS=503");
    stage.deploy("app -v --health-deadline 2s").exits(3).never_says(SECRET);
    let folder = stage.path(".compose-zd");
    let holds = |path: &PathBuf| fs::read_to_string(path).is_ok_and(|text| text.contains(SECRET));
    let found: Vec<PathBuf> = files(&stage.path("")).into_iter().filter(holds).collect();
    assert!(!found.is_empty());
    assert!(found.iter().all(|path| path.starts_with(&folder)), "{found:?}");
    for path in files(&folder) {
        let folders = path.ancestors().skip(1).take_while(|a| a.starts_with(&folder));
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        folders.for_each(|f| assert_eq!(mode(f), 0o700, "{}", f.display()));
    }
}

// Killed in between.

/// Kills a rollback when it has said this.
fn kill_rollback(stage: &TestProject, line: &str) {
    let mut rollback = stage.start_rollback("");
    rollback.wait_for(line);
    rollback.kill();
    stage.get("/").expect("the service goes on");
}

/// The rollback that was killed did not happen, so that the next one undoes what there is of it.
#[test]
fn a_killed_rollback_is_finished_by_the_next_run() {
    let stage = two_releases(TestProject::nginx_proxy("backkill"), 2);
    let load = stage.start_load("");
    for (line, next) in [("in rotation: app-", "rollback"), ("started app-", "rollback app")] {
        kill_rollback(&stage, line);
        stage.start(next).wait().exits(0);
        stage.expect_release("app", 2, "2");
        expect_nothing_left(&stage);
    }
    kill_rollback(&stage, "stopped app-");
    stage.set_variables("VERSION=3");
    stage.deploy("app").exits(0);
    // Which version answers is told by the states.
    assert_eq!(load.stop().lost(), 0);
    stage.expect_release("app", 2, "3");
    expect_nothing_left(&stage);
}
