//! Runs compose-zd under test: starts it, follows its output, sends signals, and checks its end.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use crate::test_project::{TestProject, WAIT_LIMIT, wait_for_instant};

/// Longest time that a command may take, so that a test whose command hangs shows its output.
const COMMAND_LIMIT: Duration = Duration::from_secs(240);

/// A running compose-zd command.
pub struct RunningCommand<'s> {
    project: &'s TestProject,
    /// Command and arguments.
    words: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    /// Containers that the command must not touch.
    bystanders: BTreeSet<(String, String)>,
}

/// Result of a compose-zd command.
#[derive(Debug)]
pub struct CommandResult {
    /// Exit code; none if a signal ended the command.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl<'s> RunningCommand<'s> {
    /// Starts a command; `words` begin with its name: `deploy app`.
    pub fn start(project: &'s TestProject, words: &str) -> Self {
        let is_named = |container: &str| {
            let service = container.rsplit_once('-').map_or("", |(service, _)| service);
            words.split_whitespace().any(|word| word == service)
        };
        let mut bystanders = project.bystanders();
        bystanders.retain(|(name, _)| !is_named(name));
        let (stdout, stderr) = (project.new_file("stdout"), project.new_file("stderr"));
        let file = |path: &PathBuf| File::create(path).expect("a file for its output");
        let mut command = project.compose_zd();
        let own = ["-p", &project.name];
        command
            .args(own.into_iter().filter(|_| !words.starts_with("-p ")))
            .args(words.split_whitespace())
            .stdout(file(&stdout))
            .stderr(file(&stderr));
        RunningCommand {
            project,
            words: words.into(),
            child: command.spawn().expect("compose-zd can be started"),
            stdout,
            stderr,
            bystanders,
        }
    }

    /// Waits for this text on stderr.
    pub fn wait_for(&mut self, text: &str) {
        wait_for_instant(&format!("`{text}`"), WAIT_LIMIT, || {
            let ended = self.child.try_wait().expect("a child");
            let output = read_text(&self.stderr);
            let known = output.contains(text);
            assert!(known || ended.is_none(), "it ended before `{text}`: {output}");
            known
        });
    }

    /// Waits until the command has started its first process.
    pub fn wait_for_child(&mut self) {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        wait_for_instant("its first process", WAIT_LIMIT, || {
            fs::read_to_string(&children).is_ok_and(|children| !children.trim().is_empty())
        });
    }

    /// Instances that the output has named after a verb so far, one list per line: `started app-7, app-8`.
    pub fn reported(&self, verb: &str) -> Vec<Vec<String>> {
        let verb = format!("s  {verb} ");
        let output = read_text(&self.stderr);
        let lines = output.split_inclusive('\n').filter(|l| l.ends_with('\n'));
        let names = lines.filter_map(|l| l.trim_end().split_once(&verb)).map(|(_, names)| names);
        names.map(|n| n.split(", ").map(String::from).collect()).collect()
    }

    /// Waits for the `n`th line with a verb, and returns its instances.
    pub fn wait_for_names(&mut self, verb: &str, n: usize) -> Vec<String> {
        wait_for_instant(&format!("line {n} of `{verb}`"), WAIT_LIMIT, || {
            let ended = !self.is_running();
            let known = self.reported(verb).len() >= n;
            assert!(known || !ended, "it ended before line {n} of `{verb}`: {}", read_text(&self.stderr));
            known
        });
        self.reported(verb).swap_remove(n - 1)
    }

    /// The command is still running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// Sends SIGKILL, as the kernel does when memory runs out.
    pub fn kill(mut self) {
        self.child.kill().expect("it still runs");
        self.wait();
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        let mut kill = self.project.command("kill");
        let sent = kill.args(["-s", name, &self.child.id().to_string()]);
        assert!(sent.status().expect("kill can be started").success());
    }

    /// As [`RunningCommand::signal`], but the command may have ended already.
    pub fn try_signal(&self, name: &str) {
        let mut kill = self.project.command("kill");
        let _ = kill
            .args(["-s", name, &self.child.id().to_string()])
            .stderr(std::process::Stdio::null())
            .status();
    }

    /// Kills the docker client that the command waits for, as soon as one runs.
    pub fn kill_children(&mut self) {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        wait_for_instant("it waits for docker", WAIT_LIMIT, || {
            let found = fs::read_to_string(&children).unwrap_or_default();
            let command = |id: &&str| fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
            // The watchdog is a child, too, and is there from the start.
            let clients = found.split_whitespace().filter(|id| !command(id).contains("__watchdog"));
            let clients: Vec<&str> = clients.collect();
            for id in &clients {
                let _ = self
                    .project
                    .command("kill")
                    .args(["-KILL", id])
                    .stderr(std::process::Stdio::null())
                    .status();
            }
            !clients.is_empty() || !self.is_running()
        });
    }

    /// Stderr so far.
    pub fn stderr(&self) -> String {
        read_text(&self.stderr)
    }

    /// Waits for the end without checking other containers, for tests that touch them themselves.
    pub fn wait_unchecked(mut self) -> CommandResult {
        let status = self.wait_for_end();
        self.record(status)
    }

    fn wait_for_end(&mut self) -> ExitStatus {
        let mut status = None;
        wait_for_instant(&format!("the end of `compose-zd {}`", self.words), COMMAND_LIMIT, || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("it was waited for")
    }

    /// Waits for the end, and asserts that unnamed containers are untouched, except dependents that the output reports as restarted.
    pub fn wait(mut self) -> CommandResult {
        let status = self.wait_for_end();
        let result = self.record(status);
        let still = self.project.bystanders();
        let may_restart = |name: &str| {
            let service = name.rsplit_once('-').map_or(name, |(service, _)| service);
            result.stderr.lines().any(|l| l.contains("restarting `") && l.contains(&format!("`{service}`")))
        };
        let mut gone: Vec<_> = self.bystanders.difference(&still).collect();
        gone.retain(|(name, _)| !may_restart(name));
        assert!(gone.is_empty(), "these were not named: {gone:?}");
        result
    }

    fn record(&self, status: ExitStatus) -> CommandResult {
        let result = CommandResult {
            code: status.code(),
            stdout: read_text(&self.stdout),
            stderr: read_text(&self.stderr),
        };
        let CommandResult { stdout, stderr, .. } = &result;
        let story = format!("compose-zd {}: {status}\n{stdout}{stderr}", self.words);
        self.project.log(&story);
        result
    }
}

impl Drop for RunningCommand<'_> {
    fn drop(&mut self) {
        // Only a failed test leaves the command running.
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            if let Ok(status) = self.child.wait() {
                self.record(status);
            }
        }
    }
}

impl CommandResult {
    pub fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "exit code; {}", self.stderr);
        self
    }

    /// Requests that the witness sent and lost, over all URLs.
    pub fn witness_counts(&self) -> (usize, usize) {
        let output = self.stderr.lines().filter_map(|l| l.split_once("  witness http")?.1.split_once(": "));
        let number = |text: &str, what: &str| -> usize {
            let (before, _) = text.split_once(what).expect("a number");
            before.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number")
        };
        // `0 of 58 lost`
        let one = |(_, output): (&str, &str)| (number(output, " lost"), number(output, " of "));
        let sum = output.map(one).reduce(|a, b| (a.0 + b.0, a.1 + b.1));
        sum.unwrap_or_else(|| panic!("there was no witness: {}", self.stderr))
    }

    /// Asserts that stdout or stderr has this text.
    pub fn says(&self, text: &str) -> &Self {
        let output = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(output, "it does not say `{text}`");
        self
    }

    pub fn never_says(&self, text: &str) -> &Self {
        let output = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(!output, "it says `{text}`");
        self
    }
}

fn read_text(path: &PathBuf) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
