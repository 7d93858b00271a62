//! What runs now, and what was deployed before; nothing is changed.

use anyhow::Result;

use super::asked::{self, Target};
use super::definition::Definition;
use super::ledger::Ledger;
use super::scene::{self, Viewer, Wanted};
use super::{rollback, stack, turn};
use crate::cli::{ComposeArgs, HistoryArgs, StatusArgs};
use crate::docker::Docker;
use crate::docker::inspect::Container;
use crate::fault::Fault;
use crate::model::Flags;
use crate::observed::Instance;
use crate::release::{History, Kind, Outcome, Record};
use crate::report::Report;
use crate::swarm::state::{Service, Stack, Task};
use crate::swarm::watch;

/// Tells of every service that is deployed: which release, which instances, and whether they get requests.
///
/// # Errors
/// No engine; a proxy that does not answer; a service that is not there.
pub fn status(compose: &ComposeArgs, args: &StatusArgs, report: Report) -> Result<()> {
    let definition = Definition::of_file(compose, Flags::default(), report)?;
    let (docker, project) = (&definition.docker, &definition.project);
    let engine = asked::engine(args.engine.as_deref(), project.engine);
    let cluster = stack::cluster(docker, engine, &project.name)?;
    let state_dir = asked::state_dir(compose, args.state_dir.as_deref(), cluster.as_deref());
    let ledger = Ledger::open(&state_dir, &project.name)?;
    if cluster.is_some() {
        stack_status(docker, &project.name, &args.services, &ledger, report)?;
        return tell_under_way(docker, true, &ledger, report);
    }
    let containers = docker.containers()?;
    let all = scene::detect(docker, &containers)?;
    let targets = match args.services.is_empty() {
        false => asked::as_targets(project, &args.services)?,
        true => {
            let recorded = ledger.history.current().map(|r| r.services.keys().cloned().collect());
            let known: Vec<String> = recorded.unwrap_or_default();
            let known: Vec<String> = known.into_iter().filter(|s| project.services.contains_key(s)).collect();
            match known.is_empty() {
                true => asked::targets(project, &[], &[], &all)?,
                false => asked::as_targets(project, &known)?,
            }
        }
    };
    let wanted = Wanted::default();
    let mut rows = Vec::new();
    for target in &targets {
        let proxies = scene::fronting(docker, project, target, &containers, &all)?;
        let viewer = Viewer { docker, project, wanted: &wanted, target, proxies };
        let scene = viewer.look_at(containers.clone())?;
        let proxied = scene.observed.proxied;
        let instances = scene.observed.instances.iter();
        rows.extend(instances.map(|i| instance_row(i, &scene.containers[&i.key], proxied, &ledger.history)));
        tell_target(target, &ledger.history, &mut rows, scene.observed.instances.is_empty());
    }
    report.table(&["SERVICE", "RELEASE", "INSTANCE", "IMAGE", "STATE", "ROTATION"], &rows);
    tell_under_way(docker, false, &ledger, report)
}

fn tell_under_way(docker: &Docker, is_stack: bool, ledger: &Ledger, report: Report) -> Result<()> {
    turn::under_way(docker, is_stack, ledger)?.iter().for_each(|text| report.say(text));
    Ok(())
}

fn tell_target(target: &Target, history: &History, rows: &mut Vec<Vec<String>>, empty: bool) {
    if empty {
        let service = target.name().to_string();
        rows.push(vec![service.clone(), release_of(history, &service), "none".into()]);
    }
}

/// The release that put a service in place.
fn release_of(history: &History, service: &str) -> String {
    let is_of = |r: &&Record| r.is_good() && r.deployed.iter().any(|s| s == service);
    history.newest_first().find(is_of).map_or("-".into(), |r| r.number.to_string())
}

fn instance_row(instance: &Instance, container: &Container, proxied: bool, history: &History) -> Vec<String> {
    let health = container.state.health.as_ref().map_or("", |h| h.status.as_str());
    let state = match health {
        "" | "none" => container.state.status.clone(),
        health => format!("{} ({health})", container.state.status),
    };
    let rotation = match (proxied, instance.routed) {
        (false, _) => "no proxy",
        (true, true) => "in",
        (true, false) => "out",
    };
    let service = instance.service.clone();
    let release = release_of(history, &service);
    vec![service, release, instance.key.clone(), container.config.image.clone(), state, rotation.into()]
}

/// The same of a stack, as Swarm tells it.
fn stack_status(
    docker: &Docker,
    name: &str,
    named: &[String],
    ledger: &Ledger,
    report: Report,
) -> Result<()> {
    let stack = watch::look(docker, name)?;
    if let Some(missing) = named.iter().find(|n| !stack.services.contains_key(*n)) {
        let there: Vec<String> = stack.services.keys().map(|s| format!("`{s}`")).collect();
        return Err(Fault::usage(format!("stack `{name}` has no service `{missing}`"))
            .hint(format!("there are {}", there.join(", ")))
            .into());
    }
    let shown = stack.services.values().filter(|s| named.is_empty() || named.contains(&s.name));
    let mut rows = Vec::new();
    for service in shown {
        rows.push(service_row(&stack, service, ledger));
        let tasks = stack.tasks_of(&service.name).filter(|t| t.is_wanted() && t.state != "complete");
        rows.extend(tasks.map(|task| task_row(service, task)));
    }
    report.table(&["SERVICE", "RELEASE", "TASKS", "NODE", "IMAGE", "STATE"], &rows);
    Ok(())
}

fn service_row(stack: &Stack, service: &Service, ledger: &Ledger) -> Vec<String> {
    let running = stack.tasks_of(&service.name).filter(|t| t.runs()).count();
    let state = match service.update_state() {
        "" => "-".to_string(),
        state => state.replace('_', " "),
    };
    let image = service.spec.image().split('@').next().unwrap_or_default().to_string();
    let tasks = format!("{running} of {}", stack.wanted(service));
    vec![service.name.clone(), release_of(&ledger.history, &service.name), tasks, String::new(), image, state]
}

fn task_row(service: &Service, task: &Task) -> Vec<String> {
    let version = if task.is_of(&service.spec) { "" } else { " (before)" };
    let said = if task.error.is_empty() { String::new() } else { format!(": {}", task.error) };
    let state = format!("{}{version}{said}", task.state);
    vec![String::new(), String::new(), task.name(), task.node.clone(), String::new(), state]
}

/// Lists the releases, newest first, with those that can be gone back to.
///
/// # Errors
/// A record that cannot be read.
pub fn history(compose: &ComposeArgs, args: &HistoryArgs, report: Report) -> Result<()> {
    let ledger = rollback::records(compose, args.state_dir.as_deref(), args.engine.as_deref(), report)?;
    let rows: Vec<Vec<String>> = ledger.history.newest_first().map(|r| record_row(r, &ledger)).collect();
    if rows.is_empty() {
        report.say(&format!(
            "no release of `{}` is recorded in {}",
            ledger.project,
            ledger.folder().display()
        ));
        return Ok(());
    }
    report.table(&["RELEASE", "STARTED", "TOOK", "RESULT", "SERVICES", "REVISION", "BY"], &rows);
    if let Some(previous) = ledger.history.previous(&[]) {
        report.say(&format!("`compose-zd rollback` goes back to release {}", previous.number));
    }
    Ok(())
}

fn record_row(record: &Record, ledger: &Ledger) -> Vec<String> {
    let is_current = ledger.history.current().is_some_and(|c| c.number == record.number);
    let kept = record.is_good() && ledger.config_path(record.number).exists();
    let number = match (is_current, kept) {
        (true, _) => format!("{} (serves)", record.number),
        (false, true) => record.number.to_string(),
        (false, false) => format!("{} (history only)", record.number),
    };
    let result = match (record.outcome, record.kind) {
        (Outcome::Failed, _) => "failed".to_string(),
        (Outcome::Paused, _) => "paused".into(),
        (Outcome::Interrupted, _) => "interrupted".into(),
        (Outcome::Deployed, Kind::Rollback { to }) => format!("back to {to}"),
        (Outcome::Deployed, Kind::Adopted) => "found running".into(),
        (Outcome::Deployed, Kind::Deploy) => "deployed".into(),
    };
    let revision = record.git.as_ref().map_or("-".into(), |git| {
        let short: String = git.revision.chars().take(10).collect();
        if git.dirty { format!("{short} (dirty)") } else { short }
    });
    let services = record.deployed.iter().map(|name| match record.services.get(name) {
        Some(placed) => format!("{name}: {}", placed.image),
        None => name.clone(),
    });
    let took = format!("{:.1}s", record.seconds);
    let services = services.collect::<Vec<_>>().join(", ");
    vec![number, record.started.clone(), took, result, services, revision, record.by.clone()]
}
