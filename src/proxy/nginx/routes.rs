//! Routes of nginx's configuration: the hosts of each `…_pass`, and the public routes that lead to them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::proxy::kit::directive::Directive;
use crate::proxy::kit::passes::{Pass, Passes, Upstream};
use crate::proxy::kit::time;
use crate::proxy::public_route::{PublicRoute, is_plain};

/// All routes of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    pub passes: Passes,
    /// True if `master_process off` is set, so that a reload has no new workers.
    pub is_single_process: bool,
    pub has_keepalive_min_timeout: bool,
    /// Shortest `proxy_read_timeout` of all places.
    pub read_timeout: Option<Duration>,
}

/// Most values of a text with variables, and most steps to find them.
const MAX_VALUES: usize = 64;
const MAX_STEPS: usize = 512;

/// Variables of nginx's own whose values matter for the host of a URL.
const OWN_VARIABLES: [(&str, &[&str]); 5] = [
    ("scheme", &["http", "https"]),
    ("uri", &["/"]),
    ("document_uri", &["/"]),
    ("request_uri", &["/"]),
    ("is_args", &["?"]),
];

/// Stands for a variable of unknown value.
const UNKNOWN: char = '\0';

/// Groups and variables of `http` or `stream`.
#[derive(Default)]
struct Names {
    /// Servers of each `upstream`, by name in lower case.
    groups: BTreeMap<String, Vec<Upstream>>,
    /// Hosts in lower case, with their ports, that nginx resolves at its start: those of a `…_pass` without variables.
    fixed: BTreeSet<(String, Option<u16>)>,
    /// Values of each variable, by name without `$`.
    values: BTreeMap<String, BTreeSet<String>>,
}

/// Place of a `…_pass`.
#[derive(Clone, Default)]
struct Scope<'d> {
    server: Option<&'d Directive>,
    /// Path of the location; `None` for a pattern.
    path: Option<&'d str>,
    host_header: Option<&'d str>,
    has_resolver: bool,
    is_stream: bool,
}

/// Routes of the directives of a whole configuration.
pub fn routes(directives: &[Directive]) -> Routes {
    let is = |d: &Directive, name: &str, value: &str| d.name == name && d.arg(0) == value;
    let mut routes = Routes {
        is_single_process: directives.iter().any(|d| is(d, "master_process", "off")),
        has_keepalive_min_timeout: has(directives, "keepalive_min_timeout"),
        read_timeout: read_timeout(directives),
        ..Routes::default()
    };
    for block in directives.iter().filter(|d| ["http", "stream"].contains(&d.name.as_str())) {
        let mut names = Names::default();
        names.collect(&block.block);
        names.collect_fixed(&block.block);
        let scope = Scope { path: Some("/"), is_stream: block.name == "stream", ..Scope::default() };
        routes.collect(&block.block, &scope, &names);
    }
    routes
}

fn has(directives: &[Directive], name: &str) -> bool {
    directives.iter().any(|d| d.name == name || has(&d.block, name))
}

fn read_timeout(directives: &[Directive]) -> Option<Duration> {
    let own = |d: &Directive| time::parse(d.arg(0), "s").filter(|_| d.name == "proxy_read_timeout");
    directives.iter().flat_map(|d| [own(d), read_timeout(&d.block)]).flatten().min()
}

impl Names {
    fn collect(&mut self, directives: &[Directive]) {
        for directive in directives {
            match directive.name.as_str() {
                "upstream" => {
                    let servers = directive.block.iter().filter(|d| d.name == "server");
                    let upstreams = servers.filter_map(server_of_group).collect();
                    self.groups.insert(directive.arg(0).to_ascii_lowercase(), upstreams);
                }
                "set" => self.add(directive.arg(0), directive.arg(1)),
                "map" | "geo" | "split_clients" => {
                    let name = directive.args.last().map_or("", String::as_str);
                    directive.block.iter().for_each(|line| self.add(name, line.arg(0)));
                }
                _ => self.collect(&directive.block),
            }
        }
    }

    fn add(&mut self, variable: &str, value: &str) {
        let name = variable.trim_start_matches('$').to_string();
        self.values.entry(name).or_default().insert(value.into());
    }

    /// Collects the hosts of passes without variables. A pass with variables uses them as it uses a group.
    /// Source: nginx's `ngx_http_upstream_add` and `ngx_http_upstream_init_request`.
    fn collect_fixed(&mut self, directives: &[Directive]) {
        for directive in directives {
            let url = directive.arg(0);
            if is_pass(directive) && !url.contains('$') && self.group(url).is_none() {
                let upstream = upstream_of(url);
                self.fixed.extend(upstream.map(|u| (u.host.to_ascii_lowercase(), u.port)));
            }
            self.collect_fixed(&directive.block);
        }
    }

    fn values_of(&self, variable: &str) -> Vec<String> {
        let own = OWN_VARIABLES.iter().find(|(name, _)| *name == variable);
        match (self.values.get(variable), own) {
            (Some(values), _) => values.iter().take(MAX_VALUES).cloned().collect(),
            (None, Some((_, values))) => values.iter().map(ToString::to_string).collect(),
            (None, None) => vec![UNKNOWN.into()],
        }
    }

    /// Values of a text with variables, with [`UNKNOWN`] for each variable of unknown value.
    fn resolve(&self, text: &str) -> BTreeSet<String> {
        let mut open = vec![text.to_string()];
        let mut done = BTreeSet::new();
        for _ in 0..MAX_STEPS {
            let Some(text) = open.pop() else { break };
            match variable(&text) {
                None => drop(done.insert(text)),
                Some((before, name, after)) => {
                    let values = self.values_of(name);
                    open.extend(values.iter().map(|value| format!("{before}{value}{after}")));
                }
            }
        }
        done
    }

    fn group(&self, url: &str) -> Option<&Vec<Upstream>> {
        self.groups.get(&authority(url)?.to_ascii_lowercase())
    }

    /// Hosts of the argument of a `…_pass`. With a variable nginx resolves a host while it runs, unless it is a group or
    /// the host of another pass. Without a `resolver` it then answers 502.
    fn upstreams(&self, text: &str, has_resolver: bool) -> Vec<Upstream> {
        let has_variable = text.contains('$');
        let is_fixed = |u: &Upstream| self.fixed.contains(&(u.host.to_ascii_lowercase(), u.port));
        let of = |text: &String| match self.group(text) {
            Some(group) => group.clone(),
            None if text.contains("unix:") => Vec::new(),
            None => {
                let upstream = upstream_of(text);
                let is_dynamic = |u: &Upstream| has_variable && !is_fixed(u) && !is_address(&u.host);
                let upstream = upstream.map(|u| Upstream { is_dynamic: is_dynamic(&u), ..u });
                upstream.filter(|u| has_resolver || !u.is_dynamic).into_iter().collect()
            }
        };
        let mut all: Vec<Upstream> = self.resolve(text).iter().flat_map(of).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

fn is_pass(directive: &Directive) -> bool {
    directive.name.ends_with("_pass") && directive.block.is_empty()
}

fn is_address(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok()
}

/// Host and port of a URL, without its scheme. A variable of unknown value at its end counts as the start of the path.
fn authority(url: &str) -> Option<&str> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default().trim_end_matches(UNKNOWN);
    (!authority.is_empty() && !authority.contains(UNKNOWN)).then_some(authority)
}

/// Host of a URL that is not that of a group.
fn upstream_of(url: &str) -> Option<Upstream> {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
    let default_port = if ["https", "grpcs"].contains(&scheme.as_str()) { 443 } else { 80 };
    host_and_port(authority(url)?, default_port, false)
}

/// Splits a text at its first variable, `$name` or `${name}`.
fn variable(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('$')?;
    if let Some((name, after)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        return Some((before, name, after));
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
    Some((before, &rest[..end], &rest[end..]))
}

fn server_of_group(server: &Directive) -> Option<Upstream> {
    let has = |flag: &str| server.args.iter().skip(1).any(|arg| arg == flag);
    let address = Some(server.arg(0)).filter(|address| !address.starts_with("unix:"))?;
    host_and_port(address, 80, has("resolve")).filter(|_| !has("down"))
}

fn host_and_port(text: &str, default_port: u16, is_dynamic: bool) -> Option<Upstream> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
        _ => (text, Some(default_port)),
    };
    let host = host.trim_matches(['[', ']']).to_string();
    (!host.is_empty()).then_some(Upstream { host, port, is_dynamic })
}

impl Routes {
    fn collect<'d>(&mut self, directives: &'d [Directive], scope: &Scope<'d>, names: &Names) {
        let header =
            directives.iter().find(|d| d.name == "proxy_set_header" && d.arg(0).eq_ignore_ascii_case("host"));
        // A level with any header of its own inherits none.
        let has_headers = directives.iter().any(|d| d.name == "proxy_set_header");
        let inherited = scope.host_header.filter(|_| !has_headers);
        let scope = Scope {
            host_header: header.map(|d| d.arg(1)).or(inherited),
            has_resolver: scope.has_resolver || directives.iter().any(|d| d.name == "resolver"),
            ..scope.clone()
        };
        for directive in directives {
            let inner = match directive.name.as_str() {
                "server" => Scope { server: Some(directive), ..scope.clone() },
                "location" => Scope { path: path_of(directive), ..scope.clone() },
                _ if is_pass(directive) => {
                    self.passes.0.extend(pass(directive, &scope, names));
                    continue;
                }
                "upstream" | "map" | "geo" | "split_clients" | "types" => continue,
                _ => scope.clone(),
            };
            self.collect(&directive.block, &inner, names);
        }
    }
}

/// Path of a location without a pattern.
fn path_of(location: &Directive) -> Option<&str> {
    let path = match location.arg(0) {
        "=" | "^~" => location.arg(1),
        path => path,
    };
    path.starts_with('/').then_some(path)
}

fn pass(directive: &Directive, scope: &Scope, names: &Names) -> Option<Pass> {
    let upstreams = names.upstreams(directive.arg(0), scope.has_resolver);
    if upstreams.is_empty() {
        return None;
    }
    let is_http = directive.name == "proxy_pass" && !scope.is_stream;
    let public = if scope.is_stream { Vec::new() } else { public_routes(scope) };
    let server_name = public.iter().find_map(|route| route.host.clone());
    let host_header = match scope.host_header {
        Some("$host" | "$http_host" | "$server_name") => server_name,
        Some(text) if !text.contains('$') => Some(text.into()),
        Some("$proxy_host") | None => plain_authority(directive.arg(0)),
        Some(_) => None,
    };
    Some(Pass { upstreams, host_header: host_header.filter(|_| is_http), is_http, public })
}

/// Host and port of a URL, if no variable is in them.
fn plain_authority(url: &str) -> Option<String> {
    let known = url.split('$').next().unwrap_or_default();
    authority(known).filter(|authority| is_plain(authority)).map(String::from)
}

/// Routes for each port and plain name of a server, at the path of the location.
fn public_routes(scope: &Scope) -> Vec<PublicRoute> {
    let (Some(server), Some(path)) = (scope.server, scope.path) else { return Vec::new() };
    let of = |name: &str| server.block.iter().filter(move |d| d.name == name).collect::<Vec<_>>();
    let listens: Vec<(u16, bool)> = of("listen").into_iter().filter_map(listen).collect();
    let listens = if listens.is_empty() { vec![(80, false)] } else { listens };
    let names: Vec<&String> = of("server_name").into_iter().flat_map(|d| &d.args).collect();
    let plain: Vec<&str> = names.iter().map(|n| n.as_str()).filter(|n| is_plain(n) && *n != "_").collect();
    let is_default = |d: &Directive| d.args.iter().any(|a| a == "default_server" || a == "default");
    let any_host =
        names.is_empty() || names.iter().all(|n| *n == "_") || of("listen").into_iter().any(is_default);
    let mut routes: Vec<PublicRoute> = Vec::new();
    for (port, tls) in listens {
        let route =
            |host: Option<&str>| PublicRoute { port, tls, host: host.map(String::from), path: path.into() };
        let hosts = plain.iter().map(|name| route(Some(name)));
        let new = if plain.is_empty() && any_host { vec![route(None)] } else { hosts.collect() };
        routes.extend(new.into_iter().filter(|new| !routes.contains(new)).collect::<Vec<_>>());
    }
    routes
}

/// Port of a `listen`, and whether it is for TLS.
fn listen(directive: &Directive) -> Option<(u16, bool)> {
    let address = directive.arg(0);
    let port = address.rsplit(':').next().unwrap_or_default();
    let port = match port.parse() {
        Ok(port) => port,
        Err(_) if address.starts_with("unix:") => return None,
        Err(_) => 80,
    };
    let is_udp = directive.args.iter().any(|a| a == "quic" || a == "udp");
    (!is_udp).then(|| (port, directive.args.iter().any(|a| a == "ssl")))
}
