//! Edits of a project that fail in `up`: everything is as before, and no request is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};

use serde_json::{Value, json};

use crate::load::Load;
use crate::test_project::TestProject;

/// A proxy, two web services, a worker, a database and a job.
const PROJECT: &str = "
x-app: &app
  image: ${ZD_APP_IMAGE}
  restart: unless-stopped
  deploy: {update_config: {monitor: 1s, failure_action: rollback}}
  x-zd: {health: {deadline: 2s}}
services:
  proxy:
    <<: *app
    image: ${NGINX_IMAGE}
    depends_on: [shop, api]
    ports: ['127.0.0.1:${PROXY_PORT}:80']
    volumes: ['./default.conf:/etc/nginx/conf.d/default.conf:ro']
  shop:
    <<: *app
    environment: {VERSION: '1'}
    depends_on: {migrate: {condition: service_completed_successfully}}
  api: {<<: *app, environment: {VERSION: '1'}, depends_on: [db]}
  worker: {<<: *app, environment: {VERSION: '1'}, depends_on: [db]}
  db: {<<: *app, environment: {VERSION: '1'}, volumes: ['data:/var/lib/mysql']}
  migrate:
    image: ${ZD_APP_IMAGE}
    environment: {EXIT_AFTER: '0.1', EXIT_CODE: '0'}
    depends_on: [db]
volumes: {data: {}}
";

const ROUTES: &str = "
upstream shop { server shop:3000; }
upstream api { server api:3000; }
server {
    listen 80;
    location / { proxy_pass http://shop; }
    location /api/ { proxy_pass http://api; }
}
";

/// An edit that fails.
struct Failure {
    name: &'static str,
    /// Override file. `TAKEN` is a port that another program has.
    edit: &'static str,
    /// Line at the end of the proxy's file.
    route: &'static str,
    words: &'static str,
    code: i32,
    says: &'static [&'static str],
    /// Services that were recreated twice: their containers are other ones, with the definition from before.
    recreated: &'static [&'static str],
}

const FAILURE: Failure =
    Failure { name: "", edit: "", route: "", words: "", code: 3, says: &[], recreated: &[] };

const FAILURES: [Failure; 13] = [
    Failure {
        name: "a web service that never gets ready",
        edit: "services: {shop: {environment: {VERSION: '2', WARMUP: '99'}}, api: {environment: {VERSION: '2'}}}",
        says: &["`shop`: ", "503"],
        ..FAILURE
    },
    Failure {
        name: "a web service that crashes before it is ready",
        edit: "services: {shop: {environment: {VERSION: '2'}}, \
            api: {environment: {VERSION: '2', LISTEN_AFTER: '9', EXIT_AFTER: '0.3'}}}",
        says: &["`api`: ", "fatal: cannot reach the database"],
        ..FAILURE
    },
    Failure {
        name: "a worker that crashes",
        edit: "services: {shop: {environment: {VERSION: '2'}}, worker: {environment: {EXIT_AFTER: '0.1', EXIT_CODE: '9'}}}",
        says: &["`worker`: ", "fatal: cannot reach the database"],
        ..FAILURE
    },
    Failure {
        name: "a database that crashes",
        edit: "services: {shop: {environment: {VERSION: '2'}}, db: {environment: {EXIT_AFTER: '0.1', EXIT_CODE: '9'}}}",
        words: "--yes",
        says: &["`db`", "undone", "fatal: cannot reach the database"],
        recreated: &["db"],
        ..FAILURE
    },
    Failure {
        name: "a web service after a database that was recreated",
        edit: "services: {shop: {environment: {LISTEN_AFTER: '9', EXIT_AFTER: '0.1'}}, db: {environment: {VERSION: '2'}}}",
        words: "--yes",
        says: &["`shop`", "undone"],
        recreated: &["db"],
        ..FAILURE
    },
    Failure {
        name: "a job that fails",
        edit: "services: {shop: {environment: {VERSION: '2'}}, migrate: {environment: {EXIT_CODE: '7'}}}",
        code: 1,
        says: &["`migrate`", "nothing was changed"],
        ..FAILURE
    },
    Failure {
        name: "a port that is taken",
        edit: "services: {shop: {environment: {VERSION: '2'}}, \
            extra: {image: '${ZD_APP_IMAGE}', ports: ['127.0.0.1:TAKEN:3000']}}",
        says: &["extra", "undone", "address already in use"],
        ..FAILURE
    },
    Failure {
        name: "a service that is added after the rollout and crashes",
        edit: "services: {shop: {environment: {VERSION: '2'}}, \
            extra: {image: '${ZD_APP_IMAGE}', environment: {EXIT_AFTER: '0.1'}, depends_on: [shop]}}",
        says: &["`extra`", "undone, with new containers of the former `shop`"],
        recreated: &["shop"],
        ..FAILURE
    },
    Failure {
        name: "an image that does not exist",
        edit: "services: {shop: {image: 'localhost/compose-zd-missing:1'}, api: {environment: {VERSION: '2'}}}",
        code: 1,
        says: &["shop", "nothing was changed"],
        ..FAILURE
    },
    Failure {
        name: "a file that the proxy refuses",
        edit: "services: {shop: {environment: {VERSION: '2'}}}",
        route: "nonsense;",
        code: 1,
        says: &["refuses its changed files", "unknown directive \"nonsense\""],
        ..FAILURE
    },
    Failure {
        name: "a volume with another definition",
        edit: "services: {shop: {environment: {VERSION: '2'}}}\nvolumes: {data: {labels: {edition: '2'}}}",
        words: "--yes",
        code: 1,
        says: &["_data", "without its data"],
        ..FAILURE
    },
    Failure {
        name: "a file that is no Compose file",
        edit: "services: {shop: {imagee: nothing}}",
        code: 2,
        says: &["imagee"],
        ..FAILURE
    },
    Failure {
        name: "a mount of a folder that cannot exist",
        edit: "services: {shop: {environment: {VERSION: '2'}, volumes: ['./compose.yaml/folder:/data']}}",
        says: &["shop", "not a directory"],
        ..FAILURE
    },
];

/// Id, configuration hash and state of each container, by service. Jobs have ended.
type Containers = BTreeMap<String, Vec<[String; 3]>>;

fn containers(project: &TestProject) -> Containers {
    let its = json!({"label": [format!("com.docker.compose.project={}", project.name)]});
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let mut all = Containers::new();
    for container in project.api().containers(&its) {
        let label = |key: &str| text(&container["Config"]["Labels"][format!("com.docker.compose.{key}")]);
        let facts = [text(&container["Id"]), label("config-hash"), text(&container["State"]["Status"])];
        all.entry(label("service")).or_default().push(facts);
    }
    all
}

/// The same, without the ids of these services.
fn without_ids(mut all: Containers, services: &[&str]) -> Containers {
    let its = |name: &String| services.contains(&name.as_str());
    let named = all.iter_mut().filter(|(service, _)| its(service)).flat_map(|(_, containers)| containers);
    named.for_each(|[id, ..]| id.clear());
    all
}

/// Networks, volumes and locks.
fn objects(project: &TestProject) -> BTreeSet<String> {
    let list = |kind: &str| project.docker(&format!("{kind} ls --quiet --filter name={}", project.name));
    ["network", "volume"].map(list).iter().flat_map(|ids| ids.lines().map(String::from)).collect()
}

#[test]
fn after_an_edit_that_fails_everything_is_as_before() {
    let project = TestProject::nginx("up-failures");
    project.write("compose.yaml", PROJECT);
    project.write("default.conf", ROUTES);
    let up = |words: &str| project.start(&format!("up {words}")).wait_unchecked();
    up("").exits(0);
    let hosts = || project.exec_in_proxy(&["cat", "/etc/hosts"]);
    let (objects_before, hosts_before) = (objects(&project), hosts());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let taken = listener.local_addr().expect("its number").port().to_string();
    let api_load = Load::start(&project, &(project.url() + "api/"), &project.host(), "--seconds 300");
    for failure in &FAILURES {
        project.log(&format!("--- {}", failure.name));
        let before = containers(&project);
        project.write_override(&failure.edit.replace("TAKEN", &taken));
        if !failure.route.is_empty() {
            project.write("default.conf", &format!("{ROUTES}{}", failure.route));
        }
        let load = project.start_load("");
        let result = up(failure.words);
        let lost = load.stop().lost();
        result.exits(failure.code);
        failure.says.iter().for_each(|text| _ = result.says(text));
        assert_eq!(lost, 0, "{}", failure.name);
        let after = containers(&project);
        let [left, right] = [before, after.clone()].map(|all| without_ids(all, failure.recreated));
        assert_eq!(left, right, "{}", failure.name);
        assert_eq!((objects(&project), hosts()), (objects_before.clone(), hosts_before.clone()));

        fs::remove_file(project.path("compose.override.yaml")).expect("the override file");
        if !failure.route.is_empty() {
            project.write("default.conf", ROUTES);
        }
        up("").exits(0);
        assert_eq!(containers(&project), after, "{}", failure.name);
    }
    assert_eq!(api_load.stop().lost(), 0);
}

#[test]
fn a_paused_rollout_does_not_keep_a_later_failure_from_its_undo() {
    let project = TestProject::nginx("up-paused");
    project.up("");
    let policy =
        "deploy: {update_config: {monitor: 0s, failure_action: pause}}, x-zd: {health: {deadline: 1s}}";
    project.write_override(&format!("services: {{app: {{environment: {{WARMUP: '99'}}, {policy}}}}}"));
    project.start("up").wait().exits(3).says("the rollout is paused");
    let before = containers(&project);

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let taken = listener.local_addr().expect("its number").port();
    let extra = format!("{{image: '${{ZD_APP_IMAGE}}', ports: ['127.0.0.1:{taken}:3000']}}");
    project.write_override(&format!("services: {{extra: {extra}}}"));
    project.start("up").wait().exits(3).says("undone");
    assert_eq!(containers(&project), before);
}

/// Lines after which an `up` is killed: the new instances get the requests, the old ones stop.
const KILLED_AFTER: [&str; 2] = ["in rotation:", "no request in flight:"];

#[test]
fn after_a_kill_the_next_up_leaves_one_release() {
    let project = TestProject::nginx("up-killed");
    project.write("compose.yaml", PROJECT);
    project.write("default.conf", ROUTES);
    project.start("up").wait_unchecked().exits(0);
    for (version, line) in (2..).zip(KILLED_AFTER) {
        let loads =
            ["", "api/"].map(|path| Load::start(&project, &(project.url() + path), &project.host(), ""));
        let next = format!("environment: {{VERSION: '{version}'}}");
        project
            .write_override(&format!("services: {{shop: {{{next}}}, api: {{{next}}}, worker: {{{next}}}}}"));
        let mut up = project.start("up");
        up.wait_for(line);
        up.kill();
        project.log(&format!("--- killed after `{line}`"));
        project.start("up").wait_unchecked().exits(0);
        assert_eq!(loads.map(|load| load.stop().lost()), [0, 0], "killed after `{line}`");
        let hashes = project.compose("config --hash *");
        for (service, hash) in hashes.lines().filter_map(|line| line.split_once(' ')) {
            let state = if service == "migrate" { "exited" } else { "running" };
            let its = &containers(&project)[service];
            let found: Vec<&[String]> = its.iter().map(|facts| &facts[1..]).collect();
            assert_eq!(found, [[hash, state]], "{service}, killed after `{line}`");
        }
        project.start("up").wait().exits(0).says("nothing has to change");
    }

    project.log("--- killed while Compose recreates the database");
    project.write_override("services: {db: {environment: {VERSION: '9'}}}");
    let mut up = project.start("up --yes");
    up.wait_for("recreating db");
    up.kill();
    project.start("recover").wait_unchecked().exits(1).says("`compose-zd up` continues it");
    project.start("up --yes").wait_unchecked().exits(0);
    project.start("up").wait().exits(0).says("nothing has to change");

    project.log("--- killed while a rollback recreates the database");
    let with_9 = containers(&project);
    let mut rollback = project.start("rollback --yes");
    rollback.wait_for("recreating db");
    rollback.kill();
    let run = project.start("recover").wait_unchecked();
    let hint = run.exits(1).stderr.split_once("`compose-zd rollback --to ").expect("a hint").1.to_string();
    let number = hint.split('`').next().unwrap_or_default();
    project.start(&format!("rollback --yes --to {number}")).wait_unchecked().exits(0);
    let with_1 = containers(&project);
    assert_ne!(with_1["db"][0][1], with_9["db"][0][1], "the former definition");
    project.start("recover").wait_unchecked().exits(0).says("nothing to recover");

    project.log("--- killed while Compose recreates the database, and undone");
    let mut up = project.start("up --yes");
    up.wait_for("recreating db");
    up.kill();
    project.start("rollback --yes").wait_unchecked().exits(0);
    assert_eq!(without_ids(containers(&project), &["db"]), without_ids(with_1, &["db"]));
    project.start("recover").wait_unchecked().exits(0).says("nothing to recover");
}

#[test]
fn a_started_service_that_does_not_answer_is_no_success() {
    let project = TestProject::from_fixture("silent", "published-port", &[]);
    let start = |keys: &str| {
        project.write_override(&format!("services: {{app: {{{keys}}}}}"));
        project.start("up").wait_unchecked()
    };
    // Nothing listens at the port, and the file has no check: the service stays for the user to look at.
    start("ports: !override ['${PROXY_PORT}:3999'], x-zd: {health: {deadline: 2s}}")
        .exits(3)
        .says("`app` runs, and gives no good answer after 2s");
    assert_eq!(project.states("app").len(), 1);
    // It crashes after the start check, while its first answer is awaited.
    project.compose("down --timeout 1");
    start("restart: 'no', environment: {LISTEN_AFTER: '60', EXIT_AFTER: '3', EXIT_CODE: '4'}, deploy: {update_config: {monitor: 1s}}, \
           x-zd: {health: {deadline: 6s}}")
        .exits(3)
        .says("exited with 4")
        .says("what was changed before is undone");
    assert_eq!(project.states("app"), [""; 0]);
    // The check of the file fails: the start is undone.
    start("environment: {STATUS: '500'}, x-zd: {health: {path: /up, deadline: 2s}}")
        .exits(3)
        .says("what was changed before is undone");
    assert_eq!(project.states("app"), [""; 0]);
}
