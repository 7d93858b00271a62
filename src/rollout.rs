//! Does a plan, step by step. It decides nothing: what to do is the plan's, and what to do about a failure is deploy's.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;

use crate::docker::inspect::Container;
use crate::docker::{Docker, Exec};
use crate::drain::{self, Drained, Routing};
use crate::fault::Fault;
use crate::health::{self, Candidate};
use crate::model::{Hook, Project, Service};
use crate::observed::{Key, Observed};
use crate::plan::{Plan, Step};
use crate::proxy::{Backend, Endpoint, Proxy, Rotation};
use crate::report::{Event, Report, Warning};
use crate::wait::Stop;

/// What every rollout of a run works with.
pub struct Tools<'a> {
    pub docker: &'a Docker,
    pub project: &'a Project,
    pub proxies: &'a [Arc<dyn Proxy>],
    pub report: Report,
}

/// A plan under way.
pub struct Rollout<'a> {
    tools: &'a Tools<'a>,
    stop: Stop,
    /// The container that each key of the plan stands for.
    bound: BTreeMap<Key, Container>,
    inside: Vec<Key>,
    /// On the way back an old instance that does not answer as ready is better than none.
    lenient: bool,
}

/// Where a plan stopped, and why.
pub struct Stopped {
    /// Only cleaning up was left to do: the new release serves.
    pub serves: bool,
    pub fault: Fault,
}

impl<'a> Rollout<'a> {
    pub fn new(
        tools: &'a Tools<'a>,
        stop: Stop,
        observed: &Observed,
        containers: BTreeMap<Key, Container>,
    ) -> Self {
        Rollout {
            tools,
            stop,
            bound: containers,
            inside: observed.serving().map(|i| i.key.clone()).collect(),
            lenient: false,
        }
    }

    /// For the way back: nothing interrupts it, and readiness is asked for but not insisted on.
    pub fn back(tools: &'a Tools<'a>, observed: &Observed, containers: BTreeMap<Key, Container>) -> Self {
        Rollout { lenient: true, ..Rollout::new(tools, Stop::default(), observed, containers) }
    }

    /// Does the steps in order.
    ///
    /// # Errors
    /// The first step that fails; the steps after it are not done.
    pub fn run(&mut self, plan: &Plan) -> Result<(), Stopped> {
        let last_route =
            plan.steps.iter().rposition(|(s, _)| matches!(s, Step::Route { .. } | Step::Ready(_)));
        for (n, (step, _)) in plan.steps.iter().enumerate() {
            if last_route.is_none_or(|last| n > last) {
                self.stop = Stop::default(); // from here on, finishing is the shorter way
            }
            let done = self.interruption().and_then(|()| self.step(step));
            done.map_err(|error| Stopped {
                serves: plan.steps[n..].iter().all(|(s, _)| is_cleaning(s)),
                fault: Fault::from_error(error),
            })?;
        }
        Ok(())
    }

    /// Names of those that get requests after the last route.
    pub fn in_rotation(&self) -> String {
        self.names(&self.inside)
    }

    fn interruption(&self) -> Result<()> {
        match self.stop.signal() {
            Some(signal) => Err(Fault::interrupted(signal).into()),
            None => Ok(()),
        }
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Create { service, fresh, total } => self.create(service, fresh, *total),
            Step::Gate(keys) => self.gate(keys),
            Step::Start(keys) => self.start(keys),
            Step::Ready(keys) => self.ready(keys),
            Step::Route { inside, outside } => self.route(inside, outside),
            Step::Idle(keys) => self.idle(keys),
            Step::Stop(keys) => self.stop(keys),
            Step::Remove(keys) => self.remove(keys),
            Step::Release => self.release(),
        }
    }

    fn create(&mut self, service: &str, fresh: &[Key], total: usize) -> Result<()> {
        let docker = self.tools.docker;
        let project = &self.tools.project.name;
        docker.create(service, total)?;
        let known: Vec<&String> = self.bound.values().map(|c| &c.id).collect();
        let mut made = docker.containers_of(project, service)?;
        made.retain(|c| c.state.status == "created" && c.compose().is_some() && !known.contains(&&c.id));
        made.sort_by_key(number);
        if made.len() < fresh.len() {
            return Err(Fault::unchanged(format!(
                "Compose created {} of {} instances of `{service}`",
                made.len(),
                fresh.len()
            ))
            .into());
        }
        self.bound.extend(fresh.iter().cloned().zip(made));
        self.tell(Event::Created, fresh);
        Ok(())
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
        for container in docker.inspect(&self.ids(keys))? {
            let bound = self.bound.values_mut().find(|c| c.id == container.id);
            bound.into_iter().for_each(|b| *b = container.clone());
        }
        self.tell(Event::Started, keys);
        for key in keys {
            for hook in &service.post_start {
                self.hook(key, hook, "the post_start hook")?;
            }
        }
        Ok(())
    }

    fn ready(&mut self, keys: &[Key]) -> Result<()> {
        let settings = &self.service(&keys[0]).settings;
        let candidates = keys.iter().map(|k| self.candidate(k)).collect::<Result<Vec<_>>>()?;
        let told = |candidate: &Candidate, answer: &health::Answer| {
            self.tools
                .report
                .event(&Event::Ready { name: candidate.name.clone(), answer: answer.text.clone() });
        };
        let waited =
            health::wait_until_ready(self.tools.docker, &candidates, &settings.pace, &self.stop, told);
        match waited {
            Err(error) if self.lenient => {
                let fault = Fault::from_error(error);
                self.tools.report.warn(&Warning::NotReadyAgain(fault.message));
                Ok(())
            }
            Ok(()) if self.tools.proxies.is_empty() => {
                self.inside
                    .extend(keys.iter().filter(|k| !self.inside.contains(k)).cloned().collect::<Vec<_>>());
                Ok(())
            }
            other => other,
        }
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
        for routing in self.routings(outside) {
            match routing.proxy.steers() {
                true => routing.set(&self.stop)?,
                false => self.follow(routing, outside)?,
            }
        }
        self.tools.report.event(&Event::Routed { inside: self.names(inside), outside: self.names(outside) });
        Ok(())
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
            Some(argv) => self.try_exec(key, Exec::new(&self.bound[key].id, argv), "the drain command"),
            None => Ok(()),
        }
    }

    fn idle(&mut self, keys: &[Key]) -> Result<()> {
        let settings = &self.service(&keys[0]).settings;
        self.tell(Event::Draining, keys);
        if self.tools.proxies.iter().any(|p| p.steers()) {
            keys.iter().try_for_each(|key| self.drain_command(key))?;
        }
        let (mut requests, mut unsure) = (0, 0);
        for routing in self.routings(keys).into_iter().map(|r| self.told(r, keys)) {
            match routing.wait_until_idle(settings.drain_timeout, &self.stop)? {
                Drained::Idle => {}
                Drained::Limit(open) => (requests, unsure) = (requests + open.requests, unsure + open.unsure),
            }
        }
        match requests + unsure {
            0 => self.tell(Event::Idle, keys),
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
        self.tell(Event::Stopped, keys);
        Ok(())
    }

    fn remove(&mut self, keys: &[Key]) -> Result<()> {
        self.tools.docker.remove(&self.ids(keys))?;
        self.tell(Event::Removed, keys);
        Ok(())
    }

    /// Gives the route back to the proxies' own discovery.
    ///
    /// # Errors
    /// A proxy that does not answer.
    pub fn release(&self) -> Result<()> {
        let existing = self.tools.docker.ids()?;
        let all: Vec<Key> = self.bound.keys().cloned().collect();
        for proxy in self.tools.proxies {
            let ours = || Ok(endpoints(proxy.as_ref(), self.fresh(&all)?.iter()));
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

    fn names(&self, keys: &[Key]) -> String {
        keys.iter().map(|k| self.name(k)).collect::<Vec<_>>().join(", ")
    }

    fn tell(&self, event: fn(String) -> Event, keys: &[Key]) {
        self.tools.report.event(&event(self.names(keys)));
    }
}

/// Steps that a new release that serves does not need.
fn is_cleaning(step: &Step) -> bool {
    matches!(step, Step::Remove(_) | Step::Release)
}

fn hook_exec(container: &Container, hook: &Hook) -> Exec {
    Exec { options: hook.options(), ..Exec::new(&container.id, hook.command.argv()) }
}

/// Compose's number of an instance.
pub fn number(container: &Container) -> u32 {
    let label = container.label("com.docker.compose.container-number");
    label.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// A container's name without its project's.
pub fn short_name(project: &str, container: &Container) -> String {
    let name = container.name();
    let short = name.strip_prefix(project).and_then(|n| n.strip_prefix('-'));
    short.unwrap_or(name).to_string()
}

/// These containers as a proxy sees them; those that it does not front are left out.
pub fn endpoints<'c>(proxy: &dyn Proxy, containers: impl Iterator<Item = &'c Container>) -> Vec<Endpoint> {
    let fronted = containers.filter(|c| proxy.fronts(&Backend::from(*c)));
    let endpoint = |c: &Container| Endpoint {
        id: c.id.clone(),
        name: c.name().into(),
        names: c.names(),
        service: c.compose().map(|(_, service)| service.to_string()).unwrap_or_default(),
        addresses: c.addresses_reached_from(proxy.container()),
        port: proxy.port(c),
        labels: c.config.labels.clone(),
        unhealthy: c.is_unhealthy(),
    };
    fronted.map(endpoint).collect()
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
    let port = proxy.and_then(|p| p.port(container));
    let host = proxy.and_then(|p| p.host(container));
    health::choose(&service.name, service.settings.http.as_ref(), container, port, host.as_deref())
}
