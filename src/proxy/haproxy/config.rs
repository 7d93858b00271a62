//! What an HAProxy configuration says, as far as it concerns a deploy.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// The parts of a configuration that a deploy looks at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Address and level of each `stats socket`.
    pub sockets: Vec<(String, String)>,
    pub templates: Vec<Template>,
    pub fixed: Vec<Fixed>,
    /// Options of `default-server`, by section; those of `defaults` have none.
    default_options: BTreeMap<String, Vec<String>>,
    /// Backends that keep clients with their server, which a drained server still takes.
    pub sticky: Vec<String>,
}

/// `server-template PREFIX COUNT NAME:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub backend: String,
    pub prefix: String,
    /// The numbers of its servers.
    pub numbers: RangeInclusive<u32>,
    pub host: String,
    pub port: Option<u16>,
}

impl Template {
    /// Whether a server is one of its own, and not of another template whose prefix begins with the same letters.
    pub fn has(&self, backend: &str, server: &str) -> bool {
        let number = server.strip_prefix(&self.prefix).and_then(|n| n.parse().ok());
        self.backend == backend && number.is_some_and(|n| self.numbers.contains(&n))
    }
}

/// `server NAME HOST:PORT …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    pub backend: String,
    pub name: String,
    pub host: String,
    pub port: Option<u16>,
    /// What stands behind the address, after what `default-server` says for its section.
    pub options: Vec<String>,
}

impl Fixed {
    /// DNS tells its address, and not we.
    pub fn follows_dns(&self) -> bool {
        self.options.iter().any(|o| o == "resolvers")
    }
}

/// Whether a host of a configuration stands for an instance with these names: it is one of them, or that of another
/// instance of the same service (`p-app-1` for `p-app-2`).
pub fn stands_for(host: &str, names: &[String]) -> bool {
    let stem = |name: &str| {
        let (stem, number) = name.rsplit_once(['-', '_'])?;
        number.parse::<u32>().ok().map(|_| stem.to_string())
    };
    let same_stem = |n: &String| stem(host).is_some_and(|s| Some(s) == stem(n));
    names.iter().any(|n| n == host || same_stem(n))
}

impl Settings {
    pub fn parse(text: &str) -> Settings {
        let mut settings = Settings::default();
        let mut section = String::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or("");
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["backend" | "listen", name, ..] => section = name.into(),
                ["global" | "defaults" | "frontend" | "resolvers" | "peers" | "userlist", ..] => {
                    section.clear()
                }
                _ => settings.take(&section, &words),
            }
        }
        settings
    }

    /// Takes in one line of a section.
    fn take(&mut self, section: &str, words: &[&str]) {
        match *words {
            ["stats", "socket", address, ..] => {
                let level = option(words, "level").unwrap_or("operator");
                self.sockets.push((address.into(), level.into()));
            }
            ["server-template", prefix, numbers, address, ..] => {
                let (host, port) = host_and_port(address);
                let (backend, prefix) = (section.into(), prefix.into());
                let numbers = numbers_of(numbers);
                self.templates.push(Template { backend, prefix, numbers, host, port });
            }
            ["server", name, address, ref options @ ..] => {
                let (host, port) = host_and_port(address);
                let inherited =
                    ["", section].map(|s| self.default_options.get(s).cloned().unwrap_or_default());
                let own = options.iter().map(ToString::to_string);
                let options = inherited.into_iter().flatten().chain(own).collect();
                self.fixed.push(Fixed { backend: section.into(), name: name.into(), host, port, options });
            }
            ["default-server", ref options @ ..] => {
                let all = self.default_options.entry(section.into()).or_default();
                all.extend(options.iter().map(ToString::to_string));
            }
            ["cookie" | "stick", ..] | ["balance", "source", ..] => self.sticky.push(section.into()),
            _ => {}
        }
    }
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

/// Reads `app:3000`; an SRV or other name has no port.
fn host_and_port(address: &str) -> (String, Option<u16>) {
    match address.rsplit_once(':') {
        Some((host, port)) => (host.into(), port.parse().ok()),
        None => (address.into(), None),
    }
}
