//! Labels of a pin: a copy of the routers, middlewares and services of an instance under other names, with a slightly
//! higher priority. Traefik then routes by the copy.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_yaml::{Mapping, Value};

use super::cookie;
use super::labels::{HttpLabels, Labels, default_rule, flatten, remove, text};
use super::static_config::{CHECK_PRIORITY, TraefikStaticConfig, is_true};
use super::version_check::VersionCheck;
use super::{Endpoint, Rotation};

/// Redirect target in the answer to the version check, followed by the token of the pin. No program listens there.
pub const CHECK_URL: &str = "http://127.0.0.1:1/";

/// Separates the prefix of the names from the name of an object that the labels of the instance do not have. A copied
/// object has `-` there.
pub const EXTRA: char = '_';

/// Router of other containers, by its rule and priority.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignRouter {
    pub rule: String,
    pub priority: i64,
}

/// Copy of the route to some instances.
pub struct RouteCopy<'a> {
    pub config: &'a TraefikStaticConfig,
    pub version_check: &'a VersionCheck,
    /// Host name that only the version check uses.
    pub check_host: String,
    /// Instance whose labels are copied.
    model: &'a Endpoint,
    http: HttpLabels,
    pub inside: &'a [Endpoint],
}

/// Names and priorities of one copy.
pub struct Naming<'a> {
    /// Prefix of all names.
    pub prefix: String,
    /// Distance of the priorities from those of the labels.
    pub raise: u32,
    pub token: &'a str,
    /// Routers of others. The higher priority must not take their requests.
    pub foreign: &'a [ForeignRouter],
}

/// Labels by their keys.
pub type LabelList = Vec<(String, String)>;

pub fn hash(value: impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

impl<'a> RouteCopy<'a> {
    /// Copy of the route for a rotation; `None` if no instance is inside.
    pub fn new(
        config: &'a TraefikStaticConfig,
        version_check: &'a VersionCheck,
        check_host: String,
        rotation: &'a Rotation,
    ) -> Option<RouteCopy<'a>> {
        let model = rotation.inside.first()?;
        let http = HttpLabels::parse(&model.labels);
        Some(RouteCopy { config, version_check, check_host, model, http, inside: &rotation.inside })
    }

    /// Hash of everything that the copy depends on, but its names, its priorities and the routers of others.
    pub fn content(&self) -> String {
        let naming = Naming { prefix: "zd".into(), raise: 0, token: "", foreign: &[] };
        let targets: BTreeSet<&str> = self.inside.iter().map(|e| e.id.as_str()).collect();
        let services: Vec<LabelList> = self.inside.iter().map(|e| self.service_labels(&naming, e)).collect();
        hash((targets, services, self.router_labels(&naming)))
    }

    /// Labels of the routers and middlewares, and of the version check.
    pub fn router_labels(&self, naming: &Naming) -> LabelList {
        let copy = Copy { route: self, naming };
        let mut routers = copy.routers();
        let guards = copy.guards(&routers);
        routers.insert(copy.extra_name("check").into(), self.check_router(naming, &guards).into());
        let mut labels = Vec::new();
        flatten("traefik.http.routers", &routers.into(), &mut labels);
        flatten("traefik.http.middlewares", &copy.middlewares().into(), &mut labels);
        labels
    }

    /// Labels of the services, with one instance as their server.
    pub fn service_labels(&self, naming: &Naming, endpoint: &Endpoint) -> LabelList {
        let copy = Copy { route: self, naming };
        let services = self.http.services.iter().filter_map(|(name, s)| Some((name.as_str()?, s)));
        let services: Mapping =
            services.map(|(name, s)| (copy.name(name).into(), service(name, s, endpoint))).collect();
        let mut labels = Vec::new();
        flatten("traefik.http.services", &services.into(), &mut labels);
        labels
    }

    /// Labels of a service that gets no request, for a pin without an instance. Traefik gives a container without a
    /// service one of its own.
    pub fn idle_service_labels(&self, naming: &Naming) -> LabelList {
        idle_service(naming).into_iter().collect()
    }

    /// Labels that every pin has: those by which Traefik accepts the instance.
    pub fn common_labels(&self) -> LabelList {
        common_labels(self.config, self.model)
    }

    /// Ports at which an instance gets requests.
    pub fn ports(&self, endpoint: &Endpoint) -> Vec<u16> {
        let services = self.http.services.keys().filter_map(Value::as_str);
        let ports: BTreeSet<u16> =
            services.filter_map(|name| text(&server(endpoint, name), "port")?.parse().ok()).collect();
        ports.into_iter().collect()
    }

    fn check_router(&self, naming: &Naming, guards: &[String]) -> Mapping {
        let service = self.http.service_names().into_iter().next().unwrap_or_default();
        let service = Copy { route: self, naming }.name(&service);
        check_router(self.version_check, &self.check_host, naming, &service, guards)
    }
}

/// Labels by which Traefik accepts an instance, for a pin.
pub fn common_labels(config: &TraefikStaticConfig, model: &Endpoint) -> LabelList {
    let of_model = |key: &str| Some((key.to_string(), model.labels.get(key)?.clone()));
    let constraints = super::constraints::label_names(config.constraints());
    let mut labels: LabelList = constraints.iter().filter_map(|key| of_model(key)).collect();
    labels.extend(of_model("traefik.docker.network"));
    labels.push(("traefik.enable".into(), "true".into()));
    labels
}

/// Labels of a version check without a route.
pub fn check_labels(check: &VersionCheck, host: &str, naming: &Naming) -> LabelList {
    let name = |name: &str| format!("{}{EXTRA}{name}", naming.prefix);
    let router = check_router(check, host, naming, &name("none"), &[name("token")]);
    let mut labels = Vec::new();
    flatten(&format!("traefik.http.routers.{}", name("check")), &router.into(), &mut labels);
    flatten(&format!("traefik.http.middlewares.{}", name("token")), &token(naming), &mut labels);
    labels.extend(idle_service(naming));
    labels
}

fn idle_service(naming: &Naming) -> Option<(String, String)> {
    let name = format!("{}{EXTRA}none", naming.prefix);
    Some((format!("traefik.http.services.{name}.loadbalancer.server.port"), "1".into()))
}

/// A middleware that answers with the token.
fn token(naming: &Naming) -> Value {
    let replacement = format!("{CHECK_URL}{}", naming.token);
    let answer = [("regex".into(), "^.*$".into()), ("replacement".into(), replacement.into())];
    let answer: Mapping = answer.into_iter().collect();
    [("redirectregex".into(), answer.into())].into_iter().collect::<Mapping>().into()
}

/// A router that only matches requests from inside the container.
fn check_router(
    check: &VersionCheck,
    host: &str,
    naming: &Naming,
    service: &str,
    middlewares: &[String],
) -> Mapping {
    let address = check.address();
    let bound = address.map_or("127.0.0.1", |p| p.host.trim_matches(['[', ']']));
    let clients = BTreeSet::from(["127.0.0.1", "::1", bound]);
    let clients: Vec<String> = clients.into_iter().map(|ip| format!("ClientIP(`{ip}`)")).collect();
    let priority = CHECK_PRIORITY + i64::from(naming.raise);
    let mut router = Mapping::from_iter([
        ("rule".into(), format!("Host(`{host}`) && ({})", clients.join(" || ")).into()),
        ("priority".into(), priority.to_string().into()),
        ("entrypoints".into(), check.entry_point().into()),
        ("service".into(), service.into()),
        ("middlewares".into(), middlewares.join(",").into()),
    ]);
    if address.is_some_and(|p| p.tls) {
        // Own TLS settings, so that the router requests no certificate as the entry point's routers do.
        router.insert("tls".into(), "true".into());
    }
    router
}

/// A copy with its names.
struct Copy<'a> {
    route: &'a RouteCopy<'a>,
    naming: &'a Naming<'a>,
}

impl Copy<'_> {
    /// Name of the copy of an object of the labels.
    fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.naming.prefix)
    }

    /// Name of an object that the labels do not have.
    fn extra_name(&self, name: &str) -> String {
        format!("{}{EXTRA}{name}", self.naming.prefix)
    }

    fn routers(&self) -> Mapping {
        let routers =
            self.route.http.routers.iter().filter_map(|(k, v)| Some((k.as_str()?, v.as_mapping()?)));
        routers.filter_map(|(name, r)| Some((self.name(name).into(), self.router(r)?.into()))).collect()
    }

    /// A copy of a router with a higher priority. The default priority is the rule's length, so longer rules stay
    /// ahead.
    fn router(&self, labels: &Mapping) -> Option<Mapping> {
        let mut router = labels.clone();
        let (rule, priority) = rule_and_priority(labels, self.route.config, &self.route.model.labels)?;
        let service = text(labels, "service").map(|s| self.reference(s, &self.route.http.services));
        let middlewares = text(labels, "middlewares").map(|m| self.references(m));
        let tls = remove(&mut router, "tls").map(without_certificates);
        for key in ["rule", "priority", "service", "middlewares"] {
            remove(&mut router, key);
        }
        let raised = priority.saturating_add(self.naming.raise.into());
        router.insert("rule".into(), self.without_foreign(rule, priority, raised).into());
        router.insert("priority".into(), raised.to_string().into());
        router.extend(service.map(|s| ("service".into(), s.into())));
        router.extend(middlewares.map(|m| ("middlewares".into(), m.into())));
        router.extend(tls.map(|tls| ("tls".into(), tls)));
        Some(router)
    }

    /// Rule without the requests of other routers that the higher priority would take.
    fn without_foreign(&self, rule: String, priority: i64, raised: i64) -> String {
        let is_taken = |other: &&ForeignRouter| {
            other.priority > priority && other.priority <= raised && other.rule != rule
        };
        let taken: Vec<String> = self
            .naming
            .foreign
            .iter()
            .filter(is_taken)
            .map(|other| format!(" && !({})", other.rule))
            .collect();
        if taken.is_empty() { rule } else { format!("({rule}){}", taken.concat()) }
    }

    /// Reference to an object of these labels becomes one to its copy; any other stays a reference to the
    /// labels' object.
    fn reference(&self, name: &str, copied: &Mapping) -> String {
        let (bare, provider) = name.split_once('@').unwrap_or((name, "docker"));
        let is_copied = copied.contains_key(bare) && provider == "docker";
        if is_copied { self.name(bare) } else { format!("{bare}@{provider}") }
    }

    fn references(&self, names: &str) -> String {
        let names = names.split(',').map(|n| self.reference(n.trim(), &self.route.http.middlewares));
        names.collect::<Vec<_>>().join(",")
    }

    /// Copies of the middlewares. Traefik drops the original ones while old and new instances define them
    /// differently.
    fn middlewares(&self) -> Mapping {
        let mut middlewares: Mapping = Mapping::new();
        for (name, labels) in &self.route.http.middlewares {
            let mut middleware = labels.as_mapping().cloned().unwrap_or_default();
            rename_reference(&mut middleware, "chain", "middlewares", |n| self.references(n));
            rename_reference(&mut middleware, "errors", "service", |n| {
                self.reference(n, &self.route.http.services)
            });
            middlewares.insert(self.name(name.as_str().unwrap_or_default()).into(), middleware.into());
        }
        middlewares.insert(self.extra_name("token").into(), token(self.naming));
        middlewares
    }

    /// Middlewares of the version check: the token, and every middleware of the routers. If one of them is
    /// missing, Traefik drops the router, and must drop the version check too.
    fn guards(&self, routers: &Mapping) -> Vec<String> {
        let lists = routers.values().filter_map(|r| text(r.as_mapping()?, "middlewares"));
        let names: BTreeSet<&str> = lists.flat_map(|l| l.split(',')).collect();
        std::iter::once(self.extra_name("token")).chain(names.into_iter().map(String::from)).collect()
    }
}

/// Rule of a router, and its priority, which is the length of the rule by default; `None` for a default rule that
/// cannot be evaluated.
pub fn rule_and_priority(
    router: &Mapping,
    config: &TraefikStaticConfig,
    labels: &Labels,
) -> Option<(String, i64)> {
    let rule = text(router, "rule").map(String::from);
    let rule = rule.or_else(|| default_rule(config.default_rule(), labels))?;
    let explicit = text(router, "priority").and_then(|p| p.parse::<i64>().ok()).filter(|p| *p != 0);
    let priority = explicit.unwrap_or(rule.len() as i64);
    Some((rule, priority))
}

/// TLS settings of a router without its certificates: Traefik has those of the user's own router, and must not
/// request others.
fn without_certificates(tls: Value) -> Value {
    let Value::Mapping(mut settings) = tls else { return tls };
    for key in ["certresolver", "domains"] {
        remove(&mut settings, key);
    }
    if settings.is_empty() { "true".into() } else { settings.into() }
}

fn service(name: &str, labels: &Value, endpoint: &Endpoint) -> Value {
    let mut service = labels.as_mapping().cloned().unwrap_or_default();
    let balancer = remove(&mut service, "loadbalancer");
    let mut balancer = balancer.and_then(|b| b.as_mapping().cloned()).unwrap_or_default();
    remove(&mut balancer, "server");
    name_cookie(&mut balancer, name);
    if endpoint.is_relay() {
        // A relay answers no check while requests wait in it.
        remove(&mut balancer, "healthcheck");
    }
    balancer.insert("server".into(), server(endpoint, name).into());
    service.insert("loadbalancer".into(), balancer.into());
    service.into()
}

/// Gives an unnamed sticky cookie the name that Traefik gives to the cookie of the labels' service.
fn name_cookie(balancer: &mut Mapping, service: &str) {
    let sticky =
        balancer.iter_mut().find(|(k, _)| k.as_str().is_some_and(|k| k.eq_ignore_ascii_case("sticky")));
    let Some(sticky) = sticky.and_then(|(_, sticky)| sticky.as_mapping_mut()) else { return };
    let mut cookie = match remove(sticky, "cookie") {
        Some(Value::Mapping(settings)) => settings,
        Some(on) if on.as_str().is_some_and(is_true) => Mapping::new(),
        Some(other) => {
            sticky.insert("cookie".into(), other);
            return;
        }
        None => return,
    };
    if text(&cookie, "name").is_none_or(str::is_empty) {
        remove(&mut cookie, "name");
        cookie.insert("name".into(), cookie::default_name(&format!("{service}@docker")).into());
    }
    sticky.insert("cookie".into(), cookie.into());
}

/// Renames what a middleware of this kind refers to.
fn rename_reference(middleware: &mut Mapping, kind: &str, key: &str, new: impl Fn(&str) -> String) {
    let Some(Value::Mapping(mut inner)) = remove(middleware, kind) else {
        return;
    };
    if let Some(Value::String(names)) = remove(&mut inner, key) {
        inner.insert(key.into(), new(&names).into());
    }
    middleware.insert(kind.into(), inner.into());
}

/// An instance as the server of a service, with the settings of its own labels. Traefik takes the address of the
/// instance, whose network the pin shares.
fn server(endpoint: &Endpoint, service: &str) -> Mapping {
    let http = HttpLabels::parse(&endpoint.labels);
    let own = http.servers().find(|(n, _)| *n == service).or(http.servers().next());
    let mut server = own.map(|(_, labels)| labels).unwrap_or_default();
    let port = remove(&mut server, "port").and_then(|p| p.as_str().map(String::from));
    let port = port.or(endpoint.port.map(|p| p.to_string()));
    server.extend(port.map(|port| ("port".into(), port.into())));
    server
}
