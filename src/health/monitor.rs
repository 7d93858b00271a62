//! New instances that still count if they fail: followed from the moment they are ready to the end of their window. The
//! engine's events tell of a death at once; where there are none it is asked five times a second, and their probes are
//! asked once a second. All of it happens on threads of its own: whoever waits for something else looks in.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{
    Candidate, InstanceCheck, InstanceEnd, ProbeResult, Prober, ReadinessProbe, ask_all, ended, with_logs,
};
use crate::docker::Docker;
use crate::docker::events::{ContainerEvent, EventKind, EventStream};
use crate::docker::inspect::Container;
use crate::error::Error;
use crate::model::ProbeTiming;
use crate::wait::{Ticker, Wakeup};

/// How often the engine is asked where it does not tell.
const POLL: Duration = Duration::from_millis(200);

/// How often instances are probed, and looked at for what no event tells.
const PROBE: Duration = Duration::from_secs(1);

/// Bad answers in a row that make an instance count as failed after it was ready: Docker's own default (`retries`).
const MISSES: u32 = 3;

/// An instance whose process was killed for want of memory has died itself, if it has not by then.
const OUTLIVED: Duration = Duration::from_millis(500);

/// The watch of a run, which follows the instances of all its rollouts.
#[derive(Default)]
pub struct Monitor(OnceLock<MonitorThread>);

struct MonitorThread {
    shared: Arc<SharedState>,
    _events: EventStream,
}

struct SharedState {
    docker: Docker,
    begun: Instant,
    bell: Arc<Wakeup>,
    beats: [Ticker; 2],
    all: Mutex<MonitorState>,
}

/// Who is followed, and what happened to containers, also before they were.
#[derive(Default)]
struct MonitorState {
    instances: Vec<MonitoredInstance>,
    happened: BTreeMap<String, Vec<(Instant, EventKind)>>,
}

/// One that is followed.
#[derive(Clone)]
struct MonitoredInstance {
    candidate: Candidate,
    pace: ProbeTiming,
    /// Since when it is in rotation, and for how long it is watched from then on; none before.
    window: Option<(Instant, Duration)>,
    misses: u32,
    /// What it answered last.
    last: String,
    out_of_memory: Option<Instant>,
    end: Option<InstanceEnd>,
}

/// Instances that failed while they were followed.
pub struct MonitorFailure {
    /// Full container ids.
    pub ids: Vec<String>,
    pub names: Vec<String>,
    /// Why, with their last log lines: nobody who goes back waits for those.
    pub error: JoinHandle<Error>,
}

impl fmt::Debug for MonitorFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}: {}", self.ids.join(", "))
    }
}

impl fmt::Display for MonitorFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an instance failed after it was ready")
    }
}

impl std::error::Error for MonitorFailure {}

impl Monitor {
    /// Begins to follow the containers of a project; each event rings the bell.
    pub fn begin(&self, docker: &Docker, project: &str, bell: Arc<Wakeup>) {
        let shared = Arc::new(SharedState {
            docker: docker.clone(),
            begun: Instant::now(),
            bell,
            beats: Default::default(),
            all: Mutex::default(),
        });
        let told = Arc::clone(&shared);
        let events = docker.follow(project, move |happening| told.record(happening));
        let (poller, prober, is_told) = (Arc::clone(&shared), Arc::clone(&shared), events.are_told());
        if self.0.set(MonitorThread { shared, _events: events }).is_err() {
            return;
        }
        thread::spawn(move || poller.beats[0].each(POLL, || poller.poll(is_told())));
        thread::spawn(move || prober.beats[1].each(PROBE, || prober.probe()));
    }

    fn shared(&self) -> Option<&Arc<SharedState>> {
        self.0.get().map(|begun| &begun.shared)
    }

    /// Time since it began.
    pub fn elapsed(&self) -> Duration {
        self.shared().map_or(Duration::ZERO, |s| s.begun.elapsed())
    }

    /// Follows an instance that has just answered as ready.
    pub fn follow(&self, candidate: Candidate, pace: ProbeTiming, answer: &str) {
        if let Some(shared) = self.shared() {
            shared.all().follow(MonitoredInstance::new(candidate, pace, answer));
        }
    }

    /// Follows an instance that is in rotation since an earlier run, which has run for this long.
    pub fn follow_on(&self, candidate: Candidate, pace: ProbeTiming, age: Duration, monitor: Duration) {
        if let Some(shared) = self.shared() {
            let since = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
            let instance = MonitoredInstance {
                window: Some((since, monitor)),
                ..MonitoredInstance::new(candidate, pace, "")
            };
            shared.all().follow(instance);
        }
    }

    /// The windows of those of these that were not in rotation yet begin. Gives their ids.
    pub fn admit(&self, ids: &[String], monitor: Duration) -> Vec<String> {
        self.shared().map(|s| s.all().admit(ids, monitor)).unwrap_or_default()
    }

    /// Takes in containers as they were read just now.
    pub fn see<'c>(&self, containers: impl Iterator<Item = &'c Container>) {
        if let Some(shared) = self.shared() {
            let mut all = shared.all();
            containers.for_each(|c| all.see(c));
        }
    }

    /// Looks at all that are followed.
    pub fn look(&self) {
        self.shared().iter().for_each(|s| s.look());
    }

    /// Those that failed: once.
    pub fn alarm(&self) -> Option<MonitorFailure> {
        let shared = self.shared()?;
        let failed = shared.all().take_failed();
        (!failed.is_empty()).then(|| MonitorFailure {
            ids: failed.iter().map(|i| i.id().clone()).collect(),
            names: failed.iter().map(|i| i.candidate.name.clone()).collect(),
            error: {
                let docker = shared.docker.clone();
                thread::spawn(move || explained(&docker, &failed))
            },
        })
    }

    /// Whether the engine has told that the process of a container ended, be it started again since.
    pub fn has_died(&self, id: &str) -> bool {
        self.shared().is_some_and(|s| s.all().has_died(id))
    }

    /// Names of those that ran out of memory and run on: once.
    pub fn out_of_memory(&self) -> Vec<String> {
        self.shared().map(|s| s.all().take_out_of_memory()).unwrap_or_default()
    }

    /// Until the last window is over.
    pub fn left(&self) -> Duration {
        self.shared().map_or(Duration::ZERO, |s| s.all().left())
    }

    /// Names of those whose window is not over.
    pub fn names(&self) -> Vec<String> {
        let shared = self.shared();
        shared.map(|s| s.all().due().map(|i| i.candidate.name.clone()).collect()).unwrap_or_default()
    }

    /// Follows nobody any longer: what fails from here on has no more consequences.
    pub fn end(&self) {
        if let Some(shared) = self.shared() {
            shared.all().instances.clear();
            shared.beats.iter().for_each(Ticker::end);
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.end();
    }
}

impl SharedState {
    fn all(&self) -> MutexGuard<'_, MonitorState> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, happening: ContainerEvent) {
        self.all().record(happening);
        self.bell.ring();
    }

    /// Where the engine tells what happens this is left to the slower look beside the probes.
    fn poll(&self, is_told: bool) {
        if !is_told {
            self.look();
        }
    }

    fn look(&self) {
        let ids: Vec<String> = self.all().due().map(|i| i.id().clone()).collect();
        // An engine that does not answer is asked again.
        let Ok(read) = self.docker.inspect(&ids) else { return };
        let gone = ids.iter().filter(|id| !read.iter().any(|c| c.id == **id));
        let mut all = self.all();
        read.iter().for_each(|c| all.see(c));
        gone.for_each(|id| all.end(id, InstanceEnd::Other("it was removed".into())));
        if all.instances.iter().any(|i| i.end.is_some()) {
            self.bell.ring();
        }
    }

    fn probe(&self) {
        let due: Vec<MonitoredInstance> = self.all().due().filter(|i| i.window.is_some()).cloned().collect();
        let Some(pace) = due.first().map(|i| i.pace) else { return };
        let candidates: Vec<Candidate> = due.iter().map(|i| without_check(&i.candidate)).collect();
        let all: Vec<usize> = (0..candidates.len()).collect();
        let turns =
            Prober::new(&self.docker, pace.timeout).and_then(|a| ask_all(&a, &candidates, &all, None));
        // As above.
        let Ok(turns) = turns else { return };
        let mut all = self.all();
        for (candidate, turn) in candidates.iter().zip(turns) {
            all.record_check(&candidate.id, turn);
        }
        if all.instances.iter().any(|i| i.end.is_some()) {
            self.bell.ring();
        }
    }
}

impl MonitorState {
    fn follow(&mut self, mut instance: MonitoredInstance) {
        let id = instance.id().clone();
        for (at, what) in self.happened.get(&id).into_iter().flatten() {
            instance.record_event(*what, *at);
        }
        self.instances.retain(|i| *i.id() != id);
        self.instances.push(instance);
    }

    fn admit(&mut self, ids: &[String], monitor: Duration) -> Vec<String> {
        let now = Instant::now();
        let coming =
            self.instances.iter_mut().filter(|i| i.window.is_none() && ids.contains(&i.candidate.id));
        let admit = |instance: &mut MonitoredInstance| {
            instance.window = Some((now, monitor));
            instance.id().clone()
        };
        coming.map(admit).collect()
    }

    fn record(&mut self, ContainerEvent { id, what }: ContainerEvent) {
        let now = Instant::now();
        self.instances.iter_mut().filter(|i| *i.id() == id).for_each(|i| i.record_event(what, now));
        self.happened.entry(id).or_default().push((now, what));
    }

    fn has_died(&self, id: &str) -> bool {
        let happened = self.happened.get(id).into_iter().flatten();
        happened.into_iter().any(|(_, what)| matches!(what, EventKind::Died { .. }))
    }

    fn see(&mut self, container: &Container) {
        for instance in self.instances.iter_mut().filter(|i| *i.id() == container.id) {
            if let Some(end) = ended(container, &instance.candidate.probe) {
                instance.fail(end);
            }
        }
    }

    fn end(&mut self, id: &String, end: InstanceEnd) {
        self.instances.iter_mut().filter(|i| i.id() == id).for_each(|i| i.fail(end.clone()));
    }

    fn record_check(&mut self, id: &String, turn: InstanceCheck) {
        let instance = self.instances.iter_mut().find(|i| i.id() == id);
        instance.into_iter().for_each(|i| match &turn {
            InstanceCheck::Answered(answer) => i.record_probe(answer),
            InstanceCheck::Ended(end) => i.fail(end.clone()),
        });
    }

    fn due(&self) -> impl Iterator<Item = &MonitoredInstance> {
        let now = Instant::now();
        self.instances.iter().filter(move |i| i.is_due(now))
    }

    /// Those whose window is over are no longer followed.
    fn take_failed(&mut self) -> Vec<MonitoredInstance> {
        let now = Instant::now();
        self.instances.retain(|i| i.end.is_some() || i.is_due(now));
        let (failed, others) = self.instances.drain(..).partition(|i| i.end.is_some());
        self.instances = others;
        failed
    }

    fn take_out_of_memory(&mut self) -> Vec<String> {
        let outlived = |i: &&mut MonitoredInstance| {
            i.end.is_none() && i.out_of_memory.is_some_and(|at| at.elapsed() > OUTLIVED)
        };
        let name = |instance: &mut MonitoredInstance| {
            instance.out_of_memory = None;
            instance.candidate.name.clone()
        };
        self.instances.iter_mut().filter(outlived).map(name).collect()
    }

    fn left(&self) -> Duration {
        self.instances.iter().map(MonitoredInstance::left).max().unwrap_or_default()
    }
}

impl MonitoredInstance {
    fn new(candidate: Candidate, pace: ProbeTiming, answer: &str) -> MonitoredInstance {
        MonitoredInstance {
            candidate,
            pace,
            window: None,
            misses: 0,
            last: answer.into(),
            out_of_memory: None,
            end: None,
        }
    }

    fn id(&self) -> &String {
        &self.candidate.id
    }

    /// What fails outside of its window does not count.
    fn is_due(&self, now: Instant) -> bool {
        self.window.is_none_or(|(since, monitor)| now.saturating_duration_since(since) <= monitor)
    }

    fn left(&self) -> Duration {
        self.window.map_or(Duration::ZERO, |(since, monitor)| monitor.saturating_sub(since.elapsed()))
    }

    fn fail(&mut self, end: InstanceEnd) {
        if self.is_due(Instant::now()) && self.end.is_none() {
            self.end = Some(end);
        }
    }

    fn record_event(&mut self, what: EventKind, at: Instant) {
        match what {
            EventKind::Died { code: Some(code) } => {
                let out_of_memory = self.out_of_memory.is_some();
                self.fail(InstanceEnd::Exited { code, out_of_memory });
            }
            EventKind::Died { code: None } => self.fail(InstanceEnd::Other("it exited".into())),
            EventKind::OutOfMemory => self.out_of_memory = Some(at),
            EventKind::Unhealthy => self.fail(InstanceEnd::Unhealthy),
        }
    }

    fn record_probe(&mut self, answer: &ProbeResult) {
        self.last = answer.text.clone();
        self.misses = if answer.ready { 0 } else { self.misses + 1 };
        if self.misses >= MISSES {
            self.fail(InstanceEnd::Other(format!("it stopped answering as ready: {}", answer.text)));
        }
    }
}

/// Running a healthcheck's command costs a process in the instance, and Docker runs it anyway.
fn without_check(candidate: &Candidate) -> Candidate {
    match candidate.probe {
        ReadinessProbe::Check(_) => {
            Candidate { probe: ReadinessProbe::Check(Vec::new()), ..candidate.clone() }
        }
        _ => candidate.clone(),
    }
}

/// The first one's words, and what was seen of all.
fn explained(docker: &Docker, failed: &[MonitoredInstance]) -> Error {
    let faults = failed.iter().map(|instance| {
        let (candidate, end) = (&instance.candidate, instance.end.as_ref());
        let code = match end {
            // No event has told it.
            Some(InstanceEnd::Restarted) => docker.last_exit_code(&candidate.id).ok().flatten(),
            _ => None,
        };
        let why = end.map(|end| end.explain(code)).unwrap_or_default();
        let error = Error::unchanged(format!("{} failed after it was ready: {why}", candidate.name));
        let error = match instance.last.as_str() {
            "" => error,
            last => error.seen(&format!("{} answered last: {last}", candidate.name)),
        };
        with_logs(error, docker, candidate)
    });
    let all = faults.reduce(|mut first, other| {
        first.details.push(other.message);
        first.details.extend(other.details);
        first
    });
    all.unwrap_or_else(|| Error::unchanged("an instance failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn followed(ids: &[&str]) -> MonitorState {
        let mut all = MonitorState::default();
        ids.iter().for_each(|id| all.follow(instance(id)));
        all
    }

    fn instance(id: &str) -> MonitoredInstance {
        let candidate =
            Candidate { name: format!("app-{id}"), id: id.into(), probe: ReadinessProbe::Running };
        MonitoredInstance::new(candidate, ProbeTiming::default(), "200")
    }

    fn hear(all: &mut MonitorState, id: &str, what: EventKind) {
        all.record(ContainerEvent { id: id.into(), what });
    }

    /// Names of those that failed since, with the reason.
    fn failed(all: &mut MonitorState) -> Vec<String> {
        let told = |i: MonitoredInstance| format!("{}: {}", i.candidate.name, i.end.unwrap().explain(None));
        all.take_failed().into_iter().map(told).collect()
    }

    fn container(id: &str, state: &str) -> Container {
        serde_json::from_str(&format!(r#"{{"Id": "{id}", {state}}}"#)).unwrap()
    }

    const DIED: EventKind = EventKind::Died { code: Some(7) };

    #[test]
    fn a_death_is_told_once_and_only_of_those_that_are_followed() {
        let mut all = followed(&["1", "2"]);
        hear(&mut all, "3", DIED);
        assert!(failed(&mut all).is_empty());
        hear(&mut all, "2", DIED);
        hear(&mut all, "2", EventKind::Died { code: Some(8) });
        assert_eq!(failed(&mut all), ["app-2: it exited with code 7"]);
        assert!(failed(&mut all).is_empty());
        hear(&mut all, "1", EventKind::Unhealthy);
        assert_eq!(failed(&mut all), ["app-1: its healthcheck failed for good"]);
    }

    #[test]
    fn what_happened_before_it_was_ready_counts() {
        let mut all = MonitorState::default();
        hear(&mut all, "1", DIED);
        all.follow(instance("1"));
        assert_eq!(failed(&mut all), ["app-1: it exited with code 7"]);
    }

    #[test]
    fn its_window_begins_when_it_comes_into_rotation_and_what_fails_after_it_does_not_count() {
        let mut all = followed(&["1", "2"]);
        let ids = ["1".to_string(), "4".to_string()];
        assert_eq!(all.admit(&ids, MS * 60_000), ["1"]);
        assert!(all.admit(&ids, MS).is_empty(), "it is in rotation");
        assert!(all.left() > MS * 50_000);
        assert_eq!(all.due().count(), 2, "one that is not in rotation yet is followed as well");
        all.instances[0].window = Some((Instant::now() - MS * 20, MS * 10));
        assert_eq!(all.left(), Duration::ZERO);
        hear(&mut all, "1", DIED);
        assert!(failed(&mut all).is_empty());
        assert_eq!(all.instances.len(), 1, "it is followed no longer");
    }

    #[test]
    fn without_a_monitor_nobody_is_followed_once_in_rotation() {
        let mut all = followed(&["1"]);
        all.admit(&["1".into()], Duration::ZERO);
        std::thread::yield_now();
        hear(&mut all, "1", DIED);
        assert!(failed(&mut all).is_empty());
    }

    #[test]
    fn what_no_event_has_told_is_seen() {
        let mut all = followed(&["1", "2", "3"]);
        all.see(&container("1", r#""State": {"Status": "running"}"#));
        all.see(&container("2", r#""RestartCount": 1, "State": {"Status": "running"}"#));
        all.see(&container("3", r#""State": {"Status": "exited", "ExitCode": 3}"#));
        all.end(&"1".to_string(), InstanceEnd::Other("it was removed".into()));
        assert_eq!(
            failed(&mut all),
            ["app-1: it was removed", "app-2: it exited and was restarted", "app-3: it exited with code 3"]
        );
    }

    #[test]
    fn three_bad_answers_in_a_row_fail() {
        let mut all = followed(&["1"]);
        let mut answer = |ready| {
            all.record_check(
                &"1".to_string(),
                InstanceCheck::Answered(ProbeResult { ready, text: "→ 503".into() }),
            );
            all.take_failed().into_iter().map(|i| i.end.unwrap().explain(None)).collect::<Vec<_>>()
        };
        for ready in [false, false, true, false, false] {
            assert!(answer(ready).is_empty());
        }
        assert_eq!(answer(false), ["it stopped answering as ready: → 503"]);
    }

    #[test]
    fn one_that_outlives_a_process_that_was_killed_for_memory_is_named_and_one_that_does_not_has_failed() {
        let mut all = followed(&["1", "2"]);
        hear(&mut all, "1", EventKind::OutOfMemory);
        hear(&mut all, "2", EventKind::OutOfMemory);
        hear(&mut all, "2", EventKind::Died { code: Some(137) });
        assert_eq!(failed(&mut all), ["app-2: it exited with code 137, out of memory"]);
        assert!(all.take_out_of_memory().is_empty(), "it may still die of it");
        all.instances[0].out_of_memory = Some(Instant::now() - OUTLIVED - MS);
        assert_eq!(all.take_out_of_memory(), ["app-1"]);
        assert!(all.take_out_of_memory().is_empty());
    }
}
