//! Preparation of a request on one host: targets, jobs, images, and the version that each new instance has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;

use super::dependents::{self, Dependents};
use super::import_running::Importer;
use crate::configuration::Configuration;
use crate::context::Context;
use crate::context::prefetch;
use crate::docker::Docker;
use crate::docker::inspect::{Container, Image};
use crate::error::Error;
use crate::finding;
use crate::jobs::{self, Jobs};
use crate::model::args::DeployArgs;
use crate::model::{Project, ResolvedProject, Service};
use crate::mounted_files::{self, FileReport};
use crate::observe::{self, DesiredVersion};
use crate::preflight;
use crate::preflight::disk;
use crate::proxy::{self, Proxy};
use crate::report::{Event, Warning};
use crate::request::Request;
use crate::targets::is_member;
use crate::targets::{self, Target};

/// Most containers that are asked for the free space of their disk.
const MAX_ASKED: usize = 3;

/// Request that is ready to be planned.
pub struct Prepared {
    pub targets: Vec<Target>,
    /// All containers of the engine.
    pub containers: Vec<Container>,
    /// All proxies of the engine.
    pub proxies: Vec<Arc<dyn Proxy>>,
    pub jobs: Jobs,
    pub desired: DesiredVersion,
    /// Services to restart or roll out with their dependency.
    pub dependents: Dependents,
}

impl Prepared {
    /// Prepares a request. Builds, pulls and imports, but replaces no container.
    pub fn new(ctx: &mut Context, request: &mut Request) -> Result<Prepared> {
        request.config.docker = request.config.docker.clone().with_stop_signal(ctx.stop);
        let Configuration { docker, project, .. } = &request.config;
        let containers = docker.containers()?;
        let proxies = observe::detect(docker, project, &containers)?;
        let targets = select_targets(request, &proxies, &containers)?;
        preflight::targets(project, &targets, &proxies)?;
        let jobs = Jobs::new(project, &targets);
        let prepared = Prepared {
            targets,
            containers,
            proxies,
            jobs,
            desired: DesiredVersion::default(),
            dependents: Dependents::default(),
        };
        match request.record {
            Some(_) => prepared.for_release(ctx, request),
            None => prepared.for_next_version(ctx, request),
        }
    }

    /// Prepares a recorded release. It runs no job before the switch.
    fn for_release(mut self, ctx: &Context, request: &Request) -> Result<Prepared> {
        self.desired = recorded_version(request)?;
        self.jobs.before.clear();
        // A dependent behind a proxy is not restarted, because that would lose requests. It is not rolled out either,
        // because no record has its version.
        let all = self.dependents(request);
        for name in all.names() {
            ctx.report.warn(&Warning::ExpectedLoss(format!(
                "`{name}` has `depends_on.….restart: true`, and a rollback restarts no service behind a proxy; \
                 `compose-zd deploy {name} --force` replaces it"
            )));
        }
        self.dependents = Dependents { rolled: Vec::new(), ..all };
        Ok(self)
    }

    /// Prepares the next version: jobs, the record of what runs, and images.
    fn for_next_version(mut self, ctx: &mut Context, request: &mut Request) -> Result<Prepared> {
        let dry_run = ctx.args.dry_run;
        add_jobs(&mut request.config, &self.jobs)?;
        if request.args.image.is_empty() {
            let Configuration { docker, project, .. } = &request.config;
            prefetch::for_targets(docker, project, &self.targets, &self.containers, &request.args);
        }
        if !dry_run {
            let Configuration { docker, project, snapshot, folder, .. } = &request.config;
            Importer { docker, project, snapshot, folder, report: ctx.report }.import(
                &self.targets,
                &self.containers,
                &mut ctx.journal,
            )?;
        }
        set_images(ctx, request, &self.jobs)?;
        preflight::file::build_contexts(&request.config.project, &self.targets, &ctx.state_dir, ctx.report);
        let services = self.targets.iter().flat_map(Target::services).chain(self.jobs.all());
        let provided = provide_images(ctx, &request.config, &request.args, services);
        if let Some(signal) = ctx.stop.signal() {
            return Err(Error::interrupted(signal).into());
        }
        let known_images = match provided? {
            Some(known_images) => known_images,
            // A build may take minutes, in which the containers may have changed.
            None => {
                request.config.docker.discard_prefetched();
                self.containers = request.config.docker.containers()?;
                BTreeMap::new()
            }
        };
        self.with_desired_version(ctx, request, known_images)
    }

    /// Adds the version of the file, and the dependents if any instance will be replaced.
    fn with_desired_version(
        mut self,
        ctx: &Context,
        request: &Request,
        known_images: BTreeMap<String, Image>,
    ) -> Result<Prepared> {
        let Configuration { docker, project, .. } = &request.config;
        let dependents = self.dependents(request);
        let all: Vec<Target> = self.targets.iter().chain(&dependents.rolled).cloned().collect();
        self.desired = DesiredVersion::read(docker, project, &all, known_images)?;
        self.desired.add_hashes(request.config.resolved_hashes()?);
        if request.config.may_have_label_files {
            self.desired.add_hashes(ctx.journal.hashes_of_same(&request.config.snapshot));
        }
        self.desired.forced = self.forced_containers(ctx, request);
        self.desired.forced.extend(self.with_changed_files(ctx, request)?);
        if dependents::any_replaced(project, &self.targets, &self.desired, &self.containers) {
            let services: Vec<&str> = dependents.rolled.iter().flat_map(Target::services).collect();
            let members = self.containers.iter().filter(|c| is_member(project, c, &services));
            self.desired.forced.extend(members.map(|c| c.id.clone()));
            self.targets = all;
            self.dependents = dependents;
        }
        Ok(self)
    }

    fn dependents(&self, request: &Request) -> Dependents {
        Dependents::new(&request.config.project, &self.targets, &self.containers, &self.proxies)
    }

    /// Containers of the targets that have another mounted file or inline config than a new one would have. Compose's hash
    /// does not tell. A proxy is reloaded instead.
    fn with_changed_files(&self, ctx: &Context, request: &Request) -> Result<Vec<String>> {
        let Configuration { docker, project, snapshot, .. } = &request.config;
        let is_proxy = |c: &Container| self.proxies.iter().any(|p| p.is_in(c) && !p.routes_nowhere());
        let mut changed = Vec::new();
        for service in self.targets.iter().flat_map(Target::services) {
            let instances =
                self.containers.iter().filter(|c| is_member(project, c, &[service]) && !is_proxy(c));
            let inline = snapshot.inline_configs(service);
            let mut report = FileReport::default();
            for instance in instances {
                let of_one = mounted_files::of_instance(docker, instance, &inline)?;
                let is_changed = !of_one.changes.is_empty() && !of_one.has_missing_file();
                changed.extend(is_changed.then(|| instance.id.clone()));
                report.add(of_one);
            }
            for change in &report.changes {
                ctx.report.print_line(&format!("`{service}`: {change}"));
            }
            report.notes.into_iter().for_each(|note| ctx.report.warn(&Warning::Other(note)));
        }
        Ok(changed)
    }

    /// Containers to replace even if they are up to date: all with `--force`, and those of a killed `--force`.
    fn forced_containers(&self, ctx: &Context, request: &Request) -> BTreeSet<String> {
        let services: Vec<&str> = self.targets.iter().flat_map(Target::services).collect();
        let members = self.containers.iter().filter(|c| is_member(&request.config.project, c, &services));
        let forced = members.filter(|_| request.args.force).map(|c| c.id.clone());
        let before = ctx.journal.in_progress.iter().flat_map(|h| h.replaced.clone());
        forced.chain(before).collect()
    }
}

/// Builds and pulls every missing image of these services before any change. Returns the existing images by reference.
/// Returns `None` after a build or pull, because the images may have changed.
pub fn provide_images<'s>(
    ctx: &Context,
    Configuration { docker, project, .. }: &Configuration,
    args: &DeployArgs,
    services: impl Iterator<Item = &'s str>,
) -> Result<Option<BTreeMap<String, Image>>> {
    let services = services.collect::<BTreeSet<&str>>().into_iter().map(|s| &project.services[s]);
    let (built, others): (Vec<&Service>, Vec<&Service>) =
        services.partition(|s| s.is_built() && !args.no_build);
    let names = |services: &[&Service]| services.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
    if ctx.args.dry_run {
        if !built.is_empty() {
            let what = format!("build {}; the plan may change with the new image", names(&built).join(", "));
            ctx.report.event(Event::WouldPrepare(what.into()));
        }
        return Ok(Some(BTreeMap::new()));
    }
    require_disk(ctx, docker, project, &built)?;
    if !built.is_empty() {
        ctx.report.event(Event::Building(names(&built).into()));
        docker.build(&names(&built))?;
    }
    let (mut pulled, mut existing) = (Vec::new(), BTreeMap::new());
    for service in others {
        let image = if args.pull { None } else { docker.image(&service.image)? };
        match image {
            Some(image) => _ = existing.insert(service.image.clone(), image),
            None => pulled.push(service),
        }
    }
    require_disk(ctx, docker, project, &pulled)?;
    if !pulled.is_empty() {
        ctx.report.event(Event::Pulling(names(&pulled).into()));
        docker.pull(&names(&pulled))?;
    }
    Ok((built.is_empty() && pulled.is_empty()).then_some(existing))
}

/// Checks that the engine's disk has space for the images of these services.
///
/// # Errors
/// The disk is nearly full. Nothing was changed.
fn require_disk(ctx: &Context, docker: &Docker, project: &Project, services: &[&Service]) -> Result<()> {
    if services.is_empty() {
        return Ok(());
    }
    let containers = docker.containers()?;
    let running = containers.iter().filter(|c| c.is_running() && !c.is_pin());
    let ids: Vec<&str> = running.clone().map(|c| c.id.as_str()).take(MAX_ASKED).collect();
    let Some(free) = docker.disk_usage(&ids)?.as_deref().and_then(disk::parse_df) else { return Ok(()) };
    let image = |service: &&Service| {
        running.clone().find(|c| is_member(project, c, &[&service.name])).map(|c| c.image_id.as_str())
    };
    let images = docker.images(&services.iter().filter_map(image).collect())?;
    let sizes: Vec<u64> = images.iter().map(|image| image.size).collect();
    let finding = disk::finding(&sizes, free);
    for note in finding::require(finding)? {
        ctx.report.warn(&Warning::Other(note.to_string()));
    }
    Ok(())
}

fn select_targets(
    request: &Request,
    proxies: &[Arc<dyn Proxy>],
    containers: &[Container],
) -> Result<Vec<Target>> {
    let (args, project) = (&request.args, &request.config.project);
    let scaled = args.scale.iter().map(|(service, _)| ("--scale", service.as_str()));
    let flagged = scaled.chain(args.image.iter().map(|(service, _)| ("--image", service.as_str())));
    let selected = targets::select(project, &args.services, &flagged.collect::<Vec<_>>(), proxies);
    let runs = |c: &Container| c.is_running() && c.compose().is_some_and(|(name, _)| name == project.name);
    // An error about a flag stands as it is.
    let names_nothing = args.services.is_empty() && args.scale.is_empty() && args.image.is_empty();
    let nothing_runs = || {
        let error = Error::usage(format!("nothing of project `{}` runs", project.name));
        error.hint("`compose-zd up` starts it")
    };
    let is_down = names_nothing && !containers.iter().any(runs);
    // A published port may be that of a proxy, which nothing tells before its first start.
    let selected = selected.and_then(|targets| {
        let has_route = targets.iter().flat_map(Target::services).any(|s| is_routed(project, s, proxies));
        if is_down && !has_route { Err(nothing_runs()) } else { Ok(targets) }
    });
    Ok(selected.map_err(|error| {
        let error = if is_down { nothing_runs() } else { error };
        if args.services.is_empty() { hint_at_swarm(&request.config.docker, error) } else { error }
    })?)
}

/// True if a service requests a route, or a proxy has one to it.
fn is_routed(project: &Project, service: &str, proxies: &[Arc<dyn Proxy>]) -> bool {
    let backend = targets::backend(project, &project.services[service]);
    proxy::route_setting(&backend).is_some()
        || proxies.iter().any(|p| !p.place().is_port() && p.routes_to(&backend))
}

/// Adds a hint that the project can be deployed as a stack, if the engine manages a Swarm.
fn hint_at_swarm(docker: &Docker, error: Error) -> Error {
    match (docker.swarm_id(), &error.hint) {
        (Ok(_), Some(hint)) => {
            let hint = format!(
                "{hint}; or deploy it as a stack, because this engine manages a Swarm: `compose-zd deploy --engine swarm`"
            );
            error.hint(hint)
        }
        _ => error,
    }
}

/// Adds jobs whose profile is not active.
fn add_jobs(config: &mut Configuration, jobs: &Jobs) -> Result<()> {
    let missing: Vec<&str> =
        jobs.all().into_iter().filter(|s| !config.project.services.contains_key(*s)).collect();
    for name in missing {
        let text =
            config.docker.config_of(name).map_err(|error| jobs::unknown_job(&config.source, name, error))?;
        config.snapshot.copy_services(&[name], &ResolvedProject::parse(&text).map_err(Error::from)?);
        let its = Project::read(&text, &config.source, &config.flags).map_err(Error::from)?;
        config.project.services.extend(its.services.into_iter().filter(|(service, _)| service == name));
    }
    Ok(())
}

/// Sets the images of `--image`: from here on Compose reads the resolved project with these images.
fn set_images(ctx: &Context, request: &mut Request, jobs: &Jobs) -> Result<()> {
    if request.args.image.is_empty() {
        return Ok(());
    }
    let config = &mut request.config;
    for (service, reference) in &request.args.image {
        for job in jobs::with_same_image(&config.project, jobs, service) {
            config.snapshot.set_image(&job.name, reference);
        }
        config.snapshot.set_image(service, reference);
    }
    let text = config.snapshot.text();
    config.project = Project::read(&text, &config.source, &config.flags).map_err(Error::from)?;
    config.write(&ctx.journal, ctx.journal.next_number(), ctx.args.dry_run)
}

/// Version of a recorded release: its images, with the hash of the file then and the hash of the record now.
pub fn recorded_version(request: &Request) -> Result<DesiredVersion> {
    let Configuration { docker, snapshot, .. } = &request.config;
    let now = docker.hashes()?;
    let mut desired = DesiredVersion::default();
    for (service, release) in request.restored() {
        let reference = snapshot.image(&service).unwrap_or_default();
        desired.images.extend(docker.image(reference)?.map(|image| (service.clone(), image)));
        let hashes = [Some(release.config_hash), now.get(&service).cloned()];
        desired.hashes.insert(service, hashes.into_iter().flatten().collect());
    }
    Ok(desired)
}
