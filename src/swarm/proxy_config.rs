//! Proxies of a stack that find their backends by DNS or through Swarm's API: the requests that their configuration loses,
//! and the fix. Swarm removes a task from its DNS, waits 2 s, and then stops the task even if it still receives requests.
//! Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::convergence::STOP_DELAY;
use super::observed::items;
use crate::finding::Finding;
use crate::proxy::public_route::{PublicRoute, is_plain};
use crate::proxy::{haproxy, traefik};

/// Kind of a proxy that may run in a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    Caddy,
    Haproxy,
    Nginx,
    NginxProxy,
    Traefik,
}

/// A proxy of the stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackProxy {
    pub service: String,
    pub kind: ProxyKind,
    /// Configuration: its files, command line and environment.
    config: String,
}

/// Longest time for which a proxy may cache an address: well below Swarm's 2 s. In an update, 5 s lost 18 of 839
/// requests, Caddy's default of a minute lost 151 of 1,895, and 1 s or less lost none.
const MAX_ADDRESS_AGE: Duration = Duration::from_secs(1);

/// Word in the image names of each kind, and name of its configuration file.
const KINDS: [(ProxyKind, &str, Option<&str>); 5] = [
    (ProxyKind::Caddy, "caddy", Some("Caddyfile")),
    (ProxyKind::Haproxy, "haproxy", Some("haproxy.cfg")),
    (ProxyKind::NginxProxy, "nginx-proxy", None),
    (ProxyKind::Nginx, "nginx", Some("nginx.conf")),
    (ProxyKind::Traefik, "traefik", Some("traefik.")),
];

impl StackProxy {
    /// Proxies of a project. Reads their files on this machine.
    pub fn detect_all(project: &Value) -> Vec<StackProxy> {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        let services = project["services"].as_object().into_iter().flatten();
        services.filter_map(|(name, service)| StackProxy::detect(name, service, project, &read)).collect()
    }

    /// Recognises a proxy by its image or by the name of a mounted file. `read` reads a file of this machine.
    pub fn detect(
        name: &str,
        service: &Value,
        stack: &Value,
        read: &dyn Fn(&str) -> Option<String>,
    ) -> Option<StackProxy> {
        let image = service["image"].as_str().unwrap_or_default();
        let image = image.rsplit('/').next().unwrap_or_default();
        let files = mounted_files(service, stack);
        let is_mounted = |name: &str| files.iter().any(|(target, _)| file_name(target).starts_with(name));
        let by_image = KINDS.into_iter().find(|(_, word, _)| image.contains(word));
        let by_file = || KINDS.into_iter().find(|(.., file)| file.is_some_and(is_mounted));
        let (kind, ..) = by_image.or_else(by_file)?;
        let mut text: Vec<String> = files.iter().filter_map(|(_, source)| read(source)).collect();
        text.extend(["command", "entrypoint"].iter().flat_map(|key| words(&service[*key])));
        // Traefik's settings by environment variable: `TRAEFIK_PROVIDERS_SWARM_REFRESHSECONDS`.
        let variables = as_strings(&service["environment"]).into_iter();
        text.extend(variables.map(|(name, value)| format!("{}={value}", name.replace('_', "."))));
        Some(StackProxy { service: name.into(), kind, config: text.join("\n") })
    }

    /// The proxy routes requests to this service of the stack.
    pub fn routes_to(&self, stack: &str, service: &str, definition: &Value) -> bool {
        match self.kind {
            ProxyKind::Traefik => {
                let labels = [&definition["deploy"]["labels"], &definition["labels"]];
                labels.iter().any(|l| l.to_string().contains("traefik."))
            }
            ProxyKind::NginxProxy => definition["environment"].get("VIRTUAL_HOST").is_some(),
            _ => self.mentions(stack, service).next().is_some(),
        }
    }

    /// Public routes to a service, by the configuration of the proxy.
    pub fn public_routes(&self, stack: &str, service: &str, definition: &Value) -> Vec<PublicRoute> {
        let names = [service.to_string(), format!("tasks.{service}"), format!("{stack}_{service}")];
        match self.kind {
            ProxyKind::Haproxy => haproxy::public_routes_from(&self.config, &names),
            ProxyKind::Caddy => self.config.lines().filter_map(caddy_site).collect(),
            ProxyKind::Nginx => self.lines().filter_map(nginx_listen).collect(),
            ProxyKind::NginxProxy => {
                let host =
                    definition["environment"]["VIRTUAL_HOST"].as_str().and_then(|all| all.split(',').next());
                let host = host.filter(|h| is_plain(h)).map(String::from);
                vec![PublicRoute { host, ..PublicRoute::at(80, false) }]
            }
            ProxyKind::Traefik => {
                let labels = [&definition["deploy"]["labels"], &definition["labels"]];
                let found = labels.iter().find_map(|l| traefik::request_from_labels(&as_strings(l)));
                found
                    .map(|(host, path)| PublicRoute { host, path, ..PublicRoute::at(80, false) })
                    .into_iter()
                    .collect()
            }
        }
    }

    /// Words of the configuration that name a service.
    fn mentions<'a>(&'a self, stack: &'a str, service: &'a str) -> impl Iterator<Item = &'a str> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let names = [service.to_string(), format!("tasks.{service}"), format!("{stack}_{service}")];
        let names = move |word: &&str| names.iter().any(|name| name == word);
        let lines = self.config.lines().map(|l| l.split('#').next().unwrap_or_default());
        lines.flat_map(move |l| l.split(move |c: char| !is_part(c) && c != '_')).filter(names)
    }

    /// Requests that the proxy loses when a service behind it is updated; `definition` is that service in the file.
    pub fn risks(&self, service: &str, definition: &Value) -> Vec<Finding> {
        let broken = match self.kind {
            ProxyKind::Caddy => self.caddy_rules(),
            ProxyKind::Haproxy => self.haproxy_rules(),
            ProxyKind::Nginx => self.nginx_rule(service, definition).into_iter().collect(),
            ProxyKind::NginxProxy => vec!["swarm-nginx-proxy"],
            ProxyKind::Traefik => self.traefik_rule(definition).into_iter().collect(),
        };
        let broken = RULES.into_iter().filter(|(rule, ..)| broken.contains(rule));
        let named = |text: &str| text.replace("SERVICE", service);
        let to_risk = |(rule, message, fix)| {
            let message = format!("`{}` in front of `{service}`: {}", self.service, named(message));
            Finding::loss(rule, message, named(fix))
        };
        broken.map(to_risk).collect()
    }

    fn caddy_rules(&self) -> Vec<&'static str> {
        let looks_up = self.has_line(&["dynamic", "a"]) || self.has_line(&["dynamic", "srv"]);
        let refresh = self.value("refresh").and_then(|v| humantime::parse_duration(v).ok());
        let is_fresh = refresh.is_some_and(|refresh| refresh <= MAX_ADDRESS_AGE);
        let rules = [
            (!looks_up, "swarm-caddy-lookup"),
            (looks_up && !is_fresh, "swarm-caddy-refresh"),
            (self.value("lb_try_duration").is_none(), "swarm-caddy-retries"),
        ];
        rules.into_iter().filter(|(is_broken, _)| *is_broken).map(|(_, rule)| rule).collect()
    }

    fn haproxy_rules(&self) -> Vec<&'static str> {
        let looks_up = self.has_line(&["server-template"])
            || self.lines().any(|l| is_server(l) && has_word(l, "resolvers"));
        let time = |first: &str, second: &str| {
            let line = self.lines().find(|l| l.split_whitespace().take(2).eq([first, second]));
            line.and_then(|l| l.split_whitespace().last()).and_then(haproxy_time)
        };
        let is_slow = time("timeout", "resolve").is_some_and(|every| every > MAX_ADDRESS_AGE);
        // The default is 0. In an update, 10 s lost 12 of 326 requests.
        let holds = time("hold", "obsolete").is_some_and(|held| held >= STOP_DELAY);
        let rules = [
            (!looks_up, "swarm-haproxy-lookup"),
            (is_slow, "swarm-haproxy-resolve"),
            (holds, "swarm-haproxy-hold"),
        ];
        rules.into_iter().filter(|(is_broken, _)| *is_broken).map(|(_, rule)| rule).collect()
    }

    /// nginx resolves a plain name once, at its start, and a name in a variable repeatedly. A virtual
    /// IP never changes.
    fn nginx_rule(&self, service: &str, definition: &Value) -> Option<&'static str> {
        let is_dnsrr = definition["deploy"]["endpoint_mode"] == "dnsrr";
        let tasks = format!("tasks.{service}");
        let is_part = |c: char| c.is_ascii_alphanumeric() || "._-$".contains(c);
        let names =
            |line: &str| line.split(|c| !is_part(c)).any(|w| w == tasks || (is_dnsrr && w == service));
        let is_upstream = |line: &&str| {
            let first = line.split_whitespace().next().unwrap_or_default();
            first.ends_with("_pass") || (first == "server" && !line.ends_with('{'))
        };
        let mut upstreams = self.lines().filter(is_upstream).filter(|line| names(line));
        if upstreams.any(|line| !has_word(line.trim_end_matches(';'), "resolve")) {
            return Some("swarm-nginx-lookup");
        }
        let valid = self.value("resolver").and_then(|v| v.split("valid=").nth(1));
        let valid = valid.and_then(|v| humantime::parse_duration(v.split([' ', ';']).next()?).ok());
        let uses_variable = self.lines().any(|l| names(l) && !is_upstream(&l));
        (uses_variable && valid.is_none_or(|v| v > MAX_ADDRESS_AGE)).then_some("swarm-nginx-resolver")
    }

    fn traefik_rule(&self, definition: &Value) -> Option<&'static str> {
        let config = self.config.to_lowercase();
        let has = |texts: &[&str]| texts.iter().any(|text| config.contains(text));
        let is_swarm = has(&["providers.swarm", "swarmmode=true", "swarmmode: true", "swarm:"]);
        if !is_swarm && has(&["providers.docker", "docker:"]) {
            return Some("swarm-traefik-provider");
        }
        let has_labels = |labels: &Value| labels.to_string().contains("traefik.");
        if has_labels(&definition["labels"]) && !has_labels(&definition["deploy"]["labels"]) {
            return Some("swarm-traefik-labels");
        }
        let seconds = config.split("refreshseconds").nth(1).and_then(|rest| {
            let number = rest.trim_start_matches(|c: char| "=: \"'".contains(c));
            number.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
        });
        seconds.is_none_or(|seconds| seconds > 1).then_some("swarm-traefik-refresh")
    }

    /// Lines of the configuration without comments.
    fn lines(&self) -> impl Iterator<Item = &str> {
        self.config.lines().map(|l| l.split('#').next().unwrap_or_default().trim())
    }

    /// A line begins with these words.
    fn has_line(&self, words: &[&str]) -> bool {
        self.lines().any(|l| l.split_whitespace().zip(words).filter(|(a, b)| a == *b).count() == words.len())
    }

    /// Value that follows a key at the beginning of a line.
    fn value(&self, key: &str) -> Option<&str> {
        self.lines()
            .filter_map(|l| l.strip_prefix(key))
            .find(|rest| rest.starts_with([' ', '\t']))
            .map(str::trim)
    }
}

/// A site of a Caddyfile that needs no certificate: `:80 {` or `http://app.example {`.
fn caddy_site(line: &str) -> Option<PublicRoute> {
    let name = line.strip_suffix('{')?.trim_end();
    if let Some(port) = name.strip_prefix(':') {
        return Some(PublicRoute::at(port.parse().ok()?, false));
    }
    let (host, port) = name.strip_prefix("http://").map(|n| n.split_once(':').unwrap_or((n, "80")))?;
    let host = Some(host).filter(|h| is_plain(h))?;
    Some(PublicRoute { host: Some(host.into()), ..PublicRoute::at(port.parse().ok()?, false) })
}

/// `listen 80;` and `listen [::]:80 default_server;` of nginx, without TLS.
fn nginx_listen(line: &str) -> Option<PublicRoute> {
    let words: Vec<&str> = line.strip_prefix("listen")?.trim_end_matches(';').split_whitespace().collect();
    let port = words.first()?.rsplit(':').next()?.parse().ok()?;
    (!words.contains(&"ssl")).then(|| PublicRoute::at(port, false))
}

/// Labels or variables as strings, from the long form of a resolved file.
fn as_strings(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_object().into_iter().flatten();
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
    pairs.map(|(k, v)| (k.clone(), text(v).replace("$$", "$"))).collect()
}

/// Rules, each with the consequence of breaking it, and with its fix. `SERVICE` stands for the service behind the proxy.
const RULES: [(&str, &str, &str); 12] = [
    (
        "swarm-caddy-lookup",
        "Caddy keeps connections open, and sends requests on them to a task that is stopping",
        "use `dynamic a { name tasks.SERVICE; refresh 500ms }` as its upstream",
    ),
    (
        "swarm-caddy-refresh",
        "Caddy caches addresses (`refresh`, 1m by default) for longer than the 2 s that a removed task lives",
        "set `refresh 500ms`",
    ),
    (
        "swarm-caddy-retries",
        "Caddy answers 502 to a request whose task has just been removed",
        "set `lb_try_duration 5s`",
    ),
    (
        "swarm-haproxy-lookup",
        "HAProxy resolves `SERVICE` when it starts and never again",
        "use `server-template` with `resolvers` on 127.0.0.11",
    ),
    (
        "swarm-haproxy-resolve",
        "HAProxy caches addresses for longer than the 2 s that a removed task lives",
        "set `timeout resolve 500ms`",
    ),
    (
        "swarm-haproxy-hold",
        "HAProxy keeps the address of a removed task for longer than the 2 s that the task lives",
        "remove `hold obsolete`",
    ),
    (
        "swarm-nginx-lookup",
        "nginx resolves `SERVICE` once, at its start; after an update it sends requests to addresses without a task, for ever",
        "remove `endpoint_mode: dnsrr` and `tasks.`, so that the name stands for a virtual IP; or set \
         `resolver 127.0.0.11 valid=1s; set $up tasks.SERVICE; proxy_pass http://$up:PORT;`",
    ),
    (
        "swarm-nginx-resolver",
        "nginx caches addresses for 10 minutes, the TTL of Docker's DNS, and a removed task lives 2 s",
        "set `resolver 127.0.0.11 valid=1s`",
    ),
    (
        "swarm-nginx-proxy",
        "nginx-proxy sees only the containers of its own node, and sends requests to a task until the task is dead",
        "use Caddy, HAProxy or Traefik's swarm provider in a Swarm",
    ),
    (
        "swarm-traefik-provider",
        "Traefik's docker provider sees only the containers of its own node, and no services of the Swarm",
        "use `--providers.swarm=true --providers.swarm.refreshSeconds=1` (Traefik 2: `--providers.docker.swarmMode=true`), and \
         move the labels to `services.SERVICE.deploy.labels`",
    ),
    (
        "swarm-traefik-labels",
        "Traefik's swarm provider reads `deploy.labels`, and the labels of `SERVICE` are in `labels`",
        "move the labels to `services.SERVICE.deploy.labels`",
    ),
    (
        "swarm-traefik-refresh",
        "Traefik queries Swarm every 15 s (`refreshSeconds`), and a removed task lives 2 s",
        "set `--providers.swarm.refreshSeconds=1`",
    ),
];

fn is_server(line: &str) -> bool {
    line.split_whitespace().next() == Some("server")
}

fn has_word(line: &str, word: &str) -> bool {
    line.split_whitespace().any(|w| w == word)
}

/// Parses a time of HAProxy: milliseconds without a unit.
fn haproxy_time(text: &str) -> Option<Duration> {
    match text.parse::<u64>() {
        Ok(milliseconds) => Some(Duration::from_millis(milliseconds)),
        Err(_) => humantime::parse_duration(text).ok(),
    }
}

/// Files mounted into a service: the path in the container and the path on this machine.
pub fn mounted_files(service: &Value, stack: &Value) -> Vec<(String, String)> {
    let configs = items(&service["configs"]).filter_map(|grant| {
        let source = grant["source"].as_str()?;
        let file = stack["configs"][source]["file"].as_str()?;
        Some((grant["target"].as_str().unwrap_or(source).to_string(), file.to_string()))
    });
    let binds = items(&service["volumes"]).filter_map(|mount| {
        let is_bind = mount["type"].as_str() == Some("bind");
        let (source, target) = (mount["source"].as_str()?, mount["target"].as_str()?);
        is_bind.then(|| (target.to_string(), source.to_string()))
    });
    configs.chain(binds).collect()
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn words(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Array(items) => items.iter().filter_map(Value::as_str).map(String::from).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
