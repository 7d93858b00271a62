//! Failed deploy on Swarm: compose-zd rolls every service back, or leaves the deploy paused.

use std::time::Duration;

use anyhow::Result;

use super::{SwarmDeploy, release_overrides};
use crate::error::{Error, Exit};
use crate::model::{FailureAction, word};
use crate::report::Event;
use crate::swarm::convergence::{Convergence, ServiceGoal, is_port_taken};
use crate::swarm::observed::{ObservedStack, ServiceSpec, StackService};
use crate::swarm::stack_file::StackFile;
use crate::swarm::watch::{ServiceFailure, WatchResult};
use crate::wait::StopSignal;

/// Reaction to a failed update.
pub enum Reaction {
    /// Rolls back every changed service.
    RollBack(Error),
    /// Rolls back the other services; does not create the removed service again.
    RollBackOthers { removed: String, error: Error },
    /// Leaves Swarm's update paused.
    Pause(Error),
    /// Changes nothing.
    Report(Error),
}

/// Failed deploy.
pub struct Failure {
    pub error: Error,
    /// Swarm's update stays paused.
    pub paused: bool,
}

impl SwarmDeploy<'_> {
    pub fn react(&self, file: &StackFile, reaction: Reaction) -> Failure {
        let paused = matches!(reaction, Reaction::Pause(_));
        let error = match reaction {
            Reaction::RollBack(error) => self.roll_back(file, error),
            Reaction::RollBackOthers { removed, error } => self.roll_back_others(file, error, &removed),
            Reaction::Pause(error) | Reaction::Report(error) => error,
        };
        Failure { error, paused }
    }

    /// Reaction to a failed send; Swarm may have changed some services already.
    pub fn after_failed_send(&self, file: &StackFile, error: Error) -> Reaction {
        match self.observe() {
            Ok(now) if self.changed_services(file, &now).is_empty() => Reaction::Report(error),
            Ok(_) => Reaction::RollBack(error),
            Err(cause) => Reaction::Report(self.unknown_result_error(error, &cause.to_string())),
        }
    }

    /// Reaction to a watch that ended before every service converged.
    pub fn after_watch(&self, end: WatchResult) -> Reaction {
        match end {
            WatchResult::Converged(_) => unreachable!("the watch has not failed"),
            WatchResult::Lost(error) => {
                let message = error.message.clone();
                Reaction::Report(self.unknown_result_error(error, &message))
            }
            WatchResult::Interrupted(signal) => {
                self.report().event(Event::Interrupted);
                Reaction::RollBack(Error::interrupted(signal))
            }
            WatchResult::Failed(failure) => self.after_failure(&failure),
        }
    }

    /// Reaction to a public URL that fails although every task runs.
    pub fn after_lost_url(&self, lost: Error) -> Reaction {
        let message = format!("every task runs, but {}", lost.message);
        let error = Error { message, ..lost };
        if self.restored_release().is_none() {
            return Reaction::RollBack(error);
        }
        let hint = "act now: `compose-zd rollback` restores the previous release";
        Reaction::Report(Error { exit: Exit::Outage, ..error }.hint(hint))
    }

    fn after_failure(&self, failure: &ServiceFailure) -> Reaction {
        let error = |message: String| {
            let message = format!("`{}`: {message}", failure.name);
            self.with_complaints(Error::new(Exit::StillServing, message), failure)
        };
        match &failure.convergence {
            Convergence::Paused(why) => {
                self.roll_back_or_pause(error(format!("Swarm paused the update: {why}")), failure)
            }
            Convergence::Stuck(after) => self.roll_back_or_pause(self.stuck_error(failure, *after), failure),
            Convergence::RolledBack(why) => {
                Reaction::RollBack(error(format!("Swarm rolled the update back: {why}")))
            }
            Convergence::JobFailed => Reaction::RollBack(error("the job failed".into())),
            Convergence::RollbackPaused(why) => {
                let error = error(format!("Swarm paused the rollback: {why}"));
                if self.restored_release().is_some() {
                    // Never roll back a rollback.
                    Reaction::Pause(self.paused_error(error, failure))
                } else {
                    Reaction::Report(self.not_restored_error(error, "the rollback is paused"))
                }
            }
            Convergence::Gone => {
                let error = error("the service was removed during the deploy".into());
                Reaction::RollBackOthers { removed: failure.name.clone(), error }
            }
            Convergence::Overwritten => Reaction::Report(self.overwritten_error(failure)),
            Convergence::Underway | Convergence::Converged => {
                Reaction::Report(error("the update makes no progress".into()))
            }
        }
    }

    fn roll_back_or_pause(&self, error: Error, failure: &ServiceFailure) -> Reaction {
        if self.rolls_back_automatically(&failure.name) {
            Reaction::RollBack(error)
        } else {
            Reaction::Pause(self.paused_error(error, failure))
        }
    }

    fn roll_back_others(&self, file: &StackFile, error: Error, removed: &str) -> Error {
        let message = error.message.clone();
        let error = self.roll_back(file, error);
        if self.before.running_tasks(removed) == 0 || error.exit != Exit::StillServing {
            return error;
        }
        let message =
            format!("{message}; it served before and does not now; the other services are rolled back");
        let hint = format!("act now: `compose-zd deploy {removed}` creates the service again");
        Error { exit: Exit::Outage, message, ..error }.hint(hint)
    }

    /// Error for a service that another update changed. compose-zd rolls back neither that update nor the other services.
    fn overwritten_error(&self, failure: &ServiceFailure) -> Error {
        let (name, service) = (self.stack_name(), &failure.name);
        let goal = self.sent_goals().iter().find(|goal| goal.service == *service);
        let sent_image =
            goal.and_then(|g| g.sent.as_ref()).map_or(String::new(), |spec| short_image(spec.image()));
        let sent_version = goal.map_or(0, |goal| goal.version);
        let now = failure.service.as_ref();
        let (version, image) = now.map_or((0, String::new()), |s| (s.version, short_image(s.spec.image())));
        let message = format!(
            "`{service}`: another update replaced this one: release {} ({sent_image}, version {sent_version}) was followed by \
             version {version} ({image}), from another `docker stack deploy` or `docker service update`, which continues",
            self.number
        );
        Error::new(Exit::StillServing, message).hint(format!(
            "see the service with `docker service inspect {name}_{service}`, and deploy again after the other update"
        ))
    }

    fn sent_goals(&self) -> &[ServiceGoal] {
        self.sent_goals.get().map_or(&[], Vec::as_slice)
    }

    /// True if compose-zd rolls back a failed update of the service. `failure_action: pause` in the file or a flag prevents
    /// that; Swarm's default, which is also `pause`, does not.
    fn rolls_back_automatically(&self, service: &str) -> bool {
        let file =
            self.config().project.services.get(service).and_then(|s| s.deploy.update_config.as_ref()?.action);
        let action = self.config().flags.update.action.or(file);
        // A resumed deploy has paused before, because `failure_action: pause` was set.
        let paused = self.journal().in_progress.as_ref().is_some_and(|h| h.paused && h.number == self.number);
        self.restored_release().is_none() && !paused && action != Some(FailureAction::Pause)
    }

    fn stuck_error(&self, failure: &ServiceFailure, after: Duration) -> Error {
        let (running, desired, is_job) = match &failure.service {
            Some(service) => (service.current_tasks(), service.desired_tasks(), service.spec.is_job()),
            None => (0, 0, false),
        };
        let after = after.as_secs_f64();
        let reason = if is_job {
            format!("{running} of {desired} tasks completed; no progress for {after:.0}s")
        } else if desired == 0 {
            format!("no node has accepted a task for {after:.0}s")
        } else if running >= desired {
            format!("tasks keep stopping after their start, for {after:.0}s")
        } else {
            format!("{running} of {desired} tasks run the new version; no progress for {after:.0}s")
        };
        let hint = if failure.task_errors.iter().any(|complaint| is_port_taken(complaint)) {
            "free the port on that node (`ss -ltnp` shows its owner), or publish another one"
        } else {
            "give tasks more time to get ready with `--health-deadline`"
        };
        let message = format!("`{}`: {reason}", failure.name);
        self.with_complaints(Error::new(Exit::StillServing, message), failure).hint(hint)
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
        let is_overwritten = |s: &StackService| {
            self.sent_goals().iter().any(|goal| goal.service == s.name && goal.is_overwritten(s))
        };
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
        let last_good = self.journal().history.current().and_then(|r| r.services.get(service));
        match last_good.filter(|_| before.has_unfinished_update()) {
            Some(release) => spec.fingerprint() == release.config_hash,
            None => spec.same_content(&before.spec),
        }
    }

    /// Rolls back every changed service, not only the failed one. Swarm may have rolled some back already.
    fn roll_back(&self, file: &StackFile, error: Error) -> Error {
        let failed = self.try_roll_back(file).err().map(|error| error.to_string());
        let lost = || self.witness.outage_at_end().map(|lost| lost.message);
        match failed.or_else(lost) {
            None => self.restored_error(error),
            Some(rollback_error) => self.not_restored_error(error, &rollback_error),
        }
    }

    fn try_roll_back(&self, file: &StackFile) -> Result<()> {
        let now = self.observe()?;
        let changed = self.changed_services(file, &now).into_iter();
        let (old, new): (Vec<&StackService>, Vec<&StackService>) =
            changed.partition(|s| self.before.services.contains_key(&s.name));
        if !old.is_empty() {
            self.report().event(Event::RollingBack);
        }
        if !new.is_empty() {
            let (ids, names): (Vec<String>, Vec<String>) =
                new.iter().map(|s| (s.id.clone(), s.name.clone())).unzip();
            self.docker().remove_services(&ids)?;
            self.report().event(Event::Removed(names.into()));
        }
        if old.is_empty() && new.is_empty() { Ok(()) } else { self.restore(&old, &now) }
    }

    /// Restores services that existed before the deploy, and watches until they have converged.
    fn restore(&self, services: &[&StackService], now: &ObservedStack) -> Result<()> {
        for service in services {
            let is_target = |spec: &ServiceSpec| self.is_rollback_target(&service.name, spec);
            match &service.previous {
                _ if is_target(&service.spec) => {}
                Some(previous) if is_target(previous) => self.docker().roll_back_service(&service.id)?,
                _ => self.send_last_good(&service.name)?,
            }
        }
        let then = self.observe()?;
        let goals = services.iter().map(|s| ServiceGoal::without_monitor(&then, &s.name)).collect();
        // A signal must not interrupt a rollback.
        Err(match self.watch(goals, now, true, StopSignal::default())? {
            WatchResult::Converged(_) => return Ok(()),
            WatchResult::Failed(failure) => match failure.convergence {
                Convergence::Stuck(after) => self.stuck_error(&failure, after),
                _ => self.with_complaints(Error::unchanged(failure.to_string()), &failure),
            },
            WatchResult::Lost(error) => error,
            WatchResult::Interrupted(signal) => Error::interrupted(signal),
        }
        .into())
    }

    /// Deploys the recorded last good release of a service that Swarm itself cannot roll back.
    fn send_last_good(&self, service: &str) -> Result<()> {
        let Some(record) = self.journal().history.current().filter(|r| r.services.contains_key(service))
        else {
            return Err(Error::unchanged(format!(
                "Swarm has no previous spec of `{service}`, and no release of it is recorded"
            ))
            .into());
        };
        let mut snapshot = self.journal().snapshot(record.number)?;
        let overrides = release_overrides(&mut snapshot, record, &[service.into()]);
        let source = format!("release {}", record.number);
        let file = StackFile::from_project(&snapshot.text(), &source, &overrides).map_err(Error::from)?;
        let file = file.without_refusals(&source)?;
        let stack = self.update_imported(&file, &self.observe()?)?;
        if stack.services.is_empty() {
            return Ok(());
        }
        self.docker().stack_deploy(self.stack_name(), &stack.text(), &word(&self.resolve_mode(&stack)))
    }

    /// Error after a successful rollback: adds what serves now.
    fn restored_error(&self, error: Error) -> Error {
        let exit = match error.exit {
            Exit::Interrupted(signal) => Exit::Interrupted(signal),
            _ => Exit::StillServing,
        };
        let serves = match (self.served_before(), self.journal().history.current()) {
            (false, _) if self.before.services.is_empty() => {
                "nothing served before, and no new service remains".to_string()
            }
            (false, _) => "nothing served before".to_string(),
            (true, Some(record)) => format!("release {} serves", record.number),
            (true, None) => "the version from before the deploy serves".to_string(),
        };
        extended(error, exit, &serves)
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
        extended(error, exit, state).hint(format!(
            "{act}continue with `compose-zd deploy --resume`, go back with `compose-zd rollback`, or start over with \
             `compose-zd deploy`; see `docker service ps {name}_{service}`"
        ))
    }

    /// Error after a failed rollback, whose own message is `rollback_error`.
    fn not_restored_error(&self, error: Error, rollback_error: &str) -> Error {
        let name = self.stack_name();
        if !self.served_before() {
            let why =
                format!("nothing served before; the new services could not be removed: {rollback_error}");
            return extended(error, Exit::StillServing, &why)
                .hint(format!("see what runs with `docker stack ps {name}`"));
        }
        let why = format!("the state before could not be restored: {rollback_error}");
        extended(error, Exit::Outage, &why).hint(format!(
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

/// Error with a further clause in its message.
fn extended(error: Error, exit: Exit, clause: &str) -> Error {
    Error { exit, message: format!("{}; {clause}", error.message), ..error }
}

/// Image by its name or the beginning of its id.
fn short_image(image: &str) -> String {
    match image.strip_prefix("sha256:") {
        Some(id) => format!("image {}", id.chars().take(12).collect::<String>()),
        None => format!("`{}`", image.split('@').next().unwrap_or_default()),
    }
}
