//! Routes of a proxy by its configuration: each names the hosts to which the proxy sends requests.

use std::collections::{BTreeMap, BTreeSet};

use super::hosts::PinnedService;
use crate::proxy::public_route::PublicRoute;
use crate::proxy::{Backend, Endpoint, RolloutShape, RouteInfo};

/// Host to which a proxy sends requests.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Upstream {
    pub host: String,
    pub port: Option<u16>,
    /// True if the proxy resolves the name by DNS while it runs, and not at its start.
    pub is_dynamic: bool,
}

impl Upstream {
    /// True if DNS reads the host as this name: without case, and also with a dot at its end.
    fn has_name(&self, name: &str) -> bool {
        self.host.strip_suffix('.').unwrap_or(&self.host).eq_ignore_ascii_case(name)
    }
}

/// Route such as nginx's `proxy_pass`, and its place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pass {
    pub upstreams: Vec<Upstream>,
    /// `Host` header that the instance gets, as far as known.
    pub host_header: Option<String>,
    pub is_http: bool,
    pub public: Vec<PublicRoute>,
}

/// All routes of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passes(pub Vec<Pass>);

impl Passes {
    /// Routes to hosts of these names, each with the upstream of that name.
    pub fn to<'n>(&'n self, names: &'n [String]) -> impl Iterator<Item = (&'n Pass, &'n Upstream)> {
        let pairs = self.0.iter().flat_map(|pass| pass.upstreams.iter().map(move |u| (pass, u)));
        pairs.filter(|(_, upstream)| names.iter().any(|name| upstream.has_name(name)))
    }

    /// Routes to an address of a backend.
    pub fn has_address_of(&self, backend: &Backend) -> bool {
        let addresses: Vec<String> = backend.addresses.iter().map(ToString::to_string).collect();
        self.to(&addresses).next().is_some()
    }

    /// Routes to a backend by name or by address.
    pub fn has_route_to(&self, backend: &Backend) -> bool {
        self.to(&backend.names).next().is_some() || self.has_address_of(backend)
    }

    /// Route to a backend. One for HTTP comes first.
    pub fn route_to(&self, backend: &Backend) -> RouteInfo {
        let passes: Vec<(&Pass, &Upstream)> = self.to(&backend.names).collect();
        let main = passes.iter().find(|(pass, _)| pass.is_http).or(passes.first());
        let mut public: Vec<_> = passes.iter().flat_map(|(pass, _)| pass.public.clone()).collect();
        public.sort_by_key(|route| route.path.len());
        public.dedup();
        RouteInfo {
            port: main.and_then(|(_, upstream)| upstream.port),
            host: main.and_then(|(pass, _)| pass.host_header.clone()),
            not_http: main.is_some_and(|(pass, _)| !pass.is_http),
            public,
            ..RouteInfo::default()
        }
    }

    /// Names of the configuration among these.
    fn used_names(&self, names: &[String]) -> BTreeSet<String> {
        self.to(names).map(|(_, upstream)| upstream.host.clone()).collect()
    }

    /// Services of these endpoints, with the names that have to be pinned.
    pub fn services(&self, endpoints: &[Endpoint]) -> Vec<PinnedService> {
        let mut services: BTreeMap<&str, PinnedService> = BTreeMap::new();
        for endpoint in endpoints {
            let project = endpoint.labels.get("com.docker.compose.project").cloned().unwrap_or_default();
            let service = services.entry(&endpoint.service).or_insert_with(|| PinnedService {
                project,
                service: endpoint.service.clone(),
                names: BTreeSet::new(),
            });
            service.names.extend(self.used_names(&endpoint.names));
        }
        services.into_values().filter(|service| !service.names.is_empty()).collect()
    }

    /// Services of a rollout, before any of its instances is known.
    pub fn services_of(&self, shape: &RolloutShape) -> Vec<PinnedService> {
        let service = |(service, names): &(String, Vec<String>)| PinnedService {
            project: shape.project.clone(),
            service: service.clone(),
            names: self.used_names(names),
        };
        shape.services.iter().map(service).filter(|service| !service.names.is_empty()).collect()
    }
}
