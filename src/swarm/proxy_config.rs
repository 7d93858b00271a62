//! Proxies of a stack that find their backends by DNS or by asking Swarm: what they lose with their configuration, and
//! the fix. Pure. Swarm takes a task out of its DNS, waits 2 s, and then stops it, whoever still sends it requests.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::error::Risk;
use crate::proxy::public_route::{PublicRoute, is_plain};
use crate::proxy::{haproxy, traefik};

/// What a proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyKind {
    Caddy,
    Haproxy,
    Nginx,
    NginxProxy,
    Traefik,
}

/// A proxy of the stack, with what it was configured by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackProxy {
    pub service: String,
    pub kind: ProxyKind,
    text: String,
}

/// How old an address may be when it is used: well below Swarm's 2 s. With 5 s 18 of 839 requests were lost in an update,
/// with Caddy's default of a minute 151 of 1,895, with 1 s and less none.
const FRESH: Duration = Duration::from_secs(1);

/// How long a task lives once it has left the DNS (moby `daemon/cluster/executor/container/controller.go`).
const LEAVES: Duration = Duration::from_secs(2);

/// Where each kind has its configuration.
const FILES: [(ProxyKind, &str); 4] = [
    (ProxyKind::Caddy, "Caddyfile"),
    (ProxyKind::Haproxy, "haproxy.cfg"),
    (ProxyKind::Nginx, "nginx.conf"),
    (ProxyKind::Traefik, "traefik."),
];

/// What each kind's images are called.
const IMAGES: [(ProxyKind, &str); 5] = [
    (ProxyKind::Caddy, "caddy"),
    (ProxyKind::Haproxy, "haproxy"),
    (ProxyKind::NginxProxy, "nginx-proxy"),
    (ProxyKind::Nginx, "nginx"),
    (ProxyKind::Traefik, "traefik"),
];

impl StackProxy {
    /// Recognises a proxy by its image or by the name of the file it is given. `read` gets a file of this machine.
    pub fn of(
        name: &str,
        service: &Value,
        stack: &Value,
        read: &dyn Fn(&str) -> Option<String>,
    ) -> Option<StackProxy> {
        let image = service["image"].as_str().unwrap_or_default();
        let image = image.rsplit('/').next().unwrap_or_default();
        let files = given_files(service, stack);
        let by_image = IMAGES.iter().find(|(_, word)| image.contains(word)).map(|(kind, _)| *kind);
        let by_file =
            FILES.iter().find(|(_, file)| files.iter().any(|(target, _)| base(target).starts_with(file)));
        let kind = by_image.or(by_file.map(|(kind, _)| *kind))?;
        let mut text: Vec<String> = files.iter().filter_map(|(_, source)| read(source)).collect();
        text.extend(["command", "entrypoint"].iter().flat_map(|key| words(&service[*key])));
        // Traefik's settings by variables: `TRAEFIK_PROVIDERS_SWARM_REFRESHSECONDS`.
        let variables = as_labels(&service["environment"]).into_iter();
        text.extend(variables.map(|(name, value)| format!("{}={value}", name.replace('_', "."))));
        Some(StackProxy { service: name.into(), kind, text: text.join("\n") })
    }

    /// It sends requests to this service of the stack.
    pub fn reaches(&self, stack: &str, service: &str, part: &Value) -> bool {
        match self.kind {
            ProxyKind::Traefik => {
                let labels = [&part["deploy"]["labels"], &part["labels"]];
                labels.iter().any(|l| l.to_string().contains("traefik."))
            }
            ProxyKind::NginxProxy => part["environment"].get("VIRTUAL_HOST").is_some(),
            _ => self.names(stack, service).next().is_some(),
        }
    }

    /// By which ways requests come to a service, by its configuration.
    pub fn entrances(&self, stack: &str, service: &str, part: &Value) -> Vec<PublicRoute> {
        let names = [service.to_string(), format!("tasks.{service}"), format!("{stack}_{service}")];
        match self.kind {
            ProxyKind::Haproxy => haproxy::public_routes_from(&self.text, &names),
            ProxyKind::Caddy => self.text.lines().filter_map(site).collect(),
            ProxyKind::Nginx => self.lines().filter_map(listen).collect(),
            ProxyKind::NginxProxy => {
                let host = part["environment"]["VIRTUAL_HOST"].as_str().and_then(|all| all.split(',').next());
                let host = host.filter(|h| is_plain(h)).map(String::from);
                vec![PublicRoute { host, ..PublicRoute::at(80, false) }]
            }
            ProxyKind::Traefik => {
                let labels = [&part["deploy"]["labels"], &part["labels"]];
                let found = labels.iter().find_map(|l| traefik::request_from_labels(&as_labels(l)));
                found
                    .map(|(host, path)| PublicRoute { host, path, ..PublicRoute::at(80, false) })
                    .into_iter()
                    .collect()
            }
        }
    }

    /// The words of its configuration that stand for a service.
    fn names<'a>(&'a self, stack: &'a str, service: &'a str) -> impl Iterator<Item = &'a str> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let own = [service.to_string(), format!("tasks.{service}"), format!("{stack}_{service}")];
        let own = move |word: &&str| own.iter().any(|name| name == word);
        let lines = self.text.lines().map(|l| l.split('#').next().unwrap_or_default());
        lines.flat_map(move |l| l.split(move |c: char| !is_part(c) && c != '_')).filter(own)
    }

    /// What it loses when a service behind it is updated; `part` is the service's part of the file.
    pub fn risks(&self, service: &str, part: &Value) -> Vec<Risk> {
        let found = match self.kind {
            ProxyKind::Caddy => self.caddy(service),
            ProxyKind::Haproxy => self.haproxy(service),
            ProxyKind::Nginx => self.nginx(service, part),
            ProxyKind::NginxProxy => vec![(
                "swarm-nginx-proxy",
                "nginx-proxy sees the containers of its own node alone, and sends requests to a task until it is dead".into(),
                "use Caddy, HAProxy or Traefik's swarm provider in a Swarm".into(),
            )],
            ProxyKind::Traefik => self.traefik(service, part),
        };
        let told = |(rule, says, fix): ProxyRisk| {
            Risk::grave(rule, format!("`{}` in front of `{service}`: {says}", self.service), fix)
        };
        found.into_iter().map(told).collect()
    }

    fn caddy(&self, service: &str) -> Vec<ProxyRisk> {
        let mut risks = Vec::new();
        let looks_up = self.has(&["dynamic", "a"]) || self.has(&["dynamic", "srv"]);
        let refresh = self.value("refresh").and_then(|v| humantime::parse_duration(v).ok());
        match (looks_up, refresh) {
            (false, _) => risks.push((
                "swarm-caddy-lookup",
                "a request on a connection that Caddy keeps open goes to a task that was told to stop".into(),
                format!("use `dynamic a {{ name tasks.{service}; refresh 500ms }}` as its upstream"),
            )),
            (true, Some(refresh)) if refresh <= FRESH => {}
            (true, _) => risks.push((
                "swarm-caddy-refresh",
                "Caddy uses addresses for longer (`refresh`, 1m by default) than Swarm lets a task live that has left".into(),
                "set `refresh 500ms`".into(),
            )),
        }
        if self.value("lb_try_duration").is_none() {
            risks.push((
                "swarm-caddy-retries",
                "a request whose task has just gone is answered with 502".into(),
                "set `lb_try_duration 5s`".into(),
            ));
        }
        risks
    }

    fn haproxy(&self, service: &str) -> Vec<ProxyRisk> {
        let mut risks = Vec::new();
        let looks_up =
            self.has(&["server-template"]) || self.lines().any(|l| is_server(l) && has_word(l, "resolvers"));
        if !looks_up {
            risks.push((
                "swarm-haproxy-lookup",
                format!("HAProxy looks `{service}` up when it starts and never again"),
                "use `server-template` with `resolvers` on 127.0.0.11".into(),
            ));
        }
        let time = |first: &str, second: &str| {
            let line = self.lines().find(|l| l.split_whitespace().take(2).eq([first, second]));
            line.and_then(|l| l.split_whitespace().last()).and_then(haproxy_time)
        };
        if time("timeout", "resolve").is_some_and(|every| every > FRESH) {
            risks.push((
                "swarm-haproxy-resolve",
                "HAProxy looks addresses up less often than Swarm lets a task live that has left".into(),
                "set `timeout resolve 500ms`".into(),
            ));
        }
        // The default is 0. With 10 s 12 of 326 requests were lost in an update.
        if time("hold", "obsolete").is_some_and(|held| held >= LEAVES) {
            risks.push((
                "swarm-haproxy-hold",
                "HAProxy keeps the address of a task that has left for longer than Swarm lets it live".into(),
                "remove `hold obsolete`".into(),
            ));
        }
        risks
    }

    /// A name in its configuration is looked up once, when nginx starts; one in a variable again and again. A virtual IP
    /// stays what it is.
    fn nginx(&self, service: &str, part: &Value) -> Vec<ProxyRisk> {
        let is_dnsrr = part["deploy"]["endpoint_mode"].as_str() == Some("dnsrr");
        let tasks = format!("tasks.{service}");
        let is_part = |c: char| c.is_ascii_alphanumeric() || "._-$".contains(c);
        let names =
            |line: &str| line.split(|c| !is_part(c)).any(|w| w == tasks || (is_dnsrr && w == service));
        let is_upstream = |line: &&str| {
            let first = line.split_whitespace().next().unwrap_or_default();
            first.ends_with("_pass") || (first == "server" && !line.ends_with('{'))
        };
        if self.lines().filter(is_upstream).any(|l| names(l) && !has_word(l.trim_end_matches(';'), "resolve"))
        {
            return vec![(
                "swarm-nginx-lookup",
                format!(
                    "nginx looks `{service}` up once, when it starts, and after an update it asks addresses that no task has \
                     any more, for ever"
                ),
                format!(
                    "take `endpoint_mode: dnsrr` and `tasks.` away, so that the name stands for a virtual IP; or \
                     `resolver 127.0.0.11 valid=1s; set $up {tasks}; proxy_pass http://$up:PORT;`"
                ),
            )];
        }
        let valid = self.value("resolver").and_then(|v| v.split("valid=").nth(1));
        let valid = valid.map(|v| v.split([' ', ';']).next().unwrap_or_default());
        let is_fresh = valid.and_then(|v| humantime::parse_duration(v).ok()).is_some_and(|v| v <= FRESH);
        let is_looked_up = self.lines().any(|l| names(l) && !is_upstream(&l));
        if !is_looked_up || is_fresh {
            return Vec::new();
        }
        vec![(
            "swarm-nginx-resolver",
            "nginx uses addresses for as long as Docker's DNS says, 10 minutes, and a task lives 2 s once it has left".into(),
            "set `resolver 127.0.0.11 valid=1s`".into(),
        )]
    }

    fn traefik(&self, service: &str, part: &Value) -> Vec<ProxyRisk> {
        let word = self.text.to_lowercase();
        let has = |texts: &[&str]| texts.iter().any(|text| word.contains(text));
        let is_swarm = has(&["providers.swarm", "swarmmode=true", "swarmmode: true", "swarm:"]);
        if !is_swarm && has(&["providers.docker", "docker:"]) {
            return vec![(
                "swarm-traefik-provider",
                "Traefik's docker provider sees the containers of its own node, and no services of a Swarm"
                    .into(),
                format!(
                    "use `--providers.swarm=true --providers.swarm.refreshSeconds=1` (Traefik 2: \
                     `--providers.docker.swarmMode=true`), and move the labels to `services.{service}.deploy.labels`"
                ),
            )];
        }
        let has_labels = |labels: &Value| labels.to_string().contains("traefik.");
        if has_labels(&part["labels"]) && !has_labels(&part["deploy"]["labels"]) {
            return vec![(
                "swarm-traefik-labels",
                format!(
                    "Traefik's swarm provider reads `deploy.labels`, and those of `{service}` are in `labels`"
                ),
                format!("move them to `services.{service}.deploy.labels`"),
            )];
        }
        let value = word.split("refreshseconds").nth(1).map(|rest| {
            let number = rest.trim_start_matches(|c: char| "=: \"'".contains(c));
            number.chars().take_while(char::is_ascii_digit).collect::<String>()
        });
        match value.and_then(|v| v.parse::<u64>().ok()) {
            Some(seconds) if seconds <= 1 => Vec::new(),
            _ => vec![(
                "swarm-traefik-refresh",
                "Traefik asks Swarm every 15 s (`refreshSeconds`), and a task lives 2 s once it has left"
                    .into(),
                "set `--providers.swarm.refreshSeconds=1`".into(),
            )],
        }
    }

    /// Its lines without comments.
    fn lines(&self) -> impl Iterator<Item = &str> {
        self.text.lines().map(|l| l.split('#').next().unwrap_or_default().trim())
    }

    /// A line that begins with these words.
    fn has(&self, words: &[&str]) -> bool {
        self.lines().any(|l| l.split_whitespace().zip(words).filter(|(a, b)| a == *b).count() == words.len())
    }

    /// What follows a word at the beginning of a line.
    fn value(&self, key: &str) -> Option<&str> {
        self.lines()
            .filter_map(|l| l.strip_prefix(key))
            .find(|rest| rest.starts_with([' ', '\t']))
            .map(str::trim)
    }
}

/// A site of a Caddyfile that needs no certificate: `:80 {` or `http://app.example {`.
fn site(line: &str) -> Option<PublicRoute> {
    let name = line.strip_suffix('{')?.trim_end();
    if let Some(port) = name.strip_prefix(':') {
        return Some(PublicRoute::at(port.parse().ok()?, false));
    }
    let (host, port) = name.strip_prefix("http://").map(|n| n.split_once(':').unwrap_or((n, "80")))?;
    let host = Some(host).filter(|h| is_plain(h))?;
    Some(PublicRoute { host: Some(host.into()), ..PublicRoute::at(port.parse().ok()?, false) })
}

/// `listen 80;` and `listen [::]:80 default_server;` of nginx, without TLS.
fn listen(line: &str) -> Option<PublicRoute> {
    let words: Vec<&str> = line.strip_prefix("listen")?.trim_end_matches(';').split_whitespace().collect();
    let port = words.first()?.rsplit(':').next()?.parse().ok()?;
    (!words.contains(&"ssl")).then(|| PublicRoute::at(port, false))
}

/// As the long form of a resolved file has them.
fn as_labels(value: &Value) -> BTreeMap<String, String> {
    let pairs = value.as_object().into_iter().flatten();
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), String::from);
    pairs.map(|(k, v)| (k.clone(), text(v).replace("$$", "$"))).collect()
}

/// The rule that is broken, what comes of it, and the fix.
type ProxyRisk = (&'static str, String, String);

fn is_server(line: &str) -> bool {
    line.split_whitespace().next() == Some("server")
}

fn has_word(line: &str, word: &str) -> bool {
    line.split_whitespace().any(|w| w == word)
}

/// HAProxy's times: milliseconds where there is no unit.
fn haproxy_time(text: &str) -> Option<Duration> {
    match text.parse::<u64>() {
        Ok(milliseconds) => Some(Duration::from_millis(milliseconds)),
        Err(_) => humantime::parse_duration(text).ok(),
    }
}

/// The files that a service is given, as the place in it and the place on this machine.
pub fn given_files(service: &Value, stack: &Value) -> Vec<(String, String)> {
    let configs = service["configs"].as_array().into_iter().flatten().filter_map(|grant| {
        let source = grant["source"].as_str()?;
        let file = stack["configs"][source]["file"].as_str()?;
        Some((grant["target"].as_str().unwrap_or(source).to_string(), file.to_string()))
    });
    let binds = service["volumes"].as_array().into_iter().flatten().filter_map(|mount| {
        let is_bind = mount["type"].as_str() == Some("bind");
        let (source, target) = (mount["source"].as_str()?, mount["target"].as_str()?);
        is_bind.then(|| (target.to_string(), source.to_string()))
    });
    configs.chain(binds).collect()
}

fn base(path: &str) -> &str {
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
