//! `deploy` and `recover` from start to end: each makes a request, and puts it in place.

use std::time::Duration;

use anyhow::Result;

use crate::context::{Context, Invocation};
use crate::engine::compose::prepare::Prepared;
use crate::engine::compose::{ComposeRun, Outcome};
use crate::engine::swarm;
use crate::error::{Error, Exit};
use crate::model::args::{self, DeployArgs, RolloutArgs};
use crate::model::{EngineKind, FlagLayers, UpdateLayer};
use crate::release::ProjectRun;
use crate::report::Warning;
use crate::request::Request;
use crate::wait::StopSignal;

/// Replaces services by their next version.
///
/// # Errors
/// An [`Error`] whose exit code reports what serves now.
pub fn deploy(call: Invocation, args: &DeployArgs) -> Result<()> {
    if args.resume {
        return resume(call, args);
    }
    let context = Context::for_deploy(call, args, args.rollout.settings(&args.update))?;
    context.locked(&args::run_name("deploy", &args.services), |context| {
        let mut request = Request::from_file(context, args)?;
        put_in_place(context, &mut request)
    })
}

/// Continues a paused rollout.
fn resume(call: Invocation, args: &DeployArgs) -> Result<()> {
    let context = Context::for_release(call, &args.rollout, args.rollout.settings(&args.update))?;
    context.locked("deploy --resume", |context| {
        let mut request = Request::from_paused(context)?;
        put_in_place(context, &mut request)
    })
}

/// Finishes the rollout of a killed run.
///
/// # Errors
/// An [`Error`] whose exit code reports what serves now; also if a run of the project did not end outside of its rollout.
pub fn recover(call: Invocation, args: &RolloutArgs) -> Result<()> {
    let context = Context::for_release(call, args, flags_without_update(args))?;
    context.locked("recover", |context| {
        let request = Request::from_unfinished(context)?;
        let run = context.journal.project_run.as_ref().map(ProjectRun::command);
        match (request, run) {
            (Some(mut request), run) => {
                put_in_place(context, &mut request)?;
                run.iter().for_each(|run| {
                    let rest = format!(
                        "the killed run was `{run}`: run it again for what it has not started or recreated"
                    );
                    context.report.warn(&Warning::Other(rest));
                });
                Ok(())
            }
            (None, Some(run)) => Err(Error::unchanged(format!(
                "`{run}` is unfinished outside of its rollout, so some services may be missing or in another version"
            ))
            .hint(format!("`compose-zd {run}` continues it; `compose-zd plan` shows what differs from the file"))
            .into()),
            (None, None) => {
                let journal = &context.journal;
                let current = journal.history.current().map(|r| r.number);
                context.report.nothing_to_recover(&journal.project, current);
                Ok(())
            }
        }
    })
}

/// Settings by flag of a run that restores or finishes a release.
pub fn flags_without_update(args: &RolloutArgs) -> FlagLayers {
    args.settings(&UpdateLayer::default())
}

/// Puts a request in place, while the run holds the lock.
pub fn put_in_place(context: &mut Context, request: &mut Request) -> Result<()> {
    if context.engine == EngineKind::Swarm {
        return swarm::put_in_place(context, request);
    }
    let prepared = Prepared::new(context, request)?;
    let run = ComposeRun::new(context, request, &prepared);
    let readers = run.readers()?;
    let (mut rollouts, unchanged) = run.plan(&readers)?;
    let reloads = run.plan_reloads(&unchanged)?;
    if rollouts.is_empty() {
        run.report_left_alone()?;
        run.reload(&reloads)?;
        run.clean_up(&unchanged);
        return run.record_unchanged(&unchanged);
    }
    let down = run.preflight(&rollouts)?;
    if context.args.dry_run {
        return run.report_plans(&rollouts, &down);
    }
    run.reload(&reloads)?;
    match run.execute(&mut rollouts, &down)? {
        Outcome::Done(totals) => {
            run.clean_up(&unchanged);
            Ok(run.refuse_losses(totals.as_ref())?)
        }
        Outcome::Failed(error) => Err(error.into()),
        Outcome::Gone { error, release, services } => {
            Err(with_last_good(context, error, release, &services).into())
        }
    }
}

/// Restores the last good release of these services after a failed deploy, and adds the result to the error.
fn with_last_good(context: &Context, error: Error, release: u32, services: &[String]) -> Error {
    match restore_last_good(context, release, services) {
        Ok(()) => Error {
            exit: if error.exit == Exit::Outage { Exit::StillServing } else { error.exit },
            message: format!("{}; release {release} is restored", error.message),
            hint: error.hint.filter(|_| error.exit != Exit::Outage),
            ..error
        },
        Err(cause) => error.detail(&format!("release {release} could not be restored: {cause:#}")),
    }
}

/// Restores these services of a recorded release.
pub fn restore_last_good(context: &Context, release: u32, services: &[String]) -> Result<()> {
    // The failed deploy has reported its losses already.
    let mut args = context.args.clone();
    args.witness.strict = false;
    // The restored release was good before, so it needs no monitor.
    let flags = FlagLayers {
        witness: context.flags.witness.clone(),
        rollback: UpdateLayer { monitor: Some(Duration::ZERO), ..UpdateLayer::default() },
        ..FlagLayers::default()
    };
    let stop = StopSignal::default();
    let mut context = context.for_return(&args, flags, &stop)?;
    let mut request = Request::from_last_good(&context, release, services)?;
    put_in_place(&mut context, &mut request)
}
