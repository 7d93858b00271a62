//! Parts shared by both sides of a case: the commands, the image, and the failing instances.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Failures, UpdateCase};
use crate::test_project::TestProject;

/// Limit of every wait.
const LIMIT: Duration = Duration::from_secs(60);

/// Interval between two observations. Each one is a process, and many cases observe at the same time.
const POLL: Duration = Duration::from_millis(250);

/// Health check of the Dockerfile, for an image without a shell.
const CHECK: &str = "--timeout=10s --retries=20 CMD [\"/sample-app\", \"probe\"]";

/// Parts of a test project that threads share.
pub struct RulesEngine {
    pub name: String,
    pub image: String,
    folder: PathBuf,
    environment: Vec<(OsString, OsString)>,
}

impl RulesEngine {
    /// Builds the image; the interval of its health check decides how soon Swarm notices a failure.
    pub fn new(project: &TestProject, interval: &str) -> RulesEngine {
        // Every engine has the classic builder; the other one is a plugin.
        project.set_variables("DOCKER_BUILDKIT=0");
        project.write_dockerfile(&format!("HEALTHCHECK --interval={interval} {CHECK}\n"));
        let base = project.variable("ZD_APP_IMAGE");
        let image = project.docker(&format!("build --quiet --build-arg BASE={base} source"));
        let command = project.command("docker");
        let pairs = command.get_envs().filter_map(|(k, v)| Some((k.into(), v?.into())));
        RulesEngine {
            name: project.name.clone(),
            image,
            folder: project.path(""),
            environment: pairs.collect(),
        }
    }

    /// Creates a folder for one side of a case.
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.join(name);
        fs::create_dir_all(folder.join("tickets")).expect("a folder");
        folder
    }

    pub fn command(&self, program: impl AsRef<Path>, folder: &Path) -> Command {
        let mut command = Command::new(program.as_ref());
        let environment = self.environment.iter().map(|(k, v)| (k, v));
        command.env_clear().envs(environment).current_dir(folder).stdin(Stdio::null());
        command
    }

    /// Runs docker; a failure fails the test.
    pub fn docker(&self, line: &str) -> String {
        let output = self.try_docker(line);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "`docker {line}`: {stderr}");
        String::from_utf8_lossy(&output.stdout).trim().into()
    }

    /// JSON output of an inspect command.
    pub fn inspect(&self, line: &str) -> Value {
        serde_json::from_str(&self.docker(line)).expect("what inspect tells")
    }

    pub fn try_docker(&self, line: &str) -> Output {
        let mut command = self.command("docker", &self.folder);
        command.args(line.split_whitespace()).output().expect("docker can be started")
    }

    /// Waits until no instance that must fail still runs: some fail only after the update.
    pub fn wait_for_failures(&self, folder: &Path, case: &UpdateCase) {
        let taken = case.fails.numbers().iter().map(|n| folder.join("tickets").join(n.to_string()));
        let failing: Vec<String> = taken.filter_map(|file| fs::read_to_string(file).ok()).collect();
        wait_for("the failures", || {
            let running = self.docker("ps --quiet");
            let still = running.lines().any(|id| failing.iter().any(|f| f == id));
            (!still).then_some(())
        });
    }
}

/// Repeats a query until it returns a value.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(start.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        thread::sleep(POLL);
    }
}

/// Duration in the format of Compose and docker.
pub fn duration_text(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

impl Failures {
    fn numbers(&self) -> &'static [u32] {
        match self {
            Failures::Never => &[],
            Failures::BeforeReady(numbers) | Failures::AfterReady(numbers, _) => numbers,
        }
    }

    /// Variables that make the instances of a release fail.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let after = match self {
            Failures::AfterReady(_, after) => after.as_secs_f64(),
            _ => 0.0,
        };
        let numbers: Vec<String> = self.numbers().iter().map(u32::to_string).collect();
        let tickets = ("TICKETS", "/tickets".to_string());
        vec![tickets, ("FAILING", numbers.join(",")), ("FAILING_AFTER", after.to_string())]
    }
}
