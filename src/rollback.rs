//! `rollback` from start to end: a rollout, or the undo of a whole `up`.

use std::cell::OnceCell;

use anyhow::Result;

use crate::context::{Context, Invocation};
use crate::deploy::{flags_without_update, put_in_place};
use crate::engine::swarm;
use crate::model::EngineKind;
use crate::model::args::{self, RollbackArgs};
use crate::release::{ReleaseRecord, RolloutKind};
use crate::report::Event;
use crate::request::Request;
use crate::up;

/// Restores an earlier release.
pub fn rollback(call: Invocation, args: &RollbackArgs) -> Result<()> {
    let context = Context::for_release(call, &args.rollout, flags_without_update(&args.rollout))?;
    let verb = args.to.map_or_else(|| "rollback".into(), |number| format!("rollback --to {number}"));
    context.locked(&args::run_name(&verb, &args.services), |context| {
        if context.engine == EngineKind::Swarm && args.to.is_none() && !context.journal.has_releases() {
            return swarm::rollback_unrecorded(context, &args.services);
        }
        let mut request = Request::from_release(context, args)?;
        let (record, services) = (request.record.clone(), request.args.services.clone());
        if context.engine == EngineKind::Compose && !request.changes.is_empty() {
            up::roll_back(context, request, args)?;
        } else {
            put_in_place(context, &mut request)?;
        }
        if !context.args.dry_run {
            context.journal.end_project_run(&args.services, context.report);
        }
        if let Some(record) = record.filter(|_| !context.args.dry_run) {
            newer_in_file(context, &record, &services)
                .into_iter()
                .for_each(|event| context.report.event(event));
        }
        Ok(())
    })
}

/// Services whose version in the Compose file is another one than a rollback has restored. None if the file is unreadable.
fn newer_in_file(context: &mut Context, record: &ReleaseRecord, services: &[String]) -> Option<Event> {
    let file = context.configuration().ok()?;
    let journal = &context.journal;
    let mut record = record;
    // The configuration of a rollback is that of the release that it restored, with another name of the image.
    while let RolloutKind::Rollback { to } = record.kind
        && let Some(restored) = journal.history.get(to)
    {
        record = restored;
    }
    let restored = journal.snapshot(record.number).ok()?;
    // The journal was read before the rollback.
    let before = journal.history.current();
    let hashes = OnceCell::new();
    let differs = |service: &&String| {
        let of = |record: &ReleaseRecord| record.services.get(*service).cloned();
        let image_id = |record: &ReleaseRecord| of(record).map(|release| release.image_id);
        let has_hash = || {
            let hashes = hashes.get_or_init(|| file.docker.hashes().unwrap_or_default());
            of(record).is_some_and(|release| hashes.get(*service) == Some(&release.config_hash))
        };
        let is_same = file.snapshot.has_same_service(service, &restored) || has_hash();
        // A service that the rollback has started did not run before.
        !is_same || before.and_then(image_id).is_some_and(|id| Some(id) != image_id(record))
    };
    let services: Vec<String> = services.iter().filter(differs).cloned().collect();
    (!services.is_empty()).then(|| Event::NewerInFile { file: file.source.clone(), services })
}
