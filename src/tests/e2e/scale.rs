//! One service with new instances beside the old ones. `promises.rs` tests the promises behind every proxy.

use crate::load::Load;
use crate::test_project::TestProject;

/// Control test: a load generator that never sees a loss would make every other test pass.
#[test]
fn the_same_deploy_by_compose_alone_loses_requests() {
    let project = TestProject::nginx_proxy("control");
    project.up("");
    project.set_variables("VERSION=2 LISTEN_AFTER=1");
    let load = project.start_load("");
    project.compose("up -d");
    project.wait_until_all_answer();
    assert_ne!(load.stop().lost(), 0);
}

/// Deploys a version under load, and returns the number of reloads of the proxy.
fn deploy_and_count_reloads(project: &TestProject, before: &str, version: &str, words: &str) -> usize {
    let reloads = project.reloads();
    project.set_variables(&format!("VERSION={version}"));
    let (result, answers) = project.deploy_under_load("", words);
    result.exits(0);
    answers.all_from(&[before, version]);
    project.reloads() - reloads
}

#[test]
fn a_deploy_changes_only_the_version_and_the_number_of_instances() {
    let project = TestProject::nginx_proxy("scale");
    project.compose("up -d proxy");

    project.log("--- a first deploy ends in service");
    project.deploy("app --scale app=2").exits(0);
    project.expect_release("app", 2, "1");
    project.expect_version("1");

    project.log("--- an unchanged service is not deployed");
    let before = project.containers();
    project.deploy("app").exits(0).says("nothing has to change");
    assert_eq!(project.containers(), before);

    project.log("--- a dry run prints the plan and changes nothing");
    project.set_variables("VERSION=2");
    project.deploy("app --dry-run").exits(0).says("plan for `app`").says("remove app-");
    assert_eq!((project.containers(), project.marks()), (before, String::new()));

    // Two reloads; a third on a busy host, if the events of one step come further apart than docker-gen waits.
    project.log("--- without names the services behind the proxy are deployed, with few reloads");
    let reloads = deploy_and_count_reloads(&project, "1", "2", "");
    assert!(reloads <= 3, "{reloads} reloads");
    project.expect_release("app", 2, "2");

    project.log("--- Compose has nothing to do after a deploy");
    let before = project.containers();
    project.compose("up -d --scale app=2");
    assert_eq!(project.containers(), before);

    project.log("--- `--force` replaces unchanged instances");
    let before = project.ids("app");
    let (result, answers) = project.deploy_under_load("", "app --force");
    result.exits(0);
    answers.all_from(&["2"]);
    assert!(project.ids("app").is_disjoint(&before));
    project.expect_release("app", 2, "2");

    project.log("--- scaling up keeps the running instances");
    let before = project.ids("app");
    let (result, answers) = project.deploy_under_load("", "app --scale app=3");
    result.exits(0);
    answers.all_from(&["2"]);
    assert!(project.ids("app").is_superset(&before));
    project.expect_release("app", 3, "2");

    project.log("--- a deploy keeps the number of instances");
    project.set_variables("SLOW=1 STOP=abrupt");
    deploy_and_count_reloads(&project, "2", "3", "app");
    project.expect_release("app", 3, "3");

    project.log("--- surplus instances are drained and removed");
    let before = project.ids("app");
    let (result, answers) = project.deploy_under_load("", "app --scale app=1");
    result.exits(0);
    answers.all_from(&["3"]);
    assert!(project.ids("app").is_subset(&before));
    project.expect_release("app", 1, "3");

    project.log("--- the number that the file names is reached");
    project.set_variables("SLOW=0");
    project.write_override("services: {app: {deploy: {replicas: 2}}}");
    deploy_and_count_reloads(&project, "3", "4", "app");
    project.expect_release("app", 2, "4");
    let before = project.containers();
    project.compose("up -d");
    assert_eq!(project.containers(), before);
}

/// nginx before 1.27.4 cuts kept connections at a reload, so reloads must be few.
#[test]
fn a_proxy_is_reloaded_only_when_needed() {
    let project = TestProject::nginx_proxy("reloads");
    project.set_variables("VIRTUAL_HOST=a.reloads.test,b.reloads.test");
    project.up("--scale app=2");
    assert!(deploy_and_count_reloads(&project, "1", "2", "app") <= 4, "by the first deploy");
    project.wait_until_all_answer();

    project.log(
        "--- one that may not be changed later needs no change then; every host name of a service moves",
    );
    project.write_override("services: {app: {x-zd: {proxy: {tune: false}}}}");
    project.set_variables("VERSION=3");
    let loads = ["a", "b"].map(|h| Load::start(&project, &project.url(), &format!("{h}.reloads.test"), ""));
    let reloads = project.reloads();
    project.deploy("app").exits(0);
    for load in loads {
        load.stop().all_from(&["2", "3"]);
    }
    assert!(project.reloads() - reloads <= 3, "by the second deploy");
    project.expect_release("app", 2, "3");
}

#[test]
fn instances_are_replaced_in_batches_and_stop_first_as_configured() {
    let project = TestProject::nginx_proxy("batches");
    project.write_override("services: {app: {deploy: {update_config: {parallelism: 1, order: stop-first}}}}");
    project.set_variables("SLOW=0.5 STOP=abrupt");
    project.up("--scale app=2");
    let order = |words: &str| {
        let (result, answers) = project.deploy_under_load("", words);
        result.exits(0);
        let output = result.stderr.lines().filter_map(|l| l.split_whitespace().nth(1).map(String::from));
        (
            output.filter(|w| ["created", "stopped"].contains(&w.as_str())).collect::<Vec<_>>().join(" "),
            answers,
        )
    };
    project.set_variables("VERSION=2");
    let (output, answers) = order("app");
    assert_eq!(output, "stopped created stopped created");
    answers.all_from(&["1", "2"]);
    project.expect_release("app", 2, "2");
    project.set_variables("VERSION=3");
    let (output, answers) = order("app --update-order start-first");
    assert_eq!(output, "created stopped created stopped");
    answers.all_from(&["2", "3"]);
    project.expect_release("app", 2, "3");
}
