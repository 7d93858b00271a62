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

/// The proxy keeps its container. A loss would be a closed connection of a client that does not retry.
#[test]
fn nginx_is_reloaded_with_an_edited_file() {
    let project = TestProject::nginx("filesnginx");
    project.up("");
    let (good, before) = (project.read("default.conf"), project.proxy());
    let marked =
        |mark: &str| good.replace("listen 80;", &format!("listen 80;\n    add_header X-Mark {mark};"));

    let load = project.start_load("");
    project.write("default.conf", &marked("one"));
    let effect = "the reload of this deploy puts the change into effect";
    project.start("check app").wait().says("proxy-file-edited").says(effect);
    project.deploy("proxy").exits(0).says("reloaded nginx").says("default.conf` was edited");
    project.deploy("proxy").exits(0).never_says("reloaded");
    load.stop().all_from(&["1"]);
    let running = || project.exec_in_proxy(&["curl", "-sI", "http://127.0.0.1/"]);
    assert!(running().contains("X-Mark: one"), "{}", running());

    let load = project.start_load("");
    project.write("default.conf", &(marked("two") + "\nnonsense;\n"));
    project.deploy("proxy").exits(1).says("refuses its changed files").says("unknown directive \"nonsense\"");
    replace(&project, "default.conf", &marked("three"));
    project.deploy("proxy").exits(1).says("is another file now").says("mount its folder");
    project.start("check app").wait().says("proxy-file-replaced");
    load.stop().all_from(&["1"]);
    assert!(running().contains("X-Mark: one"), "{}", running());
    assert_eq!(project.proxy(), before, "the proxy was not replaced or restarted");
}
