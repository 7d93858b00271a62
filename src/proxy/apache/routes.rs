//! Routes of Apache's configuration: the hosts of `ProxyPass`, `BalancerMember`, `RewriteRule … [P]` and
//! `SetHandler "proxy:…"`, and the public routes that lead to them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::proxy::kit::directive::Directive;
use crate::proxy::kit::passes::{Pass, Passes, Upstream};
use crate::proxy::kit::time;
use crate::proxy::public_route::{PublicRoute, is_plain};

/// Schemes of the proxy modules, with their default ports.
const SCHEMES: [(&str, u16); 11] = [
    ("http", 80),
    ("https", 443),
    ("ws", 80),
    ("wss", 443),
    ("h2c", 80),
    ("h2", 443),
    ("fcgi", 8000),
    ("scgi", 4000),
    ("uwsgi", 3031),
    ("ajp", 8009),
    ("ftp", 21),
];

const HTTP: [&str; 6] = ["http", "https", "ws", "wss", "h2c", "h2"];

/// Time for which a connection of a client waits for its next request.
/// Source: httpd's default of `KeepAliveTimeout`.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// All routes of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes {
    pub passes: Passes,
    /// Longest time for which a client may keep an idle connection; zero without `KeepAlive`.
    pub keepalive: Duration,
    /// True if a route is for WebSockets.
    pub has_streams: bool,
    /// Shortest time for an answer of all places.
    pub answer_timeout: Option<Duration>,
}

/// Place of a route.
#[derive(Clone, Copy, Default)]
struct Scope<'d> {
    host: Option<&'d Directive>,
    /// Path of the location; `None` for a pattern.
    path: Option<&'d str>,
    preserves_host: bool,
}

/// Parts of a configuration that its routes refer to.
struct Site<'d> {
    /// Members of each balancer, by name in lower case.
    balancers: BTreeMap<String, Vec<Upstream>>,
    /// Ports of the `Listen` directives, and whether each is for TLS.
    listens: Vec<(u16, bool)>,
    main: &'d [Directive],
}

/// Routes of the directives of a whole configuration.
pub fn routes(directives: &[Directive]) -> Routes {
    let mut site = Site { balancers: BTreeMap::new(), listens: Vec::new(), main: directives };
    site.collect(directives, None);
    let mut routes = Routes { keepalive: keepalive(directives), ..Routes::default() };
    let scope = Scope { path: Some("/"), ..Scope::default() };
    routes.collect(directives, scope, &site);
    routes.has_streams = has(directives, &|d| d.args.iter().any(|arg| is_stream(arg)));
    routes.answer_timeout = answer_timeout(directives);
    routes
}

/// Shortest `ProxyTimeout` or `timeout=` of all places, or else the shortest `Timeout`.
fn answer_timeout(directives: &[Directive]) -> Option<Duration> {
    shortest(directives, &|d| {
        let parameters = d.args.iter().filter_map(|arg| arg.strip_prefix("timeout="));
        let own = Some(d.arg(0)).filter(|_| d.name == "proxytimeout");
        parameters.chain(own).filter_map(|text| time::parse(text, "s")).min()
    })
    .or_else(|| shortest(directives, &|d| time::parse(d.arg(0), "s").filter(|_| d.name == "timeout")))
}

fn shortest(directives: &[Directive], of: &dyn Fn(&Directive) -> Option<Duration>) -> Option<Duration> {
    directives.iter().flat_map(|d| [of(d), shortest(&d.block, of)]).flatten().min()
}

fn is_stream(arg: &str) -> bool {
    ["ws://", "wss://", "upgrade="].iter().any(|start| arg.to_ascii_lowercase().starts_with(start))
}

fn has(directives: &[Directive], is_it: &dyn Fn(&Directive) -> bool) -> bool {
    directives.iter().any(|d| is_it(d) || has(&d.block, is_it))
}

/// Longest time for which a client may keep a connection.
fn keepalive(directives: &[Directive]) -> Duration {
    let hosts = directives.iter().filter(|d| d.name == "virtualhost");
    let main = keepalive_of(directives, KEEPALIVE_TIMEOUT);
    hosts.map(|host| keepalive_of(&host.block, main)).fold(main, Duration::max)
}

fn keepalive_of(directives: &[Directive], default: Duration) -> Duration {
    let value = |name: &str| directives.iter().rfind(|d| d.name == name).map(|d| d.arg(0));
    if value("keepalive").is_some_and(|on| on.eq_ignore_ascii_case("off")) {
        return Duration::ZERO;
    }
    value("keepalivetimeout").and_then(|text| time::parse(text, "s")).unwrap_or(default)
}

impl Site<'_> {
    /// Collects balancers and ports. `balancer` is the one whose section this is.
    fn collect(&mut self, directives: &[Directive], balancer: Option<&str>) {
        for directive in directives {
            match directive.name.as_str() {
                "listen" => self.listens.extend(listen(directive)),
                "balancermember" => self.add_member(directive, balancer),
                "proxy" => self.collect(&directive.block, balancer_name(directive.arg(0))),
                _ => self.collect(&directive.block, balancer),
            }
        }
    }

    fn add_member(&mut self, member: &Directive, section: Option<&str>) {
        let (name, args) = match balancer_name(member.arg(0)) {
            Some(name) => (Some(name), &member.args[1..]),
            None => (section, &member.args[..]),
        };
        let (Some(name), [url, parameters @ ..]) = (name, args) else { return };
        let upstream = upstream(url, resolves_each_time(parameters));
        self.balancers.entry(name.to_ascii_lowercase()).or_default().extend(upstream);
    }

    fn upstreams(&self, url: &str, is_dynamic: bool) -> Vec<Upstream> {
        match balancer_name(url) {
            Some(name) => self.balancers.get(&name.to_ascii_lowercase()).cloned().unwrap_or_default(),
            None => upstream(url, is_dynamic).into_iter().collect(),
        }
    }

    /// Routes for each port and plain name of a virtual host, at a path.
    fn public_routes(&self, scope: &Scope) -> Vec<PublicRoute> {
        let Some(path) = scope.path else { return Vec::new() };
        let of = |name: &'static str| {
            let block = scope.host.map_or(self.main, |host| &host.block);
            block.iter().filter(move |d| d.name == name)
        };
        let has_tls = of("sslengine").any(|d| d.arg(0).eq_ignore_ascii_case("on"));
        let names = of("servername").take(1).chain(of("serveralias")).flat_map(|d| &d.args);
        let names = names.map(|name| name.split(':').next().unwrap_or_default());
        let names: Vec<&str> = names.filter(|name| scope.host.is_some() && is_plain(name)).collect();
        let mut routes = Vec::new();
        for (port, is_https) in self.ports(scope.host) {
            let tls = has_tls || is_https;
            let route = |host: Option<&str>| PublicRoute {
                port,
                tls,
                host: host.map(String::from),
                path: path.into(),
            };
            let hosts = names.iter().map(|name| route(Some(name)));
            let new: Vec<_> = if names.is_empty() { vec![route(None)] } else { hosts.collect() };
            routes.extend(new.into_iter().filter(|new| !routes.contains(new)).collect::<Vec<_>>());
        }
        routes
    }

    /// Ports of a virtual host, or of the main server.
    fn ports(&self, host: Option<&Directive>) -> Vec<(u16, bool)> {
        let Some(host) = host else { return self.listens.clone() };
        let is_https = |port: u16| self.listens.contains(&(port, true));
        let of = |address: &String| match address.rsplit_once(':') {
            Some((_, port)) if !port.ends_with(']') => match port.parse() {
                Ok(port) => vec![(port, is_https(port))],
                Err(_) => self.listens.clone(),
            },
            _ => self.listens.clone(),
        };
        host.args.iter().flat_map(of).collect()
    }
}

/// Port of a `Listen`, and whether it is for TLS.
fn listen(directive: &Directive) -> Option<(u16, bool)> {
    let port = directive.arg(0).rsplit(':').next()?.parse().ok()?;
    Some((port, directive.arg(1).eq_ignore_ascii_case("https")))
}

fn balancer_name(url: &str) -> Option<&str> {
    let (scheme, _) = url.split_once("://")?;
    scheme.eq_ignore_ascii_case("balancer").then(|| authority_of(url))
}

/// Part of a URL between its scheme and its path. References such as `$1` and `%{REQUEST_URI}` at its end count as the
/// start of the path.
fn authority_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let mut authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    while let Some(before) = before_reference(authority) {
        authority = before;
    }
    authority
}

/// Text before a reference at its end.
fn before_reference(text: &str) -> Option<&str> {
    let at = text.rfind(['$', '%'])?;
    let name = &text[at + 1..];
    let is_number = name.len() == 1 && name.chars().all(|c| c.is_ascii_digit());
    (is_number || (name.starts_with('{') && name.ends_with('}'))).then(|| &text[..at])
}

/// True if Apache looks up the name for each request, so that it needs no reload.
/// Source: httpd's `is_address_reusable`, which an explicit time to live sets, too.
fn resolves_each_time(parameters: &[String]) -> bool {
    let value = |name: &str| {
        let mut pairs = parameters.iter().filter_map(|p| p.split_once('='));
        pairs.rfind(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let is_off = value("disablereuse").is_some_and(|v| v.eq_ignore_ascii_case("on"))
        || value("enablereuse").is_some_and(|v| v.eq_ignore_ascii_case("off"));
    is_off && value("addressttl").is_none()
}

/// Host of a URL such as `fcgi://app:9000/srv`, also of `unix:/path|URL`, whose host is no name. Apache looks it up in
/// lower case. Source: httpd's `ap_proxy_canon_netloc`.
fn upstream(url: &str, is_dynamic: bool) -> Option<Upstream> {
    let (scheme, _) = url.split_once("://")?;
    let (_, default_port) = SCHEMES.iter().find(|(name, _)| scheme.eq_ignore_ascii_case(name))?;
    let authority = authority_of(url).rsplit('@').next().unwrap_or_default();
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
        _ => (authority, Some(*default_port)),
    };
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    let is_known = !host.is_empty() && !host.contains(['$', '%']);
    is_known.then_some(Upstream { host, port, is_dynamic })
}

impl Routes {
    fn collect(&mut self, directives: &[Directive], scope: Scope, site: &Site) {
        let own = directives.iter().rfind(|d| d.name == "proxypreservehost").map(|d| d.arg(0));
        let preserves_host = own.map_or(scope.preserves_host, |on| on.eq_ignore_ascii_case("on"));
        let scope = Scope { preserves_host, ..scope };
        for directive in directives {
            let inner = match directive.name.as_str() {
                "virtualhost" => Scope { host: Some(directive), ..scope },
                "location" => Scope { path: location(directive), ..scope },
                "locationmatch" => Scope { path: None, ..scope },
                "proxy" => {
                    self.add(Target { path: None, ..Target::new(directive.arg(0), &[]) }, &scope, site);
                    continue;
                }
                _ => scope,
            };
            if let Some(target) = target(directive, &scope) {
                self.add(target, &scope, site);
            }
            self.collect(&directive.block, inner, site);
        }
    }

    fn add(&mut self, target: Target, scope: &Scope, site: &Site) {
        let upstreams = site.upstreams(target.url, resolves_each_time(target.parameters));
        if upstreams.is_empty() {
            return;
        }
        let scope = Scope { path: target.path, ..*scope };
        let public = site.public_routes(&scope);
        let scheme = target.url.split("://").next().unwrap_or_default().to_ascii_lowercase();
        let is_http = scheme == "balancer" || HTTP.contains(&scheme.as_str());
        let server_name = public.iter().find_map(|route| route.host.clone());
        let host_header = if scope.preserves_host { server_name } else { authority(target.url) };
        let host_header = host_header.filter(|_| is_http);
        self.passes.0.push(Pass { upstreams, host_header, is_http, public });
    }
}

/// Host and port of a URL, unless it is that of a balancer.
fn authority(url: &str) -> Option<String> {
    let authority = authority_of(url);
    (balancer_name(url).is_none() && is_plain(authority)).then(|| authority.into())
}

/// URL to which a directive routes.
struct Target<'d> {
    url: &'d str,
    parameters: &'d [String],
    path: Option<&'d str>,
}

impl<'d> Target<'d> {
    fn new(url: &'d str, parameters: &'d [String]) -> Target<'d> {
        Target { url, parameters, path: None }
    }
}

fn target<'d>(directive: &'d Directive, scope: &Scope<'d>) -> Option<Target<'d>> {
    let args = &directive.args[..];
    let is_url = |text: &str| text.contains("://");
    match (directive.name.as_str(), args) {
        // In a location the path is that of the location.
        ("proxypass" | "proxypassmatch", [url, parameters @ ..]) if is_url(url) => {
            Some(Target { path: scope.path, ..Target::new(url, parameters) })
        }
        ("proxypass", [path, url, parameters @ ..]) if is_url(url) => {
            Some(Target { path: Some(path), ..Target::new(url, parameters) })
        }
        ("proxypassmatch", [pattern, url, parameters @ ..]) => {
            Some(Target { path: whole_site(pattern), ..Target::new(url, parameters) })
        }
        ("rewriterule", [pattern, url, flags, ..]) if is_proxied(flags) => {
            Some(Target { path: whole_site(pattern), ..Target::new(url, &[]) })
        }
        ("sethandler", [handler, ..]) => {
            let url = handler.strip_prefix("proxy:").filter(|url| !url.starts_with("unix:"))?;
            Some(Target { path: scope.path, ..Target::new(url, &[]) })
        }
        _ => None,
    }
}

/// True for the flags of a rewrite rule that has the proxy flag, such as `[P,L]`.
fn is_proxied(flags: &str) -> bool {
    let all = flags.trim_matches(['[', ']']).split(',');
    all.map(str::trim).any(|flag| flag.eq_ignore_ascii_case("p") || flag.eq_ignore_ascii_case("proxy"))
}

/// Path `/` for a pattern that matches all paths.
fn whole_site(pattern: &str) -> Option<&'static str> {
    let all = ["^", ".*", "(.*)", "/(.*)", "/?(.*)", "/.*"];
    let rest = pattern.trim_start_matches('^').trim_end_matches('$');
    (pattern == "^" || all.contains(&rest)).then_some("/")
}

/// Path of a location without a pattern.
fn location(directive: &Directive) -> Option<&str> {
    Some(directive.arg(0)).filter(|path| path.starts_with('/') && !path.contains(['*', '?', '[']))
}
