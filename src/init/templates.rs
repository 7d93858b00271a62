//! Contents of the files that `init` adds.

use std::collections::BTreeSet;

use super::{ComposeFiles, NewFile, PortForward, ProjectFacts, ProxiedService, WRITTEN_BY_INIT};
use crate::shell;

const MAKEFILE: &str = include_str!("Makefile");
const HOOK: &str = include_str!("../../scripts/post-receive");
const SCRIPT: &str = include_str!("../../scripts/deploy-and-restart.sh");

/// Configuration of HAProxy. The folder is mounted, not the file: an editor that replaces the file would leave the old
/// one in the container.
const HAPROXY_CONFIG: &str = "haproxy/haproxy.cfg";

/// All files, in the order of the report.
pub fn files(facts: &ProjectFacts, proxied: &[ProxiedService], layout: &ComposeFiles) -> Vec<NewFile> {
    let file = |path: &str, text: String, executable: bool, about: &str| NewFile {
        path: path.into(),
        text,
        executable,
        description: about.into(),
    };
    let mut files = Vec::new();
    if !proxied.is_empty() {
        let ports: Vec<String> =
            proxied.iter().flat_map(|f| &f.routes).map(|r| format!("port {}", r.host)).collect();
        files.push(NewFile {
            path: layout.added.clone(),
            text: override_file(facts, proxied, layout),
            executable: false,
            description: format!("HAProxy on {} in front of {}", join_words(&ports), services(proxied)),
        });
        files.push(file(HAPROXY_CONFIG, haproxy_config(facts, proxied), false, "configuration of HAProxy"));
    }
    let makefile = with_variable(MAKEFILE, layout, "COMPOSE_ZD ?=", |files| {
        format!("COMPOSE_FILE ?= {}", files.replace('$', "$$"))
    });
    let script =
        with_variable(SCRIPT, layout, "\nexec ", |files| format!("COMPOSE_FILE={}", shell::word(files)));
    files.push(file("Makefile", makefile, false, "make deploy, rollback, status"));
    files.push(file(
        "scripts/post-receive",
        HOOK.into(),
        true,
        "hook of a bare repository: `git push` deploys",
    ));
    files.push(file("scripts/deploy-and-restart.sh", script, true, "deploy script for other tools"));
    files
}

/// Addition to an existing Makefile.
pub fn addition_to_makefile() -> &'static str {
    "deploy:\n\tcompose-zd deploy\nrollback:\n\tcompose-zd rollback\nstatus:\n\tcompose-zd status"
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
    let own: Vec<String> = layout.own.iter().map(|f| f.display().to_string()).collect();
    let proxy = facts.free_name();
    let mut text = format!(
        "{WRITTEN_BY_INIT}; edit it as you like. Compose reads it after {}.\n\
         # HAProxy has the ports of the host, so that a new version of {} can run beside the old one.\n\nservices:\n",
        join_words(&own),
        services(proxied)
    );
    proxied.iter().for_each(|proxied_service| text += &service_changes(proxied_service, proxy));
    text += &format!("  {proxy}:\n    image: ${{HAPROXY_IMAGE:-haproxy:3.2}}\n");
    text += "    # The proxy takes over their ports, so these restart first.\n    depends_on:\n";
    proxied.iter().for_each(|f| text += &format!("      - {}\n", yaml_key(&f.service)));
    text += "    ports:\n";
    proxied
        .iter()
        .flat_map(|f| &f.routes)
        .for_each(|r| text += &format!("      - \"{}\"\n", port_mapping(r)));
    text += "    volumes:\n      - ./haproxy:/usr/local/etc/haproxy:ro\n";
    text += &proxy_networks(facts, proxied);
    text + "    restart: unless-stopped\n"
}

/// Changes of a service; empty without obstacles.
fn service_changes(proxied_service: &ProxiedService, proxy: &str) -> String {
    let mut keys = String::new();
    if proxied_service.had_ports {
        keys += &format!(
            "    # Only one container can have a host port: it belongs to `{proxy}` now.\n    ports: !reset []\n"
        );
    }
    if proxied_service.had_container_name {
        keys += "    # Two containers cannot have one name; other containers use the name of the service.\n    container_name: !reset null\n";
    }
    if let Some(path) = proxied_service.health_path.as_ref().filter(|_| proxied_service.write_health_path) {
        keys += &format!(
            "    x-zd:\n      # A new instance is ready when this path answers with 200 to 399.\n      health: {{ path: \"{path}\" }}\n"
        );
    }
    if keys.is_empty() { keys } else { format!("  {}:\n{keys}\n", yaml_key(&proxied_service.service)) }
}

/// Networks of the services, with at least one that the host can reach.
fn proxy_networks(facts: &ProjectFacts, proxied: &[ProxiedService]) -> String {
    let apps = proxied.iter().filter_map(|f| facts.apps.get(&f.service));
    let mut names: BTreeSet<&str> = apps.flat_map(|a| a.networks.iter().map(String::as_str)).collect();
    if names.iter().all(|name| facts.internal.contains(*name)) {
        names.insert("default");
    }
    if names.iter().eq(["default"].iter()) {
        String::new()
    } else {
        let lines: String = names.iter().map(|name| format!("      - {}\n", yaml_key(name))).collect();
        format!("    networks:\n{lines}")
    }
}

fn port_mapping(route: &PortForward) -> String {
    let address = match &route.address {
        address if address.is_empty() => String::new(),
        ipv6 if ipv6.contains(':') => format!("[{ipv6}]:"),
        ipv4 => format!("{ipv4}:"),
    };
    format!("{address}{}:{}", route.host, route.bind)
}

fn haproxy_config(facts: &ProjectFacts, proxied: &[ProxiedService]) -> String {
    let head = include_str!("haproxy.cfg").replace("PROXY", facts.free_name());
    let mut bind_ports = BTreeSet::new();
    let sections = proxied
        .iter()
        .flat_map(|proxied_service| proxied_service.routes.iter().map(move |route| (proxied_service, route)));
    // Two host addresses may share one port of the proxy.
    let unique = sections.filter(|(_, route)| bind_ports.insert(route.bind));
    head.replace("SERVICES", &services(proxied))
        + &unique.map(|(proxied_service, route)| haproxy_section(proxied_service, route)).collect::<String>()
}

fn haproxy_section(proxied_service: &ProxiedService, route: &PortForward) -> String {
    let ProxiedService { service, slots: places, .. } = proxied_service;
    let PortForward { bind, target, is_tcp: plain, .. } = route;
    let mode = if *plain { "    mode tcp\n" } else { "" };
    let check = match proxied_service.health_path.as_ref().filter(|_| !plain) {
        Some(path) => format!(
            "    # An instance that fails this check gets no requests.\n    option httpchk GET {path}\n    http-check expect status 200-399\n"
        ),
        None => String::new(),
    };
    // The app gets the address of the client.
    let forwarded_for = if *plain { "" } else { "    option forwardfor if-none\n" };
    format!(
        "\nfrontend public_{bind}\n{mode}    bind :{bind}\n{forwarded_for}    default_backend {service}_{target}\n\
         \nbackend {service}_{target}\n{mode}    balance roundrobin\n{check}    \
         # {places} slots, filled from Docker's DNS: a deploy runs new instances beside the old ones, so it needs twice their number.\n    \
         server-template {service} {places} {service}:{target} check inter 500ms resolvers docker init-addr none\n"
    )
}

/// A key or item of YAML, quoted if YAML would read a number or a boolean.
fn yaml_key(name: &str) -> String {
    let words = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let plain =
        name.starts_with(|c: char| c.is_ascii_alphabetic()) && !words.contains(&name.to_lowercase().as_str());
    if plain { name.into() } else { format!("\"{name}\"") }
}

fn services(proxied: &[ProxiedService]) -> String {
    join_words(&proxied.iter().map(|f| format!("`{}`", f.service)).collect::<Vec<_>>())
}

fn join_words(words: &[String]) -> String {
    match words {
        [all @ .., last] if !all.is_empty() => format!("{} and {last}", all.join(", ")),
        _ => words.join(""),
    }
}
