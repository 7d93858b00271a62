//! Selection of the services to audit: the named ones, else those that a deploy may include.

use std::collections::BTreeSet;

use anyhow::Result;

use super::ProjectFacts;
use crate::jobs::Jobs;
use crate::model::Service;
use crate::proxy;
use crate::targets::{self, Target, backend};

pub struct Selection {
    pub audited: Vec<Target>,
    /// All other services, with the reason.
    pub skipped: Vec<(String, &'static str)>,
}

const PROXY: &str = "a proxy: a deploy leaves it alone";
const JOB: &str = "a job of a deploy (`x-zd.before`, `x-zd.after`)";
const HOLDS_VOLUME: &str = "holds a volume and is behind no proxy: a deploy leaves it alone unless named";
const DEPENDENCY: &str =
    "other services depend on it, and it is behind no proxy: a deploy leaves it alone unless named";

/// Selects the named services; else those that a proxy routes to or may route to, and workers. A deploy leaves proxies,
/// jobs and data stores alone.
pub fn select(facts: &ProjectFacts, named: &[String]) -> Result<Selection> {
    let project = facts.project;
    if !named.is_empty() {
        return Ok(Selection { audited: targets::from_names(project, named)?, skipped: Vec::new() });
    }
    let all: Vec<String> = project.services.keys().cloned().collect();
    let targets = targets::from_names(project, &all)?;
    let jobs = Jobs::new(project, &targets);
    let is_routed = |s: &Service| is_routed(facts, s);
    let routed = project.services.values().filter(|s| is_routed(s) && !is_proxy(facts, &s.name));
    let needed: BTreeSet<&str> = routed.flat_map(|s| s.needs(project).into_keys()).collect();
    let never = |name: &str| {
        let job = || jobs.all().contains(&name).then_some(JOB);
        is_proxy(facts, name).then_some(PROXY).or_else(job)
    };
    let unless_named = |name: &str| {
        let service = &project.services[name];
        let dependency = || needed.contains(name).then_some(DEPENDENCY);
        let reason = service.holds_volume().then_some(HOLDS_VOLUME).or_else(dependency);
        reason.filter(|_| !is_routed(service))
    };
    let of_target = |target: &Target, reason: &dyn Fn(&str) -> Option<&'static str>| {
        target.services().into_iter().find_map(reason)
    };
    let any_reason = |name: &str| never(name).or_else(|| unless_named(name));
    // Dependencies are audited if the project has no other services.
    let only_dependencies = targets.iter().all(|t| of_target(t, &any_reason).is_some());
    let (mut audited, mut skipped) = (Vec::new(), Vec::new());
    for target in targets {
        let reason =
            if only_dependencies { of_target(&target, &never) } else { of_target(&target, &any_reason) };
        match reason {
            Some(reason) => skipped.push((target.name().to_string(), reason)),
            None => audited.push(target),
        }
    }
    Ok(Selection { audited, skipped })
}

fn is_proxy(facts: &ProjectFacts, service: &str) -> bool {
    let own = Some((facts.project.name.as_str(), service));
    proxy::is_proxy_image(&facts.project.services[service].image)
        || facts.configured_proxies.has(service)
        || facts.proxies.iter().any(|p| !p.routes_nowhere() && p.container().and_then(|c| c.compose()) == own)
}

fn is_routed(facts: &ProjectFacts, service: &Service) -> bool {
    let backend = backend(facts.project, service);
    let mut all = facts.proxies.iter().chain(facts.configured_proxies.known());
    proxy::route_setting(&backend).is_some() || all.any(|p| p.routes_to(&backend))
}
