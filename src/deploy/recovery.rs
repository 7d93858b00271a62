//! What is done about a rollout that failed: pause, go back, or put the last good release back; and how that reads.

use anyhow::Result;

use super::pipeline::Pipeline;
use super::target_rollout::TargetRollout;
use super::targets::Target;
use super::{import_running, rollback};
use crate::docker::inspect::Container;
use crate::error::{Error, Exit};
use crate::model::FailureAction;
use crate::observed::InstanceKey;
use crate::plan::RotationState;
use crate::release::RolloutKind;
use crate::report::{Event, Warning};
use crate::rollout::RolloutFailure;
use crate::wait::RunPhase;

impl Pipeline<'_> {
    /// What is done about a failure: pause where that is asked for, else back to what served before. Tells whether it
    /// paused.
    pub fn failed(&self, parts: &mut [TargetRollout], at: usize, stopped: RolloutFailure) -> (Error, bool) {
        let interrupted = stopped.why.is_interrupt();
        self.stop.enter(RunPhase::GoesBack);
        self.watch.stop();
        // The way back of a run that has lost its lock is another run's. Without an answer of the engine it is ours.
        let _ = self.docker().check_lease();
        if let Some(error) = self.docker().lost_lease() {
            return (error, false);
        }
        parts.iter().for_each(|part| part.replace_failed(&stopped.failed));
        if interrupted {
            self.report.event(Event::Interrupted);
        }
        if parts[at].action() == FailureAction::Pause && !interrupted {
            self.report.event(Event::Paused);
            let settled: Result<Vec<_>, Error> =
                parts.iter_mut().map(|p| p.pause_in_place(&stopped.failed)).collect();
            let settled = settled.and_then(|counts| {
                parts.iter().try_for_each(TargetRollout::hand_back).map_err(Error::from_error)?;
                Ok(counts)
            });
            match settled {
                Ok(counts) => return (self.paused(&parts[at], &counts, stopped.why.into_error()), true),
                Err(error) => {
                    self.report.warn(&Warning::Release(format!("it cannot stay where it is: {error}")))
                }
            }
        }
        self.report.event(Event::GoingBack);
        let (worst, unclean) = self.all_go_back(parts, &stopped.failed);
        let first = stopped.why.into_error();
        let worst = worst.or_else(|| self.witness.outage_at_end());
        let error = match worst {
            None => {
                let error = kept(parts[at].reader.target, parts, &self.orphans(parts), first);
                unclean
                    .into_iter()
                    .fold(error, |error, left| error.detail(&format!("cleaning up failed: {left}")))
            }
            Some(second) => broken(parts[at].reader.target, &self.project().name, first, &second),
        };
        (error, false)
    }

    /// Brings back what served before, of every part. Gives what keeps it from serving, and what was left to clean up;
    /// `failed` are the new instances that failed, by id.
    fn all_go_back(&self, parts: &mut [TargetRollout], failed: &[String]) -> (Option<Error>, Option<Error>) {
        let mut worst = None;
        let mut unclean = None;
        let mut back = Vec::new();
        for part in parts.iter_mut().rev() {
            match part.undo(failed) {
                Ok((rollout, error)) => {
                    back.push(rollout);
                    unclean = error.or(unclean);
                    worst = not_serving(part.standing(), unclean.as_ref()).or(worst);
                }
                Err(error) => worst = Some(error),
            }
        }
        for rollout in back {
            if let Err(error) = rollout.hand_back() {
                self.report.warn(&Warning::MarksLeft(format!("{error:#}")));
            }
        }
        (worst, unclean)
    }

    /// Names of the containers that served its route at the start by another name, and run.
    fn orphans(&self, parts: &[TargetRollout]) -> Vec<String> {
        let ids: Vec<String> = parts.iter().flat_map(TargetRollout::orphans).map(|c| c.id.clone()).collect();
        let now = self.docker().inspect(&ids).unwrap_or_default();
        now.into_iter().filter(Container::is_running).map(|c| c.name().to_string()).collect()
    }

    /// Once the old release is gone nothing can be put back without a deploy.
    ///
    /// # Errors
    /// A public URL that answered before and does not any more.
    pub fn answers_at_the_end(&self, parts: &[TargetRollout]) -> Result<(), Error> {
        let Some(lost) = self.witness.outage_at_end() else { return Ok(()) };
        let names: Vec<String> = parts.iter().map(|p| format!("`{}`", p.name())).collect();
        let (number, project) = (self.number, &self.project().name);
        let message = format!(
            "{}: {}, since release {number} took the place of what served before, which is gone",
            names.join(", "),
            lost.message
        );
        let error = Error { details: lost.details, ..Error::new(Exit::Outage, message) };
        Err(error.hint(format!(
            "act now: `compose-zd rollback` puts the release before back; `docker compose --project-name {project} ps --all` \
             shows what runs"
        )))
    }

    /// # Errors
    /// An old instance that runs beside the new release, and may get its requests.
    pub fn leaves_nothing_running(&self, parts: &[TargetRollout]) -> Result<(), Error> {
        let left =
            parts.iter().flat_map(TargetRollout::left).map(String::as_str).collect::<Vec<_>>().join(", ");
        if left.is_empty() {
            return Ok(());
        }
        let (number, project) = (self.number, &self.project().name);
        let message = format!("{left} could not be removed and runs beside release {number}, which serves");
        Err(Error::new(Exit::StillServing, message).hint(format!(
            "`compose-zd recover` removes it; `docker compose --project-name {project} ps --all` shows what runs"
        )))
    }

    pub fn paused(&self, part: &TargetRollout, counts: &[(usize, usize)], error: Error) -> Error {
        let (new, all) = counts.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let what = match self.kind {
            RolloutKind::Rollback { .. } => "the rollback is paused",
            _ => "the rollout is paused",
        };
        let message = format!(
            "`{}`: {}; {what}: {new} of {all} instances are of release {}, and all that are in rotation serve",
            part.name(),
            error.message,
            self.number
        );
        Error { exit: Exit::StillServing, message, ..error }.hint(
            "`compose-zd deploy --resume` goes on, `compose-zd rollback` goes back, and a new `compose-zd deploy` starts over",
        )
    }

    /// What served before need not have been one release, and may be gone: then the last good one is put back.
    pub fn last_good(&self, parts: &[TargetRollout], error: Error) -> Error {
        let Some(record) = self.journal.history.current().filter(|_| self.kind == RolloutKind::Deploy) else {
            return error;
        };
        let is_gone = |part: &&TargetRollout| !part.standing().gone.is_empty();
        let stray = |part: &&TargetRollout| {
            is_gone(part) || part.served().iter().any(|c| import_running::is_stray(record, self.journal, c))
        };
        let is_seen = error.exit != Exit::Outage || parts.iter().any(|part| is_gone(&part));
        let services: Vec<String> =
            parts.iter().filter(stray).flat_map(|p| p.reader.target.services()).map(String::from).collect();
        let serves = parts.iter().any(|part| !part.left().is_empty());
        if services.is_empty() || serves || !is_seen {
            return error;
        }
        match rollback::restore_last_good(self, record.number, &services) {
            Ok(()) => Error {
                exit: if error.exit == Exit::Outage { Exit::StillServing } else { error.exit },
                message: format!("{}; release {} is put back", error.message, record.number),
                hint: error.hint.filter(|_| error.exit != Exit::Outage),
                ..error
            },
            Err(cause) => {
                error.detail(&format!("release {} could not be put back: {cause:#}", record.number))
            }
        }
    }
}

/// Fewer instances serve than before; `why` is what kept them from coming back.
fn not_serving(standing: &RotationState, why: Option<&Error>) -> Option<Error> {
    let gone = standing.gone.join(", ");
    let why = why.map(|error| format!(": {}", error.message)).unwrap_or_default();
    standing.is_worse().then(|| Error::unchanged(format!("{gone} served before and does not serve now{why}")))
}

/// As many serve as before: the old release, and new instances in the place of those of it that are gone.
fn kept(target: &Target, parts: &[TargetRollout], orphans: &[String], error: Error) -> Error {
    let names =
        |of: fn(&RotationState) -> &Vec<InstanceKey>| parts.iter().flat_map(move |p| of(p.standing()));
    let serving: Vec<&str> = names(|s| &s.still).chain(orphans).map(String::as_str).collect();
    let gone: Vec<&str> = names(|s| &s.gone).map(String::as_str).collect();
    let instead: Vec<&str> = names(|s| &s.instead).map(String::as_str).collect();
    let mut serves = match serving[..] {
        [] if gone.is_empty() => "nothing served before, and nothing was left behind".to_string(),
        [] => "what served before is gone".to_string(),
        [one] => format!("{one} served before and still serves"),
        _ => format!("{} served before and still serve", serving.join(", ")),
    };
    if !gone.is_empty() {
        serves +=
            &format!("; in the place of {}, which cannot come back: {}", gone.join(", "), instead.join(", "));
    }
    let exit = match error.exit {
        Exit::Interrupted(signal) => Exit::Interrupted(signal),
        _ => Exit::StillServing,
    };
    Error { exit, message: format!("`{}`: {}; {serves}", target.name(), error.message), ..error }
}

fn broken(target: &Target, project: &str, first: Error, second: &Error) -> Error {
    let (name, first_message, second_message) = (target.name(), &first.message, &second.message);
    let mut error = Error::new(
        Exit::Outage,
        format!("`{name}`: {first_message}; and what served before could not be restored: {second_message}"),
    );
    error.details = [first.details, second.details.clone()].concat();
    error.hint(format!(
        "act now: `docker compose --project-name {project} ps --all` shows what runs; deploy again once the cause is gone"
    ))
}
