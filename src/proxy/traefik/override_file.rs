//! The file that takes a route over while a rollout runs: the routers, middlewares and services of the labels once
//! more, a step ahead of those, with the servers that are to have the requests and no others.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use serde_yaml::{Mapping, Value};

use super::cookie;
use super::labels::{HttpLabels, default_rule, get_map, insert, remove, text};
use super::static_config::{TraefikStaticConfig, is_true};
use super::version_check::{Api, VersionCheck};
use super::{Endpoint, Rotation};

/// Above what people write, and within 32 bits.
pub const CHECK_PRIORITY: i64 = 2_000_000_000;

/// Long enough to serve one request after the other, short enough to be gone when a drain asks.
const IDLE: &str = "200ms";

/// As many idle connections an instance as Traefik's own default transport keeps.
const IDLE_CONNECTIONS: &str = "200";

/// Where the check's answer points: nobody listens there, and it ends with the version of the file.
const ANSWER: &str = "http://127.0.0.1:1/";

/// Stands where the version comes, which is a hash of everything else.
const NO_TOKEN: &str = "token";

/// Traefik takes a file for a template.
const BRACES: (&str, &str) = ("{{", "{{ `{{` }}");

/// What every name in the file starts with: `compose-zd.PROJECT.SERVICE`. Of a pair, the first side's.
pub fn name<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) -> Option<String> {
    let one = |e: &'a Endpoint| Some((e.service.as_str(), e.labels.get("com.docker.compose.project")?));
    let (service, project) = endpoints.into_iter().filter_map(one).min()?;
    Some(format!("compose-zd.{project}.{service}"))
}

/// The host that only the check asks for.
pub fn host(name: &str) -> String {
    format!("{}.invalid", name.to_lowercase())
}

/// The whole file for a rotation.
pub fn text_of(settings: &TraefikStaticConfig, door: &VersionCheck, rotation: &Rotation) -> Option<String> {
    let name = name(rotation.inside.iter().chain(&rotation.outside))?;
    let model = rotation.inside.first().or(rotation.outside.first())?;
    let draft = OverrideFileBuilder { name, settings, door, model, own: HttpLabels::read(&model.labels) };
    let yaml = serde_yaml::to_string(&draft.file(&rotation.inside)).ok()?;
    let yaml = yaml.replace(BRACES.0, BRACES.1);
    let token = token_of(&yaml);
    Some(format!(
        "# Written by compose-zd while it replaces instances of {}; it goes when that is done.\n{}",
        model.service,
        yaml.replace(&format!("{ANSWER}{NO_TOKEN}"), &format!("{ANSWER}{token}"))
    ))
}

fn token_of(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// The version of a file, or of the answer to the check.
pub fn token(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once(ANSWER)?;
    let end = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
    Some(&rest[..end]).filter(|t| !t.is_empty())
}

/// The servers that a file, or the API, names, as addresses.
pub fn address(url: &str) -> Option<IpAddr> {
    let (_, rest) = url.split_once("://")?;
    let host = rest.split('/').next()?;
    match host.strip_prefix('[') {
        Some(ipv6) => ipv6.split(']').next()?.parse().ok(),
        None => host.split(':').next()?.parse().ok(),
    }
}

/// The addresses of a file's servers.
pub fn servers(file: &str) -> BTreeSet<IpAddr> {
    let root: Value = serde_yaml::from_str(&file.replace(BRACES.1, BRACES.0)).unwrap_or_default();
    let services = root.get("http").and_then(|h| h.get("services")).and_then(Value::as_mapping);
    let lists =
        services.into_iter().flat_map(Mapping::values).filter_map(|s| s.get("loadBalancer")?.get("servers"));
    let all = lists.filter_map(Value::as_sequence).flatten();
    all.filter_map(|s| address(s.get("url")?.as_str()?)).collect()
}

struct OverrideFileBuilder<'a> {
    name: String,
    settings: &'a TraefikStaticConfig,
    door: &'a VersionCheck,
    /// Whose labels the file repeats.
    model: &'a Endpoint,
    own: HttpLabels,
}

impl OverrideFileBuilder<'_> {
    fn file(&self, inside: &[Endpoint]) -> Value {
        let mut routers = self.routers();
        let guards = self.guards(&routers);
        routers.extend(self.checks(guards));
        let mut services = self.services(inside);
        if services.len() > 1 {
            services.insert(self.extra("all").into(), self.all(&services).into());
        }
        map([(
            "http",
            map([
                ("routers", routers.into()),
                ("middlewares", self.middlewares().into()),
                ("services", services.into()),
                ("serversTransports", one(&self.extra("transport"), self.transport().into())),
            ]),
        )])
    }

    /// What a thing of the labels is called in the file.
    fn called(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }

    /// What a thing that the labels do not have is called.
    fn extra(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    fn routers(&self) -> Mapping {
        let routers = self.own.routers.iter().filter_map(|(k, v)| Some((k.as_str()?, v.as_mapping()?)));
        routers.filter_map(|(name, r)| Some((self.called(name).into(), self.router(r)?.into()))).collect()
    }

    /// The same rule with a priority of one more: by default it is the rule's length, so longer rules keep theirs.
    fn router(&self, labels: &Mapping) -> Option<Mapping> {
        let mut router = labels.clone();
        let rule = remove(&mut router, "rule").and_then(|r| r.as_str().map(String::from));
        let rule = rule.or_else(|| default_rule(self.settings.default_rule(), &self.model.labels))?;
        let set = text(labels, "priority").and_then(|p| p.parse::<i64>().ok()).filter(|p| *p != 0);
        let priority = set.unwrap_or(rule.len() as i64).saturating_add(1);
        let service = text(labels, "service").map(|s| self.reference(s, &self.own.services));
        let middlewares = text(labels, "middlewares").map(|m| self.references(m));
        for key in ["priority", "service", "middlewares"] {
            remove(&mut router, key);
        }
        router.insert("rule".into(), rule.into());
        router.insert("priority".into(), priority.into());
        router.extend(service.map(|s| ("service".into(), s.into())));
        router.extend(middlewares.map(|m| ("middlewares".into(), m.into())));
        Some(router)
    }

    /// A name of these labels becomes one of this file; another stays the one that it is for labels.
    fn reference(&self, name: &str, own: &Mapping) -> String {
        let (bare, provider) = name.split_once('@').unwrap_or((name, "docker"));
        match own.contains_key(bare) && provider == "docker" {
            true => self.called(bare),
            false => format!("{bare}@{provider}"),
        }
    }

    fn references(&self, names: &str) -> String {
        let names = names.split(',').map(|n| self.reference(n.trim(), &self.own.middlewares));
        names.collect::<Vec<_>>().join(",")
    }

    /// Copies, because those of labels are thrown away while two generations define them differently.
    fn middlewares(&self) -> Mapping {
        let mut all: Mapping = Mapping::new();
        for (name, labels) in &self.own.middlewares {
            let mut middleware = labels.as_mapping().cloned().unwrap_or_default();
            rename(&mut middleware, "chain", "middlewares", |n| self.references(n));
            rename(&mut middleware, "errors", "service", |n| self.reference(n, &self.own.services));
            all.insert(self.called(name.as_str().unwrap_or_default()).into(), middleware.into());
        }
        let answer = map([("regex", "^.*$".into()), ("replacement", format!("{ANSWER}{NO_TOKEN}").into())]);
        all.insert(self.extra("token").into(), one("redirectRegex", answer));
        all
    }

    fn services(&self, inside: &[Endpoint]) -> Mapping {
        let services = self.own.services.iter().filter_map(|(name, s)| Some((name.as_str()?, s)));
        services.map(|(name, s)| (self.called(name).into(), self.service(name, s, inside))).collect()
    }

    fn service(&self, name: &str, labels: &Value, inside: &[Endpoint]) -> Value {
        let mut service = labels.as_mapping().cloned().unwrap_or_default();
        let balancer = remove(&mut service, "loadbalancer");
        let mut balancer = balancer.and_then(|b| b.as_mapping().cloned()).unwrap_or_default();
        remove(&mut balancer, "server");
        name_cookie(&mut balancer, name);
        let servers: Vec<Value> = inside.iter().filter_map(|e| server(e, name)).collect();
        balancer.insert("servers".into(), servers.into());
        if text(&balancer, "serverstransport").is_none() {
            balancer.insert("serversTransport".into(), self.extra("transport").into());
        }
        service.insert("loadBalancer".into(), balancer.into());
        service.into()
    }

    /// What the check depends on: every service of the file.
    fn all(&self, services: &Mapping) -> Mapping {
        let weighted = services.keys().map(|name| map([("name", name.clone()), ("weight", 1.into())]));
        let list: Vec<Value> = weighted.collect();
        [("weighted".into(), one("services", list.into()))].into_iter().collect()
    }

    /// Every middleware of the routers: where one is missing, Traefik drops the router, and has to drop the check too.
    fn guards(&self, routers: &Mapping) -> Vec<String> {
        let lists = routers.values().filter_map(|r| text(r.as_mapping()?, "middlewares"));
        let names: BTreeSet<&str> = lists.flat_map(|l| l.split(',')).collect();
        std::iter::once(self.extra("token")).chain(names.into_iter().map(String::from)).collect()
    }

    /// The route that tells which version of the file is in force; and one to the API, where there is one.
    fn checks(&self, guards: Vec<String>) -> Mapping {
        let service = match self.own.service_names().as_slice() {
            [only] => self.called(only),
            _ => self.extra("all"),
        };
        let mut checks = Mapping::new();
        let check = self.check("", &service, &guards, CHECK_PRIORITY);
        checks.insert(self.extra("check").into(), check);
        if let Some(api) = Api::through(self.settings, self.door) {
            let path = format!(" && PathPrefix(`{}/api`)", api.path);
            let api = self.check(&path, "api@internal", &[], CHECK_PRIORITY + 1);
            checks.insert(self.extra("api").into(), api);
        }
        checks
    }

    /// Only from inside of its container.
    fn check(&self, more: &str, service: &str, middlewares: &[String], priority: i64) -> Value {
        let place = self.door.place();
        let bound = place.map_or("127.0.0.1", |p| p.host.trim_matches(['[', ']']));
        let from = BTreeSet::from(["127.0.0.1", "::1", bound]);
        let from: Vec<String> = from.into_iter().map(|ip| format!("ClientIP(`{ip}`)")).collect();
        let rule = format!("Host(`{}`) && ({}){more}", host(&self.name), from.join(" || "));
        let mut router = Mapping::from_iter([
            ("rule".into(), rule.into()),
            ("priority".into(), priority.into()),
            ("entryPoints".into(), self.door.entry_point().into()),
            ("service".into(), service.into()),
        ]);
        if !middlewares.is_empty() {
            router.insert("middlewares".into(), middlewares.join(",").into());
        }
        if place.is_some_and(|p| p.tls) {
            // Of its own, so that it does not ask for a certificate as the entry point's routers do.
            router.insert("tls".into(), Mapping::new().into());
        }
        router.into()
    }

    /// As Traefik's own, but for the idle connections.
    fn transport(&self) -> Mapping {
        let mut transport = Mapping::new();
        insert(&mut transport, &["maxIdleConnsPerHost"], IDLE_CONNECTIONS);
        for (key, value) in self.settings.below("serversTransport") {
            insert(&mut transport, &key.split('.').collect::<Vec<_>>(), value);
        }
        insert(&mut transport, &["forwardingTimeouts", "idleConnTimeout"], IDLE);
        transport
    }
}

/// A sticky cookie without a name gets the one that Traefik gives it for the service of the labels.
fn name_cookie(balancer: &mut Mapping, service: &str) {
    let sticky =
        balancer.iter_mut().find(|(k, _)| k.as_str().is_some_and(|k| k.eq_ignore_ascii_case("sticky")));
    let Some(sticky) = sticky.and_then(|(_, sticky)| sticky.as_mapping_mut()) else { return };
    let mut own = match remove(sticky, "cookie") {
        Some(Value::Mapping(own)) => own,
        Some(on) if on.as_str().is_some_and(is_true) => Mapping::new(),
        Some(other) => {
            sticky.insert("cookie".into(), other);
            return;
        }
        None => return,
    };
    if text(&own, "name").is_none_or(str::is_empty) {
        remove(&mut own, "name");
        own.insert("name".into(), cookie::name_of(&format!("{service}@docker")).into());
    }
    sticky.insert("cookie".into(), own.into());
}

/// What a middleware of this kind refers to gets its new name.
fn rename(middleware: &mut Mapping, kind: &str, key: &str, new: impl Fn(&str) -> String) {
    let Some(Value::Mapping(mut inner)) = remove(middleware, kind) else {
        return;
    };
    if let Some(Value::String(names)) = remove(&mut inner, key) {
        inner.insert(key.into(), new(&names).into());
    }
    middleware.insert(kind.into(), inner.into());
}

/// An instance as a server, by the port and scheme of its own labels.
fn server(endpoint: &Endpoint, service: &str) -> Option<Value> {
    let http = HttpLabels::read(&endpoint.labels);
    let (_, labels) = http.servers().find(|(n, _)| *n == service).or(http.servers().next())?;
    let port = text(&labels, "port").and_then(|p| p.parse().ok()).or(endpoint.port)?;
    let scheme = text(&labels, "scheme").unwrap_or("http");
    let address = endpoint.addresses.iter().find(|a| a.is_ipv4()).or(endpoint.addresses.first())?;
    let url = format!("{scheme}://{}", std::net::SocketAddr::new(*address, port));
    let mut server = Mapping::from_iter([("url".into(), url.into())]);
    let said = |k: &Value| {
        ["port", "scheme", "url"].iter().any(|n| k.as_str().is_some_and(|k| k.eq_ignore_ascii_case(n)))
    };
    server.extend(labels.into_iter().filter(|(k, _)| !said(k)));
    Some(server.into())
}

/// Whether Traefik reaches an instance by the transport of our file.
pub fn has_own_transport(endpoint: &Endpoint) -> bool {
    let http = HttpLabels::read(&endpoint.labels);
    let mut balancers = http.services.values().filter_map(|s| get_map(s.as_mapping()?, "loadbalancer"));
    balancers.all(|b| text(b, "serverstransport").is_none())
}

fn map<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    pairs.into_iter().map(|(k, v)| (k.into(), v)).collect::<Mapping>().into()
}

fn one(key: &str, value: Value) -> Value {
    map([(key, value)])
}
