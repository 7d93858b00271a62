//! Executes a plan, step by step. The plan decides what to do; `deploy` decides what to do about a failure.

mod dry_run;
mod fixed_name;
mod hold;
pub mod restart;
mod start;
mod switch;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::docker::inspect::Container;
use crate::docker::{Docker, Exec};
use crate::error::{Error, Exit};
use crate::health::monitor::{Monitor, MonitorFailure};
use crate::model::{LifecycleHook, Project, ResolvedProject, Service};
use crate::observed::{InstanceKey, Observed};
use crate::plan::{Plan, Step};
use crate::proxy::converge::{Keeper, Pursuit};
use crate::proxy::{Endpoint, Goal, OtherContainers, Proxy, Rotation, endpoints};
use crate::report::event::Names;
use crate::report::{Event, Report, StepEvent, Warning};
use crate::wait::{RunPhase, StopSignal};
use crate::witness::Witness;
pub use hold::{HoldLog, longest_wait, ports_of_owner};

/// Shared context of all rollouts of a run.
#[derive(Clone, Copy)]
pub struct RolloutContext<'a> {
    pub docker: &'a Docker,
    pub project: &'a Project,
    /// The project as Compose resolved it, and its folder.
    pub snapshot: (&'a ResolvedProject, &'a Path),
    pub proxies: &'a [Arc<dyn Proxy>],
    pub report: Report,
    /// Name of the target, for people.
    pub target: &'a str,
    pub witness: &'a Witness,
    pub monitor: &'a Monitor,
    /// True for a deploy, which runs init containers (`pre_start`); a rollback runs none.
    pub runs_jobs: bool,
    /// Jobs and init containers that completed already.
    pub completed: &'a BTreeSet<String>,
    /// Restart policies to restore when retired instances start again.
    pub policies: &'a restart::RestartPolicies,
    pub stop: &'a StopSignal,
    /// Requests that have waited in a relay.
    pub holds: &'a HoldLog,
}

/// Number of new instances that may fail within their monitor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tolerance {
    pub monitor: Duration,
    pub failures: usize,
}

/// Running execution of a plan.
pub struct Rollout<'a> {
    context: RolloutContext<'a>,
    stop: StopSignal,
    /// Container of each key in the plan.
    containers: BTreeMap<InstanceKey, Container>,
    inside: Vec<InstanceKey>,
    /// Ids of the containers in rotation at the start.
    initially_inside: BTreeSet<String>,
    /// Containers outside this rollout, as last read.
    others: OtherContainers,
    /// True for an undo, in which an unready old instance is better than none.
    is_best_effort: bool,
    /// True if an instance that dies or does not start ends the plan, because the caller plans again without it.
    is_replanned: bool,
    tolerance: Tolerance,
    /// Ids of the containers that the last change of the rotation admitted.
    admitted: Vec<String>,
    /// The witness has lost requests since that change.
    has_witness_losses: Cell<bool>,
    /// Ids of the new instances whose failure ended the plan.
    failed: Vec<String>,
    /// Number of steps that are done.
    steps_done: usize,
    /// Time at which each container left the rotation, by id.
    left_rotation_at: BTreeMap<String, Instant>,
    /// The route is handed back already.
    is_handed_back: bool,
    /// Time of the last read of all containers.
    read_at: Option<Instant>,
    /// Number of requests in flight when their instance was stopped, as far as known.
    cut_requests: usize,
    /// Services whose init containers have run.
    initialised: BTreeSet<String>,
    /// What a dry run cannot list as a command.
    notes: RefCell<Vec<String>>,
    /// Goals of proxies whose state expires.
    keeper: Keeper<'a>,
    /// Time since when requests wait in a relay.
    held_since: Option<Instant>,
}

/// Failure of a plan.
pub struct RolloutFailure {
    /// Only cleanup was left, so the new release serves.
    pub serves: bool,
    /// Ids of the failed new instances; empty for any other failure.
    pub failed: Vec<String>,
    pub reason: FailureReason,
}

/// Reason of a failure.
pub enum FailureReason {
    Other(Error),
    /// A monitored instance failed. Its last log lines are still being read, and an undo does not wait for them.
    Instance(JoinHandle<Error>),
}

impl FailureReason {
    pub fn is_interrupt(&self) -> bool {
        matches!(self, FailureReason::Other(Error { exit: Exit::Interrupted(_), .. }))
    }

    /// Full error; waits for the log lines.
    pub fn into_error(self) -> Error {
        match self {
            FailureReason::Other(error) => error,
            FailureReason::Instance(error) => error.join().expect("no panic in a read"),
        }
    }
}

impl RolloutFailure {
    /// Failure without a failed instance.
    pub fn new(error: Error) -> RolloutFailure {
        RolloutFailure { serves: false, failed: Vec::new(), reason: FailureReason::Other(error) }
    }
}

impl From<Error> for Box<RolloutFailure> {
    fn from(error: Error) -> Self {
        Box::new(RolloutFailure::new(error))
    }
}

impl From<MonitorFailure> for RolloutFailure {
    fn from(MonitorFailure { ids, error, .. }: MonitorFailure) -> RolloutFailure {
        RolloutFailure { serves: false, failed: ids, reason: FailureReason::Instance(error) }
    }
}

impl<'a> Rollout<'a> {
    pub fn new(
        context: RolloutContext<'a>,
        stop: StopSignal,
        observed: &Observed,
        containers: BTreeMap<InstanceKey, Container>,
    ) -> Self {
        let inside: Vec<InstanceKey> = observed.serving().map(|i| i.key.clone()).collect();
        Rollout {
            context,
            stop,
            initially_inside: inside.iter().filter_map(|k| Some(containers.get(k)?.id.clone())).collect(),
            others: OtherContainers::new(),
            containers,
            inside,
            is_best_effort: false,
            is_replanned: false,
            tolerance: Tolerance::default(),
            admitted: Vec::new(),
            has_witness_losses: Cell::default(),
            failed: Vec::new(),
            steps_done: 0,
            left_rotation_at: BTreeMap::new(),
            is_handed_back: false,
            read_at: None,
            cut_requests: 0,
            // Init containers ran before any running new instance.
            initialised: observed.running_new().map(|i| i.service.clone()).collect(),
            notes: RefCell::default(),
            keeper: Keeper::default(),
            held_since: None,
        }
    }

    /// Continues another rollout with its counts.
    pub fn continue_from(&mut self, other: Rollout<'a>, tolerance: Tolerance) {
        self.tolerance = tolerance;
        (self.left_rotation_at, self.cut_requests) = (other.left_rotation_at, other.cut_requests);
        self.initialised.extend(other.initialised);
        self.keeper = other.keeper;
    }

    /// From here on no failure and no unready instance ends the plan.
    pub fn best_effort(&mut self) -> &mut Self {
        self.is_best_effort = true;
        self
    }

    /// Monitors instances of an earlier run for the rest of their window.
    ///
    /// # Errors
    /// An instance without any probe.
    pub fn resume_monitor(&self, young: &[(InstanceKey, Duration)]) -> Result<()> {
        for (key, age) in young {
            let pace = self.service(key).settings.timing;
            self.context.monitor.resume(self.candidate(key)?, pace, *age, self.tolerance.monitor);
        }
        Ok(())
    }

    pub fn containers(&self) -> &BTreeMap<InstanceKey, Container> {
        &self.containers
    }

    pub fn container(&self, key: &str) -> Option<&Container> {
        self.containers.get(key)
    }

    pub fn tolerate(&mut self, tolerance: Tolerance) {
        self.tolerance = tolerance;
    }

    /// Number of steps that are done.
    pub fn steps_done(&self) -> usize {
        self.steps_done
    }

    /// Number of requests that were cut off.
    pub fn cut_requests(&self) -> usize {
        self.cut_requests
    }

    /// Rollout for an undo: no signal interrupts it, and readiness is best effort. An unhealthy instance that
    /// `served` before is not awaited. An instance that dies ends the plan, because nothing may be stopped then.
    pub fn for_undo(
        context: RolloutContext<'a>,
        observed: &Observed,
        containers: BTreeMap<InstanceKey, Container>,
        served: BTreeSet<String>,
    ) -> Self {
        let mut rollout = Rollout::new(context, StopSignal::default(), observed, containers);
        rollout.initially_inside.extend(served);
        let is_held = !rollout.inside.is_empty() && rollout.inside.iter().all(|key| rollout.is_relay(key));
        let held_since = is_held.then(Instant::now);
        Rollout { is_best_effort: true, is_replanned: true, held_since, ..rollout }
    }

    /// Replaces failed instances, by id, with old ones in the rotation at once. The following undo verifies it, so
    /// a proxy that is not fast enough is set then.
    pub fn replace_failed(&self, failed: &[String], served: &[InstanceKey]) {
        let has_failed = |k: &&InstanceKey| self.containers.get(*k).is_some_and(|c| failed.contains(&c.id));
        let runs = |k: &&InstanceKey| self.containers.get(*k).is_some_and(Container::is_running);
        let (out, stay): (Vec<InstanceKey>, Vec<InstanceKey>) =
            self.inside.iter().cloned().partition(|k| has_failed(&k));
        let back = served.iter().filter(runs).filter(|k| !stay.contains(k) && !has_failed(k));
        let mut inside: Vec<InstanceKey> = stay.iter().chain(back).cloned().collect();
        if inside.is_empty() {
            let bridges = self.containers.iter().filter(|(_, c)| c.is_bridge()).map(|(key, _)| key);
            inside.extend(bridges.filter(runs).cloned());
        }
        if out.is_empty() || inside.is_empty() {
            return;
        }
        self.hold_again(&inside);
        for (proxy, rotation) in self.rotations_with(&inside, &out) {
            let goal = Goal::Rotation(Rotation { urgent: true, ..rotation });
            let _ = Pursuit::new(self.context.docker, proxy, goal).step();
        }
    }

    /// Runs a range of steps.
    ///
    /// # Errors
    /// The first step that fails; later steps do not run.
    pub fn run(&mut self, plan: &Plan, steps: Range<usize>) -> Result<(), RolloutFailure> {
        let all = plan.steps();
        let last_route = all.iter().rposition(|(s, _)| s.moves_requests());
        for n in steps {
            let step = &all[n].0;
            // After the last switch, finishing is faster than an undo.
            let finishes = last_route.is_none_or(|last| n > last);
            self.stop.enter(if finishes { RunPhase::Finishing } else { RunPhase::Interruptible });
            self.announce(plan, n);
            let next = all.get(n + 1).map(|(next, _)| next);
            let result =
                self.check_interrupt().and_then(|()| self.check()).and_then(|()| match (step, next) {
                    // Removal and hand-back are independent.
                    (Step::Remove(keys), Some(Step::HandBack)) => self.remove_and_hand_back(keys),
                    (Step::HandBack, _) if std::mem::take(&mut self.is_handed_back) => Ok(()),
                    _ => self.step(step),
                });
            result.map_err(|error| {
                let serves = all[n..].iter().all(|(s, _)| is_cleaning(s));
                RolloutFailure { serves, ..self.failure(error) }
            })?;
            self.steps_done = n + 1;
        }
        Ok(())
    }

    fn announce(&self, plan: &Plan, n: usize) {
        let step = &plan.steps()[n].0;
        let (batch, batches) = plan.batch(n);
        self.context.report.event(Event::Step(StepEvent {
            target: self.context.target.into(),
            number: n + 1,
            steps: plan.steps().len(),
            batch,
            batches,
            verb: step.verb().into(),
            names: step.keys().iter().map(|key| self.name_of(key)).collect(),
            rolling_back: self.is_best_effort,
        }));
    }

    /// Instances in rotation.
    pub fn inside(&self) -> &[InstanceKey] {
        &self.inside
    }

    /// Names of the instances in rotation.
    pub fn in_rotation(&self) -> Vec<String> {
        self.names(&self.inside)
    }

    /// Name of an instance for people.
    pub fn name_of(&self, key: &InstanceKey) -> String {
        if self.containers.contains_key(key) { self.name(key) } else { key.clone() }
    }

    fn check_interrupt(&self) -> Result<()> {
        match self.stop.signal() {
            Some(signal) => Err(Error::interrupted(signal).into()),
            None => Ok(()),
        }
    }

    /// Renews what expires. Fails if a monitored instance has failed, also one of another rollout. An undo goes on with
    /// what there is.
    fn check(&self) -> Result<()> {
        if let Some(error) = self.context.docker.lost_lease() {
            return Err(error.into());
        }
        self.keeper.renew();
        if self.is_best_effort {
            return Ok(());
        }
        let warned = self.context.monitor.take_out_of_memory_survivors();
        warned.into_iter().for_each(|name| self.context.report.warn(&Warning::OutOfMemory(name)));
        let Some(failure) = self.context.monitor.take_failure() else { return Ok(()) };
        self.context.report.event(Event::Failed(failure.names.clone().into()));
        Err(failure.into())
    }

    /// Failure of the plan, with the failed instances.
    fn failure(&mut self, error: anyhow::Error) -> RolloutFailure {
        match error.downcast::<MonitorFailure>() {
            Ok(failure) => {
                self.has_witness_losses.set(false);
                failure.into()
            }
            Err(error) => {
                let failed = self.take_failed();
                RolloutFailure { failed, ..RolloutFailure::new(Error::from_error(error)) }
            }
        }
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        if matches!(
            step,
            Step::Create { .. } | Step::CreateBridge { .. } | Step::Route { .. } | Step::Stop(_)
        ) {
            self.check_witness()?;
        }
        if matches!(step, Step::Gate(_) | Step::Route { .. } | Step::HandBack) {
            self.context.docker.check_lease()?;
        }
        if self.is_replanned && matches!(step, Step::Stop(_)) {
            self.drop_dead_instances()?;
        }
        match step {
            Step::Create { service, fresh, total } => self.create(service, fresh, *total),
            Step::CreateBridge { service, key, kind, total } => {
                self.create_bridge(service, key, *kind, *total)
            }
            Step::Gate(keys) => self.gate(keys),
            Step::Start(keys) => self.start(keys),
            Step::Ready(keys) => self.ready(keys),
            Step::Route { inside, outside } => {
                let change = self.context.witness.rotation_change();
                self.route(inside, outside)?;
                change.confirm();
                Ok(())
            }
            Step::Idle(keys) => self.idle(keys),
            Step::Delay(time) => self.delay(*time),
            Step::Monitor(_) => self.monitor(),
            Step::Stop(keys) => {
                let _act = self.context.witness.instance_stop();
                self.stop(keys)
            }
            Step::Remove(keys) => self.remove(keys),
            Step::Rename(keys) => self.rename(keys),
            Step::HandBack => self.hand_back(),
        }
    }

    /// Reports URLs that never answered the witness, and fails for losses since the last change of the rotation.
    ///
    /// # Errors
    /// Losses that lead to an undo.
    fn check_witness(&mut self) -> Result<()> {
        for (url, said) in self.context.witness.dismiss_silent() {
            self.context.report.warn(&Warning::WitnessSilent { url, outcome: said });
        }
        let Err(losses) = self.check_witness_losses() else { return Ok(()) };
        // A dead instance explains the losses.
        if self.drop_dead_instances()? {
            return Ok(());
        }
        Err(losses)
    }

    /// Fails if the losses of the witness justify a rollback; ignores them during an undo.
    fn check_witness_losses(&self) -> Result<()> {
        let losses = if self.is_best_effort { None } else { self.context.witness.rollback_reason() };
        match losses {
            Some(error) => {
                self.has_witness_losses.set(true);
                Err(error.into())
            }
            None => Ok(()),
        }
    }

    /// Ids of the instances whose failure ended the plan. Losses of the witness are the failure of the last
    /// admitted ones.
    fn take_failed(&mut self) -> Vec<String> {
        if self.has_witness_losses.take() {
            return std::mem::take(&mut self.admitted);
        }
        std::mem::take(&mut self.failed)
    }

    /// Fails if the witness has lost requests; for a plan that only has cleanup left.
    pub fn check_losses(&mut self) -> Result<(), RolloutFailure> {
        self.check_witness().map_err(|error| self.failure(error))
    }

    /// Current state of these containers; the last known one of removed containers.
    fn inspect(&self, keys: &[InstanceKey]) -> Result<Vec<Container>> {
        let ids = if self.is_dry_run() { Vec::new() } else { self.ids(keys) };
        let now = self.context.docker.inspect(&ids)?;
        let as_it_is = |c: &Container| now.iter().find(|n| n.id == c.id).unwrap_or(c).clone();
        Ok(keys.iter().map(|k| as_it_is(&self.containers[k])).collect())
    }

    /// Reads all containers again. A starting container may get the address of a dead one, and a crashing one
    /// returns with a new address; an old reading would mix them up.
    fn refresh(&mut self) -> Result<()> {
        if self.is_dry_run() {
            return Ok(());
        }
        let all: Vec<InstanceKey> = self.containers.keys().cloned().collect();
        let now = self.context.docker.inspect(&self.ids(&all))?;
        let mut now: BTreeMap<String, Container> = now.into_iter().map(|c| (c.id.clone(), c)).collect();
        for container in self.containers.values_mut() {
            match now.remove(&container.id) {
                Some(read) => *container = read,
                None => container.mark_stopped(),
            }
        }
        self.context.monitor.observe(self.containers.values());
        self.read_at = Some(Instant::now());
        Ok(())
    }

    /// Fails if any of these does not run.
    fn fail_if_stopped(&mut self, keys: &[InstanceKey]) -> Result<()> {
        let dead: Vec<InstanceKey> =
            keys.iter().filter(|k| !self.containers[*k].is_running()).cloned().collect();
        if dead.is_empty() {
            return Ok(());
        }
        self.failed = self.ids(&dead);
        Err(Error::unchanged(format!("{} does not run", self.names(&dead).join(", "))).into())
    }

    /// Runs a hook. Its failure ends the rollout, except during an undo.
    fn hook(&self, key: &InstanceKey, hook: &LifecycleHook, what: &'static str) -> Result<()> {
        // The hook may take as long as readiness.
        let limit = self.service(key).settings.timing.deadline;
        let result = self.context.docker.exec(&hook_exec(&self.containers[key], hook).with_limit(limit))?;
        match result.ok() {
            true => Ok(()),
            false if self.is_best_effort => {
                let (name, said) = (self.name(key), result.stderr_or_stdout().to_string());
                self.context.report.warn(&Warning::HookFailed { name, hook: what, output: said });
                Ok(())
            }
            false => Err(Error::unchanged(format!("{what} of {} failed", self.name(key)))
                .detail(result.stderr_or_stdout())
                .into()),
        }
    }

    /// Runs a command and only warns if it fails, because the instance leaves anyway.
    fn try_exec(&self, key: &InstanceKey, exec: Exec, what: &'static str) -> Result<()> {
        let result = self.context.docker.exec(&exec)?;
        if !result.ok() {
            let (name, said) = (self.name(key), result.stderr_or_stdout().to_string());
            self.context.report.warn(&Warning::HookFailed { name, hook: what, output: said });
        }
        Ok(())
    }

    /// Rotation of every proxy: the current inside, and these outside.
    fn rotations(&self, outside: &[InstanceKey]) -> Vec<(&'a dyn Proxy, Rotation)> {
        self.rotations_with(&self.inside, outside)
    }

    fn rotations_with(
        &self,
        inside: &[InstanceKey],
        outside: &[InstanceKey],
    ) -> Vec<(&'a dyn Proxy, Rotation)> {
        let has_died = |id: &&String| self.context.monitor.has_died(id);
        let exited = outside.iter().map(|k| &self.containers[k].id).filter(has_died);
        let exited: BTreeSet<String> = exited.cloned().collect();
        let rotation = |proxy: &'a dyn Proxy| Rotation {
            inside: self.endpoints(proxy, inside),
            outside: self.endpoints(proxy, outside),
            preexisting: self.initially_inside.clone(),
            urgent: false,
            exited: exited.clone(),
            others: self.others.clone(),
            may_be_stale: false,
        };
        self.context.proxies.iter().map(|p| (p.as_ref(), rotation(p.as_ref()))).collect()
    }

    fn endpoints(&self, proxy: &dyn Proxy, keys: &[InstanceKey]) -> Vec<Endpoint> {
        let containers = keys.iter().map(|k| &self.containers[k]);
        endpoints(proxy, containers)
    }

    fn service(&self, key: &InstanceKey) -> &'a Service {
        let (_, service) = self.containers[key].compose().expect("only Compose's containers are bound");
        &self.context.project.services[service]
    }

    fn ids(&self, keys: &[InstanceKey]) -> Vec<String> {
        keys.iter().map(|k| self.containers[k].id.clone()).collect()
    }

    fn name(&self, key: &InstanceKey) -> String {
        self.containers[key].short_name(&self.context.project.name)
    }

    fn names(&self, keys: &[InstanceKey]) -> Vec<String> {
        keys.iter().map(|k| self.name(k)).collect()
    }

    fn report(&self, event: fn(Names) -> Event, keys: &[InstanceKey]) {
        if self.is_dry_run() {
            return;
        }
        self.context.report.event(event(self.names(keys).into()));
    }
}

/// True for a cleanup step, which a serving release does not need.
fn is_cleaning(step: &Step) -> bool {
    matches!(step, Step::Remove(_) | Step::Rename(_) | Step::HandBack)
}

fn hook_exec(container: &Container, hook: &LifecycleHook) -> Exec {
    let (options, variables) = (hook.exec_options(), hook.variables());
    Exec { options, variables, ..Exec::user_command(&container.id, hook.command.argv()) }
}
