//! What is done about a deploy that Swarm did not bring to its end: all of it goes back, or it stays where it is, paused.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;

use super::{Swarm, write_private};
use crate::fault::{Exit, Fault};
use crate::model::FailureAction;
use crate::release::Kind;
use crate::report::Event;
use crate::swarm::file::{Asks, StackFile};
use crate::swarm::state::{Service, Spec, Stack};
use crate::swarm::verdict::{self, Standing};
use crate::swarm::watch::{self, End};
use crate::wait::Stop;

impl Swarm<'_> {
    /// Swarm did not take the file; some of its services may be changed all the same.
    pub fn refused(&self, file: &StackFile, fault: Fault) -> (Fault, bool) {
        match watch::look(self.docker(), self.name()) {
            Ok(now) if self.changed(file, &now).is_empty() => (fault, false),
            Ok(_) => self.go_back(file, fault),
            Err(error) => (self.unknown(fault, &error.to_string()), false),
        }
    }

    pub fn failed(&self, file: &StackFile, end: End) -> (Fault, bool) {
        match end {
            End::Converged(_) => unreachable!("it has not failed"),
            End::Lost(fault) => {
                let message = fault.message.clone();
                (self.unknown(fault, &message), false)
            }
            End::Interrupted(signal) => {
                self.report.event(Event::Interrupted);
                self.go_back(file, Fault::interrupted(signal))
            }
            End::Failed { stack, service, standing } => self.stands(file, &stack, &service, standing),
            End::Stuck { stack, service, after } => {
                let fault = self.stuck(&stack, &service, after);
                match self.goes_back_by_itself(&service) {
                    true => self.go_back(file, fault),
                    false => (self.paused(fault, &service), true),
                }
            }
        }
    }

    fn stands(&self, file: &StackFile, stack: &Stack, service: &str, standing: Standing) -> (Fault, bool) {
        let fault = |said: &str, why: &str| {
            let message = format!("`{service}`: {said}: {why}");
            self.with_complaints(Fault::new(Exit::Kept, message), stack, service)
        };
        match standing {
            Standing::Paused(why) if !self.goes_back_by_itself(service) => {
                (self.paused(fault("Swarm has paused the update", &why), service), true)
            }
            Standing::Paused(why) => self.go_back(file, fault("Swarm has paused the update", &why)),
            Standing::RolledBack(why) => self.go_back(file, fault("Swarm has rolled the update back", &why)),
            Standing::RollbackPaused(why) => {
                let fault = fault("Swarm has paused the way back", &why);
                match self.kind {
                    // Never roll back a rollback.
                    Kind::Rollback { .. } => (self.paused(fault, service), true),
                    _ => (self.broken(fault, "the rollback is paused"), false),
                }
            }
            Standing::Underway | Standing::Converged => (fault("it does not get further", ""), false),
        }
    }

    /// Whether a failure is undone by us: Swarm's own default is to pause, and nobody asked for that.
    fn goes_back_by_itself(&self, service: &str) -> bool {
        let file = self.definition.project.services.get(service).and_then(|s| s.update_asked.action);
        let asked = self.definition.flags.update.action.or(file);
        // What is gone on with has paused before, because somebody asked for that.
        let paused = self.ledger.heading.as_ref().is_some_and(|h| h.paused && h.number == self.number);
        !matches!(self.kind, Kind::Rollback { .. }) && !paused && asked != Some(FailureAction::Pause)
    }

    fn stuck(&self, stack: &Stack, service: &str, after: Duration) -> Fault {
        let (running, wanted) = match stack.services.get(service) {
            Some(service) => (stack.current(service), stack.wanted(service)),
            None => (0, 0),
        };
        let message = format!(
            "`{service}`: {running} of {wanted} tasks run what was asked for, and nothing got further for {:.0}s",
            after.as_secs_f64()
        );
        self.with_complaints(Fault::new(Exit::Kept, message), stack, service)
            .hint("`--health-deadline` gives a task more time to get ready")
    }

    /// With what Swarm says of the tasks, and what they said last.
    fn with_complaints(&self, fault: Fault, stack: &Stack, service: &str) -> Fault {
        let old: BTreeSet<&str> = self.before.tasks.iter().map(|t| t.id.as_str()).collect();
        let said = verdict::complaints(stack, service, |t| old.contains(t.id.as_str()));
        let fault = fault.seen(&said.join("\n"));
        let failed =
            stack.tasks_of(service).filter(|t| t.has_failed() && !old.contains(t.id.as_str())).last();
        match failed.map(|task| (task.name(), self.docker().task_logs(&task.id, 5))) {
            Some((name, Ok(lines))) if !lines.is_empty() => {
                fault.seen(&format!("last lines of {name}:")).seen(&lines.join("\n"))
            }
            _ => fault,
        }
    }

    /// The services of the file that are not what they were; those that are new.
    fn changed<'s>(&self, file: &StackFile, now: &'s Stack) -> Vec<&'s Service> {
        let is_ours = |s: &&Service| file.services.contains(&s.name);
        let differs = |s: &&Service| match self.before.services.get(&s.name) {
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
        let good = self.ledger.history.current().and_then(|r| r.services.get(service));
        match good.filter(|_| is_halfway(before)) {
            Some(placed) => spec.fingerprint() == placed.config_hash,
            None => spec.same_content(&before.spec),
        }
    }

    /// Brings back what was there before: all of it, whichever service failed.
    fn go_back(&self, file: &StackFile, fault: Fault) -> (Fault, bool) {
        self.report.event(Event::GoingBack);
        match self.try_back(file) {
            Ok(()) => (self.kept(fault), false),
            Err(second) => (self.broken(fault, &second.to_string()), false),
        }
    }

    fn try_back(&self, file: &StackFile) -> Result<()> {
        let now = watch::look(self.docker(), self.name())?;
        let changed = self.changed(file, &now);
        let (old, new): (Vec<&Service>, Vec<&Service>) =
            changed.into_iter().partition(|s| self.before.services.contains_key(&s.name));
        self.docker().remove_services(&new.iter().map(|s| s.id.clone()).collect::<Vec<_>>())?;
        for service in &old {
            let leads_back = service.previous.as_ref().is_some_and(|p| self.is_goal(&service.name, p));
            match (self.is_goal(&service.name, &service.spec), leads_back) {
                (true, _) => {}
                (false, true) => self.docker().service_rollback(&service.id)?,
                (false, false) => self.send_last_good(&service.name)?,
            }
        }
        let names: Vec<String> = old.iter().map(|s| s.name.clone()).collect();
        // Nothing interrupts it.
        match self.watch(&names, &now, true, Stop::default())? {
            End::Converged(_) => Ok(()),
            End::Failed { stack, service, standing } => {
                let fault = Fault::unchanged(format!("`{service}`: {}", words(&standing)));
                Err(self.with_complaints(fault, &stack, &service).into())
            }
            End::Stuck { stack, service, after } => Err(self.stuck(&stack, &service, after).into()),
            End::Lost(fault) => Err(fault.into()),
            End::Interrupted(signal) => Err(Fault::interrupted(signal).into()),
        }
    }

    /// Where Swarm has no way back of its own: the last release that was good, as it was recorded.
    fn send_last_good(&self, service: &str) -> Result<()> {
        let Some(record) = self.ledger.history.current().filter(|r| r.services.contains_key(service)) else {
            return Err(Fault::unchanged(format!(
                "Swarm has no spec of `{service}` from before any more, and no release of it is recorded"
            ))
            .into());
        };
        let folder = tempfile::tempdir()?;
        let asks = Asks { services: vec![service.into()], ..Asks::default() };
        let text = self.ledger.config(record.number)?;
        let source = format!("release {}", record.number);
        let file = StackFile::of(&text, &source, &asks, folder.path()).map_err(Fault::from)?;
        write_private(&file.files)?;
        self.docker().stack_deploy(self.name(), &file.text, self.resolve(&file)?)
    }

    fn kept(&self, fault: Fault) -> Fault {
        let exit = match fault.exit {
            Exit::Interrupted(signal) => Exit::Interrupted(signal),
            _ => Exit::Kept,
        };
        let serves = match (self.before.services.is_empty(), self.ledger.history.current()) {
            (true, _) => "nothing served before, and no service was left behind".to_string(),
            (false, Some(record)) => format!("release {} serves", record.number),
            (false, None) => "what served before serves".to_string(),
        };
        Fault { exit, message: format!("{}; {serves}", fault.message), ..fault }
    }

    fn paused(&self, fault: Fault, service: &str) -> Fault {
        let name = self.name();
        let message = format!("{}; it stays as it is, old and new tasks beside each other", fault.message);
        Fault { exit: Exit::Kept, message, ..fault }.hint(format!(
            "`compose-zd deploy --resume` goes on, `compose-zd rollback` goes back, and a new `compose-zd deploy` starts over; \
             see `docker service ps {name}_{service}`"
        ))
    }

    fn broken(&self, fault: Fault, second: &str) -> Fault {
        let message = format!("{}; and what was there before could not be restored: {second}", fault.message);
        Fault { exit: Exit::Broken, message, ..fault }.hint(format!(
            "act now: `docker stack ps {}` shows what runs; deploy again once the cause is gone",
            self.name()
        ))
    }

    /// Nobody can say what became of it; Swarm goes on by itself.
    fn unknown(&self, fault: Fault, why: &str) -> Fault {
        let message = format!(
            "`{}`: no manager of the Swarm answers any more, so it is not known what became of the update, which goes on \
             without us: {why}",
            self.name()
        );
        Fault { exit: Exit::Broken, message, ..fault }
            .hint("name another manager with `--context` or `--host`, and deploy again: it goes on from what it finds")
    }
}

/// Its update has not come to an end.
pub fn is_halfway(service: &Service) -> bool {
    ["updating", "paused", "rollback_started", "rollback_paused"].contains(&service.update_state())
}

/// How a service stands, in a few words.
pub fn words(standing: &Standing) -> String {
    match standing {
        Standing::Underway => "it does not get further".into(),
        Standing::Converged => "it has converged".into(),
        Standing::RolledBack(why) => format!("rolled back: {why}"),
        Standing::Paused(why) => format!("the update is paused: {why}"),
        Standing::RollbackPaused(why) => format!("the rollback is paused: {why}"),
    }
}
