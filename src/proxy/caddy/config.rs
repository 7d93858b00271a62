//! Caddy's configuration: the `reverse_proxy` handlers that route to a service, and the switch in front of
//! each.
//!
//! A switch decides by files, which Caddy reads for every request, so turning the switch needs no reload.
//! Without the file `on` the switch passes requests to the handler behind it. With `on`, requests go to the
//! names in the slots of one of two banks: `b` with the file `switched`, else `a`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

/// Name of our folder in the proxy, which also distinguishes a switch from a user's subroute.
pub const FOLDER: &str = "compose-zd";

/// Passive checks that count late answers, or many at a time, as failures.
const LATE_OR_MANY: [&str; 2] = ["unhealthy_latency", "unhealthy_request_count"];

/// Default refresh interval of `dynamic a`. Source: Caddy, reverseproxy/upstreams.go.
const REFRESH: Duration = Duration::from_secs(60);

/// Features of a Caddy version that a switch uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaddyFeatures {
    /// Writable folder whose files disappear when the container restarts.
    pub folder: String,
    /// Since 2.8: `{file.PATH}` means the content of a file, also in an upstream's address.
    pub reads_files: bool,
    /// Since 2.11: an upstream with TLS gets its own address as `Host`.
    pub sets_host: bool,
    /// Since 2.11.2: requests in flight are also counted by the name in a slot.
    pub counts_names: bool,
}

impl CaddyFeatures {
    /// Folder of a switch.
    pub fn switch_folder(&self, key: &str) -> String {
        format!("{}/{FOLDER}/{key}", self.folder)
    }

    /// Number of slots of a bank: even shares for 2, 3, 4 and 6 instances. Without `{file.…}`, each slot costs
    /// every request a look-up in a folder.
    pub fn slots(&self) -> usize {
        if self.reads_files { 24 } else { 12 }
    }

    /// Placeholder for the name in a slot.
    fn placeholder(&self, path: &str) -> String {
        if self.reads_files { format!("{{file.{path}}}") } else { format!("{{http.vars.{path}}}") }
    }

    /// Matcher for a file. The default file system is named, because a site may have another.
    fn file_matcher(&self, folder: &str, name: &str) -> Value {
        let mut matcher = json!({"root": folder, "try_files": [format!("/{name}")]});
        if self.reads_files {
            matcher["fs"] = json!("default");
        }
        json!([{ "file": matcher }])
    }
}

/// An upstream of a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub host: String,
    pub port: Option<u16>,
    /// The static upstream as configured; none for a dynamic one.
    pub settings: Option<Value>,
    /// Refresh interval of a dynamic upstream.
    pub refresh: Option<Duration>,
}

impl Upstream {
    /// Address by which Caddy counts the upstream's requests.
    pub fn dial(&self) -> Option<&str> {
        self.settings.as_ref()?["dial"].as_str()
    }
}

/// A `reverse_proxy` as the user wrote it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Handler {
    /// Plain host name that the routes around the handler match.
    pub public_host: Option<String>,
    /// Path that the routes around the handler match, such as `/shop/` for `/shop/*`.
    pub public_path: Option<String>,
    pub upstreams: Vec<Upstream>,
    /// The handler retries a failed connection on another upstream.
    pub retries: bool,
    /// The handler speaks FastCGI to its upstreams.
    pub fastcgi: bool,
}

impl From<&Value> for Handler {
    fn from(handler: &Value) -> Self {
        let balancing = &handler["load_balancing"];
        Handler {
            upstreams: upstreams(handler),
            // Either of two options. Source: `LoadBalancing` of Caddy's reverse proxy.
            retries: ["try_duration", "retries"].iter().any(|key| balancing.get(key).is_some()),
            fastcgi: handler["transport"]["protocol"] == "fastcgi",
            ..Handler::default()
        }
    }
}

impl Handler {
    /// Upstreams of the handler with one of these names.
    pub fn upstreams_of<'a>(&'a self, names: &'a BTreeSet<String>) -> impl Iterator<Item = &'a Upstream> {
        self.upstreams.iter().filter(|u| names.contains(&u.host))
    }

    /// Key of the switch in front of the handler.
    pub fn key(&self, names: &BTreeSet<String>) -> Option<String> {
        let hosts: BTreeSet<&str> = self.upstreams_of(names).map(|u| u.host.as_str()).collect();
        (!hosts.is_empty()).then(|| hosts.into_iter().collect::<Vec<_>>().join("+"))
    }
}

/// All `reverse_proxy` handlers of a configuration, including those behind a switch.
pub fn handlers(config: &Value) -> Vec<Handler> {
    handlers_in(&config["apps"]["http"])
}

/// All `reverse_proxy` handlers in a part of a configuration.
pub fn handlers_in(routes: &Value) -> Vec<Handler> {
    let handler = |Found { host, path, handler }: Found| Handler {
        public_host: host.map(String::from),
        public_path: path.map(String::from),
        ..Handler::from(handler)
    };
    find(routes, None, None).into_iter().map(handler).collect()
}

/// A `reverse_proxy`, and the plain host and the path that the routes around it match.
struct Found<'a> {
    host: Option<&'a str>,
    path: Option<&'a str>,
    handler: &'a Value,
}

fn find<'a>(value: &'a Value, host: Option<&'a str>, path: Option<&'a str>) -> Vec<Found<'a>> {
    let value = behind_switch(value).unwrap_or(value);
    let host = matched(value, "host", |host| !host.contains(['*', '{'])).or(host);
    let own_path = matched(value, "path", |path| path.starts_with('/') && !path.contains('{'));
    let path = own_path.and_then(|path| path.split('*').next()).or(path);
    let own = is_proxy(value).then_some(Found { host, path, handler: value });
    own.into_iter().chain(children(value).into_iter().flat_map(|child| find(child, host, path))).collect()
}

/// First such text that a route matches.
fn matched<'a>(route: &'a Value, key: &str, is_plain: impl Fn(&str) -> bool) -> Option<&'a str> {
    let sets = route["match"].as_array()?.iter();
    let mut texts = sets.filter_map(|set| set[key].as_array()).flatten().filter_map(Value::as_str);
    texts.find(|text| is_plain(text))
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(fields) => fields.values().collect(),
        Value::Array(items) => items.iter().collect(),
        _ => Vec::new(),
    }
}

fn is_proxy(value: &Value) -> bool {
    value["handler"] == "reverse_proxy"
}

pub fn upstreams(handler: &Value) -> Vec<Upstream> {
    let static_upstreams = handler["upstreams"].as_array().into_iter().flatten().filter_map(static_upstream);
    let dynamic = sources(&handler["dynamic_upstreams"]).into_iter().filter_map(dynamic_upstream);
    static_upstreams.chain(dynamic).collect()
}

fn static_upstream(settings: &Value) -> Option<Upstream> {
    let (host, port) = host_and_port(settings["dial"].as_str()?)?;
    Some(Upstream { host, port, settings: Some(settings.clone()), refresh: None })
}

fn dynamic_upstream(source: &Value) -> Option<Upstream> {
    let port = match (source["source"].as_str()?, source["port"].as_str()) {
        ("a", None) => Some(80),
        ("a", Some(port)) => port.parse().ok(),
        _ => None,
    };
    let refresh = Some(duration(&source["refresh"]).unwrap_or(REFRESH));
    Some(Upstream { host: source["name"].as_str()?.into(), port, settings: None, refresh })
}

/// Description of a route that may lead to one of these names, and that cannot get a switch: an address with a
/// placeholder, a dynamic source of a plugin, or an app other than `http`.
pub fn unknown_route(
    config: &Value,
    names: &BTreeSet<String>,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Option<String> {
    let may_match = |address: &&str| {
        let address = with_variables(address, variable);
        let host = host_and_port(&address).map_or(address.clone(), |(host, _)| host);
        host.contains('{') || names.contains(&host)
    };
    let unknown = |Found { handler, .. }: Found| {
        let dials = handler["upstreams"].as_array().into_iter().flatten().map(|u| &u["dial"]);
        let sources = sources(&handler["dynamic_upstreams"]);
        let addresses = dials.chain(sources.iter().map(|source| &source["name"])).filter_map(Value::as_str);
        if let Some(address) = addresses.filter(|a| a.contains('{')).find(may_match) {
            return Some(format!("its `reverse_proxy {address}` is resolved only when a request arrives"));
        }
        let plugin =
            sources.iter().filter_map(|s| s["source"].as_str()).find(|s| !["a", "srv"].contains(s))?;
        Some(format!("its `dynamic {plugin}` finds upstreams in an unknown way"))
    };
    let found = find(&config["apps"]["http"], None, None);
    found.into_iter().find_map(unknown).or_else(|| other_app(config, names))
}

/// Description of an app other than `http` that names an address of ours.
fn other_app(config: &Value, names: &BTreeSet<String>) -> Option<String> {
    let is_ours = |text: &&str| host_and_port(text).is_some_and(|(host, _)| names.contains(&host));
    let apps = config["apps"].as_object()?.iter().filter(|(app, _)| *app != "http");
    let mut named =
        apps.filter_map(|(app, settings)| Some((app, strings(settings).into_iter().find(is_ours)?)));
    named.next().map(|(app, address)| format!("its app `{app}` names `{address}`"))
}

/// Replaces the known variables in an address (`{env.NAME}`) by their values.
fn with_variables(address: &str, variable: &dyn Fn(&str) -> Option<String>) -> String {
    let mut text = address.to_string();
    for (at, _) in address.match_indices("{env.") {
        let name = address[at + 5..].split('}').next().unwrap_or_default();
        if let Some(value) = variable(name) {
            text = text.replace(&format!("{{env.{name}}}"), &value);
        }
    }
    text
}

fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        _ => children(value).into_iter().flat_map(strings).collect(),
    }
}

/// Sources of dynamic upstreams, with each source of a `multi`.
fn sources(value: &Value) -> Vec<&Value> {
    match value["sources"].as_array() {
        Some(list) => list.iter().flat_map(sources).collect(),
        None => vec![value],
    }
}

/// Parses `app:3000`, `tcp/app:3000` or `[::1]:3000`. A socket's path does not count, and a range of ports
/// gives no port.
fn host_and_port(dial: &str) -> Option<(String, Option<u16>)> {
    let address = match dial.split_once('/') {
        Some((network, rest)) if network.starts_with("tcp") => rest,
        Some(_) => return None,
        None => dial,
    };
    let (host, port) = address.rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']).into(), port.parse().ok()))
}

/// Parses Caddy's durations: nanoseconds, or text in Go's format.
fn duration(value: &Value) -> Option<Duration> {
    match value {
        Value::Number(n) => n.as_u64().map(Duration::from_nanos),
        Value::String(text) => humantime::parse_duration(text).ok(),
        _ => None,
    }
    .filter(|d| !d.is_zero())
}

/// The handler behind a switch; none for another value.
pub fn behind_switch(value: &Value) -> Option<&Value> {
    let routes = value["routes"].as_array().filter(|_| value["handler"] == "subroute")?;
    let root = routes.first()?["match"][0]["file"]["root"].as_str()?;
    root.contains(&format!("/{FOLDER}/")).then(|| &routes[routes.len() - 1]["handle"][0])
}

/// Adds a switch in front of every handler that routes to one of these names.
pub fn with_switches(config: &Value, names: &BTreeSet<String>, features: &CaddyFeatures) -> Value {
    let add = |value: &Value| add_switch(behind_switch(value).unwrap_or(value), names, features);
    map_http(config, &add)
}

/// Removes the switches in front of handlers that route to these names.
pub fn without_switches(config: &Value, names: &BTreeSet<String>) -> Value {
    let is_relevant = |handler: &Value| upstreams(handler).iter().any(|u| names.contains(&u.host));
    map_http(config, &|value| {
        Some(without_inner_switches(behind_switch(value).filter(|h| is_relevant(h))?, names))
    })
}

fn without_inner_switches(handler: &Value, names: &BTreeSet<String>) -> Value {
    let config = json!({"apps": {"http": handler}});
    without_switches(&config, names)["apps"]["http"].take()
}

fn map_http(config: &Value, change: &dyn Fn(&Value) -> Option<Value>) -> Value {
    let mut config = config.clone();
    if let Some(http) = config.pointer_mut("/apps/http") {
        apply(http, change);
    }
    config
}

/// Applies a change from the inside out. The change of a switch itself also covers the handler behind it.
fn apply(value: &mut Value, change: &dyn Fn(&Value) -> Option<Value>) {
    let is_switch = behind_switch(value).is_some();
    match value {
        Value::Object(fields) if !is_switch => fields.values_mut().for_each(|v| apply(v, change)),
        Value::Array(items) => items.iter_mut().for_each(|v| apply(v, change)),
        _ => {}
    }
    if let Some(new) = change(value) {
        *value = new;
    }
}

/// Puts a switch in front of a handler; none where the handler routes to none of these names.
fn add_switch(handler: &Value, names: &BTreeSet<String>, features: &CaddyFeatures) -> Option<Value> {
    let parsed = Handler::from(handler);
    let key = parsed.key(names).filter(|_| is_proxy(handler))?;
    let folder = features.switch_folder(&key);
    // A variable keeps the decision, in case a file changes while the request passes through the routes.
    let decide = |file: &str, bank: &str| {
        let set = json!({"handler": "vars", &folder: bank});
        json!({"match": features.file_matcher(&folder, file), "handle": [set]})
    };
    let route_to = |bank: &str| {
        let handle = bank_handler(handler, &parsed, names, &format!("{folder}/{bank}"), features);
        json!({"match": [{"vars": {&folder: [bank]}}], "handle": handle})
    };
    let otherwise = json!([{"not": [{"vars": {&folder: ["a", "b"]}}]}]);
    Some(json!({"handler": "subroute", "routes": [
        decide("on", "a"),
        decide("switched", "b"),
        route_to("a"),
        route_to("b"),
        {"match": otherwise, "handle": [handler]},
    ]}))
}

/// Copy of the handler whose upstreams are the slots of a bank.
fn bank_handler(
    handler: &Value,
    parsed: &Handler,
    names: &BTreeSet<String>,
    bank: &str,
    features: &CaddyFeatures,
) -> Vec<Value> {
    let mut copy = handler.clone();
    // An id may occur only once in a configuration.
    for_each_value(&mut copy, &|value| _ = value.as_object_mut().map(|fields| fields.remove("@id")));
    keep_upstream_names(&mut copy, &parsed.upstreams, features);
    if let Some(fields) = copy.as_object_mut() {
        fields.remove("dynamic_upstreams");
        fields.insert("upstreams".into(), slots(parsed, names, bank, features).into());
    }
    // compose-zd decides about readiness during the deploy: Caddy's own check would notice a new instance only
    // half a minute later. Requests that wait in a relay are late and many, and no failure.
    if let Some(checks) = copy.get_mut("health_checks").and_then(Value::as_object_mut) {
        checks.remove("active");
        let passive = checks.get_mut("passive").and_then(Value::as_object_mut);
        passive.map(|passive| LATE_OR_MANY.map(|limit| passive.remove(limit)));
    }
    if features.reads_files { vec![copy] } else { vec![folder_lookups(bank, features), copy] }
}

/// The slots of a bank, with the port and settings of the upstreams that they replace. The other upstreams keep
/// their share.
fn slots(parsed: &Handler, names: &BTreeSet<String>, bank: &str, features: &CaddyFeatures) -> Vec<Value> {
    let (replaced, others): (Vec<&Upstream>, Vec<&Upstream>) =
        parsed.upstreams.iter().partition(|u| names.contains(&u.host));
    let slot = |n: usize| {
        let upstream = replaced[n % replaced.len()];
        let mut settings = upstream.settings.clone().unwrap_or_else(|| json!({}));
        let name = features.placeholder(&format!("{bank}/{}", n + 1));
        settings["dial"] = json!(format!("{name}:{}", upstream.port.unwrap_or(80)));
        settings
    };
    let is_dynamic = replaced.iter().any(|u| u.refresh.is_some());
    let static_others = others.iter().filter(|_| !is_dynamic).filter_map(|u| u.settings.clone());
    let repeated = static_others.flat_map(|settings| vec![settings; features.slots() / replaced.len()]);
    (0..features.slots()).map(slot).chain(repeated).collect()
}

/// Routes that read the slots before 2.8, where a slot is a folder and its only file's name is the entry.
fn folder_lookups(bank: &str, features: &CaddyFeatures) -> Value {
    let lookup = |n: usize| {
        let slot = format!("{bank}/{n}");
        let set = json!({"handler": "vars", &slot: "{http.matchers.file.relative}"});
        json!({"match": features.file_matcher(&slot, "*"), "handle": [set]})
    };
    let routes: Vec<Value> = (1..=features.slots()).map(lookup).collect();
    json!({"handler": "subroute", "routes": routes})
}

/// Keeps the host name that an instance sees. Where the handler sends the only upstream's own name, as a header
/// or in TLS, the copy has this name instead of the slot's.
fn keep_upstream_names(copy: &mut Value, upstreams: &[Upstream], features: &CaddyFeatures) {
    let [only] = upstreams else { return };
    let Some(dial) = only.dial() else { return };
    replace_text(copy, "{http.reverse_proxy.upstream.hostport}", dial);
    replace_text(copy, "{http.reverse_proxy.upstream.host}", &only.host);
    let Some(tls) = copy.pointer_mut("/transport/tls").and_then(Value::as_object_mut) else {
        return;
    };
    tls.entry("server_name").or_insert_with(|| json!(only.host));
    if features.sets_host && copy.pointer("/headers/request/set/Host").is_none() {
        set_at(copy, &["headers", "request", "set", "Host"], json!([dial]));
    }
}

/// Sets the value at a path of names. A value on the way that is not an object becomes one.
fn set_at(value: &mut Value, path: &[&str], new: Value) {
    let target = path.iter().fold(value, |value, name| {
        if !value.is_object() {
            *value = json!({});
        }
        &mut value[*name]
    });
    *target = new;
}

fn replace_text(value: &mut Value, placeholder: &str, text: &str) {
    for_each_value(value, &|value| {
        if let Value::String(s) = value {
            *s = s.replace(placeholder, text);
        }
    });
}

/// Changes a value and all values in it.
fn for_each_value(value: &mut Value, change: &dyn Fn(&mut Value)) {
    change(value);
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|v| for_each_value(v, change)),
        Value::Array(items) => items.iter_mut().for_each(|v| for_each_value(v, change)),
        _ => {}
    }
}

#[cfg(test)]
pub mod tests;
