//! nginx-proxy with docker-gen, in one container or two. Marker files gate and drain instances, and the start
//! time of nginx's workers confirms the switch. Connections in nginx's network namespace count as requests in
//! flight.

mod multiports;
mod scripts;
mod template;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::kit::clock::{parse_clock, parse_time};
use super::kit::{sockets, version};
use super::nginx;
use super::public_route::{PublicRoute, is_plain};
use super::{
    Abilities, Adapter, Audit, Backend, Change, Discovery, Endpoint, FileLookup, Goal, InFlight, Next, Place,
    Planned, Proxy, ProxyContainer, ProxyFiles, ProxyState, Query, ReadBy, RolloutShape, Rotation, RouteInfo,
    boxed,
};
use crate::docker::inspect::Container;
use crate::docker::{CommandResult, Exec};
use crate::error::Error;
use crate::finding::Finding;
use crate::shell;
use multiports::HostPath;
use scripts::{
    hand_back_script, install_script, keepalive_script, route_script, state_script, urgent_route_script,
};
use template::{MARKERS, PatchResult};

/// Configuration file that compose-zd adds to nginx. nginx reads it first; only an nginx that knows the
/// directive gets it.
const KEEPALIVE_FILE: &str = "/etc/nginx/conf.d/00-compose-zd.conf";

/// Time for which a worker that a reload retired keeps idle client connections open. Each of them may bring one
/// more request, which goes to the old rotation. Without this time a client may find its connection closed.
/// Source: nginx `keepalive_min_timeout`, since 1.27.4.
const KEEPALIVE_MIN_TIMEOUT: Duration = Duration::from_secs(5);

const KEEPALIVE_SINCE: [u32; 3] = [1, 27, 4];

const TITLE: &str = "nginx-proxy";

pub const ADAPTER: Adapter = Adapter {
    kind: TITLE,
    is_image,
    route_setting: |backend| requests_route(&backend.environment).then_some("`VIRTUAL_HOST`"),
    detect: |container, all| detect(container, all).map(boxed),
    declared: |container| boxed(NginxProxy::single_container(container)),
};

/// Seconds by which a worker that has read a file may seem older than the file: clocks tick in 10 ms.
const CLOCK_SLACK: f64 = 0.02;

#[derive(Debug, Clone, PartialEq)]
pub struct NginxProxy {
    /// Container of nginx.
    place: ProxyContainer,
    /// Id of docker-gen's container: nginx's own, or a separate one.
    generator: String,
    template: String,
    config: String,
}

/// An environment requests a route from nginx-proxy.
pub fn requests_route(environment: &BTreeMap<String, String>) -> bool {
    ["VIRTUAL_HOST", multiports::KEY].iter().any(|key| environment.get(*key).is_some_and(|v| !v.is_empty()))
}

/// Recognises nginx-proxy by its image or its environment, and a docker-gen of its own by its command.
pub fn detect(container: &Container, all: &[Container]) -> Option<NginxProxy> {
    if let Some(arguments) = generator_arguments(container) {
        return NginxProxy::separate_containers(container, &arguments, all);
    }
    is_single_container(container).then(|| NginxProxy::single_container(container))
}

/// Images built on nginx-proxy keep its environment, whatever command starts them. An image of docker-gen alone
/// has no nginx.
fn is_single_container(container: &Container) -> bool {
    let has = |names: &[&str]| names.iter().any(|name| container.env(name).is_some());
    let is_derived = has(&["DOCKER_GEN_VERSION"]) && has(&["NGINX_PROXY_VERSION", "NGINX_VERSION"]);
    is_image(&container.config.image) || is_derived
}

/// `nginxproxy/nginx-proxy` or `jwilder/nginx-proxy`, from any registry, but not docker-gen alone.
pub fn is_image(image: &str) -> bool {
    let (name, tag) = match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (image, ""),
    };
    let owner_and_name: Vec<&str> = name.rsplit('/').take(2).collect();
    let official = matches!(owner_and_name[..], ["nginx-proxy", "nginxproxy" | "jwilder"]);
    official && !tag.contains("dockergen")
}

/// Arguments of docker-gen, where it is the container's main process.
fn generator_arguments(container: &Container) -> Option<DockerGenArguments> {
    let mut words = vec![container.path.clone()];
    words.extend(container.args.iter().cloned());
    let is_generator = |w: &String| Path::new(w).file_name().is_some_and(|f| f == "docker-gen");
    let at = words.iter().position(is_generator)?;
    Some(DockerGenArguments::parse(&words[at + 1..])).filter(DockerGenArguments::watches)
}

/// Flags of docker-gen without a value, except by `=`. Source: docker-gen, cmd/docker-gen/main.go.
const SWITCHES: [&str; 8] = [
    "watch",
    "only-exposed",
    "only-published",
    "include-stopped",
    "notify-output",
    "keep-blank-lines",
    "tlsverify",
    "version",
];

/// The command line of docker-gen, as Go parses it: `-flag value`, `--flag=value`, then the files.
#[derive(Debug, Default, PartialEq, Eq)]
struct DockerGenArguments {
    flags: Vec<(String, String)>,
    files: Vec<String>,
}

impl DockerGenArguments {
    fn parse(words: &[String]) -> DockerGenArguments {
        let mut arguments = DockerGenArguments::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
                arguments.files.push(word.clone());
                break;
            };
            let flag = flag.trim_start_matches('-');
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, value.to_string()),
                None if flag.is_empty() => break,
                None if SWITCHES.contains(&flag) => (flag, "true".into()),
                None => (flag, words.next().cloned().unwrap_or_default()),
            };
            arguments.flags.push((name.into(), value));
        }
        arguments.files.extend(words.cloned());
        arguments
    }

    fn get(&self, flag: &str) -> Option<&str> {
        let last = self.flags.iter().rev().find(|(name, value)| name == flag && !value.is_empty());
        last.map(|(_, value)| value.as_str())
    }

    /// docker-gen keeps running (`-watch`). With `-config` its settings are in a file instead.
    fn watches(&self) -> bool {
        self.get("watch").is_some_and(|value| matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"))
    }

    /// docker-gen notifies this container: by its name, its id, a label, or in a command.
    fn notifies(&self, container: &Container) -> bool {
        let is =
            |name: &str| container.name() == name || (name.len() >= 12 && container.id.starts_with(name));
        let named = ["notify-sighup", "notify-container"].iter().filter_map(|flag| self.get(flag));
        let command = self.get("notify").into_iter().flat_map(str::split_whitespace);
        let label = self.get("notify-filter").and_then(|filter| filter.strip_prefix("label="));
        let (key, value) =
            label.map_or(("", None), |l| l.split_once('=').map_or((l, None), |(k, v)| (k, Some(v))));
        let labelled = container.label(key).is_some_and(|own| value.is_none_or(|value| value == own));
        named.chain(command).any(is) || labelled
    }
}

impl NginxProxy {
    /// nginx and docker-gen in one container.
    pub fn single_container(container: &Container) -> Self {
        NginxProxy {
            place: ProxyContainer::new(TITLE, container),
            generator: container.id.clone(),
            template: "/app/nginx.tmpl".into(),
            config: "/etc/nginx/conf.d/default.conf".into(),
        }
    }

    /// docker-gen in its own container, which notifies nginx in another.
    fn separate_containers(
        generator: &Container,
        arguments: &DockerGenArguments,
        all: &[Container],
    ) -> Option<Self> {
        let nginx = all.iter().find(|c| c.id != generator.id && arguments.notifies(c))?;
        let [template, config] = &arguments.files[..] else { return None };
        let (template, config) = (template.clone(), config.clone());
        Some(NginxProxy {
            place: ProxyContainer::new(TITLE, nginx),
            generator: generator.id.clone(),
            template,
            config,
        })
    }

    /// Version of nginx-proxy, where the image tells it.
    fn version(&self) -> Option<[u32; 3]> {
        self.place.container.env("NGINX_PROXY_VERSION").and_then(version::parse)
    }

    fn reads_multiports(&self) -> bool {
        self.version().is_none_or(|version| version >= multiports::SINCE)
    }

    /// Two routes for each plain host name. The answers of port 80 tell whether it only redirects to the TLS
    /// port.
    fn public_routes(&self, backend: &Backend, routes: Option<&[HostPath]>) -> Vec<PublicRoute> {
        let nginx = &self.place.container;
        let port = |key: &str, default| nginx.env(key).and_then(|p| p.parse().ok()).unwrap_or(default);
        let ports = [port("HTTP_PORT", 80), port("HTTPS_PORT", 443)];
        let public_routes = |host: &str, path: &str, external: [Option<u16>; 2]| {
            [0, 1].map(|n| PublicRoute {
                port: external[n].unwrap_or(ports[n]),
                tls: n == 1,
                host: Some(host.into()),
                path: path.into(),
            })
        };
        if let Some(routes) = routes {
            let plain = routes.iter().filter(|route| is_plain(&route.host));
            return plain.flat_map(|r| public_routes(&r.host, &r.path, r.external)).collect();
        }
        let path = backend.env("VIRTUAL_PATH").filter(|p| p.starts_with('/')).unwrap_or("/");
        let plain = hosts(backend).filter(|h| is_plain(h));
        plain.flat_map(|host| public_routes(host, path, [None, None])).collect()
    }

    /// Routes of `VIRTUAL_HOST_MULTIPORTS`, which replace those of `VIRTUAL_HOST`; none where it is not set.
    fn multiports(&self, backend: &Backend) -> Option<Vec<HostPath>> {
        let text = backend.env(multiports::KEY).filter(|text| !text.trim().is_empty())?;
        self.reads_multiports().then(|| multiports::parse(text).unwrap_or_default())
    }

    /// Error for a service whose `VIRTUAL_HOST_MULTIPORTS` cannot be parsed, and which therefore gets no route.
    fn unreadable_multiports(&self, backend: &Backend) -> Option<Error> {
        let text = multiports::value(&backend.environment).filter(|_| self.reads_multiports())?;
        let message = format!(
            "{}: `VIRTUAL_HOST_MULTIPORTS` of `{}` is not a YAML map of hosts to paths, so no request reaches it",
            self.name(),
            backend.service
        );
        let hint = "write `HOST: {\"/\": {port: PORT}}`, or set `VIRTUAL_HOST` and `VIRTUAL_PORT` instead";
        multiports::parse(text)
            .is_none()
            .then(|| Error::unchanged(message).hint(hint).rule(&"nginx-multiports"))
    }

    /// Finding of a service whose `VIRTUAL_HOST_MULTIPORTS` the template ignores; grave where `VIRTUAL_HOST` does
    /// not route to it either.
    fn ignored_multiports(&self, template: &str, shape: &RolloutShape) -> Option<Finding> {
        let is_old = !template.is_empty() && !template.contains(multiports::KEY);
        let has_multiports = |backend: &&Backend| multiports::value(&backend.environment).is_some();
        let has_virtual_host =
            |b: &Backend| b.environment.get("VIRTUAL_HOST").is_some_and(|hosts| !hosts.is_empty());
        let affected = shape.backends.iter().filter(has_multiports).filter(|_| is_old);
        let backend = affected.min_by_key(|backend| has_virtual_host(backend))?;
        let has_virtual_host = has_virtual_host(backend);
        let message = format!(
            "{}: its template {} does not read `VIRTUAL_HOST_MULTIPORTS` of `{}`, {}",
            self.name(),
            self.template,
            backend.service,
            if has_virtual_host { "and uses `VIRTUAL_HOST`" } else { "so no request reaches it" }
        );
        let fix =
            "use nginx-proxy 1.6 or later with its own template, or set `VIRTUAL_HOST` and `VIRTUAL_PORT`";
        let new = if has_virtual_host { Finding::note } else { Finding::loss };
        Some(new("nginx-multiports", message, fix))
    }

    /// # Errors
    /// A service that the template gives no route.
    fn check_template(&self, template: &str, shape: &RolloutShape) -> Result<(), Error> {
        match self.ignored_multiports(template, shape).filter(Finding::is_loss) {
            Some(risk) => Err(Error::from(risk).rule(&"nginx-multiports")),
            None => Ok(()),
        }
    }

    fn marker(endpoint: &Endpoint) -> String {
        format!("{MARKERS}/{}", endpoint.id)
    }

    /// Change that adds the marker test to the template.
    fn template_patch(&self, state: &PreflightState, tune: bool) -> Result<Option<Change>, Error> {
        let patched = match template::patch(&state.template) {
            PatchResult::AlreadyPatched => return Ok(None),
            PatchResult::Unsupported => {
                return Err(self.cannot_patch("has no known place for a marker test"));
            }
            PatchResult::Patched(_) if !tune => {
                return Err(self.cannot_patch("may not be changed (`x-zd.proxy.tune: false`)"));
            }
            PatchResult::Patched(_) if !state.writable => {
                return Err(self.cannot_patch("is mounted read-only"));
            }
            PatchResult::Patched(text) => text,
        };
        let mut exec = Exec::sh(&self.generator, install_script(&self.template));
        exec.stdin = Some(patched);
        let note = format!("{}: added a marker test to {}", self.name(), self.template);
        Ok(Some(Change { note, ..exec.into() }))
    }

    fn cannot_patch(&self, why: &str) -> Error {
        Error::unchanged(format!(
            "{}: instances cannot be gated or drained, because its template {} {why}",
            self.name(),
            self.template
        ))
        .detail("nginx-proxy sends requests to every container the moment it runs, ready or not")
        .hint(format!(
            "make it writable, or put `{{{{ if not (exists (printf \"{MARKERS}/%s\" $container.ID)) }}}}` and `{{{{ end }}}}` \
             around the body of its `range $container` that holds the `server` line; \
             `--proxy-kind none` deploys without gate and drain"
        ))
        .rule(&"nginx-template")
    }

    /// Finding that every reload of nginx-proxy closes idle client connections.
    fn closes_idle_clients(&self, state: &PreflightState, tune: bool) -> Option<Finding> {
        let is_old = state.nginx_version.is_some_and(|v| v < KEEPALIVE_SINCE);
        let (why, fix) = match (state.keeps_alive, is_old) {
            (true, _) => return None,
            (false, true) => (
                "its nginx is older than 1.27.4 and has no `keepalive_min_timeout`",
                "use an image with nginx 1.27.4 or later, such as `nginxproxy/nginx-proxy:1.11`".to_string(),
            ),
            (false, false) if !tune && state.nginx_version.is_some() => (
                "`keepalive_min_timeout` is not set, and compose-zd may not set it (`x-zd.proxy.tune: false`)",
                format!(
                    "mount a file at {KEEPALIVE_FILE} with the line `keepalive_min_timeout {}s;`",
                    KEEPALIVE_MIN_TIMEOUT.as_secs()
                ),
            ),
            (false, false) => return None,
        };
        let message = format!(
            "{}: {why}, so each reload closes idle client connections, and a client that does not retry loses a request",
            self.name()
        );
        Some(Finding::loss("nginx-keepalive", message, fix))
    }

    /// Change that keeps a reload from closing idle client connections.
    fn keepalive_patch(&self, state: &PreflightState) -> Option<Change> {
        let is_supported = state.nginx_version.is_some_and(|v| v >= KEEPALIVE_SINCE);
        (is_supported && !state.keeps_alive).then(|| Change {
            note: format!(
                "{}: set `keepalive_min_timeout {}s` in {KEEPALIVE_FILE}, so that a reload does not cut idle clients",
                self.name(),
                KEEPALIVE_MIN_TIMEOUT.as_secs()
            ),
            required: false,
            ..self.place.sh(keepalive_script()).into()
        })
    }
}

/// Host names of `VIRTUAL_HOST`.
fn hosts(backend: &Backend) -> impl Iterator<Item = &str> {
    backend.env("VIRTUAL_HOST").unwrap_or_default().split(',').map(str::trim)
}

/// True for a host name that is neither a wildcard nor a regular expression.
fn is_plain_host(host: &str) -> bool {
    !host.is_empty() && !host.contains(['*', '~', ' '])
}

impl Proxy for NginxProxy {
    fn place(&self) -> Place<'_> {
        Place::Container(&self.place)
    }

    fn routes_to(&self, backend: &Backend) -> bool {
        requests_route(&backend.environment) && self.place.reaches_via_host(backend)
    }

    /// Port, protocol and host of the main route; without a port the only exposed one, else 80. A gRPC server does not
    /// answer HTTP/1.
    /// Source: nginx-proxy's docs, "Upstream (backend) features" and "Multiple ports".
    fn route_to(&self, backend: &Backend) -> RouteInfo {
        let only = backend.exposed.first().filter(|_| backend.exposed.len() == 1).copied();
        let routes = self.multiports(backend);
        let main = routes.as_deref().and_then(multiports::main_route);
        let (port, protocol, host) = match (&routes, main) {
            (Some(_), main) => {
                let protocol = main.map_or("", |route| &route.protocol);
                (main.and_then(|route| route.port), protocol, main.map(|route| route.host.as_str()))
            }
            (None, _) => (
                backend.env("VIRTUAL_PORT").and_then(|p| p.parse().ok()),
                backend.env("VIRTUAL_PROTO").unwrap_or_default(),
                hosts(backend).find(|h| is_plain_host(h)),
            ),
        };
        RouteInfo {
            port: port.or(only).or(Some(80)),
            host: host.filter(|h| is_plain_host(h)).map(String::from),
            not_http: ["fastcgi", "uwsgi", "grpc", "grpcs"].contains(&protocol.trim()),
            answer_timeout: None,
            public: self.public_routes(backend, routes.as_deref()),
        }
    }

    /// docker-gen reads its template whenever it renders.
    fn files(&self) -> ProxyFiles {
        let mut files = nginx::scripts::files(&self.place);
        files.paths.push((self.template.clone(), ReadBy::Watch));
        files
    }

    fn losses(&self, outputs: &[CommandResult], shape: &RolloutShape) -> Vec<Finding> {
        let Some(state) = PreflightState::parse(outputs) else { return Vec::new() };
        let ignored_multiports = self.ignored_multiports(&state.template, shape);
        self.closes_idle_clients(&state, shape.tune).into_iter().chain(ignored_multiports).collect()
    }

    fn audit(&self, shape: &RolloutShape, planned: Option<&Planned>) -> Audit {
        let template = || planned.map_or(Ok(Vec::new()), |planned| self.foresee(planned.files, shape));
        Audit::default().and(|| self.check(&shape.backends)).and(template)
    }

    /// A late request comes within twice `keepalive_min_timeout`. A client may send one more request over its
    /// connection to a retired worker. A slow upload gets as long again, because its worker picks the instance when
    /// the body is complete.
    fn abilities(&self) -> Abilities {
        Abilities {
            is_blind: true,
            reloads: true,
            late_requests: KEEPALIVE_MIN_TIMEOUT * 2,
            ..Abilities::default()
        }
    }

    fn queries(&self, goal: &Goal) -> Vec<Query> {
        match goal {
            Goal::Patched(_) => self.inspect(),
            _ => vec![self.question(&goal.endpoints()).into()],
        }
    }

    fn advance(&self, answers: &[CommandResult], goal: &Goal) -> Result<(ProxyState, Next), Error> {
        let state = match answers.first().filter(|_| goal.needs_state()) {
            Some(output) => self.read(output, &goal.endpoints())?,
            None => ProxyState::default(),
        };
        let next = match goal {
            Goal::Observed(_) => Next::Done,
            Goal::Patched(shape) => Next::Finish(self.prepare(answers, shape)?),
            Goal::Gated(rotation) => Next::finish(self.gate(rotation)),
            Goal::Rotation(rotation) if rotation.urgent => Next::finish(self.route(rotation)),
            Goal::Rotation(rotation) => Next::run(self.route(rotation)),
            Goal::HandedBack(discovery) => Next::finish(self.hand_back(discovery)),
        };
        Ok((state, next))
    }

    fn diagnose(&self) -> Query {
        self.place.sh("nginx -t 2>&1 | tail -n 4").into()
    }
}

impl NginxProxy {
    fn check(&self, backends: &[Backend]) -> Result<Vec<Finding>, Error> {
        backends.iter().find_map(|backend| self.unreadable_multiports(backend)).map_or(Ok(Vec::new()), Err)
    }

    /// Assumes that the template of the proxy's image can be patched.
    fn foresee(&self, files: FileLookup, shape: &RolloutShape) -> Result<Vec<Finding>, Error> {
        let mounted = files(&self.template);
        let state = PreflightState {
            writable: mounted.as_ref().is_none_or(|file| !file.read_only),
            template: mounted.as_ref().map(|file| file.text.clone()).unwrap_or_default(),
            nginx_version: self.place.container.env("NGINX_VERSION").and_then(version::parse),
            keeps_alive: files(KEEPALIVE_FILE)
                .is_some_and(|file| file.text.contains("keepalive_min_timeout")),
        };
        self.check_template(&state.template, shape)?;
        if mounted.is_some() {
            self.template_patch(&state, shape.tune)?;
        }
        let ignored_multiports = self.ignored_multiports(&state.template, shape);
        Ok(self.closes_idle_clients(&state, shape.tune).into_iter().chain(ignored_multiports).collect())
    }

    fn inspect(&self) -> Vec<Query> {
        let file = shell::file(&self.template);
        let template = format!("[ -w {file} ] && echo '@writable yes'\necho @template\ncat {file}");
        let nginx = "nginx -v 2>&1 | sed 's/^/@version /'\n\
                     grep -rlsE '^[^#]*keepalive_min_timeout' /etc/nginx | head -n 1 | sed 's/^/@keepalive /'";
        vec![Exec::sh(&self.generator, template).into(), self.place.sh(nginx).into()]
    }

    fn prepare(&self, outputs: &[CommandResult], shape: &RolloutShape) -> Result<Vec<Change>, Error> {
        let state = PreflightState::parse(outputs).ok_or_else(|| {
                let texts: Vec<&str> = outputs.iter().map(CommandResult::stderr_or_stdout).collect();
            Error::unchanged(format!("{}: cannot read its template {}", self.name(), self.template))
                .detail(&texts.join("\n"))
                .hint("look at the container's `docker logs`, or name another container with `--proxy-container`")
        })?;
        self.check_template(&state.template, shape)?;
        let patch = self.template_patch(&state, shape.tune)?;
        let keep_alive = shape.tune.then(|| self.keepalive_patch(&state)).flatten();
        Ok(patch.into_iter().chain(keep_alive).collect())
    }

    fn gate(&self, rotation: &Rotation) -> Exec {
        let markers: Vec<String> = rotation.outside.iter().map(Self::marker).collect();
        let script = format!("mkdir -p {MARKERS} && touch {}", shell::words(&markers));
        Exec::sh(&self.generator, script)
    }

    fn route(&self, rotation: &Rotation) -> Exec {
        let markers = |set: &[Endpoint]| set.iter().map(Self::marker).collect::<Vec<_>>();
        if rotation.urgent {
            let config = (self.generator == self.place.container.id).then_some(self.config.as_str());
            let script =
                urgent_route_script(&markers(&rotation.inside), config, &replacement_servers(rotation));
            return Exec::sh(&self.generator, script);
        }
        let script = route_script(&self.template, &markers(&rotation.outside), &markers(&rotation.inside));
        Exec::sh(&self.generator, script)
    }

    fn question(&self, endpoints: &[Endpoint]) -> Exec {
        self.place.sh(state_script(&self.config, &sockets::remotes(endpoints)))
    }

    fn read(&self, output: &CommandResult, endpoints: &[Endpoint]) -> Result<ProxyState, Error> {
        let state = NginxState::parse(&output.stdout).ok_or_else(|| {
            Error::unchanged(format!("{}: cannot read its routes", self.name()))
                .detail(output.stderr_or_stdout())
        })?;
        let routed = endpoints.iter().filter(|e| state.routes_to(e));
        let in_flight = endpoints.iter().map(|e| (e.id.clone(), InFlight::Exact(state.connections(e))));
        Ok(ProxyState {
            routed: routed.map(|e| e.id.clone()).collect(),
            failing: BTreeSet::new(),
            config_applied: state.is_config_applied(),
            in_flight: in_flight.collect(),
            has_retired_process: state.retired_workers > 0,
        })
    }

    fn hand_back(&self, discovery: &Discovery) -> Exec {
        let own: Vec<&str> = discovery.endpoints.iter().map(|e| e.id.as_str()).collect();
        Exec::sh(&self.generator, hand_back_script(&own, &discovery.existing))
    }
}

/// State of a running nginx-proxy before it is prepared.
struct PreflightState {
    template: String,
    writable: bool,
    nginx_version: Option<[u32; 3]>,
    keeps_alive: bool,
}

impl PreflightState {
    fn parse(outputs: &[CommandResult]) -> Option<Self> {
        let [generator, nginx] = outputs else {
            return None;
        };
        let (head, template) = generator.stdout.split_once("@template\n")?;
        Some(PreflightState {
            template: template.into(),
            writable: head.contains("@writable yes"),
            // `@version nginx version: nginx/1.29.5`
            nginx_version: nginx
                .stdout
                .lines()
                .find_map(|l| version::parse(l.strip_prefix("@version ")?.split_once("nginx/")?.1)),
            keeps_alive: nginx.stdout.contains("@keepalive "),
        })
        .filter(|state| !state.template.trim().is_empty())
    }
}

/// State of nginx, as the state script printed it.
#[derive(Debug, Default, PartialEq)]
struct NginxState {
    /// Seconds since boot and since 1970 at the same moment.
    clock: Option<(f64, f64)>,
    /// Time at which the configuration was written, in seconds since 1970.
    config_written: Option<f64>,
    /// Servers that are not `down`.
    servers: BTreeSet<IpAddr>,
    /// Start time of each active worker, in seconds since boot.
    workers: Vec<f64>,
    /// Number of workers that only finish their open requests.
    retired_workers: usize,
    /// Remote address of each connection that may carry a request, as /proc/net/tcp prints it.
    remotes: Vec<String>,
}

impl NginxState {
    fn parse(text: &str) -> Option<NginxState> {
        let mut state = NginxState::default();
        for line in text.lines() {
            match line.trim().split_once(' ') {
                Some(("@clock", rest)) => state.clock = parse_clock(rest),
                Some(("@written", rest)) => state.config_written = parse_time(rest),
                Some(("@worker", rest)) => state.add_worker(rest)?,
                Some(("server", rest)) => state.servers.extend(parse_server(rest)),
                _ => state.remotes.extend(sockets::parse_listed(line)),
            }
        }
        text.trim_end().ends_with("@end").then_some(state)
    }

    fn add_worker(&mut self, rest: &str) -> Option<()> {
        // A process that is ending has no title any more.
        let (ticks, title) = rest.split_once(' ').unwrap_or((rest, ""));
        let started: f64 = ticks.parse().ok()?;
        match title.trim() {
            "nginx: worker process" => self.workers.push(started / 100.0),
            "nginx: worker process is shutting down" => self.retired_workers += 1,
            _ => {}
        }
        Some(())
    }

    fn routes_to(&self, endpoint: &Endpoint) -> bool {
        endpoint.addresses.iter().any(|ip| self.servers.contains(ip))
    }

    fn connections(&self, endpoint: &Endpoint) -> usize {
        sockets::count(&self.remotes, endpoint)
    }

    /// Every active worker started after the configuration was written, and so has read it.
    fn is_config_applied(&self) -> bool {
        let (Some((boot, now)), Some(written)) = (self.clock, self.config_written) else {
            return false;
        };
        let has_read_it = |started: &f64| now - (boot - started) + CLOCK_SLACK >= written;
        !self.workers.is_empty() && self.workers.iter().all(has_read_it)
    }
}

/// Parses `172.19.0.5:3000 weight=1; # a comment`, with a port or without. None for a server that is `down` or
/// has a host name.
fn parse_server(text: &str) -> Option<IpAddr> {
    let mut words = text.split(';').next()?.split_whitespace();
    let address = words.next()?;
    let host = match address.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => address.split(':').next()?,
    };
    host.parse().ok().filter(|_| !words.any(|w| w == "down"))
}

/// Pairs of servers: one of each instance outside, and one of an instance inside that replaces it.
fn replacement_servers(rotation: &Rotation) -> Vec<(SocketAddr, SocketAddr)> {
    let server = |e: &Endpoint| Some(SocketAddr::new(*e.addresses.first()?, e.port?));
    let inside: Vec<SocketAddr> = rotation.inside.iter().filter_map(server).collect();
    rotation.outside.iter().filter_map(server).zip(inside.iter().copied().cycle()).collect()
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub mod properties;
