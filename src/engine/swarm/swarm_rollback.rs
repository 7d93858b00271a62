//! Failed deploy on Swarm: compose-zd rolls every service back, or leaves the deploy paused.

use std::time::Duration;

use anyhow::Result;

use super::{SwarmDeploy, is_pinned, refuse_if_any};
use crate::error::{Error, Exit};
use crate::model::FailureAction;
use crate::release::RolloutKind;
use crate::report::Event;
use crate::swarm::convergence::{Convergence, ServiceGoal, is_port_taken};
use crate::swarm::observed::{ObservedStack, ServiceSpec, StackService};
use crate::swarm::stack_file::{StackFile, StackOverrides};
use crate::swarm::watch::{self, ServiceFailure, WatchResult};
use crate::wait::StopSignal;

/// Error of a failed deploy; the flag is true if Swarm's update stays paused.
type ErrorAndPaused = (Error, bool);

impl SwarmDeploy<'_> {
    /// Handles a failed send; Swarm may have changed some services already.
    pub fn handle_send_failure(&self, file: &StackFile, error: Error) -> ErrorAndPaused {
        match watch::observe(self.docker(), self.stack_name()) {
            Ok(now) if self.changed_services(file, &now).is_empty() => (error, false),
            Ok(_) => self.roll_back(file, error),
            Err(cause) => (self.unknown_result_error(error, &cause.to_string()), false),
        }
    }

    /// Handles a watch that ended before every service converged.
    pub fn handle_watch_failure(&self, file: &StackFile, end: WatchResult) -> ErrorAndPaused {
        match end {
            WatchResult::Converged(_) => unreachable!("the watch has not failed"),
            WatchResult::Lost(error) => {
                let message = error.message.clone();
                (self.unknown_result_error(error, &message), false)
            }
            WatchResult::Interrupted(signal) => {
                self.report.event(Event::Interrupted);
                self.roll_back(file, Error::interrupted(signal))
            }
            WatchResult::Failed(failure) => self.handle_service_failure(file, &failure),
        }
    }

    /// Handles a public URL that fails although every task runs.
    pub fn handle_lost_url(&self, file: &StackFile, lost: Error) -> ErrorAndPaused {
        let message = format!("every task runs, but {}", lost.message);
        let error = Error { message, ..lost };
        match self.kind {
            RolloutKind::Rollback { .. } => {
                let broken = Error { exit: Exit::Outage, ..error };
                (broken.hint("act now: `compose-zd rollback` restores the previous release"), false)
            }
            _ => self.roll_back(file, error),
        }
    }

    fn handle_service_failure(&self, file: &StackFile, failure: &ServiceFailure) -> ErrorAndPaused {
        let service = &failure.name;
        let error = |message: String| {
            self.with_complaints(Error::new(Exit::StillServing, format!("`{service}`: {message}")), failure)
        };
        match &failure.convergence {
            Convergence::Paused(why) if !self.rolls_back_automatically(service) => {
                (self.paused_error(error(format!("Swarm paused the update: {why}")), failure), true)
            }
            Convergence::Paused(why) => {
                self.roll_back(file, error(format!("Swarm paused the update: {why}")))
            }
            Convergence::RolledBack(why) => {
                self.roll_back(file, error(format!("Swarm rolled the update back: {why}")))
            }
            Convergence::RollbackPaused(why) => {
                let error = error(format!("Swarm paused the rollback: {why}"));
                match self.kind {
                    // Never roll back a rollback.
                    RolloutKind::Rollback { .. } => (self.paused_error(error, failure), true),
                    _ => (self.not_restored_error(error, "the rollback is paused"), false),
                }
            }
            Convergence::Gone => self.handle_removed_service(
                file,
                error("the service was removed during the deploy".into()),
                service,
            ),
            Convergence::Overwritten => (self.overwritten_error(failure), false),
            Convergence::JobFailed => self.roll_back(file, error("the job failed".into())),
            Convergence::Stuck(after) => {
                let error = self.stuck_error(failure, *after);
                if self.rolls_back_automatically(service) {
                    self.roll_back(file, error)
                } else {
                    (self.paused_error(error, failure), true)
                }
            }
            Convergence::Underway | Convergence::Converged => {
                (error("the update makes no progress".into()), false)
            }
        }
    }

    /// Rolls back the other services. Does not create the removed service again.
    fn handle_removed_service(&self, file: &StackFile, error: Error, service: &str) -> ErrorAndPaused {
        let removed = error.message.clone();
        let (error, _) = self.roll_back(file, error);
        if self.before.running_tasks(service) == 0 || error.exit != Exit::StillServing {
            return (error, false);
        }
        let message =
            format!("{removed}; it served before and does not now; the other services are rolled back");
        let hint = format!("act now: `compose-zd deploy {service}` creates the service again");
        (Error { exit: Exit::Outage, message, ..error }.hint(hint), false)
    }

    /// Error for a service that another update changed. compose-zd rolls back neither that update nor the other services.
    fn overwritten_error(&self, failure: &ServiceFailure) -> Error {
        let (name, service) = (self.stack_name(), &failure.name);
        let sent = self.sent_goals.borrow();
        let goal = sent.iter().find(|goal| goal.service == *service);
        let sent_image = goal
            .and_then(|goal| goal.sent.as_ref())
            .map(|spec| short_image(spec.image()))
            .unwrap_or_default();
        let (version, image) = match &failure.service {
            Some(now) => (now.version, short_image(now.spec.image())),
            None => (0, String::new()),
        };
        Error::new(
            Exit::StillServing,
            format!(
                "`{service}`: another update replaced this one: release {} ({sent_image}, version {}) was followed by version \
                 {version} ({image}), from another `docker stack deploy` or `docker service update`, which continues",
                self.number,
                goal.map_or(0, |goal| goal.version)
            ),
        )
        .hint(format!(
            "see the service with `docker service inspect {name}_{service}`, and deploy again after the other update"
        ))
    }

    /// True if compose-zd rolls back a failed update of the service. `failure_action: pause` in the file or a flag prevents
    /// that; Swarm's default, which is also `pause`, does not.
    fn rolls_back_automatically(&self, service: &str) -> bool {
        let file = self.request.project.services.get(service).and_then(|s| s.update_in_file.action);
        let action = self.request.flags.update.action.or(file);
        // A resumed deploy has paused before, because `failure_action: pause` was set.
        let paused = self.journal.in_progress.as_ref().is_some_and(|h| h.paused && h.number == self.number);
        !matches!(self.kind, RolloutKind::Rollback { .. }) && !paused && action != Some(FailureAction::Pause)
    }

    fn stuck_error(&self, failure: &ServiceFailure, after: Duration) -> Error {
        let (running, desired, is_job) = match &failure.service {
            Some(service) => (service.current_tasks(), service.desired_tasks(), service.spec.is_job()),
            None => (0, 0, false),
        };
        let after = after.as_secs_f64();
        let reason = match (is_job, running >= desired) {
            (true, _) => {
                format!("{running} of {desired} tasks completed; no progress for {after:.0}s")
            }
            (false, true) if desired > 0 => format!("tasks keep stopping after their start, for {after:.0}s"),
            (false, _) if desired == 0 => format!("no node has accepted a task for {after:.0}s"),
            (false, _) => {
                format!("{running} of {desired} tasks run the new version; no progress for {after:.0}s")
            }
        };
        let hint = if failure.task_errors.iter().any(|complaint| is_port_taken(complaint)) {
            "free the port on that node (`ss -ltnp` shows its owner), or publish another one"
        } else {
            "give tasks more time to get ready with `--health-deadline`"
        };
        self.with_complaints(Error::new(Exit::StillServing, format!("`{}`: {reason}", failure.name)), failure)
            .hint(hint)
    }

    /// Adds the complaints of Swarm and the last log lines of a failed task. Adds the newest complaint to the message itself,
    /// because the release records the message as its reason.
    fn with_complaints(&self, error: Error, failure: &ServiceFailure) -> Error {
        let message = match failure.task_errors.last() {
            Some(newest) if !error.message.contains(newest.as_str()) => {
                format!("{} ({newest})", error.message)
            }
            _ => error.message.clone(),
        };
        let error = Error { message, ..error };
        let others = failure.task_errors.iter().rev().skip(1).cloned().collect::<Vec<_>>();
        let error = error.detail(&others.join("\n"));
        match failure.task.as_ref().map(|task| (task.name(), self.docker().task_logs(&task.id, 5))) {
            Some((name, Ok(lines))) if !lines.is_empty() => {
                error.detail(&format!("last lines of {name}:")).detail(&lines.join("\n"))
            }
            _ => error,
        }
    }

    /// Services of the file that this deploy changed or created. Leaves out services that another update has changed since,
    /// and jobs, which do not run again.
    fn changed_services<'s>(&self, file: &StackFile, now: &'s ObservedStack) -> Vec<&'s StackService> {
        let sent = self.sent_goals.borrow();
        let is_overwritten =
            |s: &StackService| sent.iter().any(|goal| goal.service == s.name && goal.is_overwritten(s));
        let is_sent = |s: &&StackService| file.services.contains(&s.name) && !is_overwritten(s);
        let differs = |s: &&StackService| match self.before.services.get(&s.name) {
            Some(_) if s.spec.is_job() => false,
            Some(before) => {
                !self.is_rollback_target(&s.name, &s.spec)
                    || !before.spec.same_tasks(&s.spec)
                    || s.has_unfinished_update()
            }
            None => true,
        };
        now.services.values().filter(is_sent).filter(differs).collect()
    }

    /// True if the rollback leads to this spec: the spec before the deploy. If an update was unfinished before the deploy, it
    /// is the spec of the last good release.
    fn is_rollback_target(&self, service: &str, spec: &ServiceSpec) -> bool {
        let Some(before) = self.before.services.get(service) else { return false };
        let last_good = self.journal.history.current().and_then(|r| r.services.get(service));
        match last_good.filter(|_| before.has_unfinished_update()) {
            Some(release) => spec.fingerprint() == release.config_hash,
            None => spec.same_content(&before.spec),
        }
    }

    /// Rolls back every changed service, not only the failed one. Swarm may have rolled some back already.
    fn roll_back(&self, file: &StackFile, error: Error) -> ErrorAndPaused {
        let result = watch::observe(self.docker(), self.stack_name()).and_then(|now| {
            let changed = self.changed_services(file, &now);
            if changed.is_empty() {
                return Ok(());
            }
            self.try_roll_back(&now, changed)
        });
        let lost = || self.witness.outage_at_end().map(|lost| lost.message);
        match result.err().map(|error| error.to_string()).or_else(lost) {
            None => (self.restored_error(error), false),
            Some(rollback_error) => (self.not_restored_error(error, &rollback_error), false),
        }
    }

    fn try_roll_back(&self, now: &ObservedStack, changed: Vec<&StackService>) -> Result<()> {
        let (old, new): (Vec<&StackService>, Vec<&StackService>) =
            changed.into_iter().partition(|s| self.before.services.contains_key(&s.name));
        if !old.is_empty() {
            self.report.event(Event::RollingBack);
        }
        if !new.is_empty() {
            self.docker().remove_services(&new.iter().map(|s| s.id.clone()).collect::<Vec<_>>())?;
            self.report.event(Event::Removed(new.iter().map(|s| s.name.clone()).collect::<Vec<_>>().into()));
        }
        for service in &old {
            let previous_is_target =
                service.previous.as_ref().is_some_and(|p| self.is_rollback_target(&service.name, p));
            match (self.is_rollback_target(&service.name, &service.spec), previous_is_target) {
                (true, _) => {}
                (false, true) => self.docker().roll_back_service(&service.id)?,
                (false, false) => self.send_last_good(&service.name)?,
            }
        }
        let now_stack = watch::observe(self.docker(), self.stack_name())?;
        let goals = old.iter().map(|s| ServiceGoal::without_monitor(&now_stack, &s.name)).collect();
        // A signal must not interrupt a rollback.
        match self.watch(goals, now, true, StopSignal::default())? {
            WatchResult::Converged(_) => Ok(()),
            WatchResult::Failed(failure) => Err(match failure.convergence {
                Convergence::Stuck(after) => self.stuck_error(&failure, after),
                _ => {
                    let error = Error::unchanged(format!("`{}`: {}", failure.name, failure.convergence));
                    self.with_complaints(error, &failure)
                }
            }
            .into()),
            WatchResult::Lost(error) => Err(error.into()),
            WatchResult::Interrupted(signal) => Err(Error::interrupted(signal).into()),
        }
    }

    /// Deploys the recorded last good release of a service that Swarm itself cannot roll back.
    fn send_last_good(&self, service: &str) -> Result<()> {
        let Some(record) = self.journal.history.current().filter(|r| r.services.contains_key(service)) else {
            return Err(Error::unchanged(format!(
                "Swarm has no previous spec of `{service}`, and no release of it is recorded"
            ))
            .into());
        };
        let mut overrides = StackOverrides { services: vec![service.into()], ..StackOverrides::default() };
        let mut snapshot = self.journal.snapshot(record.number)?;
        if let Some(release) = record.services.get(service) {
            if is_pinned(&release.image_id) {
                snapshot.set_image(service, &release.image_id);
            }
            overrides
                .replicas
                .extend((release.replicas > 0).then(|| (service.into(), release.replicas.into())));
        }
        let source = format!("release {}", record.number);
        let mut file = StackFile::from_project(&snapshot.text(), &source, &overrides).map_err(Error::from)?;
        refuse_if_any(&source, std::mem::take(&mut file.refusals))?;
        let stack = self.update_imported(&file, &watch::observe(self.docker(), self.stack_name())?)?;
        if stack.services.is_empty() {
            return Ok(());
        }
        self.docker().stack_deploy(self.stack_name(), &stack.text(), self.resolve_mode(&stack))
    }

    /// Error after a successful rollback: adds what serves now.
    fn restored_error(&self, error: Error) -> Error {
        let exit = match error.exit {
            Exit::Interrupted(signal) => Exit::Interrupted(signal),
            _ => Exit::StillServing,
        };
        let serves = match (self.served_before(), self.journal.history.current()) {
            (false, _) if self.before.services.is_empty() => {
                "nothing served before, and no new service remains".to_string()
            }
            (false, _) => "nothing served before".to_string(),
            (true, Some(record)) => format!("release {} serves", record.number),
            (true, None) => "the version from before the deploy serves".to_string(),
        };
        Error { exit, message: format!("{}; {serves}", error.message), ..error }
    }

    /// True if a task of the stack ran before the deploy.
    fn served_before(&self) -> bool {
        self.before.tasks().any(|t| t.runs())
    }

    fn paused_error(&self, error: Error, failure: &ServiceFailure) -> Error {
        let (name, service) = (self.stack_name(), &failure.name);
        let running = failure.service.as_ref().map_or(0, StackService::running_tasks);
        let serves = running > 0 || self.before.running_tasks(service) == 0;
        let (exit, state) = if serves {
            (Exit::StillServing, "the update stays paused, with old and new tasks side by side")
        } else {
            (Exit::Outage, "the update stays paused, and no task runs")
        };
        let act = if serves { "" } else { "act now: " };
        Error { exit, message: format!("{}; {state}", error.message), ..error }.hint(format!(
            "{act}continue with `compose-zd deploy --resume`, go back with `compose-zd rollback`, or start over with \
             `compose-zd deploy`; see `docker service ps {name}_{service}`"
        ))
    }

    /// Error after a failed rollback, whose own message is `rollback_error`.
    fn not_restored_error(&self, error: Error, rollback_error: &str) -> Error {
        let name = self.stack_name();
        if !self.served_before() {
            let message = format!(
                "{}; nothing served before; the new services could not be removed: {rollback_error}",
                error.message
            );
            return Error { exit: Exit::StillServing, message, ..error }
                .hint(format!("see what runs with `docker stack ps {name}`"));
        }
        let message = format!("{}; the state before could not be restored: {rollback_error}", error.message);
        Error { exit: Exit::Outage, message, ..error }.hint(format!(
            "act now: see what runs with `docker stack ps {name}`, fix the cause, and deploy again"
        ))
    }

    /// Error for an update whose result is not known; Swarm continues it.
    fn unknown_result_error(&self, error: Error, why: &str) -> Error {
        let message = format!(
            "`{}`: the result of the update is not known, because no manager of the Swarm answers; Swarm continues the \
             update: {why}",
            self.stack_name()
        );
        Error { exit: Exit::Outage, message, ..error }
            .hint("deploy again through another manager, with `--context` or `--host`: the deploy continues from the state that it finds")
    }
}

/// Image by its name or the beginning of its id.
fn short_image(image: &str) -> String {
    match image.strip_prefix("sha256:") {
        Some(id) => format!("image {}", id.chars().take(12).collect::<String>()),
        None => format!("`{}`", image.split('@').next().unwrap_or_default()),
    }
}
