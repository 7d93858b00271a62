//! Commands of a plan for `--dry-run`, without running them. Only proxies are queried.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;

use super::restart::{NEVER, policy_to_restore};
use super::{RolloutContext, hook_exec};
use crate::docker::inspect::Container;
use crate::docker::{DockerCommand, Exec};
use crate::model::Service;
use crate::observe;
use crate::observed::{InstanceKey, Observed};
use crate::plan::{Plan, Step};
use crate::proxy::{Discovery, Goal, Proxy, Rotation, endpoints};

/// One line of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PreviewLine {
    Command(Vec<String>),
    /// Text for what depends on the state at that moment.
    Note(String),
}

/// Preview of a plan. New instances have the names that they will probably get.
pub struct Preview<'a> {
    pub context: RolloutContext<'a>,
    pub containers: BTreeMap<InstanceKey, Container>,
    inside: Vec<InstanceKey>,
    initially_inside: BTreeSet<String>,
}

impl<'a> Preview<'a> {
    pub fn new(
        context: RolloutContext<'a>,
        observed: &Observed,
        containers: BTreeMap<InstanceKey, Container>,
    ) -> Preview<'a> {
        let inside: Vec<InstanceKey> = observed.serving().map(|i| i.key.clone()).collect();
        let initially_inside = inside.iter().filter_map(|k| Some(containers.get(k)?.id.clone())).collect();
        Preview { context, containers, inside, initially_inside }
    }

    /// Lines of each step.
    pub fn steps(mut self, plan: &Plan) -> Result<Vec<Vec<PreviewLine>>> {
        plan.steps().into_iter().map(|(step, _)| self.step(step)).collect()
    }

    fn step(&mut self, step: &Step) -> Result<Vec<PreviewLine>> {
        match step {
            Step::Create { service, total, .. } => {
                Ok(vec![self.command(&DockerCommand::Create { service, total: *total })])
            }
            Step::Gate(keys) => self.gate(keys),
            Step::Start(keys) => Ok(self.start(keys)),
            Step::Ready(keys) => self.ready(keys),
            Step::Route { inside, outside } => self.route(inside, outside),
            Step::Idle(keys) => Ok(self.idle(keys)),
            Step::Stop(keys) => Ok(self.stop(keys)),
            Step::Remove(keys) => Ok(vec![self.command(&DockerCommand::Remove(&self.names(keys)))]),
            Step::HandBack => self.hand_back(),
            Step::Delay(_) | Step::Monitor(_) => Ok(Vec::new()),
        }
    }

    fn gate(&self, keys: &[InstanceKey]) -> Result<Vec<PreviewLine>> {
        self.proxy_commands(keys, Goal::Gated)
    }

    fn start(&self, keys: &[InstanceKey]) -> Vec<PreviewLine> {
        let service = self.service(&keys[0]);
        let mut lines = if service.starts_by_compose {
            let total = self.containers.values().filter(|c| self.is_of(c, &service.name)).count();
            vec![self.command(&DockerCommand::StartByCompose { service: &service.name, total })]
        } else {
            keys.iter().flat_map(|key| self.start_one(key)).collect()
        };
        for key in keys {
            lines.extend(service.post_start.iter().map(|h| self.exec(&hook_exec(&self.containers[key], h))));
        }
        lines
    }

    fn start_one(&self, key: &InstanceKey) -> Vec<PreviewLine> {
        let container = &self.containers[key];
        let policy = policy_to_restore(container, self.context.policies, self.service(key).restart());
        let names = [container.name().to_string()];
        let update =
            policy.map(|policy| self.command(&DockerCommand::SetRestart { policy: &policy, names: &names }));
        update.into_iter().chain([self.command(&DockerCommand::Start(container.name()))]).collect()
    }

    fn ready(&mut self, keys: &[InstanceKey]) -> Result<Vec<PreviewLine>> {
        let service = self.service(&keys[0]);
        let pace = &service.settings.timing;
        let probe = observe::probe(service, &self.containers[&keys[0]], self.context.proxies)?;
        if self.context.proxies.is_empty() {
            self.inside.extend(keys.iter().cloned());
        }
        Ok(vec![PreviewLine::Note(format!(
            "wait for {probe}, every {} for at most {}",
            humantime::format_duration(pace.interval),
            humantime::format_duration(pace.deadline)
        ))])
    }

    fn route(&mut self, inside: &[InstanceKey], outside: &[InstanceKey]) -> Result<Vec<PreviewLine>> {
        self.inside = inside.to_vec();
        let lines = self.proxy_commands(outside, Goal::Rotation)?;
        let confirmations =
            self.context.proxies.iter().map(|p| format!("then {} is queried until it confirms", p.name()));
        Ok(lines.into_iter().chain(confirmations.map(PreviewLine::Note)).collect())
    }

    fn idle(&self, keys: &[InstanceKey]) -> Vec<PreviewLine> {
        let settings = &self.service(&keys[0]).settings;
        let drains = keys.iter().filter_map(|key| {
            let argv = settings.drain_command.clone()?;
            Some(self.exec(&Exec::user_command(&self.containers[key].id, argv)))
        });
        let limit = humantime::format_duration(settings.drain_timeout);
        let waits =
            PreviewLine::Note(format!("then wait until no request is in flight, for at most {limit}"));
        drains.chain([waits]).collect()
    }

    fn stop(&mut self, keys: &[InstanceKey]) -> Vec<PreviewLine> {
        self.inside.retain(|k| !keys.contains(k));
        let hooks = |key: &InstanceKey| {
            let hooks = self.service(key).pre_stop.iter();
            hooks.map(|hook| self.exec(&hook_exec(&self.containers[key], hook))).collect::<Vec<_>>()
        };
        let mut lines: Vec<PreviewLine> = keys.iter().flat_map(hooks).collect();
        lines.push(self.command(&DockerCommand::Stop(&self.names(keys))));
        let restarting: Vec<InstanceKey> =
            keys.iter().filter(|k| self.containers[*k].restarts_with_engine()).cloned().collect();
        if !restarting.is_empty() {
            lines.push(
                self.command(&DockerCommand::SetRestart { policy: NEVER, names: &self.names(&restarting) }),
            );
        }
        lines
    }

    fn hand_back(&self) -> Result<Vec<PreviewLine>> {
        let existing: Vec<String> = self.containers.values().map(|c| c.id.clone()).collect();
        self.proxy_commands(&[], |rotation| {
            Goal::HandedBack(Discovery {
                endpoints: rotation.inside,
                existing: existing.clone(),
                ..Discovery::default()
            })
        })
    }

    /// Commands for each proxy. A proxy whose commands depend on its state gets a note, because its current state
    /// has no new instances.
    fn proxy_commands(
        &self,
        outside: &[InstanceKey],
        goal: impl Fn(Rotation) -> Goal,
    ) -> Result<Vec<PreviewLine>> {
        let mut lines = Vec::new();
        for proxy in self.context.proxies {
            if !proxy.abilities().is_blind {
                lines.push(PreviewLine::Note(format!(
                    "the command for {} depends on its state at that moment",
                    proxy.name()
                )));
                continue;
            }
            let rotation = Rotation {
                inside: self.endpoints(proxy.as_ref(), &self.inside),
                outside: self.endpoints(proxy.as_ref(), outside),
                preexisting: self.initially_inside.clone(),
                ..Rotation::default()
            };
            let (_, next) = proxy.advance(&[], &goal(rotation))?;
            lines.extend(next.changes().iter().map(|change| self.exec(&change.exec)));
        }
        Ok(lines)
    }

    fn endpoints(&self, proxy: &dyn Proxy, keys: &[InstanceKey]) -> Vec<crate::proxy::Endpoint> {
        endpoints(proxy, keys.iter().map(|k| &self.containers[k]))
    }

    /// Command in a container, by name instead of id: docker accepts both, and people read names.
    fn exec(&self, exec: &Exec) -> PreviewLine {
        let proxies = self.context.proxies.iter().map(|p| p.container());
        let all = self.containers.values().chain(proxies);
        let name = all.into_iter().find(|c| c.id == exec.container).map(|c| c.name().to_string());
        let container = name.filter(|n| !n.is_empty()).unwrap_or_else(|| exec.container.clone());
        self.command(&DockerCommand::Exec(&Exec { container, ..exec.clone() }))
    }

    fn command(&self, call: &DockerCommand) -> PreviewLine {
        PreviewLine::Command(self.context.docker.display_argv(call))
    }

    fn is_of(&self, container: &Container, service: &str) -> bool {
        container.compose().is_some_and(|(_, s)| s == service)
    }

    fn service(&self, key: &InstanceKey) -> &'a Service {
        let (_, service) = self.containers[key].compose().expect("only Compose's containers are bound");
        &self.context.project.services[service]
    }

    fn names(&self, keys: &[InstanceKey]) -> Vec<String> {
        keys.iter().map(|k| self.containers[k].name().to_string()).collect()
    }
}
