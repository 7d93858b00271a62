//! What a plan would run, step by step, and nothing of it is run: for `--dry-run`. Only what a proxy says of itself is asked.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::restart::{NEVER, policy_of};
use super::{RolloutContext, hook_exec, probe};
use crate::docker::inspect::Container;
use crate::docker::{CommandResult, DockerCommand, Exec};
use crate::model::Service;
use crate::observed::{InstanceKey, Observed};
use crate::plan::{Plan, Step};
use crate::proxy::{HandBack, Proxy, Rotation, endpoints};

/// What a step comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PreviewLine {
    Command(Vec<String>),
    /// What no command of now can say.
    Words(String),
}

/// A plan before it is begun, with what is to come as it will probably be called.
pub struct Preview<'a> {
    pub context: RolloutContext<'a>,
    pub bound: BTreeMap<InstanceKey, Container>,
    inside: Vec<InstanceKey>,
    found: BTreeSet<String>,
}

impl<'a> Preview<'a> {
    pub fn new(
        context: RolloutContext<'a>,
        observed: &Observed,
        bound: BTreeMap<InstanceKey, Container>,
    ) -> Preview<'a> {
        let inside: Vec<InstanceKey> = observed.serving().map(|i| i.key.clone()).collect();
        let found = inside.iter().filter_map(|k| Some(bound.get(k)?.id.clone())).collect();
        Preview { context, bound, inside, found }
    }

    /// What each step would run.
    ///
    /// # Errors
    /// A proxy that does not answer.
    pub fn steps(mut self, plan: &Plan) -> Result<Vec<Vec<PreviewLine>>> {
        plan.steps.iter().map(|(step, _)| self.step(step)).collect()
    }

    fn step(&mut self, step: &Step) -> Result<Vec<PreviewLine>> {
        match step {
            Step::Create { service, total, .. } => {
                Ok(vec![self.call(&DockerCommand::Create { service, total: *total })])
            }
            Step::Gate(keys) => self.gate(keys),
            Step::Start(keys) => Ok(self.start(keys)),
            Step::Ready(keys) => self.ready(keys),
            Step::Route { inside, outside } => self.route(inside, outside),
            Step::Idle(keys) => Ok(self.idle(keys)),
            Step::Stop(keys) => Ok(self.stop(keys)),
            Step::Remove(keys) => Ok(vec![self.call(&DockerCommand::Remove(&self.names(keys)))]),
            Step::Release => self.hand_back(),
            Step::Delay(_) | Step::Monitor(_) => Ok(Vec::new()),
        }
    }

    fn gate(&self, keys: &[InstanceKey]) -> Result<Vec<PreviewLine>> {
        self.in_proxies(keys, |proxy, now, rotation| proxy.gate(now, rotation))
    }

    fn start(&self, keys: &[InstanceKey]) -> Vec<PreviewLine> {
        let service = self.service(&keys[0]);
        let mut told = match service.starts_by_compose {
            true => {
                let total = self.bound.values().filter(|c| self.is_of(c, &service.name)).count();
                vec![self.call(&DockerCommand::StartByCompose { service: &service.name, total })]
            }
            false => keys.iter().flat_map(|key| self.start_one(key)).collect(),
        };
        for key in keys {
            told.extend(service.post_start.iter().map(|h| self.exec(&hook_exec(&self.bound[key], h))));
        }
        told
    }

    fn start_one(&self, key: &InstanceKey) -> Vec<PreviewLine> {
        let container = &self.bound[key];
        let policy =
            policy_of(container, self.context.policies, self.service(key).process.restart.as_deref());
        let names = [container.name().to_string()];
        let update =
            policy.map(|policy| self.call(&DockerCommand::SetRestart { policy: &policy, names: &names }));
        update.into_iter().chain([self.call(&DockerCommand::Start(container.name()))]).collect()
    }

    fn ready(&mut self, keys: &[InstanceKey]) -> Result<Vec<PreviewLine>> {
        let service = self.service(&keys[0]);
        let pace = &service.settings.pace;
        let asked = probe(service, &self.bound[&keys[0]], self.context.proxies)?;
        if self.context.proxies.is_empty() {
            self.inside.extend(keys.iter().cloned());
        }
        Ok(vec![PreviewLine::Words(format!(
            "each is asked {asked}, every {} for at most {}",
            humantime::format_duration(pace.interval),
            humantime::format_duration(pace.deadline)
        ))])
    }

    fn route(&mut self, inside: &[InstanceKey], outside: &[InstanceKey]) -> Result<Vec<PreviewLine>> {
        self.inside = inside.to_vec();
        let told = self.in_proxies(outside, |proxy, now, rotation| proxy.route(now, rotation))?;
        let confirms =
            self.context.proxies.iter().map(|p| format!("then {} is asked until it confirms", p.name()));
        Ok(told.into_iter().chain(confirms.map(PreviewLine::Words)).collect())
    }

    fn idle(&self, keys: &[InstanceKey]) -> Vec<PreviewLine> {
        let settings = &self.service(&keys[0]).settings;
        let drains = keys.iter().filter_map(|key| {
            let argv = settings.drain_command.clone()?;
            Some(self.exec(&Exec::user_command(&self.bound[key].id, argv)))
        });
        let limit = humantime::format_duration(settings.drain_timeout);
        let waits = PreviewLine::Words(format!(
            "then requests in flight are counted until there are none, for at most {limit}"
        ));
        drains.chain([waits]).collect()
    }

    fn stop(&mut self, keys: &[InstanceKey]) -> Vec<PreviewLine> {
        self.inside.retain(|k| !keys.contains(k));
        let hooks = |key: &InstanceKey| {
            let hooks = self.service(key).pre_stop.iter();
            hooks.map(|hook| self.exec(&hook_exec(&self.bound[key], hook))).collect::<Vec<_>>()
        };
        let mut told: Vec<PreviewLine> = keys.iter().flat_map(hooks).collect();
        told.push(self.call(&DockerCommand::Stop(&self.names(keys))));
        let again: Vec<InstanceKey> =
            keys.iter().filter(|k| self.bound[*k].restarts_with_engine()).cloned().collect();
        if !again.is_empty() {
            told.push(self.call(&DockerCommand::SetRestart { policy: NEVER, names: &self.names(&again) }));
        }
        told
    }

    fn hand_back(&self) -> Result<Vec<PreviewLine>> {
        let existing: Vec<String> = self.bound.values().map(|c| c.id.clone()).collect();
        self.in_proxies(&[], |proxy, now, rotation| match proxy.hand_back(now, &rotation.all(), &existing) {
            HandBack::Run(exec) => Some(exec),
            HandBack::Done | HandBack::Wait => None,
        })
    }

    /// What each proxy would be told. One whose commands depend on what it does at that moment is told as such: what it
    /// does now says nothing of instances that are still to come.
    fn in_proxies(
        &self,
        outside: &[InstanceKey],
        exec: impl Fn(&dyn Proxy, &CommandResult, &Rotation) -> Option<Exec>,
    ) -> Result<Vec<PreviewLine>> {
        let mut told = Vec::new();
        for proxy in self.context.proxies {
            if proxy.needs_reading() {
                told.push(PreviewLine::Words(format!(
                    "{} is told by what it does at that moment",
                    proxy.name()
                )));
                continue;
            }
            let rotation = Rotation {
                inside: self.endpoints(proxy.as_ref(), &self.inside),
                outside: self.endpoints(proxy.as_ref(), outside),
                preexisting: self.found.clone(),
                ..Rotation::default()
            };
            told.extend(
                exec(proxy.as_ref(), &CommandResult::default(), &rotation).map(|exec| self.exec(&exec)),
            );
        }
        Ok(told)
    }

    fn endpoints(&self, proxy: &dyn Proxy, keys: &[InstanceKey]) -> Vec<crate::proxy::Endpoint> {
        endpoints(proxy, keys.iter().map(|k| &self.bound[k]))
    }

    /// With names in the place of ids, which say the same to docker and more to people.
    fn exec(&self, exec: &Exec) -> PreviewLine {
        let proxies = self.context.proxies.iter().map(|p| p.container());
        let all = self.bound.values().chain(proxies);
        let name = all.into_iter().find(|c| c.id == exec.container).map(|c| c.name().to_string());
        let container = name.filter(|n| !n.is_empty()).unwrap_or_else(|| exec.container.clone());
        self.call(&DockerCommand::Exec(&Exec { container, ..exec.clone() }))
    }

    fn call(&self, call: &DockerCommand) -> PreviewLine {
        PreviewLine::Command(self.context.docker.display_argv(call))
    }

    fn is_of(&self, container: &Container, service: &str) -> bool {
        container.compose().is_some_and(|(_, s)| s == service)
    }

    fn service(&self, key: &InstanceKey) -> &'a Service {
        let (_, service) = self.bound[key].compose().expect("only Compose's containers are bound");
        &self.context.project.services[service]
    }

    fn names(&self, keys: &[InstanceKey]) -> Vec<String> {
        keys.iter().map(|k| self.bound[k].name().to_string()).collect()
    }
}
