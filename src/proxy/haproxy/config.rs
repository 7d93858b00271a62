//! Parser of an HAProxy configuration, for the parts that matter to a deploy.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::frontend::Frontend;
use super::server::Server;
use super::variables::Variables;
use super::words::{bare, words};
use crate::proxy::kit::{time, version};

/// First version whose runtime API adds servers, and checks them.
pub const ADDS_SERVERS_SINCE: [u32; 2] = [2, 6];

/// The parts of a configuration that matter to a deploy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HaproxyConfig {
    /// Address and level of each `stats socket`.
    pub sockets: Vec<(String, String)>,
    /// `server` and `server-template` lines of all backends.
    pub lines: Vec<ServerLine>,
    /// Properties of each backend by its name.
    backends: BTreeMap<String, BackendTraits>,
    /// Frontends with their routes.
    pub frontends: Vec<Frontend>,
    /// HAProxy's version.
    pub version: Option<[u32; 2]>,
    /// A `timeout tunnel` is set, which is for WebSockets and other streams.
    pub has_tunnels: bool,
    /// No line of the configuration could be read.
    pub is_unreadable: bool,
    /// Hosts of servers that are defined only under a condition (`.if`).
    pub conditional: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct BackendTraits {
    is_sticky: bool,
    redispatches: bool,
    /// The `balance` algorithm is `static-rr`.
    is_static: bool,
    /// The `balance` algorithm hashes a property of the request, by a map unless `hash-type` is `consistent`.
    is_hashed: bool,
    is_consistent: bool,
    /// `timeout server`.
    answer_timeout: Option<Duration>,
}

/// `server NAME HOST:PORT …` or `server-template PREFIX COUNT NAME:PORT …`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerLine {
    pub backend: String,
    /// Name of the server, or prefix of a template's servers.
    pub name: String,
    /// Numbers of a template's servers; none for a fixed server.
    pub numbers: Option<RangeInclusive<u32>>,
    pub host: String,
    pub port: Option<u16>,
    /// Options after the address as written, after those of the section's `default-server`.
    pub options: Vec<String>,
}

impl ServerLine {
    pub fn is_template(&self) -> bool {
        self.numbers.is_some()
    }

    /// Number of servers; a template without a valid number has no limit.
    pub fn size(&self) -> usize {
        let size = |n: &RangeInclusive<u32>| n.end().saturating_sub(*n.start()).saturating_add(1) as usize;
        self.numbers.as_ref().map_or(1, size)
    }

    /// The server belongs to this line, not to a template whose prefix begins with the same letters.
    pub fn contains(&self, server: &Server) -> bool {
        let is_numbered = |numbers: &RangeInclusive<u32>| {
            let number = server.name.strip_prefix(&self.name).and_then(|n| n.parse().ok());
            number.is_some_and(|n| numbers.contains(&n))
        };
        let has_name = self.numbers.as_ref().map_or(self.name == server.name, is_numbered);
        self.backend == server.backend && has_name
    }

    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|o| o == option)
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
const OTHER_SECTIONS: &str = "acme cache crt-store fcgi-app frontend global http-errors log-forward log-profile mailers \
    namespace_list peers program resolvers ring traces userlist";

/// Algorithms of `balance` that hash a property of the request.
const HASHES: [&str; 6] = ["source", "uri", "url_param", "hdr", "rdp-cookie", "hash"];

/// Settings that a section inherits.
#[derive(Clone, Default)]
struct SectionDefaults {
    /// Options of `default-server`.
    options: Vec<String>,
    traits: BackendTraits,
}

/// The section of a line.
#[derive(Default)]
enum Section {
    Defaults(String),
    Backend(String),
    #[default]
    Other,
}

/// Reads a configuration line by line.
#[derive(Default)]
struct ConfigReader {
    config: HaproxyConfig,
    section: Section,
    /// The line belongs to the last frontend; a `listen` is a frontend and a backend.
    is_in_frontend: bool,
    /// Settings of the current section up to this line.
    current: SectionDefaults,
    /// Settings of each `defaults` section by its name.
    named_defaults: BTreeMap<String, SectionDefaults>,
    /// Settings of the last `defaults` section.
    last_defaults: SectionDefaults,
    variables: Variables,
}

impl HaproxyConfig {
    /// Parses a configuration, with the variables of this environment.
    pub fn parse_with_environment(text: &str, environment: BTreeMap<String, String>) -> HaproxyConfig {
        let mut reader = ConfigReader { variables: Variables::from(environment), ..ConfigReader::default() };
        reader.config.is_unreadable =
            !text.lines().any(|line| !line.starts_with('@') && !words(line).is_empty());
        for line in text.lines() {
            let line = reader.variables.expand(line);
            reader.read_line(&words(&line));
        }
        reader.config
    }

    pub fn parse(text: &str) -> HaproxyConfig {
        HaproxyConfig::parse_with_environment(text, BTreeMap::new())
    }

    pub fn templates(&self) -> impl Iterator<Item = &ServerLine> {
        self.lines.iter().filter(|line| line.is_template())
    }

    /// Fixed `server` lines.
    pub fn static_servers(&self) -> impl Iterator<Item = &ServerLine> {
        self.lines.iter().filter(|line| !line.is_template())
    }

    /// The backend has sticky clients, which a drained server still gets.
    pub fn is_sticky(&self, backend: &str) -> bool {
        self.backends.get(backend).is_some_and(|b| b.is_sticky)
    }

    /// The backend retries a failed connection on another server.
    pub fn redispatches(&self, backend: &str) -> bool {
        self.backends.get(backend).is_some_and(|b| b.redispatches)
    }

    /// Time after which HAProxy gives up on an answer of the backend.
    pub fn answer_timeout(&self, backend: &str) -> Option<Duration> {
        self.backends.get(backend)?.answer_timeout
    }

    /// The `balance` algorithm of the backend has a fixed map of servers.
    pub fn has_static_balance(&self, backend: &str) -> bool {
        self.backends.get(backend).is_some_and(|b| b.is_static || (b.is_hashed && !b.is_consistent))
    }

    /// Command that takes a server out of rotation. A drained server still gets the clients that a cookie or a
    /// stick table ties to it; a server in maintenance does not.
    pub fn drain(&self, server: &Server) -> String {
        server.set(if self.is_sticky(&server.backend) { "maint" } else { "drain" })
    }
}

impl ConfigReader {
    fn read_line(&mut self, words: &[&str]) {
        match *words {
            ["@version", ref rest @ ..] => self.config.version = rest.iter().find_map(|w| version::parse(w)),
            ["defaults", ref rest @ ..] => {
                let name = rest.first().filter(|w| **w != "from").map(|w| bare(w)).unwrap_or_default();
                let inherited = self.named(rest).unwrap_or_default();
                self.begin(Section::Defaults(name), inherited);
            }
            [kind @ ("backend" | "listen"), name, ref rest @ ..] => {
                let inherited = self.named(rest).unwrap_or_else(|| self.last_defaults.clone());
                self.begin(Section::Backend(bare(name)), inherited);
                self.is_in_frontend = kind == "listen";
                self.config.frontends.extend(self.is_in_frontend.then(|| Frontend::listen(&bare(name))));
            }
            [word, ..] if OTHER_SECTIONS.split_whitespace().any(|section| section == word) => {
                self.begin(Section::Other, SectionDefaults::default());
                self.is_in_frontend = word == "frontend";
                self.config.frontends.extend(self.is_in_frontend.then(Frontend::default));
            }
            ["timeout", "tunnel", ..] => self.config.has_tunnels = true,
            ["stats", "socket", address, ..] => {
                let level = option(words, "level").unwrap_or("operator");
                self.config.sockets.push((bare(address), level.into()));
            }
            _ => self.read_setting(words),
        }
    }

    /// The `defaults` section that a section names by `from`.
    fn named(&self, words: &[&str]) -> Option<SectionDefaults> {
        self.named_defaults.get(&bare(option(words, "from")?)).cloned()
    }

    fn begin(&mut self, section: Section, inherited: SectionDefaults) {
        (self.section, self.current, self.is_in_frontend) = (section, inherited, false);
        self.store_settings();
    }

    fn read_setting(&mut self, words: &[&str]) {
        let traits = &mut self.current.traits;
        match *words {
            ["default-server", ref options @ ..] => {
                self.current.options.extend(options.iter().map(ToString::to_string));
            }
            ["cookie" | "stick" | "persist", ..] => traits.is_sticky = true,
            ["balance", algorithm, ..] => {
                traits.is_sticky |= algorithm == "source";
                traits.is_static = algorithm == "static-rr";
                traits.is_hashed = HASHES.iter().any(|hash| algorithm.split('(').next() == Some(hash));
            }
            ["timeout", "server", time, ..] => traits.answer_timeout = time::parse(time, "ms"),
            ["hash-type", method, ..] => traits.is_consistent = method == "consistent",
            ["option", "redispatch", ..] => traits.redispatches = true,
            ["no", "option", "redispatch", ..] => traits.redispatches = false,
            ["server-template", prefix, numbers, address, ref options @ ..] => {
                self.read_server(prefix, Some(numbers_of(numbers)), address, options);
            }
            ["server", name, address, ref options @ ..] => self.read_server(name, None, address, options),
            _ => {
                let frontend = self.config.frontends.last_mut().filter(|_| self.is_in_frontend);
                frontend.into_iter().for_each(|frontend| frontend.read_line(words));
            }
        }
        self.store_settings();
    }

    /// Stores the settings of a `defaults` section for the sections after it, and the properties of a backend.
    fn store_settings(&mut self) {
        match &self.section {
            Section::Defaults(name) => {
                self.named_defaults.insert(name.clone(), self.current.clone());
                self.last_defaults = self.current.clone();
            }
            Section::Backend(name) => {
                self.config.backends.insert(name.clone(), self.current.traits);
            }
            Section::Other => {}
        }
    }

    fn read_server(
        &mut self,
        name: &str,
        numbers: Option<RangeInclusive<u32>>,
        address: &str,
        options: &[&str],
    ) {
        let Section::Backend(backend) = &self.section else { return };
        let (backend, name) = (backend.clone(), bare(name));
        let (host, port) = host_and_port(&bare(address));
        self.config.conditional.extend(self.variables.is_conditional().then(|| host.clone()));
        let own = options.iter().map(ToString::to_string);
        let options = self.current.options.iter().cloned().chain(own).collect();
        self.config.lines.push(ServerLine { backend, name, numbers, host, port, options });
    }
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
