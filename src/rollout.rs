//! Does a plan, step by step. It decides nothing: what to do is the plan's, and what to do about a failure is deploy's.

pub mod preview;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::docker::inspect::Container;
use crate::docker::{Docker, Exec};
use crate::drain::{self, Drained, Routing};
use crate::fault::Fault;
use crate::health::{self, Candidate, Front, Unready, Watched};
use crate::model::{Hook, Pace, Project, Service};
use crate::observed::{Key, Observed};
use crate::plan::{Plan, Step};
use crate::proxy::{Backend, Endpoint, Proxy, Rotation, endpoints};
use crate::report::{Event, Report, StepNote, Warning};
use crate::wait::{self, Stop, Waited};
use crate::witness::Witness;

/// What every rollout of a run works with.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    pub docker: &'a Docker,
    pub project: &'a Project,
    pub proxies: &'a [Arc<dyn Proxy>],
    pub report: Report,
    /// What it is about, for people.
    pub target: &'a str,
    pub witness: &'a Witness,
}

/// How often new instances are looked at once they were ready.
const WATCH: Duration = Duration::from_secs(1);

/// What was read so long ago is as good as read now: a look at the containers takes a part of it.
const FRESH: Duration = Duration::from_millis(100);

/// How often Compose is asked again to create instances beside a paused one.
const AGAIN: usize = 3;

/// How many new instances may fail, and how long after they were ready.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tolerance {
    pub monitor: Duration,
    pub failures: usize,
}

/// A plan under way.
pub struct Rollout<'a> {
    tools: Tools<'a>,
    stop: Stop,
    /// The container that each key of the plan stands for.
    bound: BTreeMap<Key, Container>,
    inside: Vec<Key>,
    /// Ids of those that were in rotation at the start.
    found: BTreeSet<String>,
    /// On the way back an old instance that does not answer as ready is better than none.
    lenient: bool,
    tolerance: Tolerance,
    watched: Vec<Watched>,
    /// Ready, and not in rotation yet.
    newcomers: Vec<Candidate>,
    /// Ids of those that the last change of the rotation let in.
    admitted: Vec<String>,
    /// The witness has lost requests since then.
    objected: Cell<bool>,
    /// Ids of the new instances that ended the plan.
    failed: Vec<String>,
    /// Steps of the plan that are done.
    done: usize,
    given_up: Vec<String>,
    /// The step that gives the route back is done already.
    released: bool,
    /// When all were read last.
    read: Option<Instant>,
    /// Requests that were still in flight when their instance was stopped, as far as is known.
    cut: usize,
}

/// Where a plan stopped, and why.
pub struct Stopped {
    /// Only cleaning up was left to do: the new release serves.
    pub serves: bool,
    /// Ids of the new instances whose failure it was; none where it was something else.
    pub failed: Vec<String>,
    pub fault: Fault,
}

impl<'a> Rollout<'a> {
    pub fn new(
        tools: Tools<'a>,
        stop: Stop,
        observed: &Observed,
        containers: BTreeMap<Key, Container>,
    ) -> Self {
        let inside: Vec<Key> = observed.serving().map(|i| i.key.clone()).collect();
        Rollout {
            tools,
            stop,
            found: inside.iter().filter_map(|k| Some(containers.get(k)?.id.clone())).collect(),
            bound: containers,
            inside,
            lenient: false,
            tolerance: Tolerance::default(),
            watched: Vec::new(),
            newcomers: Vec::new(),
            admitted: Vec::new(),
            objected: Cell::default(),
            failed: Vec::new(),
            done: 0,
            given_up: Vec::new(),
            released: false,
            read: None,
            cut: 0,
        }
    }

    /// Goes on where another left off: those that it watched are watched, and what it counted is counted.
    pub fn go_on_from(&mut self, other: Rollout<'a>, tolerance: Tolerance) {
        self.tolerance = tolerance;
        (self.watched, self.cut) = (other.watched, other.cut);
        let failed = other.given_up;
        self.watched.retain(|w| !failed.contains(w.id()));
    }

    /// From here on nothing that does not get ready ends the plan.
    pub fn leniently(&mut self) -> &mut Self {
        self.lenient = true;
        self.watched.clear();
        self
    }

    /// The container behind each key.
    pub fn containers(&self) -> &BTreeMap<Key, Container> {
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

    /// For the way back: nothing interrupts it, and readiness is asked for but not insisted on.
    pub fn back(tools: Tools<'a>, observed: &Observed, containers: BTreeMap<Key, Container>) -> Self {
        Rollout { lenient: true, ..Rollout::new(tools, Stop::default(), observed, containers) }
    }

    /// Does some of the steps in order.
    ///
    /// # Errors
    /// The first step that fails; the steps after it are not done.
    pub fn run(&mut self, plan: &Plan, steps: Range<usize>) -> Result<(), Stopped> {
        let last_route = plan.steps.iter().rposition(|(s, _)| is_turning(s));
        for n in steps {
            let step = &plan.steps[n].0;
            if last_route.is_none_or(|last| n > last) {
                self.stop = Stop::default(); // from here on, finishing is the shorter way
            }
            self.announce(plan, n);
            let next = plan.steps.get(n + 1).map(|(next, _)| next);
            let done = self.interruption().and_then(|()| match (step, next) {
                // Neither needs the other.
                (Step::Remove(keys), Some(Step::Release)) => self.remove_and_release(keys),
                (Step::Release, _) if std::mem::take(&mut self.released) => Ok(()),
                _ => self.step(step),
            });
            done.map_err(|error| Stopped {
                serves: plan.steps[n..].iter().all(|(s, _)| is_cleaning(s)),
                failed: self.take_failed(),
                fault: Fault::from_error(error),
            })?;
            self.done = n + 1;
        }
        Ok(())
    }

    fn announce(&self, plan: &Plan, n: usize) {
        let step = &plan.steps[n].0;
        let name = |key: &Key| self.bound.get(key).map_or_else(|| key.clone(), |_| self.name(key));
        let (batch, batches) = plan.batch(n);
        self.tools.report.event(Event::Step(StepNote {
            target: self.tools.target.into(),
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
            Some(signal) => Err(Fault::interrupted(signal).into()),
            None => Ok(()),
        }
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        if matches!(step, Step::Create { .. } | Step::Route { .. }) {
            self.look_again()?;
        }
        if matches!(step, Step::Create { .. } | Step::Route { .. } | Step::Stop(_)) {
            self.hear_witness()?;
        }
        match step {
            Step::Create { service, fresh, total } => self.create(service, fresh, *total),
            Step::Gate(keys) => self.gate(keys),
            Step::Start(keys) => self.start(keys),
            Step::Ready(keys) => self.ready(keys),
            Step::Route { inside, outside } => {
                let act = self.tools.witness.route();
                self.route(inside, outside)?;
                act.done();
                Ok(())
            }
            Step::Idle(keys) => self.idle(keys),
            Step::Delay(time) => self.delay(*time),
            Step::Monitor(time) => self.monitor(*time),
            Step::Stop(keys) => {
                let _act = self.tools.witness.stop();
                self.stop(keys)
            }
            Step::Remove(keys) => self.remove(keys),
            Step::Release => self.release(),
        }
    }

    fn create(&mut self, service: &str, fresh: &[Key], total: usize) -> Result<()> {
        let mut created = self.tools.docker.create(service, total);
        let mut made = self.made(service)?;
        // Compose tries to start a paused one as well, and gives up on all when it cannot; what it made until then stays.
        let is_paused = self.bound.values().any(|c| c.state.status == "paused");
        let mut again = if is_paused { AGAIN } else { 0 };
        while created.is_err() && made.len() < fresh.len() && again > 0 {
            created = self.tools.docker.create(service, total);
            made = self.made(service)?;
            again -= 1;
        }
        if !is_paused || made.len() < fresh.len() {
            created?;
        }
        if made.len() < fresh.len() {
            return Err(Fault::unchanged(format!(
                "Compose created {} of {} instances of `{service}`",
                made.len(),
                fresh.len()
            ))
            .into());
        }
        self.bound.extend(fresh.iter().cloned().zip(made));
        self.tell(|names| Event::Created { names }, fresh);
        Ok(())
    }

    /// The instances that Compose has created since, in the order of their numbers.
    fn made(&self, service: &str) -> Result<Vec<Container>> {
        let known: Vec<&String> = self.bound.values().map(|c| &c.id).collect();
        let mut made = self.tools.docker.containers_of(&self.tools.project.name, service)?;
        made.retain(|c| c.state.status == "created" && c.compose().is_some() && !known.contains(&&c.id));
        made.sort_by_key(number);
        Ok(made)
    }

    fn gate(&mut self, keys: &[Key]) -> Result<()> {
        let fronting = |r: &Routing| !r.rotation.outside.is_empty();
        self.routings(keys).iter().filter(|r| fronting(r)).try_for_each(|r| r.gate(&self.stop))
    }

    fn start(&mut self, keys: &[Key]) -> Result<()> {
        let docker = self.tools.docker;
        let service = self.service(&keys[0]);
        match service.starts_by_compose && !self.lenient {
            true => {
                let all = docker.containers_of(&self.tools.project.name, &service.name)?;
                docker.start_by_compose(&service.name, all.len())?;
            }
            false => docker.start(&self.ids(keys))?,
        }
        self.refresh()?;
        self.tell(|names| Event::Started { names }, keys);
        // What crashes over and over frees its address, and one that has just started may have got that.
        if self.bound.values().any(|c| c.restart_count > 0) {
            self.gate(keys)?;
        }
        for key in keys {
            for hook in &service.post_start {
                let done = self.hook(key, hook, "the post_start hook");
                done.inspect_err(|_| self.failed = vec![self.bound[key].id.clone()])?;
            }
        }
        Ok(())
    }

    fn ready(&mut self, keys: &[Key]) -> Result<()> {
        let settings = &self.service(&keys[0]).settings;
        let candidates = keys.iter().map(|k| self.candidate(k)).collect::<Result<Vec<_>>>()?;
        let told = |candidate: &Candidate, answer: &health::Answer| {
            let (name, answer) = (candidate.name.clone(), answer.text.clone());
            self.tools.report.event(Event::Ready { name, answer });
        };
        let tolerated = self.tolerance.failures;
        let docker = self.tools.docker;
        let is_fresh = self.read.is_some_and(|at| at.elapsed() <= FRESH);
        let seen = is_fresh.then(|| keys.iter().map(|k| self.bound[k].clone()).collect());
        let waited = health::wait_until_ready(
            docker,
            (&candidates, seen),
            &settings.pace,
            tolerated,
            &self.stop,
            told,
        );
        match waited {
            Ok(None) => {}
            Ok(Some(unready)) if !self.lenient => return Err(self.give_up(unready)),
            Ok(Some(Unready { fault, .. })) => self.tools.report.warn(&Warning::NotReadyAgain(fault.message)),
            Err(error) if self.lenient => {
                let fault = Fault::from_error(error);
                self.tools.report.warn(&Warning::NotReadyAgain(fault.message));
            }
            Err(error) => return Err(error),
        }
        if self.tools.proxies.is_empty() {
            let new: Vec<Key> = keys.iter().filter(|k| !self.inside.contains(k)).cloned().collect();
            self.inside.extend(new);
        }
        if !self.lenient {
            self.newcomers.extend(candidates.iter().cloned());
        }
        if !self.tolerance.monitor.is_zero() {
            let known: Vec<String> = self.watched.iter().map(|w| w.id().clone()).collect();
            let added = candidates.into_iter().filter(|c| !known.contains(&c.id));
            self.watched.extend(added.map(Watched::new));
        }
        Ok(())
    }

    fn give_up(&mut self, unready: Unready) -> anyhow::Error {
        self.objected.set(false);
        self.given_up.extend(unready.ids.iter().cloned());
        self.failed = unready.ids;
        unready.fault.into()
    }

    /// Whether those that were ready not long ago still are.
    fn look_again(&mut self) -> Result<()> {
        if self.watched.is_empty() {
            return Ok(());
        }
        let pace = self.pace();
        match health::look_again(self.tools.docker, &mut self.watched, self.tolerance.monitor, &pace)? {
            Some(unready) => Err(self.give_up(unready)),
            None => Ok(()),
        }
    }

    /// What the witness has lost since those in rotation were let in; and which URLs have never answered it.
    ///
    /// # Errors
    /// Losses that are reason to go back.
    fn hear_witness(&mut self) -> Result<()> {
        for (url, said) in self.tools.witness.dismiss_silent() {
            self.tools.report.warn(&Warning::Silent { url, said });
        }
        let Err(objection) = self.objection() else { return Ok(()) };
        self.look_again()?; // one that has died is the reason for what was lost
        if self.leave_the_dead()? {
            return Ok(());
        }
        Err(objection)
    }

    /// On the way back nothing is better than what there is.
    fn objection(&self) -> Result<()> {
        let objection = if self.lenient { None } else { self.tools.witness.objection() };
        match objection {
            Some(fault) => {
                self.objected.set(true);
                Err(fault.into())
            }
            None => Ok(()),
        }
    }

    /// Ids of those whose failure ended the plan. What the witness lost is a failure of those that were let in last.
    fn take_failed(&mut self) -> Vec<String> {
        if self.objected.take() {
            self.given_up.extend(self.admitted.iter().cloned());
            return std::mem::take(&mut self.admitted);
        }
        std::mem::take(&mut self.failed)
    }

    /// Where a plan stopped that is done but for cleaning up, if the witness has lost requests.
    pub fn objected(&mut self) -> Result<(), Stopped> {
        self.hear_witness().map_err(|error| Stopped {
            serves: false,
            failed: self.take_failed(),
            fault: Fault::from_error(error),
        })
    }

    /// Lets time pass, with an eye on those that were ready not long ago.
    fn watch(&mut self, time: Duration) -> Result<()> {
        let stop = self.stop.clone();
        let waited = wait::until(WATCH, time, &stop, || {
            self.look_again()?;
            self.hear_witness().map(|()| None::<()>)
        })?;
        match waited {
            Waited::Interrupted(signal) => Err(Fault::interrupted(signal).into()),
            _ => Ok(()),
        }
    }

    fn delay(&mut self, time: Duration) -> Result<()> {
        self.tools.report.event(Event::Delayed { seconds: time });
        self.watch(time)
    }

    fn monitor(&mut self, time: Duration) -> Result<()> {
        let left = self.watched.iter().map(|w| w.left(time)).max().unwrap_or_default();
        if !left.is_zero() {
            let names = self.watched.iter().map(|w| w.name().to_string()).collect();
            self.tools.report.event(Event::Monitoring { names, seconds: left });
        }
        self.watch(left)
    }

    fn pace(&self) -> Pace {
        let any = self.bound.keys().next();
        any.map_or(Pace::default(), |key| self.service(key).settings.pace)
    }

    fn candidate(&self, key: &Key) -> Result<Candidate> {
        let service = self.service(key);
        let container = &self.bound[key];
        Ok(Candidate {
            name: self.name(key),
            id: container.id.clone(),
            probe: probe(service, container, self.tools.proxies)?,
        })
    }

    fn route(&mut self, inside: &[Key], outside: &[Key]) -> Result<()> {
        self.inside = inside.to_vec();
        self.for_the_living(|rollout| {
            let mut routings = rollout.routings(outside).into_iter();
            routings.try_for_each(|routing| match routing.proxy.steers() {
                true => routing.set(&rollout.stop),
                false => rollout.follow(routing, outside),
            })
        })?;
        let admitted: Vec<String> = self.ids(&self.inside);
        let is_admitted = |c: &Candidate| admitted.contains(&c.id);
        self.admitted = self.newcomers.iter().filter(|c| is_admitted(c)).map(|c| c.id.clone()).collect();
        self.newcomers.retain(|c| !is_admitted(c));
        let (inside, outside) = (self.names(&self.inside), self.names(outside));
        self.tools.report.event(Event::Routed { inside, outside });
        Ok(())
    }

    /// Does something that every instance in rotation has to be there for: one that has died meanwhile, and that no
    /// longer counts as failed, keeps nobody waiting.
    fn for_the_living<T>(&mut self, act: impl Fn(&Self) -> Result<T>) -> Result<T> {
        self.leave_the_dead()?;
        self.as_long_as_they_live(act)
    }

    /// The same where nothing is changed yet that one who has died could spoil.
    fn as_long_as_they_live<T>(&mut self, act: impl Fn(&Self) -> Result<T>) -> Result<T> {
        loop {
            match act(self) {
                Err(error) if self.stop.signal().is_none() => {
                    self.look_again()?;
                    if !self.leave_the_dead()? {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
    }

    /// Takes those out of the rotation that do not run, as long as anybody is left; tells whether there were any.
    fn leave_the_dead(&mut self) -> Result<bool> {
        if self.read.take().is_none_or(|at| at.elapsed() > FRESH) {
            self.refresh()?;
        }
        let runs = |key: &&Key| self.bound[*key].is_running();
        let (living, dead): (Vec<Key>, Vec<Key>) = self.inside.iter().cloned().partition(|k| runs(&k));
        if living.is_empty() || dead.is_empty() {
            return Ok(false);
        }
        self.look_again()?; // one that is still watched has failed
        self.look_at_newcomers(&dead)?;
        self.tools.report.warn(&Warning::Died(self.names(&dead)));
        if self.objected.take() {
            self.tools.witness.forgive();
        }
        self.inside = living;
        Ok(true)
    }

    /// One that was ready, and has died before anybody sent it a request, has failed whatever the monitor is: those that it
    /// was to replace still serve.
    fn look_at_newcomers(&mut self, dead: &[Key]) -> Result<()> {
        let dead = self.ids(dead);
        let lost = self.newcomers.iter().filter(|c| dead.contains(&c.id));
        let mut lost: Vec<Watched> = lost.cloned().map(Watched::new).collect();
        if lost.is_empty() {
            return Ok(());
        }
        match health::look_again(self.tools.docker, &mut lost, Duration::MAX, &self.pace())? {
            Some(unready) => Err(self.give_up(unready)),
            None => Ok(()),
        }
    }

    /// A proxy that cannot be told a rotation: sees it admit those inside, and then, told by their drain command, let go
    /// of those outside. One that has no such command is let go of when it stops.
    fn follow(&self, mut routing: Routing, outside: &[Key]) -> Result<()> {
        let leaving = std::mem::take(&mut routing.rotation.outside);
        routing.set(&self.stop)?;
        let told: Vec<&Key> = outside.iter().filter(|k| self.has_drain_command(k)).collect();
        told.iter().try_for_each(|key| self.drain_command(key))?;
        routing.rotation.outside = leaving;
        let routing = self.told(routing, outside);
        match routing.rotation.outside.is_empty() {
            true => Ok(()),
            false => routing.set(&self.stop),
        }
    }

    /// Without those that a proxy which cannot be told a rotation goes on sending requests to.
    fn told(&self, mut routing: Routing<'a>, outside: &[Key]) -> Routing<'a> {
        let leaves = |e: &Endpoint| {
            let key = outside.iter().find(|k| self.bound[*k].id == e.id);
            key.is_some_and(|k| self.has_drain_command(k))
        };
        if !routing.proxy.steers() {
            routing.rotation.outside.retain(leaves);
        }
        routing
    }

    fn has_drain_command(&self, key: &Key) -> bool {
        self.service(key).settings.drain_command.is_some()
    }

    fn drain_command(&self, key: &Key) -> Result<()> {
        match self.service(key).settings.drain_command.clone() {
            Some(argv) => self.try_exec(key, Exec::of_user(&self.bound[key].id, argv), "the drain command"),
            None => Ok(()),
        }
    }

    fn idle(&mut self, keys: &[Key]) -> Result<()> {
        let settings = &self.service(&keys[0]).settings;
        self.tell(|names| Event::Draining { names }, keys);
        if self.tools.proxies.iter().any(|p| p.steers()) {
            keys.iter().try_for_each(|key| self.drain_command(key))?;
        }
        let (requests, unsure) = self.as_long_as_they_live(|rollout| {
            let (mut requests, mut unsure) = (0, 0);
            for routing in rollout.routings(keys).into_iter().map(|r| rollout.told(r, keys)) {
                let limit = settings.drain_timeout;
                match routing.wait_until_idle(limit, &rollout.stop, &|| rollout.objection())? {
                    Drained::Idle => {}
                    Drained::Limit(open) => {
                        (requests, unsure) = (requests + open.requests, unsure + open.unsure)
                    }
                }
            }
            Ok((requests, unsure))
        })?;
        self.cut += requests;
        match requests + unsure {
            0 => self.tell(|names| Event::Idle { names }, keys),
            _ => self.tools.report.warn(&Warning::DrainLimit {
                names: self.names(keys),
                limit: settings.drain_timeout,
                requests,
                unsure,
            }),
        }
        Ok(())
    }

    fn stop(&mut self, keys: &[Key]) -> Result<()> {
        for key in keys {
            for hook in &self.service(key).pre_stop {
                let exec = hook_exec(&self.bound[key], hook);
                self.try_exec(key, exec, "the pre_stop hook")?;
            }
        }
        self.tools.docker.stop(&self.ids(keys))?;
        let stopped = |(k, _): &(&Key, &mut Container)| keys.contains(k);
        self.bound.iter_mut().filter(stopped).for_each(|(_, c)| c.has_stopped());
        self.inside.retain(|k| !keys.contains(k));
        self.tell(|names| Event::Stopped { names }, keys);
        Ok(())
    }

    fn remove(&mut self, keys: &[Key]) -> Result<()> {
        self.tools.docker.remove(&self.ids(keys))?;
        self.tell(|names| Event::Removed { names }, keys);
        Ok(())
    }

    /// Removes them while the route is given back, which is the next step.
    fn remove_and_release(&mut self, keys: &[Key]) -> Result<()> {
        let (docker, ids) = (self.tools.docker, self.ids(keys));
        let (removed, released) = std::thread::scope(|scope| {
            let removed = scope.spawn(|| docker.remove(&ids));
            let released = self.release();
            (removed.join().expect("no panic in a removal"), released)
        });
        removed?;
        self.tell(|names| Event::Removed { names }, keys);
        self.released = released.is_ok();
        released
    }

    /// Gives the route back to the proxies' own discovery.
    ///
    /// # Errors
    /// A proxy that does not answer.
    pub fn release(&self) -> Result<()> {
        let all: Vec<Key> = self.bound.keys().cloned().collect();
        let (existing, first) = std::thread::scope(|scope| {
            let existing = scope.spawn(|| self.tools.docker.ids());
            let first = self.fresh(&all);
            (existing.join().expect("no panic in a read"), first)
        });
        let (existing, first) = (existing?, Cell::new(Some(first?)));
        for proxy in self.tools.proxies {
            let now = || first.take().map_or_else(|| self.fresh(&all), Ok);
            let ours = || Ok(endpoints(proxy.as_ref(), now()?.iter()));
            drain::release(self.tools.docker, proxy.as_ref(), &ours, &existing)?;
        }
        Ok(())
    }

    /// These containers as they are now; those that are gone, as they were.
    fn fresh(&self, keys: &[Key]) -> Result<Vec<Container>> {
        let now = self.tools.docker.inspect(&self.ids(keys))?;
        let as_it_is = |c: &Container| now.iter().find(|n| n.id == c.id).unwrap_or(c).clone();
        Ok(keys.iter().map(|k| as_it_is(&self.bound[k])).collect())
    }

    /// Looks at all again. One that starts gets the address of one that has just died, and one that crashes over and over
    /// comes back with another: by what was read before, one would be taken for the other.
    fn refresh(&mut self) -> Result<()> {
        let all: Vec<Key> = self.bound.keys().cloned().collect();
        let now = self.tools.docker.inspect(&self.ids(&all))?;
        let mut now: BTreeMap<String, Container> = now.into_iter().map(|c| (c.id.clone(), c)).collect();
        for container in self.bound.values_mut() {
            match now.remove(&container.id) {
                Some(read) => *container = read,
                None => container.has_stopped(),
            }
        }
        self.read = Some(Instant::now());
        Ok(())
    }

    /// Runs a hook; its failure ends the rollout.
    fn hook(&self, key: &Key, hook: &Hook, what: &str) -> Result<()> {
        let done = self.tools.docker.exec(&hook_exec(&self.bound[key], hook))?;
        match done.ok() {
            true => Ok(()),
            false => {
                Err(Fault::unchanged(format!("{what} of {} failed", self.name(key))).seen(done.said()).into())
            }
        }
    }

    /// Runs a command whose failure is only reported: the instance goes anyway.
    fn try_exec(&self, key: &Key, exec: Exec, what: &'static str) -> Result<()> {
        let done = self.tools.docker.exec(&exec)?;
        if !done.ok() {
            let (name, said) = (self.name(key), done.said().to_string());
            self.tools.report.warn(&Warning::Hook { name, what, said });
        }
        Ok(())
    }

    /// The rotation of every proxy that fronts any of these: what is inside now, and these outside.
    fn routings(&self, outside: &[Key]) -> Vec<Routing<'a>> {
        let routing = |proxy: &'a dyn Proxy| Routing {
            docker: self.tools.docker,
            proxy,
            rotation: Rotation {
                inside: self.endpoints(proxy, &self.inside),
                outside: self.endpoints(proxy, outside),
                found: self.found.clone(),
            },
        };
        self.tools.proxies.iter().map(|p| routing(p.as_ref())).collect()
    }

    fn endpoints(&self, proxy: &dyn Proxy, keys: &[Key]) -> Vec<Endpoint> {
        let containers = keys.iter().map(|k| &self.bound[k]);
        endpoints(proxy, containers)
    }

    fn service(&self, key: &Key) -> &'a Service {
        let (_, service) = self.bound[key].compose().expect("only Compose's containers are bound");
        &self.tools.project.services[service]
    }

    fn ids(&self, keys: &[Key]) -> Vec<String> {
        keys.iter().map(|k| self.bound[k].id.clone()).collect()
    }

    fn name(&self, key: &Key) -> String {
        short_name(&self.tools.project.name, &self.bound[key])
    }

    fn names(&self, keys: &[Key]) -> Vec<String> {
        keys.iter().map(|k| self.name(k)).collect()
    }

    fn tell(&self, event: fn(Vec<String>) -> Event, keys: &[Key]) {
        self.tools.report.event(event(self.names(keys)));
    }
}

/// Steps after the last of which the new release has taken over, so that finishing is the shorter way.
fn is_turning(step: &Step) -> bool {
    matches!(step, Step::Route { .. } | Step::Ready(_) | Step::Delay(_) | Step::Monitor(_))
}

/// Steps that a new release that serves does not need.
fn is_cleaning(step: &Step) -> bool {
    matches!(step, Step::Remove(_) | Step::Release)
}

fn hook_exec(container: &Container, hook: &Hook) -> Exec {
    let (options, variables) = (hook.options(), hook.variables());
    Exec { options, variables, ..Exec::of_user(&container.id, hook.command.argv()) }
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
) -> Result<health::Probe, Fault> {
    let backend = Backend::from(container);
    let proxy = proxies.iter().find(|p| p.fronts(&backend));
    let host = proxy.and_then(|p| p.host(container));
    let front = Front {
        routed: proxy.is_some(),
        port: proxy.and_then(|p| p.port(container)),
        host: host.as_deref(),
        container: proxy.map(|p| p.container()),
    };
    health::choose(&service.name, service.settings.http.as_ref(), container, front)
}
