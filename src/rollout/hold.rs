//! Hold: the requests of a service wait in a relay while its only instance is replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::Rollout;
use crate::docker::inspect::Container;
use crate::error::Error;
use crate::model::{Relay, Service};
use crate::observed::InstanceKey;
use crate::proxy::{Backend, Proxy, port};
use crate::relay::RelayStatus;
use crate::report::{Event, Warning};
use crate::targets::backend;
use crate::wait;

/// Time for which a relay may exist after all waits of a rollout, so that it ends by itself after a kill.
const SPARE_LIFETIME: Duration = Duration::from_secs(600);

/// Interval at which a relay is asked for requests without an answer.
const LEAVING_POLL: Duration = Duration::from_millis(200);

/// Part of a hold that the requests in flight at the old instance may take, and part that the new instance has at least.
const PART: u32 = 3;

/// Requests that have waited in the relays of a run.
#[derive(Debug, Default)]
pub struct HoldLog(Mutex<RelayStatus>);

impl HoldLog {
    /// Adds the requests of a relay.
    fn add(&self, status: &RelayStatus) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.held_total += status.held_total;
        all.refused += status.refused;
        all.longest_ms = all.longest_ms.max(status.longest_ms);
    }

    fn total(&self) -> Event {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held_event(&all)
    }

    /// Summary of the requests of all relays; `None` if none waited and none was refused.
    pub fn summary(&self) -> Option<String> {
        let total = self.total();
        let is_empty = matches!(total, Event::Held { requests: 0, refused: 0, .. });
        (!is_empty).then(|| total.to_string())
    }
}

fn held_event(status: &RelayStatus) -> Event {
    Event::Held {
        requests: status.held_total as usize,
        longest: Duration::from_millis(status.longest_ms),
        refused: status.refused as usize,
    }
}

/// Time for which a request waits in a relay at most: for the new instance, for its stop, and then for the old one, which
/// starts again.
pub fn longest_wait(service: &Service) -> Duration {
    service.settings.hold * 2 + service.longest_stop()
}

/// Ports at which the proxies reach an instance, by the port at which they reach its relay. Only those that differ: the relay
/// is made from the file, and the instance may be of another version.
pub fn ports_of_owner(
    service: &Service,
    proxies: &[Arc<dyn Proxy>],
    relay: &Container,
    owner: &Container,
) -> BTreeMap<u16, u16> {
    let mut ports = BTreeMap::new();
    for proxy in proxies {
        if proxy.place().is_port() {
            let targets = port::forwards(service).into_iter().map(|forward| forward.target);
            ports.extend(targets.map(|target| (target, port::port_of(service, owner, target))));
        } else {
            let port_of = |container: &Container| proxy.route_to(&Backend::from(container)).port;
            ports.extend(port_of(relay).zip(port_of(owner)));
        }
    }
    ports.retain(|of_relay, of_owner| of_relay != of_owner);
    ports
}

/// Program of a relay for these ports.
fn command(service: &Service, ports: &BTreeSet<u16>) -> Vec<String> {
    let wait = longest_wait(service);
    let lifetime = wait + service.settings.drain_timeout + SPARE_LIFETIME;
    let seconds = |time: Duration| time.as_secs_f64().ceil().to_string();
    let ports = ports.iter().flat_map(|port| ["--port".to_string(), port.to_string()]);
    let limits = ["--hold".into(), seconds(wait), "--lifetime".into(), seconds(lifetime)];
    ["__helper", "relay"].map(String::from).into_iter().chain(ports).chain(limits).collect()
}

impl Rollout<'_> {
    pub(super) fn is_relay(&self, key: &InstanceKey) -> bool {
        self.containers.get(key).is_some_and(Container::is_relay)
    }

    /// Relays of these that run.
    fn running_relays<'k>(&self, keys: &'k [InstanceKey]) -> Vec<&'k InstanceKey> {
        let runs = |k: &&InstanceKey| self.is_relay(k) && self.containers[*k].is_running();
        keys.iter().filter(runs).collect()
    }

    /// Relay of a service. It listens at each port that a proxy uses, and at those that the instances expose.
    ///
    /// # Errors
    /// The engine cannot run the relay, or its ports are unknown.
    pub(super) fn relay(&self, service: &Service) -> Result<Relay> {
        let docker = self.context.docker;
        let image = if self.is_dry_run() { docker.own_helper_image() } else { docker.helper_image()?.ok() };
        let image = image.ok_or_else(|| Error::unchanged("the engine cannot run the relay"))?;
        let instances = || self.containers.values().filter(|c| !c.is_bridge());
        let in_file = service.exposed();
        let tcp_port = |port: &String| port.strip_suffix("/tcp")?.parse::<u16>().ok();
        let of_file = in_file.iter().filter_map(tcp_port);
        let exposed: BTreeSet<u16> =
            instances().flat_map(Container::exposed_tcp).chain(of_file.clone()).collect();
        let planned = Backend { exposed: of_file.collect(), ..backend(self.context.project, service) };
        let backends = || instances().map(Backend::from).chain([planned.clone()]);
        let of_proxies =
            self.context.proxies.iter().flat_map(|p| backends().filter_map(|b| p.route_to(&b).port));
        let is_port = self.context.proxies.iter().any(|p| p.place().is_port());
        let forwards = if is_port { port::forwards(service) } else { Vec::new() };
        let published: Vec<_> = forwards.iter().map(|forward| (forward.ip, forward.target)).collect();
        let of_host = published.iter().map(|(_, port)| *port);
        let ports: BTreeSet<u16> = exposed.iter().copied().chain(of_proxies).chain(of_host).collect();
        if ports.is_empty() {
            let error = Error::unchanged(format!(
                "the port of `{}` is unknown, so no request can wait",
                service.name
            ));
            let fix = format!(
                "add the port to `services.{0}.expose`, or set `services.{0}.x-zd.hold: 0s`",
                service.name
            );
            return Err(error.hint(fix).into());
        }
        Ok(Relay {
            image,
            command: command(service, &ports),
            exposed: exposed.into_iter().collect(),
            published,
        })
    }

    /// Before a change of the rotation: a relay that leaves sends its requests to the instance that takes over, and
    /// requests of a relay that comes back wait again.
    pub(super) fn direct_relays(&mut self, inside: &[InstanceKey], outside: &[InstanceKey]) {
        let docker = self.context.docker;
        let owner = inside.iter().find(|k| !self.is_relay(k) && self.containers[*k].is_running());
        let forwards = self.running_relays(outside).into_iter().filter_map(|relay_key| {
            let (owner, relay) = (&self.containers[owner?], &self.containers[relay_key]);
            let address = owner.addresses_reached_from(relay).first().copied()?;
            Some((
                relay,
                address,
                ports_of_owner(self.service(relay_key), self.context.proxies, relay, owner),
            ))
        });
        if owner.is_some() {
            self.context.witness.end_hold();
        }
        let mut failures: Vec<anyhow::Error> = Vec::new();
        for (relay, address, ports) in forwards {
            failures.extend(docker.forward_relay(&relay.id, address, &ports).err());
        }
        for error in failures {
            self.context.report.warn(&Warning::Other(format!("requests that wait may be lost: {error:#}")));
        }
        self.hold_again(inside);
        if owner.is_none() && !self.running_relays(inside).is_empty() {
            self.held_since.get_or_insert_with(Instant::now);
            self.context.witness.begin_hold();
        }
    }

    /// Requests wait again in a relay of these, unless an instance is among them.
    pub(super) fn hold_again(&self, inside: &[InstanceKey]) {
        let relays = self.running_relays(inside);
        if relays.is_empty() || inside.iter().any(|k| !self.is_relay(k)) {
            return;
        }
        self.context.witness.begin_hold();
        for relay in relays {
            // A relay that does not answer has ended, or holds nothing.
            let _ = self.context.docker.hold_in_relay(&self.containers[relay].id);
        }
    }

    /// Before instances stop: a relay that gets the requests of the service does not forward them to one of these any more.
    /// Waits for the answers to those that are forwarded.
    pub(super) fn take_from_relays(&mut self, leaving: &[InstanceKey], limit: Duration) -> Result<()> {
        let relays = self.running_relays(&self.inside);
        let docker = self.context.docker;
        let status = |relay: &&InstanceKey| docker.relay_status(&self.containers[*relay].id);
        let forwards = |relay| status(relay).is_some_and(|status| status.forwarding_to.is_some());
        if leaving.iter().all(|k| self.is_relay(k)) || !relays.iter().any(forwards) {
            return Ok(());
        }
        self.hold_again(&self.inside);
        let is_done = || relays.iter().filter_map(status).all(|status| status.leaving == 0);
        wait::until(LEAVING_POLL, limit, &self.stop, || Ok::<_, Error>(is_done().then_some(())))?;
        self.held_since.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Limit for the requests in flight at an instance. Others wait meanwhile if a relay has its place.
    pub(super) fn drain_time(&self, limit: Duration, service: &Service) -> Duration {
        match self.held_since {
            Some(_) => limit.min(service.settings.hold / PART),
            None => limit,
        }
    }

    /// Limit for the readiness of an instance for which requests wait, if that is shorter than its own. An old instance that
    /// returns has the whole hold, because a request waits for both.
    pub(super) fn ready_time(&self, service: &Service) -> Option<Duration> {
        let since = self.held_since?;
        let passed = if self.is_best_effort { Duration::ZERO } else { since.elapsed() };
        let left = left(service.settings.hold, passed).max(service.settings.timing.interval);
        Some(left).filter(|left| *left < service.settings.timing.deadline)
    }

    /// Reports the requests that have waited in these relays.
    pub(super) fn report_held(&self, keys: &[InstanceKey]) {
        for key in self.running_relays(keys) {
            let Some(status) = self.context.docker.relay_status(&self.containers[key].id) else { continue };
            self.context.holds.add(&status);
            self.context.report.event(held_event(&status));
        }
    }
}

/// Rest of a hold for a new instance, a round number for messages. An old instance that stops slowly may have used up the
/// hold, and a new instance without any time would be started for nothing.
fn left(hold: Duration, passed: Duration) -> Duration {
    let left = hold.saturating_sub(passed).max(hold / PART);
    Duration::from_millis(left.as_millis() as u64 / 100 * 100)
}

/// Hint for a new instance that did not get ready within the hold.
pub(super) fn hint(service: &Service) -> String {
    let (name, hold) = (&service.name, humantime::format_duration(service.settings.hold));
    format!(
        "set `services.{name}.x-zd.hold` longer than {hold}, if clients and proxies wait that long; or `order: start-first`, \
         if two instances may run side by side"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{FlagLayers, Project};

    #[test]
    fn a_relay_holds_for_the_new_instance_and_for_the_return_of_the_old_one() {
        let yaml =
            "name: p\nservices: {app: {stop_grace_period: 4s, x-zd: {hold: 1500ms, drain: {timeout: 7s}}}}";
        let project = Project::read(yaml, "compose.yaml", &FlagLayers::default()).unwrap();
        let words = command(&project.services["app"], &BTreeSet::from([80, 3000]));
        assert_eq!(words.join(" "), "__helper relay --port 80 --port 3000 --hold 7 --lifetime 614");
    }

    #[test]
    fn a_new_instance_has_the_rest_of_the_hold_and_at_least_a_third() {
        let left = |passed: u64| left(Duration::from_secs(30), Duration::from_millis(passed)).as_millis();
        assert_eq!([left(0), left(5_250), left(25_000), left(40_000)], [30_000, 24_700, 10_000, 10_000]);
    }

    /// Container of `app` with more of its keys.
    fn container(keys: &str, settings: &str) -> Container {
        let labels = r#"{"com.docker.compose.project": "p", "com.docker.compose.service": "app"}"#;
        let text = format!(r#"{{"Config": {{"Labels": {labels} {keys}}} {settings}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_relay_reaches_an_instance_of_another_version_at_its_own_port() {
        let project = Project::read("name: p\nservices: {app: {}}", "compose.yaml", &FlagLayers::default());
        let (project, with) =
            (project.unwrap(), |env: &str| container(&format!(r#", "Env": ["{env}"]"#), ""));
        let proxy = r#"{"NetworkSettings": {"Networks": {"front": {}}}}"#;
        let proxy = crate::proxy::declared("nginx-proxy", &serde_json::from_str(proxy).unwrap()).unwrap();
        let proxies = [Arc::from(proxy)];
        let ports = |relay: &str, owner: &str| {
            ports_of_owner(&project.services["app"], &proxies, &with(relay), &with(owner))
        };
        assert_eq!(ports("VIRTUAL_PORT=4000", "VIRTUAL_PORT=3000"), BTreeMap::from([(4000, 3000)]));
        assert_eq!(ports("VIRTUAL_PORT=3000", "VIRTUAL_PORT=3000"), BTreeMap::new());
    }

    #[test]
    fn behind_a_published_port_the_port_of_the_instance_is_the_one_that_it_publishes() {
        let yaml = "name: p\nservices: {app: {ports: [{target: 4000, published: '8000', protocol: tcp}]}}";
        let project = Project::read(yaml, "compose.yaml", &FlagLayers::default()).unwrap();
        let service = &project.services["app"];
        let proxy: Arc<dyn Proxy> = Arc::new(port::PublishedPort::new(&project, service, Err("none".into())));
        let owner = |target: u16, published: u16| {
            let bindings = format!(r#"[{{"HostIp": "0.0.0.0", "HostPort": "{published}"}}]"#);
            container("", &format!(r#", "NetworkSettings": {{"Ports": {{"{target}/tcp": {bindings}}}}}"#))
        };
        let ports = |owner: &Container| {
            ports_of_owner(service, std::slice::from_ref(&proxy), &container("", ""), owner)
        };
        assert_eq!(ports(&owner(3000, 8000)), BTreeMap::from([(4000, 3000)]));
        assert_eq!(ports(&owner(4000, 8000)), BTreeMap::new());
        assert_eq!(ports(&owner(3000, 9000)), BTreeMap::new(), "another port of the host");
    }

    #[test]
    fn the_log_adds_the_requests_of_all_relays() {
        let log = HoldLog::default();
        assert_eq!(log.summary(), None);
        let status = |held_total, longest_ms, refused| RelayStatus {
            held_total,
            longest_ms,
            refused,
            ..RelayStatus::default()
        };
        log.add(&status(3, 700, 0));
        log.add(&status(2, 400, 1));
        let text = "5 requests waited for the replacement, the longest for 0.7s; 1 was refused";
        assert_eq!(log.summary().as_deref(), Some(text));
    }
}
