//! The story of a deploy on Swarm: look, make the stack's file, send it, watch until it has converged; and back where it
//! does not. Swarm schedules; what is told here is the truth about it.

mod back;
mod witnessed;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::asked;
use super::definition::Definition;
use super::ledger::{Course, Entry, Ledger};
use crate::cli::{DeployArgs, RollbackArgs, RolloutArgs, SwarmArgs};
use crate::docker::Docker;
use crate::docker::inspect::Image;
use crate::docker::swarm::ResolveImage;
use crate::fault::{Exit, Fault, Loss};
use crate::model::{Engine, Project};
use crate::release::{Kind, Placed};
use crate::report::{Event, Report, Warning};
use crate::swarm::file::{Asks, StackFile};
use crate::swarm::front::Front;
use crate::swarm::risks::{self, Facts};
use crate::swarm::state::{Service, Stack};
use crate::swarm::watch::{self, End, Watch};
use crate::wait::Stop;
use crate::witness::Witness;
use back::words;

/// The Swarm that a project is meant for: by flag or file, else the one where it is a stack already; none where it is meant
/// for Compose.
///
/// # Errors
/// No engine; one that is no manager, where Swarm is asked for.
pub fn cluster(docker: &Docker, asked: Option<Engine>, stack: &str) -> Result<Option<String>> {
    let is_meant = match asked {
        Some(engine) => engine == Engine::Swarm,
        None => docker.is_stack(stack)?,
    };
    is_meant.then(|| docker.cluster()).transpose()
}

/// Flags that mean nothing to Compose, where a project is not a stack.
///
/// # Errors
/// Any of them.
pub fn refuse_flags(args: &SwarmArgs) -> Result<(), Fault> {
    let given = args.resolve_image.as_ref().map(|_| "--resolve-image");
    match given.or(args.prune.then_some("--prune")) {
        Some(flag) => Err(Fault::usage(format!("`{flag}` is about Swarm, and this project is not a stack"))
            .hint(format!("leave `{flag}` out, or deploy with `--engine swarm`"))),
        None => Ok(()),
    }
}

/// Gives Swarm the next version of a stack, and sees it converge.
///
/// # Errors
/// A [`Fault`] whose exit code tells what serves now.
pub fn deploy(
    definition: Definition,
    args: &DeployArgs,
    ledger: Ledger,
    report: Report,
    stop: &Stop,
) -> Result<()> {
    let mut definition = definition;
    let before = watch::look(&definition.docker, &definition.project.name)?;
    refuse_one_shots(&definition.project)?;
    for (service, reference) in &args.image {
        known(&definition.project, service, "--image")?;
        definition.snapshot.set_image(service, reference);
    }
    for service in &args.services {
        known(&definition.project, service, "deploy")?;
    }
    let asks = Asks {
        services: args.services.clone(),
        replicas: replicas(&definition.project, &args.scale, &before)?,
        update: definition.flags.update.clone(),
        rollback: definition.flags.rollback.clone(),
    };
    let number = ledger.next_number();
    let by_flag = args.image.iter().map(|(service, _)| service.clone()).collect();
    let swarm = Swarm {
        ledger: &ledger.without_images(),
        before,
        kind: Kind::Deploy,
        number,
        by_flag,
        rollout: &args.rollout,
        report,
        stop,
        witness: Witness::default(),
        definition: &definition,
    };
    swarm.build(args)?;
    swarm.go(&asks, args.force)
}

/// Puts a recorded release back, or goes on with one that paused.
///
/// # Errors
/// As [`deploy`].
pub fn put_back(
    definition: &Definition,
    services: &[String],
    (number, kind): (u32, Kind),
    ledger: Ledger,
    rollout: &RolloutArgs,
    (report, stop): (Report, &Stop),
) -> Result<()> {
    let before = watch::look(&definition.docker, &definition.project.name)?;
    let asks = Asks { services: services.to_vec(), ..Asks::default() };
    let ledger = ledger.without_images();
    let swarm = Swarm {
        ledger: &ledger,
        before,
        kind,
        number,
        by_flag: BTreeSet::new(),
        rollout,
        report,
        stop,
        witness: Witness::default(),
        definition,
    };
    swarm.go(&asks, false)
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
    stop: &Stop,
) -> Result<()> {
    let before = watch::look(docker, name)?;
    let named = |s: &&Service| args.services.is_empty() || args.services.contains(&s.name);
    let differs = |s: &&Service| s.previous.as_ref().is_some_and(|p| !p.same_content(&s.spec));
    let services: Vec<&Service> = before.services.values().filter(named).filter(differs).collect();
    let names: Vec<String> = services.iter().map(|s| s.name.clone()).collect();
    if names.is_empty() {
        return Err(Fault::usage(format!("stack `{name}`: no release is recorded, and Swarm remembers none either"))
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
    let watch =
        Watch { docker, stack: name, services: names, before: &before, ready, backwards: true, report, stop };
    match watch.run()? {
        End::Converged(_) => {
            report.put_back(name, &watch.services);
            Ok(())
        }
        End::Interrupted(signal) => Err(Fault::interrupted(signal)
            .hint("Swarm goes on putting it back; see `docker stack ps`")
            .into()),
        End::Lost(fault) => Err(Fault { exit: Exit::Broken, ..fault }.into()),
        End::Failed { service, standing, .. } => {
            Err(Fault::new(Exit::Kept, format!("`{service}`: {}", words(&standing))).into())
        }
        End::Stuck { service, after, .. } => {
            let waited = after.as_secs();
            Err(Fault::new(Exit::Kept, format!("`{service}`: nothing got further for {waited}s")).into())
        }
    }
}

/// What each service of a stack will lose when it is replaced; `project` is the text of the whole, also where only some of
/// its services are deployed, and `image` gets a local image.
///
/// # Errors
/// No engine.
pub fn losses(
    name: &str,
    project: &str,
    file: &StackFile,
    image: &dyn Fn(&str) -> Result<Option<Image>>,
) -> Result<Vec<(String, Loss)>> {
    let fronts = fronts(project)?;
    let stack: Value = serde_json::from_str(&file.text)?;
    let mut all = Vec::new();
    for (service, part) in stack["services"].as_object().into_iter().flatten() {
        let before: Vec<&Front> = fronts.iter().filter(|f| f.reaches(name, service, part)).collect();
        let others = before.iter().filter(|f| f.service != *service);
        let lost: Vec<Loss> = others.flat_map(|front| front.risks(service)).collect();
        let image = image(part["image"].as_str().unwrap_or_default())?;
        let facts = Facts {
            image_checks: image.is_some_and(|i| i.has_healthcheck()),
            is_reached: !before.is_empty(),
            is_front: fronts.iter().any(|f| f.service == *service),
        };
        let own = risks::of_service(service, part, facts);
        all.extend(own.into_iter().chain(lost).map(|loss| (service.clone(), loss)));
    }
    Ok(all)
}

fn fronts(project: &str) -> Result<Vec<Front>> {
    let project: Value = serde_json::from_str(project)?;
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let services = project["services"].as_object().into_iter().flatten();
    Ok(services.filter_map(|(name, service)| Front::of(name, service, &project, &read)).collect())
}

/// One run on Swarm.
struct Swarm<'a> {
    definition: &'a Definition,
    ledger: &'a Ledger,
    /// The stack before anything was changed.
    before: Stack,
    kind: Kind,
    number: u32,
    by_flag: BTreeSet<String>,
    rollout: &'a RolloutArgs,
    report: Report,
    stop: &'a Stop,
    witness: Witness,
}

impl Swarm<'_> {
    fn docker(&self) -> &Docker {
        &self.definition.docker
    }

    fn name(&self) -> &str {
        &self.definition.project.name
    }

    fn args(&self) -> &SwarmArgs {
        &self.rollout.swarm
    }

    /// Builds here, where that is asked for.
    fn build(&self, args: &DeployArgs) -> Result<()> {
        let built = self.definition.project.services.values().filter(|s| s.builds);
        let wanted = |name: &String| args.services.is_empty() || args.services.contains(name);
        let names: Vec<String> = built.map(|s| s.name.clone()).filter(wanted).collect();
        if !args.build || names.is_empty() || self.rollout.dry_run {
            return Ok(());
        }
        self.report.event(Event::Building { services: names.clone() });
        self.docker().build(&names)
    }

    fn go(&self, asks: &Asks, force: bool) -> Result<()> {
        let folder = tempfile::tempdir()?;
        let source = &self.definition.source;
        let text = self.definition.snapshot.text();
        let file = StackFile::of(&text, source, asks, folder.path()).map_err(Fault::from)?;
        self.refuse_partial_prune(&file)?;
        self.tell_before(&file)?;
        if self.rollout.dry_run {
            self.tell_plan(&file);
            return Ok(());
        }
        if let Some(signal) = self.stop.signal() {
            return Err(Fault::interrupted(signal).into());
        }
        write_private(&file.files)?;
        self.call_witness(&file)?;
        self.carry_out(&file, force)
    }

    /// What is ignored, and what will be lost.
    fn tell_before(&self, file: &StackFile) -> Result<()> {
        for note in &file.notes {
            self.report.warn(&Warning::Ignored(note.clone()));
        }
        let image = |reference: &str| self.docker().image(reference);
        for (_, loss) in losses(self.name(), &self.definition.snapshot.text(), file, &image)? {
            self.report.warn(&Warning::Loss(loss.to_string()));
        }
        Ok(())
    }

    fn tell_plan(&self, file: &StackFile) {
        let stack: Value = serde_json::from_str(&file.text).unwrap_or_default();
        let lines = file.services.iter().map(|name| {
            let wanted = &stack["services"][name];
            format!("`{name}`: {}", crate::swarm::change::of(wanted, self.before.services.get(name)))
        });
        let left = self.before.services.keys().filter(|name| !file.services.contains(name));
        let fate = if self.args().prune { "remove it: the file has it no more" } else { "leave it alone" };
        let left = left.map(|name| format!("`{name}`: {fate}"));
        self.report.stack_plan(self.name(), &lines.chain(left).collect::<Vec<_>>());
    }

    /// Does it, and writes down what became of it.
    fn carry_out(&self, file: &StackFile, force: bool) -> Result<()> {
        let entry = self.entry(file, None)?;
        self.ledger.begin(&entry, self.report)?;
        let started = self.report.elapsed();
        let own = self.own_way_back(&file.services);
        let switch = self.witness.route();
        let sent = match &own {
            Some(ids) => self.ask_back(&file.services, ids),
            None => self.send(file, force),
        };
        let ended =
            sent.and_then(|()| self.watch(&file.services, &self.before, own.is_some(), self.stop.clone()));
        let ended = match ended {
            Ok(End::Converged(stack)) => Ok(stack),
            Ok(end) => Err(self.failed(file, end)),
            Err(error) => Err(self.refused(file, Fault::from_error(error))),
        };
        drop(switch);
        let took = self.report.elapsed().saturating_sub(started);
        let witness = super::witnessed::tell(self.witness.end(), self.report);
        let (entry, fault, paused) = match &ended {
            Ok(stack) => (self.entry(file, Some(stack))?, None, false),
            Err((fault, paused)) => (entry, Some(fault), *paused),
        };
        if fault.is_some_and(|f| f.exit == Exit::Unchanged) {
            self.ledger.forget(&entry);
        } else {
            let keep = self.definition.project.keep;
            let course = Course { witness: witness.clone(), ..Course::of(fault, paused, took, 0) };
            self.ledger.end(self.docker(), &entry, course, keep, self.report);
        }
        match ended {
            Ok(stack) => {
                self.prune(file);
                self.tell_deployed(&file.services, &stack, took);
                Ok(super::witnessed::lost_nothing(
                    witness.as_ref(),
                    self.rollout.witness.strict,
                    self.number,
                )?)
            }
            Err((fault, _)) => Err(fault.into()),
        }
    }

    /// What was not named is not touched: a part of the file does not tell what the whole has no more.
    fn refuse_partial_prune(&self, file: &StackFile) -> Result<(), Fault> {
        let is_whole = self.definition.project.services.keys().all(|name| file.services.contains(name));
        match self.args().prune && !is_whole {
            true => Err(Fault::usage(
                "`--prune` is about the whole stack, and only some of its services are deployed",
            )
            .hint("leave `--prune` out, or name no service")),
            false => Ok(()),
        }
    }

    /// Removes what the file has no more. Only now: had the deploy failed, it would have to be there.
    fn prune(&self, file: &StackFile) {
        let gone: Vec<&Service> =
            self.before.services.values().filter(|s| !file.services.contains(&s.name)).collect();
        if !self.args().prune || gone.is_empty() {
            return;
        }
        let ids: Vec<String> = gone.iter().map(|s| s.id.clone()).collect();
        let names = gone.iter().map(|s| s.name.clone()).collect();
        match self.docker().remove_services(&ids) {
            Ok(()) => self.report.event(Event::Removed { names }),
            Err(error) => self.report.warn(&Warning::LeftBehind(format!("{error:#}"))),
        }
    }

    /// Swarm's own way back.
    fn ask_back(&self, services: &[String], ids: &[String]) -> Result<()> {
        self.report.event(Event::OwnWayBack { services: services.to_vec() });
        ids.iter().try_for_each(|id| self.docker().service_rollback(id))
    }

    fn send(&self, file: &StackFile, force: bool) -> Result<()> {
        self.report.event(Event::Sending { stack: self.name().into(), services: file.services.clone() });
        self.docker().stack_deploy(self.name(), &file.text, self.resolve(file)?)?;
        let halfway = |name: &String| self.before.services.get(name).is_some_and(back::is_halfway);
        if !force && !file.services.iter().any(halfway) {
            return Ok(());
        }
        // What has changed is replaced anyway. An update that changes nothing does not make Swarm go on with one that paused
        // (seen with stop-first: the slots that were left stayed as they were).
        let now = watch::look(self.docker(), self.name())?;
        let same =
            |s: &&Service| self.before.services.get(&s.name).is_some_and(|b| b.spec.same_tasks(&s.spec));
        let wanted = |s: &&Service| file.services.contains(&s.name) && (force || halfway(&s.name));
        let ids = now.services.values().filter(same).filter(wanted).map(|s| s.id.clone());
        ids.collect::<Vec<_>>().iter().try_for_each(|id| self.docker().service_force(id))
    }

    /// The ids of the services whose spec before is exactly the one to put back, where that is so for all of them.
    fn own_way_back(&self, services: &[String]) -> Option<Vec<String>> {
        let Kind::Rollback { to } = self.kind else { return None };
        let record = self.ledger.history.get(to)?;
        let own = |name: &String| {
            let (service, placed) = (self.before.services.get(name)?, record.services.get(name)?);
            let previous = service.previous.as_ref()?;
            (previous.fingerprint() == placed.config_hash).then(|| service.id.clone())
        };
        services.iter().map(own).collect()
    }

    /// As asked for; else images that were all built on this machine are not looked for in a registry.
    fn resolve(&self, file: &StackFile) -> Result<ResolveImage> {
        if let Some(word) = &self.args().resolve_image {
            return Ok(ResolveImage::parse(word));
        }
        let stack: Value = serde_json::from_str(&file.text)?;
        for name in &file.services {
            let image = self.docker().image(stack["services"][name]["image"].as_str().unwrap_or_default())?;
            if image.is_none_or(|i| !i.repo_digests.is_empty()) {
                return Ok(ResolveImage::Always);
            }
        }
        Ok(ResolveImage::Never)
    }

    /// Until all of these have converged, from what was there `before`.
    fn watch(&self, services: &[String], before: &Stack, backwards: bool, stop: Stop) -> Result<End> {
        let settings = services.iter().filter_map(|s| self.definition.project.services.get(s));
        let ready = settings.map(|s| s.settings.pace.deadline).max().unwrap_or_default();
        let (docker, stack, report) = (self.docker(), self.name(), self.report);
        Watch { docker, stack, services: services.to_vec(), before, ready, backwards, report, stop }.run()
    }

    /// What this run puts in place; before it is known what Swarm made of it, only by name.
    fn entry(&self, file: &StackFile, stack: Option<&Stack>) -> Result<Entry> {
        let services: Vec<&str> = file.services.iter().map(String::as_str).collect();
        let placed = services.iter().map(|name| (name.to_string(), self.placed(name, stack))).collect();
        Ok(Entry {
            number: self.number,
            kind: self.kind,
            placed,
            text: self.ledger.text_after(&self.definition.snapshot.text(), &services)?,
            replaced: Vec::new(),
            folder: self.definition.folder.clone(),
        })
    }

    fn placed(&self, name: &str, stack: Option<&Stack>) -> Placed {
        let spec = stack.and_then(|s| s.services.get(name)).map(|s| &s.spec);
        let image = self.definition.snapshot.image(name).unwrap_or_default().to_string();
        Placed {
            image_id: spec.map(|s| s.image().to_string()).unwrap_or_default(),
            image,
            digests: Vec::new(),
            config_hash: spec.map(|s| s.fingerprint()).unwrap_or_default(),
            replicas: spec.and_then(|s| s.replicas()).unwrap_or(0) as u32,
            since: self.number,
            by_flag: self.by_flag.contains(name),
        }
    }

    fn tell_deployed(&self, services: &[String], stack: &Stack, took: Duration) {
        for name in services {
            let Some(service) = stack.services.get(name) else { continue };
            let running = stack.tasks_of(name).filter(|t| t.runs()).count();
            if running > stack.wanted(service) {
                self.report.warn(&Warning::TooMany(name.clone()));
            }
            self.report.deployed(Event::Deployed {
                target: name.clone(),
                serving: vec![format!("{running} of {}", stack.wanted(service))],
                release: self.number,
                back_to: match self.kind {
                    Kind::Rollback { to } => Some(to),
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
    before: &Stack,
) -> Result<BTreeMap<String, u64>, Fault> {
    for (service, _) in scale {
        known(project, service, "--scale")?;
    }
    let silent = project.services.values().filter(|s| s.replicas.is_none());
    let there = silent.filter_map(|s| Some((s.name.clone(), before.services.get(&s.name)?.spec.replicas()?)));
    let asked = scale.iter().map(|(service, n)| (service.clone(), u64::from(*n)));
    Ok(there.chain(asked).collect())
}

fn known(project: &Project, service: &str, place: &str) -> Result<(), Fault> {
    match project.services.contains_key(service) {
        true => Ok(()),
        false => Err(asked::unknown(project, service, place)),
    }
}

/// A migration that is left out would be a surprise.
fn refuse_one_shots(project: &Project) -> Result<(), Fault> {
    let has = |s: &&crate::model::Service| s.settings.before.is_some() || s.settings.after.is_some();
    match project.services.values().find(has) {
        None => Ok(()),
        Some(service) => Err(Fault::usage(format!(
            "`services.{}.x-zd`: one-shots (`before`, `after`) are not run on Swarm",
            service.name
        ))
        .hint("run it before the deploy, or as a service of its own with `deploy.mode: replicated-job`")),
    }
}

/// Files with secrets in them, for their owner alone; they live as long as their folder.
fn write_private(files: &[(std::path::PathBuf, String)]) -> Result<()> {
    use std::io::Write;
    for (path, content) in files {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(content.as_bytes())?;
    }
    Ok(())
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
