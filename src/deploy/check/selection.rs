//! Selection of the services to audit: the named ones, else those that a deploy may include.

use std::collections::BTreeSet;

use anyhow::Result;

use super::ProjectCheck;
use crate::jobs::Jobs;
use crate::model::Service;
use crate::proxy::{self, Proxy};
use crate::targets::{self, Target, backend};

pub struct Selection {
    pub audited: Vec<Target>,
    /// All other services, with the reason.
    pub skipped: Vec<(String, String)>,
}

/// Selects the named services; else those that a proxy routes to or may route to, and workers. A deploy leaves proxies,
/// jobs and data stores alone.
pub fn select(checker: &ProjectCheck, named: &[String]) -> Result<Selection> {
    let project = checker.project();
    if !named.is_empty() {
        return Ok(Selection { audited: targets::from_names(project, named)?, skipped: Vec::new() });
    }
    let all: Vec<String> = project.services.keys().cloned().collect();
    let targets = targets::from_names(project, &all)?;
    let jobs = Jobs::new(project, &targets);
    let routed = project.services.values().filter(|s| is_routed(checker, s) && !is_proxy(checker, &s.name));
    let needed: BTreeSet<&str> = routed.flat_map(|s| s.needs(project).into_keys()).collect();
    let reason = |service: &Service| match service.name.as_str() {
        name if is_proxy(checker, name) => Some(SkipReason::Proxy),
        name if jobs.all().contains(name) => Some(SkipReason::Job),
        _ if is_routed(checker, service) => None,
        _ if service.holds_volume() => Some(SkipReason::HoldsVolume),
        name if needed.contains(name) => Some(SkipReason::Dependency),
        _ => None,
    };
    let reason = |target: &Target| target.services().into_iter().find_map(|s| reason(&project.services[s]));
    let only_dependencies = targets.iter().all(|t| reason(t).is_some());
    // Dependencies are audited if the project has no other services.
    let left_alone = |t: &Target| {
        reason(t).filter(|r| !only_dependencies || matches!(r, SkipReason::Proxy | SkipReason::Job))
    };
    let skipped = targets.iter().filter_map(|t| Some((t.name().to_string(), left_alone(t)?.text())));
    let skipped = skipped.collect();
    Ok(Selection { audited: targets.iter().filter(|t| left_alone(t).is_none()).cloned().collect(), skipped })
}

/// Reason for leaving a service alone.
enum SkipReason {
    Proxy,
    Job,
    HoldsVolume,
    Dependency,
}

impl SkipReason {
    fn text(&self) -> String {
        let text = match self {
            SkipReason::Proxy => "a proxy: a deploy leaves it alone",
            SkipReason::Job => "a job of a deploy (`x-zd.before`, `x-zd.after`)",
            SkipReason::HoldsVolume => {
                "holds a volume and is behind no proxy: a deploy leaves it alone unless named"
            }
            SkipReason::Dependency => {
                "other services depend on it, and it is behind no proxy: a deploy leaves it alone unless named"
            }
        };
        text.into()
    }
}

fn is_proxy(checker: &ProjectCheck, service: &str) -> bool {
    let runs = |p: &dyn Proxy| p.container().compose() == Some((checker.project().name.as_str(), service));
    proxy::is_proxy_image(&checker.project().services[service].image)
        || checker.configured_proxies.has(service)
        || checker.proxies.iter().any(|p| runs(p.as_ref()))
}

fn is_routed(checker: &ProjectCheck, service: &Service) -> bool {
    let backend = backend(checker.project(), service);
    let all = checker.proxies.iter().chain(checker.configured_proxies.known());
    proxy::route_setting(&backend).is_some() || all.into_iter().any(|p| p.routes_to(&backend))
}
