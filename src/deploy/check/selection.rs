//! Which services are judged where none is named: those that a deploy may be about.

use std::collections::BTreeSet;

use anyhow::Result;

use super::ProjectCheck;
use crate::deploy::jobs::Jobs;
use crate::deploy::targets::{self, Target, backend};
use crate::model::Service;
use crate::proxy::{self, Proxy};

pub struct Selection {
    pub audited: Vec<Target>,
    /// The others, and why they are none.
    pub skipped: Vec<(String, String)>,
}

/// What was named, whatever it is; else what a proxy routes to or may route to, and workers. A proxy, what is run once, and
/// what others keep their data in are left alone by a deploy.
pub fn select(checker: &ProjectCheck, named: &[String]) -> Result<Selection> {
    let project = checker.project();
    if !named.is_empty() {
        return Ok(Selection { audited: asked::as_targets(project, named)?, skipped: Vec::new() });
    }
    let all: Vec<String> = project.services.keys().cloned().collect();
    let everything = targets::from_names(project, &all)?;
    let jobs = Jobs::new(project, &everything);
    let routed = project.services.values().filter(|s| is_routed(checker, s) && !is_proxy(checker, &s.name));
    let needed: BTreeSet<&str> = routed.flat_map(|s| s.needs(project).into_keys()).collect();
    let why = |service: &Service| match service.name.as_str() {
        name if is_proxy(checker, name) => Some(SkipReason::Proxy),
        name if jobs.all().contains(name) => Some(SkipReason::Job),
        _ if is_routed(checker, service) => None,
        _ if service.holds_volume => Some(SkipReason::HoldsVolume),
        name if needed.contains(name) => Some(SkipReason::Dependency),
        _ => None,
    };
    let why = |target: &Target| target.services().into_iter().find_map(|s| why(&project.services[s]));
    let only_needed = everything.iter().all(|t| why(t).is_some());
    // Where nothing else is left, it is these that somebody wants to deploy.
    let left_alone =
        |t: &Target| why(t).filter(|w| !only_needed || matches!(w, SkipReason::Proxy | SkipReason::Job));
    let left = everything.iter().filter_map(|t| Some((t.name().to_string(), left_alone(t)?.text())));
    let left = left.collect();
    Ok(Selection {
        audited: everything.iter().filter(|t| left_alone(t).is_none()).cloned().collect(),
        skipped: left,
    })
}

/// Why a deploy leaves a service alone.
enum SkipReason {
    Proxy,
    Job,
    HoldsVolume,
    Dependency,
}

impl SkipReason {
    fn text(&self) -> String {
        let words = match self {
            SkipReason::Proxy => "a proxy: a deploy leaves it alone",
            SkipReason::Job => "run to its end by a deploy (`x-zd.before`, `x-zd.after`)",
            SkipReason::HoldsVolume => {
                "holds a volume, and no proxy routes to it: a deploy leaves it alone unless it is named"
            }
            SkipReason::Dependency => {
                "others need it, and no proxy routes to it: a deploy leaves it alone unless it is named"
            }
        };
        words.into()
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
