//! Import of running containers that another tool started. They become a release if their configuration can be
//! reconstructed, so that a rollback has something to restore.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;

use anyhow::Result;

use crate::docker::inspect::{CONFIG_HASH, Container};
use crate::docker::{Docker, familiar_name};
use crate::model::{Project, ResolvedProject};
use crate::release::journal::{Journal, ReleaseDraft};
use crate::release::{ReleaseRecord, RolloutKind, ServiceRelease};
use crate::report::{Event, Report};
use crate::targets::Target;
use crate::targets::is_member;

/// Label with the Compose files of a container.
const CONFIG_FILES: &str = "com.docker.compose.project.config_files";

/// True if an instance does not belong to a release.
pub fn is_stray(record: &ReleaseRecord, journal: &Journal, container: &Container) -> bool {
    let Some(deployed) = container.compose().and_then(|(_, service)| record.services.get(service)) else {
        return false;
    };
    // The hash of a restored release comes from its record and may differ from the file's.
    let is_restored =
        container.label(CONFIG_FILES).is_some_and(|files| Path::new(files).starts_with(journal.folder()));
    let same_config = container.label(CONFIG_HASH) == Some(&deployed.config_hash) || is_restored;
    !same_config || container.image_id != deployed.image_id
}

/// Imports the running containers of a project.
pub struct Importer<'a> {
    pub docker: &'a Docker,
    pub project: &'a Project,
    /// Configuration of the current file.
    pub snapshot: &'a ResolvedProject,
    pub folder: &'a Path,
    pub report: Report,
}

impl Importer<'_> {
    /// Records the running containers of these targets that belong to no release. Their configuration is guessed
    /// from the file and the containers. A guess counts only if Compose computes the container's own hash from it.
    pub fn import(&self, targets: &[Target], containers: &[Container], journal: &mut Journal) -> Result<()> {
        let unresolved = unrecorded(self.project, targets, containers, journal);
        if unresolved.is_empty() {
            return Ok(());
        }
        let mut imported = ImportedState { services: BTreeMap::new(), snapshot: self.snapshot.clone() };
        // First guess: the file is unchanged, apart from what a hash ignores, like the number of instances.
        let hashes = self.docker.hashes()?;
        let mut unresolved =
            self.accept_matching(unresolved, &(self.snapshot.clone(), hashes), &mut imported);
        if !unresolved.is_empty() {
            for guess in self.guess_projects(&unresolved) {
                unresolved = self.accept_matching(unresolved, &guess?, &mut imported);
            }
        }
        if !unresolved.is_empty() {
            self.report.event(Event::NotImported(
                unresolved.iter().map(|f| f.service.clone()).collect::<Vec<_>>().into(),
            ));
        }
        self.record(imported.services, &imported.snapshot, journal)
    }

    /// Definitions from which the containers of these services were created: the recorded ones, else guesses. Returns
    /// the services for which Compose computes the hash of their containers, and the project with their definitions.
    pub fn definitions(
        &self,
        services: &[&str],
        containers: &[&Container],
        recorded: Option<ResolvedProject>,
    ) -> Result<(BTreeSet<String>, ResolvedProject)> {
        let of_service = |service: &&str| {
            let mut its = containers.iter().filter(|c| c.compose().is_some_and(|(_, s)| s == *service));
            let first = its.clone().find(|c| c.is_running()).or_else(|| its.next())?;
            Some(RunningVersion { service: service.to_string(), container: first, count: 1 })
        };
        let mut unresolved: Vec<RunningVersion> = services.iter().filter_map(of_service).collect();
        let mut found = ImportedState { services: BTreeMap::new(), snapshot: self.snapshot.clone() };
        if let Some(recorded) = recorded.filter(|_| !unresolved.is_empty()) {
            let hashes = self.hashes(&recorded).unwrap_or_default();
            unresolved = self.accept_matching(unresolved, &(recorded, hashes), &mut found);
        }
        if !unresolved.is_empty() {
            let hashes = self.docker.hashes()?;
            unresolved = self.accept_matching(unresolved, &(self.snapshot.clone(), hashes), &mut found);
        }
        if !unresolved.is_empty() {
            for guess in self.guess_projects(&unresolved) {
                unresolved = self.accept_matching(unresolved, &guess?, &mut found);
            }
        }
        Ok((found.services.into_keys().collect(), found.snapshot))
    }

    /// Guessed configurations with their hashes, likeliest first.
    fn guess_projects(&self, unresolved: &[RunningVersion]) -> Vec<Result<GuessedProject>> {
        let guess = |guess: ProjectGuess| {
            let mut guessed = self.snapshot.clone();
            unresolved.iter().for_each(|version| guess(&mut guessed, version, self.docker));
            let hashes = self.hashes(&guessed)?;
            Ok((guessed, hashes))
        };
        let all: [ProjectGuess; 2] = [with_running_image, with_running_image_and_environment];
        thread::scope(|scope| {
            let threads = all.map(|one| scope.spawn(move || guess(one)));
            threads.map(|t| t.join().expect("no panic in a guess")).into()
        })
    }

    /// Accepts a guess for each service whose hash matches, and returns the other services.
    fn accept_matching<'f>(
        &self,
        unresolved: Vec<RunningVersion<'f>>,
        (guessed, hashes): &GuessedProject,
        imported: &mut ImportedState,
    ) -> Vec<RunningVersion<'f>> {
        let (right, wrong): (Vec<RunningVersion>, Vec<RunningVersion>) =
            unresolved.into_iter().partition(|f| f.has_hash(hashes));
        let services: Vec<&str> = right.iter().map(|f| f.service.as_str()).collect();
        imported.snapshot.copy_services(&services, guessed);
        imported.services.extend(right.iter().map(|version| version.service_release(self.docker, hashes)));
        wrong
    }

    fn record(
        &self,
        mut deployed: BTreeMap<String, ServiceRelease>,
        text: &ResolvedProject,
        journal: &mut Journal,
    ) -> Result<()> {
        if deployed.is_empty() {
            return Ok(());
        }
        let number = journal.next_number();
        deployed.values_mut().for_each(|p| p.since = number);
        let services: Vec<&str> = deployed.keys().map(String::as_str).collect();
        let text = journal.merged_config(&text.text(), &services)?;
        let imported = Event::Imported { release: number, services: deployed.keys().cloned().collect() };
        let folder = self.folder.into();
        let draft = ReleaseDraft {
            number,
            kind: RolloutKind::Imported,
            services: deployed,
            text,
            replaced: Vec::new(),
            folder,
            keep: self.project.keep,
            prune: false,
        };
        journal.import(&draft)?;
        self.report.event(imported);
        Ok(())
    }

    fn hashes(&self, snapshot: &ResolvedProject) -> Result<BTreeMap<String, String>> {
        self.docker.with_project_text(&snapshot.text(), &self.project.name, self.folder).hashes()
    }
}

/// Guessed configuration, and the hashes that Compose computes for it.
type GuessedProject = (ResolvedProject, BTreeMap<String, String>);

/// Accepted guesses.
struct ImportedState {
    services: BTreeMap<String, ServiceRelease>,
    snapshot: ResolvedProject,
}

/// Changes the current configuration to what an instance may have been created from.
type ProjectGuess = fn(&mut ResolvedProject, &RunningVersion, &Docker);

fn with_running_image(snapshot: &mut ResolvedProject, version: &RunningVersion, _: &Docker) {
    let image = version.container.config.image.as_str();
    let in_file = snapshot.image(&version.service).unwrap_or_default();
    let names_registry = in_file.starts_with("localhost/") || in_file.starts_with("docker.io/");
    // Podman adds a registry to a name without one.
    let reference = if runs_on_podman(version.container) && !names_registry {
        image.strip_prefix("localhost/").unwrap_or(familiar_name(image)).to_string()
    } else {
        image.to_string()
    };
    snapshot.set_image(&version.service, &reference);
}

/// Variable that marks a container of Podman, which also sets `HOME` and `HOSTNAME`.
const PODMAN_VARIABLE: &str = "container=podman";

fn runs_on_podman(container: &Container) -> bool {
    container.config.env.iter().any(|pair| pair == PODMAN_VARIABLE)
}

/// True for a variable that the engine sets.
fn is_engine_variable(container: &Container, pair: &str) -> bool {
    let name = pair.split('=').next().unwrap_or_default();
    runs_on_podman(container) && (pair == PODMAN_VARIABLE || ["HOME", "HOSTNAME"].contains(&name))
}

/// Keeps a variable if the file still names it, or if neither the image nor the engine set it.
fn with_running_image_and_environment(
    snapshot: &mut ResolvedProject,
    version: &RunningVersion,
    docker: &Docker,
) {
    with_running_image(snapshot, version, docker);
    let image = docker.image(&version.container.image_id).ok().flatten().unwrap_or_default();
    let is_given =
        |pair: &String| image.config.env.contains(pair) || is_engine_variable(version.container, pair);
    let all = version.container.config.env.iter().filter_map(|pair| Some((pair, pair.split_once('=')?)));
    let own =
        all.filter(|(pair, (name, _))| !is_given(pair) || snapshot.has_variable(&version.service, name));
    let own: Vec<(&str, &str)> = own.map(|(_, variable)| variable).collect();
    snapshot.set_environment(&version.service, own.into_iter());
}

/// Running version of a service whose instances are all alike. The idle side of a pair takes the active side's.
struct RunningVersion<'a> {
    service: String,
    container: &'a Container,
    count: usize,
}

impl RunningVersion<'_> {
    fn is_own(&self) -> bool {
        self.container.compose().is_some_and(|(_, service)| service == self.service)
    }

    /// A stopped side has no hash, so the active side's is compared.
    fn has_hash(&self, hashes: &BTreeMap<String, String>) -> bool {
        let service = self.container.compose().map_or("", |(_, service)| service);
        self.container.label(CONFIG_HASH).is_some_and(|label| hashes.get(service).is_some_and(|h| h == label))
    }

    fn service_release(
        &self,
        docker: &Docker,
        hashes: &BTreeMap<String, String>,
    ) -> (String, ServiceRelease) {
        let label = self.container.label(CONFIG_HASH).filter(|_| self.is_own()).map(String::from);
        let image = docker.image(&self.container.image_id).ok().flatten().unwrap_or_default();
        let deployed = ServiceRelease {
            image: self.container.config.image.clone(),
            image_id: self.container.image_id.clone(),
            digests: image.repo_digests,
            config_hash: label.or(hashes.get(&self.service).cloned()).unwrap_or_default(),
            replicas: self.count as u32,
            since: 0,
            by_flag: false,
        };
        (self.service.clone(), deployed)
    }
}

/// Service as it runs in these containers; `None` without one.
pub fn service_release(docker: &Docker, service: &str, containers: &[&Container]) -> Option<ServiceRelease> {
    let container = containers.iter().find(|c| c.is_running()).or_else(|| containers.first())?;
    let version = RunningVersion { service: service.into(), container, count: containers.len() };
    Some(version.service_release(docker, &BTreeMap::new()).1)
}

/// Running services that are not from the current release. The sides of a pair stand for each other.
fn unrecorded<'a>(
    project: &Project,
    targets: &[Target],
    containers: &'a [Container],
    journal: &Journal,
) -> Vec<RunningVersion<'a>> {
    let mut versions = Vec::new();
    for target in targets {
        let services = target.services();
        let runs = |c: &&Container| c.is_running() && !c.is_bridge() && is_member(project, c, &services);
        let running: Vec<&Container> = containers.iter().filter(runs).collect();
        let kinds: BTreeSet<(&str, Option<&str>)> =
            running.iter().map(|c| (c.image_id.as_str(), single_service_hash(c, &services))).collect();
        let current = journal.history.current();
        let known = |c: &&&Container| {
            let service = c.compose().map_or("", |(_, s)| s);
            current.is_some_and(|r| r.services.contains_key(service) && !is_stray(r, journal, c))
        };
        let alike = kinds.len() == 1 && !running.iter().any(|c| known(&c));
        for service in services.iter().filter(|_| alike) {
            let own: Vec<&&Container> =
                running.iter().filter(|c| is_member(project, c, &[service])).collect();
            let container = own.first().map_or(running[0], |c| c);
            versions.push(RunningVersion {
                service: service.to_string(),
                container,
                count: own.len().max(1),
            });
        }
    }
    versions
}

/// Configuration hash of an instance; `None` for a pair, whose sides differ in it.
fn single_service_hash<'c>(container: &'c Container, services: &[&str]) -> Option<&'c str> {
    container.label(CONFIG_HASH).filter(|_| services.len() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ComposeFlags;

    /// Guessed image and the engine's variables, for an instance with this image and environment.
    fn guessed(in_file: &str, image: &str, env: &str) -> (String, Vec<String>) {
        let json = format!(r#"{{"Config": {{"Image": "{image}", "Env": [{env}]}}}}"#);
        let container: Container = serde_json::from_str(&json).unwrap();
        let mut snapshot =
            ResolvedProject::parse(&format!("{{name: p, services: {{app: {{image: '{in_file}'}}}}}}"))
                .unwrap();
        let version = RunningVersion { service: "app".into(), container: &container, count: 1 };
        with_running_image(
            &mut snapshot,
            &version,
            &Docker::for_test("docker".into(), ComposeFlags::default()),
        );
        let given = container.config.env.iter().filter(|pair| is_engine_variable(&container, pair)).cloned();
        (snapshot.image("app").unwrap_or_default().into(), given.collect())
    }

    #[test]
    fn podmans_additions_are_left_out() {
        let env = r#""container=podman", "HOME=/", "HOSTNAME=03c9", "VERSION=1""#;
        let added = ["container=podman", "HOME=/", "HOSTNAME=03c9"].map(String::from).to_vec();
        assert_eq!(guessed("app:2", "localhost/app:1", env), ("app:1".into(), added.clone()));
        assert_eq!(guessed("app:2", "docker.io/library/app:1", env), ("app:1".into(), added.clone()));
        assert_eq!(guessed("localhost/app:2", "localhost/app:1", env), ("localhost/app:1".into(), added));
        assert_eq!(
            guessed("app:2", "localhost/app:1", r#""HOME=/""#),
            ("localhost/app:1".into(), vec![]),
            "Docker"
        );
    }
}
