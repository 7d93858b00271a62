//! Phases of each instance over time, computed from the events, for the live display and the timeline. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;
use std::time::Duration;

use derive_more::Display;
use strum::VariantArray;

use super::event::{Answer, Event, InitialInstance, Names};
use InstancePhase::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Display, VariantArray)]
#[display(rename_all = "lowercase")]
pub enum InstancePhase {
    /// Running without requests.
    #[display("out of rotation")]
    OutOfRotation,
    Created,
    Starting,
    Ready,
    #[display("in rotation")]
    InRotation,
    /// A relay in rotation, in which requests wait.
    Holding,
    /// Out of rotation, with requests in flight.
    Draining,
    /// Exited, or without an answer.
    Failed,
    Stopped,
    Removed,
}

/// One instance with its phases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceTrack {
    pub name: String,
    /// The instance has the version to deploy; all others are old.
    pub new: bool,
    /// Start of each phase, in order; never empty.
    pub phases: Vec<(Duration, InstancePhase)>,
    /// Last answer of an instance that is not ready yet.
    pub answer: Option<String>,
}

impl InstanceTrack {
    pub fn new(name: &str, new: bool, at: Duration, phase: InstancePhase) -> InstanceTrack {
        InstanceTrack { name: name.into(), new, phases: vec![(at, phase)], answer: None }
    }

    pub fn phase(&self) -> InstancePhase {
        self.phases.last().map_or(Created, |(_, phase)| *phase)
    }

    /// Start of the current phase.
    pub fn since(&self) -> Duration {
        self.phases.last().map_or(Duration::ZERO, |(at, _)| *at)
    }

    /// The instance may have requests to finish: it did not fail, and a new one had been admitted.
    fn is_drained(&self) -> bool {
        let was_admitted = self.phases.iter().any(|(_, phase)| *phase == InRotation);
        self.phase() != Failed && (was_admitted || !self.new)
    }

    fn enter(&mut self, at: Duration, phase: InstancePhase) {
        if self.phase() != phase {
            self.phases.push((at, phase));
            self.answer = None;
        }
    }
}

/// All instances of a run, in order of appearance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InstanceTracks {
    tracks: Vec<InstanceTrack>,
    /// Targets behind a proxy. Instances of other targets serve once they are ready.
    proxied: BTreeSet<String>,
    /// Target of the last step.
    target: Option<String>,
    /// Running and desired tasks of a Swarm, by service.
    tasks: BTreeMap<String, (usize, usize)>,
}

impl InstanceTracks {
    pub fn iter(&self) -> impl Iterator<Item = &InstanceTrack> {
        self.tracks.iter()
    }

    pub fn tasks(&self) -> &BTreeMap<String, (usize, usize)> {
        &self.tasks
    }

    /// Adds an event with its time since the start.
    pub fn apply(&mut self, at: Duration, event: &Event) {
        match event {
            Event::Deploying { target, proxies, instances } => {
                self.proxied.extend((!proxies.is_empty()).then(|| target.clone()));
                self.target = Some(target.clone());
                instances.iter().for_each(|i| self.add(Duration::ZERO, &i.name, i.new, initial_phase(i)));
            }
            Event::Created(created) => {
                created.names.iter().for_each(|name| self.add(at, name, true, Created));
                // The name of a removed instance is free again.
                self.enter(at, created, Created);
            }
            Event::Step(step) => {
                self.target = Some(step.target.clone());
                if step.verb == "start" {
                    self.enter(at, &step.names.clone().into(), Starting);
                }
            }
            Event::Started(started) => self.enter(at, started, Starting),
            Event::Ready(Answer { name, .. }) => {
                let is_proxied = self.target.as_ref().is_some_and(|target| self.proxied.contains(target));
                let phase = if is_proxied { Ready } else { InRotation };
                self.enter_if(at, slice::from_ref(name), phase, |now| now != InRotation);
            }
            Event::NotReady(Answer { name, answer }) => {
                self.find(name).into_iter().for_each(|track| track.answer = Some(answer.clone()));
            }
            Event::Routed { in_rotation, out_of_rotation } => {
                self.enter_if(at, in_rotation, InRotation, |_| true);
                self.enter_if(at, out_of_rotation, Draining, |now| [InRotation, Holding].contains(&now));
            }
            Event::Holding(relays) => self.enter(at, relays, Holding),
            Event::Draining(draining) => {
                let tracks = self.tracks.iter_mut().filter(|t| draining.names.contains(&t.name));
                tracks.filter(|t| t.is_drained()).for_each(|track| track.enter(at, Draining));
            }
            Event::Failed(failed) | Event::Exited(failed) => self.enter(at, failed, Failed),
            Event::Stopped(stopped) => self.enter(at, stopped, Stopped),
            Event::Removed(removed) => self.enter(at, removed, Removed),
            Event::TaskRunning { name, running, desired, .. } => {
                let service = name.rsplit_once('.').map_or(name.as_str(), |(service, _)| service);
                self.tasks.insert(service.into(), (*running, *desired));
            }
            _ => {}
        }
    }

    /// Adds an instance. A rollback to the last good release reports the instances a second time.
    fn add(&mut self, at: Duration, name: &str, new: bool, phase: InstancePhase) {
        if self.find(name).is_none() {
            self.tracks.push(InstanceTrack::new(name, new, at, phase));
        }
    }

    fn enter(&mut self, at: Duration, names: &Names, phase: InstancePhase) {
        self.enter_if(at, &names.names, phase, |_| true);
    }

    /// Only instances whose phase fulfils the condition enter the next one.
    fn enter_if(
        &mut self,
        at: Duration,
        names: &[String],
        phase: InstancePhase,
        condition: fn(InstancePhase) -> bool,
    ) {
        for name in names {
            if let Some(track) = self.find(name).filter(|t| condition(t.phase())) {
                track.enter(at, phase);
            }
        }
    }

    fn find(&mut self, name: &str) -> Option<&mut InstanceTrack> {
        self.tracks.iter_mut().find(|t| t.name == name)
    }
}

fn initial_phase(instance: &InitialInstance) -> InstancePhase {
    match instance {
        InitialInstance { running: false, .. } => Stopped,
        InitialInstance { in_rotation: true, .. } => InRotation,
        _ => OutOfRotation,
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
        let instance = |name: &str, in_rotation: bool, running: bool| InitialInstance {
            name: name.into(),
            new: false,
            running,
            in_rotation,
        };
        Event::Deploying {
            target: "app".into(),
            proxies: names(proxies),
            instances: vec![
                instance("app-1", true, true),
                instance("app-2", false, true),
                instance("app-0", false, false),
            ],
        }
    }

    fn ready(name: &str) -> Event {
        Event::Ready(Answer { name: name.into(), answer: String::new() })
    }

    /// Each instance with its phases and the second of each.
    fn timeline(events: &[Event]) -> Vec<String> {
        let mut tracks = InstanceTracks::default();
        for (second, event) in events.iter().enumerate() {
            tracks.apply(Duration::from_secs(second as u64), event);
        }
        let spans = |t: &InstanceTrack| {
            let all = t.phases.iter().map(|(at, phase)| format!("{}@{}", phase, at.as_secs()));
            all.collect::<Vec<_>>().join(", ")
        };
        tracks
            .iter()
            .map(|t| format!("{} {}: {}", t.name, if t.new { "new" } else { "old" }, spans(t)))
            .collect()
    }

    #[test]
    fn a_deploy_gives_each_instance_its_phases() {
        let events = [
            deploying("lb"),
            Event::Created(names("app-3").into()),
            Event::Started(names("app-3").into()),
            ready("app-3"),
            Event::Routed { in_rotation: names("app-3"), out_of_rotation: names("app-1 app-2") },
            Event::Draining(names("app-1 app-2").into()),
            Event::Stopped(names("app-1 app-2").into()),
            Event::Removed(names("app-0 app-1 app-2").into()),
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
    fn a_ready_instance_serves_where_there_is_no_proxy() {
        let events = [deploying(""), Event::Created(names("app-3").into()), ready("app-3")];
        assert_eq!(timeline(&events)[3], "app-3 new: created@1, in rotation@2");
    }

    #[test]
    fn a_rollback_returns_the_old_instances_to_the_rotation() {
        let events = [
            deploying("lb"),
            Event::Created(names("app-3").into()),
            Event::Started(names("app-3").into()),
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
    fn a_failed_instance_is_not_in_rotation() {
        let events = [
            deploying("lb"),
            Event::Created(names("app-3").into()),
            Event::Routed { in_rotation: names("app-3"), out_of_rotation: names("app-1") },
            Event::Failed(names("app-3").into()),
            Event::Routed { in_rotation: names("app-1"), out_of_rotation: names("app-3") },
            Event::Draining(names("app-3").into()),
            Event::Stopped(names("app-3").into()),
        ];
        assert_eq!(timeline(&events)[3], "app-3 new: created@1, in rotation@2, failed@3, stopped@6");
    }

    #[test]
    fn a_relay_holds_until_the_new_instance_is_in_rotation() {
        let events = [
            deploying("lb"),
            Event::Created(names("app-3").into()),
            ready("app-3"),
            Event::Routed { in_rotation: names("app-3"), out_of_rotation: names("app-1") },
            Event::Holding(names("app-3").into()),
            Event::Routed { in_rotation: names("app-4"), out_of_rotation: names("app-3") },
            Event::Stopped(names("app-3").into()),
        ];
        let expected = "app-3 new: created@1, ready@2, in rotation@3, holding@4, draining@5, stopped@6";
        assert_eq!(timeline(&events)[3], expected);
    }

    #[test]
    fn an_instance_that_was_never_admitted_is_not_drained() {
        let events = [
            deploying("lb"),
            Event::Created(names("app-3").into()),
            Event::Started(names("app-3").into()),
            Event::RollingBack,
            Event::Draining(names("app-3").into()),
            Event::Stopped(names("app-3").into()),
        ];
        assert_eq!(timeline(&events)[3], "app-3 new: created@1, starting@2, stopped@5");
    }

    #[test]
    fn an_old_instance_that_exited_is_not_in_rotation() {
        let events = [
            deploying("lb"),
            Event::Created(names("app-3").into()),
            Event::Exited(names("app-1").into()),
            Event::Routed { in_rotation: names("app-3"), out_of_rotation: names("app-1 app-2") },
        ];
        assert_eq!(timeline(&events)[0], "app-1 old: in rotation@0, failed@2");
    }

    #[test]
    fn a_ready_instance_waits_for_its_proxy_although_another_target_has_none() {
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
        let created = Event::Created(names("app-3 worker-2").into());
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
    fn an_instance_in_rotation_that_is_probed_again_stays_in_rotation() {
        assert_eq!(timeline(&[deploying("lb"), ready("app-1")])[0], "app-1 old: in rotation@0");
    }

    #[test]
    fn tasks_of_a_swarm_are_counted_by_service() {
        let mut tracks = InstanceTracks::default();
        let task = |name: &str, running| Event::TaskRunning {
            name: name.into(),
            node: "n".into(),
            running,
            desired: 3,
        };
        [task("vote.1", 1), task("vote.3", 2), task("x.1", 1)]
            .iter()
            .for_each(|e| tracks.apply(Duration::ZERO, e));
        let tasks: Vec<_> = tracks.tasks().iter().map(|(s, n)| (s.as_str(), *n)).collect();
        assert_eq!(tasks, [("vote", (2, 3)), ("x", (1, 3))]);
    }
}
