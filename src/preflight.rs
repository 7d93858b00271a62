//! Preflight: everything that a deploy is refused for or would lose, each with its fix, before any change. `check`, a
//! dry run and a deploy use these findings.

mod compose;
mod connections;
mod dependent_containers;
pub mod disk;
pub mod file;
pub mod memory;
pub mod proxies;
mod proxy_files;
pub mod readiness;
pub mod service;
pub mod signals;
mod unknown_proxy;
pub mod versions;

use std::sync::Arc;

use anyhow::Result;

pub use compose::collateral;
pub use unknown_proxy::routes_to;

use crate::docker::inspect::Container;
use crate::error::Error;
use crate::finding::{self, Finding};
use crate::model::{Project, Service};
use crate::observe::TargetReader;
use crate::proxy::Proxy;
use crate::targets::Target;
use crate::targets::is_member;

/// Target with the running containers around it.
pub struct Surroundings<'a> {
    pub reader: &'a TargetReader<'a>,
    /// Running proxies in front of the target.
    pub fronting: &'a [Arc<dyn Proxy>],
    /// All proxies of the engine that have an adapter.
    pub proxies: &'a [Arc<dyn Proxy>],
    /// All containers of the engine.
    pub containers: &'a [Container],
    /// Highest number of additional instances at a time.
    pub extra_instances: usize,
}

/// Checks every target by the file and the proxies.
///
/// # Errors
/// The first refusal, with its fix.
pub fn targets(project: &Project, targets: &[Target], proxies: &[Arc<dyn Proxy>]) -> Result<(), Error> {
    targets.iter().try_for_each(|target| {
        let down = proxies::down(project, target, proxies).map(Finding::nothing_changed);
        finding::require(file::findings(project, target, proxies).into_iter().chain(down)).map(|_| ())
    })
}

/// Findings of a target by the running containers and the images.
///
/// # Errors
/// Docker cannot be started.
pub fn running(around: &Surroundings) -> Result<Vec<Finding>> {
    let services = around.services();
    let mut found = Vec::new();
    for service in &services {
        found.extend(image_volumes(around, service));
        found.extend(unhealthy_dependency(around, service));
        found.extend(too_few_ports(around, service));
    }
    found.extend(needs_newer_engine(around, &services)?);
    found.extend(proxies::out_of_reach(around));
    found.extend(dependent_containers::findings(around));
    found.extend(proxies::route_not_found(around));
    for service in &services {
        found.extend(left_in_anonymous_volume(around, service)?);
    }
    found.extend(unknown_proxy::findings(around)?);
    found.extend(proxies::shared_routes(around));
    found.extend(proxy_files::findings(around)?);
    found.extend(crash_loops(around));
    found.extend(connections::findings(around));
    Ok(found.into_iter().map(|finding| finding.of_service(&services[0].name)).collect())
}

impl<'a> Surroundings<'a> {
    fn services(&self) -> Vec<&'a Service> {
        self.reader.target.services().into_iter().map(|name| &self.reader.project.services[name]).collect()
    }

    /// Containers of the target, running or not.
    fn members(&self) -> impl Iterator<Item = &'a Container> {
        let (project, services) = (self.reader.project, self.reader.target.services());
        self.containers.iter().filter(move |c| is_member(project, c, &services))
    }

    /// Running containers that are not of the target. Pins of a killed run end by themselves.
    fn others(&self) -> impl Iterator<Item = &'a Container> {
        let (project, services) = (self.reader.project, self.reader.target.services());
        let others = self.containers.iter().filter(|c| c.is_running() && !c.is_pin());
        others.filter(move |c| !is_member(project, c, &services))
    }

    /// Running instances of a service of the project.
    fn instances(&self, service: &str) -> impl Iterator<Item = &'a Container> {
        let project = self.reader.project;
        self.containers.iter().filter(move |c| c.is_running() && is_member(project, c, &[service]))
    }
}

/// Findings for anonymous volumes of an image that the file does not mount. A volume that no running instance has
/// holds no data yet.
fn image_volumes(around: &Surroundings, service: &Service) -> Vec<Finding> {
    let has_data = |path: &str| {
        let mut running = around.members().filter(|c| c.is_running()).peekable();
        running.peek().is_none() || running.any(|c| c.has_mount(path))
    };
    let plain = |path: &str| path.trim_end_matches('/').to_string();
    let is_mounted = |path: &str| service.mounted_paths().iter().any(|m| plain(m) == plain(path));
    let image = around.reader.desired.images.get(&service.name);
    let paths = image.into_iter().flat_map(|image| image.config.volumes.keys());
    let lost = paths.filter(|path| !is_mounted(path) && has_data(path));
    lost.filter_map(|path| file::anonymous_volume(service, path)).collect()
}

/// Finding for an unhealthy dependency, for which Compose starts nothing.
fn unhealthy_dependency(around: &Surroundings, service: &Service) -> Option<Finding> {
    let failing = |needed: &String| {
        let first = around.instances(needed).find(|c| c.is_failing())?;
        around.instances(needed).all(Container::is_failing).then_some(first.name())
    };
    let name = &service.name;
    let (needed, container) = service.needs_healthy().find_map(|n| Some((n, failing(n)?)))?;
    let message = format!(
        "`{needed}` is unhealthy, and `{name}` depends on its health (`services.{name}.depends_on.{needed}.condition`)"
    );
    let hint = format!("see why with `docker inspect --format '{{{{json .State.Health}}}}' {container}`");
    Some(Finding::unchanged("dependency-unhealthy", message, hint).of_service(name))
}

/// Finding for a port range with fewer ports than old and new instances together.
fn too_few_ports(around: &Surroundings, service: &Service) -> Option<Finding> {
    let name = &service.name;
    let (running, starting) = (around.instances(name).count(), around.extra_instances);
    let needed = running + starting;
    let (range, size) = service.port_ranges().into_iter().find(|(_, size)| *size < needed)?;
    let message = format!(
        "`{name}` publishes host ports {range}: {size} for {running} running and {starting} new instances"
    );
    let hint = format!(
        "widen the range in `services.{name}.ports` to {needed} ports, or let the proxy reach the container's own port (`expose`)"
    );
    Some(Finding::usage("port-range", message, hint).of_service(name))
}

/// First engine version with `start_interval` in healthchecks. Source: Compose refuses the key on an older engine.
const START_INTERVAL: u32 = 25;

fn needs_newer_engine(around: &Surroundings, services: &[&Service]) -> Result<Option<Finding>> {
    let Some(service) = services.iter().find(|s| s.has_start_interval()) else { return Ok(None) };
    let version = around.reader.docker.info()?.server_version;
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    let name = &service.name;
    let message = format!(
        "`{name}` has a `healthcheck.start_interval`, which Docker Engine {version} does not know, so Compose would create \
         no instance"
    );
    let hint = format!(
        "remove `services.{name}.healthcheck.start_interval`, or update Docker Engine to 25 or later"
    );
    let is_too_old = major.is_some_and(|major| major < START_INTERVAL);
    Ok(is_too_old.then(|| Finding::usage("start-interval", message, hint).of_service(name)))
}

/// Finding for data in an anonymous volume where a new instance gets a named volume.
fn left_in_anonymous_volume(around: &Surroundings, service: &Service) -> Result<Option<Finding>> {
    let named = |path: &str| service.named_volumes.iter().find(|(_, target)| target == path);
    let left = around
        .instances(&service.name)
        .find_map(|c| c.anonymous_volumes().find_map(|(old, path)| Some((c, old, named(path)?))));
    let left = left.filter(|_| service.settings.anonymous_volumes.is_none());
    let Some((container, old, (volume, path))) = left else { return Ok(None) };
    let (instance, old, image) = (container.name(), &old[..12], &container.config.image);
    let message = format!(
        "{instance} has the data of {path} in the anonymous volume {old}…, and new instances get `{volume}` there"
    );
    let hint = format!(
        "copy it: `docker run --rm --user 0 --entrypoint cp --volumes-from {instance} --volume {volume}:/new {image} -a {path}/. /new`"
    );
    let finding = if around.reader.docker.has_volume(volume)? {
        Finding::note("anonymous-volume", message, format!("unless it is copied already, {hint}"))
    } else {
        let message = format!("{message}, which does not exist yet, so it would be empty");
        Finding::usage("anonymous-volume", message, hint)
    };
    Ok(Some(finding.of_service(&service.name)))
}

/// Note about crashing instances. They answer no request, so a deploy does no harm.
fn crash_loops(around: &Surroundings) -> Option<Finding> {
    let crashing = around.members().filter(|c| c.state.status == "restarting");
    let names: Vec<&str> = crashing.map(Container::name).collect();
    let message = format!("{} keeps crashing, and answers no request", names.join(", "));
    let hint = format!("see why with `docker logs {}`; a deploy replaces it", names.first()?);
    Some(Finding::note("crash-loop", message, hint))
}

/// Places where a text has a name as a whole word: the text before and after it.
fn whole_words<'t>(text: &'t str, name: &str) -> impl Iterator<Item = (&'t str, &'t str)> {
    let is_name_char = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let around = text.match_indices(name).map(|(at, found)| (&text[..at], &text[at + found.len()..]));
    let places =
        around.filter(|(before, after)| !before.ends_with(is_name_char) && !after.starts_with(is_name_char));
    places.collect::<Vec<_>>().into_iter()
}
