//! What a deploy would lose, told without changing anything: gathers the facts, by the file and by what runs, asks the
//! rules (`check.rs`) and those that a deploy itself goes by, and reports.

mod configured_proxies;
mod host_audit;
mod proxy_audit;
mod selection;
mod service_audit;
mod swarm_audit;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;

use super::observe::{self, DesiredVersion};
use super::request::Request;
use super::settings;
use super::targets::{self, Target};
use crate::check::{AuditReport, Finding, Scope, Verdict, VerdictRow};
use crate::cli::{CheckArgs, ComposeArgs};
use crate::docker::inspect::Container;
use crate::docker::{Docker, ENGINE_DENIED};
use crate::error::Error;
use crate::model::{EngineKind, FlagLayers, Project};
use crate::proxy::Proxy;
use crate::report::Report;
use configured_proxies::ConfiguredProxies;

/// Tells of every service whether a deploy would lose anything, and the fix where it would.
///
/// # Errors
/// A service that would lose something; a file that Compose refuses; a service that is not there.
pub fn check(compose: &ComposeArgs, args: &CheckArgs, report: Report) -> Result<()> {
    let request = Request::from_file(compose, FlagLayers::default(), report)?;
    refuse_empty(&request)?;
    check_names(&request.project, &args.services)?;
    let sheet = audit(compose, args, &request)?.with_verdicts();
    match report.is_json() {
        true => report.document(&sheet),
        false => sheet.lines(report.width(), args.quiet).iter().for_each(|line| report.print_line(line)),
    }
    match sheet.ok {
        true => Ok(()),
        false => Err(loss_error(&sheet).into()),
    }
}

fn refuse_empty(request: &Request) -> Result<(), Error> {
    match request.project.services.is_empty() {
        false => Ok(()),
        true => Err(Error::usage(format!("{}: the project has no services", request.source))
            .hint("write them under `services`; those of a profile need `--profile`")),
    }
}

fn check_names(project: &Project, named: &[String]) -> Result<(), Error> {
    let is_known = |n: &&String| project.pair(n).is_some() || project.services.contains_key(*n);
    match named.iter().find(|n| !is_known(n)) {
        Some(name) => Err(asked::unknown(project, name, None)),
        None => Ok(()),
    }
}

fn loss_error(sheet: &AuditReport) -> Error {
    let names: Vec<String> = sheet.losing_services().iter().map(|n| format!("`{n}`")).collect();
    let what = match names.is_empty() {
        true => format!("project `{}`", sheet.project),
        false => names.join(", "),
    };
    Error::unchanged(format!("{what}: a deploy would lose requests or data, or be refused"))
        .hint("each `no` has its fix; `compose-zd check` again shows whether it is gone")
}

fn audit(compose: &ComposeArgs, args: &CheckArgs, request: &Request) -> Result<AuditReport> {
    let (docker, project) = (&request.docker, &request.project);
    let mut sheet = AuditReport {
        project: project.name.clone(),
        engine: "compose",
        ok: true,
        services: Vec::new(),
        findings: Vec::new(),
        not_audited: Vec::new(),
    };
    let containers = docker.containers().map_err(Error::from_error);
    if let Err(error) = &containers {
        sheet.not_audited.push(format!(
            "what runs, the images, and how much memory there is: {}",
            error.message.replace('\n', " ")
        ));
        // Without an engine a project is judged by its file; one that this user may not talk to refuses every deploy.
        if error.rule.is_some_and(|rule| *rule == ENGINE_DENIED) {
            sheet.findings.push(Finding::refused(Scope::default(), error.clone()));
        }
    }
    let containers = containers.ok();
    let asked = settings::engine(args.engine.as_deref(), project.engine);
    let is_stack = match (asked, &containers) {
        (Some(engine), _) => engine == EngineKind::Swarm,
        (None, Some(_)) => docker.is_stack(&project.name)?,
        (None, None) => false,
    };
    if is_stack {
        sheet.engine = "swarm";
        swarm_audit::audit(request, args, containers.is_some(), &mut sheet)?;
        return Ok(sheet);
    }
    let checker = ProjectCheck::new(compose, args, request, containers, &mut sheet)?;
    checker.audit(&args.services, &mut sheet)?;
    Ok(sheet)
}

/// What is known of a project for Compose.
struct ProjectCheck<'a> {
    request: &'a Request,
    /// All of the engine's; none where there is no engine.
    containers: Option<Vec<Container>>,
    /// The images of the project's services.
    desired: DesiredVersion,
    /// Those of the engine.
    proxies: Vec<Arc<dyn Proxy>>,
    /// Those of the file that do not run.
    configured_proxies: ConfiguredProxies,
    state_dir: PathBuf,
}

impl<'a> ProjectCheck<'a> {
    fn new(
        compose: &ComposeArgs,
        args: &CheckArgs,
        request: &'a Request,
        containers: Option<Vec<Container>>,
        sheet: &mut AuditReport,
    ) -> Result<ProjectCheck<'a>> {
        let (docker, project) = (&request.docker, &request.project);
        let images = match containers.is_some() {
            true => images(docker, project)?,
            false => BTreeMap::new(),
        };
        let wanted = DesiredVersion { images, ..DesiredVersion::default() };
        let proxies = match &containers {
            Some(all) => observe::detect(docker, project, all)?,
            None => Vec::new(),
        };
        let runs = |service: &str| {
            let its = containers.iter().flatten().filter(|c| observe::is_member(project, c, &[service]));
            its.into_iter().any(Container::is_running)
        };
        let planned = configured_proxies::find(request, &wanted, &runs)?;
        sheet.not_audited.extend(planned.notes());
        let state_dir = asked::state_dir(compose, args.state_dir.as_deref(), None);
        Ok(ProjectCheck {
            request,
            containers,
            desired: wanted,
            proxies,
            configured_proxies: planned,
            state_dir,
        })
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

    /// The instances of a service, running or not.
    fn members(&self, service: &str) -> Vec<&Container> {
        self.containers().iter().filter(|c| observe::is_member(self.project(), c, &[service])).collect()
    }

    fn audit(&self, named: &[String], sheet: &mut AuditReport) -> Result<()> {
        let choice = selection::select(self, named)?;
        let (mut crowds, mut plans) = (Vec::new(), Vec::new());
        for target in &choice.audited {
            let others = choice.audited.iter().filter(|other| *other != target);
            let judged = self.audit_target(target, &others.collect::<Vec<_>>(), sheet)?;
            sheet.services.push(judged.row);
            crowds.extend(judged.memory_demands);
            plans.extend(judged.plan.map(|plan| (target, plan)));
        }
        sheet.findings.extend(self.collateral_findings(&plans));
        sheet.services.extend(choice.skipped.into_iter().map(|(name, why)| VerdictRow {
            services: vec![name.clone()],
            name,
            verdict: Verdict::LeftAlone,
            message: why,
            proxies: Vec::new(),
        }));
        sheet.findings.extend(self.audit_host(crowds)?);
        Ok(())
    }
}

/// The local images of the services, by service; one that is not here is left out.
fn images(docker: &Docker, project: &Project) -> Result<BTreeMap<String, crate::docker::inspect::Image>> {
    let mut known = BTreeMap::new();
    for service in project.services.values() {
        if !known.contains_key(&service.image) {
            known.insert(service.image.clone(), docker.image(&service.image)?);
        }
    }
    let its = |name: &String| known[&project.services[name].image].clone();
    Ok(project.services.keys().filter_map(|name| Some((name.clone(), its(name)?))).collect())
}

/// What is found of a service or a proxy is about the one that it names.
fn scope_of(target: &Target, proxy: &dyn Proxy, text: &str) -> Scope {
    let named = target.services().into_iter().find(|s| text.contains(&format!("`{s}`")));
    named.map_or_else(|| Scope::proxy(&proxy.name()), Scope::service)
}

/// What a deploy of the target would be refused for by a proxy.
fn refused_by_proxy(target: &Target, proxy: &dyn Proxy, error: Error) -> Finding {
    Finding::refused(scope_of(target, proxy, &error.message), error)
}
