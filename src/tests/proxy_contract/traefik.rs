//! Simulation of Traefik: its own discovery, and pins that outbid it.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;
use crate::docker::Helper;
use crate::proxy::traefik::Traefik;

const FLAGS: [&str; 2] = ["--entrypoints.web.address=:80", "--providers.docker=true"];

pub struct PinnedDiscovery {
    proxy: Traefik,
    running: Vec<&'static str>,
    /// Running pins by their name, which is also their id here.
    pins: BTreeMap<String, Helper>,
}

pub fn simulation() -> PinnedDiscovery {
    let mut proxy = Traefik::new(&container(&FLAGS));
    proxy.learn(&output("@tool wget\n"));
    PinnedDiscovery { proxy, running: Vec::new(), pins: BTreeMap::new() }
}

/// Values of the labels of a kind of object.
fn values<'h>(pin: &'h Helper, kind: &'static str, setting: &'static str) -> impl Iterator<Item = &'h str> {
    let is_wanted = move |key: &str| key.starts_with(kind) && key.ends_with(setting);
    pin.labels.iter().filter(move |(key, _)| is_wanted(key)).map(|(_, value)| value.as_str())
}

fn priority(pin: &Helper, is_check: bool) -> Option<i64> {
    let routers = pin.labels.iter().filter(|(key, _)| key.ends_with(".priority"));
    let own = routers.filter(|(key, _)| key.ends_with("_check.priority") == is_check);
    own.filter_map(|(_, value)| value.parse().ok()).max()
}

impl Simulation for PinnedDiscovery {
    fn proxy(&self) -> &dyn Proxy {
        &self.proxy
    }

    fn answer(&self, query: &Query) -> CommandResult {
        let list = |pin: &Helper| {
            let labels: BTreeMap<_, _> = pin.labels.iter().cloned().collect();
            json!({ "Id": pin.name, "Labels": labels, "Created": 1_000 })
        };
        if *query == Query::Containers {
            let pins: Vec<_> = self.pins.values().map(list).collect();
            return output(json!(pins).to_string());
        }
        if matches!(query, Query::Sockets { .. }) {
            return output("");
        }
        let newest = self.pins.values().max_by_key(|pin| priority(pin, true));
        let token = newest.and_then(|pin| values(pin, "traefik.http.middlewares", ".replacement").next());
        let token = token.map_or("", |url| url.rsplit('/').next().expect("a token"));
        output(format!("@now {} 1001\n@served {token}\n@end\n", self.pins.len()))
    }

    fn run(&mut self, action: &Action) {
        match action {
            Action::Start(helper) => drop(self.pins.insert(helper.name.clone(), helper.clone())),
            Action::Remove(name) => assert!(self.pins.remove(name).is_some(), "{name} exists"),
            other => panic!("{other:?}"),
        }
    }

    fn set_running(&mut self, running: &[&'static str]) {
        self.running = running.to_vec();
        self.pins.retain(|_, pin| {
            let target = pin.network.strip_prefix("container:").expect("the network of a container");
            target == "lb" || running.contains(&target)
        });
    }

    fn serving(&self) -> BTreeSet<&'static str> {
        let best = self.pins.values().filter_map(|pin| priority(pin, false)).max();
        let is_target = |name: &&str| {
            let pins = self.pins.values().filter(|pin| priority(pin, false) == best);
            best.is_none() || pins.into_iter().any(|pin| pin.network == format!("container:{name}"))
        };
        self.running.iter().copied().filter(is_target).collect()
    }
}
