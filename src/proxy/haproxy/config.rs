//! Parser of an HAProxy configuration, for the parts that matter to a deploy.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::frontend::Frontend;
use super::variables;

/// The parts of a configuration that matter to a deploy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HaproxyConfig {
    /// Address and level of each `stats socket`.
    pub sockets: Vec<(String, String)>,
    pub templates: Vec<ServerTemplate>,
    pub static_servers: Vec<StaticServer>,
    /// Backends with sticky clients, which a drained server still gets.
    pub sticky: Vec<String>,
    /// Backends that retry a failed connection on another server.
    pub redispatching: Vec<String>,
    /// Frontends with their routes.
    pub frontends: Vec<Frontend>,
    /// HAProxy's version.
    pub version: Option<(u32, u32)>,
    /// No line of the configuration could be read.
    pub is_unreadable: bool,
    /// Hosts of servers that are defined only under a condition (`.if`).
    pub conditional: Vec<String>,
}

/// `server-template PREFIX COUNT NAME:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTemplate {
    pub backend: String,
    pub prefix: String,
    /// Numbers of the template's servers.
    pub numbers: RangeInclusive<u32>,
    pub host: String,
    pub port: Option<u16>,
    /// As for a [`StaticServer`].
    pub options: Vec<String>,
}

impl ServerTemplate {
    /// Number of servers; a template without a valid number has no limit.
    pub fn size(&self) -> usize {
        let (first, last) = (*self.numbers.start(), *self.numbers.end());
        last.saturating_sub(first).saturating_add(1) as usize
    }

    /// The server belongs to this template, not to another whose prefix begins with the same letters.
    pub fn contains(&self, backend: &str, server: &str) -> bool {
        let number = server.strip_prefix(&self.prefix).and_then(|n| n.parse().ok());
        self.backend == backend && number.is_some_and(|n| self.numbers.contains(&n))
    }
}

/// `server NAME HOST:PORT …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticServer {
    pub backend: String,
    pub name: String,
    pub host: String,
    pub port: Option<u16>,
    /// Options after the address as written, after those of the section's `default-server`.
    pub options: Vec<String>,
}

impl StaticServer {
    /// DNS sets the server's address, not compose-zd.
    pub fn follows_dns(&self) -> bool {
        self.options.iter().any(|o| o == "resolvers")
    }
}

/// A host of the configuration means an instance with these DNS names. It is one of the names, or Compose's
/// name of another instance of the same service (`p-app-1` for `p-app-2`). Services `app-1` and `app-2` do not
/// match. Case and a final dot do not matter.
pub fn stands_for(host: &str, names: &[String]) -> bool {
    let host = host.trim_end_matches('.');
    let stem = |name: &str| {
        let (stem, number) = name.rsplit_once(['-', '_'])?;
        number.parse::<u32>().ok().map(|_| stem.to_string())
    };
    let is_compose_stem = |stem: &str| {
        let ends =
            |service: &String| stem.strip_suffix(service.as_str()).is_some_and(|p| p.ends_with(['-', '_']));
        names.iter().any(ends)
    };
    let same_stem = |n: &String| stem(host).is_some_and(|s| is_compose_stem(&s) && Some(s) == stem(n));
    names.iter().any(|n| n.eq_ignore_ascii_case(host) || same_stem(n))
}

/// Words that begin a section without servers of ours: those of a `ring` or of `peers` get no requests.
pub const OTHER_SECTIONS: [&str; 17] = [
    "acme",
    "cache",
    "crt-store",
    "fcgi-app",
    "frontend",
    "global",
    "http-errors",
    "log-forward",
    "log-profile",
    "mailers",
    "namespace_list",
    "peers",
    "program",
    "resolvers",
    "ring",
    "traces",
    "userlist",
];

/// Settings that a section inherits.
#[derive(Clone, Default)]
struct SectionDefaults {
    /// Options of `default-server`.
    options: Vec<String>,
    sticky: bool,
    redispatches: bool,
}

/// The section of a line.
enum Section {
    Defaults(String),
    Backend(String),
    Other,
}

/// Reads a configuration line by line.
struct ConfigReader {
    config: HaproxyConfig,
    section: Section,
    /// Settings of the current section up to this line.
    current: SectionDefaults,
    /// Settings of each `defaults` section by its name.
    named_defaults: BTreeMap<String, SectionDefaults>,
    /// Settings of the last `defaults` section.
    last_defaults: SectionDefaults,
    /// Number of `.if` blocks around the line.
    conditions: usize,
}

impl HaproxyConfig {
    /// Parses a configuration after expanding its variables.
    pub fn parse_with_environment(text: &str, environment: &BTreeMap<String, String>) -> HaproxyConfig {
        HaproxyConfig::parse(&variables::expand_variables(text, environment))
    }

    pub fn parse(text: &str) -> HaproxyConfig {
        let mut reader = ConfigReader {
            config: HaproxyConfig::default(),
            section: Section::Other,
            current: SectionDefaults::default(),
            named_defaults: BTreeMap::new(),
            last_defaults: SectionDefaults::default(),
            conditions: 0,
        };
        reader.config.is_unreadable =
            !text.lines().any(|line| !line.starts_with('@') && !words(line).is_empty());
        text.lines().for_each(|line| reader.read_line(&words(line)));
        HaproxyConfig { frontends: Frontend::all(text), ..reader.config }
    }
}

impl ConfigReader {
    fn read_line(&mut self, words: &[&str]) {
        match *words {
            ["@version", ref rest @ ..] => self.config.version = rest.iter().find_map(|w| version(w)),
            [".if", ..] => self.conditions += 1,
            [".endif", ..] => self.conditions = self.conditions.saturating_sub(1),
            ["defaults", ref rest @ ..] => {
                self.current = defaults_name(rest)
                    .and_then(|name| self.named_defaults.get(&name).cloned())
                    .unwrap_or_default();
                let name = rest.first().filter(|w| **w != "from").map(|w| bare(w)).unwrap_or_default();
                self.section = Section::Defaults(name);
                self.store_defaults();
            }
            ["backend" | "listen", name, ref rest @ ..] => {
                let named = defaults_name(rest).and_then(|name| self.named_defaults.get(&name).cloned());
                self.current = named.unwrap_or_else(|| self.last_defaults.clone());
                self.section = Section::Backend(bare(name));
                self.update_backend_lists();
            }
            [word, ..] if OTHER_SECTIONS.contains(&word) => self.section = Section::Other,
            ["stats", "socket", address, ..] => {
                let level = option(words, "level").unwrap_or("operator");
                self.config.sockets.push((bare(address), level.into()));
            }
            ["default-server", ref options @ ..] => {
                self.current.options.extend(options.iter().map(ToString::to_string));
                self.store_defaults();
            }
            ["cookie" | "stick" | "persist", ..] | ["balance", "source", ..] => {
                self.current.sticky = true;
                self.store_defaults();
                self.update_backend_lists();
            }
            ["option", "redispatch", ..] | ["no", "option", "redispatch", ..] => {
                self.current.redispatches = words[0] == "option";
                self.store_defaults();
                self.update_backend_lists();
            }
            _ => self.read_server(words),
        }
    }

    /// Stores the settings of a `defaults` section for the sections after it.
    fn store_defaults(&mut self) {
        if let Section::Defaults(name) = &self.section {
            self.named_defaults.insert(name.clone(), self.current.clone());
            self.last_defaults = self.current.clone();
        }
    }

    /// Updates the lists of sticky and redispatching backends.
    fn update_backend_lists(&mut self) {
        let Section::Backend(name) = &self.section else { return };
        let lists = [
            (self.current.sticky, &mut self.config.sticky),
            (self.current.redispatches, &mut self.config.redispatching),
        ];
        for (is_listed, list) in lists {
            list.retain(|n| n != name);
            list.extend(is_listed.then(|| name.clone()));
        }
    }

    fn read_server(&mut self, words: &[&str]) {
        let Section::Backend(backend) = &self.section else {
            return;
        };
        let backend = backend.clone();
        match *words {
            ["server-template", prefix, numbers, address, ref options @ ..] => {
                let (host, port) = self.read_address(address);
                let options = self.with_defaults(options);
                let prefix = bare(prefix);
                let numbers = numbers_of(numbers);
                self.config.templates.push(ServerTemplate { backend, prefix, numbers, host, port, options });
            }
            ["server", name, address, ref options @ ..] => {
                let (host, port) = self.read_address(address);
                let options = self.with_defaults(options);
                let name = bare(name);
                self.config.static_servers.push(StaticServer { backend, name, host, port, options });
            }
            _ => {}
        }
    }
}

impl ConfigReader {
    fn read_address(&mut self, address: &str) -> (String, Option<u16>) {
        let (host, port) = host_and_port(&bare(address));
        self.config.conditional.extend((self.conditions > 0).then(|| host.clone()));
        (host, port)
    }

    fn with_defaults(&self, options: &[&str]) -> Vec<String> {
        let own = options.iter().map(ToString::to_string);
        self.current.options.iter().cloned().chain(own).collect()
    }
}

/// Parses `2.6.12-1+deb12u3`.
pub fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(['.', '-']).map(|p| p.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// The words of a line as they are written. Quoted or escaped characters neither end a word nor begin a
/// comment.
pub fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let (mut start, mut quote, mut escaped) = (None, None, false);
    let mut end = line.len();
    for (at, char) in line.char_indices() {
        match (quote, char) {
            _ if escaped => escaped = false,
            (None, '#') => {
                end = at;
                break;
            }
            (None, ' ' | '\t' | '\r') => {
                words.extend(start.take().map(|from| &line[from..at]));
                continue;
            }
            (None | Some('"'), '\\') => escaped = true,
            (Some(open), _) if open == char => quote = None,
            (None, '"' | '\'') => quote = Some(char),
            _ => {}
        }
        start.get_or_insert(at);
    }
    words.extend(start.map(|from| &line[from..end]));
    words
}

/// A word without its quotes.
pub fn bare(word: &str) -> String {
    word.replace(['"', '\''], "")
}

/// The `defaults` section that a section names by `from`.
fn defaults_name(words: &[&str]) -> Option<String> {
    option(words, "from").map(bare)
}

fn option<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    let at = words.iter().position(|w| *w == name)?;
    words.get(at + 1).copied()
}

/// Parses `8` or `3-8`; an invalid text means all numbers.
fn numbers_of(text: &str) -> RangeInclusive<u32> {
    let (first, last) = text.split_once('-').unwrap_or(("1", text));
    first.parse().unwrap_or(0)..=last.parse().unwrap_or(u32::MAX)
}

/// Parses `app:3000`, `ipv4@app:3000` or `[::1]:3000`. An SRV or plain name has no port, and a relative port
/// (`+10`) does not count.
fn host_and_port(address: &str) -> (String, Option<u16>) {
    let address = ["ipv4@", "ipv6@"].iter().find_map(|p| address.strip_prefix(p)).unwrap_or(address);
    match address.rsplit_once(':').filter(|_| !address.ends_with(']')) {
        Some((host, port)) => (host.into(), port.parse().ok().filter(|_| !port.starts_with('+'))),
        None => (address.into(), None),
    }
}
