//! Properties of the adapter: its parsers read back generated input, and no input makes them panic.

use proptest::prelude::*;
use proptest::sample::select;
use serde_yaml::{Mapping, Value};

use super::*;
use crate::fuzz::{corpus, damaged, holds, kernel_address, same};
use crate::proxy::haproxy::properties::{ADDRESSES, endpoints, interrogate, rotation};

fn container(args: &[String]) -> Container {
    let json = r#"{"Id": "t", "Name": "/t", "NetworkSettings": {"Networks": {"front": {}}}}"#;
    let mut container: Container = serde_json::from_str(json).expect("a container");
    container.args = args.to_vec();
    container
}

fn traefik() -> Traefik {
    let flags = "--providers.docker --providers.file.directory=/d --entrypoints.web.address=:80";
    let mut traefik = Traefik::new(&container(&flags.split(' ').map(String::from).collect::<Vec<_>>()));
    traefik.learn(&CommandResult { stdout: "@tool wget\n".into(), ..CommandResult::default() });
    traefik
}

fn labels_of(text: &str) -> Labels {
    text.lines().filter_map(|l| l.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect()
}

#[test]
fn no_output_makes_the_adapter_panic() {
    holds((damaged(corpus("traefik-answer")), any::<u8>()), |(text, bits)| {
        interrogate(&traefik(), &text, bits);
        Ok(())
    });
}

#[test]
fn no_configuration_makes_the_adapter_panic() {
    let inputs = (damaged(corpus("traefik-config")), select(&["t.yaml", "t.toml"][..]), any::<u8>());
    holds(inputs, |(text, name, bits)| {
        let mut traefik = traefik();
        traefik.learn(&CommandResult {
            stdout: format!("@tool nc\n@file {name}\n{text}"),
            ..CommandResult::default()
        });
        let _ = traefik.check(&[]);
        interrogate(&traefik, "@now 5.1\n@served \n@end", bits);
        let flags: Vec<String> = text.split_whitespace().map(|w| format!("--{w}")).collect();
        interrogate(&Traefik::new(&container(&flags)), "@end", bits);
        Ok(())
    });
}

#[test]
fn a_deeply_nested_file_makes_nothing_overflow() {
    for (name, text) in [("t.toml", "a = "), ("t.yml", "a: "), ("t.yml", "")] {
        for opening in ["[", "{a: ", "{ a = ", "- "] {
            let text = format!("{text}{}", opening.repeat(2_000));
            let config = TraefikStaticConfig::read(&container(&[]), Some((name, &text)));
            assert_eq!(config.get("a"), None, "{name}: {opening}");
        }
    }
}

#[test]
fn no_label_makes_the_adapter_panic() {
    holds((damaged(corpus("traefik-labels")), any::<u8>()), |(text, bits)| {
        let labels = labels_of(&text);
        let mut rotation = rotation(bits);
        rotation.inside.iter_mut().for_each(|e| e.labels = labels.clone());
        let traefik = traefik();
        let output = CommandResult { stdout: "@end".into(), ..CommandResult::default() };
        if let Some(file) = traefik.route(&output, &rotation).and_then(|exec| exec.stdin) {
            prop_assert!(serde_yaml::from_str::<Value>(&file).is_ok(), "{file}");
            prop_assert!(override_file::token(&file).is_some(), "{file}");
        }
        let mut container = container(&[]);
        container.config.labels = labels.clone();
        let _ = (
            traefik.route_to(&Backend::from(&container)).port,
            traefik.route_to(&Backend::from(&container)).host,
        );
        let _ = traefik.check(&[Backend { labels: labels.clone(), ..Backend::default() }]);
        labels::conflict(&labels, &Labels::new());
        constraints::matches(&text, &labels);
        labels::default_rule(&text, &labels);
        for line in text.lines() {
            let _ = (constraints::matches(line, &labels), override_file::server_address(line));
        }
        Ok(())
    });
}

/// A constraint expression.
#[derive(Debug, Clone)]
enum Expression {
    Label(&'static str, &'static str),
    Regex,
    Not(Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
}

fn expression() -> impl Strategy<Value = Expression> {
    let leaf = prop_oneof![
        3 => (select(&["a", "b", "c"][..]), select(&["1", "2", ""][..])).prop_map(|(k, v)| Expression::Label(k, v)),
        1 => Just(Expression::Regex),
    ];
    leaf.prop_recursive(5, 24, 2, |inner| {
        prop_oneof![
            inner.clone().prop_map(|e| Expression::Not(e.into())),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| Expression::And(a.into(), b.into())),
            (inner.clone(), inner).prop_map(|(a, b)| Expression::Or(a.into(), b.into())),
        ]
    })
}

impl Expression {
    fn print(&self) -> String {
        match self {
            Expression::Label(key, value) => format!("Label(`{key}`, \"{value}\")"),
            Expression::Regex => "LabelRegex(`a`,`.*`)".into(),
            Expression::Not(e) => format!("!({})", e.print()),
            Expression::And(a, b) => format!("({})&&({})", a.print(), b.print()),
            Expression::Or(a, b) => format!("( {} ) || ( {} )", a.print(), b.print()),
        }
    }

    /// Value of the expression, where a regex has the value `unknown`.
    fn value(&self, unknown: bool) -> bool {
        match self {
            Expression::Label(key, value) => (if *key == "a" { "1" } else { "" }) == *value,
            Expression::Regex => unknown,
            Expression::Not(e) => !e.value(unknown),
            Expression::And(a, b) => a.value(unknown) && b.value(unknown),
            Expression::Or(a, b) => a.value(unknown) || b.value(unknown),
        }
    }
}

/// The value of a constraint does not depend on its unknown parts.
#[test]
fn a_constraint_has_the_value_of_its_expression() {
    holds(expression(), |expression| {
        let labels: Labels = [("a".to_string(), "1".to_string())].into();
        match constraints::matches(&expression.print(), &labels) {
            Some(value) => same(&(expression.value(true), expression.value(false)), &(value, value)),
            None => {
                prop_assert!(expression.print().contains("LabelRegex"), "{}", expression.print());
                Ok(())
            }
        }
    });
}

/// The connections have any address, in the format of /proc/net/tcp and tcp6.
#[test]
fn connections_are_counted_by_address() {
    let connection = (select(&ADDRESSES[..]), any::<bool>(), 1u16..);
    holds(prop::collection::vec(connection, 0..12), |connections| {
        let line = |(n, (address, mapped, port)): (usize, &(&str, bool, u16))| {
            let remote = kernel_address(address.parse().expect("an address"), *mapped);
            let local = kernel_address("172.19.0.5".parse().expect("an address"), *mapped);
            format!(
                "  {n}: {local}:{:04X} {remote}:{port:04X} 01 00000000:00000000 02:00000B45 00000000 0 0 {n} 2\n",
                40_000 + n
            )
        };
        let lines: String = connections.iter().enumerate().map(line).collect();
        let state = TraefikState::parse(&format!("@served \n@now 9.5\n@connections\n{lines}@end\n"))
            .expect("a state");
        for endpoint in endpoints() {
            let own =
                connections.iter().filter(|(a, ..)| endpoint.addresses.contains(&a.parse().expect("one")));
            let expected = InFlight::AtMost { exact: 0, open: own.count(), quiet: Duration::ZERO };
            same(&state.in_flight(&endpoint, Duration::from_secs(90)), &expected)?;
        }
        Ok(())
    });
}

/// The servers of a file are those for which it was written.
#[test]
fn the_servers_of_a_file_are_those_inside() {
    holds(any::<u8>(), |bits| {
        let mut rotation = rotation(bits);
        for endpoint in rotation.inside.iter_mut().chain(&mut rotation.outside) {
            endpoint.labels = labels_of(&corpus("traefik-labels").concat());
        }
        let output = CommandResult { stdout: "@end".into(), ..CommandResult::default() };
        let file = traefik().route(&output, &rotation).and_then(|e| e.stdin).expect("a file");
        let inside: BTreeSet<IpAddr> = rotation.inside.iter().flat_map(|e| e.addresses.clone()).collect();
        same(&override_file::servers(&file), &inside)
    });
}

#[test]
fn a_server_address_is_parsed_with_and_without_a_port() {
    let inputs = (select(&ADDRESSES[..]), prop::option::of(any::<u16>()), select(&["", "/", "/x:1"][..]));
    holds(inputs, |(address, port, path)| {
        let address: IpAddr = address.parse().expect("an address");
        let host = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
        let port = port.map(|p| format!(":{p}")).unwrap_or_default();
        same(&override_file::server_address(&format!("https://{host}{port}{path}")), &Some(address))
    });
}

/// The same keys and values, in the syntax of each source.
#[test]
fn flags_variables_and_files_give_the_same_configuration() {
    let keys = [
        "entrypoints.web.address",
        "entrypoints.web.http.tls.certresolver",
        "providers.docker.exposedbydefault",
        "providers.file.directory",
        "providers.file.watch",
        "api.insecure",
        "api.basepath",
        "ping",
        "serverstransport.forwardingtimeouts.idleconntimeout",
        "providers.providersthrottleduration",
    ];
    let value = select(
        &["true", "false", ":80", ":443/tcp", "/d/", "500ms", "1m30.5s", "7", "a b", "x=y", "1e3"][..],
    );
    holds(prop::collection::btree_map(select(keys.to_vec()), value, 1..6), |pairs| {
        let flags: Vec<String> = pairs.iter().map(|(k, v)| format!("--{k}={v}")).collect();
        let mut by_environment = container(&[]);
        by_environment.config.env = pairs
            .iter()
            .map(|(k, v)| format!("TRAEFIK_{}={v}", k.replace('.', "_").to_uppercase()))
            .collect();
        let mut tree = Mapping::new();
        for (key, value) in &pairs {
            labels::insert(&mut tree, &key.split('.').collect::<Vec<_>>(), value);
        }
        let yaml = serde_yaml::to_string(&tree).expect("YAML");
        let toml = toml_of(&tree);
        let configs = [
            TraefikStaticConfig::read(&container(&flags), None),
            TraefikStaticConfig::read(&by_environment, None),
            TraefikStaticConfig::read(&container(&[]), Some(("t.yml", &yaml))),
            TraefikStaticConfig::read(&container(&[]), Some(("t.toml", &toml))),
        ];
        for config in &configs {
            for (key, value) in &pairs {
                same(&config.get(key), &Some(*value))?;
            }
            let values = |s: &TraefikStaticConfig| {
                (
                    s.entry_points(),
                    s.directory().map(String::from),
                    s.insecure_api(),
                    s.idle_timeout(),
                    s.throttle(),
                )
            };
            same(&values(config), &values(&configs[0]))?;
        }
        Ok(())
    });
}

/// TOML text of a tree, with inline tables.
fn toml_of(tree: &Mapping) -> String {
    fn inline(value: &Value) -> String {
        match value {
            Value::Mapping(map) => {
                let entries =
                    map.iter().map(|(k, v)| format!("{} = {}", k.as_str().expect("a name"), inline(v)));
                format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
            }
            other => format!("{:?}", other.as_str().expect("a text")),
        }
    }
    tree.iter().map(|(k, v)| format!("{} = {}\n", k.as_str().expect("a name"), inline(v))).collect()
}
