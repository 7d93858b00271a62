//! `up` against `docker compose up -d`: random edits of a project of six services end in the same state, and lose nothing.
//!
//! `ZD_UP_EDITS` and `ZD_UP_SEED` set the number of edits and the seed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::cli_runner::CommandResult;
use crate::load::Load;
use crate::test_project::{TestProject, WAIT_LIMIT, wait_until};

/// Services of the project, except the one that edits add and remove.
const SERVICES: [&str; 6] = ["proxy", "shop", "api", "worker", "notes", "db"];

/// Services that are replaced only with consent.
const WITH_DOWNTIME: [&str; 2] = ["proxy", "db"];

/// Definition of the project, as the edits change it.
#[derive(Clone)]
struct Definition {
    /// Value of a variable that no service reads, by service.
    modes: BTreeMap<&'static str, u32>,
    replicas: u32,
    labels: u32,
    has_cache: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Edit {
    Mode(&'static str),
    Scale(u32),
    Label,
    /// Adds or removes a service.
    Cache,
}

impl Definition {
    fn new() -> Definition {
        Definition {
            modes: SERVICES.iter().map(|service| (*service, 0)).collect(),
            replicas: 2,
            labels: 0,
            has_cache: false,
        }
    }

    fn apply(&mut self, edit: Edit) {
        match edit {
            Edit::Mode(service) => *self.modes.get_mut(service).expect("a service") += 1,
            Edit::Scale(replicas) => self.replicas = replicas,
            Edit::Label => self.labels += 1,
            Edit::Cache => self.has_cache = !self.has_cache,
        }
    }

    fn yaml(&self) -> String {
        let environment =
            |service: &str, more: &str| format!("{{MODE: m{}, VERSION: '1', {more}}}", self.modes[service]);
        let host = |host: &str| format!("VIRTUAL_HOST: '{host}', VIRTUAL_PORT: '3000',");
        let app = |service: &str, more: &str, keys: &str| {
            format!(
                "  {service}:\n    image: ${{ZD_APP_IMAGE}}\n    restart: unless-stopped\n    networks: [back]\n    \
                 environment: {}\n{keys}",
                environment(service, more)
            )
        };
        let after_db = "    depends_on: [db]\n";
        let proxy = format!(
            "  proxy:\n    image: ${{NGINX_PROXY_IMAGE}}\n    restart: unless-stopped\n    networks: [back]\n    \
             ports: ['127.0.0.1:${{PROXY_PORT}}:80']\n    volumes: ['/var/run/docker.sock:/tmp/docker.sock:ro']\n    \
             environment: {}\n",
            environment(
                "proxy",
                "DISABLE_ACCESS_LOGS: 'true', DOCKER_CONTAINER_FILTERS: '${DOCKER_CONTAINER_FILTERS}',"
            )
        );
        let label = format!("{after_db}    labels: {{edition: '{}'}}\n", self.labels);
        let scale = format!("{after_db}    deploy: {{replicas: {}}}\n", self.replicas);
        let cache = if self.has_cache {
            "  cache:\n    image: ${ZD_APP_IMAGE}\n    restart: unless-stopped\n    networks: [back]\n"
        } else {
            ""
        };
        [
            "services:\n",
            &proxy,
            &app("shop", &host("${VIRTUAL_HOST}"), &label),
            &app("api", &host("${SECOND_HOST}"), &scale),
            &app("worker", "", after_db),
            &app("notes", &host("notes.${VIRTUAL_HOST}"), "    volumes: ['notes:/data']\n"),
            &app("db", "", "    volumes: ['data:/var/lib/mysql']\n"),
            cache,
            "networks: {back: {}}\nvolumes: {notes: {}, data: {}}\n",
        ]
        .concat()
    }
}

/// A project that `up` and one that Compose brings up.
fn project(name: &str, definition: &Definition) -> TestProject {
    let project = TestProject::nginx_proxy(name);
    project.set_variables(&format!("SECOND_HOST=second.{name}.test"));
    project.write("compose.yaml", &definition.yaml());
    project
}

fn up(project: &TestProject, words: &str) -> CommandResult {
    project.start(&format!("up -d {words}")).wait_unchecked()
}

/// Waits until each routed service answers through the proxy.
fn wait_for_answers(project: &TestProject) {
    for host in [project.host(), project.second_host(), format!("notes.{}", project.host())] {
        let answers = || project.get_from(&host, "/health").is_some_and(|reply| reply.status == 200);
        wait_until(&format!("{host} answers"), WAIT_LIMIT, answers);
    }
}

/// Number of running containers of each service, and whether all have the configuration of the file.
fn state(project: &TestProject) -> BTreeMap<String, (usize, bool)> {
    let hashes = project.compose("config --hash *");
    let wanted: BTreeMap<&str, &str> = hashes.lines().filter_map(|line| line.split_once(' ')).collect();
    let filter = json!({"label": [format!("com.docker.compose.project={}", project.name)]});
    let mut found: BTreeMap<String, (usize, bool)> = BTreeMap::new();
    for container in project.api().containers(&filter) {
        let label = |key: &str| {
            let value = &container["Config"]["Labels"][format!("com.docker.compose.{key}")];
            value.as_str().unwrap_or_default().to_string()
        };
        let service = label("service");
        assert_eq!(container["State"]["Status"], "running", "{service}");
        let is_current = wanted.get(service.as_str()).is_some_and(|hash| *hash == label("config-hash"));
        let entry = found.entry(service).or_insert((0, true));
        *entry = (entry.0 + 1, entry.1 && is_current);
    }
    found
}

/// Ids of what needs consent, and the networks and volumes of the project.
fn untouchables(project: &TestProject) -> BTreeSet<String> {
    let ids = WITH_DOWNTIME.iter().flat_map(|service| project.ids(service));
    let objects = ["network", "volume"].into_iter().map(|kind| {
        let line = format!("{kind} ls -q --filter label=com.docker.compose.project={}", project.name);
        let mut all: Vec<String> = project.docker(&line).lines().map(String::from).collect();
        all.sort();
        all.join(" ")
    });
    ids.chain(objects).collect()
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A random edit that changes something.
fn random_edit(random: &mut fastrand::Rng, definition: &Definition) -> Edit {
    match random.u32(0..10) {
        0..5 => Edit::Mode(SERVICES[random.usize(0..SERVICES.len())]),
        5..7 => Edit::Scale(1 + (definition.replicas + random.u32(0..2)) % 3),
        7..9 => Edit::Label,
        _ => Edit::Cache,
    }
}

#[test]
fn random_edits_end_as_with_compose_and_lose_nothing() {
    let mut random = fastrand::Rng::with_seed(number("ZD_UP_SEED", 27));
    let mut definition = Definition::new();
    let (ours, twin) = (project("up-ours", &definition), project("up-twin", &definition));
    // The first `up` starts the whole project.
    up(&ours, "").exits(0).says("runs as its file says");
    wait_for_answers(&ours);
    twin.compose("up -d");
    assert_eq!(state(&ours), state(&twin));
    for n in 1..=number("ZD_UP_EDITS", 6) {
        let edit = random_edit(&mut random, &definition);
        definition.apply(edit);
        ours.log(&format!("--- edit {n}: {edit:?}"));
        [&ours, &twin].into_iter().for_each(|p| p.write("compose.yaml", &definition.yaml()));
        let needs_consent = matches!(edit, Edit::Mode(service) if WITH_DOWNTIME.contains(&service));
        let before = untouchables(&ours);
        let loads = [ours.start_load(""), Load::start(&ours, &ours.url(), &ours.second_host(), "")];
        let result = up(&ours, "--remove-orphans");
        let lost: u64 = loads.into_iter().map(|load| load.stop().lost()).sum();
        assert_eq!(lost, 0, "edit {n}: {edit:?}");
        assert_eq!(untouchables(&ours), before, "edit {n}: {edit:?}");
        if needs_consent {
            result.exits(1).says("nothing was changed").says("--yes");
            up(&ours, "--yes").exits(0).says("recreating");
            wait_for_answers(&ours);
        } else {
            result.exits(0);
        }
        twin.compose("up -d --remove-orphans");
        assert_eq!(state(&ours), state(&twin), "edit {n}: {edit:?}");
        assert!(state(&ours).values().all(|(_, is_current)| *is_current), "edit {n}: {edit:?}");
        let left = ours.docker(&format!("compose -p {} --dry-run up -d", ours.name));
        assert!(!left.contains("Recreate") && !left.contains("Starting"), "{left}");
        up(&ours, "").exits(0).says("nothing has to change");
    }
}

/// Configuration hash and state of the containers of each service.
fn versions(project: &TestProject) -> BTreeMap<String, Vec<String>> {
    let filter = json!({"label": [format!("com.docker.compose.project={}", project.name)]});
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for container in project.api().containers(&filter) {
        let label = |key: &str| container["Config"]["Labels"][format!("com.docker.compose.{key}")].clone();
        let version = format!("{} {}", label("config-hash"), container["State"]["Status"]);
        found.entry(label("service").to_string()).or_default().push(version);
    }
    found
}

/// What `up` started goes, what it recreated is recreated with consent, and the rest is rolled back without a loss.
#[test]
fn a_rollback_undoes_up_as_one_release() {
    let mut definition = Definition::new();
    let project = project("up-back", &definition);
    up(&project, "").exits(0);
    wait_for_answers(&project);
    let first = versions(&project);
    let edits = [Edit::Mode("shop"), Edit::Mode("worker"), Edit::Mode("db"), Edit::Scale(3), Edit::Cache];
    edits.into_iter().for_each(|edit| definition.apply(edit));
    project.write("compose.yaml", &definition.yaml());
    up(&project, "--yes").exits(0);
    let second = versions(&project);
    let run = |words: &str| {
        let load = project.start_load("");
        let result = project.start(words).wait_unchecked();
        assert_eq!(load.stop().lost(), 0, "{words}");
        result
    };

    run("rollback --dry-run").exits(0).says("recreate, with downtime").says("remove");
    assert_eq!(versions(&project), second);
    run("rollback").exits(3).says("`db` differs from release 1").says("compose-zd rollback --yes db");
    let now = versions(&project);
    assert_eq!(now.get("\"db\""), second.get("\"db\""));
    assert_eq!(now.keys().collect::<Vec<_>>(), first.keys().collect::<Vec<_>>());
    run("rollback --yes db").exits(0).says("recreating db");
    assert_eq!(versions(&project), first);

    run("up --yes").exits(0);
    assert_eq!(versions(&project), second);
    run("rollback --yes").exits(0).says("recreating db").says("removed ");
    assert_eq!(versions(&project), first);
    run("rollback --yes").exits(0).says("starting cache").never_says("still has the newer version");
    assert_eq!(versions(&project), second);
    run("up").exits(0).says("nothing has to change");
}

/// A container that runs proves nothing: a new nginx-proxy has no route at first.
#[test]
fn a_recreated_proxy_answers_when_up_returns() {
    let mut definition = Definition::new();
    let project = project("up-answers", &definition);
    up(&project, "").exits(0);
    wait_for_answers(&project);
    for services in [&["proxy"][..], &["proxy", "db", "notes"]] {
        services.iter().for_each(|service| definition.apply(Edit::Mode(service)));
        project.write("compose.yaml", &definition.yaml());
        let before = project.proxy().id;
        up(&project, "--yes").exits(0).says("recreating ");
        for host in [project.host(), project.second_host(), format!("notes.{}", project.host())] {
            assert_eq!(project.get_from(&host, "/health").map(|reply| reply.status), Some(200), "{host}");
        }
        assert_ne!(project.proxy().id, before);
    }
}

/// nginx accepts the file, and answers every request with 502.
#[test]
fn a_recreated_proxy_that_does_not_answer_is_an_error() {
    let project = TestProject::nginx("up-silent");
    let settings =
        |more: &str| format!("services: {{ proxy: {{ x-zd: {{ health: {{ deadline: 5s }} }}, {more} }} }}");
    project.write_override(&settings(""));
    project.up("");
    let good = project.read("default.conf");
    let broken = good.replace("server app:3000", "server app:3999");

    project.log("--- the undo does not bring the file back");
    project.write_override(&settings("environment: { MODE: '1' }"));
    project.write("default.conf", &broken);
    let logs = format!("`docker logs {}-proxy-1`", project.name);
    up(&project, "--yes proxy").exits(4).says(&project.url()).says("after the undo: GET").says(&logs);

    project.log("--- the user removes the URL");
    project.write("default.conf", &good);
    project.compose("up -d --force-recreate proxy");
    project.wait_until_all_answer();
    project.write_override("services: { proxy: { environment: { MODE: '2' }, ports: !override ['80'] } }");
    up(&project, "--yes proxy").exits(0);
}
