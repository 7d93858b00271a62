//! State of services that Compose starts: up, not yet up, or failed. Pure.

use std::time::Duration;

use crate::docker::inspect::Container;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceState {
    Up,
    Waiting(String),
    Failed(String),
}

/// State of a container that was started `since` ago. A job is up once it has completed. Without a healthcheck, a
/// container is up if it still runs after `window`.
pub fn state(container: &Container, is_job: bool, since: Duration, window: Duration) -> ServiceState {
    use ServiceState::{Failed, Up, Waiting};
    let code = container.state.exit_code;
    let health = container.state.health.as_ref().map_or("", |health| health.status.as_str());
    match (container.state.status.as_str(), health) {
        ("exited", _) if container.has_completed() && (is_job || container.restart_policy() == "no") => Up,
        ("exited" | "dead", _) => Failed(format!("exited with {code}")),
        ("restarting", _) => Failed(format!("keeps crashing; its last exit code is {code}")),
        ("running", _) if container.restart_count > 0 => Failed("crashed and was restarted".into()),
        ("running", _) if is_job => Waiting("not completed".into()),
        ("running", "unhealthy") => Failed("unhealthy".into()),
        ("running", "healthy") => Up,
        ("running", "" | "none") if since >= window => Up,
        ("running", "" | "none") => Waiting("running".into()),
        ("running", health) => Waiting(health.into()),
        (status, _) => Waiting(status.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: &str, health: &str, code: i32, restarts: u32, policy: &str, is_job: bool) -> ServiceState {
        let json = format!(
            r#"{{"RestartCount": {restarts}, "HostConfig": {{"RestartPolicy": {{"Name": "{policy}"}}}},
                "State": {{"Status": "{status}", "ExitCode": {code}, "Health": {{"Status": "{health}"}}}}}}"#
        );
        let container = serde_json::from_str(&json).unwrap();
        state(&container, is_job, Duration::from_secs(1), Duration::from_secs(2))
    }

    #[test]
    fn a_service_is_up_if_it_is_healthy_or_keeps_running() {
        use ServiceState::{Failed, Up, Waiting};
        let failed = |text: &str| Failed(text.into());
        assert_eq!(of("running", "healthy", 0, 0, "no", false), Up);
        assert_eq!(of("running", "starting", 0, 0, "no", false), Waiting("starting".into()));
        assert_eq!(of("running", "unhealthy", 0, 0, "no", false), failed("unhealthy"));
        assert_eq!(of("running", "none", 0, 0, "no", false), Waiting("running".into()));
        assert_eq!(of("running", "", 0, 1, "always", false), failed("crashed and was restarted"));
        assert_eq!(of("exited", "", 0, 0, "no", false), Up);
        assert_eq!(of("exited", "", 0, 0, "always", false), failed("exited with 0"));
        assert_eq!(of("exited", "", 3, 0, "no", false), failed("exited with 3"));
        assert_eq!(
            of("restarting", "", 1, 2, "always", false),
            failed("keeps crashing; its last exit code is 1")
        );
        assert_eq!(of("created", "", 0, 0, "no", false), Waiting("created".into()));
        assert_eq!(of("running", "", 0, 0, "no", true), Waiting("not completed".into()));
        assert_eq!(of("exited", "", 0, 0, "on-failure", true), Up);
        let running: Container = serde_json::from_str(r#"{"State": {"Status": "running"}}"#).unwrap();
        let second = Duration::from_secs(1);
        assert_eq!(state(&running, false, second, second), Up);
    }
}
