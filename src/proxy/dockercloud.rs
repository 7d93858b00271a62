//! dockercloud/haproxy. Its manager renders a configuration and reloads HAProxy whenever a container starts or
//! ends. Such a reload admits instances that are not ready, and resets the drained ones. So compose-zd freezes
//! the manager during a rollout. It resumes the manager only to admit ready instances, and at the end.

mod agent_script;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::haproxy::config::HaproxyConfig;
use super::haproxy::server::Server;
use super::kit::connections::{self, Connection};
use super::public_route::{PublicRoute, is_plain};
use super::{
    Abilities, Adapter, Audit, Backend, Change, Endpoint, Goal, InFlight, Next, Place, Planned, Proxy,
    ProxyContainer, ProxyState, Query, RolloutShape, Rotation, RouteInfo, boxed, tcp_migrate,
};
use crate::docker::inspect::Container;
use crate::docker::{CommandResult, Exec};
use crate::error::Error;
use crate::finding::Finding;
use agent_script::AGENT_SCRIPT;

const CONFIG: &str = "/haproxy.cfg";

/// Label with the Compose project of a container.
const PROJECT: &str = "com.docker.compose.project";

/// Mark of the rollout that has frozen the manager, as in the script.
const MARK: &str = "/tmp/compose-zd-frozen";

/// Variable with the services that the manager watches besides its links: `PROJECT:SERVICE,…`.
const ADDITIONAL: &str = "ADDITIONAL_SERVICES";

/// Time for which a client with a connection to a retired HAProxy may still send a request, which goes by the
/// configuration before the reload.
const LATE_REQUEST_GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq)]
pub struct Dockercloud {
    place: ProxyContainer,
    config: HaproxyConfig,
}

pub const ADAPTER: Adapter = Adapter {
    kind: "dockercloud",
    is_image,
    route_setting: |_| None,
    detect: |container, _| detect(container).map(boxed),
    declared: |container| boxed(Dockercloud::new(container)),
};

pub fn detect(container: &Container) -> Option<Dockercloud> {
    let mut words = std::iter::once(&container.path).chain(&container.args);
    let is_process = words.any(|w| Path::new(w).file_name().is_some_and(|f| f == "dockercloud-haproxy"));
    (is_process || is_image(&container.config.image)).then(|| Dockercloud::new(container))
}

/// The image under each of its names over the years, from any registry.
pub fn is_image(image: &str) -> bool {
    let name = image.split(['@']).next().unwrap_or("");
    let mut parts = name.rsplit('/');
    let last = parts.next().unwrap_or("").split(':').next();
    matches!(
        (parts.next(), last),
        (Some("dockercloud" | "tutum"), Some("haproxy")) | (Some("docker"), Some("dockercloud-haproxy"))
    )
}

impl Dockercloud {
    pub fn new(container: &Container) -> Self {
        Dockercloud {
            place: ProxyContainer::new("dockercloud/haproxy", container),
            config: HaproxyConfig::default(),
        }
    }

    /// Runs an action of the script, for a rollout of `project`.
    fn run_script(&self, action: &str, project: &str, commands: &[String]) -> Exec {
        let words = ["python", "-c", AGENT_SCRIPT, action, project, &commands.join("; ")];
        Exec::new(&self.place.container.id, words.map(String::from).to_vec())
    }

    /// Command that freezes the manager once it has no servers but these.
    fn freeze(&self, project: &str, running: &[Endpoint]) -> Exec {
        let mut exec = self.run_script("freeze", project, &[]);
        exec.argv.extend(running.iter().map(|e| e.name.clone()));
        exec
    }

    /// `ADDITIONAL_SERVICES` names the service.
    fn is_additional(&self, backend: &Backend) -> bool {
        let name = (backend.project.as_str(), backend.service.as_str());
        let mut pairs = self.place.container.env(ADDITIONAL).unwrap_or("").split(',');
        pairs.any(|pair| pair.trim().split_once(':') == Some(name))
    }

    fn is_linked(&self, backend: &Backend) -> bool {
        self.place.container.links().any(|name| is_instance(name, backend))
    }

    fn has_server(&self, backend: &Backend) -> bool {
        self.config.static_servers().any(|f| is_instance(&f.name, backend))
    }

    /// A link names a container as Compose v2 does (`p-app-1`), which the manager does not understand.
    fn has_unusable_links(&self, project: &str) -> bool {
        self.place.container.links().any(|l| l.starts_with(&format!("{project}-")))
    }

    fn no_server(&self, backend: &Backend) -> Error {
        let (project, service) = (&backend.project, &backend.service);
        let why = if self.has_unusable_links(project) {
            format!(
                "it has no server for `{service}`: its links name containers `{project}-…`, as Compose v2 does, but it \
                 only knows `{project}_…`"
            )
        } else {
            format!("it has no server for `{service}`")
        };
        let fix = format!(
            "give it the environment `{ADDITIONAL}: {project}:{service}`; on Docker Engine 29 or later the engine also \
             needs `DOCKER_MIN_API_VERSION=1.24`"
        );
        self.place.refused(&why, fix).rule(&"dockercloud-links")
    }
}

/// The name is one of Compose's names of a container of the service: `p-app-1`, or `p_app_1` of older versions.
fn is_instance(name: &str, backend: &Backend) -> bool {
    let (project, service) = (&backend.project, &backend.service);
    let number = |joint: char| {
        let rest = name.strip_prefix(&format!("{project}{joint}{service}{joint}"))?;
        rest.parse::<u32>().ok()
    };
    number('-').or(number('_')).is_some() || backend.names.iter().any(|n| n == name && n != service)
}

impl Proxy for Dockercloud {
    fn place(&self) -> Place<'_> {
        Place::Container(&self.place)
    }

    fn routes_to(&self, backend: &Backend) -> bool {
        let is_known = self.is_additional(backend) || self.is_linked(backend) || self.has_server(backend);
        is_known && self.place.reaches(backend)
    }

    /// Without `VIRTUAL_HOST`, any host matches at port 80.
    fn route_to(&self, backend: &Backend) -> RouteInfo {
        let line = self.config.static_servers().find(|f| is_instance(&f.name, backend));
        let public = match backend.env("VIRTUAL_HOST") {
            None => vec![PublicRoute::at(80, false)],
            Some(hosts) => hosts.split(',').filter_map(|h| virtual_host(h.trim())).collect(),
        };
        let port = line.and_then(|f| f.port).or(backend.exposed.first().copied());
        // A service that is still to start gets its place in the backend of another one.
        let own = line.map(|line| line.backend.as_str()).into_iter();
        let all = self.config.static_servers().map(|line| line.backend.as_str());
        let answer_timeout = own.chain(all).filter_map(|name| self.config.answer_timeout(name)).next();
        RouteInfo { port, public, answer_timeout, ..RouteInfo::default() }
    }

    fn introduction(&self) -> Option<Exec> {
        Some(Exec::new(&self.place.container.id, ["cat", CONFIG].map(String::from).to_vec()))
    }

    fn learn(&mut self, output: &CommandResult) {
        self.config = HaproxyConfig::parse(&output.stdout);
    }

    fn audit(&self, shape: &RolloutShape, planned: Option<&Planned>) -> Audit {
        let audit = Audit::default().and(|| self.check(&shape.backends));
        if planned.is_some() { audit.and(|| self.foresee(shape).map(|()| Vec::new())) } else { audit }
    }

    fn abilities(&self) -> Abilities {
        Abilities { late_requests: LATE_REQUEST_GRACE, ..Abilities::default() }
    }

    fn queries(&self, goal: &Goal) -> Vec<Query> {
        match goal {
            Goal::Patched(_) => vec![tcp_migrate::query(&self.place).into()],
            _ => vec![self.run_script("state", "", &[]).into(), self.place.connections_to(&goal.endpoints())],
        }
    }

    fn advance(&self, answers: &[CommandResult], goal: &Goal) -> Result<(ProxyState, Next), Error> {
        let output = answers.first().cloned().unwrap_or_default();
        let state =
            if goal.needs_state() { self.read(answers, &goal.endpoints())? } else { ProxyState::default() };
        let next = match goal {
            Goal::Observed(_) => Next::Done,
            Goal::Patched(shape) => Next::Finish(self.prepare(answers, shape)?),
            Goal::Gated(rotation) => self.gate(&output, rotation),
            Goal::Rotation(rotation) => Next::run_or_wait(self.route(&output, rotation)),
            Goal::HandedBack(discovery) => self.hand_back(&output, &discovery.endpoints),
        };
        Ok((state, next))
    }

    fn diagnose(&self) -> Query {
        let frozen_by = format!(
            "sed 's/^\\([^ ]*\\) .*/its manager is frozen for a deploy of project \\1/' {MARK} 2>/dev/null"
        );
        self.place.sh(format!("haproxy -c -f {CONFIG} 2>&1 | tail -n 4; {frozen_by}")).into()
    }
}

impl Dockercloud {
    /// Change of the kernel setting, while the manager is frozen. The helper container that changes the setting
    /// may end between the manager's two look-ups, which would make the manager render a configuration without
    /// servers.
    fn prepare(&self, outputs: &[CommandResult], shape: &RolloutShape) -> Result<Vec<Change>, Error> {
        let unreported = |action| Change::from(self.run_script(action, &shape.project, &[]));
        let output = outputs.first().filter(|_| shape.tune);
        let patch = output.and_then(|output| tcp_migrate::patch(&self.place, output));
        Ok(patch.map(|patch| vec![unreported("freeze"), patch, unreported("release")]).unwrap_or_default())
    }

    /// Freezes the manager even if it is frozen already: a freeze lasts ten minutes from the last one, and a
    /// run of several services may take longer.
    fn gate(&self, output: &CommandResult, rotation: &Rotation) -> Next {
        let endpoints = rotation.all();
        let freeze = self.freeze(project_of(&endpoints), &rotation.inside);
        match DockercloudState::parse(&output.stdout) {
            Some(state) if state.is_frozen_for(project_of(&endpoints)) => Next::finish(freeze),
            _ => Next::run(freeze),
        }
    }

    /// Resumes the manager until HAProxy has all instances inside. Then freezes the manager again, so that no
    /// reload resets the drained instances. Drains those outside once all inside get requests.
    fn route(&self, output: &CommandResult, rotation: &Rotation) -> Option<Exec> {
        let state = DockercloudState::parse(&output.stdout)?;
        let endpoints = rotation.all();
        let project = project_of(&endpoints);
        let is_frozen = state.is_frozen_for(project);
        if rotation.inside.iter().any(|e| state.servers_of(e).next().is_none()) {
            return match (is_frozen, state.knows_any(&endpoints)) {
                (true, _) => Some(self.run_script("resume", project, &[])),
                (false, true) => None,
                (false, false) => Some(self.run_script("render", project, &[])),
            };
        }
        let inside = || rotation.inside.iter().flat_map(|e| state.servers_of(e));
        // A relay does not answer the check of a path (`option httpchk`).
        let of_relay = rotation.inside.iter().filter(|e| e.is_relay()).flat_map(|e| state.servers_of(e));
        let unchecked = of_relay.filter(|s| s.is_checked()).map(Server::disable_check);
        let ready = inside().filter(|s| s.is_out()).map(|s| s.set("ready"));
        let admit: Vec<String> = unchecked.chain(ready).collect();
        if !admit.is_empty() || !is_frozen {
            return Some(self.run_script("freeze", project, &admit));
        }
        if !inside().all(Server::is_routed) {
            return None;
        }
        let outside = rotation.outside.iter().flat_map(|e| state.servers_of(e)).filter(|s| !s.is_out());
        let drain: Vec<String> = outside.map(|s| self.config.drain(s)).collect();
        (!drain.is_empty()).then(|| self.run_script("send", project, &drain))
    }

    fn read(&self, answers: &[CommandResult], endpoints: &[Endpoint]) -> Result<ProxyState, Error> {
        let output = answers.first().cloned().unwrap_or_default();
        let connections = connections::parse(answers.get(1));
        let state = DockercloudState::parse(&output.stdout).ok_or_else(|| {
            self.place
                .refused("cannot read the state of its HAProxy", "look at the container's `docker logs`")
                .detail(output.stderr_or_stdout())
        })?;
        let ids = |is: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<String> {
            endpoints.iter().filter(|e| is(e)).map(|e| e.id.clone()).collect()
        };
        Ok(ProxyState {
            routed: ids(&|e| state.servers_of(e).any(|s| !s.is_out())),
            failing: ids(&|e| !state.servers_of(e).any(Server::is_routed)),
            config_applied: state.is_frozen_for(project_of(endpoints)),
            in_flight: endpoints
                .iter()
                .map(|e| (e.id.clone(), state.in_flight(e, &connections, self.config.has_tunnels)))
                .collect(),
            has_retired_process: state.retired_for.is_some(),
        })
    }

    /// Resumes the manager. Its next render has only the running containers, and the reload clears every flag.
    fn hand_back(&self, output: &CommandResult, endpoints: &[Endpoint]) -> Next {
        let Some(state) = DockercloudState::parse(&output.stdout) else {
            return Next::Wait;
        };
        let is_flagged = endpoints.iter().flat_map(|e| state.servers_of(e)).any(Server::is_out);
        let is_unknown = endpoints.iter().any(|e| !e.addresses.is_empty()) && !state.knows_any(endpoints);
        let project = project_of(endpoints);
        match (state.is_frozen_for(project), is_flagged) {
            (true, _) => Next::run(self.run_script("release", project, &[])),
            // Waits for the rollout of another project.
            _ if state.is_frozen && (is_flagged || is_unknown) => Next::Wait,
            _ if is_unknown => Next::run(self.run_script("render", project, &[])),
            (false, true) => Next::Wait,
            (false, false) => Next::Done,
        }
    }
}

/// Project of a rollout; empty where no instance has the label.
fn project_of(endpoints: &[Endpoint]) -> &str {
    endpoints.iter().find_map(|e| e.labels.get(PROJECT)).map_or("", String::as_str)
}

/// Parses `app.example`, `https://app.example/shop` or `*:8080/`.
fn virtual_host(text: &str) -> Option<PublicRoute> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    let tls = ["https", "wss"].contains(&scheme);
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, if tls { "443" } else { "80" }));
    let is_any = ["", "*"].contains(&host);
    (is_any || is_plain(host)).then_some(())?;
    let path = path.trim_end_matches('*').to_string();
    Some(PublicRoute { port: port.parse().ok()?, tls, host: (!is_any).then(|| host.into()), path })
}

impl Dockercloud {
    fn check(&self, backends: &[Backend]) -> Result<Vec<Finding>, Error> {
        let mut running = backends.iter().filter(|b| b.is_running);
        if let Some(backend) = running.find(|b| !self.has_server(b)) {
            return Err(self.no_server(backend));
        }
        let cuts_requests = self.place.container.env("RELOAD_TIMEOUT") == Some("-1");
        Ok(cuts_requests.then(|| self.reload_timeout_risk()).into_iter().collect())
    }

    fn foresee(&self, shape: &RolloutShape) -> Result<(), Error> {
        let future = |(service, names): &(String, Vec<String>)| Backend {
            project: shape.project.clone(),
            service: service.clone(),
            names: names.clone(),
            ..Backend::default()
        };
        let is_known = |b: &Backend| self.is_additional(b) || !self.has_unusable_links(&b.project);
        match shape.services.iter().map(future).find(|b| !is_known(b)) {
            Some(backend) => Err(self.no_server(&backend)),
            None => Ok(()),
        }
    }

    fn reload_timeout_risk(&self) -> Finding {
        let message =
            format!("{}: `RELOAD_TIMEOUT=-1` makes each of its reloads cut every request", self.name());
        Finding::loss("dockercloud-kills", message, "remove it")
    }
}

/// State of the proxy, as the script printed it.
struct DockercloudState {
    /// Servers of all backends.
    slots: Vec<Server>,
    is_frozen: bool,
    /// Project whose rollout has frozen the manager; may be empty.
    frozen_by: String,
    /// Time since the retirement of an HAProxy that still finishes its open requests.
    retired_for: Option<Duration>,
}

impl DockercloudState {
    fn parse(text: &str) -> Option<DockercloudState> {
        let marked = |mark: &'static str| text.lines().filter_map(move |l| l.strip_prefix(mark));
        let manager = marked("@manager ").next()?;
        let age = marked("@retired ").find_map(|seconds| seconds.parse::<f64>().ok());
        Some(DockercloudState {
            slots: Server::parse(text)?,
            is_frozen: manager == "T",
            frozen_by: marked("@frozen ").next().unwrap_or_default().trim().into(),
            retired_for: age.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()),
        })
    }

    /// Frozen, and not by a rollout of another project.
    fn is_frozen_for(&self, project: &str) -> bool {
        self.is_frozen && (self.frozen_by.is_empty() || self.frozen_by == project)
    }

    /// HAProxy has a server for one of these. When any container ends between the manager's two look-ups, the
    /// manager renders a configuration without servers. It also drops a service without running containers.
    /// Both need another render.
    fn knows_any(&self, endpoints: &[Endpoint]) -> bool {
        endpoints.iter().any(|e| self.servers_of(e).next().is_some())
    }

    fn servers_of<'a>(&'a self, endpoint: &'a Endpoint) -> impl Iterator<Item = &'a Server> {
        self.slots.iter().filter(|s| s.name == endpoint.name)
    }

    /// HAProxy's own counter is exact. The connections include those of a retired HAProxy, and idle ones of
    /// both.
    fn in_flight(&self, endpoint: &Endpoint, connections: &[Connection], has_streams: bool) -> InFlight {
        let exact = self.servers_of(endpoint).map(|s| s.in_flight).sum::<usize>();
        let open = connections::to_endpoint(connections, endpoint);
        match self.retired_for {
            Some(quiet) => InFlight::Connections { exact, open, quiet, has_streams },
            None => InFlight::Exact(exact),
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub mod properties;
