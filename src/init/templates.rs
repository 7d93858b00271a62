//! The text of every file that `init` adds.

use std::collections::BTreeSet;

use super::{ComposeFiles, MARK, NewFile, PortForward, ProjectFacts, ProxiedService};
use crate::shell;

const MAKEFILE: &str = include_str!("Makefile");
const HOOK: &str = include_str!("../../scripts/post-receive");
const SCRIPT: &str = include_str!("../../scripts/deploy-and-restart.sh");

/// Where HAProxy's configuration is. The folder is mounted and not the file, so that an editor that writes a new file
/// does not leave the container with the old one.
const CONFIG: &str = "haproxy/haproxy.cfg";

/// Every file, in the order in which they are told of.
pub fn files(facts: &ProjectFacts, fronts: &[ProxiedService], layout: &ComposeFiles) -> Vec<NewFile> {
    let file = |path: &str, text: String, executable: bool, about: &str| NewFile {
        path: path.into(),
        text,
        executable,
        about: about.into(),
    };
    let mut files = Vec::new();
    if !fronts.is_empty() {
        let ports: Vec<String> =
            fronts.iter().flat_map(|f| &f.routes).map(|r| format!("port {}", r.host)).collect();
        files.push(NewFile {
            path: layout.added.clone(),
            text: override_file(facts, fronts, layout),
            executable: false,
            about: format!("HAProxy at {} in front of {}", listed(&ports), services(fronts)),
        });
        files.push(file(CONFIG, configuration(facts, fronts), false, "its configuration"));
    }
    let makefile = with_variable(MAKEFILE, layout, "COMPOSE_ZD ?=", |files| {
        format!("COMPOSE_FILE ?= {}", files.replace('$', "$$"))
    });
    let script =
        with_variable(SCRIPT, layout, "\nexec ", |files| format!("COMPOSE_FILE={}", shell::word(files)));
    files.push(file("Makefile", makefile, false, "make deploy, rollback, status"));
    files.push(file("scripts/post-receive", HOOK.into(), true, "for a bare repository: `git push` deploys"));
    files.push(file("scripts/deploy-and-restart.sh", script, true, "for whoever calls one now"));
    files
}

/// What to put into a Makefile that is there already.
pub fn addition_to_makefile() -> &'static str {
    "deploy:\n\tcompose-zd deploy\nrollback:\n\tcompose-zd rollback\nstatus:\n\tcompose-zd status"
}

/// Where Compose would not find the added file by itself, all files are named before this line.
fn with_variable(text: &str, layout: &ComposeFiles, before: &str, assign: fn(&str) -> String) -> String {
    let Some(files) = &layout.variable else { return text.into() };
    let line = assign(files);
    let said = format!(
        "# The files of the project, which Compose does not find by itself.\nexport {line}\n{before}"
    );
    text.replacen(before, &said, 1)
}

fn override_file(facts: &ProjectFacts, fronts: &[ProxiedService], layout: &ComposeFiles) -> String {
    let own: Vec<String> = layout.own.iter().map(|f| f.display().to_string()).collect();
    let proxy = facts.free_name();
    let mut text = format!(
        "{MARK}; it is yours to change. Compose reads it after {}.\n\
         # HAProxy answers at the ports of the host, so that a new version of {} can run beside the old one.\n\nservices:\n",
        listed(&own),
        services(fronts)
    );
    fronts.iter().for_each(|front| text += &changes(front, proxy));
    text += &format!("  {proxy}:\n    image: ${{HAPROXY_IMAGE:-haproxy:3.2}}\n");
    text += "    # It takes over ports that these had, so they are started anew first.\n    depends_on:\n";
    fronts.iter().for_each(|f| text += &format!("      - {}\n", key(&f.service)));
    text += "    ports:\n";
    fronts.iter().flat_map(|f| &f.routes).for_each(|r| text += &format!("      - \"{}\"\n", publication(r)));
    text += "    volumes:\n      - ./haproxy:/usr/local/etc/haproxy:ro\n";
    text += &networks(facts, fronts);
    text + "    restart: unless-stopped\n"
}

/// What changes for a service; nothing where it has nothing in the way.
fn changes(front: &ProxiedService, proxy: &str) -> String {
    let mut keys = String::new();
    if front.had_ports {
        keys += &format!(
            "    # A port of the host can be one container's only: it is `{proxy}`'s now.\n    ports: !reset []\n"
        );
    }
    if front.had_name {
        keys += "    # Two containers cannot have one name; others reach it by the name of the service.\n    container_name: !reset null\n";
    }
    if let Some(path) = front.health_path.as_ref().filter(|_| front.tell_health) {
        keys += &format!(
            "    x-zd:\n      # A new instance is ready when it answers this with 200 to 399.\n      health: {{ path: \"{path}\" }}\n"
        );
    }
    match keys.is_empty() {
        true => keys,
        false => format!("  {}:\n{keys}\n", key(&front.service)),
    }
}

/// All that the services are on; and one from which the host can be reached.
fn networks(facts: &ProjectFacts, fronts: &[ProxiedService]) -> String {
    let apps = fronts.iter().filter_map(|f| facts.apps.get(&f.service));
    let mut names: BTreeSet<&str> = apps.flat_map(|a| a.networks.iter().map(String::as_str)).collect();
    if names.iter().all(|name| facts.internal.contains(*name)) {
        names.insert("default");
    }
    match names.iter().eq(["default"].iter()) {
        true => String::new(),
        false => {
            let lines: String = names.iter().map(|name| format!("      - {}\n", key(name))).collect();
            format!("    networks:\n{lines}")
        }
    }
}

fn publication(route: &PortForward) -> String {
    let address = match &route.address {
        none if none.is_empty() => String::new(),
        six if six.contains(':') => format!("[{six}]:"),
        four => format!("{four}:"),
    };
    format!("{address}{}:{}", route.host, route.bind)
}

fn configuration(facts: &ProjectFacts, fronts: &[ProxiedService]) -> String {
    let head = include_str!("haproxy.cfg").replace("PROXY", facts.free_name());
    let mut seen = BTreeSet::new();
    let sections = fronts.iter().flat_map(|front| front.routes.iter().map(move |route| (front, route)));
    // Two addresses of the host may lead to one port of the proxy.
    let each = sections.filter(|(_, route)| seen.insert(route.bind));
    head.replace("SERVICES", &services(fronts))
        + &each.map(|(front, route)| section(front, route)).collect::<String>()
}

fn section(front: &ProxiedService, route: &PortForward) -> String {
    let ProxiedService { service, places, .. } = front;
    let PortForward { bind, target, plain, .. } = route;
    let mode = if *plain { "    mode tcp\n" } else { "" };
    let check = match front.health_path.as_ref().filter(|_| !plain) {
        Some(path) => format!(
            "    # An instance that does not answer this gets no requests.\n    option httpchk GET {path}\n    http-check expect status 200-399\n"
        ),
        None => String::new(),
    };
    // The app learns who asked.
    let who = if *plain { "" } else { "    option forwardfor if-none\n" };
    format!(
        "\nfrontend public_{bind}\n{mode}    bind :{bind}\n{who}    default_backend {service}_{target}\n\
         \nbackend {service}_{target}\n{mode}    balance roundrobin\n{check}    \
         # {places} places, which Docker's DNS fills: a deploy starts new instances beside the old, so it needs twice the instances.\n    \
         server-template {service} {places} {service}:{target} check inter 500ms resolvers docker init-addr none\n"
    )
}

/// A key or item of YAML that is read as this text, and no number or truth.
fn key(name: &str) -> String {
    let words = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let plain =
        name.starts_with(|c: char| c.is_ascii_alphabetic()) && !words.contains(&name.to_lowercase().as_str());
    if plain { name.into() } else { format!("\"{name}\"") }
}

fn services(fronts: &[ProxiedService]) -> String {
    listed(&fronts.iter().map(|f| format!("`{}`", f.service)).collect::<Vec<_>>())
}

fn listed(words: &[String]) -> String {
    match words {
        [all @ .., last] if !all.is_empty() => format!("{} and {last}", all.join(", ")),
        _ => words.join(""),
    }
}
