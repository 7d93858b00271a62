//! Restart policies of what is retired: the engine starts a stopped container with `restart: always` again when it starts itself,
//! and the proxy would send it requests. The policy goes with the stop, and comes back with the start.

use std::collections::BTreeMap;

use super::Rollout;
use crate::docker::inspect::Container;
use crate::observed::InstanceKey;
use crate::report::Warning;

/// Restart policies by the id of their container, as they were before it was retired.
pub type RestartPolicies = BTreeMap<String, String>;

/// Policy of a retired instance.
pub const NEVER: &str = "no";

/// Policies of a project's containers; `before` are those that a killed run knew, which may have retired some.
pub fn policies(
    project: &str,
    containers: &[Container],
    before: Option<&RestartPolicies>,
) -> RestartPolicies {
    let ours = |c: &&Container| c.compose().is_some_and(|(name, _)| name == project);
    let now = containers.iter().filter(ours).filter(|c| c.restarts_with_engine());
    before
        .into_iter()
        .flatten()
        .map(|(id, policy)| (id.clone(), policy.clone()))
        .chain(now.map(|c| (c.id.clone(), c.restart_policy())))
        .collect()
}

/// Policy that a retired instance gets back, if it had one: the one that it had, else the `file`'s.
pub(super) fn policy_of(
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
    /// Has stopped instances stay down when the engine starts again.
    pub(super) fn keep_down(&self, keys: &[InstanceKey]) {
        let again: Vec<InstanceKey> =
            keys.iter().filter(|k| self.bound[*k].restarts_with_engine()).cloned().collect();
        self.set_policy(NEVER, &again);
    }

    /// The same of all that are stopped.
    pub fn keep_all_down(&self) {
        let is_down = |c: &Container| c.state.status == "exited";
        let down: Vec<InstanceKey> =
            self.bound.iter().filter(|(_, c)| is_down(c)).map(|(k, _)| k.clone()).collect();
        self.keep_down(&down);
    }

    /// Has instances that start again come back with the engine as before.
    pub(super) fn restore_policies(&self, keys: &[InstanceKey]) {
        for key in keys {
            let policy = policy_of(
                &self.bound[key],
                self.context.policies,
                self.service(key).process.restart.as_deref(),
            );
            policy.iter().for_each(|policy| self.set_policy(policy, std::slice::from_ref(key)));
        }
    }

    /// A policy that stays as it is does no harm before the engine starts again.
    fn set_policy(&self, policy: &str, keys: &[InstanceKey]) {
        if keys.is_empty() {
            return;
        }
        if let Err(error) = self.context.docker.set_restart(policy, &self.ids(keys)) {
            let (name, said) = (self.names(keys).join(", "), format!("{error:#}"));
            self.context.report.warn(&Warning::Hook { name, what: "the change of the restart policy", said });
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
    fn an_engine_starts_some_policies_again() {
        let failing = container("a", "exited", r#"{"Name": "on-failure", "MaximumRetryCount": 3}"#);
        assert_eq!(failing.restart_policy(), "on-failure:3");
        assert!(failing.restarts_with_engine() && always("a", "exited").restarts_with_engine());
        let stays = [r#"{"Name": "unless-stopped"}"#, r#"{"Name": "no"}"#, r#"{"Name": ""}"#];
        assert!(stays.iter().all(|policy| !container("a", "exited", policy).restarts_with_engine()));
    }

    #[test]
    fn a_policy_comes_back_as_it_was_also_after_a_kill() {
        let retired = container("a", "exited", r#"{"Name": "no"}"#);
        let killed = policies("p", &[always("a", "running")], None);
        let known = policies("p", std::slice::from_ref(&retired), Some(&killed));
        assert_eq!(policy_of(&retired, &known, None).as_deref(), Some("always"));
        assert_eq!(
            policy_of(&retired, &RestartPolicies::new(), Some("any")).as_deref(),
            Some("always"),
            "the file's"
        );
        assert_eq!(policy_of(&retired, &RestartPolicies::new(), Some("no")), None);
        assert_eq!(policy_of(&always("a", "exited"), &known, None), None, "it has it still");
        assert_eq!(policies("other", &[always("a", "running")], None), RestartPolicies::new());
    }
}
