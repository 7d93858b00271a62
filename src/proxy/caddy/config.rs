//! Caddy's configuration: the `reverse_proxy` handlers that route to a service, and the switch put in front of each.
//!
//! A switch decides by files, which Caddy looks at for every request, so that no reload is needed to turn it. Without
//! the file `on` it hands over to the handler behind it, as if it were not there. With it, requests go to the names in
//! the slots of one of two banks: `b` with the file `switched`, else `a`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

/// The name of our folder in the proxy, and what tells a switch from a user's own subroute.
pub const OURS: &str = "compose-zd";

/// How long `dynamic a` keeps what it looked up, unless told otherwise. Source: Caddy, reverseproxy/upstreams.go.
const REFRESH: Duration = Duration::from_secs(60);

/// What a Caddy offers to a switch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaddyFeatures {
    /// Where files can be written, and are gone with the container's next start.
    pub folder: String,
    /// Since 2.8: `{file.PATH}` stands for what a file says, in an upstream's address too.
    pub reads_files: bool,
    /// Since 2.11: an upstream with TLS is sent its own address as `Host`.
    pub sets_host: bool,
    /// Since 2.11.2: what is in flight is also counted by the name that a slot had.
    pub counts_names: bool,
}

impl CaddyFeatures {
    /// The folder of a switch.
    pub fn place(&self, key: &str) -> String {
        format!("{}/{OURS}/{key}", self.folder)
    }

    /// How many slots a bank has: even shares for 2, 3, 4 and 6 instances. Without `{file.…}` each costs every request
    /// a look into a folder.
    pub fn slots(&self) -> usize {
        if self.reads_files { 24 } else { 12 }
    }

    /// What stands for the name in a slot.
    fn slot(&self, path: &str) -> String {
        match self.reads_files {
            true => format!("{{file.{path}}}"),
            false => format!("{{http.vars.{path}}}"),
        }
    }

    /// A matcher on a file. The default file system is named where a site may have another.
    fn file(&self, folder: &str, name: &str) -> Value {
        let mut matcher = json!({"root": folder, "try_files": [format!("/{name}")]});
        if self.reads_files {
            matcher["fs"] = json!("default");
        }
        json!([{ "file": matcher }])
    }
}

/// Where a handler sends requests to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub host: String,
    pub port: Option<u16>,
    /// As its static address is written, and other settings of it.
    pub given: Option<Value>,
    /// How long it keeps the addresses of a dynamic one.
    pub refresh: Option<Duration>,
}

impl Upstream {
    /// The key of Caddy's count of its requests.
    pub fn dial(&self) -> Option<&str> {
        self.given.as_ref()?["dial"].as_str()
    }
}

/// A `reverse_proxy` as the user wrote it.
#[derive(Debug, Clone, PartialEq)]
pub struct Handler {
    /// A plain host name that the routes around it ask for.
    pub public: Option<String>,
    pub upstreams: Vec<Upstream>,
    /// It tries another upstream where one cannot be reached.
    pub retries: bool,
    /// It speaks FastCGI to them.
    pub fastcgi: bool,
}

impl Handler {
    /// Those of its upstreams that are among these names.
    pub fn ours<'a>(&'a self, names: &'a BTreeSet<String>) -> impl Iterator<Item = &'a Upstream> {
        self.upstreams.iter().filter(|u| names.contains(&u.host))
    }

    /// What a switch in front of it is called.
    pub fn key(&self, names: &BTreeSet<String>) -> Option<String> {
        let hosts: BTreeSet<&str> = self.ours(names).map(|u| u.host.as_str()).collect();
        (!hosts.is_empty()).then(|| hosts.into_iter().collect::<Vec<_>>().join("+"))
    }
}

/// Every `reverse_proxy` of a configuration, those behind a switch included.
pub fn handlers(config: &Value) -> Vec<Handler> {
    let mut found = Vec::new();
    collect(&config["apps"]["http"], None, &mut found);
    found
}

fn collect(value: &Value, public: Option<&str>, found: &mut Vec<Handler>) {
    let value = original(value).unwrap_or(value);
    let public = public_host(value).or(public);
    if is_proxy(value) {
        let (public, upstreams) = (public.map(String::from), upstreams(value));
        found.push(Handler { public, upstreams, retries: retries(value), fastcgi: is_fastcgi(value) });
    }
    children(value).for_each(|child| collect(child, public, found));
}

pub fn children(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Object(fields) => Box::new(fields.values()),
        Value::Array(items) => Box::new(items.iter()),
        _ => Box::new(std::iter::empty()),
    }
}

/// The first name of a route's host matcher that is neither a wildcard nor a placeholder.
pub fn public_host(route: &Value) -> Option<&str> {
    let sets = route["match"].as_array()?.iter();
    let mut hosts = sets.filter_map(|set| set["host"].as_array()).flatten().filter_map(Value::as_str);
    hosts.find(|host| !host.contains(['*', '{']))
}

/// Source: `LoadBalancing` of Caddy's reverse proxy; either of the two makes it try again.
fn retries(handler: &Value) -> bool {
    let balancing = &handler["load_balancing"];
    ["try_duration", "retries"].iter().any(|key| balancing.get(key).is_some())
}

fn is_fastcgi(handler: &Value) -> bool {
    handler["transport"]["protocol"] == "fastcgi"
}

pub fn is_proxy(value: &Value) -> bool {
    value["handler"] == "reverse_proxy"
}

pub fn upstreams(handler: &Value) -> Vec<Upstream> {
    let fixed = handler["upstreams"].as_array().into_iter().flatten().filter_map(fixed);
    let dynamic = sources(&handler["dynamic_upstreams"]).into_iter().filter_map(dynamic);
    fixed.chain(dynamic).collect()
}

fn fixed(given: &Value) -> Option<Upstream> {
    let (host, port) = host_and_port(given["dial"].as_str()?)?;
    Some(Upstream { host, port, given: Some(given.clone()), refresh: None })
}

fn dynamic(source: &Value) -> Option<Upstream> {
    let port = match (source["source"].as_str()?, source["port"].as_str()) {
        ("a", None) => Some(80),
        ("a", Some(port)) => port.parse().ok(),
        _ => None,
    };
    let refresh = Some(duration(&source["refresh"]).unwrap_or(REFRESH));
    Some(Upstream { host: source["name"].as_str()?.into(), port, given: None, refresh })
}

/// Words of a route that may lead to one of these names, and that no switch can be put in front of: an address with a
/// placeholder, a dynamic source of a plugin, or an app other than `http`.
pub fn unknown_route(
    config: &Value,
    names: &BTreeSet<String>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Option<String> {
    let leads = |address: &str| {
        let address = resolved(address, variable);
        let host = host_and_port(&address).map_or(address.clone(), |(host, _)| host);
        host.contains('{') || names.contains(&host)
    };
    let mut proxies = Vec::new();
    collect_proxies(&config["apps"]["http"], &mut proxies);
    for proxy in proxies {
        let dials = proxy["upstreams"].as_array().into_iter().flatten().filter_map(|u| u["dial"].as_str());
        let sources = sources(&proxy["dynamic_upstreams"]);
        let hosts = sources.iter().filter_map(|source| source["name"].as_str());
        let mut open = dials.chain(hosts).filter(|address| address.contains('{'));
        if let Some(address) = open.find(|address| leads(address)) {
            return Some(format!("its `reverse_proxy {address}` is resolved only when a request comes"));
        }
        let plugins = sources.iter().filter_map(|source| source["source"].as_str());
        if let Some(plugin) = plugins.into_iter().find(|source| !["a", "srv"].contains(source)) {
            return Some(format!("its `dynamic {plugin}` finds upstreams in a way that is not known"));
        }
    }
    let apps = config["apps"].as_object().into_iter().flatten().filter(|(app, _)| *app != "http");
    let mut addresses = apps.flat_map(|(app, own)| texts(own).into_iter().map(move |text| (app, text)));
    let (app, address) =
        addresses.find(|(_, text)| host_and_port(text).is_some_and(|(h, _)| names.contains(&h)))?;
    Some(format!("its app `{app}` names `{address}`"))
}

/// An address with the values of the variables in it (`{env.NAME}`), as far as they are known.
fn resolved(address: &str, variable: &dyn Fn(&str) -> Option<String>) -> String {
    let mut text = address.to_string();
    for (at, _) in address.match_indices("{env.") {
        let name = address[at + 5..].split('}').next().unwrap_or_default();
        if let Some(value) = variable(name) {
            text = text.replace(&format!("{{env.{name}}}"), &value);
        }
    }
    text
}

/// Every `reverse_proxy`, those behind a switch included.
fn collect_proxies<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    let value = original(value).unwrap_or(value);
    if is_proxy(value) {
        found.push(value);
    }
    children(value).for_each(|child| collect_proxies(child, found));
}

fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        _ => children(value).flat_map(texts).collect(),
    }
}

/// The sources of dynamic upstreams, those of a `multi` one by one.
fn sources(value: &Value) -> Vec<&Value> {
    match value["sources"].as_array() {
        Some(all) => all.iter().flat_map(sources).collect(),
        None => vec![value],
    }
}

/// Reads `app:3000`, `tcp/app:3000` or `[::1]:3000`; a socket's path and a range of ports are none.
fn host_and_port(dial: &str) -> Option<(String, Option<u16>)> {
    let address = match dial.split_once('/') {
        Some((network, rest)) if network.starts_with("tcp") => rest,
        Some(_) => return None,
        None => dial,
    };
    let (host, port) = address.rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']).into(), port.parse().ok()))
}

/// Caddy's durations: nanoseconds, or text as Go writes it.
fn duration(value: &Value) -> Option<Duration> {
    match value {
        Value::Number(n) => n.as_u64().map(Duration::from_nanos),
        Value::String(text) => humantime::parse_duration(text).ok(),
        _ => None,
    }
    .filter(|d| !d.is_zero())
}

/// The handler behind a switch.
pub fn original(value: &Value) -> Option<&Value> {
    let routes = value["routes"].as_array().filter(|_| value["handler"] == "subroute")?;
    let root = routes.first()?["match"][0]["file"]["root"].as_str()?;
    root.contains(&format!("/{OURS}/")).then(|| &routes[routes.len() - 1]["handle"][0])
}

/// The configuration with a switch in front of every handler that routes to one of these names.
pub fn switched(config: &Value, names: &BTreeSet<String>, means: &CaddyFeatures) -> Value {
    let put = |value: &Value| switch(original(value).unwrap_or(value), names, means);
    changed(config, &put)
}

/// The configuration without the switches in front of these names.
pub fn plain(config: &Value, names: &BTreeSet<String>) -> Value {
    let ours = |handler: &Value| upstreams(handler).iter().any(|u| names.contains(&u.host));
    changed(config, &|value| Some(plain_handler(original(value).filter(|h| ours(h))?, names)))
}

fn plain_handler(handler: &Value, names: &BTreeSet<String>) -> Value {
    let inside = json!({"apps": {"http": handler}});
    plain(&inside, names)["apps"]["http"].take()
}

fn changed(config: &Value, change: &dyn Fn(&Value) -> Option<Value>) -> Value {
    let mut config = config.clone();
    if let Some(http) = config.pointer_mut("/apps/http") {
        apply(http, change);
    }
    config
}

/// From the inside out; what is behind a switch already is left to the change of the switch.
fn apply(value: &mut Value, change: &dyn Fn(&Value) -> Option<Value>) {
    let is_switch = original(value).is_some();
    match value {
        Value::Object(fields) if !is_switch => fields.values_mut().for_each(|v| apply(v, change)),
        Value::Array(items) => items.iter_mut().for_each(|v| apply(v, change)),
        _ => {}
    }
    if let Some(new) = change(value) {
        *value = new;
    }
}

/// A switch in front of a handler; none where it does not route to any of these names.
fn switch(handler: &Value, names: &BTreeSet<String>, means: &CaddyFeatures) -> Option<Value> {
    let (upstreams, retries) = (upstreams(handler), retries(handler));
    let parsed = Handler { public: None, upstreams, retries, fastcgi: is_fastcgi(handler) };
    let key = parsed.key(names).filter(|_| is_proxy(handler))?;
    let place = means.place(&key);
    // A variable keeps what was decided, should the file change while the request goes on along the routes.
    let decide = |file: &str, bank: &str| {
        let set = json!({"handler": "vars", &place: bank});
        json!({"match": means.file(&place, file), "handle": [set]})
    };
    let by = |bank: &str| {
        let handle = banked(handler, &parsed, names, &format!("{place}/{bank}"), means);
        json!({"match": [{"vars": {&place: [bank]}}], "handle": handle})
    };
    let otherwise = json!([{"not": [{"vars": {&place: ["a", "b"]}}]}]);
    Some(json!({"handler": "subroute", "routes": [
        decide("on", "a"),
        decide("switched", "b"),
        by("a"),
        by("b"),
        {"match": otherwise, "handle": [handler]},
    ]}))
}

/// The handler with the slots of a bank in place of what it routes to by name.
fn banked(
    handler: &Value,
    parsed: &Handler,
    names: &BTreeSet<String>,
    bank: &str,
    means: &CaddyFeatures,
) -> Vec<Value> {
    let mut copy = handler.clone();
    without_ids(&mut copy);
    keep_names(&mut copy, &parsed.upstreams, means);
    if let Some(fields) = copy.as_object_mut() {
        fields.remove("dynamic_upstreams");
        fields.insert("upstreams".into(), slots(parsed, names, bank, means).into());
    }
    // Who is ready is told by us meanwhile: a check of Caddy's own would only see a new instance half a minute later.
    if let Some(checks) = copy.get_mut("health_checks").and_then(Value::as_object_mut) {
        checks.remove("active");
    }
    match means.reads_files {
        true => vec![copy],
        false => vec![looks(bank, means), copy],
    }
}

/// As many slots as there are, with the port and settings of the upstreams that they stand for; the other upstreams
/// keep their share.
fn slots(parsed: &Handler, names: &BTreeSet<String>, bank: &str, means: &CaddyFeatures) -> Vec<Value> {
    let (ours, others): (Vec<&Upstream>, Vec<&Upstream>) =
        parsed.upstreams.iter().partition(|u| names.contains(&u.host));
    let slot = |n: usize| {
        let upstream = ours[n % ours.len()];
        let mut given = upstream.given.clone().unwrap_or_else(|| json!({}));
        let name = means.slot(&format!("{bank}/{}", n + 1));
        given["dial"] = json!(format!("{name}:{}", upstream.port.unwrap_or(80)));
        given
    };
    let is_dynamic = ours.iter().any(|u| u.refresh.is_some());
    let kept = others.iter().filter(|_| !is_dynamic).filter_map(|u| u.given.clone());
    let kept = kept.flat_map(|given| vec![given; means.slots() / ours.len()]);
    (0..means.slots()).map(slot).chain(kept).collect()
}

/// Before 2.8 a slot is a folder, and the name in it that of its only file.
fn looks(bank: &str, means: &CaddyFeatures) -> Value {
    let look = |n: usize| {
        let slot = format!("{bank}/{n}");
        let set = json!({"handler": "vars", &slot: "{http.matchers.file.relative}"});
        json!({"match": means.file(&slot, "*"), "handle": [set]})
    };
    let routes: Vec<Value> = (1..=means.slots()).map(look).collect();
    json!({"handler": "subroute", "routes": routes})
}

/// An id may stand only once in a configuration.
fn without_ids(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("@id");
            fields.values_mut().for_each(without_ids);
        }
        Value::Array(items) => items.iter_mut().for_each(without_ids),
        _ => {}
    }
}

/// An instance is not to notice under which name it was found: where the only upstream's own name is sent on, as a
/// header or in TLS, it is written out.
fn keep_names(copy: &mut Value, upstreams: &[Upstream], means: &CaddyFeatures) {
    let [only] = upstreams else {
        return;
    };
    let Some(dial) = only.dial() else {
        return;
    };
    write_out(copy, "{http.reverse_proxy.upstream.hostport}", dial);
    write_out(copy, "{http.reverse_proxy.upstream.host}", &only.host);
    let Some(tls) = copy.pointer_mut("/transport/tls").and_then(Value::as_object_mut) else {
        return;
    };
    tls.entry("server_name").or_insert_with(|| json!(only.host));
    if means.sets_host && copy.pointer("/headers/request/set/Host").is_none() {
        set(copy, &["headers", "request", "set", "Host"], json!([dial]));
    }
}

/// Puts a value where a path of names leads; on the way what is no object becomes one.
fn set(value: &mut Value, path: &[&str], new: Value) {
    let place = path.iter().fold(value, |value, name| {
        if !value.is_object() {
            *value = json!({});
        }
        &mut value[*name]
    });
    *place = new;
}

fn write_out(value: &mut Value, placeholder: &str, text: &str) {
    match value {
        Value::String(s) => *s = s.replace(placeholder, text),
        Value::Object(fields) => fields.values_mut().for_each(|v| write_out(v, placeholder, text)),
        Value::Array(items) => items.iter_mut().for_each(|v| write_out(v, placeholder, text)),
        _ => {}
    }
}

#[cfg(test)]
pub mod tests;
