//! What is done about a deploy that Swarm did not bring to its end: all of it goes back, or it stays where it is, paused.

use std::time::Duration;

use anyhow::Result;

use super::{SwarmDeploy, is_pinned, refused};
use crate::error::{Error, Exit};
use crate::model::FailureAction;
use crate::release::RolloutKind;
use crate::report::Event;
use crate::swarm::convergence::{Convergence, ServiceGoal, is_port_taken};
use crate::swarm::observed::{ObservedStack, Spec, StackService};
use crate::swarm::stack_file::{StackFile, StackOverrides};
use crate::swarm::watch::{self, ServiceFailure, WatchResult};
use crate::wait::StopSignal;

impl SwarmDeploy<'_> {
    /// Swarm did not take the file; some of its services may be changed all the same.
    pub fn refused(&self, file: &StackFile, error: Error) -> (Error, bool) {
        match watch::look(self.docker(), self.name()) {
            Ok(now) if self.changed(file, &now).is_empty() => (error, false),
            Ok(_) => self.go_back(file, error),
            Err(cause) => (self.unknown(error, &cause.to_string()), false),
        }
    }

    pub fn failed(&self, file: &StackFile, end: WatchResult) -> (Error, bool) {
        match end {
            WatchResult::Converged(_) => unreachable!("it has not failed"),
            WatchResult::Lost(error) => {
                let message = error.message.clone();
                (self.unknown(error, &message), false)
            }
            WatchResult::Interrupted(signal) => {
                self.report.event(Event::Interrupted);
                self.go_back(file, Error::interrupted(signal))
            }
            WatchResult::Failed(failure, standing) => self.stands(file, &failure, standing),
            WatchResult::Stuck(failure, after) => {
                let error = self.stuck(&failure, after);
                match self.goes_back_by_itself(&failure.service) {
                    true => self.go_back(file, error),
                    false => (self.paused(error, &failure), true),
                }
            }
        }
    }

    /// Every task runs, and the public URL gives no good answer.
    pub fn lost(&self, file: &StackFile, lost: Error) -> (Error, bool) {
        let message = format!("every task runs, and {}", lost.message);
        let error = Error { message, ..lost };
        match self.kind {
            RolloutKind::Rollback { .. } => {
                let broken = Error { exit: Exit::Outage, ..error };
                (broken.hint("act now: `compose-zd rollback` returns to what was there before"), false)
            }
            _ => self.go_back(file, error),
        }
    }

    fn stands(&self, file: &StackFile, failure: &ServiceFailure, standing: Convergence) -> (Error, bool) {
        let service = &failure.service;
        let error = |said: String| {
            self.with_complaints(Error::new(Exit::StillServing, format!("`{service}`: {said}")), failure)
        };
        match standing {
            Convergence::Paused(why) if !self.goes_back_by_itself(service) => {
                (self.paused(error(format!("Swarm has paused the update: {why}")), failure), true)
            }
            Convergence::Paused(why) => {
                self.go_back(file, error(format!("Swarm has paused the update: {why}")))
            }
            Convergence::RolledBack(why) => {
                self.go_back(file, error(format!("Swarm has rolled the update back: {why}")))
            }
            Convergence::RollbackPaused(why) => {
                let error = error(format!("Swarm has paused the way back: {why}"));
                match self.kind {
                    // Never roll back a rollback.
                    RolloutKind::Rollback { .. } => (self.paused(error, failure), true),
                    _ => (self.broken(error, "the rollback is paused"), false),
                }
            }
            Convergence::Gone => self.gone_meanwhile(
                file,
                error("the service was removed while it was deployed".into()),
                service,
            ),
            Convergence::Overwritten => (self.overwritten(failure), false),
            Convergence::JobFailed => self.go_back(file, error("the job failed".into())),
            Convergence::Underway | Convergence::Converged => {
                (error("it does not get further".into()), false)
            }
        }
    }

    /// The removal stays: the service is not made again. The others go back.
    fn gone_meanwhile(&self, file: &StackFile, error: Error, service: &str) -> (Error, bool) {
        let removed = error.message.clone();
        let (error, _) = self.go_back(file, error);
        if self.before.running(service) == 0 || error.exit != Exit::StillServing {
            return (error, false);
        }
        let message =
            format!("{removed}; it served before and does not now; the other services are what they were");
        let hint = format!("act now: `compose-zd deploy {service}` creates it again");
        (Error { exit: Exit::Outage, message, ..error }.hint(hint), false)
    }

    /// The later update is in charge of the service: neither is it undone, nor are its neighbours.
    fn overwritten(&self, failure: &ServiceFailure) -> Error {
        let (name, service) = (self.name(), &failure.service);
        let sent = self.sent.borrow();
        let goal = sent.iter().find(|goal| goal.service == *service);
        let ours =
            goal.and_then(|goal| goal.sent.as_ref()).map(|spec| short(spec.image())).unwrap_or_default();
        let (version, image) = match failure.stack.services.get(service) {
            Some(now) => (now.version, short(now.spec.image())),
            None => (0, String::new()),
        };
        Error::new(
            Exit::StillServing,
            format!(
                "`{service}`: another update took the place of this one: Swarm was given release {} ({ours}, version {}), and \
                 then by another `docker stack deploy` or `docker service update` version {version} ({image}), which goes on",
                self.number,
                goal.map_or(0, |goal| goal.version)
            ),
        )
        .hint(format!(
            "`docker service inspect {name}_{service}` shows what it is now; deploy again once the other update is over"
        ))
    }

    /// Whether a failure is undone by us: Swarm's own default is to pause, and nobody asked for that.
    fn goes_back_by_itself(&self, service: &str) -> bool {
        let file = self.request.project.services.get(service).and_then(|s| s.update_asked.action);
        let asked = self.request.flags.update.action.or(file);
        // What is gone on with has paused before, because somebody asked for that.
        let paused = self.journal.heading.as_ref().is_some_and(|h| h.paused && h.number == self.number);
        !matches!(self.kind, RolloutKind::Rollback { .. }) && !paused && asked != Some(FailureAction::Pause)
    }

    fn stuck(&self, failure: &ServiceFailure, after: Duration) -> Error {
        let ServiceFailure { stack, service, .. } = failure;
        let (running, wanted, is_job) = match stack.services.get(service) {
            Some(service) => (stack.current(service), stack.wanted(service), service.spec.is_job()),
            None => (0, 0, false),
        };
        let after = after.as_secs_f64();
        let what = match (is_job, running >= wanted) {
            (true, _) => {
                format!("{running} of {wanted} tasks completed, and nothing got further for {after:.0}s")
            }
            (false, true) if wanted > 0 => format!("its tasks start and do not stay up, for {after:.0}s"),
            (false, _) if wanted == 0 => format!("no node takes a task of it, for {after:.0}s"),
            (false, _) => format!(
                "{running} of {wanted} tasks run what was asked for, and nothing got further for {after:.0}s"
            ),
        };
        let hint = match failure.complaints.iter().any(|said| is_port_taken(said)) {
            true => "free the port on that node (`ss -ltnp` shows its owner), or publish another one",
            false => "`--health-deadline` gives a task more time to get ready",
        };
        self.with_complaints(Error::new(Exit::StillServing, format!("`{service}`: {what}")), failure)
            .hint(hint)
    }

    /// With what Swarm said of the tasks, and what they said last. The newest complaint is part of the message: it is the
    /// reason that is recorded.
    fn with_complaints(&self, error: Error, failure: &ServiceFailure) -> Error {
        let message = match failure.complaints.last() {
            Some(said) if !error.message.contains(said.as_str()) => format!("{} ({said})", error.message),
            _ => error.message.clone(),
        };
        let error = Error { message, ..error };
        let others = failure.complaints.iter().rev().skip(1).cloned().collect::<Vec<_>>();
        let error = error.detail(&others.join("\n"));
        match failure.task.as_ref().map(|task| (task.name(), self.docker().task_logs(&task.id, 5))) {
            Some((name, Ok(lines))) if !lines.is_empty() => {
                error.detail(&format!("last lines of {name}:")).detail(&lines.join("\n"))
            }
            _ => error,
        }
    }

    /// The services of the file that are not what they were, and those that are new. What another update made of one since
    /// is not ours to undo; and a job is not run again.
    fn changed<'s>(&self, file: &StackFile, now: &'s ObservedStack) -> Vec<&'s StackService> {
        let sent = self.sent.borrow();
        let is_others = |s: &StackService| {
            let sent = sent.iter().find(|goal| goal.service == s.name).and_then(|goal| goal.sent.as_ref());
            sent.is_some_and(|sent| !sent.asks_for_same(&s.spec)) && !s.update_state().starts_with("rollback")
        };
        let is_ours = |s: &&StackService| file.services.contains(&s.name) && !is_others(s);
        let differs = |s: &&StackService| match self.before.services.get(&s.name) {
            Some(_) if s.spec.is_job() => false,
            Some(before) => {
                !self.is_goal(&s.name, &s.spec) || !before.spec.same_tasks(&s.spec) || is_halfway(s)
            }
            None => true,
        };
        now.services.values().filter(is_ours).filter(differs).collect()
    }

    /// Whether a spec is the one to go back to: the one before, unless that was halfway itself. Then it is that of the last
    /// release that was good.
    fn is_goal(&self, service: &str, spec: &Spec) -> bool {
        let Some(before) = self.before.services.get(service) else { return false };
        let good = self.journal.history.current().and_then(|r| r.services.get(service));
        match good.filter(|_| is_halfway(before)) {
            Some(placed) => spec.fingerprint() == placed.config_hash,
            None => spec.same_content(&before.spec),
        }
    }

    /// Brings back what was there before: all of it, whichever service failed. Swarm may have done it already.
    fn go_back(&self, file: &StackFile, error: Error) -> (Error, bool) {
        let back = watch::look(self.docker(), self.name()).and_then(|now| {
            let changed = self.changed(file, &now);
            if changed.is_empty() {
                return Ok(());
            }
            self.try_back(&now, changed)
        });
        let lost = || self.witness.outage_at_end().map(|lost| lost.message);
        match back.err().map(|error| error.to_string()).or_else(lost) {
            None => (self.kept(error), false),
            Some(second) => (self.broken(error, &second), false),
        }
    }

    fn try_back(&self, now: &ObservedStack, changed: Vec<&StackService>) -> Result<()> {
        let (old, new): (Vec<&StackService>, Vec<&StackService>) =
            changed.into_iter().partition(|s| self.before.services.contains_key(&s.name));
        if !old.is_empty() {
            self.report.event(Event::GoingBack);
        }
        if !new.is_empty() {
            self.docker().remove_services(&new.iter().map(|s| s.id.clone()).collect::<Vec<_>>())?;
            self.report.event(Event::Removed { names: new.iter().map(|s| s.name.clone()).collect() });
        }
        for service in &old {
            let leads_back = service.previous.as_ref().is_some_and(|p| self.is_goal(&service.name, p));
            match (self.is_goal(&service.name, &service.spec), leads_back) {
                (true, _) => {}
                (false, true) => self.docker().service_rollback(&service.id)?,
                (false, false) => self.send_last_good(&service.name)?,
            }
        }
        let told = watch::look(self.docker(), self.name())?;
        let goals = old.iter().map(|s| ServiceGoal::back(&told, &s.name)).collect();
        // Nothing interrupts it.
        match self.watch(goals, now, true, StopSignal::default())? {
            WatchResult::Converged(_) => Ok(()),
            WatchResult::Failed(failure, standing) => {
                let error = Error::unchanged(format!("`{}`: {}", failure.service, words(&standing)));
                Err(self.with_complaints(error, &failure).into())
            }
            WatchResult::Stuck(failure, after) => Err(self.stuck(&failure, after).into()),
            WatchResult::Lost(error) => Err(error.into()),
            WatchResult::Interrupted(signal) => Err(Error::interrupted(signal).into()),
        }
    }

    /// Where Swarm has no way back of its own: the last release that was good, as it was recorded.
    fn send_last_good(&self, service: &str) -> Result<()> {
        let Some(record) = self.journal.history.current().filter(|r| r.services.contains_key(service)) else {
            return Err(Error::unchanged(format!(
                "Swarm has no spec of `{service}` from before any more, and no release of it is recorded"
            ))
            .into());
        };
        let mut asks = StackOverrides { services: vec![service.into()], ..StackOverrides::default() };
        let mut snapshot = self.journal.snapshot(record.number)?;
        if let Some(placed) = record.services.get(service) {
            if is_pinned(&placed.image_id) {
                snapshot.set_image(service, &placed.image_id);
            }
            asks.replicas.extend((placed.replicas > 0).then(|| (service.into(), placed.replicas.into())));
        }
        let source = format!("release {}", record.number);
        let mut file = StackFile::of(&snapshot.text(), &source, &asks).map_err(Error::from)?;
        refused(&source, std::mem::take(&mut file.refusals))?;
        let stack = self.send_adopted(&file, &watch::look(self.docker(), self.name())?)?;
        match stack.services.is_empty() {
            true => Ok(()),
            false => self.docker().stack_deploy(self.name(), &stack.text(), self.resolve(&stack)),
        }
    }

    fn kept(&self, error: Error) -> Error {
        let exit = match error.exit {
            Exit::Interrupted(signal) => Exit::Interrupted(signal),
            _ => Exit::StillServing,
        };
        let serves = match (self.served(), self.journal.history.current()) {
            (false, _) if self.before.services.is_empty() => {
                "nothing served before, and no service was left behind".to_string()
            }
            (false, _) => "nothing served before".to_string(),
            (true, Some(record)) => format!("release {} serves", record.number),
            (true, None) => "what served before serves".to_string(),
        };
        Error { exit, message: format!("{}; {serves}", error.message), ..error }
    }

    /// A task of the stack ran before.
    fn served(&self) -> bool {
        self.before.tasks.iter().any(|t| t.runs())
    }

    fn paused(&self, error: Error, failure: &ServiceFailure) -> Error {
        let (name, service) = (self.name(), &failure.service);
        let serves = failure.stack.running(service) > 0 || self.before.running(service) == 0;
        let (exit, how) = match serves {
            true => (Exit::StillServing, "it stays as it is, old and new tasks beside each other"),
            false => (Exit::Outage, "it stays as it is, and no task of it runs"),
        };
        let act = if serves { "" } else { "act now: " };
        Error { exit, message: format!("{}; {how}", error.message), ..error }.hint(format!(
            "{act}`compose-zd deploy --resume` goes on, `compose-zd rollback` goes back, and a new `compose-zd deploy` starts \
             over; see `docker service ps {name}_{service}`"
        ))
    }

    fn broken(&self, error: Error, second: &str) -> Error {
        let name = self.name();
        if !self.served() {
            let message = format!(
                "{}; nothing served before; and what is left could not be removed: {second}",
                error.message
            );
            return Error { exit: Exit::StillServing, message, ..error }
                .hint(format!("`docker stack ps {name}` shows what runs"));
        }
        let message = format!("{}; and what was there before could not be restored: {second}", error.message);
        Error { exit: Exit::Outage, message, ..error }.hint(format!(
            "act now: `docker stack ps {name}` shows what runs; deploy again once the cause is gone"
        ))
    }

    /// Nobody can say what became of it; Swarm goes on by itself.
    fn unknown(&self, error: Error, why: &str) -> Error {
        let message = format!(
            "`{}`: no manager of the Swarm answers any more, so it is not known what became of the update, which goes on \
             without us: {why}",
            self.name()
        );
        Error { exit: Exit::Outage, message, ..error }
            .hint("name another manager with `--context` or `--host`, and deploy again: it goes on from what it finds")
    }
}

/// An image by the beginning of its id.
fn short(image: &str) -> String {
    match image.strip_prefix("sha256:") {
        Some(id) => format!("image {}", id.chars().take(12).collect::<String>()),
        None => format!("`{}`", image.split('@').next().unwrap_or_default()),
    }
}

/// Its update has not come to an end.
pub fn is_halfway(service: &StackService) -> bool {
    ["updating", "paused", "rollback_started", "rollback_paused"].contains(&service.update_state())
}

/// How a service stands, in a few words.
pub fn words(standing: &Convergence) -> String {
    match standing {
        Convergence::Underway => "it does not get further".into(),
        Convergence::Converged => "it has converged".into(),
        Convergence::RolledBack(why) => format!("rolled back: {why}"),
        Convergence::Paused(why) => format!("the update is paused: {why}"),
        Convergence::RollbackPaused(why) => format!("the rollback is paused: {why}"),
        Convergence::Gone => "the service was removed meanwhile".into(),
        Convergence::Overwritten => "another update took the place of this one".into(),
        Convergence::JobFailed => "the job failed".into(),
    }
}
