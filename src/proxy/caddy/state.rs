//! What the question's script printed: how the switches are set, what Caddy counts, and its configuration.

use std::collections::BTreeMap;

use serde_json::Value;

use super::config::OURS;

/// Stands in a bank where nobody is ready: not a name, so that Caddy asks no name server and answers 502 at once.
pub const NOBODY: &str = "-";

pub fn other(bank: &str) -> &'static str {
    if bank == "a" { "b" } else { "a" }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct SwitchState {
    /// As Caddy wrote it, on one line.
    pub raw: String,
    pub config: Value,
    /// Requests in flight by what Caddy dials.
    busy: Vec<(String, usize)>,
    /// By key.
    pub switches: BTreeMap<String, SwitchFiles>,
}

/// The files of a switch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SwitchFiles {
    /// Seconds since it was turned on.
    on: Option<u64>,
    /// Seconds since bank `b` has its turn.
    switched: Option<u64>,
    /// It is to be taken out of Caddy's configuration at the end of the deploy.
    pub once: bool,
    banks: BTreeMap<String, Vec<String>>,
}

impl SwitchFiles {
    /// The bank that gets the requests; none while it is off.
    pub fn bank(&self) -> Option<&'static str> {
        match (self.switched, self.on) {
            (Some(_), _) => Some("b"),
            (None, Some(_)) => Some("a"),
            (None, None) => None,
        }
    }

    /// The names that get requests; none while it is off.
    pub fn names(&self) -> Option<&[String]> {
        self.bank().map(|bank| self.banks.get(bank).map_or(&[][..], Vec::as_slice))
    }

    /// Seconds since Caddy has looked at the handler behind it.
    pub fn age(&self) -> Option<u64> {
        self.on.or(self.switched)
    }
}

impl SwitchState {
    pub fn parse(text: &str) -> Option<SwitchState> {
        let (head, rest) = text.split_once("@upstreams\n")?;
        let (upstreams, config) = rest.split_once("@config\n")?;
        let mut seen =
            SwitchState { raw: config.trim().into(), busy: counts(upstreams)?, ..SwitchState::default() };
        seen.config = serde_json::from_str(&seen.raw).ok()?;
        head.lines().for_each(|line| seen.note(line));
        seen.config.get("error").is_none().then_some(seen)
    }

    fn note(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let (Some(kind), Some(key)) = (words.next(), words.next()) else {
            return;
        };
        let (key, bank) = key.split_once('/').unwrap_or((key, ""));
        let switch = self.switches.entry(key.into()).or_default();
        let mut age = || Some(words.next().and_then(|a| a.parse().ok()).unwrap_or(0));
        match kind {
            "@on" => switch.on = age(),
            "@switched" => switch.switched = age(),
            "@once" => switch.once = true,
            _ => drop(switch.banks.insert(bank.into(), words.map(String::from).collect())),
        }
    }

    pub fn switch(&self, key: &str) -> SwitchFiles {
        self.switches.get(key).cloned().unwrap_or_default()
    }

    /// Requests in flight to exactly this address. One that was looked up is counted twice since 2.11.2.
    pub fn to(&self, dial: &str) -> usize {
        self.busy.iter().filter(|(address, _)| address == dial).map(|(_, count)| *count).max().unwrap_or(0)
    }

    /// Requests in flight that were begun by a bank.
    pub fn by(&self, key: &str, bank: &str) -> usize {
        let slot = format!("/{OURS}/{key}/{bank}/");
        self.busy.iter().filter(|(address, _)| address.contains(&slot)).map(|(_, count)| count).sum()
    }
}

fn counts(text: &str) -> Option<Vec<(String, usize)>> {
    let list: Value = serde_json::from_str(text.trim()).ok()?;
    let count = |entry: &Value| {
        let requests = u32::try_from(entry["num_requests"].as_u64()?).unwrap_or(u32::MAX);
        Some((entry["address"].as_str()?.to_string(), requests as usize))
    };
    Some(list.as_array().into_iter().flatten().filter_map(count).collect())
}
