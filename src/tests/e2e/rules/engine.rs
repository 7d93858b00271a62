//! What both sides of a row share: the commands, the image, and which instances fail.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Failures, UpdateCase};
use crate::test_project::TestProject;

/// Every wait ends by then.
const LIMIT: Duration = Duration::from_secs(60);

/// Looking is a process; many rows look at a time, and the engine has to get its turn.
const POLL: Duration = Duration::from_millis(250);

/// The health check of a recipe, which runs in an image that has no shell.
const CHECK: &str = "--timeout=10s --retries=20 CMD [\"/sample-app\", \"probe\"]";

/// What threads need of a stage.
pub struct RulesEngine {
    pub name: String,
    pub image: String,
    folder: PathBuf,
    environment: Vec<(OsString, OsString)>,
}

impl RulesEngine {
    /// The interval of the health check is how soon Swarm knows.
    pub fn new(stage: &TestProject, interval: &str) -> RulesEngine {
        // The classic builder is in every engine; the other one is a plugin.
        stage.set_variables("DOCKER_BUILDKIT=0");
        stage.write_dockerfile(&format!("HEALTHCHECK --interval={interval} {CHECK}\n"));
        let base = stage.variable("ZD_APP_IMAGE");
        let image = stage.docker(&format!("build --quiet --build-arg BASE={base} source"));
        let command = stage.command("docker");
        let pairs = command.get_envs().filter_map(|(k, v)| Some((k.into(), v?.into())));
        RulesEngine { name: stage.name.clone(), image, folder: stage.path(""), environment: pairs.collect() }
    }

    /// A new folder of one side of a row.
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

    /// Runs docker with these words; a failure is the test's.
    pub fn docker(&self, line: &str) -> String {
        let output = self.try_docker(line);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "`docker {line}`: {told}");
        String::from_utf8_lossy(&output.stdout).trim().into()
    }

    /// What an inspecting command tells.
    pub fn inspect(&self, line: &str) -> Value {
        serde_json::from_str(&self.docker(line)).expect("what inspect tells")
    }

    pub fn try_docker(&self, line: &str) -> Output {
        let mut command = self.command("docker", &self.folder);
        command.args(line.split_whitespace()).output().expect("docker can be started")
    }

    /// Waits until none runs that has the number of one that fails: some do so only after the update.
    pub fn wait_for_failures(&self, folder: &Path, row: &UpdateCase) {
        let taken = row.fails.numbers().iter().map(|n| folder.join("tickets").join(n.to_string()));
        let failing: Vec<String> = taken.filter_map(|file| fs::read_to_string(file).ok()).collect();
        wait_for("the failures", || {
            let running = self.docker("ps --quiet");
            let still = running.lines().any(|id| failing.iter().any(|f| f == id));
            (!still).then_some(())
        });
    }
}

/// Looks until there is something to see.
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

/// As Compose and docker both read it.
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

    /// The variables that make a release do so.
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
