//! HAProxy's own check of a slot comes once an interval, and nobody knows when. A server that we add beside it, which never
//! gets a request, is checked at once in the same way; what HAProxy finds of it is true of the slot at the same address.

use super::server::Server;
use super::static_servers::{addable, added_name, is_added};
use super::{Haproxy, ServerTemplate};
use crate::proxy::Rotation;

/// As of 2.6 a server that is added is checked.
const CAN_ADD: (u32, u32) = (2, 6);

/// Failures in a row that take a server down, where its line does not say.
const FALL: u32 = 3;

/// The first check comes after this, and may take as long.
const SOON: &str = "inter 25ms fastinter 25ms downinter 25ms rise 1 fall 1";

impl Haproxy {
    /// HAProxy reaches what is at the address of a slot. A check of the slot that began before the instance listened may
    /// still fail: it is waited for where a single failure would take the slot down.
    pub fn is_reached(&self, slot: &Server, slots: &[Server]) -> bool {
        let stands_in = |s: &&Server| is_stand_in(s, slot);
        let is_safe = !slot.is_being_checked() || self.bears_a_failure(slot);
        let passed = || slots.iter().filter(stands_in).any(Server::has_passed);
        slot.has_passed() || (slot.is_unsure() && is_safe && passed())
    }

    fn bears_a_failure(&self, slot: &Server) -> bool {
        let template = self.config.templates.iter().find(|t| t.has(&slot.backend, &slot.name));
        template.is_some_and(|t| number_of("fall", &t.options).unwrap_or(FALL) > 1)
    }

    /// Lets a slot have requests. One whose own check has not passed yet is given the health of one whose check has.
    pub fn admit(&self, slot: &Server, slots: &[Server]) -> Vec<String> {
        let mut commands = Vec::new();
        commands.extend((!slot.has_passed()).then(|| slot.set_health("up")));
        commands.push(slot.set("ready"));
        commands.extend(reset_checks(slot, slots));
        commands
    }

    /// Commands that have the slots of those inside looked at soon whose own check has not passed. It does no harm where
    /// HAProxy refuses them: then their own check is waited for.
    pub fn look_soon(&self, slots: &[Server], rotation: &Rotation) -> Vec<String> {
        if self.config.version.is_none_or(|version| version < CAN_ADD) {
            return Vec::new();
        }
        let is_looked_at = |s: &Server| slots.iter().any(|a| is_stand_in(a, s));
        let is_ours = |s: &Server| !self.config.fixed.iter().any(|f| f.backend == s.backend);
        let waits = |s: &&Server| s.is_out() && s.is_unsure() && is_ours(s) && !is_looked_at(s);
        let mut commands = Vec::new();
        for endpoint in &rotation.inside {
            let own = slots.iter().filter(|s| s.is_of(std::slice::from_ref(endpoint)) && !is_added(s));
            for slot in own.filter(waits) {
                let template = self.config.templates.iter().find(|t| t.has(&slot.backend, &slot.name));
                commands.extend(template.into_iter().flat_map(|t| stand_in(t, slot, &endpoint.id)));
            }
        }
        commands
    }

    /// It was added beside a template's slot, and not for an instance that has no line of its own.
    pub fn is_stand_in(&self, slot: &Server) -> bool {
        is_added(slot) && !self.config.fixed.iter().any(|f| f.backend == slot.backend)
    }
}

/// Takes those away that have served their purpose.
fn reset_checks(slot: &Server, slots: &[Server]) -> Vec<String> {
    let all = slots.iter().filter(|s| is_stand_in(s, slot));
    all.flat_map(|s| [s.set("maint"), format!("del server {}/{}", s.backend, s.name)]).collect()
}

/// The number behind an option; the last one counts.
fn number_of(name: &str, options: &[String]) -> Option<u32> {
    let at = options.iter().rposition(|o| o == name)?;
    options.get(at + 1)?.parse().ok()
}

fn is_stand_in(added: &Server, slot: &Server) -> bool {
    let same = (&added.backend, added.address) == (&slot.backend, slot.address);
    is_added(added) && same && added.is_out() && !is_added(slot)
}

fn stand_in(template: &ServerTemplate, slot: &Server, id: &str) -> Vec<String> {
    let (Some(address), Some(port)) = (slot.address, template.port) else {
        return Vec::new();
    };
    let (name, options) = (added_name(&slot.backend, id), addable(&template.options).join(" "));
    vec![
        format!("add server {name} {address}:{port} {options} {SOON}"),
        format!("set server {name} state drain"),
        format!("enable health {name}"),
    ]
}
