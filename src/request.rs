//! Request: what a run puts in place, from the Compose file, a recorded release, or an unfinished run.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::configuration::Configuration;
use crate::context::Context;
use crate::error::Error;
use crate::model::args::{DeployArgs, RollbackArgs};
use crate::model::{EngineKind, Project};
use crate::release::selection::{self, Selection};
use crate::release::{InProgress, ProjectChanges, ReleaseRecord, RolloutKind, ServiceRelease, images};
use crate::report::Event;
use crate::targets::{self, Target};

/// What a run puts in place.
pub struct Request {
    pub config: Configuration,
    pub kind: RolloutKind,
    /// Named services and flags of a deploy. For a recorded release, only its services.
    pub args: DeployArgs,
    /// Release to restore; `None` for a new version.
    pub record: Option<ReleaseRecord>,
    /// Changes of a rollback besides its rollout.
    pub changes: ProjectChanges,
    /// True for a part of `up`, which itself reports the services that are left alone.
    pub is_of_project: bool,
    /// Unfinished release of an earlier run that this run continues.
    pub unfinished: Option<u32>,
    /// Number of the release; `None` for the next one.
    number: Option<u32>,
}

impl Request {
    /// Request for the next version, by the Compose file.
    pub fn from_file(ctx: &mut Context, args: &DeployArgs) -> Result<Request> {
        let (config, args) = (ctx.configuration()?, args.clone());
        Ok(Request { is_of_project: false, ..Request::of_project(config, args) })
    }

    /// Request for the rollout of a whole project.
    pub fn of_project(config: Configuration, args: DeployArgs) -> Request {
        let kind = RolloutKind::Deploy;
        Request {
            config,
            kind,
            args,
            record: None,
            changes: ProjectChanges::default(),
            is_of_project: true,
            unfinished: None,
            number: None,
        }
    }

    /// Request for an earlier release.
    ///
    /// # Errors
    /// No release to restore; the hint lists those that exist.
    pub fn from_release(ctx: &Context, args: &RollbackArgs) -> Result<Request> {
        let services = services_named(ctx, &args.services, args.to)?;
        let Selection { record, services, changes } = selection::choose(&ctx.journal, &services, args.to)?;
        let release = (ctx.journal.next_number(), RolloutKind::Rollback { to: record.number });
        Ok(Request { changes, ..Request::restore(ctx, record, services, release)? })
    }

    /// Request for the release of a paused rollout.
    ///
    /// # Errors
    /// No rollout is paused, or its record is unreadable.
    pub fn from_paused(ctx: &Context) -> Result<Request> {
        let journal = &ctx.journal;
        selection::require_readable_unfinished(journal)?;
        let paused = journal.in_progress.clone().filter(|h| h.paused);
        let none = || Error::usage("no rollout of this project is paused");
        let hint = "`compose-zd deploy` starts one";
        let Some(InProgress { number, kind, services, .. }) = paused else {
            return Err(none().hint(hint).into());
        };
        let unreadable = || journal.history.unreadable(number).map_or_else(none, Error::from);
        let record = journal.history.get(number).ok_or_else(|| unreadable().hint(hint))?;
        Request::restore(ctx, record, services, (number, kind))
    }

    /// Request to finish the rollout of a killed run; `None` if there is none.
    ///
    /// # Errors
    /// A rollout is paused, or its record is unreadable.
    pub fn from_unfinished(ctx: &Context) -> Result<Option<Request>> {
        let journal = &ctx.journal;
        selection::require_readable_unfinished(journal)?;
        let Some(unfinished) = journal.in_progress.clone() else { return Ok(None) };
        if unfinished.paused {
            return Err(Error::usage("no rollout is unfinished, but one is paused")
                .hint("`compose-zd deploy --resume` continues it, `compose-zd rollback` undoes it")
                .into());
        }
        if let Some(request) = Request::from_incomplete_undo(ctx, &unfinished)? {
            return Ok(Some(request));
        }
        let InProgress { number, kind, services, .. } = unfinished;
        ctx.report.event(Event::Recovering { release: number });
        if let RolloutKind::Rollback { to } = kind {
            let record = selection::restorable_release(journal, to)?;
            return Request::restore(ctx, record, services, (journal.next_number(), kind)).map(Some);
        }
        let mut config = recorded_configuration(ctx, &journal.config(number)?, number)?;
        config.write(journal, number, ctx.args.dry_run)?;
        let args = DeployArgs { services, no_build: true, ..DeployArgs::default() };
        Ok(Some(Request {
            kind,
            is_of_project: false,
            unfinished: Some(number),
            ..Request::of_project(config, args)
        }))
    }

    /// Request to complete the undo of a failed rollout; `None` if it was not being undone, or had no release before it.
    fn from_incomplete_undo(ctx: &Context, unfinished: &InProgress) -> Result<Option<Request>> {
        let journal = &ctx.journal;
        let Some(last_good) = unfinished.last_good.filter(|_| unfinished.undoing) else { return Ok(None) };
        let record = selection::restorable_release(journal, last_good)?;
        let is_recorded = |service: &&String| record.services.contains_key(*service);
        let services: Vec<String> = unfinished.services.iter().filter(is_recorded).cloned().collect();
        if services.is_empty() {
            return Ok(None);
        }
        ctx.report.event(Event::CompletingUndo { release: unfinished.number, restored_release: last_good });
        let kind = RolloutKind::Rollback { to: last_good };
        Request::restore(ctx, record, services, (journal.next_number(), kind)).map(Some)
    }

    /// Request to restore services of the last good release after a failed deploy.
    pub fn from_last_good(ctx: &Context, number: u32, services: &[String]) -> Result<Request> {
        let Some(record) = ctx.journal.history.get(number) else {
            return Err(Error::unchanged(format!("release {number} does not exist")).into());
        };
        let release = (ctx.journal.next_number(), RolloutKind::Rollback { to: number });
        Request::restore(ctx, record, services.to_vec(), release)
    }

    fn restore(
        ctx: &Context,
        record: &ReleaseRecord,
        services: Vec<String>,
        (number, kind): (u32, RolloutKind),
    ) -> Result<Request> {
        let config = match ctx.engine {
            EngineKind::Swarm => {
                recorded_configuration(ctx, &ctx.journal.config(record.number)?, record.number)?
            }
            EngineKind::Compose => restored_configuration(ctx, record, &services, number)?,
        };
        let args = DeployArgs { services, ..DeployArgs::default() };
        Ok(Request {
            config,
            kind,
            args,
            record: Some(record.clone()),
            changes: ProjectChanges::default(),
            is_of_project: false,
            unfinished: None,
            number: Some(number),
        })
    }

    /// Number of the release that the run makes.
    pub fn number(&self, ctx: &Context) -> u32 {
        self.number.unwrap_or_else(|| ctx.journal.next_number())
    }

    /// Recorded services of a release to restore; empty for a new version.
    pub fn restored(&self) -> BTreeMap<String, ServiceRelease> {
        let all = self.record.iter().flat_map(|record| &record.services);
        let named = all.filter(|(service, _)| self.args.services.contains(service));
        named.map(|(service, release)| (service.clone(), release.clone())).collect()
    }
}

/// Recorded configuration of a release.
fn recorded_configuration(ctx: &Context, text: &str, number: u32) -> Result<Configuration> {
    let source = format!("release {number}");
    Configuration::parse(ctx.docker.clone(), text, source, ctx.folder.clone(), ctx.flags.clone())
}

/// Configuration of these services as recorded, with their images, beside the other services as deployed.
fn restored_configuration(
    ctx: &Context,
    record: &ReleaseRecord,
    services: &[String],
    number: u32,
) -> Result<Configuration> {
    let journal = &ctx.journal;
    let mut snapshot = journal.snapshot(record.number)?;
    for service in services {
        let release = &record.services[service];
        let reference = images::ensure_image(&ctx.docker, journal.image_owner(), service, release)?;
        snapshot.set_image(service, &reference);
    }
    let services: Vec<&str> = services.iter().map(String::as_str).collect();
    let text = journal.merged_config(&snapshot.text(), &services)?;
    let mut config = recorded_configuration(ctx, &text, record.number)?;
    config.write(journal, number, ctx.args.dry_run)?;
    Ok(config)
}

/// Services with these names in the current release, with both sides of a pair.
fn services_named(ctx: &Context, names: &[String], to: Option<u32>) -> Result<Vec<String>> {
    let history = &ctx.journal.history;
    let known = history.current().filter(|r| ctx.journal.snapshot(r.number).is_ok());
    let chosen = || to.and_then(|number| history.get(number));
    let Some(current) = known.or_else(chosen).filter(|_| !names.is_empty()) else {
        return Ok(names.to_vec());
    };
    let text = ctx.journal.config(current.number)?;
    let project =
        Project::read(&text, &format!("release {}", current.number), &ctx.flags).map_err(Error::from)?;
    let targets = targets::from_names(&project, names)?;
    Ok(targets.iter().flat_map(Target::services).map(String::from).collect())
}
