//! Findings on the proxies in front of a target: one that is down, out of reach or not found, routes that another
//! container shares, and what a proxy's own configuration refuses or loses.

use std::sync::Arc;

use super::Surroundings;
use crate::docker::inspect::Container;
use crate::finding::Finding;
use crate::model::{Project, Service, image_name};
use crate::observe::TargetReader;
use crate::proxy::{self, Backend, Proxy, RolloutShape};
use crate::targets::{Target, backend, is_member};

/// Names of images and first processes of proxies without an adapter.
const PROXIES: [&str; 15] = [
    "nginx",
    "openresty",
    "tengine",
    "httpd",
    "apache2",
    "apache2ctl",
    "envoy",
    "kong",
    "swag",
    "nginx-proxy-manager",
    "cloudflared",
    "newt",
    "varnish",
    "varnishd",
    "squid",
];

/// Variables of common base images.
const VERSIONS: [&str; 2] = ["NGINX_VERSION", "HTTPD_VERSION"];

/// Shape of a rollout that starts `starting` instances at a time and ends with `serving` ones, beside services with
/// `other_names`.
pub fn shape(
    reader: &TargetReader,
    containers: &[Container],
    (starting, serving): (usize, usize),
    other_names: Vec<String>,
) -> RolloutShape {
    let backends = reader.backends(containers);
    let first = &reader.project.services[reader.target.services()[0]];
    RolloutShape {
        tune: first.settings.proxy.tune.unwrap_or(true),
        project: reader.project.name.clone(),
        starting,
        serving,
        services: reader.names(&backends),
        backends,
        names_in_same_run: other_names,
    }
}

/// Finding for a proxy of a target that is down: a deploy would succeed and serve no request.
pub fn down(project: &Project, target: &Target, proxies: &[Arc<dyn Proxy>]) -> Option<Finding> {
    let StoppedProxy { problem, remedy } = stopped(project, target, proxies)?;
    let hint = format!("{remedy}, or deploy without a proxy with `--proxy-kind none`");
    Some(Finding::unchanged("proxy-down", problem, hint).of_service(target.services()[0]))
}

/// Stopped proxy, and the command that starts it.
pub struct StoppedProxy {
    pub problem: String,
    pub remedy: String,
}

/// Stopped proxy in front of a target, if no other one runs there.
pub fn stopped(project: &Project, target: &Target, proxies: &[Arc<dyn Proxy>]) -> Option<StoppedProxy> {
    let services: Vec<&Service> = target.services().iter().map(|s| &project.services[*s]).collect();
    if services.iter().any(|s| names_proxy(s)) {
        return None;
    }
    let has_claim = services.iter().any(|s| proxy::route_setting(&backend(project, s)).is_some());
    let routes = |p: &&Arc<dyn Proxy>| services.iter().any(|s| p.routes_to(&backend(project, s)));
    let mut fronting = proxies.iter().filter(routes);
    if fronting.clone().any(|p| p.is_running()) {
        return None;
    }
    let near = || proxies.iter().find(|p| may_route_to(project, &services, p.as_ref()));
    let own = project.services.values().find(|s| has_claim && proxy::is_proxy_image(&s.image));
    let place = |proxy: &Arc<dyn Proxy>| Some((proxy.name(), proxy.container()?.clone()));
    let (problem, remedy) = match (fronting.next().or_else(near).and_then(place), own) {
        (Some((name, container)), _) => {
            (format!("the proxy {name} {}", container.down_state()), container.remedy())
        }
        (None, Some(own)) => (
            format!("the proxy `{}` of this project does not run", own.name),
            format!("start it with `docker compose up --detach --no-deps {}`", own.name),
        ),
        (None, None) => return None,
    };
    Some(StoppedProxy { problem: format!("{problem}, so no request reaches `{}`", target.name()), remedy })
}

/// True if the settings name the proxy of a service, or that it has none.
fn names_proxy(service: &Service) -> bool {
    service.settings.proxy.kind.is_some() || service.settings.proxy.container.is_some()
}

/// True if a stopped proxy of the project shares a network with one of these services, and its configuration does not
/// tell all of its routes.
fn may_route_to(project: &Project, services: &[&Service], proxy: &dyn Proxy) -> bool {
    let Some(container) = proxy.container() else { return false };
    let names: Vec<&str> = services.iter().map(|s| s.name.as_str()).collect();
    let is_own = container.compose().is_some_and(|(name, _)| name == project.name);
    let is_near = is_own
        && !container.is_running()
        && !is_member(project, container, &names)
        && services.iter().any(|s| shares_network(container, s));
    let backends: Vec<Backend> = services.iter().map(|s| backend(project, s)).collect();
    is_near && (!proxy.route_files().is_empty() || proxy.doubt(&backends).is_some())
}

pub fn shares_network(container: &Container, service: &Service) -> bool {
    container.networks().any(|network| service.networks.iter().any(|own| own == network))
}

/// Finding for a running service whose labels or variables define a route that no proxy of the engine has.
pub fn route_not_found(around: &Surroundings) -> Option<Finding> {
    let services = around.services();
    let runs = around.members().any(Container::is_running);
    if !runs || !around.fronting.is_empty() || services.iter().any(|s| names_proxy(s)) {
        return None;
    }
    let claim = |s: &Service| proxy::route_setting(&backend(around.reader.project, s));
    let (name, claim) = services.iter().find_map(|s| Some((&s.name, claim(s)?)))?;
    let message = format!(
        "`{name}` has a route by {claim}, and no proxy on its networks is known to read it: the proxy that routes to it \
         could not be drained"
    );
    let hint = format!(
        "name the proxy with `--proxy-container NAME --proxy-kind KIND` (`x-zd.proxy`), or put both on one network; \
         without a proxy, deploy with `--proxy-kind none` (`services.{name}.x-zd.proxy.kind: none`)"
    );
    Some(Finding::unchanged("route-not-found", message, hint).of_service(name))
}

/// Findings for services whose new instances would share no network with a running proxy: the proxy serves the old
/// ones and could not reach the new ones.
pub fn out_of_reach(around: &Surroundings) -> Vec<Finding> {
    let pairs = around.services().into_iter().flat_map(|s| around.fronting.iter().map(move |p| (s, p)));
    let is_unreachable = |(service, proxy): &(&Service, &Arc<dyn Proxy>)| {
        let Some(container) = proxy.container() else { return false };
        let mut networks = container.networks().peekable();
        // A proxy on the host's own network reaches every container.
        let is_anywhere = networks.peek().is_none() || networks.any(|network| network == "host");
        container.is_running()
            && !(is_anywhere || service.networks.is_empty() || shares_network(container, service))
    };
    pairs.filter(is_unreachable).map(|(service, proxy)| network_apart(service, proxy.as_ref())).collect()
}

fn network_apart(service: &Service, proxy: &dyn Proxy) -> Finding {
    let (name, networks) = (&service.name, service.networks.join("`, `"));
    let message = format!(
        "a new instance of `{name}` would be on `{networks}`, and {} is not: the proxy could not reach it",
        proxy.name()
    );
    let hint = format!(
        "put `services.{name}` on a network of the proxy, or connect the proxy first: `docker network connect {} {}`",
        service.networks[0],
        proxy.container().map_or("", Container::name)
    );
    Finding::unchanged("network-apart", message, hint).of_service(name)
}

/// Notes about containers that get requests of a target's route: of a service that the file no longer has, of other
/// projects, and those started by hand.
pub fn shared_routes(around: &Surroundings) -> Vec<Finding> {
    let reader = around.reader;
    let orphans = orphans(reader, around.containers).into_iter();
    let orphans = orphans.map(|(orphan, route)| orphan_route(reader.target, &orphan, &route));
    let is_strange = |c: &Container| c.compose().is_none_or(|(name, _)| name != reader.project.name);
    let strangers = on_same_route(reader, around.containers, is_strange).into_iter();
    orphans.chain(strangers.map(|(other, route)| shared_route(reader.target, &other, &route))).collect()
}

/// Containers of services that the file no longer has, and that get requests of a target's route; each with the
/// route.
pub fn orphans(reader: &TargetReader, containers: &[Container]) -> Vec<(Container, String)> {
    let project = reader.project;
    let is_gone = |c: &Container| {
        c.compose()
            .is_some_and(|(name, service)| name == project.name && !project.services.contains_key(service))
    };
    on_same_route(reader, containers, is_gone)
}

/// Running containers that match and get requests of a target's route; each with the route.
fn on_same_route(
    reader: &TargetReader,
    containers: &[Container],
    matches: impl Fn(&Container) -> bool,
) -> Vec<(Container, String)> {
    let new = reader.target.services().into_iter().map(|s| Backend::from(&reader.preview(s)));
    let new: Vec<Backend> = new.collect();
    let route = |container: &Container| {
        let backend = Backend::from(container);
        let fronting = reader.proxies.iter().filter(|p| p.routes_to(&backend));
        let shared = fronting.into_iter().find_map(|proxy| {
            let routes: Vec<_> = new.iter().flat_map(|b| proxy.route_to(b).public).collect();
            proxy.route_to(&backend).public.into_iter().find(|entrance| routes.contains(entrance))
        })?;
        Some(format!("{}{}", shared.host.unwrap_or_else(|| "any host".into()), shared.path))
    };
    let matching = containers.iter().filter(|c| c.is_running() && matches(c));
    matching.filter_map(|c| Some((c.clone(), route(c)?))).collect()
}

fn shared_route(target: &Target, other: &Container, route: &str) -> Finding {
    let origin =
        other.compose().map_or("was started by hand".into(), |(p, _)| format!("is of project `{p}`"));
    let name = other.name();
    let message = format!("`{name}` {origin}, and gets requests for {route}, like `{}`", target.name());
    Finding::note("shared-route", message, format!("stop `{name}`, or give one of them another route"))
}

fn orphan_route(target: &Target, orphan: &Container, route: &str) -> Finding {
    let message = format!(
        "`{}` is of a service that the file no longer has, and gets requests for {route}, like `{}`",
        orphan.name(),
        target.name()
    );
    let hint =
        "once the new release serves, `docker compose up --detach --no-recreate --remove-orphans` removes it";
    Finding::note("orphan-route", message, hint)
}

/// True for a running proxy that none of the adapters in `known` knows.
pub fn is_candidate(container: &Container, known: &[Arc<dyn Proxy>]) -> bool {
    let is_known = known.iter().any(|p| p.is_in(container));
    container.is_running() && !is_known && is_proxy(container)
}

/// True for a proxy, by the name of its image, its programs, or its base image.
pub fn is_proxy(container: &Container) -> bool {
    let mut names = std::iter::once(image_name(&container.config.image)).chain(container.programs());
    names.any(|name| PROXIES.contains(&name)) || VERSIONS.iter().any(|name| container.env(name).is_some())
}
