//! Watchdog: a process of its own beside a rollout. If the run is killed, a proxy may still send requests to addresses
//! that its pins name. Once the containers change without a new run (`docker compose up`), the watchdog sets the proxies
//! to the containers that run, and hands the routes back. Where requests wait in a relay, it has an instance answer them.

mod hold;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::configuration::{Configuration, connect};
use crate::context::{Context, Invocation};
use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::docker::lock_resource::LockBackend;
use crate::lock::{self, LockOwner};
use crate::model::args::RolloutArgs;
use crate::model::{EngineKind, FlagLayers};
use crate::observe::{self, DesiredVersion, TargetReader};
use crate::process::{self, Liveness, ProcessInput};
use crate::proxy::converge::{self, Pursuit};
use crate::proxy::{Discovery, Endpoint, Goal, Proxy, Rotation, endpoints, other_containers};
use crate::targets::{self, Target, is_member};
use crate::wait::{self, StopSignal, WaitResult};

/// Time after a kill for which the watchdog stays.
const LIFETIME: Duration = Duration::from_secs(900);

/// Interval at which the containers are read.
const POLL: Duration = Duration::from_millis(500);

/// Time in which a process that was killed becomes a dead owner of the lock.
const DEATH: Duration = Duration::from_secs(5);

/// Time without a change after the last repair, until the containers count as settled.
const SETTLED: Duration = Duration::from_secs(10);

/// Message that ends the watchdog of a run that was not killed.
const DISMISSAL: &[u8] = b"done";

/// Watchdog of this run; dismissed on drop.
pub struct Watchdog(ProcessInput);

impl Watchdog {
    /// Starts the watchdog of this run. It is the first thing that a run does, because a proxy that keeps addresses needs a
    /// watchdog wherever the run is killed. Without a watchdog, the next run cleans up.
    pub fn start() -> Option<Watchdog> {
        let own = ["__watchdog", "--"].map(OsString::from).into_iter();
        let words: Vec<OsString> = own.chain(std::env::args_os()).collect();
        process::start_self_beside(&words).ok().map(Watchdog)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // A watchdog that has ended needs no message.
        let _ = self.0.write_all(DISMISSAL);
    }
}

/// Does the work of a watchdog, with the command line of its run. `services` are those that the command line names.
///
/// # Errors
/// The engine or a record cannot be read. The next run cleans up then.
pub fn watch(call: Invocation, services: &[String], args: &RolloutArgs, flags: FlagLayers) -> Result<()> {
    process::leave_session();
    let mut message = Vec::new();
    std::io::stdin().read_to_end(&mut message)?;
    if message == DISMISSAL {
        return Ok(());
    }
    // Before anything that takes time, because a user may run Compose at once.
    let known = running(&connect(call.compose, call.report)?)?;
    let mut context = Context::for_release(call, args, flags)?;
    if context.engine == EngineKind::Swarm {
        return Ok(());
    }
    let WaitResult::Done(owner) = dead_owner(&context)? else { return Ok(()) };
    let (config, targets) = what_was_deployed(&mut context, services)?;
    KilledRun { context: &context, config, targets, owner }.watch(known)
}

/// Configuration and targets of the killed run: of its release, else of the file.
fn what_was_deployed(context: &mut Context, services: &[String]) -> Result<(Configuration, Vec<Target>)> {
    let Some(unfinished) = context.journal.in_progress.clone() else {
        let config = context.configuration()?;
        let proxies = observe::detect(&config.docker, &config.project, &config.docker.containers()?)?;
        let targets = targets::select(&config.project, services, &[], &proxies)?;
        return Ok((config, targets));
    };
    let (text, source) =
        (context.journal.config(unfinished.number)?, format!("release {}", unfinished.number));
    let (docker, folder, flags) = (context.docker.clone(), context.folder.clone(), context.flags.clone());
    let config = Configuration::parse(docker, &text, source, folder, flags)?;
    let targets = targets::from_names(&config.project, &unfinished.services)?;
    Ok((config, targets))
}

/// Waits until the owner of the project's lock is dead. `None` is a run that was killed before it had the lock. Times out
/// if another run has the lock.
fn dead_owner(context: &Context) -> Result<WaitResult<Option<LockOwner>>> {
    wait::until(POLL / 5, DEATH, context.stop, || {
        let owner = recorded_owner(context)?;
        Ok((!owner.as_ref().is_some_and(is_alive)).then_some(owner))
    })
}

fn is_alive(owner: &LockOwner) -> bool {
    owner.liveness() != Liveness::Dead
}

fn recorded_owner(context: &Context) -> Result<Option<LockOwner>> {
    lock::recorded_owner(&context.docker, LockBackend::Volumes, &context.journal.project)
}

/// Run that was killed.
struct KilledRun<'a> {
    context: &'a Context<'a>,
    config: Configuration,
    targets: Vec<Target>,
    /// Owner of the lock after the kill, if the run had the lock.
    owner: Option<LockOwner>,
}

fn running(docker: &Docker) -> Result<Vec<Container>> {
    Ok(docker.containers()?.into_iter().filter(Container::is_running).collect())
}

/// Members that get requests, and others. Each is a relay or not, and is ready or not.
fn split<T>(members: Vec<(bool, bool, T)>) -> (Vec<T>, Vec<T>) {
    let has_instance = members.iter().any(|(is_relay, ..)| !is_relay);
    let counts = |is_relay: bool| !(has_instance && is_relay);
    let any_ready = members.iter().any(|(is_relay, is_ready, _)| *is_ready && counts(*is_relay));
    let gets_requests =
        |(is_relay, is_ready, _): &(bool, bool, T)| counts(*is_relay) && (*is_ready || !any_ready);
    let (inside, outside): (Vec<_>, Vec<_>) = members.into_iter().partition(gets_requests);
    let items = |members: Vec<(bool, bool, T)>| members.into_iter().map(|(.., item)| item).collect();
    (items(inside), items(outside))
}

impl KilledRun<'_> {
    /// Repairs the route after each change of the containers, until they are settled or another run takes over.
    fn watch(&self, known: Vec<Container>) -> Result<()> {
        let stop = self.context.stop;
        let was_held = self.end_holds()?;
        // A change right after the kill may be over already.
        let mut known = if !was_held && self.serves()? { self.addresses(&known) } else { BTreeMap::new() };
        let (start, mut limit) = (Instant::now(), LIFETIME);
        // A proxy that can never be set must not keep the watchdog.
        while start.elapsed() < LIFETIME {
            let changed = wait::until(POLL, limit, stop, || -> Result<_> {
                if self.is_superseded()? {
                    return Ok(Some(None));
                }
                let now = self.addresses(&running(&self.config.docker)?);
                Ok((now != known).then_some(Some(now)))
            })?;
            let WaitResult::Done(Some(now)) = changed else { return Ok(()) };
            // A proxy that restarts cannot be set yet.
            let repaired = wait::until(POLL, SETTLED, stop, || -> Result<_> {
                Ok((self.is_superseded()? || self.repair().is_ok()).then_some(()))
            })?;

            known = if repaired == WaitResult::Done(()) { now } else { BTreeMap::new() };
            limit = SETTLED;
        }
        Ok(())
    }

    /// True if another run has, or had, the lock. The engine may record the killed run after its end.
    fn is_superseded(&self) -> Result<bool> {
        let current = recorded_owner(self.context)?;
        Ok(current.as_ref().is_some_and(is_alive) || (self.owner.is_some() && current != self.owner))
    }

    /// Addresses of the instances, by container id.
    fn addresses(&self, containers: &[Container]) -> BTreeMap<String, Vec<IpAddr>> {
        let members = self.targets.iter().flat_map(|target| self.members(target, containers));
        members.map(|c| (c.id.clone(), c.addresses().collect())).collect()
    }

    fn members(&self, target: &Target, containers: &[Container]) -> Vec<Container> {
        let is_running =
            |c: &&Container| c.is_running() && is_member(&self.config.project, c, &target.services());
        containers.iter().filter(is_running).cloned().collect()
    }

    /// True if each proxy sends requests to an instance that runs, as far as any runs.
    fn serves(&self) -> Result<bool> {
        let Configuration { docker, project, .. } = &self.config;
        let containers = docker.containers()?;
        let all = observe::detect(docker, project, &containers)?;
        for target in &self.targets {
            let members = self.members(target, &containers);
            for proxy in observe::proxies_of(docker, project, target, &containers, &all)? {
                let goal = Goal::Observed(endpoints(proxy.as_ref(), members.iter()));
                let state = Pursuit::new(docker, proxy.as_ref(), goal).state()?;
                if !members.is_empty() && state.routed.is_empty() {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Sends requests to the instances that run, and hands the routes back.
    fn repair(&self) -> Result<()> {
        let Configuration { docker, project, .. } = &self.config;
        let containers = docker.containers()?;
        let proxies = observe::detect(docker, project, &containers)?;
        let desired = DesiredVersion::default();
        self.targets.iter().try_for_each(|target| {
            let proxies = observe::proxies_of(docker, project, target, &containers, &proxies)?;
            let reader = TargetReader { docker, project, desired: &desired, target, proxies };
            let (ready, unready) = self.split(&reader, self.members(target, &containers))?;
            let mut proxies = reader.proxies.iter().filter(|_| !ready.is_empty());
            proxies.try_for_each(|proxy| self.set(proxy.as_ref(), [&ready, &unready], &containers))
        })
    }

    /// Instances that are ready, and others. Without any ready one, all count, as behind Compose alone. A relay gets requests
    /// only while no instance runs: what waits in it, has been forwarded, or no instance answered in time.
    fn split(
        &self,
        reader: &TargetReader,
        members: Vec<Container>,
    ) -> Result<(Vec<Container>, Vec<Container>)> {
        let mut ready = Vec::new();
        for container in &members {
            let service = container.compose().map(|(_, service)| service).unwrap_or_default();
            ready.push(reader.is_ready(service, container)?);
        }
        let members = members.into_iter().zip(ready).map(|(c, ready)| (c.is_relay(), ready, c)).collect();
        Ok(split(members))
    }

    fn set(
        &self,
        proxy: &dyn Proxy,
        [ready, unready]: [&[Container]; 2],
        containers: &[Container],
    ) -> Result<()> {
        let docker = &self.config.docker;
        let of = |containers: &[Container]| -> Vec<Endpoint> { endpoints(proxy, containers.iter()) };
        let own: Vec<&String> = ready.iter().chain(unready).map(|c| &c.id).collect();
        let others = other_containers(containers.iter().filter(|c| !own.contains(&&c.id)));
        let rotation = Rotation {
            inside: of(ready),
            outside: of(unready),
            others: others.clone(),
            may_be_stale: true,
            ..Rotation::default()
        };
        let check = || if self.is_superseded()? { anyhow::bail!("another run has the lock") } else { Ok(()) };
        Pursuit::new(docker, proxy, Goal::Rotation(rotation)).converge(&StopSignal::default(), &check)?;
        let existing = docker.ids()?;
        let discovery = Discovery { endpoints: of(ready), existing, others };
        converge::hand_back(docker, proxy, &|| Ok(discovery.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    /// `a` is an instance and `r` the relay; capital letters are ready. Those before the bar get requests.
    fn of(text: &str) -> String {
        let member = |c: char| (c.eq_ignore_ascii_case(&'r'), c.is_uppercase(), c);
        let (inside, outside) = split(text.chars().map(member).collect());
        format!("{}|{}", inside.iter().collect::<String>(), outside.iter().collect::<String>())
    }

    #[test]
    fn instances_that_are_ready_get_requests_and_without_any_all_do() {
        assert_eq!([of("Ab"), of("ab"), of("AB"), of("")], ["A|b", "ab|", "AB|", "|"]);
    }

    #[test]
    fn a_relay_gets_requests_only_while_no_instance_runs() {
        assert_eq!([of("R"), of("RA"), of("Ra"), of("ra")], ["R|", "A|R", "a|R", "a|r"]);
    }
}
