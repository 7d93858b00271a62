//! `check`: reports what a deploy would lose, and changes nothing. Gathers facts from the Compose file and the running
//! containers; the findings are those of the preflight of a deploy.

mod audit_report;
mod configured_proxies;
mod host;
mod render;
mod role;
mod selection;
mod swarm;
mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use crate::configuration::{Configuration, connect};
use crate::docker::ENGINE_DENIED;
use crate::docker::inspect::{Container, Image};
use crate::error::Error;
use crate::finding::Finding;
use crate::jobs::{self, Jobs};
use crate::model::args::{CheckArgs, ComposeArgs};
use crate::model::{EngineKind, FlagLayers, Project, Service};
use crate::observe::{self, DesiredVersion};
use crate::plan::Plan;
use crate::preflight;
use crate::proxy::{Place, Proxy};
use crate::report::Report;
use crate::targets::{self, Target, backend, is_member};
use audit_report::{AuditReport, Unknown, Verdict, VerdictRow};
use configured_proxies::ConfiguredProxies;
use role::Role;
use selection::Selection;

/// Reports for every service whether a deploy would lose requests or data, each loss with its fix.
///
/// # Errors
/// A service that would lose something; a file that Compose refuses; an unknown service.
pub fn check(compose: &ComposeArgs, args: &CheckArgs, report: Report) -> Result<()> {
    let request = Configuration::load(&connect(compose, report)?, compose, FlagLayers::default(), report)?;
    if request.project.services.is_empty() {
        return Err(targets::no_services(&request.project, &request.source).into());
    }
    targets::from_names(&request.project, &args.services)?;
    jobs::require_known(&request.docker, &request.project, &request.source)?;
    let audit_report = audit(compose, args, &request)?.with_verdicts();
    if report.is_json() {
        report.print_document("check", &audit_report);
    } else {
        let page = render::Page::new(report.width(), args.quiet, args.verbose);
        page.lines(&audit_report).iter().for_each(|line| report.print_line(line));
    }
    if audit_report.ok { Ok(()) } else { Err(loss_error(&audit_report).into()) }
}

fn loss_error(audit_report: &AuditReport) -> Error {
    let names: Vec<String> = audit_report.losing_services().iter().map(|n| format!("`{n}`")).collect();
    let subject =
        if names.is_empty() { format!("project `{}`", audit_report.project) } else { names.join(", ") };
    Error::unchanged(format!("{subject}: a deploy would lose requests or data, or be refused"))
        .hint("follow the hint of each `no`, then run `compose-zd check` again")
}

fn audit(compose: &ComposeArgs, args: &CheckArgs, request: &Configuration) -> Result<AuditReport> {
    let (docker, project) = (&request.docker, &request.project);
    let mut report = AuditReport::new(&project.name);
    let containers = docker.containers().map_err(Error::from_error).inspect_err(|error| {
        let message = error.message.replace('\n', " ");
        report.not_audited.push(Unknown::new("running containers, images and memory", message));
        // Without an engine only the file is checked. An engine that denies access to this user refuses every deploy.
        report.findings.extend((error.rule == Some(&ENGINE_DENIED)).then(|| error.clone().into()));
    });
    let containers = match containers {
        // An engine that the user names has to answer: its name may be mistyped.
        Err(error) if compose.context.is_some() || compose.host.is_some() => return Err(error.into()),
        containers => containers.ok(),
    };
    let is_stack = match args.state.engine.or(project.engine) {
        Some(engine) => engine == EngineKind::Swarm,
        None => containers.is_some() && docker.is_stack(&project.name)?,
    };
    if is_stack {
        report.engine = "swarm";
        swarm::audit(request, args, containers.is_some(), &mut report)?;
        return Ok(report);
    }
    let facts = ProjectFacts::gather(compose, args, request, containers)?;
    report.not_audited.extend(facts.configured_proxies.unknown());
    facts.audit(&args.services, &mut report)?;
    Ok(report)
}

/// Facts about a project that Compose deploys.
struct ProjectFacts<'a> {
    request: &'a Configuration,
    project: &'a Project,
    has_engine: bool,
    /// All containers of the engine; none if no engine answers.
    containers: Vec<Container>,
    /// Images of the services of the project.
    desired: DesiredVersion,
    /// Proxies of the engine.
    proxies: Vec<Arc<dyn Proxy>>,
    /// Proxies in the Compose file that do not run.
    configured_proxies: ConfiguredProxies,
    /// Jobs that settings name.
    jobs: BTreeSet<String>,
    state_dir: PathBuf,
}

impl<'a> ProjectFacts<'a> {
    fn gather(
        compose: &ComposeArgs,
        args: &CheckArgs,
        request: &'a Configuration,
        containers: Option<Vec<Container>>,
    ) -> Result<ProjectFacts<'a>> {
        let project = &request.project;
        let has_engine = containers.is_some();
        let containers = containers.unwrap_or_default();
        let images = if has_engine { images(request)? } else { BTreeMap::new() };
        let mut facts = ProjectFacts {
            request,
            project,
            has_engine,
            proxies: observe::detect(&request.docker, project, &containers)?,
            containers,
            desired: DesiredVersion { images, ..DesiredVersion::default() },
            configured_proxies: ConfiguredProxies::default(),
            jobs: named_jobs(project)?,
            state_dir: compose.state_dir(args.state.state_dir.as_deref(), None),
        };
        let runs = |service: &str| facts.running_count(service) > 0;
        facts.configured_proxies = ConfiguredProxies::find(request, &facts.desired, &runs)?;
        facts.drop_proxied_ports();
        Ok(facts)
    }

    /// Removes the published ports of services that a proxy of the file routes to.
    fn drop_proxied_ports(&mut self) {
        let (project, configured) = (self.project, &self.configured_proxies);
        let is_proxied = |service: &str| {
            let backend = backend(project, &project.services[service]);
            configured.known().any(|p| p.routes_to(&backend))
        };
        self.proxies.retain(|proxy| match proxy.place() {
            Place::Port { service, .. } => !is_proxied(service),
            _ => true,
        });
    }

    /// Instances of a service, running or not.
    fn members(&self, service: &str) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(move |c| is_member(self.project, c, &[service]))
    }

    fn running(&self, service: &str) -> impl Iterator<Item = &Container> {
        self.members(service).filter(|c| c.is_running())
    }

    fn running_count(&self, service: &str) -> usize {
        self.running(service).count()
    }

    fn audit(&self, named: &[String], report: &mut AuditReport) -> Result<()> {
        let selection = selection::select(self, named)?;
        report.not_audited.extend(self.unknown_routes(&selection));
        let (mut demands, mut plans) = (Vec::new(), Vec::new());
        for target in &selection.audited {
            let others = selection.audited.iter().filter(|other| *other != target);
            let other_names = others.flat_map(|t| t.services()).flat_map(|s| self.names(s)).collect();
            let audit = self.audit_target(target, other_names, report)?;
            demands.push((audit.largest_service, audit.starting));
            plans.extend(audit.plan.map(|plan| (target, plan)));
        }
        report.findings.extend(self.collateral(&plans));
        report.services.extend(selection.skipped.into_iter().map(|(name, reason)| VerdictRow {
            services: vec![name.clone()],
            name,
            verdict: Verdict::LeftAlone,
            message: reason,
            proxies: Vec::new(),
        }));
        report.findings.extend(self.audit_host(demands)?);
        Ok(())
    }

    /// Built services that may be proxies: they do not run, and other services have no other way to get requests.
    fn unknown_routes(&self, selection: &Selection) -> Vec<Unknown> {
        let skipped = selection.skipped.iter().filter_map(|(name, _)| self.project.services.get(name));
        let inside: Vec<&Service> = skipped.filter(|s| self.role(s) == Role::Inside).collect();
        let leads_inside =
            |service: &&Service| inside.iter().any(|other| service.depends_on.contains_key(&other.name));
        let audited = selection.audited.iter().flat_map(Target::services).map(|s| &self.project.services[s]);
        let maybe =
            audited.filter(|s| s.is_built() && !s.ports.is_empty() && self.running_count(&s.name) == 0);
        let unknown = |s: &Service| Unknown::new("routes to other services", "no instance runs").of(&s.name);
        maybe.filter(leads_inside).map(unknown).collect()
    }

    /// All DNS names of a service and of its containers.
    fn names(&self, service: &str) -> Vec<String> {
        let containers = self.members(service).flat_map(Container::names);
        self.project.services[service].names.iter().cloned().chain(containers).collect()
    }

    /// Containers that Compose would stop to create the new instances. One dry run tries all targets with local images.
    /// Only if Compose would stop something or refuses, each target gets a dry run.
    fn collateral(&self, plans: &[(&Target, Plan)]) -> Vec<Finding> {
        let docker = &self.request.docker;
        let is_local = |s: &&str| self.running_count(s) > 0 && self.desired.images.contains_key(*s);
        let local = || plans.iter().filter(|(target, _)| target.services().iter().all(is_local));
        let totals: Vec<_> = local().flat_map(|(_, plan)| plan.totals()).collect();
        let is_named = |(s, _): &(String, usize)| self.project.services[s].container_name.is_some();
        let named = totals.iter().any(is_named);
        if totals.is_empty() || !named && docker.collateral_of_all(&totals).is_ok_and(|lost| lost.is_empty())
        {
            return Vec::new();
        }
        let finding = |(target, plan): &(&Target, Plan)| {
            let collateral = preflight::collateral(docker, self.project, plan, &[]);
            let finding = collateral.unwrap_or_else(|error| Some(Error::from_error(error).into()))?;
            Some(finding.of_service(target.services()[0]))
        };
        local().filter_map(finding).collect()
    }
}

fn named_jobs(project: &Project) -> Result<BTreeSet<String>> {
    let all: Vec<String> = project.services.keys().cloned().collect();
    let jobs = Jobs::new(project, &targets::from_names(project, &all)?);
    Ok(jobs.all().into_iter().map(String::from).collect())
}

/// Images on this engine by service; a service whose image is missing is left out.
fn images(request: &Configuration) -> Result<BTreeMap<String, Image>> {
    let mut by_reference = BTreeMap::new();
    let mut images = BTreeMap::new();
    for (name, service) in &request.project.services {
        if !by_reference.contains_key(&service.image) {
            by_reference.insert(&service.image, request.docker.image(&service.image)?);
        }
        images.extend(by_reference[&service.image].clone().map(|image| (name.clone(), image)));
    }
    Ok(images)
}
