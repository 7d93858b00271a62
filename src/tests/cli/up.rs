//! Order of the docker calls of `up`, and what is left of them after a failure or a kill.

use super::locking::{start_run, wait_for_exit, wait_until};
use super::*;

/// A project with `web`, `worker` that depends on it, and `db`. All run; these services are outdated.
fn project(outdated: &[&str]) -> FakeDocker {
    let fake = FakeDocker::new();
    ["containers/old", "new"].iter().for_each(|file| fs::remove_file(fake.path(file)).unwrap());
    fs::create_dir(fake.path("up")).unwrap();
    fake.write("hashes", "web wanted\nworker wanted\ndb wanted\ncache wanted\n");
    for service in ["web", "worker", "db"] {
        let hash = if outdated.contains(&service) { "other" } else { "wanted" };
        instance(&fake, &format!("containers/{service}"), service, "running", hash);
        instance(&fake, &format!("new-{service}"), service, "created", "wanted");
    }
    instance(&fake, "up/db", "db", "running", "wanted");
    write_services(&fake, "");
    fake
}

/// Writes the Compose file, with more services.
fn write_services(fake: &FakeDocker, more: &str) {
    let health = format!("x-zd: {{health: {{path: /up, port: {}}}}}", fake.port);
    let web = format!("web: {{image: 'app:1', {health}}}");
    let worker =
        format!("worker: {{image: 'app:1', depends_on: {{web: {{condition: service_started}}}}, {health}}}");
    let db = "db: {image: 'mysql:8', volumes: [{type: volume, source: data, target: /var/lib/mysql}]}";
    fake.write(
        "config.yaml",
        &format!("name: p\nservices: {{{web}, {worker}, {db}{more}}}\nvolumes: {{data: {{name: p_data}}}}\n"),
    );
}

/// Writes a container file of a service. Its id is the name of the file.
fn instance(fake: &FakeDocker, file: &str, service: &str, status: &str, hash: &str) {
    let number = if file.starts_with("new-") { 2 } else { 1 };
    fake.container(file, &format!("{service}-{number}"), status, hash);
    let text = fs::read_to_string(fake.path(file)).unwrap();
    fake.write(
        file,
        &text.replace("compose.service\": \"app\"", &format!("compose.service\": \"{service}\"")),
    );
}

/// Adds `cache`, which does not run, and Compose starts it.
fn add_cache(fake: &FakeDocker) {
    write_services(fake, ", cache: {image: 'cache:1'}");
    instance(fake, "up/cache", "cache", "running", "wanted");
}

const START: &str = "compose up --detach --no-deps --no-build --pull never";
const RECREATE: &str = "compose up --force-recreate --detach --no-deps --no-build --pull never";

/// Call that creates a second instance of a service.
fn create(service: &str) -> String {
    format!(
        "compose up --no-start --no-deps --no-recreate --no-build --pull never --scale {service}=2 {service}"
    )
}

/// Changes without the files that keep images and releases, in their order.
fn changes(fake: &FakeDocker) -> Vec<String> {
    fake.changes().lines().map(String::from).collect()
}

#[test]
fn up_has_nothing_to_do_if_all_runs_as_in_the_file() {
    let fake = project(&[]);
    fake.run("up").success().stdout_eq("`p`: nothing has to change\n");
    assert_eq!(fake.changes(), "");
}

#[test]
fn up_starts_then_recreates_then_rolls_out_in_the_order_of_dependencies() {
    let fake = project(&["web", "worker", "db"]);
    add_cache(&fake);
    fake.run("up --yes").success();
    let expected = [
        &format!("{START} cache"),
        &format!("{RECREATE} db"),
        &create("web"),
        "start new-web",
        &create("worker"),
        "start new-worker",
        "stop web",
        "stop worker",
        "rm web",
        "rm worker",
    ];
    let changes = changes(&fake);
    let found = changes.iter().filter(|call| expected.contains(&call.as_str()));
    assert_eq!(found.collect::<Vec<_>>(), expected, "{}", fake.changes());
    assert_eq!(changes.len(), expected.len(), "nothing else: {}", fake.changes());
}

#[test]
fn up_touches_nothing_that_needs_consent() {
    let fake = project(&["db"]);
    let run = fake.run("up").code(1);
    says(
        &run,
        &["`db` changed in the file and was left alone", "nothing was changed", "`compose-zd up --yes db`"],
    );
    assert_eq!(fake.changes(), "");

    let fake = project(&["web", "db"]);
    let run = fake.run("up").code(3);
    says(&run, &["`db` changed in the file and was left alone", "all other changes are made"]);
    assert!(!fake.changes().contains("db"), "{}", fake.changes());
    assert!(fake.changes().ends_with("stop web\nrm web\n"), "{}", fake.changes());
}

/// No stand-in can serve at a UDP port. The other services go on without it.
#[test]
fn a_service_that_cannot_run_twice_is_recreated_with_consent() {
    let alone = [
        "ports: [{target: 53, published: '8158', protocol: udp}]",
        "network_mode: host",
        "networks: {default: {ipv4_address: 10.0.0.9}}",
    ];
    for keys in alone {
        let with_dns = || {
            let fake = project(&["web"]);
            write_services(&fake, &format!(", dns: {{image: 'app:1', {keys}}}"));
            fake.write("hashes", "web wanted\nworker wanted\ndb wanted\ndns wanted\n");
            instance(&fake, "containers/dns", "dns", "running", "other");
            instance(&fake, "up/dns", "dns", "running", "wanted");
            fake
        };
        let fake = with_dns();
        let plan = fake.run("plan").success();
        let table = String::from_utf8_lossy(&plan.get_output().stdout).into_owned();
        assert!(table.contains("dns      recreate, with downtime"), "{keys}: {table}");
        let run = fake.run("up").code(3);
        says(&run, &["`dns` changed in the file and was left alone", "`compose-zd up --yes dns`"]);
        assert!(fake.changes().ends_with("stop web\nrm web\n"), "{keys}: {}", fake.changes());
        assert!(!fake.changes().contains("dns"), "{keys}: {}", fake.changes());

        let fake = with_dns();
        fake.run("up --yes").success();
        assert!(changes(&fake).contains(&format!("{RECREATE} dns")), "{keys}: {}", fake.changes());

        let fake = with_dns();
        says(&fake.run("deploy dns").code(2), &["`dns`", "`compose-zd up --yes dns`"]);
        assert_eq!(fake.changes(), "");
    }
}

#[test]
fn a_service_that_fails_undoes_those_before_it() {
    let fake = project(&["web", "worker"]);
    add_cache(&fake);
    fake.fail("start new-worker", "Error response from daemon: no such file: /app/run");
    let run = fake.run("up").code(3);
    says(&run, &["no such file: /app/run", "what was changed before is undone"]);
    let changes = changes(&fake);
    let kept = ["stop web", "stop worker", "rm web", "rm worker"];
    assert!(!changes.iter().any(|call| kept.contains(&call.as_str())), "{}", fake.changes());
    assert!(fake.changes().ends_with("stop cache\nrm cache\n"), "{}", fake.changes());
    let left =
        fs::read_dir(fake.path("containers")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut left: Vec<String> = left.collect();
    left.sort();
    assert_eq!(left, ["db", "web", "worker"]);
}

/// Its former definition is unknown, so nothing could serve in the place of the new version.
#[test]
fn an_undo_after_the_rollout_keeps_a_version_that_it_cannot_replace() {
    let fake = project(&["web"]);
    write_services(&fake, ", cache: {image: 'cache:1', depends_on: {web: {condition: service_started}}}");
    fake.fail("up --detach .*cache", "Error response from daemon: port is already allocated");
    let run = fake.run("up").code(3);
    says(&run, &["port is already allocated", "except `web`: the definition that ran before is unknown"]);
    assert!(fake.path("containers/new-web").exists(), "{}", fake.changes());
    assert!(!fake.changes().contains("stop new-web"), "{}", fake.changes());
}

/// The others serve meanwhile, so they wait.
#[test]
fn the_service_that_crashed_is_undone_before_the_others() {
    let fake = FakeDocker { monitor: None, ..project(&["web", "worker"]) };
    let run = start_run(&fake, "up");
    let text = |id: &str| fs::read_to_string(fake.path("containers").join(id)).unwrap_or_default();
    wait_until("both run", || text("new-worker").contains("running"));
    // Atomically, because compose-zd may read the file at any moment.
    fake.write("crashed", &text("new-web").replace("running", "exited"));
    fs::rename(fake.path("crashed"), fake.path("containers/new-web")).unwrap();
    let (code, output) = wait_for_exit(run);
    assert_eq!(code, Some(3), "{output}");
    let changes = fake.changes();
    let position = |call: &str| changes.lines().position(|line| line == call).expect(&changes);
    assert!(position("rm new-web") < position("stop new-worker"), "{changes}");
}

#[test]
fn a_full_disk_refuses_up_before_any_change() {
    let fake = project(&["web"]);
    fake.write(
        "bin/df",
        "#!/bin/sh\necho 'Filesystem 1024-blocks Used Available'\necho '/dev/x 9 9 1024 99% /'\n",
    );
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(fake.path("bin/df"), PermissionsExt::from_mode(0o755)).unwrap();
    add_cache(&fake);
    fake.fail("image inspect cache:1", "Error: No such image: cache:1");
    let run = fake.run("up").code(1);
    says(&run, &["the engine's disk has 1 MiB free", "nothing was changed", "`--prune` removes images"]);
    assert_eq!(fake.changes(), "");
}

#[test]
fn up_with_prune_removes_older_images_after_the_old_instances() {
    let fake = project(&["web"]);
    let mut calls = String::new();
    for version in 1..=4 {
        let services = fs::read_to_string(fake.path("config.yaml")).unwrap();
        let (_, rest) = services.split_once("web: {image: 'app:").unwrap();
        let former = format!("web: {{image: 'app:{}", &rest[..1]);
        let keep = if version == 1 { "x-zd: {keep: 1}\n" } else { "" };
        fake.write(
            "config.yaml",
            &(services.replace(&former, &format!("web: {{image: 'app:{version}")) + keep),
        );
        fake.write(
            &format!("image-app:{version}"),
            &format!(r#"{{"Id": "sha256:{version}", "Config": {{}}}}"#),
        );
        instance(&fake, "new-web", "web", "created", "wanted");
        let new = fs::read_to_string(fake.path("new-web")).unwrap();
        fake.write("new-web", &new.replace("sha256:wanted", &format!("sha256:{version}")));
        fake.write("calls", "");
        fake.run("up web --prune").success();
        calls = fake.changes();
        fs::rename(fake.path("containers/new-web"), fake.path("containers/web")).unwrap();
        let text = fs::read_to_string(fake.path("containers/web")).unwrap();
        fake.write("containers/web", &text.replace("\"new-web\"", "\"web\""));
    }
    let position = |call: &str| calls.lines().position(|line| line == call);
    let (removed, pruned) = (position("rm web"), position("image rm app:3"));
    assert!(removed.is_some() && removed < pruned, "{calls}");
    assert_eq!(position("image rm app:4"), None, "{calls}");
}

/// Starts a run, and kills it while Compose recreates the database.
fn kill_while_recreating(fake: &FakeDocker, words: &str) {
    fake.write("on", "force-recreate\ntouch ../recreates; sleep 1\n");
    let mut run = start_run(fake, words);
    wait_until("Compose recreates", || fake.path("recreates").exists());
    run.kill().unwrap();
    wait_for_exit(run);
    fs::remove_file(fake.path("on")).unwrap();
}

#[test]
fn up_that_was_killed_outside_of_its_rollout_is_named_until_it_is_continued() {
    let fake = project(&["db"]);
    add_cache(&fake);
    kill_while_recreating(&fake, "up --yes");
    // The first `recover` does not make a second one believe that all is well.
    for _ in 0..2 {
        let run = fake.run("recover").code(1);
        says(&run, &["`up` is unfinished outside of its rollout", "`compose-zd up` continues it"]);
    }
    let noted = |fake: &FakeDocker| {
        let status = fake.run("status").success();
        let text = String::from_utf8_lossy(&status.get_output().stdout).into_owned();
        text.contains("`up` did not end: `compose-zd up` continues it")
    };
    assert!(noted(&fake));
    // A part of the project leaves the rest as it is.
    fake.run("up web").success();
    assert!(noted(&fake));
    fake.run("up --yes").success();
    assert!(!noted(&fake));
    fake.run("recover").success();
    let record = fs::read_to_string(fake.path(".compose-zd/p/releases/0001.json")).unwrap();
    assert!(record.contains("\"started\": [\n      \"cache\""), "of the killed run: {record}");
}

#[test]
fn up_gives_a_lost_name_back() {
    let fake = project(&[]);
    write_services(&fake, ", app: {image: 'app:1', container_name: p-shop}");
    fake.write("hashes", "web wanted\nworker wanted\ndb wanted\napp wanted\n");
    fake.container("containers/old", "shop-old", "running", "wanted");
    says(
        &fake.run("status app").success(),
        &["p-shop-old has lost its name `p-shop`", "`compose-zd deploy app`"],
    );
    fake.run("up").success();
    assert_eq!(fake.changes(), "rename p-shop-old p-shop\n");
    assert!(!stderr(&fake.run("status app").success()).contains("lost its name"));
}
