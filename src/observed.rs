//! What is there: the instances of a service, which of them are wanted, and which get requests. Pure.

/// Names an instance: its container's name without the project, or a placeholder for one to come.
pub type Key = String;

/// Whether an instance is what the file asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Generation {
    Old,
    New,
}

/// What its container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    Created,
    Running,
    Exited,
    /// Paused, restarting or dead: nothing to build on.
    Broken,
}

impl State {
    /// Reads the status of `docker inspect`.
    pub fn read(status: &str) -> State {
        match status {
            "created" => State::Created,
            "running" => State::Running,
            "exited" => State::Exited,
            _ => State::Broken,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Instance {
    pub key: Key,
    pub service: String,
    pub generation: Generation,
    pub state: State,
    /// The proxy sends it requests; without a proxy, it runs.
    pub routed: bool,
    /// It answered its readiness probe just now.
    pub ready: bool,
}

impl Instance {
    /// It has a process that may hold requests.
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Running | State::Broken)
    }

    pub fn serves(&self) -> bool {
        self.routed && self.state == State::Running
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

    /// The instances that get requests now.
    pub fn serving(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(|i| i.serves())
    }

    /// How many instances a service has. While a rollout is under way both releases may run, so it is never more than
    /// one of them has; and an instance that somebody stopped does not count, while one that has `fallen` by itself does,
    /// and one that runs and that its proxy has not found again (a pause is enough for nginx-proxy to lose it).
    pub fn size(&self, service: &str, fallen: usize) -> usize {
        let of = |generation| self.of(service).filter(|i| i.generation == generation).count();
        let running = self.of(service).filter(|i| i.state == State::Running).count();
        (running + fallen).min(of(Generation::Old).max(of(Generation::New)))
    }

    pub fn get(&self, key: &str) -> Option<&Instance> {
        self.instances.iter().find(|i| i.key == key)
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
            state: if "xf".contains(kind) { State::Exited } else { State::Running },
            routed: "on".contains(kind),
            ready: true,
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

    #[test]
    fn a_rollout_under_way_does_not_count_both_releases() {
        assert_eq!([size("oo--"), size("oonn"), size("oon"), size("xon"), size("xxnn")], [2, 2, 2, 2, 2]);
    }
}
