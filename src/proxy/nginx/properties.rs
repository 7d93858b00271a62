//! Properties of the parsers: they read back generated configurations and states, and no output makes them panic.

use proptest::prelude::*;
use proptest::sample::select;

use std::net::IpAddr;

use super::*;
use crate::fuzz::{corpus, damaged, holds, kernel_address, same};
use crate::proxy::haproxy::properties::{ADDRESSES, endpoints, interrogate};
use crate::proxy::kit::directive::Directive;
use crate::proxy::kit::hosts::{PinnedService, Pins};

fn learned(text: &str) -> Nginx {
    let container = r#"{"Id": "p", "Name": "/p", "State": {"Status": "running"}, "NetworkSettings": {"Networks": {"front": {}}}}"#;
    let mut proxy = Nginx::new(&serde_json::from_str(container).expect("a container"));
    proxy.learn(&CommandResult { stdout: text.into(), ..CommandResult::default() });
    proxy
}

#[test]
fn no_output_makes_the_adapter_panic() {
    let inputs = (damaged(corpus("nginx-introduction")), damaged(corpus("nginx-state")), any::<u8>());
    holds(inputs, |(introduction, state, bits)| {
        let proxy = learned(&introduction);
        interrogate(&proxy, &state, bits);
        let backends: Vec<Backend> = endpoints()
            .iter()
            .map(|e| Backend { names: e.names.clone(), is_running: true, ..Backend::default() })
            .collect();
        backends.iter().for_each(|backend| drop(proxy.route_to(backend)));
        let _ = proxy.check(&RolloutShape { backends, ..RolloutShape::default() }, true);
        Ok(())
    });
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z_/:.$~^=*-]{1,12}",
        "[ -~]{0,12}",
        select(&["app", "http://app:3000", "{", "}", ";", "#", "${x}", "it's"][..]).prop_map(String::from),
    ]
}

fn directives() -> impl Strategy<Value = Vec<Directive>> {
    let name = select(&["server", "location", "upstream", "proxy_pass", "set", "map"][..]);
    let one = (name, prop::collection::vec(word(), 0..3)).prop_map(|(name, args)| Directive {
        name: name.into(),
        args,
        block: Vec::new(),
    });
    let nested = one.prop_recursive(3, 24, 4, |inner| {
        (select(&["server", "if"][..]), prop::collection::vec(inner, 0..4))
            .prop_map(|(name, block)| Directive { name: name.into(), args: Vec::new(), block })
    });
    prop::collection::vec(nested, 0..6)
}

fn print(directives: &[Directive]) -> String {
    let quoted = |word: &String| format!(" \"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""));
    let one = |d: &Directive| {
        let args: String = d.args.iter().map(quoted).collect();
        let end = if d.block.is_empty() { ";".into() } else { format!(" {{\n{}}}", print(&d.block)) };
        format!("{}{args}{end} # {{\n", d.name)
    };
    directives.iter().map(one).collect()
}

#[test]
fn directives_are_parsed_as_printed() {
    holds(directives(), |directives| same(&config::parse(&print(&directives)), &directives));
}

#[test]
fn no_text_makes_the_routes_panic() {
    holds(directives(), |directives| {
        drop(routes::routes(&[Directive { name: "http".into(), args: Vec::new(), block: directives }]));
        Ok(())
    });
}

/// A state says which instances get requests, from the pins and the start of each worker.
#[test]
fn pins_workers_and_connections_are_parsed_as_printed() {
    let address = || select(&ADDRESSES[..]);
    let connection = (address(), any::<bool>(), select(&["01", "02", "03", "08"][..]), any::<u16>());
    let inputs = (
        prop::collection::vec(address(), 1..4),
        prop::collection::vec(1u64..200, 1..5),
        0u64..200,
        prop::collection::vec(connection, 0..10),
    );
    holds(inputs, |(pinned, workers, since, connections)| {
        let owner = " # compose-zd /app";
        let mut text: String =
            workers.iter().map(|ticks| format!("@worker {ticks} nginx: worker process\n")).collect();
        text += &format!(
            "@worker 9 nginx: worker process is shutting down\n@now 300\n@pin # since {since} was {owner}\n"
        );
        text.extend(pinned.iter().map(|address| format!("@pin {address} app{owner}\n")));
        text.extend(connections.iter().map(|(address, mapped, state, port)| {
            let address = kernel_address(address.parse().expect("an address"), *mapped);
            format!(" {address}:{port:04X} {state} \n")
        }));
        let proxy =
            learned("@config\n# configuration file /n:\nhttp { server { proxy_pass http://app; } }\n");
        let answer = CommandResult { code: Some(0), stdout: text + "@end\n", stderr: String::new() };
        let (state, _) = proxy.advance(&[answer], &Goal::Observed(endpoints())).expect("a state");
        let newer = workers.iter().filter(|ticks| **ticks > since).count();
        same(&state.config_applied, &(since == 0 || newer == workers.len()))?;
        same(&state.has_retired_process, &true)?;
        for endpoint in endpoints() {
            let is_own = |a: &str| a.parse::<IpAddr>().is_ok_and(|a| endpoint.addresses.contains(&a));
            let is_pinned = pinned.iter().any(|a| is_own(a)) && (since == 0 || newer > 0);
            same(&state.routed.contains(&endpoint.id), &is_pinned)?;
            let count = connections.iter().filter(|(a, ..)| is_own(a)).count();
            same(&state.in_flight[&endpoint.id], &crate::proxy::InFlight::Exact(count))?;
        }
        Ok(())
    });
}

/// Pins are read back from the script that writes them.
#[test]
fn pins_are_parsed_as_written() {
    let addresses = || prop::collection::btree_set(select(&ADDRESSES[..]), 0..4);
    holds((addresses(), addresses(), any::<bool>()), |(now, was, needs_reload)| {
        let parsed = |all: &BTreeSet<&str>| {
            all.iter().map(|a| a.parse().expect("an address")).collect::<BTreeSet<IpAddr>>()
        };
        let owner = PinnedService {
            project: "p".into(),
            service: "app.x".into(),
            names: ["app.x", "web"].map(String::from).into(),
        };
        let script = hosts::pin_script(&owner, &parsed(&now), &parsed(&was), needs_reload);
        let write = script.lines().last().expect("a line").replace("$now", "77");
        let lines = shlex::split(&write).expect("words");
        let since = if needs_reload { 77 } else { 0 };
        let expected = Pins { since, was: parsed(&was), now: parsed(&now), is_reloaded: false };
        same(&Pins::parse(lines[1..].iter().map(String::as_str), &owner), &Some(expected))
    });
}
