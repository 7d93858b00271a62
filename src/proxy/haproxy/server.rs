//! The servers of a backend, as the runtime API reports them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use derive_more::Display;

use super::super::Endpoint;

/// Bits of `srv_admin_state`. Source: HAProxy's management guide, `show servers state`.
const FORCED_MAINT: u32 = 0x01;
const FORCED_DRAIN: u32 = 0x08;
const NO_ADDRESS: u32 = 0x20;

/// `srv_op_state`: the server gets requests. `srv_check_result`: the last check passed. `srv_check_state` bits:
/// checks are enabled; a check is in progress.
const RUNNING: u32 = 2;
const PASSED: u32 = 3;
const CHECKED: u32 = 0x04;
const IN_PROGRESS: u32 = 0x01;

/// A server of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub backend: String,
    pub name: String,
    pub address: Option<IpAddr>,
    pub operation: u32,
    pub admin: u32,
    pub check_result: u32,
    pub check_state: u32,
    pub in_flight: usize,
}

impl Server {
    /// Parses `show servers state` and the counters after it. Columns are found by their names, because
    /// versions differ.
    pub fn parse(text: &str) -> Option<Vec<Server>> {
        let header = text.lines().find_map(|l| l.strip_prefix("# be_id "))?;
        let names: Vec<&str> = std::iter::once("be_id").chain(header.split_whitespace()).collect();
        let rows = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
        let rows = rows.filter(|r| r.len() >= names.len().min(18) && r[0].parse::<u32>().is_ok());
        let statistics = statistics(text);
        rows.map(|row| Server::read(&names.iter().copied().zip(row).collect(), &statistics)).collect()
    }

    fn read(row: &Row, statistics: &[Row]) -> Option<Server> {
        let number = |name: &str| row.get(name).and_then(|v| v.parse().ok());
        let (backend, name) = (*row.get("be_name")?, *row.get("srv_name")?);
        let is_own = |s: &&Row| s.get("pxname") == Some(&backend) && s.get("svname") == Some(&name);
        let own = statistics.iter().find(is_own);
        let count = |name: &str| own.and_then(|s| s.get(name)?.parse::<u32>().ok()).unwrap_or(0) as usize;
        Some(Server {
            address: row.get("srv_addr").and_then(|a| a.parse().ok()),
            operation: number("srv_op_state")?,
            admin: number("srv_admin_state")?,
            check_result: number("srv_check_result")?,
            check_state: number("srv_check_state")?,
            in_flight: count("scur") + count("qcur"),
            backend: backend.into(),
            name: name.into(),
        })
    }

    /// The instance uses the slot.
    pub fn holds(&self, endpoint: &Endpoint) -> bool {
        !self.is_free() && self.address.is_some_and(|address| endpoint.addresses.contains(&address))
    }

    pub fn is_of(&self, endpoints: &[Endpoint]) -> bool {
        endpoints.iter().any(|endpoint| self.holds(endpoint))
    }

    /// No instance uses the slot.
    pub fn is_free(&self) -> bool {
        self.admin & NO_ADDRESS != 0
    }

    /// Drained or in maintenance, by compose-zd's flag or another.
    pub fn is_out(&self) -> bool {
        self.admin & (FORCED_DRAIN | FORCED_MAINT) != 0
    }

    /// In maintenance: only such a server can be deleted.
    pub fn is_maintained(&self) -> bool {
        self.admin & FORCED_MAINT != 0
    }

    /// HAProxy reaches the server: its check has passed, or it has none.
    pub fn has_passed(&self) -> bool {
        self.operation == RUNNING && (!self.is_checked() || self.check_result == PASSED)
    }

    /// HAProxy checks the server, and the last check has not passed.
    pub fn is_check_pending(&self) -> bool {
        self.is_checked() && !self.is_free() && !self.has_passed()
    }

    /// A check is in progress, which may have begun before the instance listened.
    pub fn is_being_checked(&self) -> bool {
        self.check_state & IN_PROGRESS != 0
    }

    pub fn is_routed(&self) -> bool {
        !self.is_out() && !self.is_free() && self.operation == RUNNING
    }

    pub fn serves(&self, endpoint: &Endpoint) -> bool {
        self.is_routed() && self.holds(endpoint)
    }

    pub fn is_checked(&self) -> bool {
        self.check_state & CHECKED != 0
    }

    /// The check fails, or the server was never up.
    pub fn is_down(&self) -> bool {
        self.operation == 0
    }

    /// Command that sets the server's health (`up` or `down`); HAProxy's check goes on.
    pub fn set_health(&self, health: &str) -> String {
        format!("set server {}/{} health {health}", self.backend, self.name)
    }

    /// Command that ends HAProxy's check; the server's health stays as it is.
    pub fn disable_check(&self) -> String {
        format!("disable health {}/{}", self.backend, self.name)
    }

    /// Command that ends the server's requests, also those that still try to connect.
    pub fn shut_down(&self) -> String {
        format!("shutdown sessions server {}/{}", self.backend, self.name)
    }

    pub fn set(&self, state: &str) -> String {
        format!("set server {}/{} state {state}", self.backend, self.name)
    }
}

/// A check of HAProxy's own that fails.
#[derive(Debug, Display)]
#[display("its own check of `{backend}/{server}` fails: {result}")]
pub struct FailingCheck {
    pub backend: String,
    server: String,
    result: String,
}

/// Result of a check in words. Source: HAProxy's management guide, `check_status`.
fn in_words(status: &str, code: Option<&str>) -> String {
    match (status, code) {
        ("L4TOUT", _) => "no connection in time".into(),
        ("L4CON", _) => "no connection".into(),
        ("L6TOUT", _) => "no TLS handshake in time".into(),
        ("L6RSP", _) => "the TLS handshake failed".into(),
        ("L7TOUT", _) => "no answer in time".into(),
        ("L7RSP", _) => "the answer is not valid".into(),
        ("L7STS", Some(code)) => format!("status {code}"),
        _ => [status].into_iter().chain(code).collect::<Vec<_>>().join(" "),
    }
}

/// Servers whose own check fails, by the output of `show stat`; `None` if it is no such output.
pub fn failing_checks(text: &str) -> Option<Vec<FailingCheck>> {
    let failure = |row: Row| {
        let cell =
            |name: &str| row.get(name).map(|cell| cell.trim_matches('"')).filter(|cell| !cell.is_empty());
        let check = cell("check_status").map(|c| c.trim_start_matches("* "))?;
        let is_failing = !check.ends_with("OK") && !["INI", "UNK"].contains(&check);
        let detail = cell("last_chk").map(|detail| format!(" ({detail})")).unwrap_or_default();
        is_failing.then_some(FailingCheck {
            backend: cell("pxname")?.into(),
            server: cell("svname")?.into(),
            result: in_words(check, cell("check_code")) + &detail,
        })
    };
    text.contains(STATISTICS).then(|| statistics(text).into_iter().filter_map(failure).collect())
}

/// Begin of the header of `show stat`.
const STATISTICS: &str = "# pxname,";

/// A line of a table by column name.
type Row<'t> = BTreeMap<&'t str, &'t str>;

/// All lines of `show stat`.
fn statistics(text: &str) -> Vec<Row<'_>> {
    let Some((_, table)) = text.split_once(STATISTICS) else {
        return Vec::new();
    };
    let mut lines = table.lines();
    let names: Vec<&str> = std::iter::once("pxname").chain(lines.next().unwrap_or("").split(',')).collect();
    lines.map(|line| names.iter().copied().zip(line.split(',')).collect()).collect()
}
