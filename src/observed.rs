//! Observed state: the instances of a service, their generation, and their rotation. Pure.

use std::time::Duration;

/// Name of an instance: its container's name without the project, or a placeholder for a new one.
pub type InstanceKey = String;

/// Generation of an instance: new ones have the desired version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Generation {
    Old,
    New,
}

/// State of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InstanceState {
    Created,
    Running,
    Exited,
    /// Paused, restarting or dead.
    Broken,
}

impl InstanceState {
    /// State by the status of `docker inspect`.
    pub fn read(status: &str) -> InstanceState {
        match status {
            "created" => InstanceState::Created,
            "running" => InstanceState::Running,
            "exited" => InstanceState::Exited,
            _ => InstanceState::Broken,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Instance {
    pub key: InstanceKey,
    pub service: String,
    pub generation: Generation,
    pub state: InstanceState,
    /// The proxy sends requests to the instance; without a proxy, the instance runs.
    pub routed: bool,
    /// The readiness probe passes.
    pub ready: bool,
    /// Time since its container started; `None` for one that does not run.
    pub age: Option<Duration>,
    /// A temporary endpoint, which serves while the only instance of the service is replaced.
    pub is_bridge: bool,
    /// Another container of the service got the name in `container_name`, which this one had.
    pub is_set_aside: bool,
    /// The container ended by itself, with an error.
    pub has_failed: bool,
}

impl Instance {
    /// True if a process exists that may hold requests.
    pub fn is_live(&self) -> bool {
        matches!(self.state, InstanceState::Running | InstanceState::Broken)
    }

    pub fn serves(&self) -> bool {
        self.routed && self.state == InstanceState::Running
    }

    /// True for a new instance in rotation that is younger than the monitor.
    pub fn is_young(&self, monitor: Duration) -> bool {
        let new = self.generation == Generation::New && self.serves() && self.ready;
        new && self.age.is_some_and(|age| age < monitor)
    }
}

/// Snapshot of the services of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Observed {
    pub instances: Vec<Instance>,
    /// A proxy with a rotation is in front.
    pub proxied: bool,
}

impl Observed {
    pub fn of<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Instance> {
        self.instances.iter().filter(move |i| i.service == service)
    }

    /// Running new instances.
    pub fn running_new(&self) -> impl Iterator<Item = &Instance> {
        let runs = |i: &&Instance| i.generation == Generation::New && i.state == InstanceState::Running;
        self.instances.iter().filter(runs)
    }

    /// Instances that get requests.
    pub fn serving(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(|i| i.serves())
    }

    /// Number of instances of a service. Both releases may run during a rollout, so the larger generation is the
    /// maximum. A crashed instance (`fallen`) counts, and one that was stopped by hand does not. A running one
    /// counts even if its proxy has lost it, as nginx-proxy does after a pause.
    pub fn size(&self, service: &str, fallen: usize) -> usize {
        let owners = || self.of(service).filter(|i| !i.is_bridge);
        let of = |generation| owners().filter(|i| i.generation == generation).count();
        let running = owners().filter(|i| i.state == InstanceState::Running).count();
        (running + fallen).min(of(Generation::Old).max(of(Generation::New)))
    }

    pub fn get(&self, key: &str) -> Option<&Instance> {
        self.instances.iter().find(|i| i.key == key)
    }

    /// State before the switch of a rollout that was killed during its monitor: the old instances served, and the
    /// young ones did not exist. Old ones that still run are those; else, after a stop-first replacement, the
    /// stopped ones. Young instances count as serving in the place of removed ones, because nothing else can
    /// return.
    pub fn before_switch(&self, monitor: Duration) -> Observed {
        let is_old = |i: &&Instance| {
            i.generation == Generation::Old && i.state != InstanceState::Created && !i.is_bridge
        };
        let any_runs = self.instances.iter().filter(is_old).any(|i| i.state == InstanceState::Running);
        let young = self.instances.iter().filter(|i| i.is_young(monitor)).count();
        let mut stopped = if any_runs { 0 } else { young };
        let mut instances: Vec<Instance> =
            self.instances.iter().filter(|i| !i.is_young(monitor)).cloned().collect();
        for instance in instances.iter_mut().filter(|i| is_old(&&**i)) {
            let served = match instance.state {
                InstanceState::Running => true,
                InstanceState::Exited if stopped > 0 => {
                    stopped -= 1;
                    true
                }
                _ => false,
            };
            if served {
                (instance.state, instance.routed, instance.ready) = (InstanceState::Running, true, true);
            }
        }
        let returning = instances.iter().filter(|i| i.generation == Generation::Old && i.serves()).count();
        let replacements = self.instances.iter().filter(|i| i.is_young(monitor)).skip(returning);
        instances.extend(replacements.cloned());
        Observed { instances, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Size of a service with these instances: `o` and `n` are an old and a new one that serve; `x` is a stopped
    /// old one, `f` a crashed old one, `u` a running old one without requests, `-` a running new one that does not
    /// serve yet.
    fn size(instances: &str) -> usize {
        let one = |kind: char| Instance {
            key: kind.into(),
            service: "app".into(),
            generation: if "oxfu".contains(kind) { Generation::Old } else { Generation::New },
            state: if "xf".contains(kind) { InstanceState::Exited } else { InstanceState::Running },
            routed: "on".contains(kind),
            ready: true,
            age: None,
            is_bridge: false,
            is_set_aside: false,
            has_failed: false,
        };
        Observed { instances: instances.chars().map(one).collect(), proxied: true }
            .size("app", instances.matches('f').count())
    }

    #[test]
    fn a_service_has_as_many_instances_as_serve() {
        assert_eq!([size(""), size("oo"), size("nnn"), size("ox")], [0, 2, 3, 1]);
    }

    #[test]
    fn a_crashed_instance_counts() {
        assert_eq!([size("of"), size("ff"), size("oxf"), size("offnn")], [2, 2, 2, 3]);
    }

    #[test]
    fn a_running_instance_without_requests_counts() {
        assert_eq!([size("ou"), size("uu"), size("n-"), size("xu")], [2, 2, 2, 1]);
    }

    /// Instances before the switch of a rollout that was killed during its monitor, in upper case if they served;
    /// `y` is a young new instance.
    fn before(instances: &str) -> String {
        let second = Duration::from_secs(1);
        let one = |kind: char| Instance {
            key: kind.into(),
            service: "app".into(),
            generation: if "xu".contains(kind) { Generation::Old } else { Generation::New },
            state: if kind == 'x' { InstanceState::Exited } else { InstanceState::Running },
            routed: "ny".contains(kind),
            ready: true,
            age: Some(if kind == 'y' { second } else { second * 60 }),
            is_bridge: false,
            is_set_aside: false,
            has_failed: false,
        };
        let all = Observed { instances: instances.chars().map(one).collect(), proxied: true };
        let before = all.before_switch(second * 5);
        before
            .instances
            .iter()
            .map(|i| if i.serves() { i.key.to_uppercase() } else { i.key.clone() })
            .collect()
    }

    #[test]
    fn before_the_switch_old_instances_served_and_young_ones_did_not_exist() {
        assert_eq!([before("uuyy"), before("uy"), before("xxyy")], ["UU", "U", "XX"]);
        assert_eq!(before("xuy"), "xU", "a stopped instance is kept for a rollback while others run");
        assert_eq!(before("xxy"), "Xx", "no more than young ones came");
        assert_eq!(before("nuy"), "NU", "an older instance does not belong to the switch");
        assert_eq!([before("y"), before("uyy"), before("xyy")], ["Y", "UY", "XY"], "nothing else can return");
    }

    #[test]
    fn a_running_rollout_does_not_count_both_releases() {
        assert_eq!([size("oo--"), size("oonn"), size("oon"), size("xon"), size("xxnn")], [2, 2, 2, 2, 2]);
    }
}
