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
pub fn files(facts: &ProjectFacts, fronts: &[ProxiedService], layout: &ComposeFiles) -> Vec<NewFile> {
    let file = |path: &str, text: String, executable: bool, about: &str| NewFile {
        path: path.into(),
        text,
        executable,
        description: about.into(),
    };
    let mut files = Vec::new();
    if !fronts.is_empty() {
        let ports: Vec<String> =
            fronts.iter().flat_map(|f| &f.routes).map(|r| format!("port {}", r.host)).collect();
        files.push(NewFile {
            path: layout.added.clone(),
            text: override_file(facts, fronts, layout),
            executable: false,
            description: format!("HAProxy on {} in front of {}", join_words(&ports), services(fronts)),
        });
        files.push(file(HAPROXY_CONFIG, haproxy_config(facts, fronts), false, "configuration of HAProxy"));
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

fn override_file(facts: &ProjectFacts, fronts: &[ProxiedService], layout: &ComposeFiles) -> String {
    let own: Vec<String> = layout.own.iter().map(|f| f.display().to_string()).collect();
    let proxy = facts.free_name();
    let mut text = format!(
        "{WRITTEN_BY_INIT}; edit it as you like. Compose reads it after {}.\n\
         # HAProxy has the ports of the host, so that a new version of {} can run beside the old one.\n\nservices:\n",
        join_words(&own),
        services(fronts)
    );
    fronts.iter().for_each(|front| text += &service_changes(front, proxy));
    text += &format!("  {proxy}:\n    image: ${{HAPROXY_IMAGE:-haproxy:3.2}}\n");
    text += "    # The proxy takes over their ports, so these restart first.\n    depends_on:\n";
    fronts.iter().for_each(|f| text += &format!("      - {}\n", yaml_key(&f.service)));
    text += "    ports:\n";
    fronts.iter().flat_map(|f| &f.routes).for_each(|r| text += &format!("      - \"{}\"\n", port_mapping(r)));
    text += "    volumes:\n      - ./haproxy:/usr/local/etc/haproxy:ro\n";
    text += &proxy_networks(facts, fronts);
    text + "    restart: unless-stopped\n"
}

/// Changes of a service; empty without obstacles.
fn service_changes(front: &ProxiedService, proxy: &str) -> String {
    let mut keys = String::new();
    if front.had_ports {
        keys += &format!(
            "    # Only one container can have a host port: it belongs to `{proxy}` now.\n    ports: !reset []\n"
        );
    }
    if front.had_container_name {
        keys += "    # Two containers cannot have one name; other containers use the name of the service.\n    container_name: !reset null\n";
    }
    if let Some(path) = front.health_path.as_ref().filter(|_| front.write_health_path) {
        keys += &format!(
            "    x-zd:\n      # A new instance is ready when this path answers with 200 to 399.\n      health: {{ path: \"{path}\" }}\n"
        );
    }
    if keys.is_empty() { keys } else { format!("  {}:\n{keys}\n", yaml_key(&front.service)) }
}

/// Networks of the services, with at least one that the host can reach.
fn proxy_networks(facts: &ProjectFacts, fronts: &[ProxiedService]) -> String {
    let apps = fronts.iter().filter_map(|f| facts.apps.get(&f.service));
    let mut names: BTreeSet<&str> = apps.flat_map(|a| a.networks.iter().map(String::as_str)).collect();
    if names.iter().all(|name| facts.internal.contains(*name)) {
        names.insert("default");
    }
    match names.iter().eq(["default"].iter()) {
        true => String::new(),
        false => {
            let lines: String = names.iter().map(|name| format!("      - {}\n", yaml_key(name))).collect();
            format!("    networks:\n{lines}")
        }
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

fn haproxy_config(facts: &ProjectFacts, fronts: &[ProxiedService]) -> String {
    let head = include_str!("haproxy.cfg").replace("PROXY", facts.free_name());
    let mut seen = BTreeSet::new();
    let sections = fronts.iter().flat_map(|front| front.routes.iter().map(move |route| (front, route)));
    // Two host addresses may share one port of the proxy.
    let unique = sections.filter(|(_, route)| seen.insert(route.bind));
    head.replace("SERVICES", &services(fronts))
        + &unique.map(|(front, route)| haproxy_section(front, route)).collect::<String>()
}

fn haproxy_section(front: &ProxiedService, route: &PortForward) -> String {
    let ProxiedService { service, slots: places, .. } = front;
    let PortForward { bind, target, is_tcp: plain, .. } = route;
    let mode = if *plain { "    mode tcp\n" } else { "" };
    let check = match front.health_path.as_ref().filter(|_| !plain) {
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

fn services(fronts: &[ProxiedService]) -> String {
    join_words(&fronts.iter().map(|f| format!("`{}`", f.service)).collect::<Vec<_>>())
}

fn join_words(words: &[String]) -> String {
    match words {
        [all @ .., last] if !all.is_empty() => format!("{} and {last}", all.join(", ")),
        _ => words.join(""),
    }
}
