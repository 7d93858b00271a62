//! What Caddy tells is read as it was meant, a switch goes as it came, and nothing that Caddy may tell ends us.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::config::{Upstream, plain, switched};
use super::state::SwitchState;
use super::*;
use crate::fuzz::{corpus, damaged, damaged_json, holds, same};
use crate::proxy::haproxy::properties::{endpoints, interrogate};

fn caddy(introduction: &str) -> Caddy {
    let container = r#"{"Id": "c", "Name": "/c", "NetworkSettings": {"Networks": {"front": {}}}}"#;
    let mut caddy = Caddy::new(&serde_json::from_str(container).expect("a container"));
    caddy.learn(&CommandResult { stdout: introduction.into(), ..CommandResult::default() });
    caddy
}

fn told(version: &str, config: &Value) -> String {
    format!("@folder /dev/shm\n@version v{version} h1:x\n@api 127.0.0.1:2019\n@config\n{config}\n")
}

#[test]
fn no_answer_ends_us() {
    let inputs = (damaged(corpus("caddy-introduction")), damaged(corpus("caddy-answer")), any::<u8>());
    holds(inputs, |(introduction, answer, bits)| {
        let caddy = caddy(&introduction);
        interrogate(&caddy, &answer, bits);
        let _ = caddy.check(&endpoints().iter().map(backend).collect::<Vec<_>>());
        Ok(())
    });
}

fn backend(endpoint: &Endpoint) -> Backend {
    Backend { names: endpoint.names.clone(), is_running: true, ..Backend::default() }
}

fn names() -> BTreeSet<String> {
    ["app", "p-app-1"].map(String::from).into()
}

/// One that is JSON and not what was meant.
#[test]
fn no_configuration_ends_us_and_a_switch_goes_as_it_came() {
    let inputs =
        (damaged_json(corpus("caddy-config")), select(&["2.6.2", "2.8.0", "2.11.4"][..]), any::<u8>());
    holds(inputs, |(config, version, bits)| {
        let caddy = caddy(&told(version, &config));
        interrogate(&caddy, &format!("@upstreams\n[]\n@config\n{config}\n"), bits);
        let with = switched(&config, &names(), caddy.means());
        interrogate(
            &caddy,
            &format!("@on app 4\n@bank app/a p-app-1\n@upstreams\n[]\n@config\n{with}\n"),
            bits,
        );
        same(&switched(&with, &names(), caddy.means()), &with)?;
        same(&plain(&with, &names()), &plain(&config, &names()))
    });
}

/// How an upstream is written, and what it is.
#[derive(Debug, Clone)]
enum Written {
    Static { host: &'static str, port: u16, network: &'static str },
    Dynamic { host: &'static str, port: Option<u16>, refresh: Option<u64>, as_text: bool },
}

fn written() -> impl Strategy<Value = Written> {
    let host = select(&["app", "p-app-1", "db", "fd00::5", "172.19.0.5"][..]);
    let refresh = prop::option::of(1u64..400_000_000_000);
    let network = select(&["", "tcp/", "tcp4/"][..]);
    prop_oneof![
        (host.clone(), 1u16.., network).prop_map(|(host, port, network)| Written::Static {
            host,
            port,
            network
        }),
        (host, prop::option::of(1u16..), refresh, any::<bool>())
            .prop_map(|(host, port, refresh, as_text)| Written::Dynamic { host, port, refresh, as_text }),
    ]
}

impl Written {
    fn given(&self) -> Value {
        match self {
            Written::Static { host, port, network } if host.contains(':') => {
                json!({"dial": format!("{network}[{host}]:{port}")})
            }
            Written::Static { host, port, network } => json!({"dial": format!("{network}{host}:{port}")}),
            Written::Dynamic { host, port, refresh, as_text } => {
                let mut source = json!({"source": "a", "name": host});
                if let Some(port) = port {
                    source["port"] = json!(port.to_string());
                }
                if let Some(ns) = refresh {
                    source["refresh"] = if *as_text { json!(format!("{ns}ns")) } else { json!(ns) };
                }
                source
            }
        }
    }

    fn upstream(&self) -> Upstream {
        match self {
            Written::Static { host, port, .. } => Upstream {
                host: host.to_string(),
                port: Some(*port),
                given: Some(self.given()),
                refresh: None,
            },
            Written::Dynamic { host, port, refresh, .. } => Upstream {
                host: host.to_string(),
                port: Some(port.unwrap_or(80)),
                given: None,
                refresh: Some(refresh.map_or(Duration::from_secs(60), Duration::from_nanos)),
            },
        }
    }
}

fn handler(all: &[Written]) -> Value {
    let is_static = |w: &&Written| matches!(w, Written::Static { .. });
    let (fixed, dynamic): (Vec<&Written>, Vec<&Written>) = all.iter().partition(is_static);
    let given = |list: Vec<&Written>| list.into_iter().map(Written::given).collect::<Vec<_>>();
    let mut handler = json!({"handler": "reverse_proxy"});
    if !fixed.is_empty() {
        handler["upstreams"] = given(fixed).into();
    }
    match &given(dynamic)[..] {
        [] => {}
        [one] => handler["dynamic_upstreams"] = one.clone(),
        more => handler["dynamic_upstreams"] = json!({"source": "multi", "sources": more}),
    }
    handler
}

#[test]
fn handlers_are_read_with_and_without_a_switch_in_front() {
    let one = (prop::collection::vec(written(), 0..4), select(&["a.test", "*.a.test", "{env.X}"][..]));
    let inputs = (prop::collection::vec(one, 0..4), select(&["2.6.2", "2.11.4"][..]));
    holds(inputs, |(all, version)| {
        let route = |(written, host): &(Vec<Written>, &str)| json!({"match": [{"host": [host]}], "handle": [{"handler": "subroute", "routes": [{"handle": [handler(written)]}]}]});
        let routes: Vec<Value> = all.iter().map(route).collect();
        let config = json!({"apps": {"http": {"servers": {"srv0": {"routes": routes}}}}});
        let expected: Vec<Handler> = all
            .iter()
            .map(|(written, host)| {
                let (fixed, dynamic): (Vec<&Written>, Vec<&Written>) =
                    written.iter().partition(|w| matches!(w, Written::Static { .. }));
                let upstreams = fixed.into_iter().chain(dynamic).map(Written::upstream).collect();
                Handler {
                    public: Some(*host).filter(|h| *h == "a.test").map(String::from),
                    upstreams,
                    retries: false,
                    fastcgi: false,
                }
            })
            .collect();
        same(&handlers(&config), &expected)?;
        let caddy = caddy(&told(version, &config));
        let with = switched(&config, &names(), caddy.means());
        same(&handlers(&with), &expected)?;
        same(&plain(&with, &names()), &config)
    });
}

#[test]
fn the_files_of_a_switch_and_the_counts_are_read_as_they_are_printed() {
    let count = (select(&["app:3000", "p-app-1:3000", "172.19.0.5:3000"][..]), 0u32..9);
    let age = || prop::option::of(0u64..1_000_000);
    let bank = || prop::collection::vec(select(&["p-app-1", "p-app-2", "-"][..]), 1..3);
    let inputs = (age(), age(), any::<bool>(), bank(), bank(), prop::collection::vec(count, 0..6));
    holds(inputs, |(on, switched, once, a, b, counts)| {
        let mut text = String::new();
        text.extend(on.map(|age| format!("@on app {age}\n")));
        text.extend(switched.map(|age| format!("@switched app {age}\n")));
        text.extend(once.then_some("@once app\n"));
        text += &format!("@bank app/a {}\n@bank app/b {}\n", a.join(" "), b.join(" "));
        let list: Vec<Value> =
            counts.iter().map(|(to, n)| json!({"address": to, "num_requests": n, "fails": 0})).collect();
        text += &format!("@upstreams\n{}\n\n@config\n{{}}\n", json!(list));
        let seen = SwitchState::parse(&text).expect("an answer");
        let switch = seen.switch("app");
        let bank = if switched.is_some() { Some(b) } else { on.map(|_| a) };
        same(&switch.names().map(<[_]>::to_vec), &bank.map(|b| b.into_iter().map(String::from).collect()))?;
        same(&(switch.age(), switch.once), &(on.or(switched), once))?;
        for to in ["app:3000", "p-app-1:3000", "172.19.0.5:3000"] {
            let most = counts.iter().filter(|(a, _)| *a == to).map(|(_, n)| *n as usize).max();
            same(&seen.to(to), &most.unwrap_or(0))?;
        }
        Ok(())
    });
}
