//! One target: how it runs, what its file, its plan, its readiness and its first process are like.

use std::sync::Arc;

use anyhow::Result;

use super::ProjectCheck;
use crate::check::service::{self, ProxyPresence, ServiceContext};
use crate::check::signals::SignalMasks;
use crate::check::{AuditReport, Finding, Scope, Verdict, VerdictRow};
use crate::deploy::desired;
use crate::deploy::observe::TargetReader;
use crate::deploy::serving::{self, NotReadyInstances, ServingInstance};
use crate::deploy::targets::{Target, backend};
use crate::docker::inspect::Container;
use crate::error::Error;
use crate::health::ReadinessProbe;
use crate::model::{Order, Service};
use crate::observed::{Generation, Instance, InstanceState, Observed};
use crate::plan::{self, DesiredService, Plan, Strategy};
use crate::preflight::{self, Surroundings};
use crate::proxy::{self, Proxy};

/// What is told of a target.
pub struct ServiceAudit {
    pub row: VerdictRow,
    /// Its services with how many run, and how many start beside them.
    pub memory_demands: Vec<(String, u64, u64)>,
    /// Of a deploy of everything, where there is one.
    pub plan: Option<Plan>,
}

/// The proxies in front of a target.
pub struct TargetProxies {
    pub running: Vec<Arc<dyn Proxy>>,
    /// By the file alone.
    pub configured: Vec<Arc<dyn Proxy>>,
    /// One whose configuration is not known may be in front.
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
        match self.all().iter().all(|p| p.steers()) {
            _ if self.is_none() => ProxyPresence::NoProxy,
            true => ProxyPresence::Drains,
            false => ProxyPresence::WatchedOnly,
        }
    }
}

impl ProjectCheck<'_> {
    /// `others` are judged with it: a deploy that names none replaces them together.
    pub fn audit_target(
        &self,
        target: &Target,
        others: &[&Target],
        sheet: &mut AuditReport,
    ) -> Result<ServiceAudit> {
        let found = &mut sheet.findings;
        let refused = |error: Error| Finding::refused(Scope::service(target.services()[0]), error);
        found.extend(
            preflight::file(self.project(), target)
                .into_iter()
                .map(|error| self.refused_for_service(target, error)),
        );
        if let Err(error) = self.runs_without_its_proxy(target) {
            found.push(refused(error));
        }
        let fronting = match self.proxies_of(target) {
            Ok(fronting) => fronting,
            Err(error) => {
                found.push(refused(Error::from_error(error)));
                TargetProxies { running: Vec::new(), configured: Vec::new(), may_have_another: true }
            }
        };
        let reader = TargetReader {
            docker: self.docker(),
            project: self.project(),
            wanted: &self.desired,
            target,
            proxies: fronting.all(),
        };
        self.audit_readiness(&reader, sheet);
        self.audit_serving(&reader, &fronting.running, sheet)?;
        let plan = self.plan(target, &fronting);
        let starting = match &plan {
            Ok(plan) => plan.extra_instances(),
            Err(_) => self.instances(target),
        };
        sheet.findings.extend(self.audit_surroundings(&reader, &fronting, starting)?);
        let plan = plan.map_err(|finding| sheet.findings.push(finding)).ok();
        let beside = others.iter().flat_map(|t| t.services()).flat_map(|s| self.names(s)).collect();
        self.audit_proxies(&reader, &fronting, (starting, beside), sheet)?;
        for name in target.services() {
            self.audit_service(&self.project().services[name], target, &fronting, sheet)?;
        }
        Ok(ServiceAudit {
            row: self.verdict_row(target, &fronting),
            memory_demands: self.memory_demands(target, starting),
            plan,
        })
    }

    /// What a deploy would be refused for, and say before, by what runs.
    fn audit_surroundings(
        &self,
        reader: &TargetReader,
        fronting: &TargetProxies,
        starting: usize,
    ) -> Result<Vec<Finding>> {
        if self.containers.is_none() {
            return Ok(Vec::new());
        }
        let found = preflight::engine(&Surroundings {
            reader,
            fronting: &fronting.running,
            proxies: &self.proxies,
            containers: self.containers(),
            extra_instances: starting,
        })?;
        let about = || Scope::service(reader.target.services()[0]);
        let finding = |found| match found {
            preflight::PreflightFinding::Refused(error) => self.refused_for_service(reader.target, error),
            preflight::PreflightFinding::Note(loss) => Finding::from_risk(about(), loss),
        };
        Ok(found.into_iter().map(finding).collect())
    }

    /// What Compose would stop to create the new instances. All that are made of what is here are tried at once; only where
    /// something would be stopped, or Compose refuses, each is asked about.
    pub fn collateral_findings(&self, plans: &[(&Target, Plan)]) -> Vec<Finding> {
        let is_here = |s: &&str| self.running(s) > 0 && self.desired.images.contains_key(*s);
        let asked: Vec<_> = plans.iter().filter(|(t, _)| t.services().iter().all(is_here)).collect();
        let totals: Vec<_> = asked.iter().flat_map(|(_, plan)| plan.totals()).collect();
        if totals.is_empty() || self.docker().collateral_of_all(&totals).is_ok_and(|lost| lost.is_empty()) {
            return Vec::new();
        }
        let of = |(target, plan): &&(&Target, Plan)| {
            let error = preflight::collateral(self.docker(), plan, &[]).err()?;
            Some(self.refused_for_service(target, Error::from_error(error)))
        };
        asked.iter().copied().filter_map(|one| of(&one)).collect()
    }

    /// A fault of the file names the side that it is about.
    fn refused_for_service(&self, target: &Target, error: Error) -> Finding {
        let named = target.services().into_iter().find(|s| error.message.contains(&format!("`{s}`")));
        Finding::refused(Scope::service(named.unwrap_or(target.services()[0])), error)
    }

    /// Before the first start nothing of it runs, and a proxy that is down is none to wonder at.
    fn runs_without_its_proxy(&self, target: &Target) -> Result<(), Error> {
        let runs = target.services().iter().any(|s| self.running(s) > 0);
        match runs {
            true => preflight::proxy_runs(self.project(), target, &self.proxies),
            false => Ok(()),
        }
    }

    /// Every name that Docker's DNS has for a service and for what runs of it.
    fn names(&self, service: &str) -> Vec<String> {
        let its = self.members(service).into_iter().flat_map(Container::names);
        self.project().services[service].names.iter().cloned().chain(its).collect()
    }

    fn running(&self, service: &str) -> usize {
        self.members(service).iter().filter(|c| c.is_running()).count()
    }

    /// How many there are going to be: as the file says, else as many as run, else one.
    fn desired_instances(&self, service: &Service) -> usize {
        let in_file = service.replicas.map(|n| n as usize);
        in_file.unwrap_or(self.running(&service.name)).max(1)
    }

    fn instances(&self, target: &Target) -> usize {
        let of = |s: &&str| self.desired_instances(&self.project().services[*s]);
        target.services().iter().map(of).max().unwrap_or(1)
    }

    /// How a new instance will be asked; what its image brings along is not known where that is not here.
    fn audit_readiness(&self, reader: &TargetReader, sheet: &mut AuditReport) {
        let unknown = |name: &&str| {
            let service = &self.project().services[*name];
            let told = service.healthcheck.is_some() || service.settings.http.is_some();
            !told && !self.desired.images.contains_key(*name)
        };
        let services = reader.target.services();
        if let Some(name) = services.iter().find(|n| unknown(n)) {
            let image = &self.project().services[*name].image;
            let why = if self.containers.is_some() {
                format!("image {image} is not here")
            } else {
                "no engine".into()
            };
            sheet
                .not_audited
                .push(format!("whether anything tells that a new instance of `{name}` is ready: {why}"));
            return;
        }
        match reader.probes() {
            Ok(probes) => {
                sheet.findings.extend(probes.iter().filter_map(|(name, probe)| weak_readiness(name, probe)))
            }
            Err(error) => sheet.findings.push(self.refused_for_service(reader.target, error)),
        }
    }

    /// Whether what runs passes the probe of new instances.
    fn audit_serving(
        &self,
        reader: &TargetReader,
        proxies: &[Arc<dyn Proxy>],
        sheet: &mut AuditReport,
    ) -> Result<()> {
        let services = reader.target.services().into_iter();
        let running = services.flat_map(|name| self.members(name));
        // A service with nothing to ask has its finding already.
        let all = ServingInstance::select(reader, proxies, running).unwrap_or_default();
        let note = |found: NotReadyInstances| {
            let about = Scope::service(&found.service);
            Finding::note("serving-not-ready", about, found.to_string(), found.fix)
        };
        sheet.findings.extend(serving::not_ready(self.docker(), &all)?.into_iter().map(note));
        Ok(())
    }

    /// The plan of a deploy of everything, by the sides that run.
    fn plan(&self, target: &Target, fronting: &TargetProxies) -> Result<Plan, Finding> {
        let proxied = !fronting.is_none();
        let about = |error: Error| self.refused_for_service(target, error);
        let goal = |name: &str| {
            let service = &self.project().services[name];
            DesiredService {
                service: name.into(),
                wanted: self.desired_instances(service),
                pace: desired::pace(service, &service.update, proxied),
                spared: 0,
                clears_stopped: service.starts_by_compose,
                after_another: false,
                may_rest: !proxied,
            }
        };
        let sides = target.services();
        let runs = |s: &&&str| self.running(s) > 0;
        let active: Vec<&str> = match sides.iter().filter(runs).count() {
            0 => vec![sides[0]],
            _ => sides.iter().filter(runs).copied().collect(),
        };
        let strategy = match target {
            Target::Service(name) => Strategy::Scale(goal(name)),
            Target::Pair(pair) => {
                let mut both = [goal(&pair.sides[0]), goal(&pair.sides[1])];
                if active.len() == 2 {
                    preflight::active_sides(self.project(), target).map_err(about)?;
                    both.iter_mut().for_each(|g| {
                        desired::stop_first_for_fixed_ports(&self.project().services[&g.service], g)
                    });
                }
                Strategy::Pair(both)
            }
        };
        let count = |s: &&str| self.desired_instances(&self.project().services[*s]);
        let instances = active.iter().flat_map(|s| (0..count(s)).map(|n| instance(s, n))).collect();
        plan::plan(&strategy, &Observed { instances, proxied }).map_err(|e| about(Error::from(e)))
    }

    fn audit_service(
        &self,
        service: &Service,
        target: &Target,
        fronting: &TargetProxies,
        sheet: &mut AuditReport,
    ) -> Result<()> {
        let depends = |other: &Service| other.depends_on.contains_key(&service.name);
        let is_asked = !service.fixed_ports.is_empty() || self.project().services.values().any(depends);
        let signals = self.signals(service)?;
        let name = &service.name;
        match (self.running(name), &signals) {
            (0, _) => sheet.not_audited.push(format!(
                "whether `{name}` ends when it is told to, and how much memory it takes: nothing of it runs"
            )),
            (_, None) => sheet.not_audited.push(format!(
                "whether `{name}` ends when it is told to: neither this machine nor its image can tell"
            )),
            (_, Some(_)) => {}
        }
        let subject = ServiceContext {
            service,
            image: self.desired.images.get(&service.name),
            proxy: fronting.presence(),
            requests_route: proxy::route_setting(&backend(self.project(), service)).is_some(),
            has_clients: is_asked,
            listens: !service.exposed.is_empty(),
            has_engine: self.containers.is_some(),
            instances: self.instances(target),
            signals,
            state_in_image: preflight::is_in_build_context(service, &self.state_dir)
                .then(|| self.state_dir.display().to_string()),
        };
        sheet.findings.extend(service::findings(&subject));
        Ok(())
    }

    /// Of the first instance that runs, with its name.
    fn signals(&self, service: &Service) -> Result<Option<(String, SignalMasks)>> {
        let Some(one) = self.members(&service.name).into_iter().find(|c| c.is_running()) else {
            return Ok(None);
        };
        let read = match self.signals_from_proc(one) {
            Some(signals) => Some(signals),
            None => self
                .docker()
                .first_process_status(&one.id)?
                .as_deref()
                .and_then(SignalMasks::of_first_process),
        };
        Ok(read.map(|signals| (one.name().to_string(), signals)))
    }

    /// Where the engine is on this machine, and not in a virtual one, its processes are here too.
    fn signals_from_proc(&self, container: &Container) -> Option<SignalMasks> {
        let near = !self.docker().engine_address().is_remote();
        let status = std::fs::read_to_string(format!("/proc/{}/status", container.state.pid)).ok();
        status.filter(|_| near && container.state.pid > 1).as_deref().and_then(SignalMasks::of_first_process)
    }

    fn verdict_row(&self, target: &Target, fronting: &TargetProxies) -> VerdictRow {
        let names: Vec<String> = fronting.all().iter().map(|p| p.name()).collect();
        let running: usize = target.services().iter().map(|s| self.running(s)).sum();
        let count = match running {
            0 => "not started".to_string(),
            1 => "1 instance".to_string(),
            n => format!("{n} instances"),
        };
        let place = match names.is_empty() {
            false => format!("behind {}", names.join(", ")),
            true if fronting.may_have_another => "behind a proxy that is not known yet".into(),
            true => "no proxy in front".into(),
        };
        let service = &self.project().services[target.services()[0]];
        let rests = desired::stops_first_for_volume(service, &service.update, !fronting.is_none());
        let order = service.update.order == Some(Order::StopFirst) || rests;
        VerdictRow {
            name: target.name().into(),
            services: target.services().iter().map(|s| s.to_string()).collect(),
            verdict: Verdict::Yes,
            message: format!("{count}, {place}{}", if order { ", stops before it starts" } else { "" }),
            proxies: names,
        }
    }

    fn memory_demands(&self, target: &Target, starting: usize) -> Vec<(String, u64, u64)> {
        let services = target.services();
        // Of a pair the idle side starts; which one that is makes no difference to what it takes.
        let one = services.iter().max_by_key(|s| self.running(s)).copied().unwrap_or_default();
        vec![(one.to_string(), self.running(one) as u64, starting as u64)]
    }
}

/// What is not asked much of before it gets requests.
fn weak_readiness(service: &str, probe: &ReadinessProbe) -> Option<Finding> {
    let fix = format!("set `services.{service}.healthcheck`, or `services.{service}.x-zd.health.path`");
    let about = Scope::service(service);
    match probe {
        ReadinessProbe::Http(http) if probe.is_weak() => {
            let says = format!(
                "`{service}` has no healthcheck and no `x-zd.health`: any answer below 500 to `GET {}` at port {} counts as \
                 ready",
                http.health.path, http.port
            );
            Some(Finding::note("weak-readiness", about, says, fix))
        }
        ReadinessProbe::Connect(port) => {
            let says = format!(
                "`{service}` has no healthcheck, and its proxy does not speak HTTP to it: a connection to port {port} counts as \
                 ready"
            );
            Some(Finding::note("weak-readiness", about, says, fix))
        }
        ReadinessProbe::Running => {
            let says =
                format!("nothing tells whether a new instance of `{service}` is ready: it only has to run");
            Some(Finding::note("no-readiness", about, says, fix))
        }
        ReadinessProbe::Http(_) | ReadinessProbe::Healthcheck(_) => None,
    }
}

/// One that serves, as a deploy will find it.
fn instance(service: &str, number: usize) -> Instance {
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
