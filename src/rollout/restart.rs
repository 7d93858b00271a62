//! Restart policies of stopped instances. The engine would restart a stopped container with `restart: always` when
//! the engine itself starts, and the proxy would send requests to it. So the stop clears the policy, and a later
//! start restores it.
//!
//! An instance that a bridge replaces is the exception, because the bridge does not start with the engine. The instance
//! has `always` from its stop until its successor has started.

use std::collections::BTreeMap;

use super::Rollout;
use crate::docker::inspect::Container;
use crate::observed::InstanceKey;
use crate::report::Warning;

/// Restart policies before the stop, by container id.
pub type RestartPolicies = BTreeMap<String, String>;

/// Policy of a retired instance.
pub const NEVER: &str = "no";

/// Policy of an instance that a bridge replaces.
const WITH_ENGINE: &str = "always";

/// Policies of a project's containers; `before` are those that a killed run recorded before it retired any.
pub fn policies(
    project: &str,
    containers: &[Container],
    before: Option<&RestartPolicies>,
) -> RestartPolicies {
    let is_of_project = |c: &&Container| c.compose().is_some_and(|(name, _)| name == project);
    let now = containers.iter().filter(is_of_project).filter(|c| c.restart_policy() != NEVER);
    let now = now.map(|c| (c.id.clone(), c.restart_policy()));
    now.chain(before.into_iter().flatten().map(|(id, policy)| (id.clone(), policy.clone()))).collect()
}

/// Policy to restore for a stopped instance: its former one, else the file's.
pub fn policy_to_restore(
    container: &Container,
    policies: &RestartPolicies,
    file: Option<&str>,
) -> Option<String> {
    let file = file.map(|policy| if policy == "any" { "always" } else { policy });
    let had = policies.get(&container.id).map(String::as_str).or(file);
    let policy = container.restart_policy();
    let is_set_by_stop =
        container.state.status == "exited" && [NEVER, WITH_ENGINE].contains(&policy.as_str());
    let is_lost = |had: &&str| is_set_by_stop && *had != policy && !["", "none", NEVER].contains(had);
    had.filter(is_lost).map(String::from)
}

impl Rollout<'_> {
    /// Lets the engine start these again when it restarts, because the bridge in their place does not. False if no
    /// bridge is in their place.
    pub(super) fn return_with_engine(&mut self, keys: &[InstanceKey]) -> bool {
        let is_replaced = !self.is_best_effort && self.has_bridge_for(keys);
        let is_other =
            |k: &&InstanceKey| ![NEVER, WITH_ENGINE].contains(&self.containers[*k].restart_policy().as_str());
        let changed: Vec<InstanceKey> =
            keys.iter().filter(|_| is_replaced).filter(is_other).cloned().collect();
        self.set_policy(WITH_ENGINE, &changed);
        let is_changed = |(k, _): &(&InstanceKey, &mut Container)| changed.contains(k);
        self.containers.iter_mut().filter(is_changed).for_each(|(_, c)| c.mark_restart(WITH_ENGINE));
        is_replaced
    }

    /// Keeps the instances that these replace down when the engine restarts.
    pub(super) fn retire_predecessors(&self, started: &[InstanceKey]) {
        if self.has_bridge_for(started) {
            self.keep_all_stopped();
        }
    }

    /// A bridge serves while one of these starts or stops.
    fn has_bridge_for(&self, keys: &[InstanceKey]) -> bool {
        let is_bridge = |key: &InstanceKey| self.containers[key].is_bridge();
        self.containers.keys().any(is_bridge) && !keys.iter().any(is_bridge)
    }

    /// Keeps stopped instances down when the engine restarts.
    pub(super) fn keep_stopped(&self, keys: &[InstanceKey]) {
        let restarting: Vec<InstanceKey> =
            keys.iter().filter(|k| self.containers[*k].restarts_with_engine()).cloned().collect();
        self.set_policy(NEVER, &restarting);
    }

    /// Keeps all stopped instances down when the engine restarts.
    pub fn keep_all_stopped(&self) {
        let is_down = |c: &Container| c.state.status == "exited";
        let down: Vec<InstanceKey> =
            self.containers.iter().filter(|(_, c)| is_down(c)).map(|(k, _)| k.clone()).collect();
        self.keep_stopped(&down);
    }

    /// Restores the policies of instances that start again.
    pub(super) fn restore_policies(&self, keys: &[InstanceKey]) {
        for key in keys {
            let policy =
                policy_to_restore(&self.containers[key], self.context.policies, self.service(key).restart());
            policy.iter().for_each(|policy| self.set_policy(policy, std::slice::from_ref(key)));
        }
    }

    /// Sets a restart policy. A failure is only a warning, because it matters only when the engine restarts.
    fn set_policy(&self, policy: &str, keys: &[InstanceKey]) {
        if keys.is_empty() {
            return;
        }
        if let Err(error) = self.context.docker.set_restart(policy, &self.ids(keys)) {
            let (name, said) = (self.names(keys).join(", "), format!("{error:#}"));
            self.context.report.warn(&Warning::HookFailed {
                name,
                hook: "the change of the restart policy",
                output: said,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(id: &str, status: &str, policy: &str) -> Container {
        let text = format!(
            r#"{{"Id": "{id}", "State": {{"Status": "{status}"}}, "HostConfig": {{"RestartPolicy": {policy}}},
                "Config": {{"Labels": {{"com.docker.compose.project": "p", "com.docker.compose.service": "app",
                    "com.docker.compose.oneoff": "False"}}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn always(id: &str, status: &str) -> Container {
        container(id, status, r#"{"Name": "always", "MaximumRetryCount": 0}"#)
    }

    #[test]
    fn always_and_on_failure_start_again_with_the_engine() {
        let failing = container("a", "exited", r#"{"Name": "on-failure", "MaximumRetryCount": 3}"#);
        assert_eq!(failing.restart_policy(), "on-failure:3");
        assert!(failing.restarts_with_engine() && always("a", "exited").restarts_with_engine());
        let stays = [r#"{"Name": "unless-stopped"}"#, r#"{"Name": "no"}"#, r#"{"Name": ""}"#];
        assert!(stays.iter().all(|policy| !container("a", "exited", policy).restarts_with_engine()));
    }

    #[test]
    fn a_policy_is_restored_also_after_a_kill() {
        let retired = container("a", "exited", r#"{"Name": "no"}"#);
        let policies_before_kill = policies("p", &[always("a", "running")], None);
        let policies_after_kill = policies("p", std::slice::from_ref(&retired), Some(&policies_before_kill));
        assert_eq!(policy_to_restore(&retired, &policies_after_kill, None).as_deref(), Some("always"));
        assert_eq!(
            policy_to_restore(&retired, &RestartPolicies::new(), Some("any")).as_deref(),
            Some("always"),
            "the file's"
        );
        assert_eq!(policy_to_restore(&retired, &RestartPolicies::new(), Some("no")), None);
        assert_eq!(
            policy_to_restore(&always("a", "exited"), &policies_after_kill, None),
            None,
            "it still has its policy"
        );
        let bridged =
            policies("p", &[always("a", "exited")], Some(&[("a".into(), "unless-stopped".into())].into()));
        assert_eq!(
            policy_to_restore(&always("a", "exited"), &bridged, None).as_deref(),
            Some("unless-stopped"),
            "a bridge was in its place"
        );
        assert_eq!(policies("other", &[always("a", "running")], None), RestartPolicies::new());
    }
}
