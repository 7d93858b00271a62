//! Containers read the same from every engine version, whatever the API left out, renamed or added over the years.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::*;
use crate::docker::types::parse;
use crate::fuzz::{corpus, damaged_json, holds, same};

/// Output of `docker inspect`, reduced, of containers and images on engine 20 (API 1.41) to 29.3 (API 1.54).
fn containers() -> Vec<Container> {
    let read = |sample: &String| parse::<Vec<Container>>(sample.as_bytes()).expect("an answer");
    corpus("inspect-container").iter().flat_map(read).collect()
}

fn all_addresses(container: &Container) -> Vec<IpAddr> {
    container.addresses_with_bridge().map(|(_, address)| address).collect()
}

#[test]
fn a_container_reads_the_same_from_every_engine() {
    let all = containers();
    assert_eq!(all.len(), 9);
    for parsed in all {
        let id = "4f1d0c3a5b7e9f2d4c6a8b0e1f3d5c7a9b2e4f6d8c0a1b3e5d7f9c2a4b6e8d01";
        assert_eq!((parsed.id.as_str(), parsed.name()), (id, "p-app-1"));
        let names = ["4f1d0c3a5b7e", "app", "p-app-1", "web.internal"];
        let by_network = names.map(|name| format!("{name}.p_default"));
        let all = names
            .iter()
            .map(ToString::to_string)
            .chain(by_network)
            .collect::<std::collections::BTreeSet<_>>();
        assert_eq!(parsed.names(), all.into_iter().collect::<Vec<_>>());
        assert_eq!(
            parsed.image_id,
            "sha256:51337966e97109a4b0ab5f4d2f0e5ad0a5ba4d5fd1f1a8b6bb3d4c4bb9a1c0de"
        );
        let addresses = ["172.19.0.5", "fd00::5"].map(|a| a.parse::<IpAddr>().unwrap());
        assert_eq!(all_addresses(&parsed), addresses);
        assert_eq!(parsed.networks().collect::<Vec<_>>(), ["p_default"]);
        assert_eq!((parsed.compose(), parsed.label(CONFIG_HASH)), (Some(("p", "app")), Some("c0ffee")));
        assert!(parsed.is_running() && !parsed.is_unhealthy() && parsed.restart_count == 0);
        assert_eq!((parsed.exposed_tcp(), parsed.healthcheck()), (vec![3000], Some(vec!["ok".into()])));
        assert_eq!(parsed.config.healthcheck.as_ref().unwrap().limit(), Duration::from_secs(2));
        assert_eq!((parsed.env("VIRTUAL_HOST"), parsed.config.image.as_str()), (Some("a.test"), "app:1"));
    }
}

#[test]
fn an_image_reads_the_same_from_every_engine_and_store() {
    let all = corpus("inspect-image");
    assert_eq!(all.len(), 9);
    for parsed in all.iter().flat_map(|s| parse::<Vec<Image>>(s.as_bytes()).expect("an answer")) {
        assert_eq!(parsed.id, "sha256:51337966e97109a4b0ab5f4d2f0e5ad0a5ba4d5fd1f1a8b6bb3d4c4bb9a1c0de");
        assert_eq!(parsed.repo_digests, ["registry.test/app@sha256:77"]);
        assert!(parsed.is_named("app:1") && parsed.has_healthcheck());
        assert_eq!(parsed.config.volumes.keys().collect::<Vec<_>>(), ["/data"]);
        assert!(parsed.config.labels.is_empty() && parsed.config.exposed_ports.contains_key("3000/tcp"));
    }
}

/// IPv4 address, last number of the IPv6 address, and aliases.
type OnNetwork = (Option<[u8; 4]>, Option<u16>, Vec<&'static str>);

/// The true state of a container, from which each engine's output is generated.
#[derive(Debug, Clone)]
struct Truth {
    networks: BTreeMap<String, OnNetwork>,
    status: &'static str,
    health: Option<&'static str>,
    code: i32,
    restarts: u32,
    labels: BTreeMap<String, String>,
    env: Vec<String>,
    ports: BTreeMap<u16, &'static str>,
    test: Option<Vec<String>>,
}

fn truth() -> impl Strategy<Value = Truth> {
    let network = (
        prop::option::of(any::<[u8; 4]>()),
        prop::option::of(1u16..),
        prop::collection::vec(select(&["app", "web", "p-app-1", "a.b"][..]), 0..3),
    );
    let state = (
        select(&["created", "running", "paused", "restarting", "removing", "exited", "dead"][..]),
        prop::option::of(select(&["starting", "healthy", "unhealthy", "none"][..])),
        0i32..256,
        0u32..9,
    );
    let text = "[a-zA-Z0-9 =$\"'\\\\é]{0,8}";
    let test = prop::collection::vec(select(&["CMD", "CMD-SHELL", "NONE", "true"][..]), 0..3);
    (
        prop::collection::btree_map("[a-z_]{1,5}", network, 0..4),
        state,
        prop::collection::btree_map("[a-z.]{1,6}", text, 0..4),
        prop::collection::vec("[A-C]=[a-z=]{0,3}", 0..4),
        prop::collection::btree_map(1u16.., select(&["tcp", "udp", "sctp"][..]), 0..4),
        prop::option::of(test),
    )
        .prop_map(|(networks, (status, health, code, restarts), labels, env, ports, test)| Truth {
            networks,
            status,
            health,
            code,
            restarts,
            labels,
            env,
            ports,
            test: test.map(|words| words.into_iter().map(String::from).collect()),
        })
}

const ID: &str = "4f1d0c3a5b7e9f2d4c6a8b0e1f3d5c7a9b2e4f6d8c0a1b3e5d7f9c2a4b6e8d01";

/// Docker writes `null`, an empty list or nothing for an empty value, depending on the engine.
fn or_empty(value: Value, api: u32) -> Value {
    let empty =
        value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(|m| m.is_empty());
    if empty && api % 2 == 1 { Value::Null } else { value }
}

fn network(endpoint: &OnNetwork, api: u32) -> Value {
    let (four, six, aliases) = endpoint;
    let four = four.map_or(String::new(), |ip| std::net::Ipv4Addr::from(ip).to_string());
    let six = six.map_or(String::new(), |n| format!("fd00::{n:x}"));
    let mut aliases_with_id: Vec<&str> = aliases.clone();
    aliases_with_id.extend((api < 45).then_some(&ID[..12]));
    let mut network = json!({"IPAMConfig": null, "Links": null, "Aliases": or_empty(json!(aliases_with_id), api), "NetworkID": "n",
        "IPAddress": four, "IPPrefixLen": 16, "GlobalIPv6Address": six, "DriverOpts": null});
    if api >= 44 {
        let names: Vec<&str> = aliases.iter().copied().chain(["p-app-1", &ID[..12]]).collect();
        network["DNSNames"] = json!(names);
    }
    network
}

fn engine_output(truth: &Truth, api: u32) -> Value {
    let networks: BTreeMap<&String, Value> =
        truth.networks.iter().map(|(name, endpoint)| (name, network(endpoint, api))).collect();
    let ports: BTreeMap<String, Value> =
        truth.ports.iter().map(|(port, protocol)| (format!("{port}/{protocol}"), json!({}))).collect();
    let mut state = json!({"Status": truth.status, "Running": true, "OOMKilled": false, "ExitCode": truth.code, "Error": ""});
    if let Some(status) = truth.health {
        state["Health"] = json!({"Status": status, "FailingStreak": 0, "Log": null});
    }
    let mut config = json!({"Image": "app:1", "Env": or_empty(json!(truth.env), api),
        "Labels": or_empty(json!(truth.labels), api), "ExposedPorts": or_empty(json!(ports), api)});
    if let Some(test) = &truth.test {
        config["Healthcheck"] = json!({"Test": or_empty(json!(test), api)});
    }
    let mut settings = json!({"Ports": {}, "Networks": or_empty(json!(networks), api)});
    if api < 52 {
        settings["IPAddress"] = json!("9.9.9.9");
        settings["GlobalIPv6Address"] = json!("9::9");
        settings["SecondaryIPAddresses"] = Value::Null;
    }
    json!([{"Id": ID, "Name": "/p-app-1", "Image": "sha256:i", "Path": "app", "Args": or_empty(json!([]), api),
        "RestartCount": truth.restarts, "State": state, "Config": config, "NetworkSettings": settings}])
}

fn addresses_of(truth: &Truth) -> Vec<IpAddr> {
    let of = |(four, six, _): &OnNetwork| {
        let six = six.map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n]));
        four.map(IpAddr::from).into_iter().chain(six).collect::<Vec<_>>()
    };
    truth.networks.values().flat_map(of).collect()
}

#[test]
fn a_container_is_read_as_the_engine_reports_it() {
    holds((truth(), 41u32..57), |(truth, api)| {
        let read: Vec<Container> =
            parse(engine_output(&truth, api).to_string().as_bytes()).expect("an answer");
        let read = &read[0];
        same(&all_addresses(read), &addresses_of(&truth))?;
        same(
            &read.networks().map(String::from).collect::<Vec<_>>(),
            &truth.networks.keys().cloned().collect(),
        )?;
        let aliases = truth.networks.values().flat_map(|(.., a)| a.iter().map(ToString::to_string));
        let mut names: Vec<String> = aliases.chain(["p-app-1".into()]).collect();
        names.extend((!truth.networks.is_empty()).then(|| ID[..12].to_string()));
        let by_network =
            truth.networks.keys().flat_map(|n| names.iter().map(move |name| format!("{name}.{n}")));
        names.extend(by_network.collect::<Vec<_>>());
        names.sort_unstable();
        names.dedup();
        same(&read.names(), &names)?;
        same(&read.config.labels, &truth.labels)?;
        same(&read.config.env, &truth.env)?;
        let tcp = truth.ports.iter().filter(|(_, p)| **p == "tcp").map(|(port, _)| *port);
        same(&read.exposed_tcp(), &tcp.collect())?;
        same(&(read.state.exit_code, read.restart_count), &(truth.code, truth.restarts))?;
        let runs = truth.status == "running";
        let checked = ["starting", "unhealthy"].map(Some).contains(&truth.health);
        same(&(read.is_running(), read.is_unhealthy()), &(runs, runs && checked))?;
        let argv = match truth.test.as_deref() {
            Some([kind, rest @ ..]) if kind == "CMD" => Some(rest.to_vec()),
            Some([kind, rest @ ..]) if kind == "CMD-SHELL" => {
                Some(vec!["/bin/sh".into(), "-c".into(), rest.join(" ")])
            }
            _ => None,
        };
        same(&read.healthcheck(), &argv)
    });
}

#[test]
fn no_output_of_an_engine_causes_a_panic() {
    holds(damaged_json([corpus("inspect-container"), corpus("inspect-image")].concat()), |json| {
        for container in parse::<Vec<Container>>(json.to_string().as_bytes()).unwrap_or_default() {
            let _ =
                (container.names(), all_addresses(&container), container.exposed_tcp(), container.compose());
            let _ = (container.healthcheck(), container.links().count(), container.env("A"));
            let _ = (container.addresses_reached_from(&container), container.is_unhealthy());
            crate::proxy::detect(std::slice::from_ref(&container));
        }
        for image in parse::<Vec<Image>>(json.to_string().as_bytes()).unwrap_or_default() {
            let _ = (image.has_healthcheck(), image.is_named("app"));
            let _ = image.config.healthcheck.as_ref().map(Healthcheck::limit);
        }
        Ok(())
    });
}
