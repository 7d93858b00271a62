//! HAProxy: its servers are slots that the runtime API drains before anything starts, and switches; it is never
//! reloaded. DNS fills those of a `server-template`; fixed `server` lines get their addresses from us. What is in
//! flight is HAProxy's own count.

pub mod config;
mod frontend;
mod health_override;
mod retired;
pub mod server;
mod socket;
mod static_servers;
mod variables;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::public_route::PublicRoute;
use super::{
    Backend, Endpoint, FileLookup, HandBack, InFlight, Patch, Proxy, ProxyState, RolloutShape, Rotation,
};
use crate::docker::inspect::Container;
use crate::docker::{CommandResult, Exec};
use crate::error::{Error, Risk, Rule};
use crate::shell;
use config::{HaproxyConfig, ServerTemplate, StaticServer, stands_for};
use retired::Retired;
use server::Server;
use static_servers::is_added;

const CONFIG: &str = "/usr/local/etc/haproxy/haproxy.cfg";

/// What one runtime question asks: the slots with their flags, and their counters.
const STATE: &str = "show servers state; show stat -1 4 -1";

/// Ends a script of commands, of which some confirm what they did and the others say nothing. A server that is to be
/// deleted may have to wait for its last connection; that is asked for again.
const STRICT: &str = "said=$(ask) || exit 1
said=$(printf '%s\\n' \"$said\" | grep -vE '^ *$|IP changed|no need to change|New server registered|Server deleted|still has')
[ -z \"$said\" ] || { echo \"$said\" >&2; exit 1; }";

const SOCKET_FIX: &str = "add `stats socket /tmp/haproxy.sock mode 660 level admin` to the `global` section of its configuration, and restart it";
const TEMPLATE_FIX: &str = "use `server-template app 8 app:3000 check resolvers docker init-addr none` and a section \
    `resolvers docker` with `nameserver dns 127.0.0.11:53`; `--proxy-kind none` deploys without gate and drain";
const ROOM_FIX: &str = "raise the number of its `server-template` to at least twice the instances, or lower \
    `update_config.parallelism`";

#[derive(Debug, Clone, PartialEq)]
pub struct Haproxy {
    container: Container,
    config: HaproxyConfig,
    others: OtherAddresses,
}

/// Addresses of the containers that no rollout of ours is about.
#[derive(Debug, Clone, Default)]
struct OtherAddresses(Arc<Mutex<BTreeSet<IpAddr>>>);

impl OtherAddresses {
    fn has(&self, address: &IpAddr) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(address)
    }

    fn set(&self, addresses: BTreeSet<IpAddr>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }
}

/// They are no part of what a proxy is.
impl PartialEq for OtherAddresses {
    fn eq(&self, _: &OtherAddresses) -> bool {
        true
    }
}

/// The official image, or one whose process is haproxy; not dockercloud's, which writes its own configuration.
pub fn detect(container: &Container) -> Option<Haproxy> {
    let runs = container.programs().any(|program| program == "haproxy");
    let ours = is_image(&container.config.image) || runs || container.env("HAPROXY_VERSION").is_some();
    (ours && !container.config.image.contains("dockercloud")).then(|| Haproxy::new(container))
}

/// `haproxy`, or one of HAProxy Technologies' `haproxy-…`, from any registry.
pub fn is_image(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or("");
    let name = name.split([':', '@']).next().unwrap_or("");
    name == "haproxy" || (name.starts_with("haproxy-") && image.contains("haproxytech/"))
}

/// By which ways requests come to what has these names, by a configuration alone.
pub fn entrances_of(configuration: &str, names: &[String]) -> Vec<PublicRoute> {
    let haproxy =
        Haproxy { config: HaproxyConfig::parse(configuration), ..Haproxy::new(&Container::default()) };
    haproxy.entrances_to(names)
}

impl Haproxy {
    pub fn new(container: &Container) -> Self {
        Haproxy {
            container: container.clone(),
            config: HaproxyConfig::default(),
            others: OtherAddresses::default(),
        }
    }

    /// The files that `-f` names.
    fn files(&self) -> Vec<String> {
        // A script of the shell may start it, too.
        let words: Vec<&str> = self.container.args.iter().flat_map(|arg| arg.split_whitespace()).collect();
        let after = words.windows(2).filter(|w| w[0] == "-f").map(|w| w[1].to_string());
        let files: Vec<String> = after.collect();
        match files.is_empty() {
            true => vec![CONFIG.into()],
            false => files,
        }
    }

    fn socket(&self) -> Option<&str> {
        let admin = self.config.sockets.iter().find(|(_, level)| level == "admin");
        admin.or(self.config.sockets.first()).map(|(address, _)| address.as_str())
    }

    fn socket_command(&self, commands: &str) -> Exec {
        Exec::sh(&self.container.id, socket::script(self.socket().unwrap_or(""), commands))
    }

    /// Runs commands that say nothing when they are done; what does not fit into one line has its turn next.
    fn command(&self, commands: &[String]) -> Option<Exec> {
        (!commands.is_empty()).then(|| {
            let all = one_line(commands);
            let script = socket::script(self.socket().unwrap_or(""), &all);
            Exec::sh(&self.container.id, script.replace("\nask\n", &format!("\n{STRICT}\n")))
        })
    }

    /// Variables of its container, and those that its process has in their place.
    fn environment<'a>(&'a self, of_process: impl Iterator<Item = &'a str>) -> BTreeMap<String, String> {
        let of_container = self.container.config.env.iter().map(String::as_str);
        let pairs = of_container.chain(of_process).filter_map(|pair| pair.split_once('='));
        pairs.map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn hosts(&self) -> impl Iterator<Item = &String> {
        let templates = self.config.templates.iter().map(|t| &t.host);
        templates.chain(self.config.fixed.iter().map(|f| &f.host))
    }

    fn backends(&self) -> impl Iterator<Item = &str> {
        let templates = self.config.templates.iter().map(|t| t.backend.as_str());
        templates.chain(self.config.fixed.iter().map(|f| f.backend.as_str()))
    }

    /// Those inside that HAProxy reaches get requests and those outside get none any more, in one go. A request that is on
    /// its way to one that is dead would be sent there again and again, for as long as `retries` and `timeout connect` take.
    fn exchange(&self, inside: &[Server], outside: &[Server], dead: &[Endpoint]) -> Vec<String> {
        let ready = inside.iter().filter(|s| s.is_out() && s.has_passed()).map(|s| s.set("ready"));
        let is_served = |s: &&&Server| inside.iter().any(|i| i.backend == s.backend && i.has_passed());
        let leave: Vec<&Server> = outside.iter().filter(|s| !s.is_out() && is_served(&s)).collect();
        let goes_elsewhere = |s: &Server| self.config.redispatching.contains(&s.backend);
        let doomed = leave.iter().filter(|s| s.is_of(dead) && !goes_elsewhere(s));
        let out = leave.iter().map(|s| self.drain(s));
        ready.chain(out).chain(doomed.map(|s| s.shut_down())).collect()
    }

    fn templates_of<'a>(&'a self, names: &'a [String]) -> impl Iterator<Item = &'a ServerTemplate> {
        self.config.templates.iter().filter(|t| stands_for(&t.host, names))
    }

    fn fixed_of<'a>(&'a self, names: &'a [String]) -> impl Iterator<Item = &'a StaticServer> {
        self.config.fixed.iter().filter(|f| stands_for(&f.host, names))
    }

    fn entrances_to(&self, names: &[String]) -> Vec<PublicRoute> {
        let templates = self.templates_of(names).map(|t| t.backend.as_str());
        let backends = templates.chain(self.fixed_of(names).map(|f| f.backend.as_str())).collect();
        frontend::entrances(&self.config.fronts, &backends)
    }

    /// The backends that have to know an instance.
    fn backends_of<'a>(&'a self, endpoint: &'a Endpoint) -> BTreeSet<&'a str> {
        let templates = self.templates_of(&endpoint.names).map(|t| t.backend.as_str());
        templates.chain(self.fixed_of(&endpoint.names).map(|f| f.backend.as_str())).collect()
    }

    /// The servers that are, or may become, these instances.
    fn slots_for(&self, now: &CommandResult, endpoints: &[Endpoint]) -> Option<Vec<Server>> {
        let is_place = |slot: &Server, e: &Endpoint| {
            let added = |t: &ServerTemplate| t.backend == slot.backend && is_added(slot);
            let in_template = |t: &ServerTemplate| t.has(&slot.backend, &slot.name) || added(t);
            let in_line =
                |f: &StaticServer| f.backend == slot.backend && (f.name == slot.name || is_added(slot));
            self.templates_of(&e.names).any(in_template) || self.fixed_of(&e.names).any(in_line)
        };
        let mut slots = Server::parse(&now.stdout)?;
        slots.retain(|s| endpoints.iter().any(|e| is_place(s, e)));
        Some(slots)
    }

    /// Drained servers still take the clients that a cookie or a stick table ties to them; in maintenance they do not.
    fn drain(&self, slot: &Server) -> String {
        let state = match self.config.sticky.contains(&slot.backend) {
            true => "maint",
            false => "drain",
        };
        slot.set(state)
    }

    fn silent(&self, answer: &CommandResult) -> Error {
        let why = "its `stats socket` does not answer";
        self.refused(&"haproxy-silent", why.into(), SOCKET_FIX).detail(answer.stderr_or_stdout())
    }

    fn refused(&self, rule: Rule, why: String, hint: &str) -> Error {
        Error::unchanged(format!("{}: {why}", self.name())).hint(hint).rule(rule)
    }

    /// Without `resolvers` DNS is asked when HAProxy starts, and never again: no instance ever gets a slot.
    fn never_asks_dns(&self, backends: &[Backend]) -> Vec<Risk> {
        let own = |t: &&ServerTemplate| backends.iter().any(|b| stands_for(&t.host, &b.names));
        let blind = self.config.templates.iter().filter(own).filter(|t| !has(&t.options, "resolvers"));
        let loss = |t: &ServerTemplate| {
            let says = format!(
                "{}: the `server-template` of backend `{}` has no `resolvers`, so HAProxy looks `{}` up when it starts and \
                 never again",
                self.name(),
                t.backend,
                t.host
            );
            Risk::grave("haproxy-no-resolvers", says, TEMPLATE_FIX)
        };
        blind.map(loss).collect()
    }

    /// A backend whose sticky clients only leave a server in maintenance, which cuts what they have in flight.
    fn cuts_sessions(&self, backends: &[Backend]) -> Option<Error> {
        let cuts =
            |options: &[String]| options.windows(2).any(|w| w == ["on-marked-down", "shutdown-sessions"]);
        let is_cut = |backend: &str, options: &[String]| {
            cuts(options) && self.config.sticky.iter().any(|s| s == backend)
        };
        let names = || backends.iter().map(|b| b.names.as_slice());
        let templates = names().flat_map(|n| self.templates_of(n)).map(|t| (&t.backend, &t.options));
        let fixed = names().flat_map(|n| self.fixed_of(n)).map(|f| (&f.backend, &f.options));
        let (backend, _) = templates.chain(fixed).find(|(backend, options)| is_cut(backend, options))?;
        let why = format!(
            "backend `{backend}` keeps clients with their server, which leave it in maintenance only, and its `on-marked-down \
             shutdown-sessions` cuts their requests then"
        );
        let fix = "remove `on-marked-down shutdown-sessions` from its servers; `--proxy-kind none` deploys without gate and drain";
        Some(self.refused(&"haproxy-marked-down", why, fix))
    }

    /// Backends whose servers nobody checks.
    fn unchecked(&self, backends: &[Backend]) -> BTreeSet<&str> {
        let ours = |host: &str| backends.iter().any(|b| stands_for(host, &b.names));
        let templates = self.config.templates.iter().map(|t| (&t.host, &t.backend, &t.options));
        let fixed = self.config.fixed.iter().map(|f| (&f.host, &f.backend, &f.options));
        let all = templates.chain(fixed).filter(|(host, ..)| ours(host));
        all.filter(|(.., options)| !has(options, "check")).map(|(_, backend, _)| backend.as_str()).collect()
    }
}

/// As many commands as HAProxy takes at a time: it reads a line into one buffer, of 16 KiB unless `tune.bufsize` says
/// otherwise.
fn one_line(commands: &[String]) -> String {
    const LONGEST: usize = 12 << 10;
    let mut length = 0;
    let fits = |command: &&String| {
        length += command.len() + 2;
        length <= LONGEST
    };
    commands.iter().take_while(fits).cloned().collect::<Vec<_>>().join("; ")
}

impl Proxy for Haproxy {
    fn name(&self) -> String {
        format!("haproxy `{}`", self.container.name())
    }

    fn container(&self) -> &Container {
        &self.container
    }

    fn routes_to(&self, backend: &Backend) -> bool {
        let reaches = |n: &String| self.container.networks().any(|own| own == n);
        let mut known = self.templates_of(&backend.names).map(|t| &t.host);
        let known = known.next().or(self.fixed_of(&backend.names).map(|f| &f.host).next());
        known.is_some() && backend.networks.iter().any(reaches)
    }

    fn port(&self, container: &Container) -> Option<u16> {
        let names = container.names();
        let template = self.templates_of(&names).find_map(|t| t.port);
        template.or(self.fixed_of(&names).find_map(|f| f.port))
    }

    fn host(&self, _container: &Container) -> Option<String> {
        None
    }

    fn entrances(&self, container: &Container) -> Vec<PublicRoute> {
        self.entrances_to(&container.names())
    }

    fn introduction(&self) -> Option<Exec> {
        let files: Vec<String> = self.files().iter().map(|f| shell::file(f)).collect();
        let each = "do [ -d \"$f\" ] && cat \"$f\"/*.cfg || cat \"$f\"; done";
        let version = "haproxy -v 2>/dev/null | sed -n 's/^/@version /; 1p'";
        // What it was started with, which an entrypoint may have added to.
        let variables = "tr '\\0\\n' '\\n ' </proc/1/environ 2>/dev/null | sed 's/^/@variable /'";
        let script = format!("{variables}\nfor f in {}; {each}\n{version}", files.join(" "));
        Some(Exec::sh(&self.container.id, script))
    }

    fn learn(&mut self, answer: &CommandResult) {
        let (variables, text): (Vec<&str>, Vec<&str>) =
            answer.stdout.lines().partition(|line| line.starts_with("@variable "));
        let told = variables.iter().filter_map(|line| line.strip_prefix("@variable "));
        self.config = HaproxyConfig::read(&text.join("\n"), &self.environment(told));
    }

    fn doubt(&self, backends: &[Backend]) -> Option<String> {
        if self.config.is_unread {
            return Some(format!("its configuration, {}, cannot be read", self.files().join(", ")));
        }
        if let Some(host) = self.hosts().find(|host| host.contains('$')) {
            return Some(format!("it has a server `{host}`, whose variable has no value that is known"));
        }
        let is_ours = |host: &&String| backends.iter().any(|b| stands_for(host, &b.names));
        let host = self.config.conditional.iter().find(is_ours)?;
        Some(format!("it has a server `{host}` under a condition (`.if`), which is not evaluated"))
    }

    fn inspect(&self) -> Vec<Exec> {
        vec![self.socket_command(&format!("{STATE}; show info"))]
    }

    fn check(&self, backends: &[Backend]) -> Result<Vec<Risk>, Error> {
        let all = &self.config.sockets;
        if all.is_empty() {
            let why = "it has no `stats socket`, so it cannot be told anything";
            return Err(self.refused(&"haproxy-socket", why.into(), SOCKET_FIX));
        }
        if all.iter().all(|(_, level)| level != "admin") {
            let why = "its `stats socket` is not `level admin`";
            return Err(self.refused(&"haproxy-socket-level", why.into(), SOCKET_FIX));
        }
        match self.cuts_sessions(backends) {
            Some(error) => Err(error),
            None => Ok(self.never_asks_dns(backends)),
        }
    }

    fn advice(&self, backends: &[Backend]) -> Vec<Risk> {
        let note = |backend: &str| {
            let says = format!(
                "{}: the servers of backend `{backend}` have no `check`, so an instance that hangs goes on getting requests",
                self.name()
            );
            Risk::note("haproxy-no-check", says, "add `check` to the line of its servers")
        };
        self.unchecked(backends).into_iter().map(note).collect()
    }

    fn learn_files(&mut self, files: FileLookup) -> bool {
        let texts: Option<Vec<String>> = self.files().iter().map(|f| Some(files(f)?.text)).collect();
        let environment = self.environment(std::iter::empty());
        self.config = HaproxyConfig::read(&texts.clone().unwrap_or_default().join("\n"), &environment);
        texts.is_some()
    }

    /// Old and new instances have to have a slot at the same time.
    fn foresee(&self, _files: FileLookup, shape: &RolloutShape, present: usize) -> Result<Vec<Risk>, Error> {
        for template in shape.names().flat_map(|n| self.templates_of(n)) {
            let slots = template.size();
            let needed = present + shape.starting;
            if slots < needed {
                let why = format!(
                    "backend `{}` has {slots} slots for `{}`, and {present} running and {} new instances need {needed}",
                    template.backend, template.host, shape.starting
                );
                return Err(self.refused(&"haproxy-room", why, ROOM_FIX));
            }
        }
        static_servers::check_lines(self, shape)?;
        Ok(Vec::new())
    }

    /// A slot for each instance that starts, in every backend of a template.
    fn prepare(&self, answers: &[CommandResult], shape: &RolloutShape) -> Result<Vec<Patch>, Error> {
        let answer = answers.first().cloned().unwrap_or_default();
        let slots = Server::parse(&answer.stdout).ok_or_else(|| self.silent(&answer))?;
        static_servers::check(self, &answer, shape)?;
        for template in shape.names().flat_map(|n| self.templates_of(n)) {
            let own = |s: &&Server| template.has(&s.backend, &s.name);
            let free = slots.iter().filter(own).filter(|s| s.is_free()).count();
            if free < shape.starting {
                let (backend, host, starting) = (&template.backend, &template.host, shape.starting);
                let why = format!(
                    "backend `{backend}` has {free} free slots for `{host}`, and {starting} instances are to start"
                );
                return Err(self.refused(&"haproxy-room", why, ROOM_FIX));
            }
        }
        Ok(Vec::new())
    }

    fn needs_reading(&self) -> bool {
        true
    }

    fn gives_addresses(&self) -> bool {
        !self.config.fixed.is_empty()
    }

    fn note_others(&self, addresses: BTreeSet<IpAddr>) {
        self.others.set(addresses);
    }

    /// Drains every free slot of the service, so that whatever gets one is not in rotation.
    fn gate(&self, now: &CommandResult, rotation: &Rotation) -> Option<Exec> {
        let slots = self.slots_for(now, &rotation.outside)?;
        // One that has started may have got the address, and with it the slot, of one that crashes over and over.
        let theirs = |s: &Server| s.is_of(&rotation.outside) && !s.is_of(&rotation.inside);
        // One that has stopped not long ago: DNS has not taken its address away yet, which the next one may get.
        let stale = |s: &Server| s.is_down() && !s.is_of(&rotation.inside);
        let closed = |s: &Server| s.is_free() || self.is_vacant(s, &rotation.all()) || theirs(s) || stale(s);
        let open = slots.iter().filter(|s| closed(s) && !s.is_out());
        self.command(&open.map(|s| self.drain(s)).collect::<Vec<_>>())
    }

    /// First those inside, as HAProxy itself reaches them; and only when all of them take requests, those outside.
    fn route(&self, now: &CommandResult, rotation: &Rotation) -> Option<Exec> {
        let slots = self.slots_for(now, &rotation.all())?;
        let of = |set: &[Endpoint]| slots.iter().filter(|s| s.is_of(set)).cloned().collect::<Vec<Server>>();
        let inside = of(&rotation.inside);
        if rotation.hurried {
            let dead = rotation.dead();
            return self.command(&self.exchange(&inside, &of(&rotation.outside), &dead));
        }
        let reached = |s: &&Server| s.is_out() && !self.is_stand_in(s) && self.is_reached(s, &slots);
        let mut admit: Vec<String> =
            inside.iter().filter(reached).flat_map(|s| self.admit(s, &slots)).collect();
        admit.extend(self.place(&slots, rotation));
        if !admit.is_empty() {
            return self.command(&admit);
        }
        let look = self.look_soon(&slots, rotation);
        if !look.is_empty() {
            return Some(self.socket_command(&one_line(&look)));
        }
        // One that was in rotation before, and whose check fails, may never serve: nobody waits for it.
        let sick = |s: &Server| s.is_down() && !s.is_out();
        let found =
            |e: &Endpoint, s: &Server| rotation.found.contains(&e.id) && s.is_of(std::slice::from_ref(e));
        let done = |e: &Endpoint, s: &Server| s.serves(e) || (found(e, s) && sick(s));
        let serves = |e: &Endpoint, b: &str| inside.iter().any(|s| s.backend == b && done(e, s));
        if !rotation.inside.iter().all(|e| self.backends_of(e).iter().all(|b| serves(e, b))) {
            return None;
        }
        let drain = of(&rotation.outside).into_iter().filter(|s| !s.is_out());
        self.command(&drain.map(|s| self.drain(&s)).collect::<Vec<_>>())
    }

    fn question(&self, endpoints: &[Endpoint]) -> Exec {
        let script = socket::script(self.socket().unwrap_or(""), STATE);
        let (head, rest) = script.split_once('\n').unwrap_or_default();
        Exec::sh(&self.container.id, format!("{head}\n{}{rest}", retired::question(endpoints)))
    }

    fn read(&self, answer: &CommandResult, endpoints: &[Endpoint]) -> Result<ProxyState, Error> {
        let slots = self.slots_for(answer, endpoints).ok_or_else(|| self.silent(answer))?;
        let of = |e: &Endpoint| slots.iter().filter(|s| s.is_of(std::slice::from_ref(e))).collect::<Vec<_>>();
        let routed = |e: &&Endpoint| of(e).iter().any(|s| !s.is_out());
        let failing = |e: &&Endpoint| !of(e).iter().any(|s| s.is_routed());
        let ids =
            |keep: &dyn Fn(&&Endpoint) -> bool| endpoints.iter().filter(keep).map(|e| e.id.clone()).collect();
        let retired = Retired::parse(&answer.stdout);
        let busy = |e: &Endpoint| {
            let own = of(e).iter().map(|s| s.in_flight).sum();
            retired.as_ref().map_or(InFlight::Exact(own), |retired| retired.in_flight(e, own))
        };
        Ok(ProxyState {
            routed: ids(&routed),
            failing: ids(&failing),
            settled: true,
            in_flight: endpoints.iter().map(|e| (e.id.clone(), busy(e))).collect(),
            lingering: retired.is_some(),
        })
    }

    fn diagnose(&self) -> Exec {
        self.socket_command("show stat -1 4 -1")
    }

    /// What its own check says of those that it does not send requests to.
    fn diagnosis(&self, said: &CommandResult) -> String {
        let failing = server::failing_checks(&said.stdout);
        let ours = |line: &&String| self.backends().any(|b| line.starts_with(&format!("`{b}/")));
        let lines: Vec<String> =
            failing.iter().filter(ours).map(|l| format!("its own check of {l}")).collect();
        if lines.is_empty() { said.stderr_or_stdout().into() } else { lines.join("\n") }
    }

    /// A flag belongs to the slot and would outlive the instance, so that the next one got no request: it goes once DNS
    /// has taken the address of the stopped instance away. Before, it would send requests to nobody.
    fn hand_back(&self, now: &CommandResult, ours: &[Endpoint], existing: &[String]) -> HandBack {
        let Some(mut slots) = self.slots_for(now, ours) else {
            return HandBack::Wait;
        };
        slots.retain(|s| !static_servers::is_of_others(s, ours, existing));
        let (commands, left) = self.converge_static_servers(&slots, ours);
        match (self.command(&commands), left) {
            (Some(exec), _) => HandBack::Run(exec),
            (None, true) => HandBack::Wait,
            (None, false) => HandBack::Done,
        }
    }

    fn late_request_grace(&self) -> Duration {
        retired::LINGER
    }
}

fn has(options: &[String], word: &str) -> bool {
    options.iter().any(|o| o == word)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub mod properties;
