//! What is special about Caddy: its switch, put in by the first deploy, and what its configuration needs.

use crate::test_project::TestProject;

/// An upstream an instance.
fn caddy(name: &str) -> TestProject {
    let stage = TestProject::from_fixture(name, "caddy", &["Caddyfile.dynamic"]);
    stage.write("Caddyfile", &stage.read("Caddyfile.dynamic"));
    stage
}

/// The files that turn a switch, or say that it goes.
fn switch_files(stage: &TestProject) -> String {
    stage.exec_in_proxy(&["sh", "-c", "cd /dev/shm/compose-zd && ls -d */on */switched */once 2>/dev/null"])
}

fn configuration(stage: &TestProject) -> String {
    stage.exec_in_proxy(&["wget", "-q", "-O", "-", "http://127.0.0.1:2019/config/"])
}

/// A configuration that does not do, with what is said of it; nothing is changed by it.
fn expect_refusal(name: &str, from: &str, to: &str, said: &str) {
    let stage = caddy(name);
    let written = stage.read("Caddyfile");
    assert!(written.contains(from));
    stage.write("Caddyfile", &written.replace(from, &to.replace("PROJECT", &stage.name)));
    stage.up("");
    let (before, config) = (stage.containers(), configuration(&stage));
    stage.set_variables("VERSION=2");
    stage.deploy("app").exits(1).says(said).says("hint: ");
    assert_eq!((stage.containers(), configuration(&stage)), (before, config));
}

#[test]
fn a_lacking_caddy_configuration_is_reported_before_any_change() {
    expect_refusal("cdoff", ":80 {", "{\n admin off\n}\n:80 {", "its admin API does not answer");
    expect_refusal("cdone", "dynamic a app", "dynamic a PROJECT-app-1", "a single instance that the deploy replaces");
}

/// No client of the later deploys loses its connection, although it never closes it; a set that grows and shrinks by one
/// instance at a time is one more turn of the switch each.
#[test]
fn later_deploys_behind_caddy_need_no_reload() {
    let stage = caddy("cdstays");
    stage.up("--scale app=2");
    stage.set_variables("VERSION=2");
    stage.deploy("app").exits(0).says("by one reload");
    let config = configuration(&stage);
    let load = "--keep-alive --method POST --body 500";
    for (before, version, words) in [("2", "3", "app"), ("3", "4", "app --update-parallelism 1")] {
        stage.set_variables(&format!("VERSION={version} WARMUP=1"));
        let (ran, answers) = stage.deploy_under_load(load, words);
        ran.exits(0).never_says("by one reload");
        answers.all_from(&[before, version]);
        stage.expect_release("app", 2, version);
        assert_eq!((configuration(&stage), switch_files(&stage)), (config.clone(), String::new()));
    }
}

#[test]
fn without_tuning_the_caddy_configuration_is_restored() {
    let stage = caddy("cdgoes");
    stage.write_override("services: { app: { x-zd: { proxy: { tune: false } } } }");
    stage.up("");
    let before = configuration(&stage);
    stage.set_variables("VERSION=2");
    stage.deploy("app").exits(0).says("`x-zd.proxy.tune: false`");
    stage.expect_release("app", 1, "2");
    assert_eq!((configuration(&stage), switch_files(&stage)), (before, String::new()));
}

/// What is lost is the price of that reload, so it is not counted.
#[test]
fn a_foreign_caddy_reload_during_a_deploy_loses_no_request() {
    let stage = caddy("cdreload");
    stage.up("");
    let before = configuration(&stage);
    stage.set_variables("VERSION=2 WARMUP=2");
    let mut deploy = stage.start_deploy("app");
    deploy.wait_for("started app-");
    stage.exec_in_proxy(&["caddy", "reload", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]);
    deploy.wait().exits(0);
    stage.expect_release("app", 1, "2");
    assert_eq!((configuration(&stage), switch_files(&stage)), (before, String::new()));
}

/// Blue and green, both named in one line; between deploys Caddy has to try the other one where a side is down.
#[test]
fn the_sides_of_a_pair_switch_behind_caddy() {
    let stage = caddy("cdpair");
    let both = "reverse_proxy app_a:3000 app_b:3000 {\n\t\tlb_try_duration 5s\n\t}";
    stage.write("Caddyfile", &format!(":80 {{\n\t{both}\n}}\n"));
    let app = stage.read("compose.yaml");
    let sides =
        app.replace("  app:\n", "  app_a: &app\n").replace("\n  proxy:\n", "\n  app_b: *app\n\n  proxy:\n");
    stage.write("compose.yaml", &sides);
    stage.up("app_a proxy");
    stage.set_variables("VERSION=2");
    stage.deploy("app").exits(0).says("by one reload");
    let load = stage.start_load("");
    for (version, side) in [("3", "app_a"), ("4", "app_b")] {
        stage.set_variables(&format!("VERSION={version}"));
        stage.deploy("app").exits(0).never_says("by one reload");
        assert_eq!(stage.states(side), [format!("running {version}")]);
    }
    load.stop().all_from(&["2", "3", "4"]);
    assert_eq!(switch_files(&stage), "");
}
