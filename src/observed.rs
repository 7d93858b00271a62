//! What is there: the instances of a service, which of them are wanted, and which get requests. Pure.

use std::time::Duration;

/// Names an instance: its container's name without the project, or a placeholder for one to come.
pub type InstanceKey = String;

/// Whether an instance is what the file asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Generation {
    Old,
    New,
}

/// What its container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InstanceState {
    Created,
    Running,
    Exited,
    /// Paused, restarting or dead: nothing to build on.
    Broken,
}

impl InstanceState {
    /// Reads the status of `docker inspect`.
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
    /// The proxy sends it requests; without a proxy, it runs.
    pub routed: bool,
    /// It answered its readiness probe just now.
    pub ready: bool,
    /// Time since its container started; `None` for one that does not run.
    pub age: Option<Duration>,
}

impl Instance {
    /// It has a process that may hold requests.
    pub fn is_live(&self) -> bool {
        matches!(self.state, InstanceState::Running | InstanceState::Broken)
    }

    pub fn serves(&self) -> bool {
        self.routed && self.state == InstanceState::Running
    }

    /// A new instance in rotation that has not run for a whole monitor yet.
    pub fn is_young(&self, monitor: Duration) -> bool {
        let new = self.generation == Generation::New && self.serves() && self.ready;
        new && self.age.is_some_and(|age| age < monitor)
    }
}

/// One moment of the services that a rollout is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Observed {
    pub instances: Vec<Instance>,
    /// A proxy stands in front, whose rotation can be set.
    pub proxied: bool,
}

impl Observed {
    pub fn of<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Instance> {
        self.instances.iter().filter(move |i| i.service == service)
    }

    /// New instances that run.
    pub fn running_new(&self) -> impl Iterator<Item = &Instance> {
        let runs = |i: &&Instance| i.generation == Generation::New && i.state == InstanceState::Running;
        self.instances.iter().filter(runs)
    }

    /// The instances that get requests now.
    pub fn serving(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(|i| i.serves())
    }

    /// How many instances a service has. While a rollout is under way both releases may run, so it is never more than
    /// one of them has; and an instance that somebody stopped does not count, while one that has `fallen` by itself does,
    /// and one that runs and that its proxy has not found again (a pause is enough for nginx-proxy to lose it).
    pub fn size(&self, service: &str, fallen: usize) -> usize {
        let of = |generation| self.of(service).filter(|i| i.generation == generation).count();
        let running = self.of(service).filter(|i| i.state == InstanceState::Running).count();
        (running + fallen).min(of(Generation::Old).max(of(Generation::New)))
    }

    pub fn get(&self, key: &str) -> Option<&Instance> {
        self.instances.iter().find(|i| i.key == key)
    }

    /// What a rollout found that was killed while it watched its new instances: the old ones served, and none of the
    /// young ones existed. Old ones that still run are those; else, after a stop-first replacement, the stopped ones.
    /// Young ones count as serving in the place of those that are removed by now: nothing else can come back.
    pub fn before_the_switch(&self, monitor: Duration) -> Observed {
        let is_old = |i: &&Instance| i.generation == Generation::Old && i.state != InstanceState::Created;
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
        let back = instances.iter().filter(|i| i.generation == Generation::Old && i.serves()).count();
        let instead = self.instances.iter().filter(|i| i.is_young(monitor)).skip(back);
        instances.extend(instead.cloned());
        Observed { instances, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `o` and `n` are an old and a new instance that serve; `x` is an old one that is stopped, `f` one that has crashed,
    /// `u` one that runs and gets no requests, `-` a new one that runs and does not serve yet.
    fn size(instances: &str) -> usize {
        let one = |kind: char| Instance {
            key: kind.into(),
            service: "app".into(),
            generation: if "oxfu".contains(kind) { Generation::Old } else { Generation::New },
            state: if "xf".contains(kind) { InstanceState::Exited } else { InstanceState::Running },
            routed: "on".contains(kind),
            ready: true,
            age: None,
        };
        Observed { instances: instances.chars().map(one).collect(), proxied: true }
            .size("app", instances.matches('f').count())
    }

    #[test]
    fn a_service_has_as_many_instances_as_serve() {
        assert_eq!([size(""), size("oo"), size("nnn"), size("ox")], [0, 2, 3, 1]);
    }

    #[test]
    fn what_has_crashed_was_meant_to_run() {
        assert_eq!([size("of"), size("ff"), size("oxf"), size("offnn")], [2, 2, 2, 3]);
    }

    #[test]
    fn what_runs_was_meant_to_get_requests() {
        assert_eq!([size("ou"), size("uu"), size("n-"), size("xu")], [2, 2, 2, 1]);
    }

    /// Who served before the switch of a rollout that was killed in its monitor; `y` is a young new instance.
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
        };
        let all = Observed { instances: instances.chars().map(one).collect(), proxied: true };
        let before = all.before_the_switch(second * 5);
        before
            .instances
            .iter()
            .map(|i| if i.serves() { i.key.to_uppercase() } else { i.key.clone() })
            .collect()
    }

    #[test]
    fn before_the_switch_the_old_ones_served_and_the_young_ones_did_not_exist() {
        assert_eq!([before("uuyy"), before("uy"), before("xxyy")], ["UU", "U", "XX"]);
        assert_eq!(before("xuy"), "xU", "a stopped one is kept for a rollback while others run");
        assert_eq!(before("xxy"), "Xx", "no more than came");
        assert_eq!(before("nuy"), "NU", "one that has run for longer is none of the switch");
        assert_eq!(
            [before("y"), before("uyy"), before("xyy")],
            ["Y", "UY", "XY"],
            "nothing else can come back"
        );
    }

    #[test]
    fn a_rollout_under_way_does_not_count_both_releases() {
        assert_eq!([size("oo--"), size("oonn"), size("oon"), size("xon"), size("xxnn")], [2, 2, 2, 2, 2]);
    }
}
