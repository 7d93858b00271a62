//! Audit of one target: its settings, plan, readiness probe, proxies and signal handling.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::ProjectFacts;
use super::audit_report::{AuditReport, Unknown, Verdict, VerdictRow};
use super::role::{self, Role};
use crate::docker::inspect::Container;
use crate::engine::compose::desired;
use crate::error::Error;
use crate::finding::{Finding, Subject};
use crate::model::{Order, Service};
use crate::observe::{self, TargetReader};
use crate::observed::{Generation, Instance, InstanceState, Observed};
use crate::plan::{self, Bridge, Plan};
use crate::preflight::readiness::{self, ServingInstance};
use crate::preflight::service::{self, HoldState, ProxyPresence, ServiceContext};
use crate::preflight::signals::SignalMasks;
use crate::preflight::{self, Surroundings, file, proxies};
use crate::proxy::{self, Backend, Place, Planned, Proxy, RolloutShape, converge};
use crate::targets::{Target, backend};

/// Result of the audit of a target.
pub struct TargetAudit {
    /// Plan of a deploy; `None` if the planner refuses.
    pub plan: Option<Plan>,
    /// Number of instances that a deploy starts at the same time.
    pub starting: usize,
    /// Service with the most running instances: only one side of a pair starts, and both need the same memory.
    pub largest_service: String,
}

/// Proxies in front of a target.
#[derive(Default)]
pub struct TargetProxies {
    running: Vec<Arc<dyn Proxy>>,
    /// Proxies that do not run, and are known only from the Compose file.
    configured: Vec<Arc<dyn Proxy>>,
    /// True if a proxy with an unknown configuration may route to the target.
    may_have_another: bool,
}

impl TargetProxies {
    fn all(&self) -> Vec<Arc<dyn Proxy>> {
        self.running.iter().chain(&self.configured).cloned().collect()
    }

    fn presence(&self) -> ProxyPresence {
        let has_proxy = !self.running.is_empty() || !self.configured.is_empty() || self.may_have_another;
        if has_proxy { ProxyPresence::Drains } else { ProxyPresence::NoProxy }
    }

    fn is_none(&self) -> bool {
        self.presence() == ProxyPresence::NoProxy
    }
}

impl ProjectFacts<'_> {
    /// Audits a target. The same deploy replaces services with `other_names`.
    pub fn audit_target(
        &self,
        target: &Target,
        other_names: Vec<String>,
        report: &mut AuditReport,
    ) -> Result<TargetAudit> {
        let services = target.services();
        let mut found = file::findings(self.project, target, &self.proxies);
        // Before the first start the proxy is down, too, which is no error.
        let runs = services.iter().any(|s| self.running_count(s) > 0);
        let down = runs.then(|| proxies::down(self.project, target, &self.proxies)).flatten();
        let is_known_down = down.is_some();
        found.extend(down);
        let proxies = self.proxies_of(target).unwrap_or_else(|error| {
            found.push(Error::from_error(error).into());
            TargetProxies { may_have_another: true, ..TargetProxies::default() }
        });
        let stopped = proxies.configured.first().filter(|_| runs && !is_known_down);
        found.extend(stopped.and_then(|proxy| self.stopped_proxy(target, proxy.as_ref())));
        let reader = TargetReader {
            docker: &self.request.docker,
            project: self.project,
            desired: &self.desired,
            target,
            proxies: proxies.all(),
        };
        match self.unknown_probe(target) {
            Some(unknown) => report.not_audited.push(unknown),
            None => found.extend(weak_probes(&reader)),
        }
        found.extend(self.serving_findings(&reader)?);
        let plan = self.plan(target, &proxies);
        let (starting, serving) = match &plan {
            Ok(plan) => (plan.extra_instances(), plan.serving_at_end()),
            Err(_) => (self.largest_number(target), self.largest_number(target)),
        };
        let around = Surroundings {
            reader: &reader,
            fronting: &proxies.running,
            proxies: &self.proxies,
            containers: &self.containers,
            extra_instances: starting,
        };
        if self.has_engine {
            found.extend(preflight::running(&around)?);
        }
        let plan = plan.map_err(|refused| found.extend(refused)).ok();
        let shape = proxies::shape(&reader, &self.containers, (starting, serving), other_names);
        for proxy in &reader.proxies {
            found.extend(self.proxy_findings(target, &proxies, proxy.as_ref(), &shape)?);
        }
        found.extend(self.findings_of_services(target, &proxies, &mut report.not_audited)?);
        if found.iter().any(|finding| finding.rule == "proxy-down") {
            found.retain(|finding| finding.rule != "route-not-found");
        }
        report.findings.extend(found.into_iter().map(|finding| finding.of_service(services[0])));
        report.services.push(self.verdict_row(target, &proxies));
        let largest_service = services.iter().max_by_key(|s| self.running_count(s));
        let largest_service = largest_service.copied().unwrap_or_default().to_string();
        Ok(TargetAudit { plan, starting, largest_service })
    }

    /// Finding for a proxy of the file that does not run, although the target does.
    fn stopped_proxy(&self, target: &Target, proxy: &dyn Proxy) -> Option<Finding> {
        let (_, service) = proxy.container()?.compose()?;
        let message =
            format!("the proxy {} is stopped, so no request reaches `{}`", proxy.name(), target.name());
        let hint = format!("start it with `docker compose up --detach --no-deps {service}`");
        Some(Finding::unchanged("proxy-down", message, hint))
    }

    /// Findings on each service by itself.
    fn findings_of_services(
        &self,
        target: &Target,
        proxies: &TargetProxies,
        not_audited: &mut Vec<Unknown>,
    ) -> Result<Vec<Finding>> {
        let mut found = Vec::new();
        for name in target.services() {
            let signals = self.signals(name)?;
            not_audited.extend(self.unknown_signals(name, signals.is_none()));
            found.extend(self.service_findings(target, name, proxies, signals));
        }
        Ok(found)
    }

    /// Findings on running instances that fail the probe of new ones.
    fn serving_findings(&self, reader: &TargetReader) -> Result<Vec<Finding>> {
        let running = reader.target.services().into_iter().flat_map(|name| self.running(name));
        // A service without a probe has a finding already.
        let serving = ServingInstance::select(reader, &reader.proxies, running).unwrap_or_default();
        readiness::not_ready(reader.docker, &serving)
    }

    /// Proxies of a target: running ones, else those of the file.
    ///
    /// # Errors
    /// A named container that is no known proxy.
    fn proxies_of(&self, target: &Target) -> Result<TargetProxies> {
        let project = self.project;
        let services = || target.services().into_iter().map(|s| &project.services[s]);
        let settings = &project.services[target.services()[0]].settings.proxy;
        // A named container can only be found on an engine.
        let is_named = settings.container.is_some() && !self.has_engine;
        if settings.kind.as_deref() == Some("none") || is_named {
            return Ok(TargetProxies { may_have_another: is_named, ..TargetProxies::default() });
        }
        let docker = &self.request.docker;
        let running = observe::proxies_of(docker, project, target, &self.containers, &self.proxies)?;
        if !running.is_empty() {
            return Ok(TargetProxies { running, ..TargetProxies::default() });
        }
        let routes = |p: &&Arc<dyn Proxy>| services().any(|s| p.routes_to(&backend(project, s)));
        let configured: Vec<_> = self.configured_proxies.known().filter(routes).cloned().collect();
        let may_have_another =
            configured.is_empty() && services().any(|s| self.configured_proxies.may_route_to(s));
        Ok(TargetProxies { configured, may_have_another, ..TargetProxies::default() })
    }

    /// The readiness probe of a target, if it is unknown. Without the image its healthcheck is unknown.
    fn unknown_probe(&self, target: &Target) -> Option<Unknown> {
        let services = target.services().into_iter().map(|name| &self.project.services[name]);
        let is_unknown = |s: &&Service| {
            let is_own = s.healthcheck().is_some_and(|test| test != ["NONE"]) || s.settings.http.is_some();
            !is_own && !self.desired.images.contains_key(&s.name)
        };
        let service = services.into_iter().find(is_unknown)?;
        let reason = if self.has_engine { "the image is missing on this machine" } else { "no engine" };
        Some(Unknown::new("readiness probe", reason).of(&service.name))
    }

    /// Findings on a proxy. Each belongs to the service that its message names, else to the proxy.
    fn proxy_findings(
        &self,
        target: &Target,
        proxies: &TargetProxies,
        proxy: &dyn Proxy,
        shape: &RolloutShape,
    ) -> Result<Vec<Finding>> {
        // The findings of the file explain why a port cannot be led elsewhere.
        if matches!(proxy.place(), Place::Port { obstacle: Some(_), .. }) {
            return Ok(Vec::new());
        }
        let files = |path: &str| self.configured_proxies.mounted_file(proxy, path);
        let planned = Planned { files: &files, present: self.number_in_file(target) };
        let is_planned = proxies.running.is_empty();
        let mut audit = proxy.audit(shape, is_planned.then_some(&planned));
        if !is_planned && audit.refused.is_none() {
            let (answers, changes) = converge::patches(&self.request.docker, proxy, shape)?;
            audit = audit.and(|| changes.map(|_| proxy.losses(&answers, shape)));
        }
        let refused = audit.refused.map(Finding::from).into_iter();
        let found = refused.chain(audit.advice).chain(audit.risks);
        let subject = |message: &str| {
            let named = target.services().into_iter().find(|s| message.contains(&format!("`{s}`")));
            named.map_or_else(|| Subject::Proxy(proxy.name()), |name| Subject::Service(name.into()))
        };
        let with_subject = |finding: Finding| {
            let subject = subject(&finding.message);
            finding.or_of(|| subject)
        };
        Ok(found.map(with_subject).collect())
    }

    /// Number of instances of the target in the file.
    fn number_in_file(&self, target: &Target) -> usize {
        let count = |s: &str| self.project.services[s].replicas().map_or(1, |n| n as usize);
        target.services().into_iter().map(count).max().unwrap_or(1)
    }

    /// Number of instances after a deploy: the number in the file, else the number of running instances, else one.
    fn desired_number(&self, name: &str) -> usize {
        let in_file = self.project.services[name].replicas().map(|n| n as usize);
        in_file.unwrap_or(self.running_count(name)).max(1)
    }

    fn largest_number(&self, target: &Target) -> usize {
        target.services().into_iter().map(|s| self.desired_number(s)).max().unwrap_or(1)
    }

    /// Plan of a deploy that replaces all instances. The running sides of a pair count as active.
    fn plan(&self, target: &Target, proxies: &TargetProxies) -> Result<Plan, Vec<Finding>> {
        let proxied = !proxies.is_none();
        let sides = target.services();
        let running: Vec<&str> = sides.iter().copied().filter(|s| self.running_count(s) > 0).collect();
        let both_serve = running.len() == 2;
        let desired = |name: &str| {
            let service = &self.project.services[name];
            desired::desired_service(service, &service.update, self.desired_number(name), proxied)
        };
        let strategy = desired::strategy(self.project, target, both_serve, &desired, &|desired| {
            self.bridge(&desired.service, proxies)
        });
        let active = if running.is_empty() { vec![sides[0]] } else { running };
        let instances = |s: &str| {
            let name = s.to_string();
            (1..=self.desired_number(s)).map(move |n| serving_instance(&name, n))
        };
        let instances = active.into_iter().flat_map(instances).collect();
        plan::plan(&strategy, &Observed { instances, proxied }).map_err(|refused| vec![refused.into()])
    }

    /// Bridge of a service, if its only instance has to be replaced by itself. Without an engine, the engine counts as able.
    fn bridge(&self, name: &str, proxies: &TargetProxies) -> Option<Bridge> {
        let service = &self.project.services[name];
        let can_help = || !self.has_engine || matches!(self.request.docker.helper_support(), Ok(Ok(())));
        desired::bridge(service, &service.update, self.desired_number(name), &proxies.all(), &can_help)
    }

    /// Wait of the requests of a target while its only instance is replaced.
    fn hold_state(&self, target: &Target, proxies: &TargetProxies) -> HoldState {
        let Target::Service(name) = target else { return HoldState::Unneeded };
        let service = &self.project.services[name];
        let is_wanted = !proxies.is_none()
            && self.desired_number(name) == 1
            && service.hold_cause(&service.update).is_some();
        match self.bridge(name, proxies) {
            Some(Bridge::Relay) => HoldState::Waits,
            _ if is_wanted => HoldState::Impossible,
            _ => HoldState::Unneeded,
        }
    }

    fn service_findings(
        &self,
        target: &Target,
        name: &str,
        proxies: &TargetProxies,
        signals: Option<(String, SignalMasks)>,
    ) -> Vec<Finding> {
        let service = &self.project.services[name];
        service::findings(&ServiceContext {
            hold: self.hold_state(target, proxies),
            answer_timeout: answer_timeout(&proxies.all(), &backend(self.project, service)),
            service,
            image: self.desired.images.get(name),
            proxy: proxies.presence(),
            requests_route: proxy::route_setting(&backend(self.project, service)).is_some(),
            has_clients: !service.fixed_ports().is_empty() || role::has_clients(self.project, service),
            listens: !service.exposed().is_empty(),
            has_engine: self.has_engine,
            instances: self.largest_number(target),
            signals,
            state_in_image: file::is_in_build_context(service, &self.state_dir)
                .then(|| self.state_dir.display().to_string()),
        })
    }

    /// The reaction of a service to its stop signal, if it is unknown.
    fn unknown_signals(&self, name: &str, is_unknown: bool) -> Option<Unknown> {
        match self.running_count(name) {
            0 => Some(Unknown::new("stop signal and memory", "no instance runs").of(name)),
            _ => is_unknown.then(|| {
                Unknown::new("stop signal", "not available from this machine or the image").of(name)
            }),
        }
    }

    /// Name and signal masks of the first running instance.
    fn signals(&self, service: &str) -> Result<Option<(String, SignalMasks)>> {
        let Some(instance) = self.running(service).next() else { return Ok(None) };
        if instance.has_init() {
            return Ok(Some((instance.name().to_string(), SignalMasks::of_init())));
        }
        let masks = |status: Option<String>| status.as_deref().and_then(SignalMasks::of_first_process);
        let masks = match masks(self.status_on_host(instance)) {
            Some(known) => Some(known),
            None => masks(self.request.docker.first_process_status(&instance.id)?),
        };
        Ok(masks.map(|masks| (instance.name().to_string(), masks)))
    }

    /// Status file in `/proc` of this machine, unless the engine is remote or in a virtual machine.
    fn status_on_host(&self, container: &Container) -> Option<String> {
        let is_here = !self.request.docker.engine_address().is_remote() && container.state.pid > 1;
        std::fs::read_to_string(format!("/proc/{}/status", container.state.pid)).ok().filter(|_| is_here)
    }

    fn verdict_row(&self, target: &Target, proxies: &TargetProxies) -> VerdictRow {
        let services: Vec<String> = target.services().into_iter().map(String::from).collect();
        let service = &self.project.services[&services[0]];
        let count = match services.iter().map(|s| self.running_count(s)).sum() {
            0 if !self.has_engine => "state unknown".to_string(),
            0 => "not started".to_string(),
            1 => "1 instance".to_string(),
            n => format!("{n} instances"),
        };
        let parts = [Some(count), Some(self.way_to(service, proxies)), self.order_of(target, proxies)];
        VerdictRow {
            name: target.name().into(),
            services,
            verdict: Verdict::Yes,
            message: parts.into_iter().flatten().collect::<Vec<_>>().join(", "),
            proxies: proxies.all().iter().map(|p| p.name()).collect(),
        }
    }

    /// Order of a replacement, unless the new instance starts first.
    fn order_of(&self, target: &Target, proxies: &TargetProxies) -> Option<String> {
        let service = &self.project.services[target.services()[0]];
        let waits = self.hold_state(target, proxies) == HoldState::Waits;
        if let Some(cause) = service.hold_cause(&service.update).filter(|_| waits) {
            let hold = humantime::format_duration(service.settings.hold);
            return Some(format!("requests wait up to {hold} for the new version, because {cause}"));
        }
        let policy = desired::plan_policy(service, &service.update, !proxies.is_none());
        (policy.order == Order::StopFirst).then(|| "stops before it starts".into())
    }

    /// The way of requests to a service.
    fn way_to(&self, service: &Service, proxies: &TargetProxies) -> String {
        let image = self.desired.images.get(&service.name).map(|i| i.config.clone()).unwrap_or_default();
        let words = service.command_line(&image.entrypoint, &image.cmd);
        let place = |proxy: &Arc<dyn Proxy>| match proxy.place() {
            Place::Port { title, .. } => title.to_string(),
            _ => format!("behind {}", proxy.name()),
        };
        let places: Vec<String> = proxies.all().iter().map(place).collect();
        if !places.is_empty() {
            places.join(", ")
        } else if proxies.may_have_another {
            "behind a proxy with an unknown configuration".into()
        } else if self.role(service) == Role::Worker {
            service.scheduler(&words).unwrap_or("no route".into())
        } else {
            "no proxy in front".into()
        }
    }
}

/// Shortest time after which a proxy gives up on an answer, with its name.
fn answer_timeout(proxies: &[Arc<dyn Proxy>], backend: &Backend) -> Option<(String, Duration)> {
    let limits = proxies.iter().filter_map(|p| Some((p.name(), p.route_to(backend).answer_timeout?)));
    limits.min_by_key(|(_, limit)| *limit)
}

/// Findings on probes that prove little, or the lack of any.
fn weak_probes(reader: &TargetReader) -> Vec<Finding> {
    match reader.probes() {
        Ok(all) => all.iter().filter_map(|(name, probe)| readiness::weak(name, probe)).collect(),
        Err(error) => vec![error.into()],
    }
}

/// Old instance that serves, as input of the planner.
fn serving_instance(service: &str, number: usize) -> Instance {
    Instance {
        key: format!("{service}-{number}"),
        service: service.into(),
        generation: Generation::Old,
        state: InstanceState::Running,
        routed: true,
        ready: true,
        age: None,
        is_bridge: false,
        is_set_aside: false,
        has_failed: false,
    }
}
