//! What was asked for: the command line as docker's words, as settings and as targets. Pure.

use std::sync::Arc;

use crate::cli::{ComposeArgs, DeployArgs};
use crate::docker::Where;
use crate::fault::Fault;
use crate::model::{Pair, Project, Service, Words, Zd, ZdDrain, ZdHealth, ZdProxy};
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

pub fn place(compose: &ComposeArgs) -> Where {
    let mut engine = Vec::new();
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
    Where { engine, project }
}

/// How messages name the compose file: as it was given, else as Compose finds it.
pub fn source(compose: &ComposeArgs) -> String {
    let given: Vec<String> = compose.file.iter().map(|f| f.display().to_string()).collect();
    if !given.is_empty() {
        return given.join(" + ");
    }
    let folder = compose.project_directory.clone().unwrap_or_default();
    let names = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
    let found = names.iter().find(|n| folder.join(n).exists());
    let variable = std::env::var("COMPOSE_FILE").ok();
    variable.unwrap_or(found.map_or("the compose file".into(), |n| folder.join(n).display().to_string()))
}

/// The flags, in the shape of `x-zd`.
pub fn flags(args: &DeployArgs) -> Zd {
    let health = args.health.clone();
    Zd {
        health: Some(ZdHealth {
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
        drain: Some(ZdDrain {
            timeout: args.drain.drain_timeout,
            command: args.drain.drain_command.clone().map(Words::Line),
        }),
        proxy: Some(ZdProxy {
            container: args.proxy.proxy_container.clone(),
            kind: args.proxy.proxy_kind.clone(),
            tune: args.proxy.proxy_tune,
        }),
    }
}

/// What to deploy: what was named, else every service that a proxy routes to. A side of a pair stands for the pair.
pub fn targets(
    project: &Project,
    args: &DeployArgs,
    proxies: &[Arc<dyn Proxy>],
) -> Result<Vec<Target>, Fault> {
    for (name, _) in &args.scale {
        if !project.services.contains_key(name) {
            return Err(unknown(project, name, "--scale"));
        }
    }
    let names = match args.services.is_empty() {
        false => args.services.clone(),
        true => routed_services(project, proxies),
    };
    if names.is_empty() {
        return Err(Fault::usage("no service of this project is routed to by a proxy")
            .hint(format!("name the services to deploy: {}", listed(project))));
    }
    let mut targets: Vec<Target> = Vec::new();
    for name in &names {
        let target = match (project.pair(name), project.services.get(name)) {
            (Some(pair), _) => Target::Pair(pair.clone()),
            (None, Some(_)) => Target::Service(name.clone()),
            (None, None) => return Err(unknown(project, name, "deploy")),
        };
        if !targets.contains(&target) {
            targets.push(target);
        }
    }
    Ok(targets)
}

fn routed_services(project: &Project, proxies: &[Arc<dyn Proxy>]) -> Vec<String> {
    let fronted = |b: &Backend| proxies.iter().any(|p| p.fronts(b));
    let routed = |s: &&Service| {
        let backend = backend(project, s);
        // A proxy may ask itself for a route, to its dashboard.
        (proxy::claims(&backend) && !proxy::is_proxy_image(&s.image)) || fronted(&backend)
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
        runs: false,
        has_healthcheck: service.healthcheck.as_ref().is_some_and(|t| t.first().is_some_and(|w| w != "NONE")),
        has_drain_command: service.settings.drain_command.is_some(),
    }
}

fn unknown(project: &Project, name: &str, place: &str) -> Fault {
    Fault::usage(format!("`{place}`: there is no service or pair `{name}` in project `{}`", project.name))
        .hint(format!("there are {}; a service of a profile needs `--profile`", listed(project)))
}

fn listed(project: &Project) -> String {
    let services = project.services.keys().map(|s| format!("`{s}`"));
    let pairs = project.pairs.iter().map(|p| format!("the pair `{}`", p.name));
    services.chain(pairs).collect::<Vec<_>>().join(", ")
}
