//! The side of compose-zd: the same update of a Compose project.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use super::engine::{RulesEngine, duration_text};
use super::{ResultState, UpdateCase, UpdateResult};

/// A project whose containers are removed at the end; the engine removes the rest.
struct RulesProject<'e> {
    engine: &'e RulesEngine,
    case: &'e UpdateCase,
    name: String,
    folder: PathBuf,
}

/// Deploys version 1 of a service, then version 2 with the settings of the case.
pub fn update(engine: &RulesEngine, case: &UpdateCase, n: usize) -> UpdateResult {
    let (name, folder) = (format!("{}-{n}", engine.name), engine.folder(&format!("project-{n}")));
    let project = RulesProject { engine, case, name, folder };
    project.write();
    let first = project.deploy("1");
    assert!(first.status.success(), "{case}: {first:?}");
    let result = project.deploy("2");
    engine.wait_for_failures(&project.folder, case);
    let versions = project.versions();
    let of = |version: &str| versions.iter().filter(|v| *v == version).count();
    let (new, old) = (of("2"), of("1"));
    UpdateResult { state: state(&result, old == case.instances), new, old }
}

/// Result of a deploy, by its exit code and output.
fn state(result: &Output, all_old: bool) -> ResultState {
    let output = String::from_utf8_lossy(&result.stderr);
    println!("{output}");
    match result.status.code() {
        Some(0) => ResultState::Completed,
        Some(3) if output.contains("paused") => ResultState::Paused,
        Some(3) if all_old => ResultState::RolledBack,
        _ => ResultState::Other(format!("{}: {output}", result.status)),
    }
}

impl RulesProject<'_> {
    fn write(&self) {
        let UpdateCase { instances, parallelism, action, ratio, order, .. } = self.case;
        let (image, delay, monitor) =
            (&self.engine.image, duration_text(self.case.delay), duration_text(self.case.monitor));
        let yaml = format!(
            "
services:
  app:
    image: {image}
    environment:
      VERSION: '${{VERSION}}'
      TICKETS: '${{TICKETS:-}}'
      FAILING: '${{FAILING:-}}'
      FAILING_AFTER: '${{FAILING_AFTER:-}}'
    volumes: ['./tickets:/tickets']
    deploy:
      replicas: {instances}
      update_config:
        parallelism: {parallelism}
        delay: {delay}
        monitor: {monitor}
        failure_action: {action}
        max_failure_ratio: {ratio}
        order: {order}
      rollback_config: {{parallelism: 0, monitor: 1s}}
"
        );
        fs::write(self.folder.join("compose.yaml"), yaml).expect("a file of the project");
    }

    fn deploy(&self, version: &str) -> Output {
        let mut command = self.engine.command(env!("CARGO_BIN_EXE_compose-zd"), &self.folder);
        command.args(["-p", &self.name, "deploy", "app"]).env("VERSION", version);
        if version != "1" {
            command.envs(self.case.fails.variables());
        }
        command.output().expect("compose-zd can be started")
    }

    /// Version of each running instance.
    fn versions(&self) -> Vec<String> {
        let filter = format!("label=com.docker.compose.project={}", self.name);
        let ids = self.engine.docker(&format!("ps --quiet --filter {filter}"));
        let version = |id: &str| {
            let output = self.engine.inspect(&format!("inspect --type container {id}"));
            let variables = output[0]["Config"]["Env"].as_array()?.iter();
            variables.filter_map(|v| v.as_str()).find_map(|v| v.strip_prefix("VERSION=").map(String::from))
        };
        ids.lines().filter_map(version).collect()
    }
}

impl Drop for RulesProject<'_> {
    fn drop(&mut self) {
        let filter = format!("label=com.docker.compose.project={}", self.name);
        let ids = self.engine.docker(&format!("ps --all --quiet --filter {filter}"));
        self.engine.try_docker(&format!("rm --force {}", ids.replace('\n', " ")));
    }
}
