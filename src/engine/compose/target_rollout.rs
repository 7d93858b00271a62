//! Rollout of one target: its state at the start, its plan, and its progress.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;

use crate::docker::inspect::{BRIDGE, CONFIG_HASH, Container, RELAY};
use crate::docker::{CommandList, ENGINE_DOWN};
use crate::error::Error;
use crate::model::{FailureAction, Update};
use crate::observe::{TargetReader, TargetSnapshot};
use crate::observed::{Generation, Instance, InstanceKey, InstanceState, Observed};
use crate::plan::{
    self, Bridge, Cause, DesiredService, Plan, PlanPolicy, PlannedStep as PlanStep, RotationState, Stage,
    Step, Strategy,
};
use crate::report::plan::{PlannedCommand, PlannedStep};
use crate::report::{Event, Report, Warning};
use crate::rollout::{Rollout, RolloutContext, RolloutFailure, Tolerance, longest_wait};
use crate::wait::StopSignal;

pub struct TargetRollout<'a> {
    pub reader: &'a TargetReader<'a>,
    pub start: Observed,
    pub plan: Plan,
    context: RolloutContext<'a>,
    stop: StopSignal,
    strategy: Strategy,
    terms: RolloutTerms,
    rollout: Rollout<'a>,
    report: Report,
    /// Ids of the new instances that failed.
    failed: BTreeSet<String>,
    /// New instances that a killed run admitted, with their age.
    young_instances: Vec<(InstanceKey, Duration)>,
    /// Time from the start of the monitor until all requests went to the new release.
    in_service: Option<Duration>,
    /// Last stage that was run to its end.
    reached: Option<Stage>,
    slots: usize,
    /// Rotation after an undo.
    rotation_state: RotationState,
    /// Names of the old instances that still run after they were to be removed.
    left_running: Vec<String>,
    /// Instances of the failed release that exist after an undo, and serve in the place of no other.
    not_undone: Vec<Container>,
}

/// Start of the id of a container that a dry run only plans.
const PLANNED: &str = "<id of ";

/// Number of times that an undo plans again without a further failed instance.
const UNDO_ROUNDS: usize = 3;

/// Terms of the rollout of one target.
pub struct RolloutTerms {
    pub update: Update,
    /// Policy of an undo.
    pub undo_policy: PlanPolicy,
    /// Warnings to report before the rollout.
    pub warnings: Vec<Warning>,
    /// Containers of services that the file no longer has, and that serve the same route.
    pub orphans: Vec<Container>,
}

impl<'a> TargetRollout<'a> {
    /// # Errors
    /// A goal that cannot be reached without losing requests.
    pub fn plan(
        reader: &'a TargetReader<'a>,
        snapshot: TargetSnapshot,
        strategy: Strategy,
        terms: RolloutTerms,
        context: RolloutContext<'a>,
    ) -> Result<TargetRollout<'a>, Error> {
        let plan = plan::plan(&strategy, &snapshot.observed).map_err(Error::from)?;
        let rollout = Rollout::new(context, context.stop.clone(), &snapshot.observed, snapshot.containers);
        let slots = plan.slots;
        let window = plan.window().filter(|_| plan.resumes_monitor());
        let young = window.map(|w| snapshot.observed.instances.iter().filter(move |i| i.is_young(w)));
        let young = young.into_iter().flatten().filter_map(|i| Some((i.key.clone(), i.age?))).collect();
        let start = window.map_or_else(|| snapshot.observed.clone(), |w| snapshot.observed.before_switch(w));
        let mut target_rollout = TargetRollout {
            reader,
            start,
            plan,
            context,
            stop: context.stop.clone(),
            strategy,
            terms,
            rollout,
            report: context.report,
            failed: BTreeSet::new(),
            young_instances: young,
            in_service: None,
            reached: None,
            slots,
            rotation_state: RotationState::default(),
            left_running: Vec::new(),
            not_undone: Vec::new(),
        };
        let tolerance = target_rollout.tolerance();
        target_rollout.rollout.tolerate(tolerance);
        Ok(target_rollout)
    }

    pub fn name(&self) -> &str {
        self.reader.target.name()
    }

    pub fn warnings(&self) -> &[Warning] {
        &self.terms.warnings
    }

    pub fn action(&self) -> FailureAction {
        self.terms.update.action
    }

    /// Desired number of instances, by service.
    pub fn replicas(&self) -> Vec<(&str, usize)> {
        self.strategy.services().iter().map(|g| (g.service.as_str(), g.replicas)).collect()
    }

    /// Name of an instance for people.
    pub fn name_of(&self, key: &InstanceKey) -> String {
        self.rollout.name_of(key)
    }

    pub fn in_rotation(&self) -> Vec<String> {
        self.rollout.in_rotation()
    }

    pub fn cut_requests(&self) -> usize {
        self.rollout.cut_requests()
    }

    /// Time from the start of the monitor until all requests went to the new release.
    pub fn in_service(&self) -> Option<Duration> {
        self.in_service
    }

    /// Longest time for which a request waits in a relay; `None` without a relay.
    pub fn longest_wait(&self) -> Option<Duration> {
        let has_relay = matches!(self.strategy, Strategy::Bridge(_, Bridge::Relay));
        let service = &self.context.project.services[self.reader.target.services()[0]];
        has_relay.then(|| longest_wait(service))
    }

    /// Configuration hash of the new instances of a service.
    pub fn hash_of(&self, service: &str) -> Option<String> {
        let is_made = |key: &InstanceKey| !self.start.instances.iter().any(|i| i.key == *key);
        let is_new = |(key, c): &(&InstanceKey, &Container)| {
            let is_its = c.compose().is_some_and(|(_, name)| name == service);
            is_its && !c.is_bridge() && (is_made(key) || self.reader.desired.matches(service, c))
        };
        let (_, container) = self.rollout.containers().iter().find(is_new)?;
        container.label(CONFIG_HASH).map(String::from)
    }

    /// True if one of these ids is an instance of the target.
    pub fn has_container(&self, ids: &[String]) -> bool {
        self.rollout.containers().values().any(|c| ids.contains(&c.id))
    }

    /// Commands of the plan, step by step. A new instance has the name that Compose will give it.
    pub fn preview(&self) -> Result<Vec<PlannedStep>> {
        let mut bound = self.rollout.containers().clone();
        for (step, _) in self.plan.steps() {
            let created = match step {
                Step::Create { service, fresh, .. } => Some((service, fresh.as_slice())),
                Step::CreateBridge { service, key, .. } => Some((service, std::slice::from_ref(key))),
                _ => None,
            };
            if let Some((service, fresh)) = created {
                let last = bound
                    .values()
                    .filter(|c| c.compose().is_some_and(|(_, s)| s == service))
                    .map(Container::number);
                let next = last.max().unwrap_or(0) + 1;
                let bridge = match step {
                    Step::CreateBridge { kind, .. } => Some(*kind),
                    _ => None,
                };
                let new_containers = fresh
                    .iter()
                    .zip(next..)
                    .map(|(key, n)| (key.clone(), self.planned_container(service, n, bridge)));
                bound.extend(new_containers.collect::<Vec<_>>());
            }
        }
        let shown: BTreeMap<&InstanceKey, Container> =
            bound.iter().map(|(k, c)| (k, self.after_creation(c))).collect();
        let names: BTreeMap<&InstanceKey, String> =
            shown.iter().map(|(k, c)| (*k, self.short_name(c))).collect();
        let proxies = self.context.proxies.iter().filter_map(|p| p.container());
        let titles = shown.values().chain(proxies).map(|c| (c.id.clone(), c.name().to_string()));
        let list = CommandList::new(titles.filter(|(_, name)| !name.is_empty()).collect());
        let docker = self.context.docker.listing(list.clone());
        let context = RolloutContext { docker: &docker, ..self.context };
        let rollout = Rollout::new(context, self.stop.clone(), &self.start, bound.clone());
        let actions = rollout.list_steps(&self.plan, &list)?;
        let step = |((step, cause), actions): (&PlanStep, Vec<PlannedCommand>)| PlannedStep {
            verb: step.verb().into(),
            names: step.keys().iter().map(|k| names[k].clone()).collect(),
            text: step.describe(&|key| names[key].clone()),
            reason: cause.to_string(),
            actions,
        };
        Ok(self.plan.steps().into_iter().zip(actions).map(step).collect())
    }

    /// A container with the name that it has once the new instance has that of the service.
    fn after_creation(&self, container: &Container) -> Container {
        let creates = |service: &str| {
            let steps = self.plan.steps();
            steps
                .iter()
                .any(|(s, _)| matches!(s, Step::Create { service: created, .. } if created == service))
        };
        let name = container.compose().and_then(|(_, service)| {
            self.context.project.services.get(service)?.container_name.as_deref().filter(|_| creates(service))
        });
        let is_set_aside = name == Some(container.name()) && !container.id.starts_with(PLANNED);
        let container = container.clone();
        if is_set_aside { container.clone().named(&container.set_aside_name()) } else { container }
    }

    /// Container of an instance or bridge to create, with Compose's next number.
    fn planned_container(&self, service: &str, number: u32, bridge: Option<Bridge>) -> Container {
        let project = &self.context.project;
        let fixed = project.services[service].container_name.as_ref().filter(|_| bridge.is_none());
        let name = fixed.cloned().unwrap_or_else(|| format!("{}-{service}-{number}", project.name));
        let mut container = self.reader.preview(service).named(&name);
        container.id = format!("{PLANNED}{service}-{number}>");
        if let Some(bridge) = bridge {
            let kind = if bridge == Bridge::Relay { RELAY } else { "" };
            container.config.labels.insert(BRIDGE.into(), kind.into());
        }
        container.numbered(number)
    }

    fn short_name(&self, container: &Container) -> String {
        container.short_name(&self.context.project.name)
    }

    /// Runs one stage of the plan. A tolerated failure leads to a new plan that keeps the old instance.
    ///
    /// # Errors
    /// The failure that ended the stage, possibly of another target's instance. The last stage never fails, because
    /// the new release serves.
    pub fn run(&mut self, stage: Stage) -> Result<(), RolloutFailure> {
        self.rollout
            .resume_monitor(&std::mem::take(&mut self.young_instances))
            .map_err(|e| RolloutFailure::new(Error::from_error(e)))?;
        loop {
            match self.try_run(stage) {
                Err(failure) if self.tolerates(&failure) => self.continue_without(failure)?,
                Err(failure) if failure.serves => {
                    self.report.warn(&Warning::CleanupFailed(failure.reason.into_error().to_string()));
                    self.clean_again();
                    return Ok(());
                }
                Err(failure) => return Err(failure),
                Ok(()) => {
                    self.reached = Some(stage);
                    if stage == Stage::Switch {
                        self.in_service = Some(self.context.monitor.elapsed());
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Last stage that was run to its end.
    pub fn reached(&self) -> Option<Stage> {
        self.reached
    }

    /// Takes down old instances that run again after they were stopped, with a plan of their own, because they may
    /// be in rotation.
    fn clean_again(&mut self) {
        if self.still_running().is_empty() {
            return;
        }
        let kept_slots = self.failed.len();
        let planned = self.replan(|_, _| kept_slots);
        let cleaned = planned.and_then(|()| self.try_run(Stage::Clean).map_err(|s| s.reason.into_error()));
        if let Err(error) = cleaned {
            self.report.warn(&Warning::CleanupFailed(error.to_string()));
            self.left_running = self.still_running();
        }
    }

    /// Names of the instances that still run although the plan stops or removes them.
    fn still_running(&self) -> Vec<String> {
        let leave = |(step, _): &(Step, Cause)| match step {
            Step::Stop(keys) | Step::Remove(keys) => keys.clone(),
            _ => Vec::new(),
        };
        let ids: BTreeSet<&String> = self
            .plan
            .steps()
            .into_iter()
            .flat_map(leave)
            .filter_map(|key| Some(&self.rollout.container(&key)?.id))
            .collect();
        let now =
            self.context.docker.inspect(&ids.into_iter().cloned().collect::<Vec<_>>()).unwrap_or_default();
        now.iter().filter(|c| c.is_running()).map(|c| self.short_name(c)).collect()
    }

    /// Names of the old instances that still run after they were to be removed.
    pub fn left_running(&self) -> &[String] {
        &self.left_running
    }

    /// Instances of the failed release that an undo left.
    pub fn not_undone(&self) -> &[Container] {
        &self.not_undone
    }

    /// Keeps the stopped side of a pair down when the engine restarts. A killed run may not have done so.
    pub fn keep_stopped(&self) {
        if matches!(self.strategy, Strategy::Pair(_)) {
            self.rollout.keep_all_stopped();
        }
    }

    /// Checks the witness before the old release is removed.
    ///
    /// # Errors
    /// Losses since the switch.
    pub fn check_witness(&mut self) -> Result<(), RolloutFailure> {
        self.rollout.check_losses()
    }

    /// True if the target serves already, possibly by an orphan.
    pub fn serves(&self) -> bool {
        self.start.serving().next().is_some() || !self.terms.orphans.is_empty()
    }

    /// Containers of services that the file no longer has, and that serve the same route.
    pub fn orphans(&self) -> &[Container] {
        &self.terms.orphans
    }

    /// Runs to the end of the stage. A new plan repeats its earlier stages.
    fn try_run(&mut self, stage: Stage) -> Result<(), RolloutFailure> {
        let steps = self.rollout.steps_done()..self.plan.stage(stage).end;
        self.rollout.run(&self.plan, steps)
    }

    fn max_failures(&self) -> usize {
        match self.strategy {
            Strategy::Scale(_) => self.terms.update.tolerated_failures(self.slots),
            Strategy::Pair(_) | Strategy::Bridge(..) => 0,
        }
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance { monitor: self.monitor(), failures: self.max_failures().saturating_sub(self.failed.len()) }
    }

    fn monitor(&self) -> Duration {
        match &self.strategy {
            Strategy::Scale(desired) | Strategy::Bridge(desired, _) => desired.policy.monitor,
            Strategy::Pair(desired) => desired[0].policy.monitor,
        }
    }

    pub fn tolerates(&self, failure: &RolloutFailure) -> bool {
        let failed = self.failed.len() + failure.failed.len();
        let is_scale = matches!(self.strategy, Strategy::Scale(_));
        self.has_container(&failure.failed)
            && is_scale
            && self.terms.update.continues_after(failed, self.slots)
    }

    /// Continues without the failed instances.
    ///
    /// # Errors
    /// The state cannot be read, or no plan continues from it.
    pub fn continue_without(&mut self, failure: RolloutFailure) -> Result<(), RolloutFailure> {
        self.replace_failed(&failure.failed);
        self.failed.extend(failure.failed);
        self.report.warn(&Warning::FailuresTolerated {
            target: self.name().into(),
            failed: self.failed.len(),
            slots: self.slots,
            reason: failure.reason.into_error().message,
        });
        let kept_slots = self.failed.len();
        self.replan(|_, _| kept_slots).map_err(RolloutFailure::new)
    }

    /// Plans again from the current state. `kept_slots` returns how many slots stay on their old instance.
    fn replan(&mut self, kept_slots: impl Fn(&DesiredService, &Observed) -> usize) -> Result<(), Error> {
        let snapshot = self.observe()?;
        let mut strategy = self.strategy.clone();
        if let Strategy::Scale(desired) = &mut strategy {
            desired.kept_slots = kept_slots(desired, &snapshot.observed);
        }
        self.plan = plan::plan(&strategy, &snapshot.observed).map_err(Error::from)?;
        let next = Rollout::new(self.context, self.stop.clone(), &snapshot.observed, snapshot.containers);
        let tolerance = self.tolerance();
        let before = std::mem::replace(&mut self.rollout, next);
        self.rollout.continue_from(before, tolerance);
        Ok(())
    }

    /// Observed state; failed instances count as broken, even if they run.
    fn observe(&self) -> Result<TargetSnapshot, Error> {
        let mut snapshot = self.reader.observe_with_retry()?;
        for instance in &mut snapshot.observed.instances {
            if self.failed.contains(&snapshot.containers[&instance.key].id) {
                (instance.state, instance.ready) = (InstanceState::Broken, false);
            }
        }
        Ok(snapshot)
    }

    /// Pauses the rollout: new instances that serve stay, the other slots keep their old ones, and failed instances
    /// are removed. The route still has to be handed back. Returns how many of how many instances are new.
    pub fn pause_in_place(&mut self, failed: &[String]) -> Result<(usize, usize), Error> {
        self.failed.extend(failed.iter().cloned());
        let Strategy::Scale(desired) = &mut self.strategy else {
            let (rollout, error) = self.undo(failed)?;
            self.rollout = rollout;
            return error.map_or(Ok((0, self.slots)), Err);
        };
        let total = desired.replicas;
        // The old instances served before, so neither a delay nor a monitor is needed.
        (desired.policy.delay, desired.policy.monitor) = Default::default();
        self.stop = StopSignal::default();
        self.replan(|desired, now| desired.replicas.saturating_sub(new_serving(desired, now)))?;
        let plan = self.plan.clone();
        self.rollout.best_effort().run(&plan, plan.before_hand_back()).map_err(|s| s.reason.into_error())?;
        let now = self.observe()?;
        let desired =
            DesiredService { service: self.reader.target.name().into(), ..DesiredService::default() };
        Ok((new_serving(&desired, &now.observed), total))
    }

    /// Replaces failed instances, by id, with old ones in the rotation at once.
    pub fn replace_failed(&self, failed: &[String]) {
        let served: Vec<InstanceKey> = self.start.serving().map(|i| i.key.clone()).collect();
        self.rollout.replace_failed(failed, &served);
    }

    /// Restores the old release, without the instances that cannot return. `failed` are ids of new instances. The
    /// returned rollout still has to hand the route back; the error is what stopped the undo.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn undo(&mut self, failed: &[String]) -> Result<(Rollout<'a>, Option<Error>), Error> {
        let served: BTreeSet<String> = self.served().into_iter().map(|c| c.id.clone()).collect();
        let (mut not_returning, mut error, mut rounds) = (BTreeSet::new(), None, UNDO_ROUNDS);
        let mut is_first = true;
        loop {
            let TargetSnapshot { observed: now, containers, .. } =
                self.observe_for_undo(failed, &not_returning)?;
            if std::mem::take(&mut is_first) {
                self.report_dead(&now);
                self.report_return(&now);
            }
            let plan = plan::undo(&self.start, &now, &self.terms.undo_policy);
            let mut rollout = Rollout::for_undo(self.context, &now, containers, served.clone());
            let steps = plan.before_hand_back();
            if steps.is_empty() || rounds == 0 {
                let name = |key: &InstanceKey| rollout.name_of(key);
                self.rotation_state = RotationState::new(&self.start, &now).with_names(&name);
                let replacements = &self.rotation_state.replacements;
                let is_left =
                    |key: &InstanceKey| self.start.get(key).is_none() && !replacements.contains(&name(key));
                let left = now.instances.iter().filter(|i| is_left(&i.key));
                self.not_undone = left.filter_map(|i| rollout.container(&i.key).cloned()).collect();
                if self.rotation_state.is_worse()
                    && rounds > 0
                    && self.reader.wait_for_restarts(rollout.containers())?
                {
                    rounds -= 1;
                    continue;
                }
                return Ok((rollout, error));
            }
            let tried = plan.steps().into_iter().filter(|(step, _)| matches!(step, Step::Start(_)));
            let tried: Vec<InstanceKey> = tried.flat_map(|(step, _)| step.keys().to_vec()).collect();
            match rollout.run(&plan, steps) {
                Ok(()) => {
                    error = None;
                    not_returning.extend(tried.iter().filter_map(|k| Some(rollout.container(k)?.id.clone())));
                    rounds -= 1;
                }
                Err(failure) if failure.failed.iter().any(|id| !not_returning.contains(id)) => {
                    not_returning.extend(failure.failed)
                }
                Err(failure) => {
                    let reason = failure.reason.into_error();
                    let restarts = reason.rule == Some(&ENGINE_DOWN) && self.reader.wait_for_engine();
                    rounds = if restarts { rounds - 1 } else { 0 };
                    error = Some(reason);
                }
            }
        }
    }

    /// Observed state during an undo. Failed instances are not ready, and a stopped one in `not_returning` does not return.
    /// New instances are probed only if they must replace missing old ones, because a probe that hangs would delay
    /// the undo.
    fn observe_for_undo(
        &self,
        failed: &[String],
        not_returning: &BTreeSet<String>,
    ) -> Result<TargetSnapshot, Error> {
        let marked = |mut snapshot: TargetSnapshot| {
            for instance in &mut snapshot.observed.instances {
                let id = &snapshot.containers[&instance.key].id;
                instance.ready &= !failed.contains(id) && !self.failed.contains(id);
                if not_returning.contains(id) && instance.state != InstanceState::Running {
                    instance.state = InstanceState::Broken;
                }
            }
            snapshot
        };
        let snapshot = marked(self.reader.observe_for_undo()?);
        if plan::all_can_return(&self.start, &snapshot.observed) {
            Ok(snapshot)
        } else {
            Ok(marked(self.reader.observe_with_retry()?))
        }
    }

    /// Rotation after an undo.
    pub fn rotation_state(&self) -> &RotationState {
        &self.rotation_state
    }

    /// Reports every stopped instance in rotation; the alarm names only the first.
    fn report_dead(&self, now: &Observed) {
        let runs = |key: &InstanceKey| now.get(key).is_some_and(|i| i.state == InstanceState::Running);
        let inside = self.rollout.inside().iter();
        let stopped: Vec<String> = inside.filter(|k| !runs(k)).map(|k| self.rollout.name_of(k)).collect();
        if !stopped.is_empty() {
            self.report.event(Event::Exited(stopped.into()));
        }
    }

    /// Reports old instances that are back in rotation by [`TargetRollout::replace_failed`], which waits for no confirmation.
    fn report_return(&self, now: &Observed) {
        let before = self.rollout.inside();
        let inside: Vec<InstanceKey> = now.serving().map(|i| i.key.clone()).collect();
        let out: Vec<InstanceKey> = before.iter().filter(|key| !inside.contains(key)).cloned().collect();
        if now.proxied && inside.iter().any(|key| !before.contains(key)) {
            let names = |keys: &[InstanceKey]| keys.iter().map(|k| self.rollout.name_of(k)).collect();
            self.report.event(Event::Routed { in_rotation: names(&inside), out_of_rotation: names(&out) });
        }
    }

    /// Hands the route back to the proxies' own discovery.
    pub fn hand_back(&self) -> Result<()> {
        self.rollout.hand_back()
    }

    /// Old instances that serve.
    pub fn old_serving(&self) -> impl Iterator<Item = &Container> {
        let old = self.start.serving().filter(|i| i.generation == Generation::Old);
        old.filter_map(|i| self.rollout.container(&i.key))
    }

    /// Containers that served at the start.
    pub fn served(&self) -> Vec<&Container> {
        self.start.serving().filter_map(|i| self.rollout.container(&i.key)).collect()
    }
}

/// Number of new instances that serve.
fn new_serving(desired: &DesiredService, now: &Observed) -> usize {
    let new = |i: &&Instance| i.generation == Generation::New && i.serves() && i.ready;
    now.of(&desired.service).filter(new).count()
}
