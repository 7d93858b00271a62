//! Monitor of new instances, from the time they are ready to the end of their window. The window is the time in rotation
//! that `monitor` sets. The engine's events report a death at once. Without events, the monitor inspects the instances five
//! times a second. A background thread probes the instances once a second. The rollout checks for failures while it waits.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{
    Candidate, InstanceCheck, InstanceEnd, ProbeResult, Prober, ReadinessProbe, instance_end, probe_all,
    with_logs,
};
use crate::docker::Docker;
use crate::docker::events::{ContainerEvent, EventKind, EventStream};
use crate::docker::inspect::Container;
use crate::error::Error;
use crate::model::ProbeTiming;
use crate::wait::{Ticker, Wakeup};

/// Interval for inspecting instances if the engine streams no events.
const POLL: Duration = Duration::from_millis(200);

/// Interval for probing instances, and for finding changes that no event reports.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Number of bad answers in a row after which a ready instance has failed; Docker's default of `retries`.
const MAX_FAILURES: u32 = 3;

/// Time that an instance has to run after an out-of-memory kill of one of its processes to count as a survivor.
const OUT_OF_MEMORY_GRACE: Duration = Duration::from_millis(500);

/// Monitor of a run, which follows the instances of all its rollouts.
#[derive(Default)]
pub struct Monitor(OnceLock<MonitorThread>);

struct MonitorThread {
    shared: Arc<SharedState>,
    _events: EventStream,
}

struct SharedState {
    docker: Docker,
    started: Instant,
    wakeup: Arc<Wakeup>,
    tickers: [Ticker; 2],
    state: Mutex<MonitorState>,
}

/// Followed instances, and all events so far: an event may arrive before its instance is followed.
#[derive(Default)]
struct MonitorState {
    instances: Vec<MonitoredInstance>,
    events: BTreeMap<String, Vec<(Instant, EventKind)>>,
}

/// Instance that the monitor follows.
#[derive(Clone)]
struct MonitoredInstance {
    candidate: Candidate,
    timing: ProbeTiming,
    /// Start and length of the window; `None` until the instance is in rotation.
    window: Option<(Instant, Duration)>,
    failures: u32,
    /// Last answer to a probe.
    last_answer: String,
    out_of_memory: Option<Instant>,
    end: Option<InstanceEnd>,
}

/// Instances that failed while they were followed.
pub struct MonitorFailure {
    /// Full ids of the containers.
    pub ids: Vec<String>,
    pub names: Vec<String>,
    /// Error with the last log lines, on a thread: a rollback does not wait for the logs.
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
    /// Starts to follow the containers of a project. Each event wakes the waiting rollout.
    pub fn start(&self, docker: &Docker, project: &str, wakeup: Arc<Wakeup>) {
        let shared = Arc::new(SharedState {
            docker: docker.clone(),
            started: Instant::now(),
            wakeup,
            tickers: Default::default(),
            state: Mutex::default(),
        });
        let receiver = Arc::clone(&shared);
        let events = docker.follow(project, move |event| receiver.record(event));
        let (poller, prober, is_live) = (Arc::clone(&shared), Arc::clone(&shared), events.liveness());
        if self.0.set(MonitorThread { shared, _events: events }).is_err() {
            return;
        }
        thread::spawn(move || poller.tickers[0].each(POLL, || poller.poll(is_live())));
        thread::spawn(move || prober.tickers[1].each(PROBE_INTERVAL, || prober.probe()));
    }

    fn shared(&self) -> Option<&Arc<SharedState>> {
        self.0.get().map(|thread| &thread.shared)
    }

    /// Time since the monitor started.
    pub fn elapsed(&self) -> Duration {
        self.shared().map_or(Duration::ZERO, |s| s.started.elapsed())
    }

    /// Follows an instance that has just become ready.
    pub fn follow(&self, candidate: Candidate, timing: ProbeTiming, answer: &str) {
        if let Some(shared) = self.shared() {
            shared.state().follow(MonitoredInstance::new(candidate, timing, answer));
        }
    }

    /// Follows an instance that an earlier run put into rotation; `age` is the running time of the instance.
    pub fn resume(&self, candidate: Candidate, timing: ProbeTiming, age: Duration, monitor: Duration) {
        if let Some(shared) = self.shared() {
            let since = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
            let instance = MonitoredInstance {
                window: Some((since, monitor)),
                ..MonitoredInstance::new(candidate, timing, "")
            };
            shared.state().follow(instance);
        }
    }

    /// Starts the windows of the instances that are new in rotation, and returns the ids of these instances.
    pub fn admit(&self, ids: &[String], monitor: Duration) -> Vec<String> {
        self.shared().map(|s| s.state().admit(ids, monitor)).unwrap_or_default()
    }

    /// Records containers that were just inspected.
    pub fn observe<'c>(&self, containers: impl Iterator<Item = &'c Container>) {
        if let Some(shared) = self.shared() {
            let mut all = shared.state();
            containers.for_each(|c| all.observe(c));
        }
    }

    /// Inspects all followed instances now.
    pub fn check_now(&self) {
        self.shared().iter().for_each(|s| s.check_now());
    }

    /// Instances that failed since the last call.
    pub fn take_failure(&self) -> Option<MonitorFailure> {
        let shared = self.shared()?;
        let failed = shared.state().take_failed();
        (!failed.is_empty()).then(|| MonitorFailure {
            ids: failed.iter().map(|i| i.id().clone()).collect(),
            names: failed.iter().map(|i| i.candidate.name.clone()).collect(),
            error: {
                let docker = shared.docker.clone();
                thread::spawn(move || failure_error(&docker, &failed))
            },
        })
    }

    /// True if an event reported the death of a container, even if the container was restarted since.
    pub fn has_died(&self, id: &str) -> bool {
        self.shared().is_some_and(|s| s.state().has_died(id))
    }

    /// Names of the instances that ran out of memory since the last call, and still run.
    pub fn take_out_of_memory_survivors(&self) -> Vec<String> {
        self.shared().map(|s| s.state().take_out_of_memory_survivors()).unwrap_or_default()
    }

    /// Time until the end of the last window.
    pub fn remaining(&self) -> Duration {
        self.shared().map_or(Duration::ZERO, |s| s.state().remaining())
    }

    /// Names of the instances whose window has not ended.
    pub fn pending_names(&self) -> Vec<String> {
        let shared = self.shared();
        shared.map(|s| s.state().monitored().map(|i| i.candidate.name.clone()).collect()).unwrap_or_default()
    }

    /// Stops following all instances: later failures do not count.
    pub fn stop(&self) {
        if let Some(shared) = self.shared() {
            shared.state().instances.clear();
            shared.tickers.iter().for_each(Ticker::end);
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop();
    }
}

impl SharedState {
    fn state(&self) -> MutexGuard<'_, MonitorState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, event: ContainerEvent) {
        self.state().record(event);
        self.wakeup.wake();
    }

    /// Inspects the instances if the engine streams no events.
    fn poll(&self, is_live: bool) {
        if !is_live {
            self.check_now();
        }
    }

    fn check_now(&self) {
        let ids: Vec<String> = self.state().monitored().map(|i| i.id().clone()).collect();
        // If the engine does not answer, the next tick inspects again.
        let Ok(inspected) = self.docker.inspect(&ids) else { return };
        let removed = ids.iter().filter(|id| !inspected.iter().any(|c| c.id == **id));
        let mut all = self.state();
        inspected.iter().for_each(|c| all.observe(c));
        removed.for_each(|id| all.end_instance(id, InstanceEnd::Other("it was removed".into())));
        if all.instances.iter().any(|i| i.end.is_some()) {
            self.wakeup.wake();
        }
    }

    fn probe(&self) {
        let followed: Vec<MonitoredInstance> =
            self.state().monitored().filter(|i| i.window.is_some()).cloned().collect();
        let Some(timing) = followed.first().map(|i| i.timing) else { return };
        let candidates: Vec<Candidate> =
            followed.iter().map(|i| without_healthcheck_command(&i.candidate)).collect();
        let all: Vec<usize> = (0..candidates.len()).collect();
        let results =
            Prober::new(&self.docker, timing.timeout).and_then(|a| probe_all(&a, &candidates, &all, None));
        // If the probes fail, the next tick probes again.
        let Ok(results) = results else { return };
        let mut all = self.state();
        for (candidate, result) in candidates.iter().zip(results) {
            all.record_check(&candidate.id, result);
        }
        if all.instances.iter().any(|i| i.end.is_some()) {
            self.wakeup.wake();
        }
    }
}

impl MonitorState {
    fn follow(&mut self, mut instance: MonitoredInstance) {
        let id = instance.id().clone();
        for (at, kind) in self.events.get(&id).into_iter().flatten() {
            instance.record_event(*kind, *at);
        }
        self.instances.retain(|i| *i.id() != id);
        self.instances.push(instance);
    }

    fn admit(&mut self, ids: &[String], monitor: Duration) -> Vec<String> {
        let now = Instant::now();
        let admitted =
            self.instances.iter_mut().filter(|i| i.window.is_none() && ids.contains(&i.candidate.id));
        let admit = |instance: &mut MonitoredInstance| {
            instance.window = Some((now, monitor));
            instance.id().clone()
        };
        admitted.map(admit).collect()
    }

    fn record(&mut self, ContainerEvent { id, kind }: ContainerEvent) {
        let now = Instant::now();
        self.instances.iter_mut().filter(|i| *i.id() == id).for_each(|i| i.record_event(kind, now));
        self.events.entry(id).or_default().push((now, kind));
    }

    fn has_died(&self, id: &str) -> bool {
        let happened = self.events.get(id).into_iter().flatten();
        happened.into_iter().any(|(_, kind)| matches!(kind, EventKind::Died { .. }))
    }

    fn observe(&mut self, container: &Container) {
        for instance in self.instances.iter_mut().filter(|i| *i.id() == container.id) {
            if let Some(end) = instance_end(container, &instance.candidate.probe) {
                instance.fail(end);
            }
        }
    }

    fn end_instance(&mut self, id: &String, end: InstanceEnd) {
        self.instances.iter_mut().filter(|i| i.id() == id).for_each(|i| i.fail(end.clone()));
    }

    fn record_check(&mut self, id: &String, result: InstanceCheck) {
        let instance = self.instances.iter_mut().find(|i| i.id() == id);
        instance.into_iter().for_each(|i| match &result {
            InstanceCheck::Probed(answer) => i.record_probe(answer),
            InstanceCheck::Ended(end) => i.fail(end.clone()),
        });
    }

    fn monitored(&self) -> impl Iterator<Item = &MonitoredInstance> {
        let now = Instant::now();
        self.instances.iter().filter(move |i| i.failure_counts(now))
    }

    /// Removes and returns the failed instances. Instances whose window has ended are no longer followed.
    fn take_failed(&mut self) -> Vec<MonitoredInstance> {
        let now = Instant::now();
        self.instances.retain(|i| i.end.is_some() || i.failure_counts(now));
        let (failed, rest) = self.instances.drain(..).partition(|i| i.end.is_some());
        self.instances = rest;
        failed
    }

    fn take_out_of_memory_survivors(&mut self) -> Vec<String> {
        let has_survived = |i: &&mut MonitoredInstance| {
            i.end.is_none() && i.out_of_memory.is_some_and(|at| at.elapsed() > OUT_OF_MEMORY_GRACE)
        };
        let name = |instance: &mut MonitoredInstance| {
            instance.out_of_memory = None;
            instance.candidate.name.clone()
        };
        self.instances.iter_mut().filter(has_survived).map(name).collect()
    }

    fn remaining(&self) -> Duration {
        self.instances.iter().map(MonitoredInstance::remaining).max().unwrap_or_default()
    }
}

impl MonitoredInstance {
    fn new(candidate: Candidate, timing: ProbeTiming, answer: &str) -> MonitoredInstance {
        MonitoredInstance {
            candidate,
            timing,
            window: None,
            failures: 0,
            last_answer: answer.into(),
            out_of_memory: None,
            end: None,
        }
    }

    fn id(&self) -> &String {
        &self.candidate.id
    }

    /// True before and during the window.
    fn failure_counts(&self, now: Instant) -> bool {
        self.window.is_none_or(|(since, monitor)| now.saturating_duration_since(since) <= monitor)
    }

    fn remaining(&self) -> Duration {
        self.window.map_or(Duration::ZERO, |(since, monitor)| monitor.saturating_sub(since.elapsed()))
    }

    fn fail(&mut self, end: InstanceEnd) {
        if self.failure_counts(Instant::now()) && self.end.is_none() {
            self.end = Some(end);
        }
    }

    fn record_event(&mut self, kind: EventKind, at: Instant) {
        match kind {
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
        self.last_answer = answer.text.clone();
        self.failures = if answer.ready { 0 } else { self.failures + 1 };
        if self.failures >= MAX_FAILURES {
            self.fail(InstanceEnd::Other(format!("it stopped answering as ready: {}", answer.text)));
        }
    }
}

/// Candidate without its healthcheck command. Docker itself runs that command, which costs a process in the instance.
fn without_healthcheck_command(candidate: &Candidate) -> Candidate {
    match candidate.probe {
        ReadinessProbe::Healthcheck(_) => {
            Candidate { probe: ReadinessProbe::Healthcheck(Vec::new()), ..candidate.clone() }
        }
        _ => candidate.clone(),
    }
}

/// Error for all failed instances: the message of the first, and the details of all.
fn failure_error(docker: &Docker, failed: &[MonitoredInstance]) -> Error {
    let errors = failed.iter().map(|instance| {
        let (candidate, end) = (&instance.candidate, instance.end.as_ref());
        let code = match end {
            // No event reported the exit code.
            Some(InstanceEnd::Restarted) => docker.last_exit_code(&candidate.id).ok().flatten(),
            _ => None,
        };
        let reason = end.map(|end| end.explain(code)).unwrap_or_default();
        let error = Error::unchanged(format!("{} failed after it was ready: {reason}", candidate.name));
        let error = match instance.last_answer.as_str() {
            "" => error,
            last => error.detail(&format!("{} answered last: {last}", candidate.name)),
        };
        with_logs(error, docker, candidate)
    });
    let all = errors.reduce(|mut first, other| {
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

    fn monitor_of(ids: &[&str]) -> MonitorState {
        let mut all = MonitorState::default();
        ids.iter().for_each(|id| all.follow(instance(id)));
        all
    }

    fn instance(id: &str) -> MonitoredInstance {
        let candidate =
            Candidate { name: format!("app-{id}"), id: id.into(), probe: ReadinessProbe::Running };
        MonitoredInstance::new(candidate, ProbeTiming::default(), "200")
    }

    fn record(all: &mut MonitorState, id: &str, kind: EventKind) {
        all.record(ContainerEvent { id: id.into(), kind });
    }

    /// Names of the instances that failed since the last call, with the reason.
    fn failed(all: &mut MonitorState) -> Vec<String> {
        let describe =
            |i: MonitoredInstance| format!("{}: {}", i.candidate.name, i.end.unwrap().explain(None));
        all.take_failed().into_iter().map(describe).collect()
    }

    fn container(id: &str, state: &str) -> Container {
        serde_json::from_str(&format!(r#"{{"Id": "{id}", {state}}}"#)).unwrap()
    }

    const DIED: EventKind = EventKind::Died { code: Some(7) };

    #[test]
    fn a_death_is_reported_once_and_only_for_a_followed_instance() {
        let mut all = monitor_of(&["1", "2"]);
        record(&mut all, "3", DIED);
        assert!(failed(&mut all).is_empty());
        record(&mut all, "2", DIED);
        record(&mut all, "2", EventKind::Died { code: Some(8) });
        assert_eq!(failed(&mut all), ["app-2: it exited with code 7"]);
        assert!(failed(&mut all).is_empty());
        record(&mut all, "1", EventKind::Unhealthy);
        assert_eq!(failed(&mut all), ["app-1: its healthcheck failed for good"]);
    }

    #[test]
    fn an_event_before_the_instance_was_ready_counts() {
        let mut all = MonitorState::default();
        record(&mut all, "1", DIED);
        all.follow(instance("1"));
        assert_eq!(failed(&mut all), ["app-1: it exited with code 7"]);
    }

    #[test]
    fn a_window_starts_in_rotation_and_a_failure_after_it_does_not_count() {
        let mut all = monitor_of(&["1", "2"]);
        let ids = ["1".to_string(), "4".to_string()];
        assert_eq!(all.admit(&ids, MS * 60_000), ["1"]);
        assert!(all.admit(&ids, MS).is_empty(), "it is in rotation");
        assert!(all.remaining() > MS * 50_000);
        assert_eq!(all.monitored().count(), 2, "one that is not in rotation yet is followed as well");
        all.instances[0].window = Some((Instant::now() - MS * 20, MS * 10));
        assert_eq!(all.remaining(), Duration::ZERO);
        record(&mut all, "1", DIED);
        assert!(failed(&mut all).is_empty());
        assert_eq!(all.instances.len(), 1, "it is no longer followed");
    }

    #[test]
    fn without_a_window_no_instance_is_followed_in_rotation() {
        let mut all = monitor_of(&["1"]);
        all.admit(&["1".into()], Duration::ZERO);
        std::thread::yield_now();
        record(&mut all, "1", DIED);
        assert!(failed(&mut all).is_empty());
    }

    #[test]
    fn a_failure_without_an_event_is_found_by_inspecting() {
        let mut all = monitor_of(&["1", "2", "3"]);
        all.observe(&container("1", r#""State": {"Status": "running"}"#));
        all.observe(&container("2", r#""RestartCount": 1, "State": {"Status": "running"}"#));
        all.observe(&container("3", r#""State": {"Status": "exited", "ExitCode": 3}"#));
        all.end_instance(&"1".to_string(), InstanceEnd::Other("it was removed".into()));
        assert_eq!(
            failed(&mut all),
            ["app-1: it was removed", "app-2: it exited and was restarted", "app-3: it exited with code 3"]
        );
    }

    #[test]
    fn three_bad_answers_in_a_row_fail() {
        let mut all = monitor_of(&["1"]);
        let mut answer = |ready| {
            all.record_check(
                &"1".to_string(),
                InstanceCheck::Probed(ProbeResult { ready, text: "→ 503".into() }),
            );
            all.take_failed().into_iter().map(|i| i.end.unwrap().explain(None)).collect::<Vec<_>>()
        };
        for ready in [false, false, true, false, false] {
            assert!(answer(ready).is_empty());
        }
        assert_eq!(answer(false), ["it stopped answering as ready: → 503"]);
    }

    #[test]
    fn an_instance_that_survives_a_lack_of_memory_is_named_and_one_that_dies_of_it_has_failed() {
        let mut all = monitor_of(&["1", "2"]);
        record(&mut all, "1", EventKind::OutOfMemory);
        record(&mut all, "2", EventKind::OutOfMemory);
        record(&mut all, "2", EventKind::Died { code: Some(137) });
        assert_eq!(failed(&mut all), ["app-2: it exited with code 137, out of memory"]);
        assert!(all.take_out_of_memory_survivors().is_empty(), "it may still die of it");
        all.instances[0].out_of_memory = Some(Instant::now() - OUT_OF_MEMORY_GRACE - MS);
        assert_eq!(all.take_out_of_memory_survivors(), ["app-1"]);
        assert!(all.take_out_of_memory_survivors().is_empty());
    }
}
