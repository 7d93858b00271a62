//! What a deploy is going to ask for is asked while it waits for something else.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;

use super::asked::Target;
use super::scene;
use crate::cli::DeployArgs;
use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::model::Project;
use crate::proxy;

/// The folder of a project, as Compose writes it on its containers.
const FOLDER: &str = "com.docker.compose.project.working_dir";

/// While Compose reads the file: its hashes, and shells in the proxies that share a network with what runs of the project.
pub fn of_project(docker: &Docker, folder: &Path) {
    docker.expect_project();
    let (docker, folder) = (docker.clone(), folder.to_path_buf());
    thread::spawn(move || {
        // Whoever needs them asks again, and tells what is wrong.
        let Ok(containers) = docker.containers() else { return };
        docker.open_shells(&proxies(&containers, &folder));
    });
}

/// Ids of the containers that adapters of such proxies ask.
fn proxies(containers: &[Container], folder: &Path) -> Vec<String> {
    let ours = |c: &&Container| c.label(FOLDER).is_some_and(|f| Path::new(f) == folder);
    let networks: BTreeSet<&str> = containers.iter().filter(ours).flat_map(Container::networks).collect();
    let near = |c: &Container| c.is_running() && c.networks().any(|n| networks.contains(n));
    let all = proxy::detect(containers).into_iter().filter(|p| near(p.container()));
    all.map(|p| p.container().id.clone()).collect()
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
    images.iter().for_each(|image| docker.expect_image(image));
    for target in targets.iter().filter(|t| matches!(t, Target::Service(_))) {
        docker.expect_collateral(target.name(), total(project, target.name(), containers, args));
    }
}

/// How many there are for a moment, where all are replaced at once.
fn total(project: &Project, service: &str, containers: &[Container], args: &DeployArgs) -> usize {
    let its: Vec<&Container> =
        containers.iter().filter(|c| scene::is_member(project, c, &[service])).collect();
    let running = its.iter().filter(|c| c.is_running()).count();
    let flag = args.scale.iter().find(|(name, _)| name == service).map(|(_, n)| *n as usize);
    let in_file = project.services[service].replicas.map(|n| n as usize);
    its.len() + flag.or(in_file).unwrap_or(running).max(1)
}
