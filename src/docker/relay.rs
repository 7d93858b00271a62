//! Commands for a relay, in its container.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Result;

use super::helper_image::HELPER_PROGRAM;
use super::{Docker, Exec};
use crate::relay::RelayStatus;

/// Command that prints the status of a relay, and fails unless the relay listens.
pub fn status_command() -> Vec<String> {
    helper_words(&["relay-status"])
}

fn helper_words(words: &[&str]) -> Vec<String> {
    [HELPER_PROGRAM, "__helper"].iter().chain(words).map(ToString::to_string).collect()
}

impl Docker {
    /// Status of a relay; `None` if it does not answer.
    pub fn relay_status(&self, relay: &str) -> Option<RelayStatus> {
        let result = self.query(&Exec::new(relay, status_command())).ok().filter(|result| result.ok())?;
        serde_json::from_str(&result.stdout).ok()
    }

    /// Sends the requests of a relay to an address, also those that wait; `ports` has the ports of the address that differ from
    /// those of the relay.
    ///
    /// # Errors
    /// The relay does not answer.
    pub fn forward_relay(&self, relay: &str, to: IpAddr, ports: &BTreeMap<u16, u16>) -> Result<()> {
        let ports = ports.iter().flat_map(|(from, to)| ["--port".into(), format!("{from}:{to}")]);
        self.order_relay(relay, std::iter::once(to.to_string()).chain(ports).collect())
    }

    /// Requests wait in a relay again.
    ///
    /// # Errors
    /// The relay does not answer.
    pub fn hold_in_relay(&self, relay: &str) -> Result<()> {
        self.order_relay(relay, Vec::new())
    }

    fn order_relay(&self, relay: &str, words: Vec<String>) -> Result<()> {
        let words: Vec<&str> =
            ["relay-forward"].into_iter().chain(words.iter().map(String::as_str)).collect();
        let result = self.exec(&Exec::new(relay, helper_words(&words)))?;
        self.checked_result(&["exec", relay, "relay-forward"], result).map(drop)
    }
}
