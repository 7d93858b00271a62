//! Mounted files and configs, which Compose does not compare: an app is replaced, a proxy is reloaded.

use std::fs;

use crate::test_project::TestProject;

/// Writes a file as editors do: a new one in place of the old one.
fn replace(project: &TestProject, name: &str, text: &str) {
    project.write("new", text);
    fs::rename(project.path("new"), project.path(name)).expect("a renamed file");
}

/// Deploys under load and returns true if the instance was replaced.
fn is_replaced(project: &TestProject, reason: &str) -> bool {
    let before = project.ids("app");
    let (result, answers) = project.deploy_under_load("", "app");
    result.exits(0).says(reason);
    answers.all_from(&["1"]);
    project.compose("--dry-run up -d");
    project.ids("app") != before
}

#[test]
fn an_app_is_replaced_if_the_text_of_its_files_changed() {
    let project = TestProject::nginx("files");
    let with_text = |text: &str| {
        project.write_override(&format!(
            "services: {{ app: {{ volumes: ['./app.conf:/app.conf:ro', './own.txt:/own.txt'], \
             configs: [{{ source: inline, target: /inline.conf }}], secrets: [key] }} }}\n\
             configs: {{ inline: {{ content: '{text}' }} }}\nsecrets: {{ key: {{ file: ./key.txt }} }}\n"
        ));
    };
    with_text("one");
    ["app.conf", "own.txt", "key.txt"].iter().for_each(|name| project.write(name, "one"));
    project.up("");
    let unchanged = "`app`: nothing has to change";
    assert!(!is_replaced(&project, unchanged));

    project.write("app.conf", "two");
    assert!(is_replaced(&project, "app.conf` was edited after the container read it"));
    assert!(!is_replaced(&project, unchanged), "it has the new text");
    replace(&project, "key.txt", "two");
    assert!(is_replaced(&project, "key.txt` is another file now"));
    with_text("two");
    assert!(is_replaced(&project, "`/inline.conf` has another text"));

    replace(&project, "key.txt", "two");
    assert!(!is_replaced(&project, unchanged), "another file with the same text");
    project.write("own.txt", "two");
    assert!(!is_replaced(&project, "maybe by the container itself"));
}

/// One service behind a proxy with one configuration file. `edit` replaces a text by one with the mark `MARK`.
struct Case {
    name: &'static str,
    fixture: &'static str,
    file: &'static str,
    edit: (&'static str, &'static str),
    broken: (&'static str, &'static str),
}

const CASES: [Case; 3] = [
    Case {
        name: "filesnginx",
        fixture: "nginx-plain",
        file: "default.conf",
        edit: ("listen 80;", "listen 80;\n    add_header X-Mark MARK;"),
        broken: ("nonsense;", "unknown directive \"nonsense\""),
    },
    Case {
        name: "fileshaproxy",
        fixture: "haproxy-plain",
        file: "haproxy.cfg",
        edit: ("bind :80", "bind :80\n    http-response set-header X-Mark MARK"),
        broken: ("nonsense", "unknown keyword 'nonsense'"),
    },
    Case {
        name: "filescaddy",
        fixture: "caddy",
        file: "Caddyfile",
        edit: ("reverse_proxy", "header X-Mark MARK\n\treverse_proxy"),
        broken: ("nonsense {", "Error: adapting config"),
    },
];

impl Case {
    fn project(&self, suffix: &str) -> TestProject {
        let name = format!("{}{suffix}", self.name);
        let project = TestProject::from_fixture(&name, self.fixture, &[self.file]);
        project.up("");
        project
    }

    /// Configuration whose answers have this mark.
    fn marked(&self, good: &str, mark: &str) -> String {
        good.replace(self.edit.0, &self.edit.1.replace("MARK", mark))
    }
}

/// Mark in the answers of the proxy.
fn mark(project: &TestProject) -> String {
    let head = project.get_text("/");
    let line = head.lines().find_map(|line| line.to_lowercase().strip_prefix("x-mark:").map(String::from));
    line.unwrap_or_default().trim().into()
}

/// The proxy keeps its container. A loss would be a closed connection of a client that does not retry.
#[test]
fn a_proxy_is_reloaded_with_an_edited_file() {
    for case in &CASES {
        let project = case.project("");
        let (good, before) = (project.read(case.file), project.proxy());

        let load = project.start_load("");
        project.write(case.file, &case.marked(&good, "one"));
        project.start("plan").wait().exits(0).says("reload").says("was edited after the container read it");
        project.start("check app").wait().says("proxy-file-edited");
        assert_eq!(mark(&project), "", "nothing has changed yet");
        project.start("up").wait().exits(0).says("`proxy`: reload").says("reloaded ");
        assert_eq!(mark(&project), "one");
        project.start("up").wait().exits(0).says("nothing has to change").never_says("reloaded");

        let (line, words) = case.broken;
        project.write(case.file, &format!("{}\n{line}\n", case.marked(&good, "two")));
        project.start("up").wait().exits(1).says("refuses its changed files").says(words);
        replace(&project, case.file, &case.marked(&good, "three"));
        project.start("up").wait().exits(1).says("is another file now").says("compose-zd up --yes proxy");
        project.start("check app").wait().says("proxy-file-replaced");
        load.stop().all_from(&["1"]);
        assert_eq!((mark(&project).as_str(), project.proxy()), ("one", before.clone()), "{}", case.name);

        replace(&project, case.file, &format!("{}\n{line}\n", case.marked(&good, "four")));
        project.start("up --yes proxy").wait().exits(1).says("refuses its changed files").says(words);
        assert_eq!((mark(&project).as_str(), project.proxy()), ("one", before.clone()), "{}", case.name);
        replace(&project, case.file, &case.marked(&good, "five"));
        let recreated = project.compose_zd().args(["-p", &project.name, "up", "--yes", "proxy"]).status();
        assert!(recreated.is_ok_and(|status| status.success()));
        project.wait_until_all_answer();
        assert_eq!(mark(&project), "five");
        assert_ne!(project.proxy().id, before.id);
    }
}

/// nginx refuses a name without an address, and a route to a service that does not run would be of no use.
#[test]
fn a_file_that_names_a_new_service_is_reloaded_after_its_start() {
    let project = CASES[0].project("new");
    let route = "location /api { proxy_pass http://api:3000; }\n    location / {";
    project.write("default.conf", &project.read("default.conf").replace("location / {", route));
    project.write_override("services: { api: { image: '${ZD_APP_IMAGE}', environment: { VERSION: api } } }");
    let load = project.start_load("");
    project.start("up").wait().exits(0).says("reloaded nginx");
    load.stop().all_from(&["1"]);
    assert_eq!(project.get("/api").map(|reply| reply.version), Some("api".into()));
}

/// Instances beyond the lines of the file are servers that only the running HAProxy has.
#[test]
fn a_reload_of_haproxy_keeps_its_added_servers() {
    let case = &CASES[1];
    let project = case.project("more");
    project.deploy("app --scale app=3 --force").exits(0);
    let instances = || -> std::collections::BTreeSet<String> {
        (0..30).filter_map(|_| Some(project.get("/")?.instance)).collect()
    };
    assert_eq!(instances().len(), 3);
    let load = project.start_load("");
    project.write(case.file, &case.marked(&project.read(case.file), "one"));
    project.start("up").wait().exits(0).says("reloaded haproxy");
    assert_eq!(instances().len(), 3);
    project.set_variables("VERSION=2");
    project.deploy("app").exits(0);
    load.stop().all_from(&["1", "2"]);
    assert_eq!(mark(&project), "one");
}
