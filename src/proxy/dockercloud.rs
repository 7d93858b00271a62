//! dockercloud/haproxy: its manager renders a configuration and reloads HAProxy at every start and end of a container,
//! which admits what is not ready and forgets who is drained. So the manager is frozen while a rollout runs, and only
//! let go to take in the instances that are ready, and at the end.

mod agent_script;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::haproxy::config::HaproxyConfig;
use super::haproxy::server::Server;
use super::public_route::{PublicRoute, is_plain};
use super::{
    Backend, Endpoint, FileLookup, HandBack, InFlight, Patch, Proxy, ProxyState, RolloutShape, Rotation,
    tcp_migrate,
};
use crate::docker::inspect::Container;
use crate::docker::{CommandResult, Exec};
use crate::error::{Error, Risk};
use agent_script::PROGRAM;

const CONFIG: &str = "/haproxy.cfg";

/// The label with the project that Compose made a container for.
const PROJECT: &str = "com.docker.compose.project";

/// Mark of the rollout that has the manager frozen, as the program has it.
const MARK: &str = "/tmp/compose-zd-frozen";

/// What the manager watches besides its links: `PROJECT:SERVICE,…`.
const ADDITIONAL: &str = "ADDITIONAL_SERVICES";

/// How long a client that kept its connection to a retired HAProxy may still send a request, which goes by the
/// configuration before the reload.
const LINGER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq)]
pub struct Dockercloud {
    container: Container,
    config: HaproxyConfig,
}

pub fn detect(container: &Container) -> Option<Dockercloud> {
    let mut words = std::iter::once(&container.path).chain(&container.args);
    let runs = words.any(|w| Path::new(w).file_name().is_some_and(|f| f == "dockercloud-haproxy"));
    (runs || is_image(&container.config.image)).then(|| Dockercloud::new(container))
}

/// The image by the names it had over the years, from any registry.
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
        Dockercloud { container: container.clone(), config: HaproxyConfig::default() }
    }

    /// `project` is the one whose rollout it is.
    fn run(&self, action: &str, project: &str, commands: &[String]) -> Exec {
        let words = ["python", "-c", PROGRAM, action, project, &commands.join("; ")];
        Exec::new(&self.container.id, words.map(String::from).to_vec())
    }

    /// Freezes the manager once it knows of nobody but these.
    fn freeze_with(&self, project: &str, running: &[Endpoint]) -> Exec {
        let mut exec = self.run("freeze", project, &[]);
        exec.argv.extend(running.iter().map(|e| e.name.clone()));
        exec
    }

    /// Services that it is told of by name.
    fn is_additional(&self, backend: &Backend) -> bool {
        let wanted = (backend.project.as_str(), backend.service.as_str());
        let mut all = self.container.env(ADDITIONAL).unwrap_or("").split(',');
        all.any(|pair| pair.trim().split_once(':') == Some(wanted))
    }

    fn is_linked(&self, backend: &Backend) -> bool {
        self.container.links().any(|name| is_instance(name, backend))
    }

    fn has_server(&self, backend: &Backend) -> bool {
        self.config.static_servers.iter().any(|f| is_instance(&f.name, backend))
    }

    /// Drained servers still take the clients that a cookie ties to them; in maintenance they do not.
    fn drain(&self, slot: &Server) -> String {
        slot.set(if self.config.sticky.contains(&slot.backend) { "maint" } else { "drain" })
    }

    fn refused(&self, why: &str, hint: String) -> Error {
        Error::unchanged(format!("{}: {why}", self.name())).hint(hint)
    }

    /// Compose v2 names a container `p-app-1`, of which it can make nothing.
    fn is_linked_in_vain(&self, project: &str) -> bool {
        self.container.links().any(|l| l.starts_with(&format!("{project}-")))
    }

    fn without_server(&self, backend: &Backend) -> Error {
        let (project, service) = (&backend.project, &backend.service);
        let why = match self.is_linked_in_vain(project) {
            true => format!(
                "it has no server for `{service}`: its links name containers `{project}-…`, as Compose v2 does, and it \
                 only knows `{project}_…`"
            ),
            false => format!("it has no server for `{service}`"),
        };
        let fix = format!(
            "give it the environment `{ADDITIONAL}: {project}:{service}`; on Docker Engine 29 or later the engine also \
             needs `DOCKER_MIN_API_VERSION=1.24`"
        );
        self.refused(&why, fix).rule(&"dockercloud-links")
    }
}

/// Whether this is a name that Compose gives to a container of the service: `p-app-1`, or `p_app_1` as it used to.
fn is_instance(name: &str, backend: &Backend) -> bool {
    let (project, service) = (&backend.project, &backend.service);
    let number = |joint: char| {
        let rest = name.strip_prefix(&format!("{project}{joint}{service}{joint}"))?;
        rest.parse::<u32>().ok()
    };
    number('-').or(number('_')).is_some() || backend.names.iter().any(|n| n == name && n != service)
}

impl Proxy for Dockercloud {
    fn name(&self) -> String {
        format!("dockercloud/haproxy `{}`", self.container.name())
    }

    fn container(&self) -> &Container {
        &self.container
    }

    fn routes_to(&self, backend: &Backend) -> bool {
        let reaches = |n: &String| self.container.networks().any(|own| own == n);
        let known = self.is_additional(backend) || self.is_linked(backend) || self.has_server(backend);
        known && backend.networks.iter().any(reaches)
    }

    fn port(&self, container: &Container) -> Option<u16> {
        let backend = Backend::from(container);
        let line = self.config.static_servers.iter().find(|f| is_instance(&f.name, &backend));
        line.and_then(|f| f.port).or(container.exposed_tcp().first().copied())
    }

    fn host(&self, _container: &Container) -> Option<String> {
        None
    }

    /// Without `VIRTUAL_HOST` any host is answered, at port 80.
    fn entrances(&self, container: &Container) -> Vec<PublicRoute> {
        match container.env("VIRTUAL_HOST") {
            None => vec![PublicRoute::at(80, false)],
            Some(hosts) => hosts.split(',').filter_map(|h| virtual_host(h.trim())).collect(),
        }
    }

    fn introduction(&self) -> Option<Exec> {
        Some(Exec::new(&self.container.id, ["cat", CONFIG].map(String::from).to_vec()))
    }

    fn learn(&mut self, answer: &CommandResult) {
        self.config = HaproxyConfig::parse(&answer.stdout);
    }

    fn check(&self, backends: &[Backend]) -> Result<Vec<Risk>, Error> {
        let mut running = backends.iter().filter(|b| b.is_running);
        if let Some(backend) = running.find(|b| !self.has_server(b)) {
            return Err(self.without_server(backend));
        }
        let kills = self.container.env("RELOAD_TIMEOUT") == Some("-1");
        Ok(kills.then(|| self.kills_at_reload()).into_iter().collect())
    }

    fn foresee(&self, _files: FileLookup, shape: &RolloutShape, _present: usize) -> Result<Vec<Risk>, Error> {
        let coming = |(service, names): &(String, Vec<String>)| Backend {
            project: shape.project.clone(),
            service: service.clone(),
            names: names.clone(),
            ..Backend::default()
        };
        let told = |b: &Backend| self.is_additional(b) || !self.is_linked_in_vain(&b.project);
        match shape.services.iter().map(coming).find(|b| !told(b)) {
            Some(backend) => Err(self.without_server(&backend)),
            None => Ok(Vec::new()),
        }
    }

    fn inspect(&self) -> Vec<Exec> {
        vec![tcp_migrate::query(&self.container)]
    }

    /// While the manager stands still: a container that goes between its two looks, as the one does that changes the
    /// setting, makes it render a configuration without servers.
    fn prepare(&self, answers: &[CommandResult], shape: &RolloutShape) -> Result<Vec<Patch>, Error> {
        let quietly = |action| Patch {
            exec: self.run(action, &shape.project, &[]),
            note: String::new(),
            required: true,
            failure_note: String::new(),
        };
        let answer = answers.first().filter(|_| shape.tune);
        let kept = answer.and_then(|a| tcp_migrate::patch(&self.container, &self.name(), a));
        Ok(kept.map(|kept| vec![quietly("freeze"), kept, quietly("release")]).unwrap_or_default())
    }

    fn needs_reading(&self) -> bool {
        true
    }

    /// Also where it stands still already: that is for ten minutes from the last time on, and a run of several services
    /// may take longer.
    fn gate(&self, now: &CommandResult, rotation: &Rotation) -> Option<Exec> {
        DockercloudState::parse(&now.stdout)
            .map(|_| self.freeze_with(project_of(&rotation.all()), &rotation.inside))
    }

    fn holds(&self, now: &CommandResult, rotation: &Rotation) -> bool {
        DockercloudState::parse(&now.stdout).is_some_and(|a| a.is_frozen_for(project_of(&rotation.all())))
    }

    /// Lets the manager take in those inside that HAProxy does not know yet; freezes it again, so that no reload forgets
    /// who is drained; and drains those outside once all inside take requests.
    fn route(&self, now: &CommandResult, rotation: &Rotation) -> Option<Exec> {
        let answer = DockercloudState::parse(&now.stdout)?;
        let all = rotation.all();
        let project = project_of(&all);
        let frozen = answer.is_frozen_for(project);
        if rotation.inside.iter().any(|e| answer.of(e).next().is_none()) {
            return match (frozen, answer.knows_any(&all)) {
                (true, _) => Some(self.run("resume", project, &[])),
                (false, true) => None,
                (false, false) => Some(self.run("render", project, &[])),
            };
        }
        let inside = || rotation.inside.iter().flat_map(|e| answer.of(e));
        let admit: Vec<String> = inside().filter(|s| s.is_out()).map(|s| s.set("ready")).collect();
        if !admit.is_empty() || !frozen {
            return Some(self.run("freeze", project, &admit));
        }
        if !inside().all(Server::is_routed) {
            return None;
        }
        let outside = rotation.outside.iter().flat_map(|e| answer.of(e)).filter(|s| !s.is_out());
        let drain: Vec<String> = outside.map(|s| self.drain(s)).collect();
        (!drain.is_empty()).then(|| self.run("tell", project, &drain))
    }

    fn question(&self, _endpoints: &[Endpoint]) -> Exec {
        self.run("ask", "", &[])
    }

    fn read(&self, answer: &CommandResult, endpoints: &[Endpoint]) -> Result<ProxyState, Error> {
        let answer = DockercloudState::parse(&answer.stdout).ok_or_else(|| {
            self.refused("its HAProxy does not tell what it does", "look at `docker logs` of it".into())
                .detail(answer.stderr_or_stdout())
        })?;
        let ids = |keep: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<String> {
            endpoints.iter().filter(|e| keep(e)).map(|e| e.id.clone()).collect()
        };
        Ok(ProxyState {
            routed: ids(&|e| answer.of(e).any(|s| !s.is_out())),
            failing: ids(&|e| !answer.of(e).any(Server::is_routed)),
            config_applied: answer.is_frozen_for(project_of(endpoints)),
            in_flight: endpoints.iter().map(|e| (e.id.clone(), answer.in_flight(e))).collect(),
            has_retired_process: answer.retired.is_some(),
        })
    }

    fn diagnose(&self) -> Exec {
        let others = format!(
            "sed 's/^\\([^ ]*\\) .*/its manager is frozen for a deploy of project \\1/' {MARK} 2>/dev/null"
        );
        Exec::sh(&self.container.id, format!("haproxy -c -f {CONFIG} 2>&1 | tail -n 4; {others}"))
    }

    /// The manager's next render has only what runs; with the reload every flag goes.
    fn hand_back(&self, now: &CommandResult, ours: &[Endpoint], _existing: &[String]) -> HandBack {
        let Some(answer) = DockercloudState::parse(&now.stdout) else {
            return HandBack::Wait;
        };
        let flagged = ours.iter().flat_map(|e| answer.of(e)).any(Server::is_out);
        let is_unknown = ours.iter().any(|e| !e.addresses.is_empty()) && !answer.knows_any(ours);
        let project = project_of(ours);
        match (answer.is_frozen_for(project), flagged) {
            (true, _) => HandBack::Run(self.run("release", project, &[])),
            // It waits for the other project's rollout.
            _ if answer.frozen && (flagged || is_unknown) => HandBack::Wait,
            _ if is_unknown => HandBack::Run(self.run("render", project, &[])),
            (false, true) => HandBack::Wait,
            (false, false) => HandBack::Done,
        }
    }

    fn late_request_grace(&self) -> Duration {
        LINGER
    }
}

/// The project of a rollout; none where no instance tells.
fn project_of(endpoints: &[Endpoint]) -> &str {
    endpoints.iter().find_map(|e| e.labels.get(PROJECT)).map_or("", String::as_str)
}

/// Reads `app.example`, `https://app.example/shop` or `*:8080/`.
fn virtual_host(text: &str) -> Option<PublicRoute> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
    let tls = ["https", "wss"].contains(&scheme);
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, if tls { "443" } else { "80" }));
    let any = ["", "*"].contains(&host);
    (any || is_plain(host)).then_some(())?;
    let path = path.trim_end_matches('*').to_string();
    Some(PublicRoute { port: port.parse().ok()?, tls, host: (!any).then(|| host.into()), path })
}

impl Dockercloud {
    fn kills_at_reload(&self) -> Risk {
        let says =
            format!("{}: `RELOAD_TIMEOUT=-1` makes each of its reloads cut every request", self.name());
        Risk::grave("dockercloud-kills", says, "remove it")
    }
}

/// What the program printed.
struct DockercloudState {
    /// Every server, of every backend.
    slots: Vec<Server>,
    frozen: bool,
    /// Project whose rollout has frozen it.
    holder: String,
    /// How long ago an HAProxy was retired that still finishes what it has.
    retired: Option<Duration>,
    /// Remote addresses of all connections from its container, while there is such a one.
    connections: Vec<String>,
}

impl DockercloudState {
    fn parse(text: &str) -> Option<DockercloudState> {
        let of = |mark: &'static str| text.lines().filter_map(move |l| l.strip_prefix(mark));
        let manager = of("@manager ").next()?;
        let age = of("@retired ").find_map(|seconds| seconds.parse::<f64>().ok());
        Some(DockercloudState {
            slots: Server::parse(text)?,
            frozen: manager == "T",
            holder: of("@frozen ").next().unwrap_or_default().trim().into(),
            retired: age.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()),
            connections: of("@connection ").map(String::from).collect(),
        })
    }

    /// Frozen, and by no rollout of another project.
    fn is_frozen_for(&self, project: &str) -> bool {
        self.frozen && (self.holder.is_empty() || self.holder == project)
    }

    /// The manager renders a configuration without servers when a container, anybody's, goes between its two looks; and
    /// it forgets a service of which nothing ran. Then it has to be asked for another one.
    fn knows_any(&self, endpoints: &[Endpoint]) -> bool {
        endpoints.iter().any(|e| self.of(e).next().is_some())
    }

    fn of<'a>(&'a self, endpoint: &'a Endpoint) -> impl Iterator<Item = &'a Server> {
        self.slots.iter().filter(|s| s.name == endpoint.name)
    }

    /// HAProxy counts its own requests; those of a retired one are among the connections, with idle ones of both.
    fn in_flight(&self, endpoint: &Endpoint) -> InFlight {
        let exact = self.of(endpoint).map(|s| s.in_flight).sum::<usize>();
        let is_ours = |c: &&String| endpoint.addresses.iter().any(|a| super::matches_proc_net(c, a));
        let open = self.connections.iter().filter(is_ours).count().saturating_sub(exact);
        match self.retired {
            Some(quiet) if open > 0 => InFlight::AtMost { exact, open, quiet },
            _ => InFlight::Exact(exact),
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub mod properties;
