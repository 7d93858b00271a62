//! One service: new instances beside the old, then the old go. What every proxy promises is in promises.rs.

use crate::load::Load;
use crate::test_project::TestProject;

/// Without this, a load that cannot see a loss would make every other test pass.
#[test]
fn the_same_deploy_by_compose_alone_loses_requests() {
    let stage = TestProject::nginx_proxy("control");
    stage.up("");
    stage.set_variables("VERSION=2 LISTEN_AFTER=1");
    let load = stage.start_load("");
    stage.compose("up -d");
    stage.wait_until_all_answer();
    assert_ne!(load.stop().lost(), 0);
}

/// Version `version` takes over from `before` while clients are there.
fn deploy_and_count_reloads(stage: &TestProject, before: &str, version: &str, words: &str) -> usize {
    let reloads = stage.reloads();
    stage.set_variables(&format!("VERSION={version}"));
    let (ran, answers) = stage.deploy_under_load("", words);
    ran.exits(0);
    answers.all_from(&[before, version]);
    stage.reloads() - reloads
}

#[test]
fn a_deploy_changes_only_the_version_and_the_number_of_instances() {
    let stage = TestProject::nginx_proxy("scale");
    stage.compose("up -d proxy");

    stage.log("--- a first deploy ends in service");
    stage.deploy("app --scale app=2").exits(0);
    stage.expect_release("app", 2, "1");
    stage.expect_version("1");

    stage.log("--- nothing happens where nothing changed");
    let before = stage.containers();
    stage.deploy("app").exits(0).says("nothing has to change");
    assert_eq!(stage.containers(), before);

    stage.log("--- a dry run prints the plan and changes nothing");
    stage.set_variables("VERSION=2");
    stage.deploy("app --dry-run").exits(0).says("plan for `app`").says("remove app-");
    assert_eq!((stage.containers(), stage.marks()), (before, String::new()));

    // Two, and a third where a busy host drives the events of one step apart by more than docker-gen waits.
    stage.log("--- without names it is what the proxy routes to, with few reloads");
    let reloads = deploy_and_count_reloads(&stage, "1", "2", "");
    assert!(reloads <= 3, "{reloads} reloads");
    stage.expect_release("app", 2, "2");

    stage.log("--- Compose has nothing to do after a deploy");
    let before = stage.containers();
    stage.compose("up -d --scale app=2");
    assert_eq!(stage.containers(), before);

    stage.log("--- `--force` replaces what has not changed");
    let before = stage.ids("app");
    let (ran, answers) = stage.deploy_under_load("", "app --force");
    ran.exits(0);
    answers.all_from(&["2"]);
    assert!(stage.ids("app").is_disjoint(&before));
    stage.expect_release("app", 2, "2");

    stage.log("--- more instances are added to those that stay");
    let before = stage.ids("app");
    let (ran, answers) = stage.deploy_under_load("", "app --scale app=3");
    ran.exits(0);
    answers.all_from(&["2"]);
    assert!(stage.ids("app").is_superset(&before));
    stage.expect_release("app", 3, "2");

    stage.log("--- as many run after a deploy as before");
    stage.set_variables("SLOW=1 STOP=abrupt");
    deploy_and_count_reloads(&stage, "2", "3", "app");
    stage.expect_release("app", 3, "3");

    stage.log("--- those that are too many are drained and removed");
    let before = stage.ids("app");
    let (ran, answers) = stage.deploy_under_load("", "app --scale app=1");
    ran.exits(0);
    answers.all_from(&["3"]);
    assert!(stage.ids("app").is_subset(&before));
    stage.expect_release("app", 1, "3");

    stage.log("--- the number that the file names is reached");
    stage.set_variables("SLOW=0");
    stage.write_override("services: {app: {deploy: {replicas: 2}}}");
    deploy_and_count_reloads(&stage, "3", "4", "app");
    stage.expect_release("app", 2, "4");
    let before = stage.containers();
    stage.compose("up -d");
    assert_eq!(stage.containers(), before);
}

/// nginx before 1.27.4 cuts kept connections at a reload, so none more than needed.
#[test]
fn a_proxy_is_reloaded_only_when_needed() {
    let stage = TestProject::nginx_proxy("reloads");
    stage.set_variables("VIRTUAL_HOST=a.reloads.test,b.reloads.test");
    stage.up("--scale app=2");
    assert!(deploy_and_count_reloads(&stage, "1", "2", "app") <= 4, "by the first deploy");
    stage.wait_until_all_answer();

    stage.log(
        "--- one that may not be changed later needs no change then; every host name of a service moves",
    );
    stage.write_override("services: {app: {x-zd: {proxy: {tune: false}}}}");
    stage.set_variables("VERSION=3");
    let loads = ["a", "b"].map(|h| Load::start(&stage, &stage.url(), &format!("{h}.reloads.test"), ""));
    let reloads = stage.reloads();
    stage.deploy("app").exits(0);
    for load in loads {
        load.stop().all_from(&["2", "3"]);
    }
    assert!(stage.reloads() - reloads <= 3, "by the second deploy");
    stage.expect_release("app", 2, "3");
}

#[test]
fn instances_are_replaced_in_batches_and_stop_first_as_configured() {
    let stage = TestProject::nginx_proxy("batches");
    stage.write_override("services: {app: {deploy: {update_config: {parallelism: 1, order: stop-first}}}}");
    stage.set_variables("SLOW=0.5 STOP=abrupt");
    stage.up("--scale app=2");
    let order = |words: &str| {
        let (ran, answers) = stage.deploy_under_load("", words);
        ran.exits(0);
        let said = ran.stderr.lines().filter_map(|l| l.split_whitespace().nth(1).map(String::from));
        (said.filter(|w| ["created", "stopped"].contains(&w.as_str())).collect::<Vec<_>>().join(" "), answers)
    };
    stage.set_variables("VERSION=2");
    let (said, answers) = order("app");
    assert_eq!(said, "stopped created stopped created");
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 2, "2");
    stage.set_variables("VERSION=3");
    let (said, answers) = order("app --update-order start-first");
    assert_eq!(said, "created stopped created stopped");
    answers.all_from(&["2", "3"]);
    stage.expect_release("app", 2, "3");
}
