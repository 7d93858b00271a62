//! Command line as flags for docker, as settings, and as folders and file names. Pure.

use std::path::{Path, PathBuf};

use crate::cli::{ComposeArgs, RollbackConfigArgs, RolloutArgs, UpdateArgs, WitnessArgs};
use crate::docker::ComposeFlags;
use crate::model::{
    AnonymousVolumes, DrainLayer, EngineKind, FailureAction, FlagLayers, HealthLayer, Order, ProxyLayer,
    SettingsLayer, ShellCommand, UpdateLayer, WitnessFlags,
};

pub fn compose_flags(compose: &ComposeArgs) -> ComposeFlags {
    let mut engine = compose.docker.clone();
    let mut project = Vec::new();
    fn add(words: &mut Vec<String>, flag: &str, value: impl Into<String>) {
        words.extend([flag.to_string(), value.into()]);
    }
    compose.context.iter().for_each(|c| add(&mut engine, "--context", c));
    compose.host.iter().for_each(|h| add(&mut engine, "--host", h));
    compose.file.iter().for_each(|f| add(&mut project, "--file", f.to_string_lossy()));
    compose.project_name.iter().for_each(|n| add(&mut project, "--project-name", n));
    compose
        .project_directory
        .iter()
        .for_each(|d| add(&mut project, "--project-directory", d.to_string_lossy()));
    compose.env_file.iter().for_each(|f| add(&mut project, "--env-file", f.to_string_lossy()));
    compose.profile.iter().for_each(|p| add(&mut project, "--profile", p));
    ComposeFlags { engine, project }
}

/// Name of the Compose file in messages: as given, else as Compose finds it.
pub fn source(compose: &ComposeArgs) -> String {
    let given: Vec<String> = compose.file.iter().map(|f| f.display().to_string()).collect();
    if !given.is_empty() {
        return given.join(" + ");
    }
    let folder = compose.project_directory.clone().unwrap_or_default();
    let found = COMPOSE_FILES.iter().find(|n| folder.join(n).exists());
    let variable = std::env::var("COMPOSE_FILE").ok();
    variable.unwrap_or(found.map_or("the compose file".into(), |n| folder.join(n).display().to_string()))
}

/// Default names of a Compose file, in the order in which Compose looks for them.
pub const COMPOSE_FILES: [&str; 4] =
    ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];

/// Default names of an override file, which Compose reads after the first file.
const OVERRIDE_FILES: [&str; 4] = [
    "compose.override.yaml",
    "compose.override.yml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// Keys that read variables or labels from a file, or that include another Compose file that may.
const ENV_FILE_KEYS: [&str; 4] = ["env_file", "label_file", "include", "extends"];
const LABEL_FILE_KEYS: [&str; 3] = ["label_file", "include", "extends"];

/// True if a service may use `env_file` or `label_file`. Unreadable Compose files count as yes.
pub fn may_have_env_files(compose: &ComposeArgs) -> bool {
    compose_texts(compose).is_none_or(|texts| contain_any(&texts, &ENV_FILE_KEYS))
}

/// True if a service may use `label_file`.
pub fn may_have_label_files(compose: &ComposeArgs) -> bool {
    compose_texts(compose).is_some_and(|texts| contain_any(&texts, &LABEL_FILE_KEYS))
}

fn contain_any(texts: &[String], words: &[&str]) -> bool {
    texts.iter().any(|text| words.iter().any(|word| text.contains(word)))
}

/// Texts of the Compose files; `None` if their names are unknown.
fn compose_texts(compose: &ComposeArgs) -> Option<Vec<String>> {
    let folder = project_folder(compose);
    let is_named = std::env::var_os("COMPOSE_FILE").is_some_and(|files| !files.is_empty());
    let default_files =
        || COMPOSE_FILES.iter().chain(&OVERRIDE_FILES).map(|name| folder.join(name)).filter(|f| f.exists());
    let files: Vec<PathBuf> = match (compose.file.is_empty(), is_named) {
        (false, _) => compose.file.iter().map(PathBuf::from).collect(),
        (true, true) => return None,
        (true, false) => default_files().collect(),
    };
    let texts: Option<Vec<String>> = files.iter().map(|file| std::fs::read_to_string(file).ok()).collect();
    texts.filter(|texts| !texts.is_empty())
}

/// Folder of the project, as Compose finds it: the given folder, else the folder of the first file, else the
/// nearest folder upwards that has a Compose file.
pub fn project_folder(compose: &ComposeArgs) -> PathBuf {
    let current_folder = std::env::current_dir().unwrap_or_default();
    let of_file = |file: &Path| current_folder.join(file).parent().map(Path::to_path_buf);
    let variable = std::env::var("COMPOSE_FILE").ok().filter(|v| !v.is_empty());
    let separator = std::env::var("COMPOSE_PATH_SEPARATOR").unwrap_or_else(|_| ":".into());
    let first = variable.as_ref().and_then(|v| v.split(&separator).next().map(PathBuf::from));
    let above =
        current_folder.ancestors().find(|folder| COMPOSE_FILES.iter().any(|f| folder.join(f).exists()));
    let given = compose.project_directory.as_ref().map(|d| current_folder.join(d));
    given
        .or_else(|| compose.file.first().or(first.as_ref()).and_then(|f| of_file(f)))
        .or_else(|| above.map(Path::to_path_buf))
        .unwrap_or(current_folder)
}

/// State folder for the releases of all engines.
pub fn state_root(compose: &ComposeArgs, given: Option<&Path>) -> PathBuf {
    let dir = given.map(Path::to_path_buf).unwrap_or_else(|| project_folder(compose).join(".compose-zd"));
    std::path::absolute(&dir).unwrap_or(dir)
}

/// State folder for the releases of one engine. A remote engine has its own subfolder, because its images differ. A
/// Swarm has one for all of its managers.
pub fn state_dir(compose: &ComposeArgs, given: Option<&Path>, cluster: Option<&str>) -> PathBuf {
    let dir = state_root(compose, given);
    if let Some(cluster) = cluster {
        return dir.join(format!("@swarm-{cluster}"));
    }
    let variable = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let given = compose.context.clone().or_else(|| compose.host.clone());
    let engine = given.or_else(|| variable("DOCKER_HOST")).or_else(|| variable("DOCKER_CONTEXT"));
    match engine.as_deref().and_then(engine_folder) {
        Some(name) => dir.join(name),
        None => dir,
    }
}

/// Subfolder for an engine; `None` for the local default engine.
fn engine_folder(engine: &str) -> Option<String> {
    let default_engines = ["default", "unix:///var/run/docker.sock", "unix:///run/docker.sock"];
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    (!default_engines.contains(&engine)).then(|| format!("@{}", engine.chars().map(safe).collect::<String>()))
}

/// Engine of the flag, else of the file.
pub fn engine(flag: Option<&str>, file: Option<EngineKind>) -> Option<EngineKind> {
    flag.and_then(EngineKind::parse).or(file)
}

/// Flags that override the file.
pub fn flags(update: &UpdateArgs, rollout: &RolloutArgs) -> FlagLayers {
    let rollback = &rollout.rollback_config;
    let WitnessArgs { no_witness, witness_url, witness_rate, .. } = rollout.witness.clone();
    FlagLayers {
        zd: settings_layer(rollout),
        update: update_layer(update),
        rollback: rollback_layer(rollback),
        keep: rollout.keep,
        witness: WitnessFlags { off: no_witness, url: witness_url, rate: witness_rate },
    }
}

fn update_layer(args: &UpdateArgs) -> UpdateLayer {
    UpdateLayer {
        parallelism: args.update_parallelism,
        delay: args.update_delay,
        monitor: args.update_monitor,
        action: args.update_failure_action.as_deref().and_then(FailureAction::parse),
        max_failure_ratio: args.update_max_failure_ratio,
        order: args.update_order.as_deref().and_then(Order::parse),
    }
}

fn rollback_layer(args: &RollbackConfigArgs) -> UpdateLayer {
    UpdateLayer {
        parallelism: args.rollback_parallelism,
        delay: args.rollback_delay,
        monitor: args.rollback_monitor,
        action: args.rollback_failure_action.as_deref().and_then(FailureAction::parse),
        max_failure_ratio: args.rollback_max_failure_ratio,
        order: args.rollback_order.as_deref().and_then(Order::parse),
    }
}

/// Flags that have a key in `x-zd`.
fn settings_layer(args: &RolloutArgs) -> SettingsLayer {
    let health = args.health.clone();
    SettingsLayer {
        health: Some(HealthLayer {
            path: health.health_path,
            port: health.health_port,
            scheme: health.health_scheme,
            host: health.health_host,
            expect: health.health_expect,
            body: health.health_body,
            interval: health.health_interval,
            timeout: health.health_timeout,
            deadline: health.health_deadline,
            successes: health.health_successes,
        }),
        drain: Some(DrainLayer {
            timeout: args.drain.drain_timeout,
            command: args.drain.drain_command.clone().map(ShellCommand::Line),
        }),
        proxy: Some(ProxyLayer {
            container: args.proxy.proxy_container.clone(),
            kind: args.proxy.proxy_kind.clone(),
            tune: args.proxy.proxy_tune,
        }),
        before: None,
        after: None,
        anonymous_volumes: args.anonymous_volumes.is_some().then_some(AnonymousVolumes::Fresh),
    }
}

/// Name of a run, which other runs print while they wait. Flags are left out, because they may hold a secret.
pub fn command(verb: &str, services: &[String]) -> String {
    std::iter::once(verb).chain(services.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_engine_has_its_own_folder() {
        assert_eq!(engine_folder("default"), None);
        assert_eq!(engine_folder("unix:///var/run/docker.sock"), None);
        assert_eq!(engine_folder("staging").as_deref(), Some("@staging"));
        assert_eq!(engine_folder("tcp://10.0.0.1:2376").as_deref(), Some("@tcp---10.0.0.1-2376"));
        assert_eq!(engine_folder("../x").as_deref(), Some("@..-x"));
    }
}
