//! What each instance went through, folded out of the events: what the terminal shows of it, and the picture draws. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::event::{Event, InitialInstance};

/// What an instance is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstancePhase {
    /// It runs, and gets no requests.
    Aside,
    Created,
    Starting,
    Ready,
    InRotation,
    /// Out of rotation, and finishing.
    Draining,
    /// It died, or does not answer any more.
    Failed,
    Stopped,
    Removed,
}

impl InstancePhase {
    pub fn words(self) -> &'static str {
        match self {
            InstancePhase::Aside => "out of rotation",
            InstancePhase::Created => "created",
            InstancePhase::Starting => "starting",
            InstancePhase::Ready => "ready",
            InstancePhase::InRotation => "in rotation",
            InstancePhase::Draining => "draining",
            InstancePhase::Failed => "failed",
            InstancePhase::Stopped => "stopped",
            InstancePhase::Removed => "removed",
        }
    }
}

/// One instance, and since when it was at what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceTrack {
    pub name: String,
    /// It was not there, or not what is wanted, when the deploy began.
    pub new: bool,
    /// In order; never empty.
    pub spans: Vec<(Duration, InstancePhase)>,
}

impl InstanceTrack {
    pub fn phase(&self) -> InstancePhase {
        self.spans.last().map_or(InstancePhase::Created, |(_, phase)| *phase)
    }

    /// Since when it is at its phase.
    pub fn since(&self) -> Duration {
        self.spans.last().map_or(Duration::ZERO, |(at, _)| *at)
    }

    fn turn(&mut self, at: Duration, phase: InstancePhase) {
        if self.phase() != phase {
            self.spans.push((at, phase));
        }
    }
}

/// All instances that a run is about, in the order in which they appeared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstanceTracks {
    all: Vec<InstanceTrack>,
    /// Targets with a proxy in front; of the others what is ready serves.
    proxied: BTreeSet<String>,
    /// The target that the last step was about.
    target: Option<String>,
    /// Tasks of a Swarm: how many of how many run, by service.
    tasks: BTreeMap<String, (usize, usize)>,
}

impl InstanceTracks {
    pub fn iter(&self) -> impl Iterator<Item = &InstanceTrack> {
        self.all.iter()
    }

    pub fn tasks(&self) -> &BTreeMap<String, (usize, usize)> {
        &self.tasks
    }

    /// Takes in an event that happened at this time since the start.
    pub fn apply(&mut self, at: Duration, event: &Event) {
        match event {
            Event::Deploying { target, proxies, instances } => {
                self.proxied.extend((!proxies.is_empty()).then(|| target.clone()));
                self.target = Some(target.clone());
                instances.iter().for_each(|found| self.found(found));
            }
            Event::Created { names } => names.iter().for_each(|name| self.created(at, name)),
            Event::Step(note) => {
                self.target = Some(note.target.clone());
                if note.verb == "start" {
                    self.turn(at, &note.names, InstancePhase::Starting);
                }
            }
            Event::Started { names } => self.turn(at, names, InstancePhase::Starting),
            Event::Ready { name, .. } => self.ready(at, name),
            Event::Routed { in_rotation: inside, out_of_rotation: outside } => {
                self.routed(at, inside, outside)
            }
            Event::Draining { names } => {
                self.turn_unless(at, names, InstancePhase::Draining, InstancePhase::Failed)
            }
            Event::Failed { names } | Event::Exited { names } => self.turn(at, names, InstancePhase::Failed),
            Event::Stopped { names } => self.turn(at, names, InstancePhase::Stopped),
            Event::Removed { names } => self.turn(at, names, InstancePhase::Removed),
            Event::TaskRunning { name, running: current, desired: wanted, .. } => {
                self.runs(name, *current, *wanted)
            }
            _ => {}
        }
    }

    /// It was there before the run looked.
    fn found(&mut self, found: &InitialInstance) {
        let phase = match found {
            InitialInstance { running: false, .. } => InstancePhase::Stopped,
            InitialInstance { in_rotation: true, .. } => InstancePhase::InRotation,
            _ => InstancePhase::Aside,
        };
        // What puts the last good release back looks again.
        if self.get(&found.name).is_none() {
            let spans = vec![(Duration::ZERO, phase)];
            self.all.push(InstanceTrack { name: found.name.clone(), new: found.new, spans });
        }
    }

    fn created(&mut self, at: Duration, name: &str) {
        match self.get(name) {
            // A name that was removed is free again.
            Some(track) => track.turn(at, InstancePhase::Created),
            None => {
                let spans = vec![(at, InstancePhase::Created)];
                self.all.push(InstanceTrack { name: name.into(), new: true, spans });
            }
        }
    }

    fn ready(&mut self, at: Duration, name: &str) {
        let is_proxied = self.target.as_ref().is_some_and(|target| self.proxied.contains(target));
        let phase = if is_proxied { InstancePhase::Ready } else { InstancePhase::InRotation };
        if let Some(track) = self.get(name).filter(|t| t.phase() != InstancePhase::InRotation) {
            track.turn(at, phase);
        }
    }

    fn routed(&mut self, at: Duration, inside: &[String], outside: &[String]) {
        self.turn(at, inside, InstancePhase::InRotation);
        for name in outside {
            if let Some(track) = self.get(name).filter(|t| t.phase() == InstancePhase::InRotation) {
                track.turn(at, InstancePhase::Draining);
            }
        }
    }

    fn runs(&mut self, task: &str, current: usize, wanted: usize) {
        let service = task.rsplit_once('.').map_or(task, |(service, _)| service);
        self.tasks.insert(service.into(), (current, wanted));
    }

    fn turn(&mut self, at: Duration, names: &[String], phase: InstancePhase) {
        for name in names {
            if let Some(track) = self.get(name) {
                track.turn(at, phase);
            }
        }
    }

    /// The same, but for those that are at this.
    fn turn_unless(&mut self, at: Duration, names: &[String], phase: InstancePhase, unless: InstancePhase) {
        for name in names {
            if let Some(track) = self.get(name).filter(|t| t.phase() != unless) {
                track.turn(at, phase);
            }
        }
    }

    fn get(&mut self, name: &str) -> Option<&mut InstanceTrack> {
        self.all.iter_mut().find(|t| t.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::event::StepEvent;

    fn names(names: &str) -> Vec<String> {
        names.split_whitespace().map(String::from).collect()
    }

    fn deploying(proxies: &str) -> Event {
        let found = |name: &str, in_rotation: bool, runs: bool| InitialInstance {
            name: name.into(),
            new: false,
            running: runs,
            in_rotation,
        };
        Event::Deploying {
            target: "app".into(),
            proxies: names(proxies),
            instances: vec![
                found("app-1", true, true),
                found("app-2", false, true),
                found("app-0", false, false),
            ],
        }
    }

    fn ready(name: &str) -> Event {
        Event::Ready { name: name.into(), answer: String::new() }
    }

    /// What became of every instance: its name and the phases it went through, with the second of each.
    fn timeline(events: &[Event]) -> Vec<String> {
        let mut tracks = InstanceTracks::default();
        for (second, event) in events.iter().enumerate() {
            tracks.apply(Duration::from_secs(second as u64), event);
        }
        let spans = |t: &InstanceTrack| {
            let all = t.spans.iter().map(|(at, phase)| format!("{}@{}", phase.words(), at.as_secs()));
            all.collect::<Vec<_>>().join(", ")
        };
        tracks
            .iter()
            .map(|t| format!("{} {}: {}", t.name, if t.new { "new" } else { "old" }, spans(t)))
            .collect()
    }

    #[test]
    fn a_deploy_is_told_instance_by_instance() {
        let events = [
            deploying("lb"),
            Event::Created { names: names("app-3") },
            Event::Started { names: names("app-3") },
            ready("app-3"),
            Event::Routed { in_rotation: names("app-3"), out_of_rotation: names("app-1 app-2") },
            Event::Draining { names: names("app-1 app-2") },
            Event::Stopped { names: names("app-1 app-2") },
            Event::Removed { names: names("app-0 app-1 app-2") },
        ];
        assert_eq!(
            timeline(&events),
            [
                "app-1 old: in rotation@0, draining@4, stopped@6, removed@7",
                "app-2 old: out of rotation@0, draining@5, stopped@6, removed@7",
                "app-0 old: stopped@0, removed@7",
                "app-3 new: created@1, starting@2, ready@3, in rotation@4",
            ]
        );
    }

    #[test]
    fn what_is_ready_serves_where_no_proxy_stands_in_front() {
        let events = [deploying(""), Event::Created { names: names("app-3") }, ready("app-3")];
        assert_eq!(timeline(&events)[3], "app-3 new: created@1, in rotation@2");
    }

    #[test]
    fn on_the_way_back_the_old_ones_come_in_again() {
        let events = [
            deploying("lb"),
            Event::Created { names: names("app-3") },
            Event::Started { names: names("app-3") },
            ready("app-3"),
            Event::Routed { in_rotation: names("app-3"), out_of_rotation: names("app-1") },
            Event::RollingBack,
            ready("app-1"),
            Event::Routed { in_rotation: names("app-1"), out_of_rotation: names("app-3") },
        ];
        let timeline = timeline(&events);
        assert_eq!(timeline[0], "app-1 old: in rotation@0, draining@4, ready@6, in rotation@7");
        assert_eq!(timeline[3], "app-3 new: created@1, starting@2, ready@3, in rotation@4, draining@7");
    }

    #[test]
    fn one_that_failed_is_not_in_rotation_any_more() {
        let events = [
            deploying("lb"),
            Event::Created { names: names("app-3") },
            Event::Routed { in_rotation: names("app-3"), out_of_rotation: names("app-1") },
            Event::Failed { names: names("app-3") },
            Event::Routed { in_rotation: names("app-1"), out_of_rotation: names("app-3") },
            Event::Draining { names: names("app-3") },
            Event::Stopped { names: names("app-3") },
        ];
        assert_eq!(timeline(&events)[3], "app-3 new: created@1, in rotation@2, failed@3, stopped@6");
    }

    #[test]
    fn an_old_one_that_died_is_not_in_rotation_to_the_end() {
        let events = [
            deploying("lb"),
            Event::Created { names: names("app-3") },
            Event::Exited { names: names("app-1") },
            Event::Routed { in_rotation: names("app-3"), out_of_rotation: names("app-1 app-2") },
        ];
        assert_eq!(timeline(&events)[0], "app-1 old: in rotation@0, failed@2");
    }

    #[test]
    fn what_is_ready_behind_a_proxy_waits_for_it_though_another_target_has_none() {
        let worker = Event::Deploying { target: "worker".into(), proxies: Vec::new(), instances: Vec::new() };
        let step = |target: &str| {
            Event::Step(StepEvent {
                target: target.into(),
                number: 1,
                steps: 2,
                batch: 1,
                batches: 1,
                verb: "wait_ready".into(),
                names: Vec::new(),
                rolling_back: false,
            })
        };
        let created = Event::Created { names: names("app-3 worker-2") };
        let events = [
            deploying("lb"),
            worker,
            created,
            step("app"),
            ready("app-3"),
            step("worker"),
            ready("worker-2"),
            Event::Routed { in_rotation: names("app-3"), out_of_rotation: names("app-1") },
        ];
        let timeline = timeline(&events);
        assert_eq!(timeline[3], "app-3 new: created@2, ready@4, in rotation@7");
        assert_eq!(timeline[4], "worker-2 new: created@2, in rotation@6");
    }

    #[test]
    fn one_in_rotation_that_is_asked_again_stays_in_rotation() {
        assert_eq!(timeline(&[deploying("lb"), ready("app-1")])[0], "app-1 old: in rotation@0");
    }

    #[test]
    fn tasks_of_a_swarm_are_counted_by_service() {
        let mut tracks = InstanceTracks::default();
        let runs = |name: &str, current| Event::TaskRunning {
            name: name.into(),
            node: "n".into(),
            running: current,
            desired: 3,
        };
        [runs("vote.1", 1), runs("vote.3", 2), runs("x.1", 1)]
            .iter()
            .for_each(|e| tracks.apply(Duration::ZERO, e));
        let tasks: Vec<_> = tracks.tasks().iter().map(|(s, n)| (s.as_str(), *n)).collect();
        assert_eq!(tasks, [("vote", (2, 3)), ("x", (1, 3))]);
    }
}
