//! HAProxy with `server-template` and `resolvers`: slots are drained before anything starts, switched by the runtime
//! API, and never reloaded. What is in flight is HAProxy's own count.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::{Backend, Endpoint, InFlight, Preparation, Proxy, Reading, Release, Rotation, Wish};
use crate::docker::inspect::Container;
use crate::docker::{Done, Exec};
use crate::fault::Fault;

const CONFIG: &str = "/usr/local/etc/haproxy/haproxy.cfg";

/// What one runtime question asks: the slots with their flags, and their counters.
const STATE: &str = "show servers state; show stat -1 4 -1";

const SOCKET_FIX: &str = "add `stats socket /tmp/haproxy.sock mode 660 level admin` to the `global` section of its configuration, and restart it";
const TEMPLATE_FIX: &str = "use `server-template app 8 app:3000 check resolvers docker init-addr none` and a section \
    `resolvers docker` with `nameserver dns 127.0.0.11:53`; `--proxy-kind none` deploys without gate and drain";
const ROOM_FIX: &str = "raise the number of its `server-template` to at least twice the instances, or lower \
    `update_config.parallelism`";

/// Bits of `srv_admin_state`. Source: HAProxy's management guide, `show servers state`.
const FORCED_MAINT: u32 = 0x01;
const FORCED_DRAIN: u32 = 0x08;
const NO_ADDRESS: u32 = 0x20;

/// `srv_op_state`: it takes requests. `srv_check_result`: the last check passed. `srv_check_state` bit: it is checked.
const RUNNING: u32 = 2;
const PASSED: u32 = 3;
const CHECKED: u32 = 0x04;

#[derive(Debug, Clone, PartialEq)]
pub struct Haproxy {
    container: Container,
    config: Settings,
}

/// What its configuration says, as far as it concerns us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Settings {
    /// Address and level of each `stats socket`.
    sockets: Vec<(String, String)>,
    templates: Vec<Template>,
    /// Names that fixed `server` lines route to.
    fixed: Vec<String>,
    /// Backends that keep clients with their server, which a drained server still takes.
    sticky: Vec<String>,
}

/// `server-template PREFIX COUNT NAME:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Template {
    backend: String,
    prefix: String,
    host: String,
    port: Option<u16>,
}

/// The official image, or one whose process is haproxy; not dockercloud's, which writes its own configuration.
pub fn detect(container: &Container) -> Option<Haproxy> {
    let mut words = std::iter::once(&container.path).chain(&container.args);
    let runs = words.any(|w| Path::new(w).file_name().is_some_and(|f| f == "haproxy"));
    let ours = is_image(&container.config.image) || runs;
    (ours && !container.config.image.contains("dockercloud")).then(|| Haproxy::new(container))
}

/// `haproxy`, or one of HAProxy Technologies' `haproxy-…`, from any registry.
pub fn is_image(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or("");
    let name = name.split([':', '@']).next().unwrap_or("");
    name == "haproxy" || (name.starts_with("haproxy-") && image.contains("haproxytech/"))
}

impl Haproxy {
    pub fn new(container: &Container) -> Self {
        Haproxy { container: container.clone(), config: Settings::default() }
    }

    /// The files that `-f` names.
    fn files(&self) -> Vec<String> {
        let args = &self.container.args;
        let after = args.windows(2).filter(|w| w[0] == "-f").map(|w| w[1].clone());
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

    fn ask(&self, commands: &str) -> Exec {
        Exec::sh(&self.container.id, runtime_script(self.socket().unwrap_or(""), commands))
    }

    /// Runs commands that say nothing when they are done.
    fn command(&self, commands: &[String]) -> Option<Exec> {
        (!commands.is_empty()).then(|| {
            let all = commands.join("; ");
            let script = runtime_script(self.socket().unwrap_or(""), &all);
            let strict = "said=$(ask) || exit 1\n[ -z \"$(echo $said)\" ] || { echo \"$said\" >&2; exit 1; }";
            Exec::sh(&self.container.id, script.replace("\nask\n", &format!("\n{strict}\n")))
        })
    }

    fn templates_of<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Template> {
        self.config.templates.iter().filter(move |t| t.host == service)
    }

    /// The slots of a service.
    fn slots(&self, now: &Done, services: &[&str]) -> Option<Vec<Slot>> {
        let templates: Vec<&Template> = services.iter().flat_map(|s| self.templates_of(s)).collect();
        let ours =
            |s: &Slot| templates.iter().any(|t| t.backend == s.backend && s.name.starts_with(&t.prefix));
        let mut slots = Slot::parse(&now.stdout)?;
        slots.retain(ours);
        Some(slots)
    }

    fn slots_for(&self, now: &Done, endpoints: &[Endpoint]) -> Option<Vec<Slot>> {
        let mut services: Vec<&str> = endpoints.iter().map(|e| e.service.as_str()).collect();
        services.sort_unstable();
        services.dedup();
        self.slots(now, &services)
    }

    /// Drained servers still take the clients that a cookie or a stick table ties to them; in maintenance they do not.
    fn drain(&self, slot: &Slot) -> String {
        let state = match self.config.sticky.contains(&slot.backend) {
            true => "maint",
            false => "drain",
        };
        slot.set(state)
    }

    fn silent(&self, answer: &Done) -> Fault {
        self.refused("its `stats socket` does not answer".into(), SOCKET_FIX).seen(answer.said())
    }

    fn refused(&self, why: String, hint: &str) -> Fault {
        Fault::unchanged(format!("{}: {why}", self.name())).hint(hint)
    }
}

impl Proxy for Haproxy {
    fn name(&self) -> String {
        format!("haproxy `{}`", self.container.name())
    }

    fn container(&self) -> &Container {
        &self.container
    }

    fn fronts(&self, backend: &Backend) -> bool {
        let reaches = |n: &String| self.container.networks().any(|own| own == n);
        let names = self.config.templates.iter().map(|t| &t.host).chain(&self.config.fixed);
        names.into_iter().any(|n| *n == backend.service) && backend.networks.iter().any(reaches)
    }

    fn port(&self, container: &Container) -> Option<u16> {
        let (_, service) = container.compose().unwrap_or(("", ""));
        self.templates_of(service).find_map(|t| t.port)
    }

    fn host(&self, _container: &Container) -> Option<String> {
        None
    }

    fn introduction(&self) -> Option<Exec> {
        let files = self.files().join(" ");
        let script = format!("for f in {files}; do [ -d $f ] && cat $f/*.cfg || cat $f; done");
        Some(Exec::sh(&self.container.id, script))
    }

    fn learn(&mut self, answer: &Done) {
        self.config = Settings::parse(&answer.stdout);
    }

    fn inspect(&self) -> Vec<Exec> {
        vec![self.ask(STATE)]
    }

    fn check(&self, backends: &[Backend]) -> Result<Vec<String>, Fault> {
        let all = &self.config.sockets;
        if all.is_empty() {
            return Err(
                self.refused("it has no `stats socket`, so it cannot be told anything".into(), SOCKET_FIX)
            );
        }
        if all.iter().all(|(_, level)| level != "admin") {
            return Err(self.refused("its `stats socket` is not `level admin`".into(), SOCKET_FIX));
        }
        match backends.iter().map(|b| &b.service).find(|s| self.config.fixed.contains(s)) {
            Some(service) => Err(self.refused(
                format!(
                    "it routes to `{service}` by a fixed `server` line, which does not see a new instance"
                ),
                TEMPLATE_FIX,
            )),
            None => Ok(Vec::new()),
        }
    }

    /// A slot for each instance that starts, in every backend of a template.
    fn prepare(&self, answers: &[Done], wish: &Wish) -> Result<Vec<Preparation>, Fault> {
        let answer = answers.first().cloned().unwrap_or_default();
        let slots = Slot::parse(&answer.stdout).ok_or_else(|| self.silent(&answer))?;
        for template in wish.services.iter().flat_map(|s| self.templates_of(s)) {
            let own = |s: &&Slot| s.backend == template.backend && s.name.starts_with(&template.prefix);
            let free = slots.iter().filter(own).filter(|s| s.is_free()).count();
            if free < wish.starting {
                let (backend, host, starting) = (&template.backend, &template.host, wish.starting);
                let why = format!(
                    "backend `{backend}` has {free} free slots for `{host}`, and {starting} instances are to start"
                );
                return Err(self.refused(why, ROOM_FIX));
            }
        }
        Ok(Vec::new())
    }

    fn needs_reading(&self) -> bool {
        true
    }

    /// Drains every free slot of the service, so that whatever gets one is not in rotation.
    fn gate(&self, now: &Done, rotation: &Rotation) -> Option<Exec> {
        let slots = self.slots_for(now, &rotation.outside)?;
        let open = slots.iter().filter(|s| s.is_free() && !s.is_out());
        self.command(&open.map(|s| self.drain(s)).collect::<Vec<_>>())
    }

    /// First those inside, as HAProxy itself reaches them; and only when all of them take requests, those outside.
    fn route(&self, now: &Done, rotation: &Rotation) -> Option<Exec> {
        let slots = self.slots_for(now, &rotation.all())?;
        let of = |set: &[Endpoint]| slots.iter().filter(|s| s.is_of(set)).cloned().collect::<Vec<Slot>>();
        let inside = of(&rotation.inside);
        let admit: Vec<String> =
            inside.iter().filter(|s| s.is_out() && s.has_passed()).map(|s| s.set("ready")).collect();
        if !admit.is_empty() {
            return self.command(&admit);
        }
        let serves = |e: &Endpoint| inside.iter().any(|s| s.is_of(std::slice::from_ref(e)) && s.is_routed());
        if !rotation.inside.iter().all(serves) {
            return None;
        }
        let drain = of(&rotation.outside).into_iter().filter(|s| !s.is_out());
        self.command(&drain.map(|s| self.drain(&s)).collect::<Vec<_>>())
    }

    fn question(&self, _endpoints: &[Endpoint]) -> Exec {
        self.ask(STATE)
    }

    fn read(&self, answer: &Done, endpoints: &[Endpoint]) -> Result<Reading, Fault> {
        let slots = self.slots_for(answer, endpoints).ok_or_else(|| self.silent(answer))?;
        let of = |e: &Endpoint| slots.iter().filter(|s| s.is_of(std::slice::from_ref(e))).collect::<Vec<_>>();
        let routed = |e: &&Endpoint| of(e).iter().any(|s| !s.is_out());
        let failing = |e: &&Endpoint| !of(e).iter().any(|s| s.is_routed());
        let ids =
            |keep: &dyn Fn(&&Endpoint) -> bool| endpoints.iter().filter(keep).map(|e| e.id.clone()).collect();
        let busy = |e: &Endpoint| InFlight::Exact(of(e).iter().map(|s| s.in_flight).sum());
        Ok(Reading {
            routed: ids(&routed),
            failing: ids(&failing),
            settled: true,
            in_flight: endpoints.iter().map(|e| (e.id.clone(), busy(e))).collect(),
            lingering: false,
        })
    }

    fn diagnose(&self) -> Exec {
        self.ask("show servers state")
    }

    /// A flag belongs to the slot and would outlive the instance, so that the next one got no request: it goes once DNS
    /// has taken the address of the stopped instance away. Before, it would send requests to nobody.
    fn release(&self, now: &Done, ours: &[Endpoint], _existing: &[String]) -> Release {
        let Some(slots) = self.slots_for(now, ours) else {
            return Release::Wait;
        };
        let out: Vec<&Slot> = slots.iter().filter(|s| s.is_out()).collect();
        let free: Vec<String> = out.iter().filter(|s| s.is_free()).map(|s| s.set("ready")).collect();
        match (self.command(&free), out.is_empty()) {
            (Some(exec), _) => Release::Run(exec),
            (None, true) => Release::Done,
            (None, false) => Release::Wait,
        }
    }

    fn linger(&self) -> Duration {
        Duration::ZERO
    }
}

impl Settings {
    fn parse(text: &str) -> Settings {
        let mut settings = Settings::default();
        let mut section = String::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or("");
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["backend" | "listen", name, ..] => section = name.into(),
                ["global" | "defaults" | "frontend" | "resolvers" | "peers" | "userlist", ..] => {
                    section.clear()
                }
                ["stats", "socket", address, ..] => {
                    settings
                        .sockets
                        .push((address.into(), option(&words, "level").unwrap_or("operator").into()));
                }
                ["server-template", prefix, _, address, ..] => {
                    let (host, port) = host_and_port(address);
                    settings.templates.push(Template {
                        backend: section.clone(),
                        prefix: prefix.into(),
                        host,
                        port,
                    });
                }
                ["server", _, address, ..] => settings.fixed.push(host_and_port(address).0),
                ["cookie" | "stick", ..] | ["balance", "source", ..] => settings.sticky.push(section.clone()),
                _ => {}
            }
        }
        settings
    }
}

fn option<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    let at = words.iter().position(|w| *w == name)?;
    words.get(at + 1).copied()
}

/// Reads `app:3000`; an SRV or other name has no port.
fn host_and_port(address: &str) -> (String, Option<u16>) {
    match address.rsplit_once(':') {
        Some((host, port)) => (host.into(), port.parse().ok()),
        None => (address.into(), None),
    }
}

/// One server of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    backend: String,
    name: String,
    address: Option<IpAddr>,
    operation: u32,
    admin: u32,
    check_result: u32,
    check_state: u32,
    in_flight: usize,
}

impl Slot {
    /// Reads `show servers state` and the counters behind it. Columns are found by their names: versions differ.
    fn parse(text: &str) -> Option<Vec<Slot>> {
        let header = text.lines().find_map(|l| l.strip_prefix("# be_id "))?;
        let names: Vec<&str> = std::iter::once("be_id").chain(header.split_whitespace()).collect();
        let counters = counters(text);
        let rows = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
        let rows = rows.filter(|r| r.len() >= names.len().min(18) && r[0].parse::<u32>().is_ok());
        rows.map(|row| {
            let column =
                |name: &str| names.iter().position(|n| *n == name).and_then(|at| row.get(at).copied());
            let number = |name: &str| column(name).and_then(|v| v.parse().ok());
            let (backend, name) = (column("be_name")?.to_string(), column("srv_name")?.to_string());
            let busy = counters.iter().find(|(b, s, _)| *b == backend && *s == name);
            Some(Slot {
                address: column("srv_addr").and_then(|a| a.parse().ok()),
                operation: number("srv_op_state")?,
                admin: number("srv_admin_state")?,
                check_result: number("srv_check_result")?,
                check_state: number("srv_check_state")?,
                in_flight: busy.map_or(0, |(_, _, count)| *count),
                backend,
                name,
            })
        })
        .collect()
    }

    fn is_of(&self, endpoints: &[Endpoint]) -> bool {
        let has = |address: &IpAddr| endpoints.iter().any(|e| e.addresses.contains(address));
        !self.is_free() && self.address.as_ref().is_some_and(has)
    }

    /// No instance has it.
    fn is_free(&self) -> bool {
        self.admin & NO_ADDRESS != 0
    }

    /// By our flag, or somebody's.
    fn is_out(&self) -> bool {
        self.admin & (FORCED_DRAIN | FORCED_MAINT) != 0
    }

    /// HAProxy itself reaches it.
    fn has_passed(&self) -> bool {
        let checked = self.check_state & CHECKED != 0;
        self.operation == RUNNING && (!checked || self.check_result == PASSED)
    }

    fn is_routed(&self) -> bool {
        !self.is_out() && !self.is_free() && self.operation == RUNNING
    }

    fn set(&self, state: &str) -> String {
        format!("set server {}/{} state {state}", self.backend, self.name)
    }
}

/// Backend, server, and requests it answers or that wait for it, of each line of `show stat`.
fn counters(text: &str) -> Vec<(String, String, usize)> {
    let Some((_, table)) = text.split_once("# pxname,") else {
        return Vec::new();
    };
    let mut lines = table.lines();
    let names: Vec<&str> = std::iter::once("pxname").chain(lines.next().unwrap_or("").split(',')).collect();
    let read = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let cell = |name: &str| names.iter().position(|n| *n == name).and_then(|at| cells.get(at).copied());
        let count = |name: &str| cell(name).and_then(|v| v.parse::<usize>().ok()).unwrap_or(0);
        Some((cell("pxname")?.into(), cell("svname")?.into(), count("scur") + count("qcur")))
    };
    lines.filter_map(read).collect()
}

/// Sends commands to the runtime API by whatever is in the image: socat since late 2025, perl in Debian's, python.
fn runtime_script(socket: &str, commands: &str) -> String {
    let (unix, place) = place(socket);
    let (socat, perl, python) = match unix {
        true => (
            format!("UNIX-CONNECT:{place}"),
            format!("IO::Socket::UNIX->new(Peer=>\"{place}\")"),
            format!("s=socket.socket(socket.AF_UNIX);s.connect(\"{place}\")"),
        ),
        false => (
            format!("TCP:127.0.0.1:{place}"),
            format!("IO::Socket::INET->new(\"127.0.0.1:{place}\")"),
            format!("s=socket.create_connection((\"127.0.0.1\",{place}))"),
        ),
    };
    let netcat = match unix {
        true => String::new(),
        false => format!("elif command -v nc >/dev/null; then echo \"$c\" | nc 127.0.0.1 {place}\n  "),
    };
    format!(
        "# haproxy: {commands}
c='{commands}'
ask() {{
  if command -v socat >/dev/null; then echo \"$c\" | socat -t 5 stdio {socat}
  elif command -v perl >/dev/null; then
    perl -MIO::Socket -e '$s={perl} or die \"{place}: $!\\n\"; print $s \"$ARGV[0]\\n\"; print while <$s>' \"$c\"
  elif command -v python3 >/dev/null; then
    python3 -c 'import socket,sys
{python};s.sendall((sys.argv[1]+\"\\n\").encode())
for d in iter(lambda:s.recv(65536),b\"\"):sys.stdout.write(d.decode())' \"$c\"
  {netcat}else echo 'there is neither socat, perl nor python in it' >&2; return 1
  fi
}}
ask
"
    )
}

/// Where a `stats socket` is: a path, or a port.
fn place(socket: &str) -> (bool, &str) {
    let bare = socket.split('@').next_back().unwrap_or(socket);
    match bare.starts_with('/') {
        true => (true, bare),
        false => (false, bare.rsplit(':').next().unwrap_or(bare)),
    }
}

#[cfg(test)]
#[path = "haproxy/tests.rs"]
mod tests;
