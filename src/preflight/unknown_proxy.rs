//! Nearby proxies with a route that no adapter drains. Some have no adapter (Envoy, Kong, Varnish, …): they resolve
//! a name once, and keep sending requests to a removed instance. For others the adapter sees no route to the service.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;

use super::{Surroundings, connections, proxies, whole_words};
use crate::docker::Exec;
use crate::docker::inspect::Container;
use crate::finding::Finding;
use crate::model::{Service, image_name};
use crate::proxy::{DefaultRoute, Proxy};
use crate::shell;
use crate::targets::is_member;

/// Proxies that get their routes from a remote service.
const REMOTE: [&str; 2] = ["cloudflared", "newt"];

/// Folders with their configuration.
const CONFIG_FOLDERS: &str = "/etc/nginx /data/nginx /config/nginx /usr/local/openresty/nginx/conf /usr/local/apache2/conf /etc/apache2 \
                       /etc/httpd /etc/envoy /etc/kong /kong /opt/bitnami/nginx/conf /opt/bitnami/apache/conf /etc/varnish \
                       /etc/squid /usr/local/etc/haproxy /etc/haproxy /etc/caddy";

/// Longest time that a resolved name may be cached.
const MAX_DNS_CACHE: Duration = Duration::from_secs(5);

/// Timeout for reading a configuration; a slower read gives no evidence.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Findings for proxies that route to a service of the target, or may, and that no adapter drains.
///
/// # Errors
/// Docker cannot be started.
pub fn findings(around: &Surroundings) -> Result<Vec<Finding>> {
    let project = around.reader.project;
    let mut services = around.services();
    services.retain(|s| s.settings.proxy.kind.as_deref() != Some("none"));
    let mut found = Vec::new();
    for proxy in around.containers.iter().filter(|c| c.is_running()) {
        let near = |s: &&Service| !is_member(project, proxy, &[&s.name]) && reaches(proxy, s);
        let services: Vec<&Service> = services.iter().copied().filter(near).collect();
        let adapter = around.proxies.iter().find(|p| p.is_in(proxy));
        if services.is_empty() || (adapter.is_none() && !proxies::is_candidate(proxy, around.proxies)) {
            continue;
        }
        found.extend(finding_of(around, proxy, adapter.map(AsRef::as_ref), &services)?);
    }
    Ok(found)
}

/// Finding for a service with a route by this proxy that its adapter, if it has one, does not see or not fully.
fn finding_of(
    around: &Surroundings,
    proxy: &Container,
    adapter: Option<&dyn Proxy>,
    services: &[&Service],
) -> Result<Option<Finding>> {
    let is_in_front = around.fronting.iter().any(|p| p.is_in(proxy));
    let files = adapter.map(|a| a.route_files()).unwrap_or_default();
    let is_known = is_in_front || adapter.is_some_and(Proxy::routes_nowhere);
    let places = if is_known { files } else { [config_paths(proxy), files].concat() };
    let routes = read_routes(around, proxy, services, &places)?;
    let doubt = match adapter {
        Some(adapter) => adapter.doubt(&around.reader.backends(around.containers)),
        None => (!routes.is_whole).then(|| "its routes cannot be read".into()),
    };
    let connection = |service: &Service| {
        let instance = connections::instance_of(around, service, proxy).filter(|_| !is_in_front)?;
        let why = doubt.iter().filter(|_| adapter.is_some()).map(|why| format!("; {why}"));
        Some(format!("it has a connection open to {instance}{}", why.collect::<String>()))
    };
    let backends = around.reader.backends(around.containers);
    let default = |service: &Service| {
        let mut own = backends.iter().filter(|b| b.service == service.name);
        own.find_map(|backend| adapter?.default_route(backend))
    };
    let finding = |service: &&Service| {
        let mut names = names_of(around, service);
        names.retain(|name| match name.parse::<IpAddr>() {
            Ok(_) => !is_in_front,
            Err(_) => proxy.knows_name(name),
        });
        if let Some(line) = routing_line(&routes.texts, &names) {
            return Some(undrained_route(service, proxy, &line));
        }
        match (connection(service), default(service)) {
            (Some(connection), default) => {
                let found = undrained_route(service, proxy, &connection);
                let hint = default.map_or_else(|| found.hint.clone(), |route| route.hint);
                Some(Finding { hint, ..found })
            }
            (None, Some(route)) => Some(default_route(service, proxy, route)),
            (None, None) => doubt.as_ref().map(|why| doubtful_route(around, service, proxy, why)),
        }
    };
    Ok(services.iter().find_map(finding))
}

fn reaches(proxy: &Container, service: &Service) -> bool {
    proxy.networks().any(|network| network == "host") || proxies::shares_network(proxy, service)
}

/// Names of a service, and the names and addresses of its running containers.
fn names_of(around: &Surroundings, service: &Service) -> Vec<String> {
    let mut names = service.names.clone();
    for container in around.instances(&service.name) {
        names.extend(container.names());
        names.extend(container.addresses_with_bridge().map(|(_, address)| address.to_string()));
    }
    names
}

/// Known routes of a proxy.
struct KnownRoutes {
    texts: Vec<String>,
    /// True if the configuration was read.
    is_whole: bool,
}

/// Paths of a proxy's configuration: the usual folders, and the files in its arguments.
fn config_paths(proxy: &Container) -> Vec<String> {
    CONFIG_FOLDERS.split_whitespace().map(String::from).chain(named_files(&proxy.args)).collect()
}

/// Reads the routes of a proxy: its environment, arguments and labels, and the lines of its files that name one of
/// these services.
fn read_routes(
    around: &Surroundings,
    proxy: &Container,
    services: &[&Service],
    places: &[String],
) -> Result<KnownRoutes> {
    if places.is_empty() {
        return Ok(KnownRoutes { texts: Vec::new(), is_whole: true });
    }
    let names: BTreeSet<String> = services.iter().flat_map(|s| names_of(around, s)).collect();
    let words = names.iter().map(|name| format!("-e {}", shell::word(name))).collect::<Vec<_>>().join(" ");
    let named = named_files(&proxy.args);
    let all_paths = places.iter().map(|place| shell::file(place)).collect::<Vec<_>>().join(" ");
    // A proxy with files in its arguments has its configuration nowhere else.
    let readable = if named.is_empty() { all_paths.clone() } else { shell::words(&named) };
    let script = format!(
        "# what does it route to
grep -rhiwF {words} {all_paths} 2>/dev/null
grep -rhE '(^|[;{{] *) *resolver ' {all_paths} 2>/dev/null
for place in {readable}; do [ -r \"$place\" ] && echo {READABLE}; done
exit 0"
    );
    let output = around.reader.docker.exec_within(&Exec::sh(&proxy.id, script), READ_TIMEOUT)?;
    let output = output.map(|done| done.stdout).unwrap_or_default();
    let (marks, lines): (Vec<&str>, Vec<&str>) = output.lines().map(str::trim).partition(|l| *l == READABLE);
    let mut texts: Vec<String> = lines.into_iter().map(String::from).collect();
    texts.extend(proxy.config.env.iter().cloned());
    texts.extend(proxy.args.iter().cloned());
    texts.extend(proxy.config.labels.values().cloned());
    let is_elsewhere = REMOTE.contains(&image_name(&proxy.config.image));
    Ok(KnownRoutes { texts, is_whole: !marks.is_empty() && !is_elsewhere })
}

/// Configuration files in the arguments, and their folders, because a file may include others.
fn named_files(args: &[String]) -> Vec<String> {
    let words: Vec<&str> = args.iter().flat_map(|arg| arg.split_whitespace()).collect();
    let is_flag = |word: &&str| ["-c", "-f", "--config", "--config-path", "-conf"].contains(word);
    let after = words.windows(2).filter(|w| is_flag(&w[0])).map(|w| w[1]);
    let joined = words.iter().filter_map(|w| w.strip_prefix("--config="));
    let absolute = after.chain(joined).filter(|path| path.starts_with('/'));
    let with_folder = |path: &str| {
        let folder = path.rsplit_once('/').map(|(folder, _)| folder).unwrap_or_default();
        let is_own = !["", "/tmp", "/etc", "/run"].contains(&folder);
        [Some(path.to_string()), is_own.then(|| folder.to_string())]
    };
    absolute.flat_map(with_folder).flatten().collect()
}

/// Line that marks a readable folder.
const READABLE: &str = "@readable";

/// Line that routes to one of these names and resolves it only once.
fn routing_line(texts: &[String], names: &[String]) -> Option<String> {
    let has_resolver = texts.iter().any(|line| resolves_soon(line));
    let resolves_again =
        |line: &str| has_resolver && (line.starts_with("set $") || line.contains(" resolve"));
    let mut lines = texts.iter().filter(|line| !line.starts_with('#') && !resolves_again(line));
    let is_route = |line: &str, name: &str| {
        let has_group = texts.iter().any(|text| defines_group(text, name));
        routes_to(line, name) && !(has_group && is_only_group(line, name))
    };
    lines.find(|line| names.iter().any(|name| is_route(line, name))).cloned()
}

/// True if a text defines an `upstream` group of a name, which hides the service of that name.
fn defines_group(text: &str, name: &str) -> bool {
    let is_group = |(before, after): (&str, &str)| {
        before.split_whitespace().next_back() == Some("upstream")
            && before.ends_with(char::is_whitespace)
            && !after.starts_with(':')
    };
    whole_words(text, name).any(is_group)
}

/// True if a text names a group as a host only in URLs without a port. A server of the group is a host.
fn is_only_group(text: &str, name: &str) -> bool {
    let is_group = |(before, after): (&str, &str)| {
        !is_host(before, after) || (before.ends_with("//") && !has_port(after))
    };
    whole_words(text, name).all(is_group)
}

/// True if a `resolver` line resolves names again while the old instances still run, which is 5 s without a drain.
/// By default it caches them for the 600 s of Docker's DNS.
fn resolves_soon(line: &str) -> bool {
    let Some((_, rest)) = line.split_once("resolver ") else { return false };
    let rest = rest.split(';').next().unwrap_or_default();
    let valid = rest.split_whitespace().find_map(|word| word.strip_prefix("valid="));
    valid.and_then(|time| humantime::parse_duration(time).ok()).is_some_and(|time| time <= MAX_DNS_CACHE)
}

/// True if a text has a name as a host: `//app`, `app:3000` or `server app`.
pub fn routes_to(text: &str, name: &str) -> bool {
    whole_words(text, name).any(|(before, after)| is_host(before, after))
}

/// True if a word between two texts is a host.
fn is_host(before: &str, after: &str) -> bool {
    // HAProxy's `server NAME ADDRESS` has the host in the next word, nginx's `server HOST` only parameters.
    let has_address = after.split_whitespace().next().is_some_and(|next| next.contains([':', '.']));
    let is_label = after.starts_with(' ') && has_address;
    let as_server = before.trim_end().ends_with("server") && before.ends_with(' ') && !is_label;
    let in_path = before.ends_with('/') && !before.ends_with("//");
    // Apache's name of a group.
    let is_balancer = before.ends_with("balancer://");
    !in_path && !is_balancer && (before.ends_with("//") || has_port(after) || as_server)
}

fn has_port(after: &str) -> bool {
    after.strip_prefix(':').is_some_and(|port| port.starts_with(|c: char| c.is_ascii_digit()))
}

fn undrained_route(service: &Service, proxy: &Container, evidence: &str) -> Finding {
    let (name, proxy) = (&service.name, proxy.name());
    let message = format!(
        "`{proxy}` routes to `{name}`, and no adapter drains that route: it would keep sending requests to the old instance, \
         and answer 502 once that is gone"
    );
    let hint = format!(
        "put `{name}` behind nginx-proxy, HAProxy, Caddy or Traefik; or deploy with `--proxy-kind none` (`x-zd.proxy.kind: none`) \
         and restart `{proxy}` yourself"
    );
    let found = Finding::unchanged("unknown-proxy", message, hint).of_service(name);
    Finding { details: evidence.lines().map(String::from).collect(), ..found }
}

/// Note about a route that the deploy does not set. Most likely no client uses it.
fn default_route(service: &Service, proxy: &Container, route: DefaultRoute) -> Finding {
    let rule = route.rule.map_or("requests".into(), |rule| format!("requests of {rule}"));
    let message = format!(
        "`{}` sends {rule} to every instance of `{}` by its `{}`, ready or not",
        proxy.name(),
        service.name,
        route.cause
    );
    Finding::note("traefik-default-route", message, route.hint).of_service(&service.name)
}

/// Refusal, or a note if another proxy is in front or nothing listens.
fn doubtful_route(around: &Surroundings, service: &Service, proxy: &Container, why: &str) -> Finding {
    let (name, proxy_name) = (&service.name, proxy.name());
    let is_behind_another = around.fronting.iter().any(|p| !p.is_in(proxy));
    if is_behind_another || !connections::may_listen(around, service) {
        let message = format!(
            "`{proxy_name}` shares a network with `{name}`, and {why}: if it routes to `{name}`, it may keep sending requests to the \
             old instance"
        );
        let hint = format!(
            "make sure that `{proxy_name}` does not route to `{name}`, or only through a drained proxy"
        );
        return Finding::note("unknown-proxy-near", message, hint);
    }
    let message =
        format!("`{proxy_name}` may route to `{name}`: {why}, so it is unknown which instance gets requests");
    let hint = format!(
        "name the service in its configuration, or remove `{proxy_name}` from the networks of `{name}`; if it does not route to \
         `{name}`, deploy with `--proxy-kind none` (`x-zd.proxy.kind: none`)"
    );
    Finding::unchanged("unknown-proxy-near", message, hint).of_service(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_known_by_its_image_or_its_program() {
        let proxy = |image: &str, path: &str, args: &[&str]| {
            let json = serde_json::json!({"Path": path, "Args": args, "Config": {"Image": image}});
            proxies::is_proxy(&serde_json::from_value(json).unwrap())
        };
        assert!(proxy("nginx:1.29-alpine", "/docker-entrypoint.sh", &["nginx", "-g", "daemon off;"]));
        assert!(proxy("registry/team/nginx@sha256:1", "", &[]));
        assert!(proxy("jc21/nginx-proxy-manager:2", "/init", &[]));
        assert!(proxy("ours", "/usr/sbin/httpd", &["-DFOREGROUND"]));
        assert!(proxy("ours", "sh", &["-c", "sed -i s/a/b/ /x; exec /usr/sbin/nginx -c /tmp/x.conf"]));
        assert!(!proxy("my-nginx-app:1", "node", &["server.js"]));
        assert!(!proxy("ours", "sh", &["-c", "cat /etc/nginx.conf"]));
        assert!(!proxy("ours", "sh", &["-c", "while true; do wget -q http://nginx; done"]));
        assert!(!proxy("postgres:17", "docker-entrypoint.sh", &["postgres"]));
    }

    #[test]
    fn a_name_counts_as_a_host_in_a_url_with_a_port_or_after_server() {
        for line in [
            "proxy_pass http://app;",
            "proxy_pass http://app:3000/x;",
            "server app:3000;",
            "server app;",
            "UPSTREAM=app:80",
            "server app weight=2;",
            "server s1 app:3000 check",
            "server app app:3000 check",
        ] {
            assert!(routes_to(line, "app"), "{line}");
        }
        for line in [
            "root /srv/app;",
            "server_name app.example;",
            "proxy_pass http://my-app:3000;",
            "http://apple/",
            "index app;",
            "server app 127.0.0.1:8154 check",
            "ProxyPass / balancer://app/",
            "BalancerMember http://127.0.0.1:8154 route=app",
        ] {
            assert!(!routes_to(line, "app"), "{line}");
        }
    }

    #[test]
    fn the_arguments_name_the_configuration() {
        let files = |args: &[&str]| named_files(&args.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(files(&["nginx", "-g", "daemon off;"]), [""; 0]);
        assert_eq!(files(&["nginx", "-c", "/conf/nginx.conf"]), ["/conf/nginx.conf", "/conf"]);
        assert_eq!(files(&["-c", "sed x && exec nginx -c /tmp/n.conf"]), ["/tmp/n.conf"]);
    }

    /// In one line as in several.
    #[test]
    fn a_group_hides_the_service_of_its_name_but_its_servers_are_hosts() {
        let names = ["app".to_string()];
        let line =
            |lines: &[&str]| routing_line(&lines.iter().map(ToString::to_string).collect::<Vec<_>>(), &names);
        for group in [
            "upstream app { server 127.0.0.1:8154; keepalive 8; }",
            "http { upstream app{ server 127.0.0.1:8154; } server { location / { proxy_pass http://app; } } }",
            "upstream  app",
        ] {
            assert_eq!(line(&[group, "proxy_pass http://app;"]), None, "{group}");
            assert_eq!(line(&[group, "proxy_pass http://app/x;"]), None, "{group}");
            assert!(line(&[group, "server app:3000;"]).is_some(), "{group}");
            assert!(line(&[group, "server app;"]).is_some(), "{group}");
        }
        assert!(line(&["upstream other {", "proxy_pass http://app;"]).is_some());
        assert!(line(&["upstream app { server app:3000; }", "proxy_pass http://app;"]).is_some());
    }

    #[test]
    fn a_route_that_resolves_the_name_again_is_no_evidence() {
        let names = ["app".to_string()];
        let lines = |all_paths: &[&str]| {
            routing_line(&all_paths.iter().map(ToString::to_string).collect::<Vec<_>>(), &names)
        };
        assert_eq!(lines(&["proxy_pass http://app:3000;"]).as_deref(), Some("proxy_pass http://app:3000;"));
        let soon = "resolver 127.0.0.11 valid=5s ipv6=off;";
        assert_eq!(lines(&[soon, "set $up app:3000;"]), None);
        assert_eq!(lines(&[soon, "server app:3000 resolve;"]), None);
        for late in ["resolver 127.0.0.11;", "resolver 127.0.0.11 valid=30s;"] {
            assert!(lines(&[late, "set $up app:3000;"]).is_some(), "{late}");
        }
        assert!(lines(&["set $up app:3000;"]).is_some());
        assert_eq!(lines(&["# proxy_pass http://app:3000;"]), None);
    }
}
