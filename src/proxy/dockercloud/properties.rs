//! Properties of the parser: it reads back generated output of the script, and no output makes it panic.

use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::fuzz::{corpus, damaged, holds, kernel_address, same};
use crate::proxy::haproxy::properties::{ADDRESSES, endpoints, interrogate, printed, servers};

fn dockercloud() -> Dockercloud {
    let container = r#"{"Id": "lb", "Name": "/lb", "NetworkSettings": {"Networks": {"front": {}}}}"#;
    let mut dockercloud = Dockercloud::new(&serde_json::from_str(container).expect("a container"));
    dockercloud.learn(&CommandResult {
        stdout: "backend web\n server app1 app1:80 check\n".into(),
        ..CommandResult::default()
    });
    dockercloud
}

#[test]
fn connections_of_a_retired_haproxy_are_counted_by_address() {
    let remote = (select(&ADDRESSES[..]), any::<bool>());
    let inputs = (servers(), prop::collection::vec(remote, 0..10), prop::option::of(0u32..100_000));
    holds(inputs, |(servers, remotes, retired)| {
        let remotes: Vec<(IpAddr, bool)> =
            remotes.into_iter().map(|(a, mapped)| (a.parse().expect("an address"), mapped)).collect();
        let lines: String = remotes
            .iter()
            .map(|(a, mapped)| format!("@connection {}\n", kernel_address(*a, *mapped)))
            .collect();
        let age =
            retired.map(|cs| format!("@retired {}.{:02}0000\n", cs / 100, cs % 100)).unwrap_or_default();
        let text = format!("{}\n@manager T\n{age}{lines}", printed(&servers, 0));
        let state = DockercloudState::parse(&text).expect("a state");
        let quiet = retired.map(|cs| Duration::from_millis(u64::from(cs) * 10));
        for mut endpoint in endpoints() {
            endpoint.name = "app1".into();
            let exact: usize =
                servers.iter().filter(|s| s.name == "app1").map(|s| (s.current + s.waiting) as usize).sum();
            let open =
                remotes.iter().filter(|(a, _)| endpoint.addresses.contains(a)).count().saturating_sub(exact);
            let expected = match quiet {
                Some(quiet) if open > 0 => InFlight::AtMost { exact, open, quiet },
                _ => InFlight::Exact(exact),
            };
            same(&state.in_flight(&endpoint), &expected)?;
        }
        Ok(())
    });
}

#[test]
fn no_output_makes_the_adapter_panic() {
    holds((damaged(corpus("dockercloud-answer")), any::<u8>()), |(text, bits)| {
        interrogate(&dockercloud(), &text, bits);
        Ok(())
    });
}
