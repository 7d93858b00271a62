//! The override file that controls a route during a rollout. It repeats the routers, middlewares and services
//! of the labels with a slightly higher priority, and with exactly the servers that should get requests.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use serde_yaml::{Mapping, Value};

use super::cookie;
use super::labels::{HttpLabels, default_rule, get_map, insert, remove, text};
use super::static_config::{CHECK_PRIORITY, TraefikStaticConfig, is_true};
use super::version_check::{Api, VersionCheck};
use super::{Endpoint, Rotation};

/// Idle timeout of our transport: long enough to reuse a connection, and short enough to be over during a
/// drain.
const IDLE: &str = "200ms";

/// Idle connections per instance, as in Traefik's own default transport.
const IDLE_CONNECTIONS: &str = "200";

/// Redirect target in the answer to the version check, followed by the version of the file. No program listens
/// there.
const CHECK_URL: &str = "http://127.0.0.1:1/";

/// Placeholder of the version, which is a hash of the rest of the file.
const TOKEN_PLACEHOLDER: &str = "token";

/// Opening braces and their escaped form: Traefik treats a file as a template.
const BRACES: (&str, &str) = ("{{", "{{ `{{` }}");

/// Prefix of all names in the file: `compose-zd.PROJECT.SERVICE`. For a pair, the service is that of the first
/// side.
pub fn name<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) -> Option<String> {
    let service_and_project =
        |e: &'a Endpoint| Some((e.service.as_str(), e.labels.get("com.docker.compose.project")?));
    let (service, project) = endpoints.into_iter().filter_map(service_and_project).min()?;
    Some(format!("compose-zd.{project}.{service}"))
}

/// Host name that only the version check uses.
pub fn check_host(name: &str) -> String {
    format!("{}.invalid", name.to_lowercase())
}

/// Text of the file for a rotation.
pub fn file_text(
    config: &TraefikStaticConfig,
    version_check: &VersionCheck,
    rotation: &Rotation,
) -> Option<String> {
    let name = name(rotation.inside.iter().chain(&rotation.outside))?;
    let model = rotation.inside.first().or(rotation.outside.first())?;
    let http = HttpLabels::parse(&model.labels);
    let builder = OverrideFileBuilder { name, config, version_check, model, http };
    let yaml = serde_yaml::to_string(&builder.file(&rotation.inside)).ok()?;
    let yaml = yaml.replace(BRACES.0, BRACES.1);
    let token = hash(&yaml);
    Some(format!(
        "# Written by compose-zd while it replaces instances of {}, and removed afterwards.\n{}",
        model.service,
        yaml.replace(&format!("{CHECK_URL}{TOKEN_PLACEHOLDER}"), &format!("{CHECK_URL}{token}"))
    ))
}

fn hash(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Version of the file, from its text or from the answer to the version check.
pub fn token(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once(CHECK_URL)?;
    let end = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
    Some(&rest[..end]).filter(|t| !t.is_empty())
}

/// Address in a server URL of a file or the API.
pub fn server_address(url: &str) -> Option<IpAddr> {
    let (_, rest) = url.split_once("://")?;
    let host = rest.split('/').next()?;
    match host.strip_prefix('[') {
        Some(ipv6) => ipv6.split(']').next()?.parse().ok(),
        None => host.split(':').next()?.parse().ok(),
    }
}

/// Addresses of the servers in a file.
pub fn servers(file: &str) -> BTreeSet<IpAddr> {
    let root: Value = serde_yaml::from_str(&file.replace(BRACES.1, BRACES.0)).unwrap_or_default();
    let services = root.get("http").and_then(|h| h.get("services")).and_then(Value::as_mapping);
    let lists =
        services.into_iter().flat_map(Mapping::values).filter_map(|s| s.get("loadBalancer")?.get("servers"));
    let servers = lists.filter_map(Value::as_sequence).flatten();
    servers.filter_map(|s| server_address(s.get("url")?.as_str()?)).collect()
}

struct OverrideFileBuilder<'a> {
    name: String,
    config: &'a TraefikStaticConfig,
    version_check: &'a VersionCheck,
    /// Endpoint whose labels the file repeats.
    model: &'a Endpoint,
    http: HttpLabels,
}

impl OverrideFileBuilder<'_> {
    fn file(&self, inside: &[Endpoint]) -> Value {
        let mut routers = self.routers();
        let guards = self.check_middlewares(&routers);
        routers.extend(self.check_routers(guards));
        let mut services = self.services(inside);
        if services.len() > 1 {
            services.insert(self.extra_name("all").into(), self.combined_service(&services).into());
        }
        map([(
            "http",
            map([
                ("routers", routers.into()),
                ("middlewares", self.middlewares().into()),
                ("services", services.into()),
                ("serversTransports", single(&self.extra_name("transport"), self.transport().into())),
            ]),
        )])
    }

    /// Name in the file of an object of the labels.
    fn copied_name(&self, name: &str) -> String {
        format!("{}-{name}", self.name)
    }

    /// Name of an object that the labels do not have.
    fn extra_name(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    fn routers(&self) -> Mapping {
        let routers = self.http.routers.iter().filter_map(|(k, v)| Some((k.as_str()?, v.as_mapping()?)));
        routers
            .filter_map(|(name, r)| Some((self.copied_name(name).into(), self.router(r)?.into())))
            .collect()
    }

    /// A copy of a router with a priority that is higher by one. The default priority is the rule's length, so
    /// longer rules stay ahead.
    fn router(&self, labels: &Mapping) -> Option<Mapping> {
        let mut router = labels.clone();
        let rule = remove(&mut router, "rule").and_then(|r| r.as_str().map(String::from));
        let rule = rule.or_else(|| default_rule(self.config.default_rule(), &self.model.labels))?;
        let explicit = text(labels, "priority").and_then(|p| p.parse::<i64>().ok()).filter(|p| *p != 0);
        let priority = explicit.unwrap_or(rule.len() as i64).saturating_add(1);
        let service = text(labels, "service").map(|s| self.reference(s, &self.http.services));
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

    /// Reference to an object of these labels becomes one to its copy; any other stays a reference to the
    /// labels' object.
    fn reference(&self, name: &str, copied: &Mapping) -> String {
        let (bare, provider) = name.split_once('@').unwrap_or((name, "docker"));
        let is_copied = copied.contains_key(bare) && provider == "docker";
        if is_copied { self.copied_name(bare) } else { format!("{bare}@{provider}") }
    }

    fn references(&self, names: &str) -> String {
        let names = names.split(',').map(|n| self.reference(n.trim(), &self.http.middlewares));
        names.collect::<Vec<_>>().join(",")
    }

    /// Copies of the middlewares. Traefik drops the original ones while old and new instances define them
    /// differently.
    fn middlewares(&self) -> Mapping {
        let mut middlewares: Mapping = Mapping::new();
        for (name, labels) in &self.http.middlewares {
            let mut middleware = labels.as_mapping().cloned().unwrap_or_default();
            rename_reference(&mut middleware, "chain", "middlewares", |n| self.references(n));
            rename_reference(&mut middleware, "errors", "service", |n| {
                self.reference(n, &self.http.services)
            });
            middlewares.insert(self.copied_name(name.as_str().unwrap_or_default()).into(), middleware.into());
        }
        let answer = map([
            ("regex", "^.*$".into()),
            ("replacement", format!("{CHECK_URL}{TOKEN_PLACEHOLDER}").into()),
        ]);
        middlewares.insert(self.extra_name("token").into(), single("redirectRegex", answer));
        middlewares
    }

    fn services(&self, inside: &[Endpoint]) -> Mapping {
        let services = self.http.services.iter().filter_map(|(name, s)| Some((name.as_str()?, s)));
        services.map(|(name, s)| (self.copied_name(name).into(), self.service(name, s, inside))).collect()
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
            balancer.insert("serversTransport".into(), self.extra_name("transport").into());
        }
        service.insert("loadBalancer".into(), balancer.into());
        service.into()
    }

    /// A service for the version check that depends on every service of the file.
    fn combined_service(&self, services: &Mapping) -> Mapping {
        let weighted = services.keys().map(|name| map([("name", name.clone()), ("weight", 1.into())]));
        let list: Vec<Value> = weighted.collect();
        [("weighted".into(), single("services", list.into()))].into_iter().collect()
    }

    /// Middlewares of the version check: the token, and every middleware of the routers. If one of them is
    /// missing, Traefik drops the router, and must drop the version check too.
    fn check_middlewares(&self, routers: &Mapping) -> Vec<String> {
        let lists = routers.values().filter_map(|r| text(r.as_mapping()?, "middlewares"));
        let names: BTreeSet<&str> = lists.flat_map(|l| l.split(',')).collect();
        std::iter::once(self.extra_name("token")).chain(names.into_iter().map(String::from)).collect()
    }

    /// The router of the version check, and a router to the API if there is one.
    fn check_routers(&self, guards: Vec<String>) -> Mapping {
        let service = match self.http.service_names().as_slice() {
            [only] => self.copied_name(only),
            _ => self.extra_name("all"),
        };
        let mut routers = Mapping::new();
        let check = self.check_router("", &service, &guards, CHECK_PRIORITY);
        routers.insert(self.extra_name("check").into(), check);
        if let Some(api) = Api::via_override_file(self.config, self.version_check) {
            let path = format!(" && PathPrefix(`{}/api`)", api.path);
            let api = self.check_router(&path, "api@internal", &[], CHECK_PRIORITY + 1);
            routers.insert(self.extra_name("api").into(), api);
        }
        routers
    }

    /// A router that only matches requests from inside the container.
    fn check_router(&self, condition: &str, service: &str, middlewares: &[String], priority: i64) -> Value {
        let address = self.version_check.address();
        let bound = address.map_or("127.0.0.1", |p| p.host.trim_matches(['[', ']']));
        let clients = BTreeSet::from(["127.0.0.1", "::1", bound]);
        let clients: Vec<String> = clients.into_iter().map(|ip| format!("ClientIP(`{ip}`)")).collect();
        let rule = format!("Host(`{}`) && ({}){condition}", check_host(&self.name), clients.join(" || "));
        let mut router = Mapping::from_iter([
            ("rule".into(), rule.into()),
            ("priority".into(), priority.into()),
            ("entryPoints".into(), self.version_check.entry_point().into()),
            ("service".into(), service.into()),
        ]);
        if !middlewares.is_empty() {
            router.insert("middlewares".into(), middlewares.join(",").into());
        }
        if address.is_some_and(|p| p.tls) {
            // Own TLS settings, so that the router requests no certificate as the entry point's routers do.
            router.insert("tls".into(), Mapping::new().into());
        }
        router.into()
    }

    /// Transport with Traefik's own settings, except for idle connections.
    fn transport(&self) -> Mapping {
        let mut transport = Mapping::new();
        insert(&mut transport, &["maxIdleConnsPerHost"], IDLE_CONNECTIONS);
        for (key, value) in self.config.section("serversTransport") {
            insert(&mut transport, &key.split('.').collect::<Vec<_>>(), value);
        }
        insert(&mut transport, &["forwardingTimeouts", "idleConnTimeout"], IDLE);
        transport
    }
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

/// An instance as a server, with the port and scheme of its own labels.
fn server(endpoint: &Endpoint, service: &str) -> Option<Value> {
    let http = HttpLabels::parse(&endpoint.labels);
    let (_, labels) = http.servers().find(|(n, _)| *n == service).or(http.servers().next())?;
    let port = text(&labels, "port").and_then(|p| p.parse().ok()).or(endpoint.port)?;
    let scheme = text(&labels, "scheme").unwrap_or("http");
    let address = endpoint.addresses.iter().find(|a| a.is_ipv4()).or(endpoint.addresses.first())?;
    let url = format!("{scheme}://{}", std::net::SocketAddr::new(*address, port));
    let mut server = Mapping::from_iter([("url".into(), url.into())]);
    let is_in_url = |k: &Value| {
        ["port", "scheme", "url"].iter().any(|n| k.as_str().is_some_and(|k| k.eq_ignore_ascii_case(n)))
    };
    server.extend(labels.into_iter().filter(|(k, _)| !is_in_url(k)));
    Some(server.into())
}

/// Traefik reaches the instance by the transport of our file.
pub fn has_own_transport(endpoint: &Endpoint) -> bool {
    let http = HttpLabels::parse(&endpoint.labels);
    let mut balancers = http.services.values().filter_map(|s| get_map(s.as_mapping()?, "loadbalancer"));
    balancers.all(|b| text(b, "serverstransport").is_none())
}

fn map<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    pairs.into_iter().map(|(k, v)| (k.into(), v)).collect::<Mapping>().into()
}

fn single(key: &str, value: Value) -> Value {
    map([(key, value)])
}
