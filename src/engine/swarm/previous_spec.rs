//! Rollback of a stack without a recorded release, to the previous specs that Swarm keeps.

use std::time::Duration;

use anyhow::Result;

use crate::context::Context;
use crate::error::{Error, Exit};
use crate::report::Event;
use crate::swarm::convergence::ServiceGoal;
use crate::swarm::observed::{ObservedStack, StackService};
use crate::swarm::watch::{self, StackWatch, WatchResult};

/// Time that a task of the previous spec may take to get ready.
const READY: Duration = Duration::from_secs(60);

/// Rolls services back to their previous specs; all services, if none is named.
///
/// # Errors
/// Swarm has no previous spec, or its rollback fails.
pub fn rollback_unrecorded(context: &Context, named: &[String]) -> Result<()> {
    let Context { docker, report, .. } = context;
    let stack = context.journal.project.as_str();
    let before = watch::observe(docker, stack)?;
    let (names, ids) = with_previous_spec(&before, named);
    if names.is_empty() {
        return Err(Error::usage(format!("stack `{stack}`: cannot roll back: no release is recorded, and Swarm has no previous spec"))
            .hint("`compose-zd deploy` records releases; Swarm loses the previous spec with every update that changes nothing")
            .into());
    }
    if context.args.dry_run {
        let lines: Vec<String> = names.iter().map(|n| format!("`{n}`: restore the previous spec")).collect();
        report.stack_plan(stack, &lines);
        return Ok(());
    }
    report.event(Event::SwarmRollback(names.clone().into()));
    ids.iter().try_for_each(|id| docker.roll_back_service(id))?;
    match watch_rollback(context, &before, &names)? {
        Some(error) => Err(error.into()),
        None => {
            report.swarm_rolled_back(stack, &names);
            Ok(())
        }
    }
}

/// Names and ids of the services whose previous spec differs.
fn with_previous_spec(stack: &ObservedStack, named: &[String]) -> (Vec<String>, Vec<String>) {
    let differs = |s: &&StackService| s.previous.as_ref().is_some_and(|p| !p.same_content(&s.spec));
    let is_named = |s: &&StackService| named.is_empty() || named.contains(&s.name);
    let services = stack.services.values().filter(|s| !s.spec.is_job()).filter(is_named).filter(differs);
    services.map(|s| (s.name.clone(), s.id.clone())).unzip()
}

/// Error of a rollback that did not succeed.
fn watch_rollback(context: &Context, before: &ObservedStack, names: &[String]) -> Result<Option<Error>> {
    let (docker, stack) = (&context.docker, context.journal.project.as_str());
    let now = watch::observe(docker, stack)?;
    let watch = StackWatch {
        docker,
        stack,
        goals: names.iter().map(|service| ServiceGoal::without_monitor(&now, service)).collect(),
        before,
        ready: READY,
        rolling_back: true,
        report: context.report,
        stop: context.stop.clone(),
    };
    Ok(match watch.run()? {
        WatchResult::Converged(_) => None,
        WatchResult::Interrupted(signal) => {
            Some(Error::interrupted(signal).hint("Swarm continues the rollback; see `docker stack ps`"))
        }
        WatchResult::Lost(error) => Some(Error { exit: Exit::Outage, ..error }),
        WatchResult::Failed(failure) => {
            let error = Error::new(Exit::StillServing, failure.to_string());
            Some(error.detail(&failure.task_errors.join("\n")))
        }
    })
}
