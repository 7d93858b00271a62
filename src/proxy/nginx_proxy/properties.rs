//! Properties of the parsers: they read back generated output of the scripts, and no output makes them panic.

use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::fuzz::{corpus, damaged, holds, kernel_address, same};
use crate::proxy::haproxy::properties::{ADDRESSES, endpoints, interrogate};

/// A `server` line of an upstream.
#[derive(Debug, Clone)]
struct ServerLine {
    address: &'static str,
    port: Option<u16>,
    down: bool,
    parameters: &'static str,
    comment: &'static str,
}

fn line() -> impl Strategy<Value = ServerLine> {
    let address = select([&ADDRESSES[..], &["app", "unix:/run/app.sock", "127.0.0.1"]].concat());
    let parameters = select(&["", " weight=2", " max_fails=0 fail_timeout=1s"][..]);
    let comment = select(&["", " # down", " # server 10.0.0.5:80;"][..]);
    (address, prop::option::of(1u16..), any::<bool>(), parameters, comment).prop_map(
        |(address, port, down, parameters, comment)| ServerLine { address, port, down, parameters, comment },
    )
}

impl ServerLine {
    fn print(&self) -> String {
        let address = if self.address.parse::<IpAddr>().is_ok_and(|a| a.is_ipv6()) {
            format!("[{}]", self.address)
        } else {
            self.address.into()
        };
        let port = self.port.map(|p| format!(":{p}")).unwrap_or_default();
        let down = if self.down { " down" } else { "" };
        format!("    server {address}{port}{}{down};{}\n", self.parameters, self.comment)
    }
}

/// Process titles: an active worker, a retired one, and other processes.
const TITLES: [&str; 5] = [
    "nginx: worker process",
    "nginx: worker process is shutting down",
    "nginx: master process nginx -g daemon off;",
    "nginx: cache manager process",
    "",
];

#[test]
fn routes_workers_and_connections_are_parsed_as_printed() {
    let worker = (select(&TITLES[..]), 0u32..200_000);
    let connection =
        (select(&ADDRESSES[..]), any::<bool>(), select(&["01", "02", "03", "08"][..]), any::<u16>());
    let inputs = (
        prop::collection::vec(line(), 0..8),
        prop::collection::vec(worker, 0..5),
        prop::collection::vec(connection, 0..10),
    );
    holds(inputs, |(lines, workers, connections)| {
        let mut text = "@clock 1500.25 2026-11-21 03:41:32.500000000 +0000\n".to_string();
        text += "@written 2026-11-21 05:31:32.500000000 +0200\n"; // 600 s before, at 900.25 s
        text.extend(lines.iter().map(ServerLine::print));
        text.extend(workers.iter().map(|(title, ticks)| format!("@worker {ticks} {title} \n")));
        text.extend(connections.iter().map(|(address, mapped, state, port)| {
            let address = kernel_address(address.parse().expect("an address"), *mapped);
            format!(" {address}:{port:04X} {state} \n")
        }));
        let state = NginxState::parse(&(text + "@end\n")).expect("a state");
        for endpoint in endpoints() {
            let is_own = |a: &str| a.parse::<IpAddr>().is_ok_and(|a| endpoint.addresses.contains(&a));
            same(&state.routes_to(&endpoint), &lines.iter().any(|l| !l.down && is_own(l.address)))?;
            let count = connections.iter().filter(|(a, ..)| is_own(a)).count();
            same(&state.connections(&endpoint), &count)?;
        }
        prop_assume!(workers.iter().all(|(_, ticks)| *ticks != 90_023), "within the precision of the clock");
        let active: Vec<u32> =
            workers.iter().filter(|(t, _)| *t == TITLES[0]).map(|(_, ticks)| *ticks).collect();
        same(&state.retired_workers, &workers.iter().filter(|(t, _)| *t == TITLES[1]).count())?;
        let all_newer = !active.is_empty() && active.iter().all(|ticks| *ticks >= 90_023);
        same(&state.is_config_applied(), &all_newer)
    });
}

#[test]
fn no_output_makes_the_adapter_panic() {
    let container = r#"{"Id": "p", "Name": "/p", "NetworkSettings": {"Networks": {"front": {}}}}"#;
    let proxy = NginxProxy::single_container(&serde_json::from_str(container).expect("a container"));
    let samples = [corpus("nginx-answer"), corpus("nginx-template")].concat();
    holds((damaged(samples), any::<u8>()), |(text, bits)| {
        interrogate(&proxy, &text, bits);
        let head =
            CommandResult { stdout: format!("@writable yes\n@template\n{text}"), ..CommandResult::default() };
        let version = CommandResult { stdout: format!("@version {text}"), ..CommandResult::default() };
        let _ = proxy.prepare(&[head, version], &RolloutShape { tune: true, ..RolloutShape::default() });
        Ok(())
    });
}

/// The zone of a time does not change its moment.
#[test]
fn a_time_is_parsed_in_any_zone() {
    let inputs = (1u64..4_000_000_000, 0u32..1_000_000_000, -14i64 * 60..=14 * 60);
    holds(inputs, |(seconds, nanos, zone)| {
        let local = std::time::UNIX_EPOCH + Duration::new((seconds as i64 + zone * 60).max(0) as u64, 0);
        let text = humantime::format_rfc3339_seconds(local).to_string();
        let text = text.trim_end_matches('Z').replace('T', " ");
        let sign = if zone < 0 { '-' } else { '+' };
        let zone_text = format!("{sign}{:02}{:02}", zone.abs() / 60, zone.abs() % 60);
        let parsed = parse_time(&format!("{text}.{nanos:09} {zone_text}"));
        let expected = seconds as f64 + f64::from(nanos) / 1e9;
        prop_assume!(seconds as i64 + zone * 60 >= 0);
        prop_assert!(parsed.is_some_and(|r| (r - expected).abs() < 1e-5), "{parsed:?} for {expected}");
        Ok(())
    });
}

/// A patch only inserts text into a template.
#[test]
fn a_patched_template_contains_all_of_the_template() {
    holds(damaged(corpus("nginx-template")), |template| {
        if let PatchResult::Patched(patched) = template::patch(&template) {
            let mut rest = patched.chars();
            prop_assert!(template.chars().all(|c| rest.any(|p| p == c)), "{patched}");
            prop_assert!(patched.contains(MARKERS));
            prop_assert_eq!(template::patch(&patched), PatchResult::AlreadyPatched);
        }
        Ok(())
    });
}
