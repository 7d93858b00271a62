//! HAProxy's frontends: their ports, and the hosts and paths by which requests reach a backend.

use std::collections::{BTreeMap, BTreeSet};

use super::config::{OTHER_SECTIONS, bare, words};
use crate::proxy::public_route::{PublicRoute, is_plain};

/// A `frontend` or `listen` section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontend {
    /// Port, and whether it uses TLS.
    binds: Vec<(u16, bool)>,
    routes: Vec<BackendRule>,
    acls: BTreeMap<String, Vec<Condition>>,
}

/// A rule that sends requests to a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BackendRule {
    backend: String,
    /// Words after `if`; empty for `default_backend`.
    condition: Vec<String>,
}

/// The property of a request that a condition tests.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    Host(String),
    Path(String),
    /// Another property, which a request of ours may lack.
    Other,
}

impl Frontend {
    /// All frontends of a configuration.
    pub fn all(text: &str) -> Vec<Frontend> {
        let mut frontends: Vec<Frontend> = Vec::new();
        let mut in_frontend = false;
        for line in text.lines() {
            match *words(line) {
                [kind @ ("frontend" | "listen"), name, ..] => {
                    // A `listen` is its own backend.
                    let own = BackendRule { backend: bare(name), condition: Vec::new() };
                    let routes = (kind == "listen").then_some(own).into_iter().collect();
                    frontends.push(Frontend { routes, ..Frontend::default() });
                    in_frontend = true;
                }
                ["backend" | "defaults", ..] => in_frontend = false,
                [word, ..] if OTHER_SECTIONS.contains(&word) => in_frontend = false,
                ref words if in_frontend => {
                    if let Some(last) = frontends.last_mut() {
                        last.read_line(words);
                    }
                }
                _ => {}
            }
        }
        frontends
    }

    fn read_line(&mut self, words: &[&str]) {
        let unquoted = |rest: &[&str]| rest.iter().map(|w| bare(w)).collect::<Vec<_>>();
        match *words {
            ["bind", addresses, ref options @ ..] => {
                let tls = options.contains(&"ssl");
                let ports = addresses.split(',').filter_map(|a| a.rsplit_once(':')?.1.parse().ok());
                self.binds.extend(ports.map(|port| (port, tls)));
            }
            ["default_backend", name, ..] => {
                self.routes.push(BackendRule { backend: bare(name), condition: Vec::new() });
            }
            ["use_backend", name, "if", ref condition @ ..] => {
                self.routes.push(BackendRule { backend: bare(name), condition: unquoted(condition) });
            }
            ["acl", name, ref test @ ..] => {
                self.acls.entry(bare(name)).or_default().push(Condition::read(&unquoted(test)));
            }
            _ => {}
        }
    }

    /// Public routes to these backends.
    fn public_routes(&self, backends: &BTreeSet<&str>) -> Vec<PublicRoute> {
        let routes = self.routes.iter().filter(|r| backends.contains(r.backend.as_str()));
        let mut public_routes = Vec::new();
        for (host, path) in routes.filter_map(|r| self.request(&r.condition)) {
            let path = path.unwrap_or_else(|| "/".into());
            let public_route = |(port, tls): &(u16, bool)| PublicRoute {
                port: *port,
                tls: *tls,
                host: host.clone(),
                path: path.clone(),
            };
            public_routes.extend(self.binds.iter().map(public_route));
        }
        public_routes
    }

    /// Host and path of a request that meets a condition; none where the condition needs more than that.
    fn request(&self, condition: &[String]) -> Option<(Option<String>, Option<String>)> {
        let (mut host, mut path) = (None, None);
        let first = condition.split(|w| w == "or" || w == "||").next()?;
        let mut rest = first.iter();
        while let Some(word) = rest.next() {
            let test = match word.as_str() {
                "{" => Condition::read(&rest.by_ref().take_while(|w| *w != "}").cloned().collect::<Vec<_>>()),
                // Any line of an acl with several lines is enough.
                name => self.acls.get(name)?.iter().find(|t| **t != Condition::Other)?.clone(),
            };
            match test {
                Condition::Host(name) => host = Some(name),
                Condition::Path(begin) => path = Some(begin),
                Condition::Other => return None,
            }
        }
        Some((host, path))
    }
}

impl Condition {
    /// Parses `hdr(host) -i app.example www.example` and `path_beg /shop`.
    fn read(words: &[String]) -> Condition {
        let Some((fetch, rest)) = words.split_first() else { return Condition::Other };
        let mut flags = rest.iter().take_while(|w| w.starts_with('-'));
        if flags.any(|f| !["-i", "--"].contains(&f.as_str())) {
            return Condition::Other; // a file of patterns, or another way to match
        }
        let values = || rest.iter().filter(|w| !w.starts_with('-'));
        let fetch: String = fetch.to_lowercase();
        let (name, argument) = fetch.split_once('(').unwrap_or((&fetch, ""));
        let is_host = argument.starts_with("host)") || argument.starts_with("host,");
        match name {
            "hdr" | "hdr_dom" | "hdr_beg" | "hdr_end" | "req.hdr" if is_host => {
                let plain = values().find(|v| is_plain(v) && !v.starts_with('.') && !v.ends_with('.'));
                plain.map_or(Condition::Other, |v| Condition::Host(v.clone()))
            }
            "path" | "path_beg" => {
                values().find(|v| v.starts_with('/')).map_or(Condition::Other, |v| Condition::Path(v.clone()))
            }
            _ => Condition::Other,
        }
    }
}

/// Public routes to these backends: those without TLS first, then those with the fewest conditions.
pub fn public_routes(frontends: &[Frontend], backends: &BTreeSet<&str>) -> Vec<PublicRoute> {
    let mut routes: Vec<PublicRoute> = frontends.iter().flat_map(|f| f.public_routes(backends)).collect();
    routes.sort_by_key(|r| (r.tls, r.host.is_some(), r.path != "/"));
    routes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(text: &str) -> Vec<String> {
        let routes = public_routes(&Frontend::all(text), &BTreeSet::from(["app"]));
        let text = |e: &PublicRoute| {
            let host = e.host.clone().unwrap_or("*".into());
            format!("{}{host}:{}{}", if e.tls { "tls " } else { "" }, e.port, e.path)
        };
        routes.iter().map(text).collect()
    }

    #[test]
    fn a_default_backend_is_reached_by_any_host() {
        assert_eq!(routes("frontend a\n bind :80\n default_backend app"), ["*:80/"]);
        assert_eq!(
            routes("listen app\n bind 127.0.0.1:8080,[::]:81\n server x app:3000"),
            ["*:8080/", "*:81/"]
        );
        let both = "frontend a\n bind *:443 ssl crt /x.pem\n bind *:80 # plain\n default_backend app";
        assert_eq!(routes(both), ["*:80/", "tls *:443/"]);
    }

    #[test]
    fn a_condition_on_host_and_path_gives_a_route() {
        let by = |condition: &str| {
            let acls = "acl is_app hdr(host) -i app.example www.example\n acl shop path_beg -i /shop\n \
                        acl post method POST\n acl any req.hdr(host),field(1,:) -i b.example";
            routes(&format!(
                "frontend a\n bind :80\n {acls}\n use_backend app if {condition}\n default_backend web"
            ))
        };
        assert_eq!(by("is_app"), ["app.example:80/"]);
        assert_eq!(by("is_app shop"), ["app.example:80/shop"]);
        assert_eq!(by("shop or post"), ["*:80/shop"]);
        assert_eq!(by("any"), ["b.example:80/"]);
        assert_eq!(by("{ hdr(host) -i \"c.example\" }"), ["c.example:80/"]);
        for unknown in
            ["post", "is_app !shop", "nobody", "{ hdr(host) -m reg ^a }", "{ hdr(host) -f /hosts }"]
        {
            assert_eq!(by(unknown), Vec::<String>::new(), "{unknown}");
        }
    }

    #[test]
    fn a_route_to_another_backend_does_not_count() {
        assert!(
            routes("frontend a\n bind :80\n default_backend web\nbackend app\n server x app:3000").is_empty()
        );
        assert!(routes("frontend a\n bind :80\nring r\n default_backend app").is_empty());
        assert!(routes("frontend a\n bind /run/a.sock\n default_backend app").is_empty());
    }
}
