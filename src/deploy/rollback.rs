//! The story of going back: which release, with which images, and then the same rollout as any other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Result;

use super::acquire_lock::{LockCaller, LockGuard, LockOutcome};
use super::dependents::Dependents;
use super::jobs::Jobs;
use super::journal::Journal;
use super::observe::{self, DesiredVersion};
use super::pipeline::Pipeline;
use super::request::{Request, connect, resolved};
use super::settings;
use super::state_location::StateLocation;
use super::swarm_deploy;
use super::targets::{self, Target};
use crate::cli::{ComposeArgs, DeployArgs, RollbackArgs, RolloutArgs, UpdateArgs};
use crate::docker::Docker;
use crate::error::Error;
use crate::health::monitor::Monitor;
use crate::model::{FlagLayers, Project, ResolvedProject, UpdateLayer};
use crate::preflight;
use crate::release::store;
use crate::release::{
    ReleaseHistory, ReleaseRecord, RolloutKind, RolloutOutcome, ServiceRelease, UnreadableFile, images,
};
use crate::report::{Event, Report, Warning};
use crate::rollout::restart;
use crate::wait::StopSignal;
use crate::witness::Witness;

/// Puts an earlier release back.
///
/// # Errors
/// No release to go back to; and as a deploy.
pub fn rollback(compose: &ComposeArgs, args: &RollbackArgs, report: Report, stop: &StopSignal) -> Result<()> {
    let flags = settings::flags(&UpdateArgs::default(), &args.rollout);
    let opened = open(compose, place(&args.rollout), report)?;
    let Some((turn, journal)) =
        opened.turn(settings::command("rollback", &args.services), &args.rollout, (report, stop))?
    else {
        return Ok(());
    };
    let ProjectHandle { docker, is_stack, .. } = opened;
    let journal = journal.for_change(report)?;
    let folder = settings::project_folder(compose);
    let is_recorded =
        journal.history.current().is_some() || journal.history.unreadable_records().next().is_some();
    if is_stack && args.to.is_none() && !is_recorded {
        return swarm_deploy::rollback_unrecorded(&docker, &journal.project, args, report, stop);
    }
    let rollout = &args.rollout;
    let back =
        Restorer { docker: &docker, journal: &journal, folder, flags, rollout, report, stop, is_stack };
    let services = back.services_named(&args.services, args.to)?;
    let choice = choose(&journal, &services, args.to)?;
    turn.ended(back.put_back(&RestoreRequest {
        number: journal.next_number(),
        kind: RolloutKind::Rollback { to: choice.record.number },
        ..choice
    }))
}

/// Goes on with a rollout that paused.
///
/// # Errors
/// Nothing is paused; and as a deploy.
pub fn resume(compose: &ComposeArgs, args: &DeployArgs, report: Report, stop: &StopSignal) -> Result<()> {
    let flags = settings::flags(&args.update, &args.rollout);
    let opened = open(compose, place(&args.rollout), report)?;
    let Some((turn, journal)) = opened.turn("deploy --resume".into(), &args.rollout, (report, stop))? else {
        return Ok(());
    };
    let ProjectHandle { docker, is_stack, .. } = opened;
    let journal = journal.for_change(report)?;
    unfinished_is_known(&journal)?;
    let paused = journal.heading.clone().filter(|h| h.paused);
    let record = paused.as_ref().and_then(|h| journal.history.get(h.number));
    let lost = paused.as_ref().and_then(|h| journal.history.unreadable(h.number));
    let (Some(paused), Some(record)) = (paused, record) else {
        let none = || Error::usage("no rollout of this project is paused");
        let error = lost.map_or_else(none, Error::from);
        return Err(error.hint("`compose-zd deploy` starts one").into());
    };
    let folder = settings::project_folder(compose);
    let rollout = &args.rollout;
    let back =
        Restorer { docker: &docker, journal: &journal, folder, flags, rollout, report, stop, is_stack };
    let asked =
        RestoreRequest { record, services: paused.services, number: paused.number, kind: paused.kind };
    turn.ended(back.put_back(&asked))
}

/// Goes on with what a killed run was to put in place, so that there is one release and nothing is left over.
///
/// # Errors
/// As a deploy.
pub fn recover(
    compose: &ComposeArgs,
    rollout: &RolloutArgs,
    report: Report,
    stop: &StopSignal,
) -> Result<()> {
    let opened = open(compose, place(rollout), report)?;
    let Some((turn, journal)) = opened.turn("recover".into(), rollout, (report, stop))? else {
        return Ok(());
    };
    let ProjectHandle { docker, is_stack, state_dir, .. } = opened;
    let journal = journal.for_change(report)?;
    unfinished_is_known(&journal)?;
    let Some(heading) = journal.heading.clone() else {
        report.in_order(&journal.project, journal.history.current().map(|r| r.number));
        return Ok(());
    };
    if heading.paused {
        return Err(Error::usage("nothing was left half done: a rollout of this project is paused")
            .hint("`compose-zd deploy --resume` goes on with it, `compose-zd rollback` puts back what was before")
            .into());
    }
    report.event(Event::Recovering { release: heading.number });
    let (folder, flags) =
        (settings::project_folder(compose), settings::flags(&UpdateArgs::default(), rollout));
    if let RolloutKind::Rollback { to } = heading.kind {
        let record = release(&journal, to)?;
        let back =
            Restorer { docker: &docker, journal: &journal, folder, flags, rollout, report, stop, is_stack };
        let (number, kind) = (journal.next_number(), heading.kind);
        return turn.ended(back.put_back(&RestoreRequest {
            record,
            services: heading.services,
            number,
            kind,
        }));
    }
    let (text, source) = (journal.config(heading.number)?, format!("release {}", heading.number));
    let mut request = Request::of_text(&text, source, &docker, folder, flags)?;
    request.write(&journal, heading.number, rollout.dry_run)?;
    let args = DeployArgs {
        services: heading.services,
        no_build: true,
        rollout: rollout.clone(),
        ..DeployArgs::default()
    };
    let place = super::RunLocation { state_dir, is_stack, unfinished: Some(heading.number) };
    turn.ended(super::run_locked(request, journal, &args, place, (report, stop)))
}

/// After a failed deploy over what was not one release: the last good one, for these services.
///
/// # Errors
/// As a rollback.
pub fn restore_last_good(run: &Pipeline, number: u32, services: &[String]) -> Result<()> {
    let journal = run.journal.reopened()?;
    let Some(record) = journal.history.get(number) else {
        return Err(Error::unchanged(format!("there is no release {number}")).into());
    };
    // That it failed is told already.
    let mut rollout = run.rollout.clone();
    rollout.witness.strict = false;
    let back = Restorer {
        docker: &run.request.docker,
        journal: &journal,
        folder: run.request.folder.clone(),
        // What served before has proven itself: the way back has no monitor.
        flags: FlagLayers {
            witness: run.request.flags.witness.clone(),
            rollback: UpdateLayer { monitor: Some(Duration::ZERO), ..UpdateLayer::default() },
            ..FlagLayers::default()
        },
        rollout: &rollout,
        report: run.report,
        stop: &StopSignal::default(),
        is_stack: false,
    };
    let kind = RolloutKind::Rollback { to: number };
    back.put_back(&RestoreRequest {
        record,
        services: services.to_vec(),
        number: journal.next_number(),
        kind,
    })
}

fn place(rollout: &RolloutArgs) -> (Option<&Path>, Option<&str>) {
    (rollout.state_dir.as_deref(), rollout.swarm.engine.as_deref())
}

/// A project whose file need not be readable: going back does not need it.
struct ProjectHandle {
    docker: Docker,
    journal: Journal,
    /// The project is a stack of a Swarm.
    is_stack: bool,
    state_dir: PathBuf,
}

impl ProjectHandle {
    /// This run's turn, and the releases as they are then; `None` where a newer run has taken it.
    ///
    /// # Errors
    /// As [`Caller::turn`].
    fn turn(
        &self,
        command: String,
        rollout: &RolloutArgs,
        (report, stop): (Report, &StopSignal),
    ) -> Result<Option<(LockGuard, Journal)>> {
        let ProjectHandle { docker, journal, is_stack, .. } = self;
        match (LockCaller { docker, is_stack: *is_stack, journal, command, rollout, report, stop }).turn()? {
            LockOutcome::Ours(held) => Ok(Some((held, journal.reopened()?))),
            LockOutcome::Superseded => {
                report.superseded(&journal.project);
                Ok(None)
            }
        }
    }
}

/// The project's docker and its releases; `place` is the state folder and the engine, where they are given.
fn open(
    compose: &ComposeArgs,
    place: (Option<&Path>, Option<&str>),
    report: Report,
) -> Result<ProjectHandle> {
    let mut docker = connect(compose, report)?;
    let (dir, engine) = place;
    let file = resolved(&mut docker, report);
    let read = match &file {
        Ok(yaml) => Project::read(yaml, &settings::source(compose), &FlagLayers::default()).ok(),
        Err(_) => None,
    };
    let engine = settings::engine(engine, read.and_then(|p| p.engine));
    let name = match file {
        Ok(yaml) => {
            ResolvedProject::read(&yaml).map_err(Error::from)?.project().unwrap_or_default().to_string()
        }
        Err(error) => {
            let cluster = docker.cluster().ok();
            let folders = [None, cluster.as_deref()].map(|c| settings::state_dir(compose, dir, c));
            let name = folders.iter().find_map(|f| only_project(compose, f)).ok_or(error)?;
            report.warn(&Warning::Release(format!(
                "the compose file cannot be read; `{name}` is taken as it was recorded"
            )));
            name
        }
    };
    let cluster = swarm_deploy::cluster(&docker, engine, &name)?;
    let home = StateLocation::of(&docker, compose, dir, cluster.as_deref(), &name);
    let journal = Journal::open(&home, &name)?;
    Ok(ProjectHandle { docker, journal, is_stack: cluster.is_some(), state_dir: home.state_dir })
}

/// The releases of a project, to look at.
///
/// # Errors
/// A record that cannot be read.
pub fn records(
    compose: &ComposeArgs,
    state_dir: Option<&Path>,
    engine: Option<&str>,
    report: Report,
) -> Result<Journal> {
    open(compose, (state_dir, engine), report).map(|opened| opened.journal.for_looking(report))
}

/// The project as it was named, or the only one that has releases.
fn only_project(compose: &ComposeArgs, state_dir: &Path) -> Option<String> {
    let named = compose.project_name.clone().or_else(|| std::env::var("COMPOSE_PROJECT_NAME").ok());
    let mut recorded = store::projects(state_dir).unwrap_or_default();
    match named {
        Some(name) => recorded.contains(&name).then_some(name),
        None if recorded.len() == 1 => recorded.pop(),
        None => None,
    }
}

/// A release to put in place, and for which services.
#[derive(Debug, Clone)]
struct RestoreRequest<'a> {
    record: &'a ReleaseRecord,
    services: Vec<String>,
    number: u32,
    kind: RolloutKind,
}

/// Which release a rollback goes to: the one named; else, where a rollout of these services did not get to its end, the
/// one before it; else the one before the current, for the services that the last rollout was about where none is named.
///
/// # Errors
/// None to go back to, with those that there are.
fn choose<'a>(
    journal: &'a Journal,
    services: &[String],
    to: Option<u32>,
) -> Result<RestoreRequest<'a>, Error> {
    let history = &journal.history;
    let Some(current) = history.current() else {
        return choose_blindly(journal, services, to);
    };
    if to.is_none() {
        unfinished_is_known(journal)?;
    }
    let unfinished: &[String] = journal.heading.as_ref().map_or(&[], |h| &h.services);
    // All of it comes along, or what is not named would stay halfway.
    let is_about_it = services.is_empty() || services.iter().any(|s| unfinished.contains(s));
    let goes_to_current = is_about_it && !unfinished.is_empty();
    let last = last_changed(history, current);
    let asked = if services.is_empty() { &last } else { services };
    let chosen = match to {
        Some(number) => release(journal, number)?,
        None if goes_to_current => current,
        None => before(journal, asked)?,
    };
    let undoes = chosen.number == current.number && !unfinished.is_empty();
    let mut named = match (services.is_empty() && !undoes, to) {
        // What is halfway is not known, so all of it is put back.
        (true, Some(_)) if journal.lost.is_some() => chosen.services.keys().cloned().collect(),
        (true, Some(_)) => differing(chosen, current),
        (true, None) => last,
        (false, _) => services.to_vec(),
    };
    let more = unfinished.iter().filter(|s| is_about_it && chosen.services.contains_key(*s));
    let more: Vec<String> = more.filter(|s| !named.contains(s)).cloned().collect();
    named.extend(more);
    having(journal, chosen, named)
}

/// The release that a rollback without a word goes to; none where it would be refused.
pub fn goes_to(journal: &Journal) -> Option<u32> {
    choose(journal, &[], None).ok().map(|asked| asked.record.number)
}

/// Without a current release: the one that is named, or none.
///
/// # Errors
/// None is named; none is recorded.
fn choose_blindly<'a>(
    journal: &'a Journal,
    services: &[String],
    to: Option<u32>,
) -> Result<RestoreRequest<'a>, Error> {
    match (journal.history.unreadable_records().next(), to) {
        (None, _) => Err(Error::usage(format!(
            "no release of `{}` is recorded in {}",
            journal.project,
            journal.folder().display()
        ))
        .hint("`compose-zd deploy` records one; another folder is named with `--state-dir`")),
        (Some((number, damage)), None) => {
            Err(unreadable(journal, damage, &format!("release {number} may be the one that serves")))
        }
        (Some(_), Some(number)) => {
            let chosen = release(journal, number)?;
            let all = || chosen.services.keys().cloned().collect();
            having(journal, chosen, if services.is_empty() { all() } else { services.to_vec() })
        }
    }
}

/// # Errors
/// A service that the release does not have.
fn having<'a>(
    journal: &Journal,
    chosen: &'a ReleaseRecord,
    named: Vec<String>,
) -> Result<RestoreRequest<'a>, Error> {
    match named.iter().find(|s| !chosen.services.contains_key(*s)) {
        Some(service) => Err(Error::usage(format!("release {} has no service `{service}`", chosen.number))
            .hint(listed(journal))),
        None => Ok(RestoreRequest { record: chosen, services: named, number: 0, kind: RolloutKind::Deploy }),
    }
}

/// The release before the current one, for these services. One in between that cannot be read may be it, and no other is
/// taken in its place.
///
/// # Errors
/// None before; one that may be it cannot be read.
fn before<'a>(journal: &'a Journal, services: &[String]) -> Result<&'a ReleaseRecord, Error> {
    let found = journal.history.previous(services).filter(|_| !services.is_empty());
    let between = journal.history.unreadable_since(found.map_or(0, |r| r.number));
    match (between, found) {
        (Some((number, damage)), _) => {
            Err(unreadable(journal, damage, &format!("release {number} may be the one to go back to")))
        }
        (None, None) => Err(none_before(journal, services)),
        (None, Some(found)) => match journal.snapshot(found.number) {
            Ok(_) => Ok(found),
            Err(error) => Err(error.hint(format!("name another with `--to`: {}", listed(journal)))),
        },
    }
}

/// # Errors
/// A rollout ended halfway, and what it was about cannot be read: what goes back is to be said.
fn unfinished_is_known(journal: &Journal) -> Result<(), Error> {
    journal.lost.iter().try_for_each(|damage| {
        Err(unreadable(journal, damage, "it says what a rollout that did not get to its end was about"))
    })
}

fn unreadable(journal: &Journal, damage: &UnreadableFile, so: &str) -> Error {
    Error::unchanged(format!("{damage}, and {so}"))
        .hint(format!("name the release to put back with `--to`: {}", listed(journal)))
}

/// The services that the last rollout was about, without those that were new to it: there is nothing to put back.
fn last_changed(history: &ReleaseHistory, current: &ReleaseRecord) -> Vec<String> {
    let was_there = |service: &&String| history.previous(std::slice::from_ref(service)).is_some();
    current.deployed.iter().filter(was_there).cloned().collect()
}

/// # Errors
/// A number that is not kept, or that never served.
fn release(journal: &Journal, number: u32) -> Result<&ReleaseRecord, Error> {
    let refuse = |why: &str| Err(Error::usage(format!("release {number} {why}")).hint(listed(journal)));
    match journal.history.get(number) {
        None => match journal.history.unreadable(number) {
            Some(damage) => Err(unreadable(journal, damage, "another release has to be put back")),
            None => refuse("is not recorded"),
        },
        Some(record) if record.outcome != RolloutOutcome::Deployed => refuse("was never put in place whole"),
        Some(record) if !journal.config_path(number).exists() => Err(Error::usage(format!(
            "release {} is history only: its configuration was not kept",
            record.number
        ))
        .hint(listed(journal))),
        Some(record) => Ok(record),
    }
}

fn none_before(journal: &Journal, services: &[String]) -> Error {
    let whose = match services {
        [] => format!("`{}`", journal.project),
        some => some.iter().map(|s| format!("`{s}`")).collect::<Vec<_>>().join(", "),
    };
    Error::usage(format!("there is no release of {whose} before the current one")).hint(listed(journal))
}

/// The releases that can be gone back to, in words.
fn listed(journal: &Journal) -> String {
    let kept: Vec<String> = journal
        .history
        .good_numbers()
        .into_iter()
        .filter(|n| journal.config_path(*n).exists())
        .map(|n| n.to_string())
        .collect();
    match kept.is_empty() {
        true => "none is kept".into(),
        false => format!("kept are {}", kept.join(", ")),
    }
}

/// The services that a release has otherwise than the current one; all of them where it is the same.
fn differing(chosen: &ReleaseRecord, current: &ReleaseRecord) -> Vec<String> {
    let differs = |(name, placed): &(&String, &ServiceRelease)| {
        current.services.get(*name).is_some_and(|now| !now.same_content(placed))
    };
    let names: Vec<String> = chosen.services.iter().filter(differs).map(|(name, _)| name.clone()).collect();
    match names.is_empty() {
        true => chosen.services.keys().cloned().collect(),
        false => names,
    }
}

/// What going back works with.
struct Restorer<'a> {
    docker: &'a Docker,
    journal: &'a Journal,
    folder: PathBuf,
    flags: FlagLayers,
    rollout: &'a RolloutArgs,
    report: Report,
    stop: &'a StopSignal,
    /// The project is a stack of a Swarm.
    is_stack: bool,
}

impl Restorer<'_> {
    /// The services of these names, as the current release knows them: both sides of a pair.
    fn services_named(&self, names: &[String], to: Option<u32>) -> Result<Vec<String>> {
        let history = &self.journal.history;
        let known = history.current().filter(|r| self.journal.snapshot(r.number).is_ok());
        let chosen = || to.and_then(|number| history.get(number));
        let Some(current) = known.or_else(chosen).filter(|_| !names.is_empty()) else {
            return Ok(names.to_vec());
        };
        let text = self.journal.config(current.number)?;
        let project =
            Project::read(&text, &format!("release {}", current.number), &self.flags).map_err(Error::from)?;
        let targets = targets::as_targets(&project, names)?;
        Ok(targets.iter().flat_map(Target::services).map(String::from).collect())
    }

    /// The same rollout as a deploy, towards what was recorded.
    fn put_back(&self, asked: &RestoreRequest) -> Result<()> {
        let (record, journal) = (asked.record, self.journal);
        let source = format!("release {}", record.number);
        if !self.is_stack {
            swarm_deploy::refuse_flags(&self.rollout.swarm)?;
        } else {
            let text = journal.config(record.number)?;
            let flags = self.flags.clone();
            let request = Request::of_text(&text, source, self.docker, self.folder.clone(), flags)?;
            let (journal, told) = (journal.reopened()?, (self.report, self.stop));
            let aim = (asked.number, asked.kind);
            return swarm_deploy::restore_release(request, &asked.services, aim, journal, self.rollout, told);
        }
        let mut snapshot = journal.snapshot(record.number)?;
        let mut placed = BTreeMap::new();
        let mut references = BTreeMap::new();
        for service in &asked.services {
            let its = &record.services[service];
            let reference = images::ensure_image(self.docker, journal.owner(), service, its)?;
            snapshot.set_image(service, &reference);
            references.insert(service.clone(), reference);
            placed.insert(service.clone(), its.clone());
        }
        let services: Vec<&str> = asked.services.iter().map(String::as_str).collect();
        let text = journal.merged_config(&snapshot.text(), &services)?;
        let mut request =
            Request::of_text(&text, source, self.docker, self.folder.clone(), self.flags.clone())?;
        request.write(journal, asked.number, self.rollout.dry_run)?;
        let mut targets = targets::as_targets(&request.project, &asked.services)?;
        targets::dependencies_first(&request.project, &mut targets);
        request.docker = request.docker.with_stop_signal(self.stop);
        let containers = request.docker.containers()?;
        let proxies = observe::detect(&request.docker, &request.project, &containers)?;
        preflight::targets(&request.project, &targets, &proxies)?;
        let wanted = recorded(&request.docker, &placed, &references)?;
        // One behind a proxy is not restarted, because that would lose its requests, nor rolled: no record has it.
        let found = Dependents::of(&request.project, &targets, &containers, &proxies);
        for name in found.names() {
            self.report.warn(&Warning::Loss(format!(
                "`{name}` asks to be restarted (`depends_on.….restart: true`), which a rollback does not do behind a proxy; \
                 `compose-zd deploy {name} --force` rolls it"
            )));
        }
        let dependents = Dependents { rolled: Vec::new(), ..found };
        let after = Jobs { before: Vec::new(), ..Jobs::of(&request.project, &targets) };
        let run = Pipeline {
            request: &request,
            wanted: &wanted,
            proxies: &proxies,
            journal,
            kind: asked.kind,
            number: asked.number,
            sizes: placed.iter().map(|(service, p)| (service.clone(), p.replicas as usize)).collect(),
            images: BTreeSet::new(),
            placed,
            jobs: after,
            completed: BTreeSet::new(),
            dependents,
            rollout: self.rollout,
            report: self.report,
            stop: self.stop,
            witness: Witness::default(),
            watch: Monitor::default(),
            running: Mutex::default(),
            policies: restart::policies(
                &request.project.name,
                &containers,
                journal.heading.as_ref().map(|h| &h.restart),
            ),
        };
        run.execute(&targets, containers)
    }
}

/// What tells an instance of a recorded release: its image, and its configuration as the file gave it then, or as the
/// record gives it now.
fn recorded(
    docker: &Docker,
    placed: &BTreeMap<String, ServiceRelease>,
    references: &BTreeMap<String, String>,
) -> Result<DesiredVersion> {
    let now = docker.hashes()?;
    let mut wanted = DesiredVersion::default();
    for (service, placed) in placed {
        let hashes = [Some(placed.config_hash.clone()), now.get(service).cloned()];
        wanted.hashes.insert(service.clone(), hashes.into_iter().flatten().collect());
        wanted.images.extend(docker.image(&references[service])?.map(|image| (service.clone(), image)));
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::FORMAT;
    use crate::release::store::Store;

    #[test]
    fn a_release_that_only_added_a_service_has_none_before_it() {
        let goes = |releases: &[&str]| goes_to(&journal(releases).1);
        assert_eq!(goes(&["app1", "app1 web1"]), None, "`web` is new, and nothing else was deployed");
        assert_eq!(goes(&["app1", "app2 web1"]), Some(1));
        assert_eq!(goes(&["app1", "app1 web1", "app1 web2"]), Some(2));
        assert_eq!(goes(&["app1"]), None);
    }

    /// Releases such as `app1 db1`, oldest first: what each service is of after them.
    fn journal(releases: &[&str]) -> (tempfile::TempDir, Journal) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "p").unwrap();
        let mut before: BTreeMap<String, ServiceRelease> = BTreeMap::new();
        for (words, number) in releases.iter().zip(1..) {
            let services: BTreeMap<String, ServiceRelease> =
                words.split(' ').map(|w| placed(w, number)).collect();
            let changed = services.iter().filter(|(s, p)| !before.get(*s).is_some_and(|b| b.same_content(p)));
            let deployed = changed.map(|(s, _)| s.clone()).collect();
            store.write_config(number, "services: {}").unwrap();
            store.write_record(&record(number, services.clone(), deployed)).unwrap();
            before = services;
        }
        let journal =
            Journal::open(&StateLocation { state_dir: dir.path().into(), engine: None }, "p").unwrap();
        (dir, journal)
    }

    fn placed(word: &str, since: u32) -> (String, ServiceRelease) {
        let (service, version) = word.split_at(word.len() - 1);
        let placed = ServiceRelease {
            image: format!("{service}:{version}"),
            image_id: format!("sha256:{version}"),
            digests: Vec::new(),
            config_hash: "h".into(),
            replicas: 1,
            since,
            by_flag: false,
        };
        (service.into(), placed)
    }

    fn record(
        number: u32,
        services: BTreeMap<String, ServiceRelease>,
        deployed: Vec<String>,
    ) -> ReleaseRecord {
        ReleaseRecord {
            format: FORMAT,
            number,
            project: "p".into(),
            kind: RolloutKind::Deploy,
            outcome: RolloutOutcome::Deployed,
            reason: None,
            services,
            deployed,
            git: None,
            by: "me".into(),
            command: String::new(),
            started: String::new(),
            seconds: 0.0,
            cut: 0,
            witness: None,
        }
    }

    /// The release and its services, as `1: app`.
    fn chosen(journal: &Journal, services: &[&str], to: Option<u32>) -> String {
        let services: Vec<String> = services.iter().map(|s| s.to_string()).collect();
        match choose(journal, &services, to) {
            Ok(asked) => format!("{}: {}", asked.record.number, asked.services.join(" ")),
            Err(error) => error.message,
        }
    }

    #[test]
    fn without_a_name_what_the_last_rollout_changed_is_put_back() {
        let (_dir, journal) = journal(&["app1 db1", "app2 db1", "app2 db2"]);
        assert_eq!(chosen(&journal, &[], None), "2: db");
        assert_eq!(chosen(&journal, &["app"], None), "1: app");
        assert_eq!(chosen(&journal, &[], Some(1)), "1: app db");
    }

    #[test]
    fn a_service_that_was_new_has_nothing_to_go_back_to() {
        let (_dir, journal) = journal(&["app1", "app1 worker1"]);
        assert_eq!(chosen(&journal, &[], None), "there is no release of `p` before the current one");
        assert_eq!(
            chosen(&journal, &["worker"], None),
            "there is no release of `worker` before the current one"
        );
    }

    #[test]
    fn a_new_service_beside_a_changed_one_stays() {
        let (_dir, journal) = journal(&["app1", "app2 worker1"]);
        assert_eq!(chosen(&journal, &[], None), "1: app");
    }

    #[test]
    fn a_number_that_is_not_kept_is_refused_with_those_that_are() {
        let (_dir, journal) = journal(&["app1", "app2"]);
        assert_eq!(chosen(&journal, &[], Some(9)), "release 9 is not recorded");
        assert_eq!(listed(&journal), "kept are 2, 1");
    }

    #[test]
    fn what_did_not_get_to_its_end_goes_back_to_the_last_good_one() {
        let (dir, journal) = journal(&["app1 db1", "app2 db1"]);
        let store = Store::new(dir.path(), "p").unwrap();
        let heading = crate::release::InProgress {
            format: FORMAT,
            number: 3,
            kind: RolloutKind::Deploy,
            services: vec!["db".into()],
            replaced: Vec::new(),
            restart: BTreeMap::new(),
            last_good: Some(2),
            paused: true,
        };
        store.write_in_progress(&heading).unwrap();
        let journal = journal.reopened().unwrap();
        assert_eq!(chosen(&journal, &[], None), "2: db");
        assert_eq!(chosen(&journal, &["db"], None), "2: db");
        assert_eq!(chosen(&journal, &["app"], None), "1: app");
        assert_eq!(chosen(&journal, &[], Some(1)), "1: app db");
    }

    /// The same once a file of the state is something else.
    fn with(dir: &tempfile::TempDir, journal: &Journal, name: &str, text: &str) -> Journal {
        std::fs::write(dir.path().join("p").join(name), text).unwrap();
        journal.reopened().unwrap()
    }

    #[test]
    fn no_release_is_chosen_past_one_that_cannot_be_read() {
        let (dir, journal) = journal(&["app1 db1", "app2 db1", "app3 db1"]);
        let middle = with(&dir, &journal, "releases/0002.json", "{");
        assert!(chosen(&middle, &[], None).contains("0002.json` cannot be used"));
        assert!(chosen(&middle, &["app"], None).ends_with("release 2 may be the one to go back to"));
        assert_eq!(chosen(&middle, &[], Some(1)), "1: app");
        assert!(chosen(&middle, &[], Some(2)).contains("0002.json` cannot be used"));
        assert_eq!(listed(&middle), "kept are 3, 1");
        let newest = with(&dir, &middle, "releases/0003.json", "");
        assert!(chosen(&newest, &[], None).ends_with("release 3 may be the one that serves"));
        assert_eq!(chosen(&newest, &[], Some(1)), "1: app db");
        assert_eq!(chosen(&newest, &["db"], Some(1)), "1: db");
        assert_eq!(chosen(&newest, &["nobody"], Some(1)), "release 1 has no service `nobody`");
        assert_eq!(newest.next_number(), 4);
    }

    #[test]
    fn one_that_cannot_be_read_and_is_older_is_in_nobodys_way() {
        let (dir, journal) = journal(&["app1", "app2", "app3"]);
        let journal = with(&dir, &journal, "releases/0001.json", "{");
        assert_eq!(chosen(&journal, &[], None), "2: app");
    }

    #[test]
    fn what_is_halfway_and_not_known_is_put_back_by_its_number_and_as_a_whole() {
        let (dir, journal) = journal(&["app1 db1", "app2 db1"]);
        let journal = with(&dir, &journal, "wanted.json", "{");
        assert!(chosen(&journal, &[], None).contains("wanted.json` cannot be used"));
        assert!(chosen(&journal, &["db"], None).contains("wanted.json` cannot be used"));
        assert_eq!(chosen(&journal, &[], Some(1)), "1: app db");
        assert_eq!(chosen(&journal, &["db"], Some(1)), "1: db");
        assert!(journal.follows_unfinished());
    }

    #[test]
    fn a_release_without_its_configuration_is_not_chosen_by_itself() {
        let (dir, journal) = journal(&["app1", "app2"]);
        for text in ["", "{", "name: q\nservices: {}"] {
            let journal = with(&dir, &journal, "releases/0001.yml", text);
            assert!(chosen(&journal, &[], None).contains("0001.yml` cannot be used"), "{text}");
        }
        std::fs::remove_file(dir.path().join("p/releases/0001.yml")).unwrap();
        assert_eq!(chosen(&journal, &[], None), "the configuration of release 1 is not kept");
    }

    #[test]
    fn without_the_current_configuration_the_rest_is_not_vouched_for() {
        let (dir, journal) = journal(&["app1 db1"]);
        let new = "{\"services\": {\"app\": {\"image\": \"new\"}, \"db\": {\"image\": \"new\"}}}";
        let journal = with(&dir, &journal, "releases/0001.yml", "{");
        assert!(journal.merged_config(new, &["app"]).unwrap().contains("new"));
    }
}
