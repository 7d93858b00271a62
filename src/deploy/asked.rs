//! What was asked for: the command line as docker's words, as settings and as targets. Pure.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::{ComposeArgs, RollbackConfigArgs, RolloutArgs, UpdateArgs, WitnessArgs};
use crate::docker::ComposeFlags;
use crate::error::Error;
use crate::model::{
    AnonymousVolumes, DrainLayer, EngineKind, FailureAction, FlagLayers, HealthLayer, Order, Pair, Project,
    ProxyLayer, Service, SettingsLayer, ShellCommand, UpdateLayer, WitnessFlags,
};
use crate::proxy::{self, Backend, Proxy};

/// What a deploy is about: a service, or a pair of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Service(String),
    Pair(Pair),
}

impl Target {
    pub fn services(&self) -> Vec<&str> {
        match self {
            Target::Service(name) => vec![name],
            Target::Pair(pair) => pair.sides.iter().map(String::as_str).collect(),
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Target::Service(name) => name,
            Target::Pair(pair) => &pair.name,
        }
    }
}

pub fn place(compose: &ComposeArgs) -> ComposeFlags {
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

/// How messages name the compose file: as it was given, else as Compose finds it.
pub fn source(compose: &ComposeArgs) -> String {
    let given: Vec<String> = compose.file.iter().map(|f| f.display().to_string()).collect();
    if !given.is_empty() {
        return given.join(" + ");
    }
    let folder = compose.project_directory.clone().unwrap_or_default();
    let found = FILES.iter().find(|n| folder.join(n).exists());
    let variable = std::env::var("COMPOSE_FILE").ok();
    variable.unwrap_or(found.map_or("the compose file".into(), |n| folder.join(n).display().to_string()))
}

/// The names of a Compose file, in the order in which Compose looks for them.
pub const FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];

/// Files that Compose reads beside the first one, if they are there.
const OVERRIDES: [&str; 4] = [
    "compose.override.yaml",
    "compose.override.yml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
];

/// Keys that read variables or labels from files, or other files of services that may.
const ENV_FILES: [&str; 4] = ["env_file", "label_file", "include", "extends"];
const LABEL_FILES: [&str; 3] = ["label_file", "include", "extends"];

/// Whether services may have files of variables or labels: as far as the files tell, else they may.
pub fn may_have_env_files(compose: &ComposeArgs) -> bool {
    texts(compose).is_none_or(|texts| has_any(&texts, &ENV_FILES))
}

/// Whether services may have files of labels.
pub fn may_have_label_files(compose: &ComposeArgs) -> bool {
    texts(compose).is_some_and(|texts| has_any(&texts, &LABEL_FILES))
}

fn has_any(texts: &[String], words: &[&str]) -> bool {
    texts.iter().any(|text| words.iter().any(|word| text.contains(word)))
}

/// The Compose files, where it is known which there are.
fn texts(compose: &ComposeArgs) -> Option<Vec<String>> {
    let folder = project_folder(compose);
    let is_named = std::env::var_os("COMPOSE_FILE").is_some_and(|files| !files.is_empty());
    let usual = || FILES.iter().chain(&OVERRIDES).map(|name| folder.join(name)).filter(|f| f.exists());
    let files: Vec<PathBuf> = match (compose.file.is_empty(), is_named) {
        (false, _) => compose.file.iter().map(PathBuf::from).collect(),
        (true, true) => return None,
        (true, false) => usual().collect(),
    };
    let texts: Option<Vec<String>> = files.iter().map(|file| std::fs::read_to_string(file).ok()).collect();
    texts.filter(|texts| !texts.is_empty())
}

/// The folder of the project as Compose finds it: given, else that of the first file, else the nearest folder above
/// that has one.
pub fn project_folder(compose: &ComposeArgs) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    let of_file = |file: &Path| here.join(file).parent().map(Path::to_path_buf);
    let variable = std::env::var("COMPOSE_FILE").ok().filter(|v| !v.is_empty());
    let separator = std::env::var("COMPOSE_PATH_SEPARATOR").unwrap_or_else(|_| ":".into());
    let first = variable.as_ref().and_then(|v| v.split(&separator).next().map(PathBuf::from));
    let above = here.ancestors().find(|folder| FILES.iter().any(|f| folder.join(f).exists()));
    let given = compose.project_directory.as_ref().map(|d| here.join(d));
    given
        .or_else(|| compose.file.first().or(first.as_ref()).and_then(|f| of_file(f)))
        .or_else(|| above.map(Path::to_path_buf))
        .unwrap_or(here)
}

/// The folder where the releases of all engines are kept.
pub fn state_root(compose: &ComposeArgs, given: Option<&Path>) -> PathBuf {
    let dir = given.map(Path::to_path_buf).unwrap_or_else(|| project_folder(compose).join(".compose-zd"));
    std::path::absolute(&dir).unwrap_or(dir)
}

/// The folder where releases are kept; those of another engine than this machine's are kept apart, because its images
/// are others, and those of a Swarm too, whichever of its managers is talked to.
pub fn state_dir(compose: &ComposeArgs, given: Option<&Path>, cluster: Option<&str>) -> PathBuf {
    let dir = state_root(compose, given);
    if let Some(cluster) = cluster {
        return dir.join(format!("@swarm-{cluster}"));
    }
    let variable = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let given = compose.context.clone().or_else(|| compose.host.clone());
    let engine = given.or_else(|| variable("DOCKER_HOST")).or_else(|| variable("DOCKER_CONTEXT"));
    match engine.as_deref().and_then(other_engine) {
        Some(name) => dir.join(name),
        None => dir,
    }
}

/// The name of a folder for an engine; none for the one that is there without a word.
fn other_engine(engine: &str) -> Option<String> {
    let usual = ["default", "unix:///var/run/docker.sock", "unix:///run/docker.sock"];
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    (!usual.contains(&engine)).then(|| format!("@{}", engine.chars().map(safe).collect::<String>()))
}

/// The engine that a flag names, else the file.
pub fn engine(flag: Option<&str>, file: Option<EngineKind>) -> Option<EngineKind> {
    flag.and_then(EngineKind::parse).or(file)
}

/// All the flags that go before what the file says.
pub fn flags(update: &UpdateArgs, rollout: &RolloutArgs) -> FlagLayers {
    let back = &rollout.rollback_config;
    let WitnessArgs { no_witness, witness_url, witness_rate, .. } = rollout.witness.clone();
    FlagLayers {
        zd: zd(rollout),
        update: updating(update),
        rollback: going_back(back),
        keep: rollout.keep,
        witness: WitnessFlags { off: no_witness, url: witness_url, rate: witness_rate },
    }
}

fn updating(args: &UpdateArgs) -> UpdateLayer {
    UpdateLayer {
        parallelism: args.update_parallelism,
        delay: args.update_delay,
        monitor: args.update_monitor,
        action: args.update_failure_action.as_deref().and_then(FailureAction::parse),
        max_failure_ratio: args.update_max_failure_ratio,
        order: args.update_order.as_deref().and_then(Order::parse),
    }
}

fn going_back(args: &RollbackConfigArgs) -> UpdateLayer {
    UpdateLayer {
        parallelism: args.rollback_parallelism,
        delay: args.rollback_delay,
        monitor: args.rollback_monitor,
        action: args.rollback_failure_action.as_deref().and_then(FailureAction::parse),
        max_failure_ratio: args.rollback_max_failure_ratio,
        order: args.rollback_order.as_deref().and_then(Order::parse),
    }
}

/// The flags that `x-zd` has words for.
fn zd(args: &RolloutArgs) -> SettingsLayer {
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

/// What to deploy: what was named, else every service that a proxy routes to and those that flags are about. A side of
/// a pair stands for the pair. What others depend on comes first.
///
/// # Errors
/// A name that is no service and no pair; nothing to deploy.
pub fn targets(
    project: &Project,
    named: &[String],
    flagged: &[(&str, &str)],
    proxies: &[Arc<dyn Proxy>],
) -> Result<Vec<Target>, Error> {
    if let Some((flag, name)) = flagged.iter().find(|(_, name)| !project.services.contains_key(*name)) {
        return Err(unknown(project, name, Some(flag)));
    }
    let names = match named.is_empty() {
        false => named.to_vec(),
        true => {
            let flagged = flagged.iter().map(|(_, name)| name.to_string());
            let all: BTreeSet<String> =
                routed_services(project, proxies).into_iter().chain(flagged).collect();
            all.into_iter().collect()
        }
    };
    if let Some(proxy) = proxy_that_is_down(project, proxies).filter(|_| names.is_empty()) {
        let (name, container) = (proxy.name(), proxy.container());
        let status = &container.state.status;
        return Err(Error::unchanged(format!("{name} is {status}, so its routes cannot be read"))
            .hint(crate::preflight::remedy(container))
            .rule(&"proxy-down"));
    }
    if names.is_empty() {
        return Err(Error::usage("no service of this project is routed to by a proxy")
            .hint(format!("name at least one service: {}", listed(project))));
    }
    let mut targets = as_targets(project, &names)?;
    if let Some((flag, name)) =
        flagged.iter().find(|(_, n)| !targets.iter().any(|t| t.services().contains(n)))
    {
        return Err(Error::usage(format!("`{flag} {name}=…` is about a service that is not deployed"))
            .hint(format!("name it as well: `compose-zd deploy {} {name}`", names.join(" "))));
    }
    dependencies_first(project, &mut targets);
    Ok(targets)
}

/// The services and pairs of these names, each once.
///
/// # Errors
/// A name that is neither.
pub fn as_targets(project: &Project, names: &[String]) -> Result<Vec<Target>, Error> {
    let mut targets: Vec<Target> = Vec::new();
    for name in names {
        let target = match (project.pair(name), project.services.get(name)) {
            (Some(pair), _) => Target::Pair(pair.clone()),
            (None, Some(_)) => Target::Service(name.clone()),
            (None, None) => return Err(unknown(project, name, None)),
        };
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    Ok(targets)
}

/// What others need comes before them; else as they were named.
pub fn dependencies_first(project: &Project, targets: &mut Vec<Target>) {
    let mut sorted: Vec<Target> = Vec::new();
    while !targets.is_empty() {
        let needed_by = |one: &Target, other: &Target| {
            other.services().iter().any(|s| {
                let needs = project.services[*s].needs(project);
                one.services().iter().any(|o| needs.contains_key(o))
            })
        };
        let free = |one: &Target| !targets.iter().any(|other| other != one && needed_by(other, one));
        let next = targets.iter().position(free).unwrap_or(0);
        sorted.push(targets.remove(next));
    }
    *targets = sorted;
}

/// One of the project's own.
pub fn proxy_that_is_down<'p>(
    project: &Project,
    proxies: &'p [Arc<dyn Proxy>],
) -> Option<&'p Arc<dyn Proxy>> {
    let is_own =
        |p: &&Arc<dyn Proxy>| p.container().label("com.docker.compose.project") == Some(&project.name);
    proxies.iter().find(|p| is_own(p) && !p.container().is_running())
}

fn routed_services(project: &Project, proxies: &[Arc<dyn Proxy>]) -> Vec<String> {
    let fronted = |b: &Backend| proxies.iter().any(|p| p.routes_to(b));
    let routed = |s: &&Service| {
        let backend = backend(project, s);
        // A proxy may ask itself for a route, to its dashboard.
        (proxy::route_setting(&backend).is_some() && !proxy::is_proxy_image(&s.image)) || fronted(&backend)
    };
    project.services.values().filter(routed).map(|s| s.name.clone()).collect()
}

pub fn backend(project: &Project, service: &Service) -> Backend {
    Backend {
        project: project.name.clone(),
        service: service.name.clone(),
        names: service.names.clone(),
        environment: service.environment.clone(),
        labels: service.labels.clone(),
        networks: service.networks.clone(),
        is_running: false,
        has_healthcheck: service.healthcheck.as_ref().is_some_and(|t| t.first().is_some_and(|w| w != "NONE")),
        has_drain_command: service.settings.drain_command.is_some(),
    }
}

/// The error for a name on the command line, or in the value of a flag.
pub fn unknown(project: &Project, name: &str, flag: Option<&str>) -> Error {
    let place = flag.map_or(String::new(), |flag| format!("`{flag}`: "));
    Error::usage(format!("{place}project `{}` has no service or pair `{name}`", project.name))
        .hint(format!("it has {}; a service of a profile needs `--profile`", listed(project)))
}

fn listed(project: &Project) -> String {
    let services = project.services.keys().map(|s| format!("`{s}`"));
    let pairs = project.pairs.iter().map(|p| format!("the pair `{}`", p.name));
    services.chain(pairs).collect::<Vec<_>>().join(", ")
}

/// What a run is called by those that wait for it; flags may hold what is nobody's business.
pub fn command(verb: &str, services: &[String]) -> String {
    std::iter::once(verb).chain(services.iter().map(String::as_str)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_engine_has_a_folder_of_its_own() {
        assert_eq!(other_engine("default"), None);
        assert_eq!(other_engine("unix:///var/run/docker.sock"), None);
        assert_eq!(other_engine("staging").as_deref(), Some("@staging"));
        assert_eq!(other_engine("tcp://10.0.0.1:2376").as_deref(), Some("@tcp---10.0.0.1-2376"));
        assert_eq!(other_engine("../x").as_deref(), Some("@..-x"));
    }

    fn project(yaml: &str) -> Project {
        Project::read(yaml, "compose.yaml", &FlagLayers::default()).unwrap()
    }

    #[test]
    fn what_others_need_is_deployed_before_them() {
        let project = project(
            "name: p\nservices: {app: {depends_on: {api: {condition: service_started}}}, \
             api: {depends_on: {db: {condition: service_started}}}, db: {}, web: {}}",
        );
        let sorted = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
            let mut targets = as_targets(&project, &names).unwrap();
            dependencies_first(&project, &mut targets);
            targets.iter().map(Target::name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(sorted(&["app", "api"]), "api app");
        assert_eq!(sorted(&["app", "web", "db"]), "web db app");
        assert_eq!(sorted(&["web", "app"]), "web app");
    }

    #[test]
    fn a_flag_is_about_a_service_that_is_deployed() {
        let project = project("name: p\nservices: {app: {}, worker: {}}");
        let targets = |named: &[&str], flagged: &[(&str, &str)]| {
            let named: Vec<String> = named.iter().map(|n| n.to_string()).collect();
            let found = targets(&project, &named, flagged, &[]).map_err(|error| error.message)?;
            Ok::<_, String>(found.iter().map(|t| t.name().to_string()).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(targets(&[], &[("--image", "worker")]).unwrap(), "worker");
        assert_eq!(targets(&["app"], &[("--scale", "app")]).unwrap(), "app");
        assert!(targets(&["app"], &[("--scale", "worker")]).unwrap_err().contains("--scale worker"));
        assert!(targets(&[], &[("--image", "nobody")]).unwrap_err().contains("`nobody`"));
        assert!(targets(&[], &[]).is_err());
    }
}
