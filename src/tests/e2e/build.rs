//! Where the image comes from: it is built or found before anything is touched.

use crate::stage::Stage;

/// The version is the image's own, so that nothing else changes from one release to the next.
const BUILD: &str = "
services:
  app:
    image: !reset null
    build: {context: ./source, args: {BASE: '${ZD_APP_IMAGE}'}}
    environment: {VERSION: !reset null}
";

fn write_source(stage: &Stage, line: &str) {
    stage.write_recipe(&format!("{line}\n"));
    stage.add(BUILD);
}

/// Two instances of version 1 of a service that is built.
fn built(name: &str) -> Stage {
    let stage = Stage::scale(name);
    // The classic builder is in every engine; the other one is a plugin.
    stage.set("DOCKER_BUILDKIT=0");
    write_source(&stage, "ENV VERSION=1");
    stage.up("--build --scale app=2");
    stage
}

#[test]
fn what_was_built_anew_is_deployed() {
    let stage = built("build");
    write_source(&stage, "ENV VERSION=2");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(0);
    answers.all_from(&["1", "2"]);
    stage.expect_release("app", 2, "2");
}

#[test]
fn a_build_that_fails_changes_nothing() {
    let stage = built("buildfails");
    let before = stage.containers();
    write_source(&stage, "RUN [\"/sample-app\", \"cat\", \"/not-there\"]");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(1).says("nothing was changed");
    answers.all_from(&["1"]);
    assert_eq!(stage.containers(), before);
}

#[test]
fn an_image_that_is_not_there_changes_nothing() {
    let stage = Stage::scale("noimage");
    stage.up("--scale app=2");
    let before = stage.containers();
    // Nothing listens at this port, so no registry is asked.
    stage.set("VERSION=2 ZD_APP_IMAGE=127.0.0.1:1/none:1");
    let (ran, answers) = stage.deploy_under_load("", "app");
    ran.exits(1).says("nothing was changed");
    answers.all_from(&["1"]);
    assert_eq!(stage.containers(), before);
}
