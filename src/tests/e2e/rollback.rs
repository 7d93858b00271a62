//! A rollback puts an earlier release back, with its configuration, its image and its number of instances, and loses no
//! request; and what is kept for that is kept from others and from pruning, and goes again.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::promises::flags;
use crate::stage::Stage;

/// Two instances of version 1, which is release 1.
fn first_release(stage: Stage) -> Stage {
    stage.up("--scale app=2");
    stage.deploy("app").exits(0);
    stage
}

/// Release 2 is version 2.
fn two_releases(stage: Stage) -> Stage {
    let stage = first_release(stage);
    stage.set("VERSION=2");
    stage.deploy("app").exits(0);
    stage.expect_release("app", 2, "2");
    stage
}

/// Rolls back while clients are there; `from` and `to` are the versions.
fn goes_back(stage: &Stage, words: &str, from: &str, to: &str) {
    let (ran, answers) = stage.rollback_under_load("", words);
    ran.exits(0).says("is back on release");
    answers.all_from(&[from, to]);
    stage.expect_version(to);
    expect_nothing_left(stage);
}

/// No container but the project's own and those that hold images, which never ran; nothing is headed for.
fn expect_nothing_left(stage: &Stage) {
    assert!(!state(stage).join("wanted.json").exists(), "a rollout is still headed for");
    let states = stage.containers().into_iter().filter(|c| c.state != "running").count();
    assert_eq!(states, 0, "containers that do not run: {:?}", stage.containers());
    for keeper in stage.keepers() {
        assert!(keeper.starts_with("compose-zd-keep-"), "{keeper}");
        let state = stage.docker(&format!("inspect {keeper} --format {{{{.State.Status}}}}"));
        assert_eq!(state, "created", "{keeper}");
    }
}

/// Where the releases of the project are.
fn state(stage: &Stage) -> PathBuf {
    stage.path(".compose-zd").join(&stage.project)
}

fn images(stage: &Stage) -> BTreeSet<String> {
    stage.service("app").into_iter().map(|c| c.image).collect()
}

// Which release.

#[test]
fn a_rollback_puts_the_release_before_back_and_another_one_returns() {
    let stage = two_releases(Stage::scale("back"));
    for (from, to) in [("2", "1"), ("1", "2"), ("2", "1")] {
        goes_back(&stage, "", from, to);
        stage.expect_release("app", 2, to);
    }
}

#[test]
fn behind_haproxy_too() {
    let stage = two_releases(Stage::haproxy("hback"));
    for (from, to) in [("2", "1"), ("1", "2")] {
        goes_back(&stage, "app", from, to);
        stage.expect_release("app", 2, to);
        assert_eq!(flags(&stage), "", "servers with a flag of ours");
    }
}

#[test]
fn any_release_that_is_kept_can_be_named() {
    let stage = two_releases(Stage::scale("backto"));
    stage.set("VERSION=3");
    stage.deploy("app").exits(0);
    goes_back(&stage, "--to 1", "3", "1");
    goes_back(&stage, "--to 2", "1", "2");
    goes_back(&stage, "--to 3", "2", "3");
    stage.expect_release("app", 2, "3");
}

#[test]
fn a_release_that_is_not_kept_is_refused_with_those_that_are() {
    let stage = two_releases(Stage::scale("backno"));
    let before = stage.containers();
    stage.rollback("--to 99").exits(2).says("release 99 is not recorded").says("kept are 2, 1");
    stage.rollback("none").exits(2).says("`none`");
    assert_eq!(stage.containers(), before);
}

#[test]
fn without_any_release_it_says_what_makes_one() {
    let stage = Stage::scale("backnone");
    stage.up("--scale app=2");
    let before = stage.containers();
    stage
        .rollback("")
        .exits(2)
        .says("no release of `zde2e-backnone`")
        .says("`compose-zd deploy` records one");
    stage.deploy("app").exits(0);
    stage
        .rollback("")
        .exits(2)
        .says("no release of `zde2e-backnone` before the current one")
        .says("kept are 1");
    assert_eq!(stage.containers(), before);
}

#[test]
fn a_dry_run_of_a_rollback_changes_nothing() {
    let stage = two_releases(Stage::scale("backdry"));
    let before = (stage.containers(), files(&stage.path(".compose-zd")));
    stage.rollback("--dry-run").exits(0).says("plan for `app`");
    assert_eq!((stage.containers(), files(&stage.path(".compose-zd"))), before);
}

// A pair.

#[test]
fn the_side_that_was_stopped_is_started_again() {
    let stage = Stage::one_side("backpair");
    stage.deploy("service").exits(0);
    stage.set("VERSION=2");
    stage.deploy("service").exits(0);
    let sides = || ["service_a", "service_b"].map(|s| (stage.ids(s), stage.states(s)));
    let [a, b] = sides();
    assert_eq!([&a.1, &b.1], [&["exited 1"], &["running 2"]]);
    for (from, to, states) in [("2", "1", ["running 1", "exited 2"]), ("1", "2", ["exited 1", "running 2"])] {
        let (ran, answers) = stage.rollback_under_load("", "");
        ran.exits(0).never_says("created");
        answers.all_from(&[from, to]);
        let now = sides();
        assert_eq!([&now[0].0, &now[1].0], [&a.0, &b.0]);
        assert_eq!([&now[0].1[0], &now[1].1[0]], states);
        assert_eq!(stage.marks(), "");
    }
}

#[test]
fn both_sides_go_back() {
    let stage = Stage::pair("backboth");
    stage.up("");
    stage.deploy("service").exits(0);
    stage.set("VERSION=2");
    stage.deploy("service").exits(0);
    goes_back(&stage, "service_a", "2", "1");
    stage.expect_release("service_a", 1, "1");
    stage.expect_release("service_b", 1, "1");
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

/// Two releases whose images have one name; and the id of the first.
fn two_builds(name: &str) -> (Stage, BTreeSet<String>) {
    let stage = Stage::scale(name);
    stage.set("DOCKER_BUILDKIT=0");
    stage.add(BUILD);
    stage.write_recipe("ENV VERSION=1\n");
    stage.up("--build --scale app=2");
    stage.deploy("app").exits(0);
    let first = images(&stage);
    stage.write_recipe("ENV VERSION=2\n");
    stage.deploy("app").exits(0);
    stage.expect_release("app", 2, "2");
    (stage, first)
}

/// As `docker image prune -a`, for the images of this project alone.
fn prune(stage: &Stage) {
    stage.docker(&format!("image prune -af --filter label={}", stage.built_here()));
}

fn forget_kept(stage: &Stage) {
    stage.keepers().iter().for_each(|name| drop(stage.docker(&format!("rm {name}"))));
    stage.release_tags().iter().for_each(|tag| drop(stage.docker(&format!("image rm {tag}"))));
}

#[test]
fn it_is_the_very_image_although_its_tag_moved_and_all_unused_were_pruned() {
    let (stage, first) = two_builds("backprune");
    let second = images(&stage);
    prune(&stage);
    goes_back(&stage, "", "2", "1");
    assert_eq!(images(&stage), first);
    prune(&stage);
    goes_back(&stage, "", "1", "2");
    assert_eq!(images(&stage), second);
    stage.expect_release("app", 2, "2");
}

#[test]
fn an_image_that_is_there_is_enough_without_what_kept_it() {
    let (stage, first) = two_builds("backtags");
    let id = first.first().expect("an image");
    stage.docker(&format!("tag {id} {}-held:1", stage.project));
    forget_kept(&stage);
    goes_back(&stage, "", "2", "1");
    assert_eq!(images(&stage), first);
}

#[test]
fn an_image_that_is_gone_is_said_and_nothing_is_changed() {
    let (stage, first) = two_builds("backgone");
    let id = first.first().expect("an image");
    forget_kept(&stage);
    assert!(!stage.try_docker(&format!("image inspect {id}")).status.success(), "it is gone");
    let before = (stage.containers(), files(&state(&stage)));
    let (ran, answers) = stage.rollback_under_load("", "");
    ran.exits(1).says("is gone from this engine").says(id).says("hint: ");
    answers.all_from(&["2"]);
    assert_eq!((stage.containers(), files(&state(&stage))), before);
}

#[test]
fn what_a_prune_of_containers_took_is_held_again_by_the_next_deploy() {
    let (stage, first) = two_builds("backheld");
    stage.keepers().iter().for_each(|name| drop(stage.docker(&format!("rm {name}"))));
    stage.write_recipe("ENV VERSION=3\n");
    stage.deploy("app").exits(0);
    prune(&stage);
    goes_back(&stage, "--to 1", "3", "1");
    assert_eq!(images(&stage), first);
}

/// Two images with their versions in them, and the first release of the first.
fn two_images(name: &str) -> Stage {
    let stage = Stage::scale(name);
    stage.set("DOCKER_BUILDKIT=0");
    stage.add("services: {app: {environment: {VERSION: !reset null}}}");
    let base = stage.variable("ZD_APP_IMAGE");
    for version in ["1", "2", "3"] {
        stage.write_recipe(&format!("ENV VERSION={version}\n"));
        stage.docker(&format!("build --build-arg BASE={base} -t {} source", image(&stage, version)));
    }
    stage.set(&format!("ZD_APP_IMAGE={}", image(&stage, "1")));
    stage.up("--scale app=2");
    stage
}

fn image(stage: &Stage, version: &str) -> String {
    format!("{}-image:{version}", stage.project)
}

#[test]
fn what_compose_started_can_be_gone_back_to_once_another_image_is_deployed() {
    let stage = two_images("backadopt");
    let first = images(&stage);
    stage.set(&format!("ZD_APP_IMAGE={}", image(&stage, "2")));
    let ran = stage.deploy("app");
    ran.exits(0).says("is kept as release 1").says("as release 2");
    goes_back(&stage, "", "2", "1");
    stage.expect_release("app", 2, "1");
    assert_eq!(images(&stage), first);
}

#[test]
fn what_compose_started_with_another_environment_can_be_gone_back_to() {
    let stage = Stage::scale("backenv");
    stage.up("--scale app=2");
    stage.set("VERSION=2");
    stage.deploy("app").exits(0).says("is kept as release 1");
    goes_back(&stage, "", "2", "1");
    stage.expect_release("app", 2, "1");
}

#[test]
fn what_compose_started_with_a_file_that_nobody_can_tell_any_more_is_said_not_to_be_kept() {
    let stage = Stage::scale("backlost");
    stage.up("--scale app=2");
    stage.set("VERSION=2");
    stage.add("services: {app: {stop_signal: SIGINT}}");
    stage.deploy("app").exits(0).says("no later `rollback` can go back to it");
    stage.rollback("").exits(2).says("no release of `zde2e-backlost` before the current one");
    stage.expect_release("app", 2, "2");
}

#[test]
fn an_image_of_the_command_line_serves_until_the_next_deploy_and_can_be_put_back() {
    let stage = two_images("backimage");
    stage.deploy("app").exits(0);
    let other = image(&stage, "2");
    let (ran, answers) = stage.deploy_under_load("", &format!("app --image app={other}"));
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 2, "2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0).says("`app` goes back to the file's image").says(&other);
    answers.all_from(&["2", "1"]);
    stage.expect_release("app", 2, "1");
    goes_back(&stage, "", "1", "2");
    stage.expect_release("app", 2, "2");
    stage.deploy("app").exits(0).says("goes back to the file's image");
    stage.expect_release("app", 2, "1");
    expect_nothing_left(&stage);
}

#[test]
fn an_image_for_a_service_that_is_not_there_or_that_is_none_changes_nothing() {
    let stage = first_release(Stage::scale("backbad"));
    let before = (stage.containers(), files(&state(&stage)));
    let load = stage.start_load("");
    stage.deploy("app --image web=shop:1").exits(2).says("`web`").says("hint: ");
    // Nothing listens at this port, so no registry is asked.
    stage.deploy("app --image app=127.0.0.1:1/none:1").exits(1).says("nothing was changed");
    load.end().all_from(&["1"]);
    assert_eq!((stage.containers(), files(&state(&stage))), before);
}

// The number of instances.

#[test]
fn a_change_of_the_number_alone_is_a_release_that_keeps_the_instances() {
    let stage = first_release(Stage::scale("backscale"));
    let two = stage.ids("app");
    let (ran, answers) = stage.deploy_under_load("", "app --scale app=3");
    ran.exits(0);
    answers.all_from(&["1"]);
    let three = stage.ids("app");
    assert!(three.is_superset(&two));
    for (count, others) in [(2, &three), (3, &two)] {
        let (ran, answers) = stage.rollback_under_load("", "");
        ran.exits(0);
        answers.all_from(&["1"]);
        stage.expect_release("app", count, "1");
        assert_eq!(stage.ids("app").intersection(others).count(), 2, "those that stay");
        expect_nothing_left(&stage);
    }
}

#[test]
fn the_number_in_the_file_is_put_back_as_well() {
    let stage = Stage::scale("backreplicas");
    let replicas = |n| stage.add(&format!("services: {{app: {{deploy: {{replicas: {n}}}}}}}"));
    replicas(2);
    stage.up("");
    stage.deploy("app").exits(0);
    let two = stage.ids("app");
    replicas(3);
    stage.deploy("app").exits(0);
    assert!(stage.ids("app").is_superset(&two));
    let (ran, answers) = stage.rollback_under_load("", "");
    ran.exits(0);
    answers.all_from(&["1"]);
    stage.expect_release("app", 2, "1");
    replicas(2);
    let before = stage.containers();
    stage.compose("up -d");
    assert_eq!(stage.containers(), before);
}

#[test]
fn a_release_is_put_back_with_as_many_instances_as_it_had() {
    let stage = first_release(Stage::scale("backnumber"));
    stage.set("VERSION=2");
    stage.deploy("app --scale app=3").exits(0);
    goes_back(&stage, "", "2", "1");
    stage.expect_release("app", 2, "1");
    goes_back(&stage, "", "1", "2");
    stage.expect_release("app", 3, "2");
}

// What is kept, where, and for how long.

#[test]
fn as_many_releases_are_kept_as_asked_for_and_nothing_of_a_project_with_a_similar_name_goes() {
    let stage = two_images("backkeep");
    let (base, more) = (image(&stage, "1"), format!("{}-more", stage.project));
    let neighbour = format!("compose-zd-keep-{more}--app-r1");
    let tags = [format!("compose-zd/{more}--app:r1"), format!("compose-zd/{}--app:mine", stage.project)];
    tags.iter().for_each(|tag| drop(stage.docker(&format!("tag {base} {tag}"))));
    stage.docker(&format!("create --name {neighbour} --label compose-zd.keeps={more} {}", tags[0]));
    for version in ["1", "2", "3"] {
        stage.set(&format!("ZD_APP_IMAGE={}", image(&stage, version)));
        stage.deploy("app --keep 2").exits(0);
    }
    let (project, mine) = (&stage.project, tags[1].clone());
    assert_eq!(stage.keepers(), ["2", "3"].map(|n| format!("compose-zd-keep-{project}--app-r{n}")));
    let kept = ["2", "3"].map(|n| format!("compose-zd/{project}--app:r{n}"));
    assert_eq!(stage.release_tags(), [vec![mine], kept.to_vec()].concat());
    stage.docker(&format!("inspect {neighbour} {}", tags[0]));
    stage.rollback("--to 1 --keep 2").exits(2).says("release 1 is").says("kept are 3, 2");
    goes_back(&stage, "--keep 2", "3", "2");
    goes_back(&stage, "--keep 2", "2", "3");
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
fn a_secret_is_in_no_output_and_in_no_file_but_those_of_releases_which_are_for_their_owner_alone() {
    let stage = Stage::scale("backsecret");
    // Not in the file, which the user wrote.
    stage.add("services: {app: {environment: {SECRET: '${SECRET}'}}}");
    stage.write("tmp/.keep", "");
    stage.set(&format!("SECRET={SECRET} TMPDIR={}", stage.path("tmp").display()));
    stage.up("--scale app=2");
    stage.deploy("app -v").exits(0).never_says(SECRET);
    stage.set("VERSION=2");
    stage.deploy("app -v").exits(0).never_says(SECRET);
    stage.rollback("-v").exits(0).never_says(SECRET);
    stage.set("VERSION=3 STATUS=503");
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

#[test]
fn a_release_is_put_back_although_the_compose_file_cannot_be_read() {
    let stage = two_releases(Stage::scale("backyaml"));
    stage.write("compose.yaml", "services: {app: [");
    goes_back(&stage, "", "2", "1");
    // The proxy's labels still tell where it is.
    stage.expect_release("app", 2, "1");
}

// What is left.

#[test]
fn compose_and_a_deploy_have_nothing_to_do_after_a_rollback_to_what_the_file_says() {
    let stage = two_releases(Stage::scale("backsame"));
    goes_back(&stage, "", "2", "1");
    stage.set("VERSION=1");
    let before = stage.containers();
    stage.deploy("app").exits(0).says("nothing has to change");
    assert_eq!(stage.containers(), before);
    stage.compose("up -d --scale app=2");
    assert_eq!(stage.containers(), before);
}

#[test]
fn a_deploy_after_a_rollback_is_rolled_back_to_what_that_put_in_place() {
    let stage = two_releases(Stage::scale("backthen"));
    goes_back(&stage, "", "2", "1");
    stage.set("VERSION=3");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "3"]);
    stage.expect_release("app", 2, "3");
    goes_back(&stage, "", "3", "1");
    stage.expect_release("app", 2, "1");
}

#[test]
fn a_deploy_that_fails_after_a_rollback_leaves_what_was_put_back() {
    let stage = two_releases(Stage::scale("backfail"));
    goes_back(&stage, "", "2", "1");
    let before = stage.containers();
    stage.set("VERSION=3 STATUS=503");
    let (ran, answers) = stage.deploy_under_load("", "app --health-deadline 3s");
    ran.exits(3).says("served before and still serve");
    answers.all_from(&["1"]);
    assert_eq!(stage.containers(), before);
    expect_nothing_left(&stage);
    // The one that failed is none to go back to.
    goes_back(&stage, "", "1", "2");
    stage.expect_release("app", 2, "2");
}

#[test]
fn a_rollback_ends_a_pause_with_one_release() {
    let stage = first_release(Stage::scale("backpause"));
    stage.set("VERSION=2");
    // The second batch fails: the first one serves on.
    stage.add("services: {app: {deploy: {update_config: {parallelism: 1, failure_action: pause}}}}");
    stage.set("STATUS=503");
    let load = stage.start_load("");
    stage.deploy("app --health-deadline 3s").exits(3).says("is paused");
    let ran = stage.rollback("");
    ran.exits(0);
    load.end().all_from(&["1"]);
    stage.expect_release("app", 2, "1");
    expect_nothing_left(&stage);
}

// Killed in between.

/// Kills a rollback from version 2 to 1 when it has said this; then goes on with this command.
fn is_killed(name: &str, line: &str, next: fn(&Stage)) -> Stage {
    let stage = two_releases(Stage::scale(name));
    let load = stage.start_load("");
    let mut rollback = stage.start_rollback("");
    rollback.wait_for(line);
    rollback.kill();
    stage.ask("/").expect("the service goes on");
    next(&stage);
    // Which version answers is told by the states.
    assert_eq!(load.end().lost(), 0);
    expect_nothing_left(&stage);
    stage
}

fn rolled_back(stage: &Stage) {
    stage.rollback("").exits(0);
}

fn rolled_back_by_name(stage: &Stage) {
    stage.rollback("app").exits(0);
}

fn deployed(stage: &Stage) {
    stage.set("VERSION=3");
    stage.deploy("app").exits(0);
}

/// The rollback that was killed did not happen, so that the next one undoes what there is of it.
#[test]
fn a_rollback_killed_after_its_creates_is_undone_by_the_next() {
    is_killed("backk1", "created app-", rolled_back).expect_release("app", 2, "2");
}

#[test]
fn a_rollback_killed_after_its_switch_is_undone_by_the_next() {
    is_killed("backk2", "in rotation: app-", rolled_back).expect_release("app", 2, "2");
}

#[test]
fn a_rollback_killed_after_its_stops_is_undone_by_the_next() {
    is_killed("backk3", "stopped app-", rolled_back).expect_release("app", 2, "2");
}

/// With a name it is the same.
#[test]
fn a_rollback_killed_after_its_starts_is_undone_by_one_of_its_service() {
    is_killed("backk6", "started app-", rolled_back_by_name).expect_release("app", 2, "2");
}

#[test]
fn a_rollback_killed_after_its_starts_is_followed_by_a_deploy() {
    is_killed("backk4", "started app-", deployed).expect_release("app", 2, "3");
}

#[test]
fn a_rollback_killed_after_its_switch_is_followed_by_a_deploy() {
    is_killed("backk5", "in rotation: app-", deployed).expect_release("app", 2, "3");
}
