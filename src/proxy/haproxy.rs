//! HAProxy. Its runtime API drains the free slots of a `server-template` before an instance starts, adds servers for new
//! instances, and switches; HAProxy is never reloaded. Its own counters are the requests in flight.

mod added_servers;
pub mod config;
mod files;
mod frontend;
mod health_override;
mod retired;
pub mod server;
mod socket;
mod variables;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::kit::connections;
use super::public_route::PublicRoute;
use super::{
    Abilities, Adapter, Audit, Backend, Discovery, Endpoint, FileLookup, Goal, InFlight, Next, Place,
    Planned, Proxy, ProxyContainer, ProxyFiles, ProxyState, Query, RolloutShape, Rotation, RouteInfo, boxed,
};
use crate::docker::inspect::Container;
use crate::docker::{CommandResult, Exec};
use crate::error::{Error, Rule};
use crate::finding::Finding;
use crate::shell;
use added_servers::is_added;
use config::{HaproxyConfig, ServerLine, stands_for};
use server::Server;

const CONFIG: &str = "/usr/local/etc/haproxy/haproxy.cfg";

/// Runtime commands that print the slots with their flags and counters.
const STATE: &str = "show servers state; show stat -1 4 -1";

/// End of a script whose commands print nothing, or a confirmation, when they succeed. A server may only be
/// deleted after its last connection; a later step repeats the command.
const STRICT: &str = "output=$(send) || exit 1
output=$(printf '%s\\n' \"$output\" | grep -vE '^ *$|IP changed|port changed|no need to change|nothing changed|New server registered|Server deleted|still has')
[ -z \"$output\" ] || { echo \"$output\" >&2; exit 1; }";

const SOCKET_FIX: &str = "add `stats socket /tmp/haproxy.sock mode 660 level admin` to the `global` section of its configuration, and restart it";
const TEMPLATE_FIX: &str = "use `server-template app 8 app:3000 check resolvers docker init-addr none` and a section \
    `resolvers docker` with `nameserver dns 127.0.0.11:53`; `--proxy-kind none` deploys without gate and drain";
const SLOTS_FIX: &str = "use a `server-template` with twice the instances and `resolvers`";

#[derive(Debug, Clone, PartialEq)]
pub struct Haproxy {
    place: ProxyContainer,
    config: HaproxyConfig,
}

pub const ADAPTER: Adapter = Adapter {
    kind: "haproxy",
    is_image,
    route_setting: |_| None,
    detect: |container, _| detect(container).map(boxed),
    declared: |container| boxed(Haproxy::new(container)),
};

/// The official image, or a container whose process is haproxy; not dockercloud's image, which writes its own
/// configuration.
pub fn detect(container: &Container) -> Option<Haproxy> {
    let is_process = container.programs().any(|program| program == "haproxy");
    let is_haproxy =
        is_image(&container.config.image) || is_process || container.env("HAPROXY_VERSION").is_some();
    (is_haproxy && !container.config.image.contains("dockercloud")).then(|| Haproxy::new(container))
}

/// `haproxy`, or one of HAProxy Technologies' `haproxy-…`, from any registry.
pub fn is_image(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or("");
    let name = name.split([':', '@']).next().unwrap_or("");
    name == "haproxy" || (name.starts_with("haproxy-") && image.contains("haproxytech/"))
}

/// Public routes to a service with these DNS names, by a configuration alone.
pub fn public_routes_from(configuration: &str, names: &[String]) -> Vec<PublicRoute> {
    let haproxy =
        Haproxy { config: HaproxyConfig::parse(configuration), ..Haproxy::new(&Container::default()) };
    haproxy.public_routes_to(names)
}

impl Haproxy {
    pub fn new(container: &Container) -> Self {
        Haproxy { place: ProxyContainer::new("haproxy", container), config: HaproxyConfig::default() }
    }

    /// The configuration files that `-f` names.
    fn files(&self) -> Vec<String> {
        // A shell script may start HAProxy, too.
        let words: Vec<&str> =
            self.place.container.args.iter().flat_map(|arg| arg.split_whitespace()).collect();
        let named = words.windows(2).filter(|w| w[0] == "-f").map(|w| w[1].to_string());
        let files: Vec<String> = named.collect();
        if files.is_empty() { vec![CONFIG.into()] } else { files }
    }

    fn socket(&self) -> Option<&str> {
        let admin = self.config.sockets.iter().find(|(_, level)| level == "admin");
        admin.or(self.config.sockets.first()).map(|(address, _)| address.as_str())
    }

    fn socket_command(&self, commands: &str) -> Exec {
        self.place.sh(socket::script(self.socket().unwrap_or(""), commands))
    }

    /// Runs commands that print nothing when they succeed. A later step sends the commands that do not fit into
    /// one line.
    fn command(&self, commands: &[String]) -> Option<Exec> {
        (!commands.is_empty()).then(|| {
            let line = fit_in_one_line(commands);
            let script = socket::script(self.socket().unwrap_or(""), &line);
            self.place.sh(script.replace("\nsend\n", &format!("\n{STRICT}\n")))
        })
    }

    /// Variables of the container, overridden by those of its process.
    fn environment<'a>(&'a self, of_process: impl Iterator<Item = &'a str>) -> BTreeMap<String, String> {
        let of_container = self.place.container.config.env.iter().map(String::as_str);
        let pairs = of_container.chain(of_process).filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.into(), value.into())).collect()
    }

    /// Commands that admit the reachable instances inside and drain those outside, in one step. HAProxy would
    /// retry a request to a stopped instance for as long as `retries` and `timeout connect` allow. So the
    /// sessions of stopped instances are shut down.
    fn urgent_switch(&self, inside: &[Server], outside: &[Server], exited: &[Endpoint]) -> Vec<String> {
        let ready = inside.iter().filter(|s| s.is_out() && s.has_passed()).map(|s| s.set("ready"));
        let has_successor = |s: &&&Server| inside.iter().any(|i| i.backend == s.backend && i.has_passed());
        let leaving: Vec<&Server> = outside.iter().filter(|s| !s.is_out() && has_successor(&s)).collect();
        let cut = leaving.iter().filter(|s| s.is_of(exited) && !self.config.redispatches(&s.backend));
        let drain = leaving.iter().map(|s| self.config.drain(s));
        ready.chain(drain).chain(cut.map(|s| s.shut_down())).collect()
    }

    /// Lines of the servers that an instance with these DNS names may have.
    fn lines_of<'a>(&'a self, names: &'a [String]) -> impl Iterator<Item = &'a ServerLine> {
        self.config.lines.iter().filter(|line| stands_for(&line.host, names))
    }

    fn templates_of<'a>(&'a self, names: &'a [String]) -> impl Iterator<Item = &'a ServerLine> {
        self.lines_of(names).filter(|line| line.is_template())
    }

    fn static_servers_of<'a>(&'a self, names: &'a [String]) -> impl Iterator<Item = &'a ServerLine> {
        self.lines_of(names).filter(|line| !line.is_template())
    }

    /// HAProxy can send requests to a relay, which has an added server. A relay begins no TLS session.
    fn can_hold(&self) -> bool {
        self.config.lines.iter().all(|line| self.can_add(&line.backend) && !line.has("ssl"))
    }

    /// HAProxy can add servers to a backend.
    fn can_add(&self, backend: &str) -> bool {
        let is_new = self.config.version.is_none_or(|version| version >= config::ADDS_SERVERS_SINCE);
        is_new && !self.config.has_static_balance(backend)
    }

    /// The backend has only plain lines, and its algorithm keeps HAProxy from adding servers. So their addresses change.
    fn has_fixed_servers(&self, backend: &str) -> bool {
        let has_template = || self.config.templates().any(|line| line.backend == backend);
        self.config.has_static_balance(backend) && !has_template()
    }

    fn answer_timeout(&self, names: &[String]) -> Option<Duration> {
        self.backends_of(names).into_iter().filter_map(|backend| self.config.answer_timeout(backend)).min()
    }

    fn public_routes_to(&self, names: &[String]) -> Vec<PublicRoute> {
        frontend::public_routes(&self.config.frontends, &self.backends_of(names))
    }

    /// The backends that must have a server for an instance with these DNS names.
    fn backends_of<'a>(&'a self, names: &'a [String]) -> BTreeSet<&'a str> {
        self.lines_of(names).map(|line| line.backend.as_str()).collect()
    }

    /// The servers that hold, or may get, these instances.
    fn slots_for(&self, output: &CommandResult, endpoints: &[Endpoint]) -> Option<Vec<Server>> {
        let is_of =
            |line: &ServerLine, s: &Server| line.contains(s) || (line.backend == s.backend && is_added(s));
        let may_hold = |s: &Server, e: &Endpoint| self.lines_of(&e.names).any(|line| is_of(line, s));
        let mut slots = Server::parse(&output.stdout)?;
        slots.retain(|s| endpoints.iter().any(|e| may_hold(s, e)));
        Some(slots)
    }

    fn no_answer(&self, output: &CommandResult) -> Error {
        let why = "its `stats socket` does not answer";
        self.refused(&"haproxy-silent", why.into(), SOCKET_FIX).detail(output.stderr_or_stdout())
    }

    fn refused(&self, rule: Rule, why: String, hint: &str) -> Error {
        self.place.refused(why, hint).rule(rule)
    }

    /// Finding of a template without `resolvers`: HAProxy queries DNS only when it starts, so no new instance gets
    /// a slot.
    fn missing_resolvers(&self, backends: &[Backend]) -> Vec<Finding> {
        let affected = self.lines_for(backends).filter(|line| line.is_template() && !line.has("resolvers"));
        let risk = |t: &ServerLine| {
            let message = format!(
                "{}: the `server-template` of backend `{}` has no `resolvers`, so HAProxy resolves `{}` only once, when it \
                     starts",
                self.name(),
                t.backend,
                t.host
            );
            let is_loss = !self.can_add(&t.backend);
            let finding = if is_loss { Finding::loss } else { Finding::note };
            finding("haproxy-no-resolvers", message, TEMPLATE_FIX)
        };
        affected.map(risk).collect()
    }

    /// Error for a backend with sticky clients, which leave a server only in maintenance, if maintenance also
    /// cuts their requests in flight.
    fn cuts_sticky_sessions(&self, backends: &[Backend]) -> Option<Error> {
        let cuts_sessions =
            |options: &[String]| options.windows(2).any(|w| w == ["on-marked-down", "shutdown-sessions"]);
        let is_cut =
            |line: &&ServerLine| cuts_sessions(&line.options) && self.config.is_sticky(&line.backend);
        let ServerLine { backend, .. } = self.lines_for(backends).find(is_cut)?;
        let why = format!(
            "backend `{backend}` has sticky clients, which leave a server only in maintenance, and its `on-marked-down \
             shutdown-sessions` then cuts their requests"
        );
        let fix = "remove `on-marked-down shutdown-sessions` from its servers; `--proxy-kind none` deploys without gate and drain";
        Some(self.refused(&"haproxy-marked-down", why, fix))
    }

    /// Backends with servers that HAProxy does not check.
    fn backends_without_check<'a>(&'a self, backends: &'a [Backend]) -> BTreeSet<&'a str> {
        let unchecked = self.lines_for(backends).filter(|line| !line.has("check"));
        unchecked.map(|line| line.backend.as_str()).collect()
    }

    /// Lines of the servers of these backends.
    fn lines_for<'a>(&'a self, backends: &'a [Backend]) -> impl Iterator<Item = &'a ServerLine> {
        let is_relevant = |line: &&ServerLine| backends.iter().any(|b| stands_for(&line.host, &b.names));
        self.config.lines.iter().filter(is_relevant)
    }
}

/// Joins as many commands as HAProxy accepts at a time. It reads a line into one buffer, of 16 KiB unless
/// `tune.bufsize` sets another size.
fn fit_in_one_line(commands: &[String]) -> String {
    const LONGEST: usize = 12 << 10;
    let mut length = 0;
    let fits = |command: &&String| {
        length += command.len() + 2;
        length <= LONGEST
    };
    commands.iter().take_while(fits).cloned().collect::<Vec<_>>().join("; ")
}

/// Text of a file, or of all configuration files in a folder.
fn text_at(files: FileLookup, path: &str) -> Option<String> {
    let text = files(path)?.text;
    let names = text.lines().filter(|name| name.ends_with(".cfg"));
    let in_folder: Vec<String> =
        names.filter_map(|name| Some(files(&format!("{path}/{name}"))?.text)).collect();
    Some(if in_folder.is_empty() { text } else { in_folder.join("\n") })
}

impl Proxy for Haproxy {
    fn place(&self) -> Place<'_> {
        Place::Container(&self.place)
    }

    fn routes_to(&self, backend: &Backend) -> bool {
        !self.backends_of(&backend.names).is_empty() && self.place.reaches(backend)
    }

    fn route_to(&self, backend: &Backend) -> RouteInfo {
        RouteInfo {
            port: self.lines_of(&backend.names).find_map(|line| line.port),
            answer_timeout: self.answer_timeout(&backend.names),
            public: self.public_routes_to(&backend.names),
            ..RouteInfo::default()
        }
    }

    fn introduction(&self) -> Option<Exec> {
        let files: Vec<String> = self.files().iter().map(|f| shell::file(f)).collect();
        let each = "do [ -d \"$f\" ] && cat \"$f\"/*.cfg || cat \"$f\"; done";
        let version = "haproxy -v 2>/dev/null | sed -n 's/^/@version /; 1p'";
        // The environment of the process, which an entrypoint may have extended.
        let variables = "tr '\\0\\n' '\\n ' </proc/1/environ 2>/dev/null | sed 's/^/@variable /'";
        let script = format!("{variables}\nfor f in {}; {each}\n{version}", files.join(" "));
        Some(self.place.sh(script))
    }

    fn learn(&mut self, output: &CommandResult) {
        let (variables, text): (Vec<&str>, Vec<&str>) =
            output.stdout.lines().partition(|line| line.starts_with("@variable "));
        let of_process = variables.iter().filter_map(|line| line.strip_prefix("@variable "));
        self.config = HaproxyConfig::parse_with_environment(&text.join("\n"), self.environment(of_process));
    }

    fn doubt(&self, backends: &[Backend]) -> Option<String> {
        if self.config.is_unreadable {
            return Some(format!("its configuration, {}, cannot be read", self.files().join(", ")));
        }
        if let Some(ServerLine { host, .. }) = self.config.lines.iter().find(|l| l.host.contains('$')) {
            return Some(format!("it has a server `{host}` with a variable whose value is unknown"));
        }
        let is_relevant = |host: &&String| backends.iter().any(|b| stands_for(host, &b.names));
        let host = self.config.conditional.iter().find(is_relevant)?;
        Some(format!(
            "it has a server `{host}` under a condition (`.if`), which compose-zd does not evaluate"
        ))
    }

    fn learn_files(&mut self, files: FileLookup) -> bool {
        let texts: Option<Vec<String>> = self.files().iter().map(|path| text_at(files, path)).collect();
        let environment = self.environment(std::iter::empty());
        let text = texts.as_ref().map(|texts| texts.join("\n")).unwrap_or_default();
        self.config = HaproxyConfig::parse_with_environment(&text, environment);
        texts.is_some()
    }

    fn files(&self) -> ProxyFiles {
        files::files(self)
    }

    fn audit(&self, shape: &RolloutShape, planned: Option<&Planned>) -> Audit {
        let advice = self.advice(&shape.backends);
        let room = || planned.map_or(Ok(Vec::new()), |planned| self.foresee(shape, planned.present));
        Audit { advice, ..Audit::default() }.and(|| self.check(&shape.backends)).and(room)
    }

    fn losses(&self, _answers: &[CommandResult], shape: &RolloutShape) -> Vec<Finding> {
        added_servers::instances_beyond_lines(self, shape)
    }

    fn abilities(&self) -> Abilities {
        let late_requests = retired::LATE_REQUEST_GRACE;
        let gives_addresses = self.config.static_servers().next().is_some();
        Abilities { gives_addresses, late_requests, can_hold: self.can_hold(), ..Abilities::default() }
    }

    fn queries(&self, goal: &Goal) -> Vec<Query> {
        match goal {
            Goal::Patched(_) => vec![self.socket_command(STATE).into()],
            _ => vec![self.question().into(), self.place.connections_to(&goal.endpoints())],
        }
    }

    fn advance(&self, answers: &[CommandResult], goal: &Goal) -> Result<(ProxyState, Next), Error> {
        let output = answers.first().cloned().unwrap_or_default();
        let state =
            if goal.needs_state() { self.read(answers, &goal.endpoints())? } else { ProxyState::default() };
        let next = match goal {
            Goal::Observed(_) => Next::Done,
            Goal::Patched(shape) => {
                self.check_lines(shape)?;
                self.check_room(&output, shape).map(|()| Next::Done)?
            }
            Goal::Gated(rotation) => self.gate(&output, rotation),
            Goal::Rotation(rotation) => Next::run_or_wait(self.route(&output, rotation)),
            Goal::HandedBack(discovery) => self.hand_back(&output, discovery),
        };
        Ok((state, next))
    }

    fn diagnose(&self) -> Query {
        self.socket_command("show stat -1 4 -1").into()
    }

    /// HAProxy's own checks that fail, in the backends of these instances.
    fn diagnosis(&self, output: &CommandResult, endpoints: &[Endpoint]) -> String {
        let Some(failing) = server::failing_checks(&output.stdout) else {
            return output.stderr_or_stdout().into();
        };
        let backends: BTreeSet<&str> = endpoints.iter().flat_map(|e| self.backends_of(&e.names)).collect();
        let relevant = failing.iter().filter(|check| backends.contains(check.backend.as_str()));
        relevant.map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }
}

impl Haproxy {
    fn check(&self, backends: &[Backend]) -> Result<Vec<Finding>, Error> {
        let sockets = &self.config.sockets;
        if sockets.is_empty() {
            let why = "it has no `stats socket`, so compose-zd cannot control it";
            return Err(self.refused(&"haproxy-socket", why.into(), SOCKET_FIX));
        }
        if sockets.iter().all(|(_, level)| level != "admin") {
            let why = "its `stats socket` is not `level admin`";
            return Err(self.refused(&"haproxy-socket-level", why.into(), SOCKET_FIX));
        }
        match self.cuts_sticky_sessions(backends) {
            Some(error) => Err(error),
            None => Ok(self.missing_resolvers(backends)),
        }
    }

    fn advice(&self, backends: &[Backend]) -> Vec<Finding> {
        let note = |backend: &str| {
            let message = format!(
                "{}: the servers of backend `{backend}` have no `check`, so an instance that hangs keeps getting requests",
                self.name()
            );
            Finding::note("haproxy-no-check", message, "add `check` to the line of its servers")
        };
        self.backends_without_check(backends).into_iter().map(note).collect()
    }

    /// Checks that each template has slots for the old and the new instances at the same time, where HAProxy cannot
    /// add servers.
    fn foresee(&self, shape: &RolloutShape, present: usize) -> Result<Vec<Finding>, Error> {
        self.check_lines(shape)?;
        for template in self.crowded_templates(shape) {
            let slots = template.size();
            let needed = present + shape.starting;
            if slots < needed {
                let why = format!(
                    "backend `{}` has {slots} slots for `{}`, and {present} running and {} new instances need {needed}",
                    template.backend, template.host, shape.starting
                );
                return Err(self.refused(&"haproxy-room", why, SLOTS_FIX));
            }
        }
        Ok(added_servers::instances_beyond_lines(self, shape))
    }

    /// Templates in whose backends HAProxy cannot add servers.
    fn crowded_templates<'a>(&'a self, shape: &'a RolloutShape) -> impl Iterator<Item = &'a ServerLine> {
        shape.names().flat_map(|n| self.templates_of(n)).filter(|line| !self.can_add(&line.backend))
    }

    /// Checks that HAProxy can add servers beside the lines, and like them.
    fn check_lines(&self, shape: &RolloutShape) -> Result<(), Error> {
        added_servers::check_lines(self, shape)?;
        added_servers::check_ability(self, shape)
    }

    /// Checks that each template has a free slot for every instance that starts, where HAProxy cannot add servers.
    fn check_room(&self, output: &CommandResult, shape: &RolloutShape) -> Result<(), Error> {
        let slots = Server::parse(&output.stdout).ok_or_else(|| self.no_answer(output))?;
        for template in self.crowded_templates(shape) {
            let free = slots.iter().filter(|s| template.contains(s) && s.is_free()).count();
            if free < shape.starting {
                let (backend, host, starting) = (&template.backend, &template.host, shape.starting);
                let why = format!(
                    "backend `{backend}` has {free} free slots for `{host}`, and {starting} instances are to start"
                );
                return Err(self.refused(&"haproxy-room", why, SLOTS_FIX));
            }
        }
        Ok(())
    }

    /// Drains every free slot of the service, so that an instance that gets one is out of rotation.
    fn gate(&self, output: &CommandResult, rotation: &Rotation) -> Next {
        let commands = self.gating_commands(output, rotation);
        let is_whole = fit_in_one_line(&commands).len() == commands.join("; ").len();
        match self.command(&commands) {
            None => Next::Done,
            Some(exec) if is_whole => Next::finish(exec),
            Some(exec) => Next::run(exec),
        }
    }

    fn gating_commands(&self, output: &CommandResult, rotation: &Rotation) -> Vec<String> {
        let slots = self.slots_for(output, &rotation.outside).unwrap_or_default();
        // An instance that has started may have got the address, and so the slot, of one that keeps crashing.
        let is_new = |s: &Server| s.is_of(&rotation.outside) && !s.is_of(&rotation.inside);
        // The slot of a recently stopped instance: DNS still lists its address, which the next instance may
        // get.
        let is_stale = |s: &Server| s.is_down() && !s.is_of(&rotation.inside);
        let live = rotation.all();
        let is_vacant = |s: &Server| self.is_vacant(s, &live, &rotation.others);
        let is_gated = |s: &Server| s.is_free() || is_vacant(s) || is_new(s) || is_stale(s);
        let undrained = slots.iter().filter(|s| is_gated(s) && !s.is_out());
        undrained.map(|s| self.config.drain(s)).collect()
    }

    /// Gives the instances inside servers, and admits those that HAProxy reaches. Drains the instances outside only
    /// when all inside get requests.
    fn route(&self, output: &CommandResult, rotation: &Rotation) -> Option<Exec> {
        let mut slots = self.slots_for(output, &rotation.all())?;
        slots.retain(|s| added_servers::is_own(s, &rotation.all()));
        let slots_of =
            |set: &[Endpoint]| slots.iter().filter(|s| s.is_of(set)).cloned().collect::<Vec<Server>>();
        let inside = slots_of(&rotation.inside);
        if rotation.urgent {
            let exited = rotation.exited_endpoints();
            let mut commands = self.urgent_switch(&inside, &slots_of(&rotation.outside), &exited);
            commands.extend(self.hand_over_servers(&slots, rotation));
            return self.command(&commands);
        }
        // The check of a line never passes for a relay.
        let is_relays = |s: &Server| rotation.inside.iter().any(|e| e.is_relay() && s.holds(e));
        let can_admit =
            |s: &Server| s.is_out() && self.is_reached(s, &slots) && (is_added(s) || !is_relays(s));
        let mut commands: Vec<String> =
            inside.iter().filter(|s| can_admit(s)).flat_map(|s| self.admit(s)).collect();
        let (required, optional) = self.assign_servers(&slots, rotation);
        commands.extend(required);
        commands.extend(self.hand_over_servers(&slots, rotation));
        // A preexisting instance whose check fails may never serve, so nothing waits for it.
        let is_failing = |s: &Server| s.is_down() && !s.is_out();
        let is_preexisting = |e: &Endpoint, s: &Server| rotation.preexisting.contains(&e.id) && s.holds(e);
        let serves = |e: &Endpoint, s: &Server| s.serves(e) || (s.holds(e) && can_admit(s));
        let is_settled = |e: &Endpoint, s: &Server| serves(e, s) || (is_preexisting(e, s) && is_failing(s));
        // No line is left for such an instance, which got no request from the backend before either.
        let lacks_line = |e: &Endpoint, b: &str| {
            let is_held = inside.iter().any(|s| s.backend == b && s.holds(e));
            self.has_fixed_servers(b) && rotation.preexisting.contains(&e.id) && !is_held
        };
        let is_in = |e: &Endpoint, b: &str| {
            inside.iter().any(|s| s.backend == b && is_settled(e, s)) || lacks_line(e, b)
        };
        if rotation.inside.iter().all(|e| self.backends_of(&e.names).iter().all(|b| is_in(e, b))) {
            let outside = slots_of(&rotation.outside);
            commands.extend(outside.iter().filter(|s| !s.is_out()).map(|s| self.config.drain(s)));
        }
        if commands.is_empty() && !optional.is_empty() {
            return Some(self.socket_command(&fit_in_one_line(&optional)));
        }
        self.command(&commands)
    }

    fn question(&self) -> Exec {
        let script = socket::script(self.socket().unwrap_or(""), STATE);
        let (head, rest) = script.split_once('\n').unwrap_or_default();
        self.place.sh(format!("{head}\n{}{rest}", retired::PROCESS_SCRIPT))
    }

    fn read(&self, answers: &[CommandResult], endpoints: &[Endpoint]) -> Result<ProxyState, Error> {
        let output = &answers.first().cloned().unwrap_or_default();
        let mut slots = self.slots_for(output, endpoints).ok_or_else(|| self.no_answer(output))?;
        slots.retain(|s| added_servers::is_own(s, endpoints));
        let slots_of = |e: &Endpoint| slots.iter().filter(|s| s.holds(e)).collect::<Vec<_>>();
        let routed = |e: &&Endpoint| slots_of(e).iter().any(|s| !s.is_out());
        let failing = |e: &&Endpoint| !slots_of(e).iter().any(|s| s.is_routed());
        let ids =
            |is: &dyn Fn(&&Endpoint) -> bool| endpoints.iter().filter(is).map(|e| e.id.clone()).collect();
        let retired_for = retired::retired_for(&output.stdout);
        let connections = connections::parse(answers.get(1));
        let in_flight = |e: &Endpoint| {
            let exact = slots_of(e).iter().map(|s| s.in_flight).sum();
            let has_streams = self.config.has_tunnels;
            let of_kernel = |quiet, exact| InFlight::Connections {
                exact,
                open: connections::to_endpoint(&connections, e),
                quiet,
                has_streams,
            };
            // A server that changed its address still counts the requests to the former one.
            if self.backends_of(&e.names).iter().any(|backend| self.has_fixed_servers(backend)) {
                return of_kernel(retired_for.unwrap_or_default(), 0);
            }
            retired_for.map_or(InFlight::Exact(exact), |quiet| of_kernel(quiet, exact))
        };
        Ok(ProxyState {
            routed: ids(&routed),
            failing: ids(&failing),
            config_applied: true,
            in_flight: endpoints.iter().map(|e| (e.id.clone(), in_flight(e))).collect(),
            has_retired_process: retired_for.is_some(),
        })
    }

    /// A flag belongs to the slot: if it outlived the instance, the next one would get no request. So the flag
    /// is cleared, once DNS no longer lists the address of the stopped instance. Cleared earlier, the slot
    /// would send requests to a stopped instance.
    fn hand_back(&self, output: &CommandResult, discovery: &Discovery) -> Next {
        let Some(mut slots) = self.slots_for(output, &discovery.endpoints) else {
            return Next::Wait;
        };
        slots.retain(|s| !added_servers::belongs_to_other_rollout(s, discovery));
        let (commands, is_pending) = self.converge_servers(&slots, discovery);
        match (self.command(&commands), is_pending) {
            (Some(exec), _) => Next::run(exec),
            (None, true) => Next::Wait,
            (None, false) => Next::Done,
        }
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub mod properties;
