//! Rotation, and what every proxy must answer. An adapter decides nothing and runs nothing: it gives the commands to
//! run in the proxy and reads the answers, so that it can be tested by equality and printed by a dry run.

pub mod caddy;
pub mod dockercloud;
pub mod haproxy;
pub mod nginx_proxy;
pub mod public_route;
mod tcp_migrate;
pub mod traefik;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;

use crate::docker::inspect::Container;
use crate::docker::{CommandResult, Exec};
use crate::error::{Error, Risk};
use public_route::PublicRoute;

/// An instance as a proxy sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// The full container id.
    pub id: String,
    /// Its container's name, which Docker's DNS knows from its start on.
    pub name: String,
    /// Every name that Docker's DNS has for it.
    pub names: Vec<String>,
    /// The Compose service, under whose name it is found by DNS.
    pub service: String,
    /// Its addresses on the networks that it shares with the proxy; none before it starts.
    pub addresses: Vec<IpAddr>,
    /// Where it takes requests, as the proxy knows it.
    pub port: Option<u16>,
    pub labels: BTreeMap<String, String>,
    /// It runs, and Docker checks its health and does not find it healthy, or not yet.
    pub unhealthy: bool,
}

/// The set of instances that new requests have to go to, and those of ours that they must not go to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rotation {
    pub inside: Vec<Endpoint>,
    pub outside: Vec<Endpoint>,
    /// Ids of those inside that were there before: nobody waits for one of them that is sick.
    pub found: BTreeSet<String>,
    /// What gets requests fails: those inside are to have them at once, whatever becomes of those outside.
    pub hurried: bool,
    /// Ids of those outside whose process has ended: they answer nothing any more.
    pub died: BTreeSet<String>,
}

impl Rotation {
    pub fn all(&self) -> Vec<Endpoint> {
        [&self.inside[..], &self.outside[..]].concat()
    }

    /// Those outside that answer nothing any more.
    pub fn dead(&self) -> Vec<Endpoint> {
        self.outside.iter().filter(|e| self.died.contains(&e.id)).cloned().collect()
    }
}

/// These containers as a proxy sees them; those that it does not front are left out.
pub fn endpoints<'c>(proxy: &dyn Proxy, containers: impl Iterator<Item = &'c Container>) -> Vec<Endpoint> {
    let fronted = containers.filter(|c| proxy.routes_to(&Backend::from(*c)));
    let endpoint = |c: &Container| Endpoint {
        id: c.id.clone(),
        name: c.name().into(),
        names: c.names(),
        service: c.compose().map(|(_, service)| service.to_string()).unwrap_or_default(),
        addresses: c.addresses_reached_from(proxy.container()),
        port: proxy.port(c),
        labels: c.config.labels.clone(),
        unhealthy: c.is_unhealthy(),
    };
    fronted.map(endpoint).collect()
}

/// Requests that an instance is still answering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InFlight {
    Exact(usize),
    /// `exact` requests, and `open` connections that may be idle as well; `quiet` is how long none of those can have been
    /// given a new request.
    AtMost {
        exact: usize,
        open: usize,
        quiet: Duration,
    },
}

/// What the running proxy does, as far as it concerns the endpoints that were asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyState {
    /// Ids of those in rotation.
    pub routed: BTreeSet<String>,
    /// Of those the ones that get no request all the same, because the proxy's own check of them fails.
    pub failing: BTreeSet<String>,
    /// The proxy's running processes have what its configuration says.
    pub settled: bool,
    /// By id; an endpoint that is missing has none.
    pub in_flight: BTreeMap<String, InFlight>,
    /// A retired part of the proxy still lives, and may send a late request by the rotation before this one.
    pub lingering: bool,
}

impl ProxyState {
    /// The running proxy sends new requests to exactly this set.
    pub fn confirms(&self, rotation: &Rotation) -> bool {
        let routed = |e: &Endpoint| self.routed.contains(&e.id);
        let found = |e: &Endpoint| rotation.found.contains(&e.id);
        let served = |e: &Endpoint| match found(e) {
            true => routed(e) || e.unhealthy,
            false => routed(e) && !self.failing.contains(&e.id),
        };
        self.settled && rotation.inside.iter().all(served) && !rotation.outside.iter().any(routed)
    }

    /// What is open to those outside of the rotation: requests, and connections that may be idle.
    pub fn open(&self, rotation: &Rotation) -> OpenRequests {
        let of = |e: &Endpoint| self.in_flight.get(&e.id).copied().unwrap_or(InFlight::Exact(0));
        let all = rotation.outside.iter().map(of);
        all.fold(OpenRequests { quiet: Duration::MAX, ..OpenRequests::default() }, |sum, one| match one {
            InFlight::Exact(count) => OpenRequests { requests: sum.requests + count, ..sum },
            InFlight::AtMost { exact, open, quiet } => OpenRequests {
                requests: sum.requests + exact,
                unsure: sum.unsure + open,
                quiet: if open > 0 { sum.quiet.min(quiet) } else { sum.quiet },
            },
        })
    }
}

/// What is open to the instances that leave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenRequests {
    pub requests: usize,
    /// Connections that may carry a request, or be idle.
    pub unsure: usize,
    /// For how long none of them can have been given a new request.
    pub quiet: Duration,
}

impl OpenRequests {
    /// Nothing to wait for any more: no request, and nothing that is not older than the limit.
    pub fn is_over(&self, limit: Duration) -> bool {
        self.requests == 0 && (self.unsure == 0 || self.quiet >= limit)
    }
}

/// A change to the running proxy before the first rollout, and what the report says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    pub exec: Exec,
    /// Empty where it changes nothing that stays.
    pub note: String,
    /// Without it there is no gate and no drain, so its failure ends the deploy.
    pub required: bool,
    /// What is reported where it fails and is not required; empty for docker's own words.
    pub without: String,
}

/// What a rollout is going to need of a proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RolloutShape {
    /// Something may be left in the running proxy.
    pub tune: bool,
    /// How many instances start at a time.
    pub starting: usize,
    pub project: String,
    /// The services it is about, with every name that Docker's DNS has for each.
    pub services: Vec<(String, Vec<String>)>,
    /// The same as its discovery sees it.
    pub backends: Vec<Backend>,
    /// The names of what is replaced in the same run, with a rotation of its own.
    pub beside: Vec<String>,
}

impl RolloutShape {
    pub fn names(&self) -> impl Iterator<Item = &[String]> {
        self.services.iter().map(|(_, names)| names.as_slice())
    }
}

/// A file or a folder that a container is going to be given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountedFile {
    /// Empty for a folder.
    pub text: String,
    pub read_only: bool,
}

/// Gets what a container that does not run yet is going to have at a path, as far as its project's file gives it.
pub type FileLookup<'a> = &'a dyn Fn(&str) -> Option<MountedFile>;

/// A step of giving the route back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandBack {
    Done,
    /// Its discovery has not caught up yet.
    Wait,
    Run(Exec),
}

/// What a proxy's discovery looks at to decide whether it routes to something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backend {
    /// The Compose project and service.
    pub project: String,
    pub service: String,
    /// Every name that Docker's DNS has for it.
    pub names: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    /// Names of its networks.
    pub networks: Vec<String>,
    /// It is there, and not one to come.
    pub runs: bool,
    /// Docker, or its file, checks its health.
    pub has_healthcheck: bool,
    /// `x-zd.drain.command` can take it out of rotation.
    pub has_drain_command: bool,
}

impl From<&Container> for Backend {
    fn from(container: &Container) -> Self {
        let pairs = container.config.env.iter().filter_map(|e| e.split_once('='));
        let (project, service) = container.compose().unwrap_or_default();
        Backend {
            project: project.into(),
            service: service.into(),
            names: container.names(),
            environment: pairs.map(|(k, v)| (k.into(), v.into())).collect(),
            labels: container.config.labels.clone(),
            networks: container.networks().map(String::from).collect(),
            runs: container.is_running(),
            has_healthcheck: container.healthcheck().is_some(),
            has_drain_command: false,
        }
    }
}

/// How long a proxy's own discovery may take to see what is there.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One proxy that runs, in front of some services.
pub trait Proxy: Send + Sync {
    /// What it is and its container's name, for people.
    fn name(&self) -> String;

    /// Its container, whose networks tell which instances it can reach.
    fn container(&self) -> &Container;

    /// Whether its discovery routes to this.
    fn routes_to(&self, backend: &Backend) -> bool;

    /// The port it sends requests to.
    fn port(&self, container: &Container) -> Option<u16>;

    /// It sends HTTP to it, and not FastCGI, uwsgi or gRPC.
    fn speaks_http(&self, _container: &Container) -> bool {
        true
    }

    /// The host that a request for it may name.
    fn host(&self, container: &Container) -> Option<String>;

    /// By which ways clients come to it, the plainest first; none where its configuration does not tell.
    fn entrances(&self, container: &Container) -> Vec<PublicRoute>;

    /// What has to be read before anything else can be told: its own configuration, where that is not in the container's.
    fn introduction(&self) -> Option<Exec> {
        None
    }

    /// Takes in the answer to `introduction`.
    fn learn(&mut self, _answer: &CommandResult) {}

    /// Whether it can be asked and told anything at all about these, by its own configuration: what runs of a service,
    /// and what its file says of those to come. Tells what will be lost all the same, with the fix.
    ///
    /// # Errors
    /// What its configuration lacks, with the fix.
    fn check(&self, _backends: &[Backend]) -> Result<Vec<Risk>, Error> {
        Ok(Vec::new())
    }

    /// Reason why it may route to these although its configuration does not name them.
    fn doubt(&self, _backends: &[Backend]) -> Option<String> {
        None
    }

    /// Files and folders that may name what it routes to, beyond what [`Proxy::fronts`] goes by.
    fn route_files(&self) -> Vec<String> {
        Vec::new()
    }

    /// What is worth a word before anybody deploys, although a deploy does not need it.
    fn advice(&self, _backends: &[Backend]) -> Vec<Risk> {
        Vec::new()
    }

    /// As `learn`, for one that does not run yet; whether its configuration is among these files.
    fn learn_files(&mut self, _files: FileLookup) -> bool {
        true
    }

    /// As `prepare`, for one that does not run yet and is going to have `present` instances behind it.
    ///
    /// # Errors
    /// What will keep it from being prepared, with the fix.
    fn foresee(&self, _files: FileLookup, _wish: &RolloutShape, _present: usize) -> Result<Vec<Risk>, Error> {
        Ok(Vec::new())
    }

    /// Whether a rotation can be set. Where not, its own discovery admits and lets go, and is only watched: an instance
    /// leaves by `x-zd.drain.command`.
    fn steers(&self) -> bool {
        true
    }

    /// What has to be known before it is prepared.
    fn inspect(&self) -> Vec<Exec>;

    /// What has to be changed in it once, so that a rotation can be set; from the answers to `inspect`.
    ///
    /// # Errors
    /// A proxy that cannot be prepared, with the fix.
    fn prepare(&self, answers: &[CommandResult], shape: &RolloutShape) -> Result<Vec<Patch>, Error>;

    /// What will be lost all the same once it is prepared; from the answers to `inspect`.
    fn losses(&self, _answers: &[CommandResult], _wish: &RolloutShape) -> Vec<Risk> {
        Vec::new()
    }

    /// Whether its commands depend on what it does at that moment (`now`, the answer to `question`). Where they do not,
    /// `now` is empty, and a question is saved.
    fn needs_reading(&self) -> bool {
        false
    }

    /// Whether it gets addresses from us, which must not be taken from what other rollouts or nobody is about.
    fn gives_addresses(&self) -> bool {
        false
    }

    /// Addresses of all containers but those of the rollout, for the commands from here on.
    fn note_others(&self, _addresses: BTreeSet<IpAddr>) {}

    /// Keeps those outside, which are not started yet, out of rotation.
    fn gate(&self, now: &CommandResult, rotation: &Rotation) -> Option<Exec>;

    /// Whether `gate` is in force, by what it does now.
    fn holds(&self, _now: &CommandResult, _rotation: &Rotation) -> bool {
        true
    }

    /// A step towards new requests going to exactly this set; none where there is nothing to do, or nothing yet.
    fn route(&self, now: &CommandResult, rotation: &Rotation) -> Option<Exec>;

    /// Asks what the running proxy does.
    fn question(&self, endpoints: &[Endpoint]) -> Exec;

    /// Reads the answer to `question`.
    ///
    /// # Errors
    /// An answer that makes no sense.
    fn read(&self, answer: &CommandResult, endpoints: &[Endpoint]) -> Result<ProxyState, Error>;

    /// Asks why a rotation is not confirmed.
    fn diagnose(&self) -> Exec;

    /// What the error says of the answer to `diagnose`.
    fn diagnosis(&self, said: &CommandResult) -> String {
        said.stderr_or_stdout().into()
    }

    /// Gives the route back: no mark of these stays behind, nor of containers that no longer exist (`existing`).
    fn hand_back(&self, now: &CommandResult, ours: &[Endpoint], existing: &[String]) -> HandBack;

    /// How long `release` may take until its discovery has caught up.
    fn discovery_timeout(&self) -> Duration {
        PATIENCE
    }

    /// How long a retired part of the proxy may still take up a request, in which case a drained instance is kept.
    fn late_request_grace(&self) -> Duration;
}

/// The kinds of proxy there is an adapter for.
pub const KINDS: [&str; 5] = ["nginx-proxy", "haproxy", "dockercloud", "caddy", "traefik"];

/// Every proxy among these containers, running or not.
pub fn detect(containers: &[Container]) -> Vec<Box<dyn Proxy>> {
    let one = |c: &Container| {
        boxed(nginx_proxy::detect(c, containers))
            .or_else(|| boxed(dockercloud::detect(c)))
            .or_else(|| boxed(haproxy::detect(c)))
            .or_else(|| boxed(caddy::detect(c)))
            .or_else(|| boxed(traefik::detect(c)))
    };
    containers.iter().filter_map(one).collect()
}

fn boxed<P: Proxy + 'static>(proxy: Option<P>) -> Option<Box<dyn Proxy>> {
    proxy.map(|p| Box::new(p) as Box<dyn Proxy>)
}

/// A container that the user says is a proxy of this kind.
///
/// # Errors
/// A kind there is no adapter for.
pub fn declared(kind: &str, container: &Container) -> Result<Box<dyn Proxy>, Error> {
    match kind {
        "nginx-proxy" => Ok(Box::new(nginx_proxy::NginxProxy::whole(container))),
        "haproxy" => Ok(Box::new(haproxy::Haproxy::new(container))),
        "dockercloud" => Ok(Box::new(dockercloud::Dockercloud::new(container))),
        "traefik" => Ok(Box::new(traefik::Traefik::new(container))),
        "caddy" => Ok(Box::new(caddy::Caddy::new(container))),
        other => Err(unknown_kind(other)),
    }
}

/// The error for a kind there is no adapter for.
pub fn unknown_kind(kind: &str) -> Error {
    let kinds: Vec<String> = KINDS.iter().chain(&["none"]).map(|k| format!("`{k}`")).collect();
    Error::usage(format!("`x-zd.proxy.kind`: there is no proxy kind `{kind}`"))
        .hint(format!("set `x-zd.proxy.kind` (or `--proxy-kind`) to {}", kinds.join(" or ")))
}

/// Whether an image, by its name, is a proxy that there is an adapter for.
pub fn is_proxy_image(image: &str) -> bool {
    let known =
        [nginx_proxy::is_image, dockercloud::is_image, haproxy::is_image, caddy::is_image, traefik::is_image];
    known.iter().any(|is_one| is_one(image))
}

/// What of a service's environment or labels asks for a route of some proxy, whether or not one runs.
pub fn claim(backend: &Backend) -> Option<&'static str> {
    let by_caddy = || caddy::labelled(backend).is_some();
    None.or(nginx_proxy::claims(&backend.environment).then_some("`VIRTUAL_HOST`"))
        .or_else(|| traefik::claims(&backend.labels).then_some("the labels `traefik.…`"))
        .or_else(|| by_caddy().then_some("the labels `caddy…`"))
}

/// An address as /proc/net/tcp and /proc/net/tcp6 write it: words of four bytes, each in the machine's (little) order.
pub fn hex(address: &IpAddr) -> String {
    let bytes = match address {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let word = |w: &[u8]| w.iter().rev().map(|b| format!("{b:02X}")).collect::<String>();
    bytes.chunks(4).map(word).collect()
}

/// How an IPv4 address begins in /proc/net/tcp6.
const MAPPED: &str = "0000000000000000FFFF0000";

/// Whether an address as the kernel writes it is this one. The end of an IPv6 address may look like an IPv4 address.
pub fn is_written(hexed: &str, address: &IpAddr) -> bool {
    let bare = hexed.strip_prefix(MAPPED).filter(|_| address.is_ipv4()).unwrap_or(hexed);
    bare == hex(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(id: &str) -> Endpoint {
        Endpoint { id: id.into(), ..Endpoint::default() }
    }

    #[test]
    fn a_rotation_is_confirmed_by_exactly_its_set_in_the_running_proxy() {
        let rotation =
            Rotation { inside: vec![endpoint("new")], outside: vec![endpoint("old")], ..Rotation::default() };
        let reading = |routed: &[&str], settled| ProxyState {
            routed: routed.iter().map(|r| r.to_string()).collect(),
            settled,
            ..ProxyState::default()
        };
        assert!(reading(&["new"], true).confirms(&rotation));
        assert!(reading(&["new", "another services"], true).confirms(&rotation));
        assert!(!reading(&["new"], false).confirms(&rotation));
        assert!(!reading(&["new", "old"], true).confirms(&rotation));
        assert!(!reading(&[], true).confirms(&rotation));
    }

    #[test]
    fn nobody_waits_for_a_sick_instance_that_was_there_before() {
        let found = BTreeSet::from(["old".to_string()]);
        let sick = Endpoint { unhealthy: true, ..endpoint("old") };
        let inside = |old: Endpoint| Rotation {
            inside: vec![old, endpoint("new")],
            found: found.clone(),
            ..Rotation::default()
        };
        let reading = |routed: &[&str], failing: &[&str]| ProxyState {
            routed: routed.iter().map(|r| r.to_string()).collect(),
            failing: failing.iter().map(|f| f.to_string()).collect(),
            settled: true,
            ..ProxyState::default()
        };
        assert!(reading(&["old", "new"], &["old"]).confirms(&inside(endpoint("old"))));
        assert!(!reading(&["old", "new"], &["new"]).confirms(&inside(endpoint("old"))));
        assert!(reading(&["new"], &[]).confirms(&inside(sick)));
        assert!(!reading(&["new"], &[]).confirms(&inside(endpoint("old"))));
    }

    #[test]
    fn what_has_been_given_no_request_for_the_limit_is_not_waited_for() {
        let rotation =
            Rotation { inside: vec![], outside: vec![endpoint("a"), endpoint("b")], ..Rotation::default() };
        let open = |exact, unsure, seconds| {
            let quiet = Duration::from_secs(seconds);
            let in_flight = [
                ("a".to_string(), InFlight::AtMost { exact, open: unsure, quiet }),
                ("b".to_string(), InFlight::Exact(1)),
            ];
            ProxyState { in_flight: in_flight.into(), ..ProxyState::default() }.open(&rotation)
        };
        assert_eq!(open(2, 3, 4), OpenRequests { requests: 3, unsure: 3, quiet: Duration::from_secs(4) });
        let limit = Duration::from_secs(30);
        let over = |requests, unsure, seconds| {
            OpenRequests { requests, unsure, quiet: Duration::from_secs(seconds) }.is_over(limit)
        };
        assert!(over(0, 0, 0) && over(0, 3, 30));
        assert!(!over(1, 0, 30) && !over(0, 3, 29));
    }

    #[test]
    fn an_unknown_kind_of_proxy_is_refused_with_the_kinds_there_are() {
        let error = declared("apache", &Container::default()).err().unwrap();
        assert!(KINDS.iter().all(|k| error.to_string().contains(&format!("`{k}`"))), "{error}");
    }
}
