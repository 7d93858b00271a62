//! What a deploy is going to ask for is asked while it waits for something else.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;

use super::observe;
use super::targets::Target;
use crate::cli::DeployArgs;
use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::git;
use crate::model::Project;
use crate::proxy::{self, Backend, Proxy};

/// The folder of a project, as Compose writes it on its containers.
const FOLDER: &str = "com.docker.compose.project.working_dir";

/// While Compose reads the file: shells in the proxies that share a network with what runs of the project, and whether
/// Compose would touch what it must not, for the service that is most likely meant.
pub fn of_project(docker: &Docker, folder: &Path, args: &DeployArgs) {
    docker.prefetch_manager();
    thread::spawn(git::user_and_host);
    let (docker, folder, args) = (docker.clone(), folder.to_path_buf(), args.clone());
    thread::spawn(move || {
        // Whoever needs them asks again, and tells what is wrong.
        let Ok(containers) = docker.containers() else { return };
        let near = NearbyContainers::of(&containers, &folder);
        docker.open_shells(&near.ids());
        if let Some(service) = near.meant(&args.services).filter(|_| args.image.is_empty()) {
            let its = near.ours.iter().copied().filter(|c| c.compose().is_some_and(|(_, s)| s == service));
            docker.prefetch_collateral(service, total(&its.collect::<Vec<_>>(), scale(&args, service)));
        }
    });
}

/// What runs of a project, and the proxies that share a network with it.
struct NearbyContainers<'a> {
    ours: Vec<&'a Container>,
    proxies: Vec<Box<dyn Proxy>>,
}

impl<'a> NearbyContainers<'a> {
    fn of(containers: &'a [Container], folder: &Path) -> NearbyContainers<'a> {
        let is_ours = |c: &&Container| c.label(FOLDER).is_some_and(|f| Path::new(f) == folder);
        let ours: Vec<&Container> = containers.iter().filter(is_ours).collect();
        let networks: BTreeSet<&str> = ours.iter().flat_map(|c| c.networks()).collect();
        let near = |c: &Container| c.is_running() && c.networks().any(|n| networks.contains(n));
        let proxies = proxy::detect(containers).into_iter().filter(|p| near(p.container())).collect();
        NearbyContainers { ours, proxies }
    }

    /// Ids of the containers that the proxies' adapters ask.
    fn ids(&self) -> Vec<String> {
        self.proxies.iter().map(|p| p.container().id.clone()).collect()
    }

    /// The one service that is named, else the one that proxies route to as far as containers tell, else the only one
    /// there is beside them. A guess costs a command that changes nothing.
    fn meant<'b>(&'b self, named: &'b [String]) -> Option<&'b str> {
        let proxies = self.ids();
        let others = || self.ours.iter().filter(|c| !proxies.contains(&c.id));
        let service = |c: &'b Container| c.compose().map(|(_, service)| service);
        let is_routed = |c: &&&'b Container| {
            let backend = Backend::from(**c);
            proxy::route_setting(&backend).is_some() || self.proxies.iter().any(|p| p.routes_to(&backend))
        };
        let named: BTreeSet<&str> = named.iter().map(String::as_str).collect();
        let routed: BTreeSet<&str> = others().filter(is_routed).filter_map(|c| service(c)).collect();
        let all: BTreeSet<&str> = others().filter_map(|c| service(c)).collect();
        // Words that are no service's are refused later, and docker is not to see them.
        let likely = [named, routed, all.clone()].into_iter().find(|services| !services.is_empty())?;
        likely.first().copied().filter(|service| likely.len() == 1 && all.contains(service))
    }
}

/// Once it is known what is replaced: the images, and whether Compose would touch what it must not.
pub fn of_targets(
    docker: &Docker,
    project: &Project,
    targets: &[Target],
    containers: &[Container],
    args: &DeployArgs,
) {
    let services: BTreeSet<&str> = targets.iter().flat_map(Target::services).collect();
    let images: BTreeSet<&str> = services.iter().map(|s| project.services[*s].image.as_str()).collect();
    images.iter().for_each(|image| docker.prefetch_image(image));
    for target in targets.iter().filter(|t| matches!(t, Target::Service(_))) {
        let (name, service) = (target.name(), &project.services[target.name()]);
        let its = containers.iter().filter(|c| observe::is_member(project, c, &[name]));
        let in_file = service.replicas.map(|n| n as usize);
        docker.prefetch_collateral(name, total(&its.collect::<Vec<_>>(), scale(args, name).or(in_file)));
    }
}

fn scale(args: &DeployArgs, service: &str) -> Option<usize> {
    args.scale.iter().find(|(name, _)| name == service).map(|(_, n)| *n as usize)
}

/// How many instances of a service there are for a moment, where all are replaced at once by as many as are wanted.
fn total(its: &[&Container], wanted: Option<usize>) -> usize {
    let running = its.iter().filter(|c| c.is_running()).count();
    its.len() + wanted.unwrap_or(running).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, service: &str, folder: &str, image: &str, variable: &str) -> Container {
        let labels = format!(
            r#"{{"com.docker.compose.project": "p", "com.docker.compose.service": "{service}", "{FOLDER}": "{folder}"}}"#
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
        NearbyContainers::of(containers, Path::new("/srv/p")).meant(&named).map(String::from)
    }

    #[test]
    fn the_service_that_is_named_or_routed_or_alone_is_meant_and_no_other() {
        let app = || container("1", "app", "/srv/p", "app:1", "A=1");
        let routed = || container("2", "web", "/srv/p", "app:1", "VIRTUAL_HOST=x");
        let other = || container("3", "other", "/srv/other", "app:1", "A=1");
        let proxy = || container("4", "proxy", "/srv/p", "haproxy:3.2", "A=1");
        assert_eq!(meant(&[app(), other(), proxy()], &[]).as_deref(), Some("app"));
        assert_eq!(meant(&[app(), routed(), proxy()], &[]).as_deref(), Some("web"));
        assert_eq!(meant(&[app(), routed(), proxy()], &["app"]).as_deref(), Some("app"));
        // Nothing is guessed where it may be several, and no word that is not a service's reaches docker.
        assert_eq!(meant(&[app(), routed()], &["app", "web"]), None);
        assert_eq!(meant(&[app(), container("5", "db", "/srv/p", "db:1", "A=1")], &[]), None);
        assert_eq!(meant(&[app()], &["--privileged"]), None);
        assert_eq!(meant(&[other()], &["other"]), None);
    }
}
