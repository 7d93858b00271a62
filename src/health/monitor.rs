//! Monitor of new instances, from the time they are ready to the end of their window. The window is the time in rotation
//! that `monitor` sets. The engine's events report a death at once. Without events, the monitor inspects the instances five
//! times a second. A background thread probes the instances once a second. The rollout checks for failures while it waits.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use derive_more::Display;

use super::{Candidate, InstanceEnd, ProbeResult, Prober, ReadinessProbe, absorb, instance_end, with_logs};
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

/// Monitor of a run, which follows the instances of all its rollouts until it is dropped.
#[derive(Default)]
pub struct Monitor {
    shared: Arc<SharedMonitor>,
    events: OnceLock<EventStream>,
}

/// Part of the monitor that its threads share.
#[derive(Default)]
pub struct SharedMonitor {
    run: OnceLock<MonitoredRun>,
    tickers: [Ticker; 2],
    followed: Mutex<Followed>,
}

struct MonitoredRun {
    docker: Docker,
    started: Instant,
    wakeup: Arc<Wakeup>,
}

/// Followed instances, and all events so far: an event may arrive before its instance is followed.
#[derive(Default)]
struct Followed {
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
#[derive(Debug, Display)]
#[display("an instance failed after it was ready")]
pub struct MonitorFailure {
    /// Full ids of the containers.
    pub ids: Vec<String>,
    pub names: Vec<String>,
    /// Error with the last log lines, on a thread: a rollback does not wait for the logs.
    pub error: JoinHandle<Error>,
}

impl std::error::Error for MonitorFailure {}

impl Monitor {
    /// Starts to watch the containers of a project. Each event wakes the waiting rollout.
    pub fn start(&self, docker: &Docker, project: &str, wakeup: Arc<Wakeup>) {
        let _ = self.run.set(MonitoredRun { docker: docker.clone(), started: Instant::now(), wakeup });
        let [receiver, poller, prober] = [(); 3].map(|()| Arc::clone(&self.shared));
        let events = docker.follow(project, move |event| receiver.record(event));
        let is_live = events.liveness();
        let _ = self.events.set(events);
        thread::spawn(move || poller.tickers[0].each(POLL, || poller.poll(is_live())));
        thread::spawn(move || prober.tickers[1].each(PROBE_INTERVAL, || prober.probe()));
    }
}

impl Deref for Monitor {
    type Target = SharedMonitor;

    fn deref(&self) -> &SharedMonitor {
        &self.shared
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop();
    }
}

impl SharedMonitor {
    fn followed(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a followed instance.
    fn update(&self, id: &str, change: impl Fn(&mut MonitoredInstance)) {
        self.followed().instances.iter_mut().filter(|i| i.candidate.id == id).for_each(change);
    }

    /// Instances before and in their window.
    fn monitored(&self) -> Vec<MonitoredInstance> {
        let now = Instant::now();
        self.followed().instances.iter().filter(|i| i.failure_counts(now)).cloned().collect()
    }

    /// Time since the monitor started.
    pub fn elapsed(&self) -> Duration {
        self.run.get().map_or(Duration::ZERO, |run| run.started.elapsed())
    }

    /// Follows an instance that has just become ready.
    pub fn follow(&self, candidate: Candidate, timing: ProbeTiming, answer: &str) {
        self.follow_instance(MonitoredInstance::new(candidate, timing, answer));
    }

    /// Follows an instance that an earlier run put into rotation; `age` is the running time of the instance.
    pub fn resume(&self, candidate: Candidate, timing: ProbeTiming, age: Duration, monitor: Duration) {
        let since = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        let instance = MonitoredInstance::new(candidate, timing, "");
        self.follow_instance(MonitoredInstance { window: Some((since, monitor)), ..instance });
    }

    fn follow_instance(&self, mut instance: MonitoredInstance) {
        let mut followed = self.followed();
        let events = followed.events.get(&instance.candidate.id).into_iter().flatten();
        events.for_each(|(at, kind)| instance.record_event(*kind, *at));
        followed.instances.retain(|i| i.candidate.id != instance.candidate.id);
        followed.instances.push(instance);
    }

    /// Starts the windows of the instances that are new in rotation, and returns the ids of these instances.
    pub fn admit(&self, ids: &[String], monitor: Duration) -> Vec<String> {
        let now = Instant::now();
        let mut followed = self.followed();
        let new =
            followed.instances.iter_mut().filter(|i| i.window.is_none() && ids.contains(&i.candidate.id));
        let admit = |instance: &mut MonitoredInstance| {
            instance.window = Some((now, monitor));
            instance.candidate.id.clone()
        };
        new.map(admit).collect()
    }

    fn record(&self, ContainerEvent { id, kind }: ContainerEvent) {
        let now = Instant::now();
        self.update(&id, |instance| instance.record_event(kind, now));
        self.followed().events.entry(id).or_default().push((now, kind));
        self.run.get().inspect(|run| run.wakeup.wake());
    }

    /// Records containers that were just inspected.
    pub fn observe<'c>(&self, containers: impl Iterator<Item = &'c Container>) {
        for container in containers {
            self.update(&container.id, |instance| {
                instance.fail(instance_end(container, &instance.candidate.probe));
            });
        }
    }

    /// Inspects all followed instances now.
    pub fn check_now(&self) {
        let Some(run) = self.run.get() else { return };
        let ids: Vec<String> = self.monitored().into_iter().map(|i| i.candidate.id).collect();
        // If the engine does not answer, the next tick inspects again.
        let Ok(inspected) = run.docker.inspect(&ids) else { return };
        self.observe(inspected.iter());
        for id in ids.iter().filter(|id| !inspected.iter().any(|c| c.id == **id)) {
            self.update(id, |instance| instance.fail(Some(InstanceEnd::removed())));
        }
        self.wake_on_failure(run);
    }

    /// Inspects the instances if the engine streams no events.
    fn poll(&self, is_live: bool) {
        if !is_live {
            self.check_now();
        }
    }

    fn probe(&self) {
        let Some(run) = self.run.get() else { return };
        let followed = self.monitored().into_iter().filter(|i| i.window.is_some());
        let (candidates, timings): (Vec<Candidate>, Vec<ProbeTiming>) =
            followed.map(|i| (without_healthcheck_command(i.candidate), i.timing)).unzip();
        let Some(timing) = timings.first() else { return };
        let results = Prober::new(&run.docker, timing.timeout)
            .and_then(|prober| prober.check_all(&candidates.iter().collect::<Vec<_>>(), None));
        // If the probes fail, the next tick probes again.
        for (candidate, result) in candidates.iter().zip(results.unwrap_or_default()) {
            self.update(&candidate.id, |instance| instance.record_check(&result));
        }
        self.wake_on_failure(run);
    }

    fn wake_on_failure(&self, run: &MonitoredRun) {
        if self.followed().instances.iter().any(|i| i.end.is_some()) {
            run.wakeup.wake();
        }
    }

    /// Instances that failed since the last call.
    pub fn take_failure(&self) -> Option<MonitorFailure> {
        let docker = self.run.get()?.docker.clone();
        let failed = self.take_failed();
        (!failed.is_empty()).then(|| MonitorFailure {
            ids: failed.iter().map(|i| i.candidate.id.clone()).collect(),
            names: failed.iter().map(|i| i.candidate.name.clone()).collect(),
            error: thread::spawn(move || failure_error(&docker, &failed)),
        })
    }

    /// Removes and returns the failed instances. Instances whose window has ended are no longer followed.
    fn take_failed(&self) -> Vec<MonitoredInstance> {
        let now = Instant::now();
        let mut followed = self.followed();
        followed.instances.retain(|i| i.end.is_some() || i.failure_counts(now));
        followed.instances.extract_if(.., |i| i.end.is_some()).collect()
    }

    /// True if an event reported the death of a container, even if the container was restarted since.
    pub fn has_died(&self, id: &str) -> bool {
        let followed = self.followed();
        let mut events = followed.events.get(id).into_iter().flatten();
        events.any(|(_, kind)| matches!(kind, EventKind::Died { .. }))
    }

    /// Names of the instances that ran out of memory since the last call, and still run.
    pub fn take_out_of_memory_survivors(&self) -> Vec<String> {
        let has_survived = |i: &&mut MonitoredInstance| {
            i.end.is_none() && i.out_of_memory.is_some_and(|at| at.elapsed() > OUT_OF_MEMORY_GRACE)
        };
        let name = |instance: &mut MonitoredInstance| {
            instance.out_of_memory = None;
            instance.candidate.name.clone()
        };
        self.followed().instances.iter_mut().filter(has_survived).map(name).collect()
    }

    /// Time until the end of the last window.
    pub fn remaining(&self) -> Duration {
        self.followed().instances.iter().map(MonitoredInstance::remaining).max().unwrap_or_default()
    }

    /// Names of the instances whose window has not ended.
    pub fn pending_names(&self) -> Vec<String> {
        self.monitored().into_iter().map(|i| i.candidate.name).collect()
    }

    /// Stops following all instances: later failures do not count.
    pub fn stop(&self) {
        self.followed().instances.clear();
        self.tickers.iter().for_each(Ticker::end);
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

    /// True before and during the window.
    fn failure_counts(&self, now: Instant) -> bool {
        self.window.is_none_or(|(since, monitor)| now.saturating_duration_since(since) <= monitor)
    }

    fn remaining(&self) -> Duration {
        self.window.map_or(Duration::ZERO, |(since, monitor)| monitor.saturating_sub(since.elapsed()))
    }

    fn fail(&mut self, end: Option<InstanceEnd>) {
        if self.failure_counts(Instant::now()) && self.end.is_none() {
            self.end = end;
        }
    }

    fn record_event(&mut self, kind: EventKind, at: Instant) {
        match kind {
            EventKind::Died { code: Some(code) } => {
                let out_of_memory = self.out_of_memory.is_some();
                self.fail(Some(InstanceEnd::Exited { code, out_of_memory }));
            }
            EventKind::Died { code: None } => self.fail(Some(InstanceEnd::Other("it exited".into()))),
            EventKind::OutOfMemory => self.out_of_memory = Some(at),
            EventKind::Unhealthy => self.fail(Some(InstanceEnd::Unhealthy)),
        }
    }

    fn record_check(&mut self, result: &Result<ProbeResult, InstanceEnd>) {
        let answer = match result {
            Ok(answer) => answer,
            Err(end) => return self.fail(Some(end.clone())),
        };
        self.last_answer = answer.text.clone();
        self.failures = if answer.ready { 0 } else { self.failures + 1 };
        if self.failures >= MAX_FAILURES {
            self.fail(Some(InstanceEnd::Other(format!("it stopped answering as ready: {}", answer.text))));
        }
    }
}

/// Candidate without its healthcheck command. Docker itself runs that command, which costs a process in the instance.
fn without_healthcheck_command(mut candidate: Candidate) -> Candidate {
    if let ReadinessProbe::Healthcheck(command) = &mut candidate.probe {
        command.clear();
    }
    candidate
}

/// Error for all failed instances.
fn failure_error(docker: &Docker, failed: &[MonitoredInstance]) -> Error {
    let errors = failed.iter().map(|MonitoredInstance { candidate, end, last_answer, .. }| {
        let code = match end {
            // No event reported the exit code.
            Some(InstanceEnd::Restarted) => docker.last_exit_code(&candidate.id).ok().flatten(),
            _ => None,
        };
        let reason = end.as_ref().map(|end| end.explain(code)).unwrap_or_default();
        let error = Error::unchanged(format!("{} failed after it was ready: {reason}", candidate.name));
        let error = match last_answer.as_str() {
            "" => error,
            last => error.detail(&format!("{} answered last: {last}", candidate.name)),
        };
        with_logs(error, docker, candidate)
    });
    errors.reduce(absorb).unwrap_or_else(|| Error::unchanged("an instance failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn monitor_of(ids: &[&str]) -> Monitor {
        let all = Monitor::default();
        ids.iter().for_each(|id| all.follow_instance(instance(id)));
        all
    }

    fn instance(id: &str) -> MonitoredInstance {
        let candidate =
            Candidate { name: format!("app-{id}"), id: id.into(), probe: ReadinessProbe::Running };
        MonitoredInstance::new(candidate, ProbeTiming::default(), "200")
    }

    fn record(all: &Monitor, id: &str, kind: EventKind) {
        all.record(ContainerEvent { id: id.into(), kind });
    }

    /// Names of the instances that failed since the last call, with the reason.
    fn failed(all: &Monitor) -> Vec<String> {
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
        let all = monitor_of(&["1", "2"]);
        record(&all, "3", DIED);
        assert!(failed(&all).is_empty());
        record(&all, "2", DIED);
        record(&all, "2", EventKind::Died { code: Some(8) });
        assert_eq!(failed(&all), ["app-2: it exited with code 7"]);
        assert!(failed(&all).is_empty());
        record(&all, "1", EventKind::Unhealthy);
        assert_eq!(failed(&all), ["app-1: its healthcheck failed for good"]);
    }

    #[test]
    fn an_event_before_the_instance_was_ready_counts() {
        let all = Monitor::default();
        record(&all, "1", DIED);
        all.follow_instance(instance("1"));
        assert_eq!(failed(&all), ["app-1: it exited with code 7"]);
    }

    #[test]
    fn a_window_starts_in_rotation_and_a_failure_after_it_does_not_count() {
        let all = monitor_of(&["1", "2"]);
        let ids = ["1".to_string(), "4".to_string()];
        assert_eq!(all.admit(&ids, MS * 60_000), ["1"]);
        assert!(all.admit(&ids, MS).is_empty(), "it is in rotation");
        assert!(all.remaining() > MS * 50_000);
        assert_eq!(all.monitored().len(), 2, "one that is not in rotation yet is followed as well");
        all.followed().instances[0].window = Some((Instant::now() - MS * 20, MS * 10));
        assert_eq!(all.remaining(), Duration::ZERO);
        record(&all, "1", DIED);
        assert!(failed(&all).is_empty());
        assert_eq!(all.followed().instances.len(), 1, "it is no longer followed");
    }

    #[test]
    fn without_a_window_no_instance_is_followed_in_rotation() {
        let all = monitor_of(&["1"]);
        all.admit(&["1".into()], Duration::ZERO);
        std::thread::yield_now();
        record(&all, "1", DIED);
        assert!(failed(&all).is_empty());
    }

    #[test]
    fn a_failure_without_an_event_is_found_by_inspecting() {
        let all = monitor_of(&["1", "2", "3"]);
        all.observe([container("1", r#""State": {"Status": "running"}"#)].iter());
        all.observe([container("2", r#""RestartCount": 1, "State": {"Status": "running"}"#)].iter());
        all.observe([container("3", r#""State": {"Status": "exited", "ExitCode": 3}"#)].iter());
        all.update("1", |instance| instance.fail(Some(InstanceEnd::removed())));
        assert_eq!(
            failed(&all),
            ["app-1: it was removed", "app-2: it exited and was restarted", "app-3: it exited with code 3"]
        );
    }

    #[test]
    fn three_bad_answers_in_a_row_fail() {
        let all = monitor_of(&["1"]);
        let answer = |ready| {
            let result = Ok(ProbeResult { ready, code: Some(503), text: "→ 503".into() });
            all.update("1", |instance| instance.record_check(&result));
            all.take_failed().into_iter().map(|i| i.end.unwrap().explain(None)).collect::<Vec<_>>()
        };
        for ready in [false, false, true, false, false] {
            assert!(answer(ready).is_empty());
        }
        assert_eq!(answer(false), ["it stopped answering as ready: → 503"]);
    }

    #[test]
    fn an_instance_that_survives_a_lack_of_memory_is_named_and_one_that_dies_of_it_has_failed() {
        let all = monitor_of(&["1", "2"]);
        record(&all, "1", EventKind::OutOfMemory);
        record(&all, "2", EventKind::OutOfMemory);
        record(&all, "2", EventKind::Died { code: Some(137) });
        assert_eq!(failed(&all), ["app-2: it exited with code 137, out of memory"]);
        assert!(all.take_out_of_memory_survivors().is_empty(), "it may still die of it");
        all.followed().instances[0].out_of_memory = Some(Instant::now() - OUT_OF_MEMORY_GRACE - MS);
        assert_eq!(all.take_out_of_memory_survivors(), ["app-1"]);
        assert!(all.take_out_of_memory_survivors().is_empty());
    }
}
