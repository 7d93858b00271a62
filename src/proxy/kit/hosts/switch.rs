//! Switch of a proxy whose names are pinned: gate, route and hand-back by lines in its hosts file, and a reload.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Loaded, PinnedService, Pins, pin_script, unpin_script, watcher_script};
use crate::docker::Exec;
use crate::proxy::{Change, Discovery, Endpoint, Next, ProxyContainer, Rotation};

/// Way to write the hosts file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HostsWriter {
    /// The container's own user is root.
    #[default]
    User,
    /// A command as root.
    Root,
    /// A container beside the proxy: the proxy's own file system is read-only.
    Sidecar,
}

impl HostsWriter {
    /// Way by the output of [`super::INTRODUCTION`].
    pub fn parse(output: &str) -> HostsWriter {
        let value = |mark: &str| output.lines().find_map(|line| line.strip_prefix(mark)).map(str::trim);
        match (value("@hosts "), value("@user ")) {
            (Some("ro"), _) => HostsWriter::Sidecar,
            (_, Some("0")) => HostsWriter::User,
            _ => HostsWriter::Root,
        }
    }
}

/// Program that has to reload for its pins.
#[derive(Clone, Copy)]
pub struct Program {
    /// Changes that make the program reload, in its container.
    pub reload: fn(&HostsSwitch, &[PinnedService]) -> Vec<Change>,
    /// Functions for the watcher's script; see [`watcher_script`].
    pub watcher: fn() -> String,
    /// True if the watcher reads the program's configuration.
    pub reads_files: bool,
}

/// Pins of a service, and what the processes of the program have of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePins {
    pub pins: Pins,
    pub loaded: Loaded,
}

impl ServicePins {
    /// Addresses that any process has.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        match self.loaded {
            Loaded::Now => self.pins.now.clone(),
            Loaded::Before => self.pins.was.clone(),
            Loaded::Mixed => self.pins.now.union(&self.pins.was).copied().collect(),
        }
    }

    /// True if the processes have exactly these addresses, also after a further reload.
    pub fn is_settled(&self) -> bool {
        self.loaded == Loaded::Now
    }
}

/// Pins and watchers of a running proxy.
pub trait PinnedState {
    fn pins_of(&self, service: &PinnedService) -> Option<ServicePins>;

    fn is_watched(&self, service: &PinnedService) -> bool;

    /// True if a reload that was requested at this moment is not late yet.
    fn is_recent(&self, since: u64) -> bool;

    /// True if the instance started after the program had looked its name up, and has no connection from it. Compose has
    /// recreated the instance, and the program may have the address of before.
    fn may_lack(&self, instance: &Endpoint) -> bool;
}

/// Hosts file of a proxy's container, and the program that reads it.
#[derive(Clone, Copy)]
pub struct HostsSwitch<'p> {
    pub place: &'p ProxyContainer,
    pub writer: HostsWriter,
    pub program: Program,
    /// False if the program looks up the names for each request.
    pub needs_reload: bool,
}

/// State of a running proxy, and the services whose names are pinned.
#[derive(Clone, Copy)]
pub struct PinnedServices<'s> {
    pub state: &'s dyn PinnedState,
    pub services: &'s [PinnedService],
}

impl HostsSwitch<'_> {
    /// Script that writes the hosts file.
    pub fn write(&self, script: String) -> Change {
        let exec = self.place.sh(script);
        match self.writer {
            HostsWriter::User => exec,
            HostsWriter::Root => Exec { options: as_root(&[]), ..exec },
            HostsWriter::Sidecar => self.sidecar(exec, &[]),
        }
        .into()
    }

    /// The command in a container that shares the proxy's network, and so its hosts file, and its processes.
    fn sidecar(&self, exec: Exec, options: &[&str]) -> Exec {
        let processes = format!("container:{}", self.place.container.id);
        let options = [options, &["--pid", &processes]].concat();
        Exec {
            sidecar_image: Some(self.place.container.config.image.clone()),
            options: options.into_iter().map(String::from).collect(),
            ..exec
        }
    }

    /// Start of the watcher of a service's pins.
    fn watch(&self, service: &PinnedService) -> Change {
        let exec = self.place.sh(watcher_script(service, &(self.program.watcher)()));
        match self.writer {
            HostsWriter::User | HostsWriter::Root => Exec { options: as_root(&["--detach"]), ..exec },
            HostsWriter::Sidecar => {
                let label = format!("compose-zd.watcher={}/{}", service.project, service.service);
                let volumes = ["--volumes-from", &self.place.container.id];
                let volumes = if self.program.reads_files { &volumes[..] } else { &[] };
                self.sidecar(exec, &[&["--detach", "--label", &label], volumes].concat())
            }
        }
        .into()
    }

    /// Pins for all services, with a reload if the program still has other addresses.
    fn pin(&self, pinned: PinnedServices, addresses: &BTreeSet<IpAddr>, needs_reload: bool) -> Vec<Change> {
        let mut changes = self.missing_watchers(pinned);
        for service in pinned.services {
            let was = pinned.state.pins_of(service).map(|pins| pins.addresses()).unwrap_or_default();
            changes.push(self.write(pin_script(service, addresses, &was, needs_reload)));
        }
        if needs_reload {
            changes.extend((self.program.reload)(self, pinned.services));
        }
        changes
    }

    /// Start of the watchers that do not run. They need no pin to act when a killed run is followed by Compose.
    pub fn missing_watchers(&self, pinned: PinnedServices) -> Vec<Change> {
        let unwatched = pinned.services.iter().filter(|service| !pinned.state.is_watched(service));
        unwatched.map(|service| self.watch(service)).collect()
    }

    /// A new instance gets no request before a reload. Pins keep it so if another program causes a reload.
    pub fn gate(&self, pinned: PinnedServices, rotation: &Rotation) -> Next {
        let PinnedServices { state, services } = pinned;
        let (inside, outside) = (addresses(&rotation.inside), addresses(&rotation.outside));
        let is_gated = |service: &PinnedService| {
            state.pins_of(service).is_some_and(|pins| {
                pins.is_settled() && inside.is_subset(&pins.pins.now) && pins.pins.now.is_disjoint(&outside)
            })
        };
        if inside.is_empty() || services.iter().all(is_gated) {
            return Next::Done;
        }
        // Without pins the proxy has the instances inside, unless it was restarted while those outside ran.
        let is_fresh = services.iter().all(|s| state.pins_of(s).is_none()) && outside.is_empty();
        if is_fresh {
            return Next::Run(self.pin(pinned, &inside, self.may_lack(state, &rotation.inside)));
        }
        self.route(pinned, &inside)
    }

    /// Pins exactly these addresses, and reloads the proxy if it has others.
    pub fn route(&self, pinned: PinnedServices, inside: &BTreeSet<IpAddr>) -> Next {
        if inside.is_empty() {
            return Next::Wait;
        }
        let PinnedServices { state, services } = pinned;
        let all: Vec<_> = services.iter().map(|service| state.pins_of(service)).collect();
        let is_pinned = |pins: &Option<ServicePins>| pins.as_ref().is_some_and(|p| p.pins.now == *inside);
        let is_loaded = |pins: &Option<ServicePins>| pins.as_ref().is_some_and(ServicePins::is_settled);
        let is_unchanged = |pins: &Option<ServicePins>| {
            pins.as_ref().is_some_and(|p| p.loaded != Loaded::Mixed && p.addresses() == *inside)
        };
        let is_recent = |pins: &Option<ServicePins>| {
            pins.as_ref().is_none_or(|p| p.is_settled() || state.is_recent(p.pins.since))
        };
        match () {
            () if all.iter().all(|p| is_pinned(p) && is_loaded(p)) => Next::Done,
            () if all.iter().all(is_unchanged) => Next::Run(self.pin(pinned, inside, false)),
            () if all.iter().all(is_pinned) && all.iter().all(is_recent) => Next::Wait,
            () => Next::Run(self.pin(pinned, inside, self.needs_reload)),
        }
    }

    fn may_lack(&self, state: &dyn PinnedState, endpoints: &[Endpoint]) -> bool {
        let mut running = endpoints.iter().filter(|e| !e.addresses.is_empty());
        self.needs_reload && running.any(|e| state.may_lack(e))
    }

    /// Removes the pins once they are what Docker's DNS says. The proxy keeps the addresses without a reload.
    pub fn hand_back(&self, pinned: PinnedServices, discovery: &Discovery) -> Next {
        let running = addresses(&discovery.endpoints);
        let has_pins = |service: &&PinnedService| pinned.state.pins_of(service).is_some();
        let with_pins: Vec<&PinnedService> = pinned.services.iter().filter(has_pins).collect();
        if with_pins.is_empty() {
            let is_stale = self.may_lack(pinned.state, &discovery.endpoints);
            return if is_stale { self.route(pinned, &running) } else { Next::Done };
        }
        match if running.is_empty() { Next::Done } else { self.route(pinned, &running) } {
            Next::Done => Next::Finish(with_pins.into_iter().map(|s| self.write(unpin_script(s))).collect()),
            next => next,
        }
    }
}

/// Options of a command as root in a container.
fn as_root(more: &[&str]) -> Vec<String> {
    [more, &["--user", "0"]].concat().into_iter().map(String::from).collect()
}

/// Addresses of all endpoints.
pub fn addresses(endpoints: &[Endpoint]) -> BTreeSet<IpAddr> {
    endpoints.iter().flat_map(|e| e.addresses.iter().copied()).collect()
}

/// Endpoints in rotation: those with an address of their service's pins. Without pins the proxy has the addresses of all
/// instances that ran at its last reload, or unknown ones if these may be stale.
pub fn routed(pinned: PinnedServices, endpoints: &[Endpoint], may_be_stale: bool) -> BTreeSet<String> {
    let pins = |e: &Endpoint| {
        let own = pinned.services.iter().find(|s| s.service == e.service)?;
        Some(pinned.state.pins_of(own)?.addresses())
    };
    let is_routed = |e: &&Endpoint| match pins(e) {
        Some(addresses) => e.addresses.iter().any(|ip| addresses.contains(ip)),
        None => !e.addresses.is_empty() && !may_be_stale,
    };
    endpoints.iter().filter(is_routed).map(|e| e.id.clone()).collect()
}

/// True if the program has the pins of all services.
pub fn is_settled(pinned: PinnedServices) -> bool {
    pinned.services.iter().filter_map(|s| pinned.state.pins_of(s)).all(|pins| pins.is_settled())
}
