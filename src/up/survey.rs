//! Facts on a project: what runs, what the file says, and what Compose would do to networks and volumes.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::Result;

use crate::configuration::Configuration;
use crate::context::Context;
use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::engine::compose::import_running::Importer;
use crate::engine::compose::prepare::recorded_version;
use crate::engine::compose::proxy_files::{ProxyReload, proxies_in};
use crate::error::Error;
use crate::finding::Finding;
use crate::jobs::Jobs;
use crate::model::{Project, ResolvedProject, Service};
use crate::mounted_files::{self, FileChange, ProxyWay};
use crate::observe::{self, DesiredVersion};
use crate::preflight::file;
use crate::project_plan::{Role, TargetFacts, diff};
use crate::proxy::{self, Proxy};
use crate::report::{ImageChange, Warning};
use crate::request::Request;
use crate::targets::{self, Target, is_member};

/// Project as it runs, compared with its file.
pub struct Survey {
    pub facts: Vec<TargetFacts>,
    /// Containers of services that the file no longer has.
    pub orphans: Vec<Container>,
    /// Networks and volumes that Compose would recreate.
    pub refused: Vec<Finding>,
    /// Definitions of the running services, and those of them that are certain.
    pub running: (BTreeSet<String>, ResolvedProject),
    /// Proxies whose changed files a reload puts into effect.
    pub reloads: Vec<ProxyReload>,
    /// Proxies whose changed files only a new container has.
    pub recreated: Vec<ProxyReload>,
}

impl Survey {
    /// Compares these services with what runs; without names, all services of the file.
    pub fn new(ctx: &mut Context, config: &Configuration, named: &[String]) -> Result<Survey> {
        let Configuration { docker, project, .. } = config;
        let containers = docker.containers()?;
        let targets = select(project, named, &containers)?;
        let proxies = observe::detect(docker, project, &containers)?;
        let desired = desired_version(ctx, config, &targets)?;
        let reader = Reader { config, containers: &containers, proxies: &proxies, desired: &desired };
        let mut facts =
            targets.iter().map(|target| reader.facts(target)).collect::<Result<Vec<_>, Error>>()?;
        let unfinished = ctx.journal.in_progress.iter().filter(|rollout| !rollout.paused);
        let unfinished: BTreeSet<&String> = unfinished.flat_map(|rollout| &rollout.services).collect();
        for facts in &mut facts {
            facts.is_unfinished = facts.services.iter().any(|service| unfinished.contains(service))
                || reader.lacks_name(&facts.services);
        }
        let mut files = FileSurvey::default();
        for facts in &mut facts {
            files.add(&reader, facts)?;
        }
        let changes: Vec<FileChange> = files.reloads.iter().flat_map(|r| r.changes.clone()).collect();
        for facts in facts.iter_mut().filter(|facts| facts.running == 0) {
            facts.is_in_changed_file = mounted_files::mentions(&changes, &facts.services);
        }
        files.notes.iter().for_each(|note| ctx.report.warn(&Warning::Other(note.clone())));
        let running = reader.running_definitions(ctx, &facts)?;
        for facts in &mut facts {
            reader.compare(facts, &running);
        }
        let services: Vec<&str> = targets.iter().flat_map(Target::services).collect();
        let orphans = if named.is_empty() { orphans(docker, project, &containers)? } else { Vec::new() };
        let refused = recreated_objects(config, &services)?.into_iter().chain(files.missing).collect();
        Ok(Survey { facts, orphans, refused, running, reloads: files.reloads, recreated: files.recreated })
    }
}

impl Survey {
    /// Compares the services of a recorded release with what runs. Mounted files are the user's, so they do not count.
    pub fn of_release(ctx: &Context, request: &Request) -> Result<Survey> {
        let config = &request.config;
        let Configuration { docker, project, .. } = config;
        let containers = docker.containers()?;
        let mut targets = targets::from_names(project, &request.args.services)?;
        targets::sort_by_dependencies(project, &mut targets);
        let proxies = observe::detect(docker, project, &containers)?;
        let desired = recorded_version(request)?;
        let reader = Reader { config, containers: &containers, proxies: &proxies, desired: &desired };
        let mut facts =
            targets.iter().map(|target| reader.facts(target)).collect::<Result<Vec<_>, Error>>()?;
        let restored = request.restored();
        for facts in &mut facts {
            if let [service] = facts.services.as_slice() {
                facts.replicas = restored.get(service).map(|release| release.replicas as usize);
            }
        }
        let running = reader.running_definitions(ctx, &facts)?;
        for facts in &mut facts {
            reader.compare(facts, &running);
        }
        let removed: Vec<&str> = request.changes.removed.iter().map(String::as_str).collect();
        let orphans = containers.iter().filter(|c| is_member(project, c, &removed)).cloned().collect();
        let services: Vec<&str> = targets.iter().flat_map(Target::services).collect();
        let refused = if services.is_empty() { Vec::new() } else { recreated_objects(config, &services)? };
        let (reloads, recreated) = (Vec::new(), Vec::new());
        Ok(Survey { facts, orphans, refused, running, reloads, recreated })
    }
}

/// Targets of these names, with the dependencies that do not run; all targets without names. Dependencies first.
fn select(project: &Project, named: &[String], containers: &[Container]) -> Result<Vec<Target>, Error> {
    let names: Vec<String> = match named {
        [] => project.services.keys().cloned().collect(),
        named => {
            let chosen = targets::from_names(project, named)?;
            let services: Vec<&str> = chosen.iter().flat_map(Target::services).collect();
            let needs = services.iter().flat_map(|s| project.services[*s].needs(project));
            let runs = |s: &str| containers.iter().any(|c| c.is_running() && is_member(project, c, &[s]));
            let is_down = |s: &str| project.services.contains_key(s) && !runs(s);
            let down = needs.map(|(name, _)| name).filter(|name| is_down(name)).map(String::from);
            named.iter().cloned().chain(down.collect::<BTreeSet<_>>()).collect()
        }
    };
    let mut targets = targets::from_names(project, &names)?;
    targets::sort_by_dependencies(project, &mut targets);
    Ok(targets)
}

fn desired_version(ctx: &Context, config: &Configuration, targets: &[Target]) -> Result<DesiredVersion> {
    let mut desired = DesiredVersion::read(&config.docker, &config.project, targets, Default::default())?;
    desired.add_hashes(config.resolved_hashes()?);
    if config.may_have_label_files {
        desired.add_hashes(ctx.journal.hashes_of_same(&config.snapshot));
    }
    Ok(desired)
}

/// Findings for networks and volumes whose definition changed, and which Compose would recreate.
fn recreated_objects(config: &Configuration, services: &[&str]) -> Result<Vec<Finding>> {
    let finding = |(kind, name): (&'static str, String)| {
        let message = format!("the definition of {kind} {name} changed, and Compose would recreate it");
        match kind {
            "volume" => Finding::unchanged(
                "volume-changed",
                format!("{message}, without its data"),
                "give the new volume another name in the file and copy the data, or restore the definition",
            ),
            _ => Finding::unchanged(
                "network-changed",
                format!("{message}, which stops everything on it"),
                "give the new network another name in the file, so that both can exist; or take the downtime with \
                 `docker compose up --detach`",
            ),
        }
    };
    Ok(config.docker.changed_objects(services)?.into_iter().map(finding).collect())
}

/// Containers of services that no profile of the file has.
fn orphans(docker: &Docker, project: &Project, containers: &[Container]) -> Result<Vec<Container>> {
    let own = |c: &&Container| c.compose().is_some_and(|(name, _)| name == project.name);
    let unknown = |c: &&Container| c.compose().is_some_and(|(_, s)| !project.services.contains_key(s));
    let candidates: Vec<&Container> = containers.iter().filter(own).filter(unknown).collect();
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let known = docker.services_of_all_profiles()?;
    let is_orphan = |c: &&Container| c.compose().is_some_and(|(_, s)| !known.iter().any(|k| k == s));
    Ok(candidates.into_iter().filter(is_orphan).cloned().collect())
}

/// Mounted files and inline configs of all targets, as far as they changed.
#[derive(Default)]
struct FileSurvey {
    reloads: Vec<ProxyReload>,
    recreated: Vec<ProxyReload>,
    /// Files that are gone from the machine.
    missing: Vec<Finding>,
    notes: BTreeSet<String>,
}

impl FileSurvey {
    /// Adds the changed files of a target to its facts.
    fn add(&mut self, reader: &Reader, facts: &mut TargetFacts) -> Result<()> {
        let docker = &reader.config.docker;
        for service in &facts.services {
            let inline = reader.config.snapshot.inline_configs(service);
            let proxies: Vec<_> = proxies_in(reader.project(), reader.proxies, service).collect();
            for proxy in &proxies {
                let (report, way) = mounted_files::of_proxy(docker, proxy.as_ref(), &inline)?;
                let texts = report.changes.iter().map(ToString::to_string);
                let reload = ProxyReload { proxy: (*proxy).clone(), changes: report.changes.clone() };
                match way {
                    _ if report.has_missing_file() => {
                        self.missing.extend(texts.map(|text| missing_file(service, text)));
                    }
                    Some(ProxyWay::Recreate(why)) => {
                        facts.files.push(why);
                        self.recreated.push(reload);
                    }
                    Some(ProxyWay::Reload) => {
                        (facts.reloads, facts.files) = (true, texts.collect());
                        self.reloads.push(reload);
                    }
                    Some(ProxyWay::Watched) | None => {}
                }
                self.notes.extend(report.notes);
            }
            for container in reader.members(&[service]) {
                if proxies.iter().any(|proxy| proxy.is_in(container)) {
                    continue;
                }
                let report = mounted_files::of_instance(docker, container, &inline)?;
                let texts = report.changes.iter().map(ToString::to_string).collect::<Vec<_>>();
                if !report.has_missing_file() {
                    facts.files.extend(texts);
                    facts.files.dedup();
                } else {
                    self.missing.extend(texts.into_iter().map(|text| missing_file(service, text)));
                }
                self.notes.extend(report.notes);
            }
        }
        Ok(())
    }
}

/// Finding for a service whose mounted file is gone: Docker would give a new container an empty folder instead.
fn missing_file(service: &str, change: String) -> Finding {
    let message = format!("`{service}`: {change}, and a new container would have an empty folder there");
    Finding::unchanged(
        "mounted-file-missing",
        message,
        "restore the file, or remove the mount from the Compose file",
    )
    .of_service(service)
}

/// Reader of the facts on each target.
struct Reader<'a> {
    config: &'a Configuration,
    containers: &'a [Container],
    proxies: &'a [Arc<dyn Proxy>],
    desired: &'a DesiredVersion,
}

impl<'a> Reader<'a> {
    fn project(&self) -> &'a Project {
        &self.config.project
    }

    fn members(&self, services: &[&str]) -> Vec<&'a Container> {
        self.containers.iter().filter(|c| is_member(self.project(), c, services) && !c.is_bridge()).collect()
    }

    /// # Errors
    /// A refusal that is an error in the file.
    fn facts(&self, target: &Target) -> Result<TargetFacts, Error> {
        let services = target.services();
        let role = self.role(target);
        let members = self.members(&services);
        let is_same =
            |c: &&Container| c.compose().is_some_and(|(_, service)| self.desired.matches(service, c));
        let live: Vec<&Container> = members.iter().copied().filter(|c| is_live(c)).collect();
        let outdated = match role {
            Role::Job => usize::from(!members.iter().any(is_same)),
            _ => live.iter().filter(|c| !is_same(c)).count(),
        };
        let in_file = self.project().services[services[0]].replicas().map(|n| n as usize);
        Ok(TargetFacts {
            name: target.name().into(),
            is_gated: self.fronting(target).iter().any(|p| !p.place().is_port()),
            role,
            running: if role == Role::Job { 0 } else { live.len() },
            outdated,
            is_unfinished: false,
            exists: !members.is_empty(),
            // A pair has one side, or both.
            replicas: in_file.filter(|_| services.len() == 1),
            obstacle: self.obstacle(target)?,
            single: self.single_cause(&services, live.len()),
            files: Vec::new(),
            reloads: false,
            is_in_changed_file: false,
            image: self.image(&services, &members),
            diff: None,
            services: services.into_iter().map(String::from).collect(),
        })
    }

    /// True if an instance has lost the name in `container_name`: a run was killed, and Compose did not give it back.
    fn lacks_name(&self, services: &[String]) -> bool {
        let lacks = |service: &String| {
            let name = self.project().services[service].container_name.as_deref();
            self.members(&[service]).iter().any(|container| container.has_lost(name))
        };
        services.iter().any(lacks)
    }

    fn role(&self, target: &Target) -> Role {
        let (project, services) = (self.project(), target.services());
        let service = &project.services[services[0]];
        let all: Vec<Target> = project.services.keys().cloned().map(Target::Service).collect();
        let jobs = Jobs::new(project, &all);
        let is_job = |s: &Service| needed_completed(project, &s.name);
        if is_job(service) {
            return Role::Job;
        }
        if jobs.all().contains(service.name.as_str()) {
            return Role::DeployJob;
        }
        let own = |p: &&Arc<dyn Proxy>| p.container().is_some_and(|c| is_member(project, c, &services));
        let is_proxy = match self.proxies.iter().find(own) {
            Some(proxy) => !proxy.routes_nowhere(),
            None => proxy::is_proxy_image(&service.image),
        };
        match service.data_store() {
            _ if is_proxy => Role::Proxy,
            _ if !self.fronting(target).is_empty() => Role::Routed,
            Some(kind) => Role::DataStore(kind),
            None => Role::Other,
        }
    }

    /// Proxies in front of a target. One that is named and missing is an error of the rollout, with its fix.
    fn fronting(&self, target: &Target) -> Vec<Arc<dyn Proxy>> {
        let docker = &self.config.docker;
        observe::proxies_of(docker, self.project(), target, self.containers, self.proxies).unwrap_or_default()
    }

    /// Reason for which requests are held while the only instance is replaced.
    fn single_cause(&self, services: &[&str], running: usize) -> Option<String> {
        let [name] = services else { return None };
        let service = &self.project().services[*name];
        let is_alone = service.replicas().map_or(running, |n| n as usize) <= 1;
        service.hold_cause(&service.update).filter(|_| is_alone).map(|cause| cause.to_string())
    }

    /// Reason for which a target cannot run twice.
    fn obstacle(&self, target: &Target) -> Result<Option<String>, Error> {
        let project = self.project();
        let found = file::findings(project, target, self.proxies);
        let image_volumes = target.services().into_iter().flat_map(|name| {
            let (service, image) = (&project.services[name], self.desired.images.get(name));
            let paths = image.into_iter().flat_map(|image| image.config.volumes.keys());
            let unnamed = paths.filter(|path| !service.mounted_paths().contains(path));
            unnamed.filter_map(|path| file::anonymous_volume(service, path)).collect::<Vec<_>>()
        });
        let mut obstacle = None;
        for finding in found.into_iter().chain(image_volumes).filter(Finding::is_refusal) {
            match finding.rule {
                "no-instances" => {}
                rule if file::OBSTACLES.contains(&rule) => obstacle = obstacle.or(Some(finding.message)),
                _ => return Err(finding.into()),
            }
        }
        Ok(obstacle)
    }

    /// Images that run, and the one of the file, if they differ.
    fn image(&self, services: &[&str], members: &[&Container]) -> Option<String> {
        let shown = |service: &&str| {
            let its = members.iter().filter(|c| c.compose().is_some_and(|(_, s)| s == *service));
            let to = self.project().services[*service].image.as_str();
            let id = self.desired.images.get(*service).map_or("", |image| image.id.as_str());
            let differs = |c: &&&Container| c.image_id != id || c.config.image != to;
            let from: Vec<_> =
                its.filter(differs).map(|c| (c.config.image.clone(), c.image_id.clone())).collect();
            let change = ImageChange::new(service, from, (to, id));
            let is_named = !change.from.is_empty() && change.from != [change.to.clone()];
            is_named.then(|| format!("{} → {}", change.from.join(", "), change.to))
        };
        services.iter().find_map(shown)
    }

    /// Definitions of the targets that differ from the file.
    fn running_definitions(
        &self,
        ctx: &Context,
        facts: &[TargetFacts],
    ) -> Result<(BTreeSet<String>, ResolvedProject)> {
        let changed = facts.iter().filter(|f| f.outdated > 0 && f.exists).flat_map(|f| &f.services);
        let services: Vec<&str> = changed.map(String::as_str).collect();
        let recorded = ctx.journal.history.current().and_then(|r| ctx.journal.snapshot(r.number).ok());
        let Configuration { docker, project, snapshot, folder, .. } = self.config;
        let importer = Importer { docker, project, snapshot, folder, report: ctx.report };
        importer.definitions(&services, &self.members(&services), recorded)
    }

    /// Adds the keys that differ from the running definition.
    fn compare(&self, facts: &mut TargetFacts, (certain, running): &(BTreeSet<String>, ResolvedProject)) {
        let known: Vec<&String> = facts.services.iter().filter(|s| certain.contains(*s)).collect();
        let of = |s: &&String| diff::changes(running.definition(s), self.config.snapshot.definition(s));
        facts.diff = (!known.is_empty()).then(|| diff::once(known.iter().flat_map(of)));
    }
}

/// True for a container that runs, or that the engine keeps trying to run.
fn is_live(container: &Container) -> bool {
    ["running", "restarting", "paused"].contains(&container.state.status.as_str())
}

/// True if another service waits for the completion of this one.
pub(super) fn needed_completed(project: &Project, name: &str) -> bool {
    let needs = |s: &Service| s.needs(project).get(name).is_some_and(|condition| condition.is_completed());
    project.services.values().any(needs)
}
