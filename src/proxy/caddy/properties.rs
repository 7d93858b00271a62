//! Properties of the adapter: its parsers read back generated output, a switch is removed without a trace, and
//! no input makes them panic.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::config::{Upstream, with_switches, without_switches};
use super::state::SwitchState;
use super::*;
use crate::fuzz::{corpus, damaged, damaged_json, holds, same};
use crate::proxy::haproxy::properties::{endpoints, interrogate};

fn caddy(config_output: &str) -> Caddy {
    let container = r#"{"Id": "c", "Name": "/c", "NetworkSettings": {"Networks": {"front": {}}}}"#;
    let mut caddy = Caddy::new(&serde_json::from_str(container).expect("a container"));
    caddy.learn(&CommandResult { stdout: config_output.into(), ..CommandResult::default() });
    caddy
}

fn config_output(version: &str, config: &Value) -> String {
    format!("@folder /dev/shm\n@version v{version} h1:x\n@api 127.0.0.1:2019\n@config\n{config}\n")
}

#[test]
fn no_output_makes_the_adapter_panic() {
    let inputs = (damaged(corpus("caddy-introduction")), damaged(corpus("caddy-answer")), any::<u8>());
    holds(inputs, |(config_output, state, bits)| {
        let caddy = caddy(&config_output);
        interrogate(&caddy, &state, bits);
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

/// The configuration is valid JSON, but damaged.
#[test]
fn no_configuration_makes_the_adapter_panic_and_a_switch_is_removed_without_a_trace() {
    let inputs =
        (damaged_json(corpus("caddy-config")), select(&["2.6.2", "2.8.0", "2.11.4"][..]), any::<u8>());
    holds(inputs, |(config, version, bits)| {
        let caddy = caddy(&config_output(version, &config));
        interrogate(&caddy, &format!("@upstreams\n[]\n@config\n{config}\n"), bits);
        let with = with_switches(&config, &names(), caddy.features());
        interrogate(
            &caddy,
            &format!("@on app 4\n@bank app/a p-app-1\n@upstreams\n[]\n@config\n{with}\n"),
            bits,
        );
        same(&with_switches(&with, &names(), caddy.features()), &with)?;
        same(&without_switches(&with, &names()), &without_switches(&config, &names()))
    });
}

/// An upstream as it is configured.
#[derive(Debug, Clone)]
enum UpstreamSpec {
    Static { host: &'static str, port: u16, network: &'static str },
    Dynamic { host: &'static str, port: Option<u16>, refresh: Option<u64>, as_text: bool },
}

fn upstream_spec() -> impl Strategy<Value = UpstreamSpec> {
    let host = select(&["app", "p-app-1", "db", "fd00::5", "172.19.0.5"][..]);
    let refresh = prop::option::of(1u64..400_000_000_000);
    let network = select(&["", "tcp/", "tcp4/"][..]);
    prop_oneof![
        (host.clone(), 1u16.., network).prop_map(|(host, port, network)| UpstreamSpec::Static {
            host,
            port,
            network
        }),
        (host, prop::option::of(1u16..), refresh, any::<bool>()).prop_map(
            |(host, port, refresh, as_text)| UpstreamSpec::Dynamic { host, port, refresh, as_text }
        ),
    ]
}

impl UpstreamSpec {
    fn settings(&self) -> Value {
        match self {
            UpstreamSpec::Static { host, port, network } if host.contains(':') => {
                json!({"dial": format!("{network}[{host}]:{port}")})
            }
            UpstreamSpec::Static { host, port, network } => {
                json!({"dial": format!("{network}{host}:{port}")})
            }
            UpstreamSpec::Dynamic { host, port, refresh, as_text } => {
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
            UpstreamSpec::Static { host, port, .. } => Upstream {
                host: host.to_string(),
                port: Some(*port),
                settings: Some(self.settings()),
                refresh: None,
            },
            UpstreamSpec::Dynamic { host, port, refresh, .. } => Upstream {
                host: host.to_string(),
                port: Some(port.unwrap_or(80)),
                settings: None,
                refresh: Some(refresh.map_or(Duration::from_secs(60), Duration::from_nanos)),
            },
        }
    }
}

fn handler(specs: &[UpstreamSpec]) -> Value {
    let is_static = |spec: &&UpstreamSpec| matches!(spec, UpstreamSpec::Static { .. });
    let (fixed, dynamic): (Vec<&UpstreamSpec>, Vec<&UpstreamSpec>) = specs.iter().partition(is_static);
    let settings =
        |list: Vec<&UpstreamSpec>| list.into_iter().map(UpstreamSpec::settings).collect::<Vec<_>>();
    let mut handler = json!({"handler": "reverse_proxy"});
    if !fixed.is_empty() {
        handler["upstreams"] = settings(fixed).into();
    }
    match &settings(dynamic)[..] {
        [] => {}
        [source] => handler["dynamic_upstreams"] = source.clone(),
        sources => handler["dynamic_upstreams"] = json!({"source": "multi", "sources": sources}),
    }
    handler
}

#[test]
fn handlers_are_parsed_with_and_without_a_switch_in_front() {
    let site = (prop::collection::vec(upstream_spec(), 0..4), select(&["a.test", "*.a.test", "{env.X}"][..]));
    let inputs = (prop::collection::vec(site, 0..4), select(&["2.6.2", "2.11.4"][..]));
    holds(inputs, |(sites, version)| {
        let route = |(specs, host): &(Vec<UpstreamSpec>, &str)| json!({"match": [{"host": [host]}], "handle": [{"handler": "subroute", "routes": [{"handle": [handler(specs)]}]}]});
        let routes: Vec<Value> = sites.iter().map(route).collect();
        let config = json!({"apps": {"http": {"servers": {"srv0": {"routes": routes}}}}});
        let expected: Vec<Handler> = sites
            .iter()
            .map(|(specs, host)| {
                let (fixed, dynamic): (Vec<&UpstreamSpec>, Vec<&UpstreamSpec>) =
                    specs.iter().partition(|spec| matches!(spec, UpstreamSpec::Static { .. }));
                let upstreams = fixed.into_iter().chain(dynamic).map(UpstreamSpec::upstream).collect();
                Handler {
                    public_host: Some(*host).filter(|h| *h == "a.test").map(String::from),
                    upstreams,
                    ..Handler::default()
                }
            })
            .collect();
        same(&handlers(&config), &expected)?;
        let caddy = caddy(&config_output(version, &config));
        let with = with_switches(&config, &names(), caddy.features());
        same(&handlers(&with), &expected)?;
        same(&without_switches(&with, &names()), &config)
    });
}

#[test]
fn switch_files_and_counters_are_parsed_as_printed() {
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
        let state = SwitchState::parse(&text).expect("a state");
        let switch = state.switch("app");
        let bank = if switched.is_some() { Some(b) } else { on.map(|_| a) };
        same(&switch.names().map(<[_]>::to_vec), &bank.map(|b| b.into_iter().map(String::from).collect()))?;
        same(&(switch.age(), switch.is_temporary), &(on.or(switched), once))?;
        for to in ["app:3000", "p-app-1:3000", "172.19.0.5:3000"] {
            let most = counts.iter().filter(|(a, _)| *a == to).map(|(_, n)| *n as usize).max();
            same(&state.requests_to(to), &most.unwrap_or(0))?;
        }
        Ok(())
    });
}
