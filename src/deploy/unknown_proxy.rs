//! Proxies that no adapter knows (a plain nginx, Apache, Envoy, Kong, …) and that route to a service by its name: most look
//! the name up once, when they start, and go on sending requests to an instance that is gone.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::asked::Target;
use super::scene;
use crate::docker::inspect::Container;
use crate::docker::{Docker, Exec};
use crate::fault::Fault;
use crate::model::{Project, Service};
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

/// Folders in which they keep what they route to.
const FOLDERS: &str = "/etc/nginx /data/nginx /config/nginx /usr/local/openresty/nginx/conf /usr/local/apache2/conf /etc/apache2 \
                       /etc/httpd /etc/envoy /etc/kong /kong /opt/bitnami/nginx/conf /opt/bitnami/apache/conf /etc/varnish \
                       /etc/squid";

/// Limit for reading a configuration; one that takes longer is no evidence.
const READ: Duration = Duration::from_secs(5);

/// Proxies without an adapter that name a service of the target, each with what it would do.
///
/// # Errors
/// Docker cannot be started.
pub fn faults(
    docker: &Docker,
    project: &Project,
    target: &Target,
    known: &[Arc<dyn Proxy>],
    containers: &[Container],
) -> Result<Vec<Fault>> {
    let services = target.services().into_iter().map(|name| &project.services[name]);
    let services: Vec<&Service> =
        services.filter(|s| s.settings.proxy.kind.as_deref() != Some("none")).collect();
    let mut faults = Vec::new();
    for proxy in containers.iter().filter(|c| is_candidate(c, known)) {
        let near = |s: &&&Service| scene::is_member(project, proxy, &[&s.name]) || !shares_network(proxy, s);
        let services = services.iter().filter(|s| !near(s)).copied().collect::<Vec<_>>();
        if services.is_empty() {
            continue;
        }
        let names: Vec<(&Service, Vec<String>)> =
            services.into_iter().map(|s| (s, names_of(project, s, containers))).collect();
        let all: Vec<String> = names.iter().flat_map(|(_, names)| names.clone()).collect();
        let texts = texts(docker, proxy, &all)?;
        let routed = names.iter().find_map(|(s, names)| Some((s, evidence(&texts, names)?)));
        faults.extend(routed.map(|(service, line)| fault(service, proxy, &line)));
    }
    Ok(faults)
}

fn is_candidate(container: &Container, known: &[Arc<dyn Proxy>]) -> bool {
    let is_known = known.iter().any(|p| p.container().id == container.id);
    container.is_running() && !is_known && is_proxy(&container.config.image, &container.path, &container.args)
}

/// By the name of its image, or by the programs that it was started with.
fn is_proxy(image: &str, path: &str, args: &[String]) -> bool {
    let name = image.rsplit('/').next().unwrap_or_default();
    let name = name.split([':', '@']).next().unwrap_or_default();
    let program = |word: &str| word.rsplit('/').next().unwrap_or_default().to_string();
    let started = std::iter::once(path).chain(args.iter().map(String::as_str)).map(program);
    std::iter::once(name.to_string()).chain(started).any(|word| PROXIES.contains(&word.as_str()))
}

fn shares_network(container: &Container, service: &Service) -> bool {
    container.networks().any(|network| network == "host" || service.networks.iter().any(|own| own == network))
}

/// Names by which others reach a service, and its containers that run.
fn names_of(project: &Project, service: &Service, containers: &[Container]) -> Vec<String> {
    let its = containers.iter().filter(|c| scene::is_member(project, c, &[&service.name]));
    let its = its.map(|c| c.name().to_string());
    service.names.iter().cloned().chain(its).collect()
}

/// Its environment, its arguments, its labels, and the lines of its configuration that have one of these words.
fn texts(docker: &Docker, proxy: &Container, names: &[String]) -> Result<Vec<String>> {
    let words = names.iter().map(|name| format!("-e {}", shell::word(name))).collect::<Vec<_>>().join(" ");
    let script = format!(
        "# what does it route to
grep -rhwF {words} {FOLDERS} 2>/dev/null
grep -rhE '^ *resolver ' {FOLDERS} 2>/dev/null
exit 0"
    );
    let read = docker.exec_within(&Exec::sh(&proxy.id, script), READ)?;
    let read = read.map(|done| done.stdout).unwrap_or_default();
    let mut texts: Vec<String> = read.lines().map(|line| line.trim().to_string()).collect();
    texts.extend(proxy.config.env.iter().cloned());
    texts.extend(proxy.args.iter().cloned());
    texts.extend(proxy.config.labels.values().cloned());
    Ok(texts)
}

/// The line by which it routes to one of these names, looked up once.
fn evidence(texts: &[String], names: &[String]) -> Option<String> {
    let resolves = texts.iter().any(|line| line.starts_with("resolver "));
    let again = |line: &str| resolves && (line.starts_with("set $") || line.contains(" resolve"));
    let mut lines = texts.iter().filter(|line| !line.starts_with('#') && !again(line));
    lines.find(|line| names.iter().any(|name| routes_to(line, name))).cloned()
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

fn fault(service: &Service, proxy: &Container, line: &str) -> Fault {
    let (name, proxy) = (&service.name, proxy.name());
    Fault::unchanged(format!(
        "`{proxy}` routes to `{name}`, and no adapter knows it: it would go on sending requests to the old instance, and answer \
         502 once that is gone"
    ))
    .seen(line)
    .hint(format!(
        "put `{name}` behind nginx-proxy, HAProxy, Caddy or Traefik; or deploy with `--proxy-kind none` (`x-zd.proxy.kind: none`) \
         and restart `{proxy}` yourself"
    ))
    .rule(&"unknown-proxy")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_known_by_its_image_or_its_program() {
        let proxy = |image: &str, path: &str, args: &[&str]| {
            is_proxy(image, path, &args.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert!(proxy("nginx:1.29-alpine", "/docker-entrypoint.sh", &["nginx", "-g", "daemon off;"]));
        assert!(proxy("registry/team/nginx@sha256:1", "", &[]));
        assert!(proxy("jc21/nginx-proxy-manager:2", "/init", &[]));
        assert!(proxy("ours", "/usr/sbin/httpd", &["-DFOREGROUND"]));
        assert!(!proxy("my-nginx-app:1", "node", &["server.js"]));
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
    fn what_looks_the_name_up_again_is_no_evidence() {
        let names = ["app".to_string()];
        let lines = |all: &[&str]| evidence(&all.iter().map(ToString::to_string).collect::<Vec<_>>(), &names);
        assert_eq!(lines(&["proxy_pass http://app:3000;"]).as_deref(), Some("proxy_pass http://app:3000;"));
        assert_eq!(lines(&["resolver 127.0.0.11;", "set $up app:3000;"]), None);
        assert_eq!(lines(&["resolver 127.0.0.11;", "server app:3000 resolve;"]), None);
        assert!(lines(&["set $up app:3000;"]).is_some());
        assert_eq!(lines(&["# proxy_pass http://app:3000;"]), None);
    }
}
