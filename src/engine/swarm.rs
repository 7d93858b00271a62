//! Deploy on Swarm: observes the stack, writes the stack file, sends it, watches until it has converged, and rolls back if it
//! does not. Swarm schedules the tasks.

mod imported_service;
mod prepare;
mod swarm_rollback;
mod witness;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::configuration::Configuration;
use crate::context::Context;
use crate::docker::Docker;
use crate::docker::inspect::Image;
use crate::docker::swarm::ResolveImage;
use crate::docker::types::SwarmNodes;
use crate::engine::compose::probe_urls;
use crate::error::{Error, Exit};
use crate::finding::Finding;
use crate::model::args::{DeployArgs, RolloutArgs, SwarmArgs};
use crate::model::{ConfigError, Project};
use crate::release::journal::{Journal, ReleaseDraft, RunResult};
use crate::release::{ReleaseRecord, RolloutKind, ServiceRelease};
use crate::report::{Event, Report, Warning};
use crate::request::Request;
use crate::swarm::audit::{self, ServiceFacts};
use crate::swarm::convergence::ServiceGoal;
use crate::swarm::diff::ServiceDiff;
use crate::swarm::observed::{ObservedStack, StackService};
use crate::swarm::proxy_config::StackProxy;
use crate::swarm::stack_file::{StackFile, StackOverrides};
use crate::swarm::watch::{self, StackWatch, WatchResult};
use crate::targets;
use crate::wait::StopSignal;
use crate::witness::Witness;
pub use imported_service::{compose_file_of_service, import_service, print_for_swarm};
use prepare::PreparedStack;
pub use prepare::refuse_if_any;

/// Puts a request in place on a stack, and waits until the stack has converged.
///
/// # Errors
/// An [`Error`] whose exit code reports what serves now.
pub fn put_in_place(context: &Context, mut request: Request) -> Result<()> {
    let before = watch::observe(&request.config.docker, &request.config.project.name)?;
    let overrides = match &request.record {
        Some(record) => release_overrides(&mut request.config, record, &request.args.services),
        None => next_version_overrides(&mut request.config, &request.args, &before)?,
    };
    let swarm = SwarmDeploy {
        journal: &context.journal,
        before,
        kind: request.kind,
        number: request.number(context),
        images_by_flag: request.args.image.iter().map(|(service, _)| service.clone()).collect(),
        rollout: context.args,
        report: context.report,
        stop: context.stop,
        witness: Witness::default(),
        sent_goals: RefCell::default(),
        request: &request.config,
    };
    if request.record.is_none() {
        swarm.build(&request.args)?;
    }
    swarm.execute(&overrides, request.args.force)
}

/// Sets the images of `--image`, and returns what else the flags of a deploy override.
///
/// # Errors
/// A flag or a name for an unknown service.
fn next_version_overrides(
    config: &mut Configuration,
    args: &DeployArgs,
    before: &ObservedStack,
) -> Result<StackOverrides, Error> {
    for (service, reference) in &args.image {
        check_service(&config.project, service, Some("--image"))?;
        config.snapshot.set_image(service, reference);
    }
    for service in &args.services {
        check_service(&config.project, service, None)?;
    }
    Ok(StackOverrides {
        services: args.services.clone(),
        replicas: replicas(&config.project, &args.scale, before)?,
        update: config.flags.update.clone(),
        rollback: config.flags.rollback.clone(),
    })
}

/// Sets the images of a recorded release, and returns its numbers of instances.
fn release_overrides(
    config: &mut Configuration,
    record: &ReleaseRecord,
    services: &[String],
) -> StackOverrides {
    let mut replicas = BTreeMap::new();
    for (service, release) in &record.services {
        if is_pinned(&release.image_id) {
            config.snapshot.set_image(service, &release.image_id);
        }
        if release.replicas > 0 {
            replicas.insert(service.clone(), u64::from(release.replicas));
        }
    }
    StackOverrides { services: services.to_vec(), replicas, ..StackOverrides::default() }
}

/// Rolls a stack back to the previous specs that Swarm keeps, for a stack without a recorded release.
///
/// # Errors
/// Swarm has no previous spec, or its rollback fails.
pub fn rollback_unrecorded(context: &Context, named: &[String]) -> Result<()> {
    let Context { docker, report, stop, .. } = context;
    let (name, report, requested) = (context.journal.project.as_str(), *report, named);
    let before = watch::observe(docker, name)?;
    let named = |s: &&StackService| requested.is_empty() || requested.contains(&s.name);
    let differs =
        |s: &&StackService| !s.spec.is_job() && s.previous.as_ref().is_some_and(|p| !p.same_content(&s.spec));
    let services: Vec<&StackService> = before.services.values().filter(named).filter(differs).collect();
    let names: Vec<String> = services.iter().map(|s| s.name.clone()).collect();
    if names.is_empty() {
        return Err(Error::usage(format!("stack `{name}`: cannot roll back: no release is recorded, and Swarm has no previous spec"))
            .hint("`compose-zd deploy` records releases; Swarm loses the previous spec with every update that changes nothing")
            .into());
    }
    if context.args.dry_run {
        let lines: Vec<String> = names.iter().map(|n| format!("`{n}`: restore the previous spec")).collect();
        report.stack_plan(name, &lines);
        return Ok(());
    }
    report.event(Event::SwarmRollback(names.clone().into()));
    services.iter().try_for_each(|s| docker.roll_back_service(&s.id))?;
    let (ready, stop) = (Duration::from_secs(60), (*stop).clone());
    let now = watch::observe(docker, name)?;
    let goals = names.iter().map(|service| ServiceGoal::without_monitor(&now, service)).collect();
    let watch =
        StackWatch { docker, stack: name, goals, before: &before, ready, rolling_back: true, report, stop };
    match watch.run()? {
        WatchResult::Converged(_) => {
            report.swarm_rolled_back(name, &names);
            Ok(())
        }
        WatchResult::Interrupted(signal) => {
            Err(Error::interrupted(signal).hint("Swarm continues the rollback; see `docker stack ps`").into())
        }
        WatchResult::Lost(error) => Err(Error { exit: Exit::Outage, ..error }.into()),
        WatchResult::Failed(failure) => {
            let message = format!("`{}`: {}", failure.name, failure.convergence);
            Err(Error::new(Exit::StillServing, message).detail(&failure.task_errors.join("\n")).into())
        }
    }
}

/// Risks of replacing each service of a stack. `project` is the text of the whole project, even if only some of its services
/// are deployed; `image` queries a local image.
pub fn risks(
    name: &str,
    project: &str,
    file: &StackFile,
    nodes: Option<&SwarmNodes>,
    image: &dyn Fn(&str) -> Result<Option<Image>>,
) -> Result<Vec<Finding>> {
    let proxies = stack_proxies(project)?;
    let mut all = nodes.map(|nodes| nodes.risks(file)).unwrap_or_default();
    for (service, definition) in file.value["services"].as_object().into_iter().flatten() {
        let in_front: Vec<&StackProxy> =
            proxies.iter().filter(|p| p.routes_to(name, service, definition)).collect();
        let others = in_front.iter().filter(|p| p.service != *service);
        let of_proxies: Vec<Finding> = others.flat_map(|proxy| proxy.risks(service, definition)).collect();
        let image = image(definition["image"].as_str().unwrap_or_default())?;
        let facts = ServiceFacts {
            image_has_healthcheck: image.is_some_and(|i| i.has_healthcheck()),
            receives_requests: !in_front.is_empty(),
            is_proxy: proxies.iter().any(|p| p.service == *service),
        };
        let own = audit::service_risks(service, definition, facts);
        all.extend(own.into_iter().chain(of_proxies).map(|risk| risk.of_service(service)));
    }
    Ok(all)
}

fn stack_proxies(project: &str) -> Result<Vec<StackProxy>> {
    let project: Value = serde_json::from_str(project)?;
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let services = project["services"].as_object().into_iter().flatten();
    Ok(services.filter_map(|(name, service)| StackProxy::detect(name, service, &project, &read)).collect())
}

/// One deploy or rollback on Swarm.
struct SwarmDeploy<'a> {
    request: &'a Configuration,
    journal: &'a Journal,
    /// The stack before any change.
    before: ObservedStack,
    kind: RolloutKind,
    number: u32,
    /// Services whose image was set by `--image`.
    images_by_flag: BTreeSet<String>,
    rollout: &'a RolloutArgs,
    report: Report,
    stop: &'a StopSignal,
    witness: Witness,
    /// Goals from the specs that Swarm accepted.
    sent_goals: RefCell<Vec<ServiceGoal>>,
}

impl SwarmDeploy<'_> {
    fn docker(&self) -> &Docker {
        &self.request.docker
    }

    fn stack_name(&self) -> &str {
        &self.request.project.name
    }

    fn swarm_args(&self) -> &SwarmArgs {
        &self.rollout.swarm
    }

    /// Builds images here and pushes them, if requested.
    fn build(&self, args: &DeployArgs) -> Result<()> {
        let built = self.request.project.services.values().filter(|s| s.builds);
        let is_selected = |name: &String| args.services.is_empty() || args.services.contains(name);
        let names: Vec<String> = built.map(|s| s.name.clone()).filter(is_selected).collect();
        if names.is_empty() || self.rollout.dry_run {
            return Ok(());
        }
        if args.build {
            self.report.event(Event::Building(names.clone().into()));
            self.docker().build(&names)?;
        }
        if self.swarm_args().push { self.docker().push(&names) } else { Ok(()) }
    }

    fn execute(&self, overrides: &StackOverrides, force: bool) -> Result<()> {
        let prepared = self.prepare(overrides)?;
        self.refuse_partial_prune(&prepared.file)?;
        self.warn_of_losses(&prepared)?;
        if self.rollout.dry_run {
            return self.report_plan(&prepared, force);
        }
        if let Some(signal) = self.stop.signal() {
            return Err(Error::interrupted(signal).into());
        }
        self.create_objects(&prepared)?;
        self.start_witness(&prepared)?;
        self.execute_and_record(&prepared, force)
    }

    /// Warns of ignored keys, and of requests that the deploy will lose.
    fn warn_of_losses(&self, prepared: &PreparedStack) -> Result<()> {
        let PreparedStack { file, nodes, .. } = prepared;
        for note in &file.notes {
            self.report.warn(&Warning::Ignored(note.clone()));
        }
        let image = |reference: &str| self.docker().image(reference);
        let text = self.request.snapshot.text();
        for risk in risks(self.stack_name(), &text, file, Some(nodes), &image)? {
            self.report.warn(&Warning::ExpectedLoss(risk.to_string()));
        }
        Ok(())
    }

    /// Reports the changes of each service, and the exact commands.
    fn report_plan(&self, prepared: &PreparedStack, force: bool) -> Result<()> {
        let PreparedStack { file, resolve_image, missing_objects: missing, .. } = prepared;
        let networks = self.docker().network_names()?;
        let changes = file.services.iter().map(|name| {
            let now = self.before.services.get(name);
            let image = self.request.snapshot.image(name).unwrap_or_default();
            let change = ServiceDiff {
                stack: self.stack_name(),
                file: &file.value,
                service: name,
                image,
                networks: &networks,
            };
            format!("`{name}`: {}", change.describe(now))
        });
        let left = self.before.services.keys().filter(|name| !file.services.contains(name));
        let action =
            if self.swarm_args().prune { "remove it: it is no longer in the file" } else { "leave it alone" };
        let left = left.map(|name| format!("`{name}`: {action}"));
        let objects =
            missing.iter().map(|(object, name)| format!("docker {} create {name} -", object.kind.noun()));
        let (imported, others): (Vec<&String>, Vec<&String>) =
            file.services.iter().partition(|n| self.before.services.get(*n).is_some_and(|s| s.is_imported));
        let mut send = Vec::new();
        for name in imported {
            let flags = self.update_flags(file, &self.before.services[name])?.join(" ");
            send.push(format!("docker service update --with-registry-auth {flags} {name}"));
        }
        if !others.is_empty() {
            let (resolve, stack) = (resolve_image.flag_value(), self.stack_name());
            send.push(format!(
                "docker stack deploy --with-registry-auth --resolve-image {resolve} --compose-file - {stack}"
            ));
        }
        let forced = file.services.iter().filter(|name| force && self.before.services.contains_key(*name));
        let forced = forced.map(|name| {
            format!(
                "docker service update --force {}_{name}   # unless the deploy changes it",
                self.stack_name()
            )
        });
        let gone = self
            .services_to_prune(file)
            .into_iter()
            .map(|s| format!("docker service rm {}_{}", self.stack_name(), s.name));
        let commands = objects.chain(send).chain(forced).chain(gone).map(|line| format!("$ {line}"));
        self.report.stack_plan(self.stack_name(), &changes.chain(left).chain(commands).collect::<Vec<_>>());
        Ok(())
    }

    /// Executes the deploy, and records the result.
    fn execute_and_record(&self, prepared: &PreparedStack, force: bool) -> Result<()> {
        let file = &prepared.file;
        let entry = self.release_draft(prepared, None)?;
        self.journal.begin(&entry, self.report)?;
        self.journal.tag_images(self.docker(), &entry, self.report);
        let started = self.report.elapsed();
        let switch = self.witness.rotation_change();
        let result = match self.send_and_watch(prepared, force) {
            Ok(WatchResult::Converged(stack)) => match self.witness.outage_at_end() {
                None => Ok(stack),
                Some(lost) => Err(self.handle_lost_url(file, lost)),
            },
            Ok(end) => Err(self.handle_watch_failure(file, end)),
            Err(error) => Err(self.handle_send_failure(file, Error::from_error(error))),
        };
        drop(switch);
        let took = self.report.elapsed().saturating_sub(started);
        let witness = probe_urls::report_all(self.witness.finish(), self.report);
        let (entry, error, paused) = match &result {
            Ok(stack) => (self.release_draft(prepared, Some(stack))?, None, false),
            Err((error, paused)) => (entry, Some(error), *paused),
        };
        if error.is_some_and(|f| f.exit == Exit::Unchanged) {
            self.journal.discard(&entry);
        } else {
            let keep = self.request.project.keep;
            let run_result = RunResult { witness: witness.clone(), ..RunResult::new(error, paused, took, 0) };
            self.journal.write_config(entry.number, &entry.text)?;
            self.journal.end(self.docker(), &entry, run_result, keep, self.report);
        }
        match result {
            Ok(stack) => {
                self.prune(file);
                self.remove_unused_objects();
                self.report_deployed(&file.services, &stack, took);
                Ok(probe_urls::refuse_losses(witness.as_ref(), self.rollout.witness.strict, self.number)?)
            }
            Err((error, _)) => Err(error.into()),
        }
    }

    /// Sends the change to Swarm, and watches until the services have converged or failed.
    fn send_and_watch(&self, prepared: &PreparedStack, force: bool) -> Result<WatchResult> {
        let services = &prepared.file.services;
        let rollback_ids = self.ids_to_roll_back(services);
        match &rollback_ids {
            Some(ids) => self.roll_back_in_swarm(services, ids)?,
            None => self.send(prepared, force)?,
        }
        let now = watch::observe(self.docker(), self.stack_name())?;
        let goal = if rollback_ids.is_some() { ServiceGoal::without_monitor } else { ServiceGoal::new };
        let goals: Vec<ServiceGoal> = services.iter().map(|name| goal(&now, name)).collect();
        self.sent_goals.replace(goals.clone());
        self.watch(goals, &self.before, rollback_ids.is_some(), self.stop.clone())
    }

    /// Refuses `--prune` with named services: a part of the file does not show which services were removed.
    fn refuse_partial_prune(&self, file: &StackFile) -> Result<(), Error> {
        let is_whole = self.request.project.services.keys().all(|name| file.services.contains(name));
        if self.swarm_args().prune && !is_whole {
            let message = "`--prune` needs the whole stack, and only some of its services are deployed";
            return Err(Error::usage(message).hint("remove `--prune`, or name no service"));
        }
        Ok(())
    }

    /// Removes services that are no longer in the file. Runs last, because a rollback would need them.
    fn prune(&self, file: &StackFile) {
        let gone = self.services_to_prune(file);
        if gone.is_empty() {
            return;
        }
        let ids: Vec<String> = gone.iter().map(|s| s.id.clone()).collect();
        let names = gone.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        match self.docker().remove_services(&ids) {
            Ok(()) => self.report.event(Event::Removed(names.into())),
            Err(error) => self.report.warn(&Warning::CleanupFailed(format!("{error:#}"))),
        }
    }

    /// Services that are no longer in the file, if `--prune` is given.
    fn services_to_prune(&self, file: &StackFile) -> Vec<&StackService> {
        let is_pruned = |s: &&StackService| self.swarm_args().prune && !file.services.contains(&s.name);
        self.before.services.values().filter(is_pruned).collect()
    }

    fn roll_back_in_swarm(&self, services: &[String], ids: &[String]) -> Result<()> {
        self.report.event(Event::SwarmRollback(services.to_vec().into()));
        ids.iter().try_for_each(|id| self.docker().roll_back_service(id))
    }

    fn send(&self, PreparedStack { file, resolve_image, .. }: &PreparedStack, force: bool) -> Result<()> {
        self.report.event(Event::DeployingStack {
            stack: self.stack_name().into(),
            services: file.services.clone(),
        });
        let stack = self.update_imported(file, &self.before)?;
        if !stack.services.is_empty() {
            self.docker().stack_deploy(self.stack_name(), &stack.text(), *resolve_image)?;
        }
        let is_unfinished =
            |name: &String| self.before.services.get(name).is_some_and(StackService::has_unfinished_update);
        if !force && !file.services.iter().any(is_unfinished) {
            return Ok(());
        }
        // Swarm replaces the tasks of changed services by itself. But an update that changes nothing does not resume a
        // paused update (seen with `stop-first`: the remaining slots stayed unchanged).
        let now = watch::observe(self.docker(), self.stack_name())?;
        // A job runs again, changed or not.
        let is_unchanged = |s: &&StackService| {
            let before = self.before.services.get(&s.name);
            !s.spec.is_job() && before.is_some_and(|b| b.spec.same_tasks(&s.spec))
        };
        let is_selected =
            |s: &&StackService| file.services.contains(&s.name) && (force || is_unfinished(&s.name));
        let ids = now.services.values().filter(is_unchanged).filter(is_selected).map(|s| s.id.clone());
        ids.collect::<Vec<_>>().iter().try_for_each(|id| self.docker().force_service_update(id))
    }

    /// Ids of the services, if Swarm itself can roll back: the previous spec of each service is exactly the one to restore.
    fn ids_to_roll_back(&self, services: &[String]) -> Option<Vec<String>> {
        let RolloutKind::Rollback { to } = self.kind else { return None };
        let record = self.journal.history.get(to)?;
        let id = |name: &String| {
            let (service, release) = (self.before.services.get(name)?, record.services.get(name)?);
            let previous = service.previous.as_ref()?;
            (previous.fingerprint() == release.config_hash).then(|| service.id.clone())
        };
        services.iter().map(id).collect()
    }

    /// Watches until all goals are reached, starting from the stack `before`.
    fn watch(
        &self,
        goals: Vec<ServiceGoal>,
        before: &ObservedStack,
        rolling_back: bool,
        stop: StopSignal,
    ) -> Result<WatchResult> {
        let settings = goals.iter().filter_map(|goal| self.request.project.services.get(&goal.service));
        let ready = settings.map(|s| s.settings.timing.deadline).max().unwrap_or_default();
        let (docker, stack, report) = (self.docker(), self.stack_name(), self.report);
        StackWatch { docker, stack, goals, before, ready, rolling_back, report, stop }.run()
    }

    /// Draft of the release. Without `stack` the specs of Swarm are not known yet, so the draft has only names.
    fn release_draft(
        &self,
        PreparedStack { file, recorded, .. }: &PreparedStack,
        stack: Option<&ObservedStack>,
    ) -> Result<ReleaseDraft> {
        let names: Vec<&str> = file.services.iter().map(String::as_str).collect();
        let mut recorded = recorded.clone();
        let releases = names.iter().map(|name| {
            let release = self.service_release(name, file, stack);
            if is_pinned(&release.image_id) {
                recorded.set_image(name, &release.image_id);
            }
            (name.to_string(), release)
        });
        let services = releases.collect();
        Ok(ReleaseDraft {
            number: self.number,
            kind: self.kind,
            services,
            text: self.journal.merged_config(&recorded.text(), &names)?,
            replaced: Vec::new(),
            folder: self.request.folder.clone(),
        })
    }

    fn service_release(&self, name: &str, file: &StackFile, stack: Option<&ObservedStack>) -> ServiceRelease {
        let spec = stack.and_then(|s| s.services.get(name)).map(|s| &s.spec);
        let sent = file.image(name).to_string();
        let image_id = match spec {
            Some(spec) => spec.image().to_string(),
            None => Some(sent).filter(|image| is_pinned(image)).unwrap_or_default(),
        };
        ServiceRelease {
            image: self.image_name(name, &image_id),
            image_id,
            digests: Vec::new(),
            config_hash: spec.map(|s| s.fingerprint()).unwrap_or_default(),
            replicas: spec.and_then(|s| s.replicas()).unwrap_or(0) as u32,
            since: self.number,
            by_flag: self.images_by_flag.contains(name),
        }
    }

    /// Name of the image in the file, or in the file of the restored release.
    fn image_name(&self, service: &str, id: &str) -> String {
        let image = self.request.snapshot.image(service).unwrap_or_default();
        let recorded = self.journal.history.newest_first().filter_map(|r| r.services.get(service));
        let recorded = || recorded.map(|p| (&p.image_id, &p.image)).find(|(known, _)| **known == id);
        if is_pinned(image) {
            recorded().map_or(image, |(_, image)| image).to_string()
        } else {
            image.to_string()
        }
    }

    fn report_deployed(&self, services: &[String], stack: &ObservedStack, took: Duration) {
        for name in services {
            let Some(service) = stack.services.get(name) else { continue };
            let (running, wanted) = (service.running_tasks(), service.desired_tasks());
            if service.spec.is_job() {
                self.report.event(Event::SwarmJobDone { service: name.clone(), tasks: wanted });
                continue;
            }
            if service.tasks.iter().filter(|t| t.runs()).count() > wanted {
                self.report.warn(&Warning::TooManyTasks(name.clone()));
            }
            self.report.deployed(Event::Deployed {
                target: name.clone(),
                serving: vec![format!("{} of {wanted}", running.min(wanted))],
                release: self.number,
                restored_release: match self.kind {
                    RolloutKind::Rollback { to } => Some(to),
                    _ => None,
                },
                in_service: took,
                seconds: took,
            });
        }
    }
}

/// Replicas by flag, else the current replicas of each service whose file sets none.
fn replicas(
    project: &Project,
    scale: &[(String, u32)],
    before: &ObservedStack,
) -> Result<BTreeMap<String, u64>, Error> {
    for (service, _) in scale {
        check_service(project, service, Some("--scale"))?;
    }
    let unset = project.services.values().filter(|s| s.replicas.is_none());
    let current =
        unset.filter_map(|s| Some((s.name.clone(), before.services.get(&s.name)?.spec.replicas()?)));
    let by_flag = scale.iter().map(|(service, n)| (service.clone(), u64::from(*n)));
    Ok(current.chain(by_flag).collect())
}

fn check_service(project: &Project, service: &str, flag: Option<&str>) -> Result<(), Error> {
    if project.services.contains_key(service) {
        Ok(())
    } else {
        Err(targets::unknown_service(project, service, flag))
    }
}

/// Refusals of jobs: Swarm would skip them, and a migration must not be skipped silently.
pub fn job_refusals(project: &Project) -> Vec<ConfigError> {
    let has = |s: &&crate::model::Service| s.settings.before.is_some() || s.settings.after.is_some();
    let refusal = |service: &crate::model::Service| ConfigError {
        message: format!("`services.{}.x-zd`: jobs (`before`, `after`) do not run on Swarm", service.name),
        hint:
            "run the command before the deploy, or as a separate service with `deploy.mode: replicated-job`"
                .into(),
    };
    project.services.values().filter(has).map(refusal).collect()
}

/// The reference means the same image for ever.
fn is_pinned(reference: &str) -> bool {
    reference.starts_with("sha256:") || reference.contains("@sha256:")
}

impl ResolveImage {
    fn parse(word: &str) -> ResolveImage {
        match word {
            "changed" => ResolveImage::Changed,
            "never" => ResolveImage::Never,
            _ => ResolveImage::Always,
        }
    }
}
