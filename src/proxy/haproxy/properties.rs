//! Properties of the parsers: they read back generated output and configurations, and no input makes them
//! panic.

use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::config::HaproxyConfig;
use super::server::Server;
use super::*;
use crate::fuzz::{corpus, damaged, holds, same};

/// A generated server of HAProxy.
#[derive(Debug, Clone)]
pub struct GeneratedServer {
    pub backend: &'static str,
    pub name: &'static str,
    pub address: Option<IpAddr>,
    pub operation: u32,
    pub admin: u32,
    pub result: u32,
    pub state: u32,
    pub waiting: u32,
    pub current: u32,
}

/// Addresses of the instances; some share a beginning or end.
pub const ADDRESSES: [&str; 8] = [
    "172.19.0.5",
    "172.19.0.50",
    "172.19.0.15",
    "10.0.0.5",
    "fd00::5",
    "fd00::50",
    "64:ff9b::ac13:5",
    "::ffff:5",
];

pub fn server() -> impl Strategy<Value = GeneratedServer> {
    let flags = select(&[0u32, 1, 2, 4, 8, 16, 32, 40, 33, 63][..]);
    let address = prop::option::of(select(&ADDRESSES[..]));
    let names =
        (select(&["web", "web2", "we"][..]), select(&["app1", "app2", "app10", "one", "compose-zd-new"][..]));
    (names, address, 0u32..4, flags, 0u32..5, 0u32..16, 0u32..50, 0u32..1000).prop_map(
        |((backend, name), address, operation, admin, result, state, waiting, current)| GeneratedServer {
            backend,
            name,
            address: address.map(|a| a.parse().expect("an address")),
            operation,
            admin,
            result,
            state,
            waiting,
            current,
        },
    )
}

/// Each server once, as in a backend.
pub fn servers() -> impl Strategy<Value = Vec<GeneratedServer>> {
    prop::collection::vec(server(), 0..12).prop_map(|mut servers| {
        servers.sort_by_key(|s| (s.backend, s.name));
        servers.dedup_by_key(|s| (s.backend, s.name));
        servers
    })
}

/// Columns of 1.7; 1.8 and 2.4 added some.
const COLUMNS: &str = "be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight \
    srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state \
    bk_f_forced_id srv_f_forced_id";
const ADDED: [(&str, &str); 3] = [
    ("", ""),
    (" srv_fqdn srv_port", " app 3000"),
    (
        " srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr srv_agent_addr srv_agent_port",
        " app 3000 - 0 0 - - 0",
    ),
];

/// The servers as `show servers state; show stat -1 4 -1` prints them.
pub fn printed(servers: &[GeneratedServer], version: usize) -> String {
    let (columns, cells) = ADDED[version % ADDED.len()];
    let row = |(n, s): (usize, &GeneratedServer)| {
        let address = s.address.map_or("-".into(), |a| a.to_string());
        let GeneratedServer { backend, name, operation, admin, result, state, .. } = s;
        format!(
            "3 {backend} {n} {name} {address} {operation} {admin} 1 1 12 15 {result} 4 {state} 0 0 0{cells}\n"
        )
    };
    let count = |s: &GeneratedServer| {
        let GeneratedServer { backend, name, waiting, current, .. } = s;
        format!(
            "{backend},{name},{waiting},9,{current},8,,80,0,0,,0,,0,0,0,0,UP,1,\"L4OK, 3 ms\",\"a \"\"b\"\"\",\n"
        )
    };
    let rows: String = servers.iter().enumerate().map(row).collect();
    let counts: String = servers.iter().map(count).collect();
    let stat = "pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,status,weight,last_chk,check_desc,";
    format!("1\n# {COLUMNS}{columns}\n{rows}\n# {stat}\n{counts}\n")
}

#[test]
fn slots_are_parsed_as_haproxy_prints_them() {
    holds((servers(), 0usize..3), |(servers, version)| {
        let parsed = Server::parse(&printed(&servers, version)).unwrap_or_default();
        let expected: Vec<Server> = servers
            .iter()
            .map(|s| Server {
                backend: s.backend.into(),
                name: s.name.into(),
                address: s.address,
                operation: s.operation,
                admin: s.admin,
                check_result: s.result,
                check_state: s.state,
                in_flight: (s.waiting + s.current) as usize,
            })
            .collect();
        same(&parsed, &expected)
    });
}

pub fn endpoints() -> Vec<Endpoint> {
    let endpoint = |(n, address): (usize, &&str)| Endpoint {
        id: format!("{n:064}"),
        name: format!("p-app-{n}"),
        names: vec!["app".into(), format!("p-app-{n}")],
        service: "app".into(),
        addresses: vec![address.parse().expect("an address")],
        port: Some(3000),
        ..Endpoint::default()
    };
    ADDRESSES.iter().enumerate().map(endpoint).collect()
}

/// A rotation whose instances inside are the set bits of a number.
pub fn rotation(bits: u8) -> Rotation {
    let (inside, outside) =
        endpoints().into_iter().enumerate().partition::<Vec<_>, _>(|(n, _)| bits & (1 << n) != 0);
    let only = |numbered: Vec<(usize, Endpoint)>| numbered.into_iter().map(|(_, e)| e).collect();
    Rotation { inside: only(inside), outside: only(outside), ..Rotation::default() }
}

/// Brings an adapter towards every goal by one answer.
pub fn interrogate(proxy: &dyn Proxy, text: &str, bits: u8) {
    let answer = CommandResult { code: Some(0), stdout: text.into(), stderr: String::new() };
    let rotation = rotation(bits);
    let shape = RolloutShape {
        starting: 2,
        services: vec![("app".into(), vec!["app".into()])],
        tune: true,
        ..RolloutShape::default()
    };
    let existing = vec!["x".into()];
    let discovery = Discovery { endpoints: rotation.inside.clone(), existing, ..Discovery::default() };
    let goals = [
        Goal::Observed(rotation.all()),
        Goal::Patched(shape),
        Goal::Gated(rotation.clone()),
        Goal::Rotation(rotation.clone()),
        Goal::HandedBack(discovery),
    ];
    for goal in goals {
        let answers = vec![answer.clone(); proxy.queries(&goal).len()];
        if let Ok((state, _)) = proxy.advance(&answers, &goal) {
            state.confirms(&rotation);
            state.open_requests(&rotation, &mut crate::proxy::kit::connections::Judge::default());
        }
    }
    proxy.abilities();
}

fn container() -> Container {
    serde_json::from_str(r#"{"Id": "lb", "Name": "/lb", "NetworkSettings": {"Networks": {"front": {}}}}"#)
        .expect("a container")
}

fn haproxy(configuration: &str) -> Haproxy {
    let mut haproxy = Haproxy::new(&container());
    haproxy.learn(&CommandResult { stdout: configuration.into(), ..CommandResult::default() });
    haproxy
}

#[test]
fn no_output_and_no_configuration_makes_the_adapter_panic() {
    let inputs = (damaged(corpus("haproxy-state")), damaged(corpus("haproxy-config")), any::<u8>());
    holds(inputs, |(text, configuration, bits)| {
        let haproxy = haproxy(&configuration);
        interrogate(&haproxy, &text, bits);
        let _ = haproxy.check(&[]);
        Ok(())
    });
}

/// A line of a configuration.
#[derive(Debug, Clone)]
enum Line {
    Server { name: &'static str, host: &'static str, port: Option<u16>, options: Vec<&'static str> },
    Template { prefix: &'static str, count: u32, host: &'static str },
    DefaultServer(Vec<&'static str>),
    Cookie,
    Other(&'static str),
}

/// A `defaults` section with a name, or another section, which may name its defaults.
#[derive(Debug, Clone)]
struct Section {
    kind: &'static str,
    name: String,
    from: Option<Index>,
    lines: Vec<Line>,
}

const OPTIONS: [&str; 6] = [
    "check",
    "inter 500ms",
    "resolvers docker",
    r#"check-sni "a b""#,
    r"init-addr last,none",
    r#"cookie 'x#y'"#,
];

fn line() -> impl Strategy<Value = Line> {
    let options = || prop::collection::vec(select(&OPTIONS[..]), 0..3);
    let host = select(&["app", "p-app-1", "[fd00::5]", "172.19.0.5", "srv_http._tcp.app"][..]);
    let server = (select(&["one", "two", "x.1"][..]), host.clone(), prop::option::of(1u16..), options());
    let other =
        ["balance roundrobin", "# server no app:1", "http-request set-header X \"# server y z:1\"", ""];
    prop_oneof![
        4 => server.prop_map(|(name, host, port, options)| Line::Server { name, host, port, options }),
        1 => (select(&["app", "web-"][..]), 1u32..30, host)
            .prop_map(|(prefix, count, host)| Line::Template { prefix, count, host }),
        1 => options().prop_map(Line::DefaultServer),
        1 => Just(Line::Cookie),
        1 => select(other.to_vec()).prop_map(Line::Other),
    ]
}

const KINDS: [&str; 10] = [
    "global",
    "defaults",
    "backend",
    "backend",
    "listen",
    "frontend",
    "ring",
    "peers",
    "resolvers",
    "mailers",
];

fn sections() -> impl Strategy<Value = Vec<Section>> {
    let section = (select(&KINDS[..]), prop::option::of(any::<Index>()), prop::collection::vec(line(), 0..6));
    prop::collection::vec(section, 0..7).prop_map(|sections| {
        let named = sections.into_iter().enumerate();
        named.map(|(n, (kind, from, lines))| Section { kind, name: format!("s{n}"), from, lines }).collect()
    })
}

impl Line {
    fn print(&self) -> String {
        match self {
            Line::Server { name, host, port, options } => {
                let port = port.map(|p| format!(":{p}")).unwrap_or_default();
                format!("\tserver {name} {host}{port}  {} # server z z:1", options.join("\t"))
            }
            Line::Template { prefix, count, host } => {
                format!("  server-template {prefix} {count} {host}:3000 check")
            }
            Line::DefaultServer(options) => format!("  default-server {}", options.join(" ")),
            Line::Cookie => "  cookie SRV insert indirect".into(),
            Line::Other(text) => format!("    {text}"),
        }
    }

    /// Sections of this kind may have the line.
    fn fits(&self, kind: &str) -> bool {
        match self {
            Line::Other(_) => true,
            Line::Server { .. } => ["backend", "listen", "ring", "peers"].contains(&kind),
            Line::Template { .. } => ["backend", "listen"].contains(&kind),
            Line::DefaultServer(_) => ["backend", "listen", "defaults", "peers", "ring"].contains(&kind),
            Line::Cookie => ["backend", "listen", "defaults"].contains(&kind),
        }
    }
}

/// The `defaults` of a section: those it names, else the last before it.
fn defaults_of(all: &[Section], at: usize) -> Option<&Section> {
    let before: Vec<&Section> = all[..at].iter().filter(|s| s.kind == "defaults").collect();
    match (&all[at].from, before.is_empty()) {
        (_, true) => None,
        (Some(index), _) => Some(before[index.index(before.len())]),
        (None, _) => before.last().copied(),
    }
}

fn print(all: &[Section]) -> String {
    let text = |(n, section): (usize, &Section)| {
        let has_defaults = ["backend", "listen", "frontend"].contains(&section.kind);
        let from = defaults_of(all, n).filter(|_| has_defaults && section.from.is_some());
        let from = from.map(|d| format!(" from {}", d.name)).unwrap_or_default();
        let lines = section.lines.iter().filter(|l| l.fits(section.kind)).map(|l| l.print() + "\n");
        let name = if section.kind == "global" { "" } else { &section.name };
        format!("{} {name}{from}\n{}\n", section.kind, lines.collect::<String>())
    };
    all.iter().enumerate().map(text).collect()
}

/// Options of the `default-server` lines, and whether there is a cookie.
fn inherited(lines: &[Line]) -> (Vec<String>, bool) {
    let words = |l: &Line| match l {
        Line::DefaultServer(options) => split(options),
        _ => Vec::new(),
    };
    (lines.iter().flat_map(words).collect(), lines.iter().any(|l| matches!(l, Line::Cookie)))
}

/// Options as words; a quoted text stays one word.
fn split(options: &[&str]) -> Vec<String> {
    let words = |o: &&str| -> Vec<String> {
        match o.split_once(' ') {
            Some((key, value)) => vec![key.into(), value.into()],
            None => vec![(*o).into()],
        }
    };
    options.iter().flat_map(words).collect()
}

/// The expected result: servers with all their options, templates, backends with a cookie.
type Expected =
    (Vec<(String, String, String, Option<u16>, Vec<String>)>, Vec<(String, String, u32)>, Vec<String>);

fn expected(all: &[Section]) -> Expected {
    let (mut servers, mut templates, mut sticky) = (Vec::new(), Vec::new(), Vec::new());
    for (n, section) in all.iter().enumerate().filter(|(_, s)| ["backend", "listen"].contains(&s.kind)) {
        let (mut options, cookie) = defaults_of(all, n).map(|d| inherited(&d.lines)).unwrap_or_default();
        if cookie || inherited(&section.lines).1 {
            sticky.push(section.name.clone());
        }
        for line in &section.lines {
            match line {
                Line::DefaultServer(defaults) => options.extend(split(defaults)),
                Line::Server { name, host, port, options: line_options } => {
                    let all = options.iter().cloned().chain(split(line_options)).collect();
                    let host = host.trim_matches(['[', ']']).to_string();
                    servers.push((section.name.clone(), name.to_string(), host, *port, all));
                }
                Line::Template { prefix, count, .. } => {
                    templates.push((section.name.clone(), prefix.to_string(), *count));
                }
                _ => {}
            }
        }
    }
    (servers, templates, sticky)
}

#[test]
fn a_configuration_is_parsed_as_haproxy_parses_it() {
    holds(sections(), |sections| {
        let config = HaproxyConfig::parse(&print(&sections));
        let bare = |host: &str| host.trim_matches(['[', ']']).to_string();
        let servers = config.static_servers();
        let servers =
            servers.map(|f| (f.backend.clone(), f.name.clone(), bare(&f.host), f.port, f.options.clone()));
        let templates = config.templates().map(|t| {
            (t.backend.clone(), t.name.clone(), t.numbers.as_ref().map_or(0, |numbers| *numbers.end()))
        });
        let names = sections.iter().map(|section| section.name.clone());
        let sticky = names.filter(|name| config.is_sticky(name)).collect();
        same(&(servers.collect(), templates.collect(), sticky), &expected(&sections))
    });
}
