//! Traefik's static configuration: from its first file, else its arguments, else its environment, never from
//! two of them. Keys are flat (`providers.file.directory`) and ignore case, as in Traefik.

use std::time::Duration;

use serde_yaml::Value;

use crate::docker::inspect::Container;

/// Priority of the version check: above users' priorities, and within 32 bits.
pub const CHECK_PRIORITY: i64 = 2_000_000_000;

/// Paths at which Traefik looks for a file. Source: traefik `pkg/cli/loader_file.go`.
const PLACES: [&str; 4] =
    ["/etc/traefik/traefik", "$XDG_CONFIG_HOME/traefik", "$HOME/.config/traefik", "./traefik"];
const ENDINGS: [&str; 3] = ["toml", "yaml", "yml"];

/// Shortest time between two configurations of one provider. Source: `cmd.NewTraefikConfiguration`.
const THROTTLE: Duration = Duration::from_secs(2);

const DEFAULT_RULE: &str = "Host(`{{ normalize .Name }}`)";

/// Default priority of an entry point's own redirection. No user's router can be above it.
const REDIRECTION: i64 = i64::MAX - 1;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraefikStaticConfig {
    pairs: Vec<(String, String)>,
}

/// An entry point.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntryPoint {
    pub name: String,
    /// Address as Traefik writes it: `:80`.
    pub address: String,
    pub tls: bool,
    /// Middlewares, a redirection or the dashboard answer before any route of a file.
    pub guarded: bool,
    /// The entry point only redirects clients to another one.
    pub redirects: bool,
}

/// Files that may hold the configuration, in Traefik's order; a shell expands their variables.
pub fn files(container: &Container) -> Vec<String> {
    let explicit =
        parse_flags(&container.args).into_iter().find(|(k, _)| k.eq_ignore_ascii_case("configfile"));
    let standard = PLACES.iter().flat_map(|place| ENDINGS.map(|ending| format!("{place}.{ending}")));
    explicit.map(|(_, file)| file).into_iter().chain(standard).collect()
}

impl TraefikStaticConfig {
    /// Reads the configuration. `file` is the name and text of the first existing file.
    pub fn read(container: &Container, file: Option<(&str, &str)>) -> TraefikStaticConfig {
        let pairs = match file {
            Some((name, text)) => parse_file(name, text),
            None => Some(parse_flags(&container.args))
                .filter(|f| !f.is_empty())
                .unwrap_or(parse_environment(container)),
        };
        TraefikStaticConfig { pairs }
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        let last = self.pairs.iter().rev().find(|(k, _)| k.eq_ignore_ascii_case(key));
        last.map(|(_, value)| value.as_str())
    }

    /// The section exists, even if it is empty: `--api`, `providers.docker: {}`.
    pub fn has(&self, section: &str) -> bool {
        let is_off = self.get(section).is_some_and(|v| v.eq_ignore_ascii_case("false"));
        !is_off && (self.get(section).is_some() || self.section(section).next().is_some())
    }

    /// Keys and values of a section, without its name.
    pub fn section<'a>(&'a self, section: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let key_in_section = move |key: &'a str| {
            let (start, rest) = key.split_at_checked(section.len())?;
            start.eq_ignore_ascii_case(section).then(|| rest.strip_prefix('.'))?
        };
        self.pairs.iter().filter_map(move |(k, v)| Some((key_in_section(k)?, v.as_str())))
    }

    pub fn is_on(&self, key: &str) -> bool {
        self.get(key).is_some_and(is_true)
    }

    fn is_on_by_default(&self, key: &str) -> bool {
        self.get(key).is_none_or(is_true)
    }

    /// File and directory of the file provider's routes.
    pub fn route_files(&self) -> impl Iterator<Item = &str> {
        let keys = ["providers.file.directory", "providers.file.filename"];
        keys.into_iter().filter_map(|key| self.get(key)).filter(|path| !path.is_empty())
    }

    /// A provider whose routes are neither in labels nor in files.
    pub fn remote_provider(&self) -> Option<&str> {
        let readable = ["docker", "file", "swarm", "providersThrottleDuration"];
        let names = self.section("providers").filter_map(|(key, _)| key.split('.').next());
        names.into_iter().find(|name| !readable.iter().any(|provider| provider.eq_ignore_ascii_case(name)))
    }

    pub fn watches_docker(&self) -> bool {
        self.has("providers.docker") && self.is_on_by_default("providers.docker.watch")
    }

    pub fn exposes_by_default(&self) -> bool {
        self.is_on_by_default("providers.docker.exposedByDefault")
    }

    pub fn constraints(&self) -> &str {
        self.get("providers.docker.constraints").unwrap_or("")
    }

    /// The user has set the rule of routers without one.
    pub fn sets_default_rule(&self) -> bool {
        self.get("providers.docker.defaultRule").is_some_and(|rule| !rule.is_empty())
    }

    pub fn default_rule(&self) -> &str {
        self.get("providers.docker.defaultRule").filter(|r| !r.is_empty()).unwrap_or(DEFAULT_RULE)
    }

    pub fn throttle(&self) -> Duration {
        self.get("providers.providersThrottleDuration").and_then(duration).unwrap_or(THROTTLE)
    }

    /// HTTP entry points, or Traefik's default one where none is configured.
    pub fn entry_points(&self) -> Vec<EntryPoint> {
        let mut names: Vec<&str> = Vec::new();
        for (key, _) in self.section("entryPoints") {
            let name = key.split('.').next().unwrap_or(key);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let is_configured = names.iter().any(|n| !n.eq_ignore_ascii_case("traefik"));
        let default = EntryPoint { name: "http".into(), address: ":80".into(), ..EntryPoint::default() };
        let configured = names.into_iter().filter_map(|name| self.entry_point(name));
        configured.chain((!is_configured).then_some(default)).collect()
    }

    fn entry_point(&self, name: &str) -> Option<EntryPoint> {
        let key = |suffix: &str| format!("entryPoints.{name}.{suffix}");
        let address = self.get(&key("address"))?;
        let (address, protocol) = address.split_once('/').unwrap_or((address, "tcp"));
        let redirects = self.has(&key("http.redirections")) && {
            let priority = self.get(&key("http.redirections.entryPoint.priority"));
            priority.and_then(|p| p.parse().ok()).unwrap_or(REDIRECTION) > CHECK_PRIORITY
        };
        let is_dashboard = name.eq_ignore_ascii_case("traefik") && self.is_on("api.insecure");
        Some(EntryPoint {
            name: name.into(),
            address: address.into(),
            tls: self.has(&key("http.tls")),
            guarded: redirects || is_dashboard || self.has(&key("http.middlewares")),
            redirects,
        })
        .filter(|_| protocol.eq_ignore_ascii_case("tcp"))
    }

    /// Address of the API without a password, and the path before `/api`.
    pub fn insecure_api(&self) -> Option<(String, String)> {
        let entry_point = self.entry_points().into_iter().find(|e| e.name.eq_ignore_ascii_case("traefik"));
        let address = entry_point.map_or(":8080".into(), |e| e.address);
        self.is_on("api.insecure").then(|| (address, self.api_path()))
    }

    pub fn api_path(&self) -> String {
        self.get("api.basePath").unwrap_or("").trim_end_matches('/').into()
    }
}

/// Parses `--key=value`, `--key value`, or `--key` for a switch.
fn parse_flags(args: &[String]) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut args = args.iter().peekable();
    while let Some(arg) = args.next() {
        let Some(word) = arg.strip_prefix("--").or(arg.strip_prefix('-')) else {
            continue;
        };
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, value.to_string()),
            None => (word, args.next_if(|a| !a.starts_with('-')).cloned().unwrap_or("true".into())),
        };
        // Traefik lowercases names from flags, including those of entry points.
        pairs.push((key.to_lowercase(), value));
    }
    pairs
}

/// Parses `TRAEFIK_PROVIDERS_FILE_DIRECTORY=…`.
fn parse_environment(container: &Container) -> Vec<(String, String)> {
    let pairs = container.config.env.iter().filter_map(|e| e.split_once('='));
    let setting = |(k, v): (&str, &str)| {
        let (start, rest) = k.split_at_checked("TRAEFIK_".len())?;
        let key = rest.replace('_', ".").to_lowercase();
        start.eq_ignore_ascii_case("TRAEFIK_").then(|| (key, v.to_string()))
    };
    pairs.filter_map(setting).collect()
}

fn parse_file(name: &str, text: &str) -> Vec<(String, String)> {
    let is_toml = name.ends_with(".toml");
    let value = if is_toml { toml::from_str(text).ok() } else { serde_yaml::from_str(text).ok() };
    let mut pairs = Vec::new();
    flatten("", &value.unwrap_or(Value::Null), &mut pairs);
    pairs
}

/// Flattens a tree into pairs. A list of plain values becomes one value with commas, as in a flag.
fn flatten(key: &str, value: &Value, pairs: &mut Vec<(String, String)>) {
    match value {
        Value::Mapping(map) if !map.is_empty() => {
            for (k, v) in map {
                let k = scalar(k);
                flatten(&if key.is_empty() { k } else { format!("{key}.{k}") }, v, pairs);
            }
        }
        Value::Sequence(list) => {
            pairs.push((key.into(), list.iter().map(scalar).collect::<Vec<_>>().join(",")));
        }
        other => pairs.push((key.into(), scalar(other))),
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(on) => on.to_string(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

/// True as Go's `strconv.ParseBool` parses it.
pub fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// Parses `1s`, `500ms`, or a plain number of seconds.
fn duration(text: &str) -> Option<Duration> {
    let seconds = text.parse().ok().map(Duration::from_secs);
    seconds.or_else(|| humantime::parse_duration(text).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(args: &[&str], env: &[&str]) -> Container {
        let mut container = Container::default();
        container.args = args.iter().map(ToString::to_string).collect();
        container.config.env = env.iter().map(ToString::to_string).collect();
        container
    }

    fn by_flags(args: &[&str]) -> TraefikStaticConfig {
        TraefikStaticConfig::read(&container(args, &[]), None)
    }

    const YAML: &str = "
entryPoints:
  Web: {address: ':8000'}
api: {}
providers:
  docker: {exposedByDefault: false}
  file: {directory: /d/, watch: true}
serversTransport: {forwardingTimeouts: {idleConnTimeout: 500ms}, rootCAs: [a, b]}
";

    const TOML: &str = r#"
[entryPoints.Web]
address = ":8000"
[api]
[providers.docker]
exposedByDefault = false
[providers.file]
directory = "/d/"
[serversTransport]
rootCAs = ["a", "b"]
forwardingTimeouts = { idleConnTimeout = "500ms" }
"#;

    #[test]
    fn flags_files_and_variables_give_the_same_configuration() {
        let flags = by_flags(&[
            "--entrypoints.Web.address=:8000",
            "--api",
            "--Providers.Docker.ExposedByDefault=false",
            "--providers.file.directory",
            "/d/",
            "--serverstransport.forwardingtimeouts.idleconntimeout=500ms",
            "--serverstransport.rootcas=a,b",
        ]);
        let env = [
            "TRAEFIK_ENTRYPOINTS_WEB_ADDRESS=:8000",
            "TRAEFIK_API=true",
            "TRAEFIK_PROVIDERS_DOCKER_EXPOSEDBYDEFAULT=false",
            "TRAEFIK_PROVIDERS_FILE_DIRECTORY=/d/",
            "TRAEFIK_SERVERSTRANSPORT_FORWARDINGTIMEOUTS_IDLECONNTIMEOUT=500ms",
            "TRAEFIK_SERVERSTRANSPORT_ROOTCAS=a,b",
        ];
        let file = |name, text| TraefikStaticConfig::read(&container(&["--ping"], &[]), Some((name, text)));
        let configs = [
            flags,
            TraefikStaticConfig::read(&container(&[], &env), None),
            file("/x/traefik.yml", YAML),
            file("t.toml", TOML),
        ];
        for config in configs {
            assert_eq!(config.route_files().collect::<Vec<_>>(), ["/d/"], "{config:?}");
            assert!(config.watches_docker() && !config.exposes_by_default() && config.has("api"));
            assert_eq!(config.get("serversTransport.rootCAs"), Some("a,b"));
            assert_eq!(config.entry_points()[0].address, ":8000");
        }
    }

    #[test]
    fn names_keep_their_case_in_a_file_but_not_in_a_flag() {
        let file = TraefikStaticConfig::read(&Container::default(), Some(("t.yaml", YAML)));
        assert_eq!(file.entry_points()[0].name, "Web");
        assert_eq!(by_flags(&["--entrypoints.Web.address=:1"]).entry_points()[0].name, "web");
    }

    #[test]
    fn unset_keys_have_traefiks_defaults() {
        let config = by_flags(&["--providers.docker=true"]);
        assert!(config.watches_docker() && config.exposes_by_default());
        assert_eq!(config.throttle(), THROTTLE);
        assert_eq!(config.entry_points()[0].name, "http");
        assert!(config.route_files().next().is_none() && !config.has("api"));
        assert!(!by_flags(&["--providers.docker=false"]).watches_docker());
    }

    #[test]
    fn an_entry_point_with_its_own_answers_is_guarded() {
        let guarded = |flag: &str| {
            let config = by_flags(&["--entrypoints.web.address=:80", flag]);
            config.entry_points()[0].guarded
        };
        assert!(!guarded("--entrypoints.web.http.tls.certresolver=le"));
        assert!(guarded("--entrypoints.web.http.middlewares=auth@file"));
        assert!(guarded("--entrypoints.web.http.redirections.entrypoint.to=websecure"));
        assert!(!guarded("--entrypoints.web.http.redirections.entrypoint.priority=10"));
        assert_eq!(by_flags(&["--entrypoints.dns.address=:53/udp"]).entry_points(), []);
    }

    #[test]
    fn the_insecure_api_has_the_address_of_its_entry_point() {
        let insecure = by_flags(&["--api.insecure=true", "--api.basepath=/t/"]);
        assert_eq!(insecure.insecure_api(), Some((":8080".into(), "/t".into())));
        let moved = by_flags(&["--api.insecure", "--entrypoints.traefik.address=:9000"]);
        assert_eq!(moved.insecure_api(), Some((":9000".into(), String::new())));
        assert_eq!(by_flags(&["--api=true"]).insecure_api(), None);
    }

    #[test]
    fn a_named_file_comes_first() {
        let files = files(&container(&["--configFile=/x.yml"], &[]));
        assert_eq!(&files[..3], ["/x.yml", "/etc/traefik/traefik.toml", "/etc/traefik/traefik.yaml"]);
        assert_eq!(files.last().unwrap(), "./traefik.yml");
    }
}
