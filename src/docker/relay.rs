//! Commands for a relay, in its container.

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

    /// Sends the requests of a relay to an address, also those that wait; without an address they wait again.
    ///
    /// # Errors
    /// The relay does not answer.
    pub fn forward_relay(&self, relay: &str, to: Option<IpAddr>) -> Result<()> {
        let address = to.map(|to| to.to_string());
        let words: Vec<&str> = ["relay-forward"].into_iter().chain(address.as_deref()).collect();
        let result = self.exec(&Exec::new(relay, helper_words(&words)))?;
        self.checked_result(&["exec", relay, "relay-forward"], result).map(drop)
    }
}
