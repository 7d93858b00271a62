//! `check`: reports what a deploy would lose, and changes nothing. Collects facts from the Compose file and the
//! running containers. Applies the rules of `src/check/` and the preflight checks of a deploy.

mod configured_proxies;
mod host_audit;
mod proxy_audit;
mod selection;
mod swarm_audit;
mod target_audit;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use crate::check::{AuditReport, Verdict, VerdictRow};
use crate::configuration::{Configuration, connect};
use crate::docker::inspect::Container;
use crate::docker::{Docker, ENGINE_DENIED};
use crate::error::Error;
use crate::model::args::{CheckArgs, ComposeArgs};
use crate::model::{EngineKind, FlagLayers, Project};
use crate::observe::{self, DesiredVersion};
use crate::proxy::Proxy;
use crate::report::Report;
use crate::targets;
use configured_proxies::ConfiguredProxies;

/// Reports for every service whether a deploy would lose requests or data, each loss with its fix.
///
/// # Errors
/// A service that would lose something; a file that Compose refuses; an unknown service.
pub fn check(compose: &ComposeArgs, args: &CheckArgs, report: Report) -> Result<()> {
    let request = Configuration::load(&connect(compose, report)?, compose, FlagLayers::default(), report)?;
    refuse_empty(&request)?;
    check_names(&request.project, &args.services)?;
    let audit_report = audit(compose, args, &request)?.with_verdicts();
    if report.is_json() {
        report.print_document(&audit_report);
    } else {
        audit_report.lines(report.width(), args.quiet).iter().for_each(|line| report.print_line(line));
    }
    if audit_report.ok { Ok(()) } else { Err(loss_error(&audit_report).into()) }
}

fn refuse_empty(request: &Configuration) -> Result<(), Error> {
    if !request.project.services.is_empty() {
        return Ok(());
    }
    Err(Error::usage(format!("{}: the project has no services", request.source))
        .hint("add them under `services`; services of a profile need `--profile`"))
}

fn check_names(project: &Project, named: &[String]) -> Result<(), Error> {
    let is_known = |n: &&String| project.pair(n).is_some() || project.services.contains_key(*n);
    match named.iter().find(|n| !is_known(n)) {
        Some(name) => Err(targets::unknown_service(project, name, None)),
        None => Ok(()),
    }
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
    let mut audit_report = AuditReport {
        project: project.name.clone(),
        engine: "compose",
        ok: true,
        services: Vec::new(),
        findings: Vec::new(),
        not_audited: Vec::new(),
    };
    let containers = docker.containers().map_err(Error::from_error);
    if let Err(error) = &containers {
        audit_report
            .not_audited
            .push(format!("running containers, images and memory: {}", error.message.replace('\n', " ")));
        // Without an engine only the file is checked. An engine that denies access to this user refuses every deploy.
        if error.rule.is_some_and(|rule| *rule == ENGINE_DENIED) {
            audit_report.findings.push(error.clone().into());
        }
    }
    let containers = containers.ok();
    let requested = args.state.engine.or(project.engine);
    let is_stack = match (requested, &containers) {
        (Some(engine), _) => engine == EngineKind::Swarm,
        (None, Some(_)) => docker.is_stack(&project.name)?,
        (None, None) => false,
    };
    if is_stack {
        audit_report.engine = "swarm";
        swarm_audit::audit(request, args, containers.is_some(), &mut audit_report)?;
        return Ok(audit_report);
    }
    let checker = ProjectCheck::new(compose, args, request, containers, &mut audit_report)?;
    checker.audit(&args.services, &mut audit_report)?;
    Ok(audit_report)
}

/// Facts about a project that Compose deploys.
struct ProjectCheck<'a> {
    request: &'a Configuration,
    /// All containers of the engine; `None` if no engine answers.
    containers: Option<Vec<Container>>,
    /// Images of the services of the project.
    desired: DesiredVersion,
    /// Running proxies of the engine.
    proxies: Vec<Arc<dyn Proxy>>,
    /// Proxies in the Compose file that do not run.
    configured_proxies: ConfiguredProxies,
    state_dir: PathBuf,
}

impl<'a> ProjectCheck<'a> {
    fn new(
        compose: &ComposeArgs,
        args: &CheckArgs,
        request: &'a Configuration,
        containers: Option<Vec<Container>>,
        audit_report: &mut AuditReport,
    ) -> Result<ProjectCheck<'a>> {
        let (docker, project) = (&request.docker, &request.project);
        let images = if containers.is_some() { images(docker, project)? } else { BTreeMap::new() };
        let desired = DesiredVersion { images, ..DesiredVersion::default() };
        let proxies = match &containers {
            Some(all) => observe::detect(docker, project, all)?,
            None => Vec::new(),
        };
        let runs = |service: &str| {
            let mut members =
                containers.iter().flatten().filter(|c| observe::is_member(project, c, &[service]));
            members.any(Container::is_running)
        };
        let configured_proxies = configured_proxies::find(request, &desired, &runs)?;
        audit_report.not_audited.extend(configured_proxies.notes());
        let state_dir = compose.state_dir(args.state.state_dir.as_deref(), None);
        Ok(ProjectCheck { request, containers, desired, proxies, configured_proxies, state_dir })
    }

    fn docker(&self) -> &Docker {
        &self.request.docker
    }

    fn project(&self) -> &Project {
        &self.request.project
    }

    fn containers(&self) -> &[Container] {
        self.containers.as_deref().unwrap_or_default()
    }

    /// Instances of a service, running or not.
    fn members(&self, service: &str) -> Vec<&Container> {
        self.containers().iter().filter(|c| observe::is_member(self.project(), c, &[service])).collect()
    }

    fn audit(&self, named: &[String], audit_report: &mut AuditReport) -> Result<()> {
        let selection = selection::select(self, named)?;
        let (mut demands, mut plans) = (Vec::new(), Vec::new());
        for target in &selection.audited {
            let others = selection.audited.iter().filter(|other| *other != target);
            let audit = self.audit_target(target, &others.collect::<Vec<_>>(), audit_report)?;
            audit_report.services.push(audit.row);
            demands.extend(audit.memory_demands);
            plans.extend(audit.plan.map(|plan| (target, plan)));
        }
        audit_report.findings.extend(self.collateral_findings(&plans));
        audit_report.services.extend(selection.skipped.into_iter().map(|(name, reason)| VerdictRow {
            services: vec![name.clone()],
            name,
            verdict: Verdict::LeftAlone,
            message: reason,
            proxies: Vec::new(),
        }));
        audit_report.findings.extend(self.audit_host(demands)?);
        Ok(())
    }
}

/// Images on this engine by service; a service whose image is missing is left out.
fn images(docker: &Docker, project: &Project) -> Result<BTreeMap<String, crate::docker::inspect::Image>> {
    let mut by_reference = BTreeMap::new();
    for service in project.services.values() {
        if !by_reference.contains_key(&service.image) {
            by_reference.insert(service.image.clone(), docker.image(&service.image)?);
        }
    }
    let image_of = |name: &String| by_reference[&project.services[name].image].clone();
    Ok(project.services.keys().filter_map(|name| Some((name.clone(), image_of(name)?))).collect())
}
