//! What an HAProxy configuration says, as far as it concerns a deploy.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use super::frontend::Frontend;
use super::variables;

/// The parts of a configuration that a deploy looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HaproxyConfig {
    /// Address and level of each `stats socket`.
    pub sockets: Vec<(String, String)>,
    pub templates: Vec<ServerTemplate>,
    pub fixed: Vec<StaticServer>,
    /// Backends that keep clients with their server, which a drained server still takes.
    pub sticky: Vec<String>,
    /// Backends that try a request that reaches no server at another one.
    pub redispatching: Vec<String>,
    /// Where clients come in.
    pub fronts: Vec<Frontend>,
    /// Of the program that reads it.
    pub version: Option<(u32, u32)>,
    /// Nothing of it could be read.
    pub is_unread: bool,
    /// Hosts of servers that count only under a condition (`.if`).
    pub conditional: Vec<String>,
}

/// `server-template PREFIX COUNT NAME:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTemplate {
    pub backend: String,
    pub prefix: String,
    /// The numbers of its servers.
    pub numbers: RangeInclusive<u32>,
    pub host: String,
    pub port: Option<u16>,
    /// As for a [`Fixed`].
    pub options: Vec<String>,
}

impl ServerTemplate {
    /// How many servers it has; one that gives no number has as many as it likes.
    pub fn size(&self) -> usize {
        let (first, last) = (*self.numbers.start(), *self.numbers.end());
        last.saturating_sub(first).saturating_add(1) as usize
    }

    /// Whether a server is one of its own, and not of another template whose prefix begins with the same letters.
    pub fn has(&self, backend: &str, server: &str) -> bool {
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
    /// What stands behind the address as it is written, after what `default-server` says for its section.
    pub options: Vec<String>,
}

impl StaticServer {
    /// DNS tells its address, and not we.
    pub fn follows_dns(&self) -> bool {
        self.options.iter().any(|o| o == "resolvers")
    }
}

/// Whether a host of a configuration stands for an instance with these names: it is one of them, or the name that Compose
/// gives another instance of the same service (`p-app-1` for `p-app-2`). Services `app-1` and `app-2` are no such names. DNS
/// does not go by case, nor by a dot at the end.
pub fn stands_for(host: &str, names: &[String]) -> bool {
    let host = host.trim_end_matches('.');
    let stem = |name: &str| {
        let (stem, number) = name.rsplit_once(['-', '_'])?;
        number.parse::<u32>().ok().map(|_| stem.to_string())
    };
    let is_composes = |stem: &str| {
        let ends =
            |service: &String| stem.strip_suffix(service.as_str()).is_some_and(|p| p.ends_with(['-', '_']));
        names.iter().any(ends)
    };
    let same_stem = |n: &String| stem(host).is_some_and(|s| is_composes(&s) && Some(s) == stem(n));
    names.iter().any(|n| n.eq_ignore_ascii_case(host) || same_stem(n))
}

/// Words that begin a section without a server of ours: those of a `ring` or of `peers` take no requests.
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

/// What a section has that it does not say itself.
#[derive(Clone, Default)]
struct SectionDefaults {
    /// Of `default-server`.
    options: Vec<String>,
    sticky: bool,
    redispatches: bool,
}

/// The section that a line is in.
enum Section {
    Defaults(String),
    Backend(String),
    Other,
}

/// Goes through a configuration line by line.
struct ConfigReader {
    settings: HaproxyConfig,
    section: Section,
    /// As far as the section has been read.
    own: SectionDefaults,
    /// Of each `defaults` by its name, and of the last one.
    named: BTreeMap<String, SectionDefaults>,
    last: SectionDefaults,
    /// How many `.if` a line is in.
    conditions: usize,
}

impl HaproxyConfig {
    /// Reads a configuration, with the values that its variables have.
    pub fn read(text: &str, environment: &BTreeMap<String, String>) -> HaproxyConfig {
        HaproxyConfig::parse(&variables::expanded(text, environment))
    }

    pub fn parse(text: &str) -> HaproxyConfig {
        let mut reader = ConfigReader {
            settings: HaproxyConfig::default(),
            section: Section::Other,
            own: SectionDefaults::default(),
            named: BTreeMap::new(),
            last: SectionDefaults::default(),
            conditions: 0,
        };
        reader.settings.is_unread =
            !text.lines().any(|line| !line.starts_with('@') && !words(line).is_empty());
        text.lines().for_each(|line| reader.read_line(&words(line)));
        HaproxyConfig { fronts: Frontend::all(text), ..reader.settings }
    }
}

impl ConfigReader {
    fn read_line(&mut self, words: &[&str]) {
        match *words {
            ["@version", ref rest @ ..] => self.settings.version = rest.iter().find_map(|w| version(w)),
            [".if", ..] => self.conditions += 1,
            [".endif", ..] => self.conditions = self.conditions.saturating_sub(1),
            ["defaults", ref rest @ ..] => {
                self.own = from(rest).and_then(|name| self.named.get(&name).cloned()).unwrap_or_default();
                let name = rest.first().filter(|w| **w != "from").map(|w| bare(w)).unwrap_or_default();
                self.section = Section::Defaults(name);
                self.keep();
            }
            ["backend" | "listen", name, ref rest @ ..] => {
                let named = from(rest).and_then(|name| self.named.get(&name).cloned());
                self.own = named.unwrap_or_else(|| self.last.clone());
                self.section = Section::Backend(bare(name));
                self.note();
            }
            [word, ..] if OTHER_SECTIONS.contains(&word) => self.section = Section::Other,
            ["stats", "socket", address, ..] => {
                let level = option(words, "level").unwrap_or("operator");
                self.settings.sockets.push((bare(address), level.into()));
            }
            ["default-server", ref options @ ..] => {
                self.own.options.extend(options.iter().map(ToString::to_string));
                self.keep();
            }
            ["cookie" | "stick" | "persist", ..] | ["balance", "source", ..] => {
                self.own.sticky = true;
                self.keep();
                self.note();
            }
            ["option", "redispatch", ..] | ["no", "option", "redispatch", ..] => {
                self.own.redispatches = words[0] == "option";
                self.keep();
                self.note();
            }
            _ => self.take_server(words),
        }
    }

    /// What a `defaults` says is for the sections after it.
    fn keep(&mut self) {
        if let Section::Defaults(name) = &self.section {
            self.named.insert(name.clone(), self.own.clone());
            self.last = self.own.clone();
        }
    }

    /// What is true of a backend so far.
    fn note(&mut self) {
        let Section::Backend(name) = &self.section else { return };
        let lists = [
            (self.own.sticky, &mut self.settings.sticky),
            (self.own.redispatches, &mut self.settings.redispatching),
        ];
        for (is_one, list) in lists {
            list.retain(|n| n != name);
            list.extend(is_one.then(|| name.clone()));
        }
    }

    fn take_server(&mut self, words: &[&str]) {
        let Section::Backend(backend) = &self.section else {
            return;
        };
        let backend = backend.clone();
        match *words {
            ["server-template", prefix, numbers, address, ref options @ ..] => {
                let (host, port) = self.address(address);
                let options = self.with_defaults(options);
                let prefix = bare(prefix);
                let numbers = numbers_of(numbers);
                self.settings.templates.push(ServerTemplate {
                    backend,
                    prefix,
                    numbers,
                    host,
                    port,
                    options,
                });
            }
            ["server", name, address, ref options @ ..] => {
                let (host, port) = self.address(address);
                let options = self.with_defaults(options);
                let name = bare(name);
                self.settings.fixed.push(StaticServer { backend, name, host, port, options });
            }
            _ => {}
        }
    }
}

impl ConfigReader {
    fn address(&mut self, address: &str) -> (String, Option<u16>) {
        let (host, port) = host_and_port(&bare(address));
        self.settings.conditional.extend((self.conditions > 0).then(|| host.clone()));
        (host, port)
    }

    fn with_defaults(&self, options: &[&str]) -> Vec<String> {
        let own = options.iter().map(ToString::to_string);
        self.own.options.iter().cloned().chain(own).collect()
    }
}

/// Reads `2.6.12-1+deb12u3`.
pub fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split(['.', '-']).map(|p| p.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// The words of a line as they are written; what is quoted or escaped ends none, and begins no comment.
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

/// The `defaults` that a section names.
fn from(words: &[&str]) -> Option<String> {
    option(words, "from").map(bare)
}

fn option<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    let at = words.iter().position(|w| *w == name)?;
    words.get(at + 1).copied()
}

/// Reads `8` or `3-8`; all where it makes no sense.
fn numbers_of(text: &str) -> RangeInclusive<u32> {
    let (first, last) = text.split_once('-').unwrap_or(("1", text));
    first.parse().unwrap_or(0)..=last.parse().unwrap_or(u32::MAX)
}

/// Reads `app:3000`, `ipv4@app:3000` or `[::1]:3000`; an SRV or other name has no port, and `+10` is none.
fn host_and_port(address: &str) -> (String, Option<u16>) {
    let address = ["ipv4@", "ipv6@"].iter().find_map(|p| address.strip_prefix(p)).unwrap_or(address);
    match address.rsplit_once(':').filter(|_| !address.ends_with(']')) {
        Some((host, port)) => (host.into(), port.parse().ok().filter(|_| !port.starts_with('+'))),
        None => (address.into(), None),
    }
}
