//! What ran before compose-zd came, or was put in place by another tool: it becomes a release where its configuration
//! can be told, so that there is something to go back to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;

use anyhow::Result;

use super::journal::{Journal, ReleaseDraft};
use super::observe;
use super::targets::Target;
use crate::docker::inspect::{CONFIG_HASH, Container};
use crate::docker::{Docker, familiar_name};
use crate::model::{Project, ResolvedProject};
use crate::release::{ReleaseRecord, RolloutKind, ServiceRelease};
use crate::report::{Event, Report};

/// Where Compose says that the definition of a container came from.
const CONFIG_FILES: &str = "com.docker.compose.project.config_files";

/// Whether an instance is none of what a release put in place.
pub fn is_stray(record: &ReleaseRecord, journal: &Journal, container: &Container) -> bool {
    let Some(placed) = container.compose().and_then(|(_, service)| record.services.get(service)) else {
        return false;
    };
    // A release that was put back has the hash of its record, which need not be the one that the file gave.
    let ours =
        container.label(CONFIG_FILES).is_some_and(|files| Path::new(files).starts_with(journal.folder()));
    let same_config = container.label(CONFIG_HASH) == Some(&placed.config_hash) || ours;
    !same_config || container.image_id != placed.image_id
}

/// A project whose running state may have to become a release.
pub struct Importer<'a> {
    pub docker: &'a Docker,
    pub project: &'a Project,
    /// As the file is now.
    pub snapshot: &'a ResolvedProject,
    pub folder: &'a Path,
    pub report: Report,
}

impl Importer<'_> {
    /// What runs of these targets and is no release yet becomes one. Which configuration it has is guessed from the
    /// file and from what runs, and believed only where Compose gives the guess the hash that the instance has.
    ///
    /// # Errors
    /// No engine; a folder that cannot be written.
    pub fn import(&self, targets: &[Target], containers: &[Container], journal: &mut Journal) -> Result<()> {
        let open = unknown(self.project, targets, containers, journal);
        if open.is_empty() {
            return Ok(());
        }
        let mut beliefs = ImportedState { known: BTreeMap::new(), snapshot: self.snapshot.clone() };
        // It has not changed; or only in what hashes do not know, as the number of instances.
        let hashes = self.docker.hashes()?;
        self.docker.prefetch_hashes(); // whoever plans asks again
        let mut open = self.resolve(open, &(self.snapshot.clone(), hashes), &mut beliefs);
        if !open.is_empty() {
            for guess in self.guesses(&open) {
                open = self.resolve(open, &guess?, &mut beliefs);
            }
        }
        if !open.is_empty() {
            self.report
                .event(Event::NotAdopted { services: open.iter().map(|f| f.service.clone()).collect() });
        }
        self.record(beliefs.known, &beliefs.snapshot, journal)
    }

    /// What may have been made of the file, with its hashes, the likeliest first.
    fn guesses(&self, open: &[RunningVersion]) -> Vec<Result<GuessedProject>> {
        let guess = |guess: ProjectGuess| {
            let mut guessed = self.snapshot.clone();
            open.iter().for_each(|found| guess(&mut guessed, found, self.docker));
            let hashes = self.hashes(&guessed)?;
            Ok((guessed, hashes))
        };
        let all: [ProjectGuess; 2] = [with_its_image, with_its_image_and_environment];
        thread::scope(|scope| {
            let threads = all.map(|one| scope.spawn(move || guess(one)));
            threads.map(|t| t.join().expect("no panic in a guess")).into()
        })
    }

    /// Those that a guess is not right about are left.
    fn resolve<'f>(
        &self,
        open: Vec<RunningVersion<'f>>,
        (guessed, hashes): &GuessedProject,
        beliefs: &mut ImportedState,
    ) -> Vec<RunningVersion<'f>> {
        let (right, wrong): (Vec<RunningVersion>, Vec<RunningVersion>) =
            open.into_iter().partition(|f| f.has_hash(hashes));
        let services: Vec<&str> = right.iter().map(|f| f.service.as_str()).collect();
        beliefs.snapshot.copy_services(&services, guessed);
        beliefs.known.extend(right.iter().map(|found| found.placed(self.docker, hashes)));
        wrong
    }

    fn record(
        &self,
        mut placed: BTreeMap<String, ServiceRelease>,
        text: &ResolvedProject,
        journal: &mut Journal,
    ) -> Result<()> {
        if placed.is_empty() {
            return Ok(());
        }
        let number = journal.next_number();
        placed.values_mut().for_each(|p| p.since = number);
        let services: Vec<&str> = placed.keys().map(String::as_str).collect();
        let text = journal.merged_config(&text.text(), &services)?;
        let adopted = Event::Adopted { release: number, services: placed.keys().cloned().collect() };
        let folder = self.folder.into();
        let entry =
            ReleaseDraft { number, kind: RolloutKind::Imported, placed, text, replaced: Vec::new(), folder };
        journal.import(&entry)?;
        self.report.event(adopted);
        Ok(())
    }

    fn hashes(&self, snapshot: &ResolvedProject) -> Result<BTreeMap<String, String>> {
        self.docker.with_project_text(&snapshot.text(), &self.project.name, self.folder).hashes()
    }
}

/// A project as it may have been, and the hashes that Compose gives it.
type GuessedProject = (ResolvedProject, BTreeMap<String, String>);

/// What turned out to be right.
struct ImportedState {
    known: BTreeMap<String, ServiceRelease>,
    snapshot: ResolvedProject,
}

/// Makes of the file what the instance may have been made of.
type ProjectGuess = fn(&mut ResolvedProject, &RunningVersion, &Docker);

fn with_its_image(snapshot: &mut ResolvedProject, found: &RunningVersion, _: &Docker) {
    let image = found.container.config.image.as_str();
    let in_file = snapshot.image(&found.service).unwrap_or_default();
    let names_registry = in_file.starts_with("localhost/") || in_file.starts_with("docker.io/");
    // Podman puts a registry in front where the file names none.
    let reference = match is_of_podman(found.container) && !names_registry {
        true => image.strip_prefix("localhost/").unwrap_or(familiar_name(image)).to_string(),
        false => image.to_string(),
    };
    snapshot.set_image(&found.service, &reference);
}

/// A variable that Podman gives a container, by which it is known; beside `HOME` and `HOSTNAME`.
const OF_PODMAN: &str = "container=podman";

fn is_of_podman(container: &Container) -> bool {
    container.config.env.iter().any(|pair| pair == OF_PODMAN)
}

/// Whether the engine gives a container this variable.
fn is_of_engine(container: &Container, pair: &str) -> bool {
    let name = pair.split('=').next().unwrap_or_default();
    is_of_podman(container) && (pair == OF_PODMAN || ["HOME", "HOSTNAME"].contains(&name))
}

/// What neither its image nor its engine gives it comes from the file that it was made of; and what the file names still.
fn with_its_image_and_environment(snapshot: &mut ResolvedProject, found: &RunningVersion, docker: &Docker) {
    with_its_image(snapshot, found, docker);
    let image = docker.image(&found.container.image_id).ok().flatten().unwrap_or_default();
    let is_given = |pair: &String| image.config.env.contains(pair) || is_of_engine(found.container, pair);
    let all = found.container.config.env.iter().filter_map(|pair| Some((pair, pair.split_once('=')?)));
    let own = all.filter(|(pair, (name, _))| !is_given(pair) || snapshot.has_variable(&found.service, name));
    let own: Vec<(&str, &str)> = own.map(|(_, variable)| variable).collect();
    snapshot.set_environment(&found.service, own.into_iter());
}

/// What runs of a service, all of it alike; of the idle side of a pair, what runs of the other.
struct RunningVersion<'a> {
    service: String,
    container: &'a Container,
    count: usize,
}

impl RunningVersion<'_> {
    fn is_own(&self) -> bool {
        self.container.compose().is_some_and(|(_, service)| service == self.service)
    }

    /// A side that does not run has no hash of its own to compare with.
    fn has_hash(&self, hashes: &BTreeMap<String, String>) -> bool {
        let service = self.container.compose().map_or("", |(_, service)| service);
        self.container.label(CONFIG_HASH).is_some_and(|label| hashes.get(service).is_some_and(|h| h == label))
    }

    fn placed(&self, docker: &Docker, hashes: &BTreeMap<String, String>) -> (String, ServiceRelease) {
        let label = self.container.label(CONFIG_HASH).filter(|_| self.is_own()).map(String::from);
        let image = docker.image(&self.container.image_id).ok().flatten().unwrap_or_default();
        let placed = ServiceRelease {
            image: self.container.config.image.clone(),
            image_id: self.container.image_id.clone(),
            digests: image.repo_digests,
            config_hash: label.or(hashes.get(&self.service).cloned()).unwrap_or_default(),
            replicas: self.count as u32,
            since: 0,
            by_flag: false,
        };
        (self.service.clone(), placed)
    }
}

/// What runs and is not what the current release put in place; the sides of a pair stand for each other.
fn unknown<'a>(
    project: &Project,
    targets: &[Target],
    containers: &'a [Container],
    journal: &Journal,
) -> Vec<RunningVersion<'a>> {
    let mut found = Vec::new();
    for target in targets {
        let services = target.services();
        let runs = |c: &&Container| c.is_running() && observe::is_member(project, c, &services);
        let running: Vec<&Container> = containers.iter().filter(runs).collect();
        let kinds: BTreeSet<(&str, Option<&str>)> =
            running.iter().map(|c| (c.image_id.as_str(), of_one_service(c, &services))).collect();
        let current = journal.history.current();
        let known = |c: &&&Container| {
            let service = c.compose().map_or("", |(_, s)| s);
            current.is_some_and(|r| r.services.contains_key(service) && !is_stray(r, journal, c))
        };
        let alike = kinds.len() == 1 && !running.iter().any(|c| known(&c));
        for service in services.iter().filter(|_| alike) {
            let own: Vec<&&Container> =
                running.iter().filter(|c| observe::is_member(project, c, &[service])).collect();
            let container = own.first().map_or(running[0], |c| c);
            found.push(RunningVersion { service: service.to_string(), container, count: own.len().max(1) });
        }
    }
    found
}

/// The configuration of an instance, where the service is one; the sides of a pair have one each.
fn of_one_service<'c>(container: &'c Container, services: &[&str]) -> Option<&'c str> {
    container.label(CONFIG_HASH).filter(|_| services.len() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::ComposeFlags;

    /// The image and the variables of the engine, of an instance that was made of this image.
    fn guessed(in_file: &str, image: &str, env: &str) -> (String, Vec<String>) {
        let json = format!(r#"{{"Config": {{"Image": "{image}", "Env": [{env}]}}}}"#);
        let container: Container = serde_json::from_str(&json).unwrap();
        let mut snapshot =
            ResolvedProject::read(&format!("{{name: p, services: {{app: {{image: '{in_file}'}}}}}}"))
                .unwrap();
        let found = RunningVersion { service: "app".into(), container: &container, count: 1 };
        with_its_image(&mut snapshot, &found, &Docker::for_test("docker".into(), ComposeFlags::default()));
        let given = container.config.env.iter().filter(|pair| is_of_engine(&container, pair)).cloned();
        (snapshot.image("app").unwrap_or_default().into(), given.collect())
    }

    #[test]
    fn what_podman_adds_is_not_of_the_file() {
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
