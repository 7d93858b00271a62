//! Load generators that run from before a deploy until after it, and the results of their requests.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::test_project::{TestProject, WAIT_LIMIT, wait_until};

/// Default flags. This rate detects a tenth of a second without an answer, and leaves the machine to other tests.
const DEFAULTS: [(&str, &str); 3] = [("--clients", "8"), ("--rate", "40"), ("--seconds", "120")];

/// Clients of every kind, each with its path: short requests with new and with kept connections, slow answers, slow uploads,
/// and streams.
const MIXED_CLIENTS: [(&str, &str); 5] = [
    ("/", "--clients 2 --rate 30"),
    ("/", "--clients 3 --rate 30 --keep-alive --method POST --body 500"),
    ("/slow?seconds=1.5", "--clients 2 --method POST --body 500"),
    ("/", "--clients 2 --method POST --body 20000 --slow-body 1.5"),
    ("/", "--clients 2 --stream 3"),
];

/// Time for which every answer is a 200 before a load begins. Old workers of nginx, which may know only a stopped instance,
/// answer some requests for a moment after the first new ones do.
const STEADY_TIME: Duration = Duration::from_millis(500);

/// Time to continue after a deploy: docker-gen acts at most half a second after the last event.
const SETTLE_TIME: Duration = Duration::from_secs(1);

/// A running load generator.
pub struct Load<'s> {
    project: &'s TestProject,
    words: String,
    child: Option<Child>,
    result: PathBuf,
    stop: PathBuf,
}

/// Several load generators at once, one per kind of client.
pub struct MixedLoad<'s>(Vec<Load<'s>>);

/// Results of the requests.
#[derive(Debug)]
pub struct Answers(Value);

impl<'s> Load<'s> {
    /// Starts the load once the project answers steadily, and returns when every client has sent its first request.
    pub fn start(project: &'s TestProject, url: &str, host: &str, words: &str) -> Self {
        project.wait_until_steady("/", STEADY_TIME);
        let (result, stop) = (project.new_file("json"), project.new_file("stop"));
        let mut command = project.command(project.variable("ZD_LOAD"));
        let defaults = DEFAULTS.iter().filter(|(flag, _)| !words.contains(flag));
        command
            .args(["--url", url, "--host", host])
            .args(defaults.flat_map(|(flag, value)| [flag, value]))
            .arg("--out")
            .arg(&result)
            .arg("--stop-file")
            .arg(&stop)
            .args(words.split_whitespace())
            .stdout(Stdio::null());
        let child = command.spawn().expect("zd-load: run scripts/setup");
        let load = Load { project, words: words.into(), child: Some(child), result, stop };
        load.wait_for_clients();
        load
    }

    /// Number of clients.
    fn client_count(&self) -> usize {
        let after = |words: &str| words.split_once("--clients ")?.1.split(' ').next()?.parse().ok();
        after(&self.words).unwrap_or(8)
    }

    /// Waits for all threads, then for an own request, which is answered after the first requests of the clients were sent.
    fn wait_for_clients(&self) {
        let child = self.child.as_ref().expect("it was just started");
        let threads = format!("/proc/{}/task", child.id());
        wait_until("zd-load has started its clients", WAIT_LIMIT, || {
            fs::read_dir(&threads).is_ok_and(|t| t.count() > self.client_count())
        });
        let reply = self.project.get("/").expect("an answer before the deploy");
        assert_eq!(reply.status, 200, "before the deploy");
    }

    /// Lets the load continue for a moment, and stops it.
    pub fn stop(self) -> Answers {
        let now = Instant::now();
        wait_until("a moment after the deploy", WAIT_LIMIT, || now.elapsed() > SETTLE_TIME);
        self.stop_at_once()
    }

    fn stop_at_once(mut self) -> Answers {
        let child = self.child.as_mut().expect("it is ended once");
        let ended = child.try_wait().expect("a child");
        assert!(ended.is_none(), "zd-load ended before the deploy did");
        Answers(self.wait_for_result())
    }

    fn wait_for_result(&mut self) -> Value {
        let mut child = self.child.take().expect("it is ended once");
        fs::write(&self.stop, "").expect("the stop file");
        let _ = child.wait();
        let text = fs::read_to_string(&self.result).unwrap_or_default();
        self.project.log(&format!("zd-load {}: {text}", self.words));
        serde_json::from_str(&text).unwrap_or_default()
    }
}

impl<'s> MixedLoad<'s> {
    pub fn start(project: &'s TestProject) -> Self {
        let url = project.url();
        let load = |(path, words)| {
            Load::start(project, &(url.trim_end_matches('/').to_owned() + path), &project.host(), words)
        };
        MixedLoad(MIXED_CLIENTS.map(load).into())
    }

    /// Asserts that every request of every kind was answered, by exactly these versions.
    pub fn stop_all_from(mut self, versions: &[&str]) {
        let last = self.0.pop().expect("there are kinds");
        let mut all = vec![last.stop()];
        all.extend(self.0.into_iter().map(Load::stop_at_once));
        all.iter().for_each(|answers| answers.all_from(versions));
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.wait_for_result();
        }
    }
}

impl Answers {
    /// Asserts that every request was answered, by exactly these versions.
    pub fn all_from(&self, versions: &[&str]) {
        self.all_answered();
        let expected: BTreeSet<&str> = versions.iter().copied().collect();
        assert_eq!(self.versions(), expected, "versions that answered");
    }

    /// Asserts that every request was answered, and that this version answered some of them.
    pub fn all_until(&self, version: &str) {
        self.all_answered();
        assert!(self.versions().contains(version), "{:#}", self.0);
    }

    fn all_answered(&self) {
        assert_eq!(self.lost(), 0, "lost requests; {:#}", self.0);
    }

    pub fn answered(&self) -> u64 {
        self.0["ok"].as_u64().expect("zd-load tells what was answered")
    }

    pub fn lost(&self) -> u64 {
        self.0["lost"].as_u64().expect("zd-load tells what was lost")
    }

    /// Time between the first and the last lost request.
    pub fn failing_time(&self) -> Duration {
        let at = |name: &str| self.0[name].as_f64().unwrap_or_default();
        Duration::from_secs_f64(at("lost_to_s") - at("lost_from_s"))
    }

    fn versions(&self) -> BTreeSet<&str> {
        let counts = self.0["versions"].as_object();
        counts.map(|v| v.keys().map(String::as_str).collect()).unwrap_or_default()
    }
}
