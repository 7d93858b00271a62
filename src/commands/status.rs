//! `status`: reports the release and the instances of each service.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Result;

use crate::context::{ProjectHandle, locking};
use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::docker::types::{Task, TaskState, UpdateState};
use crate::error::Error;
use crate::model::args::{ComposeArgs, StatusArgs};
use crate::model::{EngineKind, Project};
use crate::observe::{self, DesiredVersion, TargetReader, TargetSnapshot};
use crate::observed::Instance;
use crate::preflight::{self, proxies::StoppedProxy};
use crate::proxy::{self, InFlight, Proxy};
use crate::release::journal::Journal;
use crate::release::{ReleaseHistory, ReleaseRecord};
use crate::report::status::{InstanceStatus, PairStatus, ServiceStatus, StatusReport, TaskCount};
use crate::report::{Report, Warning};
use crate::swarm::observed::StackService;
use crate::swarm::watch;
use crate::targets::{self, Target};
use crate::wait::{self, StopSignal};

/// Reports the release, the instances and the rotation of each deployed service, once or at an interval.
pub fn status(compose: &ComposeArgs, args: &StatusArgs, report: Report, stop: &StopSignal) -> Result<()> {
    let Some(every) = args.watch else {
        report_status(&read_status(compose, args, report)?, report);
        return Ok(());
    };
    let mut first = true;
    let waited = wait::until(every, Duration::MAX, stop, || {
        match read_status(compose, args, report) {
            Err(error) if first => return Err(error),
            // The next query may succeed.
            Err(error) => report.warn(&Warning::Other(format!("{error:#}"))),
            Ok(status) => {
                report.next_screen();
                report_status(&status, report);
            }
        }
        first = false;
        Ok(None::<()>)
    });
    waited.map(drop)
}

fn report_status(status: &StatusReport, report: Report) {
    if report.is_json() {
        report.print_document("status", status)
    } else {
        report.table(status.columns(), &status.rows(SystemTime::now()));
        status.notes().iter().for_each(|note| report.print_line(note));
    }
}

fn read_status(compose: &ComposeArgs, args: &StatusArgs, report: Report) -> Result<StatusReport> {
    let ProjectHandle { docker, engine, journal, file, .. } =
        ProjectHandle::open(compose, &args.state, report)?;
    let (journal, file) = (journal.for_reading(report), file.expect("an open project has a file"));
    let mut status = match engine {
        EngineKind::Swarm => stack_status(&docker, &file.project.name, &args.services, &journal)?,
        EngineKind::Compose => compose_status(&docker, &file.project, &args.services, &journal, report)?,
    };
    status.in_progress = locking::in_progress_note(&docker, engine, &journal)?;
    Ok(status)
}

fn compose_status(
    docker: &Docker,
    project: &Project,
    named: &[String],
    journal: &Journal,
    report: Report,
) -> Result<StatusReport> {
    let containers = docker.containers()?;
    let all = observe::detect(docker, project, &containers)?;
    let desired = DesiredVersion::default();
    let mut status = StatusReport::new(&project.name, "compose");
    for target in &select_targets(project, named, &all, journal)? {
        let proxies = observe::proxies_of(docker, project, target, &containers, &all)?;
        if let Some(StoppedProxy { problem: what, remedy }) =
            preflight::proxies::stopped(project, target, &all)
        {
            report.warn(&Warning::Other(format!("{what}; {remedy}")));
        }
        lost_names(project, target, &containers).into_iter().for_each(|warning| report.warn(&warning));
        let reader = TargetReader { docker, project, desired: &desired, target, proxies };
        let read = reader.observe_containers(containers.clone());
        let is_unknown = read.is_err() && !reader.proxies.is_empty();
        let snapshot = match read {
            Err(error) if is_unknown => {
                report.warn(&unknown_rotation(target, Error::from_error(error)));
                TargetReader { proxies: Vec::new(), ..reader }.observe_containers(containers.clone())?
            }
            read => read?,
        };
        let mut services = service_statuses(target, &snapshot, journal);
        let instances = services.iter_mut().flat_map(|service| &mut service.instances);
        instances.for_each(|instance| instance.is_rotation_unknown = is_unknown);
        status.services.extend(services);
        status.pairs.extend(pair_status(target, &snapshot));
    }
    Ok(status)
}

/// Warnings of containers that a killed run left without the name in `container_name`, which no other container has.
fn lost_names(project: &Project, target: &Target, containers: &[Container]) -> Vec<Warning> {
    let of_service = |service| {
        let name = project.services.get(service)?.container_name.as_deref()?;
        let mut members = containers.iter().filter(|c| targets::is_member(project, c, &[service]));
        let lost = members.find(|c| c.has_lost(Some(name)))?;
        let is_taken = containers.iter().any(|container| container.name() == name);
        (!is_taken).then(|| {
            let now = lost.name();
            Warning::Other(format!(
                "{now} has lost its name `{name}`; `compose-zd deploy {service}` gives it back"
            ))
        })
    };
    target.services().into_iter().filter_map(of_service).collect()
}

/// Warning that a proxy does not tell its rotation. The containers are shown all the same.
fn unknown_rotation(target: &Target, error: Error) -> Warning {
    let name = target.name();
    Warning::Other(format!(
        "the rotation of `{name}` is unknown: {}; `compose-zd check {name}` tells what the proxy needs",
        error.message
    ))
}

/// Named services, else those of the newest release, else those with a route.
fn select_targets(
    project: &Project,
    named: &[String],
    proxies: &[Arc<dyn Proxy>],
    journal: &Journal,
) -> Result<Vec<Target>, Error> {
    if !named.is_empty() {
        return targets::from_names(project, named);
    }
    let newest = journal.history.newest_first().find(|r| r.is_good());
    let recorded = newest.map(|r| r.services.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let existing: Vec<String> = recorded.into_iter().filter(|s| project.services.contains_key(s)).collect();
    if !existing.is_empty() {
        return targets::from_names(project, &existing);
    }
    if targets::stopped_proxy(project, proxies).is_some() {
        let others = project.services.values().filter(|s| !proxy::is_proxy_image(&s.image));
        return targets::from_names(project, &others.map(|s| s.name.clone()).collect::<Vec<_>>());
    }
    let all = || project.services.keys().cloned().collect::<Vec<_>>();
    targets::select(project, &[], &[], proxies).or_else(|_| targets::from_names(project, &all()))
}

/// Status of each service of a target. A pair that never ran has one row.
fn service_statuses(target: &Target, snapshot: &TargetSnapshot, journal: &Journal) -> Vec<ServiceStatus> {
    let status_of = |service: &str| {
        let own = snapshot.observed.instances.iter().filter(|i| i.service == service);
        service_status(service, own.map(|i| instance_status(i, snapshot)).collect(), journal)
    };
    if snapshot.observed.instances.is_empty() {
        return vec![service_status(target.name(), Vec::new(), journal)];
    }
    let all = target.services().into_iter().map(status_of);
    all.filter(|s| !s.instances.is_empty()).collect()
}

fn service_status(service: &str, instances: Vec<InstanceStatus>, journal: &Journal) -> ServiceStatus {
    let history = &journal.history;
    let record = release_of(history, service);
    let is_of = |number| history.get(number).is_some_and(|r| r.deployed.iter().any(|s| s == service));
    let unreadable = history.unreadable_since(record.map_or(0, |r| r.number)).is_some();
    ServiceStatus {
        service: service.into(),
        release: record.map(|r| r.number),
        release_unknown: unreadable || journal.unrestored_release().is_some_and(is_of),
        witness: record.and_then(|r| r.witness.as_ref()).map(|w| w.count),
        cut_off: record.map_or(0, |r| r.cut),
        tasks: None,
        instances,
    }
}

fn pair_status(target: &Target, snapshot: &TargetSnapshot) -> Option<PairStatus> {
    let Target::Pair(pair) = target else { return None };
    let serves = |side: &&String| snapshot.observed.of(side).any(Instance::serves);
    Some(PairStatus {
        pair: pair.name.clone(),
        sides: pair.sides.to_vec(),
        active: pair.sides.iter().filter(serves).cloned().collect(),
    })
}

/// Release that deployed a service.
fn release_of<'h>(history: &'h ReleaseHistory, service: &str) -> Option<&'h ReleaseRecord> {
    let is_of = |r: &&ReleaseRecord| r.is_good() && r.deployed.iter().any(|s| s == service);
    history.newest_first().find(is_of)
}

fn instance_status(instance: &Instance, snapshot: &TargetSnapshot) -> InstanceStatus {
    let container = &snapshot.containers[&instance.key];
    let health = container.state.health.as_ref().map(|h| h.status.clone());
    // An instance without requests is missing in the proxy's report.
    let in_flight = snapshot.in_flight.get(&container.id);
    let (in_flight, in_flight_at_most) = in_flight.map(InFlight::at_most).unwrap_or_default();
    let proxied = snapshot.observed.proxied;
    let is_down = snapshot.failing.contains(&container.id);
    InstanceStatus {
        name: container.display_name(),
        image: container.config.image.clone(),
        state: container.state.status.clone(),
        role: match (container.is_relay(), container.is_bridge()) {
            (true, _) => Some("relay"),
            (false, true) => Some("stand-in"),
            (false, false) => None,
        },
        health: health.filter(|h| !h.is_empty() && h != "none"),
        is_rotation_unknown: false,
        // A paused instance answers no request, although the proxy still lists it.
        in_rotation: proxied.then_some(instance.serves() && !is_down),
        failing: proxied && instance.serves() && (is_down || container.is_failing()),
        in_flight: proxied.then_some(in_flight),
        in_flight_is_upper_bound: in_flight_at_most,
        started: Some(container.state.started_at.clone()).filter(|_| container.is_running()),
        node: None,
    }
}

/// Status of a stack, as Swarm reports it.
fn stack_status(docker: &Docker, name: &str, named: &[String], journal: &Journal) -> Result<StatusReport> {
    let stack = watch::observe(docker, name)?;
    if let Some(missing) = named.iter().find(|n| !stack.services.contains_key(*n)) {
        let existing: Vec<String> = stack.services.keys().map(|s| format!("`{s}`")).collect();
        return Err(Error::usage(format!("stack `{name}` has no service `{missing}`"))
            .hint(format!("the stack has {}", existing.join(", ")))
            .into());
    }
    let shown = stack.services.values().filter(|s| named.is_empty() || named.contains(&s.name));
    let mut status = StatusReport::new(name, "swarm");
    status.services = shown.map(|service| stack_service(service, journal)).collect();
    Ok(status)
}

fn stack_service(service: &StackService, journal: &Journal) -> ServiceStatus {
    let update = match service.update.state {
        UpdateState::None => "-".to_string(),
        state => state.to_string().replace('_', " "),
    };
    // Swarm knows a local image only by its id; the record of the release has its name.
    let recorded = journal.history.newest_first().filter_map(|r| r.services.get(&service.name));
    let recorded = recorded.filter(|p| p.image_id == service.spec.image()).map(|p| p.image.clone()).next();
    let image = recorded.unwrap_or_else(|| service.spec.image().split('@').next().unwrap_or_default().into());
    let desired = service.desired_tasks();
    let running = service.running_tasks().min(desired);
    let running = if service.spec.is_job() { service.current_tasks() } else { running };
    let tasks = service.tasks.iter().filter(|t| t.is_desired() && t.status.state != TaskState::Complete);
    let instances = tasks.map(|task| task_status(service, task)).collect();
    let count = TaskCount { running, desired, image, update };
    ServiceStatus { tasks: Some(count), ..service_status(&service.name, instances, journal) }
}

fn task_status(service: &StackService, task: &Task) -> InstanceStatus {
    let version = if task.runs_spec(&service.spec) { "" } else { " (before)" };
    let error = &task.status.error;
    let cause = if error.is_empty() { String::new() } else { format!(": {error}") };
    InstanceStatus {
        name: task.name(),
        state: format!("{}{version}{cause}", task.status.state),
        node: Some(task.node.clone()),
        ..InstanceStatus::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{Generation, InstanceState, Observed};

    /// Rotation and failure status of a routed instance in this state; `is_down` is the proxy's own check.
    fn rotation(status: &str, health: &str, is_down: bool) -> (Option<bool>, bool) {
        let json = format!(
            r#"{{"Id": "1", "State": {{"Status": "{status}", "Health": {{"Status": "{health}"}}}}}}"#
        );
        let container: Container = serde_json::from_str(&json).unwrap();
        let one = Instance {
            key: "app-1".into(),
            service: "app".into(),
            generation: Generation::New,
            state: InstanceState::read(status),
            routed: true,
            ready: true,
            age: None,
            is_bridge: false,
            is_set_aside: false,
            has_failed: false,
        };
        let snapshot = TargetSnapshot {
            observed: Observed { instances: vec![one.clone()], proxied: true },
            containers: [("app-1".to_string(), container)].into(),
            in_flight: Default::default(),
            failing: is_down.then(|| "1".to_string()).into_iter().collect(),
        };
        let status = super::instance_status(&one, &snapshot);
        (status.in_rotation, status.failing)
    }

    #[test]
    fn an_instance_that_is_stopped_or_fails_its_proxys_check_is_not_in_rotation() {
        assert_eq!(rotation("running", "healthy", false), (Some(true), false));
        for status in ["exited", "paused", "restarting", "dead", "created"] {
            assert_eq!(rotation(status, "healthy", false), (Some(false), false), "{status}");
        }
        assert_eq!(rotation("running", "healthy", true), (Some(false), true));
        assert_eq!(
            rotation("running", "unhealthy", false),
            (Some(true), true),
            "it gets requests all the same"
        );
    }
}
