//! Caddy: the switch that the first deploy adds, and the requirements on its configuration.

use crate::test_project::TestProject;

/// A project behind Caddy with one upstream per instance.
fn caddy(name: &str) -> TestProject {
    let project = TestProject::from_fixture(name, "caddy", &["Caddyfile.dynamic"]);
    project.write("Caddyfile", &project.read("Caddyfile.dynamic"));
    project
}

/// Files that control a switch, or mark the switch for removal.
fn switch_files(project: &TestProject) -> String {
    project.exec_in_proxy(&["sh", "-c", "cd /dev/shm/compose-zd && ls -d */on */switched */once 2>/dev/null"])
}

fn configuration(project: &TestProject) -> String {
    project.exec_in_proxy(&["wget", "-q", "-O", "-", "http://127.0.0.1:2019/config/"])
}

/// Asserts that an edited configuration is refused with this message, and that nothing changes.
fn expect_refusal(name: &str, from: &str, to: &str, output: &str) {
    let project = caddy(name);
    let written = project.read("Caddyfile");
    assert!(written.contains(from));
    project.write("Caddyfile", &written.replace(from, &to.replace("PROJECT", &project.name)));
    project.up("");
    let (before, config) = (project.containers(), configuration(&project));
    project.set_variables("VERSION=2");
    project.deploy("app").exits(1).says(output).says("hint: ");
    assert_eq!((project.containers(), configuration(&project)), (before, config));
}

#[test]
fn an_insufficient_caddy_configuration_is_reported_before_any_change() {
    expect_refusal("cdoff", ":80 {", "{\n admin off\n}\n:80 {", "its admin API does not answer");
    expect_refusal(
        "cdone",
        "dynamic a app",
        "dynamic a PROJECT-app-1",
        "a single instance that the deploy replaces",
    );
}

/// Clients that keep their connections lose no request, if all instances are replaced at once or one by one.
#[test]
fn later_deploys_behind_caddy_need_no_reload() {
    let project = caddy("cdstays");
    project.up("--scale app=2");
    project.set_variables("VERSION=2");
    project.deploy("app").exits(0).says("by one reload");
    let config = configuration(&project);
    let load = "--keep-alive --method POST --body 500";
    for (before, version, words) in [("2", "3", "app"), ("3", "4", "app --update-parallelism 1")] {
        project.set_variables(&format!("VERSION={version} WARMUP=1"));
        let (result, answers) = project.deploy_under_load(load, words);
        result.exits(0).never_says("by one reload");
        answers.all_from(&[before, version]);
        project.expect_release("app", 2, version);
        assert_eq!((configuration(&project), switch_files(&project)), (config.clone(), String::new()));
    }
}

#[test]
fn without_tuning_the_caddy_configuration_is_restored() {
    let project = caddy("cdgoes");
    project.write_override("services: { app: { x-zd: { proxy: { tune: false } } } }");
    project.up("");
    let before = configuration(&project);
    project.set_variables("VERSION=2");
    project.deploy("app").exits(0).says("`x-zd.proxy.tune: false`");
    project.expect_release("app", 1, "2");
    assert_eq!((configuration(&project), switch_files(&project)), (before, String::new()));
}

/// The foreign reload itself may lose requests, so losses are not counted.
#[test]
fn a_foreign_caddy_reload_does_not_break_a_deploy() {
    let project = caddy("cdreload");
    project.up("");
    let before = configuration(&project);
    project.set_variables("VERSION=2 WARMUP=2");
    let mut deploy = project.start_deploy("app");
    deploy.wait_for("started app-");
    project.exec_in_proxy(&["caddy", "reload", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]);
    deploy.wait().exits(0);
    project.expect_release("app", 1, "2");
    assert_eq!((configuration(&project), switch_files(&project)), (before, String::new()));
}

/// One line names both sides. Between deploys, Caddy must try the other side if one is down.
#[test]
fn the_sides_of_a_pair_switch_behind_caddy() {
    let project = caddy("cdpair");
    let both = "reverse_proxy app_a:3000 app_b:3000 {\n\t\tlb_try_duration 5s\n\t}";
    project.write("Caddyfile", &format!(":80 {{\n\t{both}\n}}\n"));
    let app = project.read("compose.yaml");
    let sides =
        app.replace("  app:\n", "  app_a: &app\n").replace("\n  proxy:\n", "\n  app_b: *app\n\n  proxy:\n");
    project.write("compose.yaml", &sides);
    project.up("app_a proxy");
    project.set_variables("VERSION=2");
    project.deploy("app").exits(0).says("by one reload");
    let load = project.start_load("");
    for (version, side) in [("3", "app_a"), ("4", "app_b")] {
        project.set_variables(&format!("VERSION={version}"));
        project.deploy("app").exits(0).never_says("by one reload");
        assert_eq!(project.states(side), [format!("running {version}")]);
    }
    load.stop().all_from(&["2", "3", "4"]);
    assert_eq!(switch_files(&project), "");
}
