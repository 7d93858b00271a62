//! Fixed `server` lines, which only compose-zd updates. A line that has lost its instance gets the next one. If
//! no line is vacant, compose-zd adds a server for as long as the old instance uses the line (HAProxy 2.6 and
//! later).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::config::{self, ServerLine};
use super::server::Server;
use super::{Haproxy, TEMPLATE_FIX};
use crate::docker::CommandResult;
use crate::error::Error;
use crate::proxy::kit::version;
use crate::proxy::{Discovery, Endpoint, RolloutShape, Rotation};

/// Prefix of the names of added servers.
const ADDED: &str = "compose-zd-";

/// Options of a `server` line that an added server cannot have, each with one value.
///
/// `on-marked-down` would cut the requests in flight of an added server when it leaves.
const NOT_ADDABLE: [&str; 6] = ["on-marked-down", "resolvers", "init-addr", "resolve-prefer", "cookie", "id"];

pub fn is_added(slot: &Server) -> bool {
    slot.name.starts_with(ADDED)
}

/// A server added for an instance of another service in the same backend, which has its own rollout.
pub fn belongs_to_other_rollout(slot: &Server, discovery: &Discovery) -> bool {
    let is_for = |id: &str| slot.name.strip_prefix(ADDED) == Some(short(id));
    discovery.existing.iter().any(|id| is_for(id)) && !discovery.endpoints.iter().any(|e| is_for(&e.id))
}

/// Name of the server added for an instance.
pub fn added_name(backend: &str, id: &str) -> String {
    format!("{backend}/{ADDED}{}", short(id))
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Checks that the lines have room for the instances that start, and that HAProxy can add servers.
///
/// # Errors
/// Fewer lines than instances, or an HAProxy that cannot add a server; with the fix.
pub fn check(haproxy: &Haproxy, output: &CommandResult, shape: &RolloutShape) -> Result<(), Error> {
    check_lines(haproxy, shape)?;
    let has_static_server = shape.names().any(|n| haproxy.static_servers_of(n).next().is_some());
    // `Version: 2.6.12-1+deb12u3` of `show info`.
    let version = output.stdout.lines().find_map(|l| version::parse(l.strip_prefix("Version: ")?));
    let version = version.filter(|v| has_static_server && *v < config::ADDS_SERVERS_SINCE);
    let Some([major, minor]) = version else { return Ok(()) };
    let why = format!(
        "HAProxy {major}.{minor} cannot add a server beside a fixed `server` line, 2.6 and later can"
    );
    Err(haproxy.refused(&"haproxy-too-old", why, TEMPLATE_FIX))
}

/// The host is Compose's name of a single container of the service: `p-app-1`.
fn is_one_container(host: &str, project: &str, service: &str) -> bool {
    let number = || {
        let rest = host.strip_prefix(project)?.strip_prefix(['-', '_'])?;
        let number = rest.strip_prefix(service)?.strip_prefix(['-', '_'])?;
        // A network name may follow.
        number.split('.').next()?.parse::<u32>().ok()
    };
    number().is_some()
}

/// Checks that there are as many lines as instances that start, and that each line names the service.
///
/// # Errors
/// Fewer lines, or the name of a single container; with the fix.
pub fn check_lines(haproxy: &Haproxy, shape: &RolloutShape) -> Result<(), Error> {
    shape.services.iter().try_for_each(|(service, names)| {
        let mut all = haproxy.lines_of(names);
        if let Some(line) = all.find(|line| is_one_container(&line.host, &shape.project, service)) {
            let ServerLine { backend, host, .. } = line;
            let why = format!(
                "backend `{backend}` names `{host}`, a single container that the deploy replaces: HAProxy would not find \
                 the name at its next start"
            );
            return Err(haproxy.refused(&"haproxy-one-instance", why, TEMPLATE_FIX));
        }
        let lines: Vec<&ServerLine> = haproxy.static_servers_of(names).collect();
        lines.iter().try_for_each(|line| check_options(haproxy, line))?;
        let Some(ServerLine { backend, .. }) = lines.first() else { return Ok(()) };
        let available = lines.iter().filter(|l| l.backend == *backend).count();
        let starting = shape.starting;
        let why = format!(
            "backend `{backend}` has {available} `server` lines for `{service}`, and {starting} instances are to start"
        );
        if available < starting { Err(haproxy.refused(&"haproxy-room", why, TEMPLATE_FIX)) } else { Ok(()) }
    })
}

/// Checks that an added server can have the options of a line.
fn check_options(haproxy: &Haproxy, line: &ServerLine) -> Result<(), Error> {
    let Some(option) = unsupported_option(&line.options) else { return Ok(()) };
    let why = format!(
        "`server {}` of backend `{}` has the option `{option}`, which the runtime API cannot give to an added server",
        line.name, line.backend
    );
    let fix = "write it without `;` and variables, or use `server-template`; `--proxy-kind none` deploys without gate and drain";
    Err(haproxy.refused(&"haproxy-option", why, fix))
}

impl Haproxy {
    /// The slot belongs to a fixed line, and no container has its address: neither one of this rollout (`live`)
    /// nor one of another service (`others`).
    pub fn is_vacant(&self, slot: &Server, live: &[Endpoint], others: &BTreeSet<IpAddr>) -> bool {
        if slot.address.is_some_and(|address| others.contains(&address)) {
            return false;
        }
        // DNS sets the address of a line with `resolvers`.
        let line = self.config.static_servers().find(|line| line.contains(slot));
        line.is_some_and(|line| !line.has("resolvers")) && !slot.is_free() && !slot.is_of(live)
    }

    /// Commands that give each instance inside without a slot its own slot, drained until HAProxy reaches it.
    pub fn assign_servers(&self, slots: &[Server], rotation: &Rotation) -> Vec<String> {
        let live = rotation.all();
        let mut vacant: Vec<&Server> =
            slots.iter().filter(|s| self.is_vacant(s, &live, &rotation.others)).collect();
        let mut commands = Vec::new();
        for endpoint in &rotation.inside {
            for line in self.missing_lines(slots, endpoint) {
                let is_own_line = |s: &&Server| self.is_line_of(s, endpoint, &line.backend);
                let slot = vacant.iter().position(is_own_line).map(|at| vacant.remove(at));
                commands.extend(match slot {
                    Some(slot) => move_to(slot, line, endpoint),
                    None => add(line, endpoint),
                });
            }
        }
        commands
    }

    /// One line of each backend that has no slot for this instance, and no free slot that DNS is about to fill.
    fn missing_lines<'a>(&'a self, slots: &[Server], endpoint: &'a Endpoint) -> Vec<&'a ServerLine> {
        let mut lines: Vec<&ServerLine> = self.static_servers_of(&endpoint.names).collect();
        lines.dedup_by(|a, b| a.backend == b.backend);
        let is_slot = |s: &Server| s.holds(endpoint) || s.is_free();
        lines.retain(|line| !slots.iter().any(|s| s.backend == line.backend && is_slot(s)));
        lines
    }

    fn is_line_of(&self, slot: &Server, endpoint: &Endpoint, backend: &str) -> bool {
        slot.backend == backend && self.static_servers_of(&endpoint.names).any(|line| line.contains(slot))
    }

    /// Removes our flags and added servers, one step at a time. Returns the commands to run now, and whether
    /// anything remains.
    ///
    /// A flag belongs to the slot: if it outlived the instance, the next one would get no request. The flag is
    /// cleared once HAProxy knows that the instance is gone. Cleared earlier, the slot would send requests to a
    /// stopped instance.
    ///
    /// Where HAProxy checks the slot, compose-zd sets it down, and only HAProxy's own check can bring it back.
    /// Otherwise DNS must drop the address first.
    pub fn converge_static_servers(&self, slots: &[Server], discovery: &Discovery) -> (Vec<String>, bool) {
        let endpoints = &discovery.endpoints;
        let mut is_pending = false;
        let mut commands = Vec::new();
        for slot in slots.iter().filter(|s| is_added(s)) {
            is_pending = true;
            commands.extend(self.replace_added(slot, slots, discovery));
        }
        let has_added = |s: &Server| slots.iter().any(|a| is_added(a) && a.backend == s.backend);
        for slot in slots.iter().filter(|s| s.is_out() && !is_added(s)) {
            let is_vacant = self.is_vacant(slot, endpoints, &discovery.others);
            let is_stale = !slot.is_of(endpoints) && !is_vacant && !slot.is_free() && slot.is_checked();
            let can_clear = match (slot.is_of(endpoints), is_vacant) {
                (true, _) => slot.has_passed(),
                (false, true) => slot.is_down() && !has_added(slot),
                (false, false) => slot.is_free() || is_stale,
            };
            is_pending |= can_clear || !is_vacant || slot.is_checked();
            commands.extend((is_stale && !slot.is_down()).then(|| slot.set_health("down")));
            commands.extend(can_clear.then(|| slot.set("ready")));
        }
        commands.dedup();
        (commands, is_pending || self.lacks_free_slots(slots, endpoints))
    }

    /// A template has fewer free slots than instances, so the next deploy would find no room. DNS must first
    /// drop the addresses of stopped instances.
    fn lacks_free_slots(&self, slots: &[Server], endpoints: &[Endpoint]) -> bool {
        let is_gone = |s: &Server| s.is_down() && !s.is_free() && !s.is_of(endpoints);
        self.config.templates().any(|template| {
            let own: Vec<&Server> = slots.iter().filter(|s| template.contains(s)).collect();
            let count = |is: &dyn Fn(&Server) -> bool| own.iter().filter(|s| is(s)).count();
            count(&is_gone) > 0 && count(&Server::is_free) < count(&|s| s.is_of(endpoints))
        })
    }

    /// One step from an added server to the line that takes its instance over.
    fn replace_added(&self, added: &Server, slots: &[Server], discovery: &Discovery) -> Vec<String> {
        let endpoints = &discovery.endpoints;
        let Some(endpoint) = endpoints.iter().find(|e| added.holds(e)) else {
            return retire(added);
        };
        let own = || slots.iter().filter(|s| self.is_line_of(s, endpoint, &added.backend));
        if own().any(|s| s.serves(endpoint)) {
            return retire(added);
        }
        if own().any(|s| s.holds(endpoint)) {
            return Vec::new(); // until HAProxy's own check has passed
        }
        let line = self.static_servers_of(&endpoint.names).find(|f| f.backend == added.backend);
        match (own().find(|s| self.is_vacant(s, endpoints, &discovery.others)), line) {
            (Some(slot), Some(line)) => move_to(slot, line, endpoint),
            (None, Some(_)) => Vec::new(),
            // The probe server of a template's slot.
            (_, None) => retire(added),
        }
    }
}

/// Commands that point a vacant slot to an instance, drained until HAProxy reaches it.
fn move_to(slot: &Server, line: &ServerLine, endpoint: &Endpoint) -> Vec<String> {
    let Some((address, port)) = target(line, endpoint) else {
        return Vec::new();
    };
    let name = format!("{}/{}", slot.backend, slot.name);
    vec![slot.set("drain"), format!("set server {name} addr {address} port {port}")]
}

/// Commands that add a server with the options of a line, drained until HAProxy reaches it.
fn add(line: &ServerLine, endpoint: &Endpoint) -> Vec<String> {
    let Some((address, port)) = target(line, endpoint) else {
        return Vec::new();
    };
    let name = added_name(&line.backend, &endpoint.id);
    let options = addable_options(&line.options);
    let is_checked = options.contains(&"check");
    let mut commands =
        vec![format!("add server {name} {address}:{port} {}", options.join(" ")).trim_end().into()];
    commands.extend(is_checked.then(|| format!("enable health {name}")));
    commands.push(format!("set server {name} state drain"));
    commands
}

fn target(line: &ServerLine, endpoint: &Endpoint) -> Option<(String, u16)> {
    let address = endpoint.addresses.first()?.to_string();
    Some((address, line.port.or(endpoint.port)?))
}

pub fn addable_options(options: &[String]) -> Vec<&str> {
    let mut rest = options.iter().map(String::as_str);
    let mut addable = Vec::new();
    while let Some(option) = rest.next() {
        if NOT_ADDABLE.contains(&option) { _ = rest.next() } else { addable.push(option) }
    }
    addable
}

/// An option that the runtime API would misread: it ends a command at `;`, and has no variables.
fn unsupported_option(options: &[String]) -> Option<&str> {
    let is_misread =
        |option: &&str| option.contains([';', '\n']) || (option.contains('"') && option.contains('$'));
    addable_options(options).into_iter().find(is_misread)
}

/// Commands that take an added server out of rotation, and delete it once it has no request in flight.
fn retire(added: &Server) -> Vec<String> {
    let delete = || format!("del server {}/{}", added.backend, added.name);
    match (added.is_out(), added.in_flight) {
        (false, _) => vec![added.set("maint")],
        (true, 0) if added.is_maintained() => vec![delete()],
        (true, 0) => vec![added.set("maint"), delete()],
        (true, _) => Vec::new(),
    }
}
