//! HAProxy's frontends: their ports, and the hosts and paths by which requests reach a backend.

use std::collections::{BTreeMap, BTreeSet};

use super::words::bare;
use crate::proxy::public_route::{PublicRoute, is_plain};

/// A `frontend` or `listen` section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontend {
    /// Port, and whether it uses TLS.
    binds: Vec<(u16, bool)>,
    routes: Vec<BackendRule>,
    /// First usable test of each acl: any line of an acl with several lines is enough.
    acls: BTreeMap<String, Condition>,
}

/// A rule that sends requests to a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BackendRule {
    backend: String,
    /// Words after `if`; empty for `default_backend`.
    condition: Vec<String>,
}

/// Property of a request that a condition tests, as far as a request of ours has the property.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    Host(String),
    Path(String),
}

impl Frontend {
    /// Frontend of a `listen` section, which is its own backend.
    pub fn listen(name: &str) -> Frontend {
        let routes = vec![BackendRule { backend: name.into(), condition: Vec::new() }];
        Frontend { routes, ..Frontend::default() }
    }

    pub fn read_line(&mut self, words: &[&str]) {
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
                let test = Condition::read(&unquoted(test));
                test.into_iter().for_each(|test| _ = self.acls.entry(bare(name)).or_insert(test));
            }
            _ => {}
        }
    }

    /// Public routes to these backends.
    fn public_routes(&self, backends: &BTreeSet<&str>) -> Vec<PublicRoute> {
        let routes = self.routes.iter().filter(|r| backends.contains(r.backend.as_str()));
        let requests = routes.filter_map(|r| self.request(&r.condition));
        let at_binds = |request: PublicRoute| {
            self.binds.iter().map(move |(port, tls)| PublicRoute {
                port: *port,
                tls: *tls,
                ..request.clone()
            })
        };
        requests.flat_map(at_binds).collect()
    }

    /// Request that meets a condition, at no port yet; none where the condition needs more than host and path.
    fn request(&self, condition: &[String]) -> Option<PublicRoute> {
        let mut request = PublicRoute::at(0, false);
        let first = condition.split(|w| w == "or" || w == "||").next()?;
        let mut rest = first.iter();
        while let Some(word) = rest.next() {
            let test = match word.as_str() {
                "{" => Condition::read(&rest.by_ref().take_while(|w| *w != "}").cloned().collect::<Vec<_>>()),
                name => self.acls.get(name).cloned(),
            };
            match test? {
                Condition::Host(name) => request.host = Some(name),
                Condition::Path(begin) => request.path = begin,
            }
        }
        Some(request)
    }
}

impl Condition {
    /// Parses `hdr(host) -i app.example www.example` and `path_beg /shop`.
    fn read(words: &[String]) -> Option<Condition> {
        let (fetch, rest) = words.split_first()?;
        let mut flags = rest.iter().take_while(|w| w.starts_with('-'));
        if flags.any(|f| !["-i", "--"].contains(&f.as_str())) {
            return None; // a file of patterns, or another way to match
        }
        let mut values = rest.iter().filter(|w| !w.starts_with('-')).cloned();
        let fetch: String = fetch.to_lowercase();
        let (name, argument) = fetch.split_once('(').unwrap_or((&fetch, ""));
        let is_host = argument.starts_with("host)") || argument.starts_with("host,");
        let is_whole = |name: &String| is_plain(name) && !name.starts_with('.') && !name.ends_with('.');
        match name {
            "hdr" | "hdr_dom" | "hdr_beg" | "hdr_end" | "req.hdr" if is_host => {
                values.find(is_whole).map(Condition::Host)
            }
            "path" | "path_beg" => values.find(|v| v.starts_with('/')).map(Condition::Path),
            _ => None,
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
    use super::super::config::HaproxyConfig;
    use super::*;

    fn routes(text: &str) -> Vec<String> {
        let routes = public_routes(&HaproxyConfig::parse(text).frontends, &BTreeSet::from(["app"]));
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
