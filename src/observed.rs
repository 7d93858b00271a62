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

    pub fn get(&self, key: &str) -> Option<&Instance> {
        self.instances.iter().find(|i| i.key == key)
    }
}
