//! Result of an update by Swarm, in a Swarm with one node.

use serde_json::Value;

use super::engine::{RulesEngine, duration_text, wait_for};
use super::{ResultState, UpdateCase, UpdateResult};

/// Creates version 1 of a service, and updates it to version 2 with the settings of the case.
pub fn update(engine: &RulesEngine, case: &UpdateCase, n: usize) -> UpdateResult {
    let service = RulesService { engine, name: format!("{}-{n}", engine.name) };
    let folder = engine.folder(&format!("swarm-{n}"));
    service.create(case, &folder.join("tickets").display().to_string());
    wait_for(&format!("{case}: version 1"), || service.has_started(case).then_some(()));
    service.change(case);
    let state = wait_for(&format!("{case}: the end of its update"), || service.state());
    engine.wait_for_failures(&folder, case);
    let tasks = wait_for(&format!("{case}: settled tasks"), || service.settled_tasks());
    let of = |version: &str| tasks.iter().filter(|t| is_running(t) && has_version(t, version)).count();
    UpdateResult { state, new: of("2"), old: of("1") }
}

/// A service that is removed when dropped.
struct RulesService<'e> {
    engine: &'e RulesEngine,
    name: String,
}

impl RulesService<'_> {
    /// Creates the service without ports and Swarm networks, which need support of the kernel. A failed task stays
    /// failed, like an instance of a Compose project without `restart`.
    fn create(&self, case: &UpdateCase, tickets: &str) {
        let UpdateCase { instances, parallelism, action, ratio, order, .. } = case;
        let (name, image) = (&self.name, &self.engine.image);
        let (delay, monitor) = (duration_text(case.delay), duration_text(case.monitor));
        self.engine.docker(&format!(
            "service create --detach --quiet --no-resolve-image --name {name} --replicas {instances} \
             --restart-condition none --mount type=bind,source={tickets},target=/tickets --env VERSION=1 \
             --update-parallelism {parallelism} --update-delay {delay} --update-monitor {monitor} \
             --update-failure-action {action} --update-max-failure-ratio {ratio} --update-order {order} \
             --rollback-parallelism 0 --rollback-monitor 1s {image}"
        ));
    }

    fn change(&self, case: &UpdateCase) {
        let variables = case.fails.variables().into_iter();
        let words: String = variables.map(|(name, value)| format!(" --env-add {name}={value}")).collect();
        let name = &self.name;
        self.engine.docker(&format!(
            "service update --detach --quiet --no-resolve-image --env-add VERSION=2{words} {name}"
        ));
    }

    fn has_started(&self, case: &UpdateCase) -> bool {
        let tasks = self.tasks();
        let ended: Vec<&Value> = tasks.iter().filter(|t| has_ended(t)).collect();
        assert!(ended.is_empty(), "{case}: version 1: {ended:#?}");
        tasks.iter().filter(|t| is_running(t)).count() == case.instances
    }

    /// Result of the update, once it has ended.
    fn state(&self) -> Option<ResultState> {
        let output = self.engine.inspect(&format!("service inspect {}", self.name));
        match output[0]["UpdateStatus"]["State"].as_str()? {
            "completed" => Some(ResultState::Completed),
            "paused" => Some(ResultState::Paused),
            "rollback_completed" => Some(ResultState::RolledBack),
            "rollback_paused" => Some(ResultState::Other("rollback_paused".into())),
            _ => None,
        }
    }

    /// Tasks of the service, if none is starting or stopping.
    fn settled_tasks(&self) -> Option<Vec<Value>> {
        let tasks = self.tasks();
        tasks.iter().all(|t| is_running(t) || has_ended(t)).then_some(tasks)
    }

    fn tasks(&self) -> Vec<Value> {
        let ids = self.engine.docker(&format!("service ps --quiet --no-trunc {}", self.name));
        if ids.is_empty() {
            return Vec::new();
        }
        let output = self.engine.inspect(&format!("inspect --type task {}", ids.replace('\n', " ")));
        output.as_array().cloned().unwrap_or_default()
    }
}

impl Drop for RulesService<'_> {
    fn drop(&mut self) {
        self.engine.try_docker(&format!("service rm {}", self.name));
    }
}

fn is_running(task: &Value) -> bool {
    task["DesiredState"] == "running" && task["Status"]["State"] == "running"
}

fn has_ended(task: &Value) -> bool {
    let ended = ["complete", "failed", "rejected", "shutdown", "orphaned"];
    ended.iter().any(|state| task["Status"]["State"] == *state)
}

fn has_version(task: &Value, version: &str) -> bool {
    let variables = task["Spec"]["ContainerSpec"]["Env"].as_array();
    let own = format!("VERSION={version}");
    variables.is_some_and(|all| all.iter().any(|v| *v == *own))
}
