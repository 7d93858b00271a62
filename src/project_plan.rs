//! Plan for a whole project: how each service gets from what runs to what the file says, and in which order. Pure.

pub mod diff;

use std::collections::BTreeSet;

use crate::model::Project;
use crate::release::ProjectChanges;
use crate::report::changes::{KeyChange, ServiceChange, Way};

/// Role of a target, which decides how it may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to completion before the services that depend on it.
    Job,
    /// A job of a deploy (`x-zd.before`, `x-zd.after`), which only a deploy runs.
    DeployJob,
    /// Sends requests to other services.
    Proxy,
    /// A proxy sends requests to it, or a stand-in can serve at its port.
    Routed,
    /// Two instances must not write to its data; the name of the database.
    DataStore(&'static str),
    Other,
}

/// Facts on a target: a service or a pair.
#[derive(Debug, Clone)]
pub struct TargetFacts {
    pub name: String,
    pub services: Vec<String>,
    pub role: Role,
    /// A running proxy can keep a new instance out of rotation until it is ready. None can at a published port.
    pub is_gated: bool,
    /// Number of instances that run.
    pub running: usize,
    /// Number of those that have another version than the file. For a job, one if no container has this version.
    pub outdated: usize,
    /// A killed run left a rollout of it unfinished: a stopped instance may be left.
    pub is_unfinished: bool,
    /// A container exists, running or not.
    pub exists: bool,
    /// Number of instances by the file.
    pub replicas: Option<usize>,
    /// Reason for which no second instance can run beside the first.
    pub obstacle: Option<String>,
    /// Reason for which requests are held, because only one instance may run.
    pub single: Option<String>,
    /// Changes of mounted files, which no configuration hash covers.
    pub files: Vec<String>,
    /// A reload of the proxy puts the changed files into effect.
    pub reloads: bool,
    /// A changed file of a proxy names the target: the proxy may refuse the file before the target runs.
    pub is_in_changed_file: bool,
    /// Images that run, and the one of the file.
    pub image: Option<String>,
    /// Keys that differ; `None` if the running definition is unknown.
    pub diff: Option<Vec<KeyChange>>,
}

impl TargetFacts {
    fn is_changed(&self) -> bool {
        self.outdated > 0 || !self.files.is_empty()
    }
}

/// Way of a target. The rules, in order: 0 instances in the file; a job runs if its version never ran; a target
/// without a running instance starts; a proxy reads its changed files again; a changed target is replaced; then the
/// number of instances counts; the rollout of a killed run is finished.
pub fn way(facts: &TargetFacts) -> Way {
    match (facts.role, facts.running, facts.replicas) {
        (Role::DeployJob, ..) => Way::Unchanged,
        (_, 0, Some(0)) => Way::Unchanged,
        (_, _, Some(0)) => Way::Remove,
        (Role::Job, ..) if facts.is_changed() => Way::Start,
        (Role::Job, ..) => Way::Unchanged,
        (_, 0, _) => Way::Start,
        _ if facts.outdated == 0 && facts.reloads => Way::Reload,
        _ if facts.is_changed() => replacement(facts),
        (_, from, Some(to)) if from != to => Way::Scale { from, to },
        _ if facts.is_unfinished && can_scale(facts) => replacement(facts),
        _ => Way::Unchanged,
    }
}

/// Way of a running target whose version differs.
fn replacement(facts: &TargetFacts) -> Way {
    let recreate = |obstacle: String| Way::Recreate { obstacle };
    match (facts.role, &facts.obstacle) {
        (Role::Proxy, _) => recreate("it is the proxy, so nothing is reachable meanwhile".into()),
        (_, Some(obstacle)) => recreate(obstacle.clone()),
        (Role::Routed, None) => match &facts.single {
            Some(cause) => Way::Hold { cause: cause.clone() },
            None => Way::Roll,
        },
        (Role::DataStore(kind), None) => recreate(format!("two {kind} servers must not share their data")),
        (Role::Job | Role::DeployJob | Role::Other, None) => Way::ReplaceWhenReady,
    }
}

/// Reasons with at most this many keys; `--diff` shows all.
const MOST_KEYS: usize = 4;

/// Change of a target, with its reasons.
pub fn change(facts: &TargetFacts) -> ServiceChange {
    let way = way(facts);
    let is_shown = !matches!(way, Way::Unchanged);
    ServiceChange {
        service: facts.name.clone(),
        reasons: if is_shown { reasons(facts, &way) } else { Vec::new() },
        diff: facts.diff.clone().filter(|_| is_shown).unwrap_or_default(),
        way,
    }
}

fn reasons(facts: &TargetFacts, way: &Way) -> Vec<String> {
    let mut reasons = Vec::new();
    if facts.running == 0 && facts.role != Role::Job {
        reasons.push(if facts.exists { "does not run".to_string() } else { "is new".to_string() });
    }
    if facts.role == Role::Job {
        reasons.push(if facts.exists { "this version has not run" } else { "has not run" }.into());
    }
    if *way == Way::Remove {
        reasons.push("0 instances in the file".into());
    }
    if facts.outdated > 0 && facts.exists {
        reasons.extend(facts.image.iter().map(|image| format!("image {image}")));
        reasons.extend(keys_text(facts));
    }
    reasons.extend(facts.files.iter().cloned());
    if reasons.is_empty() && facts.is_unfinished {
        reasons.push("an earlier run was killed".into());
    }
    reasons
}

/// Names of the keys that differ, without the image.
fn keys_text(facts: &TargetFacts) -> Option<String> {
    let Some(diff) = &facts.diff else {
        return facts.image.is_none().then(|| "configuration".into());
    };
    let keys: Vec<&str> =
        diff.iter().map(|change| change.key.as_str()).filter(|key| *key != "image").collect();
    let more = keys.len().saturating_sub(MOST_KEYS);
    let shown = keys[..keys.len() - more].join(", ");
    match (keys.len(), more) {
        (0, _) if facts.image.is_none() => Some("configuration".into()),
        (0, _) => None,
        (_, 0) => Some(shown),
        _ => Some(format!("{shown} and {more} more keys")),
    }
}

/// Services by the stage in which `up` changes them. Each is named once, except the jobs.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Stages {
    /// Started by Compose before anything is replaced.
    pub start: Vec<String>,
    /// Proxies that read their files again.
    pub reload: Vec<String>,
    /// Recreated by Compose, with downtime.
    pub recreate: Vec<String>,
    /// Targets of one rollout.
    pub roll_out: Vec<String>,
    /// Started by Compose after the rollout, on which they depend.
    pub start_after: Vec<String>,
    /// Jobs that the rollout runs, and whose container is then created for Compose.
    pub jobs: Vec<String>,
    pub remove: Vec<String>,
}

impl Stages {
    /// Stages of these changes; `facts` are in the order of `changes`.
    pub fn new(project: &Project, facts: &[TargetFacts], changes: &[ServiceChange]) -> Stages {
        let mut stages = Stages::default();
        let mut started: Vec<&TargetFacts> = Vec::new();
        for (facts, change) in facts.iter().zip(changes) {
            let services = || facts.services.iter().cloned();
            match change.way {
                Way::Start if can_roll_out(facts) => stages.roll_out.push(facts.name.clone()),
                Way::Start => started.push(facts),
                Way::Roll | Way::Hold { .. } | Way::ReplaceWhenReady => {
                    stages.roll_out.push(facts.name.clone())
                }
                Way::Scale { .. } if can_scale(facts) => stages.roll_out.push(facts.name.clone()),
                Way::Scale { .. } => stages.start.extend(services()),
                Way::Recreate { .. } => stages.recreate.extend(services()),
                Way::Reload => stages.reload.extend(services()),
                Way::Remove => stages.remove.extend(services()),
                Way::Leave { .. } | Way::Unchanged => {}
            }
        }
        let rolled: BTreeSet<String> = services_of(facts, &stages.roll_out);
        let needs = |name: &str| project.services.get(name).map(|s| s.needs(project)).unwrap_or_default();
        let needed_by_rolled = |name: &str| rolled.iter().any(|r| needs(r).contains_key(name));
        let runs = |name: &str| facts.iter().any(|f| f.running > 0 && f.services.iter().any(|s| s == name));
        for facts in started {
            let name = &facts.name;
            // No rollout is possible behind a proxy that is down. A proxy starts by the instances that run.
            let waits_for =
                |needed: &str| rolled.contains(needed) && (facts.role != Role::Proxy || !runs(needed));
            let starts_after = needs(name).keys().any(|needed| waits_for(needed));
            let stage = match (facts.role, needed_by_rolled(name)) {
                (Role::Job, true) => &mut stages.jobs,
                (_, false) if starts_after => &mut stages.start_after,
                _ => &mut stages.start,
            };
            stage.extend(facts.services.iter().cloned());
        }
        stages
    }

    pub fn is_empty(&self) -> bool {
        *self == Stages::default()
    }

    /// Services that Compose changes, without jobs.
    pub fn by_compose(&self, facts: &[TargetFacts]) -> Vec<String> {
        let is_job = |name: &&String| facts.iter().any(|f| f.role == Role::Job && f.services.contains(name));
        let all = self.start.iter().chain(&self.recreate).chain(&self.start_after);
        all.filter(|name| !is_job(name)).cloned().collect()
    }
}

/// Changes besides the rollout, as a release records them.
pub fn project_changes(facts: &[TargetFacts], changes: &[ServiceChange], stages: &Stages) -> ProjectChanges {
    let mut all = ProjectChanges::default();
    for (facts, change) in facts.iter().zip(changes) {
        let is_rolled = stages.roll_out.contains(&facts.name);
        let list = match change.way {
            Way::Start if facts.role != Role::Job => &mut all.started,
            Way::Recreate { .. } => &mut all.recreated,
            Way::Scale { .. } if !is_rolled => &mut all.recreated,
            Way::Remove => &mut all.removed,
            _ => continue,
        };
        list.extend(facts.services.iter().cloned());
    }
    all
}

/// A target that a rollout can start: its new instance stays out of rotation until it is ready.
fn can_roll_out(facts: &TargetFacts) -> bool {
    facts.role == Role::Routed && facts.is_gated && facts.obstacle.is_none() && !facts.is_in_changed_file
}

fn can_scale(facts: &TargetFacts) -> bool {
    matches!(facts.role, Role::Routed | Role::Other) && facts.obstacle.is_none()
}

fn services_of(facts: &[TargetFacts], names: &[String]) -> BTreeSet<String> {
    let named = facts.iter().filter(|facts| names.contains(&facts.name));
    named.flat_map(|facts| facts.services.iter().cloned()).collect()
}

#[cfg(test)]
mod tests;
