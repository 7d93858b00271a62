//! Apache httpd with a configuration of the user's own: its modules and users, several instances, what a killed deploy leaves,
//! and configurations that are refused.

use std::time::Duration;

use crate::nginx::pins;
use crate::test_project::{TestProject, WAIT_LIMIT, wait_until};

/// Number of graceful restarts.
fn restarts(project: &TestProject) -> usize {
    project.proxy_log().to_lowercase().matches("graceful restart").count()
}

fn deploys_without_a_loss(project: &TestProject, load: &str, from: &str, to: &str) {
    project.set_variables(&format!("VERSION={to} STOP=abrupt LISTEN_AFTER=1"));
    let (result, answers) = project.deploy_under_load(load, "app");
    result.exits(0).says(&format!("Apache `{}-proxy-1`", project.name));
    answers.all_from(&[from, to]);
    project.expect_version(to);
    assert_eq!(pins(project), "", "left in the proxy");
}

#[test]
fn several_instances_are_switched_by_one_restart_whose_price_is_reported() {
    let project = TestProject::apache("apmany");
    // Each process of Apache sends all its requests to one instance.
    project.compose("up -d --scale app=3");
    wait_until("the app is served", WAIT_LIMIT, || project.get("/health").is_some_and(|r| r.status == 200));
    project.start("check app").wait().exits(1).says("`mpm_event`").says("disablereuse=on");
    deploys_without_a_loss(&project, "", "1", "2");
    assert_eq!(restarts(&project), 1);
    let load = project.start_load("");
    project.rollback("").exits(0);
    load.stop().all_from(&["2", "1"]);
}

#[test]
fn a_name_that_is_looked_up_for_each_request_is_switched_without_a_restart() {
    let project = TestProject::apache("aplookup");
    project.set_variables("DISABLEREUSE=on");
    project.up("--scale app=2");
    project.start("check app").wait().exits(0);
    deploys_without_a_loss(&project, "--keep-alive --method POST --body 500", "1", "2");
    assert_eq!(restarts(&project), 0);
}

/// prefork starts its new processes one by one, so a loaded machine answers late for longer than the witness waits.
#[test]
fn retired_processes_of_prefork_keep_idle_clients() {
    let project = TestProject::apache("apfork");
    project.set_variables("MPM=prefork");
    project.write_override("services: { app: {} }\nx-zd: { witness: false }\n");
    project.up("");
    deploys_without_a_loss(&project, "--keep-alive --method POST --body 500 --think 20ms", "1", "2");
    assert_eq!(restarts(&project), 1);
}

/// The first is refused a write to its hosts file, the second may write it only as root.
#[test]
fn a_read_only_apache_and_one_without_root_are_switched() {
    for (name, settings, port) in
        [("apro", "read_only: true, tmpfs: [/tmp]", 80), ("apuser", "user: www-data", 8080)]
    {
        let project = TestProject::apache(name);
        let own = project.read("httpd.conf").replace("Listen 80", &format!("Listen {port}"));
        let own = own.replace("*:80", &format!("*:{port}")).replace("logs/httpd.pid", "/tmp/httpd.pid");
        project.write("httpd.conf", &format!("{own}\nDefaultRuntimeDir /tmp\n"));
        project.write_override(&format!(
            "services: {{ proxy: {{ {settings}, ports: !override ['127.0.0.1:${{PROXY_PORT}}:{port}'] }} }}"
        ));
        project.set_variables("MPM=worker");
        project.up("");
        deploys_without_a_loss(&project, "--method POST --body 500", "1", "2");
        assert_eq!(restarts(&project), 1);
    }
}

/// Compose gives the service other addresses, and the children of Apache keep the old one.
#[test]
fn compose_after_a_killed_deploy_serves_again() {
    let project = TestProject::apache("apkill");
    project.set_variables("STOP=abrupt");
    project.up("");
    for (version, line) in
        [("2", "created app-"), ("3", "started app-"), ("4", "in rotation: app-"), ("5", "stopped app-")]
    {
        project.log(&format!("--- killed after `{line}`"));
        project.set_variables(&format!("VERSION={version}"));
        let mut deploy = project.start_deploy("app");
        deploy.wait_for(line);
        deploy.kill();
        project.compose("up -d");
        // A request to an address that is gone is never answered.
        let reply = || project.get_within(Duration::from_secs(2), &project.host(), "/");
        let serves = || reply().is_some_and(|reply| reply.status == 200 && reply.version == version);
        wait_until("the new version is served", WAIT_LIMIT, serves);
    }
    project.start("recover").wait().exits(0);
    assert_eq!(pins(&project), "", "left in the proxy");
    project.expect_release("app", 1, "5");
}

#[test]
fn a_configuration_that_cannot_be_switched_is_refused_before_any_change() {
    let project = TestProject::apache("apbad");
    project.up("");
    let good = project.read("httpd.conf");
    let before = project.containers();
    let refuses = |configuration: String, why: &str| {
        project.write("httpd.conf", &configuration);
        project.set_variables("VERSION=2");
        project.deploy("app").exits(1).says(why).says("--proxy-kind none");
        project.set_variables("VERSION=1");
        assert_eq!((project.containers(), pins(&project)), (before.clone(), String::new()));
        project.expect_version("1");
    };
    refuses(format!("{good}\nNonsense\n"), "Invalid command 'Nonsense'");
    refuses(good.replace("//app:", "//zde2e-apbad-app-1:"), "a single instance that the deploy replaces");
}

/// httpd is also the image of many a site, and php:apache of many an app.
#[test]
fn an_apache_that_serves_files_is_no_proxy() {
    let project = TestProject::apache("apfiles");
    project.write_override(
        "services: { site: { image: '${HTTPD_IMAGE}', environment: { API_URL: 'http://app:3000' } } }",
    );
    project.up("");
    project.set_variables("VERSION=2");
    project.deploy("app").exits(0).says("behind Apache `zde2e-apfiles-proxy-1`").never_says("site");
    project.expect_release("app", 1, "2");
}
