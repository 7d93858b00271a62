//! Preflight: everything that a deploy is refused for, each with its fix, before any change. `check`, a dry run and
//! a deploy use this list.

mod connections;
mod dependent_containers;
pub mod serving;
mod unknown_proxy;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;

use crate::docker::Docker;
use crate::docker::inspect::{Container, Image};
use crate::error::Error;
use crate::finding::Finding;
use crate::model::{Obstacle, Project, Service};
use crate::observe::{TargetReader, is_member};
use crate::plan::{Plan, Step, Unplannable};
use crate::proxy::{self, Backend, Proxy};
use crate::report::{Report, Warning};
use crate::targets::{Target, backend};

/// First engine version with `start_interval` in healthchecks. Source: Compose refuses the key on an older engine.
const START_INTERVAL: u32 = 25;

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
/// The first obstacle, with its fix.
pub fn targets(project: &Project, targets: &[Target], proxies: &[Arc<dyn Proxy>]) -> Result<(), Error> {
    targets.iter().try_for_each(|target| {
        file(project, target).into_iter().next().map_or(Ok(()), Err)?;
        proxy_runs(project, target, proxies)
    })
}

/// Checks a target by the running containers and the images.
///
/// # Errors
/// Docker cannot be started.
pub fn engine(around: &Surroundings) -> Result<Vec<Finding>> {
    let services = around.services();
    let image = |service: &Service| around.reader.desired.images.get(&service.name);
    let mut refused: Vec<Error> = Vec::new();
    for service in &services {
        let running = |path: &str| {
            let mut its = around.members().filter(|c| c.is_running()).peekable();
            its.peek().is_none() || its.any(|c| c.has_mount(path))
        };
        refused.extend(image_volumes(service, image(service), &running));
        refused.extend(unhealthy_dependency(around, service));
        refused.extend(too_few_ports(service, around.running(service), around.extra_instances));
    }
    refused.extend(needs_newer_engine(around.reader.docker, &services)?);
    refused.extend(out_of_reach(around.reader.project, around.reader.target, around.fronting));
    refused.extend(dependent_containers::errors(around));
    refused.extend(route_not_found(around));
    let mut found: Vec<Finding> = refused.into_iter().map(Finding::from).collect();
    for service in &services {
        found.extend(left_in_anonymous_volume(around, service)?);
    }
    found.extend(unknown_proxy::findings(around)?);
    let orphans = orphans(around.reader, around.containers).into_iter();
    found.extend(orphans.map(|orphan| orphan_route(around.reader.target, orphan)));
    let strangers = strangers(around.reader, around.containers).into_iter();
    found.extend(strangers.map(|found| shared_route(around.reader.target, found)));
    found.extend(crash_loops(around));
    found.extend(connections::notes(around));
    Ok(found)
}

impl Surroundings<'_> {
    fn services(&self) -> Vec<&Service> {
        self.reader.target.services().into_iter().map(|name| &self.reader.project.services[name]).collect()
    }

    /// Containers of the target, running or not.
    fn members(&self) -> impl Iterator<Item = &Container> {
        let services = self.reader.target.services();
        self.containers.iter().filter(move |c| is_member(self.reader.project, c, &services))
    }

    /// Running containers that are not of the target.
    fn others(&self) -> impl Iterator<Item = &Container> {
        let services = self.reader.target.services();
        let is_ours = move |c: &Container| is_member(self.reader.project, c, &services);
        self.containers.iter().filter(move |c| c.is_running() && !is_ours(c))
    }

    fn running(&self, service: &Service) -> usize {
        let its = |c: &&Container| c.is_running() && is_member(self.reader.project, c, &[&service.name]);
        self.containers.iter().filter(its).count()
    }
}

/// Error for a running service whose labels or variables define a route that no proxy of the engine has.
fn route_not_found(around: &Surroundings) -> Option<Error> {
    let runs = around.members().any(Container::is_running);
    let is_said = |s: &&Service| s.settings.proxy.kind.is_some() || s.settings.proxy.container.is_some();
    let services = around.services();
    if !runs || !around.fronting.is_empty() || services.iter().any(is_said) {
        return None;
    }
    let claim =
        |s: &&Service| Some((s.name.clone(), proxy::route_setting(&backend(around.reader.project, s))?));
    let (name, claim) = services.iter().find_map(claim)?;
    let error = Error::unchanged(format!(
        "`{name}` has a route by {claim}, and no proxy on its networks is known to read it: the proxy that routes to it \
         could not be drained"
    ));
    let hint = format!(
        "name the proxy with `--proxy-container NAME --proxy-kind KIND` (`x-zd.proxy`), or put both on one network; \
         without a proxy, deploy with `--proxy-kind none` (`services.{name}.x-zd.proxy.kind: none`)"
    );
    Some(error.hint(hint).rule(&"route-not-found"))
}

/// Error for an unhealthy dependency, for which Compose starts nothing.
fn unhealthy_dependency(around: &Surroundings, service: &Service) -> Option<Error> {
    let project = around.reader.project;
    let failing = service.needs_healthy().find_map(|needed| {
        let its = || around.containers.iter().filter(|c| c.is_running() && is_member(project, c, &[needed]));
        let failing = its().find(|c| c.is_failing())?;
        its().all(Container::is_failing).then_some((needed, failing))
    });
    let (needed, container) = failing?;
    let (name, container) = (&service.name, container.name());
    let error = Error::unchanged(format!(
        "`{needed}` is unhealthy, and `{name}` depends on its health (`services.{name}.depends_on.{needed}.condition`)"
    ));
    let hint = format!("see why with `docker inspect --format '{{{{json .State.Health}}}}' {container}`");
    Some(error.hint(hint).rule(&"dependency-unhealthy"))
}

/// Finding for data in an anonymous volume where a new instance gets a named volume.
fn left_in_anonymous_volume(around: &Surroundings, service: &Service) -> Result<Option<Finding>> {
    let its = |c: &&Container| is_member(around.reader.project, c, &[&service.name]) && c.is_running();
    let left = around.members().filter(its).find_map(|c| {
        let named = |path: &str| service.named_volumes.iter().find(|(_, target)| target == path);
        c.anonymous_volumes().find_map(|(old, path)| Some((c, old, named(path)?)))
    });
    let Some((container, old, (volume, path))) = left else { return Ok(None) };
    if service.settings.anonymous_volumes.is_some() {
        return Ok(None);
    }
    let (instance, old) = (container.name(), &old[..12]);
    let problem = format!(
        "{instance} has the data of {path} in the anonymous volume {old}…, and new instances get `{volume}` there"
    );
    let image = &container.config.image;
    let fix = format!(
        "copy it: `docker run --rm --user 0 --entrypoint cp --volumes-from {instance} --volume {volume}:/new {image} -a {path}/. /new`"
    );
    Ok(Some(if around.reader.docker.has_volume(volume)? {
        Finding::note("anonymous-volume", problem, format!("unless it is copied already, {fix}"))
    } else {
        let error = Error::usage(format!("{problem}, which does not exist yet, so it would be empty"));
        error.hint(fix).rule(&"anonymous-volume").into()
    }))
}

/// Error for a port range with fewer ports than old and new instances together.
fn too_few_ports(service: &Service, running: usize, starting: usize) -> Option<Error> {
    let needed = running + starting;
    let (range, size) = service.port_ranges().into_iter().find(|(_, size)| *size < needed)?;
    let name = &service.name;
    let error = Error::usage(format!(
        "`{name}` publishes host ports {range}: {size} for {running} running and {starting} new instances"
    ));
    let hint = format!(
        "widen the range in `services.{name}.ports` to {needed} ports, or let the proxy reach the container's own port (`expose`)"
    );
    Some(error.hint(hint).rule(&"port-range"))
}

fn needs_newer_engine(docker: &Docker, services: &[&Service]) -> Result<Option<Error>> {
    let Some(service) = services.iter().find(|s| s.has_start_interval()) else { return Ok(None) };
    let version = docker.info()?.server_version;
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    let name = &service.name;
    let error = || {
        Error::usage(format!(
            "`{name}` has a `healthcheck.start_interval`, which Docker Engine {version} does not know, so Compose would create \
             no instance"
        ))
        .hint(format!("remove `services.{name}.healthcheck.start_interval`, or update Docker Engine to 25 or later"))
        .rule(&"start-interval")
    };
    Ok(major.is_some_and(|major| major < START_INTERVAL).then(error))
}

/// Note about crashing instances. They answer no request, so a deploy does no harm.
fn crash_loops(around: &Surroundings) -> Option<Finding> {
    let names: Vec<&str> =
        around.members().filter(|c| c.state.status == "restarting").map(Container::name).collect();
    let problem = format!("{} keeps crashing, and answers no request", names.join(", "));
    let fix = format!("see why with `docker logs {}`; a deploy replaces it", names.first()?);
    Some(Finding::note("crash-loop", problem, fix))
}

/// Errors in the file that keep a new instance from running, alone or beside the old one.
pub fn file(project: &Project, target: &Target) -> Vec<Error> {
    let is_pair = matches!(target, Target::Pair(_));
    // The sides of a pair have their own names and ports.
    let own_to_a_side = |o: &Obstacle| {
        matches!(o, Obstacle::ContainerName(_) | Obstacle::FixedPort(_) | Obstacle::Address(..))
    };
    let of_one = |name: &str| {
        let service = &project.services[name];
        let obstacles = service.obstacles().into_iter().filter(|o| !is_pair || !own_to_a_side(o));
        let none = (service.replicas() == Some(0)).then(|| zero_replicas(name));
        let found = obstacles.map(|o| obstacle_error(&o, name)).chain(none).chain(unknown_kind(service));
        let init = service.pre_start.iter().position(|step| step.per_replica).map(|n| per_replica(name, n));
        let found = found.chain(init);
        let lost = service.anonymous_volumes().into_iter().map(|path| anonymous_volume(service, &path));
        let lost = lost.filter(|_| service.settings.anonymous_volumes.is_none());
        found.chain(lost).collect::<Vec<_>>()
    };
    target.services().into_iter().flat_map(of_one).chain(shared_namespaces(project, target)).collect()
}

/// Errors for services that share the network, processes or volumes of a target's container.
fn shared_namespaces(project: &Project, target: &Target) -> Vec<Error> {
    let replaced = target.services();
    let others = project.services.values().filter(|s| !replaced.contains(&s.name.as_str()));
    let hosts = others.flat_map(|other| other.hosts().into_iter().map(move |(key, host)| (other, key, host)));
    let left = hosts.filter(|(_, _, host)| replaced.contains(&host.as_str()));
    let error = |(other, key, host): (&Service, &str, String)| {
        let other = &other.name;
        let set = if key == "volumes_from" { format!("- {host}") } else { format!("service:{host}") };
        Error::usage(format!(
            "`{other}` runs in the container of `{host}` (`services.{other}.{key}: {set}`), and would stay in the old instance"
        ))
        .hint(format!(
            "give `{other}` its own network and volumes; or recreate both, with downtime: `docker compose up --detach \
             {host} {other}`"
        ))
        .rule(&"shared-namespace")
    };
    left.map(error).collect()
}

fn anonymous_volume(service: &Service, path: &str) -> Error {
    let name = &service.name;
    Error::usage(format!(
        "`{name}` has an anonymous volume at {path}, whose data would stay with the old instance"
    ))
    .hint(format!(
        "give it a name (`services.{name}.volumes: [\"{}:{path}\"]`) and copy the data there, or set \
         `services.{name}.x-zd.anonymous_volumes: fresh` where it is only a cache",
        path.trim_end_matches('/').rsplit('/').next().unwrap_or("data")
    ))
    .rule(&"anonymous-volume")
}

/// Errors for services whose new instances would share no network with a running proxy: the proxy serves the old
/// ones and could not reach the new ones.
fn out_of_reach(project: &Project, target: &Target, proxies: &[Arc<dyn Proxy>]) -> Vec<Error> {
    let services = target.services().into_iter().map(|name| &project.services[name]);
    let pairs = services.flat_map(|service| proxies.iter().map(move |proxy| (service, proxy)));
    let unreachable = pairs.filter(|(service, proxy)| {
        let proxy_networks: Vec<&str> = proxy.container().networks().collect();
        // A proxy on the host's own network reaches every container.
        let anywhere =
            proxy_networks.contains(&"host") || proxy_networks.is_empty() || service.networks.is_empty();
        proxy.container().is_running()
            && !anywhere
            && !service.networks.iter().any(|network| proxy_networks.contains(&network.as_str()))
    });
    unreachable.map(|(service, proxy)| network_apart(service, proxy.as_ref())).collect()
}

/// Containers of services that the file no longer has, and that get requests of a target's route; each with the
/// route.
pub fn orphans(reader: &TargetReader, containers: &[Container]) -> Vec<(Container, String)> {
    let project = reader.project;
    let is_gone = |c: &Container| {
        let service = c.compose().filter(|(name, _)| *name == project.name).map(|(_, service)| service);
        service.is_some_and(|service| !project.services.contains_key(service))
    };
    on_same_route(reader, containers, is_gone)
}

/// Containers of other projects, or started by hand, with the same route.
fn strangers(reader: &TargetReader, containers: &[Container]) -> Vec<(Container, String)> {
    let is_strange = |c: &Container| c.compose().is_none_or(|(name, _)| name != reader.project.name);
    on_same_route(reader, containers, is_strange)
}

/// Running containers that match and get requests of a target's route; each with the route.
fn on_same_route(
    reader: &TargetReader,
    containers: &[Container],
    is_meant: impl Fn(&Container) -> bool,
) -> Vec<(Container, String)> {
    let to_come: Vec<Backend> =
        reader.target.services().iter().map(|s| Backend::from(&reader.preview(s))).collect();
    let route = |container: &Container| {
        let backend = Backend::from(container);
        let fronting = reader.proxies.iter().filter(|p| p.routes_to(&backend));
        let shared = fronting.into_iter().find_map(|proxy| {
            let routes: Vec<_> = to_come.iter().flat_map(|b| proxy.route_to(b).public).collect();
            proxy.route_to(&backend).public.into_iter().find(|entrance| routes.contains(entrance))
        })?;
        Some(format!("{}{}", shared.host.unwrap_or_else(|| "any host".into()), shared.path))
    };
    let meant = containers.iter().filter(|c| c.is_running() && is_meant(c));
    meant.filter_map(|c| Some((c.clone(), route(c)?))).collect()
}

fn shared_route(target: &Target, (container, route): (Container, String)) -> Finding {
    let origin = match container.compose() {
        Some((project, _)) => format!("is of project `{project}`"),
        None => "was started by hand".into(),
    };
    let problem =
        format!("`{}` {origin}, and gets requests for {route}, like `{}`", container.name(), target.name());
    Finding::note(
        "shared-route",
        problem,
        format!("stop `{}`, or give one of them another route", container.name()),
    )
}

fn orphan_route(target: &Target, (orphan, route): (Container, String)) -> Finding {
    let problem = format!(
        "`{}` is of a service that the file no longer has, and gets requests for {route}, like `{}`",
        orphan.name(),
        target.name()
    );
    let fix =
        "once the new release serves, `docker compose up --detach --no-recreate --remove-orphans` removes it";
    Finding::note("orphan-route", problem, fix)
}

fn network_apart(service: &Service, proxy: &dyn Proxy) -> Error {
    let (name, networks) = (&service.name, service.networks.join("`, `"));
    let container = proxy.container().name();
    Error::unchanged(format!(
        "a new instance of `{name}` would be on `{networks}`, and {} is not: the proxy could not reach it",
        proxy.name()
    ))
    .hint(format!(
        "put `services.{name}` on a network of the proxy, or connect the proxy first: `docker network connect {} \
         {container}`",
        service.networks[0]
    ))
    .rule(&"network-apart")
}

/// Errors for anonymous volumes of an image that the file does not mount. A volume that no running instance has
/// holds no data yet.
fn image_volumes(service: &Service, image: Option<&Image>, holds: &dyn Fn(&str) -> bool) -> Vec<Error> {
    if service.settings.anonymous_volumes.is_some() {
        return Vec::new();
    }
    let mounted = |path: &&String| {
        service.mounted_paths().iter().any(|m| m.trim_end_matches('/') == path.trim_end_matches('/'))
    };
    let paths = image.into_iter().flat_map(|image| image.config.volumes.keys());
    paths.filter(|path| !mounted(path) && holds(path)).map(|path| anonymous_volume(service, path)).collect()
}

fn obstacle_error(obstacle: &Obstacle, service: &str) -> Error {
    let rule = match obstacle {
        Obstacle::ContainerName(_) => &"container-name",
        Obstacle::FixedPort(_) => &"fixed-host-port",
        Obstacle::NetworkMode(_) => &"network-mode",
        Obstacle::Address(..) => &"fixed-address",
    };
    let (message, hint) = obstacle.explain(service);
    Error::usage(message).hint(hint).rule(rule)
}

fn zero_replicas(name: &str) -> Error {
    Error::usage(format!("`{name}` is set to 0 instances (`deploy.replicas` or `scale`)"))
        .hint("set it to 1 or more; `docker compose stop` stops a service")
        .rule(&"no-instances")
}

/// Error for `per_replica`, which Compose itself refuses when it starts a service.
fn per_replica(name: &str, n: usize) -> Error {
    Error::usage(format!("`{name}` has `pre_start[{n}].per_replica: true`, which Compose does not run yet"))
        .hint(format!("remove `services.{name}.pre_start[{n}].per_replica`"))
        .rule(&"pre-start-per-replica")
}

fn unknown_kind(service: &Service) -> Option<Error> {
    let known = |kind: &&str| *kind == "none" || proxy::ADAPTERS.iter().any(|adapter| adapter.kind == *kind);
    let kind = service.settings.proxy.kind.as_deref().filter(|kind| !known(kind))?;
    Some(proxy::unknown_kind(kind).rule(&"unknown-proxy-kind"))
}

/// Two active sides of a pair are replaced one after the other, so `container_name` of a side blocks its own
/// replacement.
///
/// # Errors
/// A side with `container_name` while both serve.
pub fn active_sides(project: &Project, target: &Target) -> Result<(), Error> {
    for name in target.services() {
        let named = project.services[name].obstacles().into_iter();
        let mut named = named.filter(|o| matches!(o, Obstacle::ContainerName(_)));
        if let Some(obstacle) = named.next() {
            let error = obstacle_error(&obstacle, name);
            let hint = error.hint.clone().unwrap_or_default();
            return Err(error
                .hint(format!("{hint}; or stop one side, so that each deploy switches between the sides")));
        }
    }
    Ok(())
}

/// Warns if an image would be built with the state folder in it, whose records hold resolved secrets.
pub fn build_contexts(project: &Project, targets: &[Target], state_dir: &Path, report: Report) {
    for service in targets.iter().flat_map(Target::services).map(|s| &project.services[s]) {
        if is_in_build_context(service, state_dir) {
            report.warn(&Warning::StateInBuildContext {
                service: service.name.clone(),
                folder: state_dir.display().to_string(),
            });
        }
    }
}

/// True if the build context of a service includes the state folder.
pub fn is_in_build_context(service: &Service, state_dir: &Path) -> bool {
    let Some(context) = service.build_context().map(PathBuf::from) else {
        return false;
    };
    let Ok(inside) = state_dir.strip_prefix(&context) else {
        return false;
    };
    let ignored = std::fs::read_to_string(context.join(".dockerignore")).unwrap_or_default();
    let first = inside.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned());
    !ignores(&ignored, &inside.to_string_lossy()) && !first.is_some_and(|f| ignores(&ignored, &f))
}

/// True if a `.dockerignore` names a path, in one of the usual forms.
fn ignores(text: &str, path: &str) -> bool {
    let name = |line: &str| {
        line.trim().trim_start_matches("**/").trim_start_matches('/').trim_end_matches('/').to_string()
    };
    text.lines().any(|line| name(line) == path || ["*", "**", ".*"].contains(&name(line).as_str()))
}

/// Fails if the proxy of a target is down, because a deploy would succeed and serve no request.
///
/// # Errors
/// The stopped proxy, with the command that starts it.
pub fn proxy_runs(project: &Project, target: &Target, proxies: &[Arc<dyn Proxy>]) -> Result<(), Error> {
    match proxy_down(project, target, proxies) {
        None => Ok(()),
        Some(StoppedProxy { problem: what, remedy }) => {
            Err(Error::unchanged(format!("{what}; nothing was changed"))
                .hint(format!("{remedy}, or deploy without a proxy with `--proxy-kind none`"))
                .rule(&"proxy-down"))
        }
    }
}

/// Stopped proxy, and the command that starts it.
pub struct StoppedProxy {
    pub problem: String,
    pub remedy: String,
}

/// Stopped proxy in front of a target, if no other one runs there.
pub fn proxy_down(project: &Project, target: &Target, proxies: &[Arc<dyn Proxy>]) -> Option<StoppedProxy> {
    let services: Vec<&Service> = target.services().iter().map(|s| &project.services[*s]).collect();
    let overridden = |s: &&Service| s.settings.proxy.kind.is_some() || s.settings.proxy.container.is_some();
    if services.iter().any(overridden) {
        return None;
    }
    let claims = |s: &&Service| proxy::route_setting(&backend(project, s)).is_some();
    let claimed = services.iter().any(claims);
    let mut fronting: Vec<&dyn Proxy> = proxies.iter().map(AsRef::as_ref).collect();
    fronting.retain(|p| services.iter().any(|s| p.routes_to(&backend(project, s))));
    if fronting.iter().any(|p| p.container().is_running()) {
        return None;
    }
    let down = |what: String, remedy: String| {
        Some(StoppedProxy { problem: format!("{what}, so no request reaches `{}`", target.name()), remedy })
    };
    // The routes of a stopped proxy are unknown, because its configuration cannot be read.
    let stopped = proxies.iter().map(AsRef::as_ref).find(|p| may_route_to(project, &services, *p));
    let own = project.services.values().find(|s| claimed && proxy::is_proxy_image(&s.image));
    match (fronting.first().copied().or(stopped), own) {
        (Some(proxy), _) => down(
            format!("{} is {}", proxy.name(), proxy.container().state.status),
            proxy.container().remedy(),
        ),
        (None, Some(own)) => down(
            format!("the proxy `{}` of this project does not run", own.name),
            format!("start it with `docker compose up --detach --no-deps {}`", own.name),
        ),
        (None, None) => None,
    }
}

/// True if a stopped proxy of the project shares a network with one of these services.
fn may_route_to(project: &Project, services: &[&Service], proxy: &dyn Proxy) -> bool {
    let container = proxy.container();
    let own = container.compose().is_some_and(|(name, _)| name == project.name);
    let reaches = |s: &&Service| s.networks.iter().any(|n| container.networks().any(|own| own == n));
    own && !container.is_running() && services.iter().any(reaches)
}

/// Fails if Compose would stop running containers. It recreates a network whose definition changed, and stops
/// everything on it, before it creates new instances or starts the `down` dependencies.
///
/// # Errors
/// Containers that Compose would stop or remove, by its own dry run.
pub fn collateral(docker: &Docker, plan: &Plan, down: &[&str]) -> Result<()> {
    let mut removed = 0;
    for (step, _) in plan.steps() {
        // Containers that an earlier step removes still exist for a dry run, and would count.
        if let Step::Remove(keys) = step {
            removed += keys.len();
        }
        if let Step::Create { service, total, .. } = step {
            refuse_collateral(
                &docker.collateral(service, total + removed)?,
                &format!("create a new instance of `{service}`"),
            )?;
        }
    }
    match down {
        [] => Ok(()),
        down => {
            Ok(refuse_collateral(&docker.collateral_of_start(down)?, &format!("start {}", down.join(", ")))?)
        }
    }
}

fn refuse_collateral(lost: &[String], purpose: &str) -> Result<(), Error> {
    if lost.is_empty() {
        return Ok(());
    }
    Err(Error::unchanged(format!("Compose would stop running containers in order to {purpose}; nothing was changed"))
        .detail(&lost.join("\n"))
        .hint(
            "the definition of a network changed: give the new network another name in the file, so that both can \
             exist, or take the downtime with `docker compose up --detach`",
        )
        .rule(&"network-changed"))
}

impl From<Unplannable> for Error {
    fn from(unplannable: Unplannable) -> Self {
        Error::usage(format!("`{}` {}", unplannable.service, unplannable.reason))
            .hint(unplannable.fix)
            .rule(&"stop-first-alone")
    }
}
