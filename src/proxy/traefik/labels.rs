//! Traefik's labels of a container, as a tree that can go into a file of routes. Traefik reads labels and files
//! into the same structures. Both ignore case, and lists may be written with commas.

use std::collections::BTreeMap;

use serde_yaml::{Mapping, Value};

use super::static_config::is_true;

pub type Labels = BTreeMap<String, String>;

/// The `traefik.http` section of labels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HttpLabels {
    pub routers: Mapping,
    pub middlewares: Mapping,
    pub services: Mapping,
}

/// Limit of the depth, against a stack overflow: deeper than any setting of Traefik.
const MAX_DEPTH: usize = 32;

/// Words of rules for WebSockets and event streams.
const STREAM_WORDS: [&str; 4] = ["/ws", "websocket", "socket.io", "/sse"];

/// Labels of Traefik, without the prefix: `http.routers.app.rule`.
fn traefik_labels(labels: &Labels) -> impl Iterator<Item = (&str, &str)> {
    let without_prefix = |key| -> Option<&str> {
        let (start, rest) = str::split_at_checked(key, "traefik.".len())?;
        start.eq_ignore_ascii_case("traefik.").then_some(rest)
    };
    labels.iter().filter_map(move |(k, v)| Some((without_prefix(k)?, v.as_str())))
}

fn is_in_section(key: &str, word: &str) -> bool {
    key.split('.').next().is_some_and(|k| k.eq_ignore_ascii_case(word))
}

pub fn get<'a>(labels: &'a Labels, key: &str) -> Option<&'a str> {
    traefik_labels(labels).find(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, v)| v)
}

/// Value of `traefik.enable`, where it is set.
pub fn enabled(labels: &Labels) -> Option<bool> {
    get(labels, "enable").map(is_true)
}

/// The labels mention a route.
pub fn mention_a_route(labels: &Labels) -> bool {
    traefik_labels(labels).any(|(k, _)| ["http", "tcp", "udp"].iter().any(|word| is_in_section(k, word)))
}

/// The first label about plain TCP or UDP.
pub fn tcp_or_udp_label(labels: &Labels) -> Option<&str> {
    traefik_labels(labels).map(|(k, _)| k).find(|k| is_in_section(k, "tcp") || is_in_section(k, "udp"))
}

impl HttpLabels {
    /// Parses the labels and adds Traefik's defaults: a service and a router where there is none, and the
    /// service of a router.
    pub fn parse(labels: &Labels) -> HttpLabels {
        let mut root = Mapping::new();
        for (key, value) in traefik_labels(labels).filter(|(k, _)| is_in_section(k, "http")) {
            let path: Vec<&str> = key.split('.').skip(1).collect();
            if path.len() <= MAX_DEPTH {
                insert(&mut root, &path, value);
            }
        }
        let mut section = |name| match remove(&mut root, name) {
            Some(Value::Mapping(map)) => map,
            _ => Mapping::new(),
        };
        let mut http = HttpLabels {
            routers: section("routers"),
            middlewares: section("middlewares"),
            services: section("services"),
        };
        http.add_defaults(&default_name(labels));
        http
    }

    fn add_defaults(&mut self, name: &str) {
        if self.services.is_empty() {
            self.services.insert(name.into(), Mapping::new().into());
        }
        if self.routers.is_empty() && self.services.len() == 1 {
            self.routers.insert(name.into(), Mapping::new().into());
        }
        let only = self.services.keys().next().filter(|_| self.services.len() == 1).cloned();
        for router in self.routers.values_mut().filter_map(Value::as_mapping_mut) {
            if let (None, Some(service)) = (text(router, "service"), &only) {
                router.insert("service".into(), service.clone());
            }
        }
    }

    pub fn service_names(&self) -> Vec<String> {
        names(&self.services)
    }

    pub fn has_middlewares(&self) -> bool {
        self.routers.values().any(|r| r.as_mapping().is_some_and(|r| text(r, "middlewares").is_some()))
    }

    /// True if the labels are those of a service with WebSockets or event streams, which may be silent for long.
    pub fn mention_streams(&self) -> bool {
        let mut labels = Vec::new();
        for map in [&self.routers, &self.services] {
            flatten("", &map.clone().into(), &mut labels);
        }
        let names_a_stream =
            |value: &str| STREAM_WORDS.iter().any(|word| value.to_lowercase().contains(word));
        labels
            .iter()
            .any(|(key, value)| key.to_lowercase().ends_with(".flushinterval") || names_a_stream(value))
    }

    pub fn rules(&self) -> impl Iterator<Item = &str> {
        self.routers.values().filter_map(|r| text(r.as_mapping()?, "rule"))
    }

    /// Services by name, each with its `loadbalancer.server` labels.
    pub fn servers(&self) -> impl Iterator<Item = (&str, Mapping)> {
        self.services.iter().filter_map(|(name, service)| {
            let balancer = service.as_mapping().and_then(|s| get_map(s, "loadbalancer"));
            let server = balancer.and_then(|b| get_map(b, "server")).cloned();
            Some((name.as_str()?, server.unwrap_or_default()))
        })
    }

    /// Port of the first service that sets one.
    pub fn port(&self) -> Option<u16> {
        self.servers().find_map(|(_, server)| text(&server, "port")?.parse().ok())
    }
}

fn names(map: &Mapping) -> Vec<String> {
    map.keys().filter_map(|k| k.as_str().map(String::from)).collect()
}

/// `SERVICE-PROJECT`, Traefik's name for an unnamed service and its router.
pub fn default_name(labels: &Labels) -> String {
    let label = |key: &str| labels.get(&format!("com.docker.compose.{key}")).map_or("", String::as_str);
    normalize(&format!("{}_{}", label("service"), label("project")))
}

fn normalize(name: &str) -> String {
    let words = name.split(|c: char| !c.is_alphanumeric());
    words.filter(|w| !w.is_empty()).collect::<Vec<_>>().join("-")
}

/// Rule of a router without one, from `providers.docker.defaultRule`; none where the template needs more than a
/// name or a label.
pub fn default_rule(template: &str, labels: &Labels) -> Option<String> {
    let mut rule = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (inner, after) = after.split_once("}}")?;
        rule += before;
        rule += &evaluate(inner.trim(), labels)?;
        rest = after;
    }
    Some(rule + rest)
}

fn evaluate(expression: &str, labels: &Labels) -> Option<String> {
    match expression.split_whitespace().collect::<Vec<_>>()[..] {
        [".Name"] | ["normalize", ".Name"] | ["trimPrefix", "`/`", ".Name"] => Some(default_name(labels)),
        ["index", ".Labels", key] => labels.get(key.trim_matches(['"', '`'])).cloned(),
        _ => None,
    }
}

/// First host in a rule: `Host(`a.example`)`.
pub fn host(rule: &str) -> Option<String> {
    let at = rule.match_indices("Host(").find(|(at, _)| !rule[..*at].ends_with(char::is_alphanumeric))?.0;
    let name = rule[at + "Host(".len()..].split([')', ',']).next()?;
    let name = name.trim().trim_matches(['`', '"', '\'']);
    (!name.is_empty() && !name.contains(['*', '{'])).then(|| name.into())
}

/// Inserts a value at a path. `name[2]` is an index in a list, and a deeper path replaces a value on its way.
pub fn insert(map: &mut Mapping, path: &[&str], value: &str) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    let (name, index) = match first.strip_suffix(']').and_then(|f| f.split_once('[')) {
        Some((name, index)) => (name, index.parse::<usize>().ok().filter(|i| *i < 1000)),
        None => (*first, None),
    };
    let target = map.entry(key_like(map, name)).or_insert(Value::Null);
    let target = match index {
        Some(index) => list_item(target, index),
        None => target,
    };
    match (rest, &*target) {
        ([], Value::Mapping(_)) => {}
        ([], _) => *target = value.into(),
        (_, Value::Mapping(_)) => insert(target.as_mapping_mut().expect("a mapping"), rest, value),
        _ => {
            let mut child = Mapping::new();
            insert(&mut child, rest, value);
            *target = child.into();
        }
    }
}

/// Appends the values of a tree as labels, the reverse of [`insert`].
pub fn flatten(key: &str, value: &Value, labels: &mut Vec<(String, String)>) {
    match value {
        Value::Mapping(map) => map.iter().for_each(|(name, value)| {
            flatten(&format!("{key}.{}", name.as_str().unwrap_or_default()), value, labels);
        }),
        Value::Sequence(list) => {
            list.iter().enumerate().for_each(|(n, value)| flatten(&format!("{key}[{n}]"), value, labels));
        }
        Value::String(text) => labels.push((key.into(), text.clone())),
        _ => {}
    }
}

fn list_item(list: &mut Value, index: usize) -> &mut Value {
    if !list.is_sequence() {
        *list = Value::Sequence(Vec::new());
    }
    let items = list.as_sequence_mut().expect("a sequence");
    if items.len() <= index {
        items.resize(index + 1, Value::Null);
    }
    &mut items[index]
}

/// An existing key that differs only in case, else this key.
fn key_like(map: &Mapping, name: &str) -> Value {
    let is_same = |key: &&Value| key.as_str().is_some_and(|k| k.eq_ignore_ascii_case(name));
    map.keys().find(is_same).cloned().unwrap_or(name.into())
}

pub fn remove(map: &mut Mapping, name: &str) -> Option<Value> {
    let key = key_like(map, name);
    map.remove(&key)
}

pub fn get_map<'a>(map: &'a Mapping, name: &str) -> Option<&'a Mapping> {
    map.get(key_like(map, name))?.as_mapping()
}

pub fn text<'a>(map: &'a Mapping, name: &str) -> Option<&'a str> {
    map.get(key_like(map, name))?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        text.lines().filter_map(|l| l.trim().split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
    }

    fn yaml(map: &Mapping) -> String {
        serde_yaml::to_string(map).unwrap()
    }

    const COMPOSE: &str = "com.docker.compose.project=my_p\ncom.docker.compose.service=app\n";

    #[test]
    fn labels_become_a_tree() {
        let http = HttpLabels::parse(&labels(
            "traefik.http.routers.app.rule=Host(`a.b`)
             traefik.http.routers.app.tls=true
             traefik.http.routers.app.tls.domains[0].main=a.b
             traefik.http.routers.app.tls.domains[0].sans=c,d
             Traefik.HTTP.Routers.app.entryPoints=web,websecure
             traefik.http.services.one.loadbalancer.server.port=3000",
        ));
        assert_eq!(
            yaml(&http.routers),
            "app:
  entryPoints: web,websecure
  rule: Host(`a.b`)
  tls:
    domains:
    - main: a.b
      sans: c,d
  service: one
"
        );
        assert_eq!(http.port(), Some(3000));
    }

    #[test]
    fn a_label_that_is_too_deep_is_ignored() {
        let deep =
            format!("traefik.http.routers.app.{}=x\ntraefik.http.routers.app.rule=y", "a.".repeat(1_000_000));
        assert_eq!(
            yaml(&HttpLabels::parse(&labels(&deep)).routers),
            "app:\n  rule: y\n  service: '-'\n".replace("'-'", "''")
        );
    }

    #[test]
    fn a_container_without_routers_has_a_default_router() {
        let http = HttpLabels::parse(&labels(COMPOSE));
        assert_eq!(yaml(&http.routers), "app-my-p:\n  service: app-my-p\n");
        assert_eq!(http.servers().next().unwrap().0, "app-my-p");
    }

    #[test]
    fn a_default_rule_is_a_template_of_names() {
        let rule = |template: &str| default_rule(template, &labels(COMPOSE));
        assert_eq!(rule("Host(`{{ normalize .Name }}`)").unwrap(), "Host(`app-my-p`)");
        assert_eq!(rule("Host(`{{.Name}}.localhost`)").unwrap(), "Host(`app-my-p.localhost`)");
        let label = "Host(`{{ index .Labels \"com.docker.compose.service\" }}.x`)";
        assert_eq!(rule(label).unwrap(), "Host(`app.x`)");
        assert_eq!(rule("Host(`{{ .Name | lower }}`)"), None);
    }

    #[test]
    fn a_host_is_parsed_from_a_rule() {
        assert_eq!(host("PathPrefix(`/x`) && Host(`a.b`)").unwrap(), "a.b");
        assert_eq!(host("Host(`a.b`, `c.d`)").unwrap(), "a.b");
        assert_eq!(host("HostRegexp(`.+`)"), None);
        assert_eq!(host("!ClientIP(`::1`)"), None);
    }

    #[test]
    fn a_container_without_route_labels_has_no_route() {
        assert!(!mention_a_route(&labels("traefik.docker.network=x")));
        assert!(mention_a_route(&labels("traefik.http.routers.a.rule=x")));
        assert_eq!(tcp_or_udp_label(&labels("traefik.tcp.routers.a.rule=x")), Some("tcp.routers.a.rule"));
        assert_eq!(enabled(&labels("traefik.enable=TRUE")), Some(true));
    }
}
