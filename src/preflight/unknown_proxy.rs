//! Proxies near a service that no adapter drains: those without one (a plain nginx, Apache, Envoy, Kong, …), which look a
//! name up once and go on sending requests to an instance that is gone; and those whose adapter sees no route to the service.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::{PreflightFinding, Surroundings, connections};
use crate::deploy::observe::is_member;
use crate::docker::Exec;
use crate::docker::inspect::Container;
use crate::error::{Error, Risk};
use crate::model::Service;
use crate::proxy::Proxy;
use crate::shell;

/// Words of images and first processes by which such a proxy is known.
const PROXIES: [&str; 15] = [
    "nginx",
    "openresty",
    "tengine",
    "httpd",
    "apache2",
    "apache2ctl",
    "envoy",
    "kong",
    "swag",
    "nginx-proxy-manager",
    "cloudflared",
    "newt",
    "varnish",
    "varnishd",
    "squid",
];

/// Those of them that are told by a service far away what they route to.
const REMOTE: [&str; 2] = ["cloudflared", "newt"];

/// Folders in which they keep what they route to.
const FOLDERS: &str = "/etc/nginx /data/nginx /config/nginx /usr/local/openresty/nginx/conf /usr/local/apache2/conf /etc/apache2 \
                       /etc/httpd /etc/envoy /etc/kong /kong /opt/bitnami/nginx/conf /opt/bitnami/apache/conf /etc/varnish \
                       /etc/squid /usr/local/etc/haproxy /etc/haproxy /etc/caddy";

/// Variables of images that others are built on.
const VERSIONS: [&str; 2] = ["NGINX_VERSION", "HTTPD_VERSION"];

/// The longest that a looked up name may be kept.
const SOON: Duration = Duration::from_secs(5);

/// Limit for reading a configuration; one that takes longer is no evidence.
const READ: Duration = Duration::from_secs(5);

/// What such a proxy is known to do with a service.
enum Evidence {
    /// A line of its configuration.
    Line(String),
    /// The name of an instance that it has a connection open to, and why its adapter sees no route.
    Connection(String, Option<String>),
    /// Reason why a route is not excluded.
    Doubt(String),
}

/// Proxies that route to a service of the target past every adapter, each with what it would do; and those of which that
/// cannot be excluded.
///
/// # Errors
/// Docker cannot be started.
pub fn findings(around: &Surroundings) -> Result<Vec<PreflightFinding>> {
    let project = around.reader.project;
    let mut services = around.services();
    services.retain(|s| s.settings.proxy.kind.as_deref() != Some("none"));
    let mut found = Vec::new();
    for proxy in around.containers.iter().filter(|c| c.is_running()) {
        let near = |s: &&Service| !is_member(project, proxy, &[&s.name]) && shares_network(proxy, s);
        let services: Vec<&Service> = services.iter().copied().filter(near).collect();
        let adapter = around.known.iter().find(|p| p.container().id == proxy.id);
        if services.is_empty() || (adapter.is_none() && !is_candidate(proxy, around.known)) {
            continue;
        }
        found.extend(match adapter {
            Some(adapter) => past_adapter(around, adapter.as_ref(), &services)?,
            None => without_adapter(around, proxy, &services)?,
        });
    }
    Ok(found)
}

fn without_adapter(
    around: &Surroundings,
    proxy: &Container,
    services: &[&Service],
) -> Result<Option<PreflightFinding>> {
    let known = texts(around, proxy, services, &places(proxy))?;
    let evidence = |service: &Service| {
        let line = evidence(&known.texts, &names_of(around, service)).map(Evidence::Line);
        let open =
            || connections::instance_of(around, service, proxy).map(|name| Evidence::Connection(name, None));
        let why = || Evidence::Doubt("what it routes to is kept where it cannot be read".into());
        line.or_else(open).or_else(|| (!known.is_whole).then(why))
    };
    Ok(services.iter().find_map(|service| Some(finding(around, service, proxy, evidence(service)?))))
}

/// A service that the adapter of a proxy does not know about, or not all about.
fn past_adapter(
    around: &Surroundings,
    adapter: &dyn Proxy,
    services: &[&Service],
) -> Result<Option<PreflightFinding>> {
    let proxy = adapter.container();
    let backends = around.reader.backends(around.containers);
    let is_fronting = around.fronting.iter().any(|p| p.container().id == proxy.id);
    let files = adapter.route_files();
    let places = if is_fronting { files } else { [places(proxy), files].concat() };
    let known = texts(around, proxy, services, &places)?;
    let doubt = adapter.doubt(&backends);
    let evidence = |service: &Service| {
        let mut names = names_of(around, service);
        names.retain(|name| !is_fronting || name.parse::<IpAddr>().is_err());
        let line = evidence(&known.texts, &names).map(Evidence::Line);
        let open = || connections::instance_of(around, service, proxy).filter(|_| !is_fronting);
        let open = || Some(Evidence::Connection(open()?, doubt.clone()));
        line.or_else(open).or_else(|| doubt.clone().map(Evidence::Doubt))
    };
    Ok(services.iter().find_map(|service| Some(finding(around, service, proxy, evidence(service)?))))
}

pub fn is_candidate(container: &Container, known: &[Arc<dyn Proxy>]) -> bool {
    let is_known = known.iter().any(|p| p.container().id == container.id);
    container.is_running() && !is_known && is_proxy(container)
}

/// By the name of its image, by the programs that it was started with, or by what its image is built on.
fn is_proxy(container: &Container) -> bool {
    let mut names = std::iter::once(image_name(&container.config.image)).chain(container.programs());
    names.any(|name| PROXIES.contains(&name)) || VERSIONS.iter().any(|name| container.env(name).is_some())
}

fn image_name(image: &str) -> &str {
    let name = image.rsplit('/').next().unwrap_or_default();
    name.split([':', '@']).next().unwrap_or_default()
}

fn shares_network(container: &Container, service: &Service) -> bool {
    container.networks().any(|network| network == "host" || service.networks.iter().any(|own| own == network))
}

/// Names by which others reach a service, and the names and addresses of its containers that run.
fn names_of(around: &Surroundings, service: &Service) -> Vec<String> {
    let mut names = service.names.clone();
    let its = around.members().filter(|c| is_member(around.reader.project, c, &[&service.name]));
    for container in its.filter(|c| c.is_running()) {
        names.extend(container.names());
        names.extend(container.addresses_with_bridge().map(|(_, address)| address.to_string()));
    }
    names
}

/// What is known of what a proxy routes to.
struct KnownRoutes {
    texts: Vec<String>,
    /// Its configuration is among them.
    is_whole: bool,
}

/// Folders in which a proxy keeps what it routes to, and files that its arguments name.
fn places(proxy: &Container) -> Vec<String> {
    FOLDERS.split_whitespace().map(String::from).chain(named_files(&proxy.args)).collect()
}

/// Its environment, its arguments, its labels, and the lines in these places that name one of these services.
fn texts(
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
    let all = places.iter().map(|place| shell::file(place)).collect::<Vec<_>>().join(" ");
    // A proxy that names its files has them there and nowhere else.
    let read = if named.is_empty() { all.clone() } else { shell::words(&named) };
    let script = format!(
        "# what does it route to
grep -rhiwF {words} {all} 2>/dev/null
grep -rhE '(^|[;{{] *) *resolver ' {all} 2>/dev/null
for place in {read}; do [ -r \"$place\" ] && echo {READABLE}; done
exit 0"
    );
    let read = around.reader.docker.exec_within(&Exec::sh(&proxy.id, script), READ)?;
    let read = read.map(|done| done.stdout).unwrap_or_default();
    let (marks, lines): (Vec<&str>, Vec<&str>) = read.lines().map(str::trim).partition(|l| *l == READABLE);
    let mut texts: Vec<String> = lines.into_iter().map(String::from).collect();
    texts.extend(proxy.config.env.iter().cloned());
    texts.extend(proxy.args.iter().cloned());
    texts.extend(proxy.config.labels.values().cloned());
    let is_elsewhere = REMOTE.contains(&image_name(&proxy.config.image));
    Ok(KnownRoutes { texts, is_whole: !marks.is_empty() && !is_elsewhere })
}

/// Files of configuration that its arguments name, and the folders that those are in: they may include others.
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

/// Printed where there is a folder of configuration.
const READABLE: &str = "@readable";

/// The line by which it routes to one of these names, looked up once.
fn evidence(texts: &[String], names: &[String]) -> Option<String> {
    let resolves = texts.iter().any(|line| resolves_soon(line));
    let again = |line: &str| resolves && (line.starts_with("set $") || line.contains(" resolve"));
    let mut lines = texts.iter().filter(|line| !line.starts_with('#') && !again(line));
    // A group of servers of its own takes the place of a name.
    let is_group =
        |name: &str| texts.iter().any(|line| line.split_whitespace().take(2).eq(["upstream", name]));
    let names: Vec<&String> = names.iter().filter(|name| !is_group(name)).collect();
    lines.find(|line| names.iter().any(|name| routes_to(line, name))).cloned()
}

/// Docker's DNS has names live for 600 s; a `resolver` goes by that unless it is told to look again while the old instances run
/// on, which is 5 s where no proxy is drained.
fn resolves_soon(line: &str) -> bool {
    let Some((_, rest)) = line.split_once("resolver ") else { return false };
    let rest = rest.split(';').next().unwrap_or_default();
    let valid = rest.split_whitespace().find_map(|word| word.strip_prefix("valid="));
    valid.and_then(|time| humantime::parse_duration(time).ok()).is_some_and(|time| time <= SOON)
}

/// Whether a text has a name as a host: `//app`, `app:3000` or `server app`.
fn routes_to(text: &str, name: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        let whole = !before.ends_with(inside) && !after.starts_with(inside);
        let with_port =
            after.strip_prefix(':').is_some_and(|port| port.starts_with(|c: char| c.is_ascii_digit()));
        let as_server = before.trim_end().ends_with("server") && before.ends_with(' ');
        let in_path = before.ends_with('/') && !before.ends_with("//");
        whole && !in_path && (before.ends_with("//") || with_port || as_server)
    })
}

fn finding(
    around: &Surroundings,
    service: &Service,
    proxy: &Container,
    evidence: Evidence,
) -> PreflightFinding {
    let (name, called) = (&service.name, proxy.name());
    let seen = match evidence {
        Evidence::Line(line) => line,
        Evidence::Connection(instance, why) => {
            let why = why.map(|why| format!("; {why}")).unwrap_or_default();
            format!("it has a connection open to {instance}{why}")
        }
        Evidence::Doubt(why) => return doubtful(around, service, proxy, &why),
    };
    let error = Error::unchanged(format!(
        "`{called}` routes to `{name}`, and no adapter drains that route: it would go on sending requests to the old instance, \
         and answer 502 once that is gone"
    ));
    let hint = format!(
        "put `{name}` behind nginx-proxy, HAProxy, Caddy or Traefik; or deploy with `--proxy-kind none` (`x-zd.proxy.kind: none`) \
         and restart `{called}` yourself"
    );
    PreflightFinding::Refused(error.detail(&seen).hint(hint).rule(&"unknown-proxy"))
}

/// Refused, unless requests come by another proxy, or nothing listens for any.
fn doubtful(around: &Surroundings, service: &Service, proxy: &Container, why: &str) -> PreflightFinding {
    let (name, called) = (&service.name, proxy.name());
    let by_another = around.fronting.iter().any(|p| p.container().id != proxy.id);
    if by_another || !connections::may_listen(around, service) {
        let says = format!(
            "`{called}` shares a network with `{name}`, and {why}: if it routes to `{name}`, it may go on sending requests to the \
             old instance"
        );
        let fix = format!("see that `{called}` does not route to `{name}` past a proxy that is drained");
        return PreflightFinding::Note(Risk::note("unknown-proxy-near", says, fix));
    }
    let error = Error::unchanged(format!(
        "`{called}` may route to `{name}`: {why}, so it cannot be told which instance gets requests"
    ));
    let hint = format!(
        "name the service in its configuration, or take `{called}` off the networks of `{name}`; where it does not route to \
         `{name}`, deploy with `--proxy-kind none` (`x-zd.proxy.kind: none`)"
    );
    PreflightFinding::Refused(error.hint(hint).rule(&"unknown-proxy-near"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_known_by_its_image_or_its_program() {
        let proxy = |image: &str, path: &str, args: &[&str]| {
            let json = serde_json::json!({"Path": path, "Args": args, "Config": {"Image": image}});
            is_proxy(&serde_json::from_value(json).unwrap())
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
    fn a_name_is_a_host_where_a_url_a_port_or_a_server_has_it() {
        for line in [
            "proxy_pass http://app;",
            "proxy_pass http://app:3000/x;",
            "server app:3000;",
            "server app;",
            "UPSTREAM=app:80",
        ] {
            assert!(routes_to(line, "app"), "{line}");
        }
        for line in [
            "root /srv/app;",
            "server_name app.example;",
            "proxy_pass http://my-app:3000;",
            "http://apple/",
            "index app;",
        ] {
            assert!(!routes_to(line, "app"), "{line}");
        }
    }

    #[test]
    fn a_configuration_is_where_the_arguments_say() {
        let files = |args: &[&str]| named_files(&args.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(files(&["nginx", "-g", "daemon off;"]), [""; 0]);
        assert_eq!(files(&["nginx", "-c", "/conf/nginx.conf"]), ["/conf/nginx.conf", "/conf"]);
        assert_eq!(files(&["-c", "sed x && exec nginx -c /tmp/n.conf"]), ["/tmp/n.conf"]);
    }

    #[test]
    fn what_looks_the_name_up_again_is_no_evidence() {
        let names = ["app".to_string()];
        let lines = |all: &[&str]| evidence(&all.iter().map(ToString::to_string).collect::<Vec<_>>(), &names);
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
