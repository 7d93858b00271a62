//! The story of a deploy on Swarm: look, make the stack's file, send it, watch until it has converged; and back where it
//! does not. Swarm schedules; what is told here is the truth about it.

mod adopted;
mod prepare;
mod swarm_rollback;
mod witnessed;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::asked;
use super::journal::{Journal, ReleaseDraft, RunResult};
use super::request::Request;
use crate::cli::{DeployArgs, RollbackArgs, RolloutArgs, SwarmArgs};
use crate::docker::Docker;
use crate::docker::inspect::Image;
use crate::docker::swarm::ResolveImage;
use crate::error::{Error, Exit, Risk};
use crate::model::{ConfigError, EngineKind, Project};
use crate::release::{RolloutKind, ServiceRelease};
use crate::report::{Event, Report, Warning};
use crate::swarm::audit::{self, ServiceFacts};
use crate::swarm::convergence::ServiceGoal;
use crate::swarm::diff::ServiceDiff;
use crate::swarm::observed::{ObservedStack, StackService};
use crate::swarm::placement::ClusterNodes;
use crate::swarm::proxy_config::StackProxy;
use crate::swarm::stack_file::{StackFile, StackOverrides};
use crate::swarm::watch::{self, StackWatch, WatchResult};
use crate::wait::StopSignal;
use crate::witness::Witness;
pub use adopted::{adopt, file_of_service, print_for_swarm};
use prepare::PreparedStack;
pub use prepare::refused;
use swarm_rollback::words;

/// The Swarm that a project is meant for: by flag or file, else the one where it is a stack already; none where it is meant
/// for Compose.
///
/// # Errors
/// No engine; one that is no manager, where Swarm is asked for.
pub fn cluster(docker: &Docker, asked: Option<EngineKind>, stack: &str) -> Result<Option<String>> {
    let is_meant = match asked {
        Some(engine) => engine == EngineKind::Swarm,
        None => docker.is_stack(stack)?,
    };
    is_meant.then(|| docker.cluster()).transpose()
}

/// Flags that mean nothing to Compose, where a project is not a stack.
///
/// # Errors
/// Any of them.
pub fn refuse_flags(args: &SwarmArgs) -> Result<(), Error> {
    let given = args.resolve_image.as_ref().map(|_| "--resolve-image");
    match given.or(args.prune.then_some("--prune")).or(args.push.then_some("--push")) {
        Some(flag) => Err(Error::usage(format!("`{flag}` is about Swarm, and this project is not a stack"))
            .hint(format!("leave `{flag}` out, or deploy with `--engine swarm`"))),
        None => Ok(()),
    }
}

/// A project that no proxy routes to may be meant for the Swarm that its engine manages.
pub fn hint_at_swarm(docker: &Docker, error: Error) -> Error {
    match (docker.cluster(), &error.hint) {
        (Ok(_), Some(hint)) => {
            let hint = format!(
                "{hint}; or deploy it as a stack, as this engine manages a Swarm: `compose-zd deploy --engine swarm`"
            );
            error.hint(hint)
        }
        _ => error,
    }
}

/// Gives Swarm the next version of a stack, and sees it converge.
///
/// # Errors
/// A [`Fault`] whose exit code tells what serves now.
pub fn deploy(
    request: Request,
    args: &DeployArgs,
    journal: Journal,
    report: Report,
    stop: &StopSignal,
) -> Result<()> {
    let mut request = request;
    let before = watch::look(&request.docker, &request.project.name)?;
    for (service, reference) in &args.image {
        known(&request.project, service, "--image")?;
        request.snapshot.set_image(service, reference);
    }
    for service in &args.services {
        known(&request.project, service, "deploy")?;
    }
    let asks = StackOverrides {
        services: args.services.clone(),
        replicas: replicas(&request.project, &args.scale, &before)?,
        update: request.flags.update.clone(),
        rollback: request.flags.rollback.clone(),
    };
    let number = journal.next_number();
    let by_flag = args.image.iter().map(|(service, _)| service.clone()).collect();
    let swarm = SwarmDeploy {
        journal: &journal,
        before,
        kind: RolloutKind::Deploy,
        number,
        by_flag,
        rollout: &args.rollout,
        report,
        stop,
        witness: Witness::default(),
        sent: RefCell::default(),
        request: &request,
    };
    swarm.build(args)?;
    swarm.execute(&asks, args.force)
}

/// Puts a recorded release back, or goes on with one that paused.
///
/// # Errors
/// As [`deploy`].
pub fn put_back(
    mut request: Request,
    services: &[String],
    (number, kind): (u32, RolloutKind),
    journal: Journal,
    rollout: &RolloutArgs,
    (report, stop): (Report, &StopSignal),
) -> Result<()> {
    let before = watch::look(&request.docker, &request.project.name)?;
    let recorded = match kind {
        RolloutKind::Rollback { to } => to,
        _ => number,
    };
    let mut replicas = BTreeMap::new();
    for (service, placed) in journal.history.get(recorded).into_iter().flat_map(|record| &record.services) {
        if is_pinned(&placed.image_id) {
            request.snapshot.set_image(service, &placed.image_id);
        }
        if placed.replicas > 0 {
            replicas.insert(service.clone(), u64::from(placed.replicas));
        }
    }
    let asks = StackOverrides { services: services.to_vec(), replicas, ..StackOverrides::default() };
    let swarm = SwarmDeploy {
        journal: &journal,
        before,
        kind,
        number,
        by_flag: BTreeSet::new(),
        rollout,
        report,
        stop,
        witness: Witness::default(),
        sent: RefCell::default(),
        request: &request,
    };
    swarm.execute(&asks, false)
}

/// Puts back what Swarm itself remembers, of a stack that was never deployed by us.
///
/// # Errors
/// Nothing to go back to; a way back that Swarm does not bring to its end.
pub fn unrecorded(
    docker: &Docker,
    name: &str,
    args: &RollbackArgs,
    report: Report,
    stop: &StopSignal,
) -> Result<()> {
    let before = watch::look(docker, name)?;
    let named = |s: &&StackService| args.services.is_empty() || args.services.contains(&s.name);
    let differs =
        |s: &&StackService| !s.spec.is_job() && s.previous.as_ref().is_some_and(|p| !p.same_content(&s.spec));
    let services: Vec<&StackService> = before.services.values().filter(named).filter(differs).collect();
    let names: Vec<String> = services.iter().map(|s| s.name.clone()).collect();
    if names.is_empty() {
        return Err(Error::usage(format!("stack `{name}`: no release is recorded, and Swarm remembers none either"))
            .hint("Swarm forgets what was before with every update that changes nothing; `compose-zd deploy` records releases")
            .into());
    }
    if args.rollout.dry_run {
        let lines: Vec<String> =
            names.iter().map(|n| format!("`{n}`: put back what Swarm had before")).collect();
        report.stack_plan(name, &lines);
        return Ok(());
    }
    report.event(Event::OwnWayBack { services: names.clone() });
    services.iter().try_for_each(|s| docker.service_rollback(&s.id))?;
    let (ready, stop) = (Duration::from_secs(60), stop.clone());
    let now = watch::look(docker, name)?;
    let goals = names.iter().map(|service| ServiceGoal::back(&now, service)).collect();
    let watch =
        StackWatch { docker, stack: name, goals, before: &before, ready, backwards: true, report, stop };
    match watch.run()? {
        WatchResult::Converged(_) => {
            report.put_back(name, &names);
            Ok(())
        }
        WatchResult::Interrupted(signal) => Err(Error::interrupted(signal)
            .hint("Swarm goes on putting it back; see `docker stack ps`")
            .into()),
        WatchResult::Lost(error) => Err(Error { exit: Exit::Outage, ..error }.into()),
        WatchResult::Failed(failure, standing) => {
            let message = format!("`{}`: {}", failure.service, words(&standing));
            Err(Error::new(Exit::StillServing, message).detail(&failure.complaints.join("\n")).into())
        }
        WatchResult::Stuck(failure, after) => {
            let message = format!("`{}`: nothing got further for {}s", failure.service, after.as_secs());
            Err(Error::new(Exit::StillServing, message).detail(&failure.complaints.join("\n")).into())
        }
    }
}

/// What each service of a stack will lose when it is replaced; `project` is the text of the whole, also where only some of
/// its services are deployed, and `image` gets a local image.
///
/// # Errors
/// No engine.
pub fn risks(
    name: &str,
    project: &str,
    file: &StackFile,
    nodes: Option<&ClusterNodes>,
    image: &dyn Fn(&str) -> Result<Option<Image>>,
) -> Result<Vec<(String, Risk)>> {
    let fronts = stack_proxies(project)?;
    let mut all = nodes.map(|nodes| nodes.risks(file)).unwrap_or_default();
    for (service, part) in file.value["services"].as_object().into_iter().flatten() {
        let before: Vec<&StackProxy> = fronts.iter().filter(|f| f.reaches(name, service, part)).collect();
        let others = before.iter().filter(|f| f.service != *service);
        let lost: Vec<Risk> = others.flat_map(|front| front.risks(service, part)).collect();
        let image = image(part["image"].as_str().unwrap_or_default())?;
        let facts = ServiceFacts {
            image_checks: image.is_some_and(|i| i.has_healthcheck()),
            is_reached: !before.is_empty(),
            is_front: fronts.iter().any(|f| f.service == *service),
        };
        let own = audit::of_service(service, part, facts);
        all.extend(own.into_iter().chain(lost).map(|loss| (service.clone(), loss)));
    }
    Ok(all)
}

fn stack_proxies(project: &str) -> Result<Vec<StackProxy>> {
    let project: Value = serde_json::from_str(project)?;
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let services = project["services"].as_object().into_iter().flatten();
    Ok(services.filter_map(|(name, service)| StackProxy::of(name, service, &project, &read)).collect())
}

/// One run on Swarm.
struct SwarmDeploy<'a> {
    request: &'a Request,
    journal: &'a Journal,
    /// The stack before anything was changed.
    before: ObservedStack,
    kind: RolloutKind,
    number: u32,
    by_flag: BTreeSet<String>,
    rollout: &'a RolloutArgs,
    report: Report,
    stop: &'a StopSignal,
    witness: Witness,
    /// The specs that Swarm took.
    sent: RefCell<Vec<ServiceGoal>>,
}

impl SwarmDeploy<'_> {
    fn docker(&self) -> &Docker {
        &self.request.docker
    }

    fn name(&self) -> &str {
        &self.request.project.name
    }

    fn args(&self) -> &SwarmArgs {
        &self.rollout.swarm
    }

    /// Builds here and pushes, where that is asked for.
    fn build(&self, args: &DeployArgs) -> Result<()> {
        let built = self.request.project.services.values().filter(|s| s.builds);
        let wanted = |name: &String| args.services.is_empty() || args.services.contains(name);
        let names: Vec<String> = built.map(|s| s.name.clone()).filter(wanted).collect();
        if names.is_empty() || self.rollout.dry_run {
            return Ok(());
        }
        if args.build {
            self.report.event(Event::Building { services: names.clone() });
            self.docker().build(&names)?;
        }
        if self.args().push { self.docker().push(&names) } else { Ok(()) }
    }

    fn execute(&self, asks: &StackOverrides, force: bool) -> Result<()> {
        let prepared = self.prepare(asks)?;
        self.refuse_partial_prune(&prepared.file)?;
        self.report_before(&prepared)?;
        if self.rollout.dry_run {
            return self.report_plan(&prepared, force);
        }
        if let Some(signal) = self.stop.signal() {
            return Err(Error::interrupted(signal).into());
        }
        self.create_objects(&prepared)?;
        self.call_witness(&prepared)?;
        self.execute_and_record(&prepared, force)
    }

    /// What is ignored, and what will be lost.
    fn report_before(&self, prepared: &PreparedStack) -> Result<()> {
        let PreparedStack { file, nodes, .. } = prepared;
        for note in &file.notes {
            self.report.warn(&Warning::Ignored(note.clone()));
        }
        let image = |reference: &str| self.docker().image(reference);
        let text = self.request.snapshot.text();
        for (_, loss) in risks(self.name(), &text, file, Some(nodes), &image)? {
            self.report.warn(&Warning::Loss(loss.to_string()));
        }
        Ok(())
    }

    /// The changes of each service, and the exact commands.
    fn report_plan(&self, prepared: &PreparedStack, force: bool) -> Result<()> {
        let PreparedStack { file, resolve, missing, .. } = prepared;
        let networks = self.docker().network_names()?;
        let changes = file.services.iter().map(|name| {
            let now = self.before.services.get(name);
            let image = self.request.snapshot.image(name).unwrap_or_default();
            let change = ServiceDiff {
                stack: self.name(),
                file: &file.value,
                service: name,
                image,
                networks: &networks,
            };
            format!("`{name}`: {}", change.words(now))
        });
        let left = self.before.services.keys().filter(|name| !file.services.contains(name));
        let fate = if self.args().prune { "remove it: the file has it no more" } else { "leave it alone" };
        let left = left.map(|name| format!("`{name}`: {fate}"));
        let objects =
            missing.iter().map(|(object, name)| format!("docker {} create {name} -", object.kind.noun()));
        let (adopted, others): (Vec<&String>, Vec<&String>) =
            file.services.iter().partition(|n| self.before.services.get(*n).is_some_and(|s| s.is_adopted));
        let mut send = Vec::new();
        for name in adopted {
            let flags = self.flags(file, &self.before.services[name])?.join(" ");
            send.push(format!("docker service update --with-registry-auth {flags} {name}"));
        }
        if !others.is_empty() {
            let (resolve, stack) = (resolve.word(), self.name());
            send.push(format!(
                "docker stack deploy --with-registry-auth --resolve-image {resolve} --compose-file - {stack}"
            ));
        }
        let forced = file.services.iter().filter(|name| force && self.before.services.contains_key(*name));
        let forced = forced.map(|name| {
            format!("docker service update --force {}_{name}   # unless it has changed", self.name())
        });
        let gone =
            self.gone(file).into_iter().map(|s| format!("docker service rm {}_{}", self.name(), s.name));
        let commands = objects.chain(send).chain(forced).chain(gone).map(|line| format!("$ {line}"));
        self.report.stack_plan(self.name(), &changes.chain(left).chain(commands).collect::<Vec<_>>());
        Ok(())
    }

    /// Does it, and writes down what became of it.
    fn execute_and_record(&self, prepared: &PreparedStack, force: bool) -> Result<()> {
        let file = &prepared.file;
        let entry = self.entry(prepared, None)?;
        self.journal.begin(&entry, self.report)?;
        self.journal.tag_images(self.docker(), &entry, self.report);
        let started = self.report.elapsed();
        let switch = self.witness.rotation_change();
        let ended = match self.run(prepared, force) {
            Ok(WatchResult::Converged(stack)) => match self.witness.outage_at_end() {
                None => Ok(stack),
                Some(lost) => Err(self.lost(file, lost)),
            },
            Ok(end) => Err(self.failed(file, end)),
            Err(error) => Err(self.refused(file, Error::from_error(error))),
        };
        drop(switch);
        let took = self.report.elapsed().saturating_sub(started);
        let witness = super::probe_urls::report_all(self.witness.finish(), self.report);
        let (entry, error, paused) = match &ended {
            Ok(stack) => (self.entry(prepared, Some(stack))?, None, false),
            Err((error, paused)) => (entry, Some(error), *paused),
        };
        if error.is_some_and(|f| f.exit == Exit::Unchanged) {
            self.journal.discard(&entry);
        } else {
            let keep = self.request.project.keep;
            let course = RunResult { witness: witness.clone(), ..RunResult::of(error, paused, took, 0) };
            self.journal.write_config(entry.number, &entry.text)?;
            self.journal.end(self.docker(), &entry, course, keep, self.report);
        }
        match ended {
            Ok(stack) => {
                self.prune(file);
                self.remove_objects();
                self.report_deployed(&file.services, &stack, took);
                Ok(super::probe_urls::lost_nothing(
                    witness.as_ref(),
                    self.rollout.witness.strict,
                    self.number,
                )?)
            }
            Err((error, _)) => Err(error.into()),
        }
    }

    /// Tells Swarm, and watches until it has converged or has not.
    fn run(&self, prepared: &PreparedStack, force: bool) -> Result<WatchResult> {
        let services = &prepared.file.services;
        let own = self.own_way_back(services);
        match &own {
            Some(ids) => self.request_rollback(services, ids)?,
            None => self.send(prepared, force)?,
        }
        let now = watch::look(self.docker(), self.name())?;
        let goal = if own.is_some() { ServiceGoal::back } else { ServiceGoal::sent };
        let goals: Vec<ServiceGoal> = services.iter().map(|name| goal(&now, name)).collect();
        self.sent.replace(goals.clone());
        self.watch(goals, &self.before, own.is_some(), self.stop.clone())
    }

    /// What was not named is not touched: a part of the file does not tell what the whole has no more.
    fn refuse_partial_prune(&self, file: &StackFile) -> Result<(), Error> {
        let is_whole = self.request.project.services.keys().all(|name| file.services.contains(name));
        match self.args().prune && !is_whole {
            true => Err(Error::usage(
                "`--prune` is about the whole stack, and only some of its services are deployed",
            )
            .hint("leave `--prune` out, or name no service")),
            false => Ok(()),
        }
    }

    /// Removes what the file has no more. Only now: had the deploy failed, it would have to be there.
    fn prune(&self, file: &StackFile) {
        let gone = self.gone(file);
        if gone.is_empty() {
            return;
        }
        let ids: Vec<String> = gone.iter().map(|s| s.id.clone()).collect();
        let names = gone.iter().map(|s| s.name.clone()).collect();
        match self.docker().remove_services(&ids) {
            Ok(()) => self.report.event(Event::Removed { names }),
            Err(error) => self.report.warn(&Warning::LeftBehind(format!("{error:#}"))),
        }
    }

    /// The services that go because the file has them no more, where that is asked for.
    fn gone(&self, file: &StackFile) -> Vec<&StackService> {
        let is_left = |s: &&StackService| self.args().prune && !file.services.contains(&s.name);
        self.before.services.values().filter(is_left).collect()
    }

    /// Swarm's own way back.
    fn request_rollback(&self, services: &[String], ids: &[String]) -> Result<()> {
        self.report.event(Event::OwnWayBack { services: services.to_vec() });
        ids.iter().try_for_each(|id| self.docker().service_rollback(id))
    }

    fn send(&self, PreparedStack { file, resolve, .. }: &PreparedStack, force: bool) -> Result<()> {
        self.report.event(Event::Sending { stack: self.name().into(), services: file.services.clone() });
        let stack = self.send_adopted(file, &self.before)?;
        if !stack.services.is_empty() {
            self.docker().stack_deploy(self.name(), &stack.text(), *resolve)?;
        }
        let halfway = |name: &String| self.before.services.get(name).is_some_and(swarm_rollback::is_halfway);
        if !force && !file.services.iter().any(halfway) {
            return Ok(());
        }
        // What has changed is replaced anyway. An update that changes nothing does not make Swarm go on with one that paused
        // (seen with stop-first: the slots that were left stayed as they were).
        let now = watch::look(self.docker(), self.name())?;
        // A job runs again whatever has changed.
        let same = |s: &&StackService| {
            let before = self.before.services.get(&s.name);
            !s.spec.is_job() && before.is_some_and(|b| b.spec.same_tasks(&s.spec))
        };
        let wanted = |s: &&StackService| file.services.contains(&s.name) && (force || halfway(&s.name));
        let ids = now.services.values().filter(same).filter(wanted).map(|s| s.id.clone());
        ids.collect::<Vec<_>>().iter().try_for_each(|id| self.docker().force_service_update(id))
    }

    /// The ids of the services whose spec before is exactly the one to put back, where that is so for all of them.
    fn own_way_back(&self, services: &[String]) -> Option<Vec<String>> {
        let RolloutKind::Rollback { to } = self.kind else { return None };
        let record = self.journal.history.get(to)?;
        let own = |name: &String| {
            let (service, placed) = (self.before.services.get(name)?, record.services.get(name)?);
            let previous = service.previous.as_ref()?;
            (previous.fingerprint() == placed.config_hash).then(|| service.id.clone())
        };
        services.iter().map(own).collect()
    }

    /// Until all of these have converged, from what was there `before`.
    fn watch(
        &self,
        goals: Vec<ServiceGoal>,
        before: &ObservedStack,
        backwards: bool,
        stop: StopSignal,
    ) -> Result<WatchResult> {
        let settings = goals.iter().filter_map(|goal| self.request.project.services.get(&goal.service));
        let ready = settings.map(|s| s.settings.pace.deadline).max().unwrap_or_default();
        let (docker, stack, report) = (self.docker(), self.name(), self.report);
        StackWatch { docker, stack, goals, before, ready, backwards, report, stop }.run()
    }

    /// What this run puts in place; before it is known what Swarm made of it, only by name.
    fn entry(
        &self,
        PreparedStack { file, recorded, .. }: &PreparedStack,
        stack: Option<&ObservedStack>,
    ) -> Result<ReleaseDraft> {
        let services: Vec<&str> = file.services.iter().map(String::as_str).collect();
        let mut recorded = recorded.clone();
        let placed = services.iter().map(|name| {
            let placed = self.placed(name, file, stack);
            if is_pinned(&placed.image_id) {
                recorded.set_image(name, &placed.image_id);
            }
            (name.to_string(), placed)
        });
        let placed = placed.collect();
        Ok(ReleaseDraft {
            number: self.number,
            kind: self.kind,
            placed,
            text: self.journal.merged_config(&recorded.text(), &services)?,
            replaced: Vec::new(),
            folder: self.request.folder.clone(),
        })
    }

    fn placed(&self, name: &str, file: &StackFile, stack: Option<&ObservedStack>) -> ServiceRelease {
        let spec = stack.and_then(|s| s.services.get(name)).map(|s| &s.spec);
        let sent = file.image(name).to_string();
        let image_id = match spec {
            Some(spec) => spec.image().to_string(),
            None => Some(sent).filter(|image| is_pinned(image)).unwrap_or_default(),
        };
        ServiceRelease {
            image: self.image_name(name, &image_id),
            image_id,
            digests: Vec::new(),
            config_hash: spec.map(|s| s.fingerprint()).unwrap_or_default(),
            replicas: spec.and_then(|s| s.replicas()).unwrap_or(0) as u32,
            since: self.number,
            by_flag: self.by_flag.contains(name),
        }
    }

    /// As the file, or that of the release that is put back, named the image.
    fn image_name(&self, service: &str, id: &str) -> String {
        let image = self.request.snapshot.image(service).unwrap_or_default();
        let recorded = self.journal.history.newest_first().filter_map(|r| r.services.get(service));
        let recorded = || recorded.map(|p| (&p.image_id, &p.image)).find(|(known, _)| **known == id);
        match is_pinned(image) {
            true => recorded().map_or(image, |(_, image)| image).to_string(),
            false => image.to_string(),
        }
    }

    fn report_deployed(&self, services: &[String], stack: &ObservedStack, took: Duration) {
        for name in services {
            let Some(service) = stack.services.get(name) else { continue };
            let (running, wanted) = (stack.running(name), stack.wanted(service));
            if service.spec.is_job() {
                self.report.event(Event::JobCompleted { service: name.clone(), tasks: wanted });
                continue;
            }
            if stack.tasks_of(name).filter(|t| t.runs()).count() > wanted {
                self.report.warn(&Warning::TooMany(name.clone()));
            }
            self.report.deployed(Event::Deployed {
                target: name.clone(),
                serving: vec![format!("{} of {wanted}", running.min(wanted))],
                release: self.number,
                back_to: match self.kind {
                    RolloutKind::Rollback { to } => Some(to),
                    _ => None,
                },
                in_service: took,
                seconds: took,
            });
        }
    }
}

/// As many as asked for by flag; where the file does not say, as many as there are.
fn replicas(
    project: &Project,
    scale: &[(String, u32)],
    before: &ObservedStack,
) -> Result<BTreeMap<String, u64>, Error> {
    for (service, _) in scale {
        known(project, service, "--scale")?;
    }
    let silent = project.services.values().filter(|s| s.replicas.is_none());
    let there = silent.filter_map(|s| Some((s.name.clone(), before.services.get(&s.name)?.spec.replicas()?)));
    let asked = scale.iter().map(|(service, n)| (service.clone(), u64::from(*n)));
    Ok(there.chain(asked).collect())
}

fn known(project: &Project, service: &str, place: &str) -> Result<(), Error> {
    match project.services.contains_key(service) {
        true => Ok(()),
        false => Err(asked::unknown(project, service, place)),
    }
}

/// A migration that is left out would be a surprise.
pub fn one_shots(project: &Project) -> Vec<ConfigError> {
    let has = |s: &&crate::model::Service| s.settings.before.is_some() || s.settings.after.is_some();
    let refusal = |service: &crate::model::Service| ConfigError {
        message: format!(
            "`services.{}.x-zd`: one-shots (`before`, `after`) are not run on Swarm",
            service.name
        ),
        hint: "run it before the deploy, or as a service of its own with `deploy.mode: replicated-job`"
            .into(),
    };
    project.services.values().filter(has).map(refusal).collect()
}

/// A reference that means one image for ever.
fn is_pinned(reference: &str) -> bool {
    reference.starts_with("sha256:") || reference.contains("@sha256:")
}

impl ResolveImage {
    fn parse(word: &str) -> ResolveImage {
        match word {
            "changed" => ResolveImage::Changed,
            "never" => ResolveImage::Never,
            _ => ResolveImage::Always,
        }
    }
}
