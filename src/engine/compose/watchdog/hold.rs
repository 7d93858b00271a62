//! End of a hold after a kill: requests wait in a relay, and an instance has to answer them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use anyhow::Result;

use super::{KilledRun, POLL};
use crate::docker::inspect::Container;
use crate::model::Service;
use crate::observe::{self, DesiredVersion, TargetReader};
use crate::observed::InstanceState;
use crate::rollout::ports_of_owner;
use crate::rollout::restart::policy_to_restore;
use crate::targets::{Target, is_member};
use crate::wait;

/// An instance of the service that a relay stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    id: String,
    /// Its process exists, or the engine starts it again and again.
    is_live: bool,
    is_ready: bool,
    /// Time of its last start, in a form that can be sorted; empty if it never ran.
    started_at: String,
}

/// Next step towards an instance that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
enum HoldStep {
    /// The instance answers what waits.
    Forward(String),
    /// An instance may still get ready.
    Wait,
    /// Stop these, because two must not run, and start another one.
    Start { id: String, stopping: Vec<String> },
    /// No instance is left that could answer.
    GiveUp,
}

/// Prefers the instance that has been known to run for the longest time: the old one. Each is started once.
fn next_step(owners: &[Owner], tried: &BTreeSet<String>, is_late: bool) -> HoldStep {
    if let Some(ready) = owners.iter().find(|o| o.is_live && o.is_ready) {
        return HoldStep::Forward(ready.id.clone());
    }
    let stopping: Vec<String> = owners.iter().filter(|o| o.is_live).map(|o| o.id.clone()).collect();
    if !stopping.is_empty() && !is_late {
        return HoldStep::Wait;
    }
    let is_untried = |o: &&Owner| !o.is_live && !o.started_at.is_empty() && !tried.contains(&o.id);
    match owners.iter().filter(is_untried).min_by_key(|o| &o.started_at) {
        Some(owner) => HoldStep::Start { id: owner.id.clone(), stopping },
        None if stopping.is_empty() => HoldStep::GiveUp,
        None => HoldStep::Wait,
    }
}

impl KilledRun<'_> {
    /// Ends the holds of the run. True if there were any, so that the proxies have to be set.
    pub(super) fn end_holds(&self) -> Result<bool> {
        let mut any = false;
        for target in &self.targets {
            any |= self.end_hold(target)?;
        }
        Ok(any)
    }

    /// Waits until an instance answers what waits in the relay of a target; starts one if none runs.
    fn end_hold(&self, target: &Target) -> Result<bool> {
        let docker = &self.config.docker;
        let hold = self.config.project.services[target.services()[0]].settings.hold;
        let (mut tried, mut last_start, mut any) = (BTreeSet::new(), Instant::now(), false);
        let mut step = || -> Result<Option<()>> {
            let containers = docker.containers()?;
            let members =
                || containers.iter().filter(|c| is_member(&self.config.project, c, &target.services()));
            let Some(relay) = members().find(|c| c.is_relay() && c.is_running()) else { return Ok(Some(())) };
            any = true;
            if self.is_superseded()? {
                return Ok(Some(()));
            }
            let all = observe::detect(docker, &self.config.project, &containers)?;
            let proxies = observe::proxies_of(docker, &self.config.project, target, &containers, &all)?;
            let (project, desired) = (&self.config.project, &DesiredVersion::default());
            let reader = TargetReader { docker, project, desired, target, proxies };
            let instances = members().filter(|c| !c.is_bridge());
            let owners = instances.map(|c| owner(&reader, c, relay)).collect::<Result<Vec<_>>>()?;
            match next_step(&owners, &tried, last_start.elapsed() >= hold) {
                HoldStep::Forward(id) => {
                    let Some(owner) = containers.iter().find(|c| c.id == id) else { return Ok(None) };
                    let Some(&address) = owner.addresses_reached_from(relay).first() else { return Ok(None) };
                    let service = &project.services[owner.compose().unwrap_or_default().1];
                    let ports = ports_of_owner(service, &reader.proxies, relay, owner);
                    docker.forward_relay(&relay.id, address, &ports)?;
                    Ok(Some(()))
                }
                HoldStep::Wait => Ok(None),
                HoldStep::GiveUp => Ok(Some(())),
                HoldStep::Start { id, stopping } => {
                    if !stopping.is_empty() {
                        docker.stop(&stopping)?;
                    }
                    // One that cannot start is not tried again.
                    let _ = docker.start(std::slice::from_ref(&id));
                    containers.iter().filter(|c| c.id == id).for_each(|c| self.restore_policy(c));
                    (_, last_start) = (tried.insert(id), Instant::now());
                    Ok(None)
                }
            }
        };
        // Requests wait no longer than that. A step that fails is tried again.
        wait::until(POLL, hold * 2, self.context.stop, || Ok::<_, anyhow::Error>(step().unwrap_or(None)))?;
        Ok(any)
    }

    /// Restores the restart policy of an instance that was stopped. A failure matters only when the engine restarts, and the next
    /// run restores the policy, too.
    fn restore_policy(&self, stopped: &Container) {
        let of_run = self.context.journal.in_progress.as_ref().map(|run| &run.restart);
        let service = stopped.compose().and_then(|(_, service)| self.config.project.services.get(service));
        let file = service.and_then(Service::restart);
        if let Some(policy) = policy_to_restore(stopped, of_run.unwrap_or(&BTreeMap::new()), file) {
            let _ = self.config.docker.set_restart(&policy, std::slice::from_ref(&stopped.id));
        }
    }
}

/// Reads an instance that could answer what waits in a relay. An instance with a lower number is older than the relay, so
/// it is of another version than the file.
fn owner(reader: &TargetReader, instance: &Container, relay: &Container) -> Result<Owner> {
    let (_, service) = instance.compose().unwrap_or_default();
    let state = InstanceState::read(&instance.state.status);
    let is_started = instance.age().is_some() && !instance.state.started_at.starts_with("0001");
    let is_ready = || match instance.number() < relay.number() {
        true => reader.is_ready_of_other_version(service, instance),
        false => reader.is_ready(service, instance),
    };
    Ok(Owner {
        id: instance.id.clone(),
        is_live: matches!(state, InstanceState::Running | InstanceState::Broken),
        is_ready: instance.is_running() && is_ready()?,
        started_at: if is_started { instance.state.started_at.clone() } else { String::new() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `o` is the old and `n` the new instance: `O` answers, `o+` runs, `o` has stopped, `o?` never ran.
    fn owners(text: &str) -> Vec<Owner> {
        let one = |word: &str| {
            let id = word[..1].to_lowercase();
            Owner {
                is_ready: word.starts_with(char::is_uppercase),
                is_live: word.ends_with('+') || word.starts_with(char::is_uppercase),
                started_at: match (word.ends_with('?'), id.as_str()) {
                    (true, _) => String::new(),
                    (_, "o") => "2026-01-01T00:00:00Z".into(),
                    _ => "2026-01-02T00:00:00Z".into(),
                },
                id,
            }
        };
        text.split_whitespace().map(one).collect()
    }

    fn step(text: &str, tried: &str, is_late: bool) -> String {
        let tried = tried.split_whitespace().map(String::from).collect();
        match next_step(&owners(text), &tried, is_late) {
            HoldStep::Forward(id) => format!("forward to {id}"),
            HoldStep::Wait => "wait".into(),
            HoldStep::GiveUp => "give up".into(),
            HoldStep::Start { id, stopping } => format!("stop [{}], start {id}", stopping.concat()),
        }
    }

    #[test]
    fn the_old_instance_starts_again_if_none_runs() {
        assert_eq!(step("o n?", "", false), "stop [], start o");
        assert_eq!(step("n o", "", false), "stop [], start o");
        assert_eq!(step("n? o?", "", false), "give up", "none ever ran");
        assert_eq!(step("", "", false), "give up");
    }

    #[test]
    fn an_instance_that_runs_gets_its_time() {
        for late in [false, true] {
            assert_eq!(step("O n?", "", late), "forward to o", "killed before the stop");
            assert_eq!(step("o N", "", late), "forward to n");
        }
        assert_eq!(step("o n+", "", false), "wait");
        assert_eq!(step("o n+", "", true), "stop [n], start o");
    }

    #[test]
    fn each_instance_is_started_once() {
        assert_eq!(step("o+ n", "o", false), "wait");
        assert_eq!(step("o n", "o", false), "stop [], start n", "the old one has failed");
        assert_eq!(step("o n", "n o", false), "give up");
        assert_eq!(step("o n+", "n o", true), "wait", "nothing else is left");
    }

    #[test]
    fn two_instances_never_run_at_a_time() {
        let states = ["O", "o+", "o", "o?"];
        for (old, new) in
            states.iter().flat_map(|o| states.map(|n| (o, n.replace('o', "n").replace('O', "N"))))
        {
            for (tried, late) in ["", "o", "n", "o n"].into_iter().flat_map(|t| [(t, false), (t, true)]) {
                let all = owners(&format!("{old} {new}"));
                let tried: BTreeSet<String> = tried.split_whitespace().map(String::from).collect();
                if let HoldStep::Start { id, stopping } = next_step(&all, &tried, late) {
                    let others = all.iter().filter(|o| o.is_live && o.id != id);
                    assert!(others.map(|o| &o.id).eq(stopping.iter()), "{old} {new}");
                }
            }
        }
    }
}
