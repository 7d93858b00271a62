//! One target of a run: what it was, what is planned for it, and how far it has come.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;

use super::observe::{TargetReader, TargetSnapshot};
use crate::docker::inspect::{CONFIG_HASH, Container};
use crate::error::Error;
use crate::model::{FailureAction, Update};
use crate::observed::{Generation, Instance, InstanceKey, InstanceState, Observed};
use crate::plan::{self, Cause, DesiredService, Plan, PlanPolicy, RotationState, Stage, Step, Strategy};
use crate::report::plan::{PlannedCommand, PlannedStep};
use crate::report::{Event, Report, Warning};
use crate::rollout::dry_run::{Preview, PreviewLine};
use crate::rollout::{self, Rollout, RolloutContext, RolloutFailure, Tolerance};
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
    /// Ids of the new instances that failed so far.
    failed: BTreeSet<String>,
    /// Those that a killed run let in, and for how long they have run.
    young: Vec<(InstanceKey, Duration)>,
    /// When all its requests went to the new release, since the watch began.
    in_service: Option<Duration>,
    slots: usize,
    /// What the way back came to.
    standing: RotationState,
    /// Names of the old instances that run although they were to be gone.
    left: Vec<String>,
}

/// How often the way back plans anew without an instance having failed meanwhile.
const ROUNDS: usize = 3;

/// What a part is done by.
pub struct RolloutTerms {
    pub update: Update,
    /// How what served before is brought back.
    pub back: PlanPolicy,
    /// What has to be said before.
    pub warnings: Vec<Warning>,
    /// Containers of services that the file has no more, which serve its route too.
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
        stop: &StopSignal,
    ) -> Result<TargetRollout<'a>, Error> {
        let plan = plan::plan(&strategy, &snapshot.observed).map_err(Error::from)?;
        let rollout = Rollout::new(context, stop.clone(), &snapshot.observed, snapshot.containers);
        let slots = plan.slots;
        let window = plan.window().filter(|_| plan.goes_on_watching());
        let young = window.map(|w| snapshot.observed.instances.iter().filter(move |i| i.is_young(w)));
        let young = young.into_iter().flatten().filter_map(|i| Some((i.key.clone(), i.age?))).collect();
        let start =
            window.map_or_else(|| snapshot.observed.clone(), |w| snapshot.observed.before_the_switch(w));
        let mut part = TargetRollout {
            reader,
            start,
            plan,
            context,
            stop: stop.clone(),
            strategy,
            terms,
            rollout,
            report: context.report,
            failed: BTreeSet::new(),
            young,
            in_service: None,
            slots,
            standing: RotationState::default(),
            left: Vec::new(),
        };
        let tolerance = part.tolerance();
        part.rollout.tolerate(tolerance);
        Ok(part)
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

    /// How many instances each of its services is to have.
    pub fn goals(&self) -> Vec<(&str, usize)> {
        let goals = match &self.strategy {
            Strategy::Scale(goal) => std::slice::from_ref(goal),
            Strategy::Pair(goals) => &goals[..],
        };
        goals.iter().map(|g| (g.service.as_str(), g.wanted)).collect()
    }

    pub fn in_rotation(&self) -> Vec<String> {
        self.rollout.in_rotation()
    }

    pub fn cut(&self) -> usize {
        self.rollout.cut()
    }

    /// When all its requests went to the new release.
    pub fn in_service(&self) -> Option<Duration> {
        self.in_service
    }

    /// The configuration hash that the new instances of a service have.
    pub fn hash_of(&self, service: &str) -> Option<String> {
        let is_made = |key: &InstanceKey| !self.start.instances.iter().any(|i| i.key == *key);
        let is_new = |(key, c): &(&InstanceKey, &Container)| {
            let is_its = c.compose().is_some_and(|(_, name)| name == service);
            is_its && (is_made(key) || self.reader.wanted.fits(service, c))
        };
        let (_, container) = self.rollout.containers().iter().find(is_new)?;
        container.label(CONFIG_HASH).map(String::from)
    }

    /// Whether one of these, by id, is an instance of its.
    pub fn has_any(&self, ids: &[String]) -> bool {
        self.rollout.containers().values().any(|c| ids.contains(&c.id))
    }

    /// What the plan would run, step by step; of those to come with the names that Compose is going to give them.
    ///
    /// # Errors
    /// A proxy that does not answer.
    pub fn preview(&self) -> Result<Vec<PlannedStep>> {
        let mut bound = self.rollout.containers().clone();
        for (step, _) in &self.plan.steps {
            if let Step::Create { service, fresh, .. } = step {
                let last = bound
                    .values()
                    .filter(|c| c.compose().is_some_and(|(_, s)| s == service))
                    .map(rollout::number);
                let next = last.max().unwrap_or(0) + 1;
                let coming = fresh.iter().zip(next..).map(|(key, n)| (key.clone(), self.coming(service, n)));
                bound.extend(coming.collect::<Vec<_>>());
            }
        }
        let names: BTreeMap<&InstanceKey, String> =
            bound.iter().map(|(k, c)| (k, self.short_name(c))).collect();
        let step = |(step, cause): &(Step, Cause), does: Vec<PreviewLine>| PlannedStep {
            verb: step.verb().into(),
            names: step.keys().iter().map(|k| names[k].clone()).collect(),
            text: renamed(&step.to_string(), &names),
            cause: cause.to_string(),
            does: does.into_iter().map(PlannedCommand::from).collect(),
        };
        let told = Preview::new(self.context, &self.start, bound.clone()).steps(&self.plan)?;
        Ok(self.plan.steps.iter().zip(told).map(|(s, does)| step(s, does)).collect())
    }

    /// An instance that is to be created, as Compose numbers it.
    fn coming(&self, service: &str, number: u32) -> Container {
        let project = &self.context.project.name;
        let mut coming = self.reader.preview(service).named(&format!("{project}-{service}-{number}"));
        coming.id = format!("<id of {service}-{number}>");
        coming.numbered(number)
    }

    fn short_name(&self, container: &Container) -> String {
        rollout::short_name(&self.context.project.name, container)
    }

    /// Does one stage of the plan. A new instance whose failure is within what may fail costs a new plan, in which the
    /// old one stays in its place.
    ///
    /// # Errors
    /// What ended it, be it an instance of another part; in the last stage nothing does, as the new release serves.
    pub fn run(&mut self, stage: Stage) -> Result<(), RolloutFailure> {
        self.rollout
            .watch_on(&std::mem::take(&mut self.young))
            .map_err(|e| RolloutFailure::by(Error::from_error(e)))?;
        loop {
            match self.try_run(stage) {
                Err(stopped) if self.may_fail(&stopped) => self.continue_without(stopped)?,
                Err(stopped) if stopped.serves => {
                    self.report.warn(&Warning::LeftBehind(stopped.why.into_error().to_string()));
                    self.clean_again();
                    return Ok(());
                }
                done => {
                    if done.is_ok() && stage == Stage::Switch {
                        self.in_service = Some(self.context.watch.elapsed());
                    }
                    return done;
                }
            }
        }
    }

    /// Takes down the old instances that run again although they were stopped, as any others; they may serve by now.
    fn clean_again(&mut self) {
        if self.still_running().is_empty() {
            return;
        }
        let spared = self.failed.len();
        let planned = self.plan_anew(|_, _| spared);
        let cleaned = planned.and_then(|()| self.try_run(Stage::Clean).map_err(|s| s.why.into_error()));
        if let Err(error) = cleaned {
            self.report.warn(&Warning::LeftBehind(error.to_string()));
            self.left = self.still_running();
        }
    }

    /// Names of the instances that the plan stops or removes, and that run.
    fn still_running(&self) -> Vec<String> {
        let leave = |(step, _): &(Step, Cause)| match step {
            Step::Stop(keys) | Step::Remove(keys) => keys.clone(),
            _ => Vec::new(),
        };
        let ids: BTreeSet<&String> = self
            .plan
            .steps
            .iter()
            .flat_map(leave)
            .filter_map(|key| Some(&self.rollout.container(&key)?.id))
            .collect();
        let now =
            self.context.docker.inspect(&ids.into_iter().cloned().collect::<Vec<_>>()).unwrap_or_default();
        now.iter().filter(|c| c.is_running()).map(|c| self.short_name(c)).collect()
    }

    /// Names of the old instances that run although they were to be gone.
    pub fn left(&self) -> &[String] {
        &self.left
    }

    /// The stopped side of a pair stays down when the engine starts again; a run that was killed may not have seen to it.
    pub fn keep_down(&self) {
        if matches!(self.strategy, Strategy::Pair(_)) {
            self.rollout.keep_all_down();
        }
    }

    /// Before the old release goes for good: whether the witness has anything against it.
    ///
    /// # Errors
    /// What it lost since the switch.
    pub fn hear_witness(&mut self) -> Result<(), RolloutFailure> {
        self.rollout.objected()
    }

    /// It serves already, be it by an instance that had another name.
    pub fn serves(&self) -> bool {
        self.start.serving().next().is_some() || !self.terms.orphans.is_empty()
    }

    /// Containers of services that the file has no more, which serve its route too.
    pub fn orphans(&self) -> &[Container] {
        &self.terms.orphans
    }

    /// Goes on to the end of the stage: a plan that was made anew has its earlier ones to do as well.
    fn try_run(&mut self, stage: Stage) -> Result<(), RolloutFailure> {
        let steps = self.rollout.done()..self.plan.stage(stage).end;
        self.rollout.run(&self.plan, steps)
    }

    fn tolerated(&self) -> usize {
        match self.strategy {
            Strategy::Scale(_) => self.terms.update.tolerated(self.slots),
            Strategy::Pair(_) => 0,
        }
    }

    fn tolerance(&self) -> Tolerance {
        Tolerance { monitor: self.monitor(), failures: self.tolerated().saturating_sub(self.failed.len()) }
    }

    fn monitor(&self) -> Duration {
        match &self.strategy {
            Strategy::Scale(goal) => goal.pace.monitor,
            Strategy::Pair(goals) => goals[0].pace.monitor,
        }
    }

    pub fn may_fail(&self, stopped: &RolloutFailure) -> bool {
        let failed = self.failed.len() + stopped.failed.len();
        let is_pair = matches!(self.strategy, Strategy::Pair(_));
        self.has_any(&stopped.failed) && !is_pair && self.terms.update.goes_on(failed, self.slots)
    }

    /// Goes on without the instances that failed.
    ///
    /// # Errors
    /// What is there cannot be seen, or no plan leads on from it.
    pub fn continue_without(&mut self, stopped: RolloutFailure) -> Result<(), RolloutFailure> {
        self.replace_failed(&stopped.failed);
        self.failed.extend(stopped.failed);
        self.report.warn(&Warning::Tolerated {
            target: self.name().into(),
            failed: self.failed.len(),
            slots: self.slots,
            why: stopped.why.into_error().message,
        });
        let spared = self.failed.len();
        self.plan_anew(|_, _| spared).map_err(RolloutFailure::by)
    }

    /// Plans from what is there now; `spared` tells how many slots of a goal stay as they are.
    fn plan_anew(&mut self, spared: impl Fn(&DesiredService, &Observed) -> usize) -> Result<(), Error> {
        let snapshot = self.look()?;
        let mut strategy = self.strategy.clone();
        if let Strategy::Scale(goal) = &mut strategy {
            goal.spared = spared(goal, &snapshot.observed);
        }
        self.plan = plan::plan(&strategy, &snapshot.observed).map_err(Error::from)?;
        let next = Rollout::new(self.context, self.stop.clone(), &snapshot.observed, snapshot.containers);
        let tolerance = self.tolerance();
        let before = std::mem::replace(&mut self.rollout, next);
        self.rollout.continue_from(before, tolerance);
        Ok(())
    }

    /// What is there; those that failed count as broken, whatever they do now.
    fn look(&self) -> Result<TargetSnapshot, Error> {
        let mut snapshot = self.reader.look_patiently()?;
        for instance in &mut snapshot.observed.instances {
            if self.failed.contains(&snapshot.containers[&instance.key].id) {
                (instance.state, instance.ready) = (InstanceState::Broken, false);
            }
        }
        Ok(snapshot)
    }

    /// Stays where it is: the new instances that serve go on serving, the old ones keep all other places, and what
    /// failed goes; its route is still to be released. Tells how many of how many are new.
    ///
    /// # Errors
    /// What keeps it from settling.
    pub fn pause_in_place(&mut self, stopped: &[String]) -> Result<(usize, usize), Error> {
        self.failed.extend(stopped.iter().cloned());
        let Strategy::Scale(goal) = &mut self.strategy else {
            let (rollout, error) = self.undo(stopped)?;
            self.rollout = rollout;
            return error.map_or(Ok((0, self.slots)), Err);
        };
        let wanted = goal.wanted;
        // Those that come back served before: there is nothing to wait for, and nothing to watch.
        (goal.pace.delay, goal.pace.monitor) = Default::default();
        self.stop = StopSignal::default();
        self.plan_anew(|goal, now| goal.wanted.saturating_sub(new_ones(goal, now)))?;
        let plan = self.plan.clone();
        self.rollout.best_effort().run(&plan, plan.before_release()).map_err(|s| s.why.into_error())?;
        let now = self.look()?;
        let goal = DesiredService { service: self.reader.target.name().into(), ..DesiredService::default() };
        Ok((new_ones(&goal, &now.observed), wanted))
    }

    /// Has what served before take the place of those that failed, by id, before anything else is done.
    pub fn replace_failed(&self, failed: &[String]) {
        let served: Vec<InstanceKey> = self.start.serving().map(|i| i.key.clone()).collect();
        self.rollout.replace_failed(failed, &served);
    }

    /// Brings back what served before, and goes on with the others where an instance does not come back. What this
    /// returns has its route still to be released; with it what kept the way back from its end. `failed` are the new
    /// instances that failed, by id.
    ///
    /// # Errors
    /// Nothing can be seen of what is there.
    pub fn undo(&mut self, failed: &[String]) -> Result<(Rollout<'a>, Option<Error>), Error> {
        let served: BTreeSet<String> = self.served().into_iter().map(|c| c.id.clone()).collect();
        let (mut dead, mut error, mut rounds) = (BTreeSet::new(), None, ROUNDS);
        let mut is_first = true;
        loop {
            let TargetSnapshot { observed: now, containers, .. } =
                self.look_on_the_way_back(failed, &dead)?;
            if std::mem::take(&mut is_first) {
                self.report_dead(&now);
            }
            let plan = plan::undo(&self.start, &now, &self.terms.back);
            let mut rollout = Rollout::back(self.context, &now, containers, served.clone());
            let steps = plan.before_release();
            if steps.is_empty() || rounds == 0 {
                self.standing = RotationState::new(&self.start, &now);
                if self.standing.is_worse() && rounds > 0 && self.reader.sees_restart(rollout.containers())? {
                    rounds -= 1;
                    continue;
                }
                return Ok((rollout, error));
            }
            let tried = plan.steps.iter().filter(|(step, _)| matches!(step, Step::Start(_)));
            let tried: Vec<InstanceKey> = tried.flat_map(|(step, _)| step.keys().to_vec()).collect();
            match rollout.run(&plan, steps) {
                Ok(()) => {
                    dead.extend(tried.iter().filter_map(|k| Some(rollout.container(k)?.id.clone())));
                    rounds -= 1;
                }
                Err(stopped) if stopped.failed.iter().any(|id| !dead.contains(id)) => {
                    dead.extend(stopped.failed)
                }
                Err(stopped) => (error, rounds) = (Some(stopped.why.into_error()), 0),
            }
        }
    }

    /// What is there on the way back. Those that failed are not ready, and those that are `dead` and do not run do not
    /// come back. New instances are probed only where they have to take the place of old ones that are gone: one that
    /// hangs would keep the way back waiting.
    fn look_on_the_way_back(
        &self,
        failed: &[String],
        dead: &BTreeSet<String>,
    ) -> Result<TargetSnapshot, Error> {
        let marked = |mut snapshot: TargetSnapshot| {
            for instance in &mut snapshot.observed.instances {
                let id = &snapshot.containers[&instance.key].id;
                instance.ready &= !failed.contains(id) && !self.failed.contains(id);
                if dead.contains(id) && instance.state != InstanceState::Running {
                    instance.state = InstanceState::Broken;
                }
            }
            snapshot
        };
        let snapshot = marked(self.reader.look_back()?);
        match plan::all_can_return(&self.start, &snapshot.observed) {
            true => Ok(snapshot),
            false => Ok(marked(self.reader.look_patiently()?)),
        }
    }

    /// What the way back came to.
    pub fn standing(&self) -> &RotationState {
        &self.standing
    }

    /// Reports the instances in rotation that do not run: the alarm names only the first that failed.
    fn report_dead(&self, now: &Observed) {
        let runs = |name: &str| now.get(name).is_some_and(|i| i.state == InstanceState::Running);
        let dead: Vec<String> = self.in_rotation().into_iter().filter(|name| !runs(name)).collect();
        if !dead.is_empty() {
            self.report.event(Event::Died { names: dead });
        }
    }

    /// Gives the route back to the proxies' own discovery.
    ///
    /// # Errors
    /// A proxy that does not answer.
    pub fn hand_back(&self) -> Result<()> {
        self.rollout.hand_back()
    }

    /// The old instances that serve.
    pub fn old_serving(&self) -> impl Iterator<Item = &Container> {
        let old = self.start.serving().filter(|i| i.generation == Generation::Old);
        old.filter_map(|i| self.rollout.container(&i.key))
    }

    /// The containers that served at the start.
    pub fn served(&self) -> Vec<&Container> {
        self.start.serving().filter_map(|i| self.rollout.container(&i.key)).collect()
    }
}

/// A step's words with names in the place of keys; the longest keys first, because one may begin with another.
fn renamed(text: &str, names: &BTreeMap<&InstanceKey, String>) -> String {
    let mut keys: Vec<_> = names.iter().filter(|(key, name)| **key != *name).collect();
    keys.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
    keys.into_iter().fold(text.to_string(), |text, (key, name)| text.replace(key.as_str(), name))
}

impl From<PreviewLine> for PlannedCommand {
    fn from(told: PreviewLine) -> PlannedCommand {
        match told {
            PreviewLine::Command(words) => PlannedCommand::Command(words),
            PreviewLine::Words(text) => PlannedCommand::Note(text),
        }
    }
}

/// The new instances that serve.
fn new_ones(goal: &DesiredService, now: &Observed) -> usize {
    let new = |i: &&Instance| i.generation == Generation::New && i.serves() && i.ready;
    now.of(&goal.service).filter(new).count()
}
