//! Traefik's static configuration: from the first file it finds, else its arguments, else its environment, never from
//! two of them. Keys are kept flat (`providers.file.directory`) and compared without case, as Traefik does.

use std::time::Duration;

use serde_yaml::Value;

use crate::docker::inspect::Container;

/// Where it looks for a file. Source: traefik `pkg/cli/loader_file.go`.
const PLACES: [&str; 4] =
    ["/etc/traefik/traefik", "$XDG_CONFIG_HOME/traefik", "$HOME/.config/traefik", "./traefik"];
const ENDINGS: [&str; 3] = ["toml", "yaml", "yml"];

/// How long a connection to an instance stays open that nobody uses. Source: `ForwardingTimeouts.SetDefaults`.
const IDLE: Duration = Duration::from_secs(90);

/// The shortest time between two configurations of one provider. Source: `cmd.NewTraefikConfiguration`.
const THROTTLE: Duration = Duration::from_secs(2);

const DEFAULT_RULE: &str = "Host(`{{ normalize .Name }}`)";

/// Above the router of an entry point's own redirection nothing of a user's can be put, unless its priority is set.
const REDIRECTION: i64 = i64::MAX - 1;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TraefikStaticConfig {
    pairs: Vec<(String, String)>,
}

/// Where it takes requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryPoint {
    pub name: String,
    /// As Traefik writes it: `:80`.
    pub address: String,
    pub tls: bool,
    /// What answers before a route of a file gets its turn.
    pub guarded: bool,
    /// It only sends clients on to another one.
    pub redirects: bool,
}

/// The files that may hold it, in the order in which it looks; a shell expands the variables.
pub fn files(container: &Container) -> Vec<String> {
    let given = flags(&container.args).into_iter().find(|(k, _)| k.eq_ignore_ascii_case("configfile"));
    let standard = PLACES.iter().flat_map(|place| ENDINGS.map(|ending| format!("{place}.{ending}")));
    given.map(|(_, file)| file).into_iter().chain(standard).collect()
}

impl TraefikStaticConfig {
    /// `file` is the one it found: its name and its text.
    pub fn read(container: &Container, file: Option<(&str, &str)>) -> TraefikStaticConfig {
        let pairs = match file {
            Some((name, text)) => parse(name, text),
            None => Some(flags(&container.args)).filter(|f| !f.is_empty()).unwrap_or(environment(container)),
        };
        TraefikStaticConfig { pairs }
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.pairs.iter().rev().find(|(k, _)| k.eq_ignore_ascii_case(key));
        found.map(|(_, value)| value.as_str())
    }

    /// Whether a section is there at all, be it empty: `--api`, `providers.docker: {}`.
    pub fn has(&self, section: &str) -> bool {
        let off = self.get(section).is_some_and(|v| v.eq_ignore_ascii_case("false"));
        !off && (self.get(section).is_some() || self.below(section).next().is_some())
    }

    /// Keys and values of a section, without its name.
    pub fn below<'a>(&'a self, section: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let inside = move |key: &'a str| {
            let (start, rest) = key.split_at_checked(section.len())?;
            start.eq_ignore_ascii_case(section).then(|| rest.strip_prefix('.'))?
        };
        self.pairs.iter().filter_map(move |(k, v)| Some((inside(k)?, v.as_str())))
    }

    pub fn is_on(&self, key: &str) -> bool {
        self.get(key).is_some_and(is_true)
    }

    fn is_on_by_default(&self, key: &str) -> bool {
        self.get(key).is_none_or(is_true)
    }

    /// The directory whose files it reads routes from whenever they change.
    pub fn directory(&self) -> Option<&str> {
        let directory = self.get("providers.file.directory").filter(|d| !d.is_empty())?;
        self.is_on_by_default("providers.file.watch").then(|| directory.trim_end_matches('/'))
    }

    /// File and directory of the routes that stand in files.
    pub fn route_files(&self) -> impl Iterator<Item = &str> {
        let keys = ["providers.file.directory", "providers.file.filename"];
        keys.into_iter().filter_map(|key| self.get(key)).filter(|path| !path.is_empty())
    }

    /// A provider whose routes stand neither in labels nor in files.
    pub fn remote_provider(&self) -> Option<&str> {
        let readable = ["docker", "file", "swarm", "providersThrottleDuration"];
        let names = self.below("providers").filter_map(|(key, _)| key.split('.').next());
        names.into_iter().find(|name| !readable.iter().any(|known| known.eq_ignore_ascii_case(name)))
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

    pub fn default_rule(&self) -> &str {
        self.get("providers.docker.defaultRule").filter(|r| !r.is_empty()).unwrap_or(DEFAULT_RULE)
    }

    pub fn idle_timeout(&self) -> Duration {
        let set = self.get("serversTransport.forwardingTimeouts.idleConnTimeout");
        set.and_then(duration).unwrap_or(IDLE)
    }

    pub fn throttle(&self) -> Duration {
        self.get("providers.providersThrottleDuration").and_then(duration).unwrap_or(THROTTLE)
    }

    /// Those for HTTP; one for all where none is set.
    pub fn entry_points(&self) -> Vec<EntryPoint> {
        let mut names: Vec<&str> = Vec::new();
        for (key, _) in self.below("entryPoints") {
            let name = key.split('.').next().unwrap_or(key);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let own = names.iter().any(|n| !n.eq_ignore_ascii_case("traefik"));
        let standard = EntryPoint {
            name: "http".into(),
            address: ":80".into(),
            tls: false,
            guarded: false,
            redirects: false,
        };
        let set = names.into_iter().filter_map(|name| self.entry_point(name));
        set.chain((!own).then_some(standard)).collect()
    }

    fn entry_point(&self, name: &str) -> Option<EntryPoint> {
        let own = |key: &str| format!("entryPoints.{name}.{key}");
        let address = self.get(&own("address"))?;
        let (address, protocol) = address.split_once('/').unwrap_or((address, "tcp"));
        let redirects = self.has(&own("http.redirections")) && {
            let priority = self.get(&own("http.redirections.entryPoint.priority"));
            priority.and_then(|p| p.parse().ok()).unwrap_or(REDIRECTION)
                > super::override_file::CHECK_PRIORITY
        };
        let dashboard = name.eq_ignore_ascii_case("traefik") && self.is_on("api.insecure");
        Some(EntryPoint {
            name: name.into(),
            address: address.into(),
            tls: self.has(&own("http.tls")),
            guarded: redirects || dashboard || self.has(&own("http.middlewares")),
            redirects,
        })
        .filter(|_| protocol.eq_ignore_ascii_case("tcp"))
    }

    /// Where the API answers without a password: address and path before `/api`.
    pub fn open_api(&self) -> Option<(String, String)> {
        let own = self.entry_points().into_iter().find(|e| e.name.eq_ignore_ascii_case("traefik"));
        let address = own.map_or(":8080".into(), |e| e.address);
        self.is_on("api.insecure").then(|| (address, self.api_path()))
    }

    pub fn api_path(&self) -> String {
        self.get("api.basePath").unwrap_or("").trim_end_matches('/').into()
    }
}

/// `--key=value`, `--key value`, or `--key` for what is only switched on.
fn flags(args: &[String]) -> Vec<(String, String)> {
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
        // Traefik takes names from flags in lower case, those of entry points too.
        pairs.push((key.to_lowercase(), value));
    }
    pairs
}

/// `TRAEFIK_PROVIDERS_FILE_DIRECTORY=…`
fn environment(container: &Container) -> Vec<(String, String)> {
    let pairs = container.config.env.iter().filter_map(|e| e.split_once('='));
    let ours = |(k, v): (&str, &str)| {
        let (start, rest) = k.split_at_checked("TRAEFIK_".len())?;
        let key = rest.replace('_', ".").to_lowercase();
        start.eq_ignore_ascii_case("TRAEFIK_").then(|| (key, v.to_string()))
    };
    pairs.filter_map(ours).collect()
}

fn parse(name: &str, text: &str) -> Vec<(String, String)> {
    let value = match name.ends_with(".toml") {
        true => toml::from_str(text).ok(),
        false => serde_yaml::from_str(text).ok(),
    };
    let mut pairs = Vec::new();
    flatten("", &value.unwrap_or(Value::Null), &mut pairs);
    pairs
}

/// Lists of plain values become one with commas, as in a flag.
fn flatten(key: &str, value: &Value, pairs: &mut Vec<(String, String)>) {
    match value {
        Value::Mapping(map) if !map.is_empty() => {
            for (k, v) in map {
                let k = plain(k);
                flatten(&if key.is_empty() { k } else { format!("{key}.{k}") }, v, pairs);
            }
        }
        Value::Sequence(list) => {
            pairs.push((key.into(), list.iter().map(plain).collect::<Vec<_>>().join(",")));
        }
        other => pairs.push((key.into(), plain(other))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(on) => on.to_string(),
        Value::Number(number) => number.to_string(),
        _ => String::new(),
    }
}

/// As Go's `strconv.ParseBool` reads it.
pub fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

/// `1s`, `500ms`, or a plain number of seconds.
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
    fn flags_files_and_variables_say_the_same() {
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
        let all = [
            flags,
            TraefikStaticConfig::read(&container(&[], &env), None),
            file("/x/traefik.yml", YAML),
            file("t.toml", TOML),
        ];
        for settings in all {
            assert_eq!(settings.directory(), Some("/d"), "{settings:?}");
            assert!(settings.watches_docker() && !settings.exposes_by_default() && settings.has("api"));
            assert_eq!(settings.idle_timeout(), Duration::from_millis(500));
            assert_eq!(settings.get("serversTransport.rootCAs"), Some("a,b"));
            assert_eq!(settings.entry_points()[0].address, ":8000");
        }
    }

    #[test]
    fn names_keep_their_case_in_a_file_and_lose_it_in_a_flag() {
        let file = TraefikStaticConfig::read(&Container::default(), Some(("t.yaml", YAML)));
        assert_eq!(file.entry_points()[0].name, "Web");
        assert_eq!(by_flags(&["--entrypoints.Web.address=:1"]).entry_points()[0].name, "web");
    }

    #[test]
    fn what_is_not_set_is_as_traefik_has_it() {
        let settings = by_flags(&["--providers.docker=true"]);
        assert!(settings.watches_docker() && settings.exposes_by_default());
        assert_eq!((settings.idle_timeout(), settings.throttle()), (IDLE, THROTTLE));
        assert_eq!(settings.entry_points()[0].name, "http");
        assert_eq!(settings.directory(), None);
        let unwatched = by_flags(&["--providers.file.directory=/d", "--providers.file.watch=false"]);
        assert_eq!((unwatched.directory(), unwatched.has("api")), (None, false));
        assert!(!by_flags(&["--providers.docker=false"]).watches_docker());
    }

    #[test]
    fn an_entry_point_that_answers_by_itself_is_guarded() {
        let guarded = |flag: &str| {
            let settings = by_flags(&["--entrypoints.web.address=:80", flag]);
            settings.entry_points()[0].guarded
        };
        assert!(!guarded("--entrypoints.web.http.tls.certresolver=le"));
        assert!(guarded("--entrypoints.web.http.middlewares=auth@file"));
        assert!(guarded("--entrypoints.web.http.redirections.entrypoint.to=websecure"));
        assert!(!guarded("--entrypoints.web.http.redirections.entrypoint.priority=10"));
        assert_eq!(by_flags(&["--entrypoints.dns.address=:53/udp"]).entry_points(), []);
    }

    #[test]
    fn the_api_that_needs_no_password_is_where_its_entry_point_is() {
        let insecure = by_flags(&["--api.insecure=true", "--api.basepath=/t/"]);
        assert_eq!(insecure.open_api(), Some((":8080".into(), "/t".into())));
        let moved = by_flags(&["--api.insecure", "--entrypoints.traefik.address=:9000"]);
        assert_eq!(moved.open_api(), Some((":9000".into(), String::new())));
        assert_eq!(by_flags(&["--api=true"]).open_api(), None);
    }

    #[test]
    fn a_file_that_is_named_is_looked_at_first() {
        let files = files(&container(&["--configFile=/x.yml"], &[]));
        assert_eq!(&files[..3], ["/x.yml", "/etc/traefik/traefik.toml", "/etc/traefik/traefik.yaml"]);
        assert_eq!(files.last().unwrap(), "./traefik.yml");
    }
}
