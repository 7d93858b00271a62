//! The running services, as data and as a table. Pure.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::probes::LossCount;

/// Document of `status --output json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StatusReport {
    pub project: String,
    /// `compose` or `swarm`.
    pub engine: &'static str,
    pub services: Vec<ServiceStatus>,
    pub pairs: Vec<PairStatus>,
    /// A run that is in progress, or that left an unfinished release.
    pub in_progress: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServiceStatus {
    pub service: String,
    /// Release that deployed the service; none if unknown.
    pub release: Option<u32>,
    /// A newer release may run: its record is unreadable, or it failed and `release` was not restored.
    pub release_unknown: bool,
    /// Requests of the witness in the rollout of that release; none without a witness.
    pub witness: Option<LossCount>,
    /// Requests that the drain timeout of that rollout cut off.
    pub cut_off: u64,
    /// Only on a Swarm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks: Option<TaskCount>,
    pub instances: Vec<InstanceStatus>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskCount {
    pub running: usize,
    pub desired: usize,
    pub image: String,
    /// State of the update.
    pub update: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct InstanceStatus {
    pub name: String,
    pub image: String,
    pub state: String,
    /// `relay` or `stand-in` for a container of compose-zd that serves during a replacement; none for an instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// Status of the healthcheck; none without one.
    pub health: Option<String>,
    /// The instance runs and the proxy sends it requests; none without a proxy, or if the proxy does not tell.
    pub in_rotation: Option<bool>,
    /// A proxy is in front, and does not tell its rotation.
    #[serde(skip)]
    pub is_rotation_unknown: bool,
    /// The healthcheck, or the proxy's own check, fails for an instance in rotation. A proxy that checks sends no
    /// requests to such an instance; other proxies do.
    pub failing: bool,
    /// Requests in flight; none if nothing counts them.
    pub in_flight: Option<usize>,
    /// The number may include idle connections.
    pub in_flight_is_upper_bound: bool,
    /// RFC 3339, from Docker.
    pub started: Option<String>,
    /// Only on a Swarm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairStatus {
    pub pair: String,
    pub sides: Vec<String>,
    pub active: Vec<String>,
}

impl StatusReport {
    pub fn new(project: &str, engine: &'static str) -> StatusReport {
        StatusReport {
            project: project.into(),
            engine,
            services: Vec::new(),
            pairs: Vec::new(),
            in_progress: None,
        }
    }

    pub fn columns(&self) -> &'static [&'static str] {
        match self.engine {
            "swarm" => &["SERVICE", "RELEASE", "TASKS", "NODE", "IMAGE", "STATE"],
            _ => &["SERVICE", "RELEASE", "INSTANCE", "IMAGE", "STATE", "ROTATION", "IN FLIGHT", "AGE"],
        }
    }

    pub fn rows(&self, now: SystemTime) -> Vec<Vec<String>> {
        let rows = |service: &ServiceStatus| match &service.tasks {
            Some(tasks) => task_rows(service, tasks),
            None => instance_rows(service, now),
        };
        self.services.iter().flat_map(rows).collect()
    }

    /// Lines below the table.
    pub fn notes(&self) -> Vec<String> {
        let pair = |pair: &PairStatus| match pair.active.len() {
            0 => format!("`{}`: no side is active", pair.pair),
            1 => format!("`{}`: {} is the active side", pair.pair, pair.active[0]),
            _ => format!("`{}`: both sides are active", pair.pair),
        };
        let mut losses: Vec<String> = self.services.iter().filter_map(rollout_losses).collect();
        losses.dedup();
        self.pairs.iter().map(pair).chain(losses).chain(self.in_progress.clone()).collect()
    }
}

/// Losses of the rollout that deployed a service.
fn rollout_losses(service: &ServiceStatus) -> Option<String> {
    let number = service.release.filter(|_| !service.release_unknown)?;
    let witness = service.witness.filter(|w| w.lost > 0);
    let witness = witness.map(|w| format!("the witness lost {} of {} requests", w.lost, w.sent));
    let cut = (service.cut_off > 0).then(|| format!("{} in flight were cut off", service.cut_off));
    let parts: Vec<String> = witness.into_iter().chain(cut).collect();
    (!parts.is_empty()).then(|| format!("release {number}: while it was deployed, {}", parts.join(", ")))
}

fn release(service: &ServiceStatus) -> String {
    match (service.release_unknown, service.release) {
        (true, _) => "unknown".into(),
        (false, None) => "-".into(),
        (false, Some(number)) => number.to_string(),
    }
}

fn instance_rows(service: &ServiceStatus, now: SystemTime) -> Vec<Vec<String>> {
    if service.instances.is_empty() {
        return vec![vec![service.service.clone(), release(service), "none".into()]];
    }
    let row = |instance: &InstanceStatus| {
        let details: Vec<&str> = instance.role.into_iter().chain(instance.health.as_deref()).collect();
        let state = match details.as_slice() {
            [] => instance.state.clone(),
            details => format!("{} ({})", instance.state, details.join(", ")),
        };
        let rotation = match (instance.in_rotation, instance.failing) {
            (None, _) if instance.is_rotation_unknown => "unknown",
            (None, _) => "no proxy",
            (Some(true), true) => "in, failing",
            (Some(true), false) => "in",
            (Some(false), true) => "out, failing",
            (Some(false), false) => "out",
        };
        let in_flight = match instance.in_flight {
            None => "-".to_string(),
            Some(count) if instance.in_flight_is_upper_bound => format!("≤ {count}"),
            Some(count) => count.to_string(),
        };
        vec![
            service.service.clone(),
            release(service),
            instance.name.clone(),
            instance.image.clone(),
            state,
            rotation.into(),
            in_flight,
            age(instance.started.as_deref(), now),
        ]
    };
    service.instances.iter().map(row).collect()
}

fn task_rows(service: &ServiceStatus, tasks: &TaskCount) -> Vec<Vec<String>> {
    let count = format!("{} of {}", tasks.running, tasks.desired);
    let (none, update) = (String::new, tasks.update.clone());
    let first = vec![service.service.clone(), release(service), count, none(), tasks.image.clone(), update];
    let task = |t: &InstanceStatus| {
        let node = t.node.clone().unwrap_or_default();
        vec![none(), none(), t.name.clone(), node, none(), t.state.clone()]
    };
    std::iter::once(first).chain(service.instances.iter().map(task)).collect()
}

/// `45s`, `12m`, `3h` or `5d`; `-` if unknown, or in the future by the clock of this machine.
fn age(started: Option<&str>, now: SystemTime) -> String {
    let then = started.and_then(|text| humantime::parse_rfc3339(text).ok());
    let since = then.and_then(|then| now.duration_since(then).ok());
    since.filter(|s| *s < Duration::from_secs(1000 * 365 * 86_400)).map_or("-".into(), short)
}

fn short(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..120 => format!("{s}s"),
        s @ 120..7_200 => format!("{}m", s / 60),
        s @ 7_200..172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> InstanceStatus {
        InstanceStatus {
            name: "app-1".into(),
            image: "app:1".into(),
            state: "running".into(),
            in_rotation: Some(true),
            in_flight: Some(2),
            started: Some("2026-01-01T00:00:00Z".into()),
            ..InstanceStatus::default()
        }
    }

    fn row(instance: InstanceStatus) -> String {
        let service = ServiceStatus {
            service: "app".into(),
            release: Some(3),
            release_unknown: false,
            witness: None,
            cut_off: 0,
            tasks: None,
            instances: vec![instance],
        };
        let now = humantime::parse_rfc3339("2026-01-01T00:01:30Z").unwrap();
        instance_rows(&service, now)[0].join(" | ")
    }

    #[test]
    fn an_instance_is_a_row() {
        assert_eq!(row(instance()), "app | 3 | app-1 | app:1 | running | in | 2 | 90s");
        let unhealthy = InstanceStatus {
            health: Some("unhealthy".into()),
            failing: true,
            in_flight_is_upper_bound: true,
            ..instance()
        };
        assert_eq!(row(unhealthy), "app | 3 | app-1 | app:1 | running (unhealthy) | in, failing | ≤ 2 | 90s");
        let relay = InstanceStatus { role: Some("relay"), health: Some("healthy".into()), ..instance() };
        assert_eq!(row(relay), "app | 3 | app-1 | app:1 | running (relay, healthy) | in | 2 | 90s");
        let without_proxy =
            InstanceStatus { in_rotation: None, in_flight: None, started: None, ..instance() };
        let unknown = InstanceStatus { is_rotation_unknown: true, ..without_proxy.clone() };
        assert_eq!(row(without_proxy), "app | 3 | app-1 | app:1 | running | no proxy | - | -");
        assert_eq!(row(unknown), "app | 3 | app-1 | app:1 | running | unknown | - | -");
    }

    #[test]
    fn ages_are_short() {
        let age_of = |seconds| short(Duration::from_secs(seconds));
        assert_eq!(
            [age_of(0), age_of(119), age_of(120), age_of(7_300), age_of(172_800)],
            ["0s", "119s", "2m", "2h", "2d"]
        );
        // Docker reports this time for a container that never started.
        assert_eq!(age(Some("0001-01-01T00:00:00Z"), SystemTime::now()), "-");
    }

    #[test]
    fn losses_are_noted_once_for_each_release() {
        let mut status = StatusReport::new("p", "compose");
        let service = |name: &str, release_unknown| ServiceStatus {
            service: name.into(),
            release: Some(7),
            release_unknown,
            witness: Some(LossCount { sent: 58, lost: 3 }),
            cut_off: 2,
            tasks: None,
            instances: Vec::new(),
        };
        status.services = vec![service("a", false), service("b", false)];
        let note =
            "release 7: while it was deployed, the witness lost 3 of 58 requests, 2 in flight were cut off";
        assert_eq!(status.notes(), [note]);
        status.services = vec![service("a", true)];
        assert_eq!(status.notes(), [""; 0]);
        status.services = vec![ServiceStatus { witness: None, cut_off: 0, ..service("a", false) }];
        assert_eq!(status.notes(), [""; 0]);
    }

    #[test]
    fn the_active_side_of_a_pair_is_noted() {
        let mut status = StatusReport::new("p", "compose");
        let pair = |active: &[&str]| PairStatus {
            pair: "web".into(),
            sides: vec!["web_a".into(), "web_b".into()],
            active: active.iter().map(|s| s.to_string()).collect(),
        };
        status.pairs = vec![pair(&["web_b"]), pair(&["web_a", "web_b"]), pair(&[])];
        assert_eq!(
            status.notes(),
            ["`web`: web_b is the active side", "`web`: both sides are active", "`web`: no side is active"]
        );
    }
}
