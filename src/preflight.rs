//! The one list of what a deploy is refused for: `check`, a dry run and a deploy read it. What a deploy can be refused for is
//! found here, before anything is touched, each with its fix.

mod attached;
mod connections;
mod unknown_proxy;

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;

use crate::deploy::observe::{TargetReader, is_member};
use crate::deploy::targets::{Target, backend};
use crate::docker::Docker;
use crate::docker::inspect::{Container, Image};
use crate::error::{Error, Risk};
use crate::model::{Obstacle, Project, Service};
use crate::plan::{Plan, Step, Unplannable};
use crate::proxy::{self, Backend, Proxy};
use crate::report::{Report, Warning};

/// Something of a target that a deploy is refused for, or that is said before it.
pub enum PreflightFinding {
    Refused(Error),
    Note(Risk),
}

/// The first engine whose healthchecks have a `start_interval`. Source: Compose refuses it on an older one.
const START_INTERVAL: u32 = 25;

/// A target, and what runs around it.
pub struct Surroundings<'a> {
    pub reader: &'a TargetReader<'a>,
    /// Proxies in front of it that run.
    pub fronting: &'a [Arc<dyn Proxy>],
    /// All of the engine's that have an adapter.
    pub known: &'a [Arc<dyn Proxy>],
    /// All of the engine's.
    pub containers: &'a [Container],
    /// Instances that run beside the present ones at a time, at most.
    pub starting: usize,
}

/// Everything that can be told from the file and the proxies, for every target.
///
/// # Errors
/// The first obstacle, with its fix.
pub fn targets(project: &Project, targets: &[Target], proxies: &[Arc<dyn Proxy>]) -> Result<(), Error> {
    targets.iter().try_for_each(|target| {
        file(project, target).into_iter().next().map_or(Ok(()), Err)?;
        proxy_runs(project, target, proxies)
    })
}

/// Everything that can be told from what runs and from the images.
///
/// # Errors
/// Docker cannot be started.
pub fn engine(around: &Surroundings) -> Result<Vec<PreflightFinding>> {
    let services = around.services();
    let image = |service: &Service| around.reader.wanted.images.get(&service.name);
    let mut refused: Vec<Error> = Vec::new();
    for service in &services {
        let running = |path: &str| {
            let mut its = around.members().filter(|c| c.is_running()).peekable();
            its.peek().is_none() || its.any(|c| c.has_mount(path))
        };
        refused.extend(volumes_of_image(service, image(service), &running));
        refused.extend(unhealthy_dependency(around, service));
        refused.extend(too_few_ports(service, around.running(service), around.starting));
    }
    refused.extend(needs_newer_engine(around.reader.docker, &services)?);
    refused.extend(out_of_reach(around.reader.project, around.reader.target, around.fronting));
    refused.extend(attached::faults(around));
    refused.extend(route_not_found(around));
    let mut found: Vec<PreflightFinding> = refused.into_iter().map(PreflightFinding::Refused).collect();
    for service in &services {
        found.extend(left_in_anonymous_volume(around, service)?);
    }
    found.extend(unknown_proxy::findings(around)?);
    let orphans = orphans(around.reader, around.containers).into_iter();
    found.extend(orphans.map(|orphan| PreflightFinding::Note(orphaned(around.reader.target, orphan))));
    let strangers = strangers(around.reader, around.containers).into_iter();
    found.extend(strangers.map(|found| PreflightFinding::Note(stranger(around.reader.target, found))));
    found.extend(crash_loops(around).into_iter().map(PreflightFinding::Note));
    found.extend(connections::notes(around).into_iter().map(PreflightFinding::Note));
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

    /// Containers that run, and are none of the target's.
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

/// A route that a service asks for while it runs, and that no proxy of the engine gives it.
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
        "`{name}` asks for a route by {claim}, and no proxy that is known to go by that shares a network with it: whatever \
         routes to it could not be drained"
    ));
    let hint = format!(
        "name the proxy with `--proxy-container NAME --proxy-kind KIND` (`x-zd.proxy`), or put both on one network; where \
         there is none, deploy with `--proxy-kind none` (`services.{name}.x-zd.proxy.kind: none`)"
    );
    Some(error.hint(hint).rule(&"route-not-found"))
}

/// Compose starts nothing whose dependency is unhealthy.
fn unhealthy_dependency(around: &Surroundings, service: &Service) -> Option<Error> {
    let project = around.reader.project;
    let failing = service.needs_healthy.iter().find_map(|needed| {
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

/// Data of a running instance in an anonymous volume, where the new one gets a named volume at the same path.
fn left_in_anonymous_volume(around: &Surroundings, service: &Service) -> Result<Option<PreflightFinding>> {
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
    let says = format!(
        "{instance} has the data of {path} in the anonymous volume {old}…, and new instances get `{volume}` there"
    );
    let image = &container.config.image;
    let fix = format!(
        "copy it: `docker run --rm --user 0 --entrypoint cp --volumes-from {instance} --volume {volume}:/new {image} -a {path}/. /new`"
    );
    Ok(Some(match around.reader.docker.has_volume(volume)? {
        true => PreflightFinding::Note(Risk::note(
            "anonymous-volume",
            says,
            format!("unless that is done, {fix}"),
        )),
        false => {
            let error = Error::usage(format!("{says}, which is not there yet, so it would be empty"));
            PreflightFinding::Refused(error.hint(fix).rule(&"anonymous-volume"))
        }
    }))
}

/// Old and new instances together need a host port each.
fn too_few_ports(service: &Service, running: usize, starting: usize) -> Option<Error> {
    let needed = running + starting;
    let (range, size) = service.port_ranges.iter().find(|(_, size)| *size < needed)?;
    let name = &service.name;
    let error = Error::usage(format!(
        "`{name}` publishes host ports {range}, which is {size} for {running} running and {starting} new instances"
    ));
    let hint = format!(
        "widen the range in `services.{name}.ports` to {needed} ports, or let the proxy reach the container's own port (`expose`)"
    );
    Some(error.hint(hint).rule(&"port-range"))
}

fn needs_newer_engine(docker: &Docker, services: &[&Service]) -> Result<Option<Error>> {
    let Some(service) = services.iter().find(|s| s.has_start_interval) else { return Ok(None) };
    let version = docker.host_info()?.version;
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

/// Instances that crash over and over answer no request, which a deploy does not make worse.
fn crash_loops(around: &Surroundings) -> Option<Risk> {
    let names: Vec<&str> =
        around.members().filter(|c| c.state.status == "restarting").map(Container::name).collect();
    let says = format!("{} crashes over and over, and answers no request", names.join(", "));
    let fix = format!("see why with `docker logs {}`; a deploy replaces it", names.first()?);
    Some(Risk::note("crash-loop", says, fix))
}

/// Everything in the file that keeps a new instance from running beside the old one, or at all.
pub fn file(project: &Project, target: &Target) -> Vec<Error> {
    let is_pair = matches!(target, Target::Pair(_));
    // The sides of a pair have names and ports of their own.
    let own_to_a_side = |o: &Obstacle| {
        matches!(o, Obstacle::ContainerName(_) | Obstacle::FixedPort(_) | Obstacle::Address(..))
    };
    let of_one = |name: &str| {
        let service = &project.services[name];
        let obstacles = service.obstacles().into_iter().filter(|o| !is_pair || !own_to_a_side(o));
        let none = (service.replicas == Some(0)).then(|| none_wanted(name));
        let found = obstacles.map(|o| obstructed(&o, name)).chain(none).chain(unknown_kind(service));
        let init = service.pre_start.iter().position(|step| step.per_replica).map(|n| per_replica(name, n));
        let found = found.chain(init);
        let lost = service.anonymous_volumes.iter().map(|path| volume_lost(service, path));
        let lost = lost.filter(|_| service.settings.anonymous_volumes.is_none());
        found.chain(lost).collect::<Vec<_>>()
    };
    target.services().into_iter().flat_map(of_one).chain(left_behind(project, target)).collect()
}

/// Services that live in the container of one of these: in its network, its processes or its volumes.
fn left_behind(project: &Project, target: &Target) -> Vec<Error> {
    let replaced = target.services();
    let others = project.services.values().filter(|s| !replaced.contains(&s.name.as_str()));
    let hosts = others.flat_map(|other| other.hosts.iter().map(move |(key, host)| (other, key, host)));
    let left = hosts.filter(|(_, _, host)| replaced.contains(&host.as_str()));
    let error = |(other, key, host): (&Service, &&str, &String)| {
        let other = &other.name;
        let set = if *key == "volumes_from" { format!("- {host}") } else { format!("service:{host}") };
        Error::usage(format!(
            "`{host}` is the host of `{other}` (`services.{other}.{key}: {set}`), which would stay behind in the old instance"
        ))
        .hint(format!(
            "give `{other}` a network and volumes of its own; or recreate both, with the downtime that takes, by `docker \
             compose up --detach {host} {other}`"
        ))
        .rule(&"shared-namespace")
    };
    left.map(error).collect()
}

fn volume_lost(service: &Service, path: &str) -> Error {
    let name = &service.name;
    Error::usage(format!(
        "`{name}` has an anonymous volume at {path}, whose data would stay behind with the old instance"
    ))
    .hint(format!(
        "give it a name (`services.{name}.volumes: [\"{}:{path}\"]`) and copy the data there, or set \
         `services.{name}.x-zd.anonymous_volumes: fresh` where it is only a cache",
        path.trim_end_matches('/').rsplit('/').next().unwrap_or("data")
    ))
    .rule(&"anonymous-volume")
}

/// Services whose new instances would share no network with a proxy that runs: it could not send them a request, though it
/// serves the old ones.
fn out_of_reach(project: &Project, target: &Target, proxies: &[Arc<dyn Proxy>]) -> Vec<Error> {
    let services = target.services().into_iter().map(|name| &project.services[name]);
    let pairs = services.flat_map(|service| proxies.iter().map(move |proxy| (service, proxy)));
    let apart = pairs.filter(|(service, proxy)| {
        let theirs: Vec<&str> = proxy.container().networks().collect();
        // One on the host's own network reaches all.
        let anywhere = theirs.contains(&"host") || theirs.is_empty() || service.networks.is_empty();
        proxy.container().is_running()
            && !anywhere
            && !service.networks.iter().any(|network| theirs.contains(&network.as_str()))
    });
    apart.map(|(service, proxy)| not_reached(service, proxy.as_ref())).collect()
}

/// Containers of services that the file has no more, which the proxies send requests of a target's route to, with the route.
pub fn orphans(reader: &TargetReader, containers: &[Container]) -> Vec<(Container, String)> {
    let project = reader.project;
    let is_gone = |c: &Container| {
        let service = c.compose().filter(|(name, _)| *name == project.name).map(|(_, service)| service);
        service.is_some_and(|service| !project.services.contains_key(service))
    };
    on_its_route(reader, containers, is_gone)
}

/// Containers of other projects, or that were run by hand, with the same route.
fn strangers(reader: &TargetReader, containers: &[Container]) -> Vec<(Container, String)> {
    let is_strange = |c: &Container| c.compose().is_none_or(|(name, _)| name != reader.project.name);
    on_its_route(reader, containers, is_strange)
}

/// Those that run of these, and that get requests of a target's route.
fn on_its_route(
    reader: &TargetReader,
    containers: &[Container],
    is_meant: impl Fn(&Container) -> bool,
) -> Vec<(Container, String)> {
    let to_come: Vec<Container> = reader.target.services().iter().map(|s| reader.preview(s)).collect();
    let route = |container: &Container| {
        let fronting = reader.proxies.iter().filter(|p| p.routes_to(&Backend::from(container)));
        let shared = fronting.into_iter().find_map(|proxy| {
            let routes: Vec<_> = to_come.iter().flat_map(|c| proxy.entrances(c)).collect();
            proxy.entrances(container).into_iter().find(|entrance| routes.contains(entrance))
        })?;
        Some(format!("{}{}", shared.host.unwrap_or_else(|| "any host".into()), shared.path))
    };
    let meant = containers.iter().filter(|c| c.is_running() && is_meant(c));
    meant.filter_map(|c| Some((c.clone(), route(c)?))).collect()
}

fn stranger(target: &Target, (container, route): (Container, String)) -> Risk {
    let whose = match container.compose() {
        Some((project, _)) => format!("is of project `{project}`"),
        None => "was run by hand".into(),
    };
    let says =
        format!("`{}` {whose}, and gets requests for {route} as `{}` does", container.name(), target.name());
    Risk::note(
        "shared-route",
        says,
        format!("stop `{}`, or give one of them another route", container.name()),
    )
}

fn orphaned(target: &Target, (orphan, route): (Container, String)) -> Risk {
    let says = format!(
        "`{}` is of a service that the file has no more, and gets requests for {route} as `{}` does",
        orphan.name(),
        target.name()
    );
    let fix =
        "once the new release serves, `docker compose up --detach --no-recreate --remove-orphans` removes it";
    Risk::note("orphan-route", says, fix)
}

fn not_reached(service: &Service, proxy: &dyn Proxy) -> Error {
    let (name, networks) = (&service.name, service.networks.join("`, `"));
    let container = proxy.container().name();
    Error::unchanged(format!(
        "a new instance of `{name}` would be on `{networks}`, where {} is not: it could send it no request",
        proxy.name()
    ))
    .hint(format!(
        "put `services.{name}` on a network of the proxy, or the proxy on this one first: `docker network connect {} \
         {container}`",
        service.networks[0]
    ))
    .rule(&"network-apart")
}

/// The anonymous volumes that the image of a service asks for, where the file mounts nothing else there.
/// What no instance that runs has holds no data yet.
fn volumes_of_image(service: &Service, image: Option<&Image>, holds: &dyn Fn(&str) -> bool) -> Vec<Error> {
    if service.settings.anonymous_volumes.is_some() {
        return Vec::new();
    }
    let mounted = |path: &&String| {
        service.mounted_paths.iter().any(|m| m.trim_end_matches('/') == path.trim_end_matches('/'))
    };
    let paths = image.into_iter().flat_map(|image| image.config.volumes.keys());
    paths.filter(|path| !mounted(path) && holds(path)).map(|path| volume_lost(service, path)).collect()
}

fn obstructed(obstacle: &Obstacle, service: &str) -> Error {
    let rule = match obstacle {
        Obstacle::ContainerName(_) => &"container-name",
        Obstacle::FixedPort(_) => &"fixed-host-port",
        Obstacle::NetworkMode(_) => &"network-mode",
        Obstacle::Address(..) => &"fixed-address",
    };
    let (message, hint) = obstacle.explain(service);
    Error::usage(message).hint(hint).rule(rule)
}

fn none_wanted(name: &str) -> Error {
    Error::usage(format!("`{name}` is set to 0 instances (`deploy.replicas` or `scale`)"))
        .hint("set it to 1 or more; `docker compose stop` stops a service")
        .rule(&"no-instances")
}

/// Compose itself refuses it, when it starts a service.
fn per_replica(name: &str, n: usize) -> Error {
    Error::usage(format!("`{name}` has `pre_start[{n}].per_replica: true`, which Compose does not run yet"))
        .hint(format!("remove `services.{name}.pre_start[{n}].per_replica`"))
        .rule(&"pre-start-per-replica")
}

fn unknown_kind(service: &Service) -> Option<Error> {
    let known = |kind: &&str| *kind == "none" || proxy::KINDS.contains(kind);
    let kind = service.settings.proxy.kind.as_deref().filter(|kind| !known(kind))?;
    Some(proxy::unknown_kind(kind).rule(&"unknown-proxy-kind"))
}

/// Both sides of a pair are replaced one after the other in service, so a side's container name is in its own way.
///
/// # Errors
/// A side with `container_name` while both serve.
pub fn active_sides(project: &Project, target: &Target) -> Result<(), Error> {
    for name in target.services() {
        let named = project.services[name].obstacles().into_iter();
        let mut named = named.filter(|o| matches!(o, Obstacle::ContainerName(_)));
        if let Some(obstacle) = named.next() {
            let error = obstructed(&obstacle, name);
            let hint = error.hint.clone().unwrap_or_default();
            return Err(error.hint(format!(
                "{hint}; or stop one side, which then takes over from the other at each deploy"
            )));
        }
    }
    Ok(())
}

/// Says where an image would be built with the state folder in it: its records hold resolved secrets.
pub fn build_contexts(project: &Project, targets: &[Target], state_dir: &Path, report: Report) {
    for service in targets.iter().flat_map(Target::services).map(|s| &project.services[s]) {
        if is_in_build_context(service, state_dir) {
            report.warn(&Warning::InBuildContext {
                service: service.name.clone(),
                folder: state_dir.display().to_string(),
            });
        }
    }
}

/// Whether a service's image is built with the state folder in it.
pub fn is_in_build_context(service: &Service, state_dir: &Path) -> bool {
    let Some(context) = service.build_context.as_ref().map(Path::new) else {
        return false;
    };
    let Ok(inside) = state_dir.strip_prefix(context) else {
        return false;
    };
    let ignored = std::fs::read_to_string(context.join(".dockerignore")).unwrap_or_default();
    let first = inside.components().next().map(|c| c.as_os_str().to_string_lossy().into_owned());
    !ignores(&ignored, &inside.to_string_lossy()) && !first.is_some_and(|f| ignores(&ignored, &f))
}

/// Whether a `.dockerignore` names a path, in one of the ways people write it.
fn ignores(text: &str, path: &str) -> bool {
    let name = |line: &str| {
        line.trim().trim_start_matches("**/").trim_start_matches('/').trim_end_matches('/').to_string()
    };
    text.lines().any(|line| name(line) == path || ["*", "**", ".*"].contains(&name(line).as_str()))
}

/// A service that asks for a route, and its proxy is there but down: a deploy would look fine and serve nobody.
///
/// # Errors
/// The proxy that is down, with the command that starts it.
pub fn proxy_runs(project: &Project, target: &Target, proxies: &[Arc<dyn Proxy>]) -> Result<(), Error> {
    match proxy_down(project, target, proxies) {
        None => Ok(()),
        Some(StoppedProxy { what, remedy }) => Err(Error::unchanged(format!("{what}; nothing was changed"))
            .hint(format!("{remedy}, or deploy without a proxy with `--proxy-kind none`"))
            .rule(&"proxy-down")),
    }
}

/// A proxy that does not run, and what to do about it.
pub struct StoppedProxy {
    pub what: String,
    pub remedy: String,
}

/// The proxy in front of a target, where none runs.
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
        Some(StoppedProxy { what: format!("{what}, so nobody reaches `{}`", target.name()), remedy })
    };
    // What a proxy that is down routes to is in its configuration, which cannot be read now.
    let stopped = proxies.iter().map(AsRef::as_ref).find(|p| may_front(project, &services, *p));
    let own = project.services.values().find(|s| claimed && proxy::is_proxy_image(&s.image));
    match (fronting.first().copied().or(stopped), own) {
        (Some(proxy), _) => {
            down(format!("{} is {}", proxy.name(), proxy.container().state.status), remedy(proxy.container()))
        }
        (None, Some(own)) => down(
            format!("the proxy `{}` of this project does not run", own.name),
            format!("start it with `docker compose up --detach --no-deps {}`", own.name),
        ),
        (None, None) => None,
    }
}

/// Whether a proxy of the project that is down shares a network with one of these services.
fn may_front(project: &Project, services: &[&Service], proxy: &dyn Proxy) -> bool {
    let container = proxy.container();
    let own = container.compose().is_some_and(|(name, _)| name == project.name);
    let reaches = |s: &&Service| s.networks.iter().any(|n| container.networks().any(|own| own == n));
    own && !container.is_running() && services.iter().any(reaches)
}

/// What to do about a container that does not run.
pub fn remedy(container: &Container) -> String {
    let name = container.name();
    match container.state.status.as_str() {
        "restarting" => format!("see why it ends with `docker logs --tail 20 {name}`"),
        "paused" => format!("start it with `docker unpause {name}`"),
        _ => format!("start it with `docker start {name}`"),
    }
}

/// Compose recreates a network whose definition changed, and stops everything on it, before it creates anything: the
/// new instances, or what they depend on and is `down`.
///
/// # Errors
/// What Compose would stop or remove, by its own dry run.
pub fn collateral(docker: &Docker, plan: &Plan, down: &[&str]) -> Result<()> {
    let mut removed = 0;
    for (step, _) in &plan.steps {
        // Its containers that an earlier step removes are still there for a dry run, and would count.
        if let Step::Remove(keys) = step {
            removed += keys.len();
        }
        if let Step::Create { service, total, .. } = step {
            nothing_lost(
                &docker.collateral(service, total + removed)?,
                &format!("create a new instance of `{service}`"),
            )?;
        }
    }
    match down {
        [] => Ok(()),
        down => Ok(nothing_lost(&docker.collateral_of_start(down)?, &format!("start {}", down.join(", ")))?),
    }
}

fn nothing_lost(lost: &[String], purpose: &str) -> Result<(), Error> {
    if lost.is_empty() {
        return Ok(());
    }
    Err(Error::unchanged(format!("Compose would stop what runs in order to {purpose}; nothing was changed"))
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
