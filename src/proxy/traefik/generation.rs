//! Pins: containers that carry a route while a rollout runs. Each change of the rotation is a new generation of pins,
//! whose routers outbid those of the generation before. A pin shares the network of its instance, so Traefik takes the
//! address of the instance for it, and the pin sees when the instance no longer listens. It then ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::Endpoint;
use super::labels::Labels;
use crate::docker::PIN;

const PROXY: &str = "compose-zd.pin.proxy";
const NUMBER: &str = "compose-zd.pin.generation";
const TOKEN: &str = "compose-zd.pin.token";
const CONTENT: &str = "compose-zd.pin.content";
const TARGET: &str = "compose-zd.pin.target";
const PARTS: &str = "compose-zd.pin.parts";

/// Running container, as the engine lists it.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedContainer {
    pub id: String,
    pub labels: Labels,
    /// Seconds since 1970.
    pub created: u64,
}

impl ListedContainer {
    pub fn is_pin(&self) -> bool {
        self.labels.contains_key(PIN)
    }
}

/// Parses the list of the engine.
pub fn parse_list(json: &str) -> Option<Vec<ListedContainer>> {
    let list: Vec<Value> = serde_json::from_str(json).ok()?;
    let labels = |value: &Value| -> Labels {
        let pairs = value.as_object().into_iter().flatten();
        pairs.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).collect()
    };
    let container = |c: &Value| {
        let created = c["Created"].as_u64().unwrap_or_default();
        Some(ListedContainer { id: c["Id"].as_str()?.into(), labels: labels(&c["Labels"]), created })
    };
    Some(list.iter().filter_map(container).collect())
}

/// Project and service of a route, by which its pins are marked: `PROJECT/SERVICE`. For a pair, the service is that of
/// the first side.
pub fn mark<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) -> Option<String> {
    let service_and_project =
        |e: &'a Endpoint| Some((e.service.as_str(), e.labels.get("com.docker.compose.project")?));
    let (service, project) = endpoints.into_iter().filter_map(service_and_project).min()?;
    Some(format!("{project}/{service}"))
}

/// Pins of one rotation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Generation {
    pub number: u32,
    /// Answer to the version check while the generation is in force.
    pub token: String,
    /// Hash of the route.
    pub content: String,
    /// Id of the proxy's container.
    pub proxy: String,
    /// Ids of the instances that get requests; empty for a generation that only has a version check.
    pub targets: BTreeSet<String>,
    /// Number of pins when all run.
    pub parts: usize,
    /// Ids of the running pins.
    pub pins: Vec<String>,
    /// Creation of its last pin, in seconds since 1970.
    pub created: u64,
}

impl Generation {
    pub fn is_complete(&self) -> bool {
        self.pins.len() == self.parts
    }

    pub fn has_route(&self) -> bool {
        !self.targets.is_empty()
    }

    /// Age at a time in seconds since 1970.
    pub fn age(&self, now: u64) -> Duration {
        Duration::from_secs(now.saturating_sub(self.created))
    }

    /// Labels of a pin of this generation. `target` is the id of its instance, or empty.
    pub fn labels(&self, mark: &str, target: &str) -> Vec<(String, String)> {
        let labels = [
            (PIN, mark),
            (PROXY, &self.proxy),
            (NUMBER, &self.number.to_string()),
            (TOKEN, &self.token),
            (CONTENT, &self.content),
            (PARTS, &self.parts.to_string()),
            (TARGET, target),
        ];
        labels.map(|(key, value)| (key.into(), value.into())).to_vec()
    }

    fn add(&mut self, pin: &ListedContainer) {
        let text = |key: &str| pin.labels.get(key).cloned().unwrap_or_default();
        (self.token, self.content, self.proxy) = (text(TOKEN), text(CONTENT), text(PROXY));
        self.parts = text(PARTS).parse().unwrap_or_default();
        self.targets.extend(Some(text(TARGET)).filter(|target| !target.is_empty()));
        self.pins.push(pin.id.clone());
        self.created = self.created.max(pin.created);
    }
}

/// Generations of a mark, by their number.
pub fn generations(containers: &[ListedContainer], mark: &str) -> Vec<Generation> {
    let mut generations: BTreeMap<u32, Generation> = BTreeMap::new();
    for pin in containers.iter().filter(|c| c.labels.get(PIN).is_some_and(|own| own == mark)) {
        let number = pin.labels.get(NUMBER).and_then(|n| n.parse().ok()).unwrap_or_default();
        generations.entry(number).or_insert(Generation { number, ..Generation::default() }).add(pin);
    }
    generations.into_values().collect()
}
