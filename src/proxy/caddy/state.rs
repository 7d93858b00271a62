//! Output of the state script: the files of the switches, Caddy's counters, and its configuration.

use std::collections::BTreeMap;

use serde_json::Value;

use super::config::FOLDER;

/// Entry of a bank without a ready instance. It is not a host name, so Caddy queries no name server and answers
/// 502 at once.
pub const NO_INSTANCE: &str = "-";

pub fn other_bank(bank: &str) -> &'static str {
    if bank == "a" { "b" } else { "a" }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct SwitchState {
    /// Configuration as Caddy printed it, on one line.
    pub raw: String,
    pub config: Value,
    /// Requests in flight by the address that Caddy dials.
    requests: Vec<(String, usize)>,
    /// Files of each switch, by key.
    pub switches: BTreeMap<String, SwitchFiles>,
}

/// The files of a switch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SwitchFiles {
    /// Seconds since the switch was turned on.
    on: Option<u64>,
    /// Seconds since bank `b` became active.
    switched: Option<u64>,
    /// The switch is removed from Caddy's configuration at the end of the deploy.
    pub is_temporary: bool,
    banks: BTreeMap<String, Vec<String>>,
}

impl SwitchFiles {
    /// Bank that gets the requests; none while the switch is off.
    pub fn bank(&self) -> Option<&'static str> {
        match (self.switched, self.on) {
            (Some(_), _) => Some("b"),
            (None, Some(_)) => Some("a"),
            (None, None) => None,
        }
    }

    /// Names that get requests; none while the switch is off.
    pub fn names(&self) -> Option<&[String]> {
        self.bank().map(|bank| self.banks.get(bank).map_or(&[][..], Vec::as_slice))
    }

    /// Seconds since a request last reached the handler behind the switch.
    pub fn age(&self) -> Option<u64> {
        self.on.or(self.switched)
    }
}

impl SwitchState {
    pub fn parse(text: &str) -> Option<SwitchState> {
        let (head, rest) = text.split_once("@upstreams\n")?;
        let (upstreams, config) = rest.split_once("@config\n")?;
        let mut state = SwitchState {
            raw: config.trim().into(),
            requests: parse_counts(upstreams)?,
            ..SwitchState::default()
        };
        state.config = serde_json::from_str(&state.raw).ok()?;
        head.lines().for_each(|line| state.read_line(line));
        state.config.get("error").is_none().then_some(state)
    }

    fn read_line(&mut self, line: &str) {
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
            "@once" => switch.is_temporary = true,
            _ => drop(switch.banks.insert(bank.into(), words.map(String::from).collect())),
        }
    }

    pub fn switch(&self, key: &str) -> SwitchFiles {
        self.switches.get(key).cloned().unwrap_or_default()
    }

    /// Requests in flight to exactly this address. Caddy counts a resolved address twice since 2.11.2.
    pub fn requests_to(&self, dial: &str) -> usize {
        self.requests
            .iter()
            .filter(|(address, _)| address == dial)
            .map(|(_, count)| *count)
            .max()
            .unwrap_or(0)
    }

    /// Requests in flight that went through the slots of a bank.
    pub fn requests_by_bank(&self, key: &str, bank: &str) -> usize {
        let folder = format!("/{FOLDER}/{key}/{bank}/");
        self.requests.iter().filter(|(address, _)| address.contains(&folder)).map(|(_, count)| count).sum()
    }
}

fn parse_counts(text: &str) -> Option<Vec<(String, usize)>> {
    let list: Value = serde_json::from_str(text.trim()).ok()?;
    let count = |entry: &Value| {
        let requests = u32::try_from(entry["num_requests"].as_u64()?).unwrap_or(u32::MAX);
        Some((entry["address"].as_str()?.to_string(), requests as usize))
    };
    Some(list.as_array().into_iter().flatten().filter_map(count).collect())
}
