//! Restart policies of retired instances. The engine would restart a stopped container with `restart: always` when
//! the engine itself starts, and the proxy would send requests to it. So the stop clears the policy, and a later
//! start restores it.

use std::collections::BTreeMap;

use super::Rollout;
use crate::docker::inspect::Container;
use crate::observed::InstanceKey;
use crate::report::Warning;

/// Restart policies before retirement, by container id.
pub type RestartPolicies = BTreeMap<String, String>;

/// Policy of a retired instance.
pub const NEVER: &str = "no";

/// Policies of a project's containers; `before` are those that a killed run recorded before it retired any.
pub fn policies(
    project: &str,
    containers: &[Container],
    before: Option<&RestartPolicies>,
) -> RestartPolicies {
    let is_of_project = |c: &&Container| c.compose().is_some_and(|(name, _)| name == project);
    let now = containers.iter().filter(is_of_project).filter(|c| c.restarts_with_engine());
    before
        .into_iter()
        .flatten()
        .map(|(id, policy)| (id.clone(), policy.clone()))
        .chain(now.map(|c| (c.id.clone(), c.restart_policy())))
        .collect()
}

/// Policy to restore for a retired instance: its former one, else the file's.
pub(super) fn policy_to_restore(
    container: &Container,
    policies: &RestartPolicies,
    file: Option<&str>,
) -> Option<String> {
    let file = file.map(|policy| if policy == "any" { "always" } else { policy });
    let had = policies.get(&container.id).map(String::as_str).or(file);
    let is_retired = container.state.status == "exited" && container.restart_policy() == NEVER;
    had.filter(|policy| is_retired && !["", "none", NEVER].contains(policy)).map(String::from)
}

impl Rollout<'_> {
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
        assert_eq!(policies("other", &[always("a", "running")], None), RestartPolicies::new());
    }
}
