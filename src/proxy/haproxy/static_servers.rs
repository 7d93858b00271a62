//! Fixed `server` lines: nobody tells them of a new instance but we. One that has lost its instance is given the next;
//! where none is vacant, a server is added for as long as the old instance holds the line (HAProxy 2.6 and later).

use super::config::{self, StaticServer};
use super::server::Server;
use super::{Haproxy, TEMPLATE_FIX};
use crate::docker::CommandResult;
use crate::error::Error;
use crate::proxy::{Endpoint, RolloutShape, Rotation};

/// Names of the servers that we add begin with it.
const ADDED: &str = "compose-zd-";

/// What may stand behind an address of a line, but not of an added server, with how many words.
///
/// One that is marked down would cut the requests that it is still answering when it goes.
const NOT_ADDABLE: [(&str, usize); 6] = [
    ("on-marked-down", 2),
    ("resolvers", 2),
    ("init-addr", 2),
    ("resolve-prefer", 2),
    ("cookie", 2),
    ("id", 2),
];

pub fn is_added(slot: &Server) -> bool {
    slot.name.starts_with(ADDED)
}

/// A server that was added for an instance of another service of the same backend, which has its own rollout.
pub fn is_of_others(slot: &Server, ours: &[Endpoint], existing: &[String]) -> bool {
    let is = |id: &str| slot.name.strip_prefix(ADDED) == Some(short(id));
    existing.iter().any(|id| is(id)) && !ours.iter().any(|e| is(&e.id))
}

/// The server that is added for an instance.
pub fn added_name(backend: &str, id: &str) -> String {
    format!("{backend}/{ADDED}{}", short(id))
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// Whether its lines have a place for as many as start, and it can add the others meanwhile.
///
/// # Errors
/// Fewer lines than instances, or an HAProxy that cannot add a server; with the fix.
pub fn check(haproxy: &Haproxy, answer: &CommandResult, shape: &RolloutShape) -> Result<(), Error> {
    check_lines(haproxy, shape)?;
    let fixed = shape.names().any(|n| haproxy.fixed_of(n).next().is_some());
    match version(&answer.stdout) {
        Some(version) if fixed && version < (2, 6) => {
            let (major, minor) = version;
            let why = format!("{major}.{minor} cannot add a server beside a fixed `server` line, 2.6 can");
            Err(haproxy.refused(&"haproxy-too-old", why, TEMPLATE_FIX))
        }
        _ => Ok(()),
    }
}

/// Whether a host of a configuration is the name that Compose gives one container of a service: `p-app-1`.
fn is_one_container(host: &str, project: &str, service: &str) -> bool {
    let number = || {
        let rest = host.strip_prefix(project)?.strip_prefix(['-', '_'])?;
        let number = rest.strip_prefix(service)?.strip_prefix(['-', '_'])?;
        // The name of a network may follow.
        number.split('.').next()?.parse::<u32>().ok()
    };
    number().is_some()
}

/// Whether there are as many lines as instances that start, and each names the service.
///
/// # Errors
/// Fewer, or the name of one container, with the fix.
pub fn check_lines(haproxy: &Haproxy, shape: &RolloutShape) -> Result<(), Error> {
    for (service, names) in &shape.services {
        let hosts = haproxy.fixed_of(names).map(|f| (&f.backend, &f.host));
        let mut hosts = hosts.chain(haproxy.templates_of(names).map(|t| (&t.backend, &t.host)));
        if let Some((backend, host)) = hosts.find(|(_, host)| is_one_container(host, &shape.project, service))
        {
            let why = format!(
                "backend `{backend}` names `{host}`, which is one container and not what comes after it: HAProxy would not \
                 find it when it starts the next time"
            );
            return Err(haproxy.refused(&"haproxy-one-instance", why, TEMPLATE_FIX));
        }
        let lines: Vec<&StaticServer> = haproxy.fixed_of(names).collect();
        let Some(first) = lines.first() else {
            continue;
        };
        if let Some((line, option)) = lines.iter().find_map(|l| Some((l, unsendable(&l.options)?))) {
            let why = format!(
                "`server {}` of backend `{}` has the option `{option}`, which cannot be given to a server that is added by the \
                 runtime API",
                line.name, line.backend
            );
            let fix = "write it without `;` and variables, or use `server-template`; `--proxy-kind none` deploys without gate \
                       and drain";
            return Err(haproxy.refused(&"haproxy-option", why, fix));
        }
        let own = lines.iter().filter(|l| l.backend == first.backend).count();
        if own < shape.starting {
            let (backend, starting) = (&first.backend, shape.starting);
            let why = format!(
                "backend `{backend}` has {own} `server` lines for `{service}`, and {starting} instances are to start"
            );
            return Err(haproxy.refused(&"haproxy-room", why, TEMPLATE_FIX));
        }
    }
    Ok(())
}

/// Reads `Version: 2.6.12-1+deb12u3` of `show info`.
fn version(info: &str) -> Option<(u32, u32)> {
    config::version(info.lines().find_map(|l| l.strip_prefix("Version: "))?)
}

impl Haproxy {
    /// A slot of a fixed line whose address is that of no container, of this rollout (`live`) or of another service.
    pub fn is_vacant(&self, slot: &Server, live: &[Endpoint]) -> bool {
        if slot.address.is_some_and(|address| self.others.has(&address)) {
            return false;
        }
        let mut lines = self.config.fixed.iter();
        let line = lines.find(|f| f.backend == slot.backend && f.name == slot.name);
        line.is_some_and(|f| !f.follows_dns()) && !slot.is_free() && !slot.is_of(live)
    }

    /// Gives those inside that no slot has a slot of their own, drained until HAProxy reaches it.
    pub fn place(&self, slots: &[Server], rotation: &Rotation) -> Vec<String> {
        let live = rotation.all();
        let mut vacant: Vec<&Server> = slots.iter().filter(|s| self.is_vacant(s, &live)).collect();
        let mut commands = Vec::new();
        for endpoint in &rotation.inside {
            for line in self.missing(slots, endpoint) {
                let own = |s: &&Server| self.is_line_of(s, endpoint, &line.backend);
                let place = vacant.iter().position(own).map(|at| vacant.remove(at));
                commands.extend(match place {
                    Some(slot) => move_to(slot, line, endpoint),
                    None => add(line, endpoint),
                });
            }
        }
        commands
    }

    /// A line of each backend that has no slot for this instance, and none that DNS is about to fill.
    fn missing<'a>(&'a self, slots: &[Server], endpoint: &'a Endpoint) -> Vec<&'a StaticServer> {
        let mut lines: Vec<&StaticServer> = self.fixed_of(&endpoint.names).collect();
        lines.dedup_by(|a, b| a.backend == b.backend);
        let own = std::slice::from_ref(endpoint);
        let known =
            |f: &&StaticServer| slots.iter().any(|s| s.backend == f.backend && (s.is_of(own) || s.is_free()));
        lines.retain(|f| !known(f));
        lines
    }

    fn is_line_of(&self, slot: &Server, endpoint: &Endpoint, backend: &str) -> bool {
        slot.backend == backend
            && self.fixed_of(&endpoint.names).any(|f| f.backend == backend && f.name == slot.name)
    }

    /// Takes our flags and our servers away, one step at a time: the commands to run now, and whether anything is left.
    ///
    /// A flag belongs to the slot and would outlive the instance, so that the next one got no request. It goes once HAProxy
    /// knows that the instance is gone; before, it would send requests to nobody. Where it checks the slot, that is told
    /// to it, and only its own check can bring the slot back; else DNS has to take the address away.
    pub fn converge_static_servers(&self, slots: &[Server], ours: &[Endpoint]) -> (Vec<String>, bool) {
        let mut left = false;
        let mut commands = Vec::new();
        for slot in slots.iter().filter(|s| is_added(s)) {
            left = true;
            commands.extend(self.replace_added(slot, slots, ours));
        }
        let awaited = |s: &Server| slots.iter().any(|a| is_added(a) && a.backend == s.backend);
        for slot in slots.iter().filter(|s| s.is_out() && !is_added(s)) {
            let abandoned = self.is_vacant(slot, ours);
            let stale = !slot.is_of(ours) && !abandoned && !slot.is_free() && slot.is_checked();
            let may_go = match (slot.is_of(ours), abandoned) {
                (true, _) => slot.has_passed(),
                (false, true) => slot.is_down() && !awaited(slot),
                (false, false) => slot.is_free() || stale,
            };
            left |= may_go || !abandoned || slot.is_checked();
            commands.extend((stale && !slot.is_down()).then(|| slot.set_health("down")));
            commands.extend(may_go.then(|| slot.set("ready")));
        }
        commands.dedup();
        (commands, left || self.is_crowded(slots, ours))
    }

    /// Whether a template has not as many free slots as instances yet, so that the next deploy would find no room: DNS has
    /// to take the addresses of those that stopped away first.
    fn is_crowded(&self, slots: &[Server], ours: &[Endpoint]) -> bool {
        let gone = |s: &Server| s.is_down() && !s.is_free() && !s.is_of(ours);
        self.config.templates.iter().any(|template| {
            let own: Vec<&Server> = slots.iter().filter(|s| template.has(&s.backend, &s.name)).collect();
            let count = |is: &dyn Fn(&Server) -> bool| own.iter().filter(|s| is(s)).count();
            count(&gone) > 0 && count(&Server::is_free) < count(&|s| s.is_of(ours))
        })
    }

    /// A step from an added server to the line that takes its instance over.
    fn replace_added(&self, added: &Server, slots: &[Server], ours: &[Endpoint]) -> Vec<String> {
        let Some(endpoint) = ours.iter().find(|e| added.is_of(std::slice::from_ref(*e))) else {
            return retire(added);
        };
        let own = || slots.iter().filter(|s| self.is_line_of(s, endpoint, &added.backend));
        if own().any(|s| s.serves(endpoint)) {
            return retire(added);
        }
        if own().any(|s| s.is_of(std::slice::from_ref(endpoint))) {
            return Vec::new(); // until HAProxy's own check has passed
        }
        let line = self.fixed_of(&endpoint.names).find(|f| f.backend == added.backend);
        match (own().find(|s| self.is_vacant(s, ours)), line) {
            (Some(slot), Some(line)) => move_to(slot, line, endpoint),
            (None, Some(_)) => Vec::new(),
            // One that a template's slot was looked at by.
            (_, None) => retire(added),
        }
    }
}

/// Points a slot without an instance to one, drained until HAProxy reaches it.
fn move_to(slot: &Server, line: &StaticServer, endpoint: &Endpoint) -> Vec<String> {
    let Some((address, port)) = target(line, endpoint) else {
        return Vec::new();
    };
    let place = format!("{}/{}", slot.backend, slot.name);
    vec![slot.set("drain"), format!("set server {place} addr {address} port {port}")]
}

/// Adds a server with the options of a line; it is drained until HAProxy reaches it.
fn add(line: &StaticServer, endpoint: &Endpoint) -> Vec<String> {
    let Some((address, port)) = target(line, endpoint) else {
        return Vec::new();
    };
    let name = added_name(&line.backend, &endpoint.id);
    let options = addable(&line.options);
    let checked = options.contains(&"check");
    let mut commands =
        vec![format!("add server {name} {address}:{port} {}", options.join(" ")).trim_end().into()];
    commands.extend(checked.then(|| format!("enable health {name}")));
    commands.push(format!("set server {name} state drain"));
    commands
}

fn target(line: &StaticServer, endpoint: &Endpoint) -> Option<(String, u16)> {
    let address = endpoint.addresses.first()?.to_string();
    Some((address, line.port.or(endpoint.port)?))
}

pub fn addable(options: &[String]) -> Vec<&str> {
    let mut kept = Vec::new();
    let mut rest = options.iter().map(String::as_str);
    while let Some(option) = rest.next() {
        match NOT_ADDABLE.iter().find(|(name, _)| *name == option) {
            Some((_, words)) => _ = rest.nth(words - 2),
            None => kept.push(option),
        }
    }
    kept
}

/// An option that the runtime API would read as something else: it ends a command at `;`, and knows no variables.
fn unsendable(options: &[String]) -> Option<&str> {
    let is_cut =
        |option: &&str| option.contains([';', '\n']) || (option.contains('"') && option.contains('$'));
    addable(options).into_iter().find(is_cut)
}

/// Takes a server of ours out, and away once it answers nothing any more.
fn retire(added: &Server) -> Vec<String> {
    let delete = || format!("del server {}/{}", added.backend, added.name);
    match (added.is_out(), added.in_flight) {
        (false, _) => vec![added.set("maint")],
        (true, 0) if added.is_maintained() => vec![delete()],
        (true, 0) => vec![added.set("maint"), delete()],
        (true, _) => Vec::new(),
    }
}
