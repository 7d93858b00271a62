//! A project for Swarm: what Swarm itself loses, and what it does not obey.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;

use crate::check::service::{self, ProxyPresence, ServiceContext};
use crate::check::{AuditReport, Finding, Scope, Verdict, VerdictRow, version};
use crate::cli::CheckArgs;
use crate::deploy::request::Request;
use crate::deploy::swarm_deploy;
use crate::docker::inspect::Image;
use crate::error::Error;
use crate::model::{ConfigError, Project, Service};
use crate::swarm::convert::folder_mounts;
use crate::swarm::placement::LocalImage;
use crate::swarm::stack_file::{StackFile, StackOverrides};

/// Rules that hold under Swarm, too. It restarts tasks unless it is told otherwise, and has orders of its own.
const SWARM_RULES: [&str; 4] = ["ignores-stop-signal", "short-grace", "shared-volume", "moving-image"];

pub fn audit(request: &Request, args: &CheckArgs, engine: bool, sheet: &mut AuditReport) -> Result<()> {
    let (docker, project) = (&request.docker, &request.project);
    let asks = StackOverrides { services: args.services.clone(), ..StackOverrides::default() };
    let text = request.snapshot.text();
    let mut file = StackFile::from_project(&text, &request.source, &asks).map_err(Error::from)?;
    let nodes = if engine { docker.cluster_nodes().ok() } else { None };
    let image = |reference: &str| -> Result<Option<Image>> {
        if engine { docker.image(reference) } else { Ok(None) }
    };
    for (name, loss) in swarm_deploy::risks(&project.name, &text, &file, nodes.as_ref(), &image)? {
        sheet.findings.push(Finding::from_risk(Scope::service(&name), loss));
    }
    let mut refusals = std::mem::take(&mut file.refusals);
    refusals.extend(swarm_deploy::refuse_one_shots(project));
    if let Some(nodes) = &nodes {
        let folder = request.folder.canonicalize().unwrap_or_default();
        refusals.extend(nodes.refusals(&file, &local_images(&file, &image)?, &folder));
    }
    if nodes.is_none() {
        let folder = request.folder.canonicalize().unwrap_or_default();
        sheet.findings.extend(single_node_findings(project, &file, &folder));
    }
    let refused = |wrong: ConfigError| {
        let about = scope_of(&file.services, &wrong.message);
        Finding::refused(about, Error::from(wrong))
    };
    sheet.findings.extend(refusals.into_iter().map(refused));
    sheet.findings.extend(file.notes.iter().map(|note| ignored_key(&file.services, note)));
    for name in &file.services {
        let service = &project.services[name];
        let found = service::findings(&service_context(service, image(&service.image)?.as_ref()));
        sheet.findings.extend(found.into_iter().filter(|f| SWARM_RULES.contains(&f.rule)));
        sheet.services.push(verdict_row(service));
        if image(&service.image)?.is_none() {
            let why = "its image is not here, and may bring a health check and a command along";
            sheet.not_audited.push(format!("`{name}` by its image: {why}"));
        }
    }
    if engine && docker.cluster().is_err() {
        sheet.not_audited.push("what runs: this engine is no manager of a Swarm".into());
    }
    sheet.findings.extend(version::findings(docker.compose_version()?.as_deref(), None));
    Ok(())
}

/// Swarm takes a task out of its DNS, and stops it 2 s later, whatever it still answers.
fn service_context<'a>(service: &'a Service, image: Option<&'a Image>) -> ServiceContext<'a> {
    ServiceContext {
        service,
        image,
        proxy: ProxyPresence::NoProxy,
        requests_route: false,
        has_clients: false,
        listens: false,
        has_engine: false,
        instances: service.replicas.unwrap_or(1) as usize,
        signals: None,
        state_in_image: None,
    }
}

fn ignored_key(services: &[String], note: &str) -> Finding {
    Finding::note("swarm-ignores", scope_of(services, note), note, "")
}

fn scope_of(services: &[String], text: &str) -> Scope {
    let named = |s: &&String| text.contains(&format!("services.{s}.")) || text.contains(&format!("`{s}`"));
    services.iter().find(named).map_or_else(Scope::default, |s| Scope::service(s))
}

/// What other nodes will not have, as long as it is not known whether there are any.
fn single_node_findings(project: &Project, file: &StackFile, folder: &Path) -> Vec<Finding> {
    let binds = folder_mounts(file, folder).into_iter().map(|(service, source)| {
        let says =
            format!("`services.{service}.volumes`: `{source}` has to be on every node that may run it");
        let fix = "make a file a config (`configs`), or pin the service: `deploy.placement.constraints`";
        Finding::note("swarm-bind", Scope::service(&service), says, fix)
    });
    let is_built = |name: &&String| project.services[*name].builds && !file.image(name).is_empty();
    let built = file.services.iter().filter(is_built).map(|name| {
        let says = format!(
            "`services.{name}.image`: with more than one node `{}` has to be in a registry",
            file.image(name)
        );
        let fix = "name one in `image`; `compose-zd deploy --build --push` puts it there";
        Finding::note("swarm-registry", Scope::service(name), says, fix)
    });
    binds.chain(built).collect()
}

/// The services whose image was built here, as far as is known.
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
    let says = match service.replicas {
        Some(1) | None => "1 task, replaced by Swarm".to_string(),
        Some(n) => format!("{n} tasks, replaced by Swarm"),
    };
    VerdictRow {
        name: service.name.clone(),
        services: vec![service.name.clone()],
        verdict: Verdict::Yes,
        message: says,
        proxies: Vec::new(),
    }
}
