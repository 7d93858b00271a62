//! By which ways requests come to a container, by its labels and Traefik's entry points.

use serde_yaml::{Mapping, Value};

use super::labels::{self, HttpLabels, Labels, get_map, text};
use super::static_config::{EntryPoint, TraefikStaticConfig};
use crate::proxy::public_route::{PublicRoute, is_plain};

/// The ways by its routers: those without TLS first.
pub fn entrances(settings: &TraefikStaticConfig, labels: &Labels) -> Vec<PublicRoute> {
    let http = HttpLabels::read(labels);
    let points = settings.entry_points();
    let default = labels::default_rule(settings.default_rule(), labels);
    let routers = http.routers.values().filter_map(Value::as_mapping);
    let mut found: Vec<PublicRoute> = Vec::new();
    for router in routers.filter(|r| !only_redirects(r, &http)) {
        let rule = text(router, "rule").map(String::from).or_else(|| default.clone());
        let Some((host, path)) = rule.as_deref().and_then(request) else { continue };
        let own = takes_tls(router);
        let at = points.iter().filter(|p| !p.redirects && is_among(p, router));
        found.extend(at.filter_map(|p| {
            let port = p.address.rsplit_once(':')?.1.parse().ok()?;
            Some(PublicRoute { port, tls: own || p.tls, host: host.clone(), path: path.clone() })
        }));
    }
    found.sort_by_key(|e| e.tls);
    found
}

/// A router that names no entry point has all of them but that of the API.
fn is_among(point: &EntryPoint, router: &Mapping) -> bool {
    match text(router, "entrypoints") {
        Some(names) => names.split(',').any(|n| n.trim().eq_ignore_ascii_case(&point.name)),
        None => !point.name.eq_ignore_ascii_case("traefik"),
    }
}

fn takes_tls(router: &Mapping) -> bool {
    get_map(router, "tls").is_some() || text(router, "tls").is_some_and(super::static_config::is_true)
}

/// Its answers are Traefik's own: they only send clients on to another one.
fn only_redirects(router: &Mapping, http: &HttpLabels) -> bool {
    let names = text(router, "middlewares").unwrap_or_default().split(',');
    let redirects = |name: &str| {
        let name = name.trim().split('@').next().unwrap_or_default();
        let of = get_map(&http.middlewares, name);
        of.is_some_and(|m| ["redirectscheme", "redirectregex"].iter().any(|kind| get_map(m, kind).is_some()))
    };
    names.into_iter().any(redirects)
}

/// Host and path of a request that a rule lets through; none where that is not all it takes.
pub fn request(rule: &str) -> Option<(Option<String>, String)> {
    let (mut host, mut path) = (None, "/".to_string());
    for part in rule.split("||").next()?.split("&&").map(str::trim) {
        let (kind, rest) = part.split_once('(')?;
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

    fn found(flags: &str, labels: &str) -> Vec<String> {
        let mut container = Container::default();
        container.args = flags.split_whitespace().map(String::from).collect();
        let labels = labels.lines().filter_map(|l| l.trim().split_once('='));
        let labels = labels.map(|(k, v)| (format!("traefik.http.{k}"), v.to_string())).collect();
        let said = |e: &PublicRoute| {
            let host = e.host.clone().unwrap_or("*".into());
            format!("{}{host}:{}{}", if e.tls { "tls " } else { "" }, e.port, e.path)
        };
        entrances(&TraefikStaticConfig::read(&container, None), &labels).iter().map(said).collect()
    }

    #[test]
    fn a_rule_of_host_and_path_is_met_at_the_routers_entry_points() {
        let at =
            |more: &str| found(POINTS, &format!("routers.a.rule=Host(`a.b`) && PathPrefix(`/x`)\n{more}"));
        assert_eq!(at("routers.a.entrypoints=web"), ["a.b:80/x"]);
        assert_eq!(at("routers.a.entryPoints=secure\nrouters.a.tls.certresolver=le"), ["tls a.b:443/x"]);
        assert_eq!(at("routers.a.entrypoints=web,secure"), ["a.b:80/x", "a.b:443/x"]);
        assert_eq!(found("--ping", "routers.a.rule=Host(`a.b`)"), ["a.b:80/"]);
    }

    #[test]
    fn a_rule_that_takes_more_than_that_is_not_met() {
        for rule in
            ["HostRegexp(`.+`)", "Host(`a`) && Method(`POST`)", "(Host(`a`) || Host(`b`))", "!Host(`a`)"]
        {
            assert_eq!(found(POINTS, &format!("routers.a.rule={rule}")), Vec::<String>::new(), "{rule}");
        }
        let either = "routers.a.rule=Host(`a.b`) || HostRegexp(`.+`)\nrouters.a.entrypoints=web";
        assert_eq!(found(POINTS, either), ["a.b:80/"]);
    }

    #[test]
    fn what_only_sends_clients_on_is_no_entrance() {
        let two = "routers.a.rule=Host(`a.b`)\nrouters.a.entrypoints=web\nrouters.a.middlewares=up@docker
            middlewares.up.redirectscheme.scheme=https
            routers.b.rule=Host(`a.b`)\nrouters.b.entrypoints=secure\nrouters.b.tls=true
            services.a.loadbalancer.server.port=3000";
        assert_eq!(found(POINTS, two), ["tls a.b:443/"]);
        let all = format!("{POINTS} --entrypoints.web.http.redirections.entrypoint.to=secure");
        assert_eq!(found(&all, "routers.a.rule=Host(`a.b`)\nrouters.a.tls=true"), ["tls a.b:443/"]);
    }
}
