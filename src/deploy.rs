//! `deploy`, `rollback` and `recover` from start to end: each makes a request, and puts it in place.

pub mod check;
pub mod dependents;
mod desired;
mod history;
mod init;
mod pipeline;
pub mod prefetch;
mod preflight_targets;
mod probe_urls;
mod prune;
mod recovery;
mod serving;
mod status;
pub mod swarm_deploy;
mod target_rollout;

use anyhow::Result;

use crate::context::{Context, Invocation};
use crate::model::args::{self, DeployArgs, RollbackArgs, RolloutArgs};
use crate::model::{EngineKind, FlagLayers, UpdateLayer};
use crate::request::Request;
use crate::request::prepared::Prepared;
pub use check::check;
pub use history::history;
pub use init::init;
use pipeline::Pipeline;
pub use prune::prune;
pub use status::status;

/// Replaces services by their next version.
///
/// # Errors
/// An [`Error`](crate::error::Error) whose exit code reports what serves now.
pub fn deploy(call: Invocation, args: &DeployArgs) -> Result<()> {
    if args.resume {
        return resume(call, args);
    }
    let context = Context::for_deploy(call, args, args.rollout.settings(&args.update))?;
    context.locked(&args::run_name("deploy", &args.services), |context| {
        let request = Request::from_file(context, args)?;
        put_in_place(context, request)
    })
}

/// Continues a paused rollout.
fn resume(call: Invocation, args: &DeployArgs) -> Result<()> {
    let context = Context::for_release(call, &args.rollout, args.rollout.settings(&args.update))?;
    context.locked("deploy --resume", |context| {
        let request = Request::from_paused(context)?;
        put_in_place(context, request)
    })
}

/// Restores an earlier release.
pub fn rollback(call: Invocation, args: &RollbackArgs) -> Result<()> {
    let context = Context::for_release(call, &args.rollout, flags_without_update(&args.rollout))?;
    context.locked(&args::run_name("rollback", &args.services), |context| {
        if context.engine == EngineKind::Swarm && args.to.is_none() && !context.journal.has_releases() {
            return swarm_deploy::rollback_unrecorded(context, &args.services);
        }
        let request = Request::from_release(context, args)?;
        put_in_place(context, request)
    })
}

/// Finishes the rollout of a killed run.
pub fn recover(call: Invocation, args: &RolloutArgs) -> Result<()> {
    let context = Context::for_release(call, args, flags_without_update(args))?;
    context.locked("recover", |context| match Request::from_unfinished(context)? {
        Some(request) => put_in_place(context, request),
        None => {
            let journal = &context.journal;
            let current = journal.history.current().map(|r| r.number);
            context.report.nothing_to_recover(&journal.project, current);
            Ok(())
        }
    })
}

fn flags_without_update(args: &RolloutArgs) -> FlagLayers {
    args.settings(&UpdateLayer::default())
}

/// Puts a request in place, while the run holds the lock.
fn put_in_place(context: &mut Context, mut request: Request) -> Result<()> {
    if context.engine == EngineKind::Swarm {
        return swarm_deploy::put_in_place(context, request);
    }
    let prepared = Prepared::new(context, &mut request)?;
    let pipeline = Pipeline::new(context, &request, &prepared);
    let readers = pipeline.readers()?;
    let (mut rollouts, unchanged) = pipeline.plan(&readers)?;
    if rollouts.is_empty() {
        pipeline.clean_up(&unchanged);
        return pipeline.record_unchanged(&unchanged);
    }
    let down = pipeline.preflight(&rollouts)?;
    if context.args.dry_run {
        return pipeline.report_plans(&rollouts, &down);
    }
    let totals = pipeline.execute(&mut rollouts, &down)?;
    pipeline.clean_up(&unchanged);
    Ok(pipeline.refuse_losses(totals.as_ref())?)
}
