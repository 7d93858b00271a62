//! `rollback`, `deploy --resume` and `recover`: chooses a recorded release, and rolls it out like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Result;

use super::acquire_lock::{LockCaller, LockGuard, LockOutcome};
use super::dependents::Dependents;
use super::pipeline::Pipeline;
use super::swarm_deploy;
use crate::configuration::{Configuration, connect, resolve_config};
use crate::docker::Docker;
use crate::error::Error;
use crate::health::monitor::Monitor;
use crate::jobs::Jobs;
use crate::model::args::{self, ComposeArgs, DeployArgs, RollbackArgs, RolloutArgs};
use crate::model::{EngineKind, FlagLayers, Project, ResolvedProject, UpdateLayer};
use crate::observe::{self, DesiredVersion};
use crate::preflight;
use crate::release::journal::Journal;
use crate::release::state_location::StateLocation;
use crate::release::store;
use crate::release::{
    ReleaseHistory, ReleaseRecord, RolloutKind, RolloutOutcome, ServiceRelease, UnreadableFile, images,
};
use crate::report::{Event, Report, Warning};
use crate::rollout::restart;
use crate::targets::{self, Target};
use crate::wait::StopSignal;
use crate::witness::Witness;

/// Restores an earlier release.
pub fn rollback(compose: &ComposeArgs, args: &RollbackArgs, report: Report, stop: &StopSignal) -> Result<()> {
    let flags = args.rollout.settings(&UpdateLayer::default());
    let opened = open_project(compose, location_flags(&args.rollout), report)?;
    let Some((lock, journal)) =
        opened.acquire_lock(args::run_name("rollback", &args.services), &args.rollout, (report, stop))?
    else {
        return Ok(());
    };
    let ProjectHandle { docker, is_stack, .. } = opened;
    let journal = journal.for_change(report)?;
    let folder = compose.folder();
    let is_recorded =
        journal.history.current().is_some() || journal.history.unreadable_records().next().is_some();
    if is_stack && args.to.is_none() && !is_recorded {
        return swarm_deploy::rollback_unrecorded(&docker, &journal.project, args, report, stop);
    }
    let rollout = &args.rollout;
    let restorer =
        Restorer { docker: &docker, journal: &journal, folder, flags, args: rollout, report, stop, is_stack };
    let services = restorer.services_named(&args.services, args.to)?;
    let choice = choose(&journal, &services, args.to)?;
    lock.finish(restorer.restore(&RestoreRequest {
        number: journal.next_number(),
        kind: RolloutKind::Rollback { to: choice.record.number },
        ..choice
    }))
}

/// Continues a paused rollout.
pub fn resume(compose: &ComposeArgs, args: &DeployArgs, report: Report, stop: &StopSignal) -> Result<()> {
    let flags = args.rollout.settings(&args.update);
    let opened = open_project(compose, location_flags(&args.rollout), report)?;
    let Some((lock, journal)) =
        opened.acquire_lock("deploy --resume".into(), &args.rollout, (report, stop))?
    else {
        return Ok(());
    };
    let ProjectHandle { docker, is_stack, .. } = opened;
    let journal = journal.for_change(report)?;
    require_readable_unfinished(&journal)?;
    let paused = journal.in_progress.clone().filter(|h| h.paused);
    let record = paused.as_ref().and_then(|h| journal.history.get(h.number));
    let lost = paused.as_ref().and_then(|h| journal.history.unreadable(h.number));
    let (Some(paused), Some(record)) = (paused, record) else {
        let none = || Error::usage("no rollout of this project is paused");
        let error = lost.map_or_else(none, Error::from);
        return Err(error.hint("`compose-zd deploy` starts one").into());
    };
    let folder = compose.folder();
    let rollout = &args.rollout;
    let restorer =
        Restorer { docker: &docker, journal: &journal, folder, flags, args: rollout, report, stop, is_stack };
    let request =
        RestoreRequest { record, services: paused.services, number: paused.number, kind: paused.kind };
    lock.finish(restorer.restore(&request))
}

/// Finishes the rollout of a killed run.
pub fn recover(
    compose: &ComposeArgs,
    rollout: &RolloutArgs,
    report: Report,
    stop: &StopSignal,
) -> Result<()> {
    let opened = open_project(compose, location_flags(rollout), report)?;
    let Some((lock, journal)) = opened.acquire_lock("recover".into(), rollout, (report, stop))? else {
        return Ok(());
    };
    let ProjectHandle { docker, is_stack, state_dir, .. } = opened;
    let journal = journal.for_change(report)?;
    require_readable_unfinished(&journal)?;
    let Some(in_progress) = journal.in_progress.clone() else {
        report.nothing_to_recover(&journal.project, journal.history.current().map(|r| r.number));
        return Ok(());
    };
    if in_progress.paused {
        return Err(Error::usage("no rollout is unfinished, but one is paused")
            .hint("`compose-zd deploy --resume` continues it, `compose-zd rollback` undoes it")
            .into());
    }
    report.event(Event::Recovering { release: in_progress.number });
    let (folder, flags) = (compose.folder(), rollout.settings(&UpdateLayer::default()));
    if let RolloutKind::Rollback { to } = in_progress.kind {
        let record = restorable_release(&journal, to)?;
        let restorer = Restorer {
            docker: &docker,
            journal: &journal,
            folder,
            flags,
            args: rollout,
            report,
            stop,
            is_stack,
        };
        let (number, kind) = (journal.next_number(), in_progress.kind);
        return lock.finish(restorer.restore(&RestoreRequest {
            record,
            services: in_progress.services,
            number,
            kind,
        }));
    }
    let (text, source) = (journal.config(in_progress.number)?, format!("release {}", in_progress.number));
    let mut request = Configuration::from_text(&text, source, &docker, folder, flags)?;
    request.write(&journal, in_progress.number, rollout.dry_run)?;
    let args = DeployArgs {
        services: in_progress.services,
        no_build: true,
        rollout: rollout.clone(),
        ..DeployArgs::default()
    };
    let location = super::RunLocation { state_dir, is_stack, unfinished: Some(in_progress.number) };
    lock.finish(super::run_locked(request, journal, &args, location, (report, stop)))
}

/// Restores the last good release of these services after a failed deploy.
pub fn restore_last_good(pipeline: &Pipeline, number: u32, services: &[String]) -> Result<()> {
    let journal = pipeline.journal.reopen()?;
    let Some(record) = journal.history.get(number) else {
        return Err(Error::unchanged(format!("release {number} does not exist")).into());
    };
    // The failed deploy has reported its losses already.
    let mut rollout = pipeline.args.clone();
    rollout.witness.strict = false;
    let restorer = Restorer {
        docker: &pipeline.request.docker,
        journal: &journal,
        folder: pipeline.request.folder.clone(),
        // The restored release was good before, so it needs no monitor.
        flags: FlagLayers {
            witness: pipeline.request.flags.witness.clone(),
            rollback: UpdateLayer { monitor: Some(Duration::ZERO), ..UpdateLayer::default() },
            ..FlagLayers::default()
        },
        args: &rollout,
        report: pipeline.report,
        stop: &StopSignal::default(),
        is_stack: false,
    };
    let kind = RolloutKind::Rollback { to: number };
    restorer.restore(&RestoreRequest {
        record,
        services: services.to_vec(),
        number: journal.next_number(),
        kind,
    })
}

fn location_flags(rollout: &RolloutArgs) -> (Option<&Path>, Option<EngineKind>) {
    (rollout.state_dir.as_deref(), rollout.swarm.engine)
}

/// Opened project. A rollback does not need a readable file.
struct ProjectHandle {
    docker: Docker,
    journal: Journal,
    /// True for a stack on a Swarm.
    is_stack: bool,
    state_dir: PathBuf,
}

impl ProjectHandle {
    /// Acquires the lock and reads the journal again; `None` if a newer run took over.
    fn acquire_lock(
        &self,
        command: String,
        rollout: &RolloutArgs,
        (report, stop): (Report, &StopSignal),
    ) -> Result<Option<(LockGuard, Journal)>> {
        let ProjectHandle { docker, journal, is_stack, .. } = self;
        match (LockCaller { docker, is_stack: *is_stack, journal, command, args: rollout, report, stop })
            .acquire()?
        {
            LockOutcome::Acquired(lock) => Ok(Some((lock, journal.reopen()?))),
            LockOutcome::Superseded => {
                report.superseded(&journal.project);
                Ok(None)
            }
        }
    }
}

/// Opens a project; the flags are the state folder and the engine.
fn open_project(
    compose: &ComposeArgs,
    place: (Option<&Path>, Option<EngineKind>),
    report: Report,
) -> Result<ProjectHandle> {
    let mut docker = connect(compose, report)?;
    let (dir, engine) = place;
    let file = resolve_config(&mut docker, report);
    let read = match &file {
        Ok(yaml) => Project::read(yaml, &compose.source(), &FlagLayers::default()).ok(),
        Err(_) => None,
    };
    let engine = engine.or(read.and_then(|p| p.engine));
    let name = match file {
        Ok(yaml) => {
            ResolvedProject::parse(&yaml).map_err(Error::from)?.project_name().unwrap_or_default().to_string()
        }
        Err(error) => {
            let cluster = docker.swarm_id().ok();
            let folders = [None, cluster.as_deref()].map(|c| compose.state_dir(dir, c));
            let name = folders.iter().find_map(|f| only_project(compose, f)).ok_or(error)?;
            report.warn(&Warning::Other(format!(
                "the compose file cannot be read; using the recorded configuration of `{name}`"
            )));
            name
        }
    };
    let cluster = swarm_deploy::swarm_id(&docker, engine, &name)?;
    let location = StateLocation::find(&docker, compose, dir, cluster.as_deref(), &name);
    let journal = Journal::open(&location, &name)?;
    Ok(ProjectHandle { docker, journal, is_stack: cluster.is_some(), state_dir: location.state_dir })
}

/// Opens the journal of a project for reading.
pub fn open_journal(
    compose: &ComposeArgs,
    state_dir: Option<&Path>,
    engine: Option<EngineKind>,
    report: Report,
) -> Result<Journal> {
    open_project(compose, (state_dir, engine), report).map(|opened| opened.journal.for_reading(report))
}

/// Project name by flag or environment, else the only one with releases.
fn only_project(compose: &ComposeArgs, state_dir: &Path) -> Option<String> {
    let named = compose.project_name.clone().or_else(|| std::env::var("COMPOSE_PROJECT_NAME").ok());
    let mut recorded = store::projects(state_dir).unwrap_or_default();
    match named {
        Some(name) => recorded.contains(&name).then_some(name),
        None if recorded.len() == 1 => recorded.pop(),
        None => None,
    }
}

/// Release to restore, and the services to restore.
#[derive(Debug, Clone)]
struct RestoreRequest<'a> {
    record: &'a ReleaseRecord,
    services: Vec<String>,
    number: u32,
    kind: RolloutKind,
}

/// Chooses the release of a rollback: the given number; else the current one, if a rollout of these services did
/// not finish; else the one before. Without names, the services of the last rollout.
///
/// # Errors
/// No release to restore; the hint lists those that exist.
fn choose<'a>(
    journal: &'a Journal,
    services: &[String],
    to: Option<u32>,
) -> Result<RestoreRequest<'a>, Error> {
    let history = &journal.history;
    let Some(current) = history.current() else {
        return choose_without_current(journal, services, to);
    };
    if to.is_none() {
        require_readable_unfinished(journal)?;
    }
    let unfinished: &[String] = journal.in_progress.as_ref().map_or(&[], |h| &h.services);
    // Every unfinished service is restored too, or it would stay half replaced.
    let is_about_it = services.is_empty() || services.iter().any(|s| unfinished.contains(s));
    let goes_to_current = is_about_it && !unfinished.is_empty();
    let last = last_deployed(history, current);
    let affected = if services.is_empty() { &last } else { services };
    let chosen = match to {
        Some(number) => restorable_release(journal, number)?,
        None if goes_to_current => current,
        None => previous_release(journal, affected)?,
    };
    let undoes = chosen.number == current.number && !unfinished.is_empty();
    let mut named = match (services.is_empty() && !undoes, to) {
        // The unfinished services are unknown, so all are restored.
        (true, Some(_)) if journal.unreadable_in_progress.is_some() => {
            chosen.services.keys().cloned().collect()
        }
        (true, Some(_)) => changed_services(chosen, current),
        (true, None) => last,
        (false, _) => services.to_vec(),
    };
    let more = unfinished.iter().filter(|s| is_about_it && chosen.services.contains_key(*s));
    let more: Vec<String> = more.filter(|s| !named.contains(s)).cloned().collect();
    named.extend(more);
    restore_request(journal, chosen, named)
}

/// Release of a rollback without arguments; `None` if it would be refused.
pub fn default_release(journal: &Journal) -> Option<u32> {
    choose(journal, &[], None).ok().map(|request| request.record.number)
}

/// Chooses the release without a current one: only a given number is accepted.
fn choose_without_current<'a>(
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
        .hint("`compose-zd deploy` records one; `--state-dir` names another folder")),
        (Some((number, unreadable)), None) => Err(unreadable_error(
            journal,
            unreadable,
            &format!("release {number} may be the one that serves"),
        )),
        (Some(_), Some(number)) => {
            let chosen = restorable_release(journal, number)?;
            let all = || chosen.services.keys().cloned().collect();
            restore_request(journal, chosen, if services.is_empty() { all() } else { services.to_vec() })
        }
    }
}

/// Request to restore these services.
///
/// # Errors
/// The release lacks one of them.
fn restore_request<'a>(
    journal: &Journal,
    chosen: &'a ReleaseRecord,
    named: Vec<String>,
) -> Result<RestoreRequest<'a>, Error> {
    match named.iter().find(|s| !chosen.services.contains_key(*s)) {
        Some(service) => Err(Error::usage(format!("release {} has no service `{service}`", chosen.number))
            .hint(list_restorable(journal))),
        None => Ok(RestoreRequest { record: chosen, services: named, number: 0, kind: RolloutKind::Deploy }),
    }
}

/// Release before the current one, for these services. An unreadable one in between may be it, so no older one is
/// chosen.
fn previous_release<'a>(journal: &'a Journal, services: &[String]) -> Result<&'a ReleaseRecord, Error> {
    let found = journal.history.previous(services).filter(|_| !services.is_empty());
    let between = journal.history.unreadable_since(found.map_or(0, |r| r.number));
    match (between, found) {
        (Some((number, unreadable)), _) => {
            Err(unreadable_error(journal, unreadable, &format!("release {number} may be the one to restore")))
        }
        (None, None) => Err(no_previous_release(journal, services)),
        (None, Some(found)) => match journal.snapshot(found.number) {
            Ok(_) => Ok(found),
            Err(error) => Err(error.hint(format!("name another with `--to`: {}", list_restorable(journal)))),
        },
    }
}

/// Fails if the record of an unfinished rollout is unreadable, because its services are unknown.
fn require_readable_unfinished(journal: &Journal) -> Result<(), Error> {
    journal.unreadable_in_progress.iter().try_for_each(|unreadable| {
        Err(unreadable_error(journal, unreadable, "the services of an unfinished rollout are in it"))
    })
}

fn unreadable_error(journal: &Journal, unreadable: &UnreadableFile, so: &str) -> Error {
    Error::unchanged(format!("{unreadable}, and {so}"))
        .hint(format!("name the release to restore with `--to`: {}", list_restorable(journal)))
}

/// Services of the last rollout, without the ones that it added.
fn last_deployed(history: &ReleaseHistory, current: &ReleaseRecord) -> Vec<String> {
    let was_there = |service: &&String| history.previous(std::slice::from_ref(service)).is_some();
    current.deployed.iter().filter(was_there).cloned().collect()
}

/// Recorded release that can be restored.
fn restorable_release(journal: &Journal, number: u32) -> Result<&ReleaseRecord, Error> {
    let refuse =
        |why: &str| Err(Error::usage(format!("release {number} {why}")).hint(list_restorable(journal)));
    match journal.history.get(number) {
        None => match journal.history.unreadable(number) {
            Some(unreadable) => {
                Err(unreadable_error(journal, unreadable, "another release has to be restored"))
            }
            None => refuse("is not recorded"),
        },
        Some(record) if record.outcome != RolloutOutcome::Deployed => refuse("was never deployed completely"),
        Some(record) if !journal.config_path(number).exists() => {
            Err(Error::usage(format!("the configuration of release {} is no longer kept", record.number))
                .hint(list_restorable(journal)))
        }
        Some(record) => Ok(record),
    }
}

fn no_previous_release(journal: &Journal, services: &[String]) -> Error {
    let whose = match services {
        [] => format!("`{}`", journal.project),
        some => some.iter().map(|s| format!("`{s}`")).collect::<Vec<_>>().join(", "),
    };
    Error::usage(format!("there is no release of {whose} before the current one"))
        .hint(list_restorable(journal))
}

/// List of the releases that can be restored.
fn list_restorable(journal: &Journal) -> String {
    let kept: Vec<String> = journal
        .history
        .good_numbers()
        .into_iter()
        .filter(|n| journal.config_path(*n).exists())
        .map(|n| n.to_string())
        .collect();
    if kept.is_empty() { "no release is kept".into() } else { format!("kept releases: {}", kept.join(", ")) }
}

/// Services of a release that differ from the current one; all, if none does.
fn changed_services(chosen: &ReleaseRecord, current: &ReleaseRecord) -> Vec<String> {
    let differs = |(name, release): &(&String, &ServiceRelease)| {
        current.services.get(*name).is_some_and(|now| !now.same_content(release))
    };
    let names: Vec<String> = chosen.services.iter().filter(differs).map(|(name, _)| name.clone()).collect();
    if names.is_empty() { chosen.services.keys().cloned().collect() } else { names }
}

/// Restores a recorded release.
struct Restorer<'a> {
    docker: &'a Docker,
    journal: &'a Journal,
    folder: PathBuf,
    flags: FlagLayers,
    args: &'a RolloutArgs,
    report: Report,
    stop: &'a StopSignal,
    /// True for a stack on a Swarm.
    is_stack: bool,
}

impl Restorer<'_> {
    /// Services with these names in the current release, with both sides of a pair.
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
        let targets = targets::from_names(&project, names)?;
        Ok(targets.iter().flat_map(Target::services).map(String::from).collect())
    }

    /// Rolls out the recorded release.
    fn restore(&self, restore: &RestoreRequest) -> Result<()> {
        let (record, journal) = (restore.record, self.journal);
        let source = format!("release {}", record.number);
        if !self.is_stack {
            swarm_deploy::refuse_flags(&self.args.swarm)?;
        } else {
            let text = journal.config(record.number)?;
            let flags = self.flags.clone();
            let request = Configuration::from_text(&text, source, self.docker, self.folder.clone(), flags)?;
            let (journal, report_and_stop) = (journal.reopen()?, (self.report, self.stop));
            let release = (restore.number, restore.kind);
            return swarm_deploy::restore_release(
                request,
                &restore.services,
                release,
                journal,
                self.args,
                report_and_stop,
            );
        }
        let mut snapshot = journal.snapshot(record.number)?;
        let mut releases = BTreeMap::new();
        let mut references = BTreeMap::new();
        for service in &restore.services {
            let release = &record.services[service];
            let reference = images::ensure_image(self.docker, journal.image_owner(), service, release)?;
            snapshot.set_image(service, &reference);
            references.insert(service.clone(), reference);
            releases.insert(service.clone(), release.clone());
        }
        let services: Vec<&str> = restore.services.iter().map(String::as_str).collect();
        let text = journal.merged_config(&snapshot.text(), &services)?;
        let mut request =
            Configuration::from_text(&text, source, self.docker, self.folder.clone(), self.flags.clone())?;
        request.write(journal, restore.number, self.args.dry_run)?;
        let mut targets = targets::from_names(&request.project, &restore.services)?;
        targets::sort_by_dependencies(&request.project, &mut targets);
        request.docker = request.docker.with_stop_signal(self.stop);
        let containers = request.docker.containers()?;
        let proxies = observe::detect(&request.docker, &request.project, &containers)?;
        preflight::targets(&request.project, &targets, &proxies)?;
        let desired = recorded_version(&request.docker, &releases, &references)?;
        // A dependent behind a proxy is not restarted, because that would lose requests. It is not rolled out
        // either, because no record has its version.
        let all = Dependents::new(&request.project, &targets, &containers, &proxies);
        for name in all.names() {
            self.report.warn(&Warning::ExpectedLoss(format!(
                "`{name}` has `depends_on.….restart: true`, and a rollback restarts no service behind a proxy; \
                 `compose-zd deploy {name} --force` replaces it"
            )));
        }
        let dependents = Dependents { rolled: Vec::new(), ..all };
        let jobs = Jobs { before: Vec::new(), ..Jobs::new(&request.project, &targets) };
        let pipeline = Pipeline {
            request: &request,
            desired: &desired,
            proxies: &proxies,
            journal,
            kind: restore.kind,
            number: restore.number,
            replicas: releases.iter().map(|(service, p)| (service.clone(), p.replicas as usize)).collect(),
            flag_images: BTreeSet::new(),
            restored: releases,
            jobs,
            completed: BTreeSet::new(),
            dependents,
            args: self.args,
            report: self.report,
            stop: self.stop,
            witness: Witness::default(),
            monitor: Monitor::default(),
            running_jobs: Mutex::default(),
            policies: restart::policies(
                &request.project.name,
                &containers,
                journal.in_progress.as_ref().map(|h| &h.restart),
            ),
        };
        pipeline.execute(&targets, containers)
    }
}

/// Version of a recorded release: its images, with the hash of the file then and the hash of the record now.
fn recorded_version(
    docker: &Docker,
    services: &BTreeMap<String, ServiceRelease>,
    references: &BTreeMap<String, String>,
) -> Result<DesiredVersion> {
    let now = docker.hashes()?;
    let mut desired = DesiredVersion::default();
    for (service, release) in services {
        let hashes = [Some(release.config_hash.clone()), now.get(service).cloned()];
        desired.hashes.insert(service.clone(), hashes.into_iter().flatten().collect());
        desired.images.extend(docker.image(&references[service])?.map(|image| (service.clone(), image)));
    }
    Ok(desired)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::FORMAT;
    use crate::release::store::Store;

    #[test]
    fn a_release_that_only_added_a_service_has_none_before_it() {
        let goes = |releases: &[&str]| default_release(&journal(releases).1);
        assert_eq!(goes(&["app1", "app1 web1"]), None, "`web` is new, and nothing else was deployed");
        assert_eq!(goes(&["app1", "app2 web1"]), Some(1));
        assert_eq!(goes(&["app1", "app1 web1", "app1 web2"]), Some(2));
        assert_eq!(goes(&["app1"]), None);
    }

    /// Journal of releases such as `app1 db1`, oldest first: service and version.
    fn journal(releases: &[&str]) -> (tempfile::TempDir, Journal) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "p").unwrap();
        let mut before: BTreeMap<String, ServiceRelease> = BTreeMap::new();
        for (words, number) in releases.iter().zip(1..) {
            let services: BTreeMap<String, ServiceRelease> =
                words.split(' ').map(|w| service_release(w, number)).collect();
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

    fn service_release(word: &str, since: u32) -> (String, ServiceRelease) {
        let (service, version) = word.split_at(word.len() - 1);
        let release = ServiceRelease {
            image: format!("{service}:{version}"),
            image_id: format!("sha256:{version}"),
            digests: Vec::new(),
            config_hash: "h".into(),
            replicas: 1,
            since,
            by_flag: false,
        };
        (service.into(), release)
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

    /// Chosen release and services, as `1: app`.
    fn chosen(journal: &Journal, services: &[&str], to: Option<u32>) -> String {
        let services: Vec<String> = services.iter().map(|s| s.to_string()).collect();
        match choose(journal, &services, to) {
            Ok(request) => format!("{}: {}", request.record.number, request.services.join(" ")),
            Err(error) => error.message,
        }
    }

    #[test]
    fn without_a_name_the_last_rollout_is_undone() {
        let (_dir, journal) = journal(&["app1 db1", "app2 db1", "app2 db2"]);
        assert_eq!(chosen(&journal, &[], None), "2: db");
        assert_eq!(chosen(&journal, &["app"], None), "1: app");
        assert_eq!(chosen(&journal, &[], Some(1)), "1: app db");
    }

    #[test]
    fn a_new_service_has_no_release_to_restore() {
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
    fn a_number_that_is_not_kept_is_refused() {
        let (_dir, journal) = journal(&["app1", "app2"]);
        assert_eq!(chosen(&journal, &[], Some(9)), "release 9 is not recorded");
        assert_eq!(list_restorable(&journal), "kept releases: 2, 1");
    }

    #[test]
    fn an_unfinished_rollout_is_undone_to_the_last_good_release() {
        let (dir, journal) = journal(&["app1 db1", "app2 db1"]);
        let store = Store::new(dir.path(), "p").unwrap();
        let in_progress = crate::release::InProgress {
            format: FORMAT,
            number: 3,
            kind: RolloutKind::Deploy,
            services: vec!["db".into()],
            replaced: Vec::new(),
            restart: BTreeMap::new(),
            last_good: Some(2),
            paused: true,
        };
        store.write_in_progress(&in_progress).unwrap();
        let journal = journal.reopen().unwrap();
        assert_eq!(chosen(&journal, &[], None), "2: db");
        assert_eq!(chosen(&journal, &["db"], None), "2: db");
        assert_eq!(chosen(&journal, &["app"], None), "1: app");
        assert_eq!(chosen(&journal, &[], Some(1)), "1: app db");
    }

    /// Journal after one of its files has this text.
    fn with(dir: &tempfile::TempDir, journal: &Journal, name: &str, text: &str) -> Journal {
        std::fs::write(dir.path().join("p").join(name), text).unwrap();
        journal.reopen().unwrap()
    }

    #[test]
    fn no_release_before_an_unreadable_one_is_chosen() {
        let (dir, journal) = journal(&["app1 db1", "app2 db1", "app3 db1"]);
        let middle = with(&dir, &journal, "releases/0002.json", "{");
        assert!(chosen(&middle, &[], None).contains("0002.json` cannot be used"));
        assert!(chosen(&middle, &["app"], None).ends_with("release 2 may be the one to restore"));
        assert_eq!(chosen(&middle, &[], Some(1)), "1: app");
        assert!(chosen(&middle, &[], Some(2)).contains("0002.json` cannot be used"));
        assert_eq!(list_restorable(&middle), "kept releases: 3, 1");
        let newest = with(&dir, &middle, "releases/0003.json", "");
        assert!(chosen(&newest, &[], None).ends_with("release 3 may be the one that serves"));
        assert_eq!(chosen(&newest, &[], Some(1)), "1: app db");
        assert_eq!(chosen(&newest, &["db"], Some(1)), "1: db");
        assert_eq!(chosen(&newest, &["missing"], Some(1)), "release 1 has no service `missing`");
        assert_eq!(newest.next_number(), 4);
    }

    #[test]
    fn an_older_unreadable_release_does_not_matter() {
        let (dir, journal) = journal(&["app1", "app2", "app3"]);
        let journal = with(&dir, &journal, "releases/0001.json", "{");
        assert_eq!(chosen(&journal, &[], None), "2: app");
    }

    #[test]
    fn an_unknown_unfinished_rollout_is_undone_by_number_and_completely() {
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
    fn without_the_current_configuration_other_services_come_from_the_file() {
        let (dir, journal) = journal(&["app1 db1"]);
        let new = "{\"services\": {\"app\": {\"image\": \"new\"}, \"db\": {\"image\": \"new\"}}}";
        let journal = with(&dir, &journal, "releases/0001.yml", "{");
        assert!(journal.merged_config(new, &["app"]).unwrap().contains("new"));
    }
}
