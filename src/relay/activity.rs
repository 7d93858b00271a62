//! Last bytes of a forwarded connection, which show whether a request waits for its answer.

use std::cell::Cell;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::first_bytes::{FirstBytes, classify};

/// Quiet time after an answer, after which a connection counts as idle.
const QUIET: Duration = Duration::from_secs(1);

/// Last bytes of a connection.
pub struct Activity {
    pub target: IpAddr,
    at: Cell<Instant>,
    /// The client has sent bytes since the last answer.
    is_request: Cell<bool>,
    /// The last answer was an interim one (`100 Continue`), so bytes of the client belong to the same request.
    is_interim: Cell<bool>,
}

impl Activity {
    pub fn new(target: IpAddr, has_request: bool) -> Self {
        let (at, is_request) = (Cell::new(Instant::now()), Cell::new(has_request));
        Activity { target, at, is_request, is_interim: Cell::new(false) }
    }

    pub fn record_request(&self) {
        self.at.set(Instant::now());
        self.is_request.set(true);
    }

    pub fn record_answer(&self, bytes: &[u8]) {
        self.at.set(Instant::now());
        self.is_request.set(false);
        self.is_interim.set(bytes.starts_with(b"HTTP/1.1 1"));
    }

    /// These bytes of the client begin a request, as far as the order of bytes shows.
    pub fn begins_request(&self, bytes: &[u8]) -> bool {
        !self.is_request.get() && !self.is_interim.get() && classify(bytes) != FirstBytes::Other
    }

    /// Every request is answered, as far as the order of bytes shows.
    pub fn is_idle(&self) -> bool {
        !self.is_request.get() && self.at.get().elapsed() >= QUIET
    }
}
