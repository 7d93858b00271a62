//! The engine's own side: a service in a Swarm of this one engine.

use serde_json::Value;

use super::engine::{Engine, text, wait_for};
use super::{End, Row, State};

/// Marks a Swarm that a test made and could not leave, as when it was killed.
const MADE: &str = "compose-zd.e2e=made";

/// What a Swarm leaves behind; its other network, `ingress`, goes with it.
const NETWORK: &str = "docker_gwbridge";

/// Left at the end, also after a panic, unless somebody else had made it.
pub struct Swarm<'e> {
    engine: &'e Engine,
    made: bool,
    /// Its network was not there before.
    added: bool,
}

impl<'e> Swarm<'e> {
    pub fn enter(engine: &'e Engine) -> Self {
        let networks = engine.docker("network ls --format {{.Name}}");
        let mut swarm = Swarm { engine, made: false, added: networks.lines().all(|name| name != NETWORK) };
        match engine.docker("info --format {{.Swarm.LocalNodeState}}").as_str() {
            "inactive" => swarm.make(),
            "active" => swarm.made = swarm.is_left_over(),
            other => panic!("this engine's Swarm is {other}"),
        }
        swarm
    }

    fn make(&mut self) {
        let init = self.engine.try_docker("swarm init --advertise-addr 127.0.0.1");
        let told = String::from_utf8_lossy(&init.stderr);
        // As where it has `live-restore`.
        assert!(init.status.success(), "this engine cannot be a Swarm: {told}");
        self.made = true;
        let node = self.engine.docker("info --format {{.Swarm.NodeID}}");
        self.engine.docker(&format!("node update --label-add {MADE} {node}"));
    }

    fn is_left_over(&self) -> bool {
        let (key, value) = MADE.split_once('=').expect("a label");
        self.engine.inspect("node inspect self")[0]["Spec"]["Labels"][key] == value
    }

    /// Version 1 of a service, updated to version 2 as the row says.
    pub fn update(&self, row: &Row, n: usize) -> End {
        let service = Service { engine: self.engine, name: format!("{}-{n}", self.engine.name) };
        let folder = self.engine.folder(&format!("swarm-{n}"));
        service.remove();
        service.create(row, &folder.join("tickets").display().to_string());
        wait_for(&format!("{row}: version 1"), || service.has_started(row).then_some(()));
        service.change(row);
        let state = wait_for(&format!("{row}: the end of its update"), || service.state());
        self.engine.wait_for_failures(&folder, row);
        let tasks = wait_for(&format!("{row}: its tasks rest"), || service.resting());
        let of = |version: &str| tasks.iter().filter(|t| runs(t) && is_of(t, version)).count();
        End { state, new: of("2"), old: of("1") }
    }
}

impl Drop for Swarm<'_> {
    fn drop(&mut self) {
        if !self.made {
            return;
        }
        self.engine.try_docker("swarm leave --force");
        if self.added {
            let rm = format!("network rm {NETWORK}");
            // `ingress` holds on to it for a moment.
            let gone = || self.engine.try_docker(&rm).status.success().then_some(());
            wait_for("the Swarm's network is gone", gone);
        }
    }
}

/// Removed at the end, with its containers.
struct Service<'e> {
    engine: &'e Engine,
    name: String,
}

impl Service<'_> {
    /// Without ports and networks of a Swarm, which not every kernel can do; and a task that failed stays so, as an
    /// instance of a Compose project without `restart` does.
    fn create(&self, row: &Row, tickets: &str) {
        let Row { instances, parallelism, action, ratio, order, .. } = row;
        let (name, image) = (&self.name, &self.engine.image);
        let (delay, monitor) = (text(row.delay), text(row.monitor));
        self.engine.docker(&format!(
            "service create --detach --quiet --no-resolve-image --name {name} --replicas {instances} \
             --restart-condition none --mount type=bind,source={tickets},target=/tickets --env VERSION=1 \
             --update-parallelism {parallelism} --update-delay {delay} --update-monitor {monitor} \
             --update-failure-action {action} --update-max-failure-ratio {ratio} --update-order {order} \
             --rollback-parallelism 0 --rollback-monitor 1s {image}"
        ));
    }

    fn change(&self, row: &Row) {
        let variables = row.fails.variables().into_iter();
        let words: String = variables.map(|(name, value)| format!(" --env-add {name}={value}")).collect();
        let name = &self.name;
        self.engine.docker(&format!(
            "service update --detach --quiet --no-resolve-image --env-add VERSION=2{words} {name}"
        ));
    }

    fn has_started(&self, row: &Row) -> bool {
        let tasks = self.tasks();
        let ended: Vec<&Value> = tasks.iter().filter(|t| has_ended(t)).collect();
        assert!(ended.is_empty(), "{row}: version 1: {ended:#?}");
        tasks.iter().filter(|t| runs(t)).count() == row.instances
    }

    /// How its update ended, when it has.
    fn state(&self) -> Option<State> {
        let told = self.engine.inspect(&format!("service inspect {}", self.name));
        match told[0]["UpdateStatus"]["State"].as_str()? {
            "completed" => Some(State::Completed),
            "paused" => Some(State::Paused),
            "rollback_completed" => Some(State::RolledBack),
            "rollback_paused" => Some(State::Other("rollback_paused".into())),
            _ => None,
        }
    }

    /// Its tasks, when none is on its way.
    fn resting(&self) -> Option<Vec<Value>> {
        let tasks = self.tasks();
        tasks.iter().all(|t| runs(t) || has_ended(t)).then_some(tasks)
    }

    fn tasks(&self) -> Vec<Value> {
        let ids = self.engine.docker(&format!("service ps --quiet --no-trunc {}", self.name));
        if ids.is_empty() {
            return Vec::new();
        }
        let told = self.engine.inspect(&format!("inspect --type task {}", ids.replace('\n', " ")));
        told.as_array().cloned().unwrap_or_default()
    }

    fn remove(&self) {
        self.engine.try_docker(&format!("service rm {}", self.name));
        let label = format!("label=com.docker.swarm.service.name={}", self.name);
        wait_for("its containers are gone", || {
            self.engine.docker(&format!("ps --all --quiet --filter {label}")).is_empty().then_some(())
        });
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        // A second panic would end the process before the Swarm is left.
        if std::thread::panicking() {
            self.engine.try_docker(&format!("service rm {}", self.name));
        } else {
            self.remove();
        }
    }
}

fn runs(task: &Value) -> bool {
    task["DesiredState"] == "running" && task["Status"]["State"] == "running"
}

fn has_ended(task: &Value) -> bool {
    let ended = ["complete", "failed", "rejected", "shutdown", "orphaned"];
    ended.iter().any(|state| task["Status"]["State"] == *state)
}

fn is_of(task: &Value, version: &str) -> bool {
    let variables = task["Spec"]["ContainerSpec"]["Env"].as_array();
    let own = format!("VERSION={version}");
    variables.is_some_and(|all| all.iter().any(|v| *v == *own))
}
