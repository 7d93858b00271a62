//! Early health of a slot. HAProxy checks a slot once per interval, at a time that compose-zd cannot know. So
//! compose-zd adds a probe server at the same address. A probe server never gets a request, and HAProxy checks
//! it at once in the same way. The result holds for the slot, too.

use super::Haproxy;
use super::config::{ADDS_SERVERS_SINCE, ServerLine};
use super::server::Server;
use super::static_servers::{addable_options, added_name, is_added};
use crate::proxy::{Endpoint, Rotation};

/// Default of `fall`: failures in a row that take a server down.
const FALL: u32 = 3;

/// Check options of a probe server: delay and longest duration of the first check.
const FAST_CHECKS: &str = "inter 25ms fastinter 25ms downinter 25ms rise 1 fall 1";

impl Haproxy {
    /// HAProxy reaches the instance at the slot's address. A check of the slot that began before the instance
    /// listened may still fail: it is waited for where a single failure would take the slot down.
    pub fn is_reached(&self, slot: &Server, slots: &[Server]) -> bool {
        let probes = |s: &&Server| probes_slot(s, slot);
        let is_safe = !slot.is_being_checked() || self.tolerates_one_failure(slot);
        let passed = || slots.iter().filter(probes).any(Server::has_passed);
        slot.has_passed() || (slot.is_check_pending() && is_safe && passed())
    }

    fn tolerates_one_failure(&self, slot: &Server) -> bool {
        let template = self.config.template(slot);
        template.is_some_and(|t| number_of("fall", &t.options).unwrap_or(FALL) > 1)
    }

    /// Commands that admit a slot. A slot whose own check has not passed yet gets the health of its probe
    /// server.
    pub fn admit(&self, slot: &Server, slots: &[Server]) -> Vec<String> {
        let mut commands = Vec::new();
        commands.extend((!slot.has_passed()).then(|| slot.set_health("up")));
        commands.push(slot.set("ready"));
        commands.extend(remove_probe_servers(slot, slots));
        commands
    }

    /// Commands that add probe servers for the slots inside whose own check has not passed. HAProxy may refuse
    /// the commands without harm: then the slot's own check is waited for.
    pub fn early_checks(&self, slots: &[Server], rotation: &Rotation) -> Vec<String> {
        if self.config.version.is_none_or(|version| version < ADDS_SERVERS_SINCE) {
            return Vec::new();
        }
        let has_probe_server = |s: &Server| slots.iter().any(|a| probes_slot(a, s));
        let needs_probe = |s: &Server| s.is_out() && s.is_check_pending() && !has_probe_server(s);
        let is_own_slot = |s: &Server| !is_added(s) && !self.config.has_static_server(&s.backend);
        let pending = slots.iter().filter(|s| is_own_slot(s) && needs_probe(s));
        let of = |e| pending.clone().filter(move |s| s.holds(e)).map(move |s| (s, e));
        let probe = |(slot, e): (&Server, &Endpoint)| {
            self.config.template(slot).map(|template| add_probe_server(template, slot, &e.id))
        };
        rotation.inside.iter().flat_map(of).filter_map(probe).flatten().collect()
    }

    /// A server added beside a template's slot, not one for an instance without a line of its own.
    pub fn is_probe_server(&self, slot: &Server) -> bool {
        is_added(slot) && !self.config.has_static_server(&slot.backend)
    }
}

/// Commands that delete the probe servers of a slot.
fn remove_probe_servers(slot: &Server, slots: &[Server]) -> Vec<String> {
    let probe_servers = slots.iter().filter(|s| probes_slot(s, slot));
    probe_servers.flat_map(|s| [s.set("maint"), format!("del server {}/{}", s.backend, s.name)]).collect()
}

/// The number after an option; the last occurrence counts.
fn number_of(name: &str, options: &[String]) -> Option<u32> {
    let at = options.iter().rposition(|o| o == name)?;
    options.get(at + 1)?.parse().ok()
}

fn probes_slot(added: &Server, slot: &Server) -> bool {
    let same_address = (&added.backend, added.address) == (&slot.backend, slot.address);
    is_added(added) && same_address && added.is_out() && !is_added(slot)
}

fn add_probe_server(template: &ServerLine, slot: &Server, id: &str) -> Vec<String> {
    let (Some(address), Some(port)) = (slot.address, template.port) else {
        return Vec::new();
    };
    let (name, options) = (added_name(&slot.backend, id), addable_options(&template.options).join(" "));
    vec![
        format!("add server {name} {address}:{port} {options} {FAST_CHECKS}"),
        format!("set server {name} state drain"),
        format!("enable health {name}"),
    ]
}
