//! The public routes to a container, by its labels and Traefik's entry points.

use serde_yaml::{Mapping, Value};

use super::labels::{self, HttpLabels, Labels, get_map, text};
use super::static_config::{EntryPoint, TraefikStaticConfig};
use crate::proxy::public_route::{PublicRoute, is_plain};

/// Public routes of the routers; those without TLS first.
pub fn public_routes(config: &TraefikStaticConfig, labels: &Labels) -> Vec<PublicRoute> {
    let http = HttpLabels::parse(labels);
    let points = config.entry_points();
    let default = labels::default_rule(config.default_rule(), labels);
    let routers = http.routers.values().filter_map(Value::as_mapping);
    let mut public_routes: Vec<PublicRoute> = Vec::new();
    for router in routers.filter(|r| !only_redirects(r, &http)) {
        let rule = text(router, "rule").map(String::from).or_else(|| default.clone());
        let Some((host, path)) = rule.as_deref().and_then(request) else { continue };
        let router_tls = has_tls(router);
        let used = points.iter().filter(|p| !p.redirects && uses_entry_point(p, router));
        public_routes.extend(used.filter_map(|p| {
            let port = p.address.rsplit_once(':')?.1.parse().ok()?;
            Some(PublicRoute { port, tls: router_tls || p.tls, host: host.clone(), path: path.clone() })
        }));
    }
    public_routes.sort_by_key(|r| r.tls);
    public_routes
}

/// A router without entry points uses all but the API's.
fn uses_entry_point(point: &EntryPoint, router: &Mapping) -> bool {
    match text(router, "entrypoints") {
        Some(names) => names.split(',').any(|n| n.trim().eq_ignore_ascii_case(&point.name)),
        None => !point.name.eq_ignore_ascii_case("traefik"),
    }
}

fn has_tls(router: &Mapping) -> bool {
    get_map(router, "tls").is_some() || text(router, "tls").is_some_and(super::static_config::is_true)
}

/// The router only redirects clients.
fn only_redirects(router: &Mapping, http: &HttpLabels) -> bool {
    let names = text(router, "middlewares").unwrap_or_default().split(',');
    let is_redirect = |name: &str| {
        let name = name.trim().split('@').next().unwrap_or_default();
        let middleware = get_map(&http.middlewares, name);
        middleware.is_some_and(|m| {
            ["redirectscheme", "redirectregex"].iter().any(|kind| get_map(m, kind).is_some())
        })
    };
    names.into_iter().any(is_redirect)
}

/// Host and path of a request that a rule matches; none where the rule needs more.
pub fn request(rule: &str) -> Option<(Option<String>, String)> {
    let (mut host, mut path) = (None, "/".to_string());
    for matcher in rule.split("||").next()?.split("&&").map(str::trim) {
        let (kind, rest) = matcher.split_once('(')?;
        let value = rest.strip_suffix(')')?.split(',').next()?.trim().trim_matches(['`', '"', '\'']);
        match kind {
            "Host" if is_plain(value) => host = Some(value.to_string()),
            "Path" | "PathPrefix" if value.starts_with('/') && !value.contains(['{', ' ']) => {
                path = value.into()
            }
            _ => return None,
        }
    }
    Some((host, path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::inspect::Container;

    const POINTS: &str = "--entrypoints.web.address=:80 --entrypoints.secure.address=:443";

    fn routes(flags: &str, labels: &str) -> Vec<String> {
        let mut container = Container::default();
        container.args = flags.split_whitespace().map(String::from).collect();
        let labels = labels.lines().filter_map(|l| l.trim().split_once('='));
        let labels = labels.map(|(k, v)| (format!("traefik.http.{k}"), v.to_string())).collect();
        let text = |e: &PublicRoute| {
            let host = e.host.clone().unwrap_or("*".into());
            format!("{}{host}:{}{}", if e.tls { "tls " } else { "" }, e.port, e.path)
        };
        public_routes(&TraefikStaticConfig::read(&container, None), &labels).iter().map(text).collect()
    }

    #[test]
    fn a_rule_of_host_and_path_gives_a_route_at_each_entry_point() {
        let app =
            |more: &str| routes(POINTS, &format!("routers.a.rule=Host(`a.b`) && PathPrefix(`/x`)\n{more}"));
        assert_eq!(app("routers.a.entrypoints=web"), ["a.b:80/x"]);
        assert_eq!(app("routers.a.entryPoints=secure\nrouters.a.tls.certresolver=le"), ["tls a.b:443/x"]);
        assert_eq!(app("routers.a.entrypoints=web,secure"), ["a.b:80/x", "a.b:443/x"]);
        assert_eq!(routes("--ping", "routers.a.rule=Host(`a.b`)"), ["a.b:80/"]);
    }

    #[test]
    fn a_rule_with_other_matchers_gives_no_route() {
        for rule in
            ["HostRegexp(`.+`)", "Host(`a`) && Method(`POST`)", "(Host(`a`) || Host(`b`))", "!Host(`a`)"]
        {
            assert_eq!(routes(POINTS, &format!("routers.a.rule={rule}")), Vec::<String>::new(), "{rule}");
        }
        let either = "routers.a.rule=Host(`a.b`) || HostRegexp(`.+`)\nrouters.a.entrypoints=web";
        assert_eq!(routes(POINTS, either), ["a.b:80/"]);
    }

    #[test]
    fn a_router_that_only_redirects_gives_no_route() {
        let two = "routers.a.rule=Host(`a.b`)\nrouters.a.entrypoints=web\nrouters.a.middlewares=up@docker
            middlewares.up.redirectscheme.scheme=https
            routers.b.rule=Host(`a.b`)\nrouters.b.entrypoints=secure\nrouters.b.tls=true
            services.a.loadbalancer.server.port=3000";
        assert_eq!(routes(POINTS, two), ["tls a.b:443/"]);
        let flags = format!("{POINTS} --entrypoints.web.http.redirections.entrypoint.to=secure");
        assert_eq!(routes(&flags, "routers.a.rule=Host(`a.b`)\nrouters.a.tls=true"), ["tls a.b:443/"]);
    }
}
