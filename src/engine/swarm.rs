//! Deploy on Swarm: observes the stack, writes the stack file, sends it, watches until it has converged, and rolls back if it
//! does not. Swarm schedules the tasks.

mod dry_run;
mod imported_service;
mod prepare;
mod previous_spec;
mod recovery;
mod witness;

use std::cell::OnceCell;
use std::time::Duration;

use anyhow::Result;

use crate::configuration::Configuration;
use crate::context::Context;
use crate::docker::Docker;
use crate::error::{Error, Exit};
use crate::git;
use crate::model::args::{DeployArgs, SwarmArgs};
use crate::model::{ResolvedProject, word};
use crate::release::journal::{Journal, ReleaseDraft, RunResult};
use crate::release::{ReleaseRecord, RolloutKind, ServiceRelease, WitnessTotals};
use crate::report::{Event, ImageChange, Report, Warning};
use crate::request::Request;
use crate::swarm::audit;
use crate::swarm::convergence::ServiceGoal;
use crate::swarm::observed::{ObservedStack, StackService};
use crate::swarm::stack_file::{StackFile, StackOverrides};
use crate::swarm::watch::{self, StackWatch, WatchResult};
use crate::targets;
use crate::wait::StopSignal;
use crate::witness::{Witness, urls};
pub use imported_service::{compose_file_of_service, import_service, print_for_swarm};
use prepare::PreparedStack;
pub use previous_spec::rollback_unrecorded;
use recovery::{Failure, Reaction};

/// Puts a request in place on a stack, and waits until the stack has converged.
///
/// # Errors
/// An [`Error`] whose exit code reports what serves now.
pub fn put_in_place(context: &Context, request: &mut Request) -> Result<()> {
    let before = watch::observe(&request.config.docker, &request.config.project.name)?;
    let overrides = match &request.record {
        Some(record) => release_overrides(&mut request.config.snapshot, record, &request.args.services),
        None => next_version_overrides(&mut request.config, &request.args, &before)?,
    };
    let number = request.number(context);
    let (witness, sent_goals) = (Witness::default(), OnceCell::new());
    let deploy = SwarmDeploy { context, request, overrides, number, before, witness, sent_goals };
    if deploy.request.record.is_none() {
        deploy.build()?;
    }
    let prepared = deploy.prepare()?;
    deploy.refuse_partial_prune(&prepared.file)?;
    deploy.warn_of_losses(&prepared)?;
    if context.args.dry_run {
        return deploy.report_plan(&prepared);
    }
    if let Some(signal) = context.stop.signal() {
        return Err(Error::interrupted(signal).into());
    }
    deploy.create_objects(&prepared)?;
    deploy.start_witness(&prepared)?;
    deploy.execute(&prepared)
}

/// Sets the images of `--image`, and returns what else the flags of a deploy override. A service whose file sets no
/// replicas keeps its current number.
///
/// # Errors
/// A flag or a name for an unknown service.
fn next_version_overrides(
    config: &mut Configuration,
    args: &DeployArgs,
    before: &ObservedStack,
) -> Result<StackOverrides, Error> {
    let images = args.image.iter().map(|(service, _)| (service, Some("--image")));
    let named = args.services.iter().map(|service| (service, None));
    let scaled = args.scale.iter().map(|(service, _)| (service, Some("--scale")));
    for (service, flag) in images.chain(named).chain(scaled) {
        if !config.project.services.contains_key(service) {
            return Err(targets::unknown_service(&config.project, service, flag));
        }
    }
    for (service, reference) in &args.image {
        config.snapshot.set_image(service, reference);
    }
    let unset = config.project.services.values().filter(|s| s.replicas().is_none());
    let current =
        unset.filter_map(|s| Some((s.name.clone(), before.services.get(&s.name)?.spec.replicas()?)));
    let by_flag = args.scale.iter().map(|(service, n)| (service.clone(), u64::from(*n)));
    Ok(StackOverrides {
        services: args.services.clone(),
        replicas: current.chain(by_flag).collect(),
        update: config.flags.update.clone(),
        rollback: config.flags.rollback.clone(),
    })
}

/// Sets the images of a recorded release, and returns its numbers of tasks for these services.
fn release_overrides(
    snapshot: &mut ResolvedProject,
    record: &ReleaseRecord,
    services: &[String],
) -> StackOverrides {
    let mut overrides = StackOverrides { services: services.to_vec(), ..StackOverrides::default() };
    for (service, release) in &record.services {
        if is_pinned(&release.image_id) {
            snapshot.set_image(service, &release.image_id);
        }
        if release.replicas > 0 {
            overrides.replicas.insert(service.clone(), release.replicas.into());
        }
    }
    overrides
}

/// One deploy or rollback on Swarm.
struct SwarmDeploy<'a> {
    context: &'a Context<'a>,
    request: &'a Request,
    overrides: StackOverrides,
    /// Number of the release that the run makes.
    number: u32,
    /// The stack before any change.
    before: ObservedStack,
    witness: Witness,
    /// Goals from the specs that Swarm accepted.
    sent_goals: OnceCell<Vec<ServiceGoal>>,
}

impl SwarmDeploy<'_> {
    fn docker(&self) -> &Docker {
        &self.request.config.docker
    }

    fn config(&self) -> &Configuration {
        &self.request.config
    }

    fn journal(&self) -> &Journal {
        &self.context.journal
    }

    fn report(&self) -> Report {
        self.context.report
    }

    fn stack_name(&self) -> &str {
        &self.config().project.name
    }

    fn swarm_args(&self) -> &SwarmArgs {
        &self.context.args.swarm
    }

    fn observe(&self) -> Result<ObservedStack> {
        watch::observe(self.docker(), self.stack_name())
    }

    /// Release that a rollback restores.
    fn restored_release(&self) -> Option<u32> {
        if let RolloutKind::Rollback { to } = self.request.kind { Some(to) } else { None }
    }

    /// Builds images here and pushes them, if requested.
    fn build(&self) -> Result<()> {
        let args = &self.request.args;
        let built = self.config().project.services.values().filter(|s| s.is_built());
        let is_selected = |name: &String| args.services.is_empty() || args.services.contains(name);
        let names: Vec<String> = built.map(|s| s.name.clone()).filter(is_selected).collect();
        if names.is_empty() || self.context.args.dry_run {
            return Ok(());
        }
        if args.build {
            self.report().event(Event::Building(names.clone().into()));
            self.docker().build(&names)?;
        }
        if self.swarm_args().push { self.docker().push(&names) } else { Ok(()) }
    }

    /// Warns of ignored keys, and of requests that the deploy will lose.
    fn warn_of_losses(&self, PreparedStack { file, nodes, .. }: &PreparedStack) -> Result<()> {
        for note in &file.notes {
            self.report().warn(&Warning::Ignored(note.clone()));
        }
        let image = |reference: &str| self.docker().image(reference);
        for risk in
            audit::risks(self.stack_name(), &self.config().snapshot.text(), file, Some(nodes), &image)?
        {
            self.report().warn(&Warning::ExpectedLoss(risk.to_string()));
        }
        Ok(())
    }

    /// Executes the deploy, and records the result.
    fn execute(&self, prepared: &PreparedStack) -> Result<()> {
        let draft = self.release_draft(prepared, None)?;
        self.journal().begin(&draft, self.report())?;
        self.journal().tag_images(self.docker(), &draft, self.report());
        let started = self.report().elapsed();
        let switch = self.witness.rotation_change();
        let result = self.send_and_watch(prepared).map_err(|reaction| self.react(&prepared.file, reaction));
        drop(switch);
        let took = self.report().elapsed().saturating_sub(started);
        let witness = urls::report_all(self.witness.finish(), self.report());
        let draft = match &result {
            Ok(stack) => self.release_draft(prepared, Some(stack))?,
            Err(_) => draft,
        };
        self.record(&draft, result.as_ref().err(), took, witness.clone())?;
        let stack = result.map_err(|failure| failure.error)?;
        self.prune(&prepared.file);
        self.remove_unused_objects();
        self.report_deployed(&prepared.file.services, &stack, took);
        let strict = self.context.args.witness.strict;
        Ok(urls::refuse_losses(witness.as_ref(), strict, self.number)?)
    }

    fn record(
        &self,
        draft: &ReleaseDraft,
        failure: Option<&Failure>,
        took: Duration,
        witness: Option<WitnessTotals>,
    ) -> Result<()> {
        let (error, paused) = (failure.map(|f| &f.error), failure.is_some_and(|f| f.paused));
        if error.is_some_and(|e| e.exit == Exit::Unchanged) {
            self.journal().discard(draft);
            return Ok(());
        }
        let result = RunResult { witness, ..RunResult::new(error, paused, took, 0) };
        self.journal().write_config(draft.number, &draft.text)?;
        self.journal().end(self.docker(), draft, result, self.report());
        Ok(())
    }

    /// Sends the change to Swarm, and watches until the services have converged or failed.
    fn send_and_watch(&self, prepared: &PreparedStack) -> Result<ObservedStack, Reaction> {
        match self.try_send_and_watch(prepared) {
            Ok(WatchResult::Converged(stack)) => match self.witness.outage_at_end() {
                None => Ok(stack),
                Some(lost) => Err(self.after_lost_url(lost)),
            },
            Ok(end) => Err(self.after_watch(end)),
            Err(error) => Err(self.after_failed_send(&prepared.file, Error::from_error(error))),
        }
    }

    fn try_send_and_watch(&self, prepared: &PreparedStack) -> Result<WatchResult> {
        let services = &prepared.file.services;
        let rollback_ids = self.ids_to_roll_back(services);
        let goal: fn(&ObservedStack, &str) -> ServiceGoal = match &rollback_ids {
            Some(ids) => {
                self.report().event(Event::SwarmRollback(services.clone().into()));
                ids.iter().try_for_each(|id| self.docker().roll_back_service(id))?;
                ServiceGoal::without_monitor
            }
            None => {
                self.send(prepared)?;
                ServiceGoal::new
            }
        };
        let now = self.observe()?;
        let goals: Vec<ServiceGoal> = services.iter().map(|name| goal(&now, name)).collect();
        let goals = self.sent_goals.get_or_init(|| goals);
        self.watch(goals.clone(), &self.before, rollback_ids.is_some(), self.context.stop.clone())
    }

    /// Ids of the services, if Swarm itself can roll back: the previous spec of each service is exactly the one to restore.
    fn ids_to_roll_back(&self, services: &[String]) -> Option<Vec<String>> {
        let record = self.journal().history.get(self.restored_release()?)?;
        let id = |name: &String| {
            let (service, release) = (self.before.services.get(name)?, record.services.get(name)?);
            let previous = service.previous.as_ref()?;
            (previous.fingerprint() == release.config_hash).then(|| service.id.clone())
        };
        services.iter().map(id).collect()
    }

    fn image_change(&self, name: &str) -> ImageChange {
        // Swarm adds the digest of an image to its name.
        let before =
            self.before.services.get(name).map(|s| s.spec.image().split('@').next().unwrap_or_default());
        let recorded = self.request.record.as_ref().and_then(|record| record.services.get(name));
        let in_file = self.request.config.snapshot.image(name).unwrap_or_default();
        let to = recorded.map_or(in_file, |release| release.image.as_str());
        ImageChange::new(name, before.map(|image| (image.into(), String::new())), (to, ""))
    }

    /// Sends the file, and has Swarm replace unchanged tasks where that is needed.
    fn send(&self, PreparedStack { file, resolve_image, .. }: &PreparedStack) -> Result<()> {
        self.report().event(Event::Images {
            project: self.stack_name().into(),
            by: git::user_and_host(),
            images: file.services.iter().map(|service| self.image_change(service)).collect(),
        });
        self.report().event(Event::DeployingStack {
            stack: self.stack_name().into(),
            services: file.services.clone(),
        });
        let stack = self.update_imported(file, &self.before)?;
        if !stack.services.is_empty() {
            self.docker().stack_deploy(self.stack_name(), &stack.text(), &word(resolve_image))?;
        }
        // Swarm replaces the tasks of changed services by itself. But an update that changes nothing does not resume a
        // paused update (seen with `stop-first`: the remaining slots stayed unchanged).
        let is_unfinished =
            |name: &String| self.before.services.get(name).is_some_and(StackService::has_unfinished_update);
        let is_selected = |name: &&String| self.request.args.force || is_unfinished(name);
        let selected: Vec<&String> = file.services.iter().filter(is_selected).collect();
        if selected.is_empty() {
            return Ok(());
        }
        let now = self.observe()?;
        // A job runs again, changed or not.
        let is_unchanged = |s: &&StackService| {
            let before = self.before.services.get(&s.name);
            !s.spec.is_job() && before.is_some_and(|b| b.spec.same_tasks(&s.spec))
        };
        let mut unchanged =
            selected.into_iter().filter_map(|name| now.services.get(name)).filter(is_unchanged);
        unchanged.try_for_each(|service| self.docker().force_service_update(&service.id))
    }

    /// Watches until all goals are reached, starting from the stack `before`.
    fn watch(
        &self,
        goals: Vec<ServiceGoal>,
        before: &ObservedStack,
        rolling_back: bool,
        stop: StopSignal,
    ) -> Result<WatchResult> {
        let settings = goals.iter().filter_map(|goal| self.config().project.services.get(&goal.service));
        let ready = settings.map(|s| s.settings.timing.deadline).max().unwrap_or_default();
        let (docker, stack, report) = (self.docker(), self.stack_name(), self.report());
        StackWatch { docker, stack, goals, before, ready, rolling_back, report, stop }.run()
    }

    /// Refuses `--prune` with named services: a part of the file does not show which services were removed.
    fn refuse_partial_prune(&self, file: &StackFile) -> Result<(), Error> {
        let is_whole = self.config().project.services.keys().all(|name| file.services.contains(name));
        if self.swarm_args().prune && !is_whole {
            let message = "`--prune` needs the whole stack, and only some of its services are deployed";
            return Err(Error::usage(message).hint("remove `--prune`, or name no service"));
        }
        Ok(())
    }

    /// Removes services that are no longer in the file. Runs last, because a rollback would need them.
    fn prune(&self, file: &StackFile) {
        let (ids, names): (Vec<String>, Vec<String>) =
            self.services_to_prune(file).map(|s| (s.id.clone(), s.name.clone())).unzip();
        if ids.is_empty() {
            return;
        }
        match self.docker().remove_services(&ids) {
            Ok(()) => self.report().event(Event::Removed(names.into())),
            Err(error) => self.report().warn(&Warning::CleanupFailed(format!("{error:#}"))),
        }
    }

    /// Services that are no longer in the file, if `--prune` is given.
    fn services_to_prune(&self, file: &StackFile) -> impl Iterator<Item = &StackService> {
        self.services_outside(file).filter(|_| self.swarm_args().prune)
    }

    fn services_outside(&self, file: &StackFile) -> impl Iterator<Item = &StackService> {
        self.before.services.values().filter(|s| !file.services.contains(&s.name))
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
        Ok(ReleaseDraft {
            number: self.number,
            kind: self.request.kind,
            services: releases.collect(),
            text: self.journal().merged_config(&recorded.text(), &names)?,
            replaced: Vec::new(),
            folder: self.config().folder.clone(),
            keep: self.config().project.keep,
            prune: false,
        })
    }

    fn service_release(&self, name: &str, file: &StackFile, stack: Option<&ObservedStack>) -> ServiceRelease {
        let spec = stack.and_then(|s| s.services.get(name)).map(|s| &s.spec);
        let sent = || Some(file.image(name)).filter(|image| is_pinned(image)).unwrap_or_default();
        let image_id = spec.map_or_else(sent, |spec| spec.image());
        ServiceRelease {
            image: self.image_name(name, image_id),
            image_id: image_id.into(),
            digests: Vec::new(),
            config_hash: spec.map(|s| s.fingerprint()).unwrap_or_default(),
            replicas: spec.and_then(|s| s.replicas()).unwrap_or(0) as u32,
            since: self.number,
            by_flag: self.request.args.image.iter().any(|(service, _)| service == name),
        }
    }

    /// Name of the image in the file, or in the file of the restored release.
    fn image_name(&self, service: &str, id: &str) -> String {
        let image = self.config().snapshot.image(service).unwrap_or_default();
        let mut recorded = self.journal().history.newest_first().filter_map(|r| r.services.get(service));
        match recorded.find(|release| is_pinned(image) && release.image_id == id) {
            Some(release) => release.image.clone(),
            None => image.to_string(),
        }
    }

    fn report_deployed(&self, services: &[String], stack: &ObservedStack, took: Duration) {
        for (name, service) in services.iter().filter_map(|name| stack.services.get_key_value(name)) {
            let (running, wanted) = (service.running_tasks(), service.desired_tasks());
            if service.spec.is_job() {
                self.report().event(Event::SwarmJobDone { service: name.clone(), tasks: wanted });
                continue;
            }
            if service.tasks.iter().filter(|t| t.runs()).count() > wanted {
                self.report().warn(&Warning::TooManyTasks(name.clone()));
            }
            self.report().deployed(Event::Deployed {
                target: name.clone(),
                serving: vec![format!("{} of {wanted}", running.min(wanted))],
                release: self.number,
                restored_release: self.restored_release(),
                in_service: took,
                seconds: took,
            });
        }
    }
}

/// The reference means the same image for ever.
fn is_pinned(reference: &str) -> bool {
    reference.starts_with("sha256:") || reference.contains("@sha256:")
}
