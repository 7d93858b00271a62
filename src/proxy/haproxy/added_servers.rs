//! Servers that compose-zd adds beside the lines of the configuration (HAProxy 2.6 and later), so that an instance gets
//! requests while the old one uses the line, or before DNS has filled a slot. At the end a line takes the instance over.

use super::config::{self, ServerLine};
use super::server::Server;
use super::{Haproxy, SLOTS_FIX, TEMPLATE_FIX};
use crate::error::Error;
use crate::finding::Finding;
use crate::proxy::{Discovery, Endpoint, OtherContainers, Proxy, RolloutShape, Rotation};

/// Options of an added server after those of its line: the first check comes at once, and one is enough.
const FAST_FIRST_CHECK: &str = "downinter 25ms rise 1";

/// Prefix of the names of added servers.
const ADDED: &str = "compose-zd-";

const BALANCE_FIX: &str = "add a `server` line for each instance, use `balance roundrobin` or `leastconn`, or add `hash-type \
    consistent`; `--proxy-kind none` deploys without gate and drain";

/// Options of a `server` line that an added server cannot have, each with one value.
///
/// `on-marked-down` would cut the requests in flight of an added server when it leaves.
const NOT_ADDABLE: [&str; 6] = ["on-marked-down", "resolvers", "init-addr", "resolve-prefer", "cookie", "id"];

/// Options that begin a check. A relay answers none.
const CHECKS: [&str; 2] = ["check", "agent-check"];

pub fn is_added(slot: &Server) -> bool {
    slot.name.starts_with(ADDED)
}

/// A server added for an instance of another service in the same backend, which has its own rollout.
pub fn belongs_to_other_rollout(slot: &Server, discovery: &Discovery) -> bool {
    let is_for_existing = discovery.existing.iter().any(|id| is_for(slot, id));
    is_for_existing && !discovery.endpoints.iter().any(|e| is_for(slot, &e.id))
}

/// The server belongs to the configuration, or was added for one of these instances. A leftover of a killed run may have
/// an address that another instance has now.
pub fn is_own(server: &Server, endpoints: &[Endpoint]) -> bool {
    !is_added(server) || endpoints.iter().any(|e| is_for(server, &e.id))
}

fn is_for(server: &Server, id: &str) -> bool {
    server.name.strip_prefix(ADDED) == Some(short(id))
}

/// Name of the server added for an instance.
pub fn added_name(backend: &str, id: &str) -> String {
    format!("{backend}/{ADDED}{}", short(id))
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Checks that HAProxy can add a server beside a fixed line, or has a line for each instance.
///
/// # Errors
/// HAProxy is too old, or the balance algorithm does not allow it and lines are missing; with the fix.
pub fn check_ability(haproxy: &Haproxy, shape: &RolloutShape) -> Result<(), Error> {
    let mut lines = shape.names().flat_map(|names| haproxy.static_servers_of(names));
    let is_too_old = haproxy.config.version.is_some_and(|version| version < config::ADDS_SERVERS_SINCE);
    let needed = shape.starting.max(shape.serving);
    let is_own = |line: &ServerLine| shape.names().any(|names| config::stands_for(&line.host, names));
    let count =
        |backend: &str| haproxy.config.static_servers().filter(|l| l.backend == backend && is_own(l)).count();
    let cannot = |line: &&ServerLine| {
        let is_fixed = haproxy.has_fixed_servers(&line.backend);
        is_too_old || (is_fixed && count(&line.backend) < needed)
    };
    let Some(ServerLine { backend, .. }) = lines.find(cannot) else {
        return Ok(());
    };
    match haproxy.config.version.filter(|version| *version < config::ADDS_SERVERS_SINCE) {
        Some([major, minor]) => {
            let why = format!(
                "HAProxy {major}.{minor} cannot add a server beside a fixed `server` line, 2.6 and later can"
            );
            Err(haproxy.refused(&"haproxy-too-old", why, TEMPLATE_FIX))
        }
        None => {
            let why = format!(
                "the `balance` algorithm of backend `{backend}` does not let HAProxy add a server, and {needed} instances need \
                 more than its {} `server` lines",
                count(backend)
            );
            Err(haproxy.refused(&"haproxy-balance", why, BALANCE_FIX))
        }
    }
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

/// Checks that each line names the service, and that an added server can have the options of a line.
///
/// # Errors
/// The name of a single container, or an option that the runtime API would misread; with the fix.
pub fn check_lines(haproxy: &Haproxy, shape: &RolloutShape) -> Result<(), Error> {
    shape.services.iter().try_for_each(|(service, names)| {
        let mut all = haproxy.lines_of(names);
        if let Some(line) = all.find(|line| is_one_container(&line.host, &shape.project, service)) {
            let ServerLine { backend, host, .. } = line;
            let why = format!(
                "backend `{backend}` names `{host}`, a single container that the deploy replaces: HAProxy would not find \
                 the name at its next start"
            );
            let address = line.port.map_or(service.clone(), |port| format!("{service}:{port}"));
            let fix = format!("write the name of the service in its place, `{address}`, and restart HAProxy");
            return Err(haproxy.refused(&"haproxy-one-instance", why, &fix));
        }
        haproxy.lines_of(names).try_for_each(|line| check_options(haproxy, line))
    })
}

/// Instances that have no line: HAProxy forgets them when it restarts.
pub fn instances_beyond_lines(haproxy: &Haproxy, shape: &RolloutShape) -> Vec<Finding> {
    let beyond = |names: &[String]| {
        let line = haproxy.lines_of(names).next()?;
        let own = haproxy.lines_of(names).filter(|l| l.backend == line.backend);
        let places = own.fold(0usize, |sum, line| sum.saturating_add(line.size()));
        let message = format!(
            "{}: backend `{}` has {places} servers in its configuration for {} instances, so the others are servers that HAProxy \
             forgets when it restarts",
            haproxy.name(),
            line.backend,
            shape.starting
        );
        (places < shape.starting).then(|| Finding::note("haproxy-room", message, SLOTS_FIX))
    };
    shape.names().filter_map(beyond).collect()
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
    /// The slot has an address of its line, and no container has that address: neither one of this rollout (`live`) nor
    /// one of another service (`others`). DNS may know instances on other machines, which get requests.
    pub fn is_vacant(&self, slot: &Server, live: &[Endpoint], others: &OtherContainers) -> bool {
        let is_unused = slot.is_out() || slot.is_down() || !self.is_set_by_dns(slot);
        let is_of_other = self.is_of_other(slot, live, others);
        !is_added(slot) && !is_of_other && !slot.is_free() && !slot.is_of(live) && is_unused
    }

    /// A container of another service has the address of the slot. That of a fixed line of this rollout does not count if
    /// it has another name: it got the address of an instance that is gone. DNS removes such an address from a slot.
    fn is_of_other(&self, slot: &Server, live: &[Endpoint], others: &OtherContainers) -> bool {
        let Some(names) = slot.address.and_then(|address| others.get(&address)) else { return false };
        let stands_for = |names: &[String]| self.lines_of(names).any(|line| line.contains(slot));
        self.is_set_by_dns(slot) || stands_for(names) || !live.iter().any(|e| stands_for(&e.names))
    }

    /// Commands that give each instance inside a server, drained until HAProxy reaches it. HAProxy may refuse the
    /// second part without harm, because DNS will fill a slot.
    pub fn assign_servers(&self, slots: &[Server], rotation: &Rotation) -> (Vec<String>, Vec<String>) {
        let live = rotation.all();
        let mut vacant: Vec<&Server> =
            slots.iter().filter(|s| self.is_vacant(s, &live, &rotation.others)).collect();
        let (mut required, mut optional) = (Vec::new(), Vec::new());
        for endpoint in &rotation.inside {
            let is_preexisting = rotation.preexisting.contains(&endpoint.id);
            for line in self.missing_lines(slots, endpoint, is_preexisting) {
                let holds = |s: &Server| s.backend == line.backend && s.holds(endpoint);
                let is_own_line = |s: &&Server| self.is_line_of(s, endpoint, &line.backend);
                // A line checks the relay, which does not answer, so the relay has a server of its own.
                let has_own = endpoint.is_relay() || slots.iter().any(holds);
                let slot = if has_own { None } else { vacant.iter().position(is_own_line) };
                match slot.map(|at| vacant.remove(at)) {
                    _ if self.has_fixed_servers(&line.backend) => {}
                    Some(slot) => required.extend(move_to(slot, line, endpoint)),
                    None if !self.can_add(&line.backend) => {}
                    None if line.is_template() && !endpoint.is_relay() => {
                        optional.extend(add(line, endpoint))
                    }
                    None => required.extend(add(line, endpoint)),
                }
            }
        }
        (required, optional)
    }

    /// Commands that give the instances inside the servers of those outside, vacant ones, or second ones of an instance,
    /// where HAProxy cannot add a server. One command switches a server, and its requests in flight go on.
    pub fn hand_over_servers(&self, slots: &[Server], rotation: &Rotation) -> Vec<String> {
        let live = rotation.all();
        let is_inside = |s: &&Server| s.is_of(&rotation.inside);
        let can_give = |s: &&Server| {
            let is_unused = || s.is_of(&rotation.outside) || self.is_vacant(s, &live, &rotation.others);
            let is_free = if is_inside(s) { self.is_second(s, slots) } else { is_unused() };
            self.has_fixed_servers(&s.backend) && is_free
        };
        let mut available: Vec<&Server> = slots.iter().filter(can_give).collect();
        available.sort_by_key(is_inside);
        let is_preexisting = |e: &&Endpoint| rotation.preexisting.contains(&e.id);
        let mut inside: Vec<&Endpoint> = rotation.inside.iter().collect();
        inside.sort_by_key(is_preexisting);
        let mut commands = Vec::new();
        for endpoint in inside {
            let is_preexisting = is_preexisting(&endpoint);
            for line in self.missing_lines(slots, endpoint, is_preexisting) {
                let holds = |s: &Server| s.backend == line.backend && s.holds(endpoint);
                let is_own_line = |s: &&Server| self.is_line_of(s, endpoint, &line.backend);
                let at = available.iter().position(is_own_line).filter(|_| !slots.iter().any(holds));
                commands.extend(at.and_then(|at| set_address(available.remove(at), line, endpoint)));
            }
        }
        commands
    }

    /// Another server of the backend has the same address and port: the name resolved to the same instance for both.
    fn is_second(&self, server: &Server, slots: &[Server]) -> bool {
        let port = |s: &Server| self.config.lines.iter().find(|line| line.contains(s)).map(|line| line.port);
        let rank = |s: &Server| (!s.is_routed(), s.name.clone());
        slots.iter().any(|first| {
            let has_same = (&first.backend, first.address) == (&server.backend, server.address);
            has_same && port(first) == port(server) && rank(first) < rank(server)
        })
    }

    /// One line of each backend without a server that HAProxy reaches at this instance. The check of a preexisting
    /// instance may fail for ever.
    fn missing_lines<'a>(
        &'a self,
        slots: &[Server],
        endpoint: &'a Endpoint,
        is_preexisting: bool,
    ) -> Vec<&'a ServerLine> {
        let mut lines: Vec<&ServerLine> = self.lines_of(&endpoint.names).collect();
        lines.dedup_by(|a, b| a.backend == b.backend);
        let is_server = |s: &Server| {
            let is_settled = is_preexisting || s.has_passed();
            s.holds(endpoint) && (is_added(s) || (is_settled && !endpoint.is_relay()))
        };
        lines.retain(|line| !slots.iter().any(|s| s.backend == line.backend && is_server(s)));
        lines
    }

    fn is_line_of(&self, slot: &Server, endpoint: &Endpoint, backend: &str) -> bool {
        slot.backend == backend && self.lines_of(&endpoint.names).any(|line| line.contains(slot))
    }

    /// DNS sets the addresses of the slot's line.
    fn is_set_by_dns(&self, slot: &Server) -> bool {
        self.config.lines.iter().any(|line| line.contains(slot) && line.has("resolvers"))
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
    pub fn converge_servers(&self, slots: &[Server], discovery: &Discovery) -> (Vec<String>, bool) {
        let endpoints = &discovery.endpoints;
        let (mut commands, mut is_pending) = self.replace_added_servers(slots, discovery);
        let has_line = |added: &Server, e: &Endpoint| {
            slots.iter().any(|s| s.holds(e) && self.is_line_of(s, e, &added.backend))
        };
        let lacks_line = |added: &Server| {
            endpoints.iter().any(|e| is_for(added, &e.id) && added.holds(e) && !has_line(added, e))
        };
        let waits_for_line =
            |s: &Server| slots.iter().any(|a| is_added(a) && a.backend == s.backend && lacks_line(a));
        for slot in slots.iter().filter(|s| s.is_out() && !is_added(s)) {
            let is_vacant = self.is_vacant(slot, endpoints, &discovery.others);
            let is_manual = is_vacant && !self.is_set_by_dns(slot);
            let is_stale = is_vacant && !is_manual && slot.is_checked() && !waits_for_line(slot);
            let can_clear = match (slot.is_of(endpoints), is_vacant) {
                (true, _) => self.is_reached(slot, slots),
                (false, true) if is_manual => slot.is_down() && !waits_for_line(slot),
                (false, true) => is_stale,
                (false, false) => slot.is_free(),
            };
            is_pending |= can_clear || !is_manual || slot.is_checked();
            commands.extend((is_stale && !slot.is_down()).then(|| slot.set_health("down")));
            commands.extend(if can_clear && slot.is_of(endpoints) { self.admit(slot) } else { Vec::new() });
            commands.extend((can_clear && !slot.is_of(endpoints)).then(|| slot.set("ready")));
        }
        commands.dedup();
        (commands, is_pending || self.lacks_free_slots(slots, endpoints))
    }

    /// HAProxy that cannot add servers needs as many free slots of a template as there are instances, or the next
    /// deploy finds no room. DNS must first drop the addresses of stopped instances.
    fn lacks_free_slots(&self, slots: &[Server], endpoints: &[Endpoint]) -> bool {
        let is_gone = |s: &Server| s.is_down() && !s.is_free() && !s.is_of(endpoints);
        self.config.templates().filter(|template| !self.can_add(&template.backend)).any(|template| {
            let own: Vec<&Server> = slots.iter().filter(|s| template.contains(s)).collect();
            let count = |is: &dyn Fn(&Server) -> bool| own.iter().filter(|s| is(s)).count();
            count(&is_gone) > 0 && count(&Server::is_free) < count(&|s| s.is_of(endpoints))
        })
    }

    /// One step from each added server to the slot that takes its instance over. An instance without a slot keeps the
    /// added server.
    fn replace_added_servers(&self, slots: &[Server], discovery: &Discovery) -> (Vec<String>, bool) {
        let endpoints = &discovery.endpoints;
        let mut vacant: Vec<&Server> =
            slots.iter().filter(|s| self.is_vacant(s, endpoints, &discovery.others)).collect();
        let (mut commands, mut is_pending) = (Vec::new(), false);
        for added in slots.iter().filter(|s| is_added(s)) {
            let Some(endpoint) = endpoints.iter().find(|e| added.holds(e) && is_for(added, &e.id)) else {
                (is_pending, _) = (true, commands.extend(retire(added)));
                continue;
            };
            let is_own = |s: &&Server| self.is_line_of(s, endpoint, &added.backend);
            let own: Vec<&Server> = slots.iter().filter(is_own).collect();
            let line = self.lines_of(&endpoint.names).find(|line| line.backend == added.backend);
            is_pending = true;
            if own.iter().any(|s| s.serves(endpoint)) {
                commands.extend(retire(added));
            } else if let (Some(line), false) = (line, own.iter().any(|s| s.holds(endpoint))) {
                match vacant.iter().position(is_own).map(|at| vacant.remove(at)) {
                    Some(slot) => commands.extend(move_to(slot, line, endpoint)),
                    None => is_pending = own.iter().any(|s| s.is_free() && self.is_set_by_dns(s)),
                }
            }
        }
        (commands, is_pending)
    }
}

/// Commands that point a vacant slot to an instance, drained until HAProxy reaches it.
fn move_to(slot: &Server, line: &ServerLine, endpoint: &Endpoint) -> Vec<String> {
    let address = set_address(slot, line, endpoint);
    address.into_iter().flat_map(|address| [slot.set("drain"), address]).collect()
}

fn set_address(slot: &Server, line: &ServerLine, endpoint: &Endpoint) -> Option<String> {
    let (address, port) = target(line, endpoint)?;
    Some(format!("set server {}/{} addr {address} port {port}", slot.backend, slot.name))
}

/// Commands that add a server with the options of a line, drained until HAProxy reaches it.
fn add(line: &ServerLine, endpoint: &Endpoint) -> Vec<String> {
    let Some((address, port)) = target(line, endpoint) else {
        return Vec::new();
    };
    let name = added_name(&line.backend, &endpoint.id);
    let mut options = addable_options(&line.options);
    if endpoint.is_relay() {
        options.retain(|option| !CHECKS.contains(option));
    }
    let is_checked = options.contains(&"check");
    options.extend(is_checked.then_some(FAST_FIRST_CHECK));
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
        (false, 0) => vec![added.set("maint"), delete()],
        (false, _) => vec![added.set("maint")],
        (true, 0) if added.is_maintained() => vec![delete()],
        (true, 0) => vec![added.set("maint"), delete()],
        (true, _) => Vec::new(),
    }
}
