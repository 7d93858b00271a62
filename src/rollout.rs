//! Does a plan, step by step. It decides nothing: what to do is the plan's, and what to do about a failure is deploy's.

pub mod dry_run;
pub mod restart;
mod start;
mod switch;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::docker::inspect::Container;
use crate::docker::{Docker, Exec};
use crate::drain::ProxyRotation;
use crate::error::{Error, Exit};
use crate::health::monitor::{Monitor, MonitorFailure};
use crate::health::{self, ProbeTarget};
use crate::model::{LifecycleHook, Project, Service};
use crate::observed::{InstanceKey, Observed};
use crate::plan::{Plan, Step};
use crate::proxy::{Backend, Endpoint, Proxy, Rotation, endpoints};
use crate::report::{Event, Report, StepEvent, Warning};
use crate::wait::{RunPhase, StopSignal};
use crate::witness::Witness;

/// What every rollout of a run works with.
#[derive(Clone, Copy)]
pub struct RolloutContext<'a> {
    pub docker: &'a Docker,
    pub project: &'a Project,
    pub proxies: &'a [Arc<dyn Proxy>],
    pub report: Report,
    /// What it is about, for people.
    pub target: &'a str,
    pub witness: &'a Witness,
    pub watch: &'a Monitor,
    /// It goes forward, so init containers run (`pre_start`); a release that is put back runs none.
    pub goes_forward: bool,
    /// One-shots and init containers that need not run once more.
    pub completed: &'a BTreeSet<String>,
    /// What retired instances get back when they start again.
    pub policies: &'a restart::RestartPolicies,
}

/// How many new instances may fail, and how long after they came into rotation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tolerance {
    pub monitor: Duration,
    pub failures: usize,
}

/// A plan under way.
pub struct Rollout<'a> {
    context: RolloutContext<'a>,
    stop: StopSignal,
    /// The container that each key of the plan stands for.
    bound: BTreeMap<InstanceKey, Container>,
    inside: Vec<InstanceKey>,
    /// Ids of those that were in rotation at the start.
    found: BTreeSet<String>,
    /// On the way back an old instance that does not answer as ready is better than none.
    lenient: bool,
    /// An instance that dies, or that does not start, ends the plan: its caller plans anew without it.
    plans_anew: bool,
    tolerance: Tolerance,
    /// Ids of those that the last change of the rotation let in.
    admitted: Vec<String>,
    /// The witness has lost requests since then.
    objected: Cell<bool>,
    /// Ids of the new instances that ended the plan.
    failed: Vec<String>,
    /// Steps of the plan that are done.
    done: usize,
    /// When those outside left the rotation, by id.
    left: BTreeMap<String, Instant>,
    /// The step that gives the route back is done already.
    released: bool,
    /// When all were read last.
    read: Option<Instant>,
    /// Requests that were still in flight when their instance was stopped, as far as is known.
    cut: usize,
    /// Services whose init containers have run.
    initialised: BTreeSet<String>,
}

/// Where a plan stopped, and why.
pub struct RolloutFailure {
    /// Only cleaning up was left to do: the new release serves.
    pub serves: bool,
    /// Ids of the new instances whose failure it was; none where it was something else.
    pub failed: Vec<String>,
    pub why: FailureReason,
}

/// Why a plan stopped.
pub enum FailureReason {
    Known(Error),
    /// An instance that was followed failed. Its last lines are still being read, for which nobody waits who goes back.
    Failed(JoinHandle<Error>),
}

impl FailureReason {
    pub fn is_interrupt(&self) -> bool {
        matches!(self, FailureReason::Known(Error { exit: Exit::Interrupted(_), .. }))
    }

    /// All that is known of it, which may have to be waited for.
    pub fn into_error(self) -> Error {
        match self {
            FailureReason::Known(error) => error,
            FailureReason::Failed(error) => error.join().expect("no panic in a read"),
        }
    }
}

impl RolloutFailure {
    /// By something that is no instance's failure.
    pub fn by(error: Error) -> RolloutFailure {
        RolloutFailure { serves: false, failed: Vec::new(), why: FailureReason::Known(error) }
    }
}

impl From<MonitorFailure> for RolloutFailure {
    fn from(MonitorFailure { ids, error, .. }: MonitorFailure) -> RolloutFailure {
        RolloutFailure { serves: false, failed: ids, why: FailureReason::Failed(error) }
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
            found: inside.iter().filter_map(|k| Some(containers.get(k)?.id.clone())).collect(),
            bound: containers,
            inside,
            lenient: false,
            plans_anew: false,
            tolerance: Tolerance::default(),
            admitted: Vec::new(),
            objected: Cell::default(),
            failed: Vec::new(),
            done: 0,
            left: BTreeMap::new(),
            released: false,
            read: None,
            cut: 0,
            // Where a new instance runs, they ran before it.
            initialised: observed.running_new().map(|i| i.service.clone()).collect(),
        }
    }

    /// Goes on where another left off: what it counted is counted.
    pub fn continue_from(&mut self, other: Rollout<'a>, tolerance: Tolerance) {
        self.tolerance = tolerance;
        (self.left, self.cut) = (other.left, other.cut);
        self.initialised.extend(other.initialised);
    }

    /// From here on nothing that fails or does not get ready ends the plan.
    pub fn best_effort(&mut self) -> &mut Self {
        self.lenient = true;
        self
    }

    /// Watches those for the rest of their window that an earlier run let in.
    ///
    /// # Errors
    /// One that nobody can ask.
    pub fn watch_on(&self, young: &[(InstanceKey, Duration)]) -> Result<()> {
        for (key, age) in young {
            let pace = self.service(key).settings.pace;
            self.context.watch.resume(self.candidate(key)?, pace, *age, self.tolerance.monitor);
        }
        Ok(())
    }

    /// The container behind each key.
    pub fn containers(&self) -> &BTreeMap<InstanceKey, Container> {
        &self.bound
    }

    pub fn container(&self, key: &str) -> Option<&Container> {
        self.bound.get(key)
    }

    pub fn tolerate(&mut self, tolerance: Tolerance) {
        self.tolerance = tolerance;
    }

    /// Steps of the plan that are done.
    pub fn done(&self) -> usize {
        self.done
    }

    /// Requests that were cut off so far.
    pub fn cut(&self) -> usize {
        self.cut
    }

    /// For the way back: nothing interrupts it, and readiness is asked for but not insisted on. Nobody waits for one of
    /// those that `served` which is sick. An instance that dies ends the plan, for nothing may be stopped then.
    pub fn back(
        context: RolloutContext<'a>,
        observed: &Observed,
        containers: BTreeMap<InstanceKey, Container>,
        served: BTreeSet<String>,
    ) -> Self {
        let mut rollout = Rollout::new(context, StopSignal::default(), observed, containers);
        rollout.found.extend(served);
        Rollout { lenient: true, plans_anew: true, ..rollout }
    }

    /// Has those that served take the place of those that failed, by id, before anything else is done; what comes after
    /// sees to it that it is so. A proxy that cannot be told so fast is told then.
    pub fn replace_failed(&self, failed: &[String], served: &[InstanceKey]) {
        let has_failed = |k: &&InstanceKey| self.bound.get(*k).is_some_and(|c| failed.contains(&c.id));
        let runs = |k: &&InstanceKey| self.bound.get(*k).is_some_and(Container::is_running);
        let (out, stay): (Vec<InstanceKey>, Vec<InstanceKey>) =
            self.inside.iter().cloned().partition(|k| has_failed(&k));
        let back = served.iter().filter(runs).filter(|k| !stay.contains(k) && !has_failed(k));
        let inside: Vec<InstanceKey> = stay.iter().chain(back).cloned().collect();
        if out.is_empty() || inside.is_empty() {
            return;
        }
        for routing in self.routings_of(&inside, &out).into_iter().filter(|r| r.proxy.steers()) {
            let _ = routing.begin();
        }
    }

    /// Does some of the steps in order.
    ///
    /// # Errors
    /// The first step that fails; the steps after it are not done.
    pub fn run(&mut self, plan: &Plan, steps: Range<usize>) -> Result<(), RolloutFailure> {
        let last_route = plan.steps.iter().rposition(|(s, _)| s.turns());
        for n in steps {
            let step = &plan.steps[n].0;
            // From the last switch on, finishing is the shorter way.
            let finishes = last_route.is_none_or(|last| n > last);
            self.stop.enter(if finishes { RunPhase::Finishes } else { RunPhase::Heeds });
            self.announce(plan, n);
            let next = plan.steps.get(n + 1).map(|(next, _)| next);
            let done = self.interruption().and_then(|()| self.check()).and_then(|()| match (step, next) {
                // Neither needs the other.
                (Step::Remove(keys), Some(Step::Release)) => self.remove_and_release(keys),
                (Step::Release, _) if std::mem::take(&mut self.released) => Ok(()),
                _ => self.step(step),
            });
            done.map_err(|error| {
                let serves = plan.steps[n..].iter().all(|(s, _)| is_cleaning(s));
                RolloutFailure { serves, ..self.stopped(error) }
            })?;
            self.done = n + 1;
        }
        Ok(())
    }

    fn announce(&self, plan: &Plan, n: usize) {
        let step = &plan.steps[n].0;
        let name = |key: &InstanceKey| self.bound.get(key).map_or_else(|| key.clone(), |_| self.name(key));
        let (batch, batches) = plan.batch(n);
        self.context.report.event(Event::Step(StepEvent {
            target: self.context.target.into(),
            number: n + 1,
            of: plan.steps.len(),
            batch,
            batches,
            verb: step.verb().into(),
            names: step.keys().iter().map(name).collect(),
            back: self.lenient,
        }));
    }

    /// Names of those that get requests after the last route.
    pub fn in_rotation(&self) -> Vec<String> {
        self.names(&self.inside)
    }

    fn interruption(&self) -> Result<()> {
        match self.stop.signal() {
            Some(signal) => Err(Error::interrupted(signal).into()),
            None => Ok(()),
        }
    }

    /// Whether an instance that is followed has failed, be it another rollout's. On the way back nothing is better than
    /// what there is.
    fn check(&self) -> Result<()> {
        if let Some(error) = self.context.docker.lost_lease() {
            return Err(error.into());
        }
        if self.lenient {
            return Ok(());
        }
        let warned = self.context.watch.take_out_of_memory();
        warned.into_iter().for_each(|name| self.context.report.warn(&Warning::OutOfMemory(name)));
        let Some(alarm) = self.context.watch.take_failure() else { return Ok(()) };
        self.context.report.event(Event::Failed { names: alarm.names.clone() });
        Err(alarm.into())
    }

    /// What ended a plan, and whose failure it was.
    fn stopped(&mut self, error: anyhow::Error) -> RolloutFailure {
        match error.downcast::<MonitorFailure>() {
            Ok(alarm) => {
                self.objected.set(false);
                alarm.into()
            }
            Err(error) => {
                let failed = self.take_failed();
                RolloutFailure { failed, ..RolloutFailure::by(Error::from_error(error)) }
            }
        }
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        if matches!(step, Step::Create { .. } | Step::Route { .. } | Step::Stop(_)) {
            self.hear_witness()?;
        }
        if matches!(step, Step::Gate(_) | Step::Route { .. } | Step::Release) {
            self.context.docker.check_lease()?;
        }
        if self.plans_anew && matches!(step, Step::Stop(_)) {
            self.drop_dead_instances()?;
        }
        match step {
            Step::Create { service, fresh, total } => self.create(service, fresh, *total),
            Step::Gate(keys) => self.gate(keys),
            Step::Start(keys) => self.start(keys),
            Step::Ready(keys) => self.ready(keys),
            Step::Route { inside, outside } => {
                let act = self.context.witness.rotation_change();
                self.route(inside, outside)?;
                act.confirm();
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
            Step::Release => self.hand_back(),
        }
    }

    /// What the witness has lost since those in rotation were let in; and which URLs have never answered it.
    ///
    /// # Errors
    /// Losses that are reason to go back.
    fn hear_witness(&mut self) -> Result<()> {
        for (url, said) in self.context.witness.dismiss_silent() {
            self.context.report.warn(&Warning::Silent { url, said });
        }
        let Err(objection) = self.objection() else { return Ok(()) };
        // One that has died is the reason for what was lost.
        if self.drop_dead_instances()? {
            return Ok(());
        }
        Err(objection)
    }

    /// On the way back nothing is better than what there is.
    fn objection(&self) -> Result<()> {
        let objection = if self.lenient { None } else { self.context.witness.objection() };
        match objection {
            Some(error) => {
                self.objected.set(true);
                Err(error.into())
            }
            None => Ok(()),
        }
    }

    /// Ids of those whose failure ended the plan. What the witness lost is a failure of those that were let in last.
    fn take_failed(&mut self) -> Vec<String> {
        if self.objected.take() {
            return std::mem::take(&mut self.admitted);
        }
        std::mem::take(&mut self.failed)
    }

    /// Where a plan stopped that is done but for cleaning up, if the witness has lost requests.
    pub fn objected(&mut self) -> Result<(), RolloutFailure> {
        self.hear_witness().map_err(|error| self.stopped(error))
    }

    /// These containers as they are now; those that are gone, as they were.
    fn fresh(&self, keys: &[InstanceKey]) -> Result<Vec<Container>> {
        let now = self.context.docker.inspect(&self.ids(keys))?;
        let as_it_is = |c: &Container| now.iter().find(|n| n.id == c.id).unwrap_or(c).clone();
        Ok(keys.iter().map(|k| as_it_is(&self.bound[k])).collect())
    }

    /// Looks at all again. One that starts gets the address of one that has just died, and one that crashes over and over
    /// comes back with another: by what was read before, one would be taken for the other.
    fn refresh(&mut self) -> Result<()> {
        let all: Vec<InstanceKey> = self.bound.keys().cloned().collect();
        let now = self.context.docker.inspect(&self.ids(&all))?;
        let mut now: BTreeMap<String, Container> = now.into_iter().map(|c| (c.id.clone(), c)).collect();
        for container in self.bound.values_mut() {
            match now.remove(&container.id) {
                Some(read) => *container = read,
                None => container.mark_stopped(),
            }
        }
        self.context.watch.observe(self.bound.values());
        self.read = Some(Instant::now());
        Ok(())
    }

    /// Has these that do not run end the plan.
    ///
    /// # Errors
    /// Any of them.
    fn count_out(&mut self, keys: &[InstanceKey]) -> Result<()> {
        let dead: Vec<InstanceKey> = keys.iter().filter(|k| !self.bound[*k].is_running()).cloned().collect();
        if dead.is_empty() {
            return Ok(());
        }
        self.failed = self.ids(&dead);
        Err(Error::unchanged(format!("{} does not run", self.names(&dead).join(", "))).into())
    }

    /// Runs a hook; its failure ends the rollout, but for the way back.
    fn hook(&self, key: &InstanceKey, hook: &LifecycleHook, what: &'static str) -> Result<()> {
        // Until then it has to be ready.
        let limit = self.service(key).settings.pace.deadline;
        let done = self.context.docker.exec(&hook_exec(&self.bound[key], hook).with_limit(limit))?;
        match done.ok() {
            true => Ok(()),
            false if self.lenient => {
                let (name, said) = (self.name(key), done.stderr_or_stdout().to_string());
                self.context.report.warn(&Warning::Hook { name, what, said });
                Ok(())
            }
            false => Err(Error::unchanged(format!("{what} of {} failed", self.name(key)))
                .detail(done.stderr_or_stdout())
                .into()),
        }
    }

    /// Runs a command whose failure is only reported: the instance goes anyway.
    fn try_exec(&self, key: &InstanceKey, exec: Exec, what: &'static str) -> Result<()> {
        let done = self.context.docker.exec(&exec)?;
        if !done.ok() {
            let (name, said) = (self.name(key), done.stderr_or_stdout().to_string());
            self.context.report.warn(&Warning::Hook { name, what, said });
        }
        Ok(())
    }

    /// The rotation of every proxy that fronts any of these: what is inside now, and these outside.
    fn routings(&self, outside: &[InstanceKey]) -> Vec<ProxyRotation<'a>> {
        self.routings_of(&self.inside, outside)
    }

    fn routings_of(&self, inside: &[InstanceKey], outside: &[InstanceKey]) -> Vec<ProxyRotation<'a>> {
        let routing = |proxy: &'a dyn Proxy| ProxyRotation {
            docker: self.context.docker,
            proxy,
            rotation: Rotation {
                inside: self.endpoints(proxy, inside),
                outside: self.endpoints(proxy, outside),
                preexisting: self.found.clone(),
                urgent: false,
                exited: outside
                    .iter()
                    .map(|k| &self.bound[k].id)
                    .filter(|id| self.context.watch.has_died(id))
                    .cloned()
                    .collect(),
            },
        };
        self.context.proxies.iter().map(|p| routing(p.as_ref())).collect()
    }

    fn endpoints(&self, proxy: &dyn Proxy, keys: &[InstanceKey]) -> Vec<Endpoint> {
        let containers = keys.iter().map(|k| &self.bound[k]);
        endpoints(proxy, containers)
    }

    fn service(&self, key: &InstanceKey) -> &'a Service {
        let (_, service) = self.bound[key].compose().expect("only Compose's containers are bound");
        &self.context.project.services[service]
    }

    fn ids(&self, keys: &[InstanceKey]) -> Vec<String> {
        keys.iter().map(|k| self.bound[k].id.clone()).collect()
    }

    fn name(&self, key: &InstanceKey) -> String {
        short_name(&self.context.project.name, &self.bound[key])
    }

    fn names(&self, keys: &[InstanceKey]) -> Vec<String> {
        keys.iter().map(|k| self.name(k)).collect()
    }

    fn report(&self, event: fn(Vec<String>) -> Event, keys: &[InstanceKey]) {
        self.context.report.event(event(self.names(keys)));
    }
}

/// Steps that a new release that serves does not need.
fn is_cleaning(step: &Step) -> bool {
    matches!(step, Step::Remove(_) | Step::Release)
}

fn hook_exec(container: &Container, hook: &LifecycleHook) -> Exec {
    let (options, variables) = (hook.options(), hook.variables());
    Exec { options, variables, ..Exec::user_command(&container.id, hook.command.argv()) }
}

/// Compose's number of an instance, else the one that its name ends with.
pub fn number(container: &Container) -> u32 {
    let label = container.label("com.docker.compose.container-number");
    let named = container.name().rsplit(['-', '_']).next();
    label.or(named).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// A container's name without its project's.
pub fn short_name(project: &str, container: &Container) -> String {
    let name = container.name();
    let short = name.strip_prefix(project).and_then(|n| n.strip_prefix('-'));
    short.unwrap_or(name).to_string()
}

/// How an instance of a service is asked whether it is ready.
///
/// # Errors
/// When there is nothing to ask.
pub fn probe(
    service: &Service,
    container: &Container,
    proxies: &[Arc<dyn Proxy>],
) -> Result<health::ReadinessProbe, Error> {
    let backend = Backend::from(container);
    let proxy = proxies.iter().find(|p| p.routes_to(&backend));
    let host = proxy.and_then(|p| p.host(container));
    let front = ProbeTarget {
        routed: proxy.is_some(),
        port: proxy.and_then(|p| p.port(container)),
        host: host.as_deref(),
        container: proxy.map(|p| p.container()),
        not_http: proxy.is_some_and(|p| !p.speaks_http(container)),
    };
    health::choose_probe(&service.name, service.settings.http.as_ref(), container, front)
}
