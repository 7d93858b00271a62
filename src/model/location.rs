//! Location of a project: its files, its folder and its state folder, as Compose finds them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::args::ComposeArgs;
use crate::error::Error;

/// Flags that select the project and the engine, passed through to docker and Compose as the user gave them.
#[derive(Debug, Clone, Default)]
pub struct ComposeFlags {
    /// `--context` and `--host`.
    pub engine: Vec<String>,
    /// `--file`, `--project-name`, `--project-directory`, `--env-file`, `--profile`.
    pub project: Vec<String>,
}

impl ComposeArgs {
    pub fn flags(&self) -> ComposeFlags {
        fn flag(name: &str, values: impl IntoIterator<Item = impl Into<String>>) -> Vec<String> {
            values.into_iter().flat_map(|value| [name.to_string(), value.into()]).collect()
        }
        let paths =
            |paths: &[PathBuf]| paths.iter().map(|p| p.to_string_lossy().into_owned()).collect::<Vec<_>>();
        let folder = self.project_directory.as_slice();
        ComposeFlags {
            engine: [self.docker.clone(), flag("--context", &self.context), flag("--host", &self.host)]
                .concat(),
            project: [
                flag("--file", paths(&self.file)),
                flag("--project-name", &self.project_name),
                flag("--project-directory", paths(folder)),
                flag("--env-file", paths(&self.env_file)),
                flag("--profile", &self.profile),
            ]
            .concat(),
        }
    }

    /// Name of the Compose file in messages: as given, else as Compose finds it.
    pub fn source(&self) -> String {
        let given: Vec<String> = self.file.iter().map(|f| f.display().to_string()).collect();
        let folder = self.project_directory.clone().unwrap_or_default();
        let found = COMPOSE_FILES.iter().map(|name| folder.join(name)).find(|file| file.exists());
        let found = || found.map_or("the compose file".into(), |file| file.display().to_string());
        if given.is_empty() { variable("COMPOSE_FILE").unwrap_or_else(found) } else { given.join(" + ") }
    }

    /// Folder of the project, as Compose finds it: the given folder, else the folder of the first file, else the
    /// nearest folder upwards that has a Compose file.
    pub fn folder(&self) -> PathBuf {
        let current_folder = std::env::current_dir().unwrap_or_default();
        let has_file = |folder: &&Path| COMPOSE_FILES.iter().any(|name| folder.join(name).exists());
        let of_file = |file: &PathBuf| current_folder.join(file).parent().map(Path::to_path_buf);
        let given = self.project_directory.as_ref().map(|folder| current_folder.join(folder));
        given
            .or_else(|| self.named_files(None).first().and_then(of_file))
            .or_else(|| current_folder.ancestors().find(has_file).map(Path::to_path_buf))
            .unwrap_or(current_folder)
    }

    /// Files of flags, else of `COMPOSE_FILE`, which the environment or `default` sets.
    pub fn named_files(&self, default: Option<String>) -> Vec<PathBuf> {
        if !self.file.is_empty() {
            return self.file.clone();
        }
        let files = variable("COMPOSE_FILE").or(default.filter(|files| !files.is_empty()));
        let separator = std::env::var("COMPOSE_PATH_SEPARATOR").unwrap_or_else(|_| ":".into());
        files.iter().flat_map(|files| files.split(&separator)).map(PathBuf::from).collect()
    }

    /// Problem of the Compose file that Compose's own message does not explain: there is none, or it has the first
    /// format, without `services`.
    pub fn file_problem(&self) -> Option<Error> {
        let folder = self.folder();
        let mut files = self.named_files(None);
        if files.is_empty() {
            files.extend(COMPOSE_FILES.iter().map(|name| folder.join(name)).find(|file| file.exists()));
        }
        let Some(file) = files.first() else {
            let why = format!("there is no compose file in {} or a folder above it", folder.display());
            return Some(
                Error::usage(why).hint("`cd` to the folder of the project, or name the file with `--file`"),
            );
        };
        let text = std::fs::read_to_string(file).ok()?;
        let name = first_service_without_services(&text)?;
        let why = format!("`{}` has no key `services`: it is in Compose's first format", file.display());
        Some(
            Error::usage(why)
                .hint(format!("put all of it under `services:`, as\nservices:\n  {name}:\n    …")),
        )
    }

    /// File of `compose-zd init` beside the Compose file that is not read, because the files are named.
    pub fn unread_override(&self) -> Option<PathBuf> {
        let files = self.named_files(None);
        let folder = files.first()?.parent()?;
        let is_read = |file: &PathBuf| files.iter().any(|read| read.file_name() == file.file_name());
        let is_own =
            |file: &PathBuf| std::fs::read_to_string(file).is_ok_and(|text| text.contains("compose-zd init"));
        let overrides = COMPOSE_FILES.map(override_name).map(|name| folder.join(name));
        overrides.into_iter().find(|file| !is_read(file) && is_own(file))
    }

    /// Services of the Compose files with their profiles, as far as the files name them.
    pub fn profiles(&self) -> BTreeMap<String, Vec<String>> {
        let texts = self.texts().unwrap_or_default().into_iter().filter(|text| text.contains("profiles"));
        texts.flat_map(|text| profiles_in(&text)).collect()
    }

    /// True if a service may use `env_file` or `label_file`. Unreadable Compose files count as yes.
    pub fn may_have_env_files(&self) -> bool {
        self.texts()
            .is_none_or(|texts| contain_any(&texts, &["env_file", "label_file", "include", "extends"]))
    }

    /// True if a service may use `label_file`.
    pub fn may_have_label_files(&self) -> bool {
        self.texts().is_some_and(|texts| contain_any(&texts, &["label_file", "include", "extends"]))
    }

    /// Texts of the Compose files; `None` if their names are unknown.
    fn texts(&self) -> Option<Vec<String>> {
        if self.file.is_empty() && variable("COMPOSE_FILE").is_some() {
            return None;
        }
        let folder = self.folder();
        let names = COMPOSE_FILES.map(String::from).into_iter().chain(COMPOSE_FILES.map(override_name));
        let default_files = names.map(|name| folder.join(name)).filter(|file| file.exists());
        let files = if self.file.is_empty() { default_files.collect() } else { self.file.clone() };
        let texts = files.iter().map(|file| std::fs::read_to_string(file).ok()).collect::<Option<Vec<_>>>();
        texts.filter(|texts| !texts.is_empty())
    }

    /// State folder for the releases of all engines.
    pub fn state_root(&self, given: Option<&Path>) -> PathBuf {
        let folder = given.map_or_else(|| self.folder().join(".compose-zd"), Path::to_path_buf);
        std::path::absolute(&folder).unwrap_or(folder)
    }

    /// State folder for the releases of one engine. A remote engine has its own subfolder, because its images differ. A
    /// Swarm has one for all of its managers.
    pub fn state_dir(&self, given: Option<&Path>, cluster: Option<&str>) -> PathBuf {
        let given_engine = self.context.clone().or_else(|| self.host.clone());
        let engine = given_engine.or_else(|| variable("DOCKER_HOST")).or_else(|| variable("DOCKER_CONTEXT"));
        let subfolder = match cluster {
            Some(cluster) => Some(format!("@swarm-{cluster}")),
            None => engine.as_deref().and_then(engine_folder),
        };
        let root = self.state_root(given);
        subfolder.map_or(root.clone(), |name| root.join(name))
    }
}

/// Default names of a Compose file, in the order in which Compose looks for them.
pub const COMPOSE_FILES: [&str; 4] =
    ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];

/// Name of the override file, which Compose reads after a file with a default name.
pub fn override_name(name: &str) -> String {
    name.replacen('.', ".override.", 1)
}

fn contain_any(texts: &[String], words: &[&str]) -> bool {
    texts.iter().any(|text| words.iter().any(|word| text.contains(word)))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Subfolder for an engine; `None` for the local default engine.
fn engine_folder(engine: &str) -> Option<String> {
    let default_engines = ["default", "unix:///var/run/docker.sock", "unix:///run/docker.sock"];
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    (!default_engines.contains(&engine)).then(|| format!("@{}", engine.chars().map(safe).collect::<String>()))
}

/// First service of a file in Compose's first format; `None` for any other file.
fn first_service_without_services(text: &str) -> Option<String> {
    let file: BTreeMap<String, serde_yaml::Value> = serde_yaml::from_str(text).ok()?;
    let is_service = |value: &serde_yaml::Value| value.get("image").or(value.get("build")).is_some();
    let is_first_format = !file.contains_key("services");
    file.into_iter().find(|(_, value)| is_first_format && is_service(value)).map(|(name, _)| name)
}

/// Services of a file that have profiles.
fn profiles_in(text: &str) -> BTreeMap<String, Vec<String>> {
    let file: serde_yaml::Value = serde_yaml::from_str(text).unwrap_or_default();
    let services = file["services"].as_mapping().cloned().unwrap_or_default();
    let profiles = |service: serde_yaml::Value| {
        let all: Vec<String> = serde_yaml::from_value(service["profiles"].clone()).ok()?;
        (!all.is_empty()).then_some(all)
    };
    let with_profiles = services.into_iter().filter_map(|(name, mut service)| {
        service.apply_merge().ok()?;
        Some((name.as_str()?.to_string(), profiles(service)?))
    });
    with_profiles.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profiles_of_services_are_read_from_a_file() {
        let text = "x-jobs: &jobs {profiles: [jobs]}\nservices: {web: {image: a}, worker: {profiles: [jobs, all]}, \
                    beat: {<<: *jobs, image: b}}";
        let expected = [("beat", vec!["jobs"]), ("worker", vec!["jobs", "all"])];
        let expected =
            expected.map(|(name, all)| (name.to_string(), all.into_iter().map(String::from).collect()));
        assert_eq!(profiles_in(text), BTreeMap::from(expected));
        for other in ["", "services: {}", "services: [", "- a", "services: {web: }"] {
            assert!(profiles_in(other).is_empty(), "{other}");
        }
    }

    #[test]
    fn a_file_in_the_first_format_has_services_at_its_top() {
        let first = |text: &str| first_service_without_services(text);
        assert_eq!(first("app: {image: shop:1}\ndb: {build: .}").as_deref(), Some("app"));
        assert_eq!(first("x: 1\nweb: {build: .}").as_deref(), Some("web"));
        for other in ["services: {app: {image: shop:1}}", "app: {command: a}", "app", "- app", "", "a: {"] {
            assert_eq!(first(other), None, "{other}");
        }
    }

    #[test]
    fn a_remote_engine_has_its_own_folder() {
        assert_eq!(engine_folder("default"), None);
        assert_eq!(engine_folder("unix:///var/run/docker.sock"), None);
        assert_eq!(engine_folder("staging").as_deref(), Some("@staging"));
        assert_eq!(engine_folder("tcp://10.0.0.1:2376").as_deref(), Some("@tcp---10.0.0.1-2376"));
        assert_eq!(engine_folder("../x").as_deref(), Some("@..-x"));
    }
}
