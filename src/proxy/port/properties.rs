//! Properties of the firewall's rules: what is set is read back and deleted, and no listing makes the adapter panic.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use proptest::sample::select;

use super::firewall::{Firewall, Forward, Listings};
use super::*;
use crate::fuzz::{corpus, damaged, holds, same};
use crate::model::FlagLayers;
use crate::proxy::haproxy::properties::interrogate;

const OWNER: &str = "compose-zd p/app";

fn firewall() -> Firewall {
    Firewall { v4: "iptables".into(), v6: Some("ip6tables".into()) }
}

fn stand_in(port: u16) -> Endpoint {
    let at = |ip: IpAddr| (3000, SocketAddr::new(ip, port));
    let published = vec![at([0, 0, 0, 0].into()), at([0; 8].into())];
    Endpoint { id: "0123456789abcdef".into(), published, ..Endpoint::default() }
}

/// The listing after these changes.
fn changed(listing: &str, program: &str, changes: &[Change]) -> String {
    let mut lines: Vec<String> = listing.lines().map(String::from).collect();
    for change in changes {
        let Action::Host(words) = &change.action else { continue };
        if words[0] != program {
            continue;
        }
        if words[5] == "-I" {
            let rule = shlex::try_join(words[6..].iter().map(String::as_str)).expect("words");
            lines.insert(0, format!("-A {rule}"));
        } else {
            let words = &words[6..];
            lines.retain(|l| l.strip_prefix("-A ").and_then(shlex::split).as_deref() != Some(words));
        }
    }
    lines.join("\n")
}

#[test]
fn rules_that_were_set_are_read_back_and_deleted() {
    let ips = select(&[None, Some("127.0.0.1"), Some("192.0.2.2"), Some("::1")][..]);
    let inputs = (select(corpus("port-rules")), prop::collection::vec((ips, 1u16..), 1..4), 1u16..);
    holds(inputs, |(engine, ports, port)| {
        let forward = |(ip, published): &(Option<&str>, u16)| Forward {
            ip: ip.map(|ip| ip.parse().expect("an address")),
            published: *published,
            target: 3000,
        };
        let forwards: Vec<Forward> = ports.iter().map(forward).collect();
        let (firewall, to) = (firewall(), stand_in(port));
        let changes =
            |[v4, v6]: &[String; 2], to| firewall.changes(&Listings { v4, v6 }, (OWNER, &forwards), to);
        let after = |listings: &[String; 2], changes: &[Change]| {
            [changed(&listings[0], "iptables", changes), changed(&listings[1], "ip6tables", changes)]
        };
        let start = [engine.trim_end().to_string(), engine.trim_end().to_string()];
        let set = after(&start, &changes(&start, Some(&to)));
        let read = Listings { v4: &set[0], v6: &set[1] };
        prop_assert!(firewall.leads_to(&read, &forwards, OWNER, &to));
        same(&changes(&set, Some(&to)), &Vec::new())?;
        same(&after(&set, &changes(&set, None)), &start)
    });
}

#[test]
fn no_listing_makes_the_adapter_panic() {
    let yaml =
        "name: p\nservices: {app: {image: a, ports: [{target: 3000, published: '8080', protocol: tcp}]}}";
    let project = Project::read(yaml, "compose.yaml", &FlagLayers::default()).expect("a project");
    let proxy = PublishedPort::new(&project, &project.services["app"], Ok(firewall()));
    holds((damaged(corpus("port-rules")), any::<u8>()), |(listing, bits)| {
        interrogate(&proxy, &listing, bits);
        let (forwards, to) = (forwards(&project.services["app"]), stand_in(32768));
        let listings = Listings { v4: &listing, v6: &listing };
        firewall().changes(&listings, (OWNER, &forwards), Some(&to));
        firewall().deletions(&listings, OWNER);
        Ok(())
    });
}
