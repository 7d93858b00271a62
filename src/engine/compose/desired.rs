//! Desired state of each target: number of instances, order and batches.

use std::sync::Arc;
use std::time::Duration;

use super::ComposeRun;
use crate::docker::inspect::Container;
use crate::error::Error;
use crate::finding;
use crate::model::{Order, Project, Service, Update};
use crate::observe::{TargetReader, TargetSnapshot};
use crate::observed::{Instance, Observed};
use crate::plan::{Bridge, DesiredService, PlanPolicy, Strategy};
use crate::preflight::file;
use crate::proxy::Proxy;
use crate::release::{InProgress, ReleaseRecord, RolloutKind};
use crate::targets::Target;

/// Shortest monitor; a shorter one is none. Compose leaves `monitor: 0s` out of its output, so files write `1ns`.
const SHORTEST_MONITOR: Duration = Duration::from_millis(1);

/// True if old and new instances of a worker must not share a volume at the same time. Instances behind a proxy
/// always run side by side.
pub fn stops_first_for_volume(service: &Service, update: &Update, proxied: bool) -> bool {
    !proxied && service.holds_volume() && update.order.is_none()
}

/// Policy of a replacement: the configured one, limited for a worker by its volumes.
pub fn plan_policy(service: &Service, update: &Update, proxied: bool) -> PlanPolicy {
    let order = if stops_first_for_volume(service, update, proxied) {
        Order::StopFirst
    } else {
        update.order.unwrap_or_default()
    };
    PlanPolicy {
        order,
        parallelism: update.parallelism as usize,
        delay: update.delay,
        monitor: if update.monitor < SHORTEST_MONITOR { Duration::ZERO } else { update.monitor },
    }
}

/// Desired state of a service that a deploy replaces.
pub fn desired_service(service: &Service, update: &Update, replicas: usize, proxied: bool) -> DesiredService {
    DesiredService {
        service: service.name.clone(),
        replicas: replicas.max(1),
        policy: plan_policy(service, update, proxied),
        removes_stopped: service.starts_by_compose,
        may_be_down: !proxied,
        ..DesiredService::default()
    }
}

/// Bridge of a service, if its only instance has to be replaced by itself: a relay where requests can wait, else a stand-in
/// for a fixed port of the host. `can_help` is true if the engine can run the program of a relay.
pub fn bridge(
    service: &Service,
    update: &Update,
    replicas: usize,
    proxies: &[Arc<dyn Proxy>],
    can_help: &dyn Fn() -> bool,
) -> Option<Bridge> {
    let is_port = proxies.iter().any(|p| p.place().is_port());
    let can_hold = !proxies.is_empty() && proxies.iter().all(|p| p.abilities().can_hold);
    let holds = can_hold && replicas == 1 && service.hold_cause(update).is_some();
    match (holds, is_port) {
        (true, _) => can_help().then_some(Bridge::Relay),
        // Two instances may run at the same time.
        (false, true) => Some(Bridge::StandIn),
        (false, false) => None,
    }
}

/// Strategy of a target; `both_serve` is true for a pair whose sides are replaced one after the other. `bridge` returns the
/// bridge of a single service.
pub fn strategy(
    project: &Project,
    target: &Target,
    both_serve: bool,
    desired: &dyn Fn(&str) -> DesiredService,
    bridge: &dyn Fn(&DesiredService) -> Option<Bridge>,
) -> Strategy {
    let Target::Pair(pair) = target else {
        let desired = desired(target.name());
        return match bridge(&desired) {
            Some(kind) => Strategy::Bridge(desired, kind),
            None => Strategy::Scale(desired),
        };
    };
    let side = |name: &String| {
        let mut side = desired(name);
        // A fixed host port is free only once the old instance has stopped.
        if both_serve && !project.services[name].fixed_ports().is_empty() {
            side.policy.order = Order::StopFirst;
        }
        side
    };
    Strategy::Pair(pair.sides.each_ref().map(side))
}

impl ComposeRun<'_> {
    /// `update_config` of a service, or its `rollback_config` for a rollback.
    pub fn policy<'s>(&self, service: &'s Service) -> &'s Update {
        match self.kind {
            RolloutKind::Rollback { .. } => &service.rollback,
            _ => &service.update,
        }
    }

    pub fn strategy(&self, reader: &TargetReader, snapshot: &TargetSnapshot) -> Result<Strategy, Error> {
        let (target, observed) = (reader.target, &snapshot.observed);
        let crashed = |name: &str| {
            let its =
                |c: &&Container| c.compose().is_some_and(|(_, service)| service == name) && c.has_failed();
            snapshot.containers.values().filter(its).count()
        };
        let sides = target.services();
        let desired = |name: &str| {
            let size = |name: &str| observed.size(name, crashed(name));
            self.desired_service(name, &sides, reader, (observed, &size))
        };
        let serves = |s: &&str| observed.of(s).any(Instance::serves);
        let both_serve = sides.len() == 2 && sides.iter().all(serves);
        for name in &sides {
            let service = &self.project().services[*name];
            let finding = file::one_container_for_a_name(service, desired(name).replicas);
            finding::require(finding.map(|finding| finding.of_service(name)))?;
        }
        let bridge = |desired: &DesiredService| {
            let service = &self.project().services[&desired.service];
            let can_help = || matches!(self.docker().helper_support(), Ok(Ok(())));
            bridge(service, self.policy(service), desired.replicas, &reader.proxies, &can_help)
        };
        Ok(strategy(self.project(), target, both_serve, &desired, &bridge))
    }

    /// Desired state of one service. Its number of instances is `--scale`, else the file's, else as many as run
    /// (for the idle side of a pair: as on the other side), else one.
    fn desired_service(
        &self,
        name: &str,
        sides: &[&str],
        reader: &TargetReader,
        (observed, size): (&Observed, &dyn Fn(&str) -> usize),
    ) -> DesiredService {
        let service = &self.project().services[name];
        let own = self.recorded_size(name, observed).or(Some(size(name))).filter(|n| *n > 0);
        let running = own.or(sides.iter().map(|s| size(s)).max()).unwrap_or(0);
        let in_file = service.replicas().map(|n| n as usize);
        let counted = if service.container_name.is_some() { 1 } else { running };
        let replicas = self.replicas.get(name).copied().or(in_file).unwrap_or(counted);
        let proxied = !reader.proxies.is_empty();
        let desired = desired_service(service, self.policy(service), replicas, proxied);
        DesiredService { follows_unfinished: self.journal().follows_unfinished(), ..desired }
    }

    /// Number of instances by the records, for a service that may have old and new ones. After a killed or failed
    /// rollout the current release counts. After a paused rollout, or one with tolerated failures, old and new
    /// instances together are the recorded number.
    fn recorded_size(&self, name: &str, observed: &Observed) -> Option<usize> {
        let (history, unfinished) = (&self.journal().history, &self.journal().in_progress);
        let recorded = |r: &ReleaseRecord| r.services.get(name).map(|release| release.replicas as usize);
        let is_stuck = |h: &&InProgress| !h.paused && h.services.iter().any(|s| s == name);
        if unfinished.as_ref().is_some_and(|h| is_stuck(&h)) {
            return history.current().and_then(recorded);
        }
        let paused = unfinished.as_ref().filter(|h| h.paused).and_then(|h| history.get(h.number));
        let count = recorded(paused.or(history.current())?)?;
        let serving = observed.of(name).filter(|i| i.serves()).count();
        Some(serving).filter(|n| *n == count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::FlagLayers;
    use crate::proxy::haproxy;
    use crate::proxy::port::PublishedPort;

    fn project(keys: &str) -> Project {
        let yaml = format!("name: p\nservices: {{app: {{image: app, {keys}}}}}");
        Project::read(&yaml, "compose.yaml", &FlagLayers::default()).unwrap()
    }

    /// Bridge of a service with these keys behind HAProxy.
    fn bridge_of(keys: &str, replicas: usize, can_help: bool) -> Option<Bridge> {
        let project = project(keys);
        let service = &project.services["app"];
        let proxies = [Arc::from((haproxy::ADAPTER.declared)(&Container::default()))];
        bridge(service, &service.update, replicas, &proxies, &|| can_help)
    }

    #[test]
    fn a_published_port_leads_to_a_stand_in_or_to_a_relay_where_only_one_instance_may_run() {
        let bridge_of = |keys: &str, can_help: bool| {
            let project =
                project(&format!("ports: [{{target: 80, published: '80', protocol: tcp}}], {keys}"));
            let service = &project.services["app"];
            let port: Arc<dyn Proxy> = Arc::new(PublishedPort::new(&project, service, Err("root".into())));
            bridge(service, &service.update, 1, &[port], &|| can_help)
        };
        let volume = "volumes: [{type: volume, source: v, target: /data}]";
        assert_eq!(bridge_of("", true), Some(Bridge::StandIn));
        assert_eq!(bridge_of("", false), Some(Bridge::StandIn));
        assert_eq!(bridge_of(volume, true), Some(Bridge::Relay));
        assert_eq!(bridge_of(volume, false), None, "a stand-in would write to the volume, too");
    }

    #[test]
    fn the_requests_of_a_single_instance_with_a_volume_wait_in_a_relay() {
        let volume = "volumes: [{type: volume, source: v, target: /data}]";
        let stop_first = "deploy: {update_config: {order: stop-first}}";
        assert_eq!(bridge_of(volume, 1, true), Some(Bridge::Relay));
        assert_eq!(bridge_of(stop_first, 1, true), Some(Bridge::Relay));
        assert_eq!(bridge_of("", 1, true), None);
        assert_eq!(bridge_of(volume, 2, true), None, "others serve meanwhile");
        assert_eq!(bridge_of(volume, 1, false), None, "the engine cannot run the relay");
        assert_eq!(bridge_of(&format!("{volume}, x-zd: {{hold: 0s}}"), 1, true), None);
        let side_by_side = format!("{volume}, deploy: {{update_config: {{order: start-first}}}}");
        assert_eq!(bridge_of(&side_by_side, 1, true), None);
    }

    #[test]
    fn without_a_proxy_nothing_can_wait() {
        let yaml = "name: p\nservices: {app: {deploy: {update_config: {order: stop-first}}}}";
        let project = Project::read(yaml, "compose.yaml", &FlagLayers::default()).unwrap();
        let service = &project.services["app"];
        assert_eq!(bridge(service, &service.update, 1, &[], &|| true), None);
    }
}
