//! Handling of a failed rollout: pause, undo or restore the last good release; and the messages for it.

use anyhow::Result;

use super::target_rollout::TargetRollout;
use super::{ComposeRun, Outcome, RunEnd, StageFailure};
use crate::docker::inspect::Container;
use crate::engine::compose::import_running;
use crate::error::{Error, Exit};
use crate::model::FailureAction;
use crate::observed::InstanceKey;
use crate::plan::RotationState;
use crate::release::RolloutKind;
use crate::report::{Event, Warning};
use crate::targets::Target;
use crate::wait::RunPhase;

/// Hint after an undo that has left something.
const UNDO_HINT: &str = "`compose-zd recover` completes the undo; `compose-zd status` shows what runs";

/// The same hint where no release is recorded that `recover` could restore.
const FIRST_UNDO_HINT: &str =
    "`compose-zd deploy` tries again and cleans up; `compose-zd status` shows what runs";

/// Result of the undo of all rollouts.
struct Undone {
    /// Worst failure.
    not_serving_error: Option<Error>,
    /// Error that left something to clean up.
    cleanup_error: Option<Error>,
    /// Marks are left in a proxy.
    marks_left: bool,
}

impl ComposeRun<'_> {
    /// Handles a failure: pauses if the policy requires it, else undoes the rollouts.
    pub(super) fn handle_failure(&self, rollouts: &mut [TargetRollout], failure: StageFailure) -> RunEnd {
        let StageFailure { at, failure } = failure;
        let is_interrupt = failure.reason.is_interrupt();
        self.context.stop.enter(RunPhase::GoingBack);
        self.monitor.stop();
        // A run that lost its lock must not undo anything. Without an answer of the engine it still holds the lock.
        let _ = self.docker().check_lease();
        if let Some(error) = self.docker().lost_lease() {
            return RunEnd::Failed(error);
        }
        rollouts.iter().for_each(|rollout| rollout.replace_failed(&failure.failed));
        if is_interrupt {
            self.report.event(Event::Interrupted);
        }
        if rollouts[at].action() == FailureAction::Pause && !is_interrupt {
            match self.pause(rollouts, &failure.failed) {
                Ok(counts) => {
                    let error = self.paused_error(&rollouts[at], &counts, failure.reason.into_error());
                    return RunEnd::Paused(error);
                }
                Err(error) => {
                    self.report.warn(&Warning::Other(format!("the rollout cannot be paused: {error}")))
                }
            }
        }
        self.report.event(Event::RollingBack);
        let Undone { not_serving_error, cleanup_error, marks_left } =
            self.undo_all(rollouts, &failure.failed);
        let (target, cause) = (rollouts[at].reader.target, failure.reason.into_error());
        if let Some(restore_error) = not_serving_error.or_else(|| self.witness.outage_at_end()) {
            return RunEnd::Failed(broken_error(target, &self.project().name, cause, &restore_error));
        }
        let error = kept_error(target, rollouts, &self.running_orphans(rollouts), cause);
        let error = self.holds.summary().iter().fold(error, |error, held| error.detail(held));
        if cleanup_error.is_none() && !marks_left {
            return RunEnd::Failed(error);
        }
        let left = rollouts.iter().flat_map(TargetRollout::not_undone);
        let left: Vec<String> = left.map(|c| c.short_name(&self.project().name)).collect();
        let left = (!left.is_empty()).then(|| format!("left of the failed release: {}", left.join(", ")));
        let cleanup_error = cleanup_error.map(|error| format!("cleaning up failed: {error}"));
        let details = cleanup_error.into_iter().chain(left);
        let hint = self.journal().history.current().map_or(FIRST_UNDO_HINT, |_| UNDO_HINT);
        RunEnd::NotUndone(details.fold(error, |error, detail| error.detail(&detail)).hint(hint))
    }

    /// Pauses every rollout, and hands the routes back. Returns the numbers of new instances and of all.
    fn pause(&self, rollouts: &mut [TargetRollout], failed: &[String]) -> Result<Vec<(usize, usize)>, Error> {
        self.report.event(Event::Paused);
        let counts = rollouts.iter_mut().map(|p| p.pause_in_place(failed)).collect::<Result<_, Error>>()?;
        rollouts.iter().try_for_each(TargetRollout::hand_back).map_err(Error::from_error)?;
        Ok(counts)
    }

    /// Undoes every rollout, dependents first; but first of all those with these failed new instances, whose service may
    /// have no other instance in rotation.
    fn undo_all(&self, rollouts: &mut [TargetRollout], failed: &[String]) -> Undone {
        let (mut not_serving_error, mut cleanup_error, mut marks_left) = (None, None, false);
        let mut undone = Vec::new();
        let mut in_order: Vec<&mut TargetRollout> = rollouts.iter_mut().rev().collect();
        in_order.sort_by_key(|rollout| !rollout.has_container(failed));
        for rollout in in_order {
            match rollout.undo(failed) {
                Ok((undone_rollout, error)) => {
                    undone.push(undone_rollout);
                    cleanup_error = error.or(cleanup_error);
                    not_serving_error =
                        not_serving(rollout.rotation_state(), cleanup_error.as_ref()).or(not_serving_error);
                }
                Err(error) => not_serving_error = Some(error),
            }
        }
        for rollout in undone {
            if let Err(error) = rollout.hand_back() {
                marks_left = true;
                self.report.warn(&Warning::ProxyMarksLeft(format!("{error:#}")));
            }
        }
        Undone { not_serving_error, cleanup_error, marks_left }
    }

    /// Names of the running orphans.
    fn running_orphans(&self, rollouts: &[TargetRollout]) -> Vec<String> {
        let ids: Vec<String> =
            rollouts.iter().flat_map(TargetRollout::orphans).map(|c| c.id.clone()).collect();
        let now = self.docker().inspect(&ids).unwrap_or_default();
        now.into_iter().filter(Container::is_running).map(|c| c.name().to_string()).collect()
    }

    /// Fails if a public URL answered before and does not answer now. The old release is gone, so only a deploy
    /// could restore it.
    pub fn check_public_urls(&self, rollouts: &[TargetRollout]) -> Result<(), Error> {
        let Some(lost) = self.witness.outage_at_end() else { return Ok(()) };
        let names: Vec<String> = rollouts.iter().map(|p| format!("`{}`", p.name())).collect();
        let (number, project) = (self.number, &self.project().name);
        let message = format!(
            "{}: {}, since release {number} replaced the previous release, which is gone",
            names.join(", "),
            lost.message
        );
        let error = Error { details: lost.details, ..Error::new(Exit::Outage, message) };
        Err(error.hint(format!(
            "act now: `compose-zd rollback` restores the previous release; `docker compose --project-name {project} ps --all` \
             shows what runs"
        )))
    }

    /// Fails if an old instance still runs beside the new release, because it may get requests.
    pub fn check_leftovers(&self, rollouts: &[TargetRollout]) -> Result<(), Error> {
        let left = rollouts
            .iter()
            .flat_map(TargetRollout::left_running)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ");
        if left.is_empty() {
            return Ok(());
        }
        let (number, project) = (self.number, &self.project().name);
        let message = format!("{left} could not be removed and runs beside release {number}, which serves");
        Err(Error::new(Exit::StillServing, message).hint(format!(
            "`compose-zd recover` removes it; `docker compose --project-name {project} ps --all` shows what runs"
        )))
    }

    pub fn paused_error(&self, rollout: &TargetRollout, counts: &[(usize, usize)], error: Error) -> Error {
        let (new, all) = counts.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let what = match self.kind {
            RolloutKind::Rollback { .. } => "the rollback is paused",
            _ => "the rollout is paused",
        };
        let message = format!(
            "`{}`: {}; {what}: {new} of {all} instances are of release {}, and all in rotation serve",
            rollout.name(),
            error.message,
            self.number
        );
        Error { exit: Exit::StillServing, message, ..error }.hint(
            "`compose-zd deploy --resume` continues, `compose-zd rollback` undoes it, and a new `compose-zd deploy` starts over",
        )
    }

    /// Failure of the run, after an undo. The last good release has to be restored if the instances before belonged to
    /// no single release, or are gone.
    pub fn failure(&self, rollouts: &[TargetRollout], error: Error) -> Outcome {
        match self.services_to_restore(rollouts, &error) {
            Some((release, services)) => Outcome::Gone { error, release, services },
            None => Outcome::Failed(error),
        }
    }

    /// The next run has to complete the undo of this one, or that of an earlier run. The last good release of stray
    /// instances may also be restored by this run, which then clears the record.
    pub(super) fn is_undo_incomplete(&self, end: &RunEnd, rollouts: &[TargetRollout]) -> bool {
        match end {
            RunEnd::Serves | RunEnd::Paused(_) => false,
            RunEnd::NotUndone(_) => true,
            RunEnd::Failed(error) if error.exit == Exit::Outage => false,
            RunEnd::Failed(error) => {
                self.journal().is_undoing() || self.services_to_restore(rollouts, error).is_some()
            }
        }
    }

    /// Last good release that a failed run has to restore, and its services.
    fn services_to_restore(&self, rollouts: &[TargetRollout], error: &Error) -> Option<(u32, Vec<String>)> {
        let record = self.journal().history.current().filter(|_| self.kind == RolloutKind::Deploy)?;
        let is_gone = |rollout: &&TargetRollout| !rollout.rotation_state().gone.is_empty();
        let has_stray = |rollout: &&TargetRollout| {
            is_gone(rollout)
                || rollout.served().iter().any(|c| import_running::is_stray(record, self.journal(), c))
        };
        let is_seen = error.exit != Exit::Outage || rollouts.iter().any(|rollout| is_gone(&rollout));
        let strays = rollouts.iter().filter(has_stray).flat_map(|p| p.reader.target.services());
        let services: Vec<String> = strays.map(String::from).collect();
        let is_left_running = rollouts.iter().any(|rollout| !rollout.left_running().is_empty());
        let is_needed = !services.is_empty() && !is_left_running && is_seen;
        is_needed.then_some((record.number, services))
    }
}

/// Error if fewer instances serve than before; `cause` kept them from returning.
fn not_serving(rotation: &RotationState, cause: Option<&Error>) -> Option<Error> {
    let gone = rotation.gone.join(", ");
    let cause = cause.map(|error| format!(": {}", error.message)).unwrap_or_default();
    rotation
        .is_worse()
        .then(|| Error::unchanged(format!("{gone} served before and does not serve now{cause}")))
}

/// Error of a complete undo: as many instances serve as before, possibly new ones in the place of missing old ones.
fn kept_error(target: &Target, rollouts: &[TargetRollout], orphans: &[String], error: Error) -> Error {
    let names = |of: fn(&RotationState) -> &Vec<InstanceKey>| {
        rollouts.iter().flat_map(move |p| of(p.rotation_state()))
    };
    let serving: Vec<&str> = names(|s| &s.still_serving).chain(orphans).map(String::as_str).collect();
    let gone: Vec<&str> = names(|s| &s.gone).map(String::as_str).collect();
    let replacements: Vec<&str> = names(|s| &s.replacements).map(String::as_str).collect();
    let mut serving_now = match serving[..] {
        [] if gone.is_empty() => "nothing served before, and nothing is left behind".to_string(),
        [] => "what served before is gone".to_string(),
        [one] => format!("{one} served before and still serves"),
        _ => format!("{} served before and still serve", serving.join(", ")),
    };
    if !gone.is_empty() {
        serving_now += &format!(
            "; in the place of {}, which cannot come back: {}",
            gone.join(", "),
            replacements.join(", ")
        );
    }
    let exit = match error.exit {
        Exit::Interrupted(signal) => Exit::Interrupted(signal),
        _ => Exit::StillServing,
    };
    Error { exit, message: format!("`{}`: {}; {serving_now}", target.name(), error.message), ..error }
}

fn broken_error(target: &Target, project: &str, cause: Error, restore_error: &Error) -> Error {
    let (name, first_message, second_message) = (target.name(), &cause.message, &restore_error.message);
    let mut error = Error::new(
        Exit::Outage,
        format!("`{name}`: {first_message}; and what served before could not be restored: {second_message}"),
    );
    error.details = [cause.details, restore_error.details.clone()].concat();
    error.hint(format!(
        "act now: `docker compose --project-name {project} ps --all` shows what runs; fix the cause, then `compose-zd deploy`"
    ))
}
