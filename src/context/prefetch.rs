//! Prefetch: sends the queries of a deploy while it waits for something else.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;

use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::git;
use crate::model::Project;
use crate::model::args::DeployArgs;
use crate::proxy::{self, Backend, Proxy};
use crate::targets::Target;
use crate::targets::is_member;

/// Label with the folder of a project.
const FOLDER_LABEL: &str = "com.docker.compose.project.working_dir";

/// Prefetches while Compose reads the file: shells in nearby proxies, and Compose's dry run for the service that
/// will most likely be deployed.
pub fn for_project(docker: &Docker, folder: &Path, args: &DeployArgs) {
    thread::spawn(git::user_and_host);
    let (docker, folder, args) = (docker.clone(), folder.to_path_buf(), args.clone());
    thread::spawn(move || {
        // A later query repeats a failed one, and reports the error.
        let Ok(containers) = docker.containers() else { return };
        let near = NearbyContainers::new(&containers, &folder);
        docker.open_shells(&near.proxy_ids());
        if let Some(service) = near.likely_service(&args.services).filter(|_| args.image.is_empty()) {
            let its = near.members.iter().copied().filter(|c| c.compose().is_some_and(|(_, s)| s == service));
            docker.prefetch_collateral(service, total(&its.collect::<Vec<_>>(), scale(&args, service)));
        }
    });
}

/// Containers of a project, and the proxies that share a network with them.
struct NearbyContainers<'a> {
    members: Vec<&'a Container>,
    proxies: Vec<Box<dyn Proxy>>,
}

impl<'a> NearbyContainers<'a> {
    fn new(containers: &'a [Container], folder: &Path) -> NearbyContainers<'a> {
        let is_ours = |c: &&Container| c.label(FOLDER_LABEL).is_some_and(|f| Path::new(f) == folder);
        let members: Vec<&Container> = containers.iter().filter(is_ours).collect();
        let networks: BTreeSet<&str> = members.iter().flat_map(|c| c.networks()).collect();
        let near = |c: &Container| c.is_running() && c.networks().any(|n| networks.contains(n));
        let mut proxies = proxy::detect(containers);
        proxies.retain(|p| p.container().is_some_and(near));
        NearbyContainers { members, proxies }
    }

    fn proxy_ids(&self) -> Vec<String> {
        self.proxies.iter().filter_map(|p| Some(p.container()?.id.clone())).collect()
    }

    /// Service that will most likely be deployed: the only named one, else the only routed one, else the only one.
    /// A wrong guess costs one read-only command.
    fn likely_service<'b>(&'b self, named: &'b [String]) -> Option<&'b str> {
        let proxies = self.proxy_ids();
        let others = || self.members.iter().filter(|c| !proxies.contains(&c.id));
        let service = |c: &'b Container| c.compose().map(|(_, service)| service);
        let is_routed = |c: &&&'b Container| {
            let backend = Backend::from(**c);
            proxy::route_setting(&backend).is_some() || self.proxies.iter().any(|p| p.routes_to(&backend))
        };
        let named: BTreeSet<&str> = named.iter().map(String::as_str).collect();
        let routed: BTreeSet<&str> = others().filter(is_routed).filter_map(|c| service(c)).collect();
        let all: BTreeSet<&str> = others().filter_map(|c| service(c)).collect();
        // A word that is no service must not reach docker; the deploy refuses it later.
        let likely = [named, routed, all.clone()].into_iter().find(|services| !services.is_empty())?;
        likely.first().copied().filter(|service| likely.len() == 1 && all.contains(service))
    }
}

/// Prefetches Compose's dry run once the targets are known.
pub fn for_targets(
    docker: &Docker,
    project: &Project,
    targets: &[Target],
    containers: &[Container],
    args: &DeployArgs,
) {
    for target in targets.iter().filter(|t| matches!(t, Target::Service(_))) {
        let (name, service) = (target.name(), &project.services[target.name()]);
        // Its dry run needs a filter in front of the engine.
        if service.container_name.is_some() {
            continue;
        }
        let its = containers.iter().filter(|c| is_member(project, c, &[name]));
        let in_file = service.replicas().map(|n| n as usize);
        docker.prefetch_collateral(name, total(&its.collect::<Vec<_>>(), scale(args, name).or(in_file)));
    }
}

fn scale(args: &DeployArgs, service: &str) -> Option<usize> {
    args.scale.iter().find(|(name, _)| name == service).map(|(_, n)| *n as usize)
}

/// Number of containers of a service at a time, if all are replaced at once.
fn total(its: &[&Container], wanted: Option<usize>) -> usize {
    let running = its.iter().filter(|c| c.is_running()).count();
    its.len() + wanted.unwrap_or(running).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, service: &str, folder: &str, image: &str, variable: &str) -> Container {
        let labels = format!(
            r#"{{"com.docker.compose.project": "p", "com.docker.compose.service": "{service}", "{FOLDER_LABEL}": "{folder}"}}"#
        );
        let json = format!(
            r#"{{"Id": "{id}", "Name": "/p-{service}-{id}", "State": {{"Status": "running", "Running": true}},
                "Config": {{"Image": "{image}", "Labels": {labels}, "Env": ["{variable}"]}},
                "NetworkSettings": {{"Networks": {{"web": {{"IPAddress": "10.0.0.2"}}}}}}}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    fn meant(containers: &[Container], named: &[&str]) -> Option<String> {
        let named: Vec<String> = named.iter().map(|s| s.to_string()).collect();
        NearbyContainers::new(containers, Path::new("/srv/p")).likely_service(&named).map(String::from)
    }

    #[test]
    fn only_a_named_routed_or_single_service_is_prefetched() {
        let app = || container("1", "app", "/srv/p", "app:1", "A=1");
        let routed = || container("2", "web", "/srv/p", "app:1", "VIRTUAL_HOST=x");
        let other = || container("3", "other", "/srv/other", "app:1", "A=1");
        let proxy = || container("4", "proxy", "/srv/p", "haproxy:3.2", "A=1");
        assert_eq!(meant(&[app(), other(), proxy()], &[]).as_deref(), Some("app"));
        assert_eq!(meant(&[app(), routed(), proxy()], &[]).as_deref(), Some("web"));
        assert_eq!(meant(&[app(), routed(), proxy()], &["app"]).as_deref(), Some("app"));
        // Several candidates give no guess, and a word that is no service does not reach docker.
        assert_eq!(meant(&[app(), routed()], &["app", "web"]), None);
        assert_eq!(meant(&[app(), container("5", "db", "/srv/p", "db:1", "A=1")], &[]), None);
        assert_eq!(meant(&[app()], &["--privileged"]), None);
        assert_eq!(meant(&[other()], &["other"]), None);
    }
}
