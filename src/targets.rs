//! Targets of a deploy, from the names on the command line. Pure functions, without I/O.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::docker::inspect::Container;
use crate::error::Error;
use crate::model::{Pair, Project, Service};
use crate::proxy::{self, Backend, ListeningService, Proxy};

/// One service, or a pair of services, that a deploy replaces.
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

/// Targets to deploy, dependencies first: the named services, else every service with a route (without any: with a
/// published port) and every service of a flag. The name of one side selects the whole pair.
///
/// # Errors
/// An unknown name, a flag for a service that is not deployed, or nothing to deploy.
pub fn select(
    project: &Project,
    named: &[String],
    flagged: &[(&str, &str)],
    proxies: &[Arc<dyn Proxy>],
) -> Result<Vec<Target>, Error> {
    if let Some((flag, name)) = flagged.iter().find(|(_, name)| !project.services.contains_key(*name)) {
        return Err(unknown_service(project, name, Some(flag)));
    }
    let names = if named.is_empty() {
        let flagged = flagged.iter().map(|(_, name)| name.to_string());
        let all: BTreeSet<String> = routed_services(project, proxies).into_iter().chain(flagged).collect();
        all.into_iter().collect()
    } else {
        named.to_vec()
    };
    if let Some((name, container)) = stopped_proxy(project, proxies).filter(|_| names.is_empty()) {
        let state = container.down_state();
        return Err(Error::unchanged(format!("the proxy {name} {state}, so its routes cannot be read"))
            .hint(container.remedy())
            .rule(&"proxy-down"));
    }
    if names.is_empty() {
        return Err(nothing_to_deploy(project));
    }
    let mut targets = from_names(project, &names)?;
    if let Some((flag, name)) =
        flagged.iter().find(|(_, n)| !targets.iter().any(|t| t.services().contains(n)))
    {
        return Err(Error::usage(format!(
            "`{flag} {name}=…` names a service that this command does not deploy"
        ))
        .hint(format!("deploy both: `compose-zd deploy {} {name}`", names.join(" "))));
    }
    sort_by_dependencies(project, &mut targets);
    Ok(targets)
}

/// Targets with these names, without duplicates; the name of one side selects the whole pair.
pub fn from_names(project: &Project, names: &[String]) -> Result<Vec<Target>, Error> {
    let mut targets: Vec<Target> = Vec::new();
    for name in names {
        let target = match (project.pair(name), project.services.get(name)) {
            (Some(pair), _) => Target::Pair(pair.clone()),
            (None, Some(_)) => Target::Service(name.clone()),
            (None, None) => return Err(unknown_service(project, name, None)),
        };
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    Ok(targets)
}

/// Sorts dependencies before their dependents and keeps the given order otherwise.
pub fn sort_by_dependencies(project: &Project, targets: &mut Vec<Target>) {
    let mut sorted: Vec<Target> = Vec::new();
    while !targets.is_empty() {
        let has_no_pending_dependency = |target: &Target| {
            !targets.iter().any(|other| other != target && depends_on(project, target, other))
        };
        let next = targets.iter().position(has_no_pending_dependency).unwrap_or(0);
        sorted.push(targets.remove(next));
    }
    *targets = sorted;
}

fn depends_on(project: &Project, target: &Target, other: &Target) -> bool {
    target.services().iter().any(|service| {
        let needs = project.services[*service].needs(project);
        other.services().iter().any(|name| needs.contains_key(name))
    })
}

/// Positions of sorted targets by level: each target depends only on targets of earlier levels.
pub fn levels(project: &Project, sorted: &[&Target]) -> Vec<Vec<usize>> {
    let mut level_of: Vec<usize> = Vec::new();
    for target in sorted {
        let earlier = sorted.iter().zip(&level_of);
        let needed = earlier.filter(|(other, _)| depends_on(project, target, other));
        level_of.push(needed.map(|(_, level)| level + 1).max().unwrap_or(0));
    }
    let count = level_of.iter().max().map_or(0, |last| last + 1);
    (0..count).map(|level| (0..sorted.len()).filter(|n| level_of[*n] == level).collect()).collect()
}

/// Name and container of a proxy of this project that does not run.
pub fn stopped_proxy<'p>(
    project: &Project,
    proxies: &'p [Arc<dyn Proxy>],
) -> Option<(String, &'p Container)> {
    let is_own = |c: &Container| c.label("com.docker.compose.project") == Some(&project.name);
    let places = proxies.iter().filter_map(|p| Some((p.name(), p.container()?)));
    places.into_iter().find(|(_, c)| is_own(c) && !c.is_running())
}

/// Services with a route. If none has one: those whose published port can be led to a stand-in or a relay, without a
/// volume that two instances would share.
fn routed_services(project: &Project, proxies: &[Arc<dyn Proxy>]) -> Vec<String> {
    let leads_to =
        |b: &Backend, is_port: bool| proxies.iter().any(|p| p.place().is_port() == is_port && p.routes_to(b));
    let is_proxied = |b: &Backend| leads_to(b, false);
    let routed = |s: &&Service| {
        let backend = backend(project, s);
        // A proxy may have a route to itself, for its dashboard.
        (proxy::route_setting(&backend).is_some() && !proxy::is_proxy_image(&s.image)) || is_proxied(&backend)
    };
    let routed: Vec<&Service> = project.services.values().filter(routed).collect();
    if !routed.is_empty() {
        return names(&routed);
    }
    // A proxy without a route to the project still serves others, and `check` says that a deploy leaves it alone.
    let is_proxy = |s: &Service| {
        let is_own = |c: &Container| is_member(project, c, &[&s.name]);
        proxies.iter().any(|p| !p.routes_nowhere() && p.container().is_some_and(is_own))
    };
    let can_replace = |s: &Service| !s.holds_volume() || s.hold_cause(&s.update).is_some();
    let published = |s: &&Service| can_replace(s) && !is_proxy(s) && leads_to(&backend(project, s), true);
    names(&project.services.values().filter(published).collect::<Vec<_>>())
}

fn names(services: &[&Service]) -> Vec<String> {
    services.iter().map(|service| service.name.clone()).collect()
}

/// Services with a TCP port, in the file or of a container, that are no data store.
pub fn listening_services(
    project: &Project,
    containers: &[Container],
    is_proxy: impl Fn(&Service) -> bool,
) -> Vec<ListeningService> {
    let members = |s: &Service| {
        let name = s.name.clone();
        containers.iter().filter(move |c| is_member(project, c, &[&name]))
    };
    let has_port = |s: &Service| {
        s.exposed().iter().any(|port| port.ends_with("/tcp"))
            || members(s).any(|c| !c.exposed_tcp().is_empty())
    };
    let is_job = |s: &Service| {
        project
            .services
            .values()
            .any(|o| o.depends_on.get(&s.name).is_some_and(|d| d.condition.is_completed()))
    };
    // Clients of a published port use that.
    let is_web =
        |s: &Service| !s.is_other_program() && s.fixed_ports().is_empty() && !is_job(s) && !is_proxy(s);
    let listening = project.services.values().filter(|s| s.data_store().is_none() && has_port(s));
    listening
        .map(|s| ListeningService {
            project: project.name.clone(),
            service: s.name.clone(),
            is_web: is_web(s),
            labels: s.labels.clone(),
            proxy: s.settings.proxy.container.clone(),
        })
        .collect()
}

/// True if a container belongs to one of these services.
pub fn is_member(project: &Project, container: &Container, services: &[&str]) -> bool {
    let matches = |(name, service): (&str, &str)| name == project.name && services.contains(&service);
    container.compose().is_some_and(matches)
}

/// Backend of a service as the Compose file describes it, which is not running yet.
pub fn backend(project: &Project, service: &Service) -> Backend {
    Backend {
        project: project.name.clone(),
        service: service.name.clone(),
        names: service.names.clone(),
        environment: service.environment.clone(),
        labels: service.labels.clone(),
        networks: service.networks.clone(),
        addresses: Vec::new(),
        exposed: Vec::new(),
        is_running: false,
    }
}

/// Error for an unknown name on the command line or in the value of a flag.
pub fn unknown_service(project: &Project, name: &str, flag: Option<&str>) -> Error {
    let prefix = flag.map_or(String::new(), |flag| format!("`{flag}`: "));
    if let Some(profiles) = project.profiles.get(name) {
        let list = profiles.iter().map(|p| format!("`{p}`")).collect::<Vec<_>>().join(", ");
        let which = if profiles.len() == 1 { "the profile" } else { "the profiles" };
        let verb = if profiles.len() == 1 { "is" } else { "are" };
        return Error::usage(format!("{prefix}`{name}` is in {which} {list}, which {verb} off"))
            .hint(switch_on(&profiles[0]));
    }
    Error::usage(format!("{prefix}project `{}` has no service or pair `{name}`", project.name)).hint(format!(
        "the project has {}{}",
        list_names(project),
        list_profiles(project)
    ))
}

fn switch_on(profile: &str) -> String {
    format!("add `--profile {profile}` to the command, or set `COMPOSE_PROFILES={profile}`")
}

/// Services whose profiles are off.
fn inactive(project: &Project) -> impl Iterator<Item = (&String, &Vec<String>)> {
    project.profiles.iter().filter(|(name, _)| !project.services.contains_key(*name))
}

fn list_profiles(project: &Project) -> String {
    let list: Vec<String> = inactive(project)
        .map(|(name, profiles)| format!("`{name}` with `--profile {}`", profiles[0]))
        .collect();
    if list.is_empty() { String::new() } else { format!("; and {}", list.join(", ")) }
}

/// Error for a project without an active service.
pub fn no_services(project: &Project, source: &str) -> Error {
    match inactive(project).next() {
        Some((_, profiles)) => {
            let message = format!("`{source}`: every service is in a profile, and no profile is on");
            let others = list_profiles(project);
            Error::usage(message).hint(format!("{}{others}", switch_on(&profiles[0])))
        }
        None => Error::usage(format!("`{source}` has no services")).hint("add one under `services`"),
    }
}

/// Error for a deploy without names, where nothing leads to a service.
fn nothing_to_deploy(project: &Project) -> Error {
    let is_app = |s: &&Service| s.data_store().is_none() && !proxy::is_proxy_image(&s.image);
    let apps: Vec<&Service> = project.services.values().filter(is_app).collect();
    let names = if apps.is_empty() { project.services.keys().cloned().collect() } else { names(&apps) };
    Error::usage(format!(
        "no proxy routes to a service of project `{}`, and none publishes a port that a deploy can keep",
        project.name
    ))
    .hint(format!(
        "`compose-zd deploy {}` deploys by name; `compose-zd init` adds a proxy, so that no request is lost",
        names.join(" ")
    ))
}

fn list_names(project: &Project) -> String {
    let services = project.services.keys().map(|s| format!("`{s}`"));
    let pairs = project.pairs.iter().map(|p| format!("the pair `{}`", p.name));
    services.chain(pairs).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FlagLayers;

    fn project(yaml: &str) -> Project {
        Project::read(yaml, "compose.yaml", &FlagLayers::default()).unwrap()
    }

    #[test]
    fn dependencies_are_deployed_first() {
        let project = project(
            "name: p\nservices: {app: {depends_on: {api: {condition: service_started}}}, \
             api: {depends_on: {db: {condition: service_started}}}, db: {}, web: {}}",
        );
        let sorted = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
            let mut targets = from_names(&project, &names).unwrap();
            sort_by_dependencies(&project, &mut targets);
            targets.iter().map(Target::name).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(sorted(&["app", "api"]), "api app");
        assert_eq!(sorted(&["app", "web", "db"]), "web db app");
        assert_eq!(sorted(&["web", "app"]), "web app");
    }

    #[test]
    fn a_level_depends_only_on_earlier_levels() {
        let project = project(
            "name: p\nservices: {app: {depends_on: {api: {condition: service_started}}}, \
             api: {depends_on: {auth: {condition: service_started}}}, auth: {}, web: {}, \
             gate: {depends_on: {app: {condition: service_started}, web: {condition: service_started}}}}",
        );
        let levels = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
            let mut targets = from_names(&project, &names).unwrap();
            sort_by_dependencies(&project, &mut targets);
            let levels = levels(&project, &targets.iter().collect::<Vec<_>>());
            let names = |level: Vec<usize>| {
                level.into_iter().map(|n| targets[n].name()).collect::<Vec<_>>().join(" ")
            };
            levels.into_iter().map(names).collect::<Vec<_>>()
        };
        assert_eq!(levels(&["gate", "app", "api", "auth", "web"]), ["auth web", "api", "app", "gate"]);
        assert_eq!(levels(&["web", "auth"]), ["web auth"]);
        assert_eq!(levels(&["app", "auth"]), ["auth", "app"], "`api` lies between them");
        assert_eq!(levels(&[]), [""; 0]);
    }

    #[test]
    fn a_listening_service_has_a_port_and_is_no_data_store() {
        let project = project(
            "name: p\nservices: {app: {image: app, expose: [80]}, idle: {image: app}, ghost: {image: ghost}, \
             worker: {image: ghost, command: [work]}, db: {image: 'postgres:17', expose: [5432]}, \
             dns: {image: app, expose: [53/udp]}, site: {image: app, ports: [{target: 80, published: '81'}]}, \
             seed: {image: app, expose: [80]}, lb: {image: app, expose: [80]}, \
             late: {image: app, depends_on: {seed: {condition: service_completed_successfully}}}}",
        );
        let container = |service: &str| -> Container {
            let labels = format!(
                r#"{{"com.docker.compose.project": "p", "com.docker.compose.service": "{service}"}}"#
            );
            let config = format!(r#"{{"Labels": {labels}, "ExposedPorts": {{"2368/tcp": {{}}}}}}"#);
            serde_json::from_str(&format!(r#"{{"Config": {config}}}"#)).unwrap()
        };
        let containers = ["ghost", "worker", "db"].map(container);
        let found = listening_services(&project, &containers, |s| s.name == "lb");
        let found: Vec<String> = found.into_iter().map(|s| format!("{} {}", s.service, s.is_web)).collect();
        assert_eq!(found, ["app true", "ghost true", "lb false", "seed false", "site false", "worker false"]);
    }

    #[test]
    fn a_flag_names_a_deployed_service() {
        let project = project("name: p\nservices: {app: {}, worker: {}}");
        let targets = |named: &[&str], flagged: &[(&str, &str)]| {
            let named: Vec<String> = named.iter().map(|n| n.to_string()).collect();
            let found = select(&project, &named, flagged, &[]).map_err(|error| error.message)?;
            Ok::<_, String>(found.iter().map(|t| t.name().to_string()).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(targets(&[], &[("--image", "worker")]).unwrap(), "worker");
        assert_eq!(targets(&["app"], &[("--scale", "app")]).unwrap(), "app");
        assert!(targets(&["app"], &[("--scale", "worker")]).unwrap_err().contains("--scale worker"));
        assert!(targets(&[], &[("--image", "missing")]).unwrap_err().contains("`missing`"));
        assert!(targets(&[], &[]).is_err());
    }
}
