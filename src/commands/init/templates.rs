//! Contents of the files that `init` adds.

use std::collections::BTreeSet;

use super::facts::{PortForward, ProjectFacts};
use super::select::ProxiedService;
use super::{ComposeFiles, NewFile, WRITTEN_BY_INIT};
use crate::shell;

const MAKEFILE: &str = include_str!("Makefile");
const HOOK: &str = include_str!("../../../scripts/post-receive");
const SCRIPT: &str = include_str!("../../../scripts/deploy-and-restart.sh");

/// Configuration of HAProxy. The folder is mounted, not the file: an editor that replaces the file would leave the old
/// one in the container.
const HAPROXY_CONFIG: &str = "haproxy/haproxy.cfg";

/// Addition to an existing Makefile.
pub const ADDITION_TO_MAKEFILE: &str = "up:\n\tcompose-zd up\ndeploy:\n\tcompose-zd deploy\nrollback:\n\tcompose-zd rollback\nstatus:\n\tcompose-zd status";

/// All files, in the order of the report.
pub fn files(facts: &ProjectFacts, proxied: &[ProxiedService], layout: &ComposeFiles) -> Vec<NewFile> {
    let file = |path: &str, text: String, description: &str| NewFile {
        path: path.into(),
        text,
        executable: path.starts_with("scripts/"),
        description: description.into(),
    };
    let mut files = Vec::new();
    if !proxied.is_empty() {
        let ports = proxied.iter().flat_map(|p| &p.routes).map(|route| format!("port {}", route.host));
        let about = format!("HAProxy on {} in front of {}", join_words(ports), services(proxied));
        let added = layout.added.to_string_lossy();
        files.push(file(&added, override_file(facts, proxied, layout), &about));
        files.push(file(HAPROXY_CONFIG, haproxy_config(facts, proxied), "configuration of HAProxy"));
    }
    let makefile = with_variable(MAKEFILE, layout, "COMPOSE_ZD ?=", |files| {
        format!("COMPOSE_FILE ?= {}", files.replace('$', "$$"))
    });
    let script =
        with_variable(SCRIPT, layout, "\nexec ", |files| format!("COMPOSE_FILE={}", shell::word(files)));
    files.push(file("Makefile", makefile, "make up, deploy, rollback, status"));
    files.push(file("scripts/post-receive", HOOK.into(), "hook of a bare repository: `git push` deploys"));
    files.push(file("scripts/deploy-and-restart.sh", script, "deploy script for other tools"));
    files
}

/// Sets `COMPOSE_FILE` before the line `before`, if Compose does not find the added file by default.
fn with_variable(text: &str, layout: &ComposeFiles, before: &str, assign: fn(&str) -> String) -> String {
    let Some(files) = &layout.variable else { return text.into() };
    let line = assign(files);
    let assignment = format!(
        "# The files of the project, which Compose does not find by default.\nexport {line}\n{before}"
    );
    text.replacen(before, &assignment, 1)
}

fn override_file(facts: &ProjectFacts, proxied: &[ProxiedService], layout: &ComposeFiles) -> String {
    let proxy = facts.free_name();
    let own = join_words(layout.own.iter().map(|f| f.display().to_string()));
    let services = services(proxied);
    let changes: String = proxied.iter().map(|service| service_changes(service, proxy)).collect();
    let dependencies = items(proxied.iter().map(|p| yaml_key(&p.service)));
    let ports = items(proxied.iter().flat_map(|p| &p.routes).map(port_mapping));
    let networks = proxy_networks(facts, proxied);
    format!(
        "{WRITTEN_BY_INIT}; edit it as you like. Compose reads it after {own}.\n\
         # HAProxy has the ports of the host, so that a new version of {services} can run beside the old one.\n\
         \nservices:\n{changes}  {proxy}:\n    image: ${{HAPROXY_IMAGE:-haproxy:3.2}}\n    \
         # The proxy takes over their ports, so these restart first.\n    depends_on:\n{dependencies}    \
         ports:\n{ports}    volumes:\n      - ./haproxy:/usr/local/etc/haproxy:ro\n{networks}    \
         restart: unless-stopped\n"
    )
}

/// Changes of a service; empty without obstacles.
fn service_changes(proxied: &ProxiedService, proxy: &str) -> String {
    let mut keys = String::new();
    if proxied.had_ports {
        keys += &format!(
            "    # Only one container can have a host port: it belongs to `{proxy}` now.\n    ports: !reset []\n"
        );
    }
    if let Some(path) = proxied.health_path.as_ref().filter(|_| proxied.write_health_path) {
        keys += &format!(
            "    x-zd:\n      # A new instance is ready when this path answers with 200 to 399.\n      health: {{ path: \"{path}\" }}\n"
        );
    }
    if keys.is_empty() { keys } else { format!("  {}:\n{keys}\n", yaml_key(&proxied.service)) }
}

/// Networks of the services, with at least one that the host can reach.
fn proxy_networks(facts: &ProjectFacts, proxied: &[ProxiedService]) -> String {
    let services = proxied.iter().filter_map(|p| facts.project.services.get(&p.service));
    let mut names: BTreeSet<&str> = services.flat_map(|s| s.network_keys()).map(String::as_str).collect();
    if names.iter().all(|name| facts.project.is_internal(name)) {
        names.insert("default");
    }
    let is_default = names.iter().eq(["default"].iter());
    let lines = items(names.into_iter().map(yaml_key));
    if is_default { String::new() } else { format!("    networks:\n{lines}") }
}

fn port_mapping(route: &PortForward) -> String {
    let address = match route.address.as_str() {
        "" => String::new(),
        ipv6 if ipv6.contains(':') => format!("[{ipv6}]:"),
        ipv4 => format!("{ipv4}:"),
    };
    format!("\"{address}{}:{}\"", route.host, route.bind)
}

fn haproxy_config(facts: &ProjectFacts, proxied: &[ProxiedService]) -> String {
    let head = include_str!("haproxy.cfg").replace("PROXY", facts.free_name());
    let mut bind_ports = BTreeSet::new();
    let sections = proxied.iter().flat_map(|p| p.routes.iter().map(move |route| (p, route)));
    // Two host addresses may share one port of the proxy.
    let unique = sections.filter(|(_, route)| bind_ports.insert(route.bind));
    head.replace("SERVICES", &services(proxied))
        + &unique.map(|(proxied, route)| haproxy_section(proxied, route)).collect::<String>()
}

fn haproxy_section(proxied: &ProxiedService, route: &PortForward) -> String {
    let ProxiedService { service, slots, .. } = proxied;
    let PortForward { bind, target, is_tcp, .. } = route;
    let check = match proxied.health_path.as_ref().filter(|_| !is_tcp) {
        Some(path) => format!(
            "    # An instance that fails this check gets no requests.\n    option httpchk GET {path}\n    http-check expect status 200-399\n"
        ),
        None => String::new(),
    };
    // The app gets the address of the client.
    let (mode, forwarded_for) =
        if *is_tcp { ("    mode tcp\n", "") } else { ("", "    option forwardfor if-none\n") };
    format!(
        "\nfrontend public_{bind}\n{mode}    bind :{bind}\n{forwarded_for}    default_backend {service}_{target}\n\
         \nbackend {service}_{target}\n{mode}    balance roundrobin\n{check}    \
         # {slots} slots, filled from Docker's DNS: a deploy runs new instances beside the old ones, so it needs twice their number.\n    \
         server-template {service} {slots} {service}:{target} check inter 500ms resolvers docker init-addr none\n"
    )
}

/// A key or item of YAML, quoted if YAML would read a number or a boolean.
fn yaml_key(name: &str) -> String {
    let words = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let plain =
        name.starts_with(|c: char| c.is_ascii_alphabetic()) && !words.contains(&name.to_lowercase().as_str());
    if plain { name.into() } else { format!("\"{name}\"") }
}

/// Items of a list in a service.
fn items(items: impl Iterator<Item = String>) -> String {
    items.map(|item| format!("      - {item}\n")).collect()
}

fn services(proxied: &[ProxiedService]) -> String {
    join_words(proxied.iter().map(|p| format!("`{}`", p.service)))
}

fn join_words(words: impl Iterator<Item = String>) -> String {
    match &words.collect::<Vec<_>>()[..] {
        [all @ .., last] if !all.is_empty() => format!("{} and {last}", all.join(", ")),
        words => words.join(""),
    }
}
