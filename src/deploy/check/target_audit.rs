//! Audit of one target: its settings, plan, readiness probe, memory and signal handling.

use std::sync::Arc;

use anyhow::Result;

use super::ProjectCheck;
use crate::check::service::{self, ProxyPresence, ServiceContext};
use crate::check::signals::SignalMasks;
use crate::check::{AuditReport, Verdict, VerdictRow};
use crate::docker::inspect::Container;
use crate::engine::compose::desired;
use crate::error::Error;
use crate::finding::Finding;
use crate::health::ReadinessProbe;
use crate::model::{Order, Service};
use crate::observe::TargetReader;
use crate::observed::{Generation, Instance, InstanceState, Observed};
use crate::plan::{self, DesiredService, Plan, Strategy};
use crate::preflight::serving::{self, NotReadyInstances, ServingInstance};
use crate::preflight::{self, Surroundings};
use crate::proxy::{self, Proxy};
use crate::targets::{Target, backend};

/// Result of the audit of a target.
pub struct TargetAudit {
    pub row: VerdictRow,
    /// Service, number of its running instances, and number of instances that a deploy starts.
    pub memory_demands: Vec<(String, u64, u64)>,
    /// Plan of a deploy; `None` if the planner refuses.
    pub plan: Option<Plan>,
}

/// Proxies in front of a target.
pub struct TargetProxies {
    pub running: Vec<Arc<dyn Proxy>>,
    /// Proxies that do not run, and are known only from the Compose file.
    pub configured: Vec<Arc<dyn Proxy>>,
    /// True if a proxy with an unknown configuration may route to the target.
    pub may_have_another: bool,
}

impl TargetProxies {
    pub fn all(&self) -> Vec<Arc<dyn Proxy>> {
        self.running.iter().chain(&self.configured).cloned().collect()
    }

    fn is_none(&self) -> bool {
        self.running.is_empty() && self.configured.is_empty() && !self.may_have_another
    }

    fn presence(&self) -> ProxyPresence {
        match self.all().iter().all(|p| p.abilities().steers) {
            _ if self.is_none() => ProxyPresence::NoProxy,
            true => ProxyPresence::Drains,
            false => ProxyPresence::WatchedOnly,
        }
    }
}

impl ProjectCheck<'_> {
    /// Audits a target. `others` are the targets of the same deploy, which replaces them together.
    pub fn audit_target(
        &self,
        target: &Target,
        others: &[&Target],
        audit_report: &mut AuditReport,
    ) -> Result<TargetAudit> {
        let findings = &mut audit_report.findings;
        let refused = |error: Error| Finding::from(error).of_service(target.services()[0]);
        findings.extend(
            preflight::file(self.project(), target).into_iter().map(|error| of_target(target, error)),
        );
        if let Err(error) = self.check_own_proxy_runs(target) {
            findings.push(refused(error));
        }
        let proxies = match self.proxies_of(target) {
            Ok(proxies) => proxies,
            Err(error) => {
                findings.push(refused(Error::from_error(error)));
                TargetProxies { running: Vec::new(), configured: Vec::new(), may_have_another: true }
            }
        };
        let reader = TargetReader {
            docker: self.docker(),
            project: self.project(),
            desired: &self.desired,
            target,
            proxies: proxies.all(),
        };
        self.audit_readiness(&reader, audit_report);
        self.audit_serving(&reader, &proxies.running, audit_report)?;
        let plan = self.plan(target, &proxies);
        let starting = match &plan {
            Ok(plan) => plan.extra_instances(),
            Err(_) => self.max_desired_instances(target),
        };
        audit_report.findings.extend(self.audit_surroundings(&reader, &proxies, starting)?);
        let plan = plan.map_err(|error| audit_report.findings.push(of_target(target, error))).ok();
        let names = others.iter().flat_map(|t| t.services()).flat_map(|s| self.names(s)).collect();
        self.audit_proxies(&reader, &proxies, (starting, names), audit_report)?;
        for name in target.services() {
            self.audit_service(&self.project().services[name], target, &proxies, audit_report)?;
        }
        Ok(TargetAudit {
            row: self.verdict_row(target, &proxies),
            memory_demands: self.memory_demands(target, starting),
            plan,
        })
    }

    /// Findings of the preflight checks on the engine.
    fn audit_surroundings(
        &self,
        reader: &TargetReader,
        proxies: &TargetProxies,
        starting: usize,
    ) -> Result<Vec<Finding>> {
        if self.containers.is_none() {
            return Ok(Vec::new());
        }
        let found = preflight::engine(&Surroundings {
            reader,
            fronting: &proxies.running,
            proxies: &self.proxies,
            containers: self.containers(),
            extra_instances: starting,
        })?;
        Ok(found.into_iter().map(|finding| of_target(reader.target, finding)).collect())
    }

    /// Containers that Compose would stop to create the new instances. One dry run tries all targets with local images. Only if
    /// Compose would stop something or refuses, each target gets a dry run.
    pub fn collateral_findings(&self, plans: &[(&Target, Plan)]) -> Vec<Finding> {
        let is_local = |s: &&str| self.running_count(s) > 0 && self.desired.images.contains_key(*s);
        let local: Vec<_> = plans.iter().filter(|(t, _)| t.services().iter().all(is_local)).collect();
        let totals: Vec<_> = local.iter().flat_map(|(_, plan)| plan.totals()).collect();
        if totals.is_empty() || self.docker().collateral_of_all(&totals).is_ok_and(|lost| lost.is_empty()) {
            return Vec::new();
        }
        let finding = |(target, plan): &&(&Target, Plan)| {
            let error = preflight::collateral(self.docker(), plan, &[]).err()?;
            Some(of_target(target, Error::from_error(error)))
        };
        local.iter().copied().filter_map(|plan| finding(&plan)).collect()
    }

    /// Refuses a running target whose proxy is down. Before the first start both are down, which is no error.
    fn check_own_proxy_runs(&self, target: &Target) -> Result<(), Error> {
        let runs = target.services().iter().any(|s| self.running_count(s) > 0);
        if runs { preflight::proxy_runs(self.project(), target, &self.proxies) } else { Ok(()) }
    }

    /// All DNS names of a service and of its containers.
    fn names(&self, service: &str) -> Vec<String> {
        let containers = self.members(service).into_iter().flat_map(Container::names);
        self.project().services[service].names.iter().cloned().chain(containers).collect()
    }

    fn running_count(&self, service: &str) -> usize {
        self.members(service).iter().filter(|c| c.is_running()).count()
    }

    /// Number of instances after a deploy: the number in the file, else the number of running instances, else one.
    fn desired_instances(&self, service: &Service) -> usize {
        let in_file = service.replicas().map(|n| n as usize);
        in_file.unwrap_or(self.running_count(&service.name)).max(1)
    }

    fn max_desired_instances(&self, target: &Target) -> usize {
        let count = |s: &&str| self.desired_instances(&self.project().services[*s]);
        target.services().iter().map(count).max().unwrap_or(1)
    }

    /// Findings on the readiness probe. Without the image its healthcheck is unknown.
    fn audit_readiness(&self, reader: &TargetReader, audit_report: &mut AuditReport) {
        let unknown = |name: &&str| {
            let service = &self.project().services[*name];
            let is_set = service.healthcheck().is_some() || service.settings.http.is_some();
            !is_set && !self.desired.images.contains_key(*name)
        };
        let services = reader.target.services();
        if let Some(name) = services.iter().find(|n| unknown(n)) {
            let image = &self.project().services[*name].image;
            let reason = if self.containers.is_some() {
                format!("the image {image} is missing")
            } else {
                "no engine".into()
            };
            audit_report.not_audited.push(format!("readiness probe of `{name}`: {reason}"));
            return;
        }
        match reader.probes() {
            Ok(probes) => audit_report
                .findings
                .extend(probes.iter().filter_map(|(name, probe)| weak_readiness(name, probe))),
            Err(error) => audit_report.findings.push(of_target(reader.target, error)),
        }
    }

    /// Findings on running instances that fail the probe of new ones.
    fn audit_serving(
        &self,
        reader: &TargetReader,
        proxies: &[Arc<dyn Proxy>],
        audit_report: &mut AuditReport,
    ) -> Result<()> {
        let services = reader.target.services().into_iter();
        let running = services.flat_map(|name| self.members(name));
        // A service without a probe has a finding already.
        let all = ServingInstance::select(reader, proxies, running).unwrap_or_default();
        let note = |found: NotReadyInstances| {
            Finding::note("serving-not-ready", found.to_string(), found.fix).of_service(&found.service)
        };
        audit_report.findings.extend(serving::not_ready(self.docker(), &all)?.into_iter().map(note));
        Ok(())
    }

    /// Plan of a deploy that replaces all instances. The running sides of a pair count as active.
    fn plan(&self, target: &Target, proxies: &TargetProxies) -> Result<Plan, Error> {
        let proxied = !proxies.is_none();
        let goal = |name: &str| {
            let service = &self.project().services[name];
            DesiredService {
                service: name.into(),
                replicas: self.desired_instances(service),
                policy: desired::plan_policy(service, &service.update, proxied),
                kept_slots: 0,
                removes_stopped: service.starts_by_compose,
                follows_unfinished: false,
                may_be_down: !proxied,
            }
        };
        let sides = target.services();
        let runs = |s: &&&str| self.running_count(s) > 0;
        let active: Vec<&str> = match sides.iter().filter(runs).count() {
            0 => vec![sides[0]],
            _ => sides.iter().filter(runs).copied().collect(),
        };
        let strategy = match target {
            Target::Service(name) => Strategy::Scale(goal(name)),
            Target::Pair(pair) => {
                let mut both = [goal(&pair.sides[0]), goal(&pair.sides[1])];
                if active.len() == 2 {
                    preflight::active_sides(self.project(), target)?;
                    both.iter_mut().for_each(|g| {
                        desired::stop_first_for_fixed_ports(&self.project().services[&g.service], g)
                    });
                }
                Strategy::Pair(both)
            }
        };
        let count = |s: &&str| self.desired_instances(&self.project().services[*s]);
        let instances = active.iter().flat_map(|s| (0..count(s)).map(|n| old_instance(s, n))).collect();
        plan::plan(&strategy, &Observed { instances, proxied }).map_err(Error::from)
    }

    fn audit_service(
        &self,
        service: &Service,
        target: &Target,
        proxies: &TargetProxies,
        audit_report: &mut AuditReport,
    ) -> Result<()> {
        let depends = |other: &Service| other.depends_on.contains_key(&service.name);
        let has_clients = !service.fixed_ports().is_empty() || self.project().services.values().any(depends);
        let signals = self.signals(service)?;
        let name = &service.name;
        match (self.running_count(name), &signals) {
            (0, _) => audit_report
                .not_audited
                .push(format!("reaction of `{name}` to its stop signal, and its memory: no instance runs")),
            (_, None) => audit_report.not_audited.push(format!(
                "reaction of `{name}` to its stop signal: not available from this machine or its image"
            )),
            (_, Some(_)) => {}
        }
        let context = ServiceContext {
            service,
            image: self.desired.images.get(&service.name),
            proxy: proxies.presence(),
            requests_route: proxy::route_setting(&backend(self.project(), service)).is_some(),
            has_clients,
            listens: !service.exposed().is_empty(),
            has_engine: self.containers.is_some(),
            instances: self.max_desired_instances(target),
            signals,
            state_in_image: preflight::is_in_build_context(service, &self.state_dir)
                .then(|| self.state_dir.display().to_string()),
        };
        audit_report.findings.extend(service::findings(&context));
        Ok(())
    }

    /// Name and signal masks of the first running instance.
    fn signals(&self, service: &Service) -> Result<Option<(String, SignalMasks)>> {
        let Some(instance) = self.members(&service.name).into_iter().find(|c| c.is_running()) else {
            return Ok(None);
        };
        let masks = match self.signals_from_proc(instance) {
            Some(signals) => Some(signals),
            None => self
                .docker()
                .first_process_status(&instance.id)?
                .as_deref()
                .and_then(SignalMasks::of_first_process),
        };
        Ok(masks.map(|signals| (instance.name().to_string(), signals)))
    }

    /// Masks from `/proc` of this machine, unless the engine is remote or in a virtual machine.
    fn signals_from_proc(&self, container: &Container) -> Option<SignalMasks> {
        let is_here = !self.docker().engine_address().is_remote();
        let status = std::fs::read_to_string(format!("/proc/{}/status", container.state.pid)).ok();
        status
            .filter(|_| is_here && container.state.pid > 1)
            .as_deref()
            .and_then(SignalMasks::of_first_process)
    }

    fn verdict_row(&self, target: &Target, proxies: &TargetProxies) -> VerdictRow {
        let names: Vec<String> = proxies.all().iter().map(|p| p.name()).collect();
        let running: usize = target.services().iter().map(|s| self.running_count(s)).sum();
        let count = match running {
            0 => "not started".to_string(),
            1 => "1 instance".to_string(),
            n => format!("{n} instances"),
        };
        let proxy = match names.is_empty() {
            false => format!("behind {}", names.join(", ")),
            true if proxies.may_have_another => "behind a proxy with an unknown configuration".into(),
            true => "no proxy in front".into(),
        };
        let service = &self.project().services[target.services()[0]];
        let has_volume = desired::stops_first_for_volume(service, &service.update, !proxies.is_none());
        let is_stop_first = service.update.order == Some(Order::StopFirst) || has_volume;
        VerdictRow {
            name: target.name().into(),
            services: target.services().iter().map(|s| s.to_string()).collect(),
            verdict: Verdict::Yes,
            message: format!(
                "{count}, {proxy}{}",
                if is_stop_first { ", stops before it starts" } else { "" }
            ),
            proxies: names,
        }
    }

    fn memory_demands(&self, target: &Target, starting: usize) -> Vec<(String, u64, u64)> {
        let services = target.services();
        // Only one side of a pair starts, and both need the same memory.
        let service = services.iter().max_by_key(|s| self.running_count(s)).copied().unwrap_or_default();
        vec![(service.to_string(), self.running_count(service) as u64, starting as u64)]
    }
}

/// Finding of a target. It belongs to the side of a pair that the message names.
fn of_target(target: &Target, finding: impl Into<Finding>) -> Finding {
    let finding = finding.into();
    let named = target.services().into_iter().find(|s| finding.message.contains(&format!("`{s}`")));
    finding.of_service(named.unwrap_or(target.services()[0]))
}

/// Finding on a probe that proves little.
fn weak_readiness(service: &str, probe: &ReadinessProbe) -> Option<Finding> {
    let hint = format!("set `services.{service}.healthcheck`, or `services.{service}.x-zd.health.path`");
    match probe {
        ReadinessProbe::Http(http) if probe.is_weak() => {
            let message = format!(
                "`{service}` has no healthcheck and no `x-zd.health`: any answer below 500 to `GET {}` at port {} counts as \
                 ready",
                http.health.path, http.port
            );
            Some(Finding::note("weak-readiness", message, hint).of_service(service))
        }
        ReadinessProbe::Connect(port) => {
            let message = format!(
                "`{service}` has no healthcheck, and its proxy does not speak HTTP to it: a connection to port {port} counts as \
                 ready"
            );
            Some(Finding::note("weak-readiness", message, hint).of_service(service))
        }
        ReadinessProbe::Running => {
            let message = format!(
                "no probe checks whether a new instance of `{service}` is ready: a running instance counts as ready"
            );
            Some(Finding::note("no-readiness", message, hint).of_service(service))
        }
        ReadinessProbe::Http(_) | ReadinessProbe::Healthcheck(_) => None,
    }
}

/// Old instance that serves, as input of the planner.
fn old_instance(service: &str, number: usize) -> Instance {
    Instance {
        key: format!("{service}-{}", number + 1),
        service: service.into(),
        generation: Generation::Old,
        state: InstanceState::Running,
        routed: true,
        ready: true,
        age: None,
    }
}
