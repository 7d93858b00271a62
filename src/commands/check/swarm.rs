//! Audit of a project for Swarm: losses by Swarm itself, and settings that it ignores.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;

use super::audit_report::{AuditReport, Unknown, Verdict, VerdictRow};
use crate::configuration::Configuration;
use crate::docker::inspect::Image;
use crate::error::Error;
use crate::finding::Finding;
use crate::model::args::CheckArgs;
use crate::model::{ConfigError, Project, Service};
use crate::preflight::service::{self, HoldState, ProxyPresence, ServiceContext};
use crate::preflight::versions;
use crate::swarm::audit;
use crate::swarm::placement::LocalImage;
use crate::swarm::stack_file::{StackFile, StackOverrides};

/// Rules that apply on Swarm as well. Swarm restarts tasks by default, and has an update order of its own.
const SWARM_RULES: [&str; 4] = ["ignores-stop-signal", "short-grace", "shared-volume", "moving-image"];

pub fn audit(
    request: &Configuration,
    args: &CheckArgs,
    engine: bool,
    report: &mut AuditReport,
) -> Result<()> {
    let (docker, project) = (&request.docker, &request.project);
    let overrides = StackOverrides { services: args.services.clone(), ..StackOverrides::default() };
    let text = request.snapshot.text();
    let mut file = StackFile::from_project(&text, &request.source, &overrides).map_err(Error::from)?;
    let nodes = if engine { docker.inspect_swarm_nodes().ok() } else { None };
    let image = |reference: &str| -> Result<Option<Image>> {
        if engine { docker.image(reference) } else { Ok(None) }
    };
    let risks = audit::risks(&project.name, &text, &file, nodes.as_ref(), &image)?;
    report.findings.extend(risks);
    let mut refusals = std::mem::take(&mut file.refusals);
    refusals.extend(audit::job_refusals(project));
    let folder = request.folder.canonicalize().unwrap_or_default();
    match &nodes {
        Some(nodes) => refusals.extend(nodes.refusals(&file, &local_images(&file, &image)?, &folder)),
        None => report.findings.extend(single_node_findings(project, &file, &folder)),
    }
    let refused = |error: ConfigError| named(&file.services, Error::from(error).into());
    report.findings.extend(refusals.into_iter().map(refused));
    report.findings.extend(
        file.notes.iter().map(|note| named(&file.services, Finding::note("swarm-ignores", note, ""))),
    );
    for name in &file.services {
        let service = &project.services[name];
        let found = service::findings(&service_context(service, image(&service.image)?.as_ref()));
        report.findings.extend(found.into_iter().filter(|f| SWARM_RULES.contains(&f.rule)));
        report.services.push(verdict_row(service));
        if image(&service.image)?.is_none() {
            let fact = Unknown::new("health check and command", "the image is missing on this machine");
            report.not_audited.push(fact.of(name));
        }
    }
    if engine && docker.swarm_id().is_err() {
        report.not_audited.push(Unknown::new("running services", "this engine is no manager of a Swarm"));
    }
    report.findings.extend(versions::findings(docker.compose_version()?.as_deref(), None));
    Ok(())
}

/// Facts for the rules. Swarm removes a task from its DNS, and stops it 2 s later with its requests in flight.
fn service_context<'a>(service: &'a Service, image: Option<&'a Image>) -> ServiceContext<'a> {
    ServiceContext {
        hold: HoldState::Unneeded,
        answer_timeout: None,
        service,
        image,
        proxy: ProxyPresence::NoProxy,
        requests_route: false,
        has_clients: false,
        listens: false,
        has_engine: false,
        instances: service.replicas().unwrap_or(1) as usize,
        signals: None,
        state_in_image: None,
    }
}

/// Finding of the service that its message names.
fn named(services: &[String], finding: Finding) -> Finding {
    let text = &finding.message;
    let is_named = |s: &&String| text.contains(&format!("services.{s}.")) || text.contains(&format!("`{s}`"));
    match services.iter().find(is_named) {
        Some(service) => finding.of_service(service),
        None => finding,
    }
}

/// Findings on files and images that other nodes lack, if the nodes are unknown.
fn single_node_findings(project: &Project, file: &StackFile, folder: &Path) -> Vec<Finding> {
    let binds = file.mounts_of(folder).map(|(service, source)| {
        let message =
            format!("`services.{service}.volumes`: `{source}` must exist on every node that may run it");
        let hint = "make a file a config (`configs`), or pin the service: `deploy.placement.constraints`";
        Finding::note("swarm-bind", message, hint).of_service(service)
    });
    let is_built = |name: &&String| project.services[*name].is_built() && !file.image(name).is_empty();
    let built = file.services.iter().filter(is_built).map(|name| {
        let message = format!(
            "`services.{name}.image`: with more than one node `{}` must be in a registry",
            file.image(name)
        );
        let hint = "name one in `image`; `compose-zd deploy --build --push` puts it there";
        Finding::note("swarm-registry", message, hint).of_service(name)
    });
    binds.chain(built).collect()
}

/// Services whose image was built on this machine.
fn local_images(file: &StackFile, image: &dyn Fn(&str) -> Result<Option<Image>>) -> Result<Vec<LocalImage>> {
    let mut all = Vec::new();
    for name in &file.services {
        if image(file.image(name))?.is_some_and(|i| i.repo_digests.is_empty()) {
            let (service, image) = (name.clone(), file.image(name).into());
            all.push(LocalImage { service, image, ran_on: BTreeSet::new() });
        }
    }
    Ok(all)
}

fn verdict_row(service: &Service) -> VerdictRow {
    let message = match service.replicas() {
        Some(1) | None => "1 task, replaced by Swarm".to_string(),
        Some(n) => format!("{n} tasks, replaced by Swarm"),
    };
    VerdictRow {
        name: service.name.clone(),
        services: vec![service.name.clone()],
        verdict: Verdict::Yes,
        message,
        proxies: Vec::new(),
    }
}
