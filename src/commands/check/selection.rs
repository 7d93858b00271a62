//! Selection of the services to audit: the named ones, else those that get requests from outside, and workers.

use anyhow::Result;

use super::ProjectFacts;
use super::role::Role;
use crate::targets::{self, Target};

pub struct Selection {
    pub audited: Vec<Target>,
    /// All other services, with the reason.
    pub skipped: Vec<(String, String)>,
}

/// Selects the named services; else those of a role that is audited, and if there is none, those that only other
/// services reach. Both lists are sorted by role.
pub fn select(facts: &ProjectFacts, named: &[String]) -> Result<Selection> {
    let project = facts.project;
    if !named.is_empty() {
        return Ok(Selection { audited: targets::from_names(project, named)?, skipped: Vec::new() });
    }
    let all: Vec<String> = project.services.keys().cloned().collect();
    let role = |target: &Target| {
        let roles = target.services().into_iter().map(|name| facts.role(&project.services[name]));
        roles.min_by_key(|role| role.rank()).expect("a target has a service")
    };
    let mut targets: Vec<(Role, Target)> =
        targets::from_names(project, &all)?.into_iter().map(|target| (role(&target), target)).collect();
    targets.sort_by_key(|(role, _)| role.rank());
    let has_others = targets.iter().any(|(role, _)| role.is_audited());
    let (audited, skipped): (Vec<_>, Vec<_>) = targets
        .into_iter()
        .partition(|(role, _)| role.is_audited() || (!has_others && *role == Role::Inside));
    Ok(Selection {
        audited: audited.into_iter().map(|(_, target)| target).collect(),
        skipped: skipped
            .into_iter()
            .map(|(role, target)| (target.name().to_string(), role.reason()))
            .collect(),
    })
}
