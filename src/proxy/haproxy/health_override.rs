//! Early health of a slot. HAProxy checks a slot once per interval, at a time that compose-zd cannot know. An added
//! server at the same address is checked at once in the same way, and its result holds for the slot, too.

use super::Haproxy;
use super::added_servers::is_added;
use super::server::Server;

/// Default of `fall`: failures in a row that take a server down.
const FALL: u32 = 3;

impl Haproxy {
    /// HAProxy reaches the instance at the slot's address. A check of the slot that began before the instance
    /// listened may still fail: it is waited for where a single failure would take the slot down.
    pub fn is_reached(&self, slot: &Server, slots: &[Server]) -> bool {
        let is_twin = |s: &&Server| {
            is_added(s) && !is_added(slot) && (&s.backend, s.address) == (&slot.backend, slot.address)
        };
        let is_safe = !slot.is_being_checked() || self.tolerates_one_failure(slot);
        let passed = || slots.iter().filter(is_twin).any(Server::has_passed);
        slot.has_passed() || (slot.is_check_pending() && is_safe && passed())
    }

    fn tolerates_one_failure(&self, slot: &Server) -> bool {
        let line = self.config.lines.iter().find(|line| line.contains(slot));
        line.is_some_and(|line| number_of("fall", &line.options).unwrap_or(FALL) > 1)
    }

    /// Commands that admit a slot. A slot whose own check has not passed yet gets the health of its added server.
    pub fn admit(&self, slot: &Server) -> Vec<String> {
        let health = (!slot.has_passed()).then(|| slot.set_health("up"));
        health.into_iter().chain([slot.set("ready")]).collect()
    }
}

/// The number after an option; the last occurrence counts.
fn number_of(name: &str, options: &[String]) -> Option<u32> {
    let at = options.iter().rposition(|o| o == name)?;
    options.get(at + 1)?.parse().ok()
}
