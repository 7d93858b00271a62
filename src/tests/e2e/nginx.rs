//! Plain nginx with a configuration of the user's own: its versions and users, what a killed deploy leaves, and
//! configurations that are refused.

use std::time::Duration;

use crate::test_project::{TestProject, WAIT_LIMIT, wait_until};

/// Pins in the hosts file of the proxy's container.
pub fn pins(project: &TestProject) -> String {
    project.exec_in_proxy(&["sh", "-c", "grep compose-zd /etc/hosts"])
}

fn deploys_without_a_loss(project: &TestProject, from: &str, to: &str) {
    project.set_variables(&format!("VERSION={to} STOP=abrupt LISTEN_AFTER=1"));
    let (result, answers) = project.deploy_under_load("--method POST --body 500", "app");
    result.exits(0).says(&format!("nginx `{}-proxy-1`", project.name));
    answers.all_from(&[from, to]);
    let count = project.states("app").len();
    project.expect_release("app", count, to);
    assert_eq!(pins(project), "", "left in the proxy");
}

#[test]
fn an_older_nginx_loses_no_request_and_reports_the_price_of_its_reload() {
    let project = TestProject::nginx("ngold");
    project.set_variables(&format!("NGINX_IMAGE={}", project.variable("NGINX_OLD_IMAGE")));
    project.up("--scale app=2");
    let before = project.reloads();
    project.start("check app").wait().exits(1).says("older than 1.27.4");
    deploys_without_a_loss(&project, "1", "2");
    assert_eq!(project.reloads() - before, 1, "reloads");
    let load = project.start_load("");
    project.rollback("").exits(0);
    load.stop().all_from(&["2", "1"]);
}

#[test]
fn clients_with_kept_connections_lose_no_request_at_later_deploys() {
    let project = TestProject::nginx("ngkept");
    project.up("");
    project.set_variables("VERSION=2");
    project.deploy("app").exits(0).says("set `keepalive_min_timeout 5s`");
    project.set_variables("VERSION=3");
    let kinds = ["", "--method POST --body 2000", "--method POST --body 100 --think 1s"];
    let loads = kinds.map(|words| project.start_load(&format!("--keep-alive --clients 4 {words}")));
    project.deploy("app").exits(0).never_says("keepalive_min_timeout");
    for load in loads {
        load.stop().all_from(&["2", "3"]);
    }
}

/// The first is refused a write to its hosts file, the second may write it only as root.
#[test]
fn a_read_only_nginx_and_one_without_root_are_switched() {
    for (name, settings, port) in
        [("ngro", "read_only: true, tmpfs: [/tmp]", 80), ("nguser", "user: www-data", 8080)]
    {
        let project = TestProject::nginx(name);
        let listen = project.read("default.conf").replace("listen 80", &format!("listen {port}"));
        project.write("default.conf", &listen);
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = temporary.map(|name| format!("    {name}_temp_path /tmp/{name};\n")).concat();
        let main = format!(
            "pid /tmp/nginx.pid;\nerror_log /dev/stderr notice;\nevents {{}}\nhttp {{\n    access_log off;\n{temporary}    \
             include /etc/nginx/conf.d/*.conf;\n}}\n"
        );
        project.write("nginx.conf", &main);
        project.write_override(&format!(
            "services: {{ proxy: {{ {settings}, volumes: ['./nginx.conf:/etc/nginx/nginx.conf:ro'], \
             ports: !override ['127.0.0.1:${{PROXY_PORT}}:{port}'] }} }}"
        ));
        project.up("");
        deploys_without_a_loss(&project, "1", "2");
    }
}

/// Compose gives the service other addresses, and nginx does not resolve its name again by itself.
#[test]
fn compose_after_a_killed_deploy_serves_again() {
    let project = TestProject::nginx("ngkill");
    project.set_variables("STOP=abrupt");
    project.up("");
    project.set_variables("VERSION=2");
    // The first address of the network is free from here on, and Compose gives it to the next container.
    project.deploy("app").exits(0);
    let lines = ["", "created app-", "started app-", "in rotation: app-", "stopped app-"];
    for (n, line) in lines.into_iter().enumerate() {
        let version = &(n + 3).to_string();
        project.log(&format!("--- killed after `{line}`"));
        project.set_variables(&format!("VERSION={version}"));
        let mut deploy = project.start_deploy("app");
        // Before it has read or changed anything.
        deploy.wait_for_child();
        deploy.wait_for(line);
        deploy.kill();
        project.compose("up -d");
        // A request to an address that is gone is never answered.
        let reply = || project.get_within(Duration::from_secs(2), &project.host(), "/");
        let serves = || reply().is_some_and(|reply| reply.status == 200 && reply.version == *version);
        wait_until("the new version is served", WAIT_LIMIT, serves);
    }
    project.start("recover").wait().exits(0);
    assert_eq!(pins(&project), "", "left in the proxy");
    project.expect_release("app", 1, "7");

    project.log("--- recreated without compose-zd; the next deploy has nothing to change");
    project.set_variables("VERSION=8");
    project.deploy("app").exits(0);
    if project.address("app").ends_with(".2") {
        // Compose would give it the same address again.
        project.set_variables("VERSION=9");
        project.deploy("app").exits(0);
    }
    project.set_variables("VERSION=10");
    project.compose("up -d");
    assert!(project.get_within(Duration::from_secs(2), &project.host(), "/").is_none_or(|r| r.status != 200));
    project.deploy("app").exits(0).says("nothing has to change");
    project.expect_release("app", 1, "10");
    assert_eq!(pins(&project), "", "left in the proxy");
}

#[test]
fn a_configuration_that_cannot_be_switched_is_refused_before_any_change() {
    let project = TestProject::nginx("ngbad");
    project.up("");
    let good = project.read("default.conf");
    let before = project.containers();
    let refuses = |configuration: String, why: &str| {
        project.write("default.conf", &configuration);
        project.set_variables("VERSION=2");
        project.deploy("app").exits(1).says(why).says("--proxy-kind none");
        project.set_variables("VERSION=1");
        assert_eq!((project.containers(), pins(&project)), (before.clone(), String::new()));
        project.expect_version("1");
    };
    refuses(format!("{good}\nnonsense;\n"), "unknown directive \"nonsense\"");
    let dynamic = "resolver 127.0.0.11 valid=5s;\n        set $up app;\n        proxy_pass http://$up:3000";
    refuses(
        good.replace("upstream app", "upstream unused").replace("proxy_pass http://app", dynamic),
        "by its `resolver`",
    );
    refuses(
        good.replace("server app:3000", "server zde2e-ngbad-app-1:3000"),
        "a single instance that the deploy replaces",
    );
}

/// nginx is also the image of many a site.
#[test]
fn an_nginx_that_serves_files_is_no_proxy() {
    let project = TestProject::nginx("ngfiles");
    project.write_override(
        "services: { site: { image: '${NGINX_IMAGE}', environment: { API_URL: 'http://app:3000' } } }",
    );
    project.up("");
    project.set_variables("VERSION=2");
    project.deploy("app").exits(0).says("behind nginx `zde2e-ngfiles-proxy-1`").never_says("site");
    project.expect_release("app", 1, "2");
}
