//! nginx-proxy with docker-gen, in one container or two: marker files gate and drain, the age of nginx's workers
//! confirms, and the connections in its network namespace tell what is in flight.

mod multiports;
mod scripts;
mod template;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::public_route::{PublicRoute, is_plain};
use super::{
    Backend, Endpoint, FileLookup, HandBack, InFlight, Patch, Proxy, ProxyState, RolloutShape, Rotation, hex,
    is_written,
};
use crate::docker::inspect::Container;
use crate::docker::{CommandResult, Exec};
use crate::error::{Error, Risk};
use crate::shell;
use multiports::HostPath;
use scripts::{
    hurried_script, install_script, keep_alive_script, question_script, release_script, route_script,
};
use template::{MARKERS, PatchResult};

/// Our own file among nginx's; it is read first, and only by an nginx that knows the directive.
const KEEPALIVE_FILE: &str = "/etc/nginx/conf.d/00-compose-zd.conf";

/// How long a worker that a reload retired keeps idle client connections open. They may bring one more request each,
/// which goes by the old rotation; without it an unlucky client finds its connection closed instead.
/// Source: nginx `keepalive_min_timeout`, since 1.27.4.
const KEEPALIVE: Duration = Duration::from_secs(5);

const KNOWS_KEEPALIVE: (u32, u32, u32) = (1, 27, 4);

/// A worker that started this long before the file was written may still have read it: clocks tick in 10 ms.
const CLOCK_SLACK: f64 = 0.02;

#[derive(Debug, Clone, PartialEq)]
pub struct NginxProxy {
    nginx: Container,
    /// Id of the container that docker-gen runs in: nginx's own, unless they are apart.
    generator: String,
    template: String,
    config: String,
}

/// Whether an environment asks nginx-proxy for a route.
pub fn claims(environment: &BTreeMap<String, String>) -> bool {
    ["VIRTUAL_HOST", multiports::KEY].iter().any(|key| environment.get(*key).is_some_and(|v| !v.is_empty()))
}

/// Recognises nginx-proxy by its image or its environment, and a docker-gen of its own by its command.
pub fn detect(container: &Container, all: &[Container]) -> Option<NginxProxy> {
    if let Some(arguments) = generator_arguments(container) {
        return NginxProxy::apart(container, &arguments, all);
    }
    is_whole(container).then(|| NginxProxy::whole(container))
}

/// Images that are built on it keep its environment, whatever starts it. An image of docker-gen alone has no nginx.
fn is_whole(container: &Container) -> bool {
    let has = |names: &[&str]| names.iter().any(|name| container.env(name).is_some());
    let built_on_it = has(&["DOCKER_GEN_VERSION"]) && has(&["NGINX_PROXY_VERSION", "NGINX_VERSION"]);
    is_image(&container.config.image) || built_on_it
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

/// The arguments of docker-gen, where it is the container's main process.
fn generator_arguments(container: &Container) -> Option<DockerGenArguments> {
    let mut words = vec![container.path.clone()];
    words.extend(container.args.iter().cloned());
    let is_generator = |w: &String| Path::new(w).file_name().is_some_and(|f| f == "docker-gen");
    let at = words.iter().position(is_generator)?;
    Some(DockerGenArguments::read(&words[at + 1..])).filter(DockerGenArguments::watches)
}

/// Flags of docker-gen that take no value, unless by `=`. Source: docker-gen, cmd/docker-gen/main.go.
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

/// The command line of docker-gen, as Go reads it: `-flag value`, `--flag=value`, and what stands behind the flags.
#[derive(Debug, Default, PartialEq, Eq)]
struct DockerGenArguments {
    flags: Vec<(String, String)>,
    files: Vec<String>,
}

impl DockerGenArguments {
    fn read(words: &[String]) -> DockerGenArguments {
        let mut read = DockerGenArguments::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix('-').filter(|rest| !rest.is_empty()) else {
                read.files.push(word.clone());
                break;
            };
            let flag = flag.trim_start_matches('-');
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, value.to_string()),
                None if flag.is_empty() => break,
                None if SWITCHES.contains(&flag) => (flag, "true".into()),
                None => (flag, words.next().cloned().unwrap_or_default()),
            };
            read.flags.push((name.into(), value));
        }
        read.files.extend(words.cloned());
        read
    }

    fn get(&self, flag: &str) -> Option<&str> {
        let found = self.flags.iter().rev().find(|(name, value)| name == flag && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }

    /// It goes on; what it does is in a file where it is given one.
    fn watches(&self) -> bool {
        self.get("watch").is_some_and(|value| matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"))
    }

    /// Whether it notifies this container: by its name, its id, a label, or in a command.
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
    pub fn whole(container: &Container) -> Self {
        NginxProxy {
            nginx: container.clone(),
            generator: container.id.clone(),
            template: "/app/nginx.tmpl".into(),
            config: "/etc/nginx/conf.d/default.conf".into(),
        }
    }

    /// docker-gen in a container of its own, which notifies nginx in another.
    fn apart(generator: &Container, arguments: &DockerGenArguments, all: &[Container]) -> Option<Self> {
        let nginx = all.iter().find(|c| c.id != generator.id && arguments.notifies(c))?;
        let [template, config] = &arguments.files[..] else { return None };
        let (template, config) = (template.clone(), config.clone());
        Some(NginxProxy { nginx: nginx.clone(), generator: generator.id.clone(), template, config })
    }

    /// Its version, where its own image tells.
    fn version(&self) -> Option<(u32, u32, u32)> {
        self.nginx.env("NGINX_PROXY_VERSION").and_then(parse_numbers)
    }

    fn reads_multiports(&self) -> bool {
        self.version().is_none_or(|version| version >= multiports::SINCE)
    }

    /// The routes of `VIRTUAL_HOST_MULTIPORTS`, which take the place of `VIRTUAL_HOST`; none where it is not set.
    fn multiports(&self, container: &Container) -> Option<Vec<HostPath>> {
        let text = container.env(multiports::KEY).filter(|text| !text.trim().is_empty())?;
        self.reads_multiports().then(|| multiports::read(text).unwrap_or_default())
    }

    /// A service whose `VIRTUAL_HOST_MULTIPORTS` cannot be read, and gets no route.
    fn unread(&self, backend: &Backend) -> Option<Error> {
        let text = multiports::value(&backend.environment).filter(|_| self.reads_multiports())?;
        let says = format!(
            "{}: `VIRTUAL_HOST_MULTIPORTS` of `{}` is no YAML map of hosts to paths, so that no request gets to it",
            self.name(),
            backend.service
        );
        let hint = "write `HOST: {\"/\": {port: PORT}}`, or set `VIRTUAL_HOST` and `VIRTUAL_PORT` instead";
        let is_read = multiports::read(text).is_some();
        (!is_read).then(|| Error::unchanged(says).hint(hint).rule(&"nginx-multiports"))
    }

    /// Services whose `VIRTUAL_HOST_MULTIPORTS` a template passes over, and whether `VIRTUAL_HOST` routes to them.
    fn passed_over(&self, template: &str, shape: &RolloutShape) -> Option<Risk> {
        let is_old = !template.is_empty() && !template.contains(multiports::KEY);
        let is_set = |backend: &&Backend| multiports::value(&backend.environment).is_some();
        let is_routed =
            |b: &Backend| b.environment.get("VIRTUAL_HOST").is_some_and(|hosts| !hosts.is_empty());
        let set = shape.backends.iter().filter(is_set).filter(|_| is_old);
        let backend = set.min_by_key(|backend| is_routed(backend))?;
        let is_routed = is_routed(backend);
        let says = format!(
            "{}: its template {} does not read `VIRTUAL_HOST_MULTIPORTS` of `{}`, {}",
            self.name(),
            self.template,
            backend.service,
            if is_routed { "and goes by `VIRTUAL_HOST`" } else { "so that no request gets to it" }
        );
        let fix =
            "use nginx-proxy 1.6 or later with its own template, or set `VIRTUAL_HOST` and `VIRTUAL_PORT`";
        Some(Risk { grave: !is_routed, ..Risk::note("nginx-multiports", says, fix) })
    }

    /// # Errors
    /// A service that the template gives no route.
    fn reads(&self, template: &str, shape: &RolloutShape) -> Result<(), Error> {
        match self.passed_over(template, shape).filter(|loss| loss.grave) {
            Some(loss) => Err(Error::unchanged(loss.message).hint(loss.fix).rule(&"nginx-multiports")),
            None => Ok(()),
        }
    }

    fn marker(endpoint: &Endpoint) -> String {
        format!("{MARKERS}/{}", endpoint.id)
    }

    /// The preparation that puts the marker test into the template.
    fn patch(&self, state: &PreflightState, tune: bool) -> Result<Option<Patch>, Error> {
        let patched = match template::patch(&state.template) {
            PatchResult::Already => return Ok(None),
            PatchResult::Unknown => {
                return Err(self.cannot_patch("has no place for a marker test that we know"));
            }
            PatchResult::Now(_) if !tune => {
                return Err(self.cannot_patch("may not be changed (`x-zd.proxy.tune: false`)"));
            }
            PatchResult::Now(_) if !state.writable => {
                return Err(self.cannot_patch("is mounted read-only"));
            }
            PatchResult::Now(text) => text,
        };
        let mut exec = Exec::sh(&self.generator, install_script(&self.template));
        exec.stdin = Some(patched);
        Ok(Some(Patch {
            exec,
            note: format!("{}: added a marker test to {}", self.name(), self.template),
            required: true,
            without: String::new(),
        }))
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

    /// Every reload of its own goes on cutting clients that keep their connection.
    fn cuts_clients(&self, state: &PreflightState, tune: bool) -> Option<Risk> {
        let is_old = state.nginx_version.is_some_and(|v| v < KNOWS_KEEPALIVE);
        let (why, fix) = match (state.keeps_alive, is_old) {
            (true, _) => return None,
            (false, true) => (
                "its nginx is older than 1.27.4 and has no `keepalive_min_timeout`",
                "use an image with nginx 1.27.4 or later, such as `nginxproxy/nginx-proxy:1.11`".to_string(),
            ),
            (false, false) if !tune && state.nginx_version.is_some() => (
                "`keepalive_min_timeout` is not set, and may not be (`x-zd.proxy.tune: false`)",
                format!(
                    "mount a file at {KEEPALIVE_FILE} that says `keepalive_min_timeout {}s;`",
                    KEEPALIVE.as_secs()
                ),
            ),
            (false, false) => return None,
        };
        let says = format!(
            "{}: {why}, so each reload closes the connections that clients keep, and who does not retry loses a request",
            self.name()
        );
        Some(Risk::grave("nginx-keepalive", says, fix))
    }

    /// The preparation that keeps a reload from closing idle client connections.
    fn keep_alive(&self, state: &PreflightState) -> Option<Patch> {
        let known = state.nginx_version.is_some_and(|v| v >= KNOWS_KEEPALIVE);
        (known && !state.keeps_alive).then(|| Patch {
            exec: Exec::sh(&self.nginx.id, keep_alive_script()),
            note: format!(
                "{}: set `keepalive_min_timeout {}s` in {KEEPALIVE_FILE}, so that a reload does not cut idle clients",
                self.name(),
                KEEPALIVE.as_secs()
            ),
            required: false,
            without: String::new(),
        })
    }
}

impl Proxy for NginxProxy {
    fn name(&self) -> String {
        format!("nginx-proxy `{}`", self.nginx.name())
    }

    fn container(&self) -> &Container {
        &self.nginx
    }

    fn routes_to(&self, backend: &Backend) -> bool {
        let reaches = |n: &String| self.nginx.networks().any(|own| own == n || own == "host");
        claims(&backend.environment) && backend.networks.iter().any(reaches)
    }

    /// That of its main route, else the only exposed port, else 80.
    fn port(&self, container: &Container) -> Option<u16> {
        let set = match self.multiports(container) {
            Some(routes) => multiports::main_route(&routes).and_then(|route| route.port),
            None => container.env("VIRTUAL_PORT").and_then(|p| p.parse().ok()),
        };
        let exposed = container.exposed_tcp();
        let only = (exposed.len() == 1).then(|| exposed[0]);
        set.or(only).or(Some(80))
    }

    /// The protocol of its main route is `http` or `https`; a gRPC server does not answer HTTP/1.
    /// Source: nginx-proxy's docs, "Upstream (backend) features" and "Multiple ports".
    fn speaks_http(&self, container: &Container) -> bool {
        let routes = self.multiports(container);
        let protocol = match &routes {
            Some(routes) => multiports::main_route(routes).map_or("", |route| &route.protocol),
            None => container.env("VIRTUAL_PROTO").unwrap_or_default(),
        };
        !["fastcgi", "uwsgi", "grpc", "grpcs"].contains(&protocol.trim())
    }

    /// The first plain name: neither a wildcard nor a regular expression.
    fn host(&self, container: &Container) -> Option<String> {
        let plain = |h: &&str| !h.is_empty() && !h.contains(['*', '~', ' ']);
        match self.multiports(container) {
            Some(routes) => {
                let main = multiports::main_route(&routes)?;
                plain(&main.host.as_str()).then(|| main.host.clone())
            }
            None => {
                let hosts = container.env("VIRTUAL_HOST")?;
                hosts.split(',').map(str::trim).find(plain).map(String::from)
            }
        }
    }

    /// At each plain name; whether port 80 only sends clients on to the other one, its answers tell.
    fn entrances(&self, container: &Container) -> Vec<PublicRoute> {
        let port = |key: &str, usual| self.nginx.env(key).and_then(|p| p.parse().ok()).unwrap_or(usual);
        let ports = [port("HTTP_PORT", 80), port("HTTPS_PORT", 443)];
        let at = |host: &str, path: &str, own: [Option<u16>; 2]| {
            [0, 1].map(|n| PublicRoute {
                port: own[n].unwrap_or(ports[n]),
                tls: n == 1,
                host: Some(host.into()),
                path: path.into(),
            })
        };
        if let Some(routes) = self.multiports(container) {
            let plain = routes.iter().filter(|route| is_plain(&route.host));
            return plain.flat_map(|r| at(&r.host, &r.path, r.external)).collect();
        }
        let hosts = container.env("VIRTUAL_HOST").unwrap_or_default().split(',').map(str::trim);
        let path = container.env("VIRTUAL_PATH").filter(|p| p.starts_with('/')).unwrap_or("/");
        hosts.filter(|h| is_plain(h)).flat_map(|host| at(host, path, [None, None])).collect()
    }

    fn check(&self, backends: &[Backend]) -> Result<Vec<Risk>, Error> {
        backends.iter().find_map(|backend| self.unread(backend)).map_or(Ok(Vec::new()), Err)
    }

    fn inspect(&self) -> Vec<Exec> {
        let file = shell::file(&self.template);
        let template = format!("[ -w {file} ] && echo '@writable yes'\necho @template\ncat {file}");
        let nginx = "nginx -v 2>&1 | sed 's/^/@version /'\n\
                     grep -rlsE '^[^#]*keepalive_min_timeout' /etc/nginx | head -n 1 | sed 's/^/@keepalive /'";
        vec![Exec::sh(&self.generator, template), Exec::sh(&self.nginx.id, nginx)]
    }

    fn prepare(&self, answers: &[CommandResult], shape: &RolloutShape) -> Result<Vec<Patch>, Error> {
        let state = PreflightState::read(answers).ok_or_else(|| {
            let said: Vec<&str> = answers.iter().map(CommandResult::stderr_or_stdout).collect();
            Error::unchanged(format!("{}: cannot read its template {}", self.name(), self.template))
                .detail(&said.join("\n"))
                .hint("look at `docker logs` of it, or name another container with `--proxy-container`")
        })?;
        self.reads(&state.template, shape)?;
        let patch = self.patch(&state, shape.tune)?;
        let keep_alive = shape.tune.then(|| self.keep_alive(&state)).flatten();
        Ok(patch.into_iter().chain(keep_alive).collect())
    }

    fn losses(&self, answers: &[CommandResult], shape: &RolloutShape) -> Vec<Risk> {
        let Some(state) = PreflightState::read(answers) else { return Vec::new() };
        let passed_over = self.passed_over(&state.template, shape);
        self.cuts_clients(&state, shape.tune).into_iter().chain(passed_over).collect()
    }

    /// The template of its image is taken to be one that can be changed.
    fn foresee(&self, files: FileLookup, shape: &RolloutShape, _present: usize) -> Result<Vec<Risk>, Error> {
        let own = files(&self.template);
        let version = self.nginx.env("NGINX_VERSION").and_then(|v| parse_version(&format!("nginx/{v}")));
        let state = PreflightState {
            writable: own.as_ref().is_none_or(|given| !given.read_only),
            template: own.as_ref().map(|given| given.text.clone()).unwrap_or_default(),
            nginx_version: version,
            keeps_alive: files(KEEPALIVE_FILE).is_some_and(|g| g.text.contains("keepalive_min_timeout")),
        };
        self.reads(&state.template, shape)?;
        if own.is_some() {
            self.patch(&state, shape.tune)?;
        }
        let passed_over = self.passed_over(&state.template, shape);
        Ok(self.cuts_clients(&state, shape.tune).into_iter().chain(passed_over).collect())
    }

    fn gate(&self, _now: &CommandResult, rotation: &Rotation) -> Option<Exec> {
        let markers: Vec<String> = rotation.outside.iter().map(Self::marker).collect();
        let script = format!("mkdir -p {MARKERS} && touch {}", shell::words(&markers));
        Some(Exec::sh(&self.generator, script))
    }

    fn route(&self, _now: &CommandResult, rotation: &Rotation) -> Option<Exec> {
        let markers = |set: &[Endpoint]| set.iter().map(Self::marker).collect::<Vec<_>>();
        if rotation.hurried {
            let config = (self.generator == self.nginx.id).then_some(self.config.as_str());
            let script = hurried_script(&markers(&rotation.inside), config, &exchanged(rotation));
            return Some(Exec::sh(&self.generator, script));
        }
        let script = route_script(&self.template, &markers(&rotation.outside), &markers(&rotation.inside));
        Some(Exec::sh(&self.generator, script))
    }

    fn question(&self, endpoints: &[Endpoint]) -> Exec {
        let addresses = endpoints.iter().flat_map(|e| &e.addresses);
        let remotes: Vec<String> = addresses.map(hex).collect();
        Exec::sh(&self.nginx.id, question_script(&self.config, &remotes))
    }

    fn read(&self, answer: &CommandResult, endpoints: &[Endpoint]) -> Result<ProxyState, Error> {
        let answer = NginxState::parse(&answer.stdout).ok_or_else(|| {
            Error::unchanged(format!("{} does not tell what it routes to", self.name()))
                .detail(answer.stderr_or_stdout())
        })?;
        let routed = endpoints.iter().filter(|e| answer.routes_to(e));
        let busy = endpoints.iter().map(|e| (e.id.clone(), InFlight::Exact(answer.connections(e))));
        Ok(ProxyState {
            routed: routed.map(|e| e.id.clone()).collect(),
            failing: BTreeSet::new(),
            settled: answer.is_settled(),
            in_flight: busy.collect(),
            lingering: answer.retired > 0,
        })
    }

    fn diagnose(&self) -> Exec {
        Exec::sh(&self.nginx.id, "nginx -t 2>&1 | tail -n 4")
    }

    fn hand_back(&self, _now: &CommandResult, ours: &[Endpoint], existing: &[String]) -> HandBack {
        let ours: Vec<&str> = ours.iter().map(|e| e.id.as_str()).collect();
        HandBack::Run(Exec::sh(&self.generator, release_script(&ours, existing)))
    }

    /// A client that kept its connection to a retired worker may use it once more; and a slow upload, whose worker
    /// picks the instance when the body is there, gets as long again.
    fn late_request_grace(&self) -> Duration {
        KEEPALIVE * 2
    }
}

/// What a running nginx-proxy is like before it is prepared.
struct PreflightState {
    template: String,
    writable: bool,
    nginx_version: Option<(u32, u32, u32)>,
    keeps_alive: bool,
}

impl PreflightState {
    fn read(answers: &[CommandResult]) -> Option<Self> {
        let [generator, nginx] = answers else {
            return None;
        };
        let (head, template) = generator.stdout.split_once("@template\n")?;
        let version = nginx.stdout.lines().find_map(|l| l.strip_prefix("@version "));
        Some(PreflightState {
            template: template.into(),
            writable: head.contains("@writable yes"),
            nginx_version: version.and_then(parse_version),
            keeps_alive: nginx.stdout.contains("@keepalive "),
        })
        .filter(|i| !i.template.trim().is_empty())
    }
}

/// Reads `nginx version: nginx/1.29.5`.
fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    parse_numbers(text.split_once("nginx/")?.1)
}

/// Reads `1.29.5`, and what may follow.
fn parse_numbers(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.split(|c: char| !c.is_ascii_digit()).map(|p| p.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

/// What the question's script printed.
#[derive(Debug, Default, PartialEq)]
struct NginxState {
    /// Seconds since boot and since 1970, of the same moment.
    clock: Option<(f64, f64)>,
    /// When the configuration was written, in seconds since 1970.
    written: Option<f64>,
    /// The servers that are not down.
    servers: BTreeSet<IpAddr>,
    /// When each working worker started, in seconds since boot.
    workers: Vec<f64>,
    /// Workers that only finish what they have.
    retired: usize,
    /// Remote address (as /proc/net/tcp writes it) of each connection that may carry a request.
    remotes: Vec<String>,
}

impl NginxState {
    fn parse(text: &str) -> Option<NginxState> {
        let mut answer = NginxState::default();
        for line in text.lines() {
            match line.trim().split_once(' ') {
                Some(("@clock", rest)) => answer.clock = parse_clock(rest),
                Some(("@written", rest)) => answer.written = parse_time(rest),
                Some(("@worker", rest)) => answer.add_worker(rest)?,
                Some(("server", rest)) => answer.servers.extend(parse_server(rest)),
                _ => answer.remotes.extend(parse_remote(line)),
            }
        }
        text.trim_end().ends_with("@end").then_some(answer)
    }

    fn add_worker(&mut self, rest: &str) -> Option<()> {
        // A process that is just ending has no title any more.
        let (ticks, title) = rest.split_once(' ').unwrap_or((rest, ""));
        let started: f64 = ticks.parse().ok()?;
        match title.trim() {
            "nginx: worker process" => self.workers.push(started / 100.0),
            "nginx: worker process is shutting down" => self.retired += 1,
            _ => {}
        }
        Some(())
    }

    fn routes_to(&self, endpoint: &Endpoint) -> bool {
        endpoint.addresses.iter().any(|ip| self.servers.contains(ip))
    }

    fn connections(&self, endpoint: &Endpoint) -> usize {
        let is_ours = |r: &&String| endpoint.addresses.iter().any(|a| is_written(r, a));
        self.remotes.iter().filter(is_ours).count()
    }

    /// Every working worker started after the configuration was written, so it has read it.
    fn is_settled(&self) -> bool {
        let (Some((boot, now)), Some(written)) = (self.clock, self.written) else {
            return false;
        };
        let read_it = |started: &f64| now - (boot - started) + CLOCK_SLACK >= written;
        !self.workers.is_empty() && self.workers.iter().all(read_it)
    }
}

/// Reads `UPTIME TIME`.
fn parse_clock(text: &str) -> Option<(f64, f64)> {
    let (uptime, time) = text.split_once(' ')?;
    Some((uptime.parse().ok()?, parse_time(time)?))
}

/// Reads `2026-11-21 03:36:30.388117391 +0000`, as GNU's and busybox's `stat -c %y` print it.
fn parse_time(text: &str) -> Option<f64> {
    let mut parts = text.split_whitespace();
    let (date, time, zone) = (parts.next()?, parts.next()?, parts.next()?);
    let stamp = humantime::parse_rfc3339(&format!("{date}T{time}Z")).ok()?;
    let local = stamp.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs_f64();
    let zone: i32 = zone.parse().ok().filter(|z| (-9999..=9999).contains(z))?;
    Some(local - f64::from(zone / 100 * 3600 + zone % 100 * 60))
}

/// Reads `172.19.0.5:3000 weight=1; # a comment`, with a port or without; none for a server that is down, or that is
/// known by a name.
fn parse_server(text: &str) -> Option<IpAddr> {
    let mut words = text.split(';').next()?.split_whitespace();
    let address = words.next()?;
    let host = match address.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None => address.split(':').next()?,
    };
    host.parse().ok().filter(|_| !words.any(|w| w == "down"))
}

/// Reads ` ADDRESS:PORT STATE` of /proc/net/tcp.
fn parse_remote(line: &str) -> Option<String> {
    let (remote, _state) = line.trim().split_once(' ')?;
    let (address, port) = remote.split_once(':')?;
    let is_hex = |t: &str| t.chars().all(|c| c.is_ascii_hexdigit());
    (is_hex(address) && is_hex(port) && address.len() >= 8).then(|| address.to_uppercase())
}

/// The server of each instance outside, and that of one inside which takes its place.
fn exchanged(rotation: &Rotation) -> Vec<(SocketAddr, SocketAddr)> {
    let server = |e: &Endpoint| Some(SocketAddr::new(*e.addresses.first()?, e.port?));
    let inside: Vec<SocketAddr> = rotation.inside.iter().filter_map(server).collect();
    rotation.outside.iter().filter_map(server).zip(inside.iter().copied().cycle()).collect()
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub mod properties;
